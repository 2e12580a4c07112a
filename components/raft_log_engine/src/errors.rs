//! From raft-engine's errors to the engine's.

use std::path::PathBuf;

use engine_traits::Error;

/// What is refused before raft-engine sees it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("region {region_id}: entry {found} follows entry {last}")]
    Gap { region_id: u64, last: u64, found: u64 },
    #[error("region id 0 is reserved for the store")]
    ReservedRegion,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{} is not UTF-8, as raft-engine needs it", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("{}", path.display())]
    RaftEngine { path: PathBuf, source: raft_engine::Error },
}

/// Translates what raft-engine said when it was asked to `operation`; `place` is what was read or written.
pub(crate) fn translate(operation: &'static str, place: impl FnOnce() -> String, error: raft_engine::Error) -> Error {
    if is_corruption(&error) {
        Error::Corruption { place: place(), reason: error.to_string() }
    } else {
        Error::engine(operation, error)
    }
}

pub(crate) fn is_corruption(error: &raft_engine::Error) -> bool {
    use raft_engine::Error::{Codec, Corruption, Io, Protobuf};
    match error {
        Corruption(_) | Codec(_) | Protobuf(_) => true,
        // A file that is shorter than what points into it.
        Io(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        _ => false,
    }
}
