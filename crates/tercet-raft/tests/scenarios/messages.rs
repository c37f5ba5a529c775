//! Messages that are lost, late, reordered, or twice there: nothing goes wrong by them.

use std::time::Duration;

use tercet_raft::Profile::{Modern, Paper};
use tercet_raft::{
    ConflictHint, DropReason, EntryKind, EntryMeta, Envelope, Event, Incarnation, Index, Input,
    LogPos, Message, RoleKind, Rules, Term,
};

use crate::support::{Net, accepted, node};
use crate::{assert_logs, commit, role};

/// Figure 2, AppendEntries 3: a late and shorter message does not cut what came after it.
#[test]
fn a_late_append_cuts_nothing() {
    for truncate_always in [false, true] {
        let rules = Rules { truncate_always, ..Rules::default() };
        let mut net = Net::with_rules(3, Modern, rules);
        net.violations_allowed = truncate_always;
        net.elect(1);
        net.crash(3);
        net.propose(1);
        let late = net.take_wire(|envelope| {
            matches!(envelope.message, Message::Append { .. }) && envelope.to == node(2)
        });
        for packet in late.clone() {
            net.deliver(packet);
        }
        net.settle();
        net.submit(1);
        let before = net.terms(2);
        for packet in late {
            net.deliver(packet);
        }
        assert_eq!(net.terms(2) == before, !truncate_always, "the rule keeps what came later");
    }
}

/// A vote counts once, and only in its own term.
#[test]
fn votes_that_come_twice_or_late_do_not_count() {
    let mut net = Net::new(5, Paper);
    net.step(1, Input::Campaign);
    for slot in [2, 3] {
        let asked = net.take_wire(|envelope| envelope.to == node(slot));
        for packet in asked {
            net.deliver(packet);
        }
    }
    let replies = net.take_wire(|envelope| matches!(envelope.message, Message::VoteReply { .. }));
    assert_eq!(replies.len(), 2);
    net.wire.clear();
    net.deliver(replies[0].clone());
    net.deliver(replies[0].clone());
    net.deliver(replies[0].clone());
    assert_eq!(role(&net, 1), (RoleKind::Candidate, 1), "the same vote three times is one");
    // A new campaign: the vote of the term before is nothing in this one.
    net.cut_off(&[1]);
    net.elect(1);
    assert_eq!(role(&net, 1), (RoleKind::Candidate, 2));
    net.heal();
    net.deliver(replies[1].clone());
    assert_eq!(role(&net, 1), (RoleKind::Candidate, 2));
}

/// An old refusal and an old success move nothing.
#[test]
fn old_answers_move_nothing() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.submit(1);
    let status = |net: &Net| net.raft(1).status().peers;
    let before = status(&net);
    let round = 1;
    let answer = |outcome| Envelope {
        from: node(2),
        from_incarnation: Incarnation(2),
        to: node(1),
        to_incarnation: Some(Incarnation(1)),
        term: Term(1),
        message: Message::AppendReply { round, outcome },
    };
    let prev = LogPos::new(1, 1);
    let hint = ConflictHint::TooShort { last: Index(0) };
    net.step(1, Input::Receive(answer(tercet_raft::AppendOutcome::Rejected { prev, hint })));
    net.step(1, Input::Receive(answer(accepted(1))));
    let matched = |peers: &[tercet_raft::PeerStatus]| {
        peers.iter().map(|peer| (peer.node, peer.matched, peer.next)).collect::<Vec<_>>()
    };
    assert_eq!(matched(&status(&net)), matched(&before));
    // One that claims more than there is, is dropped in words.
    net.step(1, Input::Receive(answer(accepted(99))));
    assert_eq!(
        net.count(1, |event| matches!(event, Event::Dropped { why: DropReason::Malformed, .. })),
        1
    );
}

/// Lost messages are sent again: after any single loss the cluster comes to agree.
#[test]
fn any_one_message_may_be_lost() {
    for lost in 0..40 {
        let mut net = Net::new(3, Modern);
        net.step(1, Input::Campaign);
        let mut count = 0;
        let mut deliver = |net: &mut Net| {
            while let Some(packet) = net.wire.pop_front() {
                if count != lost {
                    net.deliver(packet);
                }
                count += 1;
            }
        };
        deliver(&mut net);
        if net.leader() == Some(1) {
            net.propose(1);
            deliver(&mut net);
        }
        net.run_ms(2000);
        let leader = net.leader().expect("somebody leads");
        net.submit(leader);
        net.run_ms(500);
        assert_eq!(net.applied(1), net.applied(2), "message {lost} was lost");
        assert_eq!(net.applied(1), net.applied(3), "message {lost} was lost");
    }
}

/// An answer of an earlier term says what a log held that may have been cut since: it must not be
/// counted in a later one. Here it would commit an entry that two of five hold.
#[test]
fn an_answer_of_an_earlier_term_is_not_counted() {
    let mut net = Net::new(5, Paper);
    // n1 leads term 1 and gets two entries onto n2, whose answers are slow.
    net.elect(1);
    net.cut_off(&[1, 2]);
    net.propose(1);
    net.settle_only(|envelope| matches!(envelope.message, Message::Append { .. }));
    net.propose(1);
    net.step(1, Input::LinkLost { peer: node(2) });
    net.now = net.now.after(Duration::from_millis(50));
    net.step(1, Input::Timeout);
    net.settle_only(|envelope| matches!(envelope.message, Message::Append { .. }));
    assert_eq!(net.terms(2), [1, 1]);
    let slow = net.take_wire(|envelope| envelope.from == node(2));
    assert!(slow.iter().any(|packet| {
        matches!(packet.envelope.message, Message::AppendReply { outcome, .. } if outcome == accepted(2))
    }));
    net.wire.clear();
    // n3 leads term 2 without them, and replaces them everywhere.
    net.elect(3);
    assert_eq!(role(&net, 3), (RoleKind::Leader, 2));
    net.submit(3);
    net.heal();
    for _ in 0..4 {
        net.beat(3);
    }
    assert_logs(&net, &[1, 2, 3, 4, 5], &[2]);
    // n1 leads again, and has an entry at the same index, with n3 alone.
    net.elect(1);
    assert_eq!(role(&net, 1), (RoleKind::Leader, 3));
    net.cut_off(&[1, 3]);
    net.submit(1);
    net.heal();
    let before = (net.peer(1, 2).matched, commit(&net, 1));
    assert_eq!(before, (Index(1), 1), "nothing of term 3 is on a majority");
    for packet in slow {
        net.deliver(packet);
    }
    assert_eq!((net.peer(1, 2).matched, commit(&net, 1)), before);
    for _ in 0..2 {
        net.beat(1);
    }
    assert_eq!(commit(&net, 1), 2, "the entry itself does it");
}

/// Pipelined messages that arrive in any order, and then all of them once more: what the leader
/// believes is never more than what the follower's disk has, and nothing is cut.
#[test]
fn appends_in_any_order_and_twice() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut net = Net::new(3, Modern);
        net.elect(1);
        net.submit(1);
        net.crash(3);
        net.clear_events();
        let payloads: Vec<u64> = (0..3).map(|_| net.propose(1)).collect();
        let appends = net.take_wire(|envelope| envelope.to == node(2));
        assert_eq!(appends.len(), 3, "one message for each entry");
        for at in order.into_iter().chain(order) {
            net.deliver(appends[at].clone());
            net.settle_only(|envelope| envelope.to == node(1));
            let stored = net.nodes[&node(2)].disk.log.len() as u64;
            assert!(net.peer(1, 2).matched.0 <= stored, "{order:?}");
        }
        net.beat(1);
        net.beat(1);
        assert_eq!(net.count(2, |event| event.kind() == "truncated"), 0, "{order:?}");
        assert_eq!(net.applied(1)[1..], payloads, "{order:?}");
        assert_eq!(net.terms(1), net.terms(2), "{order:?}");
    }
}

fn append_of(from: u8, term: u64, prev: LogPos, terms: &[u64]) -> Input {
    let meta = |term: &u64| EntryMeta { term: Term(*term), kind: EntryKind::Payload };
    let entries = terms.iter().map(meta).collect();
    Input::Receive(Envelope {
        from: node(from),
        from_incarnation: Incarnation(u128::from(from)),
        to: node(1),
        to_incarnation: None,
        term: Term(term),
        message: Message::Append { prev, entries, commit: Index::ZERO, round: 1 },
    })
}

fn malformed(net: &Net, slot: u8) -> usize {
    net.count(slot, |event| matches!(event, Event::Dropped { why: DropReason::Malformed, .. }))
}

/// Terms do not decrease along a log, none is later than that of its leader, and only the place
/// before the first entry has term 0 (§5.3). What contradicts that is no log, and is not stored.
#[test]
fn entries_that_no_leader_has_are_dropped() {
    let cases: [(LogPos, &[u64]); 8] = [
        (LogPos::new(2, 1), &[1]),
        (LogPos::new(1, 1), &[2, 1]),
        (LogPos::new(0, 0), &[0]),
        (LogPos::new(0, 0), &[0, 1]),
        (LogPos::new(1, 1), &[2, 4]),
        (LogPos::new(4, 1), &[]),
        (LogPos::new(0, 1), &[1]),
        (LogPos::new(1, 0), &[1]),
    ];
    for (prev, terms) in cases {
        let mut net = Net::new(3, Modern);
        net.given(1, 3, &[1]);
        net.step(1, append_of(2, 3, prev, terms));
        assert_eq!(malformed(&net, 1), 1, "{terms:?} behind {prev}");
        assert_eq!((net.terms(1), net.raft(1).leader()), (vec![1], None));
        assert!(net.wire.is_empty(), "no answer to {terms:?} behind {prev}");
    }
    let mut net = Net::new(3, Modern);
    net.given(1, 3, &[1]);
    net.step(1, append_of(2, 3, LogPos::new(1, 1), &[1, 2, 3]));
    assert_eq!((net.terms(1), malformed(&net, 1)), (vec![1, 1, 2, 3], 0));
    net.step(1, append_of(2, 3, LogPos::ORIGIN, &[1, 1, 2, 3]));
    assert_eq!((net.terms(1), malformed(&net, 1)), (vec![1, 1, 2, 3], 0), "it has them all");
}

/// Election Safety: of two that lead one term, one is not what it says. Nobody follows both, and
/// a leader follows none.
#[test]
fn a_second_leader_of_a_term_is_not_heard() {
    let mut net = Net::new(3, Modern);
    net.step(1, append_of(2, 1, LogPos::ORIGIN, &[1]));
    net.step(1, append_of(3, 1, LogPos::ORIGIN, &[1, 1]));
    assert_eq!((malformed(&net, 1), net.terms(1)), (1, vec![1]));
    assert_eq!(net.raft(1).leader(), Some(node(2)));
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.step(1, append_of(3, 1, LogPos::new(1, 1), &[1]));
    assert_eq!((malformed(&net, 1), net.terms(1)), (1, vec![1]));
    assert_eq!(role(&net, 1), (RoleKind::Leader, 1));
}

/// A heartbeat names only what its receiver has acknowledged: a node that holds less has lost
/// something without knowing it, says so, and answers nothing. Where a rule is switched off without
/// which nodes acknowledge what they do not keep, it means nothing.
#[test]
fn a_node_finds_that_it_forgot() {
    let rules = Rules::default();
    for (rules, finds) in [
        (rules, true),
        (Rules { trust_wiped: true, ..rules }, false),
        (Rules { truncate_always: true, ..rules }, false),
        (Rules { speak_before_durable: true, ..rules }, false),
    ] {
        let mut net = Net::with_rules(3, Modern, rules);
        net.given(1, 1, &[1, 1]);
        for (commit, holds) in [(0, true), (2, true), (3, false)] {
            net.step(
                1,
                Input::Receive(Envelope {
                    from: node(2),
                    from_incarnation: Incarnation(2),
                    to: node(1),
                    to_incarnation: None,
                    term: Term(1),
                    message: Message::Heartbeat { commit: Index(commit), round: 1 },
                }),
            );
            let is_forgotten = finds && !holds;
            assert_eq!(net.nodes[&node(1)].forgot, is_forgotten, "{rules:?} {commit}");
            let answers = net.take_wire(|envelope| envelope.to == node(2)).len();
            assert_eq!(answers, usize::from(!is_forgotten), "{rules:?} {commit}");
        }
        assert_eq!(commit(&net, 1), 2);
    }
}
