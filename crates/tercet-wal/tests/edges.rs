//! Damage at the edges of blocks and sectors: what only touches a bad place is whole, and where a
//! part lies on a disk makes no difference to what is cut.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use bytes::Bytes;
use support::made::{FRAME_HEADER, HEADER, Made, two_segments};
use support::{append, crc_by_bits, disk_of, entry, image, segment, small, write};
use tercet_wal::{Batch, ENTRY_BODY_BYTES_MAX, Entry, EntryError, MemDisk, Survive, Wal, WalError};

/// A block that cannot be read takes what stands in it, and nothing that only touches it.
#[test]
fn an_unreadable_block_takes_what_stands_in_it() {
    const BLOCK: usize = 4096;
    let of = |index, bytes: usize| {
        let empty = entry(1, index, b"").frame.len();
        entry(1, index, &vec![7; bytes - empty])
    };
    // The first entry ends with a block, the second is one, and the third begins the next.
    let entries = vec![of(1, BLOCK - FRAME_HEADER), of(2, BLOCK), of(3, BLOCK), of(4, 100)];
    for (block, faulty) in [(1, vec![(1, 1)]), (2, vec![(2, 1)]), (3, vec![(3, 1)])] {
        let mut disk = MemDisk::new();
        let mut wal = Wal::create(&mut disk, small()).unwrap();
        write(&mut wal, &mut disk, append(entries.clone()));
        let from = (block * BLOCK) as u64;
        disk.fail_reads(&segment(1), from..from + BLOCK as u64);
        let (wal, _) = Wal::open(&mut disk, small()).unwrap();
        assert_eq!(wal.faulty().collect::<Vec<_>>(), faulty, "block {block}");
    }
}

/// A part of the last frame of which both copies are damaged may have been acknowledged: it is never
/// taken for one that a crash cut short, wherever its identifier lies in a sector.
#[test]
fn the_last_part_damaged_twice_is_never_cut() {
    for count in 0..70 {
        let mut made = Made::new();
        made.write(append((1..=count).map(|index| entry(1, index, b"x")).collect()));
        let frame = made.last();
        let last = frame.parts().len() - 1;
        let mut disk = disk_of(&made.image());
        disk.damage(&segment(1), frame.parts()[last].start + 20, &[1]);
        disk.damage(&segment(1), frame.id(last).start + 20, &[1]);
        let before = image(&disk);
        match Wal::open(&mut disk, small()) {
            Err(WalError::Corrupt { offset, .. }) => assert_eq!(offset, HEADER as u64),
            other => panic!("{count} entries: {:?}", other.map(|(_, recovered)| recovered)),
        }
        assert!(image(&disk) == before, "{count} entries");
    }
}

/// What was mended is durable before the log is used, in whichever segment it stands.
#[test]
fn what_was_mended_survives_a_crash() {
    let made = two_segments();
    for frame in &made.frames {
        for at in [frame.offset + 20, frame.id(0).start + 20] {
            let mut disk = disk_of(&made.image());
            disk.damage(&segment(frame.segment), at, &[1]);
            Wal::open(&mut disk, small()).unwrap();
            let mut after = disk.after_crash(Survive::None);
            assert!(image(&after) == made.image(), "segment {}, byte {at}", frame.segment);
            Wal::open(&mut after, small()).unwrap();
        }
    }
}

/// A frame of which nothing is left, and one behind it of which something is, its header or its
/// identifier: the first was synced before the second was written, and is not cut.
#[test]
fn what_is_left_of_a_later_frame_shows_that_one_is_missing() {
    for (second, third) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 3), (5, 1), (60, 2), (130, 0)] {
        for keeps_header in [false, true] {
            let mut made = Made::new();
            let mut next = 1;
            for count in [1, second, third] {
                let entries = (next..next + count).map(|index| entry(1, index, b"some bytes"));
                made.write(append(entries.collect()));
                next += count;
            }
            let mut files = made.image();
            let bytes = files.get_mut(&segment(1)).unwrap();
            let [_, lost, later] = &made.frames[..] else { panic!("three were written") };
            bytes[lost.offset..later.offset].fill(0);
            bytes[lost.ids.0..lost.ids.1].fill(0);
            let also =
                if keeps_header { later.ids.0..later.ids.1 } else { later.offset..later.end() };
            bytes[also].fill(0);
            let label = format!("{second} and {third} entries, keeps its header: {keeps_header}");
            let mut disk = disk_of(&files);
            match Wal::open(&mut disk, small()) {
                Err(WalError::Corrupt { offset, what, .. }) => {
                    assert_eq!(offset, lost.offset as u64, "{label}");
                    assert!(what.contains("frame 3 follows it"), "{label}: {what}");
                }
                other => panic!("{label}: {:?}", other.map(|(_, recovered)| recovered)),
            }
            assert!(image(&disk) == files, "{label}");
        }
    }
}

/// What a client submitted may look like the header of a frame: of another segment, of another log
/// or of an earlier frame it shows nothing, and a torn frame that holds it is cut.
#[test]
fn a_body_that_looks_like_a_header_is_a_body() {
    let header = |seq: u64, number: u32, log_id: u16| {
        let mut made = Made::new();
        made.write(append(Vec::new()));
        let at = made.last().offset;
        let mut head = made.image()[&segment(1)][at..at + FRAME_HEADER].to_vec();
        head[8..16].copy_from_slice(&seq.to_le_bytes());
        head[16..20].copy_from_slice(&number.to_le_bytes());
        head[20..22].copy_from_slice(&log_id.to_le_bytes());
        let crc = crc_by_bits(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        head
    };
    for (head, is_cut) in [
        (header(9, 2, 7), true),
        (header(9, 1, 8), true),
        (header(1, 1, 7), true),
        (header(2, 1, 7), true),
        (header(9, 1, 7), false),
    ] {
        let mut made = Made::new();
        made.write(append(vec![entry(1, 1, b"one")]));
        made.write(append(vec![entry(1, 2, &head)]));
        let frame = made.last();
        let mut files = made.image();
        let bytes = files.get_mut(&segment(1)).unwrap();
        bytes[frame.offset..frame.offset + FRAME_HEADER].fill(0);
        bytes[frame.ids.0..frame.ids.1].fill(0);
        match Wal::open(&mut disk_of(&files), small()) {
            Ok((_, recovered)) => {
                assert!(is_cut && recovered.torn_tail.is_some());
                assert_eq!(recovered.last_index, 1);
            }
            // Nobody can tell it from the real thing.
            Err(WalError::Corrupt { .. }) => assert!(!is_cut),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A cut where a term begins takes the whole term.
#[test]
fn a_cut_where_a_term_begins() {
    let mut made = Made::new();
    made.write(append(vec![entry(1, 1, b"a"), entry(1, 2, b"b"), entry(2, 3, b"c")]));
    made.write(Batch { truncate_from: Some(3), ..append(vec![entry(3, 3, b"d")]) });
    let (_, recovered) = Wal::open(&mut disk_of(&made.image()), small()).unwrap();
    assert_eq!(recovered.runs, [(1, 1), (3, 3)]);
    made.write(Batch { truncate_from: Some(1), ..Batch::default() });
    let (_, recovered) = Wal::open(&mut disk_of(&made.image()), small()).unwrap();
    assert_eq!((recovered.runs, recovered.last_index), (vec![], 0));
}

/// The longest body that there may be is one; and where an entry ends in the sequence of records is
/// where the next one goes on.
#[test]
fn the_longest_entry() {
    let mut header = entry(1, 7, b"x").frame[..48].to_vec();
    let longest = u32::try_from(ENTRY_BODY_BYTES_MAX).unwrap();
    for (length, is_one) in [(longest, true), (longest + 1, false)] {
        header[4..8].copy_from_slice(&length.to_le_bytes());
        let error = Entry::parse(Bytes::from(header.clone())).unwrap_err();
        assert_eq!(matches!(error, EntryError::Short), is_one, "{error:?}");
        assert_eq!(matches!(error, EntryError::TooLong(_)), !is_one, "{error:?}");
    }
    let header = entry(1, 7, b"x").header;
    assert_eq!(header.next_seq(), header.first_seq + u64::from(header.record_count));
}
