//! A node's whole directory: its past from the first bytes of an input, what befell it from the rest.

use tercet_raft::{Incarnation, NodeId, Time};
use tercet_replica::{
    Identity, IdentityState, LoggedContent, LoggedEntry, OpenError, Replica, ReplicaConfig,
};
use tercet_wal::{Disk, HardState, MemDisk};

use super::{KIB, MIB, no_words};
use crate::Target;
use crate::bytes_of::{Input, noise, put, put_checksum};
use crate::history::{History, Mends, mend_segment, names, node, options, replace};

pub(super) const IMAGE: Target = Target {
    name: "directory_image",
    about: "a directory that was damaged: opened, or mute, or an error in words; after a single \
            fault nothing that was acknowledged is silently missing; what was opened once is opened \
            again, the same",
    run,
    seeds: || (0..48).map(|seed| noise(seed, 96)).collect(),
    words: no_words,
    bytes_max: 2 * KIB,
    memory_max: 16 * MIB,
};

/// The most changes to one image.
const CHANGES: usize = 32;

fn run(input: &[u8]) {
    let mut input = Input(input);
    let is_single = input.u8() % 2 == 0;
    let history = History::write(&mut input);
    let mut disk = history.disk.clone();
    if is_single {
        let is_damaged = single_fault(&mut disk, &mut input);
        check_single(&history, &disk, is_damaged);
    } else {
        for _ in 0..CHANGES {
            if input.is_empty() {
                break;
            }
            change(&mut disk, &mut input);
        }
        open_and_run(disk);
    }
}

fn open(disk: MemDisk) -> Result<Replica<MemDisk>, OpenError> {
    let nodes = (1..=3).map(node).collect();
    let mut config = ReplicaConfig::new(node(1), nodes, "fuzz".to_owned());
    config.wal = options();
    let mut number = 1 << 100;
    let mut random = || {
        number += 1;
        number
    };
    Replica::open(disk, config, None, &mut random, Time(0))
}

/// A stretch of bytes that does not reach from the frames to their identifiers: the design does not
/// claim that one node sees damage to both, and the fault here is one.
fn stretch(bytes: &[u8], at: u16, length: u16) -> std::ops::Range<usize> {
    let half = bytes.len() / 2;
    let from = usize::from(at) * bytes.len() / 65536;
    let end = if from < half { half } else { bytes.len() };
    from..(from + 1 + usize::from(length % 4096)).min(end)
}

/// One thing goes wrong with one file. The bytes that are written do not come from the input:
/// checksums find damage, not forgery. Returns whether anything was changed.
fn single_fault(disk: &mut MemDisk, input: &mut Input<'_>) -> bool {
    let (what, which, at, length) = (input.u8(), input.u8(), input.u16(), input.u16());
    let names = names(disk);
    let name = &names[usize::from(which) % names.len()];
    let before = disk.contents(name).expect("it was listed");
    let mut bytes = before.clone();
    let range = stretch(&bytes, at, length);
    match what % 10 {
        0 => return false,
        1 if !range.is_empty() => bytes[range.start] ^= 1 << (what >> 4 & 7),
        2 => bytes[range].fill(0),
        3 => bytes[range].fill(0xff),
        4 => {
            let noise = noise(u64::from(what), range.len());
            put(&mut bytes[range], 0, &noise);
        }
        5 => {
            // A stretch from elsewhere in this file.
            let from = usize::from(length) * 8 % (bytes.len() + 1);
            let copy = bytes[from..(from + range.len()).min(bytes.len())].to_vec();
            put(&mut bytes[range], 0, &copy);
        }
        6 => bytes.truncate(range.start),
        7 => bytes.extend(noise(u64::from(what), usize::from(length % 4096) + 1)),
        8 => {
            disk.remove(name).expect("it was listed");
            return true;
        }
        9 => {
            let other = &names[usize::from(what / 10) % names.len()];
            bytes = disk.contents(other).expect("it was listed");
        }
        _ => {}
    }
    replace(disk, name, &bytes);
    bytes != before
}

fn check_single(history: &History, disk: &MemDisk, is_damaged: bool) {
    let replica = match open(disk.clone()) {
        Ok(replica) => replica,
        Err(error) => {
            assert!(is_damaged, "a crash is no reason to refuse a directory: {error}");
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let Identity { incarnation, state, .. } = replica.identity().clone();
    if state != IdentityState::Voter {
        assert_ne!(incarnation, history.identity.incarnation, "who forgot is somebody else");
        assert!(is_damaged || !history.is_clean, "a clean crash takes nobody's memory");
        return;
    }
    assert_eq!(incarnation, history.identity.incarnation);
    let status = replica.raft().expect("a voter runs").status();
    let hard_state = status.hard_state;
    let vote = hard_state.vote.map(NodeId::slot);
    let found = HardState { term: hard_state.term.0, vote };
    let logged = match replica.logged(1, usize::MAX) {
        Ok(logged) => logged,
        Err(error) => {
            assert!(is_damaged, "{error}");
            return;
        }
    };
    let contents = [Some(&history.acknowledged), history.in_flight.as_ref()];
    // A crash may leave an entry's identifier without its bytes.
    let may_be_damaged = is_damaged || !history.is_clean;
    let is_allowed = contents.into_iter().flatten().any(|content| {
        content.hard_state == found && fits(&content.logged(), &logged, may_be_damaged)
    });
    assert!(
        is_allowed,
        "acknowledged up to entry {} in {:?}, found up to {} in {found:?}, and not told",
        history.acknowledged.entries.len(),
        history.acknowledged.hard_state,
        logged.len()
    );
}

/// Whether these entries are there, each of them whole or known to be damaged.
fn fits(expected: &[LoggedEntry], logged: &[LoggedEntry], may_be_damaged: bool) -> bool {
    let is_it = |(expected, logged): (&LoggedEntry, &LoggedEntry)| match &logged.content {
        LoggedContent::Damaged => {
            may_be_damaged && (expected.index, expected.term) == (logged.index, logged.term)
        }
        LoggedContent::Noop | LoggedContent::Readmit(_) | LoggedContent::Records { .. } => {
            expected == logged
        }
    };
    expected.len() == logged.len() && expected.iter().zip(logged).all(is_it)
}

/// Anything is done to any file, and checksums are put right.
fn change(disk: &mut MemDisk, input: &mut Input<'_>) {
    let (what, which, at) = (input.u8(), input.u8(), input.u16());
    let names = names(disk);
    let Some(name) = names.get(usize::from(which) % names.len().max(1)) else { return };
    let mut bytes = disk.contents(name).expect("it was listed");
    // From the front, or from the end, where the identifiers are.
    let at = if what & 0x80 == 0 { usize::from(at) } else { bytes.len().saturating_sub(at.into()) };
    match what % 8 {
        0..=2 => {
            let length = input.u8() % 64;
            put(&mut bytes, at, input.take(length.into()));
        }
        3 => {
            let (from, length) = (usize::from(input.u16()), usize::from(input.u16()));
            let copy: Vec<u8> = bytes.iter().skip(from).take(length).copied().collect();
            put(&mut bytes, at, &copy);
        }
        4 => bytes.truncate(at),
        5 => {
            let other = input.u8();
            disk.rename(name, &names[usize::from(other) % names.len()]).expect("it was listed");
            return;
        }
        6 => {
            disk.remove(name).expect("it was listed");
            return;
        }
        _ => {
            let number = input.u8();
            replace(disk, &format!("wal/{number:08}.seg"), &bytes);
            return;
        }
    }
    if what & 0x40 != 0 {
        if name == "identity" {
            for copy in bytes.chunks_mut(4096) {
                let length = copy.get(12..16).and_then(|l| l.try_into().ok());
                let length = length.map_or(0, u32::from_le_bytes) as usize;
                put_checksum(copy, 8, 12, 24_usize.saturating_add(length));
            }
        } else {
            let all =
                Mends { header: true, seal: true, summary: true, frames: true, identifiers: true };
            mend_segment(&mut bytes, all);
        }
    }
    replace(disk, name, &bytes);
}

/// Opens a directory, lets the node run for a while, and opens it again.
fn open_and_run(disk: MemDisk) {
    let mut replica = match open(disk.clone()) {
        Ok(replica) => replica,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for second in 0..4 {
        let now = Time(second * 1_000_000);
        if replica.tick(now).and_then(|()| replica.flush(now)).is_err() {
            return;
        }
        while replica.poll_effect().is_some() {}
    }
    let seen = |replica: &Replica<MemDisk>| -> (Incarnation, IdentityState, Option<_>, Option<_>) {
        let Identity { incarnation, state, .. } = replica.identity().clone();
        let hard_state = replica.raft().map(|raft| raft.status().hard_state);
        (incarnation, state, hard_state, replica.logged(1, usize::MAX).ok())
    };
    let before = seen(&replica);
    drop(replica);
    let again = open(disk).expect("what was opened is opened again");
    assert_eq!(seen(&again), before, "it is the same again");
}
