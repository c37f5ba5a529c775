//! The search of the core as it is, to a small bound; and with a rule switched off, because a check
//! that cannot fail proves nothing.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails, and talks, out loud")]

use std::time::Instant;

use tercet_model::{Invariant, Outcome, search, suites};
use tercet_raft::Rules;

fn run(suite: &str, rules: Rules) -> Outcome {
    let suite = suites().into_iter().find(|known| known.name == suite).unwrap();
    let mut plan = suite.plan;
    plan.setup.rules = rules;
    plan.states_max = 12_000_000;
    let begun = Instant::now();
    let outcome = search(&plan, &mut |_| {});
    let found = outcome.found.as_ref().map(|found| (&found.violation, found.steps.len()));
    eprintln!("{}: {found:?} {:?} {:.1?}", suite.name, outcome.progress, begun.elapsed());
    outcome
}

fn finds(suite: &str, break_rule: fn(&mut Rules), expected: Invariant) {
    let mut rules = Rules::default();
    break_rule(&mut rules);
    let found = run(suite, rules).found.unwrap();
    assert_eq!(found.violation.invariant, expected, "{}", found.violation);
}

#[test]
fn commits_of_older_terms() {
    finds("figure-8", |rules| rules.commit_old_terms = true, Invariant::LeaderCompleteness);
}

#[test]
fn votes_for_shorter_logs() {
    finds("replication", |rules| rules.ignore_log_in_votes = true, Invariant::LeaderCompleteness);
}

#[test]
fn answers_before_the_disk() {
    finds("elections", |rules| rules.speak_before_durable = true, Invariant::OneVotePerTerm);
}

#[test]
fn a_wiped_node_that_is_trusted() {
    finds("wipe", |rules| rules.trust_wiped = true, Invariant::LeaderCompleteness);
}

#[test]
fn late_messages_that_cut() {
    finds("modern", |rules| rules.truncate_always = true, Invariant::Durability);
}

/// `cargo xtask model` goes further.
#[test]
fn nothing_is_violated() {
    for suite in suites() {
        let mut plan = suite.plan;
        plan.states_max = 150_000;
        let outcome = search(&plan, &mut |_| {});
        let found = outcome.found.map(|found| found.violation);
        assert!(found.is_none(), "{}: {}", suite.name, found.unwrap());
        assert!(outcome.is_complete || outcome.progress.states >= 150_000, "{}", suite.name);
    }
}

/// One thread or two, whoever is faster: the same states.
#[test]
fn the_number_of_threads_changes_nothing() {
    let states = |threads| {
        let mut plan = suites().into_iter().find(|suite| suite.name == "figure-8").unwrap().plan;
        plan.threads = threads;
        let outcome = search(&plan, &mut |_| {});
        assert!(outcome.is_complete);
        (outcome.progress.states, outcome.progress.depth, outcome.progress.steps)
    };
    assert_eq!(states(1), states(3));
}
