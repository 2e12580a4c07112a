//! Random operations, one after another, with loads driven step by step so that everything lands between their steps.

use engine_test::MemSnapshot;
use engine_traits::{CacheRegion, Cf, EvictReason, KvEngine, WriteBatch};
use in_memory_engine::{Audit, AuditOutcome, AuditProgress, LoadJob, LoadProgress, RegionCacheSnapshot, RegionState};
use proptest::{collection::vec, prelude::*, sample::Index};
use txn_types::{Key, Lock, LockType, TimeStamp, Write, WriteType};

use super::support::*;
use crate::mvcc::{self, ScanOptions};

const USER_KEYS: u8 = 24;

#[derive(Clone, Debug)]
enum Record {
    Lock {
        value: Option<u8>,
    },
    Unlock,
    Put {
        start_ts: u64,
        commit_ts: u64,
        value_len: usize,
    },
    Delete {
        start_ts: u64,
        commit_ts: u64,
    },
    Rollback {
        start_ts: u64,
    },
    /// What garbage collection does.
    DropVersion {
        start_ts: u64,
        commit_ts: u64,
    },
}

#[derive(Clone, Debug)]
enum Op {
    Write(Vec<(u8, Record)>),
    DeleteRange { cf: usize, start: u8, end: u8, then: Vec<(u8, Record)> },
    Load(Index),
    BeginLoad,
    StepLoad { load: Index, steps: usize },
    AbandonLoad(Index),
    Split { region: Index, at: u8, right_derive: bool },
    Merge { left: Index },
    Evict(Index),
    ReplaceBySnapshot { region: Index, record: Vec<(u8, Record)> },
    HoldSnapshot(Index),
    DropSnapshot(Index),
    BeginAudit(Index),
    StepAudit { audit: Index, steps: usize },
    Housekeep,
}

fn user_key(index: u8) -> Vec<u8> {
    vec![b'k', index]
}

/// The data key at which a region that starts at the user key with this index starts.
fn boundary(index: u8) -> Vec<u8> {
    keys::data_key(Key::from_raw(&user_key(index)).as_encoded())
}

fn records() -> impl Strategy<Value = Vec<(u8, Record)>> {
    let record = prop_oneof![
        any::<Option<u8>>().prop_map(|value| Record::Lock { value }),
        Just(Record::Unlock),
        (1..40u64, 1..10u64, prop_oneof![0..8usize, 256..300usize])
            .prop_map(|(start_ts, gap, value_len)| Record::Put { start_ts, commit_ts: start_ts + gap, value_len }),
        (1..40u64, 1..10u64).prop_map(|(start_ts, gap)| Record::Delete { start_ts, commit_ts: start_ts + gap }),
        (1..40u64).prop_map(|start_ts| Record::Rollback { start_ts }),
        (1..40u64, 1..10u64).prop_map(|(start_ts, gap)| Record::DropVersion { start_ts, commit_ts: start_ts + gap }),
    ];
    vec((0..USER_KEYS, record), 1..8)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => records().prop_map(Op::Write),
        1 => (0..3usize, 0..USER_KEYS, 0..USER_KEYS, records())
            .prop_map(|(cf, start, end, then)| Op::DeleteRange { cf, start, end, then }),
        8 => any::<Index>().prop_map(Op::Load),
        8 => Just(Op::BeginLoad),
        16 => (any::<Index>(), 1..20usize).prop_map(|(load, steps)| Op::StepLoad { load, steps }),
        1 => any::<Index>().prop_map(Op::AbandonLoad),
        5 => (any::<Index>(), 0..USER_KEYS, any::<bool>())
            .prop_map(|(region, at, right_derive)| Op::Split { region, at, right_derive }),
        2 => any::<Index>().prop_map(|left| Op::Merge { left }),
        2 => any::<Index>().prop_map(Op::Evict),
        1 => (any::<Index>(), records()).prop_map(|(region, record)| Op::ReplaceBySnapshot { region, record }),
        3 => any::<Index>().prop_map(Op::HoldSnapshot),
        2 => any::<Index>().prop_map(Op::DropSnapshot),
        4 => any::<Index>().prop_map(Op::BeginAudit),
        12 => (any::<Index>(), 1..8usize).prop_map(|(audit, steps)| Op::StepAudit { audit, steps }),
        3 => Just(Op::Housekeep),
    ]
}

fn encode(batch: &mut WriteBatch, index: u8, record: &Record) {
    let key = boundary(index);
    let at = |ts: u64| Key::from_encoded(key.clone()).append_ts(TimeStamp::new(ts)).into_encoded();
    let mut write = |write_type, start_ts: u64, commit_ts, short_value| {
        let write = Write::new(write_type, TimeStamp::new(start_ts), short_value);
        batch.put(Cf::Write, &at(commit_ts), &write.to_bytes());
    };
    match *record {
        Record::Lock { value } => {
            let lock = Lock::new(LockType::Put, user_key(index), TimeStamp::new(30), 3, value.map(|byte| vec![byte]));
            batch.put(Cf::Lock, &key, &lock.to_bytes());
        }
        Record::Unlock => batch.delete(Cf::Lock, &key),
        Record::Put { start_ts, commit_ts, value_len } => {
            let value = vec![commit_ts as u8; value_len];
            let short_value = (value_len <= txn_types::SHORT_VALUE_MAX_LEN).then(|| value.clone());
            write(WriteType::Put, start_ts, commit_ts, short_value);
            batch.put(Cf::Default, &at(start_ts), &value);
        }
        Record::Delete { start_ts, commit_ts } => write(WriteType::Delete, start_ts, commit_ts, None),
        Record::Rollback { start_ts } => write(WriteType::Rollback, start_ts, start_ts, None),
        Record::DropVersion { start_ts, commit_ts } => {
            batch.delete(Cf::Write, &at(commit_ts));
            batch.delete(Cf::Default, &at(start_ts));
        }
    }
}

fn batch(records: &[(u8, Record)]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    records.iter().for_each(|(index, record)| encode(&mut batch, *index, record));
    // A store's own state is in the same batches.
    batch.put(Cf::Raft, b"\x01applied", b"1");
    batch
}

struct Model {
    engine: Engine,
    capacity_bytes: usize,
    /// The regions of the store, in the order of their keys.
    regions: Vec<CacheRegion>,
    next_id: u64,
    loads: Vec<LoadJob<MemSnapshot>>,
    held: Vec<(RegionCacheSnapshot, MemSnapshot)>,
    audits: Vec<Audit<MemSnapshot>>,
    /// How often a region could be read from memory: a run in which it never could proves nothing.
    memory_reads: usize,
}

impl Model {
    fn new(capacity_bytes: usize) -> Self {
        Model {
            engine: engine_with_capacity(capacity_bytes as u64),
            capacity_bytes,
            regions: vec![CacheRegion::new(1, 1, keys::DATA_MIN_KEY, keys::DATA_MAX_KEY)],
            next_id: 2,
            loads: Vec::new(),
            held: Vec::new(),
            audits: Vec::new(),
            memory_reads: 0,
        }
    }

    fn run(&mut self, op: Op) {
        let engine = self.engine.clone();
        match op {
            Op::Write(records) => engine.write(&batch(&records)).unwrap(),
            Op::DeleteRange { cf, start, end, then } => {
                let mut all = WriteBatch::new();
                all.delete_range(Cf::DATA[cf], &boundary(start), &boundary(end));
                all.append(&batch(&then));
                engine.write(&all).unwrap();
            }
            Op::Load(index) => request_load(&engine, index.get(&self.regions)),
            Op::BeginLoad => self.loads.extend(engine.cache().begin_next_load(engine.disk())),
            Op::StepLoad { load, steps } => {
                if !self.loads.is_empty() {
                    let index = load.index(self.loads.len());
                    if (0..steps).any(|_| self.loads[index].step(3) != LoadProgress::More) {
                        self.loads.swap_remove(index);
                    }
                }
            }
            Op::AbandonLoad(load) => {
                if !self.loads.is_empty() {
                    self.loads.swap_remove(load.index(self.loads.len()));
                }
            }
            Op::Split { region, at, right_derive } => self.split(region.index(self.regions.len()), at, right_derive),
            Op::Merge { left } => self.merge(left.index(self.regions.len())),
            Op::Evict(index) => evict(&engine, index.get(&self.regions), EvictReason::Manual),
            Op::ReplaceBySnapshot { region, record } => {
                let region = region.get(&self.regions);
                evict(&engine, region, EvictReason::ApplySnapshot);
                // A snapshot's data does not go through the cache.
                let mut replace = WriteBatch::new();
                for cf in Cf::DATA {
                    replace.delete_range(cf, &region.start, &region.end);
                }
                for (index, record) in record.iter().filter(|(index, _)| region.contains_key(&boundary(*index))) {
                    encode(&mut replace, *index, record);
                }
                engine.disk().write(&replace).unwrap();
                evict(&engine, region, EvictReason::ApplySnapshot);
            }
            Op::HoldSnapshot(index) => {
                if let Ok(memory) = cached(&engine, index.get(&self.regions)) {
                    self.held.push((memory, engine.disk().snapshot()));
                }
            }
            Op::DropSnapshot(index) => {
                if !self.held.is_empty() {
                    self.held.swap_remove(index.index(self.held.len()));
                }
            }
            Op::BeginAudit(index) => {
                let region_id = index.get(&self.regions).id;
                self.audits.extend(engine.cache().begin_audit(region_id, || engine.disk().snapshot()));
            }
            Op::StepAudit { audit, steps } => {
                if !self.audits.is_empty() {
                    let index = audit.index(self.audits.len());
                    let audit = &mut self.audits[index];
                    if (0..steps).any(|_| audit.step(7) != AuditProgress::More) {
                        let is_sound = matches!(outcome(audit), AuditOutcome::Same | AuditOutcome::Cancelled);
                        assert!(is_sound, "{}: {:?}", audit.region(), audit.difference());
                        self.audits.swap_remove(index);
                    }
                }
            }
            Op::Housekeep => engine.cache().housekeep(),
        }
        self.check();
    }

    fn split(&mut self, index: usize, at: u8, right_derive: bool) {
        let source = self.regions[index].clone();
        let at = boundary(at);
        if source.start >= at || at >= source.end {
            return;
        }
        let version = source.epoch_version + 1;
        let (left_id, right_id) = if right_derive { (self.next_id, source.id) } else { (source.id, self.next_id) };
        self.next_id += 1;
        let pieces = [
            CacheRegion::new(left_id, version, source.start.clone(), at.clone()),
            CacheRegion::new(right_id, version, at, source.end.clone()),
        ];
        let before = state(&self.engine, source.id);
        let can_follow = self.engine.cache().region_status(source.id).is_some_and(|cached| cached.region == source);
        split(&self.engine, &source, &pieces);
        if can_follow {
            let states = [state(&self.engine, left_id), state(&self.engine, right_id)];
            // The pieces share the data; they are evicted only if there is no room for what they do not share.
            let has_room = self.capacity_bytes > 1 << 20;
            assert!(states.iter().all(|state| *state == before || !has_room && state.is_none()), "{states:?}");
        }
        self.regions.splice(index..=index, pieces);
    }

    fn merge(&mut self, left: usize) {
        if left + 1 >= self.regions.len() {
            return;
        }
        let right = self.regions.remove(left + 1);
        let left = &mut self.regions[left];
        evict(&self.engine, &right, EvictReason::PrepareMerge);
        evict(&self.engine, left, EvictReason::Merge);
        left.end = right.end;
        left.epoch_version = left.epoch_version.max(right.epoch_version) + 1;
    }

    fn check(&mut self) {
        let cache = self.engine.cache();
        assert!(cache.usage_bytes() <= self.capacity_bytes);
        for region in &self.regions {
            if check_equals_disk(&self.engine, region) {
                let mut audit = audit(&self.engine, region.id, 100).unwrap();
                assert_eq!(outcome(&mut audit), AuditOutcome::Same, "{:?}", audit.difference());
                self.memory_reads += 1;
                let (memory, disk) = (cached(&self.engine, region).unwrap(), self.engine.disk().snapshot());
                check_mvcc_equals(&memory, &disk);
            }
        }
        for (memory, disk) in &self.held {
            assert_eq!(contents(memory, memory.region()), contents(disk, memory.region()));
        }
        for status in cache.regions().iter().filter(|status| status.state != RegionState::Evicting) {
            assert!(self.regions.contains(&status.region), "{status:?} is cached and not a region of the store");
        }
    }

    fn finish(mut self) -> usize {
        for region in &self.regions {
            evict(&self.engine, region, EvictReason::Manual);
        }
        self.loads.clear();
        self.held.clear();
        self.audits.clear();
        self.engine.cache().housekeep();
        assert_eq!((self.engine.cache().usage_bytes(), self.engine.cache().regions()), (0, vec![]));
        self.memory_reads
    }
}

fn check_mvcc_equals(memory: &RegionCacheSnapshot, disk: &MemSnapshot) {
    let region = memory.region().clone();
    for ts in [1, 7, 20, 29, 30, 45, u64::MAX].map(TimeStamp::new) {
        for index in (0..USER_KEYS).filter(|index| region.contains_key(&boundary(*index))) {
            let (left, right) = (mvcc::get(memory, &user_key(index), ts), mvcc::get(disk, &user_key(index), ts));
            assert_eq!(format!("{left:?}"), format!("{right:?}"));
        }
        // Both ends of a region are user keys, or the ends of the key space.
        let raw = |bound: &[u8]| match keys::origin_key(bound) {
            Some(encoded) if !encoded.is_empty() => Key::from_encoded(encoded.to_vec()).into_raw().unwrap(),
            _ => Vec::new(),
        };
        let (start, end) = (raw(&region.start), raw(&region.end));
        let (left, right) = (mvcc::scan(memory, &start, &end, ts, 9), mvcc::scan(disk, &start, &end, ts, 9));
        assert_eq!(format!("{left:?}"), format!("{right:?}"));
        for (reverse, key_only) in [(false, true), (true, false), (true, true)] {
            let options = ScanOptions { reverse, key_only };
            let bounds = (start.as_slice(), end.as_slice());
            assert_eq!(rows(memory, bounds, ts, options), rows(disk, bounds, ts, options));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn cache_equals_disk(ops in vec(op(), 1..150)) {
        let mut model = Model::new(1 << 30);
        ops.into_iter().for_each(|op| model.run(op));
        model.finish();
    }

    #[test]
    fn cache_equals_disk_and_stays_within_a_small_capacity(
        ops in vec(op(), 1..150),
        capacity_bytes in 1..20_000usize,
    ) {
        let mut model = Model::new(capacity_bytes);
        ops.into_iter().for_each(|op| model.run(op));
        model.finish();
    }
}

/// The properties above are worth something only if random operations do bring regions into memory.
#[test]
fn random_operations_read_from_memory() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut memory_reads = 0;
    for _ in 0..20 {
        let ops = vec(op(), 100..150).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new(1 << 30);
        ops.into_iter().for_each(|op| model.run(op));
        memory_reads += model.finish();
    }
    assert!(memory_reads > 400, "{memory_reads}");
}
