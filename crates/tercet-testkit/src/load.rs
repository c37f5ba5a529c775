//! Clients that load a cluster and write down what they saw.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tercet_client::{Client, SubmitOptions};

use crate::checker::{History, Outcome, ReadOp, SubmitOp};
use crate::random::Random;

/// How long a client waits for one submit.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clients at work, in a thread of their own.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: Option<JoinHandle<History>>,
}

impl Load {
    /// Starts `clients` clients of the nodes at these addresses. Every client submits one to five
    /// values at a time, waits a little, and reads the end of the log now and then.
    ///
    /// # Panics
    /// If the addresses are none, or the machine gives no thread.
    pub fn start(addresses: Vec<String>, clients: u64, seed: u64) -> Self {
        Self::start_numbered(addresses, clients, 0, seed)
    }

    /// [`Self::start`] for one load after another on the same cluster: the clients are numbered
    /// from `first` on, and a client's values carry its number.
    ///
    /// # Panics
    /// If the addresses are none, or the machine gives no thread.
    pub fn start_numbered(addresses: Vec<String>, clients: u64, first: u64, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (ends, count) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made");
            runtime.block_on(async {
                let tasks: Vec<_> = (first..first + clients)
                    .map(|number| {
                        let mut nodes = addresses.clone();
                        let start = usize::try_from(number).expect("few") % nodes.len();
                        nodes.rotate_left(start);
                        let client = Client::new(nodes).expect("the addresses are ones");
                        let random = Random::new(seed ^ (number << 32));
                        let worker = Worker { client, number, random };
                        tokio::spawn(worker.run(Arc::clone(&ends), Arc::clone(&count)))
                    })
                    .collect();
                let mut history = History::default();
                for task in tasks {
                    let seen = task.await.expect("a client ends by itself");
                    history.submits.extend(seen.submits);
                    history.reads.extend(seen.reads);
                }
                history
            })
        });
        Self { stop, acknowledged, thread: Some(thread) }
    }

    /// How many submits were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `count` more submits are acknowledged.
    ///
    /// # Panics
    /// If that takes longer than `patience`.
    pub fn await_progress(&self, count: u64, patience: Duration) {
        let wanted = self.acknowledged() + count;
        let deadline = Instant::now() + patience;
        while self.acknowledged() < wanted {
            assert!(
                Instant::now() < deadline,
                "no {count} more submits were acknowledged within {patience:?}: the cluster does not serve"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the clients and says what they saw.
    ///
    /// # Panics
    /// If a client failed in a way that no client may.
    pub fn finish(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        thread.join().expect("the clients end by themselves")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that failed: its clients must not go on knocking.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The time of all histories of this process, in microseconds.
fn now() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(ORIGIN.elapsed().as_micros()).expect("a short test")
}

struct Worker {
    client: Client,
    number: u64,
    random: Random,
}

impl Worker {
    async fn run(mut self, ends: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> History {
        let mut history = History::default();
        let mut seen = 0;
        let mut made = 0;
        while !ends.load(Ordering::Relaxed) {
            let count = if self.random.below(4) == 0 { 2 + self.random.below(4) } else { 1 };
            let values: Vec<Vec<u8>> = (0..count)
                .map(|_| {
                    made += 1;
                    self.value(made)
                })
                .collect();
            let begun = now();
            let options = SubmitOptions { timeout: PATIENCE, ..SubmitOptions::default() };
            let records = values.iter().cloned().map(Bytes::from);
            let outcome = match self.client.submit_with(records, options).await {
                Ok(done) => {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    seen = done.last_seq;
                    Outcome::Acknowledged { first_seq: done.first_seq }
                }
                Err(error) => match error.outcome {
                    tercet_client::Outcome::NotAppended => Outcome::NotAppended,
                    tercet_client::Outcome::Unknown => Outcome::Unknown,
                },
            };
            let ended = now();
            history.submits.push(SubmitOp { values, begun, ended, outcome });
            if self.random.below(8) == 0 {
                let (from_seq, limit) = (seen.max(4) - 3, 20);
                let begun = now();
                // A read that fails says nothing.
                if let Ok(records) = self.client.read(from_seq, limit).await {
                    let records =
                        records.into_iter().map(|record| (record.seq, record.value.to_vec()));
                    let records = records.collect();
                    let (linearizable, ended) = (true, now());
                    history.reads.push(ReadOp {
                        linearizable,
                        from_seq,
                        limit,
                        begun,
                        ended,
                        records,
                    });
                }
            }
            tokio::time::sleep(self.random.millis(1, 4)).await;
        }
        history
    }

    /// A value that no other submit has; some are awkward.
    fn value(&mut self, made: u64) -> Vec<u8> {
        let mut value = format!("c{}-{made}", self.number).into_bytes();
        match self.random.below(16) {
            0 => value.extend_from_slice(b"\nwrite c0-1"),
            1 => value.extend_from_slice(b" \\ \x00\xff\xc3"),
            2 => value.extend(std::iter::repeat_n(b'.', 5000)),
            _ => {}
        }
        value
    }
}
