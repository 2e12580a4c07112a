//! The byte encodings that TiKV's keys and MVCC records are made of.
//!
//! **Owns** the encodings, not their meaning:
//!
//! - *memcomparable bytes*: groups of 8 bytes, the last one filled up with zeros, each followed by a marker: 0xff minus
//!   the number of bytes that fill it up. A last group that is full is followed by an empty one. Encoded strings
//!   compare like the strings, whatever follows them. Descending: every encoded byte inverted.
//! - *fixed* `u64`, big endian; descending: inverted.
//! - *varint*: `u64` in groups of 7 bits, lowest first; `i64` mapped to `u64` so that small magnitudes stay short.
//! - *compact bytes*: the length as a varint `i64`, then the bytes.
//!
//! **Invariants.** Decoding returns what was encoded and stops right behind it. Only the canonical form of
//! memcomparable bytes is accepted, so equal strings have equal encodings.
//!
//! **Must not** panic on any input, nor allocate more than the input's length.

/// Bytes of data per group of memcomparable bytes.
const GROUP_LEN: usize = 8;
/// The marker of a full group.
const MARKER_FULL: u8 = 0xff;
/// What inverts a byte when it is XORed with it.
const DESC_MASK: u8 = 0xff;

/// Why some bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at offset {offset}")]
pub struct DecodeError {
    pub kind: DecodeErrorKind,
    /// Where the offending item starts, in bytes from the start of the input.
    pub offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    #[error("expected {needed} more bytes, found {left}")]
    UnexpectedEnd { needed: usize, left: usize },
    #[error("{left} bytes are left over")]
    TrailingBytes { left: usize },
    #[error("invalid group marker {0:#04x}")]
    InvalidMarker(u8),
    #[error("the last group is not filled up with zeros")]
    InvalidPadding,
    #[error("varint exceeds 64 bits")]
    VarintTooLong,
    #[error("invalid length {0}")]
    InvalidLength(i64),
}

/// Memcomparable bytes, ascending.
pub fn encode_bytes(bytes: &[u8]) -> Vec<u8> {
    encode_groups(bytes, 0)
}

/// Memcomparable bytes, descending.
pub fn encode_bytes_desc(bytes: &[u8]) -> Vec<u8> {
    encode_groups(bytes, DESC_MASK)
}

/// Big endian with all bits inverted: larger values sort first.
pub fn encode_u64_desc(value: u64) -> [u8; 8] {
    (!value).to_be_bytes()
}

/// Appends a varint of 1 to 10 bytes.
pub fn encode_var_u64(buf: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buf.push(value as u8 | 0x80);
        value >>= 7;
    }
    buf.push(value as u8);
}

/// Appends a varint of 1 to 10 bytes; its length grows with the magnitude of `value`.
pub fn encode_var_i64(buf: &mut Vec<u8>, value: i64) {
    encode_var_u64(buf, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends the length and the bytes.
pub fn encode_compact_bytes(buf: &mut Vec<u8>, bytes: &[u8]) {
    // A slice is never longer than `isize::MAX` bytes.
    encode_var_i64(buf, bytes.len() as i64);
    buf.extend_from_slice(bytes);
}

fn encode_groups(bytes: &[u8], mask: u8) -> Vec<u8> {
    let mut encoded = Vec::with_capacity((bytes.len() / GROUP_LEN + 1) * (GROUP_LEN + 1));
    let (full, last) = bytes.as_chunks::<GROUP_LEN>();
    for group in full {
        encoded.extend(group.map(|byte| byte ^ mask));
        encoded.push(MARKER_FULL ^ mask);
    }
    let mut group = [0; GROUP_LEN];
    group[..last.len()].copy_from_slice(last);
    encoded.extend(group.map(|byte| byte ^ mask));
    encoded.push((MARKER_FULL - (GROUP_LEN - last.len()) as u8) ^ mask);
    encoded
}

/// Reads encoded items off the front of some bytes.
///
/// After an error the position is unspecified, but inside the input.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, offset: 0 }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes read so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Checks that everything was read.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.error(DecodeErrorKind::TrailingBytes { left })),
        }
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    /// A big-endian `u64`.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The inverse of [`encode_u64_desc`].
    pub fn u64_desc(&mut self) -> Result<u64, DecodeError> {
        self.u64().map(|value| !value)
    }

    #[inline]
    pub fn var_u64(&mut self) -> Result<u64, DecodeError> {
        const LEN_MAX: usize = 10;
        let mut value = 0;
        for (index, byte) in self.rest.iter().take(LEN_MAX).enumerate() {
            let (bits, shift) = (u64::from(byte & 0x7f), 7 * index);
            // The tenth byte has room for one bit.
            if bits << shift >> shift != bits {
                return Err(self.error(DecodeErrorKind::VarintTooLong));
            }
            value |= bits << shift;
            if *byte < 0x80 {
                self.advance(&self.rest[index + 1..]);
                return Ok(value);
            }
        }
        if self.rest.len() < LEN_MAX {
            self.advance(&[]);
            return Err(self.unexpected_end(1));
        }
        Err(self.error(DecodeErrorKind::VarintTooLong))
    }

    /// Passes over what [`var_u64`](Self::var_u64) reads, in a time that does not grow with its length.
    ///
    /// # Errors
    /// As `var_u64`.
    #[inline]
    pub fn skip_var_u64(&mut self) -> Result<(), DecodeError> {
        if let Some(first) = self.rest.first_chunk() {
            // The last byte of a varint is the first one without this bit.
            let last = !u64::from_le_bytes(*first) & 0x8080_8080_8080_8080;
            if last != 0 {
                self.advance(&self.rest[last.trailing_zeros() as usize / 8 + 1..]);
                return Ok(());
            }
            // As long as timestamps are, for centuries.
            if let Some(0..0x80) = self.rest.get(first.len()) {
                self.advance(&self.rest[first.len() + 1..]);
                return Ok(());
            }
        }
        self.var_u64().map(drop)
    }

    pub fn var_i64(&mut self) -> Result<i64, DecodeError> {
        let value = self.var_u64()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next `len` bytes as they are.
    #[inline]
    pub fn slice(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.unexpected_end(len))?;
        self.advance(rest);
        Ok(head)
    }

    /// The inverse of [`encode_compact_bytes`].
    pub fn compact_bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.clone();
        let len = self.var_i64()?;
        match usize::try_from(len) {
            Ok(len) => self.slice(len),
            Err(_) => Err(start.error(DecodeErrorKind::InvalidLength(len))),
        }
    }

    /// The inverse of [`encode_bytes`].
    pub fn bytes(&mut self) -> Result<Vec<u8>, DecodeError> {
        self.groups(0)
    }

    /// The inverse of [`encode_bytes_desc`].
    pub fn bytes_desc(&mut self) -> Result<Vec<u8>, DecodeError> {
        self.groups(DESC_MASK)
    }

    fn groups(&mut self, mask: u8) -> Result<Vec<u8>, DecodeError> {
        let mut decoded = Vec::new();
        loop {
            let start = self.clone();
            let [data @ .., marker] = self.array::<{ GROUP_LEN + 1 }>()?.map(|byte| byte ^ mask);
            let data_len = GROUP_LEN
                .checked_sub(usize::from(MARKER_FULL - marker))
                .ok_or_else(|| start.error(DecodeErrorKind::InvalidMarker(marker ^ mask)))?;
            let (data, padding) = data.split_at(data_len);
            if padding.iter().any(|byte| *byte != 0) {
                return Err(start.error(DecodeErrorKind::InvalidPadding));
            }
            decoded.extend_from_slice(data);
            if data_len < GROUP_LEN {
                return Ok(decoded);
            }
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or_else(|| self.unexpected_end(N))?;
        self.advance(rest);
        Ok(*head)
    }

    /// `rest` is a suffix of what is left.
    #[inline]
    fn advance(&mut self, rest: &'a [u8]) {
        self.offset += self.rest.len() - rest.len();
        self.rest = rest;
    }

    fn unexpected_end(&self, needed: usize) -> DecodeError {
        self.error(DecodeErrorKind::UnexpectedEnd { needed, left: self.rest.len() })
    }

    fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError { kind, offset: self.offset }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn memcomparable_bytes_match_the_documented_form() {
        for (bytes, encoded) in [
            (&b""[..], &b"\0\0\0\0\0\0\0\0\xf7"[..]),
            (b"a", b"a\0\0\0\0\0\0\0\xf8"),
            (b"abcdefg", b"abcdefg\0\xfe"),
            (b"abcdefgh", b"abcdefgh\xff\0\0\0\0\0\0\0\0\xf7"),
            (b"abcdefghi", b"abcdefgh\xffi\0\0\0\0\0\0\0\xf8"),
            (b"\xff\0", b"\xff\0\0\0\0\0\0\0\xf9"),
        ] {
            assert_eq!(encode_bytes(bytes), encoded);
            let inverted: Vec<u8> = encoded.iter().map(|byte| !byte).collect();
            assert_eq!(encode_bytes_desc(bytes), inverted);
        }
    }

    #[test]
    fn numbers_match_the_documented_form() {
        assert_eq!(encode_u64_desc(1), *b"\xff\xff\xff\xff\xff\xff\xff\xfe");
        let var_u64 = |value| {
            let mut buf = Vec::new();
            encode_var_u64(&mut buf, value);
            buf
        };
        assert_eq!(var_u64(0), [0]);
        assert_eq!(var_u64(127), [0x7f]);
        assert_eq!(var_u64(300), [0xac, 0x02]);
        assert_eq!(var_u64(u64::MAX), *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        for (value, encoded) in [(0, 0), (-1, 1), (1, 2), (-2, 3), (63, 126)] {
            let mut buf = Vec::new();
            encode_var_i64(&mut buf, value);
            assert_eq!(buf, [encoded]);
        }
        let mut buf = Vec::new();
        encode_compact_bytes(&mut buf, b"key");
        assert_eq!(buf, b"\x06key");
    }

    #[test]
    fn errors_tell_what_and_where() {
        let mut reader = Reader::new(b"abcdefgh\xffabc");
        let err = reader.bytes().unwrap_err();
        assert_eq!(err.to_string(), "expected 9 more bytes, found 3 at offset 9");

        let err = |bytes: &[u8]| Reader::new(bytes).bytes().unwrap_err().kind;
        assert_eq!(err(b"a\0\0\0\0\0\0\0\xf6"), DecodeErrorKind::InvalidMarker(0xf6));
        assert_eq!(err(b"ab\0\0\0\0\0\0\xf8"), DecodeErrorKind::InvalidPadding);

        let err = |bytes: &[u8]| Reader::new(bytes).var_u64().unwrap_err();
        let too_long = DecodeError { kind: DecodeErrorKind::VarintTooLong, offset: 0 };
        assert_eq!(err(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), too_long);
        assert_eq!(err(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\0"), too_long);

        let err = |bytes: &[u8]| Reader::new(bytes).compact_bytes().unwrap_err().kind;
        assert_eq!(err(b"\x01"), DecodeErrorKind::InvalidLength(-1));
        assert_eq!(err(b"\x06ke"), DecodeErrorKind::UnexpectedEnd { needed: 3, left: 2 });

        let reader = Reader::new(b"xy");
        assert_eq!(reader.finish().unwrap_err().kind, DecodeErrorKind::TrailingBytes { left: 2 });
    }

    /// Strings that share prefixes and sit around the group boundary, where encodings go wrong.
    fn string() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(prop_oneof![Just(0), Just(1), Just(0xff)], 0..20), vec(any::<u8>(), 0..40)]
    }

    proptest! {
        #[test]
        fn memcomparable_bytes_keep_the_order_whatever_follows(
            a in string(), b in string(), tail_a in string(), tail_b in string()
        ) {
            let asc = |bytes: &[u8], tail: &[u8]| [encode_bytes(bytes), tail.to_vec()].concat();
            let desc = |bytes: &[u8], tail: &[u8]| [encode_bytes_desc(bytes), tail.to_vec()].concat();
            if a != b {
                prop_assert_eq!(asc(&a, &tail_a).cmp(&asc(&b, &tail_b)), a.cmp(&b));
                prop_assert_eq!(desc(&a, &tail_a).cmp(&desc(&b, &tail_b)), b.cmp(&a));
            }
        }

        #[test]
        fn descending_numbers_reverse_the_order(a: u64, b: u64) {
            prop_assert_eq!(encode_u64_desc(a).cmp(&encode_u64_desc(b)), b.cmp(&a));
        }

        #[test]
        fn what_was_encoded_is_decoded(bytes in string(), u: u64, i: i64, shift in 0..64) {
            let (u, i) = (u >> shift, i >> shift);
            let mut buf = [encode_bytes(&bytes), encode_bytes_desc(&bytes)].concat();
            buf.extend(encode_u64_desc(u));
            buf.extend(u.to_be_bytes());
            encode_var_u64(&mut buf, u);
            encode_var_i64(&mut buf, i);
            encode_compact_bytes(&mut buf, &bytes);

            let mut reader = Reader::new(&buf);
            prop_assert_eq!(&reader.bytes()?, &bytes);
            prop_assert_eq!(&reader.bytes_desc()?, &bytes);
            prop_assert_eq!(reader.u64_desc()?, u);
            prop_assert_eq!(reader.u64()?, u);
            let mut skipped = reader.clone();
            prop_assert_eq!(reader.var_u64()?, u);
            skipped.skip_var_u64()?;
            prop_assert_eq!(skipped.rest(), reader.rest());
            prop_assert_eq!(reader.var_i64()?, i);
            prop_assert_eq!(reader.compact_bytes()?, &bytes);
            prop_assert_eq!(reader.offset(), buf.len());
            reader.finish()?;
        }

        #[test]
        fn arbitrary_bytes_decode_or_fail_inside_the_input(bytes in string()) {
            let reader = Reader::new(&bytes);
            let errors = [
                reader.clone().bytes().err(),
                reader.clone().bytes_desc().err(),
                reader.clone().u64_desc().err(),
                reader.clone().var_u64().err(),
                reader.clone().skip_var_u64().err(),
                reader.clone().var_i64().err(),
                reader.clone().compact_bytes().err(),
            ];
            for err in errors.into_iter().flatten() {
                prop_assert!(err.offset <= bytes.len());
            }
            // Whatever is accepted is the one canonical form.
            let mut reader = Reader::new(&bytes);
            if let Ok(decoded) = reader.bytes() {
                prop_assert_eq!(&encode_bytes(&decoded), &bytes[..reader.offset()]);
            }
        }
    }
}
