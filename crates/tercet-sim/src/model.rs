//! The model of protocol RJ (docs/tla/Rejoin.tla), action by action, in Rust.
//!
//! It is used twice: [`crate::explore`] walks through all of its states within small bounds, and
//! [`crate::rules`] holds what production replicas did against it, step by step. It is abstract: what
//! was once said can arrive arbitrarily late, so votes, requests and acknowledgements are sets that
//! only grow; and a node *is* what its disk holds.
//!
//! An action that the rules do not allow is refused, with the rule that it breaks.

use std::collections::{BTreeMap, BTreeSet};

/// A slot.
pub type Slot = u8;
/// An incarnation of a slot.
pub type Disk = u128;

/// An entry: its term, and whom it readmits, if anyone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ModelEntry {
    /// The term of the leader that made it.
    pub term: u64,
    /// The slot and incarnation that a Readmit names; `None` for a client's entry or a no-op.
    pub readmit: Option<(Slot, Disk)>,
}

/// What a node may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mode {
    /// Everything.
    Voter,
    /// It has lost its memory: it stores what it is sent, and says nothing that counts.
    Mute,
}

/// What a node is at the moment; not on its disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// Neither of the others.
    Follower,
    /// Has asked for votes in its term.
    Candidate,
    /// Leads its term.
    Leader,
}

/// One node: what its disk holds, and its part.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node {
    /// The latest term that it has seen.
    pub term: u64,
    /// Who got its vote in that term.
    pub vote: Option<Slot>,
    /// Its log, as far as it is durable.
    pub log: Vec<ModelEntry>,
    /// Its part.
    pub part: Part,
    /// Its incarnation.
    pub disk: Disk,
    /// What it may do.
    pub mode: Mode,
}

/// One term's leader, with its log in memory, which its own disk may lack the end of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reign {
    /// Who leads.
    pub leader: Slot,
    /// Its log.
    pub log: Vec<ModelEntry>,
    /// What it has committed.
    pub commit: u64,
}

/// A step of the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A node asks for votes in the next term, and votes for itself.
    Timeout(Slot),
    /// A node sees a higher term.
    Observe(Slot, u64),
    /// A node votes for a candidate of this term.
    Grant(Slot, u64, Slot),
    /// A candidate has the votes of a majority.
    Win(Slot),
    /// A leader appends an entry: a client's, or a Readmit of a slot and incarnation.
    Put(Slot, Option<(Slot, Disk)>),
    /// A node stores the log of this term's leader up to an index; a voter acknowledges it. The leader
    /// itself does the same when its own write is done.
    Follow(Slot, u64, u64),
    /// A leader commits up to an index.
    Commit(Slot, u64),
    /// A node stops, or steps down.
    Crash(Slot),
    /// A node loses its disk, and comes back with another.
    Wipe(Slot, Disk),
    /// A node whose entry at this index is damaged drops it, and what follows: a majority never had it.
    Drop(Slot, u64),
    /// A mute node that holds its committed Readmit stores its term's leader as its vote.
    Promise(Slot),
    /// It is a voter again, by the Readmit at this index.
    Admit(Slot, u64),
    /// An operator lets the cluster begin again from this node's log; all others become new. Everybody
    /// gets this incarnation.
    Recover(Slot, Disk),
}

/// Why an action is not allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The rule, by its stable name.
    pub rule: &'static str,
    /// What breaks it.
    pub why: String,
}

fn check(holds: bool, rule: &'static str, why: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken { rule, why: why() }) }
}

/// Term and length of a log: its place in the order of §5.4.1.
fn end(log: &[ModelEntry]) -> (u64, u64) {
    (log.last().map_or(0, |entry| entry.term), log.len() as u64)
}

fn length(index: u64) -> usize {
    usize::try_from(index).expect("a log of the model fits into memory")
}

/// The state of the model.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Model {
    /// The nodes.
    pub nodes: BTreeMap<Slot, Node>,
    /// (term, candidate) → the end of its log.
    pub requests: BTreeMap<(u64, Slot), (u64, u64)>,
    /// (term, candidate, voter).
    pub votes: BTreeSet<(u64, Slot, Slot)>,
    /// (term, voter) → up to where it said that it holds the log of that term's leader.
    pub acks: BTreeMap<(u64, Slot), u64>,
    /// The leaders.
    pub reigns: BTreeMap<u64, Reign>,
    /// index → the entry that is committed there, and the first term in which it was.
    pub committed: BTreeMap<u64, (ModelEntry, u64)>,
    /// The terms that somebody has reached.
    pub reached: BTreeSet<u64>,
    /// The incarnations that ever came without a memory.
    pub wiped: BTreeSet<(Slot, Disk)>,
    /// No log that ends before this may lead: what an operator decided to go on with.
    pub floor: (u64, u64),
}

impl Model {
    /// Nodes with these disks, all of them empty voters.
    pub fn new(disks: impl IntoIterator<Item = (Slot, Disk)>) -> Self {
        let node = |disk| Node {
            term: 0,
            vote: None,
            log: Vec::new(),
            part: Part::Follower,
            disk,
            mode: Mode::Voter,
        };
        Self {
            nodes: disks.into_iter().map(|(slot, disk)| (slot, node(disk))).collect(),
            requests: BTreeMap::new(),
            votes: BTreeSet::new(),
            acks: BTreeMap::new(),
            reigns: BTreeMap::new(),
            committed: BTreeMap::new(),
            reached: BTreeSet::new(),
            wiped: BTreeSet::new(),
            floor: (0, 0),
        }
    }

    fn is_quorum(&self, count: usize) -> bool {
        2 * count > self.nodes.len()
    }

    fn node(&mut self, slot: Slot) -> &mut Node {
        self.nodes.get_mut(&slot).expect("the caller names a node of this model")
    }

    fn reign(&self, term: u64) -> Result<&Reign, Broken> {
        self.reigns.get(&term).ok_or_else(|| Broken {
            rule: "Follow: of a leader",
            why: format!("nobody leads term {term}"),
        })
    }

    /// Does one step, or says which rule it breaks; then nothing has changed.
    ///
    /// # Errors
    /// The rule.
    pub fn step(&mut self, action: Action) -> Result<(), Broken> {
        match action {
            Action::Timeout(slot) => self.timeout(slot),
            Action::Observe(slot, term) => self.observe(slot, term),
            Action::Grant(voter, term, candidate) => self.grant(voter, term, candidate),
            Action::Win(slot) => self.win(slot),
            Action::Put(slot, readmit) => self.put(slot, readmit),
            Action::Follow(slot, term, last) => self.follow(slot, term, last),
            Action::Commit(slot, to) => self.commit(slot, to),
            Action::Crash(slot) => {
                self.node(slot).part = Part::Follower;
                Ok(())
            }
            Action::Wipe(slot, disk) => self.wipe(slot, disk),
            Action::Drop(slot, from) => self.drop_tail(slot, from),
            Action::Promise(slot) => self.promise(slot),
            Action::Admit(slot, index) => self.admit(slot, index),
            Action::Recover(slot, disk) => {
                self.recover(slot, disk);
                Ok(())
            }
        }
    }

    fn timeout(&mut self, slot: Slot) -> Result<(), Broken> {
        let floor = self.floor;
        let node = self.node(slot);
        check(node.mode == Mode::Voter, "Timeout: a voter", || format!("n{slot} is mute"))?;
        check(node.part != Part::Leader, "Timeout: no leader", || format!("n{slot} leads"))?;
        let last = end(&node.log);
        check(last >= floor, "Timeout: from the floor", || format!("n{slot} ends at {last:?}"))?;
        node.term += 1;
        node.vote = Some(slot);
        node.part = Part::Candidate;
        let term = node.term;
        self.reached.insert(term);
        self.requests.insert((term, slot), last);
        self.votes.insert((term, slot, slot));
        Ok(())
    }

    fn observe(&mut self, slot: Slot, term: u64) -> Result<(), Broken> {
        let is_reached = self.reached.contains(&term);
        let node = self.node(slot);
        check(term > node.term, "terms do not go back", || {
            format!("n{slot} goes from {} to {term}", node.term)
        })?;
        check(is_reached, "Observe: a term that somebody reached", || {
            format!("n{slot} sees term {term}, which nobody reached")
        })?;
        node.term = term;
        node.vote = None;
        node.part = Part::Follower;
        Ok(())
    }

    fn grant(&mut self, voter: Slot, term: u64, candidate: Slot) -> Result<(), Broken> {
        let request = self.requests.get(&(term, candidate)).copied();
        let floor = self.floor;
        let node = self.node(voter);
        let of = || format!("n{voter} votes for n{candidate} in term {term}");
        check(node.mode == Mode::Voter, "Grant: a voter", of)?;
        let last = request.ok_or_else(|| Broken { rule: "Grant: to who asked", why: of() })?;
        check(node.term <= term, "terms do not go back", of)?;
        let is_free = node.term < term || node.vote.is_none_or(|vote| vote == candidate);
        check(is_free, "Grant: one vote per term", of)?;
        let own = end(&node.log).max(floor);
        check(last >= own, "Grant: to an up-to-date log", || {
            format!("{}, whose log ends at {last:?}; its own at {own:?}", of())
        })?;
        if node.term < term {
            node.part = Part::Follower;
        }
        node.term = term;
        node.vote = Some(candidate);
        self.votes.insert((term, candidate, voter));
        Ok(())
    }

    fn win(&mut self, slot: Slot) -> Result<(), Broken> {
        let node = &self.nodes[&slot];
        let (term, log) = (node.term, node.log.clone());
        let of = || format!("n{slot} leads term {term}");
        check(node.part == Part::Candidate, "Win: a candidate", of)?;
        let votes = self.votes.range((term, slot, 0)..=(term, slot, Slot::MAX)).count();
        check(self.is_quorum(votes), "Win: the votes of a majority", || {
            format!("{} with {votes} votes", of())
        })?;
        check(!self.reigns.contains_key(&term), "Election Safety", of)?;
        for (index, (entry, by)) in &self.committed {
            let holds = *by >= term || log.get(length(*index) - 1) == Some(entry);
            check(holds, "Leader Completeness", || {
                format!("{} without entry {index} of term {}", of(), entry.term)
            })?;
        }
        self.node(slot).part = Part::Leader;
        self.reigns.insert(term, Reign { leader: slot, log, commit: 0 });
        Ok(())
    }

    fn leading(&self, slot: Slot, rule: &'static str) -> Result<(u64, &Reign), Broken> {
        let node = &self.nodes[&slot];
        let reign = self.reigns.get(&node.term).filter(|reign| reign.leader == slot);
        reign
            .filter(|_| node.part == Part::Leader)
            .map(|reign| (node.term, reign))
            .ok_or_else(|| Broken { rule, why: format!("n{slot} does not lead") })
    }

    /// Whether a leader may readmit now: it has committed an entry of its own term, and no other
    /// Readmit is on its way.
    fn may_readmit(reign: &Reign, term: u64) -> Result<(), Broken> {
        let commit = length(reign.commit);
        let own = commit > 0 && reign.log[commit - 1].term == term;
        check(own, "Readmit: after an entry of its own term", || {
            format!("the leader of term {term} has committed none")
        })?;
        let pending = reign.log[commit..].iter().any(|entry| entry.readmit.is_some());
        check(!pending, "Readmit: one at a time", || format!("in term {term}"))
    }

    fn put(&mut self, slot: Slot, readmit: Option<(Slot, Disk)>) -> Result<(), Broken> {
        let (term, reign) = self.leading(slot, "Put: a leader")?;
        if let Some((whom, disk)) = readmit {
            let of = || format!("n{slot} readmits {disk:x} of n{whom} in term {term}");
            check(whom != slot, "Readmit: another", of)?;
            // It may have been wiped again since it asked.
            check(self.wiped.contains(&(whom, disk)), "Readmit: who lost a memory", of)?;
            let is_new = reign.log.iter().all(|entry| entry.readmit != readmit);
            check(is_new, "Readmit: an incarnation once", of)?;
            Self::may_readmit(reign, term)?;
        }
        let reign = self.reigns.get_mut(&term).expect("looked at above");
        reign.log.push(ModelEntry { term, readmit });
        Ok(())
    }

    fn follow(&mut self, slot: Slot, term: u64, last: u64) -> Result<(), Broken> {
        let reign = self.reign(term)?;
        let of = || format!("n{slot} stores up to {last} of term {term}");
        check(last <= reign.log.len() as u64, "Follow: what the leader has", of)?;
        let prefix = &reign.log[..length(last)];
        let is_leader = reign.leader == slot;
        let node = &self.nodes[&slot];
        check(node.term <= term || is_leader, "terms do not go back", of)?;
        let holds = node.log.get(..length(last)).is_some_and(|log| log == prefix);
        if !holds {
            let same = node.log.iter().zip(prefix).take_while(|(a, b)| a == b).count() as u64;
            let cut = same + 1..=node.log.len() as u64;
            let is_committed = |index: &u64| {
                let known = self.committed.get(index).map(|(entry, _)| *entry);
                known == Some(node.log[length(*index) - 1])
            };
            let mut cut = cut;
            if let Some(index) = cut.find(is_committed) {
                return Err(Broken {
                    rule: "Follow: what is committed stays",
                    why: format!("{}: entry {index} is committed", of()),
                });
            }
        }
        let prefix = prefix.to_vec();
        let node = self.node(slot);
        if node.term < term {
            node.term = term;
            node.vote = None;
        }
        if !is_leader {
            node.part = Part::Follower;
        }
        if !holds {
            node.log = prefix;
        }
        // A mute node's word does not count; nor is an empty log news.
        if node.mode == Mode::Voter && last > 0 {
            let acked = self.acks.entry((term, slot)).or_default();
            *acked = last.max(*acked);
        }
        Ok(())
    }

    fn commit(&mut self, slot: Slot, to: u64) -> Result<(), Broken> {
        let (term, reign) = self.leading(slot, "Commit: a leader")?;
        let of = || format!("n{slot} commits up to {to} in term {term}");
        check(to > reign.commit && to <= reign.log.len() as u64, "Commit: what it has", of)?;
        let entry = reign.log[length(to) - 1];
        check(entry.term == term, "Commit: an entry of its own term", of)?;
        let holds = |voter: &&Slot| self.acks.get(&(term, **voter)).is_some_and(|at| *at >= to);
        let holders = self.nodes.keys().filter(holds).count();
        check(self.is_quorum(holders), "Commit: on a majority", || {
            format!("{}, which {holders} hold", of())
        })?;
        let entries: Vec<ModelEntry> = reign.log[..length(to)].to_vec();
        for (index, entry) in (1..).zip(entries.iter().copied()) {
            let known = self.committed.get(&index).map_or(entry, |(known, _)| *known);
            check(known == entry, "State Machine Safety", || format!("{}: entry {index}", of()))?;
        }
        for (index, entry) in (1..).zip(entries) {
            let (_, first) = self.committed.entry(index).or_insert((entry, term));
            *first = term.min(*first);
        }
        self.reigns.get_mut(&term).expect("looked at above").commit = to;
        Ok(())
    }

    fn wipe(&mut self, slot: Slot, disk: Disk) -> Result<(), Broken> {
        let is_new = self.nodes[&slot].disk != disk && !self.wiped.contains(&(slot, disk));
        check(is_new, "Wipe: a new incarnation", || format!("n{slot} comes back as {disk:x}"))?;
        self.wiped.insert((slot, disk));
        *self.node(slot) = Node {
            term: 0,
            vote: None,
            log: Vec::new(),
            part: Part::Follower,
            disk,
            mode: Mode::Mute,
        };
        Ok(())
    }

    fn drop_tail(&mut self, slot: Slot, from: u64) -> Result<(), Broken> {
        let log = &self.nodes[&slot].log;
        for (index, entry) in (1..).zip(log).filter(|(index, _)| *index >= from) {
            let is_committed = self.committed.get(&index).is_some_and(|(known, _)| known == entry);
            check(!is_committed, "Drop: what is committed stays", || {
                format!("n{slot} drops from {from} on; entry {index} is committed")
            })?;
        }
        self.node(slot).log.truncate(length(from) - 1);
        Ok(())
    }

    /// The Readmit of a mute node, if it holds it durably as its term's leader does, and it is
    /// committed: by that leader, or by an earlier one, from which that leader knows it.
    fn own_readmit(&self, slot: Slot) -> Result<u64, Broken> {
        let node = &self.nodes[&slot];
        let of = || format!("n{slot}, incarnation {:x}", node.disk);
        check(node.mode == Mode::Mute, "Leave: a mute node", of)?;
        let mine = Some((slot, node.disk));
        let at = node.log.iter().rposition(|entry| entry.readmit == mine);
        let index = at.ok_or_else(|| Broken { rule: "Leave: by its own Readmit", why: of() })? + 1;
        let reign = self.reign(node.term)?;
        let committed = self.committed.get(&(index as u64)).map(|(entry, _)| *entry);
        let is_committed = committed == Some(node.log[index - 1]);
        check(is_committed, "Leave: by a committed Readmit", of)?;
        let same = reign.log.get(..index) == node.log.get(..index);
        check(same, "Leave: with the leader's log", of)?;
        Ok(index as u64)
    }

    fn promise(&mut self, slot: Slot) -> Result<(), Broken> {
        self.own_readmit(slot)?;
        let leader = self.reign(self.nodes[&slot].term)?.leader;
        self.node(slot).vote = Some(leader);
        Ok(())
    }

    fn admit(&mut self, slot: Slot, index: u64) -> Result<(), Broken> {
        let by = self.own_readmit(slot)?;
        let of = || format!("n{slot} leaves by entry {index}; its Readmit is entry {by}");
        check(by == index, "Leave: by its own Readmit", of)?;
        let node = &self.nodes[&slot];
        let leader = self.reign(node.term)?.leader;
        check(node.vote == Some(leader), "Leave: with a vote for the leader", of)?;
        self.node(slot).mode = Mode::Voter;
        Ok(())
    }

    /// What was promised and acknowledged in the older generation is void, but for this log.
    fn recover(&mut self, survivor: Slot, disk: Disk) {
        let Node { term, vote, log, .. } = self.nodes[&survivor].clone();
        let mut next = Self::new(self.nodes.keys().map(|slot| (*slot, disk)));
        next.floor = end(&log);
        next.reached.insert(term);
        // As good as committed: no leader may lack it.
        next.committed = (1..).zip(&log).map(|(index, entry)| (index, (*entry, 0))).collect();
        let node = next.node(survivor);
        (node.term, node.vote, node.log) = (term, vote, log);
        *self = next;
    }
}
