//! Tercet's core: three `Raft`s, and what a driver does around each: it keeps the bytes of entries,
//! attaches them to messages, and says that a write is durable once what came has been stepped.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tercet_raft::{
    Config, EntryKind, EntryMeta, Envelope, Incarnation, Index, Input, LogPos, Message, NodeId,
    Output, Profile, Proposal, ProposalId, Raft, Recovered, RoleKind, Rules, Term, Time, WriteId,
};

use crate::{Cluster, KEPT, KEPT_MAX};

/// A driver steps the core with at most so many inputs before it writes its disk.
const BATCH_MAX: usize = 1024;

struct Packet {
    envelope: Envelope,
    /// The bytes of its entries.
    bodies: Vec<Bytes>,
}

struct Node {
    raft: Raft,
    /// The latest entries, from index `first` on; the one without bytes is the leader's no-op.
    log: VecDeque<(Term, Bytes)>,
    first: u64,
    /// What is written, and not yet reported durable.
    written: Option<WriteId>,
    applied_index: u64,
    applied: u64,
}

impl Node {
    fn new(slot: u8) -> Self {
        let node = |slot| NodeId::new(slot).expect("1 to 3");
        let incarnation = |slot: u8| Incarnation(u128::from(slot));
        let config = Config {
            node: node(slot),
            incarnation: incarnation(slot),
            members: (1..=3)
                .map(|slot| (node(slot), incarnation(slot)))
                .collect::<BTreeMap<_, _>>(),
            floor: LogPos::ORIGIN,
            quarantined: false,
            profile: Profile::Modern,
            rules: Rules::default(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_secs(1),
            election_timeout_max: Duration::from_secs(2),
            election_timer_frozen: false,
            seed: 1,
            message_bytes_max: 1 << 20,
            inflight_bytes_max: 256 << 20,
            inflight_messages_max: 256,
            uncommitted_bytes_max: 1 << 30,
        };
        Self {
            raft: Raft::new(config, Recovered::default(), Time(0)),
            log: VecDeque::new(),
            first: 1,
            written: None,
            applied_index: 0,
            applied: 0,
        }
    }

    fn place(&self, index: u64) -> usize {
        usize::try_from(index - self.first).expect("an index that is kept")
    }

    /// Steps, and does what the core wants done. `bodies` belong to the input's entries: all of them
    /// are new here.
    fn step(&mut self, now: Time, input: Input, bodies: Vec<Bytes>, queue: &mut Vec<Packet>) {
        let mut bodies = bodies.into_iter();
        self.raft.step(now, input);
        while let Some(output) = self.raft.poll_output() {
            match output {
                Output::Write(write) => {
                    assert!(write.truncate_from.is_none(), "no log is cut here");
                    let bodies = bodies.by_ref().chain(std::iter::repeat(Bytes::new()));
                    self.log.extend(write.entries.iter().map(|meta| meta.term).zip(bodies));
                    self.written = Some(write.id);
                }
                Output::Send(envelope) => queue.push(Packet { envelope, bodies: Vec::new() }),
                Output::SendEntries { envelope, last, bytes_max } => {
                    self.send(now, envelope, last, bytes_max, queue);
                }
                Output::Commit { last } => self.apply(last.0),
                Output::Accepted { .. } | Output::Event(_) => {}
                other => unreachable!("nothing goes wrong here: {other:?}"),
            }
        }
    }

    fn send(
        &mut self,
        now: Time,
        mut envelope: Envelope,
        last: Index,
        bytes_max: u64,
        queue: &mut Vec<Packet>,
    ) {
        let Message::Append { prev, entries, .. } = &mut envelope.message else {
            unreachable!("entries travel in an Append");
        };
        let (first, to) = (prev.index.0 + 1, envelope.to);
        let range = self.place(first)..=self.place(last.0);
        let mut bodies = Vec::with_capacity(range.end() + 1 - range.start());
        let mut bytes = 0;
        for (term, body) in self.log.range(range) {
            let longer = bytes + body.len() as u64;
            if longer > bytes_max && !bodies.is_empty() {
                break;
            }
            bytes = longer;
            let kind = if body.is_empty() { EntryKind::Noop } else { EntryKind::Payload };
            entries.push(EntryMeta::new(*term, kind));
            bodies.push(body.clone());
        }
        let last = Index(first + bodies.len() as u64 - 1);
        queue.push(Packet { envelope, bodies });
        self.raft.step(now, Input::Sent { to, last, bytes });
    }

    fn apply(&mut self, last: u64) {
        for (_, body) in self.log.range(self.place(self.applied_index + 1)..=self.place(last)) {
            if !body.is_empty() {
                self.applied += 1;
                std::hint::black_box(body);
            }
        }
        self.applied_index = last;
    }

    /// The disk has what was written.
    fn flush(&mut self, now: Time, queue: &mut Vec<Packet>) {
        if let Some(write) = self.written.take() {
            self.step(now, Input::Durable { write }, Vec::new(), queue);
        }
    }

    fn forget(&mut self) {
        if self.applied_index - self.first > KEPT_MAX {
            let first = self.applied_index - KEPT;
            self.log.drain(..self.place(first));
            self.first = first;
        }
    }
}

pub(crate) struct Replicas {
    nodes: Vec<Node>,
    queue: Vec<Packet>,
    begun: Instant,
    next_proposal: u64,
}

impl Replicas {
    pub(crate) fn new() -> Self {
        let nodes = (1..=3).map(Node::new).collect();
        let mut replicas =
            Self { nodes, queue: Vec::new(), begun: Instant::now(), next_proposal: 0 };
        let now = replicas.now();
        replicas.nodes[0].step(now, Input::Campaign, Vec::new(), &mut replicas.queue);
        replicas.pump(now);
        assert_eq!(replicas.nodes[0].raft.role(), RoleKind::Leader);
        replicas
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.begun.elapsed().as_micros()).expect("not that long"))
    }

    /// As the driver goes: all that came is stepped, then the disk is written.
    fn pump(&mut self, now: Time) {
        loop {
            for node in &mut self.nodes {
                node.flush(now, &mut self.queue);
            }
            if self.queue.is_empty() {
                return;
            }
            for packet in std::mem::take(&mut self.queue) {
                let to = usize::from(packet.envelope.to.slot() - 1);
                let input = Input::Receive(packet.envelope);
                self.nodes[to].step(now, input, packet.bodies, &mut self.queue);
            }
        }
    }

    fn beat(&mut self, now: Time) {
        for node in &mut self.nodes {
            if node.raft.poll_timeout().is_some_and(|at| at <= now) {
                node.step(now, Input::Timeout, Vec::new(), &mut self.queue);
            }
        }
    }

    fn propose(&mut self, now: Time, count: usize, payload: &[u8]) {
        let proposal = |id| Proposal { id: ProposalId(id), bytes: payload.len() as u64 };
        let ids = self.next_proposal..self.next_proposal + count as u64;
        self.next_proposal = ids.end;
        let proposals = ids.map(proposal).collect();
        let bodies = (0..count).map(|_| Bytes::copy_from_slice(payload)).collect();
        self.nodes[0].step(now, Input::Propose { proposals }, bodies, &mut self.queue);
    }
}

impl Cluster for Replicas {
    fn round(&mut self, count: usize, payload: &[u8]) {
        let now = self.now();
        self.beat(now);
        for at in (0..count).step_by(BATCH_MAX) {
            self.propose(now, BATCH_MAX.min(count - at), payload);
        }
        let target = self.nodes[0].raft.last().index.0;
        self.pump(now);
        assert!(self.nodes[0].applied_index >= target, "the leader applied the round");
        self.nodes.iter_mut().for_each(Node::forget);
    }

    fn settle(&mut self) {
        // The next heartbeat says what is committed.
        let next = self.nodes[0].raft.poll_timeout().expect("a leader has heartbeats");
        self.beat(next);
        self.pump(next);
    }

    fn applied(&self) -> [u64; 3] {
        [0, 1, 2].map(|node: usize| self.nodes[node].applied)
    }
}
