//! From RocksDB's errors to the engine's.

use std::path::PathBuf;

use engine_traits::Error;
use rocksdb::ErrorKind;

/// Why a database could not be opened, copied or added to, with the directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error("{} is in use by another engine", path.display())]
    Locked { path: PathBuf },
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("{}", path.display())]
    Rocks { path: PathBuf, source: rocksdb::Error },
    #[error("{}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{name} is {found}, it must be {min} to {max}")]
    Config { name: &'static str, found: u64, min: u64, max: u64 },
}

impl From<DirectoryError> for Error {
    /// For errors of opening; other operations wrap their own.
    fn from(error: DirectoryError) -> Self {
        Error::engine("open", error)
    }
}

/// Translates what RocksDB said when it was asked to `operation`. `place` names the database or the family.
pub(crate) fn translate(operation: &'static str, place: &str, error: rocksdb::Error) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::Corruption { place: format!("RocksDB {place}"), reason: error.into_string() },
        _ => Error::engine(operation, error),
    }
}

/// Whether opening failed because another engine has the directory. RocksDB has no error of its own for it.
pub(crate) fn is_locked(error: &rocksdb::Error) -> bool {
    error.kind() == ErrorKind::IOError && error.as_ref().contains("/LOCK: ")
}
