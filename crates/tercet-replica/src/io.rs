//! What goes into a replica and what comes out of it.

use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{Envelope, Event, Incarnation, NodeId, NodeSet, Rules, Status, TransferError};
use tercet_wal::{Entry, WalError};

use crate::forming::FormMessage;
use crate::health::SlowDisk;
use crate::identity::Identity;
use crate::record::RecordsError;

/// What replicas say to each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// Before a node knows its cluster.
    Form {
        /// The sender's incarnation.
        incarnation: Incarnation,
        /// What is said.
        message: FormMessage,
    },
    /// Raft, with the bytes of the entries that an `Append` carries: the same on the wire and on
    /// every disk.
    Raft {
        /// The sender's cluster. Another one, be it an older generation of this one, is not heard.
        cluster_id: u128,
        /// The message.
        envelope: Envelope,
        /// The entries of an `Append`, one for each of its metas.
        entries: Vec<Entry>,
    },
}

/// Records to append.
#[derive(Clone, Debug)]
pub struct Submit {
    /// The driver's number for it, given back with the answer.
    pub tag: u64,
    /// The values; one at least.
    pub records: Vec<Bytes>,
    /// Names the request.
    pub request_id: u128,
    /// Append only if the first record would get this sequence number.
    pub expect_next: Option<u64>,
    /// Answer only when every member has it durably.
    pub wait_all: bool,
}

/// Where submitted records stand: committed, and durable on a majority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submitted {
    /// The sequence number of the first record.
    pub first_seq: u64,
    /// The sequence number of the last record.
    pub last_seq: u64,
    /// The entry's term.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
    /// Whether an earlier request with this id had appended them.
    pub duplicate: bool,
    /// The nodes known to have them durably.
    pub durable_on: NodeSet,
}

/// Why records were not appended, or are not known to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitError {
    /// This node does not lead; not appended.
    NotLeader,
    /// This node leads but is handing over; not appended.
    Transferring,
    /// This node has lost its memory and cannot lead; not appended.
    Quarantined,
    /// Too much is uncommitted; not appended.
    Overloaded,
    /// The disk is full; not appended.
    DiskFull,
    /// A part of this node's log is damaged and being fetched from the others: whether it holds
    /// the request already is not known. Not appended.
    Repairing,
    /// The first record would get another sequence number; not appended.
    Conflict {
        /// The one it would get.
        next_seq: u64,
    },
    /// The request id was used with other records; not appended.
    KeyReused,
    /// The request id was made before the window of known ids begins; unknown.
    KeyExpired,
    /// Leadership was lost before the records were known to be committed; unknown.
    LeadershipLost,
}

/// A committed record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its sequence number.
    pub seq: u64,
    /// Its value.
    pub value: Bytes,
}

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log failed; the node is about to stop.
    #[error(transparent)]
    Wal(WalError),
    /// An entry is damaged here, and is being fetched from the others: ask again.
    #[error("entry {index} is damaged on this node and is being fetched from the others")]
    Damaged {
        /// Its index.
        index: u64,
    },
    /// An entry is not what its header says.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// What a replica wants its driver to do, or to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send this to that peer.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// A submit is answered.
    Submitted {
        /// Its number.
        tag: u64,
        /// The answer.
        result: Result<Submitted, SubmitError>,
    },
    /// A read barrier is answered: reads of applied records are linearizable now, or ask again.
    BarrierDone {
        /// Its number.
        tag: u64,
        /// Whether it was confirmed.
        confirmed: bool,
    },
    /// A transfer of leadership ended.
    TransferEnded {
        /// Who leads now, or why nobody new does.
        result: Result<NodeId, TransferError>,
    },
    /// Something happened in the core.
    Event(Event),
    /// Something happened to the node that a person should know.
    Warning(String),
    /// Something happened to the node that a person may want to know.
    Notice(String),
}

/// What the lab does to a node; a server without a lab never does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabInput {
    /// The election timer fires now.
    Campaign,
    /// The election timer stands still, or runs again.
    FreezeElectionTimer {
        /// Whether it stands still.
        frozen: bool,
    },
    /// Heartbeats are so far apart.
    SetHeartbeatInterval {
        /// How far; `None` is what the configuration says.
        interval: Option<Duration>,
        /// Only as long as the node leads now.
        until_stepdown: bool,
    },
    /// These rules are switched off.
    SetRules {
        /// Which.
        rules: Rules,
    },
}

/// Plain data about a replica.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// Who it is.
    pub identity: Identity,
    /// The core's view; `None` while the cluster is formed.
    pub raft: Option<Status>,
    /// The peers whose answer is awaited before the cluster can be formed.
    pub awaited: Vec<NodeId>,
    /// The sequence number after the last applied record.
    pub next_seq: u64,
    /// Whether appends are refused because the disk is full.
    pub disk_full: bool,
    /// Up to which index `values.log` is written.
    pub values_index: u64,
    /// How many request ids are known.
    pub window_len: usize,
    /// How slow the disk has become, if it has.
    pub slow_disk: Option<SlowDisk>,
    /// Why `values.log` cannot be written, if it cannot.
    pub values_error: Option<String>,
}

/// How much memory the parts of a replica use that grow with its work, and how much each may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    /// Bytes of the latest entries that are kept for readers and for peers that are nearly level.
    pub tail_bytes: usize,
    /// The budget of that, besides what is on its way to disk.
    pub tail_bytes_max: usize,
    /// Bytes of entries on their way to peers.
    pub inflight_bytes: u64,
    /// The budget of that.
    pub inflight_bytes_max: u64,
    /// Request ids that are known, for retries.
    pub requests: usize,
    /// How many are kept, besides those of entries that are not committed.
    pub requests_max: usize,
}

/// What an operator should be woken for. As plain as it is, it costs nothing to ask often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Alarms {
    /// The disk has become slow.
    pub slow_disk: bool,
    /// Appends are refused because the disk is full.
    pub disk_full: bool,
    /// How many entries are damaged on this disk and not repaired yet.
    pub damaged_entries: usize,
    /// The node has lost its memory, and is muted until it is readmitted.
    pub quarantined: bool,
}

impl From<WalError> for ReadError {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Faulty { index, .. } => Self::Damaged { index },
            error @ (WalError::Io { .. }
            | WalError::Corrupt { .. }
            | WalError::Missing { .. }
            | WalError::Newer { .. }
            | WalError::Unrepairable { .. }
            | WalError::Poisoned
            | WalError::Full
            | WalError::Lost { .. }) => Self::Wal(error),
        }
    }
}
