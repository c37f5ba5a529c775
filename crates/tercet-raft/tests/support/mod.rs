//! A cluster of real cores over an in-memory network, with virtual time and disks that can be
//! slow, crash and be wiped. The invariants are checked after every step.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at one event out of many")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tercet_raft::invariants::{check_cluster, check_step};
use tercet_raft::{
    AppendOutcome, BarrierId, Config, EntryKind, EntryMeta, Envelope, Event, FetchOutcome,
    HardState, Incarnation, Index, Input, LogPos, Message, NodeId, Output, PeerStatus, Profile,
    Proposal, ProposalId, Raft, Recovered, RoleKind, Rules, Term, Time, Write, WriteId,
};

/// After so many messages, or timers, something goes round in circles.
const SETTLE_MAX: u32 = 5_000;

pub(crate) fn node(slot: u8) -> NodeId {
    NodeId::new(slot).unwrap()
}

/// An entry as the test sees it: its term, and for payload which proposal it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) meta: EntryMeta,
    pub(crate) payload: u64,
}

/// A node's disk: what is durable, and the writes on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestDisk {
    pub(crate) hard_state: HardState,
    pub(crate) log: Vec<Entry>,
    pending: VecDeque<(Write, Vec<Entry>)>,
    pub(crate) quarantined: bool,
    /// The indexes of entries whose bytes are damaged.
    pub(crate) damaged: BTreeSet<u64>,
}

impl TestDisk {
    fn apply(&mut self, write: &Write, entries: &[Entry]) {
        if let Some(state) = write.hard_state {
            self.hard_state = state;
        }
        if let Some(from) = write.truncate_from {
            self.log.truncate(usize::try_from(from.0 - 1).unwrap());
            self.damaged.split_off(&from.0);
        }
        if !entries.is_empty() {
            assert_eq!(write.first.0, self.log.len() as u64 + 1, "entries continue the log");
        }
        self.log.extend_from_slice(entries);
    }

    fn recovered(&self) -> Recovered {
        let mut recovered = Recovered { hard_state: self.hard_state, ..Recovered::default() };
        for (entry, index) in self.log.iter().zip(1..) {
            if recovered.runs.last().is_none_or(|run| run.term < entry.meta.term) {
                recovered.runs.push(LogPos { term: entry.meta.term, index: Index(index) });
            }
            // What is damaged cannot be read: it is known by its place and term.
            if let EntryKind::Readmit { node, incarnation } = entry.meta.kind
                && !self.damaged.contains(&index)
            {
                recovered.readmits.insert(Index(index), (node, incarnation));
            }
            recovered.last = Index(index);
        }
        recovered.faulty = self.damaged.iter().copied().map(Index).collect();
        recovered
    }
}

pub(crate) struct TestNode {
    pub(crate) raft: Option<Raft>,
    pub(crate) incarnation: Incarnation,
    /// The whole log as the core has it, durable or not.
    pub(crate) log: Vec<Entry>,
    pub(crate) disk: TestDisk,
    /// Writes become durable only by [`Net::sync`].
    pub(crate) slow_disk: bool,
    /// The identity is not written: the node crashes before it says "voter".
    pub(crate) hold_admit: bool,
    /// It was told that it had acknowledged more than it holds.
    pub(crate) forgot: bool,
    pub(crate) applied: Vec<Entry>,
    pub(crate) events: Vec<Event>,
    pub(crate) barriers: Vec<(u64, Option<Index>)>,
    pub(crate) refused: Vec<(u64, tercet_raft::Refusal)>,
    pub(crate) transfers: Vec<Result<NodeId, tercet_raft::TransferError>>,
    /// Payloads of the Append under way, by index.
    incoming: BTreeMap<u64, u64>,
}

/// A message with the payloads of its entries.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) envelope: Envelope,
    pub(crate) payloads: Vec<u64>,
}

pub(crate) struct Net {
    pub(crate) nodes: BTreeMap<NodeId, TestNode>,
    pub(crate) wire: VecDeque<Packet>,
    /// Everything that was ever delivered or lost on the way, in order.
    pub(crate) wire_log: Vec<Message>,
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    pub(crate) now: Time,
    pub(crate) profile: Profile,
    pub(crate) rules: Rules,
    genesis: BTreeMap<NodeId, Incarnation>,
    next_incarnation: u128,
    next_payload: u64,
    pub(crate) message_bytes_max: u64,
    pub(crate) uncommitted_bytes_max: u64,
    /// Where every leader's log reaches at least, for nodes that are started from now on.
    pub(crate) floor: LogPos,
    pub(crate) inflight_bytes_max: u64,
    /// Every payload that was ever applied anywhere, by index: State Machine Safety.
    pub(crate) chosen: BTreeMap<u64, Entry>,
    /// Expect a violation instead of asserting that there is none.
    pub(crate) violations_allowed: bool,
    pub(crate) violated: bool,
    pub(crate) seed: u64,
    /// Leaders by term: Election Safety over the whole history.
    leaders: BTreeMap<Term, NodeId>,
}

impl Net {
    pub(crate) fn new(count: u8, profile: Profile) -> Self {
        Self::with_rules(count, profile, Rules::default())
    }

    pub(crate) fn with_rules(count: u8, profile: Profile, rules: Rules) -> Self {
        let genesis: BTreeMap<NodeId, Incarnation> =
            (1..=count).map(|slot| (node(slot), Incarnation(u128::from(slot)))).collect();
        let mut net = Self {
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            wire_log: Vec::new(),
            cut: BTreeSet::new(),
            now: Time(1),
            profile,
            rules,
            genesis: genesis.clone(),
            next_incarnation: 1000,
            next_payload: 1,
            message_bytes_max: 1 << 20,
            uncommitted_bytes_max: 1 << 30,
            floor: LogPos::ORIGIN,
            inflight_bytes_max: 1 << 20,
            chosen: BTreeMap::new(),
            violations_allowed: false,
            violated: false,
            seed: 7,
            leaders: BTreeMap::new(),
        };
        for (id, incarnation) in genesis {
            net.nodes.insert(
                id,
                TestNode {
                    raft: None,
                    incarnation,
                    log: Vec::new(),
                    disk: TestDisk::default(),
                    slow_disk: false,
                    hold_admit: false,
                    forgot: false,
                    applied: Vec::new(),
                    events: Vec::new(),
                    barriers: Vec::new(),
                    refused: Vec::new(),
                    transfers: Vec::new(),
                    incoming: BTreeMap::new(),
                },
            );
            net.restart(id.slot());
        }
        net
    }

    fn config(&self, id: NodeId) -> Config {
        let node = &self.nodes[&id];
        Config {
            node: id,
            incarnation: node.incarnation,
            members: self.genesis.clone(),
            quarantined: node.disk.quarantined,
            profile: self.profile,
            rules: self.rules,
            floor: self.floor,
            election_timer_frozen: false,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            seed: self.seed,
            message_bytes_max: self.message_bytes_max,
            inflight_bytes_max: self.inflight_bytes_max,
            inflight_messages_max: 64,
            uncommitted_bytes_max: self.uncommitted_bytes_max,
        }
    }

    pub(crate) fn node_mut(&mut self, slot: u8) -> &mut TestNode {
        self.nodes.get_mut(&node(slot)).unwrap()
    }

    pub(crate) fn raft(&self, slot: u8) -> &Raft {
        self.nodes[&node(slot)].raft.as_ref().expect("the node is up")
    }

    pub(crate) fn is_up(&self, slot: u8) -> bool {
        self.nodes[&node(slot)].raft.is_some()
    }

    /// Gives a node this log, term and no vote, as if it had always had them, before it starts.
    pub(crate) fn given(&mut self, slot: u8, term: u64, terms: &[u64]) {
        self.crash(slot);
        let target = self.nodes.get_mut(&node(slot)).unwrap();
        target.disk.hard_state = HardState { term: Term(term), vote: None };
        target.disk.log = terms
            .iter()
            .map(|term| {
                let meta = EntryMeta { term: Term(*term), kind: EntryKind::Payload };
                Entry { meta, payload: 0 }
            })
            .collect();
        self.restart(slot);
    }

    pub(crate) fn restart(&mut self, slot: u8) {
        let id = node(slot);
        let config = self.config(id);
        let now = self.now;
        let target = self.nodes.get_mut(&id).unwrap();
        assert!(target.raft.is_none(), "{id} is down");
        target.log = target.disk.log.clone();
        target.applied.clear();
        target.raft = Some(Raft::new(config, target.disk.recovered(), now));
    }

    /// The process dies: writes that are not durable are lost.
    pub(crate) fn crash(&mut self, slot: u8) {
        let target = self.nodes.get_mut(&node(slot)).unwrap();
        target.raft = None;
        target.disk.pending.clear();
        target.log = target.disk.log.clone();
    }

    /// The bytes of an entry are damaged on disk; a node that runs has just noticed.
    pub(crate) fn damage(&mut self, slot: u8, index: u64) {
        let target = self.nodes.get_mut(&node(slot)).unwrap();
        assert!(index >= 1 && index <= target.disk.log.len() as u64, "it is on the disk");
        target.disk.damaged.insert(index);
        if target.raft.is_some() {
            self.step(slot, Input::Faulty { index: Index(index) });
        }
    }

    pub(crate) fn damaged(&self, slot: u8) -> Vec<u64> {
        self.nodes[&node(slot)].disk.damaged.iter().copied().collect()
    }

    /// The disk is lost, and the node started again: a new incarnation.
    pub(crate) fn wipe(&mut self, slot: u8) {
        self.crash(slot);
        self.next_incarnation += 1;
        let target = self.nodes.get_mut(&node(slot)).unwrap();
        target.disk = TestDisk { quarantined: true, ..TestDisk::default() };
        target.incarnation = Incarnation(self.next_incarnation);
        self.restart(slot);
    }

    pub(crate) fn step(&mut self, slot: u8, input: Input) {
        let id = node(slot);
        let before = self.nodes[&id].raft.clone();
        let Some(before) = before else { return };
        let now = self.now;
        self.nodes.get_mut(&id).unwrap().raft.as_mut().unwrap().step(now, input);
        self.drain(id);
        let after = self.nodes[&id].raft.as_ref().unwrap();
        check_step(&before, after);
        if after.role() == RoleKind::Leader {
            let other = *self.leaders.entry(after.term()).or_insert(id);
            if other != id {
                assert!(
                    self.violations_allowed,
                    "Election Safety: {other} and {id} in {}",
                    after.term()
                );
                self.violated = true;
            }
        }
        if !self.violated && !self.violations_allowed {
            let rafts: Vec<&Raft> = self.nodes.values().filter_map(|n| n.raft.as_ref()).collect();
            check_cluster(&rafts);
        }
    }

    fn drain(&mut self, id: NodeId) {
        loop {
            let now = self.now;
            let target = self.nodes.get_mut(&id).unwrap();
            let Some(output) = target.raft.as_mut().unwrap().poll_output() else { break };
            match output {
                Output::Write(write) => {
                    let entries: Vec<Entry> = write
                        .entries
                        .iter()
                        .zip(write.first.0..)
                        .map(|(meta, index)| {
                            let payload = target.incoming.get(&index).copied().unwrap_or(0);
                            Entry { meta: *meta, payload }
                        })
                        .collect();
                    if let Some(from) = write.truncate_from {
                        target.log.truncate(usize::try_from(from.0 - 1).unwrap());
                    }
                    target.log.extend_from_slice(&entries);
                    target.disk.pending.push_back((write, entries));
                }
                Output::Send(envelope) => {
                    self.wire.push_back(Packet { envelope, payloads: Vec::new() });
                }
                Output::SendEntries { mut envelope, last, bytes_max } => {
                    let to = envelope.to;
                    let Message::Append { prev, entries, .. } = &mut envelope.message else {
                        panic!("entries travel in an Append");
                    };
                    let first = usize::try_from(prev.index.0).unwrap();
                    // Damaged entries cannot be sent, nor what follows them.
                    let readable = target.disk.damaged.range(first as u64 + 1..).next();
                    let until = readable.map_or(last.0, |damaged| last.0.min(damaged - 1));
                    let until = usize::try_from(until).unwrap().max(first);
                    // Every entry weighs 100 bytes here.
                    let fits = usize::try_from((bytes_max / 100).max(1)).unwrap();
                    let slice: Vec<Entry> =
                        target.log[first..until].iter().take(fits).copied().collect();
                    entries.extend(slice.iter().map(|entry| entry.meta));
                    let payloads = slice.iter().map(|entry| entry.payload).collect();
                    let sent = Index((first + slice.len()) as u64);
                    let bytes = 100 * slice.len() as u64;
                    if !slice.is_empty() {
                        self.wire.push_back(Packet { envelope, payloads });
                    }
                    target.raft.as_mut().unwrap().step(now, Input::Sent { to, last: sent, bytes });
                }
                Output::SendFetched { mut envelope, pos } => {
                    if target.disk.damaged.contains(&pos.index.0) {
                        let input = Input::Faulty { index: pos.index };
                        target.raft.as_mut().unwrap().step(now, input);
                        continue;
                    }
                    let entry = target.log[usize::try_from(pos.index.0 - 1).unwrap()];
                    let outcome = FetchOutcome::Whole(entry.meta);
                    envelope.message = Message::FetchReply { pos, outcome };
                    self.wire.push_back(Packet { envelope, payloads: vec![entry.payload] });
                }
                Output::Repair { pos } => {
                    let entry = target.log[usize::try_from(pos.index.0 - 1).unwrap()];
                    let payload = target.incoming.get(&pos.index.0);
                    assert_eq!(payload, Some(&entry.payload), "{id}: {pos} is one entry");
                    target.disk.damaged.remove(&pos.index.0);
                    let input = Input::Repaired { index: pos.index, kind: entry.meta.kind };
                    target.raft.as_mut().unwrap().step(now, input);
                }
                Output::Commit { last } => {
                    let applied = target.applied.len() as u64;
                    assert!(last.0 > applied, "{id}: {last} is handed out once, after {applied}");
                    self.apply(id, last);
                }
                Output::Accepted { pos, id: proposal } => {
                    target.incoming.insert(pos.index.0, proposal.0);
                }
                Output::Refused { id: proposal, reason } => {
                    target.refused.push((proposal.0, reason));
                }
                Output::BarrierReady { id: barrier, index } => {
                    target.barriers.push((barrier.0, Some(index)));
                }
                Output::BarrierFailed { id: barrier } => target.barriers.push((barrier.0, None)),
                Output::TransferEnded { result } => target.transfers.push(result),
                Output::Forgotten { .. } => {
                    target.forgot = true;
                }
                Output::Admit { .. } if target.hold_admit => {}
                Output::Admit { .. } => {
                    target.disk.quarantined = false;
                    target.raft.as_mut().unwrap().step(now, Input::Admitted);
                }
                Output::Event(event) => {
                    if event.kind() == "violation" {
                        assert!(self.violations_allowed, "{id}: {event}");
                        self.violated = true;
                    }
                    target.events.push(event);
                }
            }
        }
        if !self.nodes[&id].slow_disk {
            self.sync(id.slot());
        }
    }

    pub(crate) fn slow(&mut self, slot: u8, slow: bool) {
        self.node_mut(slot).slow_disk = slow;
    }

    /// All writes of a node reach its disk.
    pub(crate) fn sync(&mut self, slot: u8) {
        let target = self.nodes.get_mut(&node(slot)).unwrap();
        let mut last = None;
        while let Some((write, entries)) = target.disk.pending.pop_front() {
            target.disk.apply(&write, &entries);
            last = Some(write.id);
        }
        if let Some(write) = last {
            self.step(slot, Input::Durable { write });
        }
    }

    pub(crate) fn pending_writes(&self, slot: u8) -> Vec<WriteId> {
        self.nodes[&node(slot)].disk.pending.iter().map(|(write, _)| write.id).collect()
    }

    fn apply(&mut self, id: NodeId, last: Index) {
        let target = self.nodes.get_mut(&id).unwrap();
        let durable = target.disk.log.len() as u64;
        assert!(last.0 <= durable, "{id}: applied {last} is durable here, up to {durable}");
        while (target.applied.len() as u64) < last.0 {
            let index = target.applied.len() as u64 + 1;
            let entry = target.log[target.applied.len()];
            target.applied.push(entry);
            let chosen = *self.chosen.entry(index).or_insert(entry);
            if chosen != entry {
                assert!(
                    self.violations_allowed,
                    "State Machine Safety: {id} applied {entry:?} at {index}, another {chosen:?}"
                );
                self.violated = true;
            }
        }
    }

    // --- the network ---

    pub(crate) fn connected(&self, a: NodeId, b: NodeId) -> bool {
        !self.cut.contains(&(a, b))
    }

    pub(crate) fn cut_off(&mut self, slots: &[u8]) {
        let inside = |id: &NodeId| slots.contains(&id.slot());
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for a in &ids {
            for b in &ids {
                if inside(a) != inside(b) {
                    self.cut.insert((*a, *b));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn deliver(&mut self, packet: Packet) {
        let Packet { envelope, payloads } = packet;
        let (from, to) = (envelope.from, envelope.to);
        self.wire_log.push(envelope.message.clone());
        if !self.connected(from, to) || !self.nodes.contains_key(&to) || !self.is_up(to.slot()) {
            return;
        }
        let target = self.nodes.get_mut(&to).unwrap();
        target.incoming.clear();
        if let Message::Append { prev, .. } = &envelope.message {
            target.incoming = (prev.index.0 + 1..).zip(payloads).collect();
        } else if let Message::FetchReply { pos, .. } = &envelope.message {
            target.incoming = std::iter::once(pos.index.0).zip(payloads).collect();
        }
        self.step(to.slot(), Input::Receive(envelope));
    }

    /// Delivers everything that is on the wire, and what follows from it.
    pub(crate) fn settle(&mut self) {
        let mut budget = SETTLE_MAX;
        while let Some(packet) = self.wire.pop_front() {
            self.deliver(packet);
            budget -= 1;
            assert!(budget > 0, "the network comes to rest");
        }
    }

    /// Delivers only what `keep` says, in order; the rest stays on the wire.
    pub(crate) fn settle_only(&mut self, keep: impl Fn(&Envelope) -> bool) {
        let mut budget = SETTLE_MAX;
        while let Some(at) = self.wire.iter().position(|packet| keep(&packet.envelope)) {
            let packet = self.wire.remove(at).unwrap();
            self.deliver(packet);
            budget -= 1;
            assert!(budget > 0, "the network comes to rest");
        }
    }

    pub(crate) fn take_wire(&mut self, which: impl Fn(&Envelope) -> bool) -> Vec<Packet> {
        let (taken, left) = self.wire.drain(..).partition(|packet| which(&packet.envelope));
        self.wire = left;
        taken.into()
    }

    // --- time ---

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.nodes.values().filter_map(|n| n.raft.as_ref()?.poll_timeout()).min()
    }

    /// Lets time pass; every message arrives at once.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        self.settle();
        let mut budget = SETTLE_MAX;
        while let Some(due) = self.next_timeout().filter(|due| *due <= end) {
            budget -= 1;
            assert!(budget > 0, "a timer that fired is set anew");
            self.now = self.now.max(due);
            let slots: Vec<u8> = self.nodes.keys().map(|id| id.slot()).collect();
            for slot in slots {
                if self.is_up(slot)
                    && self.raft(slot).poll_timeout().is_some_and(|at| at <= self.now)
                {
                    self.step(slot, Input::Timeout);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        self.run(Duration::from_millis(ms));
    }

    /// One heartbeat of a leader, without anybody's election timer.
    pub(crate) fn beat(&mut self, slot: u8) {
        self.now = self.now.after(Duration::from_millis(50));
        self.step(slot, Input::Timeout);
        self.settle();
    }

    // --- what a person does ---

    /// Fires a node's election timer and delivers everything.
    pub(crate) fn elect(&mut self, slot: u8) {
        // Past everybody's stickiness, so that the election is decided by votes alone.
        self.now = self.now.after(Duration::from_millis(160));
        self.step(slot, Input::Campaign);
        self.settle();
    }

    /// Proposes a payload at a node, and says its number; nothing is delivered.
    pub(crate) fn propose(&mut self, slot: u8) -> u64 {
        let payload = self.next_payload;
        self.next_payload += 1;
        self.nodes.get_mut(&node(slot)).unwrap().incoming.clear();
        let proposals = vec![Proposal { id: ProposalId(payload), bytes: 100 }];
        self.step(slot, Input::Propose { proposals });
        payload
    }

    pub(crate) fn submit(&mut self, slot: u8) -> u64 {
        let payload = self.propose(slot);
        self.settle();
        payload
    }

    pub(crate) fn barrier(&mut self, slot: u8, id: u64) {
        self.step(slot, Input::ReadBarrier { id: BarrierId(id) });
    }

    // --- what is seen ---

    pub(crate) fn terms(&self, slot: u8) -> Vec<u64> {
        self.nodes[&node(slot)].log.iter().map(|entry| entry.meta.term.0).collect()
    }

    pub(crate) fn payloads(&self, slot: u8) -> Vec<u64> {
        self.nodes[&node(slot)].log.iter().map(|entry| entry.payload).collect()
    }

    pub(crate) fn applied(&self, slot: u8) -> Vec<u64> {
        let payload = |entry: &Entry| (entry.payload != 0).then_some(entry.payload);
        self.nodes[&node(slot)].applied.iter().filter_map(payload).collect()
    }

    pub(crate) fn leader(&self) -> Option<u8> {
        let leads = |(id, n): (&NodeId, &TestNode)| {
            n.raft
                .as_ref()
                .filter(|raft| raft.role() == RoleKind::Leader)
                .map(|raft| (raft.term(), id.slot()))
        };
        self.nodes.iter().filter_map(leads).max().map(|(_, slot)| slot)
    }

    pub(crate) fn count(&self, slot: u8, which: impl Fn(&Event) -> bool) -> usize {
        self.nodes[&node(slot)].events.iter().filter(|event| which(event)).count()
    }

    /// Distinct refusals (term, prev) of a follower: retransmissions count once.
    pub(crate) fn refusals(&self, slot: u8) -> usize {
        let prevs: BTreeSet<LogPos> = self.nodes[&node(slot)]
            .events
            .iter()
            .filter_map(|event| match event {
                Event::AppendRejected { prev, .. } => Some(*prev),
                _ => None,
            })
            .collect();
        prevs.len()
    }

    /// What the leader `slot` knows about a peer.
    pub(crate) fn peer(&self, slot: u8, peer: u8) -> PeerStatus {
        let peers = self.raft(slot).status().peers;
        *peers.iter().find(|status| status.node == node(peer)).expect("a leader knows its peers")
    }

    pub(crate) fn clear_events(&mut self) {
        for target in self.nodes.values_mut() {
            target.events.clear();
        }
    }
}

/// A small generator with pinned outputs.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub(crate) fn accepted(last: u64) -> AppendOutcome {
    AppendOutcome::Accepted { last: Index(last) }
}
