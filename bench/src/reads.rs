//! Reads: of a log that is in no memory, beside the disk's own; and of single records, at one node
//! and at all.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Advice, fadvise};
use tercet_client::v1::log_client::LogClient;
use tercet_client::{connect_lazy, v1};
use tercet_testkit::Cluster;
use tokio_stream::StreamExt as _;
use tonic::transport::Endpoint;

use crate::load::{Load, Settings};
use crate::output::{Runs, Table, note, ratio};
use crate::{Filling, cluster, fill, mib, per_second, started, write_back};

const MIB: u64 = 1 << 20;

/// The segments of a node's log, in order.
fn segments(cluster: &Cluster, id: usize) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(cluster.data(id).join("wal"))? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    Ok(paths)
}

/// Drops the files' pages from memory: what is read next comes from the disk.
fn forget(paths: &[PathBuf]) -> anyhow::Result<()> {
    for path in paths {
        let file = File::open(path)?;
        // Only what is clean can be dropped.
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// Reads files from their beginnings to their ends.
fn read_files(paths: &[PathBuf]) -> anyhow::Result<()> {
    let mut piece = vec![0; 1 << 20];
    for path in paths {
        let mut file = File::open(path)?;
        fadvise(&file, 0, None, Advice::Sequential)?;
        while file.read(&mut piece)? > 0 {}
    }
    Ok(())
}

/// Reads all records of one node; says how many bytes their values had.
fn read_node(cluster: &Cluster, id: usize) -> anyhow::Result<u64> {
    cluster.run(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address(id)))?;
        let mut log = LogClient::new(connect_lazy(&endpoint)).max_decoding_message_size(usize::MAX);
        let request = v1::ReadRequest {
            consistency: v1::Consistency::Local.into(),
            ..v1::ReadRequest::default()
        };
        let mut answers = log.read(request).await?.into_inner();
        let mut bytes = 0;
        while let Some(answer) = answers.next().await {
            bytes += answer?.records.iter().map(|record| record.value.len() as u64).sum::<u64>();
        }
        anyhow::Ok(bytes)
    })
}

/// How many bytes a process has read from the disk since it started.
fn from_disk(pid: u32) -> anyhow::Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes:"));
    Ok(line.map_or(Ok(0), |number| number.trim().parse())?)
}

pub(crate) fn cold(program: &Path, settings: &Settings) -> anyhow::Result<()> {
    let mut table = Table::new(
        "a log that is in no memory, read from its beginning to its end",
        &[
            "values",
            "node",
            "disk MiB/s",
            "node MiB/s",
            "to the disk",
            "MiB the node read from disk",
        ],
    );
    for bytes in [256, 4 << 10, 64 << 10] {
        let mut cluster = cluster(program, 3)?;
        started(&mut cluster)?;
        fill(&cluster, settings.mib * MIB / bytes as u64, bytes, Filling::batches(bytes))?;
        cluster.await_healed()?;
        write_back(&cluster)?;
        let mut seen: [(Runs, Runs, Runs); 3] = Default::default();
        for run in 1..=settings.runs {
            for (id, (disk, node, physical)) in (1..).zip(&mut seen) {
                note(&format!("run {run} of {}: values of {bytes} bytes, n{id}", settings.runs));
                let paths = segments(&cluster, id)?;
                forget(&paths)?;
                // What is only reserved is in the files, and on no disk.
                let before = from_disk(std::process::id())?;
                let begun = Instant::now();
                read_files(&paths)?;
                let took = begun.elapsed();
                let read = from_disk(std::process::id())? - before;
                disk.add(per_second(mib(read), took));
                forget(&paths)?;
                let before = from_disk(cluster.pid(id)?)?;
                let begun = Instant::now();
                let read = read_node(&cluster, id)?;
                node.add(per_second(mib(read), begun.elapsed()));
                physical.add(mib(from_disk(cluster.pid(id)?)? - before));
            }
        }
        for (id, (disk, node, physical)) in (1..).zip(&seen) {
            table.row([
                format!("{bytes} bytes").into(),
                format!("n{id}").into(),
                disk.cell(),
                node.cell(),
                ratio(node.median(), disk.median()),
                physical.cell(),
            ]);
        }
    }
    table.print();
    Ok(())
}

pub(crate) fn at_nodes(program: &Path, settings: &Settings) -> anyhow::Result<()> {
    const CASES: [(&str, &str); 3] =
        [("leader", "the leader"), ("followers", "the two followers"), ("all", "all three")];
    let mut cluster = cluster(program, 3)?;
    started(&mut cluster)?;
    let mut seen: [(Runs, Runs, Runs, Runs, Runs); 3] = Default::default();
    for run in 1..=settings.runs {
        for ((to, name), (rate, p50, p99, nodes, own)) in CASES.into_iter().zip(&mut seen) {
            note(&format!("run {run} of {}: at {name}", settings.runs));
            // As many connections at each of one, two or three nodes.
            let load = Load { what: "read", connections: 6, each: 10, to, ..Load::UNARY };
            let sample = load.run(program, &cluster, settings.length())?;
            rate.add(sample.per_second);
            p50.add(sample.p50_ms);
            p99.add(sample.p99_ms);
            nodes.add(sample.nodes_cores.iter().sum());
            own.add(sample.load_cores);
        }
    }
    let mut table = Table::new(
        "linearizable reads of one record, 60 clients on 6 connections",
        &["at", "reads/s", "to the leader's", "p50 ms", "p99 ms", "cores: nodes", "load"],
    );
    let leader = seen[0].0.median();
    for ((_, name), (rate, p50, p99, nodes, own)) in CASES.into_iter().zip(&seen) {
        let to_leader = ratio(rate.median(), leader);
        let rest = [p50, p99, nodes, own].map(Runs::cell);
        table.row([name.into(), rate.cell(), to_leader].into_iter().chain(rest));
    }
    table.print();
    Ok(())
}
