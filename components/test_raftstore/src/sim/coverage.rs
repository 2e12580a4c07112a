//! Counts what happens in runs, to see that the rare things do.
//!
//! # What it owns
//! The list of [`Seam`]s: moments at which two things meet that rarely do, or at which the cores do something special.
//!
//! # How it works
//! Whoever is there when it happens calls [`Coverage::hit`]. `preload-sim --verbose` adds the counts of all its runs up.
//! A seam that a few hundred seeds never meet is a hole in the plan or the workload.
//!
//! # Invariants
//! Counting changes nothing about a run.
//!
//! # What it must not do
//! Count what happens all the time anyway.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

macro_rules! seams {
    ($($seam:ident: $text:literal,)*) => {
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Seam { $($seam),* }

        /// What each seam is, in the order of [`Seam`].
        pub const SEAMS: &[&str] = &[$($text),*];
    };
}

seams! {
    CrashAtVote: "a crash right before or after a vote leaves",
    CrashAtEffect: "a crash between two other effects",
    DiskFailed: "a sync fails",
    InputsTogether: "several inputs before the effects are asked for",
    PeerAdded: "an uninitialized peer is created",
    PeerRemoved: "an initialized peer is destroyed",
    UninitializedDestroyed: "an uninitialized peer is destroyed",
    DestroyedWithSnapshot: "a peer is destroyed whose snapshot was to replace data",
    DestroyResumed: "a restart finds the remains of a destroyed peer",
    ToldRemoved: "a tombstone message arrives",
    StalePeerAsks: "a silent peer asks whether it is still a member",
    Split: "a store applies a split",
    BatchSplit: "a store applies a split at several keys",
    LeftDerived: "a store applies a split whose left piece keeps the id",
    SplitMeetsUninitialized: "a split finds an uninitialized peer of a new region",
    SplitMeetsNewer: "a split finds a newer peer of a new region",
    SplitMeetsDestroyed: "a split finds that its new region's peer is being destroyed",
    SplitUnderSnapshot: "a split is reported while a snapshot of the region is accepted",
    SplitNotInLog: "a restart finds a region that only the data engine knows",
    MergePrepared: "a store applies the preparation of a merge",
    MergeCommitted: "a store applies the commit of a merge",
    MergeRolledBack: "a store applies the rollback of a merge",
    SourceLags: "a target waits for a source that is not up to date",
    WantsRollback: "a source hears that its merge is hopeless",
    SnapshotAbsorbs: "a snapshot absorbs regions that were merged",
    CrashWhileMerging: "a crash while a region waits for its merge",
    MergeResumed: "a restart finds a region that waits for its merge",
    CachedAtPrepare: "a region is cached when its merge is prepared",
    CachedAtCommit: "a region is cached when it takes over another one",
    CachedAtRollback: "a region is cached when its merge is rolled back",
    LogCompacted: "a log is compacted",
    SnapshotBrokenOff: "a snapshot's transfer breaks off",
    SnapshotContinued: "a snapshot's transfer goes on where an earlier one broke off",
    SnapshotBroken: "a snapshot's transfer ends because of a block that was changed",
    SnapshotInstalled: "a snapshot replaces a region's data",
    SnapshotIgnored: "a snapshot arrives and is not accepted",
    SnapshotCancelled: "a snapshot is given up because its peer is to be destroyed",
    SnapshotResumed: "a restart goes on with a snapshot",
    SnapshotOfOtherRange: "a snapshot brings a region of another range than there was",
    TransferHeld: "the acknowledgement of a transfer is held back",
    TransferAckedWarm: "a transfer that says warm is acknowledged warm",
    TransferAckedCold: "a transfer that says warm is acknowledged cold",
    LeaderTransferred: "leadership is handed over",
    LeaderChangeWhileHeld: "another leader appears while an acknowledgement is held back",
    LeaderChangeWhileParked: "another leader appears while a request waits",
    ParkedUninitialized: "a request waits for a peer to be initialized",
    ParkedSnapshot: "a request waits for a snapshot to be applied",
    ParkedEpoch: "a request waits for the region's epoch",
    AnsweredWarm: "a request is told warm",
    AnsweredBusy: "a request is told that the store is busy, or too late",
    AnsweredOtherwise: "a request is refused",
    LoadFailed: "a load finds no memory",
    LoadCancelled: "a load is cancelled",
    LoadingSplit: "a region is split while it loads",
    ActiveSplit: "a cached region is split",
    PinnedLoad: "a pinned region is found loading",
    ReadFromMemory: "a read is served from memory",
    ReadTooOld: "a read is too old for memory",
    ReadLocked: "a read from memory finds a lock that blocks",
    ReadPastLock: "a read from memory passes a lock over",
    VersionCollected: "a version is garbage-collected",
    AutoLoaded: "a region is loaded for how it is read",
    AuditEnded: "a cached region has been compared with the disk",
    AuditCancelled: "a region leaves the cache while it is compared",
    HeldThroughEviction: "a snapshot is held while its region is evicted",
    HeldThroughSplit: "a snapshot is held while its region is split",
    HeldThroughWrite: "a snapshot is held while its region is written to",
}

/// How often each seam was met. A handle: clones share the counts.
#[derive(Clone, Debug)]
pub struct Coverage(Arc<[AtomicU32]>);

impl Default for Coverage {
    fn default() -> Self {
        Self(SEAMS.iter().map(|_| AtomicU32::new(0)).collect())
    }
}

impl Coverage {
    pub(super) fn hit(&self, seam: Seam) {
        self.0[seam as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// In the order of [`SEAMS`].
    pub fn counts(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed))
    }
}
