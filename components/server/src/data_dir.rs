//! The directory of a node.
//!
//! # What it owns
//! The lock on the directory, and the file that says which cluster is in it.
//!
//! | in the directory | what it is |
//! |---|---|
//! | `LOCK` | locked while a node runs; holds its process id |
//! | `cluster.toml` | the cluster's id, its disk engine, its stores, and whether it was bootstrapped |
//! | `online.json` | what was changed while the node ran, see [`crate::kept`] |
//! | `placement-ids`, `timestamps` | bounds of what was handed out |
//! | `store-N` | a store, see [`crate::store`] |
//!
//! # How it works
//! The file is written before the first store is bootstrapped, and again when all were. In between, no region can have
//! committed anything that a store bootstrapped later does not know. Afterwards a store without an identity has lost it.
//!
//! # Invariants
//! - One process at a time has the directory.
//! - A store that has voted or acknowledged is never bootstrapped again.
//!
//! # What it must not do
//! Remove anything.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Stop the other one, or choose another directory.
    #[error("data directory {} is in use by process {holder}", .dir.display())]
    InUse { dir: PathBuf, holder: String },
    #[error("cannot {doing} {}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// Choose another directory, or the engine that it was created with.
    #[error("data directory {} was created with engine.name = \"{found}\", this node is configured with \"{wanted}\"", .dir.display())]
    OtherEngine { dir: PathBuf, found: String, wanted: String },
    #[error("data directory {} has {found} stores; node.stores = {wanted} would leave some of them out", .dir.display())]
    TooFewStores { dir: PathBuf, found: u64, wanted: u64 },
    /// Restore it from a copy, or remove it from the regions' peers by hand.
    #[error("store {store_id} in {} has lost its data", .dir.display())]
    StoreLost { dir: PathBuf, store_id: u64 },
    #[error("{} cannot be understood", .path.display())]
    Malformed { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// What is known of the cluster in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClusterFile {
    pub cluster_id: u64,
    pub engine: String,
    /// Stores 1 to this one.
    pub stores: u64,
    /// Stores of the first region's voters: 1 to this one.
    pub first_voters: u64,
    /// All of `first_voters` have the first region.
    pub bootstrapped: bool,
}

/// A directory that this process has to itself.
pub struct DataDir {
    path: PathBuf,
    /// The operating system frees the lock with the file, however the process ends.
    _lock: File,
}

impl DataDir {
    /// Creates the directory if it is absent, and locks it.
    ///
    /// # Errors
    /// [`DataDirError::InUse`], or when the directory cannot be created or written to.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { doing, path, source }
        };
        fs::create_dir_all(path).map_err(io("create data directory", path))?;
        let lock_path = path.join("LOCK");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let mut file = opened.map_err(io("open", &lock_path))?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error == rustix::io::Errno::WOULDBLOCK {
                let mut holder = String::new();
                // Whoever has just taken the lock may not have written its id yet.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "?" } else { holder.trim() }.to_owned();
                return Err(DataDirError::InUse { dir: path.to_owned(), holder });
            }
            return Err(io("lock", &lock_path)(error.into()));
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(io("write to", &lock_path))?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn store_dir(&self, store_id: u64) -> PathBuf {
        self.path.join(format!("store-{store_id}"))
    }

    /// What is in the directory, for a node with `stores` stores on `engine`. A new directory gets `new_cluster_id`.
    ///
    /// # Errors
    /// When the directory is of another engine or of more stores, or cannot be read or written.
    pub fn open_cluster(&self, stores: u64, engine: &str, new_cluster_id: u64) -> Result<ClusterFile, DataDirError> {
        let dir = || self.path.clone();
        let Some(mut found) = self.read_cluster()? else {
            let cluster = ClusterFile {
                cluster_id: new_cluster_id,
                engine: engine.to_owned(),
                stores,
                first_voters: stores.min(FIRST_VOTERS_MAX),
                bootstrapped: false,
            };
            self.write_cluster(&cluster)?;
            return Ok(cluster);
        };
        if found.engine != engine {
            return Err(DataDirError::OtherEngine { dir: dir(), found: found.engine, wanted: engine.to_owned() });
        }
        if found.stores > stores {
            return Err(DataDirError::TooFewStores { dir: dir(), found: found.stores, wanted: stores });
        }
        let lost = (1..=found.stores).find(|store_id| !self.store_dir(*store_id).join("raft").exists());
        if let Some(store_id) = lost.filter(|_| found.bootstrapped) {
            return Err(DataDirError::StoreLost { dir: dir(), store_id });
        }
        // Written down when they have started, see `mark_bootstrapped`.
        found.stores = stores;
        Ok(found)
    }

    /// Notes that all stores have been started once.
    ///
    /// # Errors
    /// When that cannot be made durable.
    pub fn mark_bootstrapped(&self, cluster: &mut ClusterFile) -> Result<(), DataDirError> {
        let before = self.read_cluster()?;
        cluster.bootstrapped = true;
        if before.as_ref() == Some(cluster) { Ok(()) } else { self.write_cluster(cluster) }
    }

    fn cluster_path(&self) -> PathBuf {
        self.path.join("cluster.toml")
    }

    fn read_cluster(&self) -> Result<Option<ClusterFile>, DataDirError> {
        let path = self.cluster_path();
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map(Some)
                .map_err(|source| DataDirError::Malformed { path, source: Box::new(source) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Io { doing: "read", path, source }),
        }
    }

    /// Replaces the file as a whole, durably.
    fn write_cluster(&self, cluster: &ClusterFile) -> Result<(), DataDirError> {
        let path = self.cluster_path();
        let text = toml::to_string(cluster).map_err(io::Error::other);
        text.and_then(|text| replace_file(&path, &text)).map_err(|source| DataDirError::Io {
            doing: "write",
            path: path.clone(),
            source,
        })
    }
}

/// Replaces a file as a whole, and returns when that is durable. When it fails, either text may be found later.
pub(crate) fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The name is durable once the directory is.
    File::open(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

/// Voters of the first region, as far as there are stores: what survives the loss of one.
const FIRST_VOTERS_MAX: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_is_refused_with_the_directory_and_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::lock(dir.path()).unwrap();
        let error = DataDir::lock(dir.path()).err().unwrap().to_string();
        let expected = format!("data directory {} is in use by process {}", dir.path().display(), std::process::id());
        assert_eq!(error, expected);
        drop(first);
        DataDir::lock(dir.path()).unwrap();
    }

    #[test]
    fn a_store_that_has_lost_its_data_is_not_bootstrapped_again() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::lock(dir.path()).unwrap();
        let mut cluster = data.open_cluster(3, "fjall", 7).unwrap();
        assert_eq!((cluster.cluster_id, cluster.first_voters, cluster.bootstrapped), (7, 3, false));
        // A crash before all stores were started: they may be bootstrapped.
        assert_eq!(data.open_cluster(3, "fjall", 8).unwrap(), cluster);
        for store_id in 1..=3 {
            fs::create_dir_all(data.store_dir(store_id).join("raft")).unwrap();
        }
        data.mark_bootstrapped(&mut cluster).unwrap();
        assert_eq!(data.open_cluster(3, "fjall", 8).unwrap(), cluster);
        fs::remove_dir_all(data.store_dir(2)).unwrap();
        let error = data.open_cluster(3, "fjall", 8).unwrap_err().to_string();
        assert!(error.starts_with("store 2 in ") && error.ends_with(" has lost its data"), "{error}");
    }

    #[test]
    fn a_directory_keeps_its_engine_and_its_stores_and_may_grow() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::lock(dir.path()).unwrap();
        let mut cluster = data.open_cluster(1, "fjall", 7).unwrap();
        fs::create_dir_all(data.store_dir(1).join("raft")).unwrap();
        data.mark_bootstrapped(&mut cluster).unwrap();
        let error = data.open_cluster(1, "rocksdb", 7).unwrap_err().to_string();
        assert!(error.contains("created with engine.name = \"fjall\""), "{error}");
        let mut grown = data.open_cluster(4, "fjall", 7).unwrap();
        assert_eq!((grown.stores, grown.first_voters), (4, 1));
        for store_id in 2..=4 {
            fs::create_dir_all(data.store_dir(store_id).join("raft")).unwrap();
        }
        data.mark_bootstrapped(&mut grown).unwrap();
        let error = data.open_cluster(3, "fjall", 7).unwrap_err().to_string();
        assert!(error.contains("has 4 stores; node.stores = 3"), "{error}");
    }
}
