//! What a node answers, as far as it is shown as text.
//!
//! **Owns** the shapes of docs/http-api.md that tables are made of.
//!
//! **Invariants.** A field that a node of another version lacks has its default; one that is new is passed over.

use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Regions {
    pub(super) regions: Vec<Region>,
}

#[derive(Deserialize)]
pub(super) struct Region {
    pub(super) id: u64,
    #[serde(default)]
    pub(super) start_key: String,
    #[serde(default)]
    pub(super) end_key: String,
    #[serde(default)]
    pub(super) epoch: Epoch,
    pub(super) leader: Option<Leader>,
    #[serde(default)]
    pub(super) pinned: bool,
    #[serde(default)]
    pub(super) peers: Vec<Peer>,
    /// Only of `/regions/{id}`.
    #[serde(default)]
    pub(super) answers: Vec<Event>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Epoch {
    pub(super) conf_ver: u64,
    pub(super) version: u64,
}

#[derive(Deserialize)]
pub(super) struct Leader {
    pub(super) store_id: u64,
    pub(super) term: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Peer {
    pub(super) store_id: u64,
    pub(super) peer_id: u64,
    pub(super) role: String,
    pub(super) raft_role: String,
    pub(super) lifecycle: String,
    pub(super) applied_index: u64,
    pub(super) pending: bool,
    pub(super) cache: PeerCache,
    pub(super) preload: PeerPreload,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PeerCache {
    pub(super) state: String,
    pub(super) bytes: u64,
    pub(super) loaded_bytes: Option<u64>,
    pub(super) hits: u64,
    pub(super) misses: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PeerPreload {
    pub(super) wanted: Option<String>,
    pub(super) waiting_requests: u64,
    pub(super) ack_held: bool,
    pub(super) waits_for: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) engine: String,
    #[serde(default)]
    pub(super) features: Vec<String>,
    #[serde(default)]
    pub(super) pid: u64,
    #[serde(default)]
    pub(super) started_at: String,
    #[serde(default)]
    pub(super) cluster_id: u64,
    #[serde(default)]
    pub(super) log_level: String,
    #[serde(default)]
    pub(super) regions: u64,
    pub(super) stores: Vec<Store>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Store {
    pub(super) store_id: u64,
    pub(super) state: String,
    pub(super) regions: u64,
    pub(super) leaders: u64,
    pub(super) uninitialized: u64,
    pub(super) cache: StoreCache,
    pub(super) preload: StorePreload,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct StoreCache {
    pub(super) enabled: bool,
    pub(super) used_bytes: u64,
    pub(super) evict_threshold_bytes: u64,
    pub(super) stop_load_threshold_bytes: u64,
    pub(super) capacity_bytes: u64,
    pub(super) regions_active: u64,
    pub(super) regions_loading: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct StorePreload {
    pub(super) parked_requests: u64,
    pub(super) warm_seconds: Option<WarmSeconds>,
}

#[derive(Deserialize)]
pub(super) struct WarmSeconds {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

#[derive(Deserialize)]
pub(super) struct Events {
    pub(super) next: u64,
    #[serde(default)]
    pub(super) lost: bool,
    /// Each also as it came, for `--json`.
    pub(super) events: Vec<serde_json::Value>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    pub(super) time: String,
    pub(super) store_id: u64,
    pub(super) region_id: u64,
    pub(super) kind: String,
    pub(super) peer_store_id: Option<u64>,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) elapsed_ms: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Pins {
    pub(super) pins: Vec<Pin>,
}

#[derive(Deserialize)]
pub(super) struct Pin {
    pub(super) start_key: String,
    pub(super) end_key: String,
    #[serde(default)]
    pub(super) source: String,
    #[serde(default)]
    pub(super) regions: Vec<u64>,
}

#[derive(Deserialize)]
pub(super) struct Got {
    pub(super) value: Option<String>,
    pub(super) commit_ts: Option<String>,
    #[serde(default)]
    pub(super) ts: String,
    #[serde(flatten)]
    pub(super) served_by: ServedBy,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ServedBy {
    pub(super) region_id: u64,
    pub(super) store_id: u64,
    pub(super) source: String,
    pub(super) source_reason: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Scanned {
    #[serde(default)]
    pub(super) ts: String,
    pub(super) rows: Vec<Row>,
    #[serde(default)]
    pub(super) sources: Vec<ServedBy>,
    #[serde(default)]
    pub(super) more: bool,
}

#[derive(Deserialize)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) value: String,
    #[serde(default)]
    pub(super) commit_ts: String,
}

#[derive(Deserialize)]
pub(super) struct Config {
    pub(super) entries: Vec<ConfigEntry>,
}

#[derive(Deserialize)]
pub(super) struct ConfigEntry {
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: serde_json::Value,
    #[serde(default)]
    pub(super) default: serde_json::Value,
    #[serde(default)]
    pub(super) source: String,
    #[serde(default)]
    pub(super) online: bool,
    #[serde(default)]
    pub(super) doc: String,
}

#[derive(Deserialize)]
pub(super) struct Failpoints {
    pub(super) failpoints: Vec<Failpoint>,
}

#[derive(Deserialize)]
pub(super) struct Failpoint {
    pub(super) name: String,
    #[serde(default)]
    pub(super) actions: String,
}
