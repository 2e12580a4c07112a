//! The changes of a leaf since its block was built.
//!
//! **Owns** up to [`CHANGES_MAX`] puts and deletions, with the number of the batch that each came in.
//!
//! **How it works.** Changes are appended to slots that are never written again, and linked in the order of their keys,
//! the newest change of a key first: a skip list in which every eighth change also is on the upper level. The links are
//! apart from the changes, together with 16 bytes of each key, so that a search reads a few neighbouring cache lines and
//! looks into hardly any change; these bytes are those behind what all keys of the leaf's block begin with. One thread
//! appends, any number read. A reader takes a change for there when the number of its batch is not greater than that of
//! the reader's snapshot, so that a batch becomes visible as a whole, and nothing is copied for a snapshot.
//!
//! **Invariants.** A change that is linked is complete. Changes of one key follow each other, in descending order of
//! their batches; of one batch, the later first.
//!
//! **Must not** be appended to by two threads at a time: whoever does holds the lock of the region's writer.

use std::{
    cmp,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    block::{head_of, size_class},
    memory::{Charge, MemoryBudget, OverCapacity},
    prefetch::{prefetch, prefetch_all, prefetch_lines},
    sync::{AtomicU8, AtomicU64, AtomicUsize, OnceLock},
};

/// As many changes as a leaf gathers before its block is built anew. More of them make writes cheaper, since a block is
/// copied less often, and reads dearer, which have to look through them.
pub(crate) const CHANGES_MAX: usize = 64;

/// Of the segments of slots: the first, and the second; each further one is as long as all before.
const SEGMENT_MIN: usize = 4;
const SEGMENTS: usize = (CHANGES_MAX / SEGMENT_MIN).ilog2() as usize + 1;

const LEVELS: usize = 2;
/// Every so many changes one is on the upper level as well: the square root of their number, so that a search walks as
/// far on the one level as on the other.
const UPPER_EVERY: usize = 8;

/// No change.
const NONE: u8 = u8::MAX;

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
    next: [[AtomicU8; CHANGES_MAX]; LEVELS],
    /// A bit for each change whose key does not begin with the prefix, and so has no head.
    without_head: AtomicU64,
}

impl Index {
    fn new() -> Box<Self> {
        Box::new(Self {
            heads: [const { [const { AtomicU64::new(0) }; CHANGES_MAX] }; 2],
            next: [const { [const { AtomicU8::new(NONE) }; CHANGES_MAX] }; LEVELS],
            without_head: AtomicU64::new(0),
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Delta {
    first: [AtomicU8; LEVELS],
    /// `None` without changes.
    index: OnceLock<Box<Index>>,
    prefix: Box<[u8]>,
    segments: [OnceLock<Box<[Slot]>>; SEGMENTS],
    /// Slots that are taken: to a reader, at least those of the changes that it sees.
    len: AtomicUsize,
    charge: Charge,
}

impl Delta {
    /// For keys most of which begin with `prefix`.
    pub(crate) fn new(prefix: &[u8], budget: Arc<MemoryBudget>) -> Self {
        Self {
            first: [const { AtomicU8::new(NONE) }; LEVELS],
            index: OnceLock::new(),
            prefix: prefix.into(),
            segments: Default::default(),
            len: AtomicUsize::new(0),
            charge: Charge::new(budget),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
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

        let links = self.index.get_or_init(Index::new);
        match self.head(key) {
            Some(head) => {
                links.heads.iter().zip(head).for_each(|(heads, head)| heads[index].store(head, Ordering::Relaxed));
            }
            None => _ = links.without_head.fetch_or(1 << index, Ordering::Relaxed),
        }
        let levels = if index.is_multiple_of(UPPER_EVERY) { LEVELS } else { 1 };
        // The lowest level first: what is on the upper one is on the lower one.
        for (level, before) in self.before(key).into_iter().enumerate().take(levels) {
            let link = self.link(before, level);
            links.next[level][index].store(link.load(Ordering::Relaxed), Ordering::Relaxed);
            link.store(index as Node, Ordering::Release);
        }
        self.len.store(index + 1, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Has what is looked at to append another change fetched.
    pub(crate) fn prefetch(&self) {
        let Some(index) = self.index.get() else { return };
        index.heads.iter().for_each(|heads| prefetch_lines(&heads[..self.len()]));
        prefetch_all(&index.next);
        prefetch(&index.without_head);
        self.prefix.first().map(prefetch);
        let (segment, offset) = slot_of(self.len());
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
        change.expect("a change that is linked is complete")
    }

    /// The first change with a key `>= key` that a snapshot at `sequence` sees.
    pub(crate) fn seek(&self, key: &[u8], sequence: Sequence) -> Option<Node> {
        // Without changes, which is usual, nothing else of the delta is looked at.
        self.following(None)?;
        let before = self.before(key);
        self.visible_from(self.following(before[0]), sequence)
    }

    /// The change of the next key.
    pub(crate) fn next(&self, node: Node, sequence: Sequence) -> Option<Node> {
        let index = self.index.get()?;
        let key = self.change(node).key();
        let head = self.head(key);
        let mut next = self.following(Some(node));
        while let Some(same) = next.filter(|next| self.compare(index, *next, key, head).is_eq()) {
            next = self.following(Some(same));
        }
        self.visible_from(next, sequence)
    }

    /// The change of the last key `< key`.
    pub(crate) fn seek_before(&self, key: &[u8], sequence: Sequence) -> Option<Node> {
        // The list goes forward only, and is short.
        let first = self.visible_from(self.following(None), sequence);
        let visible = std::iter::successors(first, |node| self.next(*node, sequence));
        visible.take_while(|node| self.change(*node).key() < key).last()
    }

    fn visible_from(&self, mut node: Option<Node>, sequence: Sequence) -> Option<Node> {
        while let Some(hidden) = node.filter(|node| self.change(*node).sequence > sequence) {
            node = self.following(Some(hidden));
        }
        node
    }

    /// The last change on each level with a key `< key`; `None` is the start of the list.
    fn before(&self, key: &[u8]) -> [Option<Node>; LEVELS] {
        let mut before = [None; LEVELS];
        let Some(index) = self.index.get() else { return before };
        let head = self.head(key);
        let mut at = None;
        for level in (0..LEVELS).rev() {
            let mut link = at.map_or(&self.first[level], |node: Node| &index.next[level][usize::from(node)]);
            loop {
                let next = link.load(Ordering::Acquire);
                if next == NONE || self.compare(index, next, key, head).is_ge() {
                    break;
                }
                at = Some(next);
                link = &index.next[level][usize::from(next)];
            }
            before[level] = at;
        }
        before
    }

    /// Compares the key of a change with `key`, which has this head.
    fn compare(&self, index: &Index, node: Node, key: &[u8], head: Option<Head>) -> cmp::Ordering {
        if let Some(head) = head
            && index.without_head.load(Ordering::Relaxed) & (1 << node) == 0
        {
            for (heads, head) in index.heads.iter().zip(head) {
                let order = heads[usize::from(node)].load(Ordering::Relaxed).cmp(&head);
                if order.is_ne() {
                    return order;
                }
            }
        }
        self.change(node).key().cmp(key)
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

    fn following(&self, node: Option<Node>) -> Option<Node> {
        Some(self.link(node, 0).load(Ordering::Acquire)).filter(|next| *next != NONE)
    }

    fn link(&self, node: Option<Node>, level: usize) -> &AtomicU8 {
        match (node, self.index.get()) {
            (Some(node), Some(index)) => &index.next[level][usize::from(node)],
            _ => &self.first[level],
        }
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
                prop_assert_eq!(all.map(of).collect::<BTreeMap<_, _>>(), model.clone());
                for probe in [vec![], vec![0], vec![0, 1], vec![1], vec![1, 2], vec![2, 2], vec![3]] {
                    let pair = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| (key.clone(), value.clone());
                    prop_assert_eq!(delta.seek(&probe, sequence).map(of), model.range(probe.clone()..).next().map(pair));
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
