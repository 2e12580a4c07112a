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

use std::sync::Arc;

use super::{
    BARE, BLOCK_BYTES, BLOCK_BYTES_MAX, HEADER_BYTES, KeyedBlock, SplitKey,
    layout::{Layout, Size, append},
    parts::{Parts, common_prefix_len},
};
use crate::memory::{MemoryBudget, OverCapacity};

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

impl BlockBuilder {
    pub(crate) fn new(budget: Arc<MemoryBudget>, is_versioned: bool) -> Self {
        Self {
            budget,
            is_versioned,
            target_bytes: BLOCK_BYTES - HEADER_BYTES,
            parts: Parts::default(),
            likely_base: Vec::new(),
            prefix_len: 0,
            has_nested_stems: false,
            finished: Vec::new(),
        }
    }

    /// Adds an entry, whose key must be greater than all before.
    ///
    /// # Errors
    /// When there is no memory for a block, or the value is too large for one.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), OverCapacity> {
        let SplitKey { stem, suffix } = SplitKey::new(key, self.is_versioned);
        if let Some(suffix) = suffix
            && self.is_of_last_group(stem)
            && self.fits(Size::of_older(value), self.prefix_len)
        {
            self.parts.push_older(suffix, value);
            return Ok(());
        }
        let mut relation = self.relate(stem);
        let added = Size::of_first(stem.len(), value);
        if added.bytes(0) >= BLOCK_BYTES_MAX {
            return Err(OverCapacity);
        }
        // An entry of the last group does not fit as one of a new group either.
        if !self.is_empty() && !self.fits(added, relation.prefix_len) {
            self.finish_block()?;
            relation = self.relate(stem);
        }
        self.begin_group(stem, relation);
        self.parts.stems.extend_from_slice(&stem[self.parts.base.len()..]);
        let bare = if suffix.is_some() { 0 } else { BARE };
        self.parts.stem_ends.push(self.parts.stems.len() as u32 | bare);
        self.parts.suffixes.push(suffix.unwrap_or_default());
        self.parts.group_ends.push(self.parts.entries() as u32);
        self.parts.values.extend_from_slice(value);
        self.parts.value_ends.push(self.parts.values.len() as u32);
        Ok(())
    }

    /// # Errors
    /// When there is no memory for the last block.
    pub(crate) fn finish(mut self) -> Result<Vec<KeyedBlock>, OverCapacity> {
        if !self.is_empty() {
            self.finish_block()?;
        }
        Ok(self.finished)
    }

    fn finish_block(&mut self) -> Result<(), OverCapacity> {
        let parts = &self.parts;
        let layout = Layout { size: parts.size(), prefix_len: self.prefix_len };
        let (charge, len) = layout.reserve(&self.budget)?;
        let mut words: Arc<[u64]> = std::iter::repeat_n(0, len).collect();
        let mut of_block = layout.parts(Arc::get_mut(&mut words).expect("nobody else has it yet"));

        // What the stems have in common besides the base.
        let extra = self.prefix_len - parts.base.len();
        let (base, prefix_rest) = of_block.prefix.split_at_mut(parts.base.len());
        base.copy_from_slice(&parts.base);
        prefix_rest.copy_from_slice(&parts.stem(0).0[..extra]);
        if extra == 0 {
            of_block.stems.copy_from_slice(&parts.stems);
            of_block.stem_ends.copy_from_slice(&parts.stem_ends);
        } else {
            let mut end = 0;
            for (group, stem_end) in of_block.stem_ends.iter_mut().enumerate() {
                let (stem, is_bare) = parts.stem(group);
                append(of_block.stems, &mut end, &stem[extra..]);
                *stem_end = end as u32 | if is_bare { BARE } else { 0 };
            }
        }
        of_block.suffixes.copy_from_slice(&parts.suffixes);
        of_block.group_ends.copy_from_slice(&parts.group_ends);
        of_block.value_ends.copy_from_slice(&parts.value_ends);
        of_block.values.copy_from_slice(&parts.values);
        of_block.older_suffixes.copy_from_slice(&parts.older_suffixes);
        of_block.older_value_ends.copy_from_slice(&parts.older_value_ends);
        of_block.older_values.copy_from_slice(&parts.older_values);
        of_block.write_fences();

        let block = layout.block(words, self.has_nested_stems, charge);
        let mut first_key = Vec::new();
        block.write_key(0, 0, &mut first_key);
        self.likely_base.clear();
        self.likely_base.extend_from_slice(block.prefix());
        self.finished.push((first_key.into(), block));
        self.parts.clear();
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.parts.suffixes.is_empty()
    }

    fn fits(&self, added: Size, prefix_len: usize) -> bool {
        self.parts.size().and(added).bytes(prefix_len) <= self.target_bytes
    }

    /// Whether a key of this stem and a suffix belongs to the last group.
    fn is_of_last_group(&self, stem: &[u8]) -> bool {
        let base = self.parts.base.as_slice();
        self.parts.last_stem().is_some_and(|(last, is_bare)| {
            // Most of two neighbouring stems differ at the end.
            !is_bare && stem.len() == base.len() + last.len() && stem.ends_with(last) && stem.starts_with(base)
        })
    }

    fn relate(&self, stem: &[u8]) -> Relation {
        let Some((last, _)) = self.parts.last_stem() else {
            return Relation { prefix_len: stem.len(), is_nested: false };
        };
        let base = self.parts.base.as_slice();
        let Some(rest) = stem.strip_prefix(base) else {
            let prefix_len = common_prefix_len(base, stem);
            return Relation { prefix_len, is_nested: prefix_len == stem.len() };
        };
        let (of_first, _) = self.parts.stem(0);
        let prefix_len = base.len() + common_prefix_len(&of_first[..self.prefix_len - base.len()], rest);
        let shorter = last.len().min(rest.len());
        Relation { prefix_len, is_nested: last[..shorter] == rest[..shorter] }
    }

    /// Prepares for a group with the stem `first`.
    fn begin_group(&mut self, first: &[u8], relation: Relation) {
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
}
