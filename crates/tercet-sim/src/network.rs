//! What happens to messages between nodes: how long they take, whether they arrive, once or twice.

use std::time::Duration;

use tercet_raft::{AppendOutcome, Incarnation, Index, Message, NodeId, Term, Time};
use tercet_replica::PeerMessage;
use tercet_replica::gate::MessageKind;

use crate::random::Random;

/// How messages from one node to another fare. Without any of it they arrive, in order.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Link {
    /// None of them arrives.
    pub cut: bool,
    /// How many in a hundred are lost.
    pub loss_percent: u64,
    /// How many in a hundred arrive with a damaged byte.
    pub damage_percent: u64,
    /// How many in a hundred come twice, the second time up to a second later.
    pub duplicate_percent: u64,
    /// How much longer they take in the mean.
    pub delay: Duration,
    /// How much longer one in fifty takes, at most.
    pub tail: Duration,
    /// Whether they overtake each other.
    pub reorder: bool,
    /// Until then they wait, and all arrive at once.
    pub clogged_until: Time,
}

/// Something that a node said to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// Who.
    pub from: NodeId,
    /// With which memory.
    pub incarnation: Incarnation,
    /// To whom.
    pub to: NodeId,
    /// The term of the message.
    pub term: Term,
    /// Of which kind it is.
    pub kind: MessageKind,
    /// Whether it grants what was asked.
    pub granted: bool,
    /// Up to which index it says that the log of the receiver is held.
    pub holds: Option<Index>,
}

impl Said {
    fn of(message: &PeerMessage) -> Option<Self> {
        let PeerMessage::Raft { envelope, .. } = message else { return None };
        let granted = matches!(
            &envelope.message,
            Message::VoteReply { denied: None } | Message::PreVoteReply { denied: None }
        );
        let holds =
            if let Message::AppendReply { outcome: AppendOutcome::Accepted { last }, .. } =
                &envelope.message
            {
                Some(*last)
            } else {
                None
            };
        Some(Self {
            from: envelope.from,
            incarnation: envelope.from_incarnation,
            to: envelope.to,
            term: envelope.term,
            kind: MessageKind::of(message),
            granted,
            holds,
        })
    }
}

/// What became of some messages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mishaps {
    /// They arrived with a damaged byte, and were refused.
    pub damaged: u64,
    /// So many of these in the bytes of an entry.
    pub damaged_entries: u64,
    /// They were on a connection when it broke.
    pub cut_off: u64,
    /// They came once more, at least a minute after they had been sent.
    pub replayed_late: u64,
}

/// What becomes of a message.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Fate {
    /// When it arrives.
    pub(crate) at: Option<Time>,
    /// When it arrives once more.
    pub(crate) again: Option<Time>,
    /// With a damaged byte.
    pub(crate) is_damaged: bool,
}

/// One in so many messages is kept.
const KEPT: u64 = 16;
/// So many are kept at most.
const KEPT_MAX: usize = 256;

#[derive(Clone, Debug)]
struct Kept {
    at: Time,
    from: NodeId,
    from_life: u64,
    to: NodeId,
    to_life: u64,
    message: PeerMessage,
}

/// What goes from each node to each other.
#[derive(Clone, Debug)]
struct Way {
    link: Link,
    /// Counts the connections.
    connection: u32,
    /// When the last message of each of the two connections arrives: they keep the order. One is for
    /// entries, one for all that must not wait behind them.
    last_arrival: [Time; 2],
}

#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    ways: Vec<Way>,
    random: Random,
    kept: Option<Vec<Kept>>,
    said: Option<Vec<Said>>,
}

impl Network {
    pub(crate) fn new(nodes: u8, seed: u64) -> Self {
        let nodes = usize::from(nodes);
        let way = Way { link: Link::default(), connection: 0, last_arrival: [Time(0); 2] };
        Self {
            nodes,
            ways: vec![way; nodes * nodes],
            random: Random::new(seed ^ 0x6e65_7477),
            kept: None,
            said: None,
        }
    }

    fn way(&mut self, from: NodeId, to: NodeId) -> &mut Way {
        let place = self.place(from, to);
        &mut self.ways[place]
    }

    fn place(&self, from: NodeId, to: NodeId) -> usize {
        (usize::from(from.slot()) - 1) * self.nodes + usize::from(to.slot()) - 1
    }

    pub(crate) fn set_link(&mut self, from: NodeId, to: NodeId, link: Link) {
        self.way(from, to).link = link;
    }

    pub(crate) fn connection(&self, from: NodeId, to: NodeId) -> u32 {
        self.ways[self.place(from, to)].connection
    }

    /// When the last message on the slower of the two connections arrives.
    pub(crate) fn last_arrival(&self, from: NodeId, to: NodeId) -> Time {
        let [one, other] = self.ways[self.place(from, to)].last_arrival;
        one.max(other)
    }

    pub(crate) fn reset(&mut self, one: NodeId, other: NodeId) {
        for (from, to) in [(one, other), (other, one)] {
            let way = self.way(from, to);
            way.connection += 1;
            way.last_arrival = [Time(0); 2];
        }
    }

    /// What becomes of a message that could arrive at `earliest`.
    pub(crate) fn fate(
        &mut self,
        from: NodeId,
        to: NodeId,
        message: &PeerMessage,
        earliest: Time,
    ) -> Fate {
        let is_bulk = matches!(message, PeerMessage::Raft { entries, .. } if !entries.is_empty());
        let place = self.place(from, to);
        let Way { link, last_arrival, .. } = &mut self.ways[place];
        let random = &mut self.random;
        let mut at = earliest.max(link.clogged_until);
        let (mut again, mut is_damaged) = (None, false);
        // A link without faults costs no numbers.
        if *link != Link::default() {
            if link.cut || random.chance(link.loss_percent) {
                return Fate::default();
            }
            let mut up_to = |most: Duration| {
                let most = u64::try_from(most.as_micros()).unwrap_or(0);
                Duration::from_micros(random.below(most + 1))
            };
            at = at.after(up_to(link.delay * 2));
            let late = up_to(Duration::from_secs(1));
            let tail = up_to(link.tail);
            if random.chance(2) {
                at = at.after(tail);
            }
            is_damaged = random.chance(link.damage_percent);
            if random.chance(link.duplicate_percent) && !is_damaged {
                again = Some(at.after(late));
            }
            if link.reorder {
                return Fate { at: Some(at), again, is_damaged };
            }
        }
        let last = &mut last_arrival[usize::from(is_bulk)];
        *last = at.max(*last);
        Fate { at: Some(*last), again, is_damaged }
    }

    pub(crate) fn record_messages(&mut self) {
        self.kept.get_or_insert_default();
    }

    pub(crate) fn record(
        &mut self,
        at: Time,
        from: NodeId,
        from_life: u64,
        to: NodeId,
        to_life: u64,
        message: &PeerMessage,
    ) {
        let Some(kept) = &mut self.kept else { return };
        // Those that form a cluster are between processes that know no memory yet.
        if self.random.below(KEPT) > 0 || matches!(message, PeerMessage::Form { .. }) {
            return;
        }
        let message = message.clone();
        let new = Kept { at, from, from_life, to, to_life, message };
        if kept.len() < KEPT_MAX {
            kept.push(new);
        } else {
            let place = self.random.below(KEPT_MAX as u64);
            kept[usize::try_from(place).expect("small")] = new;
        }
    }

    /// A message that was kept, with the time when it was sent, if it can come: `state` says a node's
    /// life and memory.
    pub(crate) fn recall(
        &mut self,
        state: impl Fn(NodeId) -> (u64, Option<Incarnation>),
    ) -> Option<(Time, NodeId, NodeId, PeerMessage)> {
        let kept = self.kept.as_ref()?;
        let place = self.random.below(kept.len() as u64);
        let Kept { at, from, from_life, to, to_life, message } =
            kept.get(usize::try_from(place).expect("small"))?;
        let PeerMessage::Raft { envelope, .. } = message else { return None };
        let ((from_now, sender), (to_now, receiver)) = (state(*from), state(*to));
        let same_processes = from_now == *from_life && to_now == *to_life;
        let is_gone =
            |then: Incarnation, now: Option<Incarnation>| now.is_some_and(|now| now != then);
        let of_the_past = is_gone(envelope.from_incarnation, sender)
            || envelope.to_incarnation.is_some_and(|then| is_gone(then, receiver));
        (same_processes || of_the_past).then(|| (*at, *from, *to, message.clone()))
    }

    pub(crate) fn listen(&mut self) {
        self.said.get_or_insert_default();
    }

    pub(crate) fn overhear(&mut self, message: &PeerMessage) {
        if let Some(said) = &mut self.said {
            said.extend(Said::of(message));
        }
    }

    pub(crate) fn has_said(&self) -> bool {
        self.said.as_ref().is_some_and(|said| !said.is_empty())
    }

    pub(crate) fn take_said(&mut self, into: &mut Vec<Said>) {
        if let Some(said) = &mut self.said {
            into.append(said);
        }
    }
}
