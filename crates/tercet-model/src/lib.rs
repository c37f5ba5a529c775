//! A search over *all* behaviours of the production core within bounds: a model check whose model
//! is the program itself.
//!
//! The simulator tries one history after the other; this crate tries every order in which messages
//! arrive (or do not, or do twice), disks sync, timers fire, nodes crash and are wiped, for a few
//! nodes, terms and entries. What it finds is a shortest way to a violation, told step by step and
//! written as a script of the lab.
//!
//! ```text
//!  node    = the core (tercet_raft::Raft, cloned) + a disk: what is synced, what is only written
//!  state   = nodes + the messages on their way + what an onlooker remembers + budgets used
//!  action  = a timer, a message, a sync, a crash, a wipe, a proposal …   (`state.rs`)
//! ```
//! - The **network** is a set: a message may arrive at any time later, in any order, or never; with a
//!   budget for duplicates it may arrive and stay.
//! - A **crash** takes a node back to what it synced; a **wipe** gives it a new incarnation, muted.
//! - **Time** is abstracted away, which allows more than any clock does
//!   ([`tercet_raft::abstraction`]).
//! - **Symmetry**: states that differ only in the names of nodes are one state.
//!
//! Bounds keep the search finite: what it proves, it proves within them. Its first use is the
//! opposite: a rule that is missing is found within seconds.

mod invariant;
mod names;
mod node;
mod search;
mod state;
mod suites;
mod tables;
mod tell;

pub use invariant::{Invariant, Violation};
pub use node::Setup;
pub use search::{Counterexample, Outcome, Plan, Progress, Start, Told, search};
pub use state::{Action, Bounds};
pub use suites::{Suite, suites};
pub use tell::{script, sentences};
