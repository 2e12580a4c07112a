//! Things that can be broken on purpose, to see that a check notices.
//!
//! # What it owns
//! The list, and the name of each on the command line.
//!
//! # How it works
//! The simulated driver and what surrounds the plugin look at [`Plan::sabotage`](super::plan::Plan) where each of them
//! applies. Production code is never changed: it is given a driver, an engine or an observer that misbehaves.
//!
//! # Invariants
//! Each entry breaks a promise that some check stands for. `self_test` fails for one that goes unnoticed.
//!
//! # What it must not do
//! Make a seed fail by anything but a check, or a panic of the code that was lied to.

/// One thing that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Preload requests go to the cache as they arrive, as in TiKV before tikv/tikv#18046.
    InitializationCheckSkipped,
    /// Requests to peers that are not initialized vanish, as in TiKV's fix.
    ParkingOff,
    /// The cache is not told of snapshots.
    NotEvictedOnSnapshot,
    /// Writes reach the disk and not the cache.
    CacheMissesWrites,
    /// Final answers are not sent.
    AnswerDropped,
    /// Final answers are sent twice.
    AnswerDuplicated,
    /// Every final answer says "warm".
    AnswerAlwaysWarm,
    /// Nothing is ever loaded.
    LoadsIgnored,
    /// The plugin holds more than its configuration allows.
    LimitsIgnored,
    /// The plugin's worker hangs.
    WorkerStuck,
    /// Log writes are reported as durable before they are.
    UnsyncedLogPersisted,
    /// Votes are forgotten by a restart.
    VoteForgotten,
    /// Applied entries are reported before they are written.
    AppliedBeforeWritten,
    /// A write batch is lost on one replica.
    ApplyLost,
    /// Whoever thinks that it leads serves reads at once.
    ReadIndexSkipped,
    /// What the applier demands to be durable is not synced.
    DurableApplyNotSynced,
    /// A restart brings a region back as it was before it was split.
    SplitForgotten,
    /// Entries are handed to the state machine without the last bytes of their data.
    EntryCorrupted,
}

impl Sabotage {
    pub const ALL: [Self; 18] = [
        Self::InitializationCheckSkipped,
        Self::ParkingOff,
        Self::NotEvictedOnSnapshot,
        Self::CacheMissesWrites,
        Self::AnswerDropped,
        Self::AnswerDuplicated,
        Self::AnswerAlwaysWarm,
        Self::LoadsIgnored,
        Self::LimitsIgnored,
        Self::WorkerStuck,
        Self::UnsyncedLogPersisted,
        Self::VoteForgotten,
        Self::AppliedBeforeWritten,
        Self::ApplyLost,
        Self::ReadIndexSkipped,
        Self::DurableApplyNotSynced,
        Self::SplitForgotten,
        Self::EntryCorrupted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::InitializationCheckSkipped => "initialization-check-skipped",
            Self::ParkingOff => "parking-off",
            Self::NotEvictedOnSnapshot => "not-evicted-on-snapshot",
            Self::CacheMissesWrites => "cache-misses-writes",
            Self::AnswerDropped => "answer-dropped",
            Self::AnswerDuplicated => "answer-duplicated",
            Self::AnswerAlwaysWarm => "answer-always-warm",
            Self::LoadsIgnored => "loads-ignored",
            Self::LimitsIgnored => "limits-ignored",
            Self::WorkerStuck => "worker-stuck",
            Self::UnsyncedLogPersisted => "unsynced-log-persisted",
            Self::VoteForgotten => "vote-forgotten",
            Self::AppliedBeforeWritten => "applied-before-written",
            Self::ApplyLost => "apply-lost",
            Self::ReadIndexSkipped => "read-index-skipped",
            Self::DurableApplyNotSynced => "durable-apply-not-synced",
            Self::SplitForgotten => "split-forgotten",
            Self::EntryCorrupted => "entry-corrupted",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sabotage| sabotage.name() == name)
    }
}
