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
use std::mem;

use hashbrown::HashTable;
use tercet_wal::{Entry, EntryHeader};

use crate::record::request_of;

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

/// How many requests share a table of ids. A table is small enough to stay in the processor's caches
/// while it fills, and there are few of them: an id that does not tell its time is looked for in
/// each.
const GENERATION: usize = if cfg!(test) { 4 } else { 1 << 14 };

/// A request of the log.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u128,
    /// Log time.
    pub(crate) time_ms: u64,
    pub(crate) seen: Seen,
}

impl Request {
    pub(crate) fn new(id: u128, digest: u32, header: &EntryHeader) -> Self {
        let EntryHeader { index, first_seq, record_count, time_ms, .. } = *header;
        Self { id, time_ms, seen: Seen { index, first_seq, record_count, digest } }
    }

    /// The request that made an entry, if it has one.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        if entry.header.record_count == 0 {
            return None;
        }
        let (id, digest) = request_of(entry).ok()?;
        Some(Self::new(id, digest, &entry.header))
    }
}

/// A run of the log's requests.
#[derive(Clone, Debug, Default)]
struct Generation {
    /// In log order.
    requests: Vec<Request>,
    /// Where in `requests` an id is.
    by_id: HashTable<u16>,
    /// No id is below or above these. Most ids begin with the time at which they were made: what is
    /// new is in no older generation, and this tells without a look.
    lowest: u128,
    highest: u128,
}

const _: () = assert!(2 * GENERATION <= 1 << 16, "a place has 16 bits");

/// Spreads ids over a table, on all nodes and in all runs alike: nothing goes through a table in its
/// order. Ids that were made to collide cost the length of one generation, not that of the window.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a number")]
fn hash_of(id: u128) -> u64 {
    let (low, high) = (id as u64, (id >> 64) as u64);
    let product =
        u128::from(low ^ 0x9e37_79b9_7f4a_7c15) * u128::from(high ^ 0xd1b5_4a32_d192_ed03);
    product as u64 ^ (product >> 64) as u64
}

/// The ids of one batch.
#[derive(Debug)]
pub(crate) struct Ids(HashTable<u128>);

impl Ids {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self(HashTable::with_capacity(count))
    }

    pub(crate) fn contains(&self, id: u128) -> bool {
        self.0.find(hash_of(id), |other| *other == id).is_some()
    }

    pub(crate) fn insert(&mut self, id: u128) {
        self.0.insert_unique(hash_of(id), id, |other| hash_of(*other));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Generation {
    fn at(&self, place: u16) -> &Request {
        &self.requests[usize::from(place)]
    }

    /// The request with this id, if it is one of those from `from` on.
    fn find(&self, id: u128, hash: u64, from: usize) -> Option<&Request> {
        if id < self.lowest || id > self.highest {
            return None;
        }
        let is_it = |place: &u16| usize::from(*place) >= from && self.at(*place).id == id;
        self.by_id.find(hash, is_it).map(|place| self.at(*place))
    }

    fn push(&mut self, request: Request) {
        self.requests.push(request);
        self.note(self.requests.len() - 1);
    }

    fn note(&mut self, place: usize) {
        let id = self.requests[place].id;
        if self.by_id.is_empty() {
            (self.lowest, self.highest) = (id, id);
        }
        (self.lowest, self.highest) = (self.lowest.min(id), self.highest.max(id));
        let place = u16::try_from(place).expect("a longer generation is split");
        let requests = &self.requests;
        self.by_id
            .insert_unique(hash_of(id), place, |other| hash_of(requests[usize::from(*other)].id));
    }

    fn pop(&mut self) {
        if let Some(request) = self.requests.pop() {
            let is_it = |place: &u16| usize::from(*place) == self.requests.len();
            let place = self.by_id.find_entry(hash_of(request.id), is_it);
            place.expect("each request is in the table").remove();
        }
    }

    fn note_all(&mut self) {
        self.by_id.clear();
        (0..self.requests.len()).for_each(|place| self.note(place));
    }

    /// For the next generation: the memory stays.
    fn clear(&mut self) {
        self.requests.clear();
        self.by_id.clear();
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// In log order. In each is a request that is remembered: the oldest generation goes as a whole,
    /// when its last request is forgotten. To take each id out of a table that nobody looked at
    /// since it came would cost more than all else here.
    generations: VecDeque<Generation>,
    /// How many requests of the oldest generation are forgotten.
    forgotten: usize,
    /// How many requests are remembered.
    len: usize,
    /// The log time of the newest request that was forgotten: ids made before it may be too old to
    /// be known here.
    horizon_ms: u64,
    /// No id but those of the newest generation is above this.
    older_highest: u128,
    /// The generation that went last.
    spare: Generation,
}

impl Window {
    pub(crate) fn find(&self, id: u128) -> Option<Seen> {
        let hash = hash_of(id);
        let from = |generation| if generation == 0 { self.forgotten } else { 0 };
        // The newest first: who asks again asks soon.
        let mut generations = self.generations.iter().enumerate().rev();
        let newest = generations.next().and_then(|(n, newest)| newest.find(id, hash, from(n)));
        let request = match newest {
            None if id <= self.older_highest => {
                generations.find_map(|(n, older)| older.find(id, hash, from(n)))
            }
            newest => newest,
        };
        request.map(|request| request.seen)
    }

    pub(crate) const fn horizon_ms(&self) -> u64 {
        self.horizon_ms
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    fn newest(&self) -> Option<&Request> {
        self.generations.back()?.requests.last()
    }

    /// An entry was appended to the log.
    pub(crate) fn insert(&mut self, request: Request) {
        let index = request.seen.index;
        assert!(
            self.newest().is_none_or(|last| last.seen.index < index),
            "entry {index} follows the window's last"
        );
        // A log in which an id stands twice was written by another program: the first one counts,
        // as it did for the client.
        if self.find(request.id).is_none() {
            self.push(request);
        }
    }

    fn push(&mut self, request: Request) {
        self.len += 1;
        match self.generations.back_mut() {
            Some(newest) if newest.requests.len() < GENERATION => newest.push(request),
            _ => {
                let mut newest = mem::take(&mut self.spare);
                newest.push(request);
                self.generations.push_back(newest);
                self.note_older();
            }
        }
    }

    /// An entry in mid-log, whose request was not known, is whole again.
    pub(crate) fn insert_between(&mut self, request: Request) {
        if self.find(request.id).is_some() {
            return;
        }
        let index = request.seen.index;
        let is_before = |other: &Request| other.seen.index < index;
        let at = self.generations.partition_point(|it| it.requests.last().is_some_and(is_before));
        let Some(generation) = self.generations.get_mut(at) else {
            return self.push(request);
        };
        self.len += 1;
        if at == 0 {
            generation.requests.drain(..mem::take(&mut self.forgotten));
        }
        let place = generation.requests.partition_point(is_before);
        generation.requests.insert(place, request);
        if generation.requests.len() == 2 * GENERATION {
            let requests = generation.requests.split_off(GENERATION);
            let mut second = Generation { requests, ..Generation::default() };
            second.note_all();
            generation.note_all();
            self.generations.insert(at + 1, second);
        } else {
            generation.note_all();
        }
        self.note_older();
    }

    fn note_older(&mut self) {
        let older = self.generations.iter().rev().skip(1).map(|older| older.highest);
        self.older_highest = older.max().unwrap_or(0);
    }

    /// The log was cut from `from` on.
    pub(crate) fn truncate(&mut self, from: u64) {
        while self.len > 0 && self.newest().is_some_and(|last| last.seen.index >= from) {
            self.len -= 1;
            if let Some(newest) = self.generations.back_mut() {
                newest.pop();
            }
            self.drop_what_nobody_knows();
        }
    }

    /// Requests of this log time and before were forgotten in an earlier life.
    pub(crate) fn forget_before(&mut self, time_ms: u64) {
        self.horizon_ms = self.horizon_ms.max(time_ms);
    }

    /// Forgets what the limits no longer keep. Only entries up to `applied` go: those behind it
    /// may yet be cut, and what they pushed out would be missing then.
    pub(crate) fn forget(&mut self, applied: u64, limits: WindowLimits) {
        let newest = self.newest().map_or(0, |last| last.time_ms);
        while let Some(oldest) = self.generations.front() {
            let Request { time_ms, seen, .. } = oldest.requests[self.forgotten];
            let old = newest.saturating_sub(time_ms) > limits.age_max_ms;
            if seen.index > applied || (self.len <= limits.count_max && !old) {
                break;
            }
            self.horizon_ms = self.horizon_ms.max(time_ms);
            self.forgotten += 1;
            self.len -= 1;
            self.drop_what_nobody_knows();
        }
    }

    /// A generation of which nothing is remembered goes.
    fn drop_what_nobody_knows(&mut self) {
        let oldest = self.generations.front().map(|oldest| oldest.requests.len());
        let gone = if oldest == Some(self.forgotten) {
            self.forgotten = 0;
            self.generations.pop_front()
        } else {
            self.generations.pop_back_if(|newest| newest.requests.is_empty())
        };
        if let Some(gone) = gone {
            self.spare = gone;
            self.spare.clear();
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

    fn request(id: u128, time_ms: u64, index: u64) -> Request {
        Request { id, time_ms, seen: seen(index) }
    }

    #[test]
    fn what_was_cut_is_unknown_and_may_come_again() {
        let mut window = Window::default();
        for index in 1..=5 {
            window.insert(request(u128::from(index) + 100, index, index));
        }
        window.truncate(4);
        assert_eq!(window.find(103), Some(seen(3)));
        assert_eq!(window.find(104), None);
        window.insert(request(104, 9, 4));
        assert_eq!(window.find(104), Some(seen(4)));
    }

    #[test]
    fn only_applied_entries_are_forgotten() {
        let limits = WindowLimits { count_max: 2, age_max_ms: 1000 };
        let mut window = Window::default();
        for index in 1..=6 {
            window.insert(request(u128::from(index), index, index));
        }
        window.forget(3, limits);
        assert_eq!((window.find(3), window.find(4)), (None, Some(seen(4))));
        assert_eq!(window.len(), 3, "entries 4 to 6 may yet be cut");
        assert_eq!(window.horizon_ms(), 3);
        window.forget(6, limits);
        assert_eq!((window.find(4), window.find(5)), (None, Some(seen(5))));
    }

    #[test]
    fn all_are_found_when_repairs_split_the_newest_generation() {
        let mut window = Window::default();
        let indexes = (1..).step_by(10).take(GENERATION);
        indexes.for_each(|index| window.insert(request(1000 - u128::from(index), 1, index)));
        for index in 2..10 {
            window.insert_between(request(u128::from(index), 1, index));
            for id in 2..=u128::from(index) {
                assert_eq!(window.find(id).map(|seen| u128::from(seen.index)), Some(id));
            }
            assert_eq!(window.find(999), Some(seen(1)));
        }
        assert_eq!(window.len(), GENERATION + 8);
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
            steps in prop::collection::vec((0..14u8, 0..40u128), 1..400),
        ) {
            let limits = WindowLimits { count_max: 12, age_max_ms: u64::MAX };
            let mut window = Window::default();
            let (mut list, mut last) = (List::default(), 0);
            for (step, n) in steps {
                let index = u64::try_from(n).unwrap();
                match step {
                    0..=5 => {
                        last += 2;
                        window.insert(request(n << 64 | n, last, last));
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
                        let between = last.saturating_sub(index / 2) | 1;
                        if list.0.iter().all(|(.., seen)| seen.index != between) {
                            window.insert_between(request(n, between, between));
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
        window.insert(request(1, 80, 9));
        assert_eq!((window.find(1), window.horizon_ms()), (Some(seen(9)), 70));
    }

    #[test]
    fn old_log_time_is_forgotten() {
        let limits = WindowLimits { count_max: 100, age_max_ms: 50 };
        let mut window = Window::default();
        window.insert(request(1, 1000, 1));
        window.insert(request(2, 1040, 2));
        window.insert(request(3, 1060, 3));
        window.forget(3, limits);
        assert_eq!((window.find(1), window.find(2)), (None, Some(seen(2))));
    }
}
