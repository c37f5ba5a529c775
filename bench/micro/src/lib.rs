//! The paths that every record takes, a few steps at a time: the core's step, the codec of the links
//! between nodes, the log. Each bench is written once, here; `benches/time.rs` puts a clock on it,
//! and `cargo xtask bench-guard` counts its instructions by way of `main.rs`.
//!
//! The same input each time, no randomness, no threads, no files: the count of instructions is the
//! same in each run.

mod codec;
mod core;
mod wal;

use std::fmt;

/// One path, ready to be measured.
#[derive(Clone, Copy)]
pub struct Bench {
    /// What it is, as `part/what-it-does`.
    pub name: &'static str,
    /// What one run of it does, in words.
    pub what: &'static str,
    /// Makes everything that the path needs; what it gives is what is measured, and may be called
    /// once.
    pub prepare: fn() -> Box<dyn FnMut()>,
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them.
pub fn all() -> Vec<Bench> {
    [core::benches(), codec::benches(), wal::benches()].concat()
}

/// The bytes of the value `number`: 256, as in all our figures.
fn value(number: u64) -> [u8; 256] {
    std::array::from_fn(|at| (number.wrapping_mul(31).wrapping_add(at as u64) & 0xff) as u8)
}

/// An entry of term 1 with one value.
fn entry(index: u64) -> tercet_wal::Entry {
    let header = tercet_wal::EntryHeader {
        term: 1,
        index,
        first_seq: index,
        record_count: 1,
        kind: 1,
        flags: 0,
        log_id: 0,
        time_ms: 1,
        body_bytes: 0,
        crc: 0,
    };
    tercet_wal::Entry::new(&header, &[&value(index)])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// A bench that does nothing, or panics, measures nothing: each asserts what it did.
    #[test]
    fn each_does_what_it_says() {
        let benches = super::all();
        for bench in &benches {
            (bench.prepare)()();
        }
        let names: BTreeSet<&str> = benches.iter().map(|bench| bench.name).collect();
        assert_eq!(names.len(), benches.len(), "every name is there once");
    }
}
