//! Nodes without the lab: what their clients can do, and, where this program started them, what can be
//! done to processes and directories.

use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use serde_json::{Value, json};
use tercet_client::{Client, SubmitOptions};
use tercet_lab::Lab;
use tercet_lab::ast::{NodeRef, NodeRefs, Outcome, Step, StepKind, Wipe};
use tercet_raft::Profile;
use tokio::runtime::Runtime;

use super::World;
use super::input::Offered;
use super::voice::Voice;
use super::words::{Kind, needs_the_lab};
use crate::commands::{explain_of, read_all, status_of, submit_sentence, value_to_json};
use crate::dev::{SharedSupervisor, lock};
use crate::output::{Failure, api_failure};

/// How long a node that was started is waited for.
const START: Duration = Duration::from_secs(10);

pub(crate) struct Plain {
    client: Client,
    runtime: Runtime,
    /// The processes, if they were started here.
    cluster: Option<SharedSupervisor>,
    nodes: u8,
    voice: Voice,
}

impl Plain {
    pub(crate) fn new(
        client: Client,
        runtime: Runtime,
        cluster: Option<SharedSupervisor>,
        voice: Voice,
    ) -> Self {
        let nodes = u8::try_from(client.addresses().count()).unwrap_or(7).min(7);
        Self { client, runtime, cluster, nodes, voice }
    }

    fn cluster(&self, what: &str) -> anyhow::Result<&SharedSupervisor> {
        self.cluster.as_ref().ok_or_else(|| {
            let why = format!(
                "\"{what}\": the nodes were started elsewhere, and their processes can only be changed there"
            );
            Failure::new(2, why).into()
        })
    }

    /// The numbers of nodes.
    fn ids(&self, nodes: &NodeRefs) -> anyhow::Result<Vec<usize>> {
        match nodes {
            NodeRefs::All => Ok((1..=usize::from(self.nodes)).collect()),
            NodeRefs::Some(nodes) => nodes.iter().map(|node| self.id(node)).collect(),
        }
    }

    fn id(&self, node: &NodeRef) -> anyhow::Result<usize> {
        match node {
            NodeRef::Node(node) => Ok(usize::from(node.slot())),
            NodeRef::Leader => {
                let statuses = self.runtime.block_on(self.client.statuses());
                let leads = statuses
                    .iter()
                    .filter_map(|(_, status)| status.as_ref().ok())
                    .filter(|status| status.role == "leader")
                    .max_by_key(|status| status.term);
                match leads {
                    Some(status) => Ok(usize::try_from(status.node)?),
                    None => bail!("nobody leads now: explain says why"),
                }
            }
            NodeRef::Variable(name) => bail!("{}", needs_the_lab(&format!("${name}"))),
        }
    }

    fn submit(&self, values: &[String]) -> anyhow::Result<()> {
        let values: Vec<Bytes> = values.iter().cloned().map(Bytes::from).collect();
        let request = self.client.submit_with(values, SubmitOptions::default());
        let done = self.runtime.block_on(request).map_err(|error| api_failure(&error))?.response;
        if self.voice.is_json() {
            return self.voice.data(serde_json::to_value(&done)?);
        }
        self.voice.say(submit_sentence(&done))
    }

    fn read(&self, local: bool) -> anyhow::Result<()> {
        let mut values = Vec::new();
        let mut show = |value: &[u8]| -> anyhow::Result<()> {
            if self.voice.is_json() {
                values.push(value_to_json(value));
                return Ok(());
            }
            let shown = crate::output::shown(value);
            self.voice.say(String::from_utf8_lossy(&shown).into_owned())
        };
        self.runtime.block_on(read_all(&self.client, local, &mut show))?;
        if self.voice.is_json() { self.voice.data(json!({ "values": values })) } else { Ok(()) }
    }

    fn crash(&self, id: usize) -> anyhow::Result<()> {
        let mut cluster = lock(self.cluster("crash")?);
        if !cluster.is_running(id) {
            bail!("n{id} is down already: restart n{id} first");
        }
        let pid = cluster.crash(id)?;
        self.voice.say(format!("n{id} killed (pid {pid})"))
    }

    fn restart(&self, id: usize) -> anyhow::Result<()> {
        let mut cluster = lock(self.cluster("restart")?);
        if cluster.is_running(id) {
            bail!("n{id} runs: crash n{id} first");
        }
        cluster.start(id)?;
        drop(cluster);
        if self.answers(id)? {
            return self.voice.say(format!("n{id} started"));
        }
        self.voice.say(format!("n{id} started; it does not answer yet: status shows when it does"))
    }

    /// Waits until a node that was started answers, so that the line after finds it. Whether it does.
    fn answers(&self, id: usize) -> anyhow::Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < START {
            let statuses = self.runtime.block_on(self.client.statuses());
            if statuses.get(id - 1).is_some_and(|(_, status)| status.is_ok()) {
                return Ok(true);
            }
            if !lock(self.cluster("restart")?).is_running(id) {
                // What it ended with is told before the next line.
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    fn wipe(&self, id: usize) -> anyhow::Result<()> {
        let was_running = lock(self.cluster("wipe")?).wipe(id)?;
        let killed = if was_running { "killed, and " } else { "" };
        self.voice.say(format!(
            "n{id}: {killed}its directory is deleted. restart n{id}: it rejoins, mute until the others have readmitted it"
        ))
    }

    fn transfer(&self, to: Option<&NodeRef>) -> anyhow::Result<()> {
        let to = to.map(|node| self.id(node)).transpose()?.map(u32::try_from).transpose()?;
        let leader =
            self.runtime.block_on(self.client.transfer(to)).map_err(|error| api_failure(&error))?;
        self.voice.say(format!("n{leader} leads"))
    }
}

impl World for Plain {
    fn kind(&self) -> Kind {
        Kind::Plain
    }

    fn nodes(&self) -> u8 {
        self.nodes
    }

    fn lab(&mut self) -> Option<&mut dyn Lab> {
        None
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else the language has, or will have, needs the lab"
    )]
    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let is_ok = |expect: &[Outcome]| matches!(expect, [] | [Outcome::Ok]);
        match &step.kind {
            StepKind::Submit { values, via: None, name: None, nowait: false, expect }
                if is_ok(expect) =>
            {
                self.submit(values)
            }
            StepKind::Read { via: None, name: None, stale, nowait: false, expect }
                if is_ok(expect) =>
            {
                self.read(*stale)
            }
            StepKind::Crash(nodes) => {
                self.ids(nodes)?.into_iter().try_for_each(|id| self.crash(id))
            }
            StepKind::Restart(nodes) => {
                let cluster = self.cluster("restart")?;
                let is_down = |id: &usize| !lock(cluster).is_running(*id);
                // All: those that are down.
                let mut ids = self.ids(nodes)?;
                ids.retain(|id| *nodes != NodeRefs::All || is_down(id));
                ids.into_iter().try_for_each(|id| self.restart(id))
            }
            StepKind::Wipe { nodes, what: Wipe::All } => {
                self.ids(nodes)?.into_iter().try_for_each(|id| self.wipe(id))
            }
            StepKind::Transfer(to) => self.transfer(to.as_ref()),
            StepKind::Run(duration) => {
                std::thread::sleep(*duration);
                Ok(())
            }
            _ => Err(Failure::new(2, needs_the_lab(&step.text)).into()),
        }
    }

    fn status(&mut self) -> anyhow::Result<(Value, String)> {
        Ok(status_of(&self.runtime.block_on(self.client.statuses())))
    }

    fn explain(&mut self) -> anyhow::Result<(Value, String)> {
        explain_of(&self.runtime.block_on(self.client.statuses()))
    }

    fn offered(&mut self) -> Offered {
        let mut offered = Offered { kind: Kind::Plain, ..Offered::default() };
        if let Some(cluster) = &self.cluster {
            let mut cluster = lock(cluster);
            for id in 1..=cluster.count() {
                let place =
                    if cluster.is_running(id) { &mut offered.up } else { &mut offered.down };
                place.push(format!("n{id}"));
            }
        }
        offered
    }

    fn header(&self) -> String {
        String::new()
    }

    fn profile(
        &mut self,
        _: Profile,
        _: &mut dyn FnMut(&str) -> anyhow::Result<String>,
    ) -> anyhow::Result<String> {
        bail!("{}", needs_the_lab("profile"))
    }

    fn ended(&mut self) -> Vec<String> {
        let ended = self.cluster.as_ref().map(|cluster| lock(cluster).take_ended());
        ended
            .into_iter()
            .flatten()
            .map(|(id, why)| {
                format!("n{id} ended by itself ({why}): restart n{id} starts it again")
            })
            .collect()
    }

    fn stop(&mut self) {
        if let Some(cluster) = &self.cluster {
            lock(cluster).stop_all();
        }
    }
}
