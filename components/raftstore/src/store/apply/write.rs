//! Commands that write data.

use engine_traits::{Cf, KEY_BYTES_MAX, WriteBatch};
use kvproto::{
    metapb::Region,
    raft_cmdpb::{CmdType, Request, Response},
};

use crate::{Error, Result, store::region::contains_key};

/// Whether all that `request` touches is in `region`, and whether it is a write that this store knows.
pub(crate) fn check_keys(region: &Region, request: &Request) -> Result<()> {
    let outside = |key: &[u8]| Error::KeyNotInRegion {
        key: key.to_vec(),
        region_id: region.get_id(),
        region: Box::new(region.clone()),
    };
    let (cf, key) = match request.get_cmd_type() {
        CmdType::Put => (request.get_put().get_cf(), request.get_put().get_key()),
        CmdType::Delete => (request.get_delete().get_cf(), request.get_delete().get_key()),
        CmdType::DeleteRange => {
            let range = request.get_delete_range();
            let (start, end) = (range.get_start_key(), range.get_end_key());
            let end_is_inside = if end.is_empty() {
                region.get_end_key().is_empty()
            } else {
                region.get_end_key().is_empty() || end <= region.get_end_key()
            };
            if !end_is_inside {
                return Err(outside(end));
            }
            (range.get_cf(), start)
        }
        other => return Err(Error::InvalidRequest(format!("{other:?} is not a write"))),
    };
    data_cf(cf)?;
    let longest = key.len().max(request.get_delete_range().get_end_key().len());
    if longest >= KEY_BYTES_MAX {
        // One byte less than the engine takes: the data prefix is added.
        return Err(Error::InvalidRequest(format!("a key of {longest} bytes; less than {KEY_BYTES_MAX} are allowed")));
    }
    if contains_key(region, key) { Ok(()) } else { Err(outside(key)) }
}

/// Adds what `request` changes to `batch`.
pub(super) fn write(request: &Request, batch: &mut WriteBatch) -> Result<Response> {
    match request.get_cmd_type() {
        CmdType::Put => {
            let put = request.get_put();
            batch.put(data_cf(put.get_cf())?, &keys::data_key(put.get_key()), put.get_value());
        }
        CmdType::Delete => {
            let delete = request.get_delete();
            batch.delete(data_cf(delete.get_cf())?, &keys::data_key(delete.get_key()));
        }
        CmdType::DeleteRange => {
            let range = request.get_delete_range();
            let start = keys::data_key(range.get_start_key());
            batch.delete_range(data_cf(range.get_cf())?, &start, &keys::data_end_key(range.get_end_key()));
        }
        other => return Err(Error::InvalidRequest(format!("{other:?} is not a write"))),
    }
    let mut response = Response::default();
    response.set_cmd_type(request.get_cmd_type());
    Ok(response)
}

fn data_cf(name: &str) -> Result<Cf> {
    Cf::from_name(name)
        .filter(|cf| Cf::DATA.contains(cf))
        .ok_or_else(|| Error::InvalidRequest(format!("no column family {name:?} for data")))
}
