//! The cache's own comparison with the disk finds nothing.
//!
//! Source: issue 5, "a background audit that compares cached regions with the disk". It runs for a while, with everything
//! else going on, and allows for garbage in its own way; a false alarm would evict a good region. What is really wrong is
//! most often found by `cache_equals_disk` first, at once.

use engine_traits::Snapshot;
use in_memory_engine::{Audit, AuditOutcome};

use super::{Checked, Violation};

const NAME: &str = "cross-check";

/// How an audit has ended.
pub(in crate::sim) fn check<S: Snapshot>(store_id: u64, audit: &Audit<S>, outcome: AuditOutcome) -> Checked {
    match outcome {
        AuditOutcome::Same | AuditOutcome::Cancelled => Ok(()),
        AuditOutcome::Different | AuditOutcome::Failed => {
            let (region, difference) = (audit.region(), audit.difference());
            Err(Violation::new(NAME, format!("store {store_id}, {region}: {outcome:?}, {difference:?}")))
        }
    }
}
