//! Retries: the same request, sent again to whatever node, after whatever happened, is answered
//! with the numbers that it got once, and never appended a second time.
#![allow(clippy::unwrap_used, reason = "a test fails out loud")]

mod support;

use bytes::Bytes;
use support::{
    await_answer, await_leader, converged, for_seeds, formed, leader, node, read, restart_wiped,
    run_ms, run_until, start, submit, submit_anywhere, value,
};
use tercet_raft::{NodeId, Profile};
use tercet_replica::gate::{GateChange, MessageKind};
use tercet_replica::{SubmitError, Submitted};
use tercet_sim::{Answer, World, WorldConfig};
use tercet_wal::Survive;

fn world(seed: u64) -> World {
    let mut config = WorldConfig::new(if seed.is_multiple_of(3) { 5 } else { 3 }, seed);
    if seed % 2 == 1 {
        config.profile = Profile::Paper;
    }
    formed(config)
}

fn acknowledged(answer: Answer) -> Submitted {
    match answer {
        Answer::Submitted(done) => done,
        Answer::Read(_) | Answer::Refused { .. } | Answer::Unknown => {
            panic!("not acknowledged: {answer:?}")
        }
    }
}

fn refusal(answer: &Answer) -> Option<SubmitError> {
    match answer {
        Answer::Refused { why, .. } => Some(*why),
        Answer::Submitted(_) | Answer::Read(_) | Answer::Unknown => None,
    }
}

/// A retry says of the same records the same numbers, and that it is one.
fn check_retry(world: &mut World, id: u128, records: &[Bytes], first: &Submitted) {
    let again = submit_anywhere(world, id, records);
    assert!(again.duplicate, "{again:?} is a retry of {first:?}");
    let place = |done: &Submitted| (done.first_seq, done.last_seq, done.index, done.term);
    assert_eq!(place(&again), place(first), "a retry gets the numbers of the first answer");
}

fn depose(world: &mut World, id: NodeId) {
    world.crash(id, Survive::None);
    assert!(run_until(world, 5_000, |world| leader(world).is_some_and(|other| other != id)));
}

#[test]
fn retries_across_leaders_restarts_and_wipes() {
    for_seeds("retries", 0..60, |seed| {
        let mut world = world(seed);
        await_leader(&mut world);
        let pair = [value("a"), value("b")];
        let first = submit_anywhere(&mut world, 7, &pair);
        assert!(!first.duplicate && first.last_seq == first.first_seq + 1);
        let other = submit_anywhere(&mut world, 8, &[value("c")]);
        check_retry(&mut world, 7, &pair, &first);
        // Another leader.
        let old = await_leader(&mut world);
        depose(&mut world, old);
        check_retry(&mut world, 7, &pair, &first);
        start(&mut world, old);
        // In the paper's Raft an old entry is committed with a new one.
        submit_anywhere(&mut world, 9, &[value("d")]);
        run_until(&mut world, 5_000, converged);
        // A power cut.
        for id in world.node_ids() {
            world.crash(id, Survive::None);
        }
        for id in world.node_ids() {
            world.start(id).unwrap();
        }
        await_leader(&mut world);
        submit_anywhere(&mut world, 10, &[value("e")]);
        check_retry(&mut world, 8, &[value("c")], &other);
        run_until(&mut world, 5_000, converged);
        // The leader learns of the request only by what it refilled its log with.
        let wiped = node(1 + u8::try_from(seed % 3).unwrap());
        restart_wiped(&mut world, wiped, support::Wipe::Directory);
        // Only a leader that has committed an entry of its own readmits.
        submit_anywhere(&mut world, 11, &[value("f")]);
        assert!(run_until(&mut world, 20_000, converged), "{wiped} comes back");
        let at = await_leader(&mut world);
        world.transfer(at, (at != wiped).then_some(wiped));
        run_ms(&mut world, 1_000);
        submit_anywhere(&mut world, 12, &[value("g")]);
        check_retry(&mut world, 7, &pair, &first);
        let at = await_leader(&mut world);
        let records = read(&mut world, at).unwrap();
        assert_eq!(records, ["a", "b", "c", "d", "e", "f", "g"].map(value));
        Ok(())
    });
}

/// Two attempts on their way at once, at the same leader: one entry, two answers.
#[test]
fn a_retry_before_the_first_answer_waits_for_the_same_entry() {
    for_seeds("a retry that waits", 0..20, |seed| {
        let mut world = world(seed);
        let at = await_leader(&mut world);
        submit_anywhere(&mut world, 1, &[value("a")]);
        for to in world.node_ids() {
            world.change_gate(at, GateChange::Hold(to, Some(MessageKind::Append)));
        }
        let first = world.submit(at, 7, vec![value("b")]);
        let second = world.submit(at, 7, vec![value("b")]);
        run_ms(&mut world, 30);
        assert_eq!((world.answer(first), world.answer(second)), (None, None), "not committed");
        world.change_gate(at, GateChange::Release(None));
        let first = acknowledged(await_answer(&mut world, first));
        let second = acknowledged(await_answer(&mut world, second));
        assert_eq!((first.duplicate, second.duplicate), (false, true));
        assert_eq!((first.first_seq, second.first_seq), (2, 2));
        Ok(())
    });
}

/// The first leader appends, and its followers may or may not have it when it is cut off; the
/// client asks the next one. Then the first one comes back, with its own entry in its log.
#[test]
fn a_retry_at_the_next_leader_while_the_first_is_cut_off() {
    for_seeds("a retry elsewhere", 0..60, |seed| {
        let mut world = world(seed);
        let old = await_leader(&mut world);
        submit_anywhere(&mut world, 1, &[value("a")]);
        run_until(&mut world, 5_000, converged);
        let others = world.node_ids().into_iter().filter(|id| *id != old);
        let is_sent = seed % 4 < 2;
        for other in others.clone() {
            if !is_sent {
                world.change_gate(old, GateChange::Cut(other));
            }
            world.change_gate(other, GateChange::Cut(old));
        }
        let lost = world.submit(old, 7, vec![value("b")]);
        run_ms(&mut world, 5);
        for other in others {
            world.change_gate(old, GateChange::Cut(other));
        }
        let is_new = |world: &World| {
            world
                .node_ids()
                .into_iter()
                .any(|id| id != old && world.status(id).is_some_and(|raft| raft.leader == Some(id)))
        };
        assert!(run_until(&mut world, 5_000, is_new), "another leader");
        let new = leader(&world).unwrap();
        submit(&mut world, new, 2, &[value("c")]);
        let done = submit_anywhere(&mut world, 7, &[value("b")]);
        assert_eq!(done.duplicate, is_sent, "appended once, by whoever had it first");
        for id in world.node_ids() {
            world.change_gate(id, GateChange::Heal);
        }
        assert!(run_until(&mut world, 20_000, converged));
        check_retry(&mut world, 7, &[value("b")], &done);
        // Whose entry was cut off hears so at once, and not when it has lost its patience.
        assert_ne!(world.answer(lost), None, "whoever waited at the first leader is answered");
        if let Some(Answer::Submitted(late)) = world.answer(lost) {
            assert_eq!(late.first_seq, done.first_seq, "the cut off leader says the same");
        }
        let mut records = read(&mut world, new).unwrap();
        records.sort();
        assert_eq!(records, ["a", "b", "c"].map(value));
        Ok(())
    });
}

#[test]
fn the_same_id_with_other_records_is_refused() {
    for_seeds("an id used twice", 0..6, |seed| {
        let mut world = world(seed);
        await_leader(&mut world);
        let pair = [value("ab"), value("c")];
        let first = submit_anywhere(&mut world, 7, &pair);
        for others in [
            vec![value("other"), value("c")],
            vec![value("a"), value("bc")],
            vec![value("abc")],
            vec![value("ab")],
            vec![value("ab"), value("c"), value("")],
        ] {
            let at = await_leader(&mut world);
            let answer = submit(&mut world, at, 7, &others);
            assert_eq!(refusal(&answer), Some(SubmitError::KeyReused), "{others:?}");
        }
        let old = await_leader(&mut world);
        depose(&mut world, old);
        submit_anywhere(&mut world, 8, &[value("d")]);
        let at = await_leader(&mut world);
        let answer = submit(&mut world, at, 7, &[value("other")]);
        assert_eq!(refusal(&answer), Some(SubmitError::KeyReused), "at the next leader, too");
        check_retry(&mut world, 7, &pair, &first);
        Ok(())
    });
}

#[test]
fn an_expected_number_that_is_not_the_next_is_refused() {
    for_seeds("expected numbers", 0..6, |seed| {
        let mut world = world(seed);
        let at = await_leader(&mut world);
        let mut ask = |id: u128, text: &str, expect_next: u64| {
            let op = world.submit_if_next(at, id, vec![value(text)], Some(expect_next));
            await_answer(&mut world, op)
        };
        let conflict = |next_seq| Some(SubmitError::Conflict { next_seq });
        assert_eq!(refusal(&ask(1, "a", 2)), conflict(1), "nothing is there yet");
        let first = acknowledged(ask(1, "a", 1));
        assert_eq!((first.first_seq, first.duplicate), (1, false), "a refusal leaves the id free");
        assert_eq!(refusal(&ask(2, "b", 1)), conflict(2));
        assert_eq!(acknowledged(ask(2, "b", 2)).first_seq, 2);
        let again = acknowledged(ask(1, "a", 1));
        assert_eq!((again.first_seq, again.duplicate), (1, true), "a retry is no conflict");
        // Two that expect the same number at once: one of them gets it.
        let op = world.submit_if_next(at, 3, vec![value("c")], Some(3));
        let other = world.submit_if_next(at, 4, vec![value("d")], Some(3));
        assert_eq!(acknowledged(await_answer(&mut world, op)).first_seq, 3);
        assert_eq!(refusal(&await_answer(&mut world, other)), conflict(4));
        Ok(())
    });
}
