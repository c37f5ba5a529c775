//! The log as the core knows it: which term each index has, as runs.
//!
//! ```text
//!   index  1 2 3 4 5 6 7 8        runs: [1@1, 4@4, 6@5]   last: 8
//!   term   1 1 1 4 4 5 5 5        a run goes on until the next one begins
//! ```
//! Terms never decrease along a log, so there are at most as many runs as there were terms.

use crate::types::{Index, LogPos, Term};

/// Index → term.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TermMap {
    /// The first position of each run; terms and indexes both ascend.
    runs: Vec<LogPos>,
    last: Index,
}

impl TermMap {
    /// A map of these runs.
    ///
    /// # Panics
    /// If the runs do not ascend, or do not fit to `last`.
    pub fn new(runs: Vec<LogPos>, last: Index) -> Self {
        let ascending =
            |pair: &[LogPos]| pair[0].term < pair[1].term && pair[0].index < pair[1].index;
        assert!(runs.windows(2).all(ascending), "runs ascend: {runs:?}");
        assert_eq!(runs.first().map_or(0, |first| first.index.0), u64::from(last > Index::ZERO));
        assert!(runs.last().is_none_or(|run| run.index <= last), "the last run is in the log");
        Self { runs, last }
    }

    /// The last position; [`LogPos::ORIGIN`] if the log is empty.
    pub fn last(&self) -> LogPos {
        let term = self.runs.last().map_or(Term(0), |run| run.term);
        LogPos { term, index: self.last }
    }

    /// The term at `index`: 0 at index 0, `None` behind the last entry.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last {
            return None;
        }
        let run = self.runs.partition_point(|run| run.index <= index);
        Some(if run == 0 { Term(0) } else { self.runs[run - 1].term })
    }

    /// Whether the log holds this position.
    pub fn contains(&self, pos: LogPos) -> bool {
        self.term_at(pos.index) == Some(pos.term)
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// If the term is lower than the last one.
    pub fn push(&mut self, term: Term) {
        let last_term = self.last().term;
        assert!(
            term >= last_term && term > Term(0),
            "terms do not decrease: {term} after {last_term}"
        );
        self.last = self.last.next();
        if term > last_term {
            self.runs.push(LogPos { term, index: self.last });
        }
    }

    /// Cuts the entries from `from` on.
    pub fn truncate(&mut self, from: Index) {
        self.last = self.last.min(from.prev());
        while self.runs.last().is_some_and(|run| run.index > self.last) {
            self.runs.pop();
        }
    }

    /// The first index of the run that `index` is in.
    pub fn run_start(&self, index: Index) -> Index {
        let run = self.runs.partition_point(|run| run.index <= index);
        if run == 0 { Index::ZERO } else { self.runs[run - 1].index }
    }

    /// The last index of this term, if the log has entries of it.
    pub fn last_of(&self, term: Term) -> Option<Index> {
        let run = self.runs.binary_search_by_key(&term, |run| run.term).ok()?;
        Some(self.runs.get(run + 1).map_or(self.last, |next| next.index.prev()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Push(u64),
        Truncate(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0_u64..3).prop_map(Op::Push),
            1 => (0_u64..40).prop_map(Op::Truncate),
        ]
    }

    proptest! {
        /// Against a plain list of terms.
        #[test]
        fn the_same_as_a_list(ops in proptest::collection::vec(op(), 0..80)) {
            let mut map = TermMap::default();
            let mut list: Vec<u64> = Vec::new();
            for op in ops {
                match op {
                    Op::Push(more) => {
                        let term = list.last().copied().unwrap_or(1) + more;
                        map.push(Term(term));
                        list.push(term);
                    }
                    Op::Truncate(from) => {
                        map.truncate(Index(from));
                        list.truncate(usize::try_from(from.max(1) - 1).unwrap());
                    }
                }
                let last = list.len() as u64;
                prop_assert_eq!(map.last(), LogPos::new(list.last().copied().unwrap_or(0), last));
                for index in 1..=last {
                    let at = |i: u64| list[usize::try_from(i - 1).unwrap()];
                    prop_assert_eq!(map.term_at(Index(index)), Some(Term(at(index))));
                    let start = (1..=index).find(|i| at(*i) == at(index)).unwrap();
                    prop_assert_eq!(map.run_start(Index(index)), Index(start));
                }
                prop_assert_eq!(map.term_at(Index(last + 1)), None);
                prop_assert_eq!(map.term_at(Index(0)), Some(Term(0)));
                for term in 1..60 {
                    let dumb = list.iter().rposition(|t| *t == term).map(|at| Index(at as u64 + 1));
                    prop_assert_eq!(map.last_of(Term(term)), dumb);
                }
            }
        }
    }
}
