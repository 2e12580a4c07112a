//! The store as a state machine: inputs in, effects out.
//!
//! # What it owns
//! All peers of one store, from the first message that mentions them to their tombstone.
//!
//! # How it works
//! 1. A driver feeds [`Input`]s to [`Store::handle`]. Each changes the peer that it concerns, and marks it.
//! 2. [`Store::finish`] asks raft-rs once per marked peer what there is to do and returns all of it as [`Effect`]s: one
//!    batch of inputs leads to one batch of effects, which is what makes group commit across regions possible.
//! 3. The driver carries the effects out and feeds their answers back as inputs.
//!
//! One concept per file: [`absorb`] has a region take over another one's range, [`command`] proposes and answers,
//! [`compact_log`] keeps logs short, [`destroy`] ends a peer, [`membership`] follows a change of the region's peers, [`merge`]
//! decides what becomes of a merge, [`message`] lets messages in and creates peers, [`read`] serves linearizable reads,
//! [`ready`] turns what raft-rs wants into effects, [`snapshot`] brings one in, [`snapshot_offer`] knows those for others,
//! [`split`] makes peers of new regions, [`stale_peer`] asks whether a peer is still a member, [`transfer`] moves leadership.
//!
//! # Invariants
//! - No message leaves before what it promises is durable.
//! - Key ranges of initialized peers never overlap; a region has at most one peer here.
//! - Observers are told of everything that [`crate::coprocessor`] lists, on the thread that calls `handle` or `finish`.
//!
//! # What it must not do
//! Write, send, wait, read a clock, draw random numbers. It reads the log through [`LogStore`], as raft-rs demands, and
//! syncs what it finds when it starts.

mod absorb;
mod command;
mod compact_log;
mod destroy;
mod effect;
mod membership;
mod merge;
mod message;
mod peer;
mod peer_storage;
mod read;
mod ready;
mod snapshot;
mod snapshot_offer;
mod split;
mod stale_peer;
mod transfer;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use engine_traits::{KvEngine, LogBatch, LogStore};
use kvproto::{
    metapb::{Peer as PeerMeta, Region, RegionEpoch},
    raft_serverpb::{PeerState, RegionLocalState},
};
use raft::StateRole;

pub use self::effect::{ApplierEffect, ApplySnapshot, Delivery, Effect, Input, LogWrite, PeerTag, Remains, RequestId};
pub(crate) use self::peer_storage::conf_state_of;
use self::{
    peer::{Origin, Peer},
    snapshot::parse_pending_snapshot,
    split::initial_raft_state,
};
use super::{
    apply::Applier,
    config::Config,
    local_state::{RAFT_INIT_LOG_INDEX, load_apply_state, load_region_states},
    region::{find_peer, is_initialized, overlap},
};
use crate::{
    Error, Result,
    coprocessor::{CoprocessorHost, RegionChangeEvent},
};

/// All peers of one store.
pub struct Store<E: KvEngine, L: LogStore> {
    store_id: u64,
    config: Config,
    host: CoprocessorHost<E>,
    log: L,
    // Ordered, so that the same inputs always lead to the same effects.
    // Boxed: a node of the map has room for eleven, and is about half full after a load in the order of ids.
    peers: BTreeMap<u64, Box<Peer<L>>>,
    /// Initialized regions by their end, a data key.
    ranges: BTreeMap<Vec<u8>, u64>,
    /// Of regions whose peer here was destroyed.
    tombstones: HashMap<u64, Tombstone>,
    /// Peers that are gone from `peers` and whose data is being removed.
    destroying: HashMap<u64, destroy::Destroying>,
    /// Peers that this store has made since it started.
    incarnations: u64,
    ticks_to_log_gc: usize,
    /// Regions whose peer here has been offered leadership, and perhaps some where that is over.
    offered: BTreeSet<u64>,
    /// Regions to look at in [`Store::finish`].
    dirty: BTreeSet<u64>,
    effects: effect::Effects,
}

/// What is left of a peer that was destroyed.
struct Tombstone {
    /// Messages that are not newer are for the old peer.
    epoch: RegionEpoch,
    /// Set when the region itself is no more.
    merged: Option<absorb::Merged>,
}

/// What can be seen of a peer from outside.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub region: Region,
    pub peer_id: u64,
    pub role: StateRole,
    /// 0 when unknown.
    pub leader_id: u64,
    pub term: u64,
    pub last_index: u64,
    pub commit_index: u64,
    pub applied_index: u64,
    /// A snapshot was accepted whose data has not replaced what is on disk yet.
    pub applying_snapshot: bool,
    /// The region waits for what becomes of its merge into another one, and takes no commands.
    pub merging: bool,
    /// On a leader: ids of the peers that lack something committed and do not follow the log entry by entry, but are probed
    /// or get a snapshot.
    pub pending_peers: Vec<u64>,
}

/// How many peers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub regions: usize,
    /// Those that lead.
    pub leaders: usize,
    /// Those that are initialized and know of no leader.
    pub leader_missing: usize,
}

impl PeerStatus {
    pub fn is_initialized(&self) -> bool {
        is_initialized(&self.region)
    }

    pub fn is_leader(&self) -> bool {
        self.role == StateRole::Leader
    }
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// Finds the store's peers on disk. Their first effects come from the next [`finish`](Self::finish).
    ///
    /// Syncs both engines first: a process that was killed has left writes behind that were never synced, and what is
    /// found here is taken for durable from now on — entries and votes are promised again, and a region that a split has
    /// made answers for its log.
    ///
    /// # Errors
    /// When an engine cannot be synced or read, or holds what cannot be understood.
    pub fn load(store_id: u64, config: Config, host: CoprocessorHost<E>, kv: &E, log: L) -> Result<Self> {
        kv.sync()?;
        log.write(LogBatch::default(), true)?;
        let mut store = Self {
            store_id,
            config,
            host,
            log,
            peers: BTreeMap::new(),
            ranges: BTreeMap::new(),
            tombstones: HashMap::new(),
            destroying: HashMap::new(),
            incarnations: 0,
            ticks_to_log_gc: 0,
            offered: BTreeSet::new(),
            dirty: BTreeSet::new(),
            effects: effect::Effects::default(),
        };
        let mut regions = BTreeMap::new();
        for state in load_region_states(kv)? {
            if state.get_state() == PeerState::Tombstone {
                store.load_tombstone(kv, state)?;
            } else {
                regions.insert(state.get_region().get_id(), state);
            }
        }
        let mut with_log = store.log.regions()?;
        with_log.sort_unstable();
        let mut snapshots = BTreeMap::new();
        for region_id in &with_log {
            // A region without metadata and without a pending snapshot has an uninitialized peer: the next message
            // creates it again, with the Raft state that it had.
            let snapshot = store.log.pending_snapshot(*region_id)?;
            let snapshot = snapshot.map(|raw| parse_pending_snapshot(*region_id, &raw)).transpose()?;
            if store.clear_log_of_destroyed(*region_id, snapshot.as_ref()) {
                continue;
            }
            if let Some(snapshot) = snapshot
                && !store.forget_installed(kv, &snapshot, regions.contains_key(region_id))?
            {
                snapshots.insert(*region_id, snapshot);
            }
        }
        // A snapshot says what the region is, and what of other regions it absorbs.
        for (region_id, snapshot) in snapshots {
            let before = regions.remove(&region_id).map(|mut local| local.take_region());
            let records = snapshot.absorbed();
            let ends = |region: &Region| overlap(region, snapshot.region()) || records.find(region).is_some();
            let absorbed = regions.extract_if(.., |_, local| ends(local.get_region()));
            let absorbed = absorbed.map(|(_, mut local)| local.take_region()).collect();
            store.resume_snapshot(snapshot, before, absorbed)?;
        }
        for (region_id, local) in regions {
            let has_log = with_log.binary_search(&region_id).is_ok();
            store.load_peer(kv, local, has_log)?;
        }
        Ok(store)
    }

    pub fn store_id(&self) -> u64 {
        self.store_id
    }

    /// Takes one input. Effects come from [`finish`](Self::finish).
    pub fn handle(&mut self, input: Input) {
        match input {
            Input::Tick => self.on_tick(),
            Input::AskObservers => self.ask_observers(),
            Input::RaftMessage(message) => self.on_raft_message(message),
            Input::Command { id, request } => self.on_command(id, *request),
            Input::Read { id, header } => self.on_read(id, &header),
            Input::Persisted { tag, ready } => self.on_persisted(tag, ready),
            Input::LogCleaned { tag } => self.on_log_cleaned(tag),
            Input::ApplierRetired { tag } => self.on_applier_retired(tag),
            Input::Applied(outcome) => self.on_applied(*outcome),
            Input::SnapshotGenerated { tag, snapshot } => self.on_snapshot_generated(tag, snapshot),
            Input::SnapshotSent { key, to_peer, delivery } => self.on_snapshot_sent(key, to_peer, delivery),
            Input::Unreachable { region_id, to_peer } => {
                if let Some(peer) = self.peers.get_mut(&region_id) {
                    peer.node.report_unreachable(to_peer);
                }
            }
            Input::SnapshotApplied { tag, cancelled } => self.on_snapshot_applied(tag, cancelled),
            Input::SnapshotForgotten { key } => self.on_snapshot_forgotten(key),
            Input::DataDestroyed { tag } => self.on_data_destroyed(tag),
        }
    }

    /// All effects of the inputs since the last call.
    pub fn finish(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.finish_into(&mut effects);
        effects
    }

    /// Like [`finish`](Self::finish), into `effects`, whose former content is dropped. A caller that passes the same one
    /// each time spares the allocator a growing buffer per batch.
    pub fn finish_into(&mut self, effects: &mut Vec<Effect>) {
        while let Some(region_id) = self.dirty.pop_first() {
            self.on_ready(region_id);
        }
        self.effects.take_into(effects);
    }

    pub fn status(&self, region_id: u64) -> Option<PeerStatus> {
        self.peers.get(&region_id).map(|peer| peer.status())
    }

    /// All peers, in the order of their regions' ids.
    pub fn statuses(&self) -> Vec<PeerStatus> {
        self.peers.values().map(|peer| peer.status()).collect()
    }

    /// Counts the peers; cheap enough to be asked every second.
    pub fn census(&self) -> Census {
        let misses_leader = |peer: &&Peer<L>| peer.is_initialized() && peer.node.raft.leader_id == raft::INVALID_ID;
        Census {
            regions: self.peers.len(),
            leaders: self.peers.values().filter(|peer| peer.is_leader()).count(),
            leader_missing: self.peers.values().map(Box::as_ref).filter(misses_leader).count(),
        }
    }

    fn on_tick(&mut self) {
        for (region_id, peer) in &mut self.peers {
            if peer.accepted_snapshot.is_some() || peer.seal.is_some() {
                // A candidate looks for unapplied membership changes in its log, which the snapshot has replaced and
                // whose end it has not applied: raft-rs does not survive that.
                continue;
            }
            peer.node.tick();
            peer.storage_mut().snapshot_offer().tick();
            if peer.node.has_ready() || peer.has_waiting_reads() {
                self.dirty.insert(*region_id);
            }
        }
        self.on_merge_tick();
        self.remove_unneeded_snapshots();
        self.on_log_gc_tick();
        self.on_stale_peer_tick();
        self.on_transfer_tick();
    }

    /// The peer that `tag` names, unless it was replaced since.
    fn peer_of(&mut self, tag: PeerTag) -> Option<&mut Peer<L>> {
        self.peers.get_mut(&tag.region_id).map(Box::as_mut).filter(|peer| peer.tag() == tag)
    }

    /// A peer that was in order when the store stopped.
    fn load_peer(&mut self, kv: &E, local: RegionLocalState, has_log: bool) -> Result<()> {
        let region = local.get_region().clone();
        let meta = self.own_peer(&region)?;
        let region_id = region.get_id();
        let apply_state = load_apply_state(kv, region_id)?.unwrap_or_default();
        if !has_log && apply_state.get_applied_index() != RAFT_INIT_LOG_INDEX {
            return Err(Error::InvalidRequest(format!("region {region_id} is on disk without a Raft state")));
        }
        let mut raft_state = self.log.raft_state(region_id)?.unwrap_or_default();
        if apply_state.get_truncated_state().get_index() == RAFT_INIT_LOG_INDEX
            && raft_state.get_last_index() < RAFT_INIT_LOG_INDEX
        {
            // A split made the region, and the store was stopped before the log knew.
            raft_state = initial_raft_state(raft_state);
        }
        // The log learns of a commit without a sync; the data engine may have applied, and kept, more than that. What
        // is applied was committed.
        let commit = raft_state.get_hard_state().get_commit().max(apply_state.get_applied_index());
        raft_state.mut_hard_state().set_commit(commit);
        let peer = self.new_peer(Origin { meta, local, raft_state, apply_state })?;
        self.insert_peer(peer);
        self.register_applier(region_id)?;
        self.host.on_region_changed(&region, RegionChangeEvent::Create, StateRole::Follower);
        Ok(())
    }

    fn new_peer(&mut self, origin: Origin) -> Result<Peer<L>> {
        let incarnation = self.next_incarnation();
        Peer::new(&self.config, self.store_id, incarnation, self.log.clone(), origin)
    }

    fn next_incarnation(&mut self) -> u64 {
        self.incarnations += 1;
        self.incarnations
    }

    fn own_peer(&self, region: &Region) -> Result<PeerMeta> {
        find_peer(region, self.store_id).cloned().ok_or_else(|| {
            Error::InvalidRequest(format!("region {} has no peer on store {}", region.get_id(), self.store_id))
        })
    }

    fn insert_peer(&mut self, peer: Peer<L>) {
        let region = peer.region();
        if is_initialized(region) {
            self.ranges.insert(keys::enc_end_key(region), region.get_id());
        }
        self.dirty.insert(region.get_id());
        self.peers.insert(region.get_id(), Box::new(peer));
    }

    /// Makes the region's applier, as of what is applied.
    fn register_applier(&mut self, region_id: u64) -> Result<()> {
        let peer = self.peers.get(&region_id).ok_or(Error::RegionNotFound(region_id))?;
        let storage = peer.storage();
        let applied_term = raft::Storage::term(storage, storage.applied_index())?;
        let applier = Applier::new(peer.tag(), peer.local_state(), storage.apply_state().clone(), applied_term);
        self.effects.applier(ApplierEffect::Register(Box::new(applier)));
        Ok(())
    }

    /// Other regions that own a part of the range of `region`, which is initialized.
    fn owners_within(&self, region: &Region) -> Vec<u64> {
        let (start, end) = (keys::enc_start_key(region), keys::enc_end_key(region));
        self.ranges
            .range((std::ops::Bound::Excluded(start), std::ops::Bound::Unbounded))
            .map(|(_, id)| *id)
            .take_while(|id| self.peers.get(id).is_some_and(|peer| keys::enc_start_key(peer.region()) < end))
            .filter(|id| *id != region.get_id())
            .collect()
    }

    /// Another region whose data overlaps `region`, without being its owner yet or any more: one that a snapshot brings, or
    /// whose data a snapshot or a destruction is about to delete.
    fn overlapping_claim(&self, region: &Region) -> Option<u64> {
        let accepted = self.peers.values().filter_map(|peer| peer.accepted_snapshot.as_ref());
        let replaced = accepted.clone().flat_map(snapshot::AcceptedSnapshot::replaced);
        let brought = accepted.map(snapshot::AcceptedSnapshot::region);
        let received = self.peers.values().filter_map(|peer| Some(peer.received_snapshot.as_ref()?.region()));
        let doomed = self.destroying.values().flat_map(destroy::Destroying::data);
        let mut others = replaced.chain(brought).chain(received).chain(doomed);
        others.find(|other| other.get_id() != region.get_id() && overlap(other, region)).map(Region::get_id)
    }
}
