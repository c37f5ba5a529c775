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
/// How long a client that only reads waits for one read; then it begins another. So there is one
/// under way at a node that has stood still for long, whatever became of its connections.
const READ_PATIENCE: Duration = Duration::from_secs(3);

/// Who loads a cluster.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// How many clients submit, each to all nodes: one to five values at a time, a little pause, and
    /// now and then a read of the end of the log.
    pub clients: u64,
    /// The first client's number. Values carry it: loads on the same cluster need different ones.
    pub first: u64,
    /// How many clients of each node, and of no other, read the end of the log all the time.
    pub readers: u64,
    /// The seed of what they draw.
    pub seed: u64,
}

/// What all clients of a load share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// How many submits were acknowledged.
    acknowledged: AtomicU64,
    /// How many submits and reads came to no success within their time.
    failed: AtomicU64,
    /// The highest sequence number that was acknowledged.
    last_seq: AtomicU64,
}

/// Clients at work, in a thread of their own.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<History>>,
}

impl Load {
    /// Starts `clients` clients of the nodes at these addresses; see [`LoadOptions`].
    ///
    /// # Panics
    /// If the addresses are none, or the machine gives no thread.
    pub fn start(addresses: Vec<String>, clients: u64, seed: u64) -> Self {
        Self::start_with(addresses, &LoadOptions { clients, first: 0, readers: 0, seed })
    }

    /// Starts what the options say.
    ///
    /// # Panics
    /// If the addresses are none, or the machine gives no thread.
    pub fn start_with(addresses: Vec<String>, options: &LoadOptions) -> Self {
        let shared = Arc::new(Shared::default());
        let (all, options) = (Arc::clone(&shared), options.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made");
            runtime.block_on(async {
                let LoadOptions { clients, first, readers, seed } = options;
                let worker = |number: u64, nodes: &[String]| Worker {
                    client: Client::new(nodes).expect("the addresses are ones"),
                    number,
                    random: Random::new(seed ^ (number << 32)),
                    shared: Arc::clone(&all),
                };
                let mut tasks = Vec::new();
                for number in first..first + clients {
                    let mut nodes = addresses.clone();
                    let start = usize::try_from(number).expect("few") % nodes.len();
                    nodes.rotate_left(start);
                    tasks.push(tokio::spawn(worker(number, &nodes).run()));
                }
                for (address, node) in addresses.iter().zip(1..) {
                    for number in 0..readers {
                        let reader = worker(node << 16 | number, std::slice::from_ref(address));
                        tasks.push(tokio::spawn(reader.only_read()));
                    }
                }
                let mut history = History::default();
                for task in tasks {
                    let seen = task.await.expect("a client ends by itself");
                    history.submits.extend(seen.submits);
                    history.reads.extend(seen.reads);
                }
                history
            })
        });
        Self { shared, thread: Some(thread) }
    }

    /// How many submits were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// How many submits and reads came to no success so far, with all the retries of their clients.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
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
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        thread.join().expect("the clients end by themselves")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that failed: its clients must not go on knocking.
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The time of all histories of this process, in microseconds.
pub fn now() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(ORIGIN.elapsed().as_micros()).expect("a short test")
}

struct Worker {
    client: Client,
    number: u64,
    random: Random,
    shared: Arc<Shared>,
}

impl Worker {
    async fn run(mut self) -> History {
        let mut history = History::default();
        let mut seen = 0;
        let mut made = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
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
                    self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.shared.last_seq.fetch_max(done.last_seq, Ordering::Relaxed);
                    seen = done.last_seq;
                    Outcome::Acknowledged { first_seq: done.first_seq }
                }
                Err(error) => {
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    match error.outcome {
                        tercet_client::Outcome::NotAppended => Outcome::NotAppended,
                        tercet_client::Outcome::Unknown => Outcome::Unknown,
                    }
                }
            };
            let ended = now();
            history.submits.push(SubmitOp { values, begun, ended, outcome });
            if self.random.below(8) == 0 {
                history.reads.extend(self.read(seen.max(4) - 3).await);
            }
            tokio::time::sleep(self.random.millis(1, 4)).await;
        }
        history
    }

    /// Reads what was acknowledged last, whoever submitted it.
    async fn only_read(mut self) -> History {
        let mut history = History::default();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let from_seq = self.shared.last_seq.load(Ordering::Relaxed).max(1);
            let read = tokio::time::timeout(READ_PATIENCE, self.read(from_seq)).await;
            history.reads.extend(read.ok().flatten());
            tokio::time::sleep(self.random.millis(5, 15)).await;
        }
        history
    }

    /// A linearizable read. One that fails says nothing of the log.
    async fn read(&self, from_seq: u64) -> Option<ReadOp> {
        const LIMIT: u64 = 20;
        let begun = now();
        let Ok(records) = self.client.read(from_seq, LIMIT).await else {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let ended = now();
        let records =
            records.into_iter().map(|record| (record.seq, record.value.to_vec())).collect();
        Some(ReadOp { linearizable: true, from_seq, limit: LIMIT, begun, ended, records })
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
