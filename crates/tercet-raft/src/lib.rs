//! A sans-IO Raft core: decides, never acts.
