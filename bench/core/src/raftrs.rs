//! raft-rs: three `RawNode`s over its own storage in memory, `batch_append` on.

use std::time::{Duration, Instant};

use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

use crate::{Cluster, KEPT, KEPT_MAX};

const TICK: Duration = Duration::from_millis(100);

struct Node {
    raw: RawNode<MemStorage>,
    applied_index: u64,
    applied: u64,
    compacted: u64,
}

impl Node {
    fn new(id: u64, logger: &slog::Logger) -> Self {
        let storage = MemStorage::new_with_conf_state(ConfState::from((vec![1, 2, 3], vec![])));
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            max_committed_size_per_ready: u64::MAX,
            batch_append: true,
            ..Config::default()
        };
        let raw = RawNode::new(&config, storage, logger).expect("the configuration is valid");
        Self { raw, applied_index: 0, applied: 0, compacted: 0 }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.applied_index = entry.index;
            if !entry.data.is_empty() {
                self.applied += 1;
                std::hint::black_box(&entry.data);
            }
        }
    }

    /// Does what is ready to be done; says whether there was something.
    fn turn(&mut self, queue: &mut Vec<Message>) -> bool {
        if !self.raw.has_ready() {
            return false;
        }
        let mut ready = self.raw.ready();
        queue.append(&mut ready.take_messages());
        let committed = ready.take_committed_entries();
        self.apply(committed);
        let entries = ready.take_entries();
        if !entries.is_empty() {
            self.raw.mut_store().wl().append(&entries).expect("entries continue the log");
        }
        if let Some(state) = ready.hs() {
            self.raw.mut_store().wl().set_hardstate(state.clone());
        }
        queue.append(&mut ready.take_persisted_messages());
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().wl().mut_hard_state().commit = commit;
        }
        queue.append(&mut light.take_messages());
        let committed = light.take_committed_entries();
        self.apply(committed);
        self.raw.advance_apply();
        true
    }
}

pub(crate) struct Replicas {
    nodes: Vec<Node>,
    queue: Vec<Message>,
    ticked: Instant,
    /// Whether the entries of a round are proposed in one call: it has one, though not its front door.
    batches: bool,
}

impl Replicas {
    pub(crate) fn new(batches: bool) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let nodes = (1..=3).map(|id| Node::new(id, &logger)).collect();
        let mut replicas = Self { nodes, queue: Vec::new(), ticked: Instant::now(), batches };
        replicas.nodes[0].raw.campaign().expect("a voter may campaign");
        replicas.pump();
        assert_eq!(replicas.nodes[0].raw.raft.state, StateRole::Leader);
        replicas
    }

    fn pump(&mut self) {
        loop {
            let mut any = false;
            for node in &mut self.nodes {
                while node.turn(&mut self.queue) {
                    any = true;
                }
            }
            if self.queue.is_empty() && !any {
                return;
            }
            for message in std::mem::take(&mut self.queue) {
                let to = usize::try_from(message.to - 1).expect("1 to 3");
                self.nodes[to].raw.step(message).expect("a message between members");
            }
        }
    }
}

impl Cluster for Replicas {
    fn round(&mut self, count: usize, payload: &[u8]) {
        let now = Instant::now();
        if now - self.ticked >= TICK {
            self.ticked = now;
            for node in &mut self.nodes {
                node.raw.tick();
            }
        }
        let leader = &mut self.nodes[0].raw;
        if self.batches {
            let entry = || Entry { data: payload.to_vec().into(), ..Entry::default() };
            let mut message = Message { from: 1, ..Message::default() };
            message.set_msg_type(MessageType::MsgPropose);
            message.set_entries((0..count).map(|_| entry()).collect::<Vec<_>>().into());
            leader.raft.step(message).expect("it leads");
        } else {
            for _ in 0..count {
                leader.propose(Vec::new(), payload.to_vec()).expect("it leads");
            }
        }
        let target = leader.raft.raft_log.last_index();
        self.pump();
        assert!(self.nodes[0].applied_index >= target, "the leader applied the round");
        for node in &mut self.nodes {
            if node.applied_index - node.compacted > KEPT_MAX {
                let to = node.applied_index - KEPT;
                node.compacted = node.applied_index;
                node.raw.mut_store().wl().compact(to).expect("what is applied may go");
            }
        }
    }

    fn settle(&mut self) {
        self.pump();
    }

    fn applied(&self) -> [u64; 3] {
        [0, 1, 2].map(|node: usize| self.nodes[node].applied)
    }
}
