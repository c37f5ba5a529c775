//! The tables of docs/reliability-tables.md: a stated part of their cases, each time the same.
//! `cargo xtask tables` plays all.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use tercet_sim::tables::{Outcome, Suite, Verdict, crash, ctrl, files, wipe_matrix};

/// One case of each `every`, and none that comes out otherwise than it has to.
fn part(suites: Vec<Suite>, name: &str, every: u64) {
    let mut met = 0;
    for suite in suites.into_iter().filter(|suite| suite.name.starts_with(name)) {
        let chosen = (0..suite.cases.div_ceil(every)).map(|at| at * every + at * 7 % every);
        let verdicts = chosen.filter(|case| *case < suite.cases);
        let row = suite.row(verdicts.map(|case| (case, suite.verdict(case))));
        assert!(row.misses.is_empty(), "{}: {:?}", row.suite, row.misses);
        assert_eq!(row.counts.not_safe, 0);
        assert!(row.cases > 0 && row.counts.correct > 0, "{row:?}");
        met += 1;
    }
    assert!(met > 0, "{name} is a suite");
}

/// A tenth of the 90,112.
#[test]
fn targeted_corruption_of_three_nodes() {
    for name in ["flip", "zero", "unreadable"] {
        part(ctrl::suites(), &format!("targeted-{name}"), 10);
    }
}

/// One in a hundred of the 65,536 and the 32,768.
#[test]
fn targeted_corruption_of_more_nodes() {
    part(ctrl::suites(), "targeted-5x3", 100);
    part(ctrl::suites(), "targeted-7x2", 100);
}

/// One in twenty of the 20,000.
#[test]
fn random_blocks() {
    part(ctrl::suites(), "blocks", 20);
}

/// A tenth of the 10,000.
#[test]
fn nodes_of_differing_terms() {
    part(ctrl::suites(), "lagging", 10);
}

/// A tenth of the 2,000.
#[test]
fn files() {
    part(files::suites(), "files", 10);
}

/// One in twenty of all.
#[test]
fn crash_points() {
    part(crash::suites(), "crash", 20);
}

/// All of three nodes, every eleventh of five and of seven.
#[test]
fn the_wipe_matrix() {
    for (name, every) in [("wiped-3", 1), ("wiped-5", 11), ("wiped-7", 11)] {
        part(wipe_matrix::suites(), name, every);
    }
}

/// The oracle knows what is lost, and the judge sees it.
#[test]
fn the_judge_tells_them_apart() {
    let suites = ctrl::suites();
    let suite = suites.iter().find(|suite| suite.name == "targeted-flip-payload").unwrap();
    let good = |outcome| Verdict { outcome, miss: None };
    assert_eq!(suite.verdict(0), good(Outcome::Correct), "nothing is damaged");
    // Two, then all three, of the copies of one entry.
    assert_eq!(suite.verdict(2 * 0b011), good(Outcome::Correct));
    assert_eq!(suite.verdict(2 * 0b111), good(Outcome::Unavailable));
}

/// One entry is asked for, not the log.
#[test]
fn the_repair_of_one_entry() {
    let cost = ctrl::repair_one(2_000).unwrap();
    assert_eq!(cost.messages, 2, "{cost:?}");
    assert!(cost.entry_bytes < 2_000, "{cost:?}");
}
