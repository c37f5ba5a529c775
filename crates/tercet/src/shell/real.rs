//! Nodes with the lab.

use anyhow::Context as _;
use serde_json::Value;
use tercet_client::Client;
use tercet_lab::ast::Step;
use tercet_lab::{Lab, RealBackend, Runner, parse};
use tercet_raft::Profile;
use tokio::runtime::Runtime;

use super::input::Offered;
use super::words::Kind;
use super::{Voice, World, offered_of, profile_name};
use crate::commands::{explain_of, status_of};
use crate::output::note;

pub(crate) struct Real {
    runner: Runner<'static, RealBackend>,
    client: Client,
    runtime: Runtime,
    nodes: u8,
    /// Whether this program started the nodes.
    owns: bool,
}

impl Real {
    pub(crate) fn new(
        backend: RealBackend,
        client: Client,
        runtime: Runtime,
        voice: &Voice,
        owns: bool,
    ) -> anyhow::Result<Self> {
        let nodes = u8::try_from(client.addresses().count()).context("at most 7 nodes")?;
        let script = parse(&cluster_line(nodes, backend.profile(), "timers=auto"))
            .map_err(|errors| anyhow::anyhow!("{}", errors[0]))?;
        let runner = Runner::new(&script, backend, voice.teller());
        Ok(Self { runner, client, runtime, nodes, owns })
    }
}

/// The line that sets such a cluster up.
pub(super) fn cluster_line(nodes: u8, profile: Profile, rest: &str) -> String {
    let names: Vec<String> = (1..=nodes).map(|slot| format!("n{slot}")).collect();
    format!("cluster {} profile={} {rest}", names.join(" "), profile_name(profile))
}

impl World for Real {
    fn kind(&self) -> Kind {
        Kind::Real
    }

    fn nodes(&self) -> u8 {
        self.nodes
    }

    fn lab(&mut self) -> Option<&mut dyn Lab> {
        Some(&mut self.runner)
    }

    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        self.runner.run_line(step).map_err(anyhow::Error::msg)
    }

    fn status(&mut self) -> anyhow::Result<(Value, String)> {
        Ok(status_of(&self.runtime.block_on(self.client.statuses())))
    }

    fn explain(&mut self) -> anyhow::Result<(Value, String)> {
        explain_of(&self.runtime.block_on(self.client.statuses()))
    }

    fn offered(&mut self) -> Offered {
        offered_of(Kind::Real, &mut self.runner)
    }

    fn header(&self) -> String {
        cluster_line(self.nodes, self.runner.world().profile(), "timers=auto")
    }

    fn profile(
        &mut self,
        profile: Profile,
        ask: &mut dyn FnMut(&str) -> anyhow::Result<String>,
    ) -> anyhow::Result<String> {
        let name = profile_name(profile);
        if !self.owns {
            anyhow::bail!(
                "the nodes were started elsewhere: start them there with `serve --lab --lab-profile {name}`"
            );
        }
        let answer = ask(&format!("restart all nodes that run, as {name}? [y/N]: "))?;
        if !answer.starts_with(['y', 'Y']) {
            return Ok("the nodes go on as they are".to_owned());
        }
        self.runner.backend().restart_as(profile)?;
        Ok(format!("the nodes run as {name} now, with the data that they had"))
    }

    fn stop(&mut self) {
        if self.owns {
            note(
                "stopping the nodes that were started here; their data stays in their directories",
            );
        }
        self.runner.backend().processes().stop_all();
    }
}
