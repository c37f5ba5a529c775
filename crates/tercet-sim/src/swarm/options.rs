//! What a seed decides: how large the cluster is, how fast, who uses it, what goes wrong and when.
//!
//! All of it is drawn before the run, and each part from numbers of its own: so a part can be left
//! out ([`Limits`]) without a change to the others, and a run that failed can be made smaller.

use std::collections::BTreeSet;
use std::time::Duration;

use tercet_raft::{Profile, Rules};

use super::faults::Fault;
use super::trials::Trial;
use crate::network::Link;
use crate::random::Random;
use crate::world::WorldConfig;

/// What a caller decides instead of the seed.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// How many nodes.
    pub nodes: Option<u8>,
    /// Which Raft.
    pub profile: Option<Profile>,
    /// Only these faults.
    pub faults: Option<BTreeSet<Fault>>,
    /// Of the faults that are planned then, only those with these numbers.
    pub only: Option<BTreeSet<usize>>,
    /// How long clients and faults are at work, simulated.
    pub length: Option<Duration>,
    /// The faults end after this; nothing else changes.
    pub until: Option<Duration>,
    /// The most clients.
    pub clients: Option<usize>,
    /// Rules of the protocol that are switched off: to see that this is found.
    pub rules: Rules,
}

impl Limits {
    /// Whether they let this happen.
    fn wants(&self, planned: &Planned) -> bool {
        self.faults.as_ref().is_none_or(|set| set.contains(&planned.fault))
            && self.only.as_ref().is_none_or(|only| only.contains(&planned.number))
            && self.until.is_none_or(|until| planned.at <= until)
    }
}

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Its place in the plan.
    pub number: usize,
    /// When, counted from the start.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// For how long, where that means something.
    pub lasts: Duration,
    /// Whom it hits and how.
    pub seed: u64,
}

/// One run, decided.
#[derive(Clone, Debug)]
pub struct Options {
    /// From this, all of it.
    pub seed: u64,
    /// The cluster.
    pub world: WorldConfig,
    /// Whether the nodes begin with empty disks and form the cluster by themselves.
    pub forms: bool,
    /// How many clients there are.
    pub clients: usize,
    /// How long clients and faults are at work.
    pub length: Duration,
    /// When much happens, as (from, to): the rest is quiet.
    pub bursts: Vec<(Duration, Duration)>,
    /// What goes wrong, by time.
    pub plan: Vec<Planned>,
    /// At the end, whether a partition with a bridge stands for ten minutes.
    pub bridge: bool,
    /// At the end, how many nodes lose their memory at once: more than a cluster can bear.
    pub beyond: Option<u8>,
    /// How messages fare all the time that clients and faults are at work.
    pub weather: Link,
    /// What is done to the cluster when it is healed.
    pub trial: Option<Trial>,
    /// Whether every step is held against the model of the protocol, too ([`crate::rules`]). The
    /// model knows nothing of how a cluster is formed.
    pub is_refined: bool,
    /// One in so many commits of a leader is looked up on the platters; with 0, none is: what is
    /// acknowledged is looked up in any case.
    pub lookups: u64,
}

fn between(random: &mut Random, least: Duration, most: Duration) -> Duration {
    let span = u64::try_from((most - least).as_micros()).unwrap_or(0);
    least + Duration::from_micros(random.below(span + 1))
}

const MS: Duration = Duration::from_millis(1);

impl Options {
    /// What this seed decides, within limits.
    pub fn draw(seed: u64, limits: &Limits) -> Self {
        let mut random = Random::new(seed ^ 0x0073_7761_726d);
        let nodes = match random.below(10) {
            0..=5 => 3,
            6..=8 => 5,
            _ => 7,
        };
        let nodes = limits.nodes.unwrap_or(nodes);
        let mut world = WorldConfig::new(nodes, seed);
        let profile = if random.chance(75) { Profile::Modern } else { Profile::Paper };
        world.profile = limits.profile.unwrap_or(profile);
        world.rules = limits.rules;
        world.latency = Duration::from_micros(50 + random.below(2_000));
        world.jitter = Duration::from_micros(random.below(6_000));
        world.sync = Duration::from_micros(50 + random.below(6_000));
        // Every third cluster is one of a wide area, or of slow disks: its timers are slower.
        let slower =
            if random.chance(33) { 2 + u32::try_from(random.below(6)).expect("small") } else { 1 };
        world.heartbeat_interval *= slower;
        world.election_timeout_min *= slower;
        world.election_timeout_max *= slower;
        world.latency *= slower;
        world.jitter *= slower;
        let forms = nodes > 1 && random.chance(15);
        let clients = 2 + usize::try_from(random.below(4)).expect("small");
        let length = between(&mut random, 240_000 * MS, 480_000 * MS);
        let bridge = nodes > 2 && random.chance(4) && world.profile == Profile::Modern;
        let lost = quorum(nodes) + u8::try_from(random.below(3)).expect("small");
        let beyond = (nodes > 2 && random.chance(4)).then(|| lost.min(nodes - 1));
        let length = limits.length.unwrap_or(length);
        let (bursts, plan) = Self::plan(Random::new(seed ^ 0x706c_616e), length, limits);
        Self {
            seed,
            world,
            forms,
            clients: limits.clients.map_or(clients, |most| clients.min(most.max(1))),
            length,
            bursts,
            plan,
            bridge: bridge && limits.faults.as_ref().is_none_or(|set| set.contains(&Fault::Bridge)),
            beyond: beyond
                .filter(|_| limits.faults.as_ref().is_none_or(|set| set.contains(&Fault::Wipe))),
            weather: Link::default(),
            trial: None,
            is_refined: false,
            lookups: 0,
        }
    }

    /// Takes over a plan, within limits.
    pub(crate) fn keep(&mut self, mut plan: Vec<Planned>, limits: &Limits) {
        plan.retain(|planned| limits.wants(planned));
        self.plan = plan;
    }

    /// Bursts of faults with quiet between them.
    fn plan(
        mut random: Random,
        length: Duration,
        limits: &Limits,
    ) -> (Vec<(Duration, Duration)>, Vec<Planned>) {
        // Not all kinds in every run: some states are only reached where others do not interfere.
        let mut weights = Vec::new();
        for fault in Fault::USUAL {
            let weight = if random.chance(45) { 1 + random.below(6) } else { 0 };
            weights.push((*fault, weight * fault.weight()));
        }
        // What breaks promises comes only where it is asked for.
        for fault in Fault::BREAKING {
            if limits.faults.as_ref().is_some_and(|set| set.contains(fault)) {
                weights.push((*fault, 20));
            }
        }
        let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let pace = 20 + random.below(400);
        let (mut bursts, mut plan) = (Vec::new(), Vec::new());
        let mut at = between(&mut random, 1_000 * MS, 5_000 * MS);
        let mut number = 0;
        while at < length && total > 0 {
            let begun = at;
            let end = at + between(&mut random, 500 * MS, 6_000 * MS);
            while at < end.min(length) {
                let mut draw = random.below(total);
                let drawn = weights.iter().find(|(_, weight)| match draw.checked_sub(*weight) {
                    Some(left) => {
                        draw = left;
                        false
                    }
                    None => true,
                });
                let fault = drawn.expect("the draw is below the sum").0;
                let most = if random.chance(85) { 2_500 * MS } else { 60_000 * MS };
                let lasts = between(&mut random, 5 * MS, most);
                plan.push(Planned { number, at, fault, lasts, seed: random.next() });
                number += 1;
                at += MS * u32::try_from(1 + random.below(pace)).expect("small");
            }
            bursts.push((begun.saturating_sub(1_000 * MS), at + 1_500 * MS));
            at += between(&mut random, 4_000 * MS, 60_000 * MS);
        }
        plan.retain(|planned| limits.wants(planned));
        (bursts, plan)
    }
}

/// How many of so many nodes are a majority.
pub(crate) const fn quorum(nodes: u8) -> u8 {
    nodes / 2 + 1
}
