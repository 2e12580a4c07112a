//! A cursor over one family.
//!
//! # What it owns
//! A RocksDB iterator; what the cursor is on stays in RocksDB's blocks.
//!
//! # How it works
//! RocksDB's iterator has the movements that ours has, keeps to bounds and turns round at any key. What is left is to
//! tell an end from an error after each movement.
//!
//! # Invariants
//! - RocksDB never sees bounds between which no key can be: it takes `lower < upper` for granted.
//! - An iterator that is not valid is not moved by one; the library's wrapper sees to it.
//!
//! # What it must not do
//! Hold anything of the engine but its snapshot, which keeps both the versions and the directory's lock alive.

use engine_traits::{Cf, IterBounds, Iterator, Result};
use rocksdb::{DBRawIterator, ReadOptions};

use crate::{RocksSnapshot, database::Walk, errors::translate};

/// A cursor over one column family of a [`RocksSnapshot`].
pub struct RocksCursor {
    /// None when nothing can be within the bounds.
    walk: Option<Walk>,
    cf: Cf,
}

impl RocksCursor {
    pub(crate) fn new(snapshot: &RocksSnapshot, cf: Cf, bounds: IterBounds) -> Self {
        let IterBounds { lower, upper } = bounds;
        let is_empty = upper.as_deref().is_some_and(|upper| upper <= lower.as_deref().unwrap_or_default());
        let walk = (!is_empty).then(|| {
            let mut options = ReadOptions::default();
            lower.into_iter().for_each(|lower| options.set_iterate_lower_bound(lower));
            upper.into_iter().for_each(|upper| options.set_iterate_upper_bound(upper));
            snapshot.walk(cf, options)
        });
        Self { walk, cf }
    }

    fn step(&mut self, step: impl FnOnce(&mut DBRawIterator<'_>)) -> Result<bool> {
        let Some(walk) = &mut self.walk else { return Ok(false) };
        walk.with_dependent_mut(|_, iterator| {
            step(iterator);
            if iterator.valid() {
                return Ok(true);
            }
            iterator.status().map(|()| false)
        })
        .map_err(|error| translate("iterate", self.cf.name(), error))
    }

    fn iterator(&self) -> Option<&DBRawIterator<'_>> {
        self.walk.as_ref().map(Walk::borrow_dependent)
    }
}

const ON_A_KEY: &str = "the cursor is on a key, as the caller must have checked";

impl Iterator for RocksCursor {
    /// RocksDB takes some twenty steps in the time that a cursor takes for a seek: what is tried in vain at most doubles it.
    const STEPS_BEFORE_SEEK: usize = 20;

    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.step(|iterator| iterator.seek(key))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.step(|iterator| iterator.seek_for_prev(key))
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.step(|iterator| iterator.seek_to_first())
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.step(|iterator| iterator.seek_to_last())
    }

    fn next(&mut self) -> Result<bool> {
        self.step(|iterator| iterator.next())
    }

    fn prev(&mut self) -> Result<bool> {
        self.step(|iterator| iterator.prev())
    }

    fn valid(&self) -> bool {
        self.iterator().is_some_and(DBRawIterator::valid)
    }

    fn key(&self) -> &[u8] {
        self.iterator().and_then(DBRawIterator::key).expect(ON_A_KEY)
    }

    fn value(&self) -> &[u8] {
        self.iterator().and_then(DBRawIterator::value).expect(ON_A_KEY)
    }
}
