//! Events as they come.
//!
//! **Owns** how an event is written in a line, and the picture that is drawn on a terminal.
//!
//! **How it works.** [`Reader`] asks for events behind the last one it has seen, and the node answers when there are some or
//! when the wait is over. On a terminal, regions and stores are asked for each time, and all is drawn over what was there.
//!
//! **Invariants.** Memory is bounded: the picture keeps the last few events.
//!
//! **Must not** ask more often than the node has news, or once a second.

use std::{collections::VecDeque, io::Write as _, thread, time::Duration};

use console::Term;
use serde_json::Value;

use super::{
    Context,
    api::{Event, Events, Regions, Status},
    client::Client,
    error::{Error, Result},
    regions::{REGION_HEADINGS, region_row},
    table,
};
use crate::{exit::Exit, text::amount};

/// A node answers at most so many at once.
const PAGE_EVENTS: usize = 1_000;
const REDRAW_INTERVAL: Duration = Duration::from_secs(1);
const LONG_POLL: Duration = Duration::from_secs(20);
const EVENTS_SHOWN: usize = 20;
/// Moves to the corner; what was drawn is overwritten line by line, which does not flicker.
const HOME: &str = "\x1b[H";
const END_LINE: &str = "\x1b[K\r\n";
const CLEAR_BELOW: &str = "\x1b[J";

pub(super) struct Options {
    pub(super) region: Option<u64>,
    pub(super) history: bool,
    pub(super) events: Option<u64>,
}

/// Reads a node's events in their order.
pub(super) struct Reader {
    since: u64,
    /// The node had forgotten some before they were read.
    lost: bool,
}

impl Reader {
    pub(super) fn since(seq: u64) -> Reader {
        Reader { since: seq, lost: false }
    }

    /// Behind all that has happened.
    fn from_now(client: &Client) -> Result<Reader> {
        let mut reader = Reader::since(0);
        while reader.next(client, Duration::ZERO)?.len() >= PAGE_EVENTS {}
        reader.lost = false;
        Ok(reader)
    }

    /// The next events; none if there are none within `wait`.
    pub(super) fn next(&mut self, client: &Client, wait: Duration) -> Result<Vec<Value>> {
        // The client does not wait longer for the answer than its own timeout.
        let wait = wait.min(LONG_POLL).min(client.timeout());
        let answer = client.get(&format!("/preloads?since={}&wait_ms={}", self.since, wait.as_millis()))?;
        let page: Events = client.parse(&answer)?;
        self.since = page.next;
        self.lost |= page.lost;
        Ok(page.events)
    }
}

pub(super) fn watch(context: &mut Context<'_>, options: &Options) -> Result<Exit> {
    let reader = if options.history { Reader::since(0) } else { Reader::from_now(&context.client)? };
    if !context.json && options.events.is_none() && Term::stdout().is_term() {
        draw(context, options, reader)
    } else {
        print(context, options, reader)
    }
}

fn print(context: &mut Context<'_>, options: &Options, mut reader: Reader) -> Result<Exit> {
    let mut left = options.events;
    loop {
        for raw in reader.next(&context.client, LONG_POLL)? {
            let event: Event = context.client.parse(&raw)?;
            if options.region.is_some_and(|region| region != event.region_id) {
                continue;
            }
            if context.json {
                writeln!(context.out, "{raw}")?;
            } else {
                writeln!(context.out, "{}", event_line(&event))?;
            }
            if let Some(left) = &mut left {
                *left -= 1;
                if *left == 0 {
                    return Ok(Exit::Ok);
                }
            }
        }
        context.out.flush()?;
        if std::mem::take(&mut reader.lost) {
            eprintln!("preload-ctl: the node had forgotten some events before they were read");
        }
    }
}

fn draw(context: &mut Context<'_>, options: &Options, mut reader: Reader) -> Result<Exit> {
    let terminal = Term::stdout();
    terminal.clear_screen()?;
    let mut events: VecDeque<String> = VecDeque::new();
    loop {
        let picture = match picture(&context.client, options, &events) {
            // It may be restarting, which is worth watching.
            Err(error @ Error::Unreachable { .. }) => error.to_string(),
            picture => picture?,
        };
        let (height, width) = terminal.size();
        let lines = picture.lines().take(usize::from(height).saturating_sub(1));
        let drawn = lines.fold(HOME.to_owned(), |drawn, line| {
            drawn + &console::truncate_str(line, usize::from(width), "…") + END_LINE
        });
        context.out.write_all((drawn + CLEAR_BELOW).as_bytes())?;
        context.out.flush()?;

        let news = match reader.next(&context.client, REDRAW_INTERVAL) {
            Err(Error::Unreachable { .. }) => {
                #[allow(clippy::disallowed_methods, reason = "there is nothing to wait on but a person's patience")]
                thread::sleep(REDRAW_INTERVAL);
                Vec::new()
            }
            news => news?,
        };
        for raw in news {
            let event: Event = context.client.parse(&raw)?;
            if options.region.is_none_or(|region| region == event.region_id) {
                events.push_front(event_line(&event));
            }
        }
        events.truncate(EVENTS_SHOWN);
    }
}

fn picture(client: &Client, options: &Options, events: &VecDeque<String>) -> Result<String> {
    let status: Status = client.parse(&client.get("/status")?)?;
    let Regions { mut regions } = client.parse(&client.get("/regions")?)?;
    regions.retain(|region| options.region.is_none_or(|wanted| wanted == region.id));
    let mut text = Vec::new();
    writeln!(text, "{}  cluster {}  {} regions  (Ctrl-C ends)", client.address(), status.cluster_id, status.regions)?;
    for store in &status.stores {
        let cache = &store.cache;
        writeln!(
            text,
            "store {}  {}  {} leaders of {} regions  cache {} of {}, {} regions warm, {} loading  {} parked",
            store.store_id,
            store.state,
            store.leaders,
            store.regions,
            amount(cache.used_bytes),
            amount(cache.capacity_bytes),
            cache.regions_active,
            cache.regions_loading,
            store.preload.parked_requests,
        )?;
    }
    writeln!(text)?;
    table::write(&mut text, &REGION_HEADINGS, regions.iter().map(region_row).collect())?;
    writeln!(text)?;
    for line in events {
        writeln!(text, "{line}")?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `2026-11-25T04:21:15.397Z  region 7  store 2: answer_received from store 3: rejected (server_is_busy) after 12 ms`
pub(super) fn event_line(event: &Event) -> String {
    let mut line = format!("{}  region {}  store {}: {}", event.time, event.region_id, event.store_id, event.kind);
    if let Some(peer_store) = event.peer_store_id {
        let preposition = if event.kind.ends_with("_received") { "from" } else { "to" };
        line += &format!(" {preposition} store {peer_store}");
    }
    if let Some(verdict) = &event.verdict {
        line += &format!(": {verdict}");
    }
    if let Some(reason) = &event.reason {
        line += &format!(" ({reason})");
    }
    if let Some(elapsed) = event.elapsed_ms {
        line += &format!(" after {elapsed} ms");
    }
    line.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_one_line_with_all_it_says() {
        let event = Event {
            time: "T".to_owned(),
            store_id: 2,
            region_id: 7,
            kind: "answer_received".to_owned(),
            peer_store_id: Some(3),
            verdict: Some("rejected".to_owned()),
            reason: Some("busy\n".to_owned()),
            elapsed_ms: Some(12),
        };
        assert_eq!(
            event_line(&event),
            "T  region 7  store 2: answer_received from store 3: rejected (busy ) after 12 ms"
        );
    }
}
