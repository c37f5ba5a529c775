//! Disks that work, but slowly: who leads does not hold the others up for long.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{NodeId, RoleKind};
use tercet_sim::{Answer, OpId, What, World, WorldConfig};
use tercet_wal::Survive;

struct Cluster {
    world: World,
    submitted: u128,
    warnings: Vec<(NodeId, String)>,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut world = World::new(WorldConfig::new(3, seed));
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        let mut cluster = Self { world, submitted: 0, warnings: Vec::new() };
        cluster.run(Duration::from_secs(2));
        cluster
    }

    fn run(&mut self, by: Duration) {
        let end = self.world.now().after(by);
        while self.world.step(end) {}
        for happened in self.world.take_happened() {
            if let What::Warning(text) | What::Notice(text) = happened.what {
                self.warnings.push((happened.node, text));
            }
        }
    }

    /// Who leads, or will in a moment.
    fn leader(&mut self) -> NodeId {
        for _ in 0..1000 {
            let leads = |id: &NodeId| {
                self.world.status(*id).is_some_and(|raft| raft.role == RoleKind::Leader)
            };
            if let Some(leader) = self.world.node_ids().into_iter().find(leads) {
                return leader;
            }
            self.run(Duration::from_millis(1));
        }
        panic!("nobody leads for a second");
    }

    fn submit(&mut self) -> OpId {
        self.submitted += 1;
        self.submit_again()
    }

    /// The last request once more.
    fn submit_again(&mut self) -> OpId {
        let value = Bytes::from(self.submitted.to_string());
        let leader = self.leader();
        self.world.submit(leader, self.submitted, vec![value])
    }

    /// One submit after the other for so long; how many were answered.
    fn load(&mut self, by: Duration) -> usize {
        let end = self.world.now().after(by);
        let mut answered = 0;
        while self.world.now() < end {
            let op = self.submit();
            for _ in 0..200 {
                self.run(Duration::from_millis(1));
                if self.world.answer(op).is_some() {
                    break;
                }
            }
            answered += usize::from(matches!(self.world.answer(op), Some(Answer::Submitted(_))));
        }
        answered
    }

    fn says(&self, id: NodeId, text: &str) -> bool {
        self.warnings.iter().any(|(node, said)| *node == id && said.contains(text))
    }
}

#[test]
fn a_leader_whose_disk_becomes_slow_hands_over() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(seed);
        let leader = cluster.leader();
        assert!(cluster.load(Duration::from_secs(1)) > 300);
        cluster.world.set_sync(leader, Duration::from_millis(40));
        cluster.load(Duration::from_secs(4));
        assert_ne!(cluster.leader(), leader, "seed {seed}");
        assert!(cluster.says(leader, "the disk has become slow: a sync takes 40.0ms"));
        let slow = cluster.world.replica(leader).unwrap().status().slow_disk;
        assert_eq!(slow.map(|slow| slow.latest), Some(Duration::from_millis(40)));
        // It does not slow the others down any more.
        assert!(cluster.load(Duration::from_secs(1)) > 300, "seed {seed}");
        let usual = cluster.world.config().sync;
        cluster.world.set_sync(leader, usual);
        cluster.load(Duration::from_secs(1));
        assert!(cluster.says(leader, "the disk is as fast as usual again"));
        assert_eq!(cluster.world.replica(leader).unwrap().status().slow_disk, None);
    }
}

/// What is answered before the leader's own disk has it is kept by the others; the leader shows it
/// when its disk has it, and knows at once that a retry is one.
#[test]
fn what_the_leaders_disk_lacks_is_answered_and_kept() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(seed);
        let leader = cluster.leader();
        cluster.load(Duration::from_millis(500));
        cluster.world.set_sync(leader, Duration::from_millis(200));
        // Its disk is busy with the first when the second comes.
        cluster.submit();
        cluster.run(Duration::from_millis(1));
        let op = cluster.submit();
        cluster.run(Duration::from_millis(20));
        let Some(Answer::Submitted(done)) = cluster.world.answer(op) else {
            panic!("seed {seed}: {:?}", cluster.world.answer(op));
        };
        let done = done.clone();
        let read = cluster.world.read(leader, false);
        assert!(!done.durable_on.contains(leader) && done.durable_on.len() == 2, "{done:?}");
        let replica = cluster.world.replica(leader).unwrap();
        assert!(replica.next_seq() <= done.first_seq, "it shows what its disk has");
        let again = cluster.submit_again();
        cluster.run(Duration::from_millis(20));
        let answer = cluster.world.answer(again);
        assert!(
            matches!(answer, Some(Answer::Submitted(again)) if again.duplicate && again.index == done.index),
            "seed {seed}: {answer:?}"
        );
        assert_eq!(cluster.world.answer(read), None, "a read waits for the disk of its node");

        cluster.world.crash(leader, Survive::None);
        cluster.run(Duration::from_secs(1));
        let next = cluster.leader();
        assert_ne!(next, leader);
        let kept = cluster.world.replica(next).unwrap().read(done.first_seq, 1, 100).unwrap();
        assert_eq!(kept[0].value, cluster.submitted.to_string(), "seed {seed}");
    }
}

/// A majority does without it. (A leader that is slow for longer hands over.)
#[test]
fn one_slow_disk_does_not_slow_the_others() {
    for seed in 0..5 {
        for (leads, sync_ms) in [(true, 100), (false, 40), (false, 500), (false, 20_000)] {
            let mut cluster = Cluster::new(seed);
            let leader = cluster.leader();
            let slow = |id: &NodeId| (*id == leader) == leads;
            let slow = cluster.world.node_ids().into_iter().find(slow).unwrap();
            let before = cluster.load(Duration::from_secs(1));
            cluster.world.set_sync(slow, Duration::from_millis(sync_ms));
            let during = cluster.load(Duration::from_secs(1));
            let what = format!("seed {seed}, {sync_ms} ms on {slow}, {leader} leads");
            assert!(during * 10 >= before * 9, "{what}: {before} submits before, {during} then");
            assert_eq!(cluster.leader(), leader, "{what}");
        }
    }
}

/// The heartbeats of a leader that cannot write end with its leadership.
#[test]
fn a_leader_whose_disk_stalls_is_replaced() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(seed);
        let leader = cluster.leader();
        cluster.load(Duration::from_millis(500));
        cluster.world.set_sync(leader, Duration::from_secs(30));
        cluster.submit();
        // Two timeouts until it steps down and the others have noticed, and an election or two.
        cluster.run(Duration::from_millis(1500));
        assert_ne!(cluster.leader(), leader, "seed {seed}");
        assert!(cluster.load(Duration::from_secs(1)) > 300, "seed {seed}");
    }
}
