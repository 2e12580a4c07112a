//! Where a read was served from, and why not from memory.

use std::fmt;

/// Where a snapshot's reads are served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadSource {
    Memory,
    Disk(DiskReason),
}

/// Why a read went to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskReason {
    /// The engine has no region cache, or the reader did not ask for a region.
    NoRegionCache,
    /// The region cache is switched off.
    Disabled,
    /// The region cache was asked and cannot serve this read.
    Cache(FailedReason),
}

/// Why a region cache cannot serve a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailedReason {
    /// The region is not cached, or not completely loaded yet.
    NotCached,
    /// Versions that a read at this timestamp may need have been dropped.
    TooOldRead,
    /// The region was cached with another key range.
    EpochNotMatch,
}

impl DiskReason {
    /// The reason as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            DiskReason::NoRegionCache => "no_region_cache",
            DiskReason::Disabled => "disabled",
            DiskReason::Cache(FailedReason::NotCached) => "not_cached",
            DiskReason::Cache(FailedReason::TooOldRead) => "too_old_read",
            DiskReason::Cache(FailedReason::EpochNotMatch) => "epoch_not_match",
        }
    }
}

impl fmt::Display for ReadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadSource::Memory => f.write_str("memory"),
            ReadSource::Disk(reason) => write!(f, "disk ({})", reason.label()),
        }
    }
}
