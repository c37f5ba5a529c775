//! The language of the lab.

use tercet_lab::{library, lint, parse, parse_step};

use super::{KIB, MIB};
use crate::Target;

pub(super) const SCRIPT: Target = Target {
    name: "lab_script",
    about: "a script: read and linted, or refused with places inside of it; each step stands for \
            itself",
    run,
    seeds,
    words,
    bytes_max: 16 * KIB,
    memory_max: 4 * MIB,
};

fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match parse(&text) {
        Ok(script) => {
            for warning in lint(&script) {
                assert!((1..=text.lines().count()).contains(&warning.line), "{warning}");
            }
            assert_eq!(parse(&text).as_ref(), Ok(&script), "the same text is the same script");
            let framed = format!("\n# a comment\n{}", text.replace('\n', "\r\n"));
            if !text.contains('\r') && script.golden.is_none() {
                assert!(parse(&framed).is_ok(), "line ends and comments do not matter");
            }
        }
        Err(errors) => {
            assert!((1..=20).contains(&errors.len()), "{} complaints", errors.len());
            let places: Vec<_> = errors.iter().map(|error| (error.line, error.column)).collect();
            assert!(places.is_sorted(), "in order: {places:?}");
            for error in &errors {
                assert!(error.line >= 1 && error.column >= 1, "{error}");
                assert!(error.line <= text.lines().count() + 1, "{error}");
                assert!(!error.render("x.lab", &text).is_empty());
            }
        }
    }
    for line in text.lines().take(50) {
        match parse_step(line, 3) {
            Ok(step) => {
                let again = parse_step(&step.text, 3).map(|again| again.kind);
                assert_eq!(again, Ok(step.kind), "a step's text is the step");
            }
            Err(error) => assert!(!error.render("shell", line).is_empty()),
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    library::SCENARIOS.iter().map(|scenario| scenario.text.as_bytes().to_vec()).collect()
}

/// The words that scenarios are made of.
fn words() -> Vec<String> {
    let mut words: Vec<String> = library::SCENARIOS
        .iter()
        .flat_map(|scenario| scenario.text.lines())
        .map(|line| line.split('#').next().unwrap_or(""))
        .flat_map(str::split_whitespace)
        .filter(|word| word.is_ascii() && word.len() < 20)
        .map(str::to_owned)
        .collect();
    words.sort();
    words.dedup();
    words
}
