//! Reading committed records.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use tercet_wal::{Disk, Entry, WalError};

use super::Running;
use crate::io::{ReadError, Record};
use crate::record::records_of;

/// Of an entry with more bytes the records are not kept.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What a read tells those after it. Committed entries do not change, so it stays true.
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
        if from_seq >= self.applied_next_seq || limit == 0 {
            return Ok(records);
        }
        if limit == 1
            && let Some(value) = self.known.batch.borrow().as_ref().and_then(|b| b.value(from_seq))
        {
            return Ok(vec![Record { seq: from_seq, value }]);
        }
        let mut guessed = self.read_guess(disk, from_seq, limit);
        let mut index = match &guessed {
            Some(entry) => entry.header.index,
            None => self.find(disk, from_seq)?,
        };
        let mut bytes = 0;
        while index <= self.applied && records.len() < limit {
            let entries = match guessed.take() {
                Some(entry) => vec![entry],
                None => {
                    let budget = bytes_max.saturating_sub(bytes).clamp(1, 1 << 20) as u64;
                    // Nearly every entry has records: of so many, most are wanted.
                    let wanted = (limit - records.len()) as u64;
                    let last = self.applied.min(index.saturating_add(wanted - 1));
                    self.wal.read(disk, index, last, budget)?
                }
            };
            for entry in entries {
                index = entry.header.index + 1;
                if entry.header.record_count == 0 {
                    continue;
                }
                let (first_seq, values) = (entry.header.first_seq, records_of(&entry)?.values);
                if limit == 1 {
                    self.note_found(&entry, &values);
                }
                for (seq, value) in (first_seq..).zip(values) {
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

    /// The entry with the one record that is wanted, if it stands where it would if all entries had
    /// as many records as the one that was found last: without a look around, which costs as much as
    /// the read.
    fn read_guess(&self, disk: &D, seq: u64, limit: usize) -> Option<Entry> {
        let Found { index, first_seq, record_count } = self.known.found.get()?;
        if limit != 1 {
            return None;
        }
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

    fn note_found(&self, entry: &Entry, values: &[Bytes]) {
        let header = &entry.header;
        let (first_seq, record_count) = (header.first_seq, header.record_count);
        self.known.found.set(Some(Found { index: header.index, first_seq, record_count }));
        if record_count > 1 && entry.frame.len() <= BATCH_BYTES_MAX {
            self.known.batch.replace(Some(Batch { first_seq, values: values.to_vec() }));
        }
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
