//! One run: a life with faults, then peace.

use std::hash::{Hash as _, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tercet_raft::{NodeId, RoleKind, Time};
use tercet_replica::prepare::prepare;
use tercet_replica::{IdentityState, LoggedContent};
use tercet_wal::{HardState, Survive};

use super::check::check;
use super::faults::{Faults, leader};
use super::invariant::{Failure, Found, Invariant};
use super::load::Load;
use super::options::{Options, quorum};
use super::sometimes::Met;
use super::watch::Watch;
use crate::network::{Link, Mishaps, Said};
use crate::rules::{Line, Refinement};
use crate::world::{Answer, Happened, What, World};

/// Within so many election timeouts a healed cluster has a leader.
const LEADER_TIMEOUTS: u32 = 10;
/// Within so many it commits.
pub(super) const COMMIT_TIMEOUTS: u32 = 12;
/// Within this it agrees.
const AGREE: Duration = Duration::from_secs(60);
/// How long a partition with a bridge stands, and how often the leader may change under it.
const BRIDGE: (Duration, u64) = (Duration::from_secs(600), 2);
/// All nodes are compared once in so many actions of clients and faults.
const COMPARED: u64 = 50;
/// How long a cluster is asked that must not serve.
const BEYOND: Duration = Duration::from_secs(10);

/// What is told of a run while it goes on.
#[derive(Clone, Debug)]
pub enum Told<'a> {
    /// Something was done to the cluster.
    Step {
        /// When.
        at: Time,
        /// What.
        text: String,
    },
    /// Something happened on a node.
    Happened(&'a Happened),
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// How many nodes it had.
    pub nodes: u8,
    /// What was met.
    pub met: Met,
    /// How long it was, in the world's time.
    pub simulated: Duration,
    /// Stands for all that happened, in order: the same seed gives the same.
    pub hash: u64,
    /// What was broken.
    pub failure: Option<Failure>,
    /// How the nodes were then.
    pub states: Vec<String>,
    /// The world's time when it began.
    pub begun: Time,
    /// What the nodes did, in the words of the model, if it was held against it.
    pub lines: Vec<Line>,
}

/// Lives a seed.
pub fn run(options: &Options) -> Outcome {
    run_told(options, &mut |_| {})
}

/// The same, and tells of it.
pub fn run_told(options: &Options, tell: &mut dyn FnMut(Told<'_>)) -> Outcome {
    let mut life = Life::new(options, tell);
    let found = catch_unwind(AssertUnwindSafe(|| life.live())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_default();
        Err((Invariant::of_assertion(&text), format!("asserts: {text}")))
    });
    life.count_mishaps();
    let simulated = life.world.now().since(life.begun);
    let failure = found.err().map(|(invariant, text)| Failure { invariant, text, at: simulated });
    let states = if failure.is_some() { states(&life.world) } else { Vec::new() };
    Outcome {
        seed: options.seed,
        nodes: options.world.nodes,
        met: life.watch.met,
        simulated,
        hash: life.hash.finish(),
        failure,
        states,
        begun: life.begun,
        lines: life.refinement.map_or_else(Vec::new, Refinement::into_lines),
    }
}

pub(super) fn states(world: &World) -> Vec<String> {
    let state = |id: NodeId| match world.status(id) {
        Some(raft) => format!(
            "{id} {} @{} last={} durable={} commit={}",
            raft.role, raft.hard_state.term, raft.last, raft.durable, raft.commit
        ),
        None if world.is_up(id) => format!("{id} knows no cluster"),
        None => format!("{id} down"),
    };
    world.node_ids().into_iter().map(state).collect()
}

/// FNV-1a: the same in every version of the compiler.
#[derive(Debug)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }
}

pub(super) struct Life<'a> {
    pub(super) options: &'a Options,
    tell: &'a mut dyn FnMut(Told<'_>),
    pub(super) world: World,
    pub(super) load: Load,
    faults: Faults,
    watch: Watch,
    begun: Time,
    hash: Fnv,
    said: Vec<Said>,
    actions: u64,
    /// Every step is held against the model.
    refinement: Option<Refinement>,
}

impl<'a> Life<'a> {
    pub(super) fn new(options: &'a Options, tell: &'a mut dyn FnMut(Told<'_>)) -> Self {
        let mut world = World::new(options.world.clone());
        world.overhear();
        world.record_messages();
        let begun = world.now();
        Self {
            load: Load::new(options, begun),
            faults: Faults::new(options, begun),
            watch: Watch::new(options.lookups),
            begun,
            hash: Fnv(0xcbf2_9ce4_8422_2325),
            said: Vec::new(),
            actions: 0,
            refinement: None,
            options,
            tell,
            world,
        }
    }

    /// What the network and the disks have counted themselves.
    fn count_mishaps(&mut self) {
        let Mishaps { damaged, damaged_entries, cut_off, replayed_late } = self.world.mishaps();
        let ids = self.world.node_ids();
        let astray = ids.into_iter().map(|id| self.world.disk(id).gone_astray()).sum();
        for (what, times) in [
            ("a damaged byte on the wire refused", damaged),
            ("a damaged entry on the wire refused", damaged_entries),
            ("a message lost with its connection", cut_off),
            ("a message again, a minute late or more", replayed_late),
            ("a write gone astray", astray),
        ] {
            if times > 0 {
                *self.watch.met.entry(what).or_default() += times;
            }
        }
    }

    pub(super) fn live(&mut self) -> Found {
        self.begin()?;
        self.disturb()?;
        self.heal("heal");
        self.watch.count("healed");
        self.recover()?;
        if self.options.bridge {
            self.bridge()?;
        }
        if let Some(trial) = self.options.trial {
            self.try_it(trial)?;
        }
        // What was acknowledged must outlive a power cut of everything, too.
        self.step("power cut of all nodes");
        for id in self.world.node_ids() {
            self.world.crash(id, Survive::None);
        }
        self.watch.count("a power cut of all at the end");
        self.heal("start all nodes");
        self.agree()?;
        self.read_everywhere()?;
        check(&mut self.world, &self.load)?;
        if let Some(count) = self.options.beyond {
            self.beyond(count)?;
        }
        Ok(())
    }

    pub(super) fn step(&mut self, text: &str) {
        (self.tell)(Told::Step { at: self.world.now(), text: text.to_owned() });
    }

    /// Starts the nodes; those that know no cluster must form one first, in peace.
    fn begin(&mut self) -> Found {
        if !self.options.forms {
            let wal = self.world.config().wal();
            for identity in self.world.identities() {
                let disk = self.world.disk(identity.node);
                let made = prepare(disk, &identity, HardState::default(), &[], wal.clone());
                made.map_err(|error| (Invariant::Replica, error.to_string()))?;
            }
        }
        for id in self.world.node_ids() {
            self.world.start(id).map_err(|error| (Invariant::Replica, error))?;
        }
        if self.options.is_refined {
            self.refinement = Some(Refinement::new(&self.world, true));
        }
        self.faults.begin_weather(&mut self.world);
        let end = self.world.now().after(Duration::from_secs(10));
        while self.options.forms && self.world.now() < end && leader(&self.world).is_none() {
            let next = self.world.now().after(Duration::from_millis(50));
            self.pass(next)?;
        }
        Ok(())
    }

    /// The safety phase.
    fn disturb(&mut self) -> Found {
        let options = self.options;
        let mut edges: Vec<(Duration, bool)> = Vec::new();
        for (from, to) in &options.bursts {
            edges.extend([(*from, true), (*to, false)]);
        }
        edges.sort_unstable();
        let end = self.begun.after(options.length);
        for (at, busy) in edges {
            let at = self.begun.after(at).min(end);
            self.pass(at)?;
            self.load.set_busy(busy, self.world.now());
        }
        self.pass(end)
    }

    pub(super) fn heal(&mut self, text: &str) {
        self.step(text);
        self.faults.heal(&mut self.world, &mut self.watch);
        self.load.set_busy(true, self.world.now());
    }

    /// Lets time pass: clients and faults act, and every step is looked at.
    pub(super) fn pass(&mut self, end: Time) -> Found {
        while self.world.now() < end {
            let acts = [self.load.next_at(), self.faults.next_at()];
            let next = acts.into_iter().flatten().min().map_or(end, |next| next.min(end));
            loop {
                let went = self.world.step(next);
                // A sync that nobody speaks of is a step of the model.
                if self.refinement.is_some() || self.world.has_news() {
                    self.look()?;
                }
                if !went {
                    break;
                }
            }
            self.load.act(&mut self.world);
            // Before somebody crashes.
            self.look()?;
            let tell = &mut *self.tell;
            self.faults.act(&mut self.world, &mut self.watch, &mut |at, text| {
                tell(Told::Step { at, text });
            });
            self.look()?;
            self.actions += 1;
            if self.actions.is_multiple_of(COMPARED) {
                self.watch.look_at_all(&self.world)?;
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Found {
        let all = self.world.take_happened();
        if let Some(refinement) = &mut self.refinement {
            refinement.look(&self.world, &all).map_err(|text| (Invariant::Model, text))?;
        }
        for happened in all {
            let Happened { at, node, term, what } = &happened;
            self.hash.write_u64(at.0);
            self.hash.write_u64(u64::from(node.slot()) << 56 | term);
            match what {
                What::Core(event) => event.hash(&mut self.hash),
                What::Warning(text) | What::Notice(text) | What::Stopped(text) => {
                    text.hash(&mut self.hash);
                }
            }
            (self.tell)(Told::Happened(&happened));
            if matches!(what, What::Stopped(_)) {
                self.faults.note_stopped(&self.world, *node);
            }
            self.watch.look(&self.world, &happened)?;
        }
        let mut said = std::mem::take(&mut self.said);
        self.world.take_said(&mut said);
        for said in said.drain(..) {
            self.watch.hear(&mut self.world, &said)?;
        }
        self.said = said;
        self.watch.look_up_committed(&mut self.world)?;
        self.load.listen(&mut self.world, &mut self.watch)
    }

    // --- peace ---

    pub(super) fn timeouts(&self, count: u32) -> Duration {
        self.options.world.election_timeout_max * count
    }

    /// The liveness phase: a leader, a commit, and agreement, each in time. A majority has its
    /// memory, so this cluster is recoverable: it must serve.
    fn recover(&mut self) -> Found {
        let healed = self.world.now();
        let probe = self.load.come(healed);
        let is_led = |life: &Self| leader(&life.world).is_some();
        self.wait(self.timeouts(LEADER_TIMEOUTS), "no leader", is_led)?;
        let left = self.timeouts(COMMIT_TIMEOUTS).saturating_sub(self.world.now().since(healed));
        self.commit(probe, left, "a leader, and no commit")?;
        self.agree()
    }

    /// A request that came since is committed. In the paper's Raft, one that an earlier leader
    /// appended waits for another one: so they come again and again.
    pub(super) fn commit(&mut self, since: usize, most: Duration, what: &str) -> Found {
        let end = self.world.now().after(most);
        while self.load.requests[since..].iter().all(|request| request.ended.is_none()) {
            let left = end.since(self.world.now());
            if left.is_zero() {
                return self.wait(left, what, |_| false);
            }
            self.pass(self.world.now().after(self.options.world.election_timeout_min.min(left)))?;
            self.load.come(self.world.now());
        }
        Ok(())
    }

    /// Every client is answered, and all nodes have one log. A leader of the paper has no entry of
    /// its own, and commits earlier ones only with a client's: so one more client comes now and
    /// then.
    pub(super) fn agree(&mut self) -> Found {
        self.load.close();
        self.load.come(self.world.now());
        let mut comes_at = self.world.now();
        let end = comes_at.after(AGREE);
        while !(self.load.is_done() && has_converged(&self.world)) {
            let now = self.world.now();
            if now >= end {
                let text = format!("they do not come to agree: {}", states(&self.world).join("; "));
                return Err((Invariant::Liveness, text));
            }
            if now >= comes_at {
                comes_at = now.after(Duration::from_millis(400));
                self.load.come(now);
            }
            self.pass(now.after(Duration::from_millis(20)))?;
        }
        Ok(())
    }

    /// A linearizable read at every node gives the whole log.
    fn read_everywhere(&mut self) -> Found {
        for id in self.world.node_ids() {
            let op = self.world.read(id, false);
            self.wait(self.timeouts(COMMIT_TIMEOUTS), "a read is not answered", |life| {
                life.world.answer(op).is_some()
            })?;
            let Some(Answer::Read(values)) = self.world.answer(op).cloned() else {
                let text =
                    format!("{id} does not confirm a read: {}", states(&self.world).join("; "));
                return Err((Invariant::Liveness, text));
            };
            self.world.forget(op);
            let records = self.world.log(id).into_iter().flat_map(|entry| match entry.content {
                LoggedContent::Records { values, .. } => values,
                LoggedContent::Noop | LoggedContent::Readmit(_) | LoggedContent::Damaged => {
                    Vec::new()
                }
            });
            let next_seq = self.world.replica(id).map(tercet_replica::Replica::next_seq);
            if !records.eq(values.iter().cloned()) || next_seq != Some(values.len() as u64 + 1) {
                let text = format!("{id} reads {} records, and its log has others", values.len());
                return Err((Invariant::Identity, text));
            }
        }
        Ok(())
    }

    fn wait(&mut self, most: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Found {
        let end = self.world.now().after(most);
        while !holds(self) {
            if self.world.now() >= end {
                let text = format!("{what} in time: {}", states(&self.world).join("; "));
                return Err((Invariant::Liveness, text));
            }
            self.pass(self.world.now().after(Duration::from_millis(10)).min(end))?;
        }
        Ok(())
    }

    /// Two halves that hear each other only through one node: who leads stays leader, though one half
    /// does not hear it. (So the leader is not the bridge itself, whom all hear.)
    fn bridge(&mut self) -> Found {
        let mut ids = self.world.node_ids();
        let middle = ids.len() / 2;
        if leader(&self.world) == Some(ids[middle]) {
            ids.rotate_left(1);
        }
        let cut = Link { cut: true, ..Link::default() };
        let mut links = Vec::new();
        for (a, from) in ids.iter().enumerate() {
            for (b, to) in ids.iter().enumerate() {
                if a.min(b) < middle && a.max(b) > middle {
                    links.push((*from, *to));
                }
            }
        }
        self.step("a bridge, for ten minutes");
        for (from, to) in &links {
            self.world.set_link(*from, *to, cut);
        }
        let led = |life: &Self| life.watch.met.get("a leader").copied().unwrap_or(0);
        let before = led(self);
        let (long, most) = BRIDGE;
        let end = self.world.now().after(long);
        while self.world.now() < end {
            self.pass(self.world.now().after(Duration::from_secs(5)).min(end))?;
            let changes = led(self) - before;
            if changes > most {
                let text = format!("{changes} leaders under a steady bridge");
                return Err((Invariant::Liveness, text));
            }
        }
        let probe = self.load.come(self.world.now());
        self.commit(probe, self.timeouts(COMMIT_TIMEOUTS), "no commit under a bridge")?;
        self.watch.count("a steady bridge");
        for (from, to) in links {
            self.world.set_link(from, to, Link::default());
        }
        Ok(())
    }

    /// Too many have lost their memory: nothing may be acknowledged, nothing read.
    fn beyond(&mut self, count: u8) -> Found {
        let text = self.faults.wipe_many(count, &mut self.world, &mut self.watch);
        self.step(&text);
        self.watch.count("more memories lost than can be borne");
        let whole = self.options.world.nodes - count;
        assert!(whole < quorum(self.options.world.nodes), "more than can be borne");
        let end = self.world.now().after(BEYOND);
        let mut ops = Vec::new();
        while self.world.now() < end {
            for id in self.world.node_ids() {
                let value = bytes::Bytes::from_static(b"never");
                ops.push(self.world.submit(id, 0xdead, vec![value]));
                ops.push(self.world.read_from(id, 1, 1, false));
            }
            // The clients of before take no part: their answers were judged.
            let next = self.world.now().after(Duration::from_millis(500));
            while self.world.step(next) {
                for happened in self.world.take_happened() {
                    self.watch.look(&self.world, &happened)?;
                }
                let mut said = Vec::new();
                self.world.take_said(&mut said);
                for said in said {
                    self.watch.hear(&mut self.world, &said)?;
                }
            }
            for op in &ops {
                if let Some(answer @ (Answer::Submitted(_) | Answer::Read(_))) =
                    self.world.answer(*op)
                {
                    let text = format!("{whole} nodes have their memory, and one says {answer:?}");
                    return Err((Invariant::Availability, text));
                }
            }
        }
        Ok(())
    }
}

/// Whether everybody runs, votes, and has applied the same log to its end.
fn has_converged(world: &World) -> bool {
    let end = |id: NodeId| {
        let replica = world.replica(id)?;
        let raft = replica.raft()?;
        let is_settled = replica.identity().state == IdentityState::Voter
            && raft.role() != RoleKind::Quarantined
            && raft.commit() == raft.last().index
            && raft.applied() == raft.commit();
        is_settled.then(|| raft.last())
    };
    let mut ends = world.node_ids().into_iter().map(end);
    let first = ends.next().flatten();
    let agree = first.is_some() && ends.all(|end| end == first);
    agree
        && leader(world).is_some()
        && world.node_ids().into_iter().all(|id| {
            world.replica(id).map(|replica| replica.status()).is_some_and(|status| {
                status.raft.is_some_and(|raft| {
                    status.values_index == raft.applied.0 && raft.faulty.is_empty()
                })
            })
        })
}
