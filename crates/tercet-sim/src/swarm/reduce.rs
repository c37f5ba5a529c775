//! A run that failed, made smaller: fewer kinds of faults, fewer faults, an earlier end, fewer
//! clients. What stays is what it takes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::faults::Fault;
use super::invariant::Failure;
use super::options::{Limits, Options};
use super::run::{Outcome, run};

/// The smallest run found.
#[derive(Clone, Debug)]
pub struct Reduced {
    /// With these limits the seed fails.
    pub limits: Limits,
    /// How it fails so.
    pub failure: Failure,
    /// How many faults are left of how many.
    pub faults: (usize, usize),
    /// How many runs it took.
    pub runs: usize,
}

struct Search {
    seed: u64,
    best: Limits,
    failure: Failure,
    runs: usize,
    runs_max: usize,
}

impl Search {
    /// Takes over limits with which the same invariant is broken.
    fn accept(&mut self, limits: Limits) -> bool {
        if self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        let outcome = run(&Options::draw(self.seed, &limits));
        match outcome.failure {
            Some(failure) if failure.invariant == self.failure.invariant => {
                self.failure = failure;
                self.best = limits;
                true
            }
            Some(_) | None => false,
        }
    }

    fn plan(&self) -> Vec<(usize, Fault)> {
        let plan = Options::draw(self.seed, &self.best).plan;
        plan.iter().map(|planned| (planned.number, planned.fault)).collect()
    }

    fn keep(&mut self, numbers: BTreeSet<usize>) -> bool {
        self.accept(Limits { only: Some(numbers), until: None, ..self.best.clone() })
    }

    /// Whole kinds first, then halves, quarters … down to single ones.
    fn fewer_faults(&mut self) {
        for fault in Fault::all() {
            let plan = self.plan();
            let kept = plan.iter().filter(|(_, kind)| *kind != fault);
            let kept: BTreeSet<usize> = kept.map(|(number, _)| *number).collect();
            if kept.len() < plan.len() {
                self.keep(kept);
            }
        }
        let mut chunk = self.plan().len().div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            while from < self.plan().len() {
                let plan = self.plan();
                let kept = plan.iter().enumerate();
                let kept = kept.filter(|(at, _)| *at < from || *at >= from + chunk);
                let kept: BTreeSet<usize> = kept.map(|(_, (number, _))| *number).collect();
                if !self.keep(kept) {
                    from += chunk;
                }
            }
            chunk /= 2;
        }
    }
}

/// Makes a run that failed smaller; `runs_max` bounds the runs that this may take.
pub fn reduce(outcome: &Outcome, limits: &Limits, runs_max: usize) -> Option<Reduced> {
    let failure = outcome.failure.clone()?;
    let mut search =
        Search { seed: outcome.seed, best: limits.clone(), failure, runs: 0, runs_max };
    let before = search.plan().len();
    // What comes after the failure has no part in it.
    let until = search.failure.at;
    search.accept(Limits { until: Some(until), ..limits.clone() });
    search.fewer_faults();
    let options = Options::draw(search.seed, &search.best);
    // Either it ends soon after the last fault, or where it failed.
    let last = options.plan.last().map(|planned| planned.at).unwrap_or_default();
    for end in [last + Duration::from_secs(1), search.failure.at] {
        // Whole milliseconds, so that the end can be written down.
        let end = Duration::from_millis(u64::try_from(end.as_millis()).unwrap_or(0) + 1);
        if end < options.length
            && search.accept(Limits { length: Some(end), ..search.best.clone() })
        {
            break;
        }
    }
    for clients in 1..options.clients {
        if search.accept(Limits { clients: Some(clients), ..search.best.clone() }) {
            break;
        }
    }
    let after = search.plan().len();
    let Search { best, failure, runs, .. } = search;
    Some(Reduced { limits: best, failure, faults: (after, before), runs })
}
