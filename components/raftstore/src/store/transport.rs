//! How messages and the files of snapshots leave a store.

use kvproto::raft_serverpb::{RaftMessage, SnapshotChunk};

use crate::Result;

/// Sends Raft messages to other stores. Losing one is allowed; blocking is not.
pub trait Transport: Send + Clone {
    /// Queues `message` for the store of its `to_peer`.
    ///
    /// # Errors
    /// When it is known at once that the message will not arrive.
    fn send(&mut self, message: RaftMessage) -> Result<()>;
}

/// Carries the files of snapshots to other stores. Called on threads that may wait.
///
/// The chunks of one stream arrive in the order in which they were sent and each once, or the stream is broken: then every
/// further exchange on it fails.
pub trait SnapshotTransport: Send + Clone {
    /// Hands a chunk to the [snapshot receiver](super::StoreHandle::receive_chunk) of store `to_store` and waits for its
    /// answer.
    ///
    /// # Errors
    /// When no answer comes. The chunk may have arrived.
    fn exchange(&mut self, to_store: u64, stream: StreamId, chunk: SnapshotChunk) -> Result<ChunkAnswer>;
}

/// Identifies the chunks of one transfer among all that a store receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    pub from_store: u64,
    /// The sender uses a number once.
    pub number: u64,
}

/// What the receiver of a snapshot says to a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkAnswer {
    /// Go on here: a position in the snapshot's files, put one after another, at which a block begins.
    Want { position: u64 },
    /// All files are here and the message has been handed to the store.
    Done,
    /// Not now: the same snapshot may be sent again. Says why.
    Busy(String),
    /// What arrived is not what was announced, and all of it was thrown away. Says why.
    Broken(String),
}
