//! Waiting for something to become true.

use std::time::{Duration, Instant};

/// Long enough for a slow disk on a busy machine; a test that fails waits this long once.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks `probe` until it returns something, at most for [`DEADLINE`].
///
/// # Panics
/// When the deadline passes; the message says what was waited for.
#[track_caller]
pub fn until_some<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    match within(DEADLINE, &mut probe) {
        Some(value) => value,
        None => panic!("timed out after {DEADLINE:?} waiting for {what}"),
    }
}

/// Asks `condition` until it is true, at most for [`DEADLINE`].
///
/// # Panics
/// When the deadline passes; the message says what was waited for.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Asks `probe` until it returns something or `timeout` has passed.
#[allow(clippy::disallowed_methods)] // Real threads are waited for, so real time it is.
pub fn within<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
