//! Beginning again from one survivor: its log goes on on every node, whatever crashes meanwhile; what
//! is of the older generation is heard no more; and a cluster that lives is not replaced.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use bytes::Bytes;
use support::{
    Wipe, converged, for_seeds, formed, identity, leader, node, read, run_ms, run_until,
    submit_anywhere, value, wipe,
};
use tercet_raft::{Incarnation, NodeId, RoleKind};
use tercet_replica::gate::GateChange;
use tercet_replica::{IdentityState, RecoverError, Survey, recover, survey};
use tercet_sim::{Random, What, World, WorldConfig};
use tercet_wal::{Disk, MemDisk, Survive};

/// The directory of a node that is down becomes the survivor's.
fn make_survivor(world: &mut World, id: NodeId) -> Survey {
    let options = world.config().wal();
    let found = survey(world.disk(id), options.clone()).unwrap();
    let number = found.identity.generation.number;
    let made = recover(world.disk(id), options, Incarnation(0x5a1e << 64 | u128::from(number)));
    assert_eq!(made.unwrap().generation.number, number + 1);
    found
}

fn crash_all(world: &mut World) {
    for id in world.node_ids() {
        if world.is_up(id) {
            world.crash(id, Survive::None);
        }
    }
}

fn start_all(world: &mut World) {
    for id in world.node_ids() {
        world.disk(id).crash_after(None);
        if !world.is_up(id) {
            support::start(world, id);
        }
    }
}

/// The values in a directory's log, whether its node runs or not.
fn records_of(world: &mut World, id: NodeId) -> Vec<Bytes> {
    let contents = world.disk(id).contents("values.log").unwrap_or_default();
    let lines = contents.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Bytes::copy_from_slice(&line[b"write ".len()..])).collect()
}

/// All nodes are voters of this generation, and have these records first, then what is submitted now.
fn check_goes_on(world: &mut World, number: u64, first: &[Bytes]) -> Result<(), String> {
    if !run_until(world, 30_000, converged) {
        let states = world.node_ids().into_iter();
        let states = states.map(|id| format!("{id}: {:?}", world.replica(id).map(|r| r.status())));
        return Err(format!("no cluster: {}", states.collect::<Vec<_>>().join("\n")));
    }
    let after = value(format!("after {number}"));
    submit_anywhere(world, 0xaf00 | u128::from(number), std::slice::from_ref(&after));
    if !run_until(world, 5_000, converged) {
        return Err("the first value does not come to all".to_owned());
    }
    let cluster_id = world.replica(node(1)).unwrap().identity().cluster_id;
    for id in world.node_ids() {
        let identity = world.replica(id).unwrap().identity().clone();
        if identity.generation.number != number || identity.cluster_id != cluster_id {
            return Err(format!("{id} is of {:?}", identity.generation));
        }
        let found = read(world, id).ok_or_else(|| format!("no read at {id}"))?;
        if !found.starts_with(first) || found.last() != Some(&after) {
            return Err(format!("{id} reads {found:?}, the survivor had {first:?}"));
        }
    }
    Ok(())
}

/// A cluster with some records, of which the last ones never reached `behind`.
fn lived(nodes: u8, seed: u64, behind: NodeId) -> (World, Vec<Bytes>) {
    let mut world = formed(WorldConfig::new(nodes, seed));
    let mut records = Vec::new();
    for number in 0..6_u8 {
        if number == 4 {
            run_until(&mut world, 5_000, converged);
            for id in world.node_ids().into_iter().filter(|id| *id != behind) {
                world.change_gate(id, GateChange::Cut(behind));
                world.change_gate(behind, GateChange::Cut(id));
            }
            run_until(&mut world, 5_000, |world| leader(world).is_some_and(|id| id != behind));
        }
        let record = value(format!("v{number}"));
        submit_anywhere(&mut world, u128::from(number), std::slice::from_ref(&record));
        records.push(record);
    }
    run_ms(&mut world, 500);
    crash_all(&mut world);
    for id in world.node_ids() {
        world.change_gate(id, GateChange::Heal);
    }
    (world, records)
}

#[test]
fn the_survivors_log_goes_on() {
    for_seeds("recoveries", 0..120, |seed| {
        let mut random = Random::new(seed ^ 0x5e);
        let nodes = if seed.is_multiple_of(3) { 5 } else { 3 };
        let survivor = node(1 + u8::try_from(random.below(u64::from(nodes))).unwrap());
        let is_behind = random.chance(50);
        let behind = if is_behind { survivor } else { node(1 + survivor.slot() % nodes) };
        let (mut world, records) = lived(nodes, seed, behind);
        let known = &records[..if is_behind { 4 } else { 6 }];
        // Some are empty, some lost a part and come back mute, and less than a majority is whole.
        let mut whole = nodes / 2;
        for id in world.node_ids().into_iter().filter(|id| *id != survivor) {
            match random.below(3) {
                0 if whole > 0 => whole -= 1,
                1 => wipe(&mut world, id, Wipe::Log),
                _ => wipe(&mut world, id, Wipe::Directory),
            }
        }
        let found = make_survivor(&mut world, survivor);
        if found.last_seq != known.len() as u64 || found.committed_seq > found.last_seq {
            return Err(format!("{found:?}"));
        }
        let mut left = world.node_ids();
        while !left.is_empty() {
            run_ms(&mut world, random.below(600));
            let at = usize::try_from(random.below(left.len() as u64)).unwrap();
            world.start(left.remove(at)).unwrap();
        }
        check_goes_on(&mut world, 2, known)?;
        // And once more, from whoever comes.
        crash_all(&mut world);
        let survivor = node(1 + u8::try_from(random.below(u64::from(nodes))).unwrap());
        let known = records_of(&mut world, survivor);
        make_survivor(&mut world, survivor);
        for id in world.node_ids().into_iter().filter(|id| *id != survivor) {
            wipe(&mut world, id, Wipe::Log);
        }
        start_all(&mut world);
        check_goes_on(&mut world, 3, &known)
    });
}

/// The survivor, or another node, dies at each of its writes, syncs and changes of the directory, from
/// the recovery itself on until the new generation runs.
#[test]
fn a_crash_at_each_write() {
    let mut died = [0; 3];
    for survive in [Survive::None, Survive::All, Survive::Random(3), Survive::Random(4)] {
        for slot in 1..=3 {
            for steps in 0..40 {
                let survivor = node(2);
                let (mut world, records) = lived(3, steps, node(3));
                wipe(&mut world, node(1), Wipe::Directory);
                let id = node(slot);
                world.crash_in_write(id, steps, survive);
                let options = world.config().wal();
                let made = recover(world.disk(survivor), options, Incarnation(0x5a1e));
                if made.is_err() {
                    // The machine died: what survived is the old directory, or the new one.
                    let after = world.disk(survivor).after_crash(survive);
                    *world.disk(survivor) = after;
                    died[1] += 1;
                    let state = identity(&mut world, survivor).unwrap().state;
                    if state != IdentityState::Survivor {
                        make_survivor(&mut world, survivor);
                    }
                }
                for id in world.node_ids() {
                    if world.start(id).is_err() {
                        world.crash(id, survive);
                    }
                }
                run_ms(&mut world, 6_000);
                if !world.is_up(id) {
                    died[usize::from(slot) - 1] += 1;
                }
                start_all(&mut world);
                let checked = check_goes_on(&mut world, 2, &records);
                assert_eq!(checked, Ok(()), "n{slot} dies at step {steps}, {survive:?} survives");
            }
        }
    }
    assert!(died.iter().all(|died| *died > 20), "there are fewer steps than thought: {died:?}");
}

/// An operator takes one node's silence for the loss of the others: the cluster, which has a leader,
/// goes on, and the directory that was recovered is told so.
#[test]
fn a_cluster_that_has_a_leader_is_not_replaced() {
    for_seeds("a mistaken recovery", 0..30, |seed| {
        let survivor = node(1 + u8::try_from(seed % 3).unwrap());
        let (mut world, records) = lived(3, seed, survivor);
        for id in world.node_ids().into_iter().filter(|id| *id != survivor) {
            world.start(id).unwrap();
        }
        run_until(&mut world, 5_000, |world| leader(world).is_some());
        make_survivor(&mut world, survivor);
        world.take_happened();
        world.start(survivor).unwrap();
        run_ms(&mut world, 10_000);
        let warned = world.take_happened().into_iter().any(|happened| {
            happened.node == survivor
                && matches!(&happened.what, What::Warning(text) if text.contains("still runs generation 1"))
        });
        if !warned {
            return Err("nobody says that the cluster lives".to_owned());
        }
        submit_anywhere(&mut world, 77, &[value("lives")]);
        for id in world.node_ids() {
            let generation = world.replica(id).unwrap().identity().generation.number;
            if generation != if id == survivor { 2 } else { 1 } {
                return Err(format!("{id} is of generation {generation}"));
            }
        }
        // What the warning says helps: with an empty directory the node rejoins.
        world.crash(survivor, Survive::None);
        wipe(&mut world, survivor, Wipe::Directory);
        world.start(survivor).unwrap();
        check_goes_on(&mut world, 1, &records)
    });
}

/// A directory of the older generation comes back, with records that the survivor never had: its
/// messages are not heard, its log goes to lost/, and its node rejoins.
#[test]
fn an_old_directory_comes_back() {
    for_seeds("an old directory", 0..60, |seed| {
        let mut random = Random::new(seed ^ 0x01d);
        let survivor = node(1 + u8::try_from(seed % 3).unwrap());
        let (mut world, records) = lived(3, seed, survivor);
        let others: Vec<NodeId> =
            world.node_ids().into_iter().filter(|id| *id != survivor).collect();
        let old: Vec<MemDisk> =
            others.iter().map(|id| world.disk(*id).after_crash(Survive::None)).collect();
        make_survivor(&mut world, survivor);
        for id in &others {
            wipe(&mut world, *id, Wipe::Directory);
        }
        start_all(&mut world);
        check_goes_on(&mut world, 2, &records[..4])?;
        // One of them, or both at once: together they would be a majority.
        let both = random.chance(50);
        for (id, disk) in others.iter().zip(&old).take(if both { 2 } else { 1 }) {
            world.crash(*id, Survive::None);
            *world.disk(*id) = disk.after_crash(Survive::None);
        }
        world.take_happened();
        start_all(&mut world);
        if both {
            // More than a minority of generation 2 is lost now: it waits, rather than that the
            // older one goes on.
            run_ms(&mut world, 10_000);
            for id in &others {
                let identity = world.replica(*id).unwrap().identity().clone();
                if identity.state != IdentityState::Quarantined || identity.generation.number != 2 {
                    return Err(format!("{id}: {identity:?}"));
                }
            }
            if leader(&world).is_some() {
                return Err("somebody leads".to_owned());
            }
            return Ok(());
        }
        check_goes_on(&mut world, 2, &records[..4])?;
        let found = read(&mut world, others[0]).unwrap();
        if found.contains(&value("v5")) {
            return Err(format!("records of the older generation are back: {found:?}"));
        }
        let aside = world.disk(others[0]).list("lost").unwrap();
        if aside.is_empty() {
            return Err("the old log is not in lost/".to_owned());
        }
        Ok(())
    });
}

/// Two directories are recovered: nobody goes on until a person has chosen.
#[test]
fn two_survivors_wait_for_a_choice() {
    for_seeds("two survivors", 0..30, |seed| {
        let (mut world, records) = lived(3, seed, node(3));
        make_survivor(&mut world, node(1));
        make_survivor(&mut world, node(3));
        wipe(&mut world, node(2), Wipe::Directory);
        world.take_happened();
        start_all(&mut world);
        run_ms(&mut world, 10_000);
        let warned = world
            .take_happened()
            .into_iter()
            .filter(|happened| {
                matches!(&happened.what, What::Warning(text) if text.contains("two directories were recovered"))
            })
            .count();
        if warned != 2 {
            return Err(format!("{warned} of them say so"));
        }
        for id in world.node_ids() {
            let status = world.replica(id).unwrap().status();
            if status.raft.is_some() || status.awaited.is_empty() {
                return Err(format!("{id} does not wait: {status:?}"));
            }
        }
        world.crash(node(3), Survive::None);
        wipe(&mut world, node(3), Wipe::Directory);
        world.start(node(3)).unwrap();
        check_goes_on(&mut world, 2, &records)
    });
}

/// Nodes that heard of a later generation never make an empty cluster, when its survivor is away.
#[test]
fn without_the_survivor_no_empty_cluster_is_made() {
    for_seeds("the survivor is away", 0..20, |seed| {
        let (mut world, records) = lived(3, seed, node(2));
        make_survivor(&mut world, node(3));
        wipe(&mut world, node(1), Wipe::Directory);
        wipe(&mut world, node(2), Wipe::Directory);
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        let fenced = |world: &World| {
            [1, 2]
                .into_iter()
                .all(|slot| world.replica(node(slot)).unwrap().identity().generation.number == 2)
        };
        if !run_until(&mut world, 5_000, fenced) {
            return Err("they do not hear of the generation".to_owned());
        }
        world.crash(node(3), Survive::None);
        let kept = world.disk(node(3)).after_crash(Survive::None);
        wipe(&mut world, node(3), Wipe::Directory);
        let is_new = identity(&mut world, node(1)).unwrap().state == IdentityState::Fresh;
        world.start(node(3)).unwrap();
        run_ms(&mut world, 10_000);
        for id in world.node_ids() {
            if is_new && world.replica(id).unwrap().raft().is_some() {
                return Err(format!("{id} is in an empty cluster"));
            }
        }
        world.crash(node(3), Survive::None);
        *world.disk(node(3)) = kept;
        world.start(node(3)).unwrap();
        check_goes_on(&mut world, 2, &records)
    });
}

/// What cannot be recovered from is refused, and stays as it is.
#[test]
fn what_is_no_survivor_is_refused() {
    let (mut world, _) = lived(3, 1, node(3));
    let options = world.config().wal();
    make_survivor(&mut world, node(1));
    let again = recover(world.disk(node(1)), options.clone(), Incarnation(9));
    assert!(matches!(again, Err(RecoverError::Already { number: 2 })));
    wipe(&mut world, node(2), Wipe::Log);
    let damaged = recover(world.disk(node(2)), options.clone(), Incarnation(9));
    assert!(matches!(damaged, Err(RecoverError::Log(_))), "{damaged:?}");
    assert_eq!(identity(&mut world, node(2)).unwrap().generation.number, 1);
    wipe(&mut world, node(3), Wipe::Directory);
    let empty = recover(world.disk(node(3)), options.clone(), Incarnation(9));
    assert!(matches!(empty, Err(RecoverError::NoIdentity(_))));
    world.start(node(3)).unwrap();
    world.crash(node(3), Survive::All);
    let fresh = recover(world.disk(node(3)), options, Incarnation(9));
    assert!(matches!(fresh, Err(RecoverError::NeverMember)));
}

/// The first leader of a generation has the survivor's log: the others may not even campaign.
#[test]
fn the_first_leader_has_the_survivors_log() {
    for_seeds("first leaders", 0..40, |seed| {
        let (mut world, records) = lived(5, seed, node(5));
        make_survivor(&mut world, node(4));
        for slot in [1, 2, 3, 5] {
            wipe(&mut world, node(slot), Wipe::Directory);
        }
        start_all(&mut world);
        let floor = identity(&mut world, node(4)).unwrap().generation.floor();
        let leads = |world: &World| leader(world).is_some();
        if !run_until(&mut world, 10_000, leads) {
            return Err("nobody leads".to_owned());
        }
        let first = leader(&world).unwrap();
        let raft = world.replica(first).unwrap().raft().unwrap();
        if first != node(4) || raft.role() != RoleKind::Leader || raft.last() < floor {
            return Err(format!("{first} leads with {}, below {floor}", raft.last()));
        }
        check_goes_on(&mut world, 2, &records)
    });
}
