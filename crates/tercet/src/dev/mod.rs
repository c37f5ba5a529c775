//! `tercet dev`: a whole cluster on this machine, one process per node, and a prompt.

mod prompt;
mod shell;
mod supervisor;

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tercet_client::Client;
use tercet_lab::ast::{Recovery, Timers};
use tercet_lab::backend::Backend as _;
use tercet_lab::{Processes, RealBackend, RealOptions, RealSetup};
use tercet_raft::{Profile, Rules};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{DevArgs, Nodes};
use crate::commands::{lab_token, runtime};
use crate::lab_shell;
use crate::output::{self, Failure};
use supervisor::{SharedSupervisor, Supervisor, lock};

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
    let mut cluster = Supervisor::new(args)?;
    let client = {
        let _inside = runtime.enter();
        Client::new(cluster.client_addresses()).map_err(|error| Failure::new(2, error.message))?
    };
    cluster.start_all()?;
    let cluster = Arc::new(Mutex::new(cluster));
    stop_on_signal(Arc::clone(&cluster))?;
    runtime.block_on(announce(&cluster, &client, json))?;
    let interactive = std::io::stdin().is_terminal();
    let mut shell = shell::Shell::new(cluster, client, runtime, json);
    let failed =
        if interactive { prompt::interactive(&mut shell)? } else { prompt::piped(&mut shell)? };
    output::note("stopping the nodes; their data stays in their directories");
    shell.cluster().stop_all();
    Ok(u8::from(failed && !interactive))
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
        profile: if args.profile == "paper" { Profile::Paper } else { Profile::Modern },
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

/// A prompt over nodes that somebody else started.
pub(crate) fn attach(nodes: &Nodes, json: bool) -> anyhow::Result<u8> {
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
    let processes = Processes::of_others(addresses.clone());
    let options = RealOptions { token: lab_token(), ..RealOptions::default() };
    let backend = RealBackend::attach(processes, setup, options)?;
    backend.check_lab()?;
    lab_prompt(backend, addresses, None, json)
}

fn lab_prompt(
    mut backend: RealBackend,
    addresses: Vec<String>,
    dir: Option<&std::path::Path>,
    json: bool,
) -> anyhow::Result<u8> {
    let runtime = runtime()?;
    let client = {
        let _inside = runtime.enter();
        Client::new(&addresses).map_err(|error| Failure::new(2, error.message))?
    };
    let begun = Instant::now();
    let leader = loop {
        for event in backend.views().and_then(|_| backend.take_events())? {
            if tercet_lab::is_worth_telling(&event) {
                output::line(format!("  {} {}", event.node, event.text))?;
            }
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
        Some((node, term)) => output::line(format!("{node} leads (term {term})"))?,
        None => output::note("nobody leads yet: explain says why"),
    }
    output::line(format!("clients: {}", addresses.join(" ")))?;
    if let Some(dir) = dir {
        output::line(format!("data:    {}", dir.join("n*").display()))?;
    }
    output::line("menu is the class menu, help lists the words, quit ends")?;
    let history = dir.map_or_else(
        || std::env::temp_dir().join(".tercet-lab-history"),
        |dir| dir.join(".lab-history"),
    );
    let interactive = std::io::stdin().is_terminal();
    let failed = if interactive {
        let mut input = lab_shell::Terminal::new(&history)?;
        lab_shell::run(backend, &client, &runtime, json, &mut input)?
    } else {
        lab_shell::run(backend, &client, &runtime, json, &mut lab_shell::Piped)?
    };
    Ok(u8::from(failed && !interactive))
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

/// Runs something when this process is asked to end; given the exit code that says so.
pub(crate) fn on_signal(end: impl FnOnce(i32) + Send + 'static) -> anyhow::Result<()> {
    // A runtime of its own: the prompt's stands still while it waits for a line.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        let code = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).ok()?;
            let mut interrupt = signal(SignalKind::interrupt()).ok()?;
            tokio::select! {
                _ = terminate.recv() => Some(143),
                _ = interrupt.recv() => Some(130),
            }
        });
        // Without handlers the signals end the process, and with it the nodes' standard input.
        if let Some(code) = code {
            ENDING.store(true, Ordering::SeqCst);
            end(code);
        }
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
