//! The node processes of `tercet dev`: started, killed, restarted, stopped.
//!
//! Each child holds the reading end of a pipe as its standard input and stops when that ends: so
//! that no node outlives this process, however it ends.

use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::args::DevArgs;
use crate::output::{self, Failure};

/// How long a node may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(10);

/// The processes are the prompt's, and the signal handler's when the prompt is busy.
pub(crate) type SharedSupervisor = Arc<Mutex<Supervisor>>;

/// Whoever panicked while holding it changed nothing that the processes depend on.
pub(crate) fn lock(shared: &SharedSupervisor) -> MutexGuard<'_, Supervisor> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    dir: PathBuf,
    program: PathBuf,
    client_ports: Vec<u16>,
    peer_ports: Vec<u16>,
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    child: Option<Child>,
}

/// The ports of clients and of peers, which nobody else uses.
pub(crate) fn check_ports(args: &DevArgs) -> anyhow::Result<(Vec<u16>, Vec<u16>)> {
    let in_a_row = |first: u16, flag: &str| {
        (0..u16::from(args.nodes))
            .map(|offset| {
                let port = first
                    .checked_add(offset)
                    .ok_or_else(|| Failure::new(2, format!("{flag} {first} is too high")))?;
                if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                    let text = format!(
                        "port {port} cannot be used: {error}. Is another `tercet dev` running? Stop it, or choose other ports \
                         with {flag}"
                    );
                    return Err(Failure::new(10, text).into());
                }
                Ok(port)
            })
            .collect::<anyhow::Result<Vec<u16>>>()
    };
    Ok((in_a_row(args.client_port, "--client-port")?, in_a_row(args.peer_port, "--peer-port")?))
}

impl Supervisor {
    /// A cluster that keeps its data in `dir`, and has a node for each pair of ports.
    pub(crate) fn new(
        dir: PathBuf,
        client_ports: Vec<u16>,
        peer_ports: Vec<u16>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program cannot be found again")?;
        fs::create_dir_all(&dir)
            .with_context(|| format!("{}: cannot be made. Give another --dir", dir.display()))?;
        let nodes = client_ports.iter().map(|_| Node::default()).collect();
        Ok(Self { dir, program, client_ports, peer_ports, nodes })
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn client_addresses(&self) -> Vec<String> {
        self.client_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    pub(crate) fn data(&self, id: usize) -> PathBuf {
        self.dir.join(format!("n{id}"))
    }

    fn log(&self, id: usize) -> PathBuf {
        self.dir.join(format!("n{id}.log"))
    }

    pub(crate) fn data_pattern(&self) -> String {
        format!(
            "{}   (try: cat {})",
            self.dir.join("n*").display(),
            self.dir.join("n*/values.log").display()
        )
    }

    pub(crate) fn is_running(&mut self, id: usize) -> bool {
        let Some(child) = &mut self.nodes[id - 1].child else {
            return false;
        };
        matches!(child.try_wait(), Ok(None))
    }

    pub(crate) fn start_all(&mut self) -> anyhow::Result<()> {
        (1..=self.count()).try_for_each(|id| self.start(id))
    }

    pub(crate) fn start(&mut self, id: usize) -> anyhow::Result<()> {
        let peer = |id: usize| format!("{id}=127.0.0.1:{}", self.peer_ports[id - 1]);
        let cluster: Vec<String> = (1..=self.count()).map(peer).collect();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(id))
            .with_context(|| format!("{}: cannot be written", self.log(id).display()))?;
        let out: File = log.try_clone()?;
        let child = Command::new(&self.program)
            .arg("serve")
            .args(["--id", &id.to_string()])
            .arg("--data")
            .arg(self.data(id))
            .args(["--cluster", &cluster.join(",")])
            .args(["--listen", &format!("127.0.0.1:{}", self.client_ports[id - 1])])
            .arg("--stop-with-stdin")
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{}: cannot be started", self.program.display()))?;
        self.nodes[id - 1].child = Some(child);
        Ok(())
    }

    /// `kill -9`. Says the process id.
    pub(crate) fn crash(&mut self, id: usize) -> anyhow::Result<u32> {
        let mut child = self.nodes[id - 1].child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(child.id())
    }

    pub(crate) fn wipe(&mut self, id: usize) -> anyhow::Result<bool> {
        let was_running = self.is_running(id);
        if was_running {
            self.crash(id)?;
        }
        let data = self.data(id);
        match fs::remove_dir_all(&data) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{}", data.display())),
        }
        Ok(was_running)
    }

    /// Nodes that ended by themselves since the last call, each with the last line of its log.
    pub(crate) fn take_ended(&mut self) -> Vec<(usize, String)> {
        let mut ended = Vec::new();
        for id in 1..=self.count() {
            let node = &mut self.nodes[id - 1];
            if let Some(child) = &mut node.child
                && let Ok(Some(status)) = child.try_wait()
            {
                node.child = None;
                let log = fs::read_to_string(self.log(id)).unwrap_or_default();
                let last =
                    log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
                ended.push((id, format!("{status}: {last}")));
            }
        }
        ended
    }

    /// A node that ends while the cluster starts will not come by itself.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.take_ended().into_iter().next() {
            None => Ok(()),
            Some((id, why)) => {
                self.stop_all();
                Err(Failure::new(
                    1,
                    format!("n{id} ended ({why}). Its log is {}", self.log(id).display()),
                )
                .into())
            }
        }
    }

    /// Asks all nodes to stop, and waits for them.
    pub(crate) fn stop_all(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                // The end of its standard input is the sign.
                drop(child.stdin.take());
            }
        }
        let deadline = Instant::now() + STOP;
        for (position, node) in self.nodes.iter_mut().enumerate() {
            let Some(mut child) = node.child.take() else {
                continue;
            };
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if matches!(child.try_wait(), Ok(None)) {
                output::note(&format!("n{} does not stop: it is killed", position + 1));
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop_all();
    }
}
