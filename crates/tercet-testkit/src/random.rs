//! Random numbers that a seed repeats: those of the simulator, and what tests with processes draw.

use std::time::Duration;

/// The same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random(tercet_sim::Random);

impl Random {
    /// The numbers of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(tercet_sim::Random::new(seed))
    }

    /// Any number.
    pub const fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// A number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
    }

    /// One of the nodes 1 to `count`.
    pub fn node(&mut self, count: usize) -> usize {
        1 + usize::try_from(self.below(count as u64)).expect("below a usize")
    }

    /// A time between two bounds, in milliseconds.
    pub const fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}
