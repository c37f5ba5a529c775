//! NATS JetStream: a stream with three copies in files, synced for each message before the answer.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, StorageType};
use bytes::Bytes;

use crate::System;
use crate::life::Restartable;
use crate::load::{Kind, Load, Sample, VALUE, closed_loop};
use crate::peers::{Cluster, Peer, Processes, free_ports, until};

pub(crate) struct Nats {
    pub(crate) peer: Peer,
}

impl System for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn knows(&self, load: &Load) -> bool {
        load.kind == Kind::Append
    }

    fn measure(
        &self,
        loads: &[Load],
        warm_up: Duration,
        length: Duration,
    ) -> anyhow::Result<Vec<Sample>> {
        let cluster = self.start(&[])?;
        let runtime = tokio::runtime::Runtime::new()?;
        let leader = cluster.ports[runtime.block_on(Self::leader(&cluster.ports))?];
        loads.iter().map(|load| self.one(leader, *load, warm_up, length)).collect()
    }
}

impl Restartable for Nats {
    type Client = jetstream::Context;
    /// Its election timeouts of seconds are fixed.
    const FAILOVER: Option<&'static [&'static str]> = None;

    fn start(&self, more: &[&str]) -> anyhow::Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("compare-nats-").tempdir_in(&self.peer.dir)?;
        let (ports, peers) = (free_ports(3)?, free_ports(3)?);
        let routes: Vec<String> =
            peers.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut processes = Processes::new();
        for (id, (client, peer)) in (1..).zip(ports.iter().zip(&peers)) {
            let store = dir.path().join(format!("n{id}"));
            let config = format!(
                "server_name: n{id}\nlisten: 127.0.0.1:{client}\njetstream {{\n  store_dir: \"{}\"\n  \
max_file_store: 20GB\n  sync_interval: always\n}}\ncluster {{\n  name: compare\n  listen: 127.0.0.1:{peer}\n  \
routes: [{}]\n}}\n",
                store.display(),
                routes.join(", ")
            );
            let file = dir.path().join(format!("n{id}.conf"));
            fs::write(&file, config)?;
            let mut command = Command::new(&self.peer.program);
            command.arg("-c").arg(&file).args(more);
            processes.start(command, &dir.path().join(format!("n{id}.log")))?;
        }
        Ok(Cluster { processes, ports, dir })
    }

    async fn leader(ports: &[u16]) -> anyhow::Result<usize> {
        until("a stream", || make_stream(ports)).await
    }

    async fn connect(port: u16) -> anyhow::Result<jetstream::Context> {
        Ok(jetstream::new(connect(port).await?))
    }

    async fn append(context: jetstream::Context, _count: u64, value: Bytes) -> anyhow::Result<()> {
        context.publish("compare.life", value).await?.await?;
        Ok(())
    }
}

async fn connect(port: u16) -> anyhow::Result<async_nats::Client> {
    async_nats::connect(format!("nats://127.0.0.1:{port}")).await.map_err(anyhow::Error::from)
}

/// Makes the stream; says which node leads it.
async fn make_stream(ports: &[u16]) -> anyhow::Result<usize> {
    let context = jetstream::new(connect(ports[0]).await?);
    let config = Config {
        name: "compare".into(),
        subjects: vec!["compare.>".into()],
        num_replicas: 3,
        storage: StorageType::File,
        ..Config::default()
    };
    let mut stream = context.get_or_create_stream(config).await.map_err(anyhow::Error::from)?;
    let info = stream.info().await.map_err(anyhow::Error::from)?;
    let cluster = info.cluster.as_ref().context("no cluster yet")?;
    let leader = cluster.leader.as_deref().context("no leader yet")?;
    anyhow::ensure!(
        cluster.replicas.iter().all(|replica| replica.current),
        "copies are not level yet"
    );
    let slot: usize = leader.trim_start_matches('n').parse()?;
    slot.checked_sub(1).context("nodes are counted from 1")
}

impl Nats {
    fn one(
        &self,
        leader: u16,
        load: Load,
        warm_up: Duration,
        length: Duration,
    ) -> anyhow::Result<Sample> {
        let connect = async || Self::connect(leader).await;
        let client = |context: jetstream::Context, number: usize| {
            move |_count: u64| {
                let context = context.clone();
                async move {
                    let sent = context
                        .publish(format!("compare.{number}"), vec![b'v'; VALUE].into())
                        .await;
                    match sent {
                        Ok(answer) => answer.await.is_ok(),
                        Err(_) => false,
                    }
                }
            }
        };
        closed_loop(self.name(), load, warm_up, length, connect, client)
    }
}
