//! Parts of a log that are right by themselves, checksums and all, but cannot follow what is before
//! them: nothing is cut for them, and nothing of them is believed.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use support::made::{FRAME_HEADER, Made, two_segments};
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
        let crc = crc_by_bits(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
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
