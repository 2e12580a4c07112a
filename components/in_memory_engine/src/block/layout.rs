//! Where each part of a block is in its memory.
//!
//! **Owns** the layout that the module above describes, as whoever makes a block needs it.
//!
//! **Must not** know what is in the parts, but for the fences, which follow from the others.

use std::sync::Arc;

use bytemuck::cast_slice_mut;

use super::{BARE, Block, FENCE_EVERY, Fence, HEADER_BYTES, SUFFIX_LEN, fences_of, head_of, size_class};
use crate::memory::{Charge, MemoryBudget, OverCapacity};

/// How much there is of each part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub(super) groups: usize,
    /// Entries of the history.
    pub(super) older: usize,
    /// Of whole stems.
    pub(super) stem_bytes: usize,
    /// Of first entries.
    pub(super) value_bytes: usize,
    /// Of the history.
    pub(super) older_value_bytes: usize,
}

impl Size {
    /// Of an entry of a group of its own.
    pub(super) fn of_first(stem_len: usize, value: &[u8]) -> Self {
        Self { groups: 1, stem_bytes: stem_len, value_bytes: value.len(), ..Self::default() }
    }

    /// Of one more entry of the last group.
    pub(super) fn of_older(value: &[u8]) -> Self {
        Self { older: 1, older_value_bytes: value.len(), ..Self::default() }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            groups: self.groups + other.groups,
            older: self.older + other.older,
            stem_bytes: self.stem_bytes + other.stem_bytes,
            value_bytes: self.value_bytes + other.value_bytes,
            older_value_bytes: self.older_value_bytes + other.older_value_bytes,
        }
    }

    /// What a block takes, all of whose stems begin with the same `prefix_len` bytes.
    pub(super) fn bytes(self, prefix_len: usize) -> usize {
        Layout { size: self, prefix_len }.used_bytes()
    }
}

/// Where the parts of a block of this size are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) size: Size,
    /// How much all stems have in common.
    pub(super) prefix_len: usize,
}

/// The parts, to be written.
pub(super) struct PartsMut<'a> {
    pub(super) prefix: &'a mut [u8],
    fences: &'a mut [Fence],
    pub(super) suffixes: &'a mut [u64],
    pub(super) stem_ends: &'a mut [u32],
    pub(super) group_ends: &'a mut [u32],
    pub(super) value_ends: &'a mut [u32],
    pub(super) stems: &'a mut [u8],
    pub(super) values: &'a mut [u8],
    pub(super) older_suffixes: &'a mut [u64],
    pub(super) older_value_ends: &'a mut [u32],
    pub(super) older_values: &'a mut [u8],
}

impl Layout {
    fn fences_at(&self) -> usize {
        self.prefix_len.div_ceil(size_of::<u64>())
    }

    fn suffixes_at(&self) -> usize {
        self.fences_at() + fences_of(self.size.groups) * size_of::<Fence>() / size_of::<u64>()
    }

    fn stems_at(&self) -> usize {
        let groups = self.size.groups;
        (self.suffixes_at() + groups) * size_of::<u64>() + 3 * groups * size_of::<u32>()
    }

    fn values_at(&self) -> usize {
        self.stems_at() + self.size.stem_bytes - self.size.groups * self.prefix_len
    }

    fn history_at(&self) -> usize {
        (self.values_at() + self.size.value_bytes).div_ceil(size_of::<u64>())
    }

    fn used_bytes(&self) -> usize {
        let Size { older, older_value_bytes, .. } = self.size;
        match older {
            0 => self.values_at() + self.size.value_bytes,
            _ => self.history_at() * size_of::<u64>() + older * (SUFFIX_LEN + size_of::<u32>()) + older_value_bytes,
        }
    }

    /// Reserves memory for the block: so many words.
    ///
    /// # Errors
    /// When there is not enough.
    pub(super) fn reserve(&self, budget: &Arc<MemoryBudget>) -> Result<(Charge, usize), OverCapacity> {
        let bytes = size_class(self.used_bytes() + HEADER_BYTES);
        let charge = Charge::new(budget.clone());
        charge.resize(bytes)?;
        Ok((charge, (bytes - HEADER_BYTES) / size_of::<u64>()))
    }

    pub(super) fn parts<'a>(&self, words: &'a mut [u64]) -> PartsMut<'a> {
        let Size { groups, older, value_bytes, older_value_bytes, .. } = self.size;
        let (head, history) = words.split_at_mut(self.history_at());
        let (prefix, rest) = head.split_at_mut(self.fences_at());
        let (fences, rest) = rest.split_at_mut(self.suffixes_at() - self.fences_at());
        let (suffixes, rest) = rest.split_at_mut(groups);
        let (numbers, bytes) = cast_slice_mut::<_, u8>(rest).split_at_mut(3 * groups * size_of::<u32>());
        let (stem_ends, numbers) = cast_slice_mut::<_, u32>(numbers).split_at_mut(groups);
        let (group_ends, value_ends) = numbers.split_at_mut(groups);
        let (stems, values) = bytes.split_at_mut(self.values_at() - self.stems_at());
        let (older_suffixes, rest) = history.split_at_mut(older);
        let (older_ends, older_values) = cast_slice_mut::<_, u8>(rest).split_at_mut(older * size_of::<u32>());
        PartsMut {
            prefix: &mut cast_slice_mut(prefix)[..self.prefix_len],
            fences: cast_slice_mut(fences),
            suffixes,
            stem_ends,
            group_ends,
            value_ends,
            stems,
            values: &mut values[..value_bytes],
            older_suffixes,
            older_value_ends: cast_slice_mut(older_ends),
            older_values: &mut older_values[..older_value_bytes],
        }
    }

    /// The block of these words, all parts of which have been written.
    pub(super) fn block(&self, words: Arc<[u64]>, has_nested_stems: bool, charge: Charge) -> Block {
        Block {
            words,
            entries: (self.size.groups + self.size.older) as u32,
            groups: self.size.groups as u32,
            prefix_len: self.prefix_len as u32,
            suffixes_at: self.suffixes_at() as u32,
            stems_at: self.stems_at() as u32,
            values_at: self.values_at() as u32,
            history_at: self.history_at() as u32,
            has_nested_stems,
            charge: Arc::new(charge),
        }
    }
}

impl PartsMut<'_> {
    /// Writes the fences, when the stems and suffixes are there.
    pub(super) fn write_fences(&mut self) {
        for (index, fence) in self.fences.iter_mut().enumerate() {
            let group = (index + 1) * FENCE_EVERY;
            let start = (self.stem_ends[group - 1] & !BARE) as usize;
            let end = self.stem_ends[group];
            let suffix = (end & BARE == 0).then(|| self.suffixes[group]);
            *fence = [head_of_first(&self.stems[start..(end & !BARE) as usize], suffix), start as u64];
        }
    }
}

/// The [`head_of`] a key in two parts.
fn head_of_first(stem: &[u8], suffix: Option<u64>) -> u64 {
    let mut key = [0; 2 * SUFFIX_LEN];
    let stem = &stem[..stem.len().min(SUFFIX_LEN)];
    key[..stem.len()].copy_from_slice(stem);
    if let Some(suffix) = suffix {
        key[stem.len()..][..SUFFIX_LEN].copy_from_slice(&suffix.to_be_bytes());
    }
    head_of(&key)
}

/// Puts `bytes` at an offset, and the offset behind them.
pub(super) fn append(target: &mut [u8], at: &mut usize, bytes: &[u8]) {
    target[*at..*at + bytes.len()].copy_from_slice(bytes);
    *at += bytes.len();
}
