//! The bytes of a segment: its header, frames and identifiers. See docs/wal-format.md.

use bytes::{Buf, BufMut};

use crate::entry::EntryHeader;

/// The length of a segment's header, and where its first frame begins.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 4096;
/// The length of a frame's header.
pub(crate) const FRAME_HEADER_BYTES: usize = 64;
/// Where a segment's seal stands: in another sector than the header, which one write cannot harm.
pub(crate) const SEAL_OFFSET: u64 = 512;
/// The length of a seal.
pub(crate) const SEAL_BYTES: usize = 32;
/// The length of an identifier.
pub(crate) const ID_BYTES: usize = 48;
/// The version of the format that this program writes, and the highest that it reads.
pub(crate) const VERSION: u8 = 1;
const SEGMENT_MAGIC: &[u8; 7] = b"TCTWAL\n";
const FRAME_MAGIC: u32 = 0x4d52_4654;
const SEAL_MAGIC: u32 = 0x4c41_4553;
const ID_FRAME: u8 = 1;
const ID_ENTRY: u8 = 2;

/// Term and vote: what a node must never forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term that the node has seen.
    pub term: u64,
    /// The slot that got its vote in that term, from 1.
    pub vote: Option<u8>,
}

/// What stands at the head of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u16,
    pub(crate) number: u32,
    /// The length of the file: a shorter one has lost its end.
    pub(crate) bytes: u64,
    /// The sequence number of its first frame.
    pub(crate) first_frame: u64,
    /// The last index of the log before it.
    pub(crate) last_index: u64,
    pub(crate) hard_state: HardState,
}

/// Says that a segment is complete and that the log goes on in the next one. It is durable before
/// the next segment's first frame is written: a log whose newest file is gone is noticed by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seal {
    /// The segment that it stands in.
    pub(crate) segment: u32,
    pub(crate) log_id: u16,
    /// The sequence number of the next segment's first frame.
    pub(crate) next_frame: u64,
    /// The last index of the log up to here.
    pub(crate) last_index: u64,
}

/// What stands before the entries of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameHeader {
    /// Counts the frames of a log.
    pub(crate) seq: u64,
    pub(crate) segment: u32,
    pub(crate) log_id: u16,
    pub(crate) hard_state: HardState,
    /// Cut the log from this index on, before the entries are appended.
    pub(crate) truncate_from: Option<u64>,
    /// The index of the first entry.
    pub(crate) first_index: u64,
    pub(crate) entry_count: u32,
    pub(crate) body_bytes: u32,
}

/// A small copy of what matters, away from the frame, written under the same sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Identifier {
    /// Of a frame: all that its header says, so that a damaged header can be written again.
    Frame(FrameId),
    /// Of an entry: so much of its header that the entry can be fetched from a peer and told from
    /// any other, and that the log can go on without its bytes until then.
    Entry(EntryId),
}

/// See [`Identifier::Frame`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameId {
    pub(crate) seq: u64,
    pub(crate) offset: u32,
    pub(crate) hard_state: HardState,
    pub(crate) truncate_from: Option<u64>,
    pub(crate) first_index: u64,
    pub(crate) body_bytes: u32,
}

/// See [`Identifier::Entry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EntryId {
    pub(crate) offset: u32,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) first_seq: u64,
    pub(crate) record_count: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) body_bytes: u32,
    pub(crate) crc: u32,
}

impl FrameId {
    /// The identifier of a frame that stands at `offset`.
    pub(crate) const fn of(header: &FrameHeader, offset: u32) -> Self {
        Self {
            seq: header.seq,
            offset,
            hard_state: header.hard_state,
            truncate_from: header.truncate_from,
            first_index: header.first_index,
            body_bytes: header.body_bytes,
        }
    }

    /// The frame's header; how many entries there are is for the caller to find out.
    pub(crate) const fn header(&self, segment: u32, log_id: u16, entry_count: u32) -> FrameHeader {
        FrameHeader {
            seq: self.seq,
            segment,
            log_id,
            hard_state: self.hard_state,
            truncate_from: self.truncate_from,
            first_index: self.first_index,
            entry_count,
            body_bytes: self.body_bytes,
        }
    }
}

impl EntryId {
    /// The identifier of an entry that stands at `offset`.
    pub(crate) const fn of(header: &EntryHeader, offset: u32) -> Self {
        Self {
            offset,
            term: header.term,
            index: header.index,
            first_seq: header.first_seq,
            record_count: header.record_count,
            kind: header.kind,
            flags: header.flags,
            body_bytes: header.body_bytes,
            crc: header.crc,
        }
    }

    /// The entry's header, but for its log time.
    pub(crate) const fn header(&self, log_id: u16) -> EntryHeader {
        EntryHeader {
            term: self.term,
            index: self.index,
            first_seq: self.first_seq,
            record_count: self.record_count,
            kind: self.kind,
            flags: self.flags,
            log_id,
            time_ms: 0,
            body_bytes: self.body_bytes,
            crc: self.crc,
        }
    }
}

/// Why a segment's header is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderError {
    NotOne,
    Newer(u8),
}

fn vote_byte(vote: Option<u8>) -> u8 {
    vote.unwrap_or(0)
}

fn vote_of(byte: u8) -> Option<u8> {
    (byte != 0).then_some(byte)
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.put_slice(SEGMENT_MAGIC);
        out.put_u8(VERSION);
        out.put_u32_le(0);
        out.put_u32_le(self.number);
        out.put_u64_le(self.first_frame);
        out.put_u64_le(self.last_index);
        out.put_u64_le(self.hard_state.term);
        out.put_u16_le(self.log_id);
        out.put_u8(vote_byte(self.hard_state.vote));
        out.put_u8(0);
        out.put_u64_le(self.bytes);
        out.put_bytes(0, 12);
        let crc = Self::checksum(&out);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Covers everything but itself. This, the magic and the version stand at the same place in
    /// every version of the format, so that an older program tells a newer log from a damaged one.
    fn checksum(bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..8]), &bytes[12..64])
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = bytes.get(..64).filter(|bytes| &bytes[..7] == SEGMENT_MAGIC) else {
            return Err(HeaderError::NotOne);
        };
        let mut rest = &bytes[7..];
        let version = rest.get_u8();
        let crc = rest.get_u32_le();
        if Self::checksum(bytes) != crc || version == 0 {
            return Err(HeaderError::NotOne);
        }
        if version > VERSION {
            return Err(HeaderError::Newer(version));
        }
        let number = rest.get_u32_le();
        let first_frame = rest.get_u64_le();
        let last_index = rest.get_u64_le();
        let term = rest.get_u64_le();
        let log_id = rest.get_u16_le();
        let vote = vote_of(rest.get_u8());
        rest.advance(1);
        let bytes = rest.get_u64_le();
        let hard_state = HardState { term, vote };
        Ok(Self { log_id, number, bytes, first_frame, last_index, hard_state })
    }
}

impl Seal {
    pub(crate) fn encode(&self) -> [u8; SEAL_BYTES] {
        let mut out = [0; SEAL_BYTES];
        let mut to = &mut out[..];
        to.put_u32_le(0);
        to.put_u32_le(SEAL_MAGIC);
        to.put_u32_le(self.segment);
        to.put_u16_le(self.log_id);
        to.put_u16_le(0);
        to.put_u64_le(self.next_frame);
        to.put_u64_le(self.last_index);
        let crc = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What stands in a segment's bytes where its seal belongs; all zeros if it is not sealed.
    pub(crate) fn found(segment: &[u8]) -> [u8; SEAL_BYTES] {
        let start = usize::try_from(SEAL_OFFSET).expect("512");
        let found = segment.get(start..start + SEAL_BYTES).unwrap_or(&[0; SEAL_BYTES]);
        found.try_into().expect("as many bytes as were asked for")
    }
}

impl FrameHeader {
    pub(crate) fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        let mut to = &mut out[..];
        to.put_u32_le(FRAME_MAGIC);
        to.put_u32_le(0);
        to.put_u64_le(self.seq);
        to.put_u32_le(self.segment);
        to.put_u16_le(self.log_id);
        to.put_u8(vote_byte(self.hard_state.vote));
        to.put_u8(u8::from(self.truncate_from.is_some()));
        to.put_u64_le(self.hard_state.term);
        to.put_u64_le(self.truncate_from.unwrap_or(0));
        to.put_u64_le(self.first_index);
        to.put_u32_le(self.entry_count);
        to.put_u32_le(self.body_bytes);
        let crc = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(..FRAME_HEADER_BYTES)?;
        if rest.get_u32_le() != FRAME_MAGIC
            || rest.get_u32_le() != crc32c::crc32c(&bytes[8..FRAME_HEADER_BYTES])
        {
            return None;
        }
        let seq = rest.get_u64_le();
        let segment = rest.get_u32_le();
        let log_id = rest.get_u16_le();
        let vote = vote_of(rest.get_u8());
        let truncates = rest.get_u8() == 1;
        let term = rest.get_u64_le();
        let truncate_from = rest.get_u64_le();
        Some(Self {
            seq,
            segment,
            log_id,
            hard_state: HardState { term, vote },
            truncate_from: truncates.then_some(truncate_from),
            first_index: rest.get_u64_le(),
            entry_count: rest.get_u32_le(),
            body_bytes: rest.get_u32_le(),
        })
    }

    /// How much of the segment the frame takes: header, entries, and up to the next multiple of 8.
    pub(crate) const fn space(&self) -> u64 {
        frame_space(self.body_bytes as u64)
    }
}

pub(crate) const fn frame_space(body_bytes: u64) -> u64 {
    (FRAME_HEADER_BYTES as u64 + body_bytes).next_multiple_of(8)
}

impl Identifier {
    pub(crate) fn encode(&self) -> [u8; ID_BYTES] {
        let mut out = [0; ID_BYTES];
        let mut to = &mut out[..];
        to.put_u32_le(0);
        match self {
            Self::Frame(id) => {
                to.put_u8(ID_FRAME);
                to.put_u8(vote_byte(id.hard_state.vote));
                to.put_u8(u8::from(id.truncate_from.is_some()));
                to.put_u8(0);
                to.put_u64_le(id.hard_state.term);
                to.put_u64_le(id.seq);
                to.put_u64_le(id.truncate_from.unwrap_or(0));
                to.put_u64_le(id.first_index);
                to.put_u32_le(id.offset);
                to.put_u32_le(id.body_bytes);
            }
            Self::Entry(id) => {
                to.put_u8(ID_ENTRY);
                to.put_u8(id.kind);
                to.put_u8(id.flags);
                to.put_u8(0);
                to.put_u64_le(id.term);
                to.put_u64_le(id.index);
                to.put_u64_le(id.first_seq);
                to.put_u32_le(id.offset);
                to.put_u32_le(id.crc);
                to.put_u32_le(id.record_count);
                to.put_u32_le(id.body_bytes);
            }
        }
        let crc = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..ID_BYTES)?;
        let mut rest = bytes;
        if rest.get_u32_le() != crc32c::crc32c(&bytes[4..]) {
            return None;
        }
        match rest.get_u8() {
            ID_FRAME => {
                let vote = vote_of(rest.get_u8());
                let cuts = rest.get_u8() == 1;
                rest.advance(1);
                let term = rest.get_u64_le();
                let seq = rest.get_u64_le();
                let truncate_from = rest.get_u64_le();
                Some(Self::Frame(FrameId {
                    seq,
                    hard_state: HardState { term, vote },
                    truncate_from: cuts.then_some(truncate_from),
                    first_index: rest.get_u64_le(),
                    offset: rest.get_u32_le(),
                    body_bytes: rest.get_u32_le(),
                }))
            }
            ID_ENTRY => {
                let kind = rest.get_u8();
                let flags = rest.get_u8();
                rest.advance(1);
                Some(Self::Entry(EntryId {
                    kind,
                    flags,
                    term: rest.get_u64_le(),
                    index: rest.get_u64_le(),
                    first_seq: rest.get_u64_le(),
                    offset: rest.get_u32_le(),
                    crc: rest.get_u32_le(),
                    record_count: rest.get_u32_le(),
                    body_bytes: rest.get_u32_le(),
                }))
            }
            _ => None,
        }
    }
}
