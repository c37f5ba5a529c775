//! Whole histories: clients, faults of processes, networks and disks, then peace. What was
//! acknowledged is there, once, where the answer said, in the order in which it happened, on every
//! node alike.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails, and talks, out loud")]

mod support;

use support::chaos::{Plan, live};
use support::clients::Clients;
use support::judge::judge;
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
    many("three nodes, modern", 0..1_000, 3, Profile::Modern);
}

#[test]
fn five_nodes_modern() {
    many("five nodes, modern", 10_000..10_600, 5, Profile::Modern);
}

#[test]
fn three_nodes_paper() {
    many("three nodes, paper", 20_000..20_600, 3, Profile::Paper);
}

#[test]
fn five_nodes_paper() {
    many("five nodes, paper", 30_000..30_300, 5, Profile::Paper);
}

/// A check that cannot fail proves nothing: a good history is judged good, and the same one with one
/// thing changed in it is not.
#[test]
fn the_judge_refuses_broken_histories() {
    type Break = fn(&mut Clients);
    let breaks: [(&str, Break); 8] = [
        ("lost", |clients| {
            let request = clients.requests.iter_mut().find(|r| r.acked.is_some()).unwrap();
            request.id += 1 << 32;
        }),
        ("nobody submitted", |clients| {
            let at = clients.requests.iter().position(|r| r.acked.is_some()).unwrap();
            clients.requests.remove(at);
        }),
        ("phantom", |clients| {
            let request = clients.requests.iter_mut().find(|r| r.acked.is_some()).unwrap();
            request.given_up = true;
        }),
        ("torn", |clients| {
            let request = clients.requests.iter_mut().find(|r| r.values.len() > 1).unwrap();
            request.values.pop();
        }),
        ("stands at", |clients| {
            let of_others = clients.requests.last().unwrap().attempts.clone();
            clients.requests[0].attempts.extend(of_others);
        }),
        ("before", |clients| {
            let mut acked = clients.requests.iter_mut().filter(|r| r.acked.is_some());
            let (first, second) = (acked.next().unwrap(), acked.next_back().unwrap());
            std::mem::swap(&mut first.begun, &mut second.begun);
            let ended = |acked: &mut Option<(_, u64)>| acked.as_mut().map(|(_, ended)| *ended);
            let (early, late) = (ended(&mut first.acked), ended(&mut second.acked));
            first.acked.as_mut().unwrap().1 = late.unwrap();
            second.acked.as_mut().unwrap().1 = early.unwrap();
        }),
        ("stale", |clients| {
            let mut reads = clients.reads.iter_mut().rev();
            let read = reads.find(|read| read.linearizable && read.values.len() > 1).unwrap();
            read.values.clear();
        }),
        ("no prefix", |clients| {
            let read = clients.reads.iter_mut().rev().find(|read| read.values.len() > 1).unwrap();
            read.values.swap(0, 1);
        }),
    ];
    let lived = |seed| {
        let (nodes, profile, rules) = (3, Profile::Modern, Rules::default());
        live(Plan { seed, nodes, profile, rules, traced: false }).unwrap()
    };
    // A long history, with a bit of everything.
    let is_rich = |seed: &u64| {
        let Clients { requests, reads, .. } = lived(*seed).clients;
        let long = reads.iter().filter(|read| read.linearizable && read.values.len() > 20);
        requests.len() > 50 && long.count() > 3
    };
    let seed = (0..100).find(is_rich).unwrap();
    for (name, break_it) in breaks {
        let mut outcome = lived(seed);
        break_it(&mut outcome.clients);
        let found = judge(&mut outcome.world, &outcome.clients).unwrap_err();
        assert!(found.contains(name), "seed {seed}, {name}: {found}");
    }
}

/// The words of what must never happen: a cluster that only does not come to agree is no find.
const UNSAFE: [&str; 9] = [
    "two leaders",
    "was committed",
    "would be cut",
    "never cut",
    "was acknowledged",
    "lost:",
    "phantom:",
    "no prefix of the log",
    "stale:",
];

/// A check that cannot fail proves nothing: with a rule switched off, a seed is found.
fn finds(name: &str, most: u64, break_rule: fn(&mut Rules)) {
    let mut rules = Rules::default();
    break_rule(&mut rules);
    for seed in 0..most {
        let plan = Plan { seed, nodes: 3, profile: Profile::Paper, rules, traced: false };
        if let Err(why) = caught(|| live(plan).map(drop))
            && UNSAFE.iter().any(|words| why.contains(words))
        {
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
