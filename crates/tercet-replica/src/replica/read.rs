//! Reading committed records.

use tercet_wal::{Disk, WalError};

use super::Running;
use crate::io::{ReadError, Record};
use crate::record::records_of;

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
