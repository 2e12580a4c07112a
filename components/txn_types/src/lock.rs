//! Records of the lock column family.
//!
//! ```text
//! type: u8 | primary: compact bytes | ts: varint | ttl: varint
//! | 'v' len: u8, bytes                            short value
//! | 'f' ts: u64 BE                                for_update_ts
//! | 't' size: u64 BE                              txn_size
//! | 'c' ts: u64 BE                                min_commit_ts
//! | 'a' count: varint, count × compact bytes      secondaries of an async commit
//! | 'r' count: varint, count × u64 BE             rollback_ts
//! ```
//!
//! Everything after `ttl` is optional. What TiKV writes behind these (last change, transaction source, pessimistic lock
//! with conflict, generation) is not known here and ends parsing.

use tikv_util::codec::{DecodeError, Reader, encode_compact_bytes, encode_var_u64};

use crate::{Error, Result, TAG_SHORT_VALUE, TimeStamp, Value, encode_short_value};

const TAG_FOR_UPDATE_TS: u8 = b'f';
const TAG_TXN_SIZE: u8 = b't';
const TAG_MIN_COMMIT_TS: u8 = b'c';
const TAG_ASYNC_COMMIT: u8 = b'a';
const TAG_ROLLBACK_TS: u8 = b'r';

/// What the transaction will do to the key when it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockType {
    Put,
    Delete,
    /// Nothing; the lock keeps others from writing.
    Lock,
    /// Not decided: the transaction is not prewritten yet. Readers ignore this lock.
    Pessimistic,
}

impl LockType {
    /// # Errors
    ///
    /// When the byte stands for no type.
    pub fn from_u8(byte: u8) -> Result<Self> {
        match byte {
            b'P' => Ok(LockType::Put),
            b'D' => Ok(LockType::Delete),
            b'L' => Ok(LockType::Lock),
            b'S' => Ok(LockType::Pessimistic),
            _ => Err(Error::LockType(byte)),
        }
    }

    pub fn to_u8(self) -> u8 {
        match self {
            LockType::Put => b'P',
            LockType::Delete => b'D',
            LockType::Lock => b'L',
            LockType::Pessimistic => b'S',
        }
    }
}

/// The lock that a transaction in progress holds on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub lock_type: LockType,
    /// The user key whose lock decides the transaction.
    pub primary: Vec<u8>,
    /// When the transaction started.
    pub ts: TimeStamp,
    /// Milliseconds after `ts.physical()` at which others may roll the transaction back.
    pub ttl: u64,
    /// The value of a `Put`, if it is at most [`SHORT_VALUE_MAX_LEN`](crate::SHORT_VALUE_MAX_LEN) bytes long; others
    /// are in the default column family.
    pub short_value: Option<Value>,
    /// When a pessimistic transaction last checked for conflicts; zero for an optimistic one.
    pub for_update_ts: TimeStamp,
    /// About how many keys the transaction locks; 0 if unknown.
    pub txn_size: u64,
    /// The transaction must not commit before this; zero for no limit.
    pub min_commit_ts: TimeStamp,
    /// `Some` for an async commit: the user keys of its other locks, in the primary's lock; empty in the others.
    pub async_commit_secondaries: Option<Vec<Vec<u8>>>,
    /// Start timestamps of transactions whose rollback of this key must be written when this one commits at the same
    /// timestamp.
    pub rollback_ts: Vec<TimeStamp>,
}

impl Lock {
    /// A lock without the rarer fields. `ttl` in milliseconds.
    pub fn new(lock_type: LockType, primary: Vec<u8>, ts: TimeStamp, ttl: u64, short_value: Option<Value>) -> Self {
        Lock {
            lock_type,
            primary,
            ts,
            ttl,
            short_value,
            for_update_ts: TimeStamp::zero(),
            txn_size: 0,
            min_commit_ts: TimeStamp::zero(),
            async_commit_secondaries: None,
            rollback_ts: Vec::new(),
        }
    }

    /// Parses a record up to the first tag that is unknown here.
    ///
    /// # Errors
    ///
    /// When the type is unknown or a field is cut off.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let lock_type = LockType::from_u8(reader.u8().map_err(Error::Lock)?)?;
        Self::parse_fields(lock_type, reader).map_err(Error::Lock)
    }

    fn parse_fields(lock_type: LockType, mut reader: Reader<'_>) -> std::result::Result<Self, DecodeError> {
        let primary = reader.compact_bytes()?.to_vec();
        let ts = reader.var_u64()?.into();
        let ttl = reader.var_u64()?;
        let mut lock = Lock::new(lock_type, primary, ts, ttl, None);
        while !reader.is_empty() {
            match reader.u8()? {
                TAG_SHORT_VALUE => {
                    let len = reader.u8()?;
                    lock.short_value = Some(reader.slice(len.into())?.to_vec());
                }
                TAG_FOR_UPDATE_TS => lock.for_update_ts = reader.u64()?.into(),
                TAG_TXN_SIZE => lock.txn_size = reader.u64()?,
                TAG_MIN_COMMIT_TS => lock.min_commit_ts = reader.u64()?.into(),
                TAG_ASYNC_COMMIT => {
                    // Collecting reserves nothing up front: the count may be a lie.
                    let secondaries = (0..reader.var_u64()?)
                        .map(|_| reader.compact_bytes().map(<[u8]>::to_vec))
                        .collect::<std::result::Result<_, _>>()?;
                    lock.async_commit_secondaries = Some(secondaries);
                }
                TAG_ROLLBACK_TS => {
                    lock.rollback_ts = (0..reader.var_u64()?)
                        .map(|_| reader.u64().map(TimeStamp::new))
                        .collect::<std::result::Result<_, _>>()?;
                }
                _ => break,
            }
        }
        Ok(lock)
    }

    /// The bytes of the record.
    ///
    /// # Panics
    ///
    /// When the short value is longer than [`SHORT_VALUE_MAX_LEN`](crate::SHORT_VALUE_MAX_LEN).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut buf = Vec::new();
        buf.push(self.lock_type.to_u8());
        encode_compact_bytes(&mut buf, &self.primary);
        encode_var_u64(&mut buf, self.ts.into_inner());
        encode_var_u64(&mut buf, self.ttl);
        if let Some(value) = &self.short_value {
            encode_short_value(&mut buf, value);
        }
        for (tag, value) in [
            (TAG_FOR_UPDATE_TS, self.for_update_ts.into_inner()),
            (TAG_TXN_SIZE, self.txn_size),
            (TAG_MIN_COMMIT_TS, self.min_commit_ts.into_inner()),
        ] {
            if value != 0 {
                buf.push(tag);
                buf.extend(value.to_be_bytes());
            }
        }
        if let Some(secondaries) = &self.async_commit_secondaries {
            buf.push(TAG_ASYNC_COMMIT);
            encode_var_u64(&mut buf, secondaries.len() as u64);
            for key in secondaries {
                encode_compact_bytes(&mut buf, key);
            }
        }
        if !self.rollback_ts.is_empty() {
            buf.push(TAG_ROLLBACK_TS);
            encode_var_u64(&mut buf, self.rollback_ts.len() as u64);
            for ts in &self.rollback_ts {
                buf.extend(ts.into_inner().to_be_bytes());
            }
        }
        buf
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    #[test]
    fn records_match_hand_written_bytes() {
        let put = Lock::new(LockType::Put, b"pk".to_vec(), 1.into(), 300, Some(b"val".to_vec()));
        assert_eq!(put.to_bytes(), b"P\x04pk\x01\xac\x02v\x03val");
        let pessimistic = Lock {
            for_update_ts: 9.into(),
            txn_size: 2,
            min_commit_ts: 10.into(),
            async_commit_secondaries: Some(vec![b"a".to_vec(), b"".to_vec()]),
            rollback_ts: vec![11.into()],
            ..Lock::new(LockType::Pessimistic, b"pk".to_vec(), 8.into(), 0, None)
        };
        assert_eq!(
            pessimistic.to_bytes(),
            b"S\x04pk\x08\0f\0\0\0\0\0\0\0\x09t\0\0\0\0\0\0\0\x02c\0\0\0\0\0\0\0\x0aa\x02\x02a\0r\x01\0\0\0\0\0\0\0\x0b"
        );
    }

    #[test]
    fn parsing_stops_at_an_unknown_tag() {
        let lock = Lock::parse(b"L\x02k\x01\x02v\x01x?t\0\0\0\0\0\0\0\x02").unwrap();
        assert_eq!(lock.short_value.as_deref(), Some(&b"x"[..]));
        assert_eq!(lock.txn_size, 0);
    }

    #[test]
    fn malformed_records_are_refused() {
        assert_eq!(Lock::parse(b"X\x02k\x01\x02"), Err(Error::LockType(b'X')));
        for bytes in [
            &b""[..],
            b"P",
            b"P\x01",
            b"P\x04k",
            b"P\x02k\x01",
            b"P\x02k\x01\x02v\x02x",
            b"P\x02k\x01\x02f\0",
            b"P\x02k\x01\x02a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"P\x02k\x01\x02r\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            let result = Lock::parse(bytes);
            assert!(matches!(result, Err(Error::Lock(_))), "{bytes:?} {result:?}");
        }
    }

    fn lock() -> impl Strategy<Value = Lock> {
        let lock_type =
            prop_oneof![Just(LockType::Put), Just(LockType::Delete), Just(LockType::Lock), Just(LockType::Pessimistic)];
        let bytes = |len_max: usize| vec(any::<u8>(), 0..=len_max);
        (
            (lock_type, bytes(20), any::<u64>(), any::<u64>(), option::of(bytes(255))),
            (0..3_u64, any::<u64>(), 0..3_u64),
            (option::of(vec(bytes(20), 0..4)), vec(any::<u64>(), 0..4)),
        )
            .prop_map(
                |(
                    (lock_type, primary, ts, ttl, short_value),
                    (for_update_ts, txn_size, min_commit_ts),
                    (async_commit_secondaries, rollback_ts),
                )| Lock {
                    for_update_ts: for_update_ts.into(),
                    txn_size,
                    min_commit_ts: min_commit_ts.into(),
                    async_commit_secondaries,
                    rollback_ts: rollback_ts.into_iter().map(TimeStamp::new).collect(),
                    ..Lock::new(lock_type, primary, ts.into(), ttl, short_value)
                },
            )
    }

    proptest! {
        #[test]
        fn what_was_written_is_parsed(lock in lock()) {
            prop_assert_eq!(Lock::parse(&lock.to_bytes())?, lock);
        }

        #[test]
        fn damaged_records_never_panic(
            lock in lock(), cut: prop::sample::Index, at: prop::sample::Index, byte: u8
        ) {
            let mut bytes = lock.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
            let _ = Lock::parse(&bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..40)) {
            let _ = Lock::parse(&bytes);
        }
    }
}
