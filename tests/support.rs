//! A cluster with the plugin on every store, and an ear on the wire.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use engine_traits::{Cf, ReadSource, Snapshot};
use kvproto::{
    errorpb,
    metapb::{Peer, Region},
    raft_serverpb::{ExtraMessageType, RaftMessage, RegionLocalState},
};
use preload_observer::{Config, PreloadObserver};
use raft::eraftpb::{ConfChangeType, MessageType};
use raftstore::store::{Direction, SnapKey, new_peer, snapshot::raft_snapshot};
use test_raftstore::{Cluster, ClusterConfig, Filter, Hold, REGION_ID, Verdict, first_peer_id, requests, wait};

/// Priority of the plugin: after the region cache's own observer.
const PRIORITY: u32 = 200;

pub(crate) struct Preloading {
    pub(crate) cluster: Cluster,
    plugins: Arc<Mutex<HashMap<u64, PreloadObserver>>>,
    answers: Arc<Answers>,
}

impl Preloading {
    /// Three stores; the first region has a voter on each store in `first_region_on`.
    pub(crate) fn start(first_region_on: &[u64], config: Config) -> Self {
        tikv_util::logger::init_for_test();
        let plugins = Arc::new(Mutex::new(HashMap::new()));
        let registered = plugins.clone();
        let plugin = move |ctx: test_raftstore::NodeContext<'_>| {
            let checked = config.clone().check().expect("a valid configuration");
            let observer = PreloadObserver::new(ctx.store_id, ctx.cache, ctx.transport, checked);
            observer.register(ctx.host, PRIORITY);
            registered.lock().unwrap().insert(ctx.store_id, observer.clone());
            Box::new(observer) as Box<dyn std::any::Any + Send>
        };
        let cluster = Cluster::start(ClusterConfig {
            first_region_on: first_region_on.to_vec(),
            plugins: vec![Arc::new(plugin)],
            ..ClusterConfig::default()
        });
        let cluster = cluster.expect("a cluster starts in an empty directory");
        let answers = Arc::new(Answers::default());
        cluster.network().add_filter(answers.clone());
        Self { cluster, plugins, answers }
    }

    pub(crate) fn plugin(&self, store_id: u64) -> PreloadObserver {
        self.plugins.lock().unwrap()[&store_id].clone()
    }

    /// Adds a learner on store 3 whose snapshot is held back, so that it exists and is not initialized.
    pub(crate) fn add_uninitialized_peer(&self, peer_id: u64) -> Arc<Hold> {
        let hold = hold_snapshots_to(3);
        self.cluster.network().add_filter(hold.clone());
        self.cluster.must_change_peer(REGION_ID, ConfChangeType::AddLearnerNode, new_peer(3, peer_id));
        self.wait_for_uninitialized_peer(peer_id);
        hold
    }

    pub(crate) fn wait_for_uninitialized_peer(&self, peer_id: u64) {
        wait::until("an uninitialized peer on store 3", || {
            self.cluster
                .status(3, REGION_ID)
                .is_some_and(|status| status.peer_id == peer_id && !status.is_initialized())
        });
    }

    /// Three stores with the region on each: store 1 leads, store 3 has it cached with `k` = `old`, and does not hear
    /// that it is `new` by now. Answers so far: one, "warm".
    pub(crate) fn start_with_a_cached_region_that_falls_behind() -> Self {
        let preloading = Self::start(&[1, 2, 3], Config::default());
        preloading.cluster.must_transfer_leader(REGION_ID, 1);
        put(&preloading.cluster, b"k", b"old");
        preloading.cluster.wait_for_value(3, b"k", b"old");
        preloading.request(&new_peer(3, first_peer_id(3)));
        preloading.wait_for_answers(&["warm"]);
        preloading.cluster.network().add_filter(drop_appends_to(3));
        put(&preloading.cluster, b"k", b"new");
        preloading.cluster.wait_for_value(1, b"k", b"new");
        preloading
    }

    /// Sends a preload request from the region's leader to `to`.
    pub(crate) fn request(&self, to: &Peer) {
        let leader = self.cluster.wait_for_leader(REGION_ID);
        let from = new_peer(leader.store_id, leader.status.peer_id);
        self.send(preload_request(&leader.status.region, from, to.clone()));
    }

    pub(crate) fn send(&self, message: RaftMessage) {
        self.cluster.network().send(message).expect("the receiver is running");
    }

    /// All answers so far, in the order in which they were sent.
    pub(crate) fn answers(&self) -> Vec<String> {
        self.answers.0.lock().unwrap().clone()
    }

    /// Waits until the answers are these.
    #[track_caller]
    pub(crate) fn wait_for_answers(&self, expected: &[&str]) {
        let answered = wait::within(wait::DEADLINE, || (self.answers() == expected).then_some(()));
        assert!(answered.is_some(), "answers are {:?}, expected {expected:?}", self.answers());
    }

    pub(crate) fn is_active(&self, store_id: u64) -> bool {
        use engine_traits::RegionCacheEngineExt;
        let Some(status) = self.cluster.status(store_id, REGION_ID) else { return false };
        status.is_initialized() && self.cluster.cache(store_id).region_cached(&status.region, true)
    }

    /// The value of `key` in the default column family as the leader reads it, and where it was read.
    pub(crate) fn read(&self, key: &[u8]) -> (Option<Vec<u8>>, ReadSource) {
        let snapshot = self.cluster.must_snapshot(REGION_ID, u64::MAX).snapshot;
        let value = snapshot.get_value(Cf::Default, &keys::data_key(key)).expect("the engine reads");
        (value, snapshot.source())
    }
}

pub(crate) fn hold_snapshots_to(store_id: u64) -> Arc<Hold> {
    Hold::new(move |message| {
        message.get_to_peer().get_store_id() == store_id
            && message.get_message().get_msg_type() == MessageType::MsgSnapshot
    })
}

/// A preload request for `region` as `from` knows it.
pub(crate) fn preload_request(region: &Region, from: Peer, to: Peer) -> RaftMessage {
    let mut message = RaftMessage::default();
    message.set_region_id(region.get_id());
    message.set_from_peer(from);
    message.set_to_peer(to);
    message.set_region_epoch(region.get_region_epoch().clone());
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
    message
}

/// Writes down the answers that pass by, apart from "accepted": it comes before each load, as often as a request that
/// waits for it is sent.
#[derive(Default)]
struct Answers(Mutex<Vec<String>>);

impl Filter for Answers {
    fn filter(&self, message: &mut RaftMessage) -> Verdict {
        if message.has_extra_msg() && message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionResponse {
            let verdict = verdict(message.get_extra_ctx());
            if verdict != "accepted" {
                self.0.lock().unwrap().push(verdict);
            }
        }
        Verdict::Pass
    }
}

/// The verdict in an answer, named as the field of `errorpb::Error` that carries it.
fn verdict(extra_ctx: &[u8]) -> String {
    if extra_ctx.is_empty() {
        return "warm".into();
    }
    // A test may send what no store sends.
    let Ok(error) = kvproto::decode::<errorpb::Error>(extra_ctx) else { return "malformed".into() };
    let named = [
        (error.has_read_index_not_ready(), "accepted"),
        (error.has_region_not_initialized(), "region_not_initialized"),
        (error.has_data_is_not_ready(), "data_is_not_ready"),
        (error.has_epoch_not_match(), "epoch_not_match"),
        (error.has_store_not_match(), "store_not_match"),
        (error.has_mismatch_peer_id(), "mismatch_peer_id"),
        (error.has_region_not_found(), "region_not_found"),
        (error.has_server_is_busy(), "server_is_busy"),
    ];
    named.into_iter().find(|(has, _)| *has).map_or_else(|| format!("{error:?}"), |(_, name)| name.to_owned())
}

/// The message with which the leader of the first region brings store `to_store` to its own state; its files are there.
pub(crate) fn snapshot_message(cluster: &Cluster, to_store: u64) -> RaftMessage {
    use engine_traits::KvEngine;
    let leader = cluster.wait_for_leader(REGION_ID);
    let (region, status) = (&leader.status.region, &leader.status);
    let mut local = RegionLocalState::default();
    local.set_region(region.clone());
    let key = SnapKey { region_id: REGION_ID, term: status.term, idx: status.applied_index };
    let dir = cluster.snapshot_dir(to_store).expect("the store has a directory");
    let data = dir.generate(&cluster.kv(leader.store_id).snapshot(), &local, key, Direction::Received);
    let data = data.expect("the leader's data is readable");
    let mut message = RaftMessage::default();
    message.set_region_id(REGION_ID);
    message.set_from_peer(new_peer(leader.store_id, status.peer_id));
    message.set_to_peer(new_peer(to_store, first_peer_id(to_store)));
    message.set_region_epoch(region.get_region_epoch().clone());
    let raft = message.mut_message();
    raft.set_msg_type(MessageType::MsgSnapshot);
    raft.set_from(status.peer_id);
    raft.set_to(first_peer_id(to_store));
    raft.set_term(status.term);
    raft.set_snapshot(raft_snapshot(&data, status.applied_index, status.term));
    message
}

/// The names of a store's snapshot files.
pub(crate) fn snapshot_files(cluster: &Cluster, store_id: u64) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.store_dir(store_id).join("snap")).expect("a store that runs has it");
    // One that is removed meanwhile is not there.
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Cuts store `store_id` off from appended entries; it still hears heartbeats.
pub(crate) fn drop_appends_to(store_id: u64) -> Arc<dyn Filter> {
    Arc::new(move |message: &mut RaftMessage| {
        let is_append = message.get_message().get_msg_type() == MessageType::MsgAppend;
        if is_append && message.get_to_peer().get_store_id() == store_id { Verdict::Drop } else { Verdict::Pass }
    })
}

/// A put of one value into the default column family.
pub(crate) fn put(cluster: &Cluster, key: &[u8], value: &[u8]) {
    cluster.must_write(REGION_ID, vec![requests::put(Cf::Default, key, value)]);
}
