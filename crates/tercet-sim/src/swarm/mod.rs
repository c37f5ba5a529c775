//! The swarm: from a seed a cluster, its clients and what goes wrong ([`Options`]); then the life of
//! it, with every step looked at; then peace, in which it must come to agree.
//!
//! ```text
//!  ├── safety: bursts of faults, with quiet between them ──┤ heal ├─ liveness ─┤ power cut ├─ judge
//!      every step: what the nodes do and say                    leader in 10 election timeouts,
//!      against the invariants (watch), acknowledged             commit in 12, agreement in 60 s
//!      records and votes against the platter (watch)            (run)
//! ```
//! At the end everything is judged over what a power cut of all nodes left: the logs, `values.log`,
//! and what every client was told ([`crate::history`]).
//!
//! A run counts what it met. A fault or a rare state that a whole swarm never met was not tested:
//! [`sometimes::missing`] says which.

mod check;
mod faults;
mod invariant;
mod load;
mod options;
mod presets;
mod reduce;
mod run;
pub mod sometimes;
mod trials;
mod watch;

pub use faults::Fault;
pub use invariant::{Failure, Found, Invariant};
pub use options::{Limits, Options, Planned};
pub use presets::Preset;
pub use reduce::{Reduced, reduce};
pub use run::{Outcome, Told, run, run_told};
pub use sometimes::Met;
pub use trials::Trial;
pub use watch::Watch;
