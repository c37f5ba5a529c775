//! A running node as the client API sees it: a handle that turns calls into commands for the one
//! owner of the node's state, and waits for the answers.
//!
//! Whatever a node can answer at once it answers through a command; what takes retries (a leader
//! that moves, a forward to it) is `submit`'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tercet_client::v1;
use tercet_client::{ApiError, Outcome, Reason};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::coarse_clock::{CoarseClock, WokenBy};
use crate::metrics::Metrics;

/// No further attempt begins so near to the deadline: if it passes before the owner answers, nobody
/// can know what became of the attempt, where the refusal of the one before says what is wrong.
pub(crate) const LEAST_TIME: Duration = Duration::from_millis(20);

/// Records to append, as a client asked for them.
#[derive(Clone, Debug)]
pub struct Submit {
    /// The values; one at least.
    pub records: Vec<Bytes>,
    /// Names the request, for retries.
    pub request_id: u128,
    /// Append only if the first record would get this sequence number.
    pub expect_next: Option<u64>,
    /// Answer only when every member has it on disk.
    pub wait_all: bool,
    /// Do not forward to the leader.
    pub never_forward: bool,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// Where submitted records stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submitted {
    /// The sequence number of the first record.
    pub first_seq: u64,
    /// The sequence number of the last record.
    pub last_seq: u64,
    /// The entry's term.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
    /// Whether an earlier request with the same id appended them.
    pub duplicate: bool,
    /// The nodes known to have them on disk.
    pub durable_on: Vec<u32>,
}

/// The answer to a submit on its way to who waits for it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) result: Result<Submitted, ApiError>,
    /// When it was given, if this submit's stages are measured.
    pub(crate) at: Option<Instant>,
}

impl From<Result<Submitted, ApiError>> for Answered {
    fn from(result: Result<Submitted, ApiError>) -> Self {
        Self { result, at: None }
    }
}

/// One committed record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its sequence number.
    pub seq: u64,
    /// Its value.
    pub value: Bytes,
}

/// Committed records, and where the log ended when they were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    pub(crate) next_seq: u64,
}

/// What is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) from_seq: u64,
    pub(crate) limit: u64,
    /// About so many bytes of values, one record at least.
    pub(crate) bytes_max: u64,
}

/// What changes when a node makes progress; watched by readers that wait for records and by
/// submits that wait for a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The first sequence number that is kept.
    pub first_seq: u64,
    /// The sequence number after the last applied record.
    pub next_seq: u64,
    /// The current term.
    pub term: u64,
    /// The leader that this node knows, if any, by slot.
    pub leader: Option<u8>,
    /// Whether this node serves: it is a member of a formed cluster and not quarantined.
    pub serving: bool,
    /// Whether the node is shutting down.
    pub stopping: bool,
}

/// One line of the event stream: what happened on this node.
#[derive(Clone, Debug)]
pub struct NodeEvent {
    /// Counts this node's events since it started.
    pub seq: u64,
    /// Microseconds since the node started.
    pub at_us: u64,
    /// The term at that moment.
    pub term: u64,
    /// The event's stable kind, such as `vote_granted`.
    pub kind: &'static str,
    /// The event as a sentence.
    pub text: String,
}

/// What the owner of a node is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Append here, if this node leads.
    Submit { submit: Submit, handed_over: Instant, reply: oneshot::Sender<Answered> },
    /// Pass on to this peer, which is believed to lead.
    Forward { to: u8, submit: Submit, reply: oneshot::Sender<Answered> },
    /// Answer when a local read is linearizable.
    Barrier { reply: oneshot::Sender<Result<(), ApiError>> },
    /// Read committed records; when that is linearizable, if asked so.
    Read { range: Range, linearizable: bool, reply: oneshot::Sender<Result<Page, ApiError>> },
    /// Describe the node.
    Status { reply: oneshot::Sender<v1::StatusResponse> },
    /// Look at the node with the eyes of the lab.
    Look { events_from: u64, reply: oneshot::Sender<Result<v1::LookResponse, ApiError>> },
    /// The lab interferes.
    Interfere { action: crate::lab::Action, reply: oneshot::Sender<Result<(), ApiError>> },
    /// Hand leadership over.
    Transfer { to: Option<u8>, reply: oneshot::Sender<Result<u8, ApiError>> },
}

/// A running node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) serves: watch::Receiver<bool>,
    pub(crate) clock: Arc<CoarseClock>,
    pub(crate) woken_by: WokenBy,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) metrics: Arc<Metrics>,
    /// This node's slot.
    pub(crate) id: u8,
    /// What a caller of the lab must know; `None` where there is no lab.
    pub(crate) lab: Option<LabAccess>,
}

/// Who may use the lab.
#[derive(Clone, Debug)]
pub(crate) struct LabAccess {
    pub(crate) token: Option<Arc<str>>,
}

impl LabAccess {
    /// Whether this is the token, in a time that tells nothing about it.
    pub(crate) fn allows(&self, given: &[u8]) -> bool {
        let Some(token) = &self.token else { return true };
        let token = token.as_bytes();
        let differ = token.iter().zip(given).fold(0, |differ, (a, b)| differ | (a ^ b));
        token.len() == given.len() && differ == 0
    }
}

impl NodeHandle {
    /// A node 1 whose owner is whoever has the other ends, for what is tried without a real one.
    pub(crate) fn of_stand_in(
        commands: mpsc::UnboundedSender<Command>,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        Self {
            commands,
            progress,
            serves: watch::channel(true).1,
            clock: Arc::default(),
            woken_by: WokenBy::Clock,
            events: broadcast::channel(1).0,
            metrics: Arc::default(),
            id: 1,
            lab: None,
        }
    }

    /// This node's slot.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// Appends records, wherever the leader is: here, or by one hop to it. Retries with the same
    /// request id through elections until the deadline.
    ///
    /// # Errors
    /// Every [`ApiError`] says whether the records were not appended or whether nobody can know.
    pub async fn submit(&self, submit: Submit) -> Result<Submitted, ApiError> {
        crate::submit::run(self, submit, Instant::now()).await
    }

    /// The same node, for requests that many of are polled by one task, which looks at the clock for
    /// all of them.
    pub(crate) fn woken_by_caller(&self) -> Self {
        Self { woken_by: WokenBy::Caller, ..self.clone() }
    }

    /// Waits until a read of this node's applied records is linearizable, at most until `deadline`.
    ///
    /// # Errors
    /// `NO_LEADER`, `QUARANTINED` or `DEADLINE`.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), ApiError> {
        self.ask_again(deadline, |reply| Command::Barrier { reply }).await
    }

    /// Asks until a leader is known, at most until `deadline`: a read may simply ask again.
    async fn ask_again<T>(
        &self,
        deadline: Instant,
        command: impl Fn(oneshot::Sender<Result<T, ApiError>>) -> Command,
    ) -> Result<T, ApiError> {
        loop {
            match self.ask(deadline, &command).await? {
                // Lost on the way or no leader yet.
                Err(error) if error.reason == Reason::NoLeader => {
                    let until = deadline.min(Instant::now() + Duration::from_millis(10));
                    tokio::time::sleep_until(until.into()).await;
                    if Instant::now() + LEAST_TIME >= deadline {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }

    /// Committed records of this node from `from_seq` on: at most `limit`, and about `bytes_max`
    /// bytes of values (one record at least). Empty if there is none yet.
    ///
    /// # Errors
    /// `TRIMMED` if `from_seq` is no longer kept.
    pub async fn read(
        &self,
        from_seq: u64,
        limit: u64,
        bytes_max: u64,
    ) -> Result<Vec<Record>, ApiError> {
        let range = Range { from_seq, limit, bytes_max };
        Ok(self.read_local(range).await?.records)
    }

    /// What this node has, with where its log ends.
    pub(crate) async fn read_local(&self, range: Range) -> Result<Page, ApiError> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let read = |reply| Command::Read { range, linearizable: false, reply };
        self.ask(deadline, read).await?
    }

    /// The same behind a read barrier, at most until `deadline`.
    pub(crate) async fn read_linearizable(
        &self,
        range: Range,
        deadline: Instant,
    ) -> Result<Page, ApiError> {
        let read = |reply| Command::Read { range, linearizable: true, reply };
        self.ask_again(deadline, read).await
    }

    /// The node's progress, to look at or to wait for.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Whether this node serves: a member with a leader that does not shut down.
    pub(crate) fn serves(&self) -> watch::Receiver<bool> {
        self.serves.clone()
    }

    /// How this node sees itself and its peers.
    ///
    /// # Errors
    /// `UNAVAILABLE` reasons only: the node is stopping.
    pub async fn status(&self) -> Result<v1::StatusResponse, ApiError> {
        self.ask(Instant::now() + Duration::from_secs(5), |reply| Command::Status { reply }).await
    }

    /// Hands leadership over to `to`, or to the most up-to-date peer.
    ///
    /// # Errors
    /// `NOT_LEADER` with the leader, `INVALID` for a target that cannot lead, `DEADLINE`.
    pub async fn transfer(&self, to: Option<u8>) -> Result<u8, ApiError> {
        self.ask(Instant::now() + Duration::from_secs(10), |reply| Command::Transfer { to, reply })
            .await?
    }

    /// The events of this node from now on. A receiver that falls behind sees a gap, and says so.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }

    /// The node's metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Sends a command and waits for its answer, at most until `deadline`.
    pub(crate) async fn ask<T>(
        &self,
        deadline: Instant,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(command(reply)).is_err() {
            return Err(stopping());
        }
        match self.clock.timeout_at(deadline, self.woken_by, answer).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(_)) => Err(stopping().with_outcome(Outcome::Unknown)),
            None => Err(ApiError::new(Reason::Deadline, "no answer before the deadline")
                .with_outcome(Outcome::Unknown)),
        }
    }
}

fn stopping() -> ApiError {
    ApiError::new(Reason::NoLeader, "this node is shutting down").with_outcome(Outcome::NotAppended)
}
