//! The changes of a leaf since its block was built.
//!
//! **Owns** up to [`CHANGES_MAX`] puts and deletions, with the number of the batch that each came in.
//!
//! **How it works.** Changes are appended in no other order than that of their batches, and never written again. Apart from
//! them are 16 bytes of each key, those behind what all keys of the leaf's block begin with. A search goes through these
//! numbers from one end to the other, which are a few neighbouring cache lines, and looks into hardly any change; and to
//! append one touches nothing but the end of it all. One thread appends, any number read. A reader takes a change for there
//! when the number of its batch is not greater than that of the reader's snapshot, so that a batch becomes visible as a
//! whole, and nothing is copied for a snapshot.
//!
//! **Invariants.** Changes below `len` are complete, and the numbers of their batches never descend.
//!
//! **Must not** be appended to by two threads at a time: whoever does holds the lock of the region's writer.

use std::{
    cmp,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    block::size_class,
    memory::{Charge, MemoryBudget, OverCapacity},
    prefetch::{prefetch, prefetch_lines},
    sync::{AtomicU64, AtomicUsize, OnceLock},
};

/// As many changes as a leaf gathers before its block is built anew. More of them make writes cheaper, since a block is
/// copied less often, and reads dearer, which have to look through them.
pub(crate) const CHANGES_MAX: usize = 64;

/// Of what all keys begin with, so much is left out of the numbers that are compared: that of any record of a table and more.
const PREFIX_MAX: usize = 31;

/// Number of a batch in its region, from 1 on.
pub(crate) type Sequence = u64;

/// Where a change is in its delta.
pub(crate) type Node = u8;

/// What is put under a key, or that it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

/// In front of the key in memory: its length.
type KeyLen = u32;

/// In the length of the key: it is deleted.
const DELETION: KeyLen = 1 << 31;

impl<'a> Change<'a> {
    fn bytes(&self) -> usize {
        size_of::<KeyLen>() + self.key.len() + self.value.map_or(0, <[u8]>::len)
    }

    fn encode(&self) -> Box<[u8]> {
        let mut data = Vec::with_capacity(self.bytes());
        let flag = if self.value.is_none() { DELETION } else { 0 };
        data.extend_from_slice(&(self.key.len() as KeyLen | flag).to_le_bytes());
        data.extend_from_slice(self.key);
        data.extend_from_slice(self.value.unwrap_or_default());
        data.into()
    }

    fn decode(data: &'a [u8]) -> Self {
        let (key_len, data) = data.split_first_chunk().expect("a change begins with the length of its key");
        let key_len = KeyLen::from_le_bytes(*key_len);
        let (key, value) = data.split_at((key_len & !DELETION) as usize);
        Self { key, value: (key_len & DELETION == 0).then_some(value) }
    }
}

/// The bytes of a key behind the prefix, as a number: for most keys all that is left, so that not even versions of one user
/// key have to be looked into. Keys are in the order of their heads; equal ones say nothing.
type Head = u128;

/// All changes, in one piece: what is appended is in one page.
#[derive(Debug)]
struct Changes {
    /// The first and the second half of each.
    heads: [[AtomicU64; CHANGES_MAX]; 2],
    sequences: [AtomicU64; CHANGES_MAX],
    data: [OnceLock<Box<[u8]>>; CHANGES_MAX],
}

impl Changes {
    fn new() -> Box<Self> {
        Box::new(Self {
            heads: [const { [const { AtomicU64::new(0) }; CHANGES_MAX] }; 2],
            sequences: [const { AtomicU64::new(0) }; CHANGES_MAX],
            data: std::array::from_fn(|_| OnceLock::new()),
        })
    }

    fn get(&self, node: Node) -> Change<'_> {
        Change::decode(self.data[usize::from(node)].get().expect("a change below the length is complete"))
    }

    /// The first so many heads, each with where its change is.
    #[inline]
    fn heads(&self, count: Node) -> impl DoubleEndedIterator<Item = (Head, Node)> {
        let [firsts, seconds] = self.heads.each_ref().map(|halves| halves[..usize::from(count)].iter());
        let head = |first: &AtomicU64, second: &AtomicU64| {
            Head::from(first.load(Ordering::Relaxed)) << u64::BITS | Head::from(second.load(Ordering::Relaxed))
        };
        firsts.zip(seconds).enumerate().map(move |(node, (first, second))| (head(first, second), node as Node))
    }

    fn head(&self, node: Node) -> Head {
        let [first, second] = self.heads.each_ref().map(|halves| halves[usize::from(node)].load(Ordering::Relaxed));
        Head::from(first) << u64::BITS | Head::from(second)
    }

    fn compare_nodes(&self, left: Node, right: Node) -> cmp::Ordering {
        self.compare_changes((self.head(left), left), (self.head(right), right))
    }

    /// Compares the key of a change, which has a head, with another.
    #[inline]
    fn compare(&self, (head, node): (Head, Node), (other_head, other): (Head, &[u8])) -> cmp::Ordering {
        head.cmp(&other_head).then_with(|| self.get(node).key.cmp(other))
    }

    /// The same for two changes.
    #[inline]
    fn compare_changes(&self, left: (Head, Node), right: (Head, Node)) -> cmp::Ordering {
        left.0.cmp(&right.0).then_with(|| self.get(left.1).key.cmp(self.get(right.1).key))
    }

    fn sequence(&self, node: Node) -> Sequence {
        self.sequences[usize::from(node)].load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Delta {
    /// `None` without changes.
    changes: OnceLock<Box<Changes>>,
    len: AtomicUsize,
    charge: Charge,
    prefix: [u8; PREFIX_MAX],
    prefix_len: u8,
}

impl Delta {
    /// For keys most of which begin with `prefix`.
    pub(crate) fn new(prefix: &[u8], budget: Arc<MemoryBudget>) -> Self {
        let prefix_len = prefix.len().min(PREFIX_MAX);
        let mut inline = [0; PREFIX_MAX];
        inline[..prefix_len].copy_from_slice(&prefix[..prefix_len]);
        Self {
            changes: OnceLock::new(),
            len: AtomicUsize::new(0),
            charge: Charge::new(budget),
            prefix: inline,
            prefix_len: prefix_len as u8,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// What the changes are accounted with.
    pub(crate) fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// Appends a change. Returns what it is accounted with.
    ///
    /// # Errors
    /// When there is no memory for it.
    ///
    /// # Panics
    /// When there are [`CHANGES_MAX`] already.
    pub(crate) fn append(&self, sequence: Sequence, change: Change<'_>) -> Result<usize, OverCapacity> {
        let index = self.len();
        assert!(index < CHANGES_MAX, "a full delta is folded first");
        let bytes = size_class(change.bytes()) + if index == 0 { size_class(size_of::<Changes>()) } else { 0 };
        self.charge.grow(bytes)?;

        let changes = self.changes.get_or_init(Changes::new);
        let head = self.head(change.key);
        let [firsts, seconds] = &changes.heads;
        firsts[index].store((head >> u64::BITS) as u64, Ordering::Relaxed);
        seconds[index].store(head as u64, Ordering::Relaxed);
        changes.sequences[index].store(sequence, Ordering::Relaxed);
        assert!(changes.data[index].set(change.encode()).is_ok(), "a change is appended once");
        self.len.store(index + 1, Ordering::Release);
        Ok(bytes)
    }

    /// Has what is looked at to append another change fetched.
    pub(crate) fn prefetch(&self) {
        let (Some(changes), len) = (self.changes.get(), self.len()) else { return };
        changes.heads.iter().chain([&changes.sequences]).filter_map(|numbers| numbers.get(len)).for_each(prefetch);
        changes.data.get(len).map(prefetch);
    }

    /// Has all changes fetched.
    pub(crate) fn prefetch_changes(&self) {
        let data = self.changes.get().into_iter().flat_map(|changes| &changes.data);
        data.map_while(OnceLock::get).for_each(|data| prefetch_lines(data));
    }

    /// The change at `node`.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn change(&self, node: Node) -> Change<'_> {
        self.changes.get().expect("there are changes").get(node)
    }

    /// The change of this key that a snapshot at `sequence` sees.
    pub(crate) fn find(&self, key: &[u8], sequence: Sequence) -> Option<Change<'_>> {
        let (changes, visible) = self.visible(sequence)?;
        let key = (self.head(key), key);
        let (_, node) = changes.heads(visible).rev().find(|change| changes.compare(*change, key).is_eq())?;
        Some(changes.get(node))
    }

    /// The change with the least key `>= key` that a snapshot at `sequence` sees.
    pub(crate) fn seek(&self, key: &[u8], sequence: Sequence) -> Option<Node> {
        self.best(key, sequence, cmp::Ordering::is_ge, cmp::Ordering::is_le)
    }

    /// The change of the next key.
    pub(crate) fn next(&self, node: Node, sequence: Sequence) -> Option<Node> {
        self.best(self.change(node).key, sequence, cmp::Ordering::is_gt, cmp::Ordering::is_le)
    }

    /// The change with the greatest key `< key`.
    pub(crate) fn seek_before(&self, key: &[u8], sequence: Sequence) -> Option<Node> {
        self.best(key, sequence, cmp::Ordering::is_lt, cmp::Ordering::is_ge)
    }

    /// Has `sorted` be the changes that a snapshot at `sequence` sees, one of each key, in the order of their keys.
    pub(crate) fn sort(&self, sequence: Sequence, sorted: &mut Vec<Node>) {
        sorted.clear();
        let Some((changes, visible)) = self.visible(sequence) else { return };
        sorted.extend(0..visible);
        // The newest change of a key first.
        sorted.sort_unstable_by(|left, right| changes.compare_nodes(*left, *right).then(right.cmp(left)));
        sorted.dedup_by(|next, last| changes.compare_nodes(*next, *last).is_eq());
    }

    /// Like [`seek`](Self::seek), among the changes `sorted`.
    pub(crate) fn seek_sorted(&self, key: &[u8], sorted: &[Node]) -> Option<Node> {
        let changes = self.changes.get()?;
        let key = (self.head(key), key);
        let below = sorted.partition_point(|node| changes.compare((changes.head(*node), *node), key).is_lt());
        sorted.get(below).copied()
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
        let (changes, visible) = self.visible(sequence)?;
        let key = (self.head(key), key);
        let mut best = None;
        for change in changes.heads(visible) {
            if is_wanted(changes.compare(change, key))
                && best.is_none_or(|best| is_better(changes.compare_changes(change, best)))
            {
                best = Some(change);
            }
        }
        best.map(|(_, node)| node)
    }

    /// The changes, and how many of them a snapshot at `sequence` sees, if any.
    fn visible(&self, sequence: Sequence) -> Option<(&Changes, Node)> {
        // Without changes, which is usual, nothing else of the delta is looked at.
        let len = self.len();
        let changes = if len == 0 { None } else { self.changes.get() }?;
        let hidden = (0..len as Node).rev().take_while(|node| changes.sequence(*node) > sequence).count();
        let visible = (len - hidden) as Node;
        (visible > 0).then_some((changes, visible))
    }

    fn head(&self, key: &[u8]) -> Head {
        let prefix = &self.prefix[..usize::from(self.prefix_len)];
        let Some(rest) = key.strip_prefix(prefix) else {
            // Below or above all that begin with the prefix.
            return if key < prefix { Head::MIN } else { Head::MAX };
        };
        if let Some(head) = rest.first_chunk() {
            return Head::from_be_bytes(*head);
        }
        let mut head = [0; size_of::<Head>()];
        head[..rest.len()].copy_from_slice(rest);
        Head::from_be_bytes(head)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn a_snapshot_sees_the_batches_before_it(
            prefix in prop_oneof![vec(0..3u8, 0..2), Just(vec![1; PREFIX_MAX + 2])],
            changes in vec((vec(0..3u8, 1..3), proptest::option::of(vec(any::<u8>(), 0..3)), any::<bool>()), 0..CHANGES_MAX),
        ) {
            let budget = MemoryBudget::new(usize::MAX);
            let delta = Delta::new(&prefix, budget.clone());
            let mut model = BTreeMap::new();
            let mut models = vec![model.clone()];
            for (key, value, ends_batch) in &changes {
                let change = Change { key, value: value.as_deref() };
                delta.append(models.len() as Sequence, change).unwrap();
                model.insert(key.clone(), value.clone());
                if *ends_batch {
                    models.push(model.clone());
                }
            }
            prop_assert_eq!(delta.len(), changes.len());
            for (sequence, model) in models.iter().enumerate() {
                let sequence = sequence as Sequence;
                let pair_of = |change: Change<'_>| (change.key.to_vec(), change.value.map(<[u8]>::to_vec));
                let of = |node: Node| pair_of(delta.change(node));
                let all = std::iter::successors(delta.seek(b"", sequence), |node| delta.next(*node, sequence));
                prop_assert_eq!(all.map(of).collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
                let mut sorted = vec![Node::MAX];
                delta.sort(sequence, &mut sorted);
                prop_assert!(sorted.iter().map(|node| of(*node)).eq(model.clone()));
                for probe in [vec![], vec![0], vec![0, 1], vec![1], vec![1, 2], vec![2, 2], vec![3]] {
                    let pair = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| (key.clone(), value.clone());
                    prop_assert_eq!(delta.seek(&probe, sequence).map(of), model.range(probe.clone()..).next().map(pair));
                    prop_assert_eq!(delta.seek_sorted(&probe, &sorted), delta.seek(&probe, sequence));
                    let found = delta.find(&probe, sequence).map(pair_of);
                    prop_assert_eq!(found, model.get_key_value(&probe).map(pair));
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
