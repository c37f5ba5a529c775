//! A thread that waits for the disk, so that the owner can go on with what comes meanwhile.
//!
//! One sync at a time is under way. Handing it over costs two wake-ups, which a sync that nobody
//! has to wait for is not worth: the driver chooses.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tercet_wal::Unsynced;
use tokio::sync::Notify;

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

/// The thread, as its owner sees it.
#[derive(Debug)]
pub(crate) struct Syncer {
    /// `None` once it shall end.
    work: Option<Sender<(Unsynced<File>, Instant)>>,
    done: Receiver<Synced>,
    /// Since when a sync is under way.
    pub(crate) since: Option<Instant>,
    ended: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// # Errors
    /// The system's, if it has no thread to give.
    pub(crate) fn start() -> io::Result<Self> {
        let (work, works) = channel::<(Unsynced<File>, Instant)>();
        let (dones, done) = channel();
        let ended = Arc::new(Notify::new());
        let tells = Arc::clone(&ended);
        let thread =
            std::thread::Builder::new().name("tercet-sync".to_owned()).spawn(move || {
                for (unsynced, begun) in works {
                    if dones.send(Synced::here(unsynced, begun)).is_err() {
                        return;
                    }
                    tells.notify_one();
                }
            })?;
        Ok(Self { work: Some(work), done, since: None, ended, thread: Some(thread) })
    }

    /// Begins a sync; none is under way.
    pub(crate) fn begin(&mut self, unsynced: Unsynced<File>, begun: Instant) {
        let work = self.work.as_ref().expect("it ends with its owner");
        work.send((unsynced, begun)).expect("the thread lives as long as there may be work");
        self.since = Some(begun);
    }

    /// Completes when a sync has ended, or one that was taken already.
    pub(crate) fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// The sync under way, if it has ended; one that was begun before `patience` ago is waited for.
    pub(crate) fn take(&mut self, patience: Duration) -> Option<Synced> {
        let since = self.since?;
        let synced = match self.done.try_recv() {
            Ok(synced) => synced,
            Err(_) if since.elapsed() < patience => return None,
            Err(_) => self.done.recv().expect("the thread answers whatever it was given"),
        };
        self.since = None;
        Some(synced)
    }
}

impl Drop for Syncer {
    /// Waits for the disk: it must not be busy with files of a directory that is not this node's
    /// any more.
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
