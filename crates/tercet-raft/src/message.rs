//! What nodes say to each other. An [`Envelope`] carries one [`Message`] with what every message
//! has: who sends it, to whom, and in which term.

use crate::types::{EntryMeta, Incarnation, Index, LogPos, NodeId, Term};

/// One message with its addresses.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Envelope {
    /// The sender's slot.
    pub from: NodeId,
    /// The sender's incarnation. A receiver that knows a newer one for that slot drops the message.
    pub from_incarnation: Incarnation,
    /// The receiver's slot.
    pub to: NodeId,
    /// The incarnation that the sender means, where it knows one. Another receiver drops the
    /// message: it was meant for a disk that is gone.
    pub to_incarnation: Option<Incarnation>,
    /// The sender's current term; in [`Message::PreVote`] and a granted [`Message::PreVoteReply`]
    /// the term that the pre-candidate would campaign in.
    pub term: Term,
    /// What is said.
    pub message: Message,
}

/// Terms, indexes and rounds count one by one: one that is higher was never reached by counting.
const COUNT_MAX: u64 = 1 << 60;

impl Envelope {
    /// Whether all numbers are such that a node may have come to them: so that the sums that are
    /// made of them stay numbers.
    pub(crate) fn is_plausible(&self) -> bool {
        let fits = |count: u64| count <= COUNT_MAX;
        let pos = |pos: LogPos| fits(pos.term.0) && fits(pos.index.0);
        let outcome = |outcome: &AppendOutcome| match outcome {
            AppendOutcome::Accepted { last } => fits(last.0),
            AppendOutcome::Rejected { prev, hint } => {
                pos(*prev)
                    && match hint {
                        ConflictHint::TooShort { last } => fits(last.0),
                        ConflictHint::Term { term, first } => fits(term.0) && fits(first.0),
                    }
            }
        };
        let message = match &self.message {
            Message::PreVote { last } | Message::Vote { last, .. } => pos(*last),
            Message::Append { prev, commit, round, entries } => {
                let terms = entries.iter().all(|entry| fits(entry.term.0));
                pos(*prev) && fits(commit.0) && fits(*round) && terms
            }
            Message::Heartbeat { commit, round } => fits(commit.0) && fits(*round),
            Message::AppendReply { round, outcome: of } => fits(*round) && outcome(of),
            Message::LearnerReply { outcome: of } => of.as_ref().is_none_or(outcome),
            Message::HeartbeatReply { round } => fits(*round),
            Message::ReadIndexReply { index, .. } => index.is_none_or(|index| fits(index.0)),
            Message::Fetch { pos: at } => pos(*at),
            Message::FetchReply { pos: at, outcome } => {
                pos(*at) && !matches!(outcome, FetchOutcome::Whole(meta) if meta.term != at.term)
            }
            Message::PreVoteReply { .. }
            | Message::VoteReply { .. }
            | Message::Rejoin
            | Message::TimeoutNow
            | Message::ReadIndex { .. } => true,
        };
        fits(self.term.0) && message
    }
}

/// Everything that a node can say to another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// "Would you vote for me?" Changes nothing at the receiver (thesis §9.6).
    PreVote {
        /// The last position of the asker's log.
        last: LogPos,
    },
    /// The answer to [`Message::PreVote`].
    PreVoteReply {
        /// Why not, or `None` for yes.
        denied: Option<DenyReason>,
    },
    /// RequestVote of Figure 2.
    Vote {
        /// The last position of the candidate's log.
        last: LogPos,
        /// Whether the leader itself asked for this election ([`Message::TimeoutNow`]): leader
        /// stickiness does not apply then (thesis §4.2.3).
        transfer: bool,
    },
    /// The answer to [`Message::Vote`].
    VoteReply {
        /// Why not, or `None` for yes.
        denied: Option<DenyReason>,
    },
    /// AppendEntries of Figure 2. In the `paper` profile an empty one is the heartbeat.
    Append {
        /// The position just before the first entry.
        prev: LogPos,
        /// The entries that follow `prev`, in order; may be empty.
        entries: Vec<EntryMeta>,
        /// The leader's commit index.
        commit: Index,
        /// The leader's latest round, echoed by the answer: what confirms read barriers and
        /// check-quorum.
        round: u64,
    },
    /// The answer to [`Message::Append`] of a voter. A success is sent only when what it
    /// acknowledges is durable here.
    AppendReply {
        /// The round of the message that is answered.
        round: u64,
        /// Accepted or refused.
        outcome: AppendOutcome,
    },
    /// The leader lives (`modern` profile). Says nothing about the log, so that one that overtakes
    /// entries on their way does no harm.
    Heartbeat {
        /// How far the receiver may commit: never past what it is known to hold.
        commit: Index,
        /// The leader's latest round.
        round: u64,
    },
    /// The answer to [`Message::Heartbeat`] of a voter.
    HeartbeatReply {
        /// The round of the message that is answered.
        round: u64,
    },
    /// What a quarantined node answers instead of [`Message::AppendReply`] and
    /// [`Message::HeartbeatReply`]: it moves the leader's next index and nothing else. No code that
    /// counts votes, commits or rounds ever sees it (protocol RJ, step 2).
    LearnerReply {
        /// Accepted or refused, or `None` in answer to a heartbeat.
        outcome: Option<AppendOutcome>,
    },
    /// A quarantined node asks to become a voter again (protocol RJ, step 3).
    Rejoin,
    /// This node's copy of an entry is damaged: does the receiver have it?
    Fetch {
        /// Which.
        pos: LogPos,
    },
    /// The answer to [`Message::Fetch`].
    FetchReply {
        /// Which.
        pos: LogPos,
        /// What the sender holds.
        outcome: FetchOutcome,
    },
    /// The leader hands over: campaign at once (thesis §3.10).
    TimeoutNow,
    /// A read barrier that a follower passes on to the leader.
    ReadIndex {
        /// The asker's number for it, echoed by the answer.
        id: u64,
    },
    /// The answer to [`Message::ReadIndex`].
    ReadIndexReply {
        /// The asker's number for it.
        id: u64,
        /// Once this is applied, a read is linearizable; `None` if this node does not lead.
        index: Option<Index>,
    },
}

/// What a node holds of an entry that a peer asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FetchOutcome {
    /// The entry, whole: its bytes travel with the message.
    Whole(EntryMeta),
    /// The entry, but its bytes are damaged here too.
    Damaged,
    /// Another entry, or none. Never said by a node that lost its memory: it may have had it.
    Absent,
}

impl Message {
    /// Up to where it says that its sender's disk holds the log.
    pub(crate) const fn accepted(&self) -> Option<Index> {
        let (Self::AppendReply { outcome: AppendOutcome::Accepted { last }, .. }
        | Self::LearnerReply { outcome: Some(AppendOutcome::Accepted { last }) }) = self
        else {
            return None;
        };
        Some(*last)
    }
}

/// The outcome of an [`Message::Append`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AppendOutcome {
    /// The receiver's log holds, durably, what the leader's does up to `last`.
    Accepted {
        /// The last index that the message covered.
        last: Index,
    },
    /// The receiver's log does not hold `prev`.
    Rejected {
        /// The `prev` that was refused: names the refusal, so that a stale one is told apart.
        prev: LogPos,
        /// Where to look next.
        hint: ConflictHint,
    },
}

/// Where a follower's log and the leader's may agree (§5.3, the optimisation at the end).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConflictHint {
    /// The log ends before `prev`.
    TooShort {
        /// The last index of the follower's log.
        last: Index,
    },
    /// The log has another term at `prev.index`.
    Term {
        /// That term.
        term: Term,
        /// The first index that the follower has in it.
        first: Index,
    },
}

/// Why a (pre-)vote was denied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DenyReason {
    /// The candidate's term is behind.
    OldTerm,
    /// The candidate's log is not up-to-date (§5.4.1).
    OldLog {
        /// The last position of the voter's own log.
        voter_last: LogPos,
    },
    /// The vote of this term went to another.
    AlreadyVoted {
        /// To whom.
        to: NodeId,
    },
    /// A leader was heard from within the minimum election timeout (thesis §4.2.3).
    LeaderAlive {
        /// Which.
        leader: NodeId,
    },
    /// A pre-vote only: this node asks for itself, its log is the same, and its number is lower.
    Rival,
}
