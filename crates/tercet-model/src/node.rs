//! One node: the production core, on a disk that forgets what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tercet_raft::abstraction::{Encoding, Names};
use tercet_raft::{
    Config, EntryKind, EntryMeta, Envelope, Event, HardState, Incarnation, Index, Input, LogPos,
    Message, NodeId, Output, Profile, Proposal, ProposalId, Raft, Recovered, RoleKind, Rules, Term,
    Time, Write, WriteId, invariants,
};

use crate::invariant::{Invariant, Violation};

/// What all nodes of a search are set up with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// How many nodes.
    pub nodes: u8,
    /// Which Raft.
    pub profile: Profile,
    /// The rules that are switched off.
    pub rules: Rules,
    /// Whether nodes ask before they campaign. Pre-vote changes when a node campaigns, and here it
    /// may do so at any moment: without it the same campaigns are searched in fewer steps.
    pub pre_vote: bool,
    /// Whether every write is synced in the step that asks for it. Sound only where nothing is said
    /// of crashes.
    pub eager_sync: bool,
}

impl Setup {
    /// The nodes.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> {
        (1..=self.nodes).map(|slot| NodeId::new(slot).expect("few"))
    }
}

/// What a disk holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) hard_state: HardState,
    pub(crate) log: Vec<EntryMeta>,
}

impl Stored {
    /// What a node of this term holds, with payload entries of these terms.
    pub(crate) fn given(term: u64, log: &[u64]) -> Self {
        let entry = |term: &u64| EntryMeta { term: Term(*term), kind: EntryKind::Payload };
        let hard_state = HardState { term: Term(term), vote: None };
        Self { hard_state, log: log.iter().map(entry).collect() }
    }

    fn write(&mut self, write: &Write) {
        if let Some(state) = write.hard_state {
            self.hard_state = state;
        }
        if let Some(from) = write.truncate_from {
            self.log.truncate(place(from));
        }
        assert_eq!(place(write.first), self.log.len(), "entries continue the log");
        self.log.extend(write.entries.iter().copied());
    }

    pub(crate) fn terms(&self) -> Vec<u8> {
        self.log.iter().map(|entry| u8::try_from(entry.term.0).expect("few terms")).collect()
    }

    fn encode(&self, names: &dyn Names, out: &mut Encoding) {
        out.hard_state(names, self.hard_state);
        out.number(self.log.len() as u64);
        for entry in &self.log {
            out.entry(names, entry);
        }
    }
}

fn place(index: Index) -> usize {
    usize::try_from(index.0 - 1).expect("a short log")
}

/// A node's directory.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    incarnation: Incarnation,
    pub(crate) quarantined: bool,
    members: BTreeMap<NodeId, Incarnation>,
    /// What outlives a crash.
    pub(crate) synced: Stored,
    /// What was written.
    cache: Stored,
    /// The last write that was not synced.
    staged: Option<WriteId>,
}

/// A node; see the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) disk: Disk,
    /// Whom this incarnation gave its vote to, by term, as it told others.
    promises: BTreeMap<Term, NodeId>,
    /// The terms of the entries that lost disks had synced.
    pub(crate) lost: Vec<Vec<u8>>,
}

/// What can happen to a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Happening {
    /// A timer fires: a campaign, a heartbeat, a question.
    Timeout,
    /// A leader finds that it does not hear from a majority.
    QuorumLost,
    /// A client submits one entry.
    Propose,
    /// All that was written is synced.
    Sync,
    /// The process dies and starts again on what was synced.
    Crash,
    /// Its directory is taken away, and it starts again with what a peer says of the members.
    Wipe(BTreeMap<NodeId, Incarnation>),
    /// A message arrives.
    Receive(Envelope),
    /// The leader hands over.
    Transfer(NodeId),
    /// The link to a peer is lost.
    LinkLost(NodeId),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Stepped {
    pub(crate) node: Node,
    pub(crate) sent: Vec<Envelope>,
    pub(crate) events: Vec<Event>,
    pub(crate) violation: Option<Violation>,
}

/// The incarnation that a slot has after so many wipes.
pub(crate) fn incarnation(node: NodeId, wipes: u64) -> Incarnation {
    Incarnation(u128::from(node.slot()) << 8 | u128::from(wipes))
}

fn config(setup: &Setup, node: NodeId, disk: &Disk) -> Config {
    let mut rules = setup.rules;
    rules.no_pre_vote |= !setup.pre_vote;
    Config {
        node,
        incarnation: disk.incarnation,
        members: disk.members.clone(),
        floor: LogPos::ORIGIN,
        quarantined: disk.quarantined,
        profile: setup.profile,
        rules,
        heartbeat_interval: Duration::from_micros(1),
        election_timeout_min: Duration::from_micros(1),
        election_timeout_max: Duration::from_micros(1),
        election_timer_frozen: false,
        seed: 0,
        message_bytes_max: 1 << 20,
        inflight_bytes_max: 1 << 20,
        inflight_messages_max: 8,
        uncommitted_bytes_max: 1 << 20,
    }
}

impl Node {
    /// A node of a formed cluster that was started on this.
    pub(crate) fn new(setup: &Setup, node: NodeId, stored: Stored) -> Self {
        let disk = Disk {
            incarnation: incarnation(node, 0),
            quarantined: false,
            members: setup.node_ids().map(|id| (id, incarnation(id, 0))).collect(),
            synced: stored.clone(),
            cache: stored,
            staged: None,
        };
        let raft = start(setup, node, &disk);
        Self { raft, disk, promises: BTreeMap::new(), lost: Vec::new() }
    }

    /// Whether something was written and not synced.
    pub(crate) const fn is_staged(&self) -> bool {
        self.disk.staged.is_some()
    }

    /// What this node's log says of the members.
    pub(crate) fn members(&self) -> BTreeMap<NodeId, Incarnation> {
        self.raft.members()
    }

    /// Adds all that the node's further behaviour, and its judgement, depend on.
    pub(crate) fn encode(&self, names: &dyn Names, out: &mut Encoding) {
        let Self { raft, disk, promises, lost } = self;
        let Disk { incarnation, quarantined, members, synced, cache, staged } = disk;
        out.node(names, Some(raft.node()));
        raft.encode(names, out);
        out.number(names.incarnation(*incarnation));
        out.number(u64::from(*quarantined) << 1 | u64::from(staged.is_some()));
        let members = members.iter().map(|(node, incarnation)| (*node, incarnation));
        out.by_node(names, members, |out, incarnation| {
            out.number(names.incarnation(*incarnation));
        });
        synced.encode(names, out);
        cache.encode(names, out);
        out.number(promises.len() as u64);
        for (term, to) in promises {
            out.number(term.0);
            out.node(names, Some(*to));
        }
        out.number(lost.len() as u64);
        for terms in lost {
            out.number(terms.len() as u64);
            for term in terms {
                out.number(u64::from(*term));
            }
        }
    }

    /// Lets something happen to the node. A panic of the core is a violation.
    pub(crate) fn step(&self, setup: &Setup, happening: &Happening) -> Stepped {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut turn = Turn { setup, sent: Vec::new(), events: Vec::new(), violation: None };
            let node = turn.step(self.clone(), happening);
            Stepped { node, sent: turn.sent, events: turn.events, violation: turn.violation }
        }));
        result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let text = text.unwrap_or_else(|| "without a word".to_owned());
            let violation = Some(Violation::of_panic(self.raft.node(), text));
            Stepped { node: self.clone(), sent: Vec::new(), events: Vec::new(), violation }
        })
    }
}

fn start(setup: &Setup, node: NodeId, disk: &Disk) -> Raft {
    let log = &disk.synced.log;
    let mut runs: Vec<LogPos> = Vec::new();
    let mut readmits = BTreeMap::new();
    for (entry, index) in log.iter().zip(1..) {
        if runs.last().is_none_or(|run| run.term < entry.term) {
            runs.push(LogPos { term: entry.term, index: Index(index) });
        }
        if let EntryKind::Readmit { node, incarnation } = entry.kind {
            readmits.insert(Index(index), (node, incarnation));
        }
    }
    let recovered = Recovered {
        hard_state: disk.synced.hard_state,
        runs,
        last: Index(log.len() as u64),
        readmits,
        faulty: BTreeSet::new(),
        commit: Index::ZERO,
    };
    let mut raft = Raft::new(config(setup, node, disk), recovered, Time(0));
    raft.forget_time();
    raft
}

/// One step on its way.
struct Turn<'a> {
    setup: &'a Setup,
    sent: Vec<Envelope>,
    events: Vec<Event>,
    violation: Option<Violation>,
}

impl Turn<'_> {
    fn step(&mut self, mut node: Node, happening: &Happening) -> Node {
        let id = node.raft.node();
        let before = node.raft.clone();
        match happening {
            Happening::Timeout => self.input(&mut node, Time(0), Input::Timeout),
            Happening::QuorumLost => self.input(&mut node, Raft::LATER, Input::Timeout),
            Happening::Propose => {
                let proposals = vec![Proposal { id: ProposalId(0), bytes: 1 }];
                self.input(&mut node, Time(0), Input::Propose { proposals });
            }
            Happening::Sync => self.sync(&mut node),
            Happening::Receive(envelope) => {
                self.input(&mut node, Time(0), Input::Receive(envelope.clone()));
            }
            Happening::Transfer(to) => {
                self.input(&mut node, Time(0), Input::TransferLeadership { to: Some(*to) });
            }
            Happening::LinkLost(peer) => {
                self.input(&mut node, Time(0), Input::LinkLost { peer: *peer });
            }
            Happening::Crash => {
                node.disk.cache = node.disk.synced.clone();
                node.disk.staged = None;
                node.raft = start(self.setup, id, &node.disk);
                return node;
            }
            Happening::Wipe(members) => {
                let wipes = node.lost.len() as u64 + 1;
                node.lost.push(node.disk.synced.terms());
                node.promises.clear();
                node.disk = Disk {
                    incarnation: incarnation(id, wipes),
                    quarantined: true,
                    members: members.clone(),
                    synced: Stored::default(),
                    cache: Stored::default(),
                    staged: None,
                };
                node.raft = start(self.setup, id, &node.disk);
                return node;
            }
        }
        while self.setup.eager_sync && node.is_staged() {
            self.sync(&mut node);
        }
        invariants::check_step(&before, &node.raft);
        node.raft.forget_time();
        node
    }

    fn sync(&mut self, node: &mut Node) {
        if let Some(write) = node.disk.staged.take() {
            node.disk.synced = node.disk.cache.clone();
            self.input(node, Time(0), Input::Durable { write });
        }
    }

    /// Steps the core and does what it wants done, as the replica does.
    fn input(&mut self, node: &mut Node, now: Time, input: Input) {
        node.raft.step(now, input);
        while let Some(output) = node.raft.poll_output() {
            match output {
                Output::Write(write) => {
                    node.disk.cache.write(&write);
                    node.disk.staged = Some(write.id);
                }
                Output::Send(envelope) => self.send(node, envelope),
                Output::SendEntries { mut envelope, last, .. } => {
                    let to = envelope.to;
                    let Message::Append { prev, entries, .. } = &mut envelope.message else {
                        unreachable!("entries travel in an Append");
                    };
                    let from = place(prev.index.next());
                    entries.extend(&node.disk.cache.log[from..=place(last)]);
                    let bytes = entries.len() as u64;
                    self.send(node, envelope);
                    node.raft.step(now, Input::Sent { to, last, bytes });
                }
                Output::Admit { .. } => {
                    node.disk.members = node.raft.members();
                    node.disk.members.insert(node.raft.node(), node.disk.incarnation);
                    node.disk.quarantined = false;
                    node.raft.step(now, Input::Admitted);
                }
                Output::Event(event) => {
                    if let Event::Violation { index } = &event {
                        let what = format!("{} was told to cut entry {index}", node.raft.node());
                        self.violate(Invariant::StateMachineSafety, what);
                    }
                    self.events.push(event);
                }
                Output::Forgotten { acknowledged, has } => {
                    let me = node.raft.node();
                    let what = format!("{me} had acknowledged {acknowledged} and holds {has}");
                    self.violate(Invariant::Durability, what);
                }
                Output::SendFetched { .. } | Output::Repair { .. } => {
                    unreachable!("no damage is searched")
                }
                Output::Commit { .. }
                | Output::Accepted { .. }
                | Output::Refused { .. }
                | Output::BarrierReady { .. }
                | Output::BarrierFailed { .. }
                | Output::TransferEnded { .. } => {}
            }
        }
    }

    fn violate(&mut self, invariant: Invariant, what: String) {
        self.violation.get_or_insert(Violation { invariant, what });
    }

    fn send(&mut self, node: &mut Node, envelope: Envelope) {
        let me = node.raft.node();
        let counts = !matches!(envelope.message, Message::LearnerReply { .. } | Message::Rejoin);
        if node.raft.role() == RoleKind::Quarantined && counts {
            let what = format!("{me} is muted and says {:?}", envelope.message);
            self.violate(Invariant::MutedNodesCountNowhere, what);
        }
        if let Message::VoteReply { denied: None } = envelope.message {
            let to = *node.promises.entry(envelope.term).or_insert(envelope.to);
            if to != envelope.to {
                let (term, second) = (envelope.term, envelope.to);
                let what = format!("{me} votes for {to} and for {second} in term {term}");
                self.violate(Invariant::OneVotePerTerm, what);
            }
        }
        self.sent.push(envelope);
    }
}
