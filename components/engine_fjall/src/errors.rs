//! From fjall's errors to the engine's.

use std::path::PathBuf;

use engine_traits::Error;
use fjall::LsmError;

/// Why a database could not be opened or copied, with the directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error("{} is in use by another engine", path.display())]
    Locked { path: PathBuf },
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("{} has no parent directory", path.display())]
    NoParent { path: PathBuf },
    #[error("{}", path.display())]
    Fjall { path: PathBuf, source: fjall::Error },
    #[error("{}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{name} is {found}, it must be at least {min}")]
    Config { name: &'static str, found: u64, min: u64 },
}

impl From<DirectoryError> for Error {
    /// For errors of opening; a checkpoint wraps its own.
    fn from(error: DirectoryError) -> Self {
        Error::engine("open", error)
    }
}

/// Translates what fjall said when it was asked to `operation`. `place` names the database or the family.
pub(crate) fn translate(operation: &'static str, place: &str, error: fjall::Error) -> Error {
    if is_corruption(&error) {
        Error::Corruption { place: format!("fjall {place}"), reason: error.to_string() }
    } else if matches!(error, fjall::Error::Poisoned) {
        // Only fjall knows what it was: a flush or a compaction, as failed writes and syncs are remembered by us.
        Error::Poisoned { operation: "flush or compact" }
    } else {
        Error::engine(operation, error)
    }
}

fn is_corruption(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Storage(LsmError::Io(error)) | fjall::Error::Io(error) => is_corrupt_data(error),
        fjall::Error::Storage(_)
        | fjall::Error::JournalRecovery(_)
        | fjall::Error::InvalidVersion(_)
        | fjall::Error::Decompress(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Unrecoverable => true,
        _ => false,
    }
}

/// A table that is shorter than its own index says, or not a table at all.
fn is_corrupt_data(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData)
}
