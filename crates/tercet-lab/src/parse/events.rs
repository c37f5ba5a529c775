//! How events are written: `append_rejected(follower=n2 prev=3)`, and as a line of a trace without
//! parentheses. Knows the kinds and their fields, and no statement.
//!
//! The one idea: a pattern that no event can ever fit is refused, not counted as zero.

use super::cursor::Result;
use super::nodes::Statement;
use super::words::node_name;
use crate::ast::{EVENT_KINDS, EventPattern, FieldValue};

/// The fields that every kind has.
const COMMON_FIELDS: &[&str] = &["node", "term"];

impl Statement<'_> {
    /// Reads a line of `expect trace`.
    pub(super) fn event_line(mut self) -> Result<EventPattern> {
        let (kind, known) = self.event_kind()?;
        if self.cursor.sees("(") {
            self.event_in_parentheses(kind, known)
        } else {
            let fields = self.event_fields(&kind, known)?;
            self.cursor.done()?;
            Ok(EventPattern { kind, fields })
        }
    }

    /// Reads `kind` or `kind(field=value …)`.
    pub(super) fn event(&mut self) -> Result<EventPattern> {
        let (kind, known) = self.event_kind()?;
        if self.cursor.sees("(") {
            self.event_in_parentheses(kind, known)
        } else {
            Ok(EventPattern { kind, fields: Vec::new() })
        }
    }

    fn event_kind(&mut self) -> Result<(String, &'static [&'static str])> {
        let Some(word) = self.cursor.name() else {
            return Err(self.cursor.expected("a kind of event"));
        };
        match EVENT_KINDS.iter().find(|(kind, _)| *kind == word.text) {
            Some((_, fields)) => Ok((word.text, fields)),
            None => {
                let kinds: Vec<&str> = EVENT_KINDS.iter().map(|(kind, _)| *kind).collect();
                Err(self.cursor.unknown(&word, &kinds))
            }
        }
    }

    fn event_in_parentheses(&mut self, kind: String, known: &[&str]) -> Result<EventPattern> {
        let opened = self.cursor.take("(");
        assert!(opened, "the caller saw the parenthesis");
        let fields = self.event_fields(&kind, known)?;
        if !self.cursor.take(")") {
            return Err(self.cursor.expected("a field or \")\""));
        }
        Ok(EventPattern { kind, fields })
    }

    /// Reads `field=value` until something else comes.
    fn event_fields(&mut self, kind: &str, known: &[&str]) -> Result<Vec<(String, FieldValue)>> {
        let mut fields: Vec<(String, FieldValue)> = Vec::new();
        while let Some(field) = self.cursor.name() {
            if !known.contains(&field.text.as_str())
                && !COMMON_FIELDS.contains(&field.text.as_str())
            {
                let all: Vec<&str> = known.iter().chain(COMMON_FIELDS).copied().collect();
                let mut error = self.cursor.unknown(&field, &all);
                error.message = format!("{kind}: {}", error.message);
                return Err(error);
            }
            if fields.iter().any(|(earlier, _)| *earlier == field.text) {
                return Err(self.cursor.about(&field, "is there twice"));
            }
            if !self.cursor.take("=") {
                return Err(self.cursor.expected("\"=\""));
            }
            fields.push((field.text, self.field_value()?));
        }
        Ok(fields)
    }

    fn field_value(&mut self) -> Result<FieldValue> {
        let mut ahead = self.cursor.clone();
        let word = ahead.word("(),")?;
        let base = word.text.split('.').next().unwrap_or_default();
        let names_node = base.starts_with('$') || base == "leader" || node_name(base).is_some();
        if names_node && !word.quoted {
            let node = self.node()?;
            let dotted = word.text.contains('.');
            return if dotted {
                self.number_of(node).map(FieldValue::Number)
            } else {
                Ok(FieldValue::Node(node))
            };
        }
        if word.text.is_empty() && !word.quoted {
            return Err(self.cursor.expected("a value"));
        }
        self.cursor = ahead;
        Ok(FieldValue::Text(word.text))
    }
}
