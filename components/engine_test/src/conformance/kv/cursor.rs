//! Movements of a cursor.

use engine_traits::{Cf, IterBounds, Iterator, KEY_BYTES_MAX, KvEngine, Snapshot};

use super::*;

const KEYS: [&str; 5] = ["b", "d", "f", "h", "j"];

/// An engine with [`KEYS`] in the default family and others around them in another one.
fn filled<F: KvFactory>(factory: &F) -> F::Engine {
    let engine = open(factory);
    put_keys(&engine, &KEYS);
    write(&engine, |batch| ["a", "e", "z"].iter().for_each(|key| batch.put(Cf::Write, key.as_bytes(), b"other")));
    engine
}

fn cursor<E: KvEngine>(engine: &E, lower: Option<&str>, upper: Option<&str>) -> <E::Snapshot as Snapshot>::Iter {
    let bounds = bounds(lower.map(str::as_bytes), upper.map(str::as_bytes));
    engine.snapshot().iter(Cf::Default, bounds).expect("a cursor opens")
}

/// Where a movement that returned `moved` left the cursor, checking that all its methods agree.
fn at<I: Iterator>(cursor: &I, moved: engine_traits::Result<bool>) -> Option<String> {
    let moved = moved.expect("the cursor moves");
    assert_eq!(cursor.valid(), moved, "what the movement returned and `valid` differ");
    moved.then(|| {
        assert_eq!(cursor.key(), cursor.value(), "the value belongs to another key");
        String::from_utf8(cursor.key().to_vec()).expect("the keys are text")
    })
}

/// `assert_at!(cursor.movement(), "key")`, or `None` for a cursor that must be invalid.
macro_rules! assert_at {
    ($cursor:ident.$movement:ident($($key:expr)?), None) => {{
        let moved = $cursor.$movement($($key)?);
        assert_eq!(at(&$cursor, moved), None);
    }};
    ($cursor:ident.$movement:ident($($key:expr)?), $expected:expr) => {{
        let moved = $cursor.$movement($($key)?);
        assert_eq!(at(&$cursor, moved).as_deref(), Some($expected));
    }};
}

pub fn a_new_cursor_is_not_valid<F: KvFactory>(factory: &F) {
    let engine = filled(factory);
    let mut forward = cursor(&engine, None, None);
    assert!(!forward.valid());
    assert_at!(forward.next(), None);
    let mut backward = cursor(&engine, None, None);
    assert_at!(backward.prev(), None);
    assert_at!(backward.seek_to_last(), "j");
}

pub fn cursors_stay_within_their_bounds<F: KvFactory>(factory: &F) {
    let engine = filled(factory);
    // Bounds on keys, between keys, around all of them, and absent.
    let ends = [None, Some(""), Some("a"), Some("b"), Some("c"), Some("d"), Some("h"), Some("i"), Some("j"), Some("k")];
    for lower in ends {
        for upper in ends {
            let inside = |key: &&str| lower.is_none_or(|lower| lower <= *key) && upper.is_none_or(|upper| *key < upper);
            let expected: Vec<&str> = KEYS.into_iter().filter(inside).collect();
            let case = format!("{lower:?}..{upper:?}");

            let mut cursor = cursor(&engine, lower, upper);
            let forward: Vec<_> = collect(&mut cursor).into_iter().map(|(key, _)| key).collect();
            assert_eq!(forward, expected.iter().map(|key| key.as_bytes()).collect::<Vec<_>>(), "{case}");

            let mut moved = cursor.seek_to_last();
            let mut backward = Vec::new();
            while let Some(key) = at(&cursor, moved) {
                backward.push(key);
                moved = cursor.prev();
            }
            backward.reverse();
            assert_eq!(backward, expected, "{case} backward");

            for probe in ["", "a", "b", "e", "f", "j", "k"] {
                let moved = cursor.seek(probe.as_bytes());
                let expected_at = expected.iter().find(|key| **key >= probe);
                assert_eq!(at(&cursor, moved).as_deref(), expected_at.copied(), "{case} seek {probe}");
                let moved = cursor.seek_for_prev(probe.as_bytes());
                let expected_at = expected.iter().rfind(|key| **key <= probe);
                assert_eq!(at(&cursor, moved).as_deref(), expected_at.copied(), "{case} prev {probe}");
            }
        }
    }
}

pub fn cursors_over_empty_or_inverted_bounds_find_nothing<F: KvFactory>(factory: &F) {
    let engine = filled(factory);
    for (lower, upper) in [("d", "d"), ("h", "b"), ("e", "e"), ("z", "a"), ("", "")] {
        let mut cursor = cursor(&engine, Some(lower), Some(upper));
        assert_at!(cursor.seek_to_first(), None);
        assert_at!(cursor.seek_to_last(), None);
        for key in ["", "b", "d", "e", "h", "z"] {
            assert_at!(cursor.seek(key.as_bytes()), None);
            assert_at!(cursor.seek_for_prev(key.as_bytes()), None);
            assert_at!(cursor.next(), None);
            assert_at!(cursor.prev(), None);
        }
    }
}

pub fn seek_finds_the_first_key_at_or_after<F: KvFactory>(factory: &F) {
    let engine = filled(factory);
    let mut cursor = cursor(&engine, None, None);
    assert_at!(cursor.seek(b""), "b");
    assert_at!(cursor.seek(b"d"), "d");
    assert_at!(cursor.seek(b"d\0"), "f");
    assert_at!(cursor.seek(b"c\xff"), "d");
    assert_at!(cursor.seek(b"j"), "j");
    assert_at!(cursor.seek(b"j\0"), None);
    assert_at!(cursor.seek(b"a"), "b");
}

pub fn seek_for_prev_finds_the_last_key_at_or_before<F: KvFactory>(factory: &F) {
    let engine = filled(factory);
    let mut cursor = cursor(&engine, None, None);
    assert_at!(cursor.seek_for_prev(b"\xff"), "j");
    assert_at!(cursor.seek_for_prev(b"d"), "d");
    assert_at!(cursor.seek_for_prev(b"d\0"), "d");
    assert_at!(cursor.seek_for_prev(b"c\xff"), "b");
    assert_at!(cursor.seek_for_prev(b"b"), "b");
    assert_at!(cursor.seek_for_prev(b"a\xff"), None);
    assert_at!(cursor.seek_for_prev(b""), None);
}

pub fn a_cursor_changes_direction_at_any_key<F: KvFactory>(factory: &F) {
    let engine = filled(factory);
    for (position, key) in KEYS.into_iter().enumerate() {
        for arrive in 0..4 {
            let mut cursor = cursor(&engine, Some("b"), Some("k"));
            match arrive {
                0 => assert_at!(cursor.seek(key.as_bytes()), key),
                1 => assert_at!(cursor.seek_for_prev(key.as_bytes()), key),
                2 => {
                    cursor.seek_to_first().unwrap();
                    (0..position).for_each(|_| assert!(cursor.next().unwrap()));
                }
                _ => {
                    cursor.seek_to_last().unwrap();
                    (position + 1..KEYS.len()).for_each(|_| assert!(cursor.prev().unwrap()));
                }
            }
            for _ in 0..2 {
                if position + 1 < KEYS.len() {
                    assert_at!(cursor.next(), KEYS[position + 1]);
                    assert_at!(cursor.prev(), key);
                }
                if position > 0 {
                    assert_at!(cursor.prev(), KEYS[position - 1]);
                    assert_at!(cursor.next(), key);
                }
            }
        }
    }
}

pub fn a_cursor_that_ran_off_an_end_stays_invalid_until_it_is_positioned<F: KvFactory>(factory: &F) {
    let engine = filled(factory);
    for (lower, upper) in [(None, None), (Some("b"), Some("i"))] {
        let last = if upper.is_some() { "h" } else { "j" };
        let mut cursor = cursor(&engine, lower, upper);
        assert_at!(cursor.seek_to_last(), last);
        assert_at!(cursor.next(), None);
        assert_at!(cursor.next(), None);
        assert_at!(cursor.prev(), None);
        assert_at!(cursor.seek_to_first(), "b");
        assert_at!(cursor.prev(), None);
        assert_at!(cursor.prev(), None);
        assert_at!(cursor.next(), None);
        assert_at!(cursor.seek(b"zz"), None);
        assert_at!(cursor.prev(), None);
        assert_at!(cursor.seek_for_prev(b"zz"), last);
    }
}

pub fn keys_longer_than_any_stored_one_can_be_sought<F: KvFactory>(factory: &F) {
    let engine = open(factory);
    let longest = vec![b'k'; KEY_BYTES_MAX];
    let longer = vec![b'k'; KEY_BYTES_MAX + 1];
    let between = [&longest[..KEY_BYTES_MAX - 1], b"j", b"tail"].concat();
    write(&engine, |batch| {
        batch.put(Cf::Default, b"a", b"");
        batch.put(Cf::Default, &longest, b"");
        batch.put(Cf::Default, b"z", b"");
    });
    let snapshot = engine.snapshot();
    assert_eq!(snapshot.get_value(Cf::Default, &longer).unwrap(), None);
    let mut cursor = snapshot.iter(Cf::Default, IterBounds::default()).unwrap();
    assert!(cursor.seek(&longer).unwrap() && cursor.key() == b"z");
    assert!(cursor.seek_for_prev(&longer).unwrap() && cursor.key() == longest);
    assert!(cursor.seek(&between).unwrap() && cursor.key() == longest);
    assert!(cursor.seek_for_prev(&between).unwrap() && cursor.key() == b"a");

    let mut below = snapshot.iter(Cf::Default, bounds(None, Some(&longer))).unwrap();
    assert!(below.seek_to_last().unwrap() && below.key() == longest);
    let mut above = snapshot.iter(Cf::Default, bounds(Some(&longer), None)).unwrap();
    assert!(above.seek_to_first().unwrap() && above.key() == b"z");
    assert!(!above.prev().unwrap());
}
