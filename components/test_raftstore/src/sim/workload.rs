//! What clients do.
//!
//! # What it owns
//! The mixture of writes, reads, deletions, evictions and preload requests.
//!
//! # How it works
//! Most commands go to a store that thinks that it leads; some to any store, with what that one knows of the region.
//! Preload requests come from any peer to any other, rightly or wrongly addressed, of any epoch, or malformed.
//!
//! # Invariants
//! A malformed request has a sender that no other request has, so that its answer can be told from all others.
//!
//! # What it must not do
//! Care whether a command succeeds.

use engine_traits::{CacheRegion, EvictReason, RegionCacheEngineExt as _, RegionEvent};
use kvproto::{
    metapb::{Peer, Region},
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use raftstore::store::new_peer;

use super::{
    checks::Checked,
    history::{self, WriteKind},
    world::{Event, World, is_in, trace},
};
use crate::requests;

impl World {
    pub(super) fn on_client(&mut self) -> Checked {
        if self.is_healed {
            return Ok(());
        }
        let next = self.rng.around(self.plan.client_every);
        self.schedule(next, Event::Client);
        let Some((store_id, region)) = self.pick_region() else { return Ok(()) };
        match self.rng.range(0, 99) {
            0..=47 => self.put(store_id, &region).map(drop),
            48..=74 => {
                let id_max = if self.rng.percent(70) { u64::MAX } else { self.rng.range(1, u64::MAX >> 40) };
                let id_max = if id_max == u64::MAX { id_max } else { id_max % (self.next_id() + 1) };
                self.read(store_id, requests::header(&region), id_max).map(drop)
            }
            75..=77 => {
                let id = self.next_id();
                let request = requests::write(&region, history::delete_range_requests(id));
                self.write(store_id, id, request, WriteKind::DeleteRange)
            }
            78..=81 => {
                self.evict(store_id, &region);
                Ok(())
            }
            82..=83 => {
                if let Some(id) = self.next_id().checked_sub(20)
                    && let Some(run) = self.running(store_id)
                {
                    run.engine.cache().set_safe_point(history::commit_ts(id).into_inner());
                }
                Ok(())
            }
            _ => {
                self.ask_anybody(store_id, &region);
                Ok(())
            }
        }
    }

    /// Writes one to three keys.
    pub(super) fn put(&mut self, store_id: u64, region: &Region) -> Checked<Option<u64>> {
        let mut keys: Vec<Vec<u8>> = self.keys.iter().filter(|key| is_in(region, key)).cloned().collect();
        let wanted = self.rng.range(1, 3) as usize;
        while keys.len() > wanted {
            let at = self.rng.index(keys.len());
            keys.remove(at);
        }
        if keys.is_empty() {
            return Ok(None);
        }
        let id = self.next_id();
        let puts = keys.iter().flat_map(|key| history::put_requests(id, key)).collect();
        self.write(store_id, id, requests::write(region, puts), WriteKind::Put(keys))?;
        Ok(Some(id))
    }

    /// A store and a region that it has.
    fn pick_region(&mut self) -> Option<(u64, Region)> {
        let leaders = self.leaders();
        if self.rng.percent(88)
            && let Some((store_id, status)) = self.rng.pick(&leaders)
        {
            return Some((*store_id, status.region.clone()));
        }
        let running = self.running_ids();
        let store_id = *self.rng.pick(&running)?;
        let regions: Vec<Region> = self.running(store_id)?.initialized().collect();
        Some((store_id, self.rng.pick(&regions)?.clone()))
    }

    fn evict(&mut self, store_id: u64, region: &Region) {
        trace!(self, "region {} is evicted on store {store_id}", region.get_id());
        if let Some(run) = self.running(store_id) {
            let region = CacheRegion::from_region(region);
            let event = RegionEvent::Eviction { region, reason: EvictReason::Manual, on_evict_finished: None };
            run.engine.cache().on_region_event(event);
        }
    }

    /// The peer of `region` on `from_store` asks that `to` warms it up.
    pub(super) fn ask_for_preload(&mut self, from_store: u64, region: &Region, to: &Peer) {
        let Some(from) = super::world::peer_on(region, from_store).cloned() else { return };
        let message = preload_request(region, from, to.clone());
        self.transmit(from_store, to.get_store_id(), message);
    }

    fn ask_anybody(&mut self, from_store: u64, region: &Region) {
        let Some(from) = super::world::peer_on(region, from_store).cloned() else { return };
        let Some(to) = self.rng.pick(region.get_peers()).cloned() else { return };
        let mut to_store = to.get_store_id();
        let mut message = preload_request(region, from, to);
        let (conf_ver, version) = (region.get_region_epoch().get_conf_ver(), region.get_region_epoch().get_version());
        match self.rng.range(0, 19) {
            0 => message.mut_region_epoch().set_conf_ver(conf_ver.saturating_sub(1)),
            1 => message.mut_region_epoch().set_conf_ver(conf_ver + 1),
            2 => message.mut_region_epoch().set_version(version + 1),
            3 => message.clear_region_epoch(),
            4 => message.mut_to_peer().set_id(self.rng.range(90, 140)),
            5 => to_store = self.rng.range(1, self.plan.stores),
            6 => message.set_region_id(self.rng.range(1, 60)),
            7 => {
                // A peer of a store that does not have the region, or does not know it yet.
                to_store = self.rng.range(1, self.plan.stores);
                message.set_to_peer(new_peer(to_store, self.rng.range(100, 130)));
            }
            8..=11 => self.malform(&mut message),
            _ => {}
        }
        self.transmit(from_store, to_store, message);
    }

    fn malform(&mut self, message: &mut RaftMessage) {
        message.mut_from_peer().set_id(1_000_000 + self.next_id());
        match self.rng.range(0, 4) {
            0 => message.set_region_id(0),
            1 => message.clear_to_peer(),
            2 => message.clear_from_peer(),
            3 => {
                message.set_start_key(b"b".to_vec());
                message.set_end_key(b"a".to_vec());
            }
            _ => {
                // An answer to nothing, and not decodable.
                message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse);
                message.set_extra_ctx(vec![0xff; 7]);
            }
        }
    }
}

fn preload_request(region: &Region, from: Peer, to: Peer) -> RaftMessage {
    let mut message = RaftMessage::default();
    message.set_region_id(region.get_id());
    message.set_from_peer(from);
    message.set_to_peer(to);
    message.set_region_epoch(region.get_region_epoch().clone());
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
    message
}
