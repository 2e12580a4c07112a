//! What a reader does, with nobody else there.
//!
//! **Owns** these cases:
//!
//! - `next`: a step of a scan, ns; side `ours_after_writes`: of the same entries, written in random order.
//! - `seek`: a new iterator and a seek to a random version. `get`: a random version by its key.
//! - `row_at_ts`, `row_reverse`: a user key of a scan at the newest timestamp, by the same code over all engines, next to
//!   as many steps as the user key has versions (sides `…_next`).
//! - `snapshot`: taking one.
//!
//! **Invariants.** Each side reads the same rows and keys, in the same random order.
//!
//! **Must not** write.

use std::{hint::black_box, ops::Bound, sync::Arc};

use hybrid_engine::mvcc::ScanOptions;

use super::{
    Bench, STEPS,
    dataset::data_key,
    sides::{Reader, Store},
};
use crate::{measure::in_turns, report::Figure};

impl Bench {
    pub(super) fn steps(&self, runs: u32) -> Vec<Figure> {
        let rows = self.rows_of(STEPS);
        let scan = |name, reader: Box<dyn Reader>| self.side(name, STEPS, rows, move |row| reader.scan(row, STEPS));
        let mut sides: Vec<_> = self.disks.iter().map(|disk| scan(disk.name(), disk.reader())).collect();
        let shared_map = &self.shared_map;
        sides.extend([
            self.side("map", STEPS, rows, |row| {
                let start = data_key(row, u64::MAX >> 32);
                let range = self.map.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded));
                range.take(STEPS).for_each(|entry| _ = black_box(entry));
            }),
            self.side("shared_map", STEPS, rows, move |row| {
                let start: Arc<[u8]> = data_key(row, u64::MAX >> 32).into();
                shared_map.range(start..).take(STEPS).for_each(|entry| _ = black_box(entry));
            }),
            scan("ours", self.cache.reader()),
            scan("ours_after_writes", self.written.reader()),
        ]);
        self.case("next", "ns").compare(&in_turns(sides, runs))
    }

    pub(super) fn lookups(&self, runs: u32) -> Vec<Figure> {
        let (map, shared_map) = (&self.map, &self.shared_map);
        let seek = |reader: &dyn Reader, key: &[u8]| reader.seek(key);
        let mut seeks: Vec<_> = self.disks.iter().map(|disk| self.reader(disk.name(), disk.reader(), seek)).collect();
        seeks.extend([
            self.lookup("map", move |key| {
                assert!(map.range::<[u8], _>((Bound::Included(key), Bound::Unbounded)).next().is_some());
            }),
            self.lookup("shared_map", move |key| {
                let key: Arc<[u8]> = key.into();
                assert!(shared_map.range(key..).next().is_some());
            }),
            self.reader("ours", self.cache.reader(), seek),
        ]);
        let get = |reader: &dyn Reader, key: &[u8]| reader.get(key);
        let mut gets: Vec<_> = self.disks.iter().map(|disk| self.reader(disk.name(), disk.reader(), get)).collect();
        gets.extend([
            self.lookup("map", move |key| assert!(black_box(map.get(key).cloned()).is_some())),
            self.lookup("shared_map", move |key| assert!(black_box(shared_map.get(key).map(|v| v.to_vec())).is_some())),
            self.reader("ours", self.cache.reader(), get),
        ]);
        let mut figures = self.case("seek", "ns").compare(&in_turns(seeks, runs));
        figures.extend(self.case("get", "ns").compare(&in_turns(gets, runs)));
        figures
    }

    pub(super) fn rows(&self, runs: u32) -> Vec<Figure> {
        let rows = STEPS.min(self.shape.user_keys as usize / 2);
        let mut figures = Vec::new();
        for (name, reverse) in [("row_at_ts", false), ("row_reverse", true)] {
            let options = ScanOptions { reverse, ..Default::default() };
            let first = &self.disks[0];
            let stepped = first.reader();
            // A batch of steps is no longer than one of another case, so it has fewer rows.
            let (stepped_rows, versions) = (self.rows_of(STEPS), self.shape.versions as usize);
            let mut sides = vec![self.side(first.name_of_steps(), stepped_rows, stepped_rows, move |row| {
                stepped.scan(row, stepped_rows * versions);
            })];
            sides.extend(self.stores().map(|store| {
                let reader = store.reader();
                self.side(store.name(), rows, rows, move |row| reader.rows(row, rows, options))
            }));
            figures.extend(self.case(name, "ns").compare(&in_turns(sides, runs)));
        }
        figures
    }

    pub(super) fn snapshots(&self, runs: u32) -> Vec<Figure> {
        let sides = self.stores().map(|store| self.lookup(store.name(), move |_| store.take_snapshot())).collect();
        self.case("snapshot", "ns").compare(&in_turns(sides, runs))
    }

    /// How many rows have so many entries.
    pub(super) fn rows_of(&self, entries: usize) -> usize {
        entries.div_ceil(self.shape.versions as usize)
    }
}
