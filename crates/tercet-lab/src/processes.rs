//! Node processes on this machine, as the lab needs them: started, killed, stopped for a while; and
//! their directories, changed while they are down.
//!
//! Each process holds the reading end of a pipe as its standard input and stops when that ends: no
//! node outlives the program that started it, however it ends.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tercet_raft::{Incarnation, NodeId};
use tercet_replica::prepare::{Forget, PreparedEntry, forget, identities, prepare, tear};
use tercet_wal::{FileDisk, HardState, WalOptions};

use crate::ast::Wipe;
use crate::backend::{Done, WorldError};
use crate::setup::NodeGiven;

/// How long a node may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(10);
/// Segments are small, so that a directory is made quickly.
const SEGMENT_BYTES: u64 = 1 << 20;
/// How long a node of somebody else may take to be reached.
const REACH: Duration = Duration::from_millis(300);
/// The name of the clusters that the lab makes.
pub(crate) const CLUSTER: &str = "lab";

/// The process ids of all nodes that this program runs, for [`kill_all`]. A signal handler has
/// nothing else to go by; it is not what anything is decided on.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks every node that this program runs to stop, and waits a while for them: for a signal handler.
/// Who does not stop is killed.
pub fn end_all() {
    let pids: Vec<u32> = running().iter().copied().collect();
    let pid = |pid: &u32| i32::try_from(*pid).ok().and_then(Pid::from_raw);
    for pid in pids.iter().filter_map(pid) {
        let _ = kill_process(pid, Signal::TERM);
        // Who stands still must go on to hear it.
        let _ = kill_process(pid, Signal::CONT);
    }
    let deadline = Instant::now() + STOP;
    for pid in pids.iter().filter_map(pid) {
        while Instant::now() < deadline
            && matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    kill_all();
}

/// Kills every node that this program runs: for who is about to end at once.
fn kill_all() {
    for pid in running().iter() {
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes of a cluster's nodes, wherever they are.
pub trait NodeProcesses: std::fmt::Debug {
    /// How many nodes.
    fn count(&self) -> u8;
    /// Where everything is.
    fn dir(&self) -> &Path;
    /// A node's client address.
    fn address(&self, node: NodeId) -> String;
    /// Makes the directory of a node that never ran, in a cluster whose identity comes from `seed`.
    ///
    /// # Errors
    /// The disk refuses.
    fn prepare(&mut self, seed: u64, node: NodeId, given: &NodeGiven) -> Done;
    /// Starts a node with these arguments besides those that every node gets.
    ///
    /// # Errors
    /// The process cannot be started.
    fn start(&mut self, node: NodeId, arguments: &[String]) -> Done;
    /// Whether a node's process exists.
    fn is_running(&mut self, node: NodeId) -> bool;
    /// A node that was started and ended by itself.
    fn ended(&mut self) -> Option<NodeId>;
    /// Whether a node's process stands still.
    fn is_paused(&self, node: NodeId) -> bool;
    /// `kill -9`.
    ///
    /// # Errors
    /// The node does not run.
    fn kill(&mut self, node: NodeId) -> Done;
    /// The node stands still.
    ///
    /// # Errors
    /// The node does not run.
    fn pause(&mut self, node: NodeId) -> Done;
    /// The node goes on.
    ///
    /// # Errors
    /// The node does not run.
    fn resume(&mut self, node: NodeId) -> Done;
    /// The last line that a node logged, for who wants to know why it ended.
    fn last_words(&mut self, node: NodeId) -> String;
    /// Takes a memory away and leaves the node its vote: only of one that is down.
    ///
    /// # Errors
    /// The disk refuses.
    fn forget(&mut self, node: NodeId, what: Wipe) -> Done;
    /// Deletes files, under a running node's feet or not.
    ///
    /// # Errors
    /// The disk refuses.
    fn delete(&mut self, node: NodeId, what: Wipe) -> Done;
    /// Cuts the last entries short: only of a node that is down.
    ///
    /// # Errors
    /// The disk refuses.
    fn tear(&mut self, node: NodeId, count: u64) -> Done;
    /// Asks all nodes to stop, and waits for them.
    fn stop_all(&mut self);
}

/// The processes of one cluster on this machine.
#[derive(Debug)]
pub struct Processes {
    /// What is started; `None` where the nodes were started by somebody else.
    program: Option<PathBuf>,
    dir: PathBuf,
    cluster_name: String,
    /// The nodes' client addresses.
    addresses: Vec<String>,
    /// The nodes' addresses for each other.
    peers: Vec<String>,
    children: Vec<Option<Child>>,
    paused: Vec<bool>,
    wipes: u64,
}

fn words(error: impl std::fmt::Display) -> WorldError {
    WorldError(error.to_string())
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> WorldError + '_ {
    move |error| WorldError(format!("{}: {error}", path.display()))
}

/// Ports that nobody listens on, below those that the system gives to connections.
///
/// # Errors
/// There are none.
pub fn free_ports(count: usize) -> Done<Vec<u16>> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 12_000;
    const RANGE: u16 = 18_000;
    // Programs that run at the same time look in different places first.
    let start = u16::try_from(std::process::id() % u32::from(RANGE)).expect("below the range");
    let mut ports = Vec::new();
    for _ in 0..RANGE {
        if ports.len() == count {
            return Ok(ports);
        }
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % RANGE;
        let port = FIRST + (start + step) % RANGE;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    Err(WorldError("this machine has no free ports".to_owned()))
}

impl Processes {
    /// Places for so many nodes under `dir`; none runs yet.
    ///
    /// # Errors
    /// The machine gives no ports.
    pub fn new(program: PathBuf, dir: PathBuf, nodes: u8) -> Done<Self> {
        let ports = free_ports(2 * usize::from(nodes))?;
        let (client_ports, peer_ports) = ports.split_at(usize::from(nodes));
        Self::on_ports(program, dir, CLUSTER, client_ports, peer_ports)
    }

    /// Places for nodes with these ports, whose data stays: a cluster of its own name.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn on_ports(
        program: PathBuf,
        dir: PathBuf,
        cluster_name: &str,
        client_ports: &[u16],
        peer_ports: &[u16],
    ) -> Done<Self> {
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let addresses = client_ports.iter().map(address).collect();
        let peers = peer_ports.iter().map(address).collect();
        Ok(Self::at_addresses(program, dir, cluster_name, addresses, peers))
    }

    /// Places for nodes with these addresses for clients and for each other, in a directory that
    /// exists. Some of them may be those of other machines, as long as they are not started here.
    pub(crate) fn at_addresses(
        program: PathBuf,
        dir: PathBuf,
        cluster_name: &str,
        addresses: Vec<String>,
        peers: Vec<String>,
    ) -> Self {
        Self {
            program: Some(program),
            cluster_name: cluster_name.to_owned(),
            children: addresses.iter().map(|_| None).collect(),
            paused: vec![false; addresses.len()],
            wipes: 0,
            dir,
            addresses,
            peers,
        }
    }

    /// Nodes that somebody else started, by their client addresses: they can be talked to, but not
    /// killed or started.
    pub fn of_others(addresses: Vec<String>) -> Self {
        Self {
            program: None,
            dir: PathBuf::new(),
            cluster_name: String::new(),
            peers: Vec::new(),
            children: addresses.iter().map(|_| None).collect(),
            paused: vec![false; addresses.len()],
            wipes: 0,
            addresses,
        }
    }

    fn program(&self, node: NodeId) -> Done<&Path> {
        self.program.as_deref().ok_or_else(|| {
            WorldError(format!(
                "{node} was started elsewhere: its process and its disk can only be changed there"
            ))
        })
    }

    fn place(node: NodeId) -> usize {
        usize::from(node.slot()) - 1
    }

    pub(crate) fn data(&self, node: NodeId) -> PathBuf {
        self.dir.join(node.to_string())
    }

    fn log(&self, node: NodeId) -> PathBuf {
        self.dir.join(format!("{node}.log"))
    }

    /// Whether somebody beyond this machine can reach a node.
    fn is_public(&self, node: NodeId) -> bool {
        let place = Self::place(node);
        [&self.addresses[place], &self.peers[place]]
            .iter()
            .filter_map(|address| address.parse::<SocketAddr>().ok())
            .any(|address| !address.ip().is_loopback())
    }

    fn signal(&self, node: NodeId, signal: Signal) -> Done {
        self.program(node)?;
        let child = self.children[Self::place(node)].as_ref();
        let child = child.ok_or_else(|| WorldError(format!("{node} does not run")))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| WorldError(format!("{node} has no process id")))?;
        kill_process(pid, signal).map_err(words)
    }

    const fn options() -> WalOptions {
        WalOptions {
            segment_bytes: SEGMENT_BYTES,
            log_id: 0,
            reserve_bytes: 64 << 20,
            tail_bytes: 8 << 20,
        }
    }

    fn disk(&self, node: NodeId) -> Done<FileDisk> {
        let dir = self.data(node);
        FileDisk::open(dir.clone())
            .map_err(|error| WorldError(format!("{}: {error}", dir.display())))
    }
}

impl NodeProcesses for Processes {
    fn count(&self) -> u8 {
        u8::try_from(self.addresses.len()).expect("at most 7 nodes")
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn address(&self, node: NodeId) -> String {
        self.addresses[Self::place(node)].clone()
    }

    fn prepare(&mut self, seed: u64, node: NodeId, given: &NodeGiven) -> Done {
        let ids: Vec<NodeId> = (1..=self.count()).filter_map(NodeId::new).collect();
        let identity = identities(&self.cluster_name, &ids, seed)
            .into_iter()
            .find(|identity| identity.node == node)
            .ok_or_else(|| WorldError(format!("there is no {node} in the cluster")))?;
        let mut disk = self.disk(node)?;
        let hard_state = HardState { term: given.term, vote: given.voted.map(NodeId::slot) };
        let entry = |(term, value): &(u64, String)| PreparedEntry {
            term: *term,
            value: Some(Bytes::from(value.clone())),
        };
        let log: Vec<PreparedEntry> = given.log.iter().map(entry).collect();
        prepare(&mut disk, &identity, hard_state, &log, Self::options()).map_err(words)
    }

    fn start(&mut self, node: NodeId, arguments: &[String]) -> Done {
        let program = self.program(node)?.to_owned();
        let log_path = self.log(node);
        let log =
            OpenOptions::new().create(true).append(true).open(&log_path).map_err(at(&log_path))?;
        let out: File = log.try_clone().map_err(at(&log_path))?;
        let member = |(peer, id): (&String, usize)| format!("{id}={peer}");
        let members: Vec<String> = self.peers.iter().zip(1..).map(member).collect();
        let insecure = self.is_public(node).then_some("--insecure");
        let child = Command::new(&program)
            .arg("serve")
            .arg("--lab")
            .arg("--stop-with-stdin")
            .arg(format!("--id={}", node.slot()))
            .arg(format!("--data={}", self.data(node).display()))
            .arg(format!("--cluster={}", members.join(",")))
            .arg(format!("--cluster-name={}", self.cluster_name))
            .arg(format!("--listen={}", self.address(node)))
            .arg(format!("--segment={SEGMENT_BYTES}"))
            .args(insecure)
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(log)
            .spawn()
            .map_err(at(&program))?;
        running().insert(child.id());
        self.children[Self::place(node)] = Some(child);
        self.paused[Self::place(node)] = false;
        Ok(())
    }

    fn is_running(&mut self, node: NodeId) -> bool {
        let place = Self::place(node);
        if self.program.is_none() {
            return self.addresses[place]
                .parse()
                .map_or(true, |address| TcpStream::connect_timeout(&address, REACH).is_ok());
        }
        match &mut self.children[place] {
            None => false,
            Some(child) => matches!(child.try_wait(), Ok(None)),
        }
    }

    fn ended(&mut self) -> Option<NodeId> {
        let ids = (1..=self.count()).filter_map(NodeId::new);
        ids.into_iter().find(|id| {
            let child = self.children[Self::place(*id)].as_mut();
            child.is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
        })
    }

    fn is_paused(&self, node: NodeId) -> bool {
        self.paused[Self::place(node)]
    }

    fn kill(&mut self, node: NodeId) -> Done {
        self.program(node)?;
        let child = self.children[Self::place(node)].take();
        let mut child = child.ok_or_else(|| WorldError(format!("{node} does not run")))?;
        child.kill().map_err(words)?;
        child.wait().map_err(words)?;
        running().remove(&child.id());
        self.paused[Self::place(node)] = false;
        Ok(())
    }

    fn pause(&mut self, node: NodeId) -> Done {
        self.signal(node, Signal::STOP)?;
        self.paused[Self::place(node)] = true;
        Ok(())
    }

    fn resume(&mut self, node: NodeId) -> Done {
        self.signal(node, Signal::CONT)?;
        self.paused[Self::place(node)] = false;
        Ok(())
    }

    fn last_words(&mut self, node: NodeId) -> String {
        let log = fs::read_to_string(self.log(node)).unwrap_or_default();
        let last = log.lines().rfind(|line| !line.trim().is_empty());
        last.unwrap_or("it said nothing").to_owned()
    }

    fn forget(&mut self, node: NodeId, what: Wipe) -> Done {
        self.program(node)?;
        self.wipes += 1;
        let what = match what {
            Wipe::Log => Forget::Log,
            Wipe::Meta => Forget::HardState,
            Wipe::All => Forget::All,
        };
        let incarnation = Incarnation(u128::from(node.slot()) << 64 | u128::from(self.wipes));
        forget(&mut self.disk(node)?, what, incarnation, Self::options()).map_err(words)
    }

    fn delete(&mut self, node: NodeId, what: Wipe) -> Done {
        self.program(node)?;
        let data = self.data(node);
        let remove = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(path)(error)),
            Ok(()) | Err(_) => Ok(()),
        };
        match what {
            Wipe::Meta => remove(&data.join("identity")),
            Wipe::Log => {
                let wal = data.join("wal");
                for entry in fs::read_dir(&wal).map_err(at(&wal))? {
                    remove(&entry.map_err(at(&wal))?.path())?;
                }
                Ok(())
            }
            Wipe::All => fs::remove_dir_all(&data).map_err(at(&data)),
        }
    }

    fn tear(&mut self, node: NodeId, count: u64) -> Done {
        self.program(node)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        tear(&mut self.disk(node)?, count, Self::options()).map_err(words)
    }

    fn stop_all(&mut self) {
        for (child, paused) in self.children.iter_mut().zip(&self.paused) {
            if let Some(child) = child {
                if *paused {
                    // Who stands still hears nothing.
                    let _ = child.kill();
                }
                drop(child.stdin.take());
            }
        }
        let deadline = Instant::now() + STOP;
        for child in &mut self.children {
            let Some(mut child) = child.take() else { continue };
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = child.kill();
            let _ = child.wait();
            running().remove(&child.id());
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.children.iter_mut().filter_map(Option::take) {
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
            running().remove(&child.id());
        }
    }
}
