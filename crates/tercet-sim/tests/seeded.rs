//! The bugs of crates/tercet-seeded, each with what must find it: seeded histories, or a history
//! made for it. Without a bug, none of them finds anything; with one (`cargo xtask seeded-bugs`),
//! it says after how many seeds.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails, and talks, out loud")]

mod support;

#[cfg(seeded_bugs)]
use support::caught;
use support::chaos::{Plan, live};
use support::{
    await_leader, converged, formed, is_durable, leader, node, read, run_ms, run_until, submit,
    submit_anywhere, value,
};
use tercet_raft::{NodeId, Profile, RoleKind, Rules};
use tercet_replica::Submitted;
use tercet_replica::gate::GateChange;
use tercet_seeded::Bug;
use tercet_sim::{Answer, OpId, Random, World, WorldConfig};
use tercet_wal::Survive;

type Check = fn(u64) -> Result<(), String>;

/// What must find a bug.
fn check_for(bug: Bug) -> Check {
    match bug {
        Bug::CutAtBadChecksum => a_flipped_bit,
        Bug::NoCheckQuorum => a_leader_that_hears_nobody,
        Bug::NoPreVote => a_node_that_returns,
        Bug::NoDirectorySync => a_power_cut_after_new_files,
        Bug::CutBehindAppend | Bug::OldReplyRaisesMatch => late_messages,
        Bug::CommitOldTerms => a_history_of_the_paper,
        Bug::VoteBeforeSync
        | Bug::AckBeforeSync
        | Bug::NoLogCheck
        | Bug::IndexBeforeTerm
        | Bug::CountVoteMessages
        | Bug::ForgetVoteOnStepDown
        | Bug::RefusalRaisesMatch
        | Bug::WipedVotes
        | Bug::RejoinAtCommit
        | Bug::RejoinAtEnd
        | Bug::RejoinByOldReadmit
        | Bug::RejoinWithoutTerm
        | Bug::RejoinUncommitted
        | Bug::IgnoreSyncError
        | Bug::RetrySync
        | Bug::ReadBeforeOwnCommit
        | Bug::ReadWithoutRound
        | Bug::ForgetIdsOnStart
        | Bug::ForgetIdsOnFollowers => any_history,
    }
}

/// A history with everything in it.
fn any_history(seed: u64) -> Result<(), String> {
    let (nodes, profile) = match seed % 4 {
        0 => (3, Profile::Modern),
        1 => (5, Profile::Modern),
        2 => (3, Profile::Paper),
        _ => (5, Profile::Paper),
    };
    live(Plan { seed, nodes, profile, rules: Rules::default(), traced: false }).map(drop)
}

/// The same in the paper's Raft, whose leaders have no entry of their own.
fn a_history_of_the_paper(seed: u64) -> Result<(), String> {
    let profile = Profile::Paper;
    live(Plan { seed, nodes: 3, profile, rules: Rules::default(), traced: false }).map(drop)
}

fn cut(world: &mut World, from: NodeId, to: NodeId) {
    world.change_gate(from, GateChange::Cut(to));
}

fn heal(world: &mut World) {
    for id in world.node_ids() {
        world.change_gate(id, GateChange::Heal);
    }
}

fn records(from: u8, to: u8) -> impl Iterator<Item = (u128, bytes::Bytes)> {
    (from..to).map(|number| (u128::from(number), value(format!("v{number}"))))
}

/// Two of three have what was acknowledged; one of them loses a bit of it, while the other is down.
/// The third must not become leader with its help.
fn a_flipped_bit(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0xb17);
    let mut world = formed(WorldConfig::new(3, seed));
    await_leader(&mut world);
    for (id, record) in records(0, 3) {
        submit_anywhere(&mut world, id, &[record]);
    }
    run_until(&mut world, 5_000, converged);
    let lags = node(1 + u8::try_from(random.below(3)).unwrap());
    let others: Vec<NodeId> = world.node_ids().into_iter().filter(|id| *id != lags).collect();
    for other in &others {
        cut(&mut world, *other, lags);
        cut(&mut world, lags, *other);
    }
    let leads = |world: &World| leader(world).is_some_and(|id| id != lags);
    run_until(&mut world, 5_000, leads);
    for (id, record) in records(3, 7) {
        submit_anywhere(&mut world, id, &[record]);
    }
    let damaged = others[usize::try_from(random.below(2)).unwrap()];
    for other in &others {
        world.crash(*other, Survive::None);
    }
    let name = "wal/00000001.seg";
    let log = world.disk(damaged).contents(name).unwrap();
    let used: Vec<usize> = (4096..log.len() / 2).filter(|at| log[*at] != 0).collect();
    let at = used[usize::try_from(random.below(used.len() as u64)).unwrap()];
    world.disk(damaged).damage(name, at, &[1 << random.below(8)]);
    heal(&mut world);
    world.start(damaged)?;
    run_ms(&mut world, 2_000);
    if let Some(at) = leader(&world) {
        world.submit(at, 100, vec![value("while one is down")]);
        run_ms(&mut world, 500);
    }
    for other in others.into_iter().filter(|id| *id != damaged) {
        world.start(other)?;
    }
    submit_anywhere(&mut world, 101, &[value("after")]);
    if !run_until(&mut world, 20_000, converged) {
        return Err("liveness: they do not come to agree".to_owned());
    }
    let found = read(&mut world, damaged).ok_or("liveness: no read")?;
    match records(0, 7).find(|(_, record)| !found.contains(record)) {
        Some((_, record)) => {
            Err(format!("lost: {record:?} was acknowledged, and {found:?} is there"))
        }
        None => Ok(()),
    }
}

/// The followers hear the leader, and it does not hear them: within twelve election timeouts there
/// must be another one, that commits.
fn a_leader_that_hears_nobody(seed: u64) -> Result<(), String> {
    let mut world = formed(WorldConfig::new(3 + 2 * u8::try_from(seed % 2).unwrap(), seed));
    let deaf = await_leader(&mut world);
    for id in world.node_ids() {
        cut(&mut world, id, deaf);
    }
    let others: Vec<NodeId> = world.node_ids().into_iter().filter(|id| *id != deaf).collect();
    let ops: Vec<_> = (0..12_u128)
        .flat_map(|round| {
            run_ms(&mut world, 300);
            let ask = |id: &NodeId| world.submit(*id, 1 + round, vec![value("a")]);
            others.iter().map(ask).collect::<Vec<_>>()
        })
        .collect();
    run_ms(&mut world, 300);
    let is_done = |op| matches!(world.answer(op), Some(Answer::Submitted(_)));
    if ops.into_iter().any(is_done) {
        Ok(())
    } else {
        Err("liveness: nothing was committed for twelve election timeouts".to_owned())
    }
}

/// A node that was cut off comes back: it must not unseat the leader that all others follow.
fn a_node_that_returns(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x14b);
    let mut world = formed(WorldConfig::new(3, seed));
    let leads = await_leader(&mut world);
    let term = world.status(leads).map(|status| status.hard_state.term);
    for (id, record) in records(0, 3) {
        submit_anywhere(&mut world, id, &[record]);
    }
    let others: Vec<NodeId> = world.node_ids().into_iter().filter(|id| *id != leads).collect();
    let away = others[usize::try_from(random.below(2)).unwrap()];
    for id in world.node_ids() {
        cut(&mut world, id, away);
        cut(&mut world, away, id);
    }
    run_ms(&mut world, 500 + random.below(3_000));
    heal(&mut world);
    run_ms(&mut world, 2_000);
    let term_now = world.status(leads).map(|status| status.hard_state.term);
    if leader(&world) == Some(leads) && term_now == term {
        Ok(())
    } else {
        Err(format!("liveness: {away} came back, and {leads} does not lead {term:?} any more"))
    }
}

/// Messages are doubled, wait, and arrive in any order, some of them very late, while leaders come
/// and go. What was acknowledged is on a majority's disks at that moment, and stays.
fn late_messages(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x1a7e);
    let mut config = WorldConfig::new(if seed % 4 < 2 { 3 } else { 5 }, seed);
    if seed % 2 == 1 {
        config.profile = Profile::Paper;
    }
    let mut world = formed(config);
    await_leader(&mut world);
    let nodes = world.node_ids();
    let any =
        |random: &mut Random| nodes[usize::try_from(random.below(nodes.len() as u64)).unwrap()];
    for (from, to) in nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to))) {
        world.change_gate(from, GateChange::Hold(to, None));
    }
    let mut asked: Vec<(OpId, bytes::Bytes)> = Vec::new();
    let mut acked: Vec<bytes::Bytes> = Vec::new();
    for round in 0..600_u128 {
        run_ms(&mut world, 2);
        for from in &nodes {
            let to = any(&mut random);
            if random.chance(10) {
                let change =
                    GateChange::Double(to, None, 1 + u32::try_from(random.below(3)).unwrap());
                world.change_gate(*from, change);
            }
            let held: Vec<u64> = world.gate(*from).held().map(|held| held.number).collect();
            // Most of them in time, in another order; some of them an election or two later.
            let is_late = |number: &u64| (number / 10).is_multiple_of(6);
            let goes = |number: &u64| random.chance(if is_late(number) { 1 } else { 45 });
            let goes = held.into_iter().filter(goes).collect();
            world.change_gate(*from, GateChange::Deliver(goes));
        }
        // Whoever believes that it leads gets something to do: some tails grow long, and are cut.
        for at in nodes.iter().filter(|_| round % 3 == 0) {
            if world.status(*at).is_some_and(|status| status.role == RoleKind::Leader) {
                let record = value(format!("v{round}.{at}"));
                let id = round << 8 | u128::from(at.slot());
                asked.push((world.submit(*at, id, vec![record.clone()]), record));
            }
        }
        if random.chance(2) {
            let to = any(&mut random);
            world.interfere(to, tercet_replica::LabInput::Campaign);
        }
        let mut done = Vec::new();
        asked.retain(|(op, record)| match world.answer(*op) {
            Some(Answer::Submitted(submitted)) => {
                done.push((submitted.clone(), record.clone()));
                false
            }
            answer => answer.is_none(),
        });
        for (submitted, record) in done {
            let Submitted { index, term, .. } = submitted;
            let holds = |id: &&NodeId| is_durable(&mut world, **id, index, term);
            let holders = nodes.iter().filter(holds).count();
            if holders <= nodes.len() / 2 {
                return Err(format!("{record:?} at {index}@{term}: only {holders} nodes hold it"));
            }
            acked.push(record);
        }
    }
    heal(&mut world);
    for id in &nodes {
        world.change_gate(*id, GateChange::Release(None));
    }
    // A leader of the paper commits what earlier ones left only with an entry of its own: each
    // attempt is a new one.
    let comes = (0..40).any(|attempt| {
        run_ms(&mut world, 100);
        let at = leader(&world).unwrap_or(nodes[0]);
        let answer = submit(&mut world, at, (1 << 40) + attempt, &[value("after")]);
        matches!(answer, Answer::Submitted(_)) && run_until(&mut world, 2_000, converged)
    });
    if !comes {
        return Err("liveness: they do not come to agree".to_owned());
    }
    let found = read(&mut world, nodes[0]).ok_or("liveness: no read")?;
    match acked.into_iter().find(|record| !found.contains(record)) {
        Some(record) => Err(format!("lost: {record:?} was acknowledged")),
        None => Ok(()),
    }
}

/// New files of the log are begun, and then the power fails on all nodes at once: the files must be
/// there.
fn a_power_cut_after_new_files(seed: u64) -> Result<(), String> {
    let mut world = formed(WorldConfig::new(3, seed));
    await_leader(&mut world);
    // Longer than the shortest segment.
    let long = "x".repeat(40_000);
    for number in 0..12_u128 {
        submit_anywhere(&mut world, number, &[value(format!("{number}.{long}"))]);
    }
    for id in world.node_ids() {
        world.crash(id, Survive::None);
    }
    for id in world.node_ids() {
        world.start(id)?;
    }
    if !run_until(&mut world, 3_000, |world| leader(world).is_some()) {
        return Err("lost: after a power cut nobody has a log that counts".to_owned());
    }
    submit_anywhere(&mut world, 100, &[value("after")]);
    let at = await_leader(&mut world);
    let found = read(&mut world, at).ok_or("liveness: no read")?;
    if found.len() == 13 {
        Ok(())
    } else {
        Err(format!("lost: {} of 12 are there", found.len() - 1))
    }
}

#[cfg(seeded_bugs)]
/// Which invariant it was, from the words of who noticed.
fn invariant(why: &str) -> &'static str {
    let known = [
        ("two leaders", "Election Safety"),
        ("one vote per term", "one vote per term (assertion)"),
        ("would cut entry", "no cut at or below commit (assertion)"),
        ("never cut", "no cut at or below commit (assertion)"),
        ("no entry is of a later term", "no entry of a later term (assertion)"),
        ("liveness", "liveness"),
        ("was committed", "State Machine Safety"),
        ("nobody touched its files", "durability (a sync that was said done)"),
        ("votes again", "admitted incarnation"),
        ("nodes hold it", "durability"),
        ("lost:", "durability"),
        ("is mute and votes", "muted nodes count nowhere"),
        ("stands twice", "exactly once"),
        ("was appended", "exactly once"),
        ("stands at", "exactly once"),
        ("stale:", "linearizability"),
        ("was answered before", "linearizability"),
        ("no prefix", "linearizability"),
        ("no leader", "liveness"),
        ("come to agree", "liveness"),
        ("without one:", "liveness"),
        ("panicked", "assertion"),
    ];
    known.iter().find(|(words, _)| why.contains(words)).map_or("other", |(_, name)| name)
}

#[cfg(seeded_bugs)]
fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Looks from several starts for the bug that this program has. The lines are for
/// `cargo xtask seeded-bugs`.
#[test]
#[cfg(seeded_bugs)]
fn the_bug_is_found() {
    let number = std::env::var("TERCET_SEEDED_BUG").expect("cargo xtask seeded-bugs says which");
    let bug = *Bug::ALL.iter().find(|bug| bug.number() == number).expect("it is one of them");
    let starts = number_of("TERCET_SEEDED_STARTS").unwrap_or(5);
    let most = number_of("TERCET_SEEDED_BUDGET").unwrap_or(1_000);
    let check = check_for(bug);
    // The cluster's panics are finds: told below, in one line.
    std::panic::set_hook(Box::new(|_| {}));
    for start in 0..starts {
        let first = 1_000_000 * (start + 1);
        let found = (0..most).find_map(|seed| Some((seed, caught(|| check(first + seed)).err()?)));
        match found {
            Some((seeds, why)) => {
                let words: String = why.chars().take(160).collect();
                let words = words.replace('\n', " ");
                println!("found\t{}\t{}\t{words}", seeds + 1, invariant(&why));
            }
            None => println!("missed\t{most}"),
        }
    }
    let _ = std::panic::take_hook();
}

/// A check that finds something where nothing is proves as little.
#[test]
#[cfg(not(seeded_bugs))]
fn without_a_bug_nothing_is_found() {
    for (bug, first) in Bug::ALL.iter().zip((0..).step_by(100)) {
        support::for_seeds(bug.about(), first..first + 24, check_for(*bug));
    }
}
