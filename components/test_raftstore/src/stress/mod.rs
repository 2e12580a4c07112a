//! A stress of the region cache: a cluster on real threads and disks, with everything going on at once.
//!
//! # What it owns
//! The cluster, the threads that write, read and disturb, and the verdict.
//!
//! # How it works
//! Four stores on disks in a temporary directory, whose caches hold a part of the data each; half of the keys are pinned.
//! 1. [`writers`] write, lock, commit, roll back, delete, delete ranges and collect garbage; the [`model`] knows what was
//!    acknowledged.
//! 2. [`readers`] take linearizable snapshots, and find in them what the model says must be visible at their timestamp.
//!    Some snapshots are held for a while and read again.
//! 3. [`audit`] compares what is in memory with the disk of the same moment, on every store.
//!    The caches do so themselves as well, by their cross-check.
//! 4. [`disturbances`] split, merge and move regions, their leaders and replicas, evict and load, move the safe point.
//! 5. At the end everything is evicted, and memory has to be back at zero.
//!
//! # Invariants
//! The first difference ends the run. A read is compared only where the answer is known: not for a row that was being
//! changed while the snapshot was taken, by something that readers at its timestamp notice.
//!
//! # What it must not do
//! Be taken for repeatable: the seed decides what each thread wants, the machine decides what happens when. Whoever needs
//! a failure again runs the simulator ([`crate::sim`]).

mod audit;
mod disturbances;
mod model;
mod readers;
mod router;
mod tally;
#[cfg(test)]
mod tests;
mod writers;

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use engine_traits::{EvictReason, RegionCacheEngineExt as _, RegionEvent};
use in_memory_engine::RegionCacheEngineConfig;
use parking_lot::Mutex;
use preload_observer::{Config, PinnedRange, PreloadObserver};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tikv_util::config::{ReadableDuration, ReadableSize};

pub use self::tally::Tally;
use self::{model::Model, router::Router};
use crate::{Cluster, ClusterConfig, Kv, NodeContext, wait};

const STORES: u64 = 4;
const WRITERS: u64 = 3;
const READERS: u64 = 2;

/// After the region cache's own observer.
const PRIORITY: u32 = 200;

/// How long memory may take to be back at zero: readers and housekeeping are done long before.
const DRAIN: Duration = Duration::from_secs(60);

/// What is asked of a run.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// For how long threads write, read and disturb.
    pub duration: Duration,
    /// How much each store's cache may hold.
    pub cache_capacity: ReadableSize,
    /// Something to break, to see that it is noticed.
    pub sabotage: Option<Sabotage>,
}

/// What a run can break on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Now and then a write reaches the disk and not the cache.
    CacheMissesWrites,
}

/// Why a run has failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which check has found it.
    pub check: &'static str,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.what)
    }
}

/// What all threads of a run share.
struct Stage {
    router: Router,
    model: Model,
    stores: Vec<Kv>,
    tally: Arc<Tally>,
    sabotage: Option<Sabotage>,
    /// Set when the time is over, at the first failure, and from outside.
    stop: Arc<AtomicBool>,
    failure: Mutex<Option<Failure>>,
}

impl Stage {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the run. Only the first failure is kept: others may follow from it.
    fn fail(&self, check: &'static str, what: impl Into<String>) {
        self.failure.lock().get_or_insert_with(|| Failure { check, what: what.into() });
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits, unless the run is over.
    fn pause(&self, duration: Duration) {
        wait::within(duration, || self.is_stopped().then_some(()));
    }
}

/// Runs until the time is over, something is wrong, or `stop` is set; `watch` is called several times a second.
///
/// # Errors
/// What was wrong.
///
/// # Panics
/// When the cluster cannot be started.
pub fn run(
    options: &Options,
    tally: &Arc<Tally>,
    stop: &Arc<AtomicBool>,
    mut watch: impl FnMut(&Tally),
) -> Result<(), Failure> {
    let plugins = Arc::new(Mutex::new(Vec::new()));
    let cluster = start(options, &plugins);
    let model = Model::new(WRITERS);
    let stage = Stage {
        router: Router::new(cluster.network().clone(), cluster.placement().clone()),
        stores: (1..=STORES).map(|store_id| cluster.kv(store_id).clone()).collect(),
        model,
        tally: tally.clone(),
        sabotage: options.sabotage,
        stop: stop.clone(),
        failure: Mutex::default(),
    };
    let mut seeds = SmallRng::seed_from_u64(options.seed);
    let stage = &stage;
    let differences_before = tally::cross_check_differences();
    thread::scope(|scope| {
        let run = tasks(stage, &mut seeds).into_iter().map(|(name, task)| {
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn_scoped(scope, task).expect("the system has room for a thread")
        });
        let threads: Vec<_> = run.collect();
        wait::within(options.duration, || {
            watch(tally);
            audit::watch_memory(stage);
            let differences = tally::cross_check_differences() - differences_before;
            if differences > 0 {
                stage.fail("cross-check", format!("{differences} differences, which the log tells of"));
            }
            stage.pause(Duration::from_millis(100));
            (stage.is_stopped() || threads.iter().any(thread::ScopedJoinHandle::is_finished)).then_some(())
        });
        stage.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            if let Err(panic) = thread.join() {
                stage.fail("no panic", format!("a thread of the stress has panicked: {}", message_of(&*panic)));
            }
        }
    });
    if stage.failure.lock().is_none() {
        drain(stage, &plugins.lock());
    }
    let failure = stage.failure.lock().take();
    failure.map_or(Ok(()), Err)
}

type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// What the threads of a run do, with their names.
fn tasks<'a>(stage: &'a Stage, seeds: &mut SmallRng) -> Vec<(&'static str, Task<'a>)> {
    let mut rng = || SmallRng::seed_from_u64(seeds.random());
    let mut tasks: Vec<(&'static str, Task<'a>)> = Vec::new();
    for writer in 0..WRITERS {
        let rng = rng();
        tasks.push(("writer", Box::new(move || writers::run(stage, writer, rng))));
    }
    for _ in 0..READERS {
        let rng = rng();
        tasks.push(("reader", Box::new(move || readers::run(stage, rng))));
    }
    let (audit_rng, move_rng, cache_rng) = (rng(), rng(), rng());
    tasks.push(("audit", Box::new(move || audit::run(stage, audit_rng))));
    tasks.push(("moves", Box::new(move || disturbances::move_regions(stage, move_rng))));
    tasks.push(("evictions", Box::new(move || disturbances::disturb_caches(stage, cache_rng))));
    tasks.push(("safe-point", Box::new(move || disturbances::move_safe_point(stage))));
    tasks
}

fn start(options: &Options, plugins: &Arc<Mutex<Vec<PreloadObserver>>>) -> Cluster {
    let plugins = plugins.clone();
    let register = move |node: NodeContext<'_>| {
        let (start, end) = model::pinned();
        let config = Config { pinned: vec![PinnedRange::of_keys(&start, &end)], ..Config::default() };
        let checked = config.check().expect("the range is not empty");
        let observer = PreloadObserver::new(node.store_id, node.cache, node.transport, checked);
        observer.register(node.host, PRIORITY);
        plugins.lock().push(observer.clone());
        Box::new(observer) as Box<dyn Any + Send>
    };
    let config = ClusterConfig {
        stores: STORES,
        first_region_on: vec![1, 2, 3],
        cache: RegionCacheEngineConfig {
            capacity: options.cache_capacity,
            gc_run_interval: ReadableDuration::millis(500),
            cross_check_interval: ReadableDuration::millis(100),
            // Slow enough that evictions, splits and writes meet loads that are under way.
            load_rate_limit: Some(ReadableSize::mb(2)),
            ..RegionCacheEngineConfig::default()
        },
        placement: placement::Config {
            scheduler: placement::SchedulerConfig { replicas: Some(3), ..Default::default() },
            ..Default::default()
        },
        plugins: vec![Arc::new(register)],
        ..ClusterConfig::default()
    };
    Cluster::start(config).expect("a cluster starts in an empty directory")
}

/// Evicts everything, and sees the memory come back.
fn drain(stage: &Stage, plugins: &[PreloadObserver]) {
    let off = Config { enabled: false, ..Config::default() }.check().expect("it is the default but for one switch");
    plugins.iter().for_each(|plugin| plugin.set_config(off.clone()));
    for (store_id, kv) in (1..).zip(&stage.stores) {
        let cache = kv.cache();
        // More than once, because a load may have been asked for before.
        let drained = wait::within(DRAIN, || {
            for status in cache.regions() {
                let event = RegionEvent::Eviction {
                    region: status.region,
                    reason: EvictReason::Manual,
                    on_evict_finished: None,
                };
                cache.on_region_event(event);
            }
            (cache.usage_bytes() == 0 && cache.regions().is_empty()).then_some(())
        });
        if drained.is_none() {
            let (bytes, regions) = (cache.usage_bytes(), cache.regions());
            let what = format!("store {store_id}: {bytes} bytes are left when everything is evicted, {regions:?}");
            stage.fail("accounting", what);
        }
    }
    let (asked, called) = stage.tally.eviction_callbacks();
    if asked != called {
        stage.fail("evictions", format!("{asked} evictions were to be told of, {called} were"));
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
