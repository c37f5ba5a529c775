//! Coverage-guided runs of the targets in `fuzz/`, with libFuzzer: builds them with counters in all
//! the code, runs each for a bounded time, keeps what crashed as small as it gets.
//!
//! It needs the stable toolchain and a C++ compiler, nothing else: the counters are LLVM's, and no
//! `unsafe` stands in this workspace for an address sanitizer to look at.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::{cargo, exists};

/// Counters at every edge, a table of places, and the operands of comparisons, so that the fuzzer
/// sees which bytes a comparison wants.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// The arguments that run the targets' own program, which needs no fuzzer.
const PLAIN: [&str; 7] =
    ["run", "--release", "--quiet", "--locked", "--package", "tercet-fuzz", "--"];
/// How often a run says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long a crashing input is made smaller.
const MINIMISE_SECONDS: u32 = 30;
/// The longest input that is stored: every test run reads all of them.
const STORED_BYTES_MAX: u32 = 1024;

/// What is asked for.
pub(crate) struct Options {
    /// The targets; all if empty.
    pub(crate) targets: Vec<String>,
    /// How long each runs.
    pub(crate) seconds: u32,
    /// How many processes run a target at a time.
    pub(crate) jobs: u32,
    /// Whether what was found goes into the stored corpus.
    pub(crate) update: bool,
}

/// A target with what is known of it.
pub(crate) struct Target {
    name: String,
    bytes_max: String,
    program: PathBuf,
    /// What this machine has found so far; not stored with the source.
    found: PathBuf,
    seeds: PathBuf,
    words: PathBuf,
    /// The stored inputs, as files.
    corpus: PathBuf,
    crashes: PathBuf,
}

/// What libFuzzer said last.
#[derive(Clone, Debug, Default)]
struct Progress {
    executions: u64,
    edges: u64,
    features: u64,
    inputs: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !exists("c++") {
        bail!(
            "a C++ compiler is missing, which builds libFuzzer: apt-get install g++. (The stored \
             inputs are replayed without it: cargo test --release -p tercet-fuzz)"
        );
    }
    let targets = build(&options.targets)?;
    let mut crashed = Vec::new();
    for target in &targets {
        if let Err(error) = run_target(target, options) {
            println!("   {}: {error:#}", target.name);
            crashed.push(target.name.as_str());
        }
    }
    if options.update {
        for target in &targets {
            merge(target)?;
        }
    }
    if !crashed.is_empty() {
        bail!("{} broke a promise", crashed.join(", "));
    }
    Ok(())
}

/// All targets until a time, an even share each: how long each had, in seconds, and what came of it.
pub(crate) fn night(ends: Instant) -> anyhow::Result<Vec<(String, u32, anyhow::Result<()>)>> {
    let targets = build(&[])?;
    let left = ends.saturating_duration_since(Instant::now()).as_secs();
    let seconds = u32::try_from(left / targets.len() as u64).unwrap_or(u32::MAX).max(1);
    let options = Options { targets: Vec::new(), seconds, jobs: 1, update: false };
    let run = |target: Target| {
        let result = run_target(&target, &options);
        (target.name, seconds, result)
    };
    Ok(targets.into_iter().map(run).collect())
}

fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc -vV")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Builds the targets, and writes their first inputs.
pub(crate) fn build(wanted: &[String]) -> anyhow::Result<Vec<Target>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent")?;
    let work = root.join("target/fuzz");
    println!("\n== build: with counters, which takes some minutes the first time");
    let list = cargo(&PLAIN).arg("list").output().context("tercet-fuzz list")?;
    if !list.status.success() {
        bail!("tercet-fuzz list: {}", String::from_utf8_lossy(&list.stderr));
    }
    let inputs = work.join("inputs");
    let prepared = cargo(&PLAIN).arg("prepare").arg(&inputs).status()?;
    if !prepared.success() {
        bail!("tercet-fuzz prepare ({prepared})");
    }
    let host = host()?;
    // With a target named, the flags are not those of build scripts and macros.
    let mut engine = cargo(&["build", "--release", "--quiet", "--locked", "--target", &host]);
    engine.current_dir(root.join("fuzz/engine"));
    engine.env("CARGO_TARGET_DIR", &work).env("RUSTFLAGS", FLAGS);
    let status = engine.status().context("cargo build")?;
    if !status.success() {
        bail!("fuzz/engine cannot be built ({status})");
    }
    let mut targets = Vec::new();
    for line in String::from_utf8(list.stdout)?.lines() {
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(name), Some(bytes_max)) = (words.next(), words.next()) else { continue };
        if !wanted.is_empty() && !wanted.contains(&name) {
            continue;
        }
        targets.push(Target {
            bytes_max,
            program: work.join(&host).join("release").join(&name),
            found: inputs.join(&name).join("found"),
            seeds: inputs.join(&name).join("seeds"),
            words: inputs.join(&name).join("words"),
            corpus: inputs.join(&name).join("corpus"),
            crashes: root.join("fuzz/crashes").join(&name),
            name,
        });
    }
    if let Some(unknown) = wanted.iter().find(|name| targets.iter().all(|t| t.name != **name)) {
        bail!("there is no target {unknown}: they are listed in fuzz/README.md");
    }
    Ok(targets)
}

/// A process of libFuzzer. It is given no crash of its own to name: where that goes is an argument.
fn engine(target: &Target) -> Command {
    let mut command = Command::new(&target.program);
    command
        .arg(format!("-max_len={}", target.bytes_max))
        .arg(format!("-dict={}", target.words.display()))
        .args(["-len_control=0", "-timeout=25", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn run_target(target: &Target, options: &Options) -> anyhow::Result<()> {
    fs::create_dir_all(&target.found)?;
    println!("\n== {}: {} s", target.name, options.seconds);
    let crash = target.found.with_file_name("crash-");
    let (said, heard) = mpsc::channel();
    let mut processes: Vec<Child> = Vec::new();
    for job in 1..=options.jobs {
        let mut command = engine(target);
        command
            .arg(format!("-max_total_time={}", options.seconds))
            .arg(format!("-artifact_prefix={}", crash.display()))
            .args([&target.found, &target.corpus, &target.seeds]);
        let mut process = command.spawn().context("the fuzzer cannot be started")?;
        let stderr = process.stderr.take().context("it was asked for")?;
        let said = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if said.send((job, line)).is_err() {
                    return;
                }
            }
        });
        processes.push(process);
    }
    drop(said);
    let text = listen(&heard, options.jobs);
    let mut failed = false;
    for process in &mut processes {
        failed |= !process.wait()?.success();
    }
    if !failed {
        return Ok(());
    }
    let written = text.iter().find_map(|line| line.split("Test unit written to ").nth(1));
    for line in text.iter().filter(|line| line.contains("panicked at")).take(1) {
        println!("   {line}");
    }
    let Some(written) = written else {
        bail!("the fuzzer failed by itself:\n{}", text.join("\n"));
    };
    keep(target, Path::new(written.trim()))
}

/// Says how far it is, now and then. Returns the last lines of all processes.
fn listen(heard: &mpsc::Receiver<(u32, String)>, jobs: u32) -> Vec<String> {
    let begun = Instant::now();
    let mut last_said = begun;
    let mut progress = vec![Progress::default(); jobs as usize + 1];
    let mut text: Vec<String> = Vec::new();
    let say = |progress: &[Progress]| {
        let sum: u64 = progress.iter().map(|job| job.executions).sum();
        let best = progress.iter().max_by_key(|job| job.features).cloned().unwrap_or_default();
        println!(
            "   {:>4} s  {sum} executions, {} edges, {} features, {} inputs",
            begun.elapsed().as_secs(),
            best.edges,
            best.features,
            best.inputs
        );
    };
    while let Ok((job, line)) = heard.recv() {
        if let Some(read) = read_progress(&line) {
            progress[job as usize] = read;
        } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            progress[job as usize].executions = count.trim().parse().unwrap_or(0);
        } else {
            if text.len() == 200 {
                text.remove(0);
            }
            text.push(line);
        }
        if last_said.elapsed() >= PROGRESS {
            last_said = Instant::now();
            say(&progress);
        }
    }
    say(&progress);
    text
}

/// `#1234 NEW cov: 12 ft: 34 corp: 5/678b …`
fn read_progress(line: &str) -> Option<Progress> {
    let mut words = line.strip_prefix('#')?.split_whitespace();
    let executions = words.next()?.parse().ok()?;
    let mut progress = Progress { executions, ..Progress::default() };
    while let Some(word) = words.next() {
        match word {
            "cov:" => progress.edges = words.next()?.parse().ok()?,
            "ft:" => progress.features = words.next()?.parse().ok()?,
            "corp:" => words.next()?.split('/').next()?.clone_into(&mut progress.inputs),
            _ => {}
        }
    }
    Some(progress)
}

/// Makes a crashing input as small as it gets in a while, stores it, and says how it is replayed.
fn keep(target: &Target, crash: &Path) -> anyhow::Result<()> {
    println!("   a promise is broken: the input is made smaller, for {MINIMISE_SECONDS} s at most");
    let smaller = crash.with_extension("smaller");
    let _ = fs::remove_file(&smaller);
    // It ends with an error when it cannot make it any smaller.
    let _ = engine(target)
        .arg("-minimize_crash=1")
        .arg(format!("-max_total_time={MINIMISE_SECONDS}"))
        .arg(format!("-exact_artifact_path={}", smaller.display()))
        .arg(crash)
        .stderr(Stdio::null())
        .status()?;
    let from = if smaller.is_file() { &smaller } else { crash };
    let input = fs::read(from).with_context(|| from.display().to_string())?;
    fs::create_dir_all(&target.crashes)?;
    let name = crash.file_name().and_then(|name| name.to_str()).unwrap_or("crash");
    let name = name.trim_start_matches("crash-").trim_start_matches("crash-");
    let kept = target.crashes.join(name.get(..12).unwrap_or(name));
    fs::write(&kept, &input)?;
    let root = target.crashes.ancestors().nth(3).unwrap_or(Path::new(""));
    let shown = kept.strip_prefix(root).unwrap_or(&kept);
    bail!(
        "an input of {} bytes breaks a promise. It is kept, and every test run replays it from now \
         on. Repeat it with\n\n       cargo run --release -p tercet-fuzz -- replay {} {}\n",
        input.len(),
        target.name,
        shown.display()
    )
}

/// Makes the stored corpus anew: as few and as short inputs as reach all that the old one and what
/// this machine has found reach.
fn merge(target: &Target) -> anyhow::Result<()> {
    let merged = target.found.with_file_name("merged");
    if merged.exists() {
        fs::remove_dir_all(&merged)?;
    }
    fs::create_dir_all(&merged)?;
    let status = Command::new(&target.program)
        .args(["-set_cover_merge=1", "-timeout=25"])
        .arg(format!("-max_len={STORED_BYTES_MAX}"))
        .args([&merged, &target.corpus, &target.found])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("{}: the corpus cannot be merged ({status})", target.name);
    }
    let stored = cargo(&PLAIN).args(["store", &target.name]).arg(&merged).status()?;
    if !stored.success() {
        bail!("tercet-fuzz store ({stored})");
    }
    Ok(())
}
