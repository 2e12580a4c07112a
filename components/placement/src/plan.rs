//! Which steps a request takes.
//!
//! What makes no sense is refused here, so that it fails at once and not at a leader.

use kvproto::metapb::{Peer, Region};
use raftstore::store::{
    new_peer,
    region::{contains_key, find_peer, is_learner},
};

use crate::{
    Directory, Error, Ids, Keep, NewRegion, RegionHeartbeat, Request, Result, Step,
    directory::{stores_of, version},
};

/// The steps that `request` takes from what is known now.
///
/// # Errors
/// [`Error::Refused`] with the reason, [`Error::RegionNotFound`], or [`Error::Ids`].
pub(crate) fn plan(request: &Request, directory: &Directory, ids: &mut Ids) -> Result<Vec<Step>> {
    let find = |region_id| directory.region(region_id).ok_or(Error::RegionNotFound { region_id });
    let known = find(request.regions().0)?;
    match request {
        Request::AddPeer { store_id, .. } => add(known, *store_id, directory, ids),
        Request::RemovePeer { store_id, keep, .. } => {
            let peer = peer_on(&known.region, *store_id)?;
            keep.check(known, &peer)?;
            Ok(vec![Step::Remove(peer, *keep)])
        }
        Request::ReplacePeer { from_store, to_store, keep, .. } => {
            let old = peer_on(&known.region, *from_store)?;
            let mut steps = add(known, *to_store, directory, ids)?;
            check_after(known, &steps, &[&old], *keep)?;
            steps.push(Step::Remove(old, *keep));
            Ok(steps)
        }
        Request::TransferLeader { to_store, .. } => {
            let to = peer_on(&known.region, *to_store)?;
            if to.get_id() != known.leader.get_id() && !directory.may_lead(&to) {
                return Err(refused(known, format!("peer {} may not lead", to.get_id())));
            }
            Ok(vec![Step::TransferLeader(to)])
        }
        Request::Split { keys, .. } => split(known, keys, ids),
        Request::Merge { target_id, keep, .. } => merge(known, find(*target_id)?, *keep, directory, ids),
    }
}

fn add(known: &RegionHeartbeat, store_id: u64, directory: &Directory, ids: &mut Ids) -> Result<Vec<Step>> {
    if find_peer(&known.region, store_id).is_some() {
        return Err(refused(known, format!("store {store_id} has a peer of it already")));
    }
    if !directory.is_available(store_id) {
        return Err(refused(known, format!("store {store_id} is unknown, offline or down")));
    }
    let peer = new_peer(store_id, ids.allocate()?);
    Ok(vec![Step::AddLearner(peer.clone()), Step::Promote(peer)])
}

fn split(known: &RegionHeartbeat, keys: &[Vec<u8>], ids: &mut Ids) -> Result<Vec<Step>> {
    let region = &known.region;
    let ascends = keys.is_sorted_by(|a, b| a < b);
    let is_inside = |key: &Vec<u8>| key.as_slice() > region.get_start_key() && contains_key(region, key);
    if keys.is_empty() || !ascends || !keys.iter().all(is_inside) {
        return Err(refused(known, "split keys must be in ascending order within the region".into()));
    }
    let peers = region.get_peers().len();
    let piece = |split_key: &Vec<u8>| {
        let (region_id, peer_ids) = (ids.allocate()?, ids.allocate_many(peers)?);
        Ok(NewRegion { split_key: split_key.clone(), region_id, peer_ids })
    };
    let pieces = keys.iter().map(piece).collect::<Result<_>>()?;
    Ok(vec![Step::Split { region: region.clone(), pieces }])
}

fn merge(
    source: &RegionHeartbeat,
    target: &RegionHeartbeat,
    keep: Keep,
    directory: &Directory,
    ids: &mut Ids,
) -> Result<Vec<Step>> {
    let is_next = |a: &Region, b: &Region| !a.get_end_key().is_empty() && a.get_end_key() == b.get_start_key();
    if !is_next(&source.region, &target.region) && !is_next(&target.region, &source.region) {
        return Err(refused(source, format!("region {} is not adjacent", target.region.get_id())));
    }
    for known in [source, target] {
        if let Some(learner) = known.region.get_peers().iter().find(|peer| is_learner(peer)) {
            return Err(refused(known, format!("its peer {} is a learner", learner.get_id())));
        }
    }
    let (from, to) = (stores_of(&source.region), stores_of(&target.region));
    let mut steps = Vec::new();
    for store_id in to.difference(&from) {
        steps.extend(add(source, *store_id, directory, ids)?);
    }
    let surplus: Vec<&Peer> =
        source.region.get_peers().iter().filter(|peer| !to.contains(&peer.get_store_id())).collect();
    check_after(source, &steps, &surplus, keep)?;
    steps.extend(surplus.into_iter().map(|peer| Step::Remove(peer.clone(), keep)));
    // What the source will be when it stands where the target does.
    let mut moved = source.region.clone();
    let gain: u64 = steps.iter().map(|step| step.epoch_gain().0).sum();
    let conf_ver = moved.get_region_epoch().get_conf_ver() + gain;
    moved.mut_region_epoch().set_conf_ver(conf_ver);
    steps.push(Step::Merge { source: moved, target: target.region.clone() });
    Ok(steps)
}

/// Refuses at once what [`Keep`] would refuse after `steps` have added voters.
fn check_after(known: &RegionHeartbeat, steps: &[Step], removed: &[&Peer], keep: Keep) -> Result<()> {
    let mut after = known.clone();
    let added = steps.iter().filter_map(|step| if let Step::Promote(peer) = step { Some(peer.clone()) } else { None });
    after.region.mut_peers().extend(added);
    removed.iter().try_for_each(|peer| {
        keep.check(&after, peer)?;
        after.region.mut_peers().retain(|listed| listed.get_id() != peer.get_id());
        Ok(())
    })
}

fn peer_on(region: &Region, store_id: u64) -> Result<Peer> {
    let found = find_peer(region, store_id).cloned();
    found.ok_or_else(|| Error::Refused(format!("region {} has no peer on store {store_id}", region.get_id())))
}

fn refused(known: &RegionHeartbeat, reason: String) -> Error {
    Error::Refused(format!("region {}, version {}: {reason}", known.region.get_id(), version(&known.region)))
}
