//! What is in an entry: its bytes, as the core sees them, and as people do.

use bytes::Bytes;
use tercet_raft::{EntryKind, EntryMeta, Envelope, FetchOutcome, Incarnation, Message, NodeId};
use tercet_wal::{Entry, EntryHeader};

use crate::record::{RecordsError, check_records, records_of};

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

/// Whether the entries are those of which the message speaks, with indexes and sequence numbers that
/// go on from one to the next, and with records that add up. What is once committed stays in every
/// log: an entry that nobody could apply must not come into one.
pub(crate) fn metas_match(envelope: &Envelope, entries: &[Entry]) -> bool {
    match &envelope.message {
        Message::Append { prev, entries: metas, .. } => {
            let mut next_seq = entries.first().map(|entry| entry.header.first_seq);
            metas.len() == entries.len()
                && entries.iter().zip(metas).zip(1..).all(|((entry, meta), nth)| {
                    let EntryHeader { index, first_seq, record_count, .. } = entry.header;
                    let continues = next_seq == Some(first_seq);
                    next_seq = first_seq.checked_add(u64::from(record_count));
                    continues
                        && next_seq.is_some()
                        && prev.index.0.checked_add(nth) == Some(index)
                        && meta_of(entry) == *meta
                        && can_be_applied(entry)
                })
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

fn can_be_applied(entry: &Entry) -> bool {
    let has_records = entry.header.record_count > 0 || kind_of(entry) == EntryKind::Payload;
    !has_records || check_records(entry).is_ok()
}

#[cfg(test)]
mod tests {
    use tercet_raft::{Index, LogPos, Term};

    use super::*;

    /// An entry with so many empty records.
    fn entry(index: u64, first_seq: u64, record_count: u32) -> Entry {
        let body = vec![0; 16 + 4 * record_count as usize];
        entry_with(KIND_RECORDS, index, first_seq, record_count, &body)
    }

    fn entry_with(kind: u8, index: u64, first_seq: u64, record_count: u32, body: &[u8]) -> Entry {
        let header = EntryHeader {
            term: 2,
            index,
            first_seq,
            record_count,
            kind,
            flags: 0,
            log_id: 0,
            time_ms: 0,
            body_bytes: 0,
            crc: 0,
        };
        Entry::new(&header, &[body])
    }

    fn matches(prev_index: u64, entries: &[Entry]) -> bool {
        let message = Message::Append {
            prev: LogPos::new(2, prev_index),
            entries: entries.iter().map(meta_of).collect(),
            commit: Index(0),
            round: 0,
        };
        let node = |slot| NodeId::new(slot).unwrap();
        let envelope = Envelope {
            from: node(1),
            from_incarnation: Incarnation(1),
            to: node(2),
            to_incarnation: None,
            term: Term(2),
            message,
        };
        metas_match(&envelope, entries)
    }

    #[test]
    fn entries_follow_each_other() {
        assert!(matches(0, &[]));
        assert!(matches(4, &[entry(5, 9, 2), entry(6, 11, 0), entry(7, 11, 1)]));
        assert!(!matches(4, &[entry(6, 9, 2)]), "not the next index");
        assert!(!matches(4, &[entry(5, 9, 2), entry(7, 11, 0)]), "an index is left out");
        assert!(!matches(4, &[entry(5, 9, 2), entry(6, 12, 0)]), "a number is left out");
        assert!(!matches(4, &[entry(5, 9, 2), entry(6, 10, 0)]), "a number is there twice");
    }

    #[test]
    fn numbers_that_cannot_be_counted_on_are_refused() {
        assert!(matches(u64::MAX, &[]), "a message without entries says nothing that can be wrong");
        assert!(!matches(u64::MAX, &[entry(0, 1, 0)]));
        assert!(matches(u64::MAX - 1, &[entry(u64::MAX, 1, 0)]));
        assert!(!matches(u64::MAX - 1, &[entry(u64::MAX, 1, 0), entry(0, 1, 0)]));
        assert!(!matches(4, &[entry(5, u64::MAX, 1)]));
        assert!(matches(4, &[entry(5, u64::MAX - 1, 1)]));
    }

    /// Such an entry, once committed, would stop every node that applies it, again and again.
    #[test]
    fn records_that_do_not_add_up_are_refused() {
        let one_of_3 = [&[0; 16][..], &3_u32.to_le_bytes(), b"abc"].concat();
        assert!(matches(4, &[entry_with(KIND_RECORDS, 5, 1, 1, &one_of_3)]));
        assert!(!matches(4, &[entry_with(KIND_RECORDS, 5, 1, 1, &one_of_3[..22])]), "too short");
        assert!(!matches(4, &[entry_with(KIND_RECORDS, 5, 1, 2, &one_of_3)]), "another count");
        assert!(!matches(4, &[entry_with(KIND_RECORDS, 5, 1, u32::MAX, &one_of_3)]));
        assert!(!matches(4, &[entry_with(KIND_RECORDS, 5, 1, 0, b"")]), "not even a request id");
        assert!(matches(4, &[entry_with(KIND_NOOP, 5, 1, 0, b"")]));
        assert!(!matches(4, &[entry_with(KIND_NOOP, 5, 1, 1, b"")]), "a no-op has no records");
    }
}
