//! How nodes, links and numbers of nodes are written: `n1`, `leader`, `$L`, `all`, `n1->n2`,
//! `$L.term`. Knows which of them exist, and no statement.
//!
//! The one idea: whether a word names a node can be seen from the word alone, so that lists of
//! nodes need no end mark.

use super::cursor::{Complaint, Cursor, Result, Word};
use super::facts::Facts;
use super::words::node_name;
use crate::ast::{Link, NodeRef, NodeRefs, Number};

/// How many nodes a list can name: each of seven, by name and by variable, and then some.
const LONGEST_LIST: usize = 20;

/// A line that is being read, and what is known there.
pub(super) struct Statement<'a> {
    pub(super) cursor: Cursor,
    pub(super) facts: &'a mut Facts,
}

/// A node with its place.
pub(super) type PlacedNode = (NodeRef, Word);

impl<'a> Statement<'a> {
    /// At the beginning of a line.
    pub(super) fn new(cursor: Cursor, facts: &'a mut Facts) -> Self {
        Self { cursor, facts }
    }

    /// Whether a node stands next. `all` is none.
    pub(super) fn sees_node(&mut self) -> bool {
        self.cursor.sees("$")
            || self
                .cursor
                .peek_name()
                .is_some_and(|name| name == "leader" || node_name(&name).is_some())
    }

    /// Reads a node.
    pub(super) fn node(&mut self) -> Result<NodeRef> {
        Ok(self.placed_node()?.0)
    }

    /// Reads a node and says where it stands.
    pub(super) fn placed_node(&mut self) -> Result<PlacedNode> {
        let column = self.cursor.column();
        if self.cursor.take("$") {
            return self.variable(column);
        }
        let Some(word) = self.cursor.name() else {
            return Err(self.cursor.expected("a node"));
        };
        if word.text == "leader" {
            return Ok((NodeRef::Leader, word));
        }
        match self.facts.node(&word.text) {
            Some(Ok(node)) => Ok((NodeRef::Node(node), word)),
            Some(Err(complaint)) => Err(self.complain(&word, complaint)),
            None => Err(self.cursor.about(&word, "is no node: expected n1, leader or $NAME")),
        }
    }

    /// Reads nodes until something else comes; at least one.
    pub(super) fn placed_nodes(&mut self) -> Result<Vec<PlacedNode>> {
        let mut nodes = vec![self.placed_node()?];
        while self.sees_node() {
            let (node, word) = self.placed_node()?;
            if nodes.iter().any(|(earlier, _)| *earlier == node) {
                return Err(self.cursor.about(&word, "is there twice"));
            }
            if nodes.len() == LONGEST_LIST {
                return Err(self.cursor.about(&word, "is one too many: name each node once"));
            }
            nodes.push((node, word));
        }
        Ok(nodes)
    }

    /// Reads `all` or nodes.
    pub(super) fn nodes(&mut self) -> Result<NodeRefs> {
        if self.cursor.take_name("all") {
            return Ok(NodeRefs::All);
        }
        Ok(plain(self.placed_nodes()?))
    }

    /// Reads `n1->n2`.
    pub(super) fn link(&mut self) -> Result<Link> {
        let from = self.node()?;
        if !self.cursor.take("->") {
            return Err(self.cursor.expected("\"->\""));
        }
        let (to, word) = self.placed_node()?;
        if from == to {
            return Err(self.cursor.about(&word, "is at both ends"));
        }
        Ok(Link { from, to })
    }

    /// Reads a number, or one that a node has: `$L.term`.
    pub(super) fn number(&mut self) -> Result<Number> {
        if !self.sees_node() {
            return self.cursor.number("a number or one like $L.term").map(Number::Literal);
        }
        let node = self.node()?;
        self.number_of(node)
    }

    /// Reads what stands behind the node in `$L.term`.
    pub(super) fn number_of(&mut self, node: NodeRef) -> Result<Number> {
        if !self.cursor.take_glued(".") {
            return Err(self.cursor.expected("\".term\", \".commit\" or \".last\""));
        }
        match self.cursor.choice(&[("term", 't'), ("commit", 'c'), ("last", 'l')])? {
            't' => Ok(Number::Term(node)),
            'c' => Ok(Number::Commit(node)),
            _ => Ok(Number::Last(node)),
        }
    }

    /// `complaint` about `word`.
    pub(super) fn complain(&self, word: &Word, complaint: Complaint) -> super::ScriptError {
        self.cursor.error(word.column, &word.text, complaint)
    }

    /// Reads the name behind a `$` at `column`.
    fn variable(&mut self, column: usize) -> Result<PlacedNode> {
        let Some(word) = self.cursor.name() else {
            return Err(self.cursor.expected("the name of a variable"));
        };
        let placed = Word { text: format!("${}", word.text), quoted: false, column };
        self.facts.variable(&word.text).map_err(|complaint| self.complain(&placed, complaint))?;
        Ok((NodeRef::Variable(word.text), placed))
    }
}

/// The nodes without their places.
pub(super) fn plain(nodes: Vec<PlacedNode>) -> NodeRefs {
    NodeRefs::Some(nodes.into_iter().map(|(node, _)| node).collect())
}
