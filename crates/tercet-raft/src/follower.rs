//! What a node does that does not lead: store what the leader sends, vote, pass reads on; and, if
//! it lost its memory, be mute and ask to be readmitted.

use tercet_seeded::{Bug, has};

use crate::event::{DropReason, Event};
use crate::io::{BarrierId, Output, TransferError};
use crate::message::{AppendOutcome, ConflictHint, DenyReason, Envelope, Message};
use crate::raft::{Quarantine, Raft, Role};
use crate::types::{EntryMeta, Incarnation, Index, LogPos, NodeId, Term, WriteId};

impl Raft {
    /// A leader of the current term spoke.
    fn hear_leader(&mut self, from: NodeId) -> bool {
        let other_leads = self.leader.is_some_and(|leader| leader != from);
        if matches!(self.role, Role::Leader(_)) || other_leads {
            // Two leaders in one term: one of them is not what it says.
            self.event(Event::Dropped { from, why: DropReason::Malformed });
            return false;
        }
        self.become_follower(self.hard_state.term, Some(from));
        self.heard_at = Some(self.now);
        self.hint.leader_lost = false;
        self.reset_election_timer();
        true
    }

    /// `AppendEntries` of Figure 2.
    pub(crate) fn on_append(
        &mut self,
        from: NodeId,
        prev: LogPos,
        mut entries: Vec<EntryMeta>,
        commit: Index,
        round: u64,
    ) {
        let terms = || std::iter::once(prev.term).chain(entries.iter().map(|meta| meta.term));
        let ascending = terms().zip(terms().skip(1)).all(|(a, b)| a <= b && b > Term(0));
        let origin = (prev.index == Index::ZERO) == (prev.term == Term(0));
        if !ascending || !origin || terms().any(|term| term > self.hard_state.term) {
            self.event(Event::Dropped { from, why: DropReason::Malformed });
            return;
        }
        if !self.hear_leader(from) {
            return;
        }
        if !self.log.contains(prev) {
            let hint = match self.log.term_at(prev.index) {
                None => ConflictHint::TooShort { last: self.log.last().index },
                Some(term) => ConflictHint::Term { term, first: self.log.run_start(prev.index) },
            };
            self.event(Event::AppendRejected { leader: from, prev, hint });
            self.answer_append(from, WriteId(0), round, AppendOutcome::Rejected { prev, hint });
            return;
        }
        // What is here already is left alone: a late, short message must not take entries away.
        let held = entries
            .iter()
            .zip(prev.index.0 + 1..)
            .take_while(|(meta, index)| self.log.term_at(Index(*index)) == Some(meta.term))
            .count();
        let covered = Index(prev.index.0 + entries.len() as u64);
        let first_new = Index(prev.index.0 + held as u64 + 1);
        let conflict = held < entries.len() && first_new <= self.log.last().index;
        let cuts_any = self.config.rules.truncate_always || has(Bug::CutBehindAppend);
        let cuts_more = cuts_any && covered < self.log.last().index;
        let truncate_from = match (conflict, cuts_more) {
            (true, _) => Some(first_new),
            (false, true) => Some(covered.next()),
            (false, false) => None,
        };
        if let Some(from_index) = truncate_from.filter(|from| *from <= self.commit) {
            let rules = self.config.rules;
            assert!(
                rules != crate::rules::Rules::default(),
                "{} would cut entry {from_index}, but {} is committed (leader {from}, term {})",
                self.config.node,
                self.commit,
                self.hard_state.term
            );
            self.event(Event::Violation { index: from_index });
            return;
        }
        if held < entries.len() || truncate_from.is_some() {
            entries.drain(..held);
            self.append(truncate_from, entries);
        }
        self.event(Event::AppendAccepted { leader: from, prev: prev.index, last: covered });
        self.learn_commit(commit.min(covered));
        let known = if self.agreed.0 == self.hard_state.term { self.agreed.1 } else { Index::ZERO };
        self.agreed = (self.hard_state.term, covered.max(known));
        let last = self.counted(covered);
        let write = if has(Bug::AckBeforeSync) { WriteId(0) } else { self.write_of(last) };
        self.answer_append(from, write, round, AppendOutcome::Accepted { last });
        self.maybe_leave();
    }

    /// Accepts, without having been asked, what is in this log up to `last`.
    pub(crate) fn answer_accepted(&mut self, to: NodeId, after: WriteId, last: Index) {
        self.answer_append(to, after, 0, AppendOutcome::Accepted { last });
    }

    fn answer_append(&mut self, to: NodeId, after: WriteId, round: u64, outcome: AppendOutcome) {
        let message = if let Role::Quarantined(_) = self.role {
            Message::LearnerReply { outcome: Some(outcome) }
        } else {
            Message::AppendReply { round, outcome }
        };
        self.send_after(after, to, self.hard_state.term, message);
    }

    pub(crate) fn on_heartbeat(&mut self, from: NodeId, commit: Index, round: u64) {
        if !self.hear_leader(from) {
            return;
        }
        let has = self.log.last().index;
        if commit > has && self.keeps_what_it_says() {
            // A leader's heartbeat names only what this incarnation has acknowledged to it, and what
            // was acknowledged in a term is not cut in it.
            self.outputs.push_back(Output::Forgotten { acknowledged: commit, has });
            return;
        }
        self.learn_commit(commit.min(has));
        let message = if let Role::Quarantined(_) = self.role {
            Message::LearnerReply { outcome: None }
        } else {
            Message::HeartbeatReply { round }
        };
        self.send(from, message);
        self.maybe_leave();
    }

    /// Whether no rule is switched off without which a node does not hold what it acknowledged.
    const fn keeps_what_it_says(&self) -> bool {
        let rules = &self.config.rules;
        !rules.trust_wiped && !rules.truncate_always && !rules.speak_before_durable
    }

    /// The leader says that its log is committed up to `commit`, where this log is known to be the
    /// same.
    fn learn_commit(&mut self, commit: Index) {
        let term = self.hard_state.term;
        if let Role::Quarantined(quarantine) = &mut self.role {
            quarantine.told = quarantine.told.max((term, commit));
        }
        self.advance_commit(commit);
    }

    // --- votes ---

    /// Why this node would not vote for a candidate of `term` with this log.
    fn objection(&self, from: NodeId, term: Term, last: LogPos) -> Option<DenyReason> {
        // A log below the floor holds less than what counts as committed from the beginning.
        let own_last = self.log.last().max(self.config.floor);
        if term < self.hard_state.term {
            return Some(DenyReason::OldTerm);
        }
        let voted = self.hard_state.vote.filter(|_| term == self.hard_state.term);
        if let Some(to) = voted.filter(|to| *to != from) {
            return Some(DenyReason::AlreadyVoted { to });
        }
        // §5.4.1: the term of the last entry decides, then its index.
        let is_behind = if has(Bug::IndexBeforeTerm) {
            seeded_is_behind(last, own_last)
        } else {
            last < own_last
        };
        let is_blind = self.config.rules.ignore_log_in_votes || has(Bug::NoLogCheck);
        if is_behind && !is_blind {
            return Some(DenyReason::OldLog { voter_last: own_last });
        }
        None
    }

    /// Two that ask in the same moment and grant each other the question split the votes, and lose
    /// an election timeout. Of two equal logs that of the lower number goes first, as long as its
    /// own question is not overdue.
    fn goes_before(&self, from: NodeId, term: Term, last: LogPos) -> Option<DenyReason> {
        let is_due = self.running_election_timer().is_some_and(|at| at <= self.now);
        let asks = matches!(self.role, Role::PreCandidate { .. }) && !is_due;
        let is_tie = term == self.hard_state.term.next() && last == self.log.last();
        (asks && is_tie && self.config.node < from).then_some(DenyReason::Rival)
    }

    pub(crate) fn on_pre_vote(&mut self, from: NodeId, term: Term, last: LogPos) {
        let alive = self.alive_leader().map(|leader| DenyReason::LeaderAlive { leader });
        let denied = alive
            .or_else(|| self.objection(from, term, last))
            .or_else(|| self.goes_before(from, term, last));
        match denied {
            None => {
                // Its election comes first; this node's timer runs on.
                self.hint.ask_at = None;
                self.event(Event::PreVoteGranted { to: from, term });
                if let Role::PreCandidate { .. } = self.role {
                    self.set_role(Role::Follower);
                }
            }
            Some(reason) => self.event(Event::PreVoteDenied { to: from, term, reason }),
        }
        if denied == Some(DenyReason::Rival) {
            // It would wait for this node, whose own question to it may be lost.
            self.ask_for_pre_vote(from);
        }
        // A yes names the term that was asked about, a no this node's own: it may be news.
        let term = if denied.is_none() { term } else { self.hard_state.term };
        self.send_after(WriteId(0), from, term, Message::PreVoteReply { denied });
    }

    /// `RequestVote` of Figure 2.
    pub(crate) fn on_vote(&mut self, from: NodeId, term: Term, last: LogPos, transfer: bool) {
        let sticky = if transfer { None } else { self.alive_leader() };
        let alive = sticky
            .filter(|_| term > self.hard_state.term)
            .map(|leader| DenyReason::LeaderAlive { leader });
        let denied = alive.or_else(|| self.objection(from, term, last));
        match denied {
            None => {
                self.event(Event::VoteGranted { to: from, term });
                self.set_hard_state(term, Some(from));
                self.reset_election_timer();
            }
            Some(reason) => self.event(Event::VoteDenied { to: from, term, reason }),
        }
        self.send(from, Message::VoteReply { denied });
    }

    /// A message of an older term: its sender learns of the newer one, where that helps it. The answer
    /// is of the newer term, in which that sender may lead again: it echoes no round, since each
    /// leader counts its own from the beginning.
    pub(crate) fn answer_old_term(&mut self, envelope: &Envelope) {
        let to = envelope.from;
        let denied = Some(DenyReason::OldTerm);
        match &envelope.message {
            Message::PreVote { last } => self.on_pre_vote(to, envelope.term, *last),
            Message::Vote { .. } => {
                let reason = DenyReason::OldTerm;
                self.event(Event::VoteDenied { to, term: envelope.term, reason });
                self.send(to, Message::VoteReply { denied });
            }
            Message::Append { prev, .. } => {
                let hint = ConflictHint::TooShort { last: self.log.last().index };
                let outcome = AppendOutcome::Rejected { prev: *prev, hint };
                self.answer_append(to, WriteId(0), 0, outcome);
            }
            Message::Heartbeat { .. } => {
                if !matches!(self.role, Role::Quarantined(_)) {
                    self.send(to, Message::HeartbeatReply { round: 0 });
                }
            }
            // A node that came back from a quarantine may be behind in its term.
            Message::Rejoin | Message::LearnerReply { .. } => {
                self.lead_receive(to, envelope.from_incarnation, &envelope.message);
            }
            Message::ReadIndex { id } => {
                self.send(to, Message::ReadIndexReply { id: *id, index: None });
            }
            Message::AppendReply { .. } if has(Bug::OldReplyRaisesMatch) => {
                self.lead_receive(to, envelope.from_incarnation, &envelope.message);
            }
            Message::Fetch { pos } => self.on_fetch(to, *pos),
            Message::FetchReply { pos, outcome } => {
                self.on_fetch_reply(to, envelope.term, *pos, *outcome);
            }
            Message::PreVoteReply { .. }
            | Message::VoteReply { .. }
            | Message::AppendReply { .. }
            | Message::HeartbeatReply { .. }
            | Message::TimeoutNow
            | Message::ReadIndexReply { .. } => {}
        }
    }

    /// The leader hands over to this node (thesis §3.10).
    pub(crate) fn on_timeout_now(&mut self) {
        if matches!(self.role, Role::Follower | Role::PreCandidate { .. } | Role::Candidate { .. })
            && self.may_lead()
        {
            self.become_candidate(true);
        }
    }

    pub(crate) fn on_transfer(&mut self, to: Option<NodeId>) {
        if let Role::Leader(_) = self.role {
            self.lead_transfer(to);
        } else {
            let result = Err(TransferError::NotLeader);
            self.outputs.push_back(Output::TransferEnded { result });
        }
    }

    // --- reads ---

    pub(crate) fn on_read_barrier(&mut self, id: BarrierId) {
        if let Role::Leader(_) = self.role {
            self.lead_barrier(None, id.0);
        } else if self.leader.is_none() {
            self.outputs.push_back(Output::BarrierFailed { id });
        } else {
            self.forwarded.waiting.push(id);
            self.ask_leader();
        }
    }

    /// One question at a time serves all that wait when it is asked.
    fn ask_leader(&mut self) {
        let Some(leader) = self.leader else { return };
        if self.forwarded.asked.is_some() || self.forwarded.waiting.is_empty() {
            return;
        }
        self.forwarded.next_id += 1;
        let id = self.forwarded.next_id;
        let ids = std::mem::take(&mut self.forwarded.waiting);
        let until = self.now.after(self.config.election_timeout_max);
        self.forwarded.asked = Some((id, ids, until));
        self.send(leader, Message::ReadIndex { id });
    }

    pub(crate) fn on_read_index_reply(&mut self, id: u64, index: Option<Index>) {
        if self.forwarded.asked.as_ref().is_none_or(|(asked, ..)| *asked != id) {
            return;
        }
        let (_, ids, _) = self.forwarded.asked.take().expect("looked at above");
        for id in ids {
            self.outputs.push_back(match index {
                Some(index) => Output::BarrierReady { id, index },
                None => Output::BarrierFailed { id },
            });
        }
        self.ask_leader();
    }

    // --- quarantine (protocol RJ, docs/rejoin.md) ---

    pub(crate) fn ask_to_rejoin(&mut self) {
        let Role::Quarantined(quarantine) = &mut self.role else {
            return;
        };
        quarantine.ask_at = self.now.after(self.config.election_timeout_min);
        self.event(Event::RejoinAsked { incarnation: self.config.incarnation });
        for peer in self.peers().iter() {
            self.send(peer, Message::Rejoin);
        }
    }

    /// Step 5: a voter again, when this node durably holds the leader's log through the Readmit
    /// entry of exactly this incarnation, and the leader of the current term said that this entry
    /// is committed.
    pub(crate) fn maybe_leave(&mut self) {
        let Role::Quarantined(quarantine) = self.role else {
            return;
        };
        let (me, term) = (self.config.node, self.hard_state.term);
        let mine = |(_, (node, incarnation)): &(&Index, &(NodeId, Incarnation))| {
            *node == me && (*incarnation == self.config.incarnation || has(Bug::RejoinByOldReadmit))
        };
        let by = self.readmits.iter().rev().find(mine).map(|(index, _)| *index);
        let by = self.seeded_way_back(quarantine.told).or(by);
        let (Some(index), Some(leader)) = (by, self.leader) else {
            return;
        };
        let pos = LogPos { term: self.log.term_at(index).expect("it is in the log"), index };
        match quarantine.leaving {
            Some((write, pos)) => {
                if self.is_durable(write) {
                    self.outputs.push_back(Output::Admit { pos });
                }
            }
            None => {
                let (told_term, told) = quarantine.told;
                let is_early = has(Bug::RejoinUncommitted) || has(Bug::RejoinAtEnd);
                let is_committed = told >= index || is_early;
                let holds_all = self.durable >= index && !self.is_faulty_up_to(index);
                if told_term == term && is_committed && holds_all {
                    // The vote goes to that leader: whatever the lost disk had promised to others
                    // in this term, nobody else can be elected with this node's help.
                    let write = self.set_hard_state(term, Some(leader));
                    self.role =
                        Role::Quarantined(Quarantine { leaving: Some((write, pos)), ..quarantine });
                }
            }
        }
    }

    /// What others took for enough: to have caught up.
    fn seeded_way_back(&self, (_, told): (Term, Index)) -> Option<Index> {
        let last = self.log.last();
        let is_whole = last.index == self.durable && last.term == self.hard_state.term;
        let by_end = Some(last.index).filter(|_| has(Bug::RejoinAtEnd) && is_whole);
        let by_commit = Some(told).filter(|told| has(Bug::RejoinAtCommit) && *told > Index::ZERO);
        by_end.or(by_commit).filter(|index| *index <= last.index)
    }

    pub(crate) fn on_admitted(&mut self) {
        let Role::Quarantined(Quarantine { leaving: Some((_, pos)), .. }) = self.role else {
            return;
        };
        self.set_role(Role::Follower);
        self.reset_election_timer();
        self.event(Event::Readmitted { pos });
        // The leader learns of it from the first answer that counts.
        if let Some(leader) = self.leader {
            self.send(leader, Message::HeartbeatReply { round: 0 });
        }
    }
}

/// What others took for the order of logs: the longer one is ahead.
fn seeded_is_behind(last: LogPos, own_last: LogPos) -> bool {
    (last.index, last.term) < (own_last.index, own_last.term)
}
