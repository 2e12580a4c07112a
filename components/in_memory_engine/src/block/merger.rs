//! Making blocks of parts of other blocks, and of entries in between.
//!
//! **Owns** what a fold costs: one pass over the parts that its result has, in runs as long as nothing has changed.
//!
//! **How it works.** What is added is noted down as *pieces*: groups of another block that stay as they are, or a part of a
//! group's history, or one entry. From the pieces follows how large the result is, what its stems have in common and
//! where it is divided; so each block is allocated as it will be, and each piece is copied to where it belongs, part by
//! part and an array at a time.
//!
//! **Invariants.** The memory for a block is reserved before it is allocated.
//!
//! **Must not** look at values.

use std::{cmp::Ordering, ops::Range, sync::Arc};

use super::{
    BARE, BLOCK_BYTES, BLOCK_BYTES_MAX, Block, Entries, HEADER_BYTES, KeyedBlock, SplitKey,
    layout::{Layout, PartsMut, Size, append},
    parts,
};
use crate::memory::{MemoryBudget, OverCapacity};

/// Makes blocks of what comes in the order of the keys.
#[derive(Debug)]
pub(crate) struct BlockMerger<'a> {
    is_versioned: bool,
    pieces: Vec<Piece<'a>>,
    /// The last group that has been added to.
    last: Option<Group<'a>>,
    size: Size,
    /// What a block is filled up to.
    pub(super) target_bytes: usize,
}

/// The parts of a block that pieces are taken from.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    prefix: &'a [u8],
    has_nested_stems: bool,
    suffixes: &'a [u64],
    stem_ends: &'a [u32],
    group_ends: &'a [u32],
    value_ends: &'a [u32],
    stems: &'a [u8],
    values: &'a [u8],
    older_suffixes: &'a [u64],
    older_value_ends: &'a [u32],
    older_values: &'a [u8],
}

/// What is added one after the other.
#[derive(Clone, Debug)]
enum Piece<'a> {
    /// Whole groups of a source, with what the first stem is to the one before. No stem begins with another.
    Groups { of: &'a Source<'a>, groups: Range<usize>, kinship: Kinship },
    /// The first entry of a group.
    First { group: Group<'a>, suffix: u64, value: &'a [u8], kinship: Kinship },
    /// Another entry of the last group.
    Older { suffix: u64, value: &'a [u8] },
    /// The same for a part of the history of a source.
    History { of: &'a Source<'a>, older: Range<usize> },
}

/// What all keys of a group begin with.
#[derive(Clone, Copy, Debug)]
struct Group<'a> {
    stem: Stem<'a>,
    /// It is a whole key.
    is_bare: bool,
}

/// A stem in two parts, the first of which is what all stems of its block begin with, if its key does.
#[derive(Clone, Copy, Debug, Default)]
struct Stem<'a> {
    prefix: &'a [u8],
    rest: &'a [u8],
}

/// What a stem is to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kinship {
    None,
    /// One begins with the other.
    Nested,
    Same,
}

impl<'a> BlockMerger<'a> {
    /// For about so many entries besides those of sources.
    pub(crate) fn new(is_versioned: bool, entries: usize) -> Self {
        // Each is a piece, with the newer versions of its user key, older ones, and other user keys in between.
        let pieces = Vec::with_capacity(4 * entries + 4);
        let target_bytes = BLOCK_BYTES - HEADER_BYTES;
        Self { is_versioned, pieces, last: None, size: Size::default(), target_bytes }
    }

    /// Adds an entry near those of `source`; its key must be greater than all before.
    ///
    /// # Errors
    /// When no block can have it.
    pub(crate) fn push(&mut self, source: &Source<'a>, key: &'a [u8], value: &'a [u8]) -> Result<(), OverCapacity> {
        let SplitKey { stem, suffix } = SplitKey::new(key, self.is_versioned);
        if Size::of_first(stem.len(), value).bytes(0) >= BLOCK_BYTES_MAX {
            return Err(OverCapacity);
        }
        let stem = match stem.strip_prefix(source.prefix) {
            Some(rest) => Stem { prefix: source.prefix, rest },
            None => Stem { prefix: &[], rest: stem },
        };
        self.push_entry(Group { stem, is_bare: suffix.is_none() }, suffix.unwrap_or_default(), value);
        Ok(())
    }

    /// Adds some entries of `source`, the first of which is in `group` or behind; all keys must be greater than those before.
    /// Returns a group to go on with.
    pub(crate) fn push_run(&mut self, source: &'a Source<'a>, mut group: usize, entries: Entries) -> usize {
        let mut next = entries.start;
        while next < entries.end {
            while next >= source.group_ends[group] as usize {
                group += 1;
            }
            let whole = source.entries(group);
            let last = source.last_group(group, entries.end);
            let kinship = self.kinship(source.group_of(group));
            if next > whole.start || last == group || kinship == Kinship::Same || source.has_nested_stems {
                // One that begins before, or ends behind, or is the last one's.
                let end = whole.end.min(entries.end);
                self.push_versions(source, group, next..end);
                next = end;
            } else {
                self.push_groups(source, group..last, kinship);
                group = last - 1;
                next = source.group_ends[group] as usize;
            }
        }
        group
    }

    /// What a block of all this takes.
    pub(crate) fn bytes(&self) -> usize {
        self.size.bytes(prefix_len(&self.pieces))
    }

    /// The blocks, as few as possible and evenly filled.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub(crate) fn finish(self, budget: &Arc<MemoryBudget>) -> Result<Vec<KeyedBlock>, OverCapacity> {
        let prefix_len = prefix_len(&self.pieces);
        let bytes = self.size.bytes(prefix_len);
        match bytes.div_ceil(self.target_bytes) {
            _ if self.pieces.is_empty() => Ok(Vec::new()),
            0 | 1 => Ok(vec![write(&self.pieces, Layout { size: self.size, prefix_len }, budget)?]),
            blocks => {
                // A little more, so that a few bytes too many do not make another block.
                let lists = divide(self.pieces, prefix_len, bytes / blocks + bytes / blocks / 16);
                let layout = |pieces: &[Piece<'_>], size: Size| Layout { size, prefix_len: self::prefix_len(pieces) };
                lists.iter().map(|(pieces, size)| write(pieces, layout(pieces, *size), budget)).collect()
            }
        }
    }

    fn kinship(&self, next: Group<'_>) -> Kinship {
        self.last.map_or(Kinship::None, |last| Kinship::of(last, next))
    }

    fn push_entry(&mut self, group: Group<'a>, suffix: u64, value: &'a [u8]) {
        let kinship = self.kinship(group);
        if kinship == Kinship::Same {
            self.size = self.size.and(Size::of_older(value));
            self.pieces.push(Piece::Older { suffix, value });
        } else {
            self.size = self.size.and(Size::of_first(group.stem.len(), value));
            self.pieces.push(Piece::First { group, suffix, value, kinship });
            self.last = Some(group);
        }
    }

    /// Adds entries of one group.
    fn push_versions(&mut self, source: &'a Source<'a>, group: usize, entries: Entries) {
        let key = source.group_of(group);
        let whole = source.entries(group);
        // As many entries as groups up to this one are first ones.
        let mut older = entries.start.max(whole.start + 1) - (group + 1)..entries.end - (group + 1);
        if entries.start == whole.start {
            let (suffix, value) = source.first(group);
            self.push_entry(key, suffix, value);
        } else if self.kinship(key) != Kinship::Same {
            // What was newer is gone.
            let (suffix, value) = source.older(older.start);
            self.push_entry(key, suffix, value);
            older.start += 1;
        }
        if !older.is_empty() {
            self.size = self.size.and(source.size_of_older(&older));
            self.pieces.push(Piece::History { of: source, older });
        }
    }

    fn push_groups(&mut self, source: &'a Source<'a>, groups: Range<usize>, kinship: Kinship) {
        self.size = self.size.and(source.size(&groups));
        self.last = Some(source.group_of(groups.end - 1));
        self.pieces.push(Piece::Groups { of: source, groups, kinship });
    }
}

/// Divides pieces into lists for blocks of at most about `bytes` each.
fn divide(pieces: Vec<Piece<'_>>, prefix_len: usize, bytes: usize) -> Vec<(Vec<Piece<'_>>, Size)> {
    let mut lists = Vec::new();
    let mut list = Vec::with_capacity(pieces.len());
    let mut used = Size::default();
    let mut last = None;
    let mut left = pieces;
    left.reverse();
    while let Some(piece) = left.pop() {
        let count = piece.count();
        let fits = |count: usize| used.and(piece.size(count)).bytes(prefix_len) <= bytes;
        let taken = last_that(0..count, fits);
        match piece {
            Piece::Groups { of, groups: Range { start, end }, kinship } if taken < count => {
                // Of the first one that does not fit, the newest versions may.
                let cut = start + taken;
                if cut + 1 < end {
                    left.push(Piece::Groups { of, groups: cut + 1..end, kinship: Kinship::None });
                }
                let older = of.histories(&(cut..cut + 1));
                if !older.is_empty() {
                    left.push(Piece::History { of, older });
                }
                let (group, (suffix, value)) = (of.group_of(cut), of.first(cut));
                let kinship_of_first = if taken == 0 { kinship } else { Kinship::None };
                left.push(Piece::First { group, suffix, value, kinship: kinship_of_first });
                if taken > 0 {
                    left.push(Piece::Groups { of, groups: start..cut, kinship });
                }
            }
            Piece::History { of, older } if (1..count).contains(&taken) => {
                let cut = older.start + taken;
                left.push(Piece::History { of, older: cut..older.end });
                left.push(Piece::History { of, older: older.start..cut });
            }
            whole if taken == count || list.is_empty() => {
                used = used.and(whole.size(count));
                last = whole.last_group().or(last);
                list.push(whole);
            }
            other => {
                lists.push((std::mem::take(&mut list), used));
                used = Size::default();
                left.push(other);
                begin_group(&mut left, last);
            }
        }
    }
    lists.push((list, used));
    lists
}

/// Has what is left, the last piece first, begin with the first entry of a group; it is that of `last` if it does not.
fn begin_group<'a>(left: &mut Vec<Piece<'a>>, last: Option<Group<'a>>) {
    let Some(group) = last else { return };
    let (suffix, value) = match left.pop() {
        Some(Piece::Older { suffix, value }) => (suffix, value),
        Some(Piece::History { of, older: Range { start, end } }) => {
            if start + 1 < end {
                left.push(Piece::History { of, older: start + 1..end });
            }
            of.older(start)
        }
        other => return left.extend(other),
    };
    left.push(Piece::First { group, suffix, value, kinship: Kinship::None });
}

/// How much all stems of the groups that some pieces begin have in common.
fn prefix_len(pieces: &[Piece<'_>]) -> usize {
    let Some(first) = pieces.first().and_then(Piece::first_group) else { return 0 };
    let common = |group: Group<'_>| common_prefix_len(first.stem, group.stem);
    if !pieces.iter().any(Piece::is_nested) {
        // They are in order then, and what the first and the last one have in common all have.
        let last = pieces.iter().rev().find_map(Piece::last_group);
        return last.map_or(0, common);
    }
    let ends = pieces.iter().flat_map(|piece| [piece.first_group(), piece.last_group()]);
    ends.flatten().map(common).min().unwrap_or_default()
}

/// Makes a block of some pieces, the first of which begins a group.
fn write(pieces: &[Piece<'_>], layout: Layout, budget: &Arc<MemoryBudget>) -> Result<KeyedBlock, OverCapacity> {
    let (charge, len) = layout.reserve(budget)?;
    let mut words: Arc<[u64]> = std::iter::repeat_n(0, len).collect();
    let mut parts = layout.parts(Arc::get_mut(&mut words).expect("nobody else has it yet"));
    let first = pieces.first().and_then(Piece::first_group).expect("a block has a group");
    parts.prefix.iter_mut().zip(first.stem.bytes()).for_each(|(to, byte)| *to = byte);

    let mut writer = Writer::new(&mut parts);
    for piece in pieces {
        match piece {
            Piece::Groups { of, groups, .. } => writer.push_groups(of, groups),
            Piece::First { group, suffix, value, .. } => writer.push_first(*group, *suffix, value),
            Piece::Older { suffix, value } => writer.push_older(*suffix, value),
            Piece::History { of, older } => writer.push_history(of, older),
        }
    }
    parts.write_fences();
    let block = layout.block(words, pieces[1..].iter().any(Piece::is_nested), charge);
    let mut first_key = Vec::new();
    block.write_key(0, 0, &mut first_key);
    Ok((first_key.into(), block))
}

impl<'a> Piece<'a> {
    /// Into how many parts it can be cut.
    fn count(&self) -> usize {
        match self {
            Piece::Groups { groups, .. } => groups.len(),
            Piece::History { older, .. } => older.len(),
            Piece::First { .. } | Piece::Older { .. } => 1,
        }
    }

    /// The size of the first so many parts.
    fn size(&self, count: usize) -> Size {
        match self {
            _ if count == 0 => Size::default(),
            Piece::Groups { of, groups, .. } => of.size(&(groups.start..groups.start + count)),
            Piece::First { group, value, .. } => Size::of_first(group.stem.len(), value),
            Piece::Older { value, .. } => Size::of_older(value),
            Piece::History { of, older } => of.size_of_older(&(older.start..older.start + count)),
        }
    }

    /// The first group that it begins, if it begins one.
    fn first_group(&self) -> Option<Group<'a>> {
        match self {
            Piece::Groups { of, groups, .. } => Some(of.group_of(groups.start)),
            Piece::First { group, .. } => Some(*group),
            Piece::Older { .. } | Piece::History { .. } => None,
        }
    }

    /// The last one.
    fn last_group(&self) -> Option<Group<'a>> {
        match self {
            Piece::Groups { of, groups, .. } => Some(of.group_of(groups.end - 1)),
            other => other.first_group(),
        }
    }

    fn is_nested(&self) -> bool {
        match self {
            Piece::Groups { kinship, .. } | Piece::First { kinship, .. } => *kinship == Kinship::Nested,
            Piece::Older { .. } | Piece::History { .. } => false,
        }
    }
}

impl<'a> Source<'a> {
    pub(crate) fn new(block: &'a Block) -> Self {
        Self {
            prefix: block.prefix(),
            has_nested_stems: block.has_nested_stems(),
            suffixes: block.first_suffixes(),
            stem_ends: block.stem_ends(),
            group_ends: block.group_ends(),
            value_ends: block.first_value_ends(),
            stems: &block.bytes_of()[block.stems_at as usize..block.values_at as usize],
            values: &block.bytes_of()[block.values_at as usize..],
            older_suffixes: block.older_suffixes(),
            older_value_ends: block.older_value_ends(),
            older_values: &block.bytes_of()[block.older_values_at()..],
        }
    }

    fn entries(&self, group: usize) -> Entries {
        range_of(&(group..group + 1), |group| self.group_ends[group] as usize)
    }

    fn stem(&self, group: usize) -> Stem<'a> {
        Stem { prefix: self.prefix, rest: &self.stems[self.stems_of(&(group..group + 1))] }
    }

    fn group_of(&self, group: usize) -> Group<'a> {
        Group { stem: self.stem(group), is_bare: self.stem_ends[group] & BARE != 0 }
    }

    /// The first entry of a group.
    fn first(&self, group: usize) -> (u64, &'a [u8]) {
        (self.suffixes[group], &self.values[self.values_of(&(group..group + 1))])
    }

    /// An entry of the history.
    fn older(&self, older: usize) -> (u64, &'a [u8]) {
        (self.older_suffixes[older], &self.older_values[self.older_values_of(&(older..older + 1))])
    }

    /// Behind the last group from this one on that ends at or before `entry`, which is likely near.
    fn last_group(&self, group: usize, entry: usize) -> usize {
        let ends = &self.group_ends[group..];
        let is_before = |end: &u32| *end as usize <= entry;
        let mut reach = 1;
        while ends.get(reach).is_some_and(is_before) {
            reach *= 2;
        }
        let (low, high) = (reach / 2, ends.len().min(reach));
        group + low + ends[low..high].partition_point(is_before)
    }

    fn size(&self, groups: &Range<usize>) -> Size {
        let stem_bytes = groups.len() * self.prefix.len() + self.stems_of(groups).len();
        let value_bytes = self.values_of(groups).len();
        let Size { older, older_value_bytes, .. } = self.size_of_older(&self.histories(groups));
        Size { groups: groups.len(), older, stem_bytes, value_bytes, older_value_bytes }
    }

    fn size_of_older(&self, older: &Range<usize>) -> Size {
        if older.is_empty() {
            return Size::default();
        }
        Size { older: older.len(), older_value_bytes: self.older_values_of(older).len(), ..Size::default() }
    }

    /// Where the stems of some groups are, from the first stem on.
    fn stems_of(&self, groups: &Range<usize>) -> Range<usize> {
        range_of(groups, |group| (self.stem_ends[group] & !BARE) as usize)
    }

    /// The entries of some groups but the first of each, as indices of the history.
    fn histories(&self, groups: &Range<usize>) -> Range<usize> {
        range_of(groups, |group| self.group_ends[group] as usize - (group + 1))
    }

    /// Where the values of the first entries of some groups are, from the first one on.
    fn values_of(&self, groups: &Range<usize>) -> Range<usize> {
        range_of(groups, |group| self.value_ends[group] as usize)
    }

    /// Where the values of a part of the history are.
    fn older_values_of(&self, older: &Range<usize>) -> Range<usize> {
        range_of(older, |older| self.older_value_ends[older] as usize)
    }
}

impl<'a> Stem<'a> {
    fn len(&self) -> usize {
        self.prefix.len() + self.rest.len()
    }

    fn bytes(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.prefix.iter().chain(self.rest).copied()
    }
}

fn common_prefix_len(left: Stem<'_>, right: Stem<'_>) -> usize {
    if std::ptr::eq(left.prefix, right.prefix) {
        return left.prefix.len() + parts::common_prefix_len(left.rest, right.rest);
    }
    left.bytes().zip(right.bytes()).take_while(|(left, right)| left == right).count()
}

impl Kinship {
    fn of(last: Group<'_>, next: Group<'_>) -> Self {
        let (left, right) = (last.stem, next.stem);
        match common_prefix_len(left, right).cmp(&left.len().min(right.len())) {
            Ordering::Less => Self::None,
            _ if left.len() == right.len() && !last.is_bare && !next.is_bare => Self::Same,
            _ => Self::Nested,
        }
    }
}

/// Writes pieces one behind the other; with how much of each part there is already.
struct Writer<'w, 'p> {
    parts: &'w mut PartsMut<'p>,
    groups: usize,
    older: usize,
    stems: usize,
    values: usize,
    older_values: usize,
}

impl<'w, 'p> Writer<'w, 'p> {
    fn new(parts: &'w mut PartsMut<'p>) -> Self {
        Self { parts, groups: 0, older: 0, stems: 0, values: 0, older_values: 0 }
    }

    fn push_groups(&mut self, source: &Source<'_>, groups: &Range<usize>) {
        let Self { parts, .. } = self;
        let to = self.groups..self.groups + groups.len();
        let entries = self.groups + self.older;
        let first_entry = source.entries(groups.start).start;
        parts.suffixes[to.clone()].copy_from_slice(&source.suffixes[groups.clone()]);
        copy_ends(&mut parts.group_ends[to.clone()], &source.group_ends[groups.clone()], first_entry, entries);

        let values = source.values_of(groups);
        copy_ends(&mut parts.value_ends[to.clone()], &source.value_ends[groups.clone()], values.start, self.values);
        append(parts.values, &mut self.values, &source.values[values]);

        if source.prefix.len() == parts.prefix.len() {
            let stems = source.stems_of(groups);
            copy_ends(&mut parts.stem_ends[to], &source.stem_ends[groups.clone()], stems.start, self.stems);
            append(parts.stems, &mut self.stems, &source.stems[stems]);
        } else {
            for group in groups.clone() {
                append_stem(parts.stems, &mut self.stems, source.stem(group), parts.prefix.len());
                parts.stem_ends[self.groups + group - groups.start] =
                    self.stems as u32 | (source.stem_ends[group] & BARE);
            }
        }
        self.groups += groups.len();
        self.copy_history(source, source.histories(groups));
    }

    fn push_first(&mut self, group: Group<'_>, suffix: u64, value: &[u8]) {
        let Self { parts, .. } = self;
        append_stem(parts.stems, &mut self.stems, group.stem, parts.prefix.len());
        append(parts.values, &mut self.values, value);
        parts.suffixes[self.groups] = suffix;
        parts.stem_ends[self.groups] = self.stems as u32 | if group.is_bare { BARE } else { 0 };
        parts.value_ends[self.groups] = self.values as u32;
        parts.group_ends[self.groups] = (self.groups + self.older + 1) as u32;
        self.groups += 1;
    }

    fn push_older(&mut self, suffix: u64, value: &[u8]) {
        let Self { parts, .. } = self;
        append(parts.older_values, &mut self.older_values, value);
        parts.older_suffixes[self.older] = suffix;
        parts.older_value_ends[self.older] = self.older_values as u32;
        self.older += 1;
        parts.group_ends[self.groups - 1] += 1;
    }

    fn push_history(&mut self, source: &Source<'_>, older: &Range<usize>) {
        self.parts.group_ends[self.groups - 1] += older.len() as u32;
        self.copy_history(source, older.clone());
    }

    fn copy_history(&mut self, source: &Source<'_>, older: Range<usize>) {
        if older.is_empty() {
            return;
        }
        let Self { parts, .. } = self;
        let to = self.older..self.older + older.len();
        self.older = to.end;
        let values = source.older_values_of(&older);
        let ends = &source.older_value_ends[older.clone()];
        copy_ends(&mut parts.older_value_ends[to.clone()], ends, values.start, self.older_values);
        append(parts.older_values, &mut self.older_values, &source.older_values[values]);
        parts.older_suffixes[to].copy_from_slice(&source.older_suffixes[older]);
    }
}

/// From where the first of `items` begins to where the last ends; `end_of` is where one ends.
fn range_of(items: &Range<usize>, end_of: impl Fn(usize) -> usize) -> Range<usize> {
    let end_before = |index: usize| index.checked_sub(1).map_or(0, &end_of);
    end_before(items.start)..end_before(items.end)
}

/// Copies ends of what is moved from one offset to another. A [`BARE`] among them stays.
fn copy_ends(to: &mut [u32], ends: &[u32], from_offset: usize, to_offset: usize) {
    let moved = (to_offset as u32).wrapping_sub(from_offset as u32);
    to.iter_mut().zip(ends).for_each(|(to, end)| *to = end.wrapping_add(moved));
}

/// Appends a stem without its first `prefix_len` bytes.
fn append_stem(target: &mut [u8], at: &mut usize, stem: Stem<'_>, prefix_len: usize) {
    append(target, at, stem.prefix.get(prefix_len..).unwrap_or_default());
    append(target, at, &stem.rest[prefix_len.saturating_sub(stem.prefix.len())..]);
}

/// The greatest number of `range`, its end included, that `holds`, where it holds for all below; the start, if for none.
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
