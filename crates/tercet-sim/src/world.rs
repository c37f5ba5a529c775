//! The world: nodes, what is on its way between them, and the one loop that does what is due next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{Event, Message, NodeId, NodeSet, Profile, Rules, Status, Time};
use tercet_replica::gate::{Gate, GateChange, Passed};
use tercet_replica::{
    Effect, Fatal, Identity, LabInput, LoggedEntry, PeerMessage, Replica, ReplicaConfig, Submit,
    SubmitError, Submitted, Unread,
};
use tercet_wal::{Entry, MemDisk, MemFile, Survive, Unsynced, WalOptions};

use crate::clock::Clock;
use crate::network::{Fate, Link, Mishaps, Network, Said};
use crate::random::Random;

/// What is kept free on a disk before it counts as full.
const RESERVE_BYTES: u64 = 1 << 20;
/// How soon a node notices that a connection ended, or is there again.
const LINK_NOTICE: Duration = Duration::from_millis(1);
/// How soon there is a connection again that one side gave up, because of what came on it.
const LINK_AGAIN: Duration = Duration::from_millis(20);

/// What comes once more after so long is late.
const LATE: Duration = Duration::from_secs(60);

/// How a world is set up.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// How many nodes: n1 to nN.
    pub nodes: u8,
    /// Which Raft.
    pub profile: Profile,
    /// The rules that are switched off.
    pub rules: Rules,
    /// Whether election timers stand still from the start.
    pub timers_frozen: bool,
    /// From this all randomness comes.
    pub seed: u64,
    /// How often a leader shows that it lives.
    pub heartbeat_interval: Duration,
    /// The shortest election timeout.
    pub election_timeout_min: Duration,
    /// The longest election timeout.
    pub election_timeout_max: Duration,
    /// How long a message takes at least.
    pub latency: Duration,
    /// By how much a message may take longer, by chance.
    pub jitter: Duration,
    /// How long a disk takes for a write and a sync.
    pub sync: Duration,
}

impl WorldConfig {
    /// A usual cluster of so many nodes.
    pub const fn new(nodes: u8, seed: u64) -> Self {
        Self {
            nodes,
            profile: Profile::Modern,
            rules: Rules {
                commit_old_terms: false,
                truncate_always: false,
                ignore_log_in_votes: false,
                speak_before_durable: false,
                trust_wiped: false,
                no_pre_vote: false,
                no_check_quorum: false,
            },
            timers_frozen: false,
            seed,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            latency: Duration::from_micros(200),
            jitter: Duration::from_micros(100),
            sync: Duration::from_micros(150),
        }
    }

    /// The nodes.
    pub fn node_ids(&self) -> Vec<NodeId> {
        (1..=self.nodes).map(|slot| NodeId::new(slot).expect("1 to 7")).collect()
    }

    /// How a node's log is laid out: segments as small as they can be.
    pub const fn wal(&self) -> WalOptions {
        WalOptions {
            segment_bytes: 0,
            log_id: 0,
            reserve_bytes: RESERVE_BYTES,
            tail_bytes: 64 << 10,
        }
    }
}

/// Something that happened on a node.
#[derive(Clone, Debug)]
pub struct Happened {
    /// When.
    pub at: Time,
    /// Where.
    pub node: NodeId,
    /// The node's term then.
    pub term: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// In the core.
    Core(Event),
    /// A person should know.
    Warning(String),
    /// A person may want to know.
    Notice(String),
    /// The node stopped by itself.
    Stopped(String),
}

/// A client's request, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(pub u64);

/// What a client was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The records are committed.
    Submitted(Submitted),
    /// What was read.
    Read(Vec<Bytes>),
    /// Not appended by this attempt, and why; `leader` is where to go.
    Refused {
        /// Why.
        why: SubmitError,
        /// Who leads, as far as the node knows.
        leader: Option<NodeId>,
    },
    /// Nobody can know, or the read was not confirmed.
    Unknown,
}

#[derive(Debug)]
struct Op {
    at: NodeId,
    /// What is read: from which sequence number on, and how many records at most.
    read: Option<(u64, usize)>,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Node {
    disk: MemDisk,
    replica: Option<Replica<MemDisk>>,
    gate: Gate,
    /// How many times it was started: a connection does not outlive a process.
    life: u64,
    paused: bool,
    /// What came while it was paused.
    inbox: Vec<Due>,
    /// What is written and on its way to the platter …
    unsynced: Option<Unsynced<MemFile>>,
    /// … until then; without such, when what is staged is written.
    flush_at: Option<Time>,
    /// What it reads to send it, and when that has come from the disk.
    reads: VecDeque<(Time, Unread<MemFile>)>,
    /// When its timer is due, by the world's clock; `None` if it is down or its clock stands still.
    timer_at: Option<Time>,
    sync: Duration,
    clock: Clock,
    /// By how much its wall clock is off, in milliseconds.
    clock_ms: i64,
    /// The peers that it can reach.
    connected: NodeSet,
    /// Why it must be opened with its memory lost.
    lost: Option<String>,
    /// What survives when its disk fails it.
    dies_with: Survive,
}

impl Node {
    /// When the disk has given what is read first.
    fn read_at(&self) -> Option<Time> {
        self.reads.front().map(|(at, _)| *at)
    }

    /// Its replica may want to be woken at another time now.
    fn set_timer(&mut self) {
        let due = self.replica.as_ref().map(Replica::poll_timeout);
        self.timer_at = due.and_then(|due| self.clock.global(due));
    }
}

/// Something that is due.
#[derive(Clone, Debug)]
enum Due {
    /// For this life of the receiver: a connection ends with its process.
    Arrive {
        from: NodeId,
        to_life: u64,
        /// The connection that it was sent on; another one takes nothing over from it.
        connection: u32,
        message: PeerMessage,
    },
    /// Instead of a message: it has a damaged byte.
    Damaged {
        from: NodeId,
        to_life: u64,
        connection: u32,
        in_entry: bool,
    },
    /// A message of the past comes once more.
    Replay {
        from: NodeId,
        message: PeerMessage,
    },
    LinkUp {
        peer: NodeId,
    },
    LinkLost {
        peer: NodeId,
    },
    /// The connection broke; both processes are alive.
    LinkBroken {
        peer: NodeId,
    },
    Submit(Submit),
    Read {
        op: OpId,
        stale: bool,
    },
}

/// A world; see the crate's head.
#[derive(Debug)]
pub struct World {
    config: WorldConfig,
    random: Random,
    now: Time,
    /// By slot.
    nodes: Vec<Node>,
    /// What is due, by time and then by order of its making, with its place in `dues`.
    queue: BinaryHeap<Reverse<(Time, u64, usize)>>,
    dues: Vec<Option<(NodeId, Due)>>,
    free_dues: Vec<usize>,
    made: u64,
    network: Network,
    ops: BTreeMap<OpId, Op>,
    waiting: BTreeSet<OpId>,
    answered: Vec<OpId>,
    next_op: u64,
    happened: Vec<Happened>,
    /// Messages about damaged entries, and the bytes of entries in them.
    fetched: (u64, u64),
    mishaps: Mishaps,
}

impl World {
    /// A world whose nodes have empty disks and do not run yet. Started so, they form a cluster; for
    /// one that is formed, [`tercet_replica::prepare::prepare`] each [`Self::disk`] first.
    pub fn new(config: WorldConfig) -> Self {
        let node = |_: &NodeId| Node {
            disk: MemDisk::new(),
            replica: None,
            gate: Gate::default(),
            life: 0,
            paused: false,
            inbox: Vec::new(),
            unsynced: None,
            flush_at: None,
            reads: VecDeque::new(),
            timer_at: None,
            sync: config.sync,
            clock: Clock::default(),
            clock_ms: 0,
            connected: NodeSet::EMPTY,
            lost: None,
            dies_with: Survive::All,
        };
        let nodes = config.node_ids().iter().map(node).collect();
        Self {
            random: Random::new(config.seed),
            now: Time(1_000_000),
            nodes,
            queue: BinaryHeap::new(),
            dues: Vec::new(),
            free_dues: Vec::new(),
            made: 0,
            network: Network::new(config.nodes, config.seed),
            ops: BTreeMap::new(),
            waiting: BTreeSet::new(),
            answered: Vec::new(),
            next_op: 1,
            happened: Vec::new(),
            fetched: (0, 0),
            mishaps: Mishaps::default(),
            config,
        }
    }

    /// How it is set up.
    pub const fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// The present.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The nodes.
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.config.node_ids()
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id.slot()) - 1]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(id.slot()) - 1]
    }

    /// A node's disk, for who prepares or damages it while the node is down.
    pub fn disk(&mut self, id: NodeId) -> &mut MemDisk {
        &mut self.node_mut(id).disk
    }

    /// A node's gate.
    pub fn gate(&self, id: NodeId) -> &Gate {
        &self.node(id).gate
    }

    /// A node's replica, if it runs.
    pub fn replica(&self, id: NodeId) -> Option<&Replica<MemDisk>> {
        self.node(id).replica.as_ref()
    }

    /// What a node's core says of itself, if it runs and the cluster is formed.
    pub fn status(&self, id: NodeId) -> Option<Status> {
        self.replica(id)?.status().raft
    }

    /// A node's log; empty if it does not run.
    pub fn log(&self, id: NodeId) -> Vec<LoggedEntry> {
        let logged = self.replica(id).map(|replica| replica.logged(1, usize::MAX));
        logged.and_then(Result::ok).unwrap_or_default()
    }

    /// How many pieces of its log a node reads from its disk now, to send them.
    pub fn reads_under_way(&self, id: NodeId) -> usize {
        self.node(id).reads.len()
    }

    /// Whether a node's process exists.
    pub fn is_up(&self, id: NodeId) -> bool {
        self.node(id).replica.is_some()
    }

    /// How many times a node was started.
    pub fn life(&self, id: NodeId) -> u64 {
        self.node(id).life
    }

    /// Whether a node stands still.
    pub fn is_paused(&self, id: NodeId) -> bool {
        self.node(id).paused
    }

    /// Whether anything happened, was said or answered since it was last taken.
    pub fn has_news(&self) -> bool {
        !self.happened.is_empty() || !self.answered.is_empty() || self.network.has_said()
    }

    /// What happened since the last call, in order.
    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    fn note(&mut self, node: NodeId, what: What) {
        let term = self.replica(node).and_then(Replica::raft).map_or(0, |raft| raft.term().0);
        self.happened.push(Happened { at: self.now, node, term, what });
    }

    // --- processes ---

    /// Starts a node on what its disk holds.
    ///
    /// # Errors
    /// Why it cannot start, in words.
    pub fn start(&mut self, id: NodeId) -> Result<(), String> {
        let config = self.replica_config(id);
        let now = self.now;
        let node = &mut self.nodes[usize::from(id.slot()) - 1];
        assert!(node.replica.is_none(), "{id} runs already");
        let lost = node.lost.take();
        let random = &mut self.random;
        let local = node.clock.local(now);
        let replica = Replica::open(node.disk.clone(), config, lost, &mut || random.wide(), local);
        node.replica = Some(replica.map_err(|error| error.to_string())?);
        node.life += 1;
        node.paused = false;
        for peer in self.node_ids() {
            if peer != id && self.is_up(peer) {
                self.after(LINK_NOTICE, id, Due::LinkUp { peer });
                self.after(LINK_NOTICE, peer, Due::LinkUp { peer: id });
            }
        }
        self.settle_node(id);
        Ok(())
    }

    fn replica_config(&self, id: NodeId) -> ReplicaConfig {
        let mut config = ReplicaConfig::new(id, self.node_ids(), "lab".to_owned());
        config.profile = self.config.profile;
        config.rules = self.config.rules;
        config.election_timer_frozen = self.config.timers_frozen;
        config.heartbeat_interval = self.config.heartbeat_interval;
        config.election_timeout_min = self.config.election_timeout_min;
        config.election_timeout_max = self.config.election_timeout_max;
        config.seed = Some(self.config.seed);
        config.wal = self.config.wal();
        config
    }

    /// Changes what every node that is started from now on is configured with.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut WorldConfig)) {
        change(&mut self.config);
    }

    /// The process dies: what was not synced is lost, or what `survive` leaves of it.
    pub fn crash(&mut self, id: NodeId, survive: Survive) {
        let node = self.node_mut(id);
        node.replica = None;
        node.disk = node.disk.after_crash(survive);
        node.inbox.clear();
        node.unsynced = None;
        node.flush_at = None;
        node.reads.clear();
        node.timer_at = None;
        node.paused = false;
        node.connected = NodeSet::EMPTY;
        // What the gate holds was in the process; its rules are the lab's.
        let held: BTreeSet<u64> = node.gate.held().map(|held| held.number).collect();
        node.gate.discard(&held);
        node.dies_with = Survive::All;
        for op in self.waiting.clone() {
            if self.ops[&op].at == id {
                self.answer_op(op, Answer::Unknown);
            }
        }
        for peer in self.node_ids() {
            if peer != id && self.is_up(peer) {
                self.after(LINK_NOTICE, peer, Due::LinkLost { peer: id });
            }
        }
    }

    /// The machine will die in the middle of what the node writes: after so many more writes, syncs
    /// and changes of its directory. A start that this cuts short fails: [`Self::crash`] the node
    /// then.
    pub fn crash_in_write(&mut self, id: NodeId, steps: u64, survive: Survive) {
        let node = self.node_mut(id);
        node.dies_with = survive;
        node.disk.crash_after(Some(steps));
    }

    /// The `n`th sync from now on fails (1: the next), and with it the node.
    pub fn fail_sync(&mut self, id: NodeId, n: u64, survive: Survive) {
        let node = self.node_mut(id);
        node.dies_with = survive;
        node.disk.fail_sync(n);
    }

    /// The process stands still.
    pub fn pause(&mut self, id: NodeId) {
        self.node_mut(id).paused = true;
    }

    /// The process goes on; what came meanwhile comes now.
    pub fn resume(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        node.paused = false;
        for due in std::mem::take(&mut node.inbox) {
            self.after(Duration::ZERO, id, due);
        }
    }

    /// From now on this is how long the node's disk takes.
    pub fn set_sync(&mut self, id: NodeId, sync: Duration) {
        let soon = self.now.after(sync);
        let node = self.node_mut(id);
        node.sync = sync;
        // What waits for it does not wait longer than it would now.
        node.flush_at = node.flush_at.map(|at| at.min(soon));
        node.reads.iter_mut().for_each(|(at, _)| *at = soon.min(*at));
    }

    /// The node's wall clock jumps.
    pub fn jump_clock(&mut self, id: NodeId, by_ms: i64) {
        self.node_mut(id).clock_ms += by_ms;
    }

    /// From now on the node's clocks go so fast: 1000 is as they should, 0 is not at all.
    pub fn set_clock_rate(&mut self, id: NodeId, permille: u64) {
        let now = self.now;
        let node = self.node_mut(id);
        node.clock.set_rate(now, permille);
        node.set_timer();
    }

    /// The lab interferes with a node that runs.
    pub fn interfere(&mut self, id: NodeId, input: LabInput) {
        let now = self.local(id);
        self.with_replica(id, |replica| replica.interfere(now, input));
    }

    /// The leader hands over.
    pub fn transfer(&mut self, id: NodeId, to: Option<NodeId>) {
        let now = self.local(id);
        self.with_replica(id, |replica| replica.transfer(now, to));
    }

    // --- clients ---

    /// A client sends records to a node. Sent to one that is down, or that stands still until it is
    /// killed, nobody will know.
    pub fn submit(&mut self, at: NodeId, request_id: u128, records: Vec<Bytes>) -> OpId {
        self.submit_if_next(at, request_id, records, None)
    }

    /// The same, on condition that the first record gets this sequence number.
    pub fn submit_if_next(
        &mut self,
        at: NodeId,
        request_id: u128,
        records: Vec<Bytes>,
        expect_next: Option<u64>,
    ) -> OpId {
        let (id, tag) = self.new_op(at, None);
        let submit = Submit { tag, records, request_id, expect_next, wait_all: false };
        self.happen(at, Due::Submit(submit));
        id
    }

    /// A client reads all records at a node; `stale`: without asking anyone whether they are all.
    pub fn read(&mut self, at: NodeId, stale: bool) -> OpId {
        self.read_from(at, 1, usize::MAX, stale)
    }

    /// The same, from a sequence number on and so many records at most.
    pub fn read_from(&mut self, at: NodeId, from_seq: u64, limit: usize, stale: bool) -> OpId {
        let (op, _) = self.new_op(at, Some((from_seq, limit)));
        self.happen(at, Due::Read { op, stale });
        op
    }

    fn new_op(&mut self, at: NodeId, read: Option<(u64, usize)>) -> (OpId, u64) {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(id, Op { at, read, answer: None });
        self.waiting.insert(id);
        if !self.is_up(at) {
            self.answer_op(id, Answer::Unknown);
        }
        (id, id.0)
    }

    fn answer_op(&mut self, id: OpId, answer: Answer) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.answer = Some(answer);
        if self.waiting.remove(&id) {
            self.answered.push(id);
        }
    }

    /// The requests that were answered since the last call, in order.
    pub fn take_answered(&mut self) -> Vec<OpId> {
        std::mem::take(&mut self.answered)
    }

    /// Nobody will ask for this answer again.
    pub fn forget(&mut self, id: OpId) {
        self.waiting.remove(&id);
        self.ops.remove(&id);
    }

    /// What a client was told; `None` as long as it waits.
    pub fn answer(&self, id: OpId) -> Option<&Answer> {
        self.ops.get(&id)?.answer.as_ref()
    }

    /// Whether any client waits.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn finish_read(&mut self, id: OpId, confirmed: bool) {
        let Some(Op { at, read: Some((from_seq, limit)), .. }) = self.ops.get(&id) else { return };
        let values = self.replica(*at).filter(|_| confirmed).and_then(|replica| {
            let records = replica.read(*from_seq, *limit, usize::MAX).ok()?;
            Some(records.into_iter().map(|record| record.value).collect())
        });
        self.answer_op(id, values.map_or(Answer::Unknown, Answer::Read));
    }

    // --- time ---

    fn after(&mut self, later: Duration, to: NodeId, due: Due) {
        self.at(self.now.after(later), to, due);
    }

    fn at(&mut self, at: Time, to: NodeId, due: Due) {
        self.made += 1;
        let place = self.free_dues.pop().unwrap_or_else(|| {
            self.dues.push(None);
            self.dues.len() - 1
        });
        self.dues[place] = Some((to, due));
        self.queue.push(Reverse((at, self.made, place)));
    }

    /// What a node's own clock says.
    fn local(&self, id: NodeId) -> Time {
        self.node(id).clock.local(self.now)
    }

    /// When the next thing is due, if anything ever is.
    pub fn next_due(&self) -> Option<Time> {
        let never = Time(u64::MAX);
        let mut next = self.queue.peek().map_or(never, |Reverse((at, ..))| *at);
        for node in self.nodes.iter().filter(|node| !node.paused) {
            next = next.min(node.timer_at.unwrap_or(never)).min(node.flush_at.unwrap_or(never));
            next = next.min(node.read_at().unwrap_or(never));
        }
        (next < never).then(|| next.max(self.now))
    }

    /// Does the one thing that is due next, if it is due until `end`. Says whether there was one.
    pub fn step(&mut self, end: Time) -> bool {
        let Some(at) = self.next_due().filter(|at| *at <= end) else {
            self.now = self.now.max(end);
            return false;
        };
        self.now = at;
        if let Some(Reverse((due_at, _, place))) = self.queue.peek().copied()
            && due_at <= at
        {
            self.queue.pop();
            self.free_dues.push(place);
            let (to, due) = self.dues[place].take().expect("what is queued is there");
            self.happen(to, due);
            return true;
        }
        let is_due = |due: Option<Time>| due.is_some_and(|due| due <= at);
        let found = self.nodes.iter().position(|node| {
            let dues = [node.flush_at, node.read_at(), node.timer_at];
            !node.paused && dues.into_iter().any(is_due)
        });
        let slot = u8::try_from(found.expect("something was due") + 1).expect("few nodes");
        let id = NodeId::new(slot).expect("slots begin at 1");
        let local = self.local(id);
        if is_due(self.node(id).flush_at) {
            self.flush(id);
        } else if is_due(self.node(id).read_at()) {
            let (_, unread) = self.node_mut(id).reads.pop_front().expect("looked at above");
            self.with_replica(id, |replica| replica.end_read(local, unread.read()));
        } else {
            self.with_replica(id, |replica| replica.tick(local));
        }
        true
    }

    fn happen(&mut self, to: NodeId, due: Due) {
        let now = self.local(to);
        let node = self.node_mut(to);
        if node.replica.is_none() {
            return;
        }
        if node.paused {
            node.inbox.push(due);
            return;
        }
        match due {
            Due::Arrive { from, to_life, connection, message } => {
                if node.life == to_life {
                    if self.network.connection(from, to) == connection {
                        self.with_replica(to, |replica| replica.receive(now, from, message));
                    } else {
                        self.mishaps.cut_off += 1;
                    }
                }
            }
            Due::Damaged { from, to_life, connection, in_entry } => {
                if node.life == to_life && self.network.connection(from, to) == connection {
                    self.mishaps.damaged += 1;
                    self.mishaps.damaged_entries += u64::from(in_entry);
                    self.reset_link(from, to, LINK_AGAIN);
                }
            }
            Due::Replay { from, message } => {
                self.with_replica(to, |replica| replica.receive(now, from, message));
            }
            Due::LinkBroken { peer } => {
                if self.node_mut(to).connected.contains(peer) {
                    self.node_mut(to).connected.remove(peer);
                    self.with_replica(to, |replica| replica.link_lost(now, peer));
                }
            }
            Due::Submit(submit) => {
                let clock = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
                let wall_ms = clock.saturating_add(node.clock_ms).max(0);
                let wall_ms = u64::try_from(wall_ms).expect("not negative");
                self.with_replica(to, |replica| replica.submit(now, wall_ms, vec![submit]));
            }
            Due::Read { op, stale: true } => self.finish_read(op, true),
            Due::Read { op, stale: false } => {
                self.with_replica(to, |replica| replica.read_barrier(now, op.0));
            }
            Due::LinkUp { peer } => {
                if self.is_up(peer) {
                    self.node_mut(to).connected.insert(peer);
                    self.with_replica(to, |replica| {
                        replica.link_up(peer);
                        Ok(())
                    });
                }
            }
            Due::LinkLost { peer } => {
                // Unless it is there again already, by a connection of its next life.
                if !self.is_up(peer) {
                    self.node_mut(to).connected.remove(peer);
                    self.with_replica(to, |replica| replica.link_lost(now, peer));
                }
            }
        }
    }

    // --- a node's turn ---

    /// Gives a running node an input and does what it wants done.
    fn with_replica(
        &mut self,
        id: NodeId,
        input: impl FnOnce(&mut Replica<MemDisk>) -> Result<(), Fatal>,
    ) {
        let Some(replica) = self.node_mut(id).replica.as_mut() else { return };
        match input(replica) {
            Ok(()) => self.settle_node(id),
            Err(fatal) => self.stop(id, &fatal),
        }
    }

    /// The node cannot go on: it stops, or comes back without its memory.
    fn stop(&mut self, id: NodeId, fatal: &Fatal) {
        self.drain(id);
        self.note(id, What::Stopped(fatal.to_string()));
        let survive = self.node(id).dies_with;
        self.crash(id, survive);
        if let Fatal::LostMemory(why) = fatal {
            self.node_mut(id).lost = Some(why.clone());
            if let Err(error) = self.start(id) {
                self.note(id, What::Stopped(error));
            }
        }
    }

    fn settle_node(&mut self, id: NodeId) {
        self.drain(id);
        while let Some(replica) = self.node_mut(id).replica.as_mut()
            && replica.needs_values()
        {
            if let Err(fatal) = replica.write_values() {
                return self.stop(id, &fatal);
            }
            self.drain(id);
        }
        let (now, node) = (self.now, self.node_mut(id));
        node.set_timer();
        // A disk takes as long to read as to sync.
        while let Some(unread) = node.replica.as_mut().and_then(Replica::poll_unread) {
            node.reads.push_back((now.after(node.sync), unread));
        }
        let needs_flush = node.replica.as_ref().is_some_and(Replica::needs_flush);
        if needs_flush && node.flush_at.is_none() {
            node.flush_at = Some(now);
        }
    }

    /// What was written is synced now; or what is staged is written, and will be.
    fn flush(&mut self, id: NodeId) {
        let (now, local) = (self.now, self.local(id));
        let node = self.node_mut(id);
        let (unsynced, took) = (node.unsynced.take(), node.sync);
        node.flush_at = None;
        if let Some(unsynced) = unsynced {
            return self.with_replica(id, |replica| {
                replica.end_flush(local, unsynced.sync())?;
                replica.note_sync(local, took)
            });
        }
        let Some(replica) = node.replica.as_mut() else { return };
        match replica.begin_flush(local) {
            Ok(unsynced) => {
                if unsynced.is_some() || replica.needs_flush() {
                    node.flush_at = Some(now.after(took));
                }
                node.unsynced = unsynced;
                self.settle_node(id);
            }
            Err(fatal) => self.stop(id, &fatal),
        }
    }

    fn drain(&mut self, id: NodeId) {
        let mut passed = Vec::new();
        loop {
            let node = self.node_mut(id);
            let Some(replica) = node.replica.as_mut() else { break };
            let Some(effect) = replica.poll_effect() else { break };
            match effect {
                Effect::Send { to, message } => {
                    self.network.overhear(&message);
                    let node = self.node_mut(id);
                    node.gate.send(to, message, &mut passed);
                }
                Effect::Submitted { tag, result } => self.answer_submit(id, tag, result),
                Effect::BarrierDone { tag, confirmed } => self.finish_read(OpId(tag), confirmed),
                Effect::TransferEnded { .. } => {}
                Effect::Event(event) => self.note(id, What::Core(event)),
                Effect::Warning(text) => self.note(id, What::Warning(text)),
                Effect::Notice(text) => self.note(id, What::Notice(text)),
            }
        }
        self.send(id, passed);
    }

    fn answer_submit(&mut self, at: NodeId, tag: u64, result: Result<Submitted, SubmitError>) {
        let leader = self.replica(at).and_then(Replica::raft).and_then(|raft| raft.leader());
        if self.ops.get(&OpId(tag)).is_none_or(|op| op.read.is_some()) {
            return;
        }
        let answer = match result {
            Ok(submitted) => Answer::Submitted(submitted),
            Err(SubmitError::LeadershipLost | SubmitError::KeyExpired) => Answer::Unknown,
            Err(why) => Answer::Refused { why, leader: leader.filter(|leader| *leader != at) },
        };
        self.answer_op(OpId(tag), answer);
    }

    /// Changes the rules of a node's gate.
    pub fn change_gate(&mut self, from: NodeId, change: GateChange) {
        let mut passed = Vec::new();
        self.node_mut(from).gate.apply(change, &mut passed);
        self.send(from, passed);
    }

    /// Puts on the wire what passed a node's gate.
    fn send(&mut self, from: NodeId, passed: Vec<Passed>) {
        for Passed { to, later, message } in passed {
            if !self.node(from).connected.contains(to) || !self.is_up(to) {
                continue;
            }
            if let PeerMessage::Raft { envelope, entries, .. } = &message
                && matches!(envelope.message, Message::Fetch { .. } | Message::FetchReply { .. })
            {
                self.fetched.0 += 1;
                self.fetched.1 += entries.iter().map(|entry| entry.frame.len() as u64).sum::<u64>();
            }
            let jitter = u64::try_from(self.config.jitter.as_micros()).unwrap_or(0);
            let jitter = Duration::from_micros(self.random.below(jitter + 1));
            let earliest = self.now.after(self.config.latency + jitter + later);
            let (from_life, to_life) = (self.node(from).life, self.node(to).life);
            self.network.record(self.now, from, from_life, to, to_life, &message);
            let connection = self.network.connection(from, to);
            let Fate { at, again, is_damaged } = self.network.fate(from, to, &message, earliest);
            if let Some(at) = at
                && is_damaged
            {
                let in_entry = self.is_damage_in_an_entry(&message);
                self.at(at, to, Due::Damaged { from, to_life, connection, in_entry });
                continue;
            }
            if let Some(at) = again {
                let message = message.clone();
                self.at(at, to, Due::Arrive { from, to_life, connection, message });
            }
            if let Some(at) = at {
                self.at(at, to, Due::Arrive { from, to_life, connection, message });
            }
        }
    }

    /// A byte of a message becomes another one: one of an entry, or of the frame around it. Entries
    /// are bytes here as on a real wire, and are looked at as the receiver does; the checksum over
    /// the rest is the server's, whose tests flip every bit of it.
    fn is_damage_in_an_entry(&mut self, message: &PeerMessage) -> bool {
        let PeerMessage::Raft { entries, .. } = message else { return false };
        let Some(entry) = entries.first().filter(|_| self.random.chance(70)) else { return false };
        let mut bytes = entry.frame.to_vec();
        let at = self.random.below(bytes.len() as u64);
        bytes[usize::try_from(at).expect("it is in memory")] ^= 1 << self.random.below(8);
        let found = Entry::split_first(&mut Bytes::from(bytes));
        assert!(found.is_err(), "byte {at} of {entry:?} is damaged, and it is taken for whole");
        true
    }

    /// What became of messages that did not arrive as they were sent.
    pub const fn mishaps(&self) -> Mishaps {
        self.mishaps
    }

    /// How many messages about damaged entries were sent so far, and how many bytes of entries in
    /// them.
    pub const fn fetched(&self) -> (u64, u64) {
        self.fetched
    }

    // --- the network ---

    /// From now on messages from one node to another fare like this.
    pub fn set_link(&mut self, from: NodeId, to: NodeId, link: Link) {
        self.network.set_link(from, to, link);
    }

    /// Whether what one node sends to another now arrives late, behind what was sent before.
    pub fn is_clogged(&self, from: NodeId, to: NodeId) -> bool {
        self.network.last_arrival(from, to) > self.now.after(Duration::from_millis(200))
    }

    /// The connections between two nodes break, in the middle of a frame if one is on its way: what
    /// was on them is lost, and they are there again after `later`. So it is, too, when a frame
    /// comes with a damaged byte ([`Link::damage_percent`]): its checksum says so, and the receiver
    /// hangs up.
    pub fn reset_link(&mut self, one: NodeId, other: NodeId, later: Duration) {
        self.network.reset(one, other);
        for (id, peer) in [(one, other), (other, one)] {
            self.after(Duration::ZERO, id, Due::LinkBroken { peer });
            self.after(later.max(LINK_NOTICE), id, Due::LinkUp { peer });
        }
    }

    /// From now on messages are kept, some of them, so that they can come once more.
    pub fn record_messages(&mut self) {
        self.network.record_messages();
    }

    /// A message that was kept comes once more, however late: one between processes that still
    /// live, or one from or to a disk that is gone. (Between these two no network can deliver it: a
    /// connection ends with its process, and who opens the next one says who it is.) Says whether
    /// there was one.
    pub fn replay(&mut self) -> bool {
        let nodes = &self.nodes;
        let state = |id: NodeId| {
            let node = &nodes[usize::from(id.slot()) - 1];
            let incarnation = node.replica.as_ref().map(|replica| replica.identity().incarnation);
            (node.life, incarnation)
        };
        let Some((sent, from, to, message)) = self.network.recall(state) else { return false };
        self.mishaps.replayed_late += u64::from(self.now.since(sent) >= LATE);
        self.after(Duration::ZERO, to, Due::Replay { from, message });
        true
    }

    /// From now on it is noted what the nodes say, for [`Self::take_said`].
    pub fn overhear(&mut self) {
        self.network.listen();
    }

    /// What the nodes said since the last call, in order, whether it arrives or not.
    pub fn take_said(&mut self, into: &mut Vec<Said>) {
        self.network.take_said(into);
    }

    /// How many messages are on their way.
    pub fn on_their_way(&self) -> usize {
        let dues = self.dues.iter().flatten();
        dues.filter(|(_, due)| matches!(due, Due::Arrive { .. })).count()
    }

    /// The identities of a formed cluster of this world's nodes.
    pub fn identities(&self) -> Vec<Identity> {
        tercet_replica::prepare::identities("lab", &self.node_ids(), self.config.seed)
    }
}
