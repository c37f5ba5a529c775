//! Entries that stand on disk one behind the other: found by the log, read by whoever has the time.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{DiskFile, is_unreadable};
use crate::entry::Entry;
use crate::places::Place;
use crate::wal::{WalError, io_error, to_usize};

/// No more is read from the disk at a time, but an entry that is longer: others share the disk, and
/// wait while it reads.
pub(crate) const STRETCH_BYTES_MAX: u64 = 512 << 10;
/// A system that is asked for more may ask the disk for all of it at once.
const READ_AT_A_TIME: usize = 512 << 10;

/// What [`Wal::find`](crate::Wal::find) finds.
#[derive(Debug)]
pub enum Found<F> {
    /// These entries, which are in memory.
    InMemory(Vec<Entry>),
    /// Entries that are to be read.
    OnDisk(Stretch<F>),
}

impl<F: DiskFile> Found<F> {
    /// The entries: what is not in memory is read.
    ///
    /// # Errors
    /// As of [`Stretch::read`].
    pub fn read(self) -> Result<Vec<Entry>, WalError> {
        match self {
            Self::InMemory(entries) => Ok(entries),
            Self::OnDisk(stretch) => stretch.read(),
        }
    }

    /// The same for who reads much and is in no hurry.
    ///
    /// # Errors
    /// As of [`Stretch::read_alone`].
    pub fn read_alone(self) -> Result<Vec<Entry>, WalError> {
        match self {
            Self::InMemory(entries) => Ok(entries),
            Self::OnDisk(stretch) => stretch.read_alone(),
        }
    }
}

/// Entries that stand on disk one behind the other.
#[derive(Debug)]
pub struct Stretch<F> {
    pub(crate) file: Arc<F>,
    pub(crate) path: String,
    /// The index of the first of them.
    pub(crate) first: u64,
    pub(crate) places: Vec<Place>,
    /// What need not stay in memory for them. To let go of it takes as long as to read.
    pub(crate) unneeded: Vec<(Arc<F>, Range<u64>)>,
}

impl<F: DiskFile> Stretch<F> {
    fn range(&self) -> Range<u64> {
        u64::from(self.places[0].offset)..self.places[self.places.len() - 1].end()
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> u64 {
        let Range { start, end } = self.range();
        end - start
    }

    /// Reads and verifies them, up to the first that is damaged.
    ///
    /// # Errors
    /// [`WalError::Faulty`] if that is the first one: tell [`Wal::note_faulty`](crate::Wal::note_faulty).
    pub fn read(self) -> Result<Vec<Entry>, WalError> {
        for (file, bytes) in &self.unneeded {
            file.forget_cache(bytes.clone());
        }
        match self.read_places(&self.places) {
            // One of them cannot be read: the others are still to be had.
            Err(WalError::Faulty { .. }) => self.read_places(&self.places[..1]),
            result => result,
        }
    }

    /// The same, and nothing that stands behind them: a system that reads ahead may read megabytes,
    /// and what others write to the disk waits for that.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn read_alone(self) -> Result<Vec<Entry>, WalError> {
        let file = Arc::clone(&self.file);
        file.read_ahead(false);
        let read = self.read();
        file.read_ahead(true);
        read
    }

    fn read_places(&self, places: &[Place]) -> Result<Vec<Entry>, WalError> {
        let start = places[0].offset;
        let end = places[places.len() - 1].end();
        let mut buffer = vec![0; to_usize(end - u64::from(start))];
        fill(&*self.file, &self.path, &mut buffer, u64::from(start), self.first)?;
        let buffer = Bytes::from(buffer);
        let mut entries = Vec::with_capacity(places.len());
        for (place, index) in places.iter().zip(self.first..) {
            let from = (place.offset - start) as usize;
            match Entry::parse(buffer.slice(from..from + place.bytes as usize)) {
                Ok(entry) if entry.header.index == index && place.is_of(&entry.header) => {
                    entries.push(entry);
                }
                Ok(_) | Err(_) if entries.is_empty() => {
                    return Err(WalError::Faulty { index, term: 0 });
                }
                Ok(_) | Err(_) => break,
            }
        }
        Ok(entries)
    }
}

/// Reads at an offset; bytes that the disk cannot give are damage to the entry `index`.
pub(crate) fn fill<F: DiskFile>(
    file: &F,
    path: &str,
    buffer: &mut [u8],
    offset: u64,
    index: u64,
) -> Result<(), WalError> {
    match read_full(file, buffer, offset) {
        Ok(true) => Ok(()),
        Ok(false) => Err(WalError::Lost { path: path.to_owned() }),
        Err(error) if is_unreadable(&error) => Err(WalError::Faulty { index, term: 0 }),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Whether all of the bytes are there.
pub(crate) fn read_full<F: DiskFile>(
    file: &F,
    buffer: &mut [u8],
    mut offset: u64,
) -> io::Result<bool> {
    for mut piece in buffer.chunks_mut(READ_AT_A_TIME) {
        while !piece.is_empty() {
            let n = file.read_at(piece, offset)?;
            if n == 0 {
                return Ok(false);
            }
            offset += n as u64;
            piece = &mut piece[n..];
        }
    }
    Ok(true)
}
