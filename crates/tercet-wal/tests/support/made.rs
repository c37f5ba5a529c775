//! A log that is made frame by frame, with the places of all of its parts.

use std::iter;
use std::ops::Range;

use tercet_wal::{Batch, Entry, MemDisk, Wal};

use super::{Image, Model, Rng, append, entry, image, segment, small, state, write};

pub(crate) const HEADER: usize = 4096;
pub(crate) const FRAME_HEADER: usize = 64;
pub(crate) const ID: usize = 48;

/// Where a frame and its identifiers stand.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) segment: u32,
    pub(crate) offset: usize,
    /// Without what fills it up to a multiple of 8.
    pub(crate) bytes: usize,
    /// Where its lowest identifier begins, and its highest ends.
    pub(crate) ids: (usize, usize),
    pub(crate) entries: Vec<Entry>,
}

/// The parts of a frame that stands here: its header, then its entries.
pub(crate) fn parts_of(offset: usize, entries: &[Entry]) -> Vec<Range<usize>> {
    let lengths = iter::once(FRAME_HEADER).chain(entries.iter().map(|entry| entry.frame.len()));
    lengths
        .scan(offset, |at, length| {
            *at += length;
            Some(*at - length..*at)
        })
        .collect()
}

impl Frame {
    pub(crate) const fn end(&self) -> usize {
        self.offset + self.bytes
    }

    /// Where its parts stand: its header, then its entries.
    pub(crate) fn parts(&self) -> Vec<Range<usize>> {
        parts_of(self.offset, &self.entries)
    }

    /// Where the identifier of a part stands.
    pub(crate) const fn id(&self, part: usize) -> Range<usize> {
        let end = self.ids.1 - part * ID;
        end - ID..end
    }
}

/// The log, and how it came to be.
pub(crate) struct Made {
    pub(crate) disk: MemDisk,
    pub(crate) wal: Wal<MemDisk>,
    pub(crate) model: Model,
    pub(crate) frames: Vec<Frame>,
}

impl Made {
    pub(crate) fn new() -> Self {
        let mut disk = MemDisk::new();
        let wal = Wal::create(&mut disk, small()).unwrap();
        Self { disk, wal, model: Model::default(), frames: Vec::new() }
    }

    pub(crate) fn write(&mut self, batch: Batch) {
        self.model.apply(&batch);
        let entries = batch.entries.clone();
        let bodies: usize = entries.iter().map(|entry| entry.frame.len()).sum();
        let (bytes, ids) = (FRAME_HEADER + bodies, ID * (1 + entries.len()));
        write(&mut self.wal, &mut self.disk, batch);
        let number = u32::try_from(image(&self.disk).len()).unwrap();
        let length = self.disk.contents(&segment(number)).unwrap().len();
        let (offset, top) = match self.frames.last() {
            Some(last) if last.segment == number => (last.end().next_multiple_of(8), last.ids.0),
            Some(_) | None => (HEADER, length),
        };
        let ids = (top - ids, top);
        self.frames.push(Frame { segment: number, offset, bytes, ids, entries });
    }

    pub(crate) fn image(&self) -> Image {
        image(&self.disk)
    }

    pub(crate) fn last(&self) -> Frame {
        self.frames.last().unwrap().clone()
    }

    /// The frames of a segment.
    pub(crate) fn of(&self, number: u32) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(move |frame| frame.segment == number)
    }

    /// Where a segment's frames end, and where its identifiers begin.
    pub(crate) fn middle(&self, number: u32) -> Range<usize> {
        let last = self.of(number).last().unwrap();
        last.end().next_multiple_of(8)..last.ids.0
    }

    /// The entry that stands at a byte of a segment, if no later frame has cut it.
    pub(crate) fn entry_at(&self, number: u32, at: usize) -> Option<&Entry> {
        let frame = self.of(number).find(|frame| (frame.offset..frame.end()).contains(&at))?;
        let part = frame.parts().iter().position(|part| part.contains(&at))?.checked_sub(1)?;
        frame.entries.get(part).filter(|entry| self.model.entries.contains(entry))
    }

    /// Which bytes of a segment mean something: all but the rest of the header's block, entries
    /// that were cut, and what fills frames up.
    pub(crate) fn meaning(&self, number: u32) -> Vec<bool> {
        let length = self.disk.contents(&segment(number)).unwrap().len();
        let mut means = vec![false; length];
        means[..64].fill(true);
        means[512..544].fill(true);
        means[self.middle(number).start..].fill(true);
        for frame in self.of(number) {
            for (position, part) in frame.parts().into_iter().enumerate() {
                if position == 0 || self.model.entries.contains(&frame.entries[position - 1]) {
                    means[part].fill(true);
                }
            }
        }
        means
    }

    /// The log is what it was, byte for byte, wherever its bytes mean something.
    pub(crate) fn assert_restored(&self, found: &Image, label: &str) {
        let whole = self.image();
        assert!(found.keys().eq(whole.keys()), "{label}: other files");
        for number in 1..=u32::try_from(whole.len()).unwrap() {
            let (found, whole) = (&found[&segment(number)], &whole[&segment(number)]);
            assert_eq!(found.len(), whole.len(), "{label}: segment {number}");
            if found != whole {
                let means = self.meaning(number);
                let other = (0..whole.len()).find(|at| means[*at] && found[*at] != whole[*at]);
                assert_eq!(other, None, "{label}: segment {number}, a byte that differs");
            }
        }
    }
}

/// Two segments, with a bit of everything in each.
pub(crate) fn two_segments() -> Made {
    let mut made = Made::new();
    made.write(state(1, 2));
    made.write(append(vec![entry(1, 1, b""), entry(1, 2, b"first"), entry(1, 3, &[9; 37])]));
    made.write(Batch {
        hard_state: state(2, 0).hard_state,
        truncate_from: Some(3),
        entries: vec![entry(2, 3, b"third"), entry(2, 4, b"4")],
    });
    made.write(append(vec![entry(2, 5, &Rng(5).bytes(70_000))]));
    made.write(append(vec![entry(2, 6, b"in another segment")]));
    made.write(state(3, 1));
    made.write(append(vec![entry(3, 7, b"the last"), entry(3, 8, b"but one or two")]));
    assert_eq!(made.last().segment, 2);
    made
}

/// One segment that is full to the last vote: frames and identifiers come as near to each other as
/// they ever do.
pub(crate) fn full_segment() -> Made {
    let mut made = Made::new();
    for index in 1..=40 {
        made.write(append(vec![entry(1, index, &Rng(index).bytes(1_200))]));
    }
    for term in 2.. {
        let before = (made.disk.clone(), made.frames.len());
        let copy = before.0.after_crash(tercet_wal::Survive::All);
        made.write(state(term, 1));
        if made.last().segment == 2 {
            // That one was too many.
            let mut disk = copy;
            let (wal, recovered) = Wal::open(&mut disk, small()).unwrap();
            made.model.hard_state = recovered.hard_state;
            made.frames.truncate(before.1);
            return Made { disk, wal, model: made.model, frames: made.frames };
        }
    }
    unreachable!("a segment ends")
}
