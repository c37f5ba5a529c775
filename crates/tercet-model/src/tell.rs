//! The way to a violation, for people, and as a script of the lab (docs/lab.md).
//!
//! The script holds every message and delivers by hand those that the way delivers, so that it runs
//! in the simulator as the search found it, as far as the language can say it: a sync is the
//! simulator's own, but for writes that a crash shall lose.

use std::collections::BTreeMap;

use tercet_raft::{AppendOutcome, Envelope, Message, NodeId, Profile, Rules};

use crate::search::{Counterexample, Plan, Told};
use crate::state::Action;

/// What happened in each step, with what the node did.
pub fn sentences(found: &Counterexample) -> Vec<String> {
    let mut lines = Vec::new();
    for (step, number) in found.steps.iter().zip(1..) {
        lines.push(format!("{number:>3}. {}", sentence(step)));
        lines.extend(step.events.iter().map(|event| format!("       {event}")));
        let sent = step.sent.iter().map(|sent| format!("       sends {}", words(sent)));
        lines.extend(sent);
    }
    lines.push(format!("  => {}", found.violation));
    lines
}

fn sentence(step: &Told) -> String {
    let node = step.node;
    match (&step.arrived, step.action) {
        (Some(envelope), Action::Deliver { twice: true, .. }) => {
            format!("{node} receives {}, which will come again", words(envelope))
        }
        (Some(envelope), _) => format!("{node} receives {}", words(envelope)),
        (None, Action::Timeout(_)) => format!("{node}: a timer fires"),
        (None, Action::QuorumLost(_)) => format!("{node} does not hear from a majority"),
        (None, Action::Propose(_)) => format!("a client submits an entry to {node}"),
        (None, Action::Sync(_)) => format!("{node}'s disk syncs"),
        (None, Action::Crash(_)) => format!("{node} crashes, and starts again on what was synced"),
        (None, Action::Wipe(_, from)) => {
            format!("{node} loses its directory, and learns of the members from {from}")
        }
        (None, Action::Transfer(_, to)) => format!("{node} is told to hand over to {to}"),
        (None, Action::LinkLost(_, peer)) => format!("{node} loses its link to {peer}"),
        (None, Action::Deliver { .. }) => unreachable!("a delivery has its message"),
    }
}

fn words(envelope: &Envelope) -> String {
    let Envelope { from, to, term, message, .. } = envelope;
    let kind = kind(message);
    let detail = match message {
        Message::PreVote { last } | Message::Vote { last, .. } => format!(" last {last}"),
        Message::PreVoteReply { denied } | Message::VoteReply { denied } => {
            if denied.is_none() { " yes" } else { " no" }.to_owned()
        }
        Message::Append { prev, entries, commit, .. } => {
            let terms: Vec<String> = entries.iter().map(|entry| entry.term.to_string()).collect();
            format!(" after {prev} entries of terms [{}] commit {commit}", terms.join(" "))
        }
        Message::AppendReply { outcome, .. } | Message::LearnerReply { outcome: Some(outcome) } => {
            match outcome {
                AppendOutcome::Accepted { last } => format!(" accepted up to {last}"),
                AppendOutcome::Rejected { prev, .. } => format!(" refused after {prev}"),
            }
        }
        Message::Heartbeat { commit, .. } => format!(" commit {commit}"),
        Message::LearnerReply { outcome: None }
        | Message::HeartbeatReply { .. }
        | Message::Rejoin
        | Message::TimeoutNow
        | Message::ReadIndex { .. }
        | Message::ReadIndexReply { .. }
        | Message::Fetch { .. }
        | Message::FetchReply { .. } => String::new(),
    };
    format!("{kind} {from}->{to} @{term}{detail}")
}

/// A message's kind, as scripts name it.
const fn kind(message: &Message) -> &'static str {
    match message {
        Message::PreVote { .. } => "PreVote",
        Message::PreVoteReply { .. } => "PreVoteReply",
        Message::Vote { .. } => "Vote",
        Message::VoteReply { .. } => "VoteReply",
        Message::Append { .. } => "Append",
        Message::AppendReply { .. } => "AppendReply",
        Message::Heartbeat { .. } => "Heartbeat",
        Message::HeartbeatReply { .. } => "HeartbeatReply",
        Message::LearnerReply { .. } => "LearnerReply",
        Message::Rejoin => "Rejoin",
        Message::TimeoutNow => "TimeoutNow",
        Message::ReadIndex { .. } => "ReadIndex",
        Message::ReadIndexReply { .. } => "ReadIndexReply",
        Message::Fetch { .. } => "Fetch",
        Message::FetchReply { .. } => "FetchReply",
    }
}

/// The way as a script of the lab.
pub fn script(name: &str, plan: &Plan, found: &Counterexample) -> String {
    let mut script = Script {
        text: String::new(),
        held: BTreeMap::new(),
        values: 0,
        sticky: plan.setup.profile == Profile::Modern,
        trusted: plan.setup.rules.trust_wiped,
    };
    script.head(name, plan, found);
    for (at, step) in found.steps.iter().enumerate() {
        script.line(&format!("# {}. {}", at + 1, sentence(step)));
        script.before(&found.steps, at);
        script.step(step);
        for sent in &step.sent {
            let copies = if comes_twice(&found.steps, at, sent) { 2 } else { 1 };
            let link = (sent.from, sent.to, kind(&sent.message));
            let held = script.held.entry(link).or_default();
            held.extend(std::iter::repeat_n(sent.clone(), copies));
        }
    }
    // What an assertion says may have several lines.
    for line in found.violation.to_string().lines() {
        script.line(&format!("# {line}"));
    }
    if let Some(name) = found.violation.invariant.in_scripts() {
        script.line(&format!("expect invariants violated={name}"));
    }
    script.line("end as-is");
    script.text
}

struct Script {
    text: String,
    /// What the lab's gates hold, by link and kind, in the order in which it was sent.
    held: BTreeMap<(NodeId, NodeId, &'static str), Vec<Envelope>>,
    values: u32,
    /// Whether who hears a leader votes for nobody.
    sticky: bool,
    /// Whether a wiped node is a voter at once, and need not ask.
    trusted: bool,
}

impl Script {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn head(&mut self, name: &str, plan: &Plan, found: &Counterexample) {
        let invariant = found.violation.invariant;
        self.line(&format!(
            "title \"{invariant}: found by the model check\"   cite \"suite {name}\""
        ));
        let nodes: Vec<NodeId> = plan.setup.node_ids().collect();
        let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        let profile = if plan.setup.profile == Profile::Paper { "paper" } else { "modern" };
        let recovery = if plan.setup.rules.trust_wiped { " recovery=trust" } else { "" };
        let names = names.join(" ");
        self.line(&format!("cluster {names} profile={profile} timers=manual{recovery}"));
        for mutant in mutants(&plan.setup.rules, plan.setup.pre_vote) {
            self.line(&format!("mutant {mutant}"));
        }
        for (id, (term, log)) in nodes.iter().zip(&plan.start.given) {
            let entries: Vec<String> = log.iter().map(ToString::to_string).collect();
            let log = if entries.is_empty() { "empty".to_owned() } else { entries.join(",") };
            self.line(&format!("given {id} term={term} log={log}"));
        }
        for from in &nodes {
            // A heartbeat is a step of its own.
            self.line(&format!("set {from} heartbeat=20s"));
            for to in nodes.iter().filter(|to| *to != from) {
                self.line(&format!("hold {from}->{to}"));
            }
        }
    }

    /// What must be set up before a step.
    fn before(&mut self, steps: &[Told], at: usize) {
        let step = &steps[at];
        for sent in &step.sent {
            if comes_twice(steps, at, sent) {
                let (kind, from, to) = (kind(&sent.message), sent.from, sent.to);
                self.line(&format!("dup next {kind} {from}->{to}"));
            }
        }
        if is_lost(steps, at) {
            self.line(&format!("set {} disk=slow", step.node));
        }
    }

    fn step(&mut self, step: &Told) {
        let node = step.node;
        match step.action {
            Action::Timeout(_) => {
                let leads = step
                    .events
                    .iter()
                    .all(|event| !matches!(event, tercet_raft::Event::ElectionTimeout { .. }));
                if leads {
                    self.line(&format!("set {node} heartbeat=default"));
                    self.line("run 60ms");
                    self.line(&format!("set {node} heartbeat=20s"));
                } else {
                    self.line(&format!("elect {node}"));
                    self.line("run 1ms");
                }
            }
            Action::QuorumLost(_) => self.line("run 700ms"),
            Action::Propose(_) => {
                self.values += 1;
                let value = self.values;
                self.line(&format!("submit v{value} via={node} nowait"));
                self.line("run 1ms");
            }
            Action::Sync(_) => self.line("run 1ms"),
            Action::Crash(_) => {
                self.line(&format!("crash {node}"));
                self.line(&format!("set {node} disk=ok"));
                self.line(&format!("restart {node}"));
                self.line("run 5ms");
                self.forget(node);
            }
            Action::Wipe(_, from) => {
                self.line(&format!("crash {node}"));
                self.line(&format!("wipe {node} all"));
                self.line(&format!("restart {node}"));
                self.line("run 5ms");
                self.forget(node);
                if !self.trusted {
                    // It asks for the members, and is told.
                    self.line(&format!("deliver from={node} to={from} last 1"));
                    self.line("run 1ms");
                    self.line(&format!("deliver from={from} to={node} last 1"));
                    self.line("run 5ms");
                }
            }
            Action::Deliver { .. } => self.deliver(step),
            Action::Transfer(_, to) => {
                self.line(&format!("transfer to={to}"));
            }
            Action::LinkLost(node, peer) => self.line(&format!("reset {node} | {peer}")),
        }
    }

    /// What a gate holds is in the process.
    fn forget(&mut self, node: NodeId) {
        self.held.retain(|(from, ..), _| *from != node);
    }

    fn deliver(&mut self, step: &Told) {
        let envelope = step.arrived.as_ref().expect("a delivery has its message");
        let (from, to, kind) = (envelope.from, envelope.to, kind(&envelope.message));
        let held = self.held.entry((from, to, kind)).or_default();
        let Some(place) = held.iter().position(|held| held == envelope) else {
            self.line("# (the lab has lost this message with its sender's process)");
            return;
        };
        held.drain(..=place);
        let asks = matches!(envelope.message, Message::PreVote { .. } | Message::Vote { .. });
        if self.sticky && asks {
            // Who hears a leader votes for nobody: its last word is old by now.
            self.line("run 160ms");
        }
        if place > 0 {
            // Those before it are late: in this script they never come.
            self.line(&format!("discard type={kind} from={from} to={to} first {place}"));
        }
        self.line(&format!("deliver type={kind} from={from} to={to} first 1"));
        self.line("run 1ms");
    }
}

/// Whether what the step writes is lost by the node's next crash.
fn is_lost(steps: &[Told], at: usize) -> bool {
    let node = steps[at].node;
    let next = steps[at + 1..].iter().filter(|step| step.node == node).find_map(|step| match step
        .action
    {
        Action::Sync(_) => Some(false),
        Action::Crash(_) => Some(true),
        Action::Timeout(_)
        | Action::QuorumLost(_)
        | Action::Propose(_)
        | Action::Wipe(..)
        | Action::Deliver { .. }
        | Action::Transfer(..)
        | Action::LinkLost(..) => None,
    });
    next == Some(true)
}

/// Whether a message that is sent now arrives twice, before it is sent anew.
fn comes_twice(steps: &[Told], at: usize, sent: &Envelope) -> bool {
    let later = &steps[at + 1..];
    let again = later.iter().position(|step| step.sent.contains(sent)).unwrap_or(later.len());
    later[..again].iter().any(|step| {
        matches!(step.action, Action::Deliver { twice: true, .. })
            && step.arrived.as_ref() == Some(sent)
    })
}

fn mutants(rules: &Rules, pre_vote: bool) -> Vec<&'static str> {
    let Rules {
        commit_old_terms,
        truncate_always,
        ignore_log_in_votes,
        speak_before_durable,
        trust_wiped: _,
        no_pre_vote,
        no_check_quorum,
    } = *rules;
    let all = [
        (commit_old_terms, "commit-old-terms"),
        (truncate_always, "truncate-always"),
        (ignore_log_in_votes, "ignore-log-in-votes"),
        (speak_before_durable, "speak-before-durable"),
        (no_pre_vote || !pre_vote, "no-pre-vote"),
        (no_check_quorum, "no-check-quorum"),
    ];
    all.into_iter().filter_map(|(is_off, name)| is_off.then_some(name)).collect()
}
