//! What is wrong with a script, and where. Owns the wording's frame and the picture with the caret;
//! knows nothing of the language.
//!
//! The one idea: a complaint is a place, a sentence, and at best the word that was meant.

use std::fmt::Write;

/// Something that makes a script, or a line of it, impossible to run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{line}:{column}: {}", self.sentence())]
pub struct ScriptError {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The word at that place; empty where the line ends.
    pub found: String,
    /// What is wrong with it, as a sentence without a full stop.
    pub message: String,
    /// The word that was probably meant.
    pub suggestion: Option<String>,
}

impl ScriptError {
    /// The sentence without its place: `"crsh" is unknown: did you mean "crash"?`
    fn sentence(&self) -> String {
        match &self.suggestion {
            Some(meant) => format!("{}: did you mean {}?", self.message, quoted(meant)),
            None => self.message.clone(),
        }
    }

    /// The sentence with the line that it is about, and a caret below the place. `text` is the
    /// whole script, `file` the name that is shown for it.
    ///
    /// ```text
    /// c.lab:12:3: "crsh" is unknown: did you mean "crash"?
    ///   12 |   crsh n1
    ///      |   ^
    /// ```
    pub fn render(&self, file: &str, text: &str) -> String {
        let mut out = format!("{file}:{self}");
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let Some(source) = text.lines().nth(self.line.saturating_sub(1)) else { return out };
        let shown: String = source.chars().map(harmless).collect();
        let number = format!("{:>4}", self.line);
        // A tab stays a tab, so that the caret stands below its character however wide tabs are.
        let indent: String = source
            .chars()
            .chain(std::iter::repeat(' '))
            .take(self.column.saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        write!(out, "\n{number} | {shown}\n{:1$} | {indent}^", "", number.len())
            .expect("a String takes all that is written to it");
        out
    }
}

/// `word` in quotes, short and harmless enough for a terminal.
pub(super) fn quoted(word: &str) -> String {
    const LONGEST: usize = 40;
    let mut shown: String = word.chars().take(LONGEST).map(harmless).collect();
    if word.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// Scripts come from strangers: what could steer a terminal is shown as a replacement character.
fn harmless(c: char) -> char {
    if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }
}
