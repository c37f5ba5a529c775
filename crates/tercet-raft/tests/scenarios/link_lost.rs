//! The connection to the leader closes: an early question, and nothing but a question
//! (docs/protocol.md, "An early question").

use std::time::Duration;

use tercet_raft::Profile::{Modern, Paper};
use tercet_raft::{DenyReason, Event, Input, LogPos, Message, Profile, RoleKind, Rules};

use crate::support::{Net, node};
use crate::{commit, role};

/// The shortest election timeout.
const MIN_MS: u64 = 150;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn lose(net: &mut Net, slot: u8, peer: u8) {
    net.step(slot, Input::LinkLost { peer: node(peer) });
}

/// A cluster led by n1 of which everybody has just heard.
fn led(count: u8, profile: Profile) -> Net {
    let mut net = Net::new(count, profile);
    net.elect(1);
    net.submit(1);
    net.beat(1);
    net.clear_events();
    net
}

/// The leader's process dies, and with it its connections.
fn die(net: &mut Net, leader: u8) {
    net.crash(leader);
    let others: Vec<u8> = net.nodes.keys().map(|id| id.slot()).filter(|s| *s != leader).collect();
    for slot in others {
        if net.is_up(slot) {
            lose(net, slot, leader);
        }
    }
}

fn asked(net: &Net, slot: u8) -> usize {
    net.count(slot, |event| matches!(event, Event::PreVoteAsked { .. }))
}

/// When the one timer of a node that does not lead is due.
fn due_in(net: &Net, slot: u8) -> Duration {
    net.raft(slot).poll_timeout().unwrap().since(net.now)
}

/// A leader whose process dies is replaced in a small part of an election timeout, by the first in
/// turn, with one question and one election.
#[test]
fn a_dead_leader_is_replaced_at_once() {
    for count in [3, 5, 7] {
        let mut net = led(count, Modern);
        let term = net.raft(1).term().0;
        die(&mut net, 1);
        net.run_ms(MIN_MS / 10);
        assert_eq!(role(&net, 2), (RoleKind::Leader, term + 1), "of {count}");
        for slot in 3..=count {
            assert_eq!(net.raft(slot).leader(), Some(node(2)), "n{slot} of {count}");
            assert_eq!(asked(&net, slot), 0, "n{slot} of {count}: it granted, so it waited");
        }
        net.submit(2);
        let timeouts = net.count(2, |event| matches!(event, Event::ElectionTimeout { .. }));
        assert_eq!(timeouts, 0, "no timer fired");
        let lost = Event::LeaderLost { leader: node(1), term: tercet_raft::Term(term) };
        assert_eq!(net.count(2, |event| *event == lost), 1);
    }
}

/// Who comes first in turn may be down, or have the older log (§5.4.1): the next one asks.
#[test]
fn the_next_in_turn_asks_when_the_first_cannot_win() {
    let mut net = led(5, Modern);
    net.crash(2);
    die(&mut net, 1);
    net.run_ms(MIN_MS / 5);
    assert_eq!(net.leader(), Some(3));

    let mut net = led(3, Modern);
    net.cut_off(&[2]);
    net.submit(1);
    net.heal();
    die(&mut net, 1);
    net.run_ms(MIN_MS / 5);
    assert_eq!((net.leader(), asked(&net, 2)), (Some(3), 1));
    let refused = net.nodes[&node(2)].events.iter().find_map(|event| match event {
        Event::VoteRefused { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(refused, Some(DenyReason::OldLog { voter_last: LogPos::new(1, 3) }));
}

/// A leader that lives is not unseated because one follower lost its connection: the others hear
/// it and say no, no term rises, and the follower follows again.
#[test]
fn a_leader_that_the_others_hear_stays() {
    for count in [3, 5, 7] {
        let mut net = led(count, Modern);
        let was = role(&net, 1);
        net.now = net.now.after(ms(20));
        lose(&mut net, 2, 1);
        net.run_ms(20);
        assert_eq!((asked(&net, 2), role(&net, 2)), (1, (RoleKind::PreCandidate, was.1)));
        for slot in 3..=count {
            let denied = |event: &Event| {
                let alive = DenyReason::LeaderAlive { leader: node(1) };
                matches!(event, Event::PreVoteDenied { reason, .. } if *reason == alive)
            };
            assert_eq!(net.count(slot, denied), 1, "n{slot} of {count}");
        }
        net.run_ms(1000);
        assert_eq!(role(&net, 1), was);
        assert_eq!((role(&net, 2), asked(&net, 2)), ((RoleKind::Follower, was.1), 1));
    }
}

/// Less than a majority that lost its connections wins nothing either.
#[test]
fn a_minority_that_lost_the_leader_unseats_nobody() {
    let mut net = led(5, Modern);
    let was = role(&net, 1);
    for _ in 0..20 {
        lose(&mut net, 2, 1);
        lose(&mut net, 3, 1);
        net.run_ms(47);
        assert_eq!(role(&net, 1), was);
        assert!((2..=5).all(|slot| net.raft(slot).term().0 == was.1));
    }
}

/// Its followers have closed on a leader that is not dead, all of them: for them it is gone, and they
/// agree on another. It learns that from its term; what it had acknowledged is kept.
#[test]
fn a_leader_that_a_majority_lost_is_replaced() {
    let mut net = led(3, Modern);
    let before = commit(&net, 1);
    lose(&mut net, 2, 1);
    lose(&mut net, 3, 1);
    net.run_ms(20);
    assert_eq!((net.leader(), role(&net, 1).0), (Some(2), RoleKind::Follower));
    net.submit(2);
    net.beat(2);
    assert!(commit(&net, 1) > before);
    assert_eq!(net.applied(1), net.applied(3));
}

/// A link that comes and goes asks at most once in the shortest election timeout, and raises no term.
#[test]
fn a_flapping_link_is_no_storm() {
    let mut net = led(3, Modern);
    let was = role(&net, 1);
    // Down again and again, with a word of the leader in between.
    let begun = net.now;
    for _ in 0..300 {
        lose(&mut net, 2, 1);
        net.run_ms(10);
        net.beat(1);
    }
    assert_eq!(role(&net, 1), was);
    let max = net.now.since(begun).as_millis() / u128::from(MIN_MS) + 1;
    assert!((2..=max).contains(&(asked(&net, 2) as u128)), "{} questions", asked(&net, 2));
    for slot in 1..=3 {
        assert_eq!(net.raft(slot).term().0, was.1, "n{slot}");
        assert_eq!(net.count(slot, |event| event.kind() == "became_candidate"), 0);
    }
    // Without a word in between it is one question, however often the link is lost.
    net.clear_events();
    net.run_ms(MIN_MS);
    net.cut_off(&[2]);
    for _ in 0..14 {
        lose(&mut net, 2, 1);
        net.run_ms(10);
    }
    assert_eq!(asked(&net, 2), 1);
}

/// Who hears from the leader in time does not ask, and is as sticky as before.
#[test]
fn a_word_of_the_leader_takes_the_hint_back() {
    let mut net = led(3, Modern);
    let was = role(&net, 1);
    lose(&mut net, 3, 1);
    lose(&mut net, 2, 1);
    assert!(due_in(&net, 2) < due_in(&net, 3), "one after the other");
    net.beat(1);
    for slot in [2, 3] {
        assert!(due_in(&net, slot) >= ms(MIN_MS));
        assert_eq!(asked(&net, slot), 0);
    }
    net.step(3, Input::Campaign);
    net.settle();
    assert_eq!(role(&net, 1), was);
    let denied = |event: &Event| event.kind() == "pre_vote_denied";
    assert_eq!((net.count(1, denied), net.count(2, denied)), (1, 1));
    // And the next loss counts again, since nobody asked for this one.
    net.beat(1);
    lose(&mut net, 2, 1);
    assert!(due_in(&net, 2) < ms(10));
}

/// A question that was answered with no is not asked again before the usual timers are due.
#[test]
fn who_was_refused_waits_for_its_timer() {
    let mut net = led(3, Modern);
    net.cut_off(&[2]);
    lose(&mut net, 2, 1);
    net.now = net.now.after(due_in(&net, 2));
    net.step(2, Input::Timeout);
    net.settle();
    assert_eq!(role(&net, 2).0, RoleKind::PreCandidate);
    assert!((ms(150)..=ms(300)).contains(&due_in(&net, 2)), "{:?}", due_in(&net, 2));
    lose(&mut net, 2, 1);
    assert!(due_in(&net, 2) >= ms(150));
}

/// Who would vote for another keeps its own, usual timer: it neither asks next, nor begins anew.
#[test]
fn a_yes_to_another_takes_back_the_question_alone() {
    let mut net = led(3, Modern);
    let usual = net.raft(3).poll_timeout();
    net.crash(1);
    lose(&mut net, 3, 1);
    assert!(net.raft(3).poll_timeout() < usual);
    net.step(2, Input::Campaign);
    net.settle_only(|envelope| matches!(envelope.message, Message::PreVote { .. }));
    assert_eq!(net.raft(3).poll_timeout(), usual);
}

/// No question where timers stand still, in Figure 2's Raft, or without pre-votes: there it would be
/// an election.
#[test]
fn where_there_is_no_early_question() {
    let mut net = led(3, Modern);
    net.step(2, Input::FreezeElectionTimer { frozen: true });
    lose(&mut net, 2, 1);
    assert_eq!(net.raft(2).poll_timeout(), None);
    net.step(2, Input::FreezeElectionTimer { frozen: false });
    assert!(due_in(&net, 2) >= ms(MIN_MS), "what was hinted at then is over");
    // Frozen between the hint and the question.
    let mut net = led(3, Modern);
    lose(&mut net, 2, 1);
    net.step(2, Input::FreezeElectionTimer { frozen: true });
    net.run_ms(100);
    assert_eq!(asked(&net, 2), 0);

    let without = Rules { no_pre_vote: true, ..Rules::default() };
    for (profile, rules) in [(Paper, Rules::default()), (Modern, without)] {
        let mut net = Net::with_rules(3, profile, rules);
        net.elect(1);
        net.beat(1);
        let usual = net.raft(2).poll_timeout();
        lose(&mut net, 2, 1);
        assert_eq!(net.raft(2).poll_timeout(), usual, "{profile:?}");
    }
}

/// Nor of a node that is mute, or whose log is too short for anybody's vote, or that lost somebody
/// else than its leader.
#[test]
fn who_does_not_ask_early() {
    let mut net = led(3, Modern);
    let usual = net.raft(2).poll_timeout();
    lose(&mut net, 2, 3);
    assert_eq!(net.raft(2).poll_timeout(), usual, "n3 does not lead");

    net.wipe(2);
    net.cut_off(&[1]);
    assert_eq!(role(&net, 2).0, RoleKind::Quarantined);
    let usual = net.raft(2).poll_timeout();
    lose(&mut net, 2, 1);
    assert_eq!(net.raft(2).poll_timeout(), usual, "it is mute");

    let mut net = Net::new(3, Modern);
    net.floor = LogPos::new(1, 3);
    for slot in [1, 3] {
        net.given(slot, 1, &[1, 1, 1]);
    }
    net.given(2, 1, &[1, 1]);
    net.step(1, Input::Campaign);
    net.settle_only(|envelope| !matches!(envelope.message, Message::Append { .. }));
    assert_eq!(net.raft(2).leader(), Some(node(1)));
    assert!(net.raft(2).last() < net.floor);
    let usual = net.raft(2).poll_timeout();
    lose(&mut net, 2, 1);
    assert_eq!(net.raft(2).poll_timeout(), usual, "nobody would vote for it");
}
