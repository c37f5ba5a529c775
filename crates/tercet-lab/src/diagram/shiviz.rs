//! A log for ShiViz: two lines an event, the sentence and the node's vector clock. The head of the
//! file is the expression that parses it, and an empty line: there is one execution.

use super::Diagram;

/// The expression that parses the log, with the groups that ShiViz asks for.
pub(super) const PARSER: &str = r"(?<event>.*)\n(?<host>\S*) (?<clock>{.*})";

pub(super) fn write(diagram: &Diagram) -> String {
    let mut text = format!("{PARSER}\n\n");
    for mark in &diagram.marks {
        let known: Vec<String> = (1..)
            .zip(&mark.clock)
            .filter(|(_, count)| **count > 0)
            .map(|(slot, count)| format!("\"n{slot}\":{count}"))
            .collect();
        let sentence = mark.event.text.replace('\n', " ");
        text.push_str(&format!("{sentence}\n{} {{{}}}\n", mark.event.node, known.join(", ")));
    }
    text
}
