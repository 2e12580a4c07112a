//! Hands out ids of regions and peers, each at most once.
//!
//! # How it works
//! Regions and peers share one sequence. Ids are reserved in blocks: the end of the block is durable before the first of
//! its ids is handed out, and a restart begins behind it. What was left of a block is lost, which costs nothing.
//!
//! # Invariants
//! `next <= reserved`, and `reserved` is what the storage holds. No id is handed out twice, whenever the process ends.
//! No id is handed out that a region or peer is known to have: a cluster's first ones are chosen by whoever bootstraps it.
//!
//! # What it must not do
//! Go on after a write that failed as if it had succeeded.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Ids that one write reserves. Some hundred splits; a restart in each second would not exhaust 64 bits either.
const BLOCK: u64 = 1000;

/// Remembers one number.
pub trait IdStorage: Send {
    /// The number that was stored last; `None` if none ever was.
    ///
    /// # Errors
    /// When it cannot be read, or what was read is no number.
    fn load(&self) -> io::Result<Option<u64>>;

    /// Returns when `number` is durable.
    ///
    /// # Errors
    /// When it may not be; then either number may be found later.
    fn store(&mut self, number: u64) -> io::Result<()>;
}

/// See the [module](self).
pub struct Ids {
    next: u64,
    reserved: u64,
    storage: Box<dyn IdStorage>,
}

impl Ids {
    /// # Errors
    /// When the storage cannot be read.
    pub fn open(storage: impl IdStorage + 'static) -> io::Result<Self> {
        let reserved = storage.load()?.unwrap_or(1);
        Ok(Self { next: reserved, reserved, storage: Box::new(storage) })
    }

    /// An id that nobody has or had.
    ///
    /// # Errors
    /// When no more can be reserved.
    pub fn allocate(&mut self) -> io::Result<u64> {
        if self.next >= self.reserved {
            let reserved = self.next.checked_add(BLOCK).ok_or_else(|| io::Error::other("all ids are used up"))?;
            self.storage.store(reserved)?;
            self.reserved = reserved;
        }
        let id = self.next;
        self.next += 1;
        Ok(id)
    }

    /// # Errors
    /// When no more can be reserved.
    pub fn allocate_many(&mut self, count: usize) -> io::Result<Vec<u64>> {
        (0..count).map(|_| self.allocate()).collect()
    }

    /// Somebody has this id: neither it nor a smaller one is handed out from now on.
    pub fn observe(&mut self, id: u64) {
        self.next = self.next.max(id.saturating_add(1));
    }
}

/// A file with one number, replaced as a whole.
pub struct FileStorage(PathBuf);

impl FileStorage {
    /// The file need not exist; its directory must.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
}

impl IdStorage for FileStorage {
    fn load(&self) -> io::Result<Option<u64>> {
        match fs::read_to_string(&self.0) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no number", self.0.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn store(&mut self, number: u64) -> io::Result<()> {
        let new = self.0.with_extension("new");
        let mut file = File::create(&new)?;
        writeln!(file, "{number}")?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        // The name is durable once the directory is.
        File::open(self.0.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Keeps the number in memory, for whoever needs no durability or simulates it. Clones share the number.
#[derive(Clone, Default)]
pub struct MemoryStorage(std::sync::Arc<parking_lot::Mutex<Option<u64>>>);

impl IdStorage for MemoryStorage {
    fn load(&self) -> io::Result<Option<u64>> {
        Ok(*self.0.lock())
    }

    fn store(&mut self, number: u64) -> io::Result<()> {
        *self.0.lock() = Some(number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Each run syncs a file several times.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn no_id_is_handed_out_twice_whenever_the_process_ends(
            runs in prop::collection::vec((0usize..2500, prop::option::of(0u64..5000)), 1..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ids");
            let mut seen = BTreeSet::new();
            for (count, observed) in runs {
                // A crash between the two steps of a write leaves this behind.
                fs::write(path.with_extension("new"), "77").unwrap();
                let mut ids = Ids::open(FileStorage::new(&path)).unwrap();
                if let Some(observed) = observed {
                    ids.observe(observed);
                    seen.insert(observed);
                }
                for id in ids.allocate_many(count).unwrap() {
                    prop_assert!(seen.insert(id), "{id} is handed out again");
                }
            }
        }
    }

    /// Fails every write after the first `left`.
    struct Full {
        inner: MemoryStorage,
        left: usize,
    }

    impl IdStorage for Full {
        fn load(&self) -> io::Result<Option<u64>> {
            self.inner.load()
        }

        fn store(&mut self, number: u64) -> io::Result<()> {
            self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("disk is full"))?;
            self.inner.store(number)
        }
    }

    #[test]
    fn nothing_is_handed_out_that_could_not_be_reserved() {
        let inner = MemoryStorage::default();
        let mut ids = Ids::open(Full { inner: inner.clone(), left: 1 }).unwrap();
        let last = *ids.allocate_many(BLOCK as usize).unwrap().last().unwrap();
        assert_eq!(ids.allocate().unwrap_err().to_string(), "disk is full");
        assert_eq!(Ids::open(inner).unwrap().allocate().unwrap(), last + 1);
    }

    #[test]
    fn file_that_is_no_number_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids");
        fs::write(&path, "12x").unwrap();
        let error = Ids::open(FileStorage::new(&path)).err().unwrap();
        assert!(error.to_string().contains("ids holds no number"), "{error}");
    }

    #[test]
    fn ids_end_with_an_error_and_not_from_the_start() {
        let mut ids = Ids::open(MemoryStorage::default()).unwrap();
        ids.observe(u64::MAX);
        assert!(ids.allocate().is_err());
    }
}
