//! A peer as the leader sees it.
//!
//! ```text
//!   Probe ── accepted ──► Replicate        Probe: one message at a time, looking for the place
//!     ▲                       │                   where the logs agree
//!     └── refused, link lost ─┘            Replicate: a stream, bounded by bytes in flight
//! ```
//! `matched` is what counts for commits: known to be durable at the peer. A quarantined peer has
//! none; what it stored is in `learned`, and steers only what is sent next.

use std::collections::VecDeque;

use crate::io::{PeerStatus, ProgressKind};
use crate::types::{Incarnation, Index, NodeId, Time};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Progress {
    pub(crate) incarnation: Incarnation,
    pub(crate) quarantined: bool,
    pub(crate) kind: ProgressKind,
    pub(crate) matched: Index,
    /// What a quarantined peer says that it stored.
    pub(crate) learned: Index,
    /// Invariant: `matched < next`, `learned < next`.
    pub(crate) next: Index,
    /// Probing: the one message is on its way. Until the next heartbeat nothing more is sent.
    pub(crate) waiting: bool,
    /// The driver was asked to send and has not said what it did.
    pub(crate) sending: bool,
    /// (last index, bytes) of the messages on their way.
    pub(crate) inflight: VecDeque<(Index, u64)>,
    pub(crate) inflight_bytes: u64,
    /// When it last answered in this term.
    pub(crate) active_at: Option<Time>,
    /// The highest round that it answered.
    pub(crate) round: u64,
    /// What it had stored at the last heartbeat's answer: no progress since then, with messages on their
    /// way, means that some may be lost.
    pub(crate) stored_at_heartbeat: Index,
}

impl Progress {
    pub(crate) fn new(incarnation: Incarnation, next: Index) -> Self {
        Self {
            incarnation,
            quarantined: false,
            kind: ProgressKind::Probe,
            matched: Index::ZERO,
            learned: Index::ZERO,
            next,
            waiting: false,
            sending: false,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            active_at: None,
            round: 0,
            stored_at_heartbeat: Index::ZERO,
        }
    }

    /// What the peer is known to have stored, counted or not.
    pub(crate) const fn stored(&self) -> Index {
        if self.quarantined { self.learned } else { self.matched }
    }

    pub(crate) fn become_probe(&mut self, next: Index) {
        self.kind = ProgressKind::Probe;
        self.next = next.max(self.stored().next());
        self.waiting = false;
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    pub(crate) fn become_replicate(&mut self) {
        self.kind = ProgressKind::Replicate;
        self.next = self.stored().next();
        self.waiting = false;
    }

    /// The peer comes with another disk: whatever it had stored is gone.
    pub(crate) fn become_empty(
        &mut self,
        incarnation: Incarnation,
        quarantined: bool,
        next: Index,
    ) {
        self.incarnation = incarnation;
        self.quarantined = quarantined;
        self.matched = Index::ZERO;
        self.learned = Index::ZERO;
        self.stored_at_heartbeat = Index::ZERO;
        self.sending = false;
        self.become_probe(next);
    }

    pub(crate) fn note_sent(&mut self, last: Index, bytes: u64) {
        self.inflight.push_back((last, bytes));
        self.inflight_bytes += bytes;
        self.next = last.next();
    }

    /// The peer stored everything up to `last`. Says whether that is news.
    pub(crate) fn note_stored(&mut self, last: Index) -> bool {
        while let Some((at, bytes)) = self.inflight.front().copied()
            && at <= last
        {
            self.inflight.pop_front();
            self.inflight_bytes -= bytes;
        }
        self.next = self.next.max(last.next());
        let stored = if self.quarantined { &mut self.learned } else { &mut self.matched };
        let is_news = last > *stored;
        *stored = last.max(*stored);
        is_news
    }

    pub(crate) fn status(&self, node: NodeId, active: bool) -> PeerStatus {
        PeerStatus {
            node,
            matched: self.matched,
            next: self.next,
            kind: self.kind,
            inflight_bytes: self.inflight_bytes,
            quarantined: self.quarantined,
            active,
        }
    }
}
