//! A region's snapshot: all its data at one applied index, as it travels to another store.
//!
//! # How it works
//! The payload of the Raft snapshot is a `RaftSnapshotData`. Its `data` holds the records of the column families
//! `default`, `lock`, `write`, in this order and each sorted by key; `meta.cf_files` has an entry for each family with
//! the bytes of its keys and values and their CRC-32, which tells where one family ends and the next begins.
//!
//! # Invariants
//! A [`Snapshot`] that was parsed is whole: its region is initialized, all keys are data keys of the region, strictly
//! sorted, and the checksums match. Whatever is not, is refused before it touches the engine.

use engine_traits::{Cf, IterBounds, Iterator as _};
use kvproto::{
    metapb::Region,
    raft_serverpb::{KeyValue, PeerState, RaftSnapshotData, RegionLocalState, SnapshotCFFile},
};
use protobuf::Message;
use raft::eraftpb;

use crate::{
    Error, Result,
    store::{core::conf_state_of, is_initialized, local_state::local_state, merged::Absorbed},
};

/// Version of the payload's layout; TiKV's snapshots carry 2 here, and their data in files of their own.
const VERSION: u64 = 100;

/// Identifies a snapshot within a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapKey {
    pub region_id: u64,
    pub term: u64,
    /// The applied index that the snapshot holds.
    pub idx: u64,
}

/// A whole and checked snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    key: SnapKey,
    data: RaftSnapshotData,
}

/// The Raft snapshot of `region` at `index`, which was written in `term`, with what [`Snapshot::generate`] made of it.
pub fn raft_snapshot(data: Vec<u8>, region: &Region, index: u64, term: u64) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    snapshot.set_data(data.into());
    let metadata = snapshot.mut_metadata();
    metadata.set_index(index);
    metadata.set_term(term);
    metadata.set_conf_state(conf_state_of(region));
    snapshot
}

impl Snapshot {
    /// Reads the data of the region in `local` from `engine` and returns the payload of a Raft snapshot.
    pub fn generate<S: engine_traits::Snapshot>(engine: &S, local: &RegionLocalState) -> Result<Vec<u8>> {
        let region = local.get_region();
        let mut data = RaftSnapshotData::default();
        data.set_version(VERSION);
        data.set_merged_records(local.get_merged_records().to_vec().into());
        let (start, end) = (keys::enc_start_key(region), keys::enc_end_key(region));
        for cf in Cf::DATA {
            let mut file = FileMeta::default();
            let mut cursor = engine.iter(cf, IterBounds::new(start.clone(), end.clone()))?;
            let mut valid = cursor.seek_to_first()?;
            while valid {
                let mut record = KeyValue::default();
                record.set_key(cursor.key().to_vec());
                record.set_value(cursor.value().to_vec());
                file.add(&record);
                data.mut_data().push(record);
                valid = cursor.next()?;
            }
            data.mut_meta().mut_cf_files().push(file.finish(cf));
        }
        data.set_file_size(data.get_meta().get_cf_files().iter().map(SnapshotCFFile::get_size).sum());
        data.set_region(region.clone());
        Ok(data.write_to_bytes().expect("a message that was built here encodes"))
    }

    /// Decodes and checks what `snapshot` carries.
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`] when it is not whole.
    pub fn parse(region_id: u64, snapshot: &eraftpb::Snapshot) -> Result<Self> {
        let metadata = snapshot.get_metadata();
        let key = SnapKey { region_id, term: metadata.get_term(), idx: metadata.get_index() };
        let invalid = |reason: String| Error::InvalidSnapshot { region_id, reason };
        let data: RaftSnapshotData =
            kvproto::decode(snapshot.get_data()).map_err(|error| invalid(error.to_string()))?;
        if data.get_version() != VERSION {
            return Err(invalid(format!("layout version {}, expected {VERSION}", data.get_version())));
        }
        if data.get_region().get_id() != region_id || !is_initialized(data.get_region()) {
            return Err(invalid("region is another one, or not initialized".into()));
        }
        let snapshot = Self { key, data };
        snapshot.check_records().map_err(invalid)?;
        Ok(snapshot)
    }

    pub fn key(&self) -> SnapKey {
        self.key
    }

    /// The region as of the snapshot; it is initialized.
    pub fn region(&self) -> &Region {
        self.data.get_region()
    }

    /// Which regions the region has absorbed.
    pub(crate) fn absorbed(&self) -> Absorbed {
        Absorbed::new(self.data.get_merged_records().to_vec())
    }

    /// What is on disk about the region once the snapshot is applied.
    pub(crate) fn local_state(&self) -> RegionLocalState {
        let mut local = local_state(self.region().clone(), PeerState::Normal);
        local.set_merged_records(self.data.get_merged_records().to_vec().into());
        local
    }

    /// Bytes of all keys and values.
    pub fn size_bytes(&self) -> u64 {
        self.data.get_file_size()
    }

    /// All records, family by family, sorted within each.
    pub fn records(&self) -> impl Iterator<Item = (Cf, &KeyValue)> {
        let files = self.data.get_meta().get_cf_files();
        let mut families = Cf::DATA.into_iter().zip(files.iter().map(SnapshotCFFile::get_size));
        let (mut cf, mut left) = families.next().unwrap_or((Cf::Default, 0));
        self.data.get_data().iter().map(move |record| {
            while left == 0 {
                // Ends: `check_records` found that the families' sizes add up to the records'.
                let Some(next) = families.next() else { break };
                (cf, left) = next;
            }
            left = left.saturating_sub(record_size_bytes(record));
            (cf, record)
        })
    }

    fn check_records(&self) -> std::result::Result<(), String> {
        let region = self.data.get_region();
        let (start, end) = (keys::enc_start_key(region), keys::enc_end_key(region));
        let files = self.data.get_meta().get_cf_files();
        if files.len() != Cf::DATA.len() {
            return Err(format!("{} column families, expected {}", files.len(), Cf::DATA.len()));
        }
        let mut records = self.data.get_data().iter().peekable();
        for (cf, expected) in Cf::DATA.into_iter().zip(files) {
            let mut file = FileMeta::default();
            let mut last: Option<&[u8]> = None;
            while file.size_bytes < expected.get_size() {
                let Some(record) = records.next() else {
                    return Err(format!("{cf}: {} bytes, expected {}", file.size_bytes, expected.get_size()));
                };
                let key = record.get_key();
                if key < start.as_slice() || key >= end.as_slice() {
                    return Err(format!("{cf}: a key outside the region"));
                }
                if last.is_some_and(|last| last >= key) {
                    return Err(format!("{cf}: keys are not sorted"));
                }
                last = Some(key);
                file.add(record);
            }
            if file.clone().finish(cf) != *expected {
                return Err(format!("{cf}: size or checksum does not match"));
            }
        }
        match records.next() {
            Some(_) => Err("records behind the last column family".into()),
            None => Ok(()),
        }
    }
}

/// Size and checksum of one column family's records, as they are added.
#[derive(Clone, Default)]
struct FileMeta {
    size_bytes: u64,
    crc: crc32fast::Hasher,
}

impl FileMeta {
    fn add(&mut self, record: &KeyValue) {
        self.size_bytes += record_size_bytes(record);
        // The lengths keep `ab, c` apart from `a, bc`.
        self.crc.update(&(record.get_key().len() as u64).to_le_bytes());
        self.crc.update(record.get_key());
        self.crc.update(record.get_value());
    }

    fn finish(self, cf: Cf) -> SnapshotCFFile {
        let mut file = SnapshotCFFile::default();
        file.set_cf(cf.name().to_owned());
        file.set_size(self.size_bytes);
        file.set_checksum(self.crc.finalize());
        file
    }
}

/// Never 0, since a data key has its prefix.
fn record_size_bytes(record: &KeyValue) -> u64 {
    (record.get_key().len() + record.get_value().len()) as u64
}

#[cfg(test)]
mod tests {
    use engine_test::MemDisk;
    use engine_traits::{KvEngine, WriteBatch};
    use kvproto::metapb::Peer;

    use super::*;

    fn region() -> Region {
        let mut region = Region::default();
        region.set_id(1);
        region.set_start_key(b"b".to_vec());
        region.set_end_key(b"d".to_vec());
        region.mut_region_epoch().set_conf_ver(1);
        region.mut_region_epoch().set_version(1);
        let mut peer = Peer::default();
        peer.set_id(2);
        peer.set_store_id(1);
        region.mut_peers().push(peer);
        region
    }

    fn payload() -> RaftSnapshotData {
        let engine = MemDisk::new().open("kv");
        let mut batch = WriteBatch::new();
        for (cf, key, value) in [
            (Cf::Default, &b"zb"[..], &b"first"[..]),
            (Cf::Write, b"zb1", b""),
            (Cf::Write, b"zc", b"last"),
            (Cf::Write, b"zd", b"outside"),
            (Cf::Raft, b"zb", b"not data"),
        ] {
            batch.put(cf, key, value);
        }
        engine.write(&batch).unwrap();
        kvproto::decode(&Snapshot::generate(&engine.snapshot(), &local_state(region(), PeerState::Normal)).unwrap())
            .unwrap()
    }

    fn parse(payload: &RaftSnapshotData) -> Result<Snapshot> {
        let mut snapshot = eraftpb::Snapshot::default();
        snapshot.mut_metadata().set_index(9);
        snapshot.mut_metadata().set_term(6);
        snapshot.set_data(payload.write_to_bytes().unwrap().into());
        Snapshot::parse(1, &snapshot)
    }

    #[test]
    fn snapshot_holds_the_data_of_its_region_and_nothing_else() {
        let snapshot = parse(&payload()).unwrap();
        assert_eq!(snapshot.key(), SnapKey { region_id: 1, term: 6, idx: 9 });
        assert_eq!(snapshot.region(), &region());
        let records: Vec<_> = snapshot.records().map(|(cf, r)| (cf, r.get_key(), r.get_value())).collect();
        assert_eq!(
            records,
            [(Cf::Default, &b"zb"[..], &b"first"[..]), (Cf::Write, b"zb1", b""), (Cf::Write, b"zc", b"last"),]
        );
    }

    #[test]
    fn broken_snapshot_is_refused() {
        type Break = fn(&mut RaftSnapshotData);
        let broken: [(&str, Break); 8] = [
            ("layout version", |data| data.set_version(2)),
            ("not initialized", |data| data.mut_region().mut_peers().clear()),
            ("another one", |data| data.mut_region().set_id(2)),
            ("checksum", |data| data.mut_data()[0].set_value(b"worst".to_vec())),
            ("bytes, expected", |data| drop(data.mut_data().pop())),
            ("behind the last", |data| {
                let record = data.get_data()[2].clone();
                data.mut_data().push(record);
            }),
            ("outside the region", |data| data.mut_region().set_end_key(b"c".to_vec())),
            ("not sorted", |data| data.mut_data().swap(1, 2)),
        ];
        for (reason, break_it) in broken {
            let mut data = payload();
            break_it(&mut data);
            let error = parse(&data).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }
}
