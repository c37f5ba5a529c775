//! `tercet status` and `tercet explain`.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use tercet_client::explain::Report;
use tercet_client::{Client, explain as explained, v1};

use super::client::open;
use crate::args::{Nodes, StatusArgs};
use crate::output;

pub(crate) async fn status(args: StatusArgs, json: bool) -> anyhow::Result<u8> {
    let client = open(&args.nodes)?;
    if !args.watch {
        print_status(&client, json).await?;
        return Ok(0);
    }
    let clears = std::io::stdout().is_terminal() && !json;
    loop {
        if clears {
            output::line("\x1b[2J\x1b[H")?;
        }
        print_status(&client, json).await?;
        std::io::stdout().flush()?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(0),
        }
    }
}

/// Asks every node itself and prints what each says. No node and no leader are no error: that is
/// what one wants to see.
async fn print_status(client: &Client, json: bool) -> anyhow::Result<()> {
    let (value, text) = status_of(&client.statuses().await);
    Ok(if json { output::line(value.to_string()) } else { output::line(text) }?)
}

/// What the nodes said of themselves, as JSON and as a table.
pub(crate) fn status_of(reports: &[Report]) -> (Value, String) {
    let nodes: Vec<_> = reports
        .iter()
        .map(|(address, report)| match report {
            Ok(status) => json!({ "address": address, "status": status }),
            Err(why) => json!({ "address": address, "error": why }),
        })
        .collect();
    let mut text = table(reports).to_string();
    let known = reports.iter().filter_map(|(_, report)| report.as_ref().ok());
    if let Some(generation) = known.map(|status| status.generation).max().filter(|g| *g > 1) {
        text.push_str(&format!(
            "\ngeneration {generation}: an operator recovered this cluster, and accepted a loss"
        ));
    }
    (json!(nodes), text)
}

fn table(reports: &[Report]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "node",
        "address",
        "role",
        "term",
        "commit",
        "durable",
        "lag",
        "records",
        "sync p99",
        "incarnation",
        "version",
    ]);
    let leader =
        reports.iter().filter_map(|(_, report)| report.as_ref().ok()).find(|s| s.role == "leader");
    for (address, report) in reports {
        match report {
            Ok(status) => {
                let progress = leader
                    .and_then(|leader| leader.peers.iter().find(|peer| peer.id == status.node));
                let lag = match progress.and_then(|peer| peer.lag) {
                    Some(lag) => lag.to_string(),
                    None if status.role == "leader" => "0".to_owned(),
                    None => "?".to_owned(),
                };
                table.add_row([
                    format!("n{}", status.node),
                    address.clone(),
                    status.role.clone(),
                    status.term.to_string(),
                    status.commit_index.to_string(),
                    status.durable_index.to_string(),
                    lag,
                    (status.next_seq - status.first_seq).to_string(),
                    format!(
                        "{:.2} ms",
                        Duration::from_micros(status.sync_p99_us).as_secs_f64() * 1e3
                    ),
                    status.incarnation.chars().take(8).collect(),
                    status.version.clone(),
                ]);
            }
            Err(why) => {
                table.add_row(["?".to_owned(), address.clone(), format!("no answer: {why}")]);
            }
        }
    }
    table
}

/// Says in words how the cluster is; the exit code is the level.
pub(crate) async fn explain(nodes: Nodes, json: bool) -> anyhow::Result<u8> {
    let client = open(&nodes)?;
    let said = explained::explain(&client.statuses().await);
    let level = u8::try_from(said.level).unwrap_or(3);
    let (value, text) = in_words(&said)?;
    if json { output::line(value.to_string()) } else { output::line(text) }?;
    Ok(level)
}

/// How the cluster is, as JSON and in words.
pub(crate) fn explain_of(reports: &[Report]) -> anyhow::Result<(Value, String)> {
    in_words(&explained::explain(reports))
}

fn in_words(said: &v1::ExplainResponse) -> anyhow::Result<(Value, String)> {
    let findings = said.findings.iter().map(|finding| format!("\n- {finding}"));
    let text = std::iter::once(said.summary.clone()).chain(findings).collect();
    Ok((serde_json::to_value(said)?, text))
}
