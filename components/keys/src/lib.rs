//! Encoding of data keys and of the store's local keys.
//!
//! A user key is stored under the prefix `z`, so that everything a store keeps for itself (prefix `0x01`) sorts before
//! all data. Local keys of a region: `0x01 0x02 region_id suffix` for its Raft state, `0x01 0x03 region_id suffix` for
//! its metadata; ids are big-endian, so that a store's regions sort by id.
//!
//! [`enc_start_key`] and [`enc_end_key`] *assert* that the region has peers, as TiKV's do: the key range of an
//! uninitialized region is meaningless. That assertion is the one of tikv/tikv#18046, and the plugin exists so that no
//! uninitialized region gets here.

use kvproto::metapb::Region;

/// Prefix of every key that holds data.
pub const DATA_PREFIX: u8 = b'z';
pub const DATA_PREFIX_KEY: &[u8] = &[DATA_PREFIX];
/// The smallest data key: the start of the key space.
pub const DATA_MIN_KEY: &[u8] = &[DATA_PREFIX];
/// Greater than every data key: the end of the key space.
pub const DATA_MAX_KEY: &[u8] = &[DATA_PREFIX + 1];

const LOCAL_PREFIX: u8 = 0x01;
const REGION_RAFT_PREFIX: u8 = 0x02;
const REGION_META_PREFIX: u8 = 0x03;
const APPLY_STATE_SUFFIX: u8 = 0x03;
const REGION_STATE_SUFFIX: u8 = 0x01;

/// Where a store keeps who it is.
pub const STORE_IDENT_KEY: &[u8] = &[LOCAL_PREFIX, 0x01];
/// The range that holds the metadata of all regions.
pub const REGION_META_MIN_KEY: &[u8] = &[LOCAL_PREFIX, REGION_META_PREFIX];
pub const REGION_META_MAX_KEY: &[u8] = &[LOCAL_PREFIX, REGION_META_PREFIX + 1];

/// The key under which `key` is stored.
pub fn data_key(key: &[u8]) -> Vec<u8> {
    let mut data_key = Vec::with_capacity(key.len() + 1);
    data_key.push(DATA_PREFIX);
    data_key.extend_from_slice(key);
    data_key
}

/// Like [`data_key`], for the end of a range: an empty key means +∞.
pub fn data_end_key(key: &[u8]) -> Vec<u8> {
    if key.is_empty() { DATA_MAX_KEY.to_vec() } else { data_key(key) }
}

/// The user key that is stored under `key`; `None` when `key` is not a data key.
pub fn origin_key(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(DATA_PREFIX_KEY)
}

/// The first data key of `region`.
///
/// # Panics
/// When the region has no peers, that is, when it is not initialized.
pub fn enc_start_key(region: &Region) -> Vec<u8> {
    assert!(!region.get_peers().is_empty());
    data_key(region.get_start_key())
}

/// The data key behind the last one of `region`.
///
/// # Panics
/// When the region has no peers, that is, when it is not initialized.
pub fn enc_end_key(region: &Region) -> Vec<u8> {
    assert!(!region.get_peers().is_empty());
    data_end_key(region.get_end_key())
}

/// Where a region's `RegionLocalState` is kept.
pub fn region_state_key(region_id: u64) -> Vec<u8> {
    local_key(REGION_META_PREFIX, region_id, REGION_STATE_SUFFIX)
}

/// Where a region's `RaftApplyState` is kept.
pub fn apply_state_key(region_id: u64) -> Vec<u8> {
    local_key(REGION_RAFT_PREFIX, region_id, APPLY_STATE_SUFFIX)
}

/// The region id in a [`region_state_key`]; `None` for any other key.
pub fn decode_region_state_key(key: &[u8]) -> Option<u64> {
    let rest = key.strip_prefix(REGION_META_MIN_KEY)?.strip_suffix(&[REGION_STATE_SUFFIX])?;
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

fn local_key(prefix: u8, region_id: u64, suffix: u8) -> Vec<u8> {
    let mut key = vec![LOCAL_PREFIX, prefix];
    key.extend_from_slice(&region_id.to_be_bytes());
    key.push(suffix);
    key
}

#[cfg(test)]
mod tests {
    use kvproto::metapb::Peer;

    use super::*;

    #[test]
    fn data_keys_sort_behind_all_local_keys() {
        assert!(region_state_key(u64::MAX).as_slice() < DATA_MIN_KEY);
        assert!(apply_state_key(u64::MAX).as_slice() < DATA_MIN_KEY);
        assert!(data_key(&[0xff; 8]).as_slice() < DATA_MAX_KEY);
    }

    #[test]
    fn region_range_covers_the_whole_key_space_when_unbounded() {
        let mut region = Region::default();
        region.mut_peers().push(Peer::default());
        assert_eq!(enc_start_key(&region), DATA_MIN_KEY);
        assert_eq!(enc_end_key(&region), DATA_MAX_KEY);
        region.set_end_key(b"k".to_vec());
        assert_eq!(enc_end_key(&region), b"zk");
    }

    #[test]
    #[should_panic(expected = "assertion failed: !region.get_peers().is_empty()")]
    fn an_uninitialized_region_has_no_range() {
        enc_start_key(&Region::default());
    }

    #[test]
    fn region_state_key_decodes_to_its_region() {
        assert_eq!(decode_region_state_key(&region_state_key(42)), Some(42));
        assert_eq!(decode_region_state_key(&apply_state_key(42)), None);
        assert_eq!(decode_region_state_key(&region_state_key(42)[..5]), None);
        assert_eq!(decode_region_state_key(b""), None);
    }
}
