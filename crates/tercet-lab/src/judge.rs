//! Predicates over what is seen: true, or what is there instead, in words.

use std::collections::BTreeMap;

use tercet_raft::{NodeId, RoleKind};

use crate::ast::{
    ClientState, Cmp, Condition, Content, EventPattern, Fate, FieldValue, LogItem, NodeRef,
    NodeRefs, Number, Pred,
};
use crate::backend::{LabEvent, NodeView, ViewContent, ViewEntry};
use crate::checker::Violation;

/// What predicates are judged by.
pub(crate) struct Scene<'a> {
    pub(crate) views: &'a [NodeView],
    pub(crate) variables: &'a BTreeMap<String, NodeId>,
    pub(crate) violations: &'a [Violation],
    /// What clients know, and what became of their values, by name.
    pub(crate) requests: &'a BTreeMap<String, (ClientState, Fate)>,
    /// What reads returned, by name.
    pub(crate) reads: &'a BTreeMap<String, (ClientState, Vec<String>)>,
}

/// What was found instead.
pub(crate) type Judged = Result<(), String>;

pub(crate) const fn compare(cmp: Cmp, left: u64, right: u64) -> bool {
    match cmp {
        Cmp::Equal => left == right,
        Cmp::NotEqual => left != right,
        Cmp::AtLeast => left >= right,
        Cmp::AtMost => left <= right,
        Cmp::Above => left > right,
        Cmp::Below => left < right,
    }
}

impl Scene<'_> {
    /// The leader of the highest term, among nodes that run.
    pub(crate) fn leader(&self) -> Option<&NodeView> {
        let leads = |view: &&NodeView| view.up && view.role == RoleKind::Leader;
        self.views.iter().filter(leads).max_by_key(|view| view.term)
    }

    pub(crate) fn node(&self, node: &NodeRef) -> Result<NodeId, String> {
        match node {
            NodeRef::Node(node) => Ok(*node),
            NodeRef::Leader => {
                let leader = self.leader().ok_or_else(|| "nobody leads".to_owned())?;
                Ok(leader.node)
            }
            NodeRef::Variable(name) => {
                let node = self.variables.get(name).copied();
                node.ok_or_else(|| format!("${name} is not set"))
            }
        }
    }

    pub(crate) fn nodes(&self, nodes: &NodeRefs) -> Result<Vec<NodeId>, String> {
        match nodes {
            NodeRefs::All => Ok(self.views.iter().map(|view| view.node).collect()),
            NodeRefs::Some(nodes) => nodes.iter().map(|node| self.node(node)).collect(),
        }
    }

    /// Those that a predicate speaks of: `all` is all that run.
    fn views_of(&self, nodes: &NodeRefs) -> Result<Vec<&NodeView>, String> {
        let named = self.nodes(nodes)?;
        let views = self.views.iter().filter(|view| named.contains(&view.node));
        Ok(match nodes {
            NodeRefs::All => views.filter(|view| view.up).collect(),
            NodeRefs::Some(_) => views.collect(),
        })
    }

    fn view(&self, node: &NodeRef) -> Result<&NodeView, String> {
        let id = self.node(node)?;
        let view = self.views.iter().find(|view| view.node == id);
        view.ok_or_else(|| format!("{id} is unknown"))
    }

    fn number(&self, number: &Number) -> Result<u64, String> {
        Ok(match number {
            Number::Literal(number) => *number,
            Number::Term(node) => self.view(node)?.term,
            Number::Commit(node) => self.view(node)?.commit,
            Number::Last(node) => self.view(node)?.last(),
        })
    }

    pub(crate) fn judge(&self, pred: &Pred) -> Judged {
        match pred {
            Pred::Leader { negated, node, term } => {
                self.judge_leader(*negated, node.as_ref(), term.as_ref())
            }
            Pred::Nodes { nodes, conditions } => {
                for view in self.views_of(nodes)? {
                    for condition in conditions {
                        self.judge_node(view, condition)?;
                    }
                }
                Ok(())
            }
            Pred::LogsEqual(nodes) => {
                let views = self.views_of(nodes)?;
                let differs = views.windows(2).find(|pair| pair[0].log != pair[1].log);
                differs.map_or(Ok(()), |pair| {
                    let text = |view: &NodeView| format!("{}: {}", view.node, view.log_text());
                    Err(format!("{}; {}", text(pair[0]), text(pair[1])))
                })
            }
            Pred::Client { name, state } => {
                let request = self.requests.get(name).map(|(state, _)| *state);
                let read = self.reads.get(name).map(|(state, _)| *state);
                let found = request.or(read).ok_or_else(|| format!("{name} was never sent"))?;
                is(found == *state, || format!("{name}.client = {}", client_word(found)))
            }
            Pred::Fate { name, fate } => {
                let found = self.requests.get(name);
                let (_, found) = found.ok_or_else(|| format!("{name} was never sent"))?;
                is(found == fate, || format!("{name}.fate = {}", fate_word(*found)))
            }
            Pred::Values { name, values } => {
                let found = self.reads.get(name);
                let (_, found) = found.ok_or_else(|| format!("{name} was never asked"))?;
                is(found == values, || format!("{name}.values = {}", found.join(" ")))
            }
            Pred::InvariantsOk => match self.violations.first() {
                None => Ok(()),
                Some(broken) => {
                    Err(format!("{:?} is violated: {}", broken.invariant, broken.facts))
                }
            },
            Pred::Violated(invariant) => {
                let seen = self.violations.iter().any(|broken| broken.invariant == *invariant);
                is(seen, || {
                    let broken: Vec<String> =
                        self.violations.iter().map(|v| format!("{:?}", v.invariant)).collect();
                    if broken.is_empty() {
                        "no invariant is violated".to_owned()
                    } else {
                        format!("violated: {}", broken.join(", "))
                    }
                })
            }
        }
    }

    fn judge_leader(
        &self,
        negated: bool,
        node: Option<&NodeRef>,
        term: Option<&(Cmp, Number)>,
    ) -> Judged {
        let leader = self.leader();
        let found = || match leader {
            Some(view) => format!("leader = {} @{}", view.node, view.term),
            None => "leader = none".to_owned(),
        };
        let wanted = node.map(|node| self.node(node)).transpose()?;
        let same = leader.map(|view| view.node) == wanted;
        // Without a leader nobody has replaced the one who shall not lead.
        let replaced = leader.is_some() || wanted.is_none();
        is(if negated { !same && replaced } else { same }, found)?;
        match (term, leader) {
            (Some((cmp, number)), Some(view)) => {
                is(compare(*cmp, view.term, self.number(number)?), found)
            }
            (None, _) | (_, None) => Ok(()),
        }
    }

    fn judge_node(&self, view: &NodeView, condition: &Condition) -> Judged {
        let node = view.node;
        if let Condition::Up(up) = condition {
            let word = if view.up { "up" } else { "down" };
            return is(view.up == *up, || format!("{node} is {word}"));
        }
        is(view.up, || format!("{node} is down"))?;
        match condition {
            Condition::Up(_) => Ok(()),
            Condition::Role { negated, role } => {
                is((view.role == *role) != *negated, || format!("{node} role={}", view.role))
            }
            Condition::Term(cmp, number) => {
                is(compare(*cmp, view.term, self.number(number)?), || {
                    format!("{node} term={}", view.term)
                })
            }
            Condition::Voted(wanted) => {
                let wanted = wanted.as_ref().map(|node| self.node(node)).transpose()?;
                is(view.voted == wanted, || {
                    let voted = view.voted.map_or("-".to_owned(), |node| node.to_string());
                    format!("{node} voted={voted}")
                })
            }
            Condition::Commit(cmp, number) => {
                is(compare(*cmp, view.commit, self.number(number)?), || {
                    format!("{node} commit={}", view.commit)
                })
            }
            Condition::Last(cmp, number) => {
                is(compare(*cmp, view.last(), self.number(number)?), || {
                    format!("{node} last={}", view.last())
                })
            }
            Condition::Log(items) => {
                let same = view.log.len() == items.len() && self.ends_with(&view.log, items)?;
                is(same, || format!("{node} log = {}", view.log_text()))
            }
            Condition::LogEnds(items) => is(self.ends_with(&view.log, items)?, || {
                format!("{node} log = {}", view.log_text())
            }),
            Condition::Heartbeat(wanted) => is(view.heartbeat == *wanted, || {
                let found = view.heartbeat.map_or("default".to_owned(), |by| format!("{by:?}"));
                format!("{node} heartbeat={found}")
            }),
        }
    }

    fn ends_with(&self, log: &[ViewEntry], items: &[LogItem]) -> Result<bool, String> {
        let Some(start) = log.len().checked_sub(items.len()) else { return Ok(false) };
        for (entry, item) in log[start..].iter().zip(items) {
            let term = match &item.term {
                None => true,
                Some(number) => self.number(number)? == entry.term,
            };
            let content = match (&item.content, &entry.content) {
                (Content::Any, _) | (Content::Noop, ViewContent::Noop) => true,
                (Content::Value(wanted), ViewContent::Value { value, .. }) => wanted == value,
                (Content::Readmit(wanted), ViewContent::Readmit(node)) => {
                    self.node(wanted)? == *node
                }
                (Content::Value(_) | Content::Noop | Content::Readmit(_), _) => false,
            };
            if !term || !content {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether an event is one of those.
    pub(crate) fn matches(&self, pattern: &EventPattern, event: &LabEvent) -> bool {
        // The leader warns of a peer; scripts name the node that is warned of.
        let warned = (pattern.kind == "warning").then(|| pattern.fields.iter());
        if let Some(mut fields) = warned {
            let kind = fields.clone().find(|(name, _)| name == "kind");
            let is_kind = kind.is_none_or(|(_, value)| self.is_value(value, &event.kind));
            let node = fields.find(|(name, _)| name == "node");
            let about = event.field("peer").map_or_else(|| event.node.to_string(), str::to_owned);
            let is_about = node.is_none_or(|(_, value)| self.is_value(value, &about));
            let is_warning = matches!(event.kind.as_str(), "amnesia" | "violation" | "warning");
            return is_warning && is_kind && is_about;
        }
        let is_kind = event.kind == pattern.kind
            || (pattern.kind == "became_follower" && event.kind == "stepped_down");
        is_kind
            && pattern.fields.iter().all(|(name, value)| {
                let node = || event.node.to_string();
                let term = || event.term.to_string();
                match event.field(name) {
                    Some(found) => self.is_value(value, found),
                    None if name == "node" => self.is_value(value, &node()),
                    None if name == "term" => self.is_value(value, &term()),
                    None => false,
                }
            })
    }

    fn is_value(&self, value: &FieldValue, found: &str) -> bool {
        match value {
            FieldValue::Text(text) => text == found,
            FieldValue::Node(node) => self.node(node).is_ok_and(|node| node.to_string() == found),
            FieldValue::Number(number) => {
                self.number(number).is_ok_and(|number| number.to_string() == found)
            }
        }
    }

    /// How many of these events happened. Scripts count decisions, not repetitions: the same vote,
    /// or the same refusal of the same entries in the same term, counts once.
    pub(crate) fn count(&self, pattern: &EventPattern, events: &[LabEvent]) -> u64 {
        let mut seen: Vec<&LabEvent> = Vec::new();
        let same = |a: &LabEvent, b: &LabEvent| {
            (a.node, a.term, &a.kind, &a.fields) == (b.node, b.term, &b.kind, &b.fields)
        };
        let mut count = 0;
        for event in events.iter().filter(|event| self.matches(pattern, event)) {
            let may_repeat = matches!(
                event.kind.as_str(),
                "append_rejected"
                    | "vote_granted"
                    | "vote_denied"
                    | "pre_vote_granted"
                    | "pre_vote_denied"
                    | "vote_received"
                    | "vote_refused"
            );
            if may_repeat && seen.iter().any(|known| same(known, event)) {
                continue;
            }
            seen.push(event);
            count += 1;
        }
        count
    }
}

fn is(holds: bool, found: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err(found()) }
}

pub(crate) const fn client_word(state: ClientState) -> &'static str {
    match state {
        ClientState::Waiting => "waiting",
        ClientState::Ok => "ok",
        ClientState::Refused => "refused",
        ClientState::Unknown => "unknown",
    }
}

const fn fate_word(fate: Fate) -> &'static str {
    match fate {
        Fate::Committed => "committed",
        Fate::Lost => "lost",
        Fate::Pending => "pending",
    }
}
