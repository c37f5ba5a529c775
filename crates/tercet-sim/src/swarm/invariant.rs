//! What must hold, by name.

use std::fmt;
use std::time::Duration;

/// An invariant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Invariant {
    /// At most one leader in a term (Figure 3).
    ElectionSafety,
    /// A leader only appends (Figure 3).
    LeaderAppendOnly,
    /// Logs that agree at an index in the term agree before it (Figure 3).
    LogMatching,
    /// A leader has what was committed in earlier terms (Figure 3).
    LeaderCompleteness,
    /// What is committed at an index is the same everywhere, for ever (Figure 3).
    StateMachineSafety,
    /// What a node promised, and what is acknowledged, is on the platter, on a majority.
    Durability,
    /// A node's term, votes and commit index do not go back, whatever happens to its process.
    Monotonicity,
    /// A node without its memory counts nowhere.
    MutedNodes,
    /// The same log and the same `values.log` everywhere.
    Identity,
    /// What clients were told happened in one order, and in that of real time.
    Linearizability,
    /// A request is appended at most once.
    ExactlyOnce,
    /// A cluster serves if, and only if, a majority has its memory.
    Availability,
    /// A healed cluster has a leader, commits and agrees in time.
    Liveness,
    /// A replica goes on unless its disk fails it, and never asserts what is not so.
    Replica,
    /// The same seed gives the same run.
    Determinism,
}

impl Invariant {
    /// Its name, in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ElectionSafety => "election safety",
            Self::LeaderAppendOnly => "leader append-only",
            Self::LogMatching => "log matching",
            Self::LeaderCompleteness => "leader completeness",
            Self::StateMachineSafety => "state machine safety",
            Self::Durability => "durability",
            Self::Monotonicity => "nothing goes back",
            Self::MutedNodes => "muted nodes count nowhere",
            Self::Identity => "identical on all nodes",
            Self::Linearizability => "linearizability",
            Self::ExactlyOnce => "exactly once",
            Self::Availability => "availability",
            Self::Liveness => "liveness",
            Self::Replica => "a replica goes on",
            Self::Determinism => "determinism",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An invariant that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which.
    pub invariant: Invariant,
    /// What contradicts what.
    pub text: String,
    /// When, counted from the start.
    pub at: Duration,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

/// What a check finds.
pub(crate) type Found = Result<(), (Invariant, String)>;
