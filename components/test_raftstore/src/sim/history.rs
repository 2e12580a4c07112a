//! What clients did and were told, and what became of it in the Raft logs.
//!
//! # What it owns
//! Every version that a client tried to write, every deletion, and what finished reads saw.
//!
//! # How it works
//! A command has an id, which only grows. Versions carry it as their commit timestamp and in their value, a deletion in
//! its end key; so a committed entry tells which command it holds. Its *place* is when it was first applied anywhere,
//! which for the entries of one region is the order of the log.
//!
//! # Invariants
//! A command whose answer is lost, or which fails after it was proposed, is unknown: it may have an effect or none, now
//! or later. Only one that was refused on the spot certainly has none.
//!
//! # What it must not do
//! Judge; see `checks`.

use std::collections::BTreeMap;

use engine_traits::Cf;
use kvproto::raft_cmdpb::{CmdType, RaftCmdRequest, Request};
use txn_types::{Key, TimeStamp, Write, WriteType};

use crate::requests;

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
    /// The keys that get a version.
    Put(Vec<Vec<u8>>),
    /// All versions of the deletable keys go.
    DeleteRange,
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
    seen: BTreeMap<Vec<u8>, Vec<Seen>>,
    places: u64,
}

/// User keys: `k00`, `k01`, … stay, `r00`, `r01`, … may be deleted by range.
pub(super) fn user_key(kind: char, number: u64) -> Vec<u8> {
    format!("{kind}{number:02}").into_bytes()
}

fn is_deletable(key: &[u8]) -> bool {
    key.starts_with(b"r")
}

/// The timestamp of what command `id` writes.
pub(super) fn commit_ts(id: u64) -> TimeStamp {
    TimeStamp::new(2 * id + 1)
}

fn id_of(commit_ts: TimeStamp) -> u64 {
    commit_ts.into_inner() / 2
}

/// The value that command `id` writes to `key`; every eighth is too long for a write record.
pub(super) fn value(id: u64, key: &[u8]) -> Vec<u8> {
    let mut value = format!("{id}:").into_bytes();
    value.extend(key);
    if id.is_multiple_of(8) {
        value.resize(300, b'.');
    }
    value
}

/// The write record of command `id` for `key`.
pub(super) fn write_record(id: u64, key: &[u8]) -> Vec<u8> {
    let value = value(id, key);
    let short = (value.len() <= txn_types::SHORT_VALUE_MAX_LEN).then_some(value);
    Write::new(WriteType::Put, TimeStamp::new(2 * id), short).to_bytes()
}

/// What command `id` asks to put `key`.
pub(super) fn put_requests(id: u64, key: &[u8]) -> Vec<Request> {
    let encoded = Key::from_raw(key);
    let mut requests = Vec::new();
    let value = value(id, key);
    if value.len() > txn_types::SHORT_VALUE_MAX_LEN {
        let at = encoded.clone().append_ts(TimeStamp::new(2 * id));
        requests.push(requests::put(Cf::Default, at.as_encoded(), &value));
    }
    let at = encoded.append_ts(commit_ts(id));
    requests.push(requests::put(Cf::Write, at.as_encoded(), &write_record(id, key)));
    requests
}

/// What command `id` asks to delete all keys that may be, within `start..end` of a region.
pub(super) fn delete_range_requests(id: u64) -> Vec<Request> {
    let start = Key::from_raw(b"r").into_encoded();
    let mut end = Key::from_raw(b"rz").into_encoded();
    end.extend(id.to_be_bytes());
    [Cf::Write, Cf::Default].map(|cf| requests::delete_range(cf, &start, &end)).into()
}

/// The commands that `request` holds.
fn ids_in(request: &RaftCmdRequest) -> Option<u64> {
    request.get_requests().iter().find_map(|request| match request.get_cmd_type() {
        CmdType::Put if request.get_put().get_cf() == Cf::Write.name() => {
            Key::split_on_ts_for(request.get_put().get_key()).ok().map(|(_, ts)| id_of(ts))
        }
        CmdType::DeleteRange => {
            let end = request.get_delete_range().get_end_key();
            end.last_chunk::<8>().map(|id| u64::from_be_bytes(*id))
        }
        _ => None,
    })
}

impl History {
    pub(super) fn invoke(&mut self, id: u64, kind: WriteKind, now: Step) {
        self.ops.insert(id, WriteOp { invoked: now, fate: Fate::Unknown, place: None, kind });
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
        if let Some(op) = ids_in(&request).and_then(|id| self.ops.get_mut(&id)) {
            op.place.get_or_insert(self.places);
        }
    }

    pub(super) fn saw(&mut self, key: &[u8], id: u64, finished: Step) {
        self.seen.entry(key.to_vec()).or_default().push(Seen { finished, id });
    }

    /// The newest version of `key` up to command `id_max` that a read which began at `invoked` has to see at least.
    pub(super) fn newest_due(&self, key: &[u8], id_max: u64, invoked: Step, now: Step) -> Option<u64> {
        let acknowledged = self.ops.range(..=id_max).rev().find(|(id, op)| {
            matches!(op.fate, Fate::Acknowledged(at) if at < invoked) && self.is_due(**id, op, key, now)
        });
        let seen = self.seen.get(key).into_iter().flatten();
        let seen = seen.filter(|seen| seen.finished < invoked && seen.id <= id_max).map(|seen| seen.id).max();
        let seen = seen.filter(|id| self.ops.get(id).is_some_and(|op| self.is_due(*id, op, key, now)));
        acknowledged.map(|(id, _)| *id).max(seen)
    }

    /// Whether the version of `key` that `op` wrote cannot have been deleted by `now`.
    fn is_due(&self, _id: u64, op: &WriteOp, key: &[u8], now: Step) -> bool {
        matches!(&op.kind, WriteKind::Put(keys) if keys.iter().any(|k| k == key)) && !self.may_be_deleted(op, key, now)
    }

    pub(super) fn may_be_deleted(&self, op: &WriteOp, key: &[u8], now: Step) -> bool {
        is_deletable(key)
            && self.deletions().any(|deletion| {
                let is_before = matches!((deletion.place, op.place), (Some(d), Some(w)) if d < w)
                    || matches!(deletion.fate, Fate::Acknowledged(at) if at < op.invoked);
                deletion.invoked <= now && deletion.fate != Fate::Refused && !is_before
            })
    }

    /// Whether the version of `key` that `op` wrote must be gone for a read that began at `invoked`.
    pub(super) fn must_be_deleted(&self, op: &WriteOp, key: &[u8], invoked: Step) -> bool {
        is_deletable(key)
            && self.deletions().any(|deletion| {
                matches!(deletion.fate, Fate::Acknowledged(at) if at < invoked)
                    && matches!((deletion.place, op.place), (Some(d), Some(w)) if d > w)
            })
    }

    fn deletions(&self) -> impl Iterator<Item = &WriteOp> {
        self.ops.values().filter(|op| matches!(op.kind, WriteKind::DeleteRange))
    }

    /// The command that wrote `value` to `key`, which must be one that was not refused.
    pub(super) fn writer_of(&self, key: &[u8], found: &[u8]) -> Option<(u64, &WriteOp)> {
        let id = std::str::from_utf8(found).ok()?.split(':').next()?.parse().ok()?;
        let op = self.ops.get(&id)?;
        let WriteKind::Put(keys) = &op.kind else { return None };
        (value(id, key) == found && keys.iter().any(|k| k == key) && op.fate != Fate::Refused).then_some((id, op))
    }
}
