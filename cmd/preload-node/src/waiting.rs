//! Waiting for something to become true.
//!
//! **Owns** the deadline of everything that this binary waits for.
//!
//! **How it works.** Asks again and again, with a pause in between.
//!
//! **Invariants.** Every wait ends: by success, by the deadline, or by Ctrl-C.
//!
//! **Must not** panic when it was in vain: the user gets an error that says what was waited for.

use std::time::{Duration, Instant};

use crate::{
    error::{Error, Result},
    interrupt,
};

/// Ten times what the slowest wait takes on two busy cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Too short to be noticed, and long enough that waiting costs nothing.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks `probe` until it returns something, at most for [`DEADLINE`].
pub(crate) fn until_some<T>(what: impl Into<String>, probe: impl FnMut() -> Option<T>) -> Result<T> {
    within(DEADLINE, what, probe)
}

/// Asks `condition` until it is true, at most for [`DEADLINE`].
pub(crate) fn until(what: impl Into<String>, mut condition: impl FnMut() -> bool) -> Result<()> {
    until_some(what, || condition().then_some(()))
}

/// Asks `probe` until it returns something, at most for `deadline`.
pub(crate) fn within<T>(
    deadline: Duration,
    what: impl Into<String>,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let until = now() + deadline;
    loop {
        interrupt::check()?;
        if let Some(found) = probe() {
            return Ok(found);
        }
        if now() >= until {
            return Err(Error::TimedOut { what: what.into(), deadline });
        }
        std::thread::park_timeout(PAUSE);
    }
}

#[allow(clippy::disallowed_methods)] // Real threads are waited for, so real time it is.
fn now() -> Instant {
    Instant::now()
}
