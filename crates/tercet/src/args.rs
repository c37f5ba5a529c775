//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;
use tercet_lab::diagram::Format;

/// A replicated log that you can trust, and watch.
#[derive(Parser, Debug)]
#[command(name = "tercet", version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What is logged on standard error: error, warn, info, debug, or a filter such as tercet_server=debug
    #[arg(long, global = true, env = "TERCET_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// Log as JSON lines
    #[arg(long, global = true, env = "TERCET_LOG_JSON")]
    pub(crate) log_json: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed · 2 wrong usage or configuration; explain: degraded · \
3 no quorum; submit: not appended, try again later · 4 submit: nobody can know whether it was appended (repeat it with the \
same --key) · serve: 10 a port is taken, 11 the data directory cannot be used, 12 the disk failed";

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine, with a prompt
    #[command(
        after_help = "Examples:\n  tercet dev\n  printf 'submit 1\\nstatus\\n' | tercet dev\n\n\
With input from a pipe every line is run; the exit code is 1 if any of them failed."
    )]
    Dev(DevArgs),
    /// Run one node
    #[command(
        after_help = "Examples:\n  tercet serve --config n1.toml\n  tercet serve --id 1 --data ./n1 \
--cluster 1=127.0.0.1:7201,2=127.0.0.1:7202,3=127.0.0.1:7203 --listen 127.0.0.1:7101\n\n\
The same command is right for the first start, a restart, and after a lost disk. Flags go before TERCET_* variables, those before the file."
    )]
    Serve(ServeArgs),
    /// Append values; success means: on disk on a majority
    #[command(
        after_help = "Examples:\n  tercet submit 1\n  tercet submit a b c          (all or none, next to each other)\n  \
seq 1000 | tercet submit -   (one value per line)\n  tercet submit --key order-4711 paid"
    )]
    Submit(SubmitArgs),
    /// Print committed values
    Read(ReadArgs),
    /// Print the last values, and with -f those to come
    Tail(TailArgs),
    /// Show all nodes; works without a leader
    Status(StatusArgs),
    /// Say in words how the cluster is, and what to do
    Explain(Nodes),
    /// Hand leadership over
    Transfer(TransferArgs),
    /// Check data directories of stopped nodes: every checksum, and that they agree
    Verify {
        /// The directories
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Show what is in a data directory
    Inspect {
        /// The directory
        dir: PathBuf,
        /// List every entry
        #[arg(long)]
        entries: bool,
    },
    /// Begin again from one node's directory, when more nodes are lost than a majority can spare
    #[command(
        after_help = "Example:\n  tercet recover --from ./n1                 (shows what it holds, changes nothing)\n  \
tercet recover --from ./n1 --accept-loss\n\n\
The node must not run. Acknowledged values can be lost by this: docs/operating.md, \"When something breaks\"."
    )]
    Recover {
        /// The directory whose log goes on
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// What was acknowledged and is not in this log may be lost
        #[arg(long)]
        accept_loss: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// A prompt over nodes that run elsewhere with --lab, or over the simulator: the whole .lab language
    #[command(
        after_help = "Examples:\n  tercet sh --node 10.0.0.1:7101,10.0.0.2:7101,10.0.0.3:7101\n  tercet sh --sim --seed 7\n\n\
In the simulator time is virtual, and what was done can be undone: undo, back, fork, switch."
    )]
    Sh(ShArgs),
    /// Run lines of the .lab language, one after the other until one fails
    #[command(
        after_help = "Examples:\n  tercet do \"submit a\" status\n  tercet do --sim --json \"submit a\" \"crash leader\" \"submit b\" logs\n\n\
Nodes without --lab understand submit, read, status, explain and transfer. With --json each line gives one object."
    )]
    Do(DoArgs),
    /// Stage situations of the Raft paper, and worse ones, from scripts
    Lab {
        #[command(subcommand)]
        command: LabCommand,
    },
    /// Live whole lives of clusters in the simulator, with faults, and check every step
    #[command(
        after_help = "Examples:\n  tercet sim --seeds 1..10000\n  tercet sim --seeds 1..500 --nodes 5 --faults crash,cut,wipe\n  \
tercet sim --list\n\n\
A seed that fails is made smaller and told with the one command that replays it. The exit code is 1 if \
an invariant was broken, or if a fault or a rare state was never met in 1000 seeds or more."
    )]
    Sim(SwarmArgs),
    /// Put load on a cluster, and measure what becomes of it
    #[command(
        after_help = "Examples:\n  tercet bench submit --start 3                   (a cluster of its own, here)\n  \
tercet bench submit --stream --clients 8 --in-flight 8\n  tercet bench read --clients 64 --node 10.0.0.1:7101\n  \
tercet bench submit --rate 5000 --html report.html\n  tercet bench tail --clients 100 --start 3\n\n\
It appends to the cluster's log for good. With --rate a request counts from when it was due, though the cluster kept \
its client busy. Ctrl-C ends it early, with what was measured so far."
    )]
    Bench(BenchArgs),
    /// Measure this machine's disk and clock
    Doctor {
        /// Where to measure
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Check a configuration file
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script
    Completions {
        /// For this shell
        shell: Shell,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Read a file as `serve` would, and say what is wrong with it
    Check {
        /// The file
        file: PathBuf,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum LabCommand {
    /// List the scenarios that come with the program
    List,
    /// Print a scenario, or open the trace of a run that failed where it failed
    Show {
        /// Its name, or a file; a file that ends with .trace is a trace
        name: String,
        /// Of a trace, everything that happened
        #[arg(long)]
        whole: bool,
        /// What happened as a diagram: of a trace, or of a scenario as it runs in the simulator
        #[arg(long = "as", value_name = "FORMAT", value_parser = parse_format, conflicts_with = "whole")]
        draw_as: Option<Format>,
        /// Which branch is drawn; the one that failed, or the last, if it is not said
        #[arg(long, value_name = "NAME", requires = "draw_as")]
        branch: Option<String>,
    },
    /// Tell a scenario at human speed, with its questions
    Play {
        /// Its name, or a file
        name: String,
        /// How much slower (2) or faster (0.5); 0: without pauses
        #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
        pace: f64,
    },
    /// Check a script without running it
    Check {
        /// Files, or names of scenarios
        #[arg(required = true)]
        scripts: Vec<String>,
    },
    /// Run scripts, and say whether what they expect comes true
    #[command(
        after_help = "Examples:\n  tercet lab run election\n  tercet lab run my.lab --watch\n  tercet lab run --all --seeds 1..100\n\n\
The exit code is 1 if anything that was expected did not come true, and 2 if a script cannot be run."
    )]
    Run(LabRunArgs),
    /// Run nodes on this machine for scripts that run on several
    #[command(
        after_help = "Example, on each of the machines:\n  TERCET_LAB_TOKEN=… tercet lab agent --listen 10.0.0.1:7300 --dir ./lab"
    )]
    Agent {
        /// Where callers connect; beyond this machine it wants a secret in TERCET_LAB_TOKEN
        #[arg(long, default_value = "127.0.0.1:7300", value_name = "ADDR")]
        listen: SocketAddr,
        /// Where the nodes keep their data: DIR/RUN/n1 …
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How long a caller may say nothing until its nodes are stopped
        #[arg(long, default_value = "60s", value_name = "TIME")]
        silence: String,
    },
}

fn parse_format(name: &str) -> Result<Format, String> {
    Format::from_name(name).ok_or_else(|| "it is svg, mermaid or shiviz".to_owned())
}

/// Where real processes run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Real {
    /// On this machine.
    Here,
    /// On the machines that a file names.
    Hosts(PathBuf),
}

impl std::str::FromStr for Real {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Here),
            file if file.ends_with(".toml") => Ok(Self::Hosts(file.into())),
            _ => Err("a file of hosts ends in .toml; scripts go before --real".to_owned()),
        }
    }
}

#[derive(ClapArgs, Debug)]
pub(crate) struct LabRunArgs {
    /// Files, or names of scenarios
    #[arg(required_unless_present = "all")]
    pub(crate) scripts: Vec<String>,
    /// All scenarios that come with the program
    #[arg(long, conflicts_with = "scripts")]
    pub(crate) all: bool,
    /// In the simulator, with each of these seeds instead of the script's own: 1..1000
    #[arg(long, value_name = "A..B")]
    pub(crate) seeds: Option<String>,
    /// On real processes instead of in the simulator: on this machine, or on those of a file of hosts
    /// (put the scripts before it)
    #[arg(
        long,
        conflicts_with = "seeds",
        num_args = 0..=1,
        default_missing_value = "local",
        value_name = "HOSTS.toml"
    )]
    pub(crate) real: Option<Real>,
    /// On real processes: how often to run each script
    #[arg(long, default_value_t = 1, requires = "real", value_name = "TIMES")]
    pub(crate) repeat: u32,
    /// On real processes: by how much pauses (`run 300ms`) are stretched
    #[arg(long, default_value_t = 1.0, requires = "real", value_name = "FACTOR")]
    pub(crate) scale: f64,
    /// On real processes: how long an expectation may take to come true
    #[arg(long, default_value = "5s", requires = "real", value_name = "TIME")]
    pub(crate) patience: String,
    /// On real processes: keep the data here instead of in a temporary directory
    #[arg(long, requires = "real", value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Only up to this line
    #[arg(long, value_name = "LINE")]
    pub(crate) until: Option<usize>,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Write what happens now into the script, behind `---`, in place of what is there
    #[arg(long, conflicts_with_all = ["real", "seeds", "all"])]
    pub(crate) update: bool,
    /// Print every step and what happens, as it happens
    #[arg(long)]
    pub(crate) watch: bool,
    /// With --watch: of what happens, only the plain sentences of a lab class
    #[arg(long, requires = "watch")]
    pub(crate) classic: bool,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct SwarmArgs {
    /// These seeds: 17, or 1..10000
    #[arg(long, default_value = "1..1000", value_name = "A..B")]
    pub(crate) seeds: String,
    /// So many nodes, 1 to 7, instead of what the seed decides
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) nodes: Option<u8>,
    /// This Raft instead of what the seed decides
    #[arg(long, value_parser = ["modern", "paper"])]
    pub(crate) profile: Option<String>,
    /// Only these faults; "none": none at all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) faults: Option<Vec<String>>,
    /// Clients and faults are at work for so many simulated minutes
    #[arg(long)]
    pub(crate) minutes: Option<f64>,
    /// At most so many clients
    #[arg(long)]
    pub(crate) clients: Option<usize>,
    /// Of the faults that a seed plans, only those with these numbers; "none": none of them
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) only: Option<Vec<String>>,
    /// Switch rules of the protocol off, such as commit-old-terms,no-pre-vote: to see it found
    #[arg(long, default_value = "", value_name = "RULES")]
    pub(crate) broken_rules: String,
    /// So many seeds at a time [default: one for each core]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Do not make what failed smaller
    #[arg(long)]
    pub(crate) no_reduce: bool,
    /// List the faults
    #[arg(long)]
    pub(crate) list: bool,
}

/// What the clients of a bench do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum BenchWhat {
    /// Append values; each answer means: on disk on a majority
    Submit,
    /// Read single values, each linearizable
    Read,
    /// Follow the log while one more client feeds it: how old values are when they come
    Tail,
}

impl BenchWhat {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Tail => "tail",
        }
    }
}

/// Which nodes take the load of a bench.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum BenchTarget {
    /// The one that leads
    Leader,
    /// All others
    Followers,
    /// All, in turn
    All,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct BenchArgs {
    /// What the clients do
    #[arg(value_enum, default_value = "submit")]
    pub(crate) what: BenchWhat,
    /// How many clients
    #[arg(short = 'c', long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// On so many connections [default: 8, or one for each client if they are fewer]
    #[arg(long)]
    pub(crate) connections: Option<usize>,
    /// Each client has so many requests under way
    #[arg(long, default_value_t = 1, value_name = "REQUESTS")]
    pub(crate) in_flight: usize,
    /// Each client submits, or reads, over one stream
    #[arg(long)]
    pub(crate) stream: bool,
    /// Each client submits through a submitter of the client library: what is submitted while a
    /// request is under way becomes the next one
    #[arg(long, conflicts_with = "stream")]
    pub(crate) submitter: bool,
    /// The size of a value
    #[arg(long, default_value = "256", value_name = "SIZE")]
    pub(crate) size: String,
    /// So many values in one request
    #[arg(long, default_value_t = 1)]
    pub(crate) records: usize,
    /// An open loop: so many requests in a second, of all clients together, answered or not
    #[arg(long, value_name = "REQUESTS")]
    pub(crate) rate: Option<f64>,
    /// How long it is measured
    #[arg(short = 'd', long, default_value = "10s", value_name = "TIME")]
    pub(crate) duration: String,
    /// How long the load is on before that
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub(crate) warm_up: String,
    /// Which nodes take the load
    #[arg(long, value_enum, default_value = "leader")]
    pub(crate) to: BenchTarget,
    /// Start a cluster of so many nodes on this machine, for this bench alone
    #[arg(long, value_name = "NODES", conflicts_with = "nodes", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) start: Option<u8>,
    /// Where that cluster keeps its data [default: a directory here, removed afterwards]
    #[arg(long, requires = "start", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The load comes from so many threads, at most one for each connection [default: one for each core]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Write the latencies by percentile, as HdrHistogram's plotters read them
    #[arg(long, value_name = "FILE")]
    pub(crate) histogram: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct DevArgs {
    /// How many nodes: 1, 3, 5 or 7
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: u8,
    /// Where the nodes keep their data: DIR/n1, DIR/n2 …
    #[arg(long, default_value = "./tercet-data")]
    pub(crate) dir: PathBuf,
    /// The first node's port for clients; the others follow
    #[arg(long, default_value_t = 7101)]
    pub(crate) client_port: u16,
    /// The first node's port for peers; the others follow
    #[arg(long, default_value_t = 7201)]
    pub(crate) peer_port: u16,
    /// With the lab: cut, hold, pause and bend the nodes, at human speed; `menu` is the class menu
    #[arg(long)]
    pub(crate) lab: bool,
    /// With the lab: which Raft, modern or paper (Figure 2 and nothing else)
    #[arg(long, requires = "lab", default_value = "modern", value_parser = ["modern", "paper"])]
    pub(crate) profile: String,
}

#[derive(ClapArgs, Debug, Default)]
pub(crate) struct ServeArgs {
    /// A configuration file
    #[arg(long, env = "TERCET_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// This node's number
    #[arg(long, env = "TERCET_ID")]
    pub(crate) id: Option<u8>,
    /// The data directory
    #[arg(long, env = "TERCET_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// All nodes with their peer addresses: 1=host1:7201,2=host2:7201,3=host3:7201
    #[arg(long, env = "TERCET_CLUSTER", value_name = "ID=ADDR,…")]
    pub(crate) cluster: Option<String>,
    /// The cluster's name
    #[arg(long, env = "TERCET_CLUSTER_NAME", value_name = "NAME")]
    pub(crate) cluster_name: Option<String>,
    /// Where clients connect [default: 127.0.0.1:7100]
    #[arg(long, env = "TERCET_LISTEN", value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Where peers connect [default: this node's address in the cluster]
    #[arg(long, env = "TERCET_PEER_LISTEN", value_name = "ADDR")]
    pub(crate) peer_listen: Option<SocketAddr>,
    /// The client address to tell others [default: the one listened on]
    #[arg(long, env = "TERCET_ADVERTISE", value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// Listen beyond this machine without TLS: anyone who can reach it can read and append
    #[arg(long, env = "TERCET_INSECURE")]
    pub(crate) insecure: bool,
    /// How often a leader shows that it lives, such as 50ms
    #[arg(long, env = "TERCET_HEARTBEAT", value_name = "TIME")]
    pub(crate) heartbeat: Option<String>,
    /// The election timeouts, such as 150ms..300ms
    #[arg(long, env = "TERCET_ELECTION", value_name = "MIN..MAX")]
    pub(crate) election: Option<String>,
    /// The size of a segment of the log, such as 64MiB
    #[arg(long, env = "TERCET_SEGMENT", value_name = "SIZE")]
    pub(crate) segment: Option<String>,
    /// How much of the disk stays free, such as 64MiB
    #[arg(long, env = "TERCET_DISK_RESERVE", value_name = "SIZE")]
    pub(crate) disk_reserve: Option<String>,
    /// How many threads serve gRPC clients; 0: the one that owns the log. By default 0, with more than
    /// two cores 2
    #[arg(long, env = "TERCET_API_THREADS", value_name = "COUNT")]
    pub(crate) api_threads: Option<usize>,
    /// How long the thread that owns the log looks for more before it sleeps; 0us: not at all [default: 50us]
    #[arg(long, env = "TERCET_BUSY_POLL", value_name = "TIME")]
    pub(crate) busy_poll: Option<String>,
    /// Print what happens in the plain sentences of a lab class ("node1 is now the leader.")
    #[arg(long, env = "TERCET_CLASSIC")]
    pub(crate) classic: bool,
    /// Let the lab stop, cut and bend this node (loopback, or with a secret in TERCET_LAB_TOKEN)
    #[arg(long, env = "TERCET_LAB")]
    pub(crate) lab: bool,
    /// Lab: which Raft, modern or paper (Figure 2 and nothing else)
    #[arg(long, requires = "lab", value_parser = ["modern", "paper"], default_value = "modern", hide_short_help = true)]
    pub(crate) lab_profile: String,
    /// Lab: rules that are switched off, such as commit-old-terms,no-pre-vote
    #[arg(
        long,
        requires = "lab",
        default_value = "",
        value_name = "RULES",
        hide_short_help = true
    )]
    pub(crate) lab_broken_rules: String,
    /// Lab: election timers fire only by hand
    #[arg(long, requires = "lab", hide_short_help = true)]
    pub(crate) lab_frozen_timers: bool,
    /// Lab: a rule of the gate to begin with, such as "cut 2"
    #[arg(long, requires = "lab", value_name = "RULE", hide = true)]
    pub(crate) lab_gate: Vec<String>,
    /// Stop when standard input ends: for a parent process that may die
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

/// Where the cluster is.
#[derive(ClapArgs, Debug, Clone)]
pub(crate) struct Nodes {
    /// Client addresses of the nodes; some are enough
    #[arg(
        long = "node",
        env = "TERCET_NODES",
        value_delimiter = ',',
        value_name = "ADDR",
        default_value = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103"
    )]
    pub(crate) nodes: Vec<String>,
}

/// A simulated cluster in place of nodes.
#[derive(ClapArgs, Debug, Clone)]
pub(crate) struct SimArgs {
    /// Over the simulator, with virtual time
    #[arg(long, conflicts_with = "nodes")]
    pub(crate) sim: bool,
    /// In the simulator: where its chances come from; the same seed and commands are the same run
    #[arg(long, default_value_t = 1, requires = "sim")]
    pub(crate) seed: u64,
    /// In the simulator: how many nodes, 1 to 7
    #[arg(long, default_value_t = 3, requires = "sim", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) size: u8,
    /// In the simulator: which Raft, modern or paper (Figure 2 and nothing else)
    #[arg(long, requires = "sim", default_value = "modern", value_parser = ["modern", "paper"])]
    pub(crate) profile: String,
    /// In the simulator: whether election timers run (auto) or fire only by `elect` (manual)
    #[arg(long, requires = "sim", default_value = "auto", value_parser = ["auto", "manual"])]
    pub(crate) timers: String,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct ShArgs {
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    #[command(flatten)]
    pub(crate) sim: SimArgs,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct DoArgs {
    /// The lines, each in quotes
    #[arg(required = true)]
    pub(crate) lines: Vec<String>,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
    #[command(flatten)]
    pub(crate) sim: SimArgs,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct SubmitArgs {
    /// The values; `-`: each line of standard input is one
    #[arg(required = true, allow_hyphen_values = true)]
    pub(crate) values: Vec<String>,
    /// Answer when this many have it on disk: quorum or all
    #[arg(long, default_value = "quorum", value_parser = ["quorum", "all"])]
    pub(crate) wait: String,
    /// Names the request: the same again is answered with the first result
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Append only if the first value would get this sequence number
    #[arg(long, value_name = "SEQ")]
    pub(crate) expect: Option<u64>,
    /// How long to try
    #[arg(long, default_value = "10s", value_name = "TIME")]
    pub(crate) timeout: String,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct ReadArgs {
    /// The first sequence number
    #[arg(long, default_value_t = 1)]
    pub(crate) from: u64,
    /// The most values
    #[arg(long, default_value_t = 1000)]
    pub(crate) limit: u64,
    /// What the node has, though others may have more
    #[arg(long)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct TailArgs {
    /// Go on with the values to come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the last values to begin with
    #[arg(short = 'n', long, default_value_t = 10)]
    pub(crate) lines: u64,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct StatusArgs {
    /// Again and again
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
}

#[derive(ClapArgs, Debug)]
pub(crate) struct TransferArgs {
    /// To this node; without it, to the most up-to-date one
    #[arg(long, value_name = "ID")]
    pub(crate) to: Option<u32>,
    #[command(flatten)]
    pub(crate) nodes: Nodes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real(arguments: &str) -> Result<(usize, Option<Real>), String> {
        let line = format!("tercet lab run {arguments}");
        let args = Args::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::Lab { command: LabCommand::Run(run) } = args.command else {
            return Err("it is another command".to_owned());
        };
        Ok((run.scripts.len(), run.real))
    }

    #[test]
    fn real_takes_a_file_of_hosts_or_nothing() {
        let hosts = Some(Real::Hosts("h.toml".into()));
        assert_eq!(real("x"), Ok((1, None)));
        assert_eq!(real("x --real"), Ok((1, Some(Real::Here))));
        assert_eq!(real("--all --real"), Ok((0, Some(Real::Here))));
        assert_eq!(real("--all --real --repeat 2"), Ok((0, Some(Real::Here))));
        assert_eq!(real("x y --real h.toml"), Ok((2, hosts.clone())));
        assert_eq!(real("--all --real h.toml --scale 2"), Ok((0, hosts)));
        assert!(real("--real x").unwrap_err().contains("scripts go before --real"));
        assert!(real("x --repeat 2").is_err() && real("x --real --seeds 1..2").is_err());
    }
}
