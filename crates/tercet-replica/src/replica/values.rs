//! Keeping `values.log` level with what is applied.

use std::collections::VecDeque;

use tercet_wal::{Disk, Found, WalError};

use super::Running;
use crate::error::{Fatal, fatal};
use crate::io::Effect;
use crate::values::{AppendError, ValuesFile};

/// How many bytes of entries go to `values.log` in one slice.
const VALUES_SLICE_BYTES: u64 = 4 << 20;
/// How many of them by one write.
const VALUES_WRITE_BYTES: u64 = 2 << 20;
/// The same, as long as the file is compared: after a start there may be much of that, and clients
/// wait in between.
const CONFIRM_SLICE_BYTES: u64 = 1 << 20;

impl<D: Disk> Running<D> {
    pub(super) fn values_behind(&self) -> bool {
        let next = self.values.written() + 1;
        // Behind a damaged entry the file waits until that is repaired.
        let has_next = next <= self.applied && !self.wal.is_faulty(next);
        self.values_error.is_none() && (has_next || self.values_too_long())
    }

    /// Whether more is found in `values.log` than the log can ever confirm.
    fn values_too_long(&self) -> bool {
        self.values.written() == self.wal.last_index() && self.values.is_unconfirmed()
    }

    /// Writes the next slice of `values.log`.
    pub(super) fn advance_values(
        &mut self,
        disk: &D,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        let mut left = match self.values.is_unconfirmed() {
            true => CONFIRM_SLICE_BYTES,
            false => VALUES_SLICE_BYTES,
        };
        let as_bulk = self.wal.gets_much();
        let mut result = Ok(());
        while self.values.written() < self.applied && left > 0 && result.is_ok() {
            let next = self.values.written() + 1;
            let bytes_max = left.min(VALUES_WRITE_BYTES);
            let found = self.wal.find(disk, next, self.applied, bytes_max);
            let read = match found.and_then(Found::read_alone) {
                Ok(read) => read,
                Err(WalError::Faulty { index, .. }) => {
                    self.wal.note_faulty(index).map_err(fatal)?;
                    self.suspect.set(Some(index));
                    break;
                }
                Err(error) => return Err(fatal(error)),
            };
            for entry in read {
                left = left.saturating_sub(entry.frame.len() as u64);
                match self.values.append(&entry) {
                    Ok(()) => {}
                    Err(AppendError::Records(error)) => {
                        return Err(Fatal::LostMemory(error.to_string()));
                    }
                    Err(AppendError::File(error)) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            if result.is_ok() {
                result = self.values.flush(disk, as_bulk);
            }
        }
        if result.is_ok() && self.values_too_long() {
            result = self.values.cut_unconfirmed();
        }
        let cut = self.values.take_cut();
        if cut > 0 {
            effects.push_back(Effect::Warning(format!(
                "values.log differed from the log in its last {cut} bytes: made again from there"
            )));
        }
        // The file is not the truth: what cannot be written now is written later.
        let error = result.err().map(|error| error.to_string());
        if let (Some(error), None) = (&error, &self.values_error) {
            effects.push_back(Effect::Warning(format!("values.log cannot be written: {error}")));
        }
        if let Some(settled) = self.values.take_settled() {
            disk.release(crate::values::FILE, settled);
        }
        self.values_error = error;
        Ok(())
    }

    /// Begins `values.log` again from the first record.
    pub(super) fn rebuild_values(&mut self, disk: &mut D) {
        let made = (|| {
            if disk.open(crate::values::FILE)?.is_some() {
                disk.remove(crate::values::FILE)?;
            }
            ValuesFile::open(disk)
        })();
        match made {
            Ok(values) => {
                self.values = values;
                self.values_error = None;
            }
            Err(error) => self.values_error = Some(error.to_string()),
        }
    }

    pub(super) fn note_full(&mut self, full: bool, effects: &mut VecDeque<Effect>) {
        if full != self.disk_full {
            self.disk_full = full;
            effects.push_back(Effect::Warning(if full {
                "the disk is full: new records are refused until there is space again".to_owned()
            } else {
                "there is space on the disk again: new records are accepted".to_owned()
            }));
        }
        if !full && self.values_error.is_some() {
            // Worth another try.
            self.values_error = None;
        }
    }
}
