//! The plugin's configuration.
//!
//! **Owns** what can be set, its limits, and the reason for each default.
//!
//! **How it works.** [`Config`] is what a file says; [`Config::check`] turns it into a [`CheckedConfig`], which is the
//! only thing the plugin accepts. Every key can be changed online, with `PreloadObserver::set_config`: it holds for what
//! happens afterwards, and an interval that becomes shorter also shortens the waits that have begun. Each has a test in
//! `src/tests/online_config.rs`.
//!
//! **Invariants.** In a [`CheckedConfig`] every interval is positive, minimum and maximum are in order, and the pinned
//! ranges are sorted and do not overlap.
//!
//! **Must not** correct a value silently, nor switch a feature off because of a neighbour: what cannot be honoured is
//! an error that names the key and the value.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tikv_util::config::ReadableDuration;

use crate::initialized_region::is_empty_range;

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

    /// How often the cache is compared with what should be in it, per region: pinned regions, and the regions that this
    /// store leads, so that it knows which ones are worth asking for when it gives leadership away.
    ///
    /// Default 5s: 10,000 regions make 2,000 look-ups a second, about a millisecond of one core. Range 1ms to 10m.
    /// Online.
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
    /// expire. About 500 bytes each.
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

/// A key range in the form in which region metadata holds keys (for TiDB's tables that is the memcomparable encoding).
///
/// A key is written as UTF-8 text, or as `hex:` and hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PinnedRange {
    /// Inclusive; empty is the start of the key space.
    pub start_key: String,
    /// Exclusive; empty is the end of the key space.
    pub end_key: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            warmup_timeout: ReadableDuration::secs(3),
            request_timeout: ReadableDuration::secs(10),
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
    #[error(
        "pinned[{index}].{key} = {value:?} is not a key, expected \"hex:\" and an even number of hexadecimal digits"
    )]
    Key { index: usize, key: &'static str, value: String },
    #[error("pinned[{index}]: start-key = {start:?} is not smaller than end-key = {end:?}")]
    EmptyRange { index: usize, start: String, end: String },
}

/// A [`Config`] that was checked; the fields mean what they mean there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedConfig {
    pub(crate) enabled: bool,
    pub(crate) warmup_timeout: Duration,
    pub(crate) request_timeout: Duration,
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
            pinned: PinnedRanges::parse(&self.pinned)?,
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

fn count(key: &'static str, value: usize, max: usize) -> Result<usize, ConfigError> {
    if value < 1 || value > max {
        return Err(ConfigError::Count { key, value, min: 1, max });
    }
    Ok(value)
}

/// Sorted by start, neither overlapping nor touching, so that one binary search answers a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PinnedRanges(Vec<KeyRange>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KeyRange {
    start: Vec<u8>,
    /// Empty means +∞.
    end: Vec<u8>,
}

impl PinnedRanges {
    fn parse(pinned: &[PinnedRange]) -> Result<Self, ConfigError> {
        let mut ranges = Vec::with_capacity(pinned.len());
        for (index, range) in pinned.iter().enumerate() {
            let (start_text, end_text) = (&range.start_key, &range.end_key);
            let parse = |key: &'static str, value: &String| {
                parse_key(value).ok_or_else(|| ConfigError::Key { index, key, value: value.clone() })
            };
            let (start, end) = (parse("start-key", start_text)?, parse("end-key", end_text)?);
            if is_empty_range(&start, &end) {
                return Err(ConfigError::EmptyRange { index, start: start_text.clone(), end: end_text.clone() });
            }
            ranges.push(KeyRange { start, end });
        }
        ranges.sort();
        let mut merged: Vec<KeyRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end.is_empty() => {}
                Some(last) if range.start <= last.end => {
                    if range.end.is_empty() || range.end > last.end {
                        last.end = range.end;
                    }
                }
                _ => merged.push(range),
            }
        }
        Ok(Self(merged))
    }

    /// Whether a key of `start..end` is pinned; an empty `end` is +∞.
    pub(crate) fn overlaps(&self, start: &[u8], end: &[u8]) -> bool {
        // The first pinned range that does not end at or before `start`.
        let first = self.0.partition_point(|range| !range.end.is_empty() && range.end.as_slice() <= start);
        self.0.get(first).is_some_and(|range| end.is_empty() || range.start.as_slice() < end)
    }
}

/// The bytes of a key as a configuration spells it.
fn parse_key(text: &str) -> Option<Vec<u8>> {
    let Some(digits) = text.strip_prefix("hex:") else {
        return Some(text.as_bytes().to_vec());
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(ranges: &[(&str, &str)]) -> Result<PinnedRanges, ConfigError> {
        let ranges: Vec<_> =
            ranges.iter().map(|(s, e)| PinnedRange { start_key: (*s).into(), end_key: (*e).into() }).collect();
        PinnedRanges::parse(&ranges)
    }

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
        let error = pinned(&[("a", "b"), ("a", "hex:6")]).unwrap_err().to_string();
        assert!(error.starts_with("pinned[1].end-key = \"hex:6\" is not a key"), "{error}");
        let error = pinned(&[("b", "hex:61")]).unwrap_err().to_string();
        assert_eq!(error, "pinned[0]: start-key = \"b\" is not smaller than end-key = \"hex:61\"");
    }

    #[test]
    fn overlapping_ranges_are_merged() {
        let ranges = pinned(&[("m", ""), ("a", "c"), ("b", "d"), ("d", "e"), ("x", "y")]).unwrap();
        assert_eq!(ranges, pinned(&[("a", "e"), ("m", "")]).unwrap());
        for (start, end, expected) in
            [("", "a", false), ("", "a1", true), ("e", "m", false), ("e", "", true), ("z", "zz", true), ("", "", true)]
        {
            assert_eq!(ranges.overlaps(start.as_bytes(), end.as_bytes()), expected, "{start}..{end}");
        }
        assert!(!PinnedRanges::default().overlaps(b"", b""));
    }

    #[test]
    fn keys_are_text_or_hex() {
        assert_eq!(parse_key("hex:00Ff"), Some(vec![0, 0xff]));
        assert_eq!(parse_key("hex:"), Some(vec![]));
        assert_eq!(parse_key("é"), Some("é".as_bytes().to_vec()));
        for bad in ["hex:0", "hex:0g", "hex:é"] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
    }
}
