//! A node without its memory neither votes nor counts: what needs a majority waits for the nodes
//! that remember. It comes back by itself, and with it everything that was acknowledged.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use support::{
    Wipe, await_leader, converged, for_seeds, formed, identity, leader, lines, node, read,
    restart_wiped, run_until, submit_anywhere, value, values, wipe,
};
use tercet_raft::{NodeId, Profile};
use tercet_replica::IdentityState;
use tercet_replica::gate::GateChange;
use tercet_replica::prepare::prepare;
use tercet_sim::swarm::Watch;
use tercet_sim::{Answer, OpId, Random, World, WorldConfig};
use tercet_wal::{HardState, Survive};

const WIPES: [Wipe; 3] = [Wipe::Directory, Wipe::Log, Wipe::Identity];

/// Runs on, watched: who is mute votes for nobody.
fn pass(world: &mut World, watch: &mut Watch, ms: u64) -> Result<(), String> {
    let end = world.now().after(std::time::Duration::from_millis(ms));
    loop {
        let went = world.step(end);
        for happened in world.take_happened() {
            watch
                .look(world, &happened)
                .map_err(|(invariant, text)| format!("{invariant}: {text}"))?;
        }
        if !went {
            return Ok(());
        }
    }
}

/// Asks every node that runs for everything, again and again: nothing is ever confirmed.
fn nothing_is_confirmed(world: &mut World, watch: &mut Watch, ms: u64) -> Result<(), String> {
    let mut asked: Vec<OpId> = Vec::new();
    for round in 0..ms / 100 {
        // Who is down answers nobody, without harm.
        for id in world.node_ids() {
            asked.push(world.submit(id, 0xdead, vec![value("never")]));
            if round % 3 == 0 {
                asked.push(world.read(id, false));
            }
        }
        pass(world, watch, 100)?;
    }
    for op in asked {
        if let Some(answer @ (Answer::Submitted(_) | Answer::Read(_))) = world.answer(op) {
            return Err(format!("without a majority that remembers: {answer:?}"));
        }
    }
    Ok(())
}

fn others(world: &World, but: NodeId) -> Vec<NodeId> {
    world.node_ids().into_iter().filter(|id| *id != but).collect()
}

#[test]
fn one_wiped_and_one_down_of_three_is_no_majority() {
    for_seeds("one wiped, one down", 0..90, |seed| {
        let mut random = Random::new(seed ^ 0x3d);
        let mut config = WorldConfig::new(3, seed);
        if random.chance(40) {
            config.profile = Profile::Paper;
        }
        let mut world = formed(config);
        await_leader(&mut world);
        let mut records = Vec::new();
        // Every role may be wiped, and either of the others may be down.
        let wiped = node(1 + u8::try_from(seed % 3).unwrap());
        let rest = others(&world, wiped);
        let down = rest[usize::try_from(random.below(2)).unwrap()];
        let stays = rest.iter().copied().find(|id| *id != down).unwrap();
        // Sometimes the one that stays lacks the last records: the wiped one and the other had them.
        let lags = random.chance(50);
        for number in 0..6_u8 {
            if number == 3 && lags {
                for other in others(&world, stays) {
                    world.change_gate(other, GateChange::Cut(stays));
                    world.change_gate(stays, GateChange::Cut(other));
                }
                let leads = |world: &World| leader(world).is_some_and(|id| id != stays);
                run_until(&mut world, 5_000, leads);
            }
            let record = value(format!("v{number}"));
            submit_anywhere(&mut world, u128::from(number), std::slice::from_ref(&record));
            records.push(record);
        }
        let mut watch = Watch::default();
        world.take_happened();
        let had = identity(&mut world, wiped);
        world.crash(down, Survive::None);
        watch.mute(wiped, had.as_ref());
        restart_wiped(&mut world, wiped, WIPES[usize::try_from(random.below(3)).unwrap()]);
        for id in world.node_ids() {
            world.change_gate(id, GateChange::Heal);
        }
        nothing_is_confirmed(&mut world, &mut watch, 6_000)?;
        let state = world.replica(wiped).unwrap().identity().state;
        if state != IdentityState::Quarantined {
            return Err(format!("{wiped} is {} without a majority", state.as_str()));
        }
        world.start(down).unwrap();
        pass(&mut world, &mut watch, 3_000)?;
        // What was asked for meanwhile may have been appended by the one that stayed.
        submit_anywhere(&mut world, 0xaf, &[value("after")]);
        if !run_until(&mut world, 20_000, converged) {
            return Err(format!("{wiped} is not readmitted"));
        }
        for id in world.node_ids() {
            let found = read(&mut world, id).ok_or_else(|| format!("no read at {id}"))?;
            if !found.starts_with(&records) || found.last() != Some(&value("after")) {
                return Err(format!("{id} reads {found:?}, and {records:?} was acknowledged"));
            }
            if values(&mut world, id) != lines(&found) {
                return Err(format!("values.log of {id} is another"));
            }
        }
        Ok(())
    });
}

#[test]
fn two_wiped_of_five_are_in_no_majority() {
    for_seeds("two wiped, one down, of five", 0..40, |seed| {
        let mut random = Random::new(seed ^ 0x5d);
        let mut world = formed(WorldConfig::new(5, seed));
        await_leader(&mut world);
        submit_anywhere(&mut world, 1, &[value("a")]);
        if !run_until(&mut world, 5_000, converged) {
            return Err("five nodes do not agree".to_owned());
        }
        let mut nodes = world.node_ids();
        let mut take = || nodes.remove(usize::try_from(random.below(nodes.len() as u64)).unwrap());
        let (first, second, down) = (take(), take(), take());
        let mut watch = Watch::default();
        world.take_happened();
        world.crash(down, Survive::None);
        for id in [first, second] {
            let had = identity(&mut world, id);
            watch.mute(id, had.as_ref());
            world.crash(id, Survive::None);
            wipe(&mut world, id, Wipe::Directory);
        }
        for id in [first, second] {
            world.start(id).unwrap();
        }
        nothing_is_confirmed(&mut world, &mut watch, 3_000)?;
        world.start(down).unwrap();
        pass(&mut world, &mut watch, 2_000)?;
        submit_anywhere(&mut world, 2, &[value("b")]);
        if !run_until(&mut world, 30_000, converged) {
            return Err("they are not readmitted, one after the other".to_owned());
        }
        for id in world.node_ids() {
            let found = read(&mut world, id).ok_or_else(|| format!("no read at {id}"))?;
            if found.first() != Some(&value("a")) || found.last() != Some(&value("b")) {
                return Err(format!("{id} reads {found:?}"));
            }
        }
        Ok(())
    });
}

/// A node that has to give its log up dies in the middle of that, at each step: what the old disk had
/// promised is no promise of the new one, nor is its term.
#[test]
fn dying_while_the_old_log_is_set_aside() {
    let mut died = 0;
    for steps in 0..24 {
        let mut world = formed(WorldConfig::new(3, steps));
        await_leader(&mut world);
        submit_anywhere(&mut world, 1, &[value("a")]);
        assert!(run_until(&mut world, 5_000, converged));
        let id = others(&world, leader(&world).unwrap())[0];
        // It had been ahead of the others, and had voted for itself.
        let term = world.status(id).unwrap().hard_state.term.0 + 5;
        world.crash(id, Survive::None);
        let hard_state = HardState { term, vote: Some(id.slot()) };
        let (had, options) = (identity(&mut world, id).unwrap(), world.config().wal());
        prepare(world.disk(id), &had, hard_state, &[], options).unwrap();
        wipe(&mut world, id, Wipe::Identity);
        world.crash_in_write(id, steps, Survive::All);
        if world.start(id).is_err() {
            died += 1;
            world.crash(id, Survive::All);
        }
        world.disk(id).crash_after(None);
        if !world.is_up(id) {
            world.start(id).unwrap();
        }
        let has_rejoined = run_until(&mut world, 10_000, converged);
        assert!(has_rejoined, "step {steps}: {id} does not come back: {:?}", world.status(id));
    }
    assert!(died > 5, "there are fewer steps than thought: {died}");
}

/// Wiped again at any moment of its return: each time a new incarnation, and each time it returns.
#[test]
fn wiped_again_while_it_comes_back() {
    for_seeds("wiped again and again", 0..60, |seed| {
        let mut random = Random::new(seed ^ 0x77);
        let mut world = formed(WorldConfig::new(3, seed));
        await_leader(&mut world);
        for number in 0..20_u8 {
            submit_anywhere(&mut world, u128::from(number), &[value(format!("v{number}"))]);
        }
        let id = node(1 + u8::try_from(seed % 3).unwrap());
        let mut watch = Watch::default();
        world.take_happened();
        for _ in 0..1 + random.below(5) {
            let had = identity(&mut world, id);
            watch.mute(id, had.as_ref());
            restart_wiped(&mut world, id, WIPES[usize::try_from(random.below(3)).unwrap()]);
            let ms = random.below(400);
            pass(&mut world, &mut watch, ms)?;
        }
        if !run_until(&mut world, 20_000, converged) {
            return Err(format!("{id} is not readmitted"));
        }
        let found = read(&mut world, id).ok_or("no read")?;
        if found.len() != 20 {
            return Err(format!("{id} reads {} records of 20", found.len()));
        }
        Ok(())
    });
}
