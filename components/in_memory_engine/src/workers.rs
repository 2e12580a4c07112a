//! The threads that load regions and keep house.
//!
//! **Owns** the threads.
//!
//! **How it works.** Each load thread takes a queued load and drives it to its end; the housekeeping thread runs chores
//! as they come. Dropping the [`CacheWorkers`] fails the loads that are under way and waits for the threads, so that
//! afterwards nobody holds the disk engine any more.
//!
//! **Must not** decide anything: all the threads do is to call what a simulation calls as well.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use engine_traits::KvEngine;

use crate::{RegionCacheEngine, engine::QueuedLoad, housekeeping::Chore, load::LoadProgress};

/// Entries that one step of a load scans. Between two steps a cancelled load ends, and for each the disk is sought once;
/// at a million entries per second this is a millisecond.
const LOAD_STEP_ENTRIES: usize = 1024;

/// The running threads of a cache. They end when this is dropped.
#[derive(Debug)]
pub struct CacheWorkers {
    cache: RegionCacheEngine,
    stopping: Arc<AtomicBool>,
    loaders: Vec<JoinHandle<()>>,
    housekeeper: Option<JoinHandle<()>>,
}

impl RegionCacheEngine {
    /// Starts the threads that load regions from `disk` and keep house.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    pub fn start_workers<E: KvEngine>(&self, disk: &E) -> io::Result<CacheWorkers> {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut workers =
            CacheWorkers { cache: self.clone(), stopping: stopping.clone(), loaders: Vec::new(), housekeeper: None };
        for index in 0..self.core.limits.load_threads {
            let (cache, disk, stopping) = (self.clone(), disk.clone(), stopping.clone());
            let thread = thread::Builder::new().name(format!("ime-load-{index}"));
            workers.loaders.push(thread.spawn(move || run_loads(&cache, &disk, &stopping))?);
        }
        let cache = self.clone();
        let thread = thread::Builder::new().name("ime-housekeep".to_owned());
        workers.housekeeper = Some(thread.spawn(move || run_chores(&cache, &stopping))?);
        Ok(workers)
    }
}

fn run_loads<E: KvEngine>(cache: &RegionCacheEngine, disk: &E, stopping: &AtomicBool) {
    while let Ok(QueuedLoad::Attempt(attempt)) = cache.core.loads.1.recv() {
        let Some(mut job) = cache.begin_load(attempt, disk) else { continue };
        while !stopping.load(Ordering::Relaxed) && job.step(LOAD_STEP_ENTRIES) == LoadProgress::More {}
    }
}

fn run_chores(cache: &RegionCacheEngine, stopping: &AtomicBool) {
    while !stopping.load(Ordering::Relaxed) {
        let Ok(chore) = cache.core.chores.1.recv() else { return };
        cache.run_chore(chore);
        cache.housekeep();
    }
}

impl Drop for CacheWorkers {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for _ in &self.loaders {
            let _ = self.cache.core.loads.0.send(QueuedLoad::Stop);
        }
        let _ = self.cache.core.chores.0.send(Chore::Stop);
        for thread in self.loaders.drain(..).chain(self.housekeeper.take()) {
            // The last handle of an engine may be dropped by a callback that runs on one of these threads.
            if thread.thread().id() != thread::current().id() {
                // An error means that it panicked, which the panic hook has reported.
                let _ = thread.join();
            }
        }
    }
}
