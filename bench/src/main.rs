//! Measures a cluster of three real processes on this machine: the figures of docs/performance.md.
//!
//! Each figure is measured, never asserted: a slow machine is no defect. What depends on the disk
//! is printed beside what the disk itself does in the same run.
#![allow(clippy::print_stdout, reason = "it prints figures")]

mod catch_up;
mod failover;
mod grow;
mod load;
mod output;
mod reads;
mod tails;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use serde_json::json;
use tercet_client::{Client, SubmitOptions};
use tercet_testkit::{Cluster, Options};

use load::Settings;
use output::{progress, quantiles, say};

/// Measure a cluster of three real processes on this machine.
#[derive(Parser)]
struct Args {
    /// What to measure
    #[arg(value_enum, default_values_t = Figure::USUAL)]
    figures: Vec<Figure>,
    /// Each figure as an object in one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Figure {
    /// From the start of the processes to a leader
    Start,
    /// From `kill -9` of the leader to the next acknowledged submit, 50 times; from its silence,
    /// twice 25 times
    Failover,
    /// The longest time between two acknowledgements when a leader hands over, 25 times each
    Handover,
    /// One client, values of 256 bytes, beside the disk's own sync
    Latency,
    /// From the start of a wiped node until it votes again, with 10,000 records
    Rejoin,
    /// The same with 1 GiB
    RejoinGib,
    /// Memory when idle, with a million records, and how long a restart takes with them
    Million,
    /// The same with a million requests of one record each
    MillionRequests,
    /// Submits beside 0, 10 and 100 readers that follow the log
    Tails,
    /// A log that is in no memory, read from its beginning to its end, beside the disk's own rate
    ColdRead,
    /// A node that was down is brought level, beside the disk's own rate and a steady load
    CatchUp,
    /// Linearizable reads at the leader, at followers, and at all nodes
    FollowerReads,
    /// Submits of values of 16 bytes to 1 MiB, and in clusters of 3, 5 and 7
    Sweep,
    /// Submits with a short log and with a long one
    Growth,
}

impl Figure {
    /// What is measured if nothing is said: what takes no more than minutes.
    const USUAL: [Self; 8] = [
        Self::Start,
        Self::Failover,
        Self::Handover,
        Self::Latency,
        Self::Rejoin,
        Self::RejoinGib,
        Self::Million,
        Self::MillionRequests,
    ];
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.to_possible_value().expect("none is hidden");
        f.write_str(name.get_name())
    }
}

fn main() -> anyhow::Result<()> {
    let Args { figures, json, settings } = Args::parse();
    output::choose(json);
    let program = settings.program()?;
    for figure in figures {
        say(&format!("\n== {figure}"), &json!({ "figure": figure.to_string() }));
        match figure {
            Figure::Start => start(&program)?,
            Figure::Failover => failover::failover(&program)?,
            Figure::Handover => failover::handover(&program)?,
            Figure::Latency => latency(&program)?,
            Figure::Rejoin => rejoin(&program, 10_000, 256)?,
            Figure::RejoinGib => rejoin(&program, 16 << 10, 64 << 10)?,
            Figure::Million => million(&program, Filling::batches(256))?,
            Figure::MillionRequests => million(&program, Filling { workers: 256, batch: 1 })?,
            Figure::Tails => tails::tails(&program, &settings)?,
            Figure::ColdRead => reads::cold(&program, &settings)?,
            Figure::CatchUp => catch_up::catch_up(&program, &settings)?,
            Figure::FollowerReads => reads::at_nodes(&program, &settings)?,
            Figure::Sweep => grow::sweep(&program, &settings)?,
            Figure::Growth => grow::growth(&program, &settings)?,
        }
    }
    Ok(())
}

fn cluster(program: &Path, nodes: usize) -> anyhow::Result<Cluster> {
    let repeat = "cargo run --release -p tercet-bench".to_owned();
    Cluster::new(program, Options { nodes, arguments: Vec::new(), repeat })
}

/// Starts the nodes that do not run; says who leads.
fn started(cluster: &mut Cluster) -> anyhow::Result<usize> {
    cluster.start_all()?;
    cluster.await_leader()
}

/// Everything that was written until now goes to the disk, so that what comes next does not wait for
/// it: a node's `values.log` is not synced with each batch.
fn write_back(cluster: &Cluster) -> anyhow::Result<()> {
    output::note("what was written goes to the disk");
    Ok(rustix::fs::syncfs(File::open(cluster.dir())?)?)
}

#[allow(clippy::cast_precision_loss, reason = "a figure is shown with a few digits")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn per_second(amount: f64, time: Duration) -> f64 {
    amount / time.as_secs_f64()
}

fn start(program: &Path) -> anyhow::Result<()> {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let mut cluster = cluster(program, 3)?;
        for times in [&mut first, &mut again] {
            let begun = Instant::now();
            cluster.start_all()?;
            cluster.await_leader()?;
            times.push(begun.elapsed());
            cluster.stop_all()?;
        }
    }
    quantiles("three processes started → a leader, first start", first);
    quantiles("three processes started → a leader, later starts", again);
    Ok(())
}

/// What one client waits for, beside what the disk does: a write of a page and `fdatasync` on a file
/// of zeros, in turns.
fn latency(program: &Path) -> anyhow::Result<()> {
    let mut cluster = cluster(program, 3)?;
    let leader = started(&mut cluster)?;
    let path = cluster.dir().join("bare");
    fs::write(&path, vec![0; 16 << 20])?;
    let file = File::options().write(true).open(&path)?;
    file.sync_all()?;
    let value = Bytes::from(vec![b'x'; 256]);
    let mut addresses = cluster.addresses();
    addresses.rotate_left(leader - 1);
    let (to_leader, to_follower) = cluster.run(async {
        let to_leader = Client::new([addresses[0].clone()])?;
        let to_follower = Client::new([addresses[1].clone()])?;
        anyhow::Ok((to_leader, to_follower))
    })?;
    let page = vec![b'y'; 4096];
    let (mut bare, mut direct, mut forwarded) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..2000_u64 {
        let begun = Instant::now();
        file.write_all_at(&page, round % 4096 * 4096)?;
        file.sync_data()?;
        bare.push(begun.elapsed());
        for (client, times) in [(&to_leader, &mut direct), (&to_follower, &mut forwarded)] {
            let begun = Instant::now();
            cluster.run(client.submit([value.clone()]))?;
            times.push(begun.elapsed());
        }
    }
    quantiles("fdatasync alone", bare);
    quantiles("submit at the leader", direct);
    quantiles("submit at a follower", forwarded);
    Ok(())
}

/// How a log is filled.
#[derive(Clone, Copy)]
struct Filling {
    /// Requests at a time.
    workers: u64,
    /// Records in each.
    batch: u64,
}

impl Filling {
    /// A few large requests at a time.
    fn batches(bytes: usize) -> Self {
        Self { workers: 8, batch: (256 * 1024 / bytes as u64).clamp(1, 1000) }
    }
}

/// Fills the log with `count` records of `bytes` bytes.
fn fill(cluster: &Cluster, count: u64, bytes: usize, filling: Filling) -> anyhow::Result<()> {
    let client = cluster.client().clone();
    let value = Bytes::from(vec![b'x'; bytes]);
    let Filling { workers, batch } = filling;
    let bar = progress(count, "filling the log");
    let begun = Instant::now();
    cluster.run(async {
        let tasks: Vec<_> = (0..workers)
            .map(|worker| {
                let (client, value, bar) = (client.clone(), value.clone(), bar.clone());
                tokio::spawn(async move {
                    let mut left = count / workers + u64::from(worker < count % workers);
                    while left > 0 {
                        let size = batch.min(left);
                        let records = vec![value.clone(); usize::try_from(size).expect("small")];
                        let timeout = Duration::from_secs(60);
                        let options = SubmitOptions { timeout, ..SubmitOptions::default() };
                        client.submit_with(records, options).await?;
                        left -= size;
                        bar.inc(size);
                    }
                    Ok::<(), tercet_client::ApiError>(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        anyhow::Ok(())
    })?;
    let took = begun.elapsed();
    bar.finish_and_clear();
    let rate = per_second(mib(count * bytes as u64), took);
    let text = format!("{count} records of {bytes} bytes written in {took:.1?} ({rate:.0} MiB/s)");
    say(
        &text,
        &json!({ "what": "fill", "records": count, "bytes": bytes, "mib_per_second": rate }),
    );
    Ok(())
}

fn rejoin(program: &Path, count: u64, bytes: usize) -> anyhow::Result<()> {
    let mut cluster = cluster(program, 3)?;
    started(&mut cluster)?;
    fill(&cluster, count, bytes, Filling::batches(bytes))?;
    let mut times = Vec::new();
    for id in 1..=3 {
        cluster.await_healed()?;
        cluster.kill(id)?;
        cluster.await_leader()?;
        cluster.wipe(id)?;
        let begun = Instant::now();
        cluster.start(id)?;
        cluster.await_statuses("the wiped node votes", |statuses| {
            let votes = |role: &str| role == "follower" || role == "leader";
            statuses[id - 1].as_ref().is_some_and(|status| votes(&status.role))
        })?;
        times.push(begun.elapsed());
    }
    quantiles("wiped node started → votes again", times);
    Ok(())
}

/// What a process has in memory, in MiB.
fn resident(pid: u32) -> anyhow::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: u32 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib / 1024)
}

fn memory(cluster: &Cluster, when: &str) -> anyhow::Result<()> {
    let sizes = (1..=3).map(|id| resident(cluster.pid(id)?)).collect::<anyhow::Result<Vec<_>>>()?;
    let text = format!("memory of n1, n2, n3 {when}: {sizes:?} MiB");
    say(&text, &json!({ "what": "memory", "when": when, "mib": sizes }));
    Ok(())
}

fn million(program: &Path, filling: Filling) -> anyhow::Result<()> {
    let mut cluster = cluster(program, 3)?;
    started(&mut cluster)?;
    memory(&cluster, "idle")?;
    fill(&cluster, 1_000_000, 256, filling)?;
    cluster.await_healed()?;
    memory(&cluster, "after a million records")?;
    let mut times = Vec::new();
    for id in 1..=3 {
        cluster.stop(id)?;
        let begun = Instant::now();
        cluster.start(id)?;
        cluster.await_statuses("the node serves", |statuses| {
            statuses[id - 1].as_ref().is_some_and(|s| s.leader.is_some() && s.role != "forming")
        })?;
        times.push(begun.elapsed());
        cluster.await_healed()?;
    }
    quantiles("restart with a million records → serving", times);
    memory(&cluster, "after the restart")?;
    Ok(())
}
