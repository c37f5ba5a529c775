//! Playing a case, and judging what became of it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{Event, NodeId, RoleKind, Time};
use tercet_replica::{LoggedContent, escape_value};
use tercet_wal::Survive;

use super::{Outcome, Verdict};
use crate::{Answer, OpId, What, World, WorldConfig};

/// A cluster that does nothing for so long is unavailable.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// How the clusters of the tables are set up: as usual, but that they beat half as often.
pub(crate) const fn config(nodes: u8, seed: u64) -> WorldConfig {
    WorldConfig {
        heartbeat_interval: Duration::from_millis(100),
        election_timeout_min: Duration::from_millis(300),
        election_timeout_max: Duration::from_millis(600),
        ..WorldConfig::new(nodes, seed)
    }
}

/// An entry that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acked {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) value: Bytes,
}

/// A case under way.
pub(crate) struct Play<'a> {
    pub(crate) world: World,
    pub(crate) acked: &'a [Acked],
    /// The one value that is submitted afterwards.
    op: Option<OpId>,
    pub(crate) submitted: bool,
    /// What nodes warned of.
    warnings: Vec<String>,
    wrong: Option<String>,
}

const REQUEST: u128 = 0xc0de_0000_0000_0001;

impl<'a> Play<'a> {
    pub(crate) const fn new(world: World, acked: &'a [Acked]) -> Self {
        Self { world, acked, op: None, submitted: false, warnings: Vec::new(), wrong: None }
    }

    pub(crate) fn start(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for id in nodes {
            // Who cannot start stays down: the others have to do.
            let _ = self.world.start(id);
        }
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        let raft = |id: &NodeId| self.world.replica(*id).and_then(|replica| replica.raft());
        let leads = |id: &NodeId| raft(id).is_some_and(|raft| raft.role() == RoleKind::Leader);
        let leaders = self.world.node_ids().into_iter().filter(leads);
        leaders.max_by_key(|id| raft(id).map(|raft| raft.term()))
    }

    /// Lets time pass until `done`, at most so long.
    pub(crate) fn run(&mut self, at_most: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.world.now().after(at_most);
        while !done(self) {
            if self.world.now() >= end {
                return false;
            }
            let glance: Time = self.world.now().after(GLANCE).min(end);
            while self.world.step(glance) {}
            self.look();
        }
        true
    }

    /// The leader is killed as soon as there is one, and comes back when another may lead.
    pub(crate) fn change_leader(&mut self) {
        if self.run(Duration::from_secs(5), |play| play.leader().is_some()) {
            let leader = self.leader().expect("there is one");
            self.world.crash(leader, Survive::All);
            self.run(Duration::from_secs(2), |_| false);
            self.start([leader]);
        }
    }

    fn look(&mut self) {
        for happened in self.world.take_happened() {
            if let What::Warning(text) | What::Stopped(text) = &happened.what {
                self.warnings.push(format!("{}: {text}", happened.node));
            }
            if let What::Core(Event::NeverCommitted { pos }) = happened.what
                && self
                    .acked
                    .iter()
                    .any(|acked| (acked.term, acked.index) == (pos.term.0, pos.index.0))
            {
                self.wrong =
                    Some(format!("{} drops entry {pos}, which was acknowledged", happened.node));
            }
        }
    }

    /// The value that shows that the cluster works; tried until it is answered.
    fn submit(&mut self) {
        match self.op.and_then(|op| self.world.answer(op)) {
            Some(Answer::Submitted(_)) => self.submitted = true,
            None if self.op.is_some() => {}
            _ => {
                self.op = None;
                if let Some(leader) = self.leader() {
                    let records = vec![Bytes::from_static(b"afterwards")];
                    self.op = Some(self.world.submit(leader, REQUEST, records));
                }
            }
        }
    }

    fn expected(&self) -> Vec<u8> {
        let mut expected = Vec::new();
        let last = self.submitted.then_some(&b"afterwards"[..]);
        for value in self.acked.iter().map(|acked| &acked.value[..]).chain(last) {
            expected.extend_from_slice(b"write ");
            escape_value(value, &mut expected);
            expected.push(b'\n');
        }
        expected
    }

    /// Why not all is as it was and the cluster works, if so.
    fn unfinished(&mut self, expected: &[u8]) -> Option<String> {
        for id in self.world.node_ids() {
            let Some(status) = self.world.status(id) else {
                return Some(format!("{id} does not run"));
            };
            if status.role == RoleKind::Quarantined {
                return Some(format!("{id} is not readmitted"));
            }
            if let Some(faulty) = status.faulty.first() {
                return Some(format!("entry {} is damaged on {id}", faulty.pos));
            }
            if self.world.disk(id).contents("values.log").as_deref() != Some(expected) {
                return Some(format!("values.log of {id} is not what was submitted"));
            }
        }
        None
    }

    /// What is wrong now and for ever, if anything.
    fn violation(&mut self, expected: &[u8]) -> Option<String> {
        if self.wrong.is_some() {
            return self.wrong.clone();
        }
        let ids = self.world.node_ids();
        for id in &ids {
            let values = self.world.disk(*id).contents("values.log").unwrap_or_default();
            if self.world.is_up(*id) && !expected.starts_with(&values) {
                return Some(format!("values.log of {id} is no beginning of what was submitted"));
            }
        }
        // Every acknowledged entry keeps its place on a majority, or on who may have forgotten it.
        let logs: Vec<_> = ids
            .iter()
            .map(|id| {
                let is_mute =
                    self.world.status(*id).is_none_or(|s| s.role == RoleKind::Quarantined);
                (is_mute, self.world.log(*id))
            })
            .collect();
        for acked in self.acked {
            let at = usize::try_from(acked.index - 1).expect("an index in memory");
            let holds = |log: &[tercet_replica::LoggedEntry]| {
                log.get(at).is_some_and(|entry| {
                    let is_it = match &entry.content {
                        LoggedContent::Damaged => true,
                        LoggedContent::Records { values, .. } => {
                            values[..] == [acked.value.clone()]
                        }
                        LoggedContent::Noop | LoggedContent::Readmit(_) => false,
                    };
                    entry.term == acked.term && is_it
                })
            };
            let holders = logs.iter().filter(|(is_mute, log)| *is_mute || holds(log)).count();
            if holders <= ids.len() / 2 {
                return Some(format!(
                    "entry {} was acknowledged, and {holders} hold it",
                    acked.index
                ));
            }
        }
        None
    }

    /// Lets the cluster do what it can, and judges. `lost` are the acknowledged entries of which no
    /// copy is left.
    pub(crate) fn judge(mut self, lost: &BTreeSet<u64>) -> Verdict {
        let end = self.world.now().after(PATIENCE);
        let mut why = "nothing was tried".to_owned();
        while self.world.now() < end {
            self.run(GLANCE, |_| false);
            if !self.submitted {
                self.submit();
            }
            if self.submitted {
                let expected = self.expected();
                match self.unfinished(&expected) {
                    None => break,
                    Some(unfinished) => why = unfinished,
                }
            }
        }
        let expected = self.expected();
        if let Some(violation) = self.violation(&expected) {
            return Verdict::miss(Outcome::Unsafe, violation);
        }
        if !self.submitted {
            if lost.is_empty() {
                let why = format!("could be whole: {}", self.explain());
                return Verdict::miss(Outcome::Unavailable, why);
            }
            return match self.unnamed(lost) {
                None => Verdict::good(Outcome::Unavailable),
                Some(why) => Verdict::miss(Outcome::Unavailable, why),
            };
        }
        if !lost.is_empty() {
            return Verdict::miss(Outcome::Unsafe, format!("works on, but {lost:?} are lost"));
        }
        match self.unfinished(&expected) {
            None => Verdict::good(Outcome::Correct),
            Some(_) => {
                Verdict::miss(Outcome::Unavailable, format!("works, but {why}; {}", self.explain()))
            }
        }
    }

    /// Every node that runs names, of what it waits for, only what is lost; and somebody does.
    fn unnamed(&self, lost: &BTreeSet<u64>) -> Option<String> {
        let mut named = BTreeSet::new();
        for id in self.world.node_ids() {
            for faulty in self.world.status(id).map_or(Vec::new(), |status| status.faulty) {
                named.insert(faulty.pos.index.0);
            }
        }
        let first = lost.first()?;
        (!named.contains(first))
            .then(|| format!("entry {first} is lost, but the status names {named:?}"))
    }

    pub(crate) fn explain(&self) -> String {
        let line = |id: NodeId| match self.world.status(id) {
            None => format!("{id} down"),
            Some(s) => format!(
                "{id} {:?} term {} last {} commit {} faulty {:?}",
                s.role, s.hard_state.term, s.last, s.commit, s.faulty
            ),
        };
        let lines: Vec<String> = self.world.node_ids().into_iter().map(line).collect();
        let first: Vec<&str> = self.warnings.iter().take(8).map(String::as_str).collect();
        format!("{}; they had warned: {}", lines.join("; "), first.join("; "))
    }
}
