//! What must hold in every state, and across each step.

use std::fmt;

use tercet_raft::NodeId;

/// What was violated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Invariant {
    /// At most one leader per term (Figure 3).
    ElectionSafety,
    /// A node gives one vote per term (Figure 2), whatever it forgets.
    OneVotePerTerm,
    /// A leader only appends to its log (Figure 3).
    LeaderAppendOnly,
    /// Logs with the same entry are the same before it (Figure 3).
    LogMatching,
    /// What was committed is in the logs of the leaders of all later terms (Figure 3).
    LeaderCompleteness,
    /// No two nodes commit different entries at an index, and none takes one back (Figure 3).
    StateMachineSafety,
    /// What a leader commits is synced on a majority at that moment.
    Durability,
    /// A node that lost its memory speaks in no quorum.
    MutedNodesCountNowhere,
    /// An assertion of the core.
    Assertion,
}

impl Invariant {
    /// The name by which a script expects it, where it has one.
    pub const fn in_scripts(self) -> Option<&'static str> {
        match self {
            Self::ElectionSafety => Some("ElectionSafety"),
            Self::LeaderAppendOnly => Some("LeaderAppendOnly"),
            Self::LogMatching => Some("LogMatching"),
            Self::LeaderCompleteness => Some("LeaderCompleteness"),
            Self::StateMachineSafety => Some("StateMachineSafety"),
            Self::OneVotePerTerm
            | Self::Durability
            | Self::MutedNodesCountNowhere
            | Self::Assertion => None,
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ElectionSafety => "Election Safety",
            Self::OneVotePerTerm => "one vote per term",
            Self::LeaderAppendOnly => "Leader Append-Only",
            Self::LogMatching => "Log Matching",
            Self::LeaderCompleteness => "Leader Completeness",
            Self::StateMachineSafety => "State Machine Safety",
            Self::Durability => "durability",
            Self::MutedNodesCountNowhere => "muted nodes count nowhere",
            Self::Assertion => "assertion",
        })
    }
}

/// One violation, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// What.
    pub invariant: Invariant,
    /// Which nodes and entries.
    pub what: String,
}

impl Violation {
    /// A core that panicked.
    pub(crate) fn of_panic(node: NodeId, text: String) -> Self {
        let known = [
            ("one vote per term", Invariant::OneVotePerTerm),
            ("Leader Append-Only", Invariant::LeaderAppendOnly),
            ("would cut entry", Invariant::StateMachineSafety),
            ("what is committed stays", Invariant::StateMachineSafety),
        ];
        let found = known.iter().find(|(words, _)| text.contains(words));
        let invariant = found.map_or(Invariant::Assertion, |(_, invariant)| *invariant);
        Self { invariant, what: format!("{node} stops: {text}") }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}
