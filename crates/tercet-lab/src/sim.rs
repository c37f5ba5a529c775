//! The simulator as a world for scripts. Exact: what is expected must be true at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{Event, Incarnation, NodeId, RoleKind, Rules, Time};
use tercet_replica::gate::describe;
use tercet_replica::prepare::{Forget, PreparedEntry, forget, prepare, tear};
use tercet_replica::{LabInput, LoggedContent, LoggedEntry, SubmitError};
use tercet_sim::{Answer, Happened, OpId, What, World, WorldConfig};
use tercet_wal::{Disk, HardState, Survive};

use crate::ast::{DiskState, Recovery, Script, Timers, Wipe};
use crate::backend::{
    Backend, ClientAnswer, Done, GateChange, HeldView, LabEvent, NodeView, Ticket, ViewContent,
    ViewEntry, WorldError,
};
use crate::setup::{given_of, rules_of};

/// How long a slow disk takes for a sync.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// How long the nodes may take to connect to each other before a script begins.
const CONNECT: Duration = Duration::from_millis(5);
/// How soon connections that were closed are there again.
const REDIAL: Duration = Duration::from_millis(10);

/// A simulated cluster.
#[derive(Debug)]
pub struct SimBackend {
    world: World,
    started: Time,
    recovery: Recovery,
    views: BTreeMap<NodeId, NodeView>,
    marks: BTreeMap<NodeId, Fingerprint>,
    wipes: u64,
}

/// What of a node is compared to see whether it changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fingerprint {
    paused: bool,
    role: RoleKind,
    hard_state: tercet_raft::HardState,
    leader: Option<NodeId>,
    commit: u64,
    last: tercet_raft::LogPos,
    heartbeat: Option<Duration>,
}

impl SimBackend {
    /// A cluster as the script's header and its `given` lines want it, with its nodes running.
    ///
    /// # Errors
    /// A directory that cannot be made so.
    pub fn new(script: &Script, seed: u64) -> Done<Self> {
        let header = &script.header;
        let mut config = WorldConfig::new(header.nodes, seed);
        config.profile = header.profile;
        config.rules = rules_of(header);
        config.timers_frozen = header.timers == Timers::Manual;
        let mut world = World::new(config);
        let options = world.config().wal();
        for identity in world.identities() {
            let given = given_of(script, identity.node);
            let hard_state = HardState { term: given.term, vote: given.voted.map(NodeId::slot) };
            let log: Vec<PreparedEntry> = given
                .log
                .into_iter()
                .map(|(term, value)| PreparedEntry { term, value: Some(Bytes::from(value)) })
                .collect();
            let disk = world.disk(identity.node);
            prepare(disk, &identity, hard_state, &log, options.clone()).map_err(words)?;
        }
        for node in world.node_ids() {
            world.start(node).map_err(WorldError)?;
        }
        // A script begins when the nodes have found each other.
        let connected = world.now().after(CONNECT);
        while world.step(connected) {}
        world.take_happened();
        let started = world.now();
        let mut backend = Self {
            world,
            started,
            recovery: header.recovery,
            views: BTreeMap::new(),
            marks: BTreeMap::new(),
            wipes: 0,
        };
        backend.note_changes();
        Ok(backend)
    }

    /// Looks which nodes changed, and says whether any did.
    fn note_changes(&mut self) -> bool {
        let mut changed = false;
        for node in self.world.node_ids() {
            let now = self.fingerprint(node);
            if now.as_ref() == self.marks.get(&node) && self.views.contains_key(&node) {
                continue;
            }
            changed = true;
            match now {
                Some(mark) => {
                    self.marks.insert(node, mark);
                    self.views.insert(node, self.look(node, mark));
                }
                None => {
                    self.marks.remove(&node);
                    let view = self.views.entry(node).or_insert_with(|| NodeView::unknown(node));
                    changed = std::mem::take(&mut view.up) || changed;
                    view.paused = false;
                }
            }
        }
        changed
    }

    fn fingerprint(&self, node: NodeId) -> Option<Fingerprint> {
        let raft = self.world.replica(node)?.raft()?;
        Some(Fingerprint {
            paused: self.world.is_paused(node),
            role: raft.role(),
            hard_state: raft.hard_state(),
            leader: raft.leader(),
            commit: raft.commit().0,
            last: raft.last(),
            heartbeat: raft.heartbeat_override(),
        })
    }

    fn look(&self, node: NodeId, mark: Fingerprint) -> NodeView {
        NodeView {
            node,
            up: true,
            paused: mark.paused,
            role: mark.role,
            term: mark.hard_state.term.0,
            voted: mark.hard_state.vote,
            leader: mark.leader,
            commit: mark.commit,
            log: self.world.log(node).iter().map(view_of).collect(),
            heartbeat: mark.heartbeat,
        }
    }

    fn must_be_down(&self, node: NodeId, what: &str) -> Done {
        if self.world.is_up(node) {
            return Err(WorldError::new(format!("{node} runs: crash {node} before {what}")));
        }
        Ok(())
    }
}

/// What happened in a simulated world that was begun then, as an event of the lab.
pub fn lab_event(begun: Time, happened: &Happened) -> LabEvent {
    let Happened { at, node, term, what } = happened;
    let at = at.since(begun);
    let (node, term) = (*node, *term);
    match what {
        What::Core(event) => core_event(at, node, term, event),
        What::Warning(text) => spoken(at, node, term, "warning", text),
        What::Notice(text) => spoken(at, node, term, "notice", text),
        What::Stopped(text) => spoken(at, node, term, "stopped", text),
    }
}

fn words(error: impl std::fmt::Display) -> WorldError {
    WorldError(error.to_string())
}

pub(crate) fn view_of(entry: &LoggedEntry) -> ViewEntry {
    let content = match &entry.content {
        LoggedContent::Noop => ViewContent::Noop,
        LoggedContent::Damaged => ViewContent::Damaged,
        LoggedContent::Readmit(node) => ViewContent::Readmit(*node),
        LoggedContent::Records { request_id, values } => {
            let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
            let values: Vec<String> = values.iter().map(text).collect();
            ViewContent::Value { request_id: *request_id, value: values.join("+") }
        }
    };
    ViewEntry { term: entry.term, content }
}

fn core_event(at: Duration, node: NodeId, term: u64, event: &Event) -> LabEvent {
    let fields = event.fields(node);
    LabEvent {
        at,
        node,
        term,
        kind: event.kind().to_owned(),
        fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        text: event.to_string(),
        classic: event.classic(node),
    }
}

fn spoken(at: Duration, node: NodeId, term: u64, kind: &str, text: &str) -> LabEvent {
    let (kind, text) = (kind.to_owned(), text.to_owned());
    LabEvent { at, node, term, kind, fields: Vec::new(), text, classic: None }
}

impl Backend for SimBackend {
    fn elapsed(&self) -> Duration {
        self.world.now().since(self.started)
    }

    fn views(&mut self) -> Done<Vec<NodeView>> {
        self.note_changes();
        Ok(self.views.values().cloned().collect())
    }

    fn take_events(&mut self) -> Done<Vec<LabEvent>> {
        let happened = self.world.take_happened();
        Ok(happened.iter().map(|happened| lab_event(self.started, happened)).collect())
    }

    fn wait_a_little(&mut self, at_most: Duration) -> Done {
        let end = self.world.now().after(at_most);
        while self.world.step(end) {
            if self.note_changes() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn heartbeat(&self) -> Duration {
        self.world.config().heartbeat_interval
    }

    fn scale(&self, duration: Duration) -> Duration {
        duration
    }

    fn crash(&mut self, node: NodeId) -> Done {
        self.world.crash(node, Survive::None);
        Ok(())
    }

    fn restart(&mut self, node: NodeId) -> Done {
        self.world.start(node).map_err(WorldError)?;
        // On real nodes, too, a restart is done when the node has found the others.
        let connected = self.world.now().after(CONNECT);
        while self.world.step(connected) {}
        Ok(())
    }

    fn pause(&mut self, node: NodeId) -> Done {
        self.world.pause(node);
        Ok(())
    }

    fn resume(&mut self, node: NodeId) -> Done {
        self.world.resume(node);
        Ok(())
    }

    fn wipe(&mut self, node: NodeId, what: Wipe) -> Done {
        if self.recovery == Recovery::Trust {
            self.must_be_down(node, "its memory can be taken away")?;
            self.wipes += 1;
            let what = match what {
                Wipe::Log => Forget::Log,
                Wipe::Meta => Forget::HardState,
                Wipe::All => Forget::All,
            };
            let incarnation = Incarnation(u128::from(node.slot()) << 64 | u128::from(self.wipes));
            let options = self.world.config().wal();
            return forget(self.world.disk(node), what, incarnation, options).map_err(words);
        }
        let disk = self.world.disk(node);
        let mut gone: Vec<String> = Vec::new();
        let log = disk.list("wal").map_err(words)?;
        match what {
            Wipe::Log => gone.extend(log.iter().map(|name| format!("wal/{name}"))),
            Wipe::Meta => gone.push("identity".to_owned()),
            Wipe::All => {
                gone.extend(log.iter().map(|name| format!("wal/{name}")));
                gone.extend(disk.list("").map_err(words)?);
            }
        }
        for name in gone {
            disk.remove(&name).map_err(words)?;
        }
        disk.sync_dir("").map_err(words)
    }

    fn tear(&mut self, node: NodeId, count: u64) -> Done {
        self.must_be_down(node, "its log can be torn")?;
        let options = self.world.config().wal();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        tear(self.world.disk(node), count, options).map_err(words)
    }

    fn set_disk(&mut self, node: NodeId, disk: DiskState) -> Done {
        let usual = self.world.config().sync;
        self.world.set_sync(node, if disk == DiskState::Slow { SLOW_SYNC } else { usual });
        let free = if disk == DiskState::Full { 0 } else { 1 << 40 };
        self.world.disk(node).set_free_bytes(free);
        Ok(())
    }

    fn jump_clock(&mut self, node: NodeId, by_ms: i64) -> Done {
        self.world.jump_clock(node, by_ms);
        Ok(())
    }

    fn gate(&mut self, node: NodeId, change: GateChange) -> Done {
        self.world.change_gate(node, change);
        Ok(())
    }

    fn reset(&mut self, one: NodeId, other: NodeId) -> Done {
        self.world.reset_link(one, other, REDIAL);
        Ok(())
    }

    fn held(&mut self) -> Done<Vec<HeldView>> {
        let mut all = Vec::new();
        for from in self.world.node_ids() {
            let held = self.world.gate(from).held();
            all.extend(held.map(|held| HeldView {
                number: held.number,
                from,
                to: held.to,
                kind: held.kind,
                text: describe(&held.message),
            }));
        }
        Ok(all)
    }

    fn campaign(&mut self, node: NodeId) -> Done {
        self.world.interfere(node, LabInput::Campaign);
        Ok(())
    }

    fn freeze(&mut self, node: NodeId, frozen: bool) -> Done {
        self.world.interfere(node, LabInput::FreezeElectionTimer { frozen });
        Ok(())
    }

    fn set_heartbeat(
        &mut self,
        node: NodeId,
        interval: Option<Duration>,
        until_stepdown: bool,
    ) -> Done {
        self.world.interfere(node, LabInput::SetHeartbeatInterval { interval, until_stepdown });
        Ok(())
    }

    fn transfer(&mut self, node: NodeId, to: Option<NodeId>) -> Done {
        self.world.transfer(node, to);
        Ok(())
    }

    fn set_rules(&mut self, rules: Rules) -> Done {
        self.world.reconfigure(|config| config.rules = rules);
        for node in self.world.node_ids() {
            self.world.interfere(node, LabInput::SetRules { rules });
        }
        Ok(())
    }

    fn submit(&mut self, node: NodeId, request_id: u128, value: &str) -> Done<Ticket> {
        let value = Bytes::copy_from_slice(value.as_bytes());
        Ok(self.world.submit(node, request_id, vec![value]).0)
    }

    fn read(&mut self, node: NodeId, stale: bool) -> Done<Ticket> {
        Ok(self.world.read(node, stale).0)
    }

    fn answer(&mut self, ticket: Ticket) -> Done<Option<ClientAnswer>> {
        Ok(self.world.answer(OpId(ticket)).map(|answer| match answer {
            Answer::Submitted(done) => ClientAnswer::Ok { index: done.index, term: done.term },
            Answer::Read(values) => {
                let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
                ClientAnswer::Values(values.iter().map(text).collect())
            }
            Answer::Refused { why: SubmitError::NotLeader | SubmitError::Transferring, leader } => {
                ClientAnswer::Redirect(*leader)
            }
            Answer::Refused { why, .. } => ClientAnswer::Refused(format!("{why:?}")),
            Answer::Unknown => ClientAnswer::Unknown("the answer was lost".to_owned()),
        }))
    }
}
