//! The words of the core, as types: every number has a type of its own, so that a term can never
//! be passed where an index is meant.

use std::fmt;
use std::time::Duration;

/// A node of the cluster, by its slot: the member's number in the cluster, from 1.
///
/// The slot stays when a node loses its disk; what changes then is its [`Incarnation`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u8);

impl NodeId {
    /// The highest slot there can be; a [`NodeSet`] is one machine word.
    pub const MAX: u8 = 63;

    /// The node in `slot`, or `None` where no member can have that number (0, or above
    /// [`NodeId::MAX`]).
    pub const fn new(slot: u8) -> Option<Self> {
        if slot == 0 || slot > Self::MAX { None } else { Some(Self(slot)) }
    }

    /// The slot's number.
    pub const fn slot(self) -> u8 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of nodes. Votes and answers are counted as sets, so that a message that arrives twice
/// counts once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NodeSet(u64);

impl NodeSet {
    /// No node.
    pub const EMPTY: Self = Self(0);

    /// Adds a node; says whether it was new.
    pub fn insert(&mut self, node: NodeId) -> bool {
        let before = self.0;
        self.0 |= 1 << node.0;
        self.0 != before
    }

    /// Removes a node.
    pub fn remove(&mut self, node: NodeId) {
        self.0 &= !(1 << node.0);
    }

    /// Whether the node is in the set.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.0) != 0
    }

    /// How many nodes are in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set has no node.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The nodes in ascending order of their slots.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let slot = u8::try_from(rest.trailing_zeros()).expect("at most 64");
            rest &= rest.wrapping_sub(1);
            NodeId::new(slot)
        })
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A random 128-bit number made with a data directory: the same slot with a lost disk is a new
/// incarnation (docs/rejoin.md).
// Aligned as other numbers are: an `EntryMeta`, of which a message has thousands, is a third smaller
// by that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", { self.0 })
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// Raft's logical time: terms are numbered 1, 2, 3 …; term 0 is the time before any election.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// The place of an entry in the log, from 1. Index 0 is the place before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

impl Index {
    /// The place before the first entry.
    pub const ZERO: Self = Self(0);

    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; the place before index 0 is index 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A log position: an entry is named by its term and index together.
///
/// The derived order (term first, then index) is the paper's "up-to-date" order (§5.4.1): the log
/// whose last position is greater is the more up-to-date one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPos {
    /// The term of the leader that made the entry.
    pub term: Term,
    /// Where the entry stands.
    pub index: Index,
}

impl LogPos {
    /// The position before the first entry, on which all logs agree.
    pub const ORIGIN: Self = Self { term: Term(0), index: Index(0) };

    /// A position from its two numbers.
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term: Term(term), index: Index(index) }
    }
}

impl fmt::Display for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Debug for LogPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A moment, in microseconds since an origin that the driver chooses and keeps. It never goes
/// back; the core has no clock of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Time(pub u64);

impl Time {
    /// The moment `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The number of a write to this node's disk: 1, 2, 3 … in the order in which they were asked for.
/// Reporting one durable reports all before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct WriteId(pub u64);

/// What a node must never forget (Figure 2, "persistent state"): durable before it is visible.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct HardState {
    /// The latest term that this node has seen. It never goes back.
    pub term: Term,
    /// Who got this node's vote in `term`, if anyone.
    pub vote: Option<NodeId>,
}

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry, which commits those of earlier terms with it (§8).
    Noop,
    /// Records that clients submitted; opaque here.
    Payload,
    /// "This incarnation of this slot is a voter again" (protocol RJ, docs/rejoin.md).
    Readmit {
        /// The slot that lost its memory.
        node: NodeId,
        /// The one incarnation of it that may leave quarantine by this entry.
        incarnation: Incarnation,
    },
}

/// An entry as the core sees it: its bytes pass by outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EntryMeta {
    /// The term of the leader that made it.
    pub term: Term,
    /// What it is for.
    pub kind: EntryKind,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a set that is slower.
        #[test]
        fn a_set_of_nodes(ops in proptest::collection::vec((any::<bool>(), 1..=NodeId::MAX), 0..40)) {
            let (mut nodes, mut slow) = (NodeSet::EMPTY, BTreeSet::new());
            for (adds, slot) in ops {
                let node = NodeId::new(slot).unwrap();
                if adds {
                    prop_assert_eq!(nodes.insert(node), slow.insert(node));
                } else {
                    nodes.remove(node);
                    slow.remove(&node);
                }
                prop_assert!(nodes.iter().eq(slow.iter().copied()));
                prop_assert_eq!(nodes, slow.iter().copied().collect());
                prop_assert_eq!((nodes.len(), nodes.is_empty()), (slow.len(), slow.is_empty()));
                for node in (1..=NodeId::MAX).filter_map(NodeId::new) {
                    prop_assert_eq!(nodes.contains(node), slow.contains(&node));
                }
            }
        }
    }
}
