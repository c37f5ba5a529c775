//! Why a directory cannot be opened, and why a replica must stop.

use tercet_wal::WalError;

use crate::identity::IdentityError;

/// Why a replica must stop. Nothing is acknowledged after it.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The disk failed a write, a sync or a read.
    #[error("{0}")]
    Disk(String),
    /// The log is not what this node wrote: it has lost its memory, and must be opened again so.
    #[error("this node has lost its memory: {0}")]
    LostMemory(String),
}

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is of another cluster.
    #[error(
        "the directory belongs to the cluster \"{found}\", not to \"{expected}\": give this node its own directory"
    )]
    OtherCluster {
        /// The name found.
        found: String,
        /// The name configured.
        expected: String,
    },
    /// It is of another slot.
    #[error(
        "the directory belongs to node {found}, not to node {expected}: give each node its own directory"
    )]
    OtherNode {
        /// The slot found.
        found: u8,
        /// The slot configured.
        expected: u8,
    },
    /// Its members are others.
    #[error(
        "the directory was made for the members {found}; configured are {expected}: the list of members cannot be changed yet"
    )]
    OtherMembers {
        /// The members found.
        found: String,
        /// The members configured.
        expected: String,
    },
    /// The identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log cannot be read, and not for want of memory.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The file system failed.
    #[error("{op}: {source}")]
    Io {
        /// What was done.
        op: &'static str,
        /// How it failed.
        source: std::io::Error,
    },
}

pub(crate) fn io(op: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { op, source }
}

pub(crate) fn fatal(error: WalError) -> Fatal {
    match error {
        WalError::Lost { .. }
        | WalError::Corrupt { .. }
        | WalError::Missing { .. }
        | WalError::Faulty { .. }
        // At the next start the place would be as unwritable: the node gets a new log.
        | WalError::Unrepairable { .. } => Fatal::LostMemory(error.to_string()),
        WalError::Io { .. } | WalError::Newer { .. } | WalError::Poisoned | WalError::Full => {
            Fatal::Disk(error.to_string())
        }
    }
}

pub(crate) fn open_failed(error: OpenError) -> Fatal {
    Fatal::Disk(error.to_string())
}
