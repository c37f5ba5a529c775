//! The scenarios that come with the program: each is found, well-formed, passes in the simulator
//! whatever the seed, and comes out the same when it is run again.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use tercet_lab::ast::{Invariant, Script, World};
use tercet_lab::library::{SCENARIOS, Scenario, find};
use tercet_lab::{Report, SimBackend, lint, parse, run};

/// What happened in a run, as text: when, where, in which branch.
type Trace = Vec<String>;

fn script(scenario: &Scenario) -> Script {
    let errors = |errors: Vec<tercet_lab::ScriptError>| {
        let texts = errors.iter().map(|error| error.render(scenario.name, scenario.text));
        texts.collect::<Vec<String>>().join("\n")
    };
    parse(scenario.text).map_err(errors).unwrap_or_else(|errors| panic!("{errors}"))
}

fn simulate(script: &Script, seed: u64) -> Report {
    let world = || SimBackend::new(script, seed);
    run(script, None, world, &mut |_| {}).expect("the world can be made")
}

fn trace(report: &Report) -> Trace {
    let line = |branch: &Option<String>, event: &tercet_lab::backend::LabEvent| {
        let branch = branch.as_deref().unwrap_or("-");
        format!("{branch} {:?} {} @{}: {}", event.at, event.node, event.term, event.text)
    };
    let branches = report.events.iter();
    branches
        .flat_map(|(branch, events)| events.iter().map(move |event| line(branch, event)))
        .collect()
}

#[test]
fn every_file_is_in_the_library_once() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let names = std::fs::read_dir(directory).unwrap().map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".lab").expect("only scripts are there").to_owned()
    });
    let files: BTreeSet<String> = names.collect();
    let listed: BTreeSet<String> =
        SCENARIOS.iter().map(|scenario| scenario.name.to_owned()).collect();
    assert_eq!(files, listed);
    assert_eq!(listed.len(), SCENARIOS.len(), "a scenario is listed twice");
}

#[test]
fn every_scenario_says_what_it_is() {
    let mut titles = BTreeSet::new();
    for scenario in SCENARIOS {
        let header = script(scenario).header;
        assert!(!header.title.is_empty(), "{} has no title", scenario.name);
        assert!(!header.cites.is_empty(), "{} names no source", scenario.name);
        assert!(titles.insert(header.title), "the title of {} is there twice", scenario.name);
    }
}

/// Nothing in them depends on luck, as far as can be seen without running them.
#[test]
fn every_scenario_is_portable() {
    for scenario in SCENARIOS {
        let warnings = lint(&script(scenario));
        assert!(warnings.is_empty(), "{}: {warnings:?}", scenario.name);
    }
}

#[test]
fn every_scenario_passes_in_the_simulator() {
    let mut failed = String::new();
    for scenario in SCENARIOS {
        let script = script(scenario);
        if script.header.requires.as_ref().is_some_and(|requires| requires.world == World::Real) {
            continue;
        }
        let own = script.header.seed;
        for seed in std::iter::once(own).chain((1..=5).filter(|seed| *seed != own)) {
            let report = simulate(&script, seed);
            assert!(report.checked > 0, "{} checks nothing", scenario.name);
            for failure in &report.failures {
                let branch = failure.branch.as_deref().unwrap_or("-");
                writeln!(
                    failed,
                    "{}:{} (seed {seed}, branch {branch}): {}: {}",
                    scenario.name, failure.line, failure.step, failure.found
                )
                .unwrap();
            }
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    // One with timers that run, one with branches, one that loses its memory.
    for name in ["leader-change", "leader-crash-divergent-logs", "log-deleted-while-running"] {
        let script = script(find(name).unwrap());
        let (first, again) = (trace(&simulate(&script, 11)), trace(&simulate(&script, 11)));
        assert!(first.len() > 50, "{name}: {} events", first.len());
        assert_eq!(first, again, "{name}");
        assert_ne!(first, trace(&simulate(&script, 12)), "{name}: the seed changes nothing");
    }
}

/// What is switched off must be missed: the judge names what breaks.
#[test]
fn broken_rules_break_what_they_protect() {
    use Invariant::{ElectionSafety, LeaderCompleteness, Linearizability, StateMachineSafety};
    let expected: &[(&str, &[Invariant])] = &[
        ("figure-8-without-the-rule", &[LeaderCompleteness, StateMachineSafety]),
        ("ignore-log-in-votes", &[LeaderCompleteness, StateMachineSafety, Linearizability]),
        (
            "late-messages-truncate-always",
            &[LeaderCompleteness, StateMachineSafety, Linearizability],
        ),
        ("lost-reply-without-sessions", &[Linearizability]),
        ("readmission-old-vote-trust", &[LeaderCompleteness]),
        ("stale-read", &[Linearizability]),
        ("vote-lost", &[ElectionSafety]),
        ("wiped-plus-one-down-trust", &[LeaderCompleteness, StateMachineSafety, Linearizability]),
    ];
    let mut found = Vec::new();
    for scenario in SCENARIOS {
        let script = script(scenario);
        let report = simulate(&script, script.header.seed);
        let mut broken: Vec<Invariant> =
            report.violations.iter().map(|(_, violation)| violation.invariant).collect();
        broken.sort_unstable();
        broken.dedup();
        if !broken.is_empty() {
            found.push((scenario.name, broken));
        }
        let breaks = expected.iter().any(|(name, _)| *name == scenario.name);
        assert!(breaks || script.header.mutants.is_empty(), "{} breaks nothing", scenario.name);
    }
    found.sort_unstable();
    let found: Vec<(&str, &[Invariant])> =
        found.iter().map(|(name, broken)| (*name, broken.as_slice())).collect();
    assert_eq!(found, expected);
}
