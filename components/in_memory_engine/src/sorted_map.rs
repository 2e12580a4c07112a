//! A persistent sorted map from byte keys to byte values: what one column family of a cached region is kept in.
//!
//! **Owns** the layout of cached data in memory and the count of its bytes.
//!
//! **How it works.** Entries lie in sorted leaves of at most [`LEAF_ENTRIES_MAX`]; a persistent tree maps a lower bound
//! of a leaf's keys to the leaf. Cloning a map clones the root of the tree. A write to a map copies the one leaf that
//! it touches, and the path to it, unless nobody else sees them; all the rest stays shared. So a reader's clone costs
//! nothing, is exact, and is never waited for. Cutting a window out of a map copies at most two leaves and sums up the
//! byte counts of the others, which is why leaves carry one.
//!
//! **Invariants.** Keys ascend strictly, within a leaf and from leaf to leaf. No leaf is empty. A leaf's keys are not
//! below the bound that it is filed under. `bytes` is the sum of [`entry_bytes`] over all entries.
//!
//! **Must not** know of regions, column families, MVCC or locks.

use std::{ops::Bound, sync::Arc};

use imbl::OrdMap;

/// Entries of a leaf, at most. Large enough that the tree above is small and that stepping through a map is mostly
/// stepping through an array; small enough that copying a leaf for a write (one reference count per entry) stays below
/// a microsecond.
const LEAF_ENTRIES_MAX: usize = 64;

/// How far a leaf is filled when a map is built in order: some writes fit in before it has to be divided.
const LEAF_ENTRIES_BUILT: usize = 48;

/// What an entry costs besides its key and its value: its slot in a leaf (24 bytes, times two as a leaf may be half
/// empty), the header of its allocation (16), the allocator's rounding up (8 on average, to be safe 16), and its share
/// of the leaf's and the tree's own allocations (4).
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 84;

/// What the entry `key` → `value` is accounted with.
pub(crate) fn entry_bytes(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD_BYTES
}

/// A key and its value in one allocation. Clones share it.
#[derive(Clone, Debug)]
struct Entry {
    /// The key, then the value.
    data: Arc<[u8]>,
    key_len: usize,
}

impl Entry {
    fn new(key: &[u8], value: &[u8]) -> Self {
        Self { data: [key, value].concat().into(), key_len: key.len() }
    }

    fn key(&self) -> &[u8] {
        &self.data[..self.key_len]
    }

    fn value(&self) -> &[u8] {
        &self.data[self.key_len..]
    }

    fn bytes(&self) -> usize {
        self.data.len() + ENTRY_OVERHEAD_BYTES
    }
}

#[derive(Clone, Debug, Default)]
struct Leaf {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Leaf {
    fn new(entries: Vec<Entry>) -> Self {
        let bytes = entries.iter().map(Entry::bytes).sum();
        Self { entries, bytes }
    }

    /// Where `key` is, or else where it would be inserted.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.key().cmp(key))
    }
}

type Leaves = OrdMap<Arc<[u8]>, Arc<Leaf>>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct SortedMap {
    leaves: Leaves,
    bytes: usize,
}

/// An entry of a map. Stays usable however the map it came from is changed.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    /// What `leaf` is filed under.
    bound: Arc<[u8]>,
    leaf: Arc<Leaf>,
    /// Less than the number of the leaf's entries.
    index: usize,
}

impl Position {
    pub(crate) fn key(&self) -> &[u8] {
        self.leaf.entries[self.index].key()
    }

    pub(crate) fn value(&self) -> &[u8] {
        self.leaf.entries[self.index].value()
    }
}

impl SortedMap {
    /// What the entries are accounted with.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, leaf) = self.leaves.get_prev(key)?;
        leaf.find(key).ok().map(|index| leaf.entries[index].value())
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let entry = Entry::new(key, value);
        self.bytes += entry.bytes();
        let Some((bound, leaf)) = self.leaves.get_prev_mut(key) else {
            // Below all bounds: file it under the smallest of all keys, so that this happens once.
            self.leaves.insert(Arc::default(), Arc::new(Leaf::new(vec![entry])));
            return;
        };
        let leaf = Arc::make_mut(leaf);
        leaf.bytes += entry.bytes();
        match leaf.find(key) {
            Ok(index) => {
                let old_bytes = std::mem::replace(&mut leaf.entries[index], entry).bytes();
                leaf.bytes -= old_bytes;
                self.bytes -= old_bytes;
            }
            Err(index) => leaf.entries.insert(index, entry),
        }
        if leaf.entries.len() > LEAF_ENTRIES_MAX {
            let bound = bound.clone();
            let upper = leaf.entries.split_off(leaf.entries.len() / 2);
            let lower = Leaf::new(std::mem::take(&mut leaf.entries));
            self.leaves.insert(bound, Arc::new(lower));
            self.leaves.insert(upper[0].key().into(), Arc::new(Leaf::new(upper)));
        }
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        // Looked up first, so that deleting what is not there copies nothing.
        let Some((bound, leaf)) = self.leaves.get_prev(key) else { return };
        let Ok(index) = leaf.find(key) else { return };
        let deleted_bytes = leaf.entries[index].bytes();
        if leaf.entries.len() == 1 {
            let bound = bound.clone();
            self.leaves.remove(&bound);
        } else if let Some((_, leaf)) = self.leaves.get_prev_mut(key) {
            let leaf = Arc::make_mut(leaf);
            leaf.entries.remove(index);
            leaf.bytes -= deleted_bytes;
        }
        self.bytes -= deleted_bytes;
    }

    /// The entries `start <= key < end`. Takes time with the number of leaves in the window.
    pub(crate) fn window(&self, start: &[u8], end: &[u8]) -> Self {
        let mut window = Self::default();
        if start >= end {
            return window;
        }
        let first_bound = self.leaves.get_prev(start).map_or(start, |(bound, _)| bound);
        for (bound, leaf) in self.leaves.range::<_, [u8]>((Bound::Included(first_bound), Bound::Excluded(end))) {
            let from = leaf.find(start).unwrap_or_else(|index| index);
            let to = leaf.find(end).unwrap_or_else(|index| index);
            let leaf = match leaf.entries.get(from..to) {
                Some(entries) if entries.len() == leaf.entries.len() => leaf.clone(),
                Some(entries) if !entries.is_empty() => Arc::new(Leaf::new(entries.to_vec())),
                _ => continue,
            };
            window.bytes += leaf.bytes;
            window.leaves.insert(bound.clone(), leaf);
        }
        window
    }

    /// The first entry with a key `>= key`.
    pub(crate) fn seek(&self, key: &[u8]) -> Option<Position> {
        if let Some((bound, leaf)) = self.leaves.get_prev(key) {
            let index = leaf.find(key).unwrap_or_else(|index| index);
            if index < leaf.entries.len() {
                return Some(Position { bound: bound.clone(), leaf: leaf.clone(), index });
            }
        }
        self.first_behind(key)
    }

    /// The last entry with a key `< key`.
    pub(crate) fn seek_before(&self, key: &[u8]) -> Option<Position> {
        let (bound, leaf) = self.leaves.get_prev(key)?;
        match leaf.find(key).unwrap_or_else(|index| index).checked_sub(1) {
            Some(index) => Some(Position { bound: bound.clone(), leaf: leaf.clone(), index }),
            None => self.last_before(bound),
        }
    }

    pub(crate) fn next(&self, position: &Position) -> Option<Position> {
        let index = position.index + 1;
        if index < position.leaf.entries.len() {
            return Some(Position { index, ..position.clone() });
        }
        self.first_behind(&position.bound)
    }

    pub(crate) fn prev(&self, position: &Position) -> Option<Position> {
        match position.index.checked_sub(1) {
            Some(index) => Some(Position { index, ..position.clone() }),
            None => self.last_before(&position.bound),
        }
    }

    /// The first entry of the first leaf that is filed behind `bound`.
    fn first_behind(&self, bound: &[u8]) -> Option<Position> {
        let (bound, leaf) = self.leaves.range::<_, [u8]>((Bound::Excluded(bound), Bound::Unbounded)).next()?;
        Some(Position { bound: bound.clone(), leaf: leaf.clone(), index: 0 })
    }

    /// The last entry of the last leaf that is filed before `bound`.
    fn last_before(&self, bound: &[u8]) -> Option<Position> {
        let (bound, leaf) = self.leaves.range::<_, [u8]>((Bound::Unbounded, Bound::Excluded(bound))).next_back()?;
        Some(Position { bound: bound.clone(), leaf: leaf.clone(), index: leaf.entries.len() - 1 })
    }
}

/// Builds a [`SortedMap`] from entries in ascending order, without searching for the place of each.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    map: SortedMap,
    /// The entries of the next leaf.
    pending: Vec<Entry>,
}

impl Builder {
    /// Adds an entry, whose key must be greater than all before.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        debug_assert!(self.pending.last().is_none_or(|last| last.key() < key));
        self.pending.push(Entry::new(key, value));
        if self.pending.len() == LEAF_ENTRIES_BUILT {
            self.flush();
        }
    }

    pub(crate) fn finish(mut self) -> SortedMap {
        self.flush();
        self.map
    }

    fn flush(&mut self) {
        if let Some(first) = self.pending.first() {
            let bound = first.key().into();
            let leaf = Leaf::new(std::mem::take(&mut self.pending));
            self.map.bytes += leaf.bytes;
            self.map.leaves.insert(bound, Arc::new(leaf));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    /// Every invariant of the module, and that the map equals the model in all that it can be asked.
    fn check(map: &SortedMap, model: &Model) {
        let mut last: Option<&[u8]> = None;
        let mut bytes = 0;
        for (bound, leaf) in &map.leaves {
            assert!(!leaf.entries.is_empty() && leaf.entries.len() <= LEAF_ENTRIES_MAX);
            assert!(bound.as_ref() <= leaf.entries[0].key());
            for entry in &leaf.entries {
                assert!(last.is_none_or(|last| last < entry.key()));
                last = Some(entry.key());
            }
            assert_eq!(leaf.bytes, leaf.entries.iter().map(Entry::bytes).sum::<usize>());
            bytes += leaf.bytes;
        }
        assert_eq!(map.bytes, bytes);
        assert_eq!(map.bytes, model.iter().map(|(key, value)| entry_bytes(key, value)).sum::<usize>());

        let expected: Vec<_> = model.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
        let forward: Vec<_> = std::iter::successors(map.seek(b""), |position| map.next(position)).collect();
        assert_eq!(forward.iter().map(|p| (p.key(), p.value())).collect::<Vec<_>>(), expected);
        let backward: Vec<_> = std::iter::successors(map.seek_before(&[0xff; 9]), |p| map.prev(p)).collect();
        assert_eq!(backward.iter().rev().map(|p| (p.key(), p.value())).collect::<Vec<_>>(), expected);
        for probe in 0..=u8::MAX {
            let key = [probe];
            assert_eq!(map.get(&key), model.get(key.as_slice()).map(Vec::as_slice));
            let seek = model.range::<[u8], _>((Bound::Included(key.as_slice()), Bound::Unbounded)).next();
            assert_eq!(map.seek(&key).map(|p| p.key().to_vec()).as_ref(), seek.map(|(key, _)| key));
            let before = model.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(key.as_slice()))).next_back();
            assert_eq!(map.seek_before(&key).map(|p| p.key().to_vec()).as_ref(), before.map(|(key, _)| key));
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(any::<u8>(), 0..2), vec(0..4u8, 0..4)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn equals_a_btree_map(
            built in proptest::collection::btree_map(key(), vec(any::<u8>(), 0..4), 0..300),
            changes in vec((key(), proptest::option::weighted(0.6, vec(any::<u8>(), 0..4))), 0..600),
            window in (key(), key()),
        ) {
            let mut builder = Builder::default();
            built.iter().for_each(|(key, value)| builder.push(key, value));
            let (mut map, mut model) = (builder.finish(), built);
            check(&map, &model);

            let (old_map, old_model) = (map.clone(), model.clone());
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        map.put(&key, &value);
                        model.insert(key, value);
                    }
                    None => {
                        map.delete(&key);
                        model.remove(&key);
                    }
                }
            }
            check(&map, &model);
            check(&old_map, &old_model);

            let (start, end) = window;
            let cut = map.window(&start, &end);
            model.retain(|key, _| start <= *key && *key < end);
            check(&cut, &model);
        }
    }
}
