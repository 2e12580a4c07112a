//! Reads are linearizable.
//!
//! Source: Herlihy and Wing, "Linearizability"; DESIGN §5, "a read never goes back in time".
//!
//! Each write adds a version with a timestamp of its own, and a read at a timestamp sees, per key, the newest version up
//! to it, be it a value or a deletion. So a key is a set that only grows (physical deletions aside), and for such an
//! object the real-time order is all there is to check. A read sees at least
//! - what was acknowledged before it began, and
//! - what another read that ended before it began has seen,
//!
//! and nothing that was not written, was refused, or began after it ended. A write without an answer may take effect at
//! any later time. Physical deletions are ordered with writes by their place in the log, where both are known.
//!
//! The lock on a key is a register: what is found there was put there by a command that is not older, in the order of the
//! log, than the last one that was acknowledged, or seen, before the read began.

use super::{Checked, Violation};
use crate::sim::{
    history::{History, Step},
    records::Record,
};

const NAME: &str = "linearizable-reads";

/// A read that is being answered.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Read {
    pub(in crate::sim) id: u64,
    /// It sees what commands up to this one have written.
    pub(in crate::sim) id_max: u64,
    pub(in crate::sim) invoked: Step,
}

/// What a read found under a key.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Found {
    pub(in crate::sim) version: Option<Record>,
    /// The command that holds the lock.
    pub(in crate::sim) locked_by: Option<u64>,
}

/// `read` has `found` this of `key` at `now`.
pub(in crate::sim) fn check(history: &mut History, read: &Read, key: &[u8], found: &Found, now: Step) -> Checked {
    let fail = |what: String| {
        Err(Violation::new(NAME, format!("read {} of {}: {what}", read.id, String::from_utf8_lossy(key))))
    };
    if let Some(version) = &found.version {
        let id = version.id;
        let Some((written, op)) = history.version(id, key).filter(|(written, _)| written == version) else {
            return fail(format!("nobody wrote {version:?}"));
        };
        if id > read.id_max {
            return fail(format!("sees write {}, which is newer than its timestamp", written.id));
        }
        if history.must_be_gone(id, op, key, read.invoked) {
            return fail(format!("sees write {id}, which was deleted before"));
        }
    }
    let found_id = found.version.map(|version| version.id);
    let due = history.newest_due(key, read.id_max, read.invoked, now);
    if due > found_id {
        return fail(format!("sees write {found_id:?}, {due:?} is due"));
    }
    if !history.may_find_lock(key, found.locked_by, read.invoked, now) {
        return fail(format!("finds the lock of {:?}, which another command has replaced", found.locked_by));
    }
    if let Some(id) = found_id {
        history.saw(key, id, now);
    }
    Ok(())
}
