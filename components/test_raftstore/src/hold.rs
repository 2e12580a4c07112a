//! A filter that holds messages back.

use std::sync::Arc;

use engine_traits::KvEngine;
use kvproto::raft_serverpb::RaftMessage;
use parking_lot::Mutex;
use raftstore::store::SnapKey;
use server::{Filter, Network, Verdict};

type Predicate = Box<dyn Fn(&RaftMessage) -> bool + Send + Sync>;

/// A filter that holds messages until it is told to let them go.
pub struct Hold {
    wanted: Predicate,
    /// `None` once released.
    held: Mutex<Option<Vec<RaftMessage>>>,
}

impl Hold {
    /// Holds the messages for which `wanted` is true.
    pub fn new(wanted: impl Fn(&RaftMessage) -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { wanted: Box::new(wanted), held: Mutex::new(Some(Vec::new())) })
    }

    /// Number of messages that are held.
    pub fn len(&self) -> usize {
        self.held.lock().as_ref().map_or(0, Vec::len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Delivers what is held, in the order in which it came, and holds nothing more. A snapshot is not delivered without
    /// its files: it comes when its sender tries again.
    pub fn release<E: KvEngine>(&self, network: &Network<E>) {
        let held = self.held.lock().take().into_iter().flatten();
        for message in held.filter(|message| SnapKey::of_message(message).is_none()) {
            // A receiver that is gone loses it.
            let _ = network.deliver(message);
        }
    }
}

impl Filter for Hold {
    fn filter(&self, message: &mut RaftMessage) -> Verdict {
        match self.held.lock().as_mut() {
            Some(held) if (self.wanted)(message) => {
                held.push(std::mem::take(message));
                Verdict::Hold
            }
            _ => Verdict::Pass,
        }
    }
}
