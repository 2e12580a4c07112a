//! Comparing a cached region with the disk: the cross-check.
//!
//! **Owns** what must be equal, and what happens when it is not.
//!
//! **How it works.**
//! 1. *Cut*: a writer holds the lock of a region while it writes to the disk and to the region. Under that lock, taken for
//!    as long as a snapshot of the disk takes, both hold the same writes; nobody else waits. What changes the disk past the
//!    lock (a range that is deleted or replaced) evicts the region first, so if the region is still there after the snapshot
//!    was taken, the snapshot is of before.
//! 2. *Compare*: both snapshots are walked side by side, a bounded number of entries per step.
//! 3. *Conclude*: a region that differs is evicted, counted, and named in one line of the log.
//!
//! Equal is what a reader at or above the safe point finds. Garbage may have gone from memory and not from the disk:
//! - Of the write family both sides are reduced to the records that such a reader looks at ([`Relevance`]), and these must
//!   be the same.
//! - A value in the default family may be on the disk alone if the record that it belongs to is garbage, which is looked up
//!   there.
//! - Locks, and keys without a timestamp, must be the same.
//!
//! **Invariants.** An audit is not a read: it changes neither the statistics by which regions are evicted nor the counted
//! snapshots. It ends at its next step when its region is evicted or split. Its memory does not depend on the region.
//!
//! **Must not** start threads: an [`Audit`] is driven by a thread of [`CacheWorkers`](crate::CacheWorkers), or step by step
//! by a simulation; nor correct what differs.

use std::{cmp::Ordering, fmt, ops::Bound};

use engine_traits::{CacheRegion, Cf, EvictReason, IterBounds, Iterator, Result, Snapshot};
use tikv_util::{debug, error, warn};
use txn_types::{TimeStamp, WriteRef, WriteType};

use crate::{
    RegionCacheEngine, RegionCacheIterator, RegionCacheSnapshot, RegionState, block::SplitKey, cached_region::Writer,
    family::is_versioned, metrics::METRICS, region_table::Incarnation,
};

/// The write family before the default family: a record that is missing explains a value that is.
const FAMILIES: [Cf; Cf::DATA.len()] = [Cf::Write, Cf::Default, Cf::Lock];

/// How an audit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditOutcome {
    /// Memory and disk hold the same.
    Same,
    /// They do not, see [`Audit::difference`]. The region is evicted.
    Different,
    /// The region was evicted or split meanwhile, or the audit was dropped.
    Cancelled,
    /// The disk could not be read.
    Failed,
}

/// What [`Audit::step`] left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditProgress {
    More,
    Done(AuditOutcome),
}

/// What an audit has read of the disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audited {
    pub entries: usize,
    /// Of keys and values.
    pub bytes: usize,
}

/// Which side has what the other one lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    OnlyInMemory,
    OnlyOnDisk,
    /// Both have the key, with different values.
    OtherValue,
}

/// The first difference between memory and disk. Printed without the key, which may be confidential.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference {
    pub cf: Cf,
    /// User data: not to be logged.
    pub key: Vec<u8>,
    pub kind: DifferenceKind,
}

impl Difference {
    /// When the record was committed, or, in the default family, its transaction began; zero of a key without a timestamp.
    pub fn ts(&self) -> TimeStamp {
        SplitKey::new(&self.key, is_versioned(self.cf)).suffix.map_or(TimeStamp::zero(), |suffix| (!suffix).into())
    }
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {} at {}", self.kind, self.cf, self.ts())
    }
}

/// An audit of one region after its cut, over a snapshot `S` of the disk. Dropping it before it is done cancels it.
pub struct Audit<S: Snapshot> {
    cache: RegionCacheEngine,
    memory: RegionCacheSnapshot,
    disk: S,
    /// Who reads below this is refused.
    safe_point: TimeStamp,
    /// How many of [`FAMILIES`] are done.
    families_done: usize,
    /// Of the next family; `None` before its first entry.
    walk: Option<Walk<S::Iter>>,
    audited: Audited,
    difference: Option<Difference>,
    outcome: Option<AuditOutcome>,
}

impl RegionCacheEngine {
    /// The active region that follows on the key `behind`, or else the first one: who goes on behind its end comes around.
    pub fn next_to_audit(&self, behind: &[u8]) -> Option<CacheRegion> {
        let view = self.core.view.load();
        let following = view.written.range::<_, [u8]>((Bound::Included(behind), Bound::Unbounded));
        let mut all = following.chain(&view.written).map(|(_, region)| &region.region);
        let is_active =
            |region: &&CacheRegion| view.by_id.get(&region.id).is_some_and(|(state, _)| *state == RegionState::Active);
        all.find(is_active).cloned()
    }

    /// Makes the cut of an audit. `disk_snapshot` takes a snapshot of the disk, and is called while writers to this region
    /// wait. `None` when the region is not active, or has ceased to be meanwhile.
    pub fn begin_audit<S: Snapshot>(&self, region_id: u64, disk_snapshot: impl FnOnce() -> S) -> Option<Audit<S>> {
        let region = match self.core.view.load().by_id.get(&region_id) {
            Some((RegionState::Active, region)) => region.clone(),
            _ => return None,
        };
        let writer = region.writer.lock();
        if !matches!(*writer, Writer::Applying) {
            return None;
        }
        let data = region.data()?;
        let disk = disk_snapshot();
        // A deletion of a range that this snapshot shows has evicted the region before.
        if !self.is_active(region_id, region.incarnation) {
            return None;
        }
        drop(writer);
        let safe_point = self.safe_point().max(data.collected_to()).into();
        Some(Audit {
            cache: self.clone(),
            memory: RegionCacheSnapshot::uncounted(data, region),
            disk,
            safe_point,
            families_done: 0,
            walk: None,
            audited: Audited::default(),
            difference: None,
            outcome: None,
        })
    }

    fn is_active(&self, region_id: u64, incarnation: Incarnation) -> bool {
        let view = self.core.view.load();
        view.by_id
            .get(&region_id)
            .is_some_and(|(state, region)| *state == RegionState::Active && region.incarnation == incarnation)
    }
}

impl<S: Snapshot> Audit<S> {
    pub fn region(&self) -> &CacheRegion {
        self.memory.region()
    }

    /// How far the audit is.
    pub fn audited(&self) -> Audited {
        self.audited
    }

    /// What was found; `None` unless the outcome is [`AuditOutcome::Different`].
    pub fn difference(&self) -> Option<&Difference> {
        self.difference.as_ref()
    }

    /// Passes up to `entries_max` entries (but at least one) of both sides together. Done is done: further calls change
    /// nothing.
    pub fn step(&mut self, entries_max: usize) -> AuditProgress {
        if let Some(outcome) = self.outcome {
            return AuditProgress::Done(outcome);
        }
        if !self.cache.is_active(self.region().id, self.memory.incarnation()) {
            return self.finish(AuditOutcome::Cancelled);
        }
        let bytes_before = self.audited.bytes;
        let advanced = self.advance(entries_max.max(1));
        METRICS.cross_check_bytes.inc_by((self.audited.bytes - bytes_before) as u64);
        match advanced {
            Ok(Progress::More) => AuditProgress::More,
            Ok(Progress::AtEnd) => self.finish(AuditOutcome::Same),
            Ok(Progress::Found(difference)) => {
                error!("cached region differs from the disk and is evicted"; "region_id" => self.region().id,
                    "version" => self.region().epoch_version, "cf" => %difference.cf, "key" => "?",
                    "ts" => %difference.ts(), "difference" => ?difference.kind, "safe_point" => %self.safe_point);
                self.difference = Some(difference);
                self.cache.core.evict(&[self.memory.incarnation()], EvictReason::AutoEvict);
                self.finish(AuditOutcome::Different)
            }
            Err(error) => {
                warn!("cross-check of a cached region could not read"; "region_id" => self.region().id, "err" => ?error);
                self.finish(AuditOutcome::Failed)
            }
        }
    }

    fn advance(&mut self, mut entries_left: usize) -> Result<Progress> {
        while let Some(cf) = FAMILIES.get(self.families_done) {
            let walk = match &mut self.walk {
                Some(walk) => walk,
                None => self.walk.insert(Walk::new(*cf, &self.memory, &self.disk, self.safe_point)?),
            };
            let progress = walk.advance(&mut entries_left, &self.disk);
            let passed = std::mem::take(&mut walk.disk.passed);
            self.audited.entries += passed.entries;
            self.audited.bytes += passed.bytes;
            match progress? {
                Progress::AtEnd => {
                    self.families_done += 1;
                    self.walk = None;
                }
                other => return Ok(other),
            }
        }
        Ok(Progress::AtEnd)
    }

    fn finish(&mut self, outcome: AuditOutcome) -> AuditProgress {
        METRICS.cross_checks(outcome).inc();
        debug!("cross-check of a cached region has ended"; "region_id" => self.region().id, "outcome" => ?outcome);
        self.walk = None;
        self.outcome = Some(outcome);
        AuditProgress::Done(outcome)
    }
}

impl<S: Snapshot> Drop for Audit<S> {
    fn drop(&mut self) {
        if self.outcome.is_none() {
            METRICS.cross_checks(AuditOutcome::Cancelled).inc();
        }
    }
}

/// How far a family is.
enum Progress {
    More,
    AtEnd,
    Found(Difference),
}

/// Both sides of one family, on what is compared next.
struct Walk<I> {
    cf: Cf,
    safe_point: TimeStamp,
    memory: Side<RegionCacheIterator>,
    disk: Side<I>,
    /// On the disk's records, for values whose records are looked up.
    records: Option<I>,
    bounds: IterBounds,
}

impl<I: Iterator> Walk<I> {
    fn new<S: Snapshot<Iter = I>>(
        cf: Cf,
        memory: &RegionCacheSnapshot,
        disk: &S,
        safe_point: TimeStamp,
    ) -> Result<Self> {
        let region = memory.region();
        let bounds = IterBounds::new(region.start.clone(), region.end.clone());
        let relevance = || (cf == Cf::Write).then(|| Relevance::new(safe_point));
        let memory = Side::new(memory.iter(cf, bounds.clone())?, relevance())?;
        let disk = Side::new(disk.iter(cf, bounds.clone())?, relevance())?;
        Ok(Self { cf, safe_point, memory, disk, records: None, bounds })
    }

    fn advance<S: Snapshot<Iter = I>>(&mut self, entries_left: &mut usize, snapshot: &S) -> Result<Progress> {
        loop {
            let is_settled = self.memory.settle(entries_left)? && self.disk.settle(entries_left)?;
            if !is_settled || *entries_left == 0 {
                return Ok(Progress::More);
            }
            let (memory, disk) = (&self.memory.cursor, &self.disk.cursor);
            let order = match (memory.valid(), disk.valid()) {
                (false, false) => return Ok(Progress::AtEnd),
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (true, true) => memory.key().cmp(disk.key()),
            };
            let kind = match order {
                Ordering::Equal if memory.value() == disk.value() => {
                    self.memory.pass(entries_left)?;
                    self.disk.pass(entries_left)?;
                    continue;
                }
                Ordering::Equal => DifferenceKind::OtherValue,
                Ordering::Less => DifferenceKind::OnlyInMemory,
                Ordering::Greater if self.is_garbage_value(snapshot)? => {
                    self.disk.pass(entries_left)?;
                    continue;
                }
                Ordering::Greater => DifferenceKind::OnlyOnDisk,
            };
            let side = if order == Ordering::Greater { self.disk.cursor.key() } else { self.memory.cursor.key() };
            return Ok(Progress::Found(Difference { cf: self.cf, key: side.to_vec(), kind }));
        }
    }

    /// Whether the disk's cursor is on a value whose record no reader at or above the safe point looks at.
    ///
    /// The record is the first one at or behind the moment at which its transaction began, but for what other transactions
    /// have committed in between. It is garbage if there is a change behind it that is not above the safe point either.
    fn is_garbage_value<S: Snapshot<Iter = I>>(&mut self, snapshot: &S) -> Result<bool> {
        let SplitKey { stem, suffix: Some(suffix) } = SplitKey::new(self.disk.cursor.key(), is_versioned(self.cf))
        else {
            return Ok(false);
        };
        if self.cf != Cf::Default || self.safe_point.is_zero() {
            return Ok(false);
        }
        let records = match &mut self.records {
            Some(records) => records,
            None => self.records.insert(snapshot.iter(Cf::Write, self.bounds.clone())?),
        };
        let start_ts = TimeStamp::new(!suffix);
        let mut has_record = false;
        records.seek_for_prev(self.disk.cursor.key())?;
        while records.valid()
            && let SplitKey { stem: record_stem, suffix: Some(suffix) } = SplitKey::new(records.key(), true)
            && record_stem == stem
            && TimeStamp::new(!suffix) <= self.safe_point
        {
            let record = WriteRef::parse(records.value());
            let is_change = !matches!(&record, Ok(r) if matches!(r.write_type, WriteType::Rollback | WriteType::Lock));
            if has_record && is_change {
                return Ok(true);
            }
            has_record |= record.is_ok_and(|record| {
                record.write_type == WriteType::Put && record.start_ts == start_ts && record.short_value.is_none()
            });
            records.prev()?;
        }
        Ok(false)
    }
}

/// A cursor that stops at what is compared.
struct Side<I> {
    cursor: I,
    /// `None` when everything is compared.
    relevance: Option<Relevance>,
    /// Whether what the cursor is on, be it the end, has been found relevant.
    is_settled: bool,
    /// What was left behind since this was last asked for.
    passed: Audited,
}

impl<I: Iterator> Side<I> {
    fn new(mut cursor: I, relevance: Option<Relevance>) -> Result<Self> {
        cursor.seek_to_first()?;
        Ok(Self { cursor, relevance, is_settled: false, passed: Audited::default() })
    }

    /// Moves to what is compared next, or to the end; `false` when that is more than `entries_left` away.
    fn settle(&mut self, entries_left: &mut usize) -> Result<bool> {
        while !self.is_settled {
            let is_relevant = !self.cursor.valid()
                || self
                    .relevance
                    .as_mut()
                    .is_none_or(|relevance| relevance.judge(self.cursor.key(), self.cursor.value()));
            if is_relevant {
                self.is_settled = true;
            } else {
                self.pass(entries_left)?;
                if *entries_left == 0 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn pass(&mut self, entries_left: &mut usize) -> Result<()> {
        self.passed.entries += 1;
        self.passed.bytes += self.cursor.key().len() + self.cursor.value().len();
        *entries_left = entries_left.saturating_sub(1);
        self.is_settled = false;
        self.cursor.next()?;
        Ok(())
    }
}

/// Goes through records in order, and says which of them readers at or above the safe point look at: those above it, and of
/// the others the newest change, unless it is a deletion, which is as good as none. A record that cannot be parsed counts as
/// a change: no reader gets past it.
///
/// What garbage collection has dropped at this or an earlier safe point makes no difference to it, whatever that was.
struct Relevance {
    safe_point: TimeStamp,
    /// The last user key whose newest change at or below the safe point was passed, if any.
    decided: Option<Vec<u8>>,
}

impl Relevance {
    fn new(safe_point: TimeStamp) -> Self {
        Self { safe_point, decided: None }
    }

    fn judge(&mut self, key: &[u8], value: &[u8]) -> bool {
        let SplitKey { stem, suffix: Some(suffix) } = SplitKey::new(key, true) else { return true };
        if TimeStamp::new(!suffix) > self.safe_point {
            return true;
        }
        if self.decided.as_deref() == Some(stem) {
            return false;
        }
        let write_type = WriteRef::parse(value).map(|record| record.write_type);
        if matches!(write_type, Ok(WriteType::Rollback | WriteType::Lock)) {
            return false;
        }
        let decided = self.decided.get_or_insert_default();
        decided.clear();
        decided.extend_from_slice(stem);
        !matches!(write_type, Ok(WriteType::Delete))
    }
}
