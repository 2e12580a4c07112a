//! Memory against disk.
//!
//! # What it owns
//! The comparison of what a cache holds with the disk of the same moment, and the watch over its memory.
//!
//! # How it works
//! The disk is snapshotted before and after the cache is. If the region is the same in both, it was so in between, and the
//! cache must hold just that, but for garbage. If not, it has been written to meanwhile, and another try follows. A write
//! reaches the disk first, so one that the first snapshot holds may still be on its way to the cache: a deletion of nothing,
//! which waits for its turn in the region, waits for that. This is done on every store: followers' caches count as well.

use engine_traits::{Cf, KvEngine as _, WriteBatch};
use in_memory_engine::RegionState;
use rand::{rngs::SmallRng, seq::IndexedRandom as _};

use super::{Stage, readers::digest};
use crate::sim::compare_with_disk;

const CHECK: &str = "memory and disk";

pub(super) fn run(stage: &Stage, mut rng: SmallRng) {
    while !stage.is_stopped() {
        let compared = audit_one(stage, &mut rng);
        match compared {
            Ok(true) => stage.tally.count("comparisons with the disk"),
            Ok(false) => stage.tally.count("comparisons given up, written meanwhile"),
            Err(what) => stage.fail(CHECK, what),
        }
        watch_memory(stage);
    }
}

/// Whether a comparison was possible.
fn audit_one(stage: &Stage, rng: &mut SmallRng) -> Result<bool, String> {
    let at: Vec<_> = (1..).zip(&stage.stores).collect();
    let Some((store_id, kv)) = at.choose(rng) else { return Ok(false) };
    let mut regions = kv.cache().regions();
    regions.retain(|status| status.state == RegionState::Active);
    let Some(status) = regions.choose(rng) else { return Ok(false) };
    let failed = |error: engine_traits::Error| format!("store {store_id}: {error:?}");
    let before = kv.disk().snapshot();
    let mut barrier = WriteBatch::new();
    barrier.delete(Cf::Lock, &[status.region.start.as_slice(), b"\0"].concat());
    kv.write(&barrier).map_err(failed)?;
    let Ok(memory) = kv.cache().snapshot(&status.region, u64::MAX) else { return Ok(false) };
    let after = kv.disk().snapshot();
    if digest(&before, &status.region).map_err(failed)? != digest(&after, &status.region).map_err(failed)? {
        return Ok(false);
    }
    compare_with_disk(*store_id, &memory, &before).map_err(|violation| violation.what)?;
    Ok(true)
}

/// The hard limit holds at any time.
pub(super) fn watch_memory(stage: &Stage) {
    for (store_id, kv) in (1..).zip(&stage.stores) {
        let (used, capacity) = (kv.cache().usage_bytes(), kv.cache().limits().capacity_bytes);
        stage.tally.raise("most memory used, bytes", used as u64);
        if used > capacity {
            stage.fail("capacity", format!("store {store_id}: {used} bytes are used, the capacity is {capacity}"));
        }
    }
}
