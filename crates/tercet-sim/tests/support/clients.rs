//! Clients that submit values nobody else submits, and retry with the same request id until they
//! are answered.

use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{NodeId, Time};
use tercet_replica::{SubmitError, Submitted};
use tercet_sim::{Answer, OpId, Random, World};

use super::watch::Watch;

/// One request, with all its attempts.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: u128,
    pub(crate) values: Vec<Bytes>,
    /// When it was first sent, and when it was first answered: ticks, of which no two are the same.
    pub(crate) begun: u64,
    pub(crate) acked: Option<(Submitted, u64)>,
    pub(crate) attempts: Vec<OpId>,
    /// Whether some attempt may have appended it.
    pub(crate) maybe: bool,
    pub(crate) given_up: bool,
}

/// One read that was answered.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) linearizable: bool,
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) values: Vec<Bytes>,
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    Nothing,
    Submitting {
        request: usize,
        op: OpId,
        since: Time,
    },
    /// The next attempt is still to be made.
    Retrying {
        request: usize,
    },
    Reading {
        op: OpId,
        begun: u64,
        since: Time,
        linearizable: bool,
    },
}

#[derive(Debug)]
struct Client {
    doing: Doing,
    rests_until: Time,
    /// Where it believes the leader to be.
    favourite: NodeId,
}

/// All clients, and what they were told.
#[derive(Debug)]
pub(crate) struct Clients {
    random: Random,
    clients: Vec<Client>,
    nodes: Vec<NodeId>,
    pub(crate) requests: Vec<Request>,
    pub(crate) reads: Vec<Read>,
    tick: u64,
    /// How long a client waits for an answer before it asks elsewhere.
    patience: Duration,
    /// How long a client rests at most.
    rest_ms: u64,
    closing: bool,
    ids: u128,
}

impl Clients {
    pub(crate) fn new(world: &World, seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xc11e);
        let nodes = world.node_ids();
        let mut clients = Vec::new();
        for _ in 0..2 + random.below(3) {
            let (doing, rests_until) = (Doing::Nothing, world.now());
            clients.push(Client { doing, rests_until, favourite: nodes[0] });
        }
        Self {
            clients,
            nodes,
            requests: Vec::new(),
            reads: Vec::new(),
            tick: 0,
            patience: Duration::from_millis(50 + random.below(1_000)),
            rest_ms: 10 + random.below(150),
            closing: false,
            ids: u128::from(seed) << 64,
            random,
        }
    }

    /// From now on nothing new is asked, but by one last client.
    pub(crate) fn close(&mut self, now: Time) {
        self.closing = true;
        self.come(now);
    }

    /// A client comes with one request.
    pub(crate) fn come(&mut self, now: Time) {
        let (request, favourite) = (self.new_request(), self.any_node());
        let doing = Doing::Retrying { request };
        self.clients.push(Client { doing, rests_until: now, favourite });
    }

    /// Whether every client has been answered.
    pub(crate) fn are_done(&self) -> bool {
        self.clients.iter().all(|client| matches!(client.doing, Doing::Nothing))
    }

    fn now_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn any_node(&mut self) -> NodeId {
        let at = self.random.below(self.nodes.len() as u64);
        self.nodes[usize::try_from(at).unwrap()]
    }

    fn new_request(&mut self) -> usize {
        let number = self.requests.len() as u64;
        let count = if self.random.chance(70) { 1 } else { 1 + self.random.below(4) };
        let records = (0..count).map(|at| Bytes::from(format!("r{number}.{at}"))).collect();
        self.ids += 1;
        let begun = self.now_tick();
        self.requests.push(Request {
            id: self.ids,
            values: records,
            begun,
            acked: None,
            attempts: Vec::new(),
            maybe: false,
            given_up: false,
        });
        self.requests.len() - 1
    }

    /// Looks for answers: after every step of the world, so that the ticks are exact.
    pub(crate) fn listen(&mut self, world: &mut World, watch: &mut Watch) -> Result<(), String> {
        for at in 0..self.clients.len() {
            match self.clients[at].doing {
                Doing::Nothing | Doing::Retrying { .. } => {}
                Doing::Submitting { request, op, .. } => {
                    if let Some(answer) = world.answer(op).cloned() {
                        self.on_submitted(at, request, answer, world, watch)?;
                    }
                }
                Doing::Reading { op, begun, linearizable, .. } => match world.answer(op) {
                    None => {}
                    Some(Answer::Read(values)) => {
                        let (values, ended) = (values.clone(), self.now_tick());
                        self.reads.push(Read { linearizable, begun, ended, values });
                        watch.count("read");
                        self.rest(at, world.now());
                    }
                    Some(Answer::Submitted(_) | Answer::Refused { .. } | Answer::Unknown) => {
                        self.rest(at, world.now());
                    }
                },
            }
        }
        Ok(())
    }

    fn on_submitted(
        &mut self,
        at: usize,
        number: usize,
        answer: Answer,
        world: &mut World,
        watch: &mut Watch,
    ) -> Result<(), String> {
        let tick = self.now_tick();
        let request = &mut self.requests[number];
        match answer {
            Answer::Submitted(done) => {
                watch.count(if done.duplicate { "duplicate answered" } else { "acknowledged" });
                if tick.is_multiple_of(16) {
                    check_durable(&done, world, watch)?;
                }
                request.acked = Some((done, tick));
                self.rest(at, world.now());
            }
            Answer::Refused {
                why: SubmitError::KeyReused | SubmitError::Conflict { .. }, ..
            } => {
                return Err(format!("{} was refused: {answer:?}", request.id));
            }
            Answer::Refused { why, leader } => {
                if why == SubmitError::DiskFull {
                    watch.count("disk full refused");
                }
                let may_give_up = !request.maybe && !self.closing;
                if may_give_up && self.random.chance(5) {
                    request.given_up = true;
                    self.rest(at, world.now());
                } else {
                    self.retry(at, number, leader, world.now());
                }
            }
            Answer::Unknown => {
                request.maybe = true;
                self.retry(at, number, None, world.now());
            }
            Answer::Read(_) => return Err("a submit was answered as a read".to_owned()),
        }
        Ok(())
    }

    fn rest(&mut self, at: usize, now: Time) {
        let ms = self.random.below(self.rest_ms);
        let client = &mut self.clients[at];
        client.doing = Doing::Nothing;
        client.rests_until = now.after(Duration::from_millis(ms));
    }

    fn retry(&mut self, at: usize, request: usize, leader: Option<NodeId>, now: Time) {
        let ms = 1 + self.random.below(40);
        let favourite = leader.unwrap_or_else(|| self.any_node());
        let client = &mut self.clients[at];
        client.favourite = favourite;
        client.doing = Doing::Retrying { request };
        client.rests_until = now.after(Duration::from_millis(ms));
    }

    /// Lets the clients act whose time has come.
    pub(crate) fn act(&mut self, world: &mut World) {
        let now = world.now();
        for at in 0..self.clients.len() {
            let Client { doing, rests_until, favourite } = self.clients[at];
            match doing {
                Doing::Submitting { request, since, .. } => {
                    if now > since.after(self.patience) {
                        self.requests[request].maybe = true;
                        self.retry(at, request, None, now);
                    }
                }
                Doing::Reading { since, .. } => {
                    if now > since.after(self.patience) {
                        self.rest(at, now);
                    }
                }
                Doing::Nothing | Doing::Retrying { .. } if now < rests_until => {}
                Doing::Nothing if self.closing => {}
                Doing::Nothing if self.random.chance(25) => {
                    let linearizable = self.random.chance(80);
                    let (begun, to) = (self.now_tick(), self.any_node());
                    let op = world.read(to, !linearizable);
                    self.clients[at].doing = Doing::Reading { op, begun, since: now, linearizable };
                }
                Doing::Nothing => {
                    let request = self.new_request();
                    let to = if self.random.chance(80) { favourite } else { self.any_node() };
                    self.send(at, request, to, world);
                }
                Doing::Retrying { request } => self.send(at, request, favourite, world),
            }
        }
    }

    fn send(&mut self, at: usize, number: usize, to: NodeId, world: &mut World) {
        let request = &mut self.requests[number];
        let op = world.submit(to, request.id, request.values.clone());
        request.attempts.push(op);
        self.clients[at].doing = Doing::Submitting { request: number, op, since: world.now() };
    }
}

/// What is acknowledged is synced on a majority at that moment; a node whose memory was taken away
/// may have been one of them.
fn check_durable(done: &Submitted, world: &mut World, watch: &mut Watch) -> Result<(), String> {
    let nodes = world.node_ids();
    let mut holders = 0;
    for id in &nodes {
        if watch.is_muted(*id) || super::is_durable(world, *id, done.index, done.term) {
            holders += 1;
        }
    }
    watch.count("durability looked up");
    if holders <= nodes.len() / 2 {
        return Err(format!("{done:?} was acknowledged, and only {holders} nodes hold it"));
    }
    Ok(())
}
