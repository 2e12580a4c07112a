//! Runs the core on a thread.
//!
//! # How it works
//! At each interval the thread asks the stores for the status of their peers, gives it to the core as heartbeats, lets
//! the time pass, and carries out what comes back. Whoever wants something calls a [`PlacementHandle`], which asks the
//! core at once, and waits for the end of the operator on a channel.
//!
//! # Invariants
//! The core's lock is never held while a store is asked or sent to.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use kvproto::{raft_cmdpb::RaftCmdRequest, raft_serverpb::RaftMessage};
use parking_lot::Mutex;
use raftstore::store::PeerStatus;
use tikv_util::{
    time::{Clock, MonotonicClock},
    worker::{Builder, Runnable, Worker},
};

use crate::{Effect, Error, Keep, NewRegion, OperatorId, Placement, RegionHeartbeat, Request, Result, StoreState};

/// Gets the reason when a command is refused, and is dropped uncalled when not. It must be quick to call.
pub type RefusalCallback = Box<dyn FnOnce(String) + Send>;

/// The stores that the placement is for, as far as they can be reached.
pub trait Stores: Send + 'static {
    /// The stores that answer, and their peers. It may block for a while, but not for ever.
    fn statuses(&self) -> Vec<(u64, Vec<PeerStatus>)>;

    /// Sends a command to a store, or loses it.
    fn command(&self, store_id: u64, command: RaftCmdRequest, refused: RefusalCallback);

    /// Delivers a message to the store that it is for, or loses it.
    fn deliver(&self, message: RaftMessage);
}

/// A placement that runs. Dropping it stops it; operators that run then end with [`Error::Stopped`].
pub struct Driver {
    handle: PlacementHandle,
    _worker: Worker<()>,
}

impl Driver {
    /// Asks the stores every `interval`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(placement: Placement, stores: impl Stores, interval: Duration) -> io::Result<Self> {
        let shared = Arc::new(Mutex::new(Some(Shared { placement, waiting: HashMap::new() })));
        let (refused, refusals) = unbounded();
        let runner = Runner { shared: shared.clone(), stores, clock: MonotonicClock::new(), refused, refusals };
        let worker = Builder::new("placement").tick_interval(interval).start(runner)?;
        Ok(Self { handle: PlacementHandle { shared }, _worker: worker })
    }

    pub fn handle(&self) -> &PlacementHandle {
        &self.handle
    }
}

struct Shared {
    placement: Placement,
    waiting: HashMap<OperatorId, Sender<Result<()>>>,
}

/// Talks to a placement. Clones talk to the same one, from any thread.
#[derive(Clone)]
pub struct PlacementHandle {
    /// `None` once stopped.
    shared: Arc<Mutex<Option<Shared>>>,
}

impl PlacementHandle {
    /// Starts an operator.
    ///
    /// # Errors
    /// See [`Placement::start`]; [`Error::Stopped`].
    pub fn start(&self, request: Request) -> Result<OperatorHandle> {
        self.begin(|placement| placement.start(request))
    }

    /// Adds a voter.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn add_peer(&self, region_id: u64, store_id: u64) -> Result<OperatorHandle> {
        self.start(Request::AddPeer { region_id, store_id })
    }

    /// Removes a peer that is not needed to keep two voters.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn remove_peer(&self, region_id: u64, store_id: u64) -> Result<OperatorHandle> {
        self.start(Request::RemovePeer { region_id, store_id, keep: Keep::TwoVoters })
    }

    /// Moves a peer of a region that has at least two voters.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn replace_peer(&self, region_id: u64, from_store: u64, to_store: u64) -> Result<OperatorHandle> {
        self.start(Request::ReplacePeer { region_id, from_store, to_store, keep: Keep::TwoVoters })
    }

    /// # Errors
    /// As [`start`](Self::start).
    pub fn transfer_leader(&self, region_id: u64, to_store: u64) -> Result<OperatorHandle> {
        self.start(Request::TransferLeader { region_id, to_store })
    }

    /// Splits at ascending keys; [`OperatorHandle::new_regions`] are below them.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn split(&self, region_id: u64, keys: &[&[u8]]) -> Result<OperatorHandle> {
        self.start(Request::Split { region_id, keys: keys.iter().map(|key| key.to_vec()).collect() })
    }

    /// Merges a region into an adjacent one.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn merge(&self, source_id: u64, target_id: u64) -> Result<OperatorHandle> {
        self.start(Request::Merge { source_id, target_id, keep: Keep::TwoVoters })
    }

    /// See [`Placement::evict_leaders`].
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn evict_leaders(&self, store_id: u64) -> Result<OperatorHandle> {
        self.begin(|placement| Ok(placement.evict_leaders(store_id)))
    }

    /// See [`Placement::stop_evicting`].
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn stop_evicting(&self, store_id: u64) -> Result<()> {
        self.with(|placement| placement.stop_evicting(store_id))
    }

    /// # Errors
    /// [`Error::Stopped`].
    pub fn set_store_state(&self, store_id: u64, state: StoreState) -> Result<()> {
        self.with(|placement| placement.set_store_state(store_id, state))
    }

    /// Looks at the placement, or does something with it. `look` runs under the lock and must not block.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn with<T>(&self, look: impl FnOnce(&mut Placement) -> T) -> Result<T> {
        let mut shared = self.shared.lock();
        Ok(look(&mut shared.as_mut().ok_or(Error::Stopped)?.placement))
    }

    fn begin(&self, start: impl FnOnce(&mut Placement) -> Result<OperatorId>) -> Result<OperatorHandle> {
        let mut shared = self.shared.lock();
        let Shared { placement, waiting } = shared.as_mut().ok_or(Error::Stopped)?;
        let id = start(placement)?;
        let (sender, outcome) = bounded(1);
        waiting.insert(id, sender);
        Ok(OperatorHandle { id, new_regions: placement.new_regions(id).to_vec(), outcome })
    }
}

/// Waits for an operator.
pub struct OperatorHandle {
    id: OperatorId,
    new_regions: Vec<NewRegion>,
    outcome: Receiver<Result<()>>,
}

impl OperatorHandle {
    pub fn id(&self) -> OperatorId {
        self.id
    }

    /// What a split makes, in the order of the keys; empty for another operator.
    pub fn new_regions(&self) -> &[NewRegion] {
        &self.new_regions
    }

    /// Waits for the end of the operator. Its outcome is told once.
    ///
    /// # Errors
    /// The operator's, [`Error::StillRunning`] or [`Error::Stopped`].
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        self.outcome.recv_timeout(timeout).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Timeout => Error::StillRunning { operator: self.id, waited: timeout },
                RecvTimeoutError::Disconnected => Error::Stopped,
            })
        })
    }
}

struct Runner<S> {
    shared: Arc<Mutex<Option<Shared>>>,
    stores: S,
    clock: MonotonicClock,
    refused: Sender<(OperatorId, String)>,
    refusals: Receiver<(OperatorId, String)>,
}

impl<S: Stores> Runnable<()> for Runner<S> {
    fn run(&mut self, (): ()) {}

    fn on_timeout(&mut self) {
        let statuses = self.stores.statuses();
        let now = self.clock.now();
        let effects = {
            let mut shared = self.shared.lock();
            let Some(Shared { placement, .. }) = shared.as_mut() else { return };
            for (operator, reason) in self.refusals.try_iter() {
                placement.on_refused(operator, &reason);
            }
            for (store_id, peers) in &statuses {
                let leaders = peers.iter().filter_map(|status| RegionHeartbeat::of(*store_id, status));
                leaders.for_each(|heartbeat| placement.on_region_heartbeat(heartbeat));
            }
            for (store_id, peers) in &statuses {
                placement.on_store_heartbeat(now, *store_id, peers);
            }
            placement.tick(now);
            placement.take_effects()
        };
        for effect in effects {
            match effect {
                Effect::Command { operator, store_id, request } => {
                    let refused = self.refused.clone();
                    let refused = Box::new(move |reason| drop(refused.send((operator, reason))));
                    self.stores.command(store_id, *request, refused);
                }
                Effect::Tell(message) => self.stores.deliver(*message),
                Effect::Ended { operator, outcome } => {
                    let waiting = self.shared.lock().as_mut().and_then(|shared| shared.waiting.remove(&operator));
                    // Nobody waits for what the placement does by itself, and somebody may have given up.
                    waiting.map(|waiting| waiting.send(outcome));
                }
            }
        }
    }

    fn shutdown(&mut self) {
        *self.shared.lock() = None;
    }
}
