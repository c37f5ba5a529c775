//! A core as a search over all its states sees it (crates/tercet-model): without time, and with
//! nodes that may change their names.
//!
//! Time is abstracted away by [`Raft::forget_time`]: afterwards every timer of the core is due, and
//! nobody was heard from. What a clock decides becomes a choice of the search:
//!
//! | the core | the search |
//! | --- | --- |
//! | an election timer fires | [`Input::Timeout`](crate::Input::Timeout) at [`Time(0)`](Time), at any moment |
//! | the link to the leader is lost, and a follower asks early | the same |
//! | heartbeats are due | the same, on a leader |
//! | a muted node asks again | the same, on a quarantined node |
//! | a leader has not heard from a majority, or its disk stalls | the same at [`Raft::LATER`], at any moment |
//! | a transfer is given up | with that |
//! | a follower hears its leader, and denies a vote | the vote is not delivered |
//! | of two that ask in the same moment one goes first | the answer of the other, or to it, is not delivered, and a question is delivered later |
//! | a slot may be readmitted again | always |
//!
//! Each line on the right allows at least what the left one does, so no behaviour is hidden but
//! one: that a denial for a living leader's sake tells the candidate this node's term, which every
//! other message of that term does as well. Rounds and read barriers are left out: they decide when
//! a read is answered, and no log, vote or commit depends on them. So is damage to entries.

use crate::io::ProgressKind;
use crate::leader::{Leader, Transfer};
use crate::message::{AppendOutcome, ConflictHint, DenyReason, Envelope, Message};
use crate::progress::Progress;
use crate::raft::{Forwarded, Hint, Quarantine, Raft, Role};
use crate::repair::Repairs;
use crate::term_map::TermMap;
use crate::types::{
    EntryKind, EntryMeta, HardState, Incarnation, Index, NodeId, NodeSet, Time, WriteId,
};

/// New names for nodes and incarnations. Nodes that are renamed alike stay different nodes.
pub trait Names {
    /// The new number of a node.
    fn node(&self, node: NodeId) -> u8;
    /// The new number of an incarnation.
    fn incarnation(&self, incarnation: Incarnation) -> u64;
}

/// Bytes that stand for a state: two states have the same bytes exactly if nothing but time tells
/// them apart.
#[derive(Clone, Debug, Default)]
pub struct Encoding(Vec<u8>);

impl Encoding {
    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Begins again.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a number: seven bits to a byte.
    pub fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push((number & 0x7f) as u8);
    }

    /// Adds a node, or that there is none.
    pub fn node(&mut self, names: &dyn Names, node: Option<NodeId>) {
        self.number(node.map_or(0, |node| u64::from(names.node(node))));
    }

    /// Adds a set of nodes, in the order of their new names.
    pub fn nodes(&mut self, names: &dyn Names, nodes: NodeSet) {
        let set = nodes.iter().fold(0, |set, node| set | 1_u64 << names.node(node));
        self.number(set);
    }

    /// Adds a log position's or another pair's numbers.
    pub fn pair(&mut self, one: u64, other: u64) {
        self.number(one);
        self.number(other);
    }

    /// Adds term and vote.
    pub fn hard_state(&mut self, names: &dyn Names, state: HardState) {
        self.number(state.term.0);
        self.node(names, state.vote);
    }

    /// Adds an entry.
    pub fn entry(&mut self, names: &dyn Names, entry: &EntryMeta) {
        self.number(entry.term.0);
        match entry.kind {
            EntryKind::Noop => self.number(0),
            EntryKind::Payload => self.number(1),
            EntryKind::Readmit { node, incarnation } => {
                self.number(2);
                self.node(names, Some(node));
                self.number(names.incarnation(incarnation));
            }
        }
    }

    /// Adds things that belong to nodes, in the order of the nodes' new names.
    pub fn by_node<'a, T: 'a>(
        &mut self,
        names: &dyn Names,
        things: impl Iterator<Item = (NodeId, &'a T)>,
        mut add: impl FnMut(&mut Self, &T),
    ) {
        let mut things: Vec<(u8, &T)> =
            things.map(|(node, thing)| (names.node(node), thing)).collect();
        things.sort_unstable_by_key(|(name, _)| *name);
        self.number(things.len() as u64);
        for (name, thing) in things {
            self.number(u64::from(name));
            add(self, thing);
        }
    }
}

impl Raft {
    /// The moment at which, after [`Self::forget_time`], a leader has not heard from a majority.
    pub const LATER: Time = Time(1);

    /// Takes away all that depends on time: see the head of this module.
    pub fn forget_time(&mut self) {
        self.now = Time(0);
        self.heard_at = None;
        self.election_at = Time(0);
        self.hint = Hint::default();
        self.handed_over = None;
        for (.., since) in &mut self.writes {
            *since = Time(0);
        }
        match &mut self.role {
            Role::Leader(leader) => {
                leader.heartbeat_at = Time(0);
                leader.quorum_check_at = Self::LATER;
                leader.readmit_after.clear();
                if let Some(transfer) = &mut leader.transfer {
                    transfer.until = Self::LATER;
                }
                for peer in leader.peers.values_mut() {
                    peer.active_at = None;
                }
            }
            Role::Quarantined(quarantine) => quarantine.ask_at = Time(0),
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {}
        }
    }

    /// Adds all that the core's further behaviour depends on, but for time, rounds and what it is
    /// configured with. Writes are counted from the last that is durable.
    pub fn encode(&self, names: &dyn Names, out: &mut Encoding) {
        let Self {
            config: _,
            now: _,
            hard_state,
            log,
            readmits,
            repairs,
            agreed: (agreed_term, agreed),
            commit,
            applied,
            durable,
            role,
            leader,
            heard_at: _,
            election_at: _,
            hint: _,
            attempt: _,
            last_write,
            durable_write,
            hard_state_write,
            writes,
            held,
            forwarded,
            handed_over: _,
            outputs,
            heartbeat_override: _,
        } = self;
        assert!(outputs.is_empty(), "outputs were drained");
        assert_eq!(*forwarded, Forwarded::default(), "no reads are searched");
        assert_eq!(*repairs, Repairs::default(), "no damage is searched");
        out.hard_state(names, *hard_state);
        encode_log(log, out);
        out.pair(agreed_term.0, agreed.0);
        out.number(readmits.len() as u64);
        for (index, (node, incarnation)) in readmits {
            out.number(index.0);
            out.node(names, Some(*node));
            out.number(names.incarnation(*incarnation));
        }
        for index in [commit, applied, durable] {
            out.number(index.0);
        }
        let since = |write: WriteId| write.0.saturating_sub(durable_write.0);
        encode_role(role, names, &since, out);
        out.node(names, *leader);
        out.pair(since(*last_write), since(*hard_state_write));
        out.number(writes.len() as u64);
        for (write, last, _) in writes {
            out.pair(since(*write), last.0);
        }
        // Those that wait for the same write go out together: in no order.
        let mut waiting: Vec<(u64, Encoding)> = Vec::with_capacity(held.len());
        for (write, envelope) in held {
            let mut bytes = Encoding::default();
            envelope.encode(names, &mut bytes);
            waiting.push((since(*write), bytes));
        }
        waiting.sort_unstable_by(|one, other| (one.0, &one.1.0).cmp(&(other.0, &other.1.0)));
        out.number(waiting.len() as u64);
        for (write, envelope) in waiting {
            out.number(write);
            out.0.extend(envelope.0);
        }
    }
}

fn encode_log(log: &TermMap, out: &mut Encoding) {
    let last = log.last().index;
    out.number(last.0);
    for index in 1..=last.0 {
        out.number(log.term_at(Index(index)).expect("up to the last").0);
    }
}

fn encode_role(
    role: &Role,
    names: &dyn Names,
    since: &impl Fn(WriteId) -> u64,
    out: &mut Encoding,
) {
    match role {
        Role::Follower => out.number(0),
        Role::PreCandidate { granted } => {
            out.number(1);
            out.nodes(names, *granted);
        }
        Role::Candidate { granted } => {
            out.number(2);
            out.nodes(names, *granted);
        }
        Role::Leader(leader) => {
            out.number(3);
            encode_leader(leader, names, out);
        }
        Role::Quarantined(Quarantine { ask_at: _, told: (term, index), leaving }) => {
            out.number(4);
            out.pair(term.0, index.0);
            out.number(u64::from(leaving.is_some()));
            if let Some((write, pos)) = leaving {
                out.number(since(*write));
                out.pair(pos.term.0, pos.index.0);
            }
        }
    }
}

fn encode_leader(leader: &Leader, names: &dyn Names, out: &mut Encoding) {
    let Leader {
        peers,
        round: _,
        heartbeat_at: _,
        quorum_check_at: _,
        transfer,
        uncommitted,
        uncommitted_bytes: _,
        barriers,
        readmit_after: _,
        heartbeat_override: _,
    } = leader;
    assert!(barriers.is_empty(), "no reads are searched");
    match transfer {
        None => out.number(0),
        Some(Transfer { to, until: _, asked }) => {
            out.number(1 + u64::from(*asked));
            out.node(names, Some(*to));
        }
    }
    out.number(uncommitted.len() as u64);
    for (index, bytes) in uncommitted {
        out.pair(index.0, *bytes);
    }
    let peers = peers.iter().map(|(node, progress)| (*node, progress));
    out.by_node(names, peers, |out, progress| encode_progress(progress, names, out));
}

fn encode_progress(progress: &Progress, names: &dyn Names, out: &mut Encoding) {
    let Progress {
        incarnation,
        quarantined,
        kind,
        matched,
        learned,
        next,
        waiting,
        sending,
        inflight,
        inflight_bytes: _,
        active_at: _,
        round: _,
        stored_at_heartbeat,
    } = progress;
    out.number(names.incarnation(*incarnation));
    let streams = *kind == ProgressKind::Replicate;
    let flags = [*quarantined, streams, *waiting, *sending];
    out.number(flags.iter().fold(0, |bits, flag| bits << 1 | u64::from(*flag)));
    for index in [matched, learned, next, stored_at_heartbeat] {
        out.number(index.0);
    }
    out.number(inflight.len() as u64);
    for (last, bytes) in inflight {
        out.pair(last.0, *bytes);
    }
}

impl Envelope {
    /// Adds all that the receiver's behaviour depends on, but for the round.
    pub fn encode(&self, names: &dyn Names, out: &mut Encoding) {
        let Self { from, from_incarnation, to, to_incarnation, term, message } = self;
        out.node(names, Some(*from));
        out.number(names.incarnation(*from_incarnation));
        out.node(names, Some(*to));
        out.number(to_incarnation.map_or(0, |to| 1 + names.incarnation(to)));
        out.number(term.0);
        match message {
            Message::PreVote { last } => {
                out.number(0);
                out.pair(last.term.0, last.index.0);
            }
            Message::PreVoteReply { denied } => {
                out.number(1);
                encode_denial(*denied, out);
            }
            Message::Vote { last, transfer } => {
                out.number(2 + u64::from(*transfer));
                out.pair(last.term.0, last.index.0);
            }
            Message::VoteReply { denied } => {
                out.number(4);
                encode_denial(*denied, out);
            }
            Message::Append { prev, entries, commit, round: _ } => {
                out.number(5);
                out.pair(prev.term.0, prev.index.0);
                out.pair(commit.0, entries.len() as u64);
                for entry in entries {
                    out.entry(names, entry);
                }
            }
            Message::AppendReply { round: _, outcome } => {
                out.number(6);
                encode_outcome(*outcome, out);
            }
            Message::Heartbeat { commit, round: _ } => out.pair(7, commit.0),
            Message::HeartbeatReply { round: _ } => out.number(8),
            Message::LearnerReply { outcome: None } => out.number(9),
            Message::LearnerReply { outcome: Some(outcome) } => {
                out.number(10);
                encode_outcome(*outcome, out);
            }
            Message::Rejoin => out.number(11),
            Message::TimeoutNow => out.number(12),
            Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. }
            | Message::Fetch { .. }
            | Message::FetchReply { .. } => {
                unreachable!("neither reads nor damage are searched")
            }
        }
    }
}

/// Why a vote was denied is for people: the candidate only learns that it was.
fn encode_denial(denied: Option<DenyReason>, out: &mut Encoding) {
    out.number(u64::from(denied.is_some()));
}

fn encode_outcome(outcome: AppendOutcome, out: &mut Encoding) {
    match outcome {
        AppendOutcome::Accepted { last } => out.pair(0, last.0),
        AppendOutcome::Rejected { prev, hint } => {
            match hint {
                ConflictHint::TooShort { last } => out.pair(1, last.0),
                ConflictHint::Term { term, first } => {
                    out.number(2);
                    out.pair(term.0, first.0);
                }
            }
            out.pair(prev.term.0, prev.index.0);
        }
    }
}
