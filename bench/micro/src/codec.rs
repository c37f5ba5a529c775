//! The codec of the links between nodes: entries on their way, and the answer to them.

use std::hint::black_box;

use bytes::Bytes;
use tercet_raft::{
    AppendOutcome, EntryKind, EntryMeta, Envelope, Incarnation, Index, LogPos, Message, NodeId,
    Term,
};
use tercet_replica::PeerMessage;
use tercet_server::for_fuzzing::{decode_peer, encode_peer};

use crate::Bench;

/// How often one run encodes or decodes.
const TIMES: usize = 100;

pub(crate) fn benches() -> Vec<Bench> {
    vec![
        Bench {
            name: "codec/encode-entries",
            what: "100 times: an Append with 64 entries of 256 bytes → the pieces of its frame",
            prepare: || encode(append()),
        },
        Bench {
            name: "codec/decode-entries",
            what: "100 times: that frame, from a stream of bytes → the Append, all of it verified",
            prepare: || decode(append()),
        },
        Bench {
            name: "codec/encode-answer",
            what: "100 times: the answer to an Append → the pieces of its frame",
            prepare: || encode(answer()),
        },
        Bench {
            name: "codec/decode-answer",
            what: "100 times: that frame, from a stream of bytes → the answer",
            prepare: || decode(answer()),
        },
    ]
}

fn message(message: Message, entries: Vec<tercet_wal::Entry>) -> PeerMessage {
    let node = |slot| NodeId::new(slot).expect("1 or 2");
    let envelope = Envelope {
        from: node(1),
        from_incarnation: Incarnation(1 << 100),
        to: node(2),
        to_incarnation: Some(Incarnation(2 << 100)),
        term: Term(1),
        message,
    };
    PeerMessage::Raft { cluster_id: 7 << 100, envelope, entries }
}

fn append() -> PeerMessage {
    let entries: Vec<_> = (1001..=1064).map(crate::entry).collect();
    let metas = vec![EntryMeta::new(Term(1), EntryKind::Payload); entries.len()];
    let prev = LogPos::new(1, 1000);
    let append = Message::Append { prev, entries: metas, commit: Index(990), round: 300 };
    message(append, entries)
}

fn answer() -> PeerMessage {
    let outcome = AppendOutcome::Accepted { last: Index(1064) };
    message(Message::AppendReply { round: 300, outcome }, Vec::new())
}

fn encode(message: PeerMessage) -> Box<dyn FnMut()> {
    let mut pieces: Vec<Bytes> = Vec::with_capacity(128);
    Box::new(move || {
        for _ in 0..TIMES {
            pieces.clear();
            encode_peer(black_box(&message), &mut pieces);
            assert!(!black_box(&pieces).is_empty());
        }
    })
}

fn decode(message: PeerMessage) -> Box<dyn FnMut()> {
    let mut pieces = Vec::new();
    encode_peer(&message, &mut pieces);
    let bytes = pieces.concat().repeat(TIMES);
    Box::new(move || {
        let decoded = decode_peer(black_box(&bytes)).expect("what was encoded can be decoded");
        assert_eq!(black_box(decoded).len(), TIMES);
    })
}
