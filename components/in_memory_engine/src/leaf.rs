//! A part of a family's keys: a block and what has changed since it was built.
//!
//! **Owns** finding an entry among both, as a snapshot sees them.
//!
//! **How it works.** A change hides the entry of the block with the same key; a deletion is nothing but that. A search
//! returns a [`Spot`]: where the entry is and, if it is in the block, the *run* of entries around it that no visible
//! change lies between. Within a run a cursor steps by adding one, and looks at the changes only at its end. In a leaf
//! that is not written to, the run is the whole block.
//!
//! **Invariants.** All keys of a leaf are at or above its bound and below that of the next leaf. Of a block that two
//! leaves share since a split, each sees its own entries only.
//!
//! **Must not** be changed except by appending to the delta.

use std::sync::Arc;

use crate::{
    block::{Block, Entries, size_class},
    delta::{CHANGES_MAX, Delta, Node, Sequence},
    memory::{Charge, MemoryBudget, OverCapacity},
};

/// What a leaf takes besides its block and its changes: this structure, its bound, and its place in the directory. The
/// directory keeps the bound once more, and its first bytes.
const LEAF_BYTES: usize = size_class(size_of::<Leaf>() + 2 * size_of::<usize>()) + 152;

/// Bytes of changes above which a leaf is folded: with large values, long before it has gathered
/// [`CHANGES_MAX`] changes.
const CHANGES_BYTES_MAX: usize = crate::block::BLOCK_BYTES;

/// See the module.
#[derive(Debug)]
pub(crate) struct Leaf {
    bound: Box<[u8]>,
    block: Block,
    /// Of the block's entries, those that are in this leaf.
    entries: Entries,
    delta: Delta,
    charge: Charge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Block(usize),
    Delta(Node),
}

/// Where an entry is in a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) at: At,
    /// Entries of the block that follow each other without a change in between; empty if the entry is a change.
    pub(crate) run: Entries,
}

impl Leaf {
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn new(
        bound: Box<[u8]>,
        block: Block,
        entries: Entries,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Self, OverCapacity> {
        let charge = Charge::new(budget.clone());
        charge.resize(LEAF_BYTES + 2 * bound.len())?;
        let delta = Delta::new(block.prefix(), budget.clone());
        Ok(Self { bound, block, entries, delta, charge })
    }

    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn empty(bound: Box<[u8]>, budget: &Arc<MemoryBudget>) -> Result<Self, OverCapacity> {
        Self::new(bound, Block::empty(budget.clone()), 0..0, budget)
    }

    pub(crate) fn bound(&self) -> &[u8] {
        &self.bound
    }

    pub(crate) fn block(&self) -> &Block {
        &self.block
    }

    pub(crate) fn entries(&self) -> Entries {
        self.entries.clone()
    }

    pub(crate) fn delta(&self) -> &Delta {
        &self.delta
    }

    /// What the leaf is accounted with. A block that two leaves share counts for both here, and once in the budget.
    pub(crate) fn bytes(&self) -> usize {
        self.block.bytes() + self.delta.bytes() + self.charge.bytes()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.delta.len() >= CHANGES_MAX || self.delta.bytes() >= CHANGES_BYTES_MAX
    }

    /// The part of this leaf with keys `start <= key < end`, as a leaf of its own that shares the block.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn cut(
        &self,
        start: &[u8],
        end: &[u8],
        sequence: Sequence,
        budget: &Arc<MemoryBudget>,
    ) -> Result<Self, OverCapacity> {
        let entries = self.lower_bound(start)..self.lower_bound(end).max(self.lower_bound(start));
        let bound = start.max(&self.bound).into();
        let block = if entries.is_empty() { Block::empty(budget.clone()) } else { self.block.clone() };
        let entries = if entries.is_empty() { 0..0 } else { entries };
        let cut = Self::new(bound, block, entries, budget)?;
        for change in self.delta.sorted(sequence) {
            if change.key >= start && change.key < end {
                cut.delta.append(sequence, change)?;
            }
        }
        Ok(cut)
    }

    pub(crate) fn get(&self, key: &[u8], sequence: Sequence) -> Option<&[u8]> {
        if let Some(change) = self.delta.find(key, sequence) {
            return change.value;
        }
        let (_, version) = self.block.find(key).filter(|(entry, _)| self.entries.contains(entry))?;
        Some(self.block.value(version))
    }

    /// The first entry of the block, of those that are in this leaf, with a key `>= key`.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> usize {
        self.block.lower_bound(key).clamp(self.entries.start, self.entries.end)
    }

    /// The first entry. Of the block's, here and below, only those `within` count.
    pub(crate) fn first(&self, sequence: Sequence, within: &Entries) -> Option<Spot> {
        self.forward(sequence, within, within.start, self.delta.seek(b"", sequence))
    }

    /// The last entry with a key `< key`, which may be any key behind the leaf.
    pub(crate) fn last_before(&self, key: &[u8], sequence: Sequence, within: &Entries) -> Option<Spot> {
        let entry = self.lower_bound(key).clamp(within.start, within.end);
        self.backward(sequence, within, entry, self.delta.seek_before(key, sequence))
    }

    /// The first entry with a key `>= key`.
    pub(crate) fn seek(&self, key: &[u8], sequence: Sequence, within: &Entries) -> Option<Spot> {
        let entry = self.lower_bound(key).clamp(within.start, within.end);
        self.forward(sequence, within, entry, self.delta.seek(key, sequence))
    }

    /// The entry behind the one with this key, which is at `at`.
    pub(crate) fn after(&self, at: At, key: &[u8], sequence: Sequence, within: &Entries) -> Option<Spot> {
        match at {
            At::Block(entry) => self.forward(sequence, within, entry + 1, self.delta.seek(key, sequence)),
            At::Delta(node) => {
                let behind = self.place_of(key, within).end;
                self.forward(sequence, within, behind, self.delta.next(node, sequence))
            }
        }
    }

    /// The first of the block's entries from `entry` on and of the changes from `node` on.
    fn forward(&self, sequence: Sequence, within: &Entries, mut entry: usize, mut node: Option<Node>) -> Option<Spot> {
        while let Some(changed) = node {
            let change = self.delta.change(changed);
            let Entries { start: at, end: behind } = self.place_of(change.key, within);
            if entry < at {
                return Some(Spot { at: At::Block(entry), run: entry..at });
            }
            if change.value.is_some() {
                return Some(Spot { at: At::Delta(changed), run: behind..behind });
            }
            entry = behind;
            node = self.delta.next(changed, sequence);
        }
        (entry < within.end).then_some(Spot { at: At::Block(entry), run: entry..within.end })
    }

    /// The last of the block's entries before `end` and of the changes up to `node`.
    fn backward(&self, sequence: Sequence, within: &Entries, mut end: usize, mut node: Option<Node>) -> Option<Spot> {
        while let Some(changed) = node {
            let change = self.delta.change(changed);
            let Entries { start: at, end: behind } = self.place_of(change.key, within);
            if behind < end {
                return Some(Spot { at: At::Block(end - 1), run: behind..end });
            }
            if change.value.is_some() {
                return Some(Spot { at: At::Delta(changed), run: behind..behind });
            }
            end = at;
            node = self.delta.seek_before(change.key, sequence);
        }
        (within.start < end).then(|| Spot { at: At::Block(end - 1), run: within.start..end })
    }

    /// Where the entry with this key is in the block, and where the next one is.
    fn place_of(&self, key: &[u8], within: &Entries) -> Entries {
        place_within(self.block.search(key), within)
    }

    /// The same for keys in ascending order; with what is to be given as `near` for the next one, which is 0 for the first.
    pub(crate) fn place_near(&self, near: usize, key: &[u8], within: &Entries) -> (Entries, usize) {
        let (near, found) = self.block.search_near(near, key);
        (place_within(found, within), near)
    }
}

fn place_within(found: Result<usize, usize>, within: &Entries) -> Entries {
    let place = match found {
        Ok(entry) => entry..entry + 1,
        Err(entry) => entry..entry,
    };
    place.start.clamp(within.start, within.end)..place.end.clamp(within.start, within.end)
}
