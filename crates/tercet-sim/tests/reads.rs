//! A read gives what was asked for, wherever it begins and ends: entries with no, one and many
//! records, in memory and on disk.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use bytes::Bytes;
use support::{await_leader, formed, node, run_ms, run_until, value};
use tercet_replica::Record;
use tercet_sim::WorldConfig;
use tercet_wal::Survive;

/// How many records the requests have, one after the other, in turns of this order.
const SIZES: [usize; 8] = [1, 1, 7, 1, 40, 1, 2, 1];

#[test]
fn any_range_is_what_is_in_the_log() {
    let mut world = formed(WorldConfig::new(3, 7));
    let mut expected: Vec<Bytes> = Vec::new();
    for round in 0..3 {
        let leader = await_leader(&mut world);
        for (nth, size) in SIZES.iter().cycle().take(30).enumerate() {
            let records: Vec<Bytes> =
                (0..*size).map(|i| value(format!("{round} {nth} {}", "x".repeat(i)))).collect();
            expected.extend(records.iter().cloned());
            let op = world.submit(leader, 1 + expected.len() as u128, records);
            assert!(run_until(&mut world, 5000, |world| world.answer(op).is_some()));
        }
        // The next leader begins with an entry that has no records.
        world.crash(leader, Survive::All);
        run_ms(&mut world, 1000);
        world.start(leader).unwrap();
    }
    await_leader(&mut world);
    run_ms(&mut world, 2000);
    let count = expected.len() as u64;
    for id in [1, 2, 3].map(node) {
        // One that was started again has nothing in memory yet.
        world.crash(id, Survive::All);
        world.start(id).unwrap();
        run_ms(&mut world, 2000);
        let replica = world.replica(id).unwrap();
        assert_eq!(replica.next_seq(), count + 1, "{id} has applied all");
        for from in scattered(count) {
            let got = replica.read(from, 1, usize::MAX).unwrap();
            check(&got, &expected, from, 1, usize::MAX);
        }
        for from in (1..=count + 2).step_by(3) {
            for limit in [0, 1, 2, 8, 41, usize::MAX] {
                for bytes_max in [0, 1, 100, usize::MAX] {
                    let got = replica.read(from, limit, bytes_max).unwrap();
                    check(&got, &expected, from, limit, bytes_max);
                }
            }
        }
    }
}

/// A single record is looked for where it would stand beside the one before it.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (0..2 * count).map(move |nth| 1 + nth * 37 % (count + 2))
}

fn check(got: &[Record], expected: &[Bytes], from: u64, limit: usize, bytes_max: usize) {
    let what = format!("from {from}, at most {limit}, about {bytes_max} bytes");
    let start = usize::try_from(from - 1).unwrap();
    let there = expected.get(start..).unwrap_or_default();
    for ((nth, record), value) in got.iter().enumerate().zip(there) {
        assert_eq!((record.seq, &record.value), (from + nth as u64, value), "{what}");
    }
    // As many as the limits let through: the last one may go beyond the bytes.
    let mut bytes = 0;
    let fits = |value: &&Bytes| {
        let fits = bytes == 0 || bytes < bytes_max;
        bytes += value.len();
        fits
    };
    assert_eq!(got.len(), there.iter().take_while(fits).count().min(limit), "{what}");
}
