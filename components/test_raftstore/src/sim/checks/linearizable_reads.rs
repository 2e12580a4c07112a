//! Reads are linearizable.
//!
//! Source: Herlihy and Wing, "Linearizability"; DESIGN §5, "a read never goes back in time".
//!
//! Each write adds a version with a timestamp of its own, and a read at a timestamp returns, per key, the newest version
//! up to it. So a key is a set that only grows (deletions by range aside), and for such an object the real-time order is
//! all there is to check. A read sees at least
//! - what was acknowledged before it began, and
//! - what another read that ended before it began has seen,
//!
//! and nothing that was not written, was refused, or began after it ended. A write without an answer may take effect at
//! any later time. Deletions are ordered with writes by their place in the log, where both are known.

use std::collections::BTreeMap;

use hybrid_engine::mvcc::MvccGet;

use super::{Checked, Violation};
use crate::sim::history::{History, Step};

const NAME: &str = "linearizable-reads";

/// A read that is being answered.
pub(in crate::sim) struct Read {
    pub(in crate::sim) id: u64,
    /// It sees what commands up to this one have written.
    pub(in crate::sim) id_max: u64,
    pub(in crate::sim) invoked: Step,
}

/// `rows` is what `read` found of `keys` at `now`.
pub(in crate::sim) fn check(
    history: &mut History,
    read: &Read,
    keys: &[Vec<u8>],
    rows: &[(Vec<u8>, MvccGet)],
    now: Step,
) -> Checked {
    let mut found: BTreeMap<&[u8], u64> = BTreeMap::new();
    for (key, row) in rows {
        let name = String::from_utf8_lossy(key);
        let fail = |what: String| Err(Violation::new(NAME, format!("read {} of {name}: {what}", read.id)));
        let MvccGet::Value(value) = row else { return fail(format!("{row:?}")) };
        let Some((id, op)) = history.writer_of(key, value) else {
            return fail(format!("nobody wrote {:?}", String::from_utf8_lossy(value)));
        };
        if id > read.id_max {
            return fail(format!("sees write {id}, which is newer than its timestamp"));
        }
        if history.must_be_deleted(op, key, read.invoked) {
            return fail(format!("sees write {id}, which was deleted before"));
        }
        found.insert(key, id);
    }
    for key in keys {
        let found = found.get(key.as_slice()).copied();
        let due = history.newest_due(key, read.id_max, read.invoked, now);
        if due > found {
            let name = String::from_utf8_lossy(key);
            let what = format!("read {} of {name}: sees write {found:?}, {due:?} is due", read.id);
            return Err(Violation::new(NAME, what));
        }
    }
    for (key, id) in found {
        history.saw(key, id, now);
    }
    Ok(())
}
