//! Scripts on several machines: an agent on each, on ports of this machine, and in network
//! namespaces where the machine allows it.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, ensure};

use crate::machines::Machines;
use crate::{TERCET, has, is_root, not_run};

const TOKEN: &str = "not-for-everyone";

/// An agent, which ends when this is dropped.
struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    /// Starts an agent, behind a command that leads into its machine if there is one.
    fn start(prefix: &[&str], listen: &str, dir: &Path) -> anyhow::Result<Self> {
        let mut words: Vec<&str> = prefix.to_vec();
        words.extend([TERCET, "lab", "agent", "--listen", listen, "--dir"]);
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .arg(dir)
            .env("TERCET_LAB_TOKEN", TOKEN)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("it has a standard output")?;
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said)?;
        let address = said
            .strip_prefix("agent at ")
            .and_then(|rest| rest.split(',').next())
            .with_context(|| format!("the agent said: {said}"))?
            .to_owned();
        Ok(Self { child, address })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str], hosts: &Path, token: &str) -> anyhow::Result<Output> {
    Ok(Command::new(TERCET)
        .args(["lab", "run"])
        .args(arguments)
        .arg("--real")
        .arg(hosts)
        .env("TERCET_LAB_TOKEN", token)
        .env("NO_COLOR", "1")
        .output()?)
}

/// All that a command said, for who must see why it failed.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn scripts_run_on_three_agents() {
    println!("scripts_run_on_three_agents");
    three_agents().unwrap_or_else(|error| panic!("{error:#}"));
}

fn three_agents() -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("tercet-").tempdir()?;
    let mut agents = Vec::new();
    for id in 1..=3 {
        agents.push(Agent::start(&[], "127.0.0.1:0", &dir.path().join(format!("a{id}")))?);
    }
    // Held until all are known, so that none is given twice.
    let listeners: Vec<TcpListener> =
        (0..6).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<String> = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.to_string()))
        .collect::<Result<_, _>>()?;
    drop(listeners);
    let mut text = String::new();
    for (id, agent) in (1..).zip(&agents) {
        let (client, peer) = (&addresses[2 * id - 2], &addresses[2 * id - 1]);
        writeln!(
            text,
            "[[node]]\nid = {id}\nagent = \"{}\"\nclient = \"{client}\"\npeer = \"{peer}\"",
            agent.address
        )?;
    }
    let hosts = dir.path().join("hosts.toml");
    fs::write(&hosts, &text)?;

    let ran = run(&["leader-crash-divergent-logs", "log-deleted-trust"], &hosts, TOKEN)?;
    ensure!(ran.status.success(), "{}", said(&ran));
    ensure!(said(&ran).contains("2 runs on real processes all passed"), "{}", said(&ran));
    // Of what passed nothing is left.
    for id in 1..=3 {
        let left = fs::read_dir(dir.path().join(format!("a{id}")))?.count();
        ensure!(left == 0, "the agent of n{id} left {left} directories");
    }

    let wrong = run(&["log-deleted-trust"], &hosts, "a-wrong-token")?;
    ensure!(wrong.status.code() == Some(1), "{}", said(&wrong));
    ensure!(
        agents.iter().any(|agent| said(&wrong).contains(&format!("the agent {}", agent.address)))
            && said(&wrong).contains("refuses the token"),
        "{}",
        said(&wrong)
    );

    let third = agents.pop().context("there are three")?;
    let address = third.address.clone();
    drop(third);
    let missing = run(&["log-deleted-trust"], &hosts, TOKEN)?;
    let named = format!("the agent {address} (of n3) cannot be reached");
    ensure!(!missing.status.success() && said(&missing).contains(&named), "{}", said(&missing));

    let one = dir.path().join("one.toml");
    fs::write(&one, text.split("[[node]]\nid = 2").next().context("it has a first node")?)?;
    let few = run(&["log-deleted-trust"], &one, TOKEN)?;
    ensure!(few.status.code() == Some(2), "{}", said(&few));
    ensure!(said(&few).contains("has a place for 1"), "{}", said(&few));

    let public = Command::new(TERCET)
        .args(["lab", "agent", "--listen", "0.0.0.0:0", "--dir"])
        .arg(dir.path())
        .env("TERCET_LAB_TOKEN", "short")
        .output()?;
    ensure!(
        public.status.code() == Some(2) && said(&public).contains("TERCET_LAB_TOKEN"),
        "{}",
        said(&public)
    );
    Ok(())
}

#[test]
fn a_script_runs_on_three_machines() {
    let name = "a_script_runs_on_three_machines";
    if !is_root() || !has("ip") {
        return not_run(name, "network namespaces need root and the command ip");
    }
    let machines = match Machines::new() {
        Ok(machines) => machines,
        Err(error) => return not_run(name, &format!("{error:#}")),
    };
    println!("{name}");
    three_machines(&machines).unwrap_or_else(|error| panic!("{error:#}"));
}

fn three_machines(machines: &Machines) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("tercet-").tempdir()?;
    let mut agents = Vec::new();
    let mut text = String::new();
    for id in 1..=3 {
        let ip = machines.ip(id);
        let namespace = machines.namespace(id);
        let prefix = ["ip", "netns", "exec", &namespace];
        let place = dir.path().join(format!("a{id}"));
        agents.push(Agent::start(&prefix, &format!("{ip}:7300"), &place)?);
        writeln!(
            text,
            "[[node]]\nid = {id}\nagent = \"{ip}:7300\"\nclient = \"{ip}:7101\"\npeer = \"{ip}:7201\""
        )?;
    }
    let hosts = dir.path().join("hosts.toml");
    fs::write(&hosts, &text)?;
    let ran = run(&["leader-crash-divergent-logs"], &hosts, TOKEN)?;
    ensure!(ran.status.success(), "{}", said(&ran));
    Ok(())
}
