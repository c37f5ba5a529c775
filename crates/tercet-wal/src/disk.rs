//! Files as the log, the identity and the values file need them: by name, inside one directory.
//!
//! Real files are [`FileDisk`]'s; [`MemDisk`] is a platter with a cache in front of it, for tests
//! and simulation: what was not synced is lost or torn when it crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

use tercet_seeded::{Bug, has};

/// An open file.
pub trait DiskFile: fmt::Debug {
    /// Reads at `offset` what is there, at most `buffer.len()` bytes; 0 at the end.
    ///
    /// # Errors
    /// The file system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`. Not durable before [`Self::sync`].
    ///
    /// # Errors
    /// The file system's; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all `pieces`, one behind the other, at `offset`.
    ///
    /// # Errors
    /// The file system's; some of the bytes may have been written.
    fn write_pieces_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Makes what was written, and the file's length, durable.
    ///
    /// # Errors
    /// The file system's. What was not synced before may be lost then, and must not be tried again:
    /// the system may have marked the pages clean.
    fn sync(&self) -> io::Result<()>;
    /// The length in bytes.
    ///
    /// # Errors
    /// The file system's.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// The file system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or lengthens the file.
    ///
    /// # Errors
    /// The file system's.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Lets the next read of these bytes come from the disk, not from memory: pages that failed to
    /// be written may look clean there.
    fn forget_cache(&self, bytes: Range<u64>);
    /// Whether reads fetch what is behind them, too. What is fetched ahead lies in memory in pieces of
    /// up to 2 MiB, and each small write into one looks at all of its blocks.
    fn read_ahead(&self, on: bool);
}

/// How the zeros of a file stand on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zeros {
    /// Each block of them.
    Written,
    /// The file system knows that they are some.
    Reserved,
}

/// A node's directory. Names are relative to it and have at most one `/`.
pub trait Disk: fmt::Debug {
    /// Its files.
    type File: DiskFile;
    /// Opens a file; `None` if there is none.
    ///
    /// # Errors
    /// The file system's.
    fn open(&mut self, name: &str) -> io::Result<Option<Self::File>>;
    /// Opens a file once more, for writes that leave nothing in the system's memory: of whole blocks,
    /// from memory that begins where a block of it does. `None` where that cannot be.
    fn open_past_cache(&self, _name: &str) -> Option<Self::File> {
        None
    }
    /// Makes an empty file, and its folder if need be.
    ///
    /// # Errors
    /// The file system's, and if the file exists.
    fn create(&mut self, name: &str) -> io::Result<Self::File>;
    /// Begins to make a file of `bytes` zeros, in the background where there is one. They are written,
    /// so that what replaces them is all that its syncs write; or only reserved, where that can be: for
    /// much at once they would cost as much as they save.
    fn prepare(&mut self, name: &str, bytes: u64, zeros: Zeros);
    /// A file of `bytes` zeros, durable with its directory entry: the one that was prepared under
    /// that name, or a new one.
    ///
    /// # Errors
    /// The file system's; no part of the file is left then.
    fn create_zeroed(&mut self, name: &str, bytes: u64) -> io::Result<Self::File>;
    /// These bytes of a file will hardly be read soon: what the system keeps of them in memory may
    /// make room for others, as soon as it is written. Nobody waits for that, and where there is no
    /// such memory nothing happens.
    fn release(&self, _name: &str, _bytes: Range<u64>) {}
    /// Removes a file.
    ///
    /// # Errors
    /// The file system's.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Renames a file, making the new name's folder if need be.
    ///
    /// # Errors
    /// The file system's.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// The names in a folder, in order; none if there is no such folder.
    ///
    /// # Errors
    /// The file system's.
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>>;
    /// Makes the entries of a folder durable; `""` is the directory itself.
    ///
    /// # Errors
    /// The file system's.
    fn sync_dir(&mut self, folder: &str) -> io::Result<()>;
    /// Whether `name` still names the open file.
    ///
    /// # Errors
    /// The file system's.
    fn same_file(&self, file: &Self::File, name: &str) -> io::Result<bool>;
    /// How many bytes are free for this program.
    ///
    /// # Errors
    /// The file system's.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Why a directory cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum OpenDirError {
    /// Another process has it.
    #[error("the directory is in use by another process{}: stop that one, or give this node its own directory", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// Its process id, where known.
        pid: Option<u32>,
    },
    /// The file system failed.
    #[error("{op}: {source}")]
    Io {
        /// What was done.
        op: &'static str,
        /// How it failed.
        source: io::Error,
    },
}

/// A directory of real files, locked for this process.
#[derive(Debug)]
pub struct FileDisk {
    dir: PathBuf,
    /// Holds the lock.
    _lock: File,
    prepared: BTreeMap<String, Prepared>,
    /// Takes what may leave the page cache; begun when the first is told.
    released: OnceLock<mpsc::Sender<(PathBuf, Range<u64>)>>,
}

/// A file that is made in the background.
#[derive(Debug)]
struct Prepared {
    /// What is left of it need only be reserved.
    reserves: Arc<AtomicBool>,
    done: mpsc::Receiver<io::Result<File>>,
}

/// How many zeros are given to the disk at a time: the syncs of the log that is in use wait behind
/// them.
const ZEROED_AT_A_TIME: u64 = 256 << 10;
/// The most zeros that are written at a time.
pub(crate) static ZEROS: Aligned = Aligned([0; 256 << 10]);

/// Where a disk can read it without the page cache.
#[repr(align(4096))]
pub(crate) struct Aligned(pub(crate) [u8; 256 << 10]);

impl Drop for FileDisk {
    /// Waits for what is prepared in the background: it must not touch a directory that is not
    /// locked any more.
    fn drop(&mut self) {
        for prepared in self.prepared.values() {
            let _ = prepared.done.recv();
        }
    }
}

impl FileDisk {
    /// Takes a directory for this process, making it if need be (mode 0700).
    ///
    /// # Errors
    /// [`OpenDirError::Locked`] if another process has it.
    pub fn open(dir: PathBuf) -> Result<Self, OpenDirError> {
        let io = |op| move |source| OpenDirError::Io { op, source };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(io("make the directory"))?;
        let path = dir.join("lock");
        let mut lock =
            options(true).truncate(false).open(&path).map_err(io("open its lock file"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                return Err(OpenDirError::Locked { pid });
            }
            Err(error) => return Err(io("lock it")(error.into())),
        }
        // Only words for people: who cannot write them still has the lock.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        sync_path(&dir).map_err(io("sync it"))?;
        if let Some(parent) =
            dir.canonicalize().ok().and_then(|dir| dir.parent().map(Path::to_owned))
        {
            sync_path(&parent).map_err(io("sync the directory above it"))?;
        }
        Ok(Self { dir, _lock: lock, prepared: BTreeMap::new(), released: OnceLock::new() })
    }

    /// The directory's path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn make_folder(&self, name: &str) -> io::Result<()> {
        let Some((folder, _)) = name.rsplit_once('/') else {
            return Ok(());
        };
        let path = self.dir.join(folder);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => sync_path(&self.dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn options(create: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).mode(0o600);
    options
}

fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a file of zeros that are written, so that the syncs of what replaces them write no more
/// than that. The rest is only reserved as soon as `reserves` says so.
fn make_zeroed(path: &Path, bytes: u64, reserves: &AtomicBool) -> io::Result<File> {
    let make = || {
        let file = options(true).truncate(true).open(path)?;
        // Zeros in memory would only be in the way: what replaces them is written by whole blocks.
        let mut direct = past_cache(path).filter(|_| bytes.is_multiple_of(BLOCK));
        let mut at = 0;
        while at < bytes {
            if reserves.load(Ordering::Relaxed) && reserve(&file, at, bytes - at) {
                break;
            }
            let n = usize::try_from((bytes - at).min(ZEROS.0.len() as u64)).expect("256 KiB");
            let to = direct.as_ref().unwrap_or(&file);
            match FileExt::write_all_at(to, &ZEROS.0[..n], at) {
                // Not every file system that opens a file so writes it so.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && direct.is_some() => {
                    direct = None;
                    continue;
                }
                written => written?,
            }
            at += n as u64;
            if at % ZEROED_AT_A_TIME == 0 {
                file.sync_data()?;
            }
        }
        file.sync_all()?;
        if !has(Bug::NoDirectorySync) {
            sync_path(path.parent().expect("a file has a folder"))?;
        }
        Ok(file)
    };
    make().inspect_err(|_| {
        // A part of a file would only take the space that is missing.
        let _ = fs::remove_file(path);
    })
}

/// The same file, written without the page cache, where that can be.
fn past_cache(path: &Path) -> Option<File> {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().write(true).custom_flags(direct).open(path).ok()
}

/// Takes space that reads as zeros; `false` where the file system cannot, or has too little.
fn reserve(file: &File, offset: u64, bytes: u64) -> bool {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), offset, bytes).is_ok()
}

/// Lets go of what comes in, until nobody is left to tell more.
fn let_go(inbox: &mpsc::Receiver<(PathBuf, Range<u64>)>) {
    for (path, bytes) in inbox {
        // Whoever removed it meanwhile has let go of it, too.
        if let Ok(file) = File::open(path) {
            file.forget_cache(bytes);
        }
    }
}

impl Disk for FileDisk {
    type File = File;

    fn open(&mut self, name: &str) -> io::Result<Option<File>> {
        match options(false).open(self.dir.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open_past_cache(&self, name: &str) -> Option<File> {
        past_cache(&self.dir.join(name))
    }

    fn create(&mut self, name: &str) -> io::Result<File> {
        self.make_folder(name)?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.dir.join(name))
    }

    fn prepare(&mut self, name: &str, bytes: u64, zeros: Zeros) {
        if self.prepared.contains_key(name) || self.make_folder(name).is_err() {
            return;
        }
        let (made, done) = mpsc::channel();
        let path = self.dir.join(name);
        let reserves = Arc::new(AtomicBool::new(zeros == Zeros::Reserved));
        let shared = Arc::clone(&reserves);
        let spawned =
            std::thread::Builder::new().name("tercet-prepare".to_owned()).spawn(move || {
                let _ = made.send(make_zeroed(&path, bytes, &shared));
            });
        if spawned.is_ok() {
            self.prepared.insert(name.to_owned(), Prepared { reserves, done });
        }
    }

    fn create_zeroed(&mut self, name: &str, bytes: u64) -> io::Result<File> {
        let made = self.prepared.remove(name).and_then(|prepared| {
            // The log grows faster than zeros are written.
            prepared.reserves.store(true, Ordering::Relaxed);
            prepared.done.recv().ok()
        });
        if let Some(Ok(file)) = made
            && file.metadata()?.len() == bytes
            && Disk::same_file(self, &file, name)?
        {
            return Ok(file);
        }
        self.make_folder(name)?;
        make_zeroed(&self.dir.join(name), bytes, &AtomicBool::new(false))
    }

    fn release(&self, name: &str, bytes: Range<u64>) {
        let released = self.released.get_or_init(|| {
            let (released, inbox) = mpsc::channel();
            // To let go of a segment takes milliseconds, and what is not written yet begins to be:
            // both are not for the one who writes the log. Without the thread nothing is let go of.
            let _ = std::thread::Builder::new()
                .name("tercet-pages".to_owned())
                .spawn(move || let_go(&inbox));
            released
        });
        let _ = released.send((self.dir.join(name), bytes));
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.make_folder(to)?;
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.dir.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&mut self, folder: &str) -> io::Result<()> {
        match sync_path(&self.dir.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn same_file(&self, file: &File, name: &str) -> io::Result<bool> {
        let open = file.metadata()?;
        match fs::metadata(self.dir.join(name)) {
            Ok(named) => {
                Ok((open.dev(), open.ino()) == (named.dev(), named.ino()) && open.nlink() > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Writes all pieces, whatever part of them `write_some` writes at a time.
fn write_pieces(
    pieces: &[&[u8]],
    mut offset: u64,
    write_some: impl Fn(&[io::IoSlice<'_>], u64) -> io::Result<usize>,
    write_all: impl Fn(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    // The system takes 1024 pieces at most.
    for chunk in pieces.chunks(1024) {
        let total: usize = chunk.iter().map(|piece| piece.len()).sum();
        let slices: Vec<io::IoSlice<'_>> = chunk.iter().map(|p| io::IoSlice::new(p)).collect();
        let mut written = write_some(&slices, offset)?;
        if written < total {
            // A short write is rare: what is left goes piece by piece.
            let mut at = offset + written as u64;
            for piece in chunk {
                let skip = written.min(piece.len());
                written -= skip;
                write_all(&piece[skip..], at)?;
                at += (piece.len() - skip) as u64;
            }
        }
        offset += total as u64;
    }
    Ok(())
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn write_pieces_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        write_pieces(
            pieces,
            offset,
            |slices, at| Ok(rustix::io::pwritev(self, slices, at)?),
            |bytes, at| FileExt::write_all_at(self, bytes, at),
        )
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        Self::set_len(self, bytes)
    }

    fn forget_cache(&self, bytes: Range<u64>) {
        // A hint: where it is not taken, the tail is read from memory, as after any restart of a
        // process on a machine that went on.
        // Only whole pages are taken: those that are named in part are named as a whole.
        let start = bytes.start - bytes.start % BLOCK;
        let end = bytes.end.checked_next_multiple_of(BLOCK);
        // No length is: to the end.
        let length = end.and_then(|end| NonZeroU64::new(end.saturating_sub(start)));
        let advice = rustix::fs::Advice::DontNeed;
        let _ = rustix::fs::fadvise(self, start, length, advice);
    }

    fn read_ahead(&self, on: bool) {
        use rustix::fs::Advice;
        // A hint, too.
        let advice = if on { Advice::Normal } else { Advice::Random };
        let _ = rustix::fs::fadvise(self, 0, None, advice);
    }
}

/// What survives of each unsynced page when a [`MemDisk`] crashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survive {
    /// All that was written: the process died, the machine went on.
    All,
    /// Nothing that was not synced.
    None,
    /// Each page by the toss of a coin, seeded.
    Random(u64),
}

/// The error of a disk that fails.
const EIO: i32 = 5;

/// The unit in which a disk is expected to lose what was on it, and in which a system reads it.
pub(crate) const BLOCK: u64 = 4096;

/// Whether a read failed because the disk could not give the bytes: others may be readable.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EIO)
}

/// What a read says of bytes that the disk cannot give.
pub(crate) fn unreadable_error() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

/// The unit in which a crash keeps or loses what was not synced.
pub(crate) const SECTOR: u64 = 512;
/// The same, of a [`MemDisk`].
const PAGE: usize = 512;

#[derive(Clone, Debug, Default)]
struct MemContent {
    /// Shared with the copies of the disk that were made of it, as long as nobody writes.
    platter: Arc<Vec<u8>>,
    cache: Arc<Vec<u8>>,
    /// Where the two may differ, besides the pages that failed.
    dirty: Vec<Range<usize>>,
    /// Pages that a sync did not write: they look clean since, and no later sync writes them,
    /// unless they are written anew (as Linux does it).
    failed: BTreeSet<usize>,
    /// Bytes that no read gets, until they are written again.
    unreadable: Vec<Range<u64>>,
}

#[derive(Clone, Debug, Default)]
struct MemState {
    files: BTreeMap<u64, MemContent>,
    /// Names as programs see them, and as they are durable.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next_file: u64,
    free: u64,
    /// Counts down writes and syncs; at zero the machine is dead.
    steps_left: Option<u64>,
    syncs_until_error: Option<u64>,
    astray: Option<Astray>,
    gone_astray: u64,
}

/// How a write is to go astray; see [`MemDisk::lose_write`].
#[derive(Clone, Debug)]
struct Astray {
    folder: String,
    seed: u64,
    lands_elsewhere: bool,
}

/// A directory in memory: a platter with a cache before it.
#[derive(Clone, Debug)]
pub struct MemDisk {
    state: Arc<Mutex<MemState>>,
}

/// A file of a [`MemDisk`].
#[derive(Clone, Debug)]
pub struct MemFile {
    id: u64,
    state: Arc<Mutex<MemState>>,
}

impl Default for MemDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds zeros. Tests make many segments, unoptimised: a new vector is zeroed by the allocator, while
/// `resize` goes byte by byte there.
fn lengthen(bytes: &mut Vec<u8>, length: usize) {
    let mut longer = vec![0; length];
    longer[..bytes.len()].copy_from_slice(bytes);
    *bytes = longer;
}

fn dead() -> io::Error {
    io::Error::other("the machine crashed")
}

impl MemContent {
    /// The bytes of a page, as far as the cache has them.
    fn page(&self, page: usize) -> Range<usize> {
        let length = self.cache.len();
        (page * PAGE).min(length)..((page + 1) * PAGE).min(length)
    }

    /// Whether the platter has all that programs see, for certain.
    fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.failed.is_empty() && self.platter.len() == self.cache.len()
    }

    /// The system writes what programs wrote, in its own time: but not the pages that look clean.
    fn write_back(&mut self) {
        let mut platter = self.cache.to_vec();
        for page in &self.failed {
            for at in self.page(*page) {
                platter[at] = self.platter.get(at).copied().unwrap_or(0);
            }
        }
        self.platter = Arc::new(platter);
        self.dirty.clear();
    }

    fn sync(&mut self) {
        let Self { platter, cache, dirty, .. } = self;
        if dirty.is_empty() && platter.len() == cache.len() {
            return;
        }
        let platter = Arc::make_mut(platter);
        platter.truncate(cache.len());
        if platter.len() < cache.len() {
            lengthen(platter, cache.len());
        }
        for range in dirty.drain(..) {
            let (start, end) = (range.start.min(cache.len()), range.end.min(cache.len()));
            platter[start..end].copy_from_slice(&cache[start..end]);
        }
    }

    /// Syncs, but for a page that goes astray: a second copy of what stands in it is not on its way
    /// to the same page, nor is it hit elsewhere. `None` if there is no such page now.
    fn sync_astray(&mut self, astray: &Astray) -> Option<()> {
        let mut writes: BTreeMap<usize, usize> = BTreeMap::new();
        for range in &self.dirty {
            let end = range.end.min(self.cache.len());
            for page in range.start / PAGE..end.div_ceil(PAGE) {
                *writes.entry(page).or_default() += 1;
            }
        }
        // Where the platter ends, a page would be lost with the file's length.
        let is_there = |page: &usize| (page + 1) * PAGE <= self.platter.len().min(self.cache.len());
        let differs = |page: &usize| self.platter[self.page(*page)] != self.cache[self.page(*page)];
        let at = |seed: u64, of: usize| usize::try_from(seed % of as u64).expect("below a length");
        let once = writes.iter().filter(|(page, count)| **count == 1 && is_there(page));
        let once: Vec<usize> = once.map(|(page, _)| *page).filter(differs).collect();
        let page = *once.get(at(astray.seed, once.len().max(1)))?;
        let here = self.page(page);
        let (before, written) =
            (self.platter[here.clone()].to_vec(), self.cache[here.clone()].to_vec());
        let pages = self.platter.len().min(self.cache.len()) / PAGE;
        let elsewhere = at(astray.seed >> 32, pages);
        self.sync();
        let platter = Arc::make_mut(&mut self.platter);
        platter[here].copy_from_slice(&before);
        self.failed.insert(page);
        if astray.lands_elsewhere && !writes.contains_key(&elsewhere) {
            platter[elsewhere * PAGE..(elsewhere + 1) * PAGE].copy_from_slice(&written);
            self.failed.insert(elsewhere);
        }
        Some(())
    }

    fn fail_to_sync(&mut self) {
        for range in std::mem::take(&mut self.dirty) {
            let end = range.end.min(self.cache.len());
            for page in range.start / PAGE..end.div_ceil(PAGE) {
                let range = self.page(page);
                if self.platter.get(range.clone()) != Some(&self.cache[range]) {
                    self.failed.insert(page);
                }
            }
        }
    }
}

impl MemState {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps_left {
            Some(0) => Err(dead()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn content(&mut self, id: u64) -> &mut MemContent {
        self.files.get_mut(&id).expect("an open file has its content")
    }
}

impl MemDisk {
    /// An empty directory.
    pub fn new() -> Self {
        let state = MemState { free: 1 << 40, ..MemState::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, MemState> {
        self.state.lock().expect("no test panics while it holds the lock")
    }

    /// The machine dies after this many more writes, syncs and directory changes; all that comes
    /// then fails.
    pub fn crash_after(&self, steps: Option<u64>) {
        self.state().steps_left = steps;
    }

    /// How many more of them it does, if it was told.
    pub fn steps_left(&self) -> Option<u64> {
        self.state().steps_left
    }

    /// The `n`th sync from now on fails (1: the next), once.
    pub fn fail_sync(&self, n: u64) {
        self.state().syncs_until_error = Some(n);
    }

    /// A later sync in this folder says that it is done, and one page of it was not written; it looks
    /// written until it is read from the disk itself. With `lands_elsewhere` its bytes stand in
    /// another page of the file since. It is the first sync that has a page with no second copy of
    /// its contents beside it: both copies at once are more than the log can bear
    /// (docs/wal-format.md, "What damage leaves").
    pub fn lose_write(&self, folder: &str, seed: u64, lands_elsewhere: bool) {
        let folder = format!("{folder}/");
        self.state().astray = Some(Astray { folder, seed, lands_elsewhere });
    }

    /// How many writes went astray so far.
    pub fn gone_astray(&self) -> u64 {
        self.state().gone_astray
    }

    /// How much room there is.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free = bytes;
    }

    /// What a restart finds: a new directory with what survived.
    #[must_use]
    pub fn after_crash(&self, survive: Survive) -> Self {
        let mut state = self.state().clone();
        let mut coin = match survive {
            Survive::Random(seed) => seed | 1,
            Survive::All | Survive::None => 1,
        };
        let mut keep = || match survive {
            Survive::All => true,
            Survive::None => false,
            Survive::Random(_) => {
                coin ^= coin << 13;
                coin ^= coin >> 7;
                coin ^= coin << 17;
                coin & 1 == 1
            }
        };
        if !keep() {
            state.names = state.durable_names.clone();
        }
        state.durable_names = state.names.clone();
        for content in state.files.values_mut() {
            if content.is_clean() {
                // Only its length was at stake, and that is the same.
                let _ = keep();
                content.cache = Arc::clone(&content.platter);
                continue;
            }
            if survive == Survive::All {
                content.write_back();
                continue;
            }
            let length = if keep() { content.cache.len() } else { content.platter.len() };
            let mut merged = vec![0; length];
            let kept = length.min(content.platter.len());
            merged[..kept].copy_from_slice(&content.platter[..kept]);
            for start in (0..length).step_by(PAGE) {
                let end = (start + PAGE).min(length).min(content.cache.len());
                if start < end && content.cache[start..end] != merged[start..end] && keep() {
                    merged[start..end].copy_from_slice(&content.cache[start..end]);
                }
            }
            content.platter = Arc::new(merged);
            content.cache = Arc::clone(&content.platter);
            content.dirty.clear();
            content.failed.clear();
        }
        state.steps_left = None;
        state.syncs_until_error = None;
        state.astray = None;
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Damages a file on the platter: the bytes at `offset` are combined with `mask` by exclusive or.
    pub fn damage(&self, name: &str, offset: usize, mask: &[u8]) {
        let mut state = self.state();
        let Some(id) = state.names.get(name).copied() else {
            return;
        };
        let content = state.content(id);
        for bytes in [&mut content.platter, &mut content.cache] {
            for (byte, mask) in Arc::make_mut(bytes).iter_mut().skip(offset).zip(mask) {
                *byte ^= mask;
            }
        }
    }

    /// From now on no read gets these bytes of a file, until they are written again. As on a real
    /// system, this is so for all of a block of 4096 bytes, and a write to a part of one fails too.
    pub fn fail_reads(&self, name: &str, bytes: Range<u64>) {
        let mut state = self.state();
        if let Some(id) = state.names.get(name).copied() {
            let start = bytes.start - bytes.start % BLOCK;
            let end = bytes.end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
            state.content(id).unreadable.push(start..end);
        }
    }

    /// What is in a file, as programs see it.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|id| state.files[id].cache.to_vec())
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn open(&mut self, name: &str) -> io::Result<Option<MemFile>> {
        Ok(self.open_past_cache(name))
    }

    fn open_past_cache(&self, name: &str) -> Option<MemFile> {
        let state = Arc::clone(&self.state);
        self.state().names.get(name).map(|id| MemFile { id: *id, state })
    }

    fn create(&mut self, name: &str) -> io::Result<MemFile> {
        let shared = Arc::clone(&self.state);
        let mut state = self.state();
        state.step()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.next_file += 1;
        let id = state.next_file;
        state.files.insert(id, MemContent::default());
        state.names.insert(name.to_owned(), id);
        Ok(MemFile { id, state: shared })
    }

    fn prepare(&mut self, _name: &str, _bytes: u64, _zeros: Zeros) {}

    fn create_zeroed(&mut self, name: &str, bytes: u64) -> io::Result<MemFile> {
        if self.state().free < bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.state().names.contains_key(name) {
            self.remove(name)?;
        }
        let file = self.create(name)?;
        file.set_len(bytes)?;
        file.sync()?;
        if !has(Bug::NoDirectorySync) {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            self.sync_dir(folder)?;
        }
        self.state().free -= bytes;
        Ok(file)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let id =
            state.names.remove(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let state = self.state();
        let inside = |name: &String| {
            let rest = name.strip_prefix(&prefix)?;
            (!rest.contains('/')).then(|| rest.to_owned())
        };
        Ok(state.names.keys().filter_map(inside).collect())
    }

    fn sync_dir(&mut self, _folder: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn same_file(&self, file: &MemFile, name: &str) -> io::Result<bool> {
        Ok(self.state().names.get(name) == Some(&file.id))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.state().free)
    }
}

impl MemFile {
    fn state(&self) -> std::sync::MutexGuard<'_, MemState> {
        self.state.lock().expect("no test panics while it holds the lock")
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state();
        let MemContent { cache, unreadable, .. } = state.content(self.id);
        let end = offset.saturating_add(buffer.len() as u64);
        if unreadable.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(unreadable_error());
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(cache.len());
        let n = buffer.len().min(cache.len() - start);
        buffer[..n].copy_from_slice(&cache[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let MemContent { cache, dirty, failed, unreadable, .. } = state.content(self.id);
        let written = offset..offset + bytes.len() as u64;
        let first = written.start - written.start % BLOCK..written.start;
        let end = written.end.next_multiple_of(BLOCK).min(cache.len() as u64);
        for beside in [first, written.end..end].into_iter().filter(|part| !part.is_empty()) {
            if unreadable.iter().any(|bad| bad.start < beside.end && beside.start < bad.end) {
                return Err(unreadable_error());
            }
        }
        *unreadable = std::mem::take(unreadable)
            .into_iter()
            .flat_map(|bad| {
                let before = bad.start..bad.end.min(written.start);
                let behind = bad.start.max(written.end)..bad.end;
                [before, behind]
            })
            .filter(|bad| !bad.is_empty())
            .collect();
        let start = usize::try_from(offset).expect("a test's file fits into memory");
        let end = start + bytes.len();
        // A page that is written to again is written whole, whatever failed before.
        for page in start / PAGE..end.div_ceil(PAGE) {
            if failed.remove(&page) {
                dirty.push(page * PAGE..(page + 1) * PAGE);
            }
        }
        let cache = Arc::make_mut(cache);
        if cache.len() < end {
            lengthen(cache, end);
        }
        cache[start..end].copy_from_slice(bytes);
        dirty.push(start..end);
        Ok(())
    }

    fn write_pieces_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_at(&pieces.concat(), offset)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if let Some(left) = &mut state.syncs_until_error {
            *left -= 1;
            if *left == 0 {
                state.syncs_until_error = None;
                state.content(self.id).fail_to_sync();
                return Err(unreadable_error());
            }
        }
        if let Some(astray) = state.astray.take() {
            let mut names = state.names.iter().filter(|(_, id)| **id == self.id);
            let is_meant = names.any(|(name, _)| name.starts_with(&astray.folder));
            if is_meant && state.content(self.id).sync_astray(&astray).is_some() {
                state.gone_astray += 1;
                return Ok(());
            }
            state.astray = Some(astray);
        }
        state.content(self.id).sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state().content(self.id).cache.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let bytes = usize::try_from(bytes).expect("a test's file fits into memory");
        let content = state.content(self.id);
        let kept = bytes.min(content.cache.len());
        let cache = Arc::make_mut(&mut content.cache);
        if bytes > kept {
            lengthen(cache, bytes);
        } else {
            cache.truncate(bytes);
        }
        // What was cut and lengthened again since the last sync is zeros.
        content.dirty.push(kept..bytes.max(content.platter.len()));
        Ok(())
    }

    fn forget_cache(&self, _bytes: Range<u64>) {
        let mut state = self.state();
        let content = state.content(self.id);
        for page in std::mem::take(&mut content.failed) {
            let range = content.page(page);
            for at in range {
                // What the platter does not have is a hole: zeros.
                let byte = content.platter.get(at).copied().unwrap_or(0);
                Arc::make_mut(&mut content.cache)[at] = byte;
            }
        }
    }

    fn read_ahead(&self, _on: bool) {}
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// The system may write less than it was asked to, and does not call that an error.
    #[test]
    fn what_a_short_write_leaves_is_written_too() {
        let pieces: [&[u8]; 5] = [b"one", b"", b"two and", b" ", b"three"];
        let whole = pieces.concat();
        for short in 0..=whole.len() {
            let file = RefCell::new(vec![0; 7 + whole.len()]);
            let calls = RefCell::new(0);
            let put = |bytes: &[u8], at: u64| {
                let at = usize::try_from(at).unwrap();
                file.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            };
            let write_some = |slices: &[io::IoSlice<'_>], at: u64| {
                put(
                    &slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>()[..short],
                    at,
                );
                Ok(short)
            };
            let write_all = |bytes: &[u8], at: u64| {
                *calls.borrow_mut() += 1;
                put(bytes, at);
                Ok(())
            };
            write_pieces(&pieces, 7, write_some, write_all).unwrap();
            assert_eq!(file.borrow()[7..], whole, "after {short} bytes");
            assert_eq!(*calls.borrow() == 0, short == whole.len(), "after {short} bytes");
        }
    }

    /// More pieces than the system takes at a time follow each other.
    #[test]
    fn many_pieces_are_written_in_turns() {
        let bytes: Vec<u8> = (0..=255).cycle().take(2500).collect();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        let file = RefCell::new(Vec::new());
        let write_some = |slices: &[io::IoSlice<'_>], at: u64| {
            assert_eq!(at, file.borrow().len() as u64);
            assert!(slices.len() <= 1024);
            slices.iter().for_each(|slice| file.borrow_mut().extend_from_slice(slice));
            Ok(slices.len())
        };
        write_pieces(&pieces, 0, write_some, |_, _| panic!("nothing is left")).unwrap();
        assert_eq!(*file.borrow(), bytes);
    }
}
