//! Key ranges that are kept warm.

use axum::{Json, extract::State};
use preload_observer::PinnedRange;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    SharedApp,
    body::{self, Hex},
    configuration::and_keep,
    error::{ApiError, ApiResult},
};
use crate::{
    engine::DiskEngine,
    view::{KeyText, is_in, range_of},
};

/// A range by its keys, or that of a region as it is now.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    start_key: Option<Hex>,
    end_key: Option<Hex>,
    region: Option<u64>,
}

impl Range {
    fn resolve<D: DiskEngine>(self, app: &SharedApp<D>) -> ApiResult<PinnedRange> {
        match self {
            Self { region: Some(region_id), start_key: None, end_key: None } => {
                let known = app.node.placement().with(|placement| placement.directory().region(region_id).cloned())?;
                let known = known.ok_or_else(|| ApiError::region_not_found(region_id))?;
                Ok(range_of(&known.region))
            }
            Self { region: None, start_key: Some(start), end_key: Some(end) } => {
                Ok(PinnedRange::of_keys(&start.0, &end.0))
            }
            _ => Err(ApiError::bad_request("either region or start_key and end_key are needed")),
        }
    }
}

pub(super) async fn list<D: DiskEngine>(State(app): State<SharedApp<D>>) -> ApiResult<Json<Value>> {
    let redact = app.node.config().security.redact_keys;
    let pins = app.node.pinned();
    let shown = app.node.placement().with(|placement| {
        let regions: Vec<_> = placement.directory().regions().map(|known| &known.region).collect();
        let show = |pin: &preload_observer::Pin| {
            let range = pin.range.keys().ok()?;
            let in_range = regions.iter().filter(|region| is_in(region, &range)).map(|region| region.get_id());
            Some(json!({
                "start_key": KeyText::new(&range.0, redact),
                "end_key": KeyText::new(&range.1, redact),
                "source": if pin.is_configured { "config" } else { "manual" },
                "regions": in_range.collect::<Vec<_>>(),
            }))
        };
        pins.iter().filter_map(show).collect::<Vec<_>>()
    })?;
    Ok(Json(json!({ "pins": shown })))
}

pub(super) async fn pin<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    body::Json(range): body::Json<Range>,
) -> ApiResult<Json<Value>> {
    let range = range.resolve(&app)?;
    let pinned = and_keep(&app, move |node| node.pin(&range)).await?;
    Ok(Json(json!({ "pinned": pinned })))
}

pub(super) async fn unpin<D: DiskEngine>(
    State(app): State<SharedApp<D>>,
    body::Json(range): body::Json<Range>,
) -> ApiResult<Json<Value>> {
    let range = range.resolve(&app)?;
    if and_keep(&app, move |node| node.unpin(&range)).await? {
        Ok(Json(json!({ "unpinned": true })))
    } else {
        Err(ApiError::not_found("this very range is not pinned by hand"))
    }
}
