//! A world in which replicas live: a virtual clock, network and disks, all of it from one seed.
//!
//! The nodes are the production replicas ([`tercet_replica::Replica`]); nothing of the protocol is
//! here. The same seed and the same calls give the same world, event by event.
//!
//! ```text
//!            submit, crash, cut, hold …
//!  caller ───────────────────────────────► World ── step: the next thing that is due ──┐
//!     ▲                                      │   a message arrives                      │
//!     └──────── Happened, answers ───────────┤   a disk has synced                      │
//!                                            │   a timer fires                          │
//!                                            └───────────────◄──────────────────────────┘
//! ```
//! What it must not know: real clocks, sockets, files, threads, hash maps.

mod clock;
pub mod explore;
pub mod history;
pub mod model;
mod network;
mod random;
pub mod rules;
pub mod swarm;
pub mod tables;
mod world;

pub use network::{Link, Mishaps, Said};
pub use random::Random;
pub use world::{Answer, Happened, OpId, What, World, WorldConfig};
