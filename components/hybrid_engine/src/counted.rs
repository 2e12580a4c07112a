//! A cursor on the disk that counts what it costs.
//!
//! **Owns** the count of one cursor's moves.
//!
//! **How it works.** Each move of the disk engine's cursor is counted, also those that skip versions, because
//! [`seek_forward`](Iterator::seek_forward) and [`skip_prefix`](Iterator::skip_prefix) are the trait's own here and call the
//! others. The count goes to the region's counters when the cursor is dropped.
//!
//! **Must not** move otherwise than the disk engine's cursor would by itself.

use std::sync::Arc;

use engine_traits::{Iterator, Result};
use in_memory_engine::{DiskReads, STEPS_PER_SEEK};

/// See the module.
#[derive(Debug)]
pub struct CountedCursor<D> {
    cursor: D,
    steps: u64,
    /// `None` when nobody wants to know.
    reads: Option<Arc<DiskReads>>,
}

impl<D> CountedCursor<D> {
    pub(crate) fn new(cursor: D, reads: Option<Arc<DiskReads>>) -> Self {
        Self { cursor, steps: 0, reads }
    }
}

impl<D> Drop for CountedCursor<D> {
    fn drop(&mut self) {
        if let Some(reads) = &self.reads {
            reads.add_steps(self.steps);
        }
    }
}

impl<D: Iterator> Iterator for CountedCursor<D> {
    const STEPS_BEFORE_SEEK: usize = D::STEPS_BEFORE_SEEK;

    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.steps += STEPS_PER_SEEK;
        self.cursor.seek(key)
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.steps += STEPS_PER_SEEK;
        self.cursor.seek_for_prev(key)
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.steps += STEPS_PER_SEEK;
        self.cursor.seek_to_first()
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.steps += STEPS_PER_SEEK;
        self.cursor.seek_to_last()
    }

    fn next(&mut self) -> Result<bool> {
        self.steps += 1;
        self.cursor.next()
    }

    fn prev(&mut self) -> Result<bool> {
        self.steps += 1;
        self.cursor.prev()
    }

    fn valid(&self) -> bool {
        self.cursor.valid()
    }

    fn key(&self) -> &[u8] {
        self.cursor.key()
    }

    fn value(&self) -> &[u8] {
        self.cursor.value()
    }
}
