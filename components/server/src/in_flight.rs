//! Writes on their way, so that a reader does not miss one.
//!
//! # What it owns
//! The commit timestamps of the writes whose outcome is not known yet.
//!
//! # How it works
//! A write is entered in the same step in which it gets its commit timestamp, and leaves when its outcome is known. A
//! reader at a timestamp waits until no write at or below it is on its way: what comes later commits above it. So what a
//! timestamp shows never changes, as in TiKV, where a lock or the concurrency manager sees to it.
//!
//! # Invariants
//! A write is on its way until nothing can apply it any more, even when its client has given up: its [`Guard`] is held by
//! the store's callback.
//!
//! # What it must not do
//! Be held while waiting for a store.

use std::{collections::BTreeSet, io, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use txn_types::TimeStamp;

use crate::timestamps::Timestamps;

/// See the [module](self). Clones share it.
#[derive(Clone)]
pub struct InFlight(Arc<Inner>);

struct Inner {
    commits: Mutex<BTreeSet<TimeStamp>>,
    /// Changes whenever a write has left.
    left: watch::Sender<()>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self(Arc::new(Inner { commits: Mutex::default(), left: watch::Sender::new(()) }))
    }
}

/// A write on its way, until it is dropped.
pub struct Guard {
    inner: Arc<Inner>,
    commit_ts: TimeStamp,
}

impl InFlight {
    /// Enters a write, which commits at the timestamp that is returned.
    ///
    /// # Errors
    /// When no timestamp can be handed out.
    pub fn enter(&self, timestamps: &Timestamps) -> io::Result<(TimeStamp, Guard)> {
        let mut commits = self.0.commits.lock();
        let commit_ts = timestamps.next()?;
        commits.insert(commit_ts);
        Ok((commit_ts, Guard { inner: self.0.clone(), commit_ts }))
    }

    /// A timestamp for a reader that sees all writes that are acknowledged by now.
    ///
    /// # Errors
    /// When no timestamp can be handed out.
    pub fn read_ts(&self, timestamps: &Timestamps) -> io::Result<TimeStamp> {
        let _commits = self.0.commits.lock();
        timestamps.next()
    }

    /// Returns when no write at or below `ts` is on its way. `ts` must have been handed out already.
    pub async fn settled(&self, ts: TimeStamp) {
        let mut left = self.0.left.subscribe();
        loop {
            left.borrow_and_update();
            if self.0.commits.lock().first().is_none_or(|first| *first > ts) {
                return;
            }
            // Fails only when the sender is gone, and `self` holds it.
            let _ = left.changed().await;
        }
    }

    /// How many writes are on their way.
    pub fn len(&self) -> usize {
        self.0.commits.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.inner.commits.lock().remove(&self.commit_ts);
        self.inner.left.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use placement::MemoryStorage;

    use super::*;

    #[test]
    fn a_reader_waits_for_the_writes_below_it_and_for_no_others() {
        let timestamps = Timestamps::open(MemoryStorage::default(), Box::new(|| 1_000)).unwrap();
        let in_flight = InFlight::default();
        let (_, first) = in_flight.enter(&timestamps).unwrap();
        let read_ts = in_flight.read_ts(&timestamps).unwrap();
        let (_, later) = in_flight.enter(&timestamps).unwrap();
        let mut settled = std::pin::pin!(in_flight.settled(read_ts));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(settled.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(settled.as_mut().poll(&mut context).is_ready(), "the later one does not matter");
        assert_eq!(in_flight.len(), 1);
        drop(later);
        assert!(in_flight.is_empty());
    }
}
