//! One column family of a region.
//!
//! **Owns** what a write, a merge and a split do to its leaves.
//!
//! **How it works.** A write appends to the delta of the leaf that its key belongs to. When a leaf has no room for
//! another change, it is *folded*: block and changes become new blocks, in one pass through both, from which garbage is
//! left out. A leaf that has become small is folded together with the next one. A split cuts the leaf at the boundary in
//! two, which share its block, and shares all others.
//!
//! **Invariants.** A clone sees what it saw, given the sequence number of its moment: leaves are replaced and never
//! changed but by appending. `bytes` is the sum over the leaves.
//!
//! **Must not** know whether anybody sees it yet: what a batch that fails half way has done is thrown away by the caller.

use std::sync::Arc;

use engine_traits::Cf;
use txn_types::{Key, TimeStamp};

use crate::{
    block::{BLOCK_BYTES, Block, BlockMerger, Entries, KeyedBlock, Source, SplitKey},
    delta::{Change, Sequence},
    directory::{Directory, Place},
    garbage::{Collector, Verdict},
    leaf::Leaf,
    memory::{MemoryBudget, OverCapacity},
};

/// A leaf that is no larger after it was folded is folded again with the next one, so that deletions do not leave many
/// leaves with little in them.
const LEAF_BYTES_MIN: usize = BLOCK_BYTES / 4;

/// What two leaves may have in a block of their own, leaving room to grow.
const LEAVES_BYTES_MAX: usize = BLOCK_BYTES / 4 * 3;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    cf: Cf,
    budget: Arc<MemoryBudget>,
    directory: Arc<Directory>,
    bytes: usize,
}

/// What folding a leaf has found.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    /// Keys of values in the default column family that no record refers to any more.
    pub(crate) values: Vec<Vec<u8>>,
}

/// Whether the keys of a family end in a timestamp.
pub(crate) fn is_versioned(cf: Cf) -> bool {
    matches!(cf, Cf::Default | Cf::Write)
}

impl Family {
    /// Of blocks, each with its first key.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn new(cf: Cf, blocks: Vec<KeyedBlock>, budget: &Arc<MemoryBudget>) -> Result<Self, OverCapacity> {
        let leaves = blocks.into_iter().map(|(bound, block)| new_leaf(bound, block, budget));
        Self::of_leaves(cf, leaves.collect::<Result<_, _>>()?, budget)
    }

    fn of_leaves(cf: Cf, mut leaves: Vec<Arc<Leaf>>, budget: &Arc<MemoryBudget>) -> Result<Self, OverCapacity> {
        if leaves.is_empty() {
            leaves.push(Arc::new(Leaf::empty(Box::default(), budget)?));
        }
        let bytes = leaves.iter().map(|leaf| leaf.bytes()).sum();
        Ok(Self { cf, budget: budget.clone(), directory: Arc::new(Directory::new(leaves)), bytes })
    }

    pub(crate) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// What the leaves are accounted with; see [`Leaf::bytes`].
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, key: &[u8], sequence: Sequence) -> Option<&[u8]> {
        let place = self.directory.find(key);
        self.directory.prefetch(place);
        self.directory.leaf(place).get(key, sequence)
    }

    /// Puts or, without a value, deletes `key`, whose leaf is at `place`, in batch `sequence`. A leaf that is full is folded at
    /// `safe_point`; whether one was: leaves may be at other places then.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn change(
        &mut self,
        sequence: Sequence,
        mut place: Place,
        (key, value): (&[u8], Option<&[u8]>),
        safe_point: u64,
        garbage: &mut Garbage,
    ) -> Result<bool, OverCapacity> {
        if value.is_none() && self.directory.leaf(place).get(key, Sequence::MAX).is_none() {
            // Garbage that the disk collects is often gone from memory already.
            return Ok(false);
        }
        let mut is_folded = false;
        // Not only once: what was deleted is gone, leaf and all, and the neighbour that takes its keys may be full, too.
        while self.directory.leaf(place).is_full() {
            self.fold(place, safe_point, garbage)?;
            place = self.directory.find(key);
            is_folded = true;
        }
        self.bytes += self.directory.leaf(place).delta().append(sequence, Change { key, value })?;
        Ok(is_folded)
    }

    /// The part with keys `start <= key < end`.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn window(&self, start: &[u8], end: &[u8], sequence: Sequence) -> Result<Self, OverCapacity> {
        let mut leaves = Vec::new();
        let mut next = Some(self.directory.find(start));
        while let Some(place) = next {
            let leaf = self.directory.leaf(place);
            next = self.directory.next(place);
            if leaves.last().is_some() && leaf.bound() >= end {
                break;
            }
            let is_within = leaf.bound() >= start && next.is_some_and(|next| self.directory.leaf(next).bound() <= end);
            if is_within && place != self.directory.first() {
                leaves.push(leaf.clone());
            } else {
                leaves.push(Arc::new(leaf.cut(start, end, sequence, &self.budget)?));
            }
        }
        Self::of_leaves(self.cf, leaves, &self.budget)
    }

    /// The leaves in which folding has something to do: garbage, or changes.
    pub(crate) fn leaves_to_fold(&self, safe_point: u64) -> Vec<Box<[u8]>> {
        let is_due = |leaf: &&Arc<Leaf>| leaf.delta().len() > 0 || self.has_garbage(leaf, safe_point);
        self.directory.leaves().filter(is_due).map(|leaf| leaf.bound().into()).collect()
    }

    fn has_garbage(&self, leaf: &Leaf, safe_point: u64) -> bool {
        let Some(mut collector) = self.collector(safe_point) else { return false };
        let block = leaf.block();
        let mut key = Vec::new();
        (0..block.groups()).any(|group| {
            let entries = block.group(group);
            let entries = entries.start.max(leaf.entries().start)..entries.end.min(leaf.entries().end);
            if entries.is_empty() || !block.has_suffixes(group) {
                return false;
            }
            block.write_key(group, entries.start, &mut key);
            let stem = SplitKey::new(&key, true).stem;
            // The last one may have older versions elsewhere, which only makes a deletion stay.
            let has_older = entries.end == leaf.entries().end;
            entries.clone().any(|entry| {
                let version = block.version(group, entry);
                collector.judge(stem, block.suffix(version), block.value(version), has_older) != Verdict::Keep
            })
        })
    }

    /// Folds the leaf that `key` belongs to, if it has changes or garbage.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn fold_at(&mut self, key: &[u8], safe_point: u64, garbage: &mut Garbage) -> Result<(), OverCapacity> {
        self.fold(self.directory.find(key), safe_point, garbage)
    }

    fn fold(&mut self, place: Place, safe_point: u64, garbage: &mut Garbage) -> Result<(), OverCapacity> {
        let directory = Arc::make_mut(&mut self.directory);
        let leaf = directory.leaf(place).clone();
        let next = directory.next(place).map(|next| (next, directory.leaf(next).clone()));
        let source = Source::new(leaf.block());
        let next_source = next.as_ref().map(|(_, next)| Source::new(next.block()));
        let mut fold = Fold {
            merger: BlockMerger::new(is_versioned(self.cf), leaf.delta().len()),
            collector: collector(self.cf, safe_point),
            key: Vec::new(),
            garbage,
        };
        let mut old_bytes = leaf.bytes();
        fold.add(&leaf, &source, next.as_ref().map(|(_, next)| next.bound()))?;
        if fold.merger.bytes() <= LEAF_BYTES_MIN
            && let (Some((next_place, next)), Some(next_source)) = (&next, &next_source)
            && fold.merger.bytes() + next.block().bytes() + next.delta().bytes() <= LEAVES_BYTES_MAX
        {
            let behind = directory.next(*next_place).map(|behind| directory.bound(behind).to_vec());
            fold.add(next, next_source, behind.as_deref())?;
            old_bytes += next.bytes();
            directory.replace(*next_place, Vec::new());
        }
        let mut blocks = fold.merger.finish(&self.budget)?;
        if let Some((first_key, _)) = blocks.first_mut() {
            // So that the leaf takes the keys that it took before.
            let bound = leaf.bound().min(first_key).into();
            *first_key = bound;
        }
        let leaves = blocks.into_iter().map(|(bound, block)| new_leaf(bound, block, &self.budget));
        let mut leaves = leaves.collect::<Result<Vec<_>, _>>()?;
        if leaves.is_empty() && directory.next(directory.first()).is_none() {
            leaves.push(Arc::new(Leaf::empty(leaf.bound().into(), &self.budget)?));
        }
        self.bytes = self.bytes + leaves.iter().map(|leaf| leaf.bytes()).sum::<usize>() - old_bytes;
        directory.replace(place, leaves);
        Ok(())
    }

    fn collector(&self, safe_point: u64) -> Option<Collector> {
        collector(self.cf, safe_point)
    }
}

fn collector(cf: Cf, safe_point: u64) -> Option<Collector> {
    (cf == Cf::Write && safe_point > 0).then(|| Collector::new(safe_point))
}

fn new_leaf(bound: Box<[u8]>, block: Block, budget: &Arc<MemoryBudget>) -> Result<Arc<Leaf>, OverCapacity> {
    let entries = 0..block.entries();
    Ok(Arc::new(Leaf::new(bound, block, entries, budget)?))
}

/// One pass through leaves that makes new blocks of them.
struct Fold<'a, 'g> {
    merger: BlockMerger<'a>,
    collector: Option<Collector>,
    key: Vec<u8>,
    garbage: &'g mut Garbage,
}

impl<'a> Fold<'a, '_> {
    /// Adds all of `leaf`, whose block is `source`, and behind which a leaf with the bound `next` follows.
    fn add(&mut self, leaf: &'a Leaf, source: &'a Source<'a>, next: Option<&[u8]>) -> Result<(), OverCapacity> {
        let (block, delta) = (leaf.block(), leaf.delta());
        block.prefetch_all();
        delta.prefetch_changes();
        let mut left = leaf.entries();
        let mut group = block.group_of(left.start);
        let mut near = 0;
        let mut sorted = Vec::new();
        delta.sort(Sequence::MAX, &mut sorted);
        for Change { key, value } in sorted.into_iter().map(|node| delta.change(node)) {
            let place;
            (place, near) = leaf.place_near(near, key, &left);
            group = self.add_run(source, block, group, left.start..place.start, next);
            if let Some(value) = value
                && self.is_kept(key, value, next)
            {
                self.merger.push(source, key, value)?;
            }
            left.start = place.end;
        }
        self.add_run(source, block, group, left, next);
        Ok(())
    }

    /// Adds entries of a block, the first of which is in `group` or the next one; returns the group of the last.
    fn add_run(
        &mut self,
        source: &'a Source<'a>,
        block: &Block,
        mut group: usize,
        entries: Entries,
        next: Option<&[u8]>,
    ) -> usize {
        if self.collector.is_none() || entries.is_empty() {
            return self.merger.push_run(source, group, entries);
        }
        let mut key = std::mem::take(&mut self.key);
        let mut kept = entries.start..entries.start;
        let mut of_group = group;
        for entry in entries {
            while entry >= block.group(of_group).end {
                of_group += 1;
            }
            block.write_key(of_group, entry, &mut key);
            if !self.is_kept(&key, block.value(block.version(of_group, entry)), next) {
                group = self.merger.push_run(source, group, kept);
                kept = entry + 1..entry + 1;
            } else {
                kept.end = entry + 1;
            }
        }
        self.key = key;
        self.merger.push_run(source, group, kept)
    }

    /// Whether an entry is no garbage; notes down what goes with it.
    fn is_kept(&mut self, key: &[u8], value: &[u8], next: Option<&[u8]>) -> bool {
        let Some(collector) = &mut self.collector else { return true };
        let SplitKey { stem, suffix: Some(suffix) } = SplitKey::new(key, true) else { return true };
        // Older versions of the user key are in the next leaf if that begins with one, or might begin with one.
        let has_older = next.is_some_and(|next| next.len() < stem.len() || &next[..stem.len()] <= stem);
        match collector.judge(stem, suffix, value, has_older) {
            Verdict::Keep => true,
            Verdict::Drop => false,
            Verdict::DropWithValue(start_ts) => {
                self.garbage.values.push(version_key(stem, start_ts));
                false
            }
        }
    }
}

fn version_key(stem: &[u8], ts: TimeStamp) -> Vec<u8> {
    Key::from_encoded(stem.to_vec()).append_ts(ts).into_encoded()
}
