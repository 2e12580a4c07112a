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

use preload_observer::{CheckedConfig, Config};
use tikv_util::config::{ReadableDuration, ReadableSize};

use super::{rng::SimRng, sabotage::Sabotage};

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

    pub(super) fn delay(&self, rng: &mut SimRng) -> Duration {
        let max = if rng.permyriad(self.stalls) { self.stall } else { self.usual };
        rng.up_to(max)
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
    /// Mean time between two of each; `None` for never.
    pub(super) crash_every: Option<Duration>,
    pub(super) partition_every: Option<Duration>,
    pub(super) placement_every: Duration,
    pub(super) client_every: Duration,
    /// Out of 10,000 effects, so many are the last before a crash.
    pub(super) crash_at_effect: u64,
    /// Snapshots are put in place past the cache, as files that are ingested would be.
    pub(super) bulk_load: bool,
    pub(super) preload: Config,
    pub(super) cache_capacity: ReadableSize,
    /// The cache has room for everything.
    pub(super) cache_is_ample: bool,
    pub(super) sabotage: Option<Sabotage>,
}

impl Plan {
    pub(super) fn draw(rng: &mut SimRng, sabotage: Option<Sabotage>) -> Self {
        let stores = rng.range(3, 5);
        let often = |rng: &mut SimRng, percent, low, high| {
            rng.percent(percent).then(|| Duration::from_millis(rng.range(low, high)))
        };
        let rate = |rng: &mut SimRng, percent, high| if rng.percent(percent) { rng.range(1, high) } else { 0 };
        // Close together, so that candidates meet.
        let spread = rng.range(0, 8);
        let election_ticks = (0..stores).map(|_| 10 + rng.range(0, spread) as usize).collect();
        let cache_is_ample = rng.percent(80);
        let preload = Config {
            warmup_timeout: ReadableDuration::millis(rng.range(0, 1_500)),
            request_timeout: ReadableDuration::millis(rng.range(800, 3_000)),
            reconcile_interval: ReadableDuration::millis(rng.range(300, 3_000)),
            snapshot_announce_timeout: ReadableDuration::millis(rng.range(200, 2_000)),
            load_retry_backoff_max: ReadableDuration::millis(500),
            max_parked_requests: if rng.percent(20) { 2 } else { 64 },
            max_in_flight_requests: if rng.percent(20) { 1 } else { 64 },
            max_known_regions: if rng.percent(90) { 1_000 } else { 1 },
            ..Config::default()
        };
        Self {
            stores,
            voters: if rng.percent(70) { 3 } else { rng.range(1, stores) },
            election_ticks,
            stale_peer_ticks: rng.range(21, 60) as usize,
            log_gc_ticks: rng.range(5, 40) as usize,
            log_gc_threshold: if rng.percent(80) { rng.range(1, 15) } else { 1_000 },
            safety_phase: Duration::from_millis(rng.range(4_000, 10_000)),
            network: NetworkPlan {
                latency: Duration::from_micros(rng.range(200, 20_000)),
                lost: rate(rng, 50, 600),
                duplicated: rate(rng, 50, 500),
                late: rate(rng, 50, 500),
                lateness: Duration::from_millis(rng.range(50, 3_000)),
                snapshots_held: rate(rng, 50, 8_000),
            },
            log: Pace::draw(rng),
            apply: Pace::draw(rng),
            snapshot: Pace::draw(rng),
            load: Pace::draw(rng),
            plugin: Pace::draw(rng),
            crash_every: often(rng, 60, 500, 4_000),
            partition_every: often(rng, 50, 500, 4_000),
            placement_every: Duration::from_millis(rng.range(150, 1_500)),
            client_every: Duration::from_millis(rng.range(8, 60)),
            crash_at_effect: rate(rng, 40, 15),
            bulk_load: rng.percent(50),
            preload,
            cache_capacity: if cache_is_ample { ReadableSize::mb(64) } else { ReadableSize(rng.range(2_000, 20_000)) },
            cache_is_ample,
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
        };
        (self.log, self.apply, self.snapshot) = (Pace::QUICK, Pace::QUICK, Pace::QUICK);
        (self.load, self.plugin) = (Pace::QUICK, Pace::QUICK);
        (self.crash_every, self.partition_every, self.crash_at_effect) = (None, None, 0);
    }

    pub(super) fn preload_config(&self) -> CheckedConfig {
        let mut config = self.preload.clone();
        if self.sabotage == Some(Sabotage::LimitsIgnored) {
            config.max_parked_requests = 4096;
        }
        config.check().expect("what is drawn is within the limits")
    }
}
