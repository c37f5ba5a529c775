//! The language: what its scripts mean, what it refuses and in which words, what it warns of, that
//! its manual is right, and that no text at all brings it down.

mod anything;
mod lints;
mod manual;
mod refusals;
mod scripts;
mod words;

/// The five scripts of the design, each whole.
const SCRIPTS: [&str; 5] = [
    include_str!("scripts/a_normal_election.lab"),
    include_str!("scripts/b_leader_change.lab"),
    include_str!("scripts/c_leader_crash.lab"),
    include_str!("scripts/d_deleted_log.lab"),
    include_str!("scripts/e_rejoin.lab"),
];
