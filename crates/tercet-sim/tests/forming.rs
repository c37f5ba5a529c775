//! How a cluster comes to be out of empty directories: whatever the order, the delays and the
//! crashes, it is one cluster; and no number of wiped nodes makes a second one.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::{
    Wipe, converged, for_seeds, identity, is_voter, leader, node, read, restart_wiped, run_ms,
    run_until, start, submit, submit_anywhere, value, wipe,
};
use tercet_raft::NodeId;
use tercet_replica::IdentityState;
use tercet_replica::gate::GateChange;
use tercet_sim::{Answer, Random, World, WorldConfig};
use tercet_wal::{Disk, Survive};

/// Nodes with empty directories; the network and the disks are of the seed.
fn empty(nodes: u8, seed: u64) -> (World, Random) {
    let mut random = Random::new(seed ^ 0xf0);
    let mut config = WorldConfig::new(nodes, seed);
    config.latency = Duration::from_micros(50 + random.below(5_000));
    config.jitter = Duration::from_micros(random.below(20_000));
    config.sync = Duration::from_micros(50 + random.below(5_000));
    (World::new(config), random)
}

fn any(world: &World, random: &mut Random) -> NodeId {
    let nodes = world.node_ids();
    nodes[usize::try_from(random.below(nodes.len() as u64)).unwrap()]
}

/// All of them are voters of one cluster that works, and that has this id if it had one before.
fn check_one_cluster(world: &mut World, before: Option<u128>) -> Result<(), String> {
    if !run_until(world, 20_000, converged) {
        let nodes = world.node_ids().into_iter();
        let states = nodes.map(|id| match world.replica(id) {
            Some(replica) => format!("{id}: {:?}", replica.status()),
            None => format!("{id} is down"),
        });
        return Err(format!("no cluster: {}", states.collect::<Vec<_>>().join("\n")));
    }
    submit_anywhere(world, 0xf0f0, &[value("formed")]);
    if !run_until(world, 5_000, converged) {
        return Err("the first value does not come to all".to_owned());
    }
    let nodes = world.node_ids();
    let ids: BTreeSet<Option<u128>> =
        nodes.iter().map(|id| world.replica(*id).unwrap().identity().cluster_id).collect();
    if ids.len() != 1 || ids.contains(&None) || before.is_some() && !ids.contains(&before) {
        return Err(format!("cluster ids {ids:?}, before {before:?}"));
    }
    for id in nodes {
        if read(world, id).and_then(|records| records.last().cloned()) != Some(value("formed")) {
            return Err(format!("{id} does not read what was submitted"));
        }
    }
    Ok(())
}

fn cluster_id(world: &World, id: NodeId) -> Option<u128> {
    world.replica(id)?.identity().cluster_id
}

#[test]
fn any_order_and_any_delays() {
    for_seeds("starts in any order", 0..150, |seed| {
        let nodes = if seed.is_multiple_of(2) { 3 } else { 5 };
        let (mut world, mut random) = empty(nodes, seed);
        let mut left = world.node_ids();
        while !left.is_empty() {
            run_ms(&mut world, random.below(1_000));
            for id in world.node_ids().iter().filter(|id| world.is_up(**id)) {
                let status = world.replica(*id).unwrap().status();
                if status.raft.is_some() {
                    return Err(format!("{id} has formed a cluster without {left:?}"));
                }
                if let Some(missing) = left.iter().find(|id| !status.awaited.contains(id)) {
                    return Err(format!("{id} does not say that it waits for {missing}"));
                }
            }
            let at = random.below(left.len() as u64);
            world.start(left.remove(usize::try_from(at).unwrap())).unwrap();
        }
        check_one_cluster(&mut world, None)
    });
}

#[test]
fn a_node_that_is_missing_holds_it_up_and_is_named() {
    for_seeds("one is missing", 0..30, |seed| {
        let (mut world, mut random) = empty(3, seed);
        let missing = any(&world, &mut random);
        for id in world.node_ids().into_iter().filter(|id| *id != missing) {
            world.start(id).unwrap();
        }
        run_ms(&mut world, 10_000);
        for id in world.node_ids().into_iter().filter(|id| *id != missing) {
            let status = world.replica(id).unwrap().status();
            if status.awaited != [missing] || status.raft.is_some() {
                return Err(format!("{id} waits for {:?}, not for {missing}", status.awaited));
            }
            if !matches!(submit(&mut world, id, 1, &[value("early")]), Answer::Refused { .. }) {
                return Err(format!("{id} takes records before there is a cluster"));
            }
        }
        world.start(missing).unwrap();
        check_one_cluster(&mut world, None)?;
        if read(&mut world, missing).unwrap().len() != 1 {
            return Err("a record was taken before there was a cluster".to_owned());
        }
        Ok(())
    });
}

#[test]
fn messages_that_are_lost_doubled_and_late() {
    for_seeds("a bad network", 0..60, |seed| {
        let (mut world, mut random) = empty(3, seed);
        for from in world.node_ids() {
            for to in world.node_ids().into_iter().filter(|to| *to != from) {
                let count = |random: &mut Random| u32::try_from(1 + random.below(6)).unwrap();
                let (lost, doubled) = (count(&mut random), count(&mut random));
                world.change_gate(from, GateChange::Double(to, None, doubled));
                world.change_gate(from, GateChange::Lose(to, None, lost));
                let by = Duration::from_millis(random.below(300));
                world.change_gate(from, GateChange::Delay(to, by));
            }
        }
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        run_ms(&mut world, random.below(3_000));
        for id in world.node_ids() {
            world.change_gate(id, GateChange::Heal);
        }
        check_one_cluster(&mut world, None)
    });
}

/// The same directories, started again after crashes at random steps of the forming. Only one of the
/// nodes may keep a random half of a write: it may lose its memory by that
/// (docs/wal-format.md, "What a crash leaves").
#[test]
fn crashes_at_random_steps() {
    for_seeds("crashes while forming", 0..400, |seed| {
        let (mut world, mut random) = empty(if seed.is_multiple_of(4) { 5 } else { 3 }, seed);
        let torn = any(&world, &mut random);
        for _ in 0..1 + random.below(12) {
            let id = any(&world, &mut random);
            let survive = match random.below(3) {
                0 => Survive::None,
                1 => Survive::All,
                _ if id == torn => Survive::Random(random.next()),
                _ => Survive::None,
            };
            match (world.is_up(id), random.chance(50)) {
                (true, true) => world.crash(id, survive),
                (_, false) => world.crash_in_write(id, random.below(12), survive),
                (false, true) => {}
            }
            for id in world.node_ids() {
                if !world.is_up(id) && random.chance(70) && world.start(id).is_err() {
                    let survive = if id == torn { survive } else { Survive::None };
                    world.crash(id, survive);
                }
            }
            let end = world.now().after(Duration::from_millis(500));
            for _ in 0..random.below(60) {
                world.step(end);
            }
        }
        for id in world.node_ids() {
            world.disk(id).crash_after(None);
            if !world.is_up(id) {
                start(&mut world, id);
            }
        }
        check_one_cluster(&mut world, None)
    });
}

/// Each node in turn dies at each of its writes, syncs and changes of the directory.
#[test]
fn a_crash_at_each_write_of_each_node() {
    let survivals = [Survive::None, Survive::All, Survive::Random(1), Survive::Random(2)];
    let survivals = survivals.into_iter().chain((3..9).map(|seed| Survive::Random(seed * 7919)));
    let mut died = 0;
    for survive in survivals {
        for slot in 1..=3 {
            for steps in 0..40 {
                let (mut world, _) = empty(3, steps);
                let id = node(slot);
                world.crash_in_write(id, steps, survive);
                for other in world.node_ids() {
                    if world.start(other).is_err() {
                        world.crash(other, survive);
                    }
                }
                run_ms(&mut world, 1_000);
                if world.is_up(id) {
                    world.disk(id).crash_after(None);
                } else {
                    died += 1;
                    start(&mut world, id);
                }
                let checked = check_one_cluster(&mut world, None);
                assert_eq!(checked, Ok(()), "n{slot} dies at step {steps}, {survive:?} survives");
            }
        }
    }
    assert!(died > 300, "the forming has fewer steps than thought: {died}");
}

#[test]
fn one_of_three_wiped_while_forming() {
    for_seeds("one wiped while forming", 0..200, |seed| {
        let (mut world, mut random) = empty(3, seed);
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        let end = world.now().after(Duration::from_millis(800));
        for _ in 0..random.below(120) {
            world.step(end);
        }
        let id = any(&world, &mut random);
        restart_wiped(&mut world, id, Wipe::Directory);
        check_one_cluster(&mut world, None)
    });
}

#[test]
fn one_of_three_wiped_after_forming() {
    for_seeds("one wiped after forming", 0..60, |seed| {
        let (mut world, mut random) = empty(3, seed);
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        let done = submit_anywhere(&mut world, 1, &[value("first")]);
        run_until(&mut world, 5_000, converged);
        let before = cluster_id(&world, node(1));
        let id = any(&world, &mut random);
        let what = [Wipe::Directory, Wipe::Log, Wipe::Identity][usize::try_from(seed % 3).unwrap()];
        if what != Wipe::Identity && random.chance(50) {
            wipe(&mut world, id, what);
            run_ms(&mut world, 200);
        } else {
            restart_wiped(&mut world, id, what);
        }
        if is_voter(&world, id) && identity(&mut world, id).is_none() {
            return Err(format!("{id} has not noticed that its {what:?} is gone"));
        }
        check_one_cluster(&mut world, before)?;
        let again = submit_anywhere(&mut world, 1, &[value("first")]);
        if (again.first_seq, again.duplicate) != (done.first_seq, true) {
            return Err(format!("{done:?} became {again:?}"));
        }
        Ok(())
    });
}

#[test]
fn two_of_three_wiped_never_form_a_second_cluster() {
    for_seeds("two of three wiped", 0..40, |seed| {
        let (mut world, mut random) = empty(3, seed);
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        check_one_cluster(&mut world, None)?;
        let before = cluster_id(&world, node(1));
        let survivor = any(&world, &mut random);
        let is_away = random.chance(50);
        if is_away {
            world.crash(survivor, Survive::None);
        }
        let wiped: Vec<NodeId> =
            world.node_ids().into_iter().filter(|id| *id != survivor).collect();
        for id in &wiped {
            world.crash(*id, Survive::None);
            wipe(&mut world, *id, Wipe::Directory);
        }
        for id in &wiped {
            run_ms(&mut world, random.below(500));
            world.start(*id).unwrap();
        }
        run_ms(&mut world, random.below(5_000));
        if is_away {
            world.start(survivor).unwrap();
        }
        for attempt in 0..5 {
            run_ms(&mut world, 3_000);
            if leader(&world).is_some() {
                return Err("somebody leads".to_owned());
            }
            for id in world.node_ids() {
                let answer = submit(&mut world, id, 100 + attempt, &[value("lost")]);
                if let Answer::Submitted(done) = answer {
                    return Err(format!("{id} acknowledged {done:?}"));
                }
                let known = cluster_id(&world, id);
                if known.is_some() && known != before {
                    return Err(format!("{id} belongs to a second cluster"));
                }
            }
        }
        for id in wiped {
            let state = world.replica(id).unwrap().identity().state;
            if state != IdentityState::Quarantined {
                return Err(format!("{id} is {}", state.as_str()));
            }
        }
        Ok(())
    });
}

/// The corner: the third node holds the genesis, but never heard that the cluster started. It alone
/// cannot know that it did not; so when both others are wiped, nobody forms another one.
#[test]
fn two_wiped_before_the_third_heard_of_the_start() {
    for_seeds("start unheard", 0..60, |seed| {
        let (mut world, mut random) = empty(3, seed);
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        let end = world.now().after(Duration::from_secs(20));
        let state = |world: &World, id: u8| world.replica(node(id)).unwrap().identity().state;
        while state(&world, 1) != IdentityState::Voter && world.step(end) {}
        if state(&world, 3) != IdentityState::Fresh || cluster_id(&world, node(3)).is_none() {
            return Err("n3 holds the genesis and has not heard of the start".to_owned());
        }
        world.crash(node(3), Survive::None);
        let before = cluster_id(&world, node(1));
        submit_anywhere(&mut world, 7, &[value("acknowledged")]);
        for id in [node(1), node(2)] {
            world.crash(id, Survive::None);
            wipe(&mut world, id, Wipe::Directory);
        }
        for id in world.node_ids() {
            run_ms(&mut world, random.below(500));
            world.start(id).unwrap();
        }
        run_ms(&mut world, 10_000);
        for id in world.node_ids() {
            let known = cluster_id(&world, id);
            if known.is_some() && known != before || is_voter(&world, id) {
                return Err(format!("{id} belongs to a second cluster"));
            }
        }
        Ok(())
    });
}

/// A directory whose identity was never written whole is a new one: it cannot have promised
/// anything.
#[test]
fn an_identity_that_was_cut_short_is_as_good_as_none() {
    for bytes in [0, 100, 512, 4096] {
        let (mut world, _) = empty(3, bytes);
        let file = world.disk(node(2)).create("identity").unwrap();
        tercet_wal::DiskFile::set_len(&file, bytes).unwrap();
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        let checked = check_one_cluster(&mut world, None);
        assert_eq!(checked, Ok(()), "an identity of {bytes} zeros");
    }
}
