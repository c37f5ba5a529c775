//! A node's directory with a past: written by the real log, from some bytes of an input, together
//! with what a correct reader must find in it.

use std::thread_local;

use bytes::Bytes;
use tercet_raft::NodeId;
use tercet_replica::prepare::{identities, prepare};
use tercet_replica::{Identity, LoggedContent, LoggedEntry, records_body};
use tercet_wal::{
    Batch, Disk, DiskFile, Entry, EntryHeader, HardState, MemDisk, Survive, Wal, WalOptions,
};

use crate::bytes_of::{Input, mend_entries, noise, put, put_checksum, u32_at};

/// Where the first frame of a segment stands, and the seal (docs/wal-format.md).
pub(crate) const FRAMES: usize = 4096;
pub(crate) const SEAL: usize = 512;
/// Where its summary stands.
pub(crate) const SUMMARY: usize = 1024;
const FRAME_HEADER: usize = 64;
/// The length of an identifier.
pub(crate) const ID: usize = 48;

/// The most batches of a history.
const BATCHES: u8 = 24;

/// Segments as small as they can be.
pub(crate) fn options() -> WalOptions {
    WalOptions { segment_bytes: 0, log_id: 0, reserve_bytes: 0, tail_bytes: 0 }
}

pub(crate) fn node(slot: u8) -> NodeId {
    NodeId::new(slot).expect("1 to 3")
}

/// What a log holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Content {
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<Entry>,
}

impl Content {
    fn after(&self, batch: &Batch) -> Self {
        let mut after = self.clone();
        after.hard_state = batch.hard_state.unwrap_or(after.hard_state);
        if let Some(from) = batch.truncate_from {
            after.entries.retain(|entry| entry.header.index < from);
        }
        after.entries.extend(batch.entries.iter().cloned());
        after
    }

    /// The entries as a replica shows them.
    pub(crate) fn logged(&self) -> Vec<LoggedEntry> {
        let content = |entry: &Entry| match tercet_replica::records_of(entry) {
            Ok(records) if entry.header.record_count > 0 => {
                LoggedContent::Records { request_id: records.request_id, values: records.values }
            }
            Ok(_) | Err(_) => LoggedContent::Noop,
        };
        let logged = |entry: &Entry| LoggedEntry {
            index: entry.header.index,
            term: entry.header.term,
            content: content(entry),
        };
        self.entries.iter().map(logged).collect()
    }
}

/// What was found in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) hard_state: HardState,
    pub(crate) entries: Vec<FoundEntry>,
}

/// An entry in its place, or what is known of it if its bytes are damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FoundEntry {
    Whole(Entry),
    Faulty(EntryHeader),
}

impl FoundEntry {
    pub(crate) const fn header(&self) -> &EntryHeader {
        match self {
            Self::Whole(entry) => &entry.header,
            Self::Faulty(header) => header,
        }
    }

    fn is(&self, entry: &Entry) -> bool {
        match self {
            Self::Whole(found) => found == entry,
            // All but the log time is known without the bytes.
            Self::Faulty(header) => *header == EntryHeader { time_ms: 0, ..entry.header },
        }
    }
}

impl Found {
    /// Whether it is this, with each entry whole or faulty.
    fn is(&self, content: &Content) -> bool {
        self.hard_state == content.hard_state
            && self.entries.len() == content.entries.len()
            && self.entries.iter().zip(&content.entries).all(|(found, entry)| found.is(entry))
    }

    /// The indexes of those whose bytes are damaged.
    pub(crate) fn faulty(&self) -> Vec<u64> {
        let index = |entry: &FoundEntry| match entry {
            FoundEntry::Whole(_) => None,
            FoundEntry::Faulty(header) => Some(header.index),
        };
        self.entries.iter().filter_map(index).collect()
    }
}

/// A directory and its past.
pub(crate) struct History {
    /// As it is left.
    pub(crate) disk: MemDisk,
    pub(crate) identity: Identity,
    /// What was synced and so may have been acknowledged.
    pub(crate) acknowledged: Content,
    /// That, and the batch that a crash cut short, if one did.
    pub(crate) in_flight: Option<Content>,
    /// Whether the crash, if there was one, kept all that was written or nothing that was not
    /// synced: then no part of a write is left.
    pub(crate) is_clean: bool,
}

impl History {
    /// Writes a log as the bytes say: three for each batch, behind a byte that says how many; then a
    /// byte for the crash at the end.
    pub(crate) fn write(input: &mut Input<'_>) -> Self {
        let nodes: Vec<NodeId> = (1..=3).map(node).collect();
        let identity = identities("fuzz", &nodes, 1).swap_remove(0);
        let mut disk = MemDisk::new();
        prepare(&mut disk, &identity, HardState { term: 1, vote: None }, &[], options())
            .expect("an empty disk");
        let (mut wal, _) = Wal::open(&mut disk, options()).expect("it was just made");
        let mut content =
            Content { hard_state: HardState { term: 1, vote: None }, entries: vec![] };
        let count = input.u8() % BATCHES;
        let crash = input.u8();
        let mut in_flight = None;
        for number in 1..=count {
            let is_last = number == count;
            let batch = batch(&content, input.u8(), input.u8(), input.u8());
            let after = content.after(&batch);
            if is_last && !crash.is_multiple_of(4) {
                disk.crash_after(Some(u64::from(crash >> 2) % 8));
            }
            wal.stage(batch);
            if wal.commit(&mut disk).is_err() {
                in_flight = Some(after);
                break;
            }
            content = after;
        }
        let survive = match crash % 4 {
            0 | 1 => Survive::All,
            2 => Survive::None,
            _ => Survive::Random(u64::from(crash)),
        };
        let disk = disk.after_crash(survive);
        Self { disk, identity, acknowledged: content, in_flight, is_clean: crash % 4 != 3 }
    }

    /// What a log holds of which this was found: what was acknowledged, or that with the write that
    /// the crash cut short. `None` if it is neither.
    pub(crate) fn allows(&self, found: &Found) -> Option<&Content> {
        let allowed = [Some(&self.acknowledged), self.in_flight.as_ref()];
        allowed.into_iter().flatten().find(|content| found.is(content))
    }
}

thread_local! {
    /// A body that fills half a segment.
    static LARGE: Bytes = noise(1, 60_000).into();
}

/// What is written next.
fn batch(content: &Content, kind: u8, a: u8, b: u8) -> Batch {
    let mut batch = Batch::default();
    let HardState { term, vote } = content.hard_state;
    let mut last = content.entries.len() as u64;
    match kind % 8 {
        0 => {
            let vote = Some(b % 4).filter(|slot| *slot > 0);
            batch.hard_state = Some(HardState { term: term + u64::from(a % 3) + 1, vote });
            return batch;
        }
        1 if last > 0 => {
            let from = 1 + u64::from(a) % last;
            batch.truncate_from = Some(from);
            batch.hard_state = Some(HardState { term: term + 1, vote });
            last = from - 1;
        }
        2 => batch.hard_state = Some(HardState { term: term + 1, vote: None }),
        _ => {}
    }
    let term = batch.hard_state.map_or(term, |state| state.term);
    let body = |number: u8| match kind % 8 {
        7 => LARGE.with(Clone::clone),
        _ => noise(u64::from(a) + u64::from(number), usize::from(b)).into(),
    };
    let mut seq = content
        .entries
        .iter()
        .take(usize::try_from(last).expect("few"))
        .fold(1, |seq, entry| seq + u64::from(entry.header.record_count));
    let (count, records_max) = if kind % 8 == 7 { (1, 2) } else { (1 + a % 4, 3) };
    for number in 0..count {
        let records = u32::from((a ^ b ^ number) % records_max);
        let index = last + 1 + u64::from(number);
        batch.entries.push(entry(term, index, seq, records, &body(number)));
        seq += u64::from(records);
    }
    batch
}

/// An entry with so many records of the same value; without any it is a no-op.
pub(crate) fn entry(
    term: u64,
    index: u64,
    first_seq: u64,
    record_count: u32,
    value: &Bytes,
) -> Entry {
    let values = vec![value.clone(); record_count as usize];
    let pieces = if record_count == 0 {
        Vec::new()
    } else {
        records_body(u128::from(term) << 64 | u128::from(index), &values).0
    };
    let header = EntryHeader {
        term,
        index,
        first_seq,
        record_count,
        kind: if record_count == 0 { 1 } else { 2 },
        flags: 0,
        log_id: 0,
        time_ms: index,
        body_bytes: 0,
        crc: 0,
    };
    let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
    Entry::new(&header, &pieces)
}

/// The names of all files that a restart reads, in order.
pub(crate) fn names(disk: &MemDisk) -> Vec<String> {
    let mut disk = disk.clone();
    let mut list = |folder: &str| disk.list(folder).expect("the disk is well");
    let segments = list("wal").into_iter().map(|name| format!("wal/{name}"));
    let segments: Vec<String> = segments.collect();
    segments.into_iter().chain(list("")).collect()
}

/// Puts `bytes` in the place of a file.
pub(crate) fn replace(disk: &mut MemDisk, name: &str, bytes: &[u8]) {
    if disk.contents(name).is_some() {
        disk.remove(name).expect("it is there");
    }
    let file = disk.create(name).expect("it is not there");
    file.write_at(bytes, 0).expect("the disk is well");
    file.sync().expect("the disk is well");
    disk.sync_dir("wal").expect("the disk is well");
}

/// Which checksums of a segment are put right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mends {
    pub(crate) header: bool,
    pub(crate) seal: bool,
    pub(crate) summary: bool,
    pub(crate) frames: bool,
    pub(crate) identifiers: bool,
}

/// Where a segment's summary ends, by the counts in it.
pub(crate) fn summary_end(bytes: &[u8]) -> Option<usize> {
    let (count, step) = u32_at(bytes, SUMMARY + 40).zip(u32_at(bytes, SUMMARY + 44))?;
    let lists = u32_at(bytes, SUMMARY + 56)?;
    let (runs, marks) = (lists as usize & 0xffff, lists as usize >> 16);
    let end = SUMMARY + 64 + 16 * runs + 9 * marks + 8 * count.div_ceil(step.max(1)) as usize;
    (end <= FRAMES && bytes.len() >= FRAMES).then_some(end)
}

/// Puts checksums of a segment right, as far as what they cover can be found.
pub(crate) fn mend_segment(bytes: &mut [u8], mends: Mends) {
    if mends.header && bytes.len() >= FRAME_HEADER {
        put(bytes, 0, b"TCTWAL\n");
        let length = (bytes.len() as u64).to_le_bytes();
        put(bytes, 44, &length);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..8]), &bytes[12..FRAME_HEADER]);
        put(bytes, 8, &crc.to_le_bytes());
    }
    if mends.seal && u32_at(bytes, SEAL + 4) == Some(u32::from_le_bytes(*b"SEAL")) {
        put_checksum(bytes, SEAL, SEAL + 4, SEAL + 32);
    }
    if mends.summary
        && let Some(end) = summary_end(bytes)
    {
        put_checksum(bytes, SUMMARY, SUMMARY + 4, end);
    }
    let mut at = FRAMES;
    while mends.frames && u32_at(bytes, at) == Some(u32::from_le_bytes(*b"TFRM")) {
        let Some((count, body)) = u32_at(bytes, at + 48).zip(u32_at(bytes, at + 52)) else { break };
        put_checksum(bytes, at + 4, at + 8, at + FRAME_HEADER);
        let from = at + FRAME_HEADER;
        let to = from.saturating_add(body as usize);
        if let Some(entries) = bytes.get_mut(from..to) {
            mend_entries(entries, count as usize);
        }
        at = to.next_multiple_of(8);
    }
    let mut end = bytes.len();
    while mends.identifiers && end >= FRAMES + ID && matches!(bytes[end - ID + 4], 1 | 2) {
        put_checksum(bytes, end - ID, end - ID + 4, end);
        end -= ID;
    }
}
