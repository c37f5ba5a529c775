//! Power fails at every write, sync and directory change of a random workload, and what was not
//! synced survives wholly, not at all, or by pages at random. What recovery then makes of it is
//! compared with a plain model, and with a second, dumb implementation of its rules that knows
//! what was being written.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use std::ops::Range;

use support::made::parts_of;
use support::{Image, Model, Rng, append, entry, image, open_all, open_known, small, state};
use tercet_wal::{Batch, Disk as _, DiskFile as _, Entry, MemDisk, Survive, Wal, WalError};

/// One step of a workload.
#[derive(Clone, Debug)]
enum Op {
    /// These are staged one after the other and written as one frame.
    Commit(Vec<Batch>),
    /// The process starts again, without a crash.
    Reopen,
}

/// A workload. Its seed also says of what style it is: few large entries fill segments, many small
/// ones fill the identifiers' side.
fn script(seed: u64) -> Vec<Op> {
    let mut rng = Rng(seed);
    let (commits, entries_max, body_max) =
        [(10, 4, 300), (12, 3, 24_000), (6, 200, 40), (14, 2, 3_000)]
            [usize::try_from(seed % 4).unwrap()];
    let mut ops = Vec::new();
    let mut model = Model::default();
    for _ in 0..commits {
        if rng.one_in(8) {
            ops.push(Op::Reopen);
        }
        let mut batches = Vec::new();
        for _ in 0..=rng.below(3) {
            let mut batch = Batch::default();
            if rng.one_in(3) || model.hard_state.term == 0 {
                let term = model.hard_state.term + 1;
                batch.hard_state = state(term, u8::try_from(rng.below(4)).unwrap()).hard_state;
            }
            if model.last() > 0 && rng.one_in(3) {
                batch.truncate_from = Some(1 + rng.below(model.last()));
            }
            let term = batch.hard_state.unwrap_or(model.hard_state).term;
            let kept = batch.truncate_from.map_or(model.last(), |from| from - 1);
            for index in kept + 1..=kept + rng.below(entries_max + 1) {
                let length = rng.below(body_max);
                batch.entries.push(entry(term, index, &rng.bytes(length)));
            }
            model.apply(&batch);
            batches.push(batch);
        }
        ops.push(Op::Commit(batches));
    }
    ops
}

/// What is known when the machine has died.
struct Dead {
    disk: MemDisk,
    /// What was acknowledged; `None` if not even the making of the log was.
    synced: Option<Model>,
    /// What was being written: the log as it would be then, and the entries of that frame.
    in_flight: Option<(Model, Vec<Entry>)>,
}

/// Runs a workload on a machine that dies after so many steps; `None` if it lived to the end.
fn run(ops: &[Op], steps: u64) -> Option<Dead> {
    let mut disk = MemDisk::new();
    disk.crash_after(Some(steps));
    let Ok(mut wal) = Wal::create(&mut disk, small()) else {
        return Some(Dead { disk, synced: None, in_flight: None });
    };
    let mut synced = Model::default();
    for op in ops {
        match op {
            Op::Reopen => match Wal::open(&mut disk, small()) {
                Ok((opened, _)) => wal = opened,
                Err(_) => return Some(Dead { disk, synced: Some(synced), in_flight: None }),
            },
            Op::Commit(batches) => {
                let mut next = synced.clone();
                let mut frame: Vec<Entry> = Vec::new();
                for batch in batches {
                    next.apply(batch);
                    if let Some(from) = batch.truncate_from {
                        frame.retain(|entry| entry.header.index < from);
                    }
                    frame.extend(batch.entries.iter().cloned());
                    wal.stage(batch.clone());
                }
                if wal.commit(&mut disk).is_err() {
                    let again = wal.commit(&mut disk);
                    assert!(matches!(again, Err(WalError::Poisoned)), "{again:?}");
                    let in_flight = Some((next, frame));
                    return Some(Dead { disk, synced: Some(synced), in_flight });
                }
                synced = next;
            }
        }
    }
    None
}

/// The frame that was being written: where its parts and their identifiers stand, its header first.
struct InFlight {
    segment: String,
    parts: Vec<Range<usize>>,
    ids: Vec<Range<usize>>,
}

/// Finds what was being written by comparing what would be there if all survived with what would
/// be there if nothing did. `None` if the machine died before it wrote the frame.
fn find_in_flight(all: &Image, none: &Image, entries: &[Entry]) -> Option<InFlight> {
    const HEADER: usize = 4096;
    for (segment, bytes) in all {
        let old = none.get(segment)?;
        if bytes == old {
            continue;
        }
        let mut differing = (HEADER..bytes.len()).filter(|at| bytes[*at] != old[*at]);
        let Some(start) = differing.next() else { continue };
        let last = differing.next_back().unwrap_or(start);
        let parts = parts_of(start, entries);
        let mut ids = Vec::new();
        if last >= parts.last()?.end {
            // The highest identifier ends at a multiple of its length from the file's end.
            let top = bytes.len() - (bytes.len() - 1 - last) / 48 * 48;
            ids = (0..=entries.len()).map(|i| top - 48 * (i + 1)..top - 48 * i).collect();
        }
        return Some(InFlight { segment: segment.clone(), parts, ids });
    }
    None
}

impl Dead {
    /// Where the write in flight stands, and the bytes of its segment if all of it survives.
    fn in_flight_bytes(&self) -> Option<(InFlight, Vec<u8>)> {
        let (_, entries) = self.in_flight.as_ref()?;
        let mut all = image(&self.disk.after_crash(Survive::All));
        let none = image(&self.disk.after_crash(Survive::None));
        let place = find_in_flight(&all, &none, entries)?;
        let bytes = all.remove(&place.segment)?;
        Some((place, bytes))
    }
}

/// How often each outcome was seen, so that a workload that shows nothing is noticed.
#[derive(Default, Debug)]
struct Seen {
    nothing_written: u64,
    cut: u64,
    kept: u64,
    faulty: u64,
    not_made: u64,
}

/// What recovery must find, decided by someone who knows what was being written: the log, and which
/// entries of it are faulty.
fn expected(
    dead: &Dead,
    in_flight: Option<&(InFlight, Vec<u8>)>,
    found: &Image,
    seen: &mut Seen,
) -> (Model, Vec<u64>) {
    let synced = dead.synced.clone().expect("the log was made");
    let (Some((place, written)), Some((model, entries))) = (in_flight, &dead.in_flight) else {
        seen.nothing_written += 1;
        return (synced, Vec::new());
    };
    let found = &found[&place.segment];
    let is_there = |range: &Range<usize>| written[range.clone()] == found[range.clone()];
    let has_id = |part: usize| place.ids.get(part).is_some_and(&is_there);
    // A large frame is written in several steps: of its entries there may be only a part.
    let is_whole = |part: usize| {
        let range = &place.parts[part];
        part.checked_sub(1)
            .map_or_else(|| is_there(range), |at| found[range.clone()] == entries[at].frame[..])
    };
    let lost: Vec<usize> = (0..place.parts.len()).filter(|part| !is_whole(*part)).collect();
    if !lost.iter().all(|part| has_id(*part)) {
        seen.cut += 1;
        return (synced, Vec::new());
    }
    // The entries of a frame are the log's last; part 0 is its header, which is written again.
    let before = model.last() + 1 - place.parts.len() as u64;
    let faulty: Vec<u64> =
        lost.iter().filter(|part| **part > 0).map(|part| before + *part as u64).collect();
    *(if faulty.is_empty() { &mut seen.kept } else { &mut seen.faulty }) += 1;
    (model.clone(), faulty)
}

fn check(
    dead: &Dead,
    in_flight: Option<&(InFlight, Vec<u8>)>,
    survive: Survive,
    seen: &mut Seen,
    label: &str,
) {
    let mut disk = dead.disk.after_crash(survive);
    let before = image(&disk);
    if dead.synced.is_none() {
        seen.not_made += 1;
        match open_all(&mut disk, small()) {
            Ok((_, _, model)) => assert_eq!(model, Model::default(), "{label}"),
            Err(error) => assert!(
                matches!(error, WalError::Missing { .. } | WalError::Corrupt { .. }),
                "{label}: {error}"
            ),
        }
        return;
    }
    let (model, faulty) = expected(dead, in_flight, &before, seen);
    let (wal, _, found) = open_known(&mut disk, &model, label)
        .unwrap_or_else(|error| panic!("{label}: a crash is no fault: {error}"));
    assert_eq!(found, faulty, "{label}");
    go_on(wal, disk.clone(), &model, &faulty, label);
    if survive != Survive::None {
        crash_recovery(dead, survive, &model, &faulty, label);
    }
}

/// What was recovered is durable by itself, and can be written to; what is faulty can be repaired,
/// and can be cut.
fn go_on(mut wal: Wal<MemDisk>, disk: MemDisk, model: &Model, faulty: &[u64], label: &str) {
    let mut model = model.clone();
    let mut again = disk.after_crash(Survive::None);
    let (mut cut, recovered, found) = open_known(&mut again, &model, label).expect(label);
    assert_eq!(found, faulty, "{label}: what was recovered was not durable");
    assert_eq!(recovered.torn_tail, None, "{label}: a torn tail is mended once");
    // All of the entries are offered, and only what is faulty is taken.
    assert_eq!(wal.repair(&model.entries).unwrap(), faulty, "{label}");
    if let Some(first) = faulty.first() {
        let mut model = model.clone();
        let batch = Batch { truncate_from: Some(*first), ..Batch::default() };
        model.apply(&batch);
        support::write(&mut cut, &mut again, batch);
        assert_eq!(cut.faulty().next(), None, "{label}: nothing is left of what was cut");
        let mut again = again.after_crash(Survive::None);
        assert_eq!(open_known(&mut again, &model, label).expect(label).2, [0; 0], "{label}");
    }
    let mut disk = disk;
    let next = append(vec![entry(model.hard_state.term + 1, model.last() + 1, b"afterwards")]);
    let batch = Batch { hard_state: state(model.hard_state.term + 1, 2).hard_state, ..next };
    model.apply(&batch);
    support::write(&mut wal, &mut disk, batch);
    let mut again = disk.after_crash(Survive::None);
    let (_, _, found) = open_all(&mut again, small()).expect(label);
    assert!(found == model, "{label}: what was written after recovery is there");
}

/// Recovery itself is cut short at each of its steps.
fn crash_recovery(dead: &Dead, survive: Survive, model: &Model, faulty: &[u64], label: &str) {
    for steps in 0.. {
        let mut disk = dead.disk.after_crash(survive);
        disk.crash_after(Some(steps));
        if Wal::open(&mut disk, small()).is_ok() {
            return;
        }
        let mut again = disk.after_crash(Survive::Random(steps.wrapping_mul(0x9e37_79b9)));
        let label = format!("{label}, recovery cut short at {steps}");
        let (_, _, found) = open_known(&mut again, model, &label)
            .unwrap_or_else(|error| panic!("{label}: {error}"));
        assert_eq!(found, faulty, "{label}");
    }
}

#[test]
fn a_crash_at_every_step_loses_nothing_that_was_synced() {
    crash_everywhere(0..4);
}

/// The same with other seeds, beside it on another core.
#[test]
fn a_crash_at_every_step_loses_nothing_that_was_synced_either() {
    crash_everywhere(4..8);
}

fn crash_everywhere(seeds: Range<u64>) {
    let mut seen = Seen::default();
    for seed in seeds {
        crash_at_every_step(&script(seed), seed, &mut seen);
    }
    let Seen { nothing_written, cut, kept, faulty, not_made } = seen;
    for outcome in [nothing_written, cut, kept, faulty, not_made] {
        assert!(outcome > 10, "every outcome is seen: {seen:?}");
    }
}

fn crash_at_every_step(ops: &[Op], seed: u64, seen: &mut Seen) {
    let mut steps = 0;
    while let Some(dead) = run(ops, steps) {
        let in_flight = dead.in_flight_bytes();
        let coins = (0..3).map(|coin| Survive::Random(Rng(seed << 32 | steps << 8 | coin).next()));
        for survive in [Survive::None, Survive::All].into_iter().chain(coins) {
            let label = format!("seed {seed}, crash after {steps} steps, {survive:?} survives");
            check(&dead, in_flight.as_ref(), survive, seen, &label);
        }
        steps += 1;
    }
    assert!(steps > 10, "seed {seed} wrote something");
}

/// A large frame is written in several steps, and not all of them in the same way.
#[test]
fn a_crash_within_a_large_frame_loses_nothing_that_was_synced() {
    let mut seen = Seen::default();
    let bytes = |index: u64, length: usize| entry(1, index, &Rng(index).bytes(length as u64));
    let commit = |entries: Vec<Entry>| Op::Commit(vec![append(entries)]);
    let ops = [
        Op::Commit(vec![state(1, 1)]),
        commit(vec![bytes(1, 100)]),
        commit((2..=4).map(|index| bytes(index, 400_000)).collect()),
        commit(vec![bytes(5, 1000)]),
        commit(vec![bytes(6, 600_000)]),
        commit(vec![bytes(7, 10)]),
    ];
    crash_at_every_step(&ops, 1, &mut seen);
    for outcome in [seen.nothing_written, seen.cut, seen.kept, seen.faulty] {
        assert!(outcome > 0, "every outcome is seen: {seen:?}");
    }
}

#[test]
fn the_workloads_roll_and_cut_across_segments() {
    let segments: Vec<usize> = (0..8)
        .map(|seed| {
            let mut disk = MemDisk::new();
            let mut wal = Wal::create(&mut disk, small()).unwrap();
            for op in script(seed) {
                if let Op::Commit(batches) = op {
                    batches.into_iter().for_each(|batch| wal.stage(batch));
                    wal.commit(&mut disk).unwrap();
                }
            }
            image(&disk).len()
        })
        .collect();
    assert!(segments.iter().any(|count| *count >= 4), "{segments:?}");
    assert!(segments.contains(&1), "{segments:?}");
}

/// A frame that cuts the log may be the first of a segment: the segment's header then tells where
/// the log ended before the cut, for that is what recovery compares it with.
#[test]
fn a_cut_that_begins_a_segment_is_recovered() {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    let mut model = Model::default();
    for index in 1..=3 {
        let batch = append(vec![entry(1, index, &[7; 15_000])]);
        model.apply(&batch);
        support::write(&mut wal, &mut disk, batch);
    }
    let before = image(&disk).len();
    let batch = Batch {
        truncate_from: Some(2),
        entries: vec![entry(2, 2, &[8; 60_000])],
        ..Batch::default()
    };
    model.apply(&batch);
    support::write(&mut wal, &mut disk, batch);
    assert_eq!(image(&disk).len(), before + 1, "the cut began a segment");
    let (_, _, found) = open_all(&mut disk, small()).unwrap();
    assert_eq!(found, model);
}

/// The process dies, not the machine: what was written but never synced is found in memory, counts,
/// and is durable before anybody hears of it.
#[test]
fn what_is_found_in_memory_only_is_made_durable() {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    let mut model = Model::default();
    support::write(&mut wal, &mut disk, state(1, 1));
    let batch = Batch { entries: vec![entry(1, 1, b"in memory")], ..state(1, 1) };
    model.apply(&batch);
    wal.stage(batch);
    // It dies between its two writes and their sync.
    disk.crash_after(Some(2));
    assert!(matches!(wal.commit(&mut disk), Err(WalError::Io { op: "sync", .. })));
    disk.crash_after(None);
    let lost = open_all(&mut disk.after_crash(Survive::None), small()).unwrap().2;
    assert_eq!(lost.last(), 0, "it was not durable");
    assert_eq!(open_all(&mut disk, small()).unwrap().2, model);
    let kept = open_all(&mut disk.after_crash(Survive::None), small()).unwrap().2;
    assert_eq!(kept, model);
}

/// As Linux does it: pages that a sync failed to write look clean, so that the next sync says that
/// all is well, and writes none of them. What a log finds of them when it is opened is not there.
#[test]
fn a_sync_that_failed_is_not_made_good_by_another() {
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, small()).unwrap();
    support::write(&mut wal, &mut disk, state(1, 1));
    wal.stage(Batch { entries: vec![entry(1, 1, b"looks clean")], ..state(1, 1) });
    disk.fail_sync(1);
    assert!(matches!(wal.commit(&mut disk), Err(WalError::Io { op: "sync", .. })));
    disk.open("wal/00000001.seg").unwrap().unwrap().sync().unwrap();
    let lost = open_all(&mut disk.after_crash(Survive::None), small()).unwrap().2;
    assert_eq!(lost.last(), 0, "the second sync wrote nothing");
    assert_eq!(open_all(&mut disk, small()).unwrap().2.last(), 0, "nor is it found in memory");
}
