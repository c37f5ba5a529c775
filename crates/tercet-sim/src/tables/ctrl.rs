//! Damaged entries: each subset of copies, random blocks, nodes that lag and are down.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tercet_raft::{Event, NodeId};
use tercet_replica::prepare::PreparedEntry;
use tercet_replica::records_body;
use tercet_wal::{ENTRY_HEADER_BYTES, HardState};

use super::Suite;
use super::image::{BLOCK, Harm, Holds, Image, Place, harm, value};
use super::play::{Acked, Play, config};
use crate::{Random, What};

/// What an entry of [`aligned`] and its frame take: two blocks, so that a block that cannot be read
/// is one entry's alone.
const ENTRY_BYTES: usize = 8192;

/// Where an entry is harmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Site {
    Payload,
    EntryHeader,
    FrameHeader,
    Identifiers,
}

impl Site {
    fn harm(self, world: &mut crate::World, node: NodeId, place: &Place, how: Harm) {
        let (from, to) = match self {
            Self::Payload => (place.frame + BLOCK, place.end),
            Self::EntryHeader if how == Harm::Unreadable => (place.frame, place.frame + BLOCK),
            Self::EntryHeader => (place.entry, place.entry + ENTRY_HEADER_BYTES as u64),
            Self::FrameHeader => (place.frame, place.entry),
            Self::Identifiers => (place.entry_id, place.frame_id),
        };
        let disk = world.disk(node);
        harm(disk, &place.segment, from, to, how);
        if self == Self::Identifiers {
            harm(disk, &place.segment, place.frame_id, place.frame_id + (to - from), how);
        }
    }

    /// Whether the bytes of the entry are lost with it, and not only their second copy.
    const fn loses_entry(self) -> bool {
        matches!(self, Self::Payload | Self::EntryHeader)
    }
}

/// A value with which an entry and its frame take so many bytes.
fn sized(index: u64, bytes: usize) -> Bytes {
    let overhead = |value: &Bytes| {
        let (pieces, _) = records_body(0, std::slice::from_ref(value));
        pieces.iter().map(Bytes::len).sum::<usize>() - value.len()
    };
    let around = overhead(&value(index, bytes)) + ENTRY_HEADER_BYTES + 64;
    let made = value(index, bytes - around);
    assert_eq!(overhead(&made) + ENTRY_HEADER_BYTES + 64 + made.len(), bytes, "as large as wanted");
    made
}

fn record(term: u64, value: Bytes) -> PreparedEntry {
    PreparedEntry { term, value: Some(value) }
}

/// Entries that begin at the beginning of a block: the first takes one, the others two.
fn aligned(terms: impl IntoIterator<Item = u64>) -> Vec<PreparedEntry> {
    let bytes = |index| if index == 1 { 4096 } else { ENTRY_BYTES };
    terms
        .into_iter()
        .zip(1..)
        .map(|(term, index)| record(term, sized(index, bytes(index))))
        .collect()
}

fn acked(log: &[PreparedEntry]) -> Vec<Acked> {
    let entry = |(entry, index): (&PreparedEntry, u64)| {
        let value = entry.value.clone()?;
        Some(Acked { index, term: entry.term, value })
    };
    log.iter().zip(1..).filter_map(entry).collect()
}

/// All suites of damaged entries.
pub fn suites() -> Vec<Suite> {
    const PAPER: &str = "truncate 0/4050/46, crash 4050/0/46, CTRL 1695/0/2401";
    let mut suites = Vec::new();
    for (how, how_name) in
        [(Harm::Flip, "flip"), (Harm::Zero, "zero"), (Harm::Unreadable, "unreadable")]
    {
        for (site, site_name) in [
            (Site::Payload, "payload"),
            (Site::EntryHeader, "header"),
            (Site::FrameHeader, "frame"),
            (Site::Identifiers, "identifier"),
        ] {
            let name: &'static str = match (how, site) {
                (Harm::Flip, Site::Payload) => "targeted-flip-payload",
                (Harm::Flip, Site::EntryHeader) => "targeted-flip-header",
                (Harm::Flip, Site::FrameHeader) => "targeted-flip-frame",
                (Harm::Flip, Site::Identifiers) => "targeted-flip-identifier",
                (Harm::Zero, Site::Payload) => "targeted-zero-payload",
                (Harm::Zero, Site::EntryHeader) => "targeted-zero-header",
                (Harm::Zero, Site::FrameHeader) => "targeted-zero-frame",
                (Harm::Zero, Site::Identifiers) => "targeted-zero-identifier",
                (Harm::Unreadable, Site::Payload) => "targeted-unreadable-payload",
                (Harm::Unreadable, Site::EntryHeader) => "targeted-unreadable-header",
                // The frame's header is in the block of the entry's.
                (Harm::Unreadable, Site::FrameHeader) => continue,
                (Harm::Unreadable, Site::Identifiers) => "targeted-unreadable-identifier",
            };
            let what = format!(
                "3 nodes, every subset of the copies of 4 entries: {how_name}, {site_name}"
            );
            let reported = if site.loses_entry() { PAPER } else { "" };
            suites.push(targeted(name, what, reported, 3, 4, site, how));
        }
    }
    for (name, nodes, entries) in [("targeted-5x3", 5, 3), ("targeted-7x2", 7, 2)] {
        let what = format!(
            "{nodes} nodes, every subset of the copies of {entries} entries: flip, payload"
        );
        suites.push(targeted(name, what, "", nodes, entries, Site::Payload, Harm::Flip));
    }
    const BLOCKS: &str = "truncate 738/793/3469, crash 807/656/3537, CTRL 0/0/5000";
    const ERRORS: &str = "truncate 2497/0/2503, crash 2469/0/2531, CTRL 0/0/5000";
    suites.push(blocks("blocks-garbage-3", 3, Harm::Flip, BLOCKS));
    suites.push(blocks("blocks-garbage-5", 5, Harm::Flip, ""));
    suites.push(blocks("blocks-unreadable-3", 3, Harm::Unreadable, ERRORS));
    suites.push(blocks("blocks-unreadable-5", 5, Harm::Unreadable, ""));
    suites.push(lagging());
    suites
}

/// Each subset of the copies of `entries` entries, each once with a change of leader.
fn targeted(
    name: &'static str,
    what: String,
    reported: &'static str,
    nodes: u8,
    entries: u32,
    site: Site,
    how: Harm,
) -> Suite {
    // One entry before them, which stays whole; two terms.
    let log = aligned((0..=entries).map(|at| if at > entries / 2 { 2 } else { 1 }));
    let acked = acked(&log);
    let hard_state = HardState { term: 2, vote: None };
    let image = Image::new(config(nodes, 1), &vec![Holds { hard_state, log }; usize::from(nodes)]);
    let play = move |case: u64| {
        let (subset, changes) = (case / 2, case % 2 == 1);
        let mut play = Play::new(image.world(), &acked);
        let ids = play.world.node_ids();
        let mut whole = BTreeSet::new();
        let mut bit = 0;
        for index in 2..=u64::from(entries) + 1 {
            for id in &ids {
                if subset >> bit & 1 == 1 {
                    let place = image.place(*id, index).expect("every node holds it");
                    site.harm(&mut play.world, *id, place, how);
                }
                if subset >> bit & 1 == 0 || !site.loses_entry() {
                    whole.insert(index);
                }
                bit += 1;
            }
        }
        let lost = (2..=u64::from(entries) + 1).filter(|index| !whole.contains(index)).collect();
        play.start(ids);
        if changes {
            play.change_leader();
        }
        play.judge(&lost)
    };
    Suite { name, what, cases: 2 << (u32::from(nodes) * entries), reported, play: Box::new(play) }
}

/// What damage to some blocks does to a node.
#[derive(Clone, Debug, Default)]
struct Hurt {
    entries: BTreeSet<u64>,
    /// Something has lost both of its copies: the node has lost its memory.
    both: bool,
}

fn hurt(places: &[Place], blocks: &BTreeSet<(String, u64)>, how: Harm) -> Hurt {
    let mut hurt = Hurt::default();
    // Whether the newest segment was sealed, and so whether another one is missing, stands in its
    // first block; what is overwritten does not say no.
    let newest = places.last().map(|place| (place.segment.clone(), 0));
    hurt.both = how != Harm::Unreadable && newest.is_some_and(|newest| blocks.contains(&newest));
    for (place, index) in places.iter().zip(1..) {
        let hits = |from: u64, to: u64| {
            (from / BLOCK..=(to - 1) / BLOCK)
                .any(|block| blocks.contains(&(place.segment.clone(), block)))
        };
        let entry = hits(place.entry, place.end);
        hurt.both |= entry && hits(place.entry_id, place.frame_id);
        hurt.both |= hits(place.frame, place.entry) && hits(place.frame_id, place.frame_id + 48);
        if entry {
            hurt.entries.insert(index);
        }
    }
    hurt
}

/// Random blocks of the log's files, so that a copy of each entry is left.
fn blocks(name: &'static str, nodes: u8, how: Harm, reported: &'static str) -> Suite {
    let mut random = Random::new(7);
    let log: Vec<PreparedEntry> = (1..=40)
        .map(|index| {
            let bytes = usize::try_from(100 + random.below(12_000)).expect("small");
            record(1 + index / 15, value(index, bytes))
        })
        .collect();
    let acked = acked(&log);
    let hard_state = HardState { term: 4, vote: None };
    let image = Image::new(config(nodes, 1), &vec![Holds { hard_state, log }; usize::from(nodes)]);
    let what = match how {
        Harm::Unreadable => format!("{nodes} nodes, random blocks cannot be read"),
        Harm::Flip | Harm::Zero => format!("{nodes} nodes, random blocks are overwritten"),
    };
    let play = move |case: u64| {
        let mut random = Random::new(case);
        let mut play = Play::new(image.world(), &acked);
        let ids = play.world.node_ids();
        let used: BTreeSet<(String, u64)> = image.places[0]
            .iter()
            .flat_map(|place| {
                let frame = place.frame / BLOCK..=(place.end - 1) / BLOCK;
                let ids = place.entry_id / BLOCK..=(place.frame_id + 47) / BLOCK;
                let header = 0..=0;
                let all = frame.chain(ids).chain(header);
                all.map(|block| (place.segment.clone(), block)).collect::<Vec<_>>()
            })
            .collect();
        let used: Vec<(String, u64)> = used.into_iter().collect();
        let chosen = loop {
            let chosen: Vec<BTreeSet<(String, u64)>> = ids
                .iter()
                .map(|_| {
                    let count = random.below(3) * random.below(5);
                    let mut pick = || {
                        let at = usize::try_from(random.below(used.len() as u64)).expect("few");
                        let (name, block) = used[at].clone();
                        // Now and then one that is not in use.
                        let block = if random.below(8) == 0 { random.below(30) } else { block };
                        (name, block)
                    };
                    (0..count).map(|_| pick()).collect()
                })
                .collect();
            let hurts: Vec<Hurt> = chosen
                .iter()
                .zip(&image.places)
                .map(|(blocks, places)| hurt(places, blocks, how))
                .collect();
            let lost = hurts.iter().filter(|hurt| hurt.both).count();
            let is_left = |acked: &Acked| {
                hurts.iter().any(|hurt| !hurt.both && !hurt.entries.contains(&acked.index))
            };
            let any = chosen.iter().any(|blocks| !blocks.is_empty());
            if any && lost <= (ids.len() - 1) / 2 && acked.iter().all(is_left) {
                break chosen;
            }
        };
        for (id, blocks) in ids.iter().zip(&chosen) {
            for (name, block) in blocks {
                let (from, to) = (block * BLOCK, (block + 1) * BLOCK);
                match how {
                    Harm::Unreadable => harm(play.world.disk(*id), name, from, to, how),
                    Harm::Flip | Harm::Zero => {
                        let noise: Vec<u8> = (0..BLOCK)
                            .map(|_| u8::try_from(random.below(256)).expect("below 256"))
                            .collect();
                        let at = usize::try_from(from).expect("a file in memory");
                        play.world.disk(*id).damage(name, at, &noise);
                    }
                }
            }
        }
        play.start(ids);
        if case % 2 == 1 {
            play.change_leader();
        }
        play.judge(&BTreeSet::new())
    };
    Suite { name, what, cases: 5_000, reported, play: Box::new(play) }
}

/// A cluster whose nodes were at different points of its history when they stopped.
fn lagging() -> Suite {
    const REPORTED: &str = "truncate 4194/141/665, crash 1306/1806/1888, CTRL 0/0/5000";
    let play = |case: u64| {
        let mut random = Random::new(case ^ 0x1a_6e5);
        let nodes: u8 = if case.is_multiple_of(2) { 3 } else { 5 };
        let faults = u64::from(nodes / 2);
        // Committed runs of one term each; the terms between them are those of leaders that got
        // nothing committed.
        let mut terms = vec![20];
        let mut ends = vec![1_usize];
        for run in 2..=2 + random.below(3) {
            for _ in 0..=random.below(2) {
                terms.push(20 * run);
            }
            ends.push(terms.len());
        }
        let log = aligned(terms.iter().copied());
        let acked = acked(&log);
        let lag = random.below(faults + 1);
        let first_lagging = random.below(u64::from(nodes));
        let mut holds = Vec::new();
        let mut held = Vec::new();
        for slot in 0..u64::from(nodes) {
            let lags = (slot + u64::from(nodes) - first_lagging) % u64::from(nodes) < lag;
            let end = if lags {
                ends[usize::try_from(random.below(ends.len() as u64 - 1)).expect("few")]
            } else {
                terms.len()
            };
            let mut log = log[..end].to_vec();
            if random.below(3) == 0 {
                let term = terms[end - 1] + 1 + slot;
                for _ in 0..=random.below(2) {
                    log.push(PreparedEntry { term, value: None });
                }
            }
            held.push((end, log.len()));
            holds.push(Holds { hard_state: HardState { term: 200, vote: None }, log });
        }
        let image = Image::new(config(nodes, case), &holds);
        let mut play = Play::new(image.world(), &acked);
        let ids = play.world.node_ids();
        let mut whole = BTreeSet::new();
        for (id, (end, last)) in ids.iter().zip(held) {
            for index in 1..=last as u64 {
                let is_tail = index > end as u64;
                if random.below(10) < 4 {
                    let place = image.place(*id, index).expect("it holds it");
                    let how = [Harm::Flip, Harm::Zero, Harm::Unreadable];
                    let how = how[usize::try_from(random.below(3)).expect("below 3")];
                    // The first one takes one block only.
                    let at_header = is_tail || index == 1 || random.below(2) == 0;
                    let site = if at_header { Site::EntryHeader } else { Site::Payload };
                    site.harm(&mut play.world, *id, place, how);
                } else if !is_tail {
                    whole.insert(index);
                }
            }
        }
        let lost = (1..=acked.len() as u64).filter(|index| !whole.contains(index)).collect();
        let down = random.below(faults + 1);
        let first_down = random.below(u64::from(nodes));
        let is_down = |id: &NodeId| {
            (u64::from(id.slot()) - 1 + u64::from(nodes) - first_down) % u64::from(nodes) < down
        };
        let (late, early): (Vec<NodeId>, Vec<NodeId>) = ids.into_iter().partition(is_down);
        play.start(early);
        if !late.is_empty() {
            play.run(Duration::from_secs(4), |_| false);
            play.start(late);
        }
        play.judge(&lost)
    };
    Suite {
        name: "lagging",
        what: "3 and 5 nodes of differing terms, some down at first, random damage; whole copies \
               of every entry are left or not"
            .to_owned(),
        cases: 10_000,
        reported: REPORTED,
        play: Box::new(play),
    }
}

/// What the repair of one entry costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RepairCost {
    /// How long the log is.
    pub entries: u64,
    /// Simulated time from the damage being found to the entry being whole on disk.
    pub took: Duration,
    /// Messages that it took.
    pub messages: u64,
    /// The bytes of entries in them.
    pub entry_bytes: u64,
}

/// The repair of one damaged entry in a long log, on a node that runs.
///
/// # Errors
/// The entry was not repaired.
pub fn repair_one(entries: u64) -> Result<RepairCost, String> {
    let log: Vec<PreparedEntry> =
        (1..=entries).map(|index| record(1, value(index, 1000))).collect();
    let hard_state = HardState { term: 1, vote: None };
    let acked = acked(&log);
    let image = Image::new(config(3, 1), &vec![Holds { hard_state, log }; 3]);
    let mut play = Play::new(image.world(), &acked);
    let ids = play.world.node_ids();
    play.start(ids.iter().copied());
    if !play.run(Duration::from_secs(5), |play| play.leader().is_some()) {
        return Err("no leader".to_owned());
    }
    play.world.take_happened();
    let before = play.world.fetched();
    let victim = ids.into_iter().find(|id| Some(*id) != play.leader()).ok_or("one node")?;
    let place = image.place(victim, entries / 2).ok_or("no such entry")?.clone();
    harm(play.world.disk(victim), &place.segment, place.entry + 100, place.end, Harm::Flip);
    let mut found = None;
    let end = play.world.now().after(Duration::from_secs(120));
    while play.world.step(end) {
        for happened in play.world.take_happened() {
            match happened.what {
                What::Core(Event::EntryDamaged { .. }) => found = Some(happened.at),
                What::Core(Event::EntryRepaired { .. }) => {
                    let after = play.world.fetched();
                    return Ok(RepairCost {
                        entries,
                        took: happened.at.since(found.ok_or("repaired before it was found")?),
                        messages: after.0 - before.0,
                        entry_bytes: after.1 - before.1,
                    });
                }
                What::Core(_) | What::Warning(_) | What::Notice(_) | What::Stopped(_) => {}
            }
        }
    }
    Err("not repaired within two minutes".to_owned())
}
