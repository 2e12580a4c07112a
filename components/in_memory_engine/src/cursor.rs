//! Stepping through a snapshot of a region.
//!
//! **Owns** the position of a reader.
//!
//! **How it works.** The cursor is in one leaf, on one entry, and knows the *run* around it: entries of a block within
//! the bounds with no change in between. Within the run it steps by adding one. At its end the leaf is asked for the
//! entry behind (or before) the current key, which also tells the next run; a cursor has no direction and can turn at any
//! time. Behind the last entry of a leaf comes the first of the next one. The changes of a leaf are sorted for a cursor that has
//! met a few of them already.
//!
//! To skip the versions of a user key is to go to the next group of the block, however many they are; a scan in reverse finds
//! the version that it wants in the group that it is in, and leaves it for the one before.
//!
//! **Invariants.** The key is within the bounds. What the cursor shows is what its snapshot shows: it looks at leaves of
//! the snapshot's directory only, and at changes up to its number.
//!
//! **Must not** wait, nor allocate for a step.

use std::{ops::Range, sync::Arc};

use engine_traits::{Iterator, Result};

use crate::{
    RegionCacheSnapshot,
    block::{Entries, SUFFIX_LEN, Version},
    delta::Node,
    directory::{Directory, Place},
    family::Family,
    leaf::{At, Leaf, Spot, View},
    prefetch::prefetch_all,
};

/// So many user keys before it is needed, a value is fetched: a few hundred nanoseconds, which is what memory takes.
const GROUPS_AHEAD: usize = 8;

/// The same for what tells where the value is.
const GROUPS_FAR_AHEAD: usize = 16;

/// A cursor that has left so many runs of a leaf will likely go through the leaf, and sorts its changes. For one that reads
/// a few entries that would take longer than to look for each change.
const RUNS_UNTIL_SORTED: usize = 4;

/// A cursor of a [`RegionCacheSnapshot`].
#[derive(Debug)]
pub struct RegionCacheIterator {
    source: Source,
    lower: Vec<u8>,
    upper: Vec<u8>,
    position: Option<Position>,
    /// The changes of the leaf that the cursor is in, in the order of their keys; empty if they were not sorted.
    sorted: Vec<Node>,
    /// How many runs of that leaf it has left.
    runs_left: usize,
    ahead: Option<Ahead>,
    /// What [`seek_forward`](Iterator::seek_forward) has last looked for among the versions of a user key; 0 is nothing.
    sought_suffix: u64,
    /// The key of the position, and one for comparisons.
    key: Vec<u8>,
    scratch: Vec<u8>,
}

/// What is read.
#[derive(Debug)]
struct Source {
    snapshot: RegionCacheSnapshot,
    directory: Arc<Directory>,
}

#[derive(Debug)]
struct Position {
    place: Place,
    leaf: Arc<Leaf>,
    /// Of the leaf's entries, those within the bounds.
    within: Entries,
    /// Where in the leaf the cursor is, and what is around it. [`Spot::near`] is the group that the entry is in, if it is in
    /// the block.
    spot: Spot,
    /// The entries of that group.
    group_entries: Entries,
    /// Which of them the entry is, and where in the block its value is.
    version: Version,
    value: Range<usize>,
}

/// What a cursor that goes forward from user key to user key, to a version of each that is not the newest, has had fetched.
/// Only a hint: if it goes elsewhere, this begins anew at the next leaf.
#[derive(Debug)]
struct Ahead {
    /// Where the next value is that will be fetched.
    value: Outlook,
    /// The same of what tells where it is.
    versions: Outlook,
    /// Of each user key, the first version with a suffix not below this will be needed.
    suffix: u64,
}

/// A group of a leaf; `None` behind the last leaf.
#[derive(Clone, Copy, Debug)]
struct Outlook {
    place: Option<Place>,
    group: usize,
}

/// Where a search goes.
#[derive(Clone, Copy)]
enum Target<'a> {
    Key(&'a [u8]),
    /// The current key.
    Current,
    Lower,
    Upper,
}

impl RegionCacheIterator {
    pub(crate) fn new(snapshot: RegionCacheSnapshot, family: &Family, lower: Vec<u8>, upper: Vec<u8>) -> Self {
        let source = Source { directory: family.directory().clone(), snapshot };
        Self {
            source,
            lower,
            upper,
            position: None,
            sorted: Vec::new(),
            runs_left: 0,
            ahead: None,
            sought_suffix: 0,
            key: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn view<'a>(&'a self, leaf: &'a Leaf, within: &'a Entries) -> View<'a> {
        View { leaf, sequence: self.source.snapshot.sequence(), within, sorted: &self.sorted }
    }

    /// Goes to `spot` in the leaf at `place`, unless it is out of bounds.
    fn go_to(&mut self, place: Place, leaf: Arc<Leaf>, within: Entries, mut spot: Spot) -> bool {
        let (group_entries, version, value) = match spot.at {
            At::Block(entry) => {
                let block = leaf.block();
                spot.near = block.group_near(spot.near, entry);
                let version = block.version(spot.near, entry);
                block.write_key(spot.near, entry, &mut self.key);
                (block.group(spot.near), version, block.value_range(version))
            }
            At::Delta(node) => {
                let key = leaf.delta().change(node).key;
                if key < self.lower.as_slice() || key >= self.upper.as_slice() {
                    self.position = None;
                    return false;
                }
                self.key.clear();
                self.key.extend_from_slice(key);
                (0..0, Version::First(0), 0..0)
            }
        };
        self.position = Some(Position { place, leaf, within, spot, group_entries, version, value });
        true
    }

    fn end(&mut self) -> bool {
        self.position = None;
        false
    }

    /// The leaf at `place`, and which of its block's entries are within the bounds.
    fn enter(&mut self, place: Place) -> (Arc<Leaf>, Entries) {
        self.sorted.clear();
        self.runs_left = 0;
        let directory = &self.source.directory;
        let leaf = directory.leaf(place).clone();
        let mut within = leaf.entries();
        if directory.prev(place).is_none() || directory.bound(place) < self.lower.as_slice() {
            within.start = leaf.lower_bound(&self.lower);
        }
        if directory.next(place).is_none_or(|next| directory.bound(next) > self.upper.as_slice()) {
            within.end = leaf.lower_bound(&self.upper).max(within.start);
        }
        (leaf, within)
    }

    /// Goes to the first entry at or behind `target` of the leaf at `place`, or to the first one behind the leaf.
    fn seek_from(&mut self, place: Place, target: Target<'_>) -> bool {
        self.ahead = None;
        let (leaf, within) = self.enter(place);
        match self.view(&leaf, &within).seek(self.key_of(target)) {
            Some(spot) => self.go_to(place, leaf, within, spot),
            None => self.first_behind(place),
        }
    }

    /// Goes to the first entry behind the leaf at `place`.
    fn first_behind(&mut self, place: Place) -> bool {
        let mut next = self.source.directory.next(place);
        while let Some(place) = next {
            if self.source.directory.bound(place) >= self.upper.as_slice() {
                break;
            }
            let (leaf, within) = self.enter(place);
            if let Some(spot) = self.view(&leaf, &within).first() {
                self.look_ahead_from(place);
                return self.go_to(place, leaf, within, spot);
            }
            next = self.source.directory.next(place);
        }
        self.end()
    }

    /// The cursor comes to the first user key of the leaf at `place`.
    fn look_ahead_from(&mut self, place: Place) {
        let directory = &self.source.directory;
        if let Some(next) = directory.next(place) {
            directory.leaf(next).block().prefetch_start();
            if let Some(behind) = directory.next(next) {
                prefetch_all(directory.leaf(behind).as_ref());
                directory.prefetch(behind);
            }
        }
        // What is newest comes one behind the other, which the processor notices.
        if self.sought_suffix != 0 && self.ahead.is_none() {
            let start = Outlook { place: Some(place), group: 0 };
            let mut ahead = Ahead { value: start, versions: start, suffix: self.sought_suffix };
            for group in 0..GROUPS_FAR_AHEAD {
                ahead.step(directory, group >= GROUPS_FAR_AHEAD - GROUPS_AHEAD);
            }
            self.ahead = Some(ahead);
        }
    }

    /// Goes to the last entry before `target` of the leaf at `place`, or to the last one before the leaf.
    fn seek_back_from(&mut self, mut place: Place, target: Target<'_>) -> bool {
        loop {
            let (leaf, within) = self.enter(place);
            if let Some(spot) = self.view(&leaf, &within).last_before(self.key_of(target)) {
                return self.go_to(place, leaf, within, spot);
            }
            if self.source.directory.bound(place) <= self.lower.as_slice() {
                return self.end();
            }
            match self.source.directory.prev(place) {
                Some(before) => place = before,
                None => return self.end(),
            }
        }
    }

    fn key_of<'a>(&'a self, target: Target<'a>) -> &'a [u8] {
        match target {
            Target::Key(key) => key,
            Target::Current => &self.key,
            Target::Lower => &self.lower,
            Target::Upper => &self.upper,
        }
    }

    /// The leaf that `key` belongs to: often the one that the cursor is in.
    fn find(&self, key: &[u8]) -> Place {
        let directory = &self.source.directory;
        let place = match &self.position {
            Some(Position { place, .. }) => directory.find_near(*place, key),
            None => directory.find(key),
        };
        directory.prefetch(place);
        place
    }

    /// Goes to the first entry `>= key`, if that is among the versions of the current user key, and is sure to be.
    fn seek_in_group(&mut self, key: &[u8]) -> bool {
        let Some(position) = &mut self.position else { return false };
        let block = position.leaf.block();
        if matches!(position.spot.at, At::Block(_))
            && block.has_suffixes(position.spot.near)
            && let Some(suffix) = key.strip_prefix(&self.key[..self.key.len() - SUFFIX_LEN])
        {
            let target = block.lower_bound_of_suffix(position.spot.near, suffix);
            // The entry before is below `key`, and no change is in between.
            let is_first = position.spot.run.start < target
                && (position.group_entries.start < target || !block.has_nested_stems());
            if is_first && target < position.group_entries.end.min(position.spot.run.end) {
                position.step_to(target, &mut self.key);
                return true;
            }
        }
        false
    }

    /// Goes to the last entry of the group before, if that is what is before all keys that begin with `key`.
    fn leave_group_back(&mut self, key: &[u8]) -> bool {
        let Some(position) = &mut self.position else { return false };
        let block = position.leaf.block();
        let first = position.group_entries.start;
        let is_before = matches!(position.spot.at, At::Block(_))
            && block.has_suffixes(position.spot.near)
            && !block.has_nested_stems()
            && position.spot.run.start < first
            && key == &self.key[..self.key.len() - SUFFIX_LEN];
        if is_before {
            position.step_to(first - 1, &mut self.key);
        }
        is_before
    }

    /// Goes to the next group, if that is the next thing without the first `len` bytes of the current key.
    #[inline]
    fn skip_group(&mut self, len: usize) -> bool {
        let Some(position) = &mut self.position else { return false };
        let block = position.leaf.block();
        let next = position.group_entries.end;
        let is_next = matches!(position.spot.at, At::Block(_))
            && block.has_suffixes(position.spot.near)
            && len + SUFFIX_LEN == self.key.len()
            && next < position.spot.run.end
            && !block.has_nested_stems();
        if is_next {
            position.step_to(next, &mut self.key);
            if let Some(ahead) = &mut self.ahead {
                ahead.step(&self.source.directory, true);
            }
        }
        is_next
    }

    /// Goes to what `search` finds in this leaf, or to the first entry behind it.
    fn leave_run(&mut self, search: impl FnOnce(View<'_>, &Spot, &[u8]) -> Option<Spot>) -> bool {
        let Some(position) = self.position.take() else { return false };
        let Position { place, leaf, within, spot, .. } = position;
        self.runs_left += 1;
        if self.runs_left == RUNS_UNTIL_SORTED {
            leaf.delta().prefetch_changes();
            leaf.delta().sort(self.source.snapshot.sequence(), &mut self.sorted);
        }
        match search(self.view(&leaf, &within), &spot, &self.key) {
            Some(spot) => self.go_to(place, leaf, within, spot),
            None => self.first_behind(place),
        }
    }

    /// Goes to the first entry at or behind `key`, which is greater than the current one and likely near.
    fn seek_behind(&mut self, key: &[u8]) -> bool {
        let directory = &self.source.directory;
        let is_here = self
            .position
            .as_ref()
            .is_some_and(|position| directory.next(position.place).is_none_or(|next| key < directory.bound(next)));
        self.ahead = None;
        if is_here {
            return self.leave_run(|view, spot, _| view.seek_behind(spot, key));
        }
        let found = self.seek_from(self.find(key), Target::Key(key));
        if let Some(Position { place, .. }) = self.position {
            self.look_ahead_from(place);
        }
        found
    }

    /// Goes behind all keys that begin with the first `len` bytes of the current one.
    fn seek_behind_prefix(&mut self, len: usize) -> bool {
        let mut target = std::mem::take(&mut self.scratch);
        target.clear();
        target.extend_from_slice(&self.key[..len]);
        // The next prefix of at most this length.
        while target.pop_if(|byte| *byte == u8::MAX).is_some() {}
        let found = match target.last_mut() {
            Some(last) => {
                *last += 1;
                target.as_slice() < self.upper.as_slice() && self.seek_behind(&target)
            }
            None => false,
        };
        self.scratch = target;
        if found { true } else { self.end() }
    }
}

impl Position {
    /// Goes to another entry of the run.
    #[inline]
    fn step_to(&mut self, entry: usize, key: &mut Vec<u8>) {
        let block = self.leaf.block();
        self.spot.at = At::Block(entry);
        if self.group_entries.contains(&entry) {
            self.version = Version::new(self.spot.near, &self.group_entries, entry);
            self.value = block.value_range(self.version);
            // A group of several entries has suffixes.
            let at = key.len() - SUFFIX_LEN;
            key[at..].copy_from_slice(&block.suffix(self.version).to_be_bytes());
            return;
        }
        self.spot.near = if entry == self.group_entries.end {
            self.spot.near + 1
        } else if entry + 1 == self.group_entries.start {
            self.spot.near - 1
        } else {
            block.group_of(entry)
        };
        self.group_entries = block.group(self.spot.near);
        self.version = Version::new(self.spot.near, &self.group_entries, entry);
        self.value = block.value_range(self.version);
        block.rewrite_key(self.spot.near, self.version, key);
    }
}

impl Ahead {
    /// The cursor has come to another user key; or, if `with_value` is not set, will begin to go through them.
    fn step(&mut self, directory: &Directory, with_value: bool) {
        if let Some(place) = self.versions.step(directory) {
            directory.leaf(place).block().prefetch_versions(self.versions.group, self.suffix);
            self.versions.group += 1;
        }
        if with_value && let Some(place) = self.value.step(directory) {
            directory.leaf(place).block().prefetch_value(self.value.group, self.suffix);
            self.value.group += 1;
        }
    }
}

impl Outlook {
    /// Goes to the next leaf if the group is behind this one.
    fn step(&mut self, directory: &Directory) -> Option<Place> {
        while let Some(place) = self.place
            && self.group >= directory.leaf(place).block().groups()
        {
            *self = Self { place: directory.next(place), group: 0 };
        }
        self.place
    }
}

impl Iterator for RegionCacheIterator {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        if self.seek_in_group(key) {
            return Ok(true);
        }
        if key <= self.lower.as_slice() {
            return self.seek_to_first();
        }
        Ok(if key < self.upper.as_slice() { self.seek_from(self.find(key), Target::Key(key)) } else { self.end() })
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        if self.leave_group_back(key) {
            return Ok(true);
        }
        if key >= self.upper.as_slice() {
            return self.seek_to_last();
        }
        if key < self.lower.as_slice() {
            return Ok(self.end());
        }
        let place = self.find(key);
        let is_exact = self.seek_from(place, Target::Key(key)) && self.key == key;
        Ok(is_exact || self.seek_back_from(place, Target::Key(key)))
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        let is_empty = self.lower >= self.upper;
        Ok(if is_empty { self.end() } else { self.seek_from(self.find(&self.lower), Target::Lower) })
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        let is_empty = self.lower >= self.upper;
        Ok(if is_empty { self.end() } else { self.seek_back_from(self.find(&self.upper), Target::Upper) })
    }

    #[inline]
    fn next(&mut self) -> Result<bool> {
        let Some(position) = &mut self.position else { return Ok(false) };
        if let At::Block(entry) = position.spot.at
            && entry + 1 < position.spot.run.end
        {
            position.step_to(entry + 1, &mut self.key);
            return Ok(true);
        }
        Ok(self.leave_run(|view, spot, key| view.behind(spot, key)))
    }

    fn prev(&mut self) -> Result<bool> {
        let Some(position) = &mut self.position else { return Ok(false) };
        if let At::Block(entry) = position.spot.at
            && position.spot.run.start < entry
        {
            position.step_to(entry - 1, &mut self.key);
            return Ok(true);
        }
        let place = position.place;
        Ok(self.seek_back_from(place, Target::Current))
    }

    fn seek_forward(&mut self, key: &[u8]) -> Result<bool> {
        if let Some(position) = &mut self.position
            && let At::Block(entry) = position.spot.at
            && position.leaf.block().has_suffixes(position.spot.near)
            && let Some(suffix) = key.strip_prefix(&self.key[..self.key.len() - SUFFIX_LEN])
        {
            self.sought_suffix = suffix.first_chunk().map_or(0, |suffix| u64::from_be_bytes(*suffix));
            let target = position.leaf.block().lower_bound_of_suffix(position.spot.near, suffix).max(entry);
            if target < position.group_entries.end && target < position.spot.run.end {
                position.step_to(target, &mut self.key);
                return Ok(true);
            }
        }
        if self.position.is_some() && self.key.as_slice() >= key {
            return Ok(true);
        }
        self.seek(key)
    }

    #[inline]
    fn skip_prefix(&mut self, len: usize) -> Result<bool> {
        if self.skip_group(len) {
            return Ok(true);
        }
        let Some(position) = &self.position else { return Ok(false) };
        let is_last_group = matches!(position.spot.at, At::Block(_))
            && position.leaf.block().has_suffixes(position.spot.near)
            && len + SUFFIX_LEN == self.key.len()
            && position.group_entries.end >= position.leaf.entries().end
            // Changes may be behind all entries of the block.
            && position.leaf.delta().len() == 0;
        if !is_last_group {
            return Ok(self.seek_behind_prefix(len));
        }
        // The rest of the versions may be in the next leaf, and is skipped in the same way then.
        let place = position.place;
        let mut prefix = std::mem::take(&mut self.scratch);
        prefix.clear();
        prefix.extend_from_slice(&self.key[..len]);
        let found = self.first_behind(place);
        let is_same = found && self.key.starts_with(&prefix);
        self.scratch = prefix;
        if let Some(ahead) = &mut self.ahead {
            ahead.step(&self.source.directory, true);
        }
        Ok(if is_same { self.skip_group(len) || self.seek_behind_prefix(len) } else { found })
    }

    #[inline]
    fn valid(&self) -> bool {
        self.position.is_some()
    }

    #[inline]
    fn key(&self) -> &[u8] {
        assert!(self.position.is_some(), "the caller must check that the cursor is valid");
        &self.key
    }

    #[inline]
    fn value(&self) -> &[u8] {
        let position = self.position.as_ref().expect("the caller must check that the cursor is valid");
        match position.spot.at {
            At::Block(_) => position.leaf.block().value_at(position.value.clone()),
            At::Delta(node) => position.leaf.delta().change(node).value.expect("a cursor is not on a deletion"),
        }
    }
}
