//! The wire schema of Tercet, a replicated log, and its Rust client.
//!
//! [`Client`] is what programs use; [`v1`] is the schema itself, for those who want to speak it
//! directly; [`ApiError`] is the error model that all protocols share.
//!
//! # Example
//! ```no_run
#![doc = include_str!("../examples/tour.rs")]
//! ```

mod client;
mod error;
pub mod explain;
mod gather;
mod read_response;
mod status;
mod submitter;

pub use client::{Client, SubmitOptions, Submitted, new_request_id, request_id_at};
pub use error::{ApiError, Outcome, Reason};
pub use gather::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, Gather, STREAM_WINDOW_BYTES, connect_lazy};
pub use status::{code_of, from_status, to_status};
pub use submitter::{Submission, Submitter, SubmitterOptions};

/// The wire schema, as generated from `proto/tercet/v1/tercet.proto`.
#[allow(missing_docs, unused_qualifications, reason = "generated; the schema file documents it")]
#[allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("tercet.v1");

    pub use crate::read_response::ReadResponse;

    /// The schema as a serialized `FileDescriptorSet`, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tercet.bin"));
}
