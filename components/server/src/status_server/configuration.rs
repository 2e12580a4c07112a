//! The configuration, and what of it can be changed while the node runs.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use tikv_util::{info, logger};
use tokio::task;

use super::{
    SharedApp, body,
    error::{ApiError, ApiResult},
};
use crate::{
    config::{LogLevel, NodeConfig, change::values, docs::KEYS, is_online},
    engine::DiskEngine,
    node::{ChangeError, Node},
};

pub(super) async fn list<D: DiskEngine>(State(app): State<SharedApp<D>>) -> Json<Value> {
    let (values, defaults) = (values(&app.node.current_config()), values(&NodeConfig::default()));
    let entry = |known: &crate::config::docs::KeyDoc| {
        json!({
            "key": known.name(),
            "value": values[&known.name()],
            "default": defaults[&known.name()],
            "source": app.node.source_of(&known.name()),
            "online": is_online(known.section, known.key),
            "doc": known.doc,
        })
    };
    Json(json!({ "entries": KEYS.iter().map(entry).collect::<Vec<_>>() }))
}

/// All or nothing, and kept for the next start.
pub(super) async fn change<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    body::Json(changes): body::Json<BTreeMap<String, Value>>,
) -> ApiResult<Json<Value>> {
    if changes.is_empty() {
        return Err(ApiError::bad_request("no key is named, as in {\"preload.warmup-timeout\": \"5s\"}"));
    }
    let names: Vec<String> = changes.keys().cloned().collect();
    let until_restart = and_keep(&app, move |node| node.change_config(&changes)).await?;
    info!("configuration is changed"; "keys" => ?names);
    Ok(Json(json!({ "changed": names, "until_restart": until_restart })))
}

/// Makes a change that is written to the disk.
pub(super) async fn and_keep<D: DiskEngine, T: Send + 'static>(
    app: &SharedApp<D>,
    change: impl FnOnce(&Node<D>) -> Result<T, ChangeError> + Send + 'static,
) -> ApiResult<T> {
    let node = app.node.clone();
    let changed = task::spawn_blocking(move || change(&node)).await;
    Ok(changed.map_err(|_| ApiError::unavailable("the node is stopping"))??)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Level {
    level: LogLevel,
}

pub(super) async fn log_level() -> Json<Value> {
    Json(json!({ "level": LogLevel(logger::level()).name() }))
}

/// Until the node stops: who looks for something wants more lines now, and not after the next start.
pub(super) async fn set_log_level<D: DiskEngine>(
    State(_): State<SharedApp<D>>,
    body::Json(Level { level }): body::Json<Level>,
) -> ApiResult<Json<Value>> {
    logger::set_level(level.0);
    Ok(Json(json!({ "level": level.name() })))
}
