//! The gate between a node and its links, for the lab: it may hold a message, lose it, delay it or
//! double it. Without rules everything passes.
//!
//! It stands at the sender, before the connection, on real nodes and in the simulator alike, so that
//! a script means the same in both worlds. What it holds is lost when its node crashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use tercet_raft::{AppendOutcome, Envelope, FetchOutcome, Message, NodeId};

use crate::io::PeerMessage;

/// The kinds of messages that a gate tells apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the names are those of the messages")]
pub enum MessageKind {
    Form,
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    LearnerReply,
    Rejoin,
    TimeoutNow,
    ReadIndex,
    ReadIndexReply,
    Fetch,
    FetchReply,
}

impl MessageKind {
    /// The kind of a message.
    pub const fn of(message: &PeerMessage) -> Self {
        match message {
            PeerMessage::Form { .. } => Self::Form,
            PeerMessage::Raft { envelope, .. } => match &envelope.message {
                Message::PreVote { .. } => Self::PreVote,
                Message::PreVoteReply { .. } => Self::PreVoteReply,
                Message::Vote { .. } => Self::Vote,
                Message::VoteReply { .. } => Self::VoteReply,
                Message::Append { .. } => Self::Append,
                Message::AppendReply { .. } => Self::AppendReply,
                Message::Heartbeat { .. } => Self::Heartbeat,
                Message::HeartbeatReply { .. } => Self::HeartbeatReply,
                Message::LearnerReply { .. } => Self::LearnerReply,
                Message::Rejoin => Self::Rejoin,
                Message::TimeoutNow => Self::TimeoutNow,
                Message::ReadIndex { .. } => Self::ReadIndex,
                Message::ReadIndexReply { .. } => Self::ReadIndexReply,
                Message::Fetch { .. } => Self::Fetch,
                Message::FetchReply { .. } => Self::FetchReply,
            },
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// All kinds.
    pub const ALL: [Self; 16] = [
        Self::Form,
        Self::PreVote,
        Self::PreVoteReply,
        Self::Vote,
        Self::VoteReply,
        Self::Append,
        Self::AppendReply,
        Self::Heartbeat,
        Self::HeartbeatReply,
        Self::LearnerReply,
        Self::Rejoin,
        Self::TimeoutNow,
        Self::ReadIndex,
        Self::ReadIndexReply,
        Self::Fetch,
        Self::FetchReply,
    ];

    /// The kind's name, as scripts write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Form => "Form",
            Self::PreVote => "PreVote",
            Self::PreVoteReply => "PreVoteReply",
            Self::Vote => "Vote",
            Self::VoteReply => "VoteReply",
            Self::Append => "Append",
            Self::AppendReply => "AppendReply",
            Self::Heartbeat => "Heartbeat",
            Self::HeartbeatReply => "HeartbeatReply",
            Self::LearnerReply => "LearnerReply",
            Self::Rejoin => "Rejoin",
            Self::TimeoutNow => "TimeoutNow",
            Self::ReadIndex => "ReadIndex",
            Self::ReadIndexReply => "ReadIndexReply",
            Self::Fetch => "Fetch",
            Self::FetchReply => "FetchReply",
        }
    }
}

/// A message that a gate holds.
#[derive(Clone, Debug)]
pub struct HeldMessage {
    /// Its number, for `deliver #12`: its last digit is the sender's slot.
    pub number: u64,
    /// To whom.
    pub to: NodeId,
    /// Its kind.
    pub kind: MessageKind,
    /// The message.
    pub message: PeerMessage,
}

/// A message that goes on its way.
#[derive(Clone, Debug)]
pub struct Passed {
    /// To whom.
    pub to: NodeId,
    /// How much later than at once.
    pub later: Duration,
    /// The message.
    pub message: PeerMessage,
}

/// A change of a gate's rules. As text it is one short line, such as `hold 2 Append`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GateChange {
    /// `cut 2`: nothing goes there any more.
    Cut(NodeId),
    /// `heal`: no cuts, delays, losses and doublings any more; what is held stays held.
    Heal,
    /// `delay 2 50`: everything takes so many milliseconds longer.
    Delay(NodeId, Duration),
    /// `lose 2 Vote 3`, `lose 2 * 3`: so many of the next messages are lost.
    Lose(NodeId, Option<MessageKind>, u32),
    /// `double 2 * 1`: so many of the next messages go twice.
    Double(NodeId, Option<MessageKind>, u32),
    /// `hold 2 Append`, `hold 2 *`: these wait.
    Hold(NodeId, Option<MessageKind>),
    /// `release 2`, `release`: nothing waits any more, to one node or to all.
    Release(Option<NodeId>),
    /// `deliver 11 21`: these go on their way.
    Deliver(BTreeSet<u64>),
    /// `discard 11`: these are lost.
    Discard(BTreeSet<u64>),
}

impl fmt::Display for GateChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |kind: &Option<MessageKind>| kind.map_or("*", MessageKind::name);
        let list = |numbers: &BTreeSet<u64>| {
            let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            words.join(" ")
        };
        match self {
            Self::Cut(to) => write!(f, "cut {}", to.slot()),
            Self::Heal => f.write_str("heal"),
            Self::Delay(to, by) => write!(f, "delay {} {}", to.slot(), by.as_millis()),
            Self::Lose(to, of, count) => write!(f, "lose {} {} {count}", to.slot(), kind(of)),
            Self::Double(to, of, count) => write!(f, "double {} {} {count}", to.slot(), kind(of)),
            Self::Hold(to, of) => write!(f, "hold {} {}", to.slot(), kind(of)),
            Self::Release(None) => f.write_str("release"),
            Self::Release(Some(to)) => write!(f, "release {}", to.slot()),
            Self::Deliver(numbers) => write!(f, "deliver {}", list(numbers)),
            Self::Discard(numbers) => write!(f, "discard {}", list(numbers)),
        }
    }
}

impl std::str::FromStr for GateChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is no change of a gate");
        let words: Vec<&str> = text.split_whitespace().collect();
        let (verb, rest) = words.split_first().ok_or_else(bad)?;
        let node = |at: usize| {
            let slot = rest.get(at).and_then(|word| word.parse().ok());
            slot.and_then(NodeId::new).ok_or_else(bad)
        };
        let kind = |at: usize| match rest.get(at) {
            None => Err(bad()),
            Some(&"*") => Ok(None),
            Some(word) => MessageKind::from_name(word).map(Some).ok_or_else(bad),
        };
        let count = |at: usize| rest.get(at).and_then(|word| word.parse().ok()).ok_or_else(bad);
        let number = |word: &&str| word.parse::<u64>().map_err(|_| bad());
        let numbers = || rest.iter().map(number).collect::<Result<BTreeSet<u64>, String>>();
        let change = match (*verb, rest.len()) {
            ("cut", 1) => Self::Cut(node(0)?),
            ("heal", 0) => Self::Heal,
            ("delay", 2) => Self::Delay(node(0)?, Duration::from_millis(u64::from(count(1)?))),
            ("lose", 3) => Self::Lose(node(0)?, kind(1)?, count(2)?),
            ("double", 3) => Self::Double(node(0)?, kind(1)?, count(2)?),
            ("hold", 2) => Self::Hold(node(0)?, kind(1)?),
            ("release", 0) => Self::Release(None),
            ("release", 1) => Self::Release(Some(node(0)?)),
            ("deliver", _) => Self::Deliver(numbers()?),
            ("discard", _) => Self::Discard(numbers()?),
            _ => return Err(bad()),
        };
        Ok(change)
    }
}

/// The rules of one node's gate, and what it holds.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Nothing goes there.
    pub cut: BTreeSet<NodeId>,
    /// Everything takes so much longer.
    pub delay: BTreeMap<NodeId, Duration>,
    /// These kinds wait; `None` is every kind.
    pub hold: BTreeMap<NodeId, BTreeSet<Option<MessageKind>>>,
    /// So many of the next messages of a kind are lost.
    pub lose: Vec<(NodeId, Option<MessageKind>, u32)>,
    /// So many of the next messages of a kind go twice.
    pub double: Vec<(NodeId, Option<MessageKind>, u32)>,
    held: VecDeque<HeldMessage>,
    held_count: u64,
}

impl Gate {
    /// Changes the rules; what goes on its way by that is added to `out`.
    pub fn apply(&mut self, change: GateChange, out: &mut Vec<Passed>) {
        match change {
            GateChange::Cut(to) => {
                self.cut.insert(to);
            }
            GateChange::Heal => self.heal(),
            GateChange::Delay(to, by) => {
                self.delay.insert(to, by);
            }
            GateChange::Lose(to, kind, count) => self.lose.push((to, kind, count)),
            GateChange::Double(to, kind, count) => self.double.push((to, kind, count)),
            GateChange::Hold(to, kind) => {
                self.hold.entry(to).or_default().insert(kind);
            }
            GateChange::Release(to) => self.release(to, out),
            GateChange::Deliver(numbers) => self.deliver(&numbers, out),
            GateChange::Discard(numbers) => self.discard(&numbers),
        }
    }

    /// A message comes from the node; what passes is added to `out`.
    pub fn send(&mut self, to: NodeId, message: PeerMessage, out: &mut Vec<Passed>) {
        let kind = MessageKind::of(&message);
        if self.cut.contains(&to) || take_one(&mut self.lose, to, kind) {
            return;
        }
        let holds = |kinds: &BTreeSet<Option<MessageKind>>| {
            kinds.contains(&None) || kinds.contains(&Some(kind))
        };
        if self.hold.get(&to).is_some_and(holds) {
            self.held_count += 1;
            let slot = match &message {
                PeerMessage::Raft { envelope, .. } => u64::from(envelope.from.slot()),
                PeerMessage::Form { .. } => 0,
            };
            let number = self.held_count * 10 + slot;
            self.held.push_back(HeldMessage { number, to, kind, message });
            return;
        }
        if take_one(&mut self.double, to, kind) {
            self.pass(to, message.clone(), out);
        }
        self.pass(to, message, out);
    }

    fn pass(&self, to: NodeId, message: PeerMessage, out: &mut Vec<Passed>) {
        let later = self.delay.get(&to).copied().unwrap_or_default();
        out.push(Passed { to, later, message });
    }

    /// What is held, in the order in which it came.
    pub fn held(&self) -> impl Iterator<Item = &HeldMessage> {
        self.held.iter()
    }

    /// Lets these go on their way, in the order in which they came; a cut still holds for them.
    pub fn deliver(&mut self, numbers: &BTreeSet<u64>, out: &mut Vec<Passed>) {
        let (goes, stays) = std::mem::take(&mut self.held)
            .into_iter()
            .partition::<VecDeque<_>, _>(|held| numbers.contains(&held.number));
        self.held = stays;
        for held in goes {
            if !self.cut.contains(&held.to) {
                self.pass(held.to, held.message, out);
            }
        }
    }

    /// Loses these.
    pub fn discard(&mut self, numbers: &BTreeSet<u64>) {
        self.held.retain(|held| !numbers.contains(&held.number));
    }

    /// Holds nothing any more, to one node or to all; what was held goes on its way.
    pub fn release(&mut self, to: Option<NodeId>, out: &mut Vec<Passed>) {
        let is_meant = |node: NodeId| to.is_none_or(|to| to == node);
        self.hold.retain(|node, _| !is_meant(*node));
        let numbers = self.held.iter().filter(|held| is_meant(held.to)).map(|held| held.number);
        let numbers = numbers.collect();
        self.deliver(&numbers, out);
    }

    /// Takes cuts, delays, losses and doublings back; what is held stays held.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.delay.clear();
        self.lose.clear();
        self.double.clear();
    }
}

/// Uses one of the counted rules up, if one fits.
fn take_one(
    rules: &mut Vec<(NodeId, Option<MessageKind>, u32)>,
    to: NodeId,
    kind: MessageKind,
) -> bool {
    let fits = |(node, wanted, _): &(NodeId, Option<MessageKind>, u32)| {
        *node == to && wanted.is_none_or(|wanted| wanted == kind)
    };
    let Some(at) = rules.iter().position(fits) else { return false };
    rules[at].2 -= 1;
    if rules[at].2 == 0 {
        rules.remove(at);
    }
    true
}

/// A message in words, short: `Append n1→n2 @2 prev 2@1 [1] commit 2`.
pub fn describe(message: &PeerMessage) -> String {
    let PeerMessage::Raft { envelope, .. } = message else {
        return "forming the cluster".to_owned();
    };
    let Envelope { from, to, term, message, .. } = envelope;
    let what = match message {
        Message::PreVote { last } => format!("PreVote last {last}"),
        Message::PreVoteReply { denied: None } => "PreVoteReply yes".to_owned(),
        Message::PreVoteReply { denied: Some(why) } => format!("PreVoteReply no: {why}"),
        Message::Vote { last, .. } => format!("Vote last {last}"),
        Message::VoteReply { denied: None } => "VoteReply yes".to_owned(),
        Message::VoteReply { denied: Some(why) } => format!("VoteReply no: {why}"),
        Message::Append { prev, entries, commit, .. } => {
            format!("Append prev {prev}, {} entries, commit {commit}", entries.len())
        }
        Message::AppendReply { outcome, .. } => match outcome {
            AppendOutcome::Accepted { last } => format!("AppendReply up to {last}"),
            AppendOutcome::Rejected { prev, hint } => {
                format!("AppendReply refused {prev}: {hint}")
            }
        },
        Message::Heartbeat { commit, .. } => format!("Heartbeat commit {commit}"),
        Message::HeartbeatReply { .. } => "HeartbeatReply".to_owned(),
        Message::LearnerReply { .. } => "LearnerReply".to_owned(),
        Message::Rejoin => "Rejoin".to_owned(),
        Message::TimeoutNow => "TimeoutNow".to_owned(),
        Message::ReadIndex { .. } => "ReadIndex".to_owned(),
        Message::ReadIndexReply { .. } => "ReadIndexReply".to_owned(),
        Message::Fetch { pos } => format!("Fetch {pos}"),
        Message::FetchReply { pos, outcome } => match outcome {
            FetchOutcome::Whole(_) => format!("FetchReply {pos} whole"),
            FetchOutcome::Damaged => format!("FetchReply {pos} damaged here too"),
            FetchOutcome::Absent => format!("FetchReply {pos} not here"),
        },
    };
    format!("{from}→{to} @{term} {what}")
}

#[cfg(test)]
mod tests {
    use tercet_raft::{Incarnation, Term};

    use super::*;

    fn node(slot: u8) -> NodeId {
        NodeId::new(slot).unwrap()
    }

    fn rejoin(term: u64) -> PeerMessage {
        let envelope = Envelope {
            from: node(1),
            from_incarnation: Incarnation(1),
            to: node(2),
            to_incarnation: None,
            term: Term(term),
            message: Message::Rejoin,
        };
        PeerMessage::Raft { cluster_id: 7, envelope, entries: Vec::new() }
    }

    fn terms(passed: &[Passed]) -> Vec<u64> {
        let term = |passed: &Passed| match &passed.message {
            PeerMessage::Raft { envelope, .. } => envelope.term.0,
            PeerMessage::Form { .. } => 0,
        };
        passed.iter().map(term).collect()
    }

    #[test]
    fn counted_rules_are_used_up() {
        let mut gate = Gate::default();
        gate.lose.push((node(2), Some(MessageKind::Rejoin), 1));
        gate.lose.push((node(2), Some(MessageKind::Vote), 1));
        gate.double.push((node(2), None, 1));
        let mut out = Vec::new();
        for term in 1..=3 {
            gate.send(node(2), rejoin(term), &mut out);
        }
        assert_eq!(terms(&out), [2, 2, 3], "the first is lost, the second comes twice");
        gate.heal();
        assert!(gate.lose.is_empty());
    }

    #[test]
    fn changes_are_lines_of_text() {
        let (to, kind) = (node(2), Some(MessageKind::Append));
        for change in [
            GateChange::Cut(to),
            GateChange::Heal,
            GateChange::Delay(to, Duration::from_millis(50)),
            GateChange::Lose(to, kind, 3),
            GateChange::Double(to, None, 1),
            GateChange::Hold(to, kind),
            GateChange::Hold(to, None),
            GateChange::Release(None),
            GateChange::Release(Some(to)),
            GateChange::Deliver(BTreeSet::from([11, 21])),
            GateChange::Discard(BTreeSet::new()),
        ] {
            assert_eq!(change.to_string().parse(), Ok(change));
        }
        for text in
            ["", "cut", "cut 0", "cut 2 3", "hold 2", "hold 2 Nothing", "delay 2 x", "fly 2"]
        {
            assert!(text.parse::<GateChange>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_held_keeps_its_order() {
        let mut gate = Gate::default();
        gate.hold.entry(node(2)).or_default().insert(Some(MessageKind::Rejoin));
        let mut out = Vec::new();
        for term in 1..=4 {
            gate.send(node(2), rejoin(term), &mut out);
        }
        let numbers: Vec<u64> = gate.held().map(|held| held.number).collect();
        assert_eq!(numbers, [11, 21, 31, 41]);
        assert!(out.is_empty());
        gate.deliver(&BTreeSet::from([31]), &mut out);
        gate.discard(&BTreeSet::from([11]));
        gate.heal();
        gate.send(node(2), rejoin(5), &mut out);
        assert_eq!(terms(&out), [3], "healing releases nothing");
        gate.release(Some(node(3)), &mut out);
        gate.release(Some(node(2)), &mut out);
        gate.send(node(2), rejoin(6), &mut out);
        assert_eq!(terms(&out), [3, 2, 4, 5, 6]);
    }

    #[test]
    fn a_cut_loses_what_is_delivered_by_hand() {
        let mut gate = Gate::default();
        gate.hold.entry(node(2)).or_default().insert(None);
        let mut out = Vec::new();
        gate.send(node(2), rejoin(1), &mut out);
        gate.cut.insert(node(2));
        gate.release(None, &mut out);
        gate.send(node(2), rejoin(2), &mut out);
        assert!(out.is_empty());
    }
}
