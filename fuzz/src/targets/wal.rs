//! The log: segments of any bytes, and identifiers of any bytes beside frames that are whole.

use std::fs;
use std::thread_local;

use tempfile::TempDir;
use tercet_wal::inspect::walk;
use tercet_wal::{Batch, HardState, MemDisk, Recovered, Wal, WalError};

use super::{KIB, MIB, no_words};
use crate::Target;
use crate::bytes_of::{Input, noise, put};
use crate::history::{
    FRAMES, Found, FoundEntry, History, ID, Mends, SEAL, SUMMARY, entry, mend_segment, names,
    options, replace, summary_end,
};

pub(super) const SEGMENT: Target = Target {
    name: "wal_segment",
    about: "two segments of any bytes, checksums put right: refused with the place, or a log that \
            can be read, continued and opened again, or, where there is a summary, that is told to \
            be damaged when it is read; `inspect` walks through all of it",
    run: segment,
    seeds: segment_seeds,
    words: segment_words,
    bytes_max: 4 * KIB,
    memory_max: 4 * MIB,
};

pub(super) const IDENTIFIERS: Target = Target {
    name: "wal_identifiers",
    about: "a log with damage either among the identifiers or in a frame: it is opened, each entry \
            that was acknowledged is whole or faulty, and a faulty one is repaired by its bytes",
    run: identifiers,
    seeds: || (0..24).map(|seed| noise(seed, 64)).collect(),
    words: no_words,
    bytes_max: KIB,
    memory_max: 16 * MIB,
};

/// Reads a log whole, around what is damaged; checks that what recovery says is what is there. In a
/// segment with a summary something may be damaged beyond repair.
fn read_whole(
    wal: &mut Wal<MemDisk>,
    disk: &MemDisk,
    recovered: &Recovered,
) -> Result<Found, WalError> {
    let mut entries: Vec<FoundEntry> = Vec::new();
    assert_eq!(recovered.last_index, wal.last_index());
    while (entries.len() as u64) < wal.last_index() {
        let next = entries.len() as u64 + 1;
        match wal.read(disk, next, wal.last_index(), 30_000) {
            Ok(more) => {
                assert!(!more.is_empty(), "a read makes progress");
                entries.extend(more.into_iter().map(FoundEntry::Whole));
            }
            Err(WalError::Faulty { index, term }) => {
                assert_eq!(index, next, "a read stops before what is damaged");
                assert_eq!(wal.note_faulty(index)?, term == 0, "a known one has its term");
                let header = wal.header(disk, index).expect("a faulty entry's header is known");
                entries.push(FoundEntry::Faulty(header));
            }
            Err(error @ WalError::Corrupt { .. }) => return Err(error),
            Err(error) => panic!("the log was opened, but: {error}"),
        }
    }
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (entry, index) in entries.iter().zip(1..) {
        let header = entry.header();
        assert_eq!(header.index, index);
        assert_eq!(wal.header(disk, index).ok().as_ref(), Some(header));
        if runs.last().is_none_or(|(term, _)| *term != header.term) {
            runs.push((header.term, index));
        }
    }
    assert_eq!(runs, recovered.runs);
    let found = Found { hard_state: recovered.hard_state, entries };
    let known: Vec<u64> = wal.faulty().map(|(index, _)| index).collect();
    assert_eq!(found.faulty(), known, "what is damaged is known when the log was read");
    Ok(found)
}

/// A refusal names a place, or what is missing.
fn check_refusal(error: &WalError) {
    match error {
        WalError::Corrupt { segment, what, .. } => {
            assert!(!segment.is_empty() && !what.is_empty());
        }
        WalError::Missing { what } => assert!(!what.is_empty()),
        WalError::Newer { found, .. } => assert!(*found > 1),
        WalError::Faulty { .. } => panic!("a log is opened around it, but: {error}"),
        WalError::Io { .. }
        | WalError::Poisoned
        | WalError::Unrepairable { .. }
        | WalError::Full
        | WalError::Lost { .. } => {
            panic!("the disk is well, but: {error}");
        }
    }
}

thread_local! {
    static FOLDER: TempDir = tempfile::tempdir().expect("a folder for temporary files");
}

/// Two segments, of which the second may be missing. An input is a byte that says what is put right,
/// the length of the files in units of four bytes, and pieces: segment and part, where, how much,
/// bytes. Frames are counted from the front in units of 8 bytes, identifiers in bytes from the end.
fn segment(input: &[u8]) {
    let mut input = Input(input);
    let (flags, length) = (input.u8(), FRAMES + 4 * usize::from(input.u16()));
    let mut files = [Some(vec![0; length]), None];
    while !input.is_empty() {
        let (place, offset, size) = (input.u8(), usize::from(input.u16()), input.u16());
        let piece = input.take(size.into());
        let file = files[usize::from(place >> 2 & 1)].get_or_insert_with(|| vec![0; length]);
        let at = match place % 4 {
            _ if place & 8 != 0 => SUMMARY + offset % (FRAMES - SUMMARY),
            0 => offset % 64,
            1 => SEAL + offset % 32,
            2 => FRAMES + 8 * offset,
            _ => length.saturating_sub(offset),
        };
        put(file, at, piece);
    }
    let mends = Mends {
        header: flags & 1 != 0,
        seal: flags & 2 != 0,
        frames: flags & 4 != 0,
        identifiers: flags & 8 != 0,
        summary: flags & 32 != 0,
    };
    let mut disk = MemDisk::new();
    for (file, number) in files.iter_mut().zip(1..) {
        if let Some(bytes) = file {
            mend_segment(bytes, mends);
            replace(&mut disk, &format!("wal/{number:08}.seg"), bytes);
        }
    }
    if flags & 16 != 0 {
        inspect(&files);
    }
    let has_summary = |file: &Vec<u8>| file[SUMMARY..FRAMES].iter().any(|byte| *byte != 0);
    if files.iter().flatten().any(has_summary) {
        open_by_summaries(&mut disk);
    } else {
        open_twice(&mut disk);
    }
}

/// Opens a log whose summaries may be made up: what it holds is read, or told to be damaged.
fn open_by_summaries(disk: &mut MemDisk) {
    let mut wal = match Wal::open(disk, options()) {
        Ok((wal, _)) => wal,
        Err(error) => return check_refusal(&error),
    };
    let mut next = 1;
    while next <= wal.last_index() {
        match wal.read(disk, next, wal.last_index(), 30_000) {
            Ok(entries) => {
                for entry in &entries {
                    assert_eq!(entry.header.index, next);
                    next += 1;
                }
                assert!(!entries.is_empty(), "a read makes progress");
            }
            Err(WalError::Faulty { index, .. }) => {
                assert_eq!(index, next, "a read stops before what is damaged");
                match wal.note_faulty(index) {
                    Ok(_) => next += 1,
                    Err(error) => return check_refusal(&error),
                }
            }
            Err(error) => return check_refusal(&error),
        }
    }
    let mut next = 1;
    loop {
        match wal.scrub(next, 30_000) {
            Ok((1, _)) => break,
            Ok((then, _)) => {
                assert!(then > next, "it goes on");
                next = then;
            }
            Err(error) => return check_refusal(&error),
        }
    }
}

/// Opens a log, reads it, continues it and opens it again, if it can be opened.
fn open_twice(disk: &mut MemDisk) {
    let (mut wal, recovered) = match Wal::open(disk, options()) {
        Ok(opened) => opened,
        Err(error) => return check_refusal(&error),
    };
    let before = read_whole(&mut wal, disk, &recovered).expect("all of it was read before");
    let term = before.entries.last().map_or(0, |entry| entry.header().term);
    let hard_state = HardState { term: before.hard_state.term.max(term).max(1), vote: None };
    let last = before.entries.len() as u64;
    let next = entry(hard_state.term, last + 1, 1, 1, &bytes::Bytes::from_static(b"the next"));
    wal.stage(Batch {
        hard_state: Some(hard_state),
        truncate_from: None,
        entries: vec![next.clone()],
    });
    wal.commit(disk).expect("the disk is well");
    let (mut wal, recovered) = Wal::open(disk, options()).expect("what was written is opened");
    let after = read_whole(&mut wal, disk, &recovered).expect("what was read is read again");
    assert_eq!(after.hard_state, hard_state);
    let next = FoundEntry::Whole(next);
    assert_eq!(after.entries.split_last(), Some((&next, &before.entries[..])));
}

fn inspect(files: &[Option<Vec<u8>>]) {
    FOLDER.with(|folder| {
        let wal = folder.path().join("wal");
        fs::create_dir_all(&wal).expect("a folder for temporary files");
        for (file, number) in files.iter().zip(1..) {
            let path = wal.join(format!("{number:08}.seg"));
            match file {
                Some(bytes) => fs::write(path, bytes).expect("there is room"),
                None => drop(fs::remove_file(path)),
            }
        }
        let mut found = 0;
        walk(folder.path(), |_| found += 1).expect("the folder can be read");
        assert!(found > 0, "each file is at least named");
    });
}

/// The input that [`segment`] makes these files of.
fn segment_input(flags: u8, disk: &MemDisk) -> Vec<u8> {
    let files: Vec<Vec<u8>> = names(disk)
        .iter()
        .filter(|name| name.starts_with("wal/"))
        .map(|name| disk.contents(name).expect("it was listed"))
        .collect();
    let short = |n: usize| u16::try_from(n).expect("seeds are short").to_le_bytes();
    let mut input = vec![flags];
    input.extend(short((files[0].len() - FRAMES) / 4));
    for (file, number) in files.iter().take(2).zip(0_u8..) {
        let mut piece = |part: u8, offset: usize, bytes: &[u8]| {
            input.push(number << 2 | part);
            input.extend(short(offset));
            input.extend(short(bytes.len()));
            input.extend(bytes);
        };
        piece(0, 0, &file[..64]);
        piece(1, 0, &file[SEAL..SEAL + 32]);
        if flags & 32 != 0
            && let Some(end) = summary_end(file).filter(|end| *end > SUMMARY + 64)
        {
            piece(8, 0, &file[SUMMARY..end]);
        }
        let middle = file.len() / 2;
        let end = file[..middle].iter().rposition(|byte| *byte != 0).map_or(FRAMES, |at| at + 1);
        // Of a large entry the beginning.
        piece(2, 0, &file[FRAMES..end.clamp(FRAMES, FRAMES + 1_000)]);
        let from =
            file[middle..].iter().position(|byte| *byte != 0).map_or(file.len(), |at| middle + at);
        piece(3, file.len() - from, &file[from..]);
    }
    input
}

fn segment_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0; 3]];
    for seed in 0..24_u8 {
        // A few short batches of every kind but the large one, so that seeds stay short.
        let count = 1 + seed % 6;
        let mut bytes = vec![count, 0];
        for number in 0..count {
            bytes.extend([(seed + number) % 7, seed, 8 * number]);
        }
        let history = History::write(&mut Input(&bytes));
        for flags in [0, 31] {
            seeds.push(segment_input(flags, &history.disk));
        }
    }
    for seed in 0..8_u8 {
        // Two large batches, of which the second one takes another segment: the first is sealed.
        let bytes = [4, 0, seed % 7, seed, 8, 7, seed, 9, 0, 1, 1, 7, seed, 9];
        let history = History::write(&mut Input(&bytes));
        seeds.push(segment_input(63, &history.disk));
    }
    seeds
}

fn segment_words() -> Vec<String> {
    ["TCTWAL\n", "TFRM", "SEAL", "SUMM"].map(str::to_owned).to_vec()
}

/// A history, then what is damaged: bytes among the identifiers of one segment, or one stretch of
/// its frames, but not both.
fn identifiers(input: &[u8]) {
    let mut input = Input(input);
    let (segment, how, at, length) = (input.u8(), input.u8(), input.u16(), input.u8());
    let history = History::write(&mut input);
    let mut disk = history.disk.clone();
    let mut names = names(&disk);
    names.retain(|name| name.starts_with("wal/"));
    let name = &names[usize::from(segment) % names.len()];
    let mut bytes = disk.contents(name).expect("it was listed");
    // Frames never reach the last 64 KiB, as those are kept for votes.
    let (at, length) = (usize::from(at), usize::from(length) + 1);
    let Some(frames) = bytes.len().checked_sub(FRAMES + 65536) else {
        // A segment that a crash left shorter than any: it was not used yet.
        return;
    };
    let (from, end) = if how % 2 == 0 {
        (bytes.len() - at % (256 * ID) - 1, bytes.len())
    } else {
        (FRAMES + at % frames.max(1), FRAMES + frames)
    };
    let to = (from + length).min(end);
    match how >> 1 & 3 {
        0 => bytes[from..to].fill(0),
        1 => bytes[from] ^= 1 << (how >> 3 & 7),
        2 => put(&mut bytes[from..to], 0, &noise(u64::from(how), length)),
        _ => {
            let copy = bytes[from - length.min(from)..from].to_vec();
            put(&mut bytes[from..to], 0, &copy);
        }
    }
    replace(&mut disk, name, &bytes);
    let (mut wal, recovered) = match Wal::open(&mut disk, options()) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!history.is_clean, "one damaged stretch is no reason to refuse a log: {error}");
            return check_refusal(&error);
        }
    };
    let found = match read_whole(&mut wal, &disk, &recovered) {
        Ok(found) => found,
        Err(error) => {
            assert!(!history.is_clean, "one damaged stretch destroys no log: {error}");
            return check_refusal(&error);
        }
    };
    let Some(content) = history.allows(&found) else {
        panic!(
            "acknowledged up to entry {} in {:?}, found up to {} in {:?}, and not told",
            history.acknowledged.entries.len(),
            history.acknowledged.hard_state,
            found.entries.len(),
            found.hard_state
        )
    };
    let repaired = wal.repair(&content.entries).expect("the disk is well");
    assert_eq!(repaired, found.faulty(), "with the right bytes it is repaired");
    let whole = content.entries.iter().cloned().map(FoundEntry::Whole).collect();
    let found = read_whole(&mut wal, &disk, &recovered).expect("it was read before");
    assert_eq!(found, Found { hard_state: content.hard_state, entries: whole });
}
