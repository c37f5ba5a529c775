//! The links of one node: dialled ones to send on, accepted ones to receive from. All of it runs
//! on the owner's thread, so nothing here is shared between threads.
//!
//! The owner sends without waiting ([`Outgoing::send`] writes to the socket at once); only what the
//! socket does not take is left to the link's task. So a leader's entries are on their way before
//! its own disk write begins.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::Message as _;
use socket2::SockRef;
use tercet_raft::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::frame::{self, Frame, FrameReader, Kind};
use super::hello::{Channel, HELLO_BYTES_MAX, Hello, HelloReply, Local, Remote};
use super::wire;
use tercet_replica::PeerMessage;

/// How long the other side may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// The pauses between two attempts to connect: from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// How long a connection may go without its bytes being acknowledged by the other machine.
const SILENCE: Duration = Duration::from_secs(5);
/// The most bytes that wait for one link. What comes on top is dropped: the protocol repeats it.
const QUEUE_BYTES_MAX: usize = 96 << 20;
/// The most connections that peers may have open here, half-open ones included.
const ACCEPTED_MAX: usize = 64;
/// How many messages may wait for the owner before a link is no longer read.
const INBOX: usize = 64;

/// What happened to a link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A dialled link is up.
    Up(Remote),
    /// A dialled link broke, or could not be made.
    Down { peer: NodeId, was_up: bool, why: String },
    /// A peer was refused, or spoke nonsense.
    /// `why` stays the same when the same one tries again, from whatever port.
    Refused { address: String, why: String },
}

/// A message that arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) from: Remote,
    pub(crate) body: Body,
}

/// What arrived.
#[derive(Debug)]
pub(crate) enum Body {
    /// For the replica.
    Replica(PeerMessage),
    /// A submit that a peer passes on, or its answer: the owner decodes it.
    Forward(Frame),
    /// The peer's link ended: nothing more comes on it. Behind all that came, so that a leader's last
    /// words are not taken for a sign of life.
    Ended,
}

/// One dialled link.
#[derive(Debug)]
pub(crate) struct Outgoing {
    state: RefCell<OutState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct OutState {
    stream: Option<Rc<TcpStream>>,
    queue: VecDeque<Bytes>,
    queue_bytes: usize,
    broken: Option<io::Error>,
}

impl Outgoing {
    fn new() -> Self {
        Self { state: RefCell::new(OutState::default()), wake: Notify::new() }
    }

    /// Sends a frame, as far as the socket takes it now; the rest follows. `false` if it is lost:
    /// the link is down or its queue is full.
    pub(crate) fn send(&self, pieces: Vec<Bytes>) -> bool {
        {
            let mut state = self.state.borrow_mut();
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            if state.stream.is_none() || state.queue_bytes + bytes > QUEUE_BYTES_MAX {
                return false;
            }
            state.queue_bytes += bytes;
            state.queue.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
        }
        true
    }

    /// Writes what the socket takes. Called by the owner after a batch of sends.
    pub(crate) fn pump(&self) {
        let mut state = self.state.borrow_mut();
        let Some(stream) = state.stream.clone() else {
            return;
        };
        while !state.queue.is_empty() {
            let written = {
                let slices: Vec<IoSlice<'_>> =
                    state.queue.iter().take(64).map(|piece| IoSlice::new(piece)).collect();
                stream.try_write_vectored(&slices)
            };
            match written {
                Ok(0) => {
                    state.broken = Some(io::ErrorKind::WriteZero.into());
                    break;
                }
                Ok(n) => state.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    state.broken = Some(error);
                    break;
                }
            }
        }
        if !state.queue.is_empty() || state.broken.is_some() {
            self.wake.notify_one();
        }
    }

    /// The connection breaks, as if the other side had closed it.
    fn reset(&self) {
        self.state.borrow_mut().broken = Some(io::ErrorKind::ConnectionReset.into());
        self.wake.notify_one();
    }

    fn install(&self, stream: Option<Rc<TcpStream>>) {
        *self.state.borrow_mut() = OutState { stream, ..OutState::default() };
    }

    /// Whether the socket did not take everything.
    fn is_waiting(&self) -> bool {
        !self.state.borrow().queue.is_empty()
    }

    fn take_broken(&self) -> Option<io::Error> {
        self.state.borrow_mut().broken.take()
    }
}

impl OutState {
    fn advance(&mut self, mut written: usize) {
        self.queue_bytes -= written;
        while written > 0 {
            let front = self.queue.front_mut().expect("what was written was queued");
            if front.len() <= written {
                written -= front.len();
                self.queue.pop_front();
            } else {
                front.advance(written);
                written = 0;
            }
        }
    }
}

/// All links of a node. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Links {
    outgoing: BTreeMap<(NodeId, Channel), Rc<Outgoing>>,
    /// Aborted when the links are dropped.
    _tasks: JoinSet<()>,
}

/// Where what arrives goes.
#[derive(Clone, Debug)]
struct Inbox {
    control: mpsc::Sender<Arrived>,
    bulk: mpsc::Sender<Arrived>,
    events: mpsc::UnboundedSender<LinkEvent>,
}

/// What the owner receives from.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) control: mpsc::Receiver<Arrived>,
    pub(crate) bulk: mpsc::Receiver<Arrived>,
    pub(crate) events: mpsc::UnboundedReceiver<LinkEvent>,
}

impl Links {
    /// Starts to dial all peers and to accept them. Must run inside a `LocalSet`.
    pub(crate) fn start(local: &Rc<Local>, listener: Rc<TcpListener>) -> (Self, Mailbox) {
        let (control, control_rx) = mpsc::channel(INBOX);
        let (bulk, bulk_rx) = mpsc::channel(INBOX);
        let (events, events_rx) = mpsc::unbounded_channel();
        let inbox = Inbox { control, bulk, events };
        let mut tasks = JoinSet::new();
        let mut outgoing = BTreeMap::new();
        for (peer, address) in local.members.iter().filter(|(node, _)| **node != local.node) {
            for channel in Channel::ALL {
                let link = Rc::new(Outgoing::new());
                outgoing.insert((*peer, channel), Rc::clone(&link));
                let (local, events) = (Rc::clone(local), inbox.events.clone());
                tasks.spawn_local(dial(link, *peer, channel, address.clone(), local, events));
            }
        }
        tasks.spawn_local(accept(listener, Rc::clone(local), inbox));
        let mailbox = Mailbox { control: control_rx, bulk: bulk_rx, events: events_rx };
        (Self { outgoing, _tasks: tasks }, mailbox)
    }

    /// Sends a replica's message; `false` if it is lost.
    pub(crate) fn send(&self, to: NodeId, message: &PeerMessage) -> bool {
        let channel = if wire::is_bulk(message) { Channel::Bulk } else { Channel::Control };
        let Some(link) = self.outgoing.get(&(to, channel)) else {
            return false;
        };
        let mut pieces = Vec::with_capacity(2);
        wire::encode(message, &mut pieces);
        link.send(pieces)
    }

    /// Sends a frame of another kind on the bulk link; `false` if it is lost.
    pub(crate) fn send_frame(&self, to: NodeId, kind: Kind, message: &impl prost::Message) -> bool {
        let Some(link) = self.outgoing.get(&(to, Channel::Bulk)) else {
            return false;
        };
        let mut pieces = Vec::with_capacity(1);
        frame::encode(kind, message, &[], &mut pieces);
        link.send(pieces)
    }

    /// How many bytes wait for the sockets of all links together.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.outgoing.values().map(|link| link.state.borrow().queue_bytes).sum()
    }

    /// Closes what is dialled to a peer; it is dialled again.
    pub(crate) fn reset(&self, peer: NodeId) {
        for (_, link) in self.outgoing.iter().filter(|((to, _), _)| *to == peer) {
            link.reset();
        }
    }

    /// Writes what all sockets take.
    pub(crate) fn pump(&self) {
        for link in self.outgoing.values() {
            link.pump();
        }
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(SILENCE))
}

/// Keeps one link to a peer alive.
async fn dial(
    link: Rc<Outgoing>,
    peer: NodeId,
    channel: Channel,
    address: String,
    local: Rc<Local>,
    events: mpsc::UnboundedSender<LinkEvent>,
) {
    let mut pause = RETRY.0;
    loop {
        let why = match connect(peer, channel, &address, &local).await {
            Ok((stream, remote)) => {
                pause = RETRY.0;
                let stream = Rc::new(stream);
                link.install(Some(Rc::clone(&stream)));
                if events.send(LinkEvent::Up(remote)).is_err() {
                    return;
                }
                let error = keep(&link, &stream).await;
                link.install(None);
                (true, format!("the connection to {address} ended: {error}"))
            }
            Err(why) => (false, why),
        };
        if events.send(LinkEvent::Down { peer, was_up: why.0, why: why.1 }).is_err() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn connect(
    peer: NodeId,
    channel: Channel,
    address: &str,
    local: &Local,
) -> Result<(TcpStream, Remote), String> {
    let attempt = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("{address} cannot be reached: {error}"))?;
        set_options(&stream).map_err(|error| format!("{address}: {error}"))?;
        let (stream, remote) = say_hello(stream, peer, channel, address, local).await?;
        Ok((stream, remote))
    };
    match timeout(HELLO_TIMEOUT, attempt).await {
        Ok(result) => result,
        Err(_) => Err(format!("{address} does not answer")),
    }
}

/// The first words of whoever dials, and the answer.
async fn say_hello<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    peer: NodeId,
    channel: Channel,
    address: &str,
    local: &Local,
) -> Result<(S, Remote), String> {
    let mut pieces = Vec::new();
    frame::encode(Kind::Hello, &local.hello(peer, channel), &[], &mut pieces);
    for mut piece in pieces {
        stream
            .write_all_buf(&mut piece)
            .await
            .map_err(|error| format!("{address} hung up: {error}"))?;
    }
    let mut reader = FrameReader::new(stream, HELLO_BYTES_MAX);
    let frame = match reader.next().await {
        Ok(Some(frame)) if frame.kind == Kind::HelloReply => frame,
        Ok(_) => return Err(format!("{address} hung up without an answer")),
        Err(error) => return Err(format!("{address}: {error}")),
    };
    let reply = HelloReply::decode(frame.message)
        .map_err(|error| format!("{address}: its answer cannot be read: {error}"))?;
    let remote = local.accept(peer, channel, &reply)?;
    Ok((reader.into_stream(), remote))
}

/// Writes what the owner could not, until the connection ends. Says why it did.
async fn keep(link: &Outgoing, stream: &TcpStream) -> io::Error {
    let mut scratch = [0; 64];
    loop {
        if let Some(error) = link.take_broken() {
            return error;
        }
        tokio::select! {
            // Nothing is ever sent back on a dialled link: to be readable is to have ended.
            ready = stream.readable() => {
                if let Err(error) = ready {
                    return error;
                }
                match stream.try_read(&mut scratch) {
                    Ok(0) => return io::ErrorKind::ConnectionReset.into(),
                    Ok(_) => return io::Error::other("unexpected bytes"),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return error,
                }
            }
            ready = stream.writable(), if link.is_waiting() => {
                if let Err(error) = ready {
                    return error;
                }
                link.pump();
            }
            () = link.wake.notified() => {}
        }
    }
}

/// Accepts peers.
async fn accept(listener: Rc<TcpListener>, local: Rc<Local>, inbox: Inbox) {
    let places = std::sync::Arc::new(Semaphore::new(ACCEPTED_MAX));
    let mut tasks = JoinSet::new();
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            // Out of descriptors, most likely: it passes.
            sleep(RETRY.1).await;
            continue;
        };
        while tasks.try_join_next().is_some() {}
        let Ok(place) = std::sync::Arc::clone(&places).try_acquire_owned() else {
            let why = format!("there are {ACCEPTED_MAX} connections of peers already");
            let address = address.to_string();
            let _ = inbox.events.send(LinkEvent::Refused { address, why });
            continue;
        };
        let (local, inbox) = (Rc::clone(&local), inbox.clone());
        tasks.spawn_local(async move {
            let address = address.to_string();
            let event = match set_options(&stream) {
                Ok(()) => receive(stream, address, &local, &inbox).await,
                Err(_) => None,
            };
            drop(place);
            if let Some(event) = event {
                let _ = inbox.events.send(event);
            }
        });
    }
}

/// Reads one accepted connection to its end. Says what is to be known about that.
async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    address: String,
    local: &Local,
    inbox: &Inbox,
) -> Option<LinkEvent> {
    let mut reader = FrameReader::new(stream, HELLO_BYTES_MAX);
    let refused = |why: String| Some(LinkEvent::Refused { address: address.clone(), why });
    let remote = match timeout(HELLO_TIMEOUT, greet(&mut reader, local)).await {
        Ok(Ok(remote)) => remote,
        Ok(Err(None)) => return None,
        Ok(Err(Some(why))) => return refused(why),
        Err(_) => return refused("it did not say who it is".to_owned()),
    };
    reader.trust();
    let sender = match remote.channel {
        Channel::Control => &inbox.control,
        Channel::Bulk => &inbox.bulk,
    };
    let why = loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break None,
            Err(frame::FrameError::Io(_)) => break None,
            Err(error) => break Some(error.to_string()),
        };
        let body = match frame.kind {
            Kind::Forward | Kind::ForwardReply => Body::Forward(frame),
            Kind::Raft | Kind::Form => match wire::decode(frame) {
                Ok(message) => Body::Replica(message),
                Err(error) => break Some(error.to_string()),
            },
            Kind::Hello | Kind::HelloReply => break Some("a second HELLO".to_owned()),
        };
        if let Body::Replica(message) = &body
            && !is_from(message, &remote)
        {
            break Some("it speaks for another node".to_owned());
        }
        if sender.send(Arrived { from: remote.clone(), body }).await.is_err() {
            return None;
        }
    };
    let peer = remote.node;
    let _ = sender.send(Arrived { from: remote, body: Body::Ended }).await;
    why.map(|why| LinkEvent::Refused { address, why: format!("{peer}: {why}") })
}

/// Whether a message says the same sender as the connection's HELLO.
fn is_from(message: &PeerMessage, remote: &Remote) -> bool {
    match message {
        PeerMessage::Form { incarnation, .. } => *incarnation == remote.incarnation,
        PeerMessage::Raft { envelope, .. } => {
            envelope.from == remote.node && envelope.from_incarnation == remote.incarnation
        }
    }
}

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    reader: &mut FrameReader<S>,
    local: &Local,
) -> Result<Remote, Option<String>> {
    let frame = match reader.next().await {
        Ok(Some(frame)) if frame.kind == Kind::Hello => frame,
        // Somebody looked whether the port is open.
        Ok(None) => return Err(None),
        Ok(Some(_)) => return Err(Some("it did not begin with HELLO".to_owned())),
        Err(error) => return Err(Some(error.to_string())),
    };
    let hello = Hello::decode(frame.message).map_err(|error| Some(error.to_string()))?;
    let (reply, remote) = local.answer(&hello);
    let mut pieces = Vec::new();
    frame::encode(Kind::HelloReply, &reply, &[], &mut pieces);
    for mut piece in pieces {
        reader.stream().write_all_buf(&mut piece).await.map_err(|error| Some(error.to_string()))?;
    }
    remote.map_err(Some)
}

/// Reads these bytes as an accepted connection, as far as they go, and then the end of the stream:
/// what would reach the owner, and what is to be known about the connection.
pub(crate) async fn receive_bytes(
    bytes: &[u8],
    local: &Local,
) -> (Vec<Arrived>, Option<LinkEvent>) {
    // A frame is never shorter than its header, so that nobody waits for a place.
    let (control, mut arrived) = mpsc::channel(bytes.len() / frame::HEADER_BYTES + 1);
    let (events, mut seen) = mpsc::unbounded_channel();
    let inbox = Inbox { bulk: control.clone(), control, events };
    let stream = tokio::io::join(bytes, tokio::io::sink());
    let ended = receive(stream, "a peer".to_owned(), local, &inbox).await;
    let mut messages = Vec::new();
    while let Ok(message) = arrived.try_recv() {
        messages.push(message);
    }
    (messages, seen.try_recv().ok().or(ended))
}

/// Reads these bytes as the answer to this node's HELLO.
pub(crate) async fn dial_bytes(
    bytes: &[u8],
    peer: NodeId,
    local: &Local,
) -> Result<Remote, String> {
    let stream = tokio::io::join(bytes, tokio::io::sink());
    say_hello(stream, peer, Channel::Control, "a peer", local).await.map(|(_, remote)| remote)
}
