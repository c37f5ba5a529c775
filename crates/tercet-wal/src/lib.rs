//! A write-ahead log: the one thing of a node that must not be lost.
//!
//! It knows entries, term and vote, and no roles. What is staged together is one frame, written
//! with one sync; entries keep the bytes and the checksum that the leader gave them, and every
//! read verifies them. The format, and every way in which a crash or a fault may leave it, is in
//! docs/wal-format.md.
//!
//! ```text
//!  segment ┌────────┬─────────┬─────────┬─────────┬───── zeros ─────┬──────┬──────┬──────┐
//!          │ header │ frame 1 │ frame 2 │ frame 3 │ →             ← │ ids 3│ ids 2│ ids 1│
//!          └────────┴─────────┴─────────┴─────────┴─────────────────┴──────┴──────┴──────┘
//! ```
//! A frame's identifiers are a small second copy of what matters, away from the frame and under
//! the same sync: they tell a write that a crash cut short from damage to what was acknowledged.

mod bulk;
mod cached;
mod disk;
mod entry;
mod format;
pub mod inspect;
mod places;
mod recover;
mod stretch;
mod wal;

pub use bulk::Bulk;
pub use disk::{Disk, DiskFile, FileDisk, MemDisk, MemFile, OpenDirError, Survive, Zeros};
pub use entry::{ENTRY_BODY_BYTES_MAX, ENTRY_HEADER_BYTES, Entry, EntryError, EntryHeader};
pub use format::HardState;
pub use stretch::{Found, Stretch};
pub use wal::{Batch, Recovered, Room, TornTail, Unsynced, Wal, WalError, WalOptions};
