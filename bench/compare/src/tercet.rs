//! Tercet, by its own `tercet bench`: a cluster for each system's turn, the loads on it one by one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use bytes::Bytes;

use crate::System;
use crate::grpc::Client;
use crate::life::Restartable;
use crate::load::{Kind, Load, Sample, VALUE};
use crate::peers::{Cluster, Processes, free_ports, until};

/// What is needed of Tercet's schema (`tercet.v1`).
mod schema {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Submit {
        #[prost(bytes = "bytes", repeated, tag = "1")]
        pub(super) records: Vec<Bytes>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SubmitDone {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct StatusDone {
        #[prost(string, tag = "2")]
        pub(super) role: String,
    }
}

use schema::{Status, StatusDone, Submit, SubmitDone};

pub(crate) struct Tercet {
    pub(crate) program: PathBuf,
    /// Its `bench` is the load.
    pub(crate) load: PathBuf,
    pub(crate) dir: PathBuf,
}

impl System for Tercet {
    fn name(&self) -> &'static str {
        "tercet"
    }

    fn knows(&self, _load: &Load) -> bool {
        true
    }

    fn measure(
        &self,
        loads: &[Load],
        warm_up: Duration,
        length: Duration,
    ) -> anyhow::Result<Vec<Sample>> {
        let cluster = self.start(&[])?;
        let nodes: Vec<String> =
            cluster.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let (nodes, dir) = (nodes.join(","), cluster.dir.path());
        self.await_leader(&nodes)?;
        loads.iter().map(|load| self.one(&nodes, *load, warm_up, length, dir)).collect()
    }
}

impl Restartable for Tercet {
    type Client = Client;
    /// Its own timeouts are 150 to 300 ms.
    const FAILOVER: Option<&'static [&'static str]> = Some(&[]);

    fn start(&self, more: &[&str]) -> anyhow::Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("compare-tercet-").tempdir_in(&self.dir)?;
        let (ports, peers) = (free_ports(3)?, free_ports(3)?);
        let cluster: Vec<String> =
            (1..).zip(&peers).map(|(id, port)| format!("{id}=127.0.0.1:{port}")).collect();
        let mut processes = Processes::new();
        for (id, port) in (1..).zip(&ports) {
            let mut command = Command::new(&self.program);
            command
                .args(["serve", "--id", &format!("{id}"), "--cluster", &cluster.join(",")])
                .args(["--listen", &format!("127.0.0.1:{port}")])
                .arg("--data")
                .arg(dir.path().join(format!("n{id}")))
                .args(more);
            processes.start(command, &dir.path().join(format!("n{id}.log")))?;
        }
        Ok(Cluster { processes, ports, dir })
    }

    async fn leader(ports: &[u16]) -> anyhow::Result<usize> {
        until("Tercet's leader", || leader(ports)).await
    }

    async fn connect(port: u16) -> anyhow::Result<Client> {
        Client::new(port)
    }

    async fn append(mut client: Client, _count: u64, value: Bytes) -> anyhow::Result<()> {
        let submit = Submit { records: vec![value] };
        client.call::<_, SubmitDone>("/tercet.v1.Log/Submit", submit).await.map(drop)
    }
}

/// Which of them leads.
async fn leader(ports: &[u16]) -> anyhow::Result<usize> {
    for (node, port) in ports.iter().enumerate() {
        let mut client = Client::new(*port)?;
        let status: StatusDone = client.call("/tercet.v1.Cluster/Status", Status {}).await?;
        if status.role == "leader" {
            return Ok(node);
        }
    }
    anyhow::bail!("none of them leads")
}

impl Tercet {
    /// A submit that is acknowledged says that one leads.
    fn await_leader(&self, nodes: &str) -> anyhow::Result<()> {
        let output = Command::new(&self.program)
            .args(["submit", "--timeout", "30s", "--node", nodes, "first"])
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn one(
        &self,
        nodes: &str,
        load: Load,
        warm_up: Duration,
        length: Duration,
        dir: &Path,
    ) -> anyhow::Result<Sample> {
        let mut command = Command::new(&self.load);
        let is_read = matches!(load.kind, Kind::Read | Kind::ReadStream);
        let what = if is_read { "read" } else { "submit" };
        command.args(["bench", what, "--json", "--node", nodes, "--size", &VALUE.to_string()]);
        command.args(["--connections", &load.connections.to_string()]);
        command.args(["--duration", &format!("{}ms", length.as_millis())]);
        command.args(["--warm-up", &format!("{}ms", warm_up.as_millis())]);
        if matches!(load.kind, Kind::Stream | Kind::ReadStream) {
            let each = load.in_flight / load.connections;
            command.args(["--stream", "--clients", &load.connections.to_string()]);
            command.args(["--in-flight", &each.to_string()]);
        } else {
            command.args(["--clients", &load.in_flight.to_string()]);
        }
        let output = command.current_dir(dir).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let number = |pointer: &str| {
            report
                .pointer(pointer)
                .and_then(serde_json::Value::as_f64)
                .with_context(|| pointer.to_owned())
        };
        let errors = report["errors"]
            .as_object()
            .map_or(0, |errors| errors.values().filter_map(serde_json::Value::as_u64).sum());
        Ok(Sample {
            system: self.name(),
            load,
            per_second: number("/records_per_second")?,
            p50_us: number("/latency_us/p50")?,
            p99_us: number("/latency_us/p99")?,
            errors,
        })
    }
}
