//! What states are made of, each kept once: nodes, messages, and what happens to a node when
//! something is done to it. A state is a few numbers; the production core runs only where a node
//! meets something for the first time.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use tercet_raft::abstraction::Encoding;
use tercet_raft::{Envelope, Event, Incarnation, Message, NodeId, RoleKind};

use crate::invariant::Violation;
use crate::names::{Permutation, fingerprint};
use crate::node::{Happening, Node, Setup};

/// Numbers are spread well enough by one multiplication.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_u128(&mut self, number: u128) {
        #[allow(clippy::cast_possible_truncation, reason = "both halves go in")]
        let (low, high) = (number as u64, (number >> 64) as u64);
        self.write_u64(low);
        self.write_u64(high);
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// A node in one of its states, with what is asked of it often.
#[derive(Debug)]
pub(crate) struct NodeEntry {
    pub(crate) node: Node,
    /// By permutation.
    pub(crate) prints: Box<[u128]>,
    pub(crate) role: RoleKind,
    pub(crate) term: u8,
    pub(crate) synced_term: u8,
    pub(crate) commit: u8,
    /// The terms of the log's entries.
    pub(crate) log: Box<[u8]>,
    /// The same of what is synced.
    pub(crate) synced: Box<[u8]>,
    pub(crate) is_staged: bool,
}

impl NodeEntry {
    /// Whether this node has the entry where a crash does not take it away, or had it on a disk
    /// that was wiped since.
    pub(crate) fn had_synced(&self, index: usize, term: u8) -> bool {
        let lost = self.node.lost.iter().map(|lost| &lost[..]);
        std::iter::once(&self.synced[..]).chain(lost).any(|log| log.get(index - 1) == Some(&term))
    }
}

/// A message, with what is asked of it often.
#[derive(Debug)]
pub(crate) struct MessageEntry {
    pub(crate) envelope: Envelope,
    pub(crate) prints: Box<[u128]>,
}

/// What happens to a node in one state.
#[derive(Debug)]
pub(crate) struct Transition {
    pub(crate) node: u32,
    pub(crate) sent: Box<[u32]>,
    pub(crate) violation: Option<Violation>,
}

/// All nodes and messages that were met, by number.
#[derive(Debug, Default)]
struct Met {
    nodes: Vec<Arc<NodeEntry>>,
    node_numbers: Map<u128, u32>,
    messages: Vec<Arc<MessageEntry>>,
    message_numbers: Map<u128, u32>,
}

/// What the threads of a search share.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) setup: Setup,
    pub(crate) permutations: Vec<Permutation>,
    met: RwLock<Met>,
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than 2^32 are met")
}

impl Tables {
    pub(crate) fn new(setup: Setup) -> Self {
        let permutations = Permutation::all(setup.nodes);
        Self { setup, permutations, met: RwLock::default() }
    }

    fn prints(
        &self,
        out: &mut Encoding,
        encode: impl Fn(&Permutation, &mut Encoding),
    ) -> Box<[u128]> {
        let print = |names: &Permutation| {
            out.clear();
            encode(names, out);
            fingerprint(out.bytes())
        };
        self.permutations.iter().map(print).collect()
    }

    /// How many nodes and messages were met.
    pub(crate) fn met(&self) -> (usize, usize) {
        let met = self.met.read().unwrap_or_else(PoisonError::into_inner);
        (met.nodes.len(), met.messages.len())
    }
}

/// One thread's view of the tables: what it looked up before, it finds without asking.
#[derive(Debug)]
pub(crate) struct Lookup<'a> {
    pub(crate) tables: &'a Tables,
    nodes: Vec<Arc<NodeEntry>>,
    messages: Vec<Arc<MessageEntry>>,
    transitions: Map<(u32, u64), Arc<Transition>>,
    encoding: Encoding,
}

impl<'a> Lookup<'a> {
    pub(crate) fn new(tables: &'a Tables) -> Self {
        Self {
            tables,
            nodes: Vec::new(),
            messages: Vec::new(),
            transitions: Map::default(),
            encoding: Encoding::default(),
        }
    }

    fn catch_up(&mut self) {
        let met = self.tables.met.read().unwrap_or_else(PoisonError::into_inner);
        self.nodes.extend_from_slice(&met.nodes[self.nodes.len()..]);
        self.messages.extend_from_slice(&met.messages[self.messages.len()..]);
    }

    pub(crate) fn node(&mut self, number: u32) -> &Arc<NodeEntry> {
        if number as usize >= self.nodes.len() {
            self.catch_up();
        }
        &self.nodes[number as usize]
    }

    pub(crate) fn message(&mut self, number: u32) -> &Arc<MessageEntry> {
        if number as usize >= self.messages.len() {
            self.catch_up();
        }
        &self.messages[number as usize]
    }

    pub(crate) fn node_number(&mut self, node: Node) -> u32 {
        let mut encoding = std::mem::take(&mut self.encoding);
        let prints = self.tables.prints(&mut encoding, |names, out| node.encode(names, out));
        self.encoding = encoding;
        let mut met = self.tables.met.write().unwrap_or_else(PoisonError::into_inner);
        let next = number(met.nodes.len());
        let found = *met.node_numbers.entry(prints[0]).or_insert(next);
        if found == next {
            let small = |number: u64| u8::try_from(number).expect("a small search");
            let raft = &node.raft;
            let log = (1..=raft.last().index.0)
                .map(|index| small(raft.term_at(tercet_raft::Index(index)).expect("in the log").0));
            let entry = NodeEntry {
                prints,
                role: raft.role(),
                term: small(raft.term().0),
                synced_term: small(node.disk.synced.hard_state.term.0),
                commit: small(raft.commit().0),
                log: log.collect(),
                synced: node.disk.synced.terms().into(),
                is_staged: node.is_staged(),
                node,
            };
            met.nodes.push(Arc::new(entry));
        }
        found
    }

    pub(crate) fn message_number(&mut self, mut envelope: Envelope) -> u32 {
        forget_round(&mut envelope.message);
        let mut encoding = std::mem::take(&mut self.encoding);
        let prints = self.tables.prints(&mut encoding, |names, out| envelope.encode(names, out));
        self.encoding = encoding;
        let mut met = self.tables.met.write().unwrap_or_else(PoisonError::into_inner);
        let next = number(met.messages.len());
        let found = *met.message_numbers.entry(prints[0]).or_insert(next);
        if found == next {
            met.messages.push(Arc::new(MessageEntry { envelope, prints }));
        }
        found
    }

    /// What happens to a node; worked out by the production core, once.
    pub(crate) fn transition(&mut self, node: u32, code: Code) -> Arc<Transition> {
        if let Some(known) = self.transitions.get(&(node, code.0)) {
            return Arc::clone(known);
        }
        let happening = self.happening(code);
        let before = Arc::clone(self.node(node));
        let stepped = before.node.step(&self.tables.setup, &happening);
        let sent = stepped.sent.into_iter().map(|envelope| self.message_number(envelope));
        let transition = Transition {
            sent: sent.collect(),
            violation: stepped.violation,
            node: self.node_number(stepped.node),
        };
        let transition = Arc::new(transition);
        self.transitions.insert((node, code.0), Arc::clone(&transition));
        transition
    }

    /// What a node does in words of the core: for people, not for the search.
    pub(crate) fn events(&mut self, node: u32, code: Code) -> (Vec<Event>, Vec<Envelope>) {
        let happening = self.happening(code);
        let before = Arc::clone(self.node(node));
        let mut stepped = before.node.step(&self.tables.setup, &happening);
        stepped.sent.iter_mut().for_each(|sent| forget_round(&mut sent.message));
        (stepped.events, stepped.sent)
    }

    fn happening(&mut self, code: Code) -> Happening {
        #[allow(clippy::cast_possible_truncation, reason = "a number of a message has 32 bits")]
        let argument = code.0 as u32;
        match code.0 >> 56 {
            0 => Happening::Timeout,
            1 => Happening::QuorumLost,
            2 => Happening::Propose,
            3 => Happening::Sync,
            4 => Happening::Crash,
            5 => {
                let slots = self.tables.setup.node_ids();
                let member = |id: NodeId| {
                    let wipes = u64::from(argument >> (4 * u32::from(id.slot() - 1))) & 0xf;
                    (id, crate::node::incarnation(id, wipes))
                };
                Happening::Wipe(slots.map(member).collect())
            }
            6 => Happening::Receive(self.message(argument).envelope.clone()),
            7 => Happening::Transfer(member(argument)),
            8 => Happening::LinkLost(member(argument)),
            other => unreachable!("{other} is no code"),
        }
    }
}

fn member(argument: u32) -> NodeId {
    u8::try_from(argument).ok().and_then(NodeId::new).expect("a member's slot")
}

/// What is done to a node, as a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Code(u64);

impl Code {
    pub(crate) const TIMEOUT: Self = Self(0);
    pub(crate) const QUORUM_LOST: Self = Self(1 << 56);
    pub(crate) const PROPOSE: Self = Self(2 << 56);
    pub(crate) const SYNC: Self = Self(3 << 56);
    pub(crate) const CRASH: Self = Self(4 << 56);

    /// Wiped; the members are what `node` knows of them.
    pub(crate) fn wipe(node: &Node) -> Self {
        let wipes = |incarnation: Incarnation| u64::from(incarnation.0.to_le_bytes()[0]);
        let member = |(node, incarnation): (NodeId, Incarnation)| {
            wipes(incarnation) << (4 * u32::from(node.slot() - 1))
        };
        Self(5 << 56 | node.members().into_iter().map(member).sum::<u64>())
    }

    pub(crate) const fn receive(message: u32) -> Self {
        Self(6 << 56 | message as u64)
    }

    pub(crate) const fn transfer(slot: u8) -> Self {
        Self(7 << 56 | slot as u64)
    }

    pub(crate) const fn link_lost(slot: u8) -> Self {
        Self(8 << 56 | slot as u64)
    }
}

/// Rounds decide when a read is answered, and no reads are searched.
fn forget_round(message: &mut Message) {
    match message {
        Message::Append { round, .. }
        | Message::AppendReply { round, .. }
        | Message::Heartbeat { round, .. }
        | Message::HeartbeatReply { round } => *round = 0,
        Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::Vote { .. }
        | Message::VoteReply { .. }
        | Message::LearnerReply { .. }
        | Message::Rejoin
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::Fetch { .. }
        | Message::FetchReply { .. } => {}
    }
}
