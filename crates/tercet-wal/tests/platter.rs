//! The disk in memory by itself: what a crash, a failed sync and a bad block do to its platter.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use std::io;

use tercet_wal::{Disk as _, DiskFile as _, MemDisk, MemFile, Survive};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;

/// A file of so many sectors, synced; each byte of it is 1.
fn file(disk: &mut MemDisk, sectors: usize) -> MemFile {
    let file = disk.create("file").unwrap();
    file.write_at(&vec![1; sectors * SECTOR], 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file
}

/// Which sectors hold what was written last; each holds that or what it held before.
fn sectors(disk: &MemDisk) -> String {
    let bytes = disk.contents("file").unwrap();
    let sector = |bytes: &[u8]| match bytes.first() {
        Some(byte) if bytes.iter().all(|other| other == byte) => char::from(b'0' + *byte),
        _ => '?',
    };
    bytes.chunks(SECTOR).map(sector).collect()
}

/// A crash keeps each sector that was not synced, or does not; a seed always leaves the same.
#[test]
fn a_crash_keeps_some_sectors() {
    let mut disk = MemDisk::new();
    let file = file(&mut disk, 12);
    file.write_at(&[2; 9 * SECTOR], SECTOR as u64).unwrap();
    assert_eq!(sectors(&disk), "122222222211");
    let left = |survive| sectors(&disk.after_crash(survive));
    assert_eq!(left(Survive::All), "122222222211");
    assert_eq!(left(Survive::None), "111111111111");
    let random: Vec<String> = (0..6).map(|seed| left(Survive::Random(seed * 1000))).collect();
    let pinned = [
        "122222221111",
        "112221112211",
        "111112112211",
        "112221122111",
        "111122112211",
        "112221121111",
    ];
    assert_eq!(random, pinned);
    // Once more, from what a crash left: nothing is on its way there.
    let after = disk.after_crash(Survive::Random(5000));
    for seed in 0..9 {
        assert_eq!(sectors(&after.after_crash(Survive::Random(seed))), sectors(&after));
    }
}

/// So it is with a file's length and with names.
#[test]
fn a_crash_keeps_some_lengths_and_names() {
    let mut disk = MemDisk::new();
    let file = file(&mut disk, 2);
    file.write_at(&[2; SECTOR + 10], 2 * SECTOR as u64).unwrap();
    disk.create("other").unwrap();
    let left = |survive| {
        let after = disk.after_crash(survive);
        (sectors(&after), after.contents("other").is_some())
    };
    assert_eq!(left(Survive::All), ("1122".to_owned(), true));
    assert_eq!(left(Survive::None), ("11".to_owned(), false));
    let random: Vec<_> = (0..64).map(|seed| left(Survive::Random(seed * 77))).collect();
    for (sectors, has_other) in [("11", false), ("11", true), ("1122", true), ("1100", false)] {
        assert!(random.contains(&(sectors.to_owned(), has_other)), "{sectors} {has_other}");
    }
}

/// Steps are counted down to the death of the machine.
#[test]
fn the_machine_dies_when_it_was_told_to() {
    let mut disk = MemDisk::new();
    let file = file(&mut disk, 1);
    assert_eq!(disk.steps_left(), None);
    disk.crash_after(Some(2));
    file.write_at(&[2], 0).unwrap();
    assert_eq!(disk.steps_left(), Some(1));
    file.sync().unwrap();
    assert_eq!(disk.steps_left(), Some(0));
    assert!(file.write_at(&[3], 0).is_err() && file.sync().is_err());
    assert_eq!(disk.after_crash(Survive::All).steps_left(), None);
}

#[test]
fn room_is_used_up() {
    let mut disk = MemDisk::new();
    disk.set_free_bytes(1000);
    disk.create_zeroed("a", 600).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 400);
    let error = disk.create_zeroed("b", 401).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    disk.create_zeroed("b", 400).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
}

/// The same damage twice is none.
#[test]
fn damage_flips_bits() {
    let mut disk = MemDisk::new();
    file(&mut disk, 1);
    disk.damage("file", 3, &[3, 0, 1]);
    assert_eq!(disk.contents("file").unwrap()[2..7], [1, 2, 1, 0, 1]);
    disk.damage("file", 3, &[3, 0, 1]);
    assert_eq!(sectors(&disk), "1");
}

/// A part of a block is written by reading the rest of it; a whole one is not.
#[test]
fn a_part_of_an_unreadable_block_cannot_be_written() {
    let fails = |at: usize, length: usize| {
        let mut disk = MemDisk::new();
        let file = file(&mut disk, 4 * BLOCK / SECTOR);
        disk.fail_reads("file", BLOCK as u64..2 * BLOCK as u64);
        let result = file.write_at(&vec![2; length], at as u64);
        let mut buffer = [0];
        let is_bad = file.read_at(&mut buffer, BLOCK as u64 + 100).is_err();
        assert_eq!(is_bad, at + length <= BLOCK || at >= 2 * BLOCK || result.is_err());
        result.is_err()
    };
    assert!(!fails(BLOCK, BLOCK) && !fails(0, BLOCK) && !fails(2 * BLOCK, BLOCK));
    assert!(!fails(2 * BLOCK, 10) && !fails(BLOCK - 10, 10) && !fails(0, 3 * BLOCK));
    assert!(fails(BLOCK, 10) && fails(2 * BLOCK - 10, 10) && fails(BLOCK + 5, 10));
    assert!(fails(BLOCK - 10, 20) && fails(2 * BLOCK - 10, 20));
}

/// What a sync failed to write looks clean: no later sync writes it, unless it is written anew, and
/// then the whole sector is.
#[test]
fn what_a_sync_failed_to_write_stays_unwritten() {
    let failed = || {
        let mut disk = MemDisk::new();
        let file = file(&mut disk, 6);
        file.write_at(&[2; 3 * SECTOR], SECTOR as u64).unwrap();
        disk.fail_sync(1);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        (disk, file)
    };
    let (disk, file) = failed();
    assert_eq!(sectors(&disk), "122211");
    assert_eq!(sectors(&disk.after_crash(Survive::None)), "111111");
    file.write_at(&[2], 2 * SECTOR as u64 + 7).unwrap();
    file.sync().unwrap();
    assert_eq!(sectors(&disk.after_crash(Survive::None)), "112111");
    let (disk, file) = failed();
    file.write_at(&[2; 2], 3 * SECTOR as u64 - 1).unwrap();
    file.sync().unwrap();
    assert_eq!(sectors(&disk.after_crash(Survive::None)), "112211");
}
