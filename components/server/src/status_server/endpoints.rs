//! All endpoints.

use axum::{
    Router, middleware,
    routing::{MethodRouter, delete, get, post, put},
};

use super::{App, SharedApp, access, configuration, error::ApiError, failpoints, keys, operators, pins, status};
use crate::engine::DiskEngine;

/// Methods and paths, as docs/http-api.md lists them. The page's own files come besides.
pub const ENDPOINTS: [(&str, &str); 31] = [
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/status"),
    ("GET", "/regions"),
    ("GET", "/regions/{id}"),
    ("GET", "/preloads"),
    ("GET", "/history"),
    ("GET", "/config"),
    ("POST", "/config"),
    ("GET", "/log-level"),
    ("PUT", "/log-level"),
    ("GET", "/fail"),
    ("PUT", "/fail/{name}"),
    ("DELETE", "/fail/{name}"),
    ("GET", "/pins"),
    ("POST", "/pins"),
    ("DELETE", "/pins"),
    ("POST", "/regions/{id}/split"),
    ("POST", "/regions/{id}/merge"),
    ("POST", "/regions/{id}/transfer-leader"),
    ("POST", "/regions/{id}/add-peer"),
    ("POST", "/regions/{id}/remove-peer"),
    ("POST", "/regions/{id}/preload"),
    ("POST", "/regions/{id}/evict"),
    ("POST", "/stores/{id}/evict-leaders"),
    ("DELETE", "/stores/{id}/evict-leaders"),
    ("POST", "/kv/put"),
    ("POST", "/kv/delete"),
    ("POST", "/kv/get"),
    ("POST", "/kv/scan"),
    ("GET", "/"),
];

fn handler<D: DiskEngine>(method: &str, path: &str) -> MethodRouter<SharedApp<D>> {
    match (method, path) {
        ("GET", "/healthz") => get(status::healthz::<D>),
        ("GET", "/metrics") => get(status::metrics),
        ("GET", "/status") => get(status::status::<D>),
        ("GET", "/regions") => get(status::regions::<D>),
        ("GET", "/regions/{id}") => get(status::region::<D>),
        ("GET", "/preloads") => get(status::preloads::<D>),
        ("GET", "/history") => get(status::history::<D>),
        ("GET", "/config") => get(configuration::list::<D>),
        ("POST", "/config") => post(configuration::change::<D>),
        ("GET", "/log-level") => get(configuration::log_level),
        ("PUT", "/log-level") => put(configuration::set_log_level::<D>),
        ("GET", "/fail") => get(failpoints::list),
        ("PUT", "/fail/{name}") => put(failpoints::set::<D>),
        ("DELETE", "/fail/{name}") => delete(failpoints::clear),
        ("GET", "/pins") => get(pins::list::<D>),
        ("POST", "/pins") => post(pins::pin::<D>),
        ("DELETE", "/pins") => delete(pins::unpin::<D>),
        ("POST", "/regions/{id}/split") => post(operators::split::<D>),
        ("POST", "/regions/{id}/merge") => post(operators::merge::<D>),
        ("POST", "/regions/{id}/transfer-leader") => post(operators::transfer_leader::<D>),
        ("POST", "/regions/{id}/add-peer") => post(operators::add_peer::<D>),
        ("POST", "/regions/{id}/remove-peer") => post(operators::remove_peer::<D>),
        ("POST", "/regions/{id}/preload") => post(operators::preload::<D>),
        ("POST", "/regions/{id}/evict") => post(operators::evict::<D>),
        ("POST", "/stores/{id}/evict-leaders") => post(operators::evict_leaders::<D>),
        ("DELETE", "/stores/{id}/evict-leaders") => delete(operators::stop_evicting::<D>),
        ("POST", "/kv/put") => post(keys::put::<D>),
        ("POST", "/kv/delete") => post(keys::delete::<D>),
        ("POST", "/kv/get") => post(keys::get::<D>),
        ("POST", "/kv/scan") => post(keys::scan::<D>),
        ("GET", "/") => get(status::page::<D>),
        _ => unreachable!("{method} {path} is listed without a handler"),
    }
}

pub(super) fn router<D: DiskEngine>(app: SharedApp<D>) -> Router {
    let mut router = Router::new();
    for (method, path) in ENDPOINTS {
        router = router.route(path, handler::<D>(method, path));
    }
    for asset in app.assets.iter().filter(|asset| asset.path != "/") {
        router = router.route(asset.path, get(status::page::<D>));
    }
    router
        .fallback(async || ApiError::not_found("there is no such path; docs/http-api.md has them"))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(middleware::from_fn_with_state(app.clone(), access::guard::<D>))
        .with_state::<()>(app as std::sync::Arc<App<D>>)
}
