//! Entrances to what reads foreign bytes, for the fuzz targets in `fuzz/`: the client port without
//! its socket and a link between nodes without its socket; and the codec of such a link, for the
//! measurements in `bench/`. Not a part of the API.
//!
//! The code behind them is the node's own, from the first byte to the last; only the owner of the
//! node's state is replaced, by one that answers every command at once and in the same way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tercet_client::{ApiError, Reason, v1};
use tercet_raft::{Incarnation, NodeId};
use tercet_replica::PeerMessage;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tower::ServiceExt as _;

use crate::api;
use crate::config::Limits;
use crate::forward;
use crate::node::{Command, LabAccess, NodeHandle, Page, Progress, Range, Record, Submitted};
use crate::peer::frame::{self, Kind};
use crate::peer::hello::{Channel, Local};
use crate::peer::link::{self, Body as LinkBody, LinkEvent};
use crate::peer::wire;

/// How often the runtime turns before an answer that has not come is given up: a stream that
/// follows the log never ends, and a read may wait for what is not yet there.
const TURNS: usize = 200;
/// The most bytes that are taken of an answer.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// The sequence number that the pretended log ends at.
const NEXT_SEQ: u64 = 4;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without sockets can be built")
}

/// What `future` gives within some turns of the runtime.
async fn within_turns<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..TURNS {
        let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(value) = polled {
            return Some(value);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// A request of a client, as it stands behind the HTTP framing.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Names and values.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// The body.
    pub body: Vec<u8>,
}

/// The answer to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub kind: String,
    /// The body, as far as it came by itself.
    pub body: Vec<u8>,
}

/// A client port whose node leads, has three records, and a lab without a token.
#[derive(Debug)]
pub struct ClientPort {
    runtime: Runtime,
    router: axum::Router,
    /// Ends the streams of a request that is over.
    _progress: watch::Sender<Progress>,
}

impl Default for ClientPort {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientPort {
    /// Sets the port up; it can be asked again and again.
    pub fn new() -> Self {
        let runtime = runtime();
        let (commands, mut inbox) = mpsc::unbounded_channel();
        let state = Progress {
            first_seq: 1,
            next_seq: NEXT_SEQ,
            term: 2,
            leader: Some(1),
            serving: true,
            stopping: false,
        };
        let (progress, seen) = watch::channel(state);
        let node = NodeHandle {
            lab: Some(LabAccess { token: None }),
            ..NodeHandle::of_stand_in(commands, seen)
        };
        let metrics = Arc::clone(&node.metrics);
        runtime.spawn(async move {
            while let Some(command) = inbox.recv().await {
                answer(command);
            }
        });
        let router = {
            let _entered = runtime.enter();
            api::for_fuzzing(node, Limits::default(), metrics).expect("the schema is whole")
        };
        Self { runtime, router, _progress: progress }
    }

    /// Answers a request; `None` if it cannot be written as HTTP, or if no answer comes by itself.
    pub fn answer(&self, request: &Request<'_>) -> Option<Answer> {
        let mut builder = axum::http::Request::builder().method(request.method).uri(request.target);
        for (name, value) in &request.headers {
            builder = builder.header(*name, HeaderValue::from_bytes(value).ok()?);
        }
        let body = Body::from(request.body.clone());
        let request = builder.body(body).ok()?;
        self.runtime.block_on(async {
            let response = within_turns(self.router.clone().oneshot(request)).await?;
            let response = response.unwrap_or_else(|never| match never {});
            let kind = response.headers().get(header::CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("").to_owned();
            let status = response.status().as_u16();
            let mut pieces = response.into_body().into_data_stream();
            let mut body = Vec::new();
            while body.len() < ANSWER_BYTES_MAX
                && let Some(Some(Ok(piece))) = within_turns(pieces.next()).await
            {
                body.extend_from_slice(&piece);
            }
            Some(Answer { status, kind, body })
        })
    }
}

/// What the pretended owner says.
fn answer(command: Command) {
    // Whoever asked may be gone.
    match command {
        Command::Submit { submit, reply, .. } | Command::Forward { submit, reply, .. } => {
            let result = match submit.expect_next {
                Some(seq) if seq != NEXT_SEQ => {
                    let mut error = ApiError::new(Reason::Conflict, "another number is next");
                    error.next_seq = Some(NEXT_SEQ);
                    Err(error)
                }
                Some(_) | None => Ok(Submitted {
                    first_seq: NEXT_SEQ,
                    last_seq: NEXT_SEQ + submit.records.len() as u64 - 1,
                    term: 2,
                    index: 9,
                    duplicate: submit.request_id.is_multiple_of(2),
                    durable_on: vec![1, 2],
                }),
            };
            let _ = reply.send(result.into());
        }
        Command::Barrier { reply } => drop(reply.send(Ok(()))),
        Command::Read { range: Range { from_seq, limit, .. }, reply, .. } => {
            let values: [&'static [u8]; 3] = [b"44", b"\xff\0", "ä\n<&>]]>\u{1}".as_bytes()];
            let record = |(value, seq): (&'static [u8], u64)| Record {
                seq,
                value: Bytes::from_static(value),
            };
            let records = values.into_iter().zip(1..).map(record);
            let wanted = records.filter(|record| record.seq >= from_seq);
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let records = wanted.take(limit).collect();
            let _ = reply.send(Ok(Page { records, next_seq: NEXT_SEQ }));
        }
        Command::Status { reply } => {
            let status = v1::StatusResponse {
                node: 1,
                role: "leader".to_owned(),
                leader: Some(1),
                leader_address: "127.0.0.1:1".to_owned(),
                term: 2,
                next_seq: NEXT_SEQ,
                ..v1::StatusResponse::default()
            };
            let _ = reply.send(status);
        }
        Command::Look { reply, .. } => drop(reply.send(Ok(v1::LookResponse::default()))),
        Command::Interfere { reply, .. } => drop(reply.send(Ok(()))),
        Command::Transfer { to, reply } => drop(reply.send(Ok(to.unwrap_or(2)))),
    }
}

/// What a peer said to node 1 of 3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Something for the replica.
    Message(PeerMessage),
    /// A submit, or the answer to one: whether it can be read.
    Forward(Result<(), String>),
}

/// A connection of a peer.
#[derive(Debug)]
pub struct Connection {
    /// What reached the node, in order.
    pub said: Vec<Said>,
    /// Why the peer was refused, or the connection given up; `None` if it ended between two frames.
    pub refused: Option<String>,
}

fn slot(node: u8) -> NodeId {
    NodeId::new(node).expect("1 to 3")
}

/// The incarnation that node 2 has in [`peer_hello`].
pub const PEER_INCARNATION: Incarnation = Incarnation(2);

fn local(node: u8) -> Local {
    Local {
        node: slot(node),
        cluster_name: "fuzz".to_owned(),
        members: (1..=3).map(|n| (slot(n), format!("h{n}:7"))).collect::<BTreeMap<_, _>>(),
        incarnation: Incarnation(u128::from(node)),
        origin: RefCell::new(Some(9)),
        client_address: format!("h{node}:8"),
    }
}

fn frame_of(kind: Kind, message: &impl prost::Message) -> Vec<u8> {
    let mut pieces = Vec::new();
    frame::encode(kind, message, &[], &mut pieces);
    pieces.concat()
}

/// The first frame of node 2, which node 1 accepts.
pub fn peer_hello() -> Vec<u8> {
    frame_of(Kind::Hello, &local(2).hello(slot(1), Channel::Bulk))
}

/// The frame with which node 2 answers node 1's HELLO.
pub fn peer_hello_reply() -> Vec<u8> {
    let (reply, _) = local(2).answer(&local(1).hello(slot(2), Channel::Control));
    frame_of(Kind::HelloReply, &reply)
}

/// The frame of a message.
pub fn peer_frame(message: &PeerMessage) -> Vec<u8> {
    let mut pieces = Vec::new();
    wire::encode(message, &mut pieces);
    pieces.concat()
}

/// The frame of a message as a link writes it: in pieces, entries not copied.
pub fn encode_peer(message: &PeerMessage, pieces: &mut Vec<Bytes>) {
    wire::encode(message, pieces);
}

/// The messages in whole frames, as a link reads them.
///
/// # Errors
/// Why the link would be given up, in words.
pub fn decode_peer(bytes: &[u8]) -> Result<Vec<PeerMessage>, String> {
    let mut reader = frame::FrameReader::new(bytes, usize::MAX);
    let mut messages = Vec::new();
    loop {
        let next = reader.next().now_or_never().expect("bytes in memory never have to be awaited");
        let Some(frame) = next.map_err(|error| error.to_string())? else { return Ok(messages) };
        messages.push(wire::decode(frame).map_err(|error| error.to_string())?);
    }
}

/// A frame with a submit that node 2 passes on, and one with an answer.
pub fn peer_forwards() -> [Vec<u8>; 2] {
    let submit = crate::node::Submit {
        records: vec![Bytes::from_static(b"44"), Bytes::new()],
        request_id: 7,
        expect_next: Some(3),
        wait_all: true,
        never_forward: false,
        deadline: std::time::Instant::now() + std::time::Duration::from_secs(1),
    };
    let error = ApiError::new(Reason::Conflict, "no").with_leader(Some("h3:8".to_owned()));
    [
        frame_of(Kind::Forward, &forward::encode_submit(1, &submit)),
        frame_of(Kind::ForwardReply, &forward::encode_reply(1, &Err(error))),
    ]
}

/// Node 1 accepts a connection on which these bytes come.
pub fn accept(bytes: &[u8]) -> Connection {
    let (arrived, event) = runtime().block_on(link::receive_bytes(bytes, &local(1)));
    let said = |arrived: link::Arrived| match arrived.body {
        LinkBody::Replica(message) => Some(Said::Message(message)),
        LinkBody::Forward(frame) => Some(Said::Forward(if frame.kind == Kind::Forward {
            forward::decode_submit(frame.message).map(drop)
        } else {
            forward::decode_reply(frame.message).map(drop)
        })),
        LinkBody::Ended => None,
    };
    let refused = match event {
        Some(LinkEvent::Refused { why, .. }) => Some(why),
        Some(LinkEvent::Up(_) | LinkEvent::Down { .. }) | None => None,
    };
    Connection { said: arrived.into_iter().filter_map(said).collect(), refused }
}

/// Node 1 dials node 2, and these bytes are what it hears.
///
/// # Errors
/// Why node 1 gives the link up, in words.
pub fn dial(bytes: &[u8]) -> Result<(), String> {
    runtime().block_on(link::dial_bytes(bytes, slot(2), &local(1))).map(drop)
}
