//! A sans-IO Raft core: it decides, and never acts.
//!
//! # How to read this crate
//! Raft keeps one log on several nodes. One node, the **leader** of a **term**, appends entries and
//! sends them to the others; an entry that a majority holds *durably* is **committed** and will
//! never be lost. When the leader is gone, a node whose log is at least as up-to-date as those of
//! a majority becomes the leader of a later term (Ongaro and Ousterhout, "In Search of an
//! Understandable Consensus Algorithm"; section numbers in this crate are those of the extended
//! version, "thesis" is Ongaro's dissertation).
//!
//! Everything that happens to a node is an [`Input`]; everything that it wants done is an
//! [`Output`]:
//!
//! ```text
//!          Timeout, Receive, Durable, Propose, …            Write, Send, SendEntries, Commit, …
//!  driver ────────────── step(now, input) ──────► Raft ────────────── poll_output() ─────► driver
//! ```
//! The core knows no clock (time is a parameter), no socket, no disk, no thread, no randomness and
//! no payload: it holds which term each index has ([`TermMap`]), not the bytes. So a run is a list
//! of inputs, and can be recorded, replayed, fuzzed and searched.
//!
//! # The promises
//! 1. An output may be acted on the moment it is polled. What depends on a write being durable is
//!    held inside until [`Input::Durable`]: a vote, an acknowledgement, the messages of a
//!    campaign.
//! 2. Writes are done in order, and reporting one durable reports all before it.
//! 3. [`Output::Commit`] means: on a quorum *and* durable here.
//! 4. A leader's entries are sent while its own disk still writes them; it counts itself only when
//!    that is done.
//!
//! # What is here beyond the paper
//! Pre-vote, leader stickiness and check-quorum; an early question when the connection to the leader
//! closes; leadership transfer; conflict hints and
//! pipelining; read barriers; and protocol RJ, by which a node that lost its memory becomes a voter
//! again without any acknowledged entry being lost (docs/rejoin.md); and the repair of damaged entries
//! from peers (repair.rs). [`Profile::Paper`] leaves all
//! of it but the last out.
//!
//! What is left out: snapshots and changes of membership.

pub mod abstraction;
mod candidate;
mod event;
mod follower;
pub mod invariants;
mod io;
mod leader;
mod membership;
mod message;
mod progress;
mod raft;
mod repair;
mod rules;
mod term_map;
mod types;

pub use event::{DropReason, Event};
pub use io::{
    BarrierId, Config, FaultyEntry, Input, Output, PeerStatus, Profile, ProgressKind, Proposal,
    ProposalId, Recovered, Refusal, RoleKind, Status, TransferError, Write,
};
pub use message::{AppendOutcome, ConflictHint, DenyReason, Envelope, FetchOutcome, Message};
pub use raft::Raft;
pub use rules::Rules;
pub use term_map::TermMap;
pub use types::{
    EntryKind, EntryMeta, HardState, Incarnation, Index, LogPos, NodeId, NodeSet, Term, Time,
    WriteId,
};
