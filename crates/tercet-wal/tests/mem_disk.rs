//! The disk in memory against what it stands for: a cache that is lost, and a platter that is not.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use proptest::prelude::*;
use tercet_wal::{Disk, DiskFile, MemDisk, MemFile, Survive};

const NAME: &str = "file";

#[derive(Clone, Debug)]
enum Step {
    Write { at: usize, length: usize, byte: u8 },
    SetLen(usize),
    Sync,
    Damage { at: usize, mask: u8 },
    Crash { keeps_all: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_000_usize, 1..2_000_usize, any::<u8>())
            .prop_map(|(at, length, byte)| Step::Write { at, length, byte }),
        1 => (0..6_000_usize).prop_map(Step::SetLen),
        3 => Just(Step::Sync),
        1 => (0..6_000_usize, any::<u8>()).prop_map(|(at, mask)| Step::Damage { at, mask }),
        2 => any::<bool>().prop_map(|keeps_all| Step::Crash { keeps_all }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Only a sync makes bytes durable, and no copy of a disk shares what is written later.
    #[test]
    fn a_crash_leaves_what_was_synced(steps in prop::collection::vec(step(), 1..40)) {
        let mut disk = MemDisk::new();
        let mut file = disk.create(NAME).unwrap();
        disk.sync_dir("").unwrap();
        let (mut platter, mut cache) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Write { at, length, byte } => {
                    file.write_at(&vec![byte; length], at as u64).unwrap();
                    cache.resize(cache.len().max(at + length), 0);
                    cache[at..at + length].fill(byte);
                }
                Step::SetLen(length) => {
                    file.set_len(length as u64).unwrap();
                    cache.resize(length, 0);
                }
                Step::Sync => {
                    file.sync().unwrap();
                    platter.clone_from(&cache);
                }
                // What is not on the platter cannot be damaged there.
                Step::Damage { at, .. } if at >= platter.len() => {}
                Step::Damage { at, mask } => {
                    disk.damage(NAME, at, &[mask]);
                    for bytes in [&mut platter, &mut cache] {
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte ^= mask;
                        }
                    }
                }
                Step::Crash { keeps_all } => {
                    let survive = if keeps_all { Survive::All } else { Survive::None };
                    disk = disk.after_crash(survive);
                    file = disk.open(NAME).unwrap().unwrap();
                    let left = if keeps_all { cache } else { platter };
                    (platter, cache) = (left.clone(), left);
                }
            }
            let seen = |disk: &MemDisk| disk.contents(NAME).unwrap();
            prop_assert_eq!(seen(&disk), &cache[..]);
            prop_assert_eq!(seen(&disk.after_crash(Survive::All)), &cache[..]);
            prop_assert_eq!(seen(&disk.after_crash(Survive::None)), &platter[..]);
            let mut copy = disk.after_crash(Survive::None);
            copy.open(NAME).unwrap().unwrap().write_at(b"another disk", 0).unwrap();
        }
    }
}

/// What a failed sync did not write looks written, until somebody asks the disk itself; no later
/// sync writes it.
#[test]
fn a_sync_that_failed_is_not_made_good_by_the_next() {
    let mut disk = MemDisk::new();
    let file = disk.create(NAME).unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(&[1; 600], 0).unwrap();
    disk.fail_sync(1);
    file.sync().unwrap_err();
    assert_eq!(disk.after_crash(Survive::None).contents(NAME), Some(Vec::new()));
    file.sync().unwrap();
    assert_eq!(disk.contents(NAME), Some(vec![1; 600]));
    assert_eq!(
        disk.after_crash(Survive::None).contents(NAME),
        Some(vec![0; 600]),
        "only its length"
    );
    file.forget_cache(0..u64::MAX);
    assert_eq!(disk.contents(NAME), Some(vec![0; 600]));
    file.write_at(&[2], 599).unwrap();
    file.sync().unwrap();
    let mut expected = vec![0; 600];
    expected[599] = 2;
    assert_eq!(disk.after_crash(Survive::None).contents(NAME), Some(expected));
}

/// A process that starts again on a machine that went on sees what the machine has in memory, also
/// where the disk does not have it.
#[test]
fn pages_that_look_clean_outlive_the_process() {
    let mut disk = MemDisk::new();
    let file = disk.create(NAME).unwrap();
    file.write_at(&[1; 512], 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    disk.fail_sync(1);
    file.sync().unwrap_err();
    let mut disk = disk.after_crash(Survive::All);
    assert_eq!(disk.contents(NAME), Some(vec![2; 512]));
    disk.open(NAME).unwrap().unwrap().forget_cache(0..512);
    assert_eq!(disk.contents(NAME), Some(vec![1; 512]));
}

/// A file of a log with two pages in it.
fn two_pages(disk: &mut MemDisk) -> MemFile {
    let file = disk.create("wal/1").unwrap();
    file.set_len(4096).unwrap();
    file.sync().unwrap();
    disk.sync_dir("wal").unwrap();
    file.write_at(&[1; 512], 0).unwrap();
    file.write_at(&[2; 512], 1024).unwrap();
    file
}

#[test]
fn a_lost_write_is_confirmed_and_is_not_there() {
    let mut disk = MemDisk::new();
    disk.lose_write("wal", 0, false);
    let other = disk.create("identity").unwrap();
    other.write_at(&[9; 512], 0).unwrap();
    other.sync().unwrap();
    let file = two_pages(&mut disk);
    assert_eq!(disk.gone_astray(), 0, "only a page that was on the platter, of a log");
    file.sync().unwrap();
    assert_eq!(disk.gone_astray(), 1);
    let written = disk.contents("wal/1").unwrap();
    assert_eq!((written[0], written[1024]), (1, 2), "it looks written");
    file.sync().unwrap();
    let left = disk.after_crash(Survive::None).contents("wal/1").unwrap();
    assert_eq!((left[0], left[1024]), (0, 2), "and one of the two is not");
}

#[test]
fn a_misdirected_write_stands_elsewhere() {
    let mut disk = MemDisk::new();
    let file = two_pages(&mut disk);
    // The fifth page of the file.
    disk.lose_write("wal", 4 << 32, true);
    file.sync().unwrap();
    let left = disk.after_crash(Survive::None).contents("wal/1").unwrap();
    assert_eq!((left[0], left[1024], left[4 * 512]), (0, 2, 1));
}

/// Two writes that come to one page at once are, in a log, an entry and its second copy.
#[test]
fn a_page_with_two_writes_is_not_lost() {
    let mut disk = MemDisk::new();
    let file = two_pages(&mut disk);
    file.write_at(&[3; 8], 500).unwrap();
    file.write_at(&[3; 8], 1030).unwrap();
    disk.lose_write("wal", 0, false);
    file.sync().unwrap();
    let left = disk.after_crash(Survive::None).contents("wal/1").unwrap();
    assert_eq!((left[0], left[500], left[1024], left[1030]), (1, 3, 2, 3));
}
