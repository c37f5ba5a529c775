//! Who a node is: its slot, its incarnation, its cluster, and whether it may vote.
//!
//! The file `identity` holds two copies, each whole and checksummed; an update overwrites the
//! older one and syncs before it touches the other, so that one is always good.
//!
//! ```text
//!      0 ┌──────────────────────────────────────────────────────────────────┐
//!        │ magic "TCTID" │ version u8 │ crc u32 │ length u32 │ count u64 │ … │  copy A
//!   4096 ├──────────────────────────────────────────────────────────────────┤
//!        │ the same with the other count                                    │  copy B
//!   8192 └──────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::BTreeMap;

use tercet_raft::{Incarnation, LogPos, NodeId};
use tercet_wal::{Disk, DiskFile};

/// Where a copy begins; the second one's place is also the space that each has.
const COPY_BYTES: usize = 4096;
const HEAD_BYTES: usize = 24;
const MAGIC: &[u8; 5] = b"TCTID";
/// Format 1 did not know of generations.
const VERSION: u8 = 2;
pub(crate) const FILE: &str = "identity";

/// Whether a node may vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentityState {
    /// Knows no cluster that runs; may help to form one.
    Fresh,
    /// Has lost its memory: mute until the others have readmitted it.
    Quarantined,
    /// A member that votes.
    Voter,
    /// Holds the log with which an operator lets the cluster begin again (docs/rejoin.md, "When more
    /// than a minority is lost"): waits until all others are new.
    Survivor,
}

impl IdentityState {
    /// The state's name in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Quarantined => "quarantined",
            Self::Voter => "voter",
            Self::Survivor => "survivor",
        }
    }
}

/// Which generation of a cluster: the first is formed out of empty directories, and each further one
/// is what an operator made of the log of one survivor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Generation {
    /// 1, 2, 3 …; 0 as long as no cluster is known. A node that knows no cluster has here the newest
    /// generation that it heard of, and belongs to none that is older.
    pub number: u64,
    /// The cluster id of the first generation: what all generations of a cluster have in common.
    pub origin: Option<u128>,
    /// How the generation came to be; `None` for the first.
    pub recovery: Option<Recovery>,
}

/// What an operator decided when more nodes were lost than a majority can spare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// Whose log goes on.
    pub survivor: NodeId,
    /// Where that log ended. Every leader of the generation has a log that reaches at least here.
    pub floor: LogPos,
}

impl Generation {
    /// The first generation of a cluster with this id.
    pub const fn first(cluster_id: u128) -> Self {
        Self { number: 1, origin: Some(cluster_id), recovery: None }
    }

    /// Whether `other` is a generation of the same cluster, as far as this one knows.
    pub(crate) fn is_related(&self, other: &Self) -> bool {
        self.origin.is_none() || other.origin.is_none() || self.origin == other.origin
    }

    /// Below this no leader's log may end.
    pub fn floor(&self) -> LogPos {
        self.recovery.map_or(LogPos::ORIGIN, |recovery| recovery.floor)
    }
}

/// Who a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The slot.
    pub node: NodeId,
    /// The random number of this data directory.
    pub incarnation: Incarnation,
    /// The cluster's name, as configured when the directory was made.
    pub cluster_name: String,
    /// The cluster's id, once known. Each generation has its own.
    pub cluster_id: Option<u128>,
    /// Which generation of the cluster.
    pub generation: Generation,
    /// Whether the node may vote.
    pub state: IdentityState,
    /// Whether what is in `wal/` may still be that of an earlier incarnation: it is to be set aside
    /// before anything else. Without this, a crash in between would leave a mute node with the term
    /// and the vote of the disk that it has given up.
    pub has_remains: bool,
    /// The incarnation of each member when the cluster was formed or joined; entries in the log
    /// move it on.
    pub members: BTreeMap<NodeId, Incarnation>,
}

/// Why an identity file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system failed.
    #[error("identity: {0}")]
    Io(#[from] std::io::Error),
    /// It was written by a newer program.
    #[error(
        "identity: format {found} is newer than this program's ({VERSION}): use a newer program"
    )]
    Newer {
        /// The format found.
        found: u8,
    },
    /// Both copies are damaged.
    #[error("identity: both copies are damaged")]
    Damaged,
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.push(self.node.slot());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.push(match self.state {
            IdentityState::Fresh => 0,
            IdentityState::Quarantined => 1,
            IdentityState::Voter => 2,
            IdentityState::Survivor => 3,
        });
        out.push(u8::from(self.cluster_id.is_some()));
        out.extend_from_slice(&self.cluster_id.unwrap_or_default().to_le_bytes());
        out.push(u8::try_from(self.cluster_name.len()).expect("a name has at most 64 bytes"));
        out.extend_from_slice(self.cluster_name.as_bytes());
        out.push(u8::try_from(self.members.len()).expect("a cluster has at most 7 members"));
        for (node, incarnation) in &self.members {
            out.push(node.slot());
            out.extend_from_slice(&incarnation.0.to_le_bytes());
        }
        let Generation { number, origin, recovery } = self.generation;
        out.extend_from_slice(&number.to_le_bytes());
        out.push(u8::from(origin.is_some()));
        out.extend_from_slice(&origin.unwrap_or_default().to_le_bytes());
        out.push(recovery.map_or(0, |recovery| recovery.survivor.slot()));
        let floor = self.generation.floor();
        out.extend_from_slice(&floor.term.0.to_le_bytes());
        out.extend_from_slice(&floor.index.0.to_le_bytes());
        out.push(u8::from(self.has_remains));
        out
    }

    fn decode(body: &[u8], version: u8) -> Option<Self> {
        let mut rest = body;
        let mut take = |n: usize| -> Option<&[u8]> {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let node = NodeId::new(take(1)?[0])?;
        let incarnation = Incarnation(u128::from_le_bytes(take(16)?.try_into().ok()?));
        let state = match take(1)?[0] {
            0 => IdentityState::Fresh,
            1 => IdentityState::Quarantined,
            2 => IdentityState::Voter,
            3 => IdentityState::Survivor,
            _ => return None,
        };
        let has_cluster = take(1)?[0] == 1;
        let cluster_id = u128::from_le_bytes(take(16)?.try_into().ok()?);
        let name_bytes = usize::from(take(1)?[0]);
        let cluster_name = String::from_utf8(take(name_bytes)?.to_vec()).ok()?;
        let member_count = take(1)?[0];
        let mut members = BTreeMap::new();
        for _ in 0..member_count {
            let slot = NodeId::new(take(1)?[0])?;
            members.insert(slot, Incarnation(u128::from_le_bytes(take(16)?.try_into().ok()?)));
        }
        let cluster_id = has_cluster.then_some(cluster_id);
        let mut has_remains = false;
        let generation = if version == 1 {
            cluster_id.map(Generation::first).unwrap_or_default()
        } else {
            let number = u64::from_le_bytes(take(8)?.try_into().ok()?);
            let has_origin = take(1)?[0] == 1;
            let origin = u128::from_le_bytes(take(16)?.try_into().ok()?);
            let survivor = take(1)?[0];
            let term = u64::from_le_bytes(take(8)?.try_into().ok()?);
            let index = u64::from_le_bytes(take(8)?.try_into().ok()?);
            let floor = LogPos::new(term, index);
            has_remains = take(1)?[0] == 1;
            let recovery = NodeId::new(survivor).map(|survivor| Recovery { survivor, floor });
            Generation { number, origin: has_origin.then_some(origin), recovery }
        };
        Some(Self {
            node,
            incarnation,
            cluster_name,
            cluster_id,
            generation,
            state,
            has_remains,
            members,
        })
    }

    /// Reads the identity of a directory: `None` if it has none. It is read from the disk, not from
    /// memory, where a copy whose sync failed may look as if it had been written.
    ///
    /// # Errors
    /// A file that cannot be read, is newer, or is damaged in both copies.
    pub fn load<D: Disk>(disk: &mut D) -> Result<Option<(Self, u64)>, IdentityError> {
        let Some(file) = disk.open(FILE)? else {
            return Ok(None);
        };
        file.forget_cache(0..2 * COPY_BYTES as u64);
        let mut bytes = vec![0; 2 * COPY_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            let n = file.read_at(&mut bytes[filled..], filled as u64)?;
            if n == 0 {
                break;
            }
            filled += n;
        }
        newest(&bytes)?.map(Some).ok_or(IdentityError::Damaged)
    }

    /// Reads the identity in a directory without taking it, for `tercet inspect`.
    ///
    /// # Errors
    /// A file that is not there, cannot be read, is newer, or is damaged in both copies.
    pub fn load_from(dir: &std::path::Path) -> Result<Self, IdentityError> {
        let mut bytes = std::fs::read(dir.join(FILE))?;
        bytes.resize(2 * COPY_BYTES, 0);
        newest(&bytes)?.map(|(identity, _)| identity).ok_or(IdentityError::Damaged)
    }

    /// Stores the identity durably; `count` is greater than that of any earlier one.
    ///
    /// # Errors
    /// The file system's.
    pub fn store<D: Disk>(&self, disk: &mut D, count: u64) -> Result<(), IdentityError> {
        let body = self.encode();
        let mut copy = Vec::with_capacity(HEAD_BYTES + body.len());
        copy.extend_from_slice(MAGIC);
        copy.push(VERSION);
        copy.extend_from_slice(&[0; 2]);
        copy.extend_from_slice(&[0; 4]);
        copy.extend_from_slice(&u32::try_from(body.len()).expect("below one page").to_le_bytes());
        copy.extend_from_slice(&count.to_le_bytes());
        copy.extend_from_slice(&body);
        assert!(copy.len() <= COPY_BYTES, "an identity fits into its page");
        let crc = crc32c::crc32c(&copy[12..]);
        copy[8..12].copy_from_slice(&crc.to_le_bytes());
        let (file, is_new) = match disk.open(FILE)? {
            Some(file) => (file, false),
            None => (disk.create(FILE)?, true),
        };
        // The older copy first: should this be cut short, the newer one stands.
        let older = if count.is_multiple_of(2) { 0 } else { COPY_BYTES };
        let order = if is_new { [0, COPY_BYTES] } else { [older, COPY_BYTES - older] };
        for offset in order {
            file.write_at(&copy, offset as u64)?;
            file.sync()?;
        }
        if is_new {
            disk.sync_dir("")?;
        }
        Ok(())
    }
}

/// The newer of the two copies, of those that are whole.
fn newest(bytes: &[u8]) -> Result<Option<(Identity, u64)>, IdentityError> {
    let first = decode_copy(&bytes[..COPY_BYTES])?;
    let second = decode_copy(&bytes[COPY_BYTES..])?;
    Ok(first.into_iter().chain(second).max_by_key(|(_, count)| *count))
}

fn decode_copy(copy: &[u8]) -> Result<Option<(Identity, u64)>, IdentityError> {
    if &copy[..5] != MAGIC {
        return Ok(None);
    }
    let crc = u32::from_le_bytes(copy[8..12].try_into().expect("4 bytes"));
    let length = u32::from_le_bytes(copy[12..16].try_into().expect("4 bytes")) as usize;
    let Some(covered) = copy.get(12..HEAD_BYTES.saturating_add(length)) else {
        return Ok(None);
    };
    if crc32c::crc32c(covered) != crc {
        return Ok(None);
    }
    if copy[5] > VERSION {
        return Err(IdentityError::Newer { found: copy[5] });
    }
    let count = u64::from_le_bytes(copy[16..24].try_into().expect("8 bytes"));
    Ok(Identity::decode(&copy[HEAD_BYTES..HEAD_BYTES + length], copy[5])
        .map(|identity| (identity, count)))
}

#[cfg(test)]
mod tests {
    use tercet_wal::{MemDisk, Survive};

    use super::*;

    /// Without asking the disk: 1. the sync of a new identity fails, and the node stops; 2. it starts
    /// again, finds the new one in memory, and acts by it; 3. a power cut leaves the old one.
    #[test]
    fn what_a_failed_sync_left_in_memory_is_not_believed() {
        let mut disk = MemDisk::new();
        let mut it = identity(Generation::default());
        it.state = IdentityState::Voter;
        it.store(&mut disk, 1).unwrap();
        let (before, _) = Identity::load(&mut disk).unwrap().unwrap();
        it.state = IdentityState::Quarantined;
        disk.fail_sync(1);
        it.store(&mut disk, 2).unwrap_err();
        let mut restarted = disk.after_crash(Survive::All);
        let (found, _) = Identity::load(&mut restarted).unwrap().unwrap();
        let mut unplugged = restarted.after_crash(Survive::None);
        let (left, _) = Identity::load(&mut unplugged).unwrap().unwrap();
        assert_eq!((found, left), (before.clone(), before));
    }

    fn identity(generation: Generation) -> Identity {
        let node = |slot| NodeId::new(slot).unwrap();
        Identity {
            node: node(2),
            incarnation: Incarnation(7),
            cluster_name: "demo".to_owned(),
            cluster_id: Some(5),
            generation,
            state: IdentityState::Survivor,
            has_remains: false,
            members: [(node(1), Incarnation(6)), (node(2), Incarnation(7))].into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let survivor = NodeId::new(1).unwrap();
        let recovery = Some(Recovery { survivor, floor: LogPos::new(3, 9) });
        for generation in [
            Generation::default(),
            Generation::first(5),
            Generation { number: 4, origin: Some(5), recovery },
        ] {
            let written = identity(generation);
            assert_eq!(Identity::decode(&written.encode(), VERSION), Some(written.clone()));
            let cut = &written.encode()[..written.encode().len() - 1];
            assert_eq!(Identity::decode(cut, VERSION), None, "an identity that is cut short");
        }
    }

    /// A directory from before there were generations is in the first one.
    #[test]
    fn format_1_is_the_first_generation() {
        let written = identity(Generation::first(5));
        let with_generation = written.encode();
        let body = &with_generation[..with_generation.len() - 43];
        assert_eq!(Identity::decode(body, 1), Some(written));
    }
}
