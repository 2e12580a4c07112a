//! From a [`LogBatch`] to raft-engine's.
//!
//! # What it owns
//! The net effect of a batch on each of its regions, until it is encoded.
//!
//! # How it works
//! 1. Go through the operations in order, and for each region keep: whether it is cleaned first, what happens to its
//!    two values, and the log operations since it was cleaned.
//! 2. Emit, region by region: the clean command, the values, the log operations.
//!
//! A batch is atomic, so nobody can tell its net effect from its operations. Reducing it is what makes `ClearLog` out
//! of raft-engine's `Clean`, which drops the values as well: they are written again behind it. `Compact` with a huge
//! index would be cheaper, and wrong: a purge rewrites the entries of a log elsewhere and forgets compactions, so the old
//! entries are back after a restart, and raft-engine panics ("has a hole") when the log goes on behind a snapshot.
//!
//! # Invariants
//! - `span` is that of the region's log after the operations so far.
//!
//! # What it must not do
//! Write anything: the batch may be refused at its last operation.

use std::{collections::BTreeMap, ops::Range};

use engine_traits::{Error, LogBatch, LogOp, Result};
use kvproto::raft_serverpb::{RaftLocalState, StoreIdent};
use raft::eraftpb::Entry;
use raft_engine::{Command, Engine};

use crate::{
    engine::{EntryExt, PENDING_SNAPSHOT_KEY, RAFT_STATE_KEY, STORE_IDENT_KEY, STORE_REGION},
    errors::Refused,
};

/// The net effect of a batch.
#[derive(Default)]
struct Changes {
    ident: Option<StoreIdent>,
    regions: BTreeMap<u64, RegionChange>,
}

struct RegionChange {
    /// Everything of the region is dropped before the rest is applied.
    clean: bool,
    raft_state: Value<RaftLocalState>,
    pending_snapshot: Value<Vec<u8>>,
    log: Vec<LogChange>,
    /// The indices in the log.
    span: Option<Range<u64>>,
}

enum Value<T> {
    Keep,
    Put(T),
    Delete,
}

enum LogChange {
    Append(Vec<Entry>),
    Compact(u64),
}

/// Encodes the net effect of `batch` on what is in `engine`. Nobody else may write in between.
pub(crate) fn encode(engine: &Engine, batch: LogBatch) -> Result<raft_engine::LogBatch> {
    let mut changes = Changes::default();
    for op in batch.ops {
        changes.apply(engine, op)?;
    }
    changes.emit(engine).map_err(|error| Error::engine("encode a batch", error))
}

impl Changes {
    fn apply(&mut self, engine: &Engine, op: LogOp) -> Result<()> {
        match op {
            LogOp::StoreIdent(ident) => self.ident = Some(ident),
            LogOp::Append { region_id, entries } => self.region(engine, region_id)?.append(region_id, entries)?,
            LogOp::RaftState { region_id, state } => {
                self.region(engine, region_id)?.raft_state = Value::Put(state);
            }
            LogOp::PendingSnapshot { region_id, snapshot } => {
                self.region(engine, region_id)?.pending_snapshot = snapshot.map_or(Value::Delete, Value::Put);
            }
            LogOp::Compact { region_id, index } => self.region(engine, region_id)?.compact(index),
            LogOp::ClearLog { region_id } => self.region(engine, region_id)?.clear_log(),
            LogOp::Clean { region_id } => {
                let region = self.region(engine, region_id)?;
                region.clear_log();
                region.clean = true;
                region.raft_state = Value::Delete;
                region.pending_snapshot = Value::Delete;
            }
        }
        Ok(())
    }

    fn region(&mut self, engine: &Engine, region_id: u64) -> Result<&mut RegionChange> {
        if region_id == STORE_REGION {
            return Err(Error::engine("write", Refused::ReservedRegion));
        }
        Ok(self.regions.entry(region_id).or_insert_with(|| RegionChange {
            clean: false,
            raft_state: Value::Keep,
            pending_snapshot: Value::Keep,
            log: Vec::new(),
            span: span(engine, region_id),
        }))
    }

    fn emit(self, engine: &Engine) -> raft_engine::Result<raft_engine::LogBatch> {
        let mut batch = raft_engine::LogBatch::default();
        if let Some(ident) = self.ident {
            batch.put_message(STORE_REGION, STORE_IDENT_KEY.to_vec(), &ident)?;
        }
        for (region_id, region) in self.regions {
            if region.clean {
                batch.add_command(region_id, Command::Clean);
            }
            // A value that is kept must be written again behind a clean; one that is deleted is gone with it.
            match region.raft_state {
                Value::Put(state) => batch.put_message(region_id, RAFT_STATE_KEY.to_vec(), &state)?,
                Value::Keep if region.clean => put_again(engine, &mut batch, region_id, RAFT_STATE_KEY)?,
                Value::Delete if !region.clean => batch.delete(region_id, RAFT_STATE_KEY.to_vec()),
                Value::Keep | Value::Delete => {}
            }
            match region.pending_snapshot {
                Value::Put(snapshot) => batch.put(region_id, PENDING_SNAPSHOT_KEY.to_vec(), snapshot)?,
                Value::Keep if region.clean => put_again(engine, &mut batch, region_id, PENDING_SNAPSHOT_KEY)?,
                Value::Delete if !region.clean => batch.delete(region_id, PENDING_SNAPSHOT_KEY.to_vec()),
                Value::Keep | Value::Delete => {}
            }
            for change in region.log {
                match change {
                    LogChange::Append(entries) => batch.add_entries::<EntryExt>(region_id, &entries)?,
                    LogChange::Compact(index) => batch.add_command(region_id, Command::Compact { index }),
                }
            }
        }
        Ok(batch)
    }
}

impl RegionChange {
    fn append(&mut self, region_id: u64, entries: Vec<Entry>) -> Result<()> {
        let Some(first) = entries.first().map(Entry::get_index) else { return Ok(()) };
        let gap = |last, found| Err(Error::engine("append", Refused::Gap { region_id, last, found }));
        // raft-engine stores the index of the first entry only.
        let mut end = first;
        for entry in &entries {
            if entry.get_index() != end {
                return gap(end.saturating_sub(1), entry.get_index());
            }
            end = end.saturating_add(1);
        }
        let start = match self.span.clone() {
            Some(span) if first > span.end => return gap(span.end - 1, first),
            Some(span) if first >= span.start => span.start,
            Some(_) => {
                self.clear_log();
                first
            }
            None => first,
        };
        self.span = Some(start..end);
        self.log.push(LogChange::Append(entries));
        Ok(())
    }

    fn compact(&mut self, index: u64) {
        match self.span.clone() {
            Some(span) if index >= span.end => self.clear_log(),
            Some(span) if index > span.start => {
                self.span = Some(index..span.end);
                self.log.push(LogChange::Compact(index));
            }
            _ => {}
        }
    }

    fn clear_log(&mut self) {
        if self.span.take().is_some() {
            self.clean = true;
            self.log.clear();
        }
    }
}

/// The indices in the log of `region_id`.
pub(crate) fn span(engine: &Engine, region_id: u64) -> Option<Range<u64>> {
    let (first, last) = (engine.first_index(region_id)?, engine.last_index(region_id)?);
    Some(first..last.checked_add(1)?)
}

fn put_again(
    engine: &Engine,
    batch: &mut raft_engine::LogBatch,
    region_id: u64,
    key: &[u8],
) -> raft_engine::Result<()> {
    match engine.get(region_id, key) {
        Some(value) => batch.put(region_id, key.to_vec(), value),
        None => Ok(()),
    }
}
