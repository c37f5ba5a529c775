//! The replica: what happens between a message's arrival and its answer.
//!
//! Every public function that takes an input steps the core once and acts on what the core wants
//! done. Writes are only staged then; [`Replica::begin_flush`] writes all that is staged, the driver
//! syncs it, here or on another thread, and [`Replica::end_flush`] tells the core and applies what
//! is committed. Before the first and between the two the driver sends, and goes on with what
//! comes: a leader's entries are on their way to the followers while its own disk writes.

mod open;
mod read;
mod repair;
mod running;
mod submit;
mod values;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tercet_raft::{
    BarrierId, DropReason, Envelope, Event, Incarnation, Index, Input, Message, NodeId, NodeSet,
    Output, Profile, Proposal, ProposalId, Raft, Refusal, RoleKind, Time, TransferError, WriteId,
};
use tercet_wal::{
    Disk, DiskFile, ENTRY_HEADER_BYTES, Entry, Room, Stretch, Unsynced, Wal, WalError,
};

use self::open::LOST_DIR;
pub use self::read::{FoundRecords, Reading, UnreadRecords};
use self::repair::Scrub;
use self::submit::Considered;
use crate::config::ReplicaConfig;
use crate::content::{LoggedContent, LoggedEntry, logged_entry, metas_match};
use crate::error::{Fatal, fatal, open_failed};
use crate::forming::{FormMessage, Forming, answer_as_member, later_generation};
use crate::health::{DiskHealth, SlowDisk};
use crate::identity::{Generation, Identity, IdentityState};
use crate::io::{
    Alarms, Effect, LabInput, MemoryUse, PeerMessage, ReadError, Record, ReplicaStatus, Submit,
    SubmitError,
};
use crate::record::{records_bytes, records_head};
use crate::values::ValuesFile;
use crate::window::{Ids, Seen, Window, WindowLimits};

/// How often the files are looked at: were they unlinked, replaced, shortened?
const FILES_INTERVAL: Duration = Duration::from_millis(50);

/// For how many of the longest election timeouts a member hears no leader before it gives its
/// generation up for one that an operator begins.
const LEADERLESS_TIMEOUTS: u32 = 10;

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

/// Entries for a peer that stand on this node's disk. They are to be read, on any thread; then
/// [`Replica::end_read`] is due.
#[derive(Debug)]
pub struct Unread<F> {
    to: NodeId,
    number: u64,
    stretch: Stretch<F>,
}

impl<F: DiskFile> Unread<F> {
    /// Reads and verifies them.
    pub fn read(self) -> WasRead {
        WasRead { to: self.to, number: self.number, entries: self.stretch.read_alone() }
    }
}

/// What became of an [`Unread`].
#[derive(Debug)]
pub struct WasRead {
    to: NodeId,
    number: u64,
    entries: Result<Vec<Entry>, WalError>,
}

/// A replica of a cluster that is formed.
#[derive(Debug)]
struct Running<D: Disk> {
    cluster_id: u128,
    /// Since when a survivor has been asking this node, which hears no leader, to give up its
    /// generation.
    ending: Option<Time>,
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
    /// The last write that is staged.
    staged: Option<WriteId>,
    /// The last write that is written and not synced yet.
    unsynced: Option<WriteId>,
    /// In the log's order.
    pending: VecDeque<Pending>,
    /// Committed, but awaited on every member.
    waiting_all: BTreeMap<u64, Vec<Pending>>,
    /// Confirmed barriers that wait for their index to be applied.
    barriers: BTreeMap<u64, Vec<u64>>,
    next_proposal: u64,
    /// What is to be read from the disk before it is sent …
    unread: VecDeque<Unread<D::File>>,
    /// … and for whom, with the message that it goes into, until it was read.
    reading: BTreeMap<NodeId, (u64, Envelope)>,
    next_unread: u64,
    /// Where entries are made: one piece of memory for many.
    arena: BytesMut,
    /// The head of the records that are looked at.
    head: Vec<u8>,
    disk_full: bool,
    /// The bytes of damaged entries that arrived: written with the next flush.
    repairs: Vec<Entry>,
    /// Damaged entries with records that the window of request ids should know.
    unknown_requests: BTreeSet<u64>,
    /// What reads have found.
    known: read::Known,
    /// An entry that a read found damaged.
    suspect: Cell<Option<u64>>,
    scrub: Scrub,
    health: DiskHealth,
    check_files_at: Time,
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
    Forming(Box<Forming>),
    Running(Box<Running<D>>),
}

impl<D: Disk> Replica<D> {
    fn peers(&self) -> Vec<NodeId> {
        let me = self.config.node;
        self.config.members.iter().copied().filter(|node| *node != me).collect()
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
                slow_disk: None,
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
                slow_disk: running.health.slow(),
                values_error: running.values_error.clone(),
            },
        }
    }

    /// What of [`Self::status`] should wake somebody.
    pub fn alarms(&self) -> Alarms {
        match &self.phase {
            Phase::Forming(_) => Alarms::default(),
            Phase::Running(running) => Alarms {
                slow_disk: running.health.slow().is_some(),
                disk_full: running.disk_full,
                damaged_entries: running.raft.faulty_count(),
                quarantined: running.raft.role() == RoleKind::Quarantined,
            },
        }
    }

    /// The memory that grows with the work.
    pub fn memory(&self) -> MemoryUse {
        let Some(running) = self.running() else { return MemoryUse::default() };
        let peers = self.config.members.len() as u64 - 1;
        MemoryUse {
            tail_bytes: running.wal.tail_bytes(),
            tail_bytes_max: self.config.wal.tail_bytes,
            inflight_bytes: running.raft.inflight_bytes(),
            inflight_bytes_max: self.config.inflight_bytes_max * peers,
            requests: running.window.len(),
            requests_max: running.window_limits.count_max,
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
                    self.look_for_damage(now)?;
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
                if !forming.is_of_this_cluster(&message) {
                    let text = format!("dropped a message of {from}: it speaks of other members");
                    self.effects.push_back(Effect::Warning(text));
                }
                let steps = forming.on_message(from, incarnation, message);
                self.form(steps, now).map_err(open_failed)
            }
            (PeerMessage::Form { message, .. }, Phase::Running(running)) => {
                // Whoever says so may know less than the leader does, who goes by this incarnation.
                let is_in_touch = running.raft.is_in_touch();
                if let Some((generation, runs)) = later_generation(&self.identity, &message) {
                    return self.on_later_generation(now, from, generation, runs);
                }
                let replaced = FormMessage::Replaced { incarnation: self.identity.incarnation };
                if message == replaced && !is_in_touch {
                    return Err(Fatal::LostMemory(format!(
                        "{from} knows a later incarnation of this node: was an older copy of the \
                         directory restored?"
                    )));
                }
                self.answer_form(from, &message);
                Ok(())
            }
            // A node that knows no cluster has no part in one.
            (PeerMessage::Raft { .. }, Phase::Forming(_)) => Ok(()),
            (PeerMessage::Raft { cluster_id, .. }, Phase::Running(running))
                if cluster_id != running.cluster_id =>
            {
                let why = DropReason::OtherGeneration;
                self.effects.push_back(Effect::Event(Event::Dropped { from, why }));
                self.answer_form(from, &FormMessage::Ask);
                Ok(())
            }
            (PeerMessage::Raft { envelope, entries, .. }, Phase::Running(running)) => {
                let theirs = envelope.from_incarnation;
                if running.raft.is_surely_superseded(envelope.from, theirs) {
                    // Dropped below. If somebody still goes by it, he must hear of it.
                    let incarnation = self.identity.incarnation;
                    let message = FormMessage::Replaced { incarnation: theirs };
                    let message = PeerMessage::Form { incarnation, message };
                    self.effects.push_back(Effect::Send { to: from, message });
                }
                if !metas_match(&envelope, &entries) {
                    let text =
                        format!("dropped a message of {from}: its entries are not what it says");
                    self.effects.push_back(Effect::Warning(text));
                    return Ok(());
                }
                let appends = matches!(envelope.message, Message::Append { .. });
                if running.disk_full && appends && !entries.is_empty() {
                    // Not refused, but not heard: the leader tries again at its heartbeats. (The
                    // bytes of a damaged entry need no room.)
                    return Ok(());
                }
                let incoming = Incoming { entries, ..Incoming::default() };
                self.step(now, Input::Receive(envelope), incoming)
            }
        }
    }

    /// Says what this member knows, if that answers the message.
    fn answer_form(&mut self, to: NodeId, message: &FormMessage) {
        let Phase::Running(running) = &self.phase else { return };
        let members = running.raft.members();
        if let Some(answer) = answer_as_member(&self.identity, &members, message) {
            let incarnation = self.identity.incarnation;
            let message = PeerMessage::Form { incarnation, message: answer };
            self.effects.push_back(Effect::Send { to, message });
        }
    }

    /// An operator has let the cluster begin again: what this node holds is of an earlier
    /// generation. It becomes new, with its log set aside.
    ///
    /// As long as the later generation only wants to begin, a cluster that has a leader is not given
    /// up for it: then the operator was wrong, and this node says so to the survivor.
    fn on_later_generation(
        &mut self,
        now: Time,
        from: NodeId,
        generation: Generation,
        runs: bool,
    ) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else { return Ok(()) };
        if !runs {
            let since = running.ending.filter(|_| running.raft.leader().is_none());
            running.ending = running.raft.leader().is_none().then(|| since.unwrap_or(now));
            let patience = self.config.election_timeout_max * LEADERLESS_TIMEOUTS;
            if since.is_none_or(|since| now.since(since) < patience) {
                self.answer_form(from, &FormMessage::Ask);
                return Ok(());
            }
        }
        self.identity.cluster_id = None;
        self.identity.members.clear();
        self.identity.generation = Generation { recovery: None, ..generation };
        self.identity.state = IdentityState::Quarantined;
        self.identity_count += 1;
        self.identity
            .store(&mut self.disk, self.identity_count)
            .map_err(|error| Fatal::Disk(error.to_string()))?;
        Err(Fatal::LostMemory(format!(
            "the cluster was recovered as generation {}, says {from}; what this node had is in \
             {LOST_DIR}/",
            generation.number
        )))
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
        match &mut self.phase {
            Phase::Forming(_) => Ok(()),
            Phase::Running(running) => {
                running.reading.remove(&peer);
                self.step(now, Input::LinkLost { peer }, Incoming::default())
            }
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
        let mut in_batch = Ids::with_capacity(submits.len());
        for submit in submits {
            let tag = submit.tag;
            // The same id twice in one batch: the second is a step of its own, after the first.
            if in_batch.contains(submit.request_id) {
                self.propose(now, std::mem::take(&mut proposals), std::mem::take(&mut incoming))?;
                in_batch.clear();
            }
            let Phase::Running(running) = &mut self.phase else { unreachable!("still running") };
            if in_batch.is_empty() {
                next_seq = running.tail.next_seq;
            }
            let digest = records_head(submit.request_id, &submit.records, &mut running.head);
            match running.consider(&submit, digest, next_seq) {
                Considered::Answer(result) => {
                    self.effects.push_back(Effect::Submitted { tag, result });
                }
                Considered::Attach(pending) => running.attach(pending),
                Considered::Propose => {
                    let body = records_bytes(&submit.records);
                    let id = ProposalId(running.next_proposal);
                    running.next_proposal += 1;
                    next_seq += submit.records.len() as u64;
                    in_batch.insert(submit.request_id);
                    proposals.push(Proposal { id, bytes: (ENTRY_HEADER_BYTES + body) as u64 });
                    incoming.proposals.push_back(Proposing { submit, digest });
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
            let read = match running.wal.read(&self.disk, next, last, 1 << 20) {
                Err(WalError::Faulty { index, .. }) => {
                    let term = running.raft.term_at(Index(index)).map_or(0, |term| term.0);
                    logged.push(LoggedEntry { index, term, content: LoggedContent::Damaged });
                    next = index + 1;
                    continue;
                }
                read => read?,
            };
            for entry in read {
                next = entry.header.index + 1;
                if logged.len() < limit {
                    logged.push(logged_entry(&entry)?);
                }
            }
        }
        Ok(logged)
    }

    /// Whether [`Self::begin_flush`] has something to do, once the flush before it has ended.
    pub fn needs_flush(&self) -> bool {
        let waits = |running: &Running<D>| running.staged.is_some() || !running.repairs.is_empty();
        self.running().is_some_and(waits)
    }

    /// How many entries wait for the next flush.
    pub fn staged_count(&self) -> usize {
        self.running().map_or(0, |running| running.wal.staged_count())
    }

    /// How many bytes these entries have.
    pub fn staged_bytes(&self) -> usize {
        self.running().map_or(0, |running| running.wal.staged_bytes())
    }

    /// Whether [`Self::write_values`] has something to do.
    pub fn needs_values(&self) -> bool {
        self.running().is_some_and(Running::values_behind)
    }

    /// Whether that is to compare what was found in `values.log` with the log.
    pub fn compares_values(&self) -> bool {
        self.running().is_some_and(|running| running.values.is_unconfirmed())
    }

    /// Writes a slice of `values.log`. Nobody waits for it: the driver does it when all that the
    /// turn brought is on its way, and lets a few milliseconds pass for more to join it.
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn write_values(&mut self) -> Result<(), Fatal> {
        match &mut self.phase {
            Phase::Running(running) if running.values_behind() => {
                running.advance_values(&self.disk, &mut self.effects)
            }
            Phase::Running(_) | Phase::Forming(_) => Ok(()),
        }
    }

    /// Puts all that is staged on disk with one sync, tells the core, and applies what is committed.
    ///
    /// # Errors
    /// [`Fatal`]: stop. Nothing of what failed was acknowledged.
    pub fn flush(&mut self, now: Time) -> Result<(), Fatal> {
        while let Some(unsynced) = self.begin_flush(now)? {
            self.end_flush(now, unsynced.sync())?;
        }
        Ok(())
    }

    /// Writes all that is staged. What it gives is to be synced, on any thread, and then
    /// [`Self::end_flush`] is due; until then the replica takes inputs as always. With nothing
    /// given, nothing is due.
    ///
    /// # Errors
    /// [`Fatal`]: stop. Nothing of what failed was acknowledged.
    ///
    /// # Panics
    /// If the flush before has not ended.
    pub fn begin_flush(&mut self, now: Time) -> Result<Option<Unsynced<D::File>>, Fatal> {
        // They have a sync of their own.
        self.write_repairs(now)?;
        let Phase::Running(running) = &mut self.phase else {
            return Ok(None);
        };
        match running.wal.write(&mut self.disk) {
            Ok(unsynced) => {
                running.unsynced = running.staged.take();
                Ok(unsynced)
            }
            Err(WalError::Full) => {
                // Nothing was written; all of it stays staged until there is room.
                running.note_full(true, &mut self.effects);
                Ok(None)
            }
            Err(error) => Err(fatal(error)),
        }
    }

    /// What [`Self::begin_flush`] gave was synced, or could not be: tells the core, and applies what
    /// is committed.
    ///
    /// # Errors
    /// [`Fatal`]: stop. Nothing of what failed was acknowledged.
    pub fn end_flush(&mut self, now: Time, synced: io::Result<()>) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        running.wal.note_synced(synced).map_err(fatal)?;
        let write = running.unsynced.take().expect("a flush that ends was begun");
        self.step(now, Input::Durable { write }, Incoming::default())
    }

    /// Entries that are to be read from the disk, to be sent: here or on another thread. One piece
    /// for each peer is under way, and what a link that was lost leaves behind.
    pub fn poll_unread(&mut self) -> Option<Unread<D::File>> {
        match &mut self.phase {
            Phase::Forming(_) => None,
            Phase::Running(running) => running.unread.pop_front(),
        }
    }

    /// What [`Self::poll_unread`] gave was read: sends it, if it is still wanted.
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn end_read(&mut self, now: Time, was_read: WasRead) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        running.send_read(now, was_read, &mut self.effects)?;
        self.carry_out(now, Incoming::default())
    }

    /// The write and sync of a flush that ended now took so long.
    ///
    /// A leader whose disk has become slow, ten times its usual for two seconds, hands leadership
    /// over, though not more often than once a minute.
    ///
    /// # Errors
    /// [`Fatal`]: stop.
    pub fn note_sync(&mut self, now: Time, took: Duration) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            return Ok(());
        };
        match running.health.note(now, took) {
            None => return Ok(()),
            Some(None) => {
                let text = "the disk is as fast as usual again".to_owned();
                self.effects.push_back(Effect::Notice(text));
                return Ok(());
            }
            Some(Some(SlowDisk { usual, latest })) => {
                self.effects.push_back(Effect::Warning(format!(
                    "the disk has become slow: a sync takes {latest:.1?}, usually {usual:.1?}"
                )));
            }
        }
        let hands_over = self.config.slow_disk_hand_over
            && self.config.profile == Profile::Modern
            && running.raft.role() == RoleKind::Leader
            && running.health.should_hand_over(now);
        if hands_over {
            self.step(now, Input::TransferLeadership { to: None }, Incoming::default())?;
        }
        Ok(())
    }

    /// Committed records from `from_seq` on: at most `limit`, and about `bytes_max` bytes of values
    /// (see [`Reading::new`]). Empty if there is none yet.
    ///
    /// # Errors
    /// The log failed, or a part of it is damaged.
    pub fn read(
        &self,
        from_seq: u64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let mut reading = Reading::new(from_seq, limit, bytes_max);
        loop {
            match self.find(reading)? {
                FoundRecords::All(records) => return Ok(records),
                FoundRecords::OnDisk(unread) => reading = unread.read(),
            }
        }
    }

    /// Begins or goes on with what [`Self::read`] does: what is on disk is left to be read.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn find(&self, reading: Reading) -> Result<FoundRecords<D::File>, ReadError> {
        let Some(running) = self.running() else { return Ok(FoundRecords::All(Vec::new())) };
        let found = running.find_records(&self.disk, reading);
        if let Err(ReadError::Damaged { index }) = found {
            running.suspect.set(Some(index));
        }
        found
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
    fn step(&mut self, now: Time, input: Input, incoming: Incoming) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            unreachable!("the core is stepped only when the cluster is formed");
        };
        running.raft.step(now, input);
        self.carry_out(now, incoming)
    }

    /// Does what the core wants done.
    fn carry_out(&mut self, now: Time, mut incoming: Incoming) -> Result<(), Fatal> {
        let Phase::Running(running) = &mut self.phase else {
            unreachable!("the core is stepped only when the cluster is formed");
        };
        while let Some(output) = running.raft.poll_output() {
            match output {
                Output::Write(write) => {
                    running.stage(&write, &mut incoming, &mut self.disk, &mut self.effects)?;
                }
                Output::Send(envelope) => {
                    let to = envelope.to;
                    let cluster_id = running.cluster_id;
                    let message = PeerMessage::Raft { cluster_id, envelope, entries: Vec::new() };
                    self.effects.push_back(Effect::Send { to, message });
                }
                Output::SendEntries { envelope, last, bytes_max } => {
                    let connected = self.connected.contains(envelope.to);
                    let effects = &mut self.effects;
                    running.send(now, envelope, last, bytes_max, connected, &self.disk, effects)?;
                }
                Output::SendFetched { envelope, pos } => {
                    running.send_fetched(now, envelope, pos, &self.disk, &mut self.effects)?;
                }
                Output::Repair { pos } => {
                    let found = incoming.entries.iter().find(|entry| {
                        (entry.header.term, entry.header.index) == (pos.term.0, pos.index.0)
                    });
                    running.repairs.extend(found.cloned());
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
                Output::Forgotten { acknowledged, has } => {
                    return Err(Fatal::LostMemory(format!(
                        "it had acknowledged entry {acknowledged}, and its log ends at {has}: was an \
                         older copy of the directory restored?"
                    )));
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
        running.answer_committed(&mut self.effects);
        running.lose_leadership(&mut self.effects);
        running.answer_waiting_all(&mut self.effects);
        Ok(())
    }
}
