//! The bytes of an entry: made once by the leader, the same on the wire and on every disk.
//!
//! ```text
//!  0        4            8       16       24          32             36     37      38       40        48
//!  ├────────┼────────────┼───────┼────────┼───────────┼──────────────┼──────┼───────┼────────┼─────────┼──────┐
//!  │ crc32c │ body bytes │ term  │ index  │ first seq │ record count │ kind │ flags │ log id │ time ms │ body │
//!  │ u32    │ u32        │ u64   │ u64    │ u64       │ u32          │ u8   │ u8    │ u16    │ u64     │      │
//!  └────────┴────────────┴───────┴────────┴───────────┴──────────────┴──────┴───────┴────────┴─────────┴──────┘
//! ```
//! Little-endian. The checksum covers everything behind it, the body included. Every read verifies.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The length of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 48;
/// The longest body.
pub const ENTRY_BODY_BYTES_MAX: usize = 64 << 20;

/// What stands before an entry's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    /// The term of the leader that made it.
    pub term: u64,
    /// Where it stands in the log, from 1.
    pub index: u64,
    /// The sequence number of its first record, or of the next record to come if it has none.
    pub first_seq: u64,
    /// How many records it holds.
    pub record_count: u32,
    /// What it is for; opaque here.
    pub kind: u8,
    /// Opaque here.
    pub flags: u8,
    /// Which log it belongs to.
    pub log_id: u16,
    /// Log time: the leader's time of day when it was appended, never going back along the log.
    pub time_ms: u64,
    /// The length of the body.
    pub body_bytes: u32,
    /// The checksum of all that follows it.
    pub crc: u32,
}

/// Why bytes are not an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    /// There are fewer bytes than the header, or than the header says.
    #[error("an entry is cut short")]
    Short,
    /// The body would be longer than [`ENTRY_BODY_BYTES_MAX`].
    #[error("an entry of {0} bytes is longer than allowed")]
    TooLong(usize),
    /// The checksum does not fit.
    #[error("an entry's checksum does not fit")]
    Checksum,
}

/// An entry whose checksum was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its header.
    pub header: EntryHeader,
    /// Header and body as they stand on disk and on the wire.
    pub frame: Bytes,
}

impl EntryHeader {
    /// The header in these bytes, not verified.
    pub(crate) fn peek(mut bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() < ENTRY_HEADER_BYTES {
            return Err(EntryError::Short);
        }
        let crc = bytes.get_u32_le();
        let body_bytes = bytes.get_u32_le();
        if body_bytes as usize > ENTRY_BODY_BYTES_MAX {
            return Err(EntryError::TooLong(body_bytes as usize));
        }
        Ok(Self {
            crc,
            body_bytes,
            term: bytes.get_u64_le(),
            index: bytes.get_u64_le(),
            first_seq: bytes.get_u64_le(),
            record_count: bytes.get_u32_le(),
            kind: bytes.get_u8(),
            flags: bytes.get_u8(),
            log_id: bytes.get_u16_le(),
            time_ms: bytes.get_u64_le(),
        })
    }

    /// The sequence number after its last record: where the next entry goes on.
    pub const fn next_seq(&self) -> u64 {
        // No leader comes near the end of the numbers; bytes that were made up may.
        self.first_seq.saturating_add(self.record_count as u64)
    }

    /// How long header and body are together.
    pub const fn frame_bytes(&self) -> usize {
        ENTRY_HEADER_BYTES + self.body_bytes as usize
    }
}

impl Entry {
    /// Makes an entry; `body_bytes` and `crc` of the header are computed.
    ///
    /// # Panics
    /// If the body is longer than [`ENTRY_BODY_BYTES_MAX`].
    pub fn new(header: &EntryHeader, body: &[&[u8]]) -> Self {
        Self::new_in(&mut BytesMut::new(), header, body.iter().copied())
    }

    /// The same, in memory that is shared with the entries made before and after it.
    ///
    /// # Panics
    /// If the body is longer than [`ENTRY_BODY_BYTES_MAX`].
    pub fn new_in<'a>(
        arena: &mut BytesMut,
        header: &EntryHeader,
        body: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        debug_assert!(arena.is_empty(), "what was made was taken");
        arena.put_bytes(0, 8);
        arena.put_u64_le(header.term);
        arena.put_u64_le(header.index);
        arena.put_u64_le(header.first_seq);
        arena.put_u32_le(header.record_count);
        arena.put_u8(header.kind);
        arena.put_u8(header.flags);
        arena.put_u16_le(header.log_id);
        arena.put_u64_le(header.time_ms);
        for piece in body {
            arena.put_slice(piece);
        }
        let length = arena.len() - ENTRY_HEADER_BYTES;
        assert!(length <= ENTRY_BODY_BYTES_MAX, "an entry's body of {length} bytes is too long");
        let body_bytes = u32::try_from(length).expect("checked above");
        arena[4..8].copy_from_slice(&body_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&arena[4..]);
        arena[..4].copy_from_slice(&crc.to_le_bytes());
        let header = EntryHeader { body_bytes, crc, ..*header };
        Self { header, frame: arena.split().freeze() }
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.frame[ENTRY_HEADER_BYTES..]
    }

    /// The one entry in these bytes, verified.
    ///
    /// # Errors
    /// Bytes that are not exactly one entry.
    pub fn parse(mut frame: Bytes) -> Result<Self, EntryError> {
        let entry = Self::split_first(&mut frame)?;
        if frame.is_empty() { Ok(entry) } else { Err(EntryError::Checksum) }
    }

    /// Takes the first entry off the front of `frames`, verified.
    ///
    /// # Errors
    /// Bytes that do not begin with an entry; nothing is taken then.
    pub fn split_first(frames: &mut Bytes) -> Result<Self, EntryError> {
        let header = EntryHeader::peek(frames)?;
        let total = header.frame_bytes();
        if frames.len() < total {
            return Err(EntryError::Short);
        }
        if crc32c::crc32c(&frames[4..total]) != header.crc {
            return Err(EntryError::Checksum);
        }
        Ok(Self { header, frame: frames.split_to(total) })
    }
}
