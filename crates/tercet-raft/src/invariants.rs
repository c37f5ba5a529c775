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

/// A check that cannot fail proves nothing: each line of each check sees a state that breaks it.
#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use super::*;
    use crate::io::{Config, Profile, Recovered};
    use crate::raft::Quarantine;
    use crate::repair::Repairs;
    use crate::rules::Rules;
    use crate::types::{EntryKind, EntryMeta, HardState, Incarnation, LogPos, NodeSet, Time};

    fn node(slot: u8) -> NodeId {
        NodeId::new(slot).unwrap()
    }

    /// A node of three, in term 9, with these entries, the first of them committed.
    fn core(slot: u8, terms: &[u64], commit: u64) -> Raft {
        let config = Config {
            node: node(slot),
            incarnation: Incarnation(slot.into()),
            members: (1..=3).map(|slot| (node(slot), Incarnation(slot.into()))).collect(),
            floor: LogPos::ORIGIN,
            quarantined: false,
            profile: Profile::Modern,
            rules: Rules::default(),
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            election_timer_frozen: false,
            seed: 7,
            message_bytes_max: 1 << 20,
            inflight_bytes_max: 1 << 20,
            inflight_messages_max: 64,
            uncommitted_bytes_max: 1 << 20,
        };
        let hard_state = HardState { term: Term(9), vote: None };
        let mut raft = Raft::new(config, Recovered { hard_state, ..Recovered::default() }, Time(1));
        let meta = |term: &u64| EntryMeta { term: Term(*term), kind: EntryKind::Payload };
        raft.append(None, terms.iter().map(meta).collect());
        raft.durable = raft.log.last().index;
        (raft.commit, raft.applied) = (Index(commit), Index(commit));
        raft
    }

    fn leading(slot: u8, terms: &[u64]) -> Raft {
        let mut raft = core(slot, terms, 1);
        raft.become_leader();
        raft.durable = raft.log.last().index;
        raft
    }

    fn is_refused(check: impl FnOnce()) -> bool {
        catch_unwind(AssertUnwindSafe(check)).is_err()
    }

    type Break = (&'static str, fn(&mut Raft));

    #[test]
    fn states() {
        let follower = || core(1, &[1, 1, 2], 2);
        let leader = || leading(1, &[1, 1, 2]);
        fn peer(raft: &mut Raft) -> &mut crate::progress::Progress {
            let Role::Leader(leader) = &mut raft.role else { panic!("it leads") };
            leader.peers.get_mut(&node(2)).expect("a member")
        }
        let broken: [Break; 11] = [
            ("applied > commit", |raft| raft.applied = Index(3)),
            ("applied > durable", |raft| raft.durable = Index(1)),
            ("commit > last", |raft| raft.commit = Index(4)),
            ("durable > last", |raft| raft.durable = Index(4)),
            ("an entry of a later term", |raft| raft.hard_state.term = Term(1)),
            ("damage behind the end", |raft| raft.repairs = Repairs::new([Index(4)], Time(1))),
            ("a follower of itself", |raft| raft.leader = Some(node(1))),
            ("a muted follower of itself", |raft| {
                let told = (Term(0), Index::ZERO);
                let quarantine = Quarantine { ask_at: Time(1), told, leaving: None };
                (raft.role, raft.leader) = (Role::Quarantined(quarantine), Some(node(1)));
            }),
            ("a candidate for another", |raft| {
                raft.role = Role::Candidate { granted: NodeSet::EMPTY };
                raft.hard_state.vote = Some(node(2));
            }),
            ("a candidate with a leader", |raft| {
                raft.role = Role::Candidate { granted: NodeSet::EMPTY };
                (raft.hard_state.vote, raft.leader) = (Some(node(1)), Some(node(2)));
            }),
            ("a pre-candidate with a leader", |raft| {
                raft.role = Role::PreCandidate { granted: NodeSet::EMPTY };
                raft.leader = Some(node(2));
            }),
        ];
        let broken_leaders: [Break; 5] = [
            ("a leader that knows none", |raft| raft.leader = None),
            ("a leader below the floor", |raft| raft.config.floor = LogPos::new(9, 5)),
            ("next behind the end", |raft| peer(raft).next = Index(6)),
            ("next at what is stored", |raft| {
                (peer(raft).next, peer(raft).matched) = (Index(3), Index(3));
            }),
            ("a muted peer that counts", |raft| {
                (peer(raft).quarantined, peer(raft).matched) = (true, Index(1));
            }),
        ];
        check_state(&follower());
        check_state(&leader());
        let mut damaged = follower();
        damaged.repairs = Repairs::new([Index(3)], Time(1));
        check_state(&damaged);
        let cases = broken.iter().map(|case| (case, follower()));
        for ((what, spoil), mut raft) in
            cases.chain(broken_leaders.iter().map(|case| (case, leader())))
        {
            spoil(&mut raft);
            assert!(is_refused(|| check_state(&raft)), "{what}");
        }
    }

    #[test]
    fn steps() {
        let refuses = |before: &Raft, after: &Raft| is_refused(|| check_step(before, after));
        let before = {
            let mut raft = core(1, &[1, 1, 2], 2);
            raft.hard_state.vote = Some(node(2));
            raft
        };
        let after = |change: fn(&mut Raft)| {
            let mut raft = before.clone();
            change(&mut raft);
            raft
        };
        let good: [fn(&mut Raft); 4] = [
            |_| {},
            |raft| raft.hard_state = HardState { term: Term(10), vote: Some(node(3)) },
            |raft| raft.log.truncate(Index(3)),
            |raft| raft.commit = Index(3),
        ];
        for change in good {
            assert!(!refuses(&before, &after(change)));
        }
        let bad: [fn(&mut Raft); 6] = [
            |raft| raft.hard_state = HardState { term: Term(8), vote: None },
            |raft| raft.hard_state.vote = None,
            |raft| raft.hard_state.vote = Some(node(3)),
            |raft| raft.commit = Index(1),
            |raft| raft.applied = Index(1),
            |raft| {
                raft.log.truncate(Index(2));
                raft.log.push(Term(3));
            },
        ];
        for change in bad {
            assert!(refuses(&before, &after(change)));
        }
        // A leader's log only grows; that of one that leads in another term, or no more, need not.
        let (long, short) = (leading(1, &[1, 2, 2]), leading(1, &[1, 2]));
        let mut grown = long.clone();
        grown.log.push(Term(9));
        assert!(!refuses(&long, &grown));
        assert!(refuses(&long, &short), "it is shorter");
        let mut replaced = long.clone();
        replaced.log.truncate(Index(4));
        replaced.hard_state.term = Term(10);
        replaced.log.push(Term(10));
        assert!(!refuses(&long, &replaced), "of another term");
        replaced.hard_state.term = Term(9);
        assert!(refuses(&long, &replaced), "its last entry is another");
        let mut later = short.clone();
        later.hard_state.term = Term(10);
        assert!(!refuses(&long, &later));
        for was_leader in [false, true] {
            let (mut before, mut after) = (long.clone(), short.clone());
            let led = if was_leader { &mut after } else { &mut before };
            (led.role, led.leader) = (Role::Follower, None);
            assert!(!refuses(&before, &after));
        }
    }

    #[test]
    fn clusters() {
        let refuses = |rafts: &[&Raft]| is_refused(|| check_cluster(rafts));
        let mut later = leading(2, &[1, 1]);
        later.hard_state.term = Term(10);
        assert!(!refuses(&[&leading(1, &[1, 1]), &core(2, &[1], 1), &core(3, &[1, 1], 1)]));
        assert!(!refuses(&[&leading(1, &[1, 1]), &later]));
        assert!(refuses(&[&leading(1, &[1]), &core(3, &[1], 1), &leading(2, &[1])]), "two leaders");
        // Log Matching: the same term at one index means the same log up to there.
        assert!(!refuses(&[&core(1, &[1, 1, 2], 1), &core(2, &[1, 3, 3], 1)]));
        assert!(refuses(&[&core(1, &[1, 1, 3], 0), &core(2, &[1, 2, 3], 0)]));
        assert!(refuses(&[&core(1, &[1, 1, 1], 1), &core(3, &[], 0), &core(2, &[2, 2, 2], 1)]));
        // What both committed is one.
        assert!(!refuses(&[&core(1, &[1, 2], 2), &core(2, &[1, 3], 1)]));
        assert!(refuses(&[&core(1, &[1, 2], 2), &core(2, &[1, 3], 2)]));
    }
}
