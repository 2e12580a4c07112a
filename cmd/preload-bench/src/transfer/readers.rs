//! Clients that read all the time.
//!
//! **Owns** what a read is, and under what it is counted.
//!
//! **How it works.** A few threads, each with one read at a time, of a region drawn at random. A read that is refused,
//! because leadership is on its way, is sent again to whoever leads then, and its time goes on.
//!
//! **Invariants.** A read is counted under the phase in which it began. In the steady phase all count; in the others those
//! that began within [`AFTER`] of the last arrival of their region's leadership, and apart from them those that were under
//! way when leadership arrived.
//!
//! **Must not** keep up a rate: a slow read delays the next one of its thread, so slow reads are counted less often than
//! an open system would see them. All policies are measured the same way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use engine_traits::{Cf, IterBounds, Iterator as _, ReadSource, Snapshot as _};
use hdrhistogram::Histogram;
use test_raftstore::{requests, wait};

use super::stage::{AFTER, Phase, Stage, View, key, now, prefix};

pub(super) const SCAN_KEYS: usize = 100;

/// More would only wait for one another: the stores have the rest of the machine.
const THREADS: u64 = 2;

/// A read that takes longer was lost with its store.
const ATTEMPT: Duration = Duration::from_secs(1);

/// What is longer counts as this: ten minutes.
const MICROS_MAX: u64 = 600_000_000;

/// Between two attempts, while leadership is on its way.
const RETRY: Duration = Duration::from_millis(1);

/// Reads of one kind.
#[derive(Default)]
pub(super) struct Reads {
    pub(super) whole: Latencies,
    /// Until there was a snapshot to read from.
    pub(super) wait: Latencies,
    /// Of the rows, from the snapshot.
    pub(super) scan: Latencies,
    pub(super) total: u64,
    /// Served by the disk.
    pub(super) cold: u64,
    /// Sent more than once.
    pub(super) refused: u64,
}

pub(super) struct Latencies(Histogram<u64>);

/// What became of a read.
struct Outcome {
    wait: Duration,
    scan: Duration,
    is_cold: bool,
    is_refused: bool,
}

#[derive(Default)]
pub(super) struct AllReads {
    pub(super) steady: Reads,
    pub(super) round: Moved,
    pub(super) rolling_restart: Moved,
}

/// Reads around a move of their region.
#[derive(Default)]
pub(super) struct Moved {
    /// Begun before leadership arrived, and ended later.
    pub(super) during: Reads,
    pub(super) after: Reads,
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_max(MICROS_MAX, 3).expect("three digits are allowed"))
    }
}

impl Latencies {
    pub(super) fn millis(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1000.0
    }

    fn add(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MICROS_MAX));
    }

    fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same shape");
    }
}

impl Reads {
    fn add(&mut self, read: &Outcome) {
        self.whole.add(read.wait + read.scan);
        self.wait.add(read.wait);
        self.scan.add(read.scan);
        self.total += 1;
        self.cold += u64::from(read.is_cold);
        self.refused += u64::from(read.is_refused);
    }

    fn merge(&mut self, other: &Self) {
        self.whole.merge(&other.whole);
        self.wait.merge(&other.wait);
        self.scan.merge(&other.scan);
        self.total += other.total;
        self.cold += other.cold;
        self.refused += other.refused;
    }
}

impl Moved {
    fn add(&mut self, read: &Outcome, began: Instant, leaders: [Option<Instant>; 2]) {
        let [before, after] = leaders;
        if before != after {
            self.during.add(read);
        } else if before.is_some_and(|at| began.saturating_duration_since(at) < AFTER) {
            self.after.add(read);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.during.merge(&other.during);
        self.after.merge(&other.after);
    }
}

pub(super) struct Readers {
    is_stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<AllReads>>,
}

impl Readers {
    pub(super) fn stop(self) -> AllReads {
        self.is_stopped.store(true, Ordering::Relaxed);
        let mut all = AllReads::default();
        for thread in self.threads {
            let reads = thread.join().expect("a reader does not panic");
            all.steady.merge(&reads.steady);
            all.round.merge(&reads.round);
            all.rolling_restart.merge(&reads.rolling_restart);
        }
        all
    }
}

pub(super) fn start(stage: &Stage) -> Readers {
    let is_stopped = Arc::new(AtomicBool::new(false));
    let threads = (1..=THREADS).map(|seed| {
        let (view, regions, is_stopped) = (stage.view.clone(), stage.region_ids.clone(), is_stopped.clone());
        let read = move || read_on(&view, &regions, seed, &is_stopped);
        std::thread::Builder::new().name(format!("reader-{seed}")).spawn(read).expect("threads can be started")
    });
    Readers { threads: threads.collect(), is_stopped }
}

fn read_on(view: &View, region_ids: &[u64], seed: u64, is_stopped: &AtomicBool) -> AllReads {
    let mut all = AllReads::default();
    let mut random = seed;
    while !is_stopped.load(Ordering::Relaxed) {
        // A linear congruential generator: which region is read next need not be more random than that.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = usize::try_from(random >> 33).unwrap_or(0) % region_ids.len();
        let (phase, began) = (view.phase(), now());
        let arrival = || view.leader(region_ids[number]).map(|leader| leader.at);
        let arrived = arrival();
        let Some(outcome) = read(view, region_ids[number], number, is_stopped) else { continue };
        match phase {
            Phase::Idle => {}
            Phase::Steady => all.steady.add(&outcome),
            Phase::Round => all.round.add(&outcome, began, [arrived, arrival()]),
            Phase::RollingRestart => all.rolling_restart.add(&outcome, began, [arrived, arrival()]),
        }
    }
    all
}

/// Reads from the leader, whoever that becomes. `None` when there is no time left.
fn read(view: &View, region_id: u64, number: usize, is_stopped: &AtomicBool) -> Option<Outcome> {
    let began = now();
    let mut refusals = 0_u32;
    while !is_stopped.load(Ordering::Relaxed) {
        let leader = view.leader(region_id)?;
        let handle = view.stores.read().get(&leader.store_id).cloned();
        let snapshot = handle.and_then(|h| h.snapshot(requests::header(&leader.region), u64::MAX, ATTEMPT).ok());
        let Some(snapshot) = snapshot else {
            refusals += 1;
            // Its metadata has changed, or it is somewhere else by now.
            if refusals.is_multiple_of(8) {
                view.refresh(region_id);
            }
            wait::within(RETRY, || None::<()>);
            continue;
        };
        let wait = began.elapsed();
        let number = u32::try_from(number).expect("there are fewer regions");
        let end = keys::data_key(prefix(number + 1).as_bytes());
        let bounds = IterBounds::new(keys::data_key(&key(number, 0)), end);
        let mut rows = snapshot.snapshot.iter(Cf::Default, bounds).expect("the engine reads");
        let mut is_there = rows.seek_to_first().expect("the engine reads");
        for _ in 0..SCAN_KEYS {
            assert!(is_there, "region {region_id} has lost rows");
            std::hint::black_box(rows.value());
            is_there = rows.next().expect("the engine reads");
        }
        let is_cold = snapshot.snapshot.source() != ReadSource::Memory;
        return Some(Outcome { wait, scan: began.elapsed() - wait, is_cold, is_refused: refusals > 0 });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_read() {
        let mut reads = Reads::default();
        let outcome = |millis| Outcome {
            wait: Duration::from_millis(millis),
            scan: Duration::from_millis(1000 + millis),
            is_cold: millis > 990,
            is_refused: millis > 995,
        };
        (1..=1000).map(outcome).for_each(|outcome| reads.add(&outcome));
        let mut both = Reads::default();
        both.merge(&reads);
        // The histograms keep three digits.
        let is_near = |latencies: &Latencies, percentile, millis: f64| {
            (latencies.millis(percentile) - millis).abs() < millis / 500.0
        };
        assert!(is_near(&both.wait, 50.0, 500.0) && is_near(&both.wait, 99.9, 999.0));
        assert!(is_near(&both.scan, 50.0, 1500.0) && is_near(&both.whole, 50.0, 2000.0));
        assert_eq!((both.total, both.cold, both.refused), (1000, 10, 5));
    }
}
