//! Which versions nobody can read any more.
//!
//! **Owns** the rule by which garbage collection drops records of the write column family.
//!
//! **How it works.** Readers at or above the *safe point* see, of the versions of a user key that were committed at or
//! below it, the newest one that changed the key. All older ones go, and with it records that change nothing. If that
//! newest one is a deletion, it goes as well: nothing is left that it would have to hide.
//!
//! **Invariants.** A reader at a timestamp that is not below the safe point finds the same before and after. What cannot
//! be parsed stays, and so does everything older.
//!
//! **Must not** decide when to collect, nor who still reads: the old data is left to whoever holds it.

use txn_types::{TimeStamp, WriteRef, WriteType};

/// Goes through the versions of user keys, newest first, and says which are garbage.
#[derive(Debug)]
pub(crate) struct Collector {
    safe_point: TimeStamp,
    stem: Vec<u8>,
    passed: Passed,
}

/// What has been seen of a user key, at or below the safe point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    Nothing,
    /// What readers at the safe point see.
    Visible,
    /// A record that cannot be parsed.
    Unknown,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Drop,
    /// The value in the default column family, written at this timestamp, goes as well.
    DropWithValue(TimeStamp),
}

impl Collector {
    pub(crate) fn new(safe_point: u64) -> Self {
        Self { safe_point: safe_point.into(), stem: Vec::new(), passed: Passed::Nothing }
    }

    /// On the record `value` under the key of `stem` and `suffix`. `has_older` is whether there may be older versions that
    /// will not be asked about.
    pub(crate) fn judge(&mut self, stem: &[u8], suffix: u64, value: &[u8], has_older: bool) -> Verdict {
        if self.stem != stem {
            self.stem.clear();
            self.stem.extend_from_slice(stem);
            self.passed = Passed::Nothing;
        }
        if self.passed == Passed::Unknown || TimeStamp::new(!suffix) > self.safe_point {
            return Verdict::Keep;
        }
        let Ok(record) = WriteRef::parse(value) else {
            self.passed = Passed::Unknown;
            return Verdict::Keep;
        };
        match record.write_type {
            WriteType::Put if self.passed == Passed::Visible && record.short_value.is_none() => {
                Verdict::DropWithValue(record.start_ts)
            }
            _ if self.passed == Passed::Visible => Verdict::Drop,
            WriteType::Rollback | WriteType::Lock => Verdict::Drop,
            WriteType::Put => {
                self.passed = Passed::Visible;
                Verdict::Keep
            }
            WriteType::Delete => {
                self.passed = Passed::Visible;
                if has_older { Verdict::Keep } else { Verdict::Drop }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use txn_types::Write;

    use super::*;

    fn judge(versions: &[(u64, WriteType, bool)], has_older: bool) -> Vec<Verdict> {
        let mut collector = Collector::new(10);
        let judge = |(ts, write_type, is_short): &(u64, WriteType, bool)| {
            let write = Write::new(*write_type, TimeStamp::new(ts - 1), is_short.then(Vec::new));
            collector.judge(b"stem", !ts, &write.to_bytes(), has_older)
        };
        versions.iter().map(judge).collect()
    }

    #[test]
    fn what_a_reader_at_the_safe_point_sees_stays() {
        use Verdict::{Drop, DropWithValue, Keep};
        use WriteType::{Delete, Lock, Put, Rollback};
        let versions = [
            (12, Rollback, false),
            (11, Put, true),
            (10, Rollback, false),
            (9, Lock, false),
            (8, Put, true),
            (7, Delete, false),
            (6, Put, false),
            (5, Put, true),
        ];
        assert_eq!(judge(&versions, true), [Keep, Keep, Drop, Drop, Keep, Drop, DropWithValue(5.into()), Drop]);
        let deleted = [(11, Put, true), (10, Delete, false), (9, Put, true)];
        assert_eq!(judge(&deleted, false), [Keep, Drop, Drop]);
        assert_eq!(judge(&deleted, true), [Keep, Keep, Drop]);
    }

    #[test]
    fn behind_a_record_that_cannot_be_parsed_nothing_is_garbage() {
        let mut collector = Collector::new(10);
        let put = Write::new(WriteType::Put, 1.into(), Some(Vec::new())).to_bytes();
        assert_eq!(collector.judge(b"a", !9, b"?", false), Verdict::Keep);
        assert_eq!(collector.judge(b"a", !8, &put, false), Verdict::Keep);
        assert_eq!(collector.judge(b"a", !7, &put, false), Verdict::Keep);
        assert_eq!(collector.judge(b"b", !8, &put, false), Verdict::Keep);
        assert_eq!(collector.judge(b"b", !7, &put, false), Verdict::Drop);
    }
}
