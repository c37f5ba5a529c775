//! The peers' programs and processes.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

/// A program, and where its nodes keep their data.
pub(crate) struct Peer {
    pub(crate) program: PathBuf,
    pub(crate) dir: PathBuf,
}

/// A program by the name given, or in PATH; otherwise how to get it.
pub(crate) fn find(name: &str, given: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(given) = given {
        return if given.is_file() {
            given.canonicalize().map_err(|error| format!("{}: {error}", given.display()))
        } else {
            Err(format!("{} is not there", given.display()))
        };
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not in PATH: see --help for where to get it"))
}

/// Processes that end with this value, and the commands that start them again.
pub(crate) struct Processes(Vec<(Command, Child)>);

impl Processes {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Starts one; what it says goes into a file beside its data.
    pub(crate) fn start(&mut self, mut command: Command, log: &Path) -> anyhow::Result<()> {
        let log = File::create(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn(&mut command)?;
        self.0.push((command, child));
        Ok(())
    }

    /// Kills one as by `kill -9`; it is gone afterwards.
    pub(crate) fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.0[number].1.kill()?;
        self.0[number].1.wait()?;
        Ok(())
    }

    /// The same for all, without waiting between them.
    pub(crate) fn kill_all(&mut self) -> anyhow::Result<()> {
        for (_, child) in &mut self.0 {
            child.kill()?;
        }
        for (_, child) in &mut self.0 {
            child.wait()?;
        }
        Ok(())
    }

    /// Starts one that was killed.
    pub(crate) fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        let (command, child) = &mut self.0[number];
        *child = spawn(command)?;
        Ok(())
    }

    /// The memory that each has, in MiB: `VmRSS`.
    pub(crate) fn memory(&self) -> anyhow::Result<Vec<f64>> {
        let of = |(_, child): &(Command, Child)| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.context("a process has ended")?.trim().trim_end_matches(" kB");
            Ok(kib.parse::<f64>()? / 1024.0)
        };
        self.0.iter().map(of).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    let program = command.get_program().to_owned();
    command.spawn().with_context(|| format!("{} cannot be started", program.display()))
}

/// The nodes of one system. With this value they end, and then their data is deleted.
pub(crate) struct Cluster {
    pub(crate) processes: Processes,
    /// Where each has its clients.
    pub(crate) ports: Vec<u16>,
    pub(crate) dir: TempDir,
}

/// Ports that are free now, each handed out once. They lie below those that the kernel gives to
/// connections: whoever tries to reach a node that is down could otherwise get its port.
pub(crate) fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Two comparisons at once begin at different ports.
    let first = 10_000 + u16::try_from(std::process::id() % 20_000)?;
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = first + TAKEN.fetch_add(1, Ordering::Relaxed);
        ensure!(port < 32_768, "no ports are free");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// Tries again until it works.
pub(crate) async fn until<T, F: Future<Output = anyhow::Result<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > Duration::from_secs(30) => {
                return Err(error.context(format!("{what}: not within 30 s")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The machine, for the table's foot.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} cores ({}), Linux {}",
        model.trim_start_matches(['\t', ' ', ':']),
        kernel.trim()
    )
}
