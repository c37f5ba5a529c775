//! From text to a [`Script`]. Owns the language: its words, what may stand where, and what is
//! refused before anything starts. Knows no world and runs nothing.
//!
//! The one idea: whoever writes a script learns all that is wrong with it at once, each with its
//! place and, where a word was misspelt, with the word that was meant.
//!
//! `document` goes through the lines, `header` and `given` read what is set up, `statements`,
//! `faults`, `predicates` and `events` read the steps, `facts` remembers what was named and who is
//! down, `cursor` reads characters, `words` is the vocabulary.

mod cursor;
mod document;
mod error;
mod events;
mod facts;
mod faults;
mod given;
mod header;
mod nodes;
mod predicates;
mod statements;
mod words;

pub use error::ScriptError;

use crate::ast::{Script, Step};
use cursor::Cursor;
use facts::Facts;
use nodes::Statement;
use statements::Parsed;

/// Reads a script.
///
/// # Errors
/// What is wrong with it, in the order of the lines: at most 20 complaints, at least one. Nothing
/// of such a script can be run; the author must correct it.
pub fn parse(text: &str) -> Result<Script, Vec<ScriptError>> {
    document::read(text)
}

/// The names of the rules that `mutant` switches.
pub fn mutant_names() -> impl Iterator<Item = &'static str> {
    words::MUTANTS.iter().map(|(name, _)| *name)
}

/// Reads one line of an interactive shell, for a cluster of `nodes` nodes. Whether variables,
/// requests and marks exist, and who is down, is for the one who runs it to know.
///
/// # Errors
/// The first thing that is wrong with the line. Blocks, `end` and header words are refused.
pub fn parse_step(line: &str, nodes: u8) -> Result<Step, ScriptError> {
    let mut cursor = Cursor::new(1, line);
    if line.trim().contains('\n') {
        let found = cursor.raw();
        return Err(cursor.error(1, &found, "expected a single line".to_owned().into()));
    }
    let (text, column, found) = (cursor.text(), cursor.column(), cursor.raw());
    let place = cursor.clone();
    let mut facts = Facts::new(nodes, true);
    match Statement::new(cursor, &mut facts).read()? {
        Parsed::Step(kind) => Ok(Step { line: 1, text, kind }),
        Parsed::Trace { .. }
        | Parsed::Fork(_)
        | Parsed::Branch(_)
        | Parsed::Close
        | Parsed::End => {
            let message = format!("{} needs a script", error::quoted(&found));
            Err(place.error(column, &found, message.into()))
        }
    }
}
