//! What must hold, one file for each.
//!
//! # How it works
//! The simulation calls a check where what it looks at has changed; the first [`Violation`] ends the run. Each file says
//! where its rule comes from.
//!
//! # What it must not do
//! Change a run: with all checks removed the log would be the same.

pub(super) mod acknowledged_writes;
pub(super) mod answers;
pub(super) mod cache_equals_disk;
pub(super) mod cached_ranges;
pub(super) mod cross_check;
pub(super) mod disabled_cache;
pub(super) mod held_snapshots;
pub(super) mod intents;
pub(super) mod linearizable_reads;
pub(super) mod memory_bounds;
pub(super) mod merges_evict;
pub(super) mod mvcc_reads;
pub(super) mod raft_safety;
pub(super) mod ranges;
pub(super) mod replicas_agree;
pub(super) mod snapshots_evict;
pub(super) mod transfers;
pub(super) mod uninitialized_regions;
pub(super) mod warm_after_heal;

use std::fmt;

/// A rule that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which check has found it.
    pub check: &'static str,
    pub what: String,
}

impl Violation {
    pub(super) fn new(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.what)
    }
}

pub(super) type Checked<T = ()> = Result<T, Violation>;

/// The checks that remember something.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) raft: raft_safety::RaftSafety,
    pub(super) answers: answers::Answers,
    pub(super) transfers: transfers::Transfers,
}
