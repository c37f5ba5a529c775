//! Clients: they submit values that nobody else submits, retry with the same request id until they
//! are answered, read at any node, and follow the log.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{NodeId, Time};
use tercet_replica::{SubmitError, Submitted};

use super::invariant::{Found, Invariant};
use super::options::Options;
use super::watch::Watch;
use crate::history::{History, Outcome, ReadOp, SubmitOp};
use crate::random::Random;
use crate::world::{Answer, OpId, World};

/// One request, with what was answered to each attempt that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u128,
    pub(crate) values: Vec<Bytes>,
    /// When it was first sent, and when it was first acknowledged: ticks, of which no two are the
    /// same.
    pub(crate) begun: u64,
    pub(crate) ended: Option<u64>,
    pub(crate) answers: Vec<Submitted>,
    /// Whether some attempt may have appended it.
    pub(crate) maybe: bool,
    pub(crate) given_up: bool,
}

/// What an operation was for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Submit { client: usize, request: usize },
    Read { client: usize, at: NodeId, from_seq: u64, limit: usize, begun: u64, linearizable: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Nothing,
    Waiting {
        op: OpId,
    },
    /// The next attempt is still to be made.
    Retrying {
        request: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Client {
    doing: Doing,
    /// The request that it is about.
    request: Option<usize>,
    /// When it does something next: begins, retries, or loses its patience.
    next_at: Time,
    patience: Duration,
    /// Where it believes the leader to be.
    favourite: NodeId,
    /// Of one that only follows the log: the next sequence number.
    tail: Option<u64>,
    /// It comes once.
    once: bool,
}

/// All clients, and what they were told.
#[derive(Debug)]
pub(crate) struct Load {
    random: Random,
    clients: Vec<Client>,
    nodes: Vec<NodeId>,
    ops: BTreeMap<OpId, Purpose>,
    pub(crate) requests: Vec<Request>,
    pub(crate) reads: Vec<ReadOp>,
    tick: u64,
    rest_ms: u64,
    /// Whether much happens.
    busy: bool,
    closing: bool,
    ids: u128,
    /// The highest sequence number that some client was told.
    seen: u64,
}

/// How long a client waits that asks a healed cluster.
const PROBE_PATIENCE: Duration = Duration::from_millis(100);

impl Load {
    pub(crate) fn new(options: &Options, now: Time) -> Self {
        let mut random = Random::new(options.seed ^ 0x6c6f_6164);
        let nodes = options.world.node_ids();
        let mut clients = Vec::new();
        for number in 0..options.clients {
            clients.push(Client {
                doing: Doing::Nothing,
                request: None,
                next_at: now,
                patience: Duration::from_millis(50 + random.below(1_000)),
                favourite: nodes[0],
                tail: (number == 2).then_some(1),
                once: false,
            });
        }
        Self {
            clients,
            nodes,
            ops: BTreeMap::new(),
            requests: Vec::new(),
            reads: Vec::new(),
            tick: 0,
            rest_ms: 20 + random.below(400),
            busy: true,
            closing: false,
            ids: u128::from(options.seed) << 64,
            seen: 0,
            random,
        }
    }

    /// Much is going on from now on, or little.
    pub(crate) fn set_busy(&mut self, busy: bool, now: Time) {
        if busy && !self.busy {
            for client in self.clients.iter_mut().filter(|c| c.doing == Doing::Nothing) {
                client.next_at = client.next_at.min(now.after(Duration::from_millis(5)));
            }
        }
        self.busy = busy;
    }

    /// From now on nothing new is asked, but by those who come.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// A client comes with one request; says which.
    pub(crate) fn come(&mut self, now: Time) -> usize {
        let (request, favourite) = (self.new_request(), self.any_node());
        self.clients.push(Client {
            doing: Doing::Retrying { request },
            request: Some(request),
            next_at: now,
            patience: PROBE_PATIENCE,
            favourite,
            tail: None,
            once: true,
        });
        request
    }

    /// A client sends one request to a node, and goes away.
    pub(crate) fn leave(&mut self, node: NodeId, world: &mut World) {
        let number = self.new_request();
        let request = &mut self.requests[number];
        request.maybe = true;
        let op = world.submit(node, request.id, request.values.clone());
        self.ops.insert(op, Purpose::Submit { client: 0, request: number });
    }

    /// A client comes with one large value.
    pub(crate) fn come_with_much(&mut self, now: Time) {
        let request = self.come(now);
        let mut value = format!("r{request}.0");
        value.push_str(&"x".repeat(40_000));
        self.requests[request].values = vec![Bytes::from(value)];
    }

    /// Whether every client has been answered.
    pub(crate) fn is_done(&self) -> bool {
        self.clients.iter().all(|client| client.doing == Doing::Nothing || client.request.is_none())
    }

    /// When some client does something next.
    pub(crate) fn next_at(&self) -> Option<Time> {
        let idle =
            |client: &&Client| client.doing == Doing::Nothing && (self.closing || client.once);
        self.clients.iter().filter(|client| !idle(client)).map(|client| client.next_at).min()
    }

    fn now_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn any_node(&mut self) -> NodeId {
        let at = self.random.below(self.nodes.len() as u64);
        self.nodes[usize::try_from(at).expect("few nodes")]
    }

    fn new_request(&mut self) -> usize {
        let number = self.requests.len() as u64;
        let count = if self.random.chance(70) { 1 } else { 1 + self.random.below(4) };
        let large = self.random.below(400) == 0;
        let value = |at| {
            let mut value = format!("r{number}.{at}");
            if large {
                value.push_str(&"x".repeat(20_000));
            }
            Bytes::from(value)
        };
        let values = (0..count).map(value).collect();
        self.ids += 1;
        let begun = self.now_tick();
        self.requests.push(Request {
            id: self.ids,
            values,
            begun,
            ended: None,
            answers: Vec::new(),
            maybe: false,
            given_up: false,
        });
        self.requests.len() - 1
    }

    // --- answers ---

    /// Takes the answers in: after every step of the world, so that the ticks are exact.
    pub(crate) fn listen(&mut self, world: &mut World, watch: &mut Watch) -> Found {
        for op in world.take_answered() {
            let Some(purpose) = self.ops.remove(&op) else { continue };
            let Some(answer) = world.answer(op).cloned() else { continue };
            world.forget(op);
            match purpose {
                Purpose::Submit { client, request } => {
                    self.on_submitted(op, client, request, answer, world, watch)?;
                }
                Purpose::Read { client, at, from_seq, limit, begun, linearizable } => {
                    let ended = self.now_tick();
                    let Answer::Read(values) = answer else {
                        watch.count("a read not confirmed");
                        self.rest_after(op, client, world.now());
                        continue;
                    };
                    let records = (from_seq..).zip(values.into_iter().map(|v| v.to_vec()));
                    let records: Vec<_> = records.collect();
                    self.on_read(client, at, linearizable, world, watch, records.len() as u64);
                    let limit = limit as u64;
                    let read = ReadOp { linearizable, from_seq, limit, begun, ended, records };
                    self.reads.push(read);
                    self.rest_after(op, client, world.now());
                }
            }
        }
        Ok(())
    }

    fn on_read(
        &mut self,
        client: usize,
        at: NodeId,
        linearizable: bool,
        world: &World,
        watch: &mut Watch,
        count: u64,
    ) {
        if linearizable {
            watch.count("a linearizable read");
            let leads = |raft: &tercet_raft::Raft| raft.leader() == Some(at);
            if world.replica(at).and_then(|r| r.raft()).is_some_and(|raft| !leads(raft)) {
                watch.count("a linearizable read on a follower");
            }
        }
        if let Some(next) = &mut self.clients[client].tail
            && count > 0
        {
            *next += count;
            watch.count("a tail went on");
        }
    }

    fn is_waiting_for(&self, client: usize, op: OpId) -> bool {
        self.clients[client].doing == Doing::Waiting { op }
    }

    fn on_submitted(
        &mut self,
        op: OpId,
        client: usize,
        number: usize,
        answer: Answer,
        world: &mut World,
        watch: &mut Watch,
    ) -> Found {
        let tick = self.now_tick();
        let now = world.now();
        let is_waiting = self.is_waiting_for(client, op);
        let is_patient = self.closing || self.clients[client].once;
        let request = &mut self.requests[number];
        match answer {
            Answer::Submitted(done) => {
                watch.count("acknowledged");
                if done.duplicate {
                    watch.count("a retry answered as such");
                    if request.maybe {
                        watch.count("a retry of what nobody knew");
                    }
                }
                if request.values[0].len() > 10_000 {
                    watch.count("a large value");
                }
                self.seen = self.seen.max(done.last_seq);
                request.ended.get_or_insert(tick);
                watch.look_up_acknowledged(world, &done)?;
                self.requests[number].answers.push(done);
                if is_waiting {
                    self.rest(client, now);
                }
            }
            Answer::Refused {
                why: SubmitError::KeyReused | SubmitError::Conflict { .. }, ..
            } => {
                let text = format!("request {:#x} was refused: {answer:?}", request.id);
                return Err((Invariant::ExactlyOnce, text));
            }
            Answer::Refused { why, leader } => {
                if why == SubmitError::DiskFull {
                    watch.count("refused for want of room");
                }
                let may_give_up = !request.maybe && !is_patient;
                if !is_waiting {
                } else if may_give_up && self.random.chance(5) {
                    self.requests[number].given_up = true;
                    watch.count("given up, never appended");
                    self.rest(client, now);
                } else {
                    self.retry(client, number, leader, now);
                }
            }
            Answer::Unknown => {
                request.maybe = true;
                if is_waiting {
                    self.retry(client, number, None, now);
                }
            }
            Answer::Read(_) => {
                let text = "a submit was answered as a read".to_owned();
                return Err((Invariant::Linearizability, text));
            }
        }
        Ok(())
    }

    fn rest_after(&mut self, op: OpId, client: usize, now: Time) {
        if self.is_waiting_for(client, op) {
            self.rest(client, now);
        }
    }

    fn rest(&mut self, at: usize, now: Time) {
        let quiet = if self.busy { 1 } else { 80 };
        let ms = self.random.below(self.rest_ms * quiet);
        let client = &mut self.clients[at];
        client.doing = Doing::Nothing;
        client.request = None;
        client.next_at = now.after(Duration::from_millis(ms));
    }

    fn retry(&mut self, at: usize, request: usize, leader: Option<NodeId>, now: Time) {
        // Whoever is told where to go is soon there; whoever is not asks less often in quiet times.
        let quiet = if self.busy || self.closing || leader.is_some() { 1 } else { 20 };
        let ms = 1 + self.random.below(40 * quiet);
        let favourite = leader.unwrap_or_else(|| self.any_node());
        let client = &mut self.clients[at];
        client.favourite = favourite;
        client.doing = Doing::Retrying { request };
        client.next_at = now.after(Duration::from_millis(ms));
    }

    // --- questions ---

    /// Lets the clients act whose time has come.
    pub(crate) fn act(&mut self, world: &mut World) {
        let now = world.now();
        for at in 0..self.clients.len() {
            let client = self.clients[at];
            if client.next_at > now {
                continue;
            }
            match client.doing {
                Doing::Waiting { .. } => match client.request {
                    Some(request) => {
                        self.requests[request].maybe = true;
                        self.retry(at, request, None, now);
                    }
                    None => self.rest(at, now),
                },
                Doing::Nothing if self.closing || client.once => {}
                Doing::Nothing if client.tail.is_some() || self.random.chance(30) => {
                    self.read(at, world);
                }
                Doing::Nothing => {
                    let request = self.new_request();
                    let strays = self.random.chance(20);
                    let to = if strays { self.any_node() } else { client.favourite };
                    self.send(at, request, to, world);
                }
                Doing::Retrying { request } => self.send(at, request, client.favourite, world),
            }
        }
    }

    fn wait(&mut self, at: usize, op: OpId, request: Option<usize>, now: Time) {
        let client = &mut self.clients[at];
        client.doing = Doing::Waiting { op };
        client.request = request;
        client.next_at = now.after(client.patience);
    }

    fn read(&mut self, client: usize, world: &mut World) {
        let at = self.any_node();
        let tail = self.clients[client].tail;
        let linearizable = tail.is_none() && self.random.chance(80);
        let back = self.random.below(8);
        let from_seq = tail.unwrap_or_else(|| self.seen.saturating_sub(back).max(1));
        let limit = if self.random.chance(5) { 1_000 } else { 20 };
        let begun = self.now_tick();
        let op = world.read_from(at, from_seq, limit, !linearizable);
        self.ops.insert(op, Purpose::Read { client, at, from_seq, limit, begun, linearizable });
        self.wait(client, op, None, world.now());
    }

    fn send(&mut self, client: usize, number: usize, to: NodeId, world: &mut World) {
        let request = &self.requests[number];
        let op = world.submit(to, request.id, request.values.clone());
        self.ops.insert(op, Purpose::Submit { client, request: number });
        self.wait(client, op, Some(number), world.now());
    }

    /// What the clients saw.
    pub(crate) fn history(&self) -> History {
        let submit = |request: &Request| {
            let outcome = match request.answers.first() {
                Some(done) => Outcome::Acknowledged { first_seq: done.first_seq },
                None if request.given_up && !request.maybe => Outcome::NotAppended,
                None => Outcome::Unknown,
            };
            SubmitOp {
                values: request.values.iter().map(|value| value.to_vec()).collect(),
                begun: request.begun,
                ended: request.ended.unwrap_or(u64::MAX),
                outcome,
            }
        };
        let submits = self.requests.iter().map(submit).collect();
        History { submits, reads: self.reads.clone() }
    }
}
