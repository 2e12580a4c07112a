//! The half of the demo that survives.
//!
//! **Owns** the plugin on each store, and the view of what it does on store 3: its answers on the wire, its loads.
//!
//! **How it works.** Runs the [schedule](super::schedule), then lets the snapshot go.
//!
//! **Invariants.** What is claimed is seen from outside of the plugin: on the network, at the cache engine, at the
//! store. Only the number of parked requests is the plugin's own word.
//!
//! **Must not** help the plugin: it is registered as on any other host.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use in_memory_engine::RegionState;
use preload_observer::{CheckedConfig, Config, PreloadObserver};
use raftstore::store::is_initialized;
use serde::Serialize;
use server::DiskEngine;
use test_raftstore::{NodeContextOn, PluginOn, REGION_ID};
use tikv_util::config::ReadableDuration;

use super::{
    answers::{Answers, REGION_NOT_INITIALIZED, WARM},
    dataset::Dataset,
    load_spy::LoadSpy,
    report::{Report, grouped, millis},
    schedule::{Schedule, TARGET_STORE},
};
use crate::{error::Result, waiting};

/// After the region cache's own observer.
const PRIORITY: u32 = 200;

pub(super) struct Guarded<D: DiskEngine> {
    schedule: Schedule<D>,
    answers: Arc<Answers>,
    target: Arc<OnceLock<Target>>,
}

/// The plugin on store 3, and the cache engine as it sees it.
struct Target {
    plugin: PreloadObserver,
    cache: Arc<LoadSpy>,
}

#[derive(Serialize)]
pub(super) struct Parked {
    answer: &'static str,
    answered_after_ms: f64,
    parked_requests: usize,
    loads: usize,
    store_is_up: bool,
}

#[derive(Serialize)]
pub(super) struct Released {
    initialized_after_ms: f64,
    warm_after_ms: f64,
    answer: &'static str,
    parked_requests: usize,
    loads: usize,
    cached_bytes: usize,
}

impl<D: DiskEngine> Guarded<D> {
    /// Starts three stores below `dir`, with the plugin on each.
    pub(super) fn start(dir: &Path, dataset: Dataset) -> Result<Self> {
        // A slow machine needs a while to apply the snapshot; the demo must not fail for that.
        let config = Config { request_timeout: ReadableDuration::secs(60), ..Config::default() }.check()?;
        let target = Arc::new(OnceLock::new());
        let schedule = Schedule::start(dir, dataset, plugin(config, target.clone()))?;
        let answers = Arc::new(Answers::default());
        schedule.cluster().network().add_filter(answers.clone());
        Ok(Self { schedule, answers, target })
    }

    pub(super) fn schedule(&self) -> &Schedule<D> {
        &self.schedule
    }

    /// The answers of store 3 so far.
    pub(super) fn answers(&self) -> Vec<&'static str> {
        self.answers.names()
    }

    fn target(&self) -> &Target {
        self.target.get().expect("store 3 was started")
    }

    pub(super) fn ask_uninitialized_peer(&self, report: &mut Report) -> Result<Parked> {
        self.schedule.create_uninitialized_peer(report)?;
        let asked_at = self.answers.now();
        self.schedule.request_preload(report)?;
        let answer = waiting::until_some("an answer of store 3", || self.answers.last())?;
        let answered_after_ms = millis(answer.at.saturating_sub(asked_at));
        let what = format!("store 3 answers {answered_after_ms:.1} ms later");
        report.expect(&what, answer.name, REGION_NOT_INITIALIZED);

        let parked_requests = self.target().plugin.status().parked_requests;
        report.expect("requests parked on store 3", parked_requests, 1);
        let loads = self.target().cache.loads().len();
        report.expect("regions handed to its cache engine", loads, 0);
        let store_is_up = self.schedule.target().is_some_and(|target| !target.is_initialized());
        report.check(store_is_up, "store 3 is up, its peer still uninitialized");
        Ok(Parked { answer: answer.name, answered_after_ms, parked_requests, loads, store_is_up })
    }

    pub(super) fn release_snapshot(&self, report: &mut Report) -> Result<Released> {
        let released_at = self.answers.now();
        self.schedule.release_snapshot();
        waiting::until("the peer on store 3 to be initialized", || {
            self.schedule.target().is_some_and(|target| target.is_initialized() && !target.applying_snapshot)
        })?;
        let initialized_after_ms = millis(self.answers.now().saturating_sub(released_at));
        report.reached(&format!("the snapshot is applied after {initialized_after_ms:.1} ms"));

        let answer = waiting::until_some("the final answer of store 3", || {
            self.answers.last().filter(|answer| !answer.is_provisional())
        })?;
        let warm_after_ms = millis(answer.at.saturating_sub(released_at));
        let loads = self.target().cache.loads();
        report.check(
            !loads.is_empty() && loads.iter().all(is_initialized),
            &format!("the parked request became a load; loads: {}, all of an initialized region", loads.len()),
        );
        report.expect(&format!("store 3 answers after {warm_after_ms:.1} ms"), answer.name, WARM);

        let cached = self.schedule.cluster().cache(TARGET_STORE).region_status(REGION_ID);
        let cached_bytes = cached.as_ref().map_or(0, |region| region.memory_bytes);
        report.check(
            cached.is_some_and(|region| region.state == RegionState::Active),
            &format!("the region is in its cache, {} KiB", grouped(cached_bytes as u64 >> 10)),
        );
        let parked_requests = self.target().plugin.status().parked_requests;
        report.expect("requests parked on store 3", parked_requests, 0);
        Ok(Released {
            initialized_after_ms,
            warm_after_ms,
            answer: answer.name,
            parked_requests,
            loads: loads.len(),
            cached_bytes,
        })
    }
}

fn plugin<D: DiskEngine>(config: CheckedConfig, target: Arc<OnceLock<Target>>) -> PluginOn<D> {
    Arc::new(move |node: NodeContextOn<'_, D>| {
        let cache = Arc::new(LoadSpy::new(node.cache));
        let plugin = PreloadObserver::new(node.store_id, cache.clone(), node.transport, config.clone());
        plugin.register(node.host, PRIORITY);
        if node.store_id == TARGET_STORE {
            // A store of the demo is started once.
            let _ = target.set(Target { plugin: plugin.clone(), cache });
        }
        Box::new(plugin)
    })
}
