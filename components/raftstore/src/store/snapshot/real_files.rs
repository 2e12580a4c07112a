//! A directory of the file system as a [`FileStore`].
//!
//! # What it owns
//! The path. No file stays open: a snapshot's are written and read block by block, and opening one costs less than a
//! hundredth of what a block does.
//!
//! # What it must not do
//! Look at what the files hold.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use engine_traits::{Error, FileStore, Result};

/// A [`FileStore`] on the file system.
#[derive(Debug)]
pub struct RealFiles {
    path: PathBuf,
}

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
struct FileError {
    path: PathBuf,
    source: io::Error,
}

impl RealFiles {
    /// Opens the directory `path`, and creates it when there is none.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(path: &Path) -> Result<Self> {
        let files = Self { path: path.to_owned() };
        fs::create_dir_all(path).map_err(|source| files.error("create a directory", "", source))?;
        Ok(files)
    }

    fn error(&self, operation: &'static str, name: &str, source: io::Error) -> Error {
        Error::engine(operation, FileError { path: self.path.join(name), source })
    }

    fn file(&self, name: &str) -> io::Result<File> {
        File::open(self.path.join(name))
    }
}

impl FileStore for RealFiles {
    fn list(&self) -> Result<Vec<String>> {
        let names = || -> io::Result<Vec<String>> {
            let entries = fs::read_dir(&self.path)?.collect::<io::Result<Vec<_>>>()?;
            let files = entries.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
            // A name that is not text is not one of ours.
            Ok(files.filter_map(|entry| entry.file_name().into_string().ok()).collect())
        };
        let mut names = names().map_err(|source| self.error("list files", "", source))?;
        names.sort_unstable();
        Ok(names)
    }

    fn size_bytes(&self, name: &str) -> Result<Option<u64>> {
        match fs::metadata(self.path.join(name)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("look at a file", name, error)),
        }
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let read = self.file(name).and_then(|file| file.read_exact_at(buffer, offset));
        read.map_err(|source| self.error("read a file", name, source))
    }

    fn append(&self, name: &str, data: &[u8]) -> Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(self.path.join(name));
        file.and_then(|mut file| file.write_all(data)).map_err(|source| self.error("write a file", name, source))
    }

    fn sync(&self, name: &str) -> Result<()> {
        let synced = self.file(name).and_then(|file| file.sync_all());
        synced.map_err(|source| self.error("sync a file", name, source))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let renamed = fs::rename(self.path.join(from), self.path.join(to));
        renamed.map_err(|source| self.error("rename a file", from, source))
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.path.join(name)).map_err(|source| self.error("remove a file", name, source))
    }

    fn sync_names(&self) -> Result<()> {
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(|source| self.error("sync a directory", "", source))
    }

    fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}
