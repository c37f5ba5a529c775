//! The directories of a cluster that ran, made once and copied for each case; and where in them
//! each thing stands (docs/wal-format.md).

use bytes::Bytes;
use tercet_raft::NodeId;
use tercet_replica::Identity;
use tercet_replica::prepare::{PreparedEntry, identities, prepare};
use tercet_wal::{Batch, Disk, Entry, HardState, MemDisk, Survive, Wal};

use crate::{World, WorldConfig};

pub(crate) const BLOCK: u64 = 4096;
const FRAME_HEADER_BYTES: u64 = 64;
const ID_BYTES: u64 = 48;

/// Where an entry stands, with the frame around it and the identifiers of both.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) segment: String,
    /// Where the frame begins, and where the entry does and ends.
    pub(crate) frame: u64,
    pub(crate) entry: u64,
    pub(crate) end: u64,
    pub(crate) frame_id: u64,
    pub(crate) entry_id: u64,
}

/// What a node's directory holds.
#[derive(Clone, Debug)]
pub(crate) struct Holds {
    pub(crate) hard_state: HardState,
    pub(crate) log: Vec<PreparedEntry>,
}

/// The directories of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) config: WorldConfig,
    disks: Vec<MemDisk>,
    /// For each node, for each of its entries in order.
    pub(crate) places: Vec<Vec<Place>>,
}

/// A damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Harm {
    Flip,
    Zero,
    Unreadable,
}

impl Image {
    /// What `nodes` wrote, each entry in a frame of its own.
    pub(crate) fn new(config: WorldConfig, nodes: &[Holds]) -> Self {
        let ids = identities("lab", &config.node_ids(), config.seed);
        let made: Vec<(MemDisk, Vec<Place>)> =
            ids.iter().zip(nodes).map(|(identity, holds)| make(&config, identity, holds)).collect();
        let (disks, places) = made.into_iter().unzip();
        Self { config, disks, places }
    }

    /// A world of its own on copies of the directories; no node runs.
    pub(crate) fn world(&self) -> World {
        let mut world = World::new(self.config.clone());
        for (id, disk) in world.node_ids().into_iter().zip(&self.disks) {
            *world.disk(id) = disk.after_crash(Survive::All);
        }
        world
    }

    pub(crate) fn place(&self, node: NodeId, index: u64) -> Option<&Place> {
        let at = usize::try_from(index.checked_sub(1)?).ok()?;
        self.places[usize::from(node.slot() - 1)].get(at)
    }
}

fn make(config: &WorldConfig, identity: &Identity, holds: &Holds) -> (MemDisk, Vec<Place>) {
    const MADE: &str = "a directory in memory can be made";
    let options = config.wal();
    let mut scratch = MemDisk::new();
    prepare(&mut scratch, identity, holds.hard_state, &holds.log, options.clone()).expect(MADE);
    let (scratch_wal, _) = Wal::open(&mut scratch, options.clone()).expect(MADE);
    let mut disk = MemDisk::new();
    identity.store(&mut disk, 1).expect(MADE);
    let mut wal = Wal::create(&mut disk, options).expect(MADE);
    let mut entries: Vec<Entry> = Vec::new();
    for index in 1..=scratch_wal.last_index() {
        entries.extend(scratch_wal.read(&scratch, index, index, u64::MAX).expect(MADE));
    }
    let mut hard_state = Some(holds.hard_state);
    if entries.is_empty() {
        wal.stage(Batch { hard_state, ..Batch::default() });
        wal.commit(&mut disk).expect(MADE);
    }
    for entry in &entries {
        let entries = vec![entry.clone()];
        wal.stage(Batch { hard_state: hard_state.take(), truncate_from: None, entries });
        wal.commit(&mut disk).expect(MADE);
    }
    drop(wal);
    let places = find(&mut disk, &entries);
    (disk, places)
}

/// Looks where the entries stand.
fn find(disk: &mut MemDisk, entries: &[Entry]) -> Vec<Place> {
    let names = disk.list("wal").expect("a directory in memory can be listed");
    let mut left = entries;
    let mut places = Vec::new();
    for name in names {
        let segment = format!("wal/{name}");
        let bytes = disk.contents(&segment).expect("it was just listed");
        let mut at = usize::try_from(BLOCK).expect("4096");
        let mut ids = bytes.len() as u64;
        while let [first, rest @ ..] = left {
            let frame = at as u64;
            let start = at + usize::try_from(FRAME_HEADER_BYTES).expect("64");
            let end = start + first.frame.len();
            if bytes.get(start..end) != Some(&first.frame[..]) {
                break;
            }
            places.push(Place {
                segment: segment.clone(),
                frame,
                entry: start as u64,
                end: end as u64,
                frame_id: ids - ID_BYTES,
                entry_id: ids - 2 * ID_BYTES,
            });
            ids -= 2 * ID_BYTES;
            at = end.next_multiple_of(8);
            left = rest;
        }
    }
    assert!(left.is_empty(), "every entry stands somewhere");
    places
}

/// Harms these bytes of a file.
pub(crate) fn harm(disk: &MemDisk, name: &str, from: u64, to: u64, harm: Harm) {
    let start = usize::try_from(from).expect("a file in memory");
    match harm {
        Harm::Flip => disk.damage(
            name,
            usize::midpoint(start, usize::try_from(to).expect("a file in memory")),
            &[1],
        ),
        Harm::Zero => {
            let bytes = disk.contents(name).unwrap_or_default();
            let end = usize::try_from(to).expect("a file in memory").min(bytes.len());
            disk.damage(name, start, bytes.get(start..end).unwrap_or(&[]));
        }
        Harm::Unreadable => disk.fail_reads(name, from..to),
    }
}

/// A value of so many bytes that names itself.
pub(crate) fn value(index: u64, bytes: usize) -> Bytes {
    let mut text = format!("value {index} ").into_bytes();
    while text.len() < bytes {
        text.push(b'a' + u8::try_from((index + text.len() as u64) % 26).expect("below 26"));
    }
    Bytes::from(text)
}
