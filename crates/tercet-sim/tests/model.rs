//! The model of protocol RJ, walked through within bounds; and the same walk finds what is wrong with
//! what others do (docs/rejoin.md).
#![allow(clippy::print_stderr, reason = "a test talks out loud")]

use tercet_sim::explore::{Bounds, Explored, Variant, explore};
use tercet_sim::model::Action::{
    self, Commit, Follow, Grant, Observe, Put, Recover, Timeout, Win, Wipe,
};

/// n1 leads term 1 and has committed an entry with n2.
const COMMITTED: [Action; 8] = [
    Timeout(1),
    Observe(2, 1),
    Grant(2, 1, 1),
    Win(1),
    Put(1, None),
    Follow(1, 1, 1),
    Follow(2, 1, 1),
    Commit(1, 1),
];

/// The beginning of counter-example 2: all have that entry, n3 has asked for votes in term 2, n2 has
/// voted for it and then lost its disk. The vote is still on its way.
fn vote_on_its_way() -> Vec<Action> {
    let mut begin = COMMITTED.to_vec();
    begin.extend([Follow(3, 1, 1), Timeout(3), Grant(2, 2, 3), Wipe(2, 1)]);
    begin
}

fn walk(what: &str, begin: &[Action], bounds: Bounds) -> Explored {
    let found = explore(begin, bounds);
    eprintln!(
        "{what}: {} states, {} steps deep, all: {}, {:?}",
        found.states, found.depth, found.complete, found.violation
    );
    found
}

fn bounds(variant: Variant, states: usize) -> Bounds {
    Bounds { nodes: 3, terms: 2, entries: 3, wipes: 1, recoveries: 0, variant, states }
}

/// The rule that the walk finds broken.
fn broken(found: &Explored) -> Option<&'static str> {
    found.violation.as_ref().map(|(broken, _)| broken.rule)
}

#[test]
fn the_protocol_holds_and_the_others_do_not() {
    let begin = vote_on_its_way();
    // Counter-example 1: wherever a wipe of n2 leads.
    let one = walk("plain", &COMMITTED, bounds(Variant::Plain, 200_000));
    assert!(one.violation.is_some());
    // Counter-example 2 in both variants: n2 has all that n1 calls committed, or all that n1 has.
    for variant in [Variant::CatchUp, Variant::CatchUpWholly] {
        let two = walk("catch up", &begin, bounds(variant, 200_000));
        assert!(two.violation.is_some(), "{variant:?}");
    }
    // From the same places, and from the beginning, protocol RJ breaks nothing.
    for begin in [&[], &COMMITTED[..], &begin] {
        let found = walk("readmit", begin, bounds(Variant::Readmit, 60_000));
        assert_eq!(found.violation, None);
    }
}

#[test]
fn every_state_after_the_old_vote() {
    let small = Bounds { entries: 2, ..bounds(Variant::Readmit, 2_000_000) };
    let found = walk("readmit, to the end", &vote_on_its_way(), small);
    assert!(found.complete, "{} states", found.states);
    assert_eq!(found.violation, None);
}

/// An operator lets the cluster begin again from one log: no leader lacks it. Without the floor, two
/// empty nodes elect each other.
#[test]
fn a_recovery_keeps_the_survivors_log() {
    let mut begin = COMMITTED.to_vec();
    begin.push(Recover(1, 100));
    let small = |variant| Bounds {
        terms: 3,
        entries: 2,
        wipes: 0,
        recoveries: 1,
        ..bounds(variant, 2_000_000)
    };
    let found = walk("recovery", &begin, small(Variant::Readmit));
    assert!(found.complete, "{} states", found.states);
    assert_eq!(found.violation, None);
    let found = walk("recovery without a floor", &begin, small(Variant::RecoverWithoutFloor));
    assert_eq!(broken(&found), Some("Leader Completeness"));
}
