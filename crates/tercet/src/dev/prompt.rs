//! Where the lines come from: a terminal with history and completion, or a pipe.

use std::io::BufRead as _;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Context, Editor, Helper, Highlighter, Hinter, Validator};

use super::shell::{COMMANDS, Next, Shell};
use crate::output;

/// Completes commands, and the nodes for which a command makes sense now.
#[derive(Helper, Hinter, Highlighter, Validator)]
struct Completion {
    running: Vec<String>,
    down: Vec<String>,
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
        let all = || self.running.iter().chain(&self.down).cloned().collect();
        let candidates: Vec<String> = match typed[..start].split_whitespace().next() {
            None | Some("help") => COMMANDS.iter().map(|(name, ..)| (*name).to_owned()).collect(),
            Some("crash" | "transfer") => self.running.clone(),
            Some("restart") => self.down.clone(),
            Some("wipe") => all(),
            Some("json") => vec!["on".to_owned(), "off".to_owned()],
            Some(_) => Vec::new(),
        };
        let fits =
            candidates.into_iter().filter(|name| name.starts_with(&typed[start..])).collect();
        Ok((start, fits))
    }
}

/// Says whether a command failed.
pub(crate) fn interactive(shell: &mut Shell) -> anyhow::Result<bool> {
    let mut editor: Editor<Completion, DefaultHistory> = Editor::new()?;
    let history = shell.cluster().data(1).with_file_name(".history");
    // The first time there is none.
    let _ = editor.load_history(&history);
    output::note("help lists the commands; Ctrl-D or quit ends");
    let mut failed = false;
    loop {
        tell_ended(shell);
        let (running, down): (Vec<usize>, Vec<usize>) = {
            let mut cluster = shell.cluster();
            (1..=cluster.count()).partition(|id| cluster.is_running(*id))
        };
        let names = |ids: Vec<usize>| ids.into_iter().map(|id| format!("n{id}")).collect();
        editor.set_helper(Some(Completion { running: names(running), down: names(down) }));
        let line = match editor.readline("tercet> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => break,
            Err(error) => return Err(error.into()),
        };
        // A history that cannot be kept is no reason to stop.
        let _ = editor.add_history_entry(&line);
        match shell.run(&line) {
            Ok(Next::Go) => {}
            Ok(Next::Quit) => break,
            Err(error) => {
                failed = true;
                output::error(&format!("{error:#}"));
            }
        }
    }
    let _ = editor.save_history(&history);
    Ok(failed)
}

/// Runs every line, also after one that failed; says whether one did.
pub(crate) fn piped(shell: &mut Shell) -> anyhow::Result<bool> {
    let mut failed = false;
    for line in std::io::stdin().lock().lines() {
        tell_ended(shell);
        match shell.run(&line?) {
            Ok(Next::Go) => {}
            Ok(Next::Quit) => break,
            Err(error) => {
                failed = true;
                output::error(&format!("{error:#}"));
            }
        }
    }
    Ok(failed)
}

fn tell_ended(shell: &Shell) {
    let ended = shell.cluster().take_ended();
    for (id, why) in ended {
        output::note(&format!("n{id} ended by itself ({why}): restart n{id} starts it again"));
    }
}
