//! Key ranges that are kept warm while this store leads their regions.
//!
//! **Owns** how a range is spelled, and which ranges are pinned by the configuration and which by hand.
//!
//! **How it works.** Ranges come as text ([`PinnedRange`]) and are parsed once. [`Pins`] keeps both kinds, and next to them
//! their union, which answers the question that is asked all the time by a binary search.
//!
//! **Invariants.** [`PinnedRanges`] are sorted by start and neither overlap nor touch. At most [`PINNED_BY_HAND_MAX`] ranges
//! are pinned by hand (I6). What is pinned by hand stays when the configuration changes, until it is unpinned or the store
//! stops.
//!
//! **Must not** know regions.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::initialized_region::is_empty_range;

/// Ranges pinned by hand. They are tables and indexes that somebody cares about: dozens, and the union of a thousand is
/// built in well below a millisecond.
pub const PINNED_BY_HAND_MAX: usize = 1024;

/// A key range in the form in which region metadata holds keys (for TiDB's tables that is the memcomparable encoding).
///
/// A key is written as UTF-8 text, or as `hex:` and hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PinnedRange {
    /// Inclusive; empty is the start of the key space.
    pub start_key: String,
    /// Exclusive; empty is the end of the key space.
    pub end_key: String,
}

impl PinnedRange {
    /// The range of these keys; an empty `end` is the end of the key space.
    pub fn of_keys(start: &[u8], end: &[u8]) -> Self {
        Self { start_key: spell_key(start), end_key: spell_key(end) }
    }

    /// The first key of the range, and the first one behind it.
    ///
    /// # Errors
    /// When a key cannot be parsed, or the range is empty.
    pub fn keys(&self) -> Result<(Vec<u8>, Vec<u8>), PinError> {
        KeyRange::parse(self).map(|range| (range.start, range.end))
    }
}

/// Why a range cannot be pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    #[error("{key} = {value:?} is not a key, expected \"hex:\" and an even number of hexadecimal digits")]
    Key { key: &'static str, value: String },
    #[error("start-key = {start:?} is not smaller than end-key = {end:?}")]
    EmptyRange { start: String, end: String },
    #[error("{max} ranges are pinned by hand already")]
    TooMany { max: usize },
}

/// A range that is pinned, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub range: PinnedRange,
    /// By the configuration; otherwise by hand.
    pub is_configured: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyRange {
    start: Vec<u8>,
    /// Empty means +∞.
    end: Vec<u8>,
}

impl KeyRange {
    pub(crate) fn parse(range: &PinnedRange) -> Result<Self, PinError> {
        let PinnedRange { start_key, end_key } = range;
        let parse = |key: &'static str, value: &String| {
            parse_key(value).ok_or_else(|| PinError::Key { key, value: value.clone() })
        };
        let (start, end) = (parse("start-key", start_key)?, parse("end-key", end_key)?);
        if is_empty_range(&start, &end) {
            return Err(PinError::EmptyRange { start: start_key.clone(), end: end_key.clone() });
        }
        Ok(Self { start, end })
    }

    fn spell(&self) -> PinnedRange {
        PinnedRange::of_keys(&self.start, &self.end)
    }
}

/// Sorted by start, neither overlapping nor touching, so that one binary search answers a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PinnedRanges(Vec<KeyRange>);

impl PinnedRanges {
    pub(crate) fn new(mut ranges: Vec<KeyRange>) -> Self {
        ranges.sort();
        let mut merged: Vec<KeyRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end.is_empty() => {}
                Some(last) if range.start <= last.end => {
                    if range.end.is_empty() || range.end > last.end {
                        last.end = range.end;
                    }
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Whether a key of `start..end` is pinned; an empty `end` is +∞.
    pub(crate) fn overlaps(&self, start: &[u8], end: &[u8]) -> bool {
        // The first pinned range that does not end at or before `start`.
        let first = self.0.partition_point(|range| !range.end.is_empty() && range.end.as_slice() <= start);
        self.0.get(first).is_some_and(|range| end.is_empty() || range.start.as_slice() < end)
    }
}

/// All that is pinned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins {
    configured: PinnedRanges,
    by_hand: BTreeSet<KeyRange>,
    /// The union of both.
    all: PinnedRanges,
}

impl Pins {
    pub(crate) fn new(configured: PinnedRanges) -> Self {
        Self { all: configured.clone(), configured, by_hand: BTreeSet::new() }
    }

    pub(crate) fn all(&self) -> &PinnedRanges {
        &self.all
    }

    pub(crate) fn configure(&mut self, configured: PinnedRanges) {
        self.configured = configured;
        self.unite();
    }

    /// Returns whether the range was not pinned by hand before.
    pub(crate) fn pin(&mut self, range: KeyRange) -> Result<bool, PinError> {
        if self.by_hand.len() >= PINNED_BY_HAND_MAX && !self.by_hand.contains(&range) {
            return Err(PinError::TooMany { max: PINNED_BY_HAND_MAX });
        }
        let is_new = self.by_hand.insert(range);
        self.unite();
        Ok(is_new)
    }

    /// Returns whether exactly this range was pinned by hand.
    pub(crate) fn unpin(&mut self, range: &KeyRange) -> bool {
        let was_pinned = self.by_hand.remove(range);
        self.unite();
        was_pinned
    }

    pub(crate) fn list(&self) -> Vec<Pin> {
        let pin = |range: &KeyRange, is_configured| Pin { range: range.spell(), is_configured };
        let configured = self.configured.0.iter().map(|range| pin(range, true));
        configured.chain(self.by_hand.iter().map(|range| pin(range, false))).collect()
    }

    fn unite(&mut self) {
        self.all = PinnedRanges::new(self.configured.0.iter().chain(&self.by_hand).cloned().collect());
    }
}

/// The bytes of a key as it is spelled.
fn parse_key(text: &str) -> Option<Vec<u8>> {
    let Some(digits) = text.strip_prefix("hex:") else {
        return Some(text.as_bytes().to_vec());
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

/// Text where that is readable and reads back as the same key.
fn spell_key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.starts_with("hex:") && !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.iter().fold("hex:".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> KeyRange {
        KeyRange::parse(&PinnedRange { start_key: start.into(), end_key: end.into() }).unwrap()
    }

    fn ranges(ranges: &[(&str, &str)]) -> PinnedRanges {
        PinnedRanges::new(ranges.iter().map(|(start, end)| range(start, end)).collect())
    }

    #[test]
    fn overlapping_ranges_are_merged() {
        let merged = ranges(&[("m", ""), ("a", "c"), ("b", "d"), ("d", "e"), ("x", "y")]);
        assert_eq!(merged, ranges(&[("a", "e"), ("m", "")]));
        for (start, end, expected) in
            [("", "a", false), ("", "a1", true), ("e", "m", false), ("e", "", true), ("z", "zz", true), ("", "", true)]
        {
            assert_eq!(merged.overlaps(start.as_bytes(), end.as_bytes()), expected, "{start}..{end}");
        }
        assert!(!PinnedRanges::default().overlaps(b"", b""));
    }

    #[test]
    fn keys_are_text_or_hex_and_read_back() {
        assert_eq!(parse_key("hex:00Ff"), Some(vec![0, 0xff]));
        assert_eq!(parse_key("hex:"), Some(vec![]));
        assert_eq!(parse_key("é"), Some("é".as_bytes().to_vec()));
        for bad in ["hex:0", "hex:0g", "hex:é"] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
        for (key, spelled) in
            [(&b"t1"[..], "t1"), (b"hex:61", "hex:6865783a3631"), (b"t\x80", "hex:7480"), (b"\n", "hex:0a")]
        {
            assert_eq!(spell_key(key), spelled);
            assert_eq!(parse_key(spelled).as_deref(), Some(key));
        }
    }

    #[test]
    fn what_is_pinned_by_hand_is_bounded_and_survives_the_configuration() {
        let mut pins = Pins::new(ranges(&[("a", "b")]));
        for n in 0..PINNED_BY_HAND_MAX {
            assert_eq!(pins.pin(range(&format!("k{n:04}"), &format!("k{n:04}0"))), Ok(true));
        }
        assert_eq!(pins.pin(range("k0000", "k00000")), Ok(false));
        assert_eq!(pins.pin(range("x", "y")), Err(PinError::TooMany { max: PINNED_BY_HAND_MAX }));
        pins.configure(PinnedRanges::default());
        assert!(!pins.all().overlaps(b"a", b"b") && pins.all().overlaps(b"k0000", b"k0001"));
        assert_eq!(pins.list().len(), PINNED_BY_HAND_MAX);
        assert!(pins.unpin(&range("k0000", "k00000")) && !pins.unpin(&range("k0000", "k00000")));
        assert!(!pins.all().overlaps(b"k0000", b"k0001"));
    }

    #[test]
    fn ranges_of_both_kinds_are_listed() {
        let mut pins = Pins::new(ranges(&[("a", "b")]));
        pins.pin(range("a", "")).unwrap();
        let listed: Vec<_> = pins.list().into_iter().map(|pin| (pin.range.end_key, pin.is_configured)).collect();
        assert_eq!(listed, [("b".to_owned(), true), (String::new(), false)]);
    }
}
