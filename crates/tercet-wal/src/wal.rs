//! The log itself: what is staged goes to disk as one frame under one sync, and comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use bytes::Bytes;
use tercet_seeded::{Bug, has};

use crate::disk::{BLOCK, Disk, DiskFile, is_unreadable};
use crate::entry::{ENTRY_HEADER_BYTES, Entry, EntryHeader};
use crate::format::{
    EntryId, FRAME_HEADER_BYTES, FrameHeader, FrameId, HardState, ID_BYTES, Identifier,
    SEAL_OFFSET, SEGMENT_HEADER_BYTES, Seal, SegmentHeader, frame_space,
};
use crate::recover;

/// The folder of the segments.
pub(crate) const FOLDER: &str = "wal";
/// What is kept free in a segment for frames without entries, so that a node whose disk is full
/// can still vote.
const VOTES_RESERVE: u64 = 64 << 10;
/// What stays free in a segment between its frames and their identifiers, so that no block of a
/// disk holds a part of both, nor the places of the next ones.
const GAP: u64 = 2 * BLOCK;

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

/// Where an entry stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The position of the segment in the list of segments.
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

/// A segment that is in use.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub(crate) number: u32,
    /// By which the directory has it.
    pub(crate) name: String,
    pub(crate) file: F,
    /// The file's length.
    pub(crate) bytes: u64,
    /// Where the next frame goes.
    pub(crate) end: u64,
    /// Where the identifiers begin; they grow down.
    pub(crate) ids: u64,
}

pub(crate) fn segment_name(number: u32) -> String {
    format!("{FOLDER}/{number:08}.seg")
}

impl<F> Segment<F> {
    const fn room(&self) -> u64 {
        self.ids.saturating_sub(self.end)
    }
}

/// A write-ahead log; see the crate's head.
#[derive(Debug)]
pub struct Wal<D: Disk> {
    options: WalOptions,
    pub(crate) segments: Vec<Segment<D::File>>,
    /// One for each entry on disk that no staged cut removes, from index 1.
    pub(crate) places: Vec<Place>,
    /// Those of them whose bytes on disk are known to be damaged, as their identifiers say.
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
    staged: bool,
    poisoned: bool,
    /// The next segment to look at in [`Self::check_files`].
    check_next: usize,
    no_room: bool,
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
            places: Vec::new(),
            faulty: BTreeMap::new(),
            last_on_disk: 0,
            hard_state: HardState::default(),
            next_frame: 1,
            tail: VecDeque::new(),
            tail_bytes: 0,
            staged_hard_state: None,
            staged_truncate: None,
            staged_count: 0,
            staged: false,
            poisoned: false,
            check_next: 0,
            no_room: false,
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
        (self.places.len() + self.staged_count) as u64
    }

    /// Whether [`Self::commit`] has something to write.
    pub const fn is_staged(&self) -> bool {
        self.staged
    }

    /// Adds to what the next [`Self::commit`] writes. Readers see it at once.
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
            self.tail.push_back(entry);
            self.staged_count += 1;
        }
    }

    fn truncate(&mut self, from: u64) {
        assert!(from >= 1 && from <= self.last_index(), "what is cut exists: {from}");
        while self.tail.back().is_some_and(|entry| entry.header.index >= from) {
            let entry = self.tail.pop_back().expect("looked at above");
            self.tail_bytes -= entry.frame.len();
            self.staged_count = self.staged_count.saturating_sub(1);
        }
        let on_disk = self.places.len() as u64;
        if from <= on_disk {
            self.places.truncate(usize::try_from(from - 1).expect("an index in memory"));
            self.faulty.split_off(&from);
            self.staged_truncate = Some(self.staged_truncate.map_or(from, |at| at.min(from)));
        }
    }

    /// Puts all that is staged on disk: one frame, one sync.
    ///
    /// # Errors
    /// [`WalError::Full`]: nothing was written, it stays staged. Any other error poisons the log.
    pub fn commit(&mut self, disk: &mut D) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if !self.staged {
            return Ok(());
        }
        let result = self.write(disk);
        self.poisoned = matches!(&result, Err(error) if !matches!(error, WalError::Full));
        result
    }

    fn write(&mut self, disk: &mut D) -> Result<(), WalError> {
        let first = self.tail.len() - self.staged_count;
        let body_bytes: u64 = self.tail.range(first..).map(|entry| entry.frame.len() as u64).sum();
        let ids_bytes = ((1 + self.staged_count) * ID_BYTES) as u64;
        let need = frame_space(body_bytes) + ids_bytes;
        let reserve = if self.staged_count == 0 { GAP } else { VOTES_RESERVE };
        if self.segments.last().expect("a log has a segment").room() < need + reserve {
            self.roll(disk, need)?;
        }
        let position = self.segments.len() - 1;
        let segment = &mut self.segments[position];
        let hard_state = self.staged_hard_state.unwrap_or(self.hard_state);
        let header = FrameHeader {
            seq: self.next_frame,
            segment: segment.number,
            log_id: self.options.log_id,
            hard_state,
            truncate_from: self.staged_truncate,
            first_index: self.places.len() as u64 + 1,
            entry_count: u32::try_from(self.staged_count).expect("far below 4 billion"),
            body_bytes: u32::try_from(body_bytes).expect("a batch is far below 4 GiB"),
        };
        let offset = |at: u64| u32::try_from(at).expect("a segment is below 4 GiB");
        let mut at = segment.end + FRAME_HEADER_BYTES as u64;
        // Identifiers grow down: the frame's stands highest, its last entry's lowest.
        let mut ids = vec![0; (1 + self.staged_count) * ID_BYTES];
        let mut id_slots = ids.chunks_exact_mut(ID_BYTES).rev();
        let mut add_id = |id: Identifier| {
            id_slots.next().expect("one for each").copy_from_slice(&id.encode());
        };
        add_id(Identifier::Frame(FrameId::of(&header, offset(segment.end))));
        let mut places = Vec::with_capacity(self.staged_count);
        let encoded = header.encode();
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(1 + self.staged_count);
        pieces.push(&encoded);
        for entry in self.tail.range(first..) {
            add_id(Identifier::Entry(EntryId::of(&entry.header, offset(at))));
            places
                .push(Place { segment: u32::try_from(position).expect("few"), offset: offset(at) });
            pieces.push(&entry.frame);
            at += entry.frame.len() as u64;
        }
        let (name, file) = (&segment.name, &segment.file);
        file.write_pieces_at(&pieces, segment.end).map_err(io_error("write", name))?;
        file.write_at(&ids, segment.ids - ids_bytes).map_err(io_error("write", name))?;
        sync_seeded(file).map_err(io_error("sync", name))?;
        segment.end += header.space();
        segment.ids -= ids_bytes;
        let is_half_full = segment.end + (segment.bytes - segment.ids) > segment.bytes / 2;
        let next_number = segment.number + 1;
        self.places.extend(places);
        self.last_on_disk = self.places.len() as u64;
        self.hard_state = hard_state;
        self.next_frame += 1;
        self.staged_hard_state = None;
        self.staged_truncate = None;
        self.staged_count = 0;
        self.staged = false;
        self.shrink_tail();
        if is_half_full && !self.no_room {
            disk.prepare(&segment_name(next_number), self.segment_bytes(0));
        }
        Ok(())
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
            let (name, seal) = (&before.name, self.seal(before.number));
            before.file.write_at(&seal.encode(), SEAL_OFFSET).map_err(io_error("write", name))?;
            before.file.sync().map_err(io_error("sync", name))?;
        }
        self.segments.push(Segment {
            number,
            name,
            file,
            bytes,
            end: SEGMENT_HEADER_BYTES,
            ids: bytes,
        });
        Ok(())
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

    /// Entries from `first` to at most `last`: as many as fit into `bytes_max` and stand before the
    /// first faulty one, one at least. Verified.
    ///
    /// # Errors
    /// [`WalError::Faulty`] if what is on disk of the first one is not what was written: tell
    /// [`Self::note_faulty`].
    ///
    /// # Panics
    /// If `first..=last` is not in the log.
    pub fn read(
        &self,
        _disk: &D,
        first: u64,
        last: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, WalError> {
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
            return Ok(entries);
        }
        self.read_disk(first, last.min(self.places.len() as u64), bytes_max)
    }

    fn place(&self, index: u64) -> Place {
        self.places[usize::try_from(index - 1).expect("an index in memory")]
    }

    /// Reads a stretch of one segment at a time.
    fn read_disk(&self, first: u64, last: u64, bytes_max: u64) -> Result<Vec<Entry>, WalError> {
        if let Some(header) = self.faulty.get(&first) {
            return Err(WalError::Faulty { index: first, term: header.term });
        }
        let start = self.place(first);
        let mut end = first;
        while end < last && !self.faulty.contains_key(&(end + 1)) {
            let next = self.place(end + 1);
            let is_near = u64::from(next.offset.saturating_sub(start.offset)) < bytes_max;
            if next.segment != start.segment || !is_near {
                break;
            }
            end += 1;
        }
        match self.read_stretch(first, end, bytes_max) {
            // One of them is damaged: the others are still to be had.
            Err(WalError::Faulty { .. }) => self.read_stretch(first, first, bytes_max),
            result => result,
        }
    }

    fn read_stretch(&self, first: u64, end: u64, bytes_max: u64) -> Result<Vec<Entry>, WalError> {
        let start = self.place(first);
        let segment = &self.segments[start.segment as usize];
        // Every entry but the last one ends before the next begins; the last says its own length.
        let last_header = self.header_on_disk(end)?;
        let last_end = u64::from(self.place(end).offset) + last_header.frame_bytes() as u64;
        let length = last_end - u64::from(start.offset);
        let mut buffer = vec![0; usize::try_from(length).expect("a stretch of a segment")];
        self.fill(segment, &mut buffer, u64::from(start.offset), first)?;
        let buffer = Bytes::from(buffer);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in first..=end {
            let place = self.place(index);
            let mut rest = buffer.slice((place.offset - start.offset) as usize..);
            let entry = match Entry::split_first(&mut rest) {
                Ok(entry) if entry.header.index == index => entry,
                Ok(_) | Err(_) => return Err(WalError::Faulty { index, term: 0 }),
            };
            bytes += entry.frame.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Reads at an offset; bytes that the disk cannot give are damage to the entry `index`.
    fn fill(
        &self,
        segment: &Segment<D::File>,
        buffer: &mut [u8],
        offset: u64,
        index: u64,
    ) -> Result<(), WalError> {
        match read_full(&segment.file, buffer, offset) {
            Ok(true) => Ok(()),
            Ok(false) => Err(WalError::Lost { path: segment.name.clone() }),
            Err(error) if is_unreadable(&error) => Err(WalError::Faulty { index, term: 0 }),
            Err(error) => Err(io_error("read", &segment.name)(error)),
        }
    }

    fn header_on_disk(&self, index: u64) -> Result<EntryHeader, WalError> {
        let place = self.place(index);
        let segment = &self.segments[place.segment as usize];
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        self.fill(segment, &mut bytes, u64::from(place.offset), index)?;
        let header = EntryHeader::peek(&bytes).ok().filter(|header| header.index == index);
        let end = |header: &EntryHeader| u64::from(place.offset) + header.frame_bytes() as u64;
        header
            .filter(|header| end(header) <= segment.end)
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
        let place = self.place(index);
        let segment = &self.segments[place.segment as usize];
        let mut chunk = vec![0; ID_BYTES * 1024];
        let mut from = segment.ids;
        while from < segment.bytes {
            let length =
                chunk.len().min(usize::try_from(segment.bytes - from).unwrap_or(usize::MAX));
            let chunk = &mut chunk[..length];
            if !matches!(read_full(&segment.file, chunk, from), Ok(true)) {
                // What cannot be read may be the identifiers of others: one by one.
                for (slot, at) in chunk.chunks_mut(ID_BYTES).zip((from..).step_by(ID_BYTES)) {
                    if !matches!(read_full(&segment.file, slot, at), Ok(true)) {
                        slot.fill(0);
                    }
                }
            }
            for id in chunk.chunks(ID_BYTES).filter_map(Identifier::decode) {
                if let Identifier::Entry(id) = id
                    && (id.index, id.offset) == (index, place.offset)
                {
                    self.faulty.insert(index, id.header(self.options.log_id));
                    return Ok(true);
                }
            }
            from += length as u64;
        }
        Err(WalError::Corrupt {
            segment: segment.name.clone(),
            offset: u64::from(place.offset),
            what: format!("entry {index} is damaged, and so is its identifier"),
        })
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
            let place = self.place(index);
            let segment = &self.segments[place.segment as usize];
            write_over(&segment.file, &entry.frame, u64::from(place.offset)).map_err(|source| {
                match is_unreadable(&source) {
                    true => WalError::Unrepairable { path: segment.name.clone(), index, source },
                    false => io_error("repair", &segment.name)(source),
                }
            })?;
            touched.insert(place.segment as usize);
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
    pub fn scrub(&self, first: u64, bytes_max: u64) -> Result<(u64, Vec<u64>), WalError> {
        let mut damaged = Vec::new();
        // What is kept in memory is read from there; its turn comes.
        let in_memory = (self.tail.len() - self.staged_count) as u64;
        let last = (self.places.len() as u64).saturating_sub(in_memory);
        let mut index = first;
        let mut bytes = 0;
        while index <= last && bytes < bytes_max {
            if let Some(known) = self.faulty.get(&index) {
                bytes += known.frame_bytes() as u64;
                index += 1;
                continue;
            }
            let place = self.place(index);
            let from = u64::from(place.offset);
            let range = from..from.saturating_add(bytes_max - bytes);
            self.segments[place.segment as usize].file.forget_cache(range);
            match self.read_disk(index, last, bytes_max - bytes) {
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

/// Syncs; with a seeded bug, a failure is taken for something else.
fn sync_seeded<F: DiskFile>(file: &F) -> io::Result<()> {
    match file.sync() {
        Err(_) if has(Bug::IgnoreSyncError) => Ok(()),
        Err(_) if has(Bug::RetrySync) => file.sync(),
        result => result,
    }
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
pub(crate) fn read_full<F: DiskFile>(file: &F, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let n = file.read_at(&mut buffer[filled..], offset + filled as u64)?;
        if n == 0 {
            return Ok(false);
        }
        filled += n;
    }
    Ok(true)
}
