//! A Tercet node: the driver, its links to peers and the client API. The only async crate.

pub mod config;
pub mod metrics;
pub mod node;
mod submit;

pub use config::{Limits, ServerConfig, Timing};
pub use node::NodeHandle;
