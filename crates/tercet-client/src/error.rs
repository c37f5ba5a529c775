//! The error model, shared by server and clients: every error has a stable reason and says whether
//! the records were not appended or whether nobody can know.

use std::fmt;

/// Why a request failed. The names are stable and stand in every error, on every protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// `expect_next` is not the next sequence number.
    Conflict,
    /// No leader is known.
    NoLeader,
    /// This node does not lead, and forwarding was declined.
    NotLeader,
    /// Leadership was lost with the request under way.
    LeadershipLost,
    /// The caller's deadline passed.
    Deadline,
    /// Too much is under way.
    Overloaded,
    /// The disk is full.
    DiskFull,
    /// The request id was used before with other records.
    KeyReused,
    /// The request id is older than the window in which duplicates are known.
    KeyExpired,
    /// A value, a request or a body above its limit.
    TooLarge,
    /// A request that makes no sense.
    Invalid,
    /// The sequence number lies ahead.
    Future,
    /// The sequence number is no longer kept.
    Trimmed,
    /// This node lost its memory and knows no leader.
    Quarantined,
    /// The request is for another cluster.
    WrongCluster,
    /// Something failed inside the node.
    Internal,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 16] = [
        Self::Conflict,
        Self::NoLeader,
        Self::NotLeader,
        Self::LeadershipLost,
        Self::Deadline,
        Self::Overloaded,
        Self::DiskFull,
        Self::KeyReused,
        Self::KeyExpired,
        Self::TooLarge,
        Self::Invalid,
        Self::Future,
        Self::Trimmed,
        Self::Quarantined,
        Self::WrongCluster,
        Self::Internal,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "CONFLICT",
            Self::NoLeader => "NO_LEADER",
            Self::NotLeader => "NOT_LEADER",
            Self::LeadershipLost => "LEADERSHIP_LOST",
            Self::Deadline => "DEADLINE",
            Self::Overloaded => "OVERLOADED",
            Self::DiskFull => "DISK_FULL",
            Self::KeyReused => "KEY_REUSED",
            Self::KeyExpired => "KEY_EXPIRED",
            Self::TooLarge => "TOO_LARGE",
            Self::Invalid => "INVALID",
            Self::Future => "FUTURE",
            Self::Trimmed => "TRIMMED",
            Self::Quarantined => "QUARANTINED",
            Self::WrongCluster => "WRONG_CLUSTER",
            Self::Internal => "INTERNAL",
        }
    }

    /// The reason of that name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// What is known about the records when nothing more is said: `Unknown` only where they may
    /// have been appended.
    pub const fn default_outcome(self) -> Outcome {
        match self {
            Self::LeadershipLost | Self::Deadline | Self::KeyExpired | Self::Internal => {
                Outcome::Unknown
            }
            Self::Conflict
            | Self::NoLeader
            | Self::NotLeader
            | Self::Overloaded
            | Self::DiskFull
            | Self::KeyReused
            | Self::TooLarge
            | Self::Invalid
            | Self::Future
            | Self::Trimmed
            | Self::Quarantined
            | Self::WrongCluster => Outcome::NotAppended,
        }
    }

    /// Whether the same request, with the same id, may succeed later or elsewhere.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::NoLeader
                | Self::NotLeader
                | Self::LeadershipLost
                | Self::Overloaded
                | Self::DiskFull
                | Self::Quarantined
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known about the records of a request that failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// They were not appended, and by this request never will be.
    NotAppended,
    /// They may have been appended, or may still be.
    Unknown,
}

impl Outcome {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAppended => "not_appended",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAppended => "not appended",
            Self::Unknown => "outcome unknown: it may have been appended",
        })
    }
}

/// An error of the API, as it is before it becomes a gRPC status or an HTTP problem.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message} ({reason}, {outcome})")]
#[non_exhaustive]
pub struct ApiError {
    /// The stable reason.
    pub reason: Reason,
    /// What is known about the records.
    pub outcome: Outcome,
    /// A sentence for people.
    pub message: String,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// The client address of the leader, if known.
    pub leader: Option<String>,
    /// The next sequence number, with [`Reason::Conflict`] and [`Reason::Future`].
    pub next_seq: Option<u64>,
    /// The first sequence number kept, with [`Reason::Trimmed`].
    pub first_seq: Option<u64>,
}

impl ApiError {
    /// An error with the reason's usual outcome.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            outcome: reason.default_outcome(),
            message: message.into(),
            retry_after_ms: None,
            leader: None,
            next_seq: None,
            first_seq: None,
        }
    }

    /// The same error with another outcome.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The same error with the leader's client address.
    #[must_use]
    pub fn with_leader(mut self, leader: Option<String>) -> Self {
        self.leader = leader;
        self
    }

    /// Whether the same request, with the same id, may succeed later or elsewhere.
    pub const fn is_retryable(&self) -> bool {
        self.reason.is_retryable()
    }
}
