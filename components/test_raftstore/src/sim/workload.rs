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

use engine_traits::{CacheRegion, EvictReason, KvEngine as _, RegionCacheEngineExt as _, RegionEvent};
use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::Request,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use raftstore::store::new_peer;
use txn_types::{LockType, WriteType};

use super::{
    checks::Checked,
    coverage::Seam,
    history::{Fate, WriteKind},
    records,
    world::{Event, World, aside, is_in},
};
use crate::requests;

/// A key that command `start` has locked.
#[derive(Clone, Debug)]
pub(super) struct Locked {
    key: Vec<u8>,
    start: u64,
    lock_type: LockType,
}

/// Versions of the last so many commands are not garbage.
const KEPT: u64 = 20;

impl World {
    pub(super) fn on_client(&mut self) -> Checked {
        if self.is_healed {
            return Ok(());
        }
        let next = self.rng.around(self.plan.client_every);
        self.schedule(next, Event::Client);
        let Some((store_id, region)) = self.pick_region() else { return Ok(()) };
        match self.rng.range(0, 99) {
            0..=32 => self.put(store_id, &region).map(drop),
            33..=37 => self.delete(store_id, &region),
            38..=43 => self.prewrite(store_id, &region),
            44..=49 => self.end_transaction(),
            50..=74 => {
                let id_max = if self.rng.percent(70) { u64::MAX } else { self.rng.range(1, u64::MAX >> 40) };
                let id_max = if id_max == u64::MAX { id_max } else { id_max % (self.next_id() + 1) };
                self.read(store_id, requests::header(&region), id_max).map(drop)
            }
            75..=76 => self.delete_range(store_id, &region),
            77..=78 => self.collect(store_id, &region),
            79..=80 => {
                self.evict(store_id, &region);
                Ok(())
            }
            81 => {
                self.load(store_id, &region);
                Ok(())
            }
            82 => {
                let id = self.next_id().saturating_sub(KEPT);
                if let Some(run) = self.running(store_id) {
                    run.engine.cache().set_safe_point(records::commit_ts(id).into_inner());
                }
                Ok(())
            }
            _ => {
                if self.plan.has_requests {
                    self.ask_anybody(store_id, &region);
                }
                Ok(())
            }
        }
    }

    /// One to `max` keys of `region`, or none if it has none.
    fn pick_keys(&mut self, region: &Region, max: u64, is_wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let is_candidate = |key: &&Vec<u8>| is_in(region, key) && is_wanted(key);
        let mut keys: Vec<Vec<u8>> = self.keys.iter().filter(is_candidate).cloned().collect();
        let wanted = self.rng.range(1, max) as usize;
        while keys.len() > wanted {
            let at = self.rng.index(keys.len());
            keys.remove(at);
        }
        keys
    }

    /// Gives one command that consists of `requests_for` each of `keys`.
    fn write_keys(
        &mut self,
        store_id: u64,
        region: &Region,
        keys: Vec<Vec<u8>>,
        requests_for: impl Fn(u64, &[u8]) -> Vec<Request>,
        kind: impl FnOnce(Vec<Vec<u8>>) -> WriteKind,
    ) -> Checked<Option<u64>> {
        if keys.is_empty() {
            return Ok(None);
        }
        let id = self.next_id();
        let requests = keys.iter().flat_map(|key| requests_for(id, key)).collect();
        self.write(store_id, id, requests::write(region, requests), kind(keys))?;
        Ok(Some(id))
    }

    /// Writes one to three keys.
    pub(super) fn put(&mut self, store_id: u64, region: &Region) -> Checked<Option<u64>> {
        let keys = self.pick_keys(region, 3, |_| true);
        self.write_keys(store_id, region, keys, records::put, WriteKind::Put)
    }

    fn delete(&mut self, store_id: u64, region: &Region) -> Checked {
        let keys = self.pick_keys(region, 2, |_| true);
        self.write_keys(store_id, region, keys, records::delete, WriteKind::Delete).map(drop)
    }

    /// Locks one or two keys that do not go by range: a transaction that commits finds its value.
    fn prewrite(&mut self, store_id: u64, region: &Region) -> Checked {
        let keys = self.pick_keys(region, 2, |key| !records::is_deletable(key));
        let lock_type = match self.rng.range(0, 9) {
            0..=5 => LockType::Put,
            6..=7 => LockType::Delete,
            8 => LockType::Lock,
            _ => LockType::Pessimistic,
        };
        let locked = keys.clone();
        let requests_for = |id: u64, key: &[u8]| records::prewrite(id, key, lock_type);
        let Some(start) = self.write_keys(store_id, region, keys, requests_for, WriteKind::Prewrite)? else {
            return Ok(());
        };
        self.locked.extend(locked.into_iter().map(|key| Locked { key, start, lock_type }));
        Ok(())
    }

    /// Commits or rolls back one of the keys that are locked, if the transaction knows that it is.
    fn end_transaction(&mut self) -> Checked {
        let is_known = |locked: &Locked| {
            let op = self.history.ops.get(&locked.start);
            op.is_some_and(|op| matches!(op.fate, Fate::Acknowledged(_)))
        };
        let ready: Vec<usize> = (0..self.locked.len()).filter(|at| is_known(&self.locked[*at])).collect();
        let Some(at) = self.rng.pick(&ready).copied() else { return Ok(()) };
        let Locked { key, start, lock_type } = self.locked.swap_remove(at);
        let leader = self.leaders().into_iter().find(|(_, status)| is_in(&status.region, &key));
        let Some((store_id, status)) = leader else { return Ok(()) };
        let write_type = match lock_type {
            LockType::Put => WriteType::Put,
            LockType::Delete => WriteType::Delete,
            LockType::Lock => WriteType::Lock,
            LockType::Pessimistic => WriteType::Rollback,
        };
        let id = self.next_id();
        let (requests, kind) = if write_type == WriteType::Rollback || self.rng.percent(30) {
            (records::roll_back(&key, start), WriteKind::RollBack { key })
        } else {
            (records::commit(id, &key, start, write_type), WriteKind::Commit { key, start, write_type })
        };
        self.write(store_id, id, requests::write(&status.region, requests), kind)
    }

    /// Deletes all versions of some of the keys that may go by range.
    fn delete_range(&mut self, store_id: u64, region: &Region) -> Checked {
        let from = self.rng.range(0, 2);
        let to = self.rng.range(from + 1, 4);
        let (from, to) = (records::user_key('r', from), records::user_key('r', to));
        let id = self.next_id();
        let request = requests::write(region, records::delete_range(&from, &to));
        self.write(store_id, id, request, WriteKind::DeleteRange { from, to })
    }

    /// Deletes versions that nobody needs at a safe point, as this store knows them.
    fn collect(&mut self, store_id: u64, region: &Region) -> Checked {
        let id = self.next_id();
        let safe_point = records::commit_ts(id.saturating_sub(KEPT));
        let keys = self.pick_keys(region, 3, |_| true);
        let Some(run) = self.running(store_id) else { return Ok(()) };
        run.engine.cache().set_safe_point(safe_point.into_inner());
        let disk = run.engine.disk().snapshot();
        let mut garbage = Vec::new();
        for key in keys {
            // The newest one up to the safe point is what a reader at it sees.
            let versions = records::versions(&disk, &key, safe_point, usize::MAX).unwrap_or_default();
            garbage.extend(versions.into_iter().skip(1).map(|version| (key.clone(), version)));
        }
        if garbage.is_empty() {
            return Ok(());
        }
        garbage.iter().for_each(|_| self.coverage.hit(Seam::VersionCollected));
        let requests = garbage.iter().flat_map(|(key, version)| records::collect(key, version)).collect();
        self.write(store_id, id, requests::write(region, requests), WriteKind::Collect(garbage))
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
        aside!(self, "region {} is evicted on store {store_id}", region.get_id());
        if let Some(run) = self.running(store_id) {
            let region = CacheRegion::from_region(region);
            let event = RegionEvent::Eviction { region, reason: EvictReason::Manual, on_evict_finished: None };
            run.engine.cache().on_region_event(event);
        }
    }

    /// Loads a region as an operator may, whatever is going on with it.
    pub(super) fn load(&mut self, store_id: u64, region: &Region) {
        aside!(self, "region {} is loaded on store {store_id}", region.get_id());
        if let Some(run) = self.running(store_id) {
            run.engine.cache().load_region(region);
            run.loader_bell.ring();
        }
        self.wake_workers(store_id);
    }

    /// A round of automatic loading, in the place of the cache's thread.
    pub(super) fn load_automatically(&mut self, store_id: u64) {
        let coverage = self.coverage.clone();
        let Some(run) = self.running(store_id) else { return };
        let cached = run.engine.cache().regions().len();
        run.engine.cache().auto_load();
        run.loader_bell.ring();
        if run.engine.cache().regions().len() > cached {
            coverage.hit(Seam::AutoLoaded);
        }
        self.wake_workers(store_id);
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
