//! Tests that need a failpoint, in a binary of their own: the registry of failpoints is process-wide.

use engine_traits::{Error, LogBatch, LogOp, LogStore};
use kvproto::raft_serverpb::RaftLocalState;
use raft_log_engine::{RaftLogConfig, RaftLogEngine};
use tempfile::TempDir;

fn raft_state(last_index: u64) -> LogBatch {
    let mut state = RaftLocalState::default();
    state.set_last_index(last_index);
    LogBatch { ops: vec![LogOp::RaftState { region_id: 1, state }] }
}

#[test]
fn a_failed_write_poisons() {
    let dir = TempDir::new().unwrap();
    let open = || RaftLogEngine::open(dir.path(), &RaftLogConfig::default()).unwrap();
    let store = open();
    store.write(raft_state(1), true).unwrap();
    {
        let _fail = fail::FailGuard::new("raft_log_engine::write::error", "1*return").unwrap();
        assert!(matches!(store.write(raft_state(2), false), Err(Error::Engine { operation: "write", .. })));
    }
    assert!(matches!(store.write(raft_state(2), false), Err(Error::Poisoned { operation: "write" })));
    assert!(matches!(store.purge(), Err(Error::Poisoned { operation: "write" })));
    assert_eq!(store.raft_state(1).unwrap().unwrap().get_last_index(), 1);
    drop(store);
    open().write(raft_state(2), true).unwrap();
}
