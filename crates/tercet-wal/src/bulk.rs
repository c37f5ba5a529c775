//! Much at once goes past the system's memory, a piece at a time.
//!
//! Of megabytes that a system is given in one go it takes as much memory, which it may have to get
//! first, and copies them there without a pause; a sync then gives them to the disk in one go. Others
//! wait for the processor behind the first, and with their small syncs behind the second.

use std::io;

use crate::disk::{BLOCK, Disk, DiskFile};
use crate::wal::to_usize;

/// How much of it the disk is given at a time; less than that is not much.
const PIECE_BYTES: usize = 512 << 10;

/// A second way to write a file, for much at once.
#[derive(Debug)]
pub struct Bulk<F> {
    /// The file by its name, once it was needed; without it where the system has no such way.
    direct: Option<(String, Option<F>)>,
    /// A piece, and room to let it begin where a block of memory does.
    buffer: Vec<u8>,
}

impl<F> Default for Bulk<F> {
    fn default() -> Self {
        Self { direct: None, buffer: Vec::new() }
    }
}

impl<F: DiskFile> Bulk<F> {
    /// Writes `parts`, one behind the other, at `offset` of the open file that has this name; what is
    /// written next begins at `end`, at most a block before the end of these. Durable once `file` is
    /// synced. Says whether it was much.
    ///
    /// # Errors
    /// The file system's; some of the bytes may have been written.
    pub fn write<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        (file, name): (&F, &str),
        parts: &[&[u8]],
        offset: u64,
        end: u64,
    ) -> io::Result<bool> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes < PIECE_BYTES {
            return file.write_pieces_at(parts, offset).map(|()| false);
        }
        let mut rest = Parts { parts, skip: 0 };
        let mut at = offset;
        if let Some((direct, buffer)) = self.direct(disk, file, name) {
            // The block of which the beginning stands already, and that of which the rest comes later,
            // go through the system's memory and stay there: else it reads them to write them.
            let first = offset.next_multiple_of(BLOCK);
            let last = end.min(offset + bytes as u64);
            let last = last - last % BLOCK;
            file.write_pieces_at(&rest.take(first - offset), offset)?;
            at = first;
            while at < last {
                let mut filled = 0;
                for part in rest.take((last - at).min(PIECE_BYTES as u64)) {
                    buffer[filled..filled + part.len()].copy_from_slice(part);
                    filled += part.len();
                }
                match direct.write_at(&buffer[..filled], at) {
                    // Not every file system that opens a file so writes it so.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        file.write_at(&buffer[..filled], at)?;
                    }
                    written => written?,
                }
                at += filled as u64;
            }
        }
        file.write_pieces_at(&rest.take(u64::MAX), at).map(|()| true)
    }

    /// The file past the system's memory, and memory to write it from.
    fn direct<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        file: &F,
        name: &str,
    ) -> Option<(&F, &mut [u8])> {
        if self.direct.as_ref().is_none_or(|(known, _)| known != name) {
            let direct = disk.open_past_cache(name);
            // What has replaced the file under its name is not written.
            let is_it = disk.same_file(file, name).unwrap_or(false);
            self.direct = Some((name.to_owned(), direct.filter(|_| is_it)));
        }
        let direct = self.direct.as_ref()?.1.as_ref()?;
        let block = to_usize(BLOCK);
        self.buffer.resize(PIECE_BYTES + block, 0);
        let skip = self.buffer.as_ptr().align_offset(block);
        Some((direct, self.buffer.get_mut(skip..skip.checked_add(PIECE_BYTES)?)?))
    }
}

/// What is left of some parts.
struct Parts<'a> {
    parts: &'a [&'a [u8]],
    /// How much of the first one is taken.
    skip: usize,
}

impl<'a> Parts<'a> {
    /// The next bytes, as many as there are.
    fn take(&mut self, bytes: u64) -> Vec<&'a [u8]> {
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut taken = Vec::new();
        while left > 0
            && let Some((first, others)) = self.parts.split_first()
        {
            let (part, later) = first[self.skip..].split_at(left.min(first.len() - self.skip));
            taken.push(part);
            left -= part.len();
            if later.is_empty() {
                (self.parts, self.skip) = (others, 0);
            } else {
                self.skip += part.len();
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MemDisk;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is written stands where a plain write would have put it, and nothing beside it.
        #[test]
        fn the_same_as_a_plain_write(
            lengths in proptest::collection::vec(
                prop_oneof![0..200_usize, 4000..4200_usize, 0..300_000_usize, Just(PIECE_BYTES)],
                0..8,
            ),
            offset in prop_oneof![0..9000_u64, Just(4096)],
            beyond in 0..4096_usize,
        ) {
            let parts: Vec<Vec<u8>> = (1_u8..).zip(&lengths).map(|(n, len)| vec![n; *len]).collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let bytes: usize = lengths.iter().sum();
            let end = offset + bytes.saturating_sub(beyond) as u64;
            let mut disk = MemDisk::new();
            let mut written = Vec::new();
            for name in ["plain", "bulk"] {
                let file = disk.create(name).unwrap();
                file.write_at(&vec![0xff; 4_000_000], 0).unwrap();
                if name == "plain" {
                    file.write_pieces_at(&parts, offset).unwrap();
                } else {
                    let mut bulk = Bulk::default();
                    let much = bulk.write(&disk, (&file, name), &parts, offset, end).unwrap();
                    prop_assert_eq!(much, bytes >= PIECE_BYTES);
                }
                let mut found = vec![0; 4_000_000];
                prop_assert_eq!(file.read_at(&mut found, 0).unwrap(), found.len());
                written.push(found);
            }
            prop_assert!(written[0] == written[1]);
        }
    }
}
