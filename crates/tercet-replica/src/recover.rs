//! Beginning again from one survivor, when more nodes are lost than a majority can spare.
//!
//! Nobody can know then what the lost ones had acknowledged, so no node does this by itself: an
//! operator decides (`tercet recover`), for one directory, while no process has it. The log stays as
//! it is; one store of the identity makes its holder the *survivor* of the next generation
//! (docs/rejoin.md, "When more than a minority is lost").

use tercet_raft::{Incarnation, LogPos};
use tercet_wal::{Disk, HardState, Wal, WalError, WalOptions};

use crate::identity::{Generation, Identity, IdentityError, IdentityState, Recovery};
use crate::values::{FILE, ValuesFile};

/// How many bytes of entries are read at a time.
const READ_BYTES: u64 = 4 << 20;

/// What a directory holds, for the person who has to decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// Whose it is.
    pub identity: Identity,
    /// Term and vote.
    pub hard_state: HardState,
    /// The end of the log.
    pub last: LogPos,
    /// The sequence number of the last record in the log; 0 if there is none.
    pub last_seq: u64,
    /// The sequence number of the last record that is known to be committed, because it stands in
    /// `values.log`; 0 if none is known to be. What follows up to `last_seq` may have been
    /// acknowledged or not; it comes back.
    pub committed_seq: u64,
}

/// Why a directory cannot be recovered from.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It has no identity, or a damaged one.
    #[error("there is no whole identity here ({0}): this is not a directory to recover from")]
    NoIdentity(String),
    /// It was never part of a cluster.
    #[error("this directory never belonged to a running cluster: there is nothing to recover")]
    NeverMember,
    /// It was recovered before.
    #[error(
        "this directory was recovered already, for generation {number}: start its node, and the others with empty directories"
    )]
    Already {
        /// The generation.
        number: u64,
    },
    /// The log is damaged.
    #[error("the log here is not whole ({0}): recover from another directory")]
    Log(WalError),
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Looks at a directory that no process has.
///
/// # Errors
/// If it cannot be recovered from.
pub fn survey<D: Disk>(disk: &mut D, options: WalOptions) -> Result<Survey, RecoverError> {
    let identity = Identity::load(disk)
        .map_err(no_identity)?
        .ok_or_else(|| RecoverError::NoIdentity("the file is missing".to_owned()))?
        .0;
    match identity.state {
        IdentityState::Survivor => {
            return Err(RecoverError::Already { number: identity.generation.number });
        }
        IdentityState::Voter | IdentityState::Quarantined if identity.cluster_id.is_some() => {}
        IdentityState::Voter | IdentityState::Quarantined | IdentityState::Fresh => {
            return Err(RecoverError::NeverMember);
        }
    }
    let (wal, recovered) = Wal::open(disk, options).map_err(RecoverError::Log)?;
    let mut values = match disk.open(FILE)? {
        Some(_) => Some(ValuesFile::open(disk)?),
        None => None,
    };
    let term = recovered.runs.last().map_or(0, |(term, _)| *term);
    let (mut last_seq, mut committed_seq) = (0, 0);
    let mut next = wal.first_index();
    while next <= wal.last_index() {
        let entries = wal.read(disk, next, wal.last_index(), READ_BYTES);
        for entry in entries.map_err(RecoverError::Log)? {
            next = entry.header.index + 1;
            if entry.header.record_count > 0 {
                last_seq = entry.header.first_seq + u64::from(entry.header.record_count) - 1;
            }
            if let Some(known) = &mut values {
                if known.confirm(&entry)? {
                    committed_seq = last_seq;
                } else {
                    values = None;
                }
            }
        }
    }
    let last = LogPos::new(term, recovered.last_index);
    Ok(Survey { identity, hard_state: recovered.hard_state, last, last_seq, committed_seq })
}

/// Makes the directory's node the survivor of the next generation. `incarnation` is a number that
/// nobody else gets. Cut short, it has not happened.
///
/// # Errors
/// If it cannot be recovered from.
pub fn recover<D: Disk>(
    disk: &mut D,
    options: WalOptions,
    incarnation: Incarnation,
) -> Result<Identity, RecoverError> {
    let Survey { mut identity, last, .. } = survey(disk, options)?;
    let count = Identity::load(disk).map_err(no_identity)?.map_or(0, |(_, count)| count);
    let before = identity.generation;
    identity.generation = Generation {
        number: before.number.max(1) + 1,
        origin: before.origin.or(identity.cluster_id),
        recovery: Some(Recovery { survivor: identity.node, floor: last }),
    };
    identity.cluster_id = None;
    identity.members.clear();
    identity.incarnation = incarnation;
    identity.state = IdentityState::Survivor;
    identity.store(disk, count + 1).map_err(no_identity)?;
    Ok(identity)
}

fn no_identity(error: IdentityError) -> RecoverError {
    match error {
        IdentityError::Io(error) => RecoverError::Io(error),
        error @ (IdentityError::Newer { .. } | IdentityError::Damaged) => {
            RecoverError::NoIdentity(error.to_string())
        }
    }
}
