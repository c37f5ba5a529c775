//! `tercet serve`: one node.

use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use tercet_server::Listening;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::allocator;
use crate::args::ServeArgs;
use crate::config;
use crate::output::{self, Failure};

/// How many classic lines may wait to be printed.
const CLASSIC_LINES: usize = 1 << 16;
/// How long the last of them may take when the node has ended.
const LAST_LINES: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &ServeArgs, log: &str, log_json: bool, json: bool) -> anyhow::Result<u8> {
    allocator::tune();
    let mut config = config::server_config(args)?;
    start_logging(log, log_json)?;
    let with_stdin = args.stop_with_stdin;
    let on_ready = move |listening: Listening| {
        let Listening { node, client, peer, data } = listening;
        let data = data.display();
        let text = if json {
            serde_json::json!({ "node": node, "client": client.to_string(), "peer": peer.to_string(), "data": data.to_string() })
                .to_string()
        } else {
            format!("n{node} serves clients at {client} and peers at {peer}, data in {data}")
        };
        // Nobody listens to this process any more: it serves all the same.
        let _ = output::line(text);
    };
    if config.insecure && !config.listen.ip().is_loopback() {
        tracing::warn!("no TLS: anyone who can reach {} can read and append", config.listen);
    }
    let mut printer = None;
    if args.classic {
        let (lines, classic) = sync_channel(CLASSIC_LINES);
        config.classic = Some(lines);
        printer = Some(print_lines(classic, json));
    }
    let ended = tercet_server::run(config, stopped(with_stdin), on_ready);
    if let Some(printer) = printer {
        // The last lines; a reader that stands still keeps no node from its end.
        let _ = printer.recv_timeout(LAST_LINES);
    }
    match ended {
        Ok(()) => Ok(0),
        Err(error) => Err(Failure::new(error.exit_code(), error.to_string()).into()),
    }
}

/// Prints lines as they come, on a thread of its own: whoever reads them may be slow. The receiver
/// ends when all are printed, or when nobody reads any more.
fn print_lines(lines: Receiver<String>, json: bool) -> Receiver<()> {
    let (printing, printed) = sync_channel::<()>(0);
    std::thread::spawn(move || {
        let _printing = printing;
        for text in lines {
            let text = if json { serde_json::json!({ "classic": text }).to_string() } else { text };
            if output::line(text).is_err() {
                return;
            }
        }
    });
    printed
}

/// Ends when the process is asked to stop.
async fn stopped(with_stdin: bool) {
    let (ends, ended) = tokio::sync::oneshot::channel::<()>();
    if with_stdin {
        // A thread of its own: it may wait for ever, and nothing waits for it.
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _ = ends.send(());
        });
    } else {
        // Never dropped: no end that could come.
        std::mem::forget(ends);
    }
    let stdin_ends = async {
        let _ = ended.await;
    };
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        () = stdin_ends => {}
    }
    tracing::info!("stopping: leadership is handed over, what is under way is answered");
}

fn start_logging(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(2, format!("--log {filter}: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.init();
    }
    Ok(())
}
