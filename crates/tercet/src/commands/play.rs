//! `tercet lab play`: a scenario told at human speed, with its questions.

use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

use tercet_lab::{Progress, is_worth_telling};

use crate::output::{line, note};

/// The pauses behind a step, an event and a sentence of the narrator.
const STEP: Duration = Duration::from_millis(600);
const EVENT: Duration = Duration::from_millis(120);
const SAY: Duration = Duration::from_millis(1500);

/// Tells a run to a person, or, without a terminal, without pauses.
#[derive(Debug)]
pub(super) struct Player {
    /// How much slower (2.0) or faster (0.5) than usual; 0: without pauses.
    pub(super) pace: f64,
    pub(super) right: u32,
    pub(super) asked: u32,
}

impl Player {
    pub(super) fn new(pace: f64) -> Self {
        let pace = if std::io::stdout().is_terminal() { pace } else { 0.0 };
        Self { pace, right: 0, asked: 0 }
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time.mul_f64(self.pace));
    }

    pub(super) fn tell(&mut self, progress: &Progress) {
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
            Progress::Event(_) => {}
            Progress::Say(text) => self.say(&format!("\n  “{text}”\n"), SAY),
            Progress::Told(text) => self.say(&format!("    {text}"), EVENT),
            Progress::Ask { question, options, answer } => self.ask(question, options, answer),
        }
    }

    fn say(&self, text: &str, pause: Duration) {
        // Whoever looks away stops nothing.
        let _ = line(text);
        self.pause(pause);
    }

    fn ask(&mut self, question: &str, options: &[String], answer: &str) {
        note(&format!("\n  ? {question}   [{}]", options.join(" / ")));
        let mut given = String::new();
        let read = std::io::stdin().lock().read_line(&mut given).unwrap_or(0);
        let given = given.trim();
        self.asked += 1;
        if given == answer {
            self.right += 1;
            self.say("  Right.\n", STEP);
        } else if read == 0 || given.is_empty() {
            self.say(&format!("  It is: {answer}. Watch.\n"), STEP);
        } else {
            self.say(&format!("  No: {answer}. Watch why.\n"), STEP);
        }
    }
}
