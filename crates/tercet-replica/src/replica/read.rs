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
        if from_seq >= self.applied_next_seq || limit == 0 {
            return Ok(records);
        }
        let mut index = self.find(disk, from_seq)?;
        let mut bytes = 0;
        while index <= self.applied {
            let budget = bytes_max.saturating_sub(bytes).clamp(1, 1 << 20) as u64;
            for entry in self.wal.read(disk, index, self.applied, budget)? {
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
        // Invariant: the entry lies in low..=high.
        while low < high {
            let middle = low + (high - low) / 2;
            let header = self.wal.header(disk, middle)?;
            if header.next_seq() > seq {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }
}
