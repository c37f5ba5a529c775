//! `tercet bench`: load against a cluster, and what became of it.

mod load;
mod measure;
mod report;
mod threads;

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tercet_client::Client;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{BenchArgs, BenchTarget, BenchWhat};
use crate::config::{parse_size, parse_time};
use crate::dev::Supervisor;
use crate::output::{self, Failure};
use load::Load;
use measure::Measured;
use report::Report;
use threads::Threads;

/// How long a cluster of our own may take until one of its nodes leads.
const START: Duration = Duration::from_secs(20);

/// How long an election may take before the load is put on.
const ELECTION: Duration = Duration::from_secs(3);

fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure::new(2, message).into()
}

/// Runs the command; says the exit code.
pub(crate) fn run(args: &BenchArgs, json: bool) -> anyhow::Result<u8> {
    let load = load_of(args)?;
    let (warm_up, duration) =
        (time("--warm-up", &args.warm_up)?, time("--duration", &args.duration)?);
    if duration < Duration::from_secs(1) {
        return Err(usage("--duration: a second at least"));
    }
    let threads = Threads::start(args.threads.unwrap_or_else(cores).min(load.connections))?;
    let runtime = crate::commands::runtime()?;
    let mut own = args.start.map(|nodes| Own::start(nodes, args.dir.clone())).transpose()?;
    let addresses = match &own {
        Some(own) => own.cluster.client_addresses(),
        None => args.nodes.nodes.clone(),
    };
    let result = runtime.block_on(async {
        let client =
            Client::new(&addresses).map_err(|error| usage(format!("--node: {}", error.message)))?;
        if let Some(own) = &mut own {
            own.await_leader(&client).await?;
        }
        let targets = targets(&client, args.to).await?;
        let measured = measure(&client, &load, &targets, &threads, warm_up, duration).await?;
        anyhow::Ok(Report::new(&load, &targets, warm_up, measured))
    });
    if let Some(own) = own {
        own.stop();
    }
    let report = result?;
    if let Some(path) = &args.histogram {
        let text = report.percentiles();
        std::fs::write(path, text).with_context(|| format!("{}", path.display()))?;
    }
    if let Some(path) = &args.html {
        std::fs::write(path, report.html()).with_context(|| format!("{}", path.display()))?;
    }
    output::line(if json { report.json() } else { report.text() })?;
    if report.is_empty() {
        return Err(Failure::new(1, report.why_empty()).into());
    }
    Ok(0)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn time(flag: &str, text: &str) -> anyhow::Result<Duration> {
    parse_time(text).map_err(|why| usage(format!("{flag}: {why}")))
}

fn load_of(args: &BenchArgs) -> anyhow::Result<Load> {
    let size = parse_size(&args.size).map_err(|why| usage(format!("--size: {why}")))?;
    let size =
        usize::try_from(size).map_err(|_| usage("--size: that is more than memory holds"))?;
    let connections = args.connections.unwrap_or_else(|| args.clients.min(8));
    for (flag, number) in [
        ("--clients", args.clients),
        ("--connections", connections),
        ("--in-flight", args.in_flight),
        ("--records", args.records),
    ] {
        if number == 0 {
            return Err(usage(format!("{flag}: one at least")));
        }
    }
    if connections > args.clients {
        return Err(usage(format!(
            "--connections {connections}: there are {} clients",
            args.clients
        )));
    }
    if args.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(usage("--rate: it is above 0"));
    }
    if args.what == BenchWhat::Tail && size < load::STAMP {
        return Err(usage(format!(
            "--size: a tail wants {} bytes at least: they tell the time",
            load::STAMP
        )));
    }
    if args.submitter && args.what != BenchWhat::Submit {
        return Err(usage("--submitter: it only submits"));
    }
    if args.submitter && args.records != 1 {
        return Err(usage("--records: a submitter makes its requests itself"));
    }
    // Who tails is fed at a steady pace unless it is said otherwise.
    let rate = args.rate.or((args.what == BenchWhat::Tail).then_some(1000.0));
    Ok(Load {
        what: args.what,
        clients: args.clients,
        connections,
        in_flight: args.in_flight,
        stream: args.stream,
        submitter: args.submitter,
        size,
        records: args.records,
        rate,
    })
}

/// The nodes in the order in which they are asked: the first takes the load, the others only when
/// it fails.
async fn targets(client: &Client, to: BenchTarget) -> anyhow::Result<Vec<Vec<String>>> {
    let begun = Instant::now();
    let leader = loop {
        let statuses = client.statuses().await;
        let leads = |status: &tercet_client::v1::StatusResponse| status.role == "leader";
        let leader = statuses.iter().position(|(_, status)| status.as_ref().is_ok_and(leads));
        if let Some(leader) = leader {
            break leader;
        }
        if begun.elapsed() > ELECTION {
            let said = tercet_client::explain::explain(&statuses);
            let why = format!("there is no leader: {} {}", said.summary, said.findings.join("; "));
            return Err(Failure::new(3, why).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let addresses: Vec<String> = client.addresses().map(str::to_owned).collect();
    let beginning_with = |first: usize| {
        let mut order = addresses.clone();
        order.rotate_left(first);
        order
    };
    let all = 0..addresses.len();
    Ok(match to {
        BenchTarget::Leader => vec![beginning_with(leader)],
        BenchTarget::Followers if addresses.len() > 1 => {
            all.filter(|node| *node != leader).map(beginning_with).collect()
        }
        BenchTarget::Followers => return Err(usage("--to followers: only one node is known")),
        BenchTarget::All => all.map(beginning_with).collect(),
    })
}

/// Puts the load on, and looks at it every second.
async fn measure(
    client: &Client,
    load: &Load,
    targets: &[Vec<String>],
    threads: &Threads,
    warm_up: Duration,
    duration: Duration,
) -> anyhow::Result<Measured> {
    let begun = Instant::now();
    let from = begun + warm_up;
    let end = from + duration;
    let running = load.start(client, targets, begun, end, threads).await?;
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let bar = output::progress(duration.as_secs(), load.what.name());
    let mut measured = Measured::new();
    let mut at = from;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {}
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
        }
        let seen = threads.take();
        if at > from {
            let second = measured.add(seen, at - from);
            bar.suspend(|| output::note(&report::second(second)));
            bar.set_position((at - from).as_secs());
        }
        if at >= end {
            break;
        }
        at = (at + Duration::from_secs(1)).min(end);
    }
    bar.finish_and_clear();
    running.stop().await;
    Ok(measured)
}

/// A cluster of our own, in a directory that is gone afterwards.
struct Own {
    cluster: Supervisor,
    /// Removed when this is dropped, if nobody named a directory.
    _temporary: Option<tempfile::TempDir>,
}

impl Own {
    fn start(nodes: u8, dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let (dir, temporary) = match dir {
            Some(dir) => (dir, None),
            None => {
                // Beside the work: the system's directory may be in memory, which syncs nothing.
                let made = tempfile::Builder::new().prefix("tercet-bench-").tempdir_in(".");
                let made = made.context("no directory can be made here. Give one with --dir")?;
                (made.path().to_owned(), Some(made))
            }
        };
        let (clients, peers) = (free_ports(nodes)?, free_ports(nodes)?);
        let mut cluster = Supervisor::new(dir, clients, peers)?;
        cluster.start_all()?;
        Ok(Self { cluster, _temporary: temporary })
    }

    async fn await_leader(&mut self, client: &Client) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            self.cluster.check_alive()?;
            let statuses = client.statuses().await;
            let leads = |status: &tercet_client::v1::StatusResponse| {
                status.role == "leader" && status.commit_index > 0
            };
            let are_up = statuses.iter().all(|(_, status)| status.is_ok());
            if are_up && statuses.iter().any(|(_, status)| status.as_ref().is_ok_and(leads)) {
                return Ok(());
            }
            if begun.elapsed() > START {
                let said = tercet_client::explain::explain(&statuses);
                anyhow::bail!("no leader after {} s: {}", START.as_secs(), said.summary);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn stop(mut self) {
        self.cluster.stop_all();
    }
}

/// Ports that are free now; all are held until each is known, so that none comes twice.
fn free_ports(count: u8) -> anyhow::Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    Ok(held.iter().map(port).collect::<Result<_, _>>()?)
}
