//! Where the shell's lines come from: a terminal with history and completion, or a pipe.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};

use super::WORDS;

/// What completion may offer now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offered {
    pub(crate) up: Vec<String>,
    pub(crate) down: Vec<String>,
    pub(crate) paused: Vec<String>,
    /// Held messages: `#12`.
    pub(crate) held: Vec<String>,
}

/// Lines of a person, or of a script.
pub(crate) trait Input {
    /// The next line; `None` at the end.
    fn line(&mut self, prompt: &str, offered: &Offered) -> anyhow::Result<Option<String>>;
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
}

/// Completes words, and the nodes and messages for which a word makes sense now.
#[derive(Helper, Hinter, Highlighter, Validator)]
struct Completion(Offered);

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
        let Offered { up, down, paused, held } = &self.0;
        let all = || up.iter().chain(down).chain(paused).cloned().collect();
        let candidates: Vec<String> = match typed[..start].split_whitespace().next() {
            None | Some("help") => WORDS.iter().map(|(word, ..)| (*word).to_owned()).collect(),
            Some("crash" | "pause" | "elect" | "transfer" | "set" | "isolate") => up.clone(),
            Some("restart" | "tear") => down.clone(),
            Some("resume") => paused.clone(),
            Some("deliver" | "discard") => held.clone(),
            Some("list") => vec!["held".to_owned()],
            Some("record") => vec!["start".to_owned()],
            Some("wipe" | "cut" | "hold" | "delay" | "freeze" | "thaw" | "logs" | "why") => all(),
            Some(_) => Vec::new(),
        };
        let fits =
            candidates.into_iter().filter(|name| name.starts_with(&typed[start..])).collect();
        Ok((start, fits))
    }
}
