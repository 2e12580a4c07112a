//! A part of a family's keys: a block and what has changed since it was built.
//!
//! **Owns** finding an entry among both, as a snapshot sees them.
//!
//! **How it works.** A change hides the entry of the block with the same key; a deletion is nothing but that. A search
//! returns a [`Spot`]: where the entry is and, if it is in the block, the *run* of entries around it that no visible
//! change lies between. Within a run a cursor steps by adding one, and looks at the changes only at its end, where it knows
//! already which one follows. Each search begins near the last one. In a leaf that is not written to, the run is the whole
//! block.
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
    /// Entries of the block that follow each other without a change in between; if the entry is a change, none, where the
    /// next ones are.
    pub(crate) run: Entries,
    /// The change behind the run, if it is known.
    pub(crate) ahead: Option<Placed>,
    /// A group of the block that begins at or before the entry, and likely near.
    pub(crate) near: usize,
}

/// A change, and the entry of the block with the same key, or where that would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    node: Node,
    place: Entries,
}

/// What a reader sees of a leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) leaf: &'a Leaf,
    pub(crate) sequence: Sequence,
    /// Of the block's entries, those that count.
    pub(crate) within: &'a Entries,
    /// The changes in the order of their keys; empty if nobody has sorted them.
    pub(crate) sorted: &'a [Node],
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
        let mut sorted = Vec::new();
        self.delta.sort(sequence, &mut sorted);
        for change in sorted.into_iter().map(|node| self.delta.change(node)) {
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

    /// Where the entry with this key is in the block, and where the next one is; for keys in ascending order, with what is to
    /// be given as `near` for the next one, which is 0 for the first.
    pub(crate) fn place_near(&self, near: usize, key: &[u8], within: &Entries) -> (Entries, usize) {
        let (near, found) = self.block.search_near(near, key);
        (place_within(found, within), near)
    }
}

impl View<'_> {
    /// The first entry.
    pub(crate) fn first(self) -> Option<Spot> {
        self.forward(self.within.start, self.seek_change(b""), 0)
    }

    /// The last entry with a key `< key`, which may be any key behind the leaf.
    pub(crate) fn last_before(self, key: &[u8]) -> Option<Spot> {
        let (_, found) = self.leaf.block.search(key);
        self.backward(place_within(found, self.within).start, self.leaf.delta.seek_before(key, self.sequence))
    }

    /// The first entry with a key `>= key`.
    pub(crate) fn seek(self, key: &[u8]) -> Option<Spot> {
        let (near, found) = self.leaf.block.search(key);
        let entry = place_within(found, self.within).start;
        self.forward(entry, self.seek_change(key), near)
    }

    /// The same for a key that is likely near, and greater than that of `spot`.
    pub(crate) fn seek_behind(self, spot: &Spot, key: &[u8]) -> Option<Spot> {
        let (near, found) = self.leaf.block.search_near(spot.near, key);
        let entry = place_within(found, self.within).start;
        match spot.ahead.clone().filter(|ahead| self.leaf.delta.change(ahead.node).key >= key) {
            Some(ahead) => self.forward_to(entry, Some(ahead), near),
            None => self.forward(entry, self.seek_change(key), near),
        }
    }

    /// The entry behind all of the run at `spot`; `key` is that of an entry of it.
    pub(crate) fn behind(self, spot: &Spot, key: &[u8]) -> Option<Spot> {
        let entry = spot.run.end;
        match (&spot.ahead, spot.at) {
            (Some(ahead), _) => self.forward_to(entry, Some(ahead.clone()), spot.near),
            (None, At::Block(_)) => self.forward(entry, self.seek_change(key), spot.near),
            (None, At::Delta(node)) => self.forward(entry, self.next_change(node), spot.near),
        }
    }

    /// The first of the block's entries from `entry` on and of the changes from `node` on.
    fn forward(self, entry: usize, node: Option<Node>, near: usize) -> Option<Spot> {
        let (change, near) = self.place(node, near);
        self.forward_to(entry, change, near)
    }

    /// The same where the place of the change is known.
    fn forward_to(self, mut entry: usize, mut change: Option<Placed>, mut near: usize) -> Option<Spot> {
        while let Some(Placed { node, place }) = change {
            if entry < place.start {
                let run = entry..place.start;
                return Some(Spot { at: At::Block(entry), run, ahead: Some(Placed { node, place }), near });
            }
            if self.leaf.delta.change(node).value.is_some() {
                return Some(Spot { at: At::Delta(node), run: place.end..place.end, ahead: None, near });
            }
            entry = place.end;
            (change, near) = self.place(self.next_change(node), near);
        }
        let run = entry..self.within.end;
        (!run.is_empty()).then_some(Spot { at: At::Block(entry), run, ahead: None, near })
    }

    /// The last of the block's entries before `end` and of the changes up to `node`.
    fn backward(self, mut end: usize, mut node: Option<Node>) -> Option<Spot> {
        while let Some(changed) = node {
            let change = self.leaf.delta.change(changed);
            let (near, found) = self.leaf.block.search(change.key);
            let Entries { start: at, end: behind } = place_within(found, self.within);
            if behind < end {
                return Some(Spot { at: At::Block(end - 1), run: behind..end, ahead: None, near });
            }
            if change.value.is_some() {
                return Some(Spot { at: At::Delta(changed), run: behind..behind, ahead: None, near });
            }
            end = at;
            node = self.leaf.delta.seek_before(change.key, self.sequence);
        }
        let run = self.within.start..end;
        (!run.is_empty()).then(|| Spot { at: At::Block(end - 1), run, ahead: None, near: 0 })
    }

    /// The first change with a key `>= key`.
    fn seek_change(self, key: &[u8]) -> Option<Node> {
        let Self { leaf: Leaf { delta, .. }, sequence, sorted, .. } = self;
        if sorted.is_empty() { delta.seek(key, sequence) } else { delta.seek_sorted(key, sorted) }
    }

    /// The change of the next key.
    fn next_change(self, node: Node) -> Option<Node> {
        match self.sorted.iter().position(|other| *other == node) {
            Some(index) => self.sorted.get(index + 1).copied(),
            None => self.leaf.delta.next(node, self.sequence),
        }
    }

    fn place(self, node: Option<Node>, near: usize) -> (Option<Placed>, usize) {
        let Some(node) = node else { return (None, near) };
        let (place, near) = self.leaf.place_near(near, self.leaf.delta.change(node).key, self.within);
        (Some(Placed { node, place }), near)
    }
}

fn place_within(found: Result<usize, usize>, within: &Entries) -> Entries {
    let place = match found {
        Ok(entry) => entry..entry + 1,
        Err(entry) => entry..entry,
    };
    place.start.clamp(within.start, within.end)..place.end.clamp(within.start, within.end)
}
