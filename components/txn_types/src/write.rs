//! Records of the write column family.
//!
//! ```text
//! type: u8 | start_ts: varint
//! | 'v' len: u8, bytes                    short value
//! | 'R'                                   overlapped rollback
//! | 'F' ts: u64 BE                        GC fence
//! | 'l' ts: u64 BE, versions: varint      last change
//! | 'S' source: varint                    transaction source
//! ```
//!
//! Everything after `start_ts` is optional.

use tikv_util::codec::{DecodeError, Reader, encode_var_u64};

use crate::{Error, Result, TAG_SHORT_VALUE, TimeStamp, Value, encode_short_value};

const TAG_OVERLAPPED_ROLLBACK: u8 = b'R';
const TAG_GC_FENCE: u8 = b'F';
const TAG_LAST_CHANGE: u8 = b'l';
const TAG_TXN_SOURCE: u8 = b'S';

/// What a transaction did to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteType {
    Put,
    Delete,
    /// Locked the key and committed without changing it.
    Lock,
    /// Nothing: the transaction must not commit any more.
    Rollback,
}

impl WriteType {
    /// # Errors
    ///
    /// When the byte stands for no type.
    #[inline]
    pub fn from_u8(byte: u8) -> Result<Self> {
        match byte {
            b'P' => Ok(WriteType::Put),
            b'D' => Ok(WriteType::Delete),
            b'L' => Ok(WriteType::Lock),
            b'R' => Ok(WriteType::Rollback),
            _ => Err(Error::WriteType(byte)),
        }
    }

    pub fn to_u8(self) -> u8 {
        match self {
            WriteType::Put => b'P',
            WriteType::Delete => b'D',
            WriteType::Lock => b'L',
            WriteType::Rollback => b'R',
        }
    }
}

/// Where a [`WriteType::Lock`] or [`WriteType::Rollback`] says the last version that changed the key is, so that a
/// reader need not step over all records in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastChange {
    #[default]
    Unknown,
    /// There is no older `Put` or `Delete`.
    NotExist,
    Exist {
        /// The commit timestamp of the last `Put` or `Delete`; not zero.
        commit_ts: TimeStamp,
        /// About how many records there are from it to this one.
        estimated_versions: u64,
    },
}

impl LastChange {
    /// A zero timestamp stands for the cases that have none, told apart by the number of versions.
    fn from_parts(commit_ts: TimeStamp, estimated_versions: u64) -> Self {
        match (commit_ts.is_zero(), estimated_versions) {
            (true, 0) => LastChange::Unknown,
            (true, _) => LastChange::NotExist,
            (false, _) => LastChange::Exist { commit_ts, estimated_versions },
        }
    }

    fn to_parts(self) -> (TimeStamp, u64) {
        match self {
            LastChange::Unknown => (TimeStamp::zero(), 0),
            LastChange::NotExist => (TimeStamp::zero(), 1),
            LastChange::Exist { commit_ts, estimated_versions } => (commit_ts, estimated_versions),
        }
    }
}

/// A record that owns its short value. The timestamp of its commit is in its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub write_type: WriteType,
    pub start_ts: TimeStamp,
    /// The value of a `Put`, if it is at most [`SHORT_VALUE_MAX_LEN`](crate::SHORT_VALUE_MAX_LEN) bytes long; others
    /// are in the default column family.
    pub short_value: Option<Value>,
    /// The transaction that started at this record's commit timestamp was rolled back: its rollback record would have
    /// had the key of this one, and was noted here instead.
    pub has_overlapped_rollback: bool,
    /// `Some` if this record was rewritten to note the rollback: the commit timestamp of the next version then, or zero
    /// if there was none. If that version is gone, this one is garbage as well.
    pub gc_fence: Option<TimeStamp>,
    pub last_change: LastChange,
    /// Who wrote the transaction, for those that replicate between clusters; 0 for users.
    pub txn_source: u64,
}

impl Write {
    /// A record without the rarer fields.
    pub fn new(write_type: WriteType, start_ts: TimeStamp, short_value: Option<Value>) -> Self {
        Write {
            write_type,
            start_ts,
            short_value,
            has_overlapped_rollback: false,
            gc_fence: None,
            last_change: LastChange::Unknown,
            txn_source: 0,
        }
    }

    pub fn as_ref(&self) -> WriteRef<'_> {
        WriteRef {
            write_type: self.write_type,
            start_ts: self.start_ts,
            short_value: self.short_value.as_deref(),
            has_overlapped_rollback: self.has_overlapped_rollback,
            gc_fence: self.gc_fence,
            last_change: self.last_change,
            txn_source: self.txn_source,
        }
    }

    /// See [`WriteRef::to_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        self.as_ref().to_bytes()
    }
}

/// A record whose short value borrows from the bytes it was parsed from. Fields as in [`Write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRef<'a> {
    pub write_type: WriteType,
    pub start_ts: TimeStamp,
    pub short_value: Option<&'a [u8]>,
    pub has_overlapped_rollback: bool,
    pub gc_fence: Option<TimeStamp>,
    pub last_change: LastChange,
    pub txn_source: u64,
}

impl<'a> WriteRef<'a> {
    /// Parses a record up to the first tag that is unknown here.
    ///
    /// # Errors
    ///
    /// When the type is unknown or a field is cut off.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let write_type = WriteType::from_u8(reader.u8().map_err(Error::Write)?)?;
        Self::parse_fields(write_type, reader).map_err(Error::Write)
    }

    /// The value of a record that is nothing but a `Put` of a short value, which most are: without parsing the rest.
    /// `None` for any other, also for one that is corrupt.
    #[inline]
    pub fn plain_put(bytes: &'a [u8]) -> Option<&'a [u8]> {
        let mut reader = Reader::new(bytes);
        let is_put = reader.u8().is_ok_and(|byte| byte == WriteType::Put.to_u8());
        if !is_put || reader.skip_var_u64().is_err() {
            return None;
        }
        match reader.rest() {
            [TAG_SHORT_VALUE, len, value @ ..] if value.len() == usize::from(*len) => Some(value),
            _ => None,
        }
    }

    #[inline]
    fn parse_fields(write_type: WriteType, mut reader: Reader<'a>) -> std::result::Result<Self, DecodeError> {
        let mut write = WriteRef {
            write_type,
            start_ts: reader.var_u64()?.into(),
            short_value: None,
            has_overlapped_rollback: false,
            gc_fence: None,
            last_change: LastChange::Unknown,
            txn_source: 0,
        };
        while !reader.is_empty() {
            match reader.u8()? {
                TAG_SHORT_VALUE => {
                    let len = reader.u8()?;
                    write.short_value = Some(reader.slice(len.into())?);
                }
                TAG_OVERLAPPED_ROLLBACK => write.has_overlapped_rollback = true,
                TAG_GC_FENCE => write.gc_fence = Some(reader.u64()?.into()),
                TAG_LAST_CHANGE => {
                    let commit_ts = reader.u64()?.into();
                    write.last_change = LastChange::from_parts(commit_ts, reader.var_u64()?);
                }
                TAG_TXN_SOURCE => write.txn_source = reader.var_u64()?,
                _ => break,
            }
        }
        Ok(write)
    }

    /// The bytes of the record.
    ///
    /// # Panics
    ///
    /// When the short value is longer than [`SHORT_VALUE_MAX_LEN`](crate::SHORT_VALUE_MAX_LEN).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut buf = Vec::new();
        buf.push(self.write_type.to_u8());
        encode_var_u64(&mut buf, self.start_ts.into_inner());
        if let Some(value) = self.short_value {
            encode_short_value(&mut buf, value);
        }
        if self.has_overlapped_rollback {
            buf.push(TAG_OVERLAPPED_ROLLBACK);
        }
        if let Some(ts) = self.gc_fence {
            buf.push(TAG_GC_FENCE);
            buf.extend(ts.into_inner().to_be_bytes());
        }
        if self.last_change != LastChange::Unknown {
            let (commit_ts, estimated_versions) = self.last_change.to_parts();
            buf.push(TAG_LAST_CHANGE);
            buf.extend(commit_ts.into_inner().to_be_bytes());
            encode_var_u64(&mut buf, estimated_versions);
        }
        if self.txn_source != 0 {
            buf.push(TAG_TXN_SOURCE);
            encode_var_u64(&mut buf, self.txn_source);
        }
        buf
    }

    pub fn to_owned(&self) -> Write {
        Write {
            write_type: self.write_type,
            start_ts: self.start_ts,
            short_value: self.short_value.map(<[u8]>::to_vec),
            has_overlapped_rollback: self.has_overlapped_rollback,
            gc_fence: self.gc_fence,
            last_change: self.last_change,
            txn_source: self.txn_source,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    #[test]
    fn records_match_hand_written_bytes() {
        let put = Write::new(WriteType::Put, 1.into(), Some(b"val".to_vec()));
        assert_eq!(put.to_bytes(), b"P\x01v\x03val");
        let rollback = Write::new(WriteType::Rollback, 300.into(), None);
        assert_eq!(rollback.to_bytes(), b"R\xac\x02");
        let delete = Write {
            has_overlapped_rollback: true,
            gc_fence: Some(0x0102.into()),
            ..Write::new(WriteType::Delete, 2.into(), None)
        };
        assert_eq!(delete.to_bytes(), b"D\x02RF\0\0\0\0\0\0\x01\x02");
        let lock = Write {
            last_change: LastChange::Exist { commit_ts: 7.into(), estimated_versions: 300 },
            txn_source: 1,
            ..Write::new(WriteType::Lock, 3.into(), None)
        };
        assert_eq!(lock.to_bytes(), b"L\x03l\0\0\0\0\0\0\0\x07\xac\x02S\x01");
        let lock = Write { last_change: LastChange::NotExist, ..Write::new(WriteType::Lock, 3.into(), None) };
        assert_eq!(lock.to_bytes(), b"L\x03l\0\0\0\0\0\0\0\0\x01");
    }

    #[test]
    fn parsing_stops_at_an_unknown_tag() {
        let write = WriteRef::parse(b"P\x01v\x01x?R").unwrap();
        assert_eq!(write.short_value, Some(&b"x"[..]));
        assert!(!write.has_overlapped_rollback);
    }

    #[test]
    fn malformed_records_are_refused() {
        assert_eq!(WriteRef::parse(b"X\x01"), Err(Error::WriteType(b'X')));
        for bytes in [&b""[..], b"P", b"P\x80", b"P\x01v", b"P\x01v\x02x", b"P\x01F\0", b"P\x01l\0"] {
            let result = WriteRef::parse(bytes);
            assert!(matches!(result, Err(Error::Write(_))), "{bytes:?} {result:?}");
        }
    }

    #[test]
    #[should_panic(expected = "at most 255 bytes")]
    fn a_short_value_that_is_too_long_is_not_cut_down() {
        Write::new(WriteType::Put, 1.into(), Some(vec![0; 256])).to_bytes();
    }

    fn write() -> impl Strategy<Value = Write> {
        let write_type = prop_oneof![
            Just(WriteType::Put),
            Just(WriteType::Delete),
            Just(WriteType::Lock),
            Just(WriteType::Rollback)
        ];
        let last_change = prop_oneof![
            Just(LastChange::Unknown),
            Just(LastChange::NotExist),
            (1..=u64::MAX, any::<u64>())
                .prop_map(|(ts, versions)| LastChange::Exist { commit_ts: ts.into(), estimated_versions: versions })
        ];
        (
            (write_type, any::<u64>(), option::of(vec(any::<u8>(), 0..=255))),
            (any::<bool>(), option::of(any::<u64>()), last_change, any::<u64>()),
        )
            .prop_map(|((write_type, start_ts, short_value), (overlapped, fence, last_change, source))| {
                Write {
                    has_overlapped_rollback: overlapped,
                    gc_fence: fence.map(TimeStamp::new),
                    last_change,
                    txn_source: source,
                    ..Write::new(write_type, start_ts.into(), short_value)
                }
            })
    }

    proptest! {
        #[test]
        fn what_was_written_is_parsed(write in write()) {
            let bytes = write.to_bytes();
            let is_plain = write.short_value.is_some()
                && write == Write::new(WriteType::Put, write.start_ts, write.short_value.clone());
            let plain = is_plain.then_some(write.short_value.as_deref()).flatten();
            // The longest varint is longer than timestamps are.
            if write.start_ts.into_inner() < 1 << 63 {
                prop_assert_eq!(WriteRef::plain_put(&bytes), plain);
            }
            prop_assert_eq!(WriteRef::parse(&bytes)?.to_owned(), write);
        }

        #[test]
        fn damaged_records_never_panic(
            write in write(), cut: prop::sample::Index, at: prop::sample::Index, byte: u8
        ) {
            let mut bytes = write.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = WriteRef::parse(&bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..40)) {
            let _ = WriteRef::parse(&bytes);
        }
    }
}
