//! What went wrong elsewhere, and is in no other file here. docs/reliability.md, "Historical bugs",
//! names the test of each.

use std::time::Duration;

use tercet_raft::{Envelope, Incarnation, Index, Input, LogPos, Message, Profile, RoleKind, Term};

use crate::support::{Net, node};
use crate::{commit, role};
use Profile::{Modern, Paper};

/// A message of `from` to `to`, as a node says it that knows no other incarnations than the first.
fn says(from: u8, to: u8, term: u64, message: Message) -> Input {
    Input::Receive(Envelope {
        from: node(from),
        from_incarnation: Incarnation(u128::from(from)),
        to: node(to),
        to_incarnation: None,
        term: Term(term),
        message,
    })
}

/// hashicorp/raft #695: a thread of its own sent heartbeats, and took over a term that the loop did
/// not know of. Here a heartbeat is a step like any other: one that is due when the term changes is
/// sent in neither term.
#[test]
fn a_heartbeat_that_is_due_when_the_term_changes() {
    for profile in [Modern, Paper] {
        let mut net = Net::new(3, profile);
        net.elect(1);
        net.submit(1);
        let term = net.raft(1).term();
        // The heartbeat is due now, and so is news of a later term.
        net.now = net.raft(1).poll_timeout().unwrap();
        net.step(
            1,
            says(
                2,
                1,
                term.0 + 1,
                Message::AppendReply { round: 0, outcome: crate::support::accepted(1) },
            ),
        );
        net.step(1, Input::Timeout);
        assert_eq!(role(&net, 1), (RoleKind::Follower, term.0 + 1), "{profile:?}");
        let is_beat = |message: &Message| {
            matches!(message, Message::Heartbeat { .. } | Message::Append { .. })
        };
        let beats = net.wire.iter().filter(|packet| is_beat(&packet.envelope.message)).count();
        assert_eq!(beats, 0, "{profile:?}: who does not lead sends none");
    }
}

/// etcd #3504, #10254 (`tocommit out of range`): a leader says that more is committed than a
/// follower holds, because the follower lost what it had. It commits no more than it holds, and says
/// what it lacks.
#[test]
fn a_commit_index_behind_the_end_of_the_log() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let payloads: Vec<u64> = (0..3).map(|_| net.submit(1)).collect();
    net.beat(1);
    assert_eq!(commit(&net, 2), 4);
    // The tail of its log is gone, and nobody noticed when it started.
    net.crash(2);
    net.node_mut(2).disk.log.truncate(2);
    net.restart(2);
    let term = net.raft(1).term();
    net.step(2, says(1, 2, term.0, Message::Heartbeat { commit: Index(4), round: 9 }));
    assert!(commit(&net, 2) <= 2, "{}", commit(&net, 2));
    let prev = LogPos { term, index: Index(4) };
    let append = Message::Append { prev, entries: Vec::new(), commit: Index(4), round: 9 };
    net.step(2, says(1, 2, term.0, append));
    assert!(commit(&net, 2) <= 2, "{}", commit(&net, 2));
    net.run_ms(1_000);
    assert!(net.nodes[&node(2)].applied.len() <= 4, "it serves nothing that it does not hold");
    assert_eq!(net.applied(1), payloads, "and the others do not mind");
}

/// raft-engine #142: after a restart more was applied than committed. What is committed is not on
/// the disk: a node that starts applies nothing before a leader tells it.
#[test]
fn nothing_is_applied_before_it_is_known_to_be_committed() {
    for profile in [Modern, Paper] {
        let mut net = Net::new(3, profile);
        net.elect(1);
        let payload = net.submit(1);
        net.cut_off(&[1]);
        // Appended by the old leader alone, and durable there.
        net.propose(1);
        net.crash(1);
        for slot in [2, 3] {
            net.crash(slot);
            net.restart(slot);
        }
        net.restart(1);
        for slot in 1..=3 {
            let raft = net.raft(slot);
            assert_eq!((raft.commit(), raft.applied()), (Index(0), Index(0)), "n{slot}");
        }
        net.elect(2);
        let after = net.submit(2);
        net.heal();
        net.run_ms(2_000);
        for slot in 1..=3 {
            assert_eq!(net.applied(slot), [payload, after], "{profile:?}: n{slot}");
        }
    }
}

/// etcd #10355: a cluster in which every question is refused. Of two nodes one has the later term,
/// and the other the better log: each refuses the other, until the one with the log has heard of the
/// term.
#[test]
fn a_pre_vote_that_nobody_grants_ends() {
    for (terms, logs) in [
        ([9, 2], [&[1][..], &[1, 2][..]]),
        ([2, 9], [&[1, 2][..], &[1][..]]),
        ([9, 2], [&[1, 1, 1][..], &[1, 2][..]]),
        ([5, 5], [&[1][..], &[1, 2][..]]),
    ] {
        let mut net = Net::new(3, Modern);
        for (slot, (term, log)) in (1..).zip(terms.into_iter().zip(logs)) {
            net.given(slot, term, log);
        }
        net.crash(3);
        net.run_ms(3_000);
        let leader = net.leader().unwrap_or_else(|| panic!("{terms:?} {logs:?}: nobody leads"));
        let best = if logs[0].last() > logs[1].last() { 1 } else { 2 };
        assert_eq!(leader, best, "{terms:?} {logs:?}");
        let term = net.raft(leader).term().0;
        assert!((terms[0].max(terms[1])..=12).contains(&term), "{terms:?} {logs:?}: {term}");
        net.submit(leader);
        assert_eq!(commit(&net, leader), net.terms(leader).len() as u64);
    }
}

/// hashicorp/raft #696: a transfer that was interrupted left a cluster that refused every write.
/// Whatever message of a transfer is lost, whoever dies in it, and when: within a second or two
/// somebody takes writes, and all have them.
#[test]
fn a_transfer_may_be_interrupted_anywhere() {
    /// What interrupts it.
    #[derive(Clone, Copy, Debug)]
    enum What {
        Lost,
        LeaderDies,
        TargetDies,
        CutOff(u8),
    }
    let all = [What::Lost, What::LeaderDies, What::TargetDies, What::CutOff(1), What::CutOff(3)];
    for (what, lags) in all.into_iter().flat_map(|what| [(what, false), (what, true)]) {
        for at in 0..14 {
            let label = format!("{what:?} at message {at}, the target lags: {lags}");
            let mut net = Net::new(3, Modern);
            net.elect(1);
            net.submit(1);
            if lags {
                net.cut_off(&[3]);
                net.submit(1);
                net.heal();
            }
            net.step(1, Input::TransferLeadership { to: Some(node(3)) });
            net.propose(1);
            let mut count = 0;
            while let Some(packet) = net.wire.pop_front() {
                if count == at {
                    match what {
                        What::Lost => {
                            count += 1;
                            continue;
                        }
                        What::LeaderDies => net.crash(1),
                        What::TargetDies => net.crash(3),
                        What::CutOff(slot) => net.cut_off(&[slot]),
                    }
                }
                count += 1;
                net.deliver(packet);
            }
            // Meanwhile two of three are enough.
            net.run_ms(2_000);
            let leader = net.leader().unwrap_or_else(|| panic!("{label}: nobody leads"));
            let payload = net.submit(leader);
            assert_eq!(net.applied(leader).last(), Some(&payload), "{label}: refused");
            net.heal();
            for slot in [1, 3] {
                if !net.is_up(slot) {
                    net.restart(slot);
                }
            }
            net.run_ms(2_000);
            let leader = net.leader().unwrap_or_else(|| panic!("{label}: nobody leads"));
            let payload = net.submit(leader);
            net.run_ms(200);
            for slot in 1..=3 {
                assert_eq!(net.applied(slot).last(), Some(&payload), "{label}: n{slot}");
            }
        }
    }
}

/// openraft #1429: a candidate that could not win went on to term 3423, and nobody else led. One
/// that lacks entries, however high its term and however often it tries, holds up the others for one
/// election, and does not lead.
#[test]
fn a_candidate_that_cannot_win_holds_up_nobody() {
    for profile in [Modern, Paper] {
        let mut net = Net::new(3, profile);
        net.given(1, 7, &[1, 7]);
        net.given(2, 7, &[1, 7]);
        net.given(3, 3423, &[1]);
        net.step(3, Input::Campaign);
        net.run_ms(3_000);
        let leader = net.leader().unwrap_or_else(|| panic!("{profile:?}: nobody leads"));
        assert_ne!(leader, 3, "{profile:?}");
        let term = net.raft(leader).term();
        assert!((3424..3434).contains(&term.0), "{profile:?}: {term}");
        let payload = net.submit(leader);
        net.run_ms(200);
        for slot in 1..=3 {
            assert_eq!(net.applied(slot).last(), Some(&payload), "{profile:?}: n{slot}");
        }
    }
    // Alone for minutes it asks, and its term stays: back, it follows.
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.cut_off(&[3]);
    for _ in 0..60 {
        net.run(Duration::from_secs(5));
    }
    assert_eq!(net.raft(3).term(), net.raft(1).term(), "it only asks");
    net.heal();
    net.run_ms(1_000);
    assert_eq!((net.leader(), role(&net, 3)), (Some(1), (RoleKind::Follower, 1)));
}

/// hashicorp/raft #612: entries were pipelined to a follower whose disk stalled, and the pipeline
/// never went on. Stalled for longer than every timeout, again and again, with its link lost
/// meanwhile or not: it goes on where it was.
#[test]
fn a_pipeline_goes_on_after_each_stall() {
    for loses_link in [false, true] {
        let mut net = Net::new(3, Modern);
        net.inflight_bytes_max = 500;
        for slot in 1..=3 {
            net.crash(slot);
            net.restart(slot);
        }
        net.elect(1);
        let mut payloads = vec![net.submit(1)];
        for _ in 0..4 {
            net.slow(3, true);
            for _ in 0..20 {
                payloads.push(net.submit(1));
            }
            net.run_ms(2_000);
            if loses_link {
                net.step(1, Input::LinkLost { peer: node(3) });
                net.run_ms(1_000);
            }
            assert_eq!(net.leader(), Some(1), "a stalled follower unseats nobody");
            assert_eq!(net.applied(1), payloads, "nor does it hold the others up");
            net.slow(3, false);
            net.sync(3);
            net.run_ms(1_000);
            assert_eq!(net.applied(3), payloads, "its link was lost: {loses_link}");
        }
    }
}
