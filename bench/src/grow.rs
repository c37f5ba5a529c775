//! What throughput depends on: the size of a value, the number of nodes, and, as little as can be,
//! how much is in the log already.

use std::path::Path;

use crate::load::{Load, Sample, Settings};
use crate::output::{Runs, Table, note, ratio};
use crate::{Filling, cluster, fill, resident, started, write_back};

/// The most bytes of values that a load has under way.
const UNDER_WAY: usize = 16 << 20;
/// What is in a log that counts as short.
const SHORT: u64 = 10_000;

#[derive(Default)]
struct Seen {
    rate: Runs,
    p50: Runs,
    p99: Runs,
}

impl Seen {
    fn add(&mut self, sample: &Sample) {
        self.rate.add(sample.per_second);
        self.p50.add(sample.p50_ms);
        self.p99.add(sample.p99_ms);
    }
}

pub(crate) fn sweep(program: &Path, settings: &Settings) -> anyhow::Result<()> {
    sizes(program, settings)?;
    nodes(program, settings)
}

fn sizes(program: &Path, settings: &Settings) -> anyhow::Result<()> {
    const SIZES: [usize; 5] = [16, 256, 4 << 10, 64 << 10, 1 << 20];
    let load = |bytes: usize| {
        let each = (UNDER_WAY / bytes / Load::STREAMS.connections).clamp(1, Load::STREAMS.each);
        Load { each, bytes, ..Load::STREAMS }
    };
    let mut seen: [Seen; SIZES.len()] = Default::default();
    for run in 1..=settings.runs {
        let mut cluster = cluster(program, 3)?;
        started(&mut cluster)?;
        for (bytes, seen) in SIZES.into_iter().zip(&mut seen) {
            note(&format!("run {run} of {}: values of {bytes} bytes", settings.runs));
            seen.add(&load(bytes).run(program, &cluster, settings.length())?);
        }
    }
    let mut table = Table::new(
        "values of different sizes over 8 streams",
        &["bytes", "in flight", "submits/s", "MiB/s", "p50 ms", "p99 ms"],
    );
    for (bytes, seen) in SIZES.into_iter().zip(&seen) {
        let load = load(bytes);
        let mut mib = Runs::default();
        mib.add(seen.rate.median() * f64::from(u32::try_from(bytes)?) / 1_048_576.0);
        table.row([
            bytes.into(),
            (load.connections * load.each).into(),
            seen.rate.cell(),
            mib.cell(),
            seen.p50.cell(),
            seen.p99.cell(),
        ]);
    }
    table.print();
    Ok(())
}

fn nodes(program: &Path, settings: &Settings) -> anyhow::Result<()> {
    const NODES: [usize; 3] = [3, 5, 7];
    const LOADS: [(&str, Load); 2] =
        [("64 clients on 8 connections", Load::UNARY), ("8 streams, 8 in flight", Load::STREAMS)];
    let mut seen: [[Seen; NODES.len()]; LOADS.len()] = Default::default();
    for run in 1..=settings.runs {
        for (place, count) in NODES.into_iter().enumerate() {
            note(&format!("run {run} of {}: {count} nodes", settings.runs));
            let mut cluster = cluster(program, count)?;
            started(&mut cluster)?;
            for ((_, load), seen) in LOADS.iter().zip(&mut seen) {
                seen[place].add(&load.run(program, &cluster, settings.length())?);
            }
        }
    }
    let mut table = Table::new(
        "clusters of different sizes, all of it on this machine",
        &["load", "nodes", "submits/s", "to three", "p50 ms", "p99 ms"],
    );
    for ((name, _), seen) in LOADS.iter().zip(&seen) {
        let three = seen[0].rate.median();
        for (count, seen) in NODES.into_iter().zip(seen) {
            table.row([
                (*name).into(),
                count.into(),
                seen.rate.cell(),
                ratio(seen.rate.median(), three),
                seen.p50.cell(),
                seen.p99.cell(),
            ]);
        }
    }
    table.print();
    Ok(())
}

/// In turns: a new cluster with a short log, and one whose log is long.
pub(crate) fn growth(program: &Path, settings: &Settings) -> anyhow::Result<()> {
    const VALUE: usize = 256;
    let mut long = cluster(program, 3)?;
    started(&mut long)?;
    fill(&long, settings.records, VALUE, Filling::batches(VALUE))?;
    long.await_healed()?;
    write_back(&long)?;
    let loads = [Load::UNARY, Load::STREAMS];
    let mut seen: [[(Seen, Runs); 2]; 2] = Default::default();
    for run in 1..=settings.runs {
        let mut short = cluster(program, 3)?;
        started(&mut short)?;
        fill(&short, SHORT, VALUE, Filling::batches(VALUE))?;
        short.await_healed()?;
        for (cluster, seen) in [&short, &long].into_iter().zip(&mut seen) {
            for (load, (seen, memory)) in loads.iter().zip(seen) {
                let records = cluster.run(cluster.client().tail(false))?.next_seq - 1;
                note(&format!("run {run} of {}: {records} records", settings.runs));
                seen.add(&load.run(program, cluster, settings.length())?);
                for id in 1..=3 {
                    memory.add(f64::from(resident(cluster.pid(id)?)?));
                }
            }
        }
    }
    let mut table = Table::new(
        "throughput with a short log and with a long one",
        &[
            "load",
            "records before",
            "submits/s",
            "to the short log",
            "p50 ms",
            "p99 ms",
            "MiB a node",
        ],
    );
    let [short, long] = seen;
    for ((name, short), long) in
        ["64 clients on 8 connections", "8 streams, 8 in flight"].into_iter().zip(short).zip(long)
    {
        let rate = short.0.rate.median();
        for (records, (seen, memory)) in [(SHORT, short), (settings.records, long)] {
            table.row([
                name.into(),
                usize::try_from(records)?.into(),
                seen.rate.cell(),
                ratio(seen.rate.median(), rate),
                seen.p50.cell(),
                seen.p99.cell(),
                memory.cell(),
            ]);
        }
    }
    table.print();
    Ok(())
}
