//! What is no load: the memory of the nodes, how soon all of them are back after a `kill -9`, and how
//! soon others take over from a leader that was killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::load::VALUE;
use crate::peers::{Cluster, until};
use crate::{Rest, System};

/// So many appends are under way when the log is filled, on so many connections.
const IN_FLIGHT: usize = 256;
const CONNECTIONS: usize = 8;
/// Nodes are left alone so long before something is measured on them.
const QUIET: Duration = Duration::from_secs(5);
/// The shortest election timeout where failover is measured, of all systems.
const MIN_ELECTION_MS: f64 = 150.0;
/// A client that retries does so this often. A restart takes all cores: it shall not be the client
/// that is measured.
const PACE_FAILOVER: Duration = Duration::from_millis(5);
const PACE_RESTART: Duration = Duration::from_millis(20);
/// An attempt may have been lost with the leader: it is given up after so long.
const ATTEMPT: Duration = Duration::from_secs(5);
/// A cluster that does not answer after so long will not.
const LONGEST: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Memory is measured before and after so many appends of 256 bytes, each a request
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    appends: u64,
    /// All nodes are killed and started with so many entries of 256 bytes
    #[arg(long, default_value_t = 500_000, value_name = "N")]
    restart_entries: u64,
    /// They are so often
    #[arg(long, default_value_t = 3, value_name = "N")]
    restarts: u64,
    /// The leader is killed so often
    #[arg(long, default_value_t = 20, value_name = "N")]
    failovers: u64,
}

/// A system whose nodes can be killed and started again one by one.
pub(crate) trait Restartable: System + 'static {
    /// A connection to one node, for any number of requests at once.
    type Client: Clone + Send + Sync + 'static;

    /// The arguments with which its shortest election timeout is 150 ms; none if there are no such
    /// arguments.
    const FAILOVER: Option<&'static [&'static str]>;

    /// Starts three nodes, with more arguments than usual.
    fn start(&self, more: &[&str]) -> anyhow::Result<Cluster>;

    /// Waits until one leads; says which, counted from 0.
    fn leader(ports: &[u16]) -> impl Future<Output = anyhow::Result<usize>>;

    fn connect(port: u16) -> impl Future<Output = anyhow::Result<Self::Client>> + Send;

    /// Appends a value, durably; `count` is another one each time.
    fn append(
        client: Self::Client,
        count: u64,
        value: Bytes,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What was measured of one system: one value for each node, or for each time.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Figure {
    pub(crate) system: &'static str,
    /// With the unit.
    pub(crate) what: String,
    pub(crate) values: Vec<f64>,
}

/// Measures one system.
pub(crate) fn measure<S: Restartable>(
    system: &S,
    args: &Args,
    rest: &Rest,
) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut figures = Vec::new();
    let mut add = |what: String, values: Vec<f64>| {
        if values.is_empty() {
            return;
        }
        let said: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
        eprintln!("  {what}: {}", said.join(" "));
        figures.push(Figure { system: system.name(), what, values });
    };

    rest.before_next();
    eprintln!("{}", system.name());
    let (idle, filled) = runtime.block_on(memory(system, args.appends))?;
    add("memory idle, MiB".to_owned(), idle);
    add(format!("memory after {} appends, MiB", args.appends), filled);

    rest.before_next();
    let took = runtime.block_on(restart(system, args))?;
    add(format!("restart with {} entries, s", args.restart_entries), took);

    if let Some(more) = S::FAILOVER {
        rest.before_next();
        let took = runtime.block_on(failover(system, more, args.failovers))?;
        let timeouts = took.iter().map(|ms| ms / MIN_ELECTION_MS).collect();
        add(format!("failover, {} times, ms", args.failovers), took);
        add("the same in minimum election timeouts".to_owned(), timeouts);
    }
    Ok(figures)
}

/// The memory of each node, idle and after so many appends.
async fn memory<S: Restartable>(system: &S, appends: u64) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let cluster = system.start(&[])?;
    let leader = S::leader(&cluster.ports).await?;
    tokio::time::sleep(QUIET).await;
    let idle = cluster.processes.memory()?;
    fill::<S>(cluster.ports[leader], appends).await?;
    tokio::time::sleep(QUIET).await;
    Ok((idle, cluster.processes.memory()?))
}

/// All nodes are killed and started again: seconds until an append is acknowledged.
async fn restart<S: Restartable>(system: &S, args: &Args) -> anyhow::Result<Vec<f64>> {
    let mut cluster = system.start(&[])?;
    let leader = S::leader(&cluster.ports).await?;
    fill::<S>(cluster.ports[leader], args.restart_entries).await?;
    let mut took = Vec::new();
    for _ in 0..args.restarts {
        all_answer::<S>(&cluster.ports).await?;
        tokio::time::sleep(QUIET).await;
        cluster.processes.kill_all()?;
        let begun = Instant::now();
        for node in 0..cluster.ports.len() {
            cluster.processes.restart(node)?;
        }
        let ports = cluster.ports.clone();
        acknowledged(PACE_RESTART, |attempt| {
            let port = ports[attempt % ports.len()];
            async move { S::append(S::connect(port).await?, unique(), value()).await }
        })
        .await?;
        took.push(begun.elapsed().as_secs_f64());
    }
    Ok(took)
}

/// The leader is killed again and again: milliseconds until another one acknowledges an append.
async fn failover<S: Restartable>(
    system: &S,
    more: &[&str],
    times: u64,
) -> anyhow::Result<Vec<f64>> {
    let mut cluster = system.start(more)?;
    let mut took = Vec::new();
    for _ in 0..times {
        all_answer::<S>(&cluster.ports).await?;
        tokio::time::sleep(QUIET / 5).await;
        let leader = S::leader(&cluster.ports).await?;
        let mut others = Vec::new();
        for (node, port) in cluster.ports.iter().enumerate() {
            if node != leader {
                let client = S::connect(*port).await?;
                // It is connected from now on.
                S::append(client.clone(), unique(), value()).await?;
                others.push(client);
            }
        }
        let begun = Instant::now();
        // It is gone before the first attempt: what is acknowledged then is not its work.
        cluster.processes.kill(leader)?;
        acknowledged(PACE_FAILOVER, |attempt| {
            let client = others[attempt % others.len()].clone();
            async move { S::append(client, unique(), value()).await }
        })
        .await?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        cluster.processes.restart(leader)?;
    }
    Ok(took)
}

/// So many appends at the leader, each a request of its own.
async fn fill<S: Restartable>(leader: u16, appends: u64) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(S::connect(leader).await?);
    }
    let begun = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for number in 0..IN_FLIGHT {
        let (client, sent) = (clients[number % CONNECTIONS].clone(), Arc::clone(&sent));
        tasks.spawn(async move {
            loop {
                let count = sent.fetch_add(1, Ordering::Relaxed);
                if count >= appends {
                    return anyhow::Ok(());
                }
                if count > 0 && count.is_multiple_of(100_000) {
                    eprintln!("  {count} appends, {:.0} s", begun.elapsed().as_secs_f64());
                }
                S::append(client.clone(), unique(), value()).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done?.context("an append failed")?;
    }
    Ok(())
}

/// Each node takes appends: all are up, and know who leads.
async fn all_answer<S: Restartable>(ports: &[u16]) -> anyhow::Result<()> {
    for port in ports {
        until("an append at each node", || async {
            let append = async { S::append(S::connect(*port).await?, unique(), value()).await };
            tokio::time::timeout(ATTEMPT, append).await?
        })
        .await?;
    }
    Ok(())
}

/// Makes an attempt at each tick, without waiting for the earlier ones, until one is acknowledged: an
/// attempt that was lost costs no more than a tick.
async fn acknowledged<F>(pace: Duration, mut attempt: impl FnMut(usize) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(pace);
    let mut attempts = JoinSet::new();
    let (mut made, mut last) = (0, anyhow::anyhow!("no attempt has ended"));
    while begun.elapsed() < LONGEST {
        tokio::select! {
            _ = ticks.tick() => {
                attempts.spawn(tokio::time::timeout(ATTEMPT, attempt(made)));
                made += 1;
            }
            Some(done) = attempts.join_next() => {
                match done?.map_err(anyhow::Error::from).flatten() {
                    Ok(()) => return Ok(()),
                    Err(error) => last = error,
                }
            }
        }
    }
    Err(last.context(format!("no append was acknowledged for {} s", LONGEST.as_secs())))
}

fn value() -> Bytes {
    const BYTES: [u8; VALUE] = [b'v'; VALUE];
    Bytes::from_static(&BYTES)
}

/// Another number each time.
fn unique() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}
