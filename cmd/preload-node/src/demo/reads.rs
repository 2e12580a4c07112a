//! Reads from the new leader, and what they cost.
//!
//! **Owns** the two measurements of the last step.
//!
//! **How it works.** Right after leadership has moved, rows are read as a client reads them: a linearizable snapshot of
//! the region for each, which says where it is served from. Then single reads on one snapshot in memory and one of the
//! disk are timed side by side: the same key and timestamp in both, in turns, now the one first and now the other.
//!
//! What is timed is one [`mvcc::get`]: the row's value at a timestamp, given a snapshot. Neither side includes Raft. By
//! then the disk engine has the region in its memtables, in its block cache and in the operating system's: this is the
//! disk engine at its best.
//!
//! **Invariants.** Each read is compared: with the other side, and with what was written.
//!
//! **Must not** write: both snapshots are of the same data.

use std::hint::black_box;

use engine_traits::{KvEngine, ReadSource, Snapshot};
use hdrhistogram::Histogram;
use hybrid_engine::mvcc::{self, MvccGet};
use raftstore::store::RegionSnapshot;
use rand::{SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use server::{DiskEngine, Kv};
use test_raftstore::{REGION_ID, requests};
use tikv_util::time::{Clock as _, MonotonicClock};
use txn_types::TimeStamp;

use super::{
    dataset::Dataset,
    report::{Report, grouped},
    schedule::{Schedule, TARGET_STORE},
};
use crate::{
    error::{Error, Result},
    interrupt, waiting,
};

/// Reads with a snapshot of their own.
const CLIENT_READS: usize = 500;
/// Timed reads of one row; the 99th percentile is made of 200 of them.
const ROW_READS: usize = 20_000;
/// Timed scans.
const SCANS: usize = 300;
const SCAN_ROWS: usize = 100;
/// Two runs read the same rows.
const SEED: u64 = 18_046;

type SnapshotOf<D> = <Kv<D> as KvEngine>::Snapshot;

#[derive(Serialize)]
pub(super) struct Moved {
    transfer_ms: f64,
    pub(super) first_read_source: String,
    reads: usize,
    pub(super) memory_read_share: f64,
    wrong_reads: usize,
}

#[derive(Serialize)]
pub(super) struct Compared {
    reads: usize,
    pub(super) read_ns: ReadNs,
    scans: usize,
    scan_rows: usize,
    scan_ns: ReadNs,
    differences: usize,
}

/// Nanoseconds.
#[derive(Clone, Copy, Serialize)]
pub(super) struct ReadNs {
    memory: Percentiles,
    disk: Percentiles,
}

#[derive(Clone, Copy, Serialize)]
struct Percentiles {
    p50: u64,
    p99: u64,
}

pub(super) fn move_leader_and_read<D: DiskEngine>(schedule: &Schedule<D>, report: &mut Report) -> Result<Moved> {
    let transfer_ms = schedule.move_leader(report)?;
    let (dataset, mut random) = (schedule.dataset(), StdRng::seed_from_u64(SEED));
    let mut sources = Vec::with_capacity(CLIENT_READS);
    let mut wrong_reads = 0;
    for _ in 0..CLIENT_READS {
        interrupt::check()?;
        let (row, ts) = (dataset.random_row(&mut random), dataset.random_ts(&mut random));
        let snapshot = linearizable_snapshot(schedule, ts)?.snapshot;
        sources.push(snapshot.source());
        wrong_reads += usize::from(mvcc::get(&snapshot, &dataset.key(row), ts)? != expected(dataset, row, ts));
    }
    let first_read_source = sources[0].to_string();
    report.expect("its first read comes from", sources[0], ReadSource::Memory);
    let from_memory = sources.iter().filter(|source| **source == ReadSource::Memory).count();
    let memory_read_share = from_memory as f64 / sources.len() as f64;
    let what = format!("of its first {CLIENT_READS} reads, of random rows at random timestamps, come from memory");
    report.expect(&what, from_memory, CLIENT_READS);
    report.expect("reads that differ from what was written", wrong_reads, 0);
    Ok(Moved { transfer_ms, first_read_source, reads: sources.len(), memory_read_share, wrong_reads })
}

pub(super) fn compare_memory_and_disk<D: DiskEngine>(schedule: &Schedule<D>, report: &mut Report) -> Result<Compared> {
    let (dataset, mut random) = (schedule.dataset(), StdRng::seed_from_u64(SEED));
    let memory = linearizable_snapshot(schedule, TimeStamp::max())?.snapshot;
    let disk = schedule.cluster().kv(TARGET_STORE).snapshot();
    if memory.source() != ReadSource::Memory {
        return Err(Error::NotInMemory(memory.source()));
    }
    let mut pair = Pair { memory, disk, row_reads: Times::new(), scans: Times::new(), differences: 0 };
    let progress = report.progress((ROW_READS + SCANS) as u64);
    for turn in 0..ROW_READS {
        if turn % 100 == 0 {
            interrupt::check()?;
            progress.inc(100);
        }
        let (row, ts) = (dataset.random_row(&mut random), dataset.random_ts(&mut random));
        let key = dataset.key(row);
        let value = pair.time_row(turn % 2 == 0, &key, ts)?;
        pair.differences += usize::from(value != expected(dataset, row, ts));
    }
    for turn in 0..SCANS {
        interrupt::check()?;
        progress.inc(1);
        let (row, ts) = (dataset.random_row(&mut random), dataset.random_ts(&mut random));
        pair.time_scan(turn % 2 == 0, &dataset.key(row), ts)?;
    }
    progress.finish_and_clear();

    let (read_ns, scan_ns) = (pair.row_reads.percentiles(), pair.scans.percentiles());
    report.expect("reads where memory, disk and what was written differ", pair.differences, 0);
    report.note(&format!("one row at a timestamp, {} on each side, in turns:", grouped(ROW_READS as u64)));
    report.table(&read_ns.lines());
    report.note(&format!("a scan of {SCAN_ROWS} rows at a timestamp, {SCANS} on each side, in turns:"));
    report.table(&scan_ns.lines());
    report.detail(
        "given a snapshot, without Raft; the disk engine has the data in its memtables and block cache by now,",
    );
    report.detail("so this is the disk at its best");
    Ok(Compared {
        reads: ROW_READS,
        read_ns,
        scans: SCANS,
        scan_rows: SCAN_ROWS,
        scan_ns,
        differences: pair.differences,
    })
}

/// A snapshot of the region at `ts` from store 3, as the leader that it is.
fn linearizable_snapshot<D: DiskEngine>(
    schedule: &Schedule<D>,
    ts: TimeStamp,
) -> Result<RegionSnapshot<SnapshotOf<D>>> {
    waiting::until_some("a linearizable snapshot from store 3", || {
        let region = schedule.target()?.region;
        debug_assert_eq!(region.get_id(), REGION_ID);
        let store = schedule.cluster().store(TARGET_STORE);
        // Right after the election it may still be refused.
        store.snapshot(requests::header(&region), ts.into_inner(), waiting::DEADLINE).ok()
    })
}

fn expected(dataset: &Dataset, row: u64, ts: TimeStamp) -> MvccGet {
    dataset.value_at(row, ts).map_or(MvccGet::NotFound, MvccGet::Value)
}

/// The two sides, and what was measured of them.
struct Pair<S> {
    memory: S,
    disk: S,
    row_reads: Times,
    scans: Times,
    /// Reads of which the sides differ from each other, or from what was written.
    differences: usize,
}

impl<S: Snapshot> Pair<S> {
    /// What memory says.
    fn time_row(&mut self, memory_first: bool, key: &[u8], ts: TimeStamp) -> Result<MvccGet> {
        let read = |snapshot: &S| mvcc::get(snapshot, key, ts);
        let (memory, disk) = self.row_reads.time(memory_first, || read(&self.memory), || read(&self.disk));
        let (memory, disk) = (memory?, disk?);
        self.differences += usize::from(memory != disk);
        Ok(memory)
    }

    fn time_scan(&mut self, memory_first: bool, start: &[u8], ts: TimeStamp) -> Result<()> {
        let scan = |snapshot: &S| mvcc::scan(snapshot, start, b"", ts, SCAN_ROWS);
        let (memory, disk) = self.scans.time(memory_first, || scan(&self.memory), || scan(&self.disk));
        self.differences += usize::from(memory? != disk?);
        Ok(())
    }
}

struct Times {
    memory: Histogram<u64>,
    disk: Histogram<u64>,
}

impl Times {
    fn new() -> Self {
        // A nanosecond to a minute.
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in range");
        Self { memory: histogram.clone(), disk: histogram }
    }

    fn time<T>(&mut self, memory_first: bool, memory: impl FnOnce() -> T, disk: impl FnOnce() -> T) -> (T, T) {
        if memory_first {
            let memory = timed(&mut self.memory, memory);
            (memory, timed(&mut self.disk, disk))
        } else {
            let disk = timed(&mut self.disk, disk);
            (timed(&mut self.memory, memory), disk)
        }
    }

    fn percentiles(&self) -> ReadNs {
        let of = |times: &Histogram<u64>| Percentiles {
            p50: times.value_at_quantile(0.5),
            p99: times.value_at_quantile(0.99),
        };
        ReadNs { memory: of(&self.memory), disk: of(&self.disk) }
    }
}

fn timed<T>(times: &mut Histogram<u64>, read: impl FnOnce() -> T) -> T {
    let clock = MonotonicClock::new();
    let result = black_box(read());
    times.saturating_record(u64::try_from(clock.now().as_nanos()).unwrap_or(u64::MAX));
    result
}

impl ReadNs {
    /// A table for people.
    fn lines(&self) -> [String; 3] {
        let micros = |ns: u64| format!("{:.1} µs", ns as f64 / 1e3);
        let line = |name: &str, p50: &str, p99: &str| format!("{name:<8}{p50:>12}{p99:>12}");
        [
            line("", "p50", "p99"),
            line("memory", &micros(self.memory.p50), &micros(self.memory.p99)),
            line("disk", &micros(self.disk.p50), &micros(self.disk.p99)),
        ]
    }
}
