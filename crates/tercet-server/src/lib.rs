//! A Tercet node: the driver, its links to peers and the client API. The only async crate.

mod api;
mod beside;
mod busy_poll;
mod classic;
mod coarse_clock;
pub mod config;
mod driver;
#[doc(hidden)]
pub mod for_fuzzing;
mod forward;
mod lab;
pub mod metrics;
pub mod node;
mod peer;
mod run;
mod submit;
mod syncer;
mod timing;

pub use api::request_id_of_key;
pub use config::{Limits, ServerConfig, Timing};
pub use lab::{LabConfig, broken_rules};
pub use node::NodeHandle;
pub use run::{Listening, ServeError, random_u128, run};
