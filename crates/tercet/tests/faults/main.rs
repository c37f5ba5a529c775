//! End to end: real processes, real disks, real kills, under load by several clients, with the
//! judge of `tercet-testkit` over what they saw.
//!
//! `cargo xtask e2e [NAME] [--seed N] [--scale X]` runs them. What a machine does not let a test do
//! is said ("not run: …"), never passed over in silence.
#![allow(clippy::print_stdout, reason = "tests talk to people")]

mod bench;
mod classic;
mod clients;
mod dev;
mod disks;
mod inputs;
mod kills;
mod lab;
mod lab_hosts;
mod machines;
mod shell;
mod xmlrpc;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tercet_testkit::{Cluster, Options, Random};

/// The program under test.
const TERCET: &str = env!("CARGO_BIN_EXE_tercet");

/// How long the clients may wait for the cluster to serve again.
const PATIENCE: Duration = Duration::from_secs(20);

/// A test's random numbers and repetitions.
struct Run {
    seed: u64,
    random: Random,
    repetitions: u64,
}

/// Runs a test on a cluster of three. Its seed is printed, and its directories are kept if it fails.
fn on_three(
    name: &str,
    repetitions: u64,
    body: impl FnOnce(&mut Cluster, &mut Run) -> anyhow::Result<()>,
) {
    on_three_with(name, repetitions, &[], body);
}

/// [`on_three`] with more arguments for every node.
fn on_three_with(
    name: &str,
    repetitions: u64,
    arguments: &[&str],
    body: impl FnOnce(&mut Cluster, &mut Run) -> anyhow::Result<()>,
) {
    let seed = variable("TERCET_E2E_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos()) ^ now.as_secs() << 20
    });
    let scale: f64 = variable("TERCET_E2E_SCALE").unwrap_or(1.0);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a number of repetitions is small and positive"
    )]
    let repetitions = ((repetitions as f64 * scale).round() as u64).max(1);
    println!("{name}: seed {seed}, {repetitions} times");
    let mut options = Options::three(format!("cargo xtask e2e {name} --seed {seed}"));
    options.arguments = arguments.iter().map(ToString::to_string).collect();
    let mut cluster =
        Cluster::new(Path::new(TERCET), options).expect("the machine gives a cluster its place");
    let mut run = Run { seed, random: Random::new(seed), repetitions };
    // Unwrapped while the cluster exists, so that its directories are kept.
    if let Err(error) = body(&mut cluster, &mut run) {
        let logs: Vec<String> = (1..=cluster.count())
            .map(|id| format!("n{id} said last:\n{}", cluster.last_words(id)))
            .collect();
        panic!("{error:#}\n{}", logs.join("\n"));
    }
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().ok().unwrap_or_else(|| panic!("{name}={text} is not a number")))
}

/// Says why a test cannot be run here.
fn not_run(name: &str, why: &str) {
    println!("{name}: not run: {why}");
}

/// Whether a program can be called.
fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/sbin".into(), "/usr/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
