//! A `sequenceDiagram` of Mermaid: steps as notes over all nodes, events as notes over theirs, and
//! what was needed of another node as an arrow above the event.

use super::{Carries, Diagram, Row};

pub(super) fn write(diagram: &Diagram) -> String {
    let mut text = "sequenceDiagram\n".to_owned();
    if !diagram.title.is_empty() {
        text = format!("---\ntitle: {}\n---\n{text}", quoted(&diagram.title));
    }
    for slot in 1..=diagram.nodes {
        text.push_str(&format!("    participant n{slot}\n"));
    }
    let all = if diagram.nodes == 1 { "n1".to_owned() } else { format!("n1,n{}", diagram.nodes) };
    for row in &diagram.rows {
        match row {
            Row::Step(step) => text.push_str(&format!("    Note over {all}: {}\n", plain(step))),
            Row::Mark(place) => {
                let mark = &diagram.marks[*place];
                let node = mark.event.node;
                if let Some(needed) = &mark.needed {
                    let from = diagram.marks[needed.mark].event.node;
                    let arrow = if needed.carries == Carries::Refusal { "--x" } else { "->>" };
                    text.push_str(&format!("    {from}{arrow}{node}: {}\n", plain(&needed.label)));
                }
                text.push_str(&format!("    Note over {node}: {}\n", plain(&mark.event.text)));
            }
        }
    }
    text
}

/// Text without what Mermaid reads as the end of a line, a code or a comment.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '#' => plain.push_str("#35;"),
            ';' => plain.push_str("#59;"),
            '%' => plain.push_str("#37;"),
            '<' => plain.push_str("#lt;"),
            '>' => plain.push_str("#gt;"),
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

/// A string of the YAML head.
fn quoted(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}
