//! The log itself: what is staged goes to disk as one frame under one sync, and comes back.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use tercet_seeded::{Bug, has};

use crate::bulk::Bulk;
use crate::cached::CachedReads;
use crate::disk::{BLOCK, Disk, DiskFile, ZEROS, Zeros, is_unreadable};
use crate::entry::{ENTRY_HEADER_BYTES, Entry, EntryHeader};
use crate::format::{
    EntryId, FRAME_HEADER_BYTES, FrameHeader, FrameId, HardState, ID_BYTES, Identifier,
    SEAL_OFFSET, SEGMENT_HEADER_BYTES, Seal, SegmentHeader, frame_space,
};
use crate::places::{
    Contents, POINTS_MAX, Place, Points, SUMMARY_BYTES_MAX, SUMMARY_OFFSET, Summary, Walked, walk,
};
use crate::recover;
use crate::stretch::{Found, STRETCH_BYTES_MAX, Stretch, fill, read_full};

/// The folder of the segments.
pub(crate) const FOLDER: &str = "wal";
/// What is kept free in a segment for frames without entries, so that a node whose disk is full
/// can still vote.
const VOTES_RESERVE: u64 = 64 << 10;
/// What stays free in a segment between its frames and their identifiers, so that no block of a
/// disk holds a part of both, nor the places of the next ones.
const GAP: u64 = 2 * BLOCK;

/// So many segments before the newest one stay in the system's memory as they were written there,
/// for followers and readers that are a little behind.
const CACHED_SEGMENTS: usize = 2;

/// How a log is laid out.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The size of a segment, in bytes. A frame that does not fit gets a larger one; none is
    /// smaller than its header and the room that is kept for votes.
    pub segment_bytes: u64,
    /// Which log it is.
    pub log_id: u16,
    /// How much of the disk stays free: with less, appends are refused.
    pub reserve_bytes: u64,
    /// How many bytes of the latest entries are kept in memory for readers.
    pub tail_bytes: usize,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, log_id: 0, reserve_bytes: 64 << 20, tail_bytes: 8 << 20 }
    }
}

/// What is put on disk as one unit, in the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Cut the log's tail from this index on.
    pub truncate_from: Option<u64>,
    /// Entries that continue the log.
    pub entries: Vec<Entry>,
}

/// A write that a crash cut short.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The segment's file name.
    pub segment: String,
    /// Where it began.
    pub offset: u64,
    /// How many bytes were cut.
    pub bytes: u64,
}

/// What was found in a log that was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The log as runs of one term: (term, first index), ascending.
    pub runs: Vec<(u64, u64)>,
    /// The entries without records, as (index, kind), ascending.
    pub marks: Vec<(u64, u8)>,
    /// The last index; 0 if the log is empty.
    pub last_index: u64,
    /// What a crash cut short, if anything. It was never acknowledged.
    pub torn_tail: Option<TornTail>,
}

/// Whether there is room for more entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Yes.
    Enough,
    /// The disk is nearly full: append nothing.
    Full,
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The file system failed.
    #[error("{path}: {op}: {source}")]
    Io {
        /// What was done.
        op: &'static str,
        /// To which file.
        path: String,
        /// How it failed.
        source: io::Error,
    },
    /// Something that was once whole is damaged.
    #[error("{segment} at byte {offset}: {what}")]
    Corrupt {
        /// The segment's file name.
        segment: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A file of the log is not there.
    #[error("{what}")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// It was written by a newer program.
    #[error("{segment}: format {found} is newer than this program's: use a newer program")]
    Newer {
        /// The segment's file name.
        segment: String,
        /// The format found.
        found: u8,
    },
    /// An earlier write or sync failed: what is on disk is not known any more.
    #[error("an earlier write to the log failed: the node must be started again")]
    Poisoned,
    /// An entry is in the log, but its bytes are damaged: a peer may have them.
    #[error("entry {index} of term {term} is damaged")]
    Faulty {
        /// Its index.
        index: u64,
        /// Its term; 0 until [`Wal::note_faulty`] has looked for it.
        term: u64,
    },
    /// The disk does not take the bytes of a damaged entry in the place where they stood.
    #[error("{path}: damaged entry {index} cannot be written again: {source}")]
    Unrepairable {
        /// The segment's file.
        path: String,
        /// The entry.
        index: u64,
        /// How the write failed.
        source: io::Error,
    },
    /// There is no room; nothing was written.
    #[error("the disk is full")]
    Full,
    /// A file of the log was deleted, replaced or shortened while it was open.
    #[error("{path} was deleted, replaced or shortened while the node ran")]
    Lost {
        /// Which.
        path: String,
    },
}

pub(crate) fn io_error(op: &'static str, path: &str) -> impl FnOnce(io::Error) -> WalError {
    move |source| WalError::Io { op, path: path.to_owned(), source }
}

/// A segment that is in use.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub(crate) number: u32,
    /// By which the directory has it.
    pub(crate) name: String,
    /// Shared with whoever syncs it.
    pub(crate) file: Arc<F>,
    /// The file's length.
    pub(crate) bytes: u64,
    /// Where the next frame goes.
    pub(crate) end: u64,
    /// Where the identifiers begin; they grow down.
    pub(crate) ids: u64,
    /// The sequence number of its first frame.
    pub(crate) first_frame: u64,
    /// The last index of the log before it.
    pub(crate) last_before: u64,
    /// From this index on the log stands here or in later segments. Never above the next one's.
    pub(crate) first: u64,
    /// Of a sealed segment: where some of its entries stand.
    pub(crate) points: Points,
    /// Of a sealed segment: whether its summary may stand on disk.
    pub(crate) has_summary: bool,
}

/// The places of entries of a sealed segment that stand one behind the other.
#[derive(Debug)]
struct Block {
    /// The segment's position.
    segment: usize,
    /// The index of the first one.
    first: u64,
    places: Vec<Place>,
}

/// The places that were looked up last.
#[derive(Debug, Default)]
struct Blocks {
    /// By identifiers.
    walked: Option<Block>,
    /// All of a segment some of whose identifiers are damaged.
    scanned: Option<Block>,
}

pub(crate) fn segment_name(number: u32) -> String {
    format!("{FOLDER}/{number:08}.seg")
}

/// What lies between two points of a sealed segment.
struct Span {
    /// From an entry on; at the beginning of the segment, from the first frame on.
    frames: Range<u64>,
    /// The identifiers of what begins there.
    ids: Range<u64>,
}

impl<F> Segment<F> {
    fn span(&self, from: usize, to: usize) -> Span {
        let id_end = |(_, id): &(u32, u32)| u64::from(*id) + ID_BYTES as u64;
        let end = self.points.at.get(to);
        // Before the first point there may be frames without entries, and entries that were cut.
        let start = self.points.at.get(from).filter(|_| from > 0);
        Span {
            frames: start.map_or(SEGMENT_HEADER_BYTES, |(offset, _)| u64::from(*offset))
                ..end.map_or(self.end, |(offset, _)| u64::from(*offset)),
            ids: end.map_or(self.ids, id_end)..start.map_or(self.bytes, id_end),
        }
    }

    const fn room(&self) -> u64 {
        self.ids.saturating_sub(self.end)
    }
}

/// What was written and is not durable yet: [`Self::sync`] it, on any thread, and tell
/// [`Wal::note_synced`] how that went.
#[derive(Debug)]
#[must_use = "nothing of it counts until it is synced"]
pub struct Unsynced<F> {
    file: Arc<F>,
}

impl<F: DiskFile> Unsynced<F> {
    /// Makes it durable.
    ///
    /// # Errors
    /// The file system's. It must not be tried again.
    pub fn sync(self) -> io::Result<()> {
        // With a seeded bug, a failure is taken for something else.
        match self.file.sync() {
            Err(_) if has(Bug::IgnoreSyncError) => Ok(()),
            Err(_) if has(Bug::RetrySync) => self.file.sync(),
            result => result,
        }
    }
}

/// A write-ahead log; see the crate's head.
#[derive(Debug)]
pub struct Wal<D: Disk> {
    options: WalOptions,
    pub(crate) segments: Vec<Segment<D::File>>,
    /// What stands in the newest segment; staged cuts do not count.
    pub(crate) contents: Contents,
    blocks: RefCell<Blocks>,
    cached_reads: RefCell<CachedReads<D::File>>,
    /// The entries on disk whose bytes there are known to be damaged, as their identifiers say; none
    /// that a staged cut removes.
    pub(crate) faulty: BTreeMap<u64, EntryHeader>,
    /// The last index as the frames on disk have it: staged cuts do not count.
    pub(crate) last_on_disk: u64,
    pub(crate) hard_state: HardState,
    pub(crate) next_frame: u64,
    /// The latest entries, those that are staged among them.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    staged_hard_state: Option<HardState>,
    staged_truncate: Option<u64>,
    /// How many entries at the end of `tail` are staged.
    staged_count: usize,
    staged_bytes: usize,
    staged: bool,
    /// The newest segment has a frame that is not synced yet.
    unsynced: bool,
    poisoned: bool,
    /// The next segment to look at in [`Self::check_files`].
    check_next: usize,
    no_room: bool,
    bulk: Bulk<D::File>,
    /// The last frame was a large one.
    gets_much: bool,
}

impl<D: Disk> Wal<D> {
    /// Makes an empty log.
    ///
    /// # Errors
    /// The file system's, and if there are segments already.
    pub fn create(disk: &mut D, options: WalOptions) -> Result<Self, WalError> {
        let names = disk.list(FOLDER).map_err(io_error("list", FOLDER))?;
        if let Some(name) = names.first() {
            let source = io::ErrorKind::AlreadyExists.into();
            return Err(WalError::Io { op: "create a log", path: name.clone(), source });
        }
        let mut wal = Self::empty(options);
        wal.roll(disk, 0)?;
        Ok(wal)
    }

    /// Opens a log as it was left.
    ///
    /// # Errors
    /// [`WalError::Missing`] and [`WalError::Corrupt`]: the node has lost its memory.
    pub fn open(disk: &mut D, options: WalOptions) -> Result<(Self, Recovered), WalError> {
        recover::open(disk, Self::empty(options))
    }

    fn empty(options: WalOptions) -> Self {
        Self {
            options,
            segments: Vec::new(),
            contents: Contents::new(1),
            blocks: RefCell::default(),
            cached_reads: RefCell::default(),
            faulty: BTreeMap::new(),
            last_on_disk: 0,
            hard_state: HardState::default(),
            next_frame: 1,
            tail: VecDeque::new(),
            tail_bytes: 0,
            staged_hard_state: None,
            staged_truncate: None,
            staged_count: 0,
            staged_bytes: 0,
            staged: false,
            unsynced: false,
            poisoned: false,
            check_next: 0,
            no_room: false,
            bulk: Bulk::default(),
            gets_much: false,
        }
    }

    /// How many bytes of the latest entries are kept in memory: about `tail_bytes` of the options,
    /// and what is staged.
    pub const fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    pub(crate) const fn options(&self) -> &WalOptions {
        &self.options
    }

    /// The first index that is kept.
    pub const fn first_index(&self) -> u64 {
        1
    }

    /// The last index, staged entries included; 0 if the log is empty.
    pub fn last_index(&self) -> u64 {
        self.kept() + self.staged_count as u64
    }

    /// The last index on disk that no staged cut removes.
    pub(crate) fn kept(&self) -> u64 {
        self.staged_truncate.map_or(self.last_on_disk, |from| from - 1)
    }

    /// Whether [`Self::write`] has something to write.
    pub const fn is_staged(&self) -> bool {
        self.staged
    }

    /// Whether the log grows by much at a time: what is written of it elsewhere had better be a
    /// [`Bulk`], too.
    pub const fn gets_much(&self) -> bool {
        self.gets_much
    }

    /// How many entries are staged.
    pub const fn staged_count(&self) -> usize {
        self.staged_count
    }

    /// How many bytes they have.
    pub const fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Adds to what the next [`Self::write`] writes. Readers see it at once.
    ///
    /// # Panics
    /// If the entries do not continue the log.
    pub fn stage(&mut self, batch: Batch) {
        self.staged = true;
        if let Some(state) = batch.hard_state {
            self.staged_hard_state = Some(state);
        }
        if let Some(from) = batch.truncate_from {
            self.truncate(from);
        }
        for entry in batch.entries {
            let expected = self.last_index() + 1;
            assert_eq!(entry.header.index, expected, "entries continue the log");
            self.tail_bytes += entry.frame.len();
            self.staged_bytes += entry.frame.len();
            self.tail.push_back(entry);
            self.staged_count += 1;
        }
    }

    fn truncate(&mut self, from: u64) {
        assert!(from >= 1 && from <= self.last_index(), "what is cut exists: {from}");
        while self.tail.back().is_some_and(|entry| entry.header.index >= from) {
            let entry = self.tail.pop_back().expect("looked at above");
            self.tail_bytes -= entry.frame.len();
            if self.staged_count > 0 {
                self.staged_count -= 1;
                self.staged_bytes -= entry.frame.len();
            }
        }
        if from <= self.kept() {
            self.faulty.split_off(&from);
            self.staged_truncate = Some(from);
        }
    }

    /// The log on disk ends before `from` now.
    pub(crate) fn cut(&mut self, from: u64) {
        self.contents.cut(from);
        for segment in self.segments.iter_mut().rev().take_while(|segment| segment.first > from) {
            segment.first = from;
        }
    }

    /// Puts all that is staged on disk: one frame, one sync.
    ///
    /// # Errors
    /// [`WalError::Full`]: nothing was written, it stays staged. Any other error poisons the log.
    pub fn commit(&mut self, disk: &mut D) -> Result<(), WalError> {
        match self.write(disk)? {
            Some(unsynced) => {
                let synced = unsynced.sync();
                self.note_synced(synced)
            }
            None => Ok(()),
        }
    }

    /// Writes all that is staged as one frame, if there is anything. Readers and later writes go by
    /// it from now on, but nothing of it is durable before it is synced; until then, it is the last
    /// that was written.
    ///
    /// # Errors
    /// [`WalError::Full`]: nothing was written, it stays staged. Any other error poisons the log.
    ///
    /// # Panics
    /// If what was written before is not synced.
    pub fn write(&mut self, disk: &mut D) -> Result<Option<Unsynced<D::File>>, WalError> {
        assert!(!self.unsynced, "one frame at a time is on its way to the disk");
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if !self.staged {
            return Ok(None);
        }
        let result = self.write_frame(disk);
        self.poisoned = matches!(&result, Err(error) if !matches!(error, WalError::Full));
        self.unsynced = result.is_ok();
        result.map(Some)
    }

    /// What [`Self::write`] gave was synced, or could not be.
    ///
    /// # Errors
    /// The file system's: the log is poisoned.
    pub fn note_synced(&mut self, synced: io::Result<()>) -> Result<(), WalError> {
        self.unsynced = false;
        self.poisoned |= synced.is_err();
        synced.map_err(io_error("sync", &self.newest().name))
    }

    fn newest(&self) -> &Segment<D::File> {
        self.segments.last().expect("a log has a segment")
    }

    fn write_frame(&mut self, disk: &mut D) -> Result<Unsynced<D::File>, WalError> {
        let first = self.tail.len() - self.staged_count;
        let body_bytes = self.staged_bytes as u64;
        let ids_bytes = ((1 + self.staged_count) * ID_BYTES) as u64;
        let need = frame_space(body_bytes) + ids_bytes;
        let reserve = if self.staged_count == 0 { GAP } else { VOTES_RESERVE };
        if self.newest().room() < need + reserve {
            self.roll(disk, need)?;
        }
        let first_index = self.kept() + 1;
        let segment = self.segments.last_mut().expect("looked at above");
        let hard_state = self.staged_hard_state.unwrap_or(self.hard_state);
        let header = FrameHeader {
            seq: self.next_frame,
            segment: segment.number,
            log_id: self.options.log_id,
            hard_state,
            truncate_from: self.staged_truncate,
            first_index,
            entry_count: u32::try_from(self.staged_count).expect("far below 4 billion"),
            body_bytes: u32::try_from(body_bytes).expect("a batch is far below 4 GiB"),
        };
        let offset = |at: u64| u32::try_from(at).expect("a segment is below 4 GiB");
        let mut at = segment.end + FRAME_HEADER_BYTES as u64;
        // Identifiers grow down: the frame's stands highest, its last entry's lowest.
        let (end, ids_start) = (segment.end + header.space(), segment.ids - ids_bytes);
        let written = segment.end + FRAME_HEADER_BYTES as u64 + body_bytes;
        let (padding, ids_padding) = padding(segment.end..written, ids_start..segment.ids);
        let mut ids = vec![0; ids_padding + (1 + self.staged_count) * ID_BYTES];
        let mut id_slots = ids[ids_padding..].chunks_exact_mut(ID_BYTES).rev();
        let mut add_id = |id: Identifier| {
            id_slots.next().expect("one for each").copy_from_slice(&id.encode());
        };
        add_id(Identifier::Frame(FrameId::of(&header, offset(segment.end))));
        let encoded = header.encode();
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(1 + self.staged_count);
        pieces.push(&encoded);
        for entry in self.tail.range(first..) {
            add_id(Identifier::Entry(EntryId::of(&entry.header, offset(at))));
            pieces.push(&entry.frame);
            at += entry.frame.len() as u64;
        }
        pieces.push(&ZEROS.0[..padding]);
        let (name, file) = (&segment.name, &segment.file);
        self.gets_much = self
            .bulk
            .write(disk, (file, name), &pieces, segment.end, end)
            .map_err(io_error("write", name))?;
        file.write_at(&ids, ids_start - ids_padding as u64).map_err(io_error("write", name))?;
        let unsynced = Unsynced { file: Arc::clone(file) };
        let (mut at, mut id) = (segment.end + FRAME_HEADER_BYTES as u64, segment.ids);
        segment.end = end;
        segment.ids = ids_start;
        let is_half_full = segment.end + (segment.bytes - segment.ids) > segment.bytes / 2;
        let next_number = segment.number + 1;
        if let Some(from) = self.staged_truncate {
            self.cut(from);
        }
        id -= ID_BYTES as u64;
        for entry in self.tail.range(first..) {
            id -= ID_BYTES as u64;
            self.contents.push(&entry.header, Place::new(&entry.header, at, id));
            at += entry.frame.len() as u64;
        }
        self.last_on_disk = self.contents.next_index() - 1;
        self.hard_state = hard_state;
        self.next_frame += 1;
        self.staged_hard_state = None;
        self.staged_truncate = None;
        self.staged_count = 0;
        self.staged_bytes = 0;
        self.staged = false;
        self.shrink_tail();
        if is_half_full && !self.no_room {
            let zeros = if self.gets_much { Zeros::Reserved } else { Zeros::Written };
            disk.prepare(&segment_name(next_number), self.segment_bytes(0), zeros);
        }
        Ok(unsynced)
    }

    fn shrink_tail(&mut self) {
        while self.tail_bytes > self.options.tail_bytes && self.tail.len() > 1 {
            let entry = self.tail.pop_front().expect("it has more than one");
            self.tail_bytes -= entry.frame.len();
        }
    }

    /// The size of a segment whose first frame and identifiers need so much.
    fn segment_bytes(&self, need: u64) -> u64 {
        self.options.segment_bytes.max(SEGMENT_HEADER_BYTES + need + 2 * VOTES_RESERVE)
    }

    /// Begins the next segment, for a frame that needs so much, and seals the one before it. Each
    /// step is durable before the next one: a frame stands only behind a durable header, and a
    /// segment is sealed only if the next one can be read.
    fn roll(&mut self, disk: &mut D, need: u64) -> Result<(), WalError> {
        let bytes = self.segment_bytes(need);
        let number = self.segments.last().map_or(1, |segment| segment.number + 1);
        let name = segment_name(number);
        let file = match disk.create_zeroed(&name, bytes) {
            Ok(file) => file,
            Err(error) if is_full(&error) => return Err(WalError::Full),
            Err(error) => return Err(io_error("make a segment", &name)(error)),
        };
        let header = SegmentHeader {
            log_id: self.options.log_id,
            number,
            bytes,
            first_frame: self.next_frame,
            last_index: self.last_on_disk,
            hard_state: self.hard_state,
        };
        file.write_at(&header.encode(), 0).map_err(io_error("write", &name))?;
        file.sync().map_err(io_error("sync", &name))?;
        if let Some(before) = self.segments.last() {
            let seal = self.seal(before.number).encode();
            // Under one sync with its summary, which nobody needs.
            let mut block = vec![0; to_usize(SUMMARY_OFFSET - SEAL_OFFSET)];
            block[..seal.len()].copy_from_slice(&seal);
            block.extend(self.close_newest());
            let before = self.segments.last().expect("looked at above");
            let name = &before.name;
            before.file.write_at(&block, SEAL_OFFSET).map_err(io_error("write", name))?;
            before.file.sync().map_err(io_error("sync", name))?;
        }
        self.begin_segment(file, &header);
        if let Some(old) = self.segments.len().checked_sub(CACHED_SEGMENTS + 2) {
            disk.release(&self.segments[old].name, 0..u64::MAX);
        }
        Ok(())
    }

    /// A segment with this header is the newest one from now on.
    pub(crate) fn begin_segment(&mut self, file: D::File, header: &SegmentHeader) {
        self.contents = Contents::new(self.last_on_disk + 1);
        self.segments.push(Segment {
            number: header.number,
            name: segment_name(header.number),
            file: Arc::new(file),
            bytes: header.bytes,
            end: SEGMENT_HEADER_BYTES,
            ids: header.bytes,
            first_frame: header.first_frame,
            last_before: self.last_on_disk,
            first: self.last_on_disk + 1,
            points: Points::default(),
            has_summary: false,
        });
    }

    /// The newest segment is about to be sealed: of its places some are kept. Gives the bytes that
    /// are to stand in the place of its summary: zeros, if it gets none.
    pub(crate) fn close_newest(&mut self) -> Vec<u8> {
        let contents = std::mem::replace(&mut self.contents, Contents::new(self.last_on_disk + 1));
        let newest = self.segments.last_mut().expect("a log has a segment");
        let (segment, log_id, place) =
            (newest.number, self.options.log_id, (newest.end, newest.ids));
        let summary =
            Summary::of(segment, log_id, self.hard_state, self.next_frame, place, &contents);
        newest.points = match &summary {
            Some(summary) => summary.points.clone(),
            None => Points::new(&contents, POINTS_MAX),
        };
        // What is known to be damaged must not be forgotten with a restart; and of what a staged cut
        // removes it is not known any more.
        let is_whole =
            self.faulty.range(contents.first..).next().is_none() && self.staged_truncate.is_none();
        let summary = summary.filter(|_| is_whole);
        newest.has_summary = summary.is_some();
        let mut bytes = summary.map_or_else(Vec::new, |summary| summary.encode());
        bytes.resize(SUMMARY_BYTES_MAX, 0);
        bytes
    }

    /// The seal of a segment behind whose last frame the log stands.
    pub(crate) const fn seal(&self, segment: u32) -> Seal {
        Seal {
            segment,
            log_id: self.options.log_id,
            next_frame: self.next_frame,
            last_index: self.last_on_disk,
        }
    }

    /// Entries from `first` to at most `last`: as many as fit into `bytes_max` (from the disk 512 KiB
    /// at most) and stand before the first faulty one, one at least. Verified.
    ///
    /// # Errors
    /// [`WalError::Faulty`] if what is on disk of the first one is not what was written: tell
    /// [`Self::note_faulty`].
    ///
    /// # Panics
    /// If `first..=last` is not in the log.
    pub fn read(
        &self,
        disk: &D,
        first: u64,
        last: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, WalError> {
        self.find(disk, first, last, bytes_max)?.read()
    }

    /// Finds what [`Self::read`] gives: what is not in memory is left to be read, on any thread.
    ///
    /// # Errors
    /// As of [`Self::read`].
    ///
    /// # Panics
    /// If `first..=last` is not in the log.
    pub fn find(
        &self,
        _disk: &D,
        first: u64,
        last: u64,
        bytes_max: u64,
    ) -> Result<Found<D::File>, WalError> {
        assert!(
            first >= 1 && first <= last && last <= self.last_index(),
            "{first}..={last} is in the log, which ends at {}",
            self.last_index()
        );
        let tail_first = self.last_index() + 1 - self.tail.len() as u64;
        if first >= tail_first {
            let start = usize::try_from(first - tail_first).expect("inside the tail");
            let count = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
            let mut entries = Vec::new();
            let mut bytes = 0;
            for entry in self.tail.iter().skip(start).take(count) {
                bytes += entry.frame.len() as u64;
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(entry.clone());
            }
            return Ok(Found::InMemory(entries));
        }
        let bytes_max = bytes_max.min(STRETCH_BYTES_MAX);
        self.find_on_disk(first, last.min(self.kept()), bytes_max).map(Found::OnDisk)
    }

    // --- where entries stand ---

    /// The position of the segment in which an entry on disk stands.
    fn position_of(&self, index: u64) -> usize {
        self.segments.partition_point(|segment| segment.first <= index) - 1
    }

    /// The place of an entry on disk, with its segment's position.
    fn place(&self, index: u64) -> Result<(usize, Place), WalError> {
        let (position, places) = self.places(index, index, 1)?;
        Ok((position, places[0]))
    }

    /// The places of entries on disk that stand in one segment: those from `first` on to at most
    /// `last` that fit into `bytes_max`, one at least.
    fn places(
        &self,
        first: u64,
        last: u64,
        bytes_max: u64,
    ) -> Result<(usize, Vec<Place>), WalError> {
        let position = self.position_of(first);
        let last = self.segments.get(position + 1).map_or(last, |next| last.min(next.first - 1));
        if position + 1 == self.segments.len() {
            let places = &self.contents.places[to_usize(first - self.contents.first)..];
            return Ok((position, fitting(places, last - first + 1, bytes_max).0.to_vec()));
        }
        let mut blocks = self.blocks.borrow_mut();
        let Blocks { walked, scanned } = &mut *blocks;
        let known = |block: &Option<Block>| {
            let block = block.as_ref().filter(|block| block.segment == position)?;
            let from = usize::try_from(first.checked_sub(block.first)?).ok()?;
            block.places.get(from..).filter(|rest| !rest.is_empty()).map(<[Place]>::to_vec)
        };
        let count_max = last - first + 1;
        if let Some(rest) = known(scanned) {
            return Ok((position, fitting(&rest, count_max, bytes_max).0.to_vec()));
        }
        // Who reads on finds the beginning of what is wanted here, up to a point.
        let mut places = known(walked).unwrap_or_default();
        if let (found, false) = fitting(&places, count_max, bytes_max) {
            return Ok((position, found.to_vec()));
        }
        let points = &self.segments[position].points;
        let from = points.before(first + places.len() as u64);
        // As many points as may be needed.
        let mut to = from + 1;
        let begin = places.first().map(|place| place.offset);
        let far = begin
            .or_else(|| points.at.get(to).map(|(offset, _)| *offset))
            .map_or(u64::MAX, |begin| u64::from(begin).saturating_add(bytes_max));
        while to <= points.before(last) && u64::from(points.at[to].0) < far {
            to += 1;
        }
        let block_first = if places.is_empty() { points.index_of(from) } else { first };
        let block = match self.walk(position, from, to)? {
            Some(Walked { contents, .. }) => {
                places.extend(contents.places);
                walked.insert(Block { segment: position, first: block_first, places })
            }
            None => {
                let found = recover::scan_sealed(&self.segments[position], self.options.log_id)?;
                let Contents { first, places, .. } = found.0;
                scanned.insert(Block { segment: position, first, places })
            }
        };
        let rest = &block.places[to_usize(first - block.first)..];
        Ok((position, fitting(rest, count_max, bytes_max).0.to_vec()))
    }

    /// What the identifiers say that stand between two points of a sealed segment; `None` if not all
    /// of them are as they were written.
    fn walk(&self, position: usize, from: usize, to: usize) -> Result<Option<Walked>, WalError> {
        let segment = &self.segments[position];
        let points = &segment.points;
        let contents = match from {
            0 => Contents::new(segment.last_before + 1),
            _ => Contents::new(points.index_of(from)),
        };
        let Span { frames, ids: Range { start: bottom, end: top } } = segment.span(from, to);
        let mut ids = vec![0; to_usize(top - bottom)];
        for (file, bytes) in self.note_read(position, bottom..top) {
            file.forget_cache(bytes);
        }
        match read_full(&*segment.file, &mut ids, bottom) {
            Ok(true) => {}
            Ok(false) => return Err(WalError::Lost { path: segment.name.clone() }),
            Err(error) if is_unreadable(&error) => return Ok(None),
            Err(error) => return Err(io_error("read", &segment.name)(error)),
        }
        let expected = points.index_of(from)..points.index_of(to);
        Ok(walk(&ids, top, frames, contents).filter(|Walked { contents, .. }| {
            (contents.first, contents.next_index()) == (expected.start, expected.end)
        }))
    }

    // --- reading ---

    /// A stretch of one segment.
    fn find_on_disk(
        &self,
        first: u64,
        last: u64,
        bytes_max: u64,
    ) -> Result<Stretch<D::File>, WalError> {
        if let Some(header) = self.faulty.get(&first) {
            return Err(WalError::Faulty { index: first, term: header.term });
        }
        let next_faulty = self.faulty.range(first..=last).next().map(|(index, _)| index - 1);
        let (position, places) = self.places(first, next_faulty.unwrap_or(last), bytes_max)?;
        let bytes = u64::from(places[0].offset)..places[places.len() - 1].end();
        let unneeded = self.note_read(position, bytes);
        let segment = &self.segments[position];
        let (file, path) = (Arc::clone(&segment.file), segment.name.clone());
        Ok(Stretch { file, path, first, places, unneeded })
    }

    /// A part of a segment is about to be read; says what need not stay in memory for that.
    fn note_read(&self, position: usize, bytes: Range<u64>) -> Vec<(Arc<D::File>, Range<u64>)> {
        if position + CACHED_SEGMENTS + 1 >= self.segments.len() {
            return Vec::new();
        }
        self.cached_reads.borrow_mut().note(&self.segments[position].file, bytes)
    }

    fn header_on_disk(&self, index: u64) -> Result<EntryHeader, WalError> {
        let (position, place) = self.place(index)?;
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        let Segment { file, name, .. } = &self.segments[position];
        fill(&**file, name, &mut bytes, u64::from(place.offset), index)?;
        EntryHeader::peek(&bytes)
            .ok()
            .filter(|header| header.index == index && place.is_of(header))
            .ok_or(WalError::Faulty { index, term: 0 })
    }

    /// The header of an entry: for looking around. Its checksum is verified when it is read whole;
    /// that of a faulty entry is what its identifier says, without the log time.
    ///
    /// # Errors
    /// [`WalError::Faulty`] if another header is there: tell [`Self::note_faulty`].
    pub fn header(&self, _disk: &D, index: u64) -> Result<EntryHeader, WalError> {
        let tail_first = self.last_index() + 1 - self.tail.len() as u64;
        if index >= tail_first {
            let at = usize::try_from(index - tail_first).expect("inside the tail");
            return Ok(self.tail[at].header);
        }
        self.faulty.get(&index).copied().map_or_else(|| self.header_on_disk(index), Ok)
    }

    // --- damage ---

    /// The entries whose bytes are known to be damaged, as (index, term), ascending.
    pub fn faulty(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.faulty.iter().map(|(index, header)| (*index, header.term))
    }

    /// Whether the bytes of this entry are known to be damaged.
    pub fn is_faulty(&self, index: u64) -> bool {
        self.faulty.contains_key(&index)
    }

    /// A read found this entry damaged. Says whether that is news; from now on it is known by its
    /// identifier, until [`Self::repair`].
    ///
    /// # Errors
    /// [`WalError::Corrupt`] if its identifier is damaged too: nobody knows what stood there.
    pub fn note_faulty(&mut self, index: u64) -> Result<bool, WalError> {
        if self.faulty.contains_key(&index) {
            return Ok(false);
        }
        let (position, place) = self.place(index)?;
        let segment = &self.segments[position];
        let mut slot = [0; ID_BYTES];
        if matches!(read_full(&*segment.file, &mut slot, u64::from(place.id)), Ok(true))
            && let Some(Identifier::Entry(id)) = Identifier::decode(&slot)
            && (id.index, id.offset) == (index, place.offset)
        {
            self.forget_summary(position)?;
            self.faulty.insert(index, id.header(self.options.log_id));
            return Ok(true);
        }
        Err(WalError::Corrupt {
            segment: segment.name.clone(),
            offset: u64::from(place.offset),
            what: format!("entry {index} is damaged, and so is its identifier"),
        })
    }

    /// What is known to be damaged must be known at the next start: without its summary the segment
    /// is read then.
    fn forget_summary(&mut self, position: usize) -> Result<(), WalError> {
        let segment = &mut self.segments[position];
        if !segment.has_summary {
            return Ok(());
        }
        let zeros = [0; SUMMARY_BYTES_MAX];
        let written = write_over(&*segment.file, &zeros, SUMMARY_OFFSET)
            .and_then(|()| segment.file.sync())
            .map_err(io_error("write", &segment.name));
        self.poisoned |= written.is_err();
        segment.has_summary = written.is_err();
        written
    }

    /// Puts the bytes of faulty entries back where they stood, under one sync for each segment.
    /// Those that are not what the identifiers say are left out. Says which were repaired.
    ///
    /// # Errors
    /// The file system's: the log is poisoned.
    pub fn repair(&mut self, entries: &[Entry]) -> Result<Vec<u64>, WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        let result = self.write_back(entries);
        self.poisoned = result.is_err();
        result
    }

    fn write_back(&mut self, entries: &[Entry]) -> Result<Vec<u64>, WalError> {
        let mut repaired = Vec::new();
        let mut touched = BTreeSet::new();
        for entry in entries {
            let index = entry.header.index;
            let is_it =
                |known: &EntryHeader| EntryId::of(known, 0) == EntryId::of(&entry.header, 0);
            if !self.faulty.get(&index).is_some_and(is_it) {
                continue;
            }
            let (position, place) = self.place(index)?;
            let segment = &self.segments[position];
            write_over(&*segment.file, &entry.frame, u64::from(place.offset)).map_err(
                |source| match is_unreadable(&source) {
                    true => WalError::Unrepairable { path: segment.name.clone(), index, source },
                    false => io_error("repair", &segment.name)(source),
                },
            )?;
            touched.insert(position);
            repaired.push(index);
        }
        for position in touched {
            let segment = &self.segments[position];
            segment.file.sync().map_err(io_error("sync", &segment.name))?;
        }
        for index in &repaired {
            self.faulty.remove(index);
        }
        Ok(repaired)
    }

    /// Reads about so many bytes of entries from `first` on past the page cache, to find damage
    /// before somebody needs them. Gives the next index to go on with, 1 after the last one, and
    /// the damaged entries that were not known.
    ///
    /// # Errors
    /// The file system's.
    pub fn scrub(&mut self, first: u64, bytes_max: u64) -> Result<(u64, Vec<u64>), WalError> {
        let mut damaged = Vec::new();
        // What is kept in memory is read from there; its turn comes.
        let in_memory = (self.tail.len() - self.staged_count) as u64;
        let last = self.kept().saturating_sub(in_memory);
        let mut index = first;
        let mut bytes = 0;
        while index <= last && bytes < bytes_max {
            let end = self.scrub_identifiers(index, last, bytes_max - bytes)?;
            if let Some(known) = self.faulty.get(&index) {
                bytes += known.frame_bytes() as u64;
                index += 1;
                continue;
            }
            match self.find_on_disk(index, end, bytes_max - bytes).and_then(Stretch::read) {
                Ok(entries) => {
                    bytes += entries.iter().map(|entry| entry.frame.len() as u64).sum::<u64>();
                    index += entries.len() as u64;
                }
                Err(WalError::Faulty { index: bad, .. }) => {
                    damaged.push(bad);
                    index = bad + 1;
                    bytes += ENTRY_HEADER_BYTES as u64;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((if index > last { 1 } else { index }, damaged))
    }

    /// Before the entries from `index` on are looked at: the disk is asked for them, not the
    /// memory, and in a sealed segment the frames' headers and identifiers between two points are
    /// looked at, and written again where they are damaged. Gives the last index up to which the
    /// entries may be read now, at most `last`.
    fn scrub_identifiers(
        &mut self,
        index: u64,
        last: u64,
        bytes_max: u64,
    ) -> Result<u64, WalError> {
        let position = self.position_of(index);
        let segment = &self.segments[position];
        if position + 1 == self.segments.len() {
            let from = u64::from(self.place(index)?.1.offset);
            segment.file.forget_cache(from..from.saturating_add(bytes_max));
            return Ok(last);
        }
        let points = &segment.points;
        let (from, to) = (points.before(index), points.before(index) + 1);
        let end = last.min(points.index_of(to) - 1);
        if index != points.index_of(from) {
            return Ok(end);
        }
        let Span { frames, ids } = segment.span(from, to);
        segment.file.forget_cache(frames);
        segment.file.forget_cache(ids);
        let is_whole = match self.walk(position, from, to)? {
            Some(Walked { frames, .. }) => self.has_headers(segment, &frames)?,
            None => false,
        };
        if !is_whole {
            let result = recover::mend_sealed(segment, self.options.log_id);
            self.poisoned |= matches!(&result, Err(WalError::Io { .. }));
            result?;
            self.blocks.get_mut().scanned = None;
        }
        Ok(end)
    }

    /// Whether the headers of these frames stand where their identifiers say.
    fn has_headers(
        &self,
        segment: &Segment<D::File>,
        frames: &[FrameId],
    ) -> Result<bool, WalError> {
        let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
            return Ok(true);
        };
        let length = (last.offset - first.offset) as usize + FRAME_HEADER_BYTES;
        let mut buffer = vec![0; length];
        match fill(&*segment.file, &segment.name, &mut buffer, u64::from(first.offset), 0) {
            Ok(()) => {}
            Err(WalError::Faulty { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(frames.iter().all(|id| {
            let header = FrameHeader::decode(&buffer[(id.offset - first.offset) as usize..]);
            header.is_some_and(|found| {
                found == id.header(segment.number, self.options.log_id, found.entry_count)
            })
        }))
    }

    /// Looks whether files of the log were deleted, replaced or shortened while they were open: the
    /// one that is written each time, and of the others one in turn.
    ///
    /// # Errors
    /// [`WalError::Lost`].
    pub fn check_files(&mut self, disk: &D) -> Result<(), WalError> {
        let newest = self.segments.len() - 1;
        self.check_next = (self.check_next + 1) % self.segments.len();
        for position in [newest, self.check_next] {
            let segment = &self.segments[position];
            let Segment { name, file, .. } = segment;
            let is_same = disk.same_file(file, name).map_err(io_error("look at", name))?;
            let length = file.len().map_err(io_error("look at", name))?;
            if !is_same || length < segment.bytes {
                return Err(WalError::Lost { path: name.clone() });
            }
        }
        Ok(())
    }

    /// From now on so much of the disk stays free.
    pub const fn set_reserve_bytes(&mut self, bytes: u64) {
        self.options.reserve_bytes = bytes;
    }

    /// Whether there is room for more entries.
    pub fn room(&mut self, disk: &D) -> Room {
        // A disk that cannot say is treated as one with room: the write will tell.
        let free = disk.free_bytes().unwrap_or(u64::MAX);
        self.no_room = free < self.options.reserve_bytes;
        if self.no_room { Room::Full } else { Room::Enough }
    }
}

/// A position or a count that fits into memory.
pub(crate) fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("a part of a segment")
}

/// The first of these places: at most so many, and as many as fit into `bytes_max`, one at least.
/// Also says whether more of them might have been wanted than there are.
fn fitting(places: &[Place], count_max: u64, bytes_max: u64) -> (&[Place], bool) {
    let mut bytes = 0;
    let fits = |place: &&Place| {
        bytes += u64::from(place.bytes);
        // Between them there may be frames that were cut.
        bytes <= bytes_max && u64::from(place.offset - places[0].offset) < bytes_max
    };
    let count = places.iter().take_while(fits).count().max(1).min(places.len());
    let wanted = usize::try_from(count_max).unwrap_or(usize::MAX);
    (&places[..count.min(wanted)], count == places.len() && wanted > count)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes where some of what is there may not be readable. A system reads a block before it writes
/// to a part of it: one that cannot be read becomes zeros first. What else stood in it is as lost
/// as before, and has its second copy elsewhere.
pub(crate) fn write_over<F: DiskFile>(file: &F, bytes: &[u8], offset: u64) -> io::Result<()> {
    let end = offset + bytes.len() as u64;
    let length = file.len()?;
    let blocks = [offset - offset % BLOCK, (end - 1) - (end - 1) % BLOCK];
    for start in blocks.into_iter().filter(|start| *start < length) {
        let size = BLOCK.min(length - start);
        let mut block = vec![0; usize::try_from(size).expect("4096")];
        match read_full(file, &mut block, start) {
            Ok(_) => {}
            Err(error) if is_unreadable(&error) => {
                block.fill(0);
                file.write_at(&block, start)?;
            }
            Err(error) => return Err(error),
        }
    }
    file.write_at(bytes, offset)
}

/// Fills the buffer; `false` if the file ends before.
/// How many zeros follow a frame and go before its identifiers, so that blocks that are written for
/// the first time are written whole: else the system reads them first. Beyond both is unused room,
/// which is zeros.
fn padding(frame: Range<u64>, ids: Range<u64>) -> (usize, usize) {
    let begins = |at: u64| at - at % BLOCK;
    let end = frame.end.next_multiple_of(BLOCK);
    let start = begins(ids.start);
    if end > start {
        return (0, 0);
    }
    let is_new = begins(frame.end - 1) >= frame.start;
    let after = if is_new { end - frame.end } else { 0 };
    let is_new = start + BLOCK <= ids.end;
    let before = if is_new { ids.start - start } else { 0 };
    let size = |bytes| usize::try_from(bytes).expect("below 4096");
    (size(after), size(before))
}
