//! Ctrl-C.
//!
//! **Owns** the flag that SIGINT and SIGTERM set.
//!
//! **How it works.** The first signal sets the flag. Whatever waits or loops [checks](check) it and returns
//! [`Error::Interrupted`], so that stores are stopped and temporary directories removed on the way out. The second
//! signal ends the process at once.
//!
//! **Invariants.** The flag is never taken back.
//!
//! **Must not** do anything in the signal handler but set the flag or exit.

use std::{
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::{
    EXIT_INTERRUPTED,
    error::{Error, Result},
};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Takes the signals over from the default handler, which would leave temporary directories behind.
pub(crate) fn install() -> Result<()> {
    let install = |signal| -> io::Result<()> {
        // The order matters: the second signal finds the flag set by the first.
        flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED.into(), REQUESTED.clone())?;
        flag::register(signal, REQUESTED.clone())?;
        Ok(())
    };
    [SIGINT, SIGTERM].into_iter().try_for_each(install).map_err(Error::io("handle Ctrl-C"))
}

/// # Errors
/// [`Error::Interrupted`] once there was a signal.
pub(crate) fn check() -> Result<()> {
    if REQUESTED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
