//! How the program ends.
//!
//! **Owns** the exit codes, which scripts rely on; `--help` and docs/preload-ctl.md list them.

use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    /// Something was found, or the answer is no.
    Finding = 1,
    /// The command line, or what it names, cannot be used.
    Usage = 2,
    /// The node does not do it.
    Refused = 3,
    /// There is no node that could.
    Unreachable = 4,
    /// It is not known to be done yet.
    TimedOut = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
