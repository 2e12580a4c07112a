//! The engines that hold the entries, as what is measured of them.
//!
//! **Owns** how the disk engines are set up.
//!
//! **How it works.** [`Reader`] is what is done with a snapshot, of whatever engine; [`Store`] is an engine that snapshots
//! are taken of, and [`Disk`] one that the cache is loaded from. Loops are behind these interfaces, not around them: a call
//! through them is once for a scan and once for a lookup.
//!
//! **Invariants.** All engines are hot: their block caches have room for everything, and were filled before.
//!
//! **Must not** measure.

use std::hint::black_box;

use engine_fjall::{FjallConfig, FjallEngine};
use engine_traits::{Cf, IterBounds, Iterator as _, KvEngine, Snapshot, WriteBatch};
use hybrid_engine::mvcc::{ScanOptions, Scanner};
use in_memory_engine::RegionCacheEngine;
use txn_types::TimeStamp;

use super::{
    dataset::{Shape, batches, data_key, raw_key},
    surroundings,
};

/// Room for a million entries several times over.
const BLOCK_CACHE_BYTES: u64 = 4 << 30;

/// What is done with a snapshot.
pub(crate) trait Reader: Send + Sync {
    /// Makes so many steps from a row on.
    fn scan(&self, row: u64, steps: usize);
    /// Opens a cursor and seeks a key that is there.
    fn seek(&self, key: &[u8]);
    /// Gets a key that is there.
    fn get(&self, key: &[u8]);
    /// Reads so many rows at the newest timestamp.
    fn rows(&self, row: u64, rows: usize, options: ScanOptions);
    /// Looks at every entry; how many there are.
    fn scan_all(&self) -> u64;
}

/// An engine that is read and written while others do so too.
pub(crate) trait Store: Sync {
    fn name(&self) -> &'static str;
    fn reader(&self) -> Box<dyn Reader>;
    /// Takes a snapshot, and drops it.
    fn take_snapshot(&self);
    /// All of a short read: takes a snapshot, opens a cursor, seeks and makes so many steps.
    fn read(&self, key: &[u8], steps: usize);
    fn write(&self, batch: &WriteBatch);
}

/// A disk engine that the cache is loaded from.
pub(crate) trait Disk: Store {
    /// The name of the side that takes a step for each version.
    fn name_of_steps(&self) -> &'static str;
    /// Loads the region, in this thread.
    fn load_into(&self, cache: &RegionCacheEngine);
    /// Compares the region with the disk, in this thread.
    fn cross_check(&self, cache: &RegionCacheEngine);
}

/// The disk engines that there are, RocksDB first.
pub(crate) fn disks(shape: Shape) -> Vec<Box<dyn Disk>> {
    vec![
        #[cfg(feature = "rocksdb")]
        Box::new(rocks(shape)),
        Box::new(fjall(shape)),
    ]
}

fn fjall(shape: Shape) -> Filled<FjallEngine> {
    let dir = tempfile::tempdir().expect("a directory for the data");
    let config = FjallConfig { cache_size_bytes: BLOCK_CACHE_BYTES, ..FjallConfig::default() };
    let engine = FjallEngine::open(dir.path(), &config).expect("an engine");
    Filled::new(Names { plain: "fjall", steps: "fjall_next" }, engine, dir, shape, |_| ())
}

#[cfg(feature = "rocksdb")]
fn rocks(shape: Shape) -> Filled<engine_rocks::RocksEngine> {
    use engine_rocks::{RocksConfig, RocksEngine};
    let dir = tempfile::tempdir().expect("a directory for the data");
    // Blocks and filters are TiKV's by default.
    let config = RocksConfig { cache_size_bytes: BLOCK_CACHE_BYTES as usize, ..RocksConfig::default() };
    let engine = RocksEngine::open(dir.path(), &config).expect("an engine");
    Filled::new(Names { plain: "rocksdb", steps: "rocksdb_next" }, engine, dir, shape, RocksEngine::compact)
}

/// A disk engine with all entries.
struct Filled<E> {
    names: Names,
    engine: E,
    _dir: tempfile::TempDir,
}

struct Names {
    plain: &'static str,
    steps: &'static str,
}

impl<E: KvEngine> Filled<E> {
    fn new(names: Names, engine: E, dir: tempfile::TempDir, shape: Shape, compact: impl FnOnce(&E)) -> Self {
        for batch in batches(shape, 200) {
            engine.write(&batch).expect("a write");
        }
        engine.sync().expect("a sync");
        compact(&engine);
        // Twice, as what is compacted meanwhile is read anew.
        for _ in 0..2 {
            assert_eq!(engine.snapshot().scan_all(), shape.entries());
        }
        Self { names, engine, _dir: dir }
    }
}

impl<E: KvEngine> Disk for Filled<E> {
    fn name_of_steps(&self) -> &'static str {
        self.names.steps
    }

    fn load_into(&self, cache: &RegionCacheEngine) {
        surroundings::load(cache, &self.engine);
    }

    fn cross_check(&self, cache: &RegionCacheEngine) {
        surroundings::cross_check(cache, &self.engine);
    }
}

impl<E: KvEngine> Store for Filled<E> {
    fn name(&self) -> &'static str {
        self.names.plain
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(self.engine.snapshot())
    }

    fn take_snapshot(&self) {
        drop(black_box(self.engine.snapshot()));
    }

    fn read(&self, key: &[u8], steps: usize) {
        scan_from(&self.engine.snapshot(), key, steps);
    }

    fn write(&self, batch: &WriteBatch) {
        self.engine.write(batch).expect("a write");
    }
}

impl Store for RegionCacheEngine {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(surroundings::snapshot(self))
    }

    fn take_snapshot(&self) {
        drop(black_box(surroundings::snapshot(self)));
    }

    fn read(&self, key: &[u8], steps: usize) {
        scan_from(&surroundings::snapshot(self), key, steps);
    }

    fn write(&self, batch: &WriteBatch) {
        surroundings::write(self, batch);
    }
}

impl<S: Snapshot> Reader for S {
    fn scan(&self, row: u64, steps: usize) {
        scan_from(self, &data_key(row, u64::MAX >> 32), steps);
    }

    fn seek(&self, key: &[u8]) {
        let mut cursor = cursor(self);
        assert!(cursor.seek(key).expect("a seek") && black_box(cursor.key()) == key, "the key is there");
    }

    fn get(&self, key: &[u8]) {
        assert!(black_box(self.get_value(Cf::Write, key)).expect("a read").is_some(), "the key is there");
    }

    fn rows(&self, row: u64, rows: usize, options: ScanOptions) {
        let (first, last) = (raw_key(row), raw_key(row + rows as u64));
        let mut scanner = Scanner::new(self, &first, &last, TimeStamp::max(), options).expect("a scanner");
        for _ in 0..rows {
            black_box(scanner.next().expect("a read").expect("a row"));
        }
    }

    fn scan_all(&self) -> u64 {
        let mut cursor = cursor(self);
        let mut valid = cursor.seek_to_first().expect("a seek");
        let mut entries = 0;
        while valid {
            black_box((cursor.key(), cursor.value()));
            entries += 1;
            valid = cursor.next().expect("a step");
        }
        entries
    }
}

fn cursor<S: Snapshot>(snapshot: &S) -> S::Iter {
    snapshot.iter(Cf::Write, IterBounds::new(keys::DATA_MIN_KEY, keys::DATA_MAX_KEY)).expect("a cursor")
}

fn scan_from(snapshot: &impl Snapshot, key: &[u8], steps: usize) {
    let mut cursor = cursor(snapshot);
    let mut valid = cursor.seek(key).expect("a seek");
    for _ in 0..steps {
        assert!(valid, "the scan came to the end");
        black_box((cursor.key(), cursor.value()));
        valid = cursor.next().expect("a step");
    }
}
