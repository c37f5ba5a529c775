//! How a replica is set up.

use std::time::Duration;

use tercet_raft::{NodeId, Profile, Rules};
use tercet_wal::WalOptions;

/// How a replica is set up.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// This node.
    pub node: NodeId,
    /// All members, this node among them.
    pub members: Vec<NodeId>,
    /// The cluster's name.
    pub cluster_name: String,
    /// Which Raft is run.
    pub profile: Profile,
    /// The rules that are switched off, for the lab.
    pub rules: Rules,
    /// How often a leader shows that it lives.
    pub heartbeat_interval: Duration,
    /// The shortest election timeout.
    pub election_timeout_min: Duration,
    /// The longest election timeout.
    pub election_timeout_max: Duration,
    /// Whether election timeouts do not fire by themselves, from the start (the lab).
    pub election_timer_frozen: bool,
    /// The seed of the election timeouts; without one, the incarnation is.
    pub seed: Option<u64>,
    /// The most bytes of entries in one message.
    pub message_bytes_max: u64,
    /// The most bytes of entries on their way to one peer.
    pub inflight_bytes_max: u64,
    /// The most messages with entries on their way to one peer.
    pub inflight_messages_max: usize,
    /// The most bytes of entries that a leader holds uncommitted.
    pub uncommitted_bytes_max: u64,
    /// How many bytes a second of old entries are read again, to find damage before somebody needs
    /// them; 0 for none.
    pub scrub_bytes_per_second: u64,
    /// Whether a leader whose disk has become slow hands leadership over (modern profile).
    pub slow_disk_hand_over: bool,
    /// How the write-ahead log is laid out.
    pub wal: WalOptions,
}

impl ReplicaConfig {
    /// The defaults for a node of these members.
    pub fn new(node: NodeId, members: Vec<NodeId>, cluster_name: String) -> Self {
        Self {
            node,
            members,
            cluster_name,
            profile: Profile::Modern,
            rules: Rules::default(),
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            election_timer_frozen: false,
            seed: None,
            message_bytes_max: 1 << 20,
            inflight_bytes_max: 8 << 20,
            inflight_messages_max: 256,
            uncommitted_bytes_max: 64 << 20,
            scrub_bytes_per_second: 1 << 20,
            slow_disk_hand_over: true,
            wal: WalOptions::default(),
        }
    }
}
