//! The leaves of a family, in the order of their keys.
//!
//! **Owns** the way from a key to its leaf.
//!
//! **How it works.** Leaves are listed in chunks, each with the bounds of its leaves side by side; the directory lists
//! the chunks, with their first bounds. Replacing a leaf copies one chunk and the list of chunks, and shares the rest:
//! readers keep the directory that they have.
//!
//! **Invariants.** Bounds ascend strictly. There is at least one leaf, and no chunk is empty. A key below the first bound
//! belongs to the first leaf.
//!
//! **Must not** look into leaves, but for their bounds and the addresses of their blocks.

use std::{ops::Range, sync::Arc};

use crate::{block::head_of, leaf::Leaf, prefetch::Whereabouts};

/// Leaves of a chunk, at most. A directory of a thousand leaves (64 MiB) has a list of a few dozen chunks, about as long
/// as a chunk: replacing a leaf copies as little as it can.
const CHUNK_LEAVES_MAX: usize = 64;

/// Where a leaf is in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    chunk: usize,
    leaf: usize,
}

/// Keys in ascending order, one behind the other in memory.
#[derive(Clone, Debug, Default)]
struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// What all keys begin with.
    prefix_len: usize,
    /// See [`head_of`]; of what is behind the common prefix. A search looks into hardly any key.
    heads: Vec<u64>,
}

impl<'a> FromIterator<&'a [u8]> for Keys {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(keys: I) -> Self {
        let mut list = Keys::default();
        for key in keys {
            list.bytes.extend_from_slice(key);
            list.ends.push(list.bytes.len() as u32);
        }
        if let Some(last) = list.ends.len().checked_sub(1) {
            let common = list.get(0).iter().zip(list.get(last)).take_while(|(first, last)| first == last);
            list.prefix_len = common.count();
            list.heads = (0..=last).map(|index| head_of(&list.get(index)[list.prefix_len..])).collect();
        }
        list
    }
}

impl Keys {
    fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// The last key `<= key`, or the first if none is.
    fn find(&self, key: &[u8]) -> usize {
        let prefix = &self.bytes[..self.prefix_len];
        let Some(rest) = key.strip_prefix(prefix) else {
            return if key < prefix { 0 } else { self.ends.len().saturating_sub(1) };
        };
        let head = head_of(rest);
        let mut low = self.heads.partition_point(|other| *other < head);
        let mut high = match self.heads.get(low) {
            Some(other) if *other == head => low + self.heads[low..].partition_point(|other| *other == head),
            _ => low,
        };
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle) <= key { low = middle + 1 } else { high = middle }
        }
        low.saturating_sub(1)
    }
}

#[derive(Clone, Debug)]
struct Chunk {
    leaves: Vec<Arc<Leaf>>,
    bounds: Arc<Keys>,
    /// What a search in each leaf's block looks at first: it can be fetched while the leaf itself is.
    search_heads: Vec<Whereabouts>,
}

impl Chunk {
    fn new(leaves: Vec<Arc<Leaf>>) -> Arc<Self> {
        let bounds = leaves.iter().map(|leaf| leaf.bound()).collect::<Keys>().into();
        let search_heads = leaves.iter().map(|leaf| search_head(leaf)).collect();
        Arc::new(Self { leaves, bounds, search_heads })
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    chunks: Vec<Arc<Chunk>>,
    /// The first bound of each chunk.
    bounds: Keys,
}

impl Directory {
    /// Of at least one leaf.
    pub(crate) fn new(leaves: Vec<Arc<Leaf>>) -> Self {
        debug_assert!(!leaves.is_empty() && leaves.is_sorted_by(|left, right| left.bound() < right.bound()));
        let chunks = chunks_of(leaves);
        let bounds = first_bounds(&chunks);
        Self { chunks, bounds }
    }

    /// The leaf that `key` belongs to.
    pub(crate) fn find(&self, key: &[u8]) -> Place {
        let chunk = self.bounds.find(key);
        Place { chunk, leaf: self.chunks[chunk].bounds.find(key) }
    }

    /// The same, where `likely` may be that leaf, of this directory or of what it was before.
    pub(crate) fn find_near(&self, likely: Place, key: &[u8]) -> Place {
        let is_there = self.chunks.get(likely.chunk).is_some_and(|chunk| likely.leaf < chunk.leaves.len())
            && self.bound(likely) <= key
            && self.next(likely).is_none_or(|next| key < self.bound(next));
        if is_there { likely } else { self.find(key) }
    }

    pub(crate) fn leaf(&self, place: Place) -> &Arc<Leaf> {
        &self.chunks[place.chunk].leaves[place.leaf]
    }

    /// A search in the leaf at `place` follows.
    pub(crate) fn prefetch(&self, place: Place) {
        self.chunks[place.chunk].search_heads[place.leaf].prefetch();
    }

    /// The bound of a leaf, without a look at the leaf.
    pub(crate) fn bound(&self, place: Place) -> &[u8] {
        self.chunks[place.chunk].bounds.get(place.leaf)
    }

    pub(crate) fn first(&self) -> Place {
        Place { chunk: 0, leaf: 0 }
    }

    pub(crate) fn next(&self, Place { chunk, leaf }: Place) -> Option<Place> {
        if leaf + 1 < self.chunks[chunk].leaves.len() {
            return Some(Place { chunk, leaf: leaf + 1 });
        }
        (chunk + 1 < self.chunks.len()).then_some(Place { chunk: chunk + 1, leaf: 0 })
    }

    pub(crate) fn prev(&self, Place { chunk, leaf }: Place) -> Option<Place> {
        if leaf > 0 {
            return Some(Place { chunk, leaf: leaf - 1 });
        }
        let chunk = chunk.checked_sub(1)?;
        Some(Place { chunk, leaf: self.chunks[chunk].leaves.len() - 1 })
    }

    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Arc<Leaf>> {
        self.chunks.iter().flat_map(|chunk| &chunk.leaves)
    }

    /// Puts `leaves` in the place of one leaf; none at all unless that is the last one there is.
    pub(crate) fn replace(&mut self, place: Place, leaves: Vec<Arc<Leaf>>) {
        let Chunk { leaves: old, bounds, search_heads } = self.chunks[place.chunk].as_ref();
        if let [leaf] = leaves.as_slice()
            && leaf.bound() == self.bound(place)
        {
            let (mut new, mut search_heads) = (old.clone(), search_heads.clone());
            search_heads[place.leaf] = search_head(leaf);
            new[place.leaf] = leaf.clone();
            self.chunks[place.chunk] = Arc::new(Chunk { leaves: new, bounds: bounds.clone(), search_heads });
            return;
        }
        let Range { start, end } = place.leaf..place.leaf + 1;
        let new = old[..start].iter().cloned().chain(leaves).chain(old[end..].iter().cloned()).collect();
        self.chunks.splice(place.chunk..=place.chunk, chunks_of(new));
        debug_assert!(!self.chunks.is_empty());
        self.bounds = first_bounds(&self.chunks);
    }
}

fn search_head(leaf: &Leaf) -> Whereabouts {
    Whereabouts::of(leaf.block().search_head())
}

/// As few chunks as possible, evenly filled.
fn chunks_of(leaves: Vec<Arc<Leaf>>) -> Vec<Arc<Chunk>> {
    if leaves.len() <= CHUNK_LEAVES_MAX {
        return if leaves.is_empty() { Vec::new() } else { vec![Chunk::new(leaves)] };
    }
    let each = leaves.len().div_ceil(leaves.len().div_ceil(CHUNK_LEAVES_MAX));
    leaves.chunks(each).map(|part| Chunk::new(part.to_vec())).collect()
}

fn first_bounds(chunks: &[Arc<Chunk>]) -> Keys {
    chunks.iter().map(|chunk| chunk.bounds.get(0)).collect()
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::memory::MemoryBudget;

    fn leaf(bound: u16) -> Arc<Leaf> {
        Arc::new(Leaf::empty(Box::new(bound.to_be_bytes()), &MemoryBudget::new(usize::MAX)).unwrap())
    }

    fn bounds(directory: &Directory) -> Vec<Vec<u8>> {
        directory.leaves().map(|leaf| leaf.bound().to_vec()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_directory_is_a_sorted_list(
            first in proptest::collection::btree_set(any::<u16>(), 1..300),
            changes in vec((any::<u16>(), 0..3u16), 0..200),
        ) {
            let mut directory = Directory::new(first.iter().map(|bound| leaf(*bound)).collect());
            let mut model = first;
            let (old, old_bounds) = (directory.clone(), bounds(&directory));
            for (key, pieces) in changes {
                let place = directory.find(&key.to_be_bytes());
                let first = *model.iter().next().unwrap();
                let last_at = model.range((Bound::Unbounded, Bound::Included(key))).next_back().copied().unwrap_or(first);
                prop_assert_eq!(directory.leaf(place).bound(), last_at.to_be_bytes());
                // It is divided at its bound and behind, as far as no other leaf begins there.
                let new: Vec<u16> = (0..pieces).filter_map(|piece| last_at.checked_add(piece)).collect();
                let new: Vec<u16> = new.into_iter().filter(|b| *b == last_at || !model.contains(b)).collect();
                if new.is_empty() && model.len() == 1 {
                    continue;
                }
                if new.len() > 1 && model.range(last_at..).nth(1).is_some_and(|next| *next <= *new.last().unwrap()) {
                    continue;
                }
                directory.replace(place, new.iter().map(|bound| leaf(*bound)).collect());
                model.remove(&last_at);
                model.extend(new);
            }
            let expected: Vec<_> = model.iter().map(|bound| bound.to_be_bytes().to_vec()).collect();
            prop_assert_eq!(bounds(&directory), expected.clone());
            prop_assert_eq!(bounds(&old), old_bounds);
            let step = |place: &Place| directory.next(*place);
            let forward: Vec<_> = std::iter::successors(Some(directory.first()), step).collect();
            prop_assert_eq!(forward.len(), expected.len());
            let backward = std::iter::successors(forward.last().copied(), |place| directory.prev(*place));
            prop_assert_eq!(backward.collect::<Vec<_>>(), forward.into_iter().rev().collect::<Vec<_>>());
            for chunk in &directory.chunks {
                prop_assert!(!chunk.leaves.is_empty() && chunk.leaves.len() <= CHUNK_LEAVES_MAX);
            }
        }
    }
}
