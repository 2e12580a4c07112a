//! What changes where regions are.
//!
//! **How it works.** The node answers at the end of the operator, or when the timeout is over; the operator then goes on.

use serde_json::json;

use super::{Context, cli::RegionAndStore, error::Result, keys::Bytes, keys::to_hex};
use crate::exit::Exit;

pub(super) fn split(context: &mut Context<'_>, region: u64, key: Option<&Bytes>) -> Result<Exit> {
    let body = key.map_or_else(|| json!({}), |key| json!({ "key": to_hex(&key.0) }));
    let answer = context.client.post_and_wait(&format!("/regions/{region}/split"), body)?;
    let new: Vec<String> = answer["new_regions"].as_array().into_iter().flatten().map(ToString::to_string).collect();
    context.say(&answer, &format!("region {region} is split; new: {}", new.join(", ")))
}

pub(super) fn merge(context: &mut Context<'_>, region: u64, target: u64) -> Result<Exit> {
    let answer = context.client.post_and_wait(&format!("/regions/{region}/merge"), json!({ "target": target }))?;
    context.say(&answer, &format!("region {region} is merged into {target}"))
}

/// `transfer-leader`, `add-peer` and `remove-peer`.
pub(super) fn on_store(context: &mut Context<'_>, what: &str, args: &RegionAndStore) -> Result<Exit> {
    let RegionAndStore { region, store } = args;
    let answer = context.client.post_and_wait(&format!("/regions/{region}/{what}"), json!({ "store": store }))?;
    let done = match what {
        "transfer-leader" => format!("store {store} leads region {region}"),
        "add-peer" => format!("region {region} has a peer on store {store}"),
        _ => format!("region {region} has no peer on store {store} any more"),
    };
    context.say(&answer, &done)
}

pub(super) fn evict_leaders(context: &mut Context<'_>, store: u64, end: bool) -> Result<Exit> {
    let path = format!("/stores/{store}/evict-leaders");
    if end {
        let answer = context.client.delete(&path, json!({}))?;
        return context.say(&answer, &format!("store {store} may lead again"));
    }
    let answer = context.client.post_and_wait(&path, json!({}))?;
    context.say(&answer, &format!("store {store} leads nothing, until evict-leaders {store} --end"))
}
