//! Reads and writes of keys.

use axum::{Json, extract::State, response::Response};
use engine_traits::ReadSource;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    SharedApp,
    body::{self, Hex, Timeout, Ts},
    error::{ApiError, ApiResult},
    room::until_sent,
};
use crate::{
    engine::DiskEngine,
    kv::{ScanRequest, ServedBy, Version},
    node::RequestError,
    view::hex,
};

/// Rows that a scan returns at most.
const SCAN_LIMIT_MAX: usize = 10_000;
/// Rows that a scan returns if it does not say how many.
const SCAN_LIMIT: usize = 100;
/// With its timestamp it has to fit where engines keep keys.
const KEY_BYTES_MAX: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Put {
    key: Hex,
    value: Hex,
    #[serde(default)]
    timeout: Timeout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delete {
    key: Hex,
    #[serde(default)]
    timeout: Timeout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Get {
    key: Hex,
    ts: Option<Ts>,
    #[serde(default)]
    timeout: Timeout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scan {
    #[serde(default)]
    start_key: Hex,
    #[serde(default)]
    end_key: Hex,
    limit: Option<usize>,
    ts: Option<Ts>,
    #[serde(default)]
    reverse: bool,
    #[serde(default)]
    timeout: Timeout,
}

fn check<D: DiskEngine>(app: &SharedApp<D>, key: &Hex) -> ApiResult<()> {
    if app.node.is_stopping() {
        return Err(RequestError::Stopping.into());
    }
    match key.0.len() {
        0 => Err(ApiError::bad_request("key is empty")),
        len if len > KEY_BYTES_MAX => {
            Err(ApiError::bad_request(format!("key has {len} bytes, at most {KEY_BYTES_MAX} are possible")))
        }
        _ => Ok(()),
    }
}

pub(super) async fn put<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    body::Json(Put { key, value, timeout }): body::Json<Put>,
) -> ApiResult<Json<Value>> {
    check(&app, &key)?;
    let committed = app.node.kv().put(&key.0, value.0, timeout.0).await?;
    Ok(Json(json!({ "commit_ts": Ts(committed.commit_ts), "region_id": committed.region_id })))
}

pub(super) async fn delete<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    body::Json(Delete { key, timeout }): body::Json<Delete>,
) -> ApiResult<Json<Value>> {
    check(&app, &key)?;
    let committed = app.node.kv().delete(&key.0, timeout.0).await?;
    Ok(Json(json!({ "commit_ts": Ts(committed.commit_ts), "region_id": committed.region_id })))
}

pub(super) async fn get<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    body::Json(Get { key, ts, timeout }): body::Json<Get>,
) -> ApiResult<Json<Value>> {
    check(&app, &key)?;
    let got = app.node.kv().get(&key.0, ts.map(|ts| ts.0), timeout.0).await?;
    let (source, source_reason) = source(got.served_by.source);
    let version = got.version.as_ref();
    Ok(Json(json!({
        "value": version.map(|version| hex(&version.value)),
        "commit_ts": version.map(|version| Ts(version.commit_ts)),
        "ts": Ts(got.ts),
        "region_id": got.served_by.region_id,
        "store_id": got.served_by.store_id,
        "source": source,
        "source_reason": source_reason,
    })))
}

pub(super) async fn scan<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    body::Json(Scan { start_key, end_key, limit, ts, reverse, timeout }): body::Json<Scan>,
) -> ApiResult<Response> {
    if app.node.is_stopping() {
        return Err(RequestError::Stopping.into());
    }
    let place = app.room.for_answer().await?;
    let limit = limit.unwrap_or(SCAN_LIMIT);
    if !(1..=SCAN_LIMIT_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit = {limit} must be 1 to {SCAN_LIMIT_MAX}")));
    }
    let request = ScanRequest { start: start_key.0, end: end_key.0, limit, ts: ts.map(|ts| ts.0), reverse };
    let scanned = app.node.kv().scan(request, timeout.0).await?;
    let row = |row: &Version| json!({ "key": hex(&row.key), "value": hex(&row.value), "commit_ts": Ts(row.commit_ts) });
    let served = |served: &ServedBy| {
        let (source, source_reason) = source(served.source);
        json!({
            "region_id": served.region_id,
            "store_id": served.store_id,
            "source": source,
            "source_reason": source_reason,
        })
    };
    let answer = json!({
        "ts": Ts(scanned.ts),
        "rows": scanned.rows.iter().map(row).collect::<Vec<_>>(),
        "sources": scanned.served_by.iter().map(served).collect::<Vec<_>>(),
        "more": scanned.more,
    });
    Ok(until_sent(&answer, place))
}

fn source(source: ReadSource) -> (&'static str, Option<&'static str>) {
    match source {
        ReadSource::Memory => ("memory", None),
        ReadSource::Disk(reason) => ("disk", Some(reason.label())),
    }
}
