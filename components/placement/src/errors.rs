//! Errors of the placement, grouped by what the caller does next.

use std::{io, time::Duration};

use crate::OperatorId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Try again later.
    #[error("region {region_id} is not known, or has no leader yet")]
    RegionNotFound { region_id: u64 },
    #[error("operator {operator} is busy with region {region_id}")]
    RegionIsBusy { region_id: u64, operator: OperatorId },
    #[error("cannot reserve ids")]
    Ids(#[from] io::Error),
    /// Look at the region again before trying again: something else is changing it, or it cannot be changed now.
    #[error(
        "region {region_id} changed under step \"{step}\": epoch (conf_ver, version) is {found:?}, {expected:?} expected"
    )]
    EpochChanged { region_id: u64, step: String, expected: (u64, u64), found: (u64, u64) },
    #[error("region {region_id} is gone before step \"{step}\"")]
    RegionGone { region_id: u64, step: String },
    #[error("merge of region {source_id} into region {target_id} was rolled back")]
    RolledBack { source_id: u64, target_id: u64 },
    /// `standing` as [`Operator::standing`](crate::Operator::standing) tells.
    #[error("not done after {timeout:?}, {standing}")]
    TimedOut { timeout: Duration, standing: String },
    /// Somebody wanted this.
    #[error("cancelled: {0}")]
    Cancelled(String),
    /// The request makes no sense; do not repeat it.
    #[error("{0}")]
    Refused(String),
    /// Wait longer, or give up; the operator goes on.
    #[error("operator {operator} is not done within {waited:?}")]
    StillRunning { operator: OperatorId, waited: Duration },
    /// The placement is stopped.
    #[error("placement is stopped")]
    Stopped,
}

pub type Result<T> = std::result::Result<T, Error>;
