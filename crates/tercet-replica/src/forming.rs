//! How a cluster comes to be, and how a node that remembers nothing finds the one it belongs to.
//!
//! A node whose directory is empty may be new, or may have lost its disk: it cannot know. It asks
//! *all* configured peers. If any of them knows a cluster, the node belongs to that one and must
//! rejoin it; only if every one of them is as new as itself does the lowest slot make the cluster
//! (genesis). So neither one wiped node nor two of three can ever mint a second, empty cluster.
//!
//! ```text
//!  n1 (lowest)            n2                    n3
//!   │◄── Ask/Answer(fresh) ──►│◄── Ask/Answer(fresh) ──►│
//!   │ store genesis           │                         │
//!   ├──── Genesis ───────────►│ store, still fresh      │
//!   │◄─── GenesisAck ─────────┤                         │
//!   ├──── Genesis ─────────────────────────────────────►│ store, still fresh
//!   │◄─── GenesisAck ───────────────────────────────────┤
//!   │ all have it: voter      │                         │
//!   ├──── Start ─────────────►│ voter ──────────────────► voter
//! ```
//!
//! Nobody votes before `Start`, and only the lowest slot can say it, after it made itself a voter
//! durably. A genesis may be replaced by a newer one (a node was wiped in between) only if nothing can
//! have been committed under it: if its own maker makes the newer one and so never said `Start`, or if
//! a majority still holds it without having heard `Start`. Without this rule: 1. n1 and n2 start; n3
//! holds the genesis and is down. 2. They acknowledge a record, and both are wiped. 3. n3 comes up, all
//! three are "new", and form a second, empty cluster.

use std::collections::BTreeMap;

use tercet_raft::{Incarnation, NodeId, NodeSet, Time};

use crate::identity::{Generation, Identity, IdentityState};

/// What a node says of itself when it is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// "I remember nothing", but perhaps a genesis that was not started as far as this node knows.
    Fresh {
        /// That genesis.
        genesis: Option<Unstarted>,
    },
    /// "I belong to this cluster."
    Known {
        /// Its id.
        cluster_id: u128,
        /// Which generation of it.
        generation: Generation,
        /// The incarnation that this node knows for each slot.
        members: BTreeMap<NodeId, Incarnation>,
    },
    /// "An operator lets the cluster begin again from my log."
    Survivor {
        /// The generation that begins.
        generation: Generation,
    },
}

/// A genesis that a node has stored, without having heard that the cluster started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unstarted {
    /// The id of the cluster that it would be.
    pub cluster_id: u128,
    /// Who made it, with the incarnation that it had.
    pub maker: (NodeId, Incarnation),
}

/// What nodes say to each other until a cluster exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FormMessage {
    /// "Who are you?"
    Ask,
    /// The answer.
    Answer {
        /// What the sender remembers.
        standing: Standing,
    },
    /// "This is the cluster": from its maker to a fresh node.
    Genesis {
        /// Its id.
        cluster_id: u128,
        /// Which generation it is.
        generation: Generation,
        /// Its members.
        members: BTreeMap<NodeId, Incarnation>,
    },
    /// "I have stored it."
    GenesisAck {
        /// The id of what was stored.
        cluster_id: u128,
    },
    /// "All have stored it: vote."
    Start {
        /// The id of the cluster that starts.
        cluster_id: u128,
    },
    /// "Your slot has been readmitted with a later incarnation than this one": from a member to a
    /// member that goes by a disk which is known to be gone.
    Replaced {
        /// The earlier incarnation.
        incarnation: Incarnation,
    },
}

/// What the forming of a cluster wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FormStep {
    /// Send this.
    Send(NodeId, FormMessage),
    /// Store this identity durably *before* anything that follows is sent.
    Store(Identity),
    /// A person should know.
    Warn(String),
    /// The identity is that of a member: run Raft.
    Done,
}

/// How often a fresh node asks.
const ASK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);

/// A node that does not yet know its cluster.
#[derive(Clone, Debug)]
pub(crate) struct Forming {
    identity: Identity,
    peers: Vec<NodeId>,
    /// The cluster id to give to a genesis of this node; each genesis takes another.
    next_cluster_id: u128,
    /// The fresh peers that answered, with the incarnation that did and the genesis that they hold.
    fresh: BTreeMap<NodeId, (Incarnation, Option<Unstarted>)>,
    /// Who has stored the genesis in `identity`.
    acked: NodeSet,
    ask_at: Time,
    /// The peers whose contradiction was said already.
    contradicting: NodeSet,
}

impl Forming {
    /// `cluster_id` is random; it is used if this node makes the cluster.
    pub(crate) fn new(identity: Identity, peers: Vec<NodeId>, cluster_id: u128, now: Time) -> Self {
        assert!(
            matches!(identity.state, IdentityState::Fresh | IdentityState::Survivor)
                || identity.cluster_id.is_none(),
            "a node that knows its cluster does not form one"
        );
        Self {
            identity,
            peers,
            next_cluster_id: cluster_id,
            fresh: BTreeMap::new(),
            acked: NodeSet::EMPTY,
            ask_at: now,
            contradicting: NodeSet::EMPTY,
        }
    }

    pub(crate) const fn poll_timeout(&self) -> Time {
        self.ask_at
    }

    /// The peers that are awaited: to answer, or to come back with what they knew of a genesis that
    /// may have been started.
    pub(crate) fn awaited(&self) -> Vec<NodeId> {
        let silent: Vec<NodeId> =
            self.peers.iter().copied().filter(|peer| !self.fresh.contains_key(peer)).collect();
        let Some(undecided) = self.undecided().filter(|_| silent.is_empty()) else {
            return silent;
        };
        let holds = |peer: &NodeId| self.fresh[peer].1 == Some(undecided);
        self.peers.iter().copied().filter(|peer| !holds(peer)).collect()
    }

    /// The genesis that this node holds and has not heard to be started.
    fn unstarted(&self) -> Option<Unstarted> {
        let cluster_id = self.identity.cluster_id?;
        let lowest = || self.peers.iter().copied().fold(self.identity.node, NodeId::min);
        let maker =
            self.identity.generation.recovery.map_or_else(lowest, |recovery| recovery.survivor);
        let incarnation = *self.identity.members.get(&maker)?;
        matches!(self.identity.state, IdentityState::Fresh | IdentityState::Survivor)
            .then_some(Unstarted { cluster_id, maker: (maker, incarnation) })
    }

    /// A genesis under which something may have been committed, as far as this node knows: one that
    /// another maker made, and that less than a majority holds without having heard of its start.
    fn undecided(&self) -> Option<Unstarted> {
        let me = (self.identity.node, self.identity.incarnation);
        let members = self.peers.len() + 1;
        let majority = members / 2 + 1;
        let held = || self.fresh.values().filter_map(|(_, genesis)| *genesis);
        let is_undecided = |genesis: &Unstarted| {
            let holders = held().chain(self.unstarted()).filter(|other| other == genesis).count();
            genesis.maker != me && holders < majority
        };
        held().find(is_undecided)
    }

    fn is_survivor(&self) -> bool {
        self.identity.state == IdentityState::Survivor
    }

    /// Whether it is for this node to make the cluster. Whoever has heard of a later generation waits
    /// for its survivor: an empty first one is never made again.
    fn is_maker(&self) -> bool {
        let is_lowest = self.peers.iter().all(|peer| self.identity.node < *peer);
        let is_new = self.identity.state == IdentityState::Fresh;
        self.is_survivor() || is_new && is_lowest && self.identity.generation.number <= 1
    }

    pub(crate) fn on_timeout(&mut self, now: Time) -> Vec<FormStep> {
        if now < self.ask_at {
            return Vec::new();
        }
        self.ask_at = now.after(ASK_INTERVAL);
        let mut steps = Vec::new();
        for peer in &self.peers {
            steps.push(FormStep::Send(*peer, FormMessage::Ask));
            if self.is_survivor() {
                let standing = Standing::Survivor { generation: self.identity.generation };
                steps.push(FormStep::Send(*peer, FormMessage::Answer { standing }));
            }
        }
        self.offer_genesis(&mut steps);
        steps
    }

    /// Whether the members of which a message speaks, if it does, are those that are configured: a
    /// directory made for others could not be opened again.
    pub(crate) fn is_of_this_cluster(&self, message: &FormMessage) -> bool {
        let members = match message {
            FormMessage::Answer { standing: Standing::Known { members, .. } }
            | FormMessage::Genesis { members, .. } => members,
            FormMessage::Ask
            | FormMessage::Answer {
                standing: Standing::Fresh { .. } | Standing::Survivor { .. },
            }
            | FormMessage::GenesisAck { .. }
            | FormMessage::Start { .. }
            | FormMessage::Replaced { .. } => return true,
        };
        let is_member = |node: &NodeId| *node == self.identity.node || self.peers.contains(node);
        members.len() == self.peers.len() + 1 && members.keys().all(is_member)
    }

    pub(crate) fn on_message(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        message: FormMessage,
    ) -> Vec<FormStep> {
        let mut steps = Vec::new();
        if !self.peers.contains(&from) || !self.is_of_this_cluster(&message) {
            return steps;
        }
        match message {
            FormMessage::Ask => {
                let standing = if self.is_survivor() {
                    Standing::Survivor { generation: self.identity.generation }
                } else {
                    Standing::Fresh { genesis: self.unstarted() }
                };
                steps.push(FormStep::Send(from, FormMessage::Answer { standing }));
            }
            FormMessage::Answer { standing: Standing::Fresh { genesis } } => {
                self.fresh.insert(from, (incarnation, genesis));
                self.maybe_genesis(&mut steps);
            }
            FormMessage::Answer {
                standing: Standing::Known { cluster_id, generation, members },
            } => {
                self.on_known(from, cluster_id, generation, members, &mut steps);
            }
            FormMessage::Answer { standing: Standing::Survivor { generation } } => {
                self.on_survivor(from, generation, &mut steps);
            }
            FormMessage::Genesis { cluster_id, generation, members } => {
                // Only the maker makes clusters, and only the one in which this very incarnation
                // stands: a late genesis for a disk that is gone is none of ours.
                let for_me = members.get(&self.identity.node) == Some(&self.identity.incarnation);
                let is_lowest =
                    self.peers.iter().all(|peer| from <= *peer) && from < self.identity.node;
                let is_maker =
                    generation.recovery.map_or(is_lowest, |recovery| recovery.survivor == from);
                let may_form = self.identity.state == IdentityState::Fresh
                    && generation.number >= self.identity.generation.number;
                if for_me && is_maker && may_form && members.get(&from) == Some(&incarnation) {
                    if self.identity.cluster_id != Some(cluster_id) {
                        self.identity.cluster_id = Some(cluster_id);
                        self.identity.generation = generation;
                        self.identity.members = members;
                        steps.push(FormStep::Store(self.identity.clone()));
                    }
                    steps.push(FormStep::Send(from, FormMessage::GenesisAck { cluster_id }));
                }
            }
            FormMessage::GenesisAck { cluster_id } => {
                let mine = self.is_maker()
                    && self.identity.cluster_id == Some(cluster_id)
                    && self.identity.members.get(&from) == Some(&incarnation);
                if mine {
                    self.acked.insert(from);
                    self.maybe_start(&mut steps);
                }
            }
            // This node is no member yet.
            FormMessage::Replaced { .. } => {}
            FormMessage::Start { cluster_id } => {
                if self.identity.state == IdentityState::Fresh
                    && self.identity.cluster_id == Some(cluster_id)
                {
                    self.become_voter(&mut steps);
                }
            }
        }
        steps
    }

    /// Says once per peer what does not fit.
    fn warn(&mut self, peer: NodeId, text: String, steps: &mut Vec<FormStep>) {
        if !self.contradicting.contains(peer) {
            self.contradicting.insert(peer);
            steps.push(FormStep::Warn(text));
        }
    }

    /// A peer holds the log of a generation that begins.
    fn on_survivor(&mut self, from: NodeId, generation: Generation, steps: &mut Vec<FormStep>) {
        let own = self.identity.generation;
        self.fresh.remove(&from);
        if !own.is_related(&generation) {
            return;
        }
        if self.is_survivor() {
            let (number, me) = (generation.number, self.identity.node);
            let text = format!(
                "two directories were recovered: that of {from} (generation {number}) and that of \
                 {me} (generation {}). Only one log can go on: stop the node whose log you do not \
                 want, move its directory away, and start it again",
                own.number
            );
            self.warn(from, text, steps);
            return;
        }
        let is_muted = self.identity.state == IdentityState::Quarantined;
        if generation.number > own.number || is_muted && generation.number == own.number {
            // Whatever this node was part of, or may have been, an operator has ended it.
            self.identity.state = IdentityState::Fresh;
            self.identity.cluster_id = None;
            self.identity.members.clear();
            self.identity.generation = Generation { recovery: None, ..generation };
            self.acked = NodeSet::EMPTY;
            steps.push(FormStep::Store(self.identity.clone()));
        }
    }

    /// A peer is a member of a cluster that runs: this node belongs to it.
    fn on_known(
        &mut self,
        from: NodeId,
        cluster_id: u128,
        generation: Generation,
        members: BTreeMap<NodeId, Incarnation>,
        steps: &mut Vec<FormStep>,
    ) {
        self.fresh.remove(&from);
        let own = self.identity.generation;
        if !own.is_related(&generation) {
            return;
        }
        if self.is_survivor() {
            let text = if generation.number < own.number {
                format!(
                    "{from} still runs generation {} of the cluster. If that one has a leader, this \
                     directory must not take its place: stop this node, move its directory away, and \
                     start it again",
                    generation.number
                )
            } else {
                format!(
                    "generation {} of the cluster runs already, with {from}: nobody waits for this \
                     directory. Stop this node, move its directory away, and start it again",
                    generation.number
                )
            };
            self.warn(from, text, steps);
            return;
        }
        if generation.number < own.number {
            // An operator has ended that one; it has not heard of it yet.
            return;
        }
        let me = (self.identity.node, self.identity.incarnation);
        // If the cluster was made with this very incarnation, then this directory has never been
        // anything else: it holds all that it ever promised, which is nothing.
        let from_the_start =
            self.identity.state == IdentityState::Fresh && members.get(&me.0) == Some(&me.1);
        self.identity.cluster_id = Some(cluster_id);
        self.identity.generation = generation;
        self.identity.members = members;
        if from_the_start {
            self.become_voter(steps);
        } else {
            self.identity.state = IdentityState::Quarantined;
            steps.push(FormStep::Store(self.identity.clone()));
            steps.push(FormStep::Done);
        }
    }

    fn maybe_genesis(&mut self, steps: &mut Vec<FormStep>) {
        let all_fresh = self.awaited().is_empty();
        if !all_fresh || !self.is_maker() {
            return;
        }
        let mut members: BTreeMap<NodeId, Incarnation> =
            self.fresh.iter().map(|(peer, (incarnation, _))| (*peer, *incarnation)).collect();
        members.insert(self.identity.node, self.identity.incarnation);
        let is_stored = self.identity.cluster_id.is_some() && self.identity.members == members;
        if !is_stored {
            self.identity.cluster_id = Some(self.next_cluster_id);
            if !self.is_survivor() {
                self.identity.generation = Generation::first(self.next_cluster_id);
            }
            self.next_cluster_id = self.next_cluster_id.wrapping_add(1);
            self.identity.members = members;
            self.acked = NodeSet::EMPTY;
            steps.push(FormStep::Store(self.identity.clone()));
            self.offer_genesis(steps);
        }
        // A cluster of one has nobody to wait for.
        self.maybe_start(steps);
    }

    fn offer_genesis(&self, steps: &mut Vec<FormStep>) {
        let (Some(cluster_id), true) = (self.identity.cluster_id, self.is_maker()) else {
            return;
        };
        if !self.awaited().is_empty() {
            return;
        }
        for peer in &self.peers {
            if !self.acked.contains(*peer) {
                let Identity { generation, members, .. } = self.identity.clone();
                let genesis = FormMessage::Genesis { cluster_id, generation, members };
                steps.push(FormStep::Send(*peer, genesis));
            }
        }
    }

    fn maybe_start(&mut self, steps: &mut Vec<FormStep>) {
        if self.acked.len() < self.peers.len() || self.identity.cluster_id.is_none() {
            return;
        }
        let cluster_id = self.identity.cluster_id.expect("checked above");
        let store =
            FormStep::Store(Identity { state: IdentityState::Voter, ..self.identity.clone() });
        self.identity.state = IdentityState::Voter;
        steps.push(store);
        for peer in &self.peers {
            steps.push(FormStep::Send(*peer, FormMessage::Start { cluster_id }));
        }
        steps.push(FormStep::Done);
    }

    fn become_voter(&mut self, steps: &mut Vec<FormStep>) {
        self.identity.state = IdentityState::Voter;
        steps.push(FormStep::Store(self.identity.clone()));
        steps.push(FormStep::Done);
    }

    /// A cluster of one forms without asking.
    pub(crate) fn begin(&mut self) -> Vec<FormStep> {
        let mut steps = Vec::new();
        if self.peers.is_empty() && self.is_maker() {
            self.maybe_genesis(&mut steps);
        }
        steps
    }
}

/// Which later generation of the cluster this node hears of, if the message speaks of one; and
/// whether that one runs.
pub(crate) fn later_generation(
    identity: &Identity,
    message: &FormMessage,
) -> Option<(Generation, bool)> {
    let (generation, runs) = match message {
        FormMessage::Answer { standing: Standing::Known { generation, .. } } => (generation, true),
        FormMessage::Answer { standing: Standing::Survivor { generation } } => (generation, false),
        FormMessage::Ask
        | FormMessage::Answer { standing: Standing::Fresh { .. } }
        | FormMessage::Genesis { .. }
        | FormMessage::GenesisAck { .. }
        | FormMessage::Start { .. }
        | FormMessage::Replaced { .. } => return None,
    };
    let own = identity.generation;
    (generation.number > own.number && own.is_related(generation)).then_some((*generation, runs))
}

/// What a member answers to a node that is still forming.
pub(crate) fn answer_as_member(
    identity: &Identity,
    members: &BTreeMap<NodeId, Incarnation>,
    message: &FormMessage,
) -> Option<FormMessage> {
    let answer = || {
        let cluster_id = identity.cluster_id?;
        let (generation, members) = (identity.generation, members.clone());
        let standing = Standing::Known { cluster_id, generation, members };
        Some(FormMessage::Answer { standing })
    };
    match message {
        FormMessage::Ask => answer(),
        // One that does not know that its generation has ended.
        FormMessage::Answer { standing: Standing::Known { generation, .. } }
            if generation.number < identity.generation.number =>
        {
            answer()
        }
        FormMessage::Answer { .. }
        | FormMessage::Genesis { .. }
        | FormMessage::GenesisAck { .. }
        | FormMessage::Start { .. }
        | FormMessage::Replaced { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(slots: &[u8]) -> BTreeMap<NodeId, Incarnation> {
        slots.iter().map(|slot| (node(*slot), Incarnation(u128::from(*slot)))).collect()
    }

    fn node(slot: u8) -> NodeId {
        NodeId::new(slot).unwrap()
    }

    /// What a node stores of a cluster with other members than it is configured with it could not
    /// open again.
    #[test]
    fn a_cluster_of_other_members_is_not_joined() {
        for (slots, fits) in
            [(&[1, 2, 3][..], true), (&[1, 2], false), (&[1, 2, 4], false), (&[1, 2, 3, 4], false)]
        {
            let members = members(slots);
            let generation = Generation::default();
            let known = Standing::Known { cluster_id: 9, generation, members: members.clone() };
            for message in [
                FormMessage::Answer { standing: known },
                FormMessage::Genesis { cluster_id: 9, generation, members },
            ] {
                let identity = Identity {
                    node: node(2),
                    incarnation: Incarnation(2),
                    cluster_name: "demo".to_owned(),
                    cluster_id: None,
                    generation,
                    state: IdentityState::Fresh,
                    members: BTreeMap::new(),
                    has_remains: false,
                };
                let mut forming = Forming::new(identity, vec![node(1), node(3)], 5, Time(0));
                let steps = forming.on_message(node(1), Incarnation(1), message.clone());
                let stores = steps.iter().any(|step| matches!(step, FormStep::Store(_)));
                assert_eq!(stores, fits, "{slots:?}: {message:?}");
            }
        }
    }
}
