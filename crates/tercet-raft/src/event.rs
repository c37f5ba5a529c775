//! What happened, for people and tools: the one vocabulary from which every line, picture and
//! trace is made. Events decide nothing.

use std::fmt;

use crate::io::RoleKind;
use crate::message::{ConflictHint, DenyReason};
use crate::types::{Incarnation, Index, LogPos, NodeId, Term};

/// Something that happened in a core.
#[allow(missing_docs, reason = "the variants say what their fields are")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The node changed its role; `by_term`: because it saw a higher term.
    Role { was: RoleKind, role: RoleKind, term: Term, by_term: bool },
    /// The node entered a higher term.
    TermChanged { from: Term, to: Term },
    /// The link to the leader was lost: this node asks soon whether it could win, unless it hears
    /// from it before.
    LeaderLost { leader: NodeId, term: Term },
    /// No leader was heard from for an election timeout.
    ElectionTimeout { term: Term },
    /// The node asked whether it could win.
    PreVoteAsked { term: Term, last: LogPos },
    /// The node asked for votes.
    VoteAsked { term: Term, last: LogPos },
    /// The node said that it would vote.
    PreVoteGranted { to: NodeId, term: Term },
    /// The node voted.
    VoteGranted { to: NodeId, term: Term },
    /// The node refused to say that it would vote.
    PreVoteDenied { to: NodeId, term: Term, reason: DenyReason },
    /// The node refused to vote.
    VoteDenied { to: NodeId, term: Term, reason: DenyReason },
    /// A vote for this node arrived.
    VoteReceived { from: NodeId, term: Term },
    /// A refusal for this node arrived.
    VoteRefused { from: NodeId, term: Term, reason: DenyReason },
    /// This node learned who leads.
    LeaderKnown { leader: NodeId, term: Term },
    /// Entries were appended here.
    Appended { first: Index, last: Index, term: Term },
    /// Entries were cut from this log.
    Truncated { from: Index, to: Index },
    /// A follower refused entries of the leader: its log does not hold `prev`.
    AppendRejected { leader: NodeId, prev: LogPos, hint: ConflictHint },
    /// A follower's log holds the leader's up to `last`.
    AppendAccepted { leader: NodeId, prev: Index, last: Index },
    /// The leader moved what it sends next to a peer.
    NextIndex { peer: NodeId, from: Index, to: Index },
    /// The leader learned what a peer holds durably.
    MatchIndex { peer: NodeId, from: Index, to: Index },
    /// Up to here this node's disk is synced.
    Durable { last: Index },
    /// The commit index moved; `leads`: by this node's own count, not by its leader's word.
    Committed { from: Index, to: Index, leads: bool },
    /// The leader heard from no majority and stepped down.
    QuorumLost { term: Term },
    /// The leader's disk has not done a write for an election timeout: it stepped down, so that
    /// one that can write may lead.
    DiskStalled { term: Term },
    /// A transfer of leadership began.
    TransferBegun { to: NodeId },
    /// A transfer of leadership was given up.
    TransferGivenUp { to: NodeId },
    /// A message was dropped.
    Dropped { from: NodeId, why: DropReason },
    /// A peer comes with another disk: what it had acknowledged is gone.
    Amnesia { peer: NodeId, had: Index, incarnation: Incarnation },
    /// The leader appended a Readmit entry.
    ReadmitAppended { node: NodeId, pos: LogPos },
    /// This node asked to be readmitted.
    RejoinAsked { incarnation: Incarnation },
    /// This node is a voter again.
    Readmitted { pos: LogPos },
    /// A peer is a voter again.
    PeerReadmitted { peer: NodeId },
    /// The lab set how far apart a leader's heartbeats are; `None`: back to the configured interval.
    HeartbeatInterval { ms: Option<u64> },
    /// The bytes of an entry are damaged here; a peer may have them.
    EntryDamaged { pos: LogPos },
    /// A damaged entry is whole again.
    EntryRepaired { pos: LogPos },
    /// A majority does not hold a damaged entry: this leader steps down and drops it.
    NeverCommitted { pos: LogPos },
    /// The leader could not get its damaged entries, and lets others try.
    RepairGivenUp { term: Term },
    /// What a broken rule led to: committed entries would be cut.
    Violation { index: Index },
}

/// Why a message was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DropReason {
    /// The sender is no member.
    NotAMember,
    /// It was sent by a disk that is gone.
    OldSender,
    /// It was sent to a disk that is gone, or to another node.
    NotForMe,
    /// It contradicts itself or the protocol.
    Malformed,
    /// This node is mute.
    Muted,
    /// It is of another generation of the cluster.
    OtherGeneration,
}

impl Event {
    /// The stable name of the kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Role { was: RoleKind::Leader, .. } => "stepped_down",
            Self::Role { role, .. } => match role {
                RoleKind::Follower => "became_follower",
                RoleKind::PreCandidate => "became_pre_candidate",
                RoleKind::Candidate => "became_candidate",
                RoleKind::Leader => "became_leader",
                RoleKind::Quarantined => "became_quarantined",
            },
            Self::TermChanged { .. } => "term",
            Self::LeaderLost { .. } => "leader_lost",
            Self::ElectionTimeout { .. } => "election_timeout",
            Self::PreVoteAsked { .. } => "pre_vote_asked",
            Self::VoteAsked { .. } => "vote_asked",
            Self::PreVoteGranted { .. } => "pre_vote_granted",
            Self::VoteGranted { .. } => "vote_granted",
            Self::PreVoteDenied { .. } => "pre_vote_denied",
            Self::VoteDenied { .. } => "vote_denied",
            Self::VoteReceived { .. } => "vote_received",
            Self::VoteRefused { .. } => "vote_refused",
            Self::LeaderKnown { .. } => "leader",
            Self::Appended { .. } => "append",
            Self::Truncated { .. } => "truncated",
            Self::AppendRejected { .. } => "append_rejected",
            Self::AppendAccepted { .. } => "append_accepted",
            Self::NextIndex { .. } => "nextindex",
            Self::MatchIndex { .. } => "matchindex",
            Self::Durable { .. } => "persisted",
            Self::Committed { .. } => "commit",
            Self::QuorumLost { .. } => "quorum_lost",
            Self::DiskStalled { .. } => "disk_stalled",
            Self::TransferBegun { .. } => "transfer_begun",
            Self::TransferGivenUp { .. } => "transfer_given_up",
            Self::Dropped { .. } => "drop",
            Self::Amnesia { .. } => "amnesia",
            Self::ReadmitAppended { .. } => "readmit_appended",
            Self::RejoinAsked { .. } => "rejoin_asked",
            Self::Readmitted { .. } => "readmitted",
            Self::PeerReadmitted { .. } => "peer_readmitted",
            Self::HeartbeatInterval { .. } => "heartbeat_interval",
            Self::EntryDamaged { .. } => "entry_damaged",
            Self::EntryRepaired { .. } => "entry_repaired",
            Self::NeverCommitted { .. } => "never_committed",
            Self::RepairGivenUp { .. } => "repair_given_up",
            Self::Violation { .. } => "violation",
        }
    }

    /// What the event says, as names and values in plain text, for tools: `node` is where it
    /// happened.
    pub fn fields(&self, node: NodeId) -> Vec<(&'static str, String)> {
        let text = |value: &dyn fmt::Display| value.to_string();
        let count = |before: Index, last: Index| text(&last.0.saturating_sub(before.0));
        match self {
            Self::Role { term, .. }
            | Self::ElectionTimeout { term }
            | Self::RepairGivenUp { term }
            | Self::DiskStalled { term }
            | Self::QuorumLost { term } => vec![("term", text(term))],
            Self::EntryDamaged { pos }
            | Self::EntryRepaired { pos }
            | Self::NeverCommitted { pos } => {
                vec![("index", text(&pos.index)), ("term", text(&pos.term))]
            }
            Self::TermChanged { from, to } => vec![("from", text(from)), ("to", text(to))],
            Self::PreVoteAsked { term, last } | Self::VoteAsked { term, last } => {
                vec![("term", text(term)), ("last", text(last))]
            }
            Self::PreVoteGranted { to, term } | Self::VoteGranted { to, term } => {
                vec![("to", text(to)), ("term", text(term))]
            }
            Self::PreVoteDenied { to, term, reason } | Self::VoteDenied { to, term, reason } => {
                vec![("to", text(to)), ("term", text(term)), ("reason", reason.name().to_owned())]
            }
            Self::VoteReceived { from, term } => vec![("from", text(from)), ("term", text(term))],
            Self::VoteRefused { from, term, reason } => {
                let reason = reason.name().to_owned();
                vec![("from", text(from)), ("term", text(term)), ("reason", reason)]
            }
            Self::LeaderLost { leader, term } | Self::LeaderKnown { leader, term } => {
                vec![("leader", text(leader)), ("term", text(term))]
            }
            Self::Appended { first, last, term } => vec![
                ("first", text(first)),
                ("last", text(last)),
                ("entries", count(first.prev(), *last)),
                ("term", text(term)),
            ],
            Self::Truncated { from, to } => vec![("from", text(from)), ("to", text(to))],
            Self::AppendRejected { leader, prev, .. } => vec![
                ("follower", text(&node)),
                ("leader", text(leader)),
                ("prev", text(&prev.index)),
            ],
            Self::AppendAccepted { leader, prev, last } => vec![
                ("follower", text(&node)),
                ("leader", text(leader)),
                ("prev", text(prev)),
                ("last", text(last)),
                ("entries", count(*prev, *last)),
            ],
            Self::NextIndex { peer, from, to } | Self::MatchIndex { peer, from, to } => {
                vec![("peer", text(peer)), ("from", text(from)), ("to", text(to))]
            }
            Self::Durable { last } => vec![("last", text(last))],
            Self::Committed { from, to, .. } => vec![("from", text(from)), ("to", text(to))],
            Self::TransferBegun { to } | Self::TransferGivenUp { to } => vec![("to", text(to))],
            Self::Dropped { from, why } => {
                vec![("from", text(from)), ("why", why.name().to_owned())]
            }
            Self::Amnesia { peer, had, incarnation } => vec![
                ("peer", text(peer)),
                ("had", text(had)),
                ("incarnation", format!("{incarnation:?}")),
            ],
            Self::ReadmitAppended { node, pos } => {
                vec![("peer", text(node)), ("index", text(&pos.index))]
            }
            Self::RejoinAsked { incarnation } => {
                vec![("incarnation", format!("{incarnation:?}"))]
            }
            Self::Readmitted { pos } => vec![("index", text(&pos.index))],
            Self::PeerReadmitted { peer } => vec![("peer", text(peer))],
            Self::HeartbeatInterval { ms } => {
                vec![("ms", ms.map_or_else(|| "default".to_owned(), |ms| text(&ms)))]
            }
            Self::Violation { index } => vec![("index", text(index))],
        }
    }

    /// The event as a sentence of a lab class; `None` for what such a class has no sentence for.
    /// `node` is where it happened.
    pub fn classic(&self, node: NodeId) -> Option<String> {
        let node = Classic(node);
        let entries = |count: u64| if count == 1 { "entry" } else { "entries" };
        Some(match self {
            Self::LeaderLost { leader, .. } => {
                format!("{node} lost the connection to the leader {}.", Classic(*leader))
            }
            Self::ElectionTimeout { .. } => format!("{node} timeout, starting election."),
            Self::PreVoteGranted { to, term } => {
                format!("Pre-vote granted to {} for term {term}", Classic(*to))
            }
            Self::VoteGranted { to, term } => {
                format!("Vote granted to {} for term {term}", Classic(*to))
            }
            Self::PreVoteDenied { to, reason, .. } => {
                format!("Pre-vote denied for {}: {}", Classic(*to), reason.classic())
            }
            Self::VoteDenied { to, reason, .. } => {
                format!("Vote denied for {}: {}", Classic(*to), reason.classic())
            }
            Self::Role { role: RoleKind::Leader, .. } => format!("{node} is now the leader."),
            Self::Role { was: RoleKind::Leader, term, by_term: true, .. } => {
                format!("{node} stepping down, saw term {term}.")
            }
            Self::QuorumLost { .. } => format!("{node} stepping down, heard from no majority."),
            Self::DiskStalled { .. } => format!("{node} stepping down, its disk stands still."),
            Self::NextIndex { peer, to, .. } => {
                format!("Backtracking nextIndex for {} to {to} due to mismatch.", Classic(*peer))
            }
            Self::MatchIndex { peer, from, to } => {
                let count = to.0.saturating_sub(from.0);
                let entries = entries(count);
                format!("Successfully updated {} with {count} {entries}.", Classic(*peer))
            }
            Self::Committed { from, to, leads: true } if from.next() == *to => {
                format!("Leader {node} committed entry at index {to}")
            }
            Self::Committed { from, to, leads: true } => {
                format!("Leader {node} committed entries at index {} to {to}", from.next())
            }
            Self::Role { .. }
            | Self::TermChanged { .. }
            | Self::PreVoteAsked { .. }
            | Self::VoteAsked { .. }
            | Self::VoteReceived { .. }
            | Self::VoteRefused { .. }
            | Self::LeaderKnown { .. }
            | Self::Appended { .. }
            | Self::Truncated { .. }
            | Self::AppendRejected { .. }
            | Self::AppendAccepted { .. }
            | Self::Durable { .. }
            | Self::Committed { .. }
            | Self::TransferBegun { .. }
            | Self::TransferGivenUp { .. }
            | Self::Dropped { .. }
            | Self::Amnesia { .. }
            | Self::ReadmitAppended { .. }
            | Self::RejoinAsked { .. }
            | Self::Readmitted { .. }
            | Self::PeerReadmitted { .. }
            | Self::HeartbeatInterval { .. }
            | Self::EntryDamaged { .. }
            | Self::EntryRepaired { .. }
            | Self::NeverCommitted { .. }
            | Self::RepairGivenUp { .. }
            | Self::Violation { .. } => return None,
        })
    }
}

/// A node by the name that it has in a class: `node1`.
struct Classic(NodeId);

impl fmt::Display for Classic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0.slot())
    }
}

impl DenyReason {
    fn classic(&self) -> String {
        match self {
            Self::OldTerm => "candidate's term is out of date".to_owned(),
            Self::OldLog { .. } => "candidate's log is not up-to-date".to_owned(),
            Self::AlreadyVoted { to } => format!("already voted for {}", Classic(*to)),
            Self::LeaderAlive { leader } => format!("leader {} is alive", Classic(*leader)),
            Self::Rival => "it is a candidate itself".to_owned(),
        }
    }

    /// The reason's stable name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::OldTerm => "old-term",
            Self::OldLog { .. } => "old-log",
            Self::AlreadyVoted { .. } => "already-voted",
            Self::LeaderAlive { .. } => "leader-alive",
            Self::Rival => "rival",
        }
    }
}

impl DropReason {
    /// The reason's stable name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotAMember => "not-a-member",
            Self::OldSender => "old-sender",
            Self::NotForMe => "not-for-me",
            Self::Malformed => "malformed",
            Self::Muted => "muted",
            Self::OtherGeneration => "other-generation",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role { role, term, .. } => write!(f, "{role} in term {term}"),
            Self::TermChanged { from, to } => write!(f, "term {from} → {to}"),
            Self::LeaderLost { leader, term } => {
                write!(f, "lost the connection to {leader}, which leads term {term}")
            }
            Self::ElectionTimeout { term } => {
                write!(f, "no leader heard from for an election timeout in term {term}")
            }
            Self::PreVoteAsked { term, last } => {
                write!(f, "asks whether it could win term {term} with a log up to {last}")
            }
            Self::VoteAsked { term, last } => {
                write!(f, "asks for votes in term {term} with a log up to {last}")
            }
            Self::PreVoteGranted { to, term } => write!(f, "would vote for {to} in term {term}"),
            Self::VoteGranted { to, term } => write!(f, "votes for {to} in term {term}"),
            Self::PreVoteDenied { to, term, reason } => {
                write!(f, "would not vote for {to} in term {term}: {reason}")
            }
            Self::VoteDenied { to, term, reason } => {
                write!(f, "vote denied for {to} in term {term}: {reason}")
            }
            Self::VoteReceived { from, term } => {
                write!(f, "got the vote of {from} for term {term}")
            }
            Self::VoteRefused { from, term, reason } => {
                write!(f, "was refused the vote of {from} for term {term}: {reason}")
            }
            Self::LeaderKnown { leader, term } => write!(f, "{leader} leads term {term}"),
            Self::Appended { first, last, term } => {
                write!(f, "appended entries {first} to {last} of term {term}")
            }
            Self::Truncated { from, to } => write!(f, "cut entries {from} to {to}"),
            Self::AppendRejected { leader, prev, hint } => {
                write!(f, "refused entries of {leader}: this log does not hold {prev} ({hint})")
            }
            Self::AppendAccepted { leader, prev, last } => {
                write!(f, "holds the log of {leader} from {prev} to {last}")
            }
            Self::NextIndex { peer, from, to } => {
                write!(f, "backtracking next index for {peer} from {from} to {to}")
            }
            Self::MatchIndex { peer, from, to } => {
                write!(f, "{peer} holds up to {to} (was {from})")
            }
            Self::Durable { last } => write!(f, "synced up to {last}"),
            Self::Committed { from, to, .. } => write!(f, "committed up to {to} (was {from})"),
            Self::QuorumLost { term } => {
                write!(f, "heard from no majority: steps down in term {term}")
            }
            Self::TransferBegun { to } => write!(f, "hands leadership over to {to}"),
            Self::TransferGivenUp { to } => write!(f, "gave up handing leadership over to {to}"),
            Self::Dropped { from, why } => write!(f, "dropped a message of {from}: {why}"),
            Self::Amnesia { peer, had, incarnation } => write!(
                f,
                "{peer} comes with another disk ({incarnation:?}): it had acknowledged up to {had}"
            ),
            Self::ReadmitAppended { node, pos } => {
                write!(f, "appended the readmission of {node} at {pos}")
            }
            Self::RejoinAsked { incarnation } => {
                write!(f, "asks to be readmitted as {incarnation:?}")
            }
            Self::Readmitted { pos } => write!(f, "is a voter again, by entry {pos}"),
            Self::PeerReadmitted { peer } => write!(f, "{peer} is a voter again"),
            Self::HeartbeatInterval { ms: Some(ms) } => {
                write!(f, "heartbeat interval is now {ms} ms")
            }
            Self::HeartbeatInterval { ms: None } => f.write_str("heartbeat interval is as usual"),
            Self::DiskStalled { term } => write!(
                f,
                "stepping down in term {term}: the disk has not done a write for an election timeout"
            ),
            Self::EntryDamaged { pos } => {
                write!(f, "entry {pos} is damaged on disk; asking the others for it")
            }
            Self::EntryRepaired { pos } => write!(f, "entry {pos} is whole again"),
            Self::NeverCommitted { pos } => write!(
                f,
                "a majority does not hold entry {pos}, which is damaged here: it was never \
                 committed; stepping down to drop it"
            ),
            Self::RepairGivenUp { term } => write!(
                f,
                "stepping down in term {term}: no copy of a damaged entry could be had, others may \
                 try"
            ),
            Self::Violation { index } => {
                write!(f, "a broken rule: the committed entry {index} would be cut")
            }
        }
    }
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Quarantined => "quarantined",
        })
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAMember => "it is no member",
            Self::OldSender => "it was sent by a disk that is gone",
            Self::NotForMe => "it is meant for another node, or for a disk that is gone",
            Self::Malformed => "it contradicts the protocol",
            Self::Muted => "this node is mute until it is readmitted",
            Self::OtherGeneration => "it is of another generation of the cluster",
        })
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldTerm => f.write_str("the candidate's term is behind"),
            Self::OldLog { voter_last } => {
                write!(f, "the candidate's log is not up-to-date, the voter's ends at {voter_last}")
            }
            Self::AlreadyVoted { to } => write!(f, "the vote of this term went to {to}"),
            Self::LeaderAlive { leader } => write!(f, "{leader} leads and was heard from"),
            Self::Rival => f.write_str("the voter asks for itself, and goes first"),
        }
    }
}

impl fmt::Display for ConflictHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { last } => write!(f, "it ends at {last}"),
            Self::Term { term, first } => write!(f, "it has term {term} there, from {first} on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(slot: u8) -> NodeId {
        NodeId::new(slot).unwrap()
    }

    #[test]
    fn the_classic_sentences() {
        let role = |was, role, by_term| Event::Role { was, role, term: Term(3), by_term };
        let denied = |reason| Event::VoteDenied { to: n(1), term: Term(2), reason };
        let old_log = DenyReason::OldLog { voter_last: LogPos { index: Index(3), term: Term(1) } };
        let committed =
            |from, to, leads| Event::Committed { from: Index(from), to: Index(to), leads };
        let matched = |from, to| Event::MatchIndex { peer: n(2), from: Index(from), to: Index(to) };
        use RoleKind::{Candidate, Follower, Leader, PreCandidate};
        for (event, expected) in [
            (Event::ElectionTimeout { term: Term(1) }, Some("node1 timeout, starting election.")),
            (
                Event::LeaderLost { leader: n(3), term: Term(2) },
                Some("node1 lost the connection to the leader node3."),
            ),
            (
                Event::VoteGranted { to: n(3), term: Term(2) },
                Some("Vote granted to node3 for term 2"),
            ),
            (
                Event::PreVoteGranted { to: n(3), term: Term(2) },
                Some("Pre-vote granted to node3 for term 2"),
            ),
            (denied(old_log), Some("Vote denied for node1: candidate's log is not up-to-date")),
            (
                denied(DenyReason::OldTerm),
                Some("Vote denied for node1: candidate's term is out of date"),
            ),
            (
                denied(DenyReason::AlreadyVoted { to: n(2) }),
                Some("Vote denied for node1: already voted for node2"),
            ),
            (
                denied(DenyReason::LeaderAlive { leader: n(2) }),
                Some("Vote denied for node1: leader node2 is alive"),
            ),
            (
                Event::PreVoteDenied { to: n(1), term: Term(2), reason: old_log },
                Some("Pre-vote denied for node1: candidate's log is not up-to-date"),
            ),
            (
                Event::PreVoteDenied { to: n(2), term: Term(2), reason: DenyReason::Rival },
                Some("Pre-vote denied for node2: it is a candidate itself"),
            ),
            (role(Candidate, Leader, false), Some("node1 is now the leader.")),
            (role(Leader, Follower, true), Some("node1 stepping down, saw term 3.")),
            // The reason stands in the event before it.
            (role(Leader, Follower, false), None),
            (
                Event::QuorumLost { term: Term(2) },
                Some("node1 stepping down, heard from no majority."),
            ),
            (role(PreCandidate, Follower, true), None),
            (
                Event::NextIndex { peer: n(2), from: Index(4), to: Index(1) },
                Some("Backtracking nextIndex for node2 to 1 due to mismatch."),
            ),
            (matched(0, 4), Some("Successfully updated node2 with 4 entries.")),
            (matched(4, 5), Some("Successfully updated node2 with 1 entry.")),
            (committed(2, 3, true), Some("Leader node1 committed entry at index 3")),
            (committed(2, 5, true), Some("Leader node1 committed entries at index 3 to 5")),
            (committed(2, 3, false), None),
            (Event::LeaderKnown { leader: n(1), term: Term(3) }, None),
            (Event::Dropped { from: n(2), why: DropReason::Muted }, None),
        ] {
            assert_eq!(event.classic(n(1)).as_deref(), expected, "{event:?}");
        }
    }
}
