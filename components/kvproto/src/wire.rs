//! Checked decoding of bytes from outside.
//!
//! # How it works
//! protobuf 2.28 limits how deeply *messages* nest, but skips an unknown *group* by calling itself once per level
//! (RUSTSEC-2024-0437): a few hundred kilobytes of `0x0b` overflow the stack. No message here contains a group, so
//! [`decode`] first walks the bytes with an explicit stack, follows the fields that the schema says are messages, and
//! refuses every group tag.
//!
//! # Invariants
//! - Never panics and never recurses, whatever the bytes hold.
//! - What it accepts, rust-protobuf decodes with at most [`NESTING_MAX`] nested calls.

use std::{collections::HashMap, sync::LazyLock};

use protobuf::{
    Message, ProtobufError,
    descriptor::{DescriptorProto, FieldDescriptorProto_Type as FieldType, FileDescriptorProto},
};

/// Messages may nest this deeply. The deepest of ours nests six levels; rust-protobuf itself stops at 100.
pub const NESTING_MAX: usize = 32;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("{message}: group tag at offset {offset}; no message of this schema has groups")]
    Group { message: &'static str, offset: usize },
    #[error("{message}: messages nest deeper than {NESTING_MAX} levels at offset {offset}")]
    TooDeep { message: &'static str, offset: usize },
    #[error("{message}: truncated or malformed at offset {offset}")]
    Malformed { message: &'static str, offset: usize },
    #[error("{message}: not decodable")]
    Protobuf { message: &'static str, source: ProtobufError },
}

/// Decodes `bytes` as an `M`. Unknown fields are kept, as rust-protobuf does.
///
/// # Errors
/// Whatever is not the encoding of an `M`, including groups and nesting deeper than [`NESTING_MAX`].
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    let message = M::descriptor_static().name();
    check(M::descriptor_static().full_name(), bytes).map_err(|fault| match fault {
        Fault::Group(offset) => DecodeError::Group { message, offset },
        Fault::TooDeep(offset) => DecodeError::TooDeep { message, offset },
        Fault::Malformed(offset) => DecodeError::Malformed { message, offset },
    })?;
    let mut decoded = M::new();
    decoded.merge_from_bytes(bytes).map_err(|source| DecodeError::Protobuf { message, source })?;
    Ok(decoded)
}

/// What is wrong, and at which offset.
enum Fault {
    Group(usize),
    TooDeep(usize),
    Malformed(usize),
}

/// For each message type, by its index: field number → index of the message type that the field holds.
struct Schema {
    index_of: HashMap<String, usize>,
    submessages: Vec<HashMap<u32, usize>>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    Schema::build(&[
        crate::eraftpb::file_descriptor_proto(),
        crate::metapb::file_descriptor_proto(),
        crate::errorpb::file_descriptor_proto(),
        crate::raft_serverpb::file_descriptor_proto(),
        crate::raft_cmdpb::file_descriptor_proto(),
    ])
});

impl Schema {
    fn build(files: &[&FileDescriptorProto]) -> Self {
        let messages: Vec<(String, &DescriptorProto)> = files
            .iter()
            .flat_map(|file| {
                file.get_message_type()
                    .iter()
                    .map(|message| (format!("{}.{}", file.get_package(), message.get_name()), message))
            })
            .collect();
        let index_of: HashMap<String, usize> =
            messages.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        let submessages = messages
            .iter()
            .map(|(_, message)| {
                let fields = message.get_field().iter();
                fields
                    .filter(|field| field.get_field_type() == FieldType::TYPE_MESSAGE)
                    .filter_map(|field| {
                        let index = index_of.get(field.get_type_name().trim_start_matches('.'))?;
                        Some((field.get_number() as u32, *index))
                    })
                    .collect()
            })
            .collect();
        Schema { index_of, submessages }
    }
}

/// Walks `bytes` as the message called `full_name`. A type that the schema does not know has no submessages here.
fn check(full_name: &str, bytes: &[u8]) -> Result<(), Fault> {
    let schema = &*SCHEMA;
    let mut reader = Reader { bytes, offset: 0 };
    // Open messages: (type, end offset). The innermost is last.
    let mut open = vec![(schema.index_of.get(full_name).copied(), bytes.len())];
    while let Some(&(message, end)) = open.last() {
        if reader.offset == end {
            open.pop();
            continue;
        }
        let at = reader.offset;
        let tag = reader.varint(end)?;
        let field = u32::try_from(tag >> 3).map_err(|_| Fault::Malformed(at))?;
        match tag & 7 {
            0 => drop(reader.varint(end)?),
            1 => reader.skip(8, end)?,
            5 => reader.skip(4, end)?,
            2 => {
                let len = usize::try_from(reader.varint(end)?).map_err(|_| Fault::Malformed(at))?;
                let submessage = message.and_then(|m| schema.submessages.get(m)).and_then(|fields| fields.get(&field));
                match submessage {
                    Some(_) if open.len() == NESTING_MAX => return Err(Fault::TooDeep(at)),
                    Some(&submessage) => {
                        let sub_end = reader.end_of(len, end)?;
                        open.push((Some(submessage), sub_end));
                    }
                    None => reader.skip(len, end)?,
                }
            }
            3 | 4 => return Err(Fault::Group(at)),
            _ => return Err(Fault::Malformed(at)),
        }
    }
    Ok(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Reader<'_> {
    fn varint(&mut self, end: usize) -> Result<u64, Fault> {
        let start = self.offset;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.offset).filter(|_| self.offset < end).ok_or(Fault::Malformed(start))?;
            self.offset += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Malformed(start))
    }

    fn end_of(&self, len: usize, end: usize) -> Result<usize, Fault> {
        self.offset.checked_add(len).filter(|e| *e <= end).ok_or(Fault::Malformed(self.offset))
    }

    fn skip(&mut self, len: usize, end: usize) -> Result<(), Fault> {
        self.offset = self.end_of(len, end)?;
        Ok(())
    }
}

/// How deeply messages of type `full_name` can nest, counting itself.
#[cfg(test)]
pub(crate) fn nesting_of(full_name: &str) -> usize {
    fn depth(index: usize, path: &mut Vec<usize>) -> usize {
        assert!(!path.contains(&index), "a message type contains itself");
        path.push(index);
        let deepest = SCHEMA.submessages[index].values().map(|sub| depth(*sub, path)).max();
        path.pop();
        1 + deepest.unwrap_or(0)
    }
    depth(SCHEMA.index_of[full_name], &mut Vec::new())
}
