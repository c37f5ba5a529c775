//! What a maintainer of Tercet runs. Nothing here writes into the source tree but `fix`, `tables`,
//! `bench-guard --update`, and `fuzz` what it finds.
//!
//! One profile, `release`, is built for the product and the tests alike: assertions and overflow
//! checks are on in it.
#![allow(clippy::print_stdout, reason = "a tool for people")]

mod dependencies;
mod dist;
mod fuzz;
mod guard;
mod mutants;
mod nightly;
mod seeded;
mod tables;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What a maintainer of Tercet runs")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that a change must pass: verify, the counts of instructions where there is valgrind,
    /// the quick seeded bugs, ten thousand seeds of the swarm, then the end-to-end faults on real
    /// processes
    Test,
    /// Format, lints, unit and scenario tests, docs, dependencies: minutes
    Verify,
    /// The end-to-end faults alone
    E2e {
        /// Only tests whose name contains this
        name: Option<String>,
        /// Repetitions, as a multiple of the usual number
        #[arg(long)]
        scale: Option<String>,
        /// The seed of a run that failed
        #[arg(long)]
        seed: Option<String>,
        /// Another build of the program than the one that is built now
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// What becomes of clusters whose disks lie, as tables
    Tables(tables::Args),
    /// Search all behaviours of the core within bounds; see `cargo xtask model --help`
    #[command(disable_help_flag = true)]
    Model {
        /// Passed on: --suite, --profile, --states, --minutes, --threads, --list
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Put the bugs of crates/tercet-seeded in, one at a time, and count what finding them takes
    SeededBugs {
        /// Only this one (4b), or all of this number (4)
        #[arg(long)]
        bug: Option<String>,
        /// The most seeds of each start; otherwise ten times the budget of the bug
        #[arg(long)]
        budget: Option<u64>,
        /// From so many starts
        #[arg(long, default_value_t = 5)]
        starts: u64,
        /// Only those that every change must find (class F)
        #[arg(long)]
        fast: bool,
    },
    /// Put small mistakes into the core and the log, one at a time: does a test fail by each? Hours
    Mutants(mutants::Args),
    /// Coverage-guided runs of everything that reads foreign bytes (fuzz/README.md)
    Fuzz {
        /// Only this target; may be given several times
        #[arg(long = "target")]
        targets: Vec<String>,
        /// How long each target runs
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// How many processes run a target at a time
        #[arg(long, default_value_t = 1)]
        jobs: u32,
        /// Store what reaches new code in fuzz/corpus (writes into the tree)
        #[arg(long)]
        update: bool,
    },
    /// Count the instructions of the core, the codec and the log, against what they were; exit code 3
    /// if there is no valgrind to count with
    BenchGuard(guard::Args),
    /// Build the program that is put on machines, for the loads that it is measured by: ten minutes
    Dist,
    /// Everything that takes longer than a change can wait for, within hours; ends with a table
    Nightly(nightly::Args),
    /// Format and mend what can be mended by itself (writes into the tree)
    Fix,
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Test => verify()
            .and_then(|()| guard::run(&guard::Args::default()).map(|_| ()))
            .and_then(|()| seeded::run(None, None, 1, true))
            .and_then(|()| swarm())
            .and_then(|()| e2e(None, None, None, None)),
        Task::Verify => verify(),
        Task::E2e { name, scale, seed, program } => e2e(name, scale, seed, program.as_deref()),
        Task::Tables(args) => tables::run(&args),
        Task::Model { arguments } => model(&arguments),
        Task::SeededBugs { bug, budget, starts, fast } => {
            seeded::run(bug.as_deref(), budget, starts, fast)
        }
        Task::Mutants(args) => mutants::run(&args),
        Task::Fuzz { targets, seconds, jobs, update } => {
            fuzz::run(&fuzz::Options { targets, seconds, jobs, update })
        }
        Task::BenchGuard(args) => match guard::run(&args) {
            Ok(guard::Outcome::Judged) => Ok(()),
            Ok(guard::Outcome::NotRun) => return ExitCode::from(3),
            Err(error) => Err(error),
        },
        Task::Dist => dist::run().map(drop),
        Task::Nightly(args) => nightly::run(&args),
        Task::Fix => fix(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nxtask: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says what is missing before something fails for want of it.
fn check_tools() -> anyhow::Result<()> {
    let tools = [
        ("cc", "a C compiler: apt-get install build-essential"),
        ("git", "git: apt-get install git"),
    ];
    for (tool, how) in tools {
        if !exists(tool) {
            bail!("{tool} is missing. It is needed for {how}");
        }
    }
    let wanted = [
        ("strace", "the tests with failing syncs"),
        ("ip", "the test with three network namespaces"),
        ("curl", "the test with a foreign HTTP client"),
        ("script", "the test of the shell in a terminal"),
        ("mkfs.ext4", "the test with power cuts"),
        ("python3", "the test with power cuts"),
        ("valgrind", "the counts of instructions"),
    ];
    for (tool, what) in wanted {
        if !exists(tool) {
            println!("xtask: {tool} is missing: {what} will say that they were not run");
        }
    }
    Ok(())
}

fn exists(tool: &str) -> bool {
    let found = |dir: &Path| dir.join(tool).is_file();
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| found(&dir)))
        || ["/sbin", "/usr/sbin"].iter().any(|dir| found(Path::new(dir)))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).env("CARGO_INCREMENTAL", "0");
    command
}

fn step(name: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("\n== {name}");
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("{name}: cannot be started"))?;
    println!("== {name}: {:.0} s", begun.elapsed().as_secs_f64());
    if !status.success() {
        bail!("{name} ({status})");
    }
    Ok(())
}

/// What a tool says.
fn output(mut command: Command) -> anyhow::Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        bail!("{program} ({})", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn verify() -> anyhow::Result<()> {
    check_tools()?;
    step("format", &mut cargo(&["fmt", "--all", "--", "--check"]))?;
    step(
        "lints",
        &mut cargo(&[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    // Not among the targets of `cargo test` alone, and so not among all of them either.
    step(
        "lints of the end-to-end tests",
        &mut cargo(&[
            "clippy",
            "--release",
            "--package",
            "tercet",
            "--test",
            "faults",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step(
        "tests",
        &mut cargo(&[
            "test",
            "--release",
            "--workspace",
            "--locked",
            "--lib",
            "--bins",
            "--tests",
            "--quiet",
        ]),
    )?;
    step(
        "doc tests",
        &mut cargo(&["test", "--release", "--workspace", "--locked", "--doc", "--quiet"]),
    )?;
    step(
        "docs",
        cargo(&["doc", "--release", "--workspace", "--no-deps", "--locked", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    let target_dir = dist::target_dir()?;
    for manifest in BESIDE_OTHERS {
        let format = ["fmt", "--manifest-path", manifest, "--", "--check"];
        step(&format!("format of {manifest}"), &mut cargo(&format))?;
        step(
            &format!("lints of {manifest}"),
            cargo(&["clippy", "--manifest-path", manifest, "--all-targets", "--locked", "--quiet"])
                .arg("--target-dir")
                .arg(&target_dir)
                .args(["--", "-D", "warnings"]),
        )?;
    }
    println!("\n== dependencies");
    dependencies::check()
}

/// Measurements beside other systems, whose clients are no dependencies of the product: workspaces
/// of their own.
const BESIDE_OTHERS: [&str; 2] = ["bench/core/Cargo.toml", "bench/compare/Cargo.toml"];

/// Ten thousand lives of clusters, a thousand hours of them: every fault, every invariant, every
/// rare state.
fn swarm() -> anyhow::Result<()> {
    step("swarm", swarm_command().args(["--seeds", "1..10000"]))
}

fn swarm_command() -> Command {
    cargo(&["run", "--release", "--locked", "--quiet", "--package", "tercet", "--", "sim"])
}

/// What follows are the arguments of the tests' own program.
fn e2e_command(program: Option<&Path>) -> anyhow::Result<Command> {
    let mut command =
        cargo(&["test", "--release", "--locked", "--package", "tercet", "--test", "faults", "--"]);
    if let Some(program) = program {
        let whole = program.canonicalize().with_context(|| program.display().to_string())?;
        command.env("TERCET_TEST_PROGRAM", whole);
    }
    Ok(command)
}

fn e2e(
    name: Option<String>,
    scale: Option<String>,
    seed: Option<String>,
    program: Option<&Path>,
) -> anyhow::Result<()> {
    // One test after the other: each has several processes, and the disk is one.
    let mut command = e2e_command(program)?;
    command.args(["--test-threads=1", "--nocapture"]);
    command.args(name);
    if let Some(scale) = scale {
        command.env("TERCET_E2E_SCALE", scale);
    }
    if let Some(seed) = seed {
        command.env("TERCET_E2E_SEED", seed);
    }
    step("end-to-end faults", &mut command)
}

fn model(arguments: &[String]) -> anyhow::Result<()> {
    step("model check", model_command().args(arguments))
}

fn model_command() -> Command {
    cargo(&["run", "--release", "--locked", "--quiet", "--package", "tercet-model", "--"])
}

fn fix() -> anyhow::Result<()> {
    step(
        "clippy --fix",
        &mut cargo(&[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--fix",
            "--allow-dirty",
            "--allow-staged",
        ]),
    )?;
    step("format", &mut cargo(&["fmt", "--all"]))?;
    for manifest in BESIDE_OTHERS {
        step(&format!("format of {manifest}"), &mut cargo(&["fmt", "--manifest-path", manifest]))?;
    }
    Ok(())
}
