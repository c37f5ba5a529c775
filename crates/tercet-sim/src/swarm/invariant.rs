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
    /// What the nodes do is what the model of the protocol allows.
    Model,
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
            Self::Model => "the model of the protocol",
            Self::Determinism => "determinism",
        }
    }
}

/// What the replicas assert by themselves, by words of the assertion.
const ASSERTED: &[(&str, Invariant)] = &[
    ("Election Safety", Invariant::ElectionSafety),
    ("one vote per term", Invariant::ElectionSafety),
    ("Leader Append-Only", Invariant::LeaderAppendOnly),
    ("Log Matching", Invariant::LogMatching),
    ("differ in a committed entry", Invariant::StateMachineSafety),
    ("what is committed stays", Invariant::StateMachineSafety),
    ("would cut entry", Invariant::Monotonicity),
    ("never cut", Invariant::Monotonicity),
    ("terms do not go back", Invariant::Monotonicity),
    ("no entry is of a later term", Invariant::Monotonicity),
];

impl Invariant {
    /// Which invariant an assertion of a replica guards.
    pub(crate) fn of_assertion(text: &str) -> Self {
        let known = ASSERTED.iter().find(|(words, _)| text.contains(words));
        known.map_or(Self::Replica, |(_, invariant)| *invariant)
    }

    /// Which invariant is broken when a replica says this, though nobody touched its disk.
    pub(crate) fn of_complaint(text: &str) -> Self {
        let misses = text.contains("had acknowledged") || text.contains("lost its memory");
        if misses { Self::Durability } else { Self::Replica }
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
pub type Found = Result<(), (Invariant, String)>;
