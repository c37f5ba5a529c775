//! What peers send: HELLO, frames, messages; and what a replica does with the messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use tercet_raft::{
    AppendOutcome, ConflictHint, DenyReason, EntryKind, EntryMeta, Envelope, Incarnation, Index,
    LogPos, Message, NodeId, Term, Time,
};
use tercet_replica::prepare::{PreparedEntry, identities, prepare};
use tercet_replica::{
    Fatal, FormMessage, Generation, PeerMessage, Replica, ReplicaConfig, Standing, Unstarted,
    records_body,
};
use tercet_server::for_fuzzing::{
    PEER_INCARNATION, Said, accept, dial, peer_forwards, peer_frame, peer_hello, peer_hello_reply,
};
use tercet_wal::{Entry, EntryHeader, HardState, MemDisk, Survive, WalOptions};

use super::{KIB, MIB, no_words};
use crate::Target;
use crate::bytes_of::{Input, link_input, link_stream};

pub(super) const HANDSHAKE: Target = Target {
    name: "handshake",
    about: "the first frame of a peer, and the answer to ours: taken, or refused in words",
    run: handshake,
    seeds: handshake_seeds,
    words: no_words,
    bytes_max: 4 * KIB,
    memory_max: 2 * MIB,
};

pub(super) const FRAMES: Target = Target {
    name: "peer_frames",
    about: "a peer's connection: each message that is taken comes back from its own encoding",
    run: frames,
    seeds: frame_seeds,
    words: no_words,
    bytes_max: 16 * KIB,
    memory_max: 2 * MIB,
};

pub(super) const MESSAGES: Target = Target {
    name: "peer_messages",
    about: "a peer's messages, given to a replica: whatever it hears, it does not panic, and what \
            it flushed is there when it is opened again",
    run: messages,
    seeds: message_seeds,
    words: no_words,
    bytes_max: 4 * KIB,
    memory_max: 4 * MIB,
};

fn handshake(input: &[u8]) {
    let mut input = Input(input);
    let is_dialled = input.u8() % 2 == 1;
    let stream = link_stream(input.rest());
    if is_dialled {
        if let Err(why) = dial(&stream) {
            assert!(!why.is_empty());
        }
    } else {
        let connection = accept(&stream);
        assert!(connection.refused.is_none_or(|why| !why.is_empty()));
    }
}

fn handshake_seeds() -> Vec<Vec<u8>> {
    let with = |first: u8, frames: &[Vec<u8>]| [vec![first], link_input(frames)].concat();
    let raw = |first: u8, bytes: &[u8]| [&[first, b'!'], bytes].concat();
    vec![
        with(0, &[peer_hello()]),
        with(0, &[peer_hello(), peer_hello()]),
        with(1, &[peer_hello_reply()]),
        raw(0, &peer_hello()),
        raw(1, &peer_hello_reply()),
        raw(0, b"GET / HTTP/1.1\r\n\r\n"),
    ]
}

/// What a peer that was accepted says with these bytes.
fn said(input: &[u8]) -> Vec<Said> {
    accept(&[peer_hello(), link_stream(input)].concat()).said
}

fn frames(input: &[u8]) {
    for said in said(input) {
        if let Said::Message(message) = said {
            let again = [peer_hello(), peer_frame(&message)].concat();
            let connection = accept(&again);
            assert_eq!(connection.said, [Said::Message(message)]);
        }
    }
}

fn node(slot: u8) -> NodeId {
    NodeId::new(slot).expect("1 to 3")
}

fn entry(term: u64, index: u64, kind: u8, record_count: u32, body: &[&[u8]]) -> Entry {
    let header = EntryHeader {
        term,
        index,
        first_seq: index,
        record_count,
        kind,
        flags: 0,
        log_id: 0,
        time_ms: 5,
        body_bytes: 0,
        crc: 0,
    };
    Entry::new(&header, body)
}

fn raft(term: u64, message: Message, entries: Vec<Entry>) -> PeerMessage {
    let envelope = Envelope {
        from: node(2),
        from_incarnation: PEER_INCARNATION,
        to: node(1),
        to_incarnation: None,
        term: Term(term),
        message,
    };
    PeerMessage::Raft { cluster_id: 9, envelope, entries }
}

fn append(term: u64, prev: LogPos, commit: u64, entries: Vec<Entry>) -> PeerMessage {
    let metas = entries.iter().map(tercet_replica::meta_of).collect();
    let commit = Index(commit);
    raft(term, Message::Append { prev, entries: metas, commit, round: 1 }, entries)
}

/// Every kind of message, with something in it.
fn every_message() -> Vec<PeerMessage> {
    let p = LogPos::new(1, 2);
    let rejected = |hint| AppendOutcome::Rejected { prev: p, hint };
    let mut messages: Vec<PeerMessage> = [
        Message::PreVote { last: LogPos::new(3, 9) },
        Message::PreVoteReply { denied: Some(DenyReason::LeaderAlive { leader: node(2) }) },
        Message::PreVoteReply { denied: Some(DenyReason::Rival) },
        Message::Vote { last: LogPos::new(3, 9), transfer: true },
        Message::VoteReply { denied: None },
        Message::VoteReply { denied: Some(DenyReason::OldLog { voter_last: p }) },
        Message::VoteReply { denied: Some(DenyReason::AlreadyVoted { to: node(3) }) },
        Message::VoteReply { denied: Some(DenyReason::OldTerm) },
        Message::AppendReply { round: 5, outcome: AppendOutcome::Accepted { last: Index(3) } },
        Message::AppendReply {
            round: 5,
            outcome: rejected(ConflictHint::TooShort { last: Index(1) }),
        },
        Message::AppendReply {
            round: 5,
            outcome: rejected(ConflictHint::Term { term: Term(1), first: Index(1) }),
        },
        Message::Heartbeat { commit: Index(2), round: 8 },
        Message::HeartbeatReply { round: 8 },
        Message::LearnerReply { outcome: Some(AppendOutcome::Accepted { last: Index(3) }) },
        Message::LearnerReply { outcome: None },
        Message::Rejoin,
        Message::TimeoutNow,
        Message::ReadIndex { id: 77 },
        Message::ReadIndexReply { id: 77, index: Some(Index(2)) },
    ]
    .into_iter()
    .map(|message| raft(4, message, vec![]))
    .collect();
    let values = [Bytes::from_static(b"44"), Bytes::from_static(b"x\ny")];
    let (pieces, _) = records_body(9, &values);
    let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
    let readmit = [&[3][..], &77_u128.to_le_bytes()].concat();
    let entries =
        vec![entry(4, 4, 1, 0, &[]), entry(4, 5, 2, 2, &pieces), entry(4, 6, 3, 0, &[&readmit])];
    messages.push(append(4, LogPos::new(1, 3), 5, entries));
    messages.push(append(4, LogPos::ORIGIN, 0, vec![entry(4, 1, 1, 0, &[])]));
    // Node 1 makes its incarnation itself when its directory is new: the first that it draws.
    let members = BTreeMap::from([
        (node(1), Incarnation(1001)),
        (node(2), PEER_INCARNATION),
        (node(3), Incarnation(3)),
    ]);
    let generation = Generation::default();
    let fresh = |genesis| FormMessage::Answer { standing: Standing::Fresh { genesis } };
    for message in [
        FormMessage::Ask,
        fresh(None),
        fresh(Some(Unstarted { cluster_id: 9, maker: (node(2), PEER_INCARNATION) })),
        FormMessage::Answer {
            standing: Standing::Known { cluster_id: 9, generation, members: members.clone() },
        },
        FormMessage::Answer { standing: Standing::Survivor { generation } },
        FormMessage::Genesis { cluster_id: 9, generation, members },
        FormMessage::GenesisAck { cluster_id: 9 },
        FormMessage::Start { cluster_id: 9 },
        FormMessage::Replaced { incarnation: Incarnation(1) },
    ] {
        messages.push(PeerMessage::Form { incarnation: PEER_INCARNATION, message });
    }
    messages
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let frames: Vec<Vec<u8>> = every_message().iter().map(peer_frame).collect();
    let mut seeds: Vec<Vec<u8>> =
        frames.iter().map(|frame| link_input(std::slice::from_ref(frame))).collect();
    seeds.push(link_input(&peer_forwards()));
    seeds.push([&b"!"[..], &frames.concat()].concat());
    seeds
}

/// A run of node 1: time passes, frames arrive, the disk is synced or not; then the power is cut.
fn messages(input: &[u8]) {
    let mut input = Input(input);
    let setup = input.u8();
    let disk = directory(setup);
    let mut replica = open(setup, disk.clone());
    let mut now = Time(0);
    while !input.is_empty() {
        let (step, length) = (input.u8(), input.u16());
        now = now.after(std::time::Duration::from_millis(u64::from(step >> 2) * 4));
        replica.tick(now).expect("the disk is well");
        for said in said(input.take(length.into())) {
            let Said::Message(message) = said else { continue };
            if would_replace_committed(&replica, &message) {
                continue;
            }
            match replica.receive(now, node(2), message) {
                Ok(()) => {}
                // It heard that the cluster began again without it, and stops to join that.
                Err(Fatal::LostMemory(_)) => return,
                Err(Fatal::Disk(why)) => panic!("the disk is well, but: {why}"),
            }
        }
        if step % 4 != 0 {
            replica.flush(now).expect("the disk is well");
        }
        while replica.poll_effect().is_some() {}
    }
    replica.flush(now).expect("the disk is well");
    let seen = |replica: &Replica<MemDisk>| {
        let state = replica.raft().map(|raft| raft.status().hard_state);
        (replica.identity().clone(), state, replica.logged(1, usize::MAX).ok())
    };
    let before = seen(&replica);
    drop(replica);
    let again = open(setup, disk.after_crash(Survive::None));
    assert_eq!(seen(&again), before, "what was flushed is there");
}

/// Entries that would replace what is committed stop a node, which is wanted: it is better than to
/// lie. No correct peer sends them.
fn would_replace_committed(replica: &Replica<MemDisk>, message: &PeerMessage) -> bool {
    let (Some(raft), PeerMessage::Raft { envelope, .. }) = (replica.raft(), message) else {
        return false;
    };
    let Message::Append { prev, entries, .. } = &envelope.message else { return false };
    let commit = raft.status().commit;
    entries.iter().zip(1..).any(|(entry, nth)| {
        let index = Index(prev.index.0.saturating_add(nth));
        index <= commit && raft.term_at(index) != Some(entry.term)
    })
}

fn options() -> WalOptions {
    WalOptions { segment_bytes: 0, log_id: 0, reserve_bytes: 0, tail_bytes: 4096 }
}

/// The directory of node 1: of a cluster that runs, or of one that is not formed yet.
fn directory(setup: u8) -> MemDisk {
    let mut disk = MemDisk::new();
    if !setup.is_multiple_of(4) {
        let nodes: Vec<NodeId> = (1..=3).map(node).collect();
        let mut identity = identities("fuzz", &nodes, 1).swap_remove(0);
        identity.members.insert(node(2), PEER_INCARNATION);
        identity.cluster_id = Some(9);
        let value = |value: &'static [u8]| Some(Bytes::from_static(value));
        let log = [
            PreparedEntry { term: 1, value: None },
            PreparedEntry { term: 1, value: value(b"1") },
            PreparedEntry { term: 1, value: value(b"2") },
        ];
        let state = HardState { term: 3, vote: (setup % 4 == 2).then_some(2) };
        prepare(&mut disk, &identity, state, &log, options()).expect("an empty disk");
    }
    disk
}

fn open(setup: u8, disk: MemDisk) -> Replica<MemDisk> {
    let nodes = (1..=3).map(node).collect();
    let mut config = ReplicaConfig::new(node(1), nodes, "fuzz".to_owned());
    config.wal = options();
    config.seed = Some(u64::from(setup >> 2));
    let mut number = 1000;
    let mut random = || {
        number += 1;
        number
    };
    Replica::open(disk, config, None, &mut random, Time(0)).expect("the directory is whole")
}

fn message_seeds() -> Vec<Vec<u8>> {
    let step = |step: u8, frame: &[u8]| {
        let input = link_input(&[frame.to_vec()]);
        let length = u16::try_from(input.len()).expect("seeds are short").to_le_bytes();
        [&[step][..], &length, &input].concat()
    };
    let frames: Vec<Vec<u8>> = every_message().iter().map(peer_frame).collect();
    let meta = EntryMeta { term: Term(4), kind: EntryKind::Noop };
    let ends = raft(
        4,
        Message::Append {
            prev: LogPos::new(1, 3),
            entries: vec![meta],
            commit: Index(3),
            round: 0,
        },
        vec![entry(4, 4, 1, 0, &[])],
    );
    let mut seeds = Vec::new();
    for setup in 0..3 {
        for frame in &frames {
            seeds.push([&[setup][..], &step(1, frame)].concat());
        }
        let all: Vec<u8> = frames.iter().flat_map(|frame| step(1, frame)).collect();
        seeds.push([&[setup][..], &all].concat());
        // An election of its own, and what may come then.
        let votes =
            [step(0xfd, &peer_frame(&ends)), step(0xfd, &frames[1]), step(0xfd, &frames[3])];
        seeds.push([&[setup][..], &votes.concat(), &step(1, &frames[7])].concat());
    }
    seeds
}
