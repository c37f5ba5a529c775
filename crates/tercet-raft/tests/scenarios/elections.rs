//! Who leads (§5.2, §5.4.1), and who may unseat a leader (thesis §4.2.3, §6.2, §9.6).

use std::time::Duration;

use tercet_raft::Profile::{Modern, Paper};
use tercet_raft::{
    DenyReason, Envelope, Event, Incarnation, Index, Input, LogPos, Message, Refusal, RoleKind,
    Rules, Term, WriteId,
};

use crate::support::{Net, node};
use crate::{assert_logs, commit, denials, role, voted_for};

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
        for slot in 1..=3 {
            let terms = net.nodes[&node(slot)].events.iter().filter_map(|event| match event {
                Event::TermChanged { from, to } => Some((from.0, to.0)),
                _ => None,
            });
            assert_eq!(terms.collect::<Vec<_>>(), [(0, 1)], "n{slot} of {profile:?}");
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
    for (profile, no_op) in [(Paper, 0), (Modern, 1)] {
        let mut net = Net::new(1, profile);
        net.run_ms(400);
        assert_eq!(role(&net, 1).0, RoleKind::Leader);
        let payload = net.submit(1);
        assert_eq!(net.applied(1), [payload]);
        net.barrier(1, 9);
        assert_eq!(net.nodes[&node(1)].barriers, [(9, Some(Index(1 + no_op)))], "{profile:?}");
    }
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

/// §5.4.1 switched off: a candidate without a committed entry wins, and the checks must find it.
#[test]
fn without_the_up_to_date_rule_a_committed_entry_is_lost() {
    for ignore_log_in_votes in [false, true] {
        let rules = Rules { ignore_log_in_votes, ..Rules::default() };
        let mut net = Net::with_rules(3, Paper, rules);
        net.violations_allowed = ignore_log_in_votes;
        net.elect(1);
        net.cut_off(&[3]);
        let a = net.submit(1);
        net.beat(1);
        assert_eq!(net.applied(2), [a]);
        net.crash(1);
        net.heal();
        net.elect(3);
        net.elect(3);
        assert_eq!(net.leader(), ignore_log_in_votes.then_some(3));
        if ignore_log_in_votes {
            net.submit(3);
        }
        assert_eq!(net.violated, ignore_log_in_votes);
    }
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
/// With the rule broken the same vote is given twice, and a term has two leaders.
#[test]
fn a_vote_waits_for_its_disk() {
    for speak_before_durable in [false, true] {
        let rules = Rules { speak_before_durable, ..Rules::default() };
        let mut net = Net::with_rules(3, Paper, rules);
        net.violations_allowed = speak_before_durable;
        net.node_mut(2).slow_disk = true;
        net.cut_off(&[3]);
        net.elect(1);
        assert_eq!(net.leader(), speak_before_durable.then_some(1));
        assert!(!net.pending_writes(2).is_empty(), "the vote is on its way to the disk");
        net.crash(2);
        net.restart(2);
        assert_eq!(voted_for(&net, 2), None, "the disk never had it");
        net.node_mut(2).slow_disk = false;
        net.cut_off(&[1]);
        net.cut.remove(&(node(2), node(3)));
        net.cut.remove(&(node(3), node(2)));
        net.elect(3);
        assert_eq!(role(&net, 3), (RoleKind::Leader, 1), "nobody else heard of that vote");
        assert_eq!(net.violated, speak_before_durable, "two leaders in term 1");
    }
}

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

/// The same in the modern profile: the cut-off leader takes a proposal, learns by itself that it
/// leads nobody, and says later that the entry was cut. Nobody was told that it was committed.
#[test]
fn a_zombie_leader_notices_by_itself() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let a = net.submit(1);
    net.cut_off(&[1]);
    let lost = [net.submit(1), net.submit(1)];
    assert_eq!(net.payloads(1)[2..], lost);
    net.run_ms(1500);
    assert_eq!(net.count(1, |event| event.kind() == "quorum_lost"), 1);
    assert_ne!(net.raft(1).role(), RoleKind::Leader);
    assert_eq!(net.raft(1).leader(), None);
    let late = net.submit(1);
    let refused = (late, Refusal::NotLeader { leader: None });
    assert_eq!(net.nodes[&node(1)].refused, [refused], "it sends clients away");
    let leader = net.leader().expect("n2 and n3 are a majority");
    let b = net.submit(leader);
    net.heal();
    net.run_ms(1000);
    let cut = |event: &Event| matches!(event, Event::Truncated { from: Index(3), to: Index(4) });
    assert_eq!(net.count(1, cut), 1, "what is lost is named");
    assert!((1..=3).all(|slot| net.applied(slot) == [a, b]));
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
/// had done nothing wrong; pre-vote prevents that, and without it nothing else does.
#[test]
fn term_inflation() {
    let no_pre_vote = Rules { no_pre_vote: true, ..Rules::default() };
    let cases = [
        (Paper, Rules::default(), true),
        (Modern, Rules::default(), false),
        (Modern, no_pre_vote, true),
    ];
    for (profile, rules, inflates) in cases {
        let mut net = Net::with_rules(3, profile, rules);
        net.elect(1);
        net.submit(1);
        net.cut_off(&[3]);
        net.run_ms(2000);
        let late = net.submit(1);
        let term = net.raft(1).term();
        assert_eq!(net.leader(), Some(1));
        assert_eq!(net.raft(3).term() > term, inflates, "{profile:?} {rules:?}");
        net.heal();
        net.run_ms(2000);
        assert!(net.leader().is_some());
        assert_eq!(net.raft(1).term() > term, inflates, "{profile:?} {rules:?}");
        let led =
            net.count(1, |event| matches!(event, Event::Role { role: RoleKind::Follower, .. }));
        assert_eq!(led, usize::from(inflates), "{profile:?} {rules:?}: n1 was deposed");
        assert_eq!(net.applied(3).last(), Some(&late), "{profile:?} {rules:?}: it caught up");
    }
}

/// With pre-vote, two that ask in the same moment do not split the votes: of equal logs that of the
/// lower number goes first, as soon as the two hear of each other.
#[test]
fn rivals_do_not_split_the_votes() {
    for (count, crashed, rivals) in [(3, 3, [1, 2]), (3, 1, [2, 3]), (5, 5, [2, 4])] {
        for lost in [false, true] {
            let mut net = Net::new(count, Modern);
            net.elect(crashed);
            net.beat(crashed);
            let term = net.raft(rivals[0]).term();
            net.crash(crashed);
            net.run_ms(149);
            net.now = net.now.after(Duration::from_millis(1));
            let (first, second) = (node(rivals[0]), node(rivals[1]));
            if lost {
                // The question of the first does not arrive: it is asked again when it hears the other.
                net.cut.insert((first, second));
            }
            net.step(rivals[0], Input::Campaign);
            if lost {
                net.settle();
                net.cut.clear();
            }
            net.step(rivals[1], Input::Campaign);
            net.settle();
            assert_eq!(net.leader(), Some(rivals[0]), "of {count}, lost: {lost}");
            assert_eq!(
                net.raft(rivals[0]).term(),
                term.next(),
                "in the first term that was asked for"
            );
        }
    }
}

/// A rival with the longer log goes first, whatever its number.
#[test]
fn of_two_rivals_the_longer_log_goes_first() {
    let mut net = Net::new(3, Modern);
    net.elect(3);
    net.cut.insert((node(3), node(1)));
    net.submit(3);
    net.crash(3);
    net.heal();
    assert!(net.raft(2).last() > net.raft(1).last());
    net.run_ms(149);
    net.now = net.now.after(Duration::from_millis(1));
    net.step(1, Input::Campaign);
    net.step(2, Input::Campaign);
    net.settle();
    assert_eq!(net.leader(), Some(2));
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

/// The same against a real request for votes: it is refused and its term ignored, by the leader and
/// by who hears it, unless the leader itself asked for it, or has not been heard from for long.
#[test]
fn leader_stickiness_ignores_higher_terms() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.beat(1);
    let last = net.raft(3).last();
    let ask = |to: u8, transfer: bool| {
        Input::Receive(Envelope {
            from: node(3),
            from_incarnation: Incarnation(3),
            to: node(to),
            to_incarnation: None,
            term: Term(9),
            message: Message::Vote { last, transfer },
        })
    };
    for slot in [1, 2] {
        net.step(slot, ask(slot, false));
        assert_eq!(net.raft(slot).term(), Term(1), "n{slot} does not take the term over");
        assert_eq!(denials(&net, slot), [DenyReason::LeaderAlive { leader: node(1) }]);
    }
    net.step(2, ask(2, true));
    assert_eq!((net.raft(2).term(), voted_for(&net, 2)), (Term(9), Some(3)));

    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.beat(1);
    net.now = net.now.after(Duration::from_millis(149));
    net.step(2, ask(2, false));
    assert_eq!((net.raft(2).term(), voted_for(&net, 2)), (Term(1), Some(1)), "n1 was heard");
    net.now = net.now.after(Duration::from_millis(1));
    net.step(2, ask(2, false));
    assert_eq!((net.raft(2).term(), voted_for(&net, 2)), (Term(9), Some(3)), "n1 is silent");

    // Figure 2 has no such rule; and without the check for a majority it would keep a leader that
    // leads nobody.
    let no_check_quorum = Rules { no_check_quorum: true, ..Rules::default() };
    for (profile, rules) in [(Paper, Rules::default()), (Modern, no_check_quorum)] {
        let mut net = Net::with_rules(3, profile, rules);
        net.elect(1);
        net.beat(1);
        let last = net.raft(2).last();
        net.step(2, ask(2, false));
        assert_eq!((net.raft(2).term(), voted_for(&net, 2)), (Term(9), Some(3)), "{last}");
    }

    // In the leader's own term it is the vote that decides.
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.clear_events();
    let Input::Receive(mut envelope) = ask(2, false) else { unreachable!() };
    envelope.term = Term(1);
    net.step(2, Input::Receive(envelope));
    assert_eq!(denials(&net, 2), [DenyReason::AlreadyVoted { to: node(1) }]);
}

/// A leader that cannot write would keep the others from electing one that can: it steps down, and
/// does not campaign before its disk is back.
#[test]
fn a_leader_whose_disk_stalls_steps_down() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let before = net.submit(1);
    net.node_mut(1).slow_disk = true;
    net.clear_events();
    let during = net.submit(1);
    net.run_ms(50);
    assert_eq!(net.applied(2), [before, during], "the others commit without it");
    assert_eq!(net.applied(1), [before]);
    net.run_ms(2000);
    assert_eq!(net.count(1, |event| event.kind() == "disk_stalled"), 1);
    assert_eq!(net.count(1, |event| event.kind() == "pre_vote_asked"), 0, "not even a question");
    let leader = net.leader().expect("one of the others leads");
    assert_ne!(leader, 1);
    let after = net.submit(leader);
    net.node_mut(1).slow_disk = false;
    net.sync(1);
    net.run_ms(500);
    for slot in 1..=3 {
        assert_eq!(net.applied(slot), [before, during, after], "n{slot}");
    }
    // Figure 2 knows nothing of disks.
    let mut net = Net::new(3, Paper);
    net.elect(1);
    net.node_mut(1).slow_disk = true;
    net.submit(1);
    net.run_ms(2000);
    assert_eq!(role(&net, 1).0, RoleKind::Leader);
}

/// A node whose disk is stuck could not even vote for itself: it does not disturb the others, and
/// tries again when its disk is back. By the paper it campaigns all the same.
#[test]
fn a_node_whose_disk_stalls_does_not_campaign() {
    for (profile, asks) in [(Modern, false), (Paper, true)] {
        let mut net = Net::new(3, profile);
        net.elect(1);
        net.slow(2, true);
        net.submit(1);
        let campaigns = |net: &mut Net| {
            net.clear_events();
            net.step(2, Input::Campaign);
            let asked =
                net.count(2, |event| matches!(event.kind(), "pre_vote_asked" | "vote_asked"));
            assert!(net.raft(2).poll_timeout() > Some(net.now), "its timer runs anew");
            asked == 1
        };
        net.now = net.now.after(Duration::from_millis(299));
        assert!(campaigns(&mut net), "{profile:?}: a slow disk is not a stuck one");
        net.now = net.now.after(Duration::from_millis(1));
        assert_eq!(campaigns(&mut net), asks, "{profile:?}");
        net.sync(2);
        assert!(campaigns(&mut net), "{profile:?}: the disk is back");
    }
}

/// Thesis §9.6: a yes is an answer to one question. One to an earlier question does not help a node
/// to campaign in a later term.
#[test]
fn a_late_yes_to_a_pre_vote_does_not_count() {
    let mut net = Net::new(3, Modern);
    net.step(1, Input::Campaign);
    net.settle_only(|envelope| envelope.from == node(1));
    let late = net.take_wire(|_| true);
    assert_eq!(late.len(), 2);
    net.given(1, 1, &[]);
    net.step(1, Input::Campaign);
    net.wire.clear();
    for packet in late {
        net.deliver(packet);
    }
    assert_eq!(role(&net, 1), (RoleKind::PreCandidate, 1), "they spoke of term 1");
    net.step(1, Input::Campaign);
    net.settle();
    assert_eq!(role(&net, 1), (RoleKind::Leader, 2));
}

/// A candidate's own vote counts when it is durable, and not by the report of an earlier write.
#[test]
fn a_candidate_waits_for_its_own_vote() {
    let mut net = Net::new(1, Paper);
    net.slow(1, true);
    net.step(1, Input::Campaign);
    net.step(1, Input::Durable { write: WriteId(0) });
    assert_eq!(role(&net, 1), (RoleKind::Candidate, 1));
    assert!(!net.raft(1).is_synced());
    net.sync(1);
    assert_eq!(role(&net, 1), (RoleKind::Leader, 1));
    assert!(net.raft(1).is_synced());
    assert_eq!(net.raft(1).hard_state().vote, Some(node(1)));
    assert_eq!(net.raft(1).hard_state().term, Term(1));
}

/// Who leads is in touch; who hears a leader is, for an election timeout; who hears nobody is not.
#[test]
fn who_is_in_touch() {
    let in_touch = |net: &Net| [1, 2, 3].map(|slot| net.raft(slot).is_in_touch());
    let mut net = Net::new(3, Modern);
    assert_eq!(in_touch(&net), [false, false, false]);
    net.elect(1);
    assert_eq!(in_touch(&net), [true, true, true]);
    net.cut_off(&[3]);
    net.now = net.now.after(Duration::from_millis(300));
    net.step(3, Input::FreezeElectionTimer { frozen: true });
    assert!(net.raft(3).is_in_touch());
    net.now = net.now.after(Duration::from_millis(1));
    net.step(3, Input::FreezeElectionTimer { frozen: true });
    assert!(!net.raft(3).is_in_touch());
    // A leader needs to have heard nobody.
    let mut net = Net::new(1, Modern);
    net.elect(1);
    assert!(net.raft(1).is_in_touch());
}

/// Whom the leader asks to take over campaigns at once; but not who leads already, and not who
/// knows that nobody would vote for its log.
#[test]
fn who_is_asked_to_take_over() {
    let asked = |net: &mut Net, slot: u8| {
        let term = net.raft(slot).term();
        net.step(
            slot,
            Input::Receive(Envelope {
                from: node(3),
                from_incarnation: Incarnation(3),
                to: node(slot),
                to_incarnation: None,
                term,
                message: Message::TimeoutNow,
            }),
        );
        role(net, slot).0
    };
    let mut net = Net::new(3, Modern);
    assert_eq!(asked(&mut net, 1), RoleKind::Candidate);
    net.elect(1);
    assert_eq!(asked(&mut net, 1), RoleKind::Leader);
    net.floor = LogPos::new(1, 3);
    net.given(2, 2, &[1, 1]);
    assert_eq!(asked(&mut net, 2), RoleKind::Follower);
    net.given(2, 2, &[1, 1, 1]);
    assert_eq!(asked(&mut net, 2), RoleKind::Candidate);
}
