//! A monotonic clock that a test can replace.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Tells the time since an arbitrary start; never goes back. Callable from any thread.
pub trait Clock: Send + Sync {
    fn now(&self) -> Duration;
}

/// The clock of the operating system, starting when it is created.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    start: Instant,
}

impl MonotonicClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock for those who take a `Clock`")]
    pub fn new() -> Self {
        MonotonicClock { start: Instant::now() }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until it is told to move. Clones share the time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now: Arc<Mutex<Duration>>,
}

impl ManualClock {
    /// A clock that shows zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// # Panics
    ///
    /// When the clock would go back.
    pub fn set(&self, to: Duration) {
        let mut now = self.now.lock();
        assert!(*now <= to, "the clock cannot go back from {now:?} to {to:?}");
        *now = to;
    }

    /// # Panics
    ///
    /// When the time does not fit a `Duration` any more.
    pub fn advance(&self, by: Duration) {
        *self.now.lock() += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_manual_clock_share_the_time() {
        let clock = ManualClock::new();
        let clone: Box<dyn Clock> = Box::new(clock.clone());
        assert_eq!(clone.now(), Duration::ZERO);
        clock.set(Duration::from_secs(5));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clone.now(), Duration::from_secs(6));
    }

    #[test]
    #[should_panic(expected = "cannot go back")]
    fn a_manual_clock_refuses_to_go_back() {
        let clock = ManualClock::new();
        clock.set(Duration::from_secs(5));
        clock.set(Duration::from_secs(4));
    }

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let clock = MonotonicClock::new();
        let earlier = clock.now();
        assert!(earlier <= clock.now());
    }
}
