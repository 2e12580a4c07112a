//! An immutable run of entries in one piece of memory.
//!
//! **Owns** the layout of cached data at rest, and its exact size.
//!
//! **How it works.** Consecutive entries whose keys differ in the last 8 bytes only, the versions of one user key, are a
//! *group*. A group has one copy of what they share, the *stem*, without what all stems of the block begin with; the last
//! 8 bytes of each key, its *suffix*, are a number in an array. Everything is in one allocation, the first entry of each
//! group apart from the *history*, which is the other ones:
//!
//! ```text
//! common prefix │ fence: 2 u64 per 16 groups │ suffix: u64 per group │ end of stem: u32 per group
//! │ end of entries: u32 per group │ end of value: u32 per group │ stems │ values
//! │ history: suffix: u64 per entry │ end of value: u32 per entry │ values
//! ```
//!
//! So whoever reads the newest versions reads memory from one end to the other, however many older ones there are: with
//! the values in the order of their keys, each would be in a page of its own, whose address alone takes as long to
//! translate as the rest of the step.
//!
//! A block that is looked into is rarely in the processor's cache, and each step of a binary search would wait for memory
//! twice. A *fence* has the first 8 bytes of a group's first key, and where its stem begins: the fences are fetched all at
//! once, and then what the search will need between two of them. They are at the start, with the common prefix, so that they
//! can be fetched by whoever knows no more of the block than its address.
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

pub(crate) use self::{
    builder::BlockBuilder,
    merger::{BlockMerger, Source},
};
use crate::{
    memory::{Charge, MemoryBudget},
    prefetch::{prefetch, prefetch_lines},
};

mod builder;
mod layout;
mod merger;
mod parts;
#[cfg(test)]
mod tests;

/// What a block is filled up to. Large enough that what is kept per block does not count, and that a scan is a scan
/// through arrays; small enough that replacing a block for the sake of a few dozen writes costs microseconds.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;

/// What the reference counts in front of the content take.
const HEADER_BYTES: usize = 2 * size_of::<usize>();

/// Bytes of a suffix: those of a timestamp.
pub(crate) const SUFFIX_LEN: usize = size_of::<u64>();

/// In the end of a group's stem: the group is one entry without a suffix.
const BARE: u32 = 1 << 31;

/// One group in so many has a fence: what is between two of them is a few cache lines of each part.
const FENCE_EVERY: usize = 16;

/// The first bytes of a group's first key behind the common prefix, and the offset of its stem.
type Fence = [u64; 2];

/// No block is larger: offsets are 31 bits. A value that makes one larger cannot be cached.
const BLOCK_BYTES_MAX: usize = 1 << 31;

/// The smallest size at least `bytes` that an allocator hands out without waste: four sizes per power of two, as in
/// jemalloc.
pub(crate) const fn size_class(bytes: usize) -> usize {
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

/// The first bytes of `key` as a number. If those of two keys differ, the keys are in the same order; equal ones say
/// nothing.
pub(crate) fn head_of(key: &[u8]) -> u64 {
    if let Some(head) = key.first_chunk() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0; size_of::<u64>()];
    head[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(head)
}

/// How many fences so many groups have. Fence `i` is that of group `(i + 1) * FENCE_EVERY`.
fn fences_of(groups: usize) -> usize {
    groups.saturating_sub(1) / FENCE_EVERY
}

/// A search fetches so much of a block at once in any case.
const SEARCH_HEAD_BYTES: usize = 512;

/// Which of a block's entries are meant.
pub(crate) type Entries = Range<usize>;

/// Where in a block an entry is: first of a group, or in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    First(usize),
    Older(usize),
}

impl Version {
    /// Of `entry`, where `entries` are those of `group`.
    pub(crate) fn new(group: usize, entries: &Entries, entry: usize) -> Self {
        // As many entries as groups so far are first ones.
        if entry == entries.start { Self::First(group) } else { Self::Older(entry - (group + 1)) }
    }
}

/// A block and the first of its keys.
pub(crate) type KeyedBlock = (Box<[u8]>, Block);

/// See the module. A handle: clones share the content.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    words: Arc<[u64]>,
    entries: u32,
    groups: u32,
    prefix_len: u32,
    /// Offset of the suffixes of first entries, in words; the fences are before.
    suffixes_at: u32,
    /// Offset of the stems, in bytes.
    stems_at: u32,
    /// Offset of the values of first entries, in bytes.
    values_at: u32,
    /// Offset of the history, in words.
    history_at: u32,
    has_nested_stems: bool,
    charge: Arc<Charge>,
}

impl Block {
    pub(crate) fn empty(budget: Arc<MemoryBudget>) -> Self {
        Self {
            words: Arc::default(),
            entries: 0,
            groups: 0,
            prefix_len: 0,
            suffixes_at: 0,
            stems_at: 0,
            values_at: 0,
            history_at: 0,
            has_nested_stems: false,
            charge: Arc::new(Charge::new(budget)),
        }
    }

    #[inline]
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

    /// The same, where `near` is likely that group or the one before.
    pub(crate) fn group_near(&self, near: usize, entry: usize) -> usize {
        let last = self.groups().min(near + 2);
        (near..last).find(|group| self.group(*group).contains(&entry)).unwrap_or_else(|| self.group_of(entry))
    }

    /// The entries of `group`.
    #[inline]
    pub(crate) fn group(&self, group: usize) -> Entries {
        let ends = self.group_ends();
        let start = if group == 0 { 0 } else { ends[group - 1] as usize };
        start..ends[group] as usize
    }

    #[inline]
    pub(crate) fn groups(&self) -> usize {
        self.groups as usize
    }

    /// What all keys begin with.
    #[inline]
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.bytes_of()[..self.prefix_len as usize]
    }

    /// Where `entry` is, which is in `group`.
    pub(crate) fn version(&self, group: usize, entry: usize) -> Version {
        Version::new(group, &self.group(group), entry)
    }

    #[inline]
    pub(crate) fn suffix(&self, version: Version) -> u64 {
        match version {
            Version::First(group) => self.first_suffixes()[group],
            Version::Older(older) => self.older_suffixes()[older],
        }
    }

    pub(crate) fn value(&self, version: Version) -> &[u8] {
        self.value_at(self.value_range(version))
    }

    /// Where the value of that version is.
    #[inline]
    pub(crate) fn value_range(&self, version: Version) -> Range<usize> {
        let (index, ends, values_at) = match version {
            Version::First(group) => (group, self.first_value_ends(), self.values_at as usize),
            Version::Older(older) => (older, self.older_value_ends(), self.older_values_at()),
        };
        let start = if index == 0 { 0 } else { ends[index - 1] as usize };
        values_at + start..values_at + ends[index] as usize
    }

    #[inline]
    pub(crate) fn value_at(&self, range: Range<usize>) -> &[u8] {
        &self.bytes_of()[range]
    }

    /// Whether the keys of `group` have suffixes.
    #[inline]
    pub(crate) fn has_suffixes(&self, group: usize) -> bool {
        self.stem_ends()[group] & BARE == 0
    }

    /// Whether some stem begins with another, so that keys of one group may be between those of the other. Not so with
    /// versions of user keys.
    pub(crate) fn has_nested_stems(&self) -> bool {
        self.has_nested_stems
    }

    /// Makes `key` the key of `entry`, which is in `group`.
    pub(crate) fn write_key(&self, group: usize, entry: usize, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(self.prefix());
        self.write_rest(group, self.version(group, entry), key);
    }

    /// Makes `key`, which is another key of this block, that of a version in `group`.
    #[inline]
    pub(crate) fn rewrite_key(&self, group: usize, version: Version, key: &mut Vec<u8>) {
        key.truncate(self.prefix_len as usize);
        self.write_rest(group, version, key);
    }

    #[inline]
    fn write_rest(&self, group: usize, version: Version, key: &mut Vec<u8>) {
        let ends = self.stem_ends();
        let start = if group == 0 { 0 } else { (ends[group - 1] & !BARE) as usize };
        let end = ends[group];
        key.extend_from_slice(&self.bytes_of()[self.stems_at as usize..][start..(end & !BARE) as usize]);
        if end & BARE == 0 {
            key.extend_from_slice(&self.suffix(version).to_be_bytes());
        }
    }

    /// The entry with this key, or where it would be, as in a binary search; with a group to begin with for a greater key.
    pub(crate) fn search(&self, key: &[u8]) -> (usize, Result<usize, usize>) {
        prefetch_lines(self.search_head());
        self.search_by(key, |rest| self.partition_groups(rest))
    }

    /// The same for a key that is not below the first one of `group`, and likely near.
    pub(crate) fn search_near(&self, group: usize, key: &[u8]) -> (usize, Result<usize, usize>) {
        self.search_by(key, |rest| self.partition_groups_near(group, rest))
    }

    fn search_by(&self, key: &[u8], partition: impl FnOnce(&[u8]) -> usize) -> (usize, Result<usize, usize>) {
        let prefix = self.prefix();
        let Some(rest) = key.strip_prefix(prefix) else {
            let last = self.groups().saturating_sub(1);
            return if key < prefix { (0, Err(0)) } else { (last, Err(self.entries())) };
        };
        // Of the group before, whose first key is not above: its other keys may be.
        let Some(group) = partition(rest).checked_sub(1) else { return (0, Err(0)) };
        let entries = self.group(group);
        let found = match rest.strip_prefix(self.stem_rest(group)) {
            Some(suffix) if self.has_suffixes(group) => self.search_group(group, suffix),
            Some([]) => Ok(entries.start),
            // All keys of the group are below, unless `rest` begins with their stem.
            _ => Err(entries.end),
        };
        (group, found)
    }

    /// The first entry with a key `>= key`.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> usize {
        self.search(key).1.unwrap_or_else(|entry| entry)
    }

    /// The entry with this key, and where it is.
    pub(crate) fn find(&self, key: &[u8]) -> Option<(usize, Version)> {
        prefetch_lines(self.search_head());
        let rest = key.strip_prefix(self.prefix())?;
        let group = self.partition_groups(rest).checked_sub(1)?;
        let suffix = rest.strip_prefix(self.stem_rest(group))?;
        let start = self.group(group).start;
        if !self.has_suffixes(group) {
            return suffix.is_empty().then_some((start, Version::First(group)));
        }
        let suffix = u64::from_be_bytes(suffix.try_into().ok()?);
        if suffix == self.first_suffixes()[group] {
            return Some((start, Version::First(group)));
        }
        let older = self.history(group);
        self.prefetch_history(&older);
        let at = self.older_suffixes()[older.clone()].binary_search(&suffix).ok()?;
        Some((start + 1 + at, Version::Older(older.start + at)))
    }

    /// What a reader of the first groups will look at.
    pub(crate) fn prefetch_start(&self) {
        // Each part is one behind the other, which the processor notices; but not before the first lines of a page.
        prefetch_lines(&self.words);
        self.bytes_of().get(self.values_at as usize..).map(prefetch_lines);
    }

    /// Has all of it fetched.
    pub(crate) fn prefetch_all(&self) {
        self.words.iter().step_by(8).for_each(prefetch);
    }

    /// What a search looks at first: the common prefix and the fences, and what is behind, as far as that is not much.
    pub(crate) fn search_head(&self) -> &[u8] {
        let fences_end = self.suffixes_at as usize * size_of::<u64>();
        &self.bytes_of()[..fences_end.max(SEARCH_HEAD_BYTES.min(self.values_at as usize))]
    }

    /// What is needed to find the first version in `group` with a suffix not below this, if it is not the newest.
    pub(crate) fn prefetch_versions(&self, group: usize, suffix: u64) {
        if self.first_suffixes()[group] < suffix {
            self.prefetch_history(&self.history(group));
        }
    }

    /// The value of that version.
    pub(crate) fn prefetch_value(&self, group: usize, suffix: u64) {
        let older = self.history(group);
        if self.first_suffixes()[group] < suffix && !older.is_empty() {
            let skipped = self.older_suffixes()[older.clone()].partition_point(|other| *other < suffix);
            let version = Version::Older(older.start + skipped.min(older.len() - 1));
            self.value(version).first().map(prefetch);
        }
    }

    /// Like [`lower_bound`](Self::lower_bound), for the entries of one group, whose stem `key` begins with, of which
    /// `suffix` is left.
    pub(crate) fn lower_bound_of_suffix(&self, group: usize, suffix: &[u8]) -> usize {
        self.search_group(group, suffix).unwrap_or_else(|entry| entry)
    }

    fn search_group(&self, group: usize, suffix: &[u8]) -> Result<usize, usize> {
        let (number, is_longer) = match suffix.first_chunk::<SUFFIX_LEN>() {
            Some(whole) => (u64::from_be_bytes(*whole), suffix.len() > SUFFIX_LEN),
            // A shorter one is below all that begin with it.
            None => (head_of(suffix), false),
        };
        let below = |other: &u64| *other < number || (is_longer && *other == number);
        let is_exact = |other: u64| other == number && suffix.len() == SUFFIX_LEN;
        let start = self.group(group).start;
        let first = self.first_suffixes()[group];
        if !below(&first) {
            return if is_exact(first) { Ok(start) } else { Err(start) };
        }
        let older = self.history(group);
        self.prefetch_history(&older);
        let suffixes = &self.older_suffixes()[older];
        let at = suffixes.partition_point(below);
        let entry = start + 1 + at;
        if suffixes.get(at).is_some_and(|other| is_exact(*other)) { Ok(entry) } else { Err(entry) }
    }

    /// How many groups have a first key `<= rest`, where the common prefix is taken off.
    fn partition_groups(&self, rest: &[u8]) -> usize {
        let Range { start: mut low, end: mut high } = self.between_fences(rest);
        let first_keys = self.first_keys();
        while low < high {
            let middle = low.midpoint(high);
            if first_keys.compare(middle, rest) == Ordering::Greater { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// The same if all groups before `group` have; steps from there on, each twice as long as the one before.
    fn partition_groups_near(&self, group: usize, rest: &[u8]) -> usize {
        let first_keys = self.first_keys();
        let is_above = |group: usize| group >= self.groups() || first_keys.compare(group, rest) == Ordering::Greater;
        let (mut low, mut step) = (group, 1);
        while !is_above(low + step - 1) {
            low += step;
            step *= 2;
        }
        let mut high = (low + step - 1).min(self.groups());
        while low < high {
            let middle = low.midpoint(high);
            if is_above(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// What the result of [`partition_groups`](Self::partition_groups) is within, as far as the fences tell. Has what is
    /// between them fetched.
    fn between_fences(&self, rest: &[u8]) -> Range<usize> {
        let fences = self.fences();
        let head = head_of(rest);
        let below = fences.partition_point(|[other, _]| *other < head);
        let not_above = match fences.get(below) {
            Some([other, _]) if *other == head => below + fences[below..].partition_point(|[other, _]| *other == head),
            _ => below,
        };
        let stem_at = |fence: &Fence| self.stems_at as usize + fence[1] as usize;
        let start = below.checked_sub(1).map_or(self.stems_at as usize, |before| stem_at(&fences[before]));
        let end = fences.get(below).map_or(self.values_at as usize, stem_at);
        self.prefetch_groups(below * FENCE_EVERY, start..end);
        let low = if below == 0 { 0 } else { below * FENCE_EVERY + 1 };
        low..((not_above + 1) * FENCE_EVERY).min(self.groups())
    }

    /// What a search from `group` to the next fence will look at, and whoever has found something; their stems are here.
    fn prefetch_groups(&self, group: usize, stems: Range<usize>) {
        let groups = group..(group + FENCE_EVERY).min(self.groups());
        prefetch_lines(&self.first_suffixes()[groups.clone()]);
        for ends in [self.stem_ends(), self.group_ends(), self.first_value_ends()] {
            prefetch_lines(&ends[groups.clone()]);
        }
        prefetch_lines(&self.bytes_of()[stems]);
    }

    /// The suffixes of some of the history, and where their values are.
    fn prefetch_history(&self, older: &Range<usize>) {
        prefetch_lines(&self.older_suffixes()[older.clone()]);
        prefetch_lines(&self.older_value_ends()[older.clone()]);
    }

    fn first_keys(&self) -> FirstKeys<'_> {
        FirstKeys {
            suffixes: self.first_suffixes(),
            stem_ends: self.stem_ends(),
            stems: &self.bytes_of()[self.stems_at as usize..],
        }
    }

    #[inline]
    fn stem_rest(&self, group: usize) -> &[u8] {
        let ends = self.stem_ends();
        let start = if group == 0 { 0 } else { (ends[group - 1] & !BARE) as usize };
        &self.bytes_of()[self.stems_at as usize..][start..(ends[group] & !BARE) as usize]
    }

    /// The entries of `group` but the first, as indices of the history.
    fn history(&self, group: usize) -> Range<usize> {
        let Entries { start, end } = self.group(group);
        start - group..end - group - 1
    }

    fn history_len(&self) -> usize {
        self.entries() - self.groups()
    }

    #[inline]
    fn first_suffixes(&self) -> &[u64] {
        &self.words[self.suffixes_at as usize..][..self.groups()]
    }

    fn fences(&self) -> &[Fence] {
        let fences_at = (self.prefix_len as usize).div_ceil(size_of::<u64>());
        cast_slice(&self.words[fences_at..self.suffixes_at as usize])
    }

    #[inline]
    fn stem_ends(&self) -> &[u32] {
        &self.numbers()[..self.groups()]
    }

    #[inline]
    fn group_ends(&self) -> &[u32] {
        &self.numbers()[self.groups()..][..self.groups()]
    }

    #[inline]
    fn first_value_ends(&self) -> &[u32] {
        &self.numbers()[2 * self.groups()..][..self.groups()]
    }

    /// What is behind the suffixes of first entries, as numbers.
    #[inline]
    fn numbers(&self) -> &[u32] {
        cast_slice(&self.words[self.suffixes_at as usize + self.groups()..])
    }

    #[inline]
    fn older_suffixes(&self) -> &[u64] {
        &self.words[self.history_at as usize..][..self.history_len()]
    }

    #[inline]
    fn older_value_ends(&self) -> &[u32] {
        let ends: &[u32] = cast_slice(&self.words[self.history_at as usize + self.history_len()..]);
        &ends[..self.history_len()]
    }

    fn older_values_at(&self) -> usize {
        (self.history_at as usize + self.history_len()) * size_of::<u64>() + self.history_len() * size_of::<u32>()
    }

    #[inline]
    fn bytes_of(&self) -> &[u8] {
        cast_slice(&self.words)
    }
}

/// The first keys of all groups without what they have in common.
struct FirstKeys<'a> {
    suffixes: &'a [u64],
    stem_ends: &'a [u32],
    stems: &'a [u8],
}

impl FirstKeys<'_> {
    /// Compares that of `group` with `rest`.
    #[inline]
    fn compare(&self, group: usize, rest: &[u8]) -> Ordering {
        let start = if group == 0 { 0 } else { (self.stem_ends[group - 1] & !BARE) as usize };
        let end = self.stem_ends[group];
        let stem = &self.stems[start..(end & !BARE) as usize];
        // Most differ here.
        if let (Some(left), Some(right)) = (stem.first_chunk(), rest.first_chunk())
            && left != right
        {
            return u64::from_be_bytes(*left).cmp(&u64::from_be_bytes(*right));
        }
        let common = stem.len().min(rest.len());
        stem[..common].cmp(&rest[..common]).then_with(|| {
            if end & BARE != 0 || rest.len() < stem.len() {
                return stem.len().cmp(&rest.len());
            }
            self.suffixes[group].to_be_bytes().as_slice().cmp(&rest[common..])
        })
    }
}
