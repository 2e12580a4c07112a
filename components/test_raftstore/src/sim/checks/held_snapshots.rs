//! A snapshot that is held never changes, whatever happens to its region meanwhile.
//!
//! Source: DESIGN §6, "GC keeps, for each live snapshot, what it can see"; tikv/tikv#17282. What a snapshot holds is summed
//! up when it is taken, and again when it is let go, after writes, garbage collection, splits and evictions.

use engine_traits::{Cf, IterBounds, Iterator as _, Snapshot};
use in_memory_engine::RegionCacheSnapshot;

use super::{Checked, Violation};

const NAME: &str = "held-snapshots";

/// Of all that `snapshot` holds.
pub(in crate::sim) fn checksum(snapshot: &RegionCacheSnapshot) -> Checked<u32> {
    checksum_if(snapshot, |_, _| Ok(true))
}

/// Of `snapshot` as it would be if garbage collection did not respect it: without the versions that have gone from the same
/// region since, as `now` shows it. What else removes records of the write column family is the deletion of a range.
pub(in crate::sim) fn checksum_of_what_is_left(
    snapshot: &RegionCacheSnapshot,
    now: &RegionCacheSnapshot,
) -> Checked<u32> {
    checksum_if(snapshot, |cf, key| Ok(cf != Cf::Write || now.get_value(cf, key)?.is_some()))
}

fn checksum_if(
    snapshot: &RegionCacheSnapshot,
    is_left: impl Fn(Cf, &[u8]) -> engine_traits::Result<bool>,
) -> Checked<u32> {
    let region = snapshot.region();
    let fail = |error: engine_traits::Error| Violation::new(NAME, format!("{region}: {error:?}"));
    let mut sum = crc32fast::Hasher::new();
    for cf in Cf::DATA {
        let bounds = IterBounds::new(region.start.clone(), region.end.clone());
        let mut cursor = snapshot.iter(cf, bounds).map_err(fail)?;
        let mut is_valid = cursor.seek_to_first().map_err(fail)?;
        while is_valid {
            if is_left(cf, cursor.key()).map_err(fail)? {
                sum.update(cursor.key());
                sum.update(cursor.value());
            }
            is_valid = cursor.next().map_err(fail)?;
        }
    }
    Ok(sum.finalize())
}

/// `found` is the checksum now, `taken` the one from when `snapshot` was taken.
pub(in crate::sim) fn check(store_id: u64, snapshot: &RegionCacheSnapshot, found: u32, taken: u32) -> Checked {
    if found == taken {
        return Ok(());
    }
    Err(Violation::new(NAME, format!("store {store_id}: a snapshot of {} has changed", snapshot.region())))
}
