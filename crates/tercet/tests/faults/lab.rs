//! The lab on real processes, as a person and as a script use it: scenarios, the shell in a
//! terminal, recording, and what is refused.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tercet_testkit::cluster::free_ports;

use crate::{TERCET, has, not_run, on_three};

/// How long the shell may take to say something.
const PATIENCE: Duration = Duration::from_secs(30);

/// The five of the lab class, and more. (`election` has a pause of 30 s: it is run shorter.)
const SCENARIOS: [&str; 15] = [
    "leader-change",
    "leader-crash-divergent-logs",
    "log-deleted-trust",
    "rejoin-rounds",
    "split-vote",
    "rivals",
    "quorum-and-no-quorum",
    "best-log-wins",
    "figure-7",
    "figure-8",
    "zombie-leader",
    "lost-reply",
    "log-deleted",
    "log-deleted-while-running",
    "torn-tail",
];

fn lab(arguments: &[&str]) -> Output {
    Command::new(TERCET).arg("lab").args(arguments).output().expect("the program starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn scenarios_on_real_processes() {
    let mut arguments = vec!["run"];
    arguments.extend(SCENARIOS);
    let simulated = lab(&arguments);
    let said = text(&simulated.stdout);
    assert!(simulated.status.success(), "{said}");
    assert!(said.contains("15 runs in the simulator all passed"), "{said}");
    arguments.push("--real");
    let real = lab(&arguments);
    let said = text(&real.stdout);
    assert!(real.status.success(), "{said}\n{}", text(&real.stderr));
    for name in SCENARIOS {
        let mark = format!("ok    {name} (");
        assert!(said.contains(&mark), "{name}: {said}");
    }
    let election = lab(&["run", "election", "--real", "--scale", "0.1"]);
    assert!(election.status.success(), "{}", text(&election.stdout));
}

/// What cannot be run is refused before anything starts, with the place.
#[test]
fn what_is_no_script_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("bad.lab");
    fs::write(&file, "title \"x\"\ncluster n1 n2 n3\ncrsh n1\n").expect("it can be written");
    let name = file.display().to_string();
    for command in [&["run", &name][..], &["run", &name, "--real"], &["check", &name]] {
        let refused = lab(command);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains(":3:1"), "{said}");
        assert!(said.contains("did you mean \"crash\"") || said.contains("Did you mean"), "{said}");
    }
    let unknown = lab(&["run", "no-such-scenario"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("tercet lab list"), "{}", text(&unknown.stderr));
}

/// A run that fails says where, leaves a trace, and the trace opens at that point.
#[test]
fn a_failure_leaves_a_trace() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("wrong.lab");
    fs::write(
        &file,
        "title \"x\" cite \"y\"\ncluster n1 n2 n3 profile=paper timers=manual\nelect n1 win\n\
         submit a -> ok\nexpect n1 commit=7\n",
    )
    .expect("it can be written");
    let report = dir.path().join("report.xml").display().to_string();
    let failed = Command::new(TERCET)
        .args(["lab", "run"])
        .arg(&file)
        .args(["--junit", &report])
        .env("TMPDIR", dir.path())
        .output()
        .expect("the program starts");
    let said = text(&failed.stdout);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains(":5 (seed 1)") && said.contains("found:    n1 commit=1"), "{said}");
    let junit = fs::read_to_string(&report).expect("it was written");
    assert!(junit.contains("failures=\"1\"") && junit.contains("n1 commit=1"), "{junit}");
    let trace = dir.path().join("tercet-wrong-seed1.trace").display().to_string();
    let shown = lab(&["show", &trace]);
    let said = text(&shown.stdout);
    assert!(said.contains("FAILED at line 5") && said.contains("n1 leader in term 1"), "{said}");
}

/// Ctrl-C in the middle of a real run: no process is left, and it says where the data is.
#[test]
fn an_interrupted_run_leaves_no_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(TERCET)
        .args(["lab", "run", "election", "--real", "--keep"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let begun = Instant::now();
    while processes_of(dir.path()) < 3 {
        assert!(begun.elapsed() < PATIENCE, "three nodes start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::INT).expect("it runs");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("it writes");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains(&dir.path().display().to_string()), "{said}");
    assert_eq!(processes_of(dir.path()), 0, "no node outlives the run");
}

/// How many processes have this directory on their command line, the run itself not counted.
pub(crate) fn processes_of(dir: &Path) -> usize {
    let dir = format!("--data={}", dir.display());
    let command = |entry: std::io::Result<fs::DirEntry>| {
        fs::read(entry.ok()?.path().join("cmdline")).ok().map(|bytes| text(&bytes))
    };
    let entries = fs::read_dir("/proc").expect("there is /proc");
    entries.filter_map(command).filter(|line| line.contains(&dir)).count()
}

// --- the shell ---

fn dev_lab(dir: &Path) -> Vec<String> {
    // Ports in a row: the first of six that are free together.
    let first = loop {
        let ports = free_ports(6).expect("there are ports");
        if ports.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            break ports[0];
        }
    };
    vec![
        "dev".to_owned(),
        "--lab".to_owned(),
        format!("--dir={}", dir.display()),
        format!("--client-port={first}"),
        format!("--peer-port={}", first + 3),
    ]
}

/// What is typed is written down, and makes a script that passes.
#[test]
fn what_was_typed_becomes_a_script() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("my.lab");
    let picture = dir.path().join("my.svg");
    let lines = format!(
        "record start\nsubmit a b\n1\nlogs\n3\nx\nh\n4\n\nwhy\nsave {}\ncrsh n1\nundo\nexport svg {}\n\
         profile paper\nn\nprofile paper\ny\nsubmit p -> ok\nsettle\nexpect logs all equal\nlogs\nquit\n",
        script.display(),
        picture.display()
    );
    let mut child = Command::new(TERCET)
        .args(dev_lab(&dir.path().join("data")))
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "two lines were wrong: {said}\n{errors}");
    assert!(errors.contains("Did you mean \"crash\"?"), "{errors}");
    assert!(errors.contains("what real nodes did cannot be undone"), "{errors}");
    assert_eq!(errors.matches("error:").count(), 2, "{errors}");
    assert!(said.contains("the nodes go on as they are"), "{said}");
    assert!(said.contains("the nodes run as paper now, with the data that they had"), "{said}");
    let picture = fs::read_to_string(&picture).expect("it was written");
    assert!(picture.contains("isolate $L") && picture.contains("leader in term"), "{picture}");
    for expected in
        ["leads now", "x is only on ", "holds everything again", "it passes in the simulator"]
    {
        assert!(said.contains(expected), "{expected}: {said}\n{errors}");
    }
    let again = lab(&["run", &script.display().to_string()]);
    assert!(again.status.success(), "{}", text(&again.stdout));
}

/// A terminal: a pty with the shell behind it.
pub(crate) struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Receiver<String>,
    seen: String,
}

impl Terminal {
    pub(crate) fn open(arguments: &[String]) -> anyhow::Result<Self> {
        let command = format!("{TERCET} {}", arguments.join(" "));
        let mut child = Command::new("script")
            .args(["-qfec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let keys = child.stdin.take().context("piped")?;
        let mut stdout = child.stdout.take().context("piped")?;
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = stdout.read(&mut buffer) {
                if read == 0 || sender.send(text(&buffer[..read])).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, keys, screen, seen: String::new() })
    }

    pub(crate) fn press(&mut self, keys: &str) -> anyhow::Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    /// Waits until the program ends.
    pub(crate) fn end(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Waits until something stands on the screen behind what was seen before.
    pub(crate) fn await_text(&mut self, expected: &str) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(expected) {
                self.seen.drain(..at + expected.len());
                return Ok(());
            }
            match self.screen.recv_timeout(Duration::from_millis(100)) {
                Ok(more) => self.seen.push_str(&more),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    anyhow::bail!("it ended before it said {expected:?}: {}", self.seen)
                }
            }
            ensure!(Instant::now() < end, "it never said {expected:?}: {}", self.seen);
        }
    }
}

/// A person at a terminal: completion, the menu, a crash and a restart, Ctrl-D.
#[test]
fn the_shell_in_a_terminal() {
    if !has("script") {
        return not_run("the_shell_in_a_terminal", "script (bsdutils) is not installed");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let play = || -> anyhow::Result<()> {
        let mut terminal = Terminal::open(&dev_lab(&dir.path().join("data")))?;
        terminal.await_text(" leads (term ")?;
        terminal.await_text("lab> ")?;
        // Tab completes the word.
        terminal.press("subm\t a b\r")?;
        terminal.await_text("b: ok")?;
        terminal.await_text("lab> ")?;
        terminal.press("menu\r")?;
        terminal.await_text("delete a follower's log file")?;
        terminal.await_text("lab> ")?;
        terminal.press("2\r")?;
        terminal.await_text("values")?;
        terminal.press("c d\r")?;
        terminal.await_text("d: ok")?;
        terminal.await_text("lab> ")?;
        terminal.press("crash n1\r")?;
        terminal.await_text("lab> ")?;
        // Only a node that is down is offered.
        terminal.press("restart \t\r")?;
        terminal.await_text("restart n1")?;
        terminal.await_text("lab> ")?;
        terminal.press("settle\r")?;
        terminal.await_text("lab> ")?;
        terminal.press("expect logs all equal\r")?;
        terminal.await_text("lab> ")?;
        terminal.press("\u{4}")?;
        terminal.await_text("stopping the nodes")?;
        let status = terminal.end()?;
        ensure!(status.success(), "{status}");
        Ok(())
    };
    if let Err(error) = play() {
        panic!("{error:#}");
    }
    for id in 1..=3 {
        let values = fs::read_to_string(dir.path().join(format!("data/n{id}/values.log")));
        assert_eq!(values.expect("it is there"), "write a\nwrite b\nwrite c\nwrite d\n", "n{id}");
    }
}

/// Nodes without `--lab` let nobody cut or freeze them.
#[test]
fn a_shell_needs_a_lab() {
    on_three("a_shell_needs_a_lab", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        let refused =
            Command::new(TERCET).args(["sh", "--node", &cluster.addresses().join(",")]).output()?;
        ensure!(!refused.status.success(), "a shell over nodes without a lab");
        let said = text(&refused.stderr);
        ensure!(said.contains("runs without --lab"), "{said}");
        Ok(())
    });
}
