//! The node's metrics, in a registry of its own.

/// All metrics of one node.
#[derive(Debug, Default)]
pub struct Metrics {}
