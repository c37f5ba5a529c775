//! An [`ApiError`] as a gRPC status, and back: the code of the table in the README, with
//! `google.rpc.ErrorInfo` and [`v1::ErrorDetail`] in the details.

use std::collections::HashMap;

use prost::Message as _;
use tonic::{Code, Status};

use crate::error::{ApiError, Outcome, Reason};
use crate::v1;

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}

const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const ERROR_DETAIL: &str = "type.googleapis.com/tercet.v1.ErrorDetail";

/// The gRPC code of a reason.
pub const fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::Conflict => Code::Aborted,
        Reason::NoLeader | Reason::NotLeader | Reason::LeadershipLost | Reason::Quarantined => {
            Code::Unavailable
        }
        Reason::Deadline => Code::DeadlineExceeded,
        Reason::Overloaded | Reason::DiskFull => Code::ResourceExhausted,
        Reason::KeyReused | Reason::TooLarge | Reason::Invalid => Code::InvalidArgument,
        Reason::KeyExpired | Reason::WrongCluster => Code::FailedPrecondition,
        Reason::Future | Reason::Trimmed => Code::OutOfRange,
        Reason::Internal => Code::Internal,
    }
}

/// The status for an error.
pub fn to_status(error: &ApiError) -> Status {
    let code = code_of(error.reason);
    let detail = v1::ErrorDetail {
        reason: error.reason.as_str().to_owned(),
        outcome: error.outcome.as_str().to_owned(),
        retry_after_ms: error.retry_after_ms,
        leader: error.leader.clone(),
        next_seq: error.next_seq,
        first_seq: error.first_seq,
    };
    let mut metadata = HashMap::from([("outcome".to_owned(), detail.outcome.clone())]);
    let optional = [
        ("leader", error.leader.clone()),
        ("retry_after_ms", error.retry_after_ms.map(|n| n.to_string())),
        ("next_seq", error.next_seq.map(|n| n.to_string())),
        ("first_seq", error.first_seq.map(|n| n.to_string())),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            metadata.insert(key.to_owned(), value);
        }
    }
    let info = ErrorInfo { reason: detail.reason.clone(), domain: "tercet".to_owned(), metadata };
    let any = |url: &str, value| prost_types::Any { type_url: url.to_owned(), value };
    let details =
        vec![any(ERROR_INFO, info.encode_to_vec()), any(ERROR_DETAIL, detail.encode_to_vec())];
    let status = RpcStatus { code: code as i32, message: error.message.clone(), details };
    Status::with_details(code, error.message.clone(), status.encode_to_vec().into())
}

/// The error in a status. One that no node of this cluster made (a connection that broke, a proxy)
/// says least: whether a submit was appended is unknown then.
pub fn from_status(status: &Status) -> ApiError {
    let detail = RpcStatus::decode(status.details()).ok().and_then(|status| {
        let any = status.details.into_iter().find(|any| any.type_url == ERROR_DETAIL)?;
        v1::ErrorDetail::decode(&any.value[..]).ok()
    });
    let Some(detail) = detail else {
        let reason = match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => Reason::Deadline,
            Code::InvalidArgument => Reason::Invalid,
            // The size limit of the message itself: it was not even read.
            Code::OutOfRange => Reason::TooLarge,
            Code::ResourceExhausted => Reason::Overloaded,
            Code::Unavailable | Code::Unknown => Reason::LeadershipLost,
            Code::Ok
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Reason::Internal,
        };
        return ApiError::new(reason, status.message());
    };
    let reason = Reason::from_name(&detail.reason).unwrap_or(Reason::Internal);
    let mut error = ApiError::new(reason, status.message());
    error.outcome = if detail.outcome == Outcome::NotAppended.as_str() {
        Outcome::NotAppended
    } else {
        Outcome::Unknown
    };
    error.retry_after_ms = detail.retry_after_ms;
    error.leader = detail.leader;
    error.next_seq = detail.next_seq;
    error.first_seq = detail.first_seq;
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_comes_back() {
        for reason in Reason::ALL {
            for outcome in [Outcome::NotAppended, Outcome::Unknown] {
                let mut error = ApiError::new(reason, "why").with_outcome(outcome);
                error.retry_after_ms = Some(5);
                error.next_seq = Some(9);
                error.leader = Some("127.0.0.1:7101".to_owned());
                let status = to_status(&error);
                assert_eq!(status.code(), code_of(reason));
                assert_eq!(from_status(&status), error);
            }
        }
    }

    #[test]
    fn a_broken_connection_is_never_a_refusal() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal] {
            assert_eq!(from_status(&Status::new(code, "broken")).outcome, Outcome::Unknown);
        }
    }
}
