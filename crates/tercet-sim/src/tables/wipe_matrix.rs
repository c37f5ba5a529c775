//! The wipe matrix: every set of nodes of a cluster loses what it has on disk, at every moment of a
//! commit, and the cluster must be safe, whole again by itself, or unavailable for a reason that it
//! can name.
//!
//! | dimension | values |
//! | --- | --- |
//! | nodes | 3, 5, 7 |
//! | who | every set of nodes but the empty one |
//! | what | the log, the meta data (the identity), all |
//! | the leader is | one that is lost, one that stays; where a set has room for both |
//! | when | before a record is sent, while it is (stored by some, acknowledged by none), after it is acknowledged |
//! | crash | with the process, and under a running process |
//!
//! [`cases`] lists them, and [`run`] runs one of them on production replicas in a [`World`], held
//! against the model of the protocol ([`crate::rules`]) at every step.

use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{NodeId, RoleKind};
use tercet_replica::IdentityState;
use tercet_replica::prepare::prepare;
use tercet_wal::{Disk as _, HardState, Survive};

use super::{Outcome, Suite, Verdict};
use crate::rules::Refinement;
use crate::world::{Answer, World, WorldConfig};

/// What is lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lost {
    /// The log.
    Log,
    /// The identity: who the node is, and whether it may vote.
    Meta,
    /// The whole directory.
    All,
}

/// When.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum When {
    /// Before the record is submitted.
    Before,
    /// When the leader has sent it, and nobody knows whether it is committed.
    During,
    /// When the client has its answer.
    After,
}

/// One case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Case {
    /// How many nodes there are.
    pub nodes: u8,
    /// Who loses something: bit 0 is n1.
    pub who: u8,
    /// What.
    pub lost: Lost,
    /// Whether the leader is one of them.
    pub leader: bool,
    /// When.
    pub when: When,
    /// Whether their processes die with it, or run on and have to notice.
    pub crash: bool,
}

impl Case {
    /// How many nodes lose something.
    pub const fn count(&self) -> u32 {
        self.who.count_ones()
    }

    /// Whether a majority keeps its memory.
    pub const fn is_spared(&self) -> bool {
        self.count() <= (self.nodes as u32 - 1) / 2
    }

    /// The seed of the case's world: its place in the table.
    pub fn seed(&self) -> u64 {
        let lost = self.lost as u64;
        let when = self.when as u64;
        let flags = u64::from(self.leader) << 1 | u64::from(self.crash);
        u64::from(self.nodes) << 16 | u64::from(self.who) << 8 | lost << 6 | when << 4 | flags
    }

    fn is_lost(&self, id: NodeId) -> bool {
        self.who & 1 << (id.slot() - 1) != 0
    }
}

/// What became of a case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ending {
    /// Everything that was acknowledged is there, on all nodes, which vote again.
    Whole,
    /// Nothing can be appended, and the nodes say why: too many have lost their memory.
    Unavailable,
}

/// All cases for so many nodes.
pub fn cases(nodes: u8) -> Vec<Case> {
    let mut all = Vec::new();
    for who in 1..1_u8 << nodes {
        let everybody = who.count_ones() == u32::from(nodes);
        for lost in [Lost::Log, Lost::Meta, Lost::All] {
            for leader in [true, false] {
                for when in [When::Before, When::During, When::After] {
                    for crash in [true, false] {
                        // Nobody stays who could lead; nobody could know that there ever was a
                        // cluster; and a process reads its identity only once.
                        if everybody && (!leader || lost == Lost::All)
                            || lost == Lost::Meta && !crash
                        {
                            continue;
                        }
                        all.push(Case { nodes, who, lost, leader, when, crash });
                    }
                }
            }
        }
    }
    all
}

/// A world of a case, with what was told to clients.
struct Staged {
    world: World,
    refinement: Refinement,
    case: Case,
    acknowledged: Vec<Bytes>,
}

const STEADY_MS: u64 = 5_000;
/// Within this a cluster that can heal has healed.
const HEALED_MS: u64 = 30_000;
/// A cluster that cannot serve is watched so long.
const WATCHED_MS: u64 = 3_000;

/// Runs a case.
///
/// # Errors
/// What was not as it must be, in words: the table has a hole then.
pub fn run(case: Case) -> Result<Ending, String> {
    let mut staged = Staged::new(case)?;
    staged.submit_and_lose()?;
    if case.is_spared() { staged.ends_whole() } else { staged.ends_unavailable() }
}

impl Staged {
    fn new(case: Case) -> Result<Self, String> {
        let mut world = World::new(WorldConfig::new(case.nodes, case.seed()));
        let options = world.config().wal();
        for identity in world.identities() {
            let disk = world.disk(identity.node);
            prepare(disk, &identity, HardState::default(), &[], options.clone())
                .map_err(|error| error.to_string())?;
        }
        for id in world.node_ids() {
            world.start(id)?;
        }
        let refinement = Refinement::new(&world, false);
        let mut staged = Self { world, refinement, case, acknowledged: Vec::new() };
        staged.until(STEADY_MS, "a leader", |staged| staged.leader().is_some())?;
        staged.lead_by_the_right_one()?;
        for number in 1..=3_u8 {
            staged.submit(u128::from(number), true)?;
        }
        staged.until(STEADY_MS, "all have the first records", Self::all_agree)?;
        Ok(staged)
    }

    /// Steps the world once; every step is held against the model.
    fn step(&mut self, ms: u64) -> Result<bool, String> {
        let end = self.world.now().after(Duration::from_millis(ms));
        let went = self.world.step(end);
        let happened = self.world.take_happened();
        self.refinement.look(&self.world, &happened)?;
        Ok(went)
    }

    fn pass(&mut self, ms: u64) -> Result<(), String> {
        let end = self.world.now().after(Duration::from_millis(ms));
        while self.world.now() < end {
            self.step(1)?;
        }
        Ok(())
    }

    fn until(&mut self, ms: u64, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let end = self.world.now().after(Duration::from_millis(ms));
        while !holds(self) {
            if self.world.now() >= end {
                return Err(format!("not within {ms} ms: {what}"));
            }
            self.step(1)?;
        }
        Ok(())
    }

    fn leader(&self) -> Option<NodeId> {
        let raft = |id: &NodeId| self.world.replica(*id).and_then(|replica| replica.raft());
        let leads = |id: &NodeId| raft(id).is_some_and(|raft| raft.role() == RoleKind::Leader);
        let leaders = self.world.node_ids().into_iter().filter(leads);
        leaders.max_by_key(|id| raft(id).map(|raft| raft.term()))
    }

    /// Hands leadership to a node that will be lost, or to one that will not.
    fn lead_by_the_right_one(&mut self) -> Result<(), String> {
        let (case, nodes) = (self.case, self.world.node_ids());
        let fits = |id: NodeId| case.is_lost(id) == case.leader;
        let target = nodes.into_iter().find(|id| fits(*id)).ok_or("nobody fits as the leader")?;
        for _ in 0..20 {
            if self.leader().is_some_and(fits) {
                return Ok(());
            }
            if let Some(leader) = self.leader() {
                self.world.transfer(leader, Some(target));
            }
            self.pass(400)?;
        }
        Err(format!("{target} does not come to lead"))
    }

    /// A client of the leader's; `waits` for success.
    fn submit(&mut self, id: u128, waits: bool) -> Result<(), String> {
        let value = Bytes::from(format!("v{id}"));
        for _ in 0..50 {
            let Some(leader) = self.leader() else {
                self.pass(100)?;
                continue;
            };
            let op = self.world.submit(leader, id, vec![value.clone()]);
            if !waits {
                return Ok(());
            }
            let end = self.world.now().after(Duration::from_secs(2));
            while self.world.answer(op).is_none() && self.world.now() < end {
                self.step(1)?;
            }
            if let Some(Answer::Submitted(_)) = self.world.answer(op) {
                self.acknowledged.push(value);
                return Ok(());
            }
            self.pass(50)?;
        }
        Err(format!("request {id} is not answered"))
    }

    fn submit_and_lose(&mut self) -> Result<(), String> {
        match self.case.when {
            When::Before => {}
            When::During => {
                self.submit(10, false)?;
                // The entry is on its way, and on some disks perhaps; no answer has come back.
                let sent = self.world.config().latency + self.world.config().sync;
                let end = self.world.now().after(sent);
                while self.world.next_due().is_some_and(|at| at < end) {
                    self.step(1)?;
                }
            }
            When::After => self.submit(10, true)?,
        }
        // An answer that came meanwhile counts.
        let lost: Vec<NodeId> =
            self.world.node_ids().into_iter().filter(|id| self.case.is_lost(*id)).collect();
        if self.case.crash {
            for id in &lost {
                self.world.crash(*id, Survive::None);
            }
        }
        for id in &lost {
            self.lose(*id).map_err(|error| error.to_string())?;
        }
        if self.case.crash {
            for id in &lost {
                self.world.start(*id)?;
            }
        }
        let happened = self.world.take_happened();
        self.refinement.look(&self.world, &happened)
    }

    fn lose(&mut self, id: NodeId) -> std::io::Result<()> {
        let lost = self.case.lost;
        let disk = self.world.disk(id);
        let mut gone = Vec::new();
        if lost != Lost::Meta {
            gone.extend(disk.list("wal")?.into_iter().map(|name| format!("wal/{name}")));
        }
        match lost {
            Lost::Log => {}
            Lost::Meta => gone.push("identity".to_owned()),
            Lost::All => gone.extend(disk.list("")?),
        }
        for name in gone {
            disk.remove(&name)?;
        }
        disk.sync_dir("")
    }

    /// Whether everybody votes and has applied one and the same log to its end.
    fn all_agree(&self) -> bool {
        let end = |id: NodeId| {
            let status = self.world.replica(id)?.status();
            let raft = status.raft?;
            let is_settled = status.identity.state == IdentityState::Voter
                && raft.role != RoleKind::Quarantined
                && raft.applied == raft.last.index;
            is_settled.then_some(raft.last)
        };
        let ends: Vec<_> = self.world.node_ids().into_iter().map(end).collect();
        self.leader().is_some() && ends[0].is_some() && ends.iter().all(|end| *end == ends[0])
    }

    fn ends_whole(mut self) -> Result<Ending, String> {
        // Files that are gone under a running process are noticed soon.
        self.pass(300)?;
        self.until(HEALED_MS, "full redundancy", Self::all_agree)?;
        self.submit(20, true)?;
        self.until(HEALED_MS, "all have the last record", Self::all_agree)?;
        for id in self.world.node_ids() {
            let op = self.world.read(id, true);
            let Some(Answer::Read(found)) = self.world.answer(op) else {
                return Err(format!("{id} cannot be read"));
            };
            let kept: Vec<&Bytes> =
                found.iter().filter(|value| self.acknowledged.contains(value)).collect();
            if !kept.into_iter().eq(self.acknowledged.iter()) {
                return Err(format!(
                    "{id} has {found:?}; {:?} was acknowledged",
                    self.acknowledged
                ));
            }
        }
        Ok(Ending::Whole)
    }

    fn ends_unavailable(mut self) -> Result<Ending, String> {
        // What was on its way may still be committed by those who have not noticed; what is asked for
        // when they have, is not.
        self.pass(1_000)?;
        let mut asked = Vec::new();
        for round in 0..WATCHED_MS / 300 {
            for id in self.world.node_ids() {
                let number = u128::from(100 + round * 10) + u128::from(id.slot());
                asked.push(self.world.submit(id, number, vec![Bytes::from_static(b"never")]));
                asked.push(self.world.read(id, false));
            }
            self.pass(300)?;
        }
        for op in asked {
            if let Some(answer @ (Answer::Submitted(_) | Answer::Read(_))) = self.world.answer(op) {
                return Err(format!("without a majority that remembers: {answer:?}"));
            }
        }
        // The reason can be seen: who lost its memory says so, and waits.
        for id in self.world.node_ids().into_iter().filter(|id| self.case.is_lost(*id)) {
            let replica = self.world.replica(id).ok_or_else(|| format!("{id} is down"))?;
            if replica.identity().state == IdentityState::Voter {
                return Err(format!("{id} votes, though nobody could readmit it"));
            }
        }
        Ok(Ending::Unavailable)
    }
}

/// One suite for each size of a cluster.
pub fn suites() -> Vec<Suite> {
    [("wiped-3", 3), ("wiped-5", 5), ("wiped-7", 7)]
        .into_iter()
        .map(|(name, nodes)| {
            let cases = cases(nodes);
            Suite {
                name,
                what: format!("{nodes} nodes: any set of them loses its log, its identity or all"),
                cases: cases.len() as u64,
                reported: "",
                play: Box::new(move |case| {
                    let at = usize::try_from(case).expect("a case of the suite");
                    match run(cases[at]) {
                        Ok(Ending::Whole) => Verdict::good(Outcome::Correct),
                        Ok(Ending::Unavailable) => Verdict::good(Outcome::Unavailable),
                        Err(why) => Verdict::miss(Outcome::Unsafe, why),
                    }
                }),
            }
        })
        .collect()
}
