//! Commands that split a region.
//!
//! A split at `n` keys makes `n + 1` regions of one: the *derived* one keeps the id, the peers' ids and the Raft log; the
//! others are new, begin at the same index and term on every store, and have a peer on each store that the region has one
//! on. All of them get the same version, which is greater than the one before by the number of new regions.

use engine_traits::WriteBatch;
use kvproto::{
    metapb::Region,
    raft_cmdpb::{AdminCmdType, AdminRequest, AdminResponse, BatchSplitRequest},
};

use super::{Applier, Change, Executed, Urgency};
use crate::{
    Error, Result,
    store::{
        local_state::{
            RAFT_INIT_LOG_INDEX, RAFT_INIT_LOG_TERM, apply_state_at, local_state_of_new, put_apply_state,
            put_local_state,
        },
        region::contains_key,
    },
};

/// What becomes of a region that is split.
pub(crate) struct Pieces {
    pub(crate) derived: Region,
    /// In the order of their keys.
    pub(crate) new_regions: Vec<Region>,
}

/// What a split command asks for; a single split is a batch of one.
pub(crate) fn split_request(admin: &AdminRequest) -> Option<BatchSplitRequest> {
    match admin.get_cmd_type() {
        AdminCmdType::BatchSplit => Some(admin.get_splits().clone()),
        AdminCmdType::Split => {
            let mut batch = BatchSplitRequest::default();
            batch.set_right_derive(admin.get_split().get_right_derive());
            batch.mut_requests().push(admin.get_split().clone());
            Some(batch)
        }
        _ => None,
    }
}

/// The pieces of `region`.
///
/// # Errors
/// When the keys are not in ascending order within the region, or ids are missing.
pub(crate) fn split(region: &Region, request: &BatchSplitRequest) -> Result<Pieces> {
    let invalid = |reason: String| Error::InvalidRequest(format!("cannot split region {}: {reason}", region.get_id()));
    let requests = request.get_requests();
    if requests.is_empty() {
        return Err(invalid("no split key".into()));
    }
    let mut start = region.get_start_key();
    for split in requests {
        let key = split.get_split_key();
        if key <= start || !contains_key(region, key) {
            return Err(invalid("the split keys are not in ascending order within the region".into()));
        }
        let is_taken = |id: u64| {
            id == region.get_id() || requests.iter().filter(|other| other.get_new_region_id() == id).count() > 1
        };
        if is_taken(split.get_new_region_id()) {
            return Err(invalid(format!("id {} is given twice", split.get_new_region_id())));
        }
        if split.get_new_region_id() == 0 || split.get_new_peer_ids().contains(&0) {
            return Err(invalid("an id is 0".into()));
        }
        if split.get_new_peer_ids().len() != region.get_peers().len() {
            return Err(invalid(format!(
                "{} ids for new peers, the region has {} peers",
                split.get_new_peer_ids().len(),
                region.get_peers().len()
            )));
        }
        start = key;
    }

    let mut derived = region.clone();
    let version = region.get_region_epoch().get_version() + requests.len() as u64;
    derived.mut_region_epoch().set_version(version);
    let keys: Vec<&[u8]> = std::iter::once(region.get_start_key())
        .chain(requests.iter().map(|split| split.get_split_key()))
        .chain([region.get_end_key()])
        .collect();
    let mut ranges: Vec<(Vec<u8>, Vec<u8>)> =
        keys.iter().zip(keys.iter().skip(1)).map(|(start, end)| (start.to_vec(), end.to_vec())).collect();
    let own = if request.get_right_derive() { ranges.len() - 1 } else { 0 };
    let (start, end) = ranges.remove(own);
    derived.set_start_key(start);
    derived.set_end_key(end);
    let new_regions = requests
        .iter()
        .zip(ranges)
        .map(|(split, (start, end))| {
            let mut new = derived.clone();
            new.set_id(split.get_new_region_id());
            new.set_start_key(start);
            new.set_end_key(end);
            for (peer, id) in new.mut_peers().iter_mut().zip(split.get_new_peer_ids()) {
                peer.set_id(*id);
            }
            new
        })
        .collect();
    Ok(Pieces { derived, new_regions })
}

impl Applier {
    pub(super) fn split(&mut self, request: &BatchSplitRequest, batch: &mut WriteBatch) -> Result<Executed> {
        let Pieces { derived, new_regions } = split(self.region(), request)?;
        for region in &new_regions {
            put_local_state(batch, &local_state_of_new(region.clone()));
            put_apply_state(batch, region.get_id(), &apply_state_at(RAFT_INIT_LOG_INDEX, RAFT_INIT_LOG_TERM));
        }
        let mut response = AdminResponse::default();
        response.set_cmd_type(AdminCmdType::BatchSplit);
        let mut regions = new_regions.clone();
        regions.insert(if request.get_right_derive() { regions.len() } else { 0 }, derived.clone());
        response.mut_splits().set_regions(regions.into());

        let mut executed = Executed::default();
        executed.response.set_admin_response(response);
        executed.region_state.modified_region = Some(derived.clone());
        executed.region_state.new_regions.clone_from(&new_regions);
        executed.change = Some(Change::Split { derived, new_regions });
        // A new region's log must never be more durable than the region: a peer that has acknowledged entries and does not
        // know what region they are for has lost them.
        executed.urgency = Urgency::Durable;
        Ok(executed)
    }
}

#[cfg(test)]
mod tests {
    use kvproto::raft_cmdpb::SplitRequest;

    use super::*;
    use crate::store::new_peer;

    fn region() -> Region {
        let mut region = Region::default();
        region.set_id(1);
        region.set_start_key(b"b".to_vec());
        region.mut_region_epoch().set_conf_ver(3);
        region.mut_region_epoch().set_version(5);
        region.mut_peers().push(new_peer(1, 11));
        region.mut_peers().push(new_peer(2, 12));
        region
    }

    fn request(keys: &[&[u8]], right_derive: bool) -> BatchSplitRequest {
        let mut request = BatchSplitRequest::default();
        request.set_right_derive(right_derive);
        for (id, key) in (2..).zip(keys) {
            let mut split = SplitRequest::default();
            split.set_split_key(key.to_vec());
            split.set_new_region_id(id);
            split.set_new_peer_ids(vec![id * 10 + 1, id * 10 + 2]);
            request.mut_requests().push(split);
        }
        request
    }

    fn shape(region: &Region) -> (u64, &[u8], &[u8], Vec<u64>) {
        assert_eq!((region.get_region_epoch().get_conf_ver(), region.get_region_epoch().get_version()), (3, 7));
        let peers = region.get_peers().iter().map(|peer| peer.get_id()).collect();
        (region.get_id(), region.get_start_key(), region.get_end_key(), peers)
    }

    #[test]
    fn pieces_cover_the_region_and_the_derived_one_is_on_the_side_that_was_asked_for() {
        let Pieces { derived, new_regions } = split(&region(), &request(&[b"d", b"f"], true)).unwrap();
        assert_eq!(shape(&derived), (1, &b"f"[..], &b""[..], vec![11, 12]));
        assert_eq!(shape(&new_regions[0]), (2, &b"b"[..], &b"d"[..], vec![21, 22]));
        assert_eq!(shape(&new_regions[1]), (3, &b"d"[..], &b"f"[..], vec![31, 32]));
        let Pieces { derived, new_regions } = split(&region(), &request(&[b"d", b"f"], false)).unwrap();
        assert_eq!(shape(&derived), (1, &b"b"[..], &b"d"[..], vec![11, 12]));
        assert_eq!(shape(&new_regions[0]), (2, &b"d"[..], &b"f"[..], vec![21, 22]));
        assert_eq!(shape(&new_regions[1]), (3, &b"f"[..], &b""[..], vec![31, 32]));
    }

    #[test]
    fn split_that_makes_no_sense_is_refused() {
        let refused = |request: BatchSplitRequest| assert!(split(&region(), &request).is_err(), "{request:?}");
        refused(request(&[], true));
        refused(request(&[b"a"], true));
        refused(request(&[b"b"], true));
        refused(request(&[b"f", b"d"], true));
        refused(request(&[b"d", b"d"], true));
        let mut no_id = request(&[b"d"], true);
        no_id.mut_requests()[0].set_new_region_id(0);
        refused(no_id);
        let mut own_id = request(&[b"d"], true);
        own_id.mut_requests()[0].set_new_region_id(1);
        refused(own_id);
        let mut twice = request(&[b"d", b"f"], true);
        twice.mut_requests()[1].set_new_region_id(2);
        refused(twice);
        let mut one_peer = request(&[b"d"], true);
        one_peer.mut_requests()[0].set_new_peer_ids(vec![21]);
        refused(one_peer);
    }
}
