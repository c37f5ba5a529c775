//! Opening a log as it was left: telling a write that was cut short from damage.
//!
//! The rules, each argued in docs/wal-format.md:
//! 1. A frame that is whole counts, whether its identifiers are there or not.
//! 2. A frame that is not whole, with no identifier of it and nothing after it, was cut short by a
//!    crash before its sync: nobody was told of it. It is cut.
//! 3. A frame that is not whole, but of which an identifier or anything later exists, was once
//!    whole, or may have been: that is damage, and nothing is ever cut for it.

use std::io;

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::entry::{Entry, EntryHeader};
use crate::format::{
    FRAME_HEADER_BYTES, FrameHeader, HeaderError, ID_BYTES, Identifier, SEAL_BYTES, SEAL_OFFSET,
    SEGMENT_HEADER_BYTES, Seal, SegmentHeader,
};
use crate::wal::{
    FOLDER, Place, Recovered, Segment, TornTail, Wal, WalError, io_error, read_full, segment_name,
};

/// A whole frame, as it was found.
pub(crate) struct FoundFrame {
    pub(crate) header: FrameHeader,
    pub(crate) offset: u64,
    /// The entries' headers with their places in the segment.
    pub(crate) entries: Vec<(EntryHeader, u32)>,
}

/// A segment's bytes and what is to be known while they are read.
pub(crate) struct Scan<'a> {
    pub(crate) bytes: &'a [u8],
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
    /// A whole frame; `true` if its identifiers are all there.
    Frame(FoundFrame, bool),
    /// Nothing: the clean end.
    End,
    /// Something that is no frame, with nothing to show that it ever was one: from here to there.
    Torn { to: u64 },
    /// Damage.
    Corrupt { offset: u64, what: String },
}

impl Scan<'_> {
    fn slice(&self, from: u64, to: u64) -> Option<&[u8]> {
        self.bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    }

    fn id_at(&self, offset: u64) -> Option<Identifier> {
        Identifier::decode(self.slice(offset, offset.checked_add(ID_BYTES as u64)?)?)
    }

    /// What comes next, without moving on.
    pub(crate) fn look(&self) -> Next {
        match self.whole_frame(self.end) {
            Ok(frame) => {
                let has_ids = self.ids_of(&frame);
                Next::Frame(frame, has_ids)
            }
            Err(what) => self.judge(&what),
        }
    }

    /// Moves behind a frame.
    pub(crate) fn pass(&mut self, frame: &FoundFrame) {
        self.end = frame.offset + frame.header.space();
        self.ids -= ((1 + frame.entries.len()) * ID_BYTES) as u64;
        self.next_frame = frame.header.seq.saturating_add(1);
    }

    fn whole_frame(&self, offset: u64) -> Result<FoundFrame, String> {
        let head = self
            .slice(offset, offset + FRAME_HEADER_BYTES as u64)
            .ok_or_else(|| "the segment ends".to_owned())?;
        let header = FrameHeader::decode(head)
            .ok_or_else(|| "the header of a frame is damaged".to_owned())?;
        if header.segment != self.number
            || header.log_id != self.log_id
            || header.seq != self.next_frame
        {
            return Err(format!(
                "frame {} stands where {} is expected",
                header.seq, self.next_frame
            ));
        }
        let ids_bytes = (1 + u64::from(header.entry_count)) * ID_BYTES as u64;
        if offset + header.space() + ids_bytes > self.ids {
            return Err("a frame is longer than its segment".to_owned());
        }
        let from = offset + FRAME_HEADER_BYTES as u64;
        let body = self
            .slice(from, from + u64::from(header.body_bytes))
            .ok_or_else(|| "a frame is longer than its segment".to_owned())?;
        let mut entries = Vec::new();
        let mut at = 0;
        for position in 0..u64::from(header.entry_count) {
            let index = header.first_index.saturating_add(position);
            let bad = |why: &str| format!("entry {index}: {why}");
            let entry = EntryHeader::peek(&body[at..]).map_err(|error| bad(&error.to_string()))?;
            let frame =
                body.get(at..at + entry.frame_bytes()).ok_or_else(|| bad("it is cut short"))?;
            if crc32c::crc32c(&frame[4..]) != entry.crc {
                return Err(bad("its checksum does not fit"));
            }
            if entry.index != index {
                return Err(bad("another entry is there"));
            }
            let place = u32::try_from(from + at as u64).map_err(|_| bad("beyond 4 GiB"))?;
            entries.push((entry, place));
            at += entry.frame_bytes();
        }
        if at != body.len() {
            return Err("a frame has more bytes than entries".to_owned());
        }
        Ok(FoundFrame { header, offset, entries })
    }

    pub(crate) fn expected_ids(frame: &FoundFrame) -> Vec<Identifier> {
        let offset = u32::try_from(frame.offset).expect("a segment is below 4 GiB");
        let FrameHeader { seq, hard_state, .. } = frame.header;
        let entries = frame.entries.iter().map(|(entry, place)| Identifier::Entry {
            term: entry.term,
            index: entry.index,
            offset: *place,
            crc: entry.crc,
        });
        std::iter::once(Identifier::Frame { seq, offset, hard_state }).chain(entries).collect()
    }

    fn ids_of(&self, frame: &FoundFrame) -> bool {
        let mut at = self.ids;
        Self::expected_ids(frame).into_iter().all(|expected| {
            at -= ID_BYTES as u64;
            self.id_at(at) == Some(expected)
        })
    }

    /// No whole frame stands here: is that the end, a write that was cut short, or damage?
    fn judge(&self, what: &str) -> Next {
        let rest = self.slice(self.end, self.ids).unwrap_or(&[]);
        let Some(last) = last_nonzero(rest) else {
            return Next::End;
        };
        let corrupt = |what: String| Next::Corrupt { offset: self.end, what };
        // Any identifier below those of the frames before: of this frame, or of a later one. Above
        // the last byte there are none.
        let used = self.end + last as u64 + 1;
        let mut at = self.ids - (self.ids - used) / ID_BYTES as u64 * ID_BYTES as u64;
        while let Some(below) = at.checked_sub(ID_BYTES as u64).filter(|below| *below >= self.end) {
            if self.id_at(below).is_some() {
                return corrupt(format!(
                    "{what}, but there is an identifier of it or of a later one: it may have been \
                     acknowledged"
                ));
            }
            at = below;
        }
        // Any later frame.
        let mut offset = self.end + 8;
        while let Some(head) = self.slice(offset, offset + FRAME_HEADER_BYTES as u64) {
            let later = FrameHeader::decode(head)
                .filter(|header| header.segment == self.number && header.log_id == self.log_id);
            if let Some(header) = later {
                return corrupt(format!("{what}, but frame {} follows it", header.seq));
            }
            offset += 8;
            if offset > self.end + last as u64 {
                break;
            }
        }
        Next::Torn { to: self.end + last as u64 + 1 }
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
struct Mend {
    /// The position of the segment in the list of segments.
    segment: usize,
    offset: u64,
    bytes: Vec<u8>,
}

/// Whether a segment without a header may be one that was prepared and never used, or whose header
/// a crash cut short. No frame was written behind such a header, and the segment before it was not
/// sealed yet. The first segment is made before a node promises anything, and never like this.
pub(crate) fn may_be_unused(bytes: &[u8], number: u32, is_sealed_before: bool) -> bool {
    let header = usize::try_from(SEGMENT_HEADER_BYTES).expect("4096");
    let (head, body) = bytes.split_at(header.min(bytes.len()));
    // The header is written when the file has its length.
    let has_length = head.len() == header || is_zero(head);
    number > 1 && !is_sealed_before && is_zero(body) && has_length
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
            file.forget_cache();
        }
        let length = file.len().map_err(io_error("look at", &name))?;
        bytes.resize(usize::try_from(length).expect("a segment fits into memory"), 0);
        if !read_full(&file, &mut bytes, 0).map_err(io_error("read", &name))? {
            return Err(WalError::Lost { path: name });
        }
        if let Some(unused_before) = unused.first() {
            if !is_zero(&bytes) {
                return Err(missing_header(unused_before));
            }
            unused.push(name);
            continue;
        }
        match SegmentHeader::decode(&bytes) {
            Ok(header) => {
                if let Some(torn) = recovered.torn_tail.take() {
                    let TornTail { segment, offset, .. } = torn;
                    let what = "a frame is damaged, but a later segment follows it".to_owned();
                    return Err(WalError::Corrupt { segment, offset, what });
                }
                if let Some(before) = wal.segments.last() {
                    let expected = wal.seal(before.number).encode();
                    if seal != expected {
                        let bytes = expected.to_vec();
                        mends.push(Mend { segment: position - 1, offset: SEAL_OFFSET, bytes });
                    }
                }
                read_segment(&mut wal, &mut recovered, &mut mends, header, file, &bytes)?;
                seal = Seal::found(&bytes);
            }
            Err(HeaderError::Newer(found)) => {
                return Err(WalError::Newer { segment: name, found });
            }
            Err(HeaderError::NotOne) if may_be_unused(&bytes, *number, !is_zero(&seal)) => {
                unused.push(name);
            }
            Err(HeaderError::NotOne) => return Err(missing_header(&name)),
        }
    }
    let last = wal.segments.last().expect("the first segment is in use, or was refused");
    if !is_zero(&seal) {
        return Err(if seal == wal.seal(last.number).encode() {
            missing(last.number + 1)
        } else {
            let what = "what stands in the place of its seal is none".to_owned();
            WalError::Corrupt { segment: last.name(), offset: SEAL_OFFSET, what }
        });
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
    if header.first_frame != wal.next_frame || header.last_index != wal.places.len() as u64 {
        return Err(corrupt(
            0,
            format!(
                "it begins after frame {} and entry {}, but the segment before ends with frame {} \
                 and entry {}",
                header.first_frame.saturating_sub(1),
                header.last_index,
                wal.next_frame - 1,
                wal.places.len()
            ),
        ));
    }
    if wal.segments.is_empty() {
        wal.hard_state = header.hard_state;
    }
    let length = bytes.len() as u64;
    let mut scan = Scan {
        bytes,
        number,
        end: SEGMENT_HEADER_BYTES,
        ids: length,
        next_frame: wal.next_frame,
        log_id: header.log_id,
    };
    let segment = wal.segments.len();
    loop {
        match scan.look() {
            Next::Frame(frame, has_ids) => {
                apply(wal, recovered, &frame, number - 1)
                    .map_err(|what| corrupt(frame.offset, what))?;
                scan.pass(&frame);
                if !has_ids {
                    let ids = Scan::expected_ids(&frame);
                    let bytes = ids.iter().rev().flat_map(Identifier::encode).collect();
                    mends.push(Mend { segment, offset: scan.ids, bytes });
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
    wal.last_on_disk = wal.places.len() as u64;
    wal.segments.push(Segment { number, file, bytes: length, end: scan.end, ids: scan.ids });
    Ok(())
}

/// Applies a frame to what is known of the log.
fn apply<D: Disk>(
    wal: &mut Wal<D>,
    recovered: &mut Recovered,
    frame: &FoundFrame,
    segment: u32,
) -> Result<(), String> {
    let header = &frame.header;
    if header.hard_state.term < wal.hard_state.term {
        return Err(format!(
            "term {} follows term {}",
            header.hard_state.term, wal.hard_state.term
        ));
    }
    wal.hard_state = header.hard_state;
    let last = wal.places.len() as u64;
    if let Some(from) = header.truncate_from {
        if from == 0 || from > last {
            return Err(format!("a cut at {from} of a log that ends at {last}"));
        }
        wal.places.truncate(usize::try_from(from - 1).expect("an index in memory"));
        recovered.runs.retain(|(_, first)| *first < from);
    }
    if header.entry_count > 0 && header.first_index != wal.places.len() as u64 + 1 {
        return Err(format!("entry {} follows entry {}", header.first_index, wal.places.len()));
    }
    for (entry, offset) in &frame.entries {
        let last_term = recovered.runs.last().map_or(0, |(term, _)| *term);
        if entry.term < last_term {
            return Err(format!(
                "term {} of entry {} follows term {last_term}",
                entry.term, entry.index
            ));
        }
        if entry.term > last_term {
            recovered.runs.push((entry.term, entry.index));
        }
        wal.places.push(Place { segment, offset: *offset });
    }
    Ok(())
}

/// Mends what a crash left, and makes durable what was found: a frame may be whole in memory only.
fn mend<D: Disk>(wal: &Wal<D>, mends: &[Mend]) -> Result<(), WalError> {
    for Mend { segment, offset, bytes } in mends {
        let segment = &wal.segments[*segment];
        segment.file.write_at(bytes, *offset).map_err(io_error("write", &segment.name()))?;
    }
    let newest = wal.segments.len() - 1;
    for (position, segment) in wal.segments.iter().enumerate() {
        if position == newest || mends.iter().any(|mend| mend.segment == position) {
            segment.file.sync().map_err(io_error("sync", &segment.name()))?;
        }
    }
    Ok(())
}

/// Every entry of a segment's bytes that is whole, for `inspect`.
pub(crate) fn entries_of(frame: &FoundFrame, bytes: &Bytes) -> Vec<Entry> {
    let entry = |(header, place): &(EntryHeader, u32)| {
        let start = *place as usize;
        let mut rest = bytes.slice(start..start + header.frame_bytes());
        Entry::split_first(&mut rest).expect("verified by the scan")
    };
    frame.entries.iter().map(entry).collect()
}

/// Reads a whole file of a directory that is not ours.
pub(crate) fn read_whole(path: &std::path::Path) -> io::Result<Bytes> {
    std::fs::read(path).map(Bytes::from)
}
