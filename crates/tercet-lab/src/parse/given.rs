//! What the disks hold before the nodes start: reads `given` lines and refuses sets that no run of
//! Raft can leave behind. Knows no steps.
//!
//! The one idea: an entry's place and term decide its value and all that stands before it (Log
//! Matching, §5.3), on all nodes together.

use tercet_raft::NodeId;

use super::cursor::{Cursor, Result, Word};
use super::error::quoted;
use super::facts::Facts;
use crate::ast::{Given, GivenEntry, NodeRefs};

/// The given lines read so far.
#[derive(Clone, Default, Debug)]
pub(super) struct GivenSet {
    lines: Vec<Given>,
}

/// An entry with the place where it is written.
struct Placed {
    entry: GivenEntry,
    word: Word,
}

/// What a line says, before it is checked.
#[derive(Default)]
struct Draft {
    term: Option<(u64, Word)>,
    voted: Option<(Option<NodeId>, Word)>,
    log: Option<Vec<Placed>>,
}

impl GivenSet {
    /// The lines, in order.
    pub(super) fn into_lines(self) -> Vec<Given> {
        self.lines
    }

    /// Reads what stands behind `given`, and adds it.
    pub(super) fn read(&mut self, cursor: &mut Cursor, facts: &Facts) -> Result<()> {
        let nodes = self.read_nodes(cursor, facts)?;
        let draft = Draft::read(cursor, facts)?;
        draft.check(cursor)?;
        let log = draft.log.unwrap_or_default();
        for earlier in &self.lines {
            check_matching(cursor, earlier, &log)?;
        }
        self.lines.push(Given {
            line: cursor.line(),
            nodes,
            term: draft.term.map(|(term, _)| term),
            voted: draft.voted.and_then(|(voted, _)| voted),
            log: log.into_iter().map(|placed| placed.entry).collect(),
        });
        Ok(())
    }

    fn read_nodes(&self, cursor: &mut Cursor, facts: &Facts) -> Result<Vec<NodeId>> {
        let column = cursor.column();
        if cursor.take_name("all") {
            let nodes = facts.resolve_all(&NodeRefs::All);
            if let Some(earlier) = self.lines.first() {
                let message = format!("line {} gives some of all nodes already", earlier.line);
                return Err(cursor.error(column, "all", message.into()));
            }
            return Ok(nodes);
        }
        let mut nodes = Vec::new();
        while let Some(name) = cursor.peek_name() {
            let Some(node) = facts.node(&name) else { break };
            let word = cursor.name().expect("a name was seen here");
            let node = node.map_err(|complaint| cursor.error(word.column, &name, complaint))?;
            let earlier = self.lines.iter().find(|given| given.nodes.contains(&node));
            if let Some(earlier) = earlier {
                let line = earlier.line;
                return Err(cursor.about(&word, &format!("is given in line {line} already")));
            }
            if nodes.contains(&node) {
                return Err(cursor.about(&word, "is there twice"));
            }
            nodes.push(node);
        }
        if nodes.is_empty() { Err(cursor.expected("a node or \"all\"")) } else { Ok(nodes) }
    }
}

impl Draft {
    fn read(cursor: &mut Cursor, facts: &Facts) -> Result<Self> {
        const KEYS: &[&str] = &["term", "voted", "log"];
        let mut draft = Self::default();
        while !cursor.at_end() {
            let Some(key) = cursor.name() else {
                return Err(cursor.expected("term=, voted= or log="));
            };
            if !KEYS.contains(&key.text.as_str()) {
                return Err(cursor.unknown(&key, KEYS));
            }
            if !cursor.take("=") {
                return Err(cursor.expected("\"=\""));
            }
            let repeated = match key.text.as_str() {
                "term" => {
                    let term = cursor.number("a term")?;
                    draft.term.replace((term, key.clone())).is_some()
                }
                "voted" => {
                    let voted = read_vote(cursor, facts)?;
                    draft.voted.replace((voted, key.clone())).is_some()
                }
                _ => draft.log.replace(read_log(cursor)?).is_some(),
            };
            if repeated {
                return Err(cursor.about(&key, "is there twice"));
            }
        }
        if draft.term.is_none() && draft.voted.is_none() && draft.log.is_none() {
            return Err(cursor.expected("term=, voted= or log="));
        }
        Ok(draft)
    }

    /// Terms never decrease along a log, and a node knows of the terms in its log.
    fn check(&self, cursor: &Cursor) -> Result<()> {
        let log = self.log.as_deref().unwrap_or_default();
        for pair in log.windows(2) {
            let [before, here] = pair else { unreachable!("a window of two") };
            if here.entry.term < before.entry.term {
                let term = before.entry.term;
                let what =
                    format!("follows an entry of term {term}: terms never decrease in a log");
                return Err(cursor.about(&here.word, &what));
            }
        }
        let last = log.last();
        if let (Some(last), Some((term, _))) = (last, &self.term)
            && last.entry.term > *term
        {
            let what = format!("is of a later term than the node's, which is {term}");
            return Err(cursor.about(&last.word, &what));
        }
        let term = self.term.as_ref().map(|(term, _)| *term).or(last.map(|last| last.entry.term));
        if let Some((Some(_), key)) = &self.voted
            && term.unwrap_or(0) == 0
        {
            return Err(cursor.about(key, "needs a term: in term 0 nobody votes"));
        }
        Ok(())
    }
}

fn read_vote(cursor: &mut Cursor, facts: &Facts) -> Result<Option<NodeId>> {
    if cursor.take("-") {
        return Ok(None);
    }
    let Some(word) = cursor.name() else { return Err(cursor.expected("a node or \"-\"")) };
    match facts.node(&word.text) {
        Some(node) => {
            Ok(Some(node.map_err(|complaint| cursor.error(word.column, &word.text, complaint))?))
        }
        None => Err(cursor.about(&word, "is no node: expected a node or \"-\"")),
    }
}

fn read_log(cursor: &mut Cursor) -> Result<Vec<Placed>> {
    if cursor.take_name("empty") {
        return Ok(Vec::new());
    }
    let mut log = vec![read_entry(cursor)?];
    while cursor.take_glued(",") {
        log.push(read_entry(cursor)?);
    }
    Ok(log)
}

fn read_entry(cursor: &mut Cursor) -> Result<Placed> {
    let column = cursor.column();
    let term = cursor.number("a term")?;
    let value = if cursor.take_glued(":") {
        if cursor.at_gap() || cursor.sees(",") {
            return Err(cursor.expected("a value"));
        }
        Some(cursor.word(",")?.text)
    } else {
        None
    };
    let word = Word { text: cursor.text_since(column), quoted: false, column };
    if term == 0 {
        return Err(cursor.about(&word, "is of term 0: entries are of term 1 or later"));
    }
    Ok(Placed { entry: GivenEntry { term, value }, word })
}

/// Two logs that have the same term at a place hold the same there and everywhere before it.
fn check_matching(cursor: &Cursor, earlier: &Given, log: &[Placed]) -> Result<()> {
    let mut differs_at = None;
    for (index, (other, here)) in (1u64..).zip(earlier.log.iter().zip(log)) {
        let same_term = other.term == here.entry.term;
        let (line, term) = (earlier.line, other.term);
        if let Some(place) = differs_at
            && same_term
        {
            let what = format!(
                "has term {term} at index {index} as in line {line}, but index {place} differs: \
                 impossible (Log Matching)"
            );
            return Err(cursor.about(&here.word, &what));
        }
        let (value, other_value) = (value_at(&here.entry, index), value_at(other, index));
        if same_term && value != other_value {
            let what = format!(
                "makes index {index} of term {term} hold {}, and line {line} {}: a term has one \
                 entry there",
                quoted(&value),
                quoted(&other_value)
            );
            return Err(cursor.about(&here.word, &what));
        }
        if !same_term && differs_at.is_none() {
            differs_at = Some(index);
        }
    }
    Ok(())
}

/// The value of an entry, also of one that says none (see [`GivenEntry`]).
fn value_at(entry: &GivenEntry, index: u64) -> String {
    entry.value.clone().unwrap_or_else(|| format!("t{}i{index}", entry.term))
}
