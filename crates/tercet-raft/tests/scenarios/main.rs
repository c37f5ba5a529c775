//! The situations of the Raft paper and what lies beyond, by hand: each delivers just the messages
//! that it is about. The invariants are checked after every step.
//!
//! Logs are written as the terms of their entries. In the modern profile a leader's first entry is
//! its no-op.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks at one event out of many")]

mod elections;
mod historical;
mod link_lost;
mod messages;
mod reads;
mod rejoin;
mod repair;
mod replication;
#[path = "../support/mod.rs"]
mod support;
mod timers;

use support::{Net, node};
use tercet_raft::{DenyReason, Event, NodeId, RoleKind};

pub(crate) fn role(net: &Net, slot: u8) -> (RoleKind, u64) {
    (net.raft(slot).role(), net.raft(slot).term().0)
}

pub(crate) fn commit(net: &Net, slot: u8) -> u64 {
    net.raft(slot).commit().0
}

pub(crate) fn voted_for(net: &Net, slot: u8) -> Option<u8> {
    net.raft(slot).status().hard_state.vote.map(NodeId::slot)
}

/// Why `voter` denied its votes, in order.
pub(crate) fn denials(net: &Net, voter: u8) -> Vec<DenyReason> {
    let reason = |event: &Event| match event {
        Event::VoteDenied { reason, .. } => Some(*reason),
        _ => None,
    };
    net.nodes[&node(voter)].events.iter().filter_map(reason).collect()
}

pub(crate) fn assert_logs(net: &Net, slots: &[u8], expected: &[u64]) {
    for slot in slots {
        assert_eq!(net.terms(*slot), expected, "the log of n{slot}");
    }
}
