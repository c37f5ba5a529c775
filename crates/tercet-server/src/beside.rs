//! A thread that waits for the disk, so that the owner can go on with what comes meanwhile.
//!
//! To hand something over costs two wake-ups: it is not worth it for what nobody has to wait for.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::Notify;

/// The thread, as its owner sees it: it makes an `R` of each `T`, in their order.
#[derive(Debug)]
pub(crate) struct Beside<T, R> {
    /// `None` once it shall end.
    work: Option<Sender<T>>,
    done: Receiver<R>,
    ended: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static, R: Send + 'static> Beside<T, R> {
    /// # Errors
    /// The system's, if it has no thread to give.
    pub(crate) fn start(name: &str, does: impl Fn(T) -> R + Send + 'static) -> io::Result<Self> {
        let (work, works) = channel();
        let (dones, done) = channel();
        let ended = Arc::new(Notify::new());
        let tells = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for next in works {
                if dones.send(does(next)).is_err() {
                    return;
                }
                tells.notify_one();
            }
        })?;
        Ok(Self { work: Some(work), done, ended, thread: Some(thread) })
    }

    pub(crate) fn begin(&self, next: T) {
        let work = self.work.as_ref().expect("it ends with its owner");
        work.send(next).expect("the thread lives as long as there may be work");
    }

    /// Completes when something has ended, or what was taken already.
    pub(crate) fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// What has ended, if anything has.
    pub(crate) fn take(&self) -> Option<R> {
        self.done.try_recv().ok()
    }

    /// Waits for what ends next; something is under way.
    pub(crate) fn wait(&self) -> R {
        self.done.recv().expect("the thread answers whatever it was given")
    }
}

impl<T, R> Drop for Beside<T, R> {
    /// Waits for the disk: it must not be busy with files of a directory that is not this node's
    /// any more.
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
