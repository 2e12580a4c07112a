use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::memory::OverCapacity;

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few stems with many suffixes, and keys of any length that are anything but versions of a user key.
    let version = (0..4u8, 0..6u8)
        .prop_map(|(stem, suffix)| [vec![b'k'; usize::from(stem)], vec![stem], vec![0; 7], vec![suffix]].concat());
    prop_oneof![version, vec(0..3u8, 0..12), vec(any::<u8>(), 0..3)]
}

fn build(entries: &BTreeMap<Vec<u8>, Vec<u8>>, is_versioned: bool, target_bytes: usize) -> Vec<KeyedBlock> {
    let mut builder = BlockBuilder::new(MemoryBudget::new(usize::MAX), is_versioned);
    builder.target_bytes = target_bytes;
    entries.iter().for_each(|(key, value)| builder.push(key, value).unwrap());
    builder.finish().unwrap()
}

fn entries_of(block: &Block) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let entry = |entry: usize| {
        let (group, mut key) = (block.group_of(entry), Vec::new());
        block.write_key(group, entry, &mut key);
        (key, block.value(block.version(group, entry)).to_vec())
    };
    (0..block.entries()).map(entry).collect()
}

#[test]
fn sizes_are_those_of_an_allocator() {
    let expected = [(0, 0), (1, 16), (64, 64), (65, 80), (128, 128), (129, 160), (4096, 4096), (65_535, 65_536)];
    for (bytes, class) in expected {
        assert_eq!(size_class(bytes), class, "{bytes}");
    }
}

#[test]
fn a_block_accounts_for_what_it_takes_and_gives_it_back() {
    let budget = MemoryBudget::new(1000);
    let mut builder = BlockBuilder::new(budget.clone(), true);
    builder.push(b"a", &[0; 100]).unwrap();
    assert_eq!(builder.push(b"b", &[0; 70_000]), Ok(()));
    assert_eq!(budget.used_bytes(), size_class(100 + 8 + 12 + 8 + HEADER_BYTES));
    assert!(matches!(builder.finish(), Err(OverCapacity)));
    assert_eq!(budget.used_bytes(), 0);
}

proptest! {
    #[test]
    fn blocks_equal_a_btree_map(
        entries in proptest::collection::btree_map(key(), vec(any::<u8>(), 0..9), 0..80),
        is_versioned: bool,
        target_bytes in 60..2000usize,
        copy_target_bytes in 60..2000usize,
        near: usize,
        run_lens in vec(1..20usize, 1..6),
    ) {
        let blocks = build(&entries, is_versioned, target_bytes);
        let listed: Vec<Vec<_>> = blocks.iter().map(|(_, block)| entries_of(block).into_iter().collect()).collect();
        let mut expected = entries.iter();
        let mut key = Vec::new();
        for (first_key, block) in &blocks {
            prop_assert!(block.bytes() <= size_class(target_bytes + HEADER_BYTES));
            prop_assert_eq!(block.group(block.groups() - 1).end, block.entries());
            let mut keys: Vec<Vec<u8>> = Vec::new();
            for entry in 0..block.entries() {
                let group = block.group_of(entry);
                block.write_key(group, entry, &mut key);
                prop_assert_eq!(Some((&key, &block.value(block.version(group, entry)).to_vec())), expected.next());
                prop_assert_eq!(block.search(&key), (group, Ok(entry)));
                for near in 0..block.groups() {
                    prop_assert_eq!(block.group_near(near, entry), group);
                }
                keys.push(key.clone());
            }
            prop_assert_eq!(first_key.as_ref(), keys[0].as_slice());
            let mut stems: Vec<_> = keys.iter().map(|key| SplitKey::new(key, is_versioned)).collect();
            stems.dedup_by(|next, last| next.suffix.is_some() && last.suffix.is_some() && next.stem == last.stem);
            let is_nested = |(index, outer): (usize, &SplitKey<'_>)| {
                stems.iter().enumerate().any(|(other, inner)| other != index && inner.stem.starts_with(outer.stem))
            };
            prop_assert_eq!(block.has_nested_stems(), stems.iter().enumerate().any(is_nested));
            for probe in entries.keys().chain(&[vec![], vec![b'k', 1, 0, 0], vec![0xff; 9]]) {
                let lower_bound = keys.partition_point(|key| key < probe);
                let is_there = keys.get(lower_bound) == Some(probe);
                let expected = if is_there { Ok(lower_bound) } else { Err(lower_bound) };
                let (group, found) = block.search(probe);
                prop_assert_eq!(found, expected, "{:?}", probe);
                prop_assert!(group == 0 || keys[block.group(group).start] <= *probe);
                prop_assert_eq!(block.lower_bound(probe), lower_bound);
                let near = near % block.groups();
                if keys[block.group(near).start] <= *probe {
                    let (group, found) = block.search_near(near, probe);
                    prop_assert_eq!(found, expected);
                    prop_assert!(keys[block.group(group).start] <= *probe);
                }
                prop_assert_eq!(block.find(probe), is_there.then(|| (lower_bound, block.version(block.group_of(lower_bound), lower_bound))));
            }
        }
        prop_assert_eq!(expected.next(), None);

        // Runs of blocks, and entries in between, make the same blocks.
        let copy_of = |target_bytes: usize| {
            let sources: Vec<_> = blocks.iter().map(|(_, block)| Source::new(block)).collect();
            let mut copy = BlockMerger::new(is_versioned, 0);
            copy.target_bytes = target_bytes;
            for (index, (_, block)) in blocks.iter().enumerate() {
                let (mut next, mut group) = (0, 0);
                for (turn, len) in run_lens.iter().cycle().enumerate() {
                    let end = block.entries().min(next + len);
                    if turn % 2 == 0 {
                        group = copy.push_run(&sources[index], group, next..end);
                    } else {
                        for (key, value) in &listed[index][next..end] {
                            copy.push(&sources[index], key, value).unwrap();
                        }
                    }
                    next = end;
                    if next == block.entries() {
                        break;
                    }
                }
            }
            copy.finish(&MemoryBudget::new(usize::MAX)).unwrap()
        };
        let whole = copy_of(BLOCK_BYTES);
        prop_assert!(whole.len() <= 1);
        for copies in [whole, copy_of(copy_target_bytes)] {
            let mut copied = BTreeMap::new();
            for (first_key, block) in &copies {
                let entries = entries_of(block);
                // As if made of nothing but its entries.
                let alone = build(&entries, is_versioned, BLOCK_BYTES);
                let [(expected_key, expected)] = alone.as_slice() else { panic!("{} blocks", alone.len()) };
                prop_assert_eq!(first_key, expected_key);
                prop_assert_eq!(&block.words, &expected.words);
                prop_assert_eq!(block.has_nested_stems(), expected.has_nested_stems());
                // What the stems of one block have in common is padded, and may be longer than what all have.
                let bytes_max = copy_target_bytes + copy_target_bytes / 16 + 7;
                prop_assert!(copies.len() == 1 || block.entries() == 1 || block.bytes() <= size_class(bytes_max + HEADER_BYTES));
                copied.extend(entries);
            }
            prop_assert_eq!(&copied, &entries);
        }
    }
}
