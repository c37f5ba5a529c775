//! How long nobody can write: when a leader dies, when it falls silent, when it hands over. What a
//! client sees, in milliseconds and in shortest election timeouts.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::Signal;
use serde_json::json;
use tercet_client::{ApiError, Client};
use tercet_testkit::Cluster;
use tokio::task::JoinHandle;

use crate::cluster;
use crate::output::{quantiles, say};

/// The shortest election timeout of a node that is not told otherwise.
const MIN: Duration = Duration::from_millis(150);
/// The usual interval of heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// How often a leader falls silent.
const SILENT: u32 = 25;
/// How long acknowledgements are watched before and after a leader hands over.
const AROUND: Duration = Duration::from_millis(200);

fn print_in_timeouts(what: &str, times: Vec<Duration>) {
    let mut in_order = times.clone();
    in_order.sort_unstable();
    let share = |time: Duration| time.as_secs_f64() / MIN.as_secs_f64();
    let (median, worst) = (in_order[(in_order.len() - 1) / 2], in_order[in_order.len() - 1]);
    quantiles(what, times);
    let (median, worst) = (share(median), share(worst));
    let text = format!(
        "  in shortest election timeouts of {MIN:.0?}: median {median:.2}, worst {worst:.2}"
    );
    say(&text, &json!({ "what": what, "median_timeouts": median, "worst_timeouts": worst }));
}

/// A client of these nodes, the one that is asked first in front.
fn client_of(cluster: &Cluster, ids: &[usize]) -> anyhow::Result<Client> {
    let addresses: Vec<String> = ids.iter().map(|id| cluster.address(*id)).collect();
    Ok(cluster.run(async { Client::new(addresses) })?)
}

/// `first`, then all others.
fn from(cluster: &Cluster, first: usize) -> Vec<usize> {
    std::iter::once(first).chain((1..=cluster.count()).filter(|id| *id != first)).collect()
}

pub(crate) fn failover(program: &Path) -> anyhow::Result<()> {
    let mut cluster = cluster(program, 3)?;
    cluster.start_all()?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let leader = cluster.await_leader()?;
        cluster.await_healed()?;
        let client = client_of(&cluster, &from(&cluster, leader))?;
        cluster.run(client.submit(["before"]))?;
        let begun = Instant::now();
        cluster.kill(leader)?;
        cluster.run(client.submit(["after"]))?;
        times.push(begun.elapsed());
        cluster.start(leader)?;
    }
    print_in_timeouts("kill -9 of the leader → next acknowledged submit", times);
    // A process that stands still closes nothing: there are only the timers. They run from the last
    // word of the leader, which is as old as a heartbeat interval at most.
    for (when, every) in [("just after a submit", Duration::ZERO), ("at any moment", HEARTBEAT)] {
        let mut times = Vec::new();
        for trial in 0..SILENT {
            let leader = cluster.await_leader()?;
            cluster.await_healed()?;
            // The others are asked: what is measured is the cluster, and not the client's patience
            // with one node.
            let client = client_of(&cluster, &from(&cluster, leader)[1..])?;
            cluster.run(client.submit(["before"]))?;
            std::thread::sleep(every * trial / SILENT);
            cluster.signal(leader, Signal::STOP)?;
            let begun = Instant::now();
            cluster.run(client.submit(["after"]))?;
            times.push(begun.elapsed());
            cluster.signal(leader, Signal::CONT)?;
        }
        let what = format!("SIGSTOP of the leader {when} → next acknowledged submit at the others");
        print_in_timeouts(&what, times);
    }
    Ok(())
}

/// A client that submits one value after the other.
struct Pulse {
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<Result<(), ApiError>>,
}

impl Pulse {
    /// Begins at this node, and goes where that one sends it.
    fn start(cluster: &Cluster, first: usize) -> anyhow::Result<Self> {
        let client = client_of(cluster, &from(cluster, first))?;
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (list, ends) = (Arc::clone(&acknowledged), Arc::clone(&is_over));
        let submits = async move {
            while !ends.load(Ordering::Relaxed) {
                client.submit(["pulse"]).await?;
                list.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
            Ok(())
        };
        let task = cluster.spawn(submits);
        Ok(Self { acknowledged, is_over, task })
    }

    /// The longest time between two acknowledgements, of those until and after `since`.
    fn longest(self, cluster: &Cluster, since: Instant) -> anyhow::Result<(Duration, Duration)> {
        self.is_over.store(true, Ordering::Relaxed);
        cluster.run(self.task)??;
        let times = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let gaps = || times.iter().zip(&times[1..]).map(|(one, next)| (*next, *next - *one));
        let of = |is_after: bool| {
            gaps().filter(|(end, _)| (*end > since) == is_after).map(|(_, gap)| gap).max()
        };
        Ok((of(false).context("too few answers")?, of(true).context("too few answers")?))
    }
}

/// The longest gaps between acknowledgements, of a client at one of the nodes.
#[derive(Default)]
struct Gaps {
    usual: Vec<Duration>,
    handing_over: Vec<Duration>,
}

impl Gaps {
    fn note(&mut self, (usual, handing_over): (Duration, Duration)) {
        self.usual.push(usual);
        self.handing_over.push(handing_over);
    }
}

pub(crate) fn handover(program: &Path) -> anyhow::Result<()> {
    let mut cluster = cluster(program, 3)?;
    cluster.start_all()?;
    for (how, is_stop) in [("transfer", false), ("SIGTERM", true)] {
        let [mut at_leader, mut at_follower] = [Gaps::default(), Gaps::default()];
        for _ in 0..25 {
            let leader = cluster.await_leader()?;
            cluster.await_healed()?;
            let pulses =
                [leader, leader % cluster.count() + 1].map(|first| Pulse::start(&cluster, first));
            std::thread::sleep(AROUND);
            let begun = Instant::now();
            if is_stop {
                cluster.stop(leader)?;
            } else {
                cluster.run(cluster.client().transfer(None))?;
            }
            std::thread::sleep(AROUND);
            for (pulse, gaps) in pulses.into_iter().zip([&mut at_leader, &mut at_follower]) {
                gaps.note(pulse?.longest(&cluster, begun)?);
            }
            if is_stop {
                cluster.start(leader)?;
            }
        }
        for (place, gaps) in [("at the leader", at_leader), ("at a follower", at_follower)] {
            let what = format!("longest time between two acknowledgements, begun {place}");
            quantiles(&format!("{what}, in 200 ms without anything"), gaps.usual);
            quantiles(&format!("{what}, around a {how}"), gaps.handing_over);
        }
    }
    Ok(())
}
