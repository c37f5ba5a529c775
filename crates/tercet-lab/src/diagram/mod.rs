//! A run as a diagram: what happened on which node, in order, and what it needed to hear of another
//! node. Knows events and no world, so that a saved trace is drawn like a run of a moment ago.
//!
//! The one idea: nodes tell decisions, not packets. An arrow leads from the event that was needed to
//! the event that needed it: from a candidate's request to the vote, from the append to its
//! acceptance. That is the order "happened before", whatever the machines' clocks say; heartbeats
//! that change nothing are not drawn, but for a leader's first.

mod mermaid;
mod shiviz;
mod svg;

use std::collections::BTreeMap;

use tercet_raft::NodeId;

use crate::backend::LabEvent;
use crate::narrate::is_worth_telling;

/// What a run is made of, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A line of a script or of a shell.
    Step(String),
    /// Something that happened on a node.
    Event(LabEvent),
}

/// What an arrow carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Carries {
    /// A vote, or what asks for one.
    Vote,
    /// Entries, or the word that they are held.
    Entries,
    /// A refusal.
    Refusal,
    /// What is committed.
    Commit,
    /// What readmits a node that lost its memory, or hands leadership over.
    Other,
}

/// What was needed from another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needed {
    /// The event there: its place among [`Diagram::marks`], before this one.
    pub mark: usize,
    /// What it carries.
    pub carries: Carries,
    /// In a word or two.
    pub label: String,
}

/// An event in a diagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// What happened.
    pub event: LabEvent,
    /// Whether its node led then.
    pub leads: bool,
    /// What it needed of another node.
    pub needed: Option<Needed>,
    /// How many events of each node, by slot from 1, happened before this one or are it: the vector
    /// clock.
    pub clock: Vec<u64>,
}

/// A line of the diagram from top to bottom.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Row {
    Step(String),
    /// A place among the marks.
    Mark(usize),
}

/// A run, ready to be drawn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagram {
    title: String,
    nodes: u8,
    rows: Vec<Row>,
    marks: Vec<Mark>,
}

/// How a diagram is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A picture: a space-time diagram.
    Svg,
    /// A `sequenceDiagram` of Mermaid.
    Mermaid,
    /// A log with vector clocks for ShiViz, with the expression that parses it.
    Shiviz,
}

impl Format {
    /// All formats with their names.
    pub const ALL: [(&'static str, Self); 3] =
        [("svg", Self::Svg), ("mermaid", Self::Mermaid), ("shiviz", Self::Shiviz)];

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// How files of this format end.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Mermaid => "mmd",
            Self::Shiviz => "shiviz",
        }
    }
}

impl Diagram {
    /// A diagram of what happened in a cluster of so many nodes.
    pub fn new(title: &str, nodes: u8, items: impl IntoIterator<Item = Item>) -> Self {
        let mut diagram =
            Self { title: title.to_owned(), nodes, rows: Vec::new(), marks: Vec::new() };
        let (mut leaders, mut followed) = (BTreeMap::new(), BTreeMap::new());
        for item in items {
            match item {
                Item::Step(text) => diagram.rows.push(Row::Step(text)),
                Item::Event(event) => {
                    note_leader(&mut leaders, &event);
                    let leads = leaders.get(&event.node).copied().unwrap_or(false);
                    let is_news = event.kind == "append_accepted" && {
                        let leader = (event.field("leader").map(str::to_owned), event.term);
                        followed.insert(event.node, leader.clone()) != Some(leader)
                    };
                    let is_in = event.node.slot() <= nodes && (is_news || is_drawn(&event, leads));
                    if is_in {
                        diagram.push(event, leads);
                    }
                }
            }
        }
        diagram
    }

    /// The events, in order.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// The diagram as text.
    pub fn write(&self, format: Format) -> String {
        match format {
            Format::Svg => svg::write(self),
            Format::Mermaid => mermaid::write(self),
            Format::Shiviz => shiviz::write(self),
        }
    }

    fn push(&mut self, event: LabEvent, leads: bool) {
        let needed = self.needed(&event, leads);
        let last = self.marks.iter().rev().find(|mark| mark.event.node == event.node);
        let mut clock = last.map_or_else(|| vec![0; self.nodes.into()], |mark| mark.clock.clone());
        if let Some(needed) = &needed {
            for (own, theirs) in clock.iter_mut().zip(&self.marks[needed.mark].clock) {
                *own = (*own).max(*theirs);
            }
        }
        clock[usize::from(event.node.slot()) - 1] += 1;
        self.rows.push(Row::Mark(self.marks.len()));
        self.marks.push(Mark { event, leads, needed, clock });
    }

    /// The last event on a node that is so.
    fn last(&self, node: &str, is: impl Fn(&LabEvent) -> bool) -> Option<usize> {
        let mut marks = self.marks.iter().enumerate().rev();
        let found = marks.find(|(_, mark)| mark.event.node.to_string() == node && is(&mark.event));
        found.map(|(place, _)| place)
    }

    /// What an event needed to hear of another node.
    fn needed(&self, event: &LabEvent, leads: bool) -> Option<Needed> {
        let own = event.node.to_string();
        let of = |name: &str| event.field(name).unwrap_or_default();
        let number = |event: &LabEvent, name: &str| -> u64 {
            event.field(name).and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let same_term = |other: &LabEvent| other.field("term") == event.field("term");
        let about_me =
            |other: &LabEvent| other.field("peer").or(other.field("to")) == Some(own.as_str());
        let (mark, carries, label) = match event.kind.as_str() {
            "vote_granted" | "vote_denied" | "pre_vote_granted" | "pre_vote_denied" => {
                let asked =
                    if event.kind.starts_with("pre_") { "pre_vote_asked" } else { "vote_asked" };
                let found = self.last(of("to"), |other| other.kind == asked && same_term(other))?;
                let what = if asked == "vote_asked" { "vote?" } else { "pre-vote?" };
                (found, Carries::Vote, format!("{what} @{}", of("term")))
            }
            "vote_received" => {
                let is_vote = |other: &LabEvent| {
                    matches!(other.kind.as_str(), "vote_granted" | "pre_vote_granted")
                        && about_me(other)
                };
                (self.last(of("from"), is_vote)?, Carries::Vote, "vote".to_owned())
            }
            "vote_refused" => {
                let is_denial = |other: &LabEvent| {
                    matches!(other.kind.as_str(), "vote_denied" | "pre_vote_denied")
                        && about_me(other)
                };
                (self.last(of("from"), is_denial)?, Carries::Refusal, "no vote".to_owned())
            }
            "append_accepted" => {
                let last = number(event, "last");
                // Entries are sent when they are appended, and again when their follower is found not
                // to have them.
                let sends = |other: &LabEvent| match other.kind.as_str() {
                    "append" => (number(other, "first")..=number(other, "last")).contains(&last),
                    "nextindex" => about_me(other),
                    "became_leader" => true,
                    _ => false,
                };
                let found = self.last(of("leader"), sends)?;
                let first = number(event, "prev") + 1;
                let label = if first > last {
                    "heartbeat".to_owned()
                } else if first == last {
                    format!("entry {last}")
                } else {
                    format!("entries {first}–{last}")
                };
                (found, Carries::Entries, label)
            }
            "truncated" => {
                let mut marks = self.marks.iter().rev();
                let leader = marks.find(|mark| {
                    mark.event.kind == "became_leader" && mark.event.term == event.term
                })?;
                let leader = leader.event.node.to_string();
                (self.last(&leader, may_send)?, Carries::Entries, "entries".to_owned())
            }
            "became_candidate" => {
                let mut marks = self.marks.iter().enumerate().rev();
                let begun = marks
                    .find(|(_, mark)| mark.event.kind == "transfer_begun" && about_me(&mark.event));
                let begun = begun?.0;
                let again = self.last(&own, |other| other.kind == "became_candidate");
                if again.is_some_and(|again| again > begun) {
                    return None;
                }
                (begun, Carries::Other, "your turn".to_owned())
            }
            "append_rejected" => {
                let label = format!("after {}?", of("prev"));
                (self.last(of("leader"), may_send)?, Carries::Entries, label)
            }
            "nextindex" => {
                let refused = |other: &LabEvent| {
                    other.kind == "append_rejected" && other.field("leader") == Some(own.as_str())
                };
                (self.last(of("peer"), refused)?, Carries::Refusal, "no".to_owned())
            }
            "matchindex" => {
                let holds = |other: &LabEvent| {
                    other.kind == "append_accepted"
                        && other.field("leader") == Some(own.as_str())
                        && number(other, "last") >= number(event, "to")
                };
                let label = format!("has {}", of("to"));
                (self.last(of("peer"), holds)?, Carries::Entries, label)
            }
            "commit" if !leads => {
                let to = number(event, "to");
                let mut marks = self.marks.iter().enumerate().rev();
                let knew = marks.find(|(_, mark)| {
                    let other = &mark.event;
                    mark.leads
                        && other.node != event.node
                        && other.kind == "commit"
                        && number(other, "to") >= to
                });
                (knew?.0, Carries::Commit, format!("committed {to}"))
            }
            "readmit_appended" => {
                let asked = |other: &LabEvent| other.kind == "rejoin_asked";
                (self.last(of("peer"), asked)?, Carries::Other, "rejoin?".to_owned())
            }
            "readmitted" => {
                let mut marks = self.marks.iter().enumerate().rev();
                let let_in = marks.find(|(_, mark)| {
                    mark.event.kind == "readmit_appended" && about_me(&mark.event)
                });
                (let_in?.0, Carries::Other, "readmitted".to_owned())
            }
            _ => return None,
        };
        (self.marks[mark].event.node != event.node).then_some(Needed { mark, carries, label })
    }
}

/// Whether a leader sends something because of this.
fn may_send(event: &LabEvent) -> bool {
    matches!(event.kind.as_str(), "became_leader" | "append" | "nextindex" | "matchindex")
}

fn note_leader(leaders: &mut BTreeMap<NodeId, bool>, event: &LabEvent) {
    let leads = match event.kind.as_str() {
        "became_leader" => true,
        "became_follower"
        | "became_candidate"
        | "became_pre_candidate"
        | "became_quarantined"
        | "stepped_down"
        | "started" => false,
        _ => return,
    };
    leaders.insert(event.node, leads);
}

/// Whether an event has a place in a diagram: what is worth a sentence, what sends or hears, and what
/// becomes of processes.
fn is_drawn(event: &LabEvent, leads: bool) -> bool {
    match event.kind.as_str() {
        // That a follower appended is said by its acceptance.
        "append" => leads,
        "append_accepted" => event.field("entries") != Some("0"),
        "pre_vote_asked" | "vote_asked" | "pre_vote_granted" | "vote_received" | "vote_refused"
        | "matchindex" | "crashed" | "started" | "paused" | "resumed" => true,
        _ => is_worth_telling(event),
    }
}

#[cfg(test)]
mod tests;
