//! The processes of a cluster on several machines: each is asked for at the agent of its machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tercet_client::v1;
use tercet_client::v1::lab_agent_client::LabAgentClient;
use tercet_raft::NodeId;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::ast::Wipe;
use crate::backend::{Done, WorldError};
use crate::processes::NodeProcesses;
use crate::real::Token;
use crate::setup::NodeGiven;

/// How long a machine may take to be reached.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an agent may take to do something; it may wait ten seconds for a node to stop.
const ACT: Duration = Duration::from_secs(20);

/// Where a node runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// The agent's address, `host:port`.
    pub agent: String,
    /// Where the node listens for clients: an IP address and a port.
    pub client: String,
    /// Where it listens for its peers: an IP address and a port.
    pub peer: String,
}

/// The agents of the machines that nodes can run on.
#[derive(Clone, Debug)]
pub struct Agents {
    /// By place: the first is that of n1.
    hosts: Vec<Host>,
    channels: BTreeMap<String, Channel>,
    token: Token,
    runtime: Arc<Runtime>,
}

impl Agents {
    /// The agents of these nodes, from n1 on; none is asked anything yet.
    ///
    /// # Errors
    /// An address is none, or the token cannot be sent.
    pub fn new(hosts: Vec<Host>, token: Option<&str>) -> Done<Self> {
        let words = |error: &dyn std::fmt::Display| WorldError(error.to_string());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| words(&error))?;
        let mut channels = BTreeMap::new();
        for Host { agent, .. } in &hosts {
            let endpoint = Endpoint::from_shared(format!("http://{agent}"))
                .map_err(|error| WorldError(format!("the agent {agent}: {error}")))?
                .connect_timeout(CONNECT)
                .tcp_nodelay(true);
            let _inside = runtime.enter();
            channels.insert(agent.clone(), endpoint.connect_lazy());
        }
        Ok(Self { hosts, channels, token: Token::new(token)?, runtime: Arc::new(runtime) })
    }

    /// How many nodes there is a place for.
    pub const fn count(&self) -> usize {
        self.hosts.len()
    }

    /// Asks one agent for something.
    fn ask<A, B>(
        &self,
        agent: &str,
        content: A,
        call: impl AsyncFnOnce(
            &mut LabAgentClient<Channel>,
            tonic::Request<A>,
        ) -> Result<Response<B>, Status>,
    ) -> Done<B> {
        let mut client = LabAgentClient::new(self.channels[agent].clone());
        let mut request = self.token.request(content);
        request.set_timeout(ACT);
        let answer = self.runtime.block_on(call(&mut client, request));
        answer.map(Response::into_inner).map_err(|status| self.words(agent, &status))
    }

    /// An agent's error, with the host and what to do about it.
    fn words(&self, agent: &str, status: &Status) -> WorldError {
        let mut of = Vec::new();
        for (host, id) in self.hosts.iter().zip(1..) {
            if host.agent == agent {
                of.push(format!("n{id}"));
            }
        }
        let agent = format!("the agent {agent} (of {})", of.join(", "));
        WorldError(match status.code() {
            Code::Unauthenticated => format!(
                "{agent} refuses the token: TERCET_LAB_TOKEN must be the same here as there"
            ),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => format!(
                "{agent} cannot be reached: is `tercet lab agent` running there, and is the port open?"
            ),
            Code::Unimplemented => format!("{agent} is no agent: start `tercet lab agent` there"),
            Code::Ok
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::DataLoss => format!("{agent}: {}", status.message()),
        })
    }

    /// Ends a run everywhere, and deletes what it left if that is not wanted. What cannot be reached
    /// ends by itself.
    pub fn stop(&self, run: &str, discard: bool) {
        for agent in self.channels.keys() {
            let content = v1::AgentStopAllRequest { run: run.to_owned(), discard };
            let _ =
                self.ask(agent, content, async |client, request| client.stop_all(request).await);
        }
    }

    /// Begins a run with so many nodes; none of them runs yet.
    ///
    /// # Errors
    /// An agent that cannot be reached, refuses the token, or is busy.
    ///
    /// # Panics
    /// There are fewer places than nodes.
    pub fn begin(&self, run: &str, nodes: u8) -> Done<HostProcesses> {
        assert!(usize::from(nodes) <= self.count(), "{nodes} nodes on {} places", self.count());
        let hosts = &self.hosts[..usize::from(nodes)];
        let processes = HostProcesses {
            agents: self.clone(),
            run: run.to_owned(),
            dir: PathBuf::from(run),
            paused: vec![false; hosts.len()],
        };
        let asked: BTreeSet<&str> = hosts.iter().map(|host| host.agent.as_str()).collect();
        let place =
            |host: &Host| v1::AgentNode { client: host.client.clone(), peer: host.peer.clone() };
        for agent in asked {
            let content = v1::AgentBeginRequest {
                run: run.to_owned(),
                nodes: hosts.iter().map(place).collect(),
            };
            self.ask(agent, content, async |client, request| client.begin(request).await)?;
        }
        Ok(processes)
    }
}

/// The processes of one cluster on several machines. They stop when this is dropped.
#[derive(Debug)]
pub struct HostProcesses {
    agents: Agents,
    run: String,
    /// The run's directory, in that of each agent.
    dir: PathBuf,
    paused: Vec<bool>,
}

impl HostProcesses {
    fn place(node: NodeId) -> usize {
        usize::from(node.slot()) - 1
    }

    fn host(&self, node: NodeId) -> &Host {
        &self.agents.hosts[Self::place(node)]
    }

    fn node_request(&self, node: NodeId) -> v1::AgentNodeRequest {
        v1::AgentNodeRequest { run: self.run.clone(), node: u32::from(node.slot()) }
    }

    fn wipe_request(&self, node: NodeId, what: Wipe) -> v1::AgentWipeRequest {
        let node = u32::from(node.slot());
        v1::AgentWipeRequest { run: self.run.clone(), node, what: what.name().to_owned() }
    }

    /// Asks the agent of a node for something.
    fn ask<A, B>(
        &self,
        node: NodeId,
        content: A,
        call: impl AsyncFnOnce(
            &mut LabAgentClient<Channel>,
            tonic::Request<A>,
        ) -> Result<Response<B>, Status>,
    ) -> Done<B> {
        self.agents.ask(&self.host(node).agent, content, call)
    }

    /// Has something done to a node that needs no more than its name; it stands still then, or not.
    fn order(
        &mut self,
        node: NodeId,
        paused: bool,
        call: impl AsyncFnOnce(
            &mut LabAgentClient<Channel>,
            tonic::Request<v1::AgentNodeRequest>,
        ) -> Result<Response<v1::AgentResponse>, Status>,
    ) -> Done {
        self.ask(node, self.node_request(node), call)?;
        self.paused[Self::place(node)] = paused;
        Ok(())
    }
}

impl NodeProcesses for HostProcesses {
    fn count(&self) -> u8 {
        u8::try_from(self.paused.len()).expect("at most 7 nodes")
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn address(&self, node: NodeId) -> String {
        self.host(node).client.clone()
    }

    fn prepare(&mut self, seed: u64, node: NodeId, given: &NodeGiven) -> Done {
        let entry = |(term, value): &(u64, String)| v1::AgentEntry {
            term: *term,
            value: value.clone().into(),
        };
        let content = v1::AgentPrepareRequest {
            run: self.run.clone(),
            node: u32::from(node.slot()),
            seed,
            term: given.term,
            voted: given.voted.map_or(0, |node| u32::from(node.slot())),
            log: given.log.iter().map(entry).collect(),
        };
        self.ask(node, content, async |client, request| client.prepare(request).await).map(drop)
    }

    fn start(&mut self, node: NodeId, arguments: &[String]) -> Done {
        let content = v1::AgentStartRequest {
            run: self.run.clone(),
            node: u32::from(node.slot()),
            arguments: arguments.to_vec(),
        };
        self.ask(node, content, async |client, request| client.start(request).await)?;
        self.paused[Self::place(node)] = false;
        Ok(())
    }

    /// A node whose agent cannot say counts as gone; its last words say why.
    fn is_running(&mut self, node: NodeId) -> bool {
        let content = self.node_request(node);
        self.ask(node, content, async |client, request| client.is_running(request).await)
            .is_ok_and(|answer| answer.running)
    }

    fn ended(&mut self) -> Option<NodeId> {
        let ids = (1..=self.count()).filter_map(NodeId::new);
        ids.into_iter().find(|id| !self.is_running(*id))
    }

    fn is_paused(&self, node: NodeId) -> bool {
        self.paused[Self::place(node)]
    }

    fn kill(&mut self, node: NodeId) -> Done {
        self.order(node, false, async |client, request| client.kill(request).await)
    }

    fn pause(&mut self, node: NodeId) -> Done {
        self.order(node, true, async |client, request| client.pause(request).await)
    }

    fn resume(&mut self, node: NodeId) -> Done {
        self.order(node, false, async |client, request| client.resume(request).await)
    }

    fn last_words(&mut self, node: NodeId) -> String {
        let content = self.node_request(node);
        match self.ask(node, content, async |client, request| client.last_words(request).await) {
            Ok(answer) => answer.line,
            Err(error) => error.0,
        }
    }

    fn forget(&mut self, node: NodeId, what: Wipe) -> Done {
        let content = self.wipe_request(node, what);
        self.ask(node, content, async |client, request| client.forget(request).await).map(drop)
    }

    fn delete(&mut self, node: NodeId, what: Wipe) -> Done {
        let content = self.wipe_request(node, what);
        self.ask(node, content, async |client, request| client.delete(request).await).map(drop)
    }

    fn tear(&mut self, node: NodeId, count: u64) -> Done {
        let node_number = u32::from(node.slot());
        let content = v1::AgentTearRequest { run: self.run.clone(), node: node_number, count };
        self.ask(node, content, async |client, request| client.tear(request).await).map(drop)
    }

    fn stop_all(&mut self) {
        self.agents.stop(&self.run, false);
    }
}

impl Drop for HostProcesses {
    fn drop(&mut self) {
        self.agents.stop(&self.run, false);
    }
}
