//! The directory that holds a store's snapshot files.
//!
//! # What it owns
//! Which files there are, and how they are called: `gen_7_6_42_write` is the column family `write` of a snapshot of region
//! 7 at index 42, which was written in term 6 and was generated here; `rev_…` was received. While a file is being written
//! `.tmp` is added.
//!
//! # How it works
//! - A snapshot is *generated* from a snapshot of the engine, family by family, block by block. These files do not outlive
//!   the process, so they are not synced.
//! - A *received* one is synced and renamed by the [`receiver`](super::receive) and stays until the core has no use of it.
//! - At start-up everything is removed but the files of the snapshots that are still to be applied; see
//!   [`SnapshotDir::recover`].
//!
//! # Invariants
//! A received file without `.tmp` is whole and durable.

use std::sync::Arc;

use engine_traits::{Cf, FileStore, IterBounds, Iterator as _, Record};
use kvproto::{
    metapb::Region,
    raft_serverpb::{RaftSnapshotData, RegionLocalState},
};
use tikv_util::info;

use super::{
    CfFile, SnapKey, Snapshot,
    file::{BLOCK_HEADER_BYTES, BlockWriter, block_bytes, records_of},
    payload,
};
use crate::Result;

/// Where a snapshot is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    Generated,
    Received,
}

/// A store's snapshot files. A handle: clones share one directory.
#[derive(Clone, Debug)]
pub struct SnapshotDir {
    files: Arc<dyn FileStore>,
}

pub(super) fn file_name(direction: Direction, key: SnapKey, cf: Cf) -> String {
    let prefix = match direction {
        Direction::Generated => "gen",
        Direction::Received => "rev",
    };
    format!("{prefix}_{}_{}_{}_{cf}", key.region_id, key.term, key.idx)
}

pub(super) fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

impl SnapshotDir {
    pub fn new(files: Arc<dyn FileStore>) -> Self {
        Self { files }
    }

    pub(super) fn files(&self) -> &dyn FileStore {
        &*self.files
    }

    /// Writes the data that `engine` holds of the region in `local` into files, and returns the payload of the snapshot's message.
    ///
    /// # Errors
    /// When the engine cannot be read or a file not written. Nothing is left then.
    pub fn generate<S: engine_traits::Snapshot>(
        &self,
        engine: &S,
        local: &RegionLocalState,
        key: SnapKey,
        direction: Direction,
    ) -> Result<RaftSnapshotData> {
        let region = local.get_region();
        let generate = || -> Result<Vec<CfFile>> {
            let mut files = Vec::new();
            for cf in Cf::DATA {
                files.extend(self.write_family(engine, region, cf, &file_name(direction, key, cf))?);
            }
            Ok(files)
        };
        self.remove(direction, key)?;
        match generate() {
            Ok(files) => Ok(payload(local, &files)),
            Err(error) => {
                // What cannot be removed now is removed at the next start.
                let _ = self.remove(direction, key);
                Err(error)
            }
        }
    }

    /// Writes a file, unless the family holds nothing of the region.
    fn write_family<S: engine_traits::Snapshot>(
        &self,
        engine: &S,
        region: &Region,
        cf: Cf,
        name: &str,
    ) -> Result<Option<CfFile>> {
        let temporary = temporary(name);
        let mut file = CfFile { cf, size_bytes: 0, checksum: 0 };
        let mut crc = crc32fast::Hasher::new();
        let mut write = |block: &[u8]| {
            crc.update(block);
            file.size_bytes += block.len() as u64;
            self.files.append(&temporary, block)
        };
        let mut writer = BlockWriter::default();
        let mut cursor = engine.iter(cf, IterBounds::new(keys::enc_start_key(region), keys::enc_end_key(region)))?;
        let mut valid = cursor.seek_to_first()?;
        while valid {
            if writer.add(cursor.key(), cursor.value()) {
                writer.end(&mut write).transpose()?;
            }
            valid = cursor.next()?;
        }
        writer.end(&mut write).transpose()?;
        if file.size_bytes == 0 {
            return Ok(None);
        }
        file.checksum = crc.finalize();
        self.files.rename(&temporary, name)?;
        Ok(Some(file))
    }

    /// Removes all files of a snapshot, as many as there are.
    ///
    /// # Errors
    /// When one cannot be removed. The next start tries again.
    pub fn remove(&self, direction: Direction, key: SnapKey) -> Result<()> {
        for cf in Cf::DATA {
            let name = file_name(direction, key, cf);
            for name in [temporary(&name), name] {
                if self.files.size_bytes(&name)?.is_some() {
                    self.files.remove(&name)?;
                }
            }
        }
        Ok(())
    }

    /// To be called once, before the store runs: removes all files but those of `pending`, the snapshots that were
    /// received and are still to be applied.
    ///
    /// # Errors
    /// When a file of a pending snapshot is missing, or of another size than the snapshot says: the store has lost data that
    /// it has promised to keep, and must not start. Also when the directory cannot be read or written.
    pub fn recover<'a>(&self, pending: impl Iterator<Item = &'a Snapshot>) -> Result<()> {
        let mut kept = Vec::new();
        for snapshot in pending {
            for file in snapshot.files() {
                let name = file_name(Direction::Received, snapshot.key(), file.cf);
                let found = self.files.size_bytes(&name)?;
                if found != Some(file.size_bytes) {
                    let found = found.map_or("missing".into(), |bytes| format!("{bytes} bytes long"));
                    let reason = format!("it is {found}, a snapshot needs it with {} bytes", file.size_bytes);
                    return Err(self.corruption(&name, &reason).into());
                }
                kept.push(name);
            }
        }
        let mut removed = 0;
        for name in self.files.list()?.into_iter().filter(|name| !kept.contains(name)) {
            self.files.remove(&name)?;
            removed += 1;
        }
        if removed > 0 {
            info!("snapshot files of an earlier run removed"; "files" => removed);
        }
        Ok(())
    }

    /// The records of a family of a received snapshot. The first error is the last item.
    pub(crate) fn records(&self, key: SnapKey, file: &CfFile) -> impl Iterator<Item = engine_traits::Result<Record>> {
        let name = file_name(Direction::Received, key, file.cf);
        let mut reader = BlockReader { dir: self.clone(), name, size_bytes: file.size_bytes, offset: 0 };
        let mut records = Vec::new().into_iter();
        let mut has_failed = false;
        std::iter::from_fn(move || {
            if records.len() == 0 && !has_failed {
                match reader.next_block() {
                    Ok(block) => records = block.into_iter(),
                    Err(error) => {
                        has_failed = true;
                        return Some(Err(error));
                    }
                }
            }
            records.next().map(Ok)
        })
    }

    /// Reads the block at `offset` of a file that is `size_bytes` long.
    pub(super) fn read_block(&self, name: &str, size_bytes: u64, offset: u64) -> engine_traits::Result<Vec<u8>> {
        let left = size_bytes.saturating_sub(offset);
        let mut header = [0; BLOCK_HEADER_BYTES];
        if left < BLOCK_HEADER_BYTES as u64 {
            return Err(self.corruption(name, &format!("no block at offset {offset}")));
        }
        self.files.read(name, offset, &mut header)?;
        let length = usize::try_from(block_bytes(header)).ok().filter(|length| *length as u64 <= left);
        let length =
            length.ok_or_else(|| self.corruption(name, &format!("a block ends behind it, offset {offset}")))?;
        let mut block = vec![0; length];
        self.files.read(name, offset, &mut block)?;
        Ok(block)
    }

    fn corruption(&self, name: &str, reason: &str) -> engine_traits::Error {
        engine_traits::Error::Corruption { place: self.files.place(name), reason: reason.to_owned() }
    }
}

/// Reads a file from its beginning to its end.
struct BlockReader {
    dir: SnapshotDir,
    name: String,
    size_bytes: u64,
    offset: u64,
}

impl BlockReader {
    /// The records of the next block; none at the end.
    fn next_block(&mut self) -> engine_traits::Result<Vec<Record>> {
        if self.offset == self.size_bytes {
            return Ok(Vec::new());
        }
        let block = self.dir.read_block(&self.name, self.size_bytes, self.offset)?;
        let corrupt = |reason| self.dir.corruption(&self.name, &format!("{reason}, offset {}", self.offset));
        let records = records_of(&block).map_err(corrupt)?;
        let records = records.map(|record| record.map(|(key, value)| (key.to_vec(), value.to_vec())));
        let records = records.collect::<std::result::Result<Vec<_>, _>>().map_err(corrupt)?;
        self.offset += block.len() as u64;
        Ok(records)
    }
}
