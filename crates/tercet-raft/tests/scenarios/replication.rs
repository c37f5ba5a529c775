//! How logs come to agree, and when an entry is committed (§5.3, §5.4.2, figures 7 and 8); what is
//! bounded on the way.

use tercet_raft::Profile::{Modern, Paper};
use tercet_raft::{
    AppendOutcome, DenyReason, Event, Index, Input, LogPos, Message, Profile, ProgressKind,
    Proposal, ProposalId, Refusal, RoleKind, Rules,
};

use crate::support::{Net, Packet, accepted, node};
use crate::{assert_logs, commit, denials, role, voted_for};

/// §5.3: a follower commits what the leader's next message tells it to.
#[test]
fn commit_lags_by_a_message() {
    let mut net = Net::new(3, Paper);
    net.elect(1);
    let a = net.propose(1);
    net.settle_only(|envelope| matches!(envelope.message, Message::Append { .. }));
    let acks = net.take_wire(|envelope| matches!(envelope.message, Message::AppendReply { .. }));
    net.deliver(acks.into_iter().next().unwrap());
    assert_eq!((commit(&net, 1), commit(&net, 2), commit(&net, 3)), (1, 0, 0));
    net.beat(1);
    assert_eq!((commit(&net, 2), commit(&net, 3)), (1, 1));
    assert_eq!(net.applied(3), [a]);
    assert_eq!((1..=3).map(|slot| net.raft(slot).applied().0).collect::<Vec<_>>(), [1, 1, 1]);
    let told = |net: &Net, slot, who| {
        net.count(slot, |event| matches!(event, Event::Committed { leads, .. } if *leads == who))
    };
    assert_eq!((told(&net, 1, true), told(&net, 1, false)), (1, 0));
    assert_eq!((told(&net, 3, true), told(&net, 3, false)), (0, 1));
}

/// A majority commits; without one, an entry waits for one.
#[test]
fn a_quorum_commits_and_less_does_not() {
    let mut net = Net::new(3, Paper);
    net.elect(1);
    net.crash(3);
    let a = net.submit(1);
    assert_eq!(net.applied(1), [a]);
    net.crash(2);
    let b = net.submit(1);
    assert_eq!((net.applied(1), commit(&net, 1)), (vec![a], 1));
    net.restart(2);
    net.beat(1);
    net.beat(1);
    assert_eq!(net.applied(1), [a, b]);
}

/// Figure 7: the leader of term 8 and six followers whose logs lack entries, have extra ones, or
/// both. Next index − 1 per refusal takes 19 of them.
#[test]
fn figure_7_one_by_one() {
    let (mut net, refusals) = figure_7(Paper);
    assert_eq!(refusals, [1, 6, 0, 0, 5, 7]);
    // The extra entries of (c) and (d) stand until something new comes.
    assert_eq!((net.terms(4).len(), net.terms(5).len(), commit(&net, 1)), (11, 12, 0));
    net.submit(1);
    net.beat(1);
    assert_logs(&net, &[1, 2, 3, 4, 5, 6, 7], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]);
    assert_eq!(commit(&net, 1), 11);
    assert_eq!((1..=7).map(|slot| net.refusals(slot)).sum::<usize>(), 19);
}

/// Figure 7 with conflict hints (§5.3, the end): one refusal per differing term, 6 in all.
#[test]
fn figure_7_with_hints() {
    let (net, refusals) = figure_7(Modern);
    assert_eq!(refusals, [1, 1, 0, 0, 2, 2]);
    assert_logs(&net, &[1, 2, 3, 4, 5, 6, 7], &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]);
    assert_eq!(commit(&net, 1), 11);
}

/// n1 is the leader of the figure, n2 to n7 its followers (a) to (f). Says who refused how often.
fn figure_7(profile: Profile) -> (Net, Vec<usize>) {
    let mut net = Net::new(7, profile);
    net.given(1, 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6]);
    net.given(2, 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6]);
    net.given(3, 7, &[1, 1, 1, 4]);
    net.given(4, 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]);
    net.given(5, 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]);
    net.given(6, 7, &[1, 1, 1, 4, 4, 4, 4]);
    net.given(7, 7, &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]);
    net.elect(1);
    assert_eq!(role(&net, 1), (RoleKind::Leader, 8));
    for slot in [4, 5] {
        assert!(voted_for(&net, slot).is_none(), "the log of n{slot} is better than the leader's");
    }
    for _ in 0..40 {
        net.beat(1);
    }
    let refusals = (2..=7).map(|slot| net.refusals(slot)).collect();
    (net, refusals)
}

/// Figure 8 up to (d): an entry of an earlier term on a majority is not committed, and may be
/// overwritten (§5.4.2).
#[test]
fn figure_8_old_terms_are_not_counted() {
    let net = figure_8(Rules::default());
    assert!(!net.violated);
    assert_logs(&net, &[2, 3, 4, 5], &[1, 3, 5]);
}

/// The same with the rule broken: the checks must find that a committed entry is overwritten.
#[test]
fn figure_8_without_the_rule_loses_a_committed_entry() {
    let net = figure_8(Rules { commit_old_terms: true, ..Rules::default() });
    assert!(net.violated, "State Machine Safety is violated, and nobody noticed");
}

fn figure_8(rules: Rules) -> Net {
    let mut net = Net::with_rules(5, Paper, rules);
    net.violations_allowed = rules != Rules::default();
    for slot in 1..=5 {
        net.given(slot, 1, &[1]);
    }
    // (a) n1 leads term 2 and replicates its entry to n2 only.
    net.elect(1);
    net.cut_off(&[1, 2]);
    net.submit(1);
    assert_eq!(net.terms(2), [1, 2]);
    // (b) n1 crashes; n5 leads term 3 with the votes of n3 and n4, and takes an entry alone.
    net.crash(1);
    net.heal();
    net.crash(2);
    net.elect(5);
    assert_eq!(role(&net, 5), (RoleKind::Leader, 3));
    net.cut_off(&[5]);
    net.submit(5);
    assert_eq!(net.terms(5), [1, 3]);
    // (c) n5 crashes; n1 leads term 4 and gets its old entry onto n3: a majority has it.
    net.crash(5);
    net.heal();
    net.restart(1);
    net.restart(2);
    net.cut_off(&[4]);
    net.elect(1);
    net.elect(1);
    assert_eq!(role(&net, 1), (RoleKind::Leader, 4));
    for _ in 0..4 {
        net.beat(1);
    }
    assert_logs(&net, &[1, 2, 3], &[1, 2]);
    let counted = if rules.commit_old_terms { 2 } else { 0 };
    assert_eq!(commit(&net, 1), counted);
    // (d) n1 crashes; n5 wins with its later last term and overwrites that entry.
    net.crash(1);
    net.heal();
    net.restart(5);
    for _ in 0..3 {
        if net.leader() != Some(5) {
            net.elect(5);
        }
    }
    assert_eq!(net.leader(), Some(5));
    net.submit(5);
    for _ in 0..4 {
        net.beat(5);
    }
    net
}

/// Figure 8 (e): with an entry of its own term on the same majority, the old one is committed too,
/// and nobody without it can lead.
#[test]
fn figure_8_e_the_own_term_commits_what_is_before() {
    let mut net = Net::new(5, Paper);
    for slot in [1, 2, 3] {
        net.given(slot, 3, &[1, 2]);
    }
    net.given(4, 3, &[1]);
    net.given(5, 3, &[1, 3]);
    net.cut_off(&[4, 5]);
    net.elect(1);
    net.submit(1);
    assert_eq!(commit(&net, 1), 3);
    net.crash(1);
    net.heal();
    net.elect(5);
    assert_eq!(role(&net, 5), (RoleKind::Candidate, 4));
    net.elect(5);
    assert_eq!(role(&net, 5), (RoleKind::Candidate, 5), "only n4 votes for it");
    let reason = DenyReason::OldLog { voter_last: LogPos::new(4, 3) };
    for slot in [2, 3] {
        assert_eq!(denials(&net, slot).last(), Some(&reason));
    }
    net.elect(2);
    assert_eq!(net.leader(), Some(2));
    net.submit(2);
    net.beat(2);
    assert_eq!(net.terms(5)[..3], [1, 2, 4]);
}

/// §5.3: the leader crashes with an entry that its followers miss. What becomes of it depends on
/// who leads next; nobody was told that it was committed.
#[test]
fn the_leader_crashes_with_an_entry_of_its_own() {
    for survives in [false, true] {
        let mut net = Net::new(3, Paper);
        net.elect(1);
        let (a, b) = (net.submit(1), net.submit(1));
        net.beat(1);
        net.cut_off(&[1]);
        let c = net.submit(1);
        assert_eq!(commit(&net, 1), 2);
        net.crash(1);
        net.heal();
        if survives {
            net.restart(1);
            net.elect(1);
            for _ in 0..3 {
                net.beat(1);
            }
            assert_logs(&net, &[1, 2, 3], &[1, 1, 1]);
            assert_eq!((commit(&net, 1), commit(&net, 2)), (0, 2), "an old term is not counted");
            let d = net.submit(1);
            net.beat(1);
            assert_eq!(net.applied(2), [a, b, c, d]);
        } else {
            net.elect(2);
            let d = net.submit(2);
            net.restart(1);
            net.clear_events();
            for _ in 0..3 {
                net.beat(2);
            }
            assert_logs(&net, &[1, 2, 3], &[1, 1, 2]);
            assert_eq!(net.applied(1), [a, b, d]);
            assert_eq!(net.refusals(1), 0, "the logs agree just before the new entry");
            assert_eq!(net.count(1, |event| event.kind() == "truncated"), 1);
        }
    }
}

/// A long divergence: one refusal per entry by the paper, one per term with hints.
#[test]
fn a_long_divergence() {
    for (profile, expected) in [(Paper, 50), (Modern, 1)] {
        let mut net = Net::new(3, profile);
        net.given(1, 3, &[&[1][..], &[3; 50]].concat());
        net.given(2, 3, &[&[1][..], &[3; 50]].concat());
        net.given(3, 3, &[&[1][..], &[2; 50]].concat());
        net.elect(1);
        net.submit(1);
        for _ in 0..60 {
            net.beat(1);
        }
        assert_eq!(net.terms(3), net.terms(1), "{profile:?}");
        assert_eq!(net.refusals(3), expected, "{profile:?}");
    }
}

/// The whole cluster loses power: logs are whole; what was committed is known again when an entry
/// of the new term is (§8).
#[test]
fn everybody_crashes() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let payloads: Vec<u64> = (0..3).map(|_| net.submit(1)).collect();
    for slot in 1..=3 {
        net.crash(slot);
    }
    for slot in 1..=3 {
        net.restart(slot);
        assert_eq!(commit(&net, slot), 0);
    }
    net.run_ms(2000);
    for slot in 1..=3 {
        assert_eq!(net.applied(slot), payloads, "n{slot}");
    }
}

/// What is not committed takes bounded memory; what is under way to a peer, too.
#[test]
fn back_pressure() {
    let mut net = Net::new(3, Modern);
    net.uncommitted_bytes_max = 1000;
    net.inflight_bytes_max = 500;
    for slot in 1..=3 {
        net.crash(slot);
        net.restart(slot);
    }
    net.elect(1);
    // Nothing is delivered from here on: nothing is committed.
    let payloads: Vec<u64> = (0..20).map(|_| net.propose(1)).collect();
    let refused: Vec<u64> = net.nodes[&node(1)].refused.iter().map(|(id, _)| *id).collect();
    assert_eq!(refused, payloads[10..], "ten entries of 100 bytes fit");
    assert!(net.nodes[&node(1)].refused.iter().all(|(_, why)| *why == Refusal::Overloaded));
    let under_way: usize = net
        .wire
        .iter()
        .filter(|packet| packet.envelope.to == node(2))
        .map(|packet| packet.payloads.len())
        .sum();
    assert_eq!(under_way, 5, "entries of 100 bytes are on their way to n2");
    net.run_ms(200);
    assert_eq!(net.applied(2), payloads[..10]);
    let later = net.submit(1);
    assert_eq!(net.applied(1).last(), Some(&later), "there is room again");
}

/// A follower that does not keep up is sent no more than the limit; the others go on without it.
#[test]
fn a_slow_follower_holds_up_nobody() {
    let mut net = Net::new(3, Modern);
    net.inflight_bytes_max = 500;
    for slot in 1..=3 {
        net.crash(slot);
        net.restart(slot);
    }
    net.elect(1);
    net.submit(1);
    net.node_mut(3).slow_disk = true;
    let mut payloads = net.applied(1);
    for _ in 0..30 {
        payloads.push(net.submit(1));
        let status = net.peer(1, 3);
        assert!(status.inflight_bytes <= 500, "{status:?}");
    }
    assert_eq!((net.applied(1).len(), net.applied(2).len() >= 30), (31, true));
    assert_eq!(net.peer(1, 3).matched, Index(2), "n3 answers for nothing that it may still lose");
    assert_eq!(net.terms(3).len(), 2 + 5, "the limit, and not one entry more");
    net.node_mut(3).slow_disk = false;
    net.sync(3);
    net.run_ms(500);
    assert_eq!(net.applied(3), payloads);
}

/// The pipeline: many entries go out before the first is answered.
#[test]
fn entries_are_pipelined() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    for _ in 0..10 {
        net.propose(1);
    }
    let peer = net.raft(1).status().peers[0];
    assert_eq!(peer.kind, ProgressKind::Replicate);
    assert_eq!(peer.next, Index(13), "all ten are on their way");
    assert_eq!(peer.matched, Index(2), "none is answered");
    net.settle();
    assert_eq!(commit(&net, 1), 12);
}

/// A leader counts itself only when its own disk has the entry.
#[test]
fn a_leader_counts_itself_when_its_disk_is_done() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.crash(3);
    net.node_mut(1).slow_disk = true;
    let a = net.submit(1);
    assert_eq!((commit(&net, 1), net.terms(2).len()), (1, 2), "n2 has it, n1 not yet");
    net.sync(1);
    net.settle();
    assert_eq!(net.applied(1), [a]);
    // With n3 there, two others are a majority: the leader's own disk is not waited for.
    net.restart(3);
    net.run_ms(200);
    let b = net.submit(1);
    assert_eq!(commit(&net, 1), 3, "committed by the others");
    assert_eq!(net.applied(1), [a], "but applied only when it is durable here");
    net.sync(1);
    assert_eq!(net.applied(1), [a, b]);
}

/// What is acknowledged is what the disk has: each answer waits for the write that brings it, and
/// for that alone.
#[test]
fn an_answer_waits_for_its_own_write() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.cut_off(&[3]);
    net.slow(2, true);
    net.clear_events();
    for _ in 0..3 {
        net.submit(1);
    }
    let writes = net.pending_writes(2);
    assert_eq!((writes.len(), net.terms(2).len()), (3, 5));
    for (write, holds) in writes.iter().zip(3..) {
        net.step(2, Input::Durable { write: *write });
        assert_eq!(net.raft(2).durable(), Index(holds));
        let answers: Vec<_> = net.wire.drain(..).map(|packet| packet.envelope.message).collect();
        let [Message::AppendReply { outcome, .. }] = &answers[..] else {
            panic!("one answer for each write: {answers:?}");
        };
        assert_eq!(*outcome, accepted(holds));
        let told = |event: &Event| matches!(event, Event::Durable { last } if last.0 == holds);
        assert_eq!(net.count(2, told), 1);
        // The same report once more is none.
        net.step(2, Input::Durable { write: *write });
        assert!(net.wire.is_empty());
        assert_eq!(net.count(2, told), 1);
    }
    assert_eq!(net.raft(2).applied(), net.raft(2).commit());
}

/// What is on its way to a peer is bounded in bytes, also when much comes at once.
#[test]
fn a_message_takes_what_room_is_left() {
    let mut net = Net::new(3, Modern);
    net.inflight_bytes_max = 500;
    for slot in 1..=3 {
        net.crash(slot);
        net.restart(slot);
    }
    net.elect(1);
    net.submit(1);
    let batch = |ids: std::ops::Range<u64>| {
        let proposals = ids.map(|id| Proposal { id: ProposalId(id), bytes: 100 }).collect();
        Input::Propose { proposals }
    };
    net.step(1, batch(100..103));
    assert_eq!(net.peer(1, 2).inflight_bytes, 300);
    net.step(1, batch(200..205));
    let peer = net.peer(1, 2);
    assert_eq!((peer.inflight_bytes, peer.next), (500, Index(8)));
    net.settle();
    assert_eq!(commit(&net, 1), 10);
}

/// The room for what is not committed is given back entry by entry, and one entry always fits.
#[test]
fn room_comes_back_entry_by_entry() {
    let mut net = Net::new(3, Modern);
    net.uncommitted_bytes_max = 1000;
    net.message_bytes_max = 100;
    for slot in 1..=3 {
        net.crash(slot);
        net.restart(slot);
    }
    net.elect(1);
    let payloads: Vec<u64> = (0..10).map(|_| net.propose(1)).collect();
    assert_eq!(net.nodes[&node(1)].refused, []);
    // The first two are committed: there is room for two more.
    let appends = net.take_wire(|envelope| envelope.to == node(2));
    for packet in appends.into_iter().take(2) {
        net.deliver(packet);
        net.settle_only(|envelope| envelope.from == node(2));
    }
    assert_eq!(net.applied(1), payloads[..2]);
    let writes = net.raft(1).last();
    net.slow(1, true);
    let more: Vec<u64> = (0..4).map(|_| net.propose(1)).collect();
    let refused: Vec<u64> = net.nodes[&node(1)].refused.iter().map(|(id, _)| *id).collect();
    assert_eq!(refused, more[2..]);
    assert_eq!(net.raft(1).last().index.0, writes.index.0 + 2);
    assert_eq!(net.pending_writes(1).len(), 2, "what is refused is not written");
    // One that is larger than all the room there is.
    let mut net = Net::new(3, Modern);
    net.uncommitted_bytes_max = 50;
    for slot in 1..=3 {
        net.crash(slot);
        net.restart(slot);
    }
    net.elect(1);
    let large = net.submit(1);
    assert_eq!(net.applied(1), [large]);
}

/// What waits for the disk to be said of entries that were cut meanwhile is not said: the disk never
/// gets them.
#[test]
fn an_acknowledgement_of_what_was_cut_before_it_was_durable_is_not_sent() {
    let mut net = Net::new(5, Modern);
    net.elect(1);
    net.submit(1);
    net.slow(2, true);
    net.propose(1);
    net.settle_only(|envelope| envelope.to == node(2));
    assert_eq!(net.terms(2), net.terms(1), "in memory");
    net.cut_off(&[1]);
    net.take_wire(|_| true);
    net.elect(3);
    net.submit(3);
    assert_eq!(net.terms(2), net.terms(3), "cut, and the new leader's appended");
    assert!(!net.pending_writes(2).is_empty());
    net.take_wire(|_| true);
    net.sync(2);
    let accepts = |packet: &Packet| {
        let Message::AppendReply { outcome: AppendOutcome::Accepted { last }, .. } =
            packet.envelope.message
        else {
            return None;
        };
        Some((packet.envelope.to, last))
    };
    let said: Vec<_> = net.wire.iter().filter_map(accepts).collect();
    assert!(said.iter().all(|(to, _)| *to == node(3)), "{said:?}");
    assert!(!said.is_empty(), "what the new leader sent is acknowledged");
}
