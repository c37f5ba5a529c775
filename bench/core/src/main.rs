//! Tercet's core and raft-rs on the same loop: three replicas in one thread and in memory, no
//! encoding, no disk, no network.
//!
//! A round proposes as many entries as the window has places, then carries messages until the leader
//! has applied all of them. Both systems do the same for an entry: its bytes are made anew, kept in
//! the logs of three replicas, attached to the messages to two of them, and looked at when they are
//! applied, on each. What counts is the time of the processor in this thread, so that what else runs
//! on the machine does not.

mod raftrs;
mod tercet;

use clap::{Parser, ValueEnum};
use comfy_table::{Table, presets};
use rustix::time::{ClockId, clock_gettime};

/// Compare Tercet's core with raft-rs, in memory.
#[derive(Parser)]
struct Args {
    /// How many entries are proposed before all of them are waited for
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256, 4096])]
    windows: Vec<usize>,
    /// How many bytes an entry has
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Each system runs so often, in turn
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Each run takes so many seconds of the processor
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only this one, for a profile
    #[arg(long, value_enum)]
    only: Option<System>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    /// raft-rs, one call for each entry
    RaftRs,
    /// raft-rs, one call for all entries of a round
    RaftRsBatches,
    /// Tercet's core, proposed to as its driver does
    Tercet,
}

const SYSTEMS: [System; 3] = [System::RaftRs, System::RaftRsBatches, System::Tercet];

/// When so many entries were applied since it was last done, a replica forgets them but for the last
/// [`KEPT`]: the logs stay in the processor's caches, so that it is no measure of memory.
pub(crate) const KEPT_MAX: u64 = 2_000;
pub(crate) const KEPT: u64 = 1_000;

/// Three replicas whose first one leads.
trait Cluster {
    /// Proposes `count` entries with these bytes, and carries messages until the leader has applied
    /// them.
    fn round(&mut self, count: usize, payload: &[u8]);
    /// Lets the followers learn of the last commit.
    fn settle(&mut self);
    /// How many entries with bytes each replica has applied.
    fn applied(&self) -> [u64; 3];
}

fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Commits per second of the processor.
fn measure(mut cluster: impl Cluster, window: usize, args: &Args) -> f64 {
    let payload = vec![0xab; args.payload.max(1)];
    let mut run = |seconds: f64| {
        let begun = processor_time();
        let mut count = 0;
        loop {
            // Between two looks at the clock, whose cost must not count.
            for _ in 0..1024_usize.div_ceil(window) {
                cluster.round(window, &payload);
                count += window;
            }
            let took = processor_time() - begun;
            if took >= seconds {
                return (count, took);
            }
        }
    };
    let (warm_up, _) = run(args.seconds / 10.0);
    let (count, took) = run(args.seconds);
    cluster.settle();
    assert_eq!(cluster.applied(), [(warm_up + count) as u64; 3], "all three applied all of it");
    count as f64 / took
}

/// The median, and that with the lowest and the highest.
fn spread(mut rates: Vec<f64>) -> Option<(f64, String)> {
    rates.sort_by(f64::total_cmp);
    let (low, high) = (rates.first()?, rates.last()?);
    let median = rates[rates.len() / 2];
    Some((median, format!("{:.0} ({:.0}–{:.0})", median / 1e3, low / 1e3, high / 1e3)))
}

fn main() {
    let args = Args::parse();
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "window",
        "raft-rs, one by one, k/s",
        "raft-rs, in batches, k/s",
        "Tercet, k/s",
        "ratios",
    ]);
    for window in args.windows.iter().copied() {
        let mut rates = SYSTEMS.map(|_| Vec::new());
        for _ in 0..args.runs {
            for (system, rates) in SYSTEMS.into_iter().zip(&mut rates) {
                if args.only.is_some_and(|only| only != system) {
                    continue;
                }
                rates.push(match system {
                    System::RaftRs => measure(raftrs::Replicas::new(false), window, &args),
                    System::RaftRsBatches => measure(raftrs::Replicas::new(true), window, &args),
                    System::Tercet => measure(tercet::Replicas::new(), window, &args),
                });
            }
        }
        let [one_by_one, batches, ours] = rates.map(spread);
        let ratio = |theirs: &Option<(f64, String)>| match (&ours, theirs) {
            (Some((ours, _)), Some((theirs, _))) => format!("{:.2}×", ours / theirs),
            _ => "–".to_owned(),
        };
        let ratios = format!("{} / {}", ratio(&one_by_one), ratio(&batches));
        let shown =
            [one_by_one, batches, ours].map(|side| side.map_or("–".to_owned(), |(_, text)| text));
        let row = [vec![window.to_string()], shown.to_vec(), vec![ratios]].concat();
        eprintln!("{}", row.join("   "));
        table.add_row(row);
    }
    println!("{table}");
}
