//! The command line of the search: `cargo xtask model`.
#![allow(clippy::print_stdout, reason = "a tool for people")]

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use tercet_model::{Outcome, Progress, Suite, script, search, sentences, suites};

/// Searches all behaviours of the production core within bounds.
#[derive(Parser)]
#[command(name = "cargo xtask model")]
struct Args {
    /// Only this suite
    #[arg(long)]
    suite: Option<String>,
    /// Only suites of this profile: paper or modern
    #[arg(long)]
    profile: Option<String>,
    /// The most distinct states of each suite
    #[arg(long, default_value_t = 10_000_000)]
    states: u64,
    /// The most minutes of each suite
    #[arg(long)]
    minutes: Option<f64>,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where the script of a counterexample is written
    #[arg(long, default_value = "target/model")]
    out: PathBuf,
    /// Lists the suites
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("model: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was violated.
fn run(args: &Args) -> anyhow::Result<bool> {
    let profile = |suite: &Suite| format!("{:?}", suite.plan.setup.profile).to_lowercase();
    let mut chosen = suites();
    chosen.retain(|suite| args.suite.as_ref().is_none_or(|name| name == suite.name));
    chosen.retain(|suite| args.profile.as_ref().is_none_or(|name| *name == profile(suite)));
    if chosen.is_empty() {
        let names: Vec<&str> = suites().iter().map(|suite| suite.name).collect();
        bail!("no such suite: there are {}, in the profiles paper and modern", names.join(", "));
    }
    if args.list {
        for suite in chosen {
            println!("{:<12} {:<7} {}", suite.name, profile(&suite), suite.about);
        }
        return Ok(true);
    }
    let mut is_good = true;
    for mut suite in chosen {
        suite.plan.states_max = args.states;
        suite.plan.threads = args.threads;
        if let Some(minutes) = args.minutes {
            suite.plan.time_max = Duration::from_secs_f64(minutes * 60.0);
        }
        is_good &= check(&suite, args)?;
    }
    Ok(is_good)
}

fn check(suite: &Suite, args: &Args) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let is_watched = std::io::stdout().is_terminal();
    let outcome = search(&suite.plan, &mut |progress| {
        if is_watched {
            print!("\r\x1b[K{}", line(suite.name, progress, begun));
            // Nobody is harmed if a line is not shown.
            let _ = std::io::stdout().flush();
        }
    });
    if is_watched {
        print!("\r\x1b[K");
    }
    let Outcome { progress, is_complete, found } = outcome;
    println!("{}", line(suite.name, &progress, begun));
    let Some(found) = found else {
        println!(
            "{:<12} {}",
            "",
            if is_complete {
                "every state within the bounds: nothing is violated"
            } else {
                "nothing is violated so far; the bounds hold more states"
            }
        );
        return Ok(true);
    };
    println!("{:<12} VIOLATED after {} steps: {}", "", found.steps.len(), found.violation);
    for sentence in sentences(&found) {
        println!("{sentence}");
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    let path = args.out.join(format!("{}.lab", suite.name));
    let text = script(suite.name, &suite.plan, &found);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    println!("as a script: tercet lab run {}", path.display());
    Ok(false)
}

fn line(name: &str, progress: &Progress, begun: Instant) -> String {
    let Progress { states, depth, frontier, steps, parts: (nodes, messages) } = progress;
    let seconds = begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let rate = *states as f64 / seconds.max(0.001) / 1000.0;
    format!(
        "{name:<12} {states} states, depth {depth}, {frontier} to expand, {steps} steps; {nodes} \
         states of a node, {messages} messages; {rate:.0} k states/s, {:.1} s, {}",
        seconds,
        memory()
    )
}

/// What the process has of the memory, where the system says so.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map_or_else(|| "memory unknown".to_owned(), |kib| format!("{} MiB", kib / 1024))
}
