//! `tercet lab play`: a scenario told at human speed, with its questions.

use std::time::Duration;

use tercet_lab::{Progress, SimBackend, is_worth_telling};

use super::lab::{Loaded, load};

/// The pauses behind a step, an event and a sentence of the narrator.
const STEP: Duration = Duration::from_millis(600);
const EVENT: Duration = Duration::from_millis(120);
const SAY: Duration = Duration::from_millis(1500);

/// Tells a run to a person.
struct Player<'a> {
    /// How much slower (2.0) or faster (0.5) than usual; 0: without pauses.
    pace: f64,
    say: &'a mut dyn FnMut(&str),
    /// Asks, and is given the answer if there is one.
    ask: &'a mut dyn FnMut(&str) -> Option<String>,
    right: u32,
    asked: u32,
}

/// Tells a scenario or a script in a simulator of its own; says whether it ended as it should.
pub(crate) fn play(
    name: &str,
    pace: f64,
    mut say: impl FnMut(&str),
    mut ask: impl FnMut(&str) -> Option<String>,
) -> anyhow::Result<bool> {
    let Loaded { script, .. } = load(name)?;
    say(&script.header.title);
    say(&script.header.cites.join("; "));
    let mut player = Player { pace, say: &mut say, ask: &mut ask, right: 0, asked: 0 };
    let world = || SimBackend::new(&script, script.header.seed);
    let report = tercet_lab::run(&script, None, world, &mut |progress| player.tell(&progress))?;
    let (right, asked) = (player.right, player.asked);
    if asked > 0 {
        say(&format!("\n{right} of {asked} questions answered"));
    }
    for failure in &report.failures {
        say(&format!("FAILED at line {}: {}", failure.line, failure.found));
    }
    Ok(report.passed())
}

impl Player<'_> {
    fn pause(&self, time: Duration) {
        std::thread::sleep(time.mul_f64(self.pace));
    }

    fn tell(&mut self, progress: &Progress) {
        match progress {
            Progress::Step { text, .. } => {
                // The narrator's lines speak for themselves.
                if !text.starts_with("say") && !text.starts_with("ask") {
                    self.say(&format!("> {text}"), STEP);
                }
            }
            Progress::Event(event) if is_worth_telling(event) => {
                self.say(&format!("    {} {}", event.node, event.text), EVENT);
            }
            Progress::Event(_) | Progress::Begin { branch: None, .. } => {}
            Progress::Begin { branch: Some(branch), .. } => {
                self.say(&format!("\n--- {branch} ---"), STEP);
            }
            Progress::Answered { value, text, .. } => {
                self.say(&format!("    {value}: {text}"), EVENT);
            }
            Progress::Say(text) => self.say(&format!("\n  “{text}”\n"), SAY),
            Progress::Told(text) => self.say(&format!("    {text}"), EVENT),
            Progress::Ask { question, options, answer } => self.ask(question, options, answer),
        }
    }

    fn say(&mut self, text: &str, pause: Duration) {
        (self.say)(text);
        self.pause(pause);
    }

    fn ask(&mut self, question: &str, options: &[String], answer: &str) {
        let prompt = format!("  ? {question}   [{}]: ", options.join(" / "));
        let given = (self.ask)(&prompt).unwrap_or_default();
        let given = given.trim();
        self.asked += 1;
        if given == answer {
            self.right += 1;
            self.say("  Right.\n", STEP);
        } else if given.is_empty() {
            self.say(&format!("  It is: {answer}. Watch.\n"), STEP);
        } else {
            self.say(&format!("  No: {answer}. Watch why.\n"), STEP);
        }
    }
}
