//! The loads, and a closed loop over any client.

use std::fmt;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// What each value weighs.
pub(crate) const VALUE: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub(crate) enum Kind {
    /// Each client waits for its answer before it submits again.
    Append,
    /// Each connection has several submits under way; for systems without such streams, as many
    /// clients on it instead.
    Stream,
    /// A linearizable read of one value.
    Read,
    /// The same, several under way on each connection.
    ReadStream,
}

/// So many requests under way on so many connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
}

impl Load {
    pub(crate) fn all() -> Vec<Self> {
        let load = |kind, in_flight, connections| Self { kind, in_flight, connections };
        vec![
            load(Kind::Append, 1, 1),
            load(Kind::Append, 16, 4),
            load(Kind::Append, 64, 8),
            load(Kind::Append, 256, 8),
            load(Kind::Stream, 64, 8),
            load(Kind::Stream, 256, 8),
            load(Kind::Read, 1, 1),
            load(Kind::Read, 64, 8),
            load(Kind::ReadStream, 64, 8),
        ]
    }

    /// The load that a system without streams is measured by.
    pub(crate) fn without_streams(self) -> Self {
        let kind = match self.kind {
            Kind::Append | Kind::Stream => Kind::Append,
            Kind::Read | Kind::ReadStream => Kind::Read,
        };
        Self { kind, ..self }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, in_flight, connections } = self;
        match kind {
            Kind::Append => write!(f, "append, {in_flight} clients on {connections}"),
            Kind::Stream => write!(f, "append, {in_flight} in flight on {connections} (streams)"),
            Kind::Read => write!(f, "linearizable read, {in_flight} clients on {connections}"),
            Kind::ReadStream => {
                write!(f, "linearizable read, {in_flight} in flight on {connections} (streams)")
            }
        }
    }
}

/// What one run of one load came to.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Sample {
    pub(crate) system: &'static str,
    pub(crate) load: Load,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) errors: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<45} {:>8.0}/s   p50 {:>7.2} ms   p99 {:>7.2} ms",
            self.load.to_string(),
            self.per_second,
            self.p50_us / 1e3,
            self.p99_us / 1e3
        )?;
        if self.errors > 0 { write!(f, "   {} errors", self.errors) } else { Ok(()) }
    }
}

/// The sample of some latencies.
pub(crate) fn sample(
    system: &'static str,
    load: Load,
    mut latencies: Vec<Duration>,
    took: Duration,
    errors: u64,
) -> Sample {
    latencies.sort_unstable();
    let at = |percent: usize| {
        let last = latencies.len().saturating_sub(1);
        latencies.get(last * percent / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    };
    Sample {
        system,
        load,
        per_second: latencies.len() as f64 / took.as_secs_f64(),
        p50_us: at(50),
        p99_us: at(99),
        errors,
    }
}

/// Each client asks again as soon as it is answered. A thread runs the clients of some connections and
/// nobody else's, as `tercet bench` does: what a load takes of the machine is not the system's.
pub(crate) fn closed_loop<K, C, F>(
    system: &'static str,
    load: Load,
    warm_up: Duration,
    length: Duration,
    connect: impl AsyncFn() -> anyhow::Result<K> + Sync,
    client: impl Fn(K, usize) -> C + Sync,
) -> anyhow::Result<Sample>
where
    K: Clone,
    C: FnMut(u64) -> F + Send + 'static,
    F: Future<Output = bool> + Send + 'static,
{
    let threads = std::thread::available_parallelism()?.get().min(load.connections);
    let from = Instant::now() + warm_up;
    let end = from + length;
    let of_thread = |thread: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for connection in (thread..load.connections).step_by(threads) {
                let connected = connect().await?;
                for number in (connection..load.in_flight).step_by(load.connections) {
                    tasks.spawn(ask_again(client(connected.clone(), number), from, end));
                }
            }
            anyhow::Ok(tasks.join_all().await)
        })
    };
    let seen = std::thread::scope(|scope| {
        let of_thread = &of_thread;
        let threads: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || of_thread(thread))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().expect("a load does not panic"));
        ended.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let (mut latencies, mut errors) = (Vec::new(), 0);
    for (of_one, failed) in seen.into_iter().flatten() {
        latencies.extend(of_one);
        errors += failed;
    }
    Ok(sample(system, load, latencies, length, errors))
}

/// One client: how long its requests took, and how many failed.
async fn ask_again<F: Future<Output = bool>>(
    mut ask: impl FnMut(u64) -> F,
    from: Instant,
    end: Instant,
) -> (Vec<Duration>, u64) {
    let (mut latencies, mut errors) = (Vec::new(), 0);
    for count in 0.. {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        let is_done = ask(count).await;
        if begun < from {
            continue;
        }
        if is_done {
            latencies.push(begun.elapsed());
        } else {
            errors += 1;
        }
    }
    (latencies, errors)
}
