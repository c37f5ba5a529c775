//! The load: clients that submit, read or follow, each as fast as it is answered (a closed loop) or
//! at moments that are fixed beforehand (an open loop).
//!
//! In an open loop a request that could not begin in time counts from when it should have begun: a
//! cluster that stands still is not asked less, it answers late ("coordinated omission").

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use tercet_client::v1::log_client::LogClient;
use tercet_client::{
    ApiError, Client, Submission, SubmitOptions, Submitter, connect_lazy, from_status, v1,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::measure::Desk;
use super::threads::{Thread, Threads};
use crate::args::BenchWhat;

/// A tailed value begins with the number of the run and the moment at which it was submitted.
pub(super) const STAMP: usize = 16;

/// A pause after an error, so that a cluster without a leader is not stormed.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Who feeds the followers has so many requests under way, so that values are submitted when they are due.
const FEED: usize = 256;
/// Of so many values single ones are read.
const READ_FROM: u64 = 1000;

/// What load there is.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) what: BenchWhat,
    pub(super) clients: usize,
    pub(super) connections: usize,
    pub(super) in_flight: usize,
    pub(super) stream: bool,
    pub(super) submitter: bool,
    pub(super) size: usize,
    pub(super) records: usize,
    /// Requests in a second, of all clients together.
    pub(super) rate: Option<f64>,
}

/// The clients at work.
pub(super) struct Running(JoinSet<()>);

impl Running {
    pub(super) async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

/// When a client's next request is due.
struct Pace {
    begun: Instant,
    end: Instant,
    /// Requests of this client per second; none: as soon as there is room.
    every: Option<Duration>,
    offset: Duration,
    count: u32,
}

impl Pace {
    /// The moment of the next request; in a closed loop that is now.
    fn due(&self) -> Instant {
        self.every.map_or_else(Instant::now, |every| self.begun + self.offset + every * self.count)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Waits until the next request is due; not at all for what is late, where a timer would take
    /// its millisecond.
    async fn wait(&self) {
        if self.every.is_some() && self.due() > Instant::now() {
            tokio::time::sleep_until(self.due().into()).await;
        }
    }
}

/// A connection to the node that takes the load, and to the others if it fails.
#[derive(Clone)]
struct Connection {
    logs: Vec<LogClient<Channel>>,
    at: usize,
}

impl Connection {
    fn new(addresses: &[String]) -> anyhow::Result<Self> {
        let log = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?
                .connect_timeout(Duration::from_millis(500));
            anyhow::Ok(
                LogClient::new(connect_lazy(&endpoint)).max_decoding_message_size(usize::MAX),
            )
        };
        Ok(Self { logs: addresses.iter().map(log).collect::<anyhow::Result<_>>()?, at: 0 })
    }

    fn log(&mut self) -> &mut LogClient<Channel> {
        &mut self.logs[self.at]
    }

    /// Asks the next node from now on.
    async fn turn(&mut self, desk: &Desk, status: &Status) {
        desk.failed(&from_status(status).reason.to_string());
        self.at = (self.at + 1) % self.logs.len();
        tokio::time::sleep(PAUSE).await;
    }
}

impl Load {
    /// The clients begin.
    pub(super) async fn start(
        &self,
        client: &Client,
        targets: &[Vec<String>],
        begun: Instant,
        end: Instant,
        threads: &Threads,
    ) -> anyhow::Result<Running> {
        let connections: Vec<Connection> = (0..self.connections)
            .map(|number| {
                let _there = threads.of(number).runtime.enter();
                Connection::new(&targets[number % targets.len()])
            })
            .collect::<anyhow::Result<_>>()?;
        let connection = |client: usize| connections[client % connections.len()].clone();
        // All clients of a connection are where it is.
        let thread = |client: usize| threads.of(client % connections.len());
        let mut tasks = JoinSet::new();
        match self.what {
            BenchWhat::Submit if self.stream => {
                for number in 0..self.clients {
                    let pace = self.pace(number, self.clients, begun, end);
                    let submits = Submits { load: self.clone(), value: self.value(), run: None };
                    let Thread { runtime, desk, .. } = thread(number);
                    let client = self.stream(connection(number), pace, desk.clone(), submits);
                    tasks.spawn_on(client, runtime);
                }
            }
            BenchWhat::Submit if self.submitter => {
                let clients: Vec<Client> = (0..self.connections)
                    .map(|number| {
                        let _there = threads.of(number).runtime.enter();
                        Client::new(&targets[number % targets.len()])
                    })
                    .collect::<Result<_, _>>()?;
                for number in 0..self.clients {
                    let pace = self.pace(number, self.clients, begun, end);
                    let Thread { runtime, desk, .. } = thread(number);
                    let _there = runtime.enter();
                    let submitter = clients[number % clients.len()].submitter();
                    let client = self.clone().submit_through(submitter, pace, desk.clone());
                    tasks.spawn_on(client, runtime);
                }
            }
            BenchWhat::Submit => {
                let workers = self.clients * self.in_flight;
                for number in 0..workers {
                    let pace = self.pace(number, workers, begun, end);
                    let client = number / self.in_flight;
                    let Thread { runtime, desk, .. } = thread(client);
                    let worker = self.clone().submit_each(connection(client), pace, desk.clone());
                    tasks.spawn_on(worker, runtime);
                }
            }
            BenchWhat::Read if self.stream => {
                let count = self.fill(client).await?;
                for number in 0..self.clients {
                    let pace = self.pace(number, self.clients, begun, end);
                    let reads = Reads { count };
                    let Thread { runtime, desk, .. } = thread(number);
                    let client = self.stream(connection(number), pace, desk.clone(), reads);
                    tasks.spawn_on(client, runtime);
                }
            }
            BenchWhat::Read => {
                let count = self.fill(client).await?;
                let workers = self.clients * self.in_flight;
                for number in 0..workers {
                    let pace = self.pace(number, workers, begun, end);
                    let client = number / self.in_flight;
                    let Thread { runtime, desk, .. } = thread(client);
                    let worker = read_each(connection(client), pace, desk.clone(), count);
                    tasks.spawn_on(worker, runtime);
                }
            }
            BenchWhat::Tail => {
                let next = client.tail(false).await.context("the end of the log")?.next_seq;
                let run = Run { begun, end, number: random() };
                for number in 0..self.clients {
                    let Thread { runtime, desk, .. } = thread(number);
                    let client = follow(connection(number), next, run, desk.clone());
                    tasks.spawn_on(client, runtime);
                }
                let pace = self.pace(0, 1, begun, end);
                // Those who follow are measured, not the one that feeds them.
                let Thread { runtime, .. } = threads.of(0);
                let _there = runtime.enter();
                let source = Connection::new(&targets[0])?;
                let feed = Self { in_flight: self.in_flight.max(FEED), ..self.clone() };
                let run = Some(run.number);
                let submits = Submits { load: feed.clone(), value: self.value(), run };
                tasks.spawn_on(feed.stream(source, pace, Desk::new(), submits), runtime);
            }
        }
        Ok(Running(tasks))
    }

    fn pace(&self, number: usize, of: usize, begun: Instant, end: Instant) -> Pace {
        let step = self.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        let times = |step: Duration, times: usize| step * u32::try_from(times).unwrap_or(u32::MAX);
        Pace {
            begun,
            end,
            every: step.map(|step| times(step, of)),
            offset: step.map_or(Duration::ZERO, |step| times(step, number)),
            count: 0,
        }
    }

    fn request(&self, value: &Bytes) -> v1::SubmitRequest {
        v1::SubmitRequest {
            records: vec![value.clone(); self.records],
            ..v1::SubmitRequest::default()
        }
    }

    fn value(&self) -> Bytes {
        Bytes::from(vec![b'x'; self.size])
    }

    /// One request at a time.
    async fn submit_each(self, mut connection: Connection, mut pace: Pace, desk: Desk) {
        let value = self.value();
        while !pace.is_over() {
            pace.wait().await;
            let due = pace.due();
            let mut request = tonic::Request::new(self.request(&value));
            request.set_timeout(TIMEOUT);
            match connection.log().submit(request).await {
                Ok(_) => desk.done(due, self.records),
                Err(status) => connection.turn(&desk, &status).await,
            }
            pace.count = pace.count.saturating_add(1);
        }
    }

    /// Several values under way, through the client library's submitter.
    async fn submit_through(self, submitter: Submitter, mut pace: Pace, desk: Desk) {
        let value = self.value();
        let mut under_way: VecDeque<(Instant, Submission)> = VecDeque::new();
        while !pace.is_over() {
            tokio::select! {
                biased;
                () = pace.wait(), if under_way.len() < self.in_flight => {
                    under_way.push_back((pace.due(), submitter.submit(value.clone()).await));
                    pace.count = pace.count.saturating_add(1);
                }
                answer = first(&mut under_way) => {
                    match answer {
                        Ok(due) => desk.done(due, 1),
                        Err(error) => desk.failed(&error.reason.to_string()),
                    }
                }
            }
        }
    }

    /// A stream with several requests under way. A stream that ends is begun again.
    fn stream<S: Streamed>(
        &self,
        mut connection: Connection,
        mut pace: Pace,
        desk: Desk,
        streamed: S,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let in_flight = self.in_flight;
        async move {
            while !pace.is_over() {
                let (requests, taken) = mpsc::channel(in_flight);
                let mut answers = match S::open(connection.log(), ReceiverStream::new(taken)).await
                {
                    Ok(answers) => answers,
                    Err(status) => {
                        connection.turn(&desk, &status).await;
                        continue;
                    }
                };
                let mut pending = VecDeque::new();
                while !pace.is_over() {
                    let is_open = pending.len() < in_flight;
                    tokio::select! {
                        biased;
                        () = pace.wait(), if is_open => {
                            let due = pace.due();
                            let request = streamed.request(&pace);
                            pace.count = pace.count.saturating_add(1);
                            // There is room for as many as are under way.
                            if requests.send(request).await.is_err() {
                                break;
                            }
                            pending.push_back(due);
                        }
                        answer = answers.next(), if !pending.is_empty() => match answer {
                            Some(Ok(answer)) => {
                                if let Some(due) = pending.pop_front() {
                                    desk.done(due, streamed.records(&answer));
                                }
                            }
                            Some(Err(status)) => {
                                connection.turn(&desk, &status).await;
                                break;
                            }
                            None => break,
                        }
                    }
                }
            }
        }
    }

    /// A value that tells when it was submitted, in nanoseconds since the run began.
    fn stamp(&self, run: u64, at: Duration) -> Bytes {
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let mut value = Vec::with_capacity(self.size);
        value.extend(run.to_le_bytes());
        value.extend(nanos.to_le_bytes());
        value.resize(self.size, b'x');
        Bytes::from(value)
    }

    /// Sees to it that there is something to read; says how many values there are.
    async fn fill(&self, client: &Client) -> anyhow::Result<u64> {
        let next = client.tail(false).await.context("the end of the log")?.next_seq;
        if next > READ_FROM {
            return Ok(READ_FROM);
        }
        let values = vec![self.value(); usize::try_from(READ_FROM)?];
        client.submit_with(values, SubmitOptions::default()).await.context("values to read")?;
        Ok(READ_FROM)
    }
}

/// Waits for the first answer; says since when its value was due.
async fn first(under_way: &mut VecDeque<(Instant, Submission)>) -> Result<Instant, ApiError> {
    match under_way.front_mut() {
        Some((due, submission)) => {
            let (due, answer) = (*due, submission.await);
            under_way.pop_front();
            answer.map(|_| due)
        }
        None => std::future::pending().await,
    }
}

/// What goes over a stream.
trait Streamed: Send + 'static {
    type Request: Send + 'static;
    type Response: Send;

    fn open(
        log: &mut LogClient<Channel>,
        requests: ReceiverStream<Self::Request>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;

    /// The next request.
    fn request(&self, pace: &Pace) -> Self::Request;

    /// How many records an answer is about.
    fn records(&self, answer: &Self::Response) -> usize;
}

struct Submits {
    load: Load,
    value: Bytes,
    /// The run that the values tell of, if they do.
    run: Option<u64>,
}

impl Streamed for Submits {
    type Request = v1::SubmitRequest;
    type Response = v1::SubmitResponse;

    async fn open(
        log: &mut LogClient<Channel>,
        requests: ReceiverStream<v1::SubmitRequest>,
    ) -> Result<Streaming<v1::SubmitResponse>, Status> {
        Ok(log.submit_stream(requests).await?.into_inner())
    }

    fn request(&self, pace: &Pace) -> v1::SubmitRequest {
        match self.run {
            Some(run) => {
                self.load.request(&self.load.stamp(run, pace.due().duration_since(pace.begun)))
            }
            None => self.load.request(&self.value),
        }
    }

    fn records(&self, _answer: &v1::SubmitResponse) -> usize {
        self.load.records
    }
}

/// Single records, one after the other, as [`read_each`] reads them.
struct Reads {
    count: u64,
}

impl Streamed for Reads {
    type Request = v1::ReadRequest;
    type Response = v1::ReadResponse;

    async fn open(
        log: &mut LogClient<Channel>,
        requests: ReceiverStream<v1::ReadRequest>,
    ) -> Result<Streaming<v1::ReadResponse>, Status> {
        Ok(log.read_stream(requests).await?.into_inner())
    }

    fn request(&self, pace: &Pace) -> v1::ReadRequest {
        let from_seq = 1 + u64::from(pace.count) % self.count;
        v1::ReadRequest { from_seq, limit: 1, ..v1::ReadRequest::default() }
    }

    fn records(&self, answer: &v1::ReadResponse) -> usize {
        answer.records.len()
    }
}

/// Reads one value after the other, each of which is to be the newest that anybody knows of.
async fn read_each(mut connection: Connection, mut pace: Pace, desk: Desk, count: u64) {
    while !pace.is_over() {
        pace.wait().await;
        let due = pace.due();
        let from_seq = 1 + u64::from(pace.count) % count;
        let mut request = tonic::Request::new(v1::ReadRequest {
            from_seq,
            limit: 1,
            ..v1::ReadRequest::default()
        });
        request.set_timeout(TIMEOUT);
        match read(connection.log(), request).await {
            Ok(records) => desk.done(due, records),
            Err(status) => connection.turn(&desk, &status).await,
        }
        pace.count = pace.count.saturating_add(1);
    }
}

async fn read(
    log: &mut LogClient<Channel>,
    request: tonic::Request<v1::ReadRequest>,
) -> Result<usize, Status> {
    let mut answers = log.read(request).await?.into_inner();
    let mut records = 0;
    while let Some(answer) = answers.next().await {
        records += answer?.records.len();
    }
    Ok(records)
}

/// A run whose values tell their age.
#[derive(Clone, Copy)]
struct Run {
    begun: Instant,
    end: Instant,
    number: u64,
}

impl Run {
    /// How old a value is, if it is one of this run.
    fn age(&self, value: &[u8]) -> Option<Duration> {
        let (run, rest) = value.split_first_chunk()?;
        let nanos = u64::from_le_bytes(*rest.first_chunk()?);
        let is_ours = u64::from_le_bytes(*run) == self.number;
        is_ours.then(|| self.begun.elapsed().saturating_sub(Duration::from_nanos(nanos)))
    }
}

fn random() -> u64 {
    let id = tercet_client::new_request_id();
    u64::try_from(id & u128::from(u64::MAX)).expect("it was cut to that")
}

/// Follows the log from a number on, and notes how old each value is when it comes.
async fn follow(mut connection: Connection, mut next: u64, run: Run, desk: Desk) {
    while Instant::now() < run.end {
        let request =
            v1::ReadRequest { from_seq: next, follow: true, ..v1::ReadRequest::default() };
        let mut answers = match connection.log().read(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                connection.turn(&desk, &status).await;
                continue;
            }
        };
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(answer) => {
                    for record in answer.records {
                        next = record.seq + 1;
                        if let Some(age) = run.age(&record.value) {
                            desk.took(age, 1);
                        }
                    }
                }
                Err(status) => {
                    connection.turn(&desk, &status).await;
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rate: Option<f64>) -> Load {
        Load {
            what: BenchWhat::Submit,
            clients: 4,
            connections: 2,
            in_flight: 1,
            stream: false,
            submitter: false,
            size: 20,
            records: 1,
            rate,
        }
    }

    #[test]
    fn an_open_loop_shares_the_moments() {
        let begun = Instant::now();
        let load = load(Some(100.0));
        let mut moments = Vec::new();
        for number in 0..4 {
            let mut pace = load.pace(number, 4, begun, begun + Duration::from_secs(1));
            for count in 0..3 {
                pace.count = count;
                moments.push(pace.due().duration_since(begun).as_millis());
            }
        }
        moments.sort_unstable();
        assert_eq!(moments, (0..12).map(|n| n * 10).collect::<Vec<u128>>());
    }

    #[test]
    fn a_value_tells_its_age_to_its_run_alone() {
        let begun = Instant::now() - Duration::from_millis(50);
        let run = Run { begun, end: begun, number: 7 };
        let value = load(None).stamp(7, Duration::from_millis(20));
        assert_eq!(value.len(), 20);
        assert!(run.age(&value).is_some_and(|age| age >= Duration::from_millis(30)));
        assert_eq!(Run { number: 8, ..run }.age(&value), None);
        assert_eq!(run.age(b"short"), None);
    }
}
