//! The sections that are the node's own; the others belong to the crates that they configure.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use tikv_util::config::{ReadableDuration, ReadableSize};

/// The section `[node]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeSection {
    /// Where all data is. One node at a time can have it.
    ///
    /// Default `preload-data`, below the directory that the node is started in.
    pub data_dir: PathBuf,
    /// Stores of the node. A later start may have more of them, never fewer.
    ///
    /// Default 3: the fewest of which one can fail. Range 1 to 16.
    pub stores: u64,
    /// How far behind the newest timestamp garbage collection in the region cache stays. A read that is older goes to the
    /// disk, which keeps all versions.
    ///
    /// Default 10m, as TiDB's `tidb_gc_life_time`. At least 1s.
    pub gc_life_time: ReadableDuration,
    /// How long a stop waits for the requests that are being served, before it ends the stores.
    ///
    /// Default 10s: less than service managers wait before they kill. At most 10m.
    pub shutdown_timeout: ReadableDuration,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            data_dir: "preload-data".into(),
            stores: 3,
            gc_life_time: ReadableDuration::minutes(10),
            shutdown_timeout: ReadableDuration::secs(10),
        }
    }
}

/// The section `[server]`: the status server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerSection {
    /// Where the status server listens. Port 0 lets the system choose one, which the node prints.
    ///
    /// Default 127.0.0.1:20180: TiKV's port, reachable from this machine only. On an address that others can reach,
    /// `token-file` is needed.
    pub status_addr: SocketAddr,
    /// A file with the token that requests which change or read data have to carry, as `Authorization: Bearer TOKEN`.
    /// White space around it is ignored; it has at least 16 characters.
    ///
    /// Default none: on a loopback address no token is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Names by which browsers may reach the status server, besides `localhost` and IP addresses. A request that names
    /// another host is refused, or else a web page could reach the server by a name of its own (DNS rebinding).
    ///
    /// Default none.
    pub allowed_hosts: Vec<String>,
    /// Connections to the status server that are served at a time; further ones wait to be accepted.
    ///
    /// Default 2048: one that is idle takes some KiB, one that is served some ten. Large bodies and answers are bounded
    /// besides. Range 1 to 65536.
    pub max_connections: usize,
    /// The largest body of a request. A value is sent in hexadecimal digits, so it can be half as large.
    ///
    /// Default 4MiB: the largest command that is proposed is 8MiB (`raftstore.raft-entry-max-size`). Range 1KiB to 64MiB.
    pub max_body_size: ReadableSize,
    /// How long a client may take for its request, and how long it may keep a connection without one. What it does not
    /// read for so long, it does not get.
    ///
    /// Default 30s. Range 100ms to 10m.
    pub client_timeout: ReadableDuration,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            status_addr: SocketAddr::from(([127, 0, 0, 1], 20180)),
            token_file: None,
            allowed_hosts: Vec::new(),
            max_connections: 2048,
            max_body_size: ReadableSize::mb(4),
            client_timeout: ReadableDuration::secs(30),
        }
    }
}

/// The section `[security]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SecuritySection {
    /// Whether the status server leaves out the keys of regions and pinned ranges: they may be confidential. What a client
    /// asks for by its keys is answered with keys either way.
    ///
    /// Default true.
    pub redact_keys: bool,
}

impl Default for SecuritySection {
    fn default() -> Self {
        Self { redact_keys: true }
    }
}

/// The section `[log]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogSection {
    /// The least severe level that is logged: trace, debug, info, warn, error or fatal.
    ///
    /// Default info: changes of state, no line per request. Online.
    pub level: LogLevel,
    /// The file that the log is appended to. It is not rotated; logrotate does that, with `copytruncate`.
    ///
    /// Default none: the log goes to stderr.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: LogLevel(tikv_util::logger::Level::Info), file: None }
    }
}

/// A log level as the configuration spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(pub tikv_util::logger::Level);

impl LogLevel {
    pub fn name(self) -> &'static str {
        use tikv_util::logger::Level;
        match self.0 {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warn",
            Level::Error => "error",
            Level::Critical => "fatal",
        }
    }
}

impl std::str::FromStr for LogLevel {
    type Err = tikv_util::logger::ParseLevelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        tikv_util::logger::parse_level(name).map(Self)
    }
}

impl Serialize for LogLevel {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The section `[placement]`: where regions are, what TiKV has PD for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlacementSection {
    /// How long an operator (a split, a transfer of leadership, …) may take before it fails.
    ///
    /// Default 60s: the snapshot of a large region takes some of it. Range 1s to 1h.
    pub operator_timeout: ReadableDuration,
    /// Wait before a command that shows no effect is sent again.
    ///
    /// Default 500ms. Range 10ms to 1m.
    pub retry_after: ReadableDuration,
    /// A store that was not heard for so long counts as down.
    ///
    /// Default 10s. Range 1s to 1h.
    pub store_down_after: ReadableDuration,
    /// Voters that each region is given, as far as there are stores for them; 0 leaves regions as they are.
    ///
    /// Default 0: peers are added and removed by hand, and nobody undoes that. Range 0 to 7.
    pub replicas: usize,
    /// Whether leaders are moved until all stores lead about equally many regions.
    ///
    /// Default false: leaders stay where they were put.
    pub balance_leaders: bool,
}

impl Default for PlacementSection {
    fn default() -> Self {
        Self {
            operator_timeout: ReadableDuration::secs(60),
            retry_after: ReadableDuration::millis(500),
            store_down_after: ReadableDuration::secs(10),
            replicas: 0,
            balance_leaders: false,
        }
    }
}

impl PlacementSection {
    pub(crate) fn to_placement(&self) -> placement::Config {
        placement::Config {
            operator_timeout: self.operator_timeout.0,
            retry_after: self.retry_after.0,
            store_down_after: self.store_down_after.0,
            scheduler: placement::SchedulerConfig {
                replicas: (self.replicas > 0).then_some(self.replicas),
                balance_leaders: self.balance_leaders,
                churn: None,
            },
        }
    }
}

/// The section `[engine]`: the disk engine and the Raft log of each store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EngineConfig {
    /// The disk engine. A data directory keeps the one that it was created with.
    ///
    /// Default fjall, which is always there. The other one is rocksdb, in a build with the feature of that name.
    pub name: String,
    /// The cache of data blocks of each store. The region cache keeps what is hot; this one is for what is left.
    ///
    /// Default 32MiB. Any size; 0 means no cache.
    pub block_cache_size: ReadableSize,
    /// Size at which a memtable is flushed. On fjall recorded when a store is created: later it has no effect.
    ///
    /// Default 16MiB: some 64 MiB for each store. Range 1MiB to 1GiB.
    pub write_buffer_size: ReadableSize,
    /// Size of a store's Raft log from which on old files are made free.
    ///
    /// Default 256MiB: it is read at start, in less than a second. Range 64MiB to 64GiB.
    pub raft_log_purge_threshold: ReadableSize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            name: "fjall".into(),
            block_cache_size: ReadableSize::mb(32),
            write_buffer_size: ReadableSize::mb(16),
            raft_log_purge_threshold: ReadableSize::mb(256),
        }
    }
}
