//! Damage at rest: torn tails, flipped bytes, blocks that are zeros or cannot be read, files that are
//! short, gone, zeroed or swapped, and bytes that never were a log. Each is mended, or told as what
//! it is, or is harmless; none changes an entry, and one fault takes nothing that was acknowledged.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use proptest::prelude::*;
use support::made::{FRAME_HEADER, Frame, HEADER, ID, Made, full_segment, two_segments};
use support::{
    Image, Model, Rng, append, crc_by_bits, disk_of, entry, image, open_all, open_known, segment,
    small, state, write,
};
use tercet_wal::inspect::{Found, walk};
use tercet_wal::{Batch, Disk, DiskFile, Entry, MemDisk, Wal, WalError};

fn zero(bytes: &mut [u8]) {
    bytes.fill(0);
}

/// What is expected of a damaged log: where the fault is, in which file.
fn assert_corrupt(result: Result<Model, WalError>, number: u32, offset: usize, label: &str) {
    match result {
        Err(WalError::Corrupt { segment: found, offset: at, what }) => {
            assert_eq!((found, at), (segment(number), offset as u64), "{label}: {what}");
            assert!(!what.is_empty());
        }
        Ok(model) => panic!("{label}: damage was not noticed: {} entries", model.last()),
        Err(error) => panic!("{label}: {error}"),
    }
}

fn open(image: &Image) -> Result<Model, WalError> {
    open_all(&mut disk_of(image), small()).map(|(_, _, model)| model)
}

/// A log that was damaged by one fault: it opens with all that was acknowledged, its faulty entries
/// are repaired with what is known, and then it is what it was. Gives the faulty ones, and whether a
/// torn tail was told.
fn assert_mended(made: &Made, mut disk: MemDisk, label: &str) -> (Vec<u64>, bool) {
    let (mut wal, recovered, faulty) = open_known(&mut disk, &made.model, label)
        .unwrap_or_else(|error| panic!("{label}: one fault: {error}"));
    assert_eq!(wal.repair(&made.model.entries).unwrap(), faulty, "{label}");
    made.assert_restored(&image(&disk), label);
    let (_, again, left) = open_known(&mut disk, &made.model, label).expect(label);
    assert_eq!((again.torn_tail, left), (None, Vec::new()), "{label}: mended once");
    (faulty, recovered.torn_tail.is_some())
}

/// What one fault does to a stretch of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Zeros,
    Flipped,
    Random(u64),
    Unreadable,
}

impl Fault {
    fn strike(self, disk: &MemDisk, name: &str, at: usize, length: usize) {
        let bytes = &disk.contents(name).unwrap()[at..at + length];
        let mask: Vec<u8> = match self {
            Self::Zeros => bytes.to_vec(),
            Self::Flipped => vec![0xff; length],
            Self::Random(seed) => {
                Rng(seed).bytes(length as u64).iter().zip(bytes).map(|(a, b)| a ^ b).collect()
            }
            Self::Unreadable => {
                let at = at as u64;
                return disk.fail_reads(name, at..at + length as u64);
            }
        };
        disk.damage(name, at, &mask);
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    let mut made = two_segments();
    let before = made.model.clone();
    made.write(append(vec![entry(3, 9, &Rng(9).bytes(60)), entry(3, 10, b"\xffs")]));
    let (whole, frame) = (made.image(), made.last());
    let name = segment(frame.segment);
    for kept in 0..frame.bytes {
        let mut torn = whole.clone();
        let bytes = torn.get_mut(&name).unwrap();
        zero(&mut bytes[frame.offset + kept..frame.end()]);
        zero(&mut bytes[frame.ids.0..frame.ids.1]);
        let mut disk = disk_of(&torn);
        let (mut wal, recovered, found) = open_all(&mut disk, small()).unwrap();
        assert_eq!(found, before, "cut behind {kept} bytes");
        let left = torn[&name][frame.offset..frame.end()].iter().rposition(|byte| *byte != 0);
        let told = recovered.torn_tail.map(|torn| (torn.segment, torn.offset, torn.bytes));
        let expected = left.map(|last| (name.clone(), frame.offset as u64, last as u64 + 1));
        assert_eq!(told, expected, "cut behind {kept} bytes");
        // What is written in its place is not confused with its remains.
        let mut model = found;
        let next = append(vec![entry(4, 9, b"other")]);
        model.apply(&next);
        write(&mut wal, &mut disk, next);
        assert_eq!(open_all(&mut disk, small()).unwrap().2, model, "cut behind {kept} bytes");
    }
}

/// Each part of a frame needs its bytes or its identifier: then the frame is kept, else cut.
#[test]
fn a_torn_frame_is_kept_by_its_identifiers() {
    let mut made = two_segments();
    let before = made.model.clone();
    let entries = (9..109).map(|index| entry(3, index, b"\x01")).collect();
    made.write(append(entries));
    let (whole, frame) = (made.image(), made.last());
    let name = segment(frame.segment);
    let parts = frame.parts();
    let (mut kept_faulty, mut cut) = (0, 0);
    for part in 0..parts.len() {
        for is_alone in [true, false] {
            for kept in [0, 1, FRAME_HEADER, frame.bytes / 2, frame.bytes - 1] {
                let mut torn = whole.clone();
                let bytes = torn.get_mut(&name).unwrap();
                zero(&mut bytes[frame.offset + kept..frame.end()]);
                if is_alone {
                    zero(&mut bytes[frame.ids.0..frame.id(part).start]);
                    zero(&mut bytes[frame.id(part).end..frame.ids.1]);
                } else {
                    zero(&mut bytes[frame.id(part)]);
                }
                let lost = |at: &usize| parts[*at].end > frame.offset + kept;
                let has_id = |at: &usize| (*at == part) == is_alone;
                let label = format!("{kept} bytes, identifier {part} alone: {is_alone}");
                let mut disk = disk_of(&torn);
                if (0..parts.len()).filter(lost).all(|at| has_id(&at)) {
                    let (_, recovered, faulty) =
                        open_known(&mut disk, &made.model, &label).unwrap();
                    let expected = (1..parts.len()).filter(lost).map(|at| 8 + at as u64);
                    assert_eq!(faulty, expected.collect::<Vec<_>>(), "{label}");
                    assert_eq!(recovered.torn_tail, None, "{label}");
                    assert_mended(&made, disk, &label);
                    kept_faulty += 1;
                } else {
                    let (_, recovered, faulty) = open_known(&mut disk, &before, &label).unwrap();
                    assert_eq!(faulty, [0; 0], "{label}");
                    let told = recovered.torn_tail.unwrap();
                    assert_eq!((told.segment, told.offset), (name.clone(), frame.offset as u64));
                    cut += 1;
                }
            }
        }
    }
    assert!(kept_faulty > 100 && cut > 500, "{kept_faulty} kept, {cut} cut");
}

/// A sector is on disk or not, and an identifier may begin in one and end in the next: half of one
/// is no sign of damage.
#[test]
fn a_torn_frame_with_half_an_identifier_is_cut() {
    let mut made = two_segments();
    let before = made.model.clone();
    made.write(append((9..120).map(|index| entry(3, index, &[1; 300])).collect()));
    let (whole, frame) = (made.image(), made.last());
    let name = segment(frame.segment);
    let crosses = |id: &std::ops::Range<usize>| id.start / 512 != (id.end - 1) / 512;
    let crossing: Vec<usize> =
        (0..frame.parts().len()).filter(|part| crosses(&frame.id(*part))).collect();
    assert!(crossing.len() >= 5, "{crossing:?}");
    for part in crossing {
        let (id, bytes) = (frame.id(part), frame.parts()[part].clone());
        let sector = id.end / 512 * 512;
        for half in [id.start..sector, sector..id.end] {
            let mut torn = whole.clone();
            let image = torn.get_mut(&name).unwrap();
            zero(&mut image[half]);
            // So is the part itself.
            zero(&mut image[bytes.start + 20..bytes.end]);
            let (_, recovered, _) =
                open_known(&mut disk_of(&torn), &before, &format!("part {part}")).unwrap();
            assert_eq!(recovered.torn_tail.unwrap().offset, frame.offset as u64);
        }
    }
}

#[test]
fn a_whole_frame_without_identifiers_counts_and_gets_them_back() {
    let made = two_segments();
    for frame in &made.frames {
        let mut lost = made.image();
        zero(&mut lost.get_mut(&segment(frame.segment)).unwrap()[frame.ids.0..frame.ids.1]);
        let mut disk = disk_of(&lost);
        let (_, recovered, found) = open_all(&mut disk, small()).unwrap();
        assert_eq!((recovered.torn_tail, found), (None, made.model.clone()), "{frame:?}");
        assert!(image(&disk) == made.image(), "they are as they were: {frame:?}");
    }
}

/// Every byte that means something, and some of those that do not.
fn places(made: &Made, number: u32) -> Vec<usize> {
    let length = made.image()[&segment(number)].len();
    let frames = made.frames.iter().filter(|frame| frame.segment == number);
    let end = frames.clone().map(Frame::end).max().unwrap().next_multiple_of(8);
    let ids = frames.map(|frame| frame.ids.0).min().unwrap();
    // Of the large body, which is followed by nothing else, only the edges and a sample.
    let body = HEADER + 900..end.saturating_sub(20);
    (0..64)
        .chain((64..HEADER).step_by(131))
        .chain(512 - 2..512 + 32 + 2)
        .chain((HEADER..end).filter(|at| !body.contains(at) || at % 997 == 0))
        .chain((end..ids).step_by(4001))
        .chain(ids..length)
        .collect()
}

#[test]
fn a_flipped_byte_is_mended_or_makes_one_entry_faulty() {
    let made = two_segments();
    let whole = made.image();
    let (mut faulty_entries, mut mended, mut harmless) = (0, 0, 0);
    for number in [1, 2] {
        let means = made.meaning(number);
        let middle = made.middle(number);
        for (count, at) in places(&made, number).into_iter().enumerate() {
            let mask = [0x01, 0x80, 0xff][count % 3];
            let disk = disk_of(&whole);
            disk.damage(&segment(number), at, &[mask]);
            let label = format!("segment {number}, byte {at}, mask {mask:#x}");
            if number == 2 && (512..544).contains(&at) {
                // The last segment is not sealed: what stands there may have been a seal.
                let opened = open_all(&mut disk.clone(), small()).map(|(_, _, model)| model);
                assert_corrupt(opened, number, 512, &label);
                continue;
            }
            let (faulty, is_torn) = assert_mended(&made, disk, &label);
            let entry = made.entry_at(number, at).map(|entry| entry.header.index);
            assert_eq!(faulty, entry.into_iter().collect::<Vec<_>>(), "{label}");
            // In the newest segment it looks like the beginning of a write.
            assert_eq!(is_torn, number == 2 && middle.contains(&at), "{label}");
            match entry {
                Some(_) => faulty_entries += 1,
                None if means[at] => mended += 1,
                None => harmless += 1,
            }
        }
    }
    let counts = (faulty_entries, mended, harmless);
    assert!(faulty_entries > 500 && mended > 1000 && harmless > 100, "{counts:?}");
}

/// One block or one sector is zeros, another, or not to be read: nothing acknowledged is missing.
#[test]
fn any_one_block_may_be_lost() {
    for (made, label) in [(two_segments(), "two segments"), (full_segment(), "a full segment")] {
        let whole = made.image();
        let mut faulty_entries = 0;
        for (name, bytes) in &whole {
            for (size, seed) in [(4096, 1), (512, 2)] {
                for at in (0..bytes.len()).step_by(size) {
                    let length = size.min(bytes.len() - at);
                    let random = Fault::Random(seed + at as u64);
                    for fault in [Fault::Zeros, Fault::Flipped, random, Fault::Unreadable] {
                        if size == 512 && fault == Fault::Unreadable {
                            continue;
                        }
                        let label = format!("{label}: {name}, {length} bytes at {at}: {fault:?}");
                        let disk = disk_of(&whole);
                        fault.strike(&disk, name, at, length);
                        let is_newest = whole.keys().next_back() == Some(name);
                        let is_written = matches!(fault, Fault::Flipped | Fault::Random(_));
                        if is_newest && is_written && (at..at + length).contains(&512) {
                            let opened = open_all(&mut disk.clone(), small());
                            let number = u32::try_from(whole.len()).unwrap();
                            assert_corrupt(opened.map(|(_, _, model)| model), number, 512, &label);
                            continue;
                        }
                        faulty_entries += assert_mended(&made, disk, &label).0.len();
                    }
                }
            }
        }
        assert!(faulty_entries > 50, "{label}: {faulty_entries}");
    }
}

/// A log of random frames, large and small, with cuts in it.
fn random_log(rng: &mut Rng) -> Made {
    let mut made = Made::new();
    let (count_max, body_max) = [(3, 20_000), (60, 60), (6, 2_000)][rng.index(3)];
    for _ in 0..5 + rng.below(20) {
        let mut batch = Batch::default();
        if rng.one_in(3) || made.model.hard_state.term == 0 {
            batch = state(made.model.hard_state.term + 1, 1);
        }
        if made.model.last() > 0 && rng.one_in(4) {
            batch.truncate_from = Some(1 + rng.below(made.model.last()));
        }
        let term = batch.hard_state.unwrap_or(made.model.hard_state).term;
        let kept = batch.truncate_from.map_or(made.model.last(), |from| from - 1);
        for index in kept + 1..=kept + rng.below(count_max) {
            let length = rng.below(body_max);
            batch.entries.push(entry(term, index, &rng.bytes(length)));
        }
        made.write(batch);
    }
    made
}

/// The same with other logs, and with faults that begin and end anywhere in a block.
#[test]
fn any_part_of_any_one_block_may_be_lost() {
    let mut faulty_entries = 0;
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let made = random_log(&mut rng);
        let whole = made.image();
        let newest = segment(u32::try_from(whole.len()).unwrap());
        for round in 0..20 {
            let number = 1 + u32::try_from(rng.below(whole.len() as u64)).unwrap();
            let name = segment(number);
            let length = whole[&name].len();
            // Where something stands, three times in four.
            let at = match (rng.below(4), made.of(number).last()) {
                (0 | 1, Some(last)) => HEADER + rng.index(last.end() - HEADER),
                (2, Some(last)) => last.ids.0 + rng.index(length - last.ids.0),
                _ => rng.index(length),
            };
            let end = (at / 4096 * 4096 + 4096).min(length);
            let size = 1 + rng.index(end - at);
            let random = Fault::Random(rng.next());
            let faults = [Fault::Zeros, Fault::Flipped, random, Fault::Unreadable];
            let fault = faults[rng.index(4)];
            if name == newest && at < 544 && at + size > 512 {
                continue;
            }
            let label = format!("seed {seed}, round {round}: {name}, {size} at {at}: {fault:?}");
            let disk = disk_of(&whole);
            fault.strike(&disk, &name, at, size);
            faulty_entries += assert_mended(&made, disk, &label).0.len();
        }
    }
    assert!(faulty_entries > 300, "{faulty_entries}");
}

/// A block that could not be read does not come in the way of what is written next.
#[test]
fn a_log_with_an_unreadable_block_can_be_written_to() {
    let made = two_segments();
    let name = segment(2);
    let whole = made.image();
    for at in (0..whole[&name].len() as u64).step_by(4096) {
        let mut disk = disk_of(&whole);
        disk.fail_reads(&name, at..at + 4096);
        let label = format!("the block at {at}");
        let mut model = made.model.clone();
        let (mut wal, ..) = open_known(&mut disk, &model, &label).expect(&label);
        for index in 9..60 {
            let batch = append(vec![entry(4, index, &[3; 1000])]);
            model.apply(&batch);
            write(&mut wal, &mut disk, batch);
        }
        assert_eq!(disk.list("wal").unwrap().len(), 2, "{label}: it is all in one segment");
        let known: Vec<u64> = wal.faulty().map(|(index, _)| index).collect();
        let (_, _, faulty) = open_known(&mut disk, &model, &label).unwrap();
        assert_eq!(faulty, known, "{label}");
    }
}

/// A crash cuts a write short, and later one block goes bad: what was acknowledged is there, or the
/// log is refused.
#[test]
fn a_crash_and_a_fault_together_lose_nothing_silently() {
    let mut made = two_segments();
    let before = made.model.clone();
    made.write(append(vec![entry(3, 9, &Rng(9).bytes(2000)), entry(3, 10, &Rng(10).bytes(7000))]));
    let (whole, frame) = (made.image(), made.last());
    let name = segment(frame.segment);
    let (mut cut, mut kept, mut refused) = (0, 0, 0);
    // Which of a frame's three parts are torn, and which of its identifiers are there.
    for torn in 1..8_usize {
        for ids in 0..8_usize {
            let mut crashed = whole.clone();
            let bytes = crashed.get_mut(&name).unwrap();
            for (part, range) in frame.parts().into_iter().enumerate() {
                if torn >> part & 1 == 1 {
                    zero(&mut bytes[range.start + 30..range.end]);
                }
                if ids >> part & 1 == 0 {
                    zero(&mut bytes[frame.id(part)]);
                }
            }
            for at in (0..whole[&name].len()).step_by(4096) {
                for fault in [Fault::Zeros, Fault::Flipped, Fault::Unreadable] {
                    let label = format!("torn {torn:03b}, identifiers {ids:03b}, {at}: {fault:?}");
                    let mut disk = disk_of(&crashed);
                    fault.strike(&disk, &name, at, 4096.min(whole[&name].len() - at));
                    let found = image(&disk);
                    match Wal::open(&mut disk, small()) {
                        Ok((wal, _)) if wal.last_index() == 10 => {
                            drop(open_known(&mut disk, &made.model, &label).unwrap());
                            kept += 1;
                        }
                        Ok(_) => {
                            drop(open_known(&mut disk, &before, &label).unwrap());
                            cut += 1;
                        }
                        Err(WalError::Corrupt { .. }) => {
                            assert!(image(&disk) == found, "{label}: it is left as it was");
                            refused += 1;
                        }
                        Err(error) => panic!("{label}: {error}"),
                    }
                }
            }
        }
    }
    assert!(cut > 1000 && kept > 500 && refused > 10, "{cut} cut, {kept} kept, {refused} refused");
}

/// A part of a frame is damaged, and its identifier too: nobody knows what stood there.
#[test]
fn a_part_that_is_damaged_twice_is_never_cut() {
    let made = two_segments();
    for frame in &made.frames {
        for (part, range) in frame.parts().into_iter().enumerate() {
            for at in [range.start, range.start + 40, range.end - 1] {
                for fault in [Fault::Flipped, Fault::Random(3), Fault::Unreadable] {
                    let disk = disk_of(&made.image());
                    let name = segment(frame.segment);
                    let id = frame.id(part);
                    let of_part = if fault == Fault::Unreadable { fault } else { Fault::Flipped };
                    of_part.strike(&disk, &name, at, 1);
                    fault.strike(&disk, &name, id.start, ID);
                    let opened = open_all(&mut disk.clone(), small()).map(|(_, _, model)| model);
                    let label = format!("frame at {}, part {part}, byte {at}", frame.offset);
                    if fault == Fault::Unreadable {
                        // The whole block is not to be read, and others stand in it.
                        assert!(matches!(opened, Err(WalError::Corrupt { .. })), "{label}");
                    } else {
                        assert_corrupt(opened, frame.segment, frame.offset, &label);
                    }
                }
            }
        }
    }
}

/// Without a single identifier, a frame that follows shows that the damaged one was acknowledged.
#[test]
fn a_damaged_frame_with_a_whole_one_behind_it_is_never_cut() {
    let made = two_segments();
    for (position, frame) in made.frames.iter().enumerate() {
        let later = made.frames[position + 1..].iter().any(|next| next.segment == frame.segment);
        let mut image = made.image();
        let bytes = image.get_mut(&segment(frame.segment)).unwrap();
        let length = bytes.len();
        zero(&mut bytes[length - 2000..]);
        bytes[frame.offset + 9] ^= 1;
        if later || frame.segment == 1 {
            assert_corrupt(open(&image), frame.segment, frame.offset, &format!("{frame:?}"));
        } else {
            // The very last one, with all of its identifiers gone, is like one never acknowledged.
            assert_eq!(open(&image).unwrap().last(), made.frames.len() as u64 - 1);
        }
    }
}

#[test]
fn a_file_that_lost_its_end_is_noticed() {
    let made = two_segments();
    for number in [1, 2] {
        let name = segment(number);
        let length = made.image()[&name].len();
        let frames = made.frames.iter().filter(|frame| frame.segment == number);
        let ends = frames.flat_map(|frame| [frame.offset, frame.offset + 70, frame.end()]);
        let lengths = (0..70).chain([511, 544, 4095, 4096]).chain(ends).chain(length - 40..length);
        for short in lengths {
            let mut image = made.image();
            image.get_mut(&name).unwrap().truncate(short);
            assert_corrupt(open(&image), number, 0, &format!("{name} has {short} bytes"));
        }
        let mut image = made.image();
        image.get_mut(&name).unwrap().push(0);
        assert_corrupt(open(&image), number, 0, "a byte too many");
    }
}

#[test]
fn a_file_that_is_gone_is_missed_by_name() {
    let made = two_segments();
    for number in [1, 2] {
        let mut image = made.image();
        image.remove(&segment(number));
        match open(&image) {
            Err(WalError::Missing { what }) => assert!(what.contains(&segment(number)), "{what}"),
            other => panic!("{number}: {other:?}"),
        }
    }
    match open(&Image::new()) {
        Err(WalError::Missing { what }) => assert!(what.contains("no segment"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_zeroed_file_is_noticed_and_a_zeroed_header_is_mended() {
    let made = two_segments();
    for number in [1, 2] {
        let mut image = made.image();
        zero(image.get_mut(&segment(number)).unwrap());
        assert_corrupt(open(&image), number, 0, "zeroed");
        let mut image = made.image();
        zero(&mut image.get_mut(&segment(number)).unwrap()[..HEADER]);
        let mut disk = disk_of(&image);
        assert_eq!(open_all(&mut disk, small()).unwrap().2, made.model);
        assert!(support::image(&disk) == made.image(), "header and seal are as they were");
    }
}

/// A disk that gives nothing is not one that has lost everything.
#[test]
fn a_file_that_cannot_be_read_at_all_is_an_error_of_the_disk() {
    let made = two_segments();
    for number in [1, 2] {
        let mut disk = disk_of(&made.image());
        disk.fail_reads(&segment(number), 0..u64::MAX);
        match Wal::open(&mut disk, small()) {
            Err(WalError::Io { op: "read", path, .. }) => assert_eq!(path, segment(number)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn files_that_were_swapped_copied_or_come_from_elsewhere_are_noticed() {
    let made = two_segments();
    let whole = made.image();
    let swapped = Image::from([
        (segment(1), whole[&segment(2)].clone()),
        (segment(2), whole[&segment(1)].clone()),
    ]);
    assert_corrupt(open(&swapped), 1, 0, "swapped");
    let mut copied = whole.clone();
    copied.insert(segment(3), whole[&segment(2)].clone());
    assert_corrupt(open(&copied), 3, 0, "copied");
    // The second segment of a log that went another way.
    let mut other = Made::new();
    other.write(append(vec![entry(1, 1, &[1; 70_000])]));
    other.write(append(vec![entry(1, 2, b"another segment")]));
    let mut mixed = whole.clone();
    mixed.insert(segment(2), other.image()[&segment(2)].clone());
    assert_corrupt(open(&mixed), 2, 0, "of another history");
    let mut options = small();
    options.log_id = 8;
    let opened = Wal::open(&mut disk_of(&whole), options).map(|_| Model::default());
    assert_corrupt(opened, 1, 0, "of another log");
}

#[test]
fn nothing_is_written_to_a_log_that_is_damaged() {
    let made = two_segments();
    let mut broken = made.image();
    // Something that would be mended in the first segment, and damage in the second.
    let ids = made.frames[0].ids;
    zero(&mut broken.get_mut(&segment(1)).unwrap()[ids.0..ids.1]);
    let last = broken.get_mut(&segment(2)).unwrap();
    last[made.last().offset + 8] ^= 1;
    last[made.last().ids.1 - 20] ^= 1;
    let mut disk = disk_of(&broken);
    assert_corrupt(
        Wal::open(&mut disk, small()).map(|_| Model::default()),
        2,
        made.last().offset,
        "",
    );
    assert!(image(&disk) == broken, "the log is as it was found");
}

#[test]
fn prepared_segments_that_were_never_used_are_removed() {
    let made = two_segments();
    for length in [0, 100, 4096, 200_000] {
        let mut image = made.image();
        image.insert(segment(3), vec![0; length]);
        image.insert(segment(4), vec![0; length]);
        let mut disk = disk_of(&image);
        let (_, _, found) = open_all(&mut disk, small()).unwrap();
        assert_eq!(found, made.model);
        assert!(support::image(&disk) == made.image(), "only what is used is left");
        // So is one whose header a crash cut short, if it has its length.
        let mut torn = image.clone();
        torn.insert(segment(3), [b"TCTWAL".to_vec(), vec![0; 5000]].concat());
        assert_eq!(open(&torn).unwrap(), made.model);
        torn.insert(segment(3), b"TCTWAL".to_vec());
        assert_corrupt(open(&torn), 3, 0, "a header in a file without its length");
        // A segment behind one that has no header is no prepared one.
        image.get_mut(&segment(3)).unwrap().extend([0; 5000]);
        image.insert(segment(4), made.image()[&segment(2)].clone());
        assert_corrupt(open(&image), 3, 0, "used behind unused");
    }
}

/// Damage to a segment that was prepared and not used takes nothing: it is removed.
#[test]
fn a_damaged_prepared_segment_is_removed() {
    let made = two_segments();
    let prepared = vec![0; 200_000];
    for at in (0..prepared.len()).step_by(4096) {
        for fault in [Fault::Flipped, Fault::Random(at as u64), Fault::Unreadable] {
            let mut image = made.image();
            image.insert(segment(3), prepared.clone());
            let mut disk = disk_of(&image);
            let length = 4096.min(prepared.len() - at);
            fault.strike(&disk, &segment(3), at, length);
            let label = format!("{length} bytes at {at}: {fault:?}");
            let (_, recovered, faulty) = open_known(&mut disk, &made.model, &label).expect(&label);
            assert_eq!((recovered.torn_tail, faulty), (None, Vec::new()), "{label}");
            assert!(support::image(&disk) == made.image(), "{label}: only what is used is left");
        }
    }
}

/// But a segment that shows a later frame was in use, whatever became of its beginning.
#[test]
fn a_segment_with_frames_is_no_prepared_one() {
    let made = two_segments();
    let frames: Vec<&Frame> = made.of(2).collect();
    assert!(frames.len() > 1);
    let mut image = made.image();
    zero(&mut image.get_mut(&segment(1)).unwrap()[512..544]);
    let bytes = image.get_mut(&segment(2)).unwrap();
    zero(&mut bytes[..HEADER + FRAME_HEADER]);
    zero(&mut bytes[frames[0].ids.0..frames[0].ids.1]);
    assert_corrupt(open(&image), 2, 0, "later frames");
}

/// Puts the checksum of a segment's header right.
fn seal_header(bytes: &mut [u8]) {
    let covered = [&bytes[..8], &bytes[12..64]].concat();
    bytes[8..12].copy_from_slice(&crc_by_bits(&covered).to_le_bytes());
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let made = two_segments();
    for number in [1, 2] {
        let mut image = made.image();
        let bytes = image.get_mut(&segment(number)).unwrap();
        bytes[7] = 2;
        seal_header(bytes);
        let error = open(&image).unwrap_err();
        assert!(matches!(error, WalError::Newer { found: 2, .. }), "{error:?}");
        let words = format!(
            "{}: format 2 is newer than this program's: use a newer program",
            segment(number)
        );
        assert_eq!(error.to_string(), words);
        // There never was a format 0, and a version without its checksum is damage.
        let bytes = image.get_mut(&segment(number)).unwrap();
        bytes[7] = 0;
        seal_header(bytes);
        assert_mended(&made, disk_of(&image), "format 0");
        image.get_mut(&segment(number)).unwrap()[7] = 3;
        assert_mended(&made, disk_of(&image), "a damaged version");
    }
}

/// Nobody leads in term 0: an entry of it is none, however well its checksums fit.
#[test]
fn an_entry_of_term_0_is_corruption() {
    let mut made = Made::new();
    made.write(append(vec![entry(0, 1, b"of nobody")]));
    assert_corrupt(open(&made.image()), 1, HEADER, "an entry of term 0");
}

/// Frames that are whole, but cannot follow what is before them.
#[test]
fn a_frame_that_contradicts_the_log_is_corruption() {
    let mut made = Made::new();
    made.write(Batch { entries: vec![entry(5, 1, b"a"), entry(5, 2, b"b")], ..state(5, 1) });
    let before = made.image()[&segment(1)].len();
    made.write(append(vec![entry(5, 3, b"c")]));
    let frame = made.last();
    assert_eq!(made.image()[&segment(1)].len(), before);
    // Offset in the frame's header, the value put there, what is said.
    let words = "a frame and its identifiers contradict each other";
    let cases: [(usize, u64, &str); 5] = [
        (24, 4, words),
        (40, 9, words),
        (40, u64::MAX, words),
        (48, 1 | 51 << 32, words),
        (48, 2 | 49 << 32, words),
    ];
    let changed = |at: usize, value: u64| {
        let mut image = made.image();
        let bytes = image.get_mut(&segment(1)).unwrap();
        let head = &mut bytes[frame.offset..frame.offset + FRAME_HEADER];
        head[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let crc = crc_by_bits(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        image
    };
    // Another frame's header is none here, and the identifier says what stood there.
    assert_mended(&made, disk_of(&changed(8, 7)), "frame 7 stands where 2 is expected");
    for (at, value, words) in cases {
        match open(&changed(at, value)) {
            Err(WalError::Corrupt { segment: name, offset, what }) => {
                assert_eq!((name, offset), (segment(1), frame.offset as u64));
                assert!(what.contains(words), "{what}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }
}

/// What `inspect` says of a directory.
#[derive(Default)]
struct Inspected {
    faults: Vec<String>,
    /// The entries that it could read.
    log: Vec<Entry>,
    /// Those that are damaged.
    faulty: Vec<(u64, u64)>,
    torn: usize,
}

fn inspected(image: &Image) -> Inspected {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("wal")).unwrap();
    for (name, bytes) in image {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let mut seen = Inspected::default();
    walk(dir.path(), |found| match found {
        Found::Fault { segment, offset, what } => {
            seen.faults.push(format!("{segment} at byte {offset}: {what}"));
        }
        Found::Frame { truncate_from, entries, faulty, .. } => {
            if let Some(from) = truncate_from {
                seen.log.retain(|entry: &Entry| entry.header.index < from);
                seen.faulty.retain(|(index, _)| *index < from);
            }
            seen.log.extend(entries);
            seen.faulty.extend(faulty);
        }
        Found::TornTail { .. } => seen.torn += 1,
        Found::Segment { .. } | Found::Unused { .. } => {}
    })
    .unwrap();
    seen
}

#[test]
fn inspecting_finds_the_same_faults_as_opening() {
    let made = two_segments();
    let seen = inspected(&made.image());
    assert_eq!((seen.faults, seen.faulty, seen.torn), (Vec::new(), Vec::new(), 0));
    assert_eq!(seen.log, made.model.entries);
    let one = |change: &dyn Fn(&mut Image)| {
        let mut image = made.image();
        change(&mut image);
        let Inspected { faults, .. } = inspected(&image);
        assert_eq!(faults.is_empty(), open(&image).is_ok(), "{faults:?}");
        faults.join("; ")
    };
    let (first, last) = (&made.frames[1], made.last());
    let fault = one(&|image| {
        let bytes = image.get_mut(&segment(1)).unwrap();
        bytes[first.offset + 70] ^= 1;
        bytes[first.id(1).start + 9] ^= 1;
    });
    let place = format!("00000001.seg at byte {}: ", first.offset);
    assert!(fault.starts_with(&place), "{fault}");
    let fault = one(&|image| drop(image.remove(&segment(2))));
    assert!(fault.contains("00000001.seg at byte 512: the log goes on"), "{fault}");
    let fault = one(&|image| drop(image.remove(&segment(1))));
    assert!(fault.contains("segment 1 is missing before it"), "{fault}");
    let fault = one(&|image| image.get_mut(&segment(2)).unwrap().truncate(last.offset));
    assert!(fault.contains(&format!("the file has {} bytes, not ", last.offset)), "{fault}");
    let fault = one(&|image| zero(image.get_mut(&segment(2)).unwrap()));
    assert!(fault.contains("the segment's header is damaged"), "{fault}");
    let fault = one(&|image| {
        let second = image[&segment(2)].clone();
        image.insert(segment(3), second);
    });
    assert!(fault.contains("it is segment 2, not 3"), "{fault}");
    // The last frame of the first segment, without any of its identifiers.
    let big = made.of(1).last().unwrap();
    let fault = one(&|image| {
        let bytes = image.get_mut(&segment(1)).unwrap();
        bytes[big.offset] ^= 1;
        zero(&mut bytes[big.ids.0..big.ids.1]);
    });
    let words = format!("00000001.seg at byte {}: a frame is damaged in mid-log", big.offset);
    assert!(fault.contains(&words), "{fault}");
    // Neither of these is a fault: a torn tail, a segment that was prepared, what stands between the
    // frames and the identifiers of a segment that is complete.
    let fault = one(&|image| {
        let bytes = image.get_mut(&segment(2)).unwrap();
        zero(&mut bytes[last.offset + 3..last.end()]);
        zero(&mut bytes[last.ids.0..last.ids.1]);
        image.insert(segment(3), vec![0; 100]);
        image.get_mut(&segment(1)).unwrap()[80_000] = 1;
    });
    assert_eq!(fault, "");
}

#[test]
fn inspecting_tells_what_can_be_repaired() {
    let made = two_segments();
    let mut image = made.image();
    // One of those that were cut, one that counts, and a whole block with a header.
    image.get_mut(&segment(1)).unwrap()[made.frames[1].parts()[3].start + 50] ^= 1;
    image.get_mut(&segment(1)).unwrap()[made.frames[2].parts()[2].start + 8] ^= 1;
    zero(&mut image.get_mut(&segment(2)).unwrap()[..8192]);
    let seen = inspected(&image);
    let (_, _, faulty) = open_known(&mut disk_of(&image), &made.model, "").unwrap();
    assert_eq!(faulty, [4, 5]);
    assert_eq!(seen.faulty, [(4, 2), (5, 2)]);
    assert_eq!(seen.log.len(), 6);
    let words = "00000002.seg at byte 0: the segment's header is damaged: it is written again from \
                 what else is known when the node runs";
    assert_eq!((seen.faults, seen.torn), (vec![words.to_owned()], 0));
}

/// Opens what may be anything: whatever comes of it, nothing panics, and what is read is whole.
fn open_anything(image: &Image) {
    let mut disk = disk_of(image);
    if let Ok((wal, recovered)) = Wal::open(&mut disk, small()) {
        for index in 1..=recovered.last_index {
            match wal.read(&disk, index, index, u64::MAX) {
                Ok(read) => {
                    assert_eq!(read[0].header.index, index);
                    assert_eq!(Entry::parse(read[0].frame.clone()).as_ref(), Ok(&read[0]));
                }
                Err(WalError::Faulty { index: told, .. }) => assert_eq!(told, index),
                Err(error) => panic!("{error}"),
            }
        }
    }
    let _ = inspected(image);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        open_anything(&Image::from([(segment(1), bytes.clone())]));
        let mut image = two_segments().image();
        image.insert(segment(3), bytes);
        open_anything(&image);
    }

    /// Headers with any content and the right checksum, in front of frames with the same.
    #[test]
    fn random_fields_never_panic(
        fields in prop::collection::vec(prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()], 16),
        number in 1..4_u32,
        at in 0..16_usize,
    ) {
        let mut image = two_segments().image();
        let name = segment(number.min(2));
        let bytes = image.get_mut(&name).unwrap();
        // One field of the segment's header, and one of the first frame's.
        let (of_segment, of_frame) = (12 + at % 6 * 8, 8 + at % 7 * 8);
        if number < 3 {
            bytes[of_segment..of_segment + 8].copy_from_slice(&fields[at].to_le_bytes());
            seal_header(bytes);
        }
        let head = &mut bytes[HEADER..HEADER + FRAME_HEADER];
        head[of_frame..of_frame + 8].copy_from_slice(&fields[15 - at].to_le_bytes());
        let crc = crc_by_bits(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        open_anything(&image);
    }

    /// A real log with a stretch of it overwritten: what is still read is what was written.
    #[test]
    fn an_overwritten_stretch_never_changes_an_entry(
        number in 1..3_u32,
        at in any::<prop::sample::Index>(),
        stretch in prop::collection::vec(any::<u8>(), 1..600),
    ) {
        let made = two_segments();
        let mut image = made.image();
        let bytes = image.get_mut(&segment(number)).unwrap();
        let places = places(&made, number);
        let start = *at.get(&places);
        let end = (start + stretch.len()).min(bytes.len());
        bytes[start..end].copy_from_slice(&stretch[..end - start]);
        if number == 2 && start < 544 && end > 512 {
            // What may have been its seal.
            let is_refused = matches!(open(&image), Err(WalError::Corrupt { offset: 512, .. }));
            prop_assert!(is_refused, "it is not minded");
        } else {
            assert_mended(&made, disk_of(&image), &format!("segment {number}, {start}..{end}"));
        }
    }
}

/// A disk whose files are longer than its memory says is not asked to allocate by what they say.
#[test]
fn lengths_in_damaged_headers_allocate_nothing() {
    let mut disk = MemDisk::new();
    let file = disk.create(&segment(1)).unwrap();
    let mut bytes = vec![0xff; 5000];
    bytes[..8].copy_from_slice(b"TCTWAL\n\x01");
    seal_header(&mut bytes);
    file.write_at(&bytes, 0).unwrap();
    assert!(matches!(Wal::open(&mut disk, small()), Err(WalError::Corrupt { offset: 0, .. })));
}
