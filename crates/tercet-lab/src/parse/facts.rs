//! What is known at a place in a script: the nodes there are, the names made above, and which nodes
//! are down. Refuses what can never work before anything starts.
//!
//! The one idea: a straight line (the trunk, and at most one branch after it) is walked once, in
//! the order in which it will be run; each branch begins with a copy of what the trunk knew.
//!
//! A line that could not be read may have made any name in it and stopped any node. What it may
//! have done excuses later lines, so that one slip of the pen is one complaint.

use std::collections::{BTreeMap, BTreeSet};

use tercet_raft::NodeId;

use super::cursor::Complaint;
use super::error::quoted;
use super::words::{nearest, node_name};
use crate::ast::{NodeRef, NodeRefs};

/// What a check gives: the sentence that says what is wrong.
type Check<T = ()> = Result<T, Complaint>;

/// What a request of a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RequestKind {
    /// It has a fate.
    Submit,
    /// It has values.
    Read,
}

/// What a step does to a node's process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// The process dies.
    Crash,
    /// A dead one starts.
    Restart,
    /// A running one stands still.
    Pause,
    /// A still one goes on.
    Resume,
    /// The end of a dead one's log is cut short.
    Tear,
}

/// How a node's process is, as far as the script tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Up,
    Down,
    Paused,
    /// A step above names its node by role, or could not be read.
    Unsure,
}

/// A mark that an `always` or `never` waits for, and where that stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Awaited {
    /// The mark.
    pub(super) mark: String,
    /// The line.
    pub(super) line: usize,
    /// Where the mark's name stands in it.
    pub(super) column: usize,
}

/// What is known at a place in a script.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// How many nodes there are.
    nodes: u8,
    /// Lines are typed one by one: names may have been made anywhere, and nothing is known to be
    /// missing.
    interactive: bool,
    /// The variables, each with its node if the script says which.
    variables: BTreeMap<String, Option<NodeId>>,
    /// The named requests, each with its line.
    requests: BTreeMap<String, (RequestKind, usize)>,
    /// The marks, each with its line.
    marks: BTreeMap<String, usize>,
    /// The marks that must still come, and who waits for them.
    awaited: BTreeMap<String, Vec<Awaited>>,
    /// How each node is, by slot − 1.
    lives: Vec<Life>,
    /// All words of lines that could not be read.
    excused: BTreeSet<String>,
}

impl Facts {
    /// Before the first line.
    pub(super) fn new(nodes: u8, interactive: bool) -> Self {
        Self {
            nodes,
            interactive,
            variables: BTreeMap::new(),
            requests: BTreeMap::new(),
            marks: BTreeMap::new(),
            awaited: BTreeMap::new(),
            lives: vec![Life::Up; nodes.into()],
            excused: BTreeSet::new(),
        }
    }

    /// Remembers a line that could not be read.
    pub(super) fn excuse(&mut self, line: &str) {
        let words = line.split(|c: char| !(c.is_alphanumeric() || "_-".contains(c)));
        self.excused.extend(words.map(str::to_owned));
        self.lives.fill(Life::Unsure);
    }

    /// Adds what `other` excuses.
    pub(super) fn excuse_as(&mut self, other: &Self) {
        self.excused.extend(other.excused.iter().cloned());
    }

    /// The node that `name` means, or `None` if it is no node's name at all.
    pub(super) fn node(&self, name: &str) -> Option<Check<NodeId>> {
        let node = node_name(name)?.filter(|node| node.slot() <= self.nodes);
        Some(node.ok_or_else(|| {
            let there = match self.nodes {
                1 => "only n1".to_owned(),
                last => format!("n1 to n{last}"),
            };
            format!("{} is not in the cluster: it has {there}", quoted(name)).into()
        }))
    }

    /// Makes a variable.
    pub(super) fn set_variable(&mut self, name: String, node: &NodeRef) -> Check {
        self.free_for_name(&name)?;
        let node = self.resolve(node);
        self.variables.insert(name, node);
        Ok(())
    }

    /// Uses a variable.
    pub(super) fn variable(&self, name: &str) -> Check {
        if self.interactive || self.variables.contains_key(name) || self.excused.contains(name) {
            return Ok(());
        }
        let known: Vec<String> = self.variables.keys().map(|name| format!("${name}")).collect();
        Err(Complaint {
            message: format!("\"${name}\" is not set: no \"let {name} = …\" stands above"),
            suggestion: nearest(&format!("${name}"), &known),
        })
    }

    /// Names a request.
    pub(super) fn name_request(&mut self, name: String, kind: RequestKind, line: usize) -> Check {
        self.free_for_name(&name)?;
        if let Some((_, earlier)) = self.requests.get(&name)
            && !self.interactive
        {
            let message = format!("{} names the request of line {earlier} already", quoted(&name));
            return Err(message.into());
        }
        self.requests.insert(name, (kind, line));
        Ok(())
    }

    /// Uses a request; `kind` is what it must be, `why` says so.
    pub(super) fn request(&self, name: &str, kind: Option<RequestKind>, why: &str) -> Check {
        if self.interactive {
            return Ok(());
        }
        match (self.requests.get(name), kind) {
            (Some((RequestKind::Submit, _)), Some(RequestKind::Read)) => {
                Err(format!("{} is a submit: {why}", quoted(name)).into())
            }
            (Some((RequestKind::Read, _)), Some(RequestKind::Submit)) => {
                Err(format!("{} is a read: {why}", quoted(name)).into())
            }
            (Some(_), _) => Ok(()),
            (None, _) if self.excused.contains(name) => Ok(()),
            (None, _) => Err(Complaint {
                message: format!(
                    "{} names no request: no \"as={name}\" stands above",
                    quoted(name)
                ),
                suggestion: nearest(name, &self.requests.keys().collect::<Vec<_>>()),
            }),
        }
    }

    /// Makes a mark.
    pub(super) fn set_mark(&mut self, name: String, line: usize) -> Check {
        if let Some(earlier) = self.marks.get(&name)
            && !self.interactive
        {
            return Err(format!("{} is marked in line {earlier} already", quoted(&name)).into());
        }
        self.awaited.remove(&name);
        self.marks.insert(name, line);
        Ok(())
    }

    /// Uses a mark that stands above.
    pub(super) fn mark_above(&self, name: &str) -> Check {
        if self.interactive || self.marks.contains_key(name) || self.excused.contains(name) {
            return Ok(());
        }
        Err(Complaint {
            message: format!("{} is not marked above", quoted(name)),
            suggestion: nearest(name, &self.marks.keys().collect::<Vec<_>>()),
        })
    }

    /// Uses a mark that must come further down.
    pub(super) fn await_mark(&mut self, awaited: Awaited) -> Check {
        if self.interactive {
            return Ok(());
        }
        if let Some(line) = self.marks.get(&awaited.mark) {
            let name = quoted(&awaited.mark);
            return Err(format!("{name} is marked above, in line {line}: it is over").into());
        }
        self.awaited.entry(awaited.mark.clone()).or_default().push(awaited);
        Ok(())
    }

    /// At the end of a straight line: the marks that never came.
    pub(super) fn never_marked(&self) -> impl Iterator<Item = &Awaited> {
        self.awaited.values().flatten().filter(|awaited| !self.excused.contains(&awaited.mark))
    }

    /// Forgets what is awaited: the branches have looked for it.
    pub(super) fn await_nothing(&mut self) {
        self.awaited.clear();
    }

    /// Does `act` to one node.
    pub(super) fn act(&mut self, act: Act, node: &NodeRef) -> Check {
        if self.interactive {
            return Ok(());
        }
        if let Some(node) = self.resolve(node) {
            let life = &mut self.lives[usize::from(node.slot()) - 1];
            *life = after(act, *life).ok_or_else(|| impossible(act, *life, &node.to_string()))?;
            return Ok(());
        }
        if *node == NodeRef::Leader && matches!(act, Act::Restart | Act::Tear) {
            return Err("\"leader\" is a node that runs: name the one that is down"
                .to_owned()
                .into());
        }
        if self.lives.iter().all(|life| after(act, *life).is_none()) {
            return Err(impossible_for_all(act));
        }
        for life in &mut self.lives {
            if after(act, *life).is_some_and(|next| next != *life) {
                *life = Life::Unsure;
            }
        }
        Ok(())
    }

    /// Does `act` to all nodes. `resume all` is for those that are paused, everything else must be
    /// possible for each.
    pub(super) fn act_on_all(&mut self, act: Act) -> Check {
        if self.interactive {
            return Ok(());
        }
        if act == Act::Resume && self.lives.iter().all(|life| after(act, *life).is_none()) {
            return Err(impossible_for_all(act));
        }
        for (slot, life) in (1..).zip(&mut self.lives) {
            *life = match after(act, *life) {
                Some(next) => next,
                None if act == Act::Resume => *life,
                None => return Err(impossible(act, *life, &format!("n{slot}"))),
            };
        }
        Ok(())
    }

    /// The slots that a list names for certain.
    pub(super) fn resolve_all(&self, nodes: &NodeRefs) -> Vec<NodeId> {
        match nodes {
            NodeRefs::All => (1..=self.nodes).filter_map(NodeId::new).collect(),
            NodeRefs::Some(nodes) => nodes.iter().filter_map(|node| self.resolve(node)).collect(),
        }
    }

    fn resolve(&self, node: &NodeRef) -> Option<NodeId> {
        match node {
            NodeRef::Node(node) => Some(*node),
            NodeRef::Variable(name) => self.variables.get(name).copied().flatten(),
            NodeRef::Leader => None,
        }
    }

    /// A variable or request called like a node would be mistaken for it.
    fn free_for_name(&self, name: &str) -> Check {
        if node_name(name).is_some() || matches!(name, "leader" | "all") {
            return Err(format!("{} stands for nodes: take another name", quoted(name)).into());
        }
        Ok(())
    }
}

/// How a node is after `act`, or `None` if that cannot be done to it.
fn after(act: Act, life: Life) -> Option<Life> {
    match (act, life) {
        (Act::Crash, Life::Up | Life::Paused | Life::Unsure) => Some(Life::Down),
        (Act::Restart | Act::Resume, Life::Unsure) | (Act::Restart, Life::Down) => Some(Life::Up),
        (Act::Pause, Life::Up | Life::Unsure) => Some(Life::Paused),
        (Act::Resume, Life::Paused) => Some(Life::Up),
        (Act::Tear, Life::Down | Life::Unsure) => Some(Life::Down),
        (Act::Crash | Act::Pause | Act::Resume, Life::Down)
        | (Act::Restart | Act::Resume | Act::Tear, Life::Up)
        | (Act::Restart | Act::Pause | Act::Tear, Life::Paused) => None,
    }
}

fn impossible(act: Act, life: Life, node: &str) -> Complaint {
    let is = match life {
        Life::Down => "is down",
        Life::Paused => "is paused",
        Life::Up | Life::Unsure => "runs",
    };
    let needs = match act {
        Act::Crash => "crash is for a node that runs",
        Act::Restart => "restart is for a node that was crashed",
        Act::Pause => "pause is for a node that runs",
        Act::Resume => "resume is for a node that was paused",
        Act::Tear => "tear is for a node that was crashed",
    };
    format!("{node} {is}: {needs}").into()
}

fn impossible_for_all(act: Act) -> Complaint {
    let message = match act {
        Act::Crash | Act::Pause => "no node runs",
        Act::Restart | Act::Tear => "no node was crashed",
        Act::Resume => "no node was paused",
    };
    message.to_owned().into()
}
