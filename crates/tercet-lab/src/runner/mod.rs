//! Runs a script in a world: does its steps in order, watches what must always hold, and says at
//! which line what was expected and what was there instead.
//!
//! A fork is run branch by branch, each from the beginning in a world of its own, so that it means
//! the same where states cannot be copied.

mod clients;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tercet_raft::{NodeId, RoleKind, Rules};

use crate::ast::{
    ClientState, End, Fate, Link, Mutant, NodeRef, NodeRefs, Outcome, Pred, Script, Selector, Step,
    StepKind, Timers,
};
use crate::backend::{Backend, Done, GateChange, HeldView, LabEvent, NodeView, Ticket, WorldError};
use crate::checker::{Checker, Violation};
use crate::judge::{Scene, compare};
use crate::narrate::is_worth_telling;
use crate::setup::{rules_of, switch};

/// How long a client, an election or a pause may take until a script gives up on it.
const LIMIT: Duration = Duration::from_secs(10);
/// How many times in a row nothing may change until a cluster has come to rest.
const RESTING_HEARTBEATS: u32 = 3;
/// How often `elect … win` tries.
const ELECTIONS: u32 = 5;
/// How many of the last events a failure shows.
const LAST_EVENTS: usize = 12;

/// What a runner tells while it runs.
#[derive(Clone, Debug)]
pub enum Progress {
    /// One way through a script begins.
    Begin {
        /// The branch, if there are several ways.
        branch: Option<String>,
        /// How many nodes there are.
        nodes: u8,
    },
    /// A step begins.
    Step {
        /// Its line.
        line: usize,
        /// As it was written.
        text: String,
    },
    /// Something happened on a node.
    Event(LabEvent),
    /// The narrator speaks.
    Say(String),
    /// The script asks.
    Ask {
        /// What.
        question: String,
        /// The choices.
        options: Vec<String>,
        /// The right one.
        answer: String,
    },
    /// What a client was told of a value.
    Answered {
        /// The value.
        value: String,
        /// What the client knows now.
        state: ClientState,
        /// The answer in words.
        text: String,
    },
    /// What `list held` shows, or a client read.
    Told(String),
}

/// What was expected, and what was there instead.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The branch, if it happened in one.
    pub branch: Option<String>,
    /// The line; the one behind the last if it is the implicit end.
    pub line: usize,
    /// The step as it was written.
    pub step: String,
    /// What is, instead.
    pub found: String,
    /// The last events.
    pub events: Vec<LabEvent>,
    /// The nodes at that moment.
    pub views: Vec<NodeView>,
}

/// How a script ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where it failed; one for each branch at most.
    pub failures: Vec<Failure>,
    /// How many expectations came true.
    pub checked: usize,
    /// All events, by branch.
    pub events: Vec<(Option<String>, Vec<LabEvent>)>,
    /// What was violated, by branch, wanted or not.
    pub violations: Vec<(Option<String>, Violation)>,
}

impl Report {
    /// What happened, as the golden text of a script has it: what is worth telling, by branch.
    pub fn golden(&self) -> String {
        let mut text = String::new();
        for (branch, events) in &self.events {
            if let Some(branch) = branch {
                text.push_str(&format!("[{branch}]\n"));
            }
            for event in events.iter().filter(|event| is_worth_telling(event)) {
                let ms = event.at.as_secs_f64() * 1000.0;
                text.push_str(&format!("{ms:>9.1} {} {}\n", event.node, event.text));
            }
        }
        text
    }

    /// Compares what happened with the golden text of the script, if it has one.
    pub fn check_golden(&mut self, script: &Script) {
        let Some(golden) = &script.golden else { return };
        let found = self.golden();
        let mut lines = golden.trim().lines().zip(found.trim().lines()).zip(1..);
        let differs = lines.find(|((wanted, is), _)| wanted.trim() != is.trim());
        let found = match differs {
            Some(((wanted, is), number)) => {
                format!(
                    "line {number} behind the --- is now \"{}\", not \"{}\"",
                    is.trim(),
                    wanted.trim()
                )
            }
            None if golden.trim().lines().count() == found.trim().lines().count() => return,
            None => "there are more events, or fewer, than behind the ---".to_owned(),
        };
        self.failures.push(Failure {
            branch: None,
            line: script.steps.last().map_or(1, |step| step.line) + 1,
            step: "--- (write it anew with --update)".to_owned(),
            found,
            events: Vec::new(),
            views: Vec::new(),
        });
    }

    /// Whether all that was expected came true.
    pub const fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// One way through a script: its steps, with a branch's behind them.
#[derive(Clone, Debug)]
pub struct Path<'a> {
    /// The branch.
    pub branch: Option<String>,
    /// The steps.
    pub steps: Vec<&'a Step>,
    /// Without the implicit end.
    pub ends_as_is: bool,
}

/// All ways through a script.
pub fn paths(script: &Script) -> Vec<Path<'_>> {
    let mut steps: Vec<&Step> = Vec::new();
    for step in &script.steps {
        if let StepKind::Fork(branches) = &step.kind {
            let path = |branch: &'_ crate::ast::Branch| (branch.name.clone(), branch.ends_as_is);
            return branches
                .iter()
                .map(|branch| {
                    let (name, ends_as_is) = path(branch);
                    Path {
                        branch: Some(name),
                        steps: steps.iter().copied().chain(&branch.steps).collect(),
                        ends_as_is: ends_as_is || script.ends_as_is,
                    }
                })
                .collect();
        }
        steps.push(step);
    }
    vec![Path { branch: None, steps, ends_as_is: script.ends_as_is }]
}

/// Runs all of a script, each branch in a new world.
///
/// # Errors
/// A world that cannot be made. What the script expects and does not come is in the report.
pub fn run<B: Backend>(
    script: &Script,
    until_line: Option<usize>,
    mut world: impl FnMut() -> Done<B>,
    tell: &mut dyn FnMut(Progress),
) -> Done<Report> {
    let mut report =
        Report { failures: Vec::new(), checked: 0, events: Vec::new(), violations: Vec::new() };
    for path in paths(script) {
        let world = world()?;
        tell(Progress::Begin { branch: path.branch.clone(), nodes: script.header.nodes });
        let mut runner = Runner::new(script, world, &mut *tell);
        let failure = runner.run_path(&path, until_line);
        report.checked += runner.checked;
        let broken = runner.checker.violations().iter().cloned();
        report.violations.extend(broken.map(|broken| (path.branch.clone(), broken)));
        report.events.push((path.branch.clone(), std::mem::take(&mut runner.events)));
        report.failures.extend(failure.err().map(|failure| *failure));
    }
    Ok(report)
}

#[derive(Clone, Debug)]
struct Request {
    value: String,
    /// The ids under which it was sent: one, unless clients have no sessions.
    ids: Vec<u128>,
    ticket: Option<Ticket>,
    state: ClientState,
}

#[derive(Clone, Debug)]
struct ReadRequest {
    ticket: Option<Ticket>,
    state: ClientState,
    values: Vec<String>,
    /// What had been acknowledged when it began.
    owed: BTreeSet<String>,
    /// It promises nothing.
    stale: bool,
}

#[derive(Clone, Debug)]
struct Watch {
    line: usize,
    text: String,
    pred: Pred,
    wanted: bool,
    until: String,
}

/// A script under way in a world, or a shell.
pub struct Runner<'a, B> {
    backend: B,
    nodes: Vec<NodeId>,
    rules: Rules,
    timers: Timers,
    stale_reads: bool,
    no_request_ids: bool,
    checker: Checker,
    views: Vec<NodeView>,
    events: Vec<LabEvent>,
    marks: BTreeMap<String, usize>,
    variables: BTreeMap<String, NodeId>,
    requests: Vec<Request>,
    named: BTreeMap<String, Vec<usize>>,
    reads: Vec<ReadRequest>,
    named_reads: BTreeMap<String, usize>,
    watches: Vec<Watch>,
    next_id: u128,
    checked: usize,
    /// The nodes whose election timers stand still, also after a restart.
    frozen: BTreeSet<NodeId>,
    tell: Box<dyn FnMut(Progress) + 'a>,
}

impl<B: std::fmt::Debug> std::fmt::Debug for Runner<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("backend", &self.backend).finish_non_exhaustive()
    }
}

/// Node, whether it is up, role, term, commit, last index, last term.
type NodeState = (NodeId, bool, RoleKind, u64, u64, u64, u64);

/// What went wrong with a step.
enum Wrong {
    /// It was expected, and is not so.
    Found(String),
    /// The world could not do it.
    World(WorldError),
}

impl From<WorldError> for Wrong {
    fn from(error: WorldError) -> Self {
        Self::World(error)
    }
}

impl From<String> for Wrong {
    fn from(found: String) -> Self {
        Self::Found(found)
    }
}

impl Wrong {
    fn text(self) -> String {
        match self {
            Self::Found(found) => found,
            Self::World(error) => error.0,
        }
    }
}

type Stepped<T = ()> = Result<T, Wrong>;

/// What happened, with what became of the nodes' processes meanwhile: a process starts before
/// whatever its node tells, and ends or stands still behind it.
fn with_processes(
    events: Vec<LabEvent>,
    before: &[NodeView],
    now: &[NodeView],
    elapsed: Duration,
) -> Vec<LabEvent> {
    let (mut begun, mut ended) = (Vec::new(), Vec::new());
    for (was, is) in before.iter().zip(now) {
        let told = events.iter().find(|event| event.node == is.node);
        let event = |kind: &str, text: &str, at: Duration| LabEvent {
            at,
            node: is.node,
            term: is.term,
            kind: kind.to_owned(),
            fields: Vec::new(),
            text: text.to_owned(),
            classic: None,
        };
        let first = told.map_or(elapsed, |event| event.at.min(elapsed));
        match ((was.up, was.paused), (is.up, is.paused)) {
            ((true, _), (false, _)) => ended.push(event("crashed", "its process is gone", elapsed)),
            ((false, _), (true, _)) => begun.push(event("started", "its process runs", first)),
            ((true, false), (true, true)) => {
                ended.push(event("paused", "its process stands still", elapsed));
            }
            ((true, true), (true, false)) => {
                begun.push(event("resumed", "its process goes on", first));
            }
            _ => {}
        }
    }
    begun.into_iter().chain(events).chain(ended).collect()
}

/// A runner over whatever world, as a shell needs it: it runs lines and shows what there is.
pub trait Lab {
    /// Runs one line.
    ///
    /// # Errors
    /// What was expected and is not so, or why it cannot be done, in words.
    fn run_line(&mut self, step: &Step) -> Result<(), String>;
    /// The nodes as they are now.
    ///
    /// # Errors
    /// The world cannot be looked at.
    fn look(&mut self) -> Done<Vec<NodeView>>;
    /// What all gates hold.
    ///
    /// # Errors
    /// The world cannot be looked at.
    fn held(&mut self) -> Done<Vec<HeldView>>;
    /// All events so far.
    fn events(&self) -> &[LabEvent];
}

impl<B: Backend> Lab for Runner<'_, B> {
    fn run_line(&mut self, step: &Step) -> Result<(), String> {
        self.observe().map_err(Wrong::text)?;
        self.run_step(step).map_err(Wrong::text)?;
        self.observe().map_err(Wrong::text)
    }

    fn look(&mut self) -> Done<Vec<NodeView>> {
        self.backend.views()
    }

    fn held(&mut self) -> Done<Vec<HeldView>> {
        self.backend.held()
    }

    fn events(&self) -> &[LabEvent] {
        &self.events
    }
}

impl<'a, B: Backend> Runner<'a, B> {
    /// A runner in a world that was made for this script.
    pub fn new(script: &Script, backend: B, tell: impl FnMut(Progress) + 'a) -> Self {
        let header = &script.header;
        let has = |mutant| header.mutants.contains(&mutant);
        Self {
            backend,
            nodes: (1..=header.nodes).map(|slot| NodeId::new(slot).expect("1 to 7")).collect(),
            rules: rules_of(header),
            timers: header.timers,
            stale_reads: has(Mutant::StaleReads),
            no_request_ids: has(Mutant::NoRequestIds),
            checker: Checker::default(),
            views: Vec::new(),
            events: Vec::new(),
            marks: BTreeMap::new(),
            variables: BTreeMap::new(),
            requests: Vec::new(),
            named: BTreeMap::new(),
            reads: Vec::new(),
            named_reads: BTreeMap::new(),
            watches: Vec::new(),
            // Given entries have ids of their term and index: below 1 << 64 there are none.
            next_id: 0,
            checked: 0,
            frozen: match header.timers {
                Timers::Manual => (1..=header.nodes).filter_map(NodeId::new).collect(),
                Timers::Auto => BTreeSet::new(),
            },
            tell: Box::new(tell),
        }
    }

    /// The world, to look at.
    pub const fn world(&self) -> &B {
        &self.backend
    }

    /// The world.
    pub const fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// The nodes as they were last seen.
    pub fn views(&self) -> &[NodeView] {
        &self.views
    }

    /// What was broken so far.
    pub fn violations(&self) -> &[Violation] {
        self.checker.violations()
    }

    /// Runs one way through a script.
    fn run_path(&mut self, path: &Path<'_>, until_line: Option<usize>) -> Result<(), Box<Failure>> {
        let branch = path.branch.clone();
        let fail = |runner: &mut Self, line: usize, text: &str, wrong: Wrong| {
            let _ = runner.observe();
            let events = &runner.events;
            Box::new(Failure {
                branch: branch.clone(),
                line,
                step: text.to_owned(),
                found: wrong.text(),
                events: events[events.len().saturating_sub(LAST_EVENTS)..].to_vec(),
                views: runner.views.clone(),
            })
        };
        if let Err(wrong) = self.observe() {
            return Err(fail(self, 1, "start", wrong));
        }
        for step in &path.steps {
            if until_line.is_some_and(|until| step.line > until) {
                return Ok(());
            }
            if let Err(wrong) = self.run_step(step) {
                return Err(fail(self, step.line, &step.text, wrong));
            }
        }
        if !path.ends_as_is && until_line.is_none() {
            let last = path.steps.last().map_or(1, |step| step.line);
            if let Err(wrong) = self.end() {
                return Err(fail(self, last + 1, "the implicit end", wrong));
            }
        }
        Ok(())
    }

    // --- seeing ---

    /// Looks at everything, and judges what must hold at every moment.
    fn observe(&mut self) -> Stepped {
        let events = self.backend.take_events()?;
        let views = self.backend.views()?;
        for event in with_processes(events, &self.views, &views, self.backend.elapsed()) {
            (self.tell)(Progress::Event(event.clone()));
            self.events.push(event);
        }
        for view in &views {
            let before = self.views.iter().find(|before| before.node == view.node);
            if before != Some(view) {
                self.checker.observe(view);
            }
        }
        self.views = views;
        self.hear_clients()?;
        for watch in &self.watches {
            let judged = self.scene(|scene| scene.judge(&watch.pred));
            let broken = match (judged, watch.wanted) {
                (Err(found), true) => Some(found),
                (Ok(()), false) => Some("it came true".to_owned()),
                (Ok(()), true) | (Err(_), false) => None,
            };
            if let Some(found) = broken {
                return Err(format!("line {}: {}: {found}", watch.line, watch.text).into());
            }
        }
        Ok(())
    }

    fn scene<T>(&self, look: impl FnOnce(&Scene<'_>) -> T) -> T {
        let request = |positions: &Vec<usize>| {
            let of = positions.iter().map(|at| &self.requests[*at]);
            let state = of.clone().map(|request| request.state);
            let worst = |a: ClientState, b: ClientState| if a == ClientState::Ok { b } else { a };
            let state = state.reduce(worst).unwrap_or(ClientState::Waiting);
            let fate = of.map(|request| self.fate(request));
            let worst = |a: Fate, b: Fate| match (a, b) {
                (Fate::Lost, _) | (_, Fate::Lost) => Fate::Lost,
                (Fate::Pending, _) | (_, Fate::Pending) => Fate::Pending,
                (Fate::Committed, Fate::Committed) => Fate::Committed,
            };
            (state, fate.reduce(worst).unwrap_or(Fate::Pending))
        };
        let requests = self.named.iter().map(|(name, at)| (name.clone(), request(at))).collect();
        let read = |at: &usize| (self.reads[*at].state, self.reads[*at].values.clone());
        let reads = self.named_reads.iter().map(|(name, at)| (name.clone(), read(at))).collect();
        look(&Scene {
            views: &self.views,
            variables: &self.variables,
            violations: self.checker.violations(),
            requests: &requests,
            reads: &reads,
        })
    }

    fn fate(&self, request: &Request) -> Fate {
        if request.ids.iter().any(|id| self.checker.is_committed(*id)) {
            Fate::Committed
        } else if request.ids.iter().any(|id| self.checker.is_pending(*id)) {
            Fate::Pending
        } else {
            Fate::Lost
        }
    }

    // --- waiting ---

    /// Lets time pass and looks at everything that happens meanwhile.
    fn pass(&mut self, duration: Duration) -> Stepped {
        let end = self.backend.elapsed() + duration;
        loop {
            let left = end.saturating_sub(self.backend.elapsed());
            if left.is_zero() {
                return self.observe();
            }
            self.backend.wait_a_little(left)?;
            self.observe()?;
        }
    }

    /// Waits until something is true; says what was found last if it does not come true.
    fn wait_for<T>(
        &mut self,
        limit: Duration,
        mut test: impl FnMut(&mut Self) -> Stepped<Result<T, String>>,
    ) -> Stepped<T> {
        let end = self.backend.elapsed() + limit;
        loop {
            match test(self)? {
                Ok(value) => return Ok(value),
                Err(found) if self.backend.elapsed() >= end => return Err(found.into()),
                Err(_) => {}
            }
            let left = end.saturating_sub(self.backend.elapsed());
            self.backend.wait_a_little(left.min(self.backend.heartbeat()))?;
            self.observe()?;
        }
    }

    /// Until nothing changes for a few heartbeats.
    fn settle(&mut self) -> Stepped {
        let end = self.backend.elapsed() + LIMIT;
        let mut resting = 0;
        let mut before = self.state();
        while resting < RESTING_HEARTBEATS {
            self.pass(self.backend.heartbeat())?;
            let now = self.state();
            resting = if now == before { resting + 1 } else { 0 };
            before = now;
            if self.backend.elapsed() > end {
                return Err(format!("it does not come to rest within {LIMIT:?}").into());
            }
        }
        Ok(())
    }

    /// What must stand still when a cluster is at rest.
    fn state(&self) -> (Vec<NodeState>, usize) {
        let node = |view: &NodeView| {
            let last_term = view.log.last().map_or(0, |entry| entry.term);
            (view.node, view.up, view.role, view.term, view.commit, view.last(), last_term)
        };
        // A request that nobody can answer rests, too.
        let answered = self.requests.iter().filter(|request| request.ticket.is_none()).count();
        (self.views.iter().map(node).collect(), answered)
    }

    // --- doing ---

    fn node(&self, node: &NodeRef) -> Stepped<NodeId> {
        Ok(self.scene(|scene| scene.node(node))?)
    }

    fn nodes(&self, nodes: &NodeRefs) -> Stepped<Vec<NodeId>> {
        match nodes {
            NodeRefs::All => Ok(self.nodes.clone()),
            NodeRefs::Some(_) => Ok(self.scene(|scene| scene.nodes(nodes))?),
        }
    }

    fn each(&mut self, nodes: &NodeRefs, mut act: impl FnMut(&mut B, NodeId) -> Done) -> Stepped {
        for node in self.nodes(nodes)? {
            act(&mut self.backend, node)?;
        }
        self.observe()
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.views.iter().any(|view| view.node == node && view.up)
    }

    fn must_be(&self, node: NodeId, up: bool) -> Stepped {
        match (self.is_up(node), up) {
            (true, false) => Err(format!("{node} runs: crash {node} first").into()),
            (false, true) => Err(format!("{node} is down: restart {node} first").into()),
            (true, true) | (false, false) => Ok(()),
        }
    }

    fn link(&self, link: &Link) -> Stepped<(NodeId, NodeId)> {
        let (from, to) = (self.node(&link.from)?, self.node(&link.to)?);
        if from == to {
            return Err(format!("{from} does not send to itself").into());
        }
        Ok((from, to))
    }

    fn change_gate(&mut self, link: &Link, change: impl FnOnce(NodeId) -> GateChange) -> Stepped {
        let (from, to) = self.link(link)?;
        Ok(self.backend.gate(from, change(to))?)
    }

    fn run_step(&mut self, step: &Step) -> Stepped {
        (self.tell)(Progress::Step { line: step.line, text: step.text.clone() });
        match &step.kind {
            StepKind::Submit { values, via, name, nowait, expect } => {
                self.submit(values, via.as_ref(), name.as_deref(), *nowait, expect)
            }
            StepKind::Retry { name, via, nowait, expect } => {
                self.retry(name, via.as_ref(), *nowait, expect)
            }
            StepKind::Read { via, name, stale, nowait, expect } => {
                self.read(via.as_ref(), name.as_deref(), *stale, *nowait, expect)
            }
            StepKind::Crash(nodes) => {
                for node in self.nodes(nodes)? {
                    self.must_be(node, true)?;
                }
                self.each(nodes, Backend::crash)
            }
            StepKind::Restart(nodes) => {
                for node in self.nodes(nodes)? {
                    self.must_be(node, false)?;
                }
                self.each(nodes, Backend::restart)?;
                for node in self.nodes(nodes)? {
                    let frozen = self.frozen.contains(&node);
                    self.backend.freeze(node, frozen)?;
                }
                self.observe()
            }
            StepKind::Pause(nodes) => self.each(nodes, Backend::pause),
            StepKind::Resume(nodes) => self.each(nodes, Backend::resume),
            StepKind::Wipe { nodes, what } => {
                self.each(nodes, |backend, node| backend.wipe(node, *what))
            }
            StepKind::Tear { node, count } => {
                let node = self.node(node)?;
                Ok(self.backend.tear(node, *count)?)
            }
            StepKind::SetHeartbeat { node, interval, until_stepdown } => {
                let node = self.node(node)?;
                self.must_be(node, true)?;
                self.backend.set_heartbeat(node, *interval, *until_stepdown)?;
                self.observe()
            }
            StepKind::SetDisk { node, disk } => {
                let node = self.node(node)?;
                Ok(self.backend.set_disk(node, *disk)?)
            }
            StepKind::JumpClock { node, by, backward } => {
                let node = self.node(node)?;
                let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
                Ok(self.backend.jump_clock(node, if *backward { -ms } else { ms })?)
            }
            StepKind::Cut { from, to, one_way } => self.cut(from, to, *one_way),
            StepKind::Isolate(node) => {
                let node = self.node(node)?;
                let others = self.nodes.iter().copied().filter(|other| *other != node);
                let others = others.map(NodeRef::Node).collect();
                self.cut(&NodeRefs::Some(vec![NodeRef::Node(node)]), &NodeRefs::Some(others), false)
            }
            StepKind::Reset { one, other } => self.reset(one, other),
            StepKind::Heal => {
                self.each(&NodeRefs::All, |backend, node| backend.gate(node, GateChange::Heal))
            }
            StepKind::Delay { link, by } => {
                let by = self.backend.scale(*by);
                self.change_gate(link, |to| GateChange::Delay(to, by))
            }
            StepKind::Drop { link, kind, count } => {
                self.change_gate(link, |to| GateChange::Lose(to, *kind, *count))
            }
            StepKind::Duplicate { link, kind, count } => {
                self.change_gate(link, |to| GateChange::Double(to, *kind, *count))
            }
            StepKind::Hold { link, kind } => {
                self.change_gate(link, |to| GateChange::Hold(to, *kind))
            }
            StepKind::ListHeld => {
                for held in self.backend.held()? {
                    (self.tell)(Progress::Told(format!("#{} {}", held.number, held.text)));
                }
                Ok(())
            }
            StepKind::Deliver(selector) => self.by_hand(selector, GateChange::Deliver),
            StepKind::Discard(selector) => self.by_hand(selector, GateChange::Discard),
            StepKind::Release(None) => self.each(&NodeRefs::All, |backend, node| {
                backend.gate(node, GateChange::Release(None))
            }),
            StepKind::Release(Some(link)) => {
                self.change_gate(link, |to| GateChange::Release(Some(to)))
            }
            StepKind::Elect { node, win } => self.elect(node, *win),
            StepKind::Transfer(to) => {
                let to = to.as_ref().map(|node| self.node(node)).transpose()?;
                let leader = self.node(&NodeRef::Leader)?;
                self.backend.transfer(leader, to)?;
                self.observe()
            }
            StepKind::Run(duration) => self.pass(self.backend.scale(*duration)),
            StepKind::Settle => self.settle(),
            StepKind::Wait { pred, within } => {
                let within = self.backend.scale(*within).max(self.backend.patience());
                self.wait_for(within, |runner| Ok(runner.scene(|scene| scene.judge(pred))))
            }
            StepKind::Freeze(nodes) => self.freeze(nodes, true),
            StepKind::Thaw(nodes) => self.freeze(nodes, false),
            StepKind::Expect { pred, at_once } => {
                self.expect(*at_once, |runner| runner.scene(|scene| scene.judge(pred)))
            }
            StepKind::ExpectCount { events, since, cmp, count } => self.expect(false, |runner| {
                let from = runner.since(since.as_deref());
                let found = runner.scene(|scene| scene.count(events, &runner.events[from..]));
                let holds = compare(*cmp, found, *count);
                if holds { Ok(()) } else { Err(format!("count = {found}")) }
            }),
            StepKind::ExpectTrace { since, events } => self.expect(false, |runner| {
                let from = runner.since(since.as_deref());
                let mut rest = runner.events[from..].iter();
                for (line, pattern) in events {
                    let found =
                        runner.scene(|scene| rest.any(|event| scene.matches(pattern, event)));
                    if !found {
                        let kind = &pattern.kind;
                        return Err(format!(
                            "the {kind} of line {line} did not happen in this order"
                        ));
                    }
                }
                Ok(())
            }),
            StepKind::Always { pred, until } => self.watch(step, pred, true, until),
            StepKind::Never { pred, until } => self.watch(step, pred, false, until),
            StepKind::Let { name, node } => {
                let node = self.node(node)?;
                self.variables.insert(name.clone(), node);
                Ok(())
            }
            StepKind::Mark(name) => {
                self.observe()?;
                if !self.backend.patience().is_zero() {
                    // What happened on one node before the last look at another is told only by the
                    // next one.
                    self.observe()?;
                }
                self.marks.insert(name.clone(), self.events.len());
                self.watches.retain(|watch| watch.until != *name);
                Ok(())
            }
            // A fork is run branch by branch; in a shell there is none.
            StepKind::Fork(_) => Ok(()),
            StepKind::Say(text) => {
                (self.tell)(Progress::Say(text.clone()));
                Ok(())
            }
            StepKind::Ask { question, options, answer } => {
                (self.tell)(Progress::Ask {
                    question: question.clone(),
                    options: options.clone(),
                    answer: answer.clone(),
                });
                Ok(())
            }
            StepKind::Mutant { mutant, on } => {
                match mutant {
                    Mutant::StaleReads => self.stale_reads = *on,
                    Mutant::NoRequestIds => self.no_request_ids = *on,
                    Mutant::CommitOldTerms
                    | Mutant::TruncateAlways
                    | Mutant::IgnoreLogInVotes
                    | Mutant::SpeakBeforeDurable
                    | Mutant::NoPreVote
                    | Mutant::NoCheckQuorum => switch(&mut self.rules, *mutant, *on),
                }
                Ok(self.backend.set_rules(self.rules)?)
            }
        }
    }

    fn freeze(&mut self, nodes: &NodeRefs, frozen: bool) -> Stepped {
        for node in self.nodes(nodes)? {
            if frozen {
                self.frozen.insert(node);
            } else {
                self.frozen.remove(&node);
            }
        }
        self.each(nodes, |backend, node| backend.freeze(node, frozen))
    }

    fn since(&self, mark: Option<&str>) -> usize {
        mark.and_then(|mark| self.marks.get(mark)).copied().unwrap_or(0)
    }

    fn watch(&mut self, step: &Step, pred: &Pred, wanted: bool, until: &str) -> Stepped {
        self.checked += 1;
        self.watches.push(Watch {
            line: step.line,
            text: step.text.clone(),
            pred: pred.clone(),
            wanted,
            until: until.to_owned(),
        });
        self.observe()
    }

    /// On real processes an expectation has some time to come true, and must then stay true.
    fn expect(
        &mut self,
        at_once: bool,
        mut judge: impl FnMut(&Self) -> Result<(), String>,
    ) -> Stepped {
        self.observe()?;
        self.checked += 1;
        let patience = if at_once { Duration::ZERO } else { self.backend.patience() };
        self.wait_for(patience, |runner| Ok(judge(runner)))?;
        if !patience.is_zero() {
            self.pass(self.backend.heartbeat() * 2)?;
            judge(self)?;
        }
        Ok(())
    }

    fn cut(&mut self, from: &NodeRefs, to: &NodeRefs, one_way: bool) -> Stepped {
        let (from, to) = (self.nodes(from)?, self.nodes(to)?);
        for a in &from {
            for b in to.iter().filter(|b| *b != a) {
                self.backend.gate(*a, GateChange::Cut(*b))?;
                if !one_way {
                    self.backend.gate(*b, GateChange::Cut(*a))?;
                }
            }
        }
        self.observe()
    }

    fn reset(&mut self, one: &NodeRefs, other: &NodeRefs) -> Stepped {
        let (one, other) = (self.nodes(one)?, self.nodes(other)?);
        for a in &one {
            for b in other.iter().filter(|b| *b != a) {
                self.backend.reset(*a, *b)?;
            }
        }
        self.observe()
    }

    fn by_hand(
        &mut self,
        selector: &Selector,
        change: impl Fn(BTreeSet<u64>) -> GateChange,
    ) -> Stepped {
        let from = selector.from.as_ref().map(|node| self.node(node)).transpose()?;
        let to = selector.to.as_ref().map(|node| self.node(node)).transpose()?;
        let fits = |held: &HeldView| {
            selector.number.is_none_or(|number| number == held.number)
                && selector.kind.is_none_or(|kind| kind == held.kind)
                && from.is_none_or(|from| from == held.from)
                && to.is_none_or(|to| to == held.to)
        };
        // On real processes a message may take a moment to come to the gate.
        let found = self.wait_for(self.backend.patience(), |runner| {
            let held: Vec<HeldView> = runner.backend.held()?.into_iter().filter(fits).collect();
            if held.is_empty() {
                return Ok(Err("no such message is held".to_owned()));
            }
            Ok(Ok(held))
        })?;
        let count = selector.at_most.map_or(found.len(), |(_, count)| {
            usize::try_from(count).unwrap_or(usize::MAX).min(found.len())
        });
        let chosen = match selector.at_most {
            Some((End::Last, _)) => &found[found.len() - count..],
            Some((End::First, _)) | None => &found[..count],
        };
        let mut by_sender: BTreeMap<NodeId, BTreeSet<u64>> = BTreeMap::new();
        for held in chosen {
            by_sender.entry(held.from).or_default().insert(held.number);
        }
        for (sender, numbers) in by_sender {
            self.backend.gate(sender, change(numbers))?;
        }
        self.observe()
    }

    fn elect(&mut self, node: &NodeRef, win: bool) -> Stepped {
        let node = self.node(node)?;
        self.must_be(node, true)?;
        if !win {
            self.backend.campaign(node)?;
            return self.observe();
        }
        let leads = |runner: &Self| {
            let pred = Pred::Leader { negated: false, node: Some(NodeRef::Node(node)), term: None };
            runner.scene(|scene| scene.judge(&pred))
        };
        let mut found = String::new();
        for _ in 0..ELECTIONS {
            self.backend.campaign(node)?;
            self.observe()?;
            let patience = self.backend.heartbeat() * 4;
            match self.wait_for(patience, |runner| Ok(leads(runner))) {
                Ok(()) => return Ok(()),
                Err(Wrong::Found(text)) => found = text,
                Err(error) => return Err(error),
            }
        }
        Err(format!("{node} did not win within {ELECTIONS} elections: {found}").into())
    }

    // --- the end ---

    /// Every script ends by healing everything: the nodes must come to agree, and nothing that was
    /// acknowledged is missing.
    fn end(&mut self) -> Stepped {
        self.watches.clear();
        for node in self.nodes.clone() {
            if self.views.iter().any(|view| view.node == node && view.paused) {
                self.backend.resume(node)?;
            }
            self.backend.set_disk(node, crate::ast::DiskState::Ok)?;
            if !self.is_up(node) {
                self.backend.restart(node)?;
            }
            self.observe()?;
            self.backend.gate(node, GateChange::Heal)?;
            self.backend.gate(node, GateChange::Release(None))?;
            self.backend.freeze(node, false)?;
        }
        self.timers = Timers::Auto;
        self.observe()?;
        let leader = Pred::Leader { negated: true, node: None, term: None };
        let someone_leads = |runner: &mut Self| Ok(runner.scene(|scene| scene.judge(&leader)));
        self.wait_for(LIMIT, someone_leads)?;
        // One whose term grew while it was cut off may still unseat the leader.
        self.settle()?;
        self.wait_for(LIMIT, someone_leads)?;
        self.submit(&["end".to_owned()], None, None, false, &[Outcome::Ok])?;
        self.settle()?;
        let agree = Pred::LogsEqual(NodeRefs::All);
        let same = |runner: &Self| runner.scene(|scene| scene.judge(&agree));
        self.wait_for(LIMIT, |runner| Ok(same(runner)))?;
        let last = self.views.iter().map(NodeView::last).max().unwrap_or(0);
        let all = self.views.iter().all(|view| view.up && view.commit == last);
        if !all {
            return Err("not all nodes know everything to be committed".to_owned().into());
        }
        self.checker.check_end();
        self.checked += 2;
        Ok(self.scene(|scene| scene.judge(&Pred::InvariantsOk))?)
    }
}
