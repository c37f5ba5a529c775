//! Holds what production replicas do against the model of protocol RJ.
//!
//! A [`Recorder`] looks at a world after each of its steps and writes down, as [`Line`]s, what the nodes
//! did in the words of the model, and what their disks hold after each sync. A [`Checker`] takes these
//! lines one by one: each must be a step that the model allows, and after each sync the disk must be
//! what the model says that it is. So a run of the simulator is checked as a refinement of the model,
//! not only by what clients see of it.
//!
//! ```text
//!   world step ─► events, state ─► Recorder ─► Line: Did(action) ───► Model::step: allowed?
//!                                          └─► Line: Synced(disk) ──► the same as the model's node?
//! ```
//! What a node does is said when the model takes the step: a vote when it is durable, a commit at once.
//! What was on its way to the disk when a node died may or may not have arrived ([`Line::Found`]).

use std::collections::BTreeMap;

use tercet_raft::{Event, Index, NodeId, Raft, RoleKind, WriteId};
use tercet_replica::IdentityState;

use crate::model::{Action, Broken, Disk, Mode, Model, Slot};
use crate::world::{Happened, What, World};

/// What a node's disk holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OnDisk {
    /// The term.
    pub term: u64,
    /// The vote in it.
    pub vote: Option<Slot>,
    /// The terms of the log's entries.
    pub terms: Vec<u64>,
    /// The Readmit entries, by index.
    pub readmits: BTreeMap<u64, (Slot, Disk)>,
    /// The incarnation.
    pub disk: Disk,
    /// Whether it may vote.
    pub is_voter: bool,
}

/// One line of a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// Who is there at the beginning: all of them empty voters.
    Begin(BTreeMap<Slot, Disk>),
    /// A step of the model.
    Did(Action),
    /// A node's disk after a sync, as the node says.
    Synced(Slot, OnDisk),
    /// A follower learned that the log is committed up to this index, where it has this term.
    Learned(Slot, u64, u64),
    /// A node started with this on its disk. Of these steps, which were on their way to the disk when
    /// it died, some may have arrived: the first so many of them.
    Found(Slot, OnDisk, Vec<Action>),
}

/// Takes lines, and refuses the first that the model does not allow.
#[derive(Clone, Debug)]
pub struct Checker {
    model: Model,
    lines: usize,
}

impl Default for Checker {
    fn default() -> Self {
        Self { model: Model::new([]), lines: 0 }
    }
}

impl Checker {
    /// The model as the lines so far left it.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn take(&mut self, line: &Line) -> Result<(), Broken> {
        self.lines += 1;
        let taken = match line {
            Line::Begin(disks) => {
                self.model = Model::new(disks.iter().map(|(slot, disk)| (*slot, *disk)));
                Ok(())
            }
            Line::Did(action) => self.model.step(*action),
            Line::Synced(slot, disk) => self.compare(*slot, disk),
            Line::Learned(slot, index, term) => self.learned(*slot, *index, *term),
            Line::Found(slot, disk, on_its_way) => self.found(*slot, disk, on_its_way),
        };
        taken.map_err(|broken| Broken {
            why: format!("line {}: {}", self.lines, broken.why),
            ..broken
        })
    }

    fn compare(&self, slot: Slot, disk: &OnDisk) -> Result<(), Broken> {
        let node = &self.model.nodes[&slot];
        let readmits = (1..).zip(&node.log);
        let modelled = OnDisk {
            term: node.term,
            vote: node.vote,
            terms: node.log.iter().map(|entry| entry.term).collect(),
            readmits: readmits.filter_map(|(at, entry)| Some((at, entry.readmit?))).collect(),
            disk: node.disk,
            is_voter: node.mode == Mode::Voter,
        };
        let differs = |rule, what: String| Err(Broken { rule, why: format!("n{slot}: {what}") });
        if disk.disk != modelled.disk {
            return differs("Disk: the incarnation", format!("{:x}", disk.disk));
        }
        if disk.is_voter != modelled.is_voter {
            return differs("Disk: who may vote", format!("a voter: {}", disk.is_voter));
        }
        if (disk.term, disk.vote) != (modelled.term, modelled.vote) {
            let has = (disk.term, disk.vote);
            let should = (modelled.term, modelled.vote);
            return differs("Disk: term and vote", format!("{has:?}, not {should:?}"));
        }
        // What a damaged entry says is not known until it is repaired.
        let mut readmits = disk.readmits.iter();
        let is_known = readmits.all(|(at, whom)| modelled.readmits.get(at) == Some(whom));
        if disk.terms != modelled.terms || !is_known {
            let same = disk.terms.iter().zip(&modelled.terms).take_while(|(a, b)| a == b).count();
            let what = format!(
                "{} entries, not {}; the first {same} have the same terms",
                disk.terms.len(),
                modelled.terms.len()
            );
            return differs("Disk: the log", what);
        }
        Ok(())
    }

    fn learned(&self, slot: Slot, index: u64, term: u64) -> Result<(), Broken> {
        let known = self.model.committed.get(&index).map(|(entry, _)| entry.term);
        if known == Some(term) {
            return Ok(());
        }
        let why = format!("n{slot} takes {index}@{term} for committed; it is {known:?}");
        Err(Broken { rule: "Learn: what a leader has committed", why })
    }

    fn found(&mut self, slot: Slot, disk: &OnDisk, on_its_way: &[Action]) -> Result<(), Broken> {
        let mut found = self.found_after(slot, disk, on_its_way);
        // Nothing tells when a node that died has promised: it may have been before it did the rest.
        let promise = Action::Promise(slot);
        if let Some(last) = on_its_way.iter().position(|action| *action == promise) {
            for at in (0..last).rev() {
                if found.is_ok() {
                    break;
                }
                let mut other = on_its_way.to_vec();
                other[at..=last].rotate_right(1);
                found = self.found_after(slot, disk, &other).or(found);
            }
        }
        *self = found?;
        Ok(())
    }

    /// The model when what was on its way had arrived, in this order and as far as the disk shows,
    /// before the node died.
    fn found_after(
        &self,
        slot: Slot,
        disk: &OnDisk,
        on_its_way: &[Action],
    ) -> Result<Self, Broken> {
        let mut arrived = self.clone();
        let mut differs = arrived.compare(slot, disk).err();
        for action in on_its_way {
            if differs.is_none() {
                break;
            }
            arrived.model.step(*action)?;
            differs = arrived.compare(slot, disk).err();
        }
        if let Some(broken) = differs {
            return Err(Broken { rule: "Start: with what was durable", why: broken.why });
        }
        arrived.model.step(Action::Crash(slot))?;
        Ok(arrived)
    }
}

/// A recorder with its checker: looks at a world, and says which rule it breaks.
#[derive(Clone, Debug)]
pub struct Refinement {
    recorder: Recorder,
    checker: Checker,
    /// The lines, if somebody wants to keep them.
    kept: Option<Vec<Line>>,
}

impl Refinement {
    /// Of a world whose nodes have just been started, with logs that are empty.
    pub fn new(world: &World, keeps: bool) -> Self {
        let kept = keeps.then(Vec::new);
        Self { recorder: Recorder::new(world), checker: Checker::default(), kept }
    }

    /// Looks at the world after one step of it: `happened` is what happened since the last look.
    ///
    /// # Errors
    /// The rule that a node broke.
    pub fn look(&mut self, world: &World, happened: &[Happened]) -> Result<(), String> {
        self.recorder.look(world, happened);
        for line in self.recorder.take_lines() {
            let taken = self.checker.take(&line);
            if let Some(kept) = &mut self.kept {
                kept.push(line.clone());
            }
            taken.map_err(|Broken { rule, why }| {
                format!("against the model: {rule}: {why} ({line:?})")
            })?;
        }
        Ok(())
    }

    /// How many lines there were.
    pub const fn lines(&self) -> usize {
        self.checker.lines
    }

    /// The lines that were kept.
    pub fn into_lines(self) -> Vec<Line> {
        self.kept.unwrap_or_default()
    }
}

/// One node, as the recorder has seen it.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Which of its lives; 0 before the first.
    life: u64,
    is_up: bool,
    disk: Disk,
    leads: bool,
    is_mute: bool,
    term: u64,
    /// What it did, as far as that is not yet durable, and which write makes it so.
    on_its_way: Vec<(Action, WriteId)>,
    /// Whether it did anything since its disk was last compared.
    is_news: bool,
    /// The term in which it stored the vote with which it leaves its quarantine.
    promised: Option<u64>,
}

/// Looks at a world, and writes down what happens in it.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    seen: BTreeMap<NodeId, Seen>,
    lines: Vec<Line>,
}

impl Recorder {
    /// A recorder of a world whose nodes have just been started, with logs that are empty and nothing
    /// stepped yet.
    pub fn new(world: &World) -> Self {
        let mut seen = BTreeMap::new();
        for id in world.node_ids() {
            let disk = incarnation(world, id).expect("the nodes of the world run");
            let life = world.life(id);
            seen.insert(id, Seen { life, is_up: true, disk, ..Seen::default() });
        }
        let disks = seen.iter().map(|(id, seen)| (id.slot(), seen.disk)).collect();
        Self { seen, lines: vec![Line::Begin(disks)] }
    }

    /// The lines since the last call.
    pub fn take_lines(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }

    /// Looks at the world after one step of it: `happened` is what happened since the last look.
    pub fn look(&mut self, world: &World, happened: &[Happened]) {
        let stopped = |id: NodeId| {
            happened.iter().any(|h| h.node == id && matches!(h.what, What::Stopped(_)))
        };
        for id in world.node_ids() {
            if !stopped(id) {
                self.look_at_life(world, id);
                // What was on its way arrived before anything that came of it happened.
                self.arrived(world, id);
            }
        }
        for Happened { node, what, .. } in happened {
            match what {
                What::Core(event) => self.look_at_event(world, *node, event),
                What::Stopped(_) => self.look_at_life(world, *node),
                What::Warning(_) | What::Notice(_) => {}
            }
        }
        for id in world.node_ids() {
            self.look_at_life(world, id);
            if raft(world, id).is_some_and(Raft::is_synced) {
                self.look_at_disk(world, id);
            }
        }
    }

    fn seen(&mut self, id: NodeId) -> &mut Seen {
        self.seen.get_mut(&id).expect("the nodes of the world are known")
    }

    /// Whether the node died, started, or lost its disk since.
    fn look_at_life(&mut self, world: &World, id: NodeId) {
        let (life, is_up) = (world.life(id), world.is_up(id));
        let before = self.seen[&id].clone();
        if before.is_up && (!is_up || life != before.life) {
            let seen = self.seen(id);
            (seen.is_up, seen.leads) = (false, false);
            self.lines.push(Line::Did(Action::Crash(id.slot())));
        }
        if !is_up || life == before.life && before.is_up {
            return;
        }
        let disk = incarnation(world, id).expect("it runs");
        let on_its_way = std::mem::take(&mut self.seen(id).on_its_way);
        let mut on_its_way: Vec<Action> = on_its_way.into_iter().map(|(did, _)| did).collect();
        let mut is_mute = true;
        if disk != before.disk {
            self.lines.push(Line::Did(Action::Wipe(id.slot(), disk)));
        } else if let Some(found) = on_disk(world, id) {
            // It may have died in the middle of leaving its quarantine.
            if before.is_mute && found.vote.is_some() {
                on_its_way.push(Action::Promise(id.slot()));
            }
            let mine = (id.slot(), disk);
            let readmit = found.readmits.iter().rev().find(|(_, readmit)| **readmit == mine);
            if let (true, true, Some((index, _))) = (before.is_mute, found.is_voter, readmit) {
                on_its_way.push(Action::Admit(id.slot(), *index));
            }
            is_mute = !found.is_voter;
            self.lines.push(Line::Found(id.slot(), found, on_its_way));
        }
        let term = world.status(id).map_or(0, |status| status.hard_state.term.0);
        *self.seen(id) = Seen { life, is_up: true, disk, is_mute, term, ..Seen::default() };
    }

    /// Everything that the node asked to be written is durable now.
    fn look_at_disk(&mut self, world: &World, id: NodeId) {
        self.arrived(world, id);
        let Some(disk) = on_disk(world, id) else { return };
        let seen = self.seen(id);
        // The vote of a node that leaves its quarantine is in no event.
        let promises = !disk.is_voter && disk.vote.is_some() && seen.promised != Some(disk.term);
        if promises {
            seen.promised = Some(disk.term);
            self.lines.push(Line::Did(Action::Promise(id.slot())));
        }
        if std::mem::take(&mut self.seen(id).is_news) || promises {
            self.lines.push(Line::Synced(id.slot(), disk));
        }
    }

    /// What was on its way, as far as it is durable.
    fn arrived(&mut self, world: &World, id: NodeId) {
        let Some(raft) = raft(world, id) else { return };
        let seen = self.seen.get_mut(&id).expect("the nodes of the world are known");
        let is_durable = |(_, write): &mut (Action, WriteId)| raft.is_durable(*write);
        for (did, _) in seen.on_its_way.extract_if(.., is_durable) {
            seen.is_news = true;
            self.lines.push(Line::Did(did));
        }
    }

    /// What a node did counts when its hard state is durable, and its log up to `last`.
    fn does(&mut self, world: &World, id: NodeId, action: Action, last: Index) {
        let write = |raft: &Raft| raft.hard_state_write().max(raft.write_of(last));
        let write = raft(world, id).map_or(WriteId(0), write);
        self.seen(id).on_its_way.push((action, write));
    }

    /// The log up to `last` is that of the leader of the node's term; it may be durable already.
    fn follows(&mut self, world: &World, id: NodeId, last: Index) {
        let is_durable = raft(world, id).is_some_and(|raft| raft.durable() >= last);
        let seen = self.seen(id);
        let action = Action::Follow(id.slot(), seen.term, last.0);
        let waits = |(action, _): &(Action, WriteId)| !matches!(action, Action::Follow(_, term, _) if *term == seen.term);
        if is_durable && !seen.on_its_way.iter().any(waits) {
            seen.is_news = true;
            self.lines.push(Line::Did(action));
        } else {
            self.does(world, id, action, last);
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "most events are no steps of the model")]
    fn look_at_event(&mut self, world: &World, id: NodeId, event: &Event) {
        let slot = id.slot();
        match event {
            Event::Durable { .. } => self.arrived(world, id),
            Event::TermChanged { to, .. } => {
                self.seen(id).term = to.0;
                self.does(world, id, Action::Observe(slot, to.0), Index(0));
            }
            Event::VoteAsked { term, .. } => {
                // It entered the term by itself.
                let on_its_way = &mut self.seen(id).on_its_way;
                let _ = on_its_way.pop_if(|(did, _)| *did == Action::Observe(slot, term.0));
                self.does(world, id, Action::Timeout(slot), Index(0));
            }
            Event::VoteGranted { to, term } => {
                self.does(world, id, Action::Grant(slot, term.0, to.slot()), Index(0));
            }
            Event::Role { role: RoleKind::Leader, .. } => {
                self.seen(id).leads = true;
                self.lines.push(Line::Did(Action::Win(slot)));
            }
            Event::Role { was: RoleKind::Leader, .. } => {
                self.seen(id).leads = false;
                self.lines.push(Line::Did(Action::Crash(slot)));
            }
            Event::Appended { first, last, term } if self.seen[&id].leads => {
                for index in first.0..=last.0 {
                    let readmit = readmit_at(world, id, index);
                    self.lines.push(Line::Did(Action::Put(slot, readmit)));
                }
                self.does(world, id, Action::Follow(slot, term.0, last.0), *last);
            }
            Event::NeverCommitted { pos } => {
                self.does(world, id, Action::Drop(slot, pos.index.0), pos.index);
            }
            Event::AppendAccepted { last, .. } => self.follows(world, id, *last),
            Event::Committed { to, leads: true, .. } => {
                self.lines.push(Line::Did(Action::Commit(slot, to.0)));
            }
            Event::Committed { to, leads: false, .. } => {
                let term = raft(world, id).and_then(|raft| raft.term_at(Index(to.0)));
                if let Some(term) = term {
                    self.lines.push(Line::Learned(slot, to.0, term.0));
                }
            }
            Event::Readmitted { pos } => {
                // Its hard state is durable, and its identity.
                let term = self.seen[&id].term;
                if self.seen[&id].promised != Some(term) {
                    self.lines.push(Line::Did(Action::Promise(slot)));
                }
                self.lines.push(Line::Did(Action::Admit(slot, pos.index.0)));
                let seen = self.seen(id);
                (seen.is_news, seen.is_mute) = (true, false);
            }
            _ => {}
        }
    }
}

fn raft(world: &World, id: NodeId) -> Option<&Raft> {
    world.replica(id)?.raft()
}

fn incarnation(world: &World, id: NodeId) -> Option<Disk> {
    world.replica(id).map(|replica| replica.identity().incarnation.0)
}

fn readmit_at(world: &World, id: NodeId, index: u64) -> Option<(Slot, Disk)> {
    let (node, incarnation) = world.replica(id)?.raft()?.readmit_at(Index(index))?;
    Some((node.slot(), incarnation.0))
}

/// What a node's disk holds now, as its core knows it.
fn on_disk(world: &World, id: NodeId) -> Option<OnDisk> {
    let replica = world.replica(id)?;
    let raft = replica.raft()?;
    let indexes = || (1..=raft.durable().0).map(Index);
    let readmit = |index: Index| {
        let (node, incarnation) = raft.readmit_at(index)?;
        Some((index.0, (node.slot(), incarnation.0)))
    };
    Some(OnDisk {
        term: raft.hard_state().term.0,
        vote: raft.hard_state().vote.map(NodeId::slot),
        terms: indexes().filter_map(|index| raft.term_at(index)).map(|term| term.0).collect(),
        readmits: indexes().filter_map(readmit).collect(),
        disk: replica.identity().incarnation.0,
        is_voter: replica.identity().state == IdentityState::Voter,
    })
}
