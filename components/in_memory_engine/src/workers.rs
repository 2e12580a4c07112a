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
    convert::Infallible,
    io,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use engine_traits::KvEngine;

use crate::{RegionCacheEngine, load::LoadProgress};

/// Entries that one step of a load scans. Between two steps a cancelled load ends, and for each the disk is sought once;
/// at a million entries per second this is a millisecond.
const LOAD_STEP_ENTRIES: usize = 1024;

/// The running threads of a cache. They end when this is dropped.
#[derive(Debug)]
pub struct CacheWorkers {
    /// Disconnected to stop the threads.
    stop: Option<Sender<Infallible>>,
    threads: Vec<JoinHandle<()>>,
}

impl RegionCacheEngine {
    /// Starts the threads that load regions from `disk` and keep house.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    pub fn start_workers<E: KvEngine>(&self, disk: &E) -> io::Result<CacheWorkers> {
        let (stop, stopped) = bounded(0);
        let mut workers = CacheWorkers { stop: Some(stop), threads: Vec::new() };
        for index in 0..self.core.limits.load_threads {
            let (cache, disk, stopped) = (self.clone(), disk.clone(), stopped.clone());
            let thread = thread::Builder::new().name(format!("ime-load-{index}"));
            workers.threads.push(thread.spawn(move || run_loads(&cache, &disk, &stopped))?);
        }
        let cache = self.clone();
        let thread = thread::Builder::new().name("ime-housekeep".to_owned());
        workers.threads.push(thread.spawn(move || run_chores(&cache, &stopped))?);
        Ok(workers)
    }
}

fn run_loads<E: KvEngine>(cache: &RegionCacheEngine, disk: &E, stopped: &Receiver<Infallible>) {
    let is_stopped = || matches!(stopped.try_recv(), Err(TryRecvError::Disconnected));
    while !is_stopped() {
        let attempt = select! {
            recv(cache.core.loads.1) -> attempt => attempt,
            recv(stopped) -> _ => return,
        };
        let Some(mut job) = attempt.ok().and_then(|attempt| cache.begin_load(attempt, disk)) else { continue };
        while !is_stopped() && job.step(LOAD_STEP_ENTRIES) == LoadProgress::More {}
    }
}

fn run_chores(cache: &RegionCacheEngine, stopped: &Receiver<Infallible>) {
    loop {
        select! {
            recv(cache.core.chores.1) -> chore => cache.run_chores(chore.ok()),
            recv(stopped) -> _ => return,
        }
    }
}

impl Drop for CacheWorkers {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // The last handle of an engine may be dropped by a callback that runs on one of these threads.
            if thread.thread().id() != thread::current().id() {
                // An error means that it panicked, which the panic hook has reported.
                let _ = thread.join();
            }
        }
    }
}
