//! Entries whose bytes are damaged (Alagappan et al., FAST 2018): repaired from one whole copy,
//! dropped only when a majority never had them, waited for otherwise.

use std::time::Duration;

use tercet_raft::Profile::{Modern, Paper};
use tercet_raft::{
    EntryKind, EntryMeta, Envelope, FaultyEntry, FetchOutcome, Incarnation, Index, Input, LogPos,
    Message, NodeSet, Profile, RoleKind, Term,
};

use crate::support::{Net, Packet, accepted, node};
use crate::{commit, role};

/// A cluster in which n1 led, and everybody has and applied the same three values.
fn agreed(count: u8, profile: Profile) -> Net {
    let mut net = Net::new(count, profile);
    net.elect(1);
    for _ in 0..3 {
        net.submit(1);
    }
    net.beat(1);
    net.beat(1);
    for slot in 1..=count {
        assert_eq!(net.applied(slot).len(), 3, "n{slot}");
    }
    net
}

fn last(net: &Net, slot: u8) -> u64 {
    net.nodes[&node(slot)].disk.log.len() as u64
}

fn crash_all(net: &mut Net) {
    for slot in 1..=slots(net) {
        net.crash(slot);
    }
    net.wire.clear();
}

fn restart_all(net: &mut Net) {
    for slot in 1..=slots(net) {
        net.restart(slot);
    }
}

fn slots(net: &Net) -> u8 {
    u8::try_from(net.nodes.len()).unwrap()
}

/// The cluster works: one more value is committed, all nodes applied the same, nothing is damaged.
fn works(net: &mut Net) {
    net.run_ms(5_000);
    let leader = net.leader().expect("a leader");
    let value = net.submit(leader);
    net.run_ms(1_000);
    for slot in 1..=slots(net) {
        assert_eq!(net.damaged(slot), [], "n{slot} is whole");
        assert_eq!(net.applied(slot).last(), Some(&value), "n{slot}");
        assert_eq!(net.payloads(slot), net.payloads(leader), "n{slot}");
    }
}

fn never_committed(net: &Net) -> usize {
    (1..=slots(net)).map(|slot| net.count(slot, |e| e.kind() == "never_committed")).sum()
}

fn faulty(net: &Net, slot: u8) -> Vec<FaultyEntry> {
    net.raft(slot).status().faulty
}

fn set(nodes: &[u8]) -> NodeSet {
    nodes.iter().map(|slot| node(*slot)).collect()
}

/// The answer of `from` to n1, in this term.
fn says(net: &Net, from: u8, term: u64, pos: LogPos, outcome: FetchOutcome) -> Packet {
    let envelope = Envelope {
        from: node(from),
        from_incarnation: net.nodes[&node(from)].incarnation,
        to: node(1),
        to_incarnation: None,
        term: Term(term),
        message: Message::FetchReply { pos, outcome },
    };
    Packet { envelope, payloads: Vec::new() }
}

fn is_fetch(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Fetch { .. })
}

#[test]
fn a_follower_gets_it_from_the_leader() {
    for profile in [Modern, Paper] {
        let mut net = agreed(3, profile);
        for index in 1..=last(&net, 2) {
            net.crash(2);
            net.damage(2, index);
            net.restart(2);
            net.run_ms(500);
            assert_eq!(net.damaged(2), []);
            assert_eq!(
                net.count(2, |e| e.kind() == "entry_repaired"),
                usize::try_from(index).unwrap()
            );
            assert_eq!(net.leader(), Some(1), "no election was needed");
        }
        works(&mut net);
    }
}

#[test]
fn a_leader_gets_it_from_a_follower() {
    for profile in [Modern, Paper] {
        let end = last(&agreed(3, profile), 1);
        for index in 1..=end {
            let mut net = agreed(3, profile);
            crash_all(&mut net);
            net.damage(1, index);
            restart_all(&mut net);
            net.elect(1);
            assert_eq!(role(&net, 1).0, RoleKind::Leader, "a damaged entry keeps its place");
            works(&mut net);
            assert_eq!(net.applied(1).len(), 4);
            assert_eq!(never_committed(&net), 0);
        }
    }
}

/// The same while it leads: entries of its own term, and of an older one.
#[test]
fn found_while_it_leads() {
    for profile in [Modern, Paper] {
        let mut net = agreed(3, profile);
        net.elect(2);
        net.submit(2);
        for slot in [2, 1] {
            for index in 1..=last(&net, slot) {
                net.damage(slot, index);
                net.settle();
                assert_eq!(net.damaged(slot), [], "asked for at once");
            }
        }
        assert_eq!(role(&net, 2).0, RoleKind::Leader);
        works(&mut net);
    }
}

/// Whatever was damaged, as long as there is one copy of each entry.
#[test]
fn one_copy_of_each_is_enough() {
    for (profile, count) in [(Modern, 3), (Paper, 3), (Modern, 5)] {
        let mut net = agreed(count, profile);
        crash_all(&mut net);
        for index in 1..=last(&net, 1) {
            for slot in 1..=count {
                if u64::from(slot) % u64::from(count) != index % u64::from(count) {
                    net.damage(slot, index);
                }
            }
        }
        restart_all(&mut net);
        works(&mut net);
        assert_eq!(net.applied(1).len(), 4);
    }
}

/// The last entry is damaged, and nobody else has it: the leader steps down, drops it, and the
/// cluster goes on.
#[test]
fn never_committed_by_anyone() {
    for (profile, count) in [(Modern, 3), (Paper, 3), (Modern, 5)] {
        let mut net = agreed(count, profile);
        net.cut_off(&[1]);
        let lost = net.submit(1);
        net.crash(1);
        net.wire.clear();
        net.damage(1, last(&net, 1));
        net.heal();
        net.restart(1);
        net.elect(1);
        net.run_ms(1_000);
        assert_eq!(net.count(1, |e| e.kind() == "never_committed"), 1);
        assert!(!net.payloads(1).contains(&lost));
        works(&mut net);
    }
}

/// n1 and n2 hold the entry, n3 does not; n2 is down.
fn one_holder_down(profile: Profile, on_n2: bool) -> (Net, u64, u64) {
    let mut net = agreed(3, profile);
    net.cut_off(if on_n2 { &[3] } else { &[1] });
    let value = net.submit(1);
    let index = last(&net, 1);
    assert_eq!(net.applied(1).contains(&value), on_n2);
    crash_all(&mut net);
    net.heal();
    net.damage(1, index);
    net.restart(1);
    net.restart(3);
    net.elect(1);
    assert_eq!(role(&net, 1).0, RoleKind::Leader);
    net.run_ms(20_000);
    assert_eq!(never_committed(&net), 0, "n2 may have it");
    assert_eq!(net.damaged(1), [index]);
    assert!(net.raft(1).term().0 < 30, "it is heard as a leader, though it cannot send the entry");
    assert!(commit(&net, 1) < index && commit(&net, 3) < index);
    let gave_up = net.count(1, |e| e.kind() == "repair_given_up");
    assert!((1..=8).contains(&gave_up), "ever more patiently: {gave_up}");
    let status = faulty(&net, 1);
    assert_eq!(status.len(), 1);
    assert_eq!(status[0].pos.index, Index(index));
    assert_eq!((status[0].absent_on, status[0].damaged_on), (set(&[3]), set(&[])));
    (net, value, index)
}

#[test]
fn waits_for_the_holder_and_is_repaired() {
    for profile in [Modern, Paper] {
        let (mut net, value, _) = one_holder_down(profile, true);
        net.restart(2);
        works(&mut net);
        assert!(net.applied(3).contains(&value), "it was acknowledged");
        assert_eq!(never_committed(&net), 0);
    }
}

#[test]
fn waits_for_the_third_and_is_dropped() {
    for profile in [Modern, Paper] {
        let (mut net, value, _) = one_holder_down(profile, false);
        net.restart(2);
        works(&mut net);
        assert!(!net.payloads(1).contains(&value));
        assert!(never_committed(&net) <= 1);
    }
}

/// No whole copy is left: nothing is dropped, and nothing behind it is committed.
#[test]
fn all_copies_damaged() {
    for (profile, count) in [(Modern, 3), (Paper, 3), (Modern, 5), (Modern, 1), (Paper, 1)] {
        let mut net = agreed(count, profile);
        crash_all(&mut net);
        let index = last(&net, 1) - 1;
        for slot in 1..=count {
            net.damage(slot, index);
        }
        restart_all(&mut net);
        net.elect(1);
        assert_eq!(net.leader(), Some(1), "damage does not keep anyone from leading");
        net.submit(1);
        net.run_ms(30_000);
        assert_eq!(never_committed(&net), 0);
        let mut gave_up = 0;
        for slot in 1..=count {
            assert_eq!(net.damaged(slot), [index], "n{slot}");
            assert!(commit(&net, slot) < index, "n{slot}");
            gave_up += net.count(slot, |e| e.kind() == "repair_given_up");
        }
        assert!(gave_up > 0);
        let leader = net.leader().unwrap_or(1);
        let status = faulty(&net, leader);
        let others: Vec<u8> = (1..=count).filter(|slot| *slot != leader).collect();
        assert_eq!((status.len(), status[0].pos.index), (1, Index(index)));
        assert_eq!((status[0].absent_on, status[0].damaged_on), (set(&[]), set(&others)));
    }
}

/// n1 leads with a damaged last entry, and no answer has come yet.
fn asking(count: u8) -> (Net, LogPos, u64) {
    let mut net = agreed(count, Modern);
    net.elect(1);
    net.cut_off(&[1]);
    net.submit(1);
    let pos = LogPos { term: net.raft(1).term(), index: Index(last(&net, 1)) };
    net.damage(1, pos.index.0);
    net.wire.clear();
    net.heal();
    let term = net.raft(1).term().0;
    (net, pos, term)
}

/// Who says "absent" in an older term may yet get the entry from the leader of that term.
#[test]
fn absent_in_an_older_term_does_not_count() {
    let (mut net, pos, term) = asking(3);
    for from in [2, 3, 2, 3] {
        net.deliver(says(&net, from, term - 1, pos, FetchOutcome::Absent));
        assert!(net.take_wire(is_fetch).is_empty(), "asked again in a while, not at once");
    }
    assert_eq!(never_committed(&net), 0);
    assert_eq!(faulty(&net, 1)[0].absent_on, set(&[]));
    net.deliver(says(&net, 2, term, pos, FetchOutcome::Absent));
    net.deliver(says(&net, 2, term, pos, FetchOutcome::Absent));
    assert_eq!(never_committed(&net), 0, "one node is one node");
    assert_eq!(faulty(&net, 1)[0].absent_on, set(&[2]));
    net.deliver(says(&net, 3, term + 1, pos, FetchOutcome::Absent));
    assert_eq!(never_committed(&net), 1);
    assert_eq!(role(&net, 1), (RoleKind::Follower, term), "it proposes nothing more in this term");
    assert_eq!(net.raft(1).last().index, pos.index.prev());
}

/// What was said to a follower is forgotten when it leads: the leader of the earlier term may have
/// sent the entry to those who said it.
#[test]
fn absent_before_its_own_term_does_not_count() {
    let mut net = agreed(5, Modern);
    let index = last(&net, 1);
    let pos = LogPos { term: net.raft(1).term(), index: Index(index) };
    net.elect(5);
    let term = net.raft(5).term().0;
    net.crash(1);
    net.damage(1, index);
    net.restart(1);
    for from in [2, 3, 4] {
        net.deliver(says(&net, from, term, pos, FetchOutcome::Absent));
    }
    assert_eq!(faulty(&net, 1)[0].absent_on, set(&[2, 3, 4]));
    assert_eq!(never_committed(&net), 0, "only a leader drops");
    net.wire.clear();
    net.now = net.now.after(Duration::from_millis(400));
    net.step(1, Input::Campaign);
    net.settle_only(|envelope| !is_fetch(envelope));
    assert_eq!(role(&net, 1), (RoleKind::Leader, term + 1));
    net.deliver(says(&net, 5, term + 1, pos, FetchOutcome::Damaged));
    assert_eq!(never_committed(&net), 0, "three spoke of another term");
    assert_eq!(faulty(&net, 1)[0].absent_on, set(&[]));
    works(&mut net);
}

/// A node that lost its memory may have had it.
#[test]
fn a_node_without_a_memory_does_not_say_absent() {
    for profile in [Modern, Paper] {
        let mut net = agreed(3, profile);
        net.cut_off(&[3]);
        let value = net.submit(1);
        net.beat(1);
        assert!(net.applied(1).contains(&value), "acknowledged: on n1 and n2");
        let index = last(&net, 1);
        crash_all(&mut net);
        net.heal();
        net.damage(1, index);
        net.restart(1);
        net.restart(3);
        net.wipe(2);
        net.run_ms(20_000);
        assert_eq!(never_committed(&net), 0);
        assert_eq!(net.damaged(1), [index], "nobody has it any more, and nobody may forget it");
        assert_eq!(role(&net, 2).0, RoleKind::Quarantined, "no leader can send it the whole log");
        assert!((1..=3).all(|slot| commit(&net, slot) < index));
    }
}

/// n1 leads with n3 alone; one of the two has a damaged entry that is not committed yet.
#[test]
fn a_damaged_copy_is_none() {
    for profile in [Modern, Paper] {
        for damaged in [1, 3] {
            let mut net = Net::new(3, profile);
            net.crash(2);
            for slot in [1, 3] {
                net.given(slot, 2, &[1, 1, 2]);
            }
            net.crash(damaged);
            net.damage(damaged, 3);
            net.restart(damaged);
            net.now = net.now.after(Duration::from_millis(160));
            net.step(1, Input::Campaign);
            let others = |envelope: &Envelope| !is_fetch(envelope);
            net.settle_only(others);
            net.propose(1);
            for _ in 0..4 {
                net.now = net.now.after(Duration::from_millis(50));
                net.step(1, Input::Timeout);
                net.settle_only(others);
                net.step(3, Input::Timeout);
            }
            assert_eq!(role(&net, 1).0, RoleKind::Leader);
            assert_eq!(net.terms(3), net.terms(1), "it has all of it");
            let matched = if damaged == 3 { 2 } else { last(&net, 1) };
            assert_eq!(net.peer(1, 3).matched, Index(matched));
            assert_eq!(commit(&net, 1), 0, "an own-term entry is behind the damaged one");
            net.settle();
            net.beat(1);
            assert_eq!(net.damaged(damaged), []);
            assert_eq!(commit(&net, 1), last(&net, 1), "what was held back counts now");
            assert_eq!(net.peer(1, 3).matched, Index(last(&net, 1)));
        }
    }
}

/// A target whose last entry is damaged is not level: leadership does not go there.
#[test]
fn leadership_is_not_handed_to_a_damaged_log() {
    let mut net = agreed(3, Modern);
    net.cut_off(&[2]);
    net.slow(3, true);
    net.propose(1);
    net.settle();
    net.sync(3);
    let index = last(&net, 1);
    // Found before the write was reported: not acknowledged yet.
    net.wire.clear();
    net.damage(3, index);
    net.wire.clear();
    net.step(1, Input::TransferLeadership { to: Some(node(3)) });
    net.settle_only(|envelope| !is_fetch(envelope));
    assert_eq!(net.leader(), Some(1));
    net.slow(3, false);
    net.heal();
    works(&mut net);
}

/// The entry that readmitted a node is damaged on others: they know its place, not what it says.
#[test]
fn a_damaged_readmission() {
    for profile in [Modern, Paper] {
        for damaged in [vec![1], vec![1, 2], vec![3], vec![2, 3]] {
            let mut net = agreed(3, profile);
            net.wipe(3);
            net.run_ms(3_000);
            // By the paper nothing is committed before a leader has an entry of its own.
            let leader = net.leader().unwrap();
            net.submit(leader);
            net.run_ms(2_000);
            assert_eq!(role(&net, 3).0, RoleKind::Follower);
            let incarnation = net.nodes[&node(3)].incarnation;
            assert_ne!(incarnation, Incarnation(3));
            let is_readmit = |entry: &crate::support::Entry| {
                matches!(entry.meta.kind, EntryKind::Readmit { .. })
            };
            let at = net.nodes[&node(1)].disk.log.iter().position(is_readmit).unwrap() as u64 + 1;
            crash_all(&mut net);
            for slot in &damaged {
                net.damage(*slot, at);
            }
            restart_all(&mut net);
            let before = net.raft(damaged[0]).members()[&node(3)];
            assert_ne!(before, incarnation, "not known");
            works(&mut net);
            for slot in 1..=3 {
                assert_eq!(net.raft(slot).members()[&node(3)], incarnation, "n{slot}");
            }
        }
    }
}

/// Who leads does not know yet that n3 was readmitted: the entry is damaged. Once it is whole, it
/// must turn to n3's new disk; without that, n3 drops whatever comes, as meant for the old one, and
/// a majority that hears its leader never lets n3 change that.
#[test]
fn a_leader_learns_of_a_readmission_by_repair() {
    for profile in [Modern, Paper] {
        let mut net = agreed(3, profile);
        net.wipe(3);
        net.run_ms(3_000);
        let leader = net.leader().unwrap();
        net.submit(leader);
        net.run_ms(2_000);
        let is_readmit =
            |entry: &crate::support::Entry| matches!(entry.meta.kind, EntryKind::Readmit { .. });
        let at = net.nodes[&node(1)].disk.log.iter().position(is_readmit).unwrap() as u64 + 1;
        crash_all(&mut net);
        net.damage(1, at);
        restart_all(&mut net);
        net.wire.clear();
        net.step(1, Input::Campaign);
        net.settle_only(|envelope| !is_fetch(envelope));
        assert_eq!((role(&net, 1).0, net.damaged(1)), (RoleKind::Leader, vec![at]));
        let term = role(&net, 1).1;
        // The entry, before n3 loses its patience.
        net.settle();
        net.beat(1);
        net.beat(1);
        assert_eq!(net.damaged(1), []);
        let value = net.submit(1);
        net.beat(1);
        assert_eq!(role(&net, 1), (RoleKind::Leader, term));
        assert_eq!(net.applied(3).last(), Some(&value), "{profile:?}: n3 follows");
        works(&mut net);
    }
}

/// It holds its Readmit entry and knows it committed, but one entry before it is damaged.
#[test]
fn a_muted_node_stays_muted_until_it_is_whole() {
    for profile in [Modern, Paper] {
        let mut net = agreed(3, profile);
        net.wipe(3);
        net.node_mut(3).hold_admit = true;
        net.run_ms(3_000);
        let leader = net.leader().unwrap();
        net.submit(leader);
        net.run_ms(2_000);
        assert_eq!(role(&net, 3).0, RoleKind::Quarantined);
        assert_eq!(net.terms(3), net.terms(leader), "it has everything but the word that it may");
        net.crash(3);
        net.damage(3, 2);
        net.node_mut(3).hold_admit = false;
        net.restart(3);
        for _ in 0..40 {
            net.now = net.now.after(Duration::from_millis(50));
            net.step(3, Input::Timeout);
            net.step(leader, Input::Timeout);
            net.settle_only(|envelope| !is_fetch(envelope));
        }
        assert_eq!(role(&net, 3).0, RoleKind::Quarantined);
        assert_eq!(net.damaged(3), [2]);
        works(&mut net);
        assert_ne!(role(&net, 3).0, RoleKind::Quarantined);
    }
}

/// A muted node helps with what it has.
#[test]
fn a_muted_node_gives_what_it_holds() {
    let mut net = agreed(3, Modern);
    net.wipe(3);
    net.node_mut(3).hold_admit = true;
    net.run_ms(3_000);
    assert_eq!(role(&net, 3).0, RoleKind::Quarantined);
    let leader = net.leader().unwrap();
    for slot in [1, 2] {
        net.damage(slot, 2);
    }
    net.run_ms(1_000);
    assert_eq!((net.damaged(1), net.damaged(2)), (vec![], vec![]));
    assert_eq!(net.leader(), Some(leader));
}

/// A lot of damage is asked for in windows, and all of it comes.
#[test]
fn three_hundred_at_once() {
    let mut net = agreed(3, Modern);
    for _ in 0..300 {
        net.submit(1);
    }
    crash_all(&mut net);
    for index in 1..=last(&net, 1) {
        net.damage(1 + u8::try_from(index % 3).unwrap(), index);
        net.damage(1 + u8::try_from((index + 1) % 3).unwrap(), index);
    }
    restart_all(&mut net);
    works(&mut net);
    assert_eq!(net.applied(1).len(), 304);
}

/// The leader cuts what the damaged node has: nothing is left to be repaired.
#[test]
fn a_damaged_entry_that_is_overwritten() {
    for profile in [Modern, Paper] {
        let mut net = agreed(3, profile);
        net.cut_off(&[1]);
        net.submit(1);
        net.crash(1);
        net.damage(1, last(&net, 1));
        net.wire.clear();
        net.elect(2);
        net.submit(2);
        net.heal();
        net.restart(1);
        net.run_ms(500);
        works(&mut net);
        assert_eq!(never_committed(&net), 0, "it was the leader's to cut");
    }
}

/// Whom a node asks: the leader first; the next one when that one has answered, and not because
/// another did; and when all have spoken, all of them again after a while.
#[test]
fn one_is_asked_after_the_other() {
    let asked = |net: &mut Net| -> Vec<u8> {
        net.take_wire(is_fetch).iter().map(|packet| packet.envelope.to.slot()).collect()
    };
    let mut net = agreed(3, Modern);
    net.elect(3);
    net.beat(3);
    net.crash(1);
    net.damage(1, 2);
    net.restart(1);
    net.beat(3);
    net.wire.clear();
    net.step(1, Input::Timeout);
    assert_eq!(asked(&mut net), [3], "the leader");

    let (mut net, pos, term) = asking(4);
    let say = |net: &mut Net, from, outcome| {
        net.deliver(says(net, from, term, pos, outcome));
        asked(net)
    };
    assert_eq!(say(&mut net, 3, FetchOutcome::Damaged), [], "n2 was asked");
    assert_eq!(say(&mut net, 2, FetchOutcome::Damaged), [3]);
    assert_eq!(say(&mut net, 3, FetchOutcome::Damaged), [4]);
    assert_eq!(say(&mut net, 4, FetchOutcome::Damaged), []);
    // Heartbeats are no questions.
    for (after, again) in [(299, vec![]), (1, vec![2])] {
        net.now = net.now.after(Duration::from_millis(after));
        net.step(1, Input::Timeout);
        assert_eq!(
            net.take_wire(is_fetch).iter().map(|p| p.envelope.to.slot()).collect::<Vec<_>>(),
            again
        );
    }
}

/// What a node holds of the log of *this* leader is what it acknowledges when a damaged entry is
/// whole again: not what it held of an earlier one's, and not less because of a late message.
#[test]
fn a_repaired_node_acknowledges_what_this_leader_showed() {
    let append = |from: u8, term: u64, prev: LogPos, terms: &[u64]| {
        let meta = |term: &u64| EntryMeta { term: Term(*term), kind: EntryKind::Payload };
        Input::Receive(Envelope {
            from: node(from),
            from_incarnation: Incarnation(from.into()),
            to: node(1),
            to_incarnation: None,
            term: Term(term),
            message: Message::Append {
                prev,
                entries: terms.iter().map(meta).collect(),
                commit: Index::ZERO,
                round: 1,
            },
        })
    };
    // (what the leader of term 2 shows, what is acknowledged to it)
    let cases: [(&[LogPos], Option<u64>); 4] = [
        (&[LogPos::new(1, 1)], Some(1)),
        (&[LogPos::new(1, 3)], Some(3)),
        (&[LogPos::new(1, 3), LogPos::new(1, 2)], Some(3)),
        (&[], None),
    ];
    for (shown, acknowledged) in cases {
        let mut net = Net::new(3, Paper);
        net.given(1, 1, &[1, 1, 1]);
        net.crash(1);
        net.damage(1, 1);
        net.restart(1);
        net.step(1, append(2, 1, LogPos::new(1, 3), &[]));
        for prev in shown {
            net.step(1, append(3, 2, *prev, &[]));
        }
        if shown.is_empty() {
            // It knows the new leader, but not yet where their logs agree.
            net.step(1, append(3, 2, LogPos::new(2, 3), &[]));
        }
        net.wire.clear();
        let pos = LogPos::new(1, 1);
        let whole = EntryMeta { term: Term(1), kind: EntryKind::Payload };
        let mut packet = says(&net, 3, 2, pos, FetchOutcome::Whole(whole));
        packet.payloads = vec![0];
        net.deliver(packet);
        assert_eq!(net.damaged(1), []);
        let answers: Vec<Message> =
            net.wire.drain(..).map(|packet| packet.envelope.message).collect();
        let outcome = acknowledged.map(accepted);
        let expected = outcome.map(|outcome| Message::AppendReply { round: 0, outcome });
        assert_eq!(answers, expected.into_iter().collect::<Vec<_>>(), "{shown:?}");
    }
}

/// A leader waits four election timeouts for its damaged entries, then lets others try for as long,
/// and waits twice as long the next time.
#[test]
fn a_leader_waits_ever_longer_for_its_entries() {
    let (mut net, ..) = asking(3);
    for patience in [1_200, 2_400] {
        let beat = |net: &mut Net| {
            net.step(1, Input::Timeout);
            net.settle_only(|envelope| !is_fetch(envelope));
        };
        beat(&mut net);
        let begun = net.now;
        while net.raft(1).role() == RoleKind::Leader {
            net.now = net.now.after(Duration::from_millis(50));
            beat(&mut net);
        }
        assert_eq!(net.now.since(begun), Duration::from_millis(patience));
        assert_eq!(net.count(1, |e| e.kind() == "repair_given_up"), 1);
        let again = net.now.after(Duration::from_millis(1_200));
        assert_eq!(net.raft(1).status().election_at, Some(again));
        net.wire.clear();
        net.clear_events();
        net.now = net.now.after(Duration::from_millis(400));
        net.step(1, Input::Campaign);
        net.settle_only(|envelope| !is_fetch(envelope));
        assert_eq!(role(&net, 1).0, RoleKind::Leader);
    }
}

/// Damage is told once, and only of entries that there are.
#[test]
fn damage_is_noted_once_and_only_in_the_log() {
    let mut net = agreed(3, Modern);
    net.crash(2);
    net.crash(3);
    let noted = |net: &Net| net.count(1, |event| event.kind() == "entry_damaged");
    let end = last(&net, 1);
    for (index, count) in [(0, 0), (end + 1, 0), (end, 1), (end, 1), (1, 2)] {
        net.step(1, Input::Faulty { index: Index(index) });
        assert_eq!(noted(&net), count, "entry {index}");
    }
    let known: Vec<Index> = faulty(&net, 1).iter().map(|entry| entry.pos.index).collect();
    assert_eq!(known, [Index(1), Index(end)]);
}
