//! The half of the demo that panics.
//!
//! **Owns** [`ForwardingObserver`], which does what TiKV v8.5.0 does with a preload request.
//!
//! **How it works.** The [schedule](super::schedule) with that observer in place of the plugin. The request reaches the
//! cache engine, which asserts that the region has peers; the panic hook ends the process.
//!
//! **Invariants.** The observer is as careless as TiKV's and no more: a region that the store knows is handed over as it
//! is, so that requests for initialized peers work.
//!
//! **Must not** be registered anywhere else.

use std::{any::Any, collections::HashMap, convert::Infallible, process::ExitCode, sync::Arc, time::Duration};

use engine_traits::RegionCacheEngineExt;
use kvproto::{
    metapb::Region,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use parking_lot::Mutex;
use raft::StateRole;
use raftstore::coprocessor::{
    BoxRaftMessageObserver, BoxRegionChangeObserver, Coprocessor, ObserverContext, RaftMessageObserver,
    RegionChangeEvent, RegionChangeObserver,
};
use server::DiskEngine;
use test_raftstore::NodeContextOn;

use super::{dataset::Dataset, report::Report, schedule::Schedule};
use crate::{
    data_dir::DataDir,
    error::{Error, Result},
    waiting,
};

/// The store did not panic. Not 1, which a panic ends with, and not 2, which clap uses.
const EXIT_NO_PANIC: u8 = 3;

/// A message needs well under a millisecond.
const PANIC_DEADLINE: Duration = Duration::from_secs(20);

/// How much data is enough: whether there is much or little makes no difference to the panic.
const ROWS_MAX: u64 = 200;

/// Panics, if all goes as it does in TiKV v8.5.0; otherwise says so.
pub(super) fn run<D: DiskEngine>(dataset: &Dataset, dir: &mut DataDir, report: &mut Report) -> Result<ExitCode> {
    report.title("preload-node demo, unguarded: each preload request goes to the cache engine, as in TiKV v8.5.0");
    let dataset = dataset.with_rows_at_most(ROWS_MAX);
    let schedule = Schedule::start(dir.path(), dataset, Arc::new(register::<D>))?;
    schedule.load(report)?;
    schedule.create_uninitialized_peer(report)?;
    // What a crash leaves behind is not cleaned up: the process ends in the panic hook.
    report.note(&format!("data stays in {}", dir.path().display()));
    dir.keep();
    schedule.request_preload(report)?;
    match waiting::within(PANIC_DEADLINE, "the panic", || None::<Infallible>) {
        Err(Error::TimedOut { deadline, .. }) => {
            eprintln!("preload-node: the store did not panic within {deadline:?}");
            Ok(EXIT_NO_PANIC.into())
        }
        Err(error) => Err(error),
        Ok(never) => match never {},
    }
}

fn register<D: DiskEngine>(node: NodeContextOn<'_, D>) -> Box<dyn Any + Send> {
    let observer = ForwardingObserver { cache: node.cache, regions: Arc::default() };
    node.host.registry.register_region_change_observer(0, BoxRegionChangeObserver::new(observer.clone()));
    node.host.registry.register_raft_message_observer(0, BoxRaftMessageObserver::new(observer.clone()));
    Box::new(observer)
}

/// Hands the region of each preload request to the cache engine, as the store knows it.
#[derive(Clone)]
struct ForwardingObserver {
    cache: Arc<dyn RegionCacheEngineExt + Send + Sync>,
    /// The initialized regions of this store.
    regions: Arc<Mutex<HashMap<u64, Region>>>,
}

impl Coprocessor for ForwardingObserver {}

impl RegionChangeObserver for ForwardingObserver {
    fn on_region_changed(&self, ctx: &mut ObserverContext<'_>, event: RegionChangeEvent, _role: StateRole) {
        let region = ctx.region();
        match event {
            RegionChangeEvent::Create | RegionChangeEvent::Update(_) => {
                self.regions.lock().insert(region.get_id(), region.clone());
            }
            RegionChangeEvent::Destroy => {
                self.regions.lock().remove(&region.get_id());
            }
            RegionChangeEvent::UpdateBuckets(_) => {}
        }
    }
}

impl RaftMessageObserver for ForwardingObserver {
    fn on_raft_message(&self, message: &RaftMessage) -> bool {
        if message.get_extra_msg().get_type() != ExtraMessageType::MsgPreLoadRegionRequest {
            return true;
        }
        let region_id = message.get_region_id();
        let known = self.regions.lock().get(&region_id).cloned();
        let region = known.unwrap_or_else(|| {
            // All that an uninitialized peer has.
            let mut region = Region::default();
            region.set_id(region_id);
            region
        });
        self.cache.load_region(&region);
        false
    }
}
