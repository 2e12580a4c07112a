//! Building blocks.
//!
//! **Owns** what a block looks like when it is made, and what it is filled up to.
//!
//! **How it works.** Entries are gathered per part of the layout. When the next one does not fit any more, the parts are put
//! one behind the other into an allocation of exactly the size that they take, and the builder begins anew.
//!
//! **Invariants.** The memory for a block is reserved before it is allocated.
//!
//! **Must not** look at values.

use std::{cell::Cell, sync::Arc};

use bytemuck::cast_slice_mut;

use super::{
    BARE, BLOCK_BYTES, BLOCK_BYTES_MAX, Block, Entries, FENCE_EVERY, Fence, HEADER_BYTES, KeyedBlock, SUFFIX_LEN,
    SplitKey, fences_of, head_of, numbers_at, size_class,
};
use crate::memory::{Charge, MemoryBudget, OverCapacity};

/// What a thread keeps for the values of its next builder, at most: what those of most blocks take.
const SPARE_BYTES_MAX: usize = 2 * BLOCK_BYTES;

/// Makes blocks of entries that come in the order of their keys.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    budget: Arc<MemoryBudget>,
    is_versioned: bool,
    /// What a block is filled up to.
    pub(super) target_bytes: usize,
    parts: Parts,
    /// Of the values of each group's first entry.
    first_values_bytes: usize,
    /// What all stems have in common.
    prefix_len: usize,
    /// Whether some stem begins with another. There are then two such stems one behind the other.
    has_nested_stems: bool,
    /// Each with its first key.
    finished: Vec<KeyedBlock>,
}

/// What is gathered for the next block.
#[derive(Debug, Default)]
struct Parts {
    suffixes: Vec<u64>,
    value_ends: Vec<u32>,
    stem_ends: Vec<u32>,
    group_ends: Vec<u32>,
    /// Whole stems.
    stems: Vec<u8>,
    values: Vec<u8>,
}

thread_local! {
    /// What the last builder of this thread gathered in: a fold would spend a good part of its time on having memory
    /// for the parts, growing it, and giving it back.
    static SPARE_PARTS: Cell<Option<Parts>> = const { Cell::new(None) };
}

impl Parts {
    fn clear(&mut self) {
        self.suffixes.clear();
        self.value_ends.clear();
        self.stem_ends.clear();
        self.group_ends.clear();
        self.stems.clear();
        self.values.clear();
    }
}

impl BlockBuilder {
    pub(crate) fn new(budget: Arc<MemoryBudget>, is_versioned: bool) -> Self {
        Self {
            budget,
            is_versioned,
            target_bytes: BLOCK_BYTES - HEADER_BYTES,
            parts: SPARE_PARTS.take().unwrap_or_default(),
            first_values_bytes: 0,
            prefix_len: 0,
            has_nested_stems: false,
            finished: Vec::new(),
        }
    }

    /// Divides about `bytes` evenly into as few blocks as they take.
    pub(crate) fn with_total(mut self, bytes: usize) -> Self {
        let blocks = bytes.div_ceil(BLOCK_BYTES).max(1);
        // A little more, so that a few bytes too many do not make another block.
        self.target_bytes = (bytes / blocks + bytes / blocks / 16).min(BLOCK_BYTES - HEADER_BYTES);
        self
    }

    /// Adds an entry, whose key must be greater than all before.
    ///
    /// # Errors
    /// When there is no memory for a block, or the value is too large for one.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), OverCapacity> {
        let SplitKey { stem, suffix } = SplitKey::new(key, self.is_versioned);
        let is_same_stem = suffix.is_some() && self.last_stem().is_some_and(|(last, bare)| !bare && last == stem);
        let added_bytes = SUFFIX_LEN + size_of::<u32>() + value.len() + if is_same_stem { 0 } else { 8 + stem.len() };
        if added_bytes >= BLOCK_BYTES_MAX {
            return Err(OverCapacity);
        }
        let used_bytes = if is_same_stem { self.used_bytes() } else { self.bytes_with(stem) };
        if !self.parts.suffixes.is_empty() && used_bytes + added_bytes > self.target_bytes {
            self.finish_block()?;
            return self.push(key, value);
        }
        if is_same_stem {
            *self.parts.group_ends.last_mut().expect("a stem belongs to a group") += 1;
        } else {
            (self.prefix_len, self.has_nested_stems) = match self.last_stem() {
                Some((last, _)) => (
                    common_prefix_len(&last[..self.prefix_len], stem),
                    self.has_nested_stems || stem.starts_with(last) || last.starts_with(stem),
                ),
                None => (stem.len(), false),
            };
            self.parts.stems.extend_from_slice(stem);
            let bare = if suffix.is_some() { 0 } else { BARE };
            self.parts.stem_ends.push(self.parts.stems.len() as u32 | bare);
            self.parts.group_ends.push(self.parts.suffixes.len() as u32 + 1);
            self.first_values_bytes += value.len();
        }
        self.parts.suffixes.push(suffix.unwrap_or_default());
        self.parts.values.extend_from_slice(value);
        self.parts.value_ends.push(self.parts.values.len() as u32);
        Ok(())
    }

    /// Adds some entries of another block, whose keys must be greater than all before.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(crate) fn push_run(&mut self, block: &Block, entries: Entries, key: &mut Vec<u8>) -> Result<(), OverCapacity> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut group = block.group_of(entries.start);
        let mut next = entries.start;
        while next < entries.end {
            let end = block.group(group).end.min(entries.end);
            block.write_key(group, next, key);
            self.push(key, block.value(block.version(group, next)))?;
            // The rest of the group as far as it fits: no stem to look at.
            for entry in next + 1..end {
                let value = block.value(block.version(group, entry));
                let added_bytes = SUFFIX_LEN + size_of::<u32>() + value.len();
                if self.used_bytes() + added_bytes > self.target_bytes {
                    block.write_key(group, entry, key);
                    self.push(key, value)?;
                    continue;
                }
                self.parts.suffixes.push(block.suffix(block.version(group, entry)));
                self.parts.values.extend_from_slice(value);
                self.parts.value_ends.push(self.parts.values.len() as u32);
                *self.parts.group_ends.last_mut().expect("the first entry of the group was pushed") += 1;
            }
            next = end;
            group += 1;
        }
        Ok(())
    }

    /// What has been made so far, without what is still being filled.
    pub(crate) fn finished(&self) -> &[KeyedBlock] {
        &self.finished
    }

    /// # Errors
    /// When there is no memory for the last block.
    pub(crate) fn finish(mut self) -> Result<Vec<KeyedBlock>, OverCapacity> {
        if !self.parts.suffixes.is_empty() {
            self.finish_block()?;
        }
        Ok(std::mem::take(&mut self.finished))
    }

    fn finish_block(&mut self) -> Result<(), OverCapacity> {
        let (entries, groups, prefix_len) = (self.parts.suffixes.len(), self.parts.stem_ends.len(), self.prefix_len);
        let numbers_at = numbers_at(groups);
        let stems_at = numbers_at * size_of::<u64>() + 3 * groups * size_of::<u32>() + prefix_len;
        let values_at = stems_at + self.parts.stems.len() - groups * prefix_len;
        let history_at = (values_at + self.first_values_bytes).div_ceil(size_of::<u64>());
        let older = entries - groups;
        let older_values_bytes = self.parts.values.len() - self.first_values_bytes;
        let used_bytes = match older {
            0 => values_at + self.first_values_bytes,
            _ => history_at * size_of::<u64>() + older * (SUFFIX_LEN + size_of::<u32>()) + older_values_bytes,
        };
        let bytes = size_class(used_bytes + HEADER_BYTES);
        let charge = Charge::new(self.budget.clone());
        charge.resize(bytes)?;
        let mut content: Arc<[u64]> = std::iter::repeat_n(0, (bytes - HEADER_BYTES) / size_of::<u64>()).collect();
        let words = Arc::get_mut(&mut content).expect("nobody else has it yet");

        let (head, history) = words.split_at_mut(history_at);
        let (suffixes, rest) = head.split_at_mut(groups);
        let (fences, rest) = rest.split_at_mut(numbers_at - groups);
        for (index, fence) in cast_slice_mut::<_, Fence>(fences).iter_mut().enumerate() {
            *fence = self.fence((index + 1) * FENCE_EVERY);
        }
        let (numbers, bytes) = cast_slice_mut::<_, u8>(rest).split_at_mut(3 * groups * size_of::<u32>());
        let (stem_ends, numbers) = cast_slice_mut::<_, u32>(numbers).split_at_mut(groups);
        let (group_ends, value_ends) = numbers.split_at_mut(groups);
        let (prefix, bytes) = bytes.split_at_mut(prefix_len);
        let (stems, values) = bytes.split_at_mut(values_at - stems_at);
        let (older_suffixes, rest) = history.split_at_mut(older);
        let (older_ends, older_values) = cast_slice_mut::<_, u8>(rest).split_at_mut(older * size_of::<u32>());
        let older_ends: &mut [u32] = cast_slice_mut(older_ends);

        prefix.copy_from_slice(&self.parts.stems[..prefix_len]);
        group_ends.copy_from_slice(&self.parts.group_ends);
        let (mut stem_start, mut start) = (0, 0);
        let (mut stem_at, mut value_at, mut older_at, mut older_value_at) = (0, 0, 0, 0);
        for group in 0..groups {
            let (stem_end, bare) = (self.parts.stem_ends[group] & !BARE, self.parts.stem_ends[group] & BARE);
            append(stems, &mut stem_at, &self.parts.stems[stem_start + prefix_len..stem_end as usize]);
            stem_ends[group] = stem_at as u32 | bare;
            stem_start = stem_end as usize;

            suffixes[group] = self.parts.suffixes[start];
            append(values, &mut value_at, &self.parts.values[self.value_start(start)..self.value_start(start + 1)]);
            value_ends[group] = value_at as u32;

            let (second, end) = (start + 1, self.parts.group_ends[group] as usize);
            let base = self.value_start(second);
            for (older, entry) in (older_at..).zip(second..end) {
                older_suffixes[older] = self.parts.suffixes[entry];
                older_ends[older] = (older_value_at + self.value_start(entry + 1) - base) as u32;
            }
            append(older_values, &mut older_value_at, &self.parts.values[base..self.value_start(end)]);
            older_at += end - second;
            start = end;
        }
        let block = Block {
            words: content,
            entries: entries as u32,
            groups: groups as u32,
            prefix_len: prefix_len as u32,
            stems_at: stems_at as u32,
            values_at: values_at as u32,
            history_at: history_at as u32,
            has_nested_stems: self.has_nested_stems,
            charge: Arc::new(charge),
        };
        let mut first_key = Vec::new();
        block.write_key(0, 0, &mut first_key);
        self.finished.push((first_key.into(), block));
        self.parts.clear();
        self.first_values_bytes = 0;
        Ok(())
    }

    /// Where the value of `entry` begins in the values; behind the last entry, where they end.
    fn value_start(&self, entry: usize) -> usize {
        if entry == 0 { 0 } else { self.parts.value_ends[entry - 1] as usize }
    }

    /// The fence of a group that is not the first one.
    fn fence(&self, group: usize) -> Fence {
        let (start, end) = (self.parts.stem_ends[group - 1] & !BARE, self.parts.stem_ends[group]);
        let (rest, entry) =
            (start as usize + self.prefix_len..(end & !BARE) as usize, self.parts.group_ends[group - 1]);
        let mut first_key = self.parts.stems[rest].to_vec();
        if end & BARE == 0 {
            first_key.extend_from_slice(&self.parts.suffixes[entry as usize].to_be_bytes());
        }
        let stem_at = start - (group * self.prefix_len) as u32;
        [head_of(&first_key), stem_at.into()]
    }

    /// The last stem, and whether it is a whole key.
    fn last_stem(&self) -> Option<(&[u8], bool)> {
        let (last, before) = self.parts.stem_ends.split_last()?;
        let start = before.last().map_or(0, |end| (end & !BARE) as usize);
        Some((&self.parts.stems[start..(last & !BARE) as usize], last & BARE != 0))
    }

    /// What a block of what is here takes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.bytes_with_prefix(self.prefix_len, self.parts.stem_ends.len())
    }

    /// The same if a group with this stem is added, without that group itself.
    fn bytes_with(&self, stem: &[u8]) -> usize {
        let prefix_len = self.last_stem().map_or(0, |(last, _)| common_prefix_len(&last[..self.prefix_len], stem));
        self.bytes_with_prefix(prefix_len, self.parts.stem_ends.len() + 1)
    }

    /// `groups_then` is how many groups there will be, which is what fences are needed for.
    fn bytes_with_prefix(&self, prefix_len: usize, groups_then: usize) -> usize {
        let groups = self.parts.stem_ends.len();
        // At most so many are left free in front of the history.
        let padding = size_of::<u64>() - 1;
        fences_of(groups_then) * size_of::<Fence>()
            + padding
            + self.parts.suffixes.len() * (SUFFIX_LEN + size_of::<u32>())
            + groups * 2 * size_of::<u32>()
            + self.parts.stems.len()
            - groups.saturating_sub(1) * prefix_len
            + self.parts.values.len()
    }
}

impl Drop for BlockBuilder {
    fn drop(&mut self) {
        let mut parts = std::mem::take(&mut self.parts);
        // One for a huge value is not kept.
        if parts.values.capacity() <= SPARE_BYTES_MAX {
            parts.clear();
            SPARE_PARTS.set(Some(parts));
        }
    }
}

/// Puts `bytes` at an offset, and the offset behind them.
fn append(target: &mut [u8], at: &mut usize, bytes: &[u8]) {
    target[*at..*at + bytes.len()].copy_from_slice(bytes);
    *at += bytes.len();
}

fn common_prefix_len(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}
