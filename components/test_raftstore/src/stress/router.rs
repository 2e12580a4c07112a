//! The way to a key.
//!
//! # What it owns
//! Whom a command or a read is sent to, and when it is sent again.
//!
//! # Invariants
//! A command that was answered with a refusal is not carried out afterwards, or it is carried out before the one that is
//! sent next: both are in one log. One that got no answer in time may be carried out at any time.

use std::time::Duration;

use engine_traits::KvEngine;
use kvproto::{errorpb, metapb::Region, raft_cmdpb::Request};
use placement::{PlacementHandle, RegionHeartbeat};
use raftstore::store::{RegionSnapshot, region::contains_key};
use server::Network;

use crate::{Kv, requests, wait};

/// No store takes so long for anything, but one on a machine that stands still.
const ANSWER: Duration = Duration::from_secs(20);

/// For how long a command is sent again.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Router {
    network: Network<Kv>,
    pub(super) placement: PlacementHandle,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Acknowledged,
    Unknown,
}

impl Router {
    pub(super) fn new(network: Network<Kv>, placement: PlacementHandle) -> Self {
        Self { network, placement }
    }

    /// The region that holds an encoded key, as its leader has reported it last.
    pub(super) fn region_at(&self, key: &[u8]) -> Option<RegionHeartbeat> {
        self.placement.with(|placement| placement.directory().region_at(key).cloned()).ok()?
    }

    pub(super) fn regions(&self) -> Vec<RegionHeartbeat> {
        self.placement.with(|placement| placement.directory().regions().cloned().collect()).unwrap_or_default()
    }

    /// Writes what is to be written under each encoded key, in as many commands as there are regions.
    pub(super) fn write(&self, mut rows: Vec<(Vec<u8>, Vec<Request>)>) -> Sent {
        let sent = wait::within(PATIENCE, || {
            while let Some((first, _)) = rows.first() {
                let known = self.region_at(first)?;
                let is_there = |(key, _): &(Vec<u8>, Vec<Request>)| contains_key(&known.region, key);
                let requests = rows.iter().filter(|row| is_there(row)).flat_map(|(_, r)| r.clone()).collect();
                match self.execute(&known, requests) {
                    Some(Sent::Acknowledged) => rows.retain(|row| !is_there(row)),
                    Some(Sent::Unknown) => return Some(Sent::Unknown),
                    None => return None,
                }
            }
            Some(Sent::Acknowledged)
        });
        sent.unwrap_or(Sent::Unknown)
    }

    /// Deletes by range what is between two encoded keys, region by region.
    pub(super) fn delete_range(&self, from: &[u8], to: &[u8], delete: impl Fn(&[u8], &[u8]) -> Vec<Request>) -> Sent {
        let mut from = from.to_vec();
        let sent = wait::within(PATIENCE, || {
            while from.as_slice() < to {
                let known = self.region_at(&from)?;
                let end = match known.region.get_end_key() {
                    [] => to,
                    end => end.min(to),
                };
                match self.execute(&known, delete(&from, end)) {
                    Some(Sent::Acknowledged) => from = end.to_vec(),
                    Some(Sent::Unknown) => return Some(Sent::Unknown),
                    None => return None,
                }
            }
            Some(Sent::Acknowledged)
        });
        sent.unwrap_or(Sent::Unknown)
    }

    /// `None` when it was refused and is to be sent again.
    fn execute(&self, known: &RegionHeartbeat, requests: Vec<Request>) -> Option<Sent> {
        let store = self.network.store(known.leader.get_store_id())?;
        match store.execute(requests::write(&known.region, requests), ANSWER) {
            Ok(response) if response.get_header().has_error() => {
                let error: &errorpb::Error = response.get_header().get_error();
                let is_final = error.has_raft_entry_too_large() || error.has_key_not_in_region();
                assert!(!is_final, "what the stress sends can be carried out: {error:?}");
                None
            }
            Ok(_) => Some(Sent::Acknowledged),
            Err(_) => Some(Sent::Unknown),
        }
    }

    /// A linearizable snapshot of a region; `None` when it is refused.
    pub(super) fn snapshot(
        &self,
        known: &RegionHeartbeat,
        ts: u64,
    ) -> Option<RegionSnapshot<<Kv as KvEngine>::Snapshot>> {
        let store = self.network.store(known.leader.get_store_id())?;
        store.snapshot(requests::header(&known.region), ts, ANSWER).ok()
    }

    /// Whether two regions lie side by side, the first one first.
    pub(super) fn are_adjacent(left: &Region, right: &Region) -> bool {
        !left.get_end_key().is_empty() && left.get_end_key() == right.get_start_key()
    }
}
