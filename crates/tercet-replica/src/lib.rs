//! One node's replica: Raft, its write-ahead log, its identity, the values file and the window of
//! request ids as one synchronous struct, generic over the disk.
//!
//! The server runs exactly this behind sockets, and the simulator runs exactly this over a virtual
//! network and disk. Whatever is decided between a message's arrival and its answer is decided in
//! here or in `tercet-raft`; whoever drives a [`Replica`] carries messages, tells the time, says when
//! to write ([`begin_flush`](Replica::begin_flush)), and syncs what was written.
//!
//! ```text
//!  submit ──►┌───────────────────────── Replica ──────────────────────────┐
//!  receive ─►│ Raft: decides    Wal: remembers    values.log: people read │──► Effect
//!  timeout ─►│ Window: request ids     Identity: who am I, may I vote?    │    (poll_effect)
//!            └────────────────────────────────────────────────────────────┘
//!                                  flush = one write, one sync
//! ```
//!
//! What it must not know: sockets, threads, clocks, randomness (numbers are handed in).

mod config;
mod content;
mod error;
mod forming;
pub mod gate;
mod health;
mod identity;
mod io;
pub mod prepare;
mod record;
mod recover;
mod replica;
mod values;
mod window;

pub use config::ReplicaConfig;
pub use content::{LoggedContent, LoggedEntry, meta_of};
pub use error::{Fatal, OpenError};
pub use forming::{FormMessage, Standing, Unstarted};
pub use health::SlowDisk;
pub use identity::{Generation, Identity, IdentityError, IdentityState, Recovery};
pub use io::{
    Alarms, Effect, LabInput, MemoryUse, PeerMessage, ReadError, Record, ReplicaStatus, Submit,
    SubmitError, Submitted,
};
pub use record::{Records, RecordsError, records_body, records_of};
pub use recover::{RecoverError, Survey, recover, survey};
pub use replica::{FoundRecords, Reading, Replica, Unread, UnreadRecords, WasRead};
pub use values::{escape_value, unescape_value};
