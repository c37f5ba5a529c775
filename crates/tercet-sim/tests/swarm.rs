//! The swarm, a part of it: `cargo xtask test` lives ten thousand seeds. And what it finds where
//! something is broken: a check that cannot fail proves nothing.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails, and talks, out loud")]

use std::collections::BTreeSet;
use std::time::Duration;

use tercet_raft::{Event, NodeId, Profile, RoleKind, Rules};
use tercet_sim::What;
use tercet_sim::swarm::{self, Fault, Invariant, Limits, Met, Options, Outcome, Told, sometimes};

fn live(seed: u64, limits: &Limits) -> Outcome {
    swarm::run(&Options::draw(seed, limits))
}

#[test]
fn every_invariant_holds() {
    let (mut met, mut hours) = (Met::new(), 0.0);
    for seed in 1..=150 {
        let outcome = live(seed, &Limits::default());
        assert_eq!(outcome.failure, None, "tercet sim --seeds {seed}");
        hours += outcome.simulated.as_secs_f64() / 3600.0;
        sometimes::add(&mut met, &outcome.met);
    }
    eprintln!("{hours:.1} hours: {met:?}");
    let missing = sometimes::missing(&met);
    // What is too rare for so few seeds: `tercet sim` wants all of it.
    assert!(missing.len() < 4, "never met: {missing:?}");
}

#[test]
fn the_same_seed_gives_the_same_life() {
    let mut hashes = BTreeSet::new();
    for seed in 5_000..5_010 {
        let once = live(seed, &Limits::default());
        let again = live(seed, &Limits::default());
        assert_eq!((once.hash, once.met), (again.hash, again.met), "seed {seed}");
        hashes.insert(once.hash);
    }
    assert_eq!(hashes.len(), 10, "another seed is another life");
}

/// Without faults nothing is ever lost, refused or repeated, whatever the seed.
#[test]
fn without_faults_nothing_goes_wrong() {
    let limits = Limits { faults: Some(BTreeSet::new()), ..Limits::default() };
    for seed in 0..30 {
        let outcome = live(seed, &limits);
        assert_eq!(outcome.failure, None, "tercet sim --faults none --seeds {seed}");
        for never in ["entries cut", "a node stopped by itself", "a start cut short"] {
            assert_eq!(outcome.met.get(never), None, "seed {seed}: {never}");
        }
        assert!(outcome.met["acknowledged"] > 10, "seed {seed} is busy");
    }
}

/// The first seed that breaks an invariant.
fn find(name: &str, most: u64, limits: &Limits) -> Outcome {
    let found = (1..=most).map(|seed| live(seed, limits)).find(|o| o.failure.is_some());
    let found = found.unwrap_or_else(|| panic!("{name}: not found in {most} seeds"));
    let failure = found.failure.as_ref().unwrap();
    eprintln!("{name}: after {} seeds: {failure}", found.seed);
    found
}

fn broken(name: &str, most: u64, break_rule: fn(&mut Rules)) -> Invariant {
    let mut limits = Limits::default();
    break_rule(&mut limits.rules);
    find(name, most, &limits).failure.unwrap().invariant
}

#[test]
fn what_a_broken_rule_breaks_is_named() {
    use Invariant::{Durability, ElectionSafety, LeaderCompleteness, StateMachineSafety};
    let unsafe_or_asserted = |invariant| {
        matches!(
            invariant,
            LeaderCompleteness
                | StateMachineSafety
                | ElectionSafety
                | Durability
                | Invariant::Monotonicity
                | Invariant::Replica
                | Invariant::LogMatching
        )
    };
    assert_eq!(broken("speak before durable", 20, |r| r.speak_before_durable = true), Durability);
    let found = broken("ignore the log in votes", 100, |r| r.ignore_log_in_votes = true);
    assert!(unsafe_or_asserted(found), "{found}");
    let found = broken("truncate always", 1_000, |r| r.truncate_always = true);
    assert!(unsafe_or_asserted(found), "{found}");
    let found = broken("trust wiped nodes", 200, |r| r.trust_wiped = true);
    assert!(unsafe_or_asserted(found), "{found}");
}

#[test]
fn disks_that_lie_and_old_copies_are_found() {
    for (fault, most) in [(Fault::LyingSync, 200), (Fault::OldCopy, 200)] {
        let faults = [fault, Fault::Crash, Fault::Isolate, Fault::CrashLeader];
        let limits = Limits { faults: Some(faults.into()), ..Limits::default() };
        find(fault.name(), most, &limits);
    }
}

/// A bridge at the end of a life in which nothing else goes wrong. Also says who became leader
/// under it.
fn under_a_bridge(seed: u64, profile: Profile, rules: Rules) -> (Outcome, BTreeSet<NodeId>) {
    let limits = Limits {
        profile: Some(profile),
        faults: Some(BTreeSet::new()),
        length: Some(Duration::from_secs(5)),
        rules,
        ..Limits::default()
    };
    let mut options = Options::draw(seed, &limits);
    options.bridge = true;
    let (mut stands, mut leaders) = (false, BTreeSet::new());
    let outcome = swarm::run_told(&options, &mut |told| match told {
        Told::Step { text, .. } => stands |= text.contains("a bridge"),
        Told::Happened(happened) => {
            let leads =
                matches!(happened.what, What::Core(Event::Role { role: RoleKind::Leader, .. }));
            if stands && leads {
                leaders.insert(happened.node);
            }
        }
    });
    (outcome, leaders)
}

/// Who hears no leader campaigns in ever higher terms, and each of them unseats the leader that the
/// others hear (what happened to Cloudflare's etcd in 2020). Pre-vote keeps it from campaigning as
/// long as somebody hears a leader, and check-quorum is why that leader can be believed in. The
/// paper's Raft has neither.
#[test]
fn leaders_that_change_for_ever_under_a_bridge_are_found() {
    let is_found = |outcome: &Outcome| {
        let failure = outcome.failure.as_ref();
        failure.is_some_and(|failure| {
            failure.invariant == Invariant::Liveness
                && failure.text.contains("leaders under a steady bridge")
        })
    };
    let broken = Rules { no_pre_vote: true, no_check_quorum: true, ..Rules::default() };
    let mut found = 0;
    for seed in 1..=10 {
        let (sound, _) = under_a_bridge(seed, Profile::Modern, Rules::default());
        assert_eq!(sound.failure, None, "seed {seed}");
        assert_eq!(sound.met.get("a steady bridge"), Some(&1), "seed {seed}");
        let (paper, leaders) = under_a_bridge(seed, Profile::Paper, Rules::default());
        assert!(is_found(&paper), "seed {seed}: {:?}", paper.failure);
        assert!(leaders.len() > 1, "seed {seed}: they take the lead from each other");
        // Here the lead often comes to the bridge itself, whom all hear: then it stays there.
        let (broken, _) = under_a_bridge(seed, Profile::Modern, broken);
        assert!(broken.failure.is_none() || is_found(&broken), "seed {seed}: {:?}", broken.failure);
        found += u32::from(broken.failure.is_some());
    }
    assert!(found > 0, "without pre-vote and check-quorum");
}

/// What is left of a failure is small, and fails by itself in the same way.
#[test]
fn a_failure_is_made_smaller() {
    let mut limits = Limits::default();
    limits.rules.speak_before_durable = true;
    let found = find("speak before durable", 20, &limits);
    let reduced = swarm::reduce(&found, &limits, 100).unwrap();
    let (left, before) = reduced.faults;
    assert!(left < before, "{left} of {before} faults");
    let again = live(found.seed, &reduced.limits);
    assert_eq!(again.failure, Some(reduced.failure));
}
