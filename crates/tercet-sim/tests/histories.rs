//! Whole histories: clients, faults of processes, networks and disks, then peace. What was
//! acknowledged is there, once, where the answer said, in the order in which it happened, on every
//! node alike.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use support::chaos::{Plan, live};
use support::watch::Met;
use support::{caught, for_seeds};
use tercet_raft::{Profile, Rules};

/// What every run must meet.
const RARE: [&str; 18] = [
    "leader",
    "acknowledged",
    "read",
    "durability looked up",
    "leader crash",
    "crash with an unsynced tail",
    "disk dies",
    "sync fails",
    "stopped by itself",
    "torn tail",
    "wipe",
    "lost memory noticed",
    "readmission",
    "two candidates",
    "duplicate answered",
    "disk full refused",
    "truncation",
    "values.log made again",
];

fn many(what: &str, seeds: std::ops::Range<u64>, nodes: u8, profile: Profile) {
    let mut all = Met::new();
    for_seeds(what, seeds, |seed| {
        let plan = Plan { seed, nodes, profile, rules: Rules::default(), traced: false };
        for (name, count) in live(plan)?.met {
            *all.entry(name).or_default() += count;
        }
        Ok(())
    });
    eprintln!("{what}: {all:?}");
    for name in RARE {
        assert!(all.contains_key(name), "no seed of {what} met: {name}");
    }
}

#[test]
fn three_nodes_modern() {
    many("three nodes, modern", 0..120, 3, Profile::Modern);
}

#[test]
fn five_nodes_modern() {
    many("five nodes, modern", 1_000..1_080, 5, Profile::Modern);
}

#[test]
fn three_nodes_paper() {
    many("three nodes, paper", 2_000..2_080, 3, Profile::Paper);
}

#[test]
fn five_nodes_paper() {
    many("five nodes, paper", 3_000..3_040, 5, Profile::Paper);
}

/// A check that cannot fail proves nothing: with a rule switched off, a seed is found.
fn finds(name: &str, most: u64, break_rule: fn(&mut Rules)) {
    let mut rules = Rules::default();
    break_rule(&mut rules);
    for seed in 0..most {
        let plan = Plan { seed, nodes: 3, profile: Profile::Paper, rules, traced: false };
        if let Err(why) = caught(|| live(plan).map(drop)) {
            eprintln!("{name}: found after {} seeds: {why}", seed + 1);
            return;
        }
    }
    panic!("{name}: none of {most} seeds shows what breaks");
}

#[test]
fn a_wiped_node_that_is_trusted_is_found() {
    finds("trust_wiped", 100, |rules| rules.trust_wiped = true);
}

#[test]
fn votes_for_shorter_logs_are_found() {
    finds("ignore_log_in_votes", 100, |rules| rules.ignore_log_in_votes = true);
}

#[test]
fn answers_before_the_disk_are_found() {
    finds("speak_before_durable", 100, |rules| rules.speak_before_durable = true);
}

#[test]
fn commits_of_older_terms_are_found() {
    finds("commit_old_terms", 100, |rules| rules.commit_old_terms = true);
}
