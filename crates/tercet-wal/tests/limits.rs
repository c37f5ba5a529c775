//! As much as was asked for: what one read gives, what is kept in memory, how much a scrub reads,
//! when a segment is full and when the next one is made beforehand.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use support::made::{FRAME_HEADER, HEADER, ID};
use support::{append, entry, image, segment, small, state, write};
use tercet_wal::{Batch, Disk, Entry, MemDisk, MemFile, Wal, WalError, WalOptions, Zeros};

/// How long each entry is on disk.
const FRAME: usize = 200;
/// What every segment keeps free for votes.
const VOTES: usize = 64 << 10;

/// An entry of [`FRAME`] bytes.
fn even(index: u64) -> Entry {
    let body = vec![u8::try_from(index % 251).unwrap(); FRAME - entry(1, 1, b"").frame.len()];
    let entry = entry(1, index, &body);
    assert_eq!(entry.frame.len(), FRAME);
    entry
}

fn options(tail_bytes: usize) -> WalOptions {
    WalOptions { tail_bytes, ..small() }
}

/// A log with so many entries, each in a frame of its own.
fn log(count: u64, tail_bytes: usize) -> (Wal<MemDisk>, MemDisk) {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, options(tail_bytes)).unwrap();
    for index in 1..=count {
        write(&mut wal, &mut disk, append(vec![even(index)]));
    }
    (wal, disk)
}

/// Where an entry of [`log`] stands.
const fn at(index: usize) -> usize {
    HEADER + (index - 1) * (FRAME_HEADER + FRAME) + FRAME_HEADER
}

fn damage(disk: &MemDisk, index: u64) {
    disk.damage(&segment(1), at(usize::try_from(index).unwrap()) + 100, &[1]);
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.header.index).collect()
}

/// The entries that are read although nothing on disk is as it was.
fn in_memory(wal: &Wal<MemDisk>, disk: &MemDisk) -> Vec<u64> {
    let all = vec![0x55; disk.contents(&segment(1)).unwrap().len() - HEADER];
    disk.damage(&segment(1), HEADER, &all);
    let readable = |index: &u64| {
        let is_readable = wal.read(disk, *index, *index, 0).is_ok();
        assert_eq!(wal.header(disk, *index).is_ok(), is_readable, "entry {index}");
        is_readable
    };
    let found = (1..=wal.last_index()).filter(readable).collect();
    disk.damage(&segment(1), HEADER, &all);
    found
}

/// A read gives all that was asked for and fits, and one entry at least: from memory, from disk.
#[test]
fn a_read_gives_what_fits() {
    for tail_bytes in [0, 1 << 20] {
        let (mut wal, mut disk) = log(0, tail_bytes);
        write(&mut wal, &mut disk, append((1..=9).map(even).collect()));
        assert_eq!(in_memory(&wal, &disk).len(), if tail_bytes == 0 { 1 } else { 9 });
        for (first, last) in [(1, 9), (1, 1), (2, 5), (4, 8)] {
            for fits in 0..10 {
                for bytes_max in [fits * FRAME, (fits + 1) * FRAME - 1] {
                    let expected: Vec<u64> = (first..=last).take(fits.max(1)).collect();
                    let found = wal.read(&disk, first, last, bytes_max as u64).unwrap();
                    assert_eq!(indexes(&found), expected, "{first}..={last} in {bytes_max}");
                }
            }
        }
        for index in 1..=9 {
            assert_eq!(wal.header(&disk, index).unwrap(), even(index).header);
        }
    }
}

/// Damage behind what was asked for is nothing to a read; damage in it that is known ends it.
#[test]
fn a_read_ends_before_damage() {
    let (mut wal, disk) = log(9, 0);
    damage(&disk, 4);
    // Two entries fit, and the third is not touched, up to the byte where it begins.
    for bytes_max in [2 * FRAME, 2 * (FRAME_HEADER + FRAME)] {
        assert_eq!(indexes(&wal.read(&disk, 2, 9, bytes_max as u64).unwrap()), [2, 3]);
    }
    assert!(!wal.is_faulty(4));
    assert!(wal.note_faulty(4).unwrap());
    assert!(wal.is_faulty(4) && !wal.is_faulty(3) && !wal.is_faulty(5));
    assert_eq!(indexes(&wal.read(&disk, 1, 9, u64::MAX).unwrap()), [1, 2, 3]);
    assert_eq!(indexes(&wal.read(&disk, 5, 9, u64::MAX).unwrap()), [5, 6, 7, 8, 9]);
}

/// The latest entries stay in memory, as many as fit, and the last one always.
#[test]
fn the_tail_in_memory_is_as_long_as_it_may_be() {
    let (mut wal, mut disk) = log(20, 10 * FRAME);
    assert_eq!(in_memory(&wal, &disk), (11..=20).collect::<Vec<_>>());
    // What is cut makes room.
    let entries = (15..=18).map(even).collect();
    write(&mut wal, &mut disk, Batch { truncate_from: Some(15), entries, ..Batch::default() });
    assert_eq!(in_memory(&wal, &disk), (11..=18).collect::<Vec<_>>());
    write(&mut wal, &mut disk, append((19..=20).map(even).collect()));
    assert_eq!(in_memory(&wal, &disk), (11..=20).collect::<Vec<_>>());
    write(&mut wal, &mut disk, append((21..=23).map(even).collect()));
    assert_eq!(in_memory(&wal, &disk), (14..=23).collect::<Vec<_>>());
    let (wal, disk) = log(3, FRAME - 1);
    assert_eq!(in_memory(&wal, &disk), [3]);
}

/// What is staged is read from memory, before it is on disk and however much it is.
#[test]
fn what_is_staged_is_read_from_memory() {
    let (mut wal, mut disk) = log(3, 0);
    wal.stage(append((4..=6).map(even).collect()));
    assert_eq!(indexes(&wal.read(&disk, 4, 6, u64::MAX).unwrap()), [4, 5, 6]);
    assert_eq!(indexes(&wal.read(&disk, 1, 6, u64::MAX).unwrap()), [1, 2, 3]);
    wal.commit(&mut disk).unwrap();
    assert_eq!(in_memory(&wal, &disk), [6]);
}

/// A scrub reads about what it was asked for: whole entries until that many bytes were read, those
/// that are damaged among them.
#[test]
fn a_scrub_reads_what_it_was_asked_for() {
    let (mut wal, disk) = log(9, 0);
    let frames = |count: usize| (count * FRAME) as u64;
    assert_eq!(wal.scrub(1, frames(2)).unwrap(), (3, vec![]));
    assert_eq!(wal.scrub(1, frames(2) - 1).unwrap(), (3, vec![]), "one whole entry more");
    assert_eq!(wal.scrub(7, frames(2)).unwrap(), (1, vec![]), "the last one is in memory");
    for index in [1, 2, 3] {
        damage(&disk, index);
    }
    // A damaged one costs its header.
    assert_eq!(wal.scrub(1, 1).unwrap(), (2, vec![1]));
    for index in [1, 2, 3] {
        assert!(wal.note_faulty(index).unwrap());
    }
    assert_eq!(wal.scrub(1, frames(2)).unwrap(), (3, vec![]), "known ones cost what they are");
    // What is staged is not in the way of what stands before it.
    damage(&disk, 8);
    wal.stage(append((10..=12).map(even).collect()));
    assert_eq!(wal.scrub(4, frames(9)).unwrap(), (1, vec![8]));
}

/// An identifier is found, however many stand in its segment.
#[test]
fn one_identifier_is_found_among_thousands() {
    let mut disk = MemDisk::new();
    let options = WalOptions { segment_bytes: 1 << 20, ..options(0) };
    let mut wal = Wal::create(&mut disk, options).unwrap();
    write(&mut wal, &mut disk, append((1..=3000).map(|index| entry(1, index, b"x")).collect()));
    assert_eq!(image(&disk).len(), 1);
    let length = entry(1, 1, b"x").frame.len();
    for index in [1, 2, 1500, 2999] {
        let place = HEADER + FRAME_HEADER + (index - 1) * length;
        disk.damage(&segment(1), place + length - 1, &[1]);
        let index = index as u64;
        assert!(matches!(wal.read(&disk, index, index, 0), Err(WalError::Faulty { .. })));
        assert!(wal.note_faulty(index).unwrap(), "entry {index}");
    }
    assert_eq!(wal.faulty().collect::<Vec<_>>(), [(1, 1), (2, 1), (1500, 1), (2999, 1)]);
}

/// How long a segment of [`small`] is.
fn segment_bytes() -> usize {
    image(&log(0, 0).1)[&segment(1)].len()
}

/// What a frame with one entry, which is so long, takes of a segment.
const fn taken(entry_bytes: usize) -> usize {
    (FRAME_HEADER + entry_bytes).next_multiple_of(8) + 2 * ID
}

/// The entry that takes so much of a segment.
fn taking(bytes: usize) -> Entry {
    let empty = entry(1, 1, b"").frame.len();
    let body = vec![7; bytes - 2 * ID - FRAME_HEADER - empty];
    let entry = entry(1, 1, &body);
    assert_eq!(taken(entry.frame.len()), bytes);
    entry
}

/// Entries fill a segment up to what is kept for votes, and not a byte less.
#[test]
fn a_segment_is_filled_up_to_the_room_for_votes() {
    let room = segment_bytes() - HEADER - VOTES;
    for (bytes, segments) in [(room, 1), (room + 8, 2)] {
        let mut disk = MemDisk::new();
        let mut wal = Wal::create(&mut disk, small()).unwrap();
        write(&mut wal, &mut disk, append(vec![taking(bytes)]));
        assert_eq!(image(&disk).len(), segments, "{bytes}");
        write(&mut wal, &mut disk, state(1, 1));
        assert_eq!(image(&disk).len(), segments, "a vote has its place");
        let more = entry(1, 2, b"");
        write(&mut wal, &mut disk, append(vec![more]));
        assert_eq!(image(&disk).len(), 2);
    }
}

/// A disk that remembers what it was asked to prepare, and what to let go of.
#[derive(Debug, Default)]
struct Watched {
    disk: MemDisk,
    prepared: Vec<(String, u64, Zeros)>,
    released: RefCell<Vec<(String, Range<u64>)>>,
}

impl Disk for Watched {
    type File = MemFile;

    fn open(&mut self, name: &str) -> io::Result<Option<MemFile>> {
        self.disk.open(name)
    }

    fn create(&mut self, name: &str) -> io::Result<MemFile> {
        self.disk.create(name)
    }

    fn prepare(&mut self, name: &str, bytes: u64, zeros: Zeros) {
        self.prepared.push((name.to_owned(), bytes, zeros));
    }

    fn create_zeroed(&mut self, name: &str, bytes: u64) -> io::Result<MemFile> {
        self.disk.create_zeroed(name, bytes)
    }

    fn release(&self, name: &str, bytes: Range<u64>) {
        self.released.borrow_mut().push((name.to_owned(), bytes));
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }

    fn sync_dir(&mut self, folder: &str) -> io::Result<()> {
        self.disk.sync_dir(folder)
    }

    fn same_file(&self, file: &MemFile, name: &str) -> io::Result<bool> {
        self.disk.same_file(file, name)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

/// The next segment is made beforehand when more than half of one is used, unless the disk is
/// nearly full.
#[test]
fn the_next_segment_is_prepared_at_half_of_one() {
    let half = segment_bytes() / 2 - HEADER;
    for has_room in [true, false] {
        let mut disk = Watched::default();
        let options = WalOptions { reserve_bytes: 1000, ..small() };
        let mut wal = Wal::create(&mut disk, options).unwrap();
        disk.disk.set_free_bytes(if has_room { 1 << 30 } else { 999 });
        wal.room(&disk);
        wal.stage(append(vec![taking(half)]));
        wal.commit(&mut disk).unwrap();
        assert_eq!(disk.prepared, [], "exactly half is used");
        wal.stage(state(1, 1));
        wal.commit(&mut disk).unwrap();
        let next = (segment(2), segment_bytes() as u64, Zeros::Written);
        let expected = if has_room { vec![next] } else { vec![] };
        assert_eq!(disk.prepared, expected, "has room: {has_room}");
    }
}

/// Zeros that large frames replace are not worth to be written.
#[test]
fn for_large_frames_the_next_segment_is_only_reserved() {
    let mut disk = Watched::default();
    let options = WalOptions { segment_bytes: 1 << 20, ..small() };
    let mut wal = Wal::create(&mut disk, options).unwrap();
    let mut write = |index: u64, bytes: usize| {
        wal.stage(append(vec![entry(1, index, &vec![7; bytes])]));
        wal.commit(&mut disk).unwrap();
        (wal.gets_much(), std::mem::take(&mut disk.prepared))
    };
    assert_eq!(write(1, 1000), (false, vec![]));
    let next = |zeros| vec![(segment(2), 1 << 20, zeros)];
    assert_eq!(write(2, 600_000), (true, next(Zeros::Reserved)));
    assert_eq!(write(3, 1000), (false, next(Zeros::Written)), "which is asked for once");
}

/// The newest segment and two before it stay in the system's memory, others go one by one.
#[test]
fn old_segments_leave_the_systems_memory() {
    let mut disk = Watched::default();
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    let mut index = 0;
    while image(&disk.disk).len() < 6 {
        index += 1;
        wal.stage(append(vec![entry(1, index, &[7; 10_000])]));
        wal.commit(&mut disk).unwrap();
    }
    let expected: Vec<_> = (1..=3).map(|number| (segment(number), 0..u64::MAX)).collect();
    assert_eq!(disk.released.into_inner(), expected, "six segments were made");
}
