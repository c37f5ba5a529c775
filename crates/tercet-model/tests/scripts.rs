//! A counterexample is a script, and the script shows the same in the simulator: there the same
//! rule is switched off, but around the core are the production replica, its log and its disk.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use tercet_lab::ast::Script;
use tercet_lab::{SimBackend, parse, run};
use tercet_model::{script, search, suites};
use tercet_raft::Rules;

fn found(suite: &str, break_rule: fn(&mut Rules)) -> (String, Script) {
    let suite = suites().into_iter().find(|known| known.name == suite).unwrap();
    let mut plan = suite.plan;
    break_rule(&mut plan.setup.rules);
    let found = search(&plan, &mut |_| {}).found.unwrap();
    let text = script(suite.name, &plan, &found);
    let parsed = parse(&text).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
    (text, parsed)
}

fn shows_in_the_simulator(suite: &str, break_rule: fn(&mut Rules)) {
    let (text, parsed) = found(suite, break_rule);
    let report = run(&parsed, None, || SimBackend::new(&parsed, 1), &mut |_| {}).unwrap();
    assert!(report.failures.is_empty(), "{:?}\n{text}", report.failures);
    assert!(report.checked > 0, "{text}");
}

#[test]
fn figure_8() {
    shows_in_the_simulator("figure-8", |rules| rules.commit_old_terms = true);
}

#[test]
fn votes_for_shorter_logs() {
    shows_in_the_simulator("replication", |rules| rules.ignore_log_in_votes = true);
}

/// An assertion that compares says what it found in lines of its own.
#[test]
fn a_violation_that_has_several_lines() {
    let suite = suites().into_iter().find(|known| known.name == "figure-8").unwrap();
    let mut plan = suite.plan;
    plan.setup.rules.commit_old_terms = true;
    let mut found = search(&plan, &mut |_| {}).found.unwrap();
    found.violation.what.push_str(": assertion `left == right` failed\n  left: 1\n right: 2");
    let text = script(suite.name, &plan, &found);
    parse(&text).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
    assert!(text.contains("\n#  right: 2\n"), "{text}");
}

/// A gate's messages die with their sender's process: what arrives after a wipe, the script can
/// only say in words. It is a script all the same.
#[test]
fn a_way_that_the_language_cannot_express_whole() {
    let (text, _) = found("wipe", |rules| rules.trust_wiped = true);
    assert!(text.contains("wipe n") && text.contains("recovery=trust"), "{text}");
}
