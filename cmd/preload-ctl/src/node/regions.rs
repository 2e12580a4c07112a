//! What there is: the node, its stores, their caches, its regions.

use std::fmt::Write as _;

use super::{
    Context,
    api::{Event, Peer, Region, Regions, Status, Store},
    error::Result,
    keys::shown,
    table,
    watch::event_line,
};
use crate::{exit::Exit, text::amount};

pub(super) const REGION_HEADINGS: [&str; 7] = [">REGION", "START", "END", "EPOCH", ">LEADER", "PINNED", "PEERS"];

pub(super) fn status(context: &mut Context<'_>) -> Result<Exit> {
    let answer = context.client.get("/status")?;
    let status: Status = context.client.parse(&answer)?;
    context.show(&answer, |client, out| {
        let features =
            if status.features.is_empty() { String::new() } else { format!(", {}", status.features.join(", ")) };
        writeln!(out, "preload-node {}, engine {}{features}", status.version, status.engine)?;
        writeln!(out, "at {}, process {}, since {}", client.address(), status.pid, status.started_at)?;
        writeln!(out, "cluster {}, {} stores, {} regions", status.cluster_id, status.stores.len(), status.regions)?;
        writeln!(out, "logs at {}", status.log_level)?;
        Ok(())
    })
}

pub(super) fn stores(context: &mut Context<'_>) -> Result<Exit> {
    let answer = context.client.get("/status")?;
    let status: Status = context.client.parse(&answer)?;
    context.show(&answer["stores"], |_, out| {
        let headings =
            [">STORE", "STATE", ">REGIONS", ">LEADERS", ">UNINITIALIZED", ">CACHE", ">PARKED", ">WARM P50", ">P99"];
        let rows = status.stores.iter().map(|store| {
            let warm = |pick: fn(&super::api::WarmSeconds) -> f64| {
                store.preload.warm_seconds.as_ref().map_or("-".to_owned(), |warm| format!("{:.3}s", pick(warm)))
            };
            vec![
                store.store_id.to_string(),
                store.state.clone(),
                store.regions.to_string(),
                store.leaders.to_string(),
                store.uninitialized.to_string(),
                amount(store.cache.used_bytes),
                store.preload.parked_requests.to_string(),
                warm(|warm| warm.p50),
                warm(|warm| warm.p99),
            ]
        });
        Ok(table::write(out, &headings, rows.collect())?)
    })
}

pub(super) fn caches(context: &mut Context<'_>) -> Result<Exit> {
    let answer = context.client.get("/status")?;
    let status: Status = context.client.parse(&answer)?;
    let caches = serde_json::Value::from_iter(
        answer["stores"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|store| serde_json::json!({ "store_id": store["store_id"], "cache": store["cache"] })),
    );
    context.show(&caches, |_, out| {
        let headings = [
            ">STORE",
            "ENABLED",
            ">USED",
            ">STOPS LOADING AT",
            ">EVICTS AT",
            ">CAPACITY",
            ">ACTIVE",
            ">LOADING",
            ">HITS",
            ">MISSES",
            ">HIT RATIO",
        ];
        Ok(table::write(out, &headings, status.stores.iter().map(cache_row).collect())?)
    })
}

fn cache_row(store: &Store) -> Vec<String> {
    let cache = &store.cache;
    vec![
        store.store_id.to_string(),
        if cache.enabled { "yes" } else { "no" }.to_owned(),
        amount(cache.used_bytes),
        amount(cache.stop_load_threshold_bytes),
        amount(cache.evict_threshold_bytes),
        amount(cache.capacity_bytes),
        cache.regions_active.to_string(),
        cache.regions_loading.to_string(),
        cache.hits.to_string(),
        cache.misses.to_string(),
        hit_ratio(cache.hits, cache.misses),
    ]
}

pub(super) fn regions(context: &mut Context<'_>, store: Option<u64>) -> Result<Exit> {
    let path = store.map_or_else(|| "/regions".to_owned(), |store| format!("/regions?store={store}"));
    let answer = context.client.get(&path)?;
    let Regions { regions } = context.client.parse(&answer)?;
    context.show(&answer["regions"], |_, out| {
        Ok(table::write(out, &REGION_HEADINGS, regions.iter().map(region_row).collect())?)
    })
}

pub(super) fn region_row(region: &Region) -> Vec<String> {
    vec![
        region.id.to_string(),
        key(&region.start_key, "-∞"),
        key(&region.end_key, "+∞"),
        format!("{}/{}", region.epoch.conf_ver, region.epoch.version),
        region.leader.as_ref().map_or("-".to_owned(), |leader| leader.store_id.to_string()),
        if region.pinned { "yes" } else { "" }.to_owned(),
        region.peers.iter().map(|peer| peer_summary(region, peer)).collect::<Vec<_>>().join("  "),
    ]
}

fn key(hex: &str, empty: &str) -> String {
    if hex.is_empty() { empty.to_owned() } else { shown(hex) }
}

/// `1*:active`
fn peer_summary(region: &Region, peer: &Peer) -> String {
    let mut text = peer.store_id.to_string();
    if region.leader.as_ref().is_some_and(|leader| leader.store_id == peer.store_id) {
        text.push('*');
    }
    if peer.lifecycle == "uninitialized" {
        text.push('!');
    }
    // Writing to a string does not fail.
    let _ = write!(text, ":{}", peer.cache.state);
    text
}

pub(super) fn region(context: &mut Context<'_>, id: u64) -> Result<Exit> {
    let answer = context.client.get(&format!("/regions/{id}"))?;
    let region: Region = context.client.parse(&answer)?;
    context.show(&answer, |_, out| {
        writeln!(out, "region {}, from {} to {}", region.id, key(&region.start_key, "-∞"), key(&region.end_key, "+∞"))?;
        let leader = match &region.leader {
            Some(leader) => format!("store {} leads in term {}", leader.store_id, leader.term),
            None => "no leader is known".to_owned(),
        };
        let pinned = if region.pinned { ", pinned" } else { "" };
        writeln!(out, "epoch {}/{}, {leader}{pinned}", region.epoch.conf_ver, region.epoch.version)?;
        writeln!(out)?;
        let headings = [
            ">STORE",
            ">PEER",
            "ROLE",
            "RAFT",
            "LIFECYCLE",
            ">APPLIED",
            "CACHE",
            ">BYTES",
            ">HIT RATIO",
            "WANTED BY",
            ">WAITING",
            "WAITS FOR",
        ];
        table::write(out, &headings, region.peers.iter().map(peer_row).collect())?;
        if !region.answers.is_empty() {
            writeln!(out)?;
        }
        region.answers.iter().try_for_each(|event: &Event| writeln!(out, "{}", event_line(event)))?;
        Ok(())
    })
}

fn peer_row(peer: &Peer) -> Vec<String> {
    let cache = &peer.cache;
    let progress = match cache.loaded_bytes {
        Some(bytes) if cache.state == "loading" => format!("loading, {} so far", amount(bytes)),
        _ => cache.state.clone(),
    };
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let role = if peer.pending { format!("{}, behind", peer.role) } else { peer.role.clone() };
    let waits_for = match optional(&peer.preload.waits_for) {
        text if peer.preload.ack_held => format!("{text}, holds a transfer back"),
        text => text,
    };
    vec![
        peer.store_id.to_string(),
        peer.peer_id.to_string(),
        role,
        peer.raft_role.clone(),
        peer.lifecycle.clone(),
        peer.applied_index.to_string(),
        progress,
        amount(cache.bytes),
        hit_ratio(cache.hits, cache.misses),
        optional(&peer.preload.wanted),
        peer.preload.waiting_requests.to_string(),
        waits_for,
    ]
}

fn hit_ratio(hits: u64, misses: u64) -> String {
    let all = hits.saturating_add(misses);
    if all == 0 { "-".to_owned() } else { format!("{:.1}%", hits as f64 * 100.0 / all as f64) }
}
