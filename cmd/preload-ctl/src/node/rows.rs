//! Reading and writing keys.
//!
//! **How it works.** Values go to standard output, one per line; where and when they were read goes to standard error, so
//! that `$(preload-ctl get KEY)` is the value.

use serde_json::{Value, json};

use super::{
    Context,
    api::{Got, Scanned, ServedBy},
    error::Result,
    keys::{Bytes, shown, to_hex},
    table,
};
use crate::exit::Exit;

pub(super) struct Scan {
    pub(super) start: Option<Bytes>,
    pub(super) end: Option<Bytes>,
    pub(super) limit: u64,
    pub(super) ts: Option<u64>,
    pub(super) reverse: bool,
}

pub(super) fn put(context: &mut Context<'_>, key: &Bytes, value: &Bytes) -> Result<Exit> {
    let body = json!({ "key": to_hex(&key.0), "value": to_hex(&value.0) });
    let answer = context.client.post_and_wait("/kv/put", body)?;
    let line = format!("written at {}", version(&answer));
    context.say(&answer, &line)
}

pub(super) fn delete(context: &mut Context<'_>, key: &Bytes) -> Result<Exit> {
    let answer = context.client.post_and_wait("/kv/delete", json!({ "key": to_hex(&key.0) }))?;
    let line = format!("deleted at {}", version(&answer));
    context.say(&answer, &line)
}

pub(super) fn get(context: &mut Context<'_>, key: &Bytes, ts: Option<u64>) -> Result<Exit> {
    let mut body = json!({ "key": to_hex(&key.0) });
    if let Some(ts) = ts {
        body["ts"] = ts.to_string().into();
    }
    let answer = context.client.post_and_wait("/kv/get", body)?;
    let got: Got = context.client.parse(&answer)?;
    context.show(&answer, |_, out| {
        if let Some(value) = &got.value {
            writeln!(out, "{}", shown(value))?;
        }
        let version = got.commit_ts.as_ref().map_or_else(|| "no value".to_owned(), |ts| format!("written at {ts}"));
        eprintln!("{version}, read at {}, {}", got.ts, source(&got.served_by));
        Ok(())
    })?;
    Ok(if got.value.is_some() { Exit::Ok } else { Exit::Finding })
}

pub(super) fn scan(context: &mut Context<'_>, scan: &Scan) -> Result<Exit> {
    let hex = |key: &Option<Bytes>| key.as_ref().map(|key| to_hex(&key.0)).unwrap_or_default();
    let mut body = json!({
        "start_key": hex(&scan.start),
        "end_key": hex(&scan.end),
        "limit": scan.limit,
        "reverse": scan.reverse,
    });
    if let Some(ts) = scan.ts {
        body["ts"] = ts.to_string().into();
    }
    let answer = context.client.post_and_wait("/kv/scan", body)?;
    let scanned: Scanned = context.client.parse(&answer)?;
    context.show(&answer, |_, out| {
        let rows = scanned.rows.iter();
        let rows = rows.map(|row| vec![shown(&row.key), shown(&row.value), row.commit_ts.clone()]).collect();
        table::write(out, &["KEY", "VALUE", ">COMMIT_TS"], rows)?;
        let more = if scanned.more { ", and there are more" } else { "" };
        eprintln!("{} rows{more}, read at {}", scanned.rows.len(), scanned.ts);
        for served_by in &scanned.sources {
            eprintln!("  {}", source(served_by));
        }
        Ok(())
    })
}

/// The version that a write has made.
fn version(answer: &Value) -> String {
    format!("{} in region {}", answer["commit_ts"].as_str().unwrap_or("?"), answer["region_id"])
}

fn source(served_by: &ServedBy) -> String {
    let reason = served_by.source_reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("from {}{reason}, region {}, store {}", served_by.source, served_by.region_id, served_by.store_id)
}
