//! Linearizable reads (§8, thesis §6.4) and handing leadership over (thesis §3.10).

use std::time::Duration;

use tercet_raft::Profile::{self, Modern};
use tercet_raft::{Index, Input, Message, Refusal, RoleKind, TransferError};

use crate::role;
use crate::support::{Net, node};

/// Thesis §6.4: a read is served when a majority has confirmed that this node leads, on the leader
/// and, passed on to it, on a follower.
#[test]
fn read_barriers() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    let done = |net: &Net, slot: u8| net.nodes[&node(slot)].barriers.clone();
    net.barrier(1, 7);
    assert_eq!(done(&net, 1), [], "not before a majority answered");
    net.settle();
    assert_eq!(done(&net, 1), [(7, Some(Index(2)))]);
    net.barrier(3, 8);
    net.settle();
    assert_eq!(done(&net, 3), [(8, Some(Index(2)))]);
    // Many that wait share one round.
    net.clear_events();
    net.wire.clear();
    for id in 20..30 {
        net.barrier(1, id);
    }
    let beats = net.wire.iter().filter(|p| matches!(p.envelope.message, Message::Heartbeat { .. }));
    assert_eq!(beats.count(), 2, "one heartbeat to each peer");
    net.run_ms(100);
    assert_eq!(done(&net, 1).len(), 11);
}

/// A deposed leader confirms no read: the old value is never read (§8).
#[test]
fn a_deposed_leader_confirms_no_read() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.cut_off(&[1]);
    net.elect(2);
    assert_eq!(net.leader(), Some(2));
    net.submit(2);
    net.barrier(1, 7);
    net.run_ms(2000);
    assert_eq!(net.nodes[&node(1)].barriers, [(7, None)]);
}

/// Each leader counts its rounds from the beginning, so that an answer to a message of an earlier
/// term says nothing about rounds of this one. Without this: 1. n1 leads term 1 for many rounds, and
/// one of its messages to n2 is late; 2. it loses the lead, and gets it back in term 3; 3. the late
/// message comes, and n2 answers it in term 3, with the number of its round; 4. another leads
/// term 4; 5. stale read of n1, which believes that n2 has confirmed all rounds to come.
#[test]
fn an_answer_to_an_earlier_term_confirms_no_read() {
    for (profile, by_append) in
        [(Modern, false), (Modern, true), (Profile::Paper, false), (Profile::Paper, true)]
    {
        let mut net = Net::new(3, profile);
        net.elect(1);
        for _ in 0..20 {
            net.beat(1);
        }
        net.now = net.now.after(Duration::from_millis(50));
        if by_append {
            net.propose(1);
        } else {
            net.step(1, Input::Timeout);
        }
        let late = net.take_wire(|envelope| envelope.to == node(2));
        assert_eq!(late.len(), 1);
        net.settle();
        net.elect(3);
        net.submit(3);
        net.elect(1);
        net.submit(1);
        for packet in late {
            net.deliver(packet);
        }
        net.settle();
        assert_eq!(role(&net, 1), (RoleKind::Leader, 3));
        net.cut_off(&[1]);
        net.elect(3);
        net.submit(3);
        assert_eq!(role(&net, 3), (RoleKind::Leader, 4));
        net.barrier(1, 7);
        net.run_ms(2000);
        let confirmed = &net.nodes[&node(1)].barriers;
        assert_eq!(confirmed, &[(7, None)], "{profile:?}, by an append: {by_append}");
    }
}

/// §8: a new leader does not know what is committed before an entry of its own term is.
#[test]
fn a_new_leader_reads_only_after_its_no_op() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.crash(1);
    net.now = net.now.after(Duration::from_millis(160));
    net.step(2, Input::Campaign);
    net.settle_only(|envelope| !matches!(envelope.message, Message::Append { .. }));
    assert_eq!(role(&net, 2).0, RoleKind::Leader);
    net.barrier(2, 7);
    net.settle_only(|envelope| !matches!(envelope.message, Message::Append { .. }));
    assert_eq!(net.nodes[&node(2)].barriers, [], "its no-op is not committed");
    net.settle();
    net.run_ms(100);
    assert_eq!(net.nodes[&node(2)].barriers, [(7, Some(Index(3)))]);
}

/// Thesis §3.10: to a target that is level, at once; to one that lags, when it is level; to one
/// that is dead, not at all, within an election timeout.
#[test]
fn handing_over() {
    let ended = |net: &Net| net.nodes[&node(1)].transfers.clone();
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.step(1, Input::TransferLeadership { to: Some(node(3)) });
    net.settle();
    assert_eq!((net.leader(), ended(&net)), (Some(3), vec![Ok(node(3))]));

    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.cut_off(&[3]);
    net.submit(1);
    net.step(1, Input::TransferLeadership { to: Some(node(3)) });
    net.settle();
    assert_eq!(net.leader(), Some(1), "n3 lacks an entry");
    net.heal();
    net.run_ms(100);
    assert_eq!((net.leader(), ended(&net)), (Some(3), vec![Ok(node(3))]));

    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.crash(3);
    net.step(1, Input::TransferLeadership { to: Some(node(3)) });
    let refused = net.submit(1);
    assert_eq!(net.nodes[&node(1)].refused, [(refused, Refusal::Transferring)]);
    net.step(1, Input::TransferLeadership { to: Some(node(2)) });
    assert_eq!(ended(&net), [Err(TransferError::Busy)]);
    net.run_ms(400);
    assert_eq!(ended(&net)[1..], [Err(TransferError::TimedOut)]);
    let accepted = net.submit(1);
    assert_eq!((net.leader(), net.applied(1)), (Some(1), vec![accepted]));

    // Without a target: the most up-to-date one. To itself: done already. To nobody: no.
    net.step(1, Input::TransferLeadership { to: Some(node(1)) });
    assert_eq!(ended(&net)[2..], [Ok(node(1))]);
    net.step(1, Input::TransferLeadership { to: Some(node(9)) });
    assert_eq!(ended(&net)[3..], [Err(TransferError::BadTarget)]);
    net.step(1, Input::TransferLeadership { to: None });
    net.settle();
    assert_eq!(net.leader(), Some(2));
    net.step(1, Input::TransferLeadership { to: None });
    assert_eq!(ended(&net).last(), Some(&Err(TransferError::NotLeader)));
}

/// An answer to a round that was sent before the read came says nothing about who leads now.
#[test]
fn an_earlier_round_confirms_no_read() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.now = net.now.after(Duration::from_millis(50));
    net.step(1, Input::Timeout);
    net.settle_only(|envelope| matches!(envelope.message, Message::Heartbeat { .. }));
    let earlier = net.take_wire(|envelope| envelope.to == node(1));
    assert_eq!(earlier.len(), 2);
    net.barrier(1, 7);
    for packet in earlier {
        net.deliver(packet);
    }
    assert_eq!(net.nodes[&node(1)].barriers, [], "they were sent before the read came");
    net.settle();
    assert_eq!(net.nodes[&node(1)].barriers, [(7, Some(Index(2)))]);
}

/// A follower passes its reads on. They end, whatever becomes of the leader: refused at once by one
/// that leads no more or by a node that knows no leader, given up when no answer comes; and an
/// answer that comes after all finds nobody.
#[test]
fn a_followers_read_always_ends() {
    let ended = |net: &Net| net.nodes[&node(3)].barriers.clone();

    // The leader is dead, and its answer lost.
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.barrier(3, 7);
    net.settle_only(|envelope| envelope.to != node(3));
    let late = net.take_wire(|envelope| matches!(envelope.message, Message::ReadIndexReply { .. }));
    assert_eq!(late.len(), 1, "the leader has confirmed it");
    net.crash(1);
    net.wire.clear();
    net.run_ms(301);
    assert_eq!(ended(&net), [(7, None)]);
    for packet in late {
        net.deliver(packet);
    }
    assert_eq!(ended(&net), [(7, None)], "the reader was told already");

    // The node that is asked leads no more.
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.cut_off(&[3]);
    net.step(1, Input::TransferLeadership { to: Some(node(2)) });
    net.settle();
    assert_eq!((role(&net, 1), role(&net, 2)), ((RoleKind::Follower, 2), (RoleKind::Leader, 2)));
    net.heal();
    net.barrier(3, 8);
    net.settle_only(|envelope| {
        matches!(envelope.message, Message::ReadIndex { .. } | Message::ReadIndexReply { .. })
    });
    assert_eq!(ended(&net), [(8, None)]);

    // Nobody is known to lead.
    let mut net = Net::new(3, Modern);
    net.barrier(3, 9);
    assert_eq!(ended(&net), [(9, None)]);
}

/// A late answer to an earlier question answers no later one: what is committed may have moved on.
#[test]
fn an_answer_to_an_earlier_question_is_none_to_a_later_one() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.barrier(3, 7);
    net.settle_only(|envelope| envelope.to != node(3));
    let late = net.take_wire(|envelope| matches!(envelope.message, Message::ReadIndexReply { .. }));
    assert_eq!(late.len(), 1);
    net.step(3, Input::LinkLost { peer: node(1) });
    assert_eq!(net.nodes[&node(3)].barriers, [(7, None)]);
    net.submit(1);
    net.barrier(3, 8);
    for packet in late {
        net.deliver(packet);
    }
    assert_eq!(net.nodes[&node(3)].barriers.len(), 1, "it spoke of an earlier log");
    net.settle();
    assert_eq!(net.nodes[&node(3)].barriers[1..], [(8, Some(Index(3)))]);
    // A link that was lost to somebody else is nothing to a read.
    net.barrier(3, 9);
    net.step(3, Input::LinkLost { peer: node(2) });
    net.settle();
    assert_eq!(net.nodes[&node(3)].barriers[2..], [(9, Some(Index(3)))]);
}

/// Thesis §3.10: who lags is asked to take over when it is level, once; without a name it is one
/// that answers.
#[test]
fn who_takes_over_is_level_and_alive() {
    let is_asked = |envelope: &tercet_raft::Envelope| envelope.message == Message::TimeoutNow;
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.slow(3, true);
    net.submit(1);
    net.step(1, Input::TransferLeadership { to: Some(node(3)) });
    assert!(net.take_wire(is_asked).is_empty(), "its disk does not have all");
    net.settle();
    assert_eq!(net.leader(), Some(1));
    net.slow(3, false);
    net.sync(3);
    net.settle_only(|envelope| envelope.to == node(1));
    assert_eq!(net.take_wire(is_asked).len(), 1);

    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.crash(3);
    net.run_ms(400);
    assert_eq!(net.peer(1, 2).matched, net.peer(1, 3).matched);
    net.step(1, Input::TransferLeadership { to: None });
    net.settle();
    assert_eq!(net.leader(), Some(2));
}

/// A read that comes while a round is on its way waits for the next one, which begins when that one
/// is confirmed, and not with the next heartbeat; where nobody waits, none begins.
#[test]
fn the_next_round_follows_at_once() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.barrier(1, 7);
    net.barrier(1, 8);
    net.wire_log.clear();
    net.settle();
    assert_eq!(net.nodes[&node(1)].barriers, [(7, Some(Index(2))), (8, Some(Index(2)))]);
    let beats = |message: &&Message| matches!(message, Message::Heartbeat { .. });
    assert_eq!(net.wire_log.iter().filter(beats).count(), 4, "two rounds");
}
