//! Entries whose bytes are damaged: fetching them from a peer, or learning that they were never
//! committed (Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018).
//!
//! ```text
//!   node with (term, index) damaged                    peer
//!     ── Fetch (term, index) ─────────────────────────►  holds it whole    → the entry
//!                                                        holds it damaged  → Damaged
//!     ◄───────────────────────────── FetchReply ───────  holds it not      → Absent
//! ```
//! A damaged entry keeps its place: it counts when logs are compared in an election, so that what
//! may have been committed is never voted away. It does not count as a copy: nothing is
//! acknowledged past it as long as it may be uncommitted.
//!
//! One whole copy is enough, from whomever: one term and one index name one entry (Log Matching).
//! That *nobody* needs it is known only by a leader that a majority told, in its own term or a
//! later one, that they do not hold it. No entry that was committed is missing on a majority, and
//! none of them can acknowledge it to a leader of an earlier term any more. The leader then steps
//! down, so that it proposes nothing more in this term, and cuts its log there. A node that lost
//! its memory never says Absent: it may have had the entry.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::Event;
use crate::io::{FaultyEntry, Output, RoleKind};
use crate::message::{FetchOutcome, Message};
use crate::raft::{Raft, Role};
use crate::types::{EntryKind, EntryMeta, Index, LogPos, NodeId, NodeSet, Term, Time, WriteId};

/// How many entries are asked for at a time.
const WINDOW: usize = 16;
/// How many election timeouts a leader waits for its damaged entries at first, before somebody else
/// may try; doubled each time, up to a limit.
const PATIENCE: u32 = 4;
const PATIENCE_DOUBLINGS_MAX: u32 = 8;

/// The damaged entries of this node's log.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Repairs {
    wanted: BTreeMap<Index, Wanted>,
    /// Since when a leader has waited for them, without one more being repaired.
    waiting_since: Option<Time>,
    /// How often this node stepped down because of them.
    given_up: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Wanted {
    asked: Option<NodeId>,
    ask_at: Time,
    /// Who does not hold it, as they said in `term` or later.
    absent: NodeSet,
    term: Term,
    /// Whose copy is damaged too.
    damaged: NodeSet,
}

impl Wanted {
    const fn new(ask_at: Time) -> Self {
        Self { asked: None, ask_at, absent: NodeSet::EMPTY, term: Term(0), damaged: NodeSet::EMPTY }
    }
}

impl Repairs {
    pub(crate) fn new(faulty: impl IntoIterator<Item = Index>, now: Time) -> Self {
        let wanted = faulty.into_iter().map(|index| (index, Wanted::new(now))).collect();
        Self { wanted, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    pub(crate) fn truncate(&mut self, from: Index) {
        self.wanted.split_off(&from);
    }

    pub(crate) fn last(&self) -> Option<Index> {
        self.wanted.last_key_value().map(|(index, _)| *index)
    }

    /// The lowest damaged entry behind `after`, up to `last`.
    fn first_behind(&self, after: Index, last: Index) -> Option<Index> {
        self.wanted.range(after.next()..).next().map(|(index, _)| *index).filter(|at| *at <= last)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.wanted.values().take(WINDOW).map(|wanted| wanted.ask_at).min()
    }
}

impl Raft {
    /// The damaged entries, the first of them with what peers said about them.
    pub(crate) fn faulty_status(&self) -> Vec<FaultyEntry> {
        let status = |(index, wanted): (&Index, &Wanted)| FaultyEntry {
            pos: self.pos_at(*index),
            absent_on: wanted.absent,
            damaged_on: wanted.damaged,
        };
        self.repairs.wanted.iter().map(status).collect()
    }

    /// How many entries are known to be damaged here.
    pub fn faulty_count(&self) -> usize {
        self.repairs.wanted.len()
    }

    /// Whether the bytes of this entry are known to be damaged.
    pub fn is_faulty(&self, index: Index) -> bool {
        self.repairs.wanted.contains_key(&index)
    }

    fn pos_at(&self, index: Index) -> LogPos {
        LogPos { term: self.log.term_at(index).expect("what is damaged is in the log"), index }
    }

    /// How far this node's copy of the log counts, given that it agrees with the leader's up to
    /// `last`: not past a damaged entry that may not be committed yet.
    pub(crate) fn counted(&self, last: Index) -> Index {
        self.repairs.first_behind(self.commit, last).map_or(last, Index::prev)
    }

    /// Whether an entry up to `last` is damaged.
    pub(crate) fn is_faulty_up_to(&self, last: Index) -> bool {
        self.repairs.first_behind(Index::ZERO, last).is_some()
    }

    /// A read found this entry damaged.
    pub(crate) fn on_faulty(&mut self, index: Index) {
        let is_known = self.repairs.wanted.contains_key(&index);
        if is_known || index == Index::ZERO || index > self.log.last().index {
            return;
        }
        self.repairs.wanted.insert(index, Wanted::new(self.now));
        self.event(Event::EntryDamaged { pos: self.pos_at(index) });
        self.ask_for_repairs();
    }

    /// The bytes of this entry stand on disk again, durably.
    pub(crate) fn on_repaired(&mut self, index: Index, kind: EntryKind) {
        if self.repairs.wanted.remove(&index).is_none() {
            return;
        }
        self.repairs.waiting_since = None;
        self.repairs.given_up = 0;
        self.event(Event::EntryRepaired { pos: self.pos_at(index) });
        if let EntryKind::Readmit { node, incarnation } = kind {
            self.readmits.insert(index, (node, incarnation));
            self.lead_learned_of_readmission(node);
        }
        // What was held back because of it counts now.
        let (term, agreed) = self.agreed;
        match (&self.role, self.leader) {
            (Role::Leader(_), _) => self.lead_repaired(),
            (_, Some(leader)) if term == self.hard_state.term => {
                self.answer_agreed(leader, agreed);
            }
            _ => {}
        }
        self.maybe_leave();
        self.ask_for_repairs();
    }

    pub(crate) fn repair_timeout(&mut self) {
        self.ask_for_repairs();
        self.maybe_give_up();
    }

    /// Asks one peer at a time for each entry, the leader first.
    fn ask_for_repairs(&mut self) {
        if self.repairs.is_empty() {
            return;
        }
        let mut order: Vec<NodeId> = self.peers().iter().collect();
        order.sort_by_key(|peer| Some(*peer) != self.leader);
        let (now, again) = (self.now, self.now.after(self.config.heartbeat_interval));
        let due: Vec<Index> = self
            .repairs
            .wanted
            .iter()
            .take(WINDOW)
            .filter(|(_, wanted)| wanted.ask_at <= now)
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            let wanted = self.repairs.wanted.get_mut(&index).expect("looked up above");
            let after = order.iter().position(|peer| Some(*peer) == wanted.asked);
            wanted.ask_at = again;
            let Some(peer) = order.iter().cycle().nth(after.map_or(0, |at| at + 1)).copied() else {
                // A cluster of one has nobody to ask.
                continue;
            };
            wanted.asked = Some(peer);
            let pos = self.pos_at(index);
            self.send(peer, Message::Fetch { pos });
        }
    }

    /// A peer wants an entry.
    pub(crate) fn on_fetch(&mut self, from: NodeId, pos: LogPos) {
        let is_muted = self.role() == RoleKind::Quarantined;
        let outcome = if pos.index == Index::ZERO || !self.log.contains(pos) {
            FetchOutcome::Absent
        } else if self.repairs.wanted.contains_key(&pos.index) {
            FetchOutcome::Damaged
        } else {
            let entry = EntryMeta { term: pos.term, kind: EntryKind::Payload };
            let outcome = FetchOutcome::Whole(entry);
            let message = Message::FetchReply { pos, outcome };
            let envelope = self.envelope(from, self.hard_state.term, message);
            self.outputs.push_back(Output::SendFetched { envelope, pos });
            return;
        };
        if !is_muted {
            self.send(from, Message::FetchReply { pos, outcome });
        }
    }

    /// A peer said what it holds; `term` is the peer's.
    pub(crate) fn on_fetch_reply(
        &mut self,
        from: NodeId,
        term: Term,
        pos: LogPos,
        outcome: FetchOutcome,
    ) {
        let (own_term, peers) = (self.hard_state.term, self.peers());
        let later = self.now.after(self.config.election_timeout_max);
        if !self.log.contains(pos) {
            return;
        }
        let Some(wanted) = self.repairs.wanted.get_mut(&pos.index) else {
            return;
        };
        if wanted.term < own_term {
            // Who did not hold it then may have got it since, from the leader of that term.
            wanted.term = own_term;
            wanted.absent = NodeSet::EMPTY;
        }
        match outcome {
            FetchOutcome::Whole(_) => {
                self.outputs.push_back(Output::Repair { pos });
                return;
            }
            FetchOutcome::Absent if term < own_term => {
                // Does not count: it may yet acknowledge the entry to the leader of that term. It
                // is asked again in its turn.
                return;
            }
            FetchOutcome::Absent => {
                wanted.absent.insert(from);
                wanted.damaged.remove(from);
            }
            FetchOutcome::Damaged => {
                wanted.damaged.insert(from);
                wanted.absent.remove(from);
            }
        }
        let has_said = |peer| wanted.absent.contains(peer) || wanted.damaged.contains(peer);
        let has_asked_all = peers.iter().all(has_said);
        let absent = wanted.absent.len();
        if wanted.asked == Some(from) {
            wanted.ask_at = if has_asked_all { later } else { self.now };
        }
        if absent >= self.quorum() && self.role() == RoleKind::Leader {
            self.drop_never_committed(pos);
        } else {
            self.ask_for_repairs();
        }
    }

    /// A majority does not hold this entry: it was never committed. See the head of this file.
    fn drop_never_committed(&mut self, pos: LogPos) {
        if pos.index <= self.commit {
            // Only where a rule is broken: what was committed is never cut.
            return;
        }
        self.event(Event::NeverCommitted { pos });
        self.become_follower(self.hard_state.term, None);
        self.append(Some(pos.index), Vec::new());
    }

    /// A leader that cannot get its entries lets others try: they may reach a copy that it does
    /// not reach.
    fn maybe_give_up(&mut self) {
        if self.role() != RoleKind::Leader || self.repairs.is_empty() {
            self.repairs.waiting_since = None;
            return;
        }
        let since = *self.repairs.waiting_since.get_or_insert(self.now);
        let doublings = self.repairs.given_up.min(PATIENCE_DOUBLINGS_MAX);
        let patience: Duration = self.config.election_timeout_max * PATIENCE * 2_u32.pow(doublings);
        if self.now.since(since) < patience {
            return;
        }
        self.repairs.waiting_since = None;
        self.repairs.given_up += 1;
        self.event(Event::RepairGivenUp { term: self.hard_state.term });
        self.become_follower(self.hard_state.term, None);
        self.election_at = self.now.after(self.config.election_timeout_max * PATIENCE);
    }

    /// Tells the leader again how far this log agrees with its own.
    fn answer_agreed(&mut self, leader: NodeId, agreed: Index) {
        let last = self.counted(agreed);
        let write: WriteId = self.write_of(last);
        self.answer_accepted(leader, write, last);
    }
}
