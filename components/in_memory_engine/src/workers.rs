//! The threads that load regions and keep house.
//!
//! **Owns** the threads.
//!
//! **How it works.** Each load thread takes a queued load and drives it to its end, between two steps waiting as long as
//! the rate limit wants it to; the housekeeping thread runs chores as they come; the garbage collector runs now and then.
//! Dropping the [`CacheWorkers`] fails the loads that are under way and waits for the threads, so that
//! afterwards nobody holds the disk engine any more.
//!
//! **Must not** decide anything: all the threads do is to call what a simulation calls as well.

use std::{
    convert::Infallible,
    io,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select};
use engine_traits::{KvEngine, Snapshot};

use crate::{LoadJob, RegionCacheEngine, load::LoadProgress};

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
        let (cache, stop) = (self.clone(), stopped.clone());
        let thread = thread::Builder::new().name("ime-housekeep".to_owned());
        workers.threads.push(thread.spawn(move || run_chores(&cache, &stop))?);
        // On a thread of its own: a region that is evicted meanwhile does not wait to be freed.
        let cache = self.clone();
        let thread = thread::Builder::new().name("ime-gc".to_owned());
        workers.threads.push(thread.spawn(move || run_gc(&cache, &stopped))?);
        Ok(workers)
    }
}

fn run_loads<E: KvEngine>(cache: &RegionCacheEngine, disk: &E, stopped: &Receiver<Infallible>) {
    while !is_stopped(stopped) {
        let attempt = select! {
            recv(cache.core.loads.1) -> attempt => attempt,
            recv(stopped) -> _ => return,
        };
        let job = attempt.ok().and_then(|attempt| cache.begin_load(attempt, disk));
        if let Some(job) = job {
            run_load(job, cache.core.limits.load_rate_limit_bytes, stopped);
        }
    }
}

fn run_load<S: Snapshot>(mut job: LoadJob<S>, rate_limit_bytes: Option<usize>, stopped: &Receiver<Infallible>) {
    let mut loaded_bytes = 0;
    while !is_stopped(stopped) && job.step(LOAD_STEP_ENTRIES) == LoadProgress::More {
        let step_bytes = job.loaded().bytes - loaded_bytes;
        loaded_bytes += step_bytes;
        if let Some(limit) = rate_limit_bytes {
            // As if the step itself took no time: the limit is one, not an aim.
            let pause = Duration::from_secs_f64(step_bytes as f64 / limit as f64);
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }
}

fn is_stopped(stopped: &Receiver<Infallible>) -> bool {
    matches!(stopped.try_recv(), Err(TryRecvError::Disconnected))
}

fn run_chores(cache: &RegionCacheEngine, stopped: &Receiver<Infallible>) {
    loop {
        select! {
            recv(cache.core.chores.1) -> chore => cache.run_chores(chore.ok()),
            recv(stopped) -> _ => return,
        }
    }
}

fn run_gc(cache: &RegionCacheEngine, stopped: &Receiver<Infallible>) {
    while stopped.recv_timeout(cache.core.limits.gc_run_interval) == Err(RecvTimeoutError::Timeout) {
        cache.collect_garbage();
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
