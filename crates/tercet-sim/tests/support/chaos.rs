//! A seeded life of a cluster: clients and faults, then peace, in which the cluster must come to
//! agree. Which faults there are, and how often, is the seed's choice, too.

use std::time::Duration;

use tercet_raft::{Incarnation, NodeId, Profile, Rules};
use tercet_replica::LabInput;
use tercet_replica::gate::GateChange;
use tercet_replica::prepare::{Forget, forget};
use tercet_sim::rules::{Line, Refinement};
use tercet_sim::{Random, World, WorldConfig};
use tercet_wal::{Disk, DiskFile, Survive};

use super::clients::Clients;
use super::judge::judge;
use super::watch::{Met, Watch};
use super::{Wipe, converged, formed, identity, leader, read, wipe};

/// How long one slice is: clients and faults act at its end.
const SLICE: Duration = Duration::from_millis(4);
/// Within this a healed cluster has a leader: ten election timeouts.
const LEADER_MS: u64 = 3_000;
/// Within this a healed cluster agrees.
const CONVERGE_MS: u64 = 60_000;

/// What a seed is run with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: u8,
    pub(crate) profile: Profile,
    pub(crate) rules: Rules,
    /// Whether what happens is written down.
    pub(crate) traced: bool,
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) met: Met,
    pub(crate) trace: Vec<String>,
    pub(crate) world: World,
    pub(crate) clients: Clients,
    /// What the nodes did, in the words of the model, if the run was traced.
    pub(crate) lines: Vec<Line>,
}

/// Lives one seed.
pub(crate) fn live(plan: Plan) -> Result<Outcome, String> {
    let mut chaos = Chaos::new(plan);
    chaos.disturb()?;
    chaos.heal();
    chaos.agree()?;
    // What was acknowledged must outlive a power cut of everything, too.
    for id in chaos.world.node_ids() {
        chaos.world.crash(id, Survive::None);
    }
    chaos.heal();
    chaos.agree()?;
    for id in chaos.world.node_ids() {
        let records = read(&mut chaos.world, id).ok_or_else(|| format!("no read at {id}"))?;
        let next_seq = records.len() as u64 + 1;
        if chaos.world.replica(id).is_none_or(|replica| replica.next_seq() != next_seq) {
            return Err(format!("{id} reads {} records of another number", records.len()));
        }
    }
    let Chaos { mut world, clients, watch, refinement, .. } = chaos;
    judge(&mut world, &clients)?;
    let lines = refinement.map_or(Vec::new(), Refinement::into_lines);
    let trace = watch.trace.unwrap_or_default();
    Ok(Outcome { met: watch.met, trace, world, clients, lines })
}

type Fault = fn(&mut Chaos);

/// What goes wrong.
const FAULTS: [Fault; 21] = [
    Chaos::crash_one,
    Chaos::crash_leader,
    Chaos::crash_in_a_write,
    Chaos::crash_all,
    Chaos::fail_a_sync,
    Chaos::pause,
    Chaos::cut_one_way,
    Chaos::cut_both_ways,
    Chaos::isolate,
    Chaos::lose,
    Chaos::double,
    Chaos::delay,
    Chaos::hold,
    Chaos::slow_disk,
    Chaos::fill_disk,
    Chaos::wipe,
    Chaos::campaign,
    Chaos::transfer,
    Chaos::jump_clock,
    Chaos::edit_values,
    Chaos::restart,
];

/// What becomes good again.
const CURES: [Fault; 6] = [
    Chaos::restart,
    Chaos::restart,
    Chaos::resume,
    Chaos::heal_network,
    Chaos::release,
    Chaos::repair_disks,
];

#[derive(Debug)]
struct Chaos {
    world: World,
    clients: Clients,
    watch: Watch,
    /// Every step is held against the model, unless a rule is switched off.
    refinement: Option<Refinement>,
    random: Random,
    rules: Rules,
    weights: Vec<u64>,
    /// How many slices lie between two faults, at most.
    pace: u64,
    slices: u64,
    wipes: u64,
    /// Who was wiped last, with the rule switched off that mutes it.
    forgetful: Option<NodeId>,
}

impl Chaos {
    fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed ^ 0xfa17);
        let mut config = WorldConfig::new(plan.nodes, plan.seed);
        config.profile = plan.profile;
        config.rules = plan.rules;
        config.latency = Duration::from_micros(50 + random.below(2_000));
        config.jitter = Duration::from_micros(random.below(8_000));
        config.sync = Duration::from_micros(50 + random.below(6_000));
        let weights = FAULTS.iter().map(|_| {
            let is_on = random.chance(60);
            if is_on { 1 + random.below(8) } else { 0 }
        });
        let weights = weights.collect();
        let (pace, slices) = (2 + random.below(30), 500 + random.below(800));
        let world = formed(config);
        Self {
            clients: Clients::new(&world, plan.seed),
            watch: Watch::new(plan.traced),
            refinement: (plan.rules == Rules::default())
                .then(|| Refinement::new(&world, plan.traced)),
            world,
            random,
            rules: plan.rules,
            weights,
            pace,
            slices,
            wipes: 0,
            forgetful: None,
        }
    }

    /// A slice of time: every step is looked at.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.world.now().after(time);
        loop {
            let went = self.world.step(end);
            self.look()?;
            self.clients.listen(&mut self.world, &mut self.watch)?;
            if !went {
                break;
            }
        }
        self.watch.muted(&self.world);
        self.clients.act(&mut self.world);
        // Before somebody crashes.
        self.look()
    }

    fn look(&mut self) -> Result<(), String> {
        let happened = self.world.take_happened();
        if let Some(refinement) = &mut self.refinement {
            refinement.look(&self.world, &happened)?;
        }
        for happened in happened {
            self.watch.look(&self.world, &happened)?;
        }
        Ok(())
    }

    fn disturb(&mut self) -> Result<(), String> {
        let mut until_next = 0;
        for _ in 0..self.slices {
            self.pass(SLICE)?;
            if until_next > 0 {
                until_next -= 1;
                continue;
            }
            until_next = self.random.below(self.pace);
            if self.random.chance(40) {
                let at = self.random.below(CURES.len() as u64);
                CURES[usize::try_from(at).unwrap()](self);
            } else {
                self.any_fault()(self);
            }
        }
        Ok(())
    }

    fn any_fault(&mut self) -> Fault {
        let mut draw = self.random.below(self.weights.iter().sum());
        for (fault, weight) in FAULTS.iter().zip(&self.weights) {
            match draw.checked_sub(*weight) {
                Some(left) => draw = left,
                None => return *fault,
            }
        }
        Self::restart
    }

    /// Everybody is up, connected, with a disk that works.
    fn heal(&mut self) {
        let usual = self.world.config().sync;
        for id in self.world.node_ids() {
            self.world.change_gate(id, GateChange::Heal);
            self.world.change_gate(id, GateChange::Release(None));
            self.world.set_sync(id, usual);
            let disk = self.world.disk(id);
            disk.set_free_bytes(1 << 40);
            disk.crash_after(None);
            disk.fail_sync(u64::MAX);
            self.world.resume(id);
            if self.world.is_up(id) {
                self.watch.expect_no_stop(id);
            } else {
                self.start(id);
            }
        }
    }

    /// A leader, answers for everybody, and one log. A leader of the paper has no entry of its own,
    /// and commits earlier ones only with a client's: so one more client comes now and then.
    fn agree(&mut self) -> Result<(), String> {
        let is_led = |chaos: &Self| leader(&chaos.world).is_some();
        self.wait(LEADER_MS, "no leader within ten election timeouts", is_led)?;
        self.clients.close(self.world.now());
        self.wait(CONVERGE_MS, "they do not come to agree", |chaos| {
            chaos.clients.are_done() && converged(&chaos.world)
        })
    }

    fn wait(&mut self, ms: u64, what: &str, holds: fn(&Self) -> bool) -> Result<(), String> {
        let end = self.world.now().after(Duration::from_millis(ms));
        while !holds(self) {
            if self.world.now() >= end {
                let states = self.world.node_ids().into_iter().map(|id| {
                    let raft = self.world.status(id);
                    format!("{id}: {raft:?}")
                });
                return Err(format!("{what}: {}", states.collect::<Vec<_>>().join("\n")));
            }
            self.pass(SLICE)?;
            if self.random.chance(1) {
                self.clients.come(self.world.now());
            }
        }
        Ok(())
    }

    // --- who and how ---

    fn any(&mut self) -> NodeId {
        let nodes = self.world.node_ids();
        nodes[usize::try_from(self.random.below(nodes.len() as u64)).unwrap()]
    }

    fn any_up(&mut self) -> Option<NodeId> {
        let id = self.any();
        self.world.is_up(id).then_some(id)
    }

    fn survive(&mut self) -> Survive {
        match self.random.below(5) {
            0 => Survive::All,
            1 | 2 => Survive::None,
            _ => Survive::Random(self.random.next()),
        }
    }

    /// What survives of a write that fails. A random half of it can cost the node its memory.
    fn survive_in_write(&mut self, id: NodeId) -> Survive {
        let survive = match self.random.below(3) {
            0 => Survive::All,
            // Who is trusted without a memory never comes out of quarantine.
            1 => Survive::None,
            _ if self.rules.trust_wiped => Survive::None,
            _ => Survive::Random(self.random.next()),
        };
        let may_damage = matches!(survive, Survive::Random(_));
        let nodes = self.world.node_ids().len();
        let muted = self.watch.muted(&self.world);
        if may_damage && !self.watch.is_muted(id) && muted >= (nodes - 1) / 2 {
            return self.survive_in_write(id);
        }
        self.watch.expect_stop(id, may_damage);
        survive
    }

    fn start(&mut self, id: NodeId) {
        let had = identity(&mut self.world, id);
        if self.world.start(id).is_ok() {
            self.watch.note_start(&self.world, id, had.as_ref());
        } else {
            // Its disk failed it again: the next start finds what survived.
            let survive = self.survive();
            self.world.crash(id, survive);
            self.watch.note_failed_start(id);
            self.watch.count("start cut short");
        }
    }

    fn crash(&mut self, id: NodeId) {
        if !self.world.is_up(id) {
            return;
        }
        if leader(&self.world) == Some(id) {
            self.watch.count("leader crash");
        }
        let raft = self.world.replica(id).and_then(|replica| replica.raft());
        if raft.is_some_and(|raft| raft.durable() < raft.last().index) {
            self.watch.count("crash with an unsynced tail");
        }
        let survive = self.survive();
        self.world.crash(id, survive);
        self.watch.expect_no_stop(id);
    }

    // --- faults ---

    fn crash_one(&mut self) {
        let id = self.any();
        self.crash(id);
    }

    fn crash_leader(&mut self) {
        if let Some(id) = leader(&self.world) {
            self.crash(id);
        }
    }

    fn crash_all(&mut self) {
        for id in self.world.node_ids() {
            self.crash(id);
        }
    }

    fn crash_in_a_write(&mut self) {
        let id = self.any();
        let (steps, survive) = (self.random.below(8), self.survive_in_write(id));
        self.watch.count("disk dies");
        self.world.crash_in_write(id, steps, survive);
    }

    fn fail_a_sync(&mut self) {
        let id = self.any();
        let (n, survive) = (1 + self.random.below(4), self.survive_in_write(id));
        self.watch.count("sync fails");
        self.world.fail_sync(id, n, survive);
    }

    fn pause(&mut self) {
        if let Some(id) = self.any_up() {
            self.world.pause(id);
        }
    }

    fn cut_one_way(&mut self) {
        let (from, to) = (self.any(), self.any());
        self.world.change_gate(from, GateChange::Cut(to));
    }

    fn cut_both_ways(&mut self) {
        let (one, other) = (self.any(), self.any());
        self.world.change_gate(one, GateChange::Cut(other));
        self.world.change_gate(other, GateChange::Cut(one));
    }

    fn isolate(&mut self) {
        let is_leader = self.random.chance(60);
        let id = leader(&self.world).filter(|_| is_leader).unwrap_or_else(|| self.any());
        for other in self.world.node_ids() {
            self.world.change_gate(id, GateChange::Cut(other));
            self.world.change_gate(other, GateChange::Cut(id));
        }
    }

    fn lose(&mut self) {
        let (from, to) = (self.any(), self.any());
        let count = 1 + u32::try_from(self.random.below(20)).unwrap();
        self.world.change_gate(from, GateChange::Lose(to, None, count));
    }

    fn double(&mut self) {
        let (from, to) = (self.any(), self.any());
        let count = 1 + u32::try_from(self.random.below(30)).unwrap();
        self.world.change_gate(from, GateChange::Double(to, None, count));
    }

    fn delay(&mut self) {
        let (from, to) = (self.any(), self.any());
        let by = Duration::from_millis(self.random.below(120));
        self.world.change_gate(from, GateChange::Delay(to, by));
    }

    fn hold(&mut self) {
        let (from, to) = (self.any(), self.any());
        self.world.change_gate(from, GateChange::Hold(to, None));
    }

    fn slow_disk(&mut self) {
        let (id, ms) = (self.any(), 1 + self.random.below(100));
        self.world.set_sync(id, Duration::from_millis(ms));
    }

    fn fill_disk(&mut self) {
        let is_leader = self.random.chance(60);
        let id = leader(&self.world).filter(|_| is_leader).unwrap_or_else(|| self.any());
        self.world.disk(id).set_free_bytes(0);
    }

    /// At most a minority is without its memory at any time.
    fn wipe(&mut self) {
        let id = self.any();
        if self.rules.trust_wiped {
            self.forget(id);
            return;
        }
        let nodes = self.world.node_ids().len();
        let muted = self.watch.muted(&self.world);
        if self.watch.is_muted(id) || muted >= (nodes - 1) / 2 {
            return;
        }
        let what = match self.random.below(3) {
            0 => Wipe::Directory,
            1 => Wipe::Log,
            _ => Wipe::Identity,
        };
        // A node that runs reads its identity only when it starts.
        if what == Wipe::Identity || self.random.chance(50) {
            self.crash(id);
        }
        // A disk that dies meanwhile would keep the half of what is taken away.
        self.world.disk(id).crash_after(None);
        self.watch.count("wipe");
        let had = identity(&mut self.world, id);
        self.watch.mute(id, had.as_ref());
        wipe(&mut self.world, id, what);
    }

    /// The same with the rule switched off that mutes a wiped node. One after the other: whoever was
    /// wiped before has all that is committed again.
    fn forget(&mut self, id: NodeId) {
        let commit = |id: NodeId| self.world.status(id).map_or(0, |raft| raft.commit.0);
        let highest = self.world.node_ids().into_iter().map(commit).max();
        let is_whole = |id: NodeId| Some(commit(id)) == highest && commit(id) > 0;
        if self.forgetful.is_some_and(|before| !is_whole(before)) {
            return;
        }
        self.forgetful = Some(id);
        self.world.disk(id).crash_after(None);
        self.world.disk(id).fail_sync(u64::MAX);
        self.world.disk(id).set_free_bytes(1 << 40);
        self.crash(id);
        self.wipes += 1;
        let incarnation = Incarnation(u128::from(self.wipes) << 64 | u128::from(id.slot()));
        let options = self.world.config().wal();
        forget(self.world.disk(id), Forget::All, incarnation, options).unwrap();
        self.start(id);
    }

    fn campaign(&mut self) {
        if let Some(id) = self.any_up().filter(|id| !self.world.is_paused(*id)) {
            self.world.interfere(id, LabInput::Campaign);
        }
    }

    fn transfer(&mut self) {
        if let Some(id) = leader(&self.world) {
            let to = self.any();
            let to = (to != id).then_some(to);
            self.watch.count("transfer");
            self.world.transfer(id, to);
        }
    }

    fn jump_clock(&mut self) {
        let (id, hour) = (self.any(), 3_600_000);
        let by_ms = i64::try_from(self.random.below(2 * hour)).unwrap();
        self.world.jump_clock(id, by_ms - i64::try_from(hour).unwrap());
    }

    fn edit_values(&mut self) {
        let id = self.any();
        let disk = self.world.disk(id);
        let Ok(Some(file)) = disk.open("values.log") else { return };
        let length = file.len().unwrap_or(0);
        // A disk that is dead takes no edits, either.
        let _ = match self.random.below(3) {
            0 => disk.remove("values.log"),
            1 => file.set_len(length / 2),
            _ => file.write_at(b"write nobody\n", length),
        };
    }

    // --- cures ---

    fn restart(&mut self) {
        let down = |id: &NodeId| !self.world.is_up(*id);
        if let Some(id) = self.world.node_ids().into_iter().find(down) {
            self.start(id);
        }
    }

    fn resume(&mut self) {
        for id in self.world.node_ids() {
            self.world.resume(id);
        }
    }

    fn heal_network(&mut self) {
        for id in self.world.node_ids() {
            self.world.change_gate(id, GateChange::Heal);
        }
    }

    fn release(&mut self) {
        for id in self.world.node_ids() {
            self.world.change_gate(id, GateChange::Release(None));
        }
    }

    fn repair_disks(&mut self) {
        let usual = self.world.config().sync;
        for id in self.world.node_ids() {
            self.world.set_sync(id, usual);
            self.world.disk(id).set_free_bytes(1 << 40);
        }
    }
}
