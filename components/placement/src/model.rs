//! Regions as their leaders know them, for tests: carries commands out at once, on a cluster without stores or logs.

use std::collections::BTreeMap;

use kvproto::{
    eraftpb::ConfChangeType,
    metapb::{Peer, PeerRole, Region},
    raft_cmdpb::{AdminCmdType, RaftCmdRequest},
};
use raftstore::store::{new_peer, region::is_learner};

use crate::RegionHeartbeat;

pub(crate) struct Model {
    pub(crate) regions: BTreeMap<u64, RegionHeartbeat>,
    /// All that leaders have ever known, in order.
    pub(crate) history: Vec<RegionHeartbeat>,
    /// Whether learners catch up at once.
    pub(crate) catch_up: bool,
    /// Targets of merges that are prepared, by source.
    pub(crate) merging: BTreeMap<u64, u64>,
}

impl Model {
    /// Region 1 with peer `100 + n` on each store `n`; the first one leads.
    pub(crate) fn new(stores: &[u64]) -> Self {
        let mut region = Region::default();
        region.set_id(1);
        region.mut_region_epoch().set_conf_ver(1);
        region.mut_region_epoch().set_version(1);
        region.set_peers(stores.iter().map(|id| new_peer(*id, 100 + id)).collect());
        let leader = region.get_peers()[0].clone();
        let mut model =
            Self { regions: BTreeMap::new(), history: Vec::new(), catch_up: true, merging: BTreeMap::new() };
        model.put(RegionHeartbeat { region, leader, term: 6, pending_peers: Vec::new() });
        model
    }

    pub(crate) fn heartbeat(&self, region_id: u64) -> RegionHeartbeat {
        self.regions[&region_id].clone()
    }

    fn put(&mut self, heartbeat: RegionHeartbeat) {
        self.history.push(heartbeat.clone());
        self.regions.insert(heartbeat.region.get_id(), heartbeat);
    }

    /// Carries the command out as the leader `store_id` would.
    pub(crate) fn execute(&mut self, store_id: u64, command: &RaftCmdRequest) -> Result<(), String> {
        let header = command.get_header();
        let mut known = self.regions.get(&header.get_region_id()).cloned().ok_or("no such region")?;
        if known.leader != *header.get_peer() || known.leader.get_store_id() != store_id {
            return Err("not the leader".into());
        }
        let admin = command.get_admin_request();
        if admin.get_cmd_type() != AdminCmdType::TransferLeader
            && header.get_region_epoch() != known.region.get_region_epoch()
        {
            return Err("epoch does not match".into());
        }
        if self.merging.contains_key(&known.region.get_id()) {
            return Err("merging".into());
        }
        match admin.get_cmd_type() {
            AdminCmdType::TransferLeader => {
                let to = admin.get_transfer_leader().get_peer();
                self.elect(header.get_region_id(), to.get_store_id());
            }
            AdminCmdType::ChangePeer => {
                let change = admin.get_change_peer();
                change_peer(&mut known, change.get_change_type(), change.get_peer())?;
                if self.catch_up {
                    known.pending_peers.clear();
                }
                self.put(known);
            }
            AdminCmdType::BatchSplit => {
                let requests = admin.get_splits().get_requests();
                let before = version(&known.region);
                known.region.mut_region_epoch().set_version(before + requests.len() as u64);
                for split in requests {
                    let mut new = known.clone();
                    new.region.set_id(split.get_new_region_id());
                    new.region.set_end_key(split.get_split_key().to_vec());
                    assert_eq!(new.region.get_peers().len(), split.get_new_peer_ids().len());
                    for (peer, id) in new.region.mut_peers().iter_mut().zip(split.get_new_peer_ids()) {
                        peer.set_id(*id);
                    }
                    let leads = |peer: &&Peer| peer.get_store_id() == store_id;
                    new.leader = new.region.get_peers().iter().find(leads).cloned().ok_or("no leader")?;
                    known.region.set_start_key(split.get_split_key().to_vec());
                    self.put(new);
                }
                self.put(known);
            }
            AdminCmdType::PrepareMerge => {
                let target = admin.get_prepare_merge().get_target();
                let current = &self.regions[&target.get_id()].region;
                let on = |region: &Region| crate::stores_of(region);
                if current != target || on(target) != on(&known.region) {
                    return Err("target does not fit".into());
                }
                let epoch = known.region.mut_region_epoch();
                epoch.set_version(epoch.get_version() + 1);
                epoch.set_conf_ver(epoch.get_conf_ver() + 1);
                self.merging.insert(known.region.get_id(), target.get_id());
                self.put(known);
            }
            other => return Err(format!("{other:?} is not known")),
        }
        Ok(())
    }

    /// The peer on `store_id` leads from now on.
    pub(crate) fn elect(&mut self, region_id: u64, store_id: u64) {
        let mut known = self.heartbeat(region_id);
        let on_store = |peer: &&Peer| peer.get_store_id() == store_id && !is_learner(peer);
        known.leader = known.region.get_peers().iter().find(on_store).cloned().unwrap();
        known.term += 1;
        self.put(known);
    }

    pub(crate) fn commit_merge(&mut self, source_id: u64) {
        let target_id = self.merging.remove(&source_id).unwrap();
        let source = self.regions.remove(&source_id).unwrap().region;
        let mut target = self.heartbeat(target_id);
        if source.get_end_key() == target.region.get_start_key() && !source.get_end_key().is_empty() {
            target.region.set_start_key(source.get_start_key().to_vec());
        } else {
            target.region.set_end_key(source.get_end_key().to_vec());
        }
        let greatest = version(&source).max(version(&target.region));
        target.region.mut_region_epoch().set_version(greatest + 1);
        self.put(target);
    }

    pub(crate) fn roll_back_merge(&mut self, source_id: u64) {
        self.merging.remove(&source_id).unwrap();
        let mut source = self.heartbeat(source_id);
        let before = version(&source.region);
        source.region.mut_region_epoch().set_version(before + 1);
        self.put(source);
    }
}

fn change_peer(known: &mut RegionHeartbeat, change: ConfChangeType, peer: &Peer) -> Result<(), String> {
    let position = known.region.get_peers().iter().position(|listed| listed.get_id() == peer.get_id());
    match (change, position) {
        (ConfChangeType::AddLearnerNode, None) => {
            let mut learner = peer.clone();
            learner.set_role(PeerRole::Learner);
            known.region.mut_peers().push(learner);
            known.pending_peers.push(peer.get_id());
        }
        (ConfChangeType::AddNode, Some(at)) => known.region.mut_peers()[at].set_role(PeerRole::Voter),
        (ConfChangeType::RemoveNode, Some(at)) if known.leader.get_id() != peer.get_id() => {
            known.region.mut_peers().remove(at);
            known.pending_peers.retain(|id| *id != peer.get_id());
        }
        _ => return Err(format!("{change:?} of {peer:?} does not fit")),
    }
    let conf_ver = known.region.get_region_epoch().get_conf_ver();
    known.region.mut_region_epoch().set_conf_ver(conf_ver + 1);
    Ok(())
}

fn version(region: &Region) -> u64 {
    region.get_region_epoch().get_version()
}
