//! The data of one incarnation of a region.
//!
//! **Owns** a cached region's data, its buffer while it is loading, and who may change them.
//!
//! **How it works.** The data is a version behind a pointer: three families and the number of the last batch. A writer
//! holds the `writer` lock, appends a batch to the leaves, where no reader sees it yet, and swaps the pointer to a version
//! with the next number; a reader takes the current version and keeps it. While the region is loading, writes go to a
//! buffer instead; it belongs to this incarnation and dies with it.
//!
//! Evicting a region drops references. When the last one is dropped, what remains is sent to housekeeping, so that
//! neither an apply thread nor a reader pays for freeing it, and no callback runs under a lock.
//!
//! **Invariants.** A batch that has failed is never seen: its region is evicted. Whatever holds data holds the charge for
//! it, also when nobody but an old snapshot refers to it. Once `Retired`, a region is not in the cache and is never
//! written to again.
//!
//! **Must not** know the state of the region: that is the region table's.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use crossbeam_channel::Sender;
use engine_traits::{CacheRegion, Mutation, OnEvictFinishedCallback, WriteBatch};

use crate::{
    housekeeping::Chore,
    load::Loaded,
    memory::{Charge, OverCapacity},
    read_stats::STEPS_PER_SEEK,
    region_data::RegionData,
    region_table::Incarnation,
    sync::{ArcSwapOption, AtomicU64, AtomicUsize, Mutex},
};

/// What a mutation in a buffer is accounted with besides its key and value: its record in the batch.
const BUFFERED_OVERHEAD_BYTES: usize = 48;

/// What a write to a region does.
pub(crate) enum Writer {
    /// The region is not loaded yet: writes are kept in order until it is.
    Buffering(WriteBatch),
    /// Writes change the data.
    Applying,
    /// The region was split: writes go to the pieces.
    Retired,
}

/// See the module.
pub(crate) struct CachedRegion {
    pub(crate) incarnation: Incarnation,
    pub(crate) region: CacheRegion,
    pub(crate) writer: Mutex<Writer>,
    /// `None` until the region is loaded.
    data: ArcSwapOption<RegionData>,
    /// For the buffer.
    charge: Charge,
    /// How it came into the cache: 0 when somebody has asked for it, otherwise [`AUTOMATIC`] and what a read of it took
    /// on the disk, in steps.
    origin: AtomicU64,
    /// What its load has read so far; pieces of a split share it, as they share the load.
    scanned: Arc<ScanMeter>,
    /// Reads of this region, and those of them that do not count any more. See [`recent_reads`](Self::recent_reads).
    reads: AtomicU64,
    forgotten_reads: AtomicU64,
    /// When the region became active, as a number of reads that the engine has served.
    active_since: AtomicU64,
    housekeeping: Sender<Chore>,
}

impl CachedRegion {
    /// A region that is not loaded yet.
    pub(crate) fn new(
        incarnation: Incarnation,
        region: CacheRegion,
        scanned: Arc<ScanMeter>,
        charge: Charge,
        housekeeping: Sender<Chore>,
    ) -> Self {
        Self {
            incarnation,
            region,
            writer: Mutex::new(Writer::Buffering(WriteBatch::new())),
            data: ArcSwapOption::empty(),
            charge,
            origin: AtomicU64::new(0),
            scanned,
            reads: AtomicU64::new(0),
            forgotten_reads: AtomicU64::new(0),
            active_since: AtomicU64::new(0),
            housekeeping,
        }
    }

    pub(crate) fn data(&self) -> Option<Arc<RegionData>> {
        self.data.load_full()
    }

    /// What the region is accounted with; what another region shares with it since a split counts for both.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.charge.bytes() + self.data.load().as_ref().map_or(0, |data| data.bytes())
    }

    pub(crate) fn scanned(&self) -> &Arc<ScanMeter> {
        &self.scanned
    }

    pub(crate) fn origin(&self) -> Origin {
        match self.origin.load(Ordering::Relaxed) {
            0 => Origin::Asked,
            automatic => Origin::Automatic { steps_per_read: automatic & !AUTOMATIC },
        }
    }

    pub(crate) fn set_origin(&self, origin: Origin) {
        let value = match origin {
            Origin::Asked => 0,
            Origin::Automatic { steps_per_read } => AUTOMATIC | steps_per_read,
        };
        self.origin.store(value, Ordering::Relaxed);
    }

    /// Reads of this region in its time in the cache.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Reads of this region; older ones count less.
    pub(crate) fn recent_reads(&self) -> u64 {
        self.reads().saturating_sub(self.forgotten_reads.load(Ordering::Relaxed))
    }

    pub(crate) fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on, the reads so far count half. One thread at a time.
    pub(crate) fn halve_reads(&self) {
        let forgotten = self.recent_reads().div_ceil(2);
        self.forgotten_reads.fetch_add(forgotten, Ordering::Relaxed);
    }

    pub(crate) fn active_since(&self) -> u64 {
        self.active_since.load(Ordering::Relaxed)
    }

    pub(crate) fn set_active_since(&self, read: u64) {
        self.active_since.store(read, Ordering::Relaxed);
    }

    /// Applies the mutations atomically, and may drop versions below `safe_point`. `writer` is the guarded content of this
    /// region's own lock.
    ///
    /// # Errors
    /// When there is no memory for them; nothing is visible then, and the region must be evicted.
    pub(crate) fn write(
        &self,
        writer: &mut Writer,
        mutations: &[Mutation<'_>],
        safe_point: u64,
    ) -> Result<(), OverCapacity> {
        match writer {
            Writer::Buffering(buffer) => {
                self.charge.grow(mutations.iter().map(buffered_bytes).sum())?;
                mutations.iter().for_each(|mutation| push(buffer, mutation));
            }
            Writer::Applying => self.change(|data| data.apply(mutations, safe_point))?,
            Writer::Retired => debug_assert!(false, "a region that was split is not written to"),
        }
        Ok(())
    }

    /// What was buffered, with the charge for it, if it is more than `writes_max`; the buffer is empty then. Whoever takes
    /// it must have it in what is [installed](Self::install).
    pub(crate) fn take_buffer(&self, writer: &mut Writer, writes_max: usize) -> Option<(WriteBatch, Charge)> {
        match writer {
            Writer::Buffering(buffer) if buffer.len() > writes_max => {
                Some((std::mem::take(buffer), self.charge.take()))
            }
            _ => None,
        }
    }

    /// Makes `loaded` the region's data, with the buffered writes on top.
    ///
    /// # Errors
    /// When there is no memory for the result; the region must be evicted then.
    pub(crate) fn install(
        &self,
        writer: &mut Writer,
        mut loaded: RegionData,
        safe_point: u64,
    ) -> Result<(), OverCapacity> {
        if let Writer::Buffering(buffer) = writer {
            loaded.apply(&buffer.iter().collect::<Vec<_>>(), safe_point)?;
            self.data.store(Some(Arc::new(loaded)));
            *writer = Writer::Applying;
            drop(self.charge.take());
        }
        Ok(())
    }

    /// Makes the next version by `change`. The caller holds the writer's lock.
    ///
    /// # Errors
    /// Those of `change`; there is no next version then.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&mut RegionData) -> Result<(), OverCapacity>,
    ) -> Result<(), OverCapacity> {
        let Some(mut data) = self.data.load().as_ref().map(|data| RegionData::clone(data)) else { return Ok(()) };
        change(&mut data)?;
        self.data.store(Some(Arc::new(data)));
        Ok(())
    }

    /// Moves what of this region lies in `piece` to it, a region of its own that nobody writes to yet.
    ///
    /// # Errors
    /// When there is no memory for what the pieces do not share; the piece must be evicted then.
    pub(crate) fn give_to_piece(&self, writer: &Writer, piece: &CachedRegion) -> Result<(), OverCapacity> {
        match writer {
            Writer::Buffering(buffer) => {
                let mut part = WriteBatch::new();
                let inside = |mutation: &Mutation<'_>| key_of(mutation).is_some_and(|k| piece.region.contains_key(k));
                let mut part_bytes = 0;
                for mutation in buffer.iter().filter(inside) {
                    part_bytes += buffered_bytes(&mutation);
                    push(&mut part, &mutation);
                }
                self.charge.transfer(&piece.charge, part_bytes);
                *piece.writer.lock() = Writer::Buffering(part);
            }
            Writer::Applying => {
                if let Some(data) = self.data() {
                    piece.data.store(Some(Arc::new(data.window(&piece.region)?)));
                }
                *piece.writer.lock() = Writer::Applying;
            }
            Writer::Retired => {}
        }
        piece.set_origin(self.origin());
        piece.reads.store(self.recent_reads(), Ordering::Relaxed);
        piece.set_active_since(self.active_since());
        Ok(())
    }
}

impl Drop for CachedRegion {
    fn drop(&mut self) {
        let remains =
            Remains { incarnation: self.incarnation, _data: self.data.swap(None), _charge: self.charge.take() };
        // Fails only when the engine itself is being dropped; the remains are dropped here then.
        let _ = self.housekeeping.send(Chore::Bury(remains));
    }
}

impl fmt::Debug for CachedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedRegion")
            .field("region_id", &self.region.id)
            .field("epoch_version", &self.region.epoch_version)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// How a region came into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody relies on its being there: the plugin, or an operator.
    Asked,
    /// It was worth it, see [`auto_load`](crate::auto_load).
    Automatic { steps_per_read: u64 },
}

impl Origin {
    /// Of a region that was cached before, or that a host's statistics have chosen: nothing is known of its reads, so each
    /// counts as one that looks for a key in two families.
    pub(crate) const UNASKED: Self = Self::Automatic { steps_per_read: 2 * STEPS_PER_SEEK };
}

/// The bit that tells that a region was not asked for.
const AUTOMATIC: u64 = 1 << 63;

/// What a load has read, written by the thread that loads.
#[derive(Debug, Default)]
pub(crate) struct ScanMeter {
    entries: AtomicUsize,
    bytes: AtomicUsize,
}

impl ScanMeter {
    pub(crate) fn show(&self, loaded: Loaded) {
        self.entries.store(loaded.entries, Ordering::Relaxed);
        self.bytes.store(loaded.bytes, Ordering::Relaxed);
    }

    pub(crate) fn loaded(&self) -> Loaded {
        Loaded { entries: self.entries.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// What is left of a region when nobody refers to it any more.
pub(crate) struct Remains {
    pub(crate) incarnation: Incarnation,
    _data: Option<Arc<RegionData>>,
    _charge: Charge,
}

/// Calls an eviction's callback when it is dropped. Held for each region that the eviction waits for.
pub(crate) struct EvictFinished(Option<OnEvictFinishedCallback>);

impl EvictFinished {
    pub(crate) fn new(callback: OnEvictFinishedCallback) -> Arc<Self> {
        Arc::new(Self(Some(callback)))
    }
}

impl Drop for EvictFinished {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback();
        }
    }
}

/// The key that a mutation of a single key is about.
pub(crate) fn key_of<'a>(mutation: &Mutation<'a>) -> Option<&'a [u8]> {
    match *mutation {
        Mutation::Put { key, .. } | Mutation::Delete { key, .. } => Some(key),
        Mutation::DeleteRange { .. } => None,
    }
}

fn buffered_bytes(mutation: &Mutation<'_>) -> usize {
    let value_len = if let Mutation::Put { value, .. } = mutation { value.len() } else { 0 };
    key_of(mutation).map_or(0, <[u8]>::len) + value_len + BUFFERED_OVERHEAD_BYTES
}

fn push(buffer: &mut WriteBatch, mutation: &Mutation<'_>) {
    match *mutation {
        Mutation::Put { cf, key, value } => buffer.put(cf, key, value),
        Mutation::Delete { cf, key } => buffer.delete(cf, key),
        Mutation::DeleteRange { cf, start, end } => buffer.delete_range(cf, start, end),
    }
}
