//! Which lines of a script may come out differently on real processes than in the simulator. Owns
//! the rules of portability; knows no world.
//!
//! The one idea: assert what the protocol decides, not what time and the network happen to do. A
//! warning never stops a run.

use std::fmt;

use crate::ast::{
    Cmp, Condition, EventPattern, Number, Pred, Script, Step, StepKind, Timers, World,
};

/// Kinds of events that repeat when a message is sent again or batched in another way.
const REPEATED_KINDS: &[&str] = &["append", "append_accepted", "persisted", "matchindex", "drop"];

/// A line that may be right today and wrong tomorrow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The line, from 1.
    pub line: usize,
    /// What may go wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

/// What is not portable, in the order of the lines. A script that `requires sim` gets no warnings:
/// it never meets another world.
pub fn lint(script: &Script) -> Vec<Warning> {
    if script.header.requires.as_ref().is_some_and(|requires| requires.world == World::Sim) {
        return Vec::new();
    }
    let auto = script.header.timers == Timers::Auto;
    let mut warnings = Vec::new();
    lint_steps(&script.steps, auto, false, &mut warnings);
    warnings
}

/// `just_ran`: nothing has let the cluster come to rest since a `run`.
fn lint_steps(steps: &[Step], auto: bool, mut just_ran: bool, warnings: &mut Vec<Warning>) {
    for step in steps {
        let mut warn = |message: String| warnings.push(Warning { line: step.line, message });
        if auto && just_ran && is_expectation(&step.kind) {
            warn(
                "what holds right after \"run\" depends on timing: put \"settle\" or \"wait\" \
                 between"
                    .to_owned(),
            );
        }
        if auto && let Some(term) = predicate(&step.kind).and_then(exact_term) {
            warn(format!(
                "with timers=auto there may be more elections than one: write \">={term}\" \
                 instead of term {term}"
            ));
        }
        if let StepKind::ExpectCount { events, cmp, count, .. } = &step.kind
            && is_brittle(events, *cmp, *count)
        {
            warn(format!(
                "\"{}\" happens again when a message is sent again: compare with >= or count \
                 something that is decided once",
                events.kind
            ));
        }
        just_ran = matches!(step.kind, StepKind::Run(_)) || (just_ran && takes_no_time(&step.kind));
        if let StepKind::Fork(branches) = &step.kind {
            for branch in branches {
                lint_steps(&branch.steps, auto, just_ran, warnings);
            }
        }
    }
}

fn is_expectation(step: &StepKind) -> bool {
    matches!(
        step,
        StepKind::Expect { .. } | StepKind::ExpectCount { .. } | StepKind::ExpectTrace { .. }
    )
}

/// Whether the step leaves the cluster as it is, so that what stands before it still counts as
/// "right before".
fn takes_no_time(step: &StepKind) -> bool {
    matches!(
        step,
        StepKind::Say(_)
            | StepKind::Ask { .. }
            | StepKind::Mark(_)
            | StepKind::Let { .. }
            | StepKind::ListHeld
            | StepKind::Fork(_)
    )
}

fn predicate(step: &StepKind) -> Option<&Pred> {
    match step {
        StepKind::Expect { pred, .. }
        | StepKind::Wait { pred, .. }
        | StepKind::Always { pred, .. }
        | StepKind::Never { pred, .. } => Some(pred),
        StepKind::Submit { .. }
        | StepKind::Retry { .. }
        | StepKind::Read { .. }
        | StepKind::Crash(_)
        | StepKind::Restart(_)
        | StepKind::Pause(_)
        | StepKind::Resume(_)
        | StepKind::Wipe { .. }
        | StepKind::Tear { .. }
        | StepKind::SetHeartbeat { .. }
        | StepKind::SetDisk { .. }
        | StepKind::JumpClock { .. }
        | StepKind::Cut { .. }
        | StepKind::Isolate(_)
        | StepKind::Reset { .. }
        | StepKind::Heal
        | StepKind::Delay { .. }
        | StepKind::Drop { .. }
        | StepKind::Duplicate { .. }
        | StepKind::Hold { .. }
        | StepKind::ListHeld
        | StepKind::Deliver(_)
        | StepKind::Discard(_)
        | StepKind::Release(_)
        | StepKind::Elect { .. }
        | StepKind::Transfer(_)
        | StepKind::Run(_)
        | StepKind::Settle
        | StepKind::Freeze(_)
        | StepKind::Thaw(_)
        | StepKind::ExpectCount { .. }
        | StepKind::ExpectTrace { .. }
        | StepKind::Let { .. }
        | StepKind::Mark(_)
        | StepKind::Fork(_)
        | StepKind::Say(_)
        | StepKind::Ask { .. }
        | StepKind::Mutant { .. } => None,
    }
}

/// The term that a predicate names as a number and demands exactly. `$L.term` is not one: it
/// follows what happened.
fn exact_term(pred: &Pred) -> Option<u64> {
    if let Pred::Leader { term: Some((Cmp::Equal, Number::Literal(term))), .. } = pred {
        return Some(*term);
    }
    let Pred::Nodes { conditions, .. } = pred else { return None };
    conditions.iter().find_map(|condition| {
        if let Condition::Term(Cmp::Equal, Number::Literal(term)) = condition {
            Some(*term)
        } else {
            None
        }
    })
}

/// Whether the count changes with retransmissions. That there was none at all does not.
fn is_brittle(events: &EventPattern, cmp: Cmp, count: u64) -> bool {
    REPEATED_KINDS.contains(&events.kind.as_str())
        && matches!(cmp, Cmp::Equal | Cmp::NotEqual)
        && count > 0
}
