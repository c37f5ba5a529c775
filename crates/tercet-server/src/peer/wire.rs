//! What replicas say to each other, as bytes: one prost message per kind, with the entries behind
//! it as they stand on disk. Unknown fields are skipped, so that a newer program may say more.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use tercet_raft::{
    AppendOutcome, ConflictHint, DenyReason, EntryMeta, Envelope, FetchOutcome, Incarnation, Index,
    LogPos, Message, NodeId, Term,
};
use tercet_replica::{FormMessage, Generation, PeerMessage, Recovery, Standing, Unstarted};
use tercet_wal::Entry;

use super::frame::{self, Frame, Kind};

/// A message that arrived is not one that this program can read.
#[derive(Debug, thiserror::Error)]
#[error("a message cannot be read: {0}")]
pub(crate) struct WireError(String);

fn bad(what: impl Into<String>) -> WireError {
    WireError(what.into())
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePos {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(uint32, tag = "1")]
    node: u32,
    #[prost(bytes = "bytes", tag = "2")]
    incarnation: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireOutcome {
    /// 1 accepted, 2 rejected: too short, 3 rejected: another term.
    #[prost(uint32, tag = "1")]
    kind: u32,
    /// Accepted: the last index covered. Too short: the follower's last index. Another term: the
    /// first index of it.
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(message, optional, tag = "3")]
    prev: Option<WirePos>,
    #[prost(uint64, tag = "4")]
    term: u64,
}

/// One struct for all Raft messages; `kind` says which fields count.
#[derive(Clone, PartialEq, prost::Message)]
struct WireRaft {
    #[prost(uint32, tag = "1")]
    from: u32,
    #[prost(bytes = "bytes", tag = "2")]
    from_incarnation: Bytes,
    #[prost(uint32, tag = "3")]
    to: u32,
    #[prost(bytes = "bytes", tag = "4")]
    to_incarnation: Bytes,
    #[prost(uint64, tag = "5")]
    term: u64,
    #[prost(uint32, tag = "6")]
    kind: u32,
    #[prost(message, optional, tag = "7")]
    position: Option<WirePos>,
    #[prost(uint64, tag = "8")]
    commit: u64,
    #[prost(uint64, tag = "9")]
    round: u64,
    #[prost(bool, tag = "10")]
    transfer: bool,
    /// 0 granted, 1 old term, 2 old log, 3 already voted, 4 leader alive.
    #[prost(uint32, tag = "11")]
    denied: u32,
    #[prost(uint32, tag = "12")]
    other: u32,
    #[prost(message, optional, tag = "13")]
    outcome: Option<WireOutcome>,
    #[prost(uint64, tag = "14")]
    id: u64,
    #[prost(uint64, optional, tag = "15")]
    index: Option<u64>,
    #[prost(bytes = "bytes", tag = "16")]
    cluster_id: Bytes,
    /// 1 whole, 2 damaged, 3 absent.
    #[prost(uint32, tag = "17")]
    fetched: u32,
}

/// Which generation of a cluster.
#[derive(Clone, PartialEq, prost::Message)]
struct WireGeneration {
    #[prost(uint64, tag = "1")]
    number: u64,
    /// Empty if not known.
    #[prost(bytes = "bytes", tag = "2")]
    origin: Bytes,
    /// 0 if it was not recovered.
    #[prost(uint32, tag = "3")]
    survivor: u32,
    #[prost(message, optional, tag = "4")]
    floor: Option<WirePos>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireForm {
    #[prost(bytes = "bytes", tag = "1")]
    incarnation: Bytes,
    /// 1 ask, 2 answer fresh, 3 answer known, 4 genesis, 5 genesis ack, 6 start, 7 answer survivor,
    /// 8 replaced.
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "3")]
    cluster_id: Bytes,
    #[prost(message, repeated, tag = "4")]
    members: Vec<WireMember>,
    #[prost(message, optional, tag = "5")]
    generation: Option<WireGeneration>,
    #[prost(bytes = "bytes", tag = "6")]
    replaced: Bytes,
}

pub(crate) fn id_bytes(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

pub(crate) fn id_of(bytes: &[u8]) -> Result<u128, WireError> {
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| bad("an id has 16 bytes"))
}

fn node_of(slot: u32) -> Result<NodeId, WireError> {
    u8::try_from(slot).ok().and_then(NodeId::new).ok_or_else(|| bad(format!("node {slot}")))
}

fn pos(position: LogPos) -> Option<WirePos> {
    Some(WirePos { term: position.term.0, index: position.index.0 })
}

fn pos_of(position: Option<&WirePos>) -> Result<LogPos, WireError> {
    position.map(|p| LogPos::new(p.term, p.index)).ok_or_else(|| bad("a position is missing"))
}

fn deny(reason: Option<DenyReason>, wire: &mut WireRaft) {
    match reason {
        None => {}
        Some(DenyReason::OldTerm) => wire.denied = 1,
        Some(DenyReason::OldLog { voter_last }) => {
            wire.denied = 2;
            wire.position = pos(voter_last);
        }
        Some(DenyReason::AlreadyVoted { to }) => {
            wire.denied = 3;
            wire.other = u32::from(to.slot());
        }
        Some(DenyReason::LeaderAlive { leader }) => {
            wire.denied = 4;
            wire.other = u32::from(leader.slot());
        }
        Some(DenyReason::Rival) => wire.denied = 5,
    }
}

fn denied_of(wire: &WireRaft) -> Result<Option<DenyReason>, WireError> {
    Ok(match wire.denied {
        0 => None,
        1 => Some(DenyReason::OldTerm),
        2 => Some(DenyReason::OldLog { voter_last: pos_of(wire.position.as_ref())? }),
        3 => Some(DenyReason::AlreadyVoted { to: node_of(wire.other)? }),
        4 => Some(DenyReason::LeaderAlive { leader: node_of(wire.other)? }),
        5 => Some(DenyReason::Rival),
        other => return Err(bad(format!("reason {other}"))),
    })
}

fn outcome(outcome: AppendOutcome) -> WireOutcome {
    match outcome {
        AppendOutcome::Accepted { last } => {
            WireOutcome { kind: 1, index: last.0, prev: None, term: 0 }
        }
        AppendOutcome::Rejected { prev, hint: ConflictHint::TooShort { last } } => {
            WireOutcome { kind: 2, index: last.0, prev: pos(prev), term: 0 }
        }
        AppendOutcome::Rejected { prev, hint: ConflictHint::Term { term, first } } => {
            WireOutcome { kind: 3, index: first.0, prev: pos(prev), term: term.0 }
        }
    }
}

fn outcome_of(wire: &WireOutcome) -> Result<AppendOutcome, WireError> {
    let index = Index(wire.index);
    Ok(match wire.kind {
        1 => AppendOutcome::Accepted { last: index },
        2 => AppendOutcome::Rejected {
            prev: pos_of(wire.prev.as_ref())?,
            hint: ConflictHint::TooShort { last: index },
        },
        3 => AppendOutcome::Rejected {
            prev: pos_of(wire.prev.as_ref())?,
            hint: ConflictHint::Term { term: Term(wire.term), first: index },
        },
        other => return Err(bad(format!("outcome {other}"))),
    })
}

fn raft_to_wire(envelope: &Envelope) -> WireRaft {
    let mut wire = WireRaft {
        from: u32::from(envelope.from.slot()),
        from_incarnation: id_bytes(envelope.from_incarnation.0),
        to: u32::from(envelope.to.slot()),
        to_incarnation: envelope.to_incarnation.map_or(Bytes::new(), |id| id_bytes(id.0)),
        term: envelope.term.0,
        ..WireRaft::default()
    };
    wire.kind = match &envelope.message {
        Message::PreVote { last } => {
            wire.position = pos(*last);
            1
        }
        Message::PreVoteReply { denied } => {
            deny(*denied, &mut wire);
            2
        }
        Message::Vote { last, transfer } => {
            wire.position = pos(*last);
            wire.transfer = *transfer;
            3
        }
        Message::VoteReply { denied } => {
            deny(*denied, &mut wire);
            4
        }
        // The metas are read from the entries again.
        Message::Append { prev, entries: _, commit, round } => {
            wire.position = pos(*prev);
            wire.commit = commit.0;
            wire.round = *round;
            5
        }
        Message::AppendReply { round, outcome: what } => {
            wire.round = *round;
            wire.outcome = Some(outcome(*what));
            6
        }
        Message::Heartbeat { commit, round } => {
            wire.commit = commit.0;
            wire.round = *round;
            7
        }
        Message::HeartbeatReply { round } => {
            wire.round = *round;
            8
        }
        Message::LearnerReply { outcome: what } => {
            wire.outcome = what.map(outcome);
            9
        }
        Message::Rejoin => 10,
        Message::TimeoutNow => 11,
        Message::ReadIndex { id } => {
            wire.id = *id;
            12
        }
        Message::ReadIndexReply { id, index } => {
            wire.id = *id;
            wire.index = index.map(|index| index.0);
            13
        }
        Message::Fetch { pos: at } => {
            wire.position = pos(*at);
            14
        }
        Message::FetchReply { pos: at, outcome } => {
            wire.position = pos(*at);
            wire.fetched = match outcome {
                FetchOutcome::Whole(_) => 1,
                FetchOutcome::Damaged => 2,
                FetchOutcome::Absent => 3,
            };
            15
        }
    };
    wire
}

fn raft_of(wire: &WireRaft, metas: Vec<EntryMeta>) -> Result<Envelope, WireError> {
    let message = match wire.kind {
        1 => Message::PreVote { last: pos_of(wire.position.as_ref())? },
        2 => Message::PreVoteReply { denied: denied_of(wire)? },
        3 => Message::Vote { last: pos_of(wire.position.as_ref())?, transfer: wire.transfer },
        4 => Message::VoteReply { denied: denied_of(wire)? },
        5 => Message::Append {
            prev: pos_of(wire.position.as_ref())?,
            entries: metas,
            commit: Index(wire.commit),
            round: wire.round,
        },
        6 => {
            let outcome = wire.outcome.as_ref().ok_or_else(|| bad("an outcome is missing"))?;
            Message::AppendReply { round: wire.round, outcome: outcome_of(outcome)? }
        }
        7 => Message::Heartbeat { commit: Index(wire.commit), round: wire.round },
        8 => Message::HeartbeatReply { round: wire.round },
        9 => Message::LearnerReply { outcome: wire.outcome.as_ref().map(outcome_of).transpose()? },
        10 => Message::Rejoin,
        11 => Message::TimeoutNow,
        12 => Message::ReadIndex { id: wire.id },
        13 => Message::ReadIndexReply { id: wire.id, index: wire.index.map(Index) },
        14 => Message::Fetch { pos: pos_of(wire.position.as_ref())? },
        15 => {
            let outcome = match (wire.fetched, metas.as_slice()) {
                (1, [meta]) => FetchOutcome::Whole(*meta),
                (1, _) => return Err(bad("an entry is missing")),
                (2, _) => FetchOutcome::Damaged,
                (3, _) => FetchOutcome::Absent,
                (other, _) => return Err(bad(format!("outcome {other}"))),
            };
            Message::FetchReply { pos: pos_of(wire.position.as_ref())?, outcome }
        }
        other => return Err(bad(format!("kind {other}"))),
    };
    let to_incarnation = if wire.to_incarnation.is_empty() {
        None
    } else {
        Some(Incarnation(id_of(&wire.to_incarnation)?))
    };
    Ok(Envelope {
        from: node_of(wire.from)?,
        from_incarnation: Incarnation(id_of(&wire.from_incarnation)?),
        to: node_of(wire.to)?,
        to_incarnation,
        term: Term(wire.term),
        message,
    })
}

fn members_to_wire(members: &BTreeMap<NodeId, Incarnation>) -> Vec<WireMember> {
    let member = |(node, incarnation): (&NodeId, &Incarnation)| WireMember {
        node: u32::from(node.slot()),
        incarnation: id_bytes(incarnation.0),
    };
    members.iter().map(member).collect()
}

fn members_of(wire: &[WireMember]) -> Result<BTreeMap<NodeId, Incarnation>, WireError> {
    wire.iter()
        .map(|member| Ok((node_of(member.node)?, Incarnation(id_of(&member.incarnation)?))))
        .collect()
}

fn generation_to_wire(generation: &Generation) -> Option<WireGeneration> {
    let recovery = generation.recovery;
    Some(WireGeneration {
        number: generation.number,
        origin: generation.origin.map_or(Bytes::new(), id_bytes),
        survivor: recovery.map_or(0, |recovery| u32::from(recovery.survivor.slot())),
        floor: recovery.and_then(|recovery| pos(recovery.floor)),
    })
}

fn generation_of(wire: Option<&WireGeneration>) -> Result<Generation, WireError> {
    let wire = wire.ok_or_else(|| bad("a generation is missing"))?;
    let origin = if wire.origin.is_empty() { None } else { Some(id_of(&wire.origin)?) };
    let recovery = if wire.survivor == 0 {
        None
    } else {
        let floor = pos_of(wire.floor.as_ref())?;
        Some(Recovery { survivor: node_of(wire.survivor)?, floor })
    };
    Ok(Generation { number: wire.number, origin, recovery })
}

fn form_to_wire(incarnation: Incarnation, message: &FormMessage) -> WireForm {
    let mut wire = WireForm { incarnation: id_bytes(incarnation.0), ..WireForm::default() };
    wire.kind = match message {
        FormMessage::Ask => 1,
        FormMessage::Answer { standing: Standing::Fresh { genesis } } => {
            if let Some(Unstarted { cluster_id, maker }) = genesis {
                wire.cluster_id = id_bytes(*cluster_id);
                wire.members = members_to_wire(&BTreeMap::from([*maker]));
            }
            2
        }
        FormMessage::Answer { standing: Standing::Known { cluster_id, generation, members } } => {
            wire.cluster_id = id_bytes(*cluster_id);
            wire.generation = generation_to_wire(generation);
            wire.members = members_to_wire(members);
            3
        }
        FormMessage::Answer { standing: Standing::Survivor { generation } } => {
            wire.generation = generation_to_wire(generation);
            7
        }
        FormMessage::Genesis { cluster_id, generation, members } => {
            wire.cluster_id = id_bytes(*cluster_id);
            wire.generation = generation_to_wire(generation);
            wire.members = members_to_wire(members);
            4
        }
        FormMessage::GenesisAck { cluster_id } => {
            wire.cluster_id = id_bytes(*cluster_id);
            5
        }
        FormMessage::Start { cluster_id } => {
            wire.cluster_id = id_bytes(*cluster_id);
            6
        }
        FormMessage::Replaced { incarnation } => {
            wire.replaced = id_bytes(incarnation.0);
            8
        }
    };
    wire
}

fn form_of(wire: &WireForm) -> Result<PeerMessage, WireError> {
    let cluster_id = || id_of(&wire.cluster_id);
    let generation = || generation_of(wire.generation.as_ref());
    let message = match wire.kind {
        1 => FormMessage::Ask,
        2 if wire.cluster_id.is_empty() => {
            FormMessage::Answer { standing: Standing::Fresh { genesis: None } }
        }
        2 => {
            let maker = members_of(&wire.members)?.into_iter().next();
            let maker = maker.ok_or_else(|| bad("a genesis without its maker".to_owned()))?;
            let genesis = Some(Unstarted { cluster_id: cluster_id()?, maker });
            FormMessage::Answer { standing: Standing::Fresh { genesis } }
        }
        3 => FormMessage::Answer {
            standing: Standing::Known {
                cluster_id: cluster_id()?,
                generation: generation()?,
                members: members_of(&wire.members)?,
            },
        },
        4 => FormMessage::Genesis {
            cluster_id: cluster_id()?,
            generation: generation()?,
            members: members_of(&wire.members)?,
        },
        5 => FormMessage::GenesisAck { cluster_id: cluster_id()? },
        6 => FormMessage::Start { cluster_id: cluster_id()? },
        7 => FormMessage::Answer { standing: Standing::Survivor { generation: generation()? } },
        8 => FormMessage::Replaced { incarnation: Incarnation(id_of(&wire.replaced)?) },
        other => return Err(bad(format!("kind {other}"))),
    };
    Ok(PeerMessage::Form { incarnation: Incarnation(id_of(&wire.incarnation)?), message })
}

/// The frame of a message, as pieces to write.
pub(crate) fn encode(message: &PeerMessage, out: &mut Vec<Bytes>) {
    match message {
        PeerMessage::Form { incarnation, message } => {
            frame::encode(Kind::Form, &form_to_wire(*incarnation, message), &[], out);
        }
        PeerMessage::Raft { cluster_id, envelope, entries } => {
            let entries: Vec<Bytes> = entries.iter().map(|entry| entry.frame.clone()).collect();
            let wire = WireRaft { cluster_id: id_bytes(*cluster_id), ..raft_to_wire(envelope) };
            frame::encode(Kind::Raft, &wire, &entries, out);
        }
    }
}

/// Whether a message goes by the bulk link: what carries entries, or must not overtake them.
pub(crate) fn is_bulk(message: &PeerMessage) -> bool {
    let PeerMessage::Raft { envelope, .. } = message else {
        return false;
    };
    matches!(
        envelope.message,
        Message::Append { .. } | Message::FetchReply { outcome: FetchOutcome::Whole(_), .. }
    )
}

/// The message in a frame, with every entry verified.
pub(crate) fn decode(frame: Frame) -> Result<PeerMessage, WireError> {
    let unreadable = |error: prost::DecodeError| bad(error.to_string());
    match frame.kind {
        Kind::Form => form_of(&WireForm::decode(frame.message).map_err(unreadable)?),
        Kind::Raft => {
            let wire = WireRaft::decode(frame.message).map_err(unreadable)?;
            let mut rest = frame.entries;
            let mut entries = Vec::new();
            while !rest.is_empty() {
                let entry =
                    Entry::split_first(&mut rest).map_err(|error| bad(error.to_string()))?;
                entries.push(entry);
            }
            let metas = entries.iter().map(tercet_replica::meta_of).collect();
            let cluster_id = id_of(&wire.cluster_id)?;
            Ok(PeerMessage::Raft { cluster_id, envelope: raft_of(&wire, metas)?, entries })
        }
        Kind::Hello | Kind::HelloReply | Kind::Forward | Kind::ForwardReply => {
            Err(bad("not a message between replicas"))
        }
    }
}

#[cfg(test)]
mod tests {
    use tercet_raft::EntryKind;

    use super::*;

    fn node(slot: u8) -> NodeId {
        NodeId::new(slot).unwrap()
    }

    fn through_the_wire(message: &PeerMessage) -> PeerMessage {
        let mut out = Vec::new();
        encode(message, &mut out);
        let bytes = out.concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut reader = frame::FrameReader::new(&bytes[..], 1 << 20);
        let frame = runtime.block_on(reader.next()).unwrap().unwrap();
        decode(frame).unwrap()
    }

    #[test]
    fn every_raft_message_comes_back() {
        let p = LogPos::new(3, 14);
        let rejected = |hint| AppendOutcome::Rejected { prev: p, hint };
        let too_short = rejected(ConflictHint::TooShort { last: Index(9) });
        let other_term = rejected(ConflictHint::Term { term: Term(2), first: Index(4) });
        let accepted = AppendOutcome::Accepted { last: Index(15) };
        let messages = [
            Message::PreVote { last: p },
            Message::PreVoteReply { denied: None },
            Message::PreVoteReply { denied: Some(DenyReason::LeaderAlive { leader: node(2) }) },
            Message::PreVoteReply { denied: Some(DenyReason::Rival) },
            Message::Vote { last: p, transfer: true },
            Message::VoteReply { denied: Some(DenyReason::OldTerm) },
            Message::VoteReply { denied: Some(DenyReason::OldLog { voter_last: p }) },
            Message::VoteReply { denied: Some(DenyReason::AlreadyVoted { to: node(3) }) },
            Message::Append { prev: LogPos::ORIGIN, entries: vec![], commit: Index(7), round: 8 },
            Message::AppendReply { round: 5, outcome: accepted },
            Message::AppendReply { round: 5, outcome: too_short },
            Message::AppendReply { round: 5, outcome: other_term },
            Message::Heartbeat { commit: Index(7), round: 8 },
            Message::HeartbeatReply { round: 8 },
            Message::LearnerReply { outcome: None },
            Message::LearnerReply { outcome: Some(accepted) },
            Message::Rejoin,
            Message::TimeoutNow,
            Message::ReadIndex { id: 77 },
            Message::ReadIndexReply { id: 77, index: None },
            Message::ReadIndexReply { id: 77, index: Some(Index(0)) },
            Message::Fetch { pos: p },
            Message::FetchReply { pos: p, outcome: FetchOutcome::Damaged },
            Message::FetchReply { pos: p, outcome: FetchOutcome::Absent },
        ];
        for message in messages {
            for to_incarnation in [None, Some(Incarnation(u128::MAX - 5))] {
                let envelope = Envelope {
                    from: node(1),
                    from_incarnation: Incarnation(123 << 90),
                    to: node(2),
                    to_incarnation,
                    term: Term(9),
                    message: message.clone(),
                };
                let sent = PeerMessage::Raft { cluster_id: 9, envelope, entries: vec![] };
                assert_eq!(through_the_wire(&sent), sent);
            }
        }
    }

    #[test]
    fn entries_come_back_with_their_metas() {
        let header = tercet_wal::EntryHeader {
            term: 3,
            index: 15,
            first_seq: 1,
            record_count: 0,
            kind: 3,
            flags: 0,
            log_id: 0,
            time_ms: 5,
            body_bytes: 0,
            crc: 0,
        };
        let incarnation = Incarnation(99);
        let entry = Entry::new(&header, &[&[2], &incarnation.0.to_le_bytes()]);
        let kind = EntryKind::Readmit { node: node(2), incarnation };
        let meta = EntryMeta { term: Term(3), kind };
        let append = Message::Append {
            prev: LogPos::new(3, 14),
            entries: vec![meta],
            commit: Index(2),
            round: 1,
        };
        let outcome = FetchOutcome::Whole(meta);
        for message in [append, Message::FetchReply { pos: LogPos::new(3, 15), outcome }] {
            let envelope = Envelope {
                from: node(1),
                from_incarnation: Incarnation(1),
                to: node(3),
                to_incarnation: None,
                term: Term(3),
                message,
            };
            let sent = PeerMessage::Raft { cluster_id: 9, envelope, entries: vec![entry.clone()] };
            assert_eq!(through_the_wire(&sent), sent);
            assert!(is_bulk(&sent), "a vote never waits behind it");
            let PeerMessage::Raft { envelope, .. } = sent else { unreachable!() };
            let without = PeerMessage::Raft { cluster_id: 9, envelope, entries: Vec::new() };
            let mut out = Vec::new();
            encode(&without, &mut out);
            let bytes = out.concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut reader = frame::FrameReader::new(&bytes[..], 1 << 20);
            let frame = runtime.block_on(reader.next()).unwrap().unwrap();
            let is_fetched = matches!(
                &without,
                PeerMessage::Raft { envelope, .. }
                    if matches!(envelope.message, Message::FetchReply { .. })
            );
            assert_eq!(decode(frame).is_err(), is_fetched, "a fetched entry is there, or refused");
        }
    }

    #[test]
    fn every_forming_message_comes_back() {
        let members: BTreeMap<_, _> = [(node(1), Incarnation(1)), (node(2), Incarnation(2))].into();
        let recovery = Some(Recovery { survivor: node(2), floor: LogPos::new(3, 9) });
        let later = Generation { number: 2, origin: Some(5), recovery };
        for message in [
            FormMessage::Ask,
            FormMessage::Answer { standing: Standing::Fresh { genesis: None } },
            FormMessage::Answer {
                standing: Standing::Fresh {
                    genesis: Some(Unstarted { cluster_id: 9, maker: (node(1), Incarnation(1)) }),
                },
            },
            FormMessage::Answer {
                standing: Standing::Known {
                    cluster_id: 5,
                    generation: Generation::first(5),
                    members: members.clone(),
                },
            },
            FormMessage::Answer { standing: Standing::Survivor { generation: later } },
            FormMessage::Genesis { cluster_id: 5, generation: later, members },
            FormMessage::GenesisAck { cluster_id: 5 },
            FormMessage::Start { cluster_id: 5 },
            FormMessage::Replaced { incarnation: Incarnation(9) },
        ] {
            let sent = PeerMessage::Form { incarnation: Incarnation(7), message };
            assert_eq!(through_the_wire(&sent), sent);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_panic() {
        for kind in [Kind::Raft, Kind::Form, Kind::Hello] {
            for seed in 0_u8..=255 {
                let noise: Vec<u8> = (0..64_u8).map(|i| i.wrapping_mul(seed) ^ seed).collect();
                let frame = Frame {
                    kind,
                    message: Bytes::from(noise.clone()),
                    entries: Bytes::from(noise),
                };
                assert!(decode(frame).is_err());
            }
        }
    }
}
