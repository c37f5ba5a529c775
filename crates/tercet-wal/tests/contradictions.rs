//! Parts of a log that are right by themselves, checksums and all, but cannot follow what is before
//! them: nothing is cut for them, and nothing of them is believed.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use support::made::{FRAME_HEADER, ID, Made, two_segments};
use support::{append, crc_by_bits, disk_of, entry, image, segment, small, state};
use tercet_wal::{Batch, Wal, WalError};

/// Opens these files: they are damaged here, in these words, and stay as they are.
fn assert_corrupt(files: &support::Image, number: u32, at: usize, words: &str) {
    let mut disk = disk_of(files);
    match Wal::open(&mut disk, small()) {
        Err(WalError::Corrupt { segment: name, offset, what }) => {
            assert_eq!((name, offset), (segment(number), at as u64), "{what}");
            assert!(what.contains(words), "{what}");
        }
        other => panic!("{words}: {:?}", other.map(|(_, recovered)| recovered)),
    }
    assert!(image(&disk) == *files, "{words}");
}

/// A frame without identifiers counts if it is whole; so it can say what no identifier contradicts.
#[test]
fn a_whole_frame_that_cannot_follow() {
    let mut made = Made::new();
    made.write(Batch { entries: vec![entry(5, 1, b"a"), entry(5, 2, b"b")], ..state(5, 1) });
    made.write(Batch { truncate_from: Some(2), ..append(vec![entry(5, 2, b"c")]) });
    let frame = made.last();
    // Offset in the frame's header with the value put there, and the entry behind it.
    let changed = |fields: &[(usize, u64)], index: u64| {
        let mut files = made.image();
        let bytes = files.get_mut(&segment(1)).unwrap();
        bytes[frame.ids.0..frame.ids.1].fill(0);
        bytes[frame.parts()[1].clone()].copy_from_slice(&entry(5, index, b"c").frame);
        let head = &mut bytes[frame.offset..frame.offset + FRAME_HEADER];
        for (at, value) in fields {
            head[*at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        seal_frame(head);
        files
    };
    let (term, truncate_from, first_index) = (24, 32, 40);
    let same = changed(&[], 2);
    let (wal, _) = Wal::open(&mut disk_of(&same), small()).unwrap();
    assert_eq!(wal.last_index(), 2, "nothing was changed");
    for (fields, index, words) in [
        (&[(truncate_from, 3)][..], 2, "a cut at 3 of a log that ends at 2"),
        (&[(truncate_from, 0)], 2, "a cut at 0 of a log that ends at 2"),
        (&[(first_index, 3)], 3, "entry 3 follows entry 1"),
        (&[(first_index, 1)], 1, "entry 1 follows entry 1"),
        (&[(truncate_from, 1), (first_index, 2)], 2, "entry 2 follows entry 0"),
        (&[(term, 4)], 2, "term 4 follows term 5"),
    ] {
        assert_corrupt(&changed(fields, index), 1, frame.offset, words);
    }
}

/// The header of a segment says where it goes on; both of it must fit.
#[test]
fn a_segment_that_cannot_follow() {
    let made = two_segments();
    let changed = |at: usize, add: u64| {
        let mut files = made.image();
        let bytes = files.get_mut(&segment(2)).unwrap();
        let value = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) + add;
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let covered = [&bytes[..8], &bytes[12..64]].concat();
        bytes[8..12].copy_from_slice(&crc_by_bits(&covered).to_le_bytes());
        files
    };
    let (first_frame, last_index, length) = (16, 24, 44);
    Wal::open(&mut disk_of(&changed(first_frame, 0)), small()).unwrap();
    assert_corrupt(&changed(first_frame, 1), 2, 0, "the segment before ends with frame");
    assert_corrupt(&changed(last_index, 1), 2, 0, "the segment before ends with frame");
    assert_corrupt(&changed(length, 8), 2, 0, "bytes, not");
}

/// The first segment is made before a node promises anything: without its header it is not one that
/// was prepared and never used.
#[test]
fn the_first_segment_is_never_unused() {
    let mut files = Made::new().image();
    files.get_mut(&segment(1)).unwrap()[..64].fill(0);
    assert_corrupt(&files, 1, 0, "the segment's header is damaged");
}

/// Puts the checksum of a frame's header right.
fn seal_frame(head: &mut [u8]) {
    let crc = crc_by_bits(&head[8..FRAME_HEADER]);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The header of another frame, of another segment or of another log is none here: the identifier
/// says what stood there, and it is put back.
#[test]
fn a_header_of_something_else_is_none() {
    let made = two_segments();
    for frame in &made.frames {
        let (seq, number, log_id) = (8, 16, 20);
        for at in [seq, number, log_id] {
            let mut files = made.image();
            let bytes = files.get_mut(&segment(frame.segment)).unwrap();
            bytes[frame.offset + at] ^= 1;
            seal_frame(&mut bytes[frame.offset..]);
            let mut disk = disk_of(&files);
            Wal::open(&mut disk, small()).unwrap();
            assert!(image(&disk) == made.image(), "byte {at} of the header");
        }
    }
}

/// An identifier that is right by itself, but of another frame or entry, of another place, or of
/// something longer than what stands here: where the part itself is damaged, nobody knows what it
/// was.
#[test]
fn an_identifier_of_something_else_is_none() {
    let log = |first: &[u8], second: &[u8]| {
        let mut made = Made::new();
        made.write(append(vec![entry(1, 1, first)]));
        made.write(append(vec![entry(1, 2, second)]));
        made
    };
    let base = log(b"a", b"b");
    let part_of = |made: &Made, frame: usize, part: usize| {
        let bytes = &made.image()[&segment(1)];
        bytes[made.frames[frame].id(part)].to_vec()
    };
    let elsewhere = log(b"a longer one", b"b");
    let longer = log(b"a", &[7; 60_000]);
    let frame = base.last();
    for (part, foreign) in [
        (0, part_of(&base, 0, 0)),
        (0, part_of(&elsewhere, 1, 0)),
        (0, part_of(&base, 1, 1)),
        (1, part_of(&base, 0, 1)),
        (1, part_of(&elsewhere, 1, 1)),
        (1, part_of(&longer, 1, 1)),
        (1, part_of(&base, 1, 0)),
    ] {
        let mut files = base.image();
        let bytes = files.get_mut(&segment(1)).unwrap();
        bytes[frame.parts()[part].start + 20] ^= 1;
        bytes[frame.id(part)].copy_from_slice(&foreign);
        assert_corrupt(&files, 1, frame.offset, "a frame is damaged, and so is its identifier");
    }
}

/// A frame that leaves no room for its identifiers was never written.
#[test]
fn a_frame_without_room_for_its_identifiers() {
    let mut made = Made::new();
    let length = made.image()[&segment(1)].len();
    let empty = entry(1, 1, b"").frame.len();
    made.write(append(vec![entry(1, 1, b"")]));
    let frame = made.last();
    let with_room = |room: usize| {
        let body = vec![7; length - frame.offset - FRAME_HEADER - room - empty];
        let entry = entry(1, 1, &body);
        let mut files = made.image();
        let bytes = files.get_mut(&segment(1)).unwrap();
        let head = &mut bytes[frame.offset..];
        head[FRAME_HEADER..FRAME_HEADER + entry.frame.len()].copy_from_slice(&entry.frame);
        let body_bytes = u32::try_from(entry.frame.len()).unwrap();
        head[52..56].copy_from_slice(&body_bytes.to_le_bytes());
        seal_frame(head);
        head[FRAME_HEADER + entry.frame.len()..].fill(0);
        files
    };
    let (wal, _) = Wal::open(&mut disk_of(&with_room(2 * ID)), small()).unwrap();
    assert_eq!((wal.last_index(), wal.faulty().count()), (1, 0));
    let words = "a frame and its identifiers contradict each other";
    assert_corrupt(&with_room(2 * ID - 8), 1, frame.offset, words);
}
