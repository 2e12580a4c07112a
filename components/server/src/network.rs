//! The network between the stores of one process.
//!
//! # What it owns
//! Which stores can be reached, and the filters that tests interfere with.
//!
//! # How it works
//! A message is shown to the filters in the order in which they were added, on the sender's thread; what passes all of
//! them is put into the receiver's inbox. A store that is not running loses what is sent to it. A node has no filters.
//!
//! # Invariants
//! - Messages between two stores arrive in the order in which they were sent, except for those that a filter holds.
//! - The files of a snapshot travel only if the message that goes ahead of them passes the filters. Of a transfer that was
//!   not let through the sender is told, unlike of a message, and it tries again.
//!
//! # What it must not do
//! Wait for a receiver, except for the answer to a block of a snapshot.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use engine_traits::KvEngine;
use kvproto::{
    raft_cmdpb::{RaftCmdRequest, RaftCmdResponse},
    raft_serverpb::{RaftMessage, SnapshotChunk},
};
use parking_lot::RwLock;
use placement::RefusalCallback;
use raftstore::{
    Error, Result,
    store::{ChunkAnswer, PeerStatus, SnapshotTransport, StoreHandle, StreamId, Transport},
};

/// A receiver that takes longer over a block counts as gone.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a filter does with a message.
pub enum Verdict {
    Pass,
    /// Lost. The sender does not notice.
    Drop,
    /// Kept by the filter; the sender thinks that it is on its way.
    Hold,
}

/// Interferes with messages. Called on the senders' threads.
pub trait Filter: Send + Sync {
    /// May change `message`.
    fn filter(&self, message: &mut RaftMessage) -> Verdict;

    /// Is shown the data of a snapshot on its way to a store, block by block. May change it; whether it arrives.
    fn filter_data(&self, _to_store: u64, _data: &mut Vec<u8>) -> bool {
        true
    }
}

impl<F: Fn(&mut RaftMessage) -> Verdict + Send + Sync> Filter for F {
    fn filter(&self, message: &mut RaftMessage) -> Verdict {
        self(message)
    }
}

/// A handle: clones share one network.
pub struct Network<E: KvEngine>(Arc<Inner<E>>);

struct Inner<E: KvEngine> {
    stores: RwLock<BTreeMap<u64, StoreHandle<E>>>,
    filters: RwLock<Vec<Arc<dyn Filter>>>,
}

impl<E: KvEngine> Clone for Network<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E: KvEngine> Default for Network<E> {
    fn default() -> Self {
        Self(Arc::new(Inner { stores: RwLock::default(), filters: RwLock::default() }))
    }
}

impl<E: KvEngine> Network<E> {
    pub fn connect(&self, store: StoreHandle<E>) {
        self.0.stores.write().insert(store.store_id(), store);
    }

    pub fn disconnect(&self, store_id: u64) {
        self.0.stores.write().remove(&store_id);
    }

    /// The store, if it is connected.
    pub fn store(&self, store_id: u64) -> Option<StoreHandle<E>> {
        self.0.stores.read().get(&store_id).cloned()
    }

    pub fn transport(&self) -> NetworkTransport<E> {
        NetworkTransport(self.clone())
    }

    pub fn add_filter(&self, filter: Arc<dyn Filter>) {
        self.0.filters.write().push(filter);
    }

    /// Takes all filters away. What they hold stays with them.
    pub fn clear_filters(&self) {
        self.0.filters.write().clear();
    }

    /// Sends as a store would.
    ///
    /// # Errors
    /// When the receiver is not connected.
    pub fn send(&self, mut message: RaftMessage) -> Result<()> {
        if self.passes(&mut message) { self.deliver(message) } else { Ok(()) }
    }

    /// Whether `message` passes all filters.
    fn passes(&self, message: &mut RaftMessage) -> bool {
        self.0.filters.read().iter().all(|filter| matches!(filter.filter(message), Verdict::Pass))
    }

    /// Puts `message` into its receiver's inbox, past all filters.
    ///
    /// # Errors
    /// When the receiver is not connected.
    pub fn deliver(&self, message: RaftMessage) -> Result<()> {
        self.store(message.get_to_peer().get_store_id()).ok_or(Error::Stopped)?.deliver(message)
    }
}

/// For so long one store may keep the placement from looking at the others.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// The placement's way to the stores leads past all filters: they are for what stores send.
impl<E: KvEngine> placement::Stores for Network<E> {
    fn statuses(&self) -> Vec<(u64, Vec<PeerStatus>)> {
        let stores: Vec<StoreHandle<E>> = self.0.stores.read().values().cloned().collect();
        let status = |store: StoreHandle<E>| Some((store.store_id(), store.statuses(STATUS_TIMEOUT).ok()?));
        stores.into_iter().filter_map(status).collect()
    }

    fn command(&self, store_id: u64, command: RaftCmdRequest, refused: RefusalCallback) {
        if let Some(store) = self.store(store_id) {
            let answer = move |mut response: RaftCmdResponse| {
                if response.get_header().has_error() {
                    refused(response.mut_header().take_error().take_message());
                }
            };
            // A store that has stopped loses it.
            let _ = store.command(command, Box::new(answer));
        }
    }

    fn deliver(&self, message: RaftMessage) {
        let _ = Network::deliver(self, message);
    }
}

/// A [`Network`] as a store's transport.
pub struct NetworkTransport<E: KvEngine>(Network<E>);

impl<E: KvEngine> Clone for NetworkTransport<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E: KvEngine> Transport for NetworkTransport<E> {
    fn send(&mut self, message: RaftMessage) -> Result<()> {
        self.0.send(message)
    }
}

impl<E: KvEngine> SnapshotTransport for NetworkTransport<E> {
    fn exchange(&mut self, to_store: u64, stream: StreamId, mut chunk: SnapshotChunk) -> Result<ChunkAnswer> {
        let passes = if chunk.has_message() {
            self.0.passes(chunk.mut_message())
        } else {
            self.0.0.filters.read().iter().all(|filter| filter.filter_data(to_store, chunk.mut_data()))
        };
        if !passes {
            return Err(Error::Stopped);
        }
        self.0.store(to_store).ok_or(Error::Stopped)?.receive_chunk(stream, chunk, EXCHANGE_TIMEOUT)
    }
}
