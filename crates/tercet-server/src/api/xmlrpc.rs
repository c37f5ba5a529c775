//! XML-RPC, for clients that have nothing else: Python's `xmlrpc.client` can call a node as it is.
//!
//! [`METHODS`] is the one place that says what can be called; `system.listMethods` reads it, too.
//! The library `dxr` knows how XML-RPC is written; this file knows what the methods do, how a value
//! becomes a record and back, and what a fault says. It knows nothing of the log: methods ask
//! [`NodeHandle`](crate::NodeHandle), as every protocol does.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dxr::{Fault, FaultResponse, MethodCall, MethodResponse, Value};
use tercet_client::{ApiError, Outcome, Reason, v1};
use tercet_raft::NodeId;
use tercet_replica::LabInput;
use tercet_replica::gate::GateChange;

use super::Context;
use super::http::{Problem, whole_body};
use super::intake::{request_id, request_id_of_key};
use super::lab::{self, TOKEN};
use crate::lab::Action;
use crate::node::{Record, Submit};

/// What `SubmitValue` returns; clients compare it, letter by letter.
const SUCCESS: &str = "Success: Value logged and distributed.";
/// How many records `GetLog` returns if it does not say, and at most.
const LOG_LIMIT: (u64, u64) = (1000, 10_000);
/// The most bytes of values in one answer.
const LOG_BYTES: u64 = 4 << 20;
/// The longest interval of heartbeats: a day.
const HEARTBEAT_MAX_S: f64 = 86_400.0;
/// A body above this is taken apart on a thread that may be kept busy.
const DECODE_HERE: usize = 64 << 10;

/// Faults that are about the call itself, numbered as XML-RPC servers agree to
/// (<https://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php>).
const NOT_A_CALL: (i32, &str) = (-32700, "PARSE_ERROR");
const BAD_ENCODING: (i32, &str) = (-32701, "UNSUPPORTED_ENCODING");
const UNKNOWN_METHOD: (i32, &str) = (-32601, "UNKNOWN_METHOD");
const BAD_PARAMS: (i32, &str) = (-32602, "INVALID_PARAMS");

type Answer = Pin<Box<dyn Future<Output = Result<Value, Fault>> + Send>>;

/// A method that can be called.
struct Method {
    name: &'static str,
    /// Each a way to call it: the type of the result, then those of the parameters.
    signatures: &'static [&'static str],
    help: &'static str,
    /// Whether it is there only on nodes with `--lab`, and asks for the lab's token.
    lab: bool,
    call: fn(Context, Vec<Value>) -> Answer,
}

/// Every method, in the order of `system.listMethods`.
static METHODS: [Method; 11] = [
    Method {
        name: "SubmitValue",
        signatures: &[
            "string int",
            "string string",
            "string boolean",
            "string double",
            "string base64",
            "string dateTime.iso8601",
            "string nil",
            "string int string",
            "string string string",
            "string boolean string",
            "string double string",
            "string base64 string",
            "string dateTime.iso8601 string",
            "string nil string",
        ],
        help: "SubmitValue(value[, key]): appends the value's plain text as one record and returns \
               when it is on disk on a majority of the nodes. With a key of 1 to 64 characters the \
               call can be repeated: the record is appended once.",
        lab: false,
        call: |context, params| Box::pin(submit_value(context, params)),
    },
    Method {
        name: "GetLeader",
        signatures: &["struct"],
        help: "GetLeader(): the leader that this node knows, as {node, address}; a fault NO_LEADER \
               if it knows none.",
        lab: false,
        call: |context, params| Box::pin(get_leader(context, params)),
    },
    Method {
        name: "GetStatus",
        signatures: &["struct"],
        help: "GetStatus(): how this node sees itself and its peers.",
        lab: false,
        call: |context, params| Box::pin(get_status(context, params)),
    },
    Method {
        name: "GetLog",
        signatures: &["array", "array int", "array int int"],
        help: "GetLog([from[, limit]]): committed records from a sequence number on (1 if not \
               given), at most limit (1000 if not given, 10000 at most) and about 4 MiB, as \
               {seq, value}: a string, or base64 if XML cannot carry it as text.",
        lab: false,
        call: |context, params| Box::pin(get_log(context, params)),
    },
    Method {
        name: "SetHeartbeatInterval",
        signatures: &["string int", "string double"],
        help: "SetHeartbeatInterval(seconds): how far apart the heartbeats of this node are for as \
               long as it leads now; 0: as configured. A fault NOT_LEADER if it does not lead.",
        lab: true,
        call: |context, params| Box::pin(set_heartbeat_interval(context, params)),
    },
    Method {
        name: "SimulateReplicationFailure",
        signatures: &["string boolean"],
        help: "SimulateReplicationFailure(fails): with true, all that this node sends to the others \
               is lost; with false, nothing is any more.",
        lab: true,
        call: |context, params| Box::pin(simulate_replication_failure(context, params)),
    },
    Method {
        name: "DeleteLogFile",
        signatures: &["string"],
        help: "DeleteLogFile(): deletes the files of this node's log while it runs.",
        lab: true,
        call: |context, params| Box::pin(delete_log_file(context, params)),
    },
    Method {
        name: "RestartElection",
        signatures: &["string"],
        help: "RestartElection(): this node's election timer fires now.",
        lab: true,
        call: |context, params| Box::pin(restart_election(context, params)),
    },
    Method {
        name: "system.listMethods",
        signatures: &["array"],
        help: "system.listMethods(): the names of all methods.",
        lab: false,
        call: |context, params| Box::pin(async move { list_methods(has_lab(&context), &params) }),
    },
    Method {
        name: "system.methodHelp",
        signatures: &["string string"],
        help: "system.methodHelp(name): what a method does.",
        lab: false,
        call: |context, params| Box::pin(async move { method_help(has_lab(&context), &params) }),
    },
    Method {
        name: "system.methodSignature",
        signatures: &["array string"],
        help: "system.methodSignature(name): the ways to call a method, each a list of the type of \
               the result and those of the parameters.",
        lab: false,
        call: |context, params| {
            Box::pin(async move { method_signature(has_lab(&context), &params) })
        },
    },
];

/// `POST /RPC2` and `POST /`.
pub(super) async fn call(
    State(context): State<Context>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if let Some(why) = not_taken(&headers) {
        let error = ApiError::new(Reason::Invalid, why);
        return Ok(Problem(error).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let body = whole_body(&context, &headers, body).await?;
    let called = if body.len() <= DECODE_HERE {
        decode(&body)
    } else {
        tokio::task::spawn_blocking(move || decode(&body)).await.unwrap_or_else(|_| {
            Err(fault_of(
                &ApiError::new(Reason::Internal, "the request could not be read")
                    .with_outcome(Outcome::NotAppended),
            ))
        })
    };
    let answer = match called {
        Ok((name, params)) => match called_method(&context, &headers, &name) {
            Ok(method) => (method.call)(context, params).await,
            Err(fault) => Err(fault),
        },
        Err(fault) => Err(fault),
    };
    Ok(([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], encode(answer)).into_response())
}

/// Why a request is none of XML-RPC's, judged by its head.
fn not_taken(headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let kind = text(header::CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("text/xml") && !kind.eq_ignore_ascii_case("application/xml") {
        return Some(
            "XML-RPC is spoken here, with the content type text/xml; records go to /v1/records",
        );
    }
    if text(header::CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"))
    {
        return Some("compressed requests are not taken");
    }
    None
}

const fn has_lab(context: &Context) -> bool {
    context.node.lab.is_some()
}

/// The methods of a node.
fn methods(has_lab: bool) -> impl Iterator<Item = &'static Method> {
    METHODS.iter().filter(move |method| has_lab || !method.lab)
}

fn find(has_lab: bool, name: &str) -> Result<&'static Method, Fault> {
    methods(has_lab).find(|method| method.name == name).ok_or_else(|| {
        fault_in_call(UNKNOWN_METHOD, "there is no such method: see system.listMethods")
    })
}

/// The method with this name, if whoever calls may call it.
fn called_method(
    context: &Context,
    headers: &HeaderMap,
    name: &str,
) -> Result<&'static Method, Fault> {
    let method = find(has_lab(context), name)?;
    let given = headers.get(TOKEN).map_or(&[][..], |value| value.as_bytes());
    if method.lab && !context.node.lab.as_ref().is_some_and(|access| access.allows(given)) {
        let why = "this node's lab asks for its token, which XML-RPC has no place for: send it as \
                   the HTTP header lab-token, or use the gRPC service tercet.v1.Lab";
        return Err(fault_of(&ApiError::new(Reason::Invalid, why)));
    }
    Ok(method)
}

async fn submit_value(context: Context, params: Vec<Value>) -> Result<Value, Fault> {
    let mut params = params.into_iter();
    let (value, key) = match (params.next(), params.next(), params.next()) {
        (Some(value), None, None) => (value, None),
        (Some(value), Some(Value::String(key)), None) => (value, Some(key)),
        _ => {
            return Err(bad_params(
                "SubmitValue takes a value and, if it may be repeated, a key, which is a string",
            ));
        }
    };
    let record = record_of(value)?;
    let request_id = match key {
        Some(key) => request_id_of_key(&key),
        None => request_id(&[]),
    };
    let begun = Instant::now();
    let submit = Submit {
        records: vec![record],
        request_id: request_id.map_err(|error| fault_of(&error))?,
        expect_next: None,
        wait_all: false,
        never_forward: false,
        deadline: context.intake.deadline(begun, None),
    };
    match context.intake.submit(&context.node, submit, begun).await {
        Ok(_) => Ok(Value::String(SUCCESS.to_owned())),
        Err(error) => Err(fault_of(&error)),
    }
}

async fn get_leader(context: Context, params: Vec<Value>) -> Result<Value, Fault> {
    takes_nothing(&params)?;
    let status = context.node.status().await.map_err(|error| fault_of(&error))?;
    let Some(leader) = status.leader else {
        return Err(fault_of(&ApiError::new(Reason::NoLeader, "no leader is known")));
    };
    if status.leader_address.is_empty() {
        let why = format!("n{leader} leads, but this node has not learned its address yet");
        return Err(fault_of(&ApiError::new(Reason::NoLeader, why)));
    }
    let address = text(&status.leader_address);
    Ok(structure([("node", number(leader.into())), ("address", address)]))
}

async fn get_status(context: Context, params: Vec<Value>) -> Result<Value, Fault> {
    takes_nothing(&params)?;
    let status = context.node.status().await.map_err(|error| fault_of(&error))?;
    Ok(status_to_value(&status))
}

async fn get_log(context: Context, params: Vec<Value>) -> Result<Value, Fault> {
    let numbers: Option<Vec<u64>> = params.iter().map(positive).collect();
    let (from, limit) = match numbers.as_deref() {
        Some([]) => (1, LOG_LIMIT.0),
        Some([from]) => (*from, LOG_LIMIT.0),
        Some([from, limit]) => (*from, (*limit).min(LOG_LIMIT.1)),
        Some(_) | None => {
            return Err(bad_params(
                "GetLog takes the first sequence number and a limit, from 1 on",
            ));
        }
    };
    let node = &context.node;
    let deadline = context.intake.deadline(Instant::now(), None);
    node.read_barrier(deadline).await.map_err(|error| fault_of(&error))?;
    let next_seq = node.progress().borrow().next_seq;
    if from > next_seq {
        let why = format!("the next sequence number is {next_seq}");
        return Err(fault_of(&ApiError::new(Reason::Future, why)));
    }
    let records = node.read(from, limit, LOG_BYTES).await.map_err(|error| fault_of(&error))?;
    Ok(Value::Array(records.iter().map(record_to_value).collect()))
}

/// Has the owner do something of the lab's, and says what it did.
async fn interfere(context: &Context, action: Action, done: &str) -> Result<Value, Fault> {
    lab::interfere(&context.node, action).await.map_err(|error| fault_of(&error))?;
    Ok(text(done))
}

async fn set_heartbeat_interval(context: Context, params: Vec<Value>) -> Result<Value, Fault> {
    let seconds = match params.as_slice() {
        [Value::Integer(seconds)] => f64::from(*seconds),
        [Value::Double(seconds)] => *seconds,
        _ => f64::NAN,
    };
    if !(0.0..=HEARTBEAT_MAX_S).contains(&seconds) {
        return Err(bad_params("SetHeartbeatInterval takes a number of seconds, from 0 to 86400"));
    }
    let status = context.node.status().await.map_err(|error| fault_of(&error))?;
    if status.role != "leader" {
        let why = match status.leader {
            Some(leader) => format!("only a leader sends heartbeats: that is node {leader}"),
            None => "only a leader sends heartbeats, and none is known".to_owned(),
        };
        return Err(fault_of(&ApiError::new(Reason::NotLeader, why)));
    }
    // Nothing is gained by more than one in a millisecond, but a busy node.
    let interval = Duration::from_secs_f64(seconds).max(Duration::from_millis(1));
    let interval = (seconds > 0.0).then_some(interval);
    let action = LabInput::SetHeartbeatInterval { interval, until_stepdown: true };
    let done = match interval {
        Some(_) => format!("The heartbeat interval is {seconds} s until this node steps down."),
        None => "The heartbeat interval is as configured.".to_owned(),
    };
    interfere(&context, Action::Replica(action), &done).await
}

async fn simulate_replication_failure(
    context: Context,
    params: Vec<Value>,
) -> Result<Value, Fault> {
    let [Value::Boolean(fails)] = params.as_slice() else {
        return Err(bad_params("SimulateReplicationFailure takes a boolean"));
    };
    if !fails {
        let done = "This node's messages arrive again.";
        return interfere(&context, Action::Gate(GateChange::Heal), done).await;
    }
    let status = context.node.status().await.map_err(|error| fault_of(&error))?;
    let slots = status.peers.iter().filter_map(|peer| u8::try_from(peer.id).ok());
    for peer in slots.filter_map(NodeId::new) {
        interfere(&context, Action::Gate(GateChange::Cut(peer)), "").await?;
    }
    Ok(text("All that this node sends to the others is lost now."))
}

async fn delete_log_file(context: Context, params: Vec<Value>) -> Result<Value, Fault> {
    takes_nothing(&params)?;
    let done = "The files of this node's log are deleted: it loses its memory and rejoins.";
    interfere(&context, Action::DeleteLog, done).await
}

async fn restart_election(context: Context, params: Vec<Value>) -> Result<Value, Fault> {
    takes_nothing(&params)?;
    let status = context.node.status().await.map_err(|error| fault_of(&error))?;
    if !matches!(status.role.as_str(), "follower" | "pre-candidate" | "candidate") {
        let why = match status.role.as_str() {
            "leader" => "this node leads, so no election timer runs here: ask a follower",
            _ => "this node may not vote, so no election timer runs here: ask another one",
        };
        return Err(fault_of(&ApiError::new(Reason::Invalid, why)));
    }
    let done = "The election timer of this node has fired.";
    interfere(&context, Action::Replica(LabInput::Campaign), done).await
}

fn list_methods(has_lab: bool, params: &[Value]) -> Result<Value, Fault> {
    takes_nothing(params)?;
    Ok(Value::Array(methods(has_lab).map(|method| text(method.name)).collect()))
}

fn method_help(has_lab: bool, params: &[Value]) -> Result<Value, Fault> {
    Ok(text(named_in(has_lab, params)?.help))
}

fn method_signature(has_lab: bool, params: &[Value]) -> Result<Value, Fault> {
    let types = |signature: &&str| Value::Array(signature.split(' ').map(text).collect());
    Ok(Value::Array(named_in(has_lab, params)?.signatures.iter().map(types).collect()))
}

/// The method whose name is the only parameter.
fn named_in(has_lab: bool, params: &[Value]) -> Result<&'static Method, Fault> {
    match params {
        [Value::String(name)] => find(has_lab, name),
        _ => Err(bad_params("the one parameter is the name of a method")),
    }
}

fn takes_nothing(params: &[Value]) -> Result<(), Fault> {
    if params.is_empty() { Ok(()) } else { Err(bad_params("this method takes no parameters")) }
}

fn positive(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Integer(number) => i64::from(*number),
        Value::Long(number) => *number,
        Value::Boolean(_)
        | Value::String(_)
        | Value::Double(_)
        | Value::DateTime(_)
        | Value::Base64(_)
        | Value::Struct(_)
        | Value::Array(_)
        | Value::Nil
        | _ => return None,
    };
    u64::try_from(number).ok().filter(|number| *number > 0)
}

/// The record that a value becomes: its plain text, as Python's `str()` gives it, or its bytes.
fn record_of(value: Value) -> Result<Bytes, Fault> {
    let text = match value {
        Value::Integer(number) => number.to_string(),
        Value::Long(number) => number.to_string(),
        Value::Boolean(yes) => if yes { "True" } else { "False" }.to_owned(),
        Value::String(text) => text,
        Value::Double(number) => text_of_double(number),
        Value::DateTime(time) => time.to_string(),
        Value::Base64(bytes) => return Ok(bytes.into()),
        Value::Nil => "None".to_owned(),
        Value::Struct(_) | Value::Array(_) | _ => {
            return Err(bad_params(
                "a value is a scalar (int, string, boolean, double, base64, dateTime or nil), not \
                 an array or a struct",
            ));
        }
    };
    Ok(text.into())
}

/// A double as Python prints it: the fewest digits that read back as the same number, with an
/// exponent where that is below -4 or above 15.
fn text_of_double(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

fn record_to_value(record: &Record) -> Value {
    let value = match std::str::from_utf8(&record.value) {
        Ok(value) => text(value),
        Err(_) => Value::Base64(record.value.to_vec()),
    };
    structure([("seq", number(record.seq)), ("value", value)])
}

fn status_to_value(status: &v1::StatusResponse) -> Value {
    let peer = |peer: &v1::PeerStatus| {
        structure([
            ("id", number(peer.id.into())),
            ("match_index", optional(peer.match_index)),
            ("next_index", optional(peer.next_index)),
            ("lag", optional(peer.lag)),
            ("reachable", Value::Boolean(peer.reachable)),
            ("state", text(&peer.state)),
            ("client_address", text(&peer.client_address)),
            ("error", text(&peer.error)),
        ])
    };
    structure([
        ("node", number(status.node.into())),
        ("role", text(&status.role)),
        ("leader", optional(status.leader.map(u64::from))),
        ("leader_address", text(&status.leader_address)),
        ("term", number(status.term)),
        ("voted_for", optional(status.voted_for.map(u64::from))),
        ("first_seq", number(status.first_seq)),
        ("next_seq", number(status.next_seq)),
        ("last_index", number(status.last_index)),
        ("durable_index", number(status.durable_index)),
        ("commit_index", number(status.commit_index)),
        ("applied_index", number(status.applied_index)),
        ("incarnation", text(&status.incarnation)),
        ("cluster_id", text(&status.cluster_id)),
        ("generation", number(status.generation)),
        ("cluster_name", text(&status.cluster_name)),
        ("version", text(&status.version)),
        ("uptime_ms", number(status.uptime_ms)),
        ("sync_p99_us", number(status.sync_p99_us)),
        ("problems", Value::Array(status.problems.iter().map(|problem| text(problem)).collect())),
        ("peers", Value::Array(status.peers.iter().map(peer).collect())),
    ])
}

fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    let members = members.map(|(name, value)| (name.to_owned(), value));
    Value::Struct(BTreeMap::from(members))
}

/// A number as an `int` where it fits into its 32 bits, for clients that do not know `i8`.
fn number(number: u64) -> Value {
    i32::try_from(number)
        .map_or_else(|_| Value::Long(i64::try_from(number).unwrap_or(i64::MAX)), Value::Integer)
}

fn optional(value: Option<u64>) -> Value {
    value.map_or(Value::Nil, number)
}

/// Text as a string where XML can carry it, else as bytes: a control character cannot stand in XML,
/// not even escaped.
fn text(text: &str) -> Value {
    if text.chars().all(is_xml) {
        Value::String(text.to_owned())
    } else {
        Value::Base64(text.as_bytes().to_vec())
    }
}

/// Whether XML 1.0 has this character (section 2.2).
const fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

/// The fault that stands for an error of the API.
fn fault_of(error: &ApiError) -> Fault {
    fault(code_of(error.reason), error.reason.as_str(), &error.message, error.outcome)
}

/// A fault for a call that was not carried out at all.
fn fault_in_call((code, name): (i32, &str), why: &str) -> Fault {
    fault(code, name, why, Outcome::NotAppended)
}

fn bad_params(why: &str) -> Fault {
    fault_in_call(BAD_PARAMS, why)
}

/// No part of the request stands in a fault: what it says is this node's own words.
fn fault(code: i32, name: &str, why: &str, outcome: Outcome) -> Fault {
    let why = why.replace(|c| !is_xml(c), "?");
    Fault::new(code, format!("{name}: {why} ({outcome})"))
}

/// A reason's code. The codes are as stable as the names: one that is taken is never given again.
const fn code_of(reason: Reason) -> i32 {
    match reason {
        Reason::Conflict => 1,
        Reason::NoLeader => 2,
        Reason::NotLeader => 3,
        Reason::LeadershipLost => 4,
        Reason::Deadline => 5,
        Reason::Overloaded => 6,
        Reason::DiskFull => 7,
        Reason::KeyReused => 8,
        Reason::KeyExpired => 9,
        Reason::TooLarge => 10,
        Reason::Invalid => 11,
        Reason::Future => 12,
        Reason::Trimmed => 13,
        Reason::Quarantined => 14,
        Reason::WrongCluster => 15,
        Reason::Internal | _ => 16,
    }
}

/// The name and the parameters of a call. Whatever the bytes are, this returns: the parser expands
/// no entities and goes 128 elements deep at most.
fn decode(body: &[u8]) -> Result<(String, Vec<Value>), Fault> {
    let not_utf8 = || fault_in_call(BAD_ENCODING, "a request is written in UTF-8");
    let body = std::str::from_utf8(body).map_err(|_| not_utf8())?;
    if !body.is_ascii() && !is_declared_utf8(body) {
        return Err(not_utf8());
    }
    // The library's error holds the whole request, which must not go back or into a log.
    let call = if is_call(body) { MethodCall::from_xml(body).ok() } else { None };
    let call =
        call.ok_or_else(|| fault_in_call(NOT_A_CALL, "the body is not an XML-RPC methodCall"))?;
    Ok((call.name.into_owned(), call.params))
}

/// Whether the one element is a `methodCall`: the library takes any root, and does not look behind
/// its end. A document type has no use here, and is refused with the rest.
fn is_call(body: &str) -> bool {
    let mut rest = body.trim_start_matches('\u{feff}').trim();
    loop {
        let end = match rest {
            _ if rest.starts_with("<?") => "?>",
            _ if rest.starts_with("<!--") => "-->",
            _ => break,
        };
        let Some((_, behind)) = rest.split_once(end) else { return false };
        rest = behind.trim_start();
    }
    let root = rest.strip_prefix("<methodCall").and_then(|rest| rest.chars().next());
    root.is_some_and(|c| c == '>' || c.is_whitespace()) && rest.ends_with("</methodCall>")
}

/// Whether the XML declaration, if there is one, leaves it at UTF-8.
fn is_declared_utf8(body: &str) -> bool {
    let declaration = body.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>"));
    let encoding = declaration.and_then(|(declaration, _)| declaration.split_once("encoding"));
    encoding.is_none_or(|(_, value)| {
        let name = value.trim_matches(|c: char| c.is_whitespace() || "='\"".contains(c));
        name.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("utf-8"))
    })
}

fn encode(answer: Result<Value, Fault>) -> String {
    let xml = match answer {
        Ok(value) => MethodResponse { value }.to_xml(),
        Err(fault) => FaultResponse { fault }.to_xml(),
    };
    let xml = xml.expect("names and texts are checked, and the buffer grows");
    format!("<?xml version='1.0'?>\n{xml}\n")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn call_with(value: &str) -> String {
        format!(
            "<?xml version='1.0'?>\n<methodCall>\n<methodName>SubmitValue</methodName>\n<params>\n\
             <param>\n{value}\n</param>\n</params>\n</methodCall>\n"
        )
    }

    fn record(value: &str) -> Result<Bytes, Fault> {
        let (name, params) = decode(call_with(value).as_bytes())?;
        assert_eq!((name.as_str(), params.len()), ("SubmitValue", 1));
        record_of(params.into_iter().next().unwrap())
    }

    /// Each type as CPython writes it (and a few as others do), and the record that it becomes.
    #[test]
    fn every_type_becomes_a_record() {
        for (value, expected) in [
            ("<value><int>1</int></value>", &b"1"[..]),
            ("<value><i4>-2147483648</i4></value>", b"-2147483648"),
            ("<value><i8>9223372036854775807</i8></value>", b"9223372036854775807"),
            ("<value><boolean>1</boolean></value>", b"True"),
            ("<value><boolean>0</boolean></value>", b"False"),
            ("<value><string>plain</string></value>", b"plain"),
            ("<value>untyped</value>", b"untyped"),
            ("<value></value>", b""),
            ("<value/>", b""),
            ("<value><string></string></value>", b""),
            ("<value><string/></value>", b""),
            ("<value><string>  two  blanks  </string></value>", b"  two  blanks  "),
            ("<value><string>  </string></value>", b"  "),
            ("<value>  two  blanks  </value>", b"  two  blanks  "),
            ("<value>\n<string>framed</string>\n</value>", b"framed"),
            ("<value><string>a\nb\tc</string></value>", b"a\nb\tc"),
            ("<value><string>a&#13;\n</string></value>", b"a\r\n"),
            ("<value><string>\x01</string></value>", b"\x01"),
            ("<value><string>&lt;&amp;&gt;]]&gt;</string></value>", b"<&>]]>"),
            ("<value><string>&#228;&#xe4;\u{e4}</string></value>", "äää".as_bytes()),
            ("<value><string><![CDATA[<x>]]>y<!-- z --></string></value>", b"<x>y"),
            ("<value><double>1.0</double></value>", b"1.0"),
            ("<value><double>-0.0</double></value>", b"-0.0"),
            ("<value><double>nan</double></value>", b"nan"),
            ("<value><double>-inf</double></value>", b"-inf"),
            ("<value><base64>\nAP8=\n</base64></value>", b"\x00\xff"),
            ("<value><base64></base64></value>", b""),
            (
                "<value><dateTime.iso8601>20240229T23:59:59</dateTime.iso8601></value>",
                b"20240229T23:59:59",
            ),
            ("<value><nil/></value>", b"None"),
        ] {
            assert_eq!(record(value).as_deref(), Ok(expected), "{value}");
        }
    }

    #[test]
    fn a_value_is_a_scalar() {
        for value in [
            "<value><array><data></data></array></value>",
            "<value><array><data><value><int>1</int></value></data></array></value>",
            "<value><struct></struct></value>",
            "<value><struct><member><name>a</name><value>1</value></member></struct></value>",
        ] {
            let fault = record(value).unwrap_err();
            assert_eq!(fault.code(), -32602, "{value}");
            assert!(fault.string().contains("scalar"), "{fault}");
        }
    }

    #[test]
    fn doubles_are_printed_as_python_prints_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (0.1 + 0.2, "0.30000000000000004"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-5, "1.5e-05"),
            (123456789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (9007199254740993.0, "9007199254740992.0"),
            (1e16, "1e+16"),
            (1.25e22, "1.25e+22"),
            (-1e100, "-1e+100"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(text_of_double(number), text);
        }
    }

    /// What goes out comes in again as it was, by the library's own reading.
    #[test]
    fn every_type_goes_out() {
        let through = |value: Value| {
            let xml = encode(Ok(value));
            MethodResponse::from_xml(&xml).unwrap().value
        };
        let log = |value: &'static [u8]| {
            through(record_to_value(&Record { seq: 1, value: Bytes::from_static(value) }))
        };
        let shown = |value| structure([("seq", Value::Integer(1)), ("value", value)]);
        for plain in ["", " ", "a\r\n\tb", "<&>]]>\"'", "\u{e4}\u{1f980}", "\u{85}\u{7f}\u{fffd}"] {
            assert_eq!(log(plain.as_bytes()), shown(Value::String(plain.to_owned())), "{plain:?}");
        }
        for bytes in [&b"\0"[..], b"a\x1bb", b"\xff", "\u{fffe}".as_bytes(), "\u{ffff}".as_bytes()]
        {
            assert_eq!(log(bytes), shown(Value::Base64(bytes.to_vec())), "{bytes:?}");
        }
        assert_eq!(through(number(2_147_483_647)), Value::Integer(i32::MAX));
        assert_eq!(through(number(2_147_483_648)), Value::Long(2_147_483_648));
        assert_eq!(through(number(u64::MAX)), Value::Long(i64::MAX));
        assert_eq!(through(optional(None)), Value::Nil);
    }

    #[test]
    fn what_is_no_call_is_a_fault() {
        let deep = "<value><array><data>".repeat(100_000);
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>".to_owned()
            + &call_with("<value><string>&b;</string></value>");
        let file = "<!DOCTYPE x [<!ENTITY a SYSTEM \"file:///etc/passwd\">]>".to_owned()
            + &call_with("<value><string>&a;</string></value>");
        for body in [
            "",
            "1",
            "\0",
            "{\"records\": [1]}",
            "<methodCall>",
            "<methodCall></methodCall>",
            "<methodResponse><params></params></methodResponse>",
            &call_with("<value>1</value>").replace("methodCall", "methodResponse"),
            &call_with("<value>1</value>").replace("methodCall", "methodCalls"),
            &(call_with("<value>1</value>") + "<more/>"),
            &(call_with("<value>1</value>") + "more"),
            &("more".to_owned() + &call_with("<value>1</value>")),
            &("<!DOCTYPE methodCall>".to_owned() + &call_with("<value>1</value>")),
            "<?xml",
            "<!-- <methodCall></methodCall>",
            &call_with("<value><int>one</int></value>"),
            &call_with("<value><int>2147483648</int></value>"),
            &call_with("<value><int></int></value>"),
            &call_with("<value><boolean>2</boolean></value>"),
            &call_with("<value><double>1,5</double></value>"),
            &call_with("<value><base64>?</base64></value>"),
            &call_with("<value><dateTime.iso8601>20230229T00:00:00</dateTime.iso8601></value>"),
            &call_with("<value><float>1</float></value>"),
            &call_with("<value><int>1</int><int>2</int></value>"),
            &call_with("<value><string>&secret;</string></value>"),
            &call_with("<value><string>secret"),
            &call_with(&deep),
            &call_with(&(deep.clone() + &"</data></array></value>".repeat(100_000))),
            &bomb,
            &file,
        ] {
            let fault = decode(body.as_bytes()).unwrap_err();
            let shown = &body[..body.len().min(300)];
            assert_eq!(fault.code(), -32700, "{shown}");
            assert_eq!(
                fault.string(),
                "PARSE_ERROR: the body is not an XML-RPC methodCall (not appended)"
            );
        }
    }

    #[test]
    fn a_call_may_be_framed() {
        let call = call_with("<value>1</value>");
        for body in [
            call.clone(),
            format!("\u{feff}{call}\r\n "),
            call.replace("<methodCall>", "<!-- <x> --><?pi?>\r\n<methodCall a='b'\t>"),
            call.replace("<?xml version='1.0'?>", " "),
        ] {
            assert!(decode(body.as_bytes()).is_ok(), "{body}");
        }
    }

    #[test]
    fn requests_are_utf8() {
        let call = |encoding: &str, text: &str| {
            let body = call_with(&format!("<value><string>{text}</string></value>"));
            body.replace("'?>", &format!("' encoding='{encoding}'?>"))
        };
        for fine in [call("UTF-8", "ä"), call("utf-8", "ä"), call("iso-8859-1", "ascii only")] {
            assert!(decode(fine.as_bytes()).is_ok(), "{fine}");
        }
        let latin = call("iso-8859-1", "ä");
        assert_eq!(decode(latin.as_bytes()).unwrap_err().code(), -32701);
        assert_eq!(decode(b"<methodCall>\xff").unwrap_err().code(), -32701);
    }

    #[test]
    fn the_head_is_judged_first() {
        let judged = |kind: Option<&str>, coding: Option<&str>| {
            let mut headers = HeaderMap::new();
            let mut put = |name, value: Option<&str>| {
                if let Some(value) = value {
                    headers.insert(name, value.parse().unwrap());
                }
            };
            put(header::CONTENT_TYPE, kind);
            put(header::CONTENT_ENCODING, coding);
            not_taken(&headers).is_none()
        };
        assert!(judged(Some("text/xml"), None) && judged(Some("Text/XML; charset=utf-8"), None));
        assert!(judged(Some("application/xml"), Some("identity")));
        assert!(!judged(None, None) && !judged(Some("application/json"), None));
        assert!(!judged(Some("text/xml"), Some("gzip")));
    }

    /// The codes are stable: they stand in the documentation, each with its name.
    #[test]
    fn faults_are_as_documented() {
        let page = include_str!("../../../../docs/xml-rpc.md");
        let calls = [NOT_A_CALL, BAD_ENCODING, UNKNOWN_METHOD, BAD_PARAMS];
        let reasons = Reason::ALL.map(|reason| (code_of(reason), reason.as_str()));
        for (code, name) in calls.into_iter().chain(reasons) {
            assert!(page.contains(&format!("| {code} | `{name}` |")), "{code} {name}");
        }
        let error = ApiError::new(Reason::NoLeader, "no leader is known\0");
        let xml = encode(Err(fault_of(&error)));
        let fault = FaultResponse::from_xml(&xml).unwrap().fault;
        assert_eq!(fault.code(), 2);
        assert_eq!(fault.string(), "NO_LEADER: no leader is known? (not appended)");
    }

    #[test]
    fn methods_describe_themselves() {
        let page = include_str!("../../../../docs/xml-rpc.md");
        let Ok(Value::Array(names)) = list_methods(true, &[]) else { panic!("a list") };
        assert_eq!(names.len(), METHODS.len());
        let Ok(Value::Array(names)) = list_methods(false, &[]) else { panic!("a list") };
        assert_eq!(names.len() + 4, METHODS.len());
        for method in &METHODS {
            assert!(page.contains(&format!("| `{}(", method.name)), "{}", method.name);
            assert!(method.help.starts_with(&format!("{}(", method.name)), "{}", method.name);
            let name = [text(method.name)];
            assert_eq!(method_help(true, &name), Ok(text(method.help)));
            let Ok(Value::Array(ways)) = method_signature(true, &name) else { panic!("a list") };
            assert_eq!(ways.len(), method.signatures.len());
            let is_hidden = method_help(false, &name).is_err_and(|fault| fault.code() == -32601);
            assert_eq!(is_hidden, method.lab, "{}", method.name);
        }
        assert_eq!(method_help(true, &[text("secret")]).unwrap_err().code(), -32601);
        assert!(!method_help(true, &[text("secret")]).unwrap_err().string().contains("secret"));
        assert_eq!(method_help(true, &[]).unwrap_err().code(), -32602);
        assert_eq!(list_methods(true, &[Value::Nil]).unwrap_err().code(), -32602);
    }

    #[test]
    fn limits_are_positive_numbers() {
        assert_eq!(positive(&Value::Integer(1)), Some(1));
        assert_eq!(positive(&Value::Long(1 << 40)), Some(1 << 40));
        for bad in [Value::Integer(0), Value::Integer(-1), Value::Double(1.0), text("1")] {
            assert_eq!(positive(&bad), None);
        }
    }

    /// A request of CPython's with all that a value can be, to be spoilt.
    fn sample() -> Vec<u8> {
        let members = "<value><struct>\n<member>\n<name>a</name>\n<value><nil/></value></member>\n\
                       </struct></value>";
        let array = format!(
            "<value><array><data>\n<value><int>1</int></value>\n\
             <value><double>1.5</double></value>\n<value><base64>\nAP8=\n</base64></value>\n<value><boolean>1</boolean></value>\n\
             <value><dateTime.iso8601>20240229T23:59:59</dateTime.iso8601></value>\n{members}\n\
             <value><string>&lt;ä&#13;</string></value></data></array></value>"
        );
        call_with(&array).into_bytes()
    }

    /// Whatever comes in, a record or a fault comes out, and the fault can be written.
    fn survive(body: &[u8]) {
        let answer = decode(body).and_then(|(_, params)| {
            params.into_iter().map(record_of).collect::<Result<Vec<_>, _>>()?;
            Ok(Value::Nil)
        });
        assert!(encode(answer).ends_with("Response>\n"));
        // The library by itself, too: little that is spoilt gets as far.
        let _ = MethodCall::from_xml(&String::from_utf8_lossy(body));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_bytes_are_survived(body in vec(any::<u8>(), 0..500)) {
            survive(&body);
        }

        #[test]
        fn any_markup_is_survived(
            parts in vec(
                prop::sample::select(vec![
                    "<methodCall>", "</methodCall>", "<methodName>", "</methodName>", "<params>",
                    "</params>", "<param>", "</param>", "<value>", "</value>", "<value/>", "<int>",
                    "</int>", "<array>", "<data>", "</data>", "</array>", "<struct>", "<member>",
                    "<name>", "</name>", "</member>", "</struct>", "<nil/>", "<base64>", "&#0;",
                    "&#x110000;", "&lt;", "&", "<![CDATA[", "]]>", "<!--", "-->", "<?xml", "?>",
                    "<!DOCTYPE", "<double>", "1", "é", " ", "<a b='c'>", "<dateTime.iso8601>",
                ]),
                0..60,
            )
        ) {
            let parts = parts.concat();
            survive(parts.as_bytes());
            survive(format!("<methodCall>{parts}</methodCall>").as_bytes());
            survive(call_with(&format!("<value>{parts}</value>")).as_bytes());
        }

        #[test]
        fn spoilt_requests_are_survived(
            changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..8)
        ) {
            let mut body = sample();
            for (at, byte, kind) in changes {
                if body.is_empty() {
                    break;
                }
                let at = at.index(body.len());
                match kind {
                    0 => body[at] = byte,
                    1 => body.insert(at, byte),
                    2 => drop(body.remove(at)),
                    _ => body.truncate(at),
                }
            }
            survive(&body);
        }

        #[test]
        fn text_comes_back_as_it_was(value in "(?s).*") {
            let shown = MethodResponse::from_xml(&encode(Ok(text(&value)))).unwrap().value;
            let back = record_of(shown).unwrap();
            prop_assert_eq!(back, value);
        }

        #[test]
        fn doubles_read_back(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            let back: f64 = text_of_double(number).parse().unwrap();
            prop_assert!(back == number || (back.is_nan() && number.is_nan()));
        }
    }
}
