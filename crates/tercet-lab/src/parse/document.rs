//! A script from its first line to its last: header, given disks, steps, blocks, golden text. Knows
//! no statement's inside.
//!
//! The one idea: a bad line is put on the list and left out, and reading goes on with the next; a
//! block that should not be there is passed over as a whole.

use super::cursor::{Cursor, Result, Word};
use super::error::{ScriptError, quoted};
use super::facts::Facts;
use super::given::GivenSet;
use super::header;
use super::nodes::Statement;
use super::statements::Parsed;
use crate::ast::{Branch, EventPattern, Script, Step, StepKind};

/// Nobody reads on after so many complaints.
const MOST_ERRORS: usize = 20;

/// Reads a script. See [`parse`](super::parse).
pub(super) fn read(text: &str) -> std::result::Result<Script, Vec<ScriptError>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (lines, golden) = split_golden(text);
    let golden_line = lines.len() + 1;
    let mut document = Document {
        lines,
        next: 0,
        header: header::Draft::default(),
        given: GivenSet::default(),
        facts: Facts::new(0, false),
        begun: false,
        errors: Vec::new(),
    };
    let trunk = document.read_trunk();
    document.check_whole(golden.is_some(), golden_line);
    if document.errors.is_empty() {
        return Ok(Script {
            header: document.header.finish(),
            given: document.given.into_lines(),
            steps: trunk.steps,
            ends_as_is: trunk.ends_as_is,
            golden,
        });
    }
    let mut errors = document.errors;
    errors.sort_by_key(|error| (error.line, error.column));
    // The trunk's marks are looked for in every branch.
    errors.dedup();
    errors.truncate(MOST_ERRORS);
    Err(errors)
}

/// The lines before a line `---`, and the text behind it.
fn split_golden(text: &str) -> (Vec<&str>, Option<String>) {
    let mut lines = Vec::new();
    let mut read = 0;
    for line in text.split_inclusive('\n') {
        read += line.len();
        if line.trim() == "---" {
            return (lines, Some(text[read..].to_owned()));
        }
        lines.push(line);
    }
    (lines, None)
}

/// A script that is being read.
struct Document<'a> {
    lines: Vec<&'a str>,
    /// Index of the next line.
    next: usize,
    header: header::Draft,
    given: GivenSet,
    facts: Facts,
    /// A step was there: the header is over.
    begun: bool,
    errors: Vec<ScriptError>,
}

/// Steps in a row: the trunk, or a branch.
#[derive(Default)]
struct Block {
    steps: Vec<Step>,
    ends_as_is: bool,
    /// Why no further step may come, once that is so.
    closed: Option<&'static str>,
    /// That was complained about.
    complained: bool,
    /// A fork was refused, and its branches are passed over.
    stray_fork: bool,
}

impl Block {
    /// Whether it is over, and what was read would go on with it.
    fn refuses(&self, parsed: &Parsed) -> bool {
        let ends = matches!(parsed, Parsed::End) && !self.ends_as_is;
        self.closed.is_some() && !ends
    }
}

/// How a line begins, for what is said of it when it has been read.
struct Start {
    line: usize,
    /// The whole line without its comment.
    text: String,
    /// Where its first word stands.
    column: usize,
    /// Its first word.
    found: String,
}

impl Start {
    fn of(cursor: &Cursor) -> Self {
        let mut cursor = cursor.clone();
        Self {
            line: cursor.line(),
            text: cursor.text(),
            column: cursor.column(),
            found: cursor.raw(),
        }
    }
}

impl Document<'_> {
    fn read_trunk(&mut self) -> Block {
        let mut block = Block::default();
        while let Some(cursor) = self.next_line() {
            if !self.begun && header::begins(&cursor) {
                self.read_header(cursor);
            } else if !self.begun && cursor.clone().take_name("given") {
                self.read_given(cursor);
            } else {
                self.begin(&cursor);
                self.read_line(cursor, &mut block, false);
            }
        }
        self.end_of_straight_line();
        block
    }

    /// What can only be seen from the whole.
    fn check_whole(&mut self, golden: bool, golden_line: usize) {
        if self.header.nodes().is_none() && self.errors.is_empty() {
            let line = self.lines.len().max(1);
            self.complain(line, 1, "", missing_cluster());
        }
        if golden && self.header.requires_real() {
            let message =
                "golden text is checked in the simulator only, and the script requires real";
            self.complain(golden_line, 1, "---", message.to_owned());
        }
    }

    /// The next line with something on it; none any more once there are complaints enough.
    fn next_line(&mut self) -> Option<Cursor> {
        while self.errors.len() < MOST_ERRORS {
            let text = self.lines.get(self.next)?;
            self.next += 1;
            let mut cursor = Cursor::new(self.next, text);
            if !cursor.at_end() {
                return Some(cursor);
            }
        }
        None
    }

    fn read_header(&mut self, mut cursor: Cursor) {
        let said_before = self.header.nodes().is_some();
        let read = self.header.read(&mut cursor);
        self.note(&cursor, read);
        if let Some(nodes) = self.header.nodes()
            && !said_before
        {
            let excused = std::mem::replace(&mut self.facts, Facts::new(nodes, false));
            self.facts.excuse_as(&excused);
        }
    }

    fn read_given(&mut self, mut cursor: Cursor) {
        self.require_cluster(&cursor);
        let taken = cursor.take_name("given");
        assert!(taken, "the caller saw the word");
        let read = self.given.read(&mut cursor, &self.facts);
        self.note(&cursor, read);
    }

    fn begin(&mut self, cursor: &Cursor) {
        self.begun = true;
        self.require_cluster(cursor);
    }

    /// Complains once if nothing said how many nodes there are, and goes on with the most.
    fn require_cluster(&mut self, cursor: &Cursor) {
        if self.header.nodes().is_some() {
            return;
        }
        let mut ahead = cursor.clone();
        let (column, found) = (ahead.column(), ahead.raw());
        // A bad header line may have been the cluster's: one complaint is enough.
        if self.errors.is_empty() {
            self.complain(cursor.line(), column, &found, missing_cluster());
        }
        self.facts = Facts::new(self.header.assume_cluster(), false);
    }

    fn read_line(&mut self, cursor: Cursor, block: &mut Block, in_branch: bool) {
        let place = cursor.clone();
        let start = Start::of(&cursor);
        let read = Statement::new(cursor, &mut self.facts).read();
        match self.note(&place, read) {
            None => self.pass_over(&start, block),
            Some(parsed) if block.refuses(&parsed) => {
                self.refuse_behind_end(&start, &parsed, block);
            }
            Some(parsed) => self.add(&start, parsed, block, in_branch),
        }
    }

    /// After a bad line: the branches of a bad fork belong to it, and the block of a bad first line
    /// is still one.
    fn pass_over(&mut self, start: &Start, block: &mut Block) {
        block.stray_fork |= start.found == "fork";
        if start.text.ends_with('{') && start.found.starts_with("expect") {
            self.read_trace(start);
        } else if start.text.ends_with('{') {
            self.skip_block();
        }
    }

    fn refuse_behind_end(&mut self, start: &Start, parsed: &Parsed, block: &mut Block) {
        if let Some(why) = block.closed
            && !std::mem::replace(&mut block.complained, true)
        {
            self.complain_at(start, why);
        }
        if matches!(parsed, Parsed::Branch(_) | Parsed::Trace { .. }) {
            self.skip_block();
        }
    }

    /// Adds what was read to the block, with the lines that belong to it.
    fn add(&mut self, start: &Start, parsed: Parsed, block: &mut Block, in_branch: bool) {
        let kind = match parsed {
            Parsed::Step(kind) => kind,
            Parsed::Trace { since } => {
                StepKind::ExpectTrace { since, events: self.read_trace(start) }
            }
            Parsed::Fork(names) if !in_branch => {
                block.closed = Some("only \"end as-is\" may follow the branches");
                StepKind::Fork(self.read_branches(start.line, &names))
            }
            Parsed::Fork(_) => {
                block.stray_fork = true;
                let why = "a branch cannot fork again: write its ways on as branches of the first \
                           fork";
                return self.complain_at(start, why);
            }
            Parsed::Branch(name) => {
                if !block.stray_fork {
                    let message = format!("branch {} stands behind no fork", quoted(&name.text));
                    self.complain(start.line, name.column, &name.text, message);
                }
                return self.skip_block();
            }
            Parsed::Close => return self.complain_at(start, "\"}\" closes nothing"),
            Parsed::End => {
                block.ends_as_is = true;
                block.closed = Some("nothing may follow \"end as-is\"");
                return;
            }
        };
        block.steps.push(Step { line: start.line, text: start.text.clone(), kind });
    }

    /// Reads the events of a trace up to its `}`.
    fn read_trace(&mut self, start: &Start) -> Vec<(usize, EventPattern)> {
        let before = self.errors.len();
        let mut events = Vec::new();
        loop {
            let Some(cursor) = self.next_line() else {
                self.not_closed(
                    start.line,
                    start.column,
                    "the trace is not closed: \"}\" is missing",
                );
                return events;
            };
            if self.closes(&cursor) {
                break;
            }
            let (place, at) = (cursor.clone(), cursor.line());
            let read = Statement::new(cursor, &mut self.facts).event_line();
            events.extend(self.note(&place, read).map(|event| (at, event)));
        }
        if events.is_empty() && self.errors.len() == before {
            self.complain_at(start, "the trace has no events: it checks nothing");
        }
        events
    }

    /// Reads the branches of a fork: each name's once, in any order.
    fn read_branches(&mut self, line: usize, names: &[Word]) -> Vec<Branch> {
        let trunk = self.facts.clone();
        let mut branches: Vec<Branch> = Vec::new();
        let mut stray = false;
        // A branch with a bad first line may have been any of them.
        let mut unsure = false;
        while branches.len() < names.len() {
            let Some(cursor) = self.next_line() else { break };
            let mut place = cursor.clone();
            if place.peek_name().is_some_and(|name| name == "end") {
                // Seen too early; the caller reads it.
                self.next -= 1;
                break;
            }
            let (at, column, found) = (cursor.line(), place.column(), place.raw());
            if !place.take_name("branch") {
                if !std::mem::replace(&mut stray, true) {
                    let message = "only the branches may follow a fork".to_owned();
                    self.complain(at, column, &found, message);
                }
                continue;
            }
            let read = Statement::new(cursor, &mut self.facts).read();
            let name = match self.note(&place, read) {
                Some(Parsed::Branch(name)) => self.check_branch(at, name, names, &branches),
                Some(_) => unreachable!("the line begins with \"branch\""),
                None => None,
            };
            let Some(name) = name else {
                unsure = true;
                self.skip_block();
                continue;
            };
            let mut facts = trunk.clone();
            facts.excuse_as(&self.facts);
            self.facts = facts;
            branches.push(self.read_branch(at, column, name));
        }
        let missing = |name: &&Word| !unsure && branches.iter().all(|b| b.name != name.text);
        for name in names.iter().filter(missing) {
            let message = format!("branch {} is missing", quoted(&name.text));
            self.not_closed_at(line, name.column, &name.text, message);
        }
        self.facts.await_nothing();
        branches
    }

    /// The name, if it is one of the fork's and new.
    fn check_branch(
        &mut self,
        line: usize,
        name: Word,
        names: &[Word],
        branches: &[Branch],
    ) -> Option<String> {
        let known: Vec<&str> = names.iter().map(|known| known.text.as_str()).collect();
        if !known.contains(&name.text.as_str()) {
            let message = format!("branch {} is not in the fork", quoted(&name.text));
            let mut error = error(line, name.column, &name.text, message);
            error.suggestion = super::words::nearest(&name.text, &known);
            self.errors.push(error);
            return None;
        }
        if branches.iter().any(|branch| branch.name == name.text) {
            let message = format!("branch {} is there twice", quoted(&name.text));
            self.complain(line, name.column, &name.text, message);
            return None;
        }
        Some(name.text)
    }

    fn read_branch(&mut self, line: usize, column: usize, name: String) -> Branch {
        let mut block = Block::default();
        loop {
            let Some(cursor) = self.next_line() else {
                self.not_closed(line, column, "the branch is not closed: \"}\" is missing");
                break;
            };
            if self.closes(&cursor) {
                break;
            }
            self.read_line(cursor, &mut block, true);
        }
        self.end_of_straight_line();
        Branch { name, line, steps: block.steps, ends_as_is: block.ends_as_is }
    }

    /// Whether the line is a `}`, which stands alone.
    fn closes(&mut self, cursor: &Cursor) -> bool {
        let mut cursor = cursor.clone();
        if !cursor.take("}") {
            return false;
        }
        let done = cursor.done();
        self.note(&cursor, done);
        true
    }

    /// Passes over the rest of a block, with the blocks in it.
    fn skip_block(&mut self) {
        let mut depth = 1;
        while depth > 0
            && let Some(cursor) = self.next_line()
        {
            let text = cursor.text();
            if text.starts_with('}') {
                depth -= 1;
            } else if text.ends_with('{') {
                depth += 1;
            }
        }
    }

    fn end_of_straight_line(&mut self) {
        if self.errors.len() >= MOST_ERRORS {
            // Reading stopped before the end: what was not seen may be there.
            return;
        }
        for awaited in self.facts.never_marked() {
            let message = format!("{} is not marked further down", quoted(&awaited.mark));
            self.errors.push(error(awaited.line, awaited.column, &awaited.mark, message));
        }
    }

    /// Puts a line that could not be read on the list.
    fn note<T>(&mut self, cursor: &Cursor, read: Result<T>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                self.facts.excuse(&cursor.text());
                self.errors.push(error);
                None
            }
        }
    }

    fn not_closed(&mut self, line: usize, column: usize, message: &str) {
        self.not_closed_at(line, column, "", message.to_owned());
    }

    /// A complaint about something that did not come; unless reading stopped before it could.
    fn not_closed_at(&mut self, line: usize, column: usize, found: &str, message: String) {
        if self.errors.len() < MOST_ERRORS {
            self.complain(line, column, found, message);
        }
    }

    fn complain_at(&mut self, start: &Start, message: &str) {
        self.complain(start.line, start.column, &start.found, message.to_owned());
    }

    fn complain(&mut self, line: usize, column: usize, found: &str, message: String) {
        self.errors.push(error(line, column, found, message));
    }
}

fn error(line: usize, column: usize, found: &str, message: String) -> ScriptError {
    ScriptError { line, column, found: found.to_owned(), message, suggestion: None }
}

fn missing_cluster() -> String {
    "no \"cluster n1 n2 n3\" stands above: the script has no nodes".to_owned()
}
