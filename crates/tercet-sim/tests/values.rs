//! `values.log` is for people, and made of the log: whatever is done to it, while its node runs or
//! while it is down, it is made again, and nothing else suffers.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use bytes::Bytes;
use support::{
    await_leader, converged, for_seeds, formed, lines, node, run_ms, run_until, submit_anywhere,
    value, values,
};
use tercet_raft::NodeId;
use tercet_sim::{What, World, WorldConfig};
use tercet_wal::{Disk, DiskFile, MemDisk, MemFile, Survive};

const FILE: &str = "values.log";

/// What somebody does to the file, and whether a node that starts with it has something to warn of:
/// a file that ends early is what any crash leaves, since it is never synced.
type Edit = (&'static str, fn(&mut MemDisk), bool);

fn file(disk: &mut MemDisk) -> MemFile {
    disk.open(FILE).unwrap().unwrap()
}

fn remove(disk: &mut MemDisk) {
    disk.remove(FILE).unwrap();
}

const EDITS: [Edit; 6] = [
    ("removed", remove, false),
    ("emptied", |disk| file(disk).set_len(0).unwrap(), false),
    (
        "cut in a line",
        |disk| {
            let file = file(disk);
            file.set_len(file.len().unwrap() / 2 + 1).unwrap();
        },
        true,
    ),
    (
        "continued",
        |disk| {
            let file = file(disk);
            file.write_at(b"write nobody\n", file.len().unwrap()).unwrap();
        },
        true,
    ),
    (
        "replaced",
        |disk| {
            let bytes = disk.contents(FILE).unwrap();
            remove(disk);
            disk.create(FILE).unwrap().write_at(&bytes, 0).unwrap();
        },
        false,
    ),
    ("edited", |disk| file(disk).write_at(b"WRITE", 0).unwrap(), true),
];

fn filled(seed: u64) -> (World, Vec<Bytes>) {
    let mut world = formed(WorldConfig::new(3, seed));
    await_leader(&mut world);
    let records: Vec<Bytes> = (0..30).map(|number| value(format!("v{number}"))).collect();
    for (records, id) in records.chunks(3).zip(1..) {
        submit_anywhere(&mut world, id, records);
    }
    assert!(run_until(&mut world, 5_000, converged));
    for id in world.node_ids() {
        assert_eq!(values(&mut world, id), lines(&records), "{id}");
    }
    world.take_happened();
    (world, records)
}

fn warnings(world: &mut World, of: NodeId) -> Vec<String> {
    let happened = world.take_happened().into_iter().filter(|happened| happened.node == of);
    happened
        .filter_map(|happened| match happened.what {
            What::Warning(text) => Some(text),
            What::Core(_) | What::Notice(_) | What::Stopped(_) => None,
        })
        .collect()
}

#[test]
fn edits_under_a_running_node_are_undone_with_a_warning() {
    for_seeds("edits under a running node", 0..8, |seed| {
        // An edit that leaves file and length as they were is found at the next start.
        for (name, edit, _) in EDITS.iter().filter(|(name, ..)| *name != "edited") {
            let (mut world, mut records) = filled(seed);
            let id = node(1 + u8::try_from(seed % 3).unwrap());
            edit(world.disk(id));
            let is_written_to = seed.is_multiple_of(2);
            if is_written_to {
                records.push(value("later"));
                submit_anywhere(&mut world, 100, &records[30..]);
            }
            run_ms(&mut world, 300);
            let found = warnings(&mut world, id);
            assert!(found.len() == 1 && found[0].contains(FILE), "{name}: {found:?}");
            assert_eq!(values(&mut world, id), lines(&records), "{name} on {id}");
        }
        Ok(())
    });
}

#[test]
fn edits_before_a_start_are_undone() {
    for_seeds("edits before a start", 0..8, |seed| {
        for (name, edit, warns) in EDITS {
            let (mut world, records) = filled(seed);
            let id = node(1 + u8::try_from(seed % 3).unwrap());
            world.crash(id, Survive::All);
            edit(world.disk(id));
            world.start(id).unwrap();
            assert!(run_until(&mut world, 5_000, converged), "{name}");
            run_ms(&mut world, 200);
            let found = warnings(&mut world, id);
            assert_eq!(!found.is_empty(), warns, "{name}: {found:?}");
            assert!(found.iter().all(|text| text.contains(FILE)), "{name}: {found:?}");
            assert_eq!(values(&mut world, id), lines(&records), "{name} on {id}");
        }
        Ok(())
    });
}

/// Nothing of the file is ever synced: after a power cut it is empty, or full of holes.
#[test]
fn what_a_power_cut_leaves_of_the_file_is_made_whole() {
    for_seeds("power cuts", 0..40, |seed| {
        let (mut world, records) = filled(seed);
        let survive = if seed == 0 { Survive::None } else { Survive::Random(seed * 7919) };
        for id in world.node_ids() {
            world.crash(id, survive);
        }
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        await_leader(&mut world);
        assert!(run_until(&mut world, 5_000, converged));
        for id in world.node_ids() {
            assert_eq!(values(&mut world, id), lines(&records), "{id}");
        }
        Ok(())
    });
}

/// A file with lines of entries that were never committed, and are replaced by others.
#[test]
fn lines_of_entries_that_were_never_committed_go() {
    for_seeds("lines too early", 0..20, |seed| {
        let (mut world, mut records) = filled(seed);
        let old = await_leader(&mut world);
        let others = world.node_ids().into_iter().filter(|id| *id != old);
        for other in others {
            world.change_gate(old, tercet_replica::gate::GateChange::Cut(other));
        }
        world.submit(old, 100, vec![value("lost")]);
        run_ms(&mut world, 20);
        world.crash(old, Survive::All);
        let end = lines(&records).len() as u64;
        file(world.disk(old)).write_at(b"write lost\n", end).unwrap();
        records.push(value("found"));
        submit_anywhere(&mut world, 101, &records[30..]);
        world.change_gate(old, tercet_replica::gate::GateChange::Heal);
        world.start(old).unwrap();
        assert!(run_until(&mut world, 20_000, converged));
        run_ms(&mut world, 200);
        assert_eq!(values(&mut world, old), lines(&records), "{old}");
        Ok(())
    });
}
