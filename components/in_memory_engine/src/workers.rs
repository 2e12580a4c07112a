//! The threads that load regions, keep house and cross-check.
//!
//! **Owns** the threads.
//!
//! **How it works.** Each load thread takes a queued load and drives it to its end, between two steps waiting as long as
//! the rate limit wants it to; the housekeeping thread runs chores as they come; the garbage collector and automatic loading
//! run now and then; and one thread compares a region after the other with the disk, in the order of their keys, with a
//! pause after each. Those that pause look every second whether the pause is to be another now.
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

use crate::{Audit, AuditProgress, Limits, LoadJob, RegionCacheEngine, load::LoadProgress};

/// Entries that one step of a load scans. Between two steps a cancelled load ends, and for each the disk is sought once;
/// at a million entries per second this is a millisecond.
const LOAD_STEP_ENTRIES: usize = 1024;

/// Entries that one step of a cross-check passes, on both sides together: less than a millisecond, and with the default rate
/// limit it rests for a millisecond after each.
const AUDIT_STEP_ENTRIES: usize = 512;

/// How long a change of an interval waits to be noticed, at most.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// The running threads of a cache. They end when this is dropped.
#[derive(Debug)]
pub struct CacheWorkers {
    /// Disconnected to stop the threads.
    stop: Option<Sender<Infallible>>,
    threads: Vec<JoinHandle<()>>,
}

impl RegionCacheEngine {
    /// Starts the threads that load regions from `disk`, keep house, cross-check and load automatically.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    pub fn start_workers<E: KvEngine>(&self, disk: &E) -> io::Result<CacheWorkers> {
        let (stop, stopped) = bounded(0);
        let mut workers = CacheWorkers { stop: Some(stop), threads: Vec::new() };
        for index in 0..self.limits().load_threads {
            let (cache, disk, stopped) = (self.clone(), disk.clone(), stopped.clone());
            let thread = thread::Builder::new().name(format!("ime-load-{index}"));
            workers.threads.push(thread.spawn(move || run_loads(&cache, &disk, &stopped))?);
        }
        let (cache, stop) = (self.clone(), stopped.clone());
        let thread = thread::Builder::new().name("ime-housekeep".to_owned());
        workers.threads.push(thread.spawn(move || run_chores(&cache, &stop))?);
        let (cache, disk, stop) = (self.clone(), disk.clone(), stopped.clone());
        let thread = thread::Builder::new().name("ime-cross-check".to_owned());
        workers.threads.push(thread.spawn(move || run_audits(&cache, &disk, &stop))?);
        // On a thread of its own: a region that is evicted meanwhile does not wait to be freed.
        let cache = self.clone();
        let thread = thread::Builder::new().name("ime-gc".to_owned());
        let stop = stopped.clone();
        workers.threads.push(thread.spawn(move || run_gc(&cache, &stop))?);
        let cache = self.clone();
        let thread = thread::Builder::new().name("ime-auto-load".to_owned());
        workers.threads.push(thread.spawn(move || run_auto_load(&cache, &stopped))?);
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
            run_load(job, cache.limits().load_rate_limit_bytes, stopped);
        }
    }
}

fn run_load<S: Snapshot>(mut job: LoadJob<S>, rate_limit_bytes: Option<usize>, stopped: &Receiver<Infallible>) {
    let mut loaded_bytes = 0;
    while !is_stopped(stopped) && job.step(LOAD_STEP_ENTRIES) == LoadProgress::More {
        let step_bytes = job.loaded().bytes - loaded_bytes;
        loaded_bytes += step_bytes;
        if rate_limit_bytes.is_some_and(|limit| is_stopped_within(pause(step_bytes, limit), stopped)) {
            return;
        }
    }
}

fn run_audits<E: KvEngine>(cache: &RegionCacheEngine, disk: &E, stopped: &Receiver<Infallible>) {
    let mut behind = Vec::new();
    while is_due(cache, |limits| limits.cross_check_interval, stopped) {
        let Some(region) = cache.next_to_audit(&behind) else { continue };
        if let Some(audit) = cache.begin_audit(region.id, || disk.snapshot()) {
            run_audit(audit, cache.limits().cross_check_rate_limit_bytes, stopped);
        }
        behind = region.end;
    }
}

fn run_audit<S: Snapshot>(mut audit: Audit<S>, rate_limit_bytes: usize, stopped: &Receiver<Infallible>) {
    let mut audited_bytes = 0;
    while audit.step(AUDIT_STEP_ENTRIES) == AuditProgress::More {
        let step_bytes = audit.audited().bytes - audited_bytes;
        audited_bytes += step_bytes;
        if is_stopped_within(pause(step_bytes, rate_limit_bytes), stopped) {
            return;
        }
    }
}

/// How long to wait after so many bytes. As if reading them took no time: the limit is one, not an aim.
fn pause(bytes: usize, rate_limit_bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate_limit_bytes as f64)
}

/// Waits until the interval, which is `None` while there is nothing to do, is over. `false` when stopped before.
fn is_due(
    cache: &RegionCacheEngine,
    interval: impl Fn(&Limits) -> Option<Duration>,
    stopped: &Receiver<Infallible>,
) -> bool {
    let mut waited = Duration::ZERO;
    loop {
        let interval = interval(&cache.limits());
        let pause = interval.map_or(NOTICE_INTERVAL, |interval| interval.saturating_sub(waited).min(NOTICE_INTERVAL));
        if pause.is_zero() {
            return true;
        }
        if is_stopped_within(pause, stopped) {
            return false;
        }
        waited = if interval.is_some() { waited + pause } else { Duration::ZERO };
    }
}

fn is_stopped_within(pause: Duration, stopped: &Receiver<Infallible>) -> bool {
    stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout)
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
    while is_due(cache, |limits| Some(limits.gc_run_interval), stopped) {
        cache.collect_garbage();
    }
}

fn run_auto_load(cache: &RegionCacheEngine, stopped: &Receiver<Infallible>) {
    while is_due(cache, |limits| limits.auto_load.then_some(limits.load_evict_interval), stopped) {
        cache.auto_load();
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
