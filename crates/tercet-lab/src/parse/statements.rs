//! The lines of a script after its header: what clients do, time, assertions, flow. Faults are in
//! `faults`. Knows one line at a time; what belongs together over several lines is the document's.
//!
//! The one idea: the first word decides, and everything behind it must be read, or be refused.

use std::time::Duration;

use super::cursor::{Result, Word, alternatives};
use super::facts::{Awaited, RequestKind};
use super::nodes::Statement;
use super::words::{HEADER_WORDS, LINE_WORDS, MUTANTS, SWITCH};
use crate::ast::{Cmp, NodeRef, NodeRefs, Outcome, StepKind};

/// How long `wait` waits if it is not said.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many branches a fork and how many choices a question can have: more fit on no screen.
const MOST_CHOICES: usize = 20;

/// What a line is.
pub(super) enum Parsed {
    /// A whole step.
    Step(StepKind),
    /// `expect trace since MARK {`: its events follow.
    Trace {
        /// From this mark on.
        since: Option<String>,
    },
    /// `fork a, b`: its branches follow.
    Fork(Vec<Word>),
    /// `branch NAME {`
    Branch(Word),
    /// `}`
    Close,
    /// `end as-is`
    End,
}

impl Statement<'_> {
    /// Reads the line.
    pub(super) fn read(mut self) -> Result<Parsed> {
        let parsed = self.statement()?;
        self.cursor.done()?;
        Ok(parsed)
    }

    fn statement(&mut self) -> Result<Parsed> {
        if self.cursor.take("}") {
            return Ok(Parsed::Close);
        }
        let Some(word) = self.cursor.name() else {
            return Err(self.cursor.expected("a word that says what to do"));
        };
        let step = match word.text.as_str() {
            "expect" => return self.expect(),
            "fork" => return self.fork(),
            "branch" => return self.branch(),
            "end" => return self.end(),
            "submit" => self.submit()?,
            "retry" => self.retry()?,
            "read" => self.read_values()?,
            "elect" => StepKind::Elect { node: self.node()?, win: self.cursor.optional("win")? },
            "transfer" => self.transfer()?,
            "run" => StepKind::Run(self.cursor.duration()?),
            "settle" => StepKind::Settle,
            "wait" => self.wait()?,
            "freeze" => StepKind::Freeze(self.timers()?),
            "thaw" => StepKind::Thaw(self.timers()?),
            "always" | "never" => self.until(word.text == "always")?,
            "let" => self.let_variable()?,
            "mark" => self.mark()?,
            "say" => StepKind::Say(self.cursor.string("what is said, in quotes")?),
            "ask" => self.ask()?,
            "mutant" => StepKind::Mutant {
                mutant: self.cursor.choice(MUTANTS)?,
                on: self.cursor.choice(SWITCH)?,
            },
            header if HEADER_WORDS.contains(&header) => {
                let what = "belongs to the head of a script, before the first step";
                return Err(self.cursor.about(&word, what));
            }
            other => match self.fault(other)? {
                Some(step) => step,
                None => return Err(self.cursor.unknown(&word, LINE_WORDS)),
            },
        };
        Ok(Parsed::Step(step))
    }

    // What clients do.

    fn submit(&mut self) -> Result<StepKind> {
        let mut values = Vec::new();
        let mut options = Options::default();
        while !self.cursor.at_end() && !self.cursor.sees("->") {
            if !self.option(&mut options, &["via", "as", "nowait"])? {
                values.push(self.value()?);
            }
        }
        if values.is_empty() {
            return Err(self.cursor.expected("a value"));
        }
        self.name_request(&options, RequestKind::Submit)?;
        let expect = self.outcomes(options.nowait)?;
        let Options { via, name, nowait, .. } = options;
        let name = name.map(|word| word.text);
        Ok(StepKind::Submit { values, via, name, nowait, expect })
    }

    fn retry(&mut self) -> Result<StepKind> {
        let Some(request) = self.cursor.name() else {
            return Err(self.cursor.expected("the name of a request"));
        };
        self.facts
            .request(&request.text, Some(RequestKind::Submit), "only a submit can be retried")
            .map_err(|complaint| self.complain(&request, complaint))?;
        let options = self.options(&["via", "nowait"])?;
        let expect = self.outcomes(options.nowait)?;
        let Options { via, nowait, .. } = options;
        Ok(StepKind::Retry { name: request.text, via, nowait, expect })
    }

    fn read_values(&mut self) -> Result<StepKind> {
        let options = self.options(&["via", "as", "stale", "linearizable", "nowait"])?;
        self.name_request(&options, RequestKind::Read)?;
        let expect = self.outcomes(options.nowait)?;
        let Options { via, name, stale, nowait } = options;
        let name = name.map(|word| word.text);
        Ok(StepKind::Read { via, name, stale: stale.unwrap_or(false), nowait, expect })
    }

    /// Reads options up to `->` or the end.
    fn options(&mut self, allowed: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        while !self.cursor.at_end() && !self.cursor.sees("->") {
            if !self.option(&mut options, allowed)? {
                return Err(match self.cursor.name() {
                    Some(word) => self.cursor.unknown(&word, allowed),
                    None => self.cursor.expected(&alternatives(allowed)),
                });
            }
        }
        Ok(options)
    }

    /// Reads an option if one stands next.
    fn option(&mut self, options: &mut Options, allowed: &[&str]) -> Result<bool> {
        let Some(text) = self.cursor.peek_name() else { return Ok(false) };
        if !allowed.contains(&text.as_str()) {
            return Ok(false);
        }
        let mut ahead = self.cursor.clone();
        let word = ahead.name().expect("a name was seen here");
        let repeated = match text.as_str() {
            "via" if self.cursor.take_key("via") => options.via.replace(self.node()?).is_some(),
            "as" if self.cursor.take_key("as") => {
                let Some(name) = self.cursor.name() else {
                    return Err(self.cursor.expected("a name"));
                };
                options.name.replace(name).is_some()
            }
            // A value may be called `via`, and go on: `nowait=1`.
            "nowait" | "stale" | "linearizable" if ahead.at_gap() => {
                self.cursor = ahead;
                match text.as_str() {
                    "nowait" => std::mem::replace(&mut options.nowait, true),
                    word => options.stale.replace(word == "stale").is_some(),
                }
            }
            _ => return Ok(false),
        };
        if repeated {
            return Err(self.cursor.about(&word, "is there twice"));
        }
        Ok(true)
    }

    /// Reads a value. What looks like an operator must be quoted, as it is likely a slip.
    fn value(&mut self) -> Result<String> {
        let word = self.cursor.word("")?;
        let operator = matches!(word.text.as_str(), "=" | "!=" | ">=" | "<=" | "|" | "{" | "}");
        if !word.quoted && (operator || word.text.contains("->")) {
            return Err(self
                .cursor
                .about(&word, "looks like an operator: put it in quotes to submit it"));
        }
        Ok(word.text)
    }

    fn name_request(&mut self, options: &Options, kind: RequestKind) -> Result<()> {
        let Some(name) = &options.name else { return Ok(()) };
        self.facts
            .name_request(name.text.clone(), kind, self.cursor.line())
            .map_err(|complaint| self.complain(name, complaint))
    }

    /// Reads `-> redirect n2 -> ok`. Only a redirection can be followed by another answer.
    fn outcomes(&mut self, nowait: bool) -> Result<Vec<Outcome>> {
        const OUTCOMES: &[(&str, Option<Outcome>)] = &[
            ("ok", Some(Outcome::Ok)),
            ("redirect", None),
            ("refused", Some(Outcome::Refused)),
            ("unknown", Some(Outcome::Unknown)),
        ];
        let mut outcomes = Vec::new();
        let column = self.cursor.column();
        while self.cursor.take("->") {
            let names: Vec<(&str, usize)> =
                OUTCOMES.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
            match &OUTCOMES[self.cursor.choice(&names)?].1 {
                None => outcomes.push(Outcome::Redirect(self.node()?)),
                Some(last) => {
                    outcomes.push(last.clone());
                    break;
                }
            }
        }
        if self.cursor.sees("->") {
            let column = self.cursor.column();
            let message = "only a redirect is followed by another answer".to_owned();
            return Err(self.cursor.error(column, "->", message.into()));
        }
        if nowait && !outcomes.is_empty() {
            let message = "with nowait there is no answer to check: name it with as=W and expect \
                           W.client later";
            return Err(self.cursor.error(column, "->", message.to_owned().into()));
        }
        Ok(outcomes)
    }

    // Time.

    fn transfer(&mut self) -> Result<StepKind> {
        if self.cursor.at_end() {
            return Ok(StepKind::Transfer(None));
        }
        self.cursor.take_key("to");
        Ok(StepKind::Transfer(Some(self.node()?)))
    }

    fn wait(&mut self) -> Result<StepKind> {
        let pred = self.predicate()?;
        let within =
            if self.cursor.optional("within")? { self.cursor.duration()? } else { PATIENCE };
        Ok(StepKind::Wait { pred, within })
    }

    /// Reads `all.timers` or `n1.timers n2.timers`.
    fn timers(&mut self) -> Result<NodeRefs> {
        if self.cursor.take_name("all") {
            self.dot_timers()?;
            return Ok(NodeRefs::All);
        }
        let mut nodes: Vec<NodeRef> = Vec::new();
        while nodes.is_empty() || self.sees_node() {
            let (node, word) = self.placed_node()?;
            if nodes.contains(&node) {
                return Err(self.cursor.about(&word, "is there twice"));
            }
            nodes.push(node);
            self.dot_timers()?;
        }
        Ok(NodeRefs::Some(nodes))
    }

    fn dot_timers(&mut self) -> Result<()> {
        if self.cursor.take_glued(".timers") {
            Ok(())
        } else {
            Err(self.cursor.expected("\".timers\""))
        }
    }

    // Assertions.

    fn expect(&mut self) -> Result<Parsed> {
        let at_once = self.cursor.take_glued("!");
        let column = self.cursor.column();
        let mut ahead = self.cursor.clone();
        let Some(word) = ahead.name().filter(|word| matches!(&*word.text, "count" | "trace"))
        else {
            return Ok(Parsed::Step(StepKind::Expect { pred: self.predicate()?, at_once }));
        };
        if at_once {
            let message = format!(
                "\"expect!\" is for states: events are expected by \"expect {}\"",
                word.text
            );
            return Err(self.cursor.error(column, &word.text, message.into()));
        }
        self.cursor = ahead;
        if word.text == "trace" { self.expect_trace() } else { self.expect_count() }
    }

    fn expect_count(&mut self) -> Result<Parsed> {
        let events = self.event()?;
        let since = self.since()?;
        let cmp = self.comparison()?;
        let column = self.cursor.column();
        let count = self.cursor.number("a number of events")?;
        if count == 0 && matches!(cmp, Cmp::AtLeast | Cmp::Below) {
            let message = "every number or none is so compared with 0: it checks nothing";
            return Err(self.cursor.error(column, "0", message.to_owned().into()));
        }
        Ok(Parsed::Step(StepKind::ExpectCount { events, since, cmp, count }))
    }

    fn expect_trace(&mut self) -> Result<Parsed> {
        let since = self.since()?;
        self.opening_brace()?;
        Ok(Parsed::Trace { since })
    }

    fn since(&mut self) -> Result<Option<String>> {
        if !self.cursor.take_name("since") {
            return Ok(None);
        }
        let mark = self.mark_name()?;
        self.facts.mark_above(&mark.text).map_err(|complaint| self.complain(&mark, complaint))?;
        Ok(Some(mark.text))
    }

    fn until(&mut self, always: bool) -> Result<StepKind> {
        let pred = self.predicate()?;
        if !self.cursor.optional("until")? {
            return Err(self.cursor.expected("\"until\" and a mark"));
        }
        let mark = self.mark_name()?;
        let until = mark.text.clone();
        let (line, column) = (self.cursor.line(), mark.column);
        self.facts
            .await_mark(Awaited { mark: until.clone(), line, column })
            .map_err(|complaint| self.complain(&mark, complaint))?;
        Ok(if always { StepKind::Always { pred, until } } else { StepKind::Never { pred, until } })
    }

    // Flow.

    fn let_variable(&mut self) -> Result<StepKind> {
        let Some(word) = self.cursor.name() else {
            return Err(self.cursor.expected("a name without \"$\""));
        };
        self.equals()?;
        let node = self.node()?;
        self.facts
            .set_variable(word.text.clone(), &node)
            .map_err(|complaint| self.complain(&word, complaint))?;
        Ok(StepKind::Let { name: word.text, node })
    }

    fn mark(&mut self) -> Result<StepKind> {
        let word = self.mark_name()?;
        self.facts
            .set_mark(word.text.clone(), self.cursor.line())
            .map_err(|complaint| self.complain(&word, complaint))?;
        Ok(StepKind::Mark(word.text))
    }

    fn mark_name(&mut self) -> Result<Word> {
        self.cursor.name().ok_or_else(|| self.cursor.expected("the name of a mark"))
    }

    fn fork(&mut self) -> Result<Parsed> {
        let mut names: Vec<Word> = Vec::new();
        while names.is_empty() || self.cursor.take(",") {
            let Some(name) = self.cursor.name() else {
                return Err(self.cursor.expected("the name of a branch"));
            };
            if names.iter().any(|earlier| earlier.text == name.text) {
                return Err(self.cursor.about(&name, "is there twice"));
            }
            if names.len() == MOST_CHOICES {
                return Err(self.cursor.about(&name, "is one too many: at most 20 branches"));
            }
            names.push(name);
        }
        if names.len() == 1 {
            return Err(self.cursor.expected("\",\" and another branch"));
        }
        Ok(Parsed::Fork(names))
    }

    fn branch(&mut self) -> Result<Parsed> {
        let Some(name) = self.cursor.name() else {
            return Err(self.cursor.expected("the name of a branch"));
        };
        self.opening_brace()?;
        Ok(Parsed::Branch(name))
    }

    fn opening_brace(&mut self) -> Result<()> {
        if self.cursor.take("{") { Ok(()) } else { Err(self.cursor.expected("\"{\"")) }
    }

    fn end(&mut self) -> Result<Parsed> {
        self.cursor.choice(&[("as-is", ())])?;
        Ok(Parsed::End)
    }

    /// Reads `"Who wins?" n1 n2 n3 = n2`.
    fn ask(&mut self) -> Result<StepKind> {
        let question = self.cursor.string("the question in quotes")?;
        let mut options: Vec<String> = Vec::new();
        while !self.cursor.at_end() && self.cursor.raw() != "=" {
            let option = self.cursor.word("")?;
            if options.contains(&option.text) {
                return Err(self.cursor.about(&option, "is there twice"));
            }
            if options.len() == MOST_CHOICES {
                return Err(self.cursor.about(&option, "is one too many: at most 20 choices"));
            }
            options.push(option.text);
        }
        if options.len() < 2 {
            return Err(self.cursor.expected("at least two choices"));
        }
        if !self.cursor.take("=") {
            return Err(self.cursor.expected("\" = \" and the right choice"));
        }
        if self.cursor.at_end() {
            return Err(self.cursor.expected("the right choice"));
        }
        let answer = self.cursor.word("")?;
        if !options.contains(&answer.text) {
            let known: Vec<&str> = options.iter().map(String::as_str).collect();
            let what = format!("is none of the choices: {}", alternatives(&known));
            return Err(self.cursor.about(&answer, &what));
        }
        Ok(StepKind::Ask { question, options, answer: answer.text })
    }
}

/// What may stand behind a client's request.
#[derive(Default)]
struct Options {
    via: Option<NodeRef>,
    name: Option<Word>,
    /// `Some(false)` is `linearizable`, which is also what holds if nothing is said.
    stale: Option<bool>,
    nowait: bool,
}
