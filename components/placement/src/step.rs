//! The steps that operators consist of.
//!
//! # How it works
//! A step is level-triggered: it looks at the region as it is known and says whether it is finished, what it waits for,
//! or which command would bring it on. Nothing is remembered of commands that were sent, so that each of them may be
//! lost, repeated, or be overtaken by a change of leader.
//!
//! # Invariants
//! A step of a region whose epoch is not the expected one does nothing but say so; see [`Step::epoch_gain`].

use kvproto::{
    eraftpb::ConfChangeType,
    metapb::{Peer, Region},
    raft_cmdpb::RaftCmdRequest,
};
use raftstore::store::region::is_learner;

use crate::{
    Directory, Error, Keep, RegionHeartbeat,
    commands::{self, NewRegion},
    directory::version,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    AddLearner(Peer),
    /// Waits until the learner has caught up.
    Promote(Peer),
    /// Moves leadership away first if the peer has it.
    Remove(Peer, Keep),
    TransferLeader(Peer),
    /// `region` as it was before.
    Split {
        region: Region,
        pieces: Vec<NewRegion>,
    },
    /// Both regions as they were before.
    Merge {
        source: Region,
        target: Region,
    },
}

/// What a step makes of what is known.
pub(crate) enum Look {
    Finished,
    /// Not because of the leader: there is nothing that it could do.
    Waiting(String),
    Command(Box<RaftCmdRequest>),
    Failed(Error),
}

impl Step {
    /// How much the step adds to (conf_ver, version) of its region.
    pub(crate) fn epoch_gain(&self) -> (u64, u64) {
        match self {
            Step::AddLearner(_) | Step::Promote(_) | Step::Remove(..) => (1, 0),
            Step::Split { pieces, .. } => (0, pieces.len() as u64),
            Step::TransferLeader(_) | Step::Merge { .. } => (0, 0),
        }
    }

    /// Whether the region shows that the step is finished; see [`is_split`] and [`look_at_merge`] for those of which more
    /// than one region has to be seen.
    pub(crate) fn is_finished(&self, known: &RegionHeartbeat) -> bool {
        let find = |peer: &Peer| known.region.get_peers().iter().find(|listed| listed.get_id() == peer.get_id());
        match self {
            Step::AddLearner(peer) => find(peer).is_some(),
            Step::Promote(peer) => find(peer).is_some_and(|listed| !is_learner(listed)),
            Step::Remove(peer, _) => find(peer).is_none(),
            Step::TransferLeader(peer) => known.leader.get_id() == peer.get_id(),
            Step::Split { .. } | Step::Merge { .. } => false,
        }
    }

    /// What is to be done about the step, which [is not finished](Self::is_finished), of the region `known`, which is of
    /// the expected epoch.
    pub(crate) fn look(&self, known: &RegionHeartbeat, directory: &Directory) -> Look {
        let region = &known.region;
        let change = |change_type, peer: &Peer| {
            Look::Command(Box::new(commands::change_peer(region, change_type, peer.clone())))
        };
        match self {
            Step::AddLearner(peer) => change(ConfChangeType::AddLearnerNode, peer),
            Step::Promote(peer) if known.pending_peers.contains(&peer.get_id()) => {
                Look::Waiting(format!("peer {} to catch up", peer.get_id()))
            }
            Step::Promote(peer) => change(ConfChangeType::AddNode, peer),
            Step::Remove(peer, keep) => match keep.check(known, peer) {
                Err(error) => Look::Failed(error),
                Ok(()) if known.leader.get_id() != peer.get_id() => change(ConfChangeType::RemoveNode, peer),
                Ok(()) => match directory.next_leader(known, |_| 0) {
                    Some(to) => Look::Command(Box::new(commands::transfer_leader(region, to.clone()))),
                    None => Look::Waiting("a peer that can lead instead".into()),
                },
            },
            Step::TransferLeader(to) if !directory.can_lead(known, to) => {
                Look::Waiting(format!("peer {} to be able to lead", to.get_id()))
            }
            Step::TransferLeader(to) => Look::Command(Box::new(commands::transfer_leader(region, to.clone()))),
            Step::Split { pieces, .. } => Look::Command(Box::new(commands::batch_split(region, pieces, true))),
            Step::Merge { source, target } => look_at_merge(source, target, directory),
        }
    }
}

/// Whether the range of `region`, as it was before, is covered by newer regions that meet where `pieces` end.
pub(crate) fn is_split(region: &Region, pieces: &[NewRegion], directory: &Directory) -> bool {
    let begins = |key: &[u8]| directory.region_at(key).is_some_and(|known| known.region.get_start_key() == key);
    pieces.iter().all(|piece| begins(&piece.split_key))
        && directory.covers(region, |piece| version(&piece.region) > version(region))
}

/// What is to be done about merging `source` into `target`, both as they were before.
///
/// The source's version says how far it is: `PrepareMerge` adds one and keeps the range, a rollback adds another. It
/// disappears when the target, of a greater version, covers its range.
pub(crate) fn look_at_merge(source: &Region, target: &Region, directory: &Directory) -> Look {
    let (source_id, target_id) = (source.get_id(), target.get_id());
    let Some(known) = directory.region(source_id) else {
        let is_newer = |piece: &RegionHeartbeat| version(&piece.region) > version(source).max(version(target));
        return if directory.covers(source, |piece| piece.region.get_id() == target_id && is_newer(piece)) {
            Look::Finished
        } else if directory.covers(source, is_newer) {
            // The target was split or merged on meanwhile, or another one took the source: look no closer.
            Look::Failed(Error::RegionGone { region_id: source_id, step: format!("merge into region {target_id}") })
        } else {
            Look::Waiting(format!("region {target_id} to be heard"))
        };
    };
    let now = &known.region;
    let changed = |before: &Region, now: &Region| {
        let epoch = |region: &Region| (region.get_region_epoch().get_conf_ver(), version(region));
        let (step, region_id) = (format!("merge region {source_id} into region {target_id}"), before.get_id());
        Look::Failed(Error::EpochChanged { region_id, step, expected: epoch(before), found: epoch(now) })
    };
    if (now.get_start_key(), now.get_end_key()) != (source.get_start_key(), source.get_end_key()) {
        return changed(source, now);
    }
    match version(now).saturating_sub(version(source)) {
        0 if now.get_region_epoch() != source.get_region_epoch() => changed(source, now),
        0 => match directory.region(target_id) {
            None => Look::Waiting(format!("region {target_id} to be heard")),
            Some(heard) if heard.region.get_region_epoch() != target.get_region_epoch() => {
                changed(target, &heard.region)
            }
            Some(heard) => Look::Command(Box::new(commands::prepare_merge(now, &heard.region))),
        },
        1 => Look::Waiting(format!("region {target_id} to take over; the merge is prepared")),
        _ => Look::Failed(Error::RolledBack { source_id, target_id }),
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peer = |peer: &Peer| format!("peer {} on store {}", peer.get_id(), peer.get_store_id());
        match self {
            Step::AddLearner(added) => write!(f, "add learner: {}", peer(added)),
            Step::Promote(learner) => write!(f, "promote {}", peer(learner)),
            Step::Remove(removed, _) => write!(f, "remove {}", peer(removed)),
            Step::TransferLeader(to) => write!(f, "transfer leader to {}", peer(to)),
            Step::Split { pieces, .. } => {
                let ids: Vec<u64> = pieces.iter().map(|new| new.region_id).collect();
                write!(f, "split off regions {ids:?}")
            }
            Step::Merge { target, .. } => write!(f, "merge into region {}", target.get_id()),
        }
    }
}
