//! Everything between nodes: sockets, frames, who is on the other side. Nothing else in Tercet
//! knows how nodes reach each other.
//!
//! Each node dials every peer twice and sends on what it dialled; answers come on what the peer
//! dialled. The `control` link carries votes, heartbeats and answers; the `bulk` link carries
//! entries and forwarded submits. So a vote never waits behind a megabyte.
//!
//! ```text
//!   n1 ── control ──► n2      n1 ◄── control ── n2
//!   n1 ── bulk ─────► n2      n1 ◄── bulk ───── n2
//! ```

pub(crate) mod frame;
pub(crate) mod hello;
pub(crate) mod link;
pub(crate) mod wire;
