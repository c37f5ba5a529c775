//! Node processes on this machine, as the lab needs them: started, killed, stopped for a while; and
//! their directories, changed while they are down.
//!
//! Each process holds the reading end of a pipe as its standard input and stops when that ends: no
//! node outlives the program that started it, however it ends.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tercet_raft::{Incarnation, NodeId};
use tercet_replica::Identity;
use tercet_replica::prepare::{Forget, PreparedEntry, forget, prepare, tear};
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

/// The processes of one cluster.
#[derive(Debug)]
pub struct Processes {
    /// What is started; `None` where the nodes were started by somebody else.
    program: Option<PathBuf>,
    dir: PathBuf,
    cluster_name: String,
    /// The nodes' client addresses.
    addresses: Vec<String>,
    peer_ports: Vec<u16>,
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

/// Ports that nobody listens on.
fn free_ports(count: usize) -> Done<Vec<u16>> {
    // All are held until all are known, so that none is given twice.
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()
        .map_err(words)?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()).map_err(words))
        .collect()
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
        Ok(Self {
            program: Some(program),
            cluster_name: cluster_name.to_owned(),
            addresses: client_ports.iter().map(address).collect(),
            peer_ports: peer_ports.to_vec(),
            children: client_ports.iter().map(|_| None).collect(),
            paused: vec![false; client_ports.len()],
            wipes: 0,
            dir,
        })
    }

    /// Nodes that somebody else started, by their client addresses: they can be talked to, but not
    /// killed or started.
    pub fn of_others(addresses: Vec<String>) -> Self {
        Self {
            program: None,
            dir: PathBuf::new(),
            cluster_name: String::new(),
            peer_ports: Vec::new(),
            children: addresses.iter().map(|_| None).collect(),
            paused: vec![false; addresses.len()],
            wipes: 0,
            addresses,
        }
    }

    /// How many nodes.
    pub fn count(&self) -> u8 {
        u8::try_from(self.addresses.len()).expect("at most 7 nodes")
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

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn data(&self, node: NodeId) -> PathBuf {
        self.dir.join(node.to_string())
    }

    fn log(&self, node: NodeId) -> PathBuf {
        self.dir.join(format!("{node}.log"))
    }

    /// A node's client address.
    pub fn address(&self, node: NodeId) -> String {
        self.addresses[Self::place(node)].clone()
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

    pub(crate) fn prepare(&self, identity: &Identity, given: &NodeGiven) -> Done {
        let mut disk = self.disk(identity.node)?;
        let hard_state = HardState { term: given.term, vote: given.voted.map(NodeId::slot) };
        let entry = |(term, value): &(u64, String)| PreparedEntry {
            term: *term,
            value: Some(Bytes::from(value.clone())),
        };
        let log: Vec<PreparedEntry> = given.log.iter().map(entry).collect();
        prepare(&mut disk, identity, hard_state, &log, Self::options()).map_err(words)
    }

    /// Starts a node with these arguments besides those that every node gets.
    pub(crate) fn start(&mut self, node: NodeId, arguments: &[String]) -> Done {
        let program = self.program(node)?.to_owned();
        let log_path = self.log(node);
        let log =
            OpenOptions::new().create(true).append(true).open(&log_path).map_err(at(&log_path))?;
        let out: File = log.try_clone().map_err(at(&log_path))?;
        let member = |(port, id): (&u16, usize)| format!("{id}=127.0.0.1:{port}");
        let members: Vec<String> = self.peer_ports.iter().zip(1..).map(member).collect();
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

    pub(crate) fn is_running(&mut self, node: NodeId) -> bool {
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

    /// A node that was started here and ended by itself.
    pub fn ended(&mut self) -> Option<NodeId> {
        let ids = (1..=self.count()).filter_map(NodeId::new);
        ids.into_iter().find(|id| {
            let child = self.children[Self::place(*id)].as_mut();
            child.is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
        })
    }

    pub(crate) fn is_paused(&self, node: NodeId) -> bool {
        self.paused[Self::place(node)]
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, node: NodeId) -> Done {
        self.program(node)?;
        let child = self.children[Self::place(node)].take();
        let mut child = child.ok_or_else(|| WorldError(format!("{node} does not run")))?;
        child.kill().map_err(words)?;
        child.wait().map_err(words)?;
        running().remove(&child.id());
        self.paused[Self::place(node)] = false;
        Ok(())
    }

    fn signal(&self, node: NodeId, signal: Signal) -> Done {
        self.program(node)?;
        let child = self.children[Self::place(node)].as_ref();
        let child = child.ok_or_else(|| WorldError(format!("{node} does not run")))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| WorldError(format!("{node} has no process id")))?;
        kill_process(pid, signal).map_err(words)
    }

    pub(crate) fn pause(&mut self, node: NodeId) -> Done {
        self.signal(node, Signal::STOP)?;
        self.paused[Self::place(node)] = true;
        Ok(())
    }

    pub(crate) fn resume(&mut self, node: NodeId) -> Done {
        self.signal(node, Signal::CONT)?;
        self.paused[Self::place(node)] = false;
        Ok(())
    }

    /// The last line that a node logged, for who wants to know why it ended.
    pub fn last_words(&self, node: NodeId) -> String {
        let log = fs::read_to_string(self.log(node)).unwrap_or_default();
        let last = log.lines().rfind(|line| !line.trim().is_empty());
        last.unwrap_or("it said nothing").to_owned()
    }

    /// Takes a memory away and leaves the node its vote: only of one that is down.
    pub(crate) fn forget(&mut self, node: NodeId, what: Wipe) -> Done {
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

    /// Deletes files, under a running node's feet or not.
    pub(crate) fn delete(&self, node: NodeId, what: Wipe) -> Done {
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

    pub(crate) fn tear(&self, node: NodeId, count: u64) -> Done {
        self.program(node)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        tear(&mut self.disk(node)?, count, Self::options()).map_err(words)
    }

    /// Asks all nodes to stop, and waits for them.
    pub fn stop_all(&mut self) {
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
