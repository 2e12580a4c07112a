//! What a seed decides before a run begins: how large the cluster is, how fast things are, and how much goes wrong.
//!
//! # What it owns
//! The numbers of one run.
//!
//! # How it works
//! Each seed has its own mixture (swarm testing): most faults are absent from many runs, because a run in which
//! everything fails all the time never gets anywhere, and a fault that is always there hides what only happens without.
//!
//! # Invariants
//! After [`Plan::heal`] nothing goes wrong any more, and everything is quick.
//!
//! # What it must not do
//! Draw anything while the run is under way.

use std::time::Duration;

use kvproto::metapb::Region;
use preload_observer::{CheckedConfig, Config, PinnedRange};
use tikv_util::config::{ReadableDuration, ReadableSize};
use txn_types::Key;

use super::{records::user_key, rng::SimRng, sabotage::Sabotage, workers::Worker};

pub(super) const TICK: Duration = Duration::from_millis(100);

/// How long a worker takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    usual: Duration,
    /// Out of 10,000 steps so many stall.
    stalls: u64,
    stall: Duration,
}

impl Pace {
    const QUICK: Self = Self { usual: Duration::from_millis(1), stalls: 0, stall: Duration::ZERO };

    fn draw(rng: &mut SimRng) -> Self {
        Self {
            usual: Duration::from_micros(rng.range(100, 8_000)),
            stalls: if rng.percent(50) { rng.range(20, 600) } else { 0 },
            stall: Duration::from_millis(rng.range(50, 3_000)),
        }
    }

    pub(super) fn stall_max(&self) -> Duration {
        if self.stalls > 0 { self.stall } else { Duration::ZERO }
    }

    pub(super) fn delay(&self, rng: &mut SimRng) -> Duration {
        let max = if rng.permyriad(self.stalls) { self.stall } else { self.usual };
        rng.up_to(max)
    }
}

/// A store one of whose workers is slower than all others, so that what is usually over in no time meets other things.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sluggish {
    store_id: u64,
    worker: SluggishWorker,
    factor: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SluggishWorker {
    Log,
    Apply,
    Snapshot,
    Load,
}

impl Sluggish {
    fn draw(rng: &mut SimRng, stores: u64) -> Self {
        let worker = match rng.range(0, 5) {
            0 => SluggishWorker::Log,
            1..=2 => SluggishWorker::Apply,
            3..=4 => SluggishWorker::Snapshot,
            _ => SluggishWorker::Load,
        };
        let factor = if worker == SluggishWorker::Log { 20 } else { rng.range(30, 300) as u32 };
        Self { store_id: rng.range(1, stores), worker, factor }
    }
}

/// What the network does to messages; rates are out of 10,000.
#[derive(Clone, Debug)]
pub(super) struct NetworkPlan {
    pub(super) latency: Duration,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) late: u64,
    pub(super) lateness: Duration,
    pub(super) snapshots_held: u64,
    /// Chunks of snapshots that are lost, or their answers; and that arrive changed.
    pub(super) chunks_lost: u64,
    pub(super) chunks_corrupted: u64,
}

/// What a run is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Setup {
    #[default]
    Full,
    /// The cache engine is disabled on all stores.
    CacheDisabled,
    /// The same, and the plugin was never registered.
    NoPlugin,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) stores: u64,
    /// Stores `1..=voters` have a peer of the first region.
    pub(super) voters: u64,
    /// Ticks to an election, per store.
    pub(super) election_ticks: Vec<usize>,
    pub(super) stale_peer_ticks: usize,
    pub(super) log_gc_ticks: usize,
    pub(super) log_gc_threshold: u64,
    pub(super) safety_phase: Duration,
    pub(super) network: NetworkPlan,
    pub(super) log: Pace,
    pub(super) apply: Pace,
    pub(super) snapshot: Pace,
    pub(super) load: Pace,
    pub(super) plugin: Pace,
    pub(super) sluggish: Option<Sluggish>,
    /// Mean time between two of each; `None` for never.
    pub(super) crash_every: Option<Duration>,
    pub(super) partition_every: Option<Duration>,
    pub(super) placement_every: Duration,
    pub(super) client_every: Duration,
    /// Out of 10,000 effects, so many are the last before a crash.
    pub(super) crash_at_effect: u64,
    pub(super) snapshots_received_max: usize,
    /// Snapshots are put in place past the cache, as files that are ingested would be.
    pub(super) bulk_load: bool,
    pub(super) preload: Config,
    pub(super) cache_capacity: ReadableSize,
    /// The cache has room for everything.
    pub(super) cache_is_ample: bool,
    /// Of 100 inputs so many wait for the next one before the effects are asked for, as in a store that is busy.
    pub(super) inputs_together: u64,
    pub(super) setup: Setup,
    /// Clients ask for preloads.
    pub(super) has_requests: bool,
    pub(super) sabotage: Option<Sabotage>,
}

impl Plan {
    pub(super) fn draw(rng: &mut SimRng, sabotage: Option<Sabotage>, setup: Setup) -> Self {
        let stores = rng.range(3, 5);
        let often = |rng: &mut SimRng, percent, low, high| {
            rng.percent(percent).then(|| Duration::from_millis(rng.range(low, high)))
        };
        let rate = |rng: &mut SimRng, percent, high| if rng.percent(percent) { rng.range(1, high) } else { 0 };
        // Close together, so that candidates meet.
        let spread = rng.range(0, 8);
        let election_ticks = (0..stores).map(|_| 10 + rng.range(0, spread) as usize).collect();
        let cache_is_ample = rng.percent(80);
        let mut preload = Config {
            warmup_timeout: ReadableDuration::millis(rng.range(0, 1_500)),
            request_timeout: ReadableDuration::millis(rng.range(800, 3_000)),
            reconcile_interval: ReadableDuration::millis(rng.range(300, 3_000)),
            snapshot_announce_timeout: ReadableDuration::millis(rng.range(200, 2_000)),
            load_retry_backoff_max: ReadableDuration::millis(500),
            max_parked_requests: if rng.percent(20) { 2 } else { 64 },
            max_in_flight_requests: if rng.percent(20) { 1 } else { 64 },
            max_known_regions: if rng.percent(90) { 1_000 } else { 1 },
            pinned: draw_pinned(rng),
            ..Config::default()
        };
        // A disabled engine: either the plugin is told so, or it finds out, but then nobody asks: see the check.
        let is_told = rng.percent(50);
        preload.enabled = setup == Setup::Full || is_told;
        let sluggish = if rng.percent(40) { Some(Sluggish::draw(rng, stores)) } else { None };
        // Short logs have snapshots overtake a sluggish applier.
        let applies_late = sluggish.is_some_and(|sluggish| sluggish.worker == SluggishWorker::Apply);
        let (log_gc_ticks, log_gc_threshold) = match (applies_late, rng.percent(80)) {
            (true, _) => (rng.range(5, 8), rng.range(1, 3)),
            (false, true) => (rng.range(5, 40), rng.range(1, 15)),
            (false, false) => (rng.range(5, 40), 1_000),
        };
        Self {
            stores,
            voters: if rng.percent(70) { 3 } else { rng.range(1, stores) },
            election_ticks,
            stale_peer_ticks: rng.range(21, 60) as usize,
            log_gc_ticks: log_gc_ticks as usize,
            log_gc_threshold,
            safety_phase: Duration::from_millis(rng.range(4_000, 10_000)),
            network: NetworkPlan {
                latency: Duration::from_micros(rng.range(200, 20_000)),
                lost: rate(rng, 50, 600),
                duplicated: rate(rng, 50, 500),
                late: rate(rng, 50, 500),
                lateness: Duration::from_millis(rng.range(50, 3_000)),
                snapshots_held: rate(rng, 50, 8_000),
                chunks_lost: rate(rng, 50, 2_000),
                chunks_corrupted: rate(rng, 50, 1_000),
            },
            log: Pace::draw(rng),
            apply: Pace::draw(rng),
            snapshot: Pace::draw(rng),
            load: Pace::draw(rng),
            plugin: Pace::draw(rng),
            sluggish,
            crash_every: often(rng, 60, 500, 4_000),
            partition_every: often(rng, 50, 500, 4_000),
            placement_every: Duration::from_millis(rng.range(80, 1_000)),
            client_every: Duration::from_millis(rng.range(8, 60)),
            crash_at_effect: rate(rng, 40, 15),
            snapshots_received_max: rng.range(1, 4) as usize,
            bulk_load: rng.percent(50),
            cache_capacity: if cache_is_ample { ReadableSize::mb(64) } else { ReadableSize(rng.range(2_000, 20_000)) },
            cache_is_ample,
            inputs_together: if rng.percent(50) { rng.range(5, 50) } else { 0 },
            setup,
            has_requests: setup == Setup::Full || !preload.enabled,
            preload,
            sabotage,
        }
    }

    /// Nothing goes wrong from now on.
    pub(super) fn heal(&mut self) {
        self.network = NetworkPlan {
            latency: Duration::from_millis(2),
            lost: 0,
            duplicated: 0,
            late: 0,
            lateness: Duration::ZERO,
            snapshots_held: 0,
            chunks_lost: 0,
            chunks_corrupted: 0,
        };
        (self.log, self.apply, self.snapshot) = (Pace::QUICK, Pace::QUICK, Pace::QUICK);
        (self.load, self.plugin, self.sluggish) = (Pace::QUICK, Pace::QUICK, None);
        (self.crash_every, self.partition_every, self.crash_at_effect) = (None, None, 0);
    }

    /// The store with a sluggish worker. It gets more than its share of what may meet that.
    pub(super) fn sluggish_store(&self) -> Option<u64> {
        self.sluggish.map(|sluggish| sluggish.store_id)
    }

    pub(super) fn pace(&self, store_id: u64, worker: Worker) -> Pace {
        let (pace, kind) = match worker {
            Worker::LogWriter => (self.log, SluggishWorker::Log),
            Worker::Apply(_) => (self.apply, SluggishWorker::Apply),
            Worker::SnapshotGenerator | Worker::SnapshotApplier => (self.snapshot, SluggishWorker::Snapshot),
            Worker::CacheLoader => (self.load, SluggishWorker::Load),
        };
        match self.sluggish.filter(|sluggish| sluggish.store_id == store_id && sluggish.worker == kind) {
            Some(sluggish) => Pace { usual: pace.usual * sluggish.factor, ..pace },
            None => pace,
        }
    }

    /// For the start number `life` of a store.
    pub(super) fn preload_config(&self, life: u64) -> CheckedConfig {
        let mut config = self.preload.clone();
        match self.sabotage {
            Some(Sabotage::LimitsIgnored) => config.max_parked_requests = 4096,
            Some(Sabotage::IntentForgotten) if life > 1 => config.pinned.clear(),
            Some(Sabotage::WarmForEver) => {
                let everything = PinnedRange { start_key: String::new(), end_key: String::new() };
                config.pinned = vec![everything];
            }
            _ => {}
        }
        config.check().expect("what is drawn is within the limits")
    }

    /// Whether `region` is pinned, and the plugin is to see to it.
    pub(super) fn wants_pinned(&self, region: &Region) -> bool {
        self.setup != Setup::NoPlugin && self.preload.enabled && self.is_pinned(region)
    }

    /// Whether a key of `region` is pinned.
    pub(super) fn is_pinned(&self, region: &Region) -> bool {
        self.preload.pinned.iter().any(|pinned| {
            let (start, end) = (parse_key(&pinned.start_key), parse_key(&pinned.end_key));
            let (region_start, region_end) = (region.get_start_key(), region.get_end_key());
            (region_end.is_empty() || start.as_slice() < region_end)
                && (end.is_empty() || region_start < end.as_slice())
        })
    }
}

/// Keys as the configuration spells them.
fn spell_key(user_key: &[u8]) -> String {
    let digits = Key::from_raw(user_key).into_encoded().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("hex:{digits}")
}

fn parse_key(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix("hex:").unwrap_or_default().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).filter_map(byte).collect()
}

/// Nothing, everything, or a range in the middle.
fn draw_pinned(rng: &mut SimRng) -> Vec<PinnedRange> {
    let from = rng.range(0, 5);
    let (start_key, end_key) = match rng.range(0, 9) {
        0 => (String::new(), String::new()),
        1..=3 => (spell_key(&user_key('k', from)), spell_key(&user_key('k', from + 2))),
        _ => return Vec::new(),
    };
    vec![PinnedRange { start_key, end_key }]
}
