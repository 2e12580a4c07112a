//! What a block is made of, before it is put together.
//!
//! **Owns** how entries are gathered, one at a time or as many as lie together in another block, and what they will take.
//!
//! **Invariants.** All stems begin with the base, which they are gathered without. Each part is laid out as the block will
//! have it.
//!
//! **Must not** decide what goes into which block.

use std::ops::Range;

use super::{BARE, Block, Fence, SUFFIX_LEN, fences_of};

/// What is gathered for the next block.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) suffixes: Vec<u64>,
    pub(super) stem_ends: Vec<u32>,
    pub(super) group_ends: Vec<u32>,
    pub(super) value_ends: Vec<u32>,
    pub(super) base: Vec<u8>,
    /// Without the base.
    pub(super) stems: Vec<u8>,
    pub(super) values: Vec<u8>,
    pub(super) older_suffixes: Vec<u64>,
    pub(super) older_value_ends: Vec<u32>,
    pub(super) older_values: Vec<u8>,
    /// Where a block is put together: memory that has just been in use is written much faster than what the allocator gives,
    /// which is then written only once.
    pub(super) words: Vec<u64>,
}

impl Parts {
    pub(super) fn clear(&mut self) {
        let Self { suffixes, stem_ends, group_ends, value_ends, base, stems, values, .. } = self;
        suffixes.clear();
        [stem_ends, group_ends, value_ends].into_iter().for_each(Vec::clear);
        [base, stems, values].into_iter().for_each(Vec::clear);
        self.older_suffixes.clear();
        self.older_value_ends.clear();
        self.older_values.clear();
    }

    pub(super) fn size(&self) -> Size {
        let groups = self.suffixes.len();
        Size {
            groups,
            older: self.older_suffixes.len(),
            stem_bytes: groups * self.base.len() + self.stems.len(),
            value_bytes: self.values.len() + self.older_values.len(),
        }
    }

    /// The stem of `group` without the base, and whether it is a whole key.
    pub(super) fn stem(&self, group: usize) -> (&[u8], bool) {
        let start = if group == 0 { 0 } else { (self.stem_ends[group - 1] & !BARE) as usize };
        let end = self.stem_ends[group];
        (&self.stems[start..(end & !BARE) as usize], end & BARE != 0)
    }

    /// The last stem, likewise.
    pub(super) fn last_stem(&self) -> Option<(&[u8], bool)> {
        Some(self.stem(self.stem_ends.len().checked_sub(1)?))
    }

    /// Makes the base no longer than this.
    pub(super) fn shorten_base(&mut self, len: usize) {
        if len < self.base.len() {
            let moved = self.base.split_off(len);
            let mut stems = Vec::with_capacity(self.stems.len() + self.stem_ends.len() * moved.len());
            let mut start = 0;
            for end in &mut self.stem_ends {
                stems.extend_from_slice(&moved);
                stems.extend_from_slice(&self.stems[start..(*end & !BARE) as usize]);
                start = (*end & !BARE) as usize;
                *end = stems.len() as u32 | (*end & BARE);
            }
            self.stems = stems;
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.suffixes.len() + self.older_suffixes.len()
    }

    /// Adds these groups, whose stems begin with the base.
    pub(super) fn extend(&mut self, block: &Block, groups: Range<usize>) {
        let (entries, first_entry) = (self.entries(), block.group(groups.start).start);
        append_ends(&mut self.group_ends, &block.group_ends()[groups.clone()], first_entry, entries);
        self.suffixes.extend_from_slice(&block.first_suffixes()[groups.clone()]);

        let stems = block.stems_of(&groups);
        if block.prefix().len() == self.base.len() {
            let (from, to) = (stems.start as u32, self.stems.len() as u32);
            let of_block = block.stem_ends()[groups.clone()].iter();
            self.stem_ends.extend(of_block.map(|end| ((end & !BARE) - from + to) | (end & BARE)));
            self.stems.extend_from_slice(&block.bytes_of()[block.stems_at as usize..][stems]);
        } else {
            // Either is the longer one: these groups may have more in common than all of their block.
            let moved = block.prefix().get(self.base.len()..).unwrap_or_default();
            let left_out = self.base.len().saturating_sub(block.prefix().len());
            for group in groups.clone() {
                self.stems.extend_from_slice(moved);
                self.stems.extend_from_slice(&block.stem_rest(group)[left_out..]);
                self.stem_ends.push(self.stems.len() as u32 | (block.stem_ends()[group] & BARE));
            }
        }

        let values = block.values_of(&groups);
        append_ends(&mut self.value_ends, &block.first_value_ends()[groups.clone()], values.start, self.values.len());
        self.values.extend_from_slice(&block.bytes_of()[block.values_at as usize..][values]);

        self.extend_history(block, block.histories(&groups));
    }

    fn extend_history(&mut self, block: &Block, older: Range<usize>) {
        let values = block.older_values_of(&older);
        let (ends, to) = (&block.older_value_ends()[older.clone()], self.older_values.len());
        append_ends(&mut self.older_value_ends, ends, values.start, to);
        self.older_suffixes.extend_from_slice(&block.older_suffixes()[older]);
        self.older_values.extend_from_slice(&block.bytes_of()[block.older_values_at()..][values]);
    }

    /// Adds this part of a history to the last group.
    pub(super) fn extend_older(&mut self, block: &Block, older: Range<usize>) {
        *self.group_ends.last_mut().expect("older entries follow the first of their group") += older.len() as u32;
        self.extend_history(block, older);
    }

    pub(super) fn push_older(&mut self, suffix: u64, value: &[u8]) {
        self.older_suffixes.push(suffix);
        self.older_values.extend_from_slice(value);
        self.older_value_ends.push(self.older_values.len() as u32);
        *self.group_ends.last_mut().expect("older entries follow the first of their group") += 1;
    }
}

/// What a block takes, but for what its stems have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) groups: usize,
    pub(super) older: usize,
    /// Of whole stems.
    pub(super) stem_bytes: usize,
    pub(super) value_bytes: usize,
}

impl Size {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            groups: self.groups + other.groups,
            older: self.older + other.older,
            stem_bytes: self.stem_bytes + other.stem_bytes,
            value_bytes: self.value_bytes + other.value_bytes,
        }
    }

    /// Of one more entry of the last group.
    pub(super) fn of_older(value: &[u8]) -> Self {
        Self { groups: 0, older: 1, stem_bytes: 0, value_bytes: value.len() }
    }

    /// In bytes, where all stems begin with the same `prefix_len` bytes.
    pub(super) fn bytes(self, prefix_len: usize) -> usize {
        // At most so many are left free in front of the history, and behind the common prefix.
        let padding = 2 * (size_of::<u64>() - 1);
        fences_of(self.groups) * size_of::<Fence>()
            + padding
            + (self.groups + self.older) * (SUFFIX_LEN + size_of::<u32>())
            + self.groups * 2 * size_of::<u32>()
            + self.stem_bytes
            - self.groups.saturating_sub(1) * prefix_len
            + self.value_bytes
    }
}

impl Block {
    pub(super) fn size(&self, groups: Range<usize>) -> Size {
        let (stems, values) = (self.stems_of(&groups), self.values_of(&groups));
        let stem_bytes = groups.len() * self.prefix().len() + stems.len();
        let first = Size { groups: groups.len(), older: 0, stem_bytes, value_bytes: values.len() };
        first.and(self.size_of_older(&self.histories(&groups)))
    }

    pub(super) fn size_of_older(&self, older: &Range<usize>) -> Size {
        Size { groups: 0, older: older.len(), stem_bytes: 0, value_bytes: self.older_values_of(older).len() }
    }

    /// Where the stems of some groups are, from the first stem on.
    fn stems_of(&self, groups: &Range<usize>) -> Range<usize> {
        let ends = self.stem_ends();
        range_of(groups, |group| (ends[group] & !BARE) as usize)
    }

    /// The entries of some groups but the first of each, as indices of the history.
    fn histories(&self, groups: &Range<usize>) -> Range<usize> {
        let ends = self.group_ends();
        range_of(groups, |group| ends[group] as usize - (group + 1))
    }

    /// Where the values of the first entries of some groups are, from the first one on.
    fn values_of(&self, groups: &Range<usize>) -> Range<usize> {
        let ends = self.first_value_ends();
        range_of(groups, |group| ends[group] as usize)
    }

    /// Where the values of a part of the history are.
    fn older_values_of(&self, older: &Range<usize>) -> Range<usize> {
        let ends = self.older_value_ends();
        range_of(older, |older| ends[older] as usize)
    }
}

/// From where the first of `items` begins to where the last ends; `end_of` is where one ends.
fn range_of(items: &Range<usize>, end_of: impl Fn(usize) -> usize) -> Range<usize> {
    let end_before = |index: usize| index.checked_sub(1).map_or(0, &end_of);
    end_before(items.start)..end_before(items.end)
}

/// Appends ends of what is moved from one offset to another.
fn append_ends(ends: &mut Vec<u32>, moved: &[u32], from: usize, to: usize) {
    ends.extend(moved.iter().map(|end| end - from as u32 + to as u32));
}

pub(super) fn common_prefix_len(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}
