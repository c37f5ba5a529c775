//! For tests and measurements: clusters of real node processes ([`cluster`]), clients that load
//! them and write down what they saw ([`load`]), and the judge over what they saw ([`checker`]).
//!
//! Nothing here knows how a node works inside: it starts the program, kills it, deletes its files,
//! and talks to it as any client does.
#![allow(clippy::print_stderr, reason = "tests talk to people")]

pub mod cluster;
pub mod load;
mod random;
pub mod told;

pub use checker::{History, Outcome, ReadOp, SubmitOp};
pub use cluster::{Cluster, Options, StartOptions, Violations};
pub use load::{Load, LoadOptions};
pub use random::Random;
pub use tercet_sim::history as checker;
pub use told::Told;
