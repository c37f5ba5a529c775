//! Where entries stand. Of the newest segment each place is kept in memory; of a sealed one only
//! some *points*, and what stands between two of them is found by the identifiers there. So the
//! memory that a log takes does not grow with its entries, nor does the time to open it: a sealed
//! segment's points, and what else there is to know of it, stand in its *summary*.
//!
//! ```text
//!  header's block                             identifiers, from the end
//!  ┌────────┬──────┬───────────────────┐      ┌───────────────────────────────────────────┐
//!  │ header │ seal │ summary: points … │      │ … entry 17 │ frame │ entry 16 │ … │ frame │
//!  └────────┴──────┴───────────────────┘      └───────▲───────────────────────▲───────────┘
//!                                                   point 2                 point 1
//! ```
//! A summary is never needed: where it is not whole, or does not fit what stands around it, the
//! segment is read as if it had none.

use std::ops::Range;

use bytes::{Buf, BufMut};

use crate::entry::{ENTRY_BODY_BYTES_MAX, EntryHeader};
use crate::format::{
    FRAME_HEADER_BYTES, FrameId, HardState, ID_BYTES, Identifier, SEGMENT_HEADER_BYTES, Seal,
    SegmentHeader,
};

/// Where a summary stands: in other sectors than the header and the seal.
pub(crate) const SUMMARY_OFFSET: u64 = 1024;
/// How long a summary may be: so that it ends with the header's block.
pub(crate) const SUMMARY_BYTES_MAX: usize = 3072;
const SUMMARY_MAGIC: u32 = 0x4d4d_5553;
const SUMMARY_HEAD_BYTES: usize = 64;
const RUN_BYTES: usize = 16;
const MARK_BYTES: usize = 9;
const POINT_BYTES: usize = 8;
/// The most points of a segment; fewer if the rest of its summary takes their room.
pub(crate) const POINTS_MAX: usize = (SUMMARY_BYTES_MAX - SUMMARY_HEAD_BYTES) / POINT_BYTES;
/// With room for fewer a segment gets no summary: too much would be read between two of them.
const POINTS_MIN: usize = 64;

/// Where an entry stands in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u32,
    /// Header and body.
    pub(crate) bytes: u32,
    /// Where its identifier stands.
    pub(crate) id: u32,
    /// The entry's own checksum, as the identifier says it.
    pub(crate) crc: u32,
}

impl Place {
    pub(crate) fn new(header: &EntryHeader, offset: u64, id: u64) -> Self {
        let position = |at: u64| u32::try_from(at).expect("a segment is below 4 GiB");
        let bytes = u32::try_from(header.frame_bytes()).expect("an entry is below 4 GiB");
        Self { offset: position(offset), bytes, id: position(id), crc: header.crc }
    }

    /// Whether this is the header of the entry that was written here.
    pub(crate) const fn is_of(self, header: &EntryHeader) -> bool {
        header.crc == self.crc && header.frame_bytes() == self.bytes as usize
    }

    /// Where the entry ends.
    pub(crate) const fn end(self) -> u64 {
        self.offset as u64 + self.bytes as u64
    }
}

/// What the frames of one segment leave of the log: where entries stand, and what they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Contents {
    /// From this index on the log stands here. What stood above it before was cut by a frame here.
    pub(crate) first: u64,
    /// One for each entry, from `first` on.
    pub(crate) places: Vec<Place>,
    /// The entries as runs of one term: (term, first index).
    pub(crate) runs: Vec<(u64, u64)>,
    /// Those without records: (index, kind).
    pub(crate) marks: Vec<(u64, u8)>,
}

impl Contents {
    /// Of a segment behind whose first frame entries go on with `first`.
    pub(crate) const fn new(first: u64) -> Self {
        Self { first, places: Vec::new(), runs: Vec::new(), marks: Vec::new() }
    }

    /// The index after the last entry.
    pub(crate) const fn next_index(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// A frame cuts the log from here on.
    pub(crate) fn cut(&mut self, from: u64) {
        self.first = self.first.min(from);
        self.places.truncate(usize::try_from(from - self.first).unwrap_or(usize::MAX));
        cut_lists(&mut self.runs, &mut self.marks, from);
    }

    /// The next entry.
    pub(crate) fn push(&mut self, header: &EntryHeader, place: Place) {
        if self.runs.last().is_none_or(|(term, _)| *term != header.term) {
            self.runs.push((header.term, header.index));
        }
        if header.record_count == 0 {
            self.marks.push((header.index, header.kind));
        }
        self.places.push(place);
    }
}

/// Takes what a cut removes from runs and marks.
pub(crate) fn cut_lists(runs: &mut Vec<(u64, u64)>, marks: &mut Vec<(u64, u8)>, from: u64) {
    runs.truncate(runs.partition_point(|(_, first)| *first < from));
    marks.truncate(marks.partition_point(|(index, _)| *index < from));
}

/// Some of the entries of a sealed segment, evenly apart, as it was sealed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Points {
    /// As in [`Contents`].
    pub(crate) first: u64,
    /// How many entries stood here.
    pub(crate) count: u64,
    /// There is a point for each so many entries; at least 1.
    pub(crate) step: u64,
    /// Offset and identifier of the entries `first`, `first + step`, …
    pub(crate) at: Vec<(u32, u32)>,
}

impl Points {
    pub(crate) fn new(contents: &Contents, points_max: usize) -> Self {
        let step = contents.places.len().div_ceil(points_max).max(1);
        let at = contents.places.iter().step_by(step).map(|place| (place.offset, place.id));
        Self {
            first: contents.first,
            count: contents.places.len() as u64,
            step: step as u64,
            at: at.collect(),
        }
    }

    /// The index after the last entry.
    pub(crate) const fn next_index(&self) -> u64 {
        self.first + self.count
    }

    /// The point at or before an entry.
    pub(crate) fn before(&self, index: u64) -> usize {
        usize::try_from((index - self.first) / self.step).expect("points are few")
    }

    /// The index of the entry of a point; of the one behind the last point, the index behind the
    /// segment.
    pub(crate) fn index_of(&self, point: usize) -> u64 {
        (self.first + point as u64 * self.step).min(self.next_index())
    }
}

/// What is to be known of a sealed segment without reading it. It says that each of its entries
/// was whole when it was written, and that none is known to be damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Summary {
    pub(crate) segment: u32,
    pub(crate) log_id: u16,
    /// As its last frame leaves it.
    pub(crate) hard_state: HardState,
    /// The sequence number of the next segment's first frame.
    pub(crate) next_frame: u64,
    /// Where its frames end.
    pub(crate) end: u32,
    /// Where its identifiers begin.
    pub(crate) ids: u32,
    pub(crate) runs: Vec<(u64, u64)>,
    pub(crate) marks: Vec<(u64, u8)>,
    pub(crate) points: Points,
}

impl Summary {
    /// Of a segment with these contents; `None` if they do not fit into one.
    pub(crate) fn of(
        segment: u32,
        log_id: u16,
        hard_state: HardState,
        next_frame: u64,
        (end, ids): (u64, u64),
        contents: &Contents,
    ) -> Option<Self> {
        let lists = contents.runs.len() * RUN_BYTES + contents.marks.len() * MARK_BYTES;
        let room = SUMMARY_BYTES_MAX.checked_sub(SUMMARY_HEAD_BYTES + lists)? / POINT_BYTES;
        if room < POINTS_MIN {
            return None;
        }
        Some(Self {
            segment,
            log_id,
            hard_state,
            next_frame,
            end: u32::try_from(end).ok()?,
            ids: u32::try_from(ids).ok()?,
            runs: contents.runs.clone(),
            marks: contents.marks.clone(),
            points: Points::new(contents, room),
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { points, .. } = self;
        let count = |n: usize| u16::try_from(n).expect("it fits into the header's block");
        let mut out = Vec::with_capacity(SUMMARY_BYTES_MAX);
        out.put_u32_le(0);
        out.put_u32_le(SUMMARY_MAGIC);
        out.put_u32_le(self.segment);
        out.put_u16_le(self.log_id);
        out.put_u8(self.hard_state.vote.unwrap_or(0));
        out.put_u8(0);
        out.put_u64_le(self.hard_state.term);
        out.put_u64_le(self.next_frame);
        out.put_u64_le(points.first);
        out.put_u32_le(u32::try_from(points.count).expect("a segment is below 4 GiB"));
        out.put_u32_le(u32::try_from(points.step).expect("at most as many as there are entries"));
        out.put_u32_le(self.end);
        out.put_u32_le(self.ids);
        out.put_u16_le(count(self.runs.len()));
        out.put_u16_le(count(self.marks.len()));
        out.put_u32_le(0);
        for (term, first) in &self.runs {
            out.put_u64_le(*term);
            out.put_u64_le(*first);
        }
        for (index, kind) in &self.marks {
            out.put_u64_le(*index);
            out.put_u8(*kind);
        }
        for (offset, id) in &points.at {
            out.put_u32_le(*offset);
            out.put_u32_le(*id);
        }
        assert!(out.len() <= SUMMARY_BYTES_MAX, "there was room for so many points");
        let crc = crc32c::crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What stands in a segment's header's block, if it is whole.
    fn decode(block: &[u8]) -> Option<Self> {
        let start = usize::try_from(SUMMARY_OFFSET).expect("1024");
        let bytes = block.get(start..start + SUMMARY_BYTES_MAX)?;
        let mut rest = bytes;
        let crc = rest.get_u32_le();
        if rest.get_u32_le() != SUMMARY_MAGIC {
            return None;
        }
        let (segment, log_id) = (rest.get_u32_le(), rest.get_u16_le());
        let vote = rest.get_u8();
        rest.advance(1);
        let (term, next_frame) = (rest.get_u64_le(), rest.get_u64_le());
        let first = rest.get_u64_le();
        let (count, step) = (u64::from(rest.get_u32_le()), u64::from(rest.get_u32_le()));
        let (end, ids) = (rest.get_u32_le(), rest.get_u32_le());
        let (runs, marks) = (usize::from(rest.get_u16_le()), usize::from(rest.get_u16_le()));
        rest.advance(4);
        // No log comes near the end of the numbers; bytes that were made up may.
        if first == 0 || first > u64::MAX / 2 {
            return None;
        }
        let points = usize::try_from(count.div_ceil(step.max(1))).ok()?;
        let length = SUMMARY_HEAD_BYTES + runs * RUN_BYTES + marks * MARK_BYTES;
        let length = length.checked_add(points.checked_mul(POINT_BYTES)?)?;
        if crc32c::crc32c(bytes.get(4..length)?) != crc {
            return None;
        }
        let runs = (0..runs).map(|_| (rest.get_u64_le(), rest.get_u64_le())).collect();
        let marks = (0..marks).map(|_| (rest.get_u64_le(), rest.get_u8())).collect();
        let at = (0..points).map(|_| (rest.get_u32_le(), rest.get_u32_le())).collect();
        let points = Points { first, count, step: step.max(1), at };
        let hard_state = HardState { term, vote: (vote != 0).then_some(vote) };
        Some(Self { segment, log_id, hard_state, next_frame, end, ids, runs, marks, points })
    }

    /// The summary in a segment's header's block, if it fits the header, the seal and itself.
    pub(crate) fn trusted(block: &[u8], header: &SegmentHeader) -> Option<Self> {
        let summary = Self::decode(block)?;
        let is_fitting = Seal::found(block) == summary.seal().encode()
            && summary.segment == header.number
            && summary.log_id == header.log_id
            && summary.hard_state.term >= header.hard_state.term
            && summary.points.first <= header.last_index.saturating_add(1)
            && summary.fits_into(header)
            && summary.is_in_order();
        is_fitting.then_some(summary)
    }

    /// The seal of a segment with this summary.
    pub(crate) const fn seal(&self) -> Seal {
        Seal {
            segment: self.segment,
            log_id: self.log_id,
            next_frame: self.next_frame,
            last_index: self.points.next_index() - 1,
        }
    }

    /// Whether there is room in the segment for what is said to stand there.
    fn fits_into(&self, header: &SegmentHeader) -> bool {
        let (end, ids) = (u64::from(self.end), u64::from(self.ids));
        let bounds = SEGMENT_HEADER_BYTES <= end && end <= ids && ids <= header.bytes;
        let Some(frames) = self.next_frame.checked_sub(header.first_frame) else {
            return false;
        };
        let slots = header.bytes.saturating_sub(ids) / ID_BYTES as u64;
        let is_one = |(offset, id): (u32, u32)| {
            let (offset, id) = (u64::from(offset), u64::from(id));
            let body = SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES as u64;
            let is_slot = (header.bytes.saturating_sub(id)).is_multiple_of(ID_BYTES as u64);
            (body..end).contains(&offset) && (ids..header.bytes).contains(&id) && is_slot
        };
        bounds
            && (header.bytes - ids).is_multiple_of(ID_BYTES as u64)
            && slots >= frames.saturating_add(self.points.count)
            && self.points.at.iter().copied().all(is_one)
    }

    /// Whether runs, marks and points ascend, and are those of the entries.
    fn is_in_order(&self) -> bool {
        let Points { first, count, at, .. } = &self.points;
        let entries = *first..first + count;
        let run_first = self.runs.first().map(|(_, first)| *first);
        run_first == (*count > 0).then_some(*first)
            && self.runs.iter().all(|(term, first)| *term > 0 && entries.contains(first))
            && self.runs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1)
            && self.marks.iter().all(|(index, _)| entries.contains(index))
            && self.marks.is_sorted_by(|a, b| a.0 < b.0)
            && at.is_sorted_by(|a, b| a.0 < b.0 && a.1 > b.1)
    }
}

/// What a stretch of identifiers says.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) contents: Contents,
    pub(crate) frames: Vec<FrameId>,
}

/// Goes along the identifiers in `ids`, which end at `top` of the segment: on from `contents`, with
/// parts of frames that stand in `within`. `None` unless all of them are whole, and each continues
/// the one before it.
pub(crate) fn walk(ids: &[u8], top: u64, within: Range<u64>, contents: Contents) -> Option<Walked> {
    let mut walked = Walked { contents, frames: Vec::new() };
    let Walked { contents, frames } = &mut walked;
    let mut at = within.start;
    let mut slot = top;
    for id in ids.rchunks(ID_BYTES) {
        slot = slot.checked_sub(ID_BYTES as u64)?;
        match Identifier::decode(id)? {
            Identifier::Frame(id) => {
                let continues =
                    frames.last().is_none_or(|before| before.seq.checked_add(1) == Some(id.seq));
                if !continues || u64::from(id.offset) != at.next_multiple_of(8) {
                    return None;
                }
                if let Some(from) = id.truncate_from {
                    contents.cut(from);
                }
                at = u64::from(id.offset) + FRAME_HEADER_BYTES as u64;
                frames.push(id);
            }
            Identifier::Entry(id) => {
                let is_next = id.index == contents.next_index() && u64::from(id.offset) == at;
                if !is_next || id.body_bytes as usize > ENTRY_BODY_BYTES_MAX {
                    return None;
                }
                let header = id.header(0);
                let place = Place::new(&header, at, slot);
                contents.push(&header, place);
                at = place.end();
            }
        }
        if at > within.end {
            return None;
        }
    }
    Some(walked)
}
