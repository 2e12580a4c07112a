//! What stands around the plugin while it is measured.
//!
//! **Owns** the messages, the regions, and a stepped plugin with a cache, a transport and a clock that cost next to
//! nothing.
//!
//! **How it works.** Known regions have even ids, unknown ones odd ids, so that both kinds are spread over the plugin's
//! table. The clock is the real one, as hooks read it on a store, plus what was skipped; [`Plugin::settle`] skips the
//! time that parked requests wait.
//!
//! **Invariants.** After [`Plugin::settle`] the plugin holds what it held in the beginning.
//!
//! **Must not** start a thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use engine_traits::{RegionCacheEngineExt, RegionEvent};
use kvproto::{
    metapb::{Peer, Region, RegionEpoch},
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use preload_observer::{Config, PreloadObserver};
use raft::{
    StateRole,
    eraftpb::{Entry, MessageType},
};
use raftstore::{
    coprocessor::{BoxRaftMessageObserver, Coprocessor, RaftMessageObserver, RegionChangeEvent},
    store::Transport,
};

use super::Host;
use crate::measure::timed;

const STORE: u64 = 1;
const OTHER_STORE: u64 = 2;

/// What an append carries: a transaction's write of a small row.
const ENTRY_BYTES: usize = 256;

/// A host with the plugin, which knows some regions.
pub(super) struct Plugin {
    pub(super) host: Host,
    pub(super) observer: PreloadObserver,
    skipped_nanos: Arc<AtomicU64>,
    request_timeout: Duration,
    reconcile_interval: Duration,
}

impl Plugin {
    /// Registered on a host of its own, and told of `known_regions` regions that this store leads or follows.
    pub(super) fn new(known_regions: u64, role: StateRole) -> Self {
        let config = Config::default();
        let (request_timeout, reconcile_interval) = (config.request_timeout.into(), config.reconcile_interval.into());
        let checked = config.check().expect("the default configuration is valid");
        let skipped_nanos = Arc::new(AtomicU64::new(0));
        let skipped = skipped_nanos.clone();
        // Measuring time is what this crate is for.
        #[allow(clippy::disallowed_methods)]
        let start = Instant::now();
        let clock = Arc::new(move || start.elapsed() + Duration::from_nanos(skipped.load(Ordering::Relaxed)));
        let observer = PreloadObserver::stepped(STORE, Arc::new(WarmCache), Discard, checked, clock, 1);

        let mut host = Host::default();
        observer.register(&mut host, 0);
        for index in 0..known_regions {
            host.on_region_changed(&region(known_id(index)), RegionChangeEvent::Create, role);
        }
        let plugin = Self { host, observer, skipped_nanos, request_timeout, reconcile_interval };
        plugin.settle();
        plugin
    }

    /// Steps until no request waits: those for known regions turn warm, those for unknown ones expire.
    pub(super) fn settle(&self) {
        self.observer.step();
        if self.observer.status().parked_requests > 0 {
            self.skip(self.request_timeout);
            self.observer.step();
        }
        let status = self.observer.status();
        assert_eq!((status.parked_requests, status.faint_regions, status.queued_messages), (0, 0, 0));
    }
}

impl Plugin {
    /// Has all regions, which are led, looked up; how long that takes for each of the `known_regions`, in nanoseconds.
    pub(super) fn reconcile(&self, known_regions: u64) -> f64 {
        self.skip(self.reconcile_interval);
        let (_, spent) = timed(|| self.observer.step());
        spent.as_nanos() as f64 / known_regions as f64
    }

    fn skip(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.skipped_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// Everything is cached.
struct WarmCache;

impl RegionCacheEngineExt for WarmCache {
    fn on_region_event(&self, _: RegionEvent) {}

    fn region_cached(&self, _: &Region, _: bool) -> bool {
        true
    }

    fn load_region(&self, _: &Region) {}
}

/// Sends nothing anywhere.
#[derive(Clone)]
struct Discard;

impl Transport for Discard {
    fn send(&mut self, _: RaftMessage) -> raftstore::Result<()> {
        Ok(())
    }
}

/// An observer that leaves all to the defaults.
#[derive(Clone)]
struct Noop;

impl Coprocessor for Noop {}
impl RaftMessageObserver for Noop {}

pub(super) fn noop_host() -> Host {
    let mut host = Host::default();
    host.registry.register_raft_message_observer(0, BoxRaftMessageObserver::new(Noop));
    host
}

/// The id of the `index`-th region that the plugin knows.
pub(super) fn known_id(index: u64) -> u64 {
    (index + 1) * 2
}

/// The id of a region that the plugin does not know, next to the `index`-th one that it knows.
pub(super) fn unknown_id(index: u64) -> u64 {
    known_id(index) + 1
}

/// Indices of regions, for ever, jumping to and fro: neighbours in time are no neighbours in the plugin's table.
pub(super) struct StrideIds {
    next: u64,
    len: u64,
}

impl StrideIds {
    /// Indices below `len`. All of them come, in turn, unless `len` is a multiple of the prime that is the stride.
    pub(super) fn new(len: u64) -> Self {
        Self { next: 0, len }
    }
}

impl Iterator for StrideIds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        const STRIDE: u64 = 7919;
        self.next = (self.next + STRIDE) % self.len;
        Some(self.next)
    }
}

fn peer(region_id: u64, store_id: u64) -> Peer {
    let mut peer = Peer::default();
    peer.set_id(region_id * 10 + store_id);
    peer.set_store_id(store_id);
    peer
}

fn epoch() -> RegionEpoch {
    let mut epoch = RegionEpoch::default();
    epoch.set_conf_ver(2);
    epoch.set_version(2);
    epoch
}

fn region(region_id: u64) -> Region {
    let mut region = Region::default();
    region.set_id(region_id);
    region.set_start_key(format!("t{region_id:08}").into_bytes());
    region.set_end_key(format!("t{:08}", region_id + 1).into_bytes());
    region.set_region_epoch(epoch());
    region.set_peers(vec![peer(region_id, STORE), peer(region_id, OTHER_STORE)].into());
    region
}

/// Makes `message` one for the region `region_id`, from its leader.
pub(super) fn address(message: &mut RaftMessage, region_id: u64) {
    message.set_region_id(region_id);
    message.set_from_peer(peer(region_id, OTHER_STORE));
    message.set_to_peer(peer(region_id, STORE));
}

pub(super) fn preload_request(region_id: u64) -> RaftMessage {
    let mut message = RaftMessage::default();
    address(&mut message, region_id);
    message.set_region_epoch(epoch());
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
    message
}

/// What a store with followers and leaders receives: heartbeats, appends, and the answers to both.
pub(super) fn ordinary_messages(count: usize) -> Vec<RaftMessage> {
    const KINDS: [MessageType; 4] = [
        MessageType::MsgHeartbeat,
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeatResponse,
    ];
    let ids = StrideIds::new(super::KNOWN_REGIONS).map(known_id);
    ids.zip(KINDS.into_iter().cycle()).take(count).map(|(id, kind)| ordinary_message(id, kind)).collect()
}

fn ordinary_message(region_id: u64, kind: MessageType) -> RaftMessage {
    const TERM: u64 = 6;
    const INDEX: u64 = 1000;
    let mut message = RaftMessage::default();
    address(&mut message, region_id);
    message.set_region_epoch(epoch());
    let (from, to) = (message.get_from_peer().get_id(), message.get_to_peer().get_id());
    let raft = message.mut_message();
    raft.set_msg_type(kind);
    raft.set_from(from);
    raft.set_to(to);
    raft.set_term(TERM);
    raft.set_index(INDEX);
    raft.set_commit(INDEX);
    if kind == MessageType::MsgAppend {
        raft.set_log_term(TERM);
        let mut entry = Entry::default();
        entry.set_term(TERM);
        entry.set_index(INDEX + 1);
        entry.set_data(vec![0xa5; ENTRY_BYTES].into());
        raft.set_entries(vec![entry].into());
    }
    message
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn strides_visit_all_regions() {
        let visited: BTreeSet<u64> =
            StrideIds::new(super::super::KNOWN_REGIONS).take(super::super::KNOWN_REGIONS as usize).collect();
        assert_eq!(visited.len() as u64, super::super::KNOWN_REGIONS);
    }

    #[test]
    fn settling_ends_what_waits_and_forgets_what_is_unknown() {
        let plugin = Plugin::new(2, StateRole::Follower);
        for id in [known_id(1), unknown_id(1)] {
            assert!(!plugin.host.on_raft_message(&preload_request(id)));
        }
        let status = plugin.observer.status();
        assert_eq!((status.parked_requests, status.faint_regions, status.initialized_regions), (2, 1, 2));
        plugin.settle();
        assert_eq!(plugin.observer.status().initialized_regions, 2);
    }

    #[test]
    fn ordinary_messages_go_past_the_plugin() {
        let plugin = Plugin::new(1, StateRole::Follower);
        for message in ordinary_messages(8) {
            assert!(plugin.host.on_raft_message(&message));
            assert!(!message.has_extra_msg() && message.has_message());
        }
    }
}
