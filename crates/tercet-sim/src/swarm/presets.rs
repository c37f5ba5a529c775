//! Lives made for something: where a seed of the whole swarm meets a rare state once in a long
//! while, a preset makes it common. What is checked is the same.

use std::time::Duration;

use tercet_raft::{Profile, Rules};

use super::faults::Fault;
use super::options::{Limits, Options, Planned};
use super::trials::Trial;
use crate::network::Link;
use crate::random::Random;

/// A kind of life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Preset {
    /// Seconds instead of minutes, with a fault every few milliseconds, and every step held against
    /// the model of the protocol ([`crate::rules`]).
    Busy,
    /// Messages come twice, overtake each other, and are late, some of them by several elections.
    LateMessages,
    /// Two nodes of five campaign at once, again and again, and votes come twice.
    SplitVotes,
    /// Leaders come and go before what they appended is on a majority (Figure 8).
    ShortReigns,
    /// Leaders are cut off for so long that there is another one, and clients go on asking both.
    DeposedLeaders,
    /// Bytes of a log on a disk become others.
    DamagedLogs,
    /// Nodes lose their memory.
    LostMemories,
    /// One thing is done to a cluster in peace, which must bear it in time.
    Peace(Trial),
}

impl Preset {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let busy = [
            Self::Busy,
            Self::LateMessages,
            Self::SplitVotes,
            Self::ShortReigns,
            Self::DeposedLeaders,
            Self::DamagedLogs,
            Self::LostMemories,
        ];
        busy.into_iter().chain(Trial::ALL.iter().map(|trial| Self::Peace(*trial)))
    }

    /// What this seed decides in a life of this kind.
    pub fn draw(self, seed: u64, limits: &Limits) -> Options {
        let mut random = Random::new(seed ^ 0x7072_6573);
        let mut limits = limits.clone();
        let length = Duration::from_millis(2_000 + random.below(3_000));
        limits.length.get_or_insert(length);
        limits.nodes.get_or_insert(if random.chance(60) { 3 } else { 5 });
        match self {
            Self::SplitVotes => limits.nodes = Some(5),
            Self::Peace(trial) => {
                limits.profile = trial.profile().or(limits.profile);
                limits.nodes = trial.nodes().or(limits.nodes);
            }
            Self::Busy
            | Self::LateMessages
            | Self::ShortReigns
            | Self::DeposedLeaders
            | Self::DamagedLogs
            | Self::LostMemories => {}
        }
        let mut options = Options::draw(seed, &limits);
        options.forms = false;
        options.bridge = false;
        options.beyond = None;
        options.bursts = vec![(Duration::ZERO, options.length)];
        options.lookups = 2;
        let plan = match self {
            Self::Busy => {
                options.is_refined = options.world.rules == Rules::default();
                busy(&mut random, &options)
            }
            Self::LateMessages => {
                let millis = Duration::from_millis;
                options.weather = Link {
                    duplicate_percent: 20,
                    delay: millis(1 + random.below(30)),
                    tail: millis(500 + random.below(2_000)),
                    reorder: true,
                    ..Link::default()
                };
                options.clients = 5;
                let kinds = [
                    (Fault::Campaign, 6),
                    (Fault::Split, 3),
                    (Fault::Isolate, 2),
                    (Fault::OneWay, 1),
                ];
                plan(&mut random, options.length, 250, 300, &kinds)
            }
            Self::SplitVotes => {
                options.weather = Link {
                    duplicate_percent: 50,
                    loss_percent: random.below(30),
                    ..Link::default()
                };
                split_votes(&mut random, &mut options)
            }
            Self::ShortReigns => {
                options.world.profile = limits.profile.unwrap_or(Profile::Paper);
                let kinds = [
                    (Fault::CrashLeader, 4),
                    (Fault::Isolate, 4),
                    (Fault::Campaign, 4),
                    (Fault::Cut, 3),
                    (Fault::Crash, 2),
                ];
                plan(&mut random, options.length, 60, 250, &kinds)
            }
            Self::DeposedLeaders => {
                options.clients = 5;
                let kinds = [
                    (Fault::Isolate, 6),
                    (Fault::Split, 2),
                    (Fault::OneWay, 2),
                    (Fault::Freeze, 1),
                    (Fault::Pause, 2),
                ];
                plan(&mut random, options.length, 700, 1_500, &kinds)
            }
            Self::DamagedLogs => {
                let kinds = [
                    (Fault::BitFlip, 3),
                    (Fault::Zeroed, 1),
                    (Fault::ReadError, 1),
                    (Fault::Crash, 3),
                    (Fault::CrashLeader, 3),
                    (Fault::Isolate, 3),
                ];
                plan(&mut random, options.length, 250, 600, &kinds)
            }
            Self::LostMemories => {
                let kinds = [(Fault::Wipe, 4), (Fault::Crash, 2), (Fault::Isolate, 4)];
                plan(&mut random, options.length, 150, 400, &kinds)
            }
            Self::Peace(trial) => {
                options.trial = Some(trial);
                options.lookups = 1;
                Vec::new()
            }
        };
        options.keep(plan, &limits);
        options
    }
}

/// Faults of these kinds, by weight, each at most so many milliseconds after the one before it, and
/// standing for at most so many.
fn plan(
    random: &mut Random,
    length: Duration,
    pace: u64,
    lasts: u64,
    kinds: &[(Fault, u64)],
) -> Vec<Planned> {
    let total = kinds.iter().map(|(_, weight)| weight).sum();
    let mut plan = Vec::new();
    let mut at = Duration::from_millis(300);
    while at < length && total > 0 {
        let mut draw = random.below(total);
        let drawn = kinds.iter().find(|(_, weight)| match draw.checked_sub(*weight) {
            Some(left) => {
                draw = left;
                false
            }
            None => true,
        });
        let (fault, _) = drawn.expect("the draw is below the sum");
        let lasts = Duration::from_millis(1 + random.below(lasts));
        plan.push(Planned { number: plan.len(), at, fault: *fault, lasts, seed: random.next() });
        at += Duration::from_millis(1 + random.below(pace));
    }
    plan
}

/// Each kind in some lives, and more often in some than in others.
fn busy(random: &mut Random, options: &Options) -> Vec<Planned> {
    let mut kinds = Vec::new();
    for fault in Fault::USUAL {
        let weight = if random.chance(60) { 1 + random.below(8) } else { 0 };
        kinds.push((*fault, weight * fault.weight()));
    }
    let pace = 10 + random.below(120);
    let lasts = 100 + random.below(1_000);
    plan(random, options.length, pace, lasts, &kinds)
}

/// Timers so slow that a vote comes twice before the next election; two campaigns at each moment.
fn split_votes(random: &mut Random, options: &mut Options) -> Vec<Planned> {
    options.world.election_timeout_min = Duration::from_millis(1_000);
    options.world.election_timeout_max = Duration::from_millis(2_000);
    options.world.heartbeat_interval = Duration::from_millis(200);
    options.world.jitter = Duration::from_millis(10);
    options.length *= 4;
    options.bursts = vec![(Duration::ZERO, options.length)];
    let mut plan = Vec::new();
    let mut at = Duration::from_millis(2_500);
    while at < options.length {
        for _ in 0..3 {
            let lasts = Duration::from_millis(1_500);
            let (number, seed) = (plan.len(), random.next());
            plan.push(Planned { number, at, fault: Fault::Campaign, lasts, seed });
        }
        at += Duration::from_millis(500 + random.below(2_500));
    }
    plan
}
