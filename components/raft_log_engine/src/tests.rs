//! What the conformance suite cannot know: several stores in a thread, purging, syncing, corruption.

use std::{
    error::Error as _,
    fs,
    path::{Path, PathBuf},
};

use engine_test::conformance::LogFactory;
use engine_traits::{Error, LogBatch, LogOp, LogStore, Result};
use kvproto::raft_serverpb::RaftLocalState;
use raft::eraftpb::Entry;
use raft_engine::{get_perf_context, take_perf_context};
use tempfile::TempDir;

use crate::{
    RaftLogConfig, RaftLogEngine,
    engine::{RAFT_STATE_KEY, STORE_IDENT_KEY, STORE_REGION},
};

struct Factory(TempDir);

impl LogFactory for Factory {
    type Store = RaftLogEngine;

    fn open(&self, path: &Path) -> Result<RaftLogEngine> {
        RaftLogEngine::open(path, &RaftLogConfig::default())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

engine_test::log_store_conformance!(Factory(TempDir::new().unwrap()));

fn open(dir: &TempDir) -> RaftLogEngine {
    RaftLogEngine::open(dir.path(), &RaftLogConfig::default()).unwrap()
}

fn entry(index: u64, data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    entry.set_index(index);
    entry.set_data(data.into());
    entry
}

/// Incompressible, and different for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((seed * 31 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn append(region_id: u64, entries: Vec<Entry>) -> LogOp {
    LogOp::Append { region_id, entries }
}

fn state(region_id: u64, last_index: u64) -> LogOp {
    let mut state = RaftLocalState::default();
    state.set_last_index(last_index);
    LogOp::RaftState { region_id, state }
}

fn write(store: &RaftLogEngine, ops: Vec<LogOp>) {
    store.write(LogBatch { ops }, true).unwrap();
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn a_thread_that_reads_several_stores_gets_the_entries_of_each() {
    let dirs = [(); 3].map(|()| TempDir::new().unwrap());
    let stores = dirs.each_ref().map(open);
    for (seed, store) in (0..).zip(&stores) {
        // Same indices, same sizes, and so the same places in the files.
        write(store, vec![append(1, vec![entry(1, noise(seed, 100))])]);
    }
    for _ in 0..3 {
        for (seed, store) in (0..).zip(&stores) {
            assert_eq!(store.entry(1, 1).unwrap().unwrap().get_data(), noise(seed, 100));
            assert_eq!(store.entries(1, 1, 2, 0).unwrap()[0].get_data(), noise(seed, 100));
        }
    }
}

#[test]
fn a_store_that_was_replaced_is_not_read_from_the_cache_of_the_old_one() {
    for seed in 0..3 {
        let dir = TempDir::new().unwrap();
        let store = open(&dir);
        write(&store, vec![append(1, vec![entry(1, noise(seed, 100))])]);
        assert_eq!(store.entry(1, 1).unwrap().unwrap().get_data(), noise(seed, 100));
    }
}

/// Small files, so that a purge has something to do.
fn open_small(dir: &TempDir) -> RaftLogEngine {
    let config = RaftLogConfig {
        file_size_bytes: 64 << 10,
        purge_threshold_bytes: 128 << 10,
        compression_threshold_bytes: 0,
        ..RaftLogConfig::default()
    };
    RaftLogEngine::open(dir.path(), &config).unwrap()
}

/// Writes ten files' worth of another region, compacted as it goes.
fn fill_files(store: &RaftLogEngine, first: u64) {
    for index in first..first + 40 {
        let compact = LogOp::Compact { region_id: 100, index };
        write(store, vec![append(100, vec![entry(index, noise(index, 16 << 10))]), compact]);
    }
}

fn log_files(dir: &TempDir) -> usize {
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".raftlog")).count()
}

#[test]
fn a_purge_frees_files_and_keeps_what_is_alive() {
    let dir = TempDir::new().unwrap();
    let store = open_small(&dir);
    let alive = vec![entry(7, noise(1, 1000)), entry(8, noise(2, 1000))];
    let snapshot = LogOp::PendingSnapshot { region_id: 1, snapshot: Some(noise(3, 5000)) };
    write(&store, vec![append(1, alive.clone()), state(1, 8), snapshot]);
    for round in 0..5 {
        fill_files(&store, 1 + round * 40);
        store.purge().unwrap();
    }
    assert!(log_files(&dir) < 25, "{} files of 50 are left", log_files(&dir));
    assert_eq!(store.entries(1, 7, 9, u64::MAX).unwrap(), alive);
    drop(store);
    let store = open_small(&dir);
    assert_eq!(store.entries(1, 7, 9, u64::MAX).unwrap(), alive);
    assert_eq!(store.pending_snapshot(1).unwrap(), Some(noise(3, 5000)));
    assert_eq!(store.raft_state(1).unwrap().unwrap().get_last_index(), 8);
}

/// raft-engine forgets compactions when it purges. If a log was cleared by one, the old entries would be back after a
/// restart, and going on behind a snapshot would panic.
#[test]
fn a_cleared_log_stays_cleared_over_purges_and_a_restart() {
    for emptied_by in [LogOp::ClearLog { region_id: 1 }, LogOp::Compact { region_id: 1, index: 11 }] {
        let dir = TempDir::new().unwrap();
        let store = open_small(&dir);
        write(&store, vec![append(1, (1..11).map(|index| entry(index, noise(index, 100))).collect()), state(1, 10)]);
        // The log is rewritten, then emptied, and what emptied it is purged.
        for round in 0..3 {
            fill_files(&store, 1 + round * 40);
            store.purge().unwrap();
        }
        write(&store, vec![emptied_by, state(1, 100)]);
        for round in 3..6 {
            fill_files(&store, 1 + round * 40);
            store.purge().unwrap();
        }
        drop(store);

        let store = open_small(&dir);
        assert_eq!(store.entry(1, 5).unwrap(), None);
        assert_eq!(store.raft_state(1).unwrap().unwrap().get_last_index(), 100);
        write(&store, vec![append(1, vec![entry(101, b"behind a snapshot".to_vec())])]);
        assert_eq!(store.entry(1, 101).unwrap().unwrap().get_data(), b"behind a snapshot");
    }
}

#[test]
fn writing_an_empty_batch_with_sync_syncs() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    write(&store, vec![append(1, vec![entry(1, Vec::new())])]);
    for nothing in [LogBatch::default(), LogBatch { ops: vec![LogOp::Compact { region_id: 1, index: 1 }] }] {
        take_perf_context();
        store.write(nothing.clone(), false).unwrap();
        assert!(get_perf_context().log_sync_duration.is_zero());
        store.write(nothing, true).unwrap();
        assert!(!get_perf_context().log_sync_duration.is_zero());
    }
}

#[test]
fn the_reserved_region_is_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let refused = store.write(LogBatch { ops: vec![state(1, 1), state(0, 1)] }, true).unwrap_err();
    assert_eq!(chain(&refused), "engine failed to write: region id 0 is reserved for the store");
    assert_eq!(store.regions().unwrap(), []);
    assert_eq!(store.raft_state(0).unwrap(), None);
    write(&store, vec![state(1, 1)]);
}

#[test]
fn a_second_store_on_a_directory_is_refused_by_its_path() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let refused = chain(&RaftLogEngine::open(dir.path(), &RaftLogConfig::default()).unwrap_err());
    assert!(refused.starts_with(&format!("engine failed to open: {}: ", dir.path().display())), "{refused}");
    drop(store);
    open(&dir);
}

#[test]
fn damaged_entries_are_corruption() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    write(&store, vec![append(1, vec![entry(1, noise(1, 5000))]), state(1, 1)]);
    // The last block of entries is checked at start, and dropped as torn when it is damaged; so there is another one.
    write(&store, vec![append(2, vec![entry(1, noise(2, 100))])]);
    drop(store);
    let file = only_log_file(&dir);
    let mut bytes = fs::read(&file).unwrap();
    let data = noise(1, 5000);
    let at = bytes.windows(data.len()).position(|window| window == data).unwrap();
    bytes[at + 2500] ^= 1;
    fs::write(&file, bytes).unwrap();

    let store = open(&dir);
    for result in [store.entry(1, 1).map(|_| ()), store.entries(1, 1, 2, u64::MAX).map(|_| ())] {
        assert!(matches!(result, Err(Error::Corruption { .. })), "{result:?}");
    }
    assert_eq!(store.raft_state(1).unwrap().unwrap().get_last_index(), 1);
}

#[test]
fn a_value_that_does_not_decode_is_corruption() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    // A group tag, as in RUSTSEC-2024-0437, and a truncated varint.
    for bytes in [vec![0x0b; 100_000], vec![0x08, 0xff]] {
        let mut batch = raft_engine::LogBatch::default();
        batch.put(1, RAFT_STATE_KEY.to_vec(), bytes.clone()).unwrap();
        batch.put(STORE_REGION, STORE_IDENT_KEY.to_vec(), bytes).unwrap();
        store.commit(&mut batch, false).unwrap();
        assert!(matches!(store.raft_state(1), Err(Error::Corruption { .. })));
        assert!(matches!(store.store_ident(), Err(Error::Corruption { .. })));
    }
}

#[test]
fn a_torn_last_batch_is_dropped_as_a_whole() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    write(&store, vec![append(1, vec![entry(1, noise(1, 100))]), state(1, 1)]);
    write(&store, vec![append(1, vec![entry(2, noise(2, 100))]), state(1, 2), state(2, 1)]);
    drop(store);
    let file = only_log_file(&dir);
    let bytes = fs::read(&file).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    fs::write(&file, &bytes[..end - 3]).unwrap();

    let store = open(&dir);
    assert_eq!(store.raft_state(1).unwrap().unwrap().get_last_index(), 1);
    assert_eq!(store.regions().unwrap(), [1]);
    assert_eq!(store.entry(1, 2).unwrap(), None);
    write(&store, vec![append(1, vec![entry(2, noise(3, 100))])]);
}

fn only_log_file(dir: &TempDir) -> PathBuf {
    let paths = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let logs: Vec<_> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "raftlog")).collect();
    assert_eq!(logs.len(), 1);
    logs.into_iter().next().unwrap()
}
