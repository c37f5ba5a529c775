//! The services `tercet.v1.Log` and `tercet.v1.Cluster`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tercet_client::{ApiError, Reason, explain, to_status, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Context;
use super::feed::{Feed, Head};
use super::in_order::InOrder;
use super::intake::request_id;
use crate::node::{NodeHandle, Page, Range, Record, Submit, Submitted};

/// How many requests of one stream may be under way.
const STREAM_WINDOW: usize = 1024;
/// How many bytes of values go into one message of a read, unless the client says less.
const READ_BYTES: u64 = 512 << 10;
/// How many messages of a read wait for the client, besides the one that is being read.
const READ_AHEAD: usize = 1;
/// How many records go into one message of a read.
const READ_RECORDS: u64 = 10_000;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The time that there is for an answer: what the caller gives, as gRPC carries it, less what the
/// answer needs on its way. A caller that gives up by itself learns nothing of the outcome.
fn timeout_of<T>(request: &Request<T>) -> Option<Duration> {
    given_by(request).map(|given| given - (given / 10).min(Duration::from_millis(100)))
}

fn given_by<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn submit_of(request: v1::SubmitRequest, deadline: Instant) -> Result<Submit, ApiError> {
    Ok(Submit {
        request_id: request_id(&request.request_id)?,
        wait_all: request.wait() == v1::Wait::All,
        records: request.records,
        expect_next: request.expect_next,
        never_forward: request.never_forward,
        deadline,
    })
}

pub(super) fn response_of(done: Submitted) -> v1::SubmitResponse {
    v1::SubmitResponse {
        first_seq: done.first_seq,
        last_seq: done.last_seq,
        term: done.term,
        index: done.index,
        duplicate: done.duplicate,
        durable_on: done.durable_on,
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn status(error: ApiError) -> Status {
    to_status(&error)
}

#[derive(Clone, Debug)]
pub(super) struct LogService {
    context: Context,
}

impl LogService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    #[cfg(test)]
    pub(super) const fn context(&self) -> &Context {
        &self.context
    }
}

#[tonic::async_trait]
impl v1::log_server::Log for LogService {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let Context { node, intake, .. } = &self.context;
        let begun = Instant::now();
        let deadline = intake.deadline(begun, timeout_of(&request));
        let submit = submit_of(request.into_inner(), deadline).map_err(status)?;
        let done = intake.submit(node, submit, begun).await.map_err(status)?;
        Ok(Response::new(response_of(done)))
    }

    type SubmitStreamStream = BoxStream<v1::SubmitResponse>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let context = Arc::new(self.context.for_stream());
        let clock = Arc::clone(&context.node.clock);
        let timeout = timeout_of(&request);
        let submit = move |request: Result<v1::SubmitRequest, Status>| {
            let context = Arc::clone(&context);
            async move {
                let begun = Instant::now();
                let deadline = context.intake.deadline(begun, timeout);
                let submit = submit_of(request?, deadline).map_err(status)?;
                let done = context.intake.submit(&context.node, submit, begun).await;
                Ok(response_of(done.map_err(status)?))
            }
        };
        Ok(Response::new(Box::pin(InOrder::new(
            request.into_inner(),
            STREAM_WINDOW,
            clock,
            submit,
        ))))
    }

    type ReadStream = BoxStream<v1::ReadResponse>;

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let Context { node, intake, .. } = &self.context;
        let deadline = intake.deadline(Instant::now(), timeout_of(&request));
        let mut reading = Reading::new(request.into_inner());
        let Page { records, next_seq } = reading.first(node, deadline).await.map_err(status)?;
        // What a read that does not follow ends at: what was there when it began.
        reading.end = next_seq;
        let first = reading.take(records, next_seq);
        if reading.is_done() {
            return Ok(Response::new(Box::pin(tokio_stream::iter(first.map(Ok)))));
        }
        if reading.request.follow {
            let feed = Arc::clone(&self.context.feed);
            let following = Following { head: feed.join(), feed, node: node.clone(), reading };
            let first = tokio_stream::iter(first.map(Ok));
            return Ok(Response::new(Box::pin(first.chain(following.stream()))));
        }
        let (to_client, from_here) = mpsc::channel(READ_AHEAD);
        tokio::spawn(reading.send(node.clone(), first, to_client));
        Ok(Response::new(Box::pin(ReceiverStream::new(from_here))))
    }

    type ReadStreamStream = BoxStream<v1::ReadResponse>;

    async fn read_stream(
        &self,
        request: Request<Streaming<v1::ReadRequest>>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let context = Arc::new(self.context.for_stream());
        let clock = Arc::clone(&context.node.clock);
        let timeout = timeout_of(&request);
        let read = move |request: Result<v1::ReadRequest, Status>| {
            let context = Arc::clone(&context);
            async move {
                let deadline = context.intake.deadline(Instant::now(), timeout);
                let mut reading = Reading::new(request?);
                if reading.request.follow {
                    let why = "a stream of reads follows nothing: use Read for that";
                    return Err(status(ApiError::new(Reason::Invalid, why)));
                }
                let page = reading.first(&context.node, deadline).await.map_err(status)?;
                let Page { records, next_seq } = page;
                Ok(reading.take(records, next_seq).unwrap_or_default())
            }
        };
        Ok(Response::new(Box::pin(InOrder::new(request.into_inner(), STREAM_WINDOW, clock, read))))
    }

    async fn tail(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<v1::TailResponse>, Status> {
        let Context { node, intake, .. } = &self.context;
        let deadline = intake.deadline(Instant::now(), timeout_of(&request));
        if request.into_inner().consistency() == v1::Consistency::Linearizable {
            node.read_barrier(deadline).await.map_err(status)?;
        }
        let progress = *node.progress().borrow();
        Ok(Response::new(v1::TailResponse {
            first_seq: progress.first_seq,
            next_seq: progress.next_seq,
            term: progress.term,
        }))
    }
}

/// What goes into one message from this record on.
pub(super) fn page_range(from_seq: u64, limit: u64, bytes_max: u64) -> Range {
    let bytes_max = if bytes_max == 0 { READ_BYTES } else { bytes_max.min(READ_BYTES) };
    Range { from_seq, limit: limit.min(READ_RECORDS), bytes_max }
}

/// A read on its way: until the limit, the end of the log, or, when following, the end of the
/// client.
struct Reading {
    request: v1::ReadRequest,
    from: u64,
    /// How many records may yet come.
    left: u64,
    end: u64,
}

impl Reading {
    fn new(request: v1::ReadRequest) -> Self {
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        Self { from: request.from_seq.max(1), left, end: u64::MAX, request }
    }

    fn range(&self) -> Range {
        let is_bounded = !self.request.follow && self.end != u64::MAX;
        let there = if is_bounded { self.end.saturating_sub(self.from) } else { u64::MAX };
        page_range(self.from, self.left.min(there), self.request.max_bytes)
    }

    /// Whether the client wants no other pages than most do.
    const fn is_usual(&self) -> bool {
        self.request.limit == 0 && self.request.max_bytes == 0
    }

    /// The records of the first answer.
    async fn first(&self, node: &NodeHandle, deadline: Instant) -> Result<Page, ApiError> {
        let page = if self.request.consistency() == v1::Consistency::Linearizable {
            node.read_linearizable(self.range(), deadline).await?
        } else {
            node.read_local(self.range()).await?
        };
        if self.from > page.next_seq && !self.request.follow {
            let why = format!("the next sequence number is {}", page.next_seq);
            let mut error = ApiError::new(Reason::Future, why);
            error.next_seq = Some(page.next_seq);
            return Err(error);
        }
        Ok(page)
    }

    /// The answer with these records; a follower is told nothing of none.
    fn take(&mut self, records: Vec<Record>, next_seq: u64) -> Option<v1::ReadResponse> {
        let got = records.len() as u64;
        self.left -= got;
        self.from += got;
        if got == 0 && !self.request.follow {
            // Nothing is there where something was said to be: another answer would be the same.
            self.left = 0;
        }
        let record = |Record { seq, value }| v1::Record { seq, value };
        let records = records.into_iter().map(record).collect();
        (got > 0 || !self.request.follow).then_some(v1::ReadResponse::new(records, next_seq))
    }

    const fn is_done(&self) -> bool {
        self.left == 0 || (!self.request.follow && self.from >= self.end)
    }

    /// The rest of a read that ends with the log.
    async fn send(
        mut self,
        node: NodeHandle,
        first: Option<v1::ReadResponse>,
        to_client: mpsc::Sender<Result<v1::ReadResponse, Status>>,
    ) {
        let mut answer = first.map(Ok);
        while let Some(next) = answer {
            if next.is_err() || self.is_done() {
                let _ = to_client.send(next).await;
                return;
            }
            // In this order: what comes next is read while this is on its way.
            let (page, sent) = tokio::join!(
                biased;
                node.read_local(self.range()),
                to_client.send(next),
            );
            if sent.is_err() {
                return;
            }
            answer = match page {
                Ok(Page { records, next_seq }) => self.take(records, next_seq).map(Ok),
                Err(error) => Some(Err(status(error))),
            };
        }
    }
}

/// A client that follows the log.
struct Following {
    feed: Arc<Feed>,
    head: watch::Receiver<Head>,
    node: NodeHandle,
    reading: Reading,
}

impl Following {
    /// One message after the other, each made when the one before is on its way: who does not read
    /// costs no memory, and holds up nobody.
    fn stream(self) -> impl Stream<Item = Result<v1::ReadResponse, Status>> + Send {
        futures_util::stream::unfold(Some(self), |following| async {
            let mut following = following?;
            match following.next().await? {
                Ok(answer) => Some((Ok(answer), Some(following))),
                Err(error) => Some((Err(status(error)), None)),
            }
        })
    }

    async fn next(&mut self) -> Option<Result<v1::ReadResponse, ApiError>> {
        while !self.reading.is_done() {
            let head = *self.head.borrow_and_update();
            if head.stopping {
                return None;
            }
            if self.reading.is_usual()
                && let Some((message, next_seq)) = self.feed.page(self.reading.from)
            {
                self.reading.from = next_seq;
                return Some(Ok(v1::ReadResponse::from_encoded(message)));
            }
            if self.reading.from < head.next_seq {
                match self.node.read_local(self.reading.range()).await {
                    Ok(Page { records, next_seq }) => {
                        if let Some(answer) = self.reading.take(records, next_seq) {
                            return Some(Ok(answer));
                        }
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
            self.head.changed().await.ok()?;
        }
        None
    }
}

#[derive(Clone, Debug)]
pub(super) struct ClusterService {
    context: Context,
}

impl ClusterService {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for ClusterService {
    async fn status(
        &self,
        _request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        self.context.node.status().await.map(Response::new).map_err(status)
    }

    async fn explain(
        &self,
        _request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        explained(&self.context.node).await.map(Response::new).map_err(status)
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        let to = match request.into_inner().to {
            0 => None,
            slot => Some(u8::try_from(slot).map_err(|_| {
                status(ApiError::new(Reason::Invalid, format!("there is no node {slot}")))
            })?),
        };
        let leader = self.context.node.transfer(to).await.map_err(status)?;
        Ok(Response::new(v1::TransferLeadershipResponse { leader: u32::from(leader) }))
    }
}

/// This node's view of the cluster in words.
pub(super) async fn explained(node: &NodeHandle) -> Result<v1::ExplainResponse, ApiError> {
    let report = node.status().await?;
    Ok(explain::explain(&[(format!("n{}", node.id()), Ok(report))]))
}

/// Keeps `grpc.health.v1.Health` true: serving means a member, with a leader.
pub(super) async fn report_health(
    reporter: tonic_health::server::HealthReporter,
    node: NodeHandle,
) {
    let mut serves = node.serves();
    loop {
        let status = if *serves.borrow_and_update() {
            tonic_health::ServingStatus::Serving
        } else {
            tonic_health::ServingStatus::NotServing
        };
        reporter.set_service_status("", status).await;
        reporter.set_service_status("tercet.v1.Log", status).await;
        if serves.changed().await.is_err() {
            return;
        }
    }
}
