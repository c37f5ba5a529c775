//! Three machines: a network namespace and an address for each, a configuration file each, and a
//! cable that can be pulled.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tercet_client::{Client, SubmitOptions};

use crate::{TERCET, has, is_root, not_run};

/// The namespaces, the bridge between them and the nodes in them; all gone when dropped.
pub(crate) struct Machines {
    tag: String,
    net: u8,
    nodes: Vec<Option<Child>>,
    dir: tempfile::TempDir,
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    ensure!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

impl Machines {
    pub(crate) fn new() -> anyhow::Result<Self> {
        // Two tests of one process may each have theirs.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id() + 125 * MADE.fetch_add(1, Ordering::SeqCst);
        let tag = format!("tct{}", pid % 10_000);
        let net = u8::try_from(pid % 250).expect("below 250");
        let dir = tempfile::Builder::new().prefix("tercet-").tempdir()?;
        let machines = Self { tag, net, nodes: vec![None, None, None], dir };
        let (tag, net) = (&machines.tag, machines.net);
        ip(&format!("link add {tag} type bridge"))?;
        ip(&format!("addr add 10.213.{net}.254/24 dev {tag}"))?;
        ip(&format!("link set {tag} up"))?;
        for id in 1..=3 {
            ip(&format!("netns add {tag}n{id}"))?;
            ip(&format!("link add {tag}v{id} type veth peer name eth0 netns {tag}n{id}"))?;
            ip(&format!("link set {tag}v{id} master {tag} up"))?;
            ip(&format!("-n {tag}n{id} addr add 10.213.{net}.{id}/24 dev eth0"))?;
            ip(&format!("-n {tag}n{id} link set eth0 up"))?;
            ip(&format!("-n {tag}n{id} link set lo up"))?;
        }
        Ok(machines)
    }

    /// The address of a machine.
    pub(crate) fn ip(&self, id: usize) -> String {
        format!("10.213.{}.{id}", self.net)
    }

    /// Its network namespace.
    pub(crate) fn namespace(&self, id: usize) -> String {
        format!("{}n{id}", self.tag)
    }

    fn client_address(&self, id: usize) -> String {
        format!("10.213.{}.{id}:7101", self.net)
    }

    fn start(&mut self, id: usize) -> anyhow::Result<()> {
        let net = self.net;
        let mut file = "[cluster]\nname = \"three\"\n".to_owned();
        for other in 1..=3 {
            file += &format!(
                "[[cluster.node]]\nid = {other}\npeer = \"10.213.{net}.{other}:7201\"\n\
                 client = \"10.213.{net}.{other}:7101\"\n"
            );
        }
        let data = self.dir.path().join(format!("n{id}"));
        file += &format!(
            "[node]\nid = {id}\ndata = \"{}\"\nlisten = \"10.213.{net}.{id}:7101\"\ninsecure = true\n",
            data.display()
        );
        let path = self.dir.path().join(format!("n{id}.toml"));
        fs::write(&path, file)?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("n{id}.log")))?;
        let child = Command::new("ip")
            .args(["netns", "exec", &format!("{}n{id}", self.tag), TERCET, "serve"])
            .arg("--stop-with-stdin")
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.nodes[id - 1] = Some(child);
        Ok(())
    }

    fn cable(&self, id: usize, state: &str) -> anyhow::Result<()> {
        ip(&format!("link set {}v{id} {state}", self.tag))
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for mut node in self.nodes.iter_mut().filter_map(Option::take) {
            let _ = node.kill();
            let _ = node.wait();
        }
        for id in 1..=3 {
            let _ = ip(&format!("netns del {}n{id}", self.tag));
        }
        let _ = ip(&format!("link del {}", self.tag));
    }
}

#[test]
fn three_machines_by_address() {
    let name = "three_machines_by_address";
    if !is_root() || !has("ip") {
        return not_run(name, "network namespaces need root and the command ip");
    }
    let mut machines = match Machines::new() {
        Ok(machines) => machines,
        Err(error) => return not_run(name, &format!("{error:#}")),
    };
    println!("{name}");
    run(&mut machines).unwrap_or_else(|error| {
        let logs: Vec<String> = (1..=3)
            .map(|id| {
                let path = machines.dir.path().join(format!("n{id}.log"));
                fs::read_to_string(path).unwrap_or_default()
            })
            .collect();
        panic!("{error:#}\n{}", logs.join("\n---\n"))
    });
}

async fn leader(client: &Client, not: Option<u32>) -> anyhow::Result<u32> {
    let begun = Instant::now();
    loop {
        let statuses = client.statuses().await;
        let leads = statuses.iter().filter_map(|(_, status)| status.as_ref().ok()).find(|status| {
            status.role == "leader" && status.commit_index > 0 && Some(status.node) != not
        });
        if let Some(leads) = leads {
            return Ok(leads.node);
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "no leader: {statuses:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn run(machines: &mut Machines) -> anyhow::Result<()> {
    for id in 1..=3 {
        machines.start(id)?;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new((1..=3).map(|id| machines.client_address(id)))?;
        let first = leader(&client, None).await?;
        let done = client.submit(["1"]).await?;
        ensure!(done.first_seq == 1, "{done:?}");

        // The leader's cable is pulled: it cannot acknowledge anything any more, the others can.
        let cut = usize::try_from(first)?;
        machines.cable(cut, "down")?;
        let second = leader(&client, Some(first)).await?;
        let options =
            SubmitOptions { timeout: Duration::from_secs(10), ..SubmitOptions::default() };
        client.submit_with(["2"], options).await?;
        machines.cable(cut, "up")?;
        client.submit(["3"]).await.context("after the cable is back")?;
        let begun = Instant::now();
        loop {
            let files: Vec<String> = (1..=3)
                .map(|id| {
                    let path = machines.dir.path().join(format!("n{id}/values.log"));
                    fs::read_to_string(path).unwrap_or_default()
                })
                .collect();
            if files.iter().all(|file| file == "write 1\nwrite 2\nwrite 3\n") {
                break;
            }
            ensure!(begun.elapsed() < Duration::from_secs(20), "n{second} led: {files:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    })
}
