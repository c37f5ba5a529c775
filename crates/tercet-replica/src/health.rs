//! Whether the disk is as fast as it usually is. A disk that fails outright stops the node; one that
//! is merely slow would hold up a whole cluster through its leader, and nothing in Raft minds.

use std::collections::VecDeque;
use std::time::Duration;

use tercet_raft::Time;

/// How many of the latest syncs say what is usual.
const KEPT: usize = 512;
/// Fewer say nothing.
const KNOWN: usize = 64;
/// The median is taken anew after so many syncs.
const MEDIAN_EVERY: usize = 64;
/// So many times slower than usual is slow …
const FACTOR: u32 = 10;
/// … if it is at least this: below, nobody is held up.
const SLOW_MIN: Duration = Duration::from_millis(10);
/// For so long every sync must have been slow.
const SLOW_FOR: Duration = Duration::from_secs(2);
/// A node does not hand leadership over for it more often than this.
const HAND_OVER_EVERY: Duration = Duration::from_secs(60);

/// A disk that has become slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlowDisk {
    /// What a sync usually takes: the median of the latest ones.
    pub usual: Duration,
    /// What the latest one took.
    pub latest: Duration,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct DiskHealth {
    latest: VecDeque<Duration>,
    since_median: usize,
    median: Option<Duration>,
    slow_since: Option<Time>,
    slow: Option<SlowDisk>,
    handed_over_at: Option<Time>,
}

impl DiskHealth {
    /// A sync that ended now took so long. Says what is news: slow now, or as usual again.
    pub(crate) fn note(&mut self, now: Time, took: Duration) -> Option<Option<SlowDisk>> {
        self.latest.push_back(took);
        if self.latest.len() > KEPT {
            self.latest.pop_front();
        }
        self.since_median += 1;
        if self.latest.len() >= KNOWN
            && (self.since_median >= MEDIAN_EVERY || self.median.is_none())
        {
            self.since_median = 0;
            let mut sorted: Vec<Duration> = self.latest.iter().copied().collect();
            let middle = sorted.len() / 2;
            self.median = Some(*sorted.select_nth_unstable(middle).1);
        }
        let usual = self.median?;
        if took < SLOW_MIN || took < usual * FACTOR {
            self.slow_since = None;
            return self.slow.take().map(|_| None);
        }
        let began = Time(now.0.saturating_sub(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)));
        let since = *self.slow_since.get_or_insert(began);
        if now.since(since) < SLOW_FOR {
            return None;
        }
        let was_slow = self.slow.replace(SlowDisk { usual, latest: took }).is_some();
        (!was_slow).then_some(self.slow)
    }

    pub(crate) const fn slow(&self) -> Option<SlowDisk> {
        self.slow
    }

    /// Whether a leader should hand over now because of it; counts as done if so.
    pub(crate) fn should_hand_over(&mut self, now: Time) -> bool {
        let is_due = self.handed_over_at.is_none_or(|at| now.since(at) >= HAND_OVER_EVERY);
        let should = self.slow.is_some() && is_due;
        if should {
            self.handed_over_at = Some(now);
        }
        should
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Syncs of these many milliseconds, one after the other without a pause.
    fn run(
        health: &mut DiskHealth,
        now: &mut Time,
        ms: u64,
        count: usize,
    ) -> Vec<Option<SlowDisk>> {
        let took = Duration::from_millis(ms);
        let mut news = Vec::new();
        for _ in 0..count {
            *now = now.after(took);
            news.extend(health.note(*now, took));
        }
        news
    }

    #[test]
    fn slow_for_two_seconds_is_slow_and_once_as_usual_is_not() {
        let (mut health, mut now) = (DiskHealth::default(), Time(1));
        assert!(run(&mut health, &mut now, 1, 200).is_empty());
        assert!(run(&mut health, &mut now, 50, 39).is_empty(), "1.95 s are not enough");
        let news = run(&mut health, &mut now, 50, 1);
        let slow = SlowDisk { usual: Duration::from_millis(1), latest: Duration::from_millis(50) };
        assert_eq!(news, [Some(slow)]);
        assert!(run(&mut health, &mut now, 60, 10).is_empty(), "no news twice");
        assert!(health.should_hand_over(now));
        assert!(!health.should_hand_over(now), "not again so soon");
        assert_eq!(run(&mut health, &mut now, 1, 3), [None]);
        assert_eq!(health.slow(), None);
    }

    #[test]
    fn one_long_stall_is_slow() {
        let (mut health, mut now) = (DiskHealth::default(), Time(1));
        run(&mut health, &mut now, 1, 100);
        assert_eq!(run(&mut health, &mut now, 2500, 1).len(), 1);
    }

    #[test]
    fn a_hiccup_a_disk_that_is_always_slow_and_a_new_node_are_not() {
        let (mut health, mut now) = (DiskHealth::default(), Time(1));
        assert!(run(&mut health, &mut now, 40, 400).is_empty(), "that is what it always takes");
        let mut health = DiskHealth::default();
        run(&mut health, &mut now, 1, 100);
        for _ in 0..50 {
            assert!(run(&mut health, &mut now, 100, 3).is_empty());
            assert!(run(&mut health, &mut now, 1, 1).is_empty(), "in between it is as usual");
        }
        let mut health = DiskHealth::default();
        assert!(run(&mut health, &mut now, 500, 20).is_empty(), "nothing is usual yet");
    }

    #[test]
    fn slow_for_good_becomes_usual() {
        let (mut health, mut now) = (DiskHealth::default(), Time(1));
        run(&mut health, &mut now, 1, KEPT);
        assert_eq!(run(&mut health, &mut now, 20, 2 * KEPT).last(), Some(&None));
    }
}
