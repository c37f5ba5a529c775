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

use crate::identity::{Identity, IdentityState};

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
        /// The incarnation that this node knows for each slot.
        members: BTreeMap<NodeId, Incarnation>,
    },
}

/// A genesis that a node has stored, without having heard that the cluster started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unstarted {
    /// The id of the cluster that it would be.
    pub cluster_id: u128,
    /// Who made it: the lowest slot, with the incarnation that it had.
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
    /// "This is the cluster": from the lowest slot to a fresh node.
    Genesis {
        /// Its id.
        cluster_id: u128,
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
}

/// What the forming of a cluster wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FormStep {
    /// Send this.
    Send(NodeId, FormMessage),
    /// Store this identity durably *before* anything that follows is sent.
    Store(Identity),
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
}

impl Forming {
    /// `cluster_id` is random; it is used if this node makes the cluster.
    pub(crate) fn new(identity: Identity, peers: Vec<NodeId>, cluster_id: u128, now: Time) -> Self {
        assert!(
            identity.state == IdentityState::Fresh || identity.cluster_id.is_none(),
            "a node that knows its cluster does not form one"
        );
        Self {
            identity,
            peers,
            next_cluster_id: cluster_id,
            fresh: BTreeMap::new(),
            acked: NodeSet::EMPTY,
            ask_at: now,
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
        let lowest = self.peers.iter().copied().fold(self.identity.node, NodeId::min);
        let incarnation = *self.identity.members.get(&lowest)?;
        (self.identity.state == IdentityState::Fresh)
            .then_some(Unstarted { cluster_id, maker: (lowest, incarnation) })
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

    fn is_lowest(&self) -> bool {
        self.peers.iter().all(|peer| self.identity.node < *peer)
    }

    pub(crate) fn on_timeout(&mut self, now: Time) -> Vec<FormStep> {
        if now < self.ask_at {
            return Vec::new();
        }
        self.ask_at = now.after(ASK_INTERVAL);
        let mut steps = Vec::new();
        for peer in &self.peers {
            steps.push(FormStep::Send(*peer, FormMessage::Ask));
        }
        self.offer_genesis(&mut steps);
        steps
    }

    pub(crate) fn on_message(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        message: FormMessage,
    ) -> Vec<FormStep> {
        let mut steps = Vec::new();
        if !self.peers.contains(&from) {
            return steps;
        }
        match message {
            FormMessage::Ask => {
                let standing = Standing::Fresh { genesis: self.unstarted() };
                steps.push(FormStep::Send(from, FormMessage::Answer { standing }));
            }
            FormMessage::Answer { standing: Standing::Fresh { genesis } } => {
                self.fresh.insert(from, (incarnation, genesis));
                self.maybe_genesis(&mut steps);
            }
            FormMessage::Answer { standing: Standing::Known { cluster_id, members } } => {
                self.on_known(cluster_id, members, &mut steps);
            }
            FormMessage::Genesis { cluster_id, members } => {
                // Only the lowest slot makes clusters, and only the one in which this very
                // incarnation stands: a late genesis for a disk that is gone is none of ours.
                let for_me = members.get(&self.identity.node) == Some(&self.identity.incarnation);
                let from_lowest =
                    self.peers.iter().all(|peer| from <= *peer) && from < self.identity.node;
                let may_form = self.identity.state == IdentityState::Fresh;
                if for_me && from_lowest && may_form && members.get(&from) == Some(&incarnation) {
                    if self.identity.cluster_id != Some(cluster_id) {
                        self.identity.cluster_id = Some(cluster_id);
                        self.identity.members = members;
                        steps.push(FormStep::Store(self.identity.clone()));
                    }
                    steps.push(FormStep::Send(from, FormMessage::GenesisAck { cluster_id }));
                }
            }
            FormMessage::GenesisAck { cluster_id } => {
                let mine = self.is_lowest()
                    && self.identity.cluster_id == Some(cluster_id)
                    && self.identity.members.get(&from) == Some(&incarnation);
                if mine {
                    self.acked.insert(from);
                    self.maybe_start(&mut steps);
                }
            }
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

    /// A peer is a member of a cluster that runs: this node belongs to it.
    fn on_known(
        &mut self,
        cluster_id: u128,
        members: BTreeMap<NodeId, Incarnation>,
        steps: &mut Vec<FormStep>,
    ) {
        let me = (self.identity.node, self.identity.incarnation);
        // If the cluster was made with this very incarnation, then this directory has never been
        // anything else: it holds all that it ever promised, which is nothing.
        let from_the_start =
            self.identity.state == IdentityState::Fresh && members.get(&me.0) == Some(&me.1);
        self.identity.cluster_id = Some(cluster_id);
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
        if !all_fresh || !self.is_lowest() || self.identity.state != IdentityState::Fresh {
            return;
        }
        let mut members: BTreeMap<NodeId, Incarnation> =
            self.fresh.iter().map(|(peer, (incarnation, _))| (*peer, *incarnation)).collect();
        members.insert(self.identity.node, self.identity.incarnation);
        let is_stored = self.identity.cluster_id.is_some() && self.identity.members == members;
        if !is_stored {
            self.identity.cluster_id = Some(self.next_cluster_id);
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
        let (Some(cluster_id), true) = (self.identity.cluster_id, self.is_lowest()) else {
            return;
        };
        if !self.awaited().is_empty() {
            return;
        }
        for peer in &self.peers {
            if !self.acked.contains(*peer) {
                let members = self.identity.members.clone();
                steps.push(FormStep::Send(*peer, FormMessage::Genesis { cluster_id, members }));
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
        if self.peers.is_empty() && self.identity.state == IdentityState::Fresh {
            self.maybe_genesis(&mut steps);
        }
        steps
    }
}

/// What a member answers to a node that is still forming.
pub(crate) fn answer_as_member(
    identity: &Identity,
    members: &BTreeMap<NodeId, Incarnation>,
    message: &FormMessage,
) -> Option<FormMessage> {
    let cluster_id = identity.cluster_id?;
    match message {
        FormMessage::Ask => Some(FormMessage::Answer {
            standing: Standing::Known { cluster_id, members: members.clone() },
        }),
        FormMessage::Answer { .. }
        | FormMessage::Genesis { .. }
        | FormMessage::GenesisAck { .. }
        | FormMessage::Start { .. } => None,
    }
}
