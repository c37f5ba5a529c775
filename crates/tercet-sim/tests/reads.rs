//! A read gives what was asked for, wherever it begins and ends: entries with no, one and many
//! records, in memory and on disk.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use bytes::Bytes;
use support::{await_leader, formed, node, run_ms, run_until, value};
use tercet_replica::{ReadError, Record};
use tercet_sim::{World, WorldConfig};
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

/// Many readers go on, one after the other and each where it was: in pages that end with an entry,
/// and in such that end inside of one.
#[test]
fn readers_go_on_where_they_were() {
    let mut world = formed(WorldConfig::new(3, 11));
    let mut expected: Vec<Bytes> = Vec::new();
    let leader = await_leader(&mut world);
    for (nth, size) in SIZES.iter().cycle().take(100).enumerate() {
        let records: Vec<Bytes> = (0..*size).map(|i| value(format!("{nth} {i}"))).collect();
        expected.extend(records.iter().cloned());
        let op = world.submit(leader, 1 + nth as u128, records);
        assert!(run_until(&mut world, 5000, |world| world.answer(op).is_some()));
    }
    // An entry without records is passed over; what comes behind it is read, too.
    world.crash(leader, Survive::All);
    let leader = await_leader(&mut world);
    let await_all = |world: &mut World, expected: &[Bytes]| {
        let end = expected.len() as u64 + 1;
        let is_there = |world: &World| world.replica(leader).unwrap().next_seq() == end;
        assert!(run_until(world, 5000, is_there));
    };
    await_all(&mut world, &expected);
    let limits = [(3, 20), (7, 64), (usize::MAX, 300)].into_iter().cycle();
    let mut readers: Vec<_> = (1..90).step_by(3).zip(limits).collect();
    let mut is_complete = false;
    while !readers.is_empty() {
        let replica = world.replica(leader).unwrap();
        readers.retain_mut(|(from, (limit, bytes_max))| {
            let got = replica.read(*from, *limit, *bytes_max).unwrap();
            check(&got, &expected, *from, *limit, *bytes_max);
            *from += got.len() as u64;
            !got.is_empty()
        });
        // Some are at the end already.
        if readers.len() < 20 && !is_complete {
            is_complete = true;
            expected.push(value("the last"));
            world.submit(leader, 1000, expected[expected.len() - 1..].to_vec());
            await_all(&mut world, &expected);
        }
    }
    assert!(is_complete);
}

/// What a read finds damaged is fetched from the others at once, not when the scrubber comes by.
#[test]
fn damage_that_a_read_meets_is_repaired() {
    let mut world = formed(WorldConfig::new(3, 5));
    let leader = await_leader(&mut world);
    let records: Vec<Bytes> = (0..20).map(|nth| value(format!("value number {nth}"))).collect();
    for (nth, record) in (1..).zip(&records) {
        let op = world.submit(leader, nth, vec![record.clone()]);
        assert!(run_until(&mut world, 5000, |world| world.answer(op).is_some()));
    }
    for id in [1, 2, 3].map(node) {
        // One that was started again has nothing in memory yet, and the scrubber has looked at all.
        world.crash(id, Survive::All);
        world.start(id).unwrap();
        run_ms(&mut world, 2000);
        for (seq, limit) in [(8, 1), (12, 100)] {
            let wanted = &records[usize::try_from(seq - 1).unwrap()];
            let segment = "wal/00000001.seg";
            let bytes = world.disk(id).contents(segment).unwrap();
            let at = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap();
            world.disk(id).damage(segment, at, &[1]);
            let error = world.replica(id).unwrap().read(seq, limit, usize::MAX).unwrap_err();
            assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
            let is_back = |world: &World| {
                world
                    .replica(id)
                    .unwrap()
                    .read(seq, 1, usize::MAX)
                    .is_ok_and(|got| got[0].value == wanted)
            };
            assert!(run_until(&mut world, 1000, is_back), "{id} has not repaired what was read");
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
    // Never more than the limits let through, where the last one may go beyond the bytes; and no less
    // than half of that.
    let (mut bytes, mut half) = (0, 0);
    let fits = |value: &&Bytes| {
        let fits = bytes == 0 || bytes < bytes_max;
        half += usize::from(bytes == 0 || bytes < bytes_max.div_ceil(2));
        bytes += value.len();
        fits
    };
    let most = there.iter().take_while(fits).count().min(limit);
    assert!(got.len() <= most && got.len() >= half.min(limit), "{what}: {} records", got.len());
}
