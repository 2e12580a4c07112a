//! After the heal: the cluster has to come back, and everything has to be as promised.
//!
//! # What it owns
//! The order of what is asked of a healed cluster, and how long each may take.
//!
//! # How it works
//! 1. Every region gets a leader, and all its peers catch up with it.
//! 2. A write and a read of each region succeed.
//! 3. Replicas agree, and hold what was acknowledged.
//! 4. What is pinned is warm by itself; every peer of every region is asked to warm it up, and does.
//! 5. When nothing was asked for longer than a request lives, nothing is wanted any more.
//!
//! # Invariants
//! The limits are many times what a healthy cluster takes.
//!
//! # What it must not do
//! Hide that something takes for ever.

use std::{collections::BTreeMap, time::Duration};

use engine_traits::{KvEngine, RegionCacheEngineExt as _};
use preload_observer::message::AnswerKind;
use raftstore::store::PeerStatus;

use super::{
    checks::{self, Checked, replicas_agree, warm_after_heal},
    history::Fate,
    plan::Setup,
    world::{World, aside},
};
use crate::requests;

impl World {
    pub(super) fn run(&mut self) -> Checked {
        let end = self.plan.safety_phase;
        while self.has_event_before(end) {
            self.next()?;
        }
        self.now = end;
        self.heal()?;
        self.run_until_converged()?;
        self.write_and_read()?;
        self.run_until_converged()?;
        self.check_replicas()?;
        if self.plan.setup != Setup::Full {
            return Ok(());
        }
        if self.plan.cache_is_ample && self.plan.preload.max_known_regions > 100 {
            self.warm_up_pinned()?;
            self.warm_up()?;
        }
        self.let_intents_end()
    }

    /// Runs until `condition`, which is asked after each tick, or for `limit`. Whether it came about.
    fn run_until(&mut self, limit: Duration, mut condition: impl FnMut(&mut Self) -> bool) -> Checked<bool> {
        let end = self.now + limit;
        while self.now < end {
            if self.next()? && condition(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn run_until_converged(&mut self) -> Checked {
        if self.run_until(Duration::from_secs(60), |world| world.laggard().is_none())? {
            return Ok(());
        }
        Err(warm_after_heal::no_progress(&self.laggard().unwrap_or_default()))
    }

    /// The leaders of all regions, each with the store that it is on.
    fn settled_leaders(&self) -> BTreeMap<u64, (u64, PeerStatus)> {
        let mut leaders = BTreeMap::new();
        for (store_id, status) in self.leaders() {
            let region_id = status.region.get_id();
            let is_newer = |(_, known): &(u64, PeerStatus)| known.term < status.term;
            if leaders.get(&region_id).is_none_or(is_newer) {
                leaders.insert(region_id, (store_id, status));
            }
        }
        leaders
    }

    /// Something that is not as it should be in a cluster that is at rest.
    fn laggard(&self) -> Option<String> {
        let leaders = self.settled_leaders();
        let mut regions: Vec<_> = leaders.values().map(|(_, status)| &status.region).collect();
        regions.sort_by(|left, right| left.get_start_key().cmp(right.get_start_key()));
        let mut covered: &[u8] = b"";
        for (at, region) in regions.iter().enumerate() {
            if region.get_start_key() != covered || (at > 0 && covered.is_empty()) {
                return Some(format!("no leader for the keys from {covered:?} on"));
            }
            covered = region.get_end_key();
        }
        if regions.is_empty() || !covered.is_empty() {
            return Some(format!("no leader for the keys from {covered:?} on"));
        }
        for (leader_store, leader) in leaders.values() {
            if leader.merging {
                return Some(format!("{leader:?} waits for its merge on store {leader_store}"));
            }
            for peer in leader.region.get_peers() {
                let run = self.stores.get(&peer.get_store_id()).and_then(|store| store.run.as_ref());
                let status = run.and_then(|run| run.core.status(leader.region.get_id()));
                let is_up_to_date = status.as_ref().is_some_and(|status| {
                    status.peer_id == peer.get_id()
                        && status.leader_id == leader.peer_id
                        && status.applied_index == leader.last_index
                        && !status.applying_snapshot
                        && status.region == leader.region
                });
                if !is_up_to_date {
                    return Some(format!("{status:?} lags behind {leader:?} on store {leader_store}"));
                }
            }
        }
        None
    }

    fn write_and_read(&mut self) -> Checked {
        let regions: Vec<u64> = self.settled_leaders().into_keys().collect();
        for region_id in regions {
            let mut written = None;
            let is_done = self.run_until(Duration::from_secs(30), |world| {
                let is_written = |id: u64| matches!(world.history.ops[&id].fate, Fate::Acknowledged(_));
                written.is_some_and(is_written) || {
                    if written.is_none_or(|id| !world.clients.is_pending(id))
                        && let Some((store_id, status)) = world.settled_leaders().remove(&region_id)
                    {
                        // What `put` may find wrong is found again by the next event.
                        written = world.put(store_id, &status.region).ok().flatten();
                        return written.is_none();
                    }
                    false
                }
            })?;
            if !is_done {
                return Err(warm_after_heal::no_progress(&format!("a write to region {region_id}")));
            }
            let mut read = None;
            let is_done = self.run_until(Duration::from_secs(30), |world| {
                if read.is_some_and(|id| !world.clients.is_pending(id)) {
                    return true;
                }
                if read.is_none()
                    && let Some((store_id, status)) = world.settled_leaders().remove(&region_id)
                {
                    read = world.read(store_id, requests::header(&status.region), u64::MAX).ok();
                }
                false
            })?;
            if !is_done {
                return Err(warm_after_heal::no_progress(&format!("a read of region {region_id}")));
            }
        }
        Ok(())
    }

    fn check_replicas(&mut self) -> Checked {
        for (leader_store, leader) in self.settled_leaders().into_values() {
            let mut first: Option<(u64, replicas_agree::Contents)> = None;
            for peer in leader.region.get_peers() {
                let store_id = peer.get_store_id();
                let Some(run) = self.stores.get(&store_id).and_then(|store| store.run.as_ref()) else { continue };
                let disk = run.engine.disk().snapshot();
                let contents = replicas_agree::contents(&disk, &leader.region)?;
                if let Some((other, expected)) = &first {
                    replicas_agree::check(&leader.region, (*other, expected), (store_id, &contents))?;
                }
                if store_id == leader_store {
                    let keys = &self.keys;
                    checks::acknowledged_writes::check(
                        &mut self.history,
                        store_id,
                        &leader.region,
                        keys,
                        &disk,
                        self.step,
                    )?;
                }
                first.get_or_insert((store_id, contents));
            }
        }
        Ok(())
    }

    /// Where a pinned region is led and not in the cache.
    fn cold_pinned(&self) -> Option<(u64, u64)> {
        self.settled_leaders().into_iter().find_map(|(region_id, (store_id, leader))| {
            let run = self.stores.get(&store_id)?.run.as_ref()?;
            let is_warm = run.engine.cache().region_cached(&leader.region, true);
            (self.plan.is_pinned(&leader.region) && !is_warm).then_some((store_id, region_id))
        })
    }

    /// What is pinned becomes warm without being asked for.
    fn warm_up_pinned(&mut self) -> Checked {
        let patience = self.plan.preload.reconcile_interval.0 * 3 + Duration::from_secs(2);
        if self.run_until(patience, |world| world.cold_pinned().is_none())? {
            return Ok(());
        }
        let (store_id, region_id) = self.cold_pinned().unwrap_or_default();
        Err(warm_after_heal::pinned_stays_cold(store_id, region_id))
    }

    fn warm_up(&mut self) -> Checked {
        aside!(self, "every region is asked for");
        let patience = self.plan.preload.request_timeout.0 + Duration::from_secs(1);
        let mut cold: Vec<(u64, u64)> = Vec::new();
        for (_, leader) in self.settled_leaders().into_values() {
            let region_id = leader.region.get_id();
            cold.extend(leader.region.get_peers().iter().map(|peer| (peer.get_store_id(), region_id)));
        }
        self.final_answers.clear();
        for _ in 0..10 {
            let leaders = self.settled_leaders();
            for (store_id, region_id) in &cold {
                let Some((leader_store, leader)) = leaders.get(region_id) else { continue };
                if let Some(to) = super::world::peer_on(&leader.region, *store_id) {
                    self.ask_for_preload(*leader_store, &leader.region, to);
                }
            }
            let warm = |world: &Self, asked: &(u64, u64)| world.final_answers.get(asked) == Some(&AnswerKind::Warm);
            let all_warm = self.run_until(patience, |world| cold.iter().all(|asked| warm(world, asked)))?;
            if all_warm {
                return Ok(());
            }
            cold.retain(|asked| !warm(self, asked));
        }
        let (store_id, region_id) = cold[0];
        let last = self.final_answers.get(&cold[0]);
        let run = self.stores.get(&store_id).and_then(|store| store.run.as_ref());
        let cached = run.map(|run| run.engine.cache().regions());
        let known = run.and_then(|run| run.plugin.region_status(region_id));
        let last = format!("{last:?}; the cache has {cached:?}, the plugin knows {known:?}");
        Err(warm_after_heal::stays_cold(store_id, region_id, &last))
    }

    fn let_intents_end(&mut self) -> Checked {
        let preload = &self.plan.preload;
        let quiet = preload.request_timeout.0 + preload.warmup_timeout.0 * 2 + Duration::from_millis(500);
        let rest = self.quiet_from.saturating_sub(self.now) + quiet;
        self.run_until(rest, |_| false)?;
        for store in self.stores.values() {
            let Some(run) = &store.run else { continue };
            let wanted = run.core.statuses().into_iter().filter_map(|status| {
                let region_id = status.region.get_id();
                let source = run.plugin.region_status(region_id)?.wanted?;
                Some((region_id, source, self.plan.is_pinned(&status.region)))
            });
            checks::intents::check_end(store.id, run.plugin.status().parked_requests, wanted)?;
        }
        Ok(())
    }
}
