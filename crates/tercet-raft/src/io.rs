//! What goes into the core and what comes out of it: the step/poll contract as types.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::event::Event;
use crate::message::Envelope;
use crate::rules::Rules;
use crate::types::{
    EntryKind, EntryMeta, HardState, Incarnation, Index, LogPos, NodeId, NodeSet, Term, Time,
    WriteId,
};

/// Which Raft is run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Profile {
    /// Pre-vote, check-quorum, leader stickiness, a no-op on election, conflict hints, pipelining.
    Modern,
    /// Figure 2 of the paper and nothing else: empty AppendEntries as heartbeats, next index − 1
    /// per refusal, one message in flight to each follower, which carries all that is missing.
    Paper,
}

/// How a core is set up. Constant for its life.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// This node's incarnation.
    pub incarnation: Incarnation,
    /// All members with the incarnation that this node knows to be admitted (of genesis, or as a
    /// peer told it); Readmit entries in the log move it on.
    pub members: BTreeMap<NodeId, Incarnation>,
    /// Where every leader's log reaches at least: what an operator decided to go on with
    /// (docs/rejoin.md, "When more than a minority is lost"); [`LogPos::ORIGIN`] otherwise.
    pub floor: LogPos,
    /// Whether this node has lost its memory and is mute until it is readmitted.
    pub quarantined: bool,
    /// Which Raft is run.
    pub profile: Profile,
    /// The rules that are switched off, for the lab.
    pub rules: Rules,
    /// How often a leader shows that it lives.
    pub heartbeat_interval: Duration,
    /// The shortest election timeout.
    pub election_timeout_min: Duration,
    /// The longest election timeout. Drawn anew for each attempt, as a pure function of
    /// (seed, node, attempt).
    pub election_timeout_max: Duration,
    /// Whether election timeouts do not fire by themselves, from the start; see
    /// [`Input::FreezeElectionTimer`].
    pub election_timer_frozen: bool,
    /// The seed of the timeouts.
    pub seed: u64,
    /// The most bytes of entries in one message.
    pub message_bytes_max: u64,
    /// The most bytes of entries on their way to one peer.
    pub inflight_bytes_max: u64,
    /// The most messages with entries on their way to one peer.
    pub inflight_messages_max: usize,
    /// The most bytes of entries that a leader holds uncommitted; proposals beyond are refused.
    pub uncommitted_bytes_max: u64,
}

/// What the write-ahead log gave back: exactly what replay found, all of it durable.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The log as runs: each is the first position of a run of one term. Ascending.
    pub runs: Vec<LogPos>,
    /// The last index of the log.
    pub last: Index,
    /// The Readmit entries in the log, by index.
    pub readmits: BTreeMap<Index, (NodeId, Incarnation)>,
    /// The entries whose bytes are damaged: they have to be fetched from a peer.
    pub faulty: BTreeSet<Index>,
    /// Up to here the log is known to be committed and applied (0 after a plain restart: the commit
    /// index is volatile).
    pub commit: Index,
}

/// A proposal's number, chosen by the driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProposalId(pub u64);

/// A read barrier's number, chosen by the driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BarrierId(pub u64);

/// One payload entry that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    /// Its number, for [`Output::Accepted`] and [`Output::Refused`].
    pub id: ProposalId,
    /// Its size, for the limits.
    pub bytes: u64,
}

/// All that can happen to a core. A run is a list of (time, node, input).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// The moment of [`Raft::poll_timeout`](crate::Raft::poll_timeout) has come. Harmless when early.
    Timeout,
    /// A message arrived. The bytes of its entries were verified before.
    Receive(Envelope),
    /// This write, and all before it, are durable.
    Durable {
        /// The last write that is.
        write: WriteId,
    },
    /// Clients ask for these payload entries, in this order. Answered for each, in order, by
    /// [`Output::Accepted`] or [`Output::Refused`] before the [`Output::Write`] that holds them.
    Propose {
        /// One per entry.
        proposals: Vec<Proposal>,
    },
    /// The answer to [`Output::SendEntries`], given at once or after a read from disk: what was
    /// handed to the link. Until then nothing more is asked to be sent to that peer.
    Sent {
        /// To whom.
        to: NodeId,
        /// The last index that was sent; `prev.index` of the request if none could be (the link is
        /// down or full): the core tries again at the next heartbeat.
        last: Index,
        /// The bytes of the entries sent.
        bytes: u64,
    },
    /// A client wants a linearizable read on this node. Answered by [`Output::BarrierReady`] or
    /// [`Output::BarrierFailed`].
    ReadBarrier {
        /// The driver's number for it.
        id: BarrierId,
    },
    /// An operator wants another leader; `None`: the most up-to-date peer.
    TransferLeadership {
        /// Who shall lead.
        to: Option<NodeId>,
    },
    /// Campaign now, whatever the timers say (the lab; tests).
    Campaign,
    /// From now on election timeouts do not fire (`true`), or do again, drawn anew (the lab). A
    /// leader's own timers run on.
    FreezeElectionTimer {
        /// Whether they stand still.
        frozen: bool,
    },
    /// From now on this node's heartbeats as a leader are so far apart (the lab).
    SetHeartbeatInterval {
        /// How far; `None` is what the configuration says.
        interval: Option<Duration>,
        /// Only for as long as it leads now. Ignored where the node does not lead.
        until_stepdown: bool,
    },
    /// From now on these rules are switched off (the lab).
    SetRules {
        /// Which.
        rules: Rules,
    },
    /// The link to this peer was lost: messages on their way may be gone, in either direction. What
    /// came on it was handed in before. A follower whose leader it is asks early whether it could win
    /// (docs/protocol.md, "An early question").
    LinkLost {
        /// Which peer.
        peer: NodeId,
    },
    /// A read found the bytes of this entry damaged.
    Faulty {
        /// Which.
        index: Index,
    },
    /// [`Output::Repair`] is done, or the bytes were put right otherwise: they stand on disk again,
    /// durably.
    Repaired {
        /// Which.
        index: Index,
        /// What the entry is.
        kind: EntryKind,
    },
    /// [`Output::Admit`] is done: the identity says "voter", durably.
    Admitted,
}

/// What a core wants done. May be acted on the moment it is polled; order among outputs of one
/// `step` is the order in which to act.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// Put this on disk, in order, as one unit; then step [`Input::Durable`].
    Write(Write),
    /// Send this. (Messages with entries are sent by [`Output::SendEntries`]; an `Append` in here
    /// is empty.)
    Send(Envelope),
    /// Send an `Append` with the entries after `prev` up to `last`, or as many of them as fit into
    /// `bytes_max` (one at least, whatever its size), then step [`Input::Sent`]. The driver may send
    /// before its own write of them is durable (thesis §10.2.1): this node counts itself only then.
    SendEntries {
        /// The message without its entries (`entries` is empty); the driver fills in the metas.
        envelope: Envelope,
        /// The last index to send; above `prev.index`.
        last: Index,
        /// The most bytes of entries in the message.
        bytes_max: u64,
    },
    /// Send this [`Message::FetchReply`](crate::Message::FetchReply) with the bytes of the entry at
    /// `pos`; the driver puts the entry's kind right. If they turn out to be damaged, step
    /// [`Input::Faulty`] and send nothing.
    SendFetched {
        /// The message.
        envelope: Envelope,
        /// The entry.
        pos: LogPos,
    },
    /// The bytes of this damaged entry came with the input: put them back where they stood, then
    /// step [`Input::Repaired`].
    Repair {
        /// The entry.
        pos: LogPos,
    },
    /// Everything up to `last` is committed by a quorum *and* durable here: apply it.
    Commit {
        /// The last index to apply. Never goes back.
        last: Index,
    },
    /// The proposal has this place in the log of this leader. Not yet committed.
    Accepted {
        /// Which.
        id: ProposalId,
        /// Where it stands.
        pos: LogPos,
    },
    /// The proposal was not appended, and never will be.
    Refused {
        /// Which.
        id: ProposalId,
        /// Why.
        reason: Refusal,
    },
    /// When `index` is applied here, a read is linearizable.
    BarrierReady {
        /// Which.
        id: BarrierId,
        /// The index to wait for; may already be applied.
        index: Index,
    },
    /// No leader confirmed the barrier; ask again.
    BarrierFailed {
        /// Which.
        id: BarrierId,
    },
    /// A transfer of leadership ended.
    TransferEnded {
        /// What came of it.
        result: Result<NodeId, TransferError>,
    },
    /// Protocol RJ, step 5: log and hard state are durable through the Readmit entry. Store
    /// state = voter in the identity, durably, then step [`Input::Admitted`].
    Admit {
        /// The Readmit entry.
        pos: LogPos,
    },
    /// Protocol RJ, step 1: the leader knows that this node had acknowledged more than it holds, so its
    /// directory is an older copy of what it was. Stop, and come back without a memory.
    Forgotten {
        /// What it had acknowledged, at least.
        acknowledged: Index,
        /// What it holds.
        has: Index,
    },
    /// Something happened that people or tools may want to know.
    Event(Event),
}

/// One write: hard state, truncation and entries in one unit, so that no order between them can be
/// got wrong. Applied in the order of the fields.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Write {
    /// Its number.
    pub id: WriteId,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Cut the log's tail from this index on, if anything is cut.
    pub truncate_from: Option<Index>,
    /// The index of the first of `entries`.
    pub first: Index,
    /// The entries to append; may be empty. Their bytes are those of the input that this write
    /// answers, but for `Noop` and `Readmit`, which a leader makes here.
    pub entries: Vec<EntryMeta>,
}

/// Why a proposal was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// This node does not lead.
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over.
    Transferring,
    /// Too many bytes are uncommitted.
    Overloaded,
}

/// Why a transfer of leadership failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransferError {
    /// This node does not lead.
    NotLeader,
    /// The target is not a peer, or is quarantined.
    BadTarget,
    /// The target did not take over within an election timeout.
    TimedOut,
    /// Another transfer is under way.
    Busy,
}

/// The role of a node, without the role's data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RoleKind {
    /// Answers, and waits for a leader.
    Follower,
    /// Asks whether a campaign could win.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Has lost its memory: mute until it is readmitted.
    Quarantined,
}

/// Where replication to a peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProgressKind {
    /// Looking for the place where the logs agree: one message at a time.
    Probe,
    /// Streaming.
    Replicate,
}

/// A peer as the leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Known to be durable there.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// Probing or streaming.
    pub kind: ProgressKind,
    /// Bytes of entries on their way.
    pub inflight_bytes: u64,
    /// Whether the peer is quarantined.
    pub quarantined: bool,
    /// Whether it answered within the last election timeout.
    pub active: bool,
}

/// An entry whose bytes are damaged, and what peers said of their copies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultyEntry {
    /// Which.
    pub pos: LogPos,
    /// Who does not hold it.
    pub absent_on: NodeSet,
    /// Whose copy is damaged too.
    pub damaged_on: NodeSet,
}

/// Plain data about a core, for people and tools.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// What it is.
    pub role: RoleKind,
    /// Its term and vote.
    pub hard_state: HardState,
    /// The leader of this term, if known.
    pub leader: Option<NodeId>,
    /// The last position of the log.
    pub last: LogPos,
    /// Synced here.
    pub durable: Index,
    /// Committed on a quorum, as far as this node knows.
    pub commit: Index,
    /// What was handed out by [`Output::Commit`].
    pub applied: Index,
    /// Whether a leader has committed an entry of its own term.
    pub committed_own_term: bool,
    /// The peers, on a leader; otherwise empty.
    pub peers: Vec<PeerStatus>,
    /// The incarnation that is admitted for each slot, as this node's log has it.
    pub members: BTreeMap<NodeId, Incarnation>,
    /// The target of a transfer that is under way.
    pub transferring_to: Option<NodeId>,
    /// The interval of heartbeats that the lab set, if it differs from the configured one.
    pub heartbeat_override: Option<Duration>,
    /// When the election timer fires, where it runs.
    pub election_at: Option<Time>,
    /// The entries that wait to be repaired.
    pub faulty: Vec<FaultyEntry>,
}

impl EntryMeta {
    /// An entry of this term and kind.
    pub const fn new(term: Term, kind: EntryKind) -> Self {
        Self { term, kind }
    }
}
