//! Real files: the lock, the modes, what is done to them behind the node's back. And the disks that
//! fail: after an error nothing more is written, no sync is tried again, and a full disk is no error.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use support::{Model, Rng, append, entry, open_all, segment, small, state, write};
use tempfile::TempDir;
use tercet_wal::{
    Batch, Disk, DiskFile, Entry, FileDisk, MemDisk, MemFile, OpenDirError, Room, Survive, Wal,
    WalError, WalOptions, Zeros,
};

fn open_dir(dir: &TempDir) -> FileDisk {
    FileDisk::open(dir.path().join("n1")).unwrap()
}

fn files(dir: &TempDir) -> Vec<String> {
    open_dir(dir).list("wal").unwrap()
}

/// How many segments [`write_log`] makes.
const SEGMENTS: u32 = 4;

/// A log of a few segments, and what is in it.
fn write_log<D: Disk>(disk: &mut D) -> (Wal<D>, Model) {
    let mut wal = Wal::create(disk, small()).unwrap();
    let mut model = Model::default();
    let mut rng = Rng(1);
    for term in 1..=6 {
        let from = (term == 4).then_some(3);
        let kept = from.map_or(model.last(), |from| from - 1);
        let entries = (kept + 1..=kept + 3).map(|index| entry(term, index, &rng.bytes(12_000)));
        let batch = Batch {
            hard_state: state(term, 1).hard_state,
            truncate_from: from,
            entries: entries.collect(),
        };
        model.apply(&batch);
        write(&mut wal, disk, batch);
    }
    let last = format!("{SEGMENTS:08}.seg");
    assert!(disk.list("wal").unwrap().contains(&last), "it has {SEGMENTS} segments");
    (wal, model)
}

#[test]
fn a_directory_is_one_process_s() {
    let dir = tempfile::tempdir().unwrap();
    let first = open_dir(&dir);
    let second = FileDisk::open(dir.path().join("n1")).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(second, OpenDirError::Locked { pid: Some(found) } if found == pid));
    let words = format!(
        "the directory is in use by another process (pid {pid}): stop that one, or give this node \
         its own directory"
    );
    assert_eq!(second.to_string(), words);
    drop(first);
    drop(open_dir(&dir));
}

#[test]
fn nobody_else_can_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    drop(write_log(&mut disk));
    disk.create("identity").unwrap();
    drop(disk);
    let mut seen = 0;
    let mut look = |path: &Path| {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        seen += 1;
    };
    let top = dir.path().join("n1");
    look(&top);
    for folder in [top.clone(), top.join("wal")] {
        fs::read_dir(folder).unwrap().for_each(|entry| look(&entry.unwrap().path()));
    }
    assert!(seen >= 6, "{seen} files were looked at");
}

#[test]
fn opening_again_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    let (wal, mut model) = write_log(&mut disk);
    assert!(wal.last_index() == model.last() && wal.first_index() == 1);
    drop((wal, disk));
    for round in 0..3 {
        let mut disk = open_dir(&dir);
        let (mut wal, recovered, found) = open_all(&mut disk, small()).unwrap();
        assert_eq!((recovered.torn_tail, found), (None, model.clone()), "round {round}");
        let batch = append(vec![entry(7 + round, model.last() + 1, &[1; 40_000])]);
        model.apply(&batch);
        write(&mut wal, &mut disk, batch);
        assert_eq!(support::read_all(&wal, &disk).unwrap(), model.entries);
    }
    assert!(files(&dir).len() >= 4, "{:?}", files(&dir));
    // A second log is not made over the first.
    let error = Wal::create(&mut open_dir(&dir), small()).unwrap_err();
    assert!(matches!(&error, WalError::Io { source, .. }
        if source.kind() == io::ErrorKind::AlreadyExists));
}

/// The system takes 1024 pieces in one write.
#[test]
fn a_frame_of_thousands_of_entries_is_one_frame() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    let mut model = Model::default();
    let lengths = [0, 1, 7, 8, 9];
    let entries = (1..=3000).map(|index| {
        let body = vec![7; lengths[usize::try_from(index).unwrap() % 5]];
        entry(1, index, &body)
    });
    let batch = append(entries.collect());
    model.apply(&batch);
    write(&mut wal, &mut disk, batch);
    drop((wal, disk));
    let (_, _, found) = open_all(&mut open_dir(&dir), small()).unwrap();
    assert!(found == model);
}

#[test]
fn a_read_ends_at_its_limits() {
    let mut disk = MemDisk::new();
    let (wal, model) = write_log(&mut disk);
    let (reopened, _) = Wal::open(&mut disk.clone(), small()).unwrap();
    let last = model.last();
    for log in [&wal, &reopened] {
        for first in 1..=last {
            for to in first..=last {
                for limit in [0, 1, 12_100, 30_000, u64::MAX] {
                    let found = log.read(&disk, first, to, limit).unwrap();
                    let bytes: u64 = found.iter().map(|entry| entry.frame.len() as u64).sum();
                    let all = &model.entries[usize::try_from(first).unwrap() - 1..];
                    assert_eq!(found, all[..found.len()], "{first}..={to}, {limit}");
                    assert!(!found.is_empty() && found.len() as u64 <= to - first + 1);
                    assert!(found.len() == 1 || bytes <= limit, "{first}..={to}, {limit}");
                }
            }
        }
    }
}

/// Does something to a file of a running log; each is noticed within one turn over all files.
fn assert_noticed(change: impl Fn(&Path), what: &str) {
    for number in 1..=SEGMENTS {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open_dir(&dir);
        let (mut wal, _) = write_log(&mut disk);
        for _ in 0..10 {
            wal.check_files(&disk).unwrap();
        }
        change(&dir.path().join("n1").join(segment(number)));
        let noticed = (0..SEGMENTS).find_map(|_| wal.check_files(&disk).err());
        match noticed {
            Some(error @ WalError::Lost { .. }) => {
                let words = format!(
                    "{} was deleted, replaced or shortened while the node ran",
                    segment(number)
                );
                assert_eq!(error.to_string(), words, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_segment_that_is_deleted_is_noticed() {
    assert_noticed(|path| fs::remove_file(path).unwrap(), "deleted");
    assert_noticed(|path| fs::rename(path, path.with_extension("old")).unwrap(), "renamed");
}

#[test]
fn a_segment_that_is_replaced_is_noticed() {
    assert_noticed(
        |path| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(&copy, path).unwrap();
        },
        "replaced by its copy",
    );
}

#[test]
fn a_segment_that_is_shortened_is_noticed() {
    assert_noticed(
        |path| {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length - 1).unwrap();
        },
        "shortened",
    );
}

#[test]
fn a_log_whose_folder_is_gone_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    let (mut wal, _) = write_log(&mut disk);
    fs::remove_dir_all(dir.path().join("n1/wal")).unwrap();
    assert!(matches!(wal.check_files(&disk), Err(WalError::Lost { .. })));
    drop((wal, disk));
    let opened = Wal::open(&mut open_dir(&dir), small());
    assert!(matches!(opened, Err(WalError::Missing { .. })));
}

/// A read of what is not there any more is an error, not a panic and not zeros.
#[test]
fn a_read_behind_a_shortened_file_s_end_fails() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    let (wal, _) = write_log(&mut disk);
    let path = dir.path().join("n1").join(segment(1));
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(6000).unwrap();
    assert!(
        matches!(wal.read(&disk, 1, 1, 10), Err(WalError::Lost { path }) if path == segment(1))
    );
}

#[test]
fn a_prepared_file_is_the_one_that_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    let path = dir.path().join("n1").join(segment(2));
    let length = 300_000;
    let is_zeroed = |file: &File| {
        let mut bytes = vec![1; length];
        FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert_eq!(file.metadata().unwrap().len(), length as u64);
        assert_eq!(file.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
    };
    // As prepared.
    disk.prepare(&segment(2), length as u64, Zeros::Written);
    disk.prepare(&segment(2), 1, Zeros::Written);
    is_zeroed(&disk.create_zeroed(&segment(2), length as u64).unwrap());
    // Prepared with another length.
    disk.prepare(&segment(2), 1000, Zeros::Written);
    is_zeroed(&disk.create_zeroed(&segment(2), length as u64).unwrap());
    // Never prepared, and in the way of what is there.
    fs::write(&path, [7; 1000]).unwrap();
    is_zeroed(&disk.create_zeroed(&segment(2), length as u64).unwrap());
}

/// Who needs a file before all its zeros are written has it all the same, with its space; and so it is
/// where they are only reserved.
#[test]
fn a_prepared_file_that_is_wanted_at_once_is_whole() {
    for zeros in [Zeros::Written, Zeros::Reserved] {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = open_dir(&dir);
        let bytes: u64 = 64 << 20;
        disk.prepare(&segment(1), bytes, zeros);
        let file = disk.create_zeroed(&segment(1), bytes).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), bytes);
        assert!(metadata.blocks() * 512 >= bytes, "{zeros:?}: {} blocks", metadata.blocks());
        let mut piece = vec![1; 1 << 20];
        for at in (0..bytes).step_by(1 << 20) {
            FileExt::read_exact_at(&file, &mut piece, at).unwrap();
            assert!(piece.iter().all(|byte| *byte == 0), "{zeros:?}: at {at}");
        }
        // And keeps what is written there.
        DiskFile::write_at(&file, b"last", bytes - 4).unwrap();
        DiskFile::sync(&file).unwrap();
        drop((file, disk));
        let found = fs::read(dir.path().join("n1").join(segment(1))).unwrap();
        assert_eq!(&found[found.len() - 8..], b"\0\0\0\0last");
    }
}

/// Whether a range is in the system's memory; `None` where the file system has no other place for it,
/// or does not say.
///
/// A question makes the system read what it asks for, and for up to some tenths of a second in a row
/// a disk may be done with that before the answer. So bytes of all the range are asked for, with
/// pauses: it is in memory only if all of them are.
fn is_in_memory(path: &Path, range: Range<u64>) -> Option<bool> {
    const TMPFS: i64 = 0x0102_1994;
    let file = File::open(path).unwrap();
    if rustix::fs::fstatfs(&file).unwrap().f_type == TMPFS {
        return None;
    }
    for offset in range.clone().step_by(128 << 10) {
        if offset > range.start {
            std::thread::sleep(Duration::from_millis(200));
        }
        let mut byte = [0];
        let buffers = &mut [io::IoSliceMut::new(&mut byte)];
        match rustix::io::preadv2(&file, buffers, offset, rustix::io::ReadWriteFlags::NOWAIT) {
            Ok(read) => assert_eq!(read, 1, "{offset} is past the end"),
            Err(rustix::io::Errno::AGAIN) => return Some(false),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::OPNOTSUPP);
                return None;
            }
        }
    }
    Some(true)
}

/// What is released leaves the system's memory, though it was not written yet, and can be read.
#[test]
fn what_is_released_leaves_the_systems_memory() {
    // Where tests are built there is mostly a disk; a temporary folder is often nothing but memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut disk = open_dir(&dir);
    let file = disk.create("file").unwrap();
    let path = dir.path().join("n1/file");
    DiskFile::write_at(&file, &vec![7; 4 << 20], 0).unwrap();
    assert_ne!(is_in_memory(&path, 0..1), Some(false), "written, and not released");
    disk.release("file", 0..4 << 20);
    let begun = Instant::now();
    while is_in_memory(&path, 0..512 << 10) == Some(true) {
        disk.release("file", 0..4 << 20);
        assert!(begun.elapsed() < Duration::from_secs(60), "it is still in memory");
    }
    let mut bytes = vec![0; 1 << 20];
    assert_eq!(DiskFile::read_at(&file, &mut bytes, 0).unwrap(), 1 << 20);
    assert!(bytes.iter().all(|byte| *byte == 7));
    disk.release("nothing", 0..1);
}

/// Who has let go of a directory does not touch it any more.
#[test]
fn a_disk_that_is_dropped_finishes_what_it_prepares() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    let bytes = 32 << 20;
    disk.prepare(&segment(1), bytes, Zeros::Written);
    drop(disk);
    let found = fs::metadata(dir.path().join("n1").join(segment(1))).unwrap().len();
    assert_eq!(found, bytes);
}

/// A name that cannot be one is an error of the file system, not a file that is not there.
#[test]
fn an_impossible_name_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    assert!(disk.free_bytes().unwrap() > 1 << 20);
    let file = disk.create("identity").unwrap();
    assert!(DiskFile::is_empty(&file).unwrap());
    DiskFile::write_at(&file, b"x", 0).unwrap();
    assert!(!DiskFile::is_empty(&file).unwrap());
    // A file is no folder.
    assert!(disk.open("identity/x").is_err());
    assert!(disk.list("identity").is_err());
    assert!(disk.same_file(&file, "identity/x").is_err());
    assert!(disk.sync_dir("identity/x").is_err());
    assert!(disk.create("identity/x").is_err());
    // What is not there is no error.
    assert!(disk.open("other").unwrap().is_none());
    assert!(disk.list("other").unwrap().is_empty());
    assert!(!disk.same_file(&file, "other").unwrap());
    disk.sync_dir("other").unwrap();
}

/// What the rest of the node relies on, of real files and of those in memory.
fn disk_contract<D: Disk>(disk: &mut D) {
    assert!(disk.open("a").unwrap().is_none());
    assert!(disk.list("wal").unwrap().is_empty());
    let file = disk.create("a").unwrap();
    assert!(file.is_empty().unwrap());
    assert_eq!(disk.create("a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    file.write_at(b"hello", 3).unwrap();
    file.write_pieces_at(&[b"", b"w", b"orld", b""], 5).unwrap();
    file.sync().unwrap();
    let mut buffer = [9; 16];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 10);
    assert_eq!(&buffer[..11], b"\0\0\0heworld\x09");
    assert_eq!(file.read_at(&mut buffer, 10).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 99).unwrap(), 0);
    file.set_len(4).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 6);
    assert_eq!(&buffer[..6], b"\0\0\0h\0\0");
    assert_eq!(file.len().unwrap(), 6);
    file.forget_cache(0..u64::MAX);
    disk.rename("a", "folder/b").unwrap();
    assert!(disk.open("a").unwrap().is_none());
    assert!(disk.same_file(&file, "folder/b").unwrap());
    assert!(!disk.same_file(&file, "a").unwrap());
    let other = disk.create("folder/a").unwrap();
    assert!(!disk.same_file(&other, "folder/b").unwrap());
    assert_eq!(disk.list("folder").unwrap(), ["a", "b"]);
    disk.sync_dir("folder").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.create_zeroed("folder/b", 9).unwrap().len().unwrap(), 9);
    disk.remove("folder/b").unwrap();
    assert_eq!(disk.remove("folder/b").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(!disk.same_file(&file, "folder/b").unwrap());
    assert!(disk.rename("folder/b", "c").is_err());
    assert!(disk.free_bytes().unwrap() > 0);
}

#[test]
fn files_and_memory_behave_alike() {
    let dir = tempfile::tempdir().unwrap();
    disk_contract(&mut open_dir(&dir));
    disk_contract(&mut MemDisk::new());
}

/// A disk one of whose changes fails, once, with an I/O error; it counts those that are asked for.
#[derive(Clone, Debug)]
struct Faulty {
    disk: MemDisk,
    asked: Rc<Cell<u64>>,
    fails_at: u64,
    /// The error of every read.
    reads_fail: Rc<Cell<Option<i32>>>,
    /// How often it was told that bytes need not stay in memory.
    forgotten: Rc<Cell<u64>>,
    /// Files are not written past the system's memory, though they were opened so.
    refuses: Rc<Cell<bool>>,
    /// What was done with the file that was opened last, in order.
    seen: Rc<RefCell<Vec<Seen>>>,
}

/// What is done with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Forgotten,
    ReadAhead(bool),
    Read,
    Written(Range<u64>),
    WrittenPastMemory(Range<u64>),
}

#[derive(Debug)]
struct FaultyFile(MemFile, Faulty, Way);

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    ThroughMemory,
    PastMemory,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl Faulty {
    fn new(disk: &MemDisk, fails_at: u64) -> Self {
        let (asked, reads_fail, forgotten) = (Rc::default(), Rc::default(), Rc::default());
        let (refuses, seen) = (Rc::default(), Rc::default());
        Self { disk: disk.clone(), asked, fails_at, reads_fail, forgotten, refuses, seen }
    }

    fn ask(&self) -> io::Result<()> {
        self.asked.set(self.asked.get() + 1);
        if self.asked.get() == self.fails_at { Err(eio()) } else { Ok(()) }
    }

    fn wrap(&self, file: MemFile) -> FaultyFile {
        self.seen.borrow_mut().clear();
        FaultyFile(file, self.clone(), Way::ThroughMemory)
    }
}

impl Disk for Faulty {
    type File = FaultyFile;

    fn open(&mut self, name: &str) -> io::Result<Option<FaultyFile>> {
        Ok(self.disk.open(name)?.map(|file| self.wrap(file)))
    }

    fn create(&mut self, name: &str) -> io::Result<FaultyFile> {
        self.ask()?;
        self.disk.create(name).map(|file| self.wrap(file))
    }

    fn prepare(&mut self, _name: &str, _bytes: u64, _zeros: Zeros) {}

    fn open_past_cache(&self, name: &str) -> Option<FaultyFile> {
        self.disk.open_past_cache(name).map(|file| FaultyFile(file, self.clone(), Way::PastMemory))
    }

    fn create_zeroed(&mut self, name: &str, bytes: u64) -> io::Result<FaultyFile> {
        self.ask()?;
        self.disk.create_zeroed(name, bytes).map(|file| self.wrap(file))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.ask()?;
        self.disk.remove(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.ask()?;
        self.disk.rename(from, to)
    }

    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }

    fn sync_dir(&mut self, folder: &str) -> io::Result<()> {
        self.ask()?;
        self.disk.sync_dir(folder)
    }

    fn same_file(&self, file: &FaultyFile, name: &str) -> io::Result<bool> {
        self.disk.same_file(&file.0, name)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl FaultyFile {
    fn see(&self, seen: Seen) {
        self.1.seen.borrow_mut().push(seen);
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.see(Seen::Read);
        match self.1.reads_fail.get() {
            Some(error) => Err(io::Error::from_raw_os_error(error)),
            None => self.0.read_at(buffer, offset),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.ask()?;
        let written = offset..offset + bytes.len() as u64;
        match self.2 {
            Way::ThroughMemory => self.see(Seen::Written(written)),
            Way::PastMemory if self.1.refuses.get() => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Way::PastMemory => {
                assert_eq!(bytes.as_ptr().align_offset(4096), 0, "the memory begins at a block");
                self.see(Seen::WrittenPastMemory(written));
            }
        }
        self.0.write_at(bytes, offset)
    }

    fn write_pieces_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        self.1.ask()?;
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.see(Seen::Written(offset..offset + length as u64));
        self.0.write_pieces_at(pieces, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.ask()?;
        self.0.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.1.ask()?;
        self.0.set_len(bytes)
    }

    fn forget_cache(&self, bytes: Range<u64>) {
        self.1.forgotten.set(self.1.forgotten.get() + 1);
        self.see(Seen::Forgotten);
        self.0.forget_cache(bytes);
    }

    fn read_ahead(&self, on: bool) {
        self.see(Seen::ReadAhead(on));
        self.0.read_ahead(on);
    }
}

/// The log refuses to go on, and asks nothing more of the disk.
fn assert_poisoned(wal: &mut Wal<Faulty>, disk: &mut Faulty, label: &str) {
    let asked = disk.asked.get();
    for round in 0..3 {
        assert!(matches!(wal.commit(disk), Err(WalError::Poisoned)), "{label}, round {round}");
        wal.stage(state(100 + round, 1));
    }
    let error = wal.commit(disk).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an earlier write to the log failed: the node must be started again"
    );
    assert_eq!(disk.asked.get(), asked, "{label}: nothing is tried again");
}

#[test]
fn after_any_failed_change_nothing_more_is_written() {
    let mut failed_ops = Vec::new();
    for fails_at in 1.. {
        let memory = MemDisk::new();
        let mut probe = Faulty::new(&memory, u64::MAX);
        drop(Wal::create(&mut probe, small()).unwrap());
        // Opening alone asks for so many.
        let mut probe = Faulty::new(&memory, u64::MAX);
        drop(Wal::open(&mut probe, small()).unwrap());
        let mut disk = Faulty::new(&memory, probe.asked.get() + fails_at);
        let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
        let mut synced = Model::default();
        let mut failed = false;
        for index in 1..=8 {
            // One is large, and written in several steps.
            let body = vec![3; if index == 4 { 700_000 } else { 20_000 }];
            let batch = Batch { entries: vec![entry(index, index, &body)], ..state(index, 1) };
            let mut next = synced.clone();
            next.apply(&batch);
            wal.stage(batch);
            match wal.commit(&mut disk) {
                Ok(()) => synced = next,
                Err(WalError::Io { op, path, source }) => {
                    assert_eq!(source.raw_os_error(), Some(5), "{path}: {op}");
                    let label = format!("change {fails_at}, {path}: {op}");
                    assert_poisoned(&mut wal, &mut disk, &label);
                    for survive in [Survive::None, Survive::All] {
                        let mut after = memory.after_crash(survive);
                        let (_, _, found) = open_all(&mut after, small()).expect(&label);
                        assert!(found == synced || found == next, "{label}");
                    }
                    failed_ops.push(op);
                    failed = true;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        if !failed {
            break;
        }
    }
    for op in ["write", "sync", "make a segment"] {
        assert!(failed_ops.contains(&op), "{op} failed once: {failed_ops:?}");
    }
}

#[test]
fn a_failed_sync_is_told_with_its_file() {
    let mut disk = MemDisk::new();
    let (mut wal, model) = write_log(&mut disk);
    disk.fail_sync(1);
    wal.stage(append(vec![entry(9, model.last() + 1, b"lost")]));
    let error = wal.commit(&mut disk).unwrap_err();
    assert_eq!(error.to_string(), "wal/00000004.seg: sync: Input/output error (os error 5)");
    // The next sync would succeed: it is not asked for.
    assert!(matches!(wal.commit(&mut disk), Err(WalError::Poisoned)));
    let (_, _, found) = open_all(&mut disk.after_crash(Survive::None), small()).unwrap();
    assert_eq!(found, model, "what was synced before is there");
}

#[test]
fn a_failed_read_is_an_error_of_that_read() {
    let memory = MemDisk::new();
    let mut disk = Faulty::new(&memory, u64::MAX);
    let (mut wal, mut model) = write_log(&mut disk);
    // No such device.
    disk.reads_fail.set(Some(19));
    let error = wal.read(&disk, 1, 1, 10).unwrap_err();
    assert_eq!(error.to_string(), "wal/00000001.seg: read: No such device (os error 19)");
    let error = Wal::open(&mut disk, small()).unwrap_err();
    assert_eq!(error.to_string(), "wal/00000001.seg: read: No such device (os error 19)");
    // Of bytes that the disk cannot give, others have copies.
    disk.reads_fail.set(Some(5));
    let last = wal.last_index();
    let error = wal.header(&disk, last - 1).unwrap_err();
    assert!(matches!(error, WalError::Faulty { term: 0, .. }), "{error}");
    // A disk that gives nothing of a segment is not there.
    let error = wal.read(&disk, 1, 1, 10).unwrap_err();
    assert!(matches!(error, WalError::Io { op: "read", .. }), "{error}");
    disk.reads_fail.set(None);
    let batch = append(vec![entry(9, model.last() + 1, b"still writes")]);
    model.apply(&batch);
    write(&mut wal, &mut disk, batch);
    assert_eq!(support::read_all(&wal, &disk).unwrap(), model.entries);
    disk.reads_fail.set(Some(5));
    assert!(matches!(Wal::open(&mut disk, small()), Err(WalError::Io { op: "read", .. })));
}

/// A disk that is not there any more is no damage: nothing is written over what it holds.
#[test]
fn a_repair_is_not_written_where_nothing_can_be_read() {
    let memory = MemDisk::new();
    let mut disk = Faulty::new(&memory, u64::MAX);
    let (mut wal, model) = write_log(&mut disk);
    let first = support::made::HEADER + support::made::FRAME_HEADER;
    memory.damage(&segment(1), first + 70, &[1]);
    assert!(wal.note_faulty(1).unwrap());
    let before = support::image(&memory);
    disk.reads_fail.set(Some(19));
    let error = wal.repair(&model.entries[..1]).unwrap_err();
    assert!(matches!(error, WalError::Io { op: "repair", .. }), "{error}");
    assert!(matches!(wal.repair(&model.entries[..1]), Err(WalError::Poisoned)));
    disk.reads_fail.set(None);
    assert!(support::image(&memory) == before);
}

#[test]
fn a_full_disk_is_no_error_and_passes() {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    let mut model = Model::default();
    let free = disk.free_bytes().unwrap();
    disk.set_free_bytes(0);
    let mut refused = None;
    for index in 1..20 {
        let batch = append(vec![entry(1, index, &[5; 10_000])]);
        wal.stage(batch.clone());
        match wal.commit(&mut disk) {
            Ok(()) => model.apply(&batch),
            Err(WalError::Full) => {
                refused = Some(batch);
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    let refused = refused.expect("a segment does not hold everything");
    assert!(model.last() > 2, "what fits is written");
    let mut full = disk.after_crash(Survive::None);
    let (mut voting, _, found) = open_all(&mut full, small()).unwrap();
    assert_eq!(found, model, "nothing of what was refused is there");
    // It stays staged, is read, and goes to disk when there is room.
    assert!(wal.is_staged() && matches!(wal.commit(&mut disk), Err(WalError::Full)));
    assert_eq!(wal.last_index(), model.last() + 1);
    // A node that has nothing to append can still vote, hundreds of times.
    for term in 1..=500 {
        write(&mut voting, &mut full, state(term, 3));
    }
    let (_, recovered) = Wal::open(&mut full, small()).unwrap();
    assert_eq!((recovered.hard_state.term, recovered.hard_state.vote), (500, Some(3)));
    disk.set_free_bytes(free);
    wal.commit(&mut disk).unwrap();
    model.apply(&refused);
    assert!(!wal.is_staged());
    assert_eq!(open_all(&mut disk, small()).unwrap().2, model);
}

#[test]
fn room_is_what_is_left_above_the_reserve() {
    let mut disk = MemDisk::new();
    let options = WalOptions { reserve_bytes: 1000, ..small() };
    let mut wal = Wal::create(&mut disk, options).unwrap();
    for (free, room) in [(999, Room::Full), (1000, Room::Enough), (0, Room::Full)] {
        disk.set_free_bytes(free);
        assert_eq!(wal.room(&disk), room, "{free} bytes are free");
    }
    wal.set_reserve_bytes(0);
    assert_eq!(wal.room(&disk), Room::Enough);
    wal.set_reserve_bytes(1);
    assert_eq!(wal.room(&disk), Room::Full);
}

/// Whoever reads a long log from its beginning keeps the last 64 pieces of it in memory, whoever
/// reads its end takes none for it.
#[test]
fn what_was_read_of_old_segments_leaves_memory_again() {
    let mut disk = Faulty::new(&MemDisk::new(), 0);
    let options = WalOptions { tail_bytes: 0, segment_bytes: 3 << 20, ..small() };
    let mut wal = Wal::create(&mut disk, options).unwrap();
    let mut index = 0;
    while disk.list("wal").unwrap().len() < 30 {
        index += 1;
        write(&mut wal, &mut disk, append(vec![entry(1, index, &[7; 900_000])]));
    }
    let read = |from: u64, to: u64| {
        disk.forgotten.set(0);
        for at in from..=to {
            assert_eq!(wal.read(&disk, at, at, 0).unwrap()[0].header.index, at);
        }
        disk.forgotten.get()
    };
    assert_eq!(read(index, index), 0, "the newest stays as it was written");
    // Each of these segments is three pieces; three of them are new enough to stay.
    assert_eq!(read(1, index), (30 - 3) * 3 - 64);
    assert_eq!(read(index, index), 0);
}

/// How much a system reads and writes at a time.
const BLOCK: u64 = 4096;

/// A block that is written for the first time is written whole, at both ends of a segment: the system
/// need not read it first. What is written past its memory, it does not have there.
#[test]
fn no_block_is_read_to_be_written() {
    let mut disk = Faulty::new(&MemDisk::new(), 0);
    let segment_bytes = 16 << 20;
    let mut wal = Wal::create(&mut disk, WalOptions { segment_bytes, ..small() }).unwrap();
    let mut in_memory = BTreeSet::new();
    let (mut rng, mut past_memory) = (Rng(3), 0);
    let mut index = 0;
    while index < 10_000 && disk.list("wal").unwrap().len() == 1 {
        for seen in disk.seen.borrow_mut().drain(..) {
            if let Seen::WrittenPastMemory(Range { start, end }) = seen {
                assert!(start % BLOCK == 0 && end % BLOCK == 0, "whole blocks: {start}..{end}");
                assert!((start / BLOCK..end / BLOCK).all(|block| !in_memory.contains(&block)));
                past_memory += 1;
            }
            let Seen::Written(written) = seen else { continue };
            for block in written.start / BLOCK..written.end.div_ceil(BLOCK) {
                let is_whole = written.start <= block * BLOCK && (block + 1) * BLOCK <= written.end;
                // The header stands alone in its block when a segment is made.
                let is_first = block == 0;
                assert!(
                    !in_memory.insert(block) || is_whole || is_first,
                    "block {block}, of which {written:?} was written before entry {index}"
                );
            }
        }
        let (count, bytes_max) = if rng.one_in(40) { (4, 400_000) } else { (40, 300) };
        let entries = (1..=1 + rng.below(count))
            .map(|more| entry(1, index + more, &vec![7; rng.index(bytes_max)]))
            .collect::<Vec<_>>();
        index += entries.len() as u64;
        wal.stage(append(entries));
        wal.commit(&mut disk).unwrap();
    }
    assert!(in_memory.len() > 200, "much of the segment was written: {} blocks", in_memory.len());
    assert!(past_memory > 10, "some of it past memory: {past_memory} pieces");
}

/// A log with small and large frames, and what is in it.
fn write_large<D: Disk>(disk: &mut D) -> (Wal<D>, Model) {
    let options = WalOptions { segment_bytes: 4 << 20, ..small() };
    let mut wal = Wal::create(disk, options).unwrap();
    let (mut model, mut rng) = (Model::default(), Rng(1));
    for (index, bytes) in (1..).zip([10, 700_000, 20, 600_001, 1_300_000, 5000, 900_000, 1]) {
        let batch = append(vec![entry(1, index, &rng.bytes(bytes))]);
        model.apply(&batch);
        write(&mut wal, disk, batch);
    }
    (wal, model)
}

/// What is written in large frames is not in the system's memory, and is there all the same.
#[test]
fn large_frames_take_no_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut disk = open_dir(&dir);
    let (wal, model) = write_large(&mut disk);
    let path = dir.path().join("n1").join(segment(1));
    assert_ne!(is_in_memory(&path, 0..1), Some(false), "its header");
    assert_ne!(is_in_memory(&path, 10_000..700_000), Some(true), "the first of them");
    let last = model.last();
    let read = (1..=last).map(|index| wal.read(&disk, index, index, 0).unwrap().remove(0));
    let expected: Vec<Entry> = read.collect();
    drop(wal);
    let (wal, _, found) = open_all(&mut disk, small()).unwrap();
    assert_eq!(found, model);
    let read = (1..=last).map(|index| wal.read(&disk, index, index, 0).unwrap().remove(0));
    assert!(read.eq(expected));
}

/// Not every file system that opens a file for such writes takes them.
#[test]
fn large_frames_are_written_where_the_disk_takes_no_direct_writes() {
    for refuses in [false, true] {
        let memory = MemDisk::new();
        let mut disk = Faulty::new(&memory, 0);
        disk.refuses.set(refuses);
        let (_, model) = write_large(&mut disk);
        let is_past = |seen: &Seen| matches!(seen, Seen::WrittenPastMemory(_));
        assert_eq!(disk.seen.borrow().iter().any(is_past), !refuses);
        let mut after = memory.after_crash(Survive::None);
        assert_eq!(open_all(&mut after, small()).unwrap().2, model, "refuses: {refuses}");
    }
}

/// What somebody put in a segment's place is not written.
#[test]
fn a_large_frame_does_not_go_to_a_file_that_replaced_the_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = open_dir(&dir);
    let mut wal = Wal::create(&mut disk, WalOptions { segment_bytes: 4 << 20, ..small() }).unwrap();
    let path = dir.path().join("n1").join(segment(1));
    fs::remove_file(&path).unwrap();
    fs::write(&path, [7; 100]).unwrap();
    write(&mut wal, &mut disk, append(vec![entry(1, 1, &[1; 900_000])]));
    assert_eq!(fs::read(&path).unwrap(), [7; 100]);
    assert_eq!(wal.read(&disk, 1, 1, 0).unwrap()[0].header.index, 1);
}

/// What is read of the newest segment will be written, a little at a time: from the first look at it
/// on nothing is read ahead, and afterwards it is again.
#[test]
fn the_newest_segment_is_opened_without_reading_ahead() {
    let memory = MemDisk::new();
    drop(Wal::create(&mut Faulty::new(&memory, 0), small()).unwrap());
    let mut disk = Faulty::new(&memory, 0);
    drop(Wal::open(&mut disk, small()).unwrap());
    let seen = disk.seen.borrow();
    let read = |seen: &Seen| *seen == Seen::Read;
    let (first, last) = (seen.iter().position(read).unwrap(), seen.iter().rposition(read).unwrap());
    assert_eq!(seen[..first], [Seen::Forgotten, Seen::ReadAhead(false)]);
    assert!(seen[first..last].iter().all(read), "{seen:?}");
    assert_eq!(seen.get(last + 1), Some(&Seen::ReadAhead(true)));
}

/// Who reads much and is in no hurry gets the same, and has nothing read ahead.
#[test]
fn what_is_read_alone_is_read_without_reading_ahead() {
    let mut disk = Faulty::new(&MemDisk::new(), 0);
    let options = WalOptions { segment_bytes: 1 << 20, ..small() };
    let mut wal = Wal::create(&mut disk, options).unwrap();
    for index in 1..=5 {
        write(&mut wal, &mut disk, append(vec![entry(1, index, &[1; 3000])]));
    }
    let seen_by = |first, last, is_alone| {
        disk.seen.borrow_mut().clear();
        let found = wal.find(&disk, first, last, 1 << 20).unwrap();
        let entries = if is_alone { found.read_alone() } else { found.read() };
        (entries.unwrap(), disk.seen.take())
    };
    let (alone, seen) = seen_by(1, 3, true);
    assert_eq!(alone, seen_by(1, 3, false).0);
    assert_eq!(seen.first(), Some(&Seen::ReadAhead(false)));
    assert_eq!(seen.last(), Some(&Seen::ReadAhead(true)));
    assert!(seen.contains(&Seen::Read));
    // What is in memory is not read at all.
    let (alone, seen) = seen_by(5, 5, true);
    assert_eq!((alone.len(), seen), (1, Vec::new()));
}

/// Zeros that are made beforehand take no memory, where the file system can be asked about it.
#[test]
fn zeros_take_no_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut disk = open_dir(&dir);
    // One length that a disk can write without the page cache, and one that it cannot.
    for bytes in [1 << 20, (1 << 20) + 9] {
        let file = disk.create_zeroed("zeros", bytes).unwrap();
        let is_in_memory = is_in_memory(&dir.path().join("n1/zeros"), 0..bytes);
        let can_be = bytes % BLOCK == 0;
        assert!(is_in_memory.is_none_or(|is| is != can_be), "{bytes}: {is_in_memory:?}");
        let mut found = vec![1; usize::try_from(bytes).unwrap()];
        assert_eq!(DiskFile::read_at(&file, &mut found, 0).unwrap(), found.len());
        assert!(found.iter().all(|byte| *byte == 0));
        disk.remove("zeros").unwrap();
    }
}
