//! A region's snapshot: all its data at one applied index, on its way to another store.
//!
//! # What it owns
//! The files of snapshots, from the one that the sender generates to the one that the receiver loads from.
//!
//! # How it works
//! The message of a snapshot is small. Its payload is a `RaftSnapshotData` without data: the region, and in
//! `meta.cf_files` size and checksum of a file for each column family (`default`, `lock`, `write`) that holds anything. The
//! data is in files ([`file`]) in a directory of the store ([`dir`]), which are written by the sender, sent block by block
//! ([`send`]), checked while they are received ([`receive`]), and kept until they were applied.
//!
//! # Invariants
//! - A snapshot reaches the receiving store's core after its files are durable there, and each record of them was checked.
//! - Memory does not grow with the size of a region: one block, and what an engine needs to write.
//!
//! # What it must not do
//! Decide whether a snapshot is wanted: the core does, by its metadata.

mod dir;
mod file;
mod real_files;
mod receive;
mod send;

use engine_traits::Cf;
use kvproto::{
    metapb::Region,
    raft_serverpb::{
        MergedRecord, PeerState, RaftMessage, RaftSnapshotData, RegionBirth, RegionLocalState, SnapshotCFFile,
    },
};
use protobuf::Message as _;
use raft::eraftpb::{self, MessageType};

pub use self::{
    dir::{Direction, SnapshotDir},
    real_files::RealFiles,
    receive::{Received, Receiver},
    send::{Next, Outgoing},
};
use crate::{
    Error, Result,
    store::{core::conf_state_of, is_initialized, local_state::local_state, merged::Absorbed},
};

/// Version of the payload's layout. TiKV's snapshots carry 2 here, and their files are tables of RocksDB; 100 carried its
/// data inside.
const VERSION: u64 = 101;

/// Identifies a snapshot within a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapKey {
    pub region_id: u64,
    pub term: u64,
    /// The applied index that the snapshot holds.
    pub idx: u64,
}

impl SnapKey {
    pub fn new(region_id: u64, snapshot: &eraftpb::Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        Self { region_id, term: metadata.get_term(), idx: metadata.get_index() }
    }

    /// The key of the snapshot that `message` carries, if it carries one.
    pub fn of_message(message: &RaftMessage) -> Option<Self> {
        let raft = message.get_message();
        let is_snapshot = raft.get_msg_type() == MessageType::MsgSnapshot && !message.has_extra_msg();
        is_snapshot.then(|| Self::new(message.get_region_id(), raft.get_snapshot()))
    }
}

/// The data of one column family in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CfFile {
    pub(crate) cf: Cf,
    pub(crate) size_bytes: u64,
    pub(crate) checksum: u32,
}

/// What a snapshot is; its data is in files. The metadata is whole: the region is initialized, each column family occurs
/// at most once and in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    key: SnapKey,
    region: Region,
    merged_records: Vec<MergedRecord>,
    birth: RegionBirth,
    files: Vec<CfFile>,
}

/// The Raft snapshot of the region in `data` at `index`, which was written in `term`.
pub fn raft_snapshot(data: &RaftSnapshotData, index: u64, term: u64) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    snapshot.set_data(data.write_to_bytes().expect("a message that was built here encodes").into());
    let metadata = snapshot.mut_metadata();
    metadata.set_index(index);
    metadata.set_term(term);
    metadata.set_conf_state(conf_state_of(data.get_region()));
    snapshot
}

/// The payload of a snapshot of the region in `local` whose data is in `files`.
fn payload(local: &RegionLocalState, files: &[CfFile]) -> RaftSnapshotData {
    let mut data = RaftSnapshotData::default();
    data.set_version(VERSION);
    data.set_region(local.get_region().clone());
    data.set_merged_records(local.get_merged_records().to_vec().into());
    data.set_birth(local.get_birth().clone());
    data.set_file_size(files.iter().map(|file| file.size_bytes).sum());
    for file in files {
        let mut wire = SnapshotCFFile::default();
        wire.set_cf(file.cf.name().to_owned());
        wire.set_size(file.size_bytes);
        wire.set_checksum(file.checksum);
        data.mut_meta().mut_cf_files().push(wire);
    }
    data
}

impl Snapshot {
    /// Decodes and checks what `snapshot` says. Its files are checked when they are received.
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`] when it makes no sense.
    pub fn parse(region_id: u64, snapshot: &eraftpb::Snapshot) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidSnapshot { region_id, reason };
        let mut data: RaftSnapshotData =
            kvproto::decode(snapshot.get_data()).map_err(|error| invalid(error.to_string()))?;
        if data.get_version() != VERSION {
            return Err(invalid(format!("layout version {}, expected {VERSION}", data.get_version())));
        }
        if data.get_region().get_id() != region_id || !is_initialized(data.get_region()) {
            return Err(invalid("region is another one, or not initialized".into()));
        }
        let files = parse_files(&data).map_err(invalid)?;
        let merged_records = data.take_merged_records().into_vec();
        let (region, birth) = (data.take_region(), data.take_birth());
        Ok(Self { key: SnapKey::new(region_id, snapshot), region, merged_records, birth, files })
    }

    pub fn key(&self) -> SnapKey {
        self.key
    }

    /// The region as of the snapshot; it is initialized.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Which regions the region has absorbed.
    pub(crate) fn absorbed(&self) -> Absorbed {
        Absorbed::new(self.merged_records.clone())
    }

    /// What the region began as.
    pub(crate) fn birth(&self) -> &RegionBirth {
        &self.birth
    }

    /// What is on disk about the region once the snapshot is applied.
    pub(crate) fn local_state(&self) -> RegionLocalState {
        let mut local = local_state(self.region().clone(), PeerState::Normal);
        local.set_merged_records(self.merged_records.clone().into());
        local.set_birth(self.birth.clone());
        local
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    pub(crate) fn files(&self) -> &[CfFile] {
        &self.files
    }
}

fn parse_files(data: &RaftSnapshotData) -> std::result::Result<Vec<CfFile>, String> {
    if !data.get_data().is_empty() {
        return Err("data in the message".into());
    }
    let mut files: Vec<CfFile> = Vec::new();
    let mut total: u64 = 0;
    for wire in data.get_meta().get_cf_files() {
        let cf = Cf::DATA.into_iter().find(|cf| cf.name() == wire.get_cf());
        let cf = cf.ok_or_else(|| format!("a file of the column family {:?}", wire.get_cf()))?;
        if files.last().is_some_and(|last| last.cf >= cf) {
            return Err("column families are not in order".into());
        }
        if wire.get_size() == 0 {
            return Err(format!("{cf}: an empty file"));
        }
        total = total.checked_add(wire.get_size()).ok_or("sizes that cannot be")?;
        files.push(CfFile { cf, size_bytes: wire.get_size(), checksum: wire.get_checksum() });
    }
    if total == data.get_file_size() { Ok(files) } else { Err("sizes that do not add up".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::new_peer;

    pub(super) fn local() -> RegionLocalState {
        local_state(region(), PeerState::Normal)
    }

    pub(super) fn region() -> Region {
        let mut region = Region::default();
        region.set_id(1);
        region.set_start_key(b"b".to_vec());
        region.set_end_key(b"d".to_vec());
        region.mut_region_epoch().set_conf_ver(1);
        region.mut_region_epoch().set_version(1);
        region.mut_peers().push(new_peer(1, 2));
        region
    }

    fn file(cf: Cf, size_bytes: u64) -> CfFile {
        CfFile { cf, size_bytes, checksum: 7 }
    }

    #[test]
    fn metadata_comes_back_from_the_message() {
        let files = [file(Cf::Default, 10), file(Cf::Write, 20)];
        let snapshot = Snapshot::parse(1, &raft_snapshot(&payload(&local(), &files), 9, 6)).unwrap();
        assert_eq!(snapshot.key(), SnapKey { region_id: 1, term: 6, idx: 9 });
        assert_eq!((snapshot.region(), snapshot.files(), snapshot.size_bytes()), (&region(), &files[..], 30));
    }

    #[test]
    fn metadata_that_makes_no_sense_is_refused() {
        type Break = fn(&mut RaftSnapshotData);
        let broken: [(&str, Break); 9] = [
            ("layout version", |data| data.set_version(2)),
            ("not initialized", |data| data.mut_region().mut_peers().clear()),
            ("another one", |data| data.mut_region().set_id(2)),
            ("data in the message", |data| data.mut_data().push(Default::default())),
            ("column family \"raft\"", |data| data.mut_meta().mut_cf_files()[0].set_cf("raft".into())),
            ("not in order", |data| data.mut_meta().mut_cf_files()[1].set_cf("default".into())),
            ("empty file", |data| data.mut_meta().mut_cf_files()[1].set_size(0)),
            ("do not add up", |data| data.set_file_size(31)),
            ("cannot be", |data| data.mut_meta().mut_cf_files()[1].set_size(u64::MAX)),
        ];
        for (reason, break_it) in broken {
            let mut data = payload(&local(), &[file(Cf::Default, 10), file(Cf::Write, 20)]);
            break_it(&mut data);
            let error = Snapshot::parse(1, &raft_snapshot(&data, 9, 6)).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }
}
