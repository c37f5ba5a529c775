//! Older copies of directories: a node that wakes up in its own past has broken its promises without
//! knowing. Where somebody can tell, it is told, and comes back without a memory.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use std::time::Duration;

use support::{
    Wipe, await_leader, converged, for_seeds, formed, leader, node, read, restart_wiped, run_ms,
    run_until, submit_anywhere, value,
};
use tercet_raft::{NodeId, Profile};
use tercet_replica::gate::GateChange;
use tercet_sim::{Random, What, World, WorldConfig};
use tercet_wal::Survive;

fn submit_some(world: &mut World, numbers: std::ops::Range<u8>) {
    for number in numbers {
        submit_anywhere(world, u128::from(number), &[value(format!("v{number}"))]);
    }
}

fn incarnation(world: &World, id: NodeId) -> u128 {
    world.replica(id).unwrap().identity().incarnation.0
}

fn others(world: &World, but: NodeId) -> Vec<NodeId> {
    world.node_ids().into_iter().filter(|id| *id != but).collect()
}

/// All nodes agree again, the one has a new incarnation, and nothing is lost.
fn check_rejoined(world: &mut World, id: NodeId, old: u128, records: usize) -> Result<(), String> {
    if !run_until(world, 20_000, |world| converged(world) && incarnation(world, id) != old) {
        return Err(format!("{id} goes by its old promises: {:?}", world.status(id)));
    }
    submit_anywhere(world, 0xaf, &[value("after")]);
    if !run_until(world, 5_000, converged) {
        return Err("they do not agree".to_owned());
    }
    for id in world.node_ids() {
        let found = read(world, id).ok_or("no read")?;
        if found.len() != records + 1 {
            return Err(format!("{id} reads {found:?}"));
        }
    }
    Ok(())
}

fn said(world: &mut World, id: NodeId, text: &str) -> bool {
    world.take_happened().into_iter().any(|happened| {
        let said = |what: &What| match what {
            What::Warning(said) | What::Notice(said) | What::Stopped(said) => said.contains(text),
            What::Core(_) => false,
        };
        happened.node == id && said(&happened.what)
    })
}

/// A follower comes back with a copy of its directory from before it acknowledged the last records,
/// while the leader that it acknowledged them to still leads.
#[test]
fn a_followers_directory_is_restored() {
    for_seeds("a stale directory", 0..60, |seed| {
        let mut config = WorldConfig::new(if seed.is_multiple_of(3) { 5 } else { 3 }, seed);
        if seed.is_multiple_of(2) {
            config.profile = Profile::Paper;
        }
        let mut world = formed(config);
        let leads = await_leader(&mut world);
        submit_some(&mut world, 0..3);
        run_until(&mut world, 5_000, converged);
        let id = others(&world, leads)[0];
        let copy = world.disk(id).after_crash(Survive::None);
        submit_some(&mut world, 3..8);
        if !run_until(&mut world, 5_000, converged) || leader(&world) != Some(leads) {
            return Err("another leads".to_owned());
        }
        let old = incarnation(&world, id);
        world.crash(id, Survive::None);
        *world.disk(id) = copy;
        world.take_happened();
        world.start(id).unwrap();
        check_rejoined(&mut world, id, old, 8)?;
        if said(&mut world, id, "had acknowledged entry") {
            Ok(())
        } else {
            Err("nobody says why".to_owned())
        }
    });
}

/// The copy is from before the node lost its memory and was readmitted: others know a later
/// incarnation. It may be the directory of any role, and anybody may lead.
#[test]
fn a_directory_from_before_a_rejoin_is_restored() {
    for_seeds("an earlier incarnation", 0..60, |seed| {
        let mut random = Random::new(seed ^ 0xc09);
        let mut world = formed(WorldConfig::new(3, seed));
        await_leader(&mut world);
        submit_some(&mut world, 0..3);
        run_until(&mut world, 5_000, converged);
        let id = node(1 + u8::try_from(seed % 3).unwrap());
        let copy = world.disk(id).after_crash(Survive::None);
        let old = incarnation(&world, id);
        restart_wiped(&mut world, id, Wipe::Directory);
        check_rejoined(&mut world, id, old, 3)?;
        world.crash(id, Survive::None);
        *world.disk(id) = copy;
        run_ms(&mut world, random.below(1_000));
        world.take_happened();
        world.start(id).unwrap();
        if !run_until(&mut world, 20_000, |world| converged(world) && incarnation(world, id) != old)
        {
            return Err(format!("{id} goes by its old promises: {:?}", world.status(id)));
        }
        let found = read(&mut world, id).ok_or("no read")?;
        if found.len() == 4 { Ok(()) } else { Err(format!("{id} reads {found:?}")) }
    });
}

/// A question of a disk that is gone arrives when its successor has been readmitted: the leader takes
/// it for news. The node that is shut out by that finds out, and comes back.
#[test]
fn a_late_question_of_a_disk_that_is_gone() {
    for_seeds("a late Rejoin", 0..40, |seed| {
        let mut world = formed(WorldConfig::new(3, seed));
        await_leader(&mut world);
        submit_some(&mut world, 0..3);
        run_until(&mut world, 5_000, converged);
        let leads = leader(&world).unwrap();
        let (id, late) = (others(&world, leads)[0], others(&world, leads)[1]);
        // Wiped, it asks both of the others; one of the questions takes long, and is not answered by
        // the leader before the disk is lost again.
        world.change_gate(id, GateChange::Delay(late, Duration::from_millis(2_500)));
        world.change_gate(id, GateChange::Cut(leads));
        restart_wiped(&mut world, id, Wipe::Log);
        run_ms(&mut world, 200);
        world.change_gate(id, GateChange::Heal);
        restart_wiped(&mut world, id, Wipe::Log);
        run_ms(&mut world, 1_000);
        world.transfer(leads, Some(late));
        run_ms(&mut world, 4_000);
        if !run_until(&mut world, 20_000, converged) {
            return Err(format!("they do not agree: {:?}", world.status(id)));
        }
        submit_anywhere(&mut world, 0xaf, &[value("after")]);
        // It counts: with the third node down, the two are a majority.
        run_until(&mut world, 5_000, converged);
        world.crash(leads, Survive::None);
        submit_anywhere(&mut world, 0xb0, &[value("two of three")]);
        let found = read(&mut world, id).ok_or("no read")?;
        if found.len() == 5 { Ok(()) } else { Err(format!("{id} reads {found:?}")) }
    });
}
