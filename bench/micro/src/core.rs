//! The core's step: a leader of three from the proposal to the commit, and a follower that appends.

use std::hint::black_box;
use std::time::Duration;

use tercet_raft::{
    AppendOutcome, Config, EntryKind, EntryMeta, Envelope, Incarnation, Index, Input, LogPos,
    Message, NodeId, Output, Profile, Proposal, ProposalId, Raft, Recovered, RoleKind, Rules, Term,
    Time, WriteId,
};

use crate::Bench;

/// How often the path is taken in one run, so that what happens now and then (a vector grows) is
/// spread over many.
const TIMES: u64 = 100;
const NOW: Time = Time(1);

pub(crate) fn benches() -> Vec<Bench> {
    vec![
        Bench {
            name: "core/propose-1",
            what: "a leader of three: 100 times one entry, proposed → sent → durable → committed",
            prepare: || lead(1),
        },
        Bench {
            name: "core/propose-64",
            what: "the same, 64 entries in each proposal",
            prepare: || lead(64),
        },
        Bench {
            name: "core/follow-1",
            what: "a follower: 100 times one entry, received → durable → acknowledged",
            prepare: || follow(1),
        },
        Bench {
            name: "core/follow-64",
            what: "the same, 64 entries in each message",
            prepare: || follow(64),
        },
    ]
}

fn node(slot: u8) -> NodeId {
    NodeId::new(slot).expect("1 to 3")
}

fn incarnation(node: NodeId) -> Incarnation {
    Incarnation(u128::from(node.slot()))
}

fn raft(slot: u8) -> Raft {
    let config = Config {
        node: node(slot),
        incarnation: incarnation(node(slot)),
        members: (1..=3).map(|slot| (node(slot), incarnation(node(slot)))).collect(),
        floor: LogPos::ORIGIN,
        quarantined: false,
        profile: Profile::Modern,
        rules: Rules::default(),
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        election_timer_frozen: false,
        seed: 1,
        message_bytes_max: 1 << 20,
        inflight_bytes_max: 64 << 20,
        inflight_messages_max: 1024,
        uncommitted_bytes_max: 1 << 30,
    };
    Raft::new(config, Recovered::default(), NOW)
}

fn from(slot: u8, to: NodeId, term: Term, message: Message) -> Input {
    Input::Receive(Envelope {
        from: node(slot),
        from_incarnation: incarnation(node(slot)),
        to,
        to_incarnation: None,
        term,
        message,
    })
}

/// What a driver does with the outputs, but for the bytes: it says that what shall be sent is sent.
/// Gives the last write that was asked for.
fn drain(raft: &mut Raft) -> Option<WriteId> {
    let mut written = None;
    while let Some(output) = raft.poll_output() {
        match black_box(output) {
            Output::Write(write) => written = Some(write.id),
            Output::SendEntries { envelope, last, .. } => {
                raft.step(NOW, Input::Sent { to: envelope.to, last, bytes: 300 });
            }
            Output::Send(_)
            | Output::SendFetched { .. }
            | Output::Repair { .. }
            | Output::Commit { .. }
            | Output::Accepted { .. }
            | Output::Refused { .. }
            | Output::BarrierReady { .. }
            | Output::BarrierFailed { .. }
            | Output::TransferEnded { .. }
            | Output::Admit { .. }
            | Output::Forgotten { .. }
            | Output::Event(_) => {}
        }
    }
    written
}

fn step(raft: &mut Raft, input: Input) {
    raft.step(NOW, input);
    if let Some(write) = drain(raft) {
        raft.step(NOW, Input::Durable { write });
        drain(raft);
    }
}

fn accepted(slot: u8, leader: &Raft, last: Index) -> Input {
    let outcome = AppendOutcome::Accepted { last };
    let message = Message::AppendReply { round: 0, outcome };
    from(slot, leader.node(), leader.term(), message)
}

/// Node 1 leads in term 1, and both peers hold its no-op.
fn leader() -> Raft {
    let mut raft = raft(1);
    let me = raft.node();
    step(&mut raft, Input::Campaign);
    step(&mut raft, from(2, me, Term(1), Message::PreVoteReply { denied: None }));
    step(&mut raft, from(2, me, Term(1), Message::VoteReply { denied: None }));
    assert_eq!(raft.role(), RoleKind::Leader);
    for slot in [2, 3] {
        let input = accepted(slot, &raft, raft.last().index);
        step(&mut raft, input);
    }
    assert_eq!(raft.commit(), raft.last().index);
    raft
}

fn lead(count: u64) -> Box<dyn FnMut()> {
    let mut raft = leader();
    let mut round = move || {
        let begin = raft.last().index.0;
        let proposal = |at| Proposal { id: ProposalId(begin + at), bytes: 300 };
        step(&mut raft, Input::Propose { proposals: (0..count).map(proposal).collect() });
        let last = raft.last().index;
        for slot in [2, 3] {
            let input = accepted(slot, &raft, last);
            step(&mut raft, input);
        }
        assert_eq!((raft.applied(), last), (last, Index(begin + count)));
    };
    (0..TIMES).for_each(|_| round());
    Box::new(move || (0..TIMES).for_each(|_| round()))
}

fn follow(count: u64) -> Box<dyn FnMut()> {
    let mut raft = raft(2);
    let mut round = move || {
        let last = raft.last();
        let entries = (0..count).map(|_| EntryMeta::new(Term(1), EntryKind::Payload)).collect();
        let message = Message::Append { prev: last, entries, commit: last.index, round: 1 };
        let to = raft.node();
        step(&mut raft, from(1, to, Term(1), message));
        assert_eq!(raft.durable(), Index(last.index.0 + count));
        assert_eq!(raft.applied(), last.index);
    };
    (0..TIMES).for_each(|_| round());
    Box::new(move || (0..TIMES).for_each(|_| round()))
}
