//! `tercet sim`: many lives of clusters in the simulator, and the first words about one that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use serde_json::json;
use tercet_raft::{Profile, Rules, Time};
use tercet_sim::swarm::{
    self, Failure, Fault, Invariant, Limits, Met, Options, Outcome, Reduced, Told, sometimes,
};

use super::lab::parse_seeds;
use super::trace::Trace;
use crate::args::SwarmArgs;
use crate::output::{self, line, note, progress};

/// With so many seeds everything must have been met.
const ENOUGH: u64 = 500;
/// One seed in so many is lived twice.
const TWICE: u64 = 100;
/// So many failures are made smaller; the others are only named.
const REDUCED: usize = 3;
/// How many runs that may take, each.
const REDUCE_RUNS: usize = 400;
/// The name of the threads whose panics are findings.
const WORKER: &str = "tercet-sim";

fn usage(message: impl Into<String>) -> anyhow::Error {
    output::Failure::new(2, message).into()
}

/// Runs the command; says the exit code.
pub(super) fn run(args: &SwarmArgs, json: bool) -> anyhow::Result<u8> {
    if args.list {
        return list(json);
    }
    let limits = limits(args)?;
    let seeds = match args.seeds.parse::<u64>() {
        Ok(seed) => seed..=seed,
        Err(_) => parse_seeds(&args.seeds)?,
    };
    let count = seeds.end() - seeds.start() + 1;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).max(1);
    // A replica that asserts is a finding like others: it is told with its seed.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some(WORKER) {
            usual(info);
        }
    }));
    let begun = Instant::now();
    let swarm = live_all(seeds, count, threads, &limits);
    let took = begun.elapsed();
    let is_whole = args.faults.is_none() && args.only.is_none() && args.minutes.is_none();
    let missing = sometimes::missing_of_all(&swarm.met);
    let has_missed = count >= ENOUGH && is_whole && limits.nodes.is_none() && !missing.is_empty();
    for (at, outcome) in swarm.failed.iter().enumerate() {
        let reduce = at < REDUCED && !args.no_reduce;
        tell_failure(outcome, &limits, args, reduce, json)?;
    }
    if json {
        line(summary_json(&swarm, count, took, threads, &missing, has_missed).to_string())?;
    } else {
        summary(&swarm, count, took, threads)?;
        if has_missed {
            note(&format!("never met, so not tested: {}", missing.join(" · ")));
        }
    }
    Ok(u8::from(!swarm.failed.is_empty() || has_missed))
}

fn list(json: bool) -> anyhow::Result<u8> {
    for fault in Fault::all() {
        let breaks = Fault::BREAKING.contains(&fault);
        if json {
            line(
                json!({"fault": fault.name(), "about": fault.about(), "breaks_promises": breaks})
                    .to_string(),
            )?;
        } else {
            let only =
                if breaks { " (only if it is asked for: no cluster can bear it)" } else { "" };
            line(format!("{:<15} {}{only}", fault.name(), fault.about()))?;
        }
    }
    Ok(0)
}

fn limits(args: &SwarmArgs) -> anyhow::Result<Limits> {
    let named = |name: &String| {
        Fault::from_name(name).ok_or_else(|| {
            usage(format!("--faults: \"{name}\" is no fault; tercet sim --list names them"))
        })
    };
    let faults = match args.faults.as_deref() {
        None => None,
        Some([none]) if none == "none" => Some(BTreeSet::new()),
        Some(names) => Some(names.iter().map(named).collect::<anyhow::Result<_>>()?),
    };
    let rules: Rules = tercet_server::broken_rules(&args.broken_rules).map_err(usage)?;
    let length = match args.minutes {
        None => None,
        Some(minutes) if minutes > 0.0 && minutes <= 1e5 => {
            let millis = Duration::from_secs_f64(minutes * 60.0 + 0.000_5).as_millis();
            Some(Duration::from_millis(u64::try_from(millis)?))
        }
        Some(minutes) => return Err(usage(format!("--minutes {minutes}: it is above 0"))),
    };
    let number = |text: &String| {
        text.parse::<usize>().map_err(|_| usage(format!("--only: \"{text}\" is no number")))
    };
    let only = match args.only.as_deref() {
        None => None,
        Some([none]) if none == "none" => Some(BTreeSet::new()),
        Some(numbers) => Some(numbers.iter().map(number).collect::<anyhow::Result<_>>()?),
    };
    let profile = args.profile.as_deref().map(|name| match name {
        "paper" => Profile::Paper,
        _ => Profile::Modern,
    });
    Ok(Limits {
        nodes: args.nodes,
        profile,
        faults,
        only,
        length,
        until: None,
        clients: args.clients,
        rules,
    })
}

/// What came of all seeds.
#[derive(Default)]
struct Swarm {
    met: Met,
    failed: Vec<Outcome>,
    simulated: Duration,
    by_nodes: BTreeMap<u8, u64>,
    twice: u64,
}

impl Swarm {
    fn note(&mut self, outcome: Outcome) {
        sometimes::add(&mut self.met, &outcome.met);
        self.simulated += outcome.simulated;
        *self.by_nodes.entry(outcome.nodes).or_default() += 1;
        if outcome.failure.is_some() {
            self.failed.push(outcome);
        }
    }
}

fn live_all(
    seeds: std::ops::RangeInclusive<u64>,
    count: u64,
    threads: usize,
    limits: &Limits,
) -> Swarm {
    let bar = progress(count, "seeds");
    let next = AtomicU64::new(*seeds.start());
    let mut swarm = Swarm::default();
    let (done, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (done, next, seeds) = (done.clone(), &next, &seeds);
            let worker = move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let twice = seed.is_multiple_of(TWICE) || seed == *seeds.start();
                    if done.send((live(seed, limits, twice), twice)).is_err() {
                        return;
                    }
                }
            };
            let spawned = std::thread::Builder::new().name(WORKER.to_owned());
            spawned.spawn_scoped(scope, worker).expect("a thread can be started");
        }
        drop(done);
        for (outcome, twice) in outcomes {
            bar.inc(1);
            swarm.twice += u64::from(twice);
            swarm.note(outcome);
        }
    });
    bar.finish_and_clear();
    swarm.failed.sort_by_key(|outcome| outcome.seed);
    swarm
}

/// Lives a seed, or lives it twice: then both must be the same.
fn live(seed: u64, limits: &Limits, twice: bool) -> Outcome {
    let options = Options::draw(seed, limits);
    let mut outcome = swarm::run(&options);
    if twice && outcome.failure.is_none() {
        let again = swarm::run(&options);
        if again.hash != outcome.hash {
            outcome.failure = Some(Failure {
                invariant: Invariant::Determinism,
                text: format!("once {:016x}, again {:016x}", outcome.hash, again.hash),
                at: outcome.simulated,
            });
        }
    }
    outcome
}

/// The command that replays a seed within limits.
fn command(seed: u64, limits: &Limits, args: &SwarmArgs) -> String {
    let mut command = format!("tercet sim --seeds {seed}");
    let mut add = |text: String| {
        command.push(' ');
        command.push_str(&text);
    };
    let list = |numbers: &BTreeSet<usize>| {
        numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    if let Some(nodes) = limits.nodes {
        add(format!("--nodes {nodes}"));
    }
    if let Some(profile) = &args.profile {
        add(format!("--profile {profile}"));
    }
    if let Some(faults) = &args.faults {
        add(format!("--faults {}", faults.join(",")));
    }
    if let Some(only) = &limits.only {
        let numbers = if only.is_empty() { "none".to_owned() } else { list(only) };
        add(format!("--only {numbers}"));
    }
    if let Some(length) = limits.length {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53 milliseconds")]
        let minutes = length.as_millis() as f64 / 60_000.0;
        add(format!("--minutes {minutes}"));
    }
    if let Some(clients) = limits.clients {
        add(format!("--clients {clients}"));
    }
    if !args.broken_rules.is_empty() {
        add(format!("--broken-rules {}", args.broken_rules));
    }
    command
}

/// Says what was broken, and how to see it again.
fn tell_failure(
    outcome: &Outcome,
    limits: &Limits,
    args: &SwarmArgs,
    reduce: bool,
    json: bool,
) -> anyhow::Result<()> {
    let Some(failure) = &outcome.failure else { return Ok(()) };
    let reduced = if reduce && failure.invariant != Invariant::Determinism {
        quietly(|| swarm::reduce(outcome, limits, REDUCE_RUNS))
    } else {
        None
    };
    let (limits, failure) = match &reduced {
        Some(reduced) => (&reduced.limits, &reduced.failure),
        None => (limits, failure),
    };
    let command = command(outcome.seed, limits, args);
    let trace =
        if reduce { Some(quietly(|| write_trace(outcome.seed, limits, &command))?) } else { None };
    let trace = trace.map(|path| path.display().to_string());
    if json {
        line(
            json!({"seed": outcome.seed, "invariant": failure.invariant.name(), "found": failure.text,
                "command": command, "trace": trace})
            .to_string(),
        )?;
        return Ok(());
    }
    note(&format!("seed {}: {failure}", outcome.seed));
    if let Some(Reduced { faults: (left, of), runs, .. }) = reduced {
        note(&format!("  {left} of {of} faults are enough (found in {runs} runs)"));
    }
    note(&format!("  again: {command}"));
    if let Some(trace) = trace {
        note(&format!("  trace: tercet lab show {trace}"));
    }
    Ok(())
}

/// Does it on a thread whose panics are findings, told elsewhere.
fn quietly<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name(WORKER.to_owned());
        let worker = worker.spawn_scoped(scope, work).expect("a thread can be started");
        worker.join().expect("a life catches its own panics")
    })
}

fn write_trace(seed: u64, limits: &Limits, command: &str) -> anyhow::Result<std::path::PathBuf> {
    let options = Options::draw(seed, limits);
    let (mut trace, mut steps) = (Trace::default(), 0);
    let mut begun: Option<Time> = None;
    let outcome = swarm::run_told(&options, &mut |told| match told {
        Told::Step { text, .. } => {
            steps += 1;
            trace.note_step(steps, &text);
        }
        Told::Happened(happened) => {
            let begun = *begun.get_or_insert(happened.at);
            trace.note_event(&tercet_lab::lab_event(begun, happened));
        }
    });
    trace.write_life(command, &outcome, steps)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn summary(swarm: &Swarm, count: u64, took: Duration, threads: usize) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut names: Vec<&str> = Fault::all().map(Fault::name).collect();
    names.extend(sometimes::RARE);
    names.extend(sometimes::RARE_IN_SHORT_LIVES);
    let cells: Vec<[String; 2]> = names
        .iter()
        .filter_map(|name| Some([(*name).to_owned(), swarm.met.get(name)?.to_string()]))
        .collect();
    let half = cells.len().div_ceil(2);
    for at in 0..half {
        let left = cells[at].clone();
        let right = cells.get(at + half).cloned().unwrap_or_default();
        table.add_row(left.into_iter().chain(right));
    }
    line(table.to_string())?;
    let hours = swarm.simulated.as_secs_f64() / 3600.0;
    let seconds = took.as_secs_f64();
    let sizes: Vec<String> =
        swarm.by_nodes.iter().map(|(nodes, runs)| format!("{runs} of {nodes} nodes")).collect();
    line(format!(
        "{count} clusters ({}), {hours:.1} hours of them in {seconds:.1} s on {threads} threads \
         ({:.2} hours a second); {} lived twice alike",
        sizes.join(", "),
        hours / seconds.max(0.001),
        swarm.twice
    ))?;
    match swarm.failed.len() {
        0 => line("every invariant held")?,
        failed => line(format!("{failed} of {count} seeds failed"))?,
    }
    Ok(())
}

fn summary_json(
    swarm: &Swarm,
    count: u64,
    took: Duration,
    threads: usize,
    missing: &[&str],
    has_missed: bool,
) -> serde_json::Value {
    let failed: Vec<u64> = swarm.failed.iter().map(|outcome| outcome.seed).collect();
    json!({
        "seeds": count,
        "failed": failed,
        "simulated_hours": swarm.simulated.as_secs_f64() / 3600.0,
        "seconds": took.as_secs_f64(),
        "threads": threads,
        "lived_twice": swarm.twice,
        "by_nodes": swarm.by_nodes,
        "met": swarm.met,
        "missing": missing,
        "ok": failed.is_empty() && !has_missed,
    })
}
