//! What must hold at every step of a world, seen from what its nodes say, and which rare states
//! were met.

use std::collections::{BTreeMap, BTreeSet};

use tercet_raft::{Event, Incarnation, NodeId, RoleKind};
use tercet_replica::{Identity, IdentityState};
use tercet_sim::{Happened, What, World};

/// How often a state was met: a run in which one never was tests nothing of it.
pub(crate) type Met = BTreeMap<&'static str, u64>;

#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) met: Met,
    /// Who leads each term.
    leaders: BTreeMap<u64, NodeId>,
    /// Who asked for votes in each term.
    candidates: BTreeMap<u64, BTreeSet<NodeId>>,
    /// The term of each committed entry.
    committed: BTreeMap<u64, u64>,
    /// Those whose memory was taken away, with the incarnation that lost it.
    muted: BTreeMap<NodeId, Option<Incarnation>>,
    /// Those whose disk will fail.
    failing: BTreeSet<NodeId>,
    /// Those of them whose log may be damaged by it: after a crash in a write, a node cannot always
    /// tell what was acknowledged (docs/wal-format.md, "What a crash leaves").
    suspects: BTreeSet<NodeId>,
    /// Those of them that came back with entries of which they cannot tell whether a crash cut them
    /// short: until the others have repaired or dropped them, nobody else may lose a memory.
    damaged: BTreeSet<NodeId>,
    /// Every line of what happened, if somebody wants to compare.
    pub(crate) trace: Option<Vec<String>>,
}

impl Watch {
    pub(crate) fn new(traced: bool) -> Self {
        Self { trace: traced.then(Vec::new), ..Self::default() }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    /// A node's memory is taken away now.
    pub(crate) fn mute(&mut self, id: NodeId, had: Option<&Identity>) {
        self.muted.insert(id, had.map(|identity| identity.incarnation));
    }

    /// How many nodes are without their memory, or may be soon. Who was readmitted is none of them.
    pub(crate) fn muted(&mut self, world: &World) -> usize {
        self.muted.retain(|id, had| {
            let identity = world.replica(*id).map(|replica| replica.identity());
            !identity.is_some_and(|identity| {
                identity.state == IdentityState::Voter && Some(identity.incarnation) != *had
            })
        });
        self.damaged.retain(|id| world.status(*id).is_none_or(|raft| !raft.faulty.is_empty()));
        let all = self.muted.keys().chain(&self.suspects).chain(&self.damaged);
        all.collect::<BTreeSet<_>>().len()
    }

    pub(crate) fn is_muted(&self, id: NodeId) -> bool {
        self.muted.contains_key(&id) || self.suspects.contains(&id) || self.damaged.contains(&id)
    }

    /// A node's disk will fail it: that it stops then is no surprise.
    pub(crate) fn expect_stop(&mut self, id: NodeId, may_damage: bool) {
        self.failing.insert(id);
        if may_damage {
            self.suspects.insert(id);
        }
    }

    /// It did not come to that.
    pub(crate) fn expect_no_stop(&mut self, id: NodeId) {
        self.failing.remove(&id);
        self.suspects.remove(&id);
    }

    /// A start was cut short, and what failed is over.
    pub(crate) fn note_failed_start(&mut self, id: NodeId) {
        self.failing.remove(&id);
    }

    /// A node was started again that had this identity: now it is known what it remembers, unless
    /// its disk is still to fail.
    pub(crate) fn note_start(&mut self, world: &World, id: NodeId, had: Option<&Identity>) {
        if self.failing.contains(&id) {
            return;
        }
        let has = world.replica(id).map(|replica| replica.identity().incarnation);
        let is_damaged = world.status(id).is_some_and(|raft| !raft.faulty.is_empty());
        if is_damaged {
            self.count("entries damaged by a crash in a write");
            self.suspects.remove(&id);
            self.damaged.insert(id);
        }
        if self.suspects.remove(&id) && has != had.map(|identity| identity.incarnation) {
            self.count("damaged by a crash in a write");
            self.mute(id, had);
        }
    }

    pub(crate) fn look(&mut self, world: &World, happened: &Happened) -> Result<(), String> {
        let Happened { at, node, term, what } = happened;
        if let Some(trace) = &mut self.trace {
            let text = match what {
                What::Core(event) => event.to_string(),
                What::Warning(text) | What::Notice(text) | What::Stopped(text) => text.clone(),
            };
            trace.push(format!("{} {node} @{term} {text}", at.0));
        }
        let id = *node;
        match what {
            What::Core(event) => self.look_at_event(world, id, event)?,
            What::Warning(text) if text.contains("lost its memory") => {
                self.count("lost memory noticed");
                if !self.is_muted(id) {
                    return Err(format!("{id} says, though nobody touched its files: {text}"));
                }
            }
            What::Stopped(text) => {
                self.count("stopped by itself");
                if !self.failing.remove(&id) && !self.is_muted(id) {
                    return Err(format!("{id} stopped, though its disk works: {text}"));
                }
            }
            What::Notice(text) if text.contains("cut short") => self.count("torn tail"),
            What::Warning(text) if text.contains("values.log") => {
                self.count("values.log made again");
            }
            What::Warning(_) | What::Notice(_) => {}
        }
        Ok(())
    }

    fn look_at_event(&mut self, world: &World, id: NodeId, event: &Event) -> Result<(), String> {
        if let Event::Role { role: RoleKind::Leader, term, .. } = event {
            self.count("leader");
            let other = *self.leaders.entry(term.0).or_insert(id);
            if other != id {
                return Err(format!("term {term} has two leaders: {other} and {id}"));
            }
        } else if let Event::VoteAsked { term, .. } = event {
            let candidates = self.candidates.entry(term.0).or_default();
            if candidates.insert(id) && candidates.len() == 2 {
                self.count("two candidates");
            }
        } else if let Event::VoteGranted { .. } | Event::PreVoteGranted { .. } = event {
            let identity = world.replica(id).map(|replica| replica.identity());
            let is_mute = identity.is_some_and(|identity| identity.state != IdentityState::Voter);
            if is_mute && !world.config().rules.trust_wiped {
                return Err(format!("{id} is mute and votes: {event}"));
            }
        } else if let Event::Committed { from, to, .. } = event {
            let raft = world.replica(id).and_then(|replica| replica.raft());
            for index in from.0 + 1..=to.0 {
                let Some(term) = raft.and_then(|raft| raft.term_at(tercet_raft::Index(index)))
                else {
                    continue;
                };
                let known = *self.committed.entry(index).or_insert(term.0);
                if known != term.0 {
                    return Err(format!(
                        "{id} has committed {index}@{term}, where {index}@{known} was committed"
                    ));
                }
            }
        } else if let Event::Truncated { .. } = event {
            self.count("truncation");
        } else if let Event::EntryRepaired { .. } = event {
            self.count("repair");
        } else if let Event::NeverCommitted { .. } = event {
            self.count("dropped, never committed");
        } else if let Event::Readmitted { pos } = event {
            self.count("readmission");
            let replica = world.replica(id);
            let own = replica.map(|replica| replica.identity().incarnation);
            let raft = replica.and_then(|replica| replica.raft());
            let admitted = raft.and_then(|raft| raft.members().get(&id).copied());
            if raft.is_some_and(|raft| raft.commit() < pos.index) {
                return Err(format!("{id} votes again by {pos}, which is not committed"));
            }
            if own != admitted {
                return Err(format!("{id} votes again as {own:?}, and {admitted:?} is admitted"));
            }
        } else if let Event::Violation { .. } = event {
            return Err(format!("{id}: {event}"));
        }
        Ok(())
    }
}
