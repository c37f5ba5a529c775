//! What the system keeps in memory of segments that are long written.
//!
//! Whoever reads a log from its beginning would fill the system's memory with it, for nobody, and
//! a page that is new there can cost more than to read it. So that memory is used again and again:
//! what was read last stays, for others who read there, and what was read before it goes.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What is kept and goes as one.
const PIECE_BYTES: u64 = 1 << 20;
/// So many of them are kept.
const PIECES: usize = 64;
/// What a system keeps as one, at most: it lets go only of what is named as a whole.
const FOLIO_BYTES: u64 = 2 << 20;

/// The pieces that were read last, of any of these files.
#[derive(Debug)]
pub(crate) struct CachedReads<F> {
    /// In the order in which they were first read.
    pieces: VecDeque<(Arc<F>, u64)>,
}

impl<F> Default for CachedReads<F> {
    fn default() -> Self {
        Self { pieces: VecDeque::new() }
    }
}

impl<F> CachedReads<F> {
    /// These bytes are about to be read; says what need not stay in memory for that.
    pub(crate) fn note(&mut self, file: &Arc<F>, bytes: Range<u64>) -> Vec<(Arc<F>, Range<u64>)> {
        let mut go = Vec::new();
        for number in bytes.start / PIECE_BYTES..bytes.end.div_ceil(PIECE_BYTES) {
            let is_this = |(of, known): &(Arc<F>, u64)| *known == number && Arc::ptr_eq(of, file);
            if self.pieces.iter().rev().any(is_this) {
                continue;
            }
            self.pieces.push_back((Arc::clone(file), number));
            if self.pieces.len() > PIECES {
                let (file, oldest) = self.pieces.pop_front().expect("there are more than none");
                let start = oldest * PIECE_BYTES;
                go.push((file, start.saturating_sub(FOLIO_BYTES)..start + PIECE_BYTES));
            }
        }
        go
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn who_reads_on_keeps_no_more_than_the_last_pieces() {
        let (file, mut cached) = (Arc::new("a"), CachedReads::default());
        let mut gone = Vec::new();
        for at in (0..100 * MIB).step_by(256 << 10) {
            let go = cached.note(&file, at..at + (256 << 10));
            gone.extend(go.into_iter().map(|(_, bytes)| bytes.end));
        }
        let expected: Vec<u64> = (1..=36).map(|mib| mib * MIB).collect();
        assert_eq!(gone, expected, "in the order in which they were read, each once");
    }

    #[test]
    fn what_two_read_stays_once_and_goes_once() {
        let (file, mut cached) = (Arc::new("a"), CachedReads::default());
        for mib in 0..64 {
            for _ in 0..2 {
                assert_eq!(cached.note(&file, mib * MIB + 7..mib * MIB + 100), []);
            }
        }
        let go = cached.note(&file, 64 * MIB..64 * MIB + 1);
        assert_eq!(go, [(Arc::clone(&file), 0..MIB)]);
        let go = cached.note(&file, 70 * MIB - 1..70 * MIB + 1);
        assert_eq!(go, [(Arc::clone(&file), 0..2 * MIB), (Arc::clone(&file), 0..3 * MIB)]);
    }

    #[test]
    fn files_are_told_apart_and_one_long_read_is_many_pieces() {
        let (one, other, mut cached) = (Arc::new("a"), Arc::new("a"), CachedReads::default());
        assert_eq!(cached.note(&one, 0..64 * MIB), []);
        let go = cached.note(&other, 0..2 * MIB);
        assert_eq!(go, [(Arc::clone(&one), 0..MIB), (Arc::clone(&one), 0..2 * MIB)]);
        assert!(go.iter().all(|(file, _)| Arc::ptr_eq(file, &one)));
        assert_eq!(cached.note(&other, 5..5), [], "nothing is read");
    }
}
