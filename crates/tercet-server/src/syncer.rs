//! Syncs beside the owner's thread, one at a time.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tercet_wal::Unsynced;
use tokio::sync::Notify;

use crate::beside::Beside;

/// A sync that ended.
#[derive(Debug)]
pub(crate) struct Synced {
    pub(crate) result: io::Result<()>,
    /// Since it was begun.
    pub(crate) took: Duration,
}

impl Synced {
    /// Syncs on this thread.
    pub(crate) fn here(unsynced: Unsynced<File>, begun: Instant) -> Self {
        let result = unsynced.sync();
        Self { result, took: begun.elapsed() }
    }
}

/// The thread, and what it does.
#[derive(Debug)]
pub(crate) struct Syncer {
    thread: Beside<(Unsynced<File>, Instant), Synced>,
    /// Since when a sync is under way.
    pub(crate) since: Option<Instant>,
}

impl Syncer {
    /// # Errors
    /// The system's, if it has no thread to give.
    pub(crate) fn start() -> io::Result<Self> {
        let sync = |(unsynced, begun)| Synced::here(unsynced, begun);
        Ok(Self { thread: Beside::start("tercet-sync", sync)?, since: None })
    }

    /// Begins a sync; none is under way.
    pub(crate) fn begin(&mut self, unsynced: Unsynced<File>, begun: Instant) {
        self.thread.begin((unsynced, begun));
        self.since = Some(begun);
    }

    /// Completes when a sync has ended, or one that was taken already.
    pub(crate) fn ended(&self) -> Arc<Notify> {
        self.thread.ended()
    }

    /// The sync under way, if it has ended; one that was begun before `patience` ago is waited for.
    pub(crate) fn take(&mut self, patience: Duration) -> Option<Synced> {
        let since = self.since?;
        let synced = match self.thread.take() {
            Some(synced) => synced,
            None if since.elapsed() < patience => return None,
            None => self.thread.wait(),
        };
        self.since = None;
        Some(synced)
    }
}
