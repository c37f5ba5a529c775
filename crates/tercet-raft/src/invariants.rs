//! What must hold in every state, between any two, and across a cluster. Assertions stay on in
//! release builds: a node that stops is better than a node that lies.

use std::collections::BTreeMap;

use crate::io::RoleKind;
use crate::raft::{Raft, Role};
use crate::types::{Index, NodeId, Term};

/// Every state: the chain `applied ≤ min(commit, durable) ≤ last`, and what a role implies.
///
/// # Panics
/// If it does not hold.
pub fn check_state(raft: &Raft) {
    let last = raft.last().index;
    let (applied, commit, durable) = (raft.applied(), raft.commit(), raft.durable());
    assert!(
        applied <= commit && applied <= durable && commit <= last && durable <= last,
        "{}: applied {applied} ≤ commit {commit}, durable {durable} ≤ last {last}",
        raft.node()
    );
    assert!(raft.last().term <= raft.term(), "{}: no entry is of a later term", raft.node());
    assert!(raft.repairs.last() <= Some(last), "what is damaged is in the log");
    match &raft.role {
        Role::Leader(leader) => {
            assert_eq!(raft.leader, Some(raft.node()), "a leader knows itself");
            assert!(raft.may_lead(), "a leader's log reaches the floor");
            for (peer, progress) in &leader.peers {
                assert!(
                    progress.stored() < progress.next && progress.next <= last.next(),
                    "{}: peer {peer}: stored {} < next {} ≤ last + 1 = {}",
                    raft.node(),
                    progress.stored(),
                    progress.next,
                    last.next()
                );
                assert!(
                    !progress.quarantined || progress.matched == Index::ZERO,
                    "a muted peer counts nowhere"
                );
            }
        }
        Role::Candidate { .. } => {
            assert_eq!(raft.hard_state.vote, Some(raft.node()), "a candidate votes for itself");
            assert_eq!(raft.leader, None);
        }
        Role::PreCandidate { .. } => assert_eq!(raft.leader, None),
        Role::Follower | Role::Quarantined(_) => {
            assert_ne!(raft.leader, Some(raft.node()), "who does not lead does not say so");
        }
    }
}

/// From one state of a node to the next, without a restart in between.
///
/// # Panics
/// If something went back that must not.
pub fn check_step(before: &Raft, after: &Raft) {
    assert!(before.term() <= after.term(), "terms do not go back");
    assert!(before.commit() <= after.commit() && before.applied() <= after.applied());
    if before.term() == after.term()
        && let Some(vote) = before.hard_state.vote
    {
        assert_eq!(after.hard_state.vote, Some(vote), "one vote per term");
    }
    for index in 1..=before.commit().0 {
        let index = Index(index);
        assert_eq!(before.term_at(index), after.term_at(index), "what is committed stays");
    }
    if before.role() == RoleKind::Leader
        && after.role() == RoleKind::Leader
        && before.term() == after.term()
    {
        assert!(before.last().index <= after.last().index, "Leader Append-Only (Figure 3)");
        assert_eq!(before.last().term, after.term_at(before.last().index).unwrap_or(Term(0)));
    }
}

/// All nodes at one moment: Election Safety, Log Matching, and that committed prefixes agree
/// (Figure 3).
///
/// # Panics
/// If two nodes contradict each other.
pub fn check_cluster(rafts: &[&Raft]) {
    let mut leaders: BTreeMap<Term, NodeId> = BTreeMap::new();
    for raft in rafts.iter().filter(|raft| raft.role() == RoleKind::Leader) {
        let other = leaders.insert(raft.term(), raft.node());
        assert_eq!(other, None, "Election Safety: two leaders in term {}", raft.term());
    }
    for (position, a) in rafts.iter().enumerate() {
        for b in &rafts[position + 1..] {
            let committed = a.commit().min(b.commit());
            let both = a.last().index.min(b.last().index);
            let mut agreed = Index::ZERO;
            for index in 1..=both.0 {
                let index = Index(index);
                if a.term_at(index) == b.term_at(index) {
                    assert_eq!(
                        agreed,
                        index.prev(),
                        "Log Matching: {} and {} at {index}",
                        a.node(),
                        b.node()
                    );
                    agreed = index;
                }
            }
            assert!(
                agreed >= committed,
                "{} and {} differ in a committed entry",
                a.node(),
                b.node()
            );
        }
    }
}
