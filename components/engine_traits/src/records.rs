//! Records in bulk.

use crate::{Error, KEY_BYTES_MAX, Result};

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// Passes on what [`KvEngine::replace_range`](crate::KvEngine::replace_range) is given as long as it is what was promised:
/// engines rely on the order, some of them by asserting it.
pub struct SortedRecords<'a, I> {
    records: I,
    start: &'a [u8],
    end: &'a [u8],
    last: Vec<u8>,
}

impl<'a, I: std::iter::Iterator<Item = Result<Record>>> SortedRecords<'a, I> {
    /// Checks that the keys of `records` ascend, and that `start <= key < end`.
    pub fn new(records: I, start: &'a [u8], end: &'a [u8]) -> Self {
        Self { records, start, end, last: Vec::new() }
    }

    fn check(&mut self, key: &[u8]) -> Result<()> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyLength { bytes: key.len() });
        }
        let reason = if key < self.start || key >= self.end {
            "a key outside the range"
        } else if key <= self.last.as_slice() {
            "keys are not sorted"
        } else {
            self.last.clear();
            self.last.extend_from_slice(key);
            return Ok(());
        };
        Err(Error::Corruption { place: "records to replace a range by".into(), reason: reason.into() })
    }
}

impl<I: std::iter::Iterator<Item = Result<Record>>> std::iter::Iterator for SortedRecords<'_, I> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        Some(record.and_then(|(key, value)| self.check(&key).map(|()| (key, value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&[u8]]) -> Result<Vec<Record>> {
        let records = keys.iter().map(|key| Ok((key.to_vec(), b"v".to_vec())));
        SortedRecords::new(records, b"b", b"d").collect()
    }

    #[test]
    fn what_is_not_sorted_or_not_in_the_range_is_refused() {
        assert_eq!(check(&[b"b", b"ba", b"c\xff"]).unwrap().len(), 3);
        for keys in [&[&b"a"[..]][..], &[b"d"], &[b"c", b"b"], &[b"c", b"c"]] {
            assert!(matches!(check(keys), Err(Error::Corruption { .. })), "{keys:?}");
        }
        let long = vec![b'c'; KEY_BYTES_MAX + 1];
        assert!(matches!(check(&[&long]), Err(Error::KeyLength { .. })));
    }
}
