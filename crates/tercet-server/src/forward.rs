//! A submit that a node passes on to the leader, and the answer to it: one hop, over the links
//! between nodes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tercet_client::{ApiError, Outcome, Reason};

use crate::node::{Submit, Submitted};
use crate::peer::wire::{id_bytes, id_of};

/// The submit as it travels.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireSubmit {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    records: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "3")]
    request_id: Bytes,
    #[prost(uint64, optional, tag = "4")]
    expect_next: Option<u64>,
    #[prost(bool, tag = "5")]
    wait_all: bool,
    /// What is left until the caller's deadline.
    #[prost(uint64, tag = "6")]
    deadline_ms: u64,
}

/// The answer as it travels.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireReply {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    first_seq: u64,
    #[prost(uint64, tag = "3")]
    last_seq: u64,
    #[prost(uint64, tag = "4")]
    term: u64,
    #[prost(uint64, tag = "5")]
    index: u64,
    #[prost(bool, tag = "6")]
    duplicate: bool,
    #[prost(uint32, repeated, tag = "7")]
    durable_on: Vec<u32>,
    /// The reason of an error; empty on success.
    #[prost(string, tag = "8")]
    reason: String,
    #[prost(bool, tag = "9")]
    unknown: bool,
    #[prost(string, tag = "10")]
    message: String,
    #[prost(uint64, optional, tag = "11")]
    retry_after_ms: Option<u64>,
    #[prost(string, optional, tag = "12")]
    leader: Option<String>,
    #[prost(uint64, optional, tag = "13")]
    next_seq: Option<u64>,
}

/// The answer to a forwarded submit.
#[derive(Debug)]
pub(crate) struct ForwardReply {
    pub(crate) id: u64,
    pub(crate) result: Result<Submitted, ApiError>,
}

pub(crate) fn encode_submit(id: u64, submit: &Submit) -> WireSubmit {
    let left = submit.deadline.saturating_duration_since(Instant::now());
    WireSubmit {
        id,
        records: submit.records.clone(),
        request_id: id_bytes(submit.request_id),
        expect_next: submit.expect_next,
        wait_all: submit.wait_all,
        deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(crate) fn decode_submit(message: Bytes) -> Result<(u64, Submit), String> {
    let wire = WireSubmit::decode(message).map_err(|error| error.to_string())?;
    if wire.records.is_empty() {
        return Err("it has no records".to_owned());
    }
    let submit = Submit {
        records: wire.records,
        request_id: id_of(&wire.request_id).map_err(|error| error.to_string())?,
        expect_next: wire.expect_next,
        wait_all: wire.wait_all,
        never_forward: true,
        deadline: Instant::now() + Duration::from_millis(wire.deadline_ms.min(3_600_000)),
    };
    Ok((wire.id, submit))
}

pub(crate) fn encode_reply(id: u64, result: &Result<Submitted, ApiError>) -> WireReply {
    match result {
        Ok(done) => WireReply {
            id,
            first_seq: done.first_seq,
            last_seq: done.last_seq,
            term: done.term,
            index: done.index,
            duplicate: done.duplicate,
            durable_on: done.durable_on.clone(),
            ..WireReply::default()
        },
        Err(error) => WireReply {
            id,
            reason: error.reason.as_str().to_owned(),
            unknown: error.outcome == Outcome::Unknown,
            message: error.message.clone(),
            retry_after_ms: error.retry_after_ms,
            leader: error.leader.clone(),
            next_seq: error.next_seq,
            ..WireReply::default()
        },
    }
}

pub(crate) fn decode_reply(message: Bytes) -> Result<ForwardReply, String> {
    let wire = WireReply::decode(message).map_err(|error| error.to_string())?;
    let result = if wire.reason.is_empty() {
        Ok(Submitted {
            first_seq: wire.first_seq,
            last_seq: wire.last_seq,
            term: wire.term,
            index: wire.index,
            duplicate: wire.duplicate,
            durable_on: wire.durable_on,
        })
    } else {
        // A reason that this program does not know is one of a newer one.
        let reason = Reason::from_name(&wire.reason).unwrap_or(Reason::Internal);
        let outcome = if wire.unknown { Outcome::Unknown } else { Outcome::NotAppended };
        let mut error = ApiError::new(reason, wire.message).with_outcome(outcome);
        error.retry_after_ms = wire.retry_after_ms;
        error.leader = wire.leader;
        error.next_seq = wire.next_seq;
        Err(error)
    };
    Ok(ForwardReply { id: wire.id, result })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_were_given() {
        let done = Submitted {
            first_seq: 3,
            last_seq: 4,
            term: 2,
            index: 9,
            duplicate: true,
            durable_on: vec![1, 3],
        };
        let mut error = ApiError::new(Reason::Conflict, "no");
        error.next_seq = Some(7);
        let unknown =
            ApiError::new(Reason::LeadershipLost, "lost").with_leader(Some("a:1".to_owned()));
        for result in [Ok(done), Err(error), Err(unknown)] {
            let message = Bytes::from(encode_reply(5, &result).encode_to_vec());
            let reply = decode_reply(message).unwrap();
            assert_eq!((reply.id, reply.result), (5, result));
        }
    }

    #[test]
    fn a_submit_comes_back_and_is_never_forwarded_again() {
        let submit = Submit {
            records: vec![Bytes::from_static(b"a"), Bytes::new()],
            request_id: 77,
            expect_next: Some(3),
            wait_all: true,
            never_forward: false,
            deadline: Instant::now() + Duration::from_secs(5),
        };
        let message = Bytes::from(encode_submit(8, &submit).encode_to_vec());
        let (id, back) = decode_submit(message).unwrap();
        assert_eq!(id, 8);
        assert_eq!((back.records, back.request_id), (submit.records, 77));
        assert_eq!((back.expect_next, back.wait_all, back.never_forward), (Some(3), true, true));
    }
}
