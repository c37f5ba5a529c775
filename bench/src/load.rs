//! The load on a cluster: `tercet bench` in a process of its own, so that its processor time is not
//! that of who measures.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tercet_testkit::Cluster;

/// How long a load is on before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// What `tercet bench` is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// `submit` or `read`.
    pub(crate) what: &'static str,
    pub(crate) connections: usize,
    /// Clients on each connection, or requests in each stream.
    pub(crate) each: usize,
    pub(crate) stream: bool,
    pub(crate) bytes: usize,
    /// `leader`, `followers` or `all`.
    pub(crate) to: &'static str,
}

impl Load {
    /// 64 clients on 8 connections, each with one request at a time.
    pub(crate) const UNARY: Self =
        Self { what: "submit", connections: 8, each: 8, stream: false, bytes: 256, to: "leader" };
    /// 8 streams, each with 8 requests under way.
    pub(crate) const STREAMS: Self = Self { stream: true, ..Self::UNARY };
}

/// What became of a load.
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Processor time of each node, of the load, and of this process, in seconds per second.
    pub(crate) nodes_cores: Vec<f64>,
    pub(crate) load_cores: f64,
    pub(crate) own_cores: f64,
}

impl Load {
    /// Puts the load on a cluster for so long.
    pub(crate) fn run(
        &self,
        program: &Path,
        cluster: &Cluster,
        length: Duration,
    ) -> anyhow::Result<Sample> {
        let mut command = Command::new(program);
        command.args(["bench", self.what, "--json", "--to", self.to]);
        command.args(["--node", &cluster.addresses().join(",")]);
        command.args(["--size", &self.bytes.to_string()]);
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--duration", &format!("{}ms", length.as_millis())]);
        command.args(["--warm-up", &format!("{}ms", WARM_UP.as_millis())]);
        if self.stream {
            command.args(["--stream", "--clients", &self.connections.to_string()]);
            command.args(["--in-flight", &self.each.to_string()]);
        } else {
            command.args(["--clients", &(self.connections * self.each).to_string()]);
        }
        let before = Spent::until_now(cluster)?;
        let output = command.output()?;
        let spent = Spent::until_now(cluster)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let errors = report["errors"].as_object().is_some_and(|errors| !errors.is_empty());
        ensure!(!errors, "the load met errors: {}", report["errors"]);
        let number = |pointer: &str| {
            report.pointer(pointer).and_then(serde_json::Value::as_f64).context(pointer.to_owned())
        };
        let length = spent.at.duration_since(before.at);
        let cores = |until: Duration, since: Duration| {
            until.saturating_sub(since).as_secs_f64() / length.as_secs_f64()
        };
        let nodes = spent.nodes.iter().zip(&before.nodes);
        Ok(Sample {
            per_second: number("/records_per_second")?,
            p50_ms: number("/latency_us/p50")? / 1e3,
            p99_ms: number("/latency_us/p99")? / 1e3,
            nodes_cores: nodes.map(|(until, since)| cores(*until, *since)).collect(),
            load_cores: cores(spent.children, before.children),
            own_cores: cores(spent.own, before.own),
        })
    }
}

/// Processor time that was spent until a moment.
struct Spent {
    at: Instant,
    nodes: Vec<Duration>,
    own: Duration,
    /// Processes of ours that have ended.
    children: Duration,
}

impl Spent {
    fn until_now(cluster: &Cluster) -> anyhow::Result<Self> {
        let node = |id| Ok(processor_time(&format!("/proc/{}/stat", cluster.pid(id)?))?.0);
        let nodes = (1..=cluster.count()).map(node).collect::<anyhow::Result<_>>()?;
        let (own, children) = processor_time("/proc/self/stat")?;
        Ok(Self { at: Instant::now(), nodes, own, children })
    }
}

/// What a process has spent, and what its children have that it has seen end.
fn processor_time(path: &str) -> anyhow::Result<(Duration, Duration)> {
    let stat = std::fs::read_to_string(path).context(path.to_owned())?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("a name")?;
    // proc_pid_stat(5): fields 14 to 17, in clock ticks; the name is the second.
    let ticks = fields.split_whitespace().skip(11).take(4).map(str::parse);
    let ticks = ticks.collect::<Result<Vec<u64>, _>>()?;
    ensure!(ticks.len() == 4, "{path} is cut off");
    let hertz = rustix::param::clock_ticks_per_second();
    let time = |ticks: u64| Duration::from_micros(ticks * 1_000_000 / hertz);
    Ok((time(ticks[0] + ticks[1]), time(ticks[2] + ticks[3])))
}

/// How long and how often something is measured.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// How long each load is measured, in seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each is
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// How much is read cold, or lies before a node that catches up, in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..))]
    pub(crate) mib: u64,
    /// How many records a log is grown to
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    pub(crate) records: u64,
    /// The program; by default the one beside this
    #[arg(long)]
    program: Option<PathBuf>,
}

impl Settings {
    pub(crate) const fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(crate) fn program(&self) -> anyhow::Result<PathBuf> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("tercet"),
        };
        ensure!(program.is_file(), "{} is not there: cargo build --release", program.display());
        Ok(program)
    }
}
