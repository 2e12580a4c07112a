//! A region that is known to be initialized.
//!
//! **Owns** the conditions under which a region's metadata means something, and the proof, as a type, that they hold.
//!
//! **How it works.** The metadata is checked once, where it enters the plugin. From there on the plugin passes an
//! [`InitializedRegion`] around, which is cheap to clone.
//!
//! **Invariants.** The region has an id, at least one peer, an epoch whose parts are both positive, and a range that is
//! not empty. [`InitializedRegion`] cannot be built in any other way, so what takes one needs no check (I1).
//!
//! **Must not** offer a way around the check, not even to tests.

use std::sync::Arc;

use kvproto::metapb::Region;

use crate::message::{Address, Epoch};

/// A region whose metadata is complete; the only thing that is ever handed to the cache engine.
#[derive(Clone, Debug)]
pub struct InitializedRegion(Arc<Region>);

/// Why metadata is not that of an initialized region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(test, derive(Hash))]
#[error("region {region_id} is not initialized: {reason}")]
pub struct NotInitialized {
    pub region_id: u64,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// What an uninitialized peer has: nothing but the region's id.
    #[error("it has no peers")]
    NoPeers,
    #[error("its id is zero")]
    ZeroId,
    #[error("its conf_ver is zero")]
    ZeroConfVer,
    #[error("its version is zero")]
    ZeroVersion,
    #[error("its key range is empty")]
    EmptyRange,
    #[error("it has no peer on this store")]
    NotOnStore,
}

#[cfg(test)]
impl std::hash::Hash for InitializedRegion {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.id(), self.epoch(), self.0.get_start_key(), self.0.get_end_key()).hash(state);
    }
}

impl InitializedRegion {
    /// The region together with its peer on `store_id`.
    ///
    /// # Errors
    /// What [`TryFrom`] refuses, and a region that has no peer on this store.
    pub fn on_store(region: &Region, store_id: u64) -> Result<LocalRegion, NotInitialized> {
        let checked = Self::try_from(region)?;
        let peer = region.get_peers().iter().find(|peer| peer.get_store_id() == store_id && peer.get_id() != 0);
        match peer {
            Some(peer) => Ok(LocalRegion { peer: Address::of(peer), region: checked }),
            None => Err(NotInitialized { region_id: region.get_id(), reason: Reason::NotOnStore }),
        }
    }

    pub fn id(&self) -> u64 {
        self.0.get_id()
    }

    pub fn epoch(&self) -> Epoch {
        Epoch::of(self.0.get_region_epoch())
    }

    pub fn as_region(&self) -> &Region {
        &self.0
    }

    /// Whether a cache that holds one holds the other: same range at the same version. The peers do not matter.
    pub fn has_data_of(&self, other: &Self) -> bool {
        self.id() == other.id()
            && self.epoch().version == other.epoch().version
            && self.0.get_start_key() == other.0.get_start_key()
            && self.0.get_end_key() == other.0.get_end_key()
    }
}

impl TryFrom<&Region> for InitializedRegion {
    type Error = NotInitialized;

    fn try_from(region: &Region) -> Result<Self, NotInitialized> {
        let epoch = region.get_region_epoch();
        let reason = if region.get_peers().is_empty() {
            Reason::NoPeers
        } else if region.get_id() == 0 {
            Reason::ZeroId
        } else if epoch.get_conf_ver() == 0 {
            Reason::ZeroConfVer
        } else if epoch.get_version() == 0 {
            Reason::ZeroVersion
        } else if is_empty_range(region.get_start_key(), region.get_end_key()) {
            Reason::EmptyRange
        } else {
            return Ok(Self(Arc::new(region.clone())));
        };
        Err(NotInitialized { region_id: region.get_id(), reason })
    }
}

/// An initialized region and its peer on this store.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Hash))]
pub struct LocalRegion {
    pub region: InitializedRegion,
    pub peer: Address,
}

/// Whether no key is in `start..end`, where an empty `end` means +∞.
pub(crate) fn is_empty_range(start: &[u8], end: &[u8]) -> bool {
    !end.is_empty() && start >= end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{STORE, region};

    #[test]
    fn complete_metadata_is_accepted() {
        let local = InitializedRegion::on_store(&region(7), STORE).unwrap();
        assert_eq!((local.region.id(), local.peer), (7, Address { peer_id: 71, store_id: STORE }));
        // An empty end key is +∞, also behind the greatest start key.
        let mut unbounded = region(7);
        unbounded.set_start_key(vec![0xff; 9]);
        unbounded.set_end_key(Vec::new());
        assert!(InitializedRegion::try_from(&unbounded).is_ok());
    }

    #[test]
    fn each_missing_part_is_told() {
        type Break = fn(&mut Region);
        let broken: [(Reason, Break); 7] = [
            (Reason::NoPeers, |region| region.mut_peers().clear()),
            (Reason::ZeroId, |region| region.set_id(0)),
            (Reason::ZeroConfVer, |region| region.mut_region_epoch().set_conf_ver(0)),
            (Reason::ZeroVersion, |region| region.mut_region_epoch().set_version(0)),
            (Reason::EmptyRange, |region| region.set_end_key(region.get_start_key().to_vec())),
            (Reason::EmptyRange, |region| region.set_end_key(b"0".to_vec())),
            (Reason::NotOnStore, |region| region.mut_peers().iter_mut().for_each(|peer| peer.set_store_id(99))),
        ];
        for (reason, break_it) in broken {
            let mut region = region(7);
            region.set_start_key(b"a".to_vec());
            region.set_end_key(b"b".to_vec());
            break_it(&mut region);
            let error = InitializedRegion::on_store(&region, STORE).unwrap_err();
            assert_eq!(error, NotInitialized { region_id: region.get_id(), reason });
        }
    }

    #[test]
    fn membership_does_not_change_the_data() {
        let old = InitializedRegion::try_from(&region(7)).unwrap();
        let mut changed = region(7);
        changed.mut_region_epoch().set_conf_ver(9);
        assert!(old.has_data_of(&InitializedRegion::try_from(&changed).unwrap()));
        changed.mut_region_epoch().set_version(9);
        assert!(!old.has_data_of(&InitializedRegion::try_from(&changed).unwrap()));
    }
}
