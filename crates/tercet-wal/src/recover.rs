//! Opening a log as it was left: telling a write that was cut short from damage, and damage that
//! can be repaired from damage that cannot.
//!
//! The rules, each argued in docs/wal-format.md (and by Alagappan et al., "Protocol-Aware Recovery
//! for Consensus-Based Storage", FAST 2018, for the identifiers):
//! 1. A frame that is whole counts, whether its identifiers are there or not.
//! 2. A frame that is not whole, of which some part has neither bytes nor an identifier, and with
//!    nothing after it, was cut short by a crash before its sync: nobody was told of it. It is cut.
//! 3. A frame that is not whole, but each part of which has its bytes or its identifier, is kept.
//!    Entries without their bytes are *faulty*: they have their place in the log, and their bytes
//!    have to come from a peer.
//! 4. Anything else is damage that cannot be repaired, and nothing is ever cut for it.
//!
//! A sealed segment with a summary is not read: that it is damaged is found by whoever reads it.

use std::ops::Range;

use bytes::Bytes;
use tercet_seeded::{Bug, has};

use crate::disk::{BLOCK, Disk, DiskFile, SECTOR, is_unreadable, unreadable_error};
use crate::entry::{ENTRY_HEADER_BYTES, Entry, EntryHeader};
use crate::format::{
    EntryId, FRAME_HEADER_BYTES, FrameHeader, FrameId, HeaderError, ID_BYTES, Identifier,
    SEAL_BYTES, SEAL_OFFSET, SEGMENT_HEADER_BYTES, Seal, SegmentHeader,
};
use crate::places::{Contents, Place, Points, SUMMARY_OFFSET, Summary, cut_lists};
use crate::stretch::read_full;
use crate::wal::{
    FOLDER, Recovered, Segment, TornTail, Wal, WalError, io_error, segment_name, to_usize,
    write_over,
};

/// A frame, as it was found.
pub(crate) struct FoundFrame {
    pub(crate) header: FrameHeader,
    pub(crate) offset: u64,
    /// Whether the header stands on disk as it was written.
    pub(crate) has_header: bool,
    /// Whether the identifiers do.
    pub(crate) has_ids: bool,
    pub(crate) entries: Vec<FoundEntry>,
}

/// An entry of a frame.
pub(crate) struct FoundEntry {
    pub(crate) header: EntryHeader,
    /// Where it stands in the segment.
    pub(crate) place: u32,
    /// Whether its bytes do; if not, the header is made of its identifier.
    pub(crate) is_whole: bool,
}

/// A segment's bytes and what is to be known while they are read.
pub(crate) struct Scan<'a> {
    pub(crate) bytes: &'a [u8],
    /// Which of them could not be read, and are zeros here.
    pub(crate) unreadable: &'a [Range<u64>],
    pub(crate) number: u32,
    /// Where the next frame is expected.
    pub(crate) end: u64,
    /// Where the identifiers found so far begin.
    pub(crate) ids: u64,
    pub(crate) next_frame: u64,
    pub(crate) log_id: u16,
}

/// What stands where the next frame is expected.
pub(crate) enum Next {
    /// A frame.
    Frame(FoundFrame),
    /// Nothing: the clean end.
    End,
    /// Something that is no frame, with nothing to show that it ever was one: from here to there.
    Torn { to: u64 },
    /// Damage that cannot be repaired.
    Corrupt { offset: u64, what: String },
}

/// What stands where an identifier is expected.
#[derive(Clone, Copy)]
enum Slot {
    Id(Identifier),
    /// Nothing was written here, or so much as a crash may leave of it.
    Empty,
    Damaged,
}

/// Why a frame cannot be put together from its parts and its identifiers.
enum Broken {
    /// A part has neither, as a crash may leave it.
    Unwritten,
    /// What is there is not what a crash leaves.
    Damage(&'static str),
}

/// Both copies of a part of a frame are gone.
const BOTH_DAMAGED: Broken = Broken::Damage("a frame is damaged, and so is its identifier");
/// The copies are right by themselves, but do not belong together.
const CONTRADICTION: Broken = Broken::Damage("a frame and its identifiers contradict each other");

impl Scan<'_> {
    fn slice(&self, from: u64, to: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    }

    fn is_readable(&self, from: u64, to: u64) -> bool {
        !self.unreadable.iter().any(|bad| bad.start < to && from < bad.end)
    }

    /// Whether nothing was ever written to these bytes.
    fn is_empty(&self, from: u64, to: u64) -> bool {
        self.is_readable(from, to) && self.slice(from, to).is_none_or(is_zero)
    }

    fn slot(&self, offset: u64) -> Slot {
        let end = offset + ID_BYTES as u64;
        match self.slice(offset, end).and_then(Identifier::decode) {
            Some(id) => Slot::Id(id),
            None if self.may_be_unwritten(offset, end) => Slot::Empty,
            None => Slot::Damaged,
        }
    }

    /// Whether a crash may have left this of an identifier that was being written: a sector is on
    /// disk as a whole or not at all, but an identifier may begin in one and end in the next.
    fn may_be_unwritten(&self, from: u64, to: u64) -> bool {
        let last_sector = (to - 1) / SECTOR * SECTOR;
        let is_one_empty = if last_sector > from {
            self.is_empty(from, last_sector) || self.is_empty(last_sector, to)
        } else {
            self.is_empty(from, to)
        };
        is_one_empty && self.is_readable(from, to)
    }

    /// What comes next, without moving on.
    pub(crate) fn look(&self) -> Next {
        let broken = match self.frame() {
            Ok(frame)
                if has(Bug::CutAtBadChecksum)
                    && frame.entries.iter().any(|entry| !entry.is_whole) =>
            {
                return Next::Torn { to: self.ids };
            }
            Ok(frame) => return Next::Frame(frame),
            Err(_) if has(Bug::CutAtBadChecksum) => {
                let rest = self.slice(self.end, self.ids).unwrap_or(&[]);
                let cut = |last: usize| Next::Torn { to: self.end + last as u64 + 1 };
                return last_nonzero(rest).map_or(Next::End, cut);
            }
            Err(broken) => broken,
        };
        if let Broken::Damage(what) = broken {
            return self.corrupt(what);
        }
        // What cannot be read counts as zeros: it is unused room, or there would be an identifier.
        let rest = self.slice(self.end, self.ids).unwrap_or(&[]);
        let Some(last) = last_nonzero(rest) else {
            return Next::End;
        };
        if let Some(seq) = self.later(last) {
            return self.corrupt(&format!("a frame is not there, but frame {seq} follows it"));
        }
        Next::Torn { to: self.end + last as u64 + 1 }
    }

    fn corrupt(&self, what: &str) -> Next {
        Next::Corrupt { offset: self.end, what: what.to_owned() }
    }

    /// Moves behind a frame.
    pub(crate) fn pass(&mut self, frame: &FoundFrame) {
        self.end = frame.offset + frame.header.space();
        self.ids -= ((1 + frame.entries.len()) * ID_BYTES) as u64;
        self.next_frame = frame.header.seq.saturating_add(1);
    }

    /// Puts the next frame together from its own bytes and, where they are damaged, from its
    /// identifiers.
    fn frame(&self) -> Result<FoundFrame, Broken> {
        let offset = self.end;
        let body = offset + FRAME_HEADER_BYTES as u64;
        let fits = |bytes: u32| body + u64::from(bytes) <= self.ids;
        let found = self
            .slice(offset, body)
            .and_then(FrameHeader::decode)
            .filter(|header| self.is_expected(header) && fits(header.body_bytes));
        let first_slot = self.ids.checked_sub(ID_BYTES as u64).filter(|at| *at >= body);
        let slot = first_slot.map_or(Slot::Empty, |at| self.slot(at));
        let id = match slot {
            Slot::Id(Identifier::Frame(id))
                if id.seq == self.next_frame
                    && u64::from(id.offset) == offset
                    && fits(id.body_bytes) =>
            {
                Some(id)
            }
            Slot::Id(_) | Slot::Empty | Slot::Damaged => None,
        };
        if found.zip(id).is_some_and(|(found, id)| {
            found != id.header(self.number, self.log_id, found.entry_count)
        }) {
            return Err(CONTRADICTION);
        }
        let Some(mut header) =
            found.or_else(|| id.map(|id| id.header(self.number, self.log_id, 0)))
        else {
            return Err(match slot {
                Slot::Empty => Broken::Unwritten,
                Slot::Damaged if self.is_empty(offset, body) => Broken::Unwritten,
                Slot::Damaged | Slot::Id(_) => BOTH_DAMAGED,
            });
        };
        let end = body + u64::from(header.body_bytes);
        let mut has_ids = id.is_some();
        // No entry is shorter than its header, whatever their number is said to be.
        let count =
            (header.entry_count as usize).min(header.body_bytes as usize / ENTRY_HEADER_BYTES);
        let mut entries = Vec::with_capacity(count);
        let (mut at, mut ids, mut index) = (body, self.ids - ID_BYTES as u64, header.first_index);
        while at < end {
            let place = u32::try_from(at).map_err(|_| CONTRADICTION)?;
            let slot = match ids.checked_sub(ID_BYTES as u64).filter(|below| *below >= end) {
                Some(below) => {
                    ids = below;
                    self.slot(below)
                }
                None => Slot::Empty,
            };
            let id = match slot {
                Slot::Id(Identifier::Entry(id))
                    if id.index == index
                        && id.offset == place
                        && at + id.header(self.log_id).frame_bytes() as u64 <= end =>
                {
                    Some(id)
                }
                Slot::Id(_) | Slot::Empty | Slot::Damaged => None,
            };
            let whole = self.whole_entry(at, end, index);
            let is_whole =
                whole.is_some_and(|header| id.is_none_or(|id| id == EntryId::of(&header, place)));
            has_ids &= id.is_some() && is_whole;
            let Some(header) =
                whole.filter(|_| is_whole).or_else(|| id.map(|id| id.header(self.log_id)))
            else {
                return Err(match slot {
                    Slot::Empty => Broken::Unwritten,
                    Slot::Damaged | Slot::Id(_) => BOTH_DAMAGED,
                });
            };
            entries.push(FoundEntry { header, place, is_whole });
            at += header.frame_bytes() as u64;
            index = index.saturating_add(1);
        }
        let entry_count = u32::try_from(entries.len()).map_err(|_| CONTRADICTION)?;
        let ids_bytes = (1 + u64::from(entry_count)) * ID_BYTES as u64;
        let is_other = found.is_some_and(|found| found.entry_count != entry_count);
        if at != end || is_other || offset + header.space() + ids_bytes > self.ids {
            return Err(CONTRADICTION);
        }
        header.entry_count = entry_count;
        let has_header = found.is_some();
        Ok(FoundFrame { header, offset, has_header, has_ids, entries })
    }

    fn is_expected(&self, header: &FrameHeader) -> bool {
        header.segment == self.number
            && header.log_id == self.log_id
            && header.seq == self.next_frame
    }

    /// The header of the entry that stands whole at this place.
    fn whole_entry(&self, at: u64, end: u64, index: u64) -> Option<EntryHeader> {
        let bytes = self.slice(at, end)?;
        let header = EntryHeader::peek(bytes).ok().filter(|header| header.index == index)?;
        let frame = bytes.get(..header.frame_bytes())?;
        let is_readable = self.is_readable(at, at + frame.len() as u64);
        (is_readable && crc32c::crc32c(&frame[4..]) == header.crc).then_some(header)
    }

    pub(crate) fn expected_ids(frame: &FoundFrame) -> Vec<Identifier> {
        let offset = u32::try_from(frame.offset).expect("a segment is below 4 GiB");
        let of_frame = Identifier::Frame(FrameId::of(&frame.header, offset));
        let of_entry =
            |entry: &FoundEntry| Identifier::Entry(EntryId::of(&entry.header, entry.place));
        std::iter::once(of_frame).chain(frame.entries.iter().map(of_entry)).collect()
    }

    /// No frame can be put together here; `last` is the last byte before the known identifiers that
    /// is not zero. The number of a later frame, if anything is left of one.
    fn later(&self, last: usize) -> Option<u64> {
        let used = self.end + last as u64 + 1;
        // Above the last byte there are no identifiers.
        let mut at = self.ids - (self.ids - used) / ID_BYTES as u64 * ID_BYTES as u64;
        while let Some(below) = at.checked_sub(ID_BYTES as u64).filter(|below| *below >= self.end) {
            if let Slot::Id(Identifier::Frame(id)) = self.slot(below)
                && id.seq > self.next_frame
            {
                return Some(id.seq);
            }
            at = below;
        }
        let mut offset = self.end + 8;
        while let Some(head) = self.slice(offset, offset + FRAME_HEADER_BYTES as u64) {
            let later = FrameHeader::decode(head).filter(|header| {
                header.segment == self.number
                    && header.log_id == self.log_id
                    && header.seq > self.next_frame
            });
            if let Some(header) = later {
                return Some(header.seq);
            }
            offset += 8;
            if offset > self.end + last as u64 {
                break;
            }
        }
        None
    }
}

/// Where the last byte stands that is not zero; by pages, because most of a segment may be zeros.
fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    const PAGE: usize = 4096;
    let page = bytes.chunks(PAGE).rposition(|page| page != &[0; PAGE][..page.len()])?;
    let within = bytes[page * PAGE..].iter().take(PAGE).rposition(|byte| *byte != 0)?;
    Some(page * PAGE + within)
}

/// Something that is written when all of the log is understood, not before: a log that is damaged
/// elsewhere is left as it was found.
pub(crate) struct Mend {
    /// The position of the segment in the list of segments.
    segment: usize,
    offset: u64,
    bytes: Vec<u8>,
}

/// Bytes of a segment that are to be written again, with their offsets.
pub(crate) type Rewrites = Vec<(u64, Vec<u8>)>;

/// Whether a segment without a header, in which no frame is, may be one that was prepared and never
/// used, or whose header a crash cut short: the segment before it was not sealed yet. The first
/// segment is made before a node promises anything, and never like this. What else stands in it is
/// damage to something that nobody needs.
pub(crate) fn may_be_unused(bytes: &[u8], number: u32, is_sealed_before: bool) -> bool {
    // The header is written when the file has its length.
    let has_length = bytes.len() as u64 >= SEGMENT_HEADER_BYTES || is_zero(bytes);
    number > 1 && !is_sealed_before && has_length
}

fn is_zero(bytes: &[u8]) -> bool {
    last_nonzero(bytes).is_none()
}

/// Opens a log: see [`Wal::open`].
pub(crate) fn open<D: Disk>(
    disk: &mut D,
    mut wal: Wal<D>,
) -> Result<(Wal<D>, Recovered), WalError> {
    let mut recovered = Recovered::default();
    let numbers = segment_numbers(disk)?;
    if numbers.is_empty() {
        return Err(WalError::Missing {
            what: "the log has no segment: it was deleted".to_owned(),
        });
    }
    let mut unused: Vec<String> = Vec::new();
    let mut mends: Vec<Mend> = Vec::new();
    // What stands in the place of the last segment's seal.
    let mut seal = [0; SEAL_BYTES];
    // The header's block of the last segment, if it was read whole.
    let mut scanned: Option<Vec<u8>> = None;
    let mut unreadable_in_last = Vec::new();
    let mut bytes = Vec::new();
    for (position, number) in numbers.iter().enumerate() {
        let expected = u32::try_from(position + 1).expect("few");
        let name = segment_name(*number);
        if *number != expected {
            return Err(missing(expected));
        }
        let file =
            disk.open(&name).map_err(io_error("open", &name))?.ok_or_else(|| missing(expected))?;
        // A segment was synced before the next one began. Only the newest may have pages that
        // failed to be written and look clean in memory; behind it there may be a prepared one.
        if position + 2 >= numbers.len() {
            file.forget_cache(0..u64::MAX);
            // From the first look at it on: it will be written, a few hundred bytes at a time.
            file.read_ahead(false);
        }
        if unused.is_empty()
            && let Some((header, summary)) = summary_of(&wal, &recovered, *number, &file)
        {
            // The log goes on here: what stood behind the last frame of the segment before was none.
            recovered.torn_tail = None;
            close_before(&mut wal, &mut mends, scanned.take());
            seal = summary.seal().encode();
            file.read_ahead(true);
            adopt(&mut wal, &mut recovered, &header, summary, file);
            continue;
        }
        let read = read_segment_file(&file, &name, &mut bytes);
        file.read_ahead(true);
        let unreadable = read?;
        if let Some(unused_before) = unused.first() {
            if !is_zero(&bytes) {
                return Err(missing_header(unused_before));
            }
            unused.push(name);
            continue;
        }
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) => header,
            Err(HeaderError::Newer(found)) => {
                return Err(WalError::Newer { segment: name, found });
            }
            Err(HeaderError::NotOne) => {
                // All that it says is known, if frames behind it show that this is the segment.
                let header = header_of_next(&wal, &bytes);
                match scan_of(&header, &bytes, &unreadable).look() {
                    Next::Frame(_) => {}
                    Next::End | Next::Torn { .. }
                        if may_be_unused(&bytes, *number, !is_zero(&seal)) =>
                    {
                        unused.push(name);
                        continue;
                    }
                    Next::End | Next::Torn { .. } | Next::Corrupt { .. } => {
                        return Err(missing_header(&name));
                    }
                }
                mends.push(Mend { segment: position, offset: 0, bytes: header.encode() });
                header
            }
        };
        if let Some(TornTail { segment, offset, .. }) = recovered.torn_tail.take()
            && header.first_frame != wal.next_frame
        {
            let what = "a frame is damaged, but a later segment follows it".to_owned();
            return Err(WalError::Corrupt { segment, offset, what });
        }
        close_before(&mut wal, &mut mends, scanned.take());
        read_segment(&mut wal, &mut recovered, &mut mends, header, file, &bytes, &unreadable)?;
        seal = Seal::found(&bytes);
        bytes.truncate(to_usize(SEGMENT_HEADER_BYTES));
        scanned = Some(bytes.clone());
        unreadable_in_last = unreadable;
    }
    let last = wal.segments.last().expect("the first segment is in use, or was refused");
    if !is_zero(&seal) {
        return Err(if seal == wal.seal(last.number).encode() {
            missing(last.number + 1)
        } else {
            let what = "what stands in the place of its seal is none".to_owned();
            WalError::Corrupt { segment: last.name.clone(), offset: SEAL_OFFSET, what }
        });
    }
    // What comes next is written there, a part of a block at a time.
    for bad in unreadable_in_last {
        let (from, to) = (bad.start.max(last.end), bad.end.min(last.ids));
        if from < to {
            let bytes = vec![0; usize::try_from(to - from).expect("a block")];
            mends.push(Mend { segment: wal.segments.len() - 1, offset: from, bytes });
        }
    }
    for name in unused {
        disk.remove(&name).map_err(io_error("remove", &name))?;
    }
    disk.sync_dir(FOLDER).map_err(io_error("sync", FOLDER))?;
    mend(&wal, &mends)?;
    recovered.hard_state = wal.hard_state;
    recovered.last_index = wal.last_index();
    Ok((wal, recovered))
}

/// The header and the summary of a segment that need not be read, because they are whole and
/// continue what was read before it.
fn summary_of<D: Disk>(
    wal: &Wal<D>,
    recovered: &Recovered,
    number: u32,
    file: &D::File,
) -> Option<(SegmentHeader, Summary)> {
    let mut block = vec![0; to_usize(SEGMENT_HEADER_BYTES)];
    // Whatever is wrong with it is told when all of it is read.
    if !matches!(read_full(file, &mut block, 0), Ok(true)) {
        return None;
    }
    let header = SegmentHeader::decode(&block).ok()?;
    let continues = header.number == number
        && header.log_id == wal.options().log_id
        && file.len().is_ok_and(|bytes| bytes == header.bytes)
        && header.first_frame == wal.next_frame
        && header.last_index == wal.last_on_disk;
    let summary = Summary::trusted(&block, &header).filter(|_| continues)?;
    let before = recovered.runs.partition_point(|(_, first)| *first < summary.points.first);
    let term_before = before.checked_sub(1).map_or(0, |run| recovered.runs[run].0);
    let is_later = summary.runs.first().is_none_or(|(term, _)| *term >= term_before)
        && summary.hard_state.term >= wal.hard_state.term;
    is_later.then_some((header, summary))
}

/// The segment behind those read so far is as its summary says.
fn adopt<D: Disk>(
    wal: &mut Wal<D>,
    recovered: &mut Recovered,
    header: &SegmentHeader,
    summary: Summary,
    file: D::File,
) {
    let Summary { hard_state, next_frame, end, ids, mut runs, marks, points, .. } = summary;
    wal.begin_segment(file, header);
    cut(wal, recovered, points.first);
    let last_term = recovered.runs.last().map(|(term, _)| *term);
    if runs.first().map(|(term, _)| *term) == last_term && last_term.is_some() {
        runs.remove(0);
    }
    recovered.runs.extend(runs);
    recovered.marks.extend(marks);
    (wal.hard_state, wal.next_frame) = (hard_state, next_frame);
    wal.last_on_disk = points.next_index() - 1;
    wal.contents = Contents::new(wal.last_on_disk + 1);
    let segment = wal.segments.last_mut().expect("it was begun above");
    (segment.end, segment.ids) = (end.into(), ids.into());
    (segment.points, segment.has_summary) = (points, true);
}

/// The log read so far ends before `from`.
fn cut<D: Disk>(wal: &mut Wal<D>, recovered: &mut Recovered, from: u64) {
    wal.cut(from);
    wal.faulty.split_off(&from);
    cut_lists(&mut recovered.runs, &mut recovered.marks, from);
}

/// Another segment is in use behind the last one, whose header's block this is, if it was read:
/// that one is sealed, and gets its summary.
fn close_before<D: Disk>(wal: &mut Wal<D>, mends: &mut Vec<Mend>, block: Option<Vec<u8>>) {
    let Some(block) = block else { return };
    let segment = wal.segments.len() - 1;
    let seal = wal.seal(wal.segments[segment].number).encode();
    let parts = [(SEAL_OFFSET, seal.to_vec()), (SUMMARY_OFFSET, wal.close_newest())];
    for (offset, bytes) in parts {
        if block.get(to_usize(offset)..).is_none_or(|found| !found.starts_with(&bytes)) {
            mends.push(Mend { segment, offset, bytes });
        }
    }
}

/// Reads a sealed segment whose identifiers are not all whole. Gives what stands in it, and what is
/// to be written again, with its offset.
///
/// # Errors
/// [`WalError::Corrupt`] if a part of a frame is damaged twice.
pub(crate) fn scan_sealed<F: DiskFile>(
    segment: &Segment<F>,
    log_id: u16,
) -> Result<(Contents, Rewrites), WalError> {
    let corrupt =
        |offset, what: String| WalError::Corrupt { segment: segment.name.clone(), offset, what };
    let mut bytes = Vec::new();
    let unreadable = read_segment_file(&*segment.file, &segment.name, &mut bytes)?;
    if (bytes.len() as u64) < segment.bytes {
        return Err(WalError::Lost { path: segment.name.clone() });
    }
    let mut scan = Scan {
        bytes: &bytes,
        unreadable: &unreadable,
        number: segment.number,
        end: SEGMENT_HEADER_BYTES,
        ids: segment.bytes,
        next_frame: segment.first_frame,
        log_id,
    };
    let mut contents = Contents::new(segment.last_before + 1);
    let mut mends = Vec::new();
    while scan.end < segment.end {
        let frame = match scan.look() {
            Next::Frame(frame) => frame,
            Next::Corrupt { offset, what } => return Err(corrupt(offset, what)),
            Next::End | Next::Torn { .. } => {
                let what = "a frame is not there, but the segment goes on".to_owned();
                return Err(corrupt(scan.end, what));
            }
        };
        if let Some(from) = frame.header.truncate_from {
            contents.cut(from);
        }
        for (entry, id) in frame.entries.iter().zip(entry_slots(scan.ids)) {
            if entry.header.index != contents.next_index() {
                let what = "its entries do not continue those before it".to_owned();
                return Err(corrupt(frame.offset, what));
            }
            contents.push(&entry.header, Place::new(&entry.header, entry.place.into(), id));
        }
        scan.pass(&frame);
        mends.extend(frame_mends(&frame, scan.ids));
    }
    let Points { first, count, .. } = segment.points;
    if (contents.first, contents.places.len() as u64) != (first, count) || scan.end != segment.end {
        return Err(corrupt(0, "what stands in it is not what stood there once".to_owned()));
    }
    Ok((contents, mends))
}

/// Writes the headers and identifiers of a sealed segment again that are damaged.
pub(crate) fn mend_sealed<F: DiskFile>(segment: &Segment<F>, log_id: u16) -> Result<(), WalError> {
    let (_, mends) = scan_sealed(segment, log_id)?;
    for (offset, bytes) in mends {
        write_over(&*segment.file, &bytes, offset).map_err(io_error("write", &segment.name))?;
    }
    segment.file.sync().map_err(io_error("sync", &segment.name))
}

/// Where the identifiers of a frame's entries stand, if those of the frames before it begin at `ids`.
fn entry_slots(ids: u64) -> impl Iterator<Item = u64> {
    (2..).map(move |slot| ids.saturating_sub(slot * ID_BYTES as u64))
}

/// What is to be written again of a frame whose identifiers begin at `ids`.
fn frame_mends(frame: &FoundFrame, ids: u64) -> Rewrites {
    let mut mends = Vec::new();
    if !frame.has_header {
        mends.push((frame.offset, frame.header.encode().to_vec()));
    }
    if !frame.has_ids {
        let found = Scan::expected_ids(frame);
        mends.push((ids, found.iter().rev().flat_map(Identifier::encode).collect()));
    }
    mends
}

/// Reads a whole segment; says which parts cannot be read, and are zeros in `bytes`.
pub(crate) fn read_segment_file<F: DiskFile>(
    file: &F,
    name: &str,
    bytes: &mut Vec<u8>,
) -> Result<Vec<Range<u64>>, WalError> {
    let length = file.len().map_err(io_error("look at", name))?;
    bytes.clear();
    bytes.resize(usize::try_from(length).expect("a segment fits into memory"), 0);
    let lost = || WalError::Lost { path: name.to_owned() };
    match read_full(file, bytes, 0) {
        Ok(true) => return Ok(Vec::new()),
        Ok(false) => return Err(lost()),
        Err(error) if is_unreadable(&error) => {}
        Err(error) => return Err(io_error("read", name)(error)),
    }
    let mut unreadable: Vec<Range<u64>> = Vec::new();
    let size = usize::try_from(BLOCK).expect("4096");
    for (block, offset) in bytes.chunks_mut(size).zip((0..).step_by(size)) {
        match read_full(file, block, offset) {
            Ok(true) => {}
            Ok(false) => return Err(lost()),
            Err(error) if is_unreadable(&error) => {
                block.fill(0);
                unreadable.push(offset..offset + block.len() as u64);
            }
            Err(error) => return Err(io_error("read", name)(error)),
        }
    }
    // A disk that gives nothing at all has not lost what it holds: it is not there.
    if unreadable.iter().map(|bad| bad.end - bad.start).sum::<u64>() == length {
        return Err(io_error("read", name)(unreadable_error()));
    }
    Ok(unreadable)
}

/// The header that the segment behind those read so far must have.
fn header_of_next<D: Disk>(wal: &Wal<D>, bytes: &[u8]) -> SegmentHeader {
    SegmentHeader {
        log_id: wal.options().log_id,
        number: u32::try_from(wal.segments.len() + 1).expect("few"),
        bytes: bytes.len() as u64,
        first_frame: wal.next_frame,
        last_index: wal.last_on_disk,
        hard_state: wal.hard_state,
    }
}

pub(crate) fn scan_of<'a>(
    header: &SegmentHeader,
    bytes: &'a [u8],
    unreadable: &'a [Range<u64>],
) -> Scan<'a> {
    Scan {
        bytes,
        unreadable,
        number: header.number,
        end: SEGMENT_HEADER_BYTES,
        ids: bytes.len() as u64,
        next_frame: header.first_frame,
        log_id: header.log_id,
    }
}

fn missing(number: u32) -> WalError {
    WalError::Missing { what: format!("{} of the log is missing", segment_name(number)) }
}

fn missing_header(name: &str) -> WalError {
    WalError::Corrupt {
        segment: name.to_owned(),
        offset: 0,
        what: "the segment's header is damaged".to_owned(),
    }
}

pub(crate) fn segment_numbers<D: Disk>(disk: &mut D) -> Result<Vec<u32>, WalError> {
    let names = disk.list(FOLDER).map_err(io_error("list", FOLDER))?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).collect())
}

fn read_segment<D: Disk>(
    wal: &mut Wal<D>,
    recovered: &mut Recovered,
    mends: &mut Vec<Mend>,
    header: SegmentHeader,
    file: D::File,
    bytes: &[u8],
    unreadable: &[Range<u64>],
) -> Result<(), WalError> {
    let number = u32::try_from(wal.segments.len() + 1).expect("few");
    let name = segment_name(number);
    let corrupt = |offset, what: String| WalError::Corrupt { segment: name.clone(), offset, what };
    if header.number != number || header.log_id != wal.options().log_id {
        return Err(corrupt(0, "the header is that of another segment".to_owned()));
    }
    if header.bytes != bytes.len() as u64 {
        let what = format!("the file has {} bytes, not {}", bytes.len(), header.bytes);
        return Err(corrupt(0, what));
    }
    if header.first_frame != wal.next_frame || header.last_index != wal.last_on_disk {
        return Err(corrupt(
            0,
            format!(
                "it begins after frame {} and entry {}, but the segment before ends with frame {} \
                 and entry {}",
                header.first_frame.saturating_sub(1),
                header.last_index,
                wal.next_frame - 1,
                wal.last_on_disk
            ),
        ));
    }
    if wal.segments.is_empty() {
        wal.hard_state = header.hard_state;
    }
    wal.begin_segment(file, &header);
    let mut scan = scan_of(&header, bytes, unreadable);
    let segment = wal.segments.len() - 1;
    loop {
        match scan.look() {
            Next::Frame(frame) => {
                apply(wal, recovered, &frame, scan.ids)
                    .map_err(|what| corrupt(frame.offset, what))?;
                scan.pass(&frame);
                for (offset, bytes) in frame_mends(&frame, scan.ids) {
                    mends.push(Mend { segment, offset, bytes });
                }
            }
            Next::End => break,
            Next::Torn { to } => {
                // What was cut short is made to look as if it had never been begun, so that its
                // bytes can never be taken for later ones.
                let (offset, length) = (scan.end, to - scan.end);
                let zeros = vec![0; usize::try_from(length).expect("a part of a segment")];
                mends.push(Mend { segment, offset, bytes: zeros });
                recovered.torn_tail =
                    Some(TornTail { segment: name.clone(), offset, bytes: length });
                break;
            }
            Next::Corrupt { offset, what } => return Err(corrupt(offset, what)),
        }
    }
    wal.next_frame = scan.next_frame;
    let newest = wal.segments.last_mut().expect("it was begun above");
    (newest.end, newest.ids) = (scan.end, scan.ids);
    Ok(())
}

/// Applies a frame to what is known of the log; the identifiers of those before it begin at `ids`.
fn apply<D: Disk>(
    wal: &mut Wal<D>,
    recovered: &mut Recovered,
    frame: &FoundFrame,
    ids: u64,
) -> Result<(), String> {
    let header = &frame.header;
    if header.hard_state.term < wal.hard_state.term {
        return Err(format!(
            "term {} follows term {}",
            header.hard_state.term, wal.hard_state.term
        ));
    }
    wal.hard_state = header.hard_state;
    let last = wal.last_on_disk;
    if let Some(from) = header.truncate_from {
        if from == 0 || from > last {
            return Err(format!("a cut at {from} of a log that ends at {last}"));
        }
        cut(wal, recovered, from);
    }
    let last = wal.contents.next_index() - 1;
    if header.entry_count > 0 && header.first_index != last + 1 {
        return Err(format!("entry {} follows entry {last}", header.first_index));
    }
    for (found, id) in frame.entries.iter().zip(entry_slots(ids)) {
        let entry = &found.header;
        let last_term = recovered.runs.last().map_or(0, |(term, _)| *term);
        if entry.term == 0 {
            return Err(format!("entry {} is of term 0, which nobody leads", entry.index));
        }
        if entry.term < last_term {
            return Err(format!(
                "term {} of entry {} follows term {last_term}",
                entry.term, entry.index
            ));
        }
        if entry.term > last_term {
            recovered.runs.push((entry.term, entry.index));
        }
        if entry.record_count == 0 {
            recovered.marks.push((entry.index, entry.kind));
        }
        wal.contents.push(entry, Place::new(entry, found.place.into(), id));
        if !found.is_whole {
            wal.faulty.insert(entry.index, *entry);
        }
    }
    wal.last_on_disk = wal.contents.next_index() - 1;
    Ok(())
}

/// Mends what a crash left, and makes durable what was found: a frame may be whole in memory only.
fn mend<D: Disk>(wal: &Wal<D>, mends: &[Mend]) -> Result<(), WalError> {
    for Mend { segment, offset, bytes } in mends {
        let segment = &wal.segments[*segment];
        write_over(&*segment.file, bytes, *offset).map_err(io_error("write", &segment.name))?;
    }
    let newest = wal.segments.len() - 1;
    for (position, segment) in wal.segments.iter().enumerate() {
        if position == newest || mends.iter().any(|mend| mend.segment == position) {
            segment.file.sync().map_err(io_error("sync", &segment.name))?;
        }
    }
    Ok(())
}

/// Every entry of a frame that is whole, for `inspect`.
pub(crate) fn entries_of(frame: &FoundFrame, bytes: &Bytes) -> Vec<Entry> {
    let entry = |FoundEntry { header, place, .. }: &FoundEntry| {
        let start = *place as usize;
        let mut rest = bytes.slice(start..start + header.frame_bytes());
        Entry::split_first(&mut rest).expect("verified by the scan")
    };
    frame.entries.iter().filter(|entry| entry.is_whole).map(entry).collect()
}
