//! A submit on its way to the leader: here or by one hop, again and again with the same request id
//! until it is answered or its deadline passes.
//!
//! The one idea: an attempt whose outcome is unknown may be repeated, because the request id makes
//! the repetition harmless; but once one attempt is unknown, no later refusal can make the whole
//! "not appended" again.

use std::time::{Duration, Instant};

use tercet_client::{ApiError, Outcome, Reason};
use tokio::sync::watch;

use crate::metrics::Stage;
use crate::node::{Answered, Command, NodeHandle, Progress, Submit, Submitted};

/// How long to wait before the next attempt when nothing tells of a change.
const PAUSE: Duration = Duration::from_millis(20);

/// Sees a submit that came at `begun` through.
pub(crate) async fn run(
    node: &NodeHandle,
    submit: Submit,
    begun: Instant,
) -> Result<Submitted, ApiError> {
    let mut maybe_appended = false;
    let mut handed_over = begun;
    let mut waits_for: Option<watch::Receiver<Progress>> = None;
    let deadline = submit.deadline;
    loop {
        // Most are answered at the first attempt, and need nobody who tells them of changes.
        let leader = match &mut waits_for {
            Some(progress) => progress.borrow_and_update().leader,
            None => node.progress.borrow().leader,
        };
        let attempt = match leader {
            Some(leader) if leader != node.id && !submit.never_forward => {
                let submit = submit.clone();
                node.ask(submit.deadline, |reply| Command::Forward { to: leader, submit, reply })
                    .await
            }
            Some(_) | None => {
                let submit = submit.clone();
                let command = |reply| Command::Submit { submit, handed_over, reply };
                node.ask(deadline, command).await
            }
        };
        let answered = attempt.and_then(|answered: Answered| {
            if let Some(at) = answered.at {
                node.metrics.observe_stage(Stage::Answer, at.elapsed());
            }
            answered.result
        });
        let mut error = match answered {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        maybe_appended |= error.outcome == Outcome::Unknown;
        let waits = matches!(error.reason, Reason::NoLeader | Reason::Quarantined);
        // Who wants no forwarding looks for the next leader itself.
        let moved = matches!(error.reason, Reason::LeadershipLost | Reason::NotLeader);
        let retry = waits || (moved && !submit.never_forward);
        // With `expect_next`, a repetition of what was appended is recognised by its id, so the
        // condition does not turn a success into a conflict.
        let stopping = node.progress.borrow().stopping;
        if !retry || Instant::now() + PAUSE >= submit.deadline || stopping {
            if maybe_appended {
                error.outcome = Outcome::Unknown;
            }
            return Err(error);
        }
        // A change of leader, term or progress is the usual reason for the next attempt to differ.
        // The first time something has always changed: nobody looked yet.
        let progress = waits_for.get_or_insert_with(|| node.progress());
        let _ = tokio::time::timeout(PAUSE, progress.changed()).await;
        handed_over = Instant::now();
    }
}
