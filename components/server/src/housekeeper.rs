//! What a node does every second.
//!
//! # What it owns
//! The thread for it.
//!
//! # How it works
//! A second at a time: reserve timestamps, move the safe point of the caches on, write down a point of the history, and see
//! which regions have left a cache.
//!
//! # Invariants
//! The safe point stays `node.gc-life-time` behind the newest timestamp, so that a reader that has just taken one is far
//! from it.
//!
//! # What it must not do
//! End the node when it cannot write: who needs a timestamp then is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use in_memory_engine::{RegionCacheEngine, RegionState};
use placement::PlacementHandle;
use tikv_util::{
    warn,
    worker::{Builder, Runnable, Worker},
};
use time::OffsetDateTime;
use txn_types::TimeStamp;

use crate::{
    events::{EventLog, WarmUpTimes, What},
    history::{History, Point, StorePoint},
    metrics::METRICS,
    reads::ReadCounter,
    timestamps::Timestamps,
};

const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct WatchedStore {
    pub(crate) store_id: u64,
    pub(crate) cache: RegionCacheEngine,
    pub(crate) reads: ReadCounter,
    pub(crate) warm_up: WarmUpTimes,
}

pub(crate) struct Watched {
    pub(crate) stores: Vec<WatchedStore>,
    pub(crate) placement: PlacementHandle,
    pub(crate) timestamps: Arc<Timestamps>,
    pub(crate) gc_life_time: Duration,
    pub(crate) events: EventLog,
    pub(crate) history: Arc<History>,
}

pub(crate) fn start(watched: Watched) -> io::Result<Worker<()>> {
    let seen = watched.events.next_seq();
    let mut housekeeper = Housekeeper { watched, active: BTreeMap::new(), seen };
    // Before the first read.
    housekeeper.on_timeout();
    Builder::new("housekeeper").tick_interval(INTERVAL).start(housekeeper)
}

struct Housekeeper {
    watched: Watched,
    /// The regions that were active in each store's cache a second ago, or have become so since.
    active: BTreeMap<u64, BTreeSet<u64>>,
    /// The number of the first event that was not looked at.
    seen: u64,
}

impl Runnable<()> for Housekeeper {
    fn run(&mut self, (): ()) {}

    fn on_timeout(&mut self) {
        if let Err(error) = self.watched.timestamps.reserve() {
            warn!("cannot reserve timestamps"; "err" => %error);
        }
        self.move_safe_point();
        let points = self.look();
        points.iter().for_each(|point| METRICS.show(point));
        self.show_up();
        self.watched.history.push(Point { time: OffsetDateTime::now_utc(), stores: points });
    }
}

impl Housekeeper {
    fn move_safe_point(&self) {
        let newest = self.watched.timestamps.now();
        let behind = u64::try_from(self.watched.gc_life_time.as_millis()).unwrap_or(u64::MAX);
        let safe_point = TimeStamp::compose(newest.physical().saturating_sub(behind), 0);
        self.watched.stores.iter().for_each(|store| store.cache.set_safe_point(safe_point.into_inner()));
    }

    fn look(&mut self) -> Vec<StorePoint> {
        let leaders = self.watched.placement.with(|placement| {
            let mut leaders: BTreeMap<u64, usize> = BTreeMap::new();
            for known in placement.directory().regions() {
                *leaders.entry(known.leader.get_store_id()).or_default() += 1;
            }
            leaders
        });
        let leaders = leaders.unwrap_or_default();
        self.note_loaded();
        let mut points = Vec::with_capacity(self.watched.stores.len());
        for WatchedStore { store_id, cache, reads, warm_up } in &self.watched.stores {
            let is_active = |region: &in_memory_engine::RegionStatus| region.state == RegionState::Active;
            let active: BTreeSet<u64> = cache.regions().iter().filter(|r| is_active(r)).map(|r| r.region.id).collect();
            let reads = reads.total();
            points.push(StorePoint {
                store_id: *store_id,
                cache_used_bytes: cache.usage_bytes(),
                hits: reads.hits,
                misses: reads.misses,
                leaders: leaders.get(store_id).copied().unwrap_or(0),
                regions_active: active.len(),
                warm_p50_ms: warm_up.summary().map(|warm| (warm.p50 * 1000.0) as u64),
            });
            let before = self.active.remove(store_id).unwrap_or_default();
            for gone in before.difference(&active) {
                self.watched.events.push(*store_id, *gone, What::new("evicted"));
            }
            self.active.insert(*store_id, active);
        }
        points
    }

    /// While the placement runs: it asks the stores all the time.
    fn show_up(&self) {
        let is_down = |store_id: u64| self.watched.placement.with(|placement| placement.directory().is_down(store_id));
        for store in &self.watched.stores {
            if let Ok(is_down) = is_down(store.store_id) {
                METRICS.show_up(store.store_id, !is_down);
            }
        }
    }

    /// A region that was loaded and evicted within a second was there as well.
    fn note_loaded(&mut self) {
        loop {
            let page = self.watched.events.since(self.seen);
            self.seen = page.next;
            if page.events.is_empty() {
                return;
            }
            for event in page.events.iter().filter(|event| event.kind == "loaded") {
                self.active.entry(event.store_id).or_default().insert(event.region_id);
            }
        }
    }
}
