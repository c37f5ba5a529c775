//! A seed means the same world every time: with faults, to the microsecond, on every node. Without
//! this no seed is a bug report.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use support::chaos::{Plan, live};
use support::for_seeds;
use tercet_raft::{Profile, Rules};

#[test]
fn the_same_seed_gives_the_same_events() {
    for_seeds("the same events twice", 50_000..50_020, |seed| {
        let profile = if seed.is_multiple_of(2) { Profile::Modern } else { Profile::Paper };
        let nodes = if seed % 4 < 2 { 3 } else { 5 };
        let plan = Plan { seed, nodes, profile, rules: Rules::default(), traced: true };
        let (once, again) = (live(plan)?.trace, live(plan)?.trace);
        for (line, other) in once.iter().zip(&again) {
            if line != other {
                return Err(format!("once: {line}\nagain: {other}"));
            }
        }
        if once.len() != again.len() || once.len() < 100 {
            return Err(format!("{} events once, {} again", once.len(), again.len()));
        }
        Ok(())
    });
}

#[test]
fn another_seed_gives_other_events() {
    let trace = |seed| {
        let (profile, rules) = (Profile::Modern, Rules::default());
        live(Plan { seed, nodes: 3, profile, rules, traced: true }).unwrap().trace
    };
    assert_ne!(trace(1), trace(2), "seeds 1 and 2 of three nodes, modern");
}
