//! What is wanted stays wanted until it ends, and it does end.
//!
//! Source: DESIGN §4, I4: an intent ends warm, expired, superseded, with its peer, or withdrawn, and only pinned ranges
//! have no deadline. (That a request ends is what `answers` looks at.)

use preload_observer::core::{PeerState, RegionStatus, SnapshotPhase, Source};

use super::{Checked, Violation};

const NAME: &str = "intents-end (I4)";

/// A region that is pinned.
pub(in crate::sim) fn check_pinned(store_id: u64, region_id: u64, status: &RegionStatus) -> Checked {
    let is_loadable =
        matches!(status.peer, PeerState::Initialized(_)) && matches!(status.snapshot, SnapshotPhase::Idle);
    if status.is_leader && is_loadable && status.wanted.is_none() {
        return Err(Violation::new(NAME, format!("store {store_id}: pinned region {region_id} is not wanted")));
    }
    Ok(())
}

/// After a time without requests nothing is wanted but what is pinned.
pub(in crate::sim) fn check_end(
    store_id: u64,
    parked: usize,
    mut wanted: impl Iterator<Item = (u64, Source, bool)>,
) -> Checked {
    let for_ever = wanted.find(|(_, source, is_pinned)| *source != Source::Pinned || !is_pinned);
    if parked == 0 && for_ever.is_none() {
        return Ok(());
    }
    Err(Violation::new(NAME, format!("store {store_id}: {parked} requests wait, {for_ever:?} is wanted, for ever")))
}
