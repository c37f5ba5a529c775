//! A state of the whole cluster, what can happen in it, and what must hold in it.

use tercet_raft::{Envelope, Message, NodeId, Profile, RoleKind};

use crate::invariant::{Invariant, Violation};
use crate::names::{Permutation, fingerprint};
use crate::node::Node;
use crate::tables::{Code, Lookup, NodeEntry};

/// How far a search goes. What lies beyond is not searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The highest term.
    pub terms: u8,
    /// The longest log.
    pub entries: u8,
    /// How many entries clients submit.
    pub proposals: u8,
    /// How often a leader's heartbeat timer fires.
    pub heartbeats: u8,
    /// How many crashes there are, each losing what was not synced.
    pub crashes: u8,
    /// How many wipes there are.
    pub wipes: u8,
    /// How many messages arrive twice.
    pub duplicates: u8,
    /// How many leaders step down for want of a majority.
    pub step_downs: u8,
    /// How many leaders hand over.
    pub transfers: u8,
    /// How often a leader loses its link to a follower.
    pub links_lost: u8,
    /// How many messages are on their way at most, lost ones included.
    pub messages: u8,
    /// Whether messages are forgotten that can do nothing any more, if the core drops answers of
    /// older terms.
    pub forgets: bool,
}

/// What a budget is for.
const PROPOSALS: usize = 0;
const HEARTBEATS: usize = 1;
const CRASHES: usize = 2;
const WIPES: usize = 3;
const DUPLICATES: usize = 4;
const STEP_DOWNS: usize = 5;
const TRANSFERS: usize = 6;
const LINKS_LOST: usize = 7;
const BUDGETS: usize = 8;

impl Bounds {
    const fn budgets(&self) -> [u8; BUDGETS] {
        [
            self.proposals,
            self.heartbeats,
            self.crashes,
            self.wipes,
            self.duplicates,
            self.step_downs,
            self.transfers,
            self.links_lost,
        ]
    }
}

/// An entry that was committed: its term, and the term of the leader that committed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Committed {
    term: u8,
    by: u8,
}

/// What an onlooker remembers who sees all nodes, and how much of each bound is used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    /// Who led each term, by slot; 0 is nobody. Term 1 stands first.
    leaders: Vec<u8>,
    committed: Vec<Committed>,
    used: [u8; BUDGETS],
}

/// A state: nodes and messages by their numbers in the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) nodes: Vec<u32>,
    /// What is on its way, ascending. A message is lost by never arriving.
    pub(crate) messages: Vec<u32>,
    pub(crate) seen: Seen,
}

/// What can happen, as it is stored with each state that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A timer of the node fires.
    Timeout(NodeId),
    /// A leader does not hear from a majority.
    QuorumLost(NodeId),
    /// A client submits an entry to a leader.
    Propose(NodeId),
    /// The node's disk syncs.
    Sync(NodeId),
    /// The node dies and starts again.
    Crash(NodeId),
    /// The node loses its directory, and learns of the members from another.
    Wipe(NodeId, NodeId),
    /// A message arrives, and may be on its way still.
    Deliver {
        /// Its number.
        message: u32,
        /// Whether it may arrive once more.
        twice: bool,
    },
    /// A leader hands over.
    Transfer(NodeId, NodeId),
    /// A leader loses its link to a follower. (A follower that loses its leader's asks early: that is a
    /// timer that fires.)
    LinkLost(NodeId, NodeId),
}

impl Action {
    pub(crate) fn pack(self) -> u32 {
        let of = |kind: u32, node: NodeId, other: Option<NodeId>| {
            kind << 28 | u32::from(node.slot()) << 8 | other.map_or(0, |id| u32::from(id.slot()))
        };
        match self {
            Self::Timeout(node) => of(0, node, None),
            Self::QuorumLost(node) => of(1, node, None),
            Self::Propose(node) => of(2, node, None),
            Self::Sync(node) => of(3, node, None),
            Self::Crash(node) => of(4, node, None),
            Self::Wipe(node, from) => of(5, node, Some(from)),
            Self::Deliver { message, twice } => {
                assert!(message < 1 << 28, "fewer than 2^28 messages are met");
                (6 + u32::from(twice)) << 28 | message
            }
            Self::Transfer(node, to) => of(8, node, Some(to)),
            Self::LinkLost(node, peer) => of(9, node, Some(peer)),
        }
    }

    pub(crate) fn unpack(packed: u32) -> Self {
        let [other, slot, ..] = packed.to_le_bytes();
        let (message, node) = (packed & 0x0fff_ffff, NodeId::new(slot));
        let node = || node.expect("a member");
        let other = || NodeId::new(other).expect("a member");
        match packed >> 28 {
            0 => Self::Timeout(node()),
            1 => Self::QuorumLost(node()),
            2 => Self::Propose(node()),
            3 => Self::Sync(node()),
            4 => Self::Crash(node()),
            5 => Self::Wipe(node(), other()),
            6 => Self::Deliver { message, twice: false },
            7 => Self::Deliver { message, twice: true },
            8 => Self::Transfer(node(), other()),
            9 => Self::LinkLost(node(), other()),
            kind => unreachable!("{kind} is no kind of action"),
        }
    }
}

fn at(node: NodeId) -> usize {
    usize::from(node.slot() - 1)
}

impl State {
    pub(crate) fn new(nodes: Vec<Node>, lookup: &mut Lookup<'_>) -> Self {
        let nodes = nodes.into_iter().map(|node| lookup.node_number(node)).collect();
        Self { nodes, messages: Vec::new(), seen: Seen::default() }
    }

    /// As numbers: [messages, nodes …, messages …, seen …].
    pub(crate) fn pack(&self, out: &mut Vec<u32>) {
        let short = |count: usize| u32::try_from(count).expect("few");
        out.push(short(self.messages.len()));
        out.extend(&self.nodes);
        out.extend(&self.messages);
        let Seen { leaders, committed, used } = &self.seen;
        out.push(short(leaders.len()) << 8 | short(committed.len()));
        out.extend(leaders.iter().map(|slot| u32::from(*slot)));
        out.extend(committed.iter().map(|c| u32::from(c.term) << 8 | u32::from(c.by)));
        out.push(u32::from_le_bytes([used[0], used[1], used[2], used[3]]));
        out.push(u32::from_le_bytes([used[4], used[5], used[6], used[7]]));
    }

    pub(crate) fn unpack(nodes: usize, words: &mut impl Iterator<Item = u32>) -> Option<Self> {
        let messages = words.next()? as usize;
        let nodes = words.by_ref().take(nodes).collect();
        let messages = words.by_ref().take(messages).collect();
        let mut word = || words.next().expect("a whole state was packed");
        let [committed, leaders, ..] = word().to_le_bytes();
        let leaders = (0..leaders).map(|_| word().to_le_bytes()[0]).collect();
        let committed = (0..committed).map(|_| {
            let [by, term, ..] = word().to_le_bytes();
            Committed { term, by }
        });
        let committed = committed.collect();
        let ([a, b, c, d], [e, f, g, h]) = (word().to_le_bytes(), word().to_le_bytes());
        let seen = Seen { leaders, committed, used: [a, b, c, d, e, f, g, h] };
        Some(Self { nodes, messages, seen })
    }

    /// The same for all states that differ only in the names of the nodes.
    pub(crate) fn fingerprint(&self, lookup: &mut Lookup<'_>) -> u128 {
        let permutations = &lookup.tables.permutations;
        let mut sums: Vec<u128> =
            permutations.iter().map(|names| self.seen.fingerprint(names)).collect();
        let mut add = |prints: &[u128]| {
            for (sum, print) in sums.iter_mut().zip(prints) {
                *sum = sum.wrapping_add(*print);
            }
        };
        for node in &self.nodes {
            add(&lookup.node(*node).prints);
        }
        for message in &self.messages {
            add(&lookup.message(*message).prints);
        }
        sums.into_iter().min().expect("one permutation at least")
    }

    /// What can happen next.
    pub(crate) fn actions(&self, bounds: &Bounds, lookup: &mut Lookup<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let left = |what: usize| self.seen.used[what] < bounds.budgets()[what];
        let is_modern = lookup.tables.setup.profile == Profile::Modern;
        let ids: Vec<NodeId> = lookup.tables.setup.node_ids().collect();
        for id in ids.iter().copied() {
            let node = lookup.node(self.nodes[at(id)]);
            match node.role {
                RoleKind::Leader => {
                    if left(HEARTBEATS) {
                        actions.push(Action::Timeout(id));
                    }
                    if left(STEP_DOWNS) && is_modern {
                        actions.push(Action::QuorumLost(id));
                    }
                    if left(PROPOSALS) && node.log.len() < usize::from(bounds.entries) {
                        actions.push(Action::Propose(id));
                    }
                    if left(TRANSFERS) {
                        let others = ids.iter().copied().filter(|to| *to != id);
                        actions.extend(others.map(|to| Action::Transfer(id, to)));
                    }
                    if left(LINKS_LOST) {
                        let others = ids.iter().copied().filter(|peer| *peer != id);
                        actions.extend(others.map(|peer| Action::LinkLost(id, peer)));
                    }
                }
                RoleKind::Follower | RoleKind::PreCandidate | RoleKind::Candidate => {
                    if node.term < bounds.terms {
                        actions.push(Action::Timeout(id));
                    }
                }
                RoleKind::Quarantined => actions.push(Action::Timeout(id)),
            }
            if node.is_staged {
                actions.push(Action::Sync(id));
            }
            if left(CRASHES) {
                actions.push(Action::Crash(id));
            }
            if left(WIPES) && !node.node.disk.quarantined {
                let others = ids.iter().copied().filter(|from| *from != id);
                actions.extend(others.map(|from| Action::Wipe(id, from)));
            }
        }
        for message in self.messages.iter().copied() {
            actions.push(Action::Deliver { message, twice: false });
            if left(DUPLICATES) {
                actions.push(Action::Deliver { message, twice: true });
            }
        }
        actions
    }

    /// What led to the first state counts for no bound.
    pub(crate) fn forget_spending(&mut self) {
        self.seen.used = [0; BUDGETS];
    }

    /// To whom an action happens, and what.
    pub(crate) fn aim(&self, action: Action, lookup: &mut Lookup<'_>) -> (NodeId, Code) {
        match action {
            Action::Timeout(id) => (id, Code::TIMEOUT),
            Action::QuorumLost(id) => (id, Code::QUORUM_LOST),
            Action::Propose(id) => (id, Code::PROPOSE),
            Action::Sync(id) => (id, Code::SYNC),
            Action::Crash(id) => (id, Code::CRASH),
            Action::Wipe(id, from) => (id, Code::wipe(&lookup.node(self.nodes[at(from)]).node)),
            Action::Deliver { message, .. } => {
                (lookup.message(message).envelope.to, Code::receive(message))
            }
            Action::Transfer(id, to) => (id, Code::transfer(to.slot())),
            Action::LinkLost(id, peer) => (id, Code::link_lost(peer.slot())),
        }
    }

    /// The state after an action; `None` if it is out of bounds, or the same as before.
    pub(crate) fn after(
        &self,
        action: Action,
        bounds: &Bounds,
        lookup: &mut Lookup<'_>,
    ) -> Result<Option<Self>, Violation> {
        let (id, code) = self.aim(action, lookup);
        let transition = lookup.transition(self.nodes[at(id)], code);
        if let Some(violation) = &transition.violation {
            return Err(violation.clone());
        }
        let is_delivery = matches!(action, Action::Deliver { .. });
        let changes = transition.node != self.nodes[at(id)] || !transition.sent.is_empty();
        if is_delivery && !changes {
            // The state in which it has not arrived can do all that this one can.
            return Ok(None);
        }
        let mut next = self.clone();
        next.nodes[at(id)] = transition.node;
        if let Action::Deliver { message, twice: false } = action {
            next.messages.retain(|other| *other != message);
        }
        for message in &transition.sent {
            if let Err(place) = next.messages.binary_search(message) {
                next.messages.insert(place, *message);
            }
        }
        let before = std::sync::Arc::clone(lookup.node(self.nodes[at(id)]));
        let node = std::sync::Arc::clone(lookup.node(transition.node));
        if node.term > bounds.terms || node.log.len() > usize::from(bounds.entries) {
            return Ok(None);
        }
        let spent = match action {
            Action::Timeout(_) => (before.role == RoleKind::Leader).then_some(HEARTBEATS),
            Action::QuorumLost(_) => Some(STEP_DOWNS),
            Action::Propose(_) => Some(PROPOSALS),
            Action::Sync(_) | Action::Deliver { twice: false, .. } => None,
            Action::Crash(_) => Some(CRASHES),
            Action::Wipe(..) => Some(WIPES),
            Action::Deliver { twice: true, .. } => Some(DUPLICATES),
            Action::Transfer(..) => Some(TRANSFERS),
            Action::LinkLost(..) => Some(LINKS_LOST),
        };
        if let Some(what) = spent {
            next.seen.used[what] += 1;
        }
        next.look_at(id, &before, &node, lookup)?;
        next.look_at_leaders(lookup)?;
        next.look_at_logs(id, &node, lookup)?;
        if bounds.forgets && next.seen.used[WIPES] >= bounds.wipes {
            next.forget_dead_messages(lookup);
        }
        if next.messages.len() > usize::from(bounds.messages) {
            return Ok(None);
        }
        Ok(Some(next))
    }

    // --- what must hold ---

    /// What the node's step showed: a leader, a commit.
    fn look_at(
        &mut self,
        id: NodeId,
        before: &NodeEntry,
        node: &NodeEntry,
        lookup: &mut Lookup<'_>,
    ) -> Result<(), Violation> {
        let term = node.term;
        let leads = node.role == RoleKind::Leader;
        if leads && (before.role != RoleKind::Leader || before.term != term) {
            let place = usize::from(term - 1);
            if self.seen.leaders.len() <= place {
                self.seen.leaders.resize(place + 1, 0);
            }
            let other = std::mem::replace(&mut self.seen.leaders[place], id.slot());
            if other != 0 && other != id.slot() {
                let what = format!("term {term} has two leaders, n{other} and {id}");
                return Err(Violation { invariant: Invariant::ElectionSafety, what });
            }
        }
        for index in 1..=usize::from(node.commit) {
            let entry = node.log[index - 1];
            if let Some(known) = self.seen.committed.get(index - 1) {
                if known.term != entry {
                    let known = known.term;
                    let what = format!(
                        "{id} has committed {index}@{entry}, where {index}@{known} was committed"
                    );
                    return Err(Violation { invariant: Invariant::StateMachineSafety, what });
                }
                continue;
            }
            self.seen.committed.push(Committed { term: entry, by: term });
            let mut holds = |number: u32| lookup.node(number).had_synced(index, entry);
            let holders = self.nodes.iter().filter(|number| holds(**number)).count();
            if holders <= self.nodes.len() / 2 {
                let what =
                    format!("{id} commits {index}@{entry}, and only {holders} have it synced");
                return Err(Violation { invariant: Invariant::Durability, what });
            }
        }
        Ok(())
    }

    fn look_at_leaders(&self, lookup: &mut Lookup<'_>) -> Result<(), Violation> {
        for number in &self.nodes {
            let node = lookup.node(*number);
            if node.role != RoleKind::Leader {
                continue;
            }
            for (place, committed) in self.seen.committed.iter().enumerate() {
                if node.term > committed.by && node.log.get(place) != Some(&committed.term) {
                    let (id, leads) = (node.node.raft.node(), node.term);
                    let Committed { term, by } = committed;
                    let index = place + 1;
                    let what = format!(
                        "{id} leads term {leads} without {index}@{term}, committed in term {by}"
                    );
                    return Err(Violation { invariant: Invariant::LeaderCompleteness, what });
                }
            }
        }
        Ok(())
    }

    fn look_at_logs(
        &self,
        id: NodeId,
        node: &NodeEntry,
        lookup: &mut Lookup<'_>,
    ) -> Result<(), Violation> {
        for number in &self.nodes {
            let other = lookup.node(*number);
            let same = |place: &usize| node.log[*place] == other.log[*place];
            let both = node.log.len().min(other.log.len());
            let Some(last) = (0..both).rev().find(same) else { continue };
            if let Some(place) = (0..last).find(|place| !same(place)) {
                let (other, index, last) = (other.node.raft.node(), place + 1, last + 1);
                let what =
                    format!("{id} and {other} have the same entry {last}, and differ at {index}");
                return Err(Violation { invariant: Invariant::LogMatching, what });
            }
        }
        Ok(())
    }

    /// Messages that can never again do anything are not kept apart: terms on disk do not go back, and
    /// an answer of an older term is dropped. That the core keeps this rule is what the suite
    /// `old-reply` searches, in which nothing is forgotten.
    fn forget_dead_messages(&mut self, lookup: &mut Lookup<'_>) {
        let nodes = &self.nodes;
        self.messages.retain(|message| {
            let (to, term, kind) = {
                let Envelope { to, term, message, .. } = &lookup.message(*message).envelope;
                let kind = match message {
                    Message::VoteReply { denied: None } => Reply::Vote,
                    Message::VoteReply { denied: Some(_) } => Reply::Denial,
                    Message::AppendReply { .. } | Message::HeartbeatReply { .. } => Reply::Other,
                    Message::PreVote { .. }
                    | Message::PreVoteReply { .. }
                    | Message::Vote { .. }
                    | Message::Append { .. }
                    | Message::Heartbeat { .. }
                    | Message::LearnerReply { .. }
                    | Message::Rejoin
                    | Message::TimeoutNow
                    | Message::ReadIndex { .. }
                    | Message::ReadIndexReply { .. }
                    | Message::Fetch { .. }
                    | Message::FetchReply { .. } => return true,
                };
                (*to, term.0, kind)
            };
            let receiver = lookup.node(nodes[at(to)]);
            let synced = u64::from(receiver.synced_term);
            let is_dead = match kind {
                Reply::Other => term < synced,
                Reply::Denial => term <= synced,
                // Who is no candidate of its term any more never is again.
                Reply::Vote => {
                    term < synced || (term == synced && receiver.role != RoleKind::Candidate)
                }
            };
            !is_dead
        });
    }
}

#[derive(Clone, Copy)]
enum Reply {
    Vote,
    Denial,
    Other,
}

impl Seen {
    fn fingerprint(&self, names: &Permutation) -> u128 {
        let Self { leaders, committed, used } = self;
        let mut bytes = Vec::with_capacity(32);
        let short = |count: usize| u8::try_from(count).expect("few");
        bytes.push(short(leaders.len()));
        bytes.extend(leaders.iter().map(|slot| if *slot == 0 { 0 } else { names.slot(*slot) }));
        bytes.push(short(committed.len()));
        bytes.extend(committed.iter().flat_map(|committed| [committed.term, committed.by]));
        bytes.extend(used);
        // The sum of fingerprints of different kinds: those of nodes and messages begin with a name.
        bytes.push(u8::MAX);
        fingerprint(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_packed_without_loss() {
        let id = |slot| NodeId::new(slot).expect("a slot");
        let mut all = vec![
            Action::Deliver { message: 0x0fed_cba9, twice: true },
            Action::Deliver { message: 7, twice: false },
            Action::Wipe(id(3), id(1)),
            Action::Transfer(id(1), id(5)),
            Action::LinkLost(id(1), id(5)),
        ];
        let single =
            [Action::Timeout, Action::QuorumLost, Action::Propose, Action::Sync, Action::Crash];
        all.extend(single.map(|action| action(id(2))));
        for action in all {
            assert_eq!(Action::unpack(action.pack()), action);
        }
    }
}
