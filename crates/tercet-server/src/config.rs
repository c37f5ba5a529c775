//! How a node is set up: plain data, checked once. Where it comes from (flags, environment, file)
//! is the binary's business.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::lab::LabConfig;

/// Everything that a node needs to know to run.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The cluster's name: nodes of clusters with different names never talk.
    pub cluster_name: String,
    /// This node's slot, from 1.
    pub node: u8,
    /// All members with their peer addresses (`host:port`); the same on all nodes.
    pub members: BTreeMap<u8, String>,
    /// The data directory.
    pub data: PathBuf,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The client address that is told to others; `listen` if not set.
    pub advertise: Option<String>,
    /// Where peers connect; by default the address of this node's entry in `members`.
    pub peer_listen: Option<SocketAddr>,
    /// Listen beyond loopback without TLS.
    pub insecure: bool,
    /// The times of the protocol.
    pub timing: Timing,
    /// The limits on what clients may ask.
    pub limits: Limits,
    /// How many threads serve gRPC clients; with 0 the owner's thread does, without a hand-off from
    /// one thread to another. By default that, unless there are cores to spare.
    pub api_threads: Option<usize>,
    /// How long the owner's thread looks for more after something came, before it sleeps; at most
    /// [`BUSY_POLL_MAX`]. Other threads that could run go first. With zero it sleeps at once.
    pub busy_poll: Duration,
    /// The size of a segment of the write-ahead log, in bytes.
    pub segment_bytes: u64,
    /// How much of the disk is left free before new records are refused, in bytes.
    pub disk_reserve_bytes: u64,
    /// How the node is set up for the lab, if it is.
    pub lab: Option<LabConfig>,
    /// Where the plain sentences of a lab class go, as they happen, if anyone wants them. Dropped
    /// when the node has ended.
    pub classic: Option<SyncSender<String>>,
    /// The seed of the election timeouts; by default made from the node's incarnation.
    pub seed: Option<u64>,
}

/// A node that looks for longer would be awake for most of its time between heartbeats.
pub const BUSY_POLL_MAX: Duration = Duration::from_millis(5);

/// The times of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// The shortest election timeout.
    pub election_min: Duration,
    /// The longest election timeout.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
        }
    }
}

/// The limits on what clients may ask. What is above is refused before it takes memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest value, in bytes.
    pub value_bytes_max: usize,
    /// The largest request (all values of a batch), in bytes.
    pub request_bytes_max: usize,
    /// The most records in one request.
    pub request_records_max: usize,
    /// The most client connections at a time.
    pub connections_max: usize,
    /// The most bytes of requests that are under way at a time.
    pub inflight_bytes_max: usize,
    /// How long a request without a deadline of its own may take.
    pub deadline_default: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes_max: 1 << 20,
            request_bytes_max: 8 << 20,
            request_records_max: 10_000,
            connections_max: 4096,
            inflight_bytes_max: 64 << 20,
            deadline_default: Duration::from_secs(10),
        }
    }
}

impl ServerConfig {
    /// A node with the defaults.
    pub fn new(node: u8, members: BTreeMap<u8, String>, data: PathBuf, listen: SocketAddr) -> Self {
        Self {
            cluster_name: "tercet".to_owned(),
            node,
            members,
            data,
            listen,
            advertise: None,
            peer_listen: None,
            insecure: false,
            timing: Timing::default(),
            limits: Limits::default(),
            api_threads: None,
            busy_poll: Duration::from_micros(50),
            segment_bytes: 64 << 20,
            disk_reserve_bytes: 64 << 20,
            lab: None,
            classic: None,
            seed: None,
        }
    }

    /// Checks what can be checked before anything is opened.
    ///
    /// # Errors
    /// The first thing that is wrong, as a sentence that names it and the next thing to do.
    pub fn check(&self) -> Result<(), String> {
        let count = self.members.len();
        if !self.members.contains_key(&self.node) {
            return Err(format!("node {} is not in the list of members", self.node));
        }
        // The lab shows what an even number is like.
        let is_odd = !count.is_multiple_of(2) || self.lab.is_some();
        if count > 7 || !is_odd {
            return Err(format!(
                "a cluster has 1, 3, 5 or 7 nodes; the list of members has {count}"
            ));
        }
        if let Some(slot) = self.members.keys().find(|slot| **slot == 0 || **slot > 63) {
            return Err(format!("node ids go from 1 to 63; the list of members has {slot}"));
        }
        let addresses: std::collections::BTreeSet<_> = self.members.values().collect();
        if addresses.len() != count {
            return Err("two members have the same peer address".to_owned());
        }
        if self.cluster_name.is_empty() || self.cluster_name.len() > 64 {
            return Err("the cluster's name has 1 to 64 characters".to_owned());
        }
        let Timing { heartbeat, election_min, election_max } = self.timing;
        if heartbeat.is_zero() || heartbeat * 2 > election_min || election_min > election_max {
            return Err(format!(
                "timing: at least two heartbeats ({heartbeat:?}) must fit into the shortest election \
                 timeout ({election_min:?}), and that must not exceed the longest ({election_max:?})"
            ));
        }
        if self.busy_poll > BUSY_POLL_MAX {
            return Err(format!(
                "busy polling for {:?}: at most {BUSY_POLL_MAX:?} (0 for none)",
                self.busy_poll
            ));
        }
        let has_token = |lab: &LabConfig| lab.token.as_ref().is_some_and(|token| token.len() >= 8);
        if self.lab.as_ref().is_some_and(|lab| !has_token(lab)) && !self.listen.ip().is_loopback() {
            return Err(format!(
                "--lab lets anyone who can reach {} stop and cut this node: listen on 127.0.0.1, or \
                 set TERCET_LAB_TOKEN to a secret of 8 characters at least",
                self.listen
            ));
        }
        if !self.insecure && !self.listen.ip().is_loopback() {
            return Err(format!(
                "listening on {} lets anyone who can reach it read and append: there is no TLS yet. \
                 Listen on 127.0.0.1, or say --insecure (insecure = true) on a network that you trust",
                self.listen
            ));
        }
        Ok(())
    }
}
