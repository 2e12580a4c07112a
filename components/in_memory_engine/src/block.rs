//! An immutable run of entries in one piece of memory.
//!
//! **Owns** the layout of cached data at rest, and its exact size.
//!
//! **How it works.** Consecutive entries whose keys differ in the last 8 bytes only, the versions of one user key, are a
//! *group*. A group has one copy of what they share, the *stem*, without what all stems of the block begin with; the last
//! 8 bytes of each key, its *suffix*, are a number in an array. Everything is in one allocation:
//!
//! ```text
//! suffix: u64 per entry │ end of value: u32 per entry │ end of stem: u32 per group │ end of entries: u32 per group
//! │ common prefix │ stems │ values
//! ```
//!
//! Stepping to the next entry is adding one to an index, stepping over a user key is adding one to another, however many
//! versions it has. In a family without timestamps, and for keys that are too short to have one, a group is one entry and
//! its stem the whole key.
//!
//! **Invariants.** Keys ascend strictly, as bytes: groups follow from neighbouring keys, not from what a key means. The
//! allocation has one of the sizes that allocators hand out ([`size_class`]), so that what is accounted is what is taken.
//!
//! **Must not** be changed, nor know of regions, MVCC or snapshots.

use std::{cmp::Ordering, ops::Range, sync::Arc};

use bytemuck::cast_slice;

use crate::{
    memory::{Charge, MemoryBudget, OverCapacity},
    prefetch::prefetch,
};

/// What a block is filled up to. Large enough that what is kept per block does not count, and that a scan is a scan
/// through arrays; small enough that replacing a block for the sake of a few dozen writes costs microseconds.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;

/// What the reference counts in front of the content take.
const HEADER_BYTES: usize = 2 * size_of::<usize>();

/// Bytes of a suffix: those of a timestamp.
pub(crate) const SUFFIX_LEN: usize = size_of::<u64>();

/// In the end of a group's stem: the group is one entry without a suffix.
const BARE: u32 = 1 << 31;

/// No block is larger: offsets are 31 bits. A value that makes one larger cannot be cached.
const BLOCK_BYTES_MAX: usize = 1 << 31;

/// The smallest size at least `bytes` that an allocator hands out without waste: four sizes per power of two, as in
/// jemalloc.
pub(crate) fn size_class(bytes: usize) -> usize {
    if bytes <= 64 {
        return bytes.next_multiple_of(16);
    }
    let step = 1 << ((bytes - 1).ilog2() - 2);
    bytes.next_multiple_of(step)
}

/// A key in two parts. The suffix is the number whose big-endian bytes end the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitKey<'a> {
    pub(crate) stem: &'a [u8],
    pub(crate) suffix: Option<u64>,
}

impl<'a> SplitKey<'a> {
    pub(crate) fn new(key: &'a [u8], is_versioned: bool) -> Self {
        match key.split_last_chunk::<SUFFIX_LEN>() {
            Some((stem, suffix)) if is_versioned => Self { stem, suffix: Some(u64::from_be_bytes(*suffix)) },
            _ => Self { stem: key, suffix: None },
        }
    }
}

/// Which of a block's entries are meant.
pub(crate) type Entries = Range<usize>;

/// A block and the first of its keys.
pub(crate) type KeyedBlock = (Box<[u8]>, Block);

/// See the module. A handle: clones share the content.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    words: Arc<[u64]>,
    entries: u32,
    groups: u32,
    prefix_len: u32,
    /// Offset of the stems, in bytes; the common prefix is before.
    stems_at: u32,
    /// Offset of the values, in bytes.
    values_at: u32,
    charge: Arc<Charge>,
}

impl Block {
    pub(crate) fn empty(budget: Arc<MemoryBudget>) -> Self {
        let charge = Arc::new(Charge::new(budget));
        Self { words: Arc::default(), entries: 0, groups: 0, prefix_len: 0, stems_at: 0, values_at: 0, charge }
    }

    pub(crate) fn entries(&self) -> usize {
        self.entries as usize
    }

    /// What the block is accounted with.
    pub(crate) fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// The group that `entry` is in.
    pub(crate) fn group_of(&self, entry: usize) -> usize {
        self.group_ends().partition_point(|end| *end as usize <= entry)
    }

    /// The entries of `group`.
    pub(crate) fn group(&self, group: usize) -> Entries {
        let ends = self.group_ends();
        let start = if group == 0 { 0 } else { ends[group - 1] as usize };
        start..ends[group] as usize
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups as usize
    }

    /// What all keys begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.bytes_of()[(self.stems_at - self.prefix_len) as usize..self.stems_at as usize]
    }

    pub(crate) fn suffix(&self, entry: usize) -> u64 {
        self.suffixes()[entry]
    }

    pub(crate) fn value(&self, entry: usize) -> &[u8] {
        let ends: &[u32] = self.value_ends();
        let start = if entry == 0 { 0 } else { ends[entry - 1] as usize };
        let values = &self.bytes_of()[self.values_at as usize..];
        &values[start..ends[entry] as usize]
    }

    /// Whether the keys of `group` have suffixes.
    pub(crate) fn has_suffixes(&self, group: usize) -> bool {
        self.stem_ends()[group] & BARE == 0
    }

    /// Whether the keys of the group behind `group` begin with its stem as well. Not so with versions of user keys.
    pub(crate) fn is_stem_prefix_of_next(&self, group: usize) -> bool {
        let (stem, next) = (self.stem_rest(group), self.stem_rest(group + 1));
        next.len() > stem.len() && next.starts_with(stem)
    }

    /// Makes `key` the key of `entry`, which is in `group`.
    pub(crate) fn write_key(&self, group: usize, entry: usize, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(self.prefix());
        key.extend_from_slice(self.stem_rest(group));
        if self.has_suffixes(group) {
            key.extend_from_slice(&self.suffix(entry).to_be_bytes());
        }
    }

    /// The first entry with a key `>= key`.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> usize {
        let prefix = self.prefix();
        let Some(rest) = key.strip_prefix(prefix) else {
            return if key < prefix { 0 } else { self.entries() };
        };
        let group = self.partition_groups(rest);
        // Of the group before, whose first key is below: its other keys may not be.
        let Some(group) = group.checked_sub(1) else { return 0 };
        self.lower_bound_in_group(group, rest)
    }

    /// The entry with this key.
    pub(crate) fn find(&self, key: &[u8]) -> Option<usize> {
        let rest = key.strip_prefix(self.prefix())?;
        let group = self.partition_groups(rest).checked_sub(1)?;
        let suffix = rest.strip_prefix(self.stem_rest(group))?;
        if !self.has_suffixes(group) {
            return suffix.is_empty().then(|| self.group(group).start);
        }
        let suffix = u64::from_be_bytes(suffix.try_into().ok()?);
        let entries = self.group(group);
        let at = self.suffixes()[entries.clone()].binary_search(&suffix).ok()?;
        Some(entries.start + at)
    }

    /// What a reader of the first entries will look at.
    pub(crate) fn prefetch_start(&self) {
        let numbers = self.numbers();
        self.words.first().map(prefetch);
        for at in [0, self.entries(), self.entries() + self.groups()] {
            numbers.get(at).map(prefetch);
        }
        let start = (self.stems_at - self.prefix_len) as usize;
        self.bytes_of().get(start).map(prefetch);
    }

    /// What a reader of the newest version in `group` will look at.
    pub(crate) fn prefetch_value(&self, group: usize) {
        if group < self.groups() {
            let entry = if group == 0 { 0 } else { self.group_ends()[group - 1] as usize };
            self.value(entry).first().map(prefetch);
        }
    }

    /// Like [`lower_bound`](Self::lower_bound), for the entries of one group, whose stem `key` begins with, of which
    /// `suffix` is left.
    pub(crate) fn lower_bound_of_suffix(&self, group: usize, suffix: &[u8]) -> usize {
        let entries = self.group(group);
        let (suffix, is_longer) = match suffix.first_chunk::<SUFFIX_LEN>() {
            Some(whole) => (u64::from_be_bytes(*whole), suffix.len() > SUFFIX_LEN),
            None => {
                // A shorter one is below all that begin with it.
                let mut whole = [0; SUFFIX_LEN];
                whole[..suffix.len()].copy_from_slice(suffix);
                (u64::from_be_bytes(whole), false)
            }
        };
        let below = |other: &u64| *other < suffix || (is_longer && *other == suffix);
        entries.start + self.suffixes()[entries].partition_point(below)
    }

    /// Whether the key of `entry`, or of no entry if that is behind the last one, is `key`.
    pub(crate) fn is_key_at(&self, entry: usize, key: &[u8]) -> bool {
        if entry >= self.entries() {
            return false;
        }
        let group = self.group_of(entry);
        let prefix = self.prefix();
        let rest = key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(self.stem_rest(group)));
        match rest {
            Some(suffix) if self.has_suffixes(group) => *suffix == self.suffix(entry).to_be_bytes(),
            Some(suffix) => suffix.is_empty(),
            None => false,
        }
    }

    fn lower_bound_in_group(&self, group: usize, rest: &[u8]) -> usize {
        let entries = self.group(group);
        let stem = self.stem_rest(group);
        match rest.strip_prefix(stem) {
            Some(suffix) if self.has_suffixes(group) => self.lower_bound_of_suffix(group, suffix),
            Some([]) => entries.start,
            // The first key of the group is below: so are the others, unless `rest` begins with their stem.
            _ => entries.end,
        }
    }

    /// How many groups have a first key `<= rest`, where the common prefix is taken off.
    fn partition_groups(&self, rest: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.groups());
        while low < high {
            let middle = low.midpoint(high);
            if self.compare_first(middle, rest) == Ordering::Greater { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// Compares the first key of `group` with `rest`.
    fn compare_first(&self, group: usize, rest: &[u8]) -> Ordering {
        let stem = self.stem_rest(group);
        let common = stem.len().min(rest.len());
        stem[..common].cmp(&rest[..common]).then_with(|| {
            if !self.has_suffixes(group) || rest.len() < stem.len() {
                return stem.len().cmp(&rest.len());
            }
            let first = self.suffix(self.group(group).start).to_be_bytes();
            first.as_slice().cmp(&rest[common..])
        })
    }

    fn stem_rest(&self, group: usize) -> &[u8] {
        let ends = self.stem_ends();
        let start = if group == 0 { 0 } else { (ends[group - 1] & !BARE) as usize };
        &self.bytes_of()[self.stems_at as usize..][start..(ends[group] & !BARE) as usize]
    }

    fn suffixes(&self) -> &[u64] {
        &self.words[..self.entries()]
    }

    fn value_ends(&self) -> &[u32] {
        &self.numbers()[..self.entries()]
    }

    fn stem_ends(&self) -> &[u32] {
        &self.numbers()[self.entries()..][..self.groups()]
    }

    fn group_ends(&self) -> &[u32] {
        &self.numbers()[self.entries() + self.groups()..][..self.groups()]
    }

    /// What is behind the suffixes, as numbers.
    fn numbers(&self) -> &[u32] {
        cast_slice(&self.words[self.entries()..])
    }

    fn bytes_of(&self) -> &[u8] {
        cast_slice(&self.words)
    }
}

/// Makes blocks of entries that come in the order of their keys.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    budget: Arc<MemoryBudget>,
    is_versioned: bool,
    /// What a block is filled up to.
    target_bytes: usize,
    suffixes: Vec<u64>,
    value_ends: Vec<u32>,
    stem_ends: Vec<u32>,
    group_ends: Vec<u32>,
    /// Whole stems.
    stems: Vec<u8>,
    values: Vec<u8>,
    /// What all stems have in common.
    prefix_len: usize,
    /// Each with its first key.
    finished: Vec<KeyedBlock>,
}

impl BlockBuilder {
    pub(crate) fn new(budget: Arc<MemoryBudget>, is_versioned: bool) -> Self {
        Self {
            budget,
            is_versioned,
            target_bytes: BLOCK_BYTES - HEADER_BYTES,
            suffixes: Vec::new(),
            value_ends: Vec::new(),
            stem_ends: Vec::new(),
            group_ends: Vec::new(),
            stems: Vec::new(),
            values: Vec::new(),
            prefix_len: 0,
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
        if !self.suffixes.is_empty() && used_bytes + added_bytes > self.target_bytes {
            self.finish_block()?;
            return self.push(key, value);
        }
        if is_same_stem {
            *self.group_ends.last_mut().expect("a stem belongs to a group") += 1;
        } else {
            self.prefix_len = match self.last_stem() {
                Some((last, _)) => common_prefix_len(&last[..self.prefix_len], stem),
                None => stem.len(),
            };
            self.stems.extend_from_slice(stem);
            let bare = if suffix.is_some() { 0 } else { BARE };
            self.stem_ends.push(self.stems.len() as u32 | bare);
            self.group_ends.push(self.suffixes.len() as u32 + 1);
        }
        self.suffixes.push(suffix.unwrap_or_default());
        self.values.extend_from_slice(value);
        self.value_ends.push(self.values.len() as u32);
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
            self.push(key, block.value(next))?;
            // The rest of the group as far as it fits: no stem to look at.
            for entry in next + 1..end {
                let value = block.value(entry);
                let added_bytes = SUFFIX_LEN + size_of::<u32>() + value.len();
                if self.used_bytes() + added_bytes > self.target_bytes {
                    block.write_key(group, entry, key);
                    self.push(key, value)?;
                    continue;
                }
                self.suffixes.push(block.suffix(entry));
                self.values.extend_from_slice(value);
                self.value_ends.push(self.values.len() as u32);
                *self.group_ends.last_mut().expect("the first entry of the group was pushed") += 1;
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
        if !self.suffixes.is_empty() {
            self.finish_block()?;
        }
        Ok(self.finished)
    }

    fn finish_block(&mut self) -> Result<(), OverCapacity> {
        let (entries, groups, prefix_len) = (self.suffixes.len(), self.stem_ends.len(), self.prefix_len);
        let bytes = size_class(self.used_bytes() + HEADER_BYTES);
        let charge = Charge::new(self.budget.clone());
        charge.resize(bytes)?;
        let mut content: Arc<[u64]> = std::iter::repeat_n(0, (bytes - HEADER_BYTES) / size_of::<u64>()).collect();
        let words = Arc::get_mut(&mut content).expect("nobody else has it yet");
        words[..entries].copy_from_slice(&self.suffixes);
        let mut first_key = Vec::new();
        let stems_at = entries * SUFFIX_LEN + (entries + 2 * groups) * size_of::<u32>() + prefix_len;
        {
            let numbers: &mut [u32] = bytemuck::cast_slice_mut(&mut words[entries..]);
            numbers[..entries].copy_from_slice(&self.value_ends);
            numbers[entries + groups..entries + 2 * groups].copy_from_slice(&self.group_ends);
            for (group, (number, end)) in numbers[entries..].iter_mut().zip(&self.stem_ends).enumerate() {
                // Each stem is shorter by the common prefix.
                *number = *end - ((group + 1) * prefix_len) as u32;
            }
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
        bytes[stems_at - prefix_len..stems_at].copy_from_slice(&self.stems[..prefix_len]);
        let mut at = stems_at;
        let mut start = 0;
        for end in &self.stem_ends {
            let end = (*end & !BARE) as usize;
            let rest = &self.stems[start + prefix_len..end];
            bytes[at..at + rest.len()].copy_from_slice(rest);
            at += rest.len();
            start = end;
        }
        bytes[at..at + self.values.len()].copy_from_slice(&self.values);
        let block = Block {
            words: content,
            entries: entries as u32,
            groups: groups as u32,
            prefix_len: prefix_len as u32,
            stems_at: stems_at as u32,
            values_at: at as u32,
            charge: Arc::new(charge),
        };
        block.write_key(0, 0, &mut first_key);
        self.finished.push((first_key.into(), block));
        self.suffixes.clear();
        self.value_ends.clear();
        self.stem_ends.clear();
        self.group_ends.clear();
        self.stems.clear();
        self.values.clear();
        Ok(())
    }

    /// The last stem, and whether it is a whole key.
    fn last_stem(&self) -> Option<(&[u8], bool)> {
        let (last, before) = self.stem_ends.split_last()?;
        let start = before.last().map_or(0, |end| (end & !BARE) as usize);
        Some((&self.stems[start..(last & !BARE) as usize], last & BARE != 0))
    }

    /// What a block of what is here takes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.bytes_with_prefix(self.prefix_len)
    }

    /// The same if a group with this stem is added, without that group itself.
    fn bytes_with(&self, stem: &[u8]) -> usize {
        let prefix_len = self.last_stem().map_or(0, |(last, _)| common_prefix_len(&last[..self.prefix_len], stem));
        self.bytes_with_prefix(prefix_len)
    }

    fn bytes_with_prefix(&self, prefix_len: usize) -> usize {
        let groups = self.stem_ends.len();
        self.suffixes.len() * (SUFFIX_LEN + size_of::<u32>()) + groups * 2 * size_of::<u32>() + self.stems.len()
            - groups.saturating_sub(1) * prefix_len
            + self.values.len()
    }
}

fn common_prefix_len(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        // Few stems with many suffixes, and keys of any length that are anything but versions of a user key.
        let version = (0..4u8, 0..6u8)
            .prop_map(|(stem, suffix)| [vec![b'k'; usize::from(stem)], vec![stem], vec![0; 7], vec![suffix]].concat());
        prop_oneof![version, vec(0..3u8, 0..12), vec(any::<u8>(), 0..3)]
    }

    fn build(entries: &BTreeMap<Vec<u8>, Vec<u8>>, is_versioned: bool, target_bytes: usize) -> Vec<KeyedBlock> {
        let mut builder = BlockBuilder::new(MemoryBudget::new(usize::MAX), is_versioned);
        builder.target_bytes = target_bytes;
        entries.iter().for_each(|(key, value)| builder.push(key, value).unwrap());
        builder.finish().unwrap()
    }

    #[test]
    fn sizes_are_those_of_an_allocator() {
        let expected = [(0, 0), (1, 16), (64, 64), (65, 80), (128, 128), (129, 160), (4096, 4096), (65_535, 65_536)];
        for (bytes, class) in expected {
            assert_eq!(size_class(bytes), class, "{bytes}");
        }
    }

    #[test]
    fn a_block_accounts_for_what_it_takes_and_gives_it_back() {
        let budget = MemoryBudget::new(1000);
        let mut builder = BlockBuilder::new(budget.clone(), true);
        builder.push(b"a", &[0; 100]).unwrap();
        assert_eq!(builder.push(b"b", &[0; 70_000]), Ok(()));
        assert_eq!(budget.used_bytes(), size_class(100 + 1 + 12 + 8 + HEADER_BYTES));
        assert!(matches!(builder.finish(), Err(OverCapacity)));
        assert_eq!(budget.used_bytes(), 0);
    }

    proptest! {
        #[test]
        fn blocks_equal_a_btree_map(
            entries in proptest::collection::btree_map(key(), vec(any::<u8>(), 0..9), 0..80),
            is_versioned: bool,
            target_bytes in 60..2000usize,
        ) {
            let blocks = build(&entries, is_versioned, target_bytes);
            let mut expected = entries.iter();
            let mut key = Vec::new();
            for (first_key, block) in &blocks {
                prop_assert!(block.bytes() <= size_class(target_bytes + HEADER_BYTES));
                prop_assert_eq!(block.group(block.groups() - 1).end, block.entries());
                let mut keys: Vec<Vec<u8>> = Vec::new();
                for entry in 0..block.entries() {
                    block.write_key(block.group_of(entry), entry, &mut key);
                    prop_assert_eq!(Some((&key, &block.value(entry).to_vec())), expected.next());
                    prop_assert!(block.is_key_at(entry, &key));
                    keys.push(key.clone());
                }
                prop_assert_eq!(first_key.as_ref(), keys[0].as_slice());
                for probe in entries.keys().chain(&[vec![], vec![b'k', 1, 0, 0], vec![0xff; 9]]) {
                    let lower_bound = keys.partition_point(|key| key < probe);
                    prop_assert_eq!(block.lower_bound(probe), lower_bound, "{:?}", probe);
                    let is_there = keys.get(lower_bound) == Some(probe);
                    prop_assert_eq!(block.is_key_at(lower_bound, probe), is_there);
                    prop_assert_eq!(block.find(probe), is_there.then_some(lower_bound));
                }
            }
            prop_assert_eq!(expected.next(), None);

            // Runs of blocks make the same blocks.
            let mut copy = BlockBuilder::new(MemoryBudget::new(usize::MAX), is_versioned);
            for (_, block) in &blocks {
                let middle = block.entries() / 2;
                copy.push_run(block, 0..middle, &mut key).unwrap();
                copy.push_run(block, middle..block.entries(), &mut key).unwrap();
            }
            let (copy, whole) = (copy.finish().unwrap(), build(&entries, is_versioned, BLOCK_BYTES));
            prop_assert_eq!(copy.len(), whole.len());
            for ((_, copy), (_, whole)) in copy.iter().zip(&whole) {
                prop_assert_eq!(&copy.words, &whole.words);
            }
        }
    }
}
