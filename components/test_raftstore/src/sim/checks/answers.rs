//! Each request gets at least one answer and exactly one final one, in time, and it is true.
//!
//! Source: DESIGN §4, I3. Answers are counted where the plugin hands them to its transport: what the network does
//! to them afterwards is not the plugin's fault. A crash of the store that was asked ends the matter.
//!
//! A request that comes again while it waits is the same request. The plugin may have a final answer ready that it has
//! not sent when the request comes again; the simulation lets it send that first, so that here "open" is exact.

use std::{collections::BTreeMap, time::Duration};

use in_memory_engine::RegionState;
use kvproto::raft_serverpb::RaftMessage;

use super::{Checked, Violation};
use crate::sim::surroundings::answer_kind;

const NAME: &str = "answers (I3)";

/// The store that was asked, the region, the sender and the target, by peer and store.
pub(in crate::sim) type Key = (u64, u64, (u64, u64), (u64, u64));

#[derive(Default)]
pub(in crate::sim) struct Answers {
    /// Requests without a final answer, and since when.
    open: BTreeMap<Key, Duration>,
}

fn address(peer: &kvproto::metapb::Peer) -> (u64, u64) {
    (peer.get_id(), peer.get_store_id())
}

pub(in crate::sim) fn key_of_request(store_id: u64, message: &RaftMessage) -> Key {
    (store_id, message.get_region_id(), address(message.get_from_peer()), address(message.get_to_peer()))
}

impl Answers {
    pub(in crate::sim) fn is_open(&self, key: &Key) -> bool {
        self.open.contains_key(key)
    }

    /// A request reached the plugin. One without a sender is not answered.
    pub(in crate::sim) fn on_request(&mut self, key: Key, now: Duration) {
        let (.., from, _) = key;
        if from.0 != 0 && from.1 != 0 {
            self.open.entry(key).or_insert(now);
        }
    }

    /// The plugin of `store_id` sends `message`.
    pub(in crate::sim) fn on_sent(&mut self, store_id: u64, message: &RaftMessage) -> Checked {
        let Some(kind) = answer_kind(message) else { return Ok(()) };
        let key = (store_id, message.get_region_id(), address(message.get_to_peer()), address(message.get_from_peer()));
        let was_open = if kind.is_final() { self.open.remove(&key).is_some() } else { self.open.contains_key(&key) };
        if was_open {
            return Ok(());
        }
        Err(Violation::new(NAME, format!("store {store_id} answers {kind:?} to {key:?}, which is not open")))
    }

    pub(in crate::sim) fn on_crash(&mut self, store_id: u64) {
        self.open.retain(|(asked, ..), _| *asked != store_id);
    }

    /// `patience` is how long a request may wait.
    pub(in crate::sim) fn check_time(&self, now: Duration, patience: Duration) -> Checked {
        match self.open.iter().find(|(_, since)| now.saturating_sub(**since) > patience) {
            Some((key, since)) => {
                Err(Violation::new(NAME, format!("{key:?} has no final answer since {since:?}, it is {now:?}")))
            }
            None => Ok(()),
        }
    }
}

/// "Warm" was said of a region that is not.
pub(in crate::sim) fn cold_region_is_called_warm(message: &RaftMessage, state: Option<RegionState>) -> Violation {
    Violation::new(NAME, format!("region {} is called warm, the cache has {state:?}", message.get_region_id()))
}
