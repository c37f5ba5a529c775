//! Which requests the log holds: what makes a retry harmless.
//!
//! The window is a function of the log, not of what was applied: a leader that holds a request's
//! entry, committed or not, never appends it again, but waits for that entry. So no request id is
//! twice in any log, whoever leads, and readers need not look for repetitions.
//!
//! ```text
//! log:      … │ forgotten │ remembered, committed │ remembered, not committed │
//!                         ▲ at most `count_max` entries and `age_max` of log time before `last`
//! ```

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

/// Where a request's records stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) index: u64,
    pub(crate) first_seq: u64,
    pub(crate) record_count: u32,
    /// Tells another request with the same id apart.
    pub(crate) digest: u32,
}

/// The bounds of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WindowLimits {
    pub(crate) count_max: usize,
    /// In milliseconds of log time.
    pub(crate) age_max_ms: u64,
}

impl Default for WindowLimits {
    fn default() -> Self {
        Self { count_max: 1 << 18, age_max_ms: 24 * 60 * 60 * 1000 }
    }
}

/// A request id, as it is kept: an integer of this size would be aligned, and take more. The highest
/// byte stands first, so that ids that tell their time go in at one end of the map and out at the
/// other.
type Id = [u8; 16];

#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    by_id: BTreeMap<Id, Seen>,
    /// In log order: (index, id, log time). The same ids as `by_id`.
    order: VecDeque<(u64, Id, u64)>,
    /// The log time of the newest request that was forgotten: ids made before it may be too old to
    /// be known here.
    horizon_ms: u64,
}

impl Window {
    pub(crate) fn find(&self, id: u128) -> Option<Seen> {
        self.by_id.get(&id.to_be_bytes()).copied()
    }

    pub(crate) const fn horizon_ms(&self) -> u64 {
        self.horizon_ms
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// An entry was appended to the log.
    pub(crate) fn insert(&mut self, id: u128, time_ms: u64, seen: Seen) {
        assert!(
            self.order.back().is_none_or(|(last, ..)| *last < seen.index),
            "entry {} follows the window's last",
            seen.index
        );
        // A log in which an id stands twice was written by another program: the first one counts,
        // as it did for the client.
        let id = id.to_be_bytes();
        if let Entry::Vacant(place) = self.by_id.entry(id) {
            place.insert(seen);
            self.order.push_back((seen.index, id, time_ms));
        }
    }

    /// An entry in mid-log, whose request was not known, is whole again.
    pub(crate) fn insert_between(&mut self, id: u128, time_ms: u64, seen: Seen) {
        let id = id.to_be_bytes();
        if let Entry::Vacant(place) = self.by_id.entry(id) {
            place.insert(seen);
            let at = self.order.partition_point(|(index, ..)| *index < seen.index);
            self.order.insert(at, (seen.index, id, time_ms));
        }
    }

    /// The log was cut from `from` on.
    pub(crate) fn truncate(&mut self, from: u64) {
        while let Some((index, id, _)) = self.order.back().copied() {
            if index < from {
                break;
            }
            self.order.pop_back();
            self.by_id.remove(&id);
        }
    }

    /// Requests of this log time and before were forgotten in an earlier life.
    pub(crate) fn forget_before(&mut self, time_ms: u64) {
        self.horizon_ms = self.horizon_ms.max(time_ms);
    }

    /// Forgets what the limits no longer keep. Only entries up to `applied` go: those behind it
    /// may yet be cut, and what they pushed out would be missing then.
    pub(crate) fn forget(&mut self, applied: u64, limits: WindowLimits) {
        let newest = self.order.back().map_or(0, |(.., time)| *time);
        while let Some((index, id, time_ms)) = self.order.front().copied() {
            let old = newest.saturating_sub(time_ms) > limits.age_max_ms;
            if index > applied || (self.order.len() <= limits.count_max && !old) {
                break;
            }
            self.order.pop_front();
            self.by_id.remove(&id);
            self.horizon_ms = self.horizon_ms.max(time_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(index: u64) -> Seen {
        Seen { index, first_seq: index * 10, record_count: 1, digest: 7 }
    }

    #[test]
    fn what_was_cut_is_unknown_and_may_come_again() {
        let mut window = Window::default();
        for index in 1..=5 {
            window.insert(u128::from(index) + 100, index, seen(index));
        }
        window.truncate(4);
        assert_eq!(window.find(103), Some(seen(3)));
        assert_eq!(window.find(104), None);
        window.insert(104, 9, seen(4));
        assert_eq!(window.find(104), Some(seen(4)));
    }

    #[test]
    fn only_applied_entries_are_forgotten() {
        let limits = WindowLimits { count_max: 2, age_max_ms: 1000 };
        let mut window = Window::default();
        for index in 1..=6 {
            window.insert(u128::from(index), index, seen(index));
        }
        window.forget(3, limits);
        assert_eq!((window.find(3), window.find(4)), (None, Some(seen(4))));
        assert_eq!(window.len(), 3, "entries 4 to 6 may yet be cut");
        assert_eq!(window.horizon_ms(), 3);
        window.forget(6, limits);
        assert_eq!((window.find(4), window.find(5)), (None, Some(seen(5))));
    }

    /// The dumb window: a list.
    #[derive(Default)]
    struct List(Vec<(u128, u64, Seen)>);

    impl List {
        fn find(&self, id: u128) -> Option<Seen> {
            self.0.iter().find(|(other, ..)| *other == id).map(|(.., seen)| *seen)
        }
    }

    proptest! {
        #[test]
        fn it_is_as_a_list_is(
            // What is done (append, cut, forget, repair), and with which id or entry.
            steps in prop::collection::vec((0..10u8, 0..40u128), 1..400),
        ) {
            let limits = WindowLimits { count_max: 12, age_max_ms: u64::MAX };
            let mut window = Window::default();
            let (mut list, mut last) = (List::default(), 0);
            for (step, n) in steps {
                let index = u64::try_from(n).unwrap();
                match step {
                    0..=5 => {
                        last += 2;
                        window.insert(n << 64 | n, last, seen(last));
                        if list.find(n << 64 | n).is_none() {
                            list.0.push((n << 64 | n, last, seen(last)));
                        }
                    }
                    6 => {
                        let from = last.saturating_sub(index / 4);
                        window.truncate(from);
                        list.0.retain(|(.., seen)| seen.index < from);
                        last = last.min(from.saturating_sub(1));
                    }
                    7 | 8 => {
                        let applied = last.saturating_sub(index / 8);
                        window.forget(applied, limits);
                        while list.0.len() > limits.count_max && list.0[0].2.index <= applied {
                            list.0.remove(0);
                        }
                    }
                    _ => {
                        // Between two that were appended, if nothing was repaired there yet.
                        let between = (last.saturating_sub(index)) | 1;
                        if list.0.iter().all(|(.., seen)| seen.index != between) {
                            window.insert_between(n, between, seen(between));
                            if list.find(n).is_none() {
                                let at = list.0.partition_point(|(.., s)| s.index < between);
                                list.0.insert(at, (n, between, seen(between)));
                                last = last.max(between);
                            }
                        }
                    }
                }
                prop_assert_eq!(window.len(), list.0.len());
                for n in 0..40 {
                    for id in [n, n << 64 | n] {
                        prop_assert_eq!(window.find(id), list.find(id));
                    }
                }
            }
        }
    }

    #[test]
    fn what_an_earlier_life_forgot_stays_forgotten() {
        let mut window = Window::default();
        window.forget_before(70);
        window.forget_before(60);
        window.insert(1, 80, seen(9));
        assert_eq!((window.find(1), window.horizon_ms()), (Some(seen(9)), 70));
    }

    #[test]
    fn old_log_time_is_forgotten() {
        let limits = WindowLimits { count_max: 100, age_max_ms: 50 };
        let mut window = Window::default();
        window.insert(1, 1000, seen(1));
        window.insert(2, 1040, seen(2));
        window.insert(3, 1060, seen(3));
        window.forget(3, limits);
        assert_eq!((window.find(1), window.find(2)), (None, Some(seen(2))));
    }
}
