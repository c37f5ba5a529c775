//! The search itself: breadth first, level by level, so that the first violation that is found is
//! one of the shortest.
//!
//! Of a state that was expanded nothing stays but its fingerprint, the state before it and the
//! action between the two: 24 bytes, and its place in a table. The way to a violation is found by
//! going back, and told by doing it again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tercet_raft::{AppendOutcome, Envelope, Event, Index, Message, NodeId, Term};

use crate::invariant::Violation;
use crate::node::{Node, Setup, Stored, incarnation};
use crate::state::{Action, Bounds, State};
use crate::tables::{Lookup, Tables};

/// How many states a thread takes at once.
const CHUNK: usize = 256;
const SHARDS: usize = 64;

/// Where a search begins.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Each node's term and the terms of its entries; without any, all nodes are empty.
    pub given: Vec<(u64, Vec<u64>)>,
    /// Actions that lead to the first state: who campaigns and wins, one after the other.
    pub elected: Vec<u8>,
    /// After that, a candidate and who votes for it: the vote is on its way in the first state, and
    /// nothing else.
    pub vote_on_its_way: Option<(u8, u8)>,
    /// From whom, to whom, in which term, up to which index: an acknowledgement that is on its way
    /// since then.
    pub reply_on_its_way: Option<(u8, u8, u64, u64)>,
}

/// What to search.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes.
    pub setup: Setup,
    /// How far.
    pub bounds: Bounds,
    /// From where.
    pub start: Start,
    /// The search ends after so many states …
    pub states_max: u64,
    /// … or after so long.
    pub time_max: Duration,
    /// By so many threads.
    pub threads: usize,
}

/// How far a search has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Distinct states; those that differ in the names of the nodes count once.
    pub states: u64,
    /// Steps from the first state.
    pub depth: u32,
    /// States whose successors are not looked at yet.
    pub frontier: u64,
    /// Steps that were looked at.
    pub steps: u64,
    /// Distinct states of a node, and messages.
    pub parts: (usize, usize),
}

/// What a search found.
#[derive(Debug)]
pub struct Outcome {
    /// How far it came.
    pub progress: Progress,
    /// Whether every state within the bounds was looked at.
    pub is_complete: bool,
    /// The first violation, with the way to it.
    pub found: Option<Counterexample>,
}

/// The way to a violation.
#[derive(Debug)]
pub struct Counterexample {
    /// What was violated.
    pub violation: Violation,
    /// The actions from the first state on.
    pub steps: Vec<Told>,
}

/// One step of a way, with what it did.
#[derive(Debug)]
pub struct Told {
    /// What happened.
    pub action: Action,
    /// To which node.
    pub node: NodeId,
    /// The message that arrived, if one did.
    pub arrived: Option<Envelope>,
    /// What the node did, in its own words.
    pub events: Vec<Event>,
    /// What it sent.
    pub sent: Vec<Envelope>,
}

/// A state's number: its shard in the low bits, its place there above.
type Number = u32;

#[derive(Clone, Copy)]
struct Record {
    print: u128,
    before: Number,
    action: u32,
}

/// The states that were found whose fingerprints fall here.
#[derive(Default)]
struct Shard {
    /// As two halves and two numbers, so that a record has 24 bytes.
    records: Vec<(u64, u64, Number, u32)>,
    /// Open addressing: a place in `records` and one; 0 is free.
    table: Vec<u32>,
}

impl Shard {
    #[allow(clippy::cast_possible_truncation, reason = "both halves are kept")]
    const fn halves(print: u128) -> (u64, u64) {
        (print as u64, (print >> 64) as u64)
    }

    /// The record's place, if the state is new.
    fn insert(&mut self, record: Record) -> Option<usize> {
        if (self.records.len() + 1) * 4 > self.table.len() * 3 {
            self.grow();
        }
        let (low, high) = Self::halves(record.print);
        let slot = self.slot(low, high);
        if self.table[slot] != 0 {
            return None;
        }
        self.records.push((low, high, record.before, record.action));
        self.table[slot] = u32::try_from(self.records.len()).expect("fewer than 2^26");
        Some(self.records.len() - 1)
    }

    /// Where the state stands in the table, or may be put.
    fn slot(&self, low: u64, high: u64) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = usize::try_from(high & mask as u64).expect("below the length");
        while let Some(place) = (self.table[slot] as usize).checked_sub(1) {
            let record = &self.records[place];
            if (record.0, record.1) == (low, high) {
                break;
            }
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        let length = (self.table.len() * 2).max(64);
        self.table.clear();
        self.table.resize(length, 0);
        for place in 0..self.records.len() {
            let (low, high, ..) = self.records[place];
            let slot = self.slot(low, high);
            self.table[slot] = u32::try_from(place + 1).expect("fewer than 2^26");
        }
    }
}

/// All states that were found.
struct Found {
    shards: Vec<Mutex<Shard>>,
}

impl Found {
    fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// The new state's number, or `None` if it was found before.
    fn insert(&self, record: Record) -> Option<Number> {
        let shard = usize::try_from(record.print % SHARDS as u128).expect("below 64");
        let mut found = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let place = found.insert(record)?;
        Some(u32::try_from(place * SHARDS + shard).expect("fewer than 2^32 states"))
    }

    /// The actions from the first state to this one.
    fn way_to(&self, mut number: Number) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            let (shard, place) = (number as usize % SHARDS, number as usize / SHARDS);
            let found = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
            let (.., before, action) = found.records[place];
            if action == u32::MAX {
                break;
            }
            actions.push(Action::unpack(action));
            number = before;
        }
        actions.reverse();
        actions
    }
}

/// States to be expanded, packed, with the start of every one of them that begins a chunk.
#[derive(Default)]
struct Level {
    words: Vec<u32>,
    chunks: Vec<usize>,
    count: usize,
}

impl Level {
    fn push(&mut self, number: Number, state: &State) {
        if self.count.is_multiple_of(CHUNK) {
            self.chunks.push(self.words.len());
        }
        self.count += 1;
        self.words.push(number);
        state.pack(&mut self.words);
    }

    fn chunk(&self, at: usize) -> &[u32] {
        let end = self.chunks.get(at + 1).copied().unwrap_or(self.words.len());
        &self.words[self.chunks[at]..end]
    }
}

/// Searches. `report` hears about once in a second how far it is.
pub fn search(plan: &Plan, report: &mut dyn FnMut(&Progress)) -> Outcome {
    let tables = Tables::new(plan.setup);
    let mut lookup = Lookup::new(&tables);
    let (first, lead) = first_state(plan, &mut lookup);
    let search = Search {
        plan,
        found: Found::new(),
        violations: Mutex::default(),
        states: AtomicUsize::new(1),
        steps: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        begun: Instant::now(),
        tables: &tables,
    };
    let print = first.fingerprint(&mut lookup);
    let root = Record { print, before: 0, action: u32::MAX };
    let number = search.found.insert(root).expect("the first state is new");
    let mut level = Level::default();
    level.push(number, &first);
    let mut levels = vec![level];
    let mut depth = 0;
    let mut lookups: Vec<Lookup<'_>> = (0..plan.threads).map(|_| Lookup::new(&tables)).collect();
    while !search.stop.load(Ordering::Relaxed) && levels.iter().any(|level| level.count > 0) {
        levels = search.expand(&levels, depth, &mut lookups, report);
        depth += 1;
    }
    let mut violations = search.violations.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Whichever thread was faster: of several of the same depth always the same one is told.
    violations.sort_by_key(|(print, ..)| *print);
    let found = violations.into_iter().next().map(|(_, before, action, violation)| {
        let mut actions = search.found.way_to(before);
        actions.push(action);
        Counterexample { violation, steps: tell(&first, lead, &actions, plan, &mut lookup) }
    });
    let frontier: usize = levels.iter().map(|level| level.count).sum();
    let progress = Progress {
        states: search.states.load(Ordering::Relaxed) as u64,
        depth,
        frontier: frontier as u64,
        steps: search.steps.load(Ordering::Relaxed) as u64,
        parts: tables.met(),
    };
    Outcome { progress, is_complete: found.is_none() && frontier == 0, found }
}

/// The first state, and the steps that led to it.
fn first_state(plan: &Plan, lookup: &mut Lookup<'_>) -> (State, Vec<Told>) {
    let stored = |(term, log): &(u64, Vec<u64>)| Stored::given(*term, log);
    let nodes = plan.setup.node_ids().enumerate().map(|(place, id)| {
        let stored = plan.start.given.get(place).map_or_else(Stored::default, stored);
        Node::new(&plan.setup, id, stored)
    });
    let state = State::new(nodes.collect(), lookup);
    let mut lead = Lead { state, told: Vec::new(), lookup };
    let member = |slot: u8| NodeId::new(slot).expect("a member");
    for slot in &plan.start.elected {
        lead.act(Action::Timeout(member(*slot)));
        // What is written is synced, and what is sent arrives, until nothing happens.
        while lead.sync() || lead.deliver(|_| true) {}
    }
    if let Some((candidate, voter)) = plan.start.vote_on_its_way {
        let (candidate, voter) = (member(candidate), member(voter));
        lead.act(Action::Timeout(candidate));
        while lead.sync() {}
        let asks = |envelope: &Envelope| envelope.from == candidate && envelope.to == voter;
        assert!(lead.deliver(asks), "{candidate} asks {voter} for its vote");
        while lead.sync() {}
        let State { messages, .. } = &mut lead.state;
        messages.retain(|message| lead.lookup.message(*message).envelope.from == voter);
    }
    if let Some((from, to, term, last)) = plan.start.reply_on_its_way {
        let outcome = AppendOutcome::Accepted { last: Index(last) };
        let envelope = Envelope {
            from: member(from),
            from_incarnation: incarnation(member(from), 0),
            to: member(to),
            to_incarnation: None,
            term: Term(term),
            message: Message::AppendReply { round: 0, outcome },
        };
        let number = lead.lookup.message_number(envelope);
        lead.state.messages.push(number);
    }
    lead.state.forget_spending();
    (lead.state, lead.told)
}

/// On the way to the first state.
struct Lead<'a, 'b> {
    state: State,
    told: Vec<Told>,
    lookup: &'a mut Lookup<'b>,
}

impl Lead<'_, '_> {
    fn act(&mut self, action: Action) {
        self.told.push(tell_one(&self.state, action, self.lookup));
        match self.state.after(action, &Bounds::NONE, self.lookup) {
            Ok(Some(after)) => self.state = after,
            Ok(None) => {
                if let Action::Deliver { message, .. } = action {
                    self.state.messages.retain(|other| *other != message);
                }
            }
            Err(violation) => unreachable!("an election violates nothing: {violation}"),
        }
    }

    /// Whether some disk had something to sync.
    fn sync(&mut self) -> bool {
        let nodes = self.state.nodes.clone();
        let mut staged = nodes.into_iter().filter(|node| self.lookup.node(*node).is_staged);
        let Some(node) = staged.next() else { return false };
        let id = self.lookup.node(node).node.raft.node();
        self.act(Action::Sync(id));
        true
    }

    /// Whether some such message was on its way.
    fn deliver(&mut self, is_it: impl Fn(&Envelope) -> bool) -> bool {
        let messages = self.state.messages.clone();
        let mut fitting =
            messages.into_iter().filter(|it| is_it(&self.lookup.message(*it).envelope));
        let Some(message) = fitting.next() else { return false };
        self.act(Action::Deliver { message, twice: false });
        true
    }
}

fn tell_one(state: &State, action: Action, lookup: &mut Lookup<'_>) -> Told {
    let (node, code) = state.aim(action, lookup);
    let arrived = match action {
        Action::Deliver { message, .. } => Some(lookup.message(message).envelope.clone()),
        Action::Timeout(_)
        | Action::QuorumLost(_)
        | Action::Propose(_)
        | Action::Sync(_)
        | Action::Crash(_)
        | Action::Wipe(..)
        | Action::Transfer(..)
        | Action::LinkLost(..) => None,
    };
    let place = usize::from(node.slot() - 1);
    let (events, sent) = lookup.events(state.nodes[place], code);
    Told { action, node, arrived, events, sent }
}

/// Does the actions again, and tells what they do.
fn tell(
    first: &State,
    mut told: Vec<Told>,
    actions: &[Action],
    plan: &Plan,
    lookup: &mut Lookup<'_>,
) -> Vec<Told> {
    let mut state = first.clone();
    for action in actions {
        told.push(tell_one(&state, *action, lookup));
        if let Ok(Some(next)) = state.after(*action, &plan.bounds, lookup) {
            state = next;
        }
    }
    told
}

struct Search<'a> {
    plan: &'a Plan,
    found: Found,
    /// With the fingerprint of the state before.
    violations: Mutex<Vec<(u128, Number, Action, Violation)>>,
    states: AtomicUsize,
    steps: AtomicUsize,
    stop: AtomicBool,
    begun: Instant,
    tables: &'a Tables,
}

impl Search<'_> {
    /// All new states one step behind those of a level.
    fn expand(
        &self,
        levels: &[Level],
        depth: u32,
        lookups: &mut [Lookup<'_>],
        report: &mut dyn FnMut(&Progress),
    ) -> Vec<Level> {
        let chunks: Vec<(usize, usize)> = levels
            .iter()
            .enumerate()
            .flat_map(|(at, level)| (0..level.chunks.len()).map(move |chunk| (at, chunk)))
            .collect();
        let next = AtomicUsize::new(0);
        let frontier: usize = levels.iter().map(|level| level.count).sum();
        std::thread::scope(|scope| {
            let (next, chunks) = (&next, &chunks);
            let work = |lookup| scope.spawn(move || self.work(levels, chunks, next, lookup));
            let threads: Vec<_> = lookups.iter_mut().map(work).collect();
            let mut reported = Instant::now();
            while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                std::thread::park_timeout(Duration::from_millis(2));
                let over_time = self.begun.elapsed() > self.plan.time_max;
                let states = self.states.load(Ordering::Relaxed) as u64;
                if over_time || states >= self.plan.states_max {
                    self.stop.store(true, Ordering::Relaxed);
                }
                if reported.elapsed() > Duration::from_secs(1) {
                    reported = Instant::now();
                    let done = next.load(Ordering::Relaxed).min(chunks.len()) * CHUNK;
                    report(&Progress {
                        states,
                        depth,
                        frontier: frontier.saturating_sub(done) as u64,
                        steps: self.steps.load(Ordering::Relaxed) as u64,
                        parts: self.tables.met(),
                    });
                }
            }
            let join = |thread: std::thread::ScopedJoinHandle<'_, Level>| {
                thread.join().expect("the search itself does not panic")
            };
            threads.into_iter().map(join).collect()
        })
    }

    fn work(
        &self,
        levels: &[Level],
        chunks: &[(usize, usize)],
        next: &AtomicUsize,
        lookup: &mut Lookup<'_>,
    ) -> Level {
        let nodes = usize::from(self.plan.setup.nodes);
        let mut new = Level::default();
        while let Some((level, chunk)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut words = levels[*level].chunk(*chunk).iter().copied();
            let (mut states, mut steps) = (0, 0);
            while let Some(number) = words.next() {
                let state = State::unpack(nodes, &mut words).expect("a state follows its number");
                for action in state.actions(&self.plan.bounds, lookup) {
                    steps += 1;
                    match state.after(action, &self.plan.bounds, lookup) {
                        Ok(None) => {}
                        Ok(Some(after)) => {
                            let print = after.fingerprint(lookup);
                            let record = Record { print, before: number, action: action.pack() };
                            if let Some(number) = self.found.insert(record) {
                                states += 1;
                                new.push(number, &after);
                            }
                        }
                        Err(violation) => {
                            let print = state.fingerprint(lookup);
                            let mut violations =
                                self.violations.lock().unwrap_or_else(PoisonError::into_inner);
                            violations.push((print, number, action, violation));
                            // The level is finished: which violation is told is no accident.
                            self.stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            }
            self.states.fetch_add(states, Ordering::Relaxed);
            self.steps.fetch_add(steps, Ordering::Relaxed);
            let has_violation =
                !self.violations.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            if self.stop.load(Ordering::Relaxed) && !has_violation {
                break;
            }
        }
        new
    }
}

impl Bounds {
    /// None, for what leads to the first state.
    const NONE: Self = Self {
        terms: u8::MAX,
        entries: u8::MAX,
        proposals: u8::MAX,
        heartbeats: u8::MAX,
        crashes: 0,
        wipes: 0,
        duplicates: 0,
        step_downs: 0,
        transfers: 0,
        links_lost: 0,
        messages: u8::MAX,
        forgets: false,
    };
}
