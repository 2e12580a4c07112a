//! What can be looked at.

use std::{collections::HashMap, time::Duration};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use prometheus::{Encoder as _, TextEncoder};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    SharedApp,
    error::{ApiError, ApiResult},
};
use crate::{config::LogLevel, engine::DiskEngine, events::format_time};

/// How many of the last events about a region come with it.
const REGION_EVENTS: usize = 32;

/// A client that polls waits no longer.
const WAIT_MS_MAX: u64 = 30_000;

/// Scripts, styles and requests from here only, and no page of another origin may show this one.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The parameters of a request, each of them known.
pub(super) struct Parameters(HashMap<String, String>);

impl Parameters {
    fn new(query: Result<Query<HashMap<String, String>>, QueryRejection>, known: &[&str]) -> ApiResult<Self> {
        let Query(parameters) = query.map_err(|error| ApiError::bad_request(error.to_string()))?;
        match parameters.keys().find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => Err(ApiError::bad_request(format!("there is no parameter {unknown}"))),
            None => Ok(Self(parameters)),
        }
    }

    fn number(&self, name: &str) -> ApiResult<Option<u64>> {
        let parse = |text: &String| {
            text.parse().map_err(|_| ApiError::bad_request(format!("{name} = {text:?} is not a number")))
        };
        self.0.get(name).map(parse).transpose()
    }
}

/// An id in a path.
pub(super) fn parse_id(what: &str, text: &str) -> ApiResult<u64> {
    let id = text.parse().ok().filter(|id| *id > 0);
    id.ok_or_else(|| ApiError::bad_request(format!("{what} = {text:?} is not an id")))
}

type MaybeQuery = Result<Query<HashMap<String, String>>, QueryRejection>;

pub(super) async fn healthz<D: DiskEngine>(State(app): State<SharedApp<D>>) -> Response {
    if app.node.is_stopping() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is stopping\n").into_response();
    }
    let view = match app.views.get(&app).await {
        Ok(view) => view,
        Err(error) => return error.into_response(),
    };
    let down: Vec<String> =
        view.stores.iter().filter(|store| store.state == "down").map(|store| store.store_id.to_string()).collect();
    if down.is_empty() {
        return "ok\n".into_response();
    }
    let reason = format!("stores that do not answer: {}\n", down.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

pub(super) async fn metrics() -> ApiResult<Response> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    encoder
        .encode(&prometheus::gather(), &mut text)
        .map_err(|error| ApiError::unavailable(format!("metrics cannot be encoded: {error}")))?;
    Ok(([(header::CONTENT_TYPE, encoder.format_type())], text).into_response())
}

pub(super) async fn status<D: DiskEngine>(State(app): State<SharedApp<D>>) -> ApiResult<Json<Value>> {
    let view = app.views.get(&app).await?;
    let node = &app.node;
    let mut features = Vec::new();
    if fail::has_failpoints() {
        features.push("failpoints");
    }
    let uptime = OffsetDateTime::now_utc() - node.started_at();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engine": D::NAME,
        "features": features,
        "pid": std::process::id(),
        "started_at": format_time(&node.started_at()),
        "uptime_seconds": uptime.whole_seconds().max(0),
        "cluster_id": node.cluster_id(),
        "status_addr": app.address,
        "log_level": LogLevel(tikv_util::logger::level()).name(),
        "regions": view.regions.len(),
        "stores": view.stores,
    })))
}

pub(super) async fn regions<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    query: MaybeQuery,
) -> ApiResult<Json<Value>> {
    let store = Parameters::new(query, &["store"])?.number("store")?;
    if let Some(store_id) = store {
        app.node.member(store_id)?;
    }
    let view = app.views.get(&app).await?;
    let wanted = view
        .regions
        .iter()
        .filter(|region| store.is_none_or(|store_id| region.peers.iter().any(|peer| peer.store_id == store_id)));
    Ok(Json(json!({ "regions": wanted.collect::<Vec<_>>() })))
}

pub(super) async fn region<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    let id = parse_id("region", &id)?;
    let view = app.views.get(&app).await?;
    let region = view.regions.iter().find(|region| region.id == id).ok_or_else(|| ApiError::region_not_found(id))?;
    let mut value = json!(region);
    value["answers"] = json!(app.node.events().of_region(id, REGION_EVENTS));
    Ok(Json(value))
}

pub(super) async fn preloads<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    query: MaybeQuery,
) -> ApiResult<Json<Value>> {
    let parameters = Parameters::new(query, &["since", "wait_ms"])?;
    let since = parameters.number("since")?.unwrap_or(0);
    let wait_ms = parameters.number("wait_ms")?.unwrap_or(0);
    if wait_ms > WAIT_MS_MAX {
        return Err(ApiError::bad_request(format!("wait_ms = {wait_ms} must be at most {WAIT_MS_MAX}")));
    }
    let page = match wait_ms {
        0 => app.node.events().since(since),
        _ => tokio::select! {
            page = app.node.events().wait_since(since, Duration::from_millis(wait_ms)) => page,
            // Whoever only waits is not waited for.
            () = app.node.stops() => app.node.events().since(since),
        },
    };
    Ok(Json(json!(page)))
}

pub(super) async fn history<D: DiskEngine>(State(app): State<SharedApp<D>>) -> Json<Value> {
    Json(json!({ "interval_seconds": 1, "points": app.node.history().points() }))
}

/// The page and its files.
pub(super) async fn page<D: DiskEngine>(State(app): State<SharedApp<D>>, uri: Uri) -> ApiResult<Response> {
    let asset = app.assets.iter().find(|asset| asset.path == uri.path());
    let asset = asset.ok_or_else(|| ApiError::not_found("this program has no page"))?;
    let headers = [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // It is a part of the program: another version may be there after a restart.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, asset.content).into_response())
}
