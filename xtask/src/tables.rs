//! Plays the suites of `tercet_sim::tables` on all cores, and prints what came out.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tercet_sim::tables::{Row, Suite, Verdict, ctrl, suites};

const FILE: &str = "docs/reliability-tables.md";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only suites whose name begins so
    #[arg(long)]
    suite: Option<String>,
    /// Only every tenth case
    #[arg(long)]
    quick: bool,
    /// Only this case of the suite: one that did not come out as it had to
    #[arg(long, requires = "suite")]
    case: Option<u64>,
    /// Make docs/reliability-tables.md anew, if nothing is amiss
    #[arg(long, conflicts_with = "suite")]
    write: bool,
    /// How many cases are played at a time; one for each core
    #[arg(long)]
    threads: Option<usize>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let begins =
        |suite: &Suite| args.suite.as_deref().is_none_or(|name| suite.name.starts_with(name));
    let suites: Vec<Suite> = suites().into_iter().filter(begins).collect();
    if suites.is_empty() {
        bail!("no suite has a name that begins so");
    }
    if let Some(case) = args.case {
        for suite in &suites {
            println!("{} {case}: {:?}", suite.name, suite.verdict(case));
        }
        return Ok(());
    }
    // What a replica that asserts has to say is in the verdict.
    std::panic::set_hook(Box::new(|_| {}));
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args.threads.unwrap_or_else(cores);
    let every = if args.quick { 10 } else { 1 };
    let mut rows = Vec::new();
    for suite in &suites {
        let begun = Instant::now();
        let row = play(suite, every, threads, 0, None)?;
        println!(
            "{:32} {:>6} cases  unavailable/unsafe/correct {:>18}  {:>6.1} s{}",
            row.suite,
            row.cases,
            row.counts.to_string(),
            begun.elapsed().as_secs_f64(),
            if row.misses.is_empty() {
                String::new()
            } else {
                format!("  {} MISSES", row.misses.len())
            },
        );
        for (case, why) in row.misses.iter().take(5) {
            println!("    cargo xtask tables --suite {} --case {case}: {why}", row.suite);
        }
        rows.push(row);
    }
    let cost = if args.suite.is_none() {
        let cost = ctrl::repair_one(30_000).map_err(anyhow::Error::msg)?;
        println!(
            "repair of 1 entry of {}: {:.2} ms, {} messages with {} bytes of entries",
            cost.entries,
            cost.took.as_secs_f64() * 1e3,
            cost.messages,
            cost.entry_bytes
        );
        Some(cost)
    } else {
        None
    };
    let misses: usize = rows.iter().map(|row| row.misses.len()).sum();
    if let Some(cost) = cost.filter(|_| args.write && misses == 0) {
        std::fs::write(FILE, document(&rows, &cost)).context("write the tables")?;
        println!("written to {FILE}");
    }
    if misses > 0 {
        bail!("{misses} cases did not come out as they had to");
    }
    Ok(())
}

/// All suites until a time, from a case on that the seed chooses.
pub(crate) fn night(seed: u64, ends: Instant) -> anyhow::Result<Vec<Row>> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let suites = suites();
    let mut cases_left: u64 = suites.iter().map(|suite| suite.cases).sum();
    let mut rows = Vec::new();
    for suite in &suites {
        let left = ends.saturating_duration_since(Instant::now()).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "shares of time")]
        let share = left * suite.cases as f64 / cases_left as f64;
        let until = Instant::now() + Duration::from_secs_f64(share);
        rows.push(play(suite, 1, threads, seed % suite.cases, Some(until))?);
        cases_left -= suite.cases;
    }
    Ok(rows)
}

/// Plays every so manieth case, from `first` on and around, as long as there is time.
fn play(
    suite: &Suite,
    every: u64,
    threads: usize,
    first: u64,
    until: Option<Instant>,
) -> anyhow::Result<Row> {
    let style = ProgressStyle::with_template("{msg:32} {bar:40} {pos}/{len} {eta}")?;
    let bar = ProgressBar::new(suite.cases.div_ceil(every)).with_style(style);
    bar.set_message(suite.name);
    let next = AtomicU64::new(0);
    let verdicts: Mutex<Vec<(u64, Verdict)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while until.is_none_or(|until| Instant::now() < until) {
                    // A tenth is one of each ten, not always the same one.
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let case = at * every + at * 7 % every;
                    if case >= suite.cases {
                        return;
                    }
                    let case = (case + first) % suite.cases;
                    let verdict = suite.verdict(case);
                    verdicts.lock().expect("nobody panics with it").push((case, verdict));
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    Ok(suite.row(verdicts.into_inner().expect("nobody panics with it")))
}

fn document(rows: &[Row], cost: &ctrl::RepairCost) -> String {
    let mut out = String::from(
        "# What becomes of clusters whose disks lie\n\n\
         Made by `cargo xtask tables --write`; not edited by hand. Every case is played on whole production replicas over a simulated\n\
         network and disks (`crates/tercet-sim/src/tables/`); every number is the same each time. A case of the damage tables with an odd number also\n\
         kills the first leader.\n\n\
         - *unavailable*: nothing is committed within 60 simulated seconds, and the status names the entry that is lost;\n\
         - *unsafe*: an acknowledged entry is lost or changed, or nodes differ;\n\
         - *correct*: every entry is back on all nodes, `values.log` is the same byte by byte, and a new submit works.\n\n\
         The right column is what Alagappan et al. report (\"Protocol-Aware Recovery for Consensus-Based Storage\", FAST 2018) of LogCabin and ZooKeeper\n\
         as they were, which either truncate or crash, and of their own CTRL, for the cases that they played. Where no copy of an entry is left, unavailable is the right answer.\n\n\
         | suite | what is done | cases | unavailable/unsafe/correct | reported in the paper |\n\
         | --- | --- | ---: | ---: | --- |\n",
    );
    for row in rows {
        let reported = if row.reported.is_empty() { "–" } else { row.reported };
        let cases = if row.cases == row.of {
            row.cases.to_string()
        } else {
            format!("{} of {}", row.cases, row.of)
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {cases} | {} | {reported} |",
            row.suite, row.what, row.counts
        );
    }
    let _ = writeln!(
        out,
        "\nRepair of one damaged entry of 1 KB in a log of {}: {:.2} ms of simulated time from its being found to its being whole on disk, \
         {} messages with {} bytes of entries (the paper: 1.24 s and 32 MB before, 1.2 ms and 7 KB with CTRL).",
        cost.entries,
        cost.took.as_secs_f64() * 1e3,
        cost.messages,
        cost.entry_bytes
    );
    out
}
