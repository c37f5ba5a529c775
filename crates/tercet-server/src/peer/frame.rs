//! Frames on a link between nodes: length-checked and checksummed.
//!
//! ```text
//! ┌─────────┬─────────┬──────────┬──────────┬─────────────┬──────────────┬─────────┬─────────┐
//! │ magic   │ version │ kind     │ crc      │ message     │ entries      │ message │ entries │
//! │ u16     │ u8      │ u8       │ u32      │ length u32  │ length u32   │         │         │
//! └─────────┴─────────┴──────────┴──────────┴─────────────┴──────────────┴─────────┴─────────┘
//!  0         2         3          4          8             12             16
//! ```
//! The checksum covers all but itself and the entries: those carry their own, made once by the
//! leader and verified on every hop and disk. A length never allocates: memory follows what has
//! arrived.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

pub(crate) const HEADER_BYTES: usize = 16;
const MAGIC: u16 = 0x5443;
/// The version of the framing; that of the messages is agreed upon by HELLO.
const FRAME_VERSION: u8 = 1;
/// The longest message part: metas of a batch of entries, at most.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The longest entries part: one batch, or one entry of the largest size.
const ENTRIES_BYTES_MAX: usize = 80 << 20;
/// How much is read at a time, and so the most memory that is taken before bytes are there.
const READ_BYTES: usize = 256 << 10;
/// Entries shorter than this are copied into the frame.
const COPIED_BYTES: usize = 4 << 10;
/// With less room than this in the memory that was taken, new is taken. What is left of it holds
/// the frames to come: entries that are kept share it.
const ROOM_BYTES: usize = 16 << 10;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Hello = 1,
    HelloReply = 2,
    Form = 3,
    Raft = 4,
    Forward = 5,
    ForwardReply = 6,
}

impl Kind {
    const fn from_u8(kind: u8) -> Option<Self> {
        match kind {
            1 => Some(Self::Hello),
            2 => Some(Self::HelloReply),
            3 => Some(Self::Form),
            4 => Some(Self::Raft),
            5 => Some(Self::Forward),
            6 => Some(Self::ForwardReply),
            _ => None,
        }
    }
}

/// A frame as it arrived: the message part is verified, the entries are not yet.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) message: Bytes,
    pub(crate) entries: Bytes,
}

/// Why a connection is not one of ours, or is broken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the other side does not speak Tercet's peer protocol")]
    NotTercet,
    #[error("the other side frames in version {0}, this program in version {FRAME_VERSION}")]
    Version(u8),
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame of {0} bytes is longer than allowed")]
    TooLong(usize),
    #[error("a frame was damaged on its way")]
    Damaged,
}

/// Encodes a frame. Long entries are handed over as they are; short ones are copied, which costs less
/// than a piece of its own does in every write.
pub(crate) fn encode(
    kind: Kind,
    message: &impl prost::Message,
    entries: &[Bytes],
    out: &mut Vec<Bytes>,
) {
    let message_bytes = message.encoded_len();
    let entries_bytes: usize = entries.iter().map(Bytes::len).sum();
    assert!(message_bytes <= MESSAGE_BYTES_MAX && entries_bytes <= ENTRIES_BYTES_MAX);
    let length = |n: usize| u32::try_from(n).expect("checked above");
    let is_copied = |entry: &&Bytes| entry.len() < COPIED_BYTES;
    let copied_bytes: usize = entries.iter().filter(is_copied).map(Bytes::len).sum();
    let mut head = BytesMut::with_capacity(HEADER_BYTES + message_bytes + copied_bytes);
    head.put_u16_le(MAGIC);
    head.put_u8(FRAME_VERSION);
    head.put_u8(kind as u8);
    head.put_u32_le(0);
    head.put_u32_le(length(message_bytes));
    head.put_u32_le(length(entries_bytes));
    message.encode(&mut head).expect("the buffer grows");
    let crc = checksum(&head);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    let mut piece = head;
    for entry in entries {
        if is_copied(&entry) {
            piece.put_slice(entry);
        } else {
            out.extend([piece.split().freeze(), entry.clone()]);
        }
    }
    out.push(piece.freeze());
}

fn checksum(head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..4]), &head[8..])
}

/// Reads frames from one connection.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    /// The longest frame that is accepted now: small until the other side has said who it is.
    bytes_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R, bytes_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), bytes_max }
    }

    /// The other side is known: it may send frames of full length.
    pub(crate) fn trust(&mut self) {
        self.bytes_max = MESSAGE_BYTES_MAX + ENTRIES_BYTES_MAX;
    }

    pub(crate) fn stream(&mut self) -> &mut R {
        &mut self.stream
    }

    pub(crate) fn into_stream(self) -> R {
        self.stream
    }

    /// The next frame; `None` when the other side closed between two frames. Dropping the future
    /// loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.parse()? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < ROOM_BYTES {
                self.buffer.reserve(READ_BYTES);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(mut head) = self.buffer.get(..HEADER_BYTES) else {
            return Ok(None);
        };
        let magic = head.get_u16_le();
        let version = head.get_u8();
        let kind = head.get_u8();
        let crc = head.get_u32_le();
        let message_bytes = head.get_u32_le() as usize;
        let entries_bytes = head.get_u32_le() as usize;
        if magic != MAGIC {
            return Err(FrameError::NotTercet);
        }
        if version != FRAME_VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = Kind::from_u8(kind).ok_or(FrameError::Kind(kind))?;
        let total = HEADER_BYTES + message_bytes + entries_bytes;
        if message_bytes > MESSAGE_BYTES_MAX
            || entries_bytes > ENTRIES_BYTES_MAX
            || total > self.bytes_max
        {
            return Err(FrameError::TooLong(total));
        }
        if self.buffer.len() < total {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(total).freeze();
        if checksum(&frame[..HEADER_BYTES + message_bytes]) != crc {
            return Err(FrameError::Damaged);
        }
        frame.advance(HEADER_BYTES);
        let message = frame.split_to(message_bytes);
        Ok(Some(Frame { kind, message, entries: frame }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn bytes_of(kind: Kind, message: &Vec<u8>, entries: &[Bytes]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(kind, message, entries, &mut out);
        out.concat()
    }

    async fn read_all(bytes: &[u8], bytes_max: usize) -> Result<Vec<Frame>, FrameError> {
        let mut reader = FrameReader::new(bytes, bytes_max);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn a_frame_comes_back() {
        let entries = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let mut bytes = bytes_of(Kind::Raft, &b"message".to_vec(), &entries);
        bytes.extend(bytes_of(Kind::Form, &Vec::new(), &[]));
        let frames = block_on(read_all(&bytes, 1000)).unwrap();
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].kind, &frames[0].entries[..]), (Kind::Raft, &b"onetwo"[..]));
        assert_eq!(
            <Vec<u8> as prost::Message>::decode(frames[0].message.clone()).unwrap(),
            b"message"
        );
        assert_eq!(frames[1].kind, Kind::Form);
    }

    /// The table in docs/protocol.md, byte by byte, with the checksum bit by bit.
    fn encoded_dumbly(kind: u8, message: &[u8], entries: &[u8]) -> Vec<u8> {
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap().to_le_bytes();
        let front = [0x43, 0x54, 1, kind];
        let rest = [&length(message)[..], &length(entries), message].concat();
        let mut crc = u32::MAX;
        for byte in front.iter().chain(&rest) {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        [&front[..], &(!crc).to_le_bytes(), &rest, entries].concat()
    }

    proptest! {
        #[test]
        fn the_same_as_the_dumb_encoder(
            kind in 1..=6_u8,
            message in proptest::collection::vec(any::<u8>(), 0..300),
            entries in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let known = Kind::from_u8(kind).unwrap();
            let encoded = bytes_of(known, &message, &[Bytes::from(entries.clone())]);
            let message = prost::Message::encode_to_vec(&message);
            prop_assert_eq!(&encoded, &encoded_dumbly(kind, &message, &entries));
            let frames = block_on(read_all(&encoded, 1 << 20)).unwrap();
            prop_assert_eq!((&frames[0].message[..], &frames[0].entries[..]), (&message[..], &entries[..]));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = block_on(read_all(&bytes, 1 << 20));
        }
    }

    #[test]
    fn every_flipped_bit_of_head_and_message_is_noticed() {
        let good = bytes_of(Kind::Raft, &b"message".to_vec(), &[]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(block_on(read_all(&bad, 1 << 30)).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_long_length_is_refused_before_memory_is_taken() {
        let mut bytes = bytes_of(Kind::Raft, &Vec::new(), &[]);
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(block_on(read_all(&bytes, usize::MAX)), Err(FrameError::TooLong(_))));
        let long = bytes_of(Kind::Hello, &vec![7; 5000], &[]);
        assert!(matches!(block_on(read_all(&long, 4096)), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn other_protocols_are_told_apart() {
        let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert!(matches!(block_on(read_all(http, 4096)), Err(FrameError::NotTercet)));
        assert!(matches!(
            block_on(read_all(b"\x43\x54\x09\x01aaaaaaaaaaaa", 4096)),
            Err(FrameError::Version(9))
        ));
    }
}
