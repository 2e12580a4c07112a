//! Accounting of the memory that cached regions take.
//!
//! **Owns** the one number that the hard limit is about.
//!
//! **How it works.** Whoever holds cached data holds a [`Charge`] for it. A charge grows only if the budget has room,
//! and gives everything back when it is dropped.
//!
//! **Invariants.** Memory is taken only if `used <= capacity` afterwards, so that this holds always, but for the time that
//! evictions take after the capacity was lowered. `used` is the sum of all charges.
//!
//! **Must not** count what passes: what a load or a fold gathers for the next block, at most one block for each thread.

use std::sync::{Arc, atomic::Ordering};

use crate::{metrics::METRICS, sync::AtomicUsize};

/// The budget has no room for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the capacity of the region cache is reached")]
pub(crate) struct OverCapacity;

#[derive(Debug)]
pub(crate) struct MemoryBudget {
    capacity_bytes: AtomicUsize,
    used_bytes: AtomicUsize,
}

impl MemoryBudget {
    pub(crate) fn new(capacity_bytes: usize) -> Arc<Self> {
        Arc::new(Self { capacity_bytes: AtomicUsize::new(capacity_bytes), used_bytes: AtomicUsize::new(0) })
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_capacity(&self, capacity_bytes: usize) {
        self.capacity_bytes.store(capacity_bytes, Ordering::Relaxed);
    }

    fn reserve(&self, bytes: usize) -> Result<(), OverCapacity> {
        let capacity_bytes = self.capacity_bytes.load(Ordering::Relaxed);
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|used| *used <= capacity_bytes)
            })
            .map_err(|_| OverCapacity)?;
        METRICS.memory_usage_bytes.add(bytes as i64);
        Ok(())
    }

    fn release(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        METRICS.memory_usage_bytes.sub(bytes as i64);
    }
}

/// A part of the budget. Changed by one thread at a time, read by any.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<MemoryBudget>,
    bytes: AtomicUsize,
}

impl Charge {
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, bytes: AtomicUsize::new(0) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When the budget has no room; the charge is unchanged then.
    pub(crate) fn resize(&self, bytes: usize) -> Result<(), OverCapacity> {
        let old_bytes = self.bytes();
        if let Some(grown) = bytes.checked_sub(old_bytes) {
            self.budget.reserve(grown)?;
        } else {
            self.budget.release(old_bytes - bytes);
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// # Errors
    /// When the budget has no room; the charge is unchanged then.
    pub(crate) fn grow(&self, bytes: usize) -> Result<(), OverCapacity> {
        self.resize(self.bytes().saturating_add(bytes))
    }

    /// Moves `bytes`, or what is left if that is less, to `other`, a charge on the same budget.
    pub(crate) fn transfer(&self, other: &Charge, bytes: usize) {
        let moved = bytes.min(self.bytes());
        self.bytes.store(self.bytes() - moved, Ordering::Relaxed);
        other.bytes.store(other.bytes() + moved, Ordering::Relaxed);
    }

    /// All of this charge, leaving nothing.
    pub(crate) fn take(&self) -> Charge {
        let taken = Charge::new(self.budget.clone());
        self.transfer(&taken, self.bytes());
        taken
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_never_exceeds_the_budget_and_gives_all_back() {
        let budget = MemoryBudget::new(100);
        let first = Charge::new(budget.clone());
        let second = Charge::new(budget.clone());
        assert_eq!(first.resize(60), Ok(()));
        assert_eq!(second.grow(41), Err(OverCapacity));
        assert_eq!(second.grow(usize::MAX), Err(OverCapacity));
        assert_eq!((second.bytes(), budget.used_bytes()), (0, 60));
        assert_eq!(second.grow(40), Ok(()));
        assert_eq!(first.resize(10), Ok(()));
        first.transfer(&second, 4);
        assert_eq!((first.bytes(), second.bytes(), budget.used_bytes()), (6, 44, 50));
        let taken = second.take();
        drop(second);
        assert_eq!(budget.used_bytes(), 50);
        drop((first, taken));
        assert_eq!(budget.used_bytes(), 0);
    }
}
