//! A client that goes where the placement says, as clients of a real cluster do.

use std::time::Duration;

use engine_traits::{Cf, KvEngine, Snapshot};
use kvproto::{metapb::Region, raft_cmdpb::RaftCmdResponse};
use placement::PlacementHandle;
use raftstore::{
    Error,
    store::{RegionSnapshot, StoreHandle},
};

use server::Network;

use crate::{cluster::Kv, requests, wait};

/// Time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Reads and writes keys in whichever region they are, on whichever store leads it. Needs no [`Cluster`](crate::Cluster)
/// at hand, so that stores may be stopped and started meanwhile.
#[derive(Clone)]
pub struct Client {
    network: Network<Kv>,
    placement: PlacementHandle,
}

impl Client {
    pub(crate) fn new(network: Network<Kv>, placement: PlacementHandle) -> Self {
        Self { network, placement }
    }

    /// Writes through Raft; tries again as long as that may help. A write that is tried again may be carried out twice.
    ///
    /// # Panics
    /// When that is not possible within the deadline.
    #[track_caller]
    pub fn must_put(&self, key: &[u8], value: &[u8]) {
        let put = |store: &StoreHandle<Kv>, region: &Region| {
            let command = requests::write(region, vec![requests::put(Cf::Default, key, value)]);
            accepted(store.execute(command, ATTEMPT))
        };
        self.must("a write to be acknowledged", key, put);
    }

    /// What a linearizable read finds.
    ///
    /// # Panics
    /// When there is no answer within the deadline.
    #[track_caller]
    pub fn must_get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let read = |store: &StoreHandle<Kv>, region: &Region| {
            let found: RegionSnapshot<<Kv as KvEngine>::Snapshot> =
                store.snapshot(requests::header(region), u64::MAX, ATTEMPT).map_err(|error| error.to_string())?;
            Ok(found.snapshot.get_value(Cf::Default, &keys::data_key(key)).expect("the engine reads"))
        };
        self.must("a read to be answered", key, read)
    }

    #[track_caller]
    fn must<T>(&self, what: &str, key: &[u8], attempt: impl Fn(&StoreHandle<Kv>, &Region) -> Result<T, String>) -> T {
        let mut last_error = None;
        let done = wait::within(wait::DEADLINE, || {
            let known = self.placement.with(|placement| placement.directory().region_at(key).cloned()).ok()??;
            let store = self.network.store(known.leader.get_store_id())?;
            attempt(&store, &known.region).map_err(|error| last_error = Some(error)).ok()
        });
        done.unwrap_or_else(|| panic!("timed out waiting for {what}, key {key:?}, last error {last_error:?}"))
    }
}

fn accepted(answer: Result<RaftCmdResponse, Error>) -> Result<(), String> {
    let mut response = answer.map_err(|error| error.to_string())?;
    if response.get_header().has_error() { Err(response.mut_header().take_error().take_message()) } else { Ok(()) }
}
