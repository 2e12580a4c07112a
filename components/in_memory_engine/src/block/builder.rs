//! Building blocks.
//!
//! **Owns** what a block looks like when it is made, and what it is filled up to.
//!
//! **How it works.** Entries are gathered per part of the layout. When the next one does not fit any more, the parts are put
//! one behind the other into an allocation of exactly the size that they take, and the builder begins anew. Groups of
//! another block are gathered as they lie there, a part of many groups at a time: a fold, which changes a few dozen entries
//! of hundreds, would otherwise spend its time on those that it does not change.
//!
//! **Invariants.** The memory for a block is reserved before it is allocated.
//!
//! **Must not** look at values.

use std::{cell::Cell, ops::Range, sync::Arc};

use bytemuck::cast_slice_mut;

use super::{
    BARE, BLOCK_BYTES, BLOCK_BYTES_MAX, Block, Entries, FENCE_EVERY, Fence, HEADER_BYTES, KeyedBlock, SUFFIX_LEN,
    SplitKey, fences_of, head_of,
    parts::{Parts, Size, common_prefix_len},
    size_class,
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
    /// What the base of the next block may be.
    likely_base: Vec<u8>,
    /// How much all stems have in common, which is at least the base.
    prefix_len: usize,
    /// Whether some stem begins with another. There are then two such stems one behind the other.
    has_nested_stems: bool,
    /// Each with its first key.
    finished: Vec<KeyedBlock>,
}

thread_local! {
    /// What the last builder of this thread gathered in: a fold would spend a good part of its time on having memory
    /// for the parts, growing it, and giving it back.
    static SPARE_PARTS: Cell<Option<Parts>> = const { Cell::new(None) };
}

impl BlockBuilder {
    pub(crate) fn new(budget: Arc<MemoryBudget>, is_versioned: bool) -> Self {
        Self {
            budget,
            is_versioned,
            target_bytes: BLOCK_BYTES - HEADER_BYTES,
            parts: SPARE_PARTS.take().unwrap_or_default(),
            likely_base: Vec::new(),
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

    /// Expects most stems to begin with `prefix`: groups of a block with this prefix are gathered the faster for it.
    pub(crate) fn with_prefix(mut self, prefix: &[u8]) -> Self {
        self.likely_base.extend_from_slice(prefix);
        self
    }

    /// Adds an entry, whose key must be greater than all before.
    ///
    /// # Errors
    /// When there is no memory for a block, or the value is too large for one.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), OverCapacity> {
        let SplitKey { stem, suffix } = SplitKey::new(key, self.is_versioned);
        let mut relation = self.relate(stem);
        if let Some(suffix) = suffix
            && relation.is_same
            && self.fits(Size::of_older(value), self.prefix_len)
        {
            self.parts.push_older(suffix, value);
            return Ok(());
        }
        let added = Size { groups: 1, older: 0, stem_bytes: stem.len(), value_bytes: value.len() };
        if added.bytes(0) >= BLOCK_BYTES_MAX {
            return Err(OverCapacity);
        }
        // An entry of the last group does not fit as one of a new group either.
        if !self.is_empty() && !self.fits(added, relation.prefix_len) {
            self.finish_block()?;
            relation = self.relate(stem);
        }
        self.begin_groups(stem, relation);
        self.parts.stems.extend_from_slice(&stem[self.parts.base.len()..]);
        let bare = if suffix.is_some() { 0 } else { BARE };
        self.parts.stem_ends.push(self.parts.stems.len() as u32 | bare);
        self.parts.suffixes.push(suffix.unwrap_or_default());
        self.parts.group_ends.push(self.parts.entries() as u32);
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
            let whole_groups = group..block.group_ends().partition_point(|end| *end as usize <= entries.end);
            let taken = if next == block.group(group).start { self.push_groups(block, whole_groups) } else { 0 };
            if taken > 0 {
                group += taken;
                next = block.group(group - 1).end;
            } else {
                let end = block.group(group).end.min(entries.end);
                self.push_versions(block, group, next..end, key)?;
                next = end;
                group += 1;
            }
        }
        Ok(())
    }

    /// Adds entries of one group.
    fn push_versions(
        &mut self,
        block: &Block,
        group: usize,
        mut entries: Entries,
        key: &mut Vec<u8>,
    ) -> Result<(), OverCapacity> {
        while let Some(first) = entries.next() {
            block.write_key(group, first, key);
            self.push(key, block.value(block.version(group, first)))?;
            // The rest as far as it fits: no stem to look at.
            let older = entries.start - (group + 1)..entries.end - (group + 1);
            let used = self.parts.size();
            let fits = |end: usize| {
                used.and(block.size_of_older(&(older.start..end))).bytes(self.prefix_len) <= self.target_bytes
            };
            let end = last_that(older.clone(), fits);
            self.parts.extend_older(block, older.start..end);
            entries.start += end - older.start;
        }
        Ok(())
    }

    /// Adds as many of these groups as fit; how many. None if they are not simply behind what is here.
    fn push_groups(&mut self, block: &Block, groups: Range<usize>) -> usize {
        if groups.is_empty() || block.has_nested_stems() {
            return 0;
        }
        let stem_of = |group: usize| [block.prefix(), block.stem_rest(group)].concat();
        let (first, last) = (stem_of(groups.start), stem_of(groups.end - 1));
        let relation = self.relate(&first);
        if relation.is_nested {
            return 0;
        }
        // What is in between begins with what both begin with.
        let prefix_len_to = |last: &[u8]| relation.prefix_len.min(common_prefix_len(&first, last));
        let prefix_len = prefix_len_to(&last);
        let used = self.parts.size();
        let fits = |end: usize| used.and(block.size(groups.start..end)).bytes(prefix_len) <= self.target_bytes;
        let end = last_that(groups.clone(), fits);
        if end > groups.start {
            self.begin_groups(&first, Relation { prefix_len: prefix_len_to(&stem_of(end - 1)), ..relation });
            self.parts.extend(block, groups.start..end);
        }
        end - groups.start
    }

    /// What has been made so far, without what is still being filled.
    pub(crate) fn finished(&self) -> &[KeyedBlock] {
        &self.finished
    }

    /// # Errors
    /// When there is no memory for the last block.
    pub(crate) fn finish(mut self) -> Result<Vec<KeyedBlock>, OverCapacity> {
        if !self.is_empty() {
            self.finish_block()?;
        }
        Ok(std::mem::take(&mut self.finished))
    }

    fn finish_block(&mut self) -> Result<(), OverCapacity> {
        let mut words = std::mem::take(&mut self.parts.words);
        let parts = &self.parts;
        let (groups, older, prefix_len) = (parts.suffixes.len(), parts.older_suffixes.len(), self.prefix_len);
        // What the stems have in common besides the base.
        let extra = prefix_len - parts.base.len();
        let fences_at = prefix_len.div_ceil(size_of::<u64>());
        let suffixes_at = fences_at + fences_of(groups) * size_of::<Fence>() / size_of::<u64>();
        let stems_at = (suffixes_at + groups) * size_of::<u64>() + 3 * groups * size_of::<u32>();
        let values_at = stems_at + parts.stems.len() - groups * extra;
        let history_at = (values_at + parts.values.len()).div_ceil(size_of::<u64>());
        let used_bytes = match older {
            0 => values_at + parts.values.len(),
            _ => history_at * size_of::<u64>() + older * (SUFFIX_LEN + size_of::<u32>()) + parts.older_values.len(),
        };
        let bytes = size_class(used_bytes + HEADER_BYTES);
        let charge = Charge::new(self.budget.clone());
        charge.resize(bytes)?;
        words.clear();
        words.resize((bytes - HEADER_BYTES) / size_of::<u64>(), 0);

        let (head, history) = words.split_at_mut(history_at);
        let (prefix, rest) = head.split_at_mut(fences_at);
        let (fences, rest) = rest.split_at_mut(suffixes_at - fences_at);
        let (suffixes, rest) = rest.split_at_mut(groups);
        let (numbers, bytes) = cast_slice_mut::<_, u8>(rest).split_at_mut(3 * groups * size_of::<u32>());
        let (stem_ends, numbers) = cast_slice_mut::<_, u32>(numbers).split_at_mut(groups);
        let (group_ends, value_ends) = numbers.split_at_mut(groups);
        let (stems, values) = bytes.split_at_mut(values_at - stems_at);
        let (older_suffixes, rest) = history.split_at_mut(older);
        let (older_ends, older_values) = cast_slice_mut::<_, u8>(rest).split_at_mut(older * size_of::<u32>());

        suffixes.copy_from_slice(&parts.suffixes);
        group_ends.copy_from_slice(&parts.group_ends);
        value_ends.copy_from_slice(&parts.value_ends);
        let (base, prefix_rest) = cast_slice_mut::<_, u8>(prefix)[..prefix_len].split_at_mut(parts.base.len());
        base.copy_from_slice(&parts.base);
        prefix_rest.copy_from_slice(&parts.stem(0).0[..extra]);
        if extra == 0 {
            stems.copy_from_slice(&parts.stems);
            stem_ends.copy_from_slice(&parts.stem_ends);
        } else {
            let mut end = 0;
            for (group, stem_end) in stem_ends.iter_mut().enumerate() {
                let (stem, is_bare) = parts.stem(group);
                append(stems, &mut end, &stem[extra..]);
                *stem_end = end as u32 | if is_bare { BARE } else { 0 };
            }
        }
        for (index, fence) in cast_slice_mut::<_, Fence>(fences).iter_mut().enumerate() {
            let group = (index + 1) * FENCE_EVERY;
            let start = (stem_ends[group - 1] & !BARE) as usize;
            let (stem, is_bare) = parts.stem(group);
            *fence = [head_of_first(&stem[extra..], (!is_bare).then(|| parts.suffixes[group])), start as u64];
        }
        values[..parts.values.len()].copy_from_slice(&parts.values);
        older_suffixes.copy_from_slice(&parts.older_suffixes);
        cast_slice_mut(older_ends).copy_from_slice(&parts.older_value_ends);
        older_values[..parts.older_values.len()].copy_from_slice(&parts.older_values);

        let block = Block {
            words: words.as_slice().into(),
            entries: (groups + older) as u32,
            groups: groups as u32,
            prefix_len: prefix_len as u32,
            suffixes_at: suffixes_at as u32,
            stems_at: stems_at as u32,
            values_at: values_at as u32,
            history_at: history_at as u32,
            has_nested_stems: self.has_nested_stems,
            charge: Arc::new(charge),
        };
        let mut first_key = Vec::new();
        block.write_key(0, 0, &mut first_key);
        self.likely_base.clear();
        self.likely_base.extend_from_slice(block.prefix());
        self.finished.push((first_key.into(), block));
        self.parts.clear();
        self.parts.words = words;
        Ok(())
    }

    /// What a block of what is here takes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.parts.size().bytes(self.prefix_len)
    }

    fn is_empty(&self) -> bool {
        self.parts.suffixes.is_empty()
    }

    fn fits(&self, added: Size, prefix_len: usize) -> bool {
        self.parts.size().and(added).bytes(prefix_len) <= self.target_bytes
    }

    fn relate(&self, stem: &[u8]) -> Relation {
        let Some((last, is_bare)) = self.parts.last_stem() else {
            return Relation { prefix_len: stem.len(), is_nested: false, is_same: false };
        };
        let base = self.parts.base.as_slice();
        let Some(rest) = stem.strip_prefix(base) else {
            let prefix_len = common_prefix_len(base, stem);
            return Relation { prefix_len, is_nested: prefix_len == stem.len(), is_same: false };
        };
        let (of_first, _) = self.parts.stem(0);
        let prefix_len = base.len() + common_prefix_len(&of_first[..self.prefix_len - base.len()], rest);
        let shorter = last.len().min(rest.len());
        let is_nested = last[..shorter] == rest[..shorter];
        Relation { prefix_len, is_nested, is_same: is_nested && !is_bare && last.len() == rest.len() }
    }

    /// Prepares for groups, the first of which has the stem `first`.
    fn begin_groups(&mut self, first: &[u8], relation: Relation) {
        let prefix_len = relation.prefix_len;
        if self.is_empty() {
            self.has_nested_stems = false;
            let base_len = common_prefix_len(&self.likely_base, &first[..prefix_len]);
            self.parts.base.extend_from_slice(&first[..base_len]);
        } else {
            self.has_nested_stems |= relation.is_nested;
            self.parts.shorten_base(prefix_len);
        }
        self.prefix_len = prefix_len;
    }
}

/// What a stem that is to be gathered has to do with those that are.
#[derive(Clone, Copy, Debug)]
struct Relation {
    /// How much all have in common with it.
    prefix_len: usize,
    /// Whether the last one begins with it, or it with the last one.
    is_nested: bool,
    /// Whether an entry with this stem and a suffix belongs to the last group.
    is_same: bool,
}

/// The greatest number from the start of `range` to its end that `holds`, where it holds for all below; the start, if for none.
fn last_that(range: Range<usize>, holds: impl Fn(usize) -> bool) -> usize {
    // Usually all of it.
    if holds(range.end) {
        return range.end;
    }
    let Range { start: mut low, end: mut high } = range;
    while low + 1 < high {
        let middle = low.midpoint(high);
        if holds(middle) { low = middle } else { high = middle }
    }
    low
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

impl Drop for BlockBuilder {
    fn drop(&mut self) {
        let mut parts = std::mem::take(&mut self.parts);
        // One for a huge value is not kept.
        if parts.values.capacity().max(parts.older_values.capacity()) <= SPARE_BYTES_MAX {
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
