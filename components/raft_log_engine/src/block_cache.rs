//! A guard for raft-engine's cache of entry blocks.
//!
//! # What it owns
//! For each thread, which store it read entries of.
//!
//! # How it works
//! raft-engine keeps the block of entries that a thread read last in a thread-local cache, whose key is the place of the
//! block *within a store*: queue, file number, offset, length. A thread that reads entries of two stores, or of one that
//! was closed and opened again, can be served a block of the wrong one; a purge would even write it back.
//! 1. The first store that a thread reads belongs to this thread's cache.
//! 2. A read of any other store on this thread runs on a thread of its own, whose cache is empty.
//!
//! Threads of a store (its store thread, its apply threads) only ever do the first. A test that looks at three stores
//! pays a thread for a read, some 30 µs.
//!
//! # Invariants
//! - All that makes raft-engine read entries runs inside [`StoreId::run`].
//!
//! # What it must not do
//! Guess when it is safe to reuse a cache: an id is never given twice.

use std::{
    cell::Cell,
    panic::resume_unwind,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use engine_traits::{Error, Result};

/// Names one opening of one store, within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreId(u64);

thread_local! {
    static CACHED: Cell<Option<StoreId>> = const { Cell::new(None) };
}

impl StoreId {
    pub(crate) fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs `read` on a thread whose block cache holds nothing of another store: this one if possible.
    pub(crate) fn run<T: Send>(self, read: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        if CACHED.get().is_none() {
            CACHED.set(Some(self));
        }
        if CACHED.get() == Some(self) {
            return read();
        }
        thread::scope(|scope| {
            let reader = thread::Builder::new().name("raft-log-read".to_owned()).spawn_scoped(scope, read);
            let reader = reader.map_err(|error| Error::engine("start a thread to read entries", error))?;
            reader.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}
