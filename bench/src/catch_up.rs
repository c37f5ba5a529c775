//! A node that was down is brought level: how fast, beside the disk, and what others notice of it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use tercet_client::{ApiError, Client};
use tercet_testkit::Cluster;
use tokio::task::{JoinHandle, JoinSet};

use crate::load::Settings;
use crate::output::{Runs, Table, note, ratio};
use crate::{Filling, cluster, fill, mib, per_second, started, write_back};

const MIB: u64 = 1 << 20;
/// The values that a node has to catch up with.
const VALUE: usize = 64 << 10;
/// A moderate load: a submit of 256 bytes every so often, whether those before were answered or not.
const EVERY: Duration = Duration::from_millis(2);
/// How long that goes on before.
const BEFORE: Duration = Duration::from_secs(5);
/// A node that is not level by then will not be.
const LEVEL: Duration = Duration::from_secs(600);

/// Submits at a steady pace.
struct Foreground {
    /// When each began, and how long it took.
    seen: Arc<Mutex<Vec<(Instant, Duration)>>>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<Result<(), ApiError>>,
}

impl Foreground {
    fn start(cluster: &Cluster, leader: usize) -> anyhow::Result<Self> {
        let client = cluster.run(async { Client::new([cluster.address(leader)]) })?;
        let (seen, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (list, ends) = (Arc::clone(&seen), Arc::clone(&is_over));
        let submits = async move {
            let value = Bytes::from(vec![b'f'; 256]);
            let mut pace = tokio::time::interval(EVERY);
            let mut under_way = JoinSet::new();
            while !ends.load(Ordering::Relaxed) {
                // From when it begins: the load waits for no answer, so that none begins late.
                pace.tick().await;
                let (client, value, list) = (client.clone(), value.clone(), Arc::clone(&list));
                under_way.spawn(async move {
                    let begun = Instant::now();
                    client.submit([value]).await?;
                    let took = (begun, begun.elapsed());
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(took);
                    Ok(())
                });
                while let Some(ended) = under_way.try_join_next() {
                    ended.expect("a submit does not panic")?;
                }
            }
            while let Some(ended) = under_way.join_next().await {
                ended.expect("a submit does not panic")?;
            }
            Ok(())
        };
        Ok(Self { seen, is_over, task: cluster.spawn(submits) })
    }

    /// Ends it; gives what each submit took, by when it began.
    fn finish(self, cluster: &Cluster) -> anyhow::Result<Vec<(Instant, Duration)>> {
        self.is_over.store(true, Ordering::Relaxed);
        cluster.run(self.task)??;
        Ok(std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The 99th percentile of what began within these moments, in milliseconds.
fn p99(seen: &[(Instant, Duration)], since: Instant, until: Instant) -> f64 {
    let within = seen.iter().filter(|(begun, _)| (since..until).contains(begun));
    let mut times: Vec<Duration> = within.map(|(_, took)| *took).collect();
    times.sort_unstable();
    let at = times.len().saturating_sub(1) * 99 / 100;
    times.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

/// How fast the disk takes a new file, with a sync after each so many MiB, in MiB/s.
fn write_rate(dir: &Path, count: u64, sync_every: u64) -> anyhow::Result<f64> {
    let path = dir.join("bare");
    let mut file = File::create(&path)?;
    let piece = vec![b'x'; 1 << 20];
    let begun = Instant::now();
    for number in 1..=count {
        file.write_all(&piece)?;
        if number % sync_every == 0 || number == count {
            file.sync_data()?;
        }
    }
    let rate = per_second(mib(count * MIB), begun.elapsed());
    drop(file);
    fs::remove_file(path)?;
    Ok(rate)
}

/// What a node has applied, once it answers.
fn applied(cluster: &Cluster, id: usize) -> Option<u64> {
    cluster.status(id).map(|status| status.applied_index)
}

pub(crate) fn catch_up(program: &Path, settings: &Settings) -> anyhow::Result<()> {
    let mut cluster = cluster(program, 3)?;
    let (mut disk, mut disk_in_pieces) = (Runs::default(), Runs::default());
    let (mut rate, mut start) = (Runs::default(), Runs::default());
    let (mut before, mut during) = (Runs::default(), Runs::default());
    for run in 1..=settings.runs {
        let leader = started(&mut cluster)?;
        cluster.await_healed()?;
        let behind = 1 + leader % 3;
        cluster.stop(behind)?;
        note(&format!("run {run} of {}: n{behind} is down", settings.runs));
        let count = settings.mib * MIB / VALUE as u64;
        fill(&cluster, count, VALUE, Filling::batches(VALUE))?;
        write_back(&cluster)?;
        let wanted = applied(&cluster, leader).expect("the leader runs");

        let foreground = Foreground::start(&cluster, leader)?;
        let since = Instant::now();
        std::thread::sleep(BEFORE);
        let starts = Instant::now();
        cluster.start(behind)?;
        let mut answers = None;
        let level = loop {
            let has = applied(&cluster, behind);
            let now = Instant::now();
            if has.is_some() {
                answers.get_or_insert(now);
            }
            if has.is_some_and(|has| has >= wanted) {
                break now;
            }
            ensure!(now - starts < LEVEL, "n{behind} is not level after {LEVEL:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        let seen = foreground.finish(&cluster)?;
        let answers = answers.expect("it answered before it was level");
        start.add((answers - starts).as_secs_f64() * 1e3);
        rate.add(per_second(mib(count * VALUE as u64), level - answers));
        // Let the first go by: the connection is made then.
        before.add(p99(&seen, since + Duration::from_millis(500), starts));
        during.add(p99(&seen, starts, level));
        write_back(&cluster)?;
        disk.add(write_rate(cluster.dir(), settings.mib, u64::MAX)?);
        disk_in_pieces.add(write_rate(cluster.dir(), settings.mib, 1)?);
    }
    let mut table = Table::new(
        "a node that was down is brought level, beside 500 submits in a second",
        &[
            "MiB behind",
            "start ms",
            "MiB/s",
            "disk MiB/s, one sync",
            "to one sync",
            "disk, a sync for each MiB",
            "to many syncs",
            "p99 ms before",
            "during",
            "to before",
        ],
    );
    table.row([
        usize::try_from(settings.mib)?.into(),
        start.cell(),
        rate.cell(),
        disk.cell(),
        ratio(rate.median(), disk.median()),
        disk_in_pieces.cell(),
        ratio(rate.median(), disk_in_pieces.median()),
        before.cell(),
        during.cell(),
        ratio(during.median(), before.median()),
    ]);
    table.print();
    Ok(())
}
