//! The schedule that leads to the panic, which both halves of the demo run.
//!
//! **Owns** the cluster, and the filter that holds the snapshot back.
//!
//! **How it works.**
//! 1. The region starts on stores 1 and 2; data is written through Raft.
//! 2. A peer is added on store 3. The leader's first message creates it; the snapshot that would initialize it is held
//!    on the network.
//! 3. The leader asks it to preload. Sent by the demo in the leader's name, because a leader without the plugin would not.
//!
//! **Invariants.** Between 2 and the [release](Schedule::release_snapshot), the peer on store 3 is uninitialized.
//!
//! **Must not** differ between the halves in anything but the observer.

use std::{path::Path, sync::Arc};

use in_memory_engine::RegionCacheEngineConfig;
use kvproto::{
    metapb::Peer,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use raft::eraftpb::{ConfChangeType, MessageType};
use raftstore::store::{Config, PeerStatus, new_peer, region::find_peer};
use serde::Serialize;
use server::DiskEngine;
use test_raftstore::{ClusterConfigOn, ClusterOn, Hold, PeerStatusOn, PluginOn, REGION_ID, first_peer_id, requests};
use tikv_util::{
    config::{ReadableDuration, ReadableSize},
    time::{Clock as _, MonotonicClock},
};

use super::{
    dataset::Dataset,
    report::{Report, grouped, millis},
};
use crate::{
    error::{Error, Result},
    interrupt, waiting,
};

/// The store that gets the peer.
pub(super) const TARGET_STORE: u64 = 3;

/// A second without a leader starts an election: long enough on two busy cores, short enough to wait for at the start.
const TICK: ReadableDuration = ReadableDuration::millis(50);

/// What the cache may take of memory, for each byte of data: an entry costs more than its key and value.
const CACHE_BYTES_PER_BYTE: u64 = 4;

pub(super) struct Schedule<D: DiskEngine> {
    cluster: ClusterOn<D>,
    dataset: Dataset,
    held: Arc<Hold>,
}

/// What was written.
#[derive(Serialize)]
pub(super) struct Loaded {
    rows: u64,
    versions: u64,
    value_bytes: usize,
    records: u64,
    took_ms: f64,
}

impl<D: DiskEngine> Schedule<D> {
    /// Starts three stores below `dir`, with `plugin` on each.
    pub(super) fn start(dir: &Path, dataset: Dataset, plugin: PluginOn<D>) -> Result<Self> {
        // What is warm here is so because somebody has asked for it.
        let mut cache = RegionCacheEngineConfig { enabled: true, auto_load: false, ..Default::default() };
        cache.capacity = cache.capacity.max(ReadableSize(dataset.size_bytes() * CACHE_BYTES_PER_BYTE));
        let config = ClusterConfigOn {
            stores: 3,
            first_region_on: vec![1, 2],
            raftstore: Config { raft_base_tick_interval: TICK, ..Config::default() },
            cache,
            data_dir: Some(dir.to_owned()),
            plugins: vec![plugin],
            ..ClusterConfigOn::default()
        };
        let cluster = ClusterOn::start(config).map_err(Error::store("start the stores"))?;
        let held = Hold::new(|message| {
            let is_snapshot = message.get_message().get_msg_type() == MessageType::MsgSnapshot;
            is_snapshot && message.get_to_peer().get_store_id() == TARGET_STORE
        });
        cluster.network().add_filter(held.clone());
        Ok(Self { cluster, dataset, held })
    }

    pub(super) fn cluster(&self) -> &ClusterOn<D> {
        &self.cluster
    }

    pub(super) fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    pub(super) fn leader(&self) -> Result<PeerStatusOn> {
        waiting::until_some("a leader of the region", || self.cluster.leader(REGION_ID))
    }

    /// What store 3 says about its peer; `None` while it has none.
    pub(super) fn target(&self) -> Option<PeerStatus> {
        self.cluster.status(TARGET_STORE, REGION_ID)
    }

    /// Writes the data.
    pub(super) fn load(&self, report: &mut Report) -> Result<Loaded> {
        let dataset = &self.dataset;
        self.leader()?;
        report.note(&format!("writing {} versions through Raft", grouped(dataset.records())));
        let progress = report.progress(dataset.records());
        let clock = MonotonicClock::new();
        for (versions, puts) in dataset.batches() {
            interrupt::check()?;
            self.cluster
                .execute(REGION_ID, |region| requests::write(region, puts.clone()))
                .map_err(Error::refused("write through Raft"))?;
            progress.inc(versions);
        }
        progress.finish_and_clear();
        let took_ms = millis(clock.now());
        report.reached(&format!("all are committed and applied after {took_ms:.0} ms"));
        Ok(Loaded {
            rows: dataset.rows(),
            versions: dataset.versions(),
            value_bytes: dataset.value_bytes(),
            records: dataset.records(),
            took_ms,
        })
    }

    /// Adds a peer on store 3, and waits until it is there and its snapshot is held back.
    pub(super) fn create_uninitialized_peer(&self, report: &mut Report) -> Result<()> {
        let peer = new_peer(TARGET_STORE, first_peer_id(TARGET_STORE));
        self.cluster
            .execute(REGION_ID, |region| requests::change_peer(region, ConfChangeType::AddNode, peer.clone()))
            .map_err(Error::refused("add a peer on store 3"))?;
        waiting::until("an uninitialized peer on store 3", || {
            self.target().is_some_and(|target| !target.is_initialized())
        })?;
        waiting::until("a snapshot for store 3", || !self.held.is_empty())?;
        report.note(&format!(
            "peer {} is added on store 3; its snapshot is held back, so it knows its region's id and no more",
            peer.get_id()
        ));
        Ok(())
    }

    /// Sends the leader's preload request to the peer on store 3.
    pub(super) fn request_preload(&self, report: &mut Report) -> Result<()> {
        let PeerStatusOn { store_id, status } = self.leader()?;
        let peer_on = |store_id| find_peer(&status.region, store_id).cloned().unwrap_or_default();
        let request = preload_request(&status, peer_on(store_id), peer_on(TARGET_STORE));
        report.note(&format!("store {store_id}, the leader, sends it MsgPreLoadRegionRequest"));
        self.cluster.network().send(request).map_err(Error::store("send the preload request"))
    }

    pub(super) fn release_snapshot(&self) {
        self.held.release(self.cluster.network());
    }

    /// Moves leadership to store 3, and returns how many milliseconds that took.
    pub(super) fn move_leader(&self, report: &mut Report) -> Result<f64> {
        let clock = MonotonicClock::new();
        waiting::until("store 3 to lead the region", || {
            let leads = || self.cluster.leader(REGION_ID).filter(|leader| leader.store_id == TARGET_STORE);
            if leads().is_some() {
                return true;
            }
            // An offer may get lost, or be refused while the membership change is not over; it is repeated.
            let _ = self.cluster.transfer_leader(REGION_ID, TARGET_STORE);
            test_raftstore::wait::within(TICK.0 * 20, leads).is_some()
        })?;
        let took_ms = millis(clock.now());
        report.reached(&format!("store 3 leads, {took_ms:.1} ms after it was offered leadership"));
        Ok(took_ms)
    }
}

fn preload_request(leader: &PeerStatus, from: Peer, to: Peer) -> RaftMessage {
    let mut request = RaftMessage::default();
    request.set_region_id(leader.region.get_id());
    request.set_region_epoch(leader.region.get_region_epoch().clone());
    request.set_from_peer(from);
    request.set_to_peer(to);
    request.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
    request
}
