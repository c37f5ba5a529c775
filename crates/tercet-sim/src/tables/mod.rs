//! Tables of what becomes of a cluster when its disks lie: every case of a suite is played on whole
//! production replicas, and judged. The suites, and the figures of the systems in the right-hand
//! columns, are those of Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage"
//! (FAST 2018), with more faults and larger clusters.
//!
//! A case is a number: the same number is the same case for ever.

pub mod crash;
pub mod ctrl;
pub mod files;
mod image;
mod play;
pub mod wipe_matrix;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What became of a case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// All acknowledged entries are on all nodes, byte by byte, and the cluster works.
    Correct,
    /// The cluster commits nothing.
    Unavailable,
    /// An acknowledged entry is lost or another one, or nodes differ.
    Unsafe,
}

/// What became of a case, and whether that is what had to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What became of it.
    pub outcome: Outcome,
    /// Why this is a failure of the product, if it is one.
    pub miss: Option<String>,
}

impl Verdict {
    pub(crate) const fn good(outcome: Outcome) -> Self {
        Self { outcome, miss: None }
    }

    pub(crate) fn miss(outcome: Outcome, why: impl Into<String>) -> Self {
        Self { outcome, miss: Some(why.into()) }
    }
}

/// How many cases came out how.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Nothing was committed.
    pub unavailable: u64,
    /// Something acknowledged was lost or changed.
    pub not_safe: u64,
    /// All came back.
    pub correct: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.unavailable, self.not_safe, self.correct)
    }
}

/// One line of a table: cases that are alike.
pub struct Suite {
    /// Its name, for who wants to run just this.
    pub name: &'static str,
    /// What is done, in words.
    pub what: String,
    /// How many cases there are, from 0.
    pub cases: u64,
    /// What the paper reports of other systems, as unavailable/unsafe/correct; empty for none.
    pub reported: &'static str,
    /// Plays a case.
    pub play: Box<dyn Fn(u64) -> Verdict + Send + Sync>,
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("name", &self.name).field("cases", &self.cases).finish()
    }
}

impl Suite {
    /// Plays a case; that a replica asserts is what became of it, too.
    pub fn verdict(&self, case: u64) -> Verdict {
        catch_unwind(AssertUnwindSafe(|| (self.play)(case))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let text = text.unwrap_or_else(|| "without a word".to_owned());
            Verdict::miss(Outcome::Unavailable, format!("panicked: {text}"))
        })
    }

    /// The line of the table for the cases that were played.
    pub fn row(&self, verdicts: impl IntoIterator<Item = (u64, Verdict)>) -> Row {
        let mut row = Row {
            suite: self.name,
            what: self.what.clone(),
            reported: self.reported,
            of: self.cases,
            cases: 0,
            counts: Counts::default(),
            misses: Vec::new(),
        };
        for (case, verdict) in verdicts {
            row.cases += 1;
            match verdict.outcome {
                Outcome::Correct => row.counts.correct += 1,
                Outcome::Unavailable => row.counts.unavailable += 1,
                Outcome::Unsafe => row.counts.not_safe += 1,
            }
            row.misses.extend(verdict.miss.map(|why| (case, why)));
        }
        row.misses.sort();
        row
    }
}

/// What a line of a table says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The suite's name.
    pub suite: &'static str,
    /// What is done.
    pub what: String,
    /// What the paper reports of other systems.
    pub reported: &'static str,
    /// How many cases there are.
    pub of: u64,
    /// How many were played.
    pub cases: u64,
    /// How they came out.
    pub counts: Counts,
    /// The cases that did not come out as they had to, and why.
    pub misses: Vec<(u64, String)>,
}

/// All suites.
pub fn suites() -> Vec<Suite> {
    let mut suites = ctrl::suites();
    suites.extend(files::suites());
    suites.extend(crash::suites());
    suites.extend(wipe_matrix::suites());
    suites
}
