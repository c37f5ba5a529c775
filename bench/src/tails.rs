//! What readers that follow the log cost those who submit.
//!
//! Nodes, submits and readers share the processors of this machine: what the readers spend by
//! themselves, they would elsewhere spend on machines of their own. So the processor time of all
//! stands beside the throughput.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use tercet_client::v1::log_client::LogClient;
use tercet_client::{connect_lazy, v1};
use tercet_testkit::Cluster;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::transport::Endpoint;

use crate::load::{Load, Sample, Settings};
use crate::output::{Cell, Runs, Table, note, ratio};
use crate::{cluster, started};

/// How many readers, and whether all are at the leader.
const CASES: [(usize, bool); 5] = [(0, false), (10, false), (100, false), (10, true), (100, true)];
/// How long readers may take until each has what was there before them.
const LEVEL: Duration = Duration::from_secs(30);

/// Readers that follow the log, each with a connection of its own.
struct Tails {
    received: Vec<Arc<AtomicU64>>,
    tasks: JoinSet<Result<(), Status>>,
}

impl Tails {
    /// All are there when this returns.
    fn start(cluster: &Cluster, count: usize, first: Option<usize>) -> anyhow::Result<Self> {
        let next = cluster.run(cluster.client().tail(false))?.next_seq;
        let mut tails = Self { received: Vec::new(), tasks: JoinSet::new() };
        for number in 0..count {
            let node = first.unwrap_or(1 + number % cluster.count());
            let received = Arc::new(AtomicU64::new(0));
            let reader = follow(cluster.address(node), next, Arc::clone(&received));
            cluster.run(async { tails.tasks.spawn(reader) });
            tails.received.push(received);
        }
        // One record that all of them get.
        cluster.run(cluster.client().submit(["for all who follow"]))?;
        tails.await_each(1)?;
        Ok(tails)
    }

    fn await_each(&self, count: u64) -> anyhow::Result<()> {
        let deadline = Instant::now() + LEVEL;
        while self.received.iter().any(|received| received.load(Ordering::Relaxed) < count) {
            ensure!(
                Instant::now() < deadline,
                "not each reader has {count} records after {LEVEL:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The fewest records that any of them has.
    fn fewest(&self) -> u64 {
        self.received.iter().map(|received| received.load(Ordering::Relaxed)).min().unwrap_or(0)
    }
}

async fn follow(address: String, from: u64, received: Arc<AtomicU64>) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::internal(error.to_string()))?;
    let mut log = LogClient::new(connect_lazy(&endpoint)).max_decoding_message_size(usize::MAX);
    let request = v1::ReadRequest { from_seq: from, follow: true, ..v1::ReadRequest::default() };
    let mut answers = log.read(request).await?.into_inner();
    while let Some(answer) = answers.next().await {
        received.fetch_add(answer?.records.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// What became of one case.
#[derive(Default)]
struct Seen {
    rate: Runs,
    p99: Runs,
    leader: Runs,
    followers: Runs,
    load: Runs,
    readers: Runs,
    /// Of the nodes, for one submit, in microseconds.
    each: Runs,
    behind: Runs,
}

impl Seen {
    fn add(&mut self, sample: &Sample, leader: usize, behind: f64) {
        let nodes: f64 = sample.nodes_cores.iter().sum();
        let leads = sample.nodes_cores[leader - 1];
        self.rate.add(sample.per_second);
        self.p99.add(sample.p99_ms);
        self.leader.add(leads);
        self.followers.add(nodes - leads);
        self.load.add(sample.load_cores);
        self.readers.add(sample.own_cores);
        self.each.add(nodes / sample.per_second * 1e6);
        self.behind.add(behind);
    }
}

pub(crate) fn tails(program: &Path, settings: &Settings) -> anyhow::Result<()> {
    for (what, load) in [
        ("submits of 64 clients on 8 connections, beside readers that follow the log", Load::UNARY),
        (
            "submits over 8 streams, 8 in flight each, beside readers that follow the log",
            Load::STREAMS,
        ),
    ] {
        beside(program, settings, what, load)?;
    }
    Ok(())
}

fn beside(
    program: &Path,
    settings: &Settings,
    what: &'static str,
    load: Load,
) -> anyhow::Result<()> {
    let mut cluster = cluster(program, 3)?;
    let leader = started(&mut cluster)?;
    let mut seen: [Seen; CASES.len()] = Default::default();
    for run in 1..=settings.runs {
        for ((count, at_leader), seen) in CASES.into_iter().zip(&mut seen) {
            note(&format!("run {run} of {}: {count} readers", settings.runs));
            let readers = Tails::start(&cluster, count, at_leader.then_some(leader))?;
            let before = cluster.run(cluster.client().tail(false))?.next_seq;
            let has_before = readers.fewest();
            let sample = load.run(program, &cluster, settings.length())?;
            let written = cluster.run(cluster.client().tail(false))?.next_seq - before;
            let has = readers.fewest() - has_before;
            let behind = if count == 0 { 0 } else { written.saturating_sub(has) };
            seen.add(&sample, leader, f64::from(u32::try_from(behind)?));
        }
    }
    let mut table = Table::new(
        what,
        &[
            "readers",
            "at",
            "submits/s",
            "to none",
            "p99 ms",
            "cores: leader",
            "followers",
            "load",
            "readers themselves",
            "µs of nodes for a submit",
            "records behind at the end",
        ],
    );
    let none = seen[0].rate.median();
    for ((count, at_leader), seen) in CASES.into_iter().zip(&seen) {
        let at = match (count, at_leader) {
            (0, _) => "–",
            (_, true) => "the leader",
            (_, false) => "all nodes",
        };
        let rate: Cell = ratio(seen.rate.median(), none);
        table.row(
            [count.into(), at.into(), seen.rate.cell(), rate, seen.p99.cell()].into_iter().chain(
                [
                    &seen.leader,
                    &seen.followers,
                    &seen.load,
                    &seen.readers,
                    &seen.each,
                    &seen.behind,
                ]
                .map(Runs::cell),
            ),
        );
    }
    table.print();
    Ok(())
}
