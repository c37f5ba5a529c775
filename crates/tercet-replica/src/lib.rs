//! Raft, its write-ahead log and the values file as one synchronous struct.
