//! Replacing a range by records that may be many.
//!
//! # What it owns
//! The choice between a batch and an ingestion, and the tables until they are ingested.
//!
//! # How it works
//! 1. Take records until they are all there or more than a batch should hold.
//! 2. Few: one batch, which deletes the range and puts the records. It costs no table and no sync of its own.
//! 3. Many: write them into tables in a directory of its own, next to RocksDB's. When the range holds something, each
//!    table also has a range tombstone over its part of the range. A tombstone does not cover what is in its own table.
//! 4. Sync the log while all other writes wait, and have RocksDB ingest all tables in one step; it links the files.
//!
//! # Invariants
//! - The parts of the tables are the range, cut at keys: no key is in two of them and none is in none.
//! - An ingestion is durable at once. Without the sync in step 4 a power failure could take writes that came before it.
//! - The directory is gone when this is done, however it ends. What a crash leaves is removed by the next opening.
//!
//! # What it must not do
//! Hold up other writes while it reads records: they may come from a slow disk.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use engine_traits::{Cf, Error, IterBounds, Iterator as _, Record, Result, Snapshot, SortedRecords, WriteBatch};
use rocksdb::{IngestExternalFileOptions, SstFileWriter};

use crate::{RocksSnapshot, engine::Inner, errors::DirectoryError};

/// As much as the log writer's batches, and a small part of a memtable.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What RocksDB makes its own tables of. A table that is being written has its index and its filter in memory.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// What is to be written.
pub(crate) enum Replacement<'a, I> {
    /// A batch does it.
    Small(WriteBatch),
    Large(Large<'a, I>),
}

pub(crate) struct Large<'a, I> {
    cf: Cf,
    start: &'a [u8],
    end: &'a [u8],
    /// Records that were taken to see how many there are.
    first: Vec<Record>,
    records: SortedRecords<'a, I>,
}

/// Looks at how much there is to do for making `records` all that `cf` holds of `start <= key < end`.
pub(crate) fn plan<'a, I: Iterator<Item = Result<Record>>>(
    cf: Cf,
    start: &'a [u8],
    end: &'a [u8],
    records: I,
) -> Result<Replacement<'a, I>> {
    let mut records = SortedRecords::new(records, start, end);
    let mut first = Vec::new();
    let mut size_bytes = 0;
    while let Some(record) = records.next().transpose()? {
        size_bytes += record.0.len() + record.1.len();
        first.push(record);
        if size_bytes > BATCH_BYTES_MAX {
            return Ok(Replacement::Large(Large { cf, start, end, first, records }));
        }
    }
    let mut batch = WriteBatch::new();
    batch.delete_range(cf, start, end);
    first.iter().for_each(|(key, value)| batch.put(cf, key, value));
    Ok(Replacement::Small(batch))
}

impl<I: Iterator<Item = Result<Record>>> Large<'_, I> {
    /// Writes tables and ingests them. `snapshot` tells whether the range holds something; nothing else writes to it.
    pub(crate) fn write(self, inner: &Inner, snapshot: &RocksSnapshot) -> Result<()> {
        let Self { cf, start, end, first, records } = self;
        let failed = |error| inner.poison("ingest", error);
        let is_occupied = snapshot.iter(cf, IterBounds::new(start, end))?.seek_to_first()?;

        let scratch = Scratch::new(&inner.ingest_directory())?;
        let options = inner.table_options(cf);
        let mut tables = vec![scratch.table(0)];
        let mut writer = SstFileWriter::create(&options);
        writer.open(&tables[0]).map_err(failed)?;
        let mut part = start.to_vec();
        for record in first.into_iter().map(Ok).chain(records) {
            let (key, value) = record?;
            if writer.file_size() > TABLE_BYTES_MAX {
                if is_occupied {
                    writer.delete_range(&part, &key).map_err(failed)?;
                }
                writer.finish().map_err(failed)?;
                part.clone_from(&key);
                let table = scratch.table(tables.len());
                writer.open(&table).map_err(failed)?;
                tables.push(table);
            }
            writer.put(key, value).map_err(failed)?;
        }
        if is_occupied {
            writer.delete_range(&part[..], end).map_err(failed)?;
        }
        writer.finish().map_err(failed)?;

        let mut how = IngestExternalFileOptions::default();
        how.set_move_files(true);
        let _alone = inner.alone()?;
        inner.sync()?;
        inner.db().ingest_external_file_cf_opts(inner.family(cf), &how, tables).map_err(failed)
    }
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Result<Self> {
        /// Several ranges may be replaced at once.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = parent.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(Error::engine("ingest", DirectoryError::Io { path, source })),
        }
    }

    fn table(&self, number: usize) -> PathBuf {
        self.0.join(format!("{number}.sst"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is when the engine is opened next.
        let _ = fs::remove_dir_all(&self.0);
    }
}
