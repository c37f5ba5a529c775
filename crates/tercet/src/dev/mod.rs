//! `tercet dev`: a whole cluster on this machine, one process per node, and a prompt.

mod prompt;
mod shell;
mod supervisor;

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tercet_client::Client;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::DevArgs;
use crate::commands::runtime;
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

/// Ctrl-C while the prompt does not read, or a SIGTERM: the nodes stop cleanly, then this process.
fn stop_on_signal(cluster: SharedSupervisor) -> anyhow::Result<()> {
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
        let Some(code) = code else { return };
        output::note("stopping the nodes; their data stays in their directories");
        lock(&cluster).stop_all();
        std::process::exit(code);
    });
    Ok(())
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
