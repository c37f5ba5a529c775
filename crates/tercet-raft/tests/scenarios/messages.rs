//! Messages that are lost, late, reordered, or twice there: nothing goes wrong by them.

use std::time::Duration;

use tercet_raft::Profile::{Modern, Paper};
use tercet_raft::ProgressKind::{Probe, Replicate};
use tercet_raft::{
    AppendOutcome, ConflictHint, DropReason, EntryKind, EntryMeta, Envelope, Event, FetchOutcome,
    Incarnation, Index, Input, LogPos, Message, RoleKind, Rules, Term,
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
        let again = late.last().unwrap().clone();
        for packet in late {
            net.deliver(packet);
        }
        assert_eq!(net.terms(2) == before, !truncate_always, "the rule keeps what came later");
        // What is here already is not written again, and there is nothing left to cut.
        net.slow(2, true);
        let cuts = net.count(2, |event| event.kind() == "truncated");
        net.deliver(again);
        assert_eq!(net.pending_writes(2), []);
        assert_eq!(net.count(2, |event| event.kind() == "truncated"), cuts);
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
    net.clear_events();
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
    let matched = |peers: &[tercet_raft::PeerStatus]| {
        peers.iter().map(|p| (p.node, p.kind, p.matched, p.next)).collect::<Vec<_>>()
    };
    for outcome in [AppendOutcome::Rejected { prev, hint }, accepted(1), accepted(3)] {
        net.step(1, Input::Receive(answer(outcome)));
        assert_eq!(matched(&status(&net)), matched(&before), "{outcome:?}");
    }
    assert_eq!(net.count(1, |event| event.kind() == "matchindex"), 0, "nothing moved");
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

/// A node lost the end of its log and does not know. The leader, which it had told that it holds
/// more, sees that from a refusal, and names what was acknowledged in a heartbeat. A refusal that is
/// nothing special costs no heartbeat.
#[test]
fn a_leader_notices_that_a_node_forgot() {
    for (is_pipelined, lost) in [(false, 2), (true, 2), (false, 0), (true, 0)] {
        let mut net = Net::new(3, Modern);
        net.elect(1);
        for _ in 0..3 {
            net.submit(1);
        }
        net.beat(1);
        net.crash(2);
        let disk = &mut net.node_mut(2).disk;
        disk.log.truncate(4 - lost);
        net.restart(2);
        net.propose(1);
        if is_pipelined {
            net.wire.clear();
            net.propose(1);
        }
        net.take_wire(|envelope| envelope.to == node(3));
        // The message, the refusal, the heartbeat: no more is needed.
        for _ in 0..2 {
            let packet = net.wire.pop_front().unwrap();
            net.deliver(packet);
        }
        net.settle_only(|envelope| matches!(envelope.message, Message::Heartbeat { .. }));
        assert_eq!(net.nodes[&node(2)].forgot, lost > 0, "{is_pipelined} {lost}");
    }
    let mut net = Net::new(3, Modern);
    net.given(1, 3, &[1, 1, 3]);
    net.given(2, 3, &[1, 2, 2, 2]);
    net.elect(1);
    assert_eq!((net.refusals(2), net.terms(2)), (1, net.terms(1)));
    let beats = net.wire_log.iter().filter(|message| matches!(message, Message::Heartbeat { .. }));
    assert_eq!(beats.count(), 2, "the first ones of the new leader, one to each");
}

/// While nothing happens, a round costs a message to each peer and one back, and no more.
#[test]
fn an_idle_leader_sends_heartbeats_alone() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.beat(1);
    for _ in 0..3 {
        net.wire_log.clear();
        net.beat(1);
        let beats = |message: &&Message| matches!(message, Message::Heartbeat { .. });
        assert_eq!(net.wire_log.iter().filter(beats).count(), 2);
        assert_eq!(net.wire_log.len(), 4, "{:?}", net.wire_log);
    }
}

/// A peer that answers a probe gets what came since at once, not with the next heartbeat.
#[test]
fn what_came_while_a_probe_was_away_follows_it() {
    for profile in [Modern, Paper] {
        let mut net = Net::new(3, profile);
        net.elect(1);
        net.propose(1);
        net.propose(1);
        net.settle();
        assert_eq!(net.terms(2), net.terms(1), "{profile:?}");
    }
}

/// A link that was lost took with it what was on its way: all of it is sent again.
#[test]
fn a_lost_link_loses_what_was_on_its_way() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.propose(1);
    net.propose(1);
    net.wire.clear();
    assert_eq!(net.peer(1, 2).inflight_bytes, 200);
    for _ in 0..2 {
        net.step(1, Input::LinkLost { peer: node(2) });
        let peer = net.peer(1, 2);
        assert_eq!((peer.kind, peer.next, peer.matched), (Probe, Index(3), Index(2)));
        assert_eq!(peer.inflight_bytes, 0);
        assert!(net.wire.is_empty(), "the link is down: not before the next heartbeat");
    }
    net.beat(1);
    assert_eq!(net.terms(2), net.terms(1));
    assert_eq!((net.peer(1, 2).kind, commit(&net, 1)), (Replicate, 4));
    // Looking for the place where the logs agree, it goes on where it was.
    let mut net = Net::new(3, Modern);
    net.given(1, 3, &[1, 1, 3, 3]);
    net.given(2, 3, &[1, 2, 2, 2]);
    net.elect(1);
    net.cut_off(&[2]);
    net.crash(2);
    net.given(2, 3, &[1]);
    net.heal();
    let before = net.peer(1, 2);
    net.step(1, Input::LinkLost { peer: node(2) });
    assert_eq!(net.peer(1, 2).next, before.next);
}

/// One probe at a time: what a peer that does not answer might miss is not sent to it.
#[test]
fn a_silent_peer_is_probed_by_one_message() {
    let mut net = Net::new(3, Modern);
    net.crash(3);
    net.elect(1);
    for _ in 0..3 {
        net.submit(1);
    }
    let peer = net.peer(1, 3);
    assert_eq!((peer.kind, peer.next, peer.inflight_bytes), (Probe, Index(1), 0));
    assert!(!peer.active);
    assert!(net.peer(1, 2).active);
}

/// Numbers that nobody reached by counting are no numbers of ours: sums with them would not be
/// numbers any more.
#[test]
fn numbers_that_nobody_counted_to_are_dropped() {
    const BIG: u64 = (1 << 60) + 1;
    let at = |n| LogPos::new(1, n);
    let append = |prev, commit, round| {
        let (commit, entries) = (Index(commit), Vec::new());
        Message::Append { prev, entries, commit, round }
    };
    let heartbeat = |commit, round| Message::Heartbeat { commit: Index(commit), round };
    let reply = |round, outcome| Message::AppendReply { round, outcome };
    let rejected = |prev, hint| AppendOutcome::Rejected { prev, hint };
    let short = |last| ConflictHint::TooShort { last: Index(last) };
    let other = |term, first| ConflictHint::Term { term: Term(term), first: Index(first) };
    let whole = |term| FetchOutcome::Whole(EntryMeta { term: Term(term), kind: EntryKind::Noop });
    let messages = |n: u64| {
        [
            Message::PreVote { last: at(n) },
            Message::Vote { last: at(n), transfer: false },
            append(at(n), 1, 1),
            append(at(1), n, 1),
            append(at(1), 1, n),
            heartbeat(n, 1),
            heartbeat(1, n),
            reply(n, accepted(1)),
            reply(1, accepted(n)),
            reply(1, rejected(at(n), short(1))),
            reply(1, rejected(at(1), short(n))),
            reply(1, rejected(at(1), other(n, 1))),
            reply(1, rejected(at(1), other(1, n))),
            Message::LearnerReply { outcome: Some(accepted(n)) },
            Message::HeartbeatReply { round: n },
            Message::ReadIndexReply { id: 1, index: Some(Index(n)) },
            Message::Fetch { pos: at(n) },
            Message::FetchReply { pos: at(n), outcome: whole(1) },
            Message::FetchReply { pos: at(1), outcome: whole(n) },
        ]
    };
    let is_dropped = |term, message: &Message| {
        let mut net = Net::new(3, Modern);
        net.given(1, 1, &[1, 1]);
        let (from, from_incarnation) = (node(2), Incarnation(2));
        let (to, to_incarnation, term) = (node(1), None, Term(term));
        let message = message.clone();
        let envelope = Envelope { from, from_incarnation, to, to_incarnation, term, message };
        net.step(1, Input::Receive(envelope));
        malformed(&net, 1) == 1
    };
    for (small, big) in messages(1).into_iter().zip(messages(BIG)) {
        assert!(!is_dropped(1, &small), "{small:?}");
        assert!(is_dropped(1, &big), "{big:?}");
        assert!(is_dropped(BIG, &small), "{small:?} of a term that never was");
    }
}

/// A message is for one node, and where it names a disk, for that disk.
#[test]
fn messages_for_others_are_dropped() {
    let asked = |to: u8, to_incarnation: Option<u128>| {
        let mut net = Net::new(3, Modern);
        net.step(
            1,
            Input::Receive(Envelope {
                from: node(2),
                from_incarnation: Incarnation(2),
                to: node(to),
                to_incarnation: to_incarnation.map(Incarnation),
                term: Term(1),
                message: Message::PreVote { last: LogPos::ORIGIN },
            }),
        );
        let not_mine =
            |event: &Event| matches!(event, Event::Dropped { why: DropReason::NotForMe, .. });
        (net.count(1, not_mine), net.wire.len())
    };
    assert_eq!(asked(1, None), (0, 1));
    assert_eq!(asked(1, Some(1)), (0, 1));
    assert_eq!(asked(1, Some(9)), (1, 0));
    assert_eq!(asked(3, None), (1, 0));
    assert_eq!(asked(3, Some(1)), (1, 0));
    assert_eq!(asked(3, Some(3)), (1, 0));
    // It comes from another member.
    for (from, why) in
        [(1, Some(DropReason::NotAMember)), (4, Some(DropReason::NotAMember)), (3, None)]
    {
        let mut net = Net::new(3, Modern);
        net.step(1, append_of(from, 1, LogPos::ORIGIN, &[1]));
        let dropped = net.nodes[&node(1)].events.iter().find_map(|event| match event {
            Event::Dropped { why, .. } => Some(*why),
            _ => None,
        });
        assert_eq!(
            (dropped, net.terms(1).len()),
            (why, usize::from(why.is_none())),
            "from n{from}"
        );
    }
}

/// What the driver could not send is not on its way: nobody looks for it in the stream.
#[test]
fn what_was_not_sent_is_not_on_its_way() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    // The entry is damaged, which nobody has noticed: the driver reads nothing, and says so.
    net.node_mut(1).disk.damaged.insert(3);
    net.submit(1);
    net.wire_log.clear();
    for _ in 0..3 {
        net.beat(1);
    }
    assert_eq!(net.terms(2).len(), 2);
    let is_append = |message: &&Message| matches!(message, Message::Append { .. });
    assert_eq!(net.wire_log.iter().filter(is_append).count(), 0, "{:?}", net.wire_log);
    net.node_mut(1).disk.damaged.clear();
    net.beat(1);
    assert_eq!(net.terms(2), net.terms(1));
}
