//! A cursor over one family.
//!
//! # What it owns
//! A fjall range and the pair that the cursor is on, as fjall's reference-counted slices: nothing is copied.
//!
//! # How it works
//! 1. Positioning opens a range from there to the bound of the direction, and takes its first (or last) pair.
//! 2. Going on in the same direction takes the next pair of the open range; there is no seek.
//! 3. Turning round opens a range that begins next to the current key.
//!
//! fjall's ranges are double-ended, but both ends consume one range: what was passed going forward does not come back.
//!
//! # Invariants
//! - `current` is within the bounds, and `range` (when there is one) continues behind it in `direction`.
//! - A range is never handed to fjall with its ends swapped or with a key that it asserts on ([`KeyRange`]).
//!
//! # What it must not do
//! Hold anything of the engine but its snapshot, which keeps both the versions and the directory's lock alive.

use std::ops::Bound;

use engine_traits::{Cf, IterBounds, Iterator, KEY_BYTES_MAX, Result};
use fjall::{Iter, KvPair};

use crate::{FjallSnapshot, errors::translate};

/// A cursor over one column family of a [`FjallSnapshot`].
pub struct FjallCursor {
    /// Before `snapshot`, which it must not outlive.
    range: Option<Iter>,
    direction: Direction,
    current: Option<KvPair>,
    snapshot: FjallSnapshot,
    cf: Cf,
    bounds: IterBounds,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

impl FjallCursor {
    pub(crate) fn new(snapshot: FjallSnapshot, cf: Cf, bounds: IterBounds) -> Self {
        Self { range: None, direction: Direction::Forward, current: None, snapshot, cf, bounds }
    }

    /// Goes to the first pair (or last, going backward) within both `from` and the bounds.
    ///
    /// `from` is the lower end of the keys when going forward, the upper end when going backward.
    fn position(&mut self, direction: Direction, from: Bound<&[u8]>) -> Result<bool> {
        let (lower, upper) = (self.bounds.lower.as_deref(), self.bounds.upper.as_deref());
        let (start, end) = match direction {
            Direction::Forward => (tighter_start(lower, from), excluded(upper)),
            Direction::Backward => (included(lower), tighter_end(upper, from)),
        };
        self.direction = direction;
        self.range = KeyRange::new(start, end).map(|range| self.snapshot.range(self.cf, &range));
        self.advance()
    }

    /// Takes the next pair of the open range, in the cursor's direction.
    fn advance(&mut self) -> Result<bool> {
        self.current = None;
        let Some(range) = &mut self.range else { return Ok(false) };
        let guard = match self.direction {
            Direction::Forward => range.next(),
            Direction::Backward => range.next_back(),
        };
        let Some(guard) = guard else {
            // Frees the tables and blocks that the range pins: a cursor may be kept long after it is exhausted.
            self.range = None;
            return Ok(false);
        };
        self.current = Some(guard.into_inner().map_err(|error| translate("iterate", self.cf.name(), error))?);
        Ok(true)
    }

    fn step(&mut self, direction: Direction) -> Result<bool> {
        if self.current.is_some() && self.direction == direction {
            return self.advance();
        }
        match self.current.take() {
            Some((key, _)) => self.position(direction, Bound::Excluded(&key)),
            None => Ok(false),
        }
    }

    fn current(&self) -> &KvPair {
        self.current.as_ref().expect("the cursor is on a key, as the caller must have checked")
    }
}

impl Iterator for FjallCursor {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.position(Direction::Forward, Bound::Included(key))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool> {
        self.position(Direction::Backward, Bound::Included(key))
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.position(Direction::Forward, Bound::Unbounded)
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.position(Direction::Backward, Bound::Unbounded)
    }

    fn next(&mut self) -> Result<bool> {
        self.step(Direction::Forward)
    }

    fn prev(&mut self) -> Result<bool> {
        self.step(Direction::Backward)
    }

    fn valid(&self) -> bool {
        self.current.is_some()
    }

    fn key(&self) -> &[u8] {
        &self.current().0
    }

    fn value(&self) -> &[u8] {
        &self.current().1
    }
}

fn included(key: Option<&[u8]>) -> Bound<&[u8]> {
    key.map_or(Bound::Unbounded, Bound::Included)
}

fn excluded(key: Option<&[u8]>) -> Bound<&[u8]> {
    key.map_or(Bound::Unbounded, Bound::Excluded)
}

/// The later one of the inclusive bound `lower` and `from`.
fn tighter_start<'a>(lower: Option<&'a [u8]>, from: Bound<&'a [u8]>) -> Bound<&'a [u8]> {
    match (lower, from) {
        (Some(lower), Bound::Included(key) | Bound::Excluded(key)) if key >= lower => from,
        (None, from) => from,
        (Some(lower), _) => Bound::Included(lower),
    }
}

/// The earlier one of the exclusive bound `upper` and `from`.
fn tighter_end<'a>(upper: Option<&'a [u8]>, from: Bound<&'a [u8]>) -> Bound<&'a [u8]> {
    match (upper, from) {
        (Some(upper), Bound::Included(key) | Bound::Excluded(key)) if key < upper => from,
        (None, from) => from,
        (Some(upper), _) => Bound::Excluded(upper),
    }
}

/// A range of keys that fjall can be asked for: not empty by its ends, and these no longer than a key can be.
pub(crate) struct KeyRange<'a> {
    start: Bound<&'a [u8]>,
    end: Bound<&'a [u8]>,
}

impl<'a> KeyRange<'a> {
    pub(crate) const ALL: Self = Self { start: Bound::Unbounded, end: Bound::Unbounded };

    /// `None` when no key is between the ends.
    pub(crate) fn new(start: Bound<&'a [u8]>, end: Bound<&'a [u8]>) -> Option<Self> {
        let empty = match (start, end) {
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
                start >= end
            }
            _ => false,
        };
        // A key longer than any stored one lies directly behind its longest prefix that can be stored.
        let start = match start {
            Bound::Included(key) | Bound::Excluded(key) if key.len() > KEY_BYTES_MAX => {
                Bound::Excluded(&key[..KEY_BYTES_MAX])
            }
            start => start,
        };
        let end = match end {
            Bound::Included(key) | Bound::Excluded(key) if key.len() > KEY_BYTES_MAX => {
                Bound::Included(&key[..KEY_BYTES_MAX])
            }
            end => end,
        };
        // Two long keys may have the same prefix, and then nothing is left between them.
        let crossed = matches!((start, end), (Bound::Excluded(start), Bound::Included(end)) if start >= end);
        (!empty && !crossed).then_some(Self { start, end })
    }

    pub(crate) fn bounds(&self) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        (self.start, self.end)
    }
}
