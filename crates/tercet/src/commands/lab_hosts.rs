//! Scripts on several machines: the file that names them, and the agent that runs on each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tercet_lab::{AgentOptions, Agents, Host, serve_agent};

use super::runtime;
use crate::config::parse_toml;
use crate::output::{self, Failure, note};

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct HostsFile {
    #[serde(default)]
    node: Vec<HostEntry>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    id: u8,
    agent: String,
    client: SocketAddr,
    peer: SocketAddr,
}

/// The secret of the lab, if there is one.
pub(crate) fn token() -> Option<String> {
    std::env::var("TERCET_LAB_TOKEN").ok().filter(|token| !token.is_empty())
}

fn parse_hosts(content: &str) -> Result<Vec<Host>, String> {
    let file: HostsFile = parse_toml(content)?;
    let mut hosts = BTreeMap::new();
    for HostEntry { id, agent, client, peer } in file.node {
        let host = Host { agent, client: client.to_string(), peer: peer.to_string() };
        if hosts.insert(id, host).is_some() {
            return Err(format!(" node {id} is listed twice"));
        }
    }
    // Scripts name their nodes n1, n2 and so on.
    let count = u8::try_from(hosts.len()).unwrap_or(u8::MAX);
    if count == 0 || count > 7 || !hosts.keys().copied().eq(1..=count) {
        let ids: Vec<String> = hosts.keys().map(ToString::to_string).collect();
        return Err(format!(
            " [[node]] lists the nodes 1, 2, 3 and so on, at most 7 of them; it has {}",
            if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
        ));
    }
    Ok(hosts.into_values().collect())
}

/// The agents of a file of hosts, which must have a place for so many nodes.
pub(crate) fn agents(path: &Path, needed: &[(String, u8)]) -> anyhow::Result<Agents> {
    let usage = |why: String| anyhow::Error::from(Failure::new(2, why));
    let content = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))
        .map_err(|error| usage(format!("{error:#}")))?;
    let hosts = parse_hosts(&content).map_err(|why| usage(format!("{}:{why}", path.display())))?;
    if let Some((name, nodes)) = needed.iter().find(|(_, nodes)| usize::from(*nodes) > hosts.len())
    {
        return Err(usage(format!(
            "{name} needs {nodes} nodes, and {} has a place for {}",
            path.display(),
            hosts.len()
        )));
    }
    Ok(Agents::new(hosts, token().as_deref())?)
}

/// Runs an agent until it is told to end.
pub(crate) fn agent(listen: SocketAddr, dir: PathBuf, silence: Duration) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("this program cannot be found again")?;
    crate::dev::on_signal(|code| {
        tercet_lab::end_all();
        note("the agent ends; its nodes are gone, their data stays");
        std::process::exit(code);
    })?;
    let shown = dir.display().to_string();
    let on_ready = move |address: SocketAddr| {
        // Nobody listens to this process any more: it serves all the same.
        let _ = output::line(format!("agent at {address}, runs in {shown}"));
    };
    let served = runtime()?.block_on(serve_agent(
        AgentOptions { program, listen, dir, token: token(), silence },
        on_ready,
    ));
    served.map_err(|error| Failure::new(2, error.to_string()))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u8) -> String {
        format!(
            "[[node]]\nid = {id}\nagent = \"h{id}:7300\"\nclient = \"10.0.0.{id}:7101\"\npeer = \"10.0.0.{id}:7201\"\n"
        )
    }

    #[test]
    fn hosts_are_named_from_one_on() {
        let hosts = parse_hosts(&(entry(2) + &entry(1) + &entry(3))).unwrap();
        assert_eq!((hosts.len(), hosts[1].agent.as_str()), (3, "h2:7300"));
        assert_eq!(hosts[2].client, "10.0.0.3:7101");
        assert!(parse_hosts(&(entry(1) + &entry(1))).unwrap_err().contains("twice"));
        assert!(parse_hosts(&entry(2)).unwrap_err().contains("it has 2"));
        assert!(parse_hosts("").unwrap_err().contains("none"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let typo = parse_hosts(&entry(1).replace("agent", "agnet")).unwrap_err();
        assert!(typo.starts_with("3: unknown field `agnet`"), "{typo}");
        let address = parse_hosts(&entry(1).replace("10.0.0.1:7101", "here")).unwrap_err();
        assert!(address.starts_with("4: "), "{address}");
    }
}
