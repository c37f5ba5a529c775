//! Walks through every state of the model of protocol RJ within small bounds, breadth first: what TLC
//! does with docs/tla/Rejoin.tla, for whoever has no TLC at hand.
//!
//! Nodes are interchangeable, so of states that differ only in the nodes' numbers one is kept. What was
//! seen is remembered by a fingerprint of 64 bits.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::model::{Action, Broken, Mode, Model, ModelEntry, Part, Slot};

/// What a node without its memory may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// It is mute until it is readmitted: protocol RJ.
    Readmit,
    /// It votes, as in plain Raft: counter-example 1.
    Plain,
    /// It votes when it has what the leader calls committed: counter-example 2.
    CatchUp,
    /// It votes when it has the leader's whole log: counter-example 2 again.
    CatchUpWholly,
    /// Protocol RJ; but an operator's recovery names no floor.
    RecoverWithoutFloor,
}

/// How far to walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// How many nodes.
    pub nodes: Slot,
    /// The highest term.
    pub terms: u64,
    /// The longest log.
    pub entries: u64,
    /// How often a disk is lost.
    pub wipes: u64,
    /// How often an operator recovers the cluster.
    pub recoveries: u64,
    /// What a node without its memory may do.
    pub variant: Variant,
    /// After so many states the walk ends; it has found nothing then, but not been everywhere.
    pub states: usize,
}

/// What a walk found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explored {
    /// How many states there are, or were seen before the walk ended.
    pub states: usize,
    /// How many steps the farthest of them is away.
    pub depth: usize,
    /// Whether all were seen.
    pub complete: bool,
    /// The first state in which a readmitted node led and committed: shows that the walk gets there.
    pub readmitted_led: bool,
    /// A property that was violated, with the steps that lead there.
    pub violation: Option<(Broken, Vec<Action>)>,
}

#[derive(Clone, Debug)]
struct Visit {
    model: Model,
    wipes: u64,
    recoveries: u64,
}

/// The properties; every other rule only says what cannot be done.
const PROPERTIES: [&str; 4] = [
    "Election Safety",
    "Leader Completeness",
    "State Machine Safety",
    "Follow: what is committed stays",
];

/// Walks on from where these steps lead.
///
/// # Panics
/// If the first steps themselves are not allowed.
pub fn explore(begin: &[Action], bounds: Bounds) -> Explored {
    let mut start = Visit {
        model: Model::new((1..=bounds.nodes).map(|slot| (slot, 0))),
        wipes: 0,
        recoveries: 0,
    };
    for action in begin {
        let stepped = step(&mut start, *action, bounds.variant);
        assert_eq!(stepped, Ok(()), "the walk begins with {action:?}");
    }
    let orders = permutations(bounds.nodes);
    let mut seen = BTreeSet::from([fingerprint(&start, &orders)]);
    let mut way: Vec<Option<(usize, Action)>> = vec![None];
    let mut level = vec![(0, start)];
    let mut found =
        Explored { states: 1, depth: 0, complete: false, readmitted_led: false, violation: None };
    while !level.is_empty() {
        let mut next = Vec::new();
        for (number, visit) in &level {
            for action in actions(visit, &bounds) {
                let mut after = visit.clone();
                match step(&mut after, action, bounds.variant) {
                    Ok(()) => {}
                    Err(broken) if PROPERTIES.contains(&broken.rule) => {
                        found.violation = Some((broken, steps(&way, Some((*number, action)))));
                        return found;
                    }
                    Err(_) => continue,
                }
                if !seen.insert(fingerprint(&after, &orders)) {
                    continue;
                }
                found.readmitted_led |= after.model.nodes.values().any(|node| {
                    let reign = after.model.reigns.get(&node.term);
                    node.disk > 0
                        && node.part == Part::Leader
                        && visit.recoveries == 0
                        && reign.is_some_and(|reign| reign.commit > 1)
                });
                way.push(Some((*number, action)));
                next.push((way.len() - 1, after));
                found.states += 1;
                if found.states >= bounds.states {
                    return found;
                }
            }
        }
        found.depth += usize::from(!next.is_empty());
        level = next;
    }
    found.complete = true;
    found
}

fn steps(way: &[Option<(usize, Action)>], mut from: Option<(usize, Action)>) -> Vec<Action> {
    let mut steps = Vec::new();
    while let Some((number, action)) = from {
        steps.push(action);
        from = way[number];
    }
    steps.reverse();
    steps
}

fn step(visit: &mut Visit, action: Action, variant: Variant) -> Result<(), Broken> {
    match action {
        Action::Wipe(slot, _) => {
            visit.wipes += 1;
            visit.model.step(action)?;
            if variant == Variant::Plain {
                let node = visit.model.nodes.get_mut(&slot).expect("it was just wiped");
                node.mode = Mode::Voter;
            }
            Ok(())
        }
        Action::Recover(..) => {
            visit.recoveries += 1;
            visit.model.step(action)?;
            if variant == Variant::RecoverWithoutFloor {
                visit.model.floor = (0, 0);
            }
            Ok(())
        }
        // The wrong ways out of the quarantine.
        Action::Admit(slot, _) if matches!(variant, Variant::CatchUp | Variant::CatchUpWholly) => {
            let term = visit.model.nodes[&slot].term;
            let leader = visit.model.reigns[&term].leader;
            let node = visit.model.nodes.get_mut(&slot).expect("the action names a node");
            (node.mode, node.vote) = (Mode::Voter, Some(leader));
            Ok(())
        }
        Action::Timeout(_)
        | Action::Observe(..)
        | Action::Grant(..)
        | Action::Win(_)
        | Action::Put(..)
        | Action::Follow(..)
        | Action::Commit(..)
        | Action::Crash(_)
        | Action::Drop(..)
        | Action::Promise(_)
        | Action::Admit(..) => visit.model.step(action),
    }
}

/// What may happen next, allowed or not, if it would change anything.
fn actions(visit: &Visit, bounds: &Bounds) -> Vec<Action> {
    let model = &visit.model;
    let mut out = Vec::new();
    for (slot, node) in &model.nodes {
        let (slot, term) = (*slot, node.term);
        if term < bounds.terms && node.mode == Mode::Voter && node.part != Part::Leader {
            out.push(Action::Timeout(slot));
        }
        out.extend(model.reached.iter().filter(|t| **t > term).map(|t| Action::Observe(slot, *t)));
        for (at, candidate) in model.requests.keys() {
            if !model.votes.contains(&(*at, *candidate, slot)) && *candidate != slot {
                out.push(Action::Grant(slot, *at, *candidate));
            }
        }
        match node.part {
            Part::Candidate => out.push(Action::Win(slot)),
            Part::Leader => {
                let reign = &model.reigns[&term];
                if (reign.log.len() as u64) < bounds.entries {
                    out.push(Action::Put(slot, None));
                    let wiped = model.wiped.iter().filter(|_| with_readmits(bounds.variant));
                    out.extend(wiped.map(|whom| Action::Put(slot, Some(*whom))));
                }
                let commits = reign.commit + 1..=reign.log.len() as u64;
                out.extend(commits.map(|to| Action::Commit(slot, to)));
            }
            Part::Follower => {}
        }
        if node.part != Part::Follower {
            out.push(Action::Crash(slot));
        }
        for (at, reign) in &model.reigns {
            let is_own = reign.leader == slot;
            if is_own && node.term != *at || !is_own && node.term > *at {
                continue;
            }
            out.extend((1..=reign.log.len() as u64).map(|last| Action::Follow(slot, *at, last)));
        }
        if node.mode == Mode::Mute {
            out.extend(ways_out(model, slot, bounds.variant));
        }
        if visit.wipes < bounds.wipes && term > 0 {
            out.push(Action::Wipe(slot, node.disk + 1));
        }
        if visit.recoveries < bounds.recoveries && term > 0 && node.mode == Mode::Voter {
            out.push(Action::Recover(slot, 100));
        }
    }
    out
}

const fn with_readmits(variant: Variant) -> bool {
    matches!(variant, Variant::Readmit | Variant::RecoverWithoutFloor)
}

fn ways_out(model: &Model, slot: Slot, variant: Variant) -> Vec<Action> {
    let node = &model.nodes[&slot];
    let Some(reign) = model.reigns.get(&node.term) else { return Vec::new() };
    let leader = &model.nodes[&reign.leader];
    let leads = leader.part == Part::Leader && leader.term == node.term;
    let same = reign.log.get(..node.log.len()) == Some(&node.log[..]);
    let has = node.log.len() as u64;
    match variant {
        Variant::Plain => Vec::new(),
        Variant::CatchUp if leads && same && reign.commit > 0 && has >= reign.commit => {
            vec![Action::Admit(slot, has)]
        }
        Variant::CatchUpWholly if leads && same && has > 0 && has == reign.log.len() as u64 => {
            vec![Action::Admit(slot, has)]
        }
        Variant::CatchUp | Variant::CatchUpWholly => Vec::new(),
        Variant::Readmit | Variant::RecoverWithoutFloor => {
            let mine = |entry: &ModelEntry| entry.readmit == Some((slot, node.disk));
            let Some(at) = node.log.iter().position(mine) else { return Vec::new() };
            let mut ways = vec![Action::Admit(slot, at as u64 + 1)];
            if node.vote.is_none() {
                ways.push(Action::Promise(slot));
            }
            ways
        }
    }
}

// --- symmetry ---

fn permutations(nodes: Slot) -> Vec<Vec<Slot>> {
    let mut all = vec![Vec::new()];
    for slot in 1..=nodes {
        all = all
            .into_iter()
            .flat_map(|order: Vec<Slot>| {
                (0..=order.len()).map(move |at| {
                    let mut longer = order.clone();
                    longer.insert(at, slot);
                    longer
                })
            })
            .collect();
    }
    all
}

/// The least fingerprint of all orders of the nodes in which those that look different ascend.
fn fingerprint(visit: &Visit, orders: &[Vec<Slot>]) -> u64 {
    let look = |slot: Slot| {
        let node = &visit.model.nodes[&slot];
        let votes_itself = node.vote.map(|vote| vote == slot);
        let terms = node.log.iter().map(|entry| (entry.term, entry.readmit.is_some()));
        (node.term, votes_itself, node.part, node.mode, node.disk, terms.collect::<Vec<_>>())
    };
    let looks: Vec<_> = visit.model.nodes.keys().map(|slot| look(*slot)).collect();
    let ascends = |order: &&Vec<Slot>| {
        let mut at = vec![0; order.len()];
        for (slot, new) in order.iter().enumerate() {
            at[usize::from(*new) - 1] = slot;
        }
        at.windows(2).all(|pair| looks[pair[0]] <= looks[pair[1]])
    };
    let hashes = orders.iter().filter(ascends).map(|order| {
        let mut hasher = DefaultHasher::new();
        (&rename(&visit.model, order), visit.wipes, visit.recoveries).hash(&mut hasher);
        hasher.finish()
    });
    hashes.min().expect("some order ascends")
}

fn rename(model: &Model, order: &[Slot]) -> Model {
    let new = |slot: Slot| order[usize::from(slot) - 1];
    let entry = |entry: &ModelEntry| ModelEntry {
        term: entry.term,
        readmit: entry.readmit.map(|(slot, disk)| (new(slot), disk)),
    };
    let log = |log: &[ModelEntry]| log.iter().map(entry).collect::<Vec<_>>();
    let mut out = model.clone();
    out.nodes = BTreeMap::new();
    for (slot, node) in &model.nodes {
        let mut node = node.clone();
        node.vote = node.vote.map(new);
        node.log = log(&node.log);
        out.nodes.insert(new(*slot), node);
    }
    out.requests = model.requests.iter().map(|((t, c), last)| ((*t, new(*c)), *last)).collect();
    out.votes = model.votes.iter().map(|(t, c, v)| (*t, new(*c), new(*v))).collect();
    out.acks = model.acks.iter().map(|((t, v), at)| ((*t, new(*v)), *at)).collect();
    for reign in out.reigns.values_mut() {
        reign.leader = new(reign.leader);
        reign.log = log(&reign.log);
    }
    for (at, _) in out.committed.values_mut() {
        *at = entry(at);
    }
    out.wiped = model.wiped.iter().map(|(slot, disk)| (new(*slot), *disk)).collect();
    out
}
