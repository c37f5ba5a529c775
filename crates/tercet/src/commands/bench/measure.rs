//! What the workers saw, second by second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The longest latency that is told apart, in microseconds; what took longer counts as this.
const LONGEST_US: u64 = 60_000_000;

/// Latencies in microseconds, with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("these bounds are fine")
}

/// What came in some time.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) latency: Histogram<u64>,
    pub(super) records: u64,
    pub(super) errors: BTreeMap<String, u64>,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { latency: histogram(), records: 0, errors: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, more: Self) {
        self.latency.add(&more.latency).expect("the bounds are the same");
        self.records += more.records;
        for (why, count) in more.errors {
            *self.errors.entry(why).or_default() += count;
        }
    }
}

/// Where the workers of a thread put what they see.
#[derive(Clone, Debug)]
pub(super) struct Desk(Arc<Mutex<Seen>>);

impl Desk {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Seen::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many records were acknowledged, or arrived; the request was to begin then.
    pub(super) fn done(&self, intended: Instant, records: usize) {
        self.took(intended.elapsed(), records);
    }

    pub(super) fn took(&self, latency: Duration, records: usize) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut seen = self.lock();
        seen.latency.saturating_record(us.max(1));
        seen.records += records as u64;
    }

    pub(super) fn failed(&self, why: &str) {
        *self.lock().errors.entry(why.to_owned()).or_default() += 1;
    }

    pub(super) fn take(&self) -> Seen {
        std::mem::replace(&mut *self.lock(), Seen::new())
    }
}

/// One second of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Second {
    /// When it ended, in seconds since the measuring began.
    pub(super) at: f64,
    pub(super) records: u64,
    pub(super) records_per_second: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
    pub(super) errors: u64,
}

/// All of a run after its warm-up.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) seen: Seen,
    pub(super) seconds: Vec<Second>,
    pub(super) took: Duration,
}

impl Measured {
    pub(super) fn new() -> Self {
        Self { seen: Seen::new(), seconds: Vec::new(), took: Duration::ZERO }
    }

    /// Adds what came until then.
    pub(super) fn add(&mut self, seen: Seen, until: Duration) -> &Second {
        let length = until.saturating_sub(self.took).as_secs_f64();
        let second = Second {
            at: until.as_secs_f64(),
            records: seen.records,
            records_per_second: per_second(seen.records, length),
            p50_us: seen.latency.value_at_quantile(0.5),
            p99_us: seen.latency.value_at_quantile(0.99),
            max_us: seen.latency.max(),
            errors: seen.errors.values().sum(),
        };
        self.seen.add(seen);
        self.took = until;
        self.seconds.push(second);
        self.seconds.last().expect("it was just added")
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate is shown with a few digits")]
pub(super) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_start_counts_as_waiting() {
        let desk = Desk::new();
        desk.done(Instant::now() - Duration::from_millis(250), 3);
        desk.failed("NO_LEADER");
        let mut measured = Measured::new();
        let second = measured.add(desk.take(), Duration::from_secs(1)).clone();
        assert!((250_000..300_000).contains(&second.p50_us), "{second:?}");
        assert_eq!((second.records, second.errors), (3, 1));
        // What was taken is not there twice.
        let second = measured.add(desk.take(), Duration::from_secs(2)).clone();
        assert_eq!((second.records, second.max_us), (0, 0));
        assert_eq!((measured.seen.records, measured.seen.latency.len()), (3, 1));
        assert!((second.at - 2.0).abs() < 1e-9);
    }

    #[test]
    fn hours_are_counted_as_the_longest() {
        let desk = Desk::new();
        desk.took(Duration::from_secs(7200), 1);
        assert!(desk.take().latency.max() >= LONGEST_US);
    }
}
