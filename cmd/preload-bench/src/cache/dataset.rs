//! What is stored: records of a table, with several versions each, as TiKV stores them.
//!
//! **Owns** keys and values, and what order random ones come in.
//!
//! **How it works.** A user key is the 19 bytes of a record key (`t`, table, `_r`, row), memcomparable-encoded; a version
//! is a write record with a short value of 64 to 128 bytes. All of it is a function of row and version, so that nothing
//! has to be kept.
//!
//! **Invariants.** Keys and values are the same in every run.

use std::fmt;

use engine_traits::{Cf, WriteBatch};
use txn_types::{Key, TimeStamp, Write, WriteType};

const TABLE: u64 = 110;

/// How much there is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) user_keys: u64,
    pub(crate) versions: u64,
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('x').and_then(|(keys, versions)| Some((keys.parse().ok()?, versions.parse().ok()?)));
        match numbers {
            Some((user_keys, versions)) if user_keys > 0 && versions > 0 => Ok(Self { user_keys, versions }),
            _ => Err(format!("{text} is not USER_KEYSxVERSIONS")),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.user_keys, self.versions)
    }
}

impl Shape {
    pub(crate) fn entries(self) -> u64 {
        self.user_keys * self.versions
    }

    /// The key of a random version of a random row.
    pub(crate) fn random_key(self, numbers: &mut Numbers) -> Vec<u8> {
        data_key(numbers.below(self.user_keys), numbers.below(self.versions))
    }
}

/// Numbers that look random (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

pub(crate) fn raw_key(row: u64) -> Vec<u8> {
    [b"t".as_slice(), &TABLE.to_be_bytes(), b"_r", &row.to_be_bytes()].concat()
}

/// When a version was committed; versions count from 0, the oldest.
pub(crate) fn commit_ts(version: u64) -> TimeStamp {
    // As large as timestamps of today are.
    TimeStamp::new((1_750_000_000_000 + version * 1000) << 18)
}

pub(crate) fn data_key(row: u64, version: u64) -> Vec<u8> {
    keys::data_key(Key::from_raw(&raw_key(row)).append_ts(commit_ts(version)).as_encoded())
}

pub(crate) fn record(row: u64, version: u64) -> Vec<u8> {
    let mut numbers = Numbers(mix(row) ^ version);
    let len = 64 + numbers.below(65) as usize;
    let value = (0..len).map(|_| numbers.next() as u8).collect();
    Write::new(WriteType::Put, TimeStamp::new(commit_ts(version).into_inner() - 5), Some(value)).to_bytes()
}

/// All entries in order, in batches.
pub(crate) fn batches(shape: Shape, rows_per_batch: u64) -> impl Iterator<Item = WriteBatch> {
    (0..shape.user_keys).step_by(rows_per_batch as usize).map(move |first| {
        let mut batch = WriteBatch::new();
        for row in first..(first + rows_per_batch).min(shape.user_keys) {
            for version in (0..shape.versions).rev() {
                batch.put(Cf::Write, &data_key(row, version), &record(row, version));
            }
        }
        batch
    })
}

/// A batch of new versions of random rows, each greater than all before.
pub(crate) fn random_batch(shape: Shape, numbers: &mut Numbers, version: u64, entries: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..entries {
        let row = numbers.below(shape.user_keys);
        batch.put(Cf::Write, &data_key(row, version), &record(row, version));
    }
    batch
}

/// A batch of random versions that are there already.
pub(crate) fn random_version_batch(shape: Shape, numbers: &mut Numbers, entries: usize) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..entries {
        let (row, version) = (numbers.below(shape.user_keys), numbers.below(shape.versions));
        batch.put(Cf::Write, &data_key(row, version), &record(row, version));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_those_of_the_figures() {
        let shape: Shape = "20x3".parse().unwrap();
        let all: Vec<_> = batches(shape, 7).collect();
        assert_eq!(all.iter().map(WriteBatch::len).sum::<usize>(), 60);
        let entry_bytes = all.iter().map(WriteBatch::size_bytes).sum::<usize>() / 60;
        assert!((138..150).contains(&entry_bytes), "{entry_bytes}");
        assert!(data_key(1, 1) < data_key(1, 0) && data_key(1, 0) < data_key(2, 1));
        assert_eq!(shape.to_string(), "20x3");
        assert!("20".parse::<Shape>().is_err() && "0x1".parse::<Shape>().is_err());
    }
}
