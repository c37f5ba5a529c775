//! What can be true at a moment: `leader = n3 @2`, `n1 n2 role=follower`, `logs all = 1:a`,
//! `W.fate = lost`. Knows no steps.
//!
//! The one idea: the first word says what is spoken of, and a list goes on until a word that cannot
//! belong to it.

use super::cursor::{Cursor, Result, Word};
use super::facts::RequestKind;
use super::nodes::Statement;
use super::words::{
    CLIENT_STATES, CONDITION_WORDS, FATES, INVARIANTS, PREDICATE_WORDS, ROLES, node_name,
};
use crate::ast::{Cmp, Condition, Content, LogItem, NodeRefs, Number, Pred};

/// The comparisons; those of two characters first, so that `>=` is not read as `>`.
const COMPARISONS: &[(&str, Cmp)] = &[
    ("!=", Cmp::NotEqual),
    (">=", Cmp::AtLeast),
    ("<=", Cmp::AtMost),
    ("=", Cmp::Equal),
    (">", Cmp::Above),
    ("<", Cmp::Below),
];

/// The words behind a predicate, where its lists end.
const END_WORDS: &[&str] = &["within", "until"];

impl Statement<'_> {
    /// Reads a predicate.
    pub(super) fn predicate(&mut self) -> Result<Pred> {
        if let Some(request) = self.request_name() {
            return self.request_predicate(&request);
        }
        if self.leads_with_comparison() {
            return self.leader_predicate();
        }
        let name = self.cursor.peek_name();
        match name.as_deref() {
            Some("invariants") => self.invariants(),
            Some("log" | "logs") => self.logs(),
            Some("all") => self.conditions_of_nodes(),
            Some(word) if CONDITION_WORDS.contains(&word) => self.condition_first(),
            _ if self.sees_node() => self.conditions_of_nodes(),
            Some(_) => {
                let word = self.cursor.name().expect("a name was seen here");
                Err(self.cursor.unknown(&word, PREDICATE_WORDS))
            }
            None => Err(self.cursor.expected("something that can be true")),
        }
    }

    /// Reads a comparison.
    pub(super) fn comparison(&mut self) -> Result<Cmp> {
        for (symbol, cmp) in COMPARISONS {
            if self.cursor.take(symbol) {
                return Ok(*cmp);
            }
        }
        Err(self.cursor.expected("a comparison: =, !=, >=, <=, > or <"))
    }

    /// Reads `=`.
    pub(super) fn equals(&mut self) -> Result<()> {
        if self.cursor.take("=") { Ok(()) } else { Err(self.cursor.expected("\"=\"")) }
    }

    /// Reads `=` or `!=`; whether it was the latter.
    fn equals_or_not(&mut self) -> Result<bool> {
        if self.cursor.take("!=") {
            return Ok(true);
        }
        if self.cursor.take("=") { Ok(false) } else { Err(self.cursor.expected("\"=\" or \"!=\"")) }
    }

    /// The request in `W.client`, if the line goes on so.
    fn request_name(&mut self) -> Option<Word> {
        let mut ahead = self.cursor.clone();
        let word = ahead.name()?;
        let is_node = word.text == "leader" || node_name(&word.text).is_some();
        (ahead.take_glued(".") && !is_node).then(|| {
            self.cursor = ahead;
            word
        })
    }

    fn request_predicate(&mut self, request: &Word) -> Result<Pred> {
        const ASPECTS: &[(&str, Option<RequestKind>, &str)] = &[
            ("client", None, ""),
            ("fate", Some(RequestKind::Submit), "only a submit has a fate"),
            ("values", Some(RequestKind::Read), "only a read has values"),
        ];
        let names: Vec<(&str, usize)> =
            ASPECTS.iter().enumerate().map(|(i, (name, _, _))| (*name, i)).collect();
        let (aspect, kind, why) = ASPECTS[self.cursor.choice(&names)?];
        self.facts
            .request(&request.text, kind, why)
            .map_err(|complaint| self.complain(request, complaint))?;
        self.equals()?;
        let name = request.text.clone();
        Ok(match aspect {
            "client" => Pred::Client { name, state: self.cursor.choice(CLIENT_STATES)? },
            "fate" => Pred::Fate { name, fate: self.cursor.choice(FATES)? },
            _ => Pred::Values { name, values: self.values()? },
        })
    }

    /// Reads what a read returned: `a b`, or `empty`.
    fn values(&mut self) -> Result<Vec<String>> {
        if self.cursor.take_name("empty") {
            return Ok(Vec::new());
        }
        let mut values = Vec::new();
        while !self.cursor.at_end() && !END_WORDS.contains(&self.cursor.raw().as_str()) {
            values.push(self.cursor.word("")?.text);
        }
        if values.is_empty() {
            return Err(self.cursor.expected("values or \"empty\""));
        }
        Ok(values)
    }

    /// Whether the line goes on with `leader =` or `leader !=`.
    fn leads_with_comparison(&mut self) -> bool {
        let mut ahead = self.cursor.clone();
        ahead.take_name("leader") && (ahead.sees("=") || ahead.sees("!="))
    }

    fn leader_predicate(&mut self) -> Result<Pred> {
        self.cursor.name();
        let negated = self.equals_or_not()?;
        let node = if self.cursor.take_name("none") { None } else { Some(self.node()?) };
        let term = if self.cursor.take("@") {
            let exact = COMPARISONS.iter().all(|(symbol, _)| !self.cursor.sees(symbol));
            let cmp = if exact { Cmp::Equal } else { self.comparison()? };
            Some((cmp, self.number()?))
        } else {
            None
        };
        Ok(Pred::Leader { negated, node, term })
    }

    fn invariants(&mut self) -> Result<Pred> {
        self.cursor.name();
        let holds = self.cursor.choice(&[("ok", true), ("violated", false)])?;
        if holds {
            return Ok(Pred::InvariantsOk);
        }
        self.equals()?;
        Ok(Pred::Violated(self.cursor.choice(INVARIANTS)?))
    }

    /// Reads `logs all equal`, `logs all = …`, `log all ends …`.
    fn logs(&mut self) -> Result<Pred> {
        self.cursor.name();
        let nodes = self.nodes()?;
        if self.cursor.take_name("equal") {
            return Ok(Pred::LogsEqual(nodes));
        }
        let first = self.log_condition("\"=\", \"ends\" or \"equal\"")?;
        self.with_conditions(nodes, vec![first])
    }

    /// Reads `commit all = 4`: the condition's name before the nodes.
    fn condition_first(&mut self) -> Result<Pred> {
        let key = self.cursor.name().expect("a name was seen here");
        if matches!(key.text.as_str(), "up" | "down") {
            let what = format!("stands behind the nodes: n1 {}", key.text);
            return Err(self.cursor.about(&key, &what));
        }
        let nodes = self.nodes()?;
        let first = self.condition(&key)?;
        self.with_conditions(nodes, vec![first])
    }

    fn conditions_of_nodes(&mut self) -> Result<Pred> {
        let nodes = self.nodes()?;
        if self.cursor.sees(".") {
            let what = "a space: a node's term is written \"n1 term = 2\"";
            return Err(self.cursor.expected(what));
        }
        let pred = self.with_conditions(nodes, Vec::new())?;
        if matches!(&pred, Pred::Nodes { conditions, .. } if conditions.is_empty()) {
            return Err(self.cursor.expected("what is true of the nodes, like role=follower"));
        }
        Ok(pred)
    }

    /// Reads further conditions up to the end or to a word that ends a predicate.
    fn with_conditions(&mut self, nodes: NodeRefs, mut conditions: Vec<Condition>) -> Result<Pred> {
        while !self.cursor.at_end() {
            if self.cursor.peek_name().is_some_and(|name| END_WORDS.contains(&name.as_str())) {
                break;
            }
            let Some(key) = self.cursor.name() else {
                return Err(self.cursor.expected("a condition like role=follower"));
            };
            conditions.push(self.condition(&key)?);
        }
        Ok(Pred::Nodes { nodes, conditions })
    }

    fn condition(&mut self, key: &Word) -> Result<Condition> {
        Ok(match key.text.as_str() {
            "up" => Condition::Up(true),
            "down" => Condition::Up(false),
            "role" => {
                let negated = self.equals_or_not()?;
                Condition::Role { negated, role: self.cursor.choice(ROLES)? }
            }
            "term" => Condition::Term(self.comparison()?, self.number()?),
            "commit" => Condition::Commit(self.comparison()?, self.number()?),
            "last" => Condition::Last(self.comparison()?, self.number()?),
            "voted" => {
                self.equals()?;
                let nobody = self.cursor.take("-");
                Condition::Voted(if nobody { None } else { Some(self.node()?) })
            }
            "log" => self.log_condition("\"=\" or \"ends\"")?,
            "heartbeat" => {
                self.equals()?;
                let default = self.cursor.take_name("default");
                Condition::Heartbeat(if default { None } else { Some(self.cursor.duration()?) })
            }
            _ => {
                let known: Vec<&str> = CONDITION_WORDS.iter().chain(END_WORDS).copied().collect();
                return Err(self.cursor.unknown(key, &known));
            }
        })
    }

    /// Reads `= 1:a 1:b`, `= empty` or `ends 1:b`; `what` says what may stand there.
    fn log_condition(&mut self, what: &str) -> Result<Condition> {
        if self.cursor.take_name("ends") {
            return Ok(Condition::LogEnds(self.log_items("entries like 1:a")?));
        }
        if !self.cursor.take("=") {
            return Err(self.cursor.expected(what));
        }
        if self.cursor.take_name("empty") {
            return Ok(Condition::Log(Vec::new()));
        }
        Ok(Condition::Log(self.log_items("entries like 1:a, or \"empty\"")?))
    }

    fn log_items(&mut self, what: &str) -> Result<Vec<LogItem>> {
        let mut items = Vec::new();
        while sees_log_item(&mut self.cursor) {
            items.push(self.log_item()?);
        }
        if items.is_empty() { Err(self.cursor.expected(what)) } else { Ok(items) }
    }

    fn log_item(&mut self) -> Result<LogItem> {
        let term = if self.cursor.take("*") { None } else { Some(self.item_term()?) };
        if !self.cursor.take_glued(":") {
            return Err(self.cursor.expected("\":\" and what the entry holds"));
        }
        Ok(LogItem { term, content: self.content()? })
    }

    fn item_term(&mut self) -> Result<Number> {
        if !self.sees_node() {
            return self.cursor.number("a term").map(Number::Literal);
        }
        let node = self.node()?;
        if !self.cursor.take_glued(".term") {
            return Err(self.cursor.expected("\".term\""));
        }
        Ok(Number::Term(node))
    }

    /// Reads what an entry holds. In quotes it is a value, whatever it looks like.
    fn content(&mut self) -> Result<Content> {
        if self.cursor.take_glued("+") {
            return Ok(Content::Readmit(self.node()?));
        }
        if self.cursor.at_gap() {
            return Err(self.cursor.expected("what the entry holds, like 1:a or 2:-"));
        }
        let word = self.cursor.word("")?;
        Ok(match word.text.as_str() {
            "-" if !word.quoted => Content::Noop,
            "*" if !word.quoted => Content::Any,
            _ => Content::Value(word.text),
        })
    }
}

/// Whether the next word is an entry of a log: `TERM:CONTENT`.
fn sees_log_item(cursor: &mut Cursor) -> bool {
    let raw = cursor.raw();
    let Some((term, _)) = raw.split_once(':') else { return false };
    let of_node = term
        .strip_suffix(".term")
        .is_some_and(|node| node.starts_with('$') || node == "leader" || node_name(node).is_some());
    let literal = !term.is_empty() && term.bytes().all(|b| b.is_ascii_digit());
    term == "*" || literal || of_node
}
