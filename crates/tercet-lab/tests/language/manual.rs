//! docs/lab.md says what is true of the language.

use tercet_lab::ast::EVENT_KINDS;
use tercet_lab::{lint, parse, parse_step};

const MANUAL: &str = include_str!("../../../../docs/lab.md");

/// What stands between a heading and the next of the same rank.
fn section(heading: &str) -> &'static str {
    let (_, rest) = MANUAL.split_once(&format!("\n## {heading}\n")).expect("the heading");
    rest.split("\n## ").next().expect("split gives at least one part")
}

#[test]
fn the_example_is_a_portable_script() {
    let text = section("An example").split("```").nth(1).expect("a block");
    let script = parse(text).expect("a script without mistakes");
    assert_eq!(lint(&script), []);
    assert_eq!(script.header.title, "The leader dies");
}

/// The first cell of each row of a table of lines is a line of the language.
#[test]
fn example_lines_can_be_typed() {
    let mut count = 0;
    for heading in [
        "What clients do",
        "What happens to nodes",
        "What happens to links",
        "Messages by hand",
        "Time",
        "What must be true",
    ] {
        for row in section(heading).lines().filter(|row| row.starts_with("| `")) {
            let line = row[3..].split('`').next().expect("split gives at least one part");
            let line = line.replace("\\|", "|");
            let is_block = line.ends_with('{');
            let is_event = EVENT_KINDS.iter().any(|(kind, _)| *kind == line);
            if is_block || is_event {
                continue;
            }
            parse_step(&line, 3).unwrap_or_else(|error| panic!("{line}: {error}"));
            count += 1;
        }
    }
    assert!(count > 50, "only {count} lines were found");
}

#[test]
fn every_event_is_listed() {
    let section = section("What must be true");
    for (kind, fields) in EVENT_KINDS {
        let fields: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
        let fields = if fields.is_empty() { "–".to_owned() } else { fields.join(", ") };
        assert!(section.contains(&format!("| `{kind}` | {fields} |")), "{kind}");
    }
}
