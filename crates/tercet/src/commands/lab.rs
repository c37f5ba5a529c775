//! `tercet lab`: scripts are listed, shown, checked and run.

use std::fs;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::json;
use tercet_lab::ast::{Requires, Script, World};
use tercet_lab::diagram::Format;
use tercet_lab::{
    Failure, Processes, Progress, RealBackend, RealOptions, Report, SimBackend, library, lint,
    parse,
};

use super::lab_hosts;
use super::play::play;
use super::trace::{self, Trace};
use crate::args::{LabCommand, LabRunArgs, Real};
use crate::output::{self, line, note};

/// A script that was found and parsed.
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) script: Script,
}

pub(crate) fn run(command: LabCommand, json: bool) -> anyhow::Result<u8> {
    match command {
        LabCommand::List => list(json),
        LabCommand::Show { name, draw_as: Some(format), branch, .. } => {
            draw(&name, branch.as_deref(), format)
        }
        LabCommand::Show { name, whole, .. } if is_trace(&name) => {
            trace::show(Path::new(&name), whole)?;
            Ok(0)
        }
        LabCommand::Play { name, pace } => play_script(&name, pace),
        LabCommand::Show { name, .. } => {
            line(read(&name)?.1.trim_end())?;
            Ok(0)
        }
        LabCommand::Check { scripts } => check(&scripts, json),
        LabCommand::Run(args) => run_scripts(&args, json),
        LabCommand::Agent { listen, dir, silence } => {
            let silence = crate::config::parse_time(&silence)
                .map_err(|why| usage(format!("--silence: {why}")))?;
            lab_hosts::agent(listen, dir, silence)
        }
    }
}

fn is_trace(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "trace")
}

fn play_script(name: &str, pace: f64) -> anyhow::Result<u8> {
    if !(0.0..=100.0).contains(&pace) {
        return Err(usage("--pace is a number from 0 to 100"));
    }
    let pace = if std::io::stdout().is_terminal() { pace } else { 0.0 };
    let say = |text: &str| {
        // Whoever looks away stops nothing.
        let _ = line(text);
    };
    let ask = |prompt: &str| {
        note(prompt);
        let mut given = String::new();
        let read = std::io::stdin().lock().read_line(&mut given).ok();
        read.filter(|read| *read > 0).map(|_| given)
    };
    Ok(u8::from(!play(name, pace, say, ask)?))
}

/// A saved trace, or a scenario as it runs in the simulator, as a diagram.
fn draw(name: &str, branch: Option<&str>, format: Format) -> anyhow::Result<u8> {
    if is_trace(name) {
        trace::draw_file(Path::new(name), branch, format)?;
        return Ok(0);
    }
    let loaded = load(name)?;
    let job = Job { loaded: &loaded, seed: loaded.script.header.seed };
    let (_, trace) = simulate(&job, None, None)?;
    trace::draw(&loaded.script.header.title, &trace, branch, format)?;
    Ok(0)
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

pub(super) fn load(name: &str) -> anyhow::Result<Loaded> {
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
    if args.real.is_some() {
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
    let mut suite = JUnit::default();
    let (reports, failed) = if args.watch || jobs.len() < 8 || args.junit.is_some() {
        let mut failed = 0;
        for job in &jobs {
            let begun = Instant::now();
            let (mut report, trace) = simulate(job, args.until, words_of(args))?;
            if args.update {
                update_golden(&job.loaded.name, &report)?;
            } else if seeds.is_none() && args.until.is_none() {
                report.check_golden(&job.loaded.script);
            }
            failed += usize::from(!report.passed());
            suite.note(job, &report, begun.elapsed());
            tell(job, &report, json)?;
            tell_trace(job, &report, &trace)?;
        }
        (jobs.len(), failed)
    } else {
        run_many(&jobs, args.until, json)?
    };
    if let Some(file) = &args.junit {
        suite.write(file)?;
    }
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
    let is_real = |loaded: &&Loaded| !matches!(&loaded.script.header.requires, Some(requires) if requires.world == World::Sim);
    let needed: Vec<(String, u8)> = loaded
        .iter()
        .filter(is_real)
        .map(|loaded| (loaded.name.clone(), loaded.script.header.nodes))
        .collect();
    let agents = match &args.real {
        Some(Real::Hosts(_)) if args.keep.is_some() => {
            return Err(usage(
                "--keep is for this machine: agents keep what they ran in their --dir",
            ));
        }
        Some(Real::Hosts(path)) => Some(lab_hosts::agents(path, &needed)?),
        Some(Real::Here) | None => None,
    };
    let options = RealOptions {
        scale: args.scale,
        token: lab_hosts::token(),
        patience: crate::config::parse_time(&args.patience).map_err(usage)?,
        ..RealOptions::default()
    };
    let program = std::env::current_exe().context("this program cannot be found again")?;
    let place = match &args.keep {
        Some(dir) => Place::Kept(dir.clone()),
        None => Place::Temporary(tempfile::Builder::new().prefix("tercet-lab-").tempdir()?),
    };
    let dir = place.path().display().to_string();
    // The runs' names on the machines of the agents, which no other caller has.
    let tag = format!("{}-{}", begun_ms(), std::process::id());
    let under_way = Arc::new(Mutex::new(None::<String>));
    let (at_signal, agents_at_signal) = (Arc::clone(&under_way), agents.clone());
    crate::dev::on_signal(move |code| {
        tercet_lab::end_all();
        if let Some(agents) = agents_at_signal {
            let run = at_signal.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match run {
                Some(run) => {
                    agents.stop(&run, false);
                    note(&format!(
                        "interrupted; the nodes are gone, their data is with the agents, as {run}"
                    ));
                }
                None => note("interrupted; no node was started yet"),
            }
            std::process::exit(code);
        }
        note(&format!("interrupted; the nodes are gone, their data is in {dir}"));
        std::process::exit(code);
    })?;
    let begun = Instant::now();
    let mut suite = JUnit::default();
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
                if let Some(agents) = &agents {
                    let run = format!("{tag}-run{runs}-{branch}");
                    *under_way.lock().unwrap_or_else(PoisonError::into_inner) = Some(run.clone());
                    let processes = agents.begin(&run, loaded.script.header.nodes)?;
                    return RealBackend::new(&loaded.script, processes, options.clone());
                }
                let dir = place.path().join(format!("run{runs}-{branch}"));
                let processes = Processes::new(program.clone(), dir, loaded.script.header.nodes)?;
                RealBackend::new(&loaded.script, processes, options.clone())
            };
            let mut trace = Trace::default();
            let begun = Instant::now();
            let mut tell_progress = |progress: Progress| {
                if let Some(words) = words_of(args) {
                    show(&progress, words);
                }
                trace.note(&progress);
            };
            let report = tercet_lab::run(&loaded.script, args.until, world, &mut tell_progress)
                .map_err(|error| anyhow::anyhow!("{}: {error}", loaded.name))?;
            failed += usize::from(!report.passed());
            if let Some(agents) = agents.as_ref().filter(|_| report.passed()) {
                for branch in 1..=branch {
                    agents.stop(&format!("{tag}-run{runs}-{branch}"), true);
                }
            }
            let job = Job { loaded, seed: loaded.script.header.seed };
            suite.note(&job, &report, begun.elapsed());
            tell(&job, &report, json)?;
            tell_trace(&job, &report, &trace)?;
        }
    }
    if let Some(file) = &args.junit {
        suite.write(file)?;
    }
    if failed > 0 && agents.is_some() {
        note(&format!("the nodes' data and logs are kept with the agents, as {tag}-…"));
    } else if failed > 0
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

fn begun_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
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

/// `1..1000`: both included.
pub(super) fn parse_seeds(text: &str) -> anyhow::Result<std::ops::RangeInclusive<u64>> {
    let parsed = text.split_once("..").and_then(|(first, last)| {
        Some((first.parse::<u64>().ok()?, last.trim_start_matches('=').parse::<u64>().ok()?))
    });
    match parsed {
        Some((first, last)) if first <= last => Ok(first..=last),
        Some(_) | None => Err(usage(format!("--seeds {text}: it is A..B, such as 1..1000"))),
    }
}

/// Runs a script in the simulator, with a trace of what happened.
fn simulate(
    job: &Job<'_>,
    until: Option<usize>,
    watch: Option<Words>,
) -> anyhow::Result<(Report, Trace)> {
    let mut trace = Trace::default();
    let mut tell = |progress: Progress| {
        if let Some(words) = watch {
            show(&progress, words);
        }
        trace.note(&progress);
    };
    let report = simulate_with(job, until, &mut tell)?;
    Ok((report, trace))
}

fn simulate_with(
    job: &Job<'_>,
    until: Option<usize>,
    tell: &mut dyn FnMut(Progress),
) -> anyhow::Result<Report> {
    let script = &job.loaded.script;
    tercet_lab::run(script, until, || SimBackend::new(script, job.seed), tell)
        .map_err(|error| anyhow::anyhow!("{}: {error}", job.loaded.name))
}

/// A run that failed leaves a trace.
fn tell_trace(job: &Job<'_>, report: &Report, trace: &Trace) -> anyhow::Result<()> {
    if !report.passed() {
        let path = trace.write(&job.loaded.name, job.seed, &report.failures)?;
        note(&format!("  trace: tercet lab show {}", path.display()));
    }
    Ok(())
}

/// Puts what happened behind the `---` of a script's file.
fn update_golden(name: &str, report: &Report) -> anyhow::Result<()> {
    if !Path::new(name).is_file() {
        return Err(usage(format!("--update {name}: only a file can be written")));
    }
    let text = fs::read_to_string(name)?;
    let steps = text.split("\n---\n").next().unwrap_or(&text).trim_end();
    fs::write(name, format!("{steps}\n---\n{}", report.golden()))
        .with_context(|| format!("{name} cannot be written"))
}

/// Results in the form that build servers read.
#[derive(Default)]
struct JUnit {
    cases: String,
    count: usize,
    failed: usize,
}

impl JUnit {
    fn note(&mut self, job: &Job<'_>, report: &Report, took: Duration) {
        let escaped = |text: &str| {
            text.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
                .replace('"', "&quot;")
        };
        self.count += 1;
        self.cases.push_str(&format!(
            "  <testcase name=\"{} (seed {})\" time=\"{:.3}\">",
            escaped(&job.loaded.name),
            job.seed,
            took.as_secs_f64()
        ));
        self.failed += usize::from(!report.passed());
        for failure in &report.failures {
            self.cases.push_str(&format!(
                "<failure message=\"line {}: {}\">{}</failure>",
                failure.line,
                escaped(&failure.step),
                escaped(&failure.found)
            ));
        }
        self.cases.push_str("</testcase>\n");
    }

    fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"tercet lab\" tests=\"{}\" failures=\"{}\">\n{}</testsuite>\n",
            self.count, self.failed, self.cases
        );
        fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
    }
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
                let report = simulate_with(job, until, &mut |_| {})?;
                bar.inc(1);
                if !report.passed() && failed.fetch_add(1, Ordering::Relaxed) < SHOWN {
                    // The same once more, with a trace.
                    let (report, trace) = simulate(job, until, None)?;
                    bar.suspend(|| {
                        tell(job, &report, json)?;
                        tell_trace(job, &report, &trace)
                    })?;
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

/// In which words events are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    Own,
    /// Those of a lab class, and nothing that such a class has no sentence for.
    Classic,
}

fn words_of(args: &LabRunArgs) -> Option<Words> {
    args.watch.then_some(if args.classic { Words::Classic } else { Words::Own })
}

fn show(progress: &Progress, words: Words) {
    let text = match progress {
        Progress::Step { line, text } => format!("{line:>4}  {text}"),
        Progress::Event(event) => {
            let own = (words == Words::Own).then_some(&event.text);
            let Some(text) = own.or(event.classic.as_ref()) else { return };
            format!("      {:>9} {} {text}", millis(event.at), event.node)
        }
        Progress::Say(text) => format!("      “{text}”"),
        Progress::Ask { question, options, answer } => {
            format!("      ? {question} {} = {answer}", options.join(" / "))
        }
        Progress::Told(text) => format!("      {text}"),
        Progress::Answered { value, text, .. } => format!("      {value}: {text}"),
        Progress::Begin { branch: Some(branch), .. } => format!("branch {branch}"),
        Progress::Begin { branch: None, .. } => return,
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
