//! What the tests of the log share: entries, a plain model of a log, and disks made from bytes.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod made;

use std::collections::BTreeMap;

use tercet_wal::{
    Batch, Disk, DiskFile, Entry, EntryHeader, HardState, MemDisk, Recovered, Wal, WalError,
    WalOptions,
};

/// Options whose segments are as small as they can be: about 132 KiB, because every segment keeps
/// room for votes.
pub(crate) fn small() -> WalOptions {
    WalOptions { segment_bytes: 0, log_id: 7, reserve_bytes: 0, tail_bytes: 4096 }
}

/// SplitMix64: one number is the whole run.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap()
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn bytes(&mut self, length: u64) -> Vec<u8> {
        let mut out: Vec<u8> =
            (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        out.truncate(usize::try_from(length).unwrap());
        out
    }
}

pub(crate) fn entry(term: u64, index: u64, body: &[u8]) -> Entry {
    let header = EntryHeader {
        term,
        index,
        first_seq: index * 10,
        record_count: 1,
        kind: 1,
        flags: 0,
        log_id: 7,
        time_ms: 1000 + index,
        body_bytes: 0,
        crc: 0,
    };
    Entry::new(&header, &[body])
}

pub(crate) fn append(entries: Vec<Entry>) -> Batch {
    Batch { entries, ..Batch::default() }
}

pub(crate) fn state(term: u64, vote: u8) -> Batch {
    Batch {
        hard_state: Some(HardState { term, vote: (vote != 0).then_some(vote) }),
        ..Batch::default()
    }
}

/// What a log is, and nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Model {
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
}

impl Model {
    pub(crate) fn apply(&mut self, batch: &Batch) {
        if let Some(state) = batch.hard_state {
            self.hard_state = state;
        }
        if let Some(from) = batch.truncate_from {
            self.entries.retain(|entry| entry.header.index < from);
        }
        self.entries.extend(batch.entries.iter().cloned());
    }

    pub(crate) fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The runs of one term, found by looking at every entry.
    pub(crate) fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|(term, _)| *term != entry.header.term) {
                runs.push((entry.header.term, entry.header.index));
            }
        }
        runs
    }
}

/// Everything in a log, read piece by piece.
pub(crate) fn read_all<D: Disk>(wal: &Wal<D>, disk: &D) -> Result<Vec<Entry>, WalError> {
    let mut entries: Vec<Entry> = Vec::new();
    while (entries.len() as u64) < wal.last_index() {
        let more = wal.read(disk, entries.len() as u64 + 1, wal.last_index(), 30_000)?;
        assert!(!more.is_empty(), "a read makes progress");
        entries.extend(more);
    }
    Ok(entries)
}

/// Opens the log and reads it whole; checks that what recovery says is what is there.
pub(crate) fn open_all<D: Disk>(
    disk: &mut D,
    options: WalOptions,
) -> Result<(Wal<D>, Recovered, Model), WalError> {
    let (wal, recovered) = Wal::open(disk, options)?;
    let model = Model { hard_state: recovered.hard_state, entries: read_all(&wal, disk)? };
    assert_eq!(recovered.last_index, model.last());
    assert_eq!(recovered.runs, model.runs());
    for entry in &model.entries {
        let header = wal.header(disk, entry.header.index)?;
        assert_eq!(header, entry.header);
    }
    Ok((wal, recovered, model))
}

/// Opens a log that may have faulty entries, and compares all of it with what it should be. Gives
/// the faulty ones, which are told by every read of them and by no other.
pub(crate) fn open_known<D: Disk>(
    disk: &mut D,
    known: &Model,
    label: &str,
) -> Result<(Wal<D>, Recovered, Vec<u64>), WalError> {
    let (wal, recovered) = Wal::open(disk, small())?;
    assert_eq!(recovered.hard_state, known.hard_state, "{label}");
    assert_eq!(recovered.last_index, known.last(), "{label}");
    assert_eq!(recovered.runs, known.runs(), "{label}");
    let faulty: Vec<(u64, u64)> = wal.faulty().collect();
    for entry in &known.entries {
        let EntryHeader { index, term, .. } = entry.header;
        // The identifier of a faulty one does not say it.
        let time_ms = if faulty.contains(&(index, term)) { 0 } else { entry.header.time_ms };
        let header = wal.header(disk, index).unwrap();
        assert_eq!(header, EntryHeader { time_ms, ..entry.header }, "{label}");
    }
    let mut rest = &known.entries[..];
    while let Some(EntryHeader { index, term, .. }) = rest.first().map(|entry| entry.header) {
        let is_faulty = faulty.contains(&(index, term));
        match wal.read(disk, index, known.last(), 30_000) {
            Ok(found) => {
                assert!(!is_faulty, "{label}: entry {index} was read");
                assert!(found == rest[..found.len()], "{label}");
                rest = &rest[found.len()..];
            }
            Err(WalError::Faulty { index: told, term: of }) => {
                assert_eq!((told, of), (index, term), "{label}");
                assert!(is_faulty, "{label}: entry {index} was not known to be faulty");
                rest = &rest[1..];
            }
            Err(error) => panic!("{label}: {error}"),
        }
    }
    let faulty: Vec<u64> = faulty.into_iter().map(|(index, _)| index).collect();
    assert!(faulty.iter().all(|index| *index <= known.last()), "{label}");
    Ok((wal, recovered, faulty))
}

pub(crate) fn write<D: Disk>(wal: &mut Wal<D>, disk: &mut D, batch: Batch) {
    wal.stage(batch);
    wal.commit(disk).unwrap();
}

/// The files of a log.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// The files of a log without the summaries of its segments: each is read whole when it is opened.
pub(crate) fn image(disk: &MemDisk) -> Image {
    let mut image = image_with_summaries(disk);
    for bytes in image.values_mut().filter(|bytes| bytes.len() >= 4096) {
        bytes[1024..4096].fill(0);
    }
    image
}

pub(crate) fn image_with_summaries(disk: &MemDisk) -> Image {
    let names = disk.clone().list("wal").unwrap();
    let full = names.iter().map(|name| format!("wal/{name}"));
    full.map(|name| (name.clone(), disk.contents(&name).unwrap())).collect()
}

pub(crate) fn disk_of(image: &Image) -> MemDisk {
    let mut disk = MemDisk::new();
    for (name, bytes) in image {
        let file = disk.create(name).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.sync().unwrap();
    }
    disk.sync_dir("wal").unwrap();
    disk
}

pub(crate) fn segment(number: u32) -> String {
    format!("wal/{number:08}.seg")
}

/// CRC-32C bit by bit, from its definition.
pub(crate) fn crc_by_bits(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
