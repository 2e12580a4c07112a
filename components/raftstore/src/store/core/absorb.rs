//! A region here takes over the range of another one, which was merged into it.
//!
//! # How it works
//! By the target's log, on each store:
//! 1. The applier of the target comes to a `CommitMerge` and waits for the source ([`Store::on_await_source`]). The source
//!    is sealed, given the entries that it lacks, and when it has applied them its applier is retired. Only then the target
//!    goes on: a late write for the source would look like a peer whose removal was left unfinished.
//! 2. The target's applier has extended the target and ended the source in one durable batch; the store follows
//!    ([`Store::on_merge_committed`]).
//!
//! A source can be left behind where the target has not come by its log:
//! - A snapshot of the target, or of what that was merged into, absorbs all that it has records of, even if their range has
//!   left it again by a split. They are sealed while Raft has a look at the snapshot, end when that is durable, and their
//!   data goes with the data that the snapshot replaces.
//! - The target's peer here is gone: other stores tell the source that its region is no more ([`super::stale_peer`]).
//!
//! # Invariants
//! A source ends only with the target's peer here, or when that peer can never apply the `CommitMerge` from its log.

use engine_traits::{KvEngine, LogBatch, LogStore};
use kvproto::{
    metapb::{Peer as PeerMeta, Region},
    raft_cmdpb::CommitMergeRequest,
    raft_serverpb::{PeerState, RegionLocalState},
};
use raft::{INVALID_ID, StateRole, eraftpb::Entry};
use tikv_util::info;

use super::{ApplierEffect, Effect, LogWrite, PeerTag, Store, Tombstone, destroy::clear_log, peer::Peer};
use crate::{
    Error,
    coprocessor::{RegionChangeEvent, RegionChangeReason},
    store::{local_state::local_state, merged::Absorbed},
};

/// Another region here takes over a peer's range: the peer takes no messages and no commands any more.
#[derive(Debug)]
pub(super) enum Seal {
    /// By a merge, when everything up to `commit` is applied.
    Merge {
        target: PeerTag,
        commit: u64,
        /// The last entries up to `commit`, until they are in the peer's log.
        entries: Vec<Entry>,
        /// The applier was told to end.
        retiring: bool,
    },
    /// By a snapshot of `region_id`, if Raft accepts it. Nothing is handed to the applier until that is known.
    Snapshot { region_id: u64 },
}

/// What a region that was merged away has become.
#[derive(Debug)]
pub(super) struct Merged {
    /// The region that it was merged into, as of then.
    pub(super) target: Region,
    /// What it had absorbed itself.
    pub(super) absorbed: Absorbed,
    /// Its peers in the end.
    pub(super) peers: Vec<PeerMeta>,
}

impl Merged {
    /// What the tombstone of a region tells; `None` when its peer here was removed from it.
    pub(super) fn of(tombstone: &mut RegionLocalState) -> Option<Self> {
        tombstone.has_merge_state().then(|| Self {
            target: tombstone.mut_merge_state().take_target(),
            absorbed: Absorbed::new(tombstone.take_merged_records().into_vec()),
            peers: tombstone.get_region().get_peers().to_vec(),
        })
    }
}

impl<E: KvEngine, L: LogStore> Store<E, L> {
    /// The applier of `target_id` is about to commit the merge in `request`, and waits for the source.
    pub(super) fn on_await_source(&mut self, target_id: u64, mut request: CommitMergeRequest) {
        let Some(target) = self.peers.get(&target_id).map(|target| target.tag()) else {
            return;
        };
        let region_id = request.get_source_state().get_region().get_id();
        let source = self.peers.get_mut(&region_id).filter(|source| source.is_initialized() && source.seal.is_none());
        let source = source.unwrap_or_else(|| {
            panic!("region {target_id} is about to absorb region {region_id}: its peer here has to wait for that")
        });
        let (commit, entries) = (request.get_commit(), request.take_entries().into_vec());
        info!("source of a merge is sealed"; "region_id" => region_id, "target" => target_id, "commit" => commit,
            "applied" => source.reported_index);
        source.pending_destroy = None;
        source.seal = Some(Seal::Merge { target, commit, entries, retiring: false });
        self.catch_up(region_id);
    }

    /// Gives a sealed source what it lacks of its log, and retires its applier when all of it is applied.
    pub(super) fn catch_up(&mut self, region_id: u64) {
        let Some(source) = self.peers.get_mut(&region_id) else { return };
        let Some(Seal::Merge { commit, entries, retiring, .. }) = &mut source.seal else { return };
        if let Some(first) = entries.first() {
            let (first, commit) = (first.get_index(), *commit);
            let mut entries = std::mem::take(entries);
            if source.node.raft.raft_log.committed < commit {
                if source.role() != StateRole::Follower {
                    // It leads or campaigns without knowing what was committed.
                    let term = source.term();
                    source.node.raft.become_follower(term, INVALID_ID);
                }
                let log = &mut source.node.raft.raft_log;
                // A snapshot may have brought what it has committed; its log begins behind that.
                let before = log.committed.max(first - 1);
                assert!(
                    before <= log.last_index(),
                    "region {region_id}: all peers have the entry before a merge's first"
                );
                entries.retain(|entry| entry.get_index() > before);
                let appended = log.term(before).ok().and_then(|term| log.maybe_append(before, term, commit, &entries));
                assert!(appended.is_some(), "region {region_id}: the end of the log is read at index {before}");
            }
            self.dirty.insert(region_id);
            return self.catch_up(region_id);
        }
        if !*retiring && source.reported_index >= *commit && source.accepted_snapshot.is_none() {
            *retiring = true;
            let tag = source.tag();
            self.effects.applier(ApplierEffect::Retire { tag });
        }
    }

    /// Nothing is written for the source any more.
    pub(super) fn on_applier_retired(&mut self, tag: PeerTag) {
        if let Some(Seal::Merge { target, .. }) = self.peer_of(tag).and_then(|source| source.seal.as_ref()) {
            let tag = *target;
            self.effects.applier(ApplierEffect::Resume { tag });
        }
    }

    /// The region `region_id` is `region` now, with the range of `source`.
    pub(super) fn on_merge_committed(
        &mut self,
        region_id: u64,
        region: Region,
        source: RegionLocalState,
        absorbed: Absorbed,
    ) {
        let source_id = source.get_region().get_id();
        info!("regions merged"; "region_id" => region_id, "source" => source_id,
            "version" => region.get_region_epoch().get_version());
        let source_end = keys::enc_end_key(source.get_region());
        if self.ranges.get(&source_end) == Some(&source_id) {
            self.ranges.remove(&source_end);
        }
        if let Some(target) = self.peers.get_mut(&region_id) {
            let snapshot_counts = target.accepted_snapshot.as_ref().is_some_and(|accepted| accepted.is_durable());
            if let Some(accepted) = &mut target.accepted_snapshot {
                accepted.replaces_only(region.clone());
            }
            if !snapshot_counts {
                let before = keys::enc_end_key(target.region());
                target.absorbed = absorbed;
                target.storage_mut().set_region(region.clone());
                let (role, reads) = (target.role(), target.take_reads());
                self.effects
                    .fail_reads(reads, || Error::EpochNotMatch { region_id, current: Box::new(region.clone()) });
                self.ranges.remove(&before);
                self.ranges.insert(keys::enc_end_key(&region), region_id);
                let reason = RegionChangeEvent::Update(RegionChangeReason::CommitMerge);
                self.host.on_region_changed(&region, reason, role);
            }
        }
        self.end_absorbed(source, &region);
    }

    /// Ends a peer whose range is `into`'s now, durably or by an accepted snapshot.
    pub(super) fn end_absorbed(&mut self, mut tombstone: RegionLocalState, into: &Region) {
        let region_id = tombstone.get_region().get_id();
        self.take_out(region_id, || Error::EpochNotMatch { region_id, current: Box::new(into.clone()) });
        let epoch = tombstone.get_region().get_region_epoch().clone();
        let merged = Merged::of(&mut tombstone);
        self.tombstones.insert(region_id, Tombstone { epoch, merged });
        let batch = LogBatch { ops: clear_log(region_id) };
        self.effects.push(Effect::WriteLog(LogWrite { batch, sync: false, answer: None }));
    }

    /// Peers here of regions that were merged into `region`, which a snapshot with the records `absorbed` brings. All of them
    /// end with it, and none without the others: one may be the target of another.
    ///
    /// # Errors
    /// Why the snapshot cannot have their range, or not now.
    pub(super) fn absorbed_by(&self, region: &Region, absorbed: &Absorbed) -> std::result::Result<Vec<u64>, String> {
        let is_recorded = |peer: &Peer<L>| absorbed.find(peer.region()).is_some();
        for owner in self.owners_within(region) {
            if !self.peers.get(&owner).is_some_and(|peer| is_recorded(peer)) {
                return Err(format!("its range overlaps region {owner}"));
            }
        }
        let mut sources = Vec::new();
        for record in absorbed.iter() {
            let source_id = record.get_source_region_id();
            let source = self.peers.get(&source_id).filter(|peer| peer.is_initialized() && is_recorded(peer));
            match source {
                Some(source) if source.is_idle() => sources.push(source_id),
                Some(_) => return Err(format!("region {source_id}, which it absorbs, is busy")),
                None => {}
            }
        }
        let own = self.peers.get(&region.get_id());
        if !sources.is_empty() && own.is_some_and(|own| own.reported_index != own.handed_index) {
            // It may be about to absorb one of them itself, whether the range is still its own afterwards or not.
            return Err("older entries are being applied".into());
        }
        Ok(sources)
    }

    pub(super) fn seal_for_snapshot(&mut self, sources: &[u64], region_id: u64) {
        for source in sources {
            if let Some(source) = self.peers.get_mut(source) {
                source.seal = Some(Seal::Snapshot { region_id });
            }
        }
    }

    /// Nothing comes of the snapshot of `region_id` that others were sealed for.
    pub(super) fn unseal(&mut self, region_id: u64) {
        for peer in self.peers.values_mut() {
            if matches!(peer.seal, Some(Seal::Snapshot { region_id: by }) if by == region_id) {
                peer.seal = None;
                let deferred = std::mem::take(&mut peer.deferred_entries);
                peer.apply(deferred, &mut self.effects);
            }
        }
    }

    /// Tombstones of the peers that are sealed for the snapshot of `region_id`, which has the records `absorbed`.
    pub(super) fn sealed_for(&self, region_id: u64, absorbed: &Absorbed) -> Vec<RegionLocalState> {
        let is_sealed = |peer: &Peer<L>| matches!(peer.seal, Some(Seal::Snapshot { region_id: by }) if by == region_id);
        let sealed = self.peers.values().filter(|peer| is_sealed(peer));
        sealed.filter_map(|peer| tombstone_of_merged(peer.region(), absorbed)).collect()
    }
}

/// The tombstone of a peer of `source` that `absorbed` has a record of.
pub(super) fn tombstone_of_merged(source: &Region, absorbed: &Absorbed) -> Option<RegionLocalState> {
    let record = absorbed.find(source)?;
    let mut tombstone = local_state(source.clone(), PeerState::Tombstone);
    // The peer here may have missed changes of the members.
    tombstone.mut_region().set_peers(record.get_source_peers().into());
    tombstone.mut_region().set_region_epoch(record.get_source_epoch().clone());
    tombstone.mut_region().mut_region_epoch().set_version(record.get_target_epoch().get_version());
    let merge = tombstone.mut_merge_state();
    merge.mut_target().set_id(record.get_target_region_id());
    merge.mut_target().set_region_epoch(record.get_target_epoch().clone());
    merge.set_commit(record.get_source_index());
    // The peer may have missed merges into its region; the snapshot's records have them.
    tombstone.set_merged_records(absorbed.to_records().into());
    Some(tombstone)
}
