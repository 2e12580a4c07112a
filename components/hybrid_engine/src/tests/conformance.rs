//! The suite of all engines: with an empty cache, with everything cached, and read from memory.

use std::path::{Path, PathBuf};

use engine_fjall::FjallEngine;
use engine_test::{MemDisk, MemEngine, conformance::KvFactory};
use engine_traits::{
    CacheRegion, Cf, IterBounds, KvEngine, Record, RegionCacheEngineExt, RegionEvent, Result, Snapshot, WriteBatch,
};
use in_memory_engine::{LoadProgress, RegionCacheEngine, RegionCacheEngineConfig, RegionCacheSnapshot};

use crate::{CountedCursor, HybridEngine, HybridIterator};

fn cache() -> RegionCacheEngine {
    RegionCacheEngine::new(&RegionCacheEngineConfig::default()).unwrap()
}

/// All keys that the suite may use: region 1 is the whole engine.
fn everything() -> CacheRegion {
    CacheRegion::new(1, 1, b"", vec![0xff; engine_traits::KEY_BYTES_MAX + 1])
}

/// Loads everything, unless it is cached or another thread is loading it.
fn load_everything<E: KvEngine>(engine: &HybridEngine<E>) {
    let cache = engine.cache();
    cache.on_region_event(RegionEvent::TryLoad { region: everything(), for_manual_range: false });
    if let Some(mut job) = cache.begin_next_load(engine.disk()) {
        while job.step(1024) == LoadProgress::More {}
    }
}

mod nothing_cached_over_fjall {
    use super::*;

    struct Factory(tempfile::TempDir);

    impl KvFactory for Factory {
        type Engine = HybridEngine<FjallEngine>;

        fn open(&self, path: &Path) -> Result<Self::Engine> {
            Ok(HybridEngine::new(FjallEngine::open(path, &engine_fjall::FjallConfig::default())?, cache()).unwrap())
        }

        fn dir(&self) -> PathBuf {
            self.0.path().to_owned()
        }
    }

    engine_test::kv_engine_conformance!(Factory(tempfile::tempdir().unwrap()));
}

mod everything_cached_over_memory {
    use super::*;

    struct Factory(MemDisk);

    impl KvFactory for Factory {
        type Engine = HybridEngine<MemEngine>;

        fn open(&self, path: &Path) -> Result<Self::Engine> {
            let engine = HybridEngine::without_workers(self.0.open(path), cache());
            load_everything(&engine);
            Ok(engine)
        }

        fn dir(&self) -> PathBuf {
            PathBuf::from("dir")
        }
    }

    engine_test::kv_engine_conformance!(Factory(MemDisk::new()));
}

/// An engine whose users' data is read from memory, always: what was evicted by a deletion of a range is loaded again.
mod read_from_memory {
    use std::sync::{Arc, RwLock};

    use super::*;

    #[derive(Clone, Debug)]
    struct MemoryFirst {
        engine: HybridEngine<MemEngine>,
        /// Held exclusively while a snapshot is taken: the suite wants both halves of it to be of one moment.
        moment: Arc<RwLock<()>>,
    }

    #[derive(Clone, Debug)]
    struct MemoryFirstSnapshot {
        memory: RegionCacheSnapshot,
        disk: <MemEngine as KvEngine>::Snapshot,
    }

    impl KvEngine for MemoryFirst {
        type Snapshot = MemoryFirstSnapshot;

        fn snapshot(&self) -> MemoryFirstSnapshot {
            let _moment = self.moment.write().unwrap();
            loop {
                if let Ok(memory) = self.engine.cache().snapshot(&everything(), u64::MAX) {
                    return MemoryFirstSnapshot { memory, disk: self.engine.disk().snapshot() };
                }
                load_everything(&self.engine);
            }
        }

        fn write(&self, batch: &WriteBatch) -> Result<()> {
            let _moment = self.moment.read().unwrap();
            self.engine.write(batch)
        }

        fn replace_range<I>(&self, cf: Cf, start: &[u8], end: &[u8], records: I) -> Result<()>
        where
            I: Iterator<Item = Result<Record>>,
        {
            let _moment = self.moment.read().unwrap();
            self.engine.replace_range(cf, start, end, records)
        }

        fn sync(&self) -> Result<()> {
            self.engine.sync()
        }

        fn checkpoint(&self, path: &Path) -> Result<()> {
            self.engine.checkpoint(path)
        }
    }

    impl Snapshot for MemoryFirstSnapshot {
        type Iter = HybridIterator<<<MemEngine as KvEngine>::Snapshot as Snapshot>::Iter>;

        fn get_value(&self, cf: Cf, key: &[u8]) -> Result<Option<Vec<u8>>> {
            if cf == Cf::Raft { self.disk.get_value(cf, key) } else { self.memory.get_value(cf, key) }
        }

        fn iter(&self, cf: Cf, bounds: IterBounds) -> Result<Self::Iter> {
            Ok(if cf == Cf::Raft {
                HybridIterator::Disk(CountedCursor::new(self.disk.iter(cf, bounds)?, None))
            } else {
                HybridIterator::Memory(self.memory.iter(cf, bounds)?)
            })
        }
    }

    struct Factory(MemDisk);

    impl KvFactory for Factory {
        type Engine = MemoryFirst;

        fn open(&self, path: &Path) -> Result<Self::Engine> {
            let engine = HybridEngine::without_workers(self.0.open(path), cache());
            Ok(MemoryFirst { engine, moment: Arc::default() })
        }

        fn dir(&self) -> PathBuf {
            PathBuf::from("dir")
        }
    }

    engine_test::kv_engine_conformance!(Factory(MemDisk::new()));
}
