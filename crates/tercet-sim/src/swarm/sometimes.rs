//! What a swarm must meet: a fault that never happened and a state that was never reached prove
//! nothing.

use std::collections::BTreeMap;

use super::faults::Fault;

/// How often something was met.
pub type Met = BTreeMap<&'static str, u64>;

/// The states that every large swarm must reach.
pub const RARE: &[&str] = &[
    "a leader",
    "two candidates in one term",
    "a leader crashed with an unsynced tail",
    "a crash with an unsynced tail",
    "a crash with part of what was not synced kept",
    "a torn tail cut",
    "a start cut short",
    "a node stopped by itself",
    "a lost memory noticed",
    "a memory lost while it ran",
    "damage by a crash in a write",
    "a node came back with damaged entries",
    "a damaged entry repaired",
    "a damaged entry repaired by its leader",
    "a leader elected with damaged entries",
    "a new leader repaired what had been damaged before",
    "a write gone astray",
    "all of a directory wiped",
    "a log alone wiped",
    "an identity alone wiped",
    "a readmission",
    "a readmission during an election",
    "a leader elected while a node was mute",
    "a leader noticed that a peer had lost its memory",
    "a leader elected while another believed to lead",
    "a leader that stood still came back to find another",
    "entries cut",
    "entries of an older term committed by a new leader",
    "a leader that heard from no majority",
    "a connection to the leader closed",
    "a vote refused for an old log",
    "a transfer given up",
    "a transfer done",
    "a transfer interrupted by a crash",
    "a damaged byte on the wire refused",
    "a damaged entry on the wire refused",
    "a message lost with its connection",
    "a message of a disk that is gone dropped",
    "values.log made again",
    "acknowledged",
    "a retry answered as such",
    "a retry of what nobody knew",
    "refused for want of room",
    "given up, never appended",
    "a linearizable read",
    "a linearizable read on a follower",
    "a read not confirmed",
    "a tail went on",
    "a large value",
    "a cluster formed from nothing",
    "durability looked up on the platter",
    "a vote looked up on the platter",
    "an answer looked up on the platter",
    "a steady bridge",
    "more memories lost than can be borne",
    "healed",
    "a power cut of all at the end",
];

/// What only lives of minutes meet, or only those of modern Raft: every large swarm of both.
pub const RARE_IN_SHORT_LIVES: &[&str] =
    &["a leader stepped down for its stalled disk", "a message again, a minute late or more"];

/// What of all this was never met by a large swarm of whole lives.
pub fn missing_of_all(met: &Met) -> Vec<&'static str> {
    let mut missing = missing(met);
    missing.extend(RARE_IN_SHORT_LIVES.iter().filter(|name| !met.contains_key(*name)));
    missing
}

/// What of the faults and of [`RARE`] was never met; `met` is that of many lives.
pub fn missing(met: &Met) -> Vec<&'static str> {
    let faults = Fault::USUAL.iter().map(|fault| fault.name());
    faults.chain(RARE.iter().copied()).filter(|name| !met.contains_key(name)).collect()
}

/// Adds what one run met.
pub fn add(all: &mut Met, one: &Met) {
    for (name, count) in one {
        *all.entry(name).or_default() += count;
    }
}
