//! Seeded schedules: loss, duplication, reordering, crashes, wiped disks, slow disks, partitions,
//! transfers. Safety is checked after every step; then everything heals, and the cluster must come
//! to agree.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails, and talks, out loud")]

mod support;

use std::time::Duration;

use support::{Net, Random, node};
use tercet_raft::{Input, Profile, RoleKind, Rules, Term};

/// What a schedule met: a run in which something never happened tests nothing of it.
#[derive(Default, Debug)]
struct Met {
    leaders: usize,
    crashes: usize,
    wipes: usize,
    readmitted: usize,
    committed: usize,
    truncated: usize,
    transfers: usize,
    barriers: usize,
    damaged: usize,
    repaired: usize,
    dropped: usize,
    leaders_lost: usize,
}

/// Whether a node's own copy of an entry is whole, and counts: it never lost its memory.
fn holds_whole(net: &Net, slot: u8, index: u64, term: Term) -> bool {
    let disk = &net.nodes[&node(slot)].disk;
    let entry = usize::try_from(index - 1).ok().and_then(|at| disk.log.get(at));
    !disk.quarantined
        && !disk.damaged.contains(&index)
        && entry.is_some_and(|entry| entry.meta.term == term)
}

/// Damages an entry of which another whole copy is left; or, where `alone` (nobody ever loses a
/// whole disk), one that nobody else has.
fn damage(net: &mut Net, slot: u8, count: u8, alone: bool, random: &mut Random) -> bool {
    let disk = &net.nodes[&node(slot)].disk;
    let last = disk.log.len() as u64;
    // Not while the disk is behind: what is about to be cut there is no entry of the log any more.
    if last == 0 || !net.pending_writes(slot).is_empty() {
        return false;
    }
    // Mostly near the end, where it matters.
    let index = last - random.below(last.min(4));
    let entry = disk.log[usize::try_from(index - 1).unwrap()];
    let others: Vec<u8> = (1..=count).filter(|other| *other != slot).collect();
    let whole = others.iter().any(|other| holds_whole(net, *other, index, entry.meta.term));
    let log_of = |other: &u8| &net.nodes[&node(*other)].disk.log;
    let held = |other: &u8| log_of(other).contains(&entry);
    if !(whole || alone && !others.iter().any(held)) {
        return false;
    }
    net.damage(slot, index);
    true
}

/// Whether this disk can be lost: no other node's damage depends on it.
fn is_spare(net: &Net, slot: u8, count: u8) -> bool {
    (1..=count).filter(|other| *other != slot).all(|other| {
        let disk = &net.nodes[&node(other)].disk;
        disk.damaged.iter().all(|index| {
            let term = disk.log[usize::try_from(index - 1).unwrap()].meta.term;
            (1..=count).any(|third| third != slot && holds_whole(net, third, *index, term))
        })
    })
}

fn lose_link(net: &mut Net, slot: u8, peer: u8) {
    if net.is_up(slot) && slot != peer {
        net.step(slot, Input::LinkLost { peer: node(peer) });
    }
}

fn schedule(seed: u64, count: u8, profile: Profile, met: &mut Met) {
    let mut random = Random(seed);
    let mut net = Net::new(count, profile);
    net.seed = seed;
    net.message_bytes_max = 100 * (1 + random.below(5));
    net.inflight_bytes_max = 100 * (1 + random.below(10));
    for slot in 1..=count {
        net.crash(slot);
        net.restart(slot);
    }
    let faults = u64::from((count - 1) / 2);
    let (loss, double) = (random.below(20), random.below(20));
    // Either disks are lost, or single entries of which there was but one copy.
    let alone = random.chance(40);
    let mut muted: Vec<u8> = Vec::new();
    for step in 0..1_000_u64 {
        let slot = 1 + u8::try_from(random.below(u64::from(count))).unwrap();
        match random.below(100) {
            0..=39 => {
                // Any of the next messages, lost, doubled or delivered.
                for _ in 0..random.below(3 * u64::from(count)) {
                    if net.wire.is_empty() {
                        break;
                    }
                    let at = usize::try_from(random.below(net.wire.len().min(8) as u64)).unwrap();
                    let packet = net.wire.remove(at).unwrap();
                    if random.chance(double) {
                        net.wire.push_back(packet.clone());
                    }
                    if !random.chance(loss) {
                        net.deliver(packet);
                    }
                }
            }
            40..=57 => {
                // An old leader behind a cut takes proposals, too.
                let at = if random.chance(50) { Some(slot) } else { net.leader() };
                if let Some(at) = at.filter(|at| net.is_up(*at)) {
                    net.propose(at);
                }
            }
            58 | 59 => {
                // The connection between two nodes closes, and both notice, or one before the other.
                let other = 1 + u8::try_from(random.below(u64::from(count))).unwrap();
                lose_link(&mut net, slot, other);
                if random.chance(50) {
                    lose_link(&mut net, other, slot);
                }
            }
            60..=74 => {
                net.now = net.now.after(Duration::from_millis(random.below(200)));
                if net.is_up(slot) {
                    net.step(slot, Input::Timeout);
                }
            }
            75..=79 => {
                let target = net.nodes.get_mut(&node(slot)).unwrap();
                target.slow_disk = !target.slow_disk;
            }
            80..=84 => net.sync(slot),
            85 | 86 => {
                met.damaged += usize::from(damage(&mut net, slot, count, alone, &mut random));
            }
            87..=89 => {
                if net.is_up(slot) {
                    met.crashes += 1;
                    net.crash(slot);
                    for other in (1..=count).filter(|other| *other != slot) {
                        if random.chance(80) {
                            lose_link(&mut net, other, slot);
                        }
                    }
                }
            }
            90..=92 => {
                for slot in 1..=count {
                    if !net.is_up(slot) {
                        net.restart(slot);
                    }
                }
            }
            93 => {
                muted.retain(|slot| net.nodes[&node(*slot)].disk.quarantined);
                let may_be_lost = !alone && is_spare(&net, slot, count);
                if may_be_lost && (muted.len() as u64) < faults && !muted.contains(&slot) {
                    met.wipes += 1;
                    net.wipe(slot);
                    muted.push(slot);
                }
            }
            94 | 95 => {
                let other = 1 + u8::try_from(random.below(u64::from(count))).unwrap();
                net.cut_off(&[slot, other]);
            }
            96 => net.heal(),
            97 => {
                if let Some(leader) = net.leader() {
                    met.transfers += 1;
                    net.step(leader, Input::TransferLeadership { to: None });
                }
            }
            98 => {
                met.barriers += 1;
                if net.is_up(slot) {
                    net.barrier(slot, step);
                }
            }
            _ => {
                if net.is_up(slot) {
                    net.step(slot, Input::Campaign);
                }
            }
        }
    }
    // Liveness: everybody up, connected, with a disk that works.
    net.heal();
    for slot in 1..=count {
        net.nodes.get_mut(&node(slot)).unwrap().slow_disk = false;
        net.sync(slot);
        if !net.is_up(slot) {
            net.restart(slot);
        }
    }
    net.run_ms(5_000);
    let leader = net.leader().expect("a leader within 5 s");
    let last = net.submit(leader);
    net.run_ms(3_000);
    for slot in 1..=count {
        assert_ne!(net.raft(slot).role(), RoleKind::Quarantined, "n{slot} was readmitted");
        assert_eq!(net.applied(slot).last(), Some(&last), "n{slot} has the last value");
        assert_eq!(net.applied(slot), net.applied(leader), "n{slot} agrees");
        assert_eq!(net.damaged(slot), [], "n{slot} is whole");
        met.repaired += net.count(slot, |event| event.kind() == "entry_repaired");
        met.dropped += net.count(slot, |event| event.kind() == "never_committed");
        met.readmitted += net.count(slot, |event| event.kind() == "readmitted");
        met.truncated += net.count(slot, |event| event.kind() == "truncated");
        met.leaders += net.count(slot, |event| event.kind() == "leader");
        met.leaders_lost += net.count(slot, |event| event.kind() == "leader_lost");
    }
    met.committed += net.applied(leader).len();
}

fn many(seeds: std::ops::Range<u64>, count: u8, profile: Profile) {
    let mut met = Met::default();
    for seed in seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            schedule(seed, count, profile, &mut met);
        }));
        if let Err(panic) = result {
            eprintln!("schedule({seed}, {count}, Profile::{profile:?}, …) failed");
            std::panic::resume_unwind(panic);
        }
    }
    let Met {
        leaders,
        crashes,
        wipes,
        readmitted,
        committed,
        truncated,
        transfers,
        barriers,
        damaged,
        repaired,
        dropped,
        leaders_lost,
    } = met;
    for (what, n) in [
        ("leaders", leaders),
        ("crashes", crashes),
        ("wipes", wipes),
        ("readmissions", readmitted),
        ("commits", committed),
        ("truncations", truncated),
        ("transfers", transfers),
        ("barriers", barriers),
        ("damage", damaged),
        ("repairs", repaired),
        ("entries that were never committed", dropped),
    ] {
        assert!(n > 0, "no schedule met {what}");
    }
    assert_eq!(leaders_lost > 0, profile == Profile::Modern, "a closed connection is a hint");
}

#[test]
fn three_nodes_modern() {
    many(0..400, 3, Profile::Modern);
}

#[test]
fn five_nodes_modern() {
    many(1_000..1_200, 5, Profile::Modern);
}

#[test]
fn three_nodes_paper() {
    many(2_000..2_300, 3, Profile::Paper);
}

/// The checks can fail: with a rule switched off, some seed breaks safety.
#[test]
fn broken_rules_are_found() {
    type Break = fn(&mut Rules);
    let rules: [(&str, Break); 3] = [
        ("ignore_log_in_votes", |rules| rules.ignore_log_in_votes = true),
        ("truncate_always", |rules| rules.truncate_always = true),
        ("trust_wiped", |rules| rules.trust_wiped = true),
    ];
    for (name, break_rule) in rules {
        let found = (0..3_000).any(|seed| {
            let mut rules = Rules::default();
            break_rule(&mut rules);
            let mut net = Net::with_rules(3, Profile::Paper, rules);
            net.seed = seed;
            net.violations_allowed = true;
            disturb(&mut net, seed);
            net.violated
        });
        assert!(found, "{name}: no seed of 3000 shows what breaks");
    }
}

/// A rough schedule that stops where a core would assert.
fn disturb(net: &mut Net, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..400 {
        let slot = 1 + u8::try_from(random.below(3)).unwrap();
        match random.below(20) {
            0..=7 => {
                if !net.wire.is_empty() {
                    let at = usize::try_from(random.below(net.wire.len().min(6) as u64)).unwrap();
                    let packet = net.wire.remove(at).unwrap();
                    if random.chance(20) {
                        net.wire.push_back(packet.clone());
                    }
                    net.deliver(packet);
                }
            }
            8..=10 => {
                if let Some(leader) = net.leader() {
                    net.propose(leader);
                }
            }
            11..=13 => {
                net.now = net.now.after(Duration::from_millis(random.below(100)));
                net.step(slot, Input::Timeout);
            }
            14 => net.cut_off(&[slot]),
            15 | 16 => net.heal(),
            17 => {
                if random.chance(30) {
                    net.wipe(slot);
                }
            }
            _ => net.step(slot, Input::Campaign),
        }
    }
}
