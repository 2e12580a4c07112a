//! What a block is made of, before it is put together.
//!
//! **Owns** how entries are gathered one at a time, and what they will take.
//!
//! **Invariants.** All stems begin with the base, which they are gathered without. Each part is laid out as the block will
//! have it.
//!
//! **Must not** decide what goes into which block.

use super::{BARE, layout::Size};

/// What is gathered for the next block.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) suffixes: Vec<u64>,
    pub(super) stem_ends: Vec<u32>,
    pub(super) group_ends: Vec<u32>,
    pub(super) value_ends: Vec<u32>,
    pub(super) base: Vec<u8>,
    /// Without the base.
    pub(super) stems: Vec<u8>,
    pub(super) values: Vec<u8>,
    pub(super) older_suffixes: Vec<u64>,
    pub(super) older_value_ends: Vec<u32>,
    pub(super) older_values: Vec<u8>,
}

impl Parts {
    pub(super) fn clear(&mut self) {
        let Self { suffixes, stem_ends, group_ends, value_ends, base, stems, values, .. } = self;
        suffixes.clear();
        [stem_ends, group_ends, value_ends].into_iter().for_each(Vec::clear);
        [base, stems, values].into_iter().for_each(Vec::clear);
        self.older_suffixes.clear();
        self.older_value_ends.clear();
        self.older_values.clear();
    }

    pub(super) fn size(&self) -> Size {
        let groups = self.suffixes.len();
        Size {
            groups,
            older: self.older_suffixes.len(),
            stem_bytes: groups * self.base.len() + self.stems.len(),
            value_bytes: self.values.len(),
            older_value_bytes: self.older_values.len(),
        }
    }

    /// The stem of `group` without the base, and whether it is a whole key.
    pub(super) fn stem(&self, group: usize) -> (&[u8], bool) {
        let start = if group == 0 { 0 } else { (self.stem_ends[group - 1] & !BARE) as usize };
        let end = self.stem_ends[group];
        (&self.stems[start..(end & !BARE) as usize], end & BARE != 0)
    }

    /// The last stem, likewise.
    pub(super) fn last_stem(&self) -> Option<(&[u8], bool)> {
        Some(self.stem(self.stem_ends.len().checked_sub(1)?))
    }

    /// Makes the base no longer than this.
    pub(super) fn shorten_base(&mut self, len: usize) {
        if len < self.base.len() {
            let moved = self.base.split_off(len);
            let mut stems = Vec::with_capacity(self.stems.len() + self.stem_ends.len() * moved.len());
            let mut start = 0;
            for end in &mut self.stem_ends {
                stems.extend_from_slice(&moved);
                stems.extend_from_slice(&self.stems[start..(*end & !BARE) as usize]);
                start = (*end & !BARE) as usize;
                *end = stems.len() as u32 | (*end & BARE);
            }
            self.stems = stems;
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.suffixes.len() + self.older_suffixes.len()
    }

    pub(super) fn push_older(&mut self, suffix: u64, value: &[u8]) {
        self.older_suffixes.push(suffix);
        self.older_values.extend_from_slice(value);
        self.older_value_ends.push(self.older_values.len() as u32);
        *self.group_ends.last_mut().expect("older entries follow the first of their group") += 1;
    }
}

pub(super) fn common_prefix_len(left: &[u8], right: &[u8]) -> usize {
    let (left_words, right_words) = (left.as_chunks().0, right.as_chunks().0);
    for (index, (left, right)) in left_words.iter().zip(right_words).enumerate() {
        let difference = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if difference != 0 {
            return index * size_of::<u64>() + (difference.trailing_zeros() / u8::BITS) as usize;
        }
    }
    let same = left_words.len().min(right_words.len()) * size_of::<u64>();
    same + left[same..].iter().zip(&right[same..]).take_while(|(left, right)| left == right).count()
}
