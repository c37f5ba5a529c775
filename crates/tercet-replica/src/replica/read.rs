//! Reading committed records.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use tercet_wal::{Disk, Entry, WalError};

use super::Running;
use crate::io::{ReadError, Record};
use crate::record::{RecordsError, records_of};

/// Of an entry with more bytes the records are not kept.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What the read of a record tells those after it. Applied entries do not change, so it stays true.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The entry that was found last.
    found: Cell<Option<Found>>,
    /// The last entry with many records of which one was read: the next may want another.
    batch: RefCell<Option<Batch>>,
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

impl<D: Disk> Running<D> {
    pub(super) fn read(
        &self,
        disk: &D,
        from_seq: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::new();
        if from_seq >= self.applied_next_seq {
            return Ok(records);
        }
        if limit == 1 {
            return Ok(vec![self.read_one(disk, from_seq)?]);
        }
        let mut index = self.find(disk, from_seq)?;
        let mut bytes = 0;
        while index <= self.applied && records.len() < limit {
            let budget = bytes_max.saturating_sub(bytes).clamp(1, 1 << 20) as u64;
            // Nearly every entry has records: of so many, most are wanted.
            let wanted = (limit - records.len()) as u64;
            let last = self.applied.min(index.saturating_add(wanted - 1));
            for entry in self.wal.read(disk, index, last, budget)? {
                index = entry.header.index + 1;
                if entry.header.record_count == 0 {
                    continue;
                }
                let values = records_of(&entry)?.values;
                for (seq, value) in (entry.header.first_seq..).zip(values) {
                    if seq < from_seq {
                        continue;
                    }
                    if records.len() >= limit || (bytes >= bytes_max && !records.is_empty()) {
                        return Ok(records);
                    }
                    bytes += value.len();
                    records.push(Record { seq, value });
                }
            }
        }
        Ok(records)
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
