//! Transactions.
//!
//! # What it owns
//! What is written, and what the model is told of it.
//!
//! # How it works
//! A writer changes a few rows of one of its blocks at a time, and waits for the answer. Transactions that have locked rows
//! are ended later. What no reader at the safe point needs is deleted row by row, as TiKV's garbage collection does.
//!
//! # What it must not do
//! Touch a row whose last command got no answer.

use engine_traits::Cf;
use kvproto::raft_cmdpb::Request;
use rand::{Rng as _, rngs::SmallRng, seq::SliceRandom as _};
use txn_types::{Key, LockType, TimeStamp, Write, WriteType};

use super::{
    Stage,
    model::{Locked, ROWS, Row, Version, encoded_key, is_wiped_by_range, raw_key},
    router::Sent,
};
use crate::{requests, sim::records};

/// Rows of one command.
const ROWS_MAX: usize = 8;

/// A row with more versions than this is collected before it is written again.
const VERSIONS_MAX: usize = 10;

/// Transactions of a writer that have locked something.
const LOCKED_MAX: usize = 20;

struct Writer<'a> {
    stage: &'a Stage,
    blocks: Vec<u64>,
    rng: SmallRng,
    locked: Vec<(u64, u64)>,
}

pub(super) fn run(stage: &Stage, writer: u64, rng: SmallRng) {
    let mut writer = Writer { stage, blocks: stage.model.blocks_of(writer), rng, locked: Vec::new() };
    while !stage.is_stopped() {
        writer.step();
    }
}

impl Writer<'_> {
    fn step(&mut self) {
        let block = self.blocks[self.rng.random_range(0..self.blocks.len())];
        match self.rng.random_range(0..1000) {
            0..=1 if is_wiped_by_range(block) => self.wipe(block),
            0..=599 => self.put(block),
            600..=699 => self.delete(block),
            700..=729 => self.leave_record(block),
            730..=829 if !is_wiped_by_range(block) && self.locked.len() < LOCKED_MAX => self.prewrite(block),
            _ => self.end_transaction(),
        }
    }

    /// Has rows of `block` changed. `begin` says of a row what is to be written, and notes in it what is true once it is;
    /// `None` leaves the row alone.
    fn change(
        &mut self,
        block: u64,
        rows: Vec<u64>,
        past: Option<u64>,
        mut begin: impl FnMut(u64, &[u8], &Row) -> Option<Vec<Request>>,
        end: impl Fn(u64, &mut Row),
    ) -> Vec<u64> {
        let model = &self.stage.model;
        let (id, commands) = model.with_rows(block, |all| {
            let id = model.begin();
            let from = past.unwrap_or_else(|| records::start_ts(id).into_inner());
            let mut commands = Vec::new();
            for at in rows {
                let row = &mut all[at as usize];
                if row.is_unknown() {
                    continue;
                }
                if let Some(requests) = begin(id, &raw_key(block, at), row) {
                    row.begin(from, past.is_some());
                    commands.push((at, requests));
                }
            }
            (id, commands)
        });
        let rows: Vec<u64> = commands.iter().map(|(at, _)| *at).collect();
        if rows.is_empty() {
            model.end(id);
            return rows;
        }
        let commands = commands.into_iter().map(|(at, requests)| (encoded_key(block, at), requests)).collect();
        let sent = self.stage.router.write(commands);
        model.with_rows(block, |all| {
            for at in &rows {
                let row = &mut all[*at as usize];
                if sent == Sent::Acknowledged {
                    end(id, row);
                }
                row.end(sent == Sent::Acknowledged);
            }
        });
        model.end(id);
        if sent == Sent::Unknown {
            self.stage.tally.count("writes without an answer");
            return Vec::new();
        }
        self.stage.tally.count("writes acknowledged");
        rows
    }

    /// Some rows, in any order, none twice.
    fn pick_rows(&mut self) -> Vec<u64> {
        let mut all: Vec<u64> = (0..ROWS).collect();
        let count = self.rng.random_range(1..=ROWS_MAX);
        let (picked, _) = all.partial_shuffle(&mut self.rng, count);
        picked.to_vec()
    }

    fn pick_unlocked_rows(&mut self, block: u64) -> Vec<u64> {
        let mut rows = self.pick_rows();
        self.stage.model.with_rows(block, |all| rows.retain(|at| all[*at as usize].locked.is_none()));
        self.collect(block, &rows);
        rows
    }

    fn put(&mut self, block: u64) {
        let rows = self.pick_unlocked_rows(block);
        let put = |id, key: &[u8], _: &Row| Some(records::put(id, key));
        self.change(block, rows, None, put, |id, row| row.versions.push(version(id, id, WriteType::Put)));
        self.stage.tally.count("puts");
    }

    fn delete(&mut self, block: u64) {
        let rows = self.pick_unlocked_rows(block);
        let delete = |id, key: &[u8], _: &Row| Some(records::delete(id, key));
        self.change(block, rows, None, delete, |id, row| row.versions.push(version(id, id, WriteType::Delete)));
        self.stage.tally.count("deletions");
    }

    /// Records that change nothing: of a transaction that was rolled back before it has locked, or that only locked.
    fn leave_record(&mut self, block: u64) {
        let rows = self.pick_unlocked_rows(block);
        let write_type = if self.rng.random() { WriteType::Rollback } else { WriteType::Lock };
        let record = move |id, key: &[u8], _: &Row| {
            let record = Write::new(write_type, records::start_ts(id), None).to_bytes();
            let at = Key::from_raw(key).append_ts(records::commit_ts(id));
            Some(vec![requests::put(Cf::Write, at.as_encoded(), &record)])
        };
        self.change(block, rows, None, record, |id, row| row.versions.push(version(id, id, write_type)));
        self.stage.tally.count("records without a change");
    }

    fn prewrite(&mut self, block: u64) {
        let rows = self.pick_unlocked_rows(block);
        let lock_type = match self.rng.random_range(0..10) {
            0..=5 => LockType::Put,
            6..=7 => LockType::Delete,
            8 => LockType::Lock,
            _ => LockType::Pessimistic,
        };
        let prewrite = |id, key: &[u8], _: &Row| Some(records::prewrite(id, key, lock_type));
        let locked = self.change(block, rows, None, prewrite, |id, row| {
            row.locked = Some(Locked { start: id, lock_type });
        });
        self.locked.extend(locked.into_iter().map(|row| (block, row)));
        self.stage.tally.count("transactions prewritten");
    }

    fn end_transaction(&mut self) {
        if self.locked.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.locked.len());
        let (block, row) = self.locked[at];
        let Some(locked) = self.stage.model.with_rows(block, |all| all[row as usize].locked) else { return };
        let write_type = match locked.lock_type {
            LockType::Put => WriteType::Put,
            LockType::Delete => WriteType::Delete,
            LockType::Lock => WriteType::Lock,
            LockType::Pessimistic => WriteType::Rollback,
        };
        // Readers may have been promised that it commits later.
        let promised = records::lock(locked.start, &raw_key(block, row), locked.lock_type).min_commit_ts;
        if promised > records::commit_ts(self.stage.model.last_id()) {
            return;
        }
        self.locked.swap_remove(at);
        let past = Some(records::start_ts(locked.start).into_inner());
        if write_type == WriteType::Rollback || self.rng.random_bool(0.3) {
            let roll_back = |_, key: &[u8], _: &Row| Some(records::roll_back(key, locked.start));
            self.change(block, vec![row], past, roll_back, |_, row| {
                row.locked = None;
                let ts = records::start_ts(locked.start).into_inner();
                let record = Version { ts, start: locked.start, write_type: WriteType::Rollback };
                // Behind the versions from before, none of which is newer than the lock.
                row.versions.push(record);
            });
            self.stage.tally.count("transactions rolled back");
        } else {
            let commit = |id, key: &[u8], _: &Row| Some(records::commit(id, key, locked.start, write_type));
            self.change(block, vec![row], past, commit, |id, row| {
                row.locked = None;
                row.versions.push(version(id, locked.start, write_type));
            });
            self.stage.tally.count("transactions committed");
        }
    }

    /// Deletes versions that nobody needs any more, of rows that have many.
    fn collect(&mut self, block: u64, rows: &[u64]) {
        let safe_point = self.stage.model.safe_point();
        let is_due = |row: &Row| !row.is_unknown() && row.versions.len() >= VERSIONS_MAX;
        let mut commands = Vec::new();
        self.stage.model.with_rows(block, |all| {
            for at in rows {
                let row = &mut all[*at as usize];
                if !is_due(row) {
                    continue;
                }
                let garbage = row.take_garbage(safe_point);
                let delete = |version: &Version| delete_version(&raw_key(block, *at), version);
                let requests: Vec<_> = garbage.iter().flat_map(delete).collect();
                if !requests.is_empty() {
                    commands.push((*at, requests));
                }
            }
        });
        if commands.is_empty() {
            return;
        }
        let rows: Vec<u64> = commands.iter().map(|(at, _)| *at).collect();
        let commands = commands.into_iter().map(|(at, requests)| (encoded_key(block, at), requests)).collect();
        // Readers at or above the safe point do not notice.
        if self.stage.router.write(commands) == Sent::Unknown {
            self.stage.tally.count("writes without an answer");
            self.stage.model.with_rows(block, |all| rows.iter().for_each(|at| all[*at as usize].end(false)));
        }
        self.stage.tally.count("garbage collections on disk");
    }

    /// Deletes all of a block by range.
    fn wipe(&mut self, block: u64) {
        let model = &self.stage.model;
        let id = model.begin();
        model.with_rows(block, |all| all.iter_mut().for_each(|row| row.begin(0, true)));
        let (from, to) = (encoded_key(block, 0), encoded_key(block + 1, 0));
        let delete = |from: &[u8], to: &[u8]| {
            [Cf::Write, Cf::Default].map(|cf| requests::delete_range(cf, from, to)).into_iter().collect()
        };
        let sent = self.stage.router.delete_range(&from, &to, delete);
        model.with_rows(block, |all| {
            for row in all {
                row.versions.clear();
                row.end(sent == Sent::Acknowledged);
            }
        });
        model.end(id);
        self.stage.tally.count("ranges deleted");
    }
}

/// What command `id` has made of what command `start` wrote.
fn version(id: u64, start: u64, write_type: WriteType) -> Version {
    Version { ts: records::commit_ts(id).into_inner(), start, write_type }
}

fn delete_version(key: &[u8], version: &Version) -> [Request; 2] {
    let at = |ts: TimeStamp| Key::from_raw(key).append_ts(ts).into_encoded();
    [
        requests::delete(Cf::Write, &at(version.ts.into())),
        requests::delete(Cf::Default, &at(records::start_ts(version.start))),
    ]
}
