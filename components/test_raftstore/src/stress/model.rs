//! What must be there.
//!
//! # What it owns
//! The timeline, and of each row what was acknowledged.
//!
//! # How it works
//! The key space is blocks of rows; a block is written by one writer only, so that a row has one change at a time. A
//! change has an id from the timeline and begins before its command is sent; it ends when that is acknowledged. Ids are
//! those of [`records`]: command `id` starts at `2 * id` and commits at `2 * id + 1`.
//!
//! A reader first chooses a timestamp that is over, then copies the rows, then takes its snapshot, and then asks what must
//! be in it ([`Before::expected`]). Changes that begin later are behind its timestamp, unless they end a lock or wipe rows.
//!
//! # Invariants
//! The safe point is below whatever is being written. What is known of a row is exact, or the row is `unknown`: its last
//! command got no answer, and may still be carried out.
//!
//! # What it must not do
//! Look at a store.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use txn_types::{Key, LockType, WriteType};

use crate::sim::records;

pub(super) const BLOCKS: u64 = 48;
pub(super) const ROWS: u64 = 100;

/// Of so many blocks, the last is deleted by range now and then.
const WIPED_EVERY: u64 = 4;

pub(super) fn raw_key(block: u64, row: u64) -> Vec<u8> {
    format!("b{block:03}r{row:04}").into_bytes()
}

/// As raftstore sees a row.
pub(super) fn encoded_key(block: u64, row: u64) -> Vec<u8> {
    Key::from_raw(&raw_key(block, row)).into_encoded()
}

/// The first half of the keys, as raftstore sees them.
pub(super) fn pinned() -> (Vec<u8>, Vec<u8>) {
    (encoded_key(0, 0), encoded_key(BLOCKS / 2, 0))
}

pub(super) fn is_wiped_by_range(block: u64) -> bool {
    block % WIPED_EVERY == WIPED_EVERY - 1
}

/// A record of the write column family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    /// When it was committed; of a rollback, when that transaction has started.
    pub(super) ts: u64,
    /// The command that wrote the value.
    pub(super) start: u64,
    pub(super) write_type: WriteType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Locked {
    pub(super) start: u64,
    pub(super) lock_type: LockType,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// In the order of their timestamps.
    pub(super) versions: Vec<Version>,
    pub(super) locked: Option<Locked>,
    /// Readers at or above this timestamp may see a change that is under way.
    changing_from: Option<u64>,
    /// Changes so far that readers at earlier timestamps may notice.
    changes_in_the_past: u64,
    unknown: bool,
}

impl Row {
    /// A change that readers below `from` do not notice begins. `in_the_past` is whether others may that have read before.
    pub(super) fn begin(&mut self, from: u64, in_the_past: bool) {
        self.changing_from = Some(from);
        self.changes_in_the_past += u64::from(in_the_past);
    }

    /// The change has an answer; if that is none, `is_known` is false.
    pub(super) fn end(&mut self, is_known: bool) {
        self.changing_from = None;
        self.unknown |= !is_known;
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// What readers at or above `safe_point` do not need: removed here, and returned.
    pub(super) fn take_garbage(&mut self, safe_point: u64) -> Vec<Version> {
        let is_change = |v: &Version| matches!(v.write_type, WriteType::Put | WriteType::Delete);
        let visible = self.versions.iter().rposition(|version| version.ts <= safe_point && is_change(version));
        let mut at = 0;
        let is_garbage = |version: &mut Version| {
            let is_hidden = visible.is_some_and(|visible| at < visible);
            at += 1;
            version.ts <= safe_point && (is_hidden || !is_change(version))
        };
        self.versions.extract_if(.., is_garbage).collect()
    }

    /// What a reader at `ts` finds; `None` when that cannot be told.
    fn visible(&self, after: &Row, ts: u64, key: &[u8]) -> Option<Visible> {
        let is_disturbed =
            self.changing_from.is_some_and(|from| from <= ts) || self.changes_in_the_past != after.changes_in_the_past;
        if is_disturbed || after.unknown {
            return None;
        }
        let lock = self.locked.map(|locked| records::lock(locked.start, key, locked.lock_type));
        if let Some(lock) = lock.filter(|lock| records::blocks(lock, ts.into())) {
            return Some(Visible::Locked(lock.ts.into_inner()));
        }
        let is_change = |v: &&Version| v.ts <= ts && matches!(v.write_type, WriteType::Put | WriteType::Delete);
        Some(match self.versions.iter().rfind(is_change) {
            Some(version) if version.write_type == WriteType::Put => Visible::Value(records::value(version.start, key)),
            _ => Visible::Nothing,
        })
    }
}

/// What a reader is told of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Visible {
    Nothing,
    Value(Vec<u8>),
    /// By the transaction that has started then.
    Locked(u64),
}

pub(super) struct Model {
    writers: u64,
    timeline: Mutex<Timeline>,
    safe_point: AtomicU64,
    blocks: Vec<Mutex<Vec<Row>>>,
}

#[derive(Default)]
struct Timeline {
    last: u64,
    active: BTreeSet<u64>,
}

/// The rows as they were before a snapshot was taken.
pub(super) struct Before {
    ts: u64,
    rows: Vec<(u64, u64, Row)>,
}

impl Model {
    pub(super) fn new(writers: u64) -> Self {
        let block = |_| Mutex::new(vec![Row::default(); ROWS as usize]);
        Self {
            writers,
            timeline: Mutex::default(),
            safe_point: AtomicU64::new(0),
            blocks: (0..BLOCKS).map(block).collect(),
        }
    }

    /// The blocks that belong to a writer.
    pub(super) fn blocks_of(&self, writer: u64) -> Vec<u64> {
        (0..BLOCKS).filter(|block| block % self.writers == writer).collect()
    }

    /// The id of a new command, which is under way until [`end`](Self::end).
    pub(super) fn begin(&self) -> u64 {
        let mut timeline = self.timeline.lock();
        timeline.last += 1;
        let id = timeline.last;
        timeline.active.insert(id);
        id
    }

    pub(super) fn end(&self, id: u64) {
        self.timeline.lock().active.remove(&id);
    }

    pub(super) fn last_id(&self) -> u64 {
        self.timeline.lock().last
    }

    pub(super) fn safe_point(&self) -> u64 {
        self.safe_point.load(Ordering::SeqCst)
    }

    /// Moves the safe point to the commands up to `id`, but not to one that is under way.
    pub(super) fn advance_safe_point(&self, id: u64) -> u64 {
        let timeline = self.timeline.lock();
        let id = timeline.active.first().map_or(id, |active| id.min(active - 1));
        let safe_point = records::commit_ts(id).into_inner();
        self.safe_point.fetch_max(safe_point, Ordering::SeqCst).max(safe_point)
    }

    /// Looks at a block's rows, or changes them.
    pub(super) fn with_rows<T>(&self, block: u64, look: impl FnOnce(&mut [Row]) -> T) -> T {
        look(&mut self.blocks[block as usize].lock())
    }

    /// The rows `range` (each a block and a row in it), as a reader at `ts` that has not taken its snapshot yet sees them.
    pub(super) fn before(&self, ts: u64, range: Range<u64>) -> Before {
        let mut rows = Vec::new();
        for block in range.start / ROWS..range.end.div_ceil(ROWS) {
            let at = |row: &u64| range.contains(&(block * ROWS + row));
            let copy = |all: &mut [Row]| {
                (0..ROWS).filter(at).map(|row| (block, row, all[row as usize].clone())).collect::<Vec<_>>()
            };
            rows.extend(self.with_rows(block, copy));
        }
        Before { ts, rows }
    }
}

impl Before {
    /// Of each row, by its key, what must be found in a snapshot that was taken since; `None` where that cannot be told.
    pub(super) fn expected(&self, model: &Model) -> Vec<(Vec<u8>, Option<Visible>)> {
        let expected = |(block, row, before): &(u64, u64, Row)| {
            let key = raw_key(*block, *row);
            let visible = model.with_rows(*block, |rows| before.visible(&rows[*row as usize], self.ts, &key));
            (key, visible)
        };
        self.rows.iter().map(expected).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(versions: &[(u64, WriteType)]) -> Row {
        let version = |(ts, write_type): &(u64, WriteType)| Version { ts: *ts, start: ts / 2, write_type: *write_type };
        Row { versions: versions.iter().map(version).collect(), ..Row::default() }
    }

    #[test]
    fn what_no_reader_at_the_safe_point_needs_is_garbage() {
        use WriteType::{Delete, Put, Rollback};
        let mut row = row(&[(3, Put), (5, Delete), (6, Rollback), (9, Put), (10, Rollback), (13, Put)]);
        let garbage: Vec<u64> = row.take_garbage(11).iter().map(|version| version.ts).collect();
        assert_eq!(garbage, [3, 5, 6, 10]);
        let kept: Vec<u64> = row.versions.iter().map(|version| version.ts).collect();
        assert_eq!(kept, [9, 13]);
        assert!(row.take_garbage(11).is_empty());
    }

    #[test]
    fn a_row_that_changes_is_known_to_readers_below_the_change() {
        let mut before = row(&[(3, WriteType::Put)]);
        before.begin(8, false);
        let value = Visible::Value(records::value(1, b"k"));
        assert_eq!(before.visible(&before.clone(), 7, b"k"), Some(value.clone()));
        assert_eq!(before.visible(&before.clone(), 8, b"k"), None);
        before.end(true);
        assert_eq!(before.visible(&before.clone(), 9, b"k"), Some(value));
        let mut after = before.clone();
        after.begin(0, true);
        assert_eq!(before.visible(&after, 7, b"k"), None);
        after.end(false);
        assert_eq!(after.visible(&after.clone(), 7, b"k"), None);
    }

    #[test]
    fn the_safe_point_stays_below_what_is_under_way() {
        let model = Model::new(1);
        let (first, second) = (model.begin(), model.begin());
        model.end(first);
        assert_eq!(model.advance_safe_point(5), records::commit_ts(first).into_inner());
        model.end(second);
        assert_eq!(model.advance_safe_point(second), records::commit_ts(second).into_inner());
        assert_eq!(model.advance_safe_point(0), records::commit_ts(second).into_inner());
    }
}
