//! Counts where reads are served from.
//!
//! # What it owns
//! Reads from memory and from disk, of each region of one store.
//!
//! # How it works
//! An observer: raftstore tells it of each snapshot of a region that it hands out.
//!
//! # Invariants
//! What is counted for a region is forgotten when its peer is destroyed, so that there is one entry per peer at most.
//!
//! # What it must not do
//! Block: it is called on the store's thread.

use std::{collections::HashMap, sync::Arc};

use engine_traits::{KvEngine, ReadSource};
use kvproto::metapb::Region;
use parking_lot::Mutex;
use raftstore::coprocessor::{
    Coprocessor, CoprocessorHost, DestroyPeerObserver, ObserverContext, SnapshotObserver,
    dispatcher::{BoxDestroyPeerObserver, BoxSnapshotObserver},
};

/// Reads, by where they were served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// From memory.
    pub hits: u64,
    /// From disk, whatever the reason.
    pub misses: u64,
}

#[derive(Default)]
struct Counts {
    /// Of all regions, those that are gone included.
    total: Reads,
    regions: HashMap<u64, Reads>,
}

/// Counts the reads of one store. Clones share the counts.
#[derive(Clone, Default)]
pub struct ReadCounter(Arc<Mutex<Counts>>);

impl ReadCounter {
    pub fn register<E: KvEngine>(&self, host: &mut CoprocessorHost<E>, priority: u32) {
        host.registry.register_snapshot_observer(priority, BoxSnapshotObserver::new(self.clone()));
        host.registry.register_destroy_peer_observer(priority, BoxDestroyPeerObserver::new(self.clone()));
    }

    pub fn total(&self) -> Reads {
        self.0.lock().total
    }

    pub fn of_region(&self, region_id: u64) -> Reads {
        self.0.lock().regions.get(&region_id).copied().unwrap_or_default()
    }
}

impl Coprocessor for ReadCounter {}

impl SnapshotObserver for ReadCounter {
    fn on_snapshot(&self, ctx: &mut ObserverContext<'_>, _read_ts: u64, source: ReadSource) {
        let mut counts = self.0.lock();
        let Counts { total, regions } = &mut *counts;
        for reads in [total, regions.entry(ctx.region().get_id()).or_default()] {
            match source {
                ReadSource::Memory => reads.hits += 1,
                ReadSource::Disk(_) => reads.misses += 1,
            }
        }
    }
}

impl DestroyPeerObserver for ReadCounter {
    fn on_destroy_peer(&self, region: &Region) {
        self.0.lock().regions.remove(&region.get_id());
    }
}
