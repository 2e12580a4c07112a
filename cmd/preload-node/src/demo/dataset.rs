//! What is in the demo's region.
//!
//! **Owns** the rows, their versions, and what a read at any timestamp must return.
//!
//! **How it works.** Keys are record keys as TiDB makes them. Each version is a transaction that updates all rows. It is
//! stored as TiKV stores it: a record in the write column family that holds the value if that is short, or else points
//! to the default column family. Values come from a generator that is seeded with row and version, so that none is kept.
//!
//! **Invariants.** The same row and version make the same bytes, in every process.
//!
//! **Must not** write anything: it makes the requests.

use std::ops::Range;

use engine_traits::Cf;
use kvproto::raft_cmdpb::Request;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use test_raftstore::requests;
use txn_types::{Key, SHORT_VALUE_MAX_LEN, TimeStamp, Write, WriteType};

use crate::error::{Error, Result};

/// The clock of the placement driver at the first transaction: 2024-12-24 00:26:40 UTC.
const FIRST_PHYSICAL_MS: u64 = 1_735_000_000_000;
/// From one transaction to the next.
const BETWEEN_VERSIONS_MS: u64 = 1_000;
/// From the start of a transaction to its commit.
const COMMIT_TAKES_MS: u64 = 10;

const TABLE_ID: i64 = 104;
/// More than any number of versions: row and version make a number of their own for each value.
const VERSIONS_END: u64 = 1 << 10;
/// Puts in one Raft command: well below `raft-entry-max-size` with the largest values, and few enough that progress is
/// seen.
const BATCH_VALUES_BYTES: u64 = 256 << 10;
const BATCH_PUTS_MAX: u64 = 1_000;

/// Key and record of a version, without its value.
const OVERHEAD_BYTES: u64 = 48;
/// The whole region travels in one Raft snapshot, in one message.
const SIZE_MAX_MIB: u64 = 512;

#[derive(Clone, Copy)]
pub(super) struct Dataset {
    rows: u64,
    versions: u64,
    value_bytes: usize,
}

impl Dataset {
    pub(super) fn new(rows: u64, versions: u64, value_bytes: u32) -> Result<Self> {
        debug_assert!(versions < VERSIONS_END, "the command line refuses more");
        let dataset = Self { rows, versions, value_bytes: value_bytes as usize };
        let size_mib = dataset.size_bytes() >> 20;
        if size_mib > SIZE_MAX_MIB {
            return Err(Error::TooMuchData { rows, versions, size_mib, max_mib: SIZE_MAX_MIB });
        }
        Ok(dataset)
    }

    /// The same with at most `rows` rows.
    pub(super) fn with_rows_at_most(self, rows: u64) -> Self {
        Self { rows: self.rows.min(rows), ..self }
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn versions(&self) -> u64 {
        self.versions
    }

    pub(super) fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Versions of all rows.
    pub(super) fn records(&self) -> u64 {
        self.rows * self.versions
    }

    /// About what keys and values take on disk.
    pub(super) fn size_bytes(&self) -> u64 {
        self.records() * (self.value_bytes as u64 + OVERHEAD_BYTES)
    }

    /// The user key of a row.
    pub(super) fn key(&self, row: u64) -> Vec<u8> {
        // Integers as TiDB encodes them: the sign bit flipped, so that bytes compare as the numbers do.
        let ordered = |id: u64| (id ^ (1 << 63)).to_be_bytes();
        let mut key = b"t".to_vec();
        key.extend_from_slice(&ordered(TABLE_ID.cast_unsigned()));
        key.extend_from_slice(b"_r");
        key.extend_from_slice(&ordered(row));
        key
    }

    /// What a read of `row` at `ts` returns.
    pub(super) fn value_at(&self, row: u64, ts: TimeStamp) -> Option<Vec<u8>> {
        let newest = (0..self.versions).rev().find(|version| commit_ts(*version) <= ts)?;
        Some(self.value(row, newest))
    }

    pub(super) fn random_row(&self, random: &mut StdRng) -> u64 {
        random.random_range(0..self.rows)
    }

    /// Any time from the first transaction's start, when there is nothing yet, to a while after the last one.
    pub(super) fn random_ts(&self, random: &mut StdRng) -> TimeStamp {
        random.random_range(start_ts(0).into_inner()..start_ts(self.versions).into_inner()).into()
    }

    /// All puts, oldest version first, in batches that are worth a Raft command each; with the number of versions in
    /// each batch.
    pub(super) fn batches(&self) -> impl Iterator<Item = (u64, Vec<Request>)> {
        let rows_per_batch = (BATCH_VALUES_BYTES / self.value_bytes.max(1) as u64).clamp(1, BATCH_PUTS_MAX);
        let starts = (0..self.rows).step_by(rows_per_batch as usize);
        (0..self.versions).flat_map(move |version| {
            starts.clone().map(move |start| {
                let rows = start..self.rows.min(start + rows_per_batch);
                (rows.end - rows.start, self.puts(version, rows))
            })
        })
    }

    fn puts(&self, version: u64, rows: Range<u64>) -> Vec<Request> {
        let mut puts = Vec::new();
        for row in rows {
            let key = Key::from_raw(&self.key(row));
            let value = self.value(row, version);
            let mut write = Write::new(WriteType::Put, start_ts(version), None);
            if value.len() <= SHORT_VALUE_MAX_LEN {
                write.short_value = Some(value);
            } else {
                let key = key.clone().append_ts(start_ts(version));
                puts.push(requests::put(Cf::Default, key.as_encoded(), &value));
            }
            let key = key.append_ts(commit_ts(version));
            puts.push(requests::put(Cf::Write, key.as_encoded(), &write.to_bytes()));
        }
        puts
    }

    fn value(&self, row: u64, version: u64) -> Vec<u8> {
        let mut value = vec![0; self.value_bytes];
        StdRng::seed_from_u64(row * VERSIONS_END + version).fill_bytes(&mut value);
        value
    }
}

fn start_ts(version: u64) -> TimeStamp {
    TimeStamp::compose(FIRST_PHYSICAL_MS + version * BETWEEN_VERSIONS_MS, 0)
}

fn commit_ts(version: u64) -> TimeStamp {
    TimeStamp::compose(FIRST_PHYSICAL_MS + version * BETWEEN_VERSIONS_MS + COMMIT_TAKES_MS, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_see_the_newest_version_that_was_committed() {
        let dataset = Dataset::new(3, 2, 100).unwrap();
        let just_before = |ts: TimeStamp| TimeStamp::from(ts.into_inner() - 1);
        assert_eq!(dataset.value_at(1, just_before(commit_ts(0))), None);
        assert_eq!(dataset.value_at(1, commit_ts(0)), Some(dataset.value(1, 0)));
        assert_eq!(dataset.value_at(1, just_before(commit_ts(1))), Some(dataset.value(1, 0)));
        assert_eq!(dataset.value_at(1, TimeStamp::max()), Some(dataset.value(1, 1)));
        assert_ne!(dataset.value(1, 0), dataset.value(1, 1));
        assert_ne!(dataset.value(1, 0), dataset.value(2, 0));
    }

    #[test]
    fn batches_hold_every_version_once_and_long_values_apart() {
        for (value_bytes, puts_per_version) in [(255, 1), (256, 2)] {
            let dataset = Dataset::new(2_500, 2, value_bytes).unwrap();
            let batches: Vec<_> = dataset.batches().collect();
            assert_eq!(batches.iter().map(|(versions, _)| versions).sum::<u64>(), dataset.records());
            let puts: Vec<_> = batches.iter().flat_map(|(_, puts)| puts).map(|put| put.get_put()).collect();
            assert_eq!(puts.len(), 5_000 * puts_per_version);
            let mut keys: Vec<_> = puts.iter().map(|put| (put.get_cf(), put.get_key())).collect();
            keys.sort();
            keys.dedup();
            assert_eq!(keys.len(), puts.len(), "a version was written twice");
        }
    }

    #[test]
    fn more_than_one_snapshot_carries_is_refused() {
        let error = Dataset::new(1_000_000, 8, 100).err().unwrap();
        assert!(error.to_string().starts_with("1000000 rows x 8 versions make about 1129 MiB"), "{error}");
    }
}
