//! Waiting for something to become true.
//!
//! **Owns** the deadline of everything that this binary waits for.
//!
//! **How it works.** Asks again and again, see [`test_raftstore::wait`].
//!
//! **Invariants.** Every wait ends: by success, by the deadline, or by Ctrl-C.
//!
//! **Must not** panic when it was in vain: the user gets an error that says what was waited for.

use std::time::Duration;

use test_raftstore::wait;

use crate::{
    error::{Error, Result},
    interrupt,
};

/// Ten times what the slowest wait takes on two busy cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

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
    let asked = wait::within(deadline, || match interrupt::check() {
        Ok(()) => probe().map(Ok),
        Err(interrupted) => Some(Err(interrupted)),
    });
    asked.unwrap_or_else(|| Err(Error::TimedOut { what: what.into(), deadline }))
}
