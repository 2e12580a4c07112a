//! What clients did and were told, and what became of it in the Raft logs.
//!
//! # What it owns
//! Every command that writes, and what finished reads saw.
//!
//! # How it works
//! A command has an id, which only grows and is in its header; so a committed entry tells which command it holds. Its
//! *place* is when it was first applied anywhere, which for the entries of one region, and of those split off it, is the
//! order of the logs. A key is two objects: a set of versions, which only grows but for deletions, and a lock, which the
//! last command that touched it decides.
//!
//! # Invariants
//! A command whose answer is lost, or which fails after it was proposed, is unknown: it may have an effect or none, now
//! or later. Only one that was refused on the spot certainly has none.
//!
//! # What it must not do
//! Judge; see `checks`.

use std::collections::BTreeMap;

use kvproto::raft_cmdpb::RaftCmdRequest;
use txn_types::WriteType;

use super::records::{self, Record};

/// Counts events: a moment of the run.
pub(super) type Step = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Unknown,
    Acknowledged(Step),
    Refused,
}

/// A command that writes.
#[derive(Clone, Debug)]
pub(super) struct WriteOp {
    pub(super) invoked: Step,
    pub(super) fate: Fate,
    /// When it was first applied anywhere, in the order of all entries.
    pub(super) place: Option<u64>,
    pub(super) kind: WriteKind,
}

#[derive(Clone, Debug)]
pub(super) enum WriteKind {
    /// The keys get a version with a value.
    Put(Vec<Vec<u8>>),
    /// The keys get a version without one.
    Delete(Vec<Vec<u8>>),
    /// The keys are locked.
    Prewrite(Vec<Vec<u8>>),
    /// What command `start` has locked gets a version, or a record that is none.
    Commit { key: Vec<u8>, start: u64, write_type: WriteType },
    /// What command `start` has locked is free again.
    RollBack { key: Vec<u8> },
    /// All versions of the deletable keys of this range go.
    DeleteRange { from: Vec<u8>, to: Vec<u8> },
    /// Versions go that newer ones have replaced.
    Collect(Vec<(Vec<u8>, Record)>),
}

impl WriteOp {
    /// What command `id` writes to `key` as a version.
    fn version(&self, id: u64, key: &[u8]) -> Option<Record> {
        let has = |keys: &[Vec<u8>]| keys.iter().any(|k| k == key);
        match &self.kind {
            WriteKind::Put(keys) if has(keys) => Some(Record { id, start: id, has_value: true }),
            WriteKind::Delete(keys) if has(keys) => Some(Record { id, start: id, has_value: false }),
            WriteKind::Commit { key: k, start, write_type } if k == key && *write_type != WriteType::Lock => {
                Some(Record { id, start: *start, has_value: *write_type == WriteType::Put })
            }
            _ => None,
        }
    }

    /// The keys that may get a version.
    pub(super) fn written(&self) -> &[Vec<u8>] {
        match &self.kind {
            WriteKind::Put(keys) | WriteKind::Delete(keys) => keys,
            WriteKind::Commit { key, .. } => std::slice::from_ref(key),
            _ => &[],
        }
    }

    /// The keys whose lock is another afterwards: who holds it.
    fn locks(&self, id: u64) -> (&[Vec<u8>], Option<u64>) {
        match &self.kind {
            WriteKind::Prewrite(keys) => (keys, Some(id)),
            WriteKind::Commit { key, .. } | WriteKind::RollBack { key } => (std::slice::from_ref(key), None),
            _ => (&[], None),
        }
    }
}

/// What a finished read saw of a key.
#[derive(Clone, Copy, Debug)]
struct Seen {
    finished: Step,
    id: u64,
}

#[derive(Default)]
pub(super) struct History {
    pub(super) ops: BTreeMap<u64, WriteOp>,
    /// Versions that finished reads saw.
    seen: BTreeMap<Vec<u8>, Vec<Seen>>,
    /// Commands whose effect on the lock finished reads saw.
    seen_locks: BTreeMap<Vec<u8>, Vec<Seen>>,
    /// The commands that lock or unlock a key.
    lockers: BTreeMap<Vec<u8>, Vec<u64>>,
    deletions: Vec<u64>,
    /// Versions that may have been collected, and the commands that did.
    collected: BTreeMap<(Vec<u8>, u64), Vec<u64>>,
    places: u64,
}

/// Marks `request` as command `id`.
pub(super) fn identify(request: &mut RaftCmdRequest, id: u64) {
    request.mut_header().set_uuid(id.to_be_bytes().to_vec());
}

fn id_in(request: &RaftCmdRequest) -> Option<u64> {
    Some(u64::from_be_bytes(request.get_header().get_uuid().try_into().ok()?))
}

impl History {
    pub(super) fn invoke(&mut self, id: u64, kind: WriteKind, now: Step) {
        let op = WriteOp { invoked: now, fate: Fate::Unknown, place: None, kind };
        op.locks(id).0.iter().for_each(|key| self.lockers.entry(key.clone()).or_default().push(id));
        match &op.kind {
            WriteKind::DeleteRange { .. } => self.deletions.push(id),
            WriteKind::Collect(versions) => {
                for (key, record) in versions {
                    self.collected.entry((key.clone(), record.id)).or_default().push(id);
                }
            }
            _ => {}
        }
        self.ops.insert(id, op);
    }

    pub(super) fn end(&mut self, id: u64, fate: Fate) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.fate = fate;
        }
    }

    /// An entry with `command` was applied for the first time.
    pub(super) fn applied(&mut self, command: &[u8]) {
        self.places += 1;
        let Ok(request) = kvproto::decode::<RaftCmdRequest>(command) else { return };
        if let Some(op) = id_in(&request).and_then(|id| self.ops.get_mut(&id)) {
            op.place.get_or_insert(self.places);
        }
    }

    /// The version that command `id` writes to `key`, unless it was refused.
    pub(super) fn version(&self, id: u64, key: &[u8]) -> Option<(Record, &WriteOp)> {
        let op = self.ops.get(&id).filter(|op| op.fate != Fate::Refused)?;
        Some((op.version(id, key)?, op))
    }

    pub(super) fn saw(&mut self, key: &[u8], id: u64, finished: Step) {
        self.seen.entry(key.to_vec()).or_default().push(Seen { finished, id });
    }

    /// The newest version of `key` up to command `id_max` that a read which began at `invoked` has to see at least.
    pub(super) fn newest_due(&self, key: &[u8], id_max: u64, invoked: Step, now: Step) -> Option<u64> {
        let is_due = |id: u64, op: &WriteOp| op.version(id, key).is_some() && !self.may_be_gone(id, op, key, now);
        let acknowledged = self
            .ops
            .range(..=id_max)
            .rev()
            .find(|(id, op)| matches!(op.fate, Fate::Acknowledged(at) if at < invoked) && is_due(**id, op));
        let seen = self.seen.get(key).into_iter().flatten();
        let seen = seen.filter(|seen| seen.finished < invoked && seen.id <= id_max).map(|seen| seen.id);
        let seen = seen.filter(|id| self.ops.get(id).is_some_and(|op| is_due(*id, op))).max();
        acknowledged.map(|(id, _)| *id).max(seen)
    }

    /// Whether the version of `key` that command `id` wrote may have been deleted by `now`.
    pub(super) fn may_be_gone(&self, id: u64, op: &WriteOp, key: &[u8], now: Step) -> bool {
        let is_collected = self.collected_by(id, key).any(|by| by.invoked <= now && by.fate != Fate::Refused);
        is_collected
            || self.deletions_of(key).any(|deletion| {
                let is_before = matches!((deletion.place, op.place), (Some(d), Some(w)) if d < w)
                    || matches!(deletion.fate, Fate::Acknowledged(at) if at < op.invoked);
                deletion.invoked <= now && deletion.fate != Fate::Refused && !is_before
            })
    }

    /// Whether the version of `key` that command `id` wrote must be gone for a read that began at `invoked`.
    pub(super) fn must_be_gone(&self, id: u64, op: &WriteOp, key: &[u8], invoked: Step) -> bool {
        let is_over = |by: &WriteOp| matches!(by.fate, Fate::Acknowledged(at) if at < invoked);
        let is_later = |by: &WriteOp| matches!((by.place, op.place), (Some(d), Some(w)) if d > w);
        self.collected_by(id, key).chain(self.deletions_of(key)).any(|by| is_over(by) && is_later(by))
    }

    fn deletions_of(&self, key: &[u8]) -> impl Iterator<Item = &WriteOp> {
        let is_hit = move |op: &&WriteOp| match &op.kind {
            WriteKind::DeleteRange { from, to } => from.as_slice() <= key && key < to.as_slice(),
            _ => false,
        };
        let ids = if records::is_deletable(key) { self.deletions.as_slice() } else { &[] };
        ids.iter().filter_map(|id| self.ops.get(id)).filter(is_hit)
    }

    fn collected_by(&self, id: u64, key: &[u8]) -> impl Iterator<Item = &WriteOp> {
        let ids = if self.collected.is_empty() { None } else { self.collected.get(&(key.to_vec(), id)) };
        ids.into_iter().flatten().filter_map(|id| self.ops.get(id))
    }

    /// Whether a read that began at `invoked` may find the lock on `key` to be `found`: what it says was the last word
    /// at some moment since. Remembers that it was found at `now`.
    pub(super) fn may_find_lock(&mut self, key: &[u8], found: Option<u64>, invoked: Step, now: Step) -> bool {
        let lockers = self.lockers.get(key).map_or(&[][..], Vec::as_slice);
        let op = |id: &u64| self.ops.get(id).map(|op| (*id, op));
        let seen = self.seen_locks.get(key).into_iter().flatten();
        let seen = seen.filter(|seen| seen.finished < invoked).filter_map(|seen| op(&seen.id));
        let due = lockers
            .iter()
            .filter_map(op)
            .filter(|(_, op)| matches!(op.fate, Fate::Acknowledged(at) if at < invoked))
            .chain(seen)
            .filter_map(|(_, op)| op.place)
            .max();
        let Some(due) = due else {
            // Nothing has to be seen; what is seen was asked for.
            return found.is_none_or(|id| lockers.contains(&id));
        };
        // The earliest command after which it looks so.
        let witness = lockers
            .iter()
            .filter_map(op)
            .filter(|(id, op)| op.fate != Fate::Refused && op.locks(*id).1 == found)
            .filter_map(|(id, op)| Some((op.place.filter(|place| *place >= due)?, id)))
            .min();
        if let Some((_, id)) = witness {
            self.seen_locks.entry(key.to_vec()).or_default().push(Seen { finished: now, id });
        }
        witness.is_some()
    }
}
