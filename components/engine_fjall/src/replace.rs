//! Replacing a range by records that may be many.
//!
//! # What it owns
//! The choice between a batch and an ingestion.
//!
//! # How it works
//! 1. Take records until they are all there or more than a batch should hold; look at as many keys of the range.
//! 2. Few of both: one batch, like any other write. It costs no table and no sync of its own.
//! 3. Else merge the records with the keys that are there into one ascending sequence, in which a key that has no record
//!    becomes a tombstone, and ingest it: straight into tables, past journal and memtable.
//! 4. Before the ingestion becomes visible the journal is synced, while all other writes wait.
//!
//! # Invariants
//! - An ingestion is durable at once. Without step 4 a power failure could take writes that came before it.
//! - Nothing is visible before the last record was taken: an ingestion that is dropped leaves tables behind that no version
//!   knows, and fjall removes them when it is opened next.
//!
//! # What it must not do
//! Hold up other writes while it reads records: they may come from a slow disk.

use std::ops::Bound;

use engine_traits::{Cf, Record, Result, SortedRecords, WriteBatch};
use fjall::{PersistMode, Readable};

use crate::{cursor::KeyRange, engine::Inner, errors::translate};

/// As much as the log writer's batches, and a small part of a memtable.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Keys of a range that are deleted one by one in a batch.
const BATCH_DELETES_MAX: usize = 4096;

/// What is to be written.
pub(crate) enum Replacement<'a, I> {
    /// A batch does it.
    Small(WriteBatch),
    Large(Large<'a, I>),
}

pub(crate) struct Large<'a, I> {
    cf: Cf,
    range: KeyRange<'a>,
    /// Records that were taken to see how many there are.
    first: Vec<Record>,
    records: SortedRecords<'a, I>,
}

/// Looks at how much there is to do for making `records` all that `cf` holds of `start <= key < end`.
pub(crate) fn plan<'a, I: Iterator<Item = Result<Record>>>(
    inner: &Inner,
    cf: Cf,
    start: &'a [u8],
    end: &'a [u8],
    records: I,
) -> Result<Replacement<'a, I>> {
    let mut records = SortedRecords::new(records, start, end);
    let mut batch = WriteBatch::new();
    batch.delete_range(cf, start, end);
    let Some(range) = KeyRange::new(Bound::Included(start), Bound::Excluded(end)) else {
        return records.next().transpose().map(|_| Replacement::Small(batch));
    };
    let mut first = Vec::new();
    let mut size_bytes = 0;
    let is_small = loop {
        let Some(record) = records.next() else { break true };
        let (key, value) = record?;
        size_bytes += key.len() + value.len();
        first.push((key, value));
        if size_bytes > BATCH_BYTES_MAX {
            break false;
        }
    };
    let snapshot = inner.db().snapshot();
    let old = snapshot.range::<&[u8], _>(inner.keyspace(cf), range.bounds()).take(BATCH_DELETES_MAX + 1).count();
    if is_small && old <= BATCH_DELETES_MAX {
        first.iter().for_each(|(key, value)| batch.put(cf, key, value));
        return Ok(Replacement::Small(batch));
    }
    Ok(Replacement::Large(Large { cf, range, first, records }))
}

impl<I: Iterator<Item = Result<Record>>> Large<'_, I> {
    /// Ingests it.
    pub(crate) fn write(self, inner: &Inner) -> Result<()> {
        let cf = self.cf;
        let failed = |error| inner.poison("ingest", error);
        let snapshot = inner.db().snapshot();
        let old = snapshot.range::<&[u8], _>(inner.keyspace(cf), self.range.bounds());
        let mut old =
            old.map(|guard| guard.key().map_err(|e| translate("read a range to replace", cf.name(), e))).peekable();
        let mut ingestion = inner.keyspace(cf).start_ingestion().map_err(failed)?;
        for record in self.first.into_iter().map(Ok).chain(self.records) {
            let (key, value) = record?;
            while let Some(gone) = old.next_if(|old| old.as_ref().map_or(true, |old| old[..] <= key[..])) {
                let gone = gone?;
                if gone[..] != key[..] {
                    ingestion.write_tombstone(gone).map_err(failed)?;
                }
            }
            ingestion.write(key, value).map_err(failed)?;
        }
        for gone in old {
            ingestion.write_tombstone(gone?).map_err(failed)?;
        }
        let _alone = inner.alone()?;
        inner.db().persist(PersistMode::SyncData).map_err(|error| inner.poison("sync", error))?;
        ingestion.finish().map_err(failed)
    }
}
