//! Copies of the engine.
//!
//! # What it owns
//! The directory of a copy while it is being written.
//!
//! # How it works
//! fjall 3.1 has no checkpoints, and its files cannot be linked from outside: which of them belong together is known
//! to it alone. So the copy is logical.
//! 1. Open a new database next to the destination, in `<destination>.incomplete`.
//! 2. Ingest each family from the snapshot: sorted, straight into tables, past journal and memtable.
//! 3. Close it, rename it to the destination, and sync the directory that holds both.
//!
//! # Invariants
//! - The destination holds a whole copy or does not exist, also after a crash. What a crash leaves under the other name
//!   is removed by the next attempt.
//!
//! # What it must not do
//! Block writers: it reads a snapshot. It costs a read and a write of all data.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use engine_traits::{Cf, Error, Result};

use crate::{FjallConfig, FjallEngine, FjallSnapshot, cursor::KeyRange, errors::DirectoryError, errors::translate};

/// Writes a copy of `snapshot` to `path`.
pub(crate) fn write(snapshot: &FjallSnapshot, path: &Path, config: &FjallConfig) -> Result<()> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::engine("checkpoint", DirectoryError::Io { path, source })
    };
    if path.try_exists().map_err(io(path))? {
        return Err(Error::engine("checkpoint", DirectoryError::Exists { path: path.to_owned() }));
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(Error::engine("checkpoint", DirectoryError::NoParent { path: path.to_owned() })),
    };
    let incomplete = incomplete(path);
    if incomplete.try_exists().map_err(io(&incomplete))? {
        fs::remove_dir_all(&incomplete).map_err(io(&incomplete))?;
    }
    let copy = FjallEngine::open(&incomplete, config)?;
    for cf in Cf::ALL {
        ingest(snapshot, &copy, cf).map_err(|error| translate("checkpoint", cf.name(), error))?;
    }
    drop(copy);
    fs::rename(&incomplete, path).map_err(io(path))?;
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(io(parent))
}

fn ingest(snapshot: &FjallSnapshot, copy: &FjallEngine, cf: Cf) -> fjall::Result<()> {
    let mut pairs = snapshot.range(cf, &KeyRange::ALL).peekable();
    if pairs.peek().is_none() {
        return Ok(());
    }
    let keyspace = copy.inner().keyspace(cf);
    let mut ingestion = keyspace.start_ingestion()?;
    for pair in pairs {
        let (key, value) = pair.into_inner()?;
        ingestion.write(key, value)?;
    }
    ingestion.finish()
}

fn incomplete(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".incomplete");
    PathBuf::from(name)
}
