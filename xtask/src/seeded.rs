//! The bugs of crates/tercet-seeded, one at a time: is each of them found, by which invariant, and
//! after how many seeds?
//!
//! They are built once, in a directory of their own under `target/`, so that the usual builds stay
//! as they are; which of them the program has is then a matter of its environment.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::cargo;

/// Who must find a bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finder {
    /// Seeded histories in the simulator (crates/tercet-sim/tests/seeded.rs).
    Sim,
    /// The model check, in this suite.
    Model(&'static str),
}

/// One bug, what must find it, and within how many seeds.
struct Row {
    bug: &'static str,
    fast: bool,
    finder: Finder,
    budget: u64,
}

const fn row(bug: &'static str, fast: bool, finder: Finder, budget: u64) -> Row {
    Row { bug, fast, finder, budget }
}

/// The budgets are those within which the checks promise to find such a bug; those of the model
/// check are states.
const ROWS: &[Row] = &[
    row("1", true, Finder::Sim, 1_000),
    row("2", true, Finder::Sim, 100),
    row("3", false, Finder::Sim, 100_000),
    row("3", false, Finder::Model("figure-8"), 1_000_000),
    row("4a", true, Finder::Sim, 1_000),
    row("4a", false, Finder::Model("replication"), 10_000_000),
    row("4b", true, Finder::Sim, 1_000),
    row("4b", false, Finder::Model("index-before-term"), 10_000_000),
    row("5", true, Finder::Sim, 1_000),
    row("5", false, Finder::Model("four"), 10_000_000),
    row("6", false, Finder::Sim, 10_000),
    row("6", false, Finder::Model("pre-vote"), 10_000_000),
    row("7", true, Finder::Sim, 1_000),
    row("8a", false, Finder::Sim, 10_000),
    row("8a", false, Finder::Model("old-reply"), 10_000_000),
    row("8b", false, Finder::Sim, 10_000),
    row("9", true, Finder::Sim, 100),
    row("9", false, Finder::Model("wipe"), 10_000_000),
    row("10a", false, Finder::Sim, 10_000),
    row("10a", false, Finder::Model("rejoin"), 10_000_000),
    row("10b", false, Finder::Sim, 10_000),
    row("10b", false, Finder::Model("rejoin"), 10_000_000),
    row("11a", false, Finder::Sim, 100_000),
    row("11b", false, Finder::Sim, 100_000),
    row("11c", false, Finder::Sim, 100_000),
    row("12", true, Finder::Sim, 100),
    row("13a", true, Finder::Sim, 1_000),
    row("13b", true, Finder::Sim, 1_000),
    row("13c", true, Finder::Sim, 1_000),
    row("14a", true, Finder::Sim, 1_000),
    row("14b", true, Finder::Sim, 1_000),
    row("15a", false, Finder::Sim, 10_000),
    row("15b", false, Finder::Sim, 10_000),
    row("16a", false, Finder::Sim, 10_000),
    row("16b", false, Finder::Sim, 10_000),
    row("17", false, Finder::Sim, 10_000),
];

/// The names of all bugs.
pub(crate) fn bugs() -> Vec<&'static str> {
    let mut bugs: Vec<&str> = ROWS.iter().map(|row| row.bug).collect();
    bugs.dedup();
    bugs
}

/// Cargo, with the bugs in.
fn seeded_cargo(arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    command
        .args(["--profile", "seeded-bugs", "--locked", "--quiet", "--target-dir"])
        .arg("target/seeded-bugs")
        .args(["--config", "build.rustflags = [\"--cfg\", \"seeded_bugs\"]"]);
    command
}

/// Builds what must find the bugs, with the bugs in.
pub(crate) fn build() -> anyhow::Result<()> {
    for arguments in [
        ["test", "--package", "tercet-sim", "--test", "seeded", "--no-run"].as_slice(),
        ["build", "--package", "tercet-model"].as_slice(),
    ] {
        if !seeded_cargo(arguments).status().context("build with the bugs in")?.success() {
            bail!("the build with the bugs in");
        }
    }
    Ok(())
}

/// Runs what must find the bugs, and says of each what did.
pub(crate) fn run(
    only: Option<&str>,
    budget: Option<u64>,
    starts: u64,
    fast: bool,
) -> anyhow::Result<()> {
    let is_digit = |c: char| c.is_ascii_digit();
    let chosen = |row: &&Row| {
        let by_number = row.bug.trim_end_matches(|c| !is_digit(c));
        only.is_none_or(|only| only == row.bug || only == by_number) && (!fast || row.fast)
    };
    let rows: Vec<&Row> = ROWS.iter().filter(chosen).collect();
    if rows.is_empty() {
        bail!("there is no such seeded bug; see crates/tercet-seeded");
    }
    println!("\n== seeded bugs");
    let begun = Instant::now();
    build()?;
    println!(
        "{:<5} {:<26} {:<34} {:>10} {:>10}",
        "bug", "looked for by", "found by", "median", "budget"
    );
    let mut missed = Vec::new();
    for Row { bug, finder, budget: usual, .. } in rows {
        let most = budget.unwrap_or(10 * usual);
        let (by, found) = match finder {
            Finder::Sim => ("histories".to_owned(), histories(bug, most, starts)?),
            Finder::Model(suite) => (format!("model check, {suite}"), model(bug, suite, most)?),
        };
        let mut counts: Vec<u64> = found.iter().map(|found| found.count).collect();
        counts.sort_unstable();
        let runs = if *finder == Finder::Sim { starts } else { 1 };
        let is_found = counts.len() as u64 == runs;
        let median = counts.get(counts.len() / 2).filter(|_| is_found);
        let mut hows: Vec<&str> = Vec::new();
        for found in &found {
            if !hows.contains(&found.how.as_str()) {
                hows.push(&found.how);
            }
        }
        let how = hows.join(", ");
        println!(
            "{bug:<5} {by:<26} {how:<34} {:>10} {usual:>10}{}",
            median.map_or_else(|| format!("{}/{runs}", counts.len()), u64::to_string),
            if median.is_some_and(|median| median > usual) { "  over budget" } else { "" }
        );
        if !is_found {
            missed.push(format!("{bug} by {by}"));
        }
    }
    println!("== seeded bugs: {:.0} s", begun.elapsed().as_secs_f64());
    if !missed.is_empty() {
        bail!("not found, so that the checks are blind there: {}", missed.join(", "));
    }
    Ok(())
}

struct Found {
    /// Seeds, or states.
    count: u64,
    /// By which invariant.
    how: String,
}

fn output_of(command: &mut Command, bug: &str) -> anyhow::Result<String> {
    command.env("TERCET_SEEDED_BUG", bug).env("RUST_BACKTRACE", "0").stderr(Stdio::null());
    let output = command.output().with_context(|| format!("look for bug {bug}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn histories(bug: &str, most: u64, starts: u64) -> anyhow::Result<Vec<Found>> {
    let mut command = seeded_cargo(&["test", "--package", "tercet-sim", "--test", "seeded"]);
    command.env("TERCET_SEEDED_STARTS", starts.to_string());
    command.env("TERCET_SEEDED_BUDGET", most.to_string());
    let text = output_of(command.args(["--", "--nocapture", "the_bug_is_found"]), bug)?;
    let found = |line: &str| {
        // The test's own line may begin on the same one.
        let (_, line) = line.split_once("found\t")?;
        let mut fields = line.split('\t');
        let count = fields.next()?.parse().ok()?;
        Some(Found { count, how: fields.next()?.to_owned() })
    };
    let all: Vec<Found> = text.lines().filter_map(found).collect();
    if all.is_empty() && !text.contains("missed\t") {
        bail!("bug {bug}: the test said nothing:\n{text}");
    }
    Ok(all)
}

fn model(bug: &str, suite: &str, most: u64) -> anyhow::Result<Vec<Found>> {
    let mut command = seeded_cargo(&["run", "--package", "tercet-model"]);
    command.args(["--", "--suite", suite, "--out", "target/seeded-bugs/model", "--states"]);
    let text = output_of(command.arg(most.to_string()), bug)?;
    let states = text.lines().find_map(|line| {
        let (before, _) = line.split_once(" states, depth")?;
        before.split_whitespace().last()?.parse().ok()
    });
    let states =
        states.with_context(|| format!("bug {bug}: the model check said nothing:\n{text}"))?;
    let how = text.lines().find_map(|line| {
        let (_, violation) = line.trim().strip_prefix("VIOLATED")?.split_once(": ")?;
        Some(violation.split(':').next().unwrap_or(violation).to_owned())
    });
    Ok(how.into_iter().map(|how| Found { count: states, how }).collect())
}
