//! A list of mutations that an engine applies atomically and in order.

use crate::{Cf, Error, Result};

/// The longest key that is stored: fjall writes the length of a key as a `u16`. Empty keys are not stored either.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Mutations, kept back to back in one buffer: a batch of a thousand puts allocates a dozen times, not two thousand.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    /// The keys and values of all mutations, one after another.
    data: Vec<u8>,
    ops: Vec<Op>,
}

#[derive(Clone, Copy, Debug)]
struct Op {
    kind: OpKind,
    cf: Cf,
    /// Where the first operand ends and the second begins, and where that ends. The first begins where the operation
    /// before ends.
    middle: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug)]
enum OpKind {
    Put,
    Delete,
    DeleteRange,
}

/// One mutation of a [`WriteBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation<'a> {
    Put {
        cf: Cf,
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        cf: Cf,
        key: &'a [u8],
    },
    /// Deletes `start <= key < end`; nothing when `start >= end`.
    DeleteRange {
        cf: Cf,
        start: &'a [u8],
        end: &'a [u8],
    },
}

impl WriteBatch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]) {
        self.push(OpKind::Put, cf, key, value);
    }

    pub fn delete(&mut self, cf: Cf, key: &[u8]) {
        self.push(OpKind::Delete, cf, key, b"");
    }

    /// Deletes `start <= key < end`, of what is in the engine and of what this batch has put before.
    pub fn delete_range(&mut self, cf: Cf, start: &[u8], end: &[u8]) {
        self.push(OpKind::DeleteRange, cf, start, end);
    }

    /// Adds all of `other` behind what is here.
    pub fn append(&mut self, other: &WriteBatch) {
        let base = self.data.len();
        self.data.extend_from_slice(&other.data);
        self.ops.extend(other.ops.iter().map(|op| Op { middle: base + op.middle, end: base + op.end, ..*op }));
    }

    pub fn iter(&self) -> impl Iterator<Item = Mutation<'_>> {
        let mut start = 0;
        self.ops.iter().map(move |op| {
            let (first, second) = (&self.data[start..op.middle], &self.data[op.middle..op.end]);
            start = op.end;
            match op.kind {
                OpKind::Put => Mutation::Put { cf: op.cf, key: first, value: second },
                OpKind::Delete => Mutation::Delete { cf: op.cf, key: first },
                OpKind::DeleteRange => Mutation::DeleteRange { cf: op.cf, start: first, end: second },
            }
        })
    }

    /// Engines call this before they write.
    ///
    /// # Errors
    /// [`Error::KeyLength`] when a key to put or delete is empty or longer than [`KEY_BYTES_MAX`]. The bounds of a
    /// deleted range may have any length.
    pub fn check_keys(&self) -> Result<()> {
        for mutation in self.iter() {
            if let Mutation::Put { key, .. } | Mutation::Delete { key, .. } = mutation
                && (key.is_empty() || key.len() > KEY_BYTES_MAX)
            {
                return Err(Error::KeyLength { bytes: key.len() });
            }
        }
        Ok(())
    }

    /// Number of mutations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of keys and values.
    pub fn size_bytes(&self) -> usize {
        self.data.len()
    }

    /// Empties the batch and keeps its buffers.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ops.clear();
    }

    fn push(&mut self, kind: OpKind, cf: Cf, first: &[u8], second: &[u8]) {
        self.data.extend_from_slice(first);
        let middle = self.data.len();
        self.data.extend_from_slice(second);
        self.ops.push(Op { kind, cf, middle, end: self.data.len() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_come_back_in_order_also_after_append() {
        let mut first = WriteBatch::new();
        first.put(Cf::Default, b"k", b"v");
        first.put(Cf::Lock, b"", b"");
        let mut second = WriteBatch::new();
        second.delete(Cf::Write, b"gone");
        second.delete_range(Cf::Raft, b"a", b"z");
        first.append(&second);

        let all: Vec<_> = first.iter().collect();
        assert_eq!(
            all,
            [
                Mutation::Put { cf: Cf::Default, key: b"k", value: b"v" },
                Mutation::Put { cf: Cf::Lock, key: b"", value: b"" },
                Mutation::Delete { cf: Cf::Write, key: b"gone" },
                Mutation::DeleteRange { cf: Cf::Raft, start: b"a", end: b"z" },
            ]
        );
        assert_eq!((first.len(), first.size_bytes()), (4, 8));
        assert!(matches!(first.check_keys(), Err(Error::KeyLength { bytes: 0 })));
        first.clear();
        assert!(first.is_empty() && first.iter().next().is_none());
    }
}
