//! Any messages and hooks through the plugin, on a cache that asserts like TiKV's: no panic, no region without peers in
//! the cache engine, each request that waits is answered finally once time has passed, and memory stays bounded.
//!
//! The input is a sequence of commands: a byte that says which, and for messages a length and that many bytes of a
//! `RaftMessage`.
#![no_main]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use engine_traits::{CacheRegion, RegionCacheEngineExt, RegionEvent};
use kvproto::{
    metapb::{Peer, Region},
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use libfuzzer_sys::fuzz_target;
use preload_observer::{Config, PreloadObserver};
use raft::{StateRole, eraftpb};
use raftstore::{
    coprocessor::{
        ApplySnapshotObserver, DestroyPeerObserver, ObserverContext, RaftMessageObserver, RegionChangeEvent,
        RegionChangeObserver, RegionChangeReason, RoleChange, RoleObserver, TransferLeaderObserver,
    },
    store::{SnapKey, Transport},
};

const STORE: u64 = 1;

// Small, so that short inputs get there.
const PARKED_MAX: usize = 2;
const KNOWN_MAX: usize = 2;
const QUEUED_MAX: usize = 4;

/// Caches what it is told to, and asserts that regions have peers.
#[derive(Default)]
struct Cache(Mutex<Vec<(u64, u64)>>);

impl RegionCacheEngineExt for Cache {
    fn on_region_event(&self, _: RegionEvent) {}

    fn region_cached(&self, region: &Region, _: bool) -> bool {
        let CacheRegion { id, epoch_version, .. } = CacheRegion::from_region(region);
        self.0.lock().unwrap().contains(&(id, epoch_version))
    }

    fn load_region(&self, region: &Region) {
        let CacheRegion { id, epoch_version, .. } = CacheRegion::from_region(region);
        self.0.lock().unwrap().push((id, epoch_version));
    }
}

#[derive(Clone, Default)]
struct Sent(Arc<AtomicU64>);

impl Transport for Sent {
    fn send(&mut self, message: RaftMessage) -> raftstore::Result<()> {
        let is_final = message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionResponse;
        self.0.fetch_add(u64::from(is_final), Ordering::Relaxed);
        Ok(())
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(bytes)
    }

    /// A region with an id from 0 to 7, complete or not.
    fn region(&mut self) -> Option<Region> {
        let shape = self.byte()?;
        let mut region = Region::default();
        region.set_id(u64::from(shape & 7));
        region.mut_region_epoch().set_version(u64::from(shape >> 3 & 3));
        region.mut_region_epoch().set_conf_ver(u64::from(shape >> 5 & 1));
        if shape >> 6 & 1 == 1 {
            let extra = self.byte()?;
            for store_id in 1..=u64::from(extra & 3) {
                let mut peer = Peer::default();
                peer.set_id(u64::from(extra >> 2 & 7) * 10 + store_id);
                peer.set_store_id(store_id);
                region.mut_peers().push(peer);
            }
            region.set_end_key(vec![extra >> 5]);
        }
        Some(region)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let cache = Arc::new(Cache::default());
    let now_millis = Arc::new(AtomicU64::new(0));
    let clock = now_millis.clone();
    let config = Config {
        max_parked_requests: PARKED_MAX,
        max_known_regions: KNOWN_MAX,
        max_queued_messages: QUEUED_MAX,
        ..Config::default()
    };
    let observer = PreloadObserver::stepped(
        STORE,
        cache.clone(),
        Sent::default(),
        config.check().unwrap(),
        Arc::new(move || Duration::from_millis(clock.load(Ordering::Relaxed))),
        1,
    );
    let mut input = Input(bytes);
    while run(&mut input, &observer, &cache, &now_millis).is_some() {
        let status = observer.status();
        assert!(status.parked_requests <= PARKED_MAX && status.initialized_regions <= KNOWN_MAX, "{status:?}");
        assert!(status.initialized_regions + status.faint_regions <= KNOWN_MAX + PARKED_MAX, "{status:?}");
        assert!(status.queued_messages <= QUEUED_MAX + PARKED_MAX, "{status:?}");
    }
    // Nothing happens any more: what waits ends by itself, and the worker does not spin.
    let end = now_millis.load(Ordering::Relaxed) + 25_000;
    let mut steps = 0;
    while now_millis.load(Ordering::Relaxed) < end {
        let due = observer.step().map_or(end, |due| u64::try_from(due.as_millis()).unwrap_or(end) + 1);
        now_millis.fetch_max(due.min(end), Ordering::Relaxed);
        steps += 1;
        assert!(steps < 5_000, "the worker spins");
    }
    observer.step();
    let status = observer.status();
    assert_eq!((status.parked_requests, status.queued_messages, status.in_flight_requests), (0, 0, 0));
});

/// Carries out one command; `None` at the end of the input.
fn run(input: &mut Input<'_>, observer: &PreloadObserver, cache: &Cache, now_millis: &AtomicU64) -> Option<()> {
    match input.byte()? % 13 {
        0..=3 => {
            let mut message: RaftMessage = kvproto::decode(input.bytes()?).ok()?;
            let kind = input.byte()?;
            // Most of what is random is no message for the plugin: help a little.
            match kind % 4 {
                0 => message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest),
                1 => message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse),
                2 => message.mut_message().set_msg_type(eraftpb::MessageType::MsgSnapshot),
                _ => {}
            }
            let is_ours = message.has_extra_msg() && matches!(kind % 4, 0 | 1);
            assert!(!(observer.on_raft_message(&message) && is_ours), "a message of ours went on");
        }
        4 => {
            let (region, event) = (input.region()?, input.byte()?);
            let event = match event % 5 {
                0 => RegionChangeEvent::Create,
                1 => RegionChangeEvent::Update(RegionChangeReason::Split),
                2 => RegionChangeEvent::Update(RegionChangeReason::PrepareMerge),
                3 => RegionChangeEvent::Destroy,
                _ => RegionChangeEvent::UpdateBuckets(1),
            };
            observer.on_region_changed(&mut ObserverContext::new(&region), event, StateRole::Follower);
        }
        5 => {
            let (region, role) = (input.region()?, input.byte()?);
            let state = if role & 1 == 1 { StateRole::Leader } else { StateRole::Follower };
            let mut change = RoleChange::new_for_test(state);
            change.initialized = role & 2 == 0;
            change.peer_id = u64::from(role >> 4);
            change.leader_id = u64::from(role >> 2 & 3);
            observer.on_role_change(&mut ObserverContext::new(&region), &change);
        }
        6 => observer.on_destroy_peer(&input.region()?),
        7 => {
            let (region, step) = (input.region()?, input.byte()?);
            let key = SnapKey { region_id: region.get_id(), term: 6, idx: 9 };
            let ctx = &mut ObserverContext::new(&region);
            match step % 4 {
                0 => observer.pre_apply_snapshot(ctx, 1, &key, None),
                1 => observer.post_apply_snapshot(ctx, 1, &key, None),
                2 => observer.on_apply_snapshot_committed(ctx, 1, &key, None),
                _ => observer.cancel_apply_snapshot(region.get_id(), 1),
            }
        }
        8 => {
            let region = input.region()?;
            let mut message = eraftpb::Message::default();
            message.set_context(input.bytes()?.to_vec().into());
            message.set_from(u64::from(input.byte()? & 7));
            observer.pre_ack_transfer_leader(&mut ObserverContext::new(&region), &message);
        }
        9 => {
            let region = input.region()?;
            let mut request = kvproto::raft_cmdpb::TransferLeaderRequest::default();
            for peer in region.get_peers() {
                request.mut_peers().push(peer.clone());
            }
            observer.pre_transfer_leader(&mut ObserverContext::new(&region), &request).unwrap();
        }
        10 => {
            now_millis.fetch_add(u64::from(input.byte()?) * 20, Ordering::Relaxed);
            observer.step();
        }
        11 => {
            // A sound request in two bytes.
            let (ids, version) = (input.byte()?, input.byte()?);
            let mut message = RaftMessage::default();
            message.set_region_id(u64::from(ids & 7));
            message.mut_from_peer().set_id(u64::from(ids >> 3 & 3) + 1);
            message.mut_from_peer().set_store_id(2);
            message.mut_to_peer().set_id(u64::from(ids >> 5) * 10 + STORE);
            message.mut_to_peer().set_store_id(STORE);
            message.mut_region_epoch().set_version(u64::from(version & 3));
            message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
            assert!(!observer.on_raft_message(&message));
        }
        _ => {
            let region_id = u64::from(input.byte()? & 7);
            cache.0.lock().unwrap().retain(|(id, _)| *id != region_id);
        }
    }
    Some(())
}
