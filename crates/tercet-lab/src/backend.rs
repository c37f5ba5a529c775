//! What a runner needs of a world: the simulator and a cluster of real processes both offer this,
//! so that a script is run by the same code in either.
//!
//! A world reports what is there and does what it is told; it judges nothing.

use std::time::Duration;

use tercet_raft::{NodeId, RoleKind, Rules};
pub use tercet_replica::gate::GateChange;
use tercet_replica::gate::MessageKind;

use crate::ast::{DiskState, Wipe};

/// Why a world could not do what it was told.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct WorldError(pub String);

impl WorldError {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// The result of an action.
pub type Done<T = ()> = Result<T, WorldError>;

/// A node as it is at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// Whether its process exists. Of one that does not, the rest is what was last seen.
    pub up: bool,
    /// Whether its process stands still.
    pub paused: bool,
    /// What it is.
    pub role: RoleKind,
    /// Its term.
    pub term: u64,
    /// Who got its vote in that term.
    pub voted: Option<NodeId>,
    /// Who it believes leads.
    pub leader: Option<NodeId>,
    /// Committed, as far as it knows.
    pub commit: u64,
    /// Its log.
    pub log: Vec<ViewEntry>,
    /// The interval of heartbeats that the lab set, if any.
    pub heartbeat: Option<Duration>,
}

impl NodeView {
    /// A node of which nothing is known yet.
    pub const fn unknown(node: NodeId) -> Self {
        Self {
            node,
            up: false,
            paused: false,
            role: RoleKind::Follower,
            term: 0,
            voted: None,
            leader: None,
            commit: 0,
            log: Vec::new(),
            heartbeat: None,
        }
    }

    /// The last index of its log.
    pub const fn last(&self) -> u64 {
        self.log.len() as u64
    }

    /// Whether it runs and leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.up && self.role == RoleKind::Leader
    }

    /// The log in the notation of scripts.
    pub fn log_text(&self) -> String {
        if self.log.is_empty() {
            return "empty".to_owned();
        }
        let items: Vec<String> = self.log.iter().map(ToString::to_string).collect();
        items.join(" ")
    }
}

/// An entry as it is seen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ViewEntry {
    /// Its term.
    pub term: u64,
    /// What it holds.
    pub content: ViewContent,
}

/// What an entry holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ViewContent {
    /// A leader's no-op.
    Noop,
    /// The readmission of a node.
    Readmit(NodeId),
    /// Not known: its bytes are damaged, and have not been fetched from a peer yet.
    Damaged,
    /// A record, with the request that submitted it.
    Value {
        /// The request's id.
        request_id: u128,
        /// The value, as text.
        value: String,
    },
}

impl std::fmt::Display for ViewEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.content {
            ViewContent::Noop => write!(f, "{}:-", self.term),
            ViewContent::Damaged => write!(f, "{}:?", self.term),
            ViewContent::Readmit(node) => write!(f, "{}:+{node}", self.term),
            ViewContent::Value { value, .. } => write!(f, "{}:{value}", self.term),
        }
    }
}

/// Something that happened on a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabEvent {
    /// How long after the start of the run.
    pub at: Duration,
    /// Where.
    pub node: NodeId,
    /// The node's term then.
    pub term: u64,
    /// The kind: one of [`EVENT_KINDS`](crate::ast::EVENT_KINDS), or another that scripts cannot name.
    pub kind: String,
    /// What it says, as names and values.
    pub fields: Vec<(String, String)>,
    /// The event as a sentence.
    pub text: String,
    /// The event as a sentence of a lab class, if there is one.
    pub classic: Option<String>,
}

impl LabEvent {
    /// A field's value.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// A message that a gate holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldView {
    /// Its number.
    pub number: u64,
    /// Who sent it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// Its kind.
    pub kind: MessageKind,
    /// In words.
    pub text: String,
}

/// A client's request, by number.
pub type Ticket = u64;

/// What a client was told by a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientAnswer {
    /// Committed, at this index.
    Ok {
        /// Where the entry stands.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// What was read.
    Values(Vec<String>),
    /// The node asked does not lead; nothing was appended.
    Redirect(Option<NodeId>),
    /// Not appended, and why.
    Refused(String),
    /// Nobody can know, and why.
    Unknown(String),
}

/// A world.
pub trait Backend {
    /// How long the run has lasted.
    fn elapsed(&self) -> Duration;
    /// All nodes as they are now.
    fn views(&mut self) -> Done<Vec<NodeView>>;
    /// What happened since the last call, in the order in which it was seen.
    fn take_events(&mut self) -> Done<Vec<LabEvent>>;
    /// Lets time pass, at most so long, until something may have changed.
    fn wait_a_little(&mut self, at_most: Duration) -> Done;
    /// How long it may take until an expectation comes true; zero where everything is exact.
    fn patience(&self) -> Duration;
    /// The interval of heartbeats.
    fn heartbeat(&self) -> Duration;
    /// By how much `run` is stretched or shortened.
    fn scale(&self, duration: Duration) -> Duration;

    /// The process dies.
    fn crash(&mut self, node: NodeId) -> Done;
    /// The process starts.
    fn restart(&mut self, node: NodeId) -> Done;
    /// The process stands still.
    fn pause(&mut self, node: NodeId) -> Done;
    /// The process goes on.
    fn resume(&mut self, node: NodeId) -> Done;
    /// A part of the node's directory is lost.
    fn wipe(&mut self, node: NodeId, what: Wipe) -> Done;
    /// The last entries were cut short by the crash.
    fn tear(&mut self, node: NodeId, count: u64) -> Done;
    /// The disk is slow, full, or as usual.
    fn set_disk(&mut self, node: NodeId, disk: DiskState) -> Done;
    /// The wall clock jumps, in milliseconds.
    fn jump_clock(&mut self, node: NodeId, by_ms: i64) -> Done;
    /// Changes a node's gate.
    fn gate(&mut self, node: NodeId, change: GateChange) -> Done;
    /// The connections between two nodes close, and are made again.
    fn reset(&mut self, one: NodeId, other: NodeId) -> Done;
    /// What all gates hold, by number.
    fn held(&mut self) -> Done<Vec<HeldView>>;
    /// The election timer fires.
    fn campaign(&mut self, node: NodeId) -> Done;
    /// The election timer stands still, or runs.
    fn freeze(&mut self, node: NodeId, frozen: bool) -> Done;
    /// Heartbeats are so far apart; `None` is the usual interval.
    fn set_heartbeat(
        &mut self,
        node: NodeId,
        interval: Option<Duration>,
        until_stepdown: bool,
    ) -> Done;
    /// The leader hands over.
    fn transfer(&mut self, node: NodeId, to: Option<NodeId>) -> Done;
    /// These rules are switched off, on all nodes.
    fn set_rules(&mut self, rules: Rules) -> Done;

    /// A client sends a value to a node, which does not pass it on.
    fn submit(&mut self, node: NodeId, request_id: u128, value: &str) -> Done<Ticket>;
    /// A client reads everything at a node.
    fn read(&mut self, node: NodeId, stale: bool) -> Done<Ticket>;
    /// What a client was told; `None` as long as it waits.
    fn answer(&mut self, ticket: Ticket) -> Done<Option<ClientAnswer>>;
}
