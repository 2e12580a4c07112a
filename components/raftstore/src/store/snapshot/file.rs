//! The format of a snapshot's file: the records of one column family, in blocks.
//!
//! # How it works
//! A file is a sequence of blocks and nothing else. A block is the length of its content and the CRC-32 of it, both a
//! little-endian `u32`, and the content: records, each the length of its key and of its value, both a little-endian `u32`,
//! and these. A block is what is read, sent, checked and written at a time. A record is never divided, so one that is larger
//! than a block makes a larger block.
//!
//! # Invariants
//! - The keys of a file ascend, and are data keys of the region.
//! - What [`FileCheck`] has admitted was checked record by record; after its end, the file's size and checksum, too.
//!
//! # What it must not do
//! Trust a length that it has read.

use kvproto::metapb::Region;

use super::CfFile;

/// Length and checksum.
pub(super) const BLOCK_HEADER_BYTES: usize = 8;

/// A block is ended when its content is longer. Large enough that a file is written in few calls and a message between two
/// stores is worth its way, small enough that a dozen of them are nothing.
const BLOCK_BYTES: usize = 256 << 10;

/// A record in a block.
type Borrowed<'a> = (&'a [u8], &'a [u8]);

/// Makes blocks of records.
#[derive(Default)]
pub(super) struct BlockWriter {
    /// Header and content, the header being empty until the block is ended.
    block: Vec<u8>,
}

impl BlockWriter {
    /// Adds a record; whether the block is full then.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.block.is_empty() {
            self.block.resize(BLOCK_HEADER_BYTES, 0);
        }
        for length in [key.len(), value.len()] {
            let length = u32::try_from(length).expect("engines and entries are limited to far less than 4 GiB");
            self.block.extend_from_slice(&length.to_le_bytes());
        }
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.block.len() > BLOCK_BYTES
    }

    /// Hands the block to `write` and begins a new one. Nothing happens when no record was added.
    pub(super) fn end<R>(&mut self, write: impl FnOnce(&[u8]) -> R) -> Option<R> {
        if self.block.is_empty() {
            return None;
        }
        let (header, content) = self.block.split_at_mut(BLOCK_HEADER_BYTES);
        let length = u32::try_from(content.len()).expect("a block is little more than one record");
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
        let result = write(&self.block);
        self.block.clear();
        Some(result)
    }
}

/// The length of a block, header included, that begins with `header`.
pub(super) fn block_bytes(header: [u8; BLOCK_HEADER_BYTES]) -> u64 {
    let [a, b, c, d, ..] = header;
    BLOCK_HEADER_BYTES as u64 + u64::from(u32::from_le_bytes([a, b, c, d]))
}

/// The records of a whole block.
///
/// # Errors
/// The reason why it is none, which the iterator finds at the latest.
pub(super) fn records_of(
    block: &[u8],
) -> Result<impl Iterator<Item = Result<Borrowed<'_>, &'static str>>, &'static str> {
    let (header, mut content) = block.split_at_checked(BLOCK_HEADER_BYTES).ok_or("a block without a header")?;
    let (length, checksum) = header.split_at(4);
    if (content.len() as u64).to_le_bytes()[..4] != *length || u32::try_from(content.len()).is_err() {
        return Err("a block of another length than it says");
    }
    if crc32fast::hash(content).to_le_bytes() != *checksum {
        return Err("a block whose checksum does not match");
    }
    if content.is_empty() {
        return Err("an empty block");
    }
    Ok(std::iter::from_fn(move || {
        (!content.is_empty()).then(|| {
            take_record(&mut content).ok_or_else(|| {
                content = &[];
                "a record that is longer than its block"
            })
        })
    }))
}

fn take_record<'a>(content: &mut &'a [u8]) -> Option<Borrowed<'a>> {
    let mut length = || {
        let (length, rest) = content.split_first_chunk::<4>()?;
        *content = rest;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    };
    let (key_bytes, value_bytes) = (length()?, length()?);
    let (key, rest) = content.split_at_checked(key_bytes)?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    *content = rest;
    Some((key, value))
}

/// Checks a file block by block.
pub(super) struct FileCheck {
    expected: CfFile,
    /// Data keys.
    start: Vec<u8>,
    end: Vec<u8>,
    last_key: Vec<u8>,
    size_bytes: u64,
    crc: crc32fast::Hasher,
}

impl FileCheck {
    pub(super) fn new(expected: CfFile, region: &Region) -> Self {
        let (start, end) = (keys::enc_start_key(region), keys::enc_end_key(region));
        Self { expected, start, end, last_key: Vec::new(), size_bytes: 0, crc: crc32fast::Hasher::new() }
    }

    /// Bytes of the blocks so far.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Takes the next block; whether it is the last one.
    ///
    /// # Errors
    /// The reason why it is not one of this file. Nothing more is to be admitted then.
    pub(super) fn admit(&mut self, block: &[u8]) -> Result<bool, &'static str> {
        self.size_bytes = self.size_bytes.saturating_add(block.len() as u64);
        if self.size_bytes > self.expected.size_bytes {
            return Err("a file that is longer than announced");
        }
        for record in records_of(block)? {
            let (key, _) = record?;
            if key < self.start.as_slice() || key >= self.end.as_slice() {
                return Err("a key outside the region");
            }
            if key <= self.last_key.as_slice() {
                return Err("keys are not sorted");
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        }
        self.crc.update(block);
        let is_last = self.size_bytes == self.expected.size_bytes;
        if is_last && self.crc.clone().finalize() != self.expected.checksum {
            return Err("a file whose checksum does not match");
        }
        Ok(is_last)
    }
}

#[cfg(test)]
mod tests {
    use engine_traits::Cf;
    use proptest::prelude::*;

    use super::{super::tests::region, *};

    fn block(records: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut writer = BlockWriter::default();
        for (key, value) in records {
            writer.add(key, value);
        }
        writer.end(<[u8]>::to_vec).unwrap()
    }

    fn check(blocks: &[Vec<u8>]) -> Result<bool, &'static str> {
        let content = blocks.concat();
        let (size_bytes, checksum) = (content.len() as u64, crc32fast::hash(&content));
        let mut check = FileCheck::new(CfFile { cf: Cf::Default, size_bytes, checksum }, &region());
        blocks.iter().try_fold(false, |_, block| check.admit(block))
    }

    #[test]
    fn blocks_come_back_as_records_in_order() {
        let blocks = [block(&[(b"zb", b"1"), (b"zb1", b"")]), block(&[(b"zc", &[7; 1000])])];
        assert_eq!(check(&blocks), Ok(true));
        assert_eq!(check(&blocks[..1]), Ok(true));
        let records: Result<Vec<_>, _> = records_of(&blocks[0]).unwrap().collect();
        assert_eq!(records.unwrap(), [(&b"zb"[..], &b"1"[..]), (b"zb1", b"")]);
        let mut writer = BlockWriter::default();
        assert!(writer.end(<[u8]>::to_vec).is_none() && writer.add(b"zb", &[0; BLOCK_BYTES]));
        assert_eq!(writer.end(|block| check(&[block.to_vec()])), Some(Ok(true)), "one record in a large block");
    }

    #[test]
    fn what_does_not_belong_into_the_file_is_refused() {
        let sound = || block(&[(b"zb", b"1"), (b"zc", b"2")]);
        assert_eq!(check(&[block(&[(b"zd", b"")])]), Err("a key outside the region"));
        assert_eq!(check(&[block(&[(b"b", b"")])]), Err("a key outside the region"));
        assert_eq!(check(&[sound(), block(&[(b"zb1", b"")])]), Err("keys are not sorted"));
        assert_eq!(check(&[sound(), sound()[..8].to_vec()]), Err("a block of another length than it says"));
        let mut check = FileCheck::new(CfFile { cf: Cf::Write, size_bytes: 1 << 20, checksum: 7 }, &region());
        assert_eq!(check.admit(&sound()), Ok(false));
        let size_bytes = sound().len() as u64;
        let mut check = FileCheck::new(CfFile { cf: Cf::Write, size_bytes, checksum: 7 }, &region());
        assert_eq!(check.admit(&sound()), Err("a file whose checksum does not match"));
        let mut check = FileCheck::new(CfFile { cf: Cf::Write, size_bytes: size_bytes - 1, checksum: 7 }, &region());
        assert_eq!(check.admit(&sound()), Err("a file that is longer than announced"));
        // A record that is longer than its block, in a block whose checksum says nothing against it.
        let mut long = sound();
        long[BLOCK_HEADER_BYTES] = 200;
        let crc = crc32fast::hash(&long[BLOCK_HEADER_BYTES..]);
        long[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(check_one(&long), Err("a record that is longer than its block"));
        let empty = [0u32.to_le_bytes(), crc32fast::hash(b"").to_le_bytes()].concat();
        assert_eq!(check_one(&empty), Err("an empty block"));
    }

    fn check_one(block: &[u8]) -> Result<bool, &'static str> {
        check(&[block.to_vec()])
    }

    proptest! {
        #[test]
        fn no_byte_of_a_block_can_change_unnoticed(at in 0usize..37, bit in 0u8..8) {
            let mut changed = block(&[(b"zb", b"value"), (b"zc", b"another")]);
            prop_assume!(at < changed.len());
            changed[at] ^= 1 << bit;
            prop_assert!(check_one(&changed).is_err());
        }

        #[test]
        fn whatever_the_bytes_are_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = check_one(&bytes);
            if let Some(content) = bytes.get(8..) {
                let mut block = bytes.clone();
                block[..4].copy_from_slice(&(content.len() as u32).to_le_bytes());
                block[4..8].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
                let _ = check_one(&block);
            }
        }
    }
}
