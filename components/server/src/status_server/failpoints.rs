//! Failpoints, in a build that has them. fail_points/README.md lists them.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    SharedApp, body,
    error::{ApiError, ApiResult},
};
use crate::engine::DiskEngine;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Actions {
    actions: String,
}

fn check_compiled_in() -> ApiResult<()> {
    if fail::has_failpoints() {
        Ok(())
    } else {
        Err(ApiError::not_found("this build has no failpoints; they need the cargo feature `failpoints`"))
    }
}

pub(super) async fn list() -> ApiResult<Json<Value>> {
    check_compiled_in()?;
    let set = fail::list().into_iter().map(|(name, actions)| json!({ "name": name, "actions": actions }));
    Ok(Json(json!({ "failpoints": set.collect::<Vec<_>>() })))
}

pub(super) async fn set<D: DiskEngine>(
    State(_): State<SharedApp<D>>,
    Path(name): Path<String>,
    body::Json(Actions { actions }): body::Json<Actions>,
) -> ApiResult<Json<Value>> {
    check_compiled_in()?;
    fail::cfg(&name, &actions).map_err(|error| ApiError::bad_request(format!("actions = {actions:?}: {error}")))?;
    Ok(Json(json!({ "name": name, "actions": actions })))
}

pub(super) async fn clear(Path(name): Path<String>) -> ApiResult<Json<Value>> {
    check_compiled_in()?;
    fail::remove(&name);
    Ok(Json(json!({ "name": name })))
}
