//! What the cache does on raftstore's events, through a coprocessor host.

use engine_test::MemEngine;
use engine_traits::{CacheRegion, Cf, KvEngine, WriteBatch};
use in_memory_engine::{LoadProgress, RegionState};
use kvproto::{
    metapb::{Peer, Region},
    raft_cmdpb::{AdminCmdType, CmdType, RaftCmdRequest, RaftCmdResponse, Request},
    raft_serverpb::RaftApplyState,
};
use raft::StateRole;
use raftstore::{
    coprocessor::{ApplyCtxInfo, Cmd, CoprocessorHost, RegionState as ExecState, RoleChange},
    store::SnapKey,
};

use super::support::*;
use crate::{HybridEngine, RegionCacheObserver};

struct Fixture {
    engine: Engine,
    host: CoprocessorHost<HybridEngine<MemEngine>>,
}

const KEY: SnapKey = SnapKey { region_id: 1, term: 1, idx: 1 };

fn fixture() -> Fixture {
    let engine = engine();
    let mut host = CoprocessorHost::default();
    RegionCacheObserver::new(engine.cache().clone()).register(&mut host, 100);
    for key in [b"za1", b"zb1", b"zc1", b"zd1"] {
        put(&engine, key, key);
    }
    Fixture { engine, host }
}

fn region(id: u64, version: u64, start: &[u8], end: &[u8]) -> Region {
    let mut region = uninitialized(id);
    region.set_start_key(start.to_vec());
    region.set_end_key(end.to_vec());
    region.mut_region_epoch().set_version(version);
    region.mut_peers().push(Peer::default());
    region
}

fn uninitialized(id: u64) -> Region {
    let mut region = Region::default();
    region.set_id(id);
    region
}

fn whole() -> Region {
    region(1, 1, b"a", b"e")
}

impl Fixture {
    fn load(&self, region: &Region) {
        load(&self.engine, &CacheRegion::from_region(region));
    }

    fn state(&self, region_id: u64) -> Option<RegionState> {
        state(&self.engine, region_id)
    }

    fn roles(&self, region: &Region, roles: impl IntoIterator<Item = StateRole>) {
        for role in roles {
            self.host.on_role_change(region, &RoleChange::new_for_test(role));
        }
    }

    fn post_exec(&self, region: &Region, request: RaftCmdRequest, failed: bool, state: &ExecState) {
        let mut response = RaftCmdResponse::default();
        if failed {
            response.mut_header().mut_error().set_message("failed".to_owned());
        }
        let cmd = Cmd { index: 1, term: 1, request, response };
        let write_batch = WriteBatch::new();
        let mut info = ApplyCtxInfo { write_batch: &write_batch };
        assert!(!self.host.post_exec(region, &cmd, &RaftApplyState::default(), state, &mut info));
    }

    fn admin(&self, region: &Region, cmd_type: AdminCmdType, modified_region: Region) {
        let mut request = RaftCmdRequest::default();
        request.mut_admin_request().set_cmd_type(cmd_type);
        let state = ExecState { modified_region: Some(modified_region), ..Default::default() };
        self.post_exec(region, request, false, &state);
    }
}

#[test]
fn a_load_that_began_while_a_snapshot_was_applied_does_not_survive() {
    let fixture = fixture();
    let engine = &fixture.engine;
    fixture.load(&whole());
    fixture.host.pre_apply_snapshot(&whole(), 1, &KEY, None);
    assert_eq!(fixture.state(1), None);
    request_load(engine, &CacheRegion::from_region(&whole()));
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    job.step(2);
    let mut data = WriteBatch::new();
    data.put(Cf::Default, b"zb1", b"of the snapshot");
    engine.disk().write(&data).unwrap();
    while job.step(1) == LoadProgress::More {}
    assert_eq!(fixture.state(1), Some(RegionState::Active), "it has read a mix, and nothing tells so yet");
    fixture.host.post_apply_snapshot(&whole(), 1, &KEY, None);
    assert_eq!(fixture.state(1), None);
    fixture.load(&whole());
    assert!(check_equals_disk(engine, &CacheRegion::from_region(&whole())));
}

/// A snapshot may bring another range than the one that is cached.
#[test]
fn a_snapshot_evicts_all_that_its_range_overlaps() {
    let fixture = fixture();
    fixture.load(&region(2, 1, b"c", b"e"));
    fixture.load(&region(3, 1, b"e", b"g"));
    fixture.host.pre_apply_snapshot(&region(1, 5, b"a", b"d"), 1, &KEY, None);
    assert_eq!((fixture.state(2), fixture.state(3)), (None, Some(RegionState::Active)));
}

/// 17767, and the family: no hook asserts on a region that is not initialized.
#[test]
fn no_hook_minds_an_uninitialized_region() {
    type Hook = fn(&Fixture, &Region);
    let hooks: [(Hook, bool); 6] = [
        (|fixture, region| fixture.host.on_destroy_peer(region), true),
        (|fixture, region| fixture.roles(region, [StateRole::Leader, StateRole::Follower]), true),
        (|fixture, region| fixture.host.pre_apply_snapshot(region, 1, &KEY, None), true),
        (|fixture, region| fixture.host.post_apply_snapshot(region, 1, &KEY, None), true),
        (|fixture, region| fixture.admin(region, AdminCmdType::CommitMerge, region.clone()), true),
        // It cannot be the source of the cached region's split.
        (|fixture, region| fixture.admin(region, AdminCmdType::BatchSplit, region.clone()), false),
    ];
    for (index, (hook, evicts)) in hooks.into_iter().enumerate() {
        let fixture = fixture();
        hook(&fixture, &uninitialized(1));
        fixture.load(&whole());
        hook(&fixture, &uninitialized(7));
        assert_eq!(fixture.state(1), Some(RegionState::Active), "hook {index}");
        hook(&fixture, &uninitialized(1));
        assert_eq!(fixture.state(1).is_none(), evicts, "hook {index}");
    }
}

#[test]
fn only_a_leader_that_steps_down_evicts() {
    use StateRole::{Candidate, Follower, Leader, PreCandidate};
    let fixture = fixture();
    fixture.load(&whole());
    fixture.roles(&whole(), [Leader, Leader]);
    fixture.roles(&region(7, 1, b"e", b"g"), [Follower]);
    assert_eq!(fixture.state(1), Some(RegionState::Active));
    fixture.roles(&whole(), [Follower]);
    assert_eq!(fixture.state(1), None);

    // It may stand for election before it is seen as a follower.
    fixture.load(&whole());
    fixture.roles(&whole(), [Leader, PreCandidate, Candidate]);
    assert_eq!(fixture.state(1), Some(RegionState::Active));
    fixture.roles(&whole(), [Follower]);
    assert_eq!(fixture.state(1), None);
}

/// A role event also tells a follower that others have another leader: the moment for which a region was preloaded.
#[test]
fn a_preloaded_follower_stays_cached_when_the_leader_changes() {
    use StateRole::{Candidate, Follower, Leader, PreCandidate};
    let fixture = fixture();
    fixture.load(&whole());
    fixture.roles(&whole(), [Follower, Follower, PreCandidate, Follower, Candidate, Follower]);
    assert_eq!(fixture.state(1), Some(RegionState::Active));

    // A leader only steps down once, and does not outlive its peer.
    fixture.roles(&whole(), [Leader, Follower]);
    fixture.load(&whole());
    fixture.roles(&whole(), [Follower]);
    assert_eq!(fixture.state(1), Some(RegionState::Active));
    fixture.roles(&whole(), [Leader]);
    fixture.host.on_destroy_peer(&whole());
    fixture.load(&whole());
    fixture.roles(&whole(), [Follower]);
    assert_eq!(fixture.state(1), Some(RegionState::Active));
    assert!(check_equals_disk(&fixture.engine, &CacheRegion::from_region(&whole())));
}

#[test]
fn destroyed_source_of_a_merge_leaves_the_merged_region_cached() {
    let fixture = fixture();
    fixture.load(&whole());
    // Raftstore destroys the source's peer after the target has its range.
    fixture.host.on_destroy_peer(&region(2, 1, b"a", b"c"));
    assert_eq!(fixture.state(1), Some(RegionState::Active));
}

/// 17217 (files), 17644 (ranges).
#[test]
fn ingested_files_and_deleted_ranges_evict() {
    for cmd_type in [CmdType::IngestSST, CmdType::DeleteRange] {
        for failed in [false, true] {
            let fixture = fixture();
            fixture.load(&whole());
            let command = |cmd_type| {
                let mut request = Request::default();
                request.set_cmd_type(cmd_type);
                let mut command = RaftCmdRequest::default();
                command.mut_requests().push(request);
                command
            };
            fixture.post_exec(&whole(), command(CmdType::Put), failed, &ExecState::default());
            assert_eq!(fixture.state(1), Some(RegionState::Active));
            fixture.post_exec(&whole(), command(cmd_type), failed, &ExecState::default());
            assert_eq!(fixture.state(1), None);
        }
    }
}

/// 17664.
#[test]
fn preparing_a_flashback_evicts_and_other_commands_do_not() {
    let fixture = fixture();
    fixture.load(&whole());
    for cmd_type in [AdminCmdType::CompactLog, AdminCmdType::ComputeHash, AdminCmdType::ChangePeer] {
        fixture.admin(&whole(), cmd_type, whole());
        assert_eq!(fixture.state(1), Some(RegionState::Active));
    }
    fixture.admin(&whole(), AdminCmdType::PrepareFlashback, whole());
    assert_eq!(fixture.state(1), None);
}

#[test]
fn a_command_that_failed_changes_nothing() {
    let fixture = fixture();
    fixture.load(&whole());
    for cmd_type in [AdminCmdType::PrepareMerge, AdminCmdType::RollbackMerge, AdminCmdType::PrepareFlashback] {
        let mut request = RaftCmdRequest::default();
        request.mut_admin_request().set_cmd_type(cmd_type);
        fixture.post_exec(&whole(), request, true, &ExecState::default());
    }
    assert_eq!(fixture.state(1), Some(RegionState::Active));
}

/// 18008: between prepare and rollback the region is loaded, with an epoch that the rollback makes stale.
#[test]
fn a_rollback_of_a_merge_evicts_and_loads_with_the_new_epoch() {
    let fixture = fixture();
    let merging = region(1, 2, b"a", b"e");
    let rolled_back = region(1, 3, b"a", b"e");
    fixture.load(&whole());
    fixture.admin(&whole(), AdminCmdType::PrepareMerge, merging.clone());
    assert_eq!(fixture.state(1), None);
    fixture.load(&merging);
    fixture.admin(&merging, AdminCmdType::RollbackMerge, rolled_back.clone());
    assert_eq!(fixture.state(1), Some(RegionState::Pending));
    let engine = &fixture.engine;
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    while job.step(1) == LoadProgress::More {}
    assert!(check_equals_disk(engine, &CacheRegion::from_region(&rolled_back)));
    // The next change of its state, which asserted.
    fixture.admin(&rolled_back, AdminCmdType::PrepareMerge, region(1, 4, b"a", b"e"));
    assert_eq!(fixture.state(1), None);
}

#[test]
fn a_rollback_of_a_merge_loads_what_its_preparation_has_evicted() {
    let (merging, rolled_back) = (region(1, 2, b"a", b"e"), region(1, 3, b"a", b"e"));
    for is_active in [true, false] {
        let fixture = fixture();
        if is_active {
            fixture.load(&whole());
        } else {
            request_load(&fixture.engine, &CacheRegion::from_region(&whole()));
        }
        fixture.admin(&whole(), AdminCmdType::PrepareMerge, merging.clone());
        assert_eq!(fixture.state(1), None);
        fixture.admin(&merging, AdminCmdType::RollbackMerge, rolled_back.clone());
        assert_eq!(fixture.state(1), Some(RegionState::Pending));
    }
}

#[test]
fn a_rollback_of_a_merge_leaves_cold_what_was_cold_or_was_evicted_since() {
    type Hook = fn(&Fixture, &Region);
    let (merging, rolled_back) = (region(1, 2, b"a", b"e"), region(1, 3, b"a", b"e"));
    let evicting: [Hook; 4] = [
        |fixture, region| fixture.host.on_destroy_peer(region),
        |fixture, region| fixture.roles(region, [StateRole::Leader, StateRole::Follower]),
        |fixture, region| fixture.host.pre_apply_snapshot(region, 1, &KEY, None),
        // It was not cached at the later preparation.
        |fixture, region| fixture.admin(region, AdminCmdType::PrepareMerge, region.clone()),
    ];
    for (index, hook) in evicting.into_iter().enumerate() {
        let fixture = fixture();
        fixture.load(&whole());
        fixture.admin(&whole(), AdminCmdType::PrepareMerge, merging.clone());
        hook(&fixture, &merging);
        fixture.admin(&merging, AdminCmdType::RollbackMerge, rolled_back.clone());
        assert_eq!(fixture.state(1), None, "hook {index}");
    }
    let fixture = fixture();
    fixture.admin(&merging, AdminCmdType::RollbackMerge, rolled_back);
    assert_eq!(fixture.state(1), None);
}

#[test]
fn a_merge_evicts_both_and_loads_the_target_with_its_new_range() {
    let fixture = fixture();
    let (source, target) = (region(2, 2, b"c", b"e"), region(1, 1, b"a", b"c"));
    let merged = region(1, 3, b"a", b"e");
    fixture.load(&source);
    fixture.load(&target);
    let mut request = RaftCmdRequest::default();
    request.mut_admin_request().set_cmd_type(AdminCmdType::CommitMerge);
    request.mut_admin_request().mut_commit_merge().set_source(source);
    let state = ExecState { modified_region: Some(merged.clone()), ..Default::default() };
    fixture.post_exec(&target, request, false, &state);
    assert_eq!((fixture.state(2), fixture.state(1)), (None, Some(RegionState::Pending)));
    let engine = &fixture.engine;
    let mut job = engine.cache().begin_next_load(engine.disk()).unwrap();
    while job.step(1) == LoadProgress::More {}
    assert!(check_equals_disk(engine, &CacheRegion::from_region(&merged)));
}

#[test]
fn a_split_is_followed_however_its_regions_are_listed() {
    for derived_is_listed_twice in [false, true] {
        let fixture = fixture();
        let (left, right) = (region(2, 2, b"a", b"c"), region(1, 2, b"c", b"e"));
        fixture.load(&whole());
        let mut request = RaftCmdRequest::default();
        request.mut_admin_request().set_cmd_type(AdminCmdType::BatchSplit);
        let mut new_regions = vec![left.clone()];
        if derived_is_listed_twice {
            new_regions.push(right.clone());
        }
        let state = ExecState { modified_region: Some(right.clone()), new_regions, ..Default::default() };
        fixture.post_exec(&whole(), request, false, &state);
        // Writes that were executed before the split are written after it.
        put(&fixture.engine, b"za2", b"late");
        for piece in [left, right] {
            assert!(check_equals_disk(&fixture.engine, &CacheRegion::from_region(&piece)));
        }
    }
}
