//! The wire schema of Tercet and its Rust client.

mod error;

pub use error::{ApiError, Outcome, Reason};

/// The wire schema, as generated from `proto/tercet/v1/tercet.proto`.
#[allow(missing_docs, reason = "generated; the schema file documents it")]
#[allow(clippy::all, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("tercet.v1");

    /// The schema as a serialized `FileDescriptorSet`, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/tercet.bin"));
}
