//! The file `identity`: two copies, of which the newer whole one counts.
//!
//! An input is a byte that says which copies are put right, the length of the first copy in two
//! bytes, and both copies.

use tercet_raft::NodeId;
use tercet_replica::prepare::identities;
use tercet_replica::{Identity, IdentityState};
use tercet_wal::{Disk, DiskFile, MemDisk};

use super::{KIB, MIB, no_words};
use crate::Target;
use crate::bytes_of::{Input, put, put_checksum};

pub(super) const FILE: Target = Target {
    name: "identity_file",
    about: "an identity file: refused, or read and stored again, the same",
    run,
    seeds,
    words: no_words,
    bytes_max: 8 * KIB,
    memory_max: MIB,
};

/// Where the second copy begins.
const COPY: usize = 4096;
const HEAD: usize = 24;

/// Makes a copy whole: magic, length and checksum.
fn mend(copy: &mut [u8]) {
    let body = copy.len().min(COPY).saturating_sub(HEAD);
    let length = u32::try_from(body).expect("a page").to_le_bytes();
    put(copy, 0, b"TCTID");
    put(copy, 12, &length);
    put_checksum(copy, 8, 12, HEAD + body);
}

fn run(input: &[u8]) {
    let mut input = Input(input);
    let (mended, first) = (input.u8(), input.u16());
    let mut copies = [input.take(first.into()).to_vec(), input.rest().to_vec()];
    for (number, copy) in copies.iter_mut().enumerate() {
        if mended >> number & 1 == 1 {
            mend(copy);
        }
    }
    let mut disk = MemDisk::new();
    let file = disk.create("identity").expect("an empty disk");
    for (copy, at) in copies.iter().zip([0, COPY as u64]) {
        file.write_at(copy, at).expect("the disk is well");
    }
    let Ok(found) = Identity::load(&mut disk) else { return };
    let (identity, count) = found.expect("the file is there");
    let Some(count) = count.checked_add(1) else { return };
    for state in [identity.state, IdentityState::Quarantined] {
        let changed = Identity { state, ..identity.clone() };
        changed.store(&mut disk, count).expect("the disk is well");
        let again = Identity::load(&mut disk).expect("it was just stored");
        assert_eq!(again, Some((changed, count)));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let nodes: Vec<NodeId> = (1..=3).filter_map(NodeId::new).collect();
    let mut disk = MemDisk::new();
    let mut identity = identities("a cluster", &nodes, 1).swap_remove(0);
    let mut image = |identity: &Identity, count| {
        identity.store(&mut disk, count).expect("the disk is well");
        disk.contents("identity").expect("it was just stored")
    };
    let first = image(&identity, 1);
    identity.state = IdentityState::Fresh;
    identity.cluster_id = None;
    let second = image(&identity, 2);
    let copy = |image: &[u8]| {
        let end = image[..COPY].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        image[..end].to_vec()
    };
    let input = |mended: u8, a: &[u8], b: &[u8]| {
        let length = u16::try_from(a.len()).expect("a page").to_le_bytes();
        [&[mended][..], &length, a, b].concat()
    };
    let (a, b) = (copy(&first), copy(&second));
    vec![
        input(0, &a, &b),
        input(3, &a, &b),
        input(3, &a, b""),
        input(0, b"", b""),
        input(1, &b, &a),
    ]
}
