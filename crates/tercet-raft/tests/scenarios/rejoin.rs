//! Nodes that lost their memory: the counter-examples and the protocol of docs/rejoin.md.

use std::time::Duration;

use tercet_raft::Profile::{Modern, Paper};
use tercet_raft::{
    Config, DropReason, EntryKind, EntryMeta, Envelope, Event, FetchOutcome, HardState,
    Incarnation, Index, Input, LogPos, Message, Output, Raft, Recovered, RoleKind, Rules, Term,
    Time, TransferError,
};

use crate::support::{Net, node};
use crate::{role, voted_for};

/// Counter-example 1: a wiped node that comes back as a plain voter makes a majority forget.
/// Muted, it does not.
#[test]
fn a_wiped_node_that_votes_loses_what_was_acknowledged() {
    for trust_wiped in [false, true] {
        let rules = Rules { trust_wiped, ..Rules::default() };
        let mut net = Net::with_rules(3, Paper, rules);
        net.violations_allowed = trust_wiped;
        net.elect(1);
        net.cut_off(&[3]);
        let a = net.submit(1);
        net.beat(1);
        assert_eq!(net.applied(2), [a], "acknowledged: on n1 and n2");
        net.wipe(2);
        if trust_wiped {
            // As if the wipe had not been noticed.
            net.crash(2);
            net.nodes.get_mut(&node(2)).unwrap().disk.quarantined = false;
            net.restart(2);
        }
        net.crash(1);
        net.heal();
        net.elect(3);
        if trust_wiped {
            assert_eq!(net.leader(), Some(3));
            net.submit(3);
            net.beat(3);
            net.restart(1);
            for _ in 0..4 {
                net.beat(3);
            }
            assert!(net.violated, "an acknowledged entry was overwritten, and nobody noticed");
        } else {
            assert_eq!(net.leader(), None, "n2 is mute: nobody leads until n1 is back");
            net.restart(1);
            net.run_ms(3000);
            // By the paper a leader commits nothing of its predecessors before it has an entry of
            // its own.
            let leader = net.leader().expect("n1 and n3 are a majority");
            let b = net.submit(leader);
            net.run_ms(1000);
            for slot in 1..=3 {
                assert_eq!(net.applied(slot), [a, b], "n{slot}");
                assert_ne!(net.raft(slot).role(), RoleKind::Quarantined);
            }
        }
    }
}

/// Counter-example 2: it is not enough to catch up, for a vote was lost, too. The wiped node must
/// not count before the others have readmitted it.
#[test]
fn a_lost_vote_loses_what_was_acknowledged() {
    for trust_wiped in [false, true] {
        let rules = Rules { trust_wiped, ..Rules::default() };
        let mut net = Net::with_rules(3, Paper, rules);
        net.violations_allowed = trust_wiped;
        net.elect(1);
        let a = net.submit(1);
        net.beat(1);
        // n3 campaigns for term 2; n2 votes for it, and its answer is still on its way.
        net.now = net.now.after(Duration::from_millis(160));
        net.cut_off(&[1]);
        net.step(3, Input::Campaign);
        let asked = net.take_wire(|envelope| envelope.to == node(2));
        for packet in asked {
            net.deliver(packet);
        }
        let granted = Message::VoteReply { denied: None };
        let vote = net.take_wire(|envelope| envelope.message == granted);
        assert_eq!(vote.len(), 1);
        net.wire.clear();
        net.heal();
        // n2 loses its disk, and copies the whole log of n1, which still leads term 1.
        net.cut_off(&[3]);
        net.wipe(2);
        if trust_wiped {
            net.crash(2);
            net.nodes.get_mut(&node(2)).unwrap().disk.quarantined = false;
            net.restart(2);
        }
        for _ in 0..4 {
            net.beat(1);
            if !trust_wiped {
                net.step(2, Input::Timeout);
                net.settle();
            }
        }
        assert_eq!(net.terms(2)[..1], [1], "n2 has the log");
        net.submit(1);
        net.beat(1);
        assert_eq!(net.applied(1).len() > 1, trust_wiped, "acknowledged only if n2 counts");
        // The vote of the old disk arrives: n3 leads term 2.
        net.heal();
        for packet in vote {
            net.deliver(packet);
        }
        assert_eq!(role(&net, 3), (RoleKind::Leader, 2));
        net.submit(3);
        for _ in 0..6 {
            net.beat(3);
        }
        assert_eq!(net.violated, trust_wiped, "what was acknowledged is overwritten");
        if !trust_wiped {
            net.run_ms(2000);
            assert!((1..=3).all(|slot| net.applied(slot)[0] == a));
        }
    }
}

/// A wiped follower: amnesia is noticed, next index walks back below match index, the log is
/// repaired, one Readmit entry, a voter again.
#[test]
fn a_wiped_follower_is_repaired_and_readmitted() {
    for (profile, refusals) in [(Paper, 3), (Modern, 1)] {
        let mut net = Net::new(3, profile);
        net.elect(1);
        let mut payloads = vec![net.submit(1), net.submit(1)];
        if profile == Paper {
            payloads.push(net.submit(1));
        }
        net.beat(1);
        net.crash(2);
        net.clear_events();
        net.wipe(2);
        assert_eq!(net.raft(2).role(), RoleKind::Quarantined);
        net.run_ms(1000);
        assert_eq!(net.raft(2).role(), RoleKind::Follower, "{profile:?}");
        assert_eq!(net.applied(2), payloads, "{profile:?}");
        assert_eq!(net.count(1, |event| event.kind() == "amnesia"), 1);
        assert_eq!(net.count(1, |event| event.kind() == "readmit_appended"), 1);
        assert_eq!(net.refusals(2), refusals, "{profile:?}");
        assert_eq!((net.leader(), net.raft(1).term().0), (Some(1), 1), "nobody was disturbed");
        // It counts again.
        net.crash(3);
        let more = net.submit(1);
        net.run_ms(100);
        assert_eq!(net.applied(1).last(), Some(&more));
    }
}

/// While it is mute it counts for nothing: not for a commit, not for a read, not for an election.
#[test]
fn a_quarantined_node_counts_for_nothing() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let a = net.submit(1);
    net.cut_off(&[3]);
    net.wipe(2);
    net.step(2, Input::Timeout);
    for _ in 0..3 {
        net.beat(1);
    }
    assert!(net.terms(2).len() >= 2, "it stores what it is sent");
    net.submit(1);
    net.barrier(1, 7);
    net.settle();
    assert_eq!(net.applied(1), [a], "n1 and a mute n2 are no majority");
    assert_eq!(net.nodes[&node(1)].barriers, []);
    net.crash(1);
    net.heal();
    net.run_ms(2000);
    assert_eq!(net.leader(), None, "n3 and a mute n2 elect nobody");
    net.restart(1);
    net.run_ms(3000);
    assert!(net.leader().is_some());
    assert_ne!(net.raft(2).role(), RoleKind::Quarantined);
}

/// The leader itself is wiped: the others elect one of them, which readmits it.
#[test]
fn a_wiped_leader() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let payloads = [net.submit(1), net.submit(1)];
    net.wipe(1);
    net.run_ms(3000);
    assert!(matches!(net.leader(), Some(2 | 3)));
    assert_eq!(net.raft(1).role(), RoleKind::Follower);
    assert_eq!(net.applied(1), payloads);
}

/// Two of three lose their disks: nobody may decide anything any more, whatever time passes.
#[test]
fn two_wiped_of_three_decide_nothing() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.wipe(2);
    net.wipe(3);
    net.run_ms(10_000);
    assert_eq!(net.leader(), None);
    for slot in [2, 3] {
        assert_eq!(net.raft(slot).role(), RoleKind::Quarantined);
    }
    net.crash(1);
    net.run_ms(10_000);
    assert_eq!(net.leader(), None, "two empty nodes form no cluster of their own");
}

/// Five nodes: the vote that the lost disk gave arrives after the node was readmitted and has
/// helped to commit. The Readmit entry is what makes it harmless: nobody votes for a log without it.
#[test]
fn an_old_vote_after_the_readmission_elects_nobody() {
    let mut net = Net::new(5, Paper);
    net.elect(1);
    net.submit(1);
    net.beat(1);
    // n5 campaigns for term 2 and hears nothing; n2 votes for it, and its answer is slow.
    net.cut_off(&[5]);
    net.now = net.now.after(Duration::from_millis(160));
    net.step(5, Input::Campaign);
    net.heal();
    net.settle_only(|envelope| envelope.to == node(2));
    let vote = net.take_wire(|envelope| matches!(envelope.message, Message::VoteReply { .. }));
    assert_eq!(vote.len(), 1);
    assert_eq!(vote[0].envelope.message, Message::VoteReply { denied: None });
    net.wire.clear();
    // n2 loses its disk, and with it the vote; n1, n3 and n4 readmit it in term 1.
    net.cut_off(&[5]);
    net.wipe(2);
    net.step(2, Input::Timeout);
    // Heartbeats by hand, so that n5 goes on waiting for answers of term 2.
    for _ in 0..6 {
        net.beat(1);
    }
    assert_eq!((net.leader(), net.raft(2).role()), (Some(1), RoleKind::Follower));
    assert_eq!(net.raft(1).term(), Term(1));
    assert_eq!(voted_for(&net, 2), Some(1), "its vote in that term is the leader's");
    // It counts: n1, n2 and n3 commit without n4.
    net.cut_off(&[4, 5]);
    let e = net.submit(1);
    net.beat(1);
    assert_eq!(net.applied(1).last(), Some(&e));
    net.crash(1);
    net.heal();
    // The old vote is counted, and is not enough.
    for packet in vote {
        net.deliver(packet);
    }
    net.settle();
    assert_eq!(role(&net, 5), (RoleKind::Candidate, 2));
    for _ in 0..3 {
        net.elect(5);
        assert_ne!(net.leader(), Some(5), "no majority lacks the Readmit entry");
    }
    for slot in [2, 3] {
        net.elect(slot);
    }
    assert!(matches!(net.leader(), Some(2 | 3)));
    let leader = net.leader().unwrap();
    net.submit(leader);
    net.run_ms(500);
    assert_eq!(net.applied(5)[1], e);
}

/// What the lost disk acknowledged arrives after the loss was noticed: it is dropped, and no entry
/// is committed by it.
#[test]
fn an_acknowledgement_of_a_lost_disk_is_not_counted() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    let late = net.propose(1);
    net.settle_only(|envelope| envelope.to == node(2));
    let slow = net.take_wire(|envelope| envelope.from == node(2));
    assert_eq!(slow.len(), 1);
    net.wire.clear();
    net.wipe(2);
    net.cut_off(&[3]);
    net.step(2, Input::Timeout);
    net.settle();
    assert_eq!(net.count(1, |event| event.kind() == "readmit_appended"), 1);
    let before = net.raft(1).commit();
    net.clear_events();
    for packet in slow {
        net.deliver(packet);
    }
    let old = |event: &Event| matches!(event, Event::Dropped { why: DropReason::OldSender, .. });
    assert_eq!(net.count(1, old), 1);
    assert_eq!((net.peer(1, 2).matched, net.raft(1).commit()), (Index(0), before));
    assert!(!net.applied(1).contains(&late));
    net.heal();
    net.run_ms(1000);
    assert!((1..=3).all(|slot| net.applied(slot).last() == Some(&late)));
}

/// A node that is wiped again while it rejoins needs a Readmit of its own: the one for the disk in
/// between frees nobody.
#[test]
fn wiped_twice() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let a = net.submit(1);
    net.wipe(2);
    net.step(2, Input::Timeout);
    // The first Readmit is committed, but does not reach the disk that it is for.
    net.settle_only(|envelope| envelope.to != node(2));
    net.cut_off(&[2]);
    for _ in 0..3 {
        net.beat(1);
    }
    assert_eq!(net.count(1, |event| event.kind() == "readmit_appended"), 1);
    let first = net.raft(1).members()[&node(2)];
    assert_eq!(first, net.nodes[&node(2)].incarnation);
    assert_eq!(net.raft(1).commit(), net.raft(1).last().index, "committed by n1 and n3");
    net.wipe(2);
    net.heal();
    // It asks, so it gets the whole log, the commit index and that Readmit; but a slot is readmitted
    // once in an election timeout, so there is no second one yet.
    net.step(2, Input::Timeout);
    for _ in 0..2 {
        net.beat(1);
    }
    assert_eq!(net.count(1, |event| event.kind() == "readmit_appended"), 1);
    assert_eq!(net.terms(2), net.terms(1), "it holds the first Readmit");
    assert_eq!(net.raft(2).commit(), net.raft(1).commit(), "and knows it committed");
    assert_eq!(net.raft(2).role(), RoleKind::Quarantined);
    net.run_ms(2000);
    assert_eq!(net.raft(2).role(), RoleKind::Follower);
    assert_eq!(net.count(1, |event| event.kind() == "readmit_appended"), 2);
    assert_eq!(net.raft(1).members()[&node(2)], net.nodes[&node(2)].incarnation);
    assert_eq!(net.applied(2), [a]);
}

/// Step 5 is done in two writes: entries and hard state, then the identity. A crash in between
/// leaves the node mute; the same Readmit lets it go after the restart.
#[test]
fn a_crash_before_the_identity_says_voter() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let a = net.submit(1);
    net.wipe(2);
    net.node_mut(2).hold_admit = true;
    net.run_ms(300);
    assert_eq!(voted_for(&net, 2), Some(1), "the hard state with which it leaves is durable");
    assert_eq!(net.raft(2).role(), RoleKind::Quarantined);
    net.crash(3);
    let b = net.submit(1);
    net.run_ms(100);
    assert_eq!(net.applied(1), [a], "it does not count yet");
    net.crash(2);
    net.node_mut(2).hold_admit = false;
    net.restart(2);
    assert_eq!(net.raft(2).role(), RoleKind::Quarantined);
    net.restart(3);
    net.run_ms(2000);
    assert_eq!(net.raft(2).role(), RoleKind::Follower);
    for slot in 1..=3 {
        assert_eq!(net.applied(slot), [a, b], "n{slot}");
        assert_eq!(
            net.count(slot, |event| event.kind() == "readmit_appended"),
            usize::from(slot == 1)
        );
    }
}

/// Two of five lose their disks at once: they are readmitted one after the other, each by an entry
/// that the three others commit.
#[test]
fn two_wiped_of_five_come_back() {
    let mut net = Net::new(5, Modern);
    net.elect(1);
    let a = net.submit(1);
    net.wipe(2);
    net.wipe(3);
    let mut most = 0;
    for _ in 0..200 {
        net.run_ms(5);
        let (committed, entries) = (net.raft(1).commit(), &net.nodes[&node(1)].log);
        let readmits = entries.iter().zip(1..).filter(|(entry, index)| {
            matches!(entry.meta.kind, EntryKind::Readmit { .. }) && Index(*index) > committed
        });
        most = most.max(readmits.count());
    }
    assert!(most <= 1, "one at a time");
    let muted = |slot: &u8| net.raft(*slot).role() == RoleKind::Quarantined;
    assert_eq!((1..=5).find(muted), None);
    assert_eq!(net.count(1, |event| event.kind() == "readmit_appended"), 2);
    let b = net.submit(1);
    net.run_ms(200);
    assert!((1..=5).all(|slot| net.applied(slot) == [a, b]));
}

/// Leadership is not handed to a mute node, named or not.
#[test]
fn a_mute_node_is_handed_nothing() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.cut_off(&[3]);
    net.wipe(2);
    net.step(2, Input::Timeout);
    net.settle();
    net.step(1, Input::TransferLeadership { to: Some(node(2)) });
    assert_eq!(net.nodes[&node(1)].transfers, [Err(TransferError::BadTarget)]);
    net.step(1, Input::TransferLeadership { to: None });
    assert_eq!(net.raft(1).status().transferring_to, Some(node(3)));
    // Nor does it take it, should it be asked to.
    net.step(
        2,
        Input::Receive(Envelope {
            from: node(1),
            from_incarnation: Incarnation(1),
            to: node(2),
            to_incarnation: None,
            term: Term(1),
            message: Message::TimeoutNow,
        }),
    );
    let muted = |event: &Event| matches!(event, Event::Dropped { why: DropReason::Muted, .. });
    assert_eq!((net.raft(2).role(), net.count(2, muted)), (RoleKind::Quarantined, 1));
}

/// A cluster that an operator let begin again: only whoever has the survivor's log may lead first,
/// though two empty nodes are a majority.
#[test]
fn nobody_leads_below_the_floor() {
    for profile in [Modern, Paper] {
        let mut net = Net::new(3, profile);
        net.floor = LogPos::new(2, 3);
        net.given(1, 2, &[1, 1, 2]);
        // n2 has an entry of an older generation's beginning, n3 has nothing.
        net.given(2, 1, &[1]);
        net.given(3, 0, &[]);
        net.crash(1);
        net.run_ms(3000);
        for slot in [2, 3] {
            net.step(slot, Input::Campaign);
            net.step(slot, Input::Timeout);
        }
        net.run_ms(3000);
        assert_eq!(net.leader(), None, "{profile:?}: n2 and n3 lead nobody");
        assert!(net.raft(2).term() <= Term(1), "nor do they ask");
        // A vote that is asked for anyhow, from a log that is longer than the voter's own.
        let message = Message::Vote { last: LogPos::new(1, 1), transfer: true };
        let envelope = Envelope {
            from: node(2),
            from_incarnation: Incarnation(2),
            to: node(3),
            to_incarnation: None,
            term: Term(9),
            message,
        };
        net.step(3, Input::Receive(envelope));
        assert_eq!(voted_for(&net, 3), None, "{profile:?}");
        net.restart(1);
        net.run_ms(3000);
        assert_eq!(net.leader(), Some(1));
        let a = net.submit(1);
        net.run_ms(1000);
        for slot in 1..=3 {
            assert_eq!(net.applied(slot).last(), Some(&a), "n{slot}");
            assert_eq!(net.raft(slot).term_at(Index(3)), Some(Term(2)));
        }
    }
}

/// What was sent to a muted node got lost, and all that may be on its way to it is: an answer to a
/// heartbeat shows it, as with any other peer.
#[test]
fn a_muted_node_gets_what_was_lost_on_its_way() {
    let mut net = Net::new(3, Modern);
    net.inflight_bytes_max = 200;
    for slot in 1..=3 {
        net.crash(slot);
        net.restart(slot);
    }
    net.elect(1);
    net.wipe(3);
    net.node_mut(3).hold_admit = true;
    net.run_ms(1_000);
    let stored = net.terms(3).len();
    for _ in 0..10 {
        net.propose(1);
        let to_3 = |envelope: &Envelope| {
            envelope.to == node(3) && matches!(envelope.message, Message::Append { .. })
        };
        net.take_wire(to_3);
        net.settle_only(|envelope| !to_3(envelope));
        net.take_wire(to_3);
    }
    assert_eq!(net.terms(3).len(), stored, "nothing arrived");
    net.run_ms(1_000);
    assert_eq!(net.terms(3), net.terms(1));
}

/// Of a node that has come back since node 3 was wiped for the second time.
fn knows_of_twice(quarantined: bool) -> Config {
    let members =
        [(node(1), Incarnation(1)), (node(2), Incarnation(2)), (node(3), Incarnation(32))];
    Config {
        node: node(1),
        incarnation: Incarnation(11),
        members: members.into_iter().collect(),
        floor: LogPos::ORIGIN,
        quarantined,
        profile: Modern,
        rules: Rules::default(),
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        election_timer_frozen: false,
        seed: 1,
        message_bytes_max: 1 << 20,
        inflight_bytes_max: 1 << 20,
        inflight_messages_max: 64,
        uncommitted_bytes_max: 1 << 20,
    }
}

/// What a mute node knew before it lost its memory may be newer than what it has refilled so far:
/// the leader was wiped twice, and the first part of the log tells of the first time only. Were the
/// leader's messages dropped as those of an old disk, the node would never come back; and were the
/// leader told that its disk is an old one, it would give up a good log.
#[test]
fn a_leader_wiped_twice_refills_a_mute_node_that_knows_of_it() {
    let (me, leader) = (node(1), node(3));
    let (first, second) = (Incarnation(31), Incarnation(32));
    let config = knows_of_twice(true);
    let mut raft = Raft::new(config, Recovered::default(), Time(0));
    let readmit = |incarnation| EntryKind::Readmit { node: leader, incarnation };
    let log = [readmit(first), EntryKind::Payload, readmit(second), EntryKind::Payload];
    let mut prev = LogPos::ORIGIN;
    for (kind, index) in log.into_iter().zip(1..) {
        let message = Message::Append {
            prev,
            entries: vec![EntryMeta::new(Term(4), kind)],
            commit: Index(0),
            round: 1,
        };
        let envelope = Envelope {
            from: leader,
            from_incarnation: second,
            to: me,
            to_incarnation: None,
            term: Term(4),
            message,
        };
        raft.step(Time(index), Input::Receive(envelope));
        prev = LogPos::new(4, index);
        assert_eq!(raft.last(), prev, "entry {index} is taken");
        assert!(!raft.is_surely_superseded(leader, second), "nobody is told so at entry {index}");
    }
}

/// The entry that tells of the second time is damaged: the first one looks like the last. The disk
/// that is in use must not be told that it is an old one; once the entry is there again, the old one
/// may be.
#[test]
fn a_damaged_readmission_is_no_news() {
    let (first, second) = (Incarnation(31), Incarnation(32));
    let mut recovered = Recovered {
        hard_state: HardState { term: Term(4), vote: None },
        runs: vec![LogPos::new(4, 1)],
        last: Index(2),
        readmits: [(Index(1), (node(3), first))].into(),
        faulty: [Index(2)].into(),
        ..Recovered::default()
    };
    let damaged = Raft::new(knows_of_twice(false), recovered.clone(), Time(0));
    for incarnation in [first, second] {
        assert!(!damaged.is_surely_superseded(node(3), incarnation), "{incarnation}");
    }
    // Nor does it count for anything, for it may be one; but its copy of the entry is taken.
    // Without that, a node for which this is so with all others would never be whole again.
    let says = |message| Envelope {
        from: node(3),
        from_incarnation: second,
        to: node(1),
        to_incarnation: None,
        term: Term(4),
        message,
    };
    let entry = EntryMeta::new(Term(4), EntryKind::Readmit { node: node(3), incarnation: second });
    let pos = LogPos::new(4, 2);
    let mut raft = damaged;
    for (message, is_taken) in [
        (Message::Heartbeat { commit: Index(0), round: 1 }, false),
        (Message::FetchReply { pos, outcome: FetchOutcome::Absent }, false),
        (Message::FetchReply { pos, outcome: FetchOutcome::Whole(entry) }, true),
    ] {
        raft.step(Time(1), Input::Receive(says(message)));
        let outputs: Vec<Output> = std::iter::from_fn(|| raft.poll_output()).collect();
        let dropped = Event::Dropped { from: node(3), why: DropReason::OldSender };
        assert_eq!(outputs.contains(&Output::Event(dropped)), !is_taken, "{outputs:?}");
        assert_eq!(outputs.contains(&Output::Repair { pos }), is_taken, "{outputs:?}");
    }
    raft.step(Time(2), Input::Repaired { index: Index(2), kind: entry.kind });
    raft.step(Time(2), Input::Receive(says(Message::Heartbeat { commit: Index(0), round: 1 })));
    assert_eq!(raft.leader(), Some(node(3)), "and then it is heard");
    recovered.faulty.clear();
    recovered.readmits.insert(Index(2), (node(3), second));
    let whole = Raft::new(knows_of_twice(false), recovered, Time(0));
    assert!(whole.is_surely_superseded(node(3), first));
    assert!(!whole.is_surely_superseded(node(3), second));
}

/// Protocol RJ, step 3: one readmission at a time. Of two that ask together the second waits until
/// the first is committed.
#[test]
fn readmissions_come_one_after_the_other() {
    let readmits = |net: &Net| net.count(1, |event| event.kind() == "readmit_appended");
    let mut net = Net::new(5, Modern);
    net.elect(1);
    net.submit(1);
    net.wipe(4);
    net.wipe(5);
    let asks = |envelope: &Envelope| envelope.message == Message::Rejoin;
    for slot in [4, 5] {
        net.step(slot, Input::Timeout);
        net.settle_only(asks);
        assert_eq!(readmits(&net), 1, "the first is on its way");
    }
    assert_eq!(net.raft(1).readmit_at(Index(3)), Some((node(4), net.nodes[&node(4)].incarnation)));
    assert_eq!(net.raft(1).readmit_at(Index(2)), None);
    net.settle();
    net.now = net.now.after(Duration::from_millis(150));
    net.step(5, Input::Timeout);
    net.settle_only(asks);
    assert_eq!(readmits(&net), 2);
    net.run_ms(1000);
    for slot in [4, 5] {
        assert_eq!(role(&net, slot).0, RoleKind::Follower);
    }
}

/// A slot is readmitted once in an election timeout: a node that loses one disk after the other
/// does not fill the log.
#[test]
fn a_slot_is_readmitted_once_in_a_while() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    let begun = net.now;
    for (after, expected) in [(0, 1), (299, 1), (300, 2)] {
        net.now = begun.after(Duration::from_millis(after));
        net.wipe(3);
        net.step(3, Input::Timeout);
        net.settle_only(|envelope| envelope.from != node(3) || envelope.message == Message::Rejoin);
        let readmits = net.count(1, |event| event.kind() == "readmit_appended");
        assert_eq!(readmits, expected, "after {after} ms");
        net.wire.clear();
    }
}

/// Step 5: a node speaks again when the term and the vote that it leaves with are on disk.
#[test]
fn a_node_leaves_quarantine_when_its_vote_is_durable() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.wipe(3);
    net.slow(3, true);
    net.step(3, Input::Timeout);
    // All of the log comes, and is synced; the vote for the leader is not.
    for _ in 0..4 {
        net.beat(1);
        if voted_for(&net, 3) == Some(1) {
            break;
        }
        net.sync(3);
        net.settle();
    }
    assert_eq!(voted_for(&net, 3), Some(1));
    assert_eq!(net.nodes[&node(3)].disk.hard_state.vote, None);
    for _ in 0..3 {
        net.beat(1);
        assert_eq!(role(&net, 3).0, RoleKind::Quarantined);
    }
    net.sync(3);
    net.settle();
    assert_eq!(role(&net, 3).0, RoleKind::Follower);
    assert_eq!(net.nodes[&node(3)].disk.hard_state.vote, Some(node(1)));
}
