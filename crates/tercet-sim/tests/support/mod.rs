//! What the tests of whole replicas share: a cluster that is formed, what is done to its
//! directories, and how a seed becomes a report.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::print_stderr, reason = "a test talks out loud")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{NodeId, RoleKind};
use tercet_replica::prepare::prepare;
use tercet_replica::{Identity, IdentityState, Submitted};
use tercet_sim::{Answer, OpId, World, WorldConfig};
use tercet_wal::{Disk, HardState, Survive};

/// What is taken away from a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wipe {
    Directory,
    Log,
    Identity,
}

/// Checks one seed after the other; the first that fails is the whole report.
pub(crate) fn for_seeds(
    what: &str,
    seeds: std::ops::Range<u64>,
    mut check: impl FnMut(u64) -> Result<(), String>,
) {
    for seed in seeds {
        if let Err(why) = caught(|| check(seed)) {
            panic!("seed {seed} of {what}: {why}");
        }
    }
}

/// What a check finds, be it that it says so or that something in a replica asserts.
pub(crate) fn caught(check: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_else(|| "without a word".to_owned())))
    })
}

pub(crate) fn node(slot: u8) -> NodeId {
    NodeId::new(slot).unwrap()
}

pub(crate) fn value(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

/// A cluster that was formed long ago, all of it running.
pub(crate) fn formed(config: WorldConfig) -> World {
    let mut world = World::new(config);
    let options = world.config().wal();
    for identity in world.identities() {
        let disk = world.disk(identity.node);
        prepare(disk, &identity, HardState::default(), &[], options.clone()).unwrap();
    }
    for id in world.node_ids() {
        world.start(id).unwrap();
    }
    world
}

pub(crate) fn run_ms(world: &mut World, ms: u64) {
    let end = world.now().after(Duration::from_millis(ms));
    while world.step(end) {}
}

/// Runs until it holds; `false` if it does not within that time.
pub(crate) fn run_until(world: &mut World, ms: u64, holds: impl Fn(&World) -> bool) -> bool {
    let end = world.now().after(Duration::from_millis(ms));
    loop {
        if holds(world) {
            return true;
        }
        if !world.step(end) {
            return holds(world);
        }
    }
}

/// Who leads, by the highest term.
pub(crate) fn leader(world: &World) -> Option<NodeId> {
    let raft = |id: &NodeId| world.replica(*id).and_then(|replica| replica.raft());
    let leads = |id: &NodeId| {
        !world.is_paused(*id) && raft(id).is_some_and(|raft| raft.role() == RoleKind::Leader)
    };
    let leaders = world.node_ids().into_iter().filter(leads);
    leaders.max_by_key(|id| raft(id).map(|raft| raft.term()))
}

pub(crate) fn await_leader(world: &mut World) -> NodeId {
    assert!(run_until(world, 5_000, |world| leader(world).is_some()), "a leader within 5 s");
    leader(world).unwrap()
}

/// A client that waits for its answer.
pub(crate) fn submit(world: &mut World, at: NodeId, id: u128, records: &[Bytes]) -> Answer {
    let op = world.submit(at, id, records.to_vec());
    await_answer(world, op)
}

/// The answer; that there is none for two seconds counts as one, too.
pub(crate) fn await_answer(world: &mut World, op: OpId) -> Answer {
    run_until(world, 2_000, |world| world.answer(op).is_some());
    world.answer(op).cloned().unwrap_or(Answer::Unknown)
}

/// A client that goes from node to node until its records are committed.
pub(crate) fn submit_anywhere(world: &mut World, id: u128, records: &[Bytes]) -> Submitted {
    for _ in 0..200 {
        let at = leader(world).unwrap_or_else(|| node(1));
        if let Answer::Submitted(done) = submit(world, at, id, records) {
            return done;
        }
        run_ms(world, 50);
    }
    panic!("request {id} was not answered");
}

/// All records, as a linearizable read at a node gives them.
pub(crate) fn read(world: &mut World, at: NodeId) -> Option<Vec<Bytes>> {
    let op = world.read(at, false);
    match await_answer(world, op) {
        Answer::Read(values) => Some(values),
        Answer::Submitted(_) | Answer::Refused { .. } | Answer::Unknown => None,
    }
}

/// Takes files away, behind the back of a node that may run. What is gone is durably gone.
pub(crate) fn wipe(world: &mut World, id: NodeId, what: Wipe) {
    let disk = world.disk(id);
    let mut gone = Vec::new();
    if what != Wipe::Identity {
        gone.extend(disk.list("wal").unwrap().into_iter().map(|name| format!("wal/{name}")));
    }
    if what == Wipe::Directory {
        gone.extend(disk.list("lost").unwrap().into_iter().map(|name| format!("lost/{name}")));
        gone.extend(disk.list("").unwrap());
    } else if what == Wipe::Identity {
        gone.push("identity".to_owned());
    }
    for name in gone {
        // Its identity may not have been written yet.
        if disk.open(&name).unwrap().is_some() {
            disk.remove(&name).unwrap();
        }
    }
    disk.sync_dir("").unwrap();
}

/// Crashes, wipes and starts a node.
pub(crate) fn restart_wiped(world: &mut World, id: NodeId, what: Wipe) {
    if world.is_up(id) {
        world.crash(id, Survive::None);
    }
    wipe(world, id, what);
    start(world, id);
}

/// Starts a node, again if its disk fails it meanwhile.
pub(crate) fn start(world: &mut World, id: NodeId) {
    if world.start(id).is_err() {
        world.crash(id, Survive::All);
        world.start(id).unwrap();
    }
}

/// The identity that a node has on its disk.
pub(crate) fn identity(world: &mut World, id: NodeId) -> Option<Identity> {
    Identity::load(world.disk(id)).ok().flatten().map(|(identity, _)| identity)
}

pub(crate) fn is_voter(world: &World, id: NodeId) -> bool {
    world.replica(id).is_some_and(|replica| replica.identity().state == IdentityState::Voter)
}

/// The bytes of `values.log`.
pub(crate) fn values(world: &mut World, id: NodeId) -> Vec<u8> {
    world.disk(id).contents("values.log").unwrap_or_default()
}

/// What `values.log` holds for these records, which need no escapes.
pub(crate) fn lines(records: &[Bytes]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        out.extend_from_slice(b"write ");
        out.extend_from_slice(record);
        out.push(b'\n');
    }
    out
}

/// Whether everybody runs, votes, and has applied the same log to its end.
pub(crate) fn converged(world: &World) -> bool {
    let end = |id: NodeId| {
        let status = world.replica(id)?.status();
        let raft = status.raft?;
        let is_settled = status.identity.state == IdentityState::Voter
            && !world.is_paused(id)
            && raft.role != RoleKind::Quarantined
            && raft.commit == raft.last.index
            && raft.applied == raft.commit
            && status.values_index == raft.applied.0;
        is_settled.then_some(raft.last)
    };
    let ends: Vec<_> = world.node_ids().into_iter().map(end).collect();
    leader(world).is_some() && ends[0].is_some() && ends.iter().all(|end| *end == ends[0])
}
