//! A directory of files on the virtual disk.
//!
//! # What it owns
//! The durable files, and the effects that are not durable yet.
//!
//! # How it works
//! 1. A change is applied to the current files and kept as an effect.
//! 2. A sync of a file makes its appended data durable, a sync of the names all creations, renames and removals: what of
//!    these is durable is taken out of the effects, whatever lies between.
//! 3. A crash keeps the durable files and the oldest of the effects, as many as the test says.
//!
//! # Invariants
//! - A file that was renamed without a sync may be there and empty after a crash, as on a real disk.
//! - After a crash, or when the directory is opened again, a handle from before it only returns errors.
//!
//! # What it must not do
//! Offer more than [`FileStore`] does.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use engine_traits::{Error, FileStore, Result};
use parking_lot::Mutex;

use crate::disk::InjectedFailure;

/// Identifies a file, whatever it is called.
type FileId = u64;

#[derive(Clone, Default)]
struct Files {
    names: BTreeMap<String, FileId>,
    content: BTreeMap<FileId, Vec<u8>>,
}

#[derive(Clone)]
enum Effect {
    Append(FileId, Vec<u8>),
    Create(String, FileId),
    Rename(String, String),
    Remove(String),
}

impl Files {
    fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Append(id, data) => self.content.entry(*id).or_default().extend_from_slice(data),
            Effect::Create(name, id) => drop(self.names.insert(name.clone(), *id)),
            Effect::Rename(from, to) => {
                if let Some(id) = self.names.remove(from) {
                    self.names.insert(to.clone(), id);
                }
            }
            Effect::Remove(name) => drop(self.names.remove(name)),
        }
    }

    fn find(&self, name: &str) -> Result<&Vec<u8>> {
        static EMPTY: Vec<u8> = Vec::new();
        let id = self.names.get(name).ok_or_else(|| not_found(name))?;
        Ok(self.content.get(id).unwrap_or(&EMPTY))
    }
}

fn not_found(name: &str) -> Error {
    Error::engine("find a file", std::io::Error::new(std::io::ErrorKind::NotFound, name.to_owned()))
}

#[derive(Default)]
struct Image {
    generation: u64,
    current: Files,
    durable: Files,
    /// Changes that are not durable yet, in their order.
    effects: Vec<Effect>,
    last_id: FileId,
    /// How many changes and syncs succeed before everything fails.
    changes_to_failure: Option<usize>,
    failed: bool,
}

impl Image {
    fn change(&mut self, effect: Effect) {
        self.current.apply(&effect);
        self.effects.push(effect);
    }

    /// Makes the effects durable for which `is_synced` is true.
    fn sync(&mut self, is_synced: impl Fn(&Effect) -> bool) {
        let (synced, left) = std::mem::take(&mut self.effects).into_iter().partition(is_synced);
        self.effects = left;
        let synced: Vec<Effect> = synced;
        synced.iter().for_each(|effect| self.durable.apply(effect));
    }

    fn crash(&mut self, keep_effects: usize) {
        let mut files = std::mem::take(&mut self.durable);
        self.effects.drain(..).take(keep_effects).for_each(|effect| files.apply(&effect));
        files.content.retain(|id, _| files.names.values().any(|named| named == id));
        (self.current, self.durable) = (files.clone(), files);
        self.generation += 1;
    }

    /// Counts a change or a sync, and fails it when that was asked for.
    fn check(&mut self) -> Result<()> {
        match &mut self.changes_to_failure {
            Some(0) => self.failed = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if self.failed { Err(Error::engine("change a file", InjectedFailure)) } else { Ok(()) }
    }
}

/// All directories of a disk.
#[derive(Clone, Default)]
pub(crate) struct Directories(Arc<Mutex<BTreeMap<PathBuf, Image>>>);

impl Directories {
    pub(crate) fn open(&self, path: &Path) -> MemFiles {
        let mut images = self.0.lock();
        let image = images.entry(path.to_owned()).or_default();
        image.generation += 1;
        (image.changes_to_failure, image.failed) = (None, false);
        MemFiles { images: self.clone(), path: path.to_owned(), generation: image.generation }
    }

    pub(crate) fn crash(&self, keep: &mut impl FnMut(&Path, usize) -> usize) {
        for (path, image) in self.0.lock().iter_mut() {
            let kept = keep(path, image.effects.len());
            image.crash(kept);
        }
    }
}

/// A [`FileStore`] on a [`MemDisk`](crate::MemDisk).
#[derive(Clone)]
pub struct MemFiles {
    images: Directories,
    path: PathBuf,
    generation: u64,
}

impl fmt::Debug for MemFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFiles").field("path", &self.path).finish_non_exhaustive()
    }
}

impl MemFiles {
    /// The change or sync after the next `n` fails, and all later ones do.
    pub fn fail_after(&self, n: usize) {
        let _ = self.with(|image| {
            image.changes_to_failure = Some(n);
            Ok(())
        });
    }

    /// Whether a change or sync has failed because of [`fail_after`](Self::fail_after).
    pub fn has_failed(&self) -> bool {
        self.with(|image| Ok(image.failed)).unwrap_or(true)
    }

    /// Changes a byte of a file, on the disk as well.
    pub fn corrupt(&self, name: &str, offset: usize) {
        let _ = self.with(|image| {
            for files in [&mut image.current, &mut image.durable] {
                let id = files.names.get(name).copied();
                let byte = id.and_then(|id| files.content.get_mut(&id)?.get_mut(offset));
                byte.into_iter().for_each(|byte| *byte ^= 1);
            }
            Ok(())
        });
    }

    fn with<R>(&self, run: impl FnOnce(&mut Image) -> Result<R>) -> Result<R> {
        match self.images.0.lock().get_mut(&self.path) {
            Some(image) if image.generation == self.generation => run(image),
            _ => Err(Error::Poisoned { operation: "survive a crash" }),
        }
    }
}

impl FileStore for MemFiles {
    fn list(&self) -> Result<Vec<String>> {
        self.with(|image| Ok(image.current.names.keys().cloned().collect()))
    }

    fn size_bytes(&self, name: &str) -> Result<Option<u64>> {
        self.with(|image| Ok(image.current.find(name).ok().map(|content| content.len() as u64)))
    }

    fn read(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.with(|image| {
            let content = image.current.find(name)?;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let found = start.checked_add(buffer.len()).and_then(|end| content.get(start..end));
            let eof = || Error::engine("read a file", std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            buffer.copy_from_slice(found.ok_or_else(eof)?);
            Ok(())
        })
    }

    fn append(&self, name: &str, data: &[u8]) -> Result<()> {
        self.with(|image| {
            image.check()?;
            let id = match image.current.names.get(name) {
                Some(id) => *id,
                None => {
                    image.last_id += 1;
                    image.change(Effect::Create(name.to_owned(), image.last_id));
                    image.last_id
                }
            };
            image.change(Effect::Append(id, data.to_vec()));
            Ok(())
        })
    }

    fn sync(&self, name: &str) -> Result<()> {
        self.with(|image| {
            image.check()?;
            let id = *image.current.names.get(name).ok_or_else(|| not_found(name))?;
            image.sync(|effect| matches!(effect, Effect::Append(appended, _) if *appended == id));
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.with(|image| {
            image.check()?;
            image.current.find(from)?;
            image.change(Effect::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.with(|image| {
            image.check()?;
            image.current.find(name)?;
            image.change(Effect::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn sync_names(&self) -> Result<()> {
        self.with(|image| {
            image.check()?;
            image.sync(|effect| !matches!(effect, Effect::Append(..)));
            Ok(())
        })
    }

    fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemDisk;

    fn content(files: &MemFiles, name: &str) -> Option<Vec<u8>> {
        let mut content = vec![0; files.size_bytes(name).unwrap()? as usize];
        files.read(name, 0, &mut content).unwrap();
        Some(content)
    }

    #[test]
    fn crash_loses_content_without_a_sync_and_names_without_theirs() {
        let disk = MemDisk::new();
        let files = disk.open_files("snap");
        files.append("synced.tmp", b"1").unwrap();
        files.append("not.tmp", b"2").unwrap();
        files.sync("synced.tmp").unwrap();
        files.rename("synced.tmp", "synced").unwrap();
        files.rename("not.tmp", "not").unwrap();
        files.sync_names().unwrap();
        files.append("nameless", b"3").unwrap();
        files.sync("nameless").unwrap();
        assert_eq!(files.list().unwrap(), ["nameless", "not", "synced"]);
        disk.crash();
        assert!(files.list().is_err(), "the handle is dead");
        let files = disk.open_files("snap");
        assert_eq!(files.list().unwrap(), ["not", "synced"]);
        assert_eq!(content(&files, "synced").unwrap(), b"1");
        assert_eq!(content(&files, "not").unwrap(), b"", "it was renamed before it was synced");
    }

    #[test]
    fn crash_may_keep_the_oldest_effects() {
        for kept in 0..=4 {
            let disk = MemDisk::new();
            let files = disk.open_files("snap");
            files.append("a", b"1").unwrap();
            files.append("a", b"2").unwrap();
            files.rename("a", "b").unwrap();
            disk.crash_with(|_, unsynced| kept.min(unsynced));
            let files = disk.open_files("snap");
            let expected = [("a", None), ("a", Some("")), ("a", Some("1")), ("a", Some("12")), ("b", Some("12"))];
            let (name, expected) = expected[kept];
            assert_eq!(content(&files, name), expected.map(|expected| expected.as_bytes().to_vec()), "kept {kept}");
        }
    }

    #[test]
    fn injected_failure_lasts_until_the_directory_is_opened_again() {
        let disk = MemDisk::new();
        let files = disk.open_files("snap");
        files.fail_after(1);
        files.append("a", b"1").unwrap();
        assert!(files.append("a", b"2").is_err() && files.sync("a").is_err() && files.has_failed());
        let files = disk.open_files("snap");
        assert_eq!(content(&files, "a").unwrap(), b"1");
        files.append("a", b"2").unwrap();
        assert!(files.remove("b").is_err());
        files.remove("a").unwrap();
        assert!(files.read("a", 0, &mut [0]).is_err());
    }
}
