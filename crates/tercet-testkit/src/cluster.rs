//! A cluster of real node processes on this machine.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tercet_client::{Client, v1};
pub use tercet_lab::free_ports;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::checker::{self, History, Violation};
use crate::told::Told;

/// How long a cluster may take to heal.
const HEAL: Duration = Duration::from_secs(30);

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// Arguments for every node's `serve`.
    pub arguments: Vec<String>,
    /// The name under which the test can be repeated.
    pub repeat: String,
}

impl Options {
    /// Three nodes.
    pub fn three(repeat: impl Into<String>) -> Self {
        Self { nodes: 3, arguments: Vec::new(), repeat: repeat.into() }
    }
}

/// How one node is started.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// A command that runs the node's command: `strace …`.
    pub through: Vec<String>,
    /// More arguments for `serve`.
    pub arguments: Vec<String>,
}

/// What the judge found; see [`Cluster::judge`].
#[derive(Clone, Debug)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// How many acknowledged values do not stand where they were said to.
    pub fn lost(&self) -> usize {
        self.0.iter().filter(|violation| matches!(violation, Violation::Lost { .. })).count()
    }

    /// How many values stand there that nobody submitted, or that were refused.
    pub fn phantom(&self) -> usize {
        self.0.iter().filter(|violation| matches!(violation, Violation::Phantom { .. })).count()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} violations:", self.0.len())?;
        self.0.iter().take(10).try_for_each(|violation| write!(f, "\n{violation}"))
    }
}

impl std::error::Error for Violations {}

/// A cluster whose processes end with it. If a test panics, its directories are kept, and the
/// command that repeats it is printed.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    dir: Option<tempfile::TempDir>,
    options: Options,
    client_ports: Vec<u16>,
    peer_ports: Vec<u16>,
    children: Vec<Option<Child>>,
    runtime: Runtime,
    client: Client,
}

impl Cluster {
    /// A cluster that does not run yet.
    ///
    /// # Errors
    /// The machine gives no directory, ports or threads.
    pub fn new(program: &Path, options: Options) -> anyhow::Result<Self> {
        let count = options.nodes;
        let client_ports = free_ports(count)?;
        let peer_ports = free_ports(count)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = {
            let _inside = runtime.enter();
            Client::new(client_ports.iter().map(|port| format!("127.0.0.1:{port}")))?
        };
        Ok(Self {
            program: program.to_owned(),
            dir: Some(tempfile::Builder::new().prefix("tercet-").tempdir()?),
            client_ports,
            peer_ports,
            children: (0..count).map(|_| None).collect(),
            options,
            runtime,
            client,
        })
    }

    /// A cluster that runs and has a leader.
    ///
    /// # Errors
    /// A node does not start, or none leads in time.
    pub fn started(program: &Path, options: Options) -> anyhow::Result<Self> {
        let mut cluster = Self::new(program, options)?;
        cluster.start_all()?;
        cluster.await_leader()?;
        Ok(cluster)
    }

    /// How many nodes.
    pub const fn count(&self) -> usize {
        self.options.nodes
    }

    /// The directory that holds everything.
    ///
    /// # Panics
    /// Never while the cluster exists.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("kept until the end").path()
    }

    /// A node's data directory.
    pub fn data(&self, id: usize) -> PathBuf {
        self.dir().join(format!("n{id}"))
    }

    /// What a node has logged so far, in all its lives.
    pub fn log(&self, id: usize) -> String {
        fs::read_to_string(self.dir().join(format!("n{id}.log"))).unwrap_or_default()
    }

    /// What all nodes have logged so far, with the times.
    pub fn told(&self) -> Told {
        let logs: Vec<String> = (1..=self.count()).map(|id| self.log(id)).collect();
        Told::new(logs.iter().map(String::as_str))
    }

    /// A node's client address.
    pub fn address(&self, id: usize) -> String {
        format!("127.0.0.1:{}", self.client_ports[id - 1])
    }

    /// All client addresses.
    pub fn addresses(&self) -> Vec<String> {
        (1..=self.count()).map(|id| self.address(id)).collect()
    }

    /// A node's peer address.
    pub fn peer_address(&self, id: usize) -> String {
        format!("127.0.0.1:{}", self.peer_ports[id - 1])
    }

    /// The list of members as `serve` takes it.
    pub fn members(&self) -> String {
        let member = |id| format!("{id}={}", self.peer_address(id));
        (1..=self.count()).map(member).collect::<Vec<_>>().join(",")
    }

    /// A client of all nodes.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a client's request to its end.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Begins a client's requests, which go on beside what else is done.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(future)
    }

    /// A node's command, without its program.
    pub fn serve_arguments(&self, id: usize) -> Vec<String> {
        let mut arguments = vec![
            "serve".to_owned(),
            "--stop-with-stdin".to_owned(),
            format!("--id={id}"),
            format!("--data={}", self.data(id).display()),
            format!("--cluster={}", self.members()),
            format!("--listen={}", self.address(id)),
        ];
        arguments.extend(self.options.arguments.iter().cloned());
        arguments
    }

    /// Starts a node.
    ///
    /// # Errors
    /// The process cannot be started, or the node runs already.
    pub fn start(&mut self, id: usize) -> anyhow::Result<()> {
        self.start_with(id, &StartOptions::default())
    }

    /// Starts a node in a special way.
    ///
    /// # Errors
    /// The process cannot be started, or the node runs already.
    pub fn start_with(&mut self, id: usize, options: &StartOptions) -> anyhow::Result<()> {
        ensure!(self.children[id - 1].is_none(), "n{id} runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join(format!("n{id}.log")))?;
        let out: File = log.try_clone()?;
        let mut words = options.through.clone();
        words.push(self.program.display().to_string());
        words.extend(self.serve_arguments(id));
        words.extend(options.arguments.iter().cloned());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", words[0]))?;
        self.children[id - 1] = Some(child);
        Ok(())
    }

    /// Starts all nodes that do not run.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for id in 1..=self.count() {
            if self.children[id - 1].is_none() {
                self.start(id)?;
            }
        }
        Ok(())
    }

    /// Whether a node's process runs.
    pub fn is_running(&mut self, id: usize) -> bool {
        self.children[id - 1].as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// A node's process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self, id: usize) -> anyhow::Result<u32> {
        Ok(self.children[id - 1].as_ref().with_context(|| format!("n{id} does not run"))?.id())
    }

    /// Sends a signal to a node.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, id: usize, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid(id)?).ok().and_then(Pid::from_raw).context("a pid")?;
        kill_process(pid, signal)?;
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// It did not run.
    pub fn kill(&mut self, id: usize) -> anyhow::Result<()> {
        let mut child =
            self.children[id - 1].take().with_context(|| format!("n{id} does not run"))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until a node's process ends by itself.
    ///
    /// # Errors
    /// It does not run, or it does not end within `patience`.
    pub fn await_end(&mut self, id: usize, patience: Duration) -> anyhow::Result<ExitStatus> {
        let child =
            self.children[id - 1].as_mut().with_context(|| format!("n{id} does not run"))?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = child.try_wait()? {
                self.children[id - 1] = None;
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "n{id} still runs after {patience:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks a node to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It does not run, does not end, or not with success.
    pub fn stop(&mut self, id: usize) -> anyhow::Result<()> {
        self.signal(id, Signal::TERM)?;
        let status = self.await_end(id, HEAL)?;
        ensure!(status.success(), "n{id} ended with {status}: {}", self.last_words(id));
        Ok(())
    }

    /// Stops all nodes that run, one after the other.
    ///
    /// # Errors
    /// See [`Self::stop`].
    pub fn stop_all(&mut self) -> anyhow::Result<()> {
        for id in 1..=self.count() {
            if self.children[id - 1].is_some() {
                self.stop(id)?;
            }
        }
        Ok(())
    }

    /// Deletes the data directory of a node that is down.
    ///
    /// # Errors
    /// It runs, or the directory cannot be deleted.
    pub fn wipe(&mut self, id: usize) -> anyhow::Result<()> {
        ensure!(!self.is_running(id), "n{id} runs");
        fs::remove_dir_all(self.data(id)).with_context(|| format!("n{id} cannot be wiped"))
    }

    /// The last lines that a node logged.
    pub fn last_words(&self, id: usize) -> String {
        let log = self.log(id);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// What a node says of itself.
    pub fn status(&self, id: usize) -> Option<v1::StatusResponse> {
        self.statuses().into_iter().nth(id - 1).flatten()
    }

    /// What all nodes say of themselves.
    pub fn statuses(&self) -> Vec<Option<v1::StatusResponse>> {
        let statuses = self.run(async { self.client.statuses().await });
        statuses.into_iter().map(|(_, status)| status.ok()).collect()
    }

    /// Waits until something is true of what the nodes say; `what` names it.
    ///
    /// # Errors
    /// It does not come true in time.
    pub fn await_statuses(
        &self,
        what: &str,
        mut holds: impl FnMut(&[Option<v1::StatusResponse>]) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + HEAL;
        loop {
            let statuses = self.statuses();
            if holds(&statuses) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not within {HEAL:?}: {what}. {}", summary(&statuses));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a node leads and has committed in its term. Says which.
    ///
    /// # Errors
    /// None does in time.
    pub fn await_leader(&self) -> anyhow::Result<usize> {
        let mut leader = 0;
        self.await_statuses("a node leads", |statuses| {
            let leads =
                |status: &&v1::StatusResponse| status.role == "leader" && status.commit_index > 0;
            // An old leader that does not know of a newer one may still say that it leads.
            let found = statuses.iter().flatten().filter(leads).max_by_key(|status| status.term);
            leader = found.map_or(0, |status| usize::try_from(status.node).expect("small"));
            leader > 0
        })?;
        Ok(leader)
    }

    /// Waits until all nodes run, vote, and have applied the same.
    ///
    /// # Errors
    /// They do not in time.
    pub fn await_healed(&self) -> anyhow::Result<()> {
        self.await_statuses("all nodes are up, vote and hold the same", |statuses| {
            let Some(Some(first)) = statuses.first() else {
                return false;
            };
            statuses.iter().any(|s| s.as_ref().is_some_and(|s| s.role == "leader"))
                && statuses.iter().all(|status| {
                    status.as_ref().is_some_and(|status| {
                        matches!(status.role.as_str(), "leader" | "follower")
                            && status.problems.is_empty()
                            && status.applied_index == first.applied_index
                            && status.applied_index == status.last_index
                    })
                })
        })
    }

    /// What stands in every node's `values.log`, when they have come to agree.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn values(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + HEAL;
        // The file follows the log some milliseconds later.
        let applied = self.statuses().into_iter().flatten().map(|status| status.next_seq).max();
        let lines = applied.map_or(0, |next_seq| next_seq.saturating_sub(1));
        loop {
            let read = |id| {
                let path = self.data(id).join("values.log");
                fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
            };
            let files = (1..=self.count()).map(read).collect::<anyhow::Result<Vec<_>>>()?;
            let is_whole = files[0].iter().filter(|byte| **byte == b'\n').count() as u64 >= lines;
            let agree = files.iter().all(|file| *file == files[0]);
            if (agree && is_whole) || Instant::now() > deadline {
                return Ok(files);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends a test: all nodes come up and agree, the judge finds nothing, and after a clean stop
    /// every checksum on every disk is right.
    ///
    /// # Errors
    /// What is wrong: [`Violations`] if it is the history.
    pub fn judge(&mut self, history: &History) -> anyhow::Result<()> {
        self.start_all()?;
        self.await_healed()?;
        let files = self.values()?;
        let violations = checker::check(history, &files);
        if !violations.is_empty() {
            return Err(Violations(violations).into());
        }
        self.stop_all()?;
        let dirs: Vec<PathBuf> = (1..=self.count()).map(|id| self.data(id)).collect();
        let verified = Command::new(&self.program).arg("verify").args(&dirs).output()?;
        ensure!(
            verified.status.success(),
            "verify: {}{}",
            String::from_utf8_lossy(&verified.stdout),
            String::from_utf8_lossy(&verified.stderr)
        );
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().filter_map(Option::take) {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            let kept = dir.keep();
            eprintln!("kept for you: {} (data, and nN.log of each node)", kept.display());
            eprintln!("repeat it:    {}", self.options.repeat);
        }
    }
}

fn summary(statuses: &[Option<v1::StatusResponse>]) -> String {
    let one = |(status, id): (&Option<v1::StatusResponse>, usize)| match status {
        None => format!("n{id}: no answer"),
        Some(status) => format!(
            "n{id}: {} in term {}, log {}, durable {}, applied {} {:?}",
            status.role,
            status.term,
            status.last_index,
            status.durable_index,
            status.applied_index,
            status.problems
        ),
    };
    statuses.iter().zip(1..).map(one).collect::<Vec<_>>().join("; ")
}
