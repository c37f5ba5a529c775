//! Directories that hold what somebody wants them to hold: a log that a textbook shows, a vote that
//! was forgotten, a tail that was cut short. For the lab and for tests; a server never does this.
//!
//! Everything is written by the same code that a running node uses, so that what a scenario begins
//! with is a directory that could exist. It must not be done to a directory that is in use.

use bytes::Bytes;
use tercet_raft::{Incarnation, NodeId};
use tercet_wal::{Batch, Disk, DiskFile, Entry, EntryHeader, HardState, Wal, WalError, WalOptions};

use crate::content::{KIND_NOOP, KIND_RECORDS};
use crate::identity::{Generation, Identity, IdentityError, IdentityState};
use crate::record::records_body;

/// Why a directory cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The identity cannot be read or stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log cannot be read or made.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// There is nothing to take away.
    #[error("the log has {has} entries: {wanted} cannot be cut short")]
    TooShort {
        /// How many it has.
        has: usize,
        /// How many were asked for.
        wanted: usize,
    },
}

/// An entry of a log that is made up: a value, or a no-op.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreparedEntry {
    /// Its term.
    pub term: u64,
    /// The record in it; `None` is a leader's no-op.
    pub value: Option<Bytes>,
}

/// What of a node is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forget {
    /// The entries.
    Log,
    /// Term and vote.
    HardState,
    /// Both.
    All,
}

/// Makes the directory of a member that votes, with this term, vote and log. The same entries get
/// the same bytes on every node.
///
/// # Errors
/// The file system's, and if there is a log already.
pub fn prepare<D: Disk>(
    disk: &mut D,
    identity: &Identity,
    hard_state: HardState,
    log: &[PreparedEntry],
    options: WalOptions,
) -> Result<(), PrepareError> {
    let mut entries = Vec::with_capacity(log.len());
    let mut next_seq = 1;
    for (prepared, index) in log.iter().zip(1_u64..) {
        let (kind, record_count) =
            if prepared.value.is_some() { (KIND_RECORDS, 1) } else { (KIND_NOOP, 0) };
        let header = EntryHeader {
            term: prepared.term,
            index,
            first_seq: next_seq,
            record_count,
            kind,
            flags: 0,
            log_id: options.log_id,
            time_ms: 0,
            body_bytes: 0,
            crc: 0,
        };
        let pieces = prepared.value.as_ref().map_or(Vec::new(), |value| {
            let id = u128::from(prepared.term) << 64 | u128::from(index);
            records_body(id, std::slice::from_ref(value)).0
        });
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece[..]).collect();
        entries.push(Entry::new(&header, &pieces));
        next_seq += u64::from(record_count);
    }
    write_log(disk, hard_state, entries, options)?;
    identity.store(disk, 1)?;
    Ok(())
}

/// Takes a node's memory away and lets it vote on as if nothing had happened, under a new
/// incarnation: what a restart from an empty disk is in plain Raft (docs/rejoin.md).
///
/// # Errors
/// The file system's, or a directory without an identity.
pub fn forget<D: Disk>(
    disk: &mut D,
    what: Forget,
    incarnation: Incarnation,
    options: WalOptions,
) -> Result<(), PrepareError> {
    let (mut identity, count) = Identity::load(disk)?.ok_or(IdentityError::Damaged)?;
    let (mut hard_state, mut entries) = read_log(disk, options.clone())?;
    if what != Forget::HardState {
        entries.clear();
    }
    if what != Forget::Log {
        // A log cannot be of a later term than its node.
        let term = entries.last().map_or(0, |entry| entry.header.term);
        hard_state = HardState { term, vote: None };
    }
    write_log(disk, hard_state, entries, options)?;
    identity.incarnation = incarnation;
    identity.members.insert(identity.node, incarnation);
    identity.state = IdentityState::Voter;
    identity.store(disk, count + 1)?;
    Ok(())
}

/// Makes the last `count` entries look as if the crash had cut their write short.
///
/// # Errors
/// The file system's, or a log with fewer entries.
pub fn tear<D: Disk>(disk: &mut D, count: usize, options: WalOptions) -> Result<(), PrepareError> {
    let (hard_state, mut entries) = read_log(disk, options.clone())?;
    let has = entries.len();
    let keep = has.checked_sub(count).ok_or(PrepareError::TooShort { has, wanted: count })?;
    let torn = entries.split_off(keep);
    let mut wal = write_log(disk, hard_state, entries, options)?;
    let newest = |disk: &mut D| -> Result<(String, Vec<u8>), PrepareError> {
        let name = disk.list("wal")?.pop().expect("a log has a segment");
        let name = format!("wal/{name}");
        let file = disk.open(&name)?.expect("it was just listed");
        let mut bytes = vec![0; usize::try_from(file.len()?).expect("a segment fits into memory")];
        let mut at = 0;
        while at < bytes.len() {
            let n = file.read_at(&mut bytes[at..], at as u64)?;
            if n == 0 {
                break;
            }
            at += n;
        }
        Ok((name, bytes))
    };
    let (_, before) = newest(disk)?;
    wal.stage(Batch { entries: torn, ..Batch::default() });
    wal.commit(disk)?;
    let (name, after) = newest(disk)?;
    // Of the frame in flight its first half reached the platter, and none of its identifiers.
    let changed: Vec<usize> =
        (0..after.len()).filter(|at| before.get(*at) != Some(&after[*at])).collect();
    let frame: Vec<usize> =
        changed.iter().copied().filter(|at| *at < after.len() / 2 || before.is_empty()).collect();
    let survives = frame.get(frame.len() / 2).copied().unwrap_or(0);
    let file = disk.open(&name)?.expect("it was just listed");
    for at in changed.into_iter().filter(|at| *at >= survives) {
        file.write_at(&[before.get(at).copied().unwrap_or(0)], at as u64)?;
    }
    file.sync()?;
    Ok(())
}

fn read_log<D: Disk>(
    disk: &mut D,
    options: WalOptions,
) -> Result<(HardState, Vec<Entry>), PrepareError> {
    let (wal, recovered) = Wal::open(disk, options)?;
    let mut entries = Vec::new();
    while (entries.len() as u64) < wal.last_index() {
        let first = entries.len() as u64 + 1;
        entries.extend(wal.read(disk, first, wal.last_index(), 1 << 20)?);
    }
    Ok((recovered.hard_state, entries))
}

/// Writes a log anew, in place of the one that is there.
fn write_log<D: Disk>(
    disk: &mut D,
    hard_state: HardState,
    entries: Vec<Entry>,
    options: WalOptions,
) -> Result<Wal<D>, PrepareError> {
    for name in disk.list("wal")? {
        disk.remove(&format!("wal/{name}"))?;
    }
    let mut wal = Wal::create(disk, options)?;
    wal.stage(Batch { hard_state: Some(hard_state), truncate_from: None, entries });
    wal.commit(disk)?;
    disk.sync_dir("wal")?;
    Ok(wal)
}

/// The identities of a cluster that was formed: what [`prepare`] wants, one for each node.
pub fn identities(cluster_name: &str, nodes: &[NodeId], seed: u64) -> Vec<Identity> {
    let cluster_id = u128::from(seed) << 64 | 0x7465_7263_6574;
    let incarnation = |node: NodeId| Incarnation(cluster_id ^ u128::from(node.slot()) << 120);
    nodes
        .iter()
        .map(|node| Identity {
            node: *node,
            incarnation: incarnation(*node),
            cluster_name: cluster_name.to_owned(),
            cluster_id: Some(cluster_id),
            generation: Generation::first(cluster_id),
            state: IdentityState::Voter,
            has_remains: false,
            members: nodes.iter().map(|node| (*node, incarnation(*node))).collect(),
        })
        .collect()
}
