//! Keys as engines see them.
//!
//! **Owns** the form of a key: the user key as memcomparable bytes, then, in the default and write column families, the
//! version's timestamp, descending.
//!
//! **Invariants.** Encoded keys compare by user key first, then newest version first; no user key's versions lie
//! between those of another.
//!
//! **Must not** trust its bytes: [`Key::from_encoded`] takes what an engine returned without looking at it, so
//! everything that looks inside returns a `Result`.

use std::fmt;

use tikv_util::codec::{DecodeError, DecodeErrorKind, Reader, encode_bytes, encode_u64_desc};

use crate::{Error, Result, TimeStamp};

/// Bytes of an encoded timestamp.
pub const TS_LEN: usize = size_of::<u64>();

/// An encoded key. Whether a timestamp is appended is for the caller to know, as in TiKV: the bytes do not tell.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

impl Key {
    /// Encodes a user key; appends no timestamp.
    pub fn from_raw(raw: &[u8]) -> Self {
        Key(encode_bytes(raw))
    }

    /// Takes encoded bytes as they are.
    pub fn from_encoded(encoded: Vec<u8>) -> Self {
        Key(encoded)
    }

    pub fn as_encoded(&self) -> &Vec<u8> {
        &self.0
    }

    pub fn into_encoded(self) -> Vec<u8> {
        self.0
    }

    /// The user key, whether or not a timestamp is appended.
    ///
    /// # Errors
    ///
    /// When this is not an encoded user key followed by nothing or by a timestamp.
    pub fn to_raw(&self) -> Result<Vec<u8>> {
        let mut reader = Reader::new(&self.0);
        let raw = reader.bytes().map_err(Error::Key)?;
        match reader.rest().len() {
            0 | TS_LEN => Ok(raw),
            left => {
                Err(Error::Key(DecodeError { kind: DecodeErrorKind::TrailingBytes { left }, offset: reader.offset() }))
            }
        }
    }

    /// Like [`to_raw`](Self::to_raw), for the last use of the key.
    pub fn into_raw(self) -> Result<Vec<u8>> {
        self.to_raw()
    }

    /// The key of the version `ts`. The key must not have a timestamp yet.
    #[must_use]
    pub fn append_ts(mut self, ts: TimeStamp) -> Self {
        self.0.extend(encode_u64_desc(ts.into_inner()));
        self
    }

    /// The appended timestamp.
    ///
    /// # Errors
    ///
    /// When the key is too short to end in one.
    pub fn decode_ts(&self) -> Result<TimeStamp> {
        Self::split_on_ts_for(&self.0).map(|(_, ts)| ts)
    }

    /// Takes the appended timestamp off.
    ///
    /// # Errors
    ///
    /// When the key is too short to end in one.
    pub fn truncate_ts(mut self) -> Result<Self> {
        let (user_key, _) = Self::split_on_ts_for(&self.0)?;
        self.0.truncate(user_key.len());
        Ok(self)
    }

    /// Splits an encoded key into the encoded user key and the timestamp. Does not copy.
    ///
    /// # Errors
    ///
    /// When the key is too short to end in a timestamp.
    #[inline]
    pub fn split_on_ts_for(encoded: &[u8]) -> Result<(&[u8], TimeStamp)> {
        let (user_key, ts) = encoded.split_last_chunk::<TS_LEN>().ok_or(Error::KeyTooShort { len: encoded.len() })?;
        Ok((user_key, TimeStamp::new(!u64::from_be_bytes(*ts))))
    }

    /// Whether `encoded_with_ts` is a version of the user key whose encoded form is `encoded_user_key`. Does not copy.
    #[inline]
    pub fn is_user_key_eq(encoded_with_ts: &[u8], encoded_user_key: &[u8]) -> bool {
        Self::split_on_ts_for(encoded_with_ts).is_ok_and(|(user_key, _)| user_key == encoded_user_key)
    }
}

/// The encoded form in hexadecimal. User data: redact it where a log may be shared.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn the_encoded_form_is_tikvs() {
        let key = Key::from_raw(b"k");
        assert_eq!(key.as_encoded(), b"k\0\0\0\0\0\0\0\xf8");
        let key = key.append_ts(5.into());
        assert_eq!(key.as_encoded(), b"k\0\0\0\0\0\0\0\xf8\xff\xff\xff\xff\xff\xff\xff\xfa");
        assert_eq!(key.to_string(), "6B00000000000000F8FFFFFFFFFFFFFFFA");
        assert_eq!(format!("{key:?}"), "Key(6B00000000000000F8FFFFFFFFFFFFFFFA)");
    }

    #[test]
    fn user_keys_are_compared_without_the_timestamp() {
        let version = Key::from_raw(b"k").append_ts(5.into());
        let eq = |raw: &[u8]| Key::is_user_key_eq(version.as_encoded(), Key::from_raw(raw).as_encoded());
        assert!(eq(b"k"));
        assert!(!eq(b"l"));
        assert!(!eq(b""));
        assert!(!eq(b"a key of two groups"));
        assert!(!Key::is_user_key_eq(version.as_encoded(), b"k"));
        assert!(!Key::is_user_key_eq(b"short", b""));
    }

    #[test]
    fn malformed_keys_are_refused() {
        let short = Key::from_encoded(b"1234567".to_vec());
        assert_eq!(short.decode_ts(), Err(Error::KeyTooShort { len: 7 }));
        assert!(short.clone().truncate_ts().is_err());
        assert!(matches!(short.into_raw(), Err(Error::Key(_))));

        let mut encoded = Key::from_raw(b"k").into_encoded();
        encoded.extend(b"junk");
        let err = Key::from_encoded(encoded).to_raw().unwrap_err();
        assert_eq!(err, Error::Key(DecodeError { kind: DecodeErrorKind::TrailingBytes { left: 4 }, offset: 9 }));
    }

    proptest! {
        #[test]
        fn a_key_gives_back_its_parts(raw in vec(any::<u8>(), 0..40), ts: u64) {
            let ts = TimeStamp::new(ts);
            let user_key = Key::from_raw(&raw);
            let key = user_key.clone().append_ts(ts);
            prop_assert_eq!(&user_key.to_raw()?, &raw);
            prop_assert_eq!(&key.to_raw()?, &raw);
            prop_assert_eq!(key.decode_ts()?, ts);
            prop_assert_eq!(key.clone().truncate_ts()?, user_key.clone());
            let (head, decoded) = Key::split_on_ts_for(key.as_encoded())?;
            prop_assert_eq!((head, decoded), (&user_key.as_encoded()[..], ts));
            prop_assert!(Key::is_user_key_eq(key.as_encoded(), user_key.as_encoded()));
        }

        #[test]
        fn keys_sort_by_user_key_then_newest_first(
            a in vec(0..3_u8, 0..18), b in vec(0..3_u8, 0..18), ts_a: u64, ts_b: u64
        ) {
            let key_a = Key::from_raw(&a).append_ts(ts_a.into());
            let key_b = Key::from_raw(&b).append_ts(ts_b.into());
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b).then(ts_b.cmp(&ts_a)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(encoded in vec(any::<u8>(), 0..40)) {
            let _ = Key::split_on_ts_for(&encoded);
            let _ = Key::from_encoded(encoded).into_raw();
        }
    }
}
