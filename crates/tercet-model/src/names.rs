//! Renaming nodes, and fingerprints that are the same for all names.

use tercet_raft::abstraction::Names;
use tercet_raft::{Incarnation, NodeId};

/// One way to rename all nodes. An incarnation is its slot and how often that was wiped: the slot
/// is renamed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Permutation {
    /// By slot, from slot 1; what stands at 0 is not used.
    to: Vec<u8>,
}

impl Permutation {
    /// All permutations of so many nodes; the first one leaves every name as it is.
    pub(crate) fn all(nodes: u8) -> Vec<Self> {
        let mut all = vec![vec![0]];
        for _ in 0..nodes {
            let longer = |to: &Vec<u8>| {
                let free = (1..=nodes).filter(|slot| !to.contains(slot));
                free.map(|slot| to.iter().copied().chain([slot]).collect()).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(longer).collect();
        }
        all.into_iter().map(|to| Self { to }).collect()
    }

    pub(crate) fn slot(&self, slot: u8) -> u8 {
        self.to[usize::from(slot)]
    }
}

impl Names for Permutation {
    fn node(&self, node: NodeId) -> u8 {
        self.slot(node.slot())
    }

    fn incarnation(&self, incarnation: Incarnation) -> u64 {
        let [wipes, slot, ..] = incarnation.0.to_le_bytes();
        u64::from(self.slot(slot)) << 8 | u64::from(wipes)
    }
}

/// A fingerprint of bytes: 128 bits, of which two different inputs share all with a probability
/// that does not matter (below 10⁻²⁰ for 10⁹ inputs).
pub(crate) fn fingerprint(bytes: &[u8]) -> u128 {
    let mut low = mix(bytes.len() as u64);
    let mut high = mix(low);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        low = mix(low ^ word);
        high = mix(high.rotate_left(32) ^ word.wrapping_mul(0xa076_1d64_78bd_642f));
    }
    u128::from(mix(low)) << 64 | u128::from(mix(high ^ low.rotate_left(17)))
}

/// Loses nothing: the finaliser of `SplitMix64`.
const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn permutations_are_all_there_and_the_first_changes_nothing() {
        for (nodes, count) in [(1, 1), (2, 2), (3, 6), (4, 24)] {
            let all = Permutation::all(nodes);
            assert_eq!(all.len(), count);
            assert!((1..=nodes).all(|slot| all[0].slot(slot) == slot));
            let distinct: BTreeSet<Vec<u8>> = all.iter().map(|p| p.to.clone()).collect();
            assert_eq!(distinct.len(), count);
        }
    }

    #[test]
    fn fingerprints_of_small_inputs_differ() {
        let mut seen = BTreeSet::new();
        for length in 0..3 {
            for word in 0..1_u32 << (8 * length) {
                assert!(seen.insert(fingerprint(&word.to_le_bytes()[..length])));
            }
        }
        let zeros = [0; 100];
        for length in 3..100 {
            assert!(seen.insert(fingerprint(&zeros[..length])), "{length} zeros");
        }
        let halves = |f: fn(u128) -> u64| seen.iter().map(|x| f(*x)).collect::<BTreeSet<_>>().len();
        #[allow(clippy::cast_possible_truncation, reason = "one half is wanted")]
        let (low, high) = (halves(|x| x as u64), halves(|x| (x >> 64) as u64));
        assert_eq!((low, high), (seen.len(), seen.len()), "each half alone tells them apart");
    }
}
