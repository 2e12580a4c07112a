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
use test_raftstore::{NodeContext, Plugin, REGION_ID};
use tikv_util::{
    config::ReadableDuration,
    time::{Clock as _, MonotonicClock},
};

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

pub(super) struct Guarded {
    schedule: Schedule,
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
    answer: Option<&'static str>,
    parked_requests: usize,
    loads: usize,
    cached_bytes: usize,
}

impl Guarded {
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

    pub(super) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The answers of store 3 so far.
    pub(super) fn answers(&self) -> Vec<&'static str> {
        self.answers.all()
    }

    fn target(&self) -> &Target {
        self.target.get().expect("store 3 was started")
    }

    pub(super) fn ask_uninitialized_peer(&self, report: &mut Report) -> Result<Parked> {
        self.schedule.create_uninitialized_peer(report)?;
        let clock = MonotonicClock::new();
        self.schedule.request_preload(report)?;
        let answer = waiting::until_some("an answer of store 3", || self.answers.last())?;
        let answered_after = clock.now();
        report.check(
            answer == REGION_NOT_INITIALIZED,
            &format!("store 3 answers {:.1} ms later: {answer}", millis(answered_after)),
        );

        let parked_requests = self.target().plugin.status().parked_requests;
        report.check(parked_requests == 1, &format!("requests parked on store 3: {parked_requests}"));
        let loads = self.target().cache.loads().len();
        report.check(loads == 0, &format!("regions handed to its cache engine: {loads}"));
        let store_is_up = self.schedule.target().is_some_and(|target| !target.is_initialized());
        report.check(store_is_up, "store 3 is up, its peer still uninitialized");
        Ok(Parked { answer, answered_after_ms: millis(answered_after), parked_requests, loads, store_is_up })
    }

    pub(super) fn release_snapshot(&self, report: &mut Report) -> Result<Released> {
        let clock = MonotonicClock::new();
        self.schedule.release_snapshot();
        waiting::until("the peer on store 3 to be initialized", || {
            self.schedule.target().is_some_and(|target| target.is_initialized() && !target.applying_snapshot)
        })?;
        let initialized_after = clock.now();
        report.check(true, &format!("the snapshot is applied after {:.1} ms", millis(initialized_after)));

        waiting::until("the final answer of store 3", || self.answers.last() != Some(REGION_NOT_INITIALIZED))?;
        let warm_after = clock.now();
        let answer = self.answers.last();
        let loads = self.target().cache.loads();
        report.check(
            !loads.is_empty() && loads.iter().all(is_initialized),
            &format!("the parked request became a load; loads: {}, all of an initialized region", loads.len()),
        );
        report.check(
            answer == Some(WARM),
            &format!("store 3 answers after {:.1} ms: {}", millis(warm_after), answer.unwrap_or("nothing")),
        );

        let cached = self.schedule.cluster().cache(TARGET_STORE).region_status(REGION_ID);
        let cached_bytes = cached.as_ref().map_or(0, |region| region.memory_bytes);
        report.check(
            cached.is_some_and(|region| region.state == RegionState::Active),
            &format!("the region is in its cache, {} KiB", grouped(cached_bytes as u64 >> 10)),
        );
        let parked_requests = self.target().plugin.status().parked_requests;
        report.check(parked_requests == 0, &format!("requests parked on store 3: {parked_requests}"));
        Ok(Released {
            initialized_after_ms: millis(initialized_after),
            warm_after_ms: millis(warm_after),
            answer,
            parked_requests,
            loads: loads.len(),
            cached_bytes,
        })
    }
}

fn plugin(config: CheckedConfig, target: Arc<OnceLock<Target>>) -> Plugin {
    Arc::new(move |node: NodeContext<'_>| {
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
