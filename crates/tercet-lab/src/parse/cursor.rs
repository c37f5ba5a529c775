//! A place in a line, and the small things that can be read there: names, words, strings, numbers,
//! durations. It knows no statement and no node.
//!
//! The one idea: there are no tokens. `=` is an operator in `term=2` and a part of the value in
//! `submit x=1`, so each statement asks the cursor for what may stand next.

use std::{rc::Rc, time::Duration};

use super::error::{ScriptError, quoted};
use super::words::nearest;

/// What reading gives.
pub(super) type Result<T> = std::result::Result<T, ScriptError>;

/// A line without its comment, and a place in it.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    line: usize,
    /// The line without comment and without space at its end. Shared, as looking ahead is done with
    /// a copy of the cursor, and lines can be long.
    chars: Rc<[char]>,
    /// Index of the next character. At most `chars.len()`.
    at: usize,
}

/// A word with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Word {
    /// What it says, without quotes and escapes.
    pub(super) text: String,
    /// Whether it begins with a quote, and so is a value whatever it says.
    pub(super) quoted: bool,
    /// Where it begins, from 1.
    pub(super) column: usize,
}

/// What a complaint says beside its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Complaint {
    /// The sentence.
    pub(super) message: String,
    /// The word that was probably meant.
    pub(super) suggestion: Option<String>,
}

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        Self { message, suggestion: None }
    }
}

impl Cursor {
    /// At the beginning of a line; `line` counts from 1.
    pub(super) fn new(line: usize, text: &str) -> Self {
        let mut chars: Vec<char> = text.chars().collect();
        chars.truncate(comment_start(&chars));
        while chars.last().is_some_and(|c| c.is_whitespace()) {
            chars.pop();
        }
        Self { line, chars: chars.into(), at: 0 }
    }

    /// The line's number, from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The whole line as it was written, without comment and surrounding space.
    pub(super) fn text(&self) -> String {
        self.chars.iter().skip_while(|c| c.is_whitespace()).collect()
    }

    /// Goes to the next character that is no space, and says its column.
    pub(super) fn column(&mut self) -> usize {
        self.skip_space();
        self.at + 1
    }

    /// Whether nothing is left.
    pub(super) fn at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.chars.len()
    }

    /// What was read from `column` on.
    pub(super) fn text_since(&self, column: usize) -> String {
        self.chars[column - 1..self.at].iter().collect()
    }

    /// Whether a space or the end stands right here.
    pub(super) fn at_gap(&self) -> bool {
        self.chars.get(self.at).is_none_or(|c| c.is_whitespace())
    }

    /// What stands next up to a space, as it is written; empty at the end.
    pub(super) fn raw(&mut self) -> String {
        self.skip_space();
        self.chars[self.at..].iter().take_while(|c| !c.is_whitespace()).collect()
    }

    /// Whether `symbol` stands next.
    pub(super) fn sees(&mut self, symbol: &str) -> bool {
        self.skip_space();
        self.sees_glued(symbol)
    }

    /// Reads `symbol` if it stands next.
    pub(super) fn take(&mut self, symbol: &str) -> bool {
        self.skip_space();
        self.take_glued(symbol)
    }

    /// Reads `symbol` if it stands next, without a space before it.
    pub(super) fn take_glued(&mut self, symbol: &str) -> bool {
        let there = self.sees_glued(symbol);
        if there {
            self.at += symbol.chars().count();
        }
        there
    }

    /// The name that stands next, without reading it.
    pub(super) fn peek_name(&mut self) -> Option<String> {
        self.skip_space();
        let name: String = self.chars[self.at..self.name_end()].iter().collect();
        (!name.is_empty()).then_some(name)
    }

    /// Reads a name: a letter, then letters, digits, `_`, and `-` where it does not begin an arrow.
    pub(super) fn name(&mut self) -> Option<Word> {
        let text = self.peek_name()?;
        let column = self.at + 1;
        self.at = self.name_end();
        Some(Word { text, quoted: false, column })
    }

    /// Reads the name that stands next if it is `word`.
    pub(super) fn take_name(&mut self, word: &str) -> bool {
        let there = self.peek_name().is_some_and(|name| name == word);
        if there {
            self.name();
        }
        there
    }

    /// Reads `key=` or `key =` if it stands next.
    pub(super) fn take_key(&mut self, key: &str) -> bool {
        let mut ahead = self.clone();
        let there = ahead.take_name(key) && ahead.take("=");
        if there {
            *self = ahead;
        }
        there
    }

    /// Reads a word up to a space or to a character of `stops`; quoted parts may hold both.
    pub(super) fn word(&mut self, stops: &str) -> Result<Word> {
        let column = self.column();
        let quoted = self.sees_glued("\"");
        let mut text = String::new();
        while let Some(&c) = self.chars.get(self.at) {
            match c {
                '"' => self.quotation(&mut text)?,
                _ if c.is_whitespace() || stops.contains(c) => break,
                _ => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
        Ok(Word { text, quoted, column })
    }

    /// Reads a string in quotes; `what` says what for.
    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        if !self.sees("\"") {
            return Err(self.expected(what));
        }
        let mut text = String::new();
        self.quotation(&mut text)?;
        Ok(text)
    }

    /// Reads a whole number.
    pub(super) fn number(&mut self, what: &str) -> Result<u64> {
        let column = self.column();
        let text = self.alphanumeric();
        if text.is_empty() {
            return Err(self.expected(what));
        }
        text.parse().map_err(|_not_a_number| {
            self.error(column, &text, format!("expected {what}, found {}", quoted(&text)).into())
        })
    }

    /// Reads a whole number from 1 to `u32::MAX`.
    pub(super) fn count(&mut self, what: &str) -> Result<u32> {
        let column = self.column();
        let number = self.number(what)?;
        match u32::try_from(number) {
            Ok(count) if count > 0 => Ok(count),
            Ok(_) | Err(_) => Err(self.error(
                column,
                &number.to_string(),
                format!("expected {what} of at least 1, found \"{number}\"").into(),
            )),
        }
    }

    /// Reads a duration: a whole number with its unit.
    pub(super) fn duration(&mut self) -> Result<Duration> {
        const WHAT: &str = "a duration like 300ms, 2s or 1m";
        // Longer is a slip of the finger, and would keep a real run busy for ever.
        const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
        let column = self.column();
        let text: String = self.chars[self.at..]
            .iter()
            .take_while(|c| c.is_ascii_alphanumeric() || **c == '.')
            .collect();
        if text.is_empty() {
            return Err(self.expected(WHAT));
        }
        self.at += text.len();
        let Some(duration) = read_duration(&text) else {
            let message = format!("expected {WHAT}, found {}", quoted(&text));
            return Err(self.error(column, &text, message.into()));
        };
        if duration > LONGEST {
            let message = format!("{} is too long: at most 30 days", quoted(&text));
            return Err(self.error(column, &text, message.into()));
        }
        Ok(duration)
    }

    /// Reads one of the names of `table`.
    pub(super) fn choice<T: Copy>(&mut self, table: &[(&str, T)]) -> Result<T> {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        let Some(word) = self.name() else { return Err(self.expected(&alternatives(&names))) };
        table
            .iter()
            .find(|(name, _)| *name == word.text)
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| self.unknown(&word, &names))
    }

    /// Whether anything is left; then the word `name` must stand there, and is read.
    pub(super) fn optional(&mut self, name: &str) -> Result<bool> {
        if self.at_end() { Ok(false) } else { self.choice(&[(name, true)]) }
    }

    /// Makes sure that nothing is left.
    pub(super) fn done(&mut self) -> Result<()> {
        if self.at_end() {
            return Ok(());
        }
        let (column, found) = (self.column(), self.raw());
        Err(self.error(column, &found, format!("{} is too much here", quoted(&found)).into()))
    }

    /// The complaint that something else should stand here.
    pub(super) fn expected(&mut self, what: &str) -> ScriptError {
        let (column, found) = (self.column(), self.raw());
        let instead =
            if found.is_empty() { "the end of the line".to_owned() } else { quoted(&found) };
        self.error(column, &found, format!("expected {what}, found {instead}").into())
    }

    /// The complaint that `word` is none of `known`, with the one that was meant, or with all of
    /// them if they are few.
    pub(super) fn unknown(&self, word: &Word, known: &[&str]) -> ScriptError {
        const FEW: usize = 15;
        let suggestion = nearest(&word.text, known);
        let mut message = format!("{} is unknown", quoted(&word.text));
        if suggestion.is_none() && known.len() <= FEW {
            message = format!("{message}: expected {}", alternatives(known));
        }
        self.error(word.column, &word.text, Complaint { message, suggestion })
    }

    /// A complaint about `found` at `column` of this line.
    pub(super) fn error(&self, column: usize, found: &str, complaint: Complaint) -> ScriptError {
        ScriptError {
            line: self.line,
            column,
            found: found.to_owned(),
            message: complaint.message,
            suggestion: complaint.suggestion,
        }
    }

    /// A complaint about `word`, whose sentence begins with it.
    pub(super) fn about(&self, word: &Word, what: &str) -> ScriptError {
        self.error(word.column, &word.text, format!("{} {what}", quoted(&word.text)).into())
    }

    fn skip_space(&mut self) {
        while self.chars.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
    }

    fn sees_glued(&self, symbol: &str) -> bool {
        symbol.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c))
    }

    fn name_end(&self) -> usize {
        let mut end = self.at;
        while let Some(&c) = self.chars.get(end) {
            let arrow = c == '-' && self.chars.get(end + 1) == Some(&'>');
            let inner = c.is_alphanumeric() || c == '_' || (c == '-' && !arrow);
            if (end == self.at && !c.is_alphabetic()) || !inner {
                break;
            }
            end += 1;
        }
        end
    }

    fn alphanumeric(&mut self) -> String {
        let text: String =
            self.chars[self.at..].iter().take_while(|c| c.is_alphanumeric()).collect();
        self.at += text.chars().count();
        text
    }

    /// Reads a quotation, whose opening quote stands next, and adds what it says to `text`.
    fn quotation(&mut self, text: &mut String) -> Result<()> {
        let opening = self.at;
        self.at += 1;
        while let Some(&c) = self.chars.get(self.at) {
            self.at += 1;
            match c {
                '"' => return Ok(()),
                '\\' => text.push(self.escape()?),
                _ => text.push(c),
            }
        }
        self.at = opening;
        let found = self.raw();
        Err(self.error(opening + 1, &found, "the quotation is not closed".to_owned().into()))
    }

    /// Reads what stands behind a backslash.
    fn escape(&mut self) -> Result<char> {
        match self.chars.get(self.at) {
            Some(&c @ ('"' | '\\')) => {
                self.at += 1;
                Ok(c)
            }
            other => {
                let found: String = std::iter::once('\\').chain(other.copied()).collect();
                let message = "only \\\" and \\\\ can stand behind a backslash".to_owned();
                Err(self.error(self.at, &found, message.into()))
            }
        }
    }
}

/// `a, b or c`.
pub(super) fn alternatives(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [only] => format!("\"{only}\""),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Where the comment begins: at a `#` that begins a word, outside of quotes. `deliver #12` is none.
fn comment_start(chars: &[char]) -> usize {
    let mut quoted = false;
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let begins_word = at == 0 || chars[at - 1].is_whitespace();
        match c {
            '\\' if quoted => at += 1,
            '"' => quoted = !quoted,
            '#' if !quoted && begins_word && !is_message_number(chars, at) => return at,
            _ => {}
        }
        at += 1;
    }
    chars.len()
}

/// Whether the `#` at `at` is that of `deliver #12` or `discard #12`.
fn is_message_number(chars: &[char], at: usize) -> bool {
    let before: String = chars[..at].iter().collect();
    matches!(before.trim(), "deliver" | "discard")
        && chars.get(at + 1).is_some_and(char::is_ascii_digit)
}

fn read_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}
