//! Scripts on several machines: an agent on each, on ports of this machine, and in network
//! namespaces where the machine allows it.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tercet_testkit::cluster::free_ports;

use crate::lab::processes_of;
use crate::machines::Machines;
use crate::{TERCET, has, is_root, not_run};

const TOKEN: &str = "not-for-everyone";

/// How long something may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent, which ends when this is dropped.
struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    /// Starts an agent, behind a command that leads into its machine if there is one.
    fn start(prefix: &[&str], listen: &str, dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(prefix, listen, dir, &[])
    }

    /// [`Self::start`] with more arguments.
    fn start_with(
        prefix: &[&str],
        listen: &str,
        dir: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut words: Vec<&str> = prefix.to_vec();
        words.extend([TERCET, "lab", "agent", "--listen", listen, "--dir"]);
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .arg(dir)
            .args(arguments)
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

/// Waits until something is so.
fn wait_until(what: &str, mut is: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is() {
        ensure!(begun.elapsed() < PATIENCE, "it never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

/// One agent with three nodes, and the file that says so.
fn one_agent(dir: &Path, silence: &str) -> anyhow::Result<(Agent, PathBuf)> {
    let agent = Agent::start_with(&[], "127.0.0.1:0", &dir.join("agent"), &["--silence", silence])?;
    let ports = free_ports(6)?;
    let mut text = String::new();
    for (id, pair) in (1..).zip(ports.chunks(2)) {
        writeln!(
            text,
            "[[node]]\nid = {id}\nagent = \"{}\"\nclient = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"",
            agent.address, pair[0], pair[1]
        )?;
    }
    let hosts = dir.join("hosts.toml");
    fs::write(&hosts, text)?;
    Ok((agent, hosts))
}

/// A caller in the middle of a script that takes its time, with three nodes on an agent.
fn caller(hosts: &Path, agent_dir: &Path) -> anyhow::Result<Child> {
    let child = Command::new(TERCET)
        .args(["lab", "run", "election", "--real"])
        .arg(hosts)
        .env("TERCET_LAB_TOKEN", TOKEN)
        .env("NO_COLOR", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    wait_until("three nodes run", || nodes_under(agent_dir) == 3)?;
    Ok(child)
}

/// How many node processes keep their data below a directory.
fn nodes_under(dir: &Path) -> usize {
    let runs = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    runs.map(|run| processes_of(&run.path())).sum()
}

/// A caller that vanishes leaves no node behind: the agent ends them by itself, and serves on.
#[test]
fn nodes_of_a_silent_caller_end() {
    println!("nodes_of_a_silent_caller_end");
    let test = || -> anyhow::Result<()> {
        let dir = tempfile::Builder::new().prefix("tercet-").tempdir()?;
        let (mut agent, hosts) = one_agent(dir.path(), "2s")?;
        let place = dir.path().join("agent");
        let mut gone = caller(&hosts, &place)?;
        let busy = run(&["leader-crash-divergent-logs"], &hosts, TOKEN)?;
        ensure!(
            !busy.status.success() && said(&busy).contains("one run at a time"),
            "{}",
            said(&busy)
        );
        gone.kill()?;
        gone.wait()?;
        let begun = Instant::now();
        wait_until("the nodes end", || nodes_under(&place) == 0)?;
        // The nodes did not end because their caller did: only its silence ended them.
        ensure!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
        ensure!(agent.child.try_wait()?.is_none(), "the agent serves on");
        // What it ran is kept; the next caller is served, with all three nodes, and is not cut off
        // though its script takes longer than the agent waits.
        ensure!(fs::read_dir(&place)?.count() == 1, "the data of the first run is kept");
        let next = run(&["election", "--scale", "0.1"], &hosts, TOKEN)?;
        ensure!(next.status.success(), "{}", said(&next));
        ensure!(fs::read_dir(&place)?.count() == 1, "what passed leaves nothing");
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:#}"));
}

/// Ctrl-C at the caller: no node outlives it, and it says where the data is.
#[test]
fn an_interrupted_caller_ends_its_nodes() {
    println!("an_interrupted_caller_ends_its_nodes");
    let test = || -> anyhow::Result<()> {
        let dir = tempfile::Builder::new().prefix("tercet-").tempdir()?;
        for (sign, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let dir = dir.path().join(code.to_string());
            fs::create_dir(&dir)?;
            // Silence is not what ends them here.
            let (mut agent, hosts) = one_agent(&dir, "10m")?;
            let place = dir.join("agent");
            let child = caller(&hosts, &place)?;
            signal(&child, sign)?;
            let ended = child.wait_with_output()?;
            ensure!(ended.status.code() == Some(code), "{}", said(&ended));
            ensure!(nodes_under(&place) == 0, "no node outlives its caller");
            ensure!(agent.child.try_wait()?.is_none(), "the agent serves on");
            let kept: Vec<String> = fs::read_dir(&place)?
                .filter_map(Result::ok)
                .map(|run| run.file_name().to_string_lossy().into_owned())
                .collect();
            ensure!(kept.len() == 1, "{kept:?}");
            ensure!(
                said(&ended).contains(&format!("with the agents, as {}", kept[0])),
                "{}",
                said(&ended)
            );
        }
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:#}"));
}

/// An agent that is asked to end takes its nodes along; its caller says which agent is gone.
#[test]
fn an_agent_that_ends_takes_its_nodes_along() {
    println!("an_agent_that_ends_takes_its_nodes_along");
    let test = || -> anyhow::Result<()> {
        let dir = tempfile::Builder::new().prefix("tercet-").tempdir()?;
        for (sign, code) in
            [(Signal::TERM, Some(143)), (Signal::INT, Some(130)), (Signal::KILL, None)]
        {
            let dir = dir.path().join(format!("{code:?}"));
            fs::create_dir(&dir)?;
            let (mut agent, hosts) = one_agent(&dir, "10m")?;
            let place = dir.join("agent");
            let child = caller(&hosts, &place)?;
            signal(&agent.child, sign)?;
            let ended = agent.child.wait()?;
            ensure!(ended.code() == code, "{ended}");
            // A node notices the end of its standard input, also if the agent was killed.
            wait_until("the nodes end", || nodes_under(&place) == 0)?;
            let caller = child.wait_with_output()?;
            ensure!(caller.status.code() == Some(1), "{}", said(&caller));
            ensure!(fs::read_dir(&place)?.count() == 1, "the data is kept");
        }
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:#}"));
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
