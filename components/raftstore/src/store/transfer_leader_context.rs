//! What observers send along with an offer of leadership, in the `context` of a `MsgTransferLeader`.
//!
//! Layout: the byte [`CUSTOM`], then per entry `key length, key, value length, value`, lengths as u32 big-endian. An
//! empty context is an offer without entries.

use crate::{Error, Result, coprocessor::TransferLeaderCustomContext};

const CUSTOM: u8 = 2;

/// The decoded `context` of a `MsgTransferLeader`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransferLeaderContext {
    entries: Vec<TransferLeaderCustomContext>,
}

impl TransferLeaderContext {
    pub fn new(entries: Vec<TransferLeaderCustomContext>) -> Self {
        Self { entries }
    }

    /// # Errors
    /// When `bytes` are no such context.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let malformed = || Error::InvalidRequest("malformed context of a leader transfer".into());
        let Some((&tag, mut rest)) = bytes.split_first() else {
            return Ok(Self::default());
        };
        if tag != CUSTOM {
            return Err(malformed());
        }
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let key = take_field(&mut rest).ok_or_else(malformed)?;
            let value = take_field(&mut rest).ok_or_else(malformed)?;
            entries.push(TransferLeaderCustomContext { key, value });
        }
        Ok(Self { entries })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let mut bytes = vec![CUSTOM];
        for field in self.entries.iter().flat_map(|entry| [&entry.key, &entry.value]) {
            let len = u32::try_from(field.len()).expect("an observer's context is far below 4 GiB");
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }

    /// The value of the first entry called `key`.
    pub fn get_custom_ctx(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_slice())
    }
}

fn take_field(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (len, tail) = rest.split_first_chunk::<4>()?;
    let (field, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    *rest = tail;
    Some(field.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_round_trips() {
        let entry = |key: &[u8], value: &[u8]| TransferLeaderCustomContext { key: key.to_vec(), value: value.to_vec() };
        let context = TransferLeaderContext::new(vec![entry(b"preload", b"1"), entry(b"", b"")]);
        let decoded = TransferLeaderContext::from_bytes(&context.to_bytes()).unwrap();
        assert_eq!(decoded, context);
        assert_eq!(decoded.get_custom_ctx(b"preload"), Some(&b"1"[..]));
        assert_eq!(decoded.get_custom_ctx(b"other"), None);
        assert_eq!(TransferLeaderContext::from_bytes(b"").unwrap(), TransferLeaderContext::default());
    }

    #[test]
    fn malformed_context_is_an_error() {
        let bytes =
            TransferLeaderContext::new(vec![TransferLeaderCustomContext { key: vec![1; 9], value: vec![2; 9] }])
                .to_bytes();
        for len in 2..bytes.len() {
            assert!(TransferLeaderContext::from_bytes(&bytes[..len]).is_err(), "{len}");
        }
        assert!(TransferLeaderContext::from_bytes(&[1]).is_err());
        assert!(TransferLeaderContext::from_bytes(&[CUSTOM, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
