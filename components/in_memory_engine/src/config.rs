//! Configuration of the region cache.
//!
//! **Owns** the keys of the section, their defaults and the reasons for them, and the check.
//!
//! **How it works.** [`RegionCacheEngineConfig`] is what the file says; [`validate`](RegionCacheEngineConfig::validate)
//! turns it into [`Limits`], which hold absolute numbers and are consistent.
//!
//! **Invariants.** In [`Limits`]: `0 < stop_load_threshold_bytes <= evict_threshold_bytes <= capacity_bytes`.
//!
//! **Must not** repair what is wrong: an inconsistent section is refused with the keys and the values.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tikv_util::config::{ReadableDuration, ReadableSize};

/// Large enough for a dozen regions of TiKV's default size at their hottest part, small enough that a node on a laptop
/// does not notice. A production store sets it to what its block cache can spare.
const DEFAULT_CAPACITY: ReadableSize = ReadableSize::mb(512);

/// Two regions load while others wait: a load is one sequential scan of the disk, more of them at once make each other
/// slower and hold more half-loaded data in memory.
const DEFAULT_LOAD_THREADS: usize = 2;

/// More threads than this would only be a mistake.
const LOAD_THREADS_MAX: usize = 64;

/// The space between the threshold and the capacity takes the writes that come in while regions are being evicted.
const DEFAULT_EVICT_THRESHOLD_PERCENT: u64 = 90;

/// Below the evict threshold, so that a load does not push another region out, and so that a region that was evicted is
/// not loaded again in the place of the next one: no load is started until a tenth of the capacity has become free.
const DEFAULT_STOP_LOAD_THRESHOLD_PERCENT: u64 = 80;

/// As in TiKV. Garbage is also left out whenever writes have a leaf built anew, so this is for regions that nobody
/// writes to.
const DEFAULT_GC_RUN_INTERVAL: ReadableDuration = ReadableDuration::secs(180);

/// More often, and the search for garbage is what the processor does.
const GC_RUN_INTERVAL_MIN: ReadableDuration = ReadableDuration::millis(100);

/// A region that has become hot waits half a minute for its load, on average. TiKV's default is 5 minutes; a round that
/// has nothing to do costs nothing here.
const DEFAULT_LOAD_EVICT_INTERVAL: ReadableDuration = ReadableDuration::secs(60);

/// More often, and a round knows too little of what is read.
const LOAD_EVICT_INTERVAL_MIN: ReadableDuration = ReadableDuration::millis(100);

/// About 1 ms of a processor's time per second. At this, the load of a region of TiKV's default size (a step for each of its
/// 700,000 entries) is made up for in about a minute. 150 reads of single keys per second are as much, or 20 scans of ten
/// rows with ten versions each.
const DEFAULT_AUTO_LOAD_THRESHOLD: u64 = 10_000;

/// Less than this does not even bring in one step of a load per second.
const LOAD_RATE_LIMIT_MIN: ReadableSize = ReadableSize::kb(64);

/// A region of default size every half minute is about 3 MiB per second of reading: a compaction is ten times that. With the
/// default capacity, everything that is cached has been compared within minutes.
const DEFAULT_CROSS_CHECK_INTERVAL: ReadableDuration = ReadableDuration::secs(30);

/// More often than this, and an empty cache would keep a thread busy.
const CROSS_CHECK_INTERVAL_MIN: ReadableDuration = ReadableDuration::millis(100);

/// A region of default size takes three seconds. Most of what an entry costs is the disk's own step to it, so this bounds
/// the processor time as well.
const DEFAULT_CROSS_CHECK_RATE_LIMIT: ReadableSize = ReadableSize::mb(32);

/// Keys that need a restart: they say which threads there are.
pub const ONLY_AT_START: [&str; 2] = ["enabled", "load-threads"];

/// Slower than this, and what is evicted meanwhile is not freed for a noticeable time: between two steps, nobody looks.
const CROSS_CHECK_RATE_LIMIT_MIN: ReadableSize = ReadableSize::mb(1);

/// The section `[in-memory-engine]`. All keys but [`ONLY_AT_START`] can be changed online, by
/// [`set_config`](crate::RegionCacheEngine::set_config).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegionCacheEngineConfig {
    /// Whether regions are cached at all. Default `true`: a host with this engine in it is there to use it.
    pub enabled: bool,
    /// Hard limit on what cached regions are accounted with, greater than 0. Online: what a lower one has no room for is
    /// evicted.
    pub capacity: ReadableSize,
    /// Above this, the regions with the fewest recent reads per byte are evicted. At most `capacity`; default 90 % of it.
    /// Online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evict_threshold: Option<ReadableSize>,
    /// Above this, no load is started; one that is running goes on up to `evict-threshold`. At most `evict-threshold`;
    /// default 80 % of `capacity`, or `evict-threshold` if that is lower. Online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_load_threshold: Option<ReadableSize>,
    /// Regions that are loaded at the same time, 1 to 64.
    pub load_threads: usize,
    /// How many bytes per second each load thread reads from the disk, at least 64KiB; default unlimited. Online,
    /// for loads that begin afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_rate_limit: Option<ReadableSize>,
    /// How often versions below the safe point are looked for, at least 100ms. Online.
    pub gc_run_interval: ReadableDuration,
    /// Pause before another cached region is compared with the disk, at least 100ms; `0s` switches the comparison off. A
    /// region that differs is evicted, counted in `tikv_in_memory_engine_cross_check_total`, and named in the log. Online.
    pub cross_check_interval: ReadableDuration,
    /// How many bytes per second the comparison reads from the disk, at least 1MiB. Online.
    pub cross_check_rate_limit: ReadableSize,
    /// Whether regions are loaded that nobody has asked for, because reading them from the disk costs much. Default
    /// `true`: they use memory that would lie idle, and make room when a region is asked for. Online.
    pub auto_load: bool,
    /// How often it is decided which regions these are, at least 100ms. Online.
    pub load_evict_interval: ReadableDuration,
    /// What reads of a region have to cost on the disk for that, in steps of a cursor per second, of which a seek counts as
    /// 32; greater than 0. (TiKV's `mvcc-amplification-threshold` is the number of versions that are read for one row. It
    /// says nothing of how often that happens, nor of seeks.) Online.
    pub auto_load_threshold: u64,
}

impl Default for RegionCacheEngineConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            capacity: DEFAULT_CAPACITY,
            evict_threshold: None,
            stop_load_threshold: None,
            load_threads: DEFAULT_LOAD_THREADS,
            load_rate_limit: None,
            gc_run_interval: DEFAULT_GC_RUN_INTERVAL,
            cross_check_interval: DEFAULT_CROSS_CHECK_INTERVAL,
            cross_check_rate_limit: DEFAULT_CROSS_CHECK_RATE_LIMIT,
            auto_load: true,
            load_evict_interval: DEFAULT_LOAD_EVICT_INTERVAL,
            auto_load_threshold: DEFAULT_AUTO_LOAD_THRESHOLD,
        }
    }
}

/// A checked [`RegionCacheEngineConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub capacity_bytes: usize,
    pub evict_threshold_bytes: usize,
    pub stop_load_threshold_bytes: usize,
    pub load_threads: usize,
    /// Per thread and second.
    pub load_rate_limit_bytes: Option<usize>,
    pub gc_run_interval: Duration,
    /// `None` when regions are not compared with the disk.
    pub cross_check_interval: Option<Duration>,
    /// Per second.
    pub cross_check_rate_limit_bytes: usize,
    pub auto_load: bool,
    pub load_evict_interval: Duration,
    /// Steps of a cursor per second.
    pub auto_load_threshold: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("in-memory-engine.{key} = {value} is not within {min}..={max}")]
    OutOfRange { key: &'static str, value: String, min: String, max: String },
    #[error("in-memory-engine.{key} = {value} is less than {min}")]
    TooSmall { key: &'static str, value: String, min: String },
    #[error("in-memory-engine.{key} = {value} is greater than in-memory-engine.{limit_key} = {limit}")]
    AboveLimit { key: &'static str, value: ReadableSize, limit_key: &'static str, limit: ReadableSize },
}

impl ConfigError {
    /// The keys that it is about, the one to change first.
    pub fn keys(&self) -> Vec<&'static str> {
        match self {
            Self::OutOfRange { key, .. } | Self::TooSmall { key, .. } => vec![*key],
            Self::AboveLimit { key, limit_key, .. } => vec![*key, *limit_key],
        }
    }
}

impl RegionCacheEngineConfig {
    /// # Errors
    /// When a value is out of its range, or two values contradict each other.
    pub fn validate(&self) -> Result<Limits, ConfigError> {
        let capacity_bytes = checked_size("capacity", self.capacity)?;
        let evict_threshold = self.evict_threshold.unwrap_or(percent(self.capacity, DEFAULT_EVICT_THRESHOLD_PERCENT));
        let evict_threshold_bytes = checked_size("evict-threshold", evict_threshold)?;
        let stop_load_threshold = self
            .stop_load_threshold
            .unwrap_or(percent(self.capacity, DEFAULT_STOP_LOAD_THRESHOLD_PERCENT).min(evict_threshold));
        let stop_load_threshold_bytes = checked_size("stop-load-threshold", stop_load_threshold)?;
        checked_order("evict-threshold", evict_threshold, "capacity", self.capacity)?;
        checked_order("stop-load-threshold", stop_load_threshold, "evict-threshold", evict_threshold)?;
        if !(1..=LOAD_THREADS_MAX).contains(&self.load_threads) {
            return Err(ConfigError::OutOfRange {
                key: "load-threads",
                value: self.load_threads.to_string(),
                min: "1".to_owned(),
                max: LOAD_THREADS_MAX.to_string(),
            });
        }
        let load_rate_limit_bytes =
            self.load_rate_limit.map(|limit| checked_size("load-rate-limit", limit)).transpose()?;
        if let Some(limit) = self.load_rate_limit.filter(|limit| *limit < LOAD_RATE_LIMIT_MIN) {
            return Err(ConfigError::TooSmall {
                key: "load-rate-limit",
                value: limit.to_string(),
                min: LOAD_RATE_LIMIT_MIN.to_string(),
            });
        }
        checked_interval("gc-run-interval", self.gc_run_interval, GC_RUN_INTERVAL_MIN)?;
        checked_interval("load-evict-interval", self.load_evict_interval, LOAD_EVICT_INTERVAL_MIN)?;
        if self.auto_load_threshold == 0 {
            return Err(ConfigError::TooSmall {
                key: "auto-load-threshold",
                value: self.auto_load_threshold.to_string(),
                min: "1".to_owned(),
            });
        }
        let is_cross_checked = self.cross_check_interval.0 > Duration::ZERO;
        if is_cross_checked {
            checked_interval("cross-check-interval", self.cross_check_interval, CROSS_CHECK_INTERVAL_MIN)?;
        }
        let cross_check_rate_limit_bytes = checked_size("cross-check-rate-limit", self.cross_check_rate_limit)?;
        if self.cross_check_rate_limit < CROSS_CHECK_RATE_LIMIT_MIN {
            return Err(ConfigError::TooSmall {
                key: "cross-check-rate-limit",
                value: self.cross_check_rate_limit.to_string(),
                min: CROSS_CHECK_RATE_LIMIT_MIN.to_string(),
            });
        }
        Ok(Limits {
            capacity_bytes,
            evict_threshold_bytes,
            stop_load_threshold_bytes,
            load_threads: self.load_threads,
            load_rate_limit_bytes,
            gc_run_interval: self.gc_run_interval.0,
            cross_check_interval: is_cross_checked.then_some(self.cross_check_interval.0),
            cross_check_rate_limit_bytes,
            auto_load: self.auto_load,
            load_evict_interval: self.load_evict_interval.0,
            auto_load_threshold: self.auto_load_threshold,
        })
    }
}

/// At least one byte, so that the thresholds of the tiniest capacity are valid.
fn percent(size: ReadableSize, percent: u64) -> ReadableSize {
    ReadableSize((size.0 / 100 * percent + size.0 % 100 * percent / 100).max(1))
}

fn checked_size(key: &'static str, size: ReadableSize) -> Result<usize, ConfigError> {
    let max = isize::MAX as usize;
    match usize::try_from(size.0) {
        Ok(bytes) if (1..=max).contains(&bytes) => Ok(bytes),
        _ => Err(ConfigError::OutOfRange {
            key,
            value: size.to_string(),
            min: ReadableSize(1).to_string(),
            max: ReadableSize(max as u64).to_string(),
        }),
    }
}

fn checked_interval(key: &'static str, value: ReadableDuration, min: ReadableDuration) -> Result<(), ConfigError> {
    if value < min {
        return Err(ConfigError::TooSmall { key, value: value.to_string(), min: min.to_string() });
    }
    Ok(())
}

fn checked_order(
    key: &'static str,
    value: ReadableSize,
    limit_key: &'static str,
    limit: ReadableSize,
) -> Result<(), ConfigError> {
    if value > limit { Err(ConfigError::AboveLimit { key, value, limit_key, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_follow_the_capacity_unless_they_are_set() {
        let limits = RegionCacheEngineConfig { capacity: ReadableSize(1000), ..Default::default() }.validate().unwrap();
        assert_eq!((limits.evict_threshold_bytes, limits.stop_load_threshold_bytes), (900, 800));

        let config = RegionCacheEngineConfig {
            capacity: ReadableSize(1000),
            evict_threshold: Some(ReadableSize(500)),
            ..Default::default()
        };
        assert_eq!(config.validate().unwrap().stop_load_threshold_bytes, 500);
        let smallest = RegionCacheEngineConfig { capacity: ReadableSize(1), ..Default::default() };
        assert_eq!(smallest.validate().unwrap().stop_load_threshold_bytes, 1);
    }

    #[test]
    fn keys_are_kebab_case_with_human_units_and_unknown_ones_are_refused() {
        let config: RegionCacheEngineConfig =
            toml::from_str("enabled = false\ncapacity = \"64MiB\"\nevict-threshold = \"32MiB\"\nload-threads = 1")
                .unwrap();
        assert_eq!((config.enabled, config.capacity, config.load_threads), (false, ReadableSize::mb(64), 1));
        assert_eq!(config.evict_threshold, Some(ReadableSize::mb(32)));
        assert_eq!(toml::from_str::<RegionCacheEngineConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(toml::from_str::<RegionCacheEngineConfig>("capacty = \"1MiB\"").is_err());
    }

    #[test]
    fn errors_name_the_keys_and_the_values() {
        let valid = RegionCacheEngineConfig { capacity: ReadableSize::mb(8), ..Default::default() };
        let error = |config: RegionCacheEngineConfig| config.validate().unwrap_err().to_string();
        let evict_threshold = Some(ReadableSize::mb(9));
        assert_eq!(
            error(RegionCacheEngineConfig { evict_threshold, ..valid.clone() }),
            "in-memory-engine.evict-threshold = 9MiB is greater than in-memory-engine.capacity = 8MiB"
        );
        let (evict_threshold, stop_load_threshold) = (Some(ReadableSize::mb(4)), Some(ReadableSize::mb(5)));
        assert_eq!(
            error(RegionCacheEngineConfig { evict_threshold, stop_load_threshold, ..valid.clone() }),
            "in-memory-engine.stop-load-threshold = 5MiB is greater than in-memory-engine.evict-threshold = 4MiB"
        );
        assert_eq!(
            error(RegionCacheEngineConfig { load_threads: 0, ..valid.clone() }),
            "in-memory-engine.load-threads = 0 is not within 1..=64"
        );
        assert_eq!(
            error(RegionCacheEngineConfig { load_rate_limit: Some(ReadableSize::kb(63)), ..valid.clone() }),
            "in-memory-engine.load-rate-limit = 63KiB is less than 64KiB"
        );
        assert_eq!(
            error(RegionCacheEngineConfig { gc_run_interval: ReadableDuration::millis(99), ..valid.clone() }),
            "in-memory-engine.gc-run-interval = 99ms is less than 100ms"
        );
        assert_eq!(
            error(RegionCacheEngineConfig { cross_check_interval: ReadableDuration::millis(99), ..valid.clone() }),
            "in-memory-engine.cross-check-interval = 99ms is less than 100ms"
        );
        assert_eq!(
            error(RegionCacheEngineConfig { cross_check_rate_limit: ReadableSize::kb(1023), ..valid.clone() }),
            "in-memory-engine.cross-check-rate-limit = 1023KiB is less than 1MiB"
        );
        let off = RegionCacheEngineConfig { cross_check_interval: ReadableDuration::secs(0), ..valid.clone() };
        assert_eq!(off.validate().unwrap().cross_check_interval, None);
        assert_eq!(
            error(RegionCacheEngineConfig { load_evict_interval: ReadableDuration::millis(99), ..valid.clone() }),
            "in-memory-engine.load-evict-interval = 99ms is less than 100ms"
        );
        assert_eq!(
            error(RegionCacheEngineConfig { auto_load_threshold: 0, ..valid.clone() }),
            "in-memory-engine.auto-load-threshold = 0 is less than 1"
        );
        for capacity in [ReadableSize(0), ReadableSize(u64::MAX)] {
            let message = error(RegionCacheEngineConfig { capacity, ..valid.clone() });
            assert!(message.starts_with(&format!("in-memory-engine.capacity = {capacity} is not within")), "{message}");
        }
    }
}
