//! What the cache returns equals what the disk returns at the same moment.
//!
//! Source: DESIGN §6, "the one rule". Compared is everything that can be read of an active region, in all column
//! families that hold data, byte by byte, whether or not somebody reads it now. A snapshot is compared again later, with
//! the disk's of the same moment: neither may change.

use engine_traits::{Cf, IterBounds, Iterator as _, KvEngine, Snapshot};
use in_memory_engine::{RegionCacheSnapshot, RegionState};

use super::{Checked, Violation};
use crate::sim::engine::SimEngine;

const NAME: &str = "cache-equals-disk";

/// All regions that are active on a store.
pub(in crate::sim) fn check(store_id: u64, engine: &SimEngine) -> Checked {
    let active: Vec<_> =
        engine.cache().regions().into_iter().filter(|status| status.state == RegionState::Active).collect();
    if active.is_empty() {
        return Ok(());
    }
    let disk = engine.disk().snapshot();
    for status in active {
        let Ok(memory) = engine.cache().snapshot(&status.region, u64::MAX) else { continue };
        compare(store_id, &memory, &disk)?;
    }
    Ok(())
}

pub(in crate::sim) fn compare(store_id: u64, memory: &RegionCacheSnapshot, disk: &impl Snapshot) -> Checked {
    let region = memory.region();
    let fail = |what: String| Violation::new(NAME, format!("store {store_id}, {region}: {what}"));
    for cf in Cf::DATA {
        let bounds = IterBounds::new(region.start.clone(), region.end.clone());
        let mut memory = memory.iter(cf, bounds.clone()).map_err(|e| fail(format!("{e:?}")))?;
        let mut disk = disk.iter(cf, bounds).map_err(|e| fail(format!("{e:?}")))?;
        let mut is_in_memory = memory.seek_to_first().map_err(|e| fail(format!("{e:?}")))?;
        let mut is_on_disk = disk.seek_to_first().map_err(|e| fail(format!("{e:?}")))?;
        loop {
            match (is_in_memory, is_on_disk) {
                (false, false) => break,
                (true, true) if memory.key() == disk.key() && memory.value() == disk.value() => {}
                _ => {
                    let key = if is_on_disk { disk.key() } else { memory.key() };
                    return Err(fail(format!("{cf}: memory and disk part at {}", key.escape_ascii())));
                }
            }
            is_in_memory = memory.next().map_err(|e| fail(format!("{e:?}")))?;
            is_on_disk = disk.next().map_err(|e| fail(format!("{e:?}")))?;
        }
    }
    Ok(())
}
