//! The Rust client: finds the leader, retries with the same request id until a deadline, and never
//! reports a lost answer as a failure.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::error::{ApiError, Outcome, Reason};
use crate::gather::connect_lazy;
use crate::status::from_status;
use crate::v1;
use crate::v1::cluster_client::ClusterClient;
use crate::v1::log_client::LogClient;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// The pauses between two attempts, from the first to the last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// How long one attempt at a submit may take before another node is asked too: a node that is
/// paused or cut off must not hold up its clients.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// How much longer than it was given a node may take to answer.
const PATIENCE: Duration = Duration::from_millis(200);
/// No further attempt begins so near to the deadline: a refusal that is certain is worth more than
/// an attempt that nobody can know the outcome of.
const LEAST_TIME: Duration = Duration::from_millis(20);

/// Where records stand after a submit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submitted {
    /// The sequence number of the first record.
    pub first_seq: u64,
    /// The sequence number of the last record.
    pub last_seq: u64,
    /// Whether an earlier attempt with the same id had appended them.
    pub duplicate: bool,
    /// The node's whole answer.
    pub response: v1::SubmitResponse,
}

/// How records are submitted.
#[derive(Clone, Debug)]
pub struct SubmitOptions {
    /// Names the request; made up if not set. The same id again is answered with the first result.
    pub request_id: Option<u128>,
    /// Append only if the first record would get this sequence number.
    pub expect_next: Option<u64>,
    /// Answer only when every member has them on disk.
    pub wait_all: bool,
    /// How long to try.
    pub timeout: Duration,
}

impl Default for SubmitOptions {
    fn default() -> Self {
        Self {
            request_id: None,
            expect_next: None,
            wait_all: false,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A client of one cluster. Cheap to clone; connections are made when they are needed.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = tercet_client::Client::new(["127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7103"])?;
/// let done = client.submit(["1"]).await?;
/// println!("record {} is on disk on a majority", done.first_seq);
/// for record in client.read(1, 10).await? {
///     println!("{}: {:?}", record.seq, record.value);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    nodes: Arc<Vec<Node>>,
    /// The node that answered last.
    preferred: Arc<AtomicUsize>,
}

#[derive(Clone, Debug)]
struct Node {
    address: String,
    channel: Channel,
}

impl Client {
    /// A client of the cluster whose nodes have these client addresses (`host:port`); some of them
    /// are enough. Connects when it is first used, inside a Tokio runtime.
    ///
    /// # Errors
    /// `INVALID` for an address that is none, or for no address at all.
    pub fn new<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, ApiError> {
        let mut nodes = Vec::new();
        for address in addresses {
            let address = address.as_ref().trim().to_owned();
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
                ApiError::new(Reason::Invalid, format!("{address} is no address: {error}"))
            })?;
            let endpoint = endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(3));
            nodes.push(Node { address, channel: connect_lazy(&endpoint) });
        }
        if nodes.is_empty() {
            return Err(ApiError::new(Reason::Invalid, "a client needs one address at least"));
        }
        Ok(Self { nodes: Arc::new(nodes), preferred: Arc::new(AtomicUsize::new(0)) })
    }

    /// The addresses of the nodes, in the order given.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.address.as_str())
    }

    /// Appends records, all or none, next to each other. Answers when they are on disk on a
    /// majority.
    ///
    /// # Errors
    /// [`ApiError::outcome`] says whether they were not appended, or whether nobody can know.
    pub async fn submit<V: Into<Bytes>>(
        &self,
        records: impl IntoIterator<Item = V>,
    ) -> Result<Submitted, ApiError> {
        self.submit_with(records, SubmitOptions::default()).await
    }

    /// [`Self::submit`] with options.
    ///
    /// # Errors
    /// [`ApiError::outcome`] says whether they were not appended, or whether nobody can know.
    pub async fn submit_with<V: Into<Bytes>>(
        &self,
        records: impl IntoIterator<Item = V>,
        options: SubmitOptions,
    ) -> Result<Submitted, ApiError> {
        let request_id = options.request_id.unwrap_or_else(new_request_id);
        let request = v1::SubmitRequest {
            records: records.into_iter().map(Into::into).collect(),
            request_id: Bytes::copy_from_slice(&request_id.to_be_bytes()),
            expect_next: options.expect_next,
            wait: if options.wait_all { v1::Wait::All } else { v1::Wait::Quorum }.into(),
            never_forward: false,
        };
        let mut maybe_appended = false;
        let result = self
            .retry(
                options.timeout,
                |node, left| {
                    let mut request = Request::new(request.clone());
                    request.set_timeout(left);
                    let mut log = log_client(&node);
                    async move { log.submit(request).await }
                },
                &mut maybe_appended,
            )
            .await;
        match result {
            Ok(response) => Ok(Submitted {
                first_seq: response.first_seq,
                last_seq: response.last_seq,
                duplicate: response.duplicate,
                response,
            }),
            Err(mut error) => {
                if maybe_appended {
                    error.outcome = Outcome::Unknown;
                }
                Err(error)
            }
        }
    }

    /// Records from `from_seq` on, at most `limit` of them: all that was acknowledged before the
    /// call began.
    ///
    /// # Errors
    /// See [`ApiError::reason`].
    pub async fn read(&self, from_seq: u64, limit: u64) -> Result<Vec<v1::Record>, ApiError> {
        self.read_with(v1::ReadRequest { from_seq, limit, ..v1::ReadRequest::default() }).await
    }

    /// A bounded read with all its options.
    ///
    /// # Errors
    /// See [`ApiError::reason`].
    pub async fn read_with(&self, request: v1::ReadRequest) -> Result<Vec<v1::Record>, ApiError> {
        self.retry(
            Duration::from_secs(10),
            |node, left| {
                let mut call = Request::new(request);
                call.set_timeout(left);
                let mut log = log_client(&node);
                async move {
                    let mut stream = log.read(call).await?.into_inner();
                    let mut records = Vec::new();
                    while let Some(response) = stream.next().await {
                        records.extend(response?.records);
                    }
                    Ok(tonic::Response::new(records))
                }
            },
            &mut false,
        )
        .await
    }

    /// Records from `from_seq` on and those to come, in order, each once; ends with an error when
    /// the node goes away. Resume after the last one that came.
    ///
    /// # Errors
    /// See [`ApiError::reason`].
    pub async fn follow(
        &self,
        from_seq: u64,
    ) -> Result<impl Stream<Item = Result<v1::Record, ApiError>> + Send + 'static, ApiError> {
        let request = v1::ReadRequest { from_seq, follow: true, ..v1::ReadRequest::default() };
        let stream = self
            .retry(
                Duration::from_secs(10),
                |node, _| {
                    let call = Request::new(request);
                    let mut log = log_client(&node);
                    async move { log.read(call).await }
                },
                &mut false,
            )
            .await?;
        Ok(stream.flat_map_records())
    }

    /// The numbers of the first record kept and of the next to come.
    ///
    /// # Errors
    /// See [`ApiError::reason`].
    pub async fn tail(&self, local: bool) -> Result<v1::TailResponse, ApiError> {
        let consistency =
            if local { v1::Consistency::Local } else { v1::Consistency::Linearizable };
        self.retry(
            Duration::from_secs(10),
            |node, left| {
                let mut call = Request::new(v1::TailRequest { consistency: consistency.into() });
                call.set_timeout(left);
                let mut log = log_client(&node);
                async move { log.tail(call).await }
            },
            &mut false,
        )
        .await
    }

    /// What each node says of itself, in the order of the addresses; nodes that do not answer
    /// within two seconds say why not.
    pub async fn statuses(&self) -> Vec<(String, Result<v1::StatusResponse, String>)> {
        let asked: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let mut cluster = ClusterClient::new(node.channel.clone());
                tokio::spawn(async move {
                    let answer = async {
                        // A connection that nobody looked at lately may be to a process that is
                        // no more: the second attempt makes a new one.
                        match cluster.status(v1::StatusRequest {}).await {
                            Err(_) => cluster.status(v1::StatusRequest {}).await,
                            answer => answer,
                        }
                    };
                    match tokio::time::timeout(Duration::from_secs(2), answer).await {
                        Ok(Ok(status)) => Ok(status.into_inner()),
                        Ok(Err(status)) => Err(plain(&status)),
                        Err(_) => Err("no answer within 2 s".to_owned()),
                    }
                })
            })
            .collect();
        let mut statuses = Vec::new();
        for (node, answer) in self.nodes.iter().zip(asked) {
            let status = answer.await.unwrap_or_else(|error| Err(error.to_string()));
            statuses.push((node.address.clone(), status));
        }
        statuses
    }

    /// Hands leadership over to `to`, or to the most up-to-date peer. Says who leads then.
    ///
    /// # Errors
    /// See [`ApiError::reason`].
    pub async fn transfer(&self, to: Option<u32>) -> Result<u32, ApiError> {
        let statuses = self.statuses().await;
        let leads = |status: &v1::StatusResponse| status.role == "leader";
        let leader =
            statuses.iter().position(|(_, status)| status.as_ref().is_ok_and(leads)).ok_or_else(
                || ApiError::new(Reason::NoLeader, "none of the nodes that answer leads"),
            )?;
        let mut cluster = ClusterClient::new(self.nodes[leader].channel.clone());
        let request = v1::TransferLeadershipRequest { to: to.unwrap_or(0) };
        match cluster.transfer_leadership(request).await {
            Ok(response) => Ok(response.into_inner().leader),
            Err(status) => Err(from_status(&status)),
        }
    }

    /// Asks one node after the other until one answers or the time is up.
    async fn retry<T, F>(
        &self,
        timeout: Duration,
        call: impl Fn(Node, Duration) -> F,
        maybe_appended: &mut bool,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + timeout;
        let mut pause = PAUSE.0;
        let mut at = self.preferred.load(Ordering::Relaxed) % self.nodes.len();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = if self.nodes.len() > 1 { left.min(ATTEMPT) } else { left };
            // The node gives up first, and says whether anything was appended; only one that is
            // paused or cut off says nothing.
            let patience = attempt + PATIENCE;
            let answer =
                tokio::time::timeout(patience, call(self.nodes[at].clone(), attempt)).await;
            let error = match answer {
                Ok(Ok(response)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => {
                    let mut error = from_status(&status);
                    if is_unreached(&status) {
                        error.reason = Reason::NoLeader;
                        error.outcome = Outcome::NotAppended;
                        error.message = format!(
                            "{} cannot be reached: {}",
                            self.nodes[at].address,
                            plain(&status)
                        );
                    }
                    error
                }
                Err(_) => {
                    let why = format!("{} did not answer in time", self.nodes[at].address);
                    ApiError::new(Reason::Deadline, why)
                }
            };
            *maybe_appended |= error.outcome == Outcome::Unknown;
            let is_over = Instant::now() + pause + LEAST_TIME >= deadline;
            let retryable = error.is_retryable() || error.reason == Reason::Deadline;
            if !retryable || is_over {
                return Err(error);
            }
            // Where the leader is said to be, or simply the next one.
            let hinted = error.leader.as_deref();
            let next =
                hinted.and_then(|hint| self.nodes.iter().position(|node| node.address == hint));
            at = next.filter(|next| *next != at).unwrap_or((at + 1) % self.nodes.len());
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

/// A stream of responses as a stream of records.
trait Records {
    fn flat_map_records(self) -> impl Stream<Item = Result<v1::Record, ApiError>> + Send + 'static;
}

impl Records for tonic::Streaming<v1::ReadResponse> {
    fn flat_map_records(self) -> impl Stream<Item = Result<v1::Record, ApiError>> + Send + 'static {
        use futures_util::StreamExt as _;
        futures_util::StreamExt::flat_map(self, |response| match response {
            Ok(response) => {
                futures_util::stream::iter(response.records.into_iter().map(Ok).collect::<Vec<_>>())
                    .left_stream()
            }
            Err(status) => futures_util::stream::iter([Err(from_status(&status))]).right_stream(),
        })
    }
}

fn log_client(node: &Node) -> LogClient<Channel> {
    LogClient::new(node.channel.clone()).max_decoding_message_size(usize::MAX)
}

/// Whether the request never left this machine: the connection could not be made.
fn is_unreached(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        source = error.source();
    }
    false
}

/// The innermost reason of a status: "connection refused" rather than "transport error".
fn plain(status: &Status) -> String {
    let mut innermost = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        innermost = error.to_string();
        source = error.source();
    }
    innermost
}

fn random() -> u64 {
    // The standard library's hash keys come from the operating system; each state differs.
    RandomState::new().hash_one(0)
}

/// A new request id: a UUID of version 7, which tells when it was made. A node that no longer
/// remembers requests of that time says so (`KEY_EXPIRED`) instead of appending twice.
pub fn new_request_id() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    request_id_at(u64::try_from(now.as_millis()).unwrap_or(0))
}

/// A new request id made at this time (milliseconds since 1970).
pub fn request_id_at(time_ms: u64) -> u128 {
    let noise = u128::from(random()) << 64 | u128::from(random());
    let id = u128::from(time_ms) << 80 | (noise & ((1 << 80) - 1));
    id & !(0xf << 76) & !(0b11 << 62) | (7 << 76) | (0b10 << 62)
}

/// Between half and the whole of a pause, so that clients do not knock in step.
fn jittered(pause: Duration) -> Duration {
    let percent = u32::try_from(random() % 50).expect("below 50");
    pause / 2 + pause * percent / 100
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::status::to_status;

    #[test]
    fn request_ids_are_of_version_7_and_differ() {
        let (a, b) = (request_id_at(0x0190_0000_0000), request_id_at(0x0190_0000_0000));
        assert_ne!(a, b);
        for id in [a, b] {
            assert_eq!((id >> 80, id >> 76 & 0xf, id >> 62 & 0b11), (0x0190_0000_0000, 7, 0b10));
        }
    }

    #[test]
    fn addresses_are_checked() {
        assert!(Client::new(Vec::<String>::new()).is_err());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        assert!(Client::new(["not an address"]).is_err());
        assert!(Client::new(["127.0.0.1:7101"]).is_ok());
    }

    #[tokio::test]
    async fn no_attempt_begins_just_before_the_deadline() {
        let client = Arc::new(Client::new(["127.0.0.1:1", "127.0.0.1:2"]).unwrap());
        let mut requests = tokio::task::JoinSet::new();
        // So many that deadlines fall into every part of a pause.
        for timeout in (30_000..70_000).step_by(200).map(Duration::from_micros) {
            let client = Arc::clone(&client);
            requests.spawn(async move {
                let least = AtomicU64::new(u64::MAX);
                let refuse = |_, left: Duration| {
                    let left = u64::try_from(left.as_micros()).expect("below a second");
                    least.fetch_min(left, Ordering::Relaxed);
                    let refusal = to_status(&ApiError::new(Reason::NoLeader, "no leader"));
                    std::future::ready(Err::<tonic::Response<()>, _>(refusal))
                };
                let error = client.retry(timeout, refuse, &mut false).await.unwrap_err();
                assert_eq!(error.reason, Reason::NoLeader);
                Duration::from_micros(least.into_inner())
            });
        }
        let least = requests.join_all().await;
        let late = least.iter().filter(|left| **left < LEAST_TIME / 2).count();
        // A machine that is busy elsewhere may wake one of them late.
        assert!(late < 10, "{late} of {} began so late: {least:?}", least.len());
    }
}
