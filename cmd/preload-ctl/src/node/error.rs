//! Why a command over HTTP fails.
//!
//! **Owns** the errors, the exit code of each, and what a user can do about it.
//!
//! **Invariants.** Each error of the node or the network names the node's address.

use std::{io, path::PathBuf, time::Duration};

use crate::exit::Exit;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot reach the node at {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error("the node at {address} has not answered within {waited:?}")]
    NoAnswer { address: String, waited: Duration },
    /// It waited for something that the node was to report.
    #[error("{what} within {waited:?} (node {address})")]
    NotYet { address: String, what: String, waited: Duration },
    #[error("what answers at {address} is no preload node: {what}")]
    NoNode { address: String, what: String },
    #[error("the node at {address} says {code}: {message}")]
    Answer { address: String, status: u16, code: String, message: String, operator: Option<u64> },
    #[error("cannot read --token-file {}", .path.display())]
    TokenFile { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Usage(String),
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Error::Unreachable { .. } | Error::NoNode { .. } => Exit::Unreachable,
            Error::NoAnswer { .. } | Error::NotYet { .. } => Exit::TimedOut,
            Error::TokenFile { .. } | Error::Usage(_) | Error::Output(_) => Exit::Usage,
            Error::Answer { status, .. } => match status {
                404 => Exit::Finding,
                400 | 405 | 413 | 415 | 422 => Exit::Usage,
                502 | 503 => Exit::Unreachable,
                504 => Exit::TimedOut,
                _ => Exit::Refused,
            },
        }
    }

    /// What to do, where there is something.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Error::Unreachable { .. } => Some(
                "start one with `preload-node serve`, or name its status address by --addr or PRELOAD_ADDR".to_owned(),
            ),
            Error::NoNode { .. } => Some("name the node's status address by --addr or PRELOAD_ADDR".to_owned()),
            Error::NoAnswer { .. } => Some("it may still do what it was asked for; --timeout waits longer".to_owned()),
            Error::Answer { status: 401, .. } => {
                Some("name the file with its token by --token-file or PRELOAD_TOKEN_FILE".to_owned())
            }
            Error::Answer { status: 403, .. } => {
                Some("name it by its IP address or localhost, or add the name to its server.allowed-hosts".to_owned())
            }
            Error::Answer { operator: Some(operator), .. } => Some(format!(
                "operator {operator} goes on; look with `preload-ctl region ID`, or --timeout waits longer"
            )),
            _ => None,
        }
    }
}
