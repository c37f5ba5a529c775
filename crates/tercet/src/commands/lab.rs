//! `tercet lab`: scripts are listed, shown, checked and run.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tercet_lab::ast::{Requires, Script, World};
use tercet_lab::{
    Failure, Processes, Progress, RealBackend, RealOptions, Report, SimBackend, library, lint, parse,
};

use crate::args::{LabCommand, LabRunArgs};
use crate::output::{self, line, note};

/// A script that was found and parsed.
struct Loaded {
    name: String,
    script: Script,
}

pub(crate) fn run(command: LabCommand, json: bool) -> anyhow::Result<u8> {
    match command {
        LabCommand::List => list(json),
        LabCommand::Show { name } => {
            line(read(&name)?.1.trim_end())?;
            Ok(0)
        }
        LabCommand::Check { scripts } => check(&scripts, json),
        LabCommand::Run(args) => run_scripts(&args, json),
    }
}

fn usage(text: impl Into<String>) -> anyhow::Error {
    output::Failure::new(2, text).into()
}

/// The text of a scenario or a file, with the name to show.
fn read(name: &str) -> anyhow::Result<(String, String)> {
    if let Some(scenario) = library::find(name) {
        return Ok((name.to_owned(), scenario.text.to_owned()));
    }
    let path = Path::new(name);
    if path.extension().is_none() && !path.exists() {
        return Err(usage(format!(
            "there is no scenario \"{name}\", and no such file: `tercet lab list` shows what there is"
        )));
    }
    let text = fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
    Ok((name.to_owned(), text))
}

fn load(name: &str) -> anyhow::Result<Loaded> {
    let (name, text) = read(name)?;
    match parse(&text) {
        Ok(script) => Ok(Loaded { name, script }),
        Err(errors) => {
            let shown: Vec<String> =
                errors.iter().map(|error| error.render(&name, &text)).collect();
            Err(usage(shown.join("\n")))
        }
    }
}

fn list(json: bool) -> anyhow::Result<u8> {
    for scenario in library::SCENARIOS {
        let script = load(scenario.name)?.script;
        let world = match &script.header.requires {
            Some(Requires { world: World::Sim, .. }) => "simulator only",
            Some(Requires { world: World::Real, .. }) => "real processes only",
            None => "",
        };
        if json {
            let header = &script.header;
            line(
                json!({"name": scenario.name, "title": header.title, "cites": header.cites, "nodes": header.nodes, "requires": world})
                    .to_string(),
            )?;
        } else {
            let note = if world.is_empty() { String::new() } else { format!("   ({world})") };
            line(format!("{:<32} {}{note}", scenario.name, script.header.title))?;
        }
    }
    Ok(0)
}

fn check(scripts: &[String], json: bool) -> anyhow::Result<u8> {
    let mut failed = false;
    for name in scripts {
        let (name, text) = read(name)?;
        match parse(&text) {
            Ok(script) => {
                let warnings: Vec<String> = lint(&script).iter().map(ToString::to_string).collect();
                if json {
                    line(json!({"script": name, "ok": true, "warnings": warnings}).to_string())?;
                } else {
                    for warning in &warnings {
                        note(&format!("{name}:{warning}"));
                    }
                    line(format!("{name}: ok"))?;
                }
            }
            Err(errors) => {
                failed = true;
                if json {
                    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                    line(json!({"script": name, "ok": false, "errors": errors}).to_string())?;
                } else {
                    for error in errors {
                        note(&error.render(&name, &text));
                    }
                }
            }
        }
    }
    Ok(u8::from(failed) * 2)
}

/// One run that is to be done.
struct Job<'a> {
    loaded: &'a Loaded,
    seed: u64,
}

fn run_scripts(args: &LabRunArgs, json: bool) -> anyhow::Result<u8> {
    let names: Vec<String> = if args.all {
        library::SCENARIOS.iter().map(|scenario| scenario.name.to_owned()).collect()
    } else {
        args.scripts.clone()
    };
    let loaded = names.iter().map(|name| load(name)).collect::<anyhow::Result<Vec<_>>>()?;
    if args.real {
        return run_real(args, &loaded, json);
    }
    let seeds = args.seeds.as_deref().map(parse_seeds).transpose()?;
    let simulated = loaded.iter().filter(|loaded| {
        !matches!(&loaded.script.header.requires, Some(requires) if requires.world == World::Real)
    });
    let jobs: Vec<Job<'_>> = simulated
        .flat_map(|loaded| match &seeds {
            Some(seeds) => seeds.clone().map(|seed| Job { loaded, seed }).collect(),
            None => vec![Job { loaded, seed: loaded.script.header.seed }],
        })
        .collect();
    if jobs.is_empty() {
        return Err(usage("these scripts run on real processes only"));
    }
    let begun = Instant::now();
    let (reports, failed) = if args.watch || jobs.len() < 8 {
        let mut failed = 0;
        for job in &jobs {
            let report = simulate(job, args.until, args.watch)?;
            failed += usize::from(!report.passed());
            tell(job, &report, json)?;
        }
        (jobs.len(), failed)
    } else {
        run_many(&jobs, args.until, json)?
    };
    if !json {
        let verdict = if failed == 0 { "all passed" } else { "failed" };
        let count = if failed == 0 { String::new() } else { format!("{failed} of ") };
        line(format!(
            "{count}{reports} runs in the simulator {verdict} ({:.2?})",
            begun.elapsed()
        ))?;
    }
    Ok(u8::from(failed > 0))
}

/// Runs scripts on real processes, one after the other.
fn run_real(args: &LabRunArgs, loaded: &[Loaded], json: bool) -> anyhow::Result<u8> {
    let options = RealOptions {
        scale: args.scale,
        patience: crate::config::parse_time(&args.patience).map_err(usage)?,
        ..RealOptions::default()
    };
    let program = std::env::current_exe().context("this program cannot be found again")?;
    let place = match &args.keep {
        Some(dir) => Place::Kept(dir.clone()),
        None => Place::Temporary(tempfile::Builder::new().prefix("tercet-lab-").tempdir()?),
    };
    stop_on_signal(place.path().to_owned())?;
    let begun = Instant::now();
    let (mut runs, mut failed) = (0, 0);
    for loaded in loaded {
        if let Some(Requires { world: World::Sim, reason }) = &loaded.script.header.requires {
            note(&format!("not run: {} (only in the simulator: {reason})", loaded.name));
            continue;
        }
        for _ in 0..args.repeat.max(1) {
            runs += 1;
            let mut branch = 0;
            let world = || {
                branch += 1;
                let dir = place.path().join(format!("run{runs}-{branch}"));
                let processes = Processes::new(program.clone(), dir, loaded.script.header.nodes)?;
                RealBackend::new(&loaded.script, processes, options.clone())
            };
            let mut tell_progress = |progress: Progress| {
                if args.watch {
                    show(&progress);
                }
            };
            let report = tercet_lab::run(&loaded.script, args.until, world, &mut tell_progress)
                .map_err(|error| anyhow::anyhow!("{}: {error}", loaded.name))?;
            failed += usize::from(!report.passed());
            tell(&Job { loaded, seed: loaded.script.header.seed }, &report, json)?;
        }
    }
    if failed > 0
        && let Place::Temporary(dir) = place
    {
        note(&format!("the nodes' data and logs are kept in {}", dir.keep().display()));
    }
    if !json {
        let verdict = if failed == 0 { "all passed" } else { "failed" };
        let count = if failed == 0 { String::new() } else { format!("{failed} of ") };
        line(format!("{count}{runs} runs on real processes {verdict} ({:.1?})", begun.elapsed()))?;
    }
    Ok(u8::from(failed > 0))
}

/// Where the data of real runs is.
enum Place {
    Kept(std::path::PathBuf),
    Temporary(tempfile::TempDir),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(dir) => dir,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// Ctrl-C or SIGTERM: this process ends, and with it the standard input of every node, which is
/// their sign to stop. A node that stands still is killed by the next thing that looks.
fn stop_on_signal(dir: std::path::PathBuf) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        let code = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut terminate = signal(SignalKind::terminate()).ok()?;
            let mut interrupt = signal(SignalKind::interrupt()).ok()?;
            tokio::select! {
                _ = terminate.recv() => Some(143),
                _ = interrupt.recv() => Some(130),
            }
        });
        let Some(code) = code else { return };
        tercet_lab::end_all();
        note(&format!("interrupted; the nodes are gone, their data is in {}", dir.display()));
        std::process::exit(code);
    });
    Ok(())
}

/// `1..1000`: both included.
fn parse_seeds(text: &str) -> anyhow::Result<std::ops::RangeInclusive<u64>> {
    let parsed = text.split_once("..").and_then(|(first, last)| {
        Some((first.parse::<u64>().ok()?, last.trim_start_matches('=').parse::<u64>().ok()?))
    });
    match parsed {
        Some((first, last)) if first <= last => Ok(first..=last),
        Some(_) | None => Err(usage(format!("--seeds {text}: it is A..B, such as 1..1000"))),
    }
}

fn simulate(job: &Job<'_>, until: Option<usize>, watch: bool) -> anyhow::Result<Report> {
    let script = &job.loaded.script;
    let mut tell = |progress: Progress| {
        if watch {
            show(&progress);
        }
    };
    tercet_lab::run(script, until, || SimBackend::new(script, job.seed), &mut tell)
        .map_err(|error| anyhow::anyhow!("{}: {error}", job.loaded.name))
}

/// Many runs on all cores; what fails is told as it comes, at most a few.
fn run_many(jobs: &[Job<'_>], until: Option<usize>, json: bool) -> anyhow::Result<(usize, usize)> {
    const SHOWN: usize = 5;
    let next = AtomicUsize::new(0);
    let failed = AtomicUsize::new(0);
    let bar = output::progress(jobs.len() as u64, "running");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || -> anyhow::Result<()> {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let report = simulate(job, until, false)?;
                bar.inc(1);
                if !report.passed() && failed.fetch_add(1, Ordering::Relaxed) < SHOWN {
                    bar.suspend(|| tell(job, &report, json))?;
                } else if json {
                    tell(job, &report, json)?;
                }
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a run panicked: see above"))??;
        }
        anyhow::Ok(())
    })?;
    bar.finish_and_clear();
    Ok((jobs.len(), failed.into_inner()))
}

fn show(progress: &Progress) {
    let text = match progress {
        Progress::Step { line, text } => format!("{line:>4}  {text}"),
        Progress::Event(event) => {
            format!("      {:>9} {} {}", millis(event.at), event.node, event.text)
        }
        Progress::Say(text) => format!("      “{text}”"),
        Progress::Ask { question, options, answer } => {
            format!("      ? {question} {} = {answer}", options.join(" / "))
        }
        Progress::Told(text) => format!("      {text}"),
    };
    // Whoever looks away stops nothing.
    let _ = line(text);
}

fn millis(at: Duration) -> String {
    format!("{:.1} ms", at.as_secs_f64() * 1000.0)
}

/// Says how a run ended.
fn tell(job: &Job<'_>, report: &Report, json: bool) -> anyhow::Result<()> {
    let name = &job.loaded.name;
    if json {
        let failures: Vec<_> = report
            .failures
            .iter()
            .map(|failure| {
                json!({"branch": failure.branch, "line": failure.line, "step": failure.step, "found": failure.found})
            })
            .collect();
        line(
            json!({"script": name, "seed": job.seed, "passed": report.passed(), "checked": report.checked, "failures": failures})
                .to_string(),
        )?;
        return Ok(());
    }
    if report.passed() {
        line(format!("ok    {name} ({} checks)", report.checked))?;
    }
    for failure in &report.failures {
        tell_failure(job, failure)?;
    }
    Ok(())
}

fn tell_failure(job: &Job<'_>, failure: &Failure) -> anyhow::Result<()> {
    let name = &job.loaded.name;
    let branch = failure.branch.as_ref().map_or(String::new(), |name| format!(", branch {name}"));
    line(format!("FAILED {name}:{} (seed {}{branch})", failure.line, job.seed))?;
    line(format!("  expected: {}", failure.step))?;
    line(format!("  found:    {}", failure.found))?;
    for view in &failure.views {
        let state = if view.up { view.role.to_string() } else { "down".to_owned() };
        line(format!(
            "  {} {state} @{} commit={} log = {}",
            view.node,
            view.term,
            view.commit,
            view.log_text()
        ))?;
    }
    line("  last events:")?;
    for event in &failure.events {
        line(format!("    {:>9} {} {}", millis(event.at), event.node, event.text))?;
    }
    line(format!("  again: tercet lab run {name} --seeds {0}..{0} --watch", job.seed))?;
    Ok(())
}
