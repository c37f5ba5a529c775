//! The log, on a disk in memory: the disk's own part, a copy or two of the bytes, is in the count.

use std::hint::black_box;

use tercet_wal::{Batch, MemDisk, Wal, WalOptions};

use crate::Bench;

/// How often one run commits or reads.
const TIMES: u64 = 20;
/// How long the log is that is read and opened.
const ENTRIES: u64 = 4096;
/// How many entries a read takes.
const READ: u64 = 64;

pub(crate) fn benches() -> Vec<Bench> {
    vec![
        Bench {
            name: "wal/commit-1",
            what: "20 times: a batch of one entry of 256 bytes, staged and committed",
            prepare: || commit(1),
        },
        Bench {
            name: "wal/commit-64",
            what: "20 times: a batch of 64 entries, staged and committed",
            prepare: || commit(64),
        },
        Bench {
            name: "wal/read-tail",
            what: "20 times: 64 entries that are still in memory",
            prepare: || read(WalOptions::default().tail_bytes),
        },
        Bench {
            name: "wal/read-disk",
            what: "20 times: 64 entries from the disk, verified",
            prepare: || read(0),
        },
        Bench {
            name: "wal/open",
            what: "a log of 4096 entries, written 64 at a time, is opened",
            prepare: open,
        },
    ]
}

fn options(tail_bytes: usize) -> WalOptions {
    WalOptions { segment_bytes: 1 << 20, tail_bytes, ..WalOptions::default() }
}

fn batch(first: u64, count: u64) -> Batch {
    Batch { entries: (first..first + count).map(crate::entry).collect(), ..Batch::default() }
}

fn filled(tail_bytes: usize) -> (MemDisk, Wal<MemDisk>) {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, options(tail_bytes)).expect("memory does not fail");
    for first in (1..ENTRIES).step_by(64) {
        wal.stage(batch(first, 64));
        wal.commit(&mut disk).expect("memory does not fail");
    }
    assert_eq!(wal.last_index(), ENTRIES);
    (disk, wal)
}

fn commit(count: u64) -> Box<dyn FnMut()> {
    let mut disk = MemDisk::new();
    let options = WalOptions { segment_bytes: 4 << 20, ..WalOptions::default() };
    let mut wal = Wal::create(&mut disk, options).expect("memory does not fail");
    let mut batches: Vec<Batch> =
        (0..=TIMES).map(|round| batch(1 + round * count, count)).rev().collect();
    let mut round = move || {
        wal.stage(batches.pop().expect("it is run once"));
        wal.commit(&mut disk).expect("memory does not fail");
    };
    round();
    Box::new(move || (0..TIMES).for_each(|_| round()))
}

fn read(tail_bytes: usize) -> Box<dyn FnMut()> {
    let (disk, wal) = filled(tail_bytes);
    Box::new(move || {
        for at in 0..TIMES {
            let first = 1 + at * READ;
            let entries = wal.read(&disk, first, first + READ - 1, u64::MAX).expect("it is there");
            assert_eq!(black_box(entries).len() as u64, READ);
        }
    })
}

fn open() -> Box<dyn FnMut()> {
    let (mut disk, wal) = filled(0);
    drop(wal);
    Box::new(move || {
        let (wal, _) = Wal::open(&mut disk, options(0)).expect("it is whole");
        assert_eq!(black_box(wal).last_index(), ENTRIES);
    })
}
