//! How many make a majority, and how far a majority has come: pure arithmetic.

use crate::types::Index;

/// The size of a majority of `members` nodes.
pub(crate) const fn quorum(members: usize) -> usize {
    members / 2 + 1
}

/// The highest value that a majority has reached, given one value per member.
pub(crate) fn reached_by_quorum<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[quorum(values.len()) - 1]
}

/// The highest index that a majority holds.
pub(crate) fn committed(matched: &mut [Index]) -> Index {
    reached_by_quorum(matched)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn majorities() {
        let sizes: Vec<usize> = (1..=7).map(quorum).collect();
        assert_eq!(sizes, [1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn what_a_majority_holds() {
        for (matched, expected) in [
            (vec![5], 5),
            (vec![9, 0, 0], 0),
            (vec![9, 4, 0], 4),
            (vec![4, 4, 4], 4),
            (vec![9, 8, 7, 1, 0], 7),
            (vec![3, 3, 9, 9], 3),
            (vec![1, 2, 3, 4, 5, 6, 7], 4),
        ] {
            let mut matched: Vec<Index> = matched.into_iter().map(Index).collect();
            assert_eq!(committed(&mut matched), Index(expected));
        }
    }

    proptest! {
        /// The dumb way: try every index, count who holds it.
        #[test]
        fn the_same_as_counting(matched in proptest::collection::vec(0_u64..20, 1..8)) {
            let holds = |index: u64| matched.iter().filter(|m| **m >= index).count() * 2 > matched.len();
            let counted = (0..=20).rev().find(|index| holds(*index)).unwrap();
            let mut indexes: Vec<Index> = matched.iter().copied().map(Index).collect();
            prop_assert_eq!(committed(&mut indexes), Index(counted));
        }
    }
}
