//! The data of one incarnation of a region.
//!
//! **Owns** a cached region's data, its buffer while it is loading, the charge for both, and who may change them.
//!
//! **How it works.** The data is an immutable version behind a pointer. A writer holds the `writer` lock, makes the next
//! version out of the current one and swaps the pointer; a reader takes the current version and keeps it. While the
//! region is loading, writes go to a buffer instead; it belongs to this incarnation and dies with it.
//!
//! Evicting a region drops references. When the last one is dropped, what remains is sent to housekeeping, so that
//! neither an apply thread nor a reader pays for freeing it, and no callback runs under a lock.
//!
//! **Invariants.** `charge` is what the current version and the buffer are accounted with. Once `Retired`, a region is
//! not in the cache and is never written to again.
//!
//! **Must not** know the state of the region: that is the region table's.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use crossbeam_channel::Sender;
use engine_traits::{CacheRegion, Cf, Mutation, OnEvictFinishedCallback, WriteBatch};
use parking_lot::Mutex;

use crate::{
    housekeeping::Chore,
    memory::{Charge, OverCapacity},
    region_table::Incarnation,
    sorted_map::SortedMap,
};

/// What a mutation in a buffer is accounted with besides its key and value: its record in the batch.
const BUFFERED_OVERHEAD_BYTES: usize = 48;

/// One version of a region's data: a map per column family, in the order of [`Cf::DATA`].
#[derive(Clone, Debug, Default)]
pub(crate) struct RegionData {
    pub(crate) maps: [SortedMap; Cf::DATA.len()],
}

impl RegionData {
    /// `None` for a column family that is not cached.
    pub(crate) fn map(&self, cf: Cf) -> Option<&SortedMap> {
        self.maps.get(cf.index())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.maps.iter().map(SortedMap::bytes).sum()
    }

    pub(crate) fn window(&self, region: &CacheRegion) -> Self {
        Self { maps: self.maps.each_ref().map(|map| map.window(&region.start, &region.end)) }
    }

    /// Deletions of ranges have no effect: regions that overlap one are evicted.
    pub(crate) fn apply<'a>(&mut self, mutations: impl IntoIterator<Item = Mutation<'a>>) {
        for mutation in mutations {
            let (Mutation::Put { cf, .. } | Mutation::Delete { cf, .. } | Mutation::DeleteRange { cf, .. }) = mutation;
            let Some(map) = self.maps.get_mut(cf.index()) else { continue };
            match mutation {
                Mutation::Put { key, value, .. } => map.put(key, value),
                Mutation::Delete { key, .. } => map.delete(key),
                Mutation::DeleteRange { .. } => {}
            }
        }
    }
}

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
    data: ArcSwap<RegionData>,
    pub(crate) charge: Charge,
    /// When the region was last read, as a number of reads that the engine has served.
    last_read: AtomicU64,
    housekeeping: Sender<Chore>,
}

impl CachedRegion {
    /// A region that is not loaded yet.
    pub(crate) fn new(
        incarnation: Incarnation,
        region: CacheRegion,
        charge: Charge,
        housekeeping: Sender<Chore>,
    ) -> Self {
        Self {
            incarnation,
            region,
            writer: Mutex::new(Writer::Buffering(WriteBatch::new())),
            data: ArcSwap::default(),
            charge,
            last_read: AtomicU64::new(0),
            housekeeping,
        }
    }

    pub(crate) fn data(&self) -> Arc<RegionData> {
        self.data.load_full()
    }

    pub(crate) fn last_read(&self) -> u64 {
        self.last_read.load(Ordering::Relaxed)
    }

    pub(crate) fn touch(&self, read: u64) {
        self.last_read.fetch_max(read, Ordering::Relaxed);
    }

    /// Applies the mutations atomically. `writer` is the guarded content of this region's own lock.
    ///
    /// # Errors
    /// When there is no memory for them; nothing is applied then, so the region must be evicted.
    pub(crate) fn write(&self, writer: &mut Writer, mutations: &[Mutation<'_>]) -> Result<(), OverCapacity> {
        match writer {
            Writer::Buffering(buffer) => {
                self.charge.grow(mutations.iter().map(buffered_bytes).sum())?;
                mutations.iter().for_each(|mutation| push(buffer, mutation));
            }
            Writer::Applying => {
                let mut data = RegionData::clone(&self.data.load());
                data.apply(mutations.iter().copied());
                self.charge.resize(data.bytes())?;
                self.data.store(Arc::new(data));
            }
            Writer::Retired => debug_assert!(false, "a region that was split is not written to"),
        }
        Ok(())
    }

    /// Makes `loaded` the region's data, with the buffered writes on top. The charge must include `loaded` already.
    ///
    /// # Errors
    /// When there is no memory for the result; the region must be evicted then.
    pub(crate) fn install(&self, writer: &mut Writer, mut loaded: RegionData) -> Result<(), OverCapacity> {
        if let Writer::Buffering(buffer) = writer {
            loaded.apply(buffer.iter());
            self.charge.resize(loaded.bytes())?;
            self.data.store(Arc::new(loaded));
            *writer = Writer::Applying;
        }
        Ok(())
    }

    /// Moves what of this region lies in `piece` to it, a region of its own that nobody writes to yet.
    pub(crate) fn give_to_piece(&self, writer: &Writer, piece: &CachedRegion) {
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
                let part = self.data.load().window(&piece.region);
                self.charge.transfer(&piece.charge, part.bytes());
                piece.data.store(Arc::new(part));
                *piece.writer.lock() = Writer::Applying;
            }
            Writer::Retired => {}
        }
        piece.touch(self.last_read());
    }
}

impl Drop for CachedRegion {
    fn drop(&mut self) {
        let remains =
            Remains { incarnation: self.incarnation, data: self.data.swap(Arc::default()), charge: self.charge.take() };
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

/// What is left of a region when nobody refers to it any more.
pub(crate) struct Remains {
    pub(crate) incarnation: Incarnation,
    /// Dropped before the charge: memory is free before it is given out again.
    pub(crate) data: Arc<RegionData>,
    pub(crate) charge: Charge,
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
