//! End to end: real processes, real disks, real kills, under load by several clients, with the
//! judge of `tercet-testkit` over what they saw.
//!
//! `cargo xtask e2e [NAME] [--seed N] [--scale X]` runs them. What a machine does not let a test do
//! is said ("not run: …"), never passed over in silence.
//!
//! A test that repeats something ends with a line for `cargo xtask nightly`:
//! `table: NAME done/asked lost=0 phantom=0 …`, and after that whatever else was measured. How often
//! it is repeated is `--scale` times what stands in the test, or less if `TERCET_E2E_SECONDS` are
//! over. Nothing fails for being slow.
#![allow(clippy::print_stdout, reason = "tests talk to people")]

mod bench;
mod classic;
mod clients;
mod dev;
mod disks;
mod doctor;
mod inputs;
mod kills;
mod lab;
mod lab_hosts;
mod machines;
mod memory;
mod partitions;
mod power;
mod restarts;
mod shell;
mod submitters;
mod xmlrpc;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tercet_testkit::{Cluster, Options, Random, Violations};

/// The program under test; another build of it if these tests were built with its path.
const TERCET: &str = match option_env!("TERCET_TEST_PROGRAM") {
    Some(program) => program,
    None => env!("CARGO_BIN_EXE_tercet"),
};

/// How long the clients may wait for the cluster to serve again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Three times the longest election timeout of a node that is told nothing else.
const THREE_ELECTION_TIMEOUTS: Duration = Duration::from_millis(900);

/// A test's random numbers and repetitions.
struct Run {
    seed: u64,
    random: Random,
    /// How often it shall be repeated.
    asked: u64,
    /// How often it was begun.
    begun: u64,
    /// When no repetition begins any more.
    ends: Option<Instant>,
    /// Whether this is more than the test command's share.
    is_full: bool,
    figures: Vec<String>,
}

impl Run {
    /// Whether to do it once more. The first time, yes.
    fn again(&mut self) -> bool {
        let is_over = self.ends.is_some_and(|ends| Instant::now() >= ends);
        let goes_on = self.begun < self.asked && (self.begun == 0 || !is_over);
        self.begun += u64::from(goes_on);
        goes_on
    }

    /// Something that was measured, for the test's line.
    fn note(&mut self, figure: String) {
        self.figures.push(figure);
    }

    /// Notes how many of these times were within a bound, and the longest. It is a figure, not a
    /// demand: the machine may be a slow one.
    fn note_times(&mut self, what: &str, within: Duration, times: &[Duration]) {
        let count = times.iter().filter(|time| **time <= within).count();
        let longest = times.iter().max().copied().unwrap_or_default();
        self.note(format!(
            "{what} within {} ms: {count} of {}, longest {} ms",
            within.as_millis(),
            times.len(),
            longest.as_millis()
        ));
    }
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
    let seconds: Option<u64> = variable("TERCET_E2E_SECONDS");
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a number of repetitions is small and positive"
    )]
    let asked = ((repetitions as f64 * scale).round() as u64).max(1);
    println!("{name}: seed {seed}, {asked} times");
    let mut options = Options::three(format!("cargo xtask e2e {name} --seed {seed}"));
    options.arguments = arguments.iter().map(ToString::to_string).collect();
    let mut cluster =
        Cluster::new(Path::new(TERCET), options).expect("the machine gives a cluster its place");
    let mut run = Run {
        seed,
        random: Random::new(seed),
        asked,
        begun: 0,
        ends: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        is_full: scale > 1.0,
        figures: Vec::new(),
    };
    let result = body(&mut cluster, &mut run);
    let found = result.as_ref().err().and_then(|error| error.downcast_ref::<Violations>());
    if run.begun > 0 {
        println!(
            "table: {name} {}/{asked} lost={} phantom={} {}",
            run.begun,
            found.map_or(0, Violations::lost),
            found.map_or(0, Violations::phantom),
            if result.is_err() { "FAILED".to_owned() } else { run.figures.join("; ") }
        );
    }
    // Unwrapped while the cluster exists, so that its directories are kept.
    if let Err(error) = result {
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

/// What a node's `/metrics` says of one metric.
fn metric(cluster: &Cluster, id: usize, name: &str) -> anyhow::Result<f64> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(cluster.address(id))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("n{id} has no {name}: {text}"))?;
    Ok(value.trim().parse()?)
}

/// Waits until a node's metric has this value: the metrics follow the status at once, not before.
fn await_metric(cluster: &Cluster, id: usize, name: &str, value: f64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = metric(cluster, id, name)?;
        if (found - value).abs() < 0.5 {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "n{id}: {name} is {found}, not {value}");
        std::thread::sleep(Duration::from_millis(5));
    }
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
