//! Where a subcommand keeps its data.
//!
//! **Owns** the directory: a temporary one is removed when it is dropped, unless it is [kept](DataDir::keep).
//!
//! **How it works.** A directory that the user names is created if it is absent, and never removed.
//!
//! **Invariants.** The directory was empty when the run began: nothing that was measured comes from an earlier run.
//!
//! **Must not** delete anything that it has not created.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::error::{Error, Result};

pub(crate) enum DataDir {
    Temporary(TempDir),
    Named(PathBuf),
}

impl DataDir {
    /// # Errors
    /// When `named` is not empty, or a directory cannot be created.
    pub(crate) fn open(named: Option<&Path>) -> Result<Self> {
        let Some(dir) = named else {
            let dir = tempfile::Builder::new().prefix("preload-node-").tempdir();
            return dir.map(DataDir::Temporary).map_err(Error::io("create a temporary directory"));
        };
        fs::create_dir_all(dir).map_err(Error::io(format!("create data directory {}", dir.display())))?;
        let mut entries = fs::read_dir(dir).map_err(Error::io(format!("read data directory {}", dir.display())))?;
        if entries.next().is_some() {
            return Err(Error::DataDirNotEmpty(dir.to_owned()));
        }
        Ok(DataDir::Named(dir.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            DataDir::Temporary(dir) => dir.path(),
            DataDir::Named(dir) => dir,
        }
    }

    /// Leaves the directory where it is, for a look at what went wrong.
    pub(crate) fn keep(&mut self) {
        if let DataDir::Temporary(dir) = self {
            dir.disable_cleanup(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_directory_must_be_empty_and_stays() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("absent").join("data");
        drop(DataDir::open(Some(&dir)).unwrap());
        drop(DataDir::open(Some(&dir)).unwrap());
        fs::write(dir.join("store-1"), "").unwrap();
        let error = DataDir::open(Some(&dir)).err().unwrap();
        assert!(matches!(&error, Error::DataDirNotEmpty(named) if *named == dir), "{error:?}");
        assert!(error.to_string().contains("absent/data is not empty"), "{error}");
    }

    #[test]
    fn temporary_directory_goes_unless_it_is_kept() {
        let dir = DataDir::open(None).unwrap();
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());

        let mut dir = DataDir::open(None).unwrap();
        dir.keep();
        let path = dir.path().to_owned();
        drop(dir);
        assert!(path.exists());
        fs::remove_dir(path).unwrap();
    }
}
