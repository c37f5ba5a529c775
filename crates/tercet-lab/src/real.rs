//! Real processes as a world for scripts: real sockets, disks and signals, and the gate and the
//! clocks inside each node, which are asked over the lab's service.
//!
//! What is seen of a node is a look at it a moment ago. So expectations have some patience here, and
//! must hold on; and events are handed out only when no earlier one of another node can still come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tercet_client::v1::lab_client::LabClient;
use tercet_client::v1::log_client::LogClient;
use tercet_client::{Outcome, Reason, from_status, v1};
use tercet_raft::{NodeId, Profile, RoleKind, Rules};
use tercet_replica::gate::MessageKind;
use tokio::runtime::Runtime;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::ast::{DiskState, Recovery, Script, Timers, Wipe};
use crate::backend::{
    Backend, ClientAnswer, Done, GateChange, HeldView, LabEvent, NodeView, Ticket, ViewContent,
    ViewEntry, WorldError,
};
use crate::processes::NodeProcesses;
use crate::setup::{given_of, names_of, rules_of};

/// How long a node may take to answer a look.
const LOOK: Duration = Duration::from_secs(3);
/// How long a node may take to start and to find the others.
const START: Duration = Duration::from_secs(10);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(4);
/// How long a client's request may take.
const REQUEST: Duration = Duration::from_secs(60);
/// How long a linearizable read may take until its client gives up.
const READ: Duration = Duration::from_secs(2);
/// How long a slow disk takes for a sync.
const SLOW_SYNC_MS: u64 = 50;

/// How a run on real processes is set up.
#[derive(Clone, Debug)]
pub struct RealOptions {
    /// By how much `run` and the like are stretched.
    pub scale: f64,
    /// How long an expectation may take to come true.
    pub patience: Duration,
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// The election timeouts.
    pub election: (Duration, Duration),
    /// What the nodes' labs want to hear, if anything.
    pub token: Option<String>,
}

impl Default for RealOptions {
    fn default() -> Self {
        Self {
            scale: 1.0,
            patience: Duration::from_secs(5),
            heartbeat: Duration::from_millis(50),
            election: (Duration::from_millis(150), Duration::from_millis(300)),
            token: None,
        }
    }
}

/// The metadata that every request of the lab carries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Token(Option<AsciiMetadataValue>);

/// The name of that metadata.
pub(crate) const TOKEN: &str = "lab-token";

impl Token {
    pub(crate) fn new(token: Option<&str>) -> Done<Self> {
        let value = token.map(AsciiMetadataValue::try_from).transpose();
        value.map(Self).map_err(|_| {
            WorldError::new("the lab's token has characters that cannot be sent: use plain ASCII")
        })
    }

    pub(crate) fn request<T>(&self, content: T) -> Request<T> {
        let mut request = Request::new(content);
        if let Some(token) = &self.0 {
            request.metadata_mut().insert(TOKEN, token.clone());
        }
        request
    }
}

type Answers = Arc<Mutex<BTreeMap<Ticket, ClientAnswer>>>;

/// A cluster of real processes.
#[derive(Debug)]
pub struct RealBackend {
    processes: Box<dyn NodeProcesses>,
    options: RealOptions,
    token: Token,
    recovery: Recovery,
    profile: Profile,
    timers: Timers,
    rules: Rules,
    runtime: Runtime,
    nodes: BTreeMap<NodeId, Node>,
    started: Instant,
    started_us: u64,
    /// Events that are not handed out yet, by time.
    pending: Vec<(u64, LabEvent)>,
    /// Up to here every node was looked at.
    seen_until_us: u64,
    answers: Answers,
    next_ticket: Ticket,
}

#[derive(Debug)]
struct Node {
    channel: Channel,
    view: NodeView,
    held: Vec<HeldView>,
    connected: Vec<u32>,
    events_from: u64,
    /// The gate's rules that a restart must find.
    standing: Vec<GateChange>,
    /// What could not be said to a node that stood still.
    missed: Vec<GateChange>,
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn words(error: impl std::fmt::Display) -> WorldError {
    WorldError(error.to_string())
}

/// What of a cluster is not in its processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RealSetup {
    /// Which Raft.
    pub profile: Profile,
    /// Whether election timers run.
    pub timers: Timers,
    /// What a node that lost its memory may do.
    pub recovery: Recovery,
    /// The rules that are switched off.
    pub rules: Rules,
}

impl RealBackend {
    /// A cluster as the script's header and its `given` lines want it, with its nodes running and
    /// connected.
    ///
    /// # Errors
    /// A process that cannot be started, or a node that does not come up.
    pub fn new(
        script: &Script,
        processes: impl NodeProcesses + 'static,
        options: RealOptions,
    ) -> Done<Self> {
        let header = &script.header;
        let setup = RealSetup {
            profile: header.profile,
            timers: header.timers,
            recovery: header.recovery,
            rules: rules_of(header),
        };
        let mut backend = Self::attach(processes, setup, options)?;
        let ids: Vec<NodeId> = backend.nodes.keys().copied().collect();
        for id in &ids {
            backend.processes.prepare(header.seed, *id, &given_of(script, *id))?;
        }
        backend.start_all()?;
        for id in &ids {
            backend.await_connected(*id)?;
        }
        // A script begins when the nodes have found each other.
        backend.look()?;
        backend.pending.clear();
        backend.started = Instant::now();
        backend.started_us = now_us();
        Ok(backend)
    }

    /// A cluster whose processes run already, or are started by [`Self::start_all`].
    ///
    /// # Errors
    /// The machine gives no threads, or an address is none.
    pub fn attach(
        processes: impl NodeProcesses + 'static,
        setup: RealSetup,
        options: RealOptions,
    ) -> Done<Self> {
        let token = Token::new(options.token.as_deref())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(words)?;
        let mut nodes = BTreeMap::new();
        for id in (1..=processes.count()).filter_map(NodeId::new) {
            let endpoint = Endpoint::from_shared(format!("http://{}", processes.address(id)))
                .map_err(words)?
                .connect_timeout(Duration::from_millis(500))
                .tcp_nodelay(true);
            let channel = {
                let _inside = runtime.enter();
                endpoint.connect_lazy()
            };
            let node = Node {
                channel,
                view: NodeView::unknown(id),
                held: Vec::new(),
                connected: Vec::new(),
                events_from: 0,
                standing: Vec::new(),
                missed: Vec::new(),
            };
            nodes.insert(id, node);
        }
        Ok(Self {
            processes: Box::new(processes),
            options,
            token,
            recovery: setup.recovery,
            profile: setup.profile,
            timers: setup.timers,
            rules: setup.rules,
            runtime,
            nodes,
            started: Instant::now(),
            started_us: now_us(),
            pending: Vec::new(),
            seen_until_us: 0,
            answers: Answers::default(),
            next_ticket: 1,
        })
    }

    /// Starts all nodes that do not run.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start_all(&mut self) -> Done {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            if !self.processes.is_running(node) {
                let arguments = self.arguments(node);
                self.processes.start(node, &arguments)?;
            }
        }
        Ok(())
    }

    /// Which Raft the nodes are started as.
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Ends the nodes that run and starts them as another Raft. Their data stays.
    ///
    /// # Errors
    /// A process cannot be ended or started, or a node does not come up.
    pub fn restart_as(&mut self, profile: Profile) -> Done {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let mut running = Vec::new();
        for id in ids {
            if self.processes.is_running(id) {
                self.crash(id)?;
                running.push(id);
            }
        }
        self.profile = profile;
        for id in &running {
            self.node_mut(*id).events_from = 0;
            let arguments = self.arguments(*id);
            self.processes.start(*id, &arguments)?;
        }
        running.into_iter().try_for_each(|id| self.await_connected(id))
    }

    /// Whether the nodes talk to the lab at all.
    ///
    /// # Errors
    /// Which node does not, and what to do.
    pub fn check_lab(&self) -> Done {
        for (id, node) in &self.nodes {
            let look =
                self.runtime.block_on(look_at(node.channel.clone(), self.token.clone(), u64::MAX));
            match look.map_err(|status| status.code()) {
                Err(tonic::Code::Unimplemented) => {
                    return Err(WorldError(format!(
                        "{id} runs without --lab: start it with --lab"
                    )));
                }
                Err(tonic::Code::Unauthenticated) => {
                    return Err(WorldError(format!(
                        "{id} refuses the lab's token: set TERCET_LAB_TOKEN to the node's"
                    )));
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether the nodes have a lab. None of those that do not answer has.
    ///
    /// # Errors
    /// A node refuses the lab's token, or one has a lab and another has none.
    pub fn has_lab(&self) -> Done<bool> {
        let mut found = false;
        for node in self.nodes.values() {
            let look = look_at(node.channel.clone(), self.token.clone(), u64::MAX);
            match self.runtime.block_on(look) {
                Err(status) if status.code() != tonic::Code::Unauthenticated => {}
                Ok(_) | Err(_) => found = true,
            }
        }
        if found { self.check_lab().map(|()| true) } else { Ok(false) }
    }

    fn arguments(&self, node: NodeId) -> Vec<String> {
        let profile = if self.profile == Profile::Paper { "paper" } else { "modern" };
        let (min, max) = self.options.election;
        let mut arguments = vec![
            format!("--lab-profile={profile}"),
            format!("--lab-broken-rules={}", names_of(self.rules)),
            format!("--heartbeat={}ms", self.options.heartbeat.as_millis()),
            format!("--election={}ms..{}ms", min.as_millis(), max.as_millis()),
        ];
        if self.timers == Timers::Manual {
            arguments.push("--lab-frozen-timers".to_owned());
        }
        let standing = &self.nodes[&node].standing;
        arguments.extend(standing.iter().map(|rule| format!("--lab-gate={rule}")));
        arguments
    }

    /// Where the data and the nodes' own logs are.
    pub fn dir(&self) -> &std::path::Path {
        self.processes.dir()
    }

    /// The processes, for who ends the run.
    pub fn processes(&mut self) -> &mut dyn NodeProcesses {
        &mut *self.processes
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("scripts name nodes of the cluster")
    }

    fn is_talking(&mut self, node: NodeId) -> bool {
        self.processes.is_running(node) && !self.processes.is_paused(node)
    }

    /// Waits until a node serves and is connected to all others that run.
    fn await_connected(&mut self, node: NodeId) -> Done {
        let end = Instant::now() + START;
        loop {
            if !self.processes.is_running(node) {
                let why = self.processes.last_words(node);
                return Err(WorldError(format!("{node} ended: {why}")));
            }
            self.look()?;
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            let mut all = self.nodes[&node].view.up;
            for peer in ids.into_iter().filter(|peer| *peer != node) {
                if self.is_talking(peer) {
                    let there = self.nodes[&node].connected.contains(&u32::from(peer.slot()));
                    let back = self.nodes[&peer].connected.contains(&u32::from(node.slot()));
                    all = all && there && back;
                }
            }
            if all {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(WorldError(format!(
                    "{node} has not found the others within {START:?}"
                )));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Looks at all nodes that can answer, at the same time.
    fn look(&mut self) -> Done {
        let begun_us = now_us();
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let mut asked = Vec::new();
        for id in ids {
            let running = self.processes.is_running(id);
            let paused = self.processes.is_paused(id);
            let token = self.token.clone();
            let node = self.node_mut(id);
            node.view.paused = paused;
            if !running {
                node.view.up = false;
                node.view.paused = false;
                node.held.clear();
            } else if !paused {
                let (channel, events_from) = (node.channel.clone(), node.events_from);
                asked.push((id, look_at(channel, token, events_from)));
            }
        }
        let answers = self.runtime.block_on(async {
            let mut tasks = Vec::new();
            for (id, look) in asked {
                tasks.push((id, tokio::spawn(look)));
            }
            let mut answers = Vec::new();
            for (id, task) in tasks {
                answers.push((id, task.await));
            }
            answers
        });
        for (id, answer) in answers {
            // Who does not answer is as it was: it may be about to start, or to end.
            if let Ok(Ok(look)) = answer {
                self.take_look(id, look);
            }
        }
        self.seen_until_us = begun_us;
        Ok(())
    }

    fn take_look(&mut self, id: NodeId, look: v1::LookResponse) {
        let node = |slot: u32| u8::try_from(slot).ok().and_then(NodeId::new);
        let started_us = self.started_us;
        let events = look.events.into_iter().map(|event| {
            let at = Duration::from_micros(event.at_us.saturating_sub(started_us));
            let fields = event.fields.into_iter().map(|field| (field.name, field.value)).collect();
            let v1::LabEvent { at_us, term, kind, text, classic, .. } = event;
            (at_us, LabEvent { at, node: id, term, kind, fields, text, classic })
        });
        self.pending.extend(events);
        let known = self.node_mut(id);
        known.events_from = look.events_next;
        known.connected = look.connected;
        known.held = look
            .held
            .into_iter()
            .filter_map(|held| {
                Some(HeldView {
                    number: held.number,
                    from: id,
                    to: node(held.to)?,
                    kind: MessageKind::from_name(&held.kind)?,
                    text: held.text,
                })
            })
            .collect();
        known.view = NodeView {
            node: id,
            up: true,
            paused: false,
            role: role_of(&look.role),
            term: look.term,
            voted: look.voted_for.and_then(node),
            leader: look.leader.and_then(node),
            commit: look.commit_index,
            log: look.log.into_iter().map(entry_of).collect(),
            heartbeat: look.heartbeat_ms.map(Duration::from_millis),
        };
    }

    fn interfere(&mut self, node: NodeId, action: v1::interfere_request::Action) -> Done {
        if !self.is_talking(node) {
            return Err(WorldError(format!("{node} does not run, or stands still")));
        }
        let mut client = LabClient::new(self.nodes[&node].channel.clone());
        let mut request = self.token.request(v1::InterfereRequest { action: Some(action) });
        request.set_timeout(LOOK);
        self.runtime
            .block_on(client.interfere(request))
            .map(drop)
            .map_err(|status| WorldError(format!("{node}: {}", status.message())))
    }

    fn new_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }
}

async fn look_at(
    channel: Channel,
    token: Token,
    events_from: u64,
) -> Result<v1::LookResponse, Status> {
    let mut client = LabClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut request = token.request(v1::LookRequest { events_from });
    request.set_timeout(LOOK);
    client.look(request).await.map(tonic::Response::into_inner)
}

fn role_of(name: &str) -> RoleKind {
    match name {
        "leader" => RoleKind::Leader,
        "candidate" => RoleKind::Candidate,
        "pre-candidate" => RoleKind::PreCandidate,
        // A node that still looks for its cluster is as mute as one that lost its memory.
        "quarantined" | "forming" => RoleKind::Quarantined,
        _ => RoleKind::Follower,
    }
}

fn entry_of(entry: v1::LoggedEntry) -> ViewEntry {
    let content = match entry.kind.as_str() {
        "readmit" => u8::try_from(entry.node)
            .ok()
            .and_then(NodeId::new)
            .map_or(ViewContent::Noop, ViewContent::Readmit),
        "records" => {
            let text = |value: &bytes::Bytes| String::from_utf8_lossy(value).into_owned();
            let values: Vec<String> = entry.values.iter().map(text).collect();
            let id = <[u8; 16]>::try_from(&entry.request_id[..]).map_or(0, u128::from_be_bytes);
            ViewContent::Value { request_id: id, value: values.join("+") }
        }
        "damaged" => ViewContent::Damaged,
        _ => ViewContent::Noop,
    };
    ViewEntry { term: entry.term, content }
}

/// What a client makes of an error. `addresses` name the nodes.
fn answer_of(status: &Status, addresses: &BTreeMap<String, NodeId>) -> ClientAnswer {
    let error = from_status(status);
    if error.outcome == Outcome::Unknown {
        return ClientAnswer::Unknown(error.message);
    }
    if error.reason == Reason::NotLeader {
        let leader = error.leader.as_ref().and_then(|address| addresses.get(address));
        ClientAnswer::Redirect(leader.copied())
    } else if error.reason == Reason::NoLeader {
        ClientAnswer::Redirect(None)
    } else {
        ClientAnswer::Refused(error.message)
    }
}

impl Backend for RealBackend {
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn views(&mut self) -> Done<Vec<NodeView>> {
        self.look()?;
        Ok(self.nodes.values().map(|node| node.view.clone()).collect())
    }

    fn take_events(&mut self) -> Done<Vec<LabEvent>> {
        let until = self.seen_until_us;
        let (mut ready, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(at, _)| *at <= until);
        self.pending = rest;
        ready.sort_by_key(|(at, _)| *at);
        Ok(ready.into_iter().map(|(_, event)| event).collect())
    }

    fn wait_a_little(&mut self, at_most: Duration) -> Done {
        std::thread::sleep(at_most.min(PAUSE));
        Ok(())
    }

    fn patience(&self) -> Duration {
        self.options.patience
    }

    fn heartbeat(&self) -> Duration {
        self.options.heartbeat
    }

    fn scale(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.options.scale)
    }

    fn crash(&mut self, node: NodeId) -> Done {
        // What it did last is seen before it is gone.
        self.look()?;
        self.processes.kill(node)?;
        let known = self.node_mut(node);
        known.view.up = false;
        known.events_from = 0;
        known.missed.clear();
        Ok(())
    }

    fn restart(&mut self, node: NodeId) -> Done {
        let arguments = self.arguments(node);
        self.node_mut(node).events_from = 0;
        self.processes.start(node, &arguments)?;
        self.await_connected(node)
    }

    fn pause(&mut self, node: NodeId) -> Done {
        self.look()?;
        self.processes.pause(node)
    }

    fn resume(&mut self, node: NodeId) -> Done {
        self.processes.resume(node)?;
        for change in std::mem::take(&mut self.node_mut(node).missed) {
            self.interfere(node, v1::interfere_request::Action::Gate(change.to_string()))?;
        }
        Ok(())
    }

    fn wipe(&mut self, node: NodeId, what: Wipe) -> Done {
        if self.recovery == Recovery::Quarantine {
            return self.processes.delete(node, what);
        }
        if self.processes.is_running(node) {
            return Err(WorldError(format!(
                "{node} runs: crash {node} before its memory can be taken away"
            )));
        }
        self.processes.forget(node, what)
    }

    fn tear(&mut self, node: NodeId, count: u64) -> Done {
        if self.processes.is_running(node) {
            return Err(WorldError(format!(
                "{node} runs: crash {node} before its log can be torn"
            )));
        }
        self.processes.tear(node, count)
    }

    fn set_disk(&mut self, node: NodeId, disk: DiskState) -> Done {
        use v1::interfere_request::Action;
        if !self.is_talking(node) {
            // A new process begins with a disk as usual.
            return Ok(());
        }
        let delay = if disk == DiskState::Slow { SLOW_SYNC_MS } else { 0 };
        self.interfere(node, Action::SyncDelayMs(delay))?;
        self.interfere(node, Action::DiskFull(disk == DiskState::Full))
    }

    fn jump_clock(&mut self, node: NodeId, by_ms: i64) -> Done {
        self.interfere(node, v1::interfere_request::Action::JumpClockMs(by_ms))
    }

    fn gate(&mut self, node: NodeId, change: GateChange) -> Done {
        let talks = self.is_talking(node);
        let running = self.processes.is_running(node);
        let known = self.node_mut(node);
        match &change {
            GateChange::Heal => {
                known.standing.retain(|rule| matches!(rule, GateChange::Hold(..)));
            }
            GateChange::Release(None) => {
                known.standing.retain(|rule| !matches!(rule, GateChange::Hold(..)));
            }
            GateChange::Release(Some(to)) => {
                known.standing.retain(|rule| !matches!(rule, GateChange::Hold(at, _) if at == to));
            }
            GateChange::Deliver(_) | GateChange::Discard(_) => {}
            GateChange::Cut(_)
            | GateChange::Delay(..)
            | GateChange::Lose(..)
            | GateChange::Double(..)
            | GateChange::Hold(..) => known.standing.push(change.clone()),
        }
        if talks {
            return self.interfere(node, v1::interfere_request::Action::Gate(change.to_string()));
        }
        if running {
            known.missed.push(change);
        }
        Ok(())
    }

    fn reset(&mut self, one: NodeId, other: NodeId) -> Done {
        // Each closes what it dialled.
        for (node, peer) in [(one, other), (other, one)] {
            if self.is_talking(node) {
                let peer = u32::from(peer.slot());
                self.interfere(node, v1::interfere_request::Action::ResetLinks(peer))?;
            }
        }
        Ok(())
    }

    fn held(&mut self) -> Done<Vec<HeldView>> {
        self.look()?;
        Ok(self.nodes.values().flat_map(|node| node.held.iter().cloned()).collect())
    }

    fn campaign(&mut self, node: NodeId) -> Done {
        self.interfere(node, v1::interfere_request::Action::Campaign(true))
    }

    fn freeze(&mut self, node: NodeId, frozen: bool) -> Done {
        if !self.is_talking(node) {
            return Ok(());
        }
        self.interfere(node, v1::interfere_request::Action::FreezeElectionTimer(frozen))
    }

    fn set_heartbeat(
        &mut self,
        node: NodeId,
        interval: Option<Duration>,
        until_stepdown: bool,
    ) -> Done {
        let ms = interval.map_or(0, |by| u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
        let interval = v1::HeartbeatInterval { ms, until_stepdown };
        self.interfere(node, v1::interfere_request::Action::Heartbeat(interval))
    }

    fn transfer(&mut self, node: NodeId, to: Option<NodeId>) -> Done {
        let mut client = v1::cluster_client::ClusterClient::new(self.nodes[&node].channel.clone());
        let to = to.map_or(0, |to| u32::from(to.slot()));
        let request = Request::new(v1::TransferLeadershipRequest { to });
        self.runtime
            .block_on(client.transfer_leadership(request))
            .map(drop)
            .map_err(|status| WorldError(format!("{node}: {}", status.message())))
    }

    fn set_rules(&mut self, rules: Rules) -> Done {
        self.rules = rules;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in ids {
            if self.is_talking(node) {
                let names = names_of(rules);
                self.interfere(node, v1::interfere_request::Action::BrokenRules(names))?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, node: NodeId, request_id: u128, value: &str) -> Done<Ticket> {
        let ticket = self.new_ticket();
        let answers = Arc::clone(&self.answers);
        let note = move |answer: ClientAnswer| {
            answers.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, answer);
        };
        if !self.processes.is_running(node) {
            note(ClientAnswer::Unknown(format!("{node} is down")));
            return Ok(ticket);
        }
        let addresses: BTreeMap<String, NodeId> =
            self.nodes.keys().map(|node| (self.processes.address(*node), *node)).collect();
        let mut client = LogClient::new(self.nodes[&node].channel.clone());
        let mut request = Request::new(v1::SubmitRequest {
            records: vec![bytes::Bytes::copy_from_slice(value.as_bytes())],
            request_id: request_id.to_be_bytes().to_vec().into(),
            expect_next: None,
            wait: v1::Wait::Quorum.into(),
            never_forward: true,
        });
        request.set_timeout(REQUEST);
        self.runtime.spawn(async move {
            note(match client.submit(request).await {
                Ok(done) => {
                    let done = done.into_inner();
                    ClientAnswer::Ok { index: done.index, term: done.term }
                }
                Err(status) => answer_of(&status, &addresses),
            });
        });
        Ok(ticket)
    }

    fn read(&mut self, node: NodeId, stale: bool) -> Done<Ticket> {
        let ticket = self.new_ticket();
        let answers = Arc::clone(&self.answers);
        let note = move |answer: ClientAnswer| {
            answers.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, answer);
        };
        if !self.processes.is_running(node) {
            note(ClientAnswer::Unknown(format!("{node} is down")));
            return Ok(ticket);
        }
        let mut client = LogClient::new(self.nodes[&node].channel.clone());
        let consistency =
            if stale { v1::Consistency::Local } else { v1::Consistency::Linearizable };
        let mut request = Request::new(v1::ReadRequest {
            from_seq: 1,
            consistency: consistency.into(),
            ..v1::ReadRequest::default()
        });
        request.set_timeout(READ);
        self.runtime.spawn(async move {
            let read = async {
                let mut stream = client.read(request).await?.into_inner();
                let mut values = Vec::new();
                while let Some(response) = stream.message().await? {
                    let text = |value: &bytes::Bytes| String::from_utf8_lossy(value).into_owned();
                    values.extend(response.records.iter().map(|record| text(&record.value)));
                }
                Ok::<_, Status>(values)
            };
            note(match read.await {
                Ok(values) => ClientAnswer::Values(values),
                Err(status) => ClientAnswer::Unknown(status.message().to_owned()),
            });
        });
        Ok(ticket)
    }

    fn answer(&mut self, ticket: Ticket) -> Done<Option<ClientAnswer>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(answers.get(&ticket).cloned())
    }
}
