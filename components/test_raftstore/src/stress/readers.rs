//! Reads, and what they must find.
//!
//! # What it owns
//! The ways to read, and the snapshots that are held.
//!
//! # How it works
//! A reader chooses a region, a timestamp and some rows, takes a linearizable snapshot from the leader, from memory or from
//! disk, and reads: forward, in reverse, with a limit, keys only, or one row. Each row whose value is known must be found as
//! it is known. Now and then the snapshot is kept, and must later hold the same, byte by byte.
//!
//! # Invariants
//! What is read below the safe point is not compared: it may be gone.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hasher as _},
    ops::Range,
    time::{Duration, Instant},
};

use engine_traits::{
    CacheRegion, Cf, DiskReason, FailedReason, IterBounds, Iterator as _, KvEngine, ReadSource, Snapshot,
};
use hybrid_engine::mvcc::{self, Found, MvccGet, ScanOptions, Scanner};
use kvproto::metapb::Region;
use rand::{Rng as _, rngs::SmallRng};
use txn_types::Key;

use super::{
    Stage,
    model::{BLOCKS, ROWS, Visible, encoded_key, raw_key},
};
use crate::{Kv, sim::records};

const CHECK: &str = "reads";
const HELD: &str = "held snapshots";

/// Snapshots that a reader holds.
const HELD_MAX: usize = 12;

/// For how long a snapshot is held at most. What it keeps in memory cannot be evicted meanwhile.
const HELD_FOR_MAX: Duration = Duration::from_secs(20);

type KvSnapshot = <Kv as KvEngine>::Snapshot;

struct HeldSnapshot {
    snapshot: KvSnapshot,
    region: Region,
    ts: u64,
    digest: u64,
    rows: BTreeMap<Vec<u8>, Visible>,
    until: Instant,
}

pub(super) fn run(stage: &Stage, mut rng: SmallRng) {
    let mut held: VecDeque<HeldSnapshot> = VecDeque::new();
    while !stage.is_stopped() {
        if let Err(what) = read(stage, &mut rng, &mut held) {
            stage.fail(CHECK, what);
        }
        let is_due = |held: &HeldSnapshot| held.until <= now();
        if let Some(at) = held.iter().position(is_due)
            && let Some(held) = held.remove(at)
            && let Err(what) = read_again(&held)
        {
            stage.fail(HELD, what);
        } else {
            stage.tally.raise("snapshots held at once", held.len() as u64);
        }
    }
}

fn read(stage: &Stage, rng: &mut SmallRng, held: &mut VecDeque<HeldSnapshot>) -> Result<(), String> {
    let start = rng.random_range(0..BLOCKS * ROWS);
    let Some(known) = stage.router.region_at(&key_of(start)) else { return Ok(()) };
    let last = stage.model.last_id();
    let first = (stage.model.safe_point() / 2).min(last);
    let id = if rng.random_bool(0.7) { last } else { rng.random_range(first..=last) };
    let ts = records::commit_ts(id).into_inner();
    let whole = rows_of(&known.region);
    // All of a region, or some rows from somewhere on.
    let range = if rng.random_bool(0.1) { whole } else { start..whole.end.min(start + rng.random_range(1..200)) };
    let before = stage.model.before(ts, range.clone());
    let Some(taken) = stage.router.snapshot(&known, ts) else {
        stage.tally.count("reads refused by raftstore");
        return Ok(());
    };
    if ts < stage.model.safe_point() {
        stage.tally.count("reads below the safe point");
        return Ok(());
    }
    let snapshot = taken.snapshot;
    let expected = before.expected(&stage.model);
    count_source(stage, snapshot.source());
    let described = |what: String| {
        format!("region {} at {ts}, rows {range:?}, from {:?}: {what}", known.region.get_id(), snapshot.source())
    };
    check(stage, rng, &snapshot, &range, ts, &expected).map_err(described)?;
    if held.len() < HELD_MAX && rng.random_bool(0.02) {
        let digest =
            digest(&snapshot, &CacheRegion::from_region(&known.region)).map_err(|error| format!("{error:?}"))?;
        let rows = scan(&snapshot, &rows_of(&known.region), ts, ScanOptions::default(), usize::MAX)?;
        let until = now() + HELD_FOR_MAX.mul_f64(rng.random::<f64>().powi(2));
        let name = if snapshot.source() == ReadSource::Memory { "held from memory" } else { "held from disk" };
        stage.tally.count(name);
        held.push_back(HeldSnapshot {
            snapshot,
            region: known.region,
            ts,
            digest,
            rows: rows.into_iter().collect(),
            until,
        });
    }
    Ok(())
}

fn count_source(stage: &Stage, source: ReadSource) {
    stage.tally.count(match source {
        ReadSource::Memory => "reads from memory",
        ReadSource::Disk(DiskReason::Cache(FailedReason::NotCached)) => "reads from disk, not cached",
        ReadSource::Disk(DiskReason::Cache(FailedReason::TooOldRead)) => "reads from disk, too old",
        ReadSource::Disk(DiskReason::Cache(FailedReason::EpochNotMatch)) => "reads from disk, epoch does not match",
        ReadSource::Disk(_) => "reads from disk, otherwise",
    });
}

/// Reads `range` in one way or another, and compares.
fn check(
    stage: &Stage,
    rng: &mut SmallRng,
    snapshot: &KvSnapshot,
    range: &Range<u64>,
    ts: u64,
    expected: &[(Vec<u8>, Option<Visible>)],
) -> Result<(), String> {
    let options = ScanOptions { reverse: rng.random(), key_only: rng.random_bool(0.2) };
    let limit = if rng.random_bool(0.3) { rng.random_range(1..20) } else { usize::MAX };
    if rng.random_bool(0.3) {
        return expected.iter().take(10).try_for_each(|(key, visible)| {
            let found = mvcc::get(snapshot, key, ts.into()).map_err(|error| format!("{error:?}"))?;
            stage.tally.count("gets");
            compare(stage, key, visible.as_ref(), &seen(found), false)
        });
    }
    stage.tally.count(match (options.reverse, limit == usize::MAX) {
        (false, true) => "scans forward",
        (false, false) => "scans forward with a limit",
        (true, true) => "scans in reverse",
        (true, false) => "scans in reverse with a limit",
    });
    let rows = scan(snapshot, range, ts, options, limit)?;
    let is_ordered = |pair: &[(Vec<u8>, Visible)]| (pair[0].0 < pair[1].0) != options.reverse && pair[0].0 != pair[1].0;
    if let Some(pair) = rows.windows(2).find(|pair| !is_ordered(pair)) {
        return Err(format!("{} comes before {}", pair[0].0.escape_ascii(), pair[1].0.escape_ascii()));
    }
    // What is behind the last row of a scan that was cut off is not known.
    let last = rows.last().filter(|_| rows.len() >= limit).map(|(key, _)| key.clone());
    let is_behind = |key: &[u8]| {
        last.as_ref().is_some_and(|last| if options.reverse { key < last.as_slice() } else { key > last.as_slice() })
    };
    let mut rows: BTreeMap<_, _> = rows.into_iter().collect();
    for (key, visible) in expected.iter().filter(|(key, _)| !is_behind(key)) {
        let found = rows.remove(key).unwrap_or(Visible::Nothing);
        compare(stage, key, visible.as_ref(), &found, options.key_only)?;
    }
    match rows.pop_first() {
        Some((key, found)) => Err(format!("{} is found, which is not in the range: {found:?}", key.escape_ascii())),
        None => Ok(()),
    }
}

fn compare(
    stage: &Stage,
    key: &[u8],
    expected: Option<&Visible>,
    found: &Visible,
    key_only: bool,
) -> Result<(), String> {
    let Some(expected) = expected else {
        stage.tally.count("rows undecided");
        return Ok(());
    };
    stage.tally.count(if matches!(expected, Visible::Locked(_)) { "rows compared, locked" } else { "rows compared" });
    let is_equal = match (expected, found) {
        (Visible::Value(_), Visible::Value(value)) if key_only => value.is_empty(),
        _ => expected == found,
    };
    if is_equal {
        return Ok(());
    }
    let shown = |visible: &Visible| match visible {
        Visible::Value(value) => format!("the value {}", value[..value.len().min(40)].escape_ascii()),
        other => format!("{other:?}"),
    };
    Err(format!("{} must be {}, and is {}", key.escape_ascii(), shown(expected), shown(found)))
}

fn scan(
    snapshot: &KvSnapshot,
    range: &Range<u64>,
    ts: u64,
    options: ScanOptions,
    limit: usize,
) -> Result<Vec<(Vec<u8>, Visible)>, String> {
    let failed = |error: mvcc::Error| format!("{error:?}");
    let (start, end) = (raw(range.start), raw(range.end));
    let mut scanner = Scanner::new(snapshot, &start, &end, ts.into(), options).map_err(failed)?;
    let mut rows = Vec::new();
    while rows.len() < limit
        && let Some(row) = scanner.next().map_err(failed)?
    {
        let key = Key::from_encoded(row.key.to_vec()).into_raw().map_err(|error| format!("{error:?}"))?;
        let visible = match row.found {
            Found::Value(value) => Visible::Value(value.to_vec()),
            Found::Locked(lock) => Visible::Locked(lock.ts.into_inner()),
        };
        rows.push((key, visible));
    }
    Ok(rows)
}

fn read_again(held: &HeldSnapshot) -> Result<(), String> {
    let HeldSnapshot { snapshot, region, ts, .. } = held;
    let name = format!("region {} at {ts}, from {:?}", region.get_id(), snapshot.source());
    let again = digest(snapshot, &CacheRegion::from_region(region)).map_err(|error| format!("{name}: {error:?}"))?;
    if again != held.digest {
        return Err(format!("{name}: holds something else than before"));
    }
    let options = ScanOptions { reverse: true, ..ScanOptions::default() };
    let rows: BTreeMap<_, _> = scan(snapshot, &rows_of(region), *ts, options, usize::MAX)?.into_iter().collect();
    if rows != held.rows {
        return Err(format!("{name}: is read otherwise than before, and holds the same"));
    }
    Ok(())
}

/// Of everything in the region's range, in all column families.
pub(super) fn digest(snapshot: &impl Snapshot, region: &CacheRegion) -> engine_traits::Result<u64> {
    let mut hasher = DefaultHasher::new();
    for cf in Cf::DATA {
        let mut cursor = snapshot.iter(cf, IterBounds::new(region.start.clone(), region.end.clone()))?;
        let mut is_valid = cursor.seek_to_first()?;
        while is_valid {
            for part in [cursor.key(), cursor.value()] {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
            is_valid = cursor.next()?;
        }
        hasher.write_u8(0);
    }
    Ok(hasher.finish())
}

fn seen(found: MvccGet) -> Visible {
    match found {
        MvccGet::NotFound => Visible::Nothing,
        MvccGet::Value(value) => Visible::Value(value),
        MvccGet::Locked(lock) => Visible::Locked(lock.ts.into_inner()),
    }
}

fn raw(at: u64) -> Vec<u8> {
    raw_key(at / ROWS, at % ROWS)
}

fn key_of(at: u64) -> Vec<u8> {
    encoded_key(at / ROWS, at % ROWS)
}

/// The rows in a region, which begins and ends at rows.
fn rows_of(region: &Region) -> Range<u64> {
    let at = |key: &[u8], open: u64| {
        if key.is_empty() { open } else { rank(key) }
    };
    at(region.get_start_key(), 0)..at(region.get_end_key(), BLOCKS * ROWS)
}

/// Of the row with this encoded key, or of the first row behind it.
fn rank(key: &[u8]) -> u64 {
    let (mut low, mut high) = (0, BLOCKS * ROWS);
    while low < high {
        let middle = low.midpoint(high);
        if key_of(middle).as_slice() < key {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[allow(clippy::disallowed_methods)] // Snapshots are held for real time, which other threads use.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_region_are_those_between_its_keys() {
        let mut region = Region::default();
        assert_eq!(rows_of(&region), 0..BLOCKS * ROWS);
        region.set_start_key(encoded_key(1, 5));
        region.set_end_key(encoded_key(2, 0));
        assert_eq!(rows_of(&region), ROWS + 5..2 * ROWS);
    }
}
