//! The driver: one owner, one loop. It waits for whatever comes first, hands everything that has
//! come to the replica, sends what the replica wants sent, and only then lets it write its disk.
//!
//! ```text
//!   wait ─► drain ─► step ─► send ─► flush (one write, one sync) ─► send ─► answer ─► wait …
//! ```
//! A batch is what arrived while the last one was written: nothing is delayed to make it bigger.
//! A leader that has more to do than one submit lets another thread wait for the sync, and goes on.
//! All of the node's state lives on this thread; there are no locks around it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use tercet_client::{ApiError, Outcome, Reason, v1};
use tercet_raft::{
    FaultyEntry, LogPos, NodeId, NodeSet, ProgressKind, RoleKind, Time, TransferError,
};
use tercet_replica::{
    Effect, Fatal, FoundRecords, IdentityState, OpenError, PeerMessage, ReadError, Reading,
    Replica, ReplicaConfig, SlowDisk, SubmitError, Unread, UnreadRecords, WasRead,
};
use tercet_wal::{FileDisk, WalOptions};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::beside::Beside;
use crate::busy_poll::BusyPoll;
use crate::classic::{Classic, ENTRIES_MAX};
use crate::config::ServerConfig;
use crate::forward::{self, ForwardReply};
use crate::lab::{Action, LOG_MAX, Lab, logged};
use crate::metrics::Metrics;
use crate::node::{Answered, Command, NodeEvent, Page, Progress, Range, Record, Submit, Submitted};
use crate::peer::frame::{Frame, Kind};
use crate::peer::hello::{Channel, Local};
use crate::peer::link::{Arrived, Body, LinkEvent, Links, Mailbox};
use crate::syncer::{Synced, Syncer};
use crate::timing::Timing;

/// The most inputs that are taken before the disk is written.
const DRAIN_MAX: usize = 1024;
/// No more is taken either once so many bytes wait for the disk: who shares it waits behind them.
const DRAIN_BYTES: usize = 1 << 20;
/// A leader with so many bytes that its own disk lacks waits for it, though others are faster: what
/// they have is answered, and clients would go on until memory ends.
const STAGED_BYTES_MAX: usize = 4 << 20;
/// With fewer entries to sync, a leader waits for the disk itself: nobody else has something for it.
const BESIDE_MIN: usize = 2;
/// Of records, so many bytes that are on disk are read beside this thread: to hand over fewer, which
/// are likely to be in the page cache, takes as long as to read them.
const READ_BESIDE_BYTES: u64 = 64 << 10;
/// `values.log` gets its lines so long after they are due: what comes meanwhile goes with them, by one
/// write.
const VALUES_DELAY: Duration = Duration::from_millis(5);
/// How often the same reason for refusing a connection is told.
const REFUSAL_EVERY: Duration = Duration::from_secs(60);
/// How many reasons are told in that time: garbage can be of many kinds.
const REFUSALS_MAX: usize = 16;
/// How long a planned stop waits for another node to lead.
const HANDOVER: Duration = Duration::from_millis(1500);

/// Where the owner takes orders from and tells what happens.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) progress: watch::Sender<Progress>,
    /// Apart from the progress, which changes with every commit.
    pub(crate) serves: watch::Sender<bool>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) metrics: Arc<Metrics>,
    /// Turns true when the node shall stop.
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) started: Instant,
    pub(crate) event_seq: u64,
    /// Kept while the node is opened again without its memory: the lab's rules are not the node's.
    pub(crate) lab: Option<Lab>,
}

/// Why the owner ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was asked to.
    Stopped,
    /// The node lost its memory while running: open it again, so.
    LostMemory(String),
}

/// Why a node cannot run (any more).
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error("{data}: {source}")]
    Open { data: String, source: OpenError },
    #[error("{data}: {source}")]
    Disk { data: String, source: tercet_wal::OpenDirError },
    #[error(
        "{data}: {what}: nothing was acknowledged after it. Check the disk, then start the node again"
    )]
    Failed { data: String, what: String },
}

/// Who waits for the answer to a submit.
#[derive(Debug)]
enum ReplyTo {
    Here(oneshot::Sender<Answered>),
    Peer { node: NodeId, id: u64 },
}

/// Who waits for a read barrier.
#[derive(Debug)]
enum Awaiting {
    Barrier(oneshot::Sender<Result<(), ApiError>>),
    Read(Range, ReadReply),
}

/// Who waits for records.
type ReadReply = oneshot::Sender<Result<Page, ApiError>>;

/// What this node knows about a peer's links.
#[derive(Clone, Debug, Default)]
struct PeerLink {
    up: u32,
    client_address: String,
    error: String,
}

impl PeerLink {
    /// Whether all that this node dials is up.
    const fn is_up(&self) -> bool {
        self.up as usize == Channel::ALL.len()
    }
}

/// A submit that a peer was asked to append.
#[derive(Debug)]
struct Forwarded {
    to: NodeId,
    reply: oneshot::Sender<Answered>,
}

struct Driver<'a> {
    config: &'a ServerConfig,
    desk: &'a mut Desk,
    /// Before the replica, which holds the directory: it ends first.
    syncer: Syncer,
    /// Reads what is sent to followers that lag far behind.
    reader: Beside<Unread<File>, WasRead>,
    /// Reads what clients asked for.
    record_reader: Beside<(UnreadRecords<File>, ReadReply), (Reading, ReadReply)>,
    replica: Replica<FileDisk>,
    links: Links,
    local: Rc<Local>,
    peers: BTreeMap<NodeId, PeerLink>,
    replies: BTreeMap<u64, ReplyTo>,
    barriers: BTreeMap<u64, Awaiting>,
    transfers: Vec<oneshot::Sender<Result<u8, ApiError>>>,
    forwarded: BTreeMap<u64, Forwarded>,
    /// Submits of this turn, appended together.
    submits: Vec<tercet_replica::Submit>,
    timing: Timing,
    /// When `values.log` is written, if there is something to write.
    values_due: Option<Instant>,
    next_tag: u64,
    /// Why connections were refused, and when that was told.
    refusals: BTreeMap<String, Instant>,
    /// The role that was last told.
    role: Option<RoleKind>,
    classic: Option<Classic>,
}

/// Runs a node until it is stopped. Must run inside a `LocalSet`.
pub(crate) async fn run(
    config: &ServerConfig,
    desk: &mut Desk,
    listener: Rc<TcpListener>,
    lost: Option<String>,
    random: &mut dyn FnMut() -> u128,
    on_open: impl FnOnce(),
) -> Result<Ended, DriverError> {
    let data = || config.data.display().to_string();
    let disk = FileDisk::open(config.data.clone())
        .map_err(|source| DriverError::Disk { data: data(), source })?;
    let now = clock(desk.started);
    let replica = Replica::open(disk, replica_config(config), lost, random, now)
        .map_err(|source| DriverError::Open { data: data(), source })?;
    on_open();
    let node = NodeId::new(config.node).expect("the config was checked");
    let local = Rc::new(Local {
        node,
        cluster_name: config.cluster_name.clone(),
        members: config
            .members
            .iter()
            .map(|(slot, address)| (NodeId::new(*slot).expect("checked"), address.clone()))
            .collect(),
        incarnation: replica.identity().incarnation,
        origin: RefCell::new(None),
        client_address: config.advertise.clone().unwrap_or_else(|| config.listen.to_string()),
    });
    let (links, mailbox) = Links::start(&local, listener);
    let failed = |error: io::Error| DriverError::Failed { data: data(), what: error.to_string() };
    let mut driver = Driver {
        config,
        desk,
        syncer: Syncer::start().map_err(failed)?,
        reader: Beside::start("tercet-read", Unread::read).map_err(failed)?,
        record_reader: Beside::start("tercet-records", read_records).map_err(failed)?,
        replica,
        links,
        peers: local
            .members
            .keys()
            .filter(|peer| **peer != node)
            .map(|peer| (*peer, PeerLink::default()))
            .collect(),
        local,
        replies: BTreeMap::new(),
        barriers: BTreeMap::new(),
        transfers: Vec::new(),
        forwarded: BTreeMap::new(),
        submits: Vec::new(),
        timing: Timing::new(),
        values_due: None,
        next_tag: 1,
        refusals: BTreeMap::new(),
        role: None,
        classic: config.classic.clone().map(Classic::new),
    };
    match driver.serve(mailbox).await {
        Ok(()) => Ok(Ended::Stopped),
        Err(Fatal::LostMemory(why)) => Ok(Ended::LostMemory(why)),
        Err(Fatal::Disk(what)) => Err(DriverError::Failed { data: data(), what }),
    }
}

fn read_records((unread, reply): (UnreadRecords<File>, ReadReply)) -> (Reading, ReadReply) {
    (unread.read(), reply)
}

fn replica_config(config: &ServerConfig) -> ReplicaConfig {
    let node = |slot: &u8| NodeId::new(*slot).expect("the config was checked");
    let members = config.members.keys().map(node).collect();
    let mut replica = ReplicaConfig::new(node(&config.node), members, config.cluster_name.clone());
    replica.heartbeat_interval = config.timing.heartbeat;
    replica.election_timeout_min = config.timing.election_min;
    replica.election_timeout_max = config.timing.election_max;
    replica.seed = config.seed;
    if let Some(lab) = &config.lab {
        replica.profile = lab.profile;
        replica.rules = lab.rules;
        replica.election_timer_frozen = lab.timers_frozen;
    }
    replica.wal = WalOptions {
        segment_bytes: config.segment_bytes,
        reserve_bytes: config.disk_reserve_bytes,
        ..WalOptions::default()
    };
    replica
}

fn clock(started: Instant) -> Time {
    Time(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX))
}

fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Driver<'_> {
    async fn serve(&mut self, mut mailbox: Mailbox) -> Result<(), Fatal> {
        let mut stop = self.desk.stop.clone();
        let mut stop_at: Option<Instant> = None;
        let mut hands_over = false;
        self.settle()?;
        // Set only when something is due earlier: to set it costs more than to wake up once for
        // nothing, and most of what is due is put off again and again.
        let timer = tokio::time::sleep_until(Instant::now().into());
        tokio::pin!(timer);
        let sync_ended = self.syncer.ended();
        let (read_ended, records_ended) = (self.reader.ended(), self.record_reader.ended());
        let mut busy_poll = BusyPoll::new(self.config.busy_poll);
        loop {
            // Lets the links read what has come, so that it joins this turn's batch.
            tokio::task::yield_now().await;
            // Those who were answered have their answers.
            let writes_values = self.note_values();
            if writes_values {
                self.write_values()?;
            }
            // What a full disk did not take waits for something to change.
            let can_flush = self.syncer.since.is_none()
                && self.replica.needs_flush()
                && !self.replica.alarms().disk_full;
            if !can_flush && !writes_values {
                let due = self.due(stop_at).into();
                if due < timer.deadline() || timer.is_elapsed() {
                    timer.as_mut().reset(due);
                }
                let looks_again = busy_poll.looks_again(Instant::now());
                // What is due comes from nobody who may have more.
                let mut is_arrival = true;
                tokio::select! {
                    biased;
                    Some(arrived) = mailbox.control.recv() => self.on_arrived(arrived)?,
                    Some(event) = mailbox.events.recv() => self.on_link(event)?,
                    Some(arrived) = mailbox.bulk.recv() => self.on_arrived(arrived)?,
                    Some(command) = self.desk.commands.recv() => self.on_command(command)?,
                    () = sync_ended.notified() => {}
                    () = read_ended.notified() => {}
                    () = records_ended.notified() => {}
                    () = &mut timer => is_arrival = false,
                    changed = stop.changed(), if stop_at.is_none() => {
                        if changed.is_err() || *stop.borrow() {
                            hands_over = self.can_hand_over();
                            stop_at = Some(Instant::now() + self.begin_stop()?);
                        }
                    }
                    () = std::future::ready(()), if looks_again => {
                        std::thread::yield_now();
                        continue;
                    }
                }
                if is_arrival {
                    busy_poll.note_arrival();
                }
            }
            self.timing.begin_turn();
            for _ in 0..DRAIN_MAX {
                if self.replica.staged_bytes() >= DRAIN_BYTES {
                    break;
                }
                if let Ok(arrived) = mailbox.control.try_recv() {
                    self.on_arrived(arrived)?;
                } else if let Ok(event) = mailbox.events.try_recv() {
                    self.on_link(event)?;
                } else if let Ok(arrived) = mailbox.bulk.try_recv() {
                    self.on_arrived(arrived)?;
                } else if let Ok(command) = self.desk.commands.try_recv() {
                    self.on_command(command)?;
                } else {
                    break;
                }
            }
            self.settle()?;
            if stop_at
                .is_some_and(|at| Instant::now() >= at || (hands_over && !self.can_hand_over()))
            {
                // What was answered stands there, too.
                return self.write_values();
            }
        }
    }

    fn write_values(&mut self) -> Result<(), Fatal> {
        let begun = Instant::now();
        self.replica.write_values()?;
        if !self.replica.needs_values() {
            self.values_due = None;
        } else if self.replica.compares_values() {
            // After a start there may be gigabytes of that: this thread has other work, too.
            let now = Instant::now();
            self.values_due = Some(now + (now - begun));
        }
        Ok(())
    }

    /// Whether `values.log` is to be written now.
    fn note_values(&mut self) -> bool {
        if !self.replica.needs_values() {
            self.values_due = None;
            return false;
        }
        let now = Instant::now();
        *self.values_due.get_or_insert(now + VALUES_DELAY) <= now
    }

    fn leads(&self) -> bool {
        self.replica.raft().is_some_and(|raft| raft.role() == RoleKind::Leader)
    }

    /// Whether there is leadership to hand over, and a majority to elect somebody else.
    fn can_hand_over(&self) -> bool {
        let others = self.peers.values().filter(|link| link.up > 0).count();
        self.leads() && others > self.config.members.len() / 2
    }

    fn due(&self, stop_at: Option<Instant>) -> Instant {
        let due = self.desk.started + Duration::from_micros(self.replica.poll_timeout().0);
        let held = self.desk.lab.as_ref().and_then(Lab::due);
        let untold = self.classic.as_ref().and_then(|classic| classic.due(self.applied()));
        let stalled = self.syncer.since.map(|since| since + self.config.timing.heartbeat);
        held.into_iter()
            .chain(untold)
            .chain(stop_at)
            .chain(stalled)
            .chain(self.values_due)
            .fold(due, Instant::min)
    }

    fn now(&self) -> Time {
        clock(self.desk.started)
    }

    /// Begins a planned stop and says how long it may take. A leader hands over first, so that
    /// clients wait for no timeout. Else the last that was committed is told, or heard of, so that
    /// every `values.log` holds what clients were told.
    fn begin_stop(&mut self) -> Result<Duration, Fatal> {
        self.desk.progress.send_modify(|progress| progress.stopping = true);
        if self.can_hand_over() {
            let now = self.now();
            self.replica.transfer(now, None)?;
            return Ok(HANDOVER);
        }
        let is_alone = self.leader().is_none() || self.peers.values().all(|link| link.up == 0);
        Ok(if is_alone { Duration::ZERO } else { self.config.timing.heartbeat * 2 })
    }

    fn wall_ms(&self) -> u64 {
        let jumped = self.desk.lab.as_ref().map_or(0, |lab| lab.clock_ms);
        wall_ms().saturating_add_signed(jumped)
    }

    fn send_all(&self, messages: Vec<(NodeId, PeerMessage)>) {
        for (to, message) in messages {
            self.links.send(to, &message);
        }
    }

    /// The lab interferes.
    fn interfere(&mut self, action: Action) -> Result<Result<(), ApiError>, Fatal> {
        let now = self.now();
        let Some(lab) = &mut self.desk.lab else { return Ok(Ok(())) };
        match action {
            Action::Replica(input) => self.replica.interfere(now, input)?,
            Action::Gate(change) => {
                let released = lab.change_gate(change);
                self.send_all(released);
            }
            Action::SyncDelay(delay) => lab.sync_delay = delay,
            Action::DiskFull(full) => {
                let usual = self.config.disk_reserve_bytes;
                self.replica.set_disk_reserve_bytes(if full { u64::MAX } else { usual });
            }
            Action::JumpClock(by) => lab.clock_ms = lab.clock_ms.saturating_add(by),
            Action::ResetLinks(peer) => self.links.reset(peer),
            Action::DeleteLog => {
                // Behind the replica's back, as a person would: it has to notice.
                return Ok(delete_files(&self.config.data.join("wal")).map_err(|error| {
                    let why = format!("the files of the log cannot be deleted: {error}");
                    ApiError::new(Reason::Internal, why)
                }));
            }
        }
        Ok(Ok(()))
    }

    /// The node as the lab sees it.
    fn look(&self, events_from: u64) -> Result<v1::LookResponse, ApiError> {
        let raft = self.replica.raft();
        let last = raft.map_or(0, |raft| raft.last().index.0);
        let log = self
            .replica
            .logged(last.saturating_sub(LOG_MAX) + 1, usize::MAX)
            .map_err(|error| ApiError::new(Reason::Internal, error.to_string()))?;
        let vote = raft.and_then(|raft| raft.hard_state().vote);
        let heartbeat = raft.and_then(|raft| raft.heartbeat_override());
        let mut response = v1::LookResponse {
            role: role_name(raft.map(|raft| raft.role())).to_owned(),
            term: raft.map_or(0, |raft| raft.term().0),
            voted_for: vote.map(|vote| u32::from(vote.slot())),
            leader: self.leader().map(|leader| u32::from(leader.slot())),
            commit_index: raft.map_or(0, |raft| raft.commit().0),
            log: log.into_iter().map(logged).collect(),
            heartbeat_ms: heartbeat.map(|by| u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
            connected: self
                .peers
                .iter()
                .filter(|(_, link)| link.is_up())
                .map(|(peer, _)| u32::from(peer.slot()))
                .collect(),
            ..v1::LookResponse::default()
        };
        if let Some(lab) = &self.desk.lab {
            lab.look(events_from, &mut response);
        }
        Ok(response)
    }

    /// Ends a turn: timers, sends, the disk, answers.
    fn settle(&mut self) -> Result<(), Fatal> {
        // A disk that hangs makes this node fall silent, so that another one leads.
        let is_outrun = self.replica.staged_bytes() >= STAGED_BYTES_MAX;
        let patience = if is_outrun { Duration::ZERO } else { self.config.timing.heartbeat };
        if let Some(synced) = self.syncer.take(patience) {
            self.end_flush(synced)?;
        }
        while let Some(was_read) = self.reader.take() {
            let now = self.now();
            self.replica.end_read(now, was_read)?;
        }
        while let Some((reading, reply)) = self.record_reader.take() {
            self.go_on_reading(reading, reply);
        }
        let submits = std::mem::take(&mut self.submits);
        if !submits.is_empty() {
            self.timing.taken(&self.desk.metrics);
            let now = self.now();
            let wall_ms = self.wall_ms();
            self.replica.submit(now, wall_ms, submits)?;
        }
        let now = self.now();
        if now >= self.replica.poll_timeout() {
            self.replica.tick(now)?;
        }
        let late = self.desk.lab.as_mut().map(Lab::take_due);
        self.send_all(late.unwrap_or_default());
        self.act();
        self.timing.sent(&self.desk.metrics);
        self.flush()
    }

    /// Puts on disk what is staged, unless the disk is busy.
    fn flush(&mut self) -> Result<(), Fatal> {
        let begun = Instant::now();
        if self.syncer.since.is_some() || !self.replica.needs_flush() {
            return Ok(());
        }
        let delay = self.desk.lab.as_ref().map_or(Duration::ZERO, |lab| lab.sync_delay);
        let entries = self.replica.staged_count();
        let Some(unsynced) = self.replica.begin_flush(self.now())? else {
            self.act();
            return Ok(());
        };
        self.desk.metrics.begin_flush(begun);
        if self.leads() && entries >= BESIDE_MIN && delay.is_zero() {
            self.syncer.begin(unsynced, begun);
            return Ok(());
        }
        // A slow disk holds up the whole node, as a real one does.
        std::thread::sleep(delay);
        self.end_flush(Synced::here(unsynced, begun))?;
        self.timing.begin_turn();
        self.act();
        Ok(())
    }

    /// What was written is durable.
    fn end_flush(&mut self, synced: Synced) -> Result<(), Fatal> {
        let Synced { result, took } = synced;
        self.desk.metrics.observe_flush(took);
        let now = self.now();
        self.replica.end_flush(now, result)?;
        self.replica.note_sync(now, took)
    }

    fn on_arrived(&mut self, arrived: Arrived) -> Result<(), Fatal> {
        let from = arrived.from.node;
        match arrived.body {
            Body::Replica(message) => {
                let now = self.now();
                self.replica.receive(now, from, message)
            }
            Body::Forward(frame) => {
                self.on_forward(from, frame);
                Ok(())
            }
            Body::Ended => self.on_link_lost(from),
        }
    }

    fn on_forward(&mut self, from: NodeId, frame: Frame) {
        match frame.kind {
            Kind::Forward => match forward::decode_submit(frame.message) {
                Ok((id, submit)) => {
                    let reply = ReplyTo::Peer { node: from, id };
                    self.enqueue(submit, reply);
                }
                Err(why) => {
                    self.warn(format!("a forwarded submit of {from} cannot be read: {why}"));
                }
            },
            Kind::ForwardReply => match forward::decode_reply(frame.message) {
                Ok(ForwardReply { id, result }) => {
                    if let Some(forwarded) = self.forwarded.remove(&id) {
                        let _ = forwarded.reply.send(result.into());
                    }
                }
                Err(why) => self.warn(format!("an answer of {from} cannot be read: {why}")),
            },
            Kind::Hello | Kind::HelloReply | Kind::Form | Kind::Raft => {
                unreachable!("the link hands on only forwarded submits and their answers")
            }
        }
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    fn enqueue(&mut self, submit: Submit, reply: ReplyTo) {
        let tag = self.tag();
        self.replies.insert(tag, reply);
        self.submits.push(tercet_replica::Submit {
            tag,
            records: submit.records,
            request_id: submit.request_id,
            expect_next: submit.expect_next,
            wait_all: submit.wait_all,
        });
    }

    fn on_command(&mut self, command: Command) -> Result<(), Fatal> {
        match command {
            Command::Submit { submit, handed_over, reply } => {
                self.timing.queued.get_or_insert((self.next_tag + 1, handed_over));
                self.enqueue(submit, ReplyTo::Here(reply));
            }
            Command::Forward { to, submit, reply } => self.forward(to, &submit, reply),
            Command::Barrier { reply } => self.read_barrier(Awaiting::Barrier(reply))?,
            Command::Read { range, linearizable: true, reply } => {
                self.read_barrier(Awaiting::Read(range, reply))?;
            }
            Command::Read { range, linearizable: false, reply } => {
                self.read(range, reply);
            }
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::Look { events_from, reply } => {
                let _ = reply.send(self.look(events_from));
            }
            Command::Interfere { action, reply } => {
                let _ = reply.send(self.interfere(action)?);
            }
            Command::Transfer { to, reply } => match to.map(NodeId::new) {
                Some(None) => {
                    let error = ApiError::new(Reason::Invalid, "there is no such node");
                    let _ = reply.send(Err(error));
                }
                to => {
                    self.transfers.push(reply);
                    let now = self.now();
                    self.replica.transfer(now, to.flatten())?;
                }
            },
        }
        Ok(())
    }

    fn read_barrier(&mut self, awaiting: Awaiting) -> Result<(), Fatal> {
        let tag = self.tag();
        self.barriers.insert(tag, awaiting);
        let now = self.now();
        self.replica.read_barrier(now, tag)
    }

    fn forward(&mut self, to: u8, submit: &Submit, reply: oneshot::Sender<Answered>) {
        let Some(peer) = NodeId::new(to).filter(|peer| self.peers.contains_key(peer)) else {
            let _ = reply.send(Err(self.no_leader()).into());
            return;
        };
        let id = self.tag();
        let message = forward::encode_submit(id, submit);
        // A link that is cut carries no client's request either.
        let is_cut = self.desk.lab.as_ref().is_some_and(|lab| lab.is_cut(peer));
        if !is_cut && self.links.send_frame(peer, Kind::Forward, &message) {
            self.forwarded.insert(id, Forwarded { to: peer, reply });
        } else {
            let why = format!("the leader is node {to}, which this node cannot reach");
            let error = ApiError::new(Reason::NoLeader, why).with_leader(self.leader_address());
            let _ = reply.send(Err(error).into());
        }
    }

    /// Whoever waits for an answer of this peer will get none.
    fn fail_forwarded(&mut self, peer: NodeId) {
        let lost: Vec<u64> =
            self.forwarded.iter().filter(|(_, f)| f.to == peer).map(|(id, _)| *id).collect();
        for id in lost {
            let forwarded = self.forwarded.remove(&id).expect("listed above");
            let why = format!("{peer} was lost as the leader with the request under way");
            let _ = forwarded.reply.send(Err(ApiError::new(Reason::LeadershipLost, why)).into());
        }
    }

    /// A link that was up ended, in whichever direction: what was on its way may be lost.
    fn on_link_lost(&mut self, peer: NodeId) -> Result<(), Fatal> {
        let now = self.now();
        self.replica.link_lost(now, peer)?;
        // What this node sends has links of its own.
        if self.peers.get(&peer).is_some_and(PeerLink::is_up) {
            self.replica.link_up(peer);
        }
        self.fail_forwarded(peer);
        Ok(())
    }

    fn on_link(&mut self, event: LinkEvent) -> Result<(), Fatal> {
        match event {
            LinkEvent::Up(remote) => {
                let link = self.peers.entry(remote.node).or_default();
                link.up += 1;
                link.client_address = remote.client_address;
                if link.is_up() {
                    link.error.clear();
                    self.replica.link_up(remote.node);
                    tracing::debug!(peer = %remote.node, "connected");
                }
            }
            LinkEvent::Down { peer, was_up, why } => {
                let link = self.peers.entry(peer).or_default();
                let is_news = link.error != why;
                link.error.clone_from(&why);
                if was_up {
                    link.up = link.up.saturating_sub(1);
                    self.on_link_lost(peer)?;
                }
                if is_news {
                    tracing::info!(%peer, "{why}");
                }
            }
            LinkEvent::Refused { address, why } => {
                // Who is refused tries again and again: what is known is not said each time.
                let now = Instant::now();
                self.refusals.retain(|_, said| now - *said < REFUSAL_EVERY);
                if self.refusals.len() < REFUSALS_MAX && !self.refusals.contains_key(&why) {
                    self.warn(format!("a connection from {address} was refused: {why}"));
                    self.refusals.insert(why, now);
                }
            }
        }
        Ok(())
    }

    /// Does what the replica wants done.
    fn act(&mut self) {
        // First, so that whoever is answered finds what the answer is about, once this disk has it.
        self.publish();
        while let Some(unread) = self.replica.poll_unread() {
            self.reader.begin(unread);
        }
        while let Some(effect) = self.replica.poll_effect() {
            match effect {
                Effect::Send { to, message } => match &mut self.desk.lab {
                    None => {
                        self.links.send(to, &message);
                    }
                    Some(lab) => {
                        let passed = lab.send(to, message);
                        self.send_all(passed);
                    }
                },
                Effect::Submitted { tag, result } => {
                    let Some(reply) = self.replies.remove(&tag) else {
                        continue;
                    };
                    let result = match result {
                        Ok(done) => Ok(Submitted {
                            first_seq: done.first_seq,
                            last_seq: done.last_seq,
                            term: done.term,
                            index: done.index,
                            duplicate: done.duplicate,
                            durable_on: done
                                .durable_on
                                .iter()
                                .map(|n| u32::from(n.slot()))
                                .collect(),
                        }),
                        Err(error) => Err(self.submit_error(error)),
                    };
                    self.desk.metrics.count_submit(&result);
                    match reply {
                        ReplyTo::Here(reply) => {
                            let at = self.timing.answered(tag, &self.desk.metrics);
                            let _ = reply.send(Answered { result, at });
                        }
                        ReplyTo::Peer { node, id } => {
                            let message = forward::encode_reply(id, &result);
                            self.links.send_frame(node, Kind::ForwardReply, &message);
                        }
                    }
                }
                Effect::BarrierDone { tag, confirmed } => {
                    let done = if confirmed { Ok(()) } else { Err(self.no_leader()) };
                    match self.barriers.remove(&tag) {
                        Some(Awaiting::Barrier(reply)) => {
                            let _ = reply.send(done);
                        }
                        Some(Awaiting::Read(range, reply)) => match done {
                            Ok(()) => self.read(range, reply),
                            Err(error) => {
                                let _ = reply.send(Err(error));
                            }
                        },
                        None => {}
                    }
                }
                Effect::TransferEnded { result } => {
                    for reply in std::mem::take(&mut self.transfers) {
                        let _ = reply.send(self.transferred(result));
                    }
                }
                Effect::Event(event) => {
                    self.desk.metrics.note_event(&event);
                    if self.desk.lab.is_some() {
                        let node = self.local.node;
                        let (fields, classic) = (event.fields(node), event.classic(node));
                        self.note_for_lab(event.kind(), fields, &event.to_string(), classic);
                    }
                    if let Some(classic) = &mut self.classic {
                        classic.event(self.local.node, &event);
                    }
                    self.tell(event.kind(), || event.to_string());
                }
                Effect::Warning(text) => self.warn(text),
                Effect::Notice(text) => {
                    self.note_for_lab("notice", Vec::new(), &text, None);
                    tracing::info!("{text}");
                    self.tell("notice", || text);
                }
            }
        }
        // Generations of one cluster talk to each other: how else would an old one hear of its end?
        let identity = self.replica.identity();
        *self.local.origin.borrow_mut() = match identity.state {
            IdentityState::Fresh => None,
            IdentityState::Quarantined | IdentityState::Voter | IdentityState::Survivor => {
                identity.generation.origin
            }
        };
        self.links.pump();
        self.tell_applied();
    }

    /// Up to this index the log is applied.
    fn applied(&self) -> u64 {
        self.replica.raft().map_or(0, |raft| raft.commit().min(raft.durable()).0)
    }

    /// Tells in classic words of records that were applied, if anyone wants that.
    fn tell_applied(&mut self) {
        let applied = self.applied();
        let Some(classic) = &mut self.classic else { return };
        let next = classic.next();
        let count = usize::try_from((applied + 1).saturating_sub(next)).unwrap_or(usize::MAX);
        if count == 0 {
            return;
        }
        match self.replica.logged(next, count.min(ENTRIES_MAX)) {
            Ok(entries) => classic.applied(self.local.node, &entries),
            // A log that cannot be read stops the node where it matters; nothing is told until then.
            Err(_) => self.classic = None,
        }
    }

    fn note_for_lab(
        &mut self,
        kind: &str,
        fields: Vec<(&'static str, String)>,
        text: &str,
        classic: Option<String>,
    ) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_us = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
        let term = self.replica.raft().map_or(0, |raft| raft.term().0);
        if let Some(lab) = &mut self.desk.lab {
            lab.note(at_us, term, kind, fields, text.to_owned(), classic);
        }
    }

    fn warn(&mut self, text: String) {
        self.note_for_lab("warning", Vec::new(), &text, None);
        tracing::warn!("{text}");
        self.tell("warning", || text);
    }

    /// Adds to the event stream, if anyone watches it.
    fn tell(&mut self, kind: &'static str, text: impl FnOnce() -> String) {
        self.desk.event_seq += 1;
        if self.desk.events.receiver_count() == 0 {
            return;
        }
        let _ = self.desk.events.send(NodeEvent {
            seq: self.desk.event_seq,
            at_us: self.now().0,
            term: self.replica.raft().map_or(0, |raft| raft.term().0),
            kind,
            text: text(),
        });
    }

    fn publish(&mut self) {
        let next = {
            let raft = self.replica.raft();
            Progress {
                first_seq: 1,
                next_seq: self.replica.next_seq(),
                term: raft.map_or(0, |raft| raft.term().0),
                leader: raft.and_then(|raft| raft.leader()).map(NodeId::slot),
                serving: raft.is_some_and(|raft| raft.role() != RoleKind::Quarantined),
                stopping: self.desk.progress.borrow().stopping,
            }
        };
        // Whoever waits for an answer of a leader that is none any more asks the next one instead.
        let led = self.desk.progress.borrow().leader.filter(|led| Some(*led) != next.leader);
        if let Some(led) = led.and_then(NodeId::new) {
            self.fail_forwarded(led);
        }
        self.desk.progress.send_if_modified(|progress| {
            let changed = *progress != next;
            *progress = next;
            changed
        });
        let serves = next.serving && next.leader.is_some() && !next.stopping;
        self.desk.serves.send_if_modified(|now| std::mem::replace(now, serves) != serves);
        let role = self.replica.raft().map(|raft| raft.role());
        if role != self.role {
            self.role = role;
            let name = role_name(role);
            tracing::info!(term = next.term, leader = ?next.leader, "{name}");
            self.desk.metrics.note_role(name, next.term);
        }
        self.desk.metrics.note_alarms(self.replica.alarms());
        self.desk.metrics.note_memory(self.replica.memory(), self.links.queued_bytes());
        if let Some(raft) = self.replica.raft() {
            self.desk.metrics.note_log(
                next.term,
                raft.last().index.0,
                raft.durable().0,
                raft.commit().0,
                next.next_seq,
            );
        }
    }

    fn leader(&self) -> Option<NodeId> {
        self.replica.raft().and_then(|raft| raft.leader())
    }

    fn leader_address(&self) -> Option<String> {
        let leader = self.leader()?;
        if leader == self.local.node {
            return Some(self.local.client_address.clone());
        }
        let address = &self.peers.get(&leader)?.client_address;
        (!address.is_empty()).then(|| address.clone())
    }

    fn no_leader(&self) -> ApiError {
        let why = match self.replica.raft() {
            None => {
                let awaited = self.replica.status().awaited;
                return ApiError::new(
                    Reason::NoLeader,
                    format!("the cluster is not formed yet: waiting for {awaited:?}"),
                );
            }
            Some(raft) if raft.role() == RoleKind::Quarantined => {
                return ApiError::new(
                    Reason::Quarantined,
                    "this node has lost its memory and is not readmitted yet: ask another",
                );
            }
            Some(_) => "no leader is known",
        };
        ApiError::new(Reason::NoLeader, why)
    }

    fn submit_error(&self, error: SubmitError) -> ApiError {
        match error {
            SubmitError::NotLeader | SubmitError::Transferring => match self.leader() {
                Some(leader) if leader != self.local.node => ApiError::new(
                    Reason::NotLeader,
                    format!("the leader is node {}", leader.slot()),
                )
                .with_leader(self.leader_address()),
                _ => self.no_leader(),
            },
            SubmitError::Quarantined => self.no_leader(),
            SubmitError::Overloaded => {
                let mut error =
                    ApiError::new(Reason::Overloaded, "too much is uncommitted: try again later");
                error.retry_after_ms = Some(50);
                error
            }
            SubmitError::DiskFull => {
                let mut error =
                    ApiError::new(Reason::DiskFull, "the leader's disk is full: make space there");
                error.retry_after_ms = Some(1000);
                error
            }
            SubmitError::Repairing => {
                let why = "a part of the leader's log is damaged and being fetched from the others: \
                           try again later";
                let mut error = ApiError::new(Reason::Overloaded, why);
                error.retry_after_ms = Some(20);
                error
            }
            SubmitError::Conflict { next_seq } => {
                let why = format!("the next sequence number is {next_seq}");
                let mut error = ApiError::new(Reason::Conflict, why);
                error.next_seq = Some(next_seq);
                error
            }
            SubmitError::KeyReused => ApiError::new(
                Reason::KeyReused,
                "this request id was used before with other records: take a new one",
            ),
            SubmitError::KeyExpired => ApiError::new(
                Reason::KeyExpired,
                "this request id is older than the window of known ids: read whether it was appended",
            ),
            SubmitError::LeadershipLost => ApiError::new(
                Reason::LeadershipLost,
                "leadership was lost with the request under way: try again with the same id",
            ),
        }
    }

    fn transferred(&self, result: Result<NodeId, TransferError>) -> Result<u8, ApiError> {
        result.map(NodeId::slot).map_err(|error| match error {
            TransferError::NotLeader => self.submit_error(SubmitError::NotLeader),
            TransferError::BadTarget => ApiError::new(
                Reason::Invalid,
                "that node cannot lead: it is no peer, or quarantined",
            ),
            TransferError::TimedOut => ApiError::new(
                Reason::Deadline,
                "the target did not take over in time: nothing has changed",
            ),
            TransferError::Busy => {
                ApiError::new(Reason::Overloaded, "another transfer is under way")
            }
        })
    }

    fn read(&self, range: Range, reply: ReadReply) {
        let limit = usize::try_from(range.limit).unwrap_or(usize::MAX);
        let bytes_max = usize::try_from(range.bytes_max).unwrap_or(usize::MAX);
        self.go_on_reading(Reading::new(range.from_seq.max(1), limit, bytes_max), reply);
    }

    /// Reads until there is enough for an answer; much that is on disk is read beside this thread.
    fn go_on_reading(&self, mut reading: Reading, reply: ReadReply) {
        let records = loop {
            match self.replica.find(reading) {
                Ok(FoundRecords::OnDisk(unread)) if unread.bytes() >= READ_BESIDE_BYTES => {
                    // Nobody may wait for it any more.
                    if !reply.is_closed() {
                        self.record_reader.begin((unread, reply));
                    }
                    return;
                }
                Ok(FoundRecords::OnDisk(unread)) => reading = unread.read(),
                Ok(FoundRecords::All(records)) => break Ok(records),
                Err(error) => break Err(error),
            }
        };
        let _ = reply.send(match records {
            Ok(records) => Ok(Page {
                records: records
                    .into_iter()
                    .map(|record| Record { seq: record.seq, value: record.value })
                    .collect(),
                next_seq: self.replica.next_seq(),
            }),
            Err(error) => {
                let reason = match error {
                    ReadError::Damaged { .. } => Reason::Overloaded,
                    ReadError::Wal(_) | ReadError::Records(_) => Reason::Internal,
                };
                let mut error = ApiError::new(reason, error.to_string());
                error.retry_after_ms = (reason == Reason::Overloaded).then_some(50);
                Err(error.with_outcome(Outcome::NotAppended))
            }
        });
    }

    fn status(&self) -> v1::StatusResponse {
        let status = self.replica.status();
        let raft = status.raft.as_ref();
        let mut problems = Vec::new();
        if !status.awaited.is_empty() {
            let list: Vec<String> = status.awaited.iter().map(ToString::to_string).collect();
            problems
                .push(format!("the cluster is not formed yet: waiting for {}", list.join(", ")));
        }
        if status.identity.state == IdentityState::Quarantined {
            problems.push(
                "this node has lost its memory: it may not vote until it is readmitted".to_owned(),
            );
        }
        if status.disk_full {
            problems.push("the disk is full: new records are refused".to_owned());
        }
        if let Some(raft) = raft {
            problems.extend(damage(&raft.faulty));
        }
        if let Some(SlowDisk { usual, latest }) = status.slow_disk {
            problems.push(format!(
                "the disk has become slow: a sync takes {latest:.1?}, usually {usual:.1?}"
            ));
        }
        if let Some(error) = &status.values_error {
            problems.push(format!("values.log cannot be written: {error}"));
        }
        let leads = raft.is_some_and(|raft| raft.role == RoleKind::Leader);
        let peer = |(node, link): (&NodeId, &PeerLink)| {
            let progress = raft.and_then(|raft| raft.peers.iter().find(|peer| peer.node == *node));
            let last = raft.map_or(0, |raft| raft.last.index.0);
            v1::PeerStatus {
                id: u32::from(node.slot()),
                match_index: progress.map(|p| p.matched.0),
                next_index: progress.map(|p| p.next.0),
                lag: progress.map(|p| last.saturating_sub(p.matched.0)),
                reachable: link.up > 0,
                state: match progress {
                    Some(p) if p.quarantined => "quarantined",
                    Some(p) if p.kind == ProgressKind::Replicate => "replicate",
                    Some(_) => "probe",
                    None => "unknown",
                }
                .to_owned(),
                peer_address: self.local.members.get(node).cloned().unwrap_or_default(),
                client_address: link.client_address.clone(),
                error: link.error.clone(),
            }
        };
        v1::StatusResponse {
            node: u32::from(self.local.node.slot()),
            role: role_name(raft.map(|raft| raft.role)).to_owned(),
            leader: raft.and_then(|raft| raft.leader).map(|leader| u32::from(leader.slot())),
            term: raft.map_or(0, |raft| raft.hard_state.term.0),
            first_seq: 1,
            next_seq: status.next_seq,
            last_index: raft.map_or(0, |raft| raft.last.index.0),
            durable_index: raft.map_or(0, |raft| raft.durable.0),
            commit_index: raft.map_or(0, |raft| raft.commit.0),
            applied_index: raft.map_or(0, |raft| raft.applied.0),
            incarnation: status.identity.incarnation.to_string(),
            cluster_id: status.identity.cluster_id.map_or(String::new(), |id| format!("{id:032x}")),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peers: self.peers.iter().map(peer).collect(),
            cluster_name: self.config.cluster_name.clone(),
            leader_address: self.leader_address().unwrap_or_default(),
            voted_for: raft
                .and_then(|raft| raft.hard_state.vote)
                .map(|vote| u32::from(vote.slot())),
            sync_p99_us: self.desk.metrics.sync_p99_us(),
            problems: if leads || !problems.is_empty() { problems } else { Vec::new() },
            pid: std::process::id(),
            data: self.config.data.display().to_string(),
            generation: status.identity.generation.number,
            uptime_ms: u64::try_from(self.desk.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What is wrong with the log on this disk, in words.
fn damage(faulty: &[FaultyEntry]) -> Option<String> {
    let first = faulty.first()?;
    let LogPos { term, index } = first.pos;
    let nodes = |nodes: NodeSet| {
        let list: Vec<String> = nodes.iter().map(|node| node.to_string()).collect();
        list.join(" and ")
    };
    let mut text = format!("entry {index} (term {term}) is damaged on this disk");
    if !first.damaged_on.is_empty() {
        text.push_str(&format!(", on {} too", nodes(first.damaged_on)));
    }
    if !first.absent_on.is_empty() {
        text.push_str(&format!(", and {} never had it", nodes(first.absent_on)));
    }
    if first.damaged_on.is_empty() {
        text.push_str(": it is being fetched from the others");
    } else {
        text.push_str(
            ": it can be repaired only from a node with a whole copy; start those that are down, \
             and delete no directory",
        );
    }
    if faulty.len() > 1 {
        text.push_str(&format!(" ({} more are damaged)", faulty.len() - 1));
    }
    Some(text)
}

fn delete_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

fn role_name(role: Option<RoleKind>) -> &'static str {
    match role {
        None => "forming",
        Some(RoleKind::Follower) => "follower",
        Some(RoleKind::PreCandidate) => "pre-candidate",
        Some(RoleKind::Candidate) => "candidate",
        Some(RoleKind::Leader) => "leader",
        Some(RoleKind::Quarantined) => "quarantined",
    }
}
