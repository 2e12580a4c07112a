//! Replicas that have applied the same entries hold the same data.
//!
//! Source: Ongaro and Ousterhout, figure 3, *state machine safety*.

use engine_traits::{Cf, IterBounds, Iterator as _, Snapshot};
use kvproto::metapb::Region;

use super::{Checked, Violation};

const NAME: &str = "replicas-agree";

pub(in crate::sim) type Contents = Vec<(Cf, Vec<u8>, Vec<u8>)>;

/// All data of `region`.
pub(in crate::sim) fn contents(disk: &impl Snapshot, region: &Region) -> Checked<Contents> {
    let fail = |e: engine_traits::Error| Violation::new(NAME, format!("{e:?}"));
    let mut contents = Contents::new();
    for cf in Cf::DATA {
        let bounds = IterBounds::new(keys::enc_start_key(region), keys::enc_end_key(region));
        let mut cursor = disk.iter(cf, bounds).map_err(fail)?;
        let mut is_valid = cursor.seek_to_first().map_err(fail)?;
        while is_valid {
            contents.push((cf, cursor.key().to_vec(), cursor.value().to_vec()));
            is_valid = cursor.next().map_err(fail)?;
        }
    }
    Ok(contents)
}

/// Two replicas of `region` at the same applied index.
pub(in crate::sim) fn check(region: &Region, one: (u64, &Contents), other: (u64, &Contents)) -> Checked {
    if one.1 == other.1 {
        return Ok(());
    }
    let differing = one.1.iter().zip(other.1).find(|(left, right)| left != right);
    let key = differing.map(|(left, _)| left.1.escape_ascii().to_string());
    let what = format!("region {}: stores {} and {} differ, first at {key:?}", region.get_id(), one.0, other.0);
    Err(Violation::new(NAME, what))
}
