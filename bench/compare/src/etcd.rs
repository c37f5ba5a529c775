//! etcd: puts of new keys, and linearizable gets.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bytes::Bytes;

use crate::System;
use crate::grpc::Client;
use crate::life::Restartable;
use crate::load::{Kind, Load, Sample, VALUE, closed_loop};
use crate::peers::{Cluster, Peer, Processes, free_ports, until};

/// What is needed of etcd's schema (`etcdserverpb`, `mvccpb`).
mod schema {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Header {
        #[prost(uint64, tag = "2")]
        pub(super) member_id: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Put {
        #[prost(bytes = "bytes", tag = "1")]
        pub(super) key: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        pub(super) value: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PutDone {
        #[prost(message, optional, tag = "1")]
        pub(super) header: Option<Header>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Range {
        #[prost(bytes = "bytes", tag = "1")]
        pub(super) key: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(bytes = "bytes", tag = "5")]
        pub(super) value: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RangeDone {
        #[prost(message, repeated, tag = "2")]
        pub(super) kvs: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct StatusDone {
        #[prost(message, optional, tag = "1")]
        pub(super) header: Option<Header>,
        #[prost(uint64, tag = "4")]
        pub(super) leader: u64,
    }
}

use schema::{Put, PutDone, Range, RangeDone, Status, StatusDone};

/// etcd's calls.
impl Client {
    async fn put(&mut self, key: String, value: Bytes) -> anyhow::Result<()> {
        let put = Put { key: key.into(), value };
        self.call::<_, PutDone>("/etcdserverpb.KV/Put", put).await.map(drop)
    }

    /// The value of a key that is there.
    async fn get(&mut self, key: String) -> anyhow::Result<Bytes> {
        let range = Range { key: key.into() };
        let mut done: RangeDone = self.call("/etcdserverpb.KV/Range", range).await?;
        Ok(done.kvs.pop().context("the key is not there")?.value)
    }
}

/// Gets go over so many keys.
const KEYS: u64 = 1000;

pub(crate) struct Etcd {
    pub(crate) peer: Peer,
}

impl System for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn knows(&self, load: &Load) -> bool {
        matches!(load.kind, Kind::Append | Kind::Read)
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

impl Restartable for Etcd {
    type Client = Client;
    /// Timeouts of 150 to 300 ms, with heartbeats at a tenth as by default.
    const FAILOVER: Option<&'static [&'static str]> =
        Some(&["--heartbeat-interval", "15", "--election-timeout", "150"]);

    fn start(&self, more: &[&str]) -> anyhow::Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("compare-etcd-").tempdir_in(&self.peer.dir)?;
        let (ports, peers) = (free_ports(3)?, free_ports(3)?);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            (1..).zip(&peers).map(|(id, port)| format!("n{id}={}", url(port))).collect();
        let mut processes = Processes::new();
        for (id, (client, peer)) in (1..).zip(ports.iter().zip(&peers)) {
            let mut command = Command::new(&self.peer.program);
            command
                .args(["--name", &format!("n{id}"), "--initial-cluster", &cluster.join(",")])
                .arg("--data-dir")
                .arg(dir.path().join(format!("n{id}")))
                .args([
                    "--listen-client-urls",
                    &url(client),
                    "--advertise-client-urls",
                    &url(client),
                ])
                .args([
                    "--listen-peer-urls",
                    &url(peer),
                    "--initial-advertise-peer-urls",
                    &url(peer),
                ])
                .args(["--quota-backend-bytes", "8589934592"])
                .args(more);
            processes.start(command, &dir.path().join(format!("n{id}.log")))?;
        }
        Ok(Cluster { processes, ports, dir })
    }

    async fn leader(ports: &[u16]) -> anyhow::Result<usize> {
        until("etcd's leader", || leader(ports)).await
    }

    async fn connect(port: u16) -> anyhow::Result<Client> {
        Client::new(port)
    }

    async fn append(mut client: Client, count: u64, value: Bytes) -> anyhow::Result<()> {
        client.put(format!("{count}"), value).await
    }
}

/// Which of them leads.
async fn leader(ports: &[u16]) -> anyhow::Result<usize> {
    for (node, port) in ports.iter().enumerate() {
        let mut client = Client::new(*port)?;
        let status: StatusDone = client.call("/etcdserverpb.Maintenance/Status", Status {}).await?;
        let member = status.header.context("a header")?.member_id;
        ensure!(status.leader != 0, "there is no leader yet");
        if status.leader == member {
            return Ok(node);
        }
    }
    anyhow::bail!("none of them leads")
}

impl Etcd {
    fn one(
        &self,
        leader: u16,
        load: Load,
        warm_up: Duration,
        length: Duration,
    ) -> anyhow::Result<Sample> {
        let value = Bytes::from(vec![b'v'; VALUE]);
        if load.kind == Kind::Read {
            tokio::runtime::Runtime::new()?.block_on(async {
                let mut client = Client::new(leader)?;
                for key in 0..KEYS {
                    client.put(format!("read-{key}"), value.clone()).await?;
                }
                anyhow::Ok(())
            })?;
        }
        // New keys in each run.
        let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let connect = async || Client::new(leader);
        let client = |client: Client, number: usize| {
            let value = value.clone();
            move |count: u64| {
                let (mut client, value) = (client.clone(), value.clone());
                async move {
                    if load.kind == Kind::Read {
                        client.get(format!("read-{}", count % KEYS)).await.is_ok()
                    } else {
                        client.put(format!("{run}-{number}-{count}"), value).await.is_ok()
                    }
                }
            }
        };
        closed_loop(self.name(), load, warm_up, length, connect, client)
    }
}
