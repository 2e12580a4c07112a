//! What changes regions: operators of the placement, and what is asked of the plugin and the cache.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use engine_traits::{Cf, IterBounds, Iterator as _};
use placement::{Operator, OperatorHandle, commands};
use raftstore::store::StoreHandle;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{task, time};
use txn_types::Key;

use super::{
    SharedApp,
    body::{self, Hex, Timeout},
    error::{ApiError, ApiResult},
    status::parse_id,
};
use crate::{engine::DiskEngine, node::RequestError, store::Kv};

/// Between two looks at whether an operator is done. Its steps take as long.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ToStore {
    store: u64,
    #[serde(default)]
    timeout: Timeout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnlyTimeout {
    #[serde(default)]
    timeout: Timeout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Split {
    key: Option<Hex>,
    #[serde(default)]
    timeout: Timeout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Merge {
    target: u64,
    #[serde(default)]
    timeout: Timeout,
}

/// Waits for an operator's end.
async fn finish<D: DiskEngine>(app: &SharedApp<D>, handle: OperatorHandle, timeout: Timeout) -> ApiResult<u64> {
    let operator = handle.id();
    let deadline = time::Instant::now() + timeout.0;
    loop {
        match handle.wait(Duration::ZERO) {
            Ok(()) => return Ok(operator.0),
            Err(placement::Error::StillRunning { .. }) if time::Instant::now() < deadline => {
                time::sleep(LOOK_AGAIN_AFTER).await;
            }
            Err(placement::Error::StillRunning { .. }) => {
                let standing =
                    app.node.placement().with(|placement| placement.operator(operator).map(Operator::standing));
                let standing = standing.ok().flatten().map_or(String::new(), |standing| format!(", {standing}"));
                let error = placement::Error::StillRunning { operator, waited: timeout.0 };
                return Err(ApiError::timed_out(format!("{error}{standing}"), Some(operator.0)));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn check_running<D: DiskEngine>(app: &SharedApp<D>) -> ApiResult<()> {
    if app.node.is_stopping() { Err(RequestError::Stopping.into()) } else { Ok(()) }
}

pub(super) async fn split<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
    body::Json(Split { key, timeout }): body::Json<Split>,
) -> ApiResult<Json<Value>> {
    check_running(&app)?;
    let region_id = parse_id("region", &id)?;
    let key = match key {
        Some(Hex(key)) if key.is_empty() => return Err(ApiError::bad_request("key is empty")),
        Some(Hex(key)) => Key::from_raw(&key).into_encoded(),
        None => middle_of(&app, region_id, timeout).await?,
    };
    let handle = app.node.placement().split(region_id, &[&key])?;
    let new_regions: Vec<u64> = handle.new_regions().iter().map(|new| new.region_id).collect();
    let operator = finish(&app, handle, timeout).await?;
    Ok(Json(json!({ "operator": operator, "new_regions": new_regions })))
}

pub(super) async fn merge<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
    body::Json(Merge { target, timeout }): body::Json<Merge>,
) -> ApiResult<Json<Value>> {
    check_running(&app)?;
    let handle = app.node.placement().merge(parse_id("region", &id)?, target)?;
    Ok(Json(json!({ "operator": finish(&app, handle, timeout).await? })))
}

pub(super) async fn transfer_leader<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
    body::Json(ToStore { store, timeout }): body::Json<ToStore>,
) -> ApiResult<Json<Value>> {
    check_running(&app)?;
    let region_id = parse_id("region", &id)?;
    app.node.member(store)?;
    let handle = app.node.placement().transfer_leader(region_id, store)?;
    Ok(Json(json!({ "operator": finish(&app, handle, timeout).await? })))
}

pub(super) async fn add_peer<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
    body::Json(ToStore { store, timeout }): body::Json<ToStore>,
) -> ApiResult<Json<Value>> {
    check_running(&app)?;
    let region_id = parse_id("region", &id)?;
    app.node.member(store)?;
    let handle = app.node.placement().add_peer(region_id, store)?;
    Ok(Json(json!({ "operator": finish(&app, handle, timeout).await? })))
}

pub(super) async fn remove_peer<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
    body::Json(ToStore { store, timeout }): body::Json<ToStore>,
) -> ApiResult<Json<Value>> {
    check_running(&app)?;
    let region_id = parse_id("region", &id)?;
    app.node.member(store)?;
    let handle = app.node.placement().remove_peer(region_id, store)?;
    Ok(Json(json!({ "operator": finish(&app, handle, timeout).await? })))
}

pub(super) async fn evict_leaders<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
    body::Json(OnlyTimeout { timeout }): body::Json<OnlyTimeout>,
) -> ApiResult<Json<Value>> {
    check_running(&app)?;
    let store_id = parse_id("store", &id)?;
    app.node.member(store_id)?;
    let handle = app.node.placement().evict_leaders(store_id)?;
    Ok(Json(json!({ "operator": finish(&app, handle, timeout).await? })))
}

pub(super) async fn stop_evicting<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let store_id = parse_id("store", &id)?;
    app.node.member(store_id)?;
    app.node.placement().stop_evicting(store_id)?;
    Ok(Json(json!({ "store": store_id })))
}

pub(super) async fn preload<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
    body::Json(ToStore { store, .. }): body::Json<ToStore>,
) -> ApiResult<Json<Value>> {
    check_running(&app)?;
    let seq = app.node.preload(parse_id("region", &id)?, store)?;
    Ok(Json(json!({ "seq": seq })))
}

pub(super) async fn evict<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
    body::Json(ToStore { store, .. }): body::Json<ToStore>,
) -> ApiResult<Json<Value>> {
    let evicted = app.node.evict(parse_id("region", &id)?, store)?;
    Ok(Json(json!({ "evicted": evicted })))
}

/// The user key in the middle of a region's data, encoded.
async fn middle_of<D: DiskEngine>(app: &SharedApp<D>, region_id: u64, timeout: Timeout) -> ApiResult<Vec<u8>> {
    let node = app.node.clone();
    let find = move || -> ApiResult<Option<Vec<u8>>> {
        let known = node.placement().with(|placement| placement.directory().region(region_id).cloned())?;
        let known = known.ok_or_else(|| ApiError::region_not_found(region_id))?;
        let store: &StoreHandle<Kv<D>> = &node.member(known.leader.get_store_id())?.handle;
        let unavailable =
            |error: raftstore::Error| ApiError::unavailable(format!("the region cannot be read: {error}"));
        let found = store.snapshot(commands::header(&known.region), u64::MAX, timeout.0).map_err(unavailable)?;
        let middle = middle_key(&found.snapshot, &found.region);
        middle.map_err(|error| ApiError::unavailable(format!("the region cannot be read: {error}")))
    };
    let middle = task::spawn_blocking(find).await.map_err(|_| RequestError::Stopping)??;
    middle.ok_or_else(|| ApiError::refused(format!("region {region_id} has fewer than two keys: name the key")))
}

/// The first user key, encoded, behind half of the bytes of a region, if there is one before.
fn middle_key(
    snapshot: &impl engine_traits::Snapshot,
    region: &kvproto::metapb::Region,
) -> engine_traits::Result<Option<Vec<u8>>> {
    let bounds = IterBounds::new(keys::enc_start_key(region), keys::enc_end_key(region));
    let mut total = 0;
    for cf in [Cf::Default, Cf::Write] {
        let mut cursor = snapshot.iter(cf, bounds.clone())?;
        let mut valid = cursor.seek_to_first()?;
        while valid {
            total += cursor.key().len() + cursor.value().len();
            valid = cursor.next()?;
        }
    }
    // In the order of their user keys, from both families.
    let mut values = snapshot.iter(Cf::Default, bounds.clone())?;
    let mut writes = snapshot.iter(Cf::Write, bounds)?;
    values.seek_to_first()?;
    let mut valid = writes.seek_to_first()?;
    let (mut passed, mut first): (usize, Option<Vec<u8>>) = (0, None);
    while valid {
        // What is no version of a user key is no place to split at.
        if let Ok((user_key, _)) = Key::split_on_ts_for(writes.key()) {
            while values.valid() && values.key() < user_key {
                passed += values.key().len() + values.value().len();
                values.next()?;
            }
            let is_new = first.as_deref().is_some_and(|first| first != user_key);
            if is_new && passed * 2 >= total {
                return Ok(user_key.strip_prefix(keys::DATA_PREFIX_KEY).map(<[u8]>::to_vec));
            }
            if first.is_none() {
                first = Some(user_key.to_vec());
            }
        }
        passed += writes.key().len() + writes.value().len();
        valid = writes.next()?;
    }
    Ok(None)
}
