//! The changes of a leaf since its block was built.
//!
//! **Owns** up to [`CHANGES_MAX`] puts and deletions, with the number of the batch that each came in.
//!
//! **How it works.** Changes are appended to slots that are never written again, in no other order than that of their
//! batches. Apart from them are 16 bytes of each key, those behind what all keys of the leaf's block begin with. A search
//! goes through these numbers from one end to the other, which are a few neighbouring cache lines, and looks into hardly
//! any change; and to append one touches nothing but the end of it all. One thread appends, any number read. A reader takes
//! a change for there when the number of its batch is not greater than that of the reader's snapshot, so that a batch becomes
//! visible as a whole, and nothing is copied for a snapshot.
//!
//! **Invariants.** Changes below `len` are complete, and the numbers of their batches never descend.
//!
//! **Must not** be appended to by two threads at a time: whoever does holds the lock of the region's writer.

use std::{
    cmp,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    block::{head_of, size_class},
    memory::{Charge, MemoryBudget, OverCapacity},
    prefetch::{prefetch, prefetch_lines},
    sync::{AtomicU64, AtomicUsize, OnceLock},
};

/// As many changes as a leaf gathers before its block is built anew. More of them make writes cheaper, since a block is
/// copied less often, and reads dearer, which have to look through them.
pub(crate) const CHANGES_MAX: usize = 64;

/// Of the segments of slots: the first, and the second; each further one is as long as all before.
const SEGMENT_MIN: usize = 4;
const SEGMENTS: usize = (CHANGES_MAX / SEGMENT_MIN).ilog2() as usize + 1;

/// Number of a batch in its region, from 1 on.
pub(crate) type Sequence = u64;

/// Where a change is in its delta.
pub(crate) type Node = u8;

#[derive(Debug)]
pub(crate) struct Change {
    /// The key, then the value.
    data: Box<[u8]>,
    key_len: u32,
    is_deletion: bool,
    sequence: Sequence,
}

impl Change {
    pub(crate) fn key(&self) -> &[u8] {
        &self.data[..self.key_len as usize]
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.data[self.key_len as usize..]
    }

    pub(crate) fn is_deletion(&self) -> bool {
        self.is_deletion
    }
}

type Slot = OnceLock<Change>;

/// The bytes of a key behind `Delta::prefix`, as two numbers: for most keys all that is left, so that not even versions of
/// one user key have to be looked into.
type Head = [u64; 2];

/// What a search reads of the changes.
#[derive(Debug)]
struct Index {
    /// First numbers, second numbers. Equal ones say nothing.
    heads: [[AtomicU64; CHANGES_MAX]; 2],
    /// A bit for each change whose key does not begin with the prefix, and so has no head.
    without_head: AtomicU64,
}

impl Index {
    fn new() -> Box<Self> {
        Box::new(Self {
            heads: [const { [const { AtomicU64::new(0) }; CHANGES_MAX] }; 2],
            without_head: AtomicU64::new(0),
        })
    }

    fn head(&self, node: Node) -> Option<Head> {
        let is_without = self.without_head.load(Ordering::Relaxed) & (1 << node) != 0;
        (!is_without).then(|| self.heads.each_ref().map(|heads| heads[usize::from(node)].load(Ordering::Relaxed)))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Delta {
    /// `None` without changes.
    index: OnceLock<Box<Index>>,
    prefix: Box<[u8]>,
    segments: [OnceLock<Box<[Slot]>>; SEGMENTS],
    len: AtomicUsize,
    charge: Charge,
}

impl Delta {
    /// For keys most of which begin with `prefix`.
    pub(crate) fn new(prefix: &[u8], budget: Arc<MemoryBudget>) -> Self {
        Self {
            index: OnceLock::new(),
            prefix: prefix.into(),
            segments: Default::default(),
            len: AtomicUsize::new(0),
            charge: Charge::new(budget),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// What the changes are accounted with.
    pub(crate) fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// Appends a change; `None` for a value is a deletion. Returns what it is accounted with.
    ///
    /// # Errors
    /// When there is no memory for it.
    ///
    /// # Panics
    /// When there are [`CHANGES_MAX`] already.
    pub(crate) fn append(&self, sequence: Sequence, key: &[u8], value: Option<&[u8]>) -> Result<usize, OverCapacity> {
        let index = self.len();
        assert!(index < CHANGES_MAX, "a full delta is folded first");
        let data_len = key.len() + value.map_or(0, <[u8]>::len);
        let (segment, offset) = slot_of(index);
        let slots_bytes = if offset == 0 { size_class(segment_len(segment) * size_of::<Slot>()) } else { 0 };
        let index_bytes = if index == 0 { size_class(size_of::<Index>()) } else { 0 };
        let bytes = size_class(data_len) + slots_bytes + index_bytes;
        self.charge.grow(bytes)?;

        let mut data = Vec::with_capacity(data_len);
        data.extend_from_slice(key);
        data.extend_from_slice(value.unwrap_or_default());
        let change = Change { data: data.into(), key_len: key.len() as u32, is_deletion: value.is_none(), sequence };
        let slots = self.segments[segment].get_or_init(|| (0..segment_len(segment)).map(|_| Slot::new()).collect());
        assert!(slots[offset].set(change).is_ok(), "a slot is taken once");

        let numbers = self.index.get_or_init(Index::new);
        match self.head(key) {
            Some(head) => {
                numbers.heads.iter().zip(head).for_each(|(heads, head)| heads[index].store(head, Ordering::Relaxed));
            }
            None => _ = numbers.without_head.fetch_or(1 << index, Ordering::Relaxed),
        }
        self.len.store(index + 1, Ordering::Release);
        Ok(bytes)
    }

    /// Has what is looked at to append another change fetched.
    pub(crate) fn prefetch(&self) {
        let Some(index) = self.index.get() else { return };
        let len = self.len();
        index.heads.iter().filter_map(|heads| heads.get(len)).for_each(prefetch);
        prefetch(&index.without_head);
        self.prefix.first().map(prefetch);
        let (segment, offset) = slot_of(len);
        if let Some(slots) = self.segments.get(segment).and_then(OnceLock::get) {
            prefetch(&slots[offset]);
        }
    }

    /// Has all changes fetched.
    pub(crate) fn prefetch_changes(&self) {
        let slots = self.segments.iter().filter_map(OnceLock::get).flat_map(|slots| slots.iter());
        slots.filter_map(OnceLock::get).for_each(|change| prefetch_lines(&change.data));
    }

    pub(crate) fn change(&self, node: Node) -> &Change {
        let (segment, offset) = slot_of(usize::from(node));
        let change = self.segments[segment].get().and_then(|slots| slots[offset].get());
        change.expect("a change below the length is complete")
    }

    /// The change of this key that a snapshot at `sequence` sees.
    pub(crate) fn find(&self, key: &[u8], sequence: Sequence) -> Option<&Change> {
        let (index, visible) = self.visible(sequence)?;
        let head = self.head(key);
        let node = (0..visible).rev().find(|node| self.compare(index, *node, key, head).is_eq())?;
        Some(self.change(node))
    }

    /// The change with the least key `>= key` that a snapshot at `sequence` sees.
    pub(crate) fn seek(&self, key: &[u8], sequence: Sequence) -> Option<Node> {
        self.best(key, sequence, cmp::Ordering::is_ge, cmp::Ordering::is_le)
    }

    /// The change of the next key.
    pub(crate) fn next(&self, node: Node, sequence: Sequence) -> Option<Node> {
        self.best(self.change(node).key(), sequence, cmp::Ordering::is_gt, cmp::Ordering::is_le)
    }

    /// The change with the greatest key `< key`.
    pub(crate) fn seek_before(&self, key: &[u8], sequence: Sequence) -> Option<Node> {
        self.best(key, sequence, cmp::Ordering::is_lt, cmp::Ordering::is_ge)
    }

    /// The changes that a snapshot at `sequence` sees, one of each key, in the order of their keys.
    pub(crate) fn sorted(&self, sequence: Sequence) -> Vec<Node> {
        let Some((index, visible)) = self.visible(sequence) else { return Vec::new() };
        let mut nodes: Vec<Node> = (0..visible).collect();
        // The newest change of a key first.
        nodes.sort_unstable_by(|left, right| self.compare_nodes(index, *left, *right).then(right.cmp(left)));
        nodes.dedup_by(|next, last| self.compare_nodes(index, *next, *last).is_eq());
        nodes
    }

    /// Of the changes that a snapshot sees and whose keys are, compared with `key`, as `is_wanted` says, the one that
    /// `is_better` than all others; of one key the newest.
    fn best(
        &self,
        key: &[u8],
        sequence: Sequence,
        is_wanted: impl Fn(cmp::Ordering) -> bool,
        is_better: impl Fn(cmp::Ordering) -> bool,
    ) -> Option<Node> {
        let (index, visible) = self.visible(sequence)?;
        let head = self.head(key);
        let mut best = None;
        for node in 0..visible {
            if is_wanted(self.compare(index, node, key, head))
                && best.is_none_or(|best| is_better(self.compare_nodes(index, node, best)))
            {
                best = Some(node);
            }
        }
        best
    }

    /// How many changes a snapshot at `sequence` sees, if any.
    fn visible(&self, sequence: Sequence) -> Option<(&Index, Node)> {
        let len = self.len();
        // Without changes, which is usual, nothing else of the delta is looked at.
        let last = len.checked_sub(1)? as Node;
        let is_visible = |node: Node| self.change(node).sequence <= sequence;
        let mut visible = last + 1;
        while visible > 0 && !is_visible(visible - 1) {
            visible -= 1;
        }
        (visible > 0).then_some((self.index.get()?, visible))
    }

    fn compare_nodes(&self, index: &Index, left: Node, right: Node) -> cmp::Ordering {
        match (index.head(left), index.head(right)) {
            (Some(left), Some(right)) if left != right => left.cmp(&right),
            _ => self.change(left).key().cmp(self.change(right).key()),
        }
    }

    /// Compares the key of a change with `key`, which has this head.
    fn compare(&self, index: &Index, node: Node, key: &[u8], head: Option<Head>) -> cmp::Ordering {
        match (index.head(node), head) {
            (Some(of_node), Some(head)) if of_node != head => of_node.cmp(&head),
            _ => self.change(node).key().cmp(key),
        }
    }

    fn head(&self, key: &[u8]) -> Option<Head> {
        let rest = key.strip_prefix(self.prefix.as_ref())?;
        let tail = match rest.last_chunk() {
            // What is there of the second 8 bytes ends here.
            Some(last) if rest.len() < size_of::<Head>() => {
                let missing = (size_of::<Head>() - rest.len()) as u32;
                u64::from_be_bytes(*last).unbounded_shl(u8::BITS * missing)
            }
            _ => rest.get(size_of::<u64>()..).map_or(0, head_of),
        };
        Some([head_of(rest), tail])
    }
}

fn segment_len(segment: usize) -> usize {
    SEGMENT_MIN << segment.saturating_sub(1)
}

/// The segment of a slot, and the place in it.
fn slot_of(index: usize) -> (usize, usize) {
    if index < SEGMENT_MIN {
        return (0, index);
    }
    let segment = (index / SEGMENT_MIN).ilog2() as usize + 1;
    (segment, index - segment_len(segment))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn every_slot_has_a_place() {
        let mut next = 0;
        for segment in 0..SEGMENTS {
            for offset in 0..segment_len(segment) {
                assert_eq!(slot_of(next), (segment, offset));
                next += 1;
            }
        }
        assert_eq!(next, CHANGES_MAX);
    }

    proptest! {
        #[test]
        fn a_snapshot_sees_the_batches_before_it(
            prefix in vec(0..3u8, 0..2),
            changes in vec((vec(0..3u8, 1..3), proptest::option::of(vec(any::<u8>(), 0..3)), any::<bool>()), 0..CHANGES_MAX),
        ) {
            let budget = MemoryBudget::new(usize::MAX);
            let delta = Delta::new(&prefix, budget.clone());
            let mut model = BTreeMap::new();
            let mut models = vec![model.clone()];
            for (key, value, ends_batch) in &changes {
                delta.append(models.len() as Sequence, key, value.as_deref()).unwrap();
                model.insert(key.clone(), value.clone());
                if *ends_batch {
                    models.push(model.clone());
                }
            }
            prop_assert_eq!(delta.len(), changes.len());
            for (sequence, model) in models.iter().enumerate() {
                let sequence = sequence as Sequence;
                let of = |node: Node| {
                    let change = delta.change(node);
                    (change.key().to_vec(), (!change.is_deletion()).then(|| change.value().to_vec()))
                };
                let all = std::iter::successors(delta.seek(b"", sequence), |node| delta.next(*node, sequence));
                prop_assert_eq!(all.map(of).collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
                let sorted = delta.sorted(sequence);
                prop_assert!(sorted.iter().map(|node| of(*node)).eq(model.clone()));
                for probe in [vec![], vec![0], vec![0, 1], vec![1], vec![1, 2], vec![2, 2], vec![3]] {
                    let pair = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| (key.clone(), value.clone());
                    prop_assert_eq!(delta.seek(&probe, sequence).map(of), model.range(probe.clone()..).next().map(pair));
                    let found = delta.find(&probe, sequence).map(|change| {
                        (!change.is_deletion()).then(|| change.value().to_vec())
                    });
                    prop_assert_eq!(found, model.get(&probe).cloned());
                    let before = delta.seek_before(&probe, sequence).map(of);
                    prop_assert_eq!(before, model.range(..probe).next_back().map(pair));
                }
            }
            prop_assert_eq!(budget.used_bytes(), delta.bytes());
            drop(delta);
            prop_assert_eq!(budget.used_bytes(), 0);
        }
    }
}
