//! Whatever a peer says, in whatever order: a core never panics, and never breaks its own state.
//! A peer that lies can do harm (Raft does not defend against that), but not this.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use tercet_raft::invariants::check_state;
use tercet_raft::{
    AppendOutcome, BarrierId, Config, ConflictHint, DenyReason, EntryKind, EntryMeta, Envelope,
    Incarnation, Index, Input, LogPos, Message, NodeId, Output, Profile, Proposal, ProposalId,
    Raft, Recovered, Rules, Term, Time, WriteId,
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
        }
    }

    fn step(&mut self, input: Input) {
        self.raft.step(self.now, input);
        while let Some(output) = self.raft.poll_output() {
            match output {
                Output::Write(write) => self.writes.push_back(write.id),
                Output::SendEntries { envelope, last, .. } => {
                    let sent = Input::Sent { to: envelope.to, last, bytes: 100 };
                    self.raft.step(self.now, sent);
                }
                Output::Admit { .. } => self.raft.step(self.now, Input::Admitted),
                Output::Send(_)
                | Output::Commit { .. }
                | Output::Accepted { .. }
                | Output::Refused { .. }
                | Output::BarrierReady { .. }
                | Output::BarrierFailed { .. }
                | Output::TransferEnded { .. }
                | Output::Event(_) => {}
            }
        }
        check_state(&self.raft);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_core_survives_anything(
        is_modern in any::<bool>(),
        quarantined in prop::bool::weighted(0.2),
        inputs in prop::collection::vec((input(), any::<bool>(), 0_u64..400), 1..40),
    ) {
        let profile = if is_modern { Profile::Modern } else { Profile::Paper };
        let mut driven = Driven::new(profile, quarantined);
        for (input, synced, ms) in inputs {
            driven.now = driven.now.after(Duration::from_millis(ms));
            driven.step(input);
            while synced && let Some(write) = driven.writes.pop_front() {
                driven.step(Input::Durable { write });
            }
        }
    }
}
