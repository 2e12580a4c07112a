//! The plugin's configuration.
//!
//! **Owns** what can be set, its limits, and the reason for each default.
//!
//! **How it works.** [`Config`] is what a file says; [`Config::check`] turns it into a [`CheckedConfig`], which is the
//! only thing the plugin accepts. Every key can be changed online, with `PreloadObserver::set_config`: it holds for what
//! happens afterwards, and an interval that becomes shorter also shortens the waits that have begun. Each has a test in
//! `src/tests/online_config.rs`.
//!
//! **Invariants.** In a [`CheckedConfig`] every interval is positive, and minimum and maximum are in order.
//!
//! **Must not** correct a value silently, nor switch a feature off because of a neighbour: what cannot be honoured is
//! an error that names the key and the value.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tikv_util::config::ReadableDuration;

use crate::pinned::{KeyRange, PinError, PinnedRange, PinnedRanges};

/// What a configuration file says about preloading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Whether the plugin warms regions up. When false it still intercepts preload requests, answers them with
    /// `server_is_busy`, and never touches the cache engine nor a leader transfer.
    ///
    /// Default true. Online.
    pub enabled: bool,

    /// How long the target of a leader transfer may hold its acknowledgement back until the region is warm. Zero never
    /// holds.
    ///
    /// Default 3s: below half of TiKV's election timeout (10s), at which the store gives the transfer up by itself; a
    /// region of 96 MiB loads in well under a second. Range 0 to 60s. Online (for offers that come afterwards; zero also
    /// for those that are held back).
    pub warmup_timeout: ReadableDuration,

    /// How long a request may wait for its region to become warm, on the store that was asked; and how long the asking
    /// store remembers that it asked.
    ///
    /// Default 10s: the time within which PD's scheduler decides that a transfer did not work. Range 1ms to 10m. Online
    /// (for requests that arrive afterwards).
    pub request_timeout: ReadableDuration,

    /// How long this store waits for the final answer to a request of its own before it sends it again: the first time,
    /// doubled each time, and spread by half of it.
    ///
    /// Default 500ms: many times what a message and a load of a region take, so that a request is rarely sent twice when
    /// none was lost; and four times within `request-timeout` when all are. Range 1ms to 10m. Online.
    pub request_resend_interval: ReadableDuration,

    /// How often the cache is compared with what should be in it, per region: pinned regions, and the regions that this
    /// store leads, so that it knows which ones are worth asking for when it gives leadership away.
    ///
    /// Default 5s: 10,000 regions make 2,000 look-ups a second, which take the worker below 2 % of one core
    /// (`preload-bench observer` measures it). Range 1ms to 10m. Online.
    pub reconcile_interval: ReadableDuration,

    /// How often the cache is looked at while a load runs.
    ///
    /// Default 20ms: small against a leader transfer (one election tick, 1s), large against a look-up (below 1µs). Range
    /// 1ms to 10s. Online.
    pub probe_interval: ReadableDuration,

    /// How long to wait before a load that was refused or failed is tried again: the first time, doubled each time, and
    /// spread by half of it so that the regions of a full cache do not come back together.
    ///
    /// Default 50ms: the previous incarnation of a region finishes evicting within that. Range 1ms to
    /// `load-retry-backoff-max`. Online.
    pub load_retry_backoff_min: ReadableDuration,

    /// The longest wait between two loads of a region.
    ///
    /// Default 5s: a pinned region comes back soon after a full cache has room again. Range `load-retry-backoff-min` to
    /// 10m. Online.
    pub load_retry_backoff_max: ReadableDuration,

    /// After so many loads in a row that were refused, failed, or were evicted before they were seen to be done, the
    /// requests for the region are told that the cache does not take it. Pinned regions go on trying.
    ///
    /// Default 6: with the backoffs above that is after one to two seconds when loads are refused at once, which is in
    /// time to answer before `request-timeout`. Range 1 to 1000. Online.
    pub load_attempts_max: u32,

    /// How many requests may wait at once, over all regions; the next one is answered with `server_is_busy`.
    ///
    /// Default 4096: a rolling restart moves a few thousand leaders; a waiting request takes about 100 bytes. Range 1
    /// to 1,000,000. Online.
    pub max_parked_requests: usize,

    /// How many messages may wait to be sent. Requests that arrive when there are more are dropped and counted, as if
    /// the network had lost them; it takes a stuck transport to get there.
    ///
    /// Default 8192: two answers for each request that can wait. Range 1 to 1,000,000. Online.
    pub max_queued_messages: usize,

    /// How many requests of this store may be unanswered at once; transfers beyond go ahead without asking.
    ///
    /// Default 1024: PD runs a few dozen transfers per store at a time, evict-leader a few hundred. Range 1 to
    /// 1,000,000. Online.
    pub max_in_flight_requests: usize,

    /// How many initialized regions are remembered. Regions beyond are treated as unknown: requests for them wait and
    /// expire. About 900 bytes each (`preload-bench observer` measures it).
    ///
    /// Default 1,000,000: ten times the regions of a large store. Range 1 to 100,000,000. Online (takes effect on
    /// regions that come later).
    pub max_known_regions: usize,

    /// How long an inbound snapshot keeps loads of its region back before it starts to be applied. The store may drop
    /// a snapshot without telling anyone, so this has to end.
    ///
    /// Default 3s: a snapshot that has arrived waits for others before it, rarely longer. When it does wait longer, a
    /// load is wasted, since applying the snapshot evicts the region; when the snapshot was dropped, there is time left
    /// to load before `request-timeout`. Once the snapshot's metadata is persisted, it is given `request-timeout` if that
    /// is longer. Range 1ms to 10m. Online (for snapshots that arrive afterwards).
    pub snapshot_announce_timeout: ReadableDuration,

    /// Key ranges whose regions are kept warm while this store leads them, across restarts.
    ///
    /// Default none. Online.
    pub pinned: Vec<PinnedRange>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            warmup_timeout: ReadableDuration::secs(3),
            request_timeout: ReadableDuration::secs(10),
            request_resend_interval: ReadableDuration::millis(500),
            reconcile_interval: ReadableDuration::secs(5),
            probe_interval: ReadableDuration::millis(20),
            load_retry_backoff_min: ReadableDuration::millis(50),
            load_retry_backoff_max: ReadableDuration::secs(5),
            load_attempts_max: 6,
            max_parked_requests: 4096,
            max_queued_messages: 8192,
            max_in_flight_requests: 1024,
            max_known_regions: 1_000_000,
            snapshot_announce_timeout: ReadableDuration::secs(3),
            pinned: Vec::new(),
        }
    }
}

/// Why a configuration is refused. Keys are spelled as in the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{key} = \"{value}\" is out of range, expected \"{min}\" to \"{max}\"")]
    Duration { key: &'static str, value: ReadableDuration, min: ReadableDuration, max: ReadableDuration },
    #[error("{key} = {value} is out of range, expected {min} to {max}")]
    Count { key: &'static str, value: usize, min: usize, max: usize },
    #[error("load-retry-backoff-min = \"{min}\" is greater than load-retry-backoff-max = \"{max}\"")]
    Backoff { min: ReadableDuration, max: ReadableDuration },
    #[error("pinned[{index}]: {error}")]
    Pinned { index: usize, error: PinError },
}

impl ConfigError {
    /// The keys that it is about.
    pub fn keys(&self) -> Vec<&'static str> {
        match self {
            Self::Duration { key, .. } | Self::Count { key, .. } => vec![*key],
            Self::Backoff { .. } => vec!["load-retry-backoff-min", "load-retry-backoff-max"],
            Self::Pinned { .. } => vec!["pinned"],
        }
    }
}

/// A [`Config`] that was checked; the fields mean what they mean there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedConfig {
    pub(crate) enabled: bool,
    pub(crate) warmup_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) request_resend_interval: Duration,
    pub(crate) reconcile_interval: Duration,
    pub(crate) probe_interval: Duration,
    pub(crate) load_retry_backoff_min: Duration,
    pub(crate) load_retry_backoff_max: Duration,
    pub(crate) load_attempts_max: u32,
    pub(crate) max_parked_requests: usize,
    pub(crate) max_queued_messages: usize,
    pub(crate) max_in_flight_requests: usize,
    pub(crate) max_known_regions: usize,
    pub(crate) snapshot_announce_timeout: Duration,
    pub(crate) pinned: PinnedRanges,
}

impl Config {
    /// # Errors
    /// The first value that cannot be honoured.
    pub fn check(&self) -> Result<CheckedConfig, ConfigError> {
        const MILLI: ReadableDuration = ReadableDuration::millis(1);
        let long = ReadableDuration::minutes(10);
        if self.load_retry_backoff_min > self.load_retry_backoff_max {
            return Err(ConfigError::Backoff { min: self.load_retry_backoff_min, max: self.load_retry_backoff_max });
        }
        let none = ReadableDuration::millis(0);
        Ok(CheckedConfig {
            enabled: self.enabled,
            warmup_timeout: duration("warmup-timeout", self.warmup_timeout, none, ReadableDuration::secs(60))?,
            request_timeout: duration("request-timeout", self.request_timeout, MILLI, long)?,
            request_resend_interval: duration("request-resend-interval", self.request_resend_interval, MILLI, long)?,
            reconcile_interval: duration("reconcile-interval", self.reconcile_interval, MILLI, long)?,
            probe_interval: duration("probe-interval", self.probe_interval, MILLI, ReadableDuration::secs(10))?,
            load_retry_backoff_min: duration("load-retry-backoff-min", self.load_retry_backoff_min, MILLI, long)?,
            load_retry_backoff_max: duration("load-retry-backoff-max", self.load_retry_backoff_max, MILLI, long)?,
            load_attempts_max: {
                count("load-attempts-max", self.load_attempts_max as usize, 1000)?;
                self.load_attempts_max
            },
            max_parked_requests: count("max-parked-requests", self.max_parked_requests, 1_000_000)?,
            max_queued_messages: count("max-queued-messages", self.max_queued_messages, 1_000_000)?,
            max_in_flight_requests: count("max-in-flight-requests", self.max_in_flight_requests, 1_000_000)?,
            max_known_regions: count("max-known-regions", self.max_known_regions, 100_000_000)?,
            snapshot_announce_timeout: duration(
                "snapshot-announce-timeout",
                self.snapshot_announce_timeout,
                MILLI,
                long,
            )?,
            pinned: pinned(&self.pinned)?,
        })
    }
}

fn duration(
    key: &'static str,
    value: ReadableDuration,
    min: ReadableDuration,
    max: ReadableDuration,
) -> Result<Duration, ConfigError> {
    if value < min || value > max {
        return Err(ConfigError::Duration { key, value, min, max });
    }
    Ok(value.0)
}

fn pinned(ranges: &[PinnedRange]) -> Result<PinnedRanges, ConfigError> {
    let parse = |(index, range)| KeyRange::parse(range).map_err(|error| ConfigError::Pinned { index, error });
    Ok(PinnedRanges::new(ranges.iter().enumerate().map(parse).collect::<Result<_, _>>()?))
}

fn count(key: &'static str, value: usize, max: usize) -> Result<usize, ConfigError> {
    if value < 1 || value > max {
        return Err(ConfigError::Count { key, value, min: 1, max });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_round_trips_through_toml() {
        let config = Config::default();
        config.check().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert!(text.contains("warmup-timeout = \"3s\""), "{text}");
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
    }

    #[test]
    fn a_file_sets_what_it_names() {
        let config: Config =
            toml::from_str("probe-interval = \"5ms\"\n[[pinned]]\nstart-key = \"hex:7480\"\nend-key = \"u\"\n")
                .unwrap();
        let checked = config.check().unwrap();
        assert_eq!(checked.probe_interval, Duration::from_millis(5));
        assert!(checked.pinned.overlaps(b"t\x80\x01", b"t\x80\x02"));
        assert!(!checked.pinned.overlaps(b"a", b"t\x80"));
        assert!(toml::from_str::<Config>("probe = \"5ms\"").is_err());
    }

    #[test]
    fn errors_name_key_and_value() {
        let check = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(
            check(|c| c.request_timeout = ReadableDuration::millis(0)),
            "request-timeout = \"0s\" is out of range, expected \"1ms\" to \"10m\""
        );
        assert_eq!(
            check(|c| c.max_parked_requests = 0),
            "max-parked-requests = 0 is out of range, expected 1 to 1000000"
        );
        assert_eq!(
            check(|c| c.load_retry_backoff_min = ReadableDuration::secs(9)),
            "load-retry-backoff-min = \"9s\" is greater than load-retry-backoff-max = \"5s\""
        );
        let pinned = |ranges: &[(&str, &str)]| {
            let range =
                |(start, end): &(&str, &str)| PinnedRange { start_key: (*start).into(), end_key: (*end).into() };
            let config = Config { pinned: ranges.iter().map(range).collect(), ..Config::default() };
            config.check().unwrap_err().to_string()
        };
        let error = pinned(&[("a", "b"), ("a", "hex:6")]);
        assert!(error.starts_with("pinned[1]: end-key = \"hex:6\" is not a key"), "{error}");
        let error = pinned(&[("b", "hex:61")]);
        assert_eq!(error, "pinned[0]: start-key = \"b\" is not smaller than end-key = \"hex:61\"");
    }
}
