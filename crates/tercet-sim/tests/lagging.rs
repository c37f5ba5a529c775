//! A node that lags so far behind that what it lacks is in no memory any more: the leader reads it
//! from its disk, a piece at a time, and much can happen until that is read.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::{
    await_leader, converged, for_seeds, formed, leader, lines, run_ms, run_until, submit,
    submit_anywhere, value, values,
};
use tercet_raft::NodeId;
use tercet_sim::{Answer, Happened, Link, What, World, WorldConfig};
use tercet_wal::Survive;

/// What happens while the leader reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meanwhile {
    Nothing,
    /// The connection ends, and is there again at once: the core asks anew.
    LinkBroken,
    /// It hears of another leader.
    Deposed,
    LeaderCrashed,
    FollowerCrashed,
}

const ALL: [Meanwhile; 5] = [
    Meanwhile::Nothing,
    Meanwhile::LinkBroken,
    Meanwhile::Deposed,
    Meanwhile::LeaderCrashed,
    Meanwhile::FollowerCrashed,
];

/// A leader, and a node that lags behind what it has in memory: the leader reads for it, which takes
/// 120 ms a piece.
fn reading(seed: u64) -> (World, NodeId, NodeId, Vec<Bytes>) {
    let mut world = formed(WorldConfig::new(3, seed));
    let reader = await_leader(&mut world);
    let lags = world.node_ids().into_iter().find(|id| *id != reader).unwrap();
    world.crash(lags, Survive::All);
    let records: Vec<Bytes> =
        (0..300).map(|nth| value(format!("{nth} {}", "x".repeat(4000)))).collect();
    for (nth, record) in (1..).zip(&records) {
        let answer = submit(&mut world, reader, nth, std::slice::from_ref(record));
        assert!(matches!(answer, Answer::Submitted(_)), "{answer:?}");
    }
    world.set_sync(reader, Duration::from_millis(120));
    world.start(lags).unwrap();
    assert!(run_until(&mut world, 2000, |world| world.reads_under_way(reader) > 0));
    (world, reader, lags, records)
}

fn cut(world: &mut World, id: NodeId, cut: bool) {
    for other in world.node_ids().into_iter().filter(|other| *other != id) {
        for (from, to) in [(id, other), (other, id)] {
            world.set_link(from, to, Link { cut, ..Link::default() });
        }
    }
}

#[test]
fn whatever_happens_while_the_leader_reads_the_follower_is_brought_level() {
    for_seeds("lagging", 0..50, |seed| {
        let meanwhile = ALL[usize::try_from(seed).unwrap() % ALL.len()];
        let (mut world, reader, lags, mut records) = reading(seed);
        match meanwhile {
            Meanwhile::Nothing => {
                // Three pieces of 512 KiB, one after the other; the first is under way.
                let begun = world.now();
                assert!(run_until(&mut world, 5000, converged));
                let took = world.now().since(begun);
                assert!(took > Duration::from_millis(250), "{took:?}: it was read at once");
            }
            Meanwhile::LinkBroken => {
                let stored = |world: &World| {
                    let raft = world.replica(reader)?.raft()?.status();
                    raft.peers.iter().find(|peer| peer.node == lags).map(|peer| peer.matched)
                };
                // It has the first piece, and acknowledges no other: it is asked for the second
                // again, while the third is read.
                let begun = stored(&world);
                assert!(run_until(&mut world, 1000, |world| stored(world) > begun));
                world.set_sync(lags, Duration::from_secs(1));
                run_ms(&mut world, 130);
                assert_eq!(world.reads_under_way(reader), 1);
                world.reset_link(reader, lags, Duration::from_millis(1));
                let asks_anew = |world: &World| world.reads_under_way(reader) > 1;
                assert!(run_until(&mut world, 100, asks_anew), "it asks before that was read");
            }
            Meanwhile::Deposed => {
                cut(&mut world, reader, true);
                // Its disk is so slow that it still reads when another one leads.
                world.set_sync(reader, Duration::from_secs(2));
                let other = |world: &World| leader(world).is_some_and(|id| id != reader);
                assert!(run_until(&mut world, 1500, other));
                cut(&mut world, reader, false);
                run_ms(&mut world, 200);
                world.set_sync(reader, Duration::from_micros(150));
            }
            Meanwhile::LeaderCrashed => {
                world.crash(reader, Survive::None);
                run_ms(&mut world, seed * 7 % 500);
                world.start(reader).unwrap();
            }
            Meanwhile::FollowerCrashed => {
                world.crash(lags, Survive::None);
                run_ms(&mut world, seed * 7 % 100);
                world.start(lags).unwrap();
            }
        }
        records.push(value("the last"));
        submit_anywhere(&mut world, 1000, &records[records.len() - 1..]);
        if !run_until(&mut world, 10_000, converged) {
            return Err(format!("{meanwhile:?}: they are not level after 10 s"));
        }
        let dropped = |happened: &Happened| matches!(&happened.what, What::Warning(text) if text.starts_with("dropped"));
        let happened = world.take_happened();
        assert!(!happened.iter().any(dropped), "{meanwhile:?}: {happened:?}");
        for id in world.node_ids() {
            assert_eq!(values(&mut world, id), lines(&records), "of {id}, {meanwhile:?}");
        }
        Ok(())
    });
}
