//! The lab's hands on a node: the gate between the replica and the links, the clocks that stand
//! still, the disk that is slow. Present only with `--lab`; without it there is nothing of this in a
//! node, and no way to ask for it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tercet_client::{ApiError, Reason, v1};
use tercet_raft::{NodeId, Profile, Rules};
use tercet_replica::gate::{Gate, GateChange, Passed, describe};
use tercet_replica::{LoggedContent, LoggedEntry, PeerMessage};

/// How many of the last events are kept for who looks.
const EVENTS_MAX: usize = 100_000;
/// How many of the last entries are shown.
pub(crate) const LOG_MAX: u64 = 10_000;

/// How a node is set up for the lab.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// Which Raft.
    pub profile: Profile,
    /// The rules that are switched off.
    pub rules: Rules,
    /// Whether election timers stand still from the start.
    pub timers_frozen: bool,
    /// What the gate's rules are from the start.
    pub gate: Vec<GateChange>,
    /// What a caller must know; needed beyond loopback.
    pub token: Option<String>,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            profile: Profile::Modern,
            rules: Rules::default(),
            timers_frozen: false,
            gate: Vec::new(),
            token: None,
        }
    }
}

/// The rules with these names switched off: `commit-old-terms,no-pre-vote`.
///
/// # Errors
/// The name that is none.
pub fn broken_rules(names: &str) -> Result<Rules, String> {
    let mut rules = Rules::default();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let rule = match name {
            "commit-old-terms" => &mut rules.commit_old_terms,
            "truncate-always" => &mut rules.truncate_always,
            "ignore-log-in-votes" => &mut rules.ignore_log_in_votes,
            "speak-before-durable" => &mut rules.speak_before_durable,
            "trust-wiped" => &mut rules.trust_wiped,
            "no-pre-vote" => &mut rules.no_pre_vote,
            "no-check-quorum" => &mut rules.no_check_quorum,
            other => return Err(format!("there is no rule \"{other}\" that can be switched off")),
        };
        *rule = true;
    }
    Ok(rules)
}

/// What the lab has of a node's owner.
#[derive(Debug)]
pub(crate) struct Lab {
    gate: Gate,
    /// Messages that pass later.
    later: BTreeMap<(Instant, u64), (NodeId, PeerMessage)>,
    later_count: u64,
    pub(crate) sync_delay: Duration,
    pub(crate) clock_ms: i64,
    events: VecDeque<v1::LabEvent>,
    events_next: u64,
}

impl Lab {
    pub(crate) fn new(config: &LabConfig) -> Self {
        let mut gate = Gate::default();
        for change in &config.gate {
            gate.apply(change.clone(), &mut Vec::new());
        }
        Self {
            gate,
            later: BTreeMap::new(),
            later_count: 0,
            sync_delay: Duration::ZERO,
            clock_ms: 0,
            events: VecDeque::new(),
            events_next: 0,
        }
    }

    /// A message of the replica comes to the gate; what may go now is returned.
    pub(crate) fn send(&mut self, to: NodeId, message: PeerMessage) -> Vec<(NodeId, PeerMessage)> {
        let mut passed = Vec::new();
        self.gate.send(to, message, &mut passed);
        self.sort(passed)
    }

    pub(crate) fn change_gate(&mut self, change: GateChange) -> Vec<(NodeId, PeerMessage)> {
        let mut passed = Vec::new();
        self.gate.apply(change, &mut passed);
        self.sort(passed)
    }

    pub(crate) fn is_cut(&self, to: NodeId) -> bool {
        self.gate.cut.contains(&to)
    }

    fn sort(&mut self, passed: Vec<Passed>) -> Vec<(NodeId, PeerMessage)> {
        let mut now = Vec::new();
        for Passed { to, later, message } in passed {
            if later.is_zero() {
                now.push((to, message));
            } else {
                self.later_count += 1;
                self.later.insert((Instant::now() + later, self.later_count), (to, message));
            }
        }
        now
    }

    /// When the next message that waited may go.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.later.keys().next().map(|(at, _)| *at)
    }

    /// What waited long enough.
    pub(crate) fn take_due(&mut self) -> Vec<(NodeId, PeerMessage)> {
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            due.push(entry.remove());
        }
        due
    }

    pub(crate) fn note(
        &mut self,
        at_us: u64,
        term: u64,
        kind: &str,
        fields: Vec<(&'static str, String)>,
        text: String,
        classic: Option<String>,
    ) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        let field = |(name, value): (&str, String)| v1::LabField { name: name.to_owned(), value };
        self.events.push_back(v1::LabEvent {
            number: self.events_next,
            at_us,
            term,
            kind: kind.to_owned(),
            fields: fields.into_iter().map(field).collect(),
            text,
            classic,
        });
        self.events_next += 1;
    }

    /// What the lab adds to a look at a node.
    pub(crate) fn look(&self, events_from: u64, response: &mut v1::LookResponse) {
        response.events =
            self.events.iter().filter(|event| event.number >= events_from).cloned().collect();
        response.events_next = self.events_next;
        response.held = self
            .gate
            .held()
            .map(|held| v1::HeldMessage {
                number: held.number,
                to: u32::from(held.to.slot()),
                kind: held.kind.name().to_owned(),
                text: describe(&held.message),
            })
            .collect();
    }
}

pub(crate) fn logged(entry: LoggedEntry) -> v1::LoggedEntry {
    let LoggedEntry { index, term, content } = entry;
    let mut logged = v1::LoggedEntry { index, term, ..v1::LoggedEntry::default() };
    match content {
        LoggedContent::Noop => "noop".clone_into(&mut logged.kind),
        LoggedContent::Damaged => "damaged".clone_into(&mut logged.kind),
        LoggedContent::Readmit(node) => {
            "readmit".clone_into(&mut logged.kind);
            logged.node = u32::from(node.slot());
        }
        LoggedContent::Records { request_id, values } => {
            "records".clone_into(&mut logged.kind);
            logged.request_id = request_id.to_be_bytes().to_vec().into();
            logged.values = values;
        }
    }
    logged
}

/// What a request of the lab asks for.
#[derive(Debug)]
pub(crate) enum Action {
    Replica(tercet_replica::LabInput),
    Gate(GateChange),
    SyncDelay(Duration),
    DiskFull(bool),
    JumpClock(i64),
    /// The links that were dialled to this peer break.
    ResetLinks(NodeId),
    /// The files of the node's own log are deleted while it runs.
    DeleteLog,
}

impl Action {
    pub(crate) fn of(request: v1::InterfereRequest) -> Result<Self, ApiError> {
        use tercet_replica::LabInput;
        use v1::interfere_request::Action as Asked;
        let invalid = |why: String| ApiError::new(Reason::Invalid, why);
        Ok(match request.action {
            None => return Err(invalid("it says not what to do".to_owned())),
            Some(Asked::Campaign(_)) => Self::Replica(LabInput::Campaign),
            Some(Asked::FreezeElectionTimer(frozen)) => {
                Self::Replica(LabInput::FreezeElectionTimer { frozen })
            }
            Some(Asked::Heartbeat(v1::HeartbeatInterval { ms, until_stepdown })) => {
                let interval = (ms > 0).then(|| Duration::from_millis(ms));
                Self::Replica(LabInput::SetHeartbeatInterval { interval, until_stepdown })
            }
            Some(Asked::BrokenRules(names)) => {
                let rules = broken_rules(&names).map_err(invalid)?;
                Self::Replica(LabInput::SetRules { rules })
            }
            Some(Asked::Gate(text)) => Self::Gate(text.parse().map_err(invalid)?),
            Some(Asked::SyncDelayMs(ms)) => Self::SyncDelay(Duration::from_millis(ms.min(10_000))),
            Some(Asked::DiskFull(full)) => Self::DiskFull(full),
            Some(Asked::JumpClockMs(by)) => Self::JumpClock(by),
            Some(Asked::ResetLinks(slot)) => {
                let peer = u8::try_from(slot).ok().and_then(NodeId::new);
                Self::ResetLinks(peer.ok_or_else(|| invalid("there is no such node".to_owned()))?)
            }
        })
    }
}
