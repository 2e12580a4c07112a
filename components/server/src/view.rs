//! What can be seen of a node from outside, at one moment of each store.
//!
//! # What it owns
//! The shape of the view as JSON, see docs/http-api.md.
//!
//! # How it works
//! [`View::collect`] asks each store for its peers, and looks at its cache and its plugin. What stores say of a region is put
//! together under the region's id.
//!
//! # Invariants
//! A region's metadata is that of the leader in the highest term, or else the newest that any peer has.
//!
//! # What it must not do
//! Be used to decide anything: it is out of date when it arrives.

use std::{collections::BTreeMap, time::Duration};

use in_memory_engine::{RegionState as CachedState, RegionStatus as CachedStatus};
use kvproto::metapb::Region;
use preload_observer::{
    PinnedRange,
    core::{CacheState, IntentState, PeerState, RegionState, SnapshotPhase, Source},
};
use raft::StateRole;
use raftstore::store::{
    PeerStatus,
    region::{find_peer, is_initialized, is_learner},
};
use serde::Serialize;

use crate::{engine::DiskEngine, events::WarmSeconds, node::Node};

/// A store that takes longer counts as down.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is shown instead of a key.
pub const REDACTED: &str = "?";

#[derive(Clone, Debug)]
pub struct View {
    pub stores: Vec<StoreView>,
    /// In the order of their keys; regions of which only the id is known come first.
    pub regions: Vec<RegionView>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StoreView {
    pub store_id: u64,
    /// `up`, `stopping` or `down`.
    pub state: &'static str,
    pub regions: usize,
    pub leaders: usize,
    pub uninitialized: usize,
    pub applying_snapshots: usize,
    pub cache: StoreCacheView,
    pub preload: StorePreloadView,
}

#[derive(Clone, Debug, Serialize)]
pub struct StoreCacheView {
    pub enabled: bool,
    pub used_bytes: usize,
    pub evict_threshold_bytes: usize,
    pub stop_load_threshold_bytes: usize,
    pub capacity_bytes: usize,
    pub regions_active: usize,
    pub regions_loading: usize,
    pub hits: u64,
    pub misses: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct StorePreloadView {
    pub parked_requests: usize,
    pub in_flight_requests: usize,
    pub queued_messages: usize,
    /// By source, then by state.
    pub intents: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
    /// Regions that something is known of, by state.
    pub lifecycle: BTreeMap<&'static str, usize>,
    pub warm_seconds: Option<WarmSeconds>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RegionView {
    pub id: u64,
    pub start_key: KeyText,
    pub end_key: KeyText,
    pub epoch: EpochView,
    pub leader: Option<LeaderView>,
    pub pinned: bool,
    pub peers: Vec<PeerView>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct EpochView {
    pub conf_ver: u64,
    pub version: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct LeaderView {
    pub store_id: u64,
    pub peer_id: u64,
    pub term: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct PeerView {
    pub store_id: u64,
    pub peer_id: u64,
    /// `voter`, `learner`, or `unknown` while the peer does not know its region.
    pub role: &'static str,
    /// `leader`, `follower`, `candidate` or `pre_candidate`.
    pub raft_role: &'static str,
    /// `uninitialized`, `initialized`, `applying_snapshot` or `merging`.
    pub lifecycle: &'static str,
    pub term: u64,
    pub applied_index: u64,
    pub commit_index: u64,
    /// The leader says that it has not caught up.
    pub pending: bool,
    pub cache: PeerCacheView,
    pub preload: PeerPreloadView,
}

#[derive(Clone, Debug, Serialize)]
pub struct PeerCacheView {
    /// `absent`, `pending`, `loading`, `active` or `evicting`.
    pub state: &'static str,
    pub bytes: usize,
    /// What the load has read so far; null unless the region is `pending` or `loading`.
    pub loaded_entries: Option<usize>,
    pub loaded_bytes: Option<usize>,
    pub hits: u64,
    pub misses: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct PeerPreloadView {
    /// Who wants the region to be warm here: `request`, `pinned` or `transfer`.
    pub wanted: Option<&'static str>,
    pub waiting_requests: usize,
    pub ack_held: bool,
    /// What keeps it from being warm: `initialization`, `snapshot`, `merge`, `metadata`, `load` or `room`.
    pub waits_for: Option<&'static str>,
}

/// A key, or what is shown instead of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct KeyText(String);

impl KeyText {
    pub fn new(key: &[u8], redact: bool) -> Self {
        Self(if redact && !key.is_empty() { REDACTED.to_owned() } else { hex(key) })
    }
}

/// Upper-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02X}");
    }
    text
}

impl View {
    /// Blocks until all stores have answered, or one of them takes too long.
    pub fn collect<D: DiskEngine>(node: &Node<D>) -> Self {
        let redact = node.config().security.redact_keys;
        let pins = pinned_ranges(&node.pinned());
        let mut stores = Vec::new();
        let mut by_region: BTreeMap<u64, Gathered> = BTreeMap::new();
        for (store_id, member) in node.members() {
            let statuses = member.handle.statuses(STORE_TIMEOUT).ok();
            let state = match (&statuses, node.is_stopping()) {
                (_, true) => "stopping",
                (Some(_), false) => "up",
                (None, false) => "down",
            };
            let statuses = statuses.unwrap_or_default();
            let cached: BTreeMap<u64, CachedStatus> = member
                .cache
                .regions()
                .into_iter()
                // Of a region that is cached again while it is being evicted, the live one counts; those come first.
                .rev()
                .map(|status| (status.region.id, status))
                .collect();
            let count =
                |accept: fn(&CachedState) -> bool| cached.values().filter(|region| accept(&region.state)).count();
            let (limits, reads, plugin) = (member.cache.limits(), member.reads.total(), member.plugin.status());
            let used_bytes = member.cache.usage_bytes();
            stores.push(StoreView {
                store_id: *store_id,
                state,
                regions: statuses.len(),
                leaders: statuses.iter().filter(|status| status.is_leader()).count(),
                uninitialized: statuses.iter().filter(|status| !status.is_initialized()).count(),
                applying_snapshots: statuses.iter().filter(|status| status.applying_snapshot).count(),
                cache: StoreCacheView {
                    enabled: member.cache.enabled(),
                    used_bytes,
                    evict_threshold_bytes: limits.evict_threshold_bytes,
                    stop_load_threshold_bytes: limits.stop_load_threshold_bytes,
                    capacity_bytes: limits.capacity_bytes,
                    regions_active: count(|state| *state == CachedState::Active),
                    regions_loading: count(|state| matches!(state, CachedState::Pending | CachedState::Loading)),
                    hits: reads.hits,
                    misses: reads.misses,
                },
                preload: StorePreloadView {
                    parked_requests: plugin.parked_requests,
                    in_flight_requests: plugin.in_flight_requests,
                    queued_messages: plugin.queued_messages,
                    intents: Source::ALL
                        .into_iter()
                        .map(|source| {
                            let states = IntentState::ALL.into_iter();
                            let counts = states.map(|state| (state.label(), plugin.census.intents(source, state)));
                            (source.label(), counts.collect())
                        })
                        .collect(),
                    lifecycle: RegionState::ALL
                        .into_iter()
                        .map(|state| (state.label(), plugin.census.regions(state)))
                        .collect(),
                    warm_seconds: member.warm_up.summary(),
                },
            });
            let is_full = used_bytes > limits.stop_load_threshold_bytes;
            for status in statuses {
                let region_id = status.region.get_id();
                let reads = member.reads.of_region(region_id);
                let cached = cached.get(&region_id);
                let loaded = cached
                    .filter(|region| matches!(region.state, CachedState::Pending | CachedState::Loading))
                    .map(|region| region.loaded);
                let cache = PeerCacheView {
                    state: cached.map_or("absent", |region| cached_label(region.state)),
                    bytes: cached.map_or(0, |region| region.memory_bytes),
                    loaded_entries: loaded.map(|loaded| loaded.entries),
                    loaded_bytes: loaded.map(|loaded| loaded.bytes),
                    hits: reads.hits,
                    misses: reads.misses,
                };
                let preload = member.plugin.region_status(region_id).map(|known| preload_view(&known, is_full));
                let gathered = by_region.entry(region_id).or_default();
                gathered.add(*store_id, status, cache, preload.unwrap_or_default());
            }
        }
        let mut regions: Vec<(Region, RegionView)> =
            by_region.into_values().map(|gathered| gathered.finish(&pins, redact)).collect();
        regions.sort_by(|(left, _), (right, _)| {
            (left.get_start_key(), left.get_id()).cmp(&(right.get_start_key(), right.get_id()))
        });
        View { stores, regions: regions.into_iter().map(|(_, view)| view).collect() }
    }
}

/// The ranges that are pinned, as keys.
fn pinned_ranges(pins: &[preload_observer::Pin]) -> Vec<(Vec<u8>, Vec<u8>)> {
    // The plugin spells them so that they can be read.
    pins.iter().filter_map(|pin| pin.range.keys().ok()).collect()
}

/// Whether `region`, which is initialized, has a key in the range.
pub fn is_in(region: &Region, (start, end): &(Vec<u8>, Vec<u8>)) -> bool {
    (end.is_empty() || region.get_start_key() < end.as_slice())
        && (region.get_end_key().is_empty() || start.as_slice() < region.get_end_key())
}

/// The range of `region`, as the plugin spells it.
pub fn range_of(region: &Region) -> PinnedRange {
    PinnedRange::of_keys(region.get_start_key(), region.get_end_key())
}

fn cached_label(state: CachedState) -> &'static str {
    match state {
        CachedState::Pending => "pending",
        CachedState::Loading => "loading",
        CachedState::Active => "active",
        CachedState::Evicting => "evicting",
    }
}

fn preload_view(known: &preload_observer::core::RegionStatus, cache_is_full: bool) -> PeerPreloadView {
    let is_wanted = known.wanted.is_some() || known.waiting_requests > 0 || known.is_ack_held;
    let waits_for = match &known.peer {
        PeerState::Unknown | PeerState::Uninitialized { .. } => "initialization",
        PeerState::Malformed(_) => "metadata",
        PeerState::Merging(_) => "merge",
        PeerState::Initialized(_) if known.snapshot != SnapshotPhase::Idle => "snapshot",
        PeerState::Initialized(_) if known.cache == Some(CacheState::Loading) || !cache_is_full => "load",
        PeerState::Initialized(_) => "room",
    };
    PeerPreloadView {
        wanted: known.wanted.map(Source::label),
        waiting_requests: known.waiting_requests,
        ack_held: known.is_ack_held,
        waits_for: (is_wanted && known.cache != Some(CacheState::Active)).then_some(waits_for),
    }
}

/// What the stores say of one region.
#[derive(Default)]
struct Gathered {
    region: Region,
    leader: Option<LeaderView>,
    pending: Vec<u64>,
    peers: Vec<(PeerStatus, PeerView)>,
}

impl Gathered {
    fn add(&mut self, store_id: u64, status: PeerStatus, cache: PeerCacheView, preload: PeerPreloadView) {
        let leads_newer = status.is_leader() && self.leader.is_none_or(|leader| leader.term < status.term);
        let version = |region: &Region| {
            (is_initialized(region), region.get_region_epoch().get_version(), region.get_region_epoch().get_conf_ver())
        };
        let is_newer = self.peers.is_empty() || version(&status.region) > version(&self.region);
        if leads_newer || (self.leader.is_none() && is_newer) {
            self.region = status.region.clone();
        }
        if leads_newer {
            self.leader = Some(LeaderView { store_id, peer_id: status.peer_id, term: status.term });
            self.pending.clone_from(&status.pending_peers);
        }
        let view = PeerView {
            store_id,
            peer_id: status.peer_id,
            role: "unknown",
            raft_role: match status.role {
                StateRole::Leader => "leader",
                StateRole::Follower => "follower",
                StateRole::Candidate => "candidate",
                StateRole::PreCandidate => "pre_candidate",
            },
            lifecycle: match &status {
                status if !status.is_initialized() => "uninitialized",
                status if status.applying_snapshot => "applying_snapshot",
                status if status.merging => "merging",
                _ => "initialized",
            },
            term: status.term,
            applied_index: status.applied_index,
            commit_index: status.commit_index,
            pending: false,
            cache,
            preload,
        };
        self.peers.push((status, view));
    }

    fn finish(self, pins: &[(Vec<u8>, Vec<u8>)], redact: bool) -> (Region, RegionView) {
        let Self { region, leader, pending, peers } = self;
        let peers = peers.into_iter().map(|(status, mut view)| {
            view.pending = pending.contains(&view.peer_id);
            let own = [&region, &status.region].into_iter().find_map(|region| find_peer(region, view.store_id));
            if let Some(own) = own.filter(|own| own.get_id() == view.peer_id) {
                view.role = if is_learner(own) { "learner" } else { "voter" };
            }
            view
        });
        let view = RegionView {
            id: region.get_id(),
            start_key: KeyText::new(region.get_start_key(), redact),
            end_key: KeyText::new(region.get_end_key(), redact),
            epoch: EpochView {
                conf_ver: region.get_region_epoch().get_conf_ver(),
                version: region.get_region_epoch().get_version(),
            },
            leader,
            pinned: is_initialized(&region) && pins.iter().any(|pin| is_in(&region, pin)),
            peers: peers.collect(),
        };
        (region, view)
    }
}
