//! Measures a cluster of three real processes on this machine: the figures of docs/performance.md.
//!
//! Each figure is measured, never asserted: a slow machine is no defect. What depends on the disk
//! is printed beside what the disk itself does in the same run.
#![allow(clippy::print_stdout, reason = "it prints figures")]

mod failover;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use tercet_client::{Client, SubmitOptions};
use tercet_testkit::{Cluster, Options};

/// Measure a cluster of three real processes on this machine.
#[derive(Parser)]
struct Args {
    /// What to measure
    #[arg(value_enum, default_values_t = Figure::ALL)]
    figures: Vec<Figure>,
    /// The program; by default the one beside this
    #[arg(long)]
    program: Option<PathBuf>,
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
}

impl Figure {
    const ALL: [Self; 8] = [
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
    let args = Args::parse();
    let program = match args.program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("tercet"),
    };
    ensure!(program.is_file(), "{} is not there: cargo build --release", program.display());
    for figure in args.figures {
        println!("\n== {figure}");
        match figure {
            Figure::Start => start(&program)?,
            Figure::Failover => failover::failover(&program)?,
            Figure::Handover => failover::handover(&program)?,
            Figure::Latency => latency(&program)?,
            Figure::Rejoin => rejoin(&program, 10_000, 256)?,
            Figure::RejoinGib => rejoin(&program, 16 << 10, 64 << 10)?,
            Figure::Million => million(&program, Filling::batches(256))?,
            Figure::MillionRequests => million(&program, Filling { workers: 256, batch: 1 })?,
        }
    }
    Ok(())
}

fn cluster(program: &Path) -> anyhow::Result<Cluster> {
    Cluster::new(program, Options::three("cargo run --release -p tercet-bench"))
}

/// Prints the quantiles of some times.
fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: median {:.2?}, p90 {:.2?}, p99 {:.2?}, worst {:.2?} ({} times)",
        at(50),
        at(90),
        at(99),
        at(100),
        times.len()
    );
}

fn start(program: &Path) -> anyhow::Result<()> {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let mut cluster = cluster(program)?;
        for times in [&mut first, &mut again] {
            let begun = Instant::now();
            cluster.start_all()?;
            cluster.await_leader()?;
            times.push(begun.elapsed());
            cluster.stop_all()?;
        }
    }
    print("three processes started → a leader, first start", first);
    print("three processes started → a leader, later starts", again);
    Ok(())
}

/// What one client waits for, beside what the disk does: a write of a page and `fdatasync` on a file
/// of zeros, in turns.
fn latency(program: &Path) -> anyhow::Result<()> {
    let mut cluster = cluster(program)?;
    cluster.start_all()?;
    let leader = cluster.await_leader()?;
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
    print("fdatasync alone", bare);
    print("submit at the leader", direct);
    print("submit at a follower", forwarded);
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
    let begun = Instant::now();
    cluster.run(async {
        let tasks: Vec<_> = (0..workers)
            .map(|worker| {
                let (client, value) = (client.clone(), value.clone());
                tokio::spawn(async move {
                    let mut left = count / workers + u64::from(worker < count % workers);
                    while left > 0 {
                        let size = batch.min(left);
                        let records = vec![value.clone(); usize::try_from(size).expect("small")];
                        let timeout = Duration::from_secs(60);
                        let options = SubmitOptions { timeout, ..SubmitOptions::default() };
                        client.submit_with(records, options).await?;
                        left -= size;
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
    let seconds = begun.elapsed().as_secs_f64();
    let mib = u32::try_from((count * bytes as u64) >> 20).map_or(f64::NAN, f64::from);
    println!(
        "{count} records of {bytes} bytes written in {seconds:.1} s ({:.0} MiB/s)",
        mib / seconds
    );
    Ok(())
}

fn rejoin(program: &Path, count: u64, bytes: usize) -> anyhow::Result<()> {
    let mut cluster = cluster(program)?;
    cluster.start_all()?;
    cluster.await_leader()?;
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
    print("wiped node started → votes again", times);
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
    println!("memory of n1, n2, n3 {when}: {sizes:?} MiB");
    Ok(())
}

fn million(program: &Path, filling: Filling) -> anyhow::Result<()> {
    let mut cluster = cluster(program)?;
    cluster.start_all()?;
    cluster.await_leader()?;
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
    print("restart with a million records → serving", times);
    memory(&cluster, "after the restart")?;
    Ok(())
}
