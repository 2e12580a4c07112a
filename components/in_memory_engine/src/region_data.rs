//! What a region holds at one moment.
//!
//! **Owns** the families of a region, and what a batch does to all of them.
//!
//! **How it works.** A version has the number of the last batch that it shows. The next version is a clone with the next
//! number: both share their leaves, whose changes each sees up to its own number.
//!
//! **Invariants.** A reader at or above `collected_to` finds in this version what it would find if nothing had been
//! dropped. Of two versions of a region the later one has the greater number.
//!
//! **Must not** be changed once a reader may have it.

use std::sync::Arc;

use engine_traits::{CacheRegion, Cf, Mutation};

use crate::{
    block::{BlockBuilder, KeyedBlock},
    delta::{Delta, Sequence},
    directory::Place,
    family::{Family, Garbage, is_versioned},
    memory::{MemoryBudget, OverCapacity},
    prefetch::prefetch_all,
};

/// Of a batch, so many mutations at a time have their leaves fetched: a batch in random order would otherwise wait for
/// memory a dozen times per mutation, one time after the other.
const MUTATIONS_AHEAD: usize = 16;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct RegionData {
    /// In the order of [`Cf::DATA`].
    families: [Family; Cf::DATA.len()],
    sequence: Sequence,
    /// Versions that only readers below this timestamp see may be missing.
    collected_to: u64,
}

impl RegionData {
    /// Of blocks with their first keys, per family in the order of [`Cf::DATA`].
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn new(
        blocks: [Vec<KeyedBlock>; Cf::DATA.len()],
        budget: &Arc<MemoryBudget>,
    ) -> Result<Self, OverCapacity> {
        let [default, lock, write] = blocks;
        let families = [
            Family::new(Cf::Default, default, budget)?,
            Family::new(Cf::Lock, lock, budget)?,
            Family::new(Cf::Write, write, budget)?,
        ];
        Ok(Self { families, sequence: 0, collected_to: 0 })
    }

    /// `None` for a column family that is not cached.
    pub(crate) fn family(&self, cf: Cf) -> Option<&Family> {
        self.families.get(cf.index())
    }

    pub(crate) fn sequence(&self) -> Sequence {
        self.sequence
    }

    pub(crate) fn collected_to(&self) -> u64 {
        self.collected_to
    }

    pub(crate) fn bytes(&self) -> usize {
        self.families.iter().map(Family::bytes).sum()
    }

    /// # Errors
    /// When there is no memory for what the parts do not share.
    pub(crate) fn window(&self, region: &CacheRegion) -> Result<Self, OverCapacity> {
        let window = |family: &Family| family.window(&region.start, &region.end, self.sequence);
        let [default, lock, write] = &self.families;
        let families = [window(default)?, window(lock)?, window(write)?];
        Ok(Self { families, ..*self })
    }

    /// Makes this the version after a batch. Deletions of ranges have no effect: regions that overlap one are evicted.
    ///
    /// # Errors
    /// When there is no memory for it; this version must not be shown then.
    pub(crate) fn apply(&mut self, mutations: &[Mutation<'_>], safe_point: u64) -> Result<(), OverCapacity> {
        self.sequence += 1;
        let mut garbage = Garbage::default();
        for ahead in mutations.chunks(MUTATIONS_AHEAD) {
            let places = self.prefetch_leaves(ahead);
            let mut is_folded = false;
            for (mutation, place) in ahead.iter().zip(places) {
                let (Some((cf, key, value)), Some(place)) = (change_of(mutation), place) else { continue };
                let family = &mut self.families[cf.index()];
                let place = if is_folded { family.directory().find(key) } else { place };
                is_folded |= family.change(self.sequence, place, (key, value), safe_point, &mut garbage)?;
            }
        }
        self.drop_values(garbage, safe_point)
    }

    /// Has the leaves fetched that these will change; where they are as long as none is folded.
    fn prefetch_leaves(&self, mutations: &[Mutation<'_>]) -> [Option<Place>; MUTATIONS_AHEAD] {
        let mut places = [None; MUTATIONS_AHEAD];
        let mut deltas = [None; MUTATIONS_AHEAD];
        for (index, mutation) in mutations.iter().enumerate() {
            let Some((cf, key, _)) = change_of(mutation) else { continue };
            let Some(directory) = self.family(cf).map(Family::directory) else { continue };
            let place = directory.find(key);
            let delta = directory.leaf(place).delta();
            prefetch_all(delta);
            (places[index], deltas[index]) = (Some(place), Some(delta));
        }
        // All of them are on their way before the first is looked into.
        deltas.into_iter().flatten().for_each(Delta::prefetch);
        places
    }

    /// The leaves that [`fold`](Self::fold) has something to do in, by family and bound.
    pub(crate) fn leaves_to_fold(&self, safe_point: u64) -> Vec<(Cf, Box<[u8]>)> {
        // The write family first: its garbage refers to values in the default family.
        let families = [Cf::Write, Cf::Default, Cf::Lock].map(|cf| (cf, &self.families[cf.index()]));
        let leaves = |(cf, family): (Cf, &Family)| {
            family.leaves_to_fold(safe_point).into_iter().map(move |bound| (cf, bound)).collect::<Vec<_>>()
        };
        families.into_iter().flat_map(leaves).collect()
    }

    /// Folds the leaf of `cf` that `key` belongs to, at the safe point.
    ///
    /// # Errors
    /// When there is no memory for it; this version must not be shown then.
    pub(crate) fn fold(&mut self, cf: Cf, key: &[u8], safe_point: u64) -> Result<(), OverCapacity> {
        self.sequence += 1;
        let mut garbage = Garbage::default();
        let Some(family) = self.families.get_mut(cf.index()) else { return Ok(()) };
        family.fold_at(key, safe_point, &mut garbage)?;
        self.drop_values(garbage, safe_point)
    }

    fn drop_values(&mut self, garbage: Garbage, safe_point: u64) -> Result<(), OverCapacity> {
        let values = &mut self.families[Cf::Default.index()];
        for key in &garbage.values {
            let place = values.directory().find(key);
            values.change(self.sequence, place, (key, None), safe_point, &mut Garbage::default())?;
        }
        self.collected_to = self.collected_to.max(safe_point);
        Ok(())
    }
}

/// What is put under a key, or that it is deleted.
type Change<'a> = (Cf, &'a [u8], Option<&'a [u8]>);

/// What a mutation does that is about a single key.
fn change_of<'a>(mutation: &Mutation<'a>) -> Option<Change<'a>> {
    match *mutation {
        Mutation::Put { cf, key, value } => Some((cf, key, Some(value))),
        Mutation::Delete { cf, key } => Some((cf, key, None)),
        Mutation::DeleteRange { .. } => None,
    }
}

/// A builder for the blocks of each family, in the order of [`Cf::DATA`].
pub(crate) fn block_builders(budget: &Arc<MemoryBudget>) -> [BlockBuilder; Cf::DATA.len()] {
    Cf::DATA.map(|cf| BlockBuilder::new(budget.clone(), is_versioned(cf)))
}
