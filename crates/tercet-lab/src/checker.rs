//! The judge: the properties of Figure 3 and what clients are promised, over what is seen of the
//! nodes. It looks at states only and knows no world; the more often it looks, the more it sees.

use std::collections::{BTreeMap, BTreeSet};

use tercet_raft::{NodeId, RoleKind};

use crate::ast::Invariant;
use crate::backend::{NodeView, ViewContent, ViewEntry};

/// A property that was broken, with the facts that contradict each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What contradicts what.
    pub facts: String,
}

/// What has been seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checker {
    leaders: BTreeMap<u64, NodeId>,
    /// What some node knew to be committed at an index, the node, and its term then.
    committed: BTreeMap<u64, (ViewEntry, NodeId, u64)>,
    nodes: BTreeMap<NodeId, NodeView>,
    violations: Vec<Violation>,
    /// Values that clients were told are committed.
    acknowledged: BTreeMap<u128, String>,
    /// Requests that are repetitions of one: the ids that stand for it.
    repeated: Vec<BTreeSet<u128>>,
}

impl Checker {
    /// What was broken so far, in the order in which it was seen.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Whether a request is known to be committed.
    pub(crate) fn is_committed(&self, id: u128) -> bool {
        self.committed.values().any(|(entry, ..)| request_of(entry) == Some(id))
    }

    /// Whether any log, of a node that runs or not, holds a request where nothing else is committed.
    pub(crate) fn is_pending(&self, id: u128) -> bool {
        let holds = |view: &NodeView| {
            let mut places = (1..).zip(&view.log);
            places.any(|(index, entry)| {
                request_of(entry) == Some(id) && !self.committed.contains_key(&index)
            })
        };
        self.nodes.values().any(holds)
    }

    fn violated(&mut self, invariant: Invariant, facts: String) {
        // The first of a kind tells the story; what follows from it does not.
        if !self.violations.iter().any(|known| known.invariant == invariant) {
            self.violations.push(Violation { invariant, facts });
        }
    }

    /// A node is like this now.
    pub(crate) fn observe(&mut self, view: &NodeView) {
        let before = self.nodes.insert(view.node, view.clone());
        if view.role == RoleKind::Leader && view.up {
            self.check_leader(view, before.as_ref());
        }
        self.check_commit(view, before.as_ref());
        self.check_later_leaders();
        self.check_matching(view);
    }

    /// A leader of a later term may lead already when the leader of an earlier one commits, because
    /// it hears of it late: it must have the entry all the same.
    fn check_later_leaders(&mut self) {
        let mut broken = None;
        for view in self.nodes.values().filter(|view| view.role == RoleKind::Leader && view.up) {
            for (index, (entry, _, by)) in &self.committed {
                if *by < view.term && at(view, *index) != Some(entry) {
                    broken = Some(format!(
                        "{} leads term {} without {entry} at {index}, committed in term {by}",
                        view.node, view.term
                    ));
                }
            }
        }
        if let Some(facts) = broken {
            self.violated(Invariant::LeaderCompleteness, facts);
        }
    }

    fn check_leader(&mut self, view: &NodeView, before: Option<&NodeView>) {
        let NodeView { node, term, .. } = *view;
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            let facts = format!("{first} and {node} both lead in term {term}");
            self.violated(Invariant::ElectionSafety, facts);
        }
        let led_before =
            before.filter(|before| before.role == RoleKind::Leader && before.term == term);
        if let Some(before) = led_before {
            let is_prefix = before.log.len() <= view.log.len()
                && before.log.iter().zip(&view.log).all(|(was, is)| is_same(was, is));
            if before.up && !is_prefix {
                let facts = format!(
                    "{node} led term {term} with {}, and now has {}",
                    before.log_text(),
                    view.log_text()
                );
                self.violated(Invariant::LeaderAppendOnly, facts);
            }
            return;
        }
        let lacks = self.committed.iter().find(|(index, (entry, _, committed_in))| {
            *committed_in < term && !at(view, **index).is_some_and(|held| is_same(held, entry))
        });
        if let Some((index, (entry, knew, committed_in))) = lacks {
            let facts = format!(
                "{node} leads term {term} without {entry} at {index}, which {knew} knew to be committed in term {committed_in}"
            );
            self.violated(Invariant::LeaderCompleteness, facts);
        }
    }

    fn check_commit(&mut self, view: &NodeView, before: Option<&NodeView>) {
        let from = before.filter(|before| before.up).map_or(0, |before| before.commit);
        for index in from + 1..=view.commit {
            let Some(entry) = at(view, index) else { continue };
            let (known, knew, _) = self
                .committed
                .entry(index)
                .or_insert_with(|| (entry.clone(), view.node, view.term));
            if known.content == ViewContent::Damaged {
                // Now it can be read.
                known.content.clone_from(&entry.content);
            }
            if !is_same(known, entry) {
                let facts = format!(
                    "{knew} had {known} committed at {index}, {} has {entry} there",
                    view.node
                );
                self.violated(Invariant::StateMachineSafety, facts);
            }
        }
        for ids in self.repeated.clone() {
            let times = self
                .committed
                .values()
                .filter(|(entry, ..)| request_of(entry).is_some_and(|id| ids.contains(&id)))
                .count();
            if times > 1 {
                let facts = format!("one request of a client is in the log {times} times");
                self.violated(Invariant::Linearizability, facts);
            }
        }
    }

    /// If two logs agree at an index in the term, they agree before it (§5.3).
    fn check_matching(&mut self, view: &NodeView) {
        let mut broken = None;
        for other in self.nodes.values().filter(|other| other.node != view.node) {
            let both = view.log.len().min(other.log.len());
            let agree = (0..both).rev().find(|at| view.log[*at].term == other.log[*at].term);
            let Some(agree) = agree else { continue };
            let differ = (0..=agree).find(|at| !is_same(&view.log[*at], &other.log[*at]));
            if let Some(differ) = differ {
                broken = Some(format!(
                    "{} and {} have the same term at {}, but {} and {} at {}",
                    view.node,
                    other.node,
                    agree + 1,
                    view.log[differ],
                    other.log[differ],
                    differ + 1
                ));
            }
        }
        if let Some(facts) = broken {
            self.violated(Invariant::LogMatching, facts);
        }
    }

    // --- clients ---

    /// A client was told that its value is committed.
    pub(crate) fn acknowledge(&mut self, id: u128, value: &str, index: u64) {
        self.acknowledged.insert(id, value.to_owned());
        if let Some((entry, knew, _)) = self.committed.get(&index)
            && entry.content != ViewContent::Damaged
            && request_of(entry) != Some(id)
        {
            let facts = format!(
                "a client was told that {value} is committed at {index}, where {knew} has {entry}"
            );
            self.violated(Invariant::Linearizability, facts);
        }
    }

    /// These ids stand for one and the same request of a client.
    pub(crate) fn repeat(&mut self, first: u128, again: u128) {
        if let Some(ids) = self.repeated.iter_mut().find(|ids| ids.contains(&first)) {
            ids.insert(again);
        } else {
            self.repeated.push(BTreeSet::from([first, again]));
        }
    }

    /// The values that a read that begins now must return: those that were acknowledged.
    pub(crate) fn acknowledged_values(&self) -> BTreeSet<String> {
        self.acknowledged.values().cloned().collect()
    }

    /// A read returned these values; `owed` had been acknowledged when it began.
    pub(crate) fn check_read(&mut self, values: &[String], owed: &BTreeSet<String>) {
        let lacks = owed.iter().find(|value| !values.contains(value));
        if let Some(value) = lacks {
            let facts = format!(
                "{value} had been acknowledged when a read began that returned only: {}",
                values.join(" ")
            );
            self.violated(Invariant::Linearizability, facts);
        }
    }

    /// At the end, when all nodes agree: what was acknowledged is there.
    pub(crate) fn check_end(&mut self) {
        let lost: Vec<String> = self
            .acknowledged
            .iter()
            .filter(|(id, _)| !self.is_committed(**id))
            .map(|(_, value)| value.clone())
            .collect();
        if !lost.is_empty() {
            let facts = format!("acknowledged, and lost: {}", lost.join(" "));
            self.violated(Invariant::Linearizability, facts);
        }
    }
}

fn at(view: &NodeView, index: u64) -> Option<&ViewEntry> {
    view.log.get(usize::try_from(index.checked_sub(1)?).ok()?)
}

/// Whether two nodes hold the same entry, as far as it can be read.
fn is_same(a: &ViewEntry, b: &ViewEntry) -> bool {
    let is_damaged = a.content == ViewContent::Damaged || b.content == ViewContent::Damaged;
    a.term == b.term && (is_damaged || a.content == b.content)
}

fn request_of(entry: &ViewEntry) -> Option<u128> {
    match &entry.content {
        ViewContent::Value { request_id, .. } => Some(*request_id),
        ViewContent::Noop | ViewContent::Readmit(_) | ViewContent::Damaged => None,
    }
}
