//! When things happen: heartbeats, the check for a majority, barriers that end, what waits how long.

use std::time::Duration;

use tercet_raft::Profile::{Modern, Paper};
use tercet_raft::{Event, Input, Message, RoleKind, Time, TransferError};

use crate::role;
use crate::support::{Net, node};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn interval(net: &mut Net, slot: u8, every: Option<u64>, until_stepdown: bool) {
    let interval = every.map(ms);
    net.step(slot, Input::SetHeartbeatInterval { interval, until_stepdown });
}

/// How long the leader's next heartbeat is away.
fn next_beat(net: &Net, slot: u8) -> Duration {
    net.raft(slot).poll_timeout().unwrap().since(net.now)
}

fn told(net: &Net, slot: u8) -> Vec<Option<u64>> {
    let interval = |event: &Event| match event {
        Event::HeartbeatInterval { ms } => Some(*ms),
        _ => None,
    };
    net.nodes[&node(slot)].events.iter().filter_map(interval).collect()
}

/// The lab sets how far heartbeats are apart: for good, or for as long as a node leads.
#[test]
fn heartbeats_are_as_far_apart_as_the_lab_says() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let set = |net: &Net| net.raft(1).status().heartbeat_override;
    net.now = net.now.after(ms(10));
    interval(&mut net, 1, Some(20), false);
    assert_eq!((next_beat(&net, 1), set(&net)), (ms(20), Some(ms(20))));
    net.now = net.now.after(ms(19));
    net.step(1, Input::Timeout);
    assert!(net.wire.is_empty(), "a little early");
    net.now = net.now.after(ms(1));
    net.step(1, Input::Timeout);
    let is_beat = |m: &Message| matches!(m, Message::Heartbeat { .. });
    assert_eq!(net.wire.iter().filter(|packet| is_beat(&packet.envelope.message)).count(), 2);
    assert_eq!(next_beat(&net, 1), ms(20));
    net.settle();
    // What holds as long as it leads comes first, and ends with that.
    interval(&mut net, 1, Some(30), true);
    assert_eq!((next_beat(&net, 1), set(&net)), (ms(30), Some(ms(30))));
    net.elect(2);
    assert_eq!((role(&net, 1).0, set(&net)), (RoleKind::Follower, Some(ms(20))));
    assert_eq!(told(&net, 1), [Some(20), Some(30), None]);
    // A follower keeps what is for good, and for nothing else has a use.
    interval(&mut net, 1, Some(30), true);
    interval(&mut net, 3, Some(40), false);
    assert_eq!((set(&net), told(&net, 1).len(), told(&net, 3)), (Some(ms(20)), 3, vec![Some(40)]));
    net.elect(1);
    net.beat(1);
    assert_eq!(next_beat(&net, 1), ms(20));
    // For good means also: not what was said for now.
    interval(&mut net, 1, Some(30), true);
    interval(&mut net, 1, Some(25), false);
    assert_eq!((next_beat(&net, 1), set(&net)), (ms(25), Some(ms(25))));
    interval(&mut net, 1, None, false);
    assert_eq!((next_beat(&net, 1), set(&net)), (ms(50), None));
}

/// Check-quorum: a leader of whom nobody has heard gets an election timeout, not less and not more.
#[test]
fn a_leader_has_an_election_timeout_to_be_heard() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let begun = net.now;
    net.cut_off(&[1]);
    // Peers answered a moment ago; that counts for a timeout, and the check comes with the next.
    for (after, leads) in [(299, true), (300, true), (599, true), (600, false)] {
        net.now = begun.after(ms(after));
        net.step(1, Input::Timeout);
        assert_eq!(role(&net, 1).0 == RoleKind::Leader, leads, "after {after} ms");
    }
    let mut net = Net::new(3, Modern);
    net.now = net.now.after(ms(160));
    net.step(1, Input::Campaign);
    net.settle_only(|envelope| {
        !matches!(envelope.message, Message::Append { .. } | Message::Heartbeat { .. })
    });
    assert_eq!(role(&net, 1).0, RoleKind::Leader);
    net.cut_off(&[1]);
    let begun = net.now;
    for (after, leads) in [(50, true), (299, true), (300, false)] {
        net.now = begun.after(ms(after));
        net.step(1, Input::Timeout);
        assert_eq!(role(&net, 1).0 == RoleKind::Leader, leads, "after {after} ms, nobody answered");
    }
}

/// A leader that nobody hears refuses a read within an election timeout, also by the paper, where
/// nothing makes it step down.
#[test]
fn a_read_ends_in_time() {
    let mut net = Net::new(3, Paper);
    net.elect(1);
    net.submit(1);
    net.cut_off(&[1]);
    net.barrier(1, 7);
    for (after, ended) in [(299, vec![]), (1, vec![(7, None)])] {
        net.now = net.now.after(ms(after));
        net.step(1, Input::Timeout);
        assert_eq!(net.nodes[&node(1)].barriers, ended);
    }
    assert_eq!(role(&net, 1).0, RoleKind::Leader);
}

/// Followers hear of a commit soon after it, without a message for each.
#[test]
fn followers_hear_of_a_commit_soon() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.beat(1);
    net.submit(1);
    assert!(next_beat(&net, 1) <= ms(50) / 16);
    net.run_ms(4);
    assert_eq!((2..=3).map(|slot| net.raft(slot).commit().0).collect::<Vec<_>>(), [2, 2]);
}

/// Times that a node is told never go back, whatever its driver says.
#[test]
fn time_does_not_go_back() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    let due = net.now.after(ms(50));
    net.now = Time(1);
    interval(&mut net, 1, None, false);
    assert_eq!(net.raft(1).poll_timeout(), Some(due));
}

/// Nobody is told that something ended before its time is over: a read that was passed on, and a
/// transfer of which nothing is known but that it was given away.
#[test]
fn what_waits_gets_its_time() {
    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.step(3, Input::FreezeElectionTimer { frozen: true });
    net.barrier(3, 7);
    net.wire.clear();
    net.now = net.now.after(ms(299));
    net.step(3, Input::Timeout);
    assert_eq!(net.nodes[&node(3)].barriers, []);
    net.now = net.now.after(ms(1));
    net.step(3, Input::Timeout);
    assert_eq!(net.nodes[&node(3)].barriers, [(7, None)]);

    let mut net = Net::new(3, Modern);
    net.elect(1);
    net.submit(1);
    net.step(1, Input::TransferLeadership { to: Some(node(2)) });
    net.settle_only(|envelope| {
        matches!(envelope.message, Message::TimeoutNow | Message::Vote { .. })
    });
    assert_eq!(role(&net, 1).0, RoleKind::Follower);
    net.wire.clear();
    net.step(1, Input::FreezeElectionTimer { frozen: true });
    assert_eq!(net.raft(1).poll_timeout(), Some(net.now.after(ms(300))));
    for (after, ended) in [(299, vec![]), (1, vec![Err(TransferError::TimedOut)])] {
        net.now = net.now.after(ms(after));
        net.step(1, Input::Timeout);
        assert_eq!(net.nodes[&node(1)].transfers, ended);
    }
}

/// Timeouts are a pure function of the seed, the node and the attempt: a run that was recorded is
/// played again by a later version.
#[test]
fn the_timeouts_of_a_seed_stay_what_they_are() {
    let mut drawn = Vec::new();
    for slot in 1..=3 {
        let mut net = Net::new(3, Modern);
        for _ in 0..3 {
            net.step(slot, Input::FreezeElectionTimer { frozen: false });
            drawn.push(net.raft(slot).poll_timeout().unwrap().since(net.now).as_micros());
        }
    }
    assert_eq!(
        drawn,
        [249_188, 240_109, 241_008, 250_153, 221_029, 270_511, 184_383, 155_012, 256_694]
    );
    assert!(drawn.iter().all(|us| (150_000..=300_000).contains(us)));
}
