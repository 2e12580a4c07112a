//! The one source of randomness of a run.
//!
//! # What it owns
//! A small generator, and the few questions that the simulator asks it.
//!
//! # How it works
//! Everything a run decides is drawn from the generator that the run's seed made. What acts inside of hooks gets a
//! generator of its own by [`SimRng::fork`], so that nobody has to reach through the store for the first one.
//!
//! # Invariants
//! Equal seeds give equal answers to equal questions.
//!
//! # What it must not do
//! Be seeded from anything but a seed.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};

pub(super) struct SimRng(SmallRng);

impl SimRng {
    pub(super) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    pub(super) fn fork(&mut self) -> Self {
        Self::new(self.0.random())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0.random()
    }

    /// A number of `low..=high`.
    pub(super) fn range(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        self.range(0, len as u64 - 1) as usize
    }

    /// True `n` times out of 10,000.
    pub(super) fn permyriad(&mut self, n: u64) -> bool {
        n > 0 && self.range(0, 9_999) < n
    }

    pub(super) fn percent(&mut self, n: u64) -> bool {
        self.permyriad(n * 100)
    }

    /// Up to `max`, in whole microseconds.
    pub(super) fn up_to(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.range(0, max.as_micros() as u64))
    }

    /// Half of `mean` to one and a half times of it.
    pub(super) fn around(&mut self, mean: Duration) -> Duration {
        mean / 2 + self.up_to(mean)
    }

    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.index(items.len())) }
    }
}
