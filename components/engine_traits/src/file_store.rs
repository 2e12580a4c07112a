//! Files beside the engines.

use std::fmt::Debug;

use crate::Result;

/// A flat directory of files that are written once, from their beginning to their end, and then read.
///
/// Used as `Arc<dyn FileStore>`. Every method may be called on any thread; of a file, one thread at a time is the writer.
///
/// Durability: what is appended survives a power failure from the next [`sync`](FileStore::sync) of the file on; what a
/// file is called, and that it exists or does not, from the next [`sync_names`](FileStore::sync_names) on. A crash may keep
/// more than that, in any combination.
///
/// # Errors
/// Of every method: [`Error::Engine`](crate::Error::Engine) when the file system refuses, or when there is no such file.
pub trait FileStore: Debug + Send + Sync {
    /// The names of all files, sorted.
    fn list(&self) -> Result<Vec<String>>;

    /// The length of a file in bytes, `None` when there is none of this name.
    fn size_bytes(&self, name: &str) -> Result<Option<u64>>;

    /// Fills `buffer` with what is at `offset`.
    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Adds `data` at the end of a file, which is created if there is none.
    fn append(&self, name: &str, data: &[u8]) -> Result<()>;

    /// Makes the content of a file durable, but not its name.
    fn sync(&self, name: &str) -> Result<()>;

    /// Gives a file the name `to`; a file that had it is replaced.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    fn remove(&self, name: &str) -> Result<()>;

    /// Makes all that was created, renamed and removed durable.
    fn sync_names(&self) -> Result<()>;

    /// Where a file is, for messages.
    fn place(&self, name: &str) -> String;
}
