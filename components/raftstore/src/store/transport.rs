//! How messages leave a store.

use kvproto::raft_serverpb::RaftMessage;

use crate::Result;

/// Sends Raft messages to other stores. Losing one is allowed; blocking is not.
pub trait Transport: Send + Clone {
    /// Queues `message` for the store of its `to_peer`.
    ///
    /// # Errors
    /// When it is known at once that the message will not arrive.
    fn send(&mut self, message: RaftMessage) -> Result<()>;
}
