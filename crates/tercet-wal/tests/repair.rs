//! Damage that is met while the log is open: a read tells of it, the identifier says what stood
//! there, others are read around it, and the right bytes are put back. And the search for damage that
//! nobody has met yet.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use support::made::{FRAME_HEADER, HEADER, Made, two_segments};
use support::{
    Rng, append, disk_of, entry, image, open_known, read_all, segment, small, state, write,
};
use tercet_wal::{Batch, Entry, MemDisk, Survive, Wal, WalError};

/// Many entries in a few segments, opened: nothing of it is kept in memory.
fn long_log() -> (Made, MemDisk, Wal<MemDisk>) {
    let mut made = Made::new();
    let mut rng = Rng(11);
    made.write(state(1, 1));
    for first in (1..=90).step_by(3) {
        let entries = (first..first + 3).map(|index| {
            let length = rng.below(5_000);
            entry(1, index, &rng.bytes(length))
        });
        made.write(append(entries.collect()));
    }
    let mut disk = disk_of(&made.image());
    let (wal, _) = Wal::open(&mut disk, small()).unwrap();
    assert!(made.last().segment >= 3);
    (made, disk, wal)
}

/// Where an entry stands.
fn place(made: &Made, index: u64) -> (String, usize) {
    let is_it = |entry: &Entry| entry == &made.model.entries[usize::try_from(index - 1).unwrap()];
    let frame = made.frames.iter().find(|frame| frame.entries.iter().any(is_it)).unwrap();
    let position = frame.entries.iter().position(is_it).unwrap();
    (segment(frame.segment), frame.parts()[position + 1].start)
}

fn assert_faulty<T: std::fmt::Debug>(result: Result<T, WalError>, index: u64, term: u64) {
    match result {
        Err(WalError::Faulty { index: i, term: t }) => assert_eq!((i, t), (index, term)),
        other => panic!("entry {index}: {other:?}"),
    }
}

#[test]
fn a_byte_flipped_while_the_log_is_open_is_met_by_the_read_and_repaired() {
    let made = two_segments();
    let entries = &made.model.entries;
    let frame = &made.frames[1];
    // Entries 1 and 2 are the first two of the second frame.
    let first = frame.offset + FRAME_HEADER;
    let second = first + entries[0].frame.len();
    let end = second + entries[1].frame.len();
    for at in first..end {
        let mut disk = disk_of(&made.image());
        let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
        assert_eq!(read_all(&wal, &disk).unwrap(), made.model.entries);
        disk.damage(&segment(1), at, &[0x20]);
        let index = if at < second { 1 } else { 2 };
        let (bad, good) = (&entries[usize::from(at >= second)], &entries[usize::from(at < second)]);
        for last in index..=5 {
            assert_faulty(wal.read(&disk, index, last, u64::MAX), index, 0);
        }
        let other = wal.read(&disk, 3 - index, 3 - index, u64::MAX).unwrap();
        assert_eq!(other[..], *std::slice::from_ref(good), "byte {at}");
        // Only what a read has met is known.
        assert_eq!(wal.faulty().count(), 0);
        assert!(wal.repair(entries).unwrap().is_empty());
        assert!(wal.note_faulty(index).unwrap(), "it is news");
        assert!(!wal.note_faulty(index).unwrap(), "and then it is not");
        assert_eq!(wal.faulty().collect::<Vec<_>>(), [(index, 1)]);
        assert_faulty(wal.read(&disk, index, index, u64::MAX), index, 1);
        assert_eq!(wal.header(&disk, index).unwrap().crc, bad.header.crc);
        // What stands before it is read up to it.
        assert_eq!(wal.read(&disk, 1, 5, u64::MAX).map_or(0, |read| read.len() as u64), index - 1);
        assert_eq!(wal.repair(entries).unwrap(), [index]);
        assert_eq!(wal.faulty().count(), 0);
        assert!(image(&disk) == made.image(), "byte {at}");
        assert_eq!(read_all(&wal, &disk).unwrap(), made.model.entries);
    }
}

/// A disk may put a write in the wrong place: what is read there is whole, but another entry.
#[test]
fn another_entry_in_the_place_of_one_is_met_by_the_read() {
    let mut made = Made::new();
    made.write(append(vec![entry(1, 1, b"one"), entry(1, 2, b"two"), entry(1, 3, b"six")]));
    let mut disk = disk_of(&made.image());
    let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
    let [one, two, _] = &made.model.entries[..] else { panic!("three were written") };
    let mask: Vec<u8> = one.frame.iter().zip(&two.frame).map(|(a, b)| a ^ b).collect();
    disk.damage(&segment(1), HEADER + FRAME_HEADER, &mask);
    for last in 1..=3 {
        assert_faulty(wal.read(&disk, 1, last, u64::MAX), 1, 0);
    }
    assert_faulty(wal.header(&disk, 1), 1, 0);
    assert_eq!(wal.read(&disk, 2, 3, u64::MAX).unwrap(), made.model.entries[1..]);
    assert!(wal.note_faulty(1).unwrap());
    assert_eq!(wal.repair(&made.model.entries).unwrap(), [1]);
    assert!(image(&disk) == made.image());
}

#[test]
fn only_the_entry_that_stood_there_repairs() {
    let (made, disk, mut wal) = long_log();
    let index = 50;
    let right = &made.model.entries[49];
    let (name, at) = place(&made, index);
    disk.damage(&name, at + 60, &[1]);
    assert!(wal.note_faulty(index).unwrap());
    let damaged = image(&disk);
    let body = right.body().to_vec();
    let mut other = body.clone();
    other[17] ^= 1;
    let neighbour = &made.model.entries[50];
    let wrong = [
        entry(2, index, &body),
        entry(1, index, &other),
        entry(1, index, &body[1..]),
        entry(1, index + 1, &body),
        neighbour.clone(),
    ];
    assert!(wal.repair(&wrong).unwrap().is_empty());
    assert!(image(&disk) == damaged, "nothing was written");
    let mut all = wrong.to_vec();
    all.push(right.clone());
    assert_eq!(wal.repair(&all).unwrap(), [index]);
    assert!(image(&disk) == made.image());
}

#[test]
fn an_entry_whose_identifier_is_damaged_too_is_lost() {
    let (made, disk, mut wal) = long_log();
    let newest = made.last().segment;
    let frame = made.of(newest).next().unwrap();
    let index = frame.entries[1].header.index;
    let name = segment(newest);
    disk.damage(&name, frame.parts()[2].start + 50, &[4]);
    disk.damage(&name, frame.id(2).start + 30, &[4]);
    assert_faulty(wal.read(&disk, index, index, 10), index, 0);
    match wal.note_faulty(index) {
        Err(WalError::Corrupt { segment, offset, what }) => {
            assert_eq!((segment, offset), (name, frame.parts()[2].start as u64));
            assert!(what.contains(&format!("entry {index} is damaged")), "{what}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(wal.faulty().count(), 0);
}

/// Each block of a segment cannot be read, one at a time: the entries that stand in it are faulty,
/// the others are read, and with the right bytes it is as it was. No write fails for it.
#[test]
fn an_unreadable_block_takes_the_entries_in_it_and_no_others() {
    let (made, _, _) = long_log();
    let whole = made.image();
    let name = segment(2);
    let mut met = 0;
    for block in (0..whole[&name].len()).step_by(4096) {
        let mut disk = disk_of(&whole);
        let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
        disk.fail_reads(&name, block as u64..block as u64 + 4096);
        let mut bad = Vec::new();
        for entry in &made.model.entries {
            let index = entry.header.index;
            let (file, at) = place(&made, index);
            if file == name && at < block + 4096 && block < at + entry.frame.len() {
                assert_faulty(wal.read(&disk, index, 90, 30_000), index, 0);
                assert!(wal.note_faulty(index).unwrap());
                bad.push(index);
            } else {
                let read = wal.read(&disk, index, 90, 30_000).unwrap();
                assert_eq!(read[0], *entry);
            }
        }
        met += bad.len();
        assert_eq!(wal.repair(&made.model.entries).unwrap(), bad, "the block at {block}");
        for index in bad {
            let entry = &made.model.entries[usize::try_from(index - 1).unwrap()];
            assert_eq!(wal.read(&disk, index, index, 1).unwrap()[0], *entry);
        }
        // What else stood in the block: frames' headers, written again when the log is opened.
        drop(open_known(&mut disk, &made.model, "after repair").unwrap());
        made.assert_restored(&image(&disk), &format!("the block at {block}"));
    }
    assert!(met > 30, "{met}");
}

/// The identifiers of others cannot be read: this one's can.
#[test]
fn unreadable_identifiers_are_read_around() {
    let mut made = Made::new();
    made.write(append((1..=400).map(|index| entry(1, index, b"small")).collect()));
    let name = segment(1);
    let frame = made.last();
    let length = made.image()[&name].len();
    for block in (frame.ids.0 / 4096 * 4096..length).step_by(4096) {
        let mut disk = disk_of(&made.image());
        let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
        disk.fail_reads(&name, block as u64..block as u64 + 4096);
        for part in (1..frame.parts().len()).step_by(7) {
            let index = part as u64;
            let id = frame.id(part);
            let is_lost = id.start < block + 4096 && block < id.end;
            disk.damage(&name, frame.parts()[part].start + 9, &[1]);
            match wal.note_faulty(index) {
                Ok(is_news) => assert!(is_news && !is_lost, "entry {index}"),
                Err(WalError::Corrupt { .. }) => assert!(is_lost, "entry {index}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A repair that is cut short is one that is not done: the entry is faulty still, or whole.
#[test]
fn a_repair_may_be_cut_short_anywhere() {
    let (made, _, _) = long_log();
    let bad: Vec<u64> = (1..=90).step_by(9).collect();
    for steps in 0.. {
        let mut disk = disk_of(&made.image());
        let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
        for index in &bad {
            let (name, at) = place(&made, *index);
            disk.damage(&name, at + 20, &[1]);
            assert!(wal.note_faulty(*index).unwrap());
        }
        disk.crash_after(Some(steps));
        let repaired = wal.repair(&made.model.entries);
        if let Ok(repaired) = repaired {
            assert_eq!(repaired, bad);
            assert!(steps > 10);
            break;
        }
        let label = format!("after {steps} steps");
        assert_eq!(wal.faulty().count(), bad.len(), "{label}: nothing was repaired for sure");
        assert!(matches!(wal.repair(&made.model.entries), Err(WalError::Poisoned)), "{label}");
        wal.stage(state(9, 1));
        assert!(matches!(wal.commit(&mut disk), Err(WalError::Poisoned)), "{label}");
        for survive in [Survive::None, Survive::All, Survive::Random(steps + 5)] {
            let mut after = disk.after_crash(survive);
            let (mut wal, recovered, faulty) =
                open_known(&mut after, &made.model, &label).expect(&label);
            assert_eq!(recovered.torn_tail, None, "{label}");
            assert!(faulty.iter().all(|index| bad.contains(index)), "{label}: {faulty:?}");
            assert_eq!(wal.repair(&made.model.entries).unwrap(), faulty);
            assert!(image(&after) == made.image(), "{label}");
        }
    }
}

/// What is faulty has its place in the log until it is cut.
#[test]
fn a_faulty_entry_is_cut_like_any_other() {
    let (made, mut disk, mut wal) = long_log();
    let mut model = made.model;
    for index in [3, 70, 80] {
        let (name, at) = place(&Made { model: model.clone(), ..long_log().0 }, index);
        disk.damage(&name, at + 20, &[1]);
        assert!(wal.note_faulty(index).unwrap());
    }
    let batch = Batch {
        hard_state: state(2, 2).hard_state,
        truncate_from: Some(70),
        entries: vec![entry(2, 70, b"in its place")],
    };
    model.apply(&batch);
    write(&mut wal, &mut disk, batch);
    assert_eq!(wal.faulty().collect::<Vec<_>>(), [(3, 1)]);
    assert_eq!(open_known(&mut disk, &model, "").unwrap().2, [3]);
}

/// Goes over the log as a node does: a piece at a time, until it begins again.
fn scrub_all(wal: &mut Wal<MemDisk>, bytes_max: u64) -> (Vec<u64>, u64) {
    let (mut next, mut found, mut pieces) = (1, Vec::new(), 0);
    loop {
        let (then, damaged) = wal.scrub(next, bytes_max).unwrap();
        assert!(then == 1 || then > next, "it goes on");
        found.extend(damaged);
        pieces += 1;
        next = then;
        if next == 1 {
            return (found, pieces);
        }
    }
}

#[test]
fn a_scrub_finds_what_nobody_has_met_and_only_that() {
    let (made, disk, mut wal) = long_log();
    let total: u64 = made.model.entries.iter().map(|entry| entry.frame.len() as u64).sum();
    for bytes_max in [1, 1_000, 20_000, u64::MAX] {
        let (found, pieces) = scrub_all(&mut wal, bytes_max);
        assert_eq!(found, [0; 0], "{bytes_max}");
        // An entry is read as a whole, so a piece is as long as was asked for, or an entry longer.
        let least = (total / bytes_max.saturating_add(5_048)).max(1);
        assert!(pieces >= least && pieces <= 90, "{bytes_max}: {pieces}");
    }
    let bad = [1, 2, 17, 44, 45, 46, 90];
    for index in bad {
        let (name, at) = place(&made, index);
        disk.damage(&name, at + 40, &[8]);
    }
    // One of them is known; one more cannot be read.
    assert!(wal.note_faulty(44).unwrap());
    let (name, at) = place(&made, 60);
    disk.fail_reads(&name, at as u64..at as u64 + 1);
    let is_in_block = |index: &u64| {
        let (file, from) = place(&made, *index);
        let to = from + made.model.entries[usize::try_from(index - 1).unwrap()].frame.len();
        file == name && from / 4096 <= at / 4096 && at / 4096 <= (to - 1) / 4096
    };
    let is_new = |index: &u64| *index != 44 && (bad.contains(index) || is_in_block(index));
    let expected: Vec<u64> = (1..=90).filter(is_new).collect();
    assert!(expected.contains(&60));
    for bytes_max in [1, 1_000, 20_000, u64::MAX] {
        assert_eq!(scrub_all(&mut wal, bytes_max).0, expected, "{bytes_max}");
    }
    for index in scrub_all(&mut wal, 10_000).0 {
        assert!(wal.note_faulty(index).unwrap());
    }
    assert_eq!(scrub_all(&mut wal, 10_000).0, [0; 0], "all of it is known");
    assert_eq!(wal.repair(&made.model.entries).unwrap().len(), expected.len() + 1);
    assert_eq!(scrub_all(&mut wal, 10_000).0, [0; 0]);
    // What else stood in the block is written again when the log is opened.
    drop(open_known(&mut disk.clone(), &made.model, "repaired").unwrap());
    made.assert_restored(&image(&disk), "repaired");
}

/// Beyond the end it begins again, and what is only staged is none of its business.
#[test]
fn a_scrub_of_nothing_is_nothing() {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    assert_eq!(wal.scrub(1, 1000).unwrap(), (1, Vec::new()));
    wal.stage(append(vec![entry(1, 1, b"staged")]));
    assert_eq!(wal.scrub(1, 1000).unwrap(), (1, Vec::new()));
    wal.commit(&mut disk).unwrap();
    assert_eq!(wal.scrub(5, 1000).unwrap(), (1, Vec::new()));
}
