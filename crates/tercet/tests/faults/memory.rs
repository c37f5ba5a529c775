//! What a node may take of its machine: with followers that are dead, that stand still, and with
//! readers that do not read, its memory stays within its budgets; with nothing to do it sleeps.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tercet_client::{Client, SubmitOptions, v1};
use tercet_testkit::Cluster;
use tokio_stream::StreamExt as _;

use crate::on_three;

/// One request: records of 64 KiB.
const RECORDS: usize = 16;
const RECORD_BYTES: usize = 64 << 10;
const REQUEST_BYTES: usize = RECORDS * RECORD_BYTES;
/// Under way at a time.
const CLIENTS: usize = 8;
/// Per phase: many times what may be kept in memory.
const REQUESTS: usize = 160;
const SLOW_READERS: usize = 20;
/// What a node may have at any time: its budgets (a tail of 8 MiB, 8 MiB on their way to each of two
/// peers, and as much again in the links), what is under way (8 MiB, in each of the forms that it
/// takes from a socket to a disk), what each reader is sent at a time, and the program.
const CEILING_MIB: u64 = 200;

fn resident_mib(cluster: &Cluster, id: usize) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid(id)?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib >> 10)
}

fn gauge(metrics: &str, name: &str) -> anyhow::Result<u64> {
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    metrics.lines().find_map(value).with_context(|| name.to_owned())
}

fn metrics(cluster: &Cluster, id: usize) -> anyhow::Result<String> {
    let url = format!("http://{}/metrics", cluster.address(id));
    let output = std::process::Command::new("curl").args(["-sS", "-m", "5", &url]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The clients have their say; the most memory that the node had meanwhile.
fn load(cluster: &Cluster, leader: usize) -> anyhow::Result<u64> {
    let work = async {
        let client = Client::new([cluster.address(leader)])?;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let client = client.clone();
            tasks.spawn(async move {
                for _ in 0..REQUESTS / CLIENTS {
                    let records = vec![vec![b'x'; RECORD_BYTES]; RECORDS];
                    client.submit_with(records, SubmitOptions::default()).await?;
                }
                anyhow::Ok(())
            });
        }
        let mut most = 0;
        while !tasks.is_empty() {
            most = most.max(resident_mib(cluster, leader)?);
            let next = tokio::time::timeout(Duration::from_millis(20), tasks.join_next());
            if let Ok(Some(ended)) = next.await {
                ended??;
            }
        }
        anyhow::Ok(most)
    };
    cluster.run(work)
}

/// The node has what the leader has.
fn await_level(cluster: &Cluster, id: usize) -> anyhow::Result<()> {
    cluster.await_statuses(&format!("node {id} is level"), |statuses| {
        let next = |status: &v1::StatusResponse| status.next_seq;
        let furthest = statuses.iter().flatten().map(next).max();
        statuses[id - 1].as_ref().map(next) == furthest
    })?;
    Ok(())
}

#[test]
fn memory_stays_within_its_budgets() {
    on_three("memory_stays_within_its_budgets", 1, |cluster, run| {
        cluster.start_all()?;
        let leader = cluster.await_leader()?;
        let (slow, dead) = (1 + leader % 3, 1 + (leader + 1) % 3);
        let mut told = Vec::new();
        let mut check = |cluster: &Cluster, what: &str| -> anyhow::Result<()> {
            let most = load(cluster, leader)?;
            told.push(format!("{what}: {most} MiB"));
            ensure!(most <= CEILING_MIB, "{what}: {most} MiB, {CEILING_MIB} are allowed");
            let metrics = metrics(cluster, leader)?;
            for (name, slack) in [("tail", REQUEST_BYTES * CLIENTS), ("peers_inflight", 0)] {
                let used = gauge(&metrics, &format!("tercet_{name}_bytes "))?;
                let budget = gauge(&metrics, &format!("tercet_{name}_max_bytes "))?;
                ensure!(used <= budget + slack as u64, "{what}: {name} {used} of {budget}");
            }
            Ok(())
        };
        check(cluster, "all are well")?;

        cluster.signal(slow, Signal::STOP)?;
        check(cluster, "a follower stands still")?;
        cluster.signal(slow, Signal::CONT)?;
        await_level(cluster, slow)?;

        cluster.kill(dead)?;
        check(cluster, "a follower is dead")?;

        let mut readers = Vec::new();
        for _ in 0..SLOW_READERS {
            // Each with a connection of its own: begun, and then left alone.
            let reader = cluster.run(async { Client::new([cluster.address(leader)]) })?;
            let mut stream = Box::pin(cluster.run(reader.follow(1))?);
            cluster.run(stream.next()).context("the first record")??;
            readers.push((reader, stream));
        }
        check(cluster, "twenty readers do not read")?;
        drop(readers);

        cluster.start(dead)?;
        await_level(cluster, dead)?;
        run.note(told.join(", "));
        Ok(())
    });
}

/// How long the threads of a node have run, in ticks of the system's clock.
fn processor_ticks(cluster: &Cluster, id: usize) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.pid(id)?))?;
    // Behind the name, which may have any characters: the eleventh and twelfth.
    let (_, rest) = stat.rsplit_once(')').context("a name")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()?)
}

/// Who looks for more before it sleeps might forget to sleep.
#[test]
fn a_node_with_nothing_to_do_sleeps() {
    on_three("a_node_with_nothing_to_do_sleeps", 1, |cluster, run| {
        cluster.start_all()?;
        let leader = cluster.await_leader()?;
        load(cluster, leader)?;
        for id in 1..=3 {
            await_level(cluster, id)?;
        }
        let ticks = |cluster: &Cluster| {
            (1..=3).map(|id| processor_ticks(cluster, id)).collect::<anyhow::Result<Vec<_>>>()
        };
        let (begun, before) = (Instant::now(), ticks(cluster)?);
        // What is measured: some dozens of heartbeats.
        std::thread::sleep(Duration::from_secs(2));
        let (after, took) = (ticks(cluster)?, begun.elapsed());
        for (id, (before, after)) in (1..).zip(before.into_iter().zip(after)) {
            let ran = (after - before) as f64 / rustix::param::clock_ticks_per_second() as f64;
            let share = ran / took.as_secs_f64();
            run.note(format!("n{id}: {:.1} %", share * 100.0));
            ensure!(share < 0.5, "n{id} ran for {ran} s of {took:?}");
        }
        Ok(())
    });
}

/// glibc reads its environment before a program begins: a node begins once more, as the process that
/// was started.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn the_allocator_of_a_node_is_told_what_to_keep() {
    on_three("the_allocator_of_a_node_is_told_what_to_keep", 1, |cluster, _| {
        cluster.start_all()?;
        cluster.await_leader()?;
        for id in 1..=3 {
            let of_process = |file| {
                std::fs::read(format!("/proc/{}/{file}", cluster.pid(id)?))
                    .map_err(anyhow::Error::from)
            };
            let environment = String::from_utf8_lossy(&of_process("environ")?).into_owned();
            let tunables = environment.split('\0').find_map(|v| v.strip_prefix("GLIBC_TUNABLES="));
            ensure!(
                tunables.is_some_and(|all| all.contains("glibc.malloc.tcache_count=")),
                "n{id}: {tunables:?}"
            );
            let name = String::from_utf8(of_process("comm")?)?;
            ensure!(name.trim_end() == "tercet", "n{id} is called {name}");
        }
        Ok(())
    });
}
