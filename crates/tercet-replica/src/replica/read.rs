//! Reading committed records.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;
use tercet_wal::{Disk, DiskFile, Entry, Stretch, WalError};

use super::Running;
use crate::io::{ReadError, Record};
use crate::record::{RecordsError, records_of, values_of};

/// Of an entry with more bytes the records are not kept.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// So many readers at a time go on without looking for where they were.
const ENDS: usize = 64;

/// What the read of a record tells those after it. Applied entries do not change, so it stays true.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The entry that was found last.
    found: Cell<Option<Found>>,
    /// The last entry with many records of which one was read: the next may want another.
    batch: RefCell<Option<Batch>>,
    /// Where the last reads of many records ended: their readers go on there.
    ends: RefCell<VecDeque<End>>,
}

impl Known {
    fn note_end(&self, end: End) {
        let mut ends = self.ends.borrow_mut();
        if ends.len() == ENDS {
            ends.pop_front();
        }
        ends.push_back(end);
    }

    /// The entry with this record, where a read ended before it.
    fn index_of(&self, seq: u64) -> Option<u64> {
        let ends = self.ends.borrow();
        ends.iter().rev().find(|end| end.next_seq == seq).map(|end| end.next_index)
    }
}

/// The next record that a reader wants, and the entry that it is in.
#[derive(Clone, Copy, Debug)]
struct End {
    next_seq: u64,
    next_index: u64,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    index: u64,
    first_seq: u64,
    record_count: u32,
}

#[derive(Debug)]
struct Batch {
    first_seq: u64,
    values: Vec<Bytes>,
}

impl Batch {
    fn value(&self, seq: u64) -> Option<Bytes> {
        self.values.get(usize::try_from(seq.checked_sub(self.first_seq)?).ok()?).cloned()
    }
}

/// A read of committed records that is under way: what was found of them, and what is yet wanted.
#[derive(Debug)]
pub struct Reading {
    from_seq: u64,
    limit: usize,
    bytes_max: usize,
    records: Vec<Record>,
    /// Of their values.
    bytes: usize,
    /// The entry with the record after them, once that is known.
    next_index: Option<u64>,
    failed: Option<ReadError>,
}

impl Reading {
    /// Records from `from_seq` on: at most `limit`, and about `bytes_max` bytes of values, not less
    /// than half of it if there is so much, and one record at least.
    #[must_use]
    pub const fn new(from_seq: u64, limit: usize, bytes_max: usize) -> Self {
        let records = Vec::new();
        Self { from_seq, limit, bytes_max, records, bytes: 0, next_index: None, failed: None }
    }

    fn next_seq(&self) -> u64 {
        self.records.last().map_or(self.from_seq, |record| record.seq + 1)
    }

    /// Whether another look at the log is not worth it.
    fn is_enough(&self) -> bool {
        self.records.len() >= self.limit
            || (!self.records.is_empty() && self.bytes >= self.bytes_max.div_ceil(2))
    }

    /// Takes what is wanted of the entry with the next record, and of those that follow it.
    fn take(&mut self, entries: &[Entry]) -> Result<(), RecordsError> {
        for entry in entries {
            self.next_index = Some(entry.header.index);
            if entry.header.record_count > 0 {
                let next_seq = self.next_seq();
                for (seq, value) in (entry.header.first_seq..).zip(values_of(entry)?) {
                    if seq < next_seq {
                        continue;
                    }
                    let is_full = self.bytes >= self.bytes_max && !self.records.is_empty();
                    if is_full || self.records.len() >= self.limit {
                        return Ok(());
                    }
                    self.bytes += value.len();
                    self.records.push(Record { seq, value: entry.frame.slice_ref(value) });
                }
            }
            self.next_index = Some(entry.header.index + 1);
        }
        Ok(())
    }
}

/// What [`Replica::find`](super::Replica::find) finds.
#[derive(Debug)]
pub enum FoundRecords<F> {
    /// All that was wanted, or all there is.
    All(Vec<Record>),
    /// Records that are to be read.
    OnDisk(UnreadRecords<F>),
}

/// Committed records that stand on this node's disk. They are to be read, on any thread; then
/// [`Replica::find`](super::Replica::find) goes on.
#[derive(Debug)]
pub struct UnreadRecords<F> {
    reading: Reading,
    stretch: Stretch<F>,
}

impl<F: DiskFile> UnreadRecords<F> {
    /// How many bytes are to be read.
    pub fn bytes(&self) -> u64 {
        self.stretch.bytes()
    }

    /// Reads and verifies them.
    #[must_use]
    pub fn read(self) -> Reading {
        let Self { mut reading, stretch } = self;
        let entries = stretch.read().map_err(ReadError::from);
        let taken = entries.and_then(|entries| Ok(reading.take(&entries)?));
        reading.failed = taken.err();
        reading
    }
}

impl<D: Disk> Running<D> {
    pub(super) fn find_records(
        &self,
        disk: &D,
        mut reading: Reading,
    ) -> Result<FoundRecords<D::File>, ReadError> {
        loop {
            if let Some(error) = reading.failed {
                return Err(error);
            }
            let next_seq = reading.next_seq();
            if reading.is_enough() || next_seq >= self.applied_next_seq {
                if let Some(next_index) = reading.next_index {
                    self.known.note_end(End { next_seq, next_index });
                }
                return Ok(FoundRecords::All(reading.records));
            }
            if reading.limit == 1 {
                return Ok(FoundRecords::All(vec![self.read_one(disk, next_seq)?]));
            }
            let index = match reading.next_index.or_else(|| self.known.index_of(next_seq)) {
                Some(index) => index,
                None => self.find(disk, next_seq)?,
            };
            if index > self.applied {
                return Ok(FoundRecords::All(reading.records));
            }
            // Nearly every entry has records: of so many, most are wanted.
            let wanted = (reading.limit - reading.records.len()) as u64;
            let last = self.applied.min(index.saturating_add(wanted - 1));
            let budget = reading.bytes_max.saturating_sub(reading.bytes).clamp(1, 1 << 20) as u64;
            match self.wal.find(disk, index, last, budget)? {
                tercet_wal::Found::InMemory(entries) => reading.take(&entries)?,
                tercet_wal::Found::OnDisk(stretch) => {
                    return Ok(FoundRecords::OnDisk(UnreadRecords { reading, stretch }));
                }
            }
        }
    }

    fn read_one(&self, disk: &D, seq: u64) -> Result<Record, ReadError> {
        if let Some(value) = self.known.batch.borrow().as_ref().and_then(|b| b.value(seq)) {
            return Ok(Record { seq, value });
        }
        let entry = match self.read_guess(disk, seq) {
            Some(entry) => entry,
            None => {
                let index = self.find(disk, seq)?;
                self.wal.read(disk, index, index, 1)?.pop().expect("one at least is read")
            }
        };
        let (index, first_seq) = (entry.header.index, entry.header.first_seq);
        let batch = Batch { first_seq, values: records_of(&entry)?.values };
        let body_bytes = entry.body().len();
        let value = batch.value(seq).ok_or(RecordsError { index, body_bytes })?;
        let record_count = entry.header.record_count;
        self.known.found.set(Some(Found { index, first_seq, record_count }));
        if record_count > 1 && body_bytes <= BATCH_BYTES_MAX {
            self.known.batch.replace(Some(batch));
        }
        Ok(Record { seq, value })
    }

    /// The entry with this record, if it stands where it would if all entries had as many records as
    /// the one that was found last: without a look around, which costs as much as the read.
    fn read_guess(&self, disk: &D, seq: u64) -> Option<Entry> {
        let Found { index, first_seq, record_count } = self.known.found.get()?;
        let count = u64::from(record_count);
        let guess = match seq.checked_sub(first_seq) {
            Some(behind) => index + behind / count,
            None => index.checked_sub((first_seq - seq).div_ceil(count))?,
        };
        if !(self.wal.first_index()..=self.applied).contains(&guess) {
            return None;
        }
        // What is wrong with it, if something is, whoever wants to know will find.
        let entry = self.wal.read(disk, guess, guess, 1).ok()?.pop()?;
        (entry.header.first_seq..entry.header.next_seq()).contains(&seq).then_some(entry)
    }

    /// The entry that holds the record with this sequence number, which is applied.
    pub(super) fn find(&self, disk: &D, seq: u64) -> Result<u64, WalError> {
        let (mut low, mut high) = (self.wal.first_index(), self.applied);
        let (mut low_seq, mut high_seq) = (1, self.applied_next_seq);
        // Invariant: the entry lies in low..=high, and these begin at low_seq and end before high_seq.
        let mut looks = 0;
        while low < high {
            // Entries have about as many records each: mostly the second look finds it where it
            // would lie. For logs where that is wrong, every third is at the middle.
            looks += 1;
            let share = u128::from(high - low + 1) * u128::from(seq - low_seq)
                / u128::from(high_seq - low_seq);
            let guess = low + u64::try_from(share).expect("below the number of entries");
            let at = if looks % 3 == 0 { low + (high - low) / 2 } else { guess };
            let header = self.wal.header(disk, at)?;
            if seq < header.first_seq {
                (high, high_seq) = (at - 1, header.first_seq);
            } else if seq >= header.next_seq() {
                (low, low_seq) = (at + 1, header.next_seq());
            } else {
                return Ok(at);
            }
        }
        Ok(low)
    }
}
