//! Files that are missing, shortened, lengthened, renamed, or another node's.

use std::collections::BTreeSet;

use tercet_raft::NodeId;
use tercet_replica::prepare::PreparedEntry;
use tercet_wal::{Disk, DiskFile, HardState, MemDisk};

use super::Suite;
use super::image::{Holds, Image, value};
use super::play::{Acked, Play, config};
use crate::Random;

/// What is done to a node's files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    SegmentMissing,
    SegmentShortened,
    SegmentEmptied,
    SegmentLengthened,
    SegmentRenamed,
    SegmentsSwapped,
    StrayFile,
    LogMissing,
    IdentityMissing,
    IdentityOneCopy,
    IdentityDamaged,
    IdentityShortened,
    ValuesMissing,
    ValuesEdited,
    ValuesShortened,
    All,
}

const FAULTS: [Fault; 16] = [
    Fault::SegmentMissing,
    Fault::SegmentShortened,
    Fault::SegmentEmptied,
    Fault::SegmentLengthened,
    Fault::SegmentRenamed,
    Fault::SegmentsSwapped,
    Fault::StrayFile,
    Fault::LogMissing,
    Fault::IdentityMissing,
    Fault::IdentityOneCopy,
    Fault::IdentityDamaged,
    Fault::IdentityShortened,
    Fault::ValuesMissing,
    Fault::ValuesEdited,
    Fault::ValuesShortened,
    Fault::All,
];

fn segments(disk: &mut MemDisk) -> Vec<String> {
    let names = disk.list("wal").expect("a directory in memory can be listed");
    names.into_iter().map(|name| format!("wal/{name}")).collect()
}

/// Does it; what is changed is durable.
fn inflict(disk: &mut MemDisk, fault: Fault, random: &mut Random) -> std::io::Result<()> {
    let segments = segments(disk);
    let at = usize::try_from(random.below(segments.len() as u64)).expect("few");
    let segment = segments[at].clone();
    let resize = |disk: &mut MemDisk, name: &str, random: &mut Random, to: fn(u64, u64) -> u64| {
        let Some(file) = disk.open(name)? else { return Ok(()) };
        let length = file.len()?;
        file.set_len(to(length, random.below(length.max(2)).max(1)))?;
        file.sync()
    };
    match fault {
        Fault::SegmentMissing => disk.remove(&segment)?,
        Fault::SegmentShortened => resize(disk, &segment, random, |length, by| length - by)?,
        Fault::SegmentEmptied => resize(disk, &segment, random, |_, _| 0)?,
        Fault::SegmentLengthened => resize(disk, &segment, random, |length, by| length + by)?,
        Fault::SegmentRenamed => {
            let to = ["wal/00000077.seg", "wal/lost+found", "somewhere"];
            disk.rename(&segment, to[usize::try_from(random.below(3)).expect("below 3")])?;
        }
        Fault::SegmentsSwapped => {
            let other = &segments[(at + 1) % segments.len()];
            disk.rename(&segment, "wal/aside")?;
            if *other != segment {
                disk.rename(other, &segment)?;
            }
            disk.rename("wal/aside", other)?;
        }
        Fault::StrayFile => {
            let file = disk.create("wal/core.1234")?;
            file.write_at(b"not ours", 0)?;
            file.sync()?;
        }
        Fault::LogMissing => {
            for segment in &segments {
                disk.remove(segment)?;
            }
        }
        Fault::IdentityMissing => disk.remove("identity")?,
        Fault::IdentityOneCopy | Fault::IdentityDamaged => {
            let length = disk.contents("identity").map_or(0, |bytes| bytes.len());
            let flips = if fault == Fault::IdentityOneCopy { 1 } else { length };
            let start = if flips == 1 {
                usize::try_from(random.below(length as u64)).expect("a small file")
            } else {
                0
            };
            disk.damage("identity", start, &vec![0x55; flips]);
        }
        Fault::IdentityShortened => resize(disk, "identity", random, |length, by| length - by)?,
        Fault::ValuesMissing => disk.remove("values.log")?,
        Fault::ValuesEdited => {
            let length = disk.contents("values.log").map_or(0, |bytes| bytes.len()) as u64;
            let at = usize::try_from(random.below(length)).expect("a small file");
            disk.damage("values.log", at, b"\x01");
        }
        Fault::ValuesShortened => resize(disk, "values.log", random, |length, by| length - by)?,
        Fault::All => {
            for name in segments.iter().map(String::as_str).chain(["identity", "values.log"]) {
                disk.remove(name)?;
            }
        }
    }
    disk.sync_dir("wal")?;
    disk.sync_dir("")
}

/// All suites of faults of the file system's metadata.
pub fn suites() -> Vec<Suite> {
    const REPORTED: &str = "truncate 405/36/559, crash 329/192/479, CTRL 434/0/566 and 502/0/498";
    vec![faults("files-3", 3, 1_000, REPORTED), faults("files-5", 5, 1_000, "")]
}

fn faults(name: &'static str, nodes: u8, cases: u64, reported: &'static str) -> Suite {
    let log: Vec<PreparedEntry> = (1..=60)
        .map(|index| {
            let bytes = usize::try_from(100 + index * 131 % 9_000).expect("small");
            PreparedEntry { term: 1 + index / 25, value: Some(value(index, bytes)) }
        })
        .collect();
    let acked: Vec<Acked> = log
        .iter()
        .zip(1..)
        .filter_map(|(entry, index)| {
            Some(Acked { index, term: entry.term, value: entry.value.clone()? })
        })
        .collect();
    let hard_state = HardState { term: 3, vote: None };
    let image = Image::new(config(nodes, 1), &vec![Holds { hard_state, log }; usize::from(nodes)]);
    let play = move |case: u64| {
        let mut random = Random::new(case ^ 0xf11e);
        let mut play = Play::new(image.world(), &acked);
        let ids = play.world.node_ids();
        // Once with everything running, so that there is a values.log to be harmed.
        play.start(ids.iter().copied());
        let has_all = |play: &Play<'_>| {
            play.world
                .node_ids()
                .into_iter()
                .all(|id| play.world.replica(id).is_some_and(|replica| replica.next_seq() > 60))
        };
        play.run(std::time::Duration::from_secs(10), has_all);
        for id in &ids {
            play.world.crash(*id, tercet_wal::Survive::All);
        }
        let faults = 1 + random.below(u64::from(nodes / 2));
        let mut victims: BTreeSet<NodeId> = BTreeSet::new();
        while (victims.len() as u64) < faults {
            victims.insert(ids[usize::try_from(random.below(u64::from(nodes))).expect("few")]);
        }
        for id in &victims {
            let fault = FAULTS[usize::try_from(random.below(FAULTS.len() as u64)).expect("few")];
            inflict(play.world.disk(*id), fault, &mut random)
                .expect("a disk in memory does as it is told");
        }
        play.start(ids);
        if case % 2 == 1 {
            play.change_leader();
        }
        play.judge(&BTreeSet::new())
    };
    Suite {
        name,
        what: format!(
            "{nodes} nodes, files missing, shortened, lengthened, renamed, swapped, damaged on at most {}",
            nodes / 2
        ),
        cases,
        reported,
        play: Box::new(play),
    }
}
