//! Stores that crash, links that go down.
//!
//! # What it owns
//! When which store crashes and which links are down. (Messages are lost and late by the network itself, disks fail in
//! the workers' steps, and a crash between two effects is drawn where they are carried out.)
//!
//! # How it works
//! Each kind of fault is an event that puts its successor on the agenda, until the cluster is healed.
//!
//! # Invariants
//! A store that crashed starts again, a partition ends.
//!
//! # What it must not do
//! Go on after [`World::heal`].

use std::time::Duration;

use super::{
    checks::Checked,
    world::{Event, World, trace},
};

impl World {
    pub(super) fn on_crash_due(&mut self) -> Checked {
        let Some(every) = self.plan.crash_every else { return Ok(()) };
        let running = self.running_ids();
        let is_power_failure = self.rng.percent(70);
        if self.rng.percent(8) {
            trace!(self, "all stores crash");
            running.iter().for_each(|store_id| self.crash(*store_id, is_power_failure));
        } else if let Some(store_id) = self.rng.pick(&running).copied() {
            self.crash(store_id, is_power_failure);
        }
        let next = self.rng.around(every);
        self.schedule(next, Event::Crash);
        Ok(())
    }

    pub(super) fn on_partition_due(&mut self) {
        let Some(every) = self.plan.partition_every else { return };
        let sluggish = self.plan.sluggish_store().filter(|_| self.rng.percent(50));
        let store_id = sluggish.unwrap_or_else(|| self.rng.range(1, self.plan.stores));
        self.isolate(store_id);
        let next = self.rng.around(every);
        self.schedule(next, Event::Partition);
    }

    /// Takes links of a store down: all of them, those in one direction, or one.
    pub(super) fn isolate(&mut self, store_id: u64) {
        if self.is_healed {
            return;
        }
        let others = (1..=self.plan.stores).filter(|other| *other != store_id);
        let links: Vec<(u64, u64)> = match self.rng.range(0, 3) {
            0 => others.flat_map(|other| [(store_id, other), (other, store_id)]).collect(),
            1 => others.map(|other| (store_id, other)).collect(),
            2 => others.map(|other| (other, store_id)).collect(),
            _ => others.take(1).map(|other| (store_id, other)).collect(),
        };
        let id = self.next_id();
        trace!(self, "partition {id} of {links:?}");
        self.partitions.insert(id, links);
        let length = self.rng.around(Duration::from_millis(1_500));
        self.schedule(length, Event::EndPartition { id });
    }

    /// A store has come to a step of a merge of `region_id`: now and then it does not get far, or is told to load the region.
    pub(super) fn disturb_merge(&mut self, store_id: u64, region_id: u64) {
        if self.side_rng.percent(20) {
            let soon = self.side_rng.up_to(Duration::from_millis(30));
            self.schedule(soon, Event::Load { store_id, region_id });
        }
        let delay = self.rng.up_to(Duration::from_millis(300));
        if self.plan.crash_every.is_some() && self.rng.percent(15) {
            self.schedule(delay, Event::CrashOf { store_id });
        }
        if self.plan.partition_every.is_some() && self.rng.percent(10) {
            self.schedule(delay, Event::Isolation { store_id });
        }
    }

    pub(super) fn on_crash_of(&mut self, store_id: u64) {
        if !self.is_healed && self.running(store_id).is_some() {
            let is_power_failure = self.rng.percent(70);
            self.crash(store_id, is_power_failure);
        }
    }

    /// Nothing goes wrong from now on; every store runs.
    pub(super) fn heal(&mut self) -> Checked {
        trace!(self, "healed");
        self.is_healed = true;
        // A message may still be on its way, and a plugin's worker in a stall that has begun.
        let on_the_way = self.plan.network.latency + self.plan.network.lateness;
        self.quiet_from = self.now + on_the_way.max(self.plan.plugin.stall_max());
        self.plan.heal();
        self.partitions.clear();
        let down: Vec<u64> = self.stores.values().filter(|store| store.run.is_none()).map(|store| store.id).collect();
        down.into_iter().try_for_each(|store_id| self.start(store_id))
    }
}
