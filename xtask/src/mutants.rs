//! Mutants of the core and of the log: each is the code with one small mistake put in by
//! cargo-mutants. A test must fail by it, or the line can be wrong without anybody noticing.
//!
//! There are some 1,700. A mutant first meets the tests that take no time, of which it hardly
//! survives any, and only what is left meets the histories, crashes and sweeps. What is left out,
//! and why, is in `.cargo/mutants.toml`; what survived is in docs/reliability.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cargo;

/// The share of mutants, in percent, that must be caught.
const CAUGHT_MIN: usize = 90;

/// What is asked for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Of this package alone
    #[arg(long, value_enum)]
    package: Option<Package>,
    /// Of these files alone (a glob); may be given several times
    #[arg(long = "file")]
    files: Vec<String>,
    /// Every n-th of them: 0/8, 1/8 … 7/8
    #[arg(long)]
    shard: Option<String>,
    /// Mutate this very source tree rather than a copy of it, which saves building everything
    /// anew: for a tree that is there for this alone
    #[arg(long)]
    in_place: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Package {
    /// The core
    Raft,
    /// The log
    Wal,
}

impl Package {
    const fn name(self) -> &'static str {
        match self {
            Self::Raft => "tercet-raft",
            Self::Wal => "tercet-wal",
        }
    }

    /// The tests that take no time: arguments for cargo, and for the tests.
    const fn quick(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Raft => (&["--test=scenarios"], &[]),
            Self::Wal => (
                &["--tests"],
                &[
                    "--skip=a_crash_at_every_step",
                    "--skip=a_crash_and_a_fault",
                    "--skip=a_flipped_byte",
                    "--skip=any_one_block",
                    "--skip=any_part_of",
                    "--skip=random_",
                ],
            ),
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let is_there = cargo(&["mutants", "--version"]).output().is_ok_and(|out| out.status.success());
    if !is_there {
        bail!("cargo-mutants is missing: cargo install --locked cargo-mutants");
    }
    let packages = args.package.map_or(vec![Package::Raft, Package::Wal], |one| vec![one]);
    let mut blind = Vec::new();
    for package in packages {
        let counts = mutate(package, args)?;
        println!(
            "== {}: {} mutants: {} caught, {} timed out, {} missed, {} do not build: {}.{} %",
            package.name(),
            counts.all(),
            counts.caught,
            counts.timed_out,
            counts.missed,
            counts.unviable,
            counts.permille() / 10,
            counts.permille() % 10,
        );
        if counts.permille() < CAUGHT_MIN * 10 {
            blind.push(package.name());
        }
    }
    if !blind.is_empty() {
        bail!("less than {CAUGHT_MIN} % are caught: {}", blind.join(", "));
    }
    Ok(())
}

fn mutate(package: Package, args: &Args) -> anyhow::Result<Counts> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    let output = root.join("target/mutants-of").join(package.name());
    let results = output.join("mutants.out");
    // The second pass goes on from the first, not from what was there before.
    match fs::remove_dir_all(&output) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| output.display().to_string());
        }
        Ok(()) | Err(_) => fs::create_dir_all(&output)?,
    }
    let (for_cargo, for_tests) = package.quick();
    println!("\n== {}: the quick tests", package.name());
    pass(command(package, args, &output, for_cargo, for_tests))?;
    let mut counts = Counts::read(&results)?;
    if counts.survivors() > 0 {
        println!("\n== {}: all tests, for those that are left", package.name());
        let mut second = command(package, args, &output, &["--lib", "--tests"], &[]);
        second.arg("--iterate");
        pass(second)?;
        let left = Counts::read(&results)?;
        counts = Counts {
            caught: counts.caught + left.caught,
            unviable: counts.unviable + left.unviable,
            ..left
        };
    }
    println!("\n== those that are left are named in {}", results.display());
    Ok(counts)
}

fn command(
    package: Package,
    args: &Args,
    output: &PathBuf,
    for_cargo: &[&str],
    for_tests: &[&str],
) -> Command {
    let mut command = cargo(&["mutants", "--package", package.name(), "--output"]);
    command.arg(output).env_remove("CARGO_INCREMENTAL");
    command.args(for_cargo.iter().map(|one| format!("--cargo-arg={one}")));
    // Those of the tests stand behind cargo's own "--".
    command.args(for_tests.first().map(|_| "--cargo-test-arg=--"));
    command.args(for_tests.iter().map(|one| format!("--cargo-test-arg={one}")));
    for file in &args.files {
        command.args(["--file", file]);
    }
    if let Some(shard) = &args.shard {
        command.args(["--shard", shard]);
    }
    if args.in_place {
        command.arg("--in-place");
    }
    command
}

fn pass(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().context("cargo mutants cannot be started")?;
    // Some survived; some hung.
    if status.success() || matches!(status.code(), Some(2 | 3)) {
        return Ok(());
    }
    bail!("cargo mutants ({status})")
}

/// What became of the mutants.
struct Counts {
    caught: usize,
    timed_out: usize,
    missed: usize,
    unviable: usize,
}

impl Counts {
    fn read(results: &Path) -> anyhow::Result<Self> {
        let lines = |name: &str| match fs::read_to_string(results.join(name)) {
            Ok(text) => Ok(text.lines().count()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error).with_context(|| name.to_owned()),
        };
        Ok(Self {
            caught: lines("caught.txt")?,
            timed_out: lines("timeout.txt")?,
            missed: lines("missed.txt")?,
            unviable: lines("unviable.txt")?,
        })
    }

    const fn survivors(&self) -> usize {
        self.missed + self.timed_out
    }

    const fn all(&self) -> usize {
        self.caught + self.timed_out + self.missed + self.unviable
    }

    /// The share of those that build: whoever hangs is noticed, too.
    fn permille(&self) -> usize {
        let killed = self.caught + self.timed_out;
        (killed * 1000).checked_div(killed + self.missed).unwrap_or(1000)
    }
}
