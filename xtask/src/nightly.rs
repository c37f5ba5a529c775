//! A night of everything that takes longer than a change can wait for: the hours are shared among
//! the parts, which run one after the other; what a part does not use, the next ones have.
//!
//! Nothing fails by being slow: a part does as much as fits, and says how much of how much that was.
//! What cannot be run on this machine is listed as not run, never as passed.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{dist, e2e_command, exists, fuzz, model_command, seeded, swarm_command, tables};

/// The tests of `crates/tercet/tests/faults` that are counted: those that end with a line `table:`.
/// The ones that take longest come last: they have what the others leave.
const PROCESSES: [(&str, &str); 14] = [
    ("fill_a_disk", "disk full"),
    ("restore_an_old_directory", "old directory restored"),
    ("cut_the_power", "power cut"),
    ("damage_a_log", "log damaged"),
    ("delete_a_running_log", "log deleted while running"),
    ("restart_one_after_the_other", "rolling restart"),
    ("cut_all_but_a_bridge", "bridge partition"),
    ("cut_one_way", "one-way partition"),
    ("cut_a_node_off", "full partition"),
    ("fail_a_sync", "EIO on the k-th fdatasync"),
    ("kill_all_nodes", "kill -9 of all nodes"),
    ("delete_the_leader", "leader killed and wiped"),
    ("kill_random_nodes", "kill -9 of random nodes"),
    ("pause_the_leader", "leader stopped for 10 s"),
];
/// The full counts, as a multiple of those in the test command.
const SCALE: &str = "10";
/// How many seeds say how fast this machine lives them.
const SEEDS_FIRST: u64 = 100;
/// How long a round of seeds takes, so that a failure is told within the night.
const ROUND: Duration = Duration::from_secs(600);
/// From how many starts each seeded bug is looked for.
const STARTS: u64 = 5;
/// Nights that begin a second apart have other seeds, as long as a night lives fewer per second.
const SEEDS_PER_SECOND: u64 = 1000;

/// What a night consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// The bugs of crates/tercet-seeded are found
    SeededBugs,
    /// What becomes of clusters whose disks lie
    Tables,
    /// All behaviours of the core within bounds
    Model,
    /// Everything that reads foreign bytes
    Fuzz,
    /// Faults on real processes, at their full counts
    Processes,
    /// The program of `cargo xtask dist`: it is built, and stands the same faults
    Dist,
    /// Lives of clusters in the simulator
    Swarm,
}

impl Part {
    /// How much of the time, in parts of what all take together.
    const fn weight(self) -> u32 {
        match self {
            Self::SeededBugs => 2,
            Self::Tables | Self::Model | Self::Fuzz | Self::Dist => 3,
            Self::Processes => 5,
            Self::Swarm => 6,
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Builds what it needs: that is not to come off its time.
    fn prepare(self) -> anyhow::Result<()> {
        let build = |command: &mut Command| {
            let status = command.stdout(Stdio::null()).status()?;
            if status.success() { Ok(()) } else { bail!("the build failed ({status})") }
        };
        match self {
            Self::SeededBugs => seeded::build(),
            Self::Tables => Ok(()),
            Self::Model => build(model_command().arg("--list")),
            Self::Fuzz if !exists("c++") => Ok(()),
            Self::Fuzz => fuzz::build(&[]).map(drop),
            Self::Processes => build(e2e_command(None)?.arg("--list")),
            Self::Dist if dist::check_tools().is_err() => Ok(()),
            Self::Dist => build(e2e_command(Some(&dist::run()?))?.arg("--list")),
            Self::Swarm => build(swarm_command().arg("--list")),
        }
    }

    fn run(self, seed: u64, ends: Instant, out: &mut Outcome) -> anyhow::Result<()> {
        match self {
            Self::SeededBugs => seeded_bugs(ends, out),
            Self::Tables => all_tables(seed, ends, out),
            Self::Model => model(ends, out),
            Self::Fuzz => fuzz_targets(ends, out),
            Self::Processes => processes(seed, ends, SCALE, None, out),
            Self::Dist => match dist::check_tools() {
                Ok(()) => processes(seed, ends, "1", Some(&dist::program()?), out),
                Err(missing) => {
                    out.not_run.push(format!("{missing:#}"));
                    Ok(())
                }
            },
            Self::Swarm => swarm(seed, ends, out),
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long it may take, once everything is built
    #[arg(long)]
    hours: f64,
    /// Of the random numbers; otherwise the time, and it is printed
    #[arg(long)]
    seed: Option<u64>,
    /// Only these parts
    #[arg(long, num_args = 1..)]
    only: Vec<Part>,
    /// Write what came out there, too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What came of a part.
#[derive(Default)]
struct Outcome {
    asked: String,
    done: String,
    /// What failed, and the command that repeats it.
    failed: Vec<(String, String)>,
    /// What was not run, and why.
    not_run: Vec<String>,
    /// Lines of a table of its own.
    rows: Vec<Row>,
    took: Duration,
}

impl Outcome {
    fn fail(&mut self, what: impl Into<String>, repeat: impl Into<String>) {
        let (what, repeat) = (what.into(), repeat.into());
        println!("   FAILED: {what}\n   again:  {repeat}");
        self.failed.push((what, repeat));
    }
}

/// What a test with real processes said of itself.
#[derive(PartialEq, Eq, Debug)]
struct Row {
    test: String,
    done: u64,
    asked: u64,
    lost: u64,
    phantom: u64,
    figure: String,
}

/// `table: NAME done/asked lost=0 phantom=0 …`, behind whatever stands on that line already.
fn read_row(line: &str) -> Option<Row> {
    let (_, line) = line.split_once("table: ")?;
    let mut words = line.splitn(5, ' ');
    let test = words.next()?.to_owned();
    let (done, asked) = words.next()?.split_once('/')?;
    let lost = words.next()?.strip_prefix("lost=")?.parse().ok()?;
    let phantom = words.next()?.strip_prefix("phantom=")?.parse().ok()?;
    let figure = words.next().unwrap_or_default().to_owned();
    Some(Row { test, done: done.parse().ok()?, asked: asked.parse().ok()?, lost, phantom, figure })
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if !(args.hours > 0.0 && args.hours <= 1000.0) {
        bail!("--hours {}: above 0, and at most 1000", args.hours);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seed = args.seed.unwrap_or(now);
    let chosen = |part: &&Part| args.only.is_empty() || args.only.contains(part);
    let parts: Vec<Part> = Part::value_variants().iter().filter(chosen).copied().collect();
    println!("nightly: {} hours, seed {seed}", args.hours);
    let prepare = |part: &Part| {
        println!("\n== build for {}", part.name());
        part.prepare()
    };
    let prepared: Vec<anyhow::Result<()>> = parts.iter().map(prepare).collect();
    let ends = Instant::now() + Duration::from_secs_f64(args.hours * 3600.0);
    let mut outcomes = Vec::new();
    for (at, (part, prepared)) in parts.iter().zip(prepared).enumerate() {
        let name = part.name();
        let left = ends.saturating_duration_since(Instant::now());
        let weights: u32 = parts[at..].iter().map(|part| part.weight()).sum();
        let share = left * part.weight() / weights;
        println!("\n== {name}: {}", spelled(share));
        let begun = Instant::now();
        let mut outcome = Outcome::default();
        let result = prepared.and_then(|()| part.run(seed, begun + share, &mut outcome));
        if let Err(error) = result {
            let repeat = format!("cargo xtask nightly --hours {} --only {name}", args.hours);
            outcome.fail(format!("{error:#}"), format!("{repeat} --seed {seed}"));
        }
        outcome.took = begun.elapsed();
        println!("== {name}: {} done, in {}", outcome.done, spelled(outcome.took));
        outcomes.push((name, outcome));
    }
    summarise(&outcomes);
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", report(args.hours, seed, &outcomes));
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let failed: usize = outcomes.iter().map(|(_, outcome)| outcome.failed.len()).sum();
    if failed > 0 {
        bail!("{failed} of the night failed");
    }
    Ok(())
}

fn spelled(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn summarise(outcomes: &[(String, Outcome)]) {
    println!(
        "\n{:<12} {:<34} {:<34} {:>6} {:>7}  time",
        "part", "asked", "done", "failed", "not run"
    );
    for (name, outcome) in outcomes {
        let Outcome { asked, done, failed, not_run, took, .. } = outcome;
        let (failed, not_run) = (failed.len(), not_run.len());
        let took = spelled(*took);
        println!("{name:<12} {asked:<34} {done:<34} {failed:>6} {not_run:>7}  {took}");
    }
    for (_, outcome) in outcomes.iter().filter(|(_, outcome)| !outcome.rows.is_empty()) {
        println!(
            "\ntest | times | acknowledged lost | phantom | other figure\n--- | --- | --- | --- | ---"
        );
        for Row { test, done, asked, lost, phantom, figure } in &outcome.rows {
            let of = if done == asked { String::new() } else { format!(" of {asked}") };
            println!("{test} | {done}{of} | {lost} | {phantom} | {figure}");
        }
    }
    for (name, outcome) in outcomes {
        for why in &outcome.not_run {
            println!("not run: {name}: {why}");
        }
    }
    for (name, outcome) in outcomes {
        for (what, repeat) in &outcome.failed {
            println!("FAILED:  {name}: {what}\n         {repeat}");
        }
    }
}

fn report(hours: f64, seed: u64, outcomes: &[(String, Outcome)]) -> Value {
    let row = |row: &Row| {
        json!({"test": row.test, "asked": row.asked, "done": row.done, "lost": row.lost,
            "phantom": row.phantom, "figure": row.figure})
    };
    let part = |(name, outcome): &(String, Outcome)| {
        let failure = |(what, repeat): &(String, String)| json!({"what": what, "repeat": repeat});
        json!({
            "part": name,
            "asked": outcome.asked,
            "done": outcome.done,
            "failed": outcome.failed.iter().map(failure).collect::<Vec<_>>(),
            "not_run": outcome.not_run,
            "rows": outcome.rows.iter().map(row).collect::<Vec<_>>(),
            "seconds": outcome.took.as_secs_f64(),
        })
    };
    let parts: Vec<Value> = outcomes.iter().map(part).collect();
    json!({"hours": hours, "seed": seed, "parts": parts})
}

/// Runs a command, and shows each line of its output unless `keep` takes it.
fn lines_of(
    command: &mut Command,
    mut keep: impl FnMut(&str) -> bool,
) -> anyhow::Result<ExitStatus> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot be started")?;
    let stdout = child.stdout.take().context("it was asked for")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if !keep(&line) {
            println!("   {line}");
        }
    }
    Ok(child.wait()?)
}

fn left(ends: Instant) -> Duration {
    ends.saturating_duration_since(Instant::now())
}

/// The time that one of so many things has.
fn share(ends: Instant, things: usize) -> Duration {
    left(ends) / u32::try_from(things.max(1)).unwrap_or(u32::MAX)
}

fn seeded_bugs(ends: Instant, out: &mut Outcome) -> anyhow::Result<()> {
    let bugs = seeded::bugs();
    let mut done = 0;
    out.asked = format!("{} bugs, {STARTS} starts each", bugs.len());
    for bug in &bugs {
        if left(ends).is_zero() {
            out.not_run
                .push(format!("{} bugs, from {bug} on: the time was over", bugs.len() - done));
            break;
        }
        if let Err(error) = seeded::run(Some(bug), None, STARTS, false) {
            out.fail(format!("{error:#}"), format!("cargo xtask seeded-bugs --bug {bug}"));
        }
        done += 1;
    }
    out.done = format!("{done} of {} bugs", bugs.len());
    Ok(())
}

fn all_tables(seed: u64, ends: Instant, out: &mut Outcome) -> anyhow::Result<()> {
    // What a replica that asserts has to say is in the verdict.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let rows = tables::night(seed, ends);
    std::panic::set_hook(usual);
    let rows = rows?;
    let (mut done, mut asked) = (0, 0);
    for row in rows {
        done += row.cases;
        asked += row.of;
        if row.cases == 0 {
            out.not_run.push(format!("{}: the time was over", row.suite));
        }
        for (case, why) in row.misses {
            let repeat = format!("cargo xtask tables --suite {} --case {case}", row.suite);
            out.fail(format!("{} {case}: {why}", row.suite), repeat);
        }
    }
    out.asked = format!("{asked} cases");
    out.done = format!("{done} cases");
    Ok(())
}

fn model(ends: Instant, out: &mut Outcome) -> anyhow::Result<()> {
    let list = model_command().arg("--list").output()?;
    let list = String::from_utf8(list.stdout)?;
    let suites: Vec<&str> =
        list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let (mut states, mut done, mut short) = (0, 0, 0);
    out.asked = format!("{} suites, 10 M states each", suites.len());
    for (at, suite) in suites.iter().enumerate() {
        if left(ends).is_zero() {
            out.not_run.push(format!("{suite}: the time was over"));
            continue;
        }
        let minutes = share(ends, suites.len() - at).as_secs_f64() / 60.0;
        let mut command = model_command();
        command.args(["--suite", suite, "--minutes", &format!("{minutes:.3}")]);
        let (mut found, mut violated) = (0, None);
        let status = lines_of(&mut command, |line| {
            if let Some((before, _)) = line.split_once(" states, depth") {
                found = before.split_whitespace().last().map_or(0, |n| n.parse().unwrap_or(0));
            }
            if let Some((_, violation)) = line.split_once("VIOLATED ") {
                violated = Some(violation.to_owned());
            }
            short += usize::from(line.contains("the bounds hold more") && found < 10_000_000);
            false
        })?;
        if !status.success() {
            let what = violated.unwrap_or_else(|| status.to_string());
            out.fail(format!("{suite}: {what}"), format!("cargo xtask model --suite {suite}"));
        }
        states += found;
        done += 1;
    }
    out.done = format!("{done} suites, {states} states");
    if short > 0 {
        out.not_run.push(format!("the rest of {short} suites: the time was over"));
    }
    Ok(())
}

fn fuzz_targets(ends: Instant, out: &mut Outcome) -> anyhow::Result<()> {
    if !exists("c++") {
        out.not_run.push("no C++ compiler, which builds libFuzzer".to_owned());
        return Ok(());
    }
    let results = fuzz::night(ends)?;
    out.asked = format!("{} targets", results.len());
    let mut seconds = 0;
    for (target, took, result) in results {
        seconds += took;
        if let Err(error) = result {
            out.fail(format!("{target}: {error:#}"), format!("cargo xtask fuzz --target {target}"));
        }
    }
    out.done = format!("{seconds} s in all");
    Ok(())
}

fn processes(
    seed: u64,
    ends: Instant,
    scale: &str,
    program: Option<&Path>,
    out: &mut Outcome,
) -> anyhow::Result<()> {
    for (at, (name, what)) in PROCESSES.iter().enumerate() {
        if left(ends).is_zero() {
            out.not_run.push(format!("{name}: the time was over"));
            continue;
        }
        let seconds = share(ends, PROCESSES.len() - at).as_secs().max(1).to_string();
        let seed = seed.wrapping_add(at as u64).to_string();
        let mut command = e2e_command(program)?;
        command.args([name, "--test-threads=1", "--nocapture"]);
        command.env("TERCET_E2E_SCALE", scale);
        command.env("TERCET_E2E_SECONDS", &seconds).env("TERCET_E2E_SEED", &seed);
        let (mut row, mut why, mut said) = (None, None, Vec::new());
        let status = lines_of(&mut command, |line| {
            row = row.take().or_else(|| read_row(line));
            why =
                why.take().or_else(|| line.split_once("not run: ").map(|(_, why)| why.to_owned()));
            said.push(line.to_owned());
            true
        })?;
        if let Some(Row { done, asked, lost, phantom, figure, .. }) = &row {
            println!("   {what}: {done} of {asked}, lost {lost}, phantom {phantom}; {figure}");
        }
        let mut repeat = format!("cargo xtask e2e {name} --scale {scale} --seed {seed}");
        if let Some(program) = program {
            repeat = format!("{repeat} --program {}", program.display());
        }
        match (status.success(), why) {
            (true, Some(why)) => out.not_run.push(format!("{name}: {why}")),
            (true, None) if row.is_some() => {}
            (true, None) => out.fail(format!("{name} says nothing of what it did"), repeat),
            (false, _) => {
                println!("{}", said.join("\n"));
                out.fail(format!("{name} ({what})"), repeat);
            }
        }
        out.rows.extend(row);
    }
    let sum = |count: fn(&Row) -> u64| out.rows.iter().map(count).sum::<u64>();
    let (done, asked) = (sum(|row| row.done), sum(|row| row.asked));
    out.asked = format!("{} tests, {asked} times", PROCESSES.len());
    out.done = format!("{} tests, {done} times", out.rows.len());
    Ok(())
}

fn swarm(seed: u64, ends: Instant, out: &mut Outcome) -> anyhow::Result<()> {
    let first = seed.saturating_mul(SEEDS_PER_SECOND);
    let (mut next, mut hours) = (first, 0.0);
    let begun = Instant::now();
    out.asked = format!("seeds from {first} on");
    println!("   seeds from {first} on");
    let mut count = SEEDS_FIRST;
    while count > 0 {
        let seeds = format!("{next}..{}", next + count - 1);
        let (mut told, mut missing) = (Vec::new(), String::new());
        let mut command = swarm_command();
        command.args(["--json", "--seeds", &seeds]);
        let status = lines_of(&mut command, |line| {
            let value: Value = serde_json::from_str(line).unwrap_or_default();
            if let Some(again) = value["command"].as_str() {
                let what = format!("seed {}: {}", value["seed"], value["found"]);
                told.push((what, again.replacen("tercet", "cargo run --release --", 1)));
            }
            hours += value["simulated_hours"].as_f64().unwrap_or(0.0);
            if value["ok"] == false {
                missing = value["missing"].to_string();
            }
            value.is_object()
        })?;
        next += count;
        if !status.success() && told.is_empty() {
            let repeat = format!("cargo run --release -- sim --seeds {seeds}");
            out.fail(format!("seeds {seeds}: never met: {missing} ({status})"), repeat);
        }
        for (what, again) in told {
            out.fail(what, again);
        }
        println!("   {} seeds, {hours:.0} simulated hours", next - first);
        let round = left(ends).min(ROUND).as_secs_f64();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a number of seeds within minutes"
        )]
        let fits = (round * (next - first) as f64 / begun.elapsed().as_secs_f64()) as u64;
        count = fits;
    }
    out.done = format!("{} seeds, {hours:.0} hours of clusters", next - first);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tests_are_read() {
        let said =
            "test kills::x ... table: kill_all 7/20 lost=0 phantom=1 a leader: 3 of 7; longest";
        let row = Row {
            test: "kill_all".to_owned(),
            done: 7,
            asked: 20,
            lost: 0,
            phantom: 1,
            figure: "a leader: 3 of 7; longest".to_owned(),
        };
        assert_eq!(read_row(said), Some(row));
        assert!(
            read_row("table: fill 5/5 lost=0 phantom=0").is_some_and(|row| row.figure.is_empty())
        );
        for other in ["kill_all: seed 1, 20 times", "table: x 1/y lost=0 phantom=0", "table: x"] {
            assert_eq!(read_row(other), None);
        }
    }

    #[test]
    fn times_are_spelled() {
        let spell = |seconds| spelled(Duration::from_secs(seconds));
        assert_eq!([spell(7), spell(67), spell(3700)], ["7 s", "1 min 7 s", "1 h 1 min"]);
    }
}
