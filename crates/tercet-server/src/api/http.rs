//! HTTP: records in and out, and what operators look at.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use tercet_client::{ApiError, Outcome, Reason, v1};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::Context;
use super::grpc::{explained, response_of};
use super::intake::{request_id, request_id_of_key};
use super::json;
use super::openapi::OPENAPI;
use super::xmlrpc;
use crate::node::{NodeHandle, Record, Submit};

/// How many records a read returns if it does not say.
const LIMIT_DEFAULT: u64 = 1000;
/// The longest that a read may wait for a record.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The most bytes of values in one answer.
const READ_BYTES: u64 = 4 << 20;

/// Every path that is routed.
#[cfg(test)]
pub(super) const PATHS: [&str; 11] = [
    "/",
    "/RPC2",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/v1/records",
    "/v1/tail",
    "/v1/status",
    "/v1/explain",
    "/v1/events",
];

pub(super) fn router(context: Context) -> Router {
    Router::new()
        .route("/", get(index).post(xmlrpc::call))
        .route("/RPC2", post(xmlrpc::call))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .route("/v1/records", get(read).post(submit))
        .route("/v1/tail", get(tail))
        .route("/v1/status", get(status))
        .route("/v1/explain", get(explain))
        .route("/v1/events", get(events))
        .with_state(context)
}

/// Nothing is served there, in the words of the protocol that was spoken.
pub(super) async fn nothing(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let path = uri.path();
    if kind.is_some_and(|kind| kind.starts_with("application/grpc")) {
        return tonic::Status::unimplemented(format!("{path} is unknown")).into_http();
    }
    let why = format!("there is no {method} {path}: see /openapi.json");
    Problem(invalid(why)).with_status(StatusCode::NOT_FOUND)
}

/// An error as a response.
pub(super) struct Problem(pub(super) ApiError);

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

const fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::Conflict => StatusCode::PRECONDITION_FAILED,
        Reason::NoLeader | Reason::LeadershipLost | Reason::Quarantined => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Reason::NotLeader => StatusCode::TEMPORARY_REDIRECT,
        Reason::Deadline => StatusCode::GATEWAY_TIMEOUT,
        Reason::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Reason::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        Reason::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Reason::KeyExpired | Reason::WrongCluster => StatusCode::CONFLICT,
        Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::Future => StatusCode::RANGE_NOT_SATISFIABLE,
        Reason::Trimmed => StatusCode::GONE,
        Reason::Invalid => StatusCode::BAD_REQUEST,
        Reason::Internal | _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut status = status_of(self.0.reason);
        // A redirect that says not where to is none.
        if status == StatusCode::TEMPORARY_REDIRECT && self.0.leader.is_none() {
            status = StatusCode::SERVICE_UNAVAILABLE;
        }
        self.with_status(status)
    }
}

impl Problem {
    /// The response, with another status than the reason's usual one.
    pub(super) fn with_status(self, status: StatusCode) -> Response {
        let Self(error) = self;
        let body = json::problem(&error, status.as_u16()).to_string();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(ms) = error.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        if status == StatusCode::TEMPORARY_REDIRECT
            && let Some(leader) = &error.leader
            && let Ok(location) = HeaderValue::from_str(&format!("http://{leader}/v1/records"))
        {
            headers.insert(header::LOCATION, location);
        }
        response
    }
}

type Params = BTreeMap<String, String>;

fn invalid(why: impl Into<String>) -> ApiError {
    ApiError::new(Reason::Invalid, why)
}

/// Refuses what is not known: a typing error must not look like success.
fn known(params: &Params, names: &[&str]) -> Result<(), ApiError> {
    match params.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(invalid(format!(
            "the parameter \"{key}\" is unknown; known are {}",
            names.join(", ")
        ))),
        None => Ok(()),
    }
}

fn number(params: &Params, name: &str) -> Result<Option<u64>, ApiError> {
    let parse = |text: &String| {
        text.parse().map_err(|_| invalid(format!("{name}=\"{text}\" is not a number")))
    };
    params.get(name).map(parse).transpose()
}

/// A duration such as `30s`, `500ms` or `2m`; a bare number is seconds.
fn duration(params: &Params, name: &str) -> Result<Option<Duration>, ApiError> {
    let Some(text) = params.get(name) else {
        return Ok(None);
    };
    let bad = || invalid(format!("{name}=\"{text}\" is not a duration such as 30s or 500ms"));
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let count: u64 = text[..split].parse().map_err(|_| bad())?;
    match &text[split..] {
        "ms" => Ok(Some(Duration::from_millis(count))),
        "" | "s" => Ok(Some(Duration::from_secs(count))),
        "m" => Ok(Some(Duration::from_secs(count.saturating_mul(60)))),
        _ => Err(bad()),
    }
}

async fn submit(
    State(context): State<Context>,
    Query(params): Query<Params>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    known(&params, &["lines", "wait", "timeout"])?;
    let Context { node, intake, .. } = &context;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let body = whole_body(&context, &headers, body).await?;
    let kind = text("content-type").unwrap_or("text/plain");
    let records = match kind.split(';').next().unwrap_or("").trim() {
        "application/json" => json::records_of_json(&body)?,
        "application/octet-stream" => vec![body],
        "text/plain" | "application/x-www-form-urlencoded" | "" if params.contains_key("lines") => {
            lines(&body)
        }
        "text/plain" | "application/x-www-form-urlencoded" | "" => vec![body],
        other => {
            return Err(invalid(format!(
                "the content type {other} is unknown; known are text/plain, application/json and \
                 application/octet-stream"
            ))
            .into());
        }
    };
    let wait_all = match params.get("wait").map(String::as_str) {
        None | Some("quorum") => false,
        Some("all") => true,
        Some(other) => return Err(invalid(format!("wait=\"{other}\" is not quorum or all")).into()),
    };
    let request_id = match text("idempotency-key") {
        Some(key) => request_id_of_key(key)?,
        None => request_id(&[])?,
    };
    let expect_next = match text("expect-next") {
        Some(text) => Some(text.parse().map_err(|_| invalid("Expect-Next is a sequence number"))?),
        None => None,
    };
    let begun = Instant::now();
    let submit = Submit {
        records,
        request_id,
        expect_next,
        wait_all,
        never_forward: text("forward").is_some_and(|value| value.eq_ignore_ascii_case("never")),
        deadline: intake.deadline(begun, duration(&params, "timeout")?),
    };
    let done = intake.submit(node, submit, begun).await?;
    Ok(axum::Json(response_of(done)).into_response())
}

/// The body of a request that carries values.
pub(super) async fn whole_body(
    context: &Context,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, ApiError> {
    let bytes_max = context.intake.message_bytes_max();
    let too_large =
        || ApiError::new(Reason::TooLarge, format!("the body is larger than {bytes_max} bytes"));
    // Refused from its head: not a byte of the body is read.
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|length| length.trim().parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    to_bytes(body, bytes_max).await.map_err(|_| too_large())
}

/// One record per line; the end of the last line may be missing.
fn lines(body: &Bytes) -> Vec<Bytes> {
    let body = body.strip_suffix(b"\n").map_or_else(|| body.clone(), |text| body.slice_ref(text));
    let line = |line: &[u8]| body.slice_ref(line.strip_suffix(b"\r").unwrap_or(line));
    body.split(|byte| *byte == b'\n').map(line).collect()
}

async fn read(
    State(context): State<Context>,
    Query(params): Query<Params>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    known(&params, &["from", "limit", "wait", "consistency"])?;
    let node = &context.node;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let wait = duration(&params, "wait")?.unwrap_or_default().min(WAIT_MAX);
    let deadline = Instant::now() + wait;
    match params.get("consistency").map(String::as_str) {
        None | Some("linearizable") => {
            node.read_barrier(context.intake.deadline(Instant::now(), None)).await?;
        }
        Some("local") => {}
        Some(other) => {
            return Err(
                invalid(format!("consistency=\"{other}\" is not linearizable or local")).into()
            );
        }
    }
    let from = number(&params, "from")?;
    if accept.contains("text/event-stream") {
        let last =
            headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let from = last.map(|last| last.saturating_add(1)).or(from).unwrap_or(1);
        return Ok(follow(node.clone(), from.max(1)));
    }
    let from = from.unwrap_or(1).max(1);
    let limit = number(&params, "limit")?.unwrap_or(LIMIT_DEFAULT);
    let mut progress = node.progress();
    let mut next_seq = progress.borrow_and_update().next_seq;
    while from >= next_seq && Instant::now() < deadline {
        let changed = tokio::time::timeout_at(deadline.into(), progress.changed()).await;
        next_seq = progress.borrow_and_update().next_seq;
        if !matches!(changed, Ok(Ok(()))) {
            break;
        }
    }
    if from > next_seq {
        let mut error =
            ApiError::new(Reason::Future, format!("the next sequence number is {next_seq}"));
        error.next_seq = Some(next_seq);
        return Err(error.into());
    }
    let records = node.read(from, limit, READ_BYTES).await?;
    let end = records.last().map_or(from, |record| record.seq + 1);
    if accept.contains("text/plain") {
        let mut text = Vec::new();
        for record in &records {
            tercet_replica::escape_value(&record.value, &mut text);
            text.push(b'\n');
        }
        let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        return Ok((kind, text).into_response());
    }
    Ok(axum::Json(json::records_to_json(&records, end)).into_response())
}

/// Records as server-sent events; the id is the sequence number, so that a browser resumes by
/// itself.
fn follow(node: NodeHandle, mut from: u64) -> Response {
    let (to_client, from_here) = mpsc::channel::<Result<Event, Infallible>>(64);
    tokio::spawn(async move {
        let mut progress = node.progress();
        loop {
            let Ok(records) = node.read(from, 256, 256 << 10).await else {
                return;
            };
            for record in &records {
                let Record { seq, .. } = record;
                let event = Event::default()
                    .id(seq.to_string())
                    .data(json::record_to_json(record).to_string());
                if to_client.send(Ok(event)).await.is_err() {
                    return;
                }
                from = seq + 1;
            }
            while progress.borrow_and_update().next_seq <= from {
                tokio::select! {
                    changed = progress.changed() => {
                        if changed.is_err() || progress.borrow().stopping {
                            return;
                        }
                    }
                    () = to_client.closed() => return,
                }
            }
        }
    });
    Sse::new(ReceiverStream::new(from_here)).keep_alive(KeepAlive::default()).into_response()
}

async fn tail(State(context): State<Context>) -> Result<Response, Problem> {
    context.node.read_barrier(context.intake.deadline(Instant::now(), None)).await?;
    let progress = *context.node.progress().borrow();
    let tail = v1::TailResponse {
        first_seq: progress.first_seq,
        next_seq: progress.next_seq,
        term: progress.term,
    };
    Ok(axum::Json(tail).into_response())
}

async fn status(State(context): State<Context>) -> Result<Response, Problem> {
    Ok(axum::Json(context.node.status().await?).into_response())
}

async fn explain(State(context): State<Context>) -> Result<Response, Problem> {
    Ok(axum::Json(explained(&context.node).await?).into_response())
}

/// What happens on this node; a gap is said, not smoothed over.
async fn events(State(context): State<Context>) -> Response {
    let node = context.node.id();
    let mut stopping = context.node.progress();
    let events = tokio_stream::wrappers::BroadcastStream::new(context.node.events());
    let events = events.map(move |event| {
        let event = match event {
            Ok(event) => Event::default()
                .id(event.seq.to_string())
                .data(json::event_to_json(&event, node).to_string()),
            Err(tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged(count)) => {
                Event::default().event("gap").data(count.to_string())
            }
        };
        Ok::<_, Infallible>(event)
    });
    let until_stop = async move {
        let _ = stopping.wait_for(|progress| progress.stopping).await;
    };
    let events = futures_util::StreamExt::take_until(events, until_stop);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

async fn ready(State(context): State<Context>) -> Response {
    let progress = *context.node.progress().borrow();
    let reason = if progress.stopping {
        "this node is shutting down"
    } else if !progress.serving {
        "the cluster is not formed yet, or this node is not readmitted yet"
    } else if progress.leader.is_none() {
        "no leader is known"
    } else {
        return "ok\n".into_response();
    };
    let mut error = ApiError::new(Reason::NoLeader, reason);
    error.outcome = Outcome::NotAppended;
    Problem(error).into_response()
}

async fn metrics(State(context): State<Context>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], context.node.metrics().encode()).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn index(State(context): State<Context>) -> Html<String> {
    let progress = *context.node.progress().borrow();
    let leader =
        progress.leader.map_or("nobody it knows of".to_owned(), |leader| format!("n{leader}"));
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Tercet n{id}</title>\
         <style>body{{font:16px/1.5 system-ui;margin:3em auto;max-width:40em;padding:0 1em}}</style>\
         <h1>Tercet, node n{id}</h1><p>Leader: {leader}, term {term}. Next sequence number: {next}.</p>\
         <ul><li><a href=/v1/status>status</a><li><a href=/v1/explain>explain</a>\
         <li><a href=/v1/records>records</a><li><a href=/v1/events>events</a> (a stream)\
         <li><a href=/metrics>metrics</a><li><a href=/openapi.json>the HTTP API</a></ul></html>",
        id = context.node.id(),
        term = progress.term,
        next = progress.next_seq,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_records() {
        let records = |text: &'static str| lines(&Bytes::from_static(text.as_bytes()));
        assert_eq!(records("a\nb\n"), ["a", "b"]);
        assert_eq!(records("a\r\n\nb"), ["a", "", "b"]);
        assert_eq!(records(""), [""]);
    }

    #[test]
    fn durations_have_units() {
        let of = |text: &str| duration(&[("wait".to_owned(), text.to_owned())].into(), "wait");
        assert_eq!(of("30s").unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(of("5").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(of("250ms").unwrap(), Some(Duration::from_millis(250)));
        assert!(of("soon").is_err() && of("1h30").is_err() && of("").is_err());
    }
}
