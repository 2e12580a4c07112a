//! Things that can be broken on purpose, to see that a check notices.
//!
//! # What it owns
//! The list, the name of each on the command line, and which check stands for what it breaks.
//!
//! # How it works
//! The simulated driver and what surrounds the plugin look at [`Plan::sabotage`](super::plan::Plan) where each of them
//! applies. Production code is never changed: it is given a driver, an engine or an observer that misbehaves.
//!
//! # Invariants
//! Each entry breaks a promise that some check stands for. `--self-test` fails for one that this check does not notice,
//! whoever else does.
//!
//! # What it must not do
//! Make a seed fail by anything but a check, or a panic of the code that was lied to.

macro_rules! sabotages {
    ($($(#[$doc:meta])* $sabotage:ident: $name:literal => $checks:expr,)*) => {
        /// One thing that is broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Sabotage { $($(#[$doc])* $sabotage),* }

        impl Sabotage {
            pub const ALL: &[Self] = &[$(Self::$sabotage),*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$sabotage => $name),* }
            }

            /// The checks that stand for what is broken; where there are several, it depends on what happens first.
            pub fn caught_by(self) -> &'static [&'static str] {
                match self { $(Self::$sabotage => &$checks),* }
            }
        }
    };
}

sabotages! {
    /// Preload requests go to the cache as they arrive, as in TiKV before tikv/tikv#18046.
    InitializationCheckSkipped: "initialization-check-skipped" => ["uninitialized-regions (I1)"],
    /// Requests to peers that are not initialized vanish, as in TiKV's fix.
    ParkingOff: "parking-off" => ["answers (I3)"],
    /// The cache is not told of snapshots.
    NotEvictedOnSnapshot: "not-evicted-on-snapshot" => ["snapshots-evict (I5)"],
    /// Writes reach the disk and not the cache.
    CacheMissesWrites: "cache-misses-writes" => ["cache-equals-disk", "cross-check"],
    /// A cached region that is split takes the new version and keeps its range.
    PieceKeepsRange: "piece-keeps-range" => ["cached-ranges"],
    /// A snapshot that is held shows what is in the cache now.
    HeldSnapshotMoves: "held-snapshot-moves" => ["held-snapshots"],
    /// Garbage collection drops versions that a held snapshot still needs, as in tikv/tikv#17282. The cache cannot be made to do
    /// that: what it collects it replaces, and a snapshot shares what was there before. So the snapshot is read without what the
    /// region's data lacks by then.
    SnapshotsCollected: "snapshots-collected" => ["held-snapshots"],
    /// Readers are not told of locks.
    LocksPassedOver: "locks-passed-over" => ["mvcc-reads"],
    /// The cache is not told that a merge was rolled back, as in tikv/tikv#18008.
    NotEvictedOnRollback: "not-evicted-on-rollback" => ["merges-evict"],
    /// Something is still written for a region when its range is another one's by a merge.
    SourceAppliesOn: "source-applies-on" => ["acknowledged-writes", "linearizable-reads", "replicas-agree", "mvcc-reads", "cache-equals-disk"],
    /// Final answers are not sent.
    AnswerDropped: "answer-dropped" => ["answers (I3)"],
    /// Final answers are sent twice.
    AnswerDuplicated: "answer-duplicated" => ["answers (I3)"],
    /// Every final answer says "warm".
    AnswerAlwaysWarm: "answer-always-warm" => ["answers (I3)"],
    /// After a restart nothing is pinned any more.
    IntentForgotten: "intent-forgotten" => ["intents-end (I4)"],
    /// Everything is pinned, although nobody has asked for that.
    WarmForEver: "warm-for-ever" => ["intents-end (I4)"],
    /// Nothing is ever loaded.
    LoadsIgnored: "loads-ignored" => ["warm-after-heal"],
    /// The time for a warm-up runs from the first offer ever, whoever leads, as in tikv/tikv#18453.
    WarmupOutlivesLeader: "warmup-outlives-leader" => ["transfers"],
    /// With a plugin, no transfer is acknowledged before the store gives up.
    AckAlwaysHeld: "ack-always-held" => ["disabled-cache (I7)"],
    /// The plugin holds more than its configuration allows.
    LimitsIgnored: "limits-ignored" => ["memory-bounds"],
    /// The plugin's worker hangs.
    WorkerStuck: "worker-stuck" => ["answers (I3)"],
    /// Log writes are reported as durable before they are.
    UnsyncedLogPersisted: "unsynced-log-persisted" => ["raft-safety", "acknowledged-writes", "linearizable-reads"],
    /// Votes are forgotten by a restart.
    VoteForgotten: "vote-forgotten" => ["raft-safety"],
    /// Applied entries are reported before they are written.
    AppliedBeforeWritten: "applied-before-written" => ["linearizable-reads"],
    /// A write batch is lost on one replica.
    ApplyLost: "apply-lost" => ["replicas-agree", "linearizable-reads", "acknowledged-writes"],
    /// Whoever thinks that it leads serves reads at once: the read index is stale.
    ReadIndexSkipped: "read-index-skipped" => ["linearizable-reads"],
    /// What the applier demands to be durable is not synced.
    DurableApplyNotSynced: "durable-apply-not-synced" => ["restart", "raft-safety", "no-panic (I2)"],
    /// A restart brings a region back as it was before it was split.
    SplitForgotten: "split-forgotten" => ["ranges"],
    /// The snapshot worker puts the first snapshot in place again, over what is newer.
    SnapshotOverNewer: "snapshot-over-newer" => ["linearizable-reads", "replicas-agree", "ranges", "acknowledged-writes", "raft-safety", "restart"],
    /// Entries are handed to the state machine without the last bytes of their data.
    EntryCorrupted: "entry-corrupted" => ["raft-safety"],
}

impl Sabotage {
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|sabotage| sabotage.name() == name)
    }
}
