//! `tercet dev`: a whole cluster on this machine, one process per node, and a prompt.

mod supervisor;

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tercet_client::Client;
use tercet_lab::ast::{Recovery, Timers};
use tercet_lab::backend::Backend as _;
use tercet_lab::{Processes, Progress, RealBackend, RealOptions, RealSetup};
use tercet_raft::{Profile, Rules};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{DevArgs, DoArgs, Nodes, ShArgs, SimArgs};
use crate::commands::{lab_token, open, runtime};
use crate::output::{self, Failure};
use crate::shell::{self, Mode, Shell, SimOptions, Voice, World, do_lines};

pub(crate) use supervisor::{SharedSupervisor, Supervisor, lock};

/// How long the nodes may take until one leads.
const START: Duration = Duration::from_secs(20);

pub(crate) fn run(args: &DevArgs, json: bool) -> anyhow::Result<u8> {
    if !matches!(args.nodes, 1 | 3 | 5 | 7) {
        return Err(Failure::new(
            2,
            format!("--nodes {}: a cluster has 1, 3, 5 or 7 nodes", args.nodes),
        )
        .into());
    }
    if args.lab {
        return lab(args, json);
    }
    let runtime = runtime()?;
    let (client_ports, peer_ports) = supervisor::check_ports(args)?;
    let mut cluster = Supervisor::new(args.dir.clone(), client_ports, peer_ports)?;
    let client = {
        let _inside = runtime.enter();
        Client::new(cluster.client_addresses()).map_err(|error| Failure::new(2, error.message))?
    };
    cluster.start_all()?;
    let cluster = Arc::new(Mutex::new(cluster));
    stop_on_signal(Arc::clone(&cluster))?;
    runtime.block_on(announce(&cluster, &client, json))?;
    let voice = Voice::new(Mode::Print, json);
    let mut world = shell::Plain::new(client, runtime, Some(cluster), voice.clone());
    if std::io::stdin().is_terminal() {
        output::note("help lists the commands; Ctrl-D or quit ends");
    }
    prompt(&mut world, voice, &args.dir.join(".history"))
}

/// A prompt over a world until its end; the exit code says whether a line of a script failed.
fn prompt(world: &mut dyn World, voice: Voice, history: &Path) -> anyhow::Result<u8> {
    let interactive = std::io::stdin().is_terminal();
    let failed = if interactive {
        let mut input = shell::Terminal::new(history)?;
        Shell::new(world, &mut input, voice).prompt()
    } else {
        Shell::new(world, &mut shell::Piped, voice).prompt()
    };
    world.stop();
    Ok(u8::from(failed? && !interactive))
}

/// How long the nodes may take until one leads at human speed.
const LAB_START: Duration = Duration::from_secs(20);

/// The cluster with the lab: slower, so that a person can follow.
fn lab(args: &DevArgs, json: bool) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("this program cannot be found again")?;
    let (client_ports, peer_ports) = supervisor::check_ports(args)?;
    let processes =
        Processes::on_ports(program, args.dir.clone(), "tercet", &client_ports, &peer_ports)?;
    let setup = RealSetup {
        profile: profile_of(&args.profile),
        timers: Timers::Auto,
        recovery: Recovery::Quarantine,
        rules: Rules::default(),
    };
    let options = RealOptions {
        heartbeat: Duration::from_millis(300),
        election: (Duration::from_millis(900), Duration::from_millis(1800)),
        token: lab_token(),
        ..RealOptions::default()
    };
    let mut backend = RealBackend::attach(processes, setup, options)?;
    end_on_signal()?;
    backend.start_all()?;
    let addresses: Vec<String> =
        client_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    lab_prompt(backend, addresses, Some(&args.dir), json)
}

/// A prompt over nodes that somebody else started, or over the simulator.
pub(crate) fn sh(args: &ShArgs, json: bool) -> anyhow::Result<u8> {
    if args.sim.sim {
        let voice = Voice::new(Mode::Print, json);
        let mut world = simulated(&args.sim, &voice)?;
        let (_, status) = world.status()?;
        voice.say(status)?;
        voice.say("undo takes a command back, menu is the class menu, help lists the words")?;
        let history = std::env::temp_dir().join(".tercet-sim-history");
        return prompt(&mut world, voice, &history);
    }
    let backend = reach(&args.nodes)?;
    backend.check_lab()?;
    lab_prompt(backend, args.nodes.nodes.clone(), None, json)
}

/// Lines over nodes that run, or over the simulator.
pub(crate) fn run_lines(args: &DoArgs, json: bool) -> anyhow::Result<u8> {
    let voice = Voice::new(if json { Mode::Keep } else { Mode::Print }, json);
    if args.sim.sim {
        return do_lines(&mut simulated(&args.sim, &voice)?, &voice, &args.lines);
    }
    let client_runtime = runtime()?;
    let client = {
        let _inside = client_runtime.enter();
        open(&args.nodes)?
    };
    let mut backend = reach(&args.nodes)?;
    if !backend.has_lab()? {
        let mut world = shell::Plain::new(client, client_runtime, None, voice.clone());
        return do_lines(&mut world, &voice, &args.lines);
    }
    // What happened before is not of this command's making.
    backend.views().and_then(|_| backend.take_events())?;
    let mut world = shell::Real::new(backend, client, client_runtime, &voice, false)?;
    let code = do_lines(&mut world, &voice, &args.lines);
    world.stop();
    code
}

fn simulated(args: &SimArgs, voice: &Voice) -> anyhow::Result<shell::Sim> {
    let options = SimOptions {
        nodes: args.size,
        seed: args.seed,
        profile: profile_of(&args.profile),
        timers: if args.timers == "manual" { Timers::Manual } else { Timers::Auto },
    };
    shell::Sim::new(options, voice)
}

fn profile_of(name: &str) -> Profile {
    if name == "paper" { Profile::Paper } else { Profile::Modern }
}

/// Nodes that somebody else started.
fn reach(nodes: &Nodes) -> anyhow::Result<RealBackend> {
    let addresses = nodes.nodes.clone();
    if addresses.len() > 7 {
        return Err(Failure::new(2, "a cluster has at most 7 nodes").into());
    }
    let setup = RealSetup {
        profile: Profile::Modern,
        timers: Timers::Auto,
        recovery: Recovery::Quarantine,
        rules: Rules::default(),
    };
    let processes = Processes::of_others(addresses);
    let options = RealOptions { token: lab_token(), ..RealOptions::default() };
    Ok(RealBackend::attach(processes, setup, options)?)
}

fn lab_prompt(
    mut backend: RealBackend,
    addresses: Vec<String>,
    dir: Option<&Path>,
    json: bool,
) -> anyhow::Result<u8> {
    let runtime = runtime()?;
    let client = {
        let _inside = runtime.enter();
        Client::new(&addresses).map_err(|error| Failure::new(2, error.message))?
    };
    let voice = Voice::new(Mode::Print, json);
    let begun = Instant::now();
    let leader = loop {
        for event in backend.views().and_then(|_| backend.take_events())? {
            voice.tell(&Progress::Event(event));
        }
        let views = backend.views()?;
        if let Some(leader) = views.iter().find(|view| view.is_leader() && view.commit > 0) {
            break Some((leader.node, leader.term));
        }
        if let Some(node) = backend.processes().ended() {
            let why = backend.processes().last_words(node);
            return Err(Failure::new(1, format!("{node} ended: {why}")).into());
        }
        if begun.elapsed() > LAB_START {
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    match leader {
        Some((node, term)) => voice.say(format!("{node} leads (term {term})"))?,
        None => output::note("nobody leads yet: explain says why"),
    }
    voice.say(format!("clients: {}", addresses.join(" ")))?;
    if let Some(dir) = dir {
        voice.say(format!("data:    {}", dir.join("n*").display()))?;
    }
    voice.say("menu is the class menu, help lists the words, quit ends")?;
    let history = dir.map_or_else(
        || std::env::temp_dir().join(".tercet-lab-history"),
        |dir| dir.join(".lab-history"),
    );
    let mut world = shell::Real::new(backend, client, runtime, &voice, dir.is_some())?;
    prompt(&mut world, voice, &history)
}

/// Ctrl-C or SIGTERM: the nodes stop cleanly, then this process.
pub(crate) fn end_on_signal() -> anyhow::Result<()> {
    on_signal(|code| {
        output::note("stopping the nodes; their data stays in their directories");
        tercet_lab::end_all();
        std::process::exit(code);
    })
}

/// Whether a signal is being followed: nothing but that ends the process then.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Waits for a signal's end, if one came: what fails meanwhile fails because of it.
pub(crate) fn give_way_to_signal() {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// From now on runs something when this process is asked to end; given the exit code that says so.
pub(crate) fn on_signal(end: impl FnOnce(i32) + Send + 'static) -> anyhow::Result<()> {
    // A runtime of its own: the prompt's stands still while it waits for a line.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            }
        });
        ENDING.store(true, Ordering::SeqCst);
        end(code);
    });
    Ok(())
}

/// Ctrl-C while the prompt does not read, or a SIGTERM: the nodes stop cleanly, then this process.
fn stop_on_signal(cluster: SharedSupervisor) -> anyhow::Result<()> {
    on_signal(move |code| {
        output::note("stopping the nodes; their data stays in their directories");
        lock(&cluster).stop_all();
        std::process::exit(code);
    })
}

/// Says who leads as soon as somebody does.
async fn announce(cluster: &SharedSupervisor, client: &Client, json: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let bar = output::progress(0, "waiting for a leader");
    loop {
        lock(cluster).check_alive()?;
        let statuses = client.statuses().await;
        let up = statuses.iter().filter(|(_, status)| status.is_ok()).count();
        let leader = statuses
            .iter()
            .filter_map(|(_, status)| status.as_ref().ok())
            .find(|status| status.role == "leader" && status.commit_index > 0);
        if let Some(leader) = leader
            && up == statuses.len()
        {
            bar.finish_and_clear();
            let (node, term) = (leader.node, leader.term);
            let text =
                format!("n{node} leads (term {term}); {up} of {} nodes are up", statuses.len());
            let addresses: Vec<&str> = client.addresses().collect();
            if json {
                output::note(&text);
            } else {
                output::line(&text)?;
                output::line(format!(
                    "clients: {}   (gRPC and HTTP; look at http://{}/)",
                    addresses.join(" "),
                    addresses[0]
                ))?;
                output::line(format!("data:    {}", lock(cluster).data_pattern()))?;
            }
            return Ok(());
        }
        if begun.elapsed() > START {
            bar.finish_and_clear();
            let said = tercet_client::explain::explain(&statuses);
            output::note(&format!("no leader after {} s: {}", START.as_secs(), said.summary));
            for finding in said.findings {
                output::note(&format!("- {finding}"));
            }
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
