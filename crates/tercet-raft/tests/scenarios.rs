//! The situations of the Raft paper and what lies beyond, by hand: each delivers just the messages
//! that it is about. The invariants are checked after every step.
//!
//! Logs are written as the terms of their entries. In the modern profile a leader's first entry is
//! its no-op.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at one event out of many")]

mod support;

use std::time::Duration;

use support::{Net, accepted, node};
use tercet_raft::{
    ConflictHint, DenyReason, DropReason, Envelope, Event, Incarnation, Index, Input, LogPos,
    Message, NodeId, Profile, ProgressKind, Refusal, RoleKind, Rules, Term, TransferError,
};

use Profile::{Modern, Paper};

fn role(net: &Net, slot: u8) -> (RoleKind, u64) {
    (net.raft(slot).role(), net.raft(slot).term().0)
}

fn commit(net: &Net, slot: u8) -> u64 {
    net.raft(slot).commit().0
}

fn voted_for(net: &Net, slot: u8) -> Option<u8> {
    net.raft(slot).status().hard_state.vote.map(NodeId::slot)
}

/// Why `voter` denied its votes, in order.
fn denials(net: &Net, voter: u8) -> Vec<DenyReason> {
    let reason = |event: &Event| match event {
        Event::VoteDenied { reason, .. } => Some(*reason),
        _ => None,
    };
    net.nodes[&node(voter)].events.iter().filter_map(reason).collect()
}

fn assert_logs(net: &Net, slots: &[u8], expected: &[u64]) {
    for slot in slots {
        assert_eq!(net.terms(*slot), expected, "the log of n{slot}");
    }
}

// --- elections ---

/// §5.2: one timer fires, two votes, one leader; heartbeats keep it.
#[test]
fn an_election() {
    for profile in [Paper, Modern] {
        let mut net = Net::new(3, profile);
        net.elect(3);
        assert_eq!(role(&net, 3), (RoleKind::Leader, 1));
        for slot in [1, 2] {
            assert_eq!(role(&net, slot), (RoleKind::Follower, 1));
            assert_eq!(voted_for(&net, slot), Some(3));
            assert_eq!(net.raft(slot).leader(), Some(node(3)));
        }
        net.clear_events();
        net.run_ms(3000);
        assert_eq!(role(&net, 3), (RoleKind::Leader, 1), "ten election timeouts later");
        for slot in 1..=3 {
            assert_eq!(net.count(slot, |event| event.kind() == "vote_asked"), 0);
        }
    }
}

/// Randomised timers alone find a leader (§5.2), with three, five and seven nodes.
#[test]
fn timers_elect_a_leader() {
    for (count, profile) in [(3, Paper), (3, Modern), (5, Modern), (7, Modern)] {
        let mut net = Net::new(count, profile);
        net.run_ms(2000);
        let leader = net.leader().expect("somebody leads");
        for slot in 1..=count {
            assert_eq!(net.raft(slot).leader(), Some(node(leader)), "n{slot} of {count}");
        }
    }
}

/// A cluster of one needs nobody.
#[test]
fn a_single_node_leads_and_commits_alone() {
    let mut net = Net::new(1, Modern);
    net.run_ms(400);
    assert_eq!(role(&net, 1).0, RoleKind::Leader);
    let payload = net.submit(1);
    assert_eq!(net.applied(1), [payload]);
    net.barrier(1, 9);
    assert_eq!(net.nodes[&node(1)].barriers, [(9, Some(Index(2)))]);
}

/// §5.2: two candidates of the same term get one vote each; a later term decides.
#[test]
fn a_split_vote() {
    let mut net = Net::new(3, Paper);
    net.crash(3);
    for slot in [1, 2] {
        net.step(slot, Input::Campaign);
    }
    net.settle();
    assert_eq!(net.leader(), None);
    for slot in [1, 2] {
        assert_eq!(role(&net, slot), (RoleKind::Candidate, 1));
        assert_eq!(voted_for(&net, slot), Some(slot));
        let other = node(3 - slot);
        assert_eq!(
            denials(&net, slot),
            [DenyReason::AlreadyVoted { to: node(slot) }],
            "to {other}"
        );
    }
    net.elect(1);
    assert_eq!(role(&net, 1), (RoleKind::Leader, 2));
}

/// §5.4.1: the log with the later last term wins over the longer one; the refusal says why.
#[test]
fn the_best_log_wins_not_the_longest() {
    let mut net = Net::new(3, Paper);
    net.given(1, 2, &[1, 1, 1, 1]);
    net.given(2, 2, &[1, 2]);
    net.given(3, 2, &[1, 2]);
    net.elect(1);
    assert_eq!(net.leader(), None);
    for slot in [2, 3] {
        let reason = DenyReason::OldLog { voter_last: LogPos::new(2, 2) };
        assert_eq!(denials(&net, slot), [reason]);
        assert!(reason.to_string().contains("up-to-date"), "{reason}");
    }
    net.elect(2);
    assert_eq!(role(&net, 2), (RoleKind::Leader, 4));
    net.submit(2);
    net.beat(2);
    assert_logs(&net, &[1, 2, 3], &[1, 2, 4]);
    assert_eq!(net.refusals(1), 1);
    assert_eq!((1..=3).map(|slot| commit(&net, slot)).collect::<Vec<_>>(), [3, 3, 3]);
}

/// Figure 2, "persistent state": a vote survives a restart, and no second one is given.
#[test]
fn a_vote_outlives_a_crash() {
    let mut net = Net::new(3, Paper);
    net.cut_off(&[3]);
    net.elect(1);
    assert_eq!(voted_for(&net, 2), Some(1));
    net.crash(2);
    net.restart(2);
    net.crash(1);
    net.heal();
    net.elect(3);
    assert_eq!(role(&net, 3), (RoleKind::Candidate, 1), "n2 voted for n1 in term 1");
    assert_eq!(denials(&net, 2), [DenyReason::AlreadyVoted { to: node(1) }]);
}

/// A vote is spoken only when it is on disk: a crash in between takes back nothing that was said.
#[test]
fn a_vote_waits_for_its_disk() {
    let mut net = Net::new(3, Paper);
    net.nodes.get_mut(&node(2)).unwrap().slow_disk = true;
    net.crash(3);
    net.elect(1);
    assert_eq!(role(&net, 1).0, RoleKind::Candidate);
    assert!(!net.pending_writes(2).is_empty(), "the vote is on its way to the disk");
    net.crash(2);
    net.restart(2);
    assert_eq!(voted_for(&net, 2), None, "nobody heard of the vote that was lost");
    net.nodes.get_mut(&node(2)).unwrap().slow_disk = false;
    net.elect(1);
    assert_eq!(role(&net, 1).0, RoleKind::Leader);
}

// --- replication and repair ---

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
    assert_ne!(net.leader(), Some(5));
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
    for (profile, expected) in [(Paper, 51), (Modern, 2)] {
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
        assert!(net.refusals(3) < expected, "{profile:?}: {} refusals", net.refusals(3));
        assert!(net.refusals(3) + 2 >= expected, "{profile:?}: {} refusals", net.refusals(3));
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

// --- messages that are lost, late, or twice there ---

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

// --- old leaders, terms, stickiness ---

/// "Neutralizing old leaders": one that was cut off cannot commit, and steps down at the first
/// message of a later term; its entry gives way.
#[test]
fn a_zombie_leader() {
    let mut net = Net::new(3, Paper);
    net.elect(1);
    let a = net.submit(1);
    net.beat(1);
    net.cut_off(&[1]);
    net.elect(2);
    assert_eq!((role(&net, 1), role(&net, 2)), ((RoleKind::Leader, 1), (RoleKind::Leader, 2)));
    let b = net.submit(2);
    net.submit(1);
    assert_eq!(commit(&net, 1), 1, "a leader alone commits nothing");
    net.heal();
    net.clear_events();
    net.beat(1);
    assert_eq!(role(&net, 1), (RoleKind::Follower, 2));
    for _ in 0..3 {
        net.beat(2);
    }
    assert_logs(&net, &[1, 2, 3], &[1, 2]);
    assert_eq!(net.applied(1), [a, b]);
    assert_eq!(net.refusals(1), 0);
}

/// Check-quorum (thesis §6.2): a leader that hears from no majority steps down by itself; with the
/// rule broken it leads its clients on for ever.
#[test]
fn a_leader_without_a_majority_steps_down() {
    for no_check_quorum in [false, true] {
        let rules = Rules { no_check_quorum, ..Rules::default() };
        let mut net = Net::with_rules(3, Modern, rules);
        net.elect(1);
        net.cut_off(&[1]);
        net.run_ms(1000);
        let still = net.raft(1).role() == RoleKind::Leader;
        assert_eq!(still, no_check_quorum);
        let told = net.count(1, |event| event.kind() == "quorum_lost");
        assert_eq!(told, usize::from(!no_check_quorum));
    }
}

/// Thesis §9.6: a node that was cut off comes back with a higher term and unseats a leader that
/// had done nothing wrong; pre-vote prevents that.
#[test]
fn term_inflation() {
    for profile in [Paper, Modern] {
        let mut net = Net::new(3, profile);
        net.elect(1);
        net.submit(1);
        net.cut_off(&[3]);
        net.run_ms(2000);
        net.submit(1);
        let (leader_before, term_before) = (net.leader(), net.raft(1).term());
        assert_eq!(leader_before, Some(1));
        let inflated = net.raft(3).term() > term_before;
        assert_eq!(inflated, profile == Paper, "{profile:?}");
        net.heal();
        net.run_ms(2000);
        let kept = net.leader() == Some(1) && net.raft(1).term() == term_before;
        assert_eq!(kept, profile == Modern, "{profile:?}");
        assert_eq!(net.applied(3).len(), 2, "{profile:?}: it caught up");
    }
}

/// Thesis §4.2.3: while a leader is heard from, nobody's campaign unseats it.
#[test]
fn leader_stickiness() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.beat(1);
    net.clear_events();
    let term = net.raft(1).term();
    // n3 cannot hear n1, and asks n2, which can.
    net.cut.insert((node(1), node(3)));
    net.cut.insert((node(3), node(1)));
    net.run_ms(1000);
    assert_eq!((net.leader(), net.raft(1).term()), (Some(1), term));
    let denied = |event: &Event| matches!(event, Event::PreVoteDenied { reason: DenyReason::LeaderAlive { leader }, .. } if *leader == node(1));
    assert!(net.count(2, denied) > 0, "n2 says why it refused");
}

// --- reads ---

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

// --- handing over ---

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

// --- limits ---

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
    assert!(under_way <= 5, "{under_way} entries of 100 bytes are on their way to n2");
    net.run_ms(200);
    assert_eq!(net.applied(2), payloads[..10]);
    let later = net.submit(1);
    assert_eq!(net.applied(1).last(), Some(&later), "there is room again");
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
    net.nodes.get_mut(&node(1)).unwrap().slow_disk = true;
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

// --- lost memories (docs/rejoin.md) ---

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
