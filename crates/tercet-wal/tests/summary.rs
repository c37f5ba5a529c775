//! Sealed segments that are opened by their summaries, and not read: whatever is damaged in them is
//! found by reads and by the scrub, nothing that was known to be damaged is forgotten, and a summary
//! that is not whole, or not there, costs nothing but a read of the segment.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use support::made::{HEADER, Made, two_segments};
use support::{
    Image, Model, Rng, append, crc_by_bits, disk_of, entry, image, image_with_summaries,
    open_known, read_all, segment, small, state, write,
};
use tercet_wal::{
    Batch, Disk, DiskFile, Entry, EntryHeader, MemDisk, Survive, Wal, WalError, WalOptions,
};

const SUMMARY: std::ops::Range<usize> = 1024..4096;

/// A few segments with many small frames: entries, cuts that reach back into other segments, votes.
fn dense(seed: u64) -> Made {
    let mut made = Made::new();
    let mut rng = Rng(seed);
    made.write(state(1, 1));
    while made.last().segment < 4 {
        let mut batch = Batch::default();
        if rng.one_in(9) {
            batch = state(made.model.hard_state.term + 1, 1);
        }
        if made.model.last() > 0 && rng.one_in(11) {
            let depth = if rng.one_in(8) { 900 } else { 20 };
            batch.truncate_from = Some(made.model.last().saturating_sub(rng.below(depth)).max(1));
        }
        let term = batch.hard_state.unwrap_or(made.model.hard_state).term;
        let kept = batch.truncate_from.map_or(made.model.last(), |from| from - 1);
        for index in kept + 1..=kept + rng.below(30) {
            let length = rng.below(60);
            batch.entries.push(entry(term, index, &rng.bytes(length)));
        }
        made.write(batch);
    }
    made
}

fn scrub_all(wal: &mut Wal<MemDisk>) -> Vec<u64> {
    let (mut next, mut found) = (1, Vec::new());
    loop {
        let (then, damaged) = wal.scrub(next, 7_000).unwrap();
        found.extend(damaged);
        next = then;
        if next == 1 {
            return found;
        }
    }
}

/// Reads a log whole, around what is damaged; gives that.
fn read_around(wal: &mut Wal<MemDisk>, disk: &MemDisk, model: &Model, label: &str) -> Vec<u64> {
    let mut faulty = Vec::new();
    let mut next = 1;
    while next <= model.last() {
        let rest = &model.entries[usize::try_from(next - 1).unwrap()..];
        match wal.read(disk, next, model.last(), 3_000) {
            Ok(found) => {
                assert!(!found.is_empty() && found == rest[..found.len()], "{label}: at {next}");
                next += found.len() as u64;
            }
            Err(WalError::Faulty { index, .. }) => {
                assert_eq!(index, next, "{label}: a read stops before what is damaged");
                wal.note_faulty(index).unwrap_or_else(|error| panic!("{label}: {error}"));
                assert_eq!(wal.header(disk, index).unwrap().crc, rest[0].header.crc, "{label}");
                faulty.push(index);
                next += 1;
            }
            Err(error) => panic!("{label}: {error}"),
        }
    }
    faulty
}

/// Whatever means something in the sealed segments is there, but for entries that were cut.
fn assert_sealed_restored(made: &Made, disk: &MemDisk, label: &str) {
    let (found, whole) = (image(disk), made.image());
    let newest = made.last().segment;
    for frame in made.frames.iter().filter(|frame| frame.segment < newest) {
        let (found, whole) = (&found[&segment(frame.segment)], &whole[&segment(frame.segment)]);
        let ids = frame.ids.0..frame.ids.1;
        assert!(found[ids.clone()] == whole[ids], "{label}: identifiers of {frame:?}");
        for (position, part) in frame.parts().into_iter().enumerate() {
            let is_kept =
                position == 0 || made.model.entries.contains(&frame.entries[position - 1]);
            assert!(
                !is_kept || found[part.clone()] == whole[part],
                "{label}: {position} {frame:?}"
            );
        }
    }
}

/// A log with one fault somewhere in a sealed segment opens with all of its entries; who reads them
/// or scrubs meets the damage, it is known at the next start, and it is repaired. Gives what was
/// damaged.
fn assert_healed(made: &Made, struck: &MemDisk, label: &str) -> Vec<u64> {
    let model = &made.model;
    let mut disk = struck.after_crash(Survive::All);
    let (mut wal, recovered) =
        Wal::open(&mut disk, small()).unwrap_or_else(|error| panic!("{label}: one fault: {error}"));
    assert_eq!((recovered.hard_state, recovered.last_index), (model.hard_state, model.last()));
    assert_eq!(recovered.runs, model.runs(), "{label}");
    let mut known: Vec<u64> = wal.faulty().map(|(index, _)| index).collect();
    known.extend(read_around(&mut wal, &disk, model, label));
    known.sort_unstable();
    known.dedup();
    let (mut wal, _, again) = open_known(&mut disk, model, label).expect(label);
    assert_eq!(again, known, "{label}: what was known is known");
    assert_eq!(wal.repair(&model.entries).unwrap(), known, "{label}");
    assert_eq!(read_all(&wal, &disk).unwrap(), model.entries, "{label}");

    let mut disk = struck.after_crash(Survive::All);
    let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
    let mut scrubbed: Vec<u64> = wal.faulty().map(|(index, _)| index).collect();
    for index in scrub_all(&mut wal) {
        assert!(wal.note_faulty(index).unwrap(), "{label}");
        scrubbed.push(index);
    }
    scrubbed.sort_unstable();
    let in_memory = read_around(&mut wal, &disk, model, label);
    let is_new = |index: &u64| !scrubbed.contains(index);
    assert!(!in_memory.iter().any(is_new), "{label}: a scrub finds what a read meets");
    assert_eq!(scrubbed, known, "{label}");
    assert_eq!(wal.repair(&model.entries).unwrap(), known, "{label}");
    assert_eq!(scrub_all(&mut wal), [0; 0], "{label}");
    assert_sealed_restored(made, &disk, label);
    // The second copies are what they were: without the summaries nothing is amiss.
    let mut disk = disk_of(&image(&disk));
    assert_eq!(open_known(&mut disk, model, label).expect(label).2, [0; 0], "{label}");
    known
}

fn struck(made: &Made, number: u32, at: usize, mask: &[u8]) -> MemDisk {
    let disk = made.disk.after_crash(Survive::All);
    disk.damage(&segment(number), at, mask);
    disk
}

#[test]
fn a_log_without_summaries_is_opened_and_gets_them() {
    for seed in 0..4 {
        let made = dense(seed);
        // One that was sealed by a cut gets its summary when it is opened.
        let mut disk = made.disk.after_crash(Survive::All);
        open_known(&mut disk, &made.model, "").unwrap();
        let whole = image_with_summaries(&disk);
        let mut disk = disk_of(&made.image());
        assert!(image_with_summaries(&disk) != whole);
        assert_eq!(open_known(&mut disk, &made.model, "").unwrap().2, [0; 0]);
        assert!(image_with_summaries(&disk) == whole, "as if they had always been there");
        open_known(&mut disk, &made.model, "").unwrap();
        assert!(image_with_summaries(&disk) == whole);
    }
}

/// A sealed segment is not read when the log is opened: it opens although nothing of it can be read
/// but its header's block.
#[test]
fn a_segment_with_a_summary_is_not_read() {
    let made = dense(1);
    let mut disk = made.disk.after_crash(Survive::All);
    for number in 1..made.last().segment {
        disk.fail_reads(&segment(number), HEADER as u64..u64::MAX);
    }
    let (wal, recovered) = Wal::open(&mut disk, small()).unwrap();
    assert_eq!(recovered.runs, made.model.runs());
    assert_eq!(wal.last_index(), made.model.last());
    assert_eq!(wal.faulty().count(), 0);
}

#[test]
fn a_byte_flipped_in_a_sealed_segment_is_found_and_mended() {
    let made = two_segments();
    let length = made.image()[&segment(1)].len();
    let (middle, mut met) = (made.middle(1), 0);
    // Of the large body only the edges and a sample.
    let is_sample = |at: &usize| {
        let body = HEADER + 900..middle.start - 20;
        !body.contains(at) || at.is_multiple_of(4999)
    };
    let meant =
        (0..64).chain(500..560).chain(1000..1200).chain((HEADER..middle.start).filter(is_sample));
    for at in meant.chain(middle.end..length) {
        let label = format!("byte {at}");
        let damaged = assert_healed(&made, &struck(&made, 1, at, &[0x10]), &label);
        let entry = made.entry_at(1, at).map(|entry| entry.header.index);
        assert_eq!(damaged, entry.into_iter().collect::<Vec<_>>(), "{label}");
        met += damaged.len();
    }
    assert!(met > 100, "{met}");
}

#[test]
fn any_one_block_of_a_sealed_segment_may_be_lost() {
    let made = dense(2);
    let whole = made.image();
    let mut met = 0;
    for number in 1..made.last().segment {
        let name = segment(number);
        for (size, seed) in [(4096, 1), (512, 2)] {
            for at in (0..whole[&name].len()).step_by(size * if size == 512 { 5 } else { 1 }) {
                let length = size.min(whole[&name].len() - at);
                let bytes = &image_with_summaries(&made.disk)[&name][at..at + length];
                let label = format!("{name}, {length} bytes at {at}");
                met += assert_healed(&made, &struck(&made, number, at, bytes), &label).len();
                let random = Rng(seed + at as u64).bytes(length as u64);
                met += assert_healed(&made, &struck(&made, number, at, &random), &label).len();
                if size == 4096 {
                    let disk = struck(&made, number, at, &[]);
                    disk.fail_reads(&name, at as u64..(at + length) as u64);
                    met += assert_healed(&made, &disk, &format!("{label}, unreadable")).len();
                }
            }
        }
    }
    assert!(met > 1000, "{met}");
}

/// Each byte of a summary: the segment is read, and the summary is written again.
#[test]
fn a_damaged_summary_is_written_again() {
    let made = dense(3);
    let whole = image_with_summaries(&made.disk);
    for number in 1..made.last().segment {
        let bytes = &whole[&segment(number)][SUMMARY];
        let length = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for at in (0..length).filter(|at| *at < 80 || at % 7 == 0) {
            let mut disk = struck(&made, number, SUMMARY.start + at, &[4]);
            let label = format!("segment {number}, byte {at}");
            assert_eq!(open_known(&mut disk, &made.model, &label).unwrap().2, [0; 0], "{label}");
            assert!(image_with_summaries(&disk) == whole, "{label}");
        }
    }
}

/// Numbers that are not true, under a checksum that is right: what is read is what was written, or
/// it is told that this is not known.
#[test]
fn a_summary_that_lies_changes_no_entry() {
    let made = dense(4);
    let whole = image_with_summaries(&made.disk);
    let mut rng = Rng(77);
    let mut opened = 0;
    for round in 0..3_000 {
        let number = 1 + u32::try_from(rng.below(3)).unwrap();
        let mut files = whole.clone();
        let summary = &mut files.get_mut(&segment(number)).unwrap()[SUMMARY];
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([summary[at], summary[at + 1]]));
        let lists = 64 + 16 * u16_at(56) + 9 * u16_at(58);
        let length = summary.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let length = lists + (length - lists).next_multiple_of(8);
        let at = 4 + if rng.one_in(2) { rng.index(60) } else { rng.index(length - 4) };
        summary[at] = [summary[at] ^ 1, summary[at].wrapping_add(8), 0, 0xff][rng.index(4)];
        let crc = crc_by_bits(&summary[4..length]);
        summary[..4].copy_from_slice(&crc.to_le_bytes());
        let mut disk = disk_of(&files);
        let Ok((wal, _)) = Wal::open(&mut disk, small()) else { continue };
        opened += 1;
        for entry in made.model.entries.iter().step_by(13) {
            let index = entry.header.index;
            match wal.read(&disk, index.min(wal.last_index()), wal.last_index(), 900) {
                Ok(found) if found[0].header.index == index => assert_eq!(&found[0], entry),
                Ok(_) => {}
                Err(WalError::Corrupt { .. } | WalError::Faulty { .. }) => {}
                Err(error) => panic!("round {round}, byte {at}: {error}"),
            }
        }
    }
    assert!(opened > 2_000, "{opened} opened");
}

/// Files that are gone, or others than they were, are noticed as ever.
#[test]
fn a_file_that_is_not_what_it_was_is_noticed() {
    let made = dense(5);
    let whole = image_with_summaries(&made.disk);
    let other = image_with_summaries(&dense(6).disk);
    let refused = |files: &Image, label: &str| match Wal::open(&mut disk_of(files), small()) {
        Err(WalError::Missing { .. } | WalError::Corrupt { .. }) => {}
        other => panic!("{label}: {:?}", other.map(|(_, recovered)| recovered.last_index)),
    };
    let newest = made.last().segment;
    for number in 1..=newest {
        let name = segment(number);
        let mut files = whole.clone();
        files.remove(&name);
        refused(&files, &format!("{name} is missing"));
        for length in [0, 100, HEADER, HEADER + 100, whole[&name].len() - 1] {
            files.insert(name.clone(), whole[&name][..length].to_vec());
            refused(&files, &format!("{name} has {length} bytes"));
        }
        files.insert(name.clone(), [&whole[&name][..], &[0; 10]].concat());
        refused(&files, &format!("{name} is longer"));
        files.insert(name.clone(), vec![0; whole[&name].len()]);
        refused(&files, &format!("{name} is zeros"));
        files.insert(name.clone(), other[&name].clone());
        if number > 1 {
            refused(&files, &format!("{name} is of another log"));
        }
        let next = segment(number % newest + 1);
        files.insert(name.clone(), whole[&next].clone());
        refused(&files, &format!("{name} is {next}"));
    }
}

/// What is known to be damaged when its segment is sealed is known at the next start.
#[test]
fn a_segment_with_a_damaged_entry_is_sealed_without_a_summary() {
    let mut made = Made::new();
    made.write(append((1..=3).map(|index| entry(1, index, &[7; 3_000])).collect()));
    let at = made.last().parts()[2].start;
    made.disk.damage(&segment(1), at + 60, &[1]);
    // What is still in memory is not read from the disk.
    let (mut wal, _, known) = open_known(&mut made.disk, &made.model, "").unwrap();
    assert_eq!(known, [2]);
    let large = append(vec![entry(1, 4, &[8; 70_000])]);
    let mut model = made.model.clone();
    model.apply(&large);
    write(&mut wal, &mut made.disk, large);
    assert_eq!(image(&made.disk).len(), 2);
    for _ in 0..2 {
        assert_eq!(open_known(&mut made.disk, &model, "").unwrap().2, [2]);
    }
    let (mut wal, ..) = open_known(&mut made.disk, &model, "").unwrap();
    assert_eq!(wal.repair(&model.entries).unwrap(), [2]);
    let is_summed =
        |disk: &MemDisk| image_with_summaries(disk)[&segment(1)][SUMMARY][0..4] != [0; 4];
    assert!(!is_summed(&made.disk));
    assert_eq!(open_known(&mut made.disk, &model, "").unwrap().2, [0; 0]);
    assert!(is_summed(&made.disk), "it is whole, and has been read");
}

/// A frame that cuts a damaged entry begins a segment, and never gets to the disk: the entry is
/// still there, and damaged.
#[test]
fn a_cut_that_is_cut_short_forgets_no_damage() {
    let mut kept = 0;
    for steps in 0.. {
        let mut made = Made::new();
        made.write(append((1..=3).map(|index| entry(1, index, &[7; 3_000])).collect()));
        made.disk.damage(&segment(1), made.last().parts()[2].start + 60, &[1]);
        let (mut wal, _, known) = open_known(&mut made.disk, &made.model, "").unwrap();
        assert_eq!(known, [2]);
        let batch = Batch {
            truncate_from: Some(2),
            entries: vec![entry(2, 2, &[8; 70_000])],
            ..state(2, 1)
        };
        wal.stage(batch.clone());
        made.disk.crash_after(Some(steps));
        let is_done = wal.commit(&mut made.disk).is_ok();
        let mut disk = made.disk.after_crash(Survive::None);
        let mut model = made.model.clone();
        if is_done {
            model.apply(&batch);
        }
        let (_, _, faulty) = open_known(&mut disk, &model, &format!("{steps} steps")).unwrap();
        assert_eq!(faulty, if is_done { vec![] } else { vec![2] }, "{steps} steps");
        // Also when it is opened once more.
        assert_eq!(open_known(&mut disk, &model, "").unwrap().2, faulty);
        if is_done {
            break;
        }
        kept += 1;
    }
    assert!(kept > 5, "{kept}");
}

/// Power fails while a damage is being noted: once it is, it is known at the next start.
#[test]
fn what_was_noted_is_known_whenever_power_fails() {
    let made = dense(7);
    let frame = made.frames.iter().find(|frame| {
        frame.segment == 2 && frame.entries.iter().any(|entry| made.model.entries.contains(entry))
    });
    let frame = frame.unwrap();
    let is_kept = |entry: &Entry| made.model.entries.contains(entry);
    let part = 1 + frame.entries.iter().position(is_kept).unwrap();
    let index = frame.entries[part - 1].header.index;
    for steps in 0.. {
        let mut disk = struck(&made, 2, frame.parts()[part].start + 40, &[1]);
        let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
        disk.crash_after(Some(steps));
        let noted = wal.note_faulty(index);
        if noted.is_err() {
            assert!(matches!(wal.repair(&[]), Err(WalError::Poisoned)));
        }
        for survive in [Survive::None, Survive::All, Survive::Random(steps)] {
            let mut after = disk.after_crash(survive);
            let (mut wal, _) = Wal::open(&mut after, small()).unwrap();
            let known: Vec<u64> = wal.faulty().map(|(index, _)| index).collect();
            assert!(known == [index] || (noted.is_err() && known.is_empty()), "{known:?}");
            let met = read_around(&mut wal, &after, &made.model, "");
            assert_eq!(met, [index]);
        }
        if noted.is_ok() {
            assert!(steps > 0, "it is written down");
            break;
        }
    }
}

/// An identifier and its entry are damaged: nobody knows what stood there. What stands elsewhere is
/// read.
#[test]
fn an_entry_that_is_damaged_twice_is_told_by_reads_and_scrubs() {
    let made = two_segments();
    let frame = &made.frames[1];
    let disk = struck(&made, 1, frame.parts()[2].start + 50, &[1]);
    disk.damage(&segment(1), frame.id(2).start + 20, &[1]);
    let mut disk = disk;
    let (mut wal, _) = Wal::open(&mut disk, small()).unwrap();
    let is_corrupt = |error: &WalError| matches!(error, WalError::Corrupt { .. });
    assert!(is_corrupt(&wal.read(&disk, 2, 2, 10).unwrap_err()));
    assert!(is_corrupt(&wal.header(&disk, 2).unwrap_err()));
    assert!(is_corrupt(&wal.note_faulty(2).unwrap_err()));
    assert!(is_corrupt(&wal.scrub(1, 100_000).unwrap_err()));
    assert_eq!(wal.read(&disk, 6, 8, u64::MAX).unwrap(), made.model.entries[5..]);
}

/// Thousands of entries in a segment, one in many of which is a point: any stretch is found, before
/// and after a start, whatever was read before.
#[test]
fn any_stretch_between_points_is_read() {
    let options = WalOptions { segment_bytes: 600 << 10, tail_bytes: 0, ..small() };
    let mut disk = MemDisk::new();
    let mut wal = Wal::create(&mut disk, options.clone()).unwrap();
    let mut rng = Rng(3);
    let mut model = Model::default();
    while image(&disk).len() < 4 {
        let mut batch = Batch::default();
        if model.last() > 50 && rng.one_in(40) {
            batch.truncate_from = Some(model.last() - rng.below(50));
        }
        if rng.one_in(30) {
            batch.hard_state = state(model.hard_state.term + 1, 1).hard_state;
        }
        let term = batch.hard_state.unwrap_or(model.hard_state).term.max(1);
        let kept = batch.truncate_from.map_or(model.last(), |from| from - 1);
        let count = if rng.one_in(2) { 1 } else { rng.below(40) };
        for index in kept + 1..=kept + count {
            let length = if rng.one_in(200) { 5_000 } else { rng.below(8) };
            let plain = entry(term, index, &rng.bytes(length));
            // Now and then one without records.
            let record_count = u32::from(!rng.one_in(500));
            let header = EntryHeader { record_count, kind: 3, ..plain.header };
            batch.entries.push(Entry::new(&header, &[plain.body()]));
        }
        model.apply(&batch);
        write(&mut wal, &mut disk, batch);
    }
    assert!(model.last() > 5_000, "{}", model.last());
    let marks = model.entries.iter().filter(|entry| entry.header.record_count == 0);
    let marks: Vec<(u64, u8)> = marks.map(|entry| (entry.header.index, 3)).collect();
    let (reopened, recovered) = Wal::open(&mut disk, options.clone()).unwrap();
    assert_eq!((recovered.runs, recovered.marks), (model.runs(), marks));
    // Without summaries it is the same.
    let (_, scanned) = Wal::open(&mut disk_of(&image(&disk)), options).unwrap();
    assert_eq!((&scanned.runs, scanned.last_index), (&model.runs(), model.last()));
    for wal in [wal, reopened] {
        for _ in 0..2_000 {
            let first = 1 + rng.below(model.last());
            let last = first + rng.below(model.last() + 1 - first);
            let bytes_max = [1, 300, 5_000, 100_000][rng.index(4)];
            let found = wal.read(&disk, first, last, bytes_max).unwrap();
            let from = usize::try_from(first - 1).unwrap();
            assert_eq!(found[..], model.entries[from..from + found.len()]);
            assert!(!found.is_empty() && found.len() as u64 <= last - first + 1);
            let bytes: u64 = found.iter().map(|entry| entry.frame.len() as u64).sum();
            assert!(found.len() == 1 || bytes <= bytes_max);
            assert_eq!(wal.header(&disk, last).unwrap().index, last);
        }
        let all = read_all(&wal, &disk).unwrap();
        assert!(all == model.entries);
    }
}

/// More terms and entries without records than a summary has room for: the segment is read.
#[test]
fn what_does_not_fit_into_a_summary_is_read() {
    let mut made = Made::new();
    for term in 1..=200 {
        made.write(Batch { entries: vec![entry(term, term, b"x")], ..state(term, 1) });
    }
    made.write(append(vec![entry(200, 201, &[1; 70_000])]));
    assert_eq!(made.last().segment, 2);
    assert!(image_with_summaries(&made.disk)[&segment(1)][SUMMARY].iter().all(|byte| *byte == 0));
    let mut disk = made.disk.after_crash(Survive::All);
    assert_eq!(open_known(&mut disk, &made.model, "").unwrap().2, [0; 0]);
    drop(disk.open(&segment(1)).unwrap().unwrap().sync());
}
