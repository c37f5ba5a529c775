//! Many values, one after the other: what is submitted while a request is under way becomes the next
//! request.
//!
//! The one idea is the node's own for its disk: nothing is delayed to make a batch bigger, and a
//! batch is what came while the last one was under way. Whoever submits little waits for nobody,
//! and whoever submits much pays for few requests.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::client::{Client, SubmitOptions};
use crate::error::{ApiError, Outcome, Reason};

/// The most values in one request.
const BATCH_VALUES_MAX: usize = 10_000;
/// The most bytes of values in one request; one value may have more.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What a value takes in memory beside its bytes, about.
const OVERHEAD: usize = 128;

/// How a [`Submitter`] submits.
#[derive(Clone, Debug)]
pub struct SubmitterOptions {
    /// Answer only when every member has a value on disk.
    pub wait_all: bool,
    /// How long a value is tried at least, from when it was submitted.
    pub timeout: Duration,
    /// How many bytes of values may wait for their answers; who submits more waits until there is
    /// room.
    pub buffer_bytes: usize,
}

impl Default for SubmitterOptions {
    fn default() -> Self {
        let SubmitOptions { wait_all, timeout, .. } = SubmitOptions::default();
        Self { wait_all, timeout, buffer_bytes: 16 << 20 }
    }
}

/// Submits values one after the other without waiting for each: made by [`Client::submitter`].
/// Cheap to clone; all clones share one order.
///
/// Values go into the log in the order in which they were submitted, each once, whichever node leads
/// meanwhile. Of values that fail, later ones may stand in the log all the same.
///
/// ```no_run
/// # async fn example(client: tercet_client::Client) -> Result<(), tercet_client::ApiError> {
/// let submitter = client.submitter();
/// let mut under_way = Vec::new();
/// for value in ["1", "2", "3"] {
///     under_way.push(submitter.submit(value).await);
/// }
/// for submission in under_way {
///     println!("record {} is on disk on a majority", submission.await?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Submitter {
    values: mpsc::UnboundedSender<Value>,
    room: Arc<Semaphore>,
    room_max: u32,
    timeout: Duration,
}

/// A value on its way: becomes its sequence number, once it is on disk on a majority. Who drops it
/// submits all the same.
#[derive(Debug)]
#[must_use = "whether the value is in the log is known only from this"]
pub struct Submission(oneshot::Receiver<Result<u64, ApiError>>);

impl Future for Submission {
    type Output = Result<u64, ApiError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| {
            answer.unwrap_or_else(|_| {
                let why = "the runtime ended with the value under way";
                Err(ApiError::new(Reason::Internal, why))
            })
        })
    }
}

#[derive(Debug)]
struct Value {
    bytes: Bytes,
    room: u32,
    deadline: Instant,
    done: oneshot::Sender<Result<u64, ApiError>>,
}

impl Client {
    /// For many values, one after the other: see [`Submitter`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn submitter(&self) -> Submitter {
        self.submitter_with(SubmitterOptions::default())
    }

    /// [`Self::submitter`] with options.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn submitter_with(&self, options: SubmitterOptions) -> Submitter {
        let room_max = u32::try_from(options.buffer_bytes).unwrap_or(u32::MAX).max(1);
        let room_max = room_max.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let (values, inbox) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(room_max as usize));
        let timeout = options.timeout;
        let sender = Sender {
            client: self.clone(),
            inbox,
            waiting: VecDeque::new(),
            room: Arc::clone(&room),
            wait_all: options.wait_all,
            batch_max: BATCH_VALUES_MAX,
        };
        tokio::spawn(sender.run());
        Submitter { values, room, room_max, timeout }
    }
}

impl Submitter {
    /// Submits a value behind all that were submitted before. Waits only while the buffer is full;
    /// the [`Submission`] says what became of it.
    ///
    /// # Errors
    /// None here. The submission's: [`ApiError::outcome`] says whether the value was not appended, or
    /// whether nobody can know.
    pub async fn submit(&self, value: impl Into<Bytes>) -> Submission {
        let bytes = value.into();
        // A value that is larger than the whole buffer waits until it is alone.
        let room = u32::try_from(bytes.len().saturating_add(OVERHEAD)).unwrap_or(u32::MAX);
        let room = room.min(self.room_max);
        match self.room.acquire_many(room).await {
            // Given back when the value is answered.
            Ok(permit) => permit.forget(),
            Err(_) => unreachable!("nobody closes it"),
        }
        let (done, submission) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        // If nobody is there to take it, the submission says so.
        let _ = self.values.send(Value { bytes, room, deadline, done });
        Submission(submission)
    }
}

/// Who sends the requests, one after the other.
struct Sender {
    client: Client,
    inbox: mpsc::UnboundedReceiver<Value>,
    waiting: VecDeque<Value>,
    room: Arc<Semaphore>,
    wait_all: bool,
    /// The most values in one request: fewer once a node has said that it takes fewer.
    batch_max: usize,
}

impl Sender {
    async fn run(mut self) {
        let mut arrived = Vec::new();
        loop {
            if self.waiting.is_empty()
                && self.inbox.recv_many(&mut arrived, BATCH_VALUES_MAX).await == 0
            {
                return;
            }
            self.waiting.extend(arrived.drain(..));
            // Who submits several values at once has begun; the others are let in, too.
            let mut before = 0;
            while self.waiting.len() > before && self.waiting.len() < self.batch_max {
                before = self.waiting.len();
                tokio::task::yield_now().await;
                while let Ok(value) = self.inbox.try_recv() {
                    self.waiting.push_back(value);
                }
            }
            let batch = self.next_batch();
            self.submit(batch).await;
        }
    }

    /// What goes into the next request.
    fn next_batch(&mut self) -> Vec<Value> {
        let (mut count, mut bytes) = (0, 0);
        for value in self.waiting.iter().take(self.batch_max) {
            bytes += value.bytes.len();
            if count > 0 && bytes > BATCH_BYTES_MAX {
                break;
            }
            count += 1;
        }
        self.waiting.drain(..count).collect()
    }

    async fn submit(&mut self, mut batch: Vec<Value>) {
        // What waited too long behind others was never sent.
        let now = Instant::now();
        let late = |value: &mut Value| value.deadline <= now;
        for value in batch.extract_if(.., late) {
            let why = "the time was up before the value could be sent";
            let error = ApiError::new(Reason::Deadline, why).with_outcome(Outcome::NotAppended);
            self.room.add_permits(value.room as usize);
            let _ = value.done.send(Err(error));
        }
        let Some(deadline) = batch.iter().map(|value| value.deadline).max() else { return };
        let options = SubmitOptions {
            wait_all: self.wait_all,
            timeout: deadline - now,
            ..SubmitOptions::default()
        };
        let records = batch.iter().map(|value| value.bytes.clone());
        let result = self.client.submit_with(records, options).await;
        if let Err(error) = &result
            && error.reason == Reason::TooLarge
            && batch.len() > 1
        {
            // Nodes can be told to take less in one request, or one of the values is too large.
            self.batch_max = batch.len() / 2;
            for value in batch.into_iter().rev() {
                self.waiting.push_front(value);
            }
            return;
        }
        self.room.add_permits(batch.iter().map(|value| value.room as usize).sum());
        match result {
            Ok(done) => {
                for (seq, value) in (done.first_seq..).zip(batch) {
                    let _ = value.done.send(Ok(seq));
                }
            }
            Err(error) => {
                if error.reason == Reason::TooLarge {
                    // It was the value.
                    self.batch_max = BATCH_VALUES_MAX;
                }
                for value in batch {
                    let _ = value.done.send(Err(error.clone()));
                }
            }
        }
    }
}
