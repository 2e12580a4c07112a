//! The command line of what is asked of a node.
//!
//! **Owns** the commands over HTTP, with units, defaults, help and examples.
//!
//! **Invariants.** A parsed value is in its range.
//!
//! **Must not** act.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, value_parser};

use super::keys::{self, Bytes};

const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Which node, and how to reach it.
#[derive(Args)]
pub(crate) struct NodeArgs {
    /// Status address of the node
    #[arg(long, global = true, value_name = "HOST:PORT", env = "PRELOAD_ADDR", default_value = "127.0.0.1:20180")]
    pub(crate) addr: String,

    /// File with the node's token, which it wants when its address is not loopback
    #[arg(long, global = true, value_name = "FILE", env = "PRELOAD_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// How long to wait for the end of what was asked for, up to 10m
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// Show the node: version, stores, regions
    Status,
    /// List the stores with their leaders and caches
    Stores,
    /// List the regions with their leaders and peers, in the order of their keys
    ///
    /// PEERS has the store of each peer and the state of its region cache; * marks the leader, ! a peer that is not
    /// initialized.
    Regions {
        /// Only those with a peer on this store
        #[arg(long, value_name = "STORE")]
        store: Option<u64>,
    },
    /// Show one region: peers, cache, what it waits for, last preload events
    Region {
        #[arg(value_name = "REGION")]
        region: u64,
    },
    /// Write a value
    #[command(after_long_help = KEY_HELP)]
    Put {
        #[arg(value_name = "KEY", value_parser = parse_key)]
        key: Bytes,
        #[arg(value_name = "VALUE", value_parser = parse_key)]
        value: Bytes,
    },
    /// Read a value; exit code 1 if there is none
    #[command(after_long_help = KEY_HELP)]
    Get {
        #[arg(value_name = "KEY", value_parser = parse_key)]
        key: Bytes,
        /// Read what was there at this timestamp, as put prints one [default: now]
        #[arg(long, value_name = "TIMESTAMP")]
        ts: Option<u64>,
    },
    /// Delete a key
    #[command(after_long_help = KEY_HELP)]
    Delete {
        #[arg(value_name = "KEY", value_parser = parse_key)]
        key: Bytes,
    },
    /// Read the rows between two keys
    #[command(after_long_help = KEY_HELP)]
    Scan {
        /// The first key [default: the first one that there is]
        #[arg(value_name = "START", value_parser = parse_key)]
        start: Option<Bytes>,
        /// The first key that is not read any more [default: none]
        #[arg(value_name = "END", value_parser = parse_key)]
        end: Option<Bytes>,
        /// At most so many rows
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u64).range(1..=10_000))]
        limit: u64,
        /// Read what was there at this timestamp [default: now]
        #[arg(long, value_name = "TIMESTAMP")]
        ts: Option<u64>,
        /// From the last row to the first
        #[arg(long)]
        reverse: bool,
    },
    /// Split a region at a key, or in the middle of its data
    #[command(after_long_help = KEY_HELP)]
    Split {
        #[arg(value_name = "REGION")]
        region: u64,
        /// The first key of the new region [default: the middle, by size]
        #[arg(value_name = "KEY", value_parser = parse_key)]
        key: Option<Bytes>,
    },
    /// Merge a region into its neighbour
    Merge {
        #[arg(value_name = "REGION")]
        region: u64,
        /// The neighbour, which stays
        #[arg(value_name = "TARGET")]
        target: u64,
    },
    /// Move a region's leader to another store
    TransferLeader(RegionAndStore),
    /// Add a peer of a region on a store
    AddPeer(RegionAndStore),
    /// Remove a region's peer from a store
    RemovePeer(RegionAndStore),
    /// Move all leaders away from a store, and keep them away
    EvictLeaders {
        #[arg(value_name = "STORE")]
        store: u64,
        /// Let leaders come back
        #[arg(long)]
        end: bool,
    },
    /// Ask a store to warm a region up, and wait for its final answer
    ///
    /// The region's leader sends MsgPreLoadRegionRequest to the store's peer, as before a leader transfer. Each event that
    /// belongs to it is shown as it comes. Exit code 0 if the region is warm, 1 if the store refused or gave up.
    Preload(RegionAndStore),
    /// Keep a region or a key range warm on the store that leads it, until it is unpinned
    #[command(after_long_help = KEY_HELP)]
    Pin(RangeArgs),
    /// End a pin; the range must be the one that was pinned
    #[command(after_long_help = KEY_HELP)]
    Unpin(RangeArgs),
    /// List the pinned ranges and their regions
    Pins,
    /// Show the region caches, or evict a region from one
    #[command(args_conflicts_with_subcommands = true)]
    Cache {
        #[command(subcommand)]
        command: Option<CacheCommand>,
    },
    /// Show the configuration, or change it while the node runs
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show or set the level of what the node logs
    LogLevel {
        /// trace, debug, info, warn, error or fatal [default: show it]
        #[arg(value_name = "LEVEL")]
        level: Option<String>,
    },
    /// List, set and clear failpoints, in builds that have them
    Fail {
        #[command(subcommand)]
        command: FailCommand,
    },
    /// Watch preload events and regions as they change
    ///
    /// On a terminal: a table that is drawn again each second, until Ctrl-C. Elsewhere, and with --json: a line per event.
    Watch {
        /// Only events of this region
        #[arg(long, value_name = "REGION")]
        region: Option<u64>,
        /// Begin with the events that the node remembers
        #[arg(long)]
        history: bool,
        /// End after so many events [default: never]
        #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
        events: Option<u64>,
    },
}

#[derive(Args)]
pub(crate) struct RegionAndStore {
    #[arg(value_name = "REGION")]
    pub(crate) region: u64,
    #[arg(value_name = "STORE")]
    pub(crate) store: u64,
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub(crate) struct RangeArgs {
    /// The region whose range it is, as it is now
    #[arg(long, value_name = "REGION", conflicts_with_all = ["start", "end"])]
    pub(crate) region: Option<u64>,
    /// The first key; empty is the beginning
    #[arg(value_name = "START", value_parser = parse_key, requires = "end")]
    pub(crate) start: Option<Bytes>,
    /// The first key after the range; empty is the end
    #[arg(value_name = "END", value_parser = parse_key)]
    pub(crate) end: Option<Bytes>,
}

#[derive(Subcommand)]
pub(crate) enum CacheCommand {
    /// Evict a region from the cache of a store; exit code 1 if it was not there
    Evict(RegionAndStore),
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show all keys, or those that begin with PREFIX
    Get {
        #[arg(value_name = "PREFIX")]
        prefix: Option<String>,
    },
    /// Change keys: all of them, or none
    #[command(after_long_help = "Examples:
  preload-ctl config set preload.warmup-timeout=5s
  preload-ctl config set preload.enabled=false log.level=debug")]
    Set {
        /// KEY=VALUE; the value is JSON where it is valid JSON, else text
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = parse_change)]
        changes: Vec<(String, serde_json::Value)>,
    },
}

#[derive(Subcommand)]
pub(crate) enum FailCommand {
    /// List the failpoints that are set
    List,
    /// Set a failpoint
    Set {
        #[arg(value_name = "NAME")]
        name: String,
        /// As the crate fail has them: return, pause, sleep(100), 50%panic, …
        #[arg(value_name = "ACTIONS")]
        actions: String,
    },
    /// Clear a failpoint
    Clear {
        #[arg(value_name = "NAME")]
        name: String,
    },
}

const KEY_HELP: &str =
    "Keys and values are text with the escapes \\xNN, \\\\, \\n, \\r, \\t and \\0, or hexadecimal digits after hex: \
and they are printed in the same way.

Examples:
  preload-ctl put 'row\\x00\\x01' value
  preload-ctl get hex:726F770001
  preload-ctl scan a z --limit 10 --ts 450000000000000000
  preload-ctl split 2 m
  preload-ctl pin a m";

fn parse_key(text: &str) -> Result<Bytes, String> {
    keys::parse(text).map_err(|error| error.to_string())
}

fn parse_change(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((key.trim().to_owned(), value))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration from 1ms to {}m, like 500ms, 30s or 2m", TIMEOUT_MAX.as_secs() / 60);
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    let duration = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(expected)?;
    if duration.is_zero() || duration > TIMEOUT_MAX { Err(expected()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_range() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10m"), Ok(TIMEOUT_MAX));
        for bad in ["", "5", "0s", "11m", "1h", "-1s", "1.5s", "99999999999999999999s", "9999999999999999999m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_keys_are_json_where_they_can_be() {
        assert_eq!(parse_change("a.b=true").unwrap(), ("a.b".to_owned(), true.into()));
        assert_eq!(parse_change("a.b=5s").unwrap(), ("a.b".to_owned(), "5s".into()));
        assert_eq!(parse_change("a.b=x=y").unwrap(), ("a.b".to_owned(), "x=y".into()));
        assert!(parse_change("a.b").is_err());
    }
}
