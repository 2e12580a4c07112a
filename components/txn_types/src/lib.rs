//! MVCC keys, timestamps, and the records of the lock and write column families, byte for byte as TiKV stores them.
//!
//! - [`Key`]: a user key in the form that engines compare, with or without the timestamp of a version.
//! - [`TimeStamp`]: when a transaction started or committed.
//! - [`Write`], [`WriteRef`]: a committed version or a rollback, in the write column family.
//! - [`Lock`]: the lock of a transaction in progress, in the lock column family.
//!
//! # Forward compatibility
//!
//! Records end in optional fields, each behind a tag, in a fixed order. Parsing stops without an error at the first
//! tag it does not know, so that records of a newer TiKV can be read. The fields behind that tag are lost when the
//! parsed record is written again: **never write back a record that was parsed here unless this crate wrote it.**

mod key;
mod lock;
mod timestamp;
mod write;

pub use tikv_util::codec::DecodeError;

pub use self::{
    key::{Key, TS_LEN},
    lock::{Lock, LockType},
    timestamp::TimeStamp,
    write::{LastChange, Write, WriteRef, WriteType},
};

/// A value of a user key.
pub type Value = Vec<u8>;

/// Values up to this length, in bytes, are stored inside the lock and write records. Their length is one byte there.
pub const SHORT_VALUE_MAX_LEN: usize = 255;

/// The tag of the one optional field that [`Lock`] and [`Write`] share.
const TAG_SHORT_VALUE: u8 = b'v';

/// The bytes are not what they should be: they come from elsewhere or are corrupt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid key")]
    Key(#[source] DecodeError),
    #[error("key of {len} bytes is too short to end in a timestamp")]
    KeyTooShort { len: usize },
    #[error("invalid write record")]
    Write(#[source] DecodeError),
    #[error("invalid type {0:#04x} of a write record")]
    WriteType(u8),
    #[error("invalid lock record")]
    Lock(#[source] DecodeError),
    #[error("invalid type {0:#04x} of a lock record")]
    LockType(u8),
}

pub type Result<T> = std::result::Result<T, Error>;

/// Appends a short value behind its tag.
///
/// # Panics
///
/// When it is longer than [`SHORT_VALUE_MAX_LEN`]: a length cut down to one byte would corrupt the record.
fn encode_short_value(buf: &mut Vec<u8>, value: &[u8]) {
    let len = u8::try_from(value.len()).expect("a short value is at most 255 bytes long");
    buf.push(TAG_SHORT_VALUE);
    buf.push(len);
    buf.extend_from_slice(value);
}
