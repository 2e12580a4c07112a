//! The configuration, and what of it can be changed while the node runs.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tikv_util::{info, logger};

use super::{
    SharedApp, body,
    error::{ApiError, ApiResult, Mistake},
};
use crate::{
    config::{
        LogLevel, LogSection, NodeConfig,
        check::{Section, assemble},
        docs::KEYS,
        is_online,
    },
    engine::DiskEngine,
};

/// The configuration as it is in force.
fn current<D: DiskEngine>(app: &SharedApp<D>) -> NodeConfig {
    let mut config = app.node.config().clone();
    config.preload = app.node.preload_config();
    config.log.level = LogLevel(logger::level());
    config
}

pub(super) async fn list<D: DiskEngine>(State(app): State<SharedApp<D>>) -> Json<Value> {
    let (values, defaults) = (json!(current(&app)), json!(NodeConfig::default()));
    let entry = |known: &crate::config::docs::KeyDoc| {
        json!({
            "key": known.name(),
            "value": values[known.section][known.key],
            "default": defaults[known.section][known.key],
            "online": is_online(known.section, known.key),
            "doc": known.doc,
        })
    };
    Json(json!({ "entries": KEYS.iter().map(entry).collect::<Vec<_>>() }))
}

/// All or nothing.
pub(super) async fn change<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    body::Json(changes): body::Json<Map<String, Value>>,
) -> ApiResult<Json<Value>> {
    if changes.is_empty() {
        return Err(ApiError::bad_request("no key is named, as in {\"preload.warmup-timeout\": \"5s\"}"));
    }
    let mut mistakes = Vec::new();
    let mut sections: BTreeMap<&'static str, BTreeMap<String, Value>> = BTreeMap::new();
    for (name, value) in &changes {
        let known = KEYS.iter().find(|known| known.name() == *name);
        match known {
            Some(known) if is_online(known.section, known.key) => {
                sections.entry(known.section).or_default().insert(known.key.to_owned(), value.clone());
            }
            Some(_) => mistakes.push(Mistake {
                key: name.clone(),
                value: value.clone(),
                message: format!("{name} cannot be changed while the node runs"),
            }),
            None => mistakes.push(Mistake {
                key: name.clone(),
                value: value.clone(),
                message: format!("there is no key {name}"),
            }),
        }
    }
    let now = current(&app);
    let preload = put_over(&now.preload, sections.remove(preload_observer::Config::NAME), &mut mistakes);
    let log = put_over(&now.log, sections.remove(LogSection::NAME), &mut mistakes);
    if !mistakes.is_empty() {
        return Err(ApiError::mistakes(mistakes));
    }
    if let Some(preload) = preload {
        // It was checked just now.
        app.node.set_preload_config(preload).map_err(|error| ApiError::bad_request(error.to_string()))?;
    }
    if let Some(log) = log {
        logger::set_level(log.level.0);
    }
    let names: Vec<&String> = changes.keys().collect();
    info!("configuration is changed"; "keys" => ?names);
    Ok(Json(json!({ "changed": names })))
}

fn put_over<S: Section>(base: &S, values: Option<BTreeMap<String, Value>>, mistakes: &mut Vec<Mistake>) -> Option<S> {
    match assemble(base, &values?) {
        Ok(section) => Some(section),
        Err(found) => {
            let found = found.into_iter();
            mistakes.extend(found.map(|found| Mistake { key: found.key, value: found.value, message: found.message }));
            None
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Level {
    level: LogLevel,
}

pub(super) async fn log_level() -> Json<Value> {
    Json(json!({ "level": LogLevel(logger::level()).name() }))
}

pub(super) async fn set_log_level<D: DiskEngine>(
    State(_): State<SharedApp<D>>,
    body::Json(Level { level }): body::Json<Level>,
) -> ApiResult<Json<Value>> {
    logger::set_level(level.0);
    Ok(Json(json!({ "level": level.name() })))
}
