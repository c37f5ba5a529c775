//! Small things that several targets need: pieces of an input, checksums put right, random numbers.

use crc32c::{crc32c, crc32c_append};

/// The length of an entry's header (docs/wal-format.md).
pub(crate) const ENTRY_HEADER: usize = 48;

/// What is left of an input. Whoever asks for more than there is gets less.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        head
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Writes `part` at `at`, as far as it fits.
pub(crate) fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    if let Some(to) = bytes.get_mut(at..) {
        let n = part.len().min(to.len());
        to[..n].copy_from_slice(&part[..n]);
    }
}

/// Writes the checksum of `from..to` at `at`, if all of it is there.
pub(crate) fn put_checksum(bytes: &mut [u8], at: usize, from: usize, to: usize) {
    if from <= to
        && let Some(covered) = bytes.get(from..to)
    {
        let crc = crc32c(covered).to_le_bytes();
        put(bytes, at, &crc);
    }
}

/// Makes entries of these bytes: the body of an entry ends where the bytes do, at the latest, and
/// the checksums fit. What is left and too short for one stays.
pub(crate) fn mend_entries(bytes: &mut [u8], count_max: usize) {
    let mut at = 0;
    for _ in 0..count_max {
        let Some(body) = u32_at(bytes, at + 4) else { return };
        if bytes.len() - at < ENTRY_HEADER {
            return;
        }
        let end = (at + ENTRY_HEADER).saturating_add(body as usize).min(bytes.len());
        let length = u32::try_from(end - at - ENTRY_HEADER).expect("inputs are short");
        put(bytes, at + 4, &length.to_le_bytes());
        put_checksum(bytes, at, at + 4, end);
        at = end;
    }
}

/// The length of the head of a frame between nodes (docs/protocol.md).
const LINK_HEAD: usize = 16;

/// One frame between nodes, whole: its checksum and lengths fit.
pub(crate) fn link_frame(kind: u8, message: &[u8], entries: &[u8]) -> Vec<u8> {
    let length = |part: &[u8]| u32::try_from(part.len()).expect("inputs are short").to_le_bytes();
    let front = [0x43, 0x54, 1, kind];
    let rest = [&length(message)[..], &length(entries), message].concat();
    let crc = crc32c_append(crc32c(&front), &rest);
    [&front[..], &crc.to_le_bytes(), &rest, entries].concat()
}

/// The bytes of a connection. An input is a list of frames: kind, length of the message, length of
/// the entries, then both; checksums and the lengths of entries are put right unless the kind's
/// highest bit is set. An input that begins with `!` is taken as it is.
pub(crate) fn link_stream(input: &[u8]) -> Vec<u8> {
    if let Some(raw) = input.strip_prefix(b"!") {
        return raw.to_vec();
    }
    let mut input = Input(input);
    let mut stream = Vec::new();
    while !input.is_empty() {
        let (kind, message, entries) = (input.u8(), input.u16(), input.u16());
        let message = input.take(message.into());
        let mut entries = input.take(entries.into()).to_vec();
        if kind < 0x80 {
            mend_entries(&mut entries, usize::MAX);
        }
        stream.extend(link_frame(kind & 0x7f, message, &entries));
    }
    stream
}

/// The input that [`link_stream`] makes these frames of.
pub(crate) fn link_input(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut input = Vec::new();
    for frame in frames {
        let length = |at| u32_at(frame, at).expect("a frame has a head") as usize;
        let (message, entries) = (length(8), length(12));
        let short = |n: usize| u16::try_from(n).expect("seeds are short").to_le_bytes();
        input.push(frame[3]);
        input.extend(short(message));
        input.extend(short(entries));
        input.extend(&frame[LINK_HEAD..]);
    }
    input
}

/// SplitMix64: bytes that are like nothing in particular.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}
