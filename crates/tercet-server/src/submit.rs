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
use crate::node::{Answered, Command, LEAST_TIME, NodeHandle, Progress, Submit, Submitted};

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
        let mut again = retry && !node.progress.borrow().stopping;
        if again {
            // A change of leader, term or progress is the usual reason for the next attempt to
            // differ. The first time something has always changed: nobody looked yet.
            let progress = waits_for.get_or_insert_with(|| node.progress());
            let until = deadline.min(Instant::now() + PAUSE);
            let _ = tokio::time::timeout_at(until.into(), progress.changed()).await;
            handed_over = Instant::now();
            again = handed_over + LEAST_TIME < deadline;
        }
        if !again {
            if maybe_appended {
                error.outcome = Outcome::Unknown;
            }
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;

    /// A node whose owner answers at once, and knows no leader.
    fn without_a_leader() -> (NodeHandle, watch::Sender<Progress>) {
        let (commands, mut inbox) = mpsc::unbounded_channel();
        let progress = watch::Sender::new(Progress::default());
        tokio::spawn(async move {
            let refusal = || ApiError::new(Reason::NoLeader, "no leader");
            while let Some(command) = inbox.recv().await {
                if let Command::Submit { reply, .. } = command {
                    let _ = reply.send(Err(refusal()).into());
                } else if let Command::Barrier { reply } = command {
                    let _ = reply.send(Err(refusal()));
                }
            }
        });
        (NodeHandle::of_stand_in(commands, progress.subscribe()), progress)
    }

    /// So many requests whose deadlines are spread evenly over several pauses.
    const REQUESTS: u32 = 400;

    fn deadlines() -> impl Iterator<Item = Instant> {
        let begun = Instant::now() + Duration::from_millis(50);
        (0..REQUESTS).map(move |at| begun + 5 * PAUSE * at / REQUESTS)
    }

    #[tokio::test]
    async fn a_submit_that_was_only_refused_says_that_nothing_was_appended() {
        let (node, _progress) = without_a_leader();
        let mut submits = JoinSet::new();
        for deadline in deadlines() {
            let submit = Submit {
                records: vec![Bytes::from_static(b"1")],
                request_id: 1,
                expect_next: None,
                wait_all: false,
                never_forward: false,
                deadline,
            };
            let node = node.clone();
            submits.spawn(async move { node.submit(submit).await });
        }
        while let Some(ended) = submits.join_next().await {
            let error = ended.expect("no panic").expect_err("nobody leads");
            assert_eq!((error.reason, error.outcome), (Reason::NoLeader, Outcome::NotAppended));
        }
    }

    #[tokio::test]
    async fn a_read_that_was_only_refused_says_why() {
        let (node, _progress) = without_a_leader();
        let mut reads = JoinSet::new();
        for deadline in deadlines() {
            let node = node.clone();
            reads.spawn(async move { node.read_barrier(deadline).await });
        }
        while let Some(ended) = reads.join_next().await {
            let error = ended.expect("no panic").expect_err("nobody leads");
            assert_eq!(error.reason, Reason::NoLeader);
        }
    }
}
