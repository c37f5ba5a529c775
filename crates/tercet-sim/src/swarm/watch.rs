//! What must hold at every step of a world: seen from what its nodes do, what they say to each
//! other, and what is on their platters.

use std::collections::{BTreeMap, BTreeSet};

use tercet_raft::{DenyReason, Term};
use tercet_raft::{DropReason, Event, Incarnation, Index, LogPos, NodeId, RoleKind, invariants};
use tercet_replica::gate::MessageKind;
use tercet_replica::{Identity, IdentityState, Submitted};
use tercet_wal::{HardState, MemDisk, Survive, Wal};

use super::invariant::{Found, Invariant};
use super::options::quorum;
use super::sometimes::Met;
use crate::network::Said;
use crate::world::{Happened, What, World};

/// One in so many answers of a node is looked up on its platter.
const ANSWERS: u64 = 40;
/// One in so many acknowledgements is looked up on all platters.
const ACKNOWLEDGEMENTS: u64 = 12;

#[derive(Debug)]
struct Committed {
    by: NodeId,
    index: Index,
    term: Term,
}

/// Looks at a world step by step.
#[derive(Debug, Default)]
pub struct Watch {
    pub(crate) met: Met,
    /// Who leads each term.
    leaders: BTreeMap<u64, NodeId>,
    /// Who asked for votes in each term.
    candidates: BTreeMap<u64, BTreeSet<NodeId>>,
    /// The term of each committed entry, and the term in which somebody first knew.
    committed: BTreeMap<u64, (u64, u64)>,
    /// Up to where each memory applied the log.
    applied: BTreeMap<NodeId, (Incarnation, Index)>,
    /// Who got whose vote.
    votes: BTreeMap<(NodeId, Incarnation, Term), NodeId>,
    /// The latest term that each memory spoke in.
    terms: BTreeMap<NodeId, (Incarnation, Term, MessageKind)>,
    /// Those whose memory was taken away, with the incarnation that lost it.
    muted: BTreeMap<NodeId, Option<Incarnation>>,
    /// Those whose disk will fail: that they stop is no surprise.
    failing: BTreeSet<NodeId>,
    /// Those whose log may be damaged: after a crash in a write, a node cannot always tell what was
    /// acknowledged (docs/wal-format.md, "What a crash leaves").
    suspects: BTreeMap<NodeId, Option<Incarnation>>,
    /// Those that came back with entries whose bytes are damaged: until the others have repaired or
    /// dropped them, they count as if they had lost a memory.
    damaged: BTreeSet<NodeId>,
    /// A leader that hands over, and to whom.
    transfer: Option<(NodeId, NodeId)>,
    /// Who was elected with damaged entries, and in which term.
    elected_damaged: Option<(NodeId, Term)>,
    answers: u64,
    acknowledgements: u64,
    /// One in so many commits of a leader is looked up; with 0, none is.
    lookups: u64,
    commits: u64,
    /// What was committed since it was last looked up.
    to_look_up: Vec<Committed>,
}

/// What is on a node's platter.
struct Platter {
    disk: MemDisk,
    wal: Wal<MemDisk>,
    hard_state: HardState,
}

impl Platter {
    fn of(world: &mut World, id: NodeId) -> Option<Self> {
        let options = world.config().wal();
        let mut disk: MemDisk = world.disk(id).after_crash(Survive::None);
        let (wal, recovered) = Wal::open(&mut disk, options).ok()?;
        Some(Self { disk, wal, hard_state: recovered.hard_state })
    }

    fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.wal.last_index()
            && self.wal.header(&self.disk, index).is_ok_and(|header| header.term == term)
    }
}

/// Who votes again is the one whom a committed Readmit names.
fn look_at_readmission(world: &World, id: NodeId, pos: LogPos) -> Found {
    let replica = world.replica(id);
    let own = replica.map(|replica| replica.identity().incarnation);
    let raft = replica.and_then(|replica| replica.raft());
    let admitted = raft.and_then(|raft| raft.members().get(&id).copied());
    if raft.is_some_and(|raft| raft.commit() < pos.index) {
        let text = format!("{id} votes again by {pos}, which is not committed");
        return Err((Invariant::MutedNodes, text));
    }
    if own != admitted {
        let text = format!("{id} votes again as {own:?}, and {admitted:?} is admitted");
        return Err((Invariant::MutedNodes, text));
    }
    Ok(())
}

/// The identity that a node has on its disk, whether it is up or not.
pub(crate) fn identity(world: &mut World, id: NodeId) -> Option<Identity> {
    Identity::load(world.disk(id)).ok().flatten().map(|(identity, _)| identity)
}

impl Watch {
    pub(crate) fn new(lookups: u64) -> Self {
        Self { lookups, ..Self::default() }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    // --- whose memory is whole ---

    /// A node's memory is taken away now.
    pub fn mute(&mut self, id: NodeId, had: Option<&Identity>) {
        self.muted.insert(id, had.map(|identity| identity.incarnation));
    }

    /// How many nodes are without their memory, or may be soon. Who was readmitted is none of them.
    pub(crate) fn muted(&mut self, world: &World) -> usize {
        let now = |id: NodeId| world.replica(id).map(|replica| replica.identity());
        // A node may notice by itself, while it runs.
        let noticed: Vec<NodeId> = self
            .suspects
            .iter()
            .filter(|(id, had)| {
                now(**id).is_some_and(|identity| Some(identity.incarnation) != **had)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in noticed {
            let had = self.suspects.remove(&id).flatten();
            self.muted.insert(id, had);
        }
        self.muted.retain(|id, had| {
            !now(*id).is_some_and(|identity| {
                identity.state == IdentityState::Voter && Some(identity.incarnation) != *had
            })
        });
        self.damaged.retain(|id| world.status(*id).is_none_or(|raft| !raft.faulty.is_empty()));
        let all = self.muted.keys().chain(self.suspects.keys()).chain(&self.damaged);
        all.collect::<BTreeSet<_>>().len()
    }

    pub(crate) fn is_muted(&self, id: NodeId) -> bool {
        self.muted.contains_key(&id)
            || self.suspects.contains_key(&id)
            || self.damaged.contains(&id)
    }

    /// Whether one more node may lose its memory: at most a minority is without it at any time.
    pub(crate) fn may_lose(&mut self, world: &World, id: NodeId) -> bool {
        let most = usize::from(world.config().nodes - 1) / 2;
        self.muted(world) < most && !self.is_muted(id)
    }

    /// What survives of what a node was writing when it crashed. A random half of that can cost it
    /// its memory, or an entry that nobody else has: only if the cluster can bear it. (Who is trusted
    /// without a memory never comes out of quarantine.)
    pub(crate) fn may_survive(
        &mut self,
        world: &mut World,
        id: NodeId,
        survive: Survive,
    ) -> Survive {
        if !matches!(survive, Survive::Random(_)) {
            return survive;
        }
        if world.config().rules.trust_wiped || !self.may_lose(world, id) {
            return Survive::None;
        }
        // Also of a node that is down: else it would count as readmitted as soon as it starts.
        let known = world.replica(id).map(|replica| replica.identity().clone());
        let had = known.or_else(|| identity(world, id));
        self.suspect(id, had.as_ref());
        survive
    }

    /// A node's disk will fail it: that it stops then is no surprise.
    pub(crate) fn expect_stop(&mut self, id: NodeId) {
        self.failing.insert(id);
    }

    /// A node's log may be damaged from now on.
    pub(crate) fn suspect(&mut self, id: NodeId, had: Option<&Identity>) {
        self.suspects.entry(id).or_insert(had.map(|identity| identity.incarnation));
    }

    pub(crate) fn is_failing(&self, id: NodeId) -> bool {
        self.failing.contains(&id)
    }

    /// It did not come to that.
    pub(crate) fn expect_no_stop(&mut self, id: NodeId) {
        self.failing.remove(&id);
    }

    /// A node was started again: now it is known what it remembers, unless its disk is still to fail.
    pub(crate) fn note_start(&mut self, world: &World, id: NodeId) {
        if self.failing.contains(&id) {
            return;
        }
        let Some(had) = self.suspects.remove(&id) else { return };
        if world.status(id).is_some_and(|raft| !raft.faulty.is_empty()) {
            self.count("a node came back with damaged entries");
            self.damaged.insert(id);
        }
        if world.replica(id).map(|replica| replica.identity().incarnation) != had {
            self.count("damage by a crash in a write");
            self.muted.insert(id, had);
        }
    }

    /// A leader was asked to hand over; `to` is whom it has chosen, if anybody.
    pub(crate) fn note_transfer(&mut self, from: NodeId, to: Option<NodeId>) {
        self.transfer = to.map(|to| (from, to));
    }

    /// A node crashes now.
    pub(crate) fn note_crash(&mut self, id: NodeId) {
        if self.transfer.is_some_and(|(from, to)| id == from || id == to) {
            self.count("a transfer interrupted by a crash");
            self.transfer = None;
        }
    }

    // --- what nodes do ---

    /// Something happened in the world just now.
    ///
    /// # Errors
    /// What it breaks, and how.
    pub fn look(&mut self, world: &World, happened: &Happened) -> Found {
        let id = happened.node;
        match &happened.what {
            What::Core(event) => self.look_at_event(world, id, event)?,
            What::Warning(text) if text.contains("lost its memory") => {
                self.count("a lost memory noticed");
                if !self.is_muted(id) {
                    let invariant = Invariant::of_complaint(text);
                    let text = format!("{id} says, though nobody touched its files: {text}");
                    return Err((invariant, text));
                }
            }
            What::Stopped(text) => {
                self.count("a node stopped by itself");
                if text.contains("memory") {
                    self.count("a memory lost while it ran");
                }
                if !self.failing.remove(&id) && !self.is_muted(id) {
                    let invariant = Invariant::of_complaint(text);
                    let text = format!("{id} stopped, though its disk works: {text}");
                    return Err((invariant, text));
                }
            }
            What::Notice(text) if text.contains("cut short") => self.count("a torn tail cut"),
            What::Notice(text) if text.contains("is formed") => {
                self.count("a cluster formed from nothing");
            }
            What::Warning(text) if text.contains("values.log") => {
                self.count("values.log made again");
            }
            What::Warning(_) | What::Notice(_) => {}
        }
        Ok(())
    }

    fn look_at_event(&mut self, world: &World, id: NodeId, event: &Event) -> Found {
        if let Event::Role { role: RoleKind::Leader, term, .. } = event {
            self.look_at_leader(world, id, *term)?;
        } else if let Event::VoteAsked { term, .. } = event {
            let candidates = self.candidates.entry(term.0).or_default();
            if candidates.insert(id) && candidates.len() == 2 {
                self.count("two candidates in one term");
            }
        } else if let Event::Committed { from, to, leads } = event {
            self.look_at_commit(world, id, *from, *to, *leads)?;
            self.note_applied(world, id);
        } else if let Event::Durable { .. } = event {
            self.note_applied(world, id);
        } else if let Event::Truncated { from, .. } = event {
            self.count("entries cut");
            let replica = world.replica(id);
            if replica.and_then(|r| r.raft()).is_some_and(|raft| raft.role() == RoleKind::Leader) {
                let text = format!("{id} leads and: {event}");
                return Err((Invariant::LeaderAppendOnly, text));
            }
            let memory = replica.map(|replica| replica.identity().incarnation);
            if let Some((incarnation, applied)) = self.applied.get(&id)
                && Some(*incarnation) == memory
                && from <= applied
            {
                let text = format!("{id} {event}, and had applied all up to {applied}");
                return Err((Invariant::Monotonicity, text));
            }
        } else if let Event::VoteGranted { .. } | Event::PreVoteGranted { .. } = event {
            let identity = world.replica(id).map(|replica| replica.identity());
            let is_mute = identity.is_some_and(|identity| identity.state != IdentityState::Voter);
            if is_mute && !world.config().rules.trust_wiped {
                return Err((Invariant::MutedNodes, format!("{id} is mute and votes: {event}")));
            }
        } else if let Event::Readmitted { pos } = event {
            self.count("a readmission");
            look_at_readmission(world, id, *pos)?;
            let is_electing = |id: &NodeId| {
                let role = world.replica(*id).and_then(|r| r.raft()).map(|raft| raft.role());
                matches!(role, Some(RoleKind::Candidate | RoleKind::PreCandidate))
            };
            if world.node_ids().iter().any(is_electing) {
                self.count("a readmission during an election");
            }
        } else if let Event::EntryRepaired { .. } = event {
            self.count("a damaged entry repaired");
            let raft = world.replica(id).and_then(|replica| replica.raft());
            if let Some(raft) = raft.filter(|raft| raft.role() == RoleKind::Leader) {
                self.count("a damaged entry repaired by its leader");
                if self.elected_damaged == Some((id, raft.term())) {
                    self.count("a new leader repaired what had been damaged before");
                }
            }
        } else if let Event::RepairGivenUp { .. } = event {
            self.count("a leader gave up a repair");
        } else if let Event::DiskStalled { .. } = event {
            self.count("a leader stepped down for its stalled disk");
        } else if let Event::Amnesia { .. } = event {
            self.count("a leader noticed that a peer had lost its memory");
        } else if let Event::NeverCommitted { .. } = event {
            self.count("a damaged entry dropped, never committed");
        } else if let Event::LeaderLost { .. } = event {
            self.count("a connection to the leader closed");
        } else if let Event::QuorumLost { .. } = event {
            self.count("a leader that heard from no majority");
        } else if let Event::VoteDenied { reason: DenyReason::OldLog { .. }, .. }
        | Event::PreVoteDenied { reason: DenyReason::OldLog { .. }, .. } = event
        {
            self.count("a vote refused for an old log");
        } else if let Event::TransferGivenUp { .. } = event {
            self.count("a transfer given up");
            self.transfer = None;
        } else if let Event::Dropped { why: DropReason::OldSender | DropReason::NotForMe, .. } =
            event
        {
            self.count("a message of a disk that is gone dropped");
        } else if let Event::Violation { .. } = event {
            return Err((Invariant::StateMachineSafety, format!("{id}: {event}")));
        }
        Ok(())
    }

    fn look_at_leader(&mut self, world: &World, id: NodeId, term: Term) -> Found {
        self.count("a leader");
        let other = *self.leaders.entry(term.0).or_insert(id);
        if other != id {
            let text = format!("term {term} has two leaders: {other} and {id}");
            return Err((Invariant::ElectionSafety, text));
        }
        if self.transfer.take().is_some_and(|(_, to)| to == id) {
            self.count("a transfer done");
        }
        let roles = |role| {
            let others = world.node_ids().into_iter().filter(move |other| *other != id);
            let rafts = others.filter_map(|id| world.replica(id).and_then(|r| r.raft()));
            rafts.filter(|raft| raft.role() == role).count()
        };
        if roles(RoleKind::Leader) > 0 {
            self.count("a leader elected while another believed to lead");
        }
        if roles(RoleKind::Quarantined) > 0 {
            self.count("a leader elected while a node was mute");
        }
        if world.status(id).is_some_and(|raft| !raft.faulty.is_empty()) {
            self.count("a leader elected with damaged entries");
            self.elected_damaged = Some((id, term));
        }
        let Some(raft) = world.replica(id).and_then(|replica| replica.raft()) else {
            return Ok(());
        };
        let lacks = self.committed.iter().find(|(index, (of_term, in_term))| {
            *in_term < term.0 && raft.term_at(Index(**index)) != Some(Term(*of_term))
        });
        if let Some((index, (of_term, in_term))) = lacks {
            let text = format!(
                "{id} leads term {term} without {index}@{of_term}, which was committed by term {in_term}"
            );
            return Err((Invariant::LeaderCompleteness, text));
        }
        Ok(())
    }

    fn note_applied(&mut self, world: &World, id: NodeId) {
        let Some(replica) = world.replica(id) else { return };
        let incarnation = replica.identity().incarnation;
        let applied = replica.raft().map_or(Index::ZERO, |raft| raft.applied());
        let known = self.applied.entry(id).or_insert((incarnation, applied));
        let before = if known.0 == incarnation { known.1 } else { Index::ZERO };
        *known = (incarnation, before.max(applied));
    }

    fn look_at_commit(
        &mut self,
        world: &World,
        id: NodeId,
        from: Index,
        to: Index,
        leads: bool,
    ) -> Found {
        let Some(replica) = world.replica(id) else { return Ok(()) };
        let Some(raft) = replica.raft() else { return Ok(()) };
        let now = raft.term();
        let mut of_old_term = false;
        for index in from.0 + 1..=to.0 {
            let Some(term) = raft.term_at(Index(index)) else { continue };
            let is_new = !self.committed.contains_key(&index);
            let (known, _) = *self.committed.entry(index).or_insert((term.0, now.0));
            of_old_term |= is_new && leads && term < now;
            if known != term.0 {
                let text = format!(
                    "{id} has committed {index}@{term}, where {index}@{known} was committed"
                );
                return Err((Invariant::StateMachineSafety, text));
            }
        }
        if leads && raft.role() == RoleKind::Leader {
            self.commits += 1;
            if let Some(term) = raft.term_at(to)
                && self.lookups > 0
                && self.commits.is_multiple_of(self.lookups)
            {
                self.to_look_up.push(Committed { by: id, index: to, term });
            }
        }
        if of_old_term {
            self.count("entries of an older term committed by a new leader");
        }
        Ok(())
    }

    /// All nodes at one moment.
    pub(crate) fn look_at_all(&mut self, world: &World) -> Found {
        let ids = world.node_ids();
        let rafts: Vec<_> =
            ids.iter().filter_map(|id| world.replica(*id).and_then(|r| r.raft())).collect();
        for raft in &rafts {
            invariants::check_state(raft);
        }
        invariants::check_cluster(&rafts);
        Ok(())
    }

    // --- what nodes say ---

    pub(crate) fn hear(&mut self, world: &mut World, said: &Said) -> Found {
        let Said { from, incarnation, to, term, kind, granted, holds } = *said;
        let identity = world.replica(from).map(|replica| replica.identity());
        // Who came back with another memory did not say it.
        let speaks = identity.filter(|identity| identity.incarnation == incarnation);
        let counts =
            granted || matches!(kind, MessageKind::AppendReply | MessageKind::HeartbeatReply);
        if counts
            && speaks.is_some_and(|identity| identity.state != IdentityState::Voter)
            && !world.config().rules.trust_wiped
        {
            let text = format!("{from} is mute, and says {} to {to}", kind.name());
            return Err((Invariant::MutedNodes, text));
        }
        // Who asks whether it could win speaks of a term that it is not in yet; who gives a peer the
        // bytes of an entry does not wait for its disk, and nobody takes its term over.
        let is_free = matches!(
            kind,
            MessageKind::PreVote | MessageKind::PreVoteReply | MessageKind::FetchReply
        );
        if !is_free {
            let latest = self.terms.entry(from).or_insert((incarnation, term, kind));
            if latest.0 == incarnation && term < latest.1 {
                let (before, kind) = (latest.1, kind.name());
                let last = latest.2.name();
                let text =
                    format!("{from} says {kind} in term {term}, after it said {last} in {before}");
                return Err((Invariant::Monotonicity, text));
            }
            *latest = (incarnation, term, kind);
        }
        let votes_for = if kind == MessageKind::VoteReply && granted {
            Some(to)
        } else {
            // Who asks has voted for itself.
            (kind == MessageKind::Vote).then_some(from)
        };
        if let Some(to) = votes_for {
            let other = *self.votes.entry((from, incarnation, term)).or_insert(to);
            if other != to {
                let text = format!("{from} votes in term {term} for {other} and for {to}");
                return Err((Invariant::ElectionSafety, text));
            }
        }
        if kind == MessageKind::VoteReply && granted {
            self.look_up_vote(world, said)?;
        }
        if let Some(last) = holds {
            self.answers += 1;
            if self.answers.is_multiple_of(ANSWERS) && !self.is_muted(from) {
                self.count("an answer looked up on the platter");
                let held = Platter::of(world, from).map_or(0, |platter| platter.wal.last_index());
                if held < last.0 {
                    let text =
                        format!("{from} says that it holds {last}, and its platter ends at {held}");
                    return Err((Invariant::Durability, text));
                }
            }
        }
        Ok(())
    }

    /// A vote that was given is on the platter.
    fn look_up_vote(&mut self, world: &mut World, said: &Said) -> Found {
        if self.is_muted(said.from) {
            return Ok(());
        }
        self.count("a vote looked up on the platter");
        let platter = Platter::of(world, said.from);
        let state = platter.map_or_else(HardState::default, |platter| platter.hard_state);
        let is_there = state.term > said.term.0
            || state.term == said.term.0 && state.vote == Some(said.to.slot());
        if !is_there {
            let text = format!(
                "{} votes for {} in term {}, and its platter has {state:?}",
                said.from, said.to, said.term
            );
            return Err((Invariant::Durability, text));
        }
        Ok(())
    }

    /// What is acknowledged is synced on a majority at that moment; a node whose memory was taken
    /// away may have been one of them.
    pub(crate) fn look_up_acknowledged(&mut self, world: &mut World, done: &Submitted) -> Found {
        let needed = usize::from(quorum(world.config().nodes));
        self.acknowledgements += 1;
        // Who has lost the lead meanwhile does not know who else holds it.
        let is_known = done.durable_on.len() >= needed;
        if is_known && !self.acknowledgements.is_multiple_of(ACKNOWLEDGEMENTS) {
            return Ok(());
        }
        let holders = self.holders(world, done.index, done.term);
        if holders < needed {
            let text = format!("{done:?} was acknowledged, and only {holders} nodes hold it");
            return Err((Invariant::Durability, text));
        }
        Ok(())
    }

    /// How many nodes have an entry on their platters, or may have had it.
    fn holders(&mut self, world: &mut World, index: u64, term: u64) -> usize {
        self.count("durability looked up on the platter");
        let ids = world.node_ids();
        let holds = |id: &NodeId| {
            self.is_muted(*id) || Platter::of(world, *id).is_some_and(|p| p.holds(index, term))
        };
        ids.into_iter().filter(holds).count()
    }

    /// What a leader has committed is synced on a majority at that moment.
    pub(crate) fn look_up_committed(&mut self, world: &mut World) -> Found {
        for Committed { by, index, term } in std::mem::take(&mut self.to_look_up) {
            let holders = self.holders(world, index.0, term.0);
            if holders < usize::from(quorum(world.config().nodes)) {
                let text = format!("{by} commits {index}@{term}, and only {holders} nodes hold it");
                return Err((Invariant::Durability, text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::world::WorldConfig;

    #[test]
    fn who_was_down_when_it_became_a_suspect_is_one_until_it_is_looked_at() {
        let mut world = World::new(WorldConfig::new(3, 1));
        let ids = world.node_ids();
        for id in &ids {
            world.start(*id).expect("a new node starts");
        }
        let end = world.now().after(Duration::from_secs(5));
        while world.step(end) {}
        let mut watch = Watch::new(0);
        world.crash(ids[0], Survive::All);
        // Its disk is to fail, some time after it was started again.
        assert_eq!(watch.may_survive(&mut world, ids[0], Survive::Random(7)), Survive::Random(7));
        watch.expect_stop(ids[0]);
        world.start(ids[0]).expect("it starts");
        watch.note_start(&world, ids[0]);
        assert!(!watch.may_lose(&world, ids[1]), "two of three may then be without their memory");
        // It did not come to that.
        watch.expect_no_stop(ids[0]);
        watch.note_start(&world, ids[0]);
        assert!(watch.may_lose(&world, ids[1]));
    }
}
