//! The state, the one entrance (`step`), the term rule, and what is held back until the disk has
//! it. What each role does is in `follower.rs`, `candidate.rs` and `leader.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tercet_seeded::{Bug, has};

use crate::event::{DropReason, Event};
use crate::io::{
    BarrierId, Config, Input, Output, Profile, Recovered, Refusal, RoleKind, Status, TransferError,
    Write,
};
use crate::leader::Leader;
use crate::membership::quorum;
use crate::message::{Envelope, FetchOutcome, Message};
use crate::repair::Repairs;
use crate::term_map::TermMap;
use crate::types::{
    EntryKind, EntryMeta, HardState, Incarnation, Index, LogPos, NodeId, NodeSet, Term, Time,
    WriteId,
};

/// A Raft core; see the crate's head.
#[derive(Clone, Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) now: Time,
    pub(crate) hard_state: HardState,
    pub(crate) log: TermMap,
    /// The Readmit entries in the log.
    pub(crate) readmits: BTreeMap<Index, (NodeId, Incarnation)>,
    /// The entries whose bytes are damaged.
    pub(crate) repairs: Repairs,
    /// Up to here this log agrees with that of the leader of this term, as its messages showed.
    pub(crate) agreed: (Term, Index),
    pub(crate) commit: Index,
    pub(crate) applied: Index,
    pub(crate) durable: Index,
    pub(crate) role: Role,
    pub(crate) leader: Option<NodeId>,
    /// When the leader was last heard from.
    pub(crate) heard_at: Option<Time>,
    pub(crate) election_at: Time,
    pub(crate) hint: Hint,
    pub(crate) attempt: u64,
    pub(crate) last_write: WriteId,
    pub(crate) durable_write: WriteId,
    /// The last write with a hard state: nothing is said before it is durable.
    pub(crate) hard_state_write: WriteId,
    /// Writes on their way to the disk, each with the last index that it makes durable and since
    /// when.
    pub(crate) writes: VecDeque<(WriteId, Index, Time)>,
    /// Messages that wait for a write. Their writes ascend.
    pub(crate) held: VecDeque<(WriteId, Envelope)>,
    pub(crate) forwarded: Forwarded,
    /// A transfer that this node gave away: until it is known who leads.
    pub(crate) handed_over: Option<(NodeId, Time)>,
    pub(crate) outputs: VecDeque<Output>,
    /// The interval that the lab set for good.
    pub(crate) heartbeat_override: Option<Duration>,
}

/// What a node is, with the data that only this role has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Role {
    Follower,
    PreCandidate {
        granted: NodeSet,
    },
    /// `granted` holds this node's own vote once that is durable.
    Candidate {
        granted: NodeSet,
    },
    Leader(Box<Leader>),
    Quarantined(Quarantine),
}

/// What a node that lost its memory knows about its way back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Quarantine {
    pub(crate) ask_at: Time,
    /// The commit index as the leader of `term` told it, for entries that this node stored from it.
    pub(crate) told: (Term, Index),
    /// The write of the hard state with which the node leaves, and by which entry.
    pub(crate) leaving: Option<(WriteId, LogPos)>,
}

/// What a closed connection says about the leader: most likely its process died, for the kernel closes
/// what a process had open at once. A hint and no more: this node asks earlier whether it could win,
/// and who hears the leader still says no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Hint {
    /// The link to the leader was lost, and nothing was heard from it since.
    pub(crate) leader_lost: bool,
    /// When this node asks, if nothing is heard until then.
    pub(crate) ask_at: Option<Time>,
    /// When it last asked for such a reason.
    pub(crate) asked_at: Option<Time>,
}

/// Read barriers that were passed on to the leader.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Forwarded {
    pub(crate) next_id: u64,
    /// On its way: its number, the barriers that it serves, and when it is given up.
    pub(crate) asked: Option<(u64, Vec<BarrierId>, Time)>,
    /// Those that came since.
    pub(crate) waiting: Vec<BarrierId>,
}

impl Raft {
    /// A core as it is after a start, with what the log gave back.
    ///
    /// # Panics
    /// If `recovered` contradicts itself.
    pub fn new(config: Config, recovered: Recovered, now: Time) -> Self {
        assert!(config.members.contains_key(&config.node), "the node is a member");
        let log = TermMap::new(recovered.runs, recovered.last);
        let role = if config.quarantined && !trusts_wiped(&config) {
            Role::Quarantined(Quarantine {
                ask_at: now,
                told: (Term(0), Index::ZERO),
                leaving: None,
            })
        } else {
            Role::Follower
        };
        let mut raft = Self {
            hard_state: recovered.hard_state,
            durable: log.last().index,
            log,
            readmits: recovered.readmits,
            repairs: Repairs::new(recovered.faulty, now),
            agreed: (Term(0), Index::ZERO),
            commit: recovered.commit,
            applied: recovered.commit,
            role,
            leader: None,
            heard_at: None,
            election_at: now,
            hint: Hint::default(),
            attempt: 0,
            last_write: WriteId(0),
            durable_write: WriteId(0),
            hard_state_write: WriteId(0),
            writes: VecDeque::new(),
            held: VecDeque::new(),
            forwarded: Forwarded::default(),
            handed_over: None,
            outputs: VecDeque::new(),
            heartbeat_override: None,
            config,
            now,
        };
        raft.reset_election_timer();
        crate::invariants::check_state(&raft);
        raft
    }

    /// The only way in which the state changes. It cannot fail: what does not fit is dropped, with
    /// an event that says why. Drain [`Self::poll_output`] afterwards.
    pub fn step(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Timeout => self.on_timeout(),
            Input::Receive(envelope) => self.on_receive(envelope),
            Input::Durable { write } => self.on_durable(write),
            Input::Propose { proposals } => {
                if let Role::Leader(_) = self.role {
                    self.lead_propose(&proposals);
                } else {
                    let reason = Refusal::NotLeader { leader: self.leader };
                    for proposal in proposals {
                        self.outputs.push_back(Output::Refused { id: proposal.id, reason });
                    }
                }
            }
            Input::Sent { to, last, bytes } => self.lead_sent(to, last, bytes),
            Input::ReadBarrier { id } => self.on_read_barrier(id),
            Input::TransferLeadership { to } => self.on_transfer(to),
            Input::Campaign => self.campaign(),
            Input::FreezeElectionTimer { frozen } => {
                self.config.election_timer_frozen = frozen;
                self.reset_election_timer();
            }
            Input::SetHeartbeatInterval { interval, until_stepdown } => {
                self.set_heartbeat_interval(interval, until_stepdown);
            }
            Input::SetRules { rules } => self.config.rules = rules,
            Input::LinkLost { peer } => self.on_link_lost(peer),
            Input::Faulty { index } => self.on_faulty(index),
            Input::Repaired { index, kind } => self.on_repaired(index, kind),
            Input::Admitted => self.on_admitted(),
        }
        crate::invariants::check_state(self);
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to step [`Input::Timeout`]; never, if the one timer that runs is frozen.
    pub fn poll_timeout(&self) -> Option<Time> {
        let own = match &self.role {
            Role::Leader(leader) => {
                let stalled_at = self.disk_stalled_at().filter(|_| self.is_modern());
                Some(stalled_at.map_or(leader.poll_timeout(), |at| at.min(leader.poll_timeout())))
            }
            Role::Quarantined(quarantine) => Some(quarantine.ask_at),
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                self.running_election_timer()
            }
        };
        let asked = self.forwarded.asked.as_ref().map(|(.., until)| *until);
        let handed = self.handed_over.map(|(_, until)| until);
        own.into_iter().chain(asked).chain(handed).chain(self.repairs.poll_timeout()).min()
    }

    // --- what can be seen ---

    /// This node.
    pub const fn node(&self) -> NodeId {
        self.config.node
    }

    /// What it is.
    pub const fn role(&self) -> RoleKind {
        match self.role {
            Role::Follower => RoleKind::Follower,
            Role::PreCandidate { .. } => RoleKind::PreCandidate,
            Role::Candidate { .. } => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
            Role::Quarantined(_) => RoleKind::Quarantined,
        }
    }

    /// Whether this node leads, or has heard a leader within an election timeout: one that means this
    /// very incarnation, for messages to another are not heard.
    pub fn is_in_touch(&self) -> bool {
        self.role() == RoleKind::Leader || self.is_active(self.heard_at)
    }

    /// The leader of this term, if known.
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The current term.
    pub const fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Term and vote, durable or not yet.
    pub const fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The last position of the log.
    pub fn last(&self) -> LogPos {
        self.log.last()
    }

    /// Committed by a quorum, as far as this node knows.
    pub const fn commit(&self) -> Index {
        self.commit
    }

    /// Synced here.
    pub const fn durable(&self) -> Index {
        self.durable
    }

    /// Handed out by [`Output::Commit`].
    pub const fn applied(&self) -> Index {
        self.applied
    }

    /// The term of an entry; `None` behind the end of the log.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The incarnation that the log admits for each slot: that of the last Readmit, else that of
    /// the beginning.
    pub fn members(&self) -> BTreeMap<NodeId, Incarnation> {
        let mut members = self.config.members.clone();
        for (node, incarnation) in self.readmits.values() {
            members.insert(*node, *incarnation);
        }
        members
    }

    /// How many bytes of entries are on their way to peers, of all together.
    pub fn inflight_bytes(&self) -> u64 {
        match &self.role {
            Role::Leader(leader) => leader.peers.values().map(|peer| peer.inflight_bytes).sum(),
            Role::Follower
            | Role::PreCandidate { .. }
            | Role::Candidate { .. }
            | Role::Quarantined(_) => 0,
        }
    }

    /// How many members the cluster has.
    pub fn member_count(&self) -> usize {
        self.config.members.len()
    }

    /// The Readmit entry at `index`, if there is one: which incarnation of which slot it admits.
    pub fn readmit_at(&self, index: Index) -> Option<(NodeId, Incarnation)> {
        self.readmits.get(&index).copied()
    }

    /// Whether all that this core ever asked to be written is durable.
    pub fn is_synced(&self) -> bool {
        self.durable_write == self.last_write
    }

    /// The members known to have the log durably up to `index`, as far as they count.
    pub fn durable_on(&self, index: Index) -> NodeSet {
        let mut nodes = NodeSet::EMPTY;
        if self.durable >= index {
            nodes.insert(self.config.node);
        }
        if let Role::Leader(leader) = &self.role {
            let has = |(_, peer): &(&NodeId, &crate::progress::Progress)| peer.matched >= index;
            for (node, _) in leader.peers.iter().filter(has) {
                nodes.insert(*node);
            }
        }
        nodes
    }

    /// Plain data for people and tools.
    pub fn status(&self) -> Status {
        let leading = match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower
            | Role::PreCandidate { .. }
            | Role::Candidate { .. }
            | Role::Quarantined(_) => None,
        };
        Status {
            node: self.config.node,
            role: self.role(),
            hard_state: self.hard_state,
            leader: self.leader,
            last: self.log.last(),
            durable: self.durable,
            commit: self.commit,
            applied: self.applied,
            committed_own_term: self.committed_own_term(),
            peers: leading.map_or(Vec::new(), |leader| {
                let status = |(node, progress): (&NodeId, &crate::progress::Progress)| {
                    progress.status(*node, self.is_active(progress.active_at))
                };
                leader.peers.iter().map(status).collect()
            }),
            members: self.members(),
            transferring_to: leading.and_then(|leader| leader.transfer.map(|transfer| transfer.to)),
            heartbeat_override: self.heartbeat_override(),
            faulty: self.faulty_status(),
            election_at: match self.role {
                Role::Leader(_) | Role::Quarantined(_) => None,
                Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                    self.running_election_timer()
                }
            },
        }
    }

    pub(crate) fn is_active(&self, at: Option<Time>) -> bool {
        at.is_some_and(|at| self.now.since(at) <= self.config.election_timeout_max)
    }

    pub(crate) fn committed_own_term(&self) -> bool {
        self.log.term_at(self.commit) == Some(self.hard_state.term)
    }

    pub(crate) fn is_modern(&self) -> bool {
        self.config.profile == Profile::Modern
    }

    pub(crate) fn peers(&self) -> NodeSet {
        self.config.members.keys().copied().filter(|node| *node != self.config.node).collect()
    }

    pub(crate) fn quorum(&self) -> usize {
        quorum(self.config.members.len())
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    // --- incarnations ---

    pub(crate) fn admitted(&self, node: NodeId) -> Option<Incarnation> {
        let by_log = self.readmits.values().rev().find(|(slot, _)| *slot == node);
        by_log
            .map(|(_, incarnation)| *incarnation)
            .or_else(|| self.config.members.get(&node).copied())
    }

    /// Whether the log knows that this incarnation was replaced by a later one.
    ///
    /// A mute node does not know: it refills its log from the beginning, and what it holds of it may be
    /// older than what its identity says, so that it cannot tell which disk is the later one. It counts
    /// nothing, and entries of a leader are good whatever became of that leader's disk since.
    fn is_superseded(&self, node: NodeId, incarnation: Incarnation) -> bool {
        if matches!(self.role, Role::Quarantined(_)) {
            return false;
        }
        let base = self.config.members.get(&node).copied();
        let by_log = self.readmits.values().filter(|(slot, _)| *slot == node).map(|(_, inc)| *inc);
        let mut history = base.into_iter().chain(by_log);
        let is_one = history.any(|inc| inc == incarnation);
        is_one && history.last().is_some_and(|now| now != incarnation)
    }

    /// Whether this node is sure of that, so that it may tell a disk that it is an old one. Who has
    /// damaged entries is not: one of them may be the latest readmission.
    pub fn is_surely_superseded(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.is_superseded(node, incarnation) && self.repairs.is_empty()
    }

    // --- receiving ---

    /// The term rule, once for all roles (Figure 2, "Rules for Servers"), after what keeps a
    /// message from being heard at all.
    fn on_receive(&mut self, envelope: Envelope) {
        let from = envelope.from;
        if let Some(why) = self.unheard(&envelope) {
            self.event(Event::Dropped { from, why });
            return;
        }
        let term = envelope.term;
        if term > self.hard_state.term && self.adopts_term(&envelope) {
            self.become_follower(term, None);
        }
        if term < self.hard_state.term {
            self.answer_old_term(&envelope);
            return;
        }
        match envelope.message {
            Message::PreVote { last } => self.on_pre_vote(from, term, last),
            Message::PreVoteReply { denied } => self.on_pre_vote_reply(from, term, denied),
            Message::Vote { last, transfer } => self.on_vote(from, term, last, transfer),
            Message::VoteReply { denied } => self.on_vote_reply(from, denied),
            Message::Append { prev, entries, commit, round } => {
                self.on_append(from, prev, entries, commit, round);
            }
            Message::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round),
            Message::AppendReply { .. }
            | Message::HeartbeatReply { .. }
            | Message::LearnerReply { .. }
            | Message::Rejoin => {
                self.lead_receive(from, envelope.from_incarnation, &envelope.message);
            }
            Message::Fetch { pos } => self.on_fetch(from, pos),
            Message::FetchReply { pos, outcome } => {
                self.on_fetch_reply(from, term, pos, outcome);
            }
            Message::TimeoutNow => self.on_timeout_now(),
            Message::ReadIndex { id } => self.on_read_index(from, id),
            Message::ReadIndexReply { id, index } => self.on_read_index_reply(id, index),
        }
    }

    fn unheard(&self, envelope: &Envelope) -> Option<DropReason> {
        let is_peer =
            envelope.from != self.config.node && self.config.members.contains_key(&envelope.from);
        if !is_peer {
            return Some(DropReason::NotAMember);
        }
        if !envelope.is_plausible() {
            return Some(DropReason::Malformed);
        }
        // A wiped node that is trusted takes the place of its old disk.
        let other_disk = !trusts_wiped(&self.config)
            && envelope.to_incarnation.is_some_and(|to| to != self.config.incarnation);
        if envelope.to != self.config.node || other_disk {
            return Some(DropReason::NotForMe);
        }
        // The entry that tells of the sender's disk may be damaged here. A copy of it is taken from
        // whoever has one: its bytes are checked by themselves, and say nothing for their sender.
        let brings_a_copy =
            matches!(envelope.message, Message::FetchReply { outcome: FetchOutcome::Whole(_), .. });
        if self.is_superseded(envelope.from, envelope.from_incarnation) && !brings_a_copy {
            return Some(DropReason::OldSender);
        }
        let speaks = matches!(
            envelope.message,
            Message::Append { .. }
                | Message::Heartbeat { .. }
                | Message::ReadIndexReply { .. }
                | Message::Fetch { .. }
                | Message::FetchReply { .. }
        );
        (matches!(self.role, Role::Quarantined(_)) && !speaks).then_some(DropReason::Muted)
    }

    /// Whether a higher term in this message is this node's from now on.
    fn adopts_term(&self, envelope: &Envelope) -> bool {
        match &envelope.message {
            // A question that changes nothing, and the answer to it.
            Message::PreVote { .. } | Message::PreVoteReply { denied: None } => false,
            // Leader stickiness: who hears a leader does not help to unseat it.
            Message::Vote { transfer, .. } => *transfer || self.alive_leader().is_none(),
            // A quarantined node has no say, not even about terms.
            Message::LearnerReply { .. } | Message::Rejoin => false,
            // Bytes of an entry have nothing to do with terms.
            Message::Fetch { .. } | Message::FetchReply { .. } => false,
            Message::PreVoteReply { denied: Some(_) }
            | Message::VoteReply { .. }
            | Message::Append { .. }
            | Message::AppendReply { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. } => true,
        }
    }

    /// The leader that this node hears, itself included (modern profile). One whose link was lost is
    /// not heard until it speaks again.
    pub(crate) fn alive_leader(&self) -> Option<NodeId> {
        if !self.is_modern() || self.lacks_check_quorum() {
            return None;
        }
        if let Role::Leader(_) = self.role {
            return Some(self.config.node);
        }
        let heard = self.heard_at.filter(|_| !self.hint.leader_lost)?;
        if self.now.since(heard) < self.config.election_timeout_min { self.leader } else { None }
    }

    pub(crate) fn lacks_check_quorum(&self) -> bool {
        self.config.rules.no_check_quorum || has(Bug::NoCheckQuorum)
    }

    // --- sending ---

    /// Sends a message when all that it depends on is durable: the hard state always, and `after`.
    pub(crate) fn send_after(&mut self, after: WriteId, to: NodeId, term: Term, message: Message) {
        let envelope = self.envelope(to, term, message);
        let mut after = after.max(self.hard_state_write);
        if has(Bug::VoteBeforeSync) && matches!(envelope.message, Message::VoteReply { .. }) {
            after = WriteId(0);
        }
        if after <= self.durable_write || self.config.rules.speak_before_durable {
            self.outputs.push_back(Output::Send(envelope));
        } else {
            let after = self.held.back().map_or(after, |(last, _)| after.max(*last));
            self.held.push_back((after, envelope));
        }
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        self.send_after(WriteId(0), to, self.hard_state.term, message);
    }

    pub(crate) fn envelope(&self, to: NodeId, term: Term, message: Message) -> Envelope {
        let to_incarnation = match &self.role {
            Role::Leader(leader) => leader.peers.get(&to).map(|peer| peer.incarnation),
            // Who is behind may not know who was readmitted: it names nobody.
            Role::Follower
            | Role::PreCandidate { .. }
            | Role::Candidate { .. }
            | Role::Quarantined(_) => None,
        };
        Envelope {
            from: self.config.node,
            from_incarnation: self.config.incarnation,
            to,
            to_incarnation,
            term,
            message,
        }
    }

    // --- the disk ---

    pub(crate) fn write(
        &mut self,
        hard_state: Option<HardState>,
        truncate_from: Option<Index>,
        first: Index,
        entries: Vec<EntryMeta>,
    ) -> WriteId {
        self.last_write.0 += 1;
        let id = self.last_write;
        if hard_state.is_some() {
            self.hard_state_write = id;
        }
        self.writes.push_back((id, self.log.last().index, self.now));
        self.outputs.push_back(Output::Write(Write {
            id,
            hard_state,
            truncate_from,
            first,
            entries,
        }));
        id
    }

    /// Stores term and vote; nothing is said before they are durable.
    pub(crate) fn set_hard_state(&mut self, term: Term, vote: Option<NodeId>) -> WriteId {
        assert!(term >= self.hard_state.term, "terms do not go back");
        let next = HardState { term, vote };
        if next == self.hard_state {
            return self.hard_state_write;
        }
        assert!(
            term > self.hard_state.term
                || self.hard_state.vote.is_none()
                || self.hard_state.vote == vote,
            "one vote per term: {:?} then {vote:?} in {term}",
            self.hard_state.vote
        );
        if term > self.hard_state.term {
            self.event(Event::TermChanged { from: self.hard_state.term, to: term });
        }
        self.hard_state = next;
        if has(Bug::RejoinWithoutTerm) && matches!(self.role, Role::Quarantined(_)) {
            return self.hard_state_write;
        }
        self.write(Some(next), None, self.log.last().index.next(), Vec::new())
    }

    /// Appends entries, after cutting the log from `truncate_from` on.
    pub(crate) fn append(
        &mut self,
        truncate_from: Option<Index>,
        entries: Vec<EntryMeta>,
    ) -> WriteId {
        if let Some(from) = truncate_from {
            let to = self.log.last().index;
            self.log.truncate(from);
            self.readmits.split_off(&from);
            self.repairs.truncate(from);
            // What was on its way to the disk behind the cut is not what stands there now.
            self.durable = self.durable.min(from.prev());
            for (_, last, _) in &mut self.writes {
                *last = (*last).min(from.prev());
            }
            // Nor will what waits to be said of it ever be true.
            self.held.retain(|(_, envelope)| envelope.message.accepted() < Some(from));
            self.event(Event::Truncated { from, to });
        }
        let first = self.log.last().index.next();
        for meta in &entries {
            self.log.push(meta.term);
            if let EntryKind::Readmit { node, incarnation } = meta.kind {
                self.readmits.insert(self.log.last().index, (node, incarnation));
            }
        }
        if let Some(last) = entries.last() {
            self.event(Event::Appended { first, last: self.log.last().index, term: last.term });
        }
        self.write(None, truncate_from, first, entries)
    }

    /// The write after which everything up to `index` is durable; `WriteId(0)` if it is already.
    pub fn write_of(&self, index: Index) -> WriteId {
        if index <= self.durable {
            return WriteId(0);
        }
        let covering = self.writes.iter().find(|(_, last, _)| *last >= index);
        covering.map_or(self.last_write, |(id, ..)| *id)
    }

    fn on_durable(&mut self, write: WriteId) {
        assert!(write <= self.last_write, "{write:?} was asked for");
        self.durable_write = self.durable_write.max(write);
        let before = self.durable;
        while let Some((id, last, _)) = self.writes.front().copied()
            && id <= write
        {
            self.writes.pop_front();
            self.durable = self.durable.max(last);
        }
        if self.durable > before {
            self.event(Event::Durable { last: self.durable });
        }
        while let Some((after, _)) = self.held.front()
            && *after <= self.durable_write
        {
            let (_, envelope) = self.held.pop_front().expect("looked at above");
            self.outputs.push_back(Output::Send(envelope));
        }
        match self.role {
            Role::Candidate { .. } => self.count_own_vote(),
            Role::Leader(_) => self.lead_durable(),
            Role::Quarantined(_) => self.maybe_leave(),
            Role::Follower | Role::PreCandidate { .. } => {}
        }
        self.hand_out_commit();
    }

    /// The last write with a hard state.
    pub const fn hard_state_write(&self) -> WriteId {
        self.hard_state_write
    }

    pub(crate) fn is_hard_state_durable(&self) -> bool {
        self.hard_state_write <= self.durable_write
    }

    /// Whether this write was reported durable.
    pub fn is_durable(&self, write: WriteId) -> bool {
        write <= self.durable_write
    }

    /// When the disk counts as stalled, if what it is writing does not get done: a leader that
    /// cannot write must not keep the others from electing one that can.
    pub(crate) fn disk_stalled_at(&self) -> Option<Time> {
        let (_, _, since) = self.writes.front().filter(|_| !has(Bug::BeatWhileStalled))?;
        Some(since.after(self.config.election_timeout_max))
    }

    pub(crate) fn is_disk_stalled(&self) -> bool {
        self.disk_stalled_at().is_some_and(|at| at <= self.now)
    }

    // --- commit ---

    pub(crate) fn advance_commit(&mut self, to: Index) {
        assert!(to <= self.log.last().index, "what is committed is in the log");
        if to > self.commit {
            let leads = self.role() == RoleKind::Leader;
            self.event(Event::Committed { from: self.commit, to, leads });
            self.commit = to;
        }
        self.hand_out_commit();
    }

    /// Committed by a quorum *and* durable here: only that is applied.
    pub(crate) fn hand_out_commit(&mut self) {
        let last = self.commit.min(self.durable);
        if last > self.applied {
            self.applied = last;
            self.outputs.push_back(Output::Commit { last });
        }
    }

    // --- roles ---

    /// Follows `leader` in `term`, or waits for one. A quarantined node stays what it is.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        let was = self.role();
        let by_term = term > self.hard_state.term;
        if by_term {
            self.set_hard_state(term, None);
            self.heard_at = None;
        }
        if let Role::Quarantined(quarantine) = &mut self.role {
            quarantine.leaving = quarantine.leaving.filter(|_| self.leader == leader);
        } else {
            if let Role::Leader(_) = self.role {
                self.stop_leading();
            }
            if has(Bug::ForgetVoteOnStepDown) && !by_term && was != RoleKind::Follower {
                self.hard_state.vote = None;
                let forgotten = Some(self.hard_state);
                self.write(forgotten, None, self.log.last().index.next(), Vec::new());
            }
            self.role = Role::Follower;
        }
        if self.leader != leader {
            self.leader = leader;
            self.fail_forwarded();
            if let Some(leader) = leader {
                self.event(Event::LeaderKnown { leader, term });
            }
        }
        if was != self.role() {
            self.event(Event::Role { was, role: self.role(), term, by_term });
            self.reset_election_timer();
        }
        self.note_handed_over();
    }

    pub(crate) fn set_role(&mut self, role: Role) {
        let was = self.role();
        self.role = role;
        let term = self.hard_state.term;
        self.event(Event::Role { was, role: self.role(), term, by_term: false });
    }

    pub(crate) const fn running_election_timer(&self) -> Option<Time> {
        match (self.config.election_timer_frozen, self.hint.ask_at) {
            (true, _) => None,
            (false, Some(ask_at)) if ask_at.0 < self.election_at.0 => Some(ask_at),
            (false, _) => Some(self.election_at),
        }
    }

    /// Draws the next election timeout: a pure function of (seed, node, attempt).
    pub(crate) fn reset_election_timer(&mut self) {
        self.attempt += 1;
        self.hint.ask_at = None;
        let (min, max) = (self.config.election_timeout_min, self.config.election_timeout_max);
        let spread = u64::try_from(max.saturating_sub(min).as_micros()).unwrap_or(u64::MAX);
        let node = u64::from(self.config.node.slot());
        let draw = mix(self.config.seed ^ mix(node << 48 ^ self.attempt));
        let extra = Duration::from_micros(draw % spread.saturating_add(1).max(1));
        self.election_at = self.now.after(min + extra);
    }

    fn on_timeout(&mut self) {
        if self.forwarded.asked.as_ref().is_some_and(|(.., until)| *until <= self.now) {
            self.fail_forwarded();
        }
        if let Some((to, _)) = self.handed_over.filter(|(_, until)| *until <= self.now) {
            self.handed_over = None;
            self.event(Event::TransferGivenUp { to });
            self.outputs.push_back(Output::TransferEnded { result: Err(TransferError::TimedOut) });
        }
        self.repair_timeout();
        match &self.role {
            Role::Leader(_) => self.lead_timeout(),
            Role::Quarantined(quarantine) => {
                if quarantine.ask_at <= self.now {
                    self.ask_to_rejoin();
                }
            }
            Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                if self.running_election_timer().is_some_and(|at| at <= self.now) {
                    if self.election_at <= self.now {
                        self.event(Event::ElectionTimeout { term: self.hard_state.term });
                    } else {
                        self.hint.asked_at = Some(self.now);
                    }
                    self.campaign();
                }
            }
        }
    }

    fn on_link_lost(&mut self, peer: NodeId) {
        if self.leader == Some(peer) {
            self.fail_forwarded();
            self.lose_leader(peer);
        }
        self.lead_link_lost(peer);
    }

    /// The link to the leader was lost. Once for each time that the leader is heard, and not more often
    /// than timers could do it, so that a link that comes and goes brings no stream of questions.
    fn lose_leader(&mut self, leader: NodeId) {
        let is_first = !std::mem::replace(&mut self.hint.leader_lost, true);
        if !is_first || !self.is_modern() || self.role() != RoleKind::Follower {
            return;
        }
        self.event(Event::LeaderLost { leader, term: self.hard_state.term });
        let min = self.config.election_timeout_min;
        let is_too_soon = self.hint.asked_at.is_some_and(|at| self.now.since(at) < min);
        let may_ask = self.asks_first() && self.may_lead();
        if self.config.election_timer_frozen || is_too_soon || !may_ask {
            return;
        }
        // One after the other, so that the votes are not split: first a moment in which the others
        // notice, too, then for each that comes before this node the time of an election.
        let before =
            self.peers().iter().filter(|peer| *peer < self.config.node && *peer != leader).count();
        let turns = u32::try_from(before).expect("few nodes");
        self.hint.ask_at = Some(self.now.after(min / 64 + min / 16 * turns));
    }

    /// Whoever waits for the leader's answer to a read barrier gets none.
    pub(crate) fn fail_forwarded(&mut self) {
        let asked = self.forwarded.asked.take().map_or(Vec::new(), |(_, ids, _)| ids);
        let waiting = std::mem::take(&mut self.forwarded.waiting);
        for id in asked.into_iter().chain(waiting) {
            self.outputs.push_back(Output::BarrierFailed { id });
        }
    }

    /// A transfer that this node gave away is done when somebody else leads.
    pub(crate) fn note_handed_over(&mut self) {
        if self.handed_over.is_some()
            && let Some(leader) = self.leader.filter(|leader| *leader != self.config.node)
        {
            self.handed_over = None;
            self.outputs.push_back(Output::TransferEnded { result: Ok(leader) });
        }
    }
}

/// Whether a wiped node is a plain voter.
pub(crate) fn trusts_wiped(config: &Config) -> bool {
    config.rules.trust_wiped || has(Bug::WipedVotes)
}

/// A good mixing of 64 bits (the finaliser of `SplitMix64`).
const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
