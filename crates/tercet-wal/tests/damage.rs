//! Damage at rest: torn tails, flipped bytes, files that are short, gone, zeroed or swapped, and
//! bytes that never were a log. Each is told as what it is, or is harmless; none changes an entry.

#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use proptest::prelude::*;
use support::{
    Image, Model, Rng, append, crc_by_bits, disk_of, entry, image, open_all, read_all, segment,
    small, state, write,
};
use tercet_wal::inspect::{Found, walk};
use tercet_wal::{Batch, Disk, DiskFile, Entry, MemDisk, Wal, WalError};

const HEADER: usize = 4096;
const FRAME_HEADER: usize = 64;
const ID: usize = 32;

/// Where a frame and its identifiers stand.
#[derive(Clone, Debug)]
struct Frame {
    segment: u32,
    offset: usize,
    /// Without what fills it up to a multiple of 8.
    bytes: usize,
    /// Where its lowest identifier begins, and its highest ends.
    ids: (usize, usize),
}

impl Frame {
    const fn end(&self) -> usize {
        self.offset + self.bytes
    }
}

/// A log that is made frame by frame, with the places of all of them.
struct Made {
    disk: MemDisk,
    wal: Wal<MemDisk>,
    model: Model,
    frames: Vec<Frame>,
}

impl Made {
    fn new() -> Self {
        let mut disk = MemDisk::new();
        let wal = Wal::create(&mut disk, small()).unwrap();
        Self { disk, wal, model: Model::default(), frames: Vec::new() }
    }

    fn write(&mut self, batch: Batch) {
        self.model.apply(&batch);
        let bodies: usize = batch.entries.iter().map(|entry| entry.frame.len()).sum();
        let (bytes, ids) = (FRAME_HEADER + bodies, ID * (1 + batch.entries.len()));
        write(&mut self.wal, &mut self.disk, batch);
        let number = u32::try_from(image(&self.disk).len()).unwrap();
        let length = self.disk.contents(&segment(number)).unwrap().len();
        let (offset, top) = match self.frames.last() {
            Some(last) if last.segment == number => (last.end().next_multiple_of(8), last.ids.0),
            Some(_) | None => (HEADER, length),
        };
        self.frames.push(Frame { segment: number, offset, bytes, ids: (top - ids, top) });
    }

    fn image(&self) -> Image {
        image(&self.disk)
    }

    fn last(&self) -> Frame {
        self.frames.last().unwrap().clone()
    }
}

/// Two segments, with a bit of everything in each.
fn two_segments() -> Made {
    let mut made = Made::new();
    made.write(state(1, 2));
    made.write(append(vec![entry(1, 1, b""), entry(1, 2, b"first"), entry(1, 3, &[9; 37])]));
    made.write(Batch {
        hard_state: state(2, 0).hard_state,
        truncate_from: Some(3),
        entries: vec![entry(2, 3, b"third"), entry(2, 4, b"4")],
    });
    made.write(append(vec![entry(2, 5, &Rng(5).bytes(70_000))]));
    made.write(append(vec![entry(2, 6, b"in another segment")]));
    made.write(state(3, 1));
    made.write(append(vec![entry(3, 7, b"the last"), entry(3, 8, b"but one or two")]));
    assert_eq!(made.last().segment, 2);
    made
}

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
        other => panic!("{label}: damage was not noticed: {other:?}"),
    }
}

fn open(image: &Image) -> Result<Model, WalError> {
    open_all(&mut disk_of(image), small()).map(|(_, _, model)| model)
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

#[test]
fn a_torn_frame_with_any_of_its_identifiers_is_never_cut() {
    let mut made = two_segments();
    let entries = (9..109).map(|index| entry(3, index, b"\x01")).collect();
    made.write(append(entries));
    let (whole, frame) = (made.image(), made.last());
    let name = segment(frame.segment);
    for id in (frame.ids.0..frame.ids.1).step_by(ID) {
        for kept in [0, 1, FRAME_HEADER, frame.bytes - 1] {
            let mut torn = whole.clone();
            let bytes = torn.get_mut(&name).unwrap();
            zero(&mut bytes[frame.offset + kept..frame.end()]);
            zero(&mut bytes[frame.ids.0..id]);
            zero(&mut bytes[id + ID..frame.ids.1]);
            let label = format!("{kept} bytes and the identifier at {id} are left");
            assert_corrupt(open(&torn), frame.segment, frame.offset, &label);
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
fn a_flipped_byte_is_noticed_or_harmless() {
    let made = two_segments();
    let whole = made.image();
    let (mut noticed, mut harmless) = (0, 0);
    for number in [1, 2] {
        for (count, at) in places(&made, number).into_iter().enumerate() {
            let mask = [0x01, 0x80, 0xff][count % 3];
            let disk = disk_of(&whole);
            disk.damage(&segment(number), at, &[mask]);
            let label = format!("segment {number}, byte {at}, mask {mask:#x}");
            let found = open_all(&mut disk.clone(), small()).map(|(_, _, model)| model);
            let frame = made
                .frames
                .iter()
                .find(|frame| frame.segment == number && (frame.offset..frame.end()).contains(&at));
            let is_seal = (512..512 + 32).contains(&at);
            let is_last = number == 2;
            let of_segment = made.frames.iter().filter(|frame| frame.segment == number);
            let end = of_segment.clone().map(Frame::end).max().unwrap().next_multiple_of(8);
            let ids = of_segment.map(|frame| frame.ids.0).min().unwrap();
            let expected = match frame {
                Some(frame) => Some(frame.offset),
                None if at < 64 => Some(0),
                // The seal of the first segment is made again from what is known; where the last
                // one has none, there must be none.
                None if is_seal => is_last.then_some(512),
                // Between frames and identifiers: behind a complete segment nothing may stand; in
                // the newest one it looks like the beginning of a write.
                None if (end..ids).contains(&at) => (!is_last).then_some(end),
                None => None,
            };
            match expected {
                Some(offset) => {
                    assert_corrupt(found, number, offset, &label);
                    noticed += 1;
                }
                None => {
                    let found = found.unwrap_or_else(|error| panic!("{label}: {error}"));
                    assert!(found == made.model, "{label}: another log");
                    harmless += 1;
                }
            }
        }
    }
    assert!(noticed > 1000 && harmless > 300, "{noticed} noticed, {harmless} harmless");
}

/// A disk may go bad while the log is open: each read verifies.
#[test]
fn a_byte_flipped_while_the_log_is_open_is_noticed_by_the_read() {
    let made = two_segments();
    let disk = disk_of(&made.image());
    let (wal, _) = Wal::open(&mut disk.clone(), small()).unwrap();
    let frame = &made.frames[1];
    let bytes = made.image()[&segment(1)].clone();
    assert_eq!(read_all(&wal, &disk).unwrap(), made.model.entries);
    // Entries 1 and 2 are the first two of the second frame.
    let first = frame.offset + FRAME_HEADER;
    let second = first + made.model.entries[0].frame.len();
    let end = second + made.model.entries[1].frame.len();
    for at in first..end {
        disk.damage(&segment(1), at, &[0x20]);
        let (index, offset) = if at < second { (1, first) } else { (2, second) };
        let good = 3 - index;
        match wal.read(&disk, index, index, u64::MAX) {
            Err(WalError::Corrupt { segment: name, offset: told, what }) => {
                assert_eq!((name, told), (segment(1), offset as u64), "byte {at}");
                assert!(what.contains(&format!("entry {index}")), "{what}");
            }
            other => panic!("byte {at} was read as {other:?}"),
        }
        let other = wal.read(&disk, good, good, u64::MAX).unwrap();
        assert_eq!(other, [made.model.entries[usize::try_from(good).unwrap() - 1].clone()]);
        disk.damage(&segment(1), at, &[0x20]);
    }
    assert_eq!(disk.contents(&segment(1)).unwrap(), bytes);
}

/// A disk may put a write in the wrong place: what is read there is whole, but another entry.
#[test]
fn another_entry_in_the_place_of_one_is_noticed_by_the_read() {
    let mut made = Made::new();
    made.write(append(vec![entry(1, 1, b"one"), entry(1, 2, b"two"), entry(1, 3, b"six")]));
    let disk = disk_of(&made.image());
    let (wal, _) = Wal::open(&mut disk.clone(), small()).unwrap();
    let [one, two, _] = &made.model.entries[..] else { panic!("three were written") };
    let mask: Vec<u8> = one.frame.iter().zip(&two.frame).map(|(a, b)| a ^ b).collect();
    let place = HEADER + FRAME_HEADER;
    disk.damage(&segment(1), place, &mask);
    for last in 1..=3 {
        match wal.read(&disk, 1, last, u64::MAX) {
            Err(WalError::Corrupt { offset, .. }) => assert_eq!(offset, place as u64),
            other => panic!("1..={last} was read as {other:?}"),
        }
    }
    assert!(matches!(wal.header(&disk, 1), Err(WalError::Corrupt { .. })));
    assert_eq!(wal.read(&disk, 2, 3, u64::MAX).unwrap(), made.model.entries[1..]);
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
fn a_zeroed_file_is_noticed() {
    let made = two_segments();
    for number in [1, 2] {
        let mut image = made.image();
        zero(image.get_mut(&segment(number)).unwrap());
        assert_corrupt(open(&image), number, 0, "zeroed");
        let mut image = made.image();
        zero(&mut image.get_mut(&segment(number)).unwrap()[..HEADER]);
        assert_corrupt(open(&image), number, 0, "the header's block is zeroed");
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
    broken.get_mut(&segment(2)).unwrap()[made.last().offset + 8] ^= 1;
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
        torn.insert(segment(3), [vec![0; 4096], vec![1]].concat());
        assert_corrupt(open(&torn), 3, 0, "something behind no header");
        // A segment behind one that has no header is no prepared one.
        image.get_mut(&segment(3)).unwrap().extend([0; 5000]);
        image.insert(segment(4), made.image()[&segment(2)].clone());
        assert_corrupt(open(&image), 3, 0, "used behind unused");
    }
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
        assert_corrupt(open(&image), number, 0, "format 0");
        image.get_mut(&segment(number)).unwrap()[7] = 3;
        assert_corrupt(open(&image), number, 0, "a damaged version");
    }
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
    let cases: [(usize, u64, &str); 4] = [
        (24, 4, "term 4 follows term 5"),
        (40, 9, "another entry is there"),
        (8, 7, "frame 7 stands where 2 is expected"),
        (40, u64::MAX, "another entry is there"),
    ];
    for (at, value, words) in cases {
        let mut image = made.image();
        let bytes = image.get_mut(&segment(1)).unwrap();
        let head = &mut bytes[frame.offset..frame.offset + FRAME_HEADER];
        head[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let crc = crc_by_bits(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        match open(&image) {
            Err(WalError::Corrupt { segment: name, offset, what }) => {
                assert_eq!((name, offset), (segment(1), frame.offset as u64));
                assert!(what.contains(words), "{what}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }
}

/// What `inspect` says of a directory: its faults, and the entries that it could read.
fn inspected(image: &Image) -> (Vec<String>, Vec<Entry>, usize) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("wal")).unwrap();
    for (name, bytes) in image {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let (mut faults, mut log, mut torn) = (Vec::new(), Vec::new(), 0);
    walk(dir.path(), |found| match found {
        Found::Fault { segment, offset, what } => {
            faults.push(format!("{segment} at byte {offset}: {what}"));
        }
        Found::Frame { truncate_from, entries, .. } => {
            if let Some(from) = truncate_from {
                log.retain(|entry: &Entry| entry.header.index < from);
            }
            log.extend(entries);
        }
        Found::TornTail { .. } => torn += 1,
        Found::Segment { .. } | Found::Unused { .. } => {}
    })
    .unwrap();
    (faults, log, torn)
}

#[test]
fn inspecting_finds_the_same_faults_as_opening() {
    let made = two_segments();
    let (faults, entries, torn) = inspected(&made.image());
    assert_eq!((faults, torn), (Vec::new(), 0));
    assert_eq!(entries, made.model.entries);
    let one = |change: &dyn Fn(&mut Image)| {
        let mut image = made.image();
        change(&mut image);
        let (faults, ..) = inspected(&image);
        assert_eq!(faults.is_empty(), open(&image).is_ok(), "{faults:?}");
        faults.join("; ")
    };
    let (first, last) = (made.frames[1].offset, made.last());
    let fault = one(&|image| image.get_mut(&segment(1)).unwrap()[first + 70] ^= 1);
    assert!(fault.starts_with(&format!("00000001.seg at byte {first}: ")), "{fault}");
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
    let fault = one(&|image| image.get_mut(&segment(1)).unwrap()[80_000] = 1);
    assert!(fault.contains("a frame is damaged in mid-log"), "{fault}");
    // A torn tail is no fault, and neither is a segment that was prepared.
    let fault = one(&|image| {
        let bytes = image.get_mut(&segment(2)).unwrap();
        zero(&mut bytes[last.offset + 3..last.end()]);
        zero(&mut bytes[last.ids.0..last.ids.1]);
        image.insert(segment(3), vec![0; 100]);
    });
    assert_eq!(fault, "");
}

/// Opens what may be anything: whatever comes of it, nothing panics, and what is read is whole.
fn open_anything(image: &Image) {
    if let Ok((_, _, model)) = open_all(&mut disk_of(image), small()) {
        for (position, entry) in model.entries.iter().enumerate() {
            assert_eq!(entry.header.index, position as u64 + 1);
            assert_eq!(Entry::parse(entry.frame.clone()).as_ref(), Ok(entry));
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
        match open(&image) {
            Ok(found) => prop_assert_eq!(found, made.model),
            Err(error) => prop_assert!(
                matches!(error, WalError::Corrupt { .. } | WalError::Missing { .. }),
                "{}", error
            ),
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
