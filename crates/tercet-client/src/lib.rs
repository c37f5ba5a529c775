//! The wire schema of Tercet and its Rust client.
