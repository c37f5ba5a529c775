//! What is in an entry: its bytes, as the core sees them, and as people do.

use bytes::{Bytes, BytesMut};
use tercet_raft::{EntryKind, EntryMeta, Envelope, FetchOutcome, Incarnation, Message, NodeId};
use tercet_wal::{ENTRY_HEADER_BYTES, Entry, EntryHeader, encode_entry};

use crate::record::{RecordsError, records_of};

/// A leader's first entry.
pub(crate) const KIND_NOOP: u8 = 1;
/// Records of a client.
pub(crate) const KIND_RECORDS: u8 = 2;
/// The readmission of a node.
pub(crate) const KIND_READMIT: u8 = 3;

/// An entry as people see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedEntry {
    /// Where it stands.
    pub index: u64,
    /// The term of the leader that made it.
    pub term: u64,
    /// What is in it.
    pub content: LoggedContent,
}

/// What is in an entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LoggedContent {
    /// Nothing: a leader's first entry.
    Noop,
    /// The readmission of a node.
    Readmit(NodeId),
    /// Not known: the bytes are damaged, and have not been fetched from a peer yet.
    Damaged,
    /// Records, with the request that submitted them.
    Records {
        /// The request's id.
        request_id: u128,
        /// The values.
        values: Vec<Bytes>,
    },
}

pub(crate) fn make_entry(header: &EntryHeader, body: &[&[u8]]) -> Entry {
    let mut out = BytesMut::with_capacity(
        ENTRY_HEADER_BYTES + body.iter().map(|piece| piece.len()).sum::<usize>(),
    );
    encode_entry(header, body, &mut out);
    Entry::parse(out.freeze()).expect("what was encoded can be read")
}

pub(crate) fn kind_of(entry: &Entry) -> EntryKind {
    match (entry.header.kind, entry.body()) {
        (KIND_READMIT, [slot, rest @ ..]) => {
            let incarnation = rest.try_into().map(u128::from_le_bytes).map(Incarnation);
            match (NodeId::new(*slot), incarnation) {
                (Some(node), Ok(incarnation)) => EntryKind::Readmit { node, incarnation },
                _ => EntryKind::Noop,
            }
        }
        (KIND_RECORDS, _) => EntryKind::Payload,
        _ => EntryKind::Noop,
    }
}

pub(crate) fn logged_entry(entry: &Entry) -> Result<LoggedEntry, RecordsError> {
    let content = match kind_of(entry) {
        EntryKind::Noop => LoggedContent::Noop,
        EntryKind::Readmit { node, .. } => LoggedContent::Readmit(node),
        EntryKind::Payload => {
            let records = records_of(entry)?;
            LoggedContent::Records { request_id: records.request_id, values: records.values }
        }
    };
    Ok(LoggedEntry { index: entry.header.index, term: entry.header.term, content })
}

/// An entry as the core sees it.
pub fn meta_of(entry: &Entry) -> EntryMeta {
    EntryMeta { term: tercet_raft::Term(entry.header.term), kind: kind_of(entry) }
}

/// Whether the entries are those of which the message speaks.
pub(crate) fn metas_match(envelope: &Envelope, entries: &[Entry]) -> bool {
    match &envelope.message {
        Message::Append { prev, entries: metas, .. } => {
            metas.len() == entries.len()
                && entries.iter().zip(metas).zip(prev.index.0 + 1..).all(
                    |((entry, meta), index)| entry.header.index == index && meta_of(entry) == *meta,
                )
        }
        Message::FetchReply { pos, outcome: FetchOutcome::Whole(meta) } => {
            matches!(entries, [entry]
                if entry.header.index == pos.index.0 && meta_of(entry) == *meta)
        }
        Message::PreVote { .. }
        | Message::PreVoteReply { .. }
        | Message::Vote { .. }
        | Message::VoteReply { .. }
        | Message::AppendReply { .. }
        | Message::Heartbeat { .. }
        | Message::HeartbeatReply { .. }
        | Message::LearnerReply { .. }
        | Message::Rejoin
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::Fetch { .. }
        | Message::FetchReply { .. } => entries.is_empty(),
    }
}
