//! Whatever a peer says, in whatever order: a core does not panic, and never breaks its own state.
//! A peer that lies can do harm (Raft does not defend against that), but not this.
//!
//! With one exception, which is wanted: entries that would replace what is committed here stop the
//! node, for a node that stops is better than one that lies. Such messages are left out below, and
//! have a test of their own.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tercet_raft::invariants::{check_state, check_step};
use tercet_raft::{
    AppendOutcome, BarrierId, Config, ConflictHint, DenyReason, EntryKind, EntryMeta, Envelope,
    Event, FetchOutcome, Incarnation, Index, Input, LogPos, Message, NodeId, Output, Profile,
    Proposal, ProposalId, Raft, Recovered, RoleKind, Rules, Term, Time, WriteId,
};

fn index() -> impl Strategy<Value = Index> {
    prop_oneof![
        20 => (0_u64..12).prop_map(Index),
        1 => Just(Index(u64::MAX)),
        1 => Just(Index(u64::MAX - 1)),
    ]
}

fn term() -> impl Strategy<Value = Term> {
    prop_oneof![30 => (0_u64..8).prop_map(Term), 1 => Just(Term(u64::MAX - 1))]
}

fn pos() -> impl Strategy<Value = LogPos> {
    (term(), index()).prop_map(|(term, index)| LogPos { term, index })
}

fn slot() -> impl Strategy<Value = NodeId> {
    (1_u8..6).prop_map(|slot| NodeId::new(slot).unwrap())
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    (1_u128..6).prop_map(Incarnation)
}

fn meta() -> impl Strategy<Value = EntryMeta> {
    let readmit = (slot(), incarnation())
        .prop_map(|(node, incarnation)| EntryKind::Readmit { node, incarnation });
    let kind = prop_oneof![6 => Just(EntryKind::Payload), 1 => Just(EntryKind::Noop), 1 => readmit];
    (term(), kind).prop_map(|(term, kind)| EntryMeta { term, kind })
}

fn outcome() -> impl Strategy<Value = AppendOutcome> {
    let hint = prop_oneof![
        index().prop_map(|last| ConflictHint::TooShort { last }),
        (term(), index()).prop_map(|(term, first)| ConflictHint::Term { term, first }),
    ];
    prop_oneof![
        index().prop_map(|last| AppendOutcome::Accepted { last }),
        (pos(), hint).prop_map(|(prev, hint)| AppendOutcome::Rejected { prev, hint }),
    ]
}

fn denied() -> impl Strategy<Value = Option<DenyReason>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(DenyReason::OldTerm)),
        1 => pos().prop_map(|voter_last| Some(DenyReason::OldLog { voter_last })),
        1 => slot().prop_map(|to| Some(DenyReason::AlreadyVoted { to })),
    ]
}

fn fetched() -> impl Strategy<Value = FetchOutcome> {
    prop_oneof![
        1 => meta().prop_map(FetchOutcome::Whole),
        1 => Just(FetchOutcome::Damaged),
        3 => Just(FetchOutcome::Absent),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let entries = prop::collection::vec(meta(), 0..4);
    prop_oneof![
        1 => pos().prop_map(|last| Message::PreVote { last }),
        1 => denied().prop_map(|denied| Message::PreVoteReply { denied }),
        1 => (pos(), any::<bool>()).prop_map(|(last, transfer)| Message::Vote { last, transfer }),
        1 => denied().prop_map(|denied| Message::VoteReply { denied }),
        4 => (pos(), entries, index(), 0_u64..9).prop_map(|(prev, entries, commit, round)| {
            Message::Append { prev, entries, commit, round }
        }),
        2 => (0_u64..9, outcome())
            .prop_map(|(round, outcome)| Message::AppendReply { round, outcome }),
        1 => (index(), 0_u64..9).prop_map(|(commit, round)| Message::Heartbeat { commit, round }),
        1 => (0_u64..9).prop_map(|round| Message::HeartbeatReply { round }),
        1 => prop::option::of(outcome()).prop_map(|outcome| Message::LearnerReply { outcome }),
        1 => Just(Message::Rejoin),
        1 => Just(Message::TimeoutNow),
        1 => pos().prop_map(|pos| Message::Fetch { pos }),
        4 => (pos(), fetched()).prop_map(|(pos, outcome)| Message::FetchReply { pos, outcome }),
        1 => (0_u64..4).prop_map(|id| Message::ReadIndex { id }),
        1 => (0_u64..4, prop::option::of(index()))
            .prop_map(|(id, index)| Message::ReadIndexReply { id, index }),
    ]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    (slot(), incarnation(), slot(), prop::option::of(incarnation()), term(), message()).prop_map(
        |(from, from_incarnation, to, to_incarnation, term, message)| {
            // Most messages find their way.
            let to = if to.slot() < 5 { NodeId::new(1).unwrap() } else { to };
            let from_incarnation = match from_incarnation.0 {
                1..=3 => Incarnation(u128::from(from.slot())),
                _ => from_incarnation,
            };
            let to_incarnation = to_incarnation.filter(|to| to.0 > 4).or(Some(Incarnation(1)));
            Envelope { from, from_incarnation, to, to_incarnation, term, message }
        },
    )
}

fn input() -> impl Strategy<Value = Input> {
    let node = prop::option::of(slot());
    prop_oneof![
        12 => envelope().prop_map(Input::Receive),
        2 => Just(Input::Timeout),
        2 => index().prop_map(|index| Input::Faulty { index }),
        1 => Just(Input::Campaign),
        2 => (1_usize..4).prop_map(|count| {
            let proposal = |n: usize| Proposal { id: ProposalId(n as u64), bytes: 100 };
            Input::Propose { proposals: (0..count).map(proposal).collect() }
        }),
        1 => (0_u64..4).prop_map(|id| Input::ReadBarrier { id: BarrierId(id) }),
        1 => node.prop_map(|to| Input::TransferLeadership { to }),
        1 => slot().prop_map(|peer| Input::LinkLost { peer }),
    ]
}

/// A core with a disk that is done when it is told.
struct Driven {
    raft: Raft,
    writes: VecDeque<WriteId>,
    now: Time,
    /// The kinds of events that happened.
    met: BTreeSet<&'static str>,
}

impl Driven {
    fn new(profile: Profile, quarantined: bool) -> Self {
        let members: BTreeMap<NodeId, Incarnation> =
            (1..=3).map(|n| (NodeId::new(n).unwrap(), Incarnation(u128::from(n)))).collect();
        let config = Config {
            node: NodeId::new(1).unwrap(),
            incarnation: Incarnation(1),
            members,
            quarantined,
            profile,
            rules: Rules::default(),
            floor: LogPos::ORIGIN,
            election_timer_frozen: false,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            seed: 1,
            message_bytes_max: 1000,
            inflight_bytes_max: 2000,
            inflight_messages_max: 4,
            uncommitted_bytes_max: 1000,
        };
        Self {
            raft: Raft::new(config, Recovered::default(), Time(1)),
            writes: VecDeque::new(),
            now: Time(1),
            met: BTreeSet::new(),
        }
    }

    fn step(&mut self, input: Input) {
        let before = self.raft.clone();
        self.raft.step(self.now, input);
        while let Some(output) = self.raft.poll_output() {
            match output {
                Output::Write(write) => self.writes.push_back(write.id),
                Output::SendEntries { envelope, last, .. } => {
                    let sent = Input::Sent { to: envelope.to, last, bytes: 100 };
                    self.raft.step(self.now, sent);
                }
                Output::Forgotten { acknowledged, has } => assert!(acknowledged > has),
                Output::Admit { .. } => self.raft.step(self.now, Input::Admitted),
                Output::Event(event) => self.note(&event),
                Output::Repair { pos } => {
                    let (index, kind) = (pos.index, EntryKind::Payload);
                    self.raft.step(self.now, Input::Repaired { index, kind });
                }
                Output::Send(_)
                | Output::SendFetched { .. }
                | Output::Commit { .. }
                | Output::Accepted { .. }
                | Output::Refused { .. }
                | Output::BarrierReady { .. }
                | Output::BarrierFailed { .. }
                | Output::TransferEnded { .. } => {}
            }
        }
        check_state(&self.raft);
        check_step(&before, &self.raft);
    }

    /// Elects this node: chance alone seldom does.
    fn lead(&mut self) {
        self.step(Input::Campaign);
        for message in [Message::PreVoteReply { denied: None }, Message::VoteReply { denied: None }]
        {
            let (from, to) = (NodeId::new(2).unwrap(), self.raft.node());
            let mut envelope = Envelope {
                from,
                from_incarnation: self.raft.members()[&from],
                to,
                to_incarnation: None,
                term: self.raft.term(),
                message,
            };
            self.fit(&mut envelope);
            self.step(Input::Receive(envelope));
            self.sync();
        }
    }

    fn sync(&mut self) {
        while let Some(write) = self.writes.pop_front() {
            self.step(Input::Durable { write });
        }
    }

    fn note(&mut self, event: &Event) {
        self.met.insert(event.kind());
        if let Event::Role { role: RoleKind::Leader, .. } = event {
            self.met.insert("leads");
        }
    }

    /// Makes a message one that this core listens to: chance alone hardly ever finds one.
    fn fit(&self, envelope: &mut Envelope) {
        let raft = &self.raft;
        let own = raft.last();
        envelope.from = match raft.leader().filter(|leader| *leader != raft.node()) {
            Some(leader) => leader,
            None => NodeId::new(2 + envelope.from.slot() % 2).unwrap(),
        };
        envelope.from_incarnation = raft.members()[&envelope.from];
        (envelope.to, envelope.to_incarnation) = (raft.node(), None);
        let ahead = u64::from(envelope.term.0 % 4 == 3);
        envelope.term = Term(raft.term().0 + ahead);
        match &mut envelope.message {
            Message::PreVoteReply { denied: None } => envelope.term = raft.term().next(),
            // Who asks to rejoin comes with a disk that nobody knows yet.
            Message::Rejoin => envelope.from_incarnation.0 += 100,
            Message::Append { prev, entries, .. } => {
                prev.index = Index(prev.index.0 % (own.index.0 + 1));
                prev.term = raft.term_at(prev.index).unwrap();
                let least = prev.term.max(Term(1));
                for meta in entries.iter_mut() {
                    meta.term = Term(meta.term.0 % (envelope.term.0 + 1)).max(least);
                }
                entries.sort_by_key(|meta| meta.term);
            }
            Message::AppendReply { outcome: AppendOutcome::Accepted { last }, .. }
            | Message::LearnerReply { outcome: Some(AppendOutcome::Accepted { last }) } => {
                // Half of them acknowledge all there is: without them little is ever committed.
                let some = Index(last.0 % (own.index.0 + 2));
                *last = if last.0 % 2 == 0 { own.index } else { some };
            }
            Message::AppendReply { outcome: AppendOutcome::Rejected { prev, .. }, .. }
            | Message::LearnerReply { outcome: Some(AppendOutcome::Rejected { prev, .. }) } => {
                prev.index = Index(prev.index.0 % (own.index.0 + 2));
                // A leader minds only refusals of what it asked for.
                prev.term = raft.term_at(prev.index).unwrap_or(prev.term);
            }
            // Most of the questions and answers are about what is damaged here.
            Message::Fetch { pos } | Message::FetchReply { pos, .. } => {
                if let Some(faulty) = raft.status().faulty.last()
                    && pos.index.0 % 4 != 0
                {
                    *pos = faulty.pos;
                }
                if let Message::FetchReply { outcome: FetchOutcome::Whole(meta), .. } =
                    &mut envelope.message
                {
                    meta.term = Term(meta.term.0.min(raft.term().0));
                }
            }
            Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::Vote { .. }
            | Message::VoteReply { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::LearnerReply { outcome: None }
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. } => {}
        }
    }

    /// Whether entries of this message differ from committed ones at the same place.
    fn contradicts_commit(&self, message: &Message) -> bool {
        let Message::Append { prev, entries, .. } = message else { return false };
        let places = (1..).map(|n| Index(prev.index.0.saturating_add(n)));
        places.zip(entries).any(|(index, meta)| {
            index <= self.raft.commit() && self.raft.term_at(index) != Some(meta.term)
        })
    }
}

/// Anything at all, and what comes near to sense; with disks that are done at once or later.
#[test]
fn a_core_survives_anything() {
    let inputs = prop::collection::vec((input(), any::<bool>(), any::<bool>(), 0_u64..400), 1..60);
    let start = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>(), inputs);
    let config =
        ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() };
    let met: RefCell<BTreeSet<&str>> = RefCell::default();
    let survives = |(is_modern, quarantined, leads, inputs): (bool, bool, bool, Vec<_>)| {
        let profile = if is_modern { Profile::Modern } else { Profile::Paper };
        let mut driven = Driven::new(profile, quarantined);
        if leads && !quarantined {
            driven.lead();
        }
        for (mut input, fits, synced, ms) in inputs {
            driven.now = driven.now.after(Duration::from_millis(ms));
            if let Input::Faulty { index } = &mut input
                && fits
            {
                *index = driven.raft.last().index;
            }
            if let Input::Receive(envelope) = &mut input {
                if fits {
                    driven.fit(envelope);
                }
                if driven.contradicts_commit(&envelope.message) {
                    continue;
                }
            }
            driven.step(input);
            if synced {
                driven.sync();
            }
        }
        met.borrow_mut().append(&mut driven.met);
        Ok(())
    };
    // A run in which something never happened tests nothing of it: what is rare gets more cases.
    let kinds = [
        "leads",
        "append",
        "append_accepted",
        "append_rejected",
        "truncated",
        "persisted",
        "commit",
        "nextindex",
        "matchindex",
        "vote_granted",
        "vote_denied",
        "pre_vote_granted",
        "pre_vote_denied",
        "vote_received",
        "vote_refused",
        "quorum_lost",
        "transfer_begun",
        "transfer_given_up",
        "amnesia",
        "readmit_appended",
        "rejoin_asked",
        "readmitted",
        "entry_damaged",
        "entry_repaired",
        "never_committed",
        "drop",
    ];
    for _ in 0..10 {
        if let Err(failure) = TestRunner::new(config.clone()).run(&start, survives) {
            panic!("{failure}");
        }
        if kinds.iter().all(|kind| met.borrow().contains(kind)) {
            return;
        }
    }
    let met = met.into_inner();
    for kind in kinds {
        assert!(met.contains(kind), "no case met {kind}");
    }
}

/// The exception: what is committed here is not given up for a leader that lacks it.
#[test]
#[should_panic(expected = "is committed")]
fn a_leader_that_lacks_what_is_committed_stops_the_node() {
    let mut driven = Driven::new(Profile::Modern, false);
    let append = |from: u8, term: u64, commit: u64| {
        let meta = EntryMeta { term: Term(term), kind: EntryKind::Payload };
        let (prev, entries) = (LogPos::ORIGIN, vec![meta]);
        Input::Receive(Envelope {
            from: NodeId::new(from).unwrap(),
            from_incarnation: Incarnation(u128::from(from)),
            to: NodeId::new(1).unwrap(),
            to_incarnation: None,
            term: Term(term),
            message: Message::Append { prev, entries, commit: Index(commit), round: 1 },
        })
    };
    driven.step(append(2, 1, 1));
    driven.step(append(3, 2, 0));
}
