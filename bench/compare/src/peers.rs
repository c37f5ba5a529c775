//! The peers' programs and processes.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

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

/// Processes that end with this value.
pub(crate) struct Processes(Vec<Child>);

impl Processes {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Starts one; what it says goes into a file beside its data.
    pub(crate) fn start(&mut self, command: &mut Command, log: &Path) -> anyhow::Result<()> {
        let log = File::create(log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        self.0.push(child);
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ports that are free now; all are held until each is known, so that none comes twice.
pub(crate) fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    Ok(held.iter().map(port).collect::<Result<_, _>>()?)
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
