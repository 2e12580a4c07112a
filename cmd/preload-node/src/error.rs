//! Why a subcommand gives up.
//!
//! **Owns** the errors of this binary. The caller does the same with all of them but [`Error::Interrupted`]: it prints
//! them and exits.
//!
//! **How it works.** An error names what was being done; what went wrong below is its source, printed by
//! [`Error::with_causes`].
//!
//! **Invariants.** A user can tell from the text what failed and, where there is a choice, what to do.
//!
//! **Must not** stand for a claim that did not hold: that is a measurement, see `demo::report`.

use std::{error::Error as _, io, path::PathBuf, time::Duration};

use engine_traits::ReadSource;
use kvproto::errorpb;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("data directory {} is not empty; name one that is empty or does not exist", .0.display())]
    DataDirNotEmpty(PathBuf),
    #[error(
        "{rows} rows x {versions} versions make about {size_mib} MiB of data, the demo's region holds at most {max_mib} MiB"
    )]
    TooMuchData { rows: u64, versions: u64, size_mib: u64, max_mib: u64 },
    #[error("cannot {doing}")]
    Io { doing: String, source: io::Error },
    #[error("cannot {doing}")]
    Store { doing: &'static str, source: raftstore::Error },
    /// The store's answer to a command.
    #[error("cannot {doing}: {}", .answer.get_message())]
    Refused { doing: &'static str, answer: Box<errorpb::Error> },
    #[error("cannot read a row")]
    Read(#[from] hybrid_engine::mvcc::Error),
    #[error("a read that is to be served from memory is served from {0}")]
    NotInMemory(ReadSource),
    #[error("cannot set up the plugin")]
    PluginConfig(#[from] preload_observer::ConfigError),
    #[error("cannot set up the log")]
    Log(#[from] tikv_util::logger::InitError),
    #[error("waited {deadline:?} in vain for {what}")]
    TimedOut { what: String, deadline: Duration },
    /// A line for each mistake, which begins with the file's name.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    #[error(transparent)]
    Node(#[from] server::NodeError),
    #[error(transparent)]
    StatusServer(#[from] server::status_server::StartError),
    #[error("interrupted")]
    Interrupted,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Error::Io { doing: doing.into(), source }
    }

    pub(crate) fn store(doing: &'static str) -> impl FnOnce(raftstore::Error) -> Self {
        move |source| Error::Store { doing, source }
    }

    pub(crate) fn refused(doing: &'static str) -> impl FnOnce(Box<errorpb::Error>) -> Self {
        move |answer| Error::Refused { doing, answer }
    }

    /// The whole chain in one line.
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
