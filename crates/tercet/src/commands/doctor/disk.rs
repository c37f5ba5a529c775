//! The disk: how long a sync takes, and how fast much goes onto it and off it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::fs::{Advice, FlockOperation, OFlags, fadvise, flock};

use super::clock::Watch;

/// What a small write is: the smallest that a disk does.
const BLOCK: usize = 4096;
/// What a large one is.
const CHUNK: usize = 1 << 20;
/// The most syncs that are measured. A quantile needs some, whatever they take: the fewest.
const SYNCS_MAX: usize = 1000;
const SYNCS_MIN: usize = 10;
const NAME: &str = ".tercet-doctor";

/// How long it takes to make 4 KiB durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syncs {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) count: usize,
}

impl Syncs {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let count = times.len();
        Self { p50: times[count / 2], p99: times[count * 99 / 100], count }
    }
}

/// How much went in how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

impl Rate {
    /// Bytes in a second.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive, and below 2^63"
    )]
    pub(super) fn per_second(&self) -> u64 {
        (self.bytes as f64 / self.took.as_secs_f64().max(1e-9)) as u64
    }
}

/// The file that is measured with; gone when this is dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    file: File,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is taken and removed by the next one.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Scratch {
    /// Makes the file; one that a killed process left behind is taken over.
    pub(super) fn new(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(NAME);
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).expect("a flag of open");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another `tercet doctor` measures it right now: wait until that is done");
        }
        file.set_len(0)?;
        Ok(Self { path, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes 4 KiB and syncs, again and again: a file that grows by it, or one of zeros that are on
    /// disk already, as the log's.
    pub(super) fn syncs(
        &self,
        zeroed: bool,
        time_max: Duration,
        watch: &mut Watch,
    ) -> io::Result<Syncs> {
        self.file.set_len(0)?;
        if zeroed {
            self.file.write_all_at(&vec![0; SYNCS_MAX * BLOCK], 0)?;
        }
        self.file.sync_all()?;
        let begun = Instant::now();
        let mut times = Vec::with_capacity(SYNCS_MAX);
        while times.len() < SYNCS_MAX && (times.len() < SYNCS_MIN || begun.elapsed() < time_max) {
            let at = Instant::now();
            self.file.write_all_at(&[7; BLOCK], (times.len() * BLOCK) as u64)?;
            self.file.sync_data()?;
            times.push(at.elapsed());
            watch.look();
        }
        Ok(Syncs::of(times))
    }

    /// Writes one chunk behind the other, and syncs.
    pub(super) fn write(&self, bytes_max: u64, time_max: Duration) -> io::Result<Rate> {
        self.file.set_len(0)?;
        self.file.sync_all()?;
        let chunk: Vec<u8> = (0..CHUNK).map(|at| u8::try_from(at % 251).expect("a byte")).collect();
        let begun = Instant::now();
        let mut bytes = 0;
        // What is written is in memory at first: now and then it has to be on the disk, or the time
        // would be over before the disk has begun.
        while bytes == 0 || (bytes + CHUNK as u64 <= bytes_max && begun.elapsed() < time_max) {
            self.file.write_all_at(&chunk, bytes)?;
            bytes += CHUNK as u64;
            if bytes.is_multiple_of(2 << 20) {
                self.file.sync_data()?;
            }
        }
        self.file.sync_data()?;
        Ok(Rate { bytes, took: begun.elapsed() })
    }

    /// Reads what [`Self::write`] wrote, from the disk where the system lets go of what it has in
    /// memory.
    pub(super) fn read(&self, time_max: Duration) -> io::Result<Rate> {
        fadvise(&self.file, 0, None, Advice::DontNeed)?;
        let mut chunk = vec![0; CHUNK];
        let begun = Instant::now();
        let mut bytes = 0;
        while bytes == 0 || begun.elapsed() < time_max {
            let n = self.file.read_at(&mut chunk, bytes)?;
            if n == 0 {
                break;
            }
            bytes += n as u64;
        }
        Ok(Rate { bytes, took: begun.elapsed() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_there_while_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        // Left behind by one that was killed.
        std::fs::write(dir.path().join(NAME), b"old").unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(scratch.path()).unwrap().len(), 0);
        assert!(Scratch::new(dir.path()).is_err(), "one at a time");
        let mut watch = Watch::new();
        for zeroed in [false, true] {
            let syncs = scratch.syncs(zeroed, Duration::ZERO, &mut watch).unwrap();
            assert_eq!(syncs.count, SYNCS_MIN);
            assert!(syncs.p50 <= syncs.p99);
        }
        let written = scratch.write(20 << 20, Duration::MAX).unwrap();
        assert_eq!(written.bytes, 20 << 20);
        assert_eq!(scratch.read(Duration::MAX).unwrap().bytes, 20 << 20);
        drop(scratch);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("precious");
        std::fs::write(&other, b"1").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join(NAME)).unwrap();
        assert!(Scratch::new(dir.path()).is_err());
        assert_eq!(std::fs::read(&other).unwrap(), b"1");
    }
}
