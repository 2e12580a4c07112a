//! What the conformance suite cannot know: tables on the disk, the directory's lock, failures, corruption, settings.

use std::{
    error::Error as _,
    fs,
    path::{Path, PathBuf},
};

use engine_test::conformance::KvFactory;
use engine_traits::{Cf, Error, IterBounds, Iterator, KvEngine, Record, Result, Snapshot, WriteBatch};
use tempfile::TempDir;

use crate::{RocksConfig, RocksEngine, RocksSnapshot};

struct Factory(TempDir);

impl KvFactory for Factory {
    type Engine = RocksEngine;

    fn open(&self, path: &Path) -> Result<RocksEngine> {
        RocksEngine::open(path, &RocksConfig::default())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

engine_test::kv_engine_conformance!(Factory(TempDir::new().unwrap()));

/// The same suite with all data in tables instead of memtables.
mod flushed {
    use super::*;

    /// An engine that flushes each family after each write.
    #[derive(Clone, Debug)]
    struct FlushingEngine(RocksEngine);

    impl KvEngine for FlushingEngine {
        type Snapshot = RocksSnapshot;

        fn snapshot(&self) -> RocksSnapshot {
            self.0.snapshot()
        }

        fn write(&self, batch: &WriteBatch) -> Result<()> {
            self.0.write(batch)?;
            flush(&self.0);
            Ok(())
        }

        fn replace_range<I>(&self, cf: Cf, start: &[u8], end: &[u8], records: I) -> Result<()>
        where
            I: std::iter::Iterator<Item = Result<Record>>,
        {
            self.0.replace_range(cf, start, end, records)?;
            flush(&self.0);
            Ok(())
        }

        fn sync(&self) -> Result<()> {
            self.0.sync()
        }

        fn checkpoint(&self, path: &Path) -> Result<()> {
            self.0.checkpoint(path)
        }
    }

    struct Factory(TempDir);

    impl KvFactory for Factory {
        type Engine = FlushingEngine;

        fn open(&self, path: &Path) -> Result<FlushingEngine> {
            RocksEngine::open(path, &RocksConfig::default()).map(FlushingEngine)
        }

        fn dir(&self) -> PathBuf {
            self.0.path().to_owned()
        }
    }

    // Without the cases that write hundreds of batches: a flush is several fsyncs, and they check no reads of tables.
    engine_test::conformance_tests!(kv, Factory(TempDir::new().unwrap());
        empty_values_and_odd_keys_are_kept
        delete_range_is_half_open
        a_replaced_range_holds_the_records_and_nothing_else
        many_records_replace_many_records
        a_replaced_range_is_there_after_reopening_and_can_be_written_to
        delete_range_covers_earlier_puts_of_its_batch_only
        a_snapshot_does_not_see_later_writes
        a_cursor_does_not_see_later_writes
        cursors_stay_within_their_bounds
        cursors_over_empty_or_inverted_bounds_find_nothing
        seek_finds_the_first_key_at_or_after
        seek_for_prev_finds_the_last_key_at_or_before
        a_cursor_changes_direction_at_any_key
        a_cursor_that_ran_off_an_end_stays_invalid_until_it_is_positioned
        keys_longer_than_any_stored_one_can_be_sought
        what_was_written_is_there_after_reopening
    );
}

fn flush(engine: &RocksEngine) {
    for cf in Cf::ALL {
        engine.inner().db().flush_cf(engine.inner().family(cf)).unwrap();
    }
}

fn open(path: &Path) -> Result<RocksEngine> {
    RocksEngine::open(path, &RocksConfig::default())
}

fn put(engine: &RocksEngine, key: &[u8], value: &[u8]) {
    let mut batch = WriteBatch::new();
    batch.put(Cf::Default, key, value);
    engine.write(&batch).unwrap();
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
fn a_second_engine_on_a_directory_is_refused_by_its_path() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("kv");
    let engine = open(&path).unwrap();
    let refused = chain(&open(&path).unwrap_err());
    assert_eq!(refused, format!("engine failed to open: {} is in use by another engine", path.display()));
    drop(engine);
    open(&path).unwrap();
}

#[test]
fn the_directory_is_free_when_the_last_handle_is_dropped() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path()).unwrap();
    put(&engine, b"k", b"v");
    flush(&engine);
    let clone = engine.clone();
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.iter(Cf::Default, IterBounds::default()).unwrap();
    assert!(cursor.seek_to_first().unwrap());
    drop((engine, clone, snapshot));
    assert!(open(dir.path()).is_err(), "the cursor holds it");
    assert_eq!((cursor.key(), cursor.value()), (&b"k"[..], &b"v"[..]));
    drop(cursor);
    let engine = open(dir.path()).unwrap();
    assert_eq!(engine.get_value(Cf::Default, b"k").unwrap().unwrap(), b"v");
}

#[test]
fn a_path_that_is_no_directory_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"not a database").unwrap();
    let refused = chain(&open(&path).unwrap_err());
    assert!(refused.contains(path.to_str().unwrap()), "{refused}");
}

#[test]
fn values_out_of_range_are_refused_before_anything_is_created() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("kv");
    type Spoil = fn(&mut RocksConfig);
    let ranges: [(&str, Spoil); 7] = [
        ("block_size_bytes is 1, it must be 4096 to 1048576", |config| config.block_size_bytes = 1),
        ("bloom_filter_bits_per_key is 33, it must be 0 to 32", |config| config.bloom_filter_bits_per_key = 33),
        ("write_buffer_size_bytes is 1,", |config| config.write_buffer_size_bytes = 1),
        ("raft_write_buffer_size_bytes is 1,", |config| config.raft_write_buffer_size_bytes = 1),
        ("wal_size_max_bytes is 1024,", |config| config.wal_size_max_bytes = 1 << 10),
        ("background_jobs_max is 1,", |config| config.background_jobs_max = 1),
        ("background_jobs_max is 65,", |config| config.background_jobs_max = 65),
    ];
    for (expected, spoil) in ranges {
        let mut config = RocksConfig::default();
        spoil(&mut config);
        let refused = chain(&RocksEngine::open(&path, &config).unwrap_err());
        assert!(refused.contains(expected), "{refused}");
        assert!(!path.exists());
    }
}

/// What fails is what fails in practice: a memtable cannot be flushed, as its file cannot be created.
#[test]
fn a_failure_poisons_later_writes_and_syncs_but_no_reads() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("kv");
    let config = RocksConfig { write_buffer_size_bytes: 64 << 10, ..RocksConfig::default() };
    let engine = RocksEngine::open(&path, &config).unwrap();
    put(&engine, b"k", b"v");
    fs::remove_dir_all(&path).unwrap();

    let mut batch = WriteBatch::new();
    batch.put(Cf::Default, b"large", &[7; 16 << 10]);
    let mut failures = (0..10_000).map(|_| engine.write(&batch)).filter_map(Result::err);
    let first = failures.next().expect("the memtables cannot hold it all");
    assert!(matches!(first, Error::Engine { operation: "write", .. }), "{first:?}");
    assert!(chain(&first).contains(path.to_str().unwrap()), "{}", chain(&first));
    assert!(matches!(failures.next(), Some(Error::Poisoned { operation: "write" })));
    assert!(matches!(engine.write(&WriteBatch::new()), Err(Error::Poisoned { operation: "write" })));
    assert!(matches!(engine.sync(), Err(Error::Poisoned { operation: "write" })));
    assert!(matches!(engine.checkpoint(&dir.path().join("copy")), Err(Error::Poisoned { .. })));
    let nothing = std::iter::empty();
    assert!(matches!(engine.replace_range(Cf::Lock, b"a", b"b", nothing), Err(Error::Poisoned { .. })));
    assert_eq!(engine.get_value(Cf::Default, b"k").unwrap().unwrap(), b"v");
}

#[test]
fn a_flipped_bit_in_a_table_is_corruption() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path()).unwrap();
    let mut batch = WriteBatch::new();
    for i in 0..2000u32 {
        batch.put(Cf::Default, &i.to_be_bytes(), &[i as u8; 100]);
    }
    engine.write(&batch).unwrap();
    flush(&engine);
    let tables = files(dir.path(), "sst");
    assert!(!tables.is_empty());
    drop(engine);
    for table in tables {
        let mut bytes = fs::read(&table).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        fs::write(&table, bytes).unwrap();
    }

    let result = open(dir.path()).and_then(|engine| {
        let mut cursor = engine.snapshot().iter(Cf::Default, IterBounds::default())?;
        let mut valid = cursor.seek_to_first()?;
        while valid {
            valid = cursor.next()?;
        }
        Ok(())
    });
    assert!(matches!(result, Err(Error::Corruption { .. })), "{result:?}");
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn a_torn_last_batch_is_dropped_as_a_whole() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path()).unwrap();
    put(&engine, b"whole", b"v");
    let mut batch = WriteBatch::new();
    Cf::ALL.iter().for_each(|cf| batch.put(*cf, b"torn", &[7; 100]));
    engine.write(&batch).unwrap();
    drop(engine);
    let logs = files(dir.path(), "log");
    let [log] = &logs[..] else { panic!("{logs:?}") };
    let bytes = fs::read(log).unwrap();
    fs::write(log, &bytes[..bytes.len() - 150]).unwrap();

    let engine = open(dir.path()).unwrap();
    assert_eq!(engine.get_value(Cf::Default, b"whole").unwrap().unwrap(), b"v");
    for cf in Cf::ALL {
        assert_eq!(engine.get_value(cf, b"torn").unwrap(), None, "{cf}");
    }
    put(&engine, b"after", b"v");
}

/// What a killed process leaves is what its writes handed to the operating system.
#[test]
fn a_write_is_in_the_files_when_it_returns() {
    let dir = TempDir::new().unwrap();
    let (path, killed) = (dir.path().join("kv"), dir.path().join("killed"));
    let engine = open(&path).unwrap();
    put(&engine, b"put", b"v");
    let mut batch = WriteBatch::new();
    batch.delete_range(Cf::Default, b"a", b"b");
    batch.put(Cf::Lock, b"with a range", b"v");
    engine.write(&batch).unwrap();
    copy_files(&path, &killed);

    let copy = open(&killed).unwrap();
    assert_eq!(copy.get_value(Cf::Default, b"put").unwrap().unwrap(), b"v");
    assert_eq!(copy.get_value(Cf::Lock, b"with a range").unwrap().unwrap(), b"v");
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(std::result::Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_checkpoint_refuses_even_an_empty_directory() {
    let dir = TempDir::new().unwrap();
    let (engine, path) = (open(&dir.path().join("kv")).unwrap(), dir.path().join("empty"));
    fs::create_dir(&path).unwrap();
    let refused = chain(&engine.checkpoint(&path).unwrap_err());
    assert_eq!(refused, format!("engine failed to checkpoint: {} exists already", path.display()));
}

#[test]
fn what_an_interrupted_checkpoint_left_is_replaced() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir.path().join("kv")).unwrap();
    put(&engine, b"k", b"v");
    let (path, incomplete) = (dir.path().join("copy"), dir.path().join("copy.tmp"));
    put(&open(&incomplete).unwrap(), b"left over", b"v");
    engine.checkpoint(&path).unwrap();
    assert!(!incomplete.exists());
    let copy = open(&path).unwrap();
    assert_eq!(copy.get_value(Cf::Default, b"left over").unwrap(), None);
    assert_eq!(copy.get_value(Cf::Default, b"k").unwrap().unwrap(), b"v");
}

/// Of a range that held something, and of one that did not.
#[test]
fn tables_are_ingested_as_a_whole_and_leave_no_files_behind() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path()).unwrap();
    // Some 150 MiB do not fit one table.
    const RECORDS: u32 = 150;
    let value = |number: u32, round: u8| {
        let mut state = number ^ u32::from(round) << 16 | 1;
        let random = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()
        });
        random.take(1 << 18).flatten().collect::<Vec<_>>()
    };
    // The second time some are gone, of each table.
    let kept = |round: u8| (0..RECORDS).filter(move |number| round == 0 || number % 35 != 0);
    for round in 0..2 {
        let records = kept(round).map(|number| Ok((number.to_be_bytes().to_vec(), value(number, round))));
        engine.replace_range(Cf::Write, &0u32.to_be_bytes(), &RECORDS.to_be_bytes(), records).unwrap();
        let tables = files(dir.path(), "sst");
        assert!(tables.len() >= 3, "{tables:?}");
        assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    }
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.iter(Cf::Write, IterBounds::default()).unwrap();
    let mut valid = cursor.seek_to_first().unwrap();
    for number in kept(1) {
        assert!(valid && cursor.key() == number.to_be_bytes() && cursor.value() == value(number, 1), "{number}");
        valid = cursor.next().unwrap();
    }
    assert!(!valid);
}

#[test]
fn what_an_interrupted_ingestion_left_is_removed_at_the_next_opening() {
    let dir = TempDir::new().unwrap();
    let left = dir.path().join("ingest/7");
    drop(open(dir.path()).unwrap());
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("0.sst"), b"half a table").unwrap();
    let engine = open(dir.path()).unwrap();
    assert!(!left.exists());
    put(&engine, b"k", b"v");
}

#[test]
fn a_compaction_changes_nothing_that_is_read() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path()).unwrap();
    for round in 0..3 {
        put(&engine, b"k", &[round]);
        put(&engine, &[b'k', round], b"v");
        flush(&engine);
    }
    assert_eq!(files(dir.path(), "sst").len(), 3);
    let snapshot = engine.snapshot();
    put(&engine, b"k", b"later");
    engine.compact();
    assert_eq!(files(dir.path(), "sst").len(), 1);
    assert_eq!(snapshot.get_value(Cf::Default, b"k").unwrap().unwrap(), [2]);
    assert_eq!(engine.get_value(Cf::Default, b"k").unwrap().unwrap(), b"later");
    assert_eq!(engine.get_value(Cf::Default, &[b'k', 0]).unwrap().unwrap(), b"v");
}

/// Settings may change from one opening to the next.
#[test]
fn an_engine_without_cache_and_filters_reads_what_one_with_them_wrote() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path()).unwrap();
    put(&engine, b"k", b"v");
    flush(&engine);
    drop(engine);
    let (cache_size_bytes, block_size_bytes, bloom_filter_bits_per_key) = (0, 4 << 10, 0);
    let config =
        RocksConfig { cache_size_bytes, block_size_bytes, bloom_filter_bits_per_key, ..RocksConfig::default() };
    let engine = RocksEngine::open(dir.path(), &config).unwrap();
    assert_eq!(engine.get_value(Cf::Default, b"k").unwrap().unwrap(), b"v");
    put(&engine, b"l", b"v");
    flush(&engine);
    assert_eq!(engine.get_value(Cf::Default, b"l").unwrap().unwrap(), b"v");
}
