//! Where the shell's lines come from: a terminal with history and completion, a pipe, or the command
//! line.

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};
use tercet_lab::diagram::Format;
use tercet_lab::{library, mutant_names};

use super::words::{Kind, WORDS};

/// What completion may offer now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offered {
    pub(crate) kind: Kind,
    pub(crate) up: Vec<String>,
    pub(crate) down: Vec<String>,
    pub(crate) paused: Vec<String>,
    /// Held messages: `#12`.
    pub(crate) held: Vec<String>,
    /// The branches that one can switch to.
    pub(crate) branches: Vec<String>,
}

/// Lines of a person, or of a script.
pub(crate) trait Input {
    /// The next line; `None` at the end.
    fn line(&mut self, prompt: &str, offered: &Offered) -> anyhow::Result<Option<String>>;
    /// Whether a person types them.
    fn is_person(&self) -> bool {
        false
    }
}

/// Lines of standard input that is no terminal.
#[derive(Debug)]
pub(crate) struct Piped;

impl Input for Piped {
    fn line(&mut self, _: &str, _: &Offered) -> anyhow::Result<Option<String>> {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line)?;
        Ok((read > 0).then(|| line.trim_end_matches(['\n', '\r']).to_owned()))
    }
}

/// Lines that are known: also the answers to what a line asks.
#[derive(Debug)]
pub(crate) struct Given(pub(crate) VecDeque<String>);

impl Input for Given {
    fn line(&mut self, _: &str, _: &Offered) -> anyhow::Result<Option<String>> {
        Ok(self.0.pop_front())
    }
}

/// A terminal.
pub(crate) struct Terminal {
    editor: Editor<Completion, DefaultHistory>,
    history: PathBuf,
}

impl Terminal {
    pub(crate) fn new(history: &Path) -> anyhow::Result<Self> {
        let mut editor = Editor::new()?;
        // The first time there is none.
        let _ = editor.load_history(history);
        Ok(Self { editor, history: history.to_owned() })
    }
}

impl Input for Terminal {
    fn line(&mut self, prompt: &str, offered: &Offered) -> anyhow::Result<Option<String>> {
        self.editor.set_helper(Some(Completion(offered.clone())));
        match self.editor.readline(prompt) {
            Ok(line) => {
                // A history that cannot be kept is no reason to stop.
                let _ = self.editor.add_history_entry(&line);
                let _ = self.editor.save_history(&self.history);
                Ok(Some(line))
            }
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn is_person(&self) -> bool {
        true
    }
}

/// Completes words, and what makes sense behind them now.
#[derive(Helper, Hinter, Highlighter, Validator)]
struct Completion(Offered);

impl Offered {
    /// What may stand behind these words.
    fn behind(&self, words: &[&str]) -> Vec<String> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let all = || {
            let mut all: Vec<String> =
                self.up.iter().chain(&self.down).chain(&self.paused).cloned().collect();
            all.sort_unstable();
            all
        };
        let Some((first, rest)) = words.split_first() else {
            return self.words();
        };
        let of_shell = WORDS.iter().any(|word| word.name == *first && word.is_for(self.kind));
        if !of_shell {
            return Vec::new();
        }
        match (*first, rest) {
            ("help", []) => self.words(),
            ("set", [_]) => texts(&["heartbeat=", "disk=slow", "disk=full", "disk=ok", "clock=+"]),
            ("set", [_, heartbeat]) if heartbeat.starts_with("heartbeat=") => {
                texts(&["until=stepdown"])
            }
            ("wipe", [_]) if self.kind != Kind::Plain => texts(&["log", "meta", "all"]),
            ("elect", [_]) => texts(&["win"]),
            ("tear", [_]) => texts(&["last"]),
            ("crash" | "pause" | "elect" | "transfer" | "set" | "isolate", _) => self.up.clone(),
            ("restart" | "tear", _) => self.down.clone(),
            ("resume", _) => self.paused.clone(),
            ("deliver" | "discard", _) => self.held.clone(),
            ("list", []) => texts(&["held"]),
            ("record", []) => texts(&["start"]),
            ("json", []) => texts(&["on", "off"]),
            ("profile", []) => texts(&["paper", "modern"]),
            ("export", []) => {
                let formats = Format::ALL.iter().map(|(name, _)| (*name).to_owned());
                std::iter::once("trace".to_owned()).chain(formats).collect()
            }
            ("play", []) => library::SCENARIOS.iter().map(|it| it.name.to_owned()).collect(),
            ("switch", []) => self.branches.clone(),
            ("mutant", []) => mutant_names().map(str::to_owned).collect(),
            ("mutant", [_]) => texts(&["on", "off"]),
            ("expect" | "wait", []) => {
                let mut begin: Vec<String> =
                    texts(&["leader", "logs", "commit", "invariants", "all"]);
                begin.extend(all());
                begin
            }
            ("freeze" | "thaw", _) => {
                let nodes = all().into_iter().chain(["all".to_owned()]);
                nodes.map(|node| format!("{node}.timers")).collect()
            }
            ("wipe" | "cut" | "reset", _) | ("hold" | "delay" | "why", []) => all(),
            _ => Vec::new(),
        }
    }

    fn words(&self) -> Vec<String> {
        let words = WORDS.iter().filter(|word| word.is_for(self.kind));
        words.map(|word| word.name.to_owned()).collect()
    }
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        let start = typed.rfind(' ').map_or(0, |space| space + 1);
        let words: Vec<&str> = typed[..start].split_whitespace().collect();
        let candidates = self.0.behind(&words).into_iter();
        Ok((start, candidates.filter(|name| name.starts_with(&typed[start..])).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(kind: Kind, line: &str) -> Vec<String> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let offered = Offered {
            kind,
            up: names(&["n1", "n3"]),
            down: names(&["n2"]),
            paused: Vec::new(),
            held: names(&["#4"]),
            branches: names(&["main", "what-if"]),
        };
        let completion = Completion(offered);
        let history = DefaultHistory::new();
        completion.complete(line, line.len(), &Context::new(&history)).expect("it is pure").1
    }

    #[test]
    fn only_what_makes_sense_now_is_offered() {
        assert_eq!(offered(Kind::Real, "restart "), ["n2"]);
        assert_eq!(offered(Kind::Real, "crash "), ["n1", "n3"]);
        assert_eq!(offered(Kind::Real, "deliver "), ["#4"]);
        assert_eq!(offered(Kind::Sim, "switch w"), ["what-if"]);
        assert_eq!(offered(Kind::Sim, "export s"), ["svg", "shiviz"]);
        assert_eq!(offered(Kind::Sim, "play figure-8-w"), ["figure-8-without-the-rule"]);
        assert_eq!(offered(Kind::Sim, "thaw n2"), ["n2.timers"]);
        assert_eq!(offered(Kind::Real, "profile p"), ["paper"]);
        assert_eq!(offered(Kind::Sim, "mutant commit"), ["commit-old-terms"]);
    }

    #[test]
    fn words_are_offered_where_they_are_understood() {
        assert_eq!(offered(Kind::Sim, "und"), ["undo"]);
        assert!(offered(Kind::Real, "und").is_empty());
        assert!(offered(Kind::Plain, "cu").is_empty() && offered(Kind::Plain, "cut ").is_empty());
        assert_eq!(offered(Kind::Plain, "subm"), ["submit"]);
        assert_eq!(offered(Kind::Plain, "wipe n2"), ["n2"]);
    }
}
