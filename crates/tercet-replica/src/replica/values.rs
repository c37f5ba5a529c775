//! Keeping `values.log` level with what is applied.

use std::collections::VecDeque;

use tercet_wal::{Disk, WalError};

use super::Running;
use crate::error::{Fatal, fatal};
use crate::io::Effect;
use crate::values::ValuesFile;

/// How many bytes of entries go to `values.log` in one slice.
const VALUES_SLICE_BYTES: usize = 4 << 20;

impl<D: Disk> Running<D> {
    pub(super) fn values_behind(&self) -> bool {
        let next = self.values.written() + 1;
        // Behind a damaged entry the file waits until that is repaired.
        self.values_error.is_none() && next <= self.applied && !self.wal.is_faulty(next)
    }

    /// Writes the next slice of `values.log`.
    pub(super) fn advance_values(
        &mut self,
        disk: &D,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        while self.values.written() < self.applied
            && self.values.pending_bytes() < VALUES_SLICE_BYTES
        {
            let next = self.values.written() + 1;
            let budget = (VALUES_SLICE_BYTES - self.values.pending_bytes()) as u64;
            let read = match self.wal.read(disk, next, self.applied, budget) {
                Ok(read) => read,
                Err(WalError::Faulty { index, .. }) => {
                    self.wal.note_faulty(index).map_err(fatal)?;
                    self.suspect.set(Some(index));
                    break;
                }
                Err(error) => return Err(fatal(error)),
            };
            for entry in read {
                if let Err(error) = self.values.append(&entry) {
                    return Err(Fatal::LostMemory(error.to_string()));
                }
            }
        }
        // The file is not the truth: what cannot be written now is written later.
        let error = self.values.flush().err().map(|error| error.to_string());
        if let (Some(error), None) = (&error, &self.values_error) {
            effects.push_back(Effect::Warning(format!("values.log cannot be written: {error}")));
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
