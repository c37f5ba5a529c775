//! The replica: what happens between a message's arrival and its answer.
//!
//! Every public function that takes an input steps the core once and acts on what the core wants
//! done. Writes are only staged then; [`Replica::flush`] puts all that is staged on disk with one
//! write and one sync, tells the core, and applies what is committed. Between the two the driver
//! sends: a leader's entries are on their way to the followers while its own disk writes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tercet_raft::{
    BarrierId, Config, EntryKind, EntryMeta, Envelope, Event, Incarnation, Index, Input, Message,
    NodeId, NodeSet, Output, Profile, Proposal, ProposalId, Raft, Refusal, RoleKind, Rules, Status,
    Time, TransferError, Write, WriteId,
};
use tercet_wal::{
    Batch, Disk, ENTRY_HEADER_BYTES, Entry, EntryHeader, HardState, Room, Wal, WalError,
    WalOptions, encode_entry,
};

use crate::forming::{FormMessage, FormStep, Forming, answer_as_member};
use crate::identity::{Identity, IdentityError, IdentityState};
use crate::record::{RecordsError, records_body, records_of};
use crate::values::{Check, ValuesFile};
use crate::window::{Seen, Window, WindowLimits};

/// How often the files are looked at: were they unlinked, replaced, shortened?
const FILES_INTERVAL: Duration = Duration::from_millis(50);
/// How many bytes of entries go to `values.log` in one slice.
const VALUES_SLICE_BYTES: usize = 4 << 20;
/// How many bytes of entries are read at a time when the log is walked.
const WALK_BYTES: u64 = 4 << 20;
/// Where files go that a node which lost its memory had: a cache at best, kept for a person.
const LOST_DIR: &str = "lost";

pub(crate) const KIND_NOOP: u8 = 1;
pub(crate) const KIND_RECORDS: u8 = 2;
const KIND_READMIT: u8 = 3;

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
            wal: WalOptions::default(),
        }
    }
}

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
    Wal(#[from] WalError),
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

/// Why a replica must stop. Nothing is acknowledged after it.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The disk failed a write, a sync or a read.
    #[error("{0}")]
    Disk(String),
    /// The log is not what this node wrote: it has lost its memory, and must be opened again so.
    #[error("this node has lost its memory: {0}")]
    LostMemory(String),
}

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is of another cluster.
    #[error(
        "the directory belongs to the cluster \"{found}\", not to \"{expected}\": give this node its own directory"
    )]
    OtherCluster {
        /// The name found.
        found: String,
        /// The name configured.
        expected: String,
    },
    /// It is of another slot.
    #[error(
        "the directory belongs to node {found}, not to node {expected}: give each node its own directory"
    )]
    OtherNode {
        /// The slot found.
        found: u8,
        /// The slot configured.
        expected: u8,
    },
    /// Its members are others.
    #[error(
        "the directory was made for the members {found}; configured are {expected}: the list of members cannot be changed yet"
    )]
    OtherMembers {
        /// The members found.
        found: String,
        /// The members configured.
        expected: String,
    },
    /// The identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log cannot be read, and not for want of memory.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The file system failed.
    #[error("{op}: {source}")]
    Io {
        /// What was done.
        op: &'static str,
        /// How it failed.
        source: std::io::Error,
    },
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

/// An entry as people see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedEntry {
    /// Where it stands.
    pub index: u64,
    /// The term of the leader that made it.
    pub term: u64,
    /// What is in it.
    pub content: LoggedContent,
}

/// What is in an entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LoggedContent {
    /// Nothing: a leader's first entry.
    Noop,
    /// The readmission of a node.
    Readmit(NodeId),
    /// Records, with the request that submitted them.
    Records {
        /// The request's id.
        request_id: u128,
        /// The values.
        values: Vec<Bytes>,
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
    /// Why `values.log` cannot be written, if it cannot.
    pub values_error: Option<String>,
}

/// The Readmit entries of a log, by index.
type Readmits = BTreeMap<Index, (NodeId, Incarnation)>;

/// The end of the log, as far as it was appended here.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    /// The sequence number that the next record gets.
    next_seq: u64,
    /// The log time of the last entry.
    time_ms: u64,
}

/// A submit whose records have a place in the log.
#[derive(Clone, Copy, Debug)]
struct Pending {
    tag: u64,
    term: u64,
    seen: Seen,
    duplicate: bool,
    wait_all: bool,
}

/// A submit on its way through the core.
#[derive(Debug)]
struct Proposing {
    submit: Submit,
    pieces: Vec<Bytes>,
    digest: u32,
}

/// The bytes that belong to the input of the moment.
#[derive(Debug, Default)]
struct Incoming {
    /// Of an `Append`, in order.
    entries: Vec<Entry>,
    /// Of the submits, by proposal.
    proposals: VecDeque<Proposing>,
    /// Of those that were accepted, in order.
    accepted: VecDeque<(u64, Proposing)>,
}

/// One node's replica; see the crate's head.
#[derive(Debug)]
pub struct Replica<D: Disk> {
    config: ReplicaConfig,
    disk: D,
    identity: Identity,
    /// Counts the stores of the identity.
    identity_count: u64,
    phase: Phase<D>,
    effects: VecDeque<Effect>,
    connected: NodeSet,
}

#[derive(Debug)]
enum Phase<D: Disk> {
    Forming(Forming),
    Running(Box<Running<D>>),
}

/// A replica of a cluster that is formed.
#[derive(Debug)]
struct Running<D: Disk> {
    raft: Raft,
    wal: Wal<D>,
    values: ValuesFile<D::File>,
    values_error: Option<String>,
    window: Window,
    window_limits: WindowLimits,
    tail: Tail,
    /// What was committed and is visible to readers.
    applied: u64,
    applied_next_seq: u64,
    /// The last write that was staged and not yet reported to the core.
    staged: Option<WriteId>,
    pending: BTreeMap<u64, Vec<Pending>>,
    /// Committed, but awaited on every member.
    waiting_all: BTreeMap<u64, Vec<Pending>>,
    /// Confirmed barriers that wait for their index to be applied.
    barriers: BTreeMap<u64, Vec<u64>>,
    next_proposal: u64,
    disk_full: bool,
    check_files_at: Time,
}

impl<D: Disk> Replica<D> {
    /// Opens a node's directory: new, as it was left, or with its memory lost.
    ///
    /// `lost` says why an earlier replica of this process had to stop ([`Fatal::LostMemory`]);
    /// `random` gives numbers that nobody else gets.
    ///
    /// # Errors
    /// A directory that is not this node's, or that cannot be read. What is damaged is no error:
    /// the node has lost its memory then, and rejoins.
    pub fn open(
        mut disk: D,
        config: ReplicaConfig,
        lost: Option<String>,
        random: &mut dyn FnMut() -> u128,
        now: Time,
    ) -> Result<Self, OpenError> {
        let mut effects = VecDeque::new();
        let has_log = !disk.list("wal").map_err(io("list wal"))?.is_empty();
        let (found, mut lost) = match Identity::load(&mut disk) {
            Ok(found) => (found, lost),
            // Whoever has spoken once has a whole copy, and whoever is a member has a log. Without
            // either, the directory was still being made when a crash cut that short: it is a new
            // one. Were it mute, it could never help to form the cluster that would readmit it.
            Err(IdentityError::Damaged) if !has_log && lost.is_none() => {
                let text = "the identity was not written whole: this directory counts as new";
                effects.push_back(Effect::Notice(text.to_owned()));
                (None, None)
            }
            Err(error @ IdentityError::Damaged) => (None, Some(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        let (mut identity, mut identity_count) = match found {
            Some((identity, count)) => {
                check_identity(&identity, &config)?;
                (identity, count)
            }
            None => {
                if has_log {
                    lost.get_or_insert_with(|| "there is a log, but no identity".to_owned());
                }
                let identity = Identity {
                    node: config.node,
                    incarnation: Incarnation(random()),
                    cluster_name: config.cluster_name.clone(),
                    cluster_id: None,
                    // With the remains of a log this node was a member once; without, it cannot
                    // know, and asks everyone.
                    state: if lost.is_some() {
                        IdentityState::Quarantined
                    } else {
                        IdentityState::Fresh
                    },
                    members: BTreeMap::new(),
                };
                (identity, 0)
            }
        };
        // Who has lost a memory is muted before anything else is done with the directory.
        let mut wal = None;
        let is_member = identity.state != IdentityState::Fresh && identity.cluster_id.is_some();
        if is_member && lost.is_none() {
            match Wal::open(&mut disk, config.wal.clone()) {
                Ok(opened) => wal = Some(opened),
                Err(error @ (WalError::Missing { .. } | WalError::Corrupt { .. })) => {
                    lost = Some(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(why) = &lost {
            effects.push_back(Effect::Warning(format!(
                "this node has lost its memory ({why}): it is mute until the others have readmitted it"
            )));
            identity.incarnation = Incarnation(random());
            identity.state = IdentityState::Quarantined;
        }
        if lost.is_some() || identity_count == 0 {
            identity_count += 1;
            identity.store(&mut disk, identity_count)?;
        }
        if lost.is_some() {
            set_aside(&mut disk).map_err(io("set the remains of the old log aside"))?;
        }
        let mut replica = Self {
            phase: Phase::Forming(Forming::new(
                Identity { state: identity.state, cluster_id: None, ..identity.clone() },
                Vec::new(),
                0,
                now,
            )),
            config,
            disk,
            identity,
            identity_count,
            effects,
            connected: NodeSet::EMPTY,
        };
        if is_member {
            replica.run(wal, now)?;
        } else {
            let peers = replica.peers();
            let mut forming = Forming::new(replica.identity.clone(), peers, random(), now);
            let steps = forming.begin();
            replica.phase = Phase::Forming(forming);
            replica.form(steps, now)?;
        }
        Ok(replica)
    }

    fn peers(&self) -> Vec<NodeId> {
        let me = self.config.node;
        self.config.members.iter().copied().filter(|node| *node != me).collect()
    }

    /// Does what the forming of the cluster asks for.
    fn form(&mut self, steps: Vec<FormStep>, now: Time) -> Result<(), OpenError> {
        for step in steps {
            match step {
                FormStep::Send(to, message) => {
                    let incarnation = self.identity.incarnation;
                    let message = PeerMessage::Form { incarnation, message };
                    self.effects.push_back(Effect::Send { to, message });
                }
                FormStep::Store(identity) => {
                    if identity.state == IdentityState::Voter {
                        // The log exists before the identity says that it does: a voter without one
                        // has lost its memory.
                        self.fresh_log()?;
                    }
                    self.identity_count += 1;
                    identity.store(&mut self.disk, self.identity_count)?;
                    self.identity = identity;
                }
                FormStep::Done => {
                    let text = match self.identity.state {
                        IdentityState::Voter => "the cluster is formed",
                        IdentityState::Quarantined | IdentityState::Fresh => {
                            "the cluster exists already: this node is mute until it is readmitted"
                        }
                    };
                    self.effects.push_back(Effect::Notice(text.to_owned()));
                    if self.identity.state == IdentityState::Quarantined {
                        self.fresh_log()?;
                    }
                    let wal = Wal::open(&mut self.disk, self.config.wal.clone())?;
                    self.run(Some(wal), now)?;
                }
            }
        }
        Ok(())
    }

    /// An empty log, whatever was there.
    fn fresh_log(&mut self) -> Result<(), OpenError> {
        set_aside(&mut self.disk).map_err(io("set the remains of an old log aside"))?;
        Wal::create(&mut self.disk, self.config.wal.clone())?;
        Ok(())
    }

    /// Begins to run Raft with this log, or with an empty one.
    fn run(
        &mut self,
        wal: Option<(Wal<D>, tercet_wal::Recovered)>,
        now: Time,
    ) -> Result<(), OpenError> {
        let (wal, recovered) = match wal {
            Some(opened) => opened,
            None => {
                Wal::create(&mut self.disk, self.config.wal.clone())?;
                Wal::open(&mut self.disk, self.config.wal.clone())?
            }
        };
        if let Some(torn) = &recovered.torn_tail {
            self.effects.push_back(Effect::Notice(format!(
                "the log ended in a write that was cut short and never acknowledged: {torn:?}"
            )));
        }
        let mut running = Running {
            raft: Raft::new(self.raft_config(), tercet_raft::Recovered::default(), now),
            wal,
            values: ValuesFile::open(&mut self.disk).map_err(io("open values.log"))?,
            values_error: None,
            window: Window::default(),
            window_limits: WindowLimits::default(),
            tail: Tail { next_seq: 1, time_ms: 0 },
            applied: 0,
            applied_next_seq: 1,
            staged: None,
            pending: BTreeMap::new(),
            waiting_all: BTreeMap::new(),
            barriers: BTreeMap::new(),
            next_proposal: 1,
            disk_full: false,
            check_files_at: now.after(FILES_INTERVAL),
        };
        let (readmits, cut) = running.walk(&mut self.disk)?;
        if cut > 0 {
            self.effects.push_back(Effect::Warning(format!(
                "values.log differed from the log in its last {cut} bytes: made again from there"
            )));
        }
        let recovered = tercet_raft::Recovered {
            hard_state: tercet_raft::HardState {
                term: tercet_raft::Term(recovered.hard_state.term),
                vote: recovered.hard_state.vote.and_then(NodeId::new),
            },
            runs: recovered
                .runs
                .iter()
                .map(|(term, first)| tercet_raft::LogPos::new(*term, *first))
                .collect(),
            last: Index(recovered.last_index),
            readmits,
            commit: Index::ZERO,
        };
        running.raft = Raft::new(self.raft_config(), recovered, now);
        self.phase = Phase::Running(Box::new(running));
        Ok(())
    }

    fn raft_config(&self) -> Config {
        let incarnation = self.identity.incarnation;
        let mut members = self.identity.members.clone();
        for node in &self.config.members {
            members.entry(*node).or_insert(Incarnation(0));
        }
        Config {
            node: self.config.node,
            incarnation,
            members,
            quarantined: self.identity.state == IdentityState::Quarantined,
            profile: self.config.profile,
            rules: self.config.rules,
            heartbeat_interval: self.config.heartbeat_interval,
            election_timer_frozen: self.config.election_timer_frozen,
            election_timeout_min: self.config.election_timeout_min,
            election_timeout_max: self.config.election_timeout_max,
            #[allow(
                clippy::cast_possible_truncation,
                reason = "any 64 bits of a random number do"
            )]
            seed: self.config.seed.unwrap_or(incarnation.0 as u64),
            message_bytes_max: self.config.message_bytes_max,
            inflight_bytes_max: self.config.inflight_bytes_max,
            inflight_messages_max: self.config.inflight_messages_max,
            uncommitted_bytes_max: self.config.uncommitted_bytes_max,
        }
    }

    /// The next thing for the driver to do or to know.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::tick`] is due.
    pub fn poll_timeout(&self) -> Time {
        match &self.phase {
            Phase::Forming(forming) => forming.poll_timeout(),
            Phase::Running(running) => {
                let files = running.check_files_at;
                running.raft.poll_timeout().map_or(files, |raft| raft.min(files))
            }
        }
    }

    /// Who this node is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The core, once the cluster is formed.
    pub fn raft(&self) -> Option<&Raft> {
        match &self.phase {
            Phase::Forming(_) => None,
            Phase::Running(running) => Some(&running.raft),
        }
    }

    /// The sequence number after the last applied record.
    pub fn next_seq(&self) -> u64 {
        match &self.phase {
            Phase::Forming(_) => 1,
            Phase::Running(running) => running.applied_next_seq,
        }
    }

    /// Plain data for people and tools.
    pub fn status(&self) -> ReplicaStatus {
        let identity = self.identity.clone();
        match &self.phase {
            Phase::Forming(forming) => ReplicaStatus {
                identity,
                raft: None,
                awaited: forming.awaited(),
                next_seq: 1,
                disk_full: false,
                values_index: 0,
                window_len: 0,
                values_error: None,
            },
            Phase::Running(running) => ReplicaStatus {
                identity,
                raft: Some(running.raft.status()),
                awaited: Vec::new(),
                next_seq: running.applied_next_seq,
                disk_full: running.disk_full,
                values_index: running.values.written(),
                window_len: running.window.len(),
                values_error: running.values_error.clone(),
            },
        }
    }

    /// The time has come that [`Self::poll_timeout`] named. Harmless when early.
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn tick(&mut self, now: Time) -> Result<(), Fatal> {
        match &mut self.phase {
            Phase::Forming(forming) => {
                let steps = forming.on_timeout(now);
                self.form(steps, now).map_err(open_failed)
            }
            Phase::Running(running) => {
                if now >= running.check_files_at {
                    running.check_files_at = now.after(FILES_INTERVAL);
                    self.check_files()?;
                }
                if self.running().is_some_and(|r| r.raft.poll_timeout().is_some_and(|at| at <= now))
                {
                    self.step(now, Input::Timeout, Incoming::default())?;
                }
                Ok(())
            }
        }
    }

    /// A message of a peer arrived; the bytes of its entries were verified.
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn receive(&mut self, now: Time, from: NodeId, message: PeerMessage) -> Result<(), Fatal> {
        match (message, &mut self.phase) {
            (PeerMessage::Form { incarnation, message }, Phase::Forming(forming)) => {
                let steps = forming.on_message(from, incarnation, message);
                self.form(steps, now).map_err(open_failed)
            }
            (PeerMessage::Form { message, .. }, Phase::Running(running)) => {
                let members = running.raft.members();
                if let Some(answer) = answer_as_member(&self.identity, &members, &message) {
                    let incarnation = self.identity.incarnation;
                    let message = PeerMessage::Form { incarnation, message: answer };
                    self.effects.push_back(Effect::Send { to: from, message });
                }
                Ok(())
            }
            // A node that knows no cluster has no part in one.
            (PeerMessage::Raft { .. }, Phase::Forming(_)) => Ok(()),
            (PeerMessage::Raft { envelope, entries }, Phase::Running(running)) => {
                if !metas_match(&envelope, &entries) {
                    let text =
                        format!("dropped a message of {from}: its entries are not what it says");
                    self.effects.push_back(Effect::Warning(text));
                    return Ok(());
                }
                if running.disk_full && !entries.is_empty() {
                    // Not refused, but not heard: the leader tries again at its heartbeats.
                    return Ok(());
                }
                let incoming = Incoming { entries, ..Incoming::default() };
                self.step(now, Input::Receive(envelope), incoming)
            }
        }
    }

    /// A link to this peer is up: what is sent may arrive.
    pub fn link_up(&mut self, peer: NodeId) {
        self.connected.insert(peer);
    }

    /// The link to this peer was lost: what was sent may not have arrived.
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn link_lost(&mut self, now: Time, peer: NodeId) -> Result<(), Fatal> {
        self.connected.remove(peer);
        match self.phase {
            Phase::Forming(_) => Ok(()),
            Phase::Running(_) => self.step(now, Input::LinkLost { peer }, Incoming::default()),
        }
    }

    /// Clients ask for records to be appended; `wall_ms` is the time of day in milliseconds.
    /// Answered by [`Effect::Submitted`], each.
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn submit(&mut self, now: Time, wall_ms: u64, submits: Vec<Submit>) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            for submit in submits {
                let result = Err(SubmitError::NotLeader);
                self.effects.push_back(Effect::Submitted { tag: submit.tag, result });
            }
            return Ok(());
        };
        running.tail.time_ms = running.tail.time_ms.max(wall_ms);
        let mut incoming = Incoming::default();
        let mut proposals = Vec::with_capacity(submits.len());
        // What the requests of this very batch will occupy, should all of them be accepted.
        let mut next_seq = running.tail.next_seq;
        let mut in_batch: Vec<u128> = Vec::new();
        for submit in submits {
            let tag = submit.tag;
            let (pieces, digest) = records_body(submit.request_id, &submit.records);
            // The same id twice in one batch: the second is a step of its own, after the first.
            if in_batch.contains(&submit.request_id) {
                self.propose(now, std::mem::take(&mut proposals), std::mem::take(&mut incoming))?;
                in_batch.clear();
            }
            let Phase::Running(running) = &mut self.phase else { unreachable!("still running") };
            if in_batch.is_empty() {
                next_seq = running.tail.next_seq;
            }
            match running.consider(&submit, digest, next_seq) {
                Considered::Answer(result) => {
                    self.effects.push_back(Effect::Submitted { tag, result });
                }
                Considered::Attach { index, pending } => {
                    running.pending.entry(index).or_default().push(pending);
                }
                Considered::Propose => {
                    let body: usize = pieces.iter().map(Bytes::len).sum();
                    let id = ProposalId(running.next_proposal);
                    running.next_proposal += 1;
                    next_seq += submit.records.len() as u64;
                    in_batch.push(submit.request_id);
                    proposals.push(Proposal { id, bytes: (ENTRY_HEADER_BYTES + body) as u64 });
                    incoming.proposals.push_back(Proposing { submit, pieces, digest });
                }
            }
        }
        self.propose(now, proposals, incoming)
    }

    fn propose(
        &mut self,
        now: Time,
        proposals: Vec<Proposal>,
        incoming: Incoming,
    ) -> Result<(), Fatal> {
        if proposals.is_empty() {
            return Ok(());
        }
        self.step(now, Input::Propose { proposals }, incoming)
    }

    /// A client wants a linearizable read. Answered by [`Effect::BarrierDone`].
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn read_barrier(&mut self, now: Time, tag: u64) -> Result<(), Fatal> {
        match self.phase {
            Phase::Forming(_) => {
                self.effects.push_back(Effect::BarrierDone { tag, confirmed: false });
                Ok(())
            }
            Phase::Running(_) => {
                let input = Input::ReadBarrier { id: BarrierId(tag) };
                self.step(now, input, Incoming::default())
            }
        }
    }

    /// An operator wants another leader. Answered by [`Effect::TransferEnded`].
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn transfer(&mut self, now: Time, to: Option<NodeId>) -> Result<(), Fatal> {
        match self.phase {
            Phase::Forming(_) => {
                let result = Err(TransferError::NotLeader);
                self.effects.push_back(Effect::TransferEnded { result });
                Ok(())
            }
            Phase::Running(_) => {
                self.step(now, Input::TransferLeadership { to }, Incoming::default())
            }
        }
    }

    /// The lab interferes.
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn interfere(&mut self, now: Time, input: LabInput) -> Result<(), Fatal> {
        let input = match input {
            LabInput::Campaign => Input::Campaign,
            LabInput::FreezeElectionTimer { frozen } => {
                self.config.election_timer_frozen = frozen;
                Input::FreezeElectionTimer { frozen }
            }
            LabInput::SetHeartbeatInterval { interval, until_stepdown } => {
                Input::SetHeartbeatInterval { interval, until_stepdown }
            }
            LabInput::SetRules { rules } => {
                self.config.rules = rules;
                Input::SetRules { rules }
            }
        };
        match self.phase {
            Phase::Forming(_) => Ok(()),
            Phase::Running(_) => self.step(now, input, Incoming::default()),
        }
    }

    /// From now on the disk counts as full with less than this free (the lab). Noticed at the next
    /// look at the files.
    pub fn set_disk_reserve_bytes(&mut self, bytes: u64) {
        self.config.wal.reserve_bytes = bytes;
        if let Phase::Running(running) = &mut self.phase {
            running.wal.set_reserve_bytes(bytes);
        }
    }

    /// What is in the log from an index on, committed or not, for people and tools.
    ///
    /// # Errors
    /// The log failed.
    pub fn logged(&self, from: u64, limit: usize) -> Result<Vec<LoggedEntry>, ReadError> {
        let mut logged = Vec::new();
        let Some(running) = self.running() else { return Ok(logged) };
        let last = running.wal.last_index();
        let mut next = from.max(running.wal.first_index());
        while next <= last && logged.len() < limit {
            for entry in running.wal.read(&self.disk, next, last, 1 << 20)? {
                next = entry.header.index + 1;
                if logged.len() < limit {
                    logged.push(logged_entry(&entry)?);
                }
            }
        }
        Ok(logged)
    }

    /// Whether [`Self::flush`] has something to do.
    pub fn needs_flush(&self) -> bool {
        self.running().is_some_and(|running| running.staged.is_some() || running.values_behind())
    }

    /// Puts all that is staged on disk with one sync, tells the core, applies what is committed,
    /// and writes a slice of `values.log`.
    ///
    /// # Errors
    /// [`Fatal`]: stop. Nothing of what failed was acknowledged.
    pub fn flush(&mut self, now: Time) -> Result<(), Fatal> {
        loop {
            let Phase::Running(running) = &mut self.phase else {
                return Ok(());
            };
            let Some(write) = running.staged else { break };
            match running.wal.commit(&mut self.disk) {
                Ok(()) => {}
                Err(WalError::Full) => {
                    // Nothing was written; all of it stays staged until there is room.
                    running.note_full(true, &mut self.effects);
                    break;
                }
                Err(error) => return Err(fatal(error)),
            }
            running.staged = None;
            self.step(now, Input::Durable { write }, Incoming::default())?;
        }
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        running.advance_values(&self.disk, &mut self.effects)?;
        running.answer_waiting_all(&mut self.effects);
        Ok(())
    }

    /// Committed records from `from_seq` on: at most `limit`, and about `bytes_max` bytes of values
    /// (one record at least). Empty if there is none yet.
    ///
    /// # Errors
    /// The log failed.
    pub fn read(
        &self,
        from_seq: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        match self.running() {
            None => Ok(Vec::new()),
            Some(running) => running.read(&self.disk, from_seq, limit, bytes_max),
        }
    }

    fn running(&self) -> Option<&Running<D>> {
        match &self.phase {
            Phase::Forming(_) => None,
            Phase::Running(running) => Some(running),
        }
    }

    /// Notices what was done to the files behind this node's back.
    fn check_files(&mut self) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        running.wal.check_files(&self.disk).map_err(fatal)?;
        let room = running.wal.room(&self.disk);
        running.note_full(room == Room::Full, &mut self.effects);
        if !running.values.is_intact(&self.disk).unwrap_or(false)
            && running.values.pending_bytes() == 0
        {
            let text = "values.log was deleted, replaced or edited: it is made again from the log";
            self.effects.push_back(Effect::Warning(text.to_owned()));
            running.rebuild_values(&mut self.disk);
        }
        Ok(())
    }

    /// Steps the core and does what it wants done.
    fn step(&mut self, now: Time, input: Input, mut incoming: Incoming) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            unreachable!("the core is stepped only when the cluster is formed");
        };
        running.raft.step(now, input);
        while let Some(output) = running.raft.poll_output() {
            match output {
                Output::Write(write) => running.stage(&write, &mut incoming, &mut self.disk)?,
                Output::Send(envelope) => {
                    let to = envelope.to;
                    let message = PeerMessage::Raft { envelope, entries: Vec::new() };
                    self.effects.push_back(Effect::Send { to, message });
                }
                Output::SendEntries { envelope, last, bytes_max } => {
                    let connected = self.connected.contains(envelope.to);
                    let effects = &mut self.effects;
                    running.send(now, envelope, last, bytes_max, connected, &self.disk, effects)?;
                }
                Output::Commit { last } => {
                    running.apply(last.0, &self.disk, &mut self.effects)?;
                }
                Output::Accepted { id, pos } => {
                    let _ = id;
                    let proposing = incoming.proposals.pop_front();
                    let proposing = proposing.expect("proposals are answered in order");
                    incoming.accepted.push_back((pos.index.0, proposing));
                }
                Output::Refused { id, reason } => {
                    let _ = id;
                    let proposing = incoming.proposals.pop_front();
                    let tag = proposing.expect("proposals are answered in order").submit.tag;
                    let result = Err(match reason {
                        Refusal::NotLeader { .. } => SubmitError::NotLeader,
                        Refusal::Transferring => SubmitError::Transferring,
                        Refusal::Overloaded => SubmitError::Overloaded,
                    });
                    self.effects.push_back(Effect::Submitted { tag, result });
                }
                Output::BarrierReady { id, index } => {
                    if index.0 <= running.applied {
                        let done = Effect::BarrierDone { tag: id.0, confirmed: true };
                        self.effects.push_back(done);
                    } else {
                        running.barriers.entry(index.0).or_default().push(id.0);
                    }
                }
                Output::BarrierFailed { id } => {
                    self.effects.push_back(Effect::BarrierDone { tag: id.0, confirmed: false });
                }
                Output::TransferEnded { result } => {
                    self.effects.push_back(Effect::TransferEnded { result });
                }
                Output::Admit { pos } => {
                    let _ = pos;
                    self.identity.state = IdentityState::Voter;
                    self.identity.members = running.raft.members().clone();
                    self.identity.members.insert(self.identity.node, self.identity.incarnation);
                    self.identity_count += 1;
                    self.identity
                        .store(&mut self.disk, self.identity_count)
                        .map_err(|error| Fatal::Disk(error.to_string()))?;
                    let text = "readmitted: this node is a voter again";
                    self.effects.push_back(Effect::Notice(text.to_owned()));
                    running.raft.step(now, Input::Admitted);
                }
                Output::Event(event) => self.effects.push_back(Effect::Event(event)),
            }
        }
        assert!(incoming.accepted.is_empty(), "every accepted proposal was written");
        running.lose_leadership(&mut self.effects);
        running.answer_waiting_all(&mut self.effects);
        Ok(())
    }
}

/// What becomes of a submit on a leader.
enum Considered {
    Answer(Result<Submitted, SubmitError>),
    Attach { index: u64, pending: Pending },
    Propose,
}

impl<D: Disk> Running<D> {
    /// Walks the whole log once, at the start: compares `values.log` with it, and remembers the
    /// request ids and the Readmit entries in it.
    fn walk(&mut self, disk: &mut D) -> Result<(Readmits, u64), OpenError> {
        let values = ValuesFile::open(disk).map_err(io("open values.log"))?;
        let values = std::mem::replace(&mut self.values, values);
        let mut check = Check::new(values).map_err(io("read values.log"))?;
        let mut readmits = BTreeMap::new();
        let last = self.wal.last_index();
        // Older ids would be forgotten again at once.
        let window_from = last.saturating_sub(self.window_limits.count_max as u64);
        let mut next = self.wal.first_index();
        while next <= last {
            for entry in self.wal.read(disk, next, last, WALK_BYTES)? {
                next = entry.header.index + 1;
                check.entry(&entry).map_err(io("read values.log"))?;
                if let EntryKind::Readmit { node, incarnation } = kind_of(&entry) {
                    readmits.insert(Index(entry.header.index), (node, incarnation));
                }
                self.note_appended(&entry, entry.header.index > window_from);
            }
        }
        let (values, cut) = check.finish().map_err(io("cut values.log"))?;
        self.values = values;
        Ok((readmits, cut))
    }

    /// An entry is now the last of the log.
    fn note_appended(&mut self, entry: &Entry, remember: bool) {
        let EntryHeader { index, first_seq, record_count, time_ms, .. } = entry.header;
        self.tail.next_seq = first_seq + u64::from(record_count);
        self.tail.time_ms = self.tail.time_ms.max(time_ms);
        if record_count > 0
            && remember
            && let Ok(records) = records_of(entry)
        {
            let seen = Seen { index, first_seq, record_count, digest: records.digest };
            self.window.insert(records.request_id, time_ms, seen);
        }
    }

    /// What becomes of a submit: only a leader appends, and only what its log does not hold.
    fn consider(&self, submit: &Submit, digest: u32, next_seq: u64) -> Considered {
        match self.raft.role() {
            RoleKind::Leader => {}
            RoleKind::Quarantined => return Considered::Answer(Err(SubmitError::Quarantined)),
            RoleKind::Follower | RoleKind::PreCandidate | RoleKind::Candidate => {
                return Considered::Answer(Err(SubmitError::NotLeader));
            }
        }
        if let Some(seen) = self.window.find(submit.request_id) {
            if seen.digest != digest || seen.record_count as usize != submit.records.len() {
                return Considered::Answer(Err(SubmitError::KeyReused));
            }
            let term = self.raft.term_at(Index(seen.index)).map_or(0, |term| term.0);
            let pending =
                Pending { tag: submit.tag, term, seen, duplicate: true, wait_all: submit.wait_all };
            if seen.index <= self.applied && !submit.wait_all {
                return Considered::Answer(Ok(self.submitted(&pending)));
            }
            return Considered::Attach { index: seen.index, pending };
        }
        if made_at_ms(submit.request_id).is_some_and(|made| made < self.window.horizon_ms()) {
            return Considered::Answer(Err(SubmitError::KeyExpired));
        }
        if self.disk_full {
            return Considered::Answer(Err(SubmitError::DiskFull));
        }
        if submit.expect_next.is_some_and(|expected| expected != next_seq) {
            return Considered::Answer(Err(SubmitError::Conflict { next_seq }));
        }
        Considered::Propose
    }

    fn submitted(&self, pending: &Pending) -> Submitted {
        let Seen { index, first_seq, record_count, .. } = pending.seen;
        let status = self.raft.status();
        let mut durable_on: NodeSet = status
            .peers
            .iter()
            .filter(|peer| peer.matched.0 >= index)
            .map(|peer| peer.node)
            .collect();
        if self.raft.durable().0 >= index {
            durable_on.insert(self.raft.node());
        }
        Submitted {
            first_seq,
            last_seq: first_seq + u64::from(record_count) - 1,
            term: pending.term,
            index,
            duplicate: pending.duplicate,
            durable_on,
        }
    }

    /// Stages a write of the core: pairs its metas with their bytes.
    fn stage(&mut self, write: &Write, incoming: &mut Incoming, disk: &mut D) -> Result<(), Fatal> {
        if let Some(from) = write.truncate_from {
            self.truncate(from.0, disk)?;
        }
        let mut entries = Vec::with_capacity(write.entries.len());
        for (meta, index) in write.entries.iter().zip(write.first.0..) {
            let received =
                incoming.entries.first().map(|first| first.header.index).and_then(|first| {
                    let at = usize::try_from(index.checked_sub(first)?).ok()?;
                    incoming.entries.get(at).cloned()
                });
            let is_accepted = incoming.accepted.front().is_some_and(|(at, _)| *at == index);
            let entry = match received {
                Some(entry) => entry,
                None if is_accepted => {
                    let (_, proposing) = incoming.accepted.pop_front().expect("looked at above");
                    self.make_records(*meta, index, proposing)
                }
                None => self.make_own(*meta, index),
            };
            assert_eq!(
                (entry.header.index, entry.header.term),
                (index, meta.term.0),
                "the core and the bytes speak of the same entry"
            );
            self.note_appended(&entry, true);
            entries.push(entry);
        }
        let hard_state = write
            .hard_state
            .map(|state| HardState { term: state.term.0, vote: state.vote.map(NodeId::slot) });
        self.wal.stage(Batch {
            hard_state,
            truncate_from: write.truncate_from.map(|from| from.0),
            entries,
        });
        self.staged = Some(write.id);
        Ok(())
    }

    /// The log is about to lose its tail from `from` on.
    fn truncate(&mut self, from: u64, disk: &mut D) -> Result<(), Fatal> {
        assert!(from > self.applied, "what was applied is never cut: {from} ≤ {}", self.applied);
        self.window.truncate(from);
        if self.values.written() >= from {
            // Lines that stood in the file, but for entries that were never committed: somebody
            // else wrote them.
            self.rebuild_values(disk);
        }
        for (_, lost) in self.pending.split_off(&from) {
            debug_assert!(lost.is_empty(), "a leader never cuts its own log");
        }
        let last = from - 1;
        self.tail.next_seq = if last < self.wal.first_index() {
            1
        } else {
            let header = self.wal.header(disk, last).map_err(fatal)?;
            header.first_seq + u64::from(header.record_count)
        };
        Ok(())
    }

    fn header(&self, meta: EntryMeta, index: u64, kind: u8, record_count: u32) -> EntryHeader {
        EntryHeader {
            term: meta.term.0,
            index,
            first_seq: self.tail.next_seq,
            record_count,
            kind,
            flags: 0,
            log_id: 0,
            time_ms: self.tail.time_ms,
            body_bytes: 0,
            crc: 0,
        }
    }

    /// Makes the bytes of an accepted submit, once for all disks and links.
    fn make_records(&mut self, meta: EntryMeta, index: u64, proposing: Proposing) -> Entry {
        let Proposing { submit, pieces, digest } = proposing;
        let record_count = u32::try_from(submit.records.len()).expect("far below 4 billion");
        let header = self.header(meta, index, KIND_RECORDS, record_count);
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
        let entry = make_entry(&header, &pieces);
        let seen = Seen { index, first_seq: header.first_seq, record_count, digest };
        let pending = Pending {
            tag: submit.tag,
            term: meta.term.0,
            seen,
            duplicate: false,
            wait_all: submit.wait_all,
        };
        self.pending.entry(index).or_default().push(pending);
        entry
    }

    /// Makes an entry of a leader's own.
    fn make_own(&self, meta: EntryMeta, index: u64) -> Entry {
        match meta.kind {
            EntryKind::Noop => make_entry(&self.header(meta, index, KIND_NOOP, 0), &[]),
            EntryKind::Readmit { node, incarnation } => {
                let header = self.header(meta, index, KIND_READMIT, 0);
                make_entry(&header, &[&[node.slot()], &incarnation.0.to_le_bytes()])
            }
            EntryKind::Payload => unreachable!("entry {index} has no bytes"),
        }
    }

    /// Sends the entries that the core asked for, as many as fit, and says how many that were.
    #[allow(clippy::too_many_arguments, reason = "the parts of one output and of the replica")]
    fn send(
        &mut self,
        now: Time,
        mut envelope: Envelope,
        last: Index,
        bytes_max: u64,
        connected: bool,
        disk: &D,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Fatal> {
        let to = envelope.to;
        let Message::Append { prev, entries: metas, .. } = &mut envelope.message else {
            unreachable!("entries travel in an Append");
        };
        let mut sent = prev.index;
        let mut bytes = 0;
        if connected {
            let entries =
                self.wal.read(disk, prev.index.0 + 1, last.0, bytes_max).map_err(fatal)?;
            for entry in &entries {
                metas.push(meta_of(entry));
                bytes += entry.frame.len() as u64;
            }
            sent = Index(prev.index.0 + entries.len() as u64);
            let message = PeerMessage::Raft { envelope, entries };
            effects.push_back(Effect::Send { to, message });
        }
        self.raft.step(now, Input::Sent { to, last: sent, bytes });
        Ok(())
    }

    /// Everything up to `last` is committed: readers see it, and those who wait are answered.
    fn apply(&mut self, last: u64, disk: &D, effects: &mut VecDeque<Effect>) -> Result<(), Fatal> {
        if last <= self.applied {
            return Ok(());
        }
        let header = self.wal.header(disk, last).map_err(fatal)?;
        self.applied = last;
        self.applied_next_seq = header.first_seq + u64::from(header.record_count);
        self.advance_values(disk, effects)?;
        self.window.forget(last, self.window_limits);
        let later = self.pending.split_off(&(last + 1));
        for (index, pendings) in std::mem::replace(&mut self.pending, later) {
            for pending in pendings {
                let holds =
                    self.raft.term_at(Index(index)).map(|term| term.0) == Some(pending.term);
                assert!(holds, "entry {index} of a leader is the one that was submitted");
                if pending.wait_all {
                    self.waiting_all.entry(index).or_default().push(pending);
                } else {
                    let result = Ok(self.submitted(&pending));
                    effects.push_back(Effect::Submitted { tag: pending.tag, result });
                }
            }
        }
        let later = self.barriers.split_off(&(last + 1));
        for tag in std::mem::replace(&mut self.barriers, later).into_values().flatten() {
            effects.push_back(Effect::BarrierDone { tag, confirmed: true });
        }
        Ok(())
    }

    /// Answers those who wait for every member.
    fn answer_waiting_all(&mut self, effects: &mut VecDeque<Effect>) {
        while let Some(entry) = self.waiting_all.first_entry() {
            let index = *entry.key();
            let on_all = self.raft.status().peers.iter().all(|peer| peer.matched.0 >= index);
            if !on_all || self.raft.role() != RoleKind::Leader {
                return;
            }
            for pending in entry.remove() {
                let result = Ok(self.submitted(&pending));
                effects.push_back(Effect::Submitted { tag: pending.tag, result });
            }
        }
    }

    /// Whoever waits on a node that no longer leads gets an answer: nobody can know.
    fn lose_leadership(&mut self, effects: &mut VecDeque<Effect>) {
        if self.raft.role() == RoleKind::Leader
            || (self.pending.is_empty() && self.waiting_all.is_empty())
        {
            return;
        }
        let waiting = std::mem::take(&mut self.pending).into_values();
        let waiting_all = std::mem::take(&mut self.waiting_all).into_values();
        for pending in waiting.chain(waiting_all).flatten() {
            let result = Err(SubmitError::LeadershipLost);
            effects.push_back(Effect::Submitted { tag: pending.tag, result });
        }
    }

    fn values_behind(&self) -> bool {
        self.values_error.is_none() && self.values.written() < self.applied
    }

    /// Writes the next slice of `values.log`.
    fn advance_values(&mut self, disk: &D, effects: &mut VecDeque<Effect>) -> Result<(), Fatal> {
        while self.values.written() < self.applied
            && self.values.pending_bytes() < VALUES_SLICE_BYTES
        {
            let next = self.values.written() + 1;
            let budget = (VALUES_SLICE_BYTES - self.values.pending_bytes()) as u64;
            for entry in self.wal.read(disk, next, self.applied, budget).map_err(fatal)? {
                if let Err(error) = self.values.append(&entry) {
                    return Err(Fatal::LostMemory(error.to_string()));
                }
            }
        }
        // The file is not the truth: what cannot be written now is written later.
        let error = self.values.flush().err().map(|error| error.to_string());
        if let (Some(error), None) = (&error, &self.values_error) {
            effects.push_back(Effect::Warning(format!("values.log cannot be written: {error}")));
        }
        self.values_error = error;
        Ok(())
    }

    /// Begins `values.log` again from the first record.
    fn rebuild_values(&mut self, disk: &mut D) {
        let made = (|| {
            if disk.open(crate::values::FILE)?.is_some() {
                disk.remove(crate::values::FILE)?;
            }
            ValuesFile::open(disk)
        })();
        match made {
            Ok(values) => {
                self.values = values;
                self.values_error = None;
            }
            Err(error) => self.values_error = Some(error.to_string()),
        }
    }

    fn note_full(&mut self, full: bool, effects: &mut VecDeque<Effect>) {
        if full != self.disk_full {
            self.disk_full = full;
            effects.push_back(Effect::Warning(if full {
                "the disk is full: new records are refused until there is space again".to_owned()
            } else {
                "there is space on the disk again: new records are accepted".to_owned()
            }));
        }
        if !full && self.values_error.is_some() {
            // Worth another try.
            self.values_error = None;
        }
    }

    fn read(
        &self,
        disk: &D,
        from_seq: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::new();
        if from_seq >= self.applied_next_seq || limit == 0 {
            return Ok(records);
        }
        let mut index = self.find(disk, from_seq)?;
        let mut bytes = 0;
        while index <= self.applied {
            let budget = bytes_max.saturating_sub(bytes).clamp(1, 1 << 20) as u64;
            for entry in self.wal.read(disk, index, self.applied, budget)? {
                index = entry.header.index + 1;
                if entry.header.record_count == 0 {
                    continue;
                }
                let values = records_of(&entry)?.values;
                for (seq, value) in (entry.header.first_seq..).zip(values) {
                    if seq < from_seq {
                        continue;
                    }
                    if records.len() >= limit || (bytes >= bytes_max && !records.is_empty()) {
                        return Ok(records);
                    }
                    bytes += value.len();
                    records.push(Record { seq, value });
                }
            }
        }
        Ok(records)
    }

    /// The entry that holds the record with this sequence number, which is applied.
    fn find(&self, disk: &D, seq: u64) -> Result<u64, WalError> {
        let (mut low, mut high) = (self.wal.first_index(), self.applied);
        // Invariant: the entry lies in low..=high.
        while low < high {
            let middle = low + (high - low) / 2;
            let header = self.wal.header(disk, middle)?;
            if header.first_seq + u64::from(header.record_count) > seq {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }
}

pub(crate) fn make_entry(header: &EntryHeader, body: &[&[u8]]) -> Entry {
    let mut out = BytesMut::with_capacity(
        ENTRY_HEADER_BYTES + body.iter().map(|piece| piece.len()).sum::<usize>(),
    );
    encode_entry(header, body, &mut out);
    Entry::parse(out.freeze()).expect("what was encoded can be read")
}

fn kind_of(entry: &Entry) -> EntryKind {
    match (entry.header.kind, entry.body()) {
        (KIND_READMIT, [slot, rest @ ..]) => {
            let incarnation = rest.try_into().map(u128::from_le_bytes).map(Incarnation);
            match (NodeId::new(*slot), incarnation) {
                (Some(node), Ok(incarnation)) => EntryKind::Readmit { node, incarnation },
                _ => EntryKind::Noop,
            }
        }
        (KIND_RECORDS, _) => EntryKind::Payload,
        _ => EntryKind::Noop,
    }
}

fn logged_entry(entry: &Entry) -> Result<LoggedEntry, RecordsError> {
    let content = match kind_of(entry) {
        EntryKind::Noop => LoggedContent::Noop,
        EntryKind::Readmit { node, .. } => LoggedContent::Readmit(node),
        EntryKind::Payload => {
            let records = records_of(entry)?;
            LoggedContent::Records { request_id: records.request_id, values: records.values }
        }
    };
    Ok(LoggedEntry { index: entry.header.index, term: entry.header.term, content })
}

/// An entry as the core sees it.
pub fn meta_of(entry: &Entry) -> EntryMeta {
    EntryMeta { term: tercet_raft::Term(entry.header.term), kind: kind_of(entry) }
}

/// Whether the entries are those of which the message speaks.
fn metas_match(envelope: &Envelope, entries: &[Entry]) -> bool {
    match &envelope.message {
        Message::Append { prev, entries: metas, .. } => {
            metas.len() == entries.len()
                && entries.iter().zip(metas).zip(prev.index.0 + 1..).all(
                    |((entry, meta), index)| entry.header.index == index && meta_of(entry) == *meta,
                )
        }
        Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::Vote { .. }
        | Message::VoteReply { .. }
        | Message::AppendReply { .. }
        | Message::Heartbeat { .. }
        | Message::HeartbeatReply { .. }
        | Message::LearnerReply { .. }
        | Message::Rejoin
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. } => entries.is_empty(),
    }
}

/// When a request id was made, if it is a UUID of version 7 from this program's lifetime: only
/// those tell.
fn made_at_ms(id: u128) -> Option<u64> {
    const YEAR_2024_MS: u64 = 1_704_067_200_000;
    let version = (id >> 76) & 0xf;
    let variant = (id >> 62) & 0b11;
    let made = u64::try_from(id >> 80).ok()?;
    (version == 7 && variant == 0b10 && made >= YEAR_2024_MS).then_some(made)
}

fn check_identity(identity: &Identity, config: &ReplicaConfig) -> Result<(), OpenError> {
    if identity.cluster_name != config.cluster_name {
        return Err(OpenError::OtherCluster {
            found: identity.cluster_name.clone(),
            expected: config.cluster_name.clone(),
        });
    }
    if identity.node != config.node {
        return Err(OpenError::OtherNode {
            found: identity.node.slot(),
            expected: config.node.slot(),
        });
    }
    let found: Vec<NodeId> = identity.members.keys().copied().collect();
    let mut expected = config.members.clone();
    expected.sort_unstable();
    if identity.cluster_id.is_some() && !found.is_empty() && found != expected {
        return Err(OpenError::OtherMembers {
            found: format!("{found:?}"),
            expected: format!("{expected:?}"),
        });
    }
    Ok(())
}

/// Moves what an earlier incarnation left behind out of the way. The newest remains are kept for a
/// person to look at; nothing reads them.
fn set_aside<D: Disk>(disk: &mut D) -> std::io::Result<()> {
    let segments = disk.list("wal")?;
    if segments.is_empty() {
        return Ok(());
    }
    for name in disk.list(LOST_DIR)? {
        disk.remove(&format!("{LOST_DIR}/{name}"))?;
    }
    for name in segments {
        disk.rename(&format!("wal/{name}"), &format!("{LOST_DIR}/{name}"))?;
    }
    disk.sync_dir("wal")?;
    disk.sync_dir(LOST_DIR)?;
    Ok(())
}

fn io(op: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { op, source }
}

fn fatal(error: WalError) -> Fatal {
    match error {
        WalError::Lost { .. } | WalError::Corrupt { .. } | WalError::Missing { .. } => {
            Fatal::LostMemory(error.to_string())
        }
        WalError::Io { .. } | WalError::Newer { .. } | WalError::Poisoned | WalError::Full => {
            Fatal::Disk(error.to_string())
        }
    }
}

fn open_failed(error: OpenError) -> Fatal {
    Fatal::Disk(error.to_string())
}
