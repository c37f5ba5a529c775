//! The threads of a load.
//!
//! Each runs the clients of some connections and nobody else's: a client waits for no lock and no
//! wake-up of another thread, and takes little of a machine that it shares with the nodes.

use std::io;
use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::measure::{Desk, Seen};

/// A thread, and where its clients put what they see.
pub(super) struct Thread {
    pub(super) runtime: Handle,
    pub(super) desk: Desk,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<JoinHandle<()>>,
}

impl Thread {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            // Whether it is told to stop or forgotten comes to the same.
            let _ = runtime.block_on(stopped);
        };
        let ended = std::thread::Builder::new().name(format!("load-{number}")).spawn(run)?;
        Ok(Self { runtime: handle, desk: Desk::new(), stop: Some(stop), ended: Some(ended) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(ended) = self.ended.take() {
            // A client that panicked has said so.
            let _ = ended.join();
        }
    }
}

/// One at least.
pub(super) struct Threads(Vec<Thread>);

impl Threads {
    pub(super) fn start(count: usize) -> anyhow::Result<Self> {
        let threads = (1..=count.max(1)).map(Thread::start).collect::<Result<_, _>>();
        Ok(Self(threads.context("no thread for the load")?))
    }

    /// The thread of a connection.
    pub(super) fn of(&self, connection: usize) -> &Thread {
        &self.0[connection % self.0.len()]
    }

    /// What came since this was called last.
    pub(super) fn take(&self) -> Seen {
        let mut seen = Seen::new();
        self.0.iter().for_each(|thread| seen.add(thread.desk.take()));
        seen
    }
}
