//! How many make a majority, and how far a majority has come: pure arithmetic.

/// The size of a majority of `members` nodes.
pub(crate) const fn quorum(members: usize) -> usize {
    members / 2 + 1
}

/// The highest value that a majority has reached, given one value per member.
///
/// # Panics
/// If there is none.
pub(crate) fn reached_by_quorum<T: Ord>(values: impl Iterator<Item = T> + Clone) -> T {
    let is_reached = |value: &T| {
        let (members, above) = values.clone().fold((0, 0), |(members, above), other| {
            (members + 1, above + usize::from(other >= *value))
        });
        above >= quorum(members)
    };
    // Few members: counting for each is quicker than making room to sort them.
    values.clone().filter(is_reached).max().expect("all have reached the lowest value")
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
            assert_eq!(reached_by_quorum(matched.into_iter()), expected);
        }
    }

    proptest! {
        /// The other way: in order, the one in the middle.
        #[test]
        fn the_same_as_sorting(mut values in proptest::collection::vec(0_u64..20, 1..64)) {
            let reached = reached_by_quorum(values.iter().copied());
            values.sort_unstable();
            prop_assert_eq!(reached, values[(values.len() - 1) / 2]);
        }
    }
}
