//! Timestamps of transactions, as PD hands them out.
//!
//! # What it owns
//! The last timestamp, and the durable bound of those that may have been handed out.
//!
//! # How it works
//! A timestamp is the wall clock's milliseconds and a counter within the millisecond. The milliseconds that are handed out
//! stay below a bound that is durable before they are; a restart begins at the bound. The bound is moved ahead of time by
//! [`Timestamps::reserve`], so that handing one out is a few instructions.
//!
//! # Invariants
//! Timestamps strictly increase, across restarts as well, and also when the wall clock is set back: then only the counter
//! goes on, and milliseconds are used up in advance when it is full.
//!
//! # What it must not do
//! Hand out a timestamp at or above a bound that may not be durable.

use std::io;

use parking_lot::Mutex;
use placement::IdStorage;
use txn_types::TimeStamp;

/// How far ahead of the clock the bound is moved. One small synced write in this time; a restart within it begins that
/// much ahead of the wall clock, at most.
const AHEAD_MS: u64 = 3_000;

/// Largest value of the counter within a millisecond.
const LOGICAL_MAX: u64 = (1 << 18) - 1;

/// Milliseconds since the Unix epoch.
pub type WallClock = Box<dyn Fn() -> u64 + Send + Sync>;

/// See the [module](self). All methods may be called on any thread.
pub struct Timestamps {
    clock: WallClock,
    state: Mutex<State>,
}

struct State {
    last: TimeStamp,
    /// Physical parts below it may be handed out.
    bound_ms: u64,
    storage: Box<dyn IdStorage>,
}

impl Timestamps {
    /// # Errors
    /// When the storage cannot be read or written.
    pub fn open(storage: impl IdStorage + 'static, clock: WallClock) -> io::Result<Self> {
        let bound_ms = storage.load()?.unwrap_or(0);
        let last = TimeStamp::compose(bound_ms, 0);
        let opened = Self { clock, state: Mutex::new(State { last, bound_ms, storage: Box::new(storage) }) };
        opened.reserve()?;
        Ok(opened)
    }

    /// A timestamp that is greater than all that were handed out before.
    ///
    /// # Errors
    /// When the bound has to be moved and cannot be made durable.
    pub fn next(&self) -> io::Result<TimeStamp> {
        let now_ms = (self.clock)();
        let mut state = self.state.lock();
        let last = state.last;
        let next = if now_ms > last.physical() {
            TimeStamp::compose(now_ms, 0)
        } else if last.logical() < LOGICAL_MAX {
            TimeStamp::compose(last.physical(), last.logical() + 1)
        } else {
            TimeStamp::compose(last.physical() + 1, 0)
        };
        if next.physical() >= state.bound_ms {
            state.move_bound(next.physical() + AHEAD_MS)?;
        }
        state.last = next;
        Ok(next)
    }

    /// The last timestamp that was handed out: nothing has happened behind it yet.
    pub fn last(&self) -> TimeStamp {
        self.state.lock().last
    }

    /// No timestamp that is handed out later is smaller.
    pub fn now(&self) -> TimeStamp {
        TimeStamp::compose((self.clock)(), 0).max(self.last())
    }

    /// Moves the bound on when it is close. To be called about every second.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn reserve(&self) -> io::Result<()> {
        let now_ms = (self.clock)();
        let mut state = self.state.lock();
        let ahead_of = now_ms.max(state.last.physical());
        if state.bound_ms < ahead_of + AHEAD_MS / 2 { state.move_bound(ahead_of + AHEAD_MS) } else { Ok(()) }
    }
}

impl State {
    fn move_bound(&mut self, bound_ms: u64) -> io::Result<()> {
        self.storage.store(bound_ms)?;
        self.bound_ms = bound_ms;
        Ok(())
    }
}

/// The clock of the machine.
#[allow(clippy::disallowed_methods)] // A driver is where real time enters.
pub fn wall_clock_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use placement::MemoryStorage;

    use super::*;

    fn open(storage: &MemoryStorage, now: &Arc<AtomicU64>) -> Timestamps {
        let now = now.clone();
        Timestamps::open(storage.clone(), Box::new(move || now.load(Ordering::Relaxed))).unwrap()
    }

    #[test]
    fn timestamps_increase_across_restarts_and_when_the_clock_is_set_back() {
        let (storage, now) = (MemoryStorage::default(), Arc::new(AtomicU64::new(1_000_000)));
        let mut last = TimeStamp::zero();
        for clock_ms in [1_000_000, 1_000_001, 990_000, 1_004_000, 1] {
            now.store(clock_ms, Ordering::Relaxed);
            let timestamps = open(&storage, &now);
            for _ in 0..3 {
                let next = timestamps.next().unwrap();
                assert!(next > last, "{next} after {last}");
                assert!(next.physical() < storage.load().unwrap().unwrap(), "the bound is durable first");
                last = next;
            }
        }
    }

    #[test]
    fn follows_the_clock_and_uses_up_milliseconds_in_advance_when_the_counter_is_full() {
        let (storage, now) = (MemoryStorage::default(), Arc::new(AtomicU64::new(1_000)));
        let timestamps = open(&storage, &now);
        assert_eq!(timestamps.next().unwrap(), TimeStamp::compose(1_000, 0));
        for expected in 1..=LOGICAL_MAX {
            assert_eq!(timestamps.next().unwrap().logical(), expected);
        }
        assert_eq!(timestamps.next().unwrap(), TimeStamp::compose(1_001, 0));
        now.store(9_000, Ordering::Relaxed);
        assert_eq!(timestamps.next().unwrap(), TimeStamp::compose(9_000, 0));
        assert_eq!(timestamps.last(), TimeStamp::compose(9_000, 0));
    }

    /// Fails once its number is written.
    struct Full(MemoryStorage);

    impl IdStorage for Full {
        fn load(&self) -> io::Result<Option<u64>> {
            self.0.load()
        }

        fn store(&mut self, number: u64) -> io::Result<()> {
            if self.0.load()?.is_some() { Err(io::Error::other("disk is full")) } else { self.0.store(number) }
        }
    }

    #[test]
    fn nothing_is_handed_out_above_a_bound_that_could_not_be_written() {
        let (storage, now) = (MemoryStorage::default(), Arc::new(AtomicU64::new(1_000)));
        let clock = now.clone();
        let clock: WallClock = Box::new(move || clock.load(Ordering::Relaxed));
        let timestamps = Timestamps::open(Full(storage.clone()), clock).unwrap();
        let last = timestamps.next().unwrap();
        now.store(1_000 + AHEAD_MS, Ordering::Relaxed);
        assert_eq!(timestamps.next().unwrap_err().to_string(), "disk is full");
        assert_eq!(timestamps.last(), last);
        assert!(open(&storage, &now).next().unwrap() > last);
    }
}
