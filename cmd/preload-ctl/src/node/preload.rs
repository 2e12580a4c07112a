//! Asking for a warm-up, and waiting for what becomes of it.
//!
//! **How it works.** The node says after which event those of this request come. They are read until the leader has received
//! the final answer: a verdict that is neither *accepted* nor *parked*.

use std::time::Instant;

use serde_json::json;

use super::{
    Context,
    api::Event,
    cli::RegionAndStore,
    error::{Error, Result},
    watch::{Reader, event_line},
};
use crate::exit::Exit;

pub(super) fn preload(context: &mut Context<'_>, args: &RegionAndStore) -> Result<Exit> {
    let RegionAndStore { region, store } = *args;
    #[allow(clippy::disallowed_methods, reason = "the deadline is one of the person who waits")]
    let deadline = Instant::now() + context.client.timeout();
    let answer = context.client.post(&format!("/regions/{region}/preload"), json!({ "store": store }))?;
    let seq = answer["seq"].as_u64().unwrap_or_default();
    let mut reader = Reader::since(seq);
    loop {
        #[allow(clippy::disallowed_methods, reason = "see above")]
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let what = format!("store {store} has given no final answer about region {region}");
            return Err(Error::NotYet {
                address: context.client.address().to_owned(),
                what,
                waited: context.client.timeout(),
            });
        }
        for raw in reader.next(&context.client, left)? {
            let event: Event = context.client.parse(&raw)?;
            if event.region_id != region {
                continue;
            }
            if context.json {
                writeln!(context.out, "{raw}")?;
            } else {
                writeln!(context.out, "{}", event_line(&event))?;
            }
            context.out.flush()?;
            if let Some(is_warm) = final_answer(&event, store) {
                return Ok(if is_warm { Exit::Ok } else { Exit::Finding });
            }
        }
    }
}

/// Whether the region is warm, if this event settles it.
fn final_answer(event: &Event, store: u64) -> Option<bool> {
    let verdict = event.verdict.as_deref()?;
    let is_answer = event.kind == "answer_received" && event.peer_store_id == Some(store);
    // What the target drops is never answered.
    let is_dropped = event.kind == "request_received" && event.store_id == store && verdict == "dropped";
    let is_final = !matches!(verdict, "accepted" | "parked");
    (is_answer && is_final || is_dropped).then_some(verdict == "warm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_answer_is_the_targets_and_not_provisional() {
        let event = |kind: &str, peer_store, verdict: &str| Event {
            kind: kind.to_owned(),
            store_id: 1,
            peer_store_id: Some(peer_store),
            verdict: Some(verdict.to_owned()),
            ..Event::default()
        };
        for (kind, peer_store, verdict, expected) in [
            ("answer_received", 2, "warm", Some(true)),
            ("answer_received", 2, "rejected", Some(false)),
            ("answer_received", 2, "expired", Some(false)),
            ("answer_received", 2, "parked", None),
            ("answer_received", 2, "accepted", None),
            ("answer_received", 3, "warm", None),
            ("loaded", 2, "warm", None),
        ] {
            assert_eq!(final_answer(&event(kind, peer_store, verdict), 2), expected, "{kind} {peer_store} {verdict}");
        }
        assert_eq!(final_answer(&event("request_received", 7, "dropped"), 1), Some(false));
        assert_eq!(final_answer(&event("request_received", 7, "rejected"), 1), None, "the answer follows");
    }
}
