//! The bytes on disk, compared with a second, dumb encoder that is written after docs/wal-format.md
//! and shares no code with the first: what it says is what is there, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use support::{
    append, crc_by_bits, entry, image, image_with_summaries, segment, small, state, write,
};
use tercet_wal::{
    Batch, ENTRY_BODY_BYTES_MAX, ENTRY_HEADER_BYTES, Entry, EntryError, EntryHeader, MemDisk, Wal,
};

/// Numbers by their width, little-endian, and bytes as they are.
enum Field<'a> {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    Raw(&'a [u8]),
    Zeros(usize),
}
use Field::{Raw, U8, U16, U32, U64, Zeros};

fn bytes_of(fields: &[Field<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        match field {
            U8(n) => out.push(*n),
            U16(n) => out.extend(n.to_le_bytes()),
            U32(n) => out.extend(n.to_le_bytes()),
            U64(n) => out.extend(n.to_le_bytes()),
            Raw(bytes) => out.extend_from_slice(bytes),
            Zeros(n) => out.extend(vec![0; *n]),
        }
    }
    out
}

/// A checksum, and what it covers.
fn with_crc(covered: &[Field<'_>]) -> Vec<u8> {
    let covered = bytes_of(covered);
    bytes_of(&[U32(crc_by_bits(&covered)), Raw(&covered)])
}

fn dumb_entry(header: &EntryHeader, body: &[u8]) -> Vec<u8> {
    with_crc(&[
        U32(u32::try_from(body.len()).unwrap()),
        U64(header.term),
        U64(header.index),
        U64(header.first_seq),
        U32(header.record_count),
        U8(header.kind),
        U8(header.flags),
        U16(header.log_id),
        U64(header.time_ms),
        Raw(body),
    ])
}

struct SegmentFields {
    number: u32,
    bytes: u64,
    first_frame: u64,
    last_index: u64,
    term: u64,
    vote: u8,
}

fn dumb_segment_header(fields: &SegmentFields) -> Vec<u8> {
    let version = bytes_of(&[Raw(b"TCTWAL\n"), U8(1)]);
    let rest = bytes_of(&[
        U32(fields.number),
        U64(fields.first_frame),
        U64(fields.last_index),
        U64(fields.term),
        U16(7),
        U8(fields.vote),
        U8(0),
        U64(fields.bytes),
        Zeros(12),
    ]);
    let crc = crc_by_bits(&[version.clone(), rest.clone()].concat());
    bytes_of(&[Raw(&version), U32(crc), Raw(&rest)])
}

fn dumb_seal(segment: u32, next_frame: u64, last_index: u64) -> Vec<u8> {
    with_crc(&[Raw(b"SEAL"), U32(segment), U16(7), U16(0), U64(next_frame), U64(last_index)])
}

struct FrameFields<'a> {
    seq: u64,
    segment: u32,
    term: u64,
    vote: u8,
    truncate_from: Option<u64>,
    first_index: u64,
    entries: &'a [Entry],
}

fn dumb_frame(fields: &FrameFields<'_>) -> Vec<u8> {
    let bodies: Vec<u8> = fields.entries.iter().flat_map(|entry| entry.frame.to_vec()).collect();
    let head = with_crc(&[
        U64(fields.seq),
        U32(fields.segment),
        U16(7),
        U8(fields.vote),
        U8(u8::from(fields.truncate_from.is_some())),
        U64(fields.term),
        U64(fields.truncate_from.unwrap_or(0)),
        U64(fields.first_index),
        U32(u32::try_from(fields.entries.len()).unwrap()),
        U32(u32::try_from(bodies.len()).unwrap()),
        Zeros(8),
    ]);
    bytes_of(&[Raw(b"TFRM"), Raw(&head), Raw(&bodies)])
}

fn dumb_frame_id(fields: &FrameFields<'_>, offset: usize) -> Vec<u8> {
    let bodies: usize = fields.entries.iter().map(|entry| entry.frame.len()).sum();
    with_crc(&[
        U8(1),
        U8(fields.vote),
        U8(u8::from(fields.truncate_from.is_some())),
        U8(0),
        U64(fields.term),
        U64(fields.seq),
        U64(fields.truncate_from.unwrap_or(0)),
        U64(fields.first_index),
        U32(u32::try_from(offset).unwrap()),
        U32(u32::try_from(bodies).unwrap()),
    ])
}

fn dumb_entry_id(entry: &Entry, offset: usize) -> Vec<u8> {
    let header = &entry.header;
    with_crc(&[
        U8(2),
        U8(header.kind),
        U8(header.flags),
        U8(0),
        U64(header.term),
        U64(header.index),
        U64(header.first_seq),
        U32(u32::try_from(offset).unwrap()),
        U32(header.crc),
        U32(header.record_count),
        U32(u32::try_from(entry.frame.len() - 48).unwrap()),
    ])
}

/// Lays frames out in a segment: they from the front, their identifiers from the back.
fn dumb_segment(
    header: &SegmentFields,
    seal: Option<Vec<u8>>,
    frames: &[FrameFields<'_>],
) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(header.bytes).unwrap()];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &dumb_segment_header(header));
    if let Some(seal) = seal {
        put(512, &seal);
    }
    let (mut end, mut ids) = (4096, usize::try_from(header.bytes).unwrap());
    for frame in frames {
        let bytes = dumb_frame(frame);
        put(end, &bytes);
        ids -= 48;
        put(ids, &dumb_frame_id(frame, end));
        let mut at = end + 64;
        for entry in frame.entries {
            ids -= 48;
            put(ids, &dumb_entry_id(entry, at));
            at += entry.frame.len();
        }
        end = at.next_multiple_of(8);
    }
    out
}

#[test]
fn the_checksum_is_crc32c() {
    // The check value of CRC-32C, and vectors of RFC 3720, B.4.
    let ascending: Vec<u8> = (0..32).collect();
    let vectors: [(&[u8], u32); 4] = [
        (b"123456789", 0xe306_9283),
        (&[0; 32], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&ascending, 0x46dd_794e),
    ];
    for (bytes, crc) in vectors {
        assert_eq!(crc_by_bits(bytes), crc);
        assert_eq!(crc32c::crc32c(bytes), crc);
    }
}

#[test]
fn a_log_is_what_the_document_says() {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    let first = [entry(1, 1, b""), entry(1, 2, b"two"), entry(1, 3, b"three")];
    let second = [entry(2, 3, &[3; 60_000])];
    let third = [entry(3, 2, &[2; 70_000]), entry(3, 3, b"")];
    write(&mut wal, &mut disk, state(1, 2));
    write(&mut wal, &mut disk, append(first.to_vec()));
    let cut = Batch {
        hard_state: state(2, 0).hard_state,
        truncate_from: Some(3),
        entries: second.to_vec(),
    };
    write(&mut wal, &mut disk, cut);
    // A cut that begins a segment, staged in pieces: the log is three entries long before it.
    wal.stage(state(3, 1));
    wal.stage(Batch { truncate_from: Some(3), ..Batch::default() });
    wal.stage(Batch { truncate_from: Some(2), entries: third.to_vec(), ..Batch::default() });
    wal.commit(&mut disk).unwrap();
    let frame = |seq, segment, term, vote, truncate_from, first_index, entries| FrameFields {
        seq,
        segment,
        term,
        vote,
        truncate_from,
        first_index,
        entries,
    };
    // Header, room for the frame with its identifiers, and twice what is kept for votes.
    let smallest = 4096 + 2 * 65_536;
    let third_bytes = (64 + third[0].frame.len() + third[1].frame.len()).next_multiple_of(8) + 144;
    let expected = [
        dumb_segment(
            &SegmentFields {
                number: 1,
                bytes: smallest,
                first_frame: 1,
                last_index: 0,
                term: 0,
                vote: 0,
            },
            Some(dumb_seal(1, 4, 3)),
            &[
                frame(1, 1, 1, 2, None, 1, &[]),
                frame(2, 1, 1, 2, None, 1, &first),
                frame(3, 1, 2, 0, Some(3), 3, &second),
            ],
        ),
        dumb_segment(
            &SegmentFields {
                number: 2,
                bytes: smallest + third_bytes as u64,
                first_frame: 4,
                last_index: 3,
                term: 2,
                vote: 0,
            },
            None,
            &[frame(4, 2, 3, 1, Some(2), 2, &third)],
        ),
    ];
    let found = image(&disk);
    assert_eq!(found.len(), 2);
    for (number, expected) in (1..).zip(expected) {
        let found = &found[&segment(number)];
        assert_eq!(found.len(), expected.len(), "segment {number}");
        let different = (0..found.len()).find(|at| found[*at] != expected[*at]);
        assert_eq!(different, None, "segment {number}: the first byte that differs");
    }
}

#[test]
fn a_summary_is_what_the_document_says() {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    let without_records = Entry::new(
        &EntryHeader { record_count: 0, kind: 9, ..entry(1, 3, b"").header },
        &[b"no records"],
    );
    let first = vec![entry(1, 1, b""), entry(1, 2, b"two"), without_records];
    let second: Vec<Entry> = (4..=504).map(|index| entry(2, index, b"")).collect();
    write(&mut wal, &mut disk, append(first.clone()));
    write(&mut wal, &mut disk, state(2, 3));
    write(&mut wal, &mut disk, append(second.clone()));
    let frames = [first, Vec::new(), second];
    write(&mut wal, &mut disk, append(vec![entry(2, 505, &[1; 70_000])]));
    let found = image_with_summaries(&disk).remove(&segment(1)).unwrap();
    let (mut at, mut id) = (4096, found.len());
    let mut points = Vec::new();
    for entries in frames {
        at += 64;
        id -= 48;
        for entry in entries {
            id -= 48;
            points.push((at, id));
            at += entry.frame.len();
        }
        at = at.next_multiple_of(8);
    }
    // 504 points do not fit into what is left beside two runs and one mark.
    let step = 504_usize.div_ceil((3072 - 64 - 2 * 16 - 9) / 8);
    assert_eq!(step, 2);
    let number = |n: usize| U32(u32::try_from(n).unwrap());
    let mut fields = vec![
        Raw(b"SUMM"),
        U32(1),
        U16(7),
        U8(3),
        U8(0),
        U64(2),
        U64(4),
        U64(1),
        U32(504),
        number(step),
        number(at),
        number(id),
        U16(2),
        U16(1),
        Zeros(4),
    ];
    fields.extend([U64(1), U64(1), U64(2), U64(4)]);
    fields.extend([U64(3), U8(9)]);
    for (at, id) in points.into_iter().step_by(step) {
        fields.extend([number(at), number(id)]);
    }
    let expected = with_crc(&fields);
    assert_eq!(found[1024..1024 + expected.len()], expected);
    assert!(found[1024 + expected.len()..4096].iter().all(|byte| *byte == 0));
    assert_eq!(found[512..544], dumb_seal(1, 4, 504));
}

#[test]
fn an_entry_changed_in_any_bit_is_none() {
    let good = entry(3, 4, b"something");
    assert_eq!(Entry::parse(good.frame.clone()), Ok(good.clone()));
    for bit in 0..good.frame.len() * 8 {
        let mut bytes = good.frame.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Entry::parse(bytes.into()).is_err(), "bit {bit}");
    }
}

#[test]
fn an_entry_cut_anywhere_is_short_and_one_with_more_is_none() {
    let good = entry(3, 4, b"something");
    for length in 0..good.frame.len() {
        let cut = Entry::parse(good.frame.slice(..length));
        assert_eq!(cut, Err(EntryError::Short), "{length} bytes");
    }
    let more = [&good.frame[..], b"x"].concat();
    assert!(Entry::parse(more.clone().into()).is_err());
    let mut rest = Bytes::from(more);
    assert_eq!(Entry::split_first(&mut rest), Ok(good));
    assert_eq!(&rest[..], b"x");
    assert_eq!(Entry::split_first(&mut rest), Err(EntryError::Short));
    assert_eq!(&rest[..], b"x", "nothing is taken of what is none");
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_it_is_believed() {
    let mut bytes = entry(1, 1, b"").frame.to_vec();
    let length = u32::try_from(ENTRY_BODY_BYTES_MAX + 1).unwrap();
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    let error = Entry::parse(bytes.into()).unwrap_err();
    assert_eq!(error, EntryError::TooLong(ENTRY_BODY_BYTES_MAX + 1));
    assert_eq!(error.to_string(), "an entry of 67108865 bytes is longer than allowed");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entries_are_encoded_like_the_document_says(
        (term, index, first_seq, time_ms) in any::<(u64, u64, u64, u64)>(),
        (record_count, kind, flags, log_id) in any::<(u32, u8, u8, u16)>(),
        body in prop::collection::vec(any::<u8>(), 0..300),
        split in any::<prop::sample::Index>(),
    ) {
        let header = EntryHeader {
            term, index, first_seq, record_count, kind, flags, log_id, time_ms,
            // These two are computed.
            body_bytes: 99, crc: 99,
        };
        let (left, right) = body.split_at(split.index(body.len() + 1));
        let made = Entry::new(&header, &[left, right]);
        let dumb = dumb_entry(&header, &body);
        prop_assert_eq!(&made.frame[..], &dumb[..]);
        let entry = Entry::parse(dumb.clone().into()).unwrap();
        prop_assert_eq!(&made, &entry);
        let body_bytes = u32::try_from(body.len()).unwrap();
        let crc = u32::from_le_bytes(dumb[..4].try_into().unwrap());
        prop_assert_eq!(entry.header, EntryHeader { body_bytes, crc, ..header });
        prop_assert_eq!(entry.body(), &body[..]);
        prop_assert_eq!(entry.header.frame_bytes(), ENTRY_HEADER_BYTES + body.len());
    }

    #[test]
    fn random_bytes_are_no_entry(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Entry::parse(bytes.into()).is_err());
    }
}
