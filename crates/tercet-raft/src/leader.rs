//! Leading: replicating, committing by counting, read barriers, handing over, readmitting.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tercet_seeded::{Bug, has};

use crate::event::{DropReason, Event};
use crate::io::{BarrierId, Output, ProgressKind, Proposal, Refusal, TransferError};
use crate::membership::reached_by_quorum;
use crate::message::{AppendOutcome, ConflictHint, Message};
use crate::progress::Progress;
use crate::raft::{Raft, Role, trusts_wiped};
use crate::types::{EntryKind, EntryMeta, Incarnation, Index, LogPos, NodeId, Time};

/// What only a leader has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Leader {
    pub(crate) peers: BTreeMap<NodeId, Progress>,
    /// Counts the rounds of heartbeats: an answer to a round shows that this node led when it was
    /// sent.
    pub(crate) round: u64,
    pub(crate) heartbeat_at: Time,
    pub(crate) quorum_check_at: Time,
    pub(crate) transfer: Option<Transfer>,
    /// (index, bytes) of the payload entries that are not committed.
    pub(crate) uncommitted: VecDeque<(Index, u64)>,
    pub(crate) uncommitted_bytes: u64,
    pub(crate) barriers: VecDeque<Barrier>,
    /// When a slot may next be readmitted.
    pub(crate) readmit_after: BTreeMap<NodeId, Time>,
    /// The interval that the lab set for as long as this node leads.
    pub(crate) heartbeat_override: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
    pub(crate) until: Time,
    pub(crate) asked: bool,
}

/// A read that waits for a round. In the order in which they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Barrier {
    /// Who asks: a peer, or this node's driver.
    origin: Option<NodeId>,
    id: u64,
    /// Confirmed by this round; `None` until one is sent for it.
    round: Option<u64>,
    until: Time,
}

impl Leader {
    pub(crate) fn poll_timeout(&self) -> Time {
        let transfer = self.transfer.map_or(self.heartbeat_at, |transfer| transfer.until);
        self.heartbeat_at.min(self.quorum_check_at).min(transfer)
    }
}

impl Raft {
    fn leading(&mut self) -> Option<&mut Leader> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower
            | Role::PreCandidate { .. }
            | Role::Candidate { .. }
            | Role::Quarantined(_) => None,
        }
    }

    pub(crate) fn become_leader(&mut self) {
        let next = self.log.last().index.next();
        let members = self.members();
        let peers = self.peers().iter().map(|peer| (peer, Progress::new(members[&peer], next)));
        let leader = Leader {
            peers: peers.collect(),
            round: 0,
            heartbeat_at: self.now,
            quorum_check_at: self.now.after(self.config.election_timeout_max),
            transfer: None,
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            barriers: VecDeque::new(),
            readmit_after: BTreeMap::new(),
            heartbeat_override: None,
        };
        self.leader = Some(self.config.node);
        self.set_role(Role::Leader(Box::new(leader)));
        self.event(Event::LeaderKnown { leader: self.config.node, term: self.hard_state.term });
        self.handed_over = None;
        if self.is_modern() {
            self.append_own(EntryKind::Noop);
        }
        self.beat();
    }

    fn append_own(&mut self, kind: EntryKind) -> LogPos {
        self.append(None, vec![EntryMeta { term: self.hard_state.term, kind }]);
        self.send_to_all();
        self.log.last()
    }

    /// This node leads no more: whoever waits for it is told.
    pub(crate) fn stop_leading(&mut self) {
        let election_timeout_max = self.config.election_timeout_max;
        let until = self.now.after(election_timeout_max);
        let Some(leader) = self.leading() else { return };
        let barriers = std::mem::take(&mut leader.barriers);
        let was_set = leader.heartbeat_override.is_some();
        let transfer = leader.transfer.take();
        self.leader = None;
        if was_set {
            self.event(Event::HeartbeatInterval { ms: None });
        }
        for barrier in barriers {
            self.end_barrier(barrier, None);
        }
        // Most likely the target leads now; it says so itself.
        self.handed_over = transfer.map(|transfer| (transfer.to, until));
    }

    // --- time ---

    /// The interval of heartbeats that the lab set, if it differs from the configured one.
    pub const fn heartbeat_override(&self) -> Option<Duration> {
        match &self.role {
            Role::Leader(leader) if leader.heartbeat_override.is_some() => {
                leader.heartbeat_override
            }
            Role::Leader(_)
            | Role::Follower
            | Role::PreCandidate { .. }
            | Role::Candidate { .. }
            | Role::Quarantined(_) => self.heartbeat_override,
        }
    }

    fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_override().unwrap_or(self.config.heartbeat_interval)
    }

    pub(crate) fn set_heartbeat_interval(
        &mut self,
        interval: Option<Duration>,
        until_stepdown: bool,
    ) {
        match self.leading() {
            Some(leader) => {
                leader.heartbeat_override = interval.filter(|_| until_stepdown);
            }
            None if until_stepdown => return,
            None => {}
        }
        if !until_stepdown {
            self.heartbeat_override = interval;
        }
        let ms = interval.map(|interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
        self.event(Event::HeartbeatInterval { ms });
        let next_beat = self.now.after(self.heartbeat_interval());
        if let Some(leader) = self.leading() {
            leader.heartbeat_at = next_beat;
        }
    }

    pub(crate) fn lead_timeout(&mut self) {
        let (now, term) = (self.now, self.hard_state.term);
        let Some(leader) = self.leading() else { return };
        if let Some(transfer) = leader.transfer.filter(|transfer| transfer.until <= now) {
            leader.transfer = None;
            self.event(Event::TransferGivenUp { to: transfer.to });
            self.outputs.push_back(Output::TransferEnded { result: Err(TransferError::TimedOut) });
        }
        self.expire_barriers();
        if self.is_modern() && self.is_disk_stalled() && !has(Bug::BeatWhileStalled) {
            self.event(Event::DiskStalled { term });
            self.become_follower(term, None);
            return;
        }
        let check = self.is_modern() && !self.lacks_check_quorum();
        let until = now.after(self.config.election_timeout_max);
        let Some(leader) = self.leading() else { return };
        if leader.quorum_check_at <= now {
            leader.quorum_check_at = until;
            if check && !self.hears_quorum() {
                self.event(Event::QuorumLost { term });
                self.become_follower(term, None);
                return;
            }
        }
        if self.leading().is_some_and(|leader| leader.heartbeat_at <= now) {
            self.beat();
        }
    }

    fn hears_quorum(&self) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let active = |peer: &&Progress| !peer.quarantined && self.is_active(peer.active_at);
        1 + leader.peers.values().filter(active).count() >= self.quorum()
    }

    /// One round: shows every peer that this node leads, and sends again what may be lost.
    fn beat(&mut self) {
        let next_beat = self.now.after(self.heartbeat_interval());
        let (commit, is_modern) = (self.commit, self.is_modern());
        let Some(leader) = self.leading() else { return };
        leader.heartbeat_at = next_beat;
        leader.round += 1;
        let round = leader.round;
        for barrier in &mut leader.barriers {
            barrier.round.get_or_insert(round);
        }
        let mut heartbeats = Vec::new();
        for (peer, progress) in &mut leader.peers {
            progress.waiting = false;
            heartbeats.push((*peer, progress.stored().min(commit)));
        }
        for (peer, commit) in heartbeats {
            if is_modern {
                self.send(peer, Message::Heartbeat { commit, round });
            }
            self.send_entries(peer);
        }
        self.confirm_barriers();
    }

    // --- replication ---

    fn send_to_all(&mut self) {
        for peer in self.peers().iter() {
            self.send_entries(peer);
        }
    }

    /// Sends what a peer may get now: one probe, or the next of the stream.
    fn send_entries(&mut self, to: NodeId) {
        let last = self.log.last().index;
        let is_modern = self.is_modern();
        let (message_max, inflight_max, messages_max) = (
            self.config.message_bytes_max,
            self.config.inflight_bytes_max,
            self.config.inflight_messages_max,
        );
        let commit = self.commit;
        let next_of = |leader: &Leader| leader.peers.get(&to).map(|peer| peer.next);
        let is_damaged =
            self.leading().and_then(|leader| next_of(leader)).is_some_and(|at| self.is_faulty(at));
        let Some(leader) = self.leading() else { return };
        let round = leader.round;
        let Some(peer) = leader.peers.get_mut(&to) else {
            return;
        };
        if peer.sending {
            return;
        }
        // A damaged entry cannot be sent; but that this node leads is said all the same.
        let has_entries = peer.next <= last && !is_damaged;
        let bytes_max = match peer.kind {
            ProgressKind::Probe if peer.waiting => return,
            ProgressKind::Probe => {
                peer.waiting = true;
                if is_modern { message_max } else { u64::MAX }
            }
            ProgressKind::Replicate => {
                let is_full =
                    peer.inflight_bytes >= inflight_max || peer.inflight.len() >= messages_max;
                if !has_entries || is_full {
                    return;
                }
                message_max.min(inflight_max - peer.inflight_bytes)
            }
        };
        let next = peer.next;
        peer.sending = has_entries;
        let index = next.prev();
        let prev =
            LogPos { term: self.log.term_at(index).expect("next is at most one behind"), index };
        let message = Message::Append { prev, entries: Vec::new(), commit, round };
        if has_entries {
            let envelope = self.envelope(to, self.hard_state.term, message);
            self.outputs.push_back(Output::SendEntries { envelope, last, bytes_max });
        } else {
            self.send(to, message);
        }
    }

    pub(crate) fn lead_sent(&mut self, to: NodeId, last: Index, bytes: u64) {
        let log_last = self.log.last().index;
        let Some(peer) = self.leading().and_then(|leader| leader.peers.get_mut(&to)) else {
            return;
        };
        if !std::mem::take(&mut peer.sending) {
            return;
        }
        let sent = last >= peer.next && last <= log_last;
        if peer.kind == ProgressKind::Replicate && sent {
            peer.note_sent(last, bytes);
            self.send_entries(to);
        }
    }

    pub(crate) fn lead_link_lost(&mut self, peer: NodeId) {
        let Some(progress) = self.leading().and_then(|leader| leader.peers.get_mut(&peer)) else {
            return;
        };
        let next = if progress.kind == ProgressKind::Probe {
            progress.next
        } else {
            progress.stored().next()
        };
        progress.become_probe(next);
        progress.sending = false;
        // The next heartbeat tries again.
        progress.waiting = true;
    }

    /// Which disk of a peer counts was not known until now: what is sent is for that one, and what an
    /// earlier one had stored is gone.
    pub(crate) fn lead_learned_of_readmission(&mut self, node: NodeId) {
        let admitted = self.admitted(node);
        let next = self.log.last().index.next();
        let Some(peer) = self.leading().and_then(|leader| leader.peers.get_mut(&node)) else {
            return;
        };
        // One that is mute has spoken for itself, with a disk that is later still.
        if let Some(incarnation) = admitted.filter(|now| *now != peer.incarnation)
            && !peer.quarantined
        {
            let had = peer.matched;
            peer.become_empty(incarnation, false, next);
            self.event(Event::Amnesia { peer: node, had, incarnation });
        }
    }

    /// Answers of peers.
    pub(crate) fn lead_receive(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        message: &Message,
    ) {
        let now = self.now;
        let admitted = self.admitted(from);
        let is_early = has(Bug::RejoinAtCommit) || has(Bug::RejoinAtEnd);
        let trust = trusts_wiped(&self.config) || is_early;
        let next = self.log.last().index.next();
        let Some(peer) = self.leading().and_then(|leader| leader.peers.get_mut(&from)) else {
            return;
        };
        let speaks_muted = matches!(message, Message::Rejoin | Message::LearnerReply { .. });
        if speaks_muted {
            if peer.incarnation != incarnation || !peer.quarantined {
                // What the lost disk had acknowledged is not there any more: next index walks
                // back below the old match index.
                let had = peer.matched;
                peer.become_empty(incarnation, true, next);
                self.event(Event::Amnesia { peer: from, had, incarnation });
            }
        } else if peer.incarnation != incarnation || peer.quarantined {
            if admitted != Some(incarnation) && !trust {
                // Only who is admitted counts (a leader's log has every Readmit that let a node go).
                self.event(Event::Dropped { from, why: DropReason::OldSender });
                return;
            }
            let had = peer.matched;
            let was_quarantined = peer.quarantined;
            peer.become_empty(incarnation, false, next);
            self.event(if was_quarantined {
                Event::PeerReadmitted { peer: from }
            } else {
                Event::Amnesia { peer: from, had, incarnation }
            });
            self.send_entries(from);
        }
        let Some(peer) = self.leading().and_then(|leader| leader.peers.get_mut(&from)) else {
            return;
        };
        match message {
            Message::AppendReply { round, outcome } => {
                peer.active_at = Some(now);
                peer.round = peer.round.max(*round);
                self.on_outcome(from, *outcome);
                self.confirm_barriers();
            }
            Message::HeartbeatReply { round } => {
                peer.active_at = Some(now);
                peer.round = peer.round.max(*round);
                self.note_heard(from);
                self.confirm_barriers();
            }
            Message::LearnerReply { outcome: Some(outcome) } => self.on_outcome(from, *outcome),
            Message::LearnerReply { outcome: None } => self.note_heard(from),
            Message::Rejoin => self.maybe_readmit(from, incarnation),
            Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::Vote { .. }
            | Message::VoteReply { .. }
            | Message::Append { .. }
            | Message::Heartbeat { .. }
            | Message::Fetch { .. }
            | Message::FetchReply { .. }
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. } => unreachable!("not an answer to a leader"),
        }
    }

    /// A peer answered a heartbeat: did anything move since the last one?
    fn note_heard(&mut self, from: NodeId) {
        let Some(peer) = self.leading().and_then(|leader| leader.peers.get_mut(&from)) else {
            return;
        };
        let stored = peer.stored();
        let stalled = stored == peer.stored_at_heartbeat && !peer.inflight.is_empty();
        peer.stored_at_heartbeat = stored;
        let prev = peer.next.prev();
        if stalled {
            self.probe_gap(from, prev);
        }
    }

    /// Nothing moved since the last heartbeat: an empty message behind the stream shows a gap, if
    /// there is one, as a refusal.
    fn probe_gap(&mut self, to: NodeId, index: Index) {
        let commit = self.commit;
        let term = self.log.term_at(index).expect("next is at most one behind the log");
        let Some(leader) = self.leading() else { return };
        let round = leader.round;
        let prev = LogPos { term, index };
        self.send(to, Message::Append { prev, entries: Vec::new(), commit, round });
    }

    fn on_outcome(&mut self, from: NodeId, outcome: AppendOutcome) {
        match outcome {
            AppendOutcome::Accepted { last } => self.on_accepted(from, last),
            AppendOutcome::Rejected { prev, hint } => self.on_rejected(from, prev, hint),
        }
    }

    fn on_accepted(&mut self, from: NodeId, last: Index) {
        if last > self.log.last().index {
            self.event(Event::Dropped { from, why: DropReason::Malformed });
            return;
        }
        let is_modern = self.is_modern();
        let Some(peer) = self.leading().and_then(|leader| leader.peers.get_mut(&from)) else {
            return;
        };
        let before = peer.stored();
        let is_news = peer.note_stored(last);
        if peer.kind == ProgressKind::Probe {
            // An answer to an older message says less than what was probed for.
            if last >= peer.next.prev() {
                if is_modern {
                    peer.become_replicate();
                } else {
                    peer.waiting = false;
                }
            }
        }
        let quarantined = peer.quarantined;
        let next = peer.next;
        if is_news && !quarantined {
            self.event(Event::MatchIndex { peer: from, from: before, to: last });
            self.maybe_commit();
            self.maybe_hand_over();
        }
        // Before a damaged one the next heartbeat is soon enough.
        if next <= self.log.last().index && !self.is_faulty(next) {
            self.send_entries(from);
        }
        // A node that waits to leave quarantine must hear that its Readmit is committed.
        if quarantined && is_news {
            let commit = last.min(self.commit);
            let Some(leader) = self.leading() else { return };
            let round = leader.round;
            self.send(from, Message::Heartbeat { commit, round });
        }
    }

    fn on_rejected(&mut self, from: NodeId, prev: LogPos, hint: ConflictHint) {
        if has(Bug::RefusalRaisesMatch) {
            self.on_accepted(from, prev.index);
            return;
        }
        if !self.log.contains(prev) {
            // This leader never asked for it: its log has only grown since it leads.
            self.event(Event::Dropped { from, why: DropReason::Malformed });
            return;
        }
        let next = match (self.is_modern(), hint) {
            (false, _) => prev.index,
            (true, ConflictHint::TooShort { last }) => last.next(),
            (true, ConflictHint::Term { term, first }) => {
                self.log.last_of(term).map_or(first, Index::next)
            }
        };
        let commit = self.commit;
        let Some(leader) = self.leading() else { return };
        let round = leader.round;
        let Some(peer) = leader.peers.get_mut(&from) else { return };
        let acknowledged = peer.matched;
        let is_short = matches!(hint, ConflictHint::TooShort { last } if last < acknowledged);
        if prev.index <= acknowledged || is_short {
            // An old answer; or the peer has lost what it had acknowledged, and does not know. It
            // finds out by a heartbeat, which names that.
            let commit = acknowledged.min(commit);
            self.send(from, Message::Heartbeat { commit, round });
        }
        let Some(peer) = self.leading().and_then(|leader| leader.peers.get_mut(&from)) else {
            return;
        };
        let is_stale = match peer.kind {
            ProgressKind::Probe => prev.index != peer.next.prev(),
            ProgressKind::Replicate => prev.index <= peer.stored(),
        };
        if is_stale || prev.index == Index::ZERO {
            return;
        }
        let before = peer.next;
        // Always at least one step back, never below what is known to be there.
        peer.become_probe(next.min(prev.index).max(Index(1)));
        peer.sending = false;
        let after = peer.next;
        self.event(Event::NextIndex { peer: from, from: before, to: after });
        self.send_entries(from);
    }

    // --- commit ---

    /// A damaged entry is whole again: it counts here, and can be sent.
    pub(crate) fn lead_repaired(&mut self) {
        self.lead_durable();
        self.send_to_all();
    }

    /// This node's own disk has more.
    pub(crate) fn lead_durable(&mut self) {
        self.maybe_commit();
        self.confirm_barriers();
    }

    /// §5.3, §5.4.2: what a majority holds durably is committed, if it is of this term.
    fn maybe_commit(&mut self) {
        let own = self.counted(self.durable);
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let counted = |peer: &Progress| {
            if peer.quarantined { Index::ZERO } else { peer.matched }
        };
        let matched = leader.peers.values().map(counted).chain(std::iter::once(own));
        let to = reached_by_quorum(matched);
        let of_this_term = self.log.term_at(to) == Some(self.hard_state.term);
        let counts_any = self.config.rules.commit_old_terms || has(Bug::CommitOldTerms);
        if to <= self.commit || !(of_this_term || counts_any) {
            return;
        }
        self.advance_commit(to);
        // Followers hear of it soon, but not by a message for each commit.
        let soon = self.now.after(self.heartbeat_interval() / 16);
        let Some(leader) = self.leading() else { return };
        leader.heartbeat_at = leader.heartbeat_at.min(soon);
        while let Some((index, bytes)) = leader.uncommitted.front().copied()
            && index <= to
        {
            leader.uncommitted.pop_front();
            leader.uncommitted_bytes -= bytes;
        }
        let waits = leader.barriers.iter().any(|barrier| barrier.round.is_none());
        if waits {
            self.begin_round();
        }
    }

    // --- proposals ---

    pub(crate) fn lead_propose(&mut self, proposals: &[Proposal]) {
        let term = self.hard_state.term;
        let limit = self.config.uncommitted_bytes_max;
        let mut index = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        for Proposal { id, bytes } in proposals.iter().copied() {
            let too_much = leader.uncommitted_bytes > 0 && leader.uncommitted_bytes + bytes > limit;
            if leader.transfer.is_some() {
                self.outputs.push_back(Output::Refused { id, reason: Refusal::Transferring });
            } else if too_much {
                self.outputs.push_back(Output::Refused { id, reason: Refusal::Overloaded });
            } else {
                index = index.next();
                leader.uncommitted.push_back((index, bytes));
                leader.uncommitted_bytes += bytes;
                self.outputs.push_back(Output::Accepted { id, pos: LogPos { term, index } });
            }
        }
        let count =
            usize::try_from(index.0 - self.log.last().index.0).expect("at most all proposals");
        if count > 0 {
            self.append(None, vec![EntryMeta { term, kind: EntryKind::Payload }; count]);
            self.send_to_all();
        }
    }

    // --- reads (thesis §6.4) ---

    pub(crate) fn on_read_index(&mut self, from: NodeId, id: u64) {
        if let Role::Leader(_) = self.role {
            self.lead_barrier(Some(from), id);
        } else {
            self.send(from, Message::ReadIndexReply { id, index: None });
        }
    }

    pub(crate) fn lead_barrier(&mut self, origin: Option<NodeId>, id: u64) {
        let until = self.now.after(self.config.election_timeout_max);
        let can_serve = self.can_serve();
        if has(Bug::ReadWithoutRound) && can_serve {
            let barrier = Barrier { origin, id, round: None, until };
            self.end_barrier(barrier, Some(self.commit));
            return;
        }
        let Some(leader) = self.leading() else { return };
        leader.barriers.push_back(Barrier { origin, id, round: None, until });
        // While a round is on its way the next one waits for it: it then serves all that came.
        let on_its_way = leader.barriers.iter().any(|barrier| barrier.round.is_some());
        if can_serve && !on_its_way {
            self.begin_round();
        }
    }

    fn can_serve(&self) -> bool {
        self.committed_own_term() || has(Bug::ReadBeforeOwnCommit)
    }

    fn begin_round(&mut self) {
        if self.can_serve() {
            self.beat();
        }
    }

    /// A majority answered a round that began after the read came: this node led then, so what it
    /// has committed now is at least what was acknowledged before the read.
    fn confirm_barriers(&mut self) {
        if !self.can_serve() {
            return;
        }
        let Some(leader) = self.leading() else { return };
        if leader.barriers.is_empty() {
            return;
        }
        let counted = |peer: &Progress| if peer.quarantined { 0 } else { peer.round };
        let own = leader.round;
        let rounds = leader.peers.values().map(counted).chain(std::iter::once(own));
        let confirmed = reached_by_quorum(rounds);
        let ready = |barrier: &Barrier| barrier.round.is_some_and(|round| round <= confirmed);
        let mut done = Vec::new();
        while leader.barriers.front().is_some_and(ready) {
            done.extend(leader.barriers.pop_front());
        }
        let is_next_due = !done.is_empty() && !leader.barriers.is_empty();
        let commit = self.commit;
        for barrier in done {
            self.end_barrier(barrier, Some(commit));
        }
        if is_next_due {
            self.begin_round();
        }
    }

    fn expire_barriers(&mut self) {
        let now = self.now;
        let Some(leader) = self.leading() else { return };
        let mut late = Vec::new();
        while leader.barriers.front().is_some_and(|barrier| barrier.until <= now) {
            late.extend(leader.barriers.pop_front());
        }
        for barrier in late {
            self.end_barrier(barrier, None);
        }
    }

    fn end_barrier(&mut self, barrier: Barrier, index: Option<Index>) {
        let id = BarrierId(barrier.id);
        match (barrier.origin, index) {
            (Some(peer), index) => {
                self.send(peer, Message::ReadIndexReply { id: barrier.id, index });
            }
            (None, Some(index)) => self.outputs.push_back(Output::BarrierReady { id, index }),
            (None, None) => self.outputs.push_back(Output::BarrierFailed { id }),
        }
    }

    // --- handing over (thesis §3.10) ---

    pub(crate) fn lead_transfer(&mut self, to: Option<NodeId>) {
        let (now, me) = (self.now, self.config.node);
        let until = now.after(self.config.election_timeout_max);
        let active_since = self.config.election_timeout_max;
        if to == Some(me) {
            self.outputs.push_back(Output::TransferEnded { result: Ok(me) });
            return;
        }
        let Some(leader) = self.leading() else { return };
        let best = || {
            let fit = |(_, peer): &(&NodeId, &Progress)| {
                let active = peer.active_at.is_some_and(|at| now.since(at) <= active_since);
                !peer.quarantined && active
            };
            let peers = leader.peers.iter().filter(fit);
            peers.max_by_key(|(_, peer)| peer.matched).map(|(node, _)| *node)
        };
        let target = to.or_else(best);
        let result = match target {
            _ if leader.transfer.is_some() => Err(TransferError::Busy),
            Some(to) if leader.peers.get(&to).is_some_and(|peer| !peer.quarantined) => Ok(to),
            Some(_) | None => Err(TransferError::BadTarget),
        };
        match result {
            Ok(to) => {
                leader.transfer = Some(Transfer { to, until, asked: false });
                self.event(Event::TransferBegun { to });
                self.send_entries(to);
                self.maybe_hand_over();
            }
            Err(error) => self.outputs.push_back(Output::TransferEnded { result: Err(error) }),
        }
    }

    /// The target is level with this log: it may campaign.
    fn maybe_hand_over(&mut self) {
        let last = self.log.last().index;
        let Some(leader) = self.leading() else { return };
        let Some(transfer) = &mut leader.transfer else {
            return;
        };
        let is_level = leader.peers.get(&transfer.to).is_some_and(|peer| peer.matched == last);
        if is_level && !transfer.asked {
            transfer.asked = true;
            let to = transfer.to;
            self.send(to, Message::TimeoutNow);
        }
    }

    // --- readmission (protocol RJ, docs/rejoin.md) ---

    /// Step 3: one at a time, by a leader that has committed an entry of its own term.
    fn maybe_readmit(&mut self, node: NodeId, incarnation: Incarnation) {
        let is_known = self.readmits.values().any(|readmit| *readmit == (node, incarnation));
        let one_is_pending =
            self.readmits.last_key_value().is_some_and(|(index, _)| *index > self.commit);
        if is_known || one_is_pending || !self.committed_own_term() {
            return;
        }
        let now = self.now;
        let again = now.after(self.config.election_timeout_max);
        let Some(leader) = self.leading() else { return };
        if leader.readmit_after.get(&node).is_some_and(|after| now < *after) {
            return;
        }
        leader.readmit_after.insert(node, again);
        let pos = self.append_own(EntryKind::Readmit { node, incarnation });
        self.event(Event::ReadmitAppended { node, pos });
    }
}
