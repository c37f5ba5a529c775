//! Where the time of a submit goes: the stages of one submit in each batch, as the owner sees them.
//! One is enough: those of a batch share all but their time in the queue, and it is the first, which
//! waited longest.

use std::collections::VecDeque;
use std::time::Instant;

use crate::metrics::{Metrics, Stage};

/// The submits whose stages are measured.
#[derive(Debug)]
pub(crate) struct Timing {
    /// The first of this turn, by tag, and when it arrived.
    pub(crate) queued: Option<(u64, Instant)>,
    /// When the owner last began to do something: with what came, or with what its disk wrote.
    turn: Instant,
    /// By tag: taken, and not sent yet.
    taken: Option<(u64, Instant)>,
    /// By tag, in their order: on their way since.
    sent: VecDeque<(u64, Instant)>,
}

impl Timing {
    pub(crate) fn new() -> Self {
        Self { queued: None, turn: Instant::now(), taken: None, sent: VecDeque::new() }
    }

    /// The owner has something to do.
    pub(crate) fn begin_turn(&mut self) {
        self.turn = Instant::now();
    }

    /// The submits of this turn go into the log.
    pub(crate) fn taken(&mut self, metrics: &Metrics) {
        if let Some((tag, arrived)) = self.queued.take() {
            let now = Instant::now();
            metrics.observe_stage(Stage::Queue, now.saturating_duration_since(arrived));
            self.taken = Some((tag, now));
        }
    }

    /// What this turn sends is on its way.
    pub(crate) fn sent(&mut self, metrics: &Metrics) {
        if let Some((tag, since)) = self.taken.take() {
            let now = Instant::now();
            metrics.observe_stage(Stage::Append, now.saturating_duration_since(since));
            self.sent.push_back((tag, now));
        }
    }

    /// A submit is answered; if its stages are measured, says when that was.
    pub(crate) fn answered(&mut self, tag: u64, metrics: &Metrics) -> Option<Instant> {
        if self.taken.is_some_and(|(taken, _)| taken == tag) {
            // Refused, or known already: it went nowhere.
            self.taken = None;
            return None;
        }
        let at = self.sent.iter().position(|(sent, _)| *sent == tag)?;
        let (_, since) = self.sent.remove(at)?;
        let now = Instant::now();
        metrics.observe_stage(Stage::Quorum, self.turn.saturating_duration_since(since));
        metrics.observe_stage(Stage::Apply, now.saturating_duration_since(self.turn));
        Some(now)
    }
}
