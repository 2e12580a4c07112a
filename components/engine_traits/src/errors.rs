//! Errors of engines, grouped by what the caller does next.

use std::error::Error as StdError;

use crate::KEY_BYTES_MAX;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine failed to read or write. After a failed write or sync the engine is poisoned; stop the store.
    #[error("engine failed to {operation}")]
    Engine { operation: &'static str, source: Box<dyn StdError + Send + Sync> },
    /// What is stored is not what was written. Stop the store; the replica has to be rebuilt from another one.
    #[error("corruption in {place}: {reason}")]
    Corruption { place: String, reason: String },
    /// A write or sync failed before: what is durable is unknown, so nothing is written any more. Stop the store.
    #[error("engine is poisoned by an earlier failure to {operation}")]
    Poisoned { operation: &'static str },
    /// Entries were asked for that are not in the log: already compacted, or not yet appended. Give up this read.
    #[error("region {region_id}: no log entry {index}")]
    EntryNotFound { region_id: u64, index: u64 },
    /// A batch holds a key that no engine stores. Nothing of it was written, nothing is poisoned: refuse the request.
    #[error("key of {bytes} bytes, a key is 1 to {KEY_BYTES_MAX} bytes long")]
    KeyLength { bytes: usize },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps the error `source` of an engine's library that occurred while it tried to `operation`.
    pub fn engine(operation: &'static str, source: impl StdError + Send + Sync + 'static) -> Self {
        Error::Engine { operation, source: Box::new(source) }
    }
}
