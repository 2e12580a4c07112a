//! What the plugins of the node's stores have done lately.
//!
//! # What it owns
//! A ring of events, each with a number that grows by one.
//!
//! # How it works
//! A plugin's worker tells its [`Happening`]s to [`EventLog::listener`], which turns them into [`Event`]s. Readers take those
//! behind a number, and can wait for more.
//!
//! # Invariants
//! Memory is bounded: the oldest events make room, and a reader is told when it has missed some. A plugin's worker never
//! waits for a reader longer than it takes to copy a page of events.
//!
//! # What it must not do
//! Hold keys: events are shown to whoever may see the status page.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use preload_observer::{
    Happening, Listener,
    core::{AnswerBody, Final, Notice, Provisional},
    message::{Address, AnswerKind},
};
use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tokio::sync::watch;

/// Events that are kept: some minutes of a busy node, below a MiB.
const EVENTS_MAX: usize = 4096;

/// Events that a reader gets at once.
pub const PAGE_MAX: usize = 1000;

/// Something that a plugin did or saw. Fields that do not apply are `None`.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub seq: u64,
    #[serde(serialize_with = "rfc3339_millis")]
    pub time: OffsetDateTime,
    /// Whose plugin it was.
    pub store_id: u64,
    pub region_id: u64,
    /// The other side: who has asked, was asked, or leads from now on.
    pub peer_id: Option<u64>,
    pub peer_store_id: Option<u64>,
    pub kind: &'static str,
    pub verdict: Option<&'static str>,
    pub reason: Option<&'static str>,
    pub elapsed_ms: Option<u64>,
}

/// A page of events.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// What to ask for next.
    pub next: u64,
    /// Events between the last page and this one have made room for newer ones.
    pub lost: bool,
    pub events: Vec<Event>,
}

/// See the [module](self). Clones share the ring.
#[derive(Clone)]
pub struct EventLog(Arc<Inner>);

struct Inner {
    ring: Mutex<Ring>,
    /// The number of the next event.
    grown: watch::Sender<u64>,
}

struct Ring {
    /// Numbers without gaps, up to `next`.
    events: VecDeque<Event>,
    next: u64,
}

impl Default for EventLog {
    fn default() -> Self {
        let ring = Mutex::new(Ring { events: VecDeque::new(), next: 1 });
        Self(Arc::new(Inner { ring, grown: watch::Sender::new(1) }))
    }
}

impl EventLog {
    /// The number that the next event will have.
    pub fn next_seq(&self) -> u64 {
        self.0.ring.lock().next
    }

    pub fn push(&self, store_id: u64, region_id: u64, what: What) {
        let What { kind, peer, verdict, reason, elapsed } = what;
        let mut ring = self.0.ring.lock();
        let seq = ring.next;
        let event = Event {
            seq,
            time: OffsetDateTime::now_utc(),
            store_id,
            region_id,
            peer_id: peer.map(|peer| peer.peer_id),
            peer_store_id: peer.map(|peer| peer.store_id),
            kind,
            verdict,
            reason,
            elapsed_ms: elapsed.map(|elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)),
        };
        if ring.events.len() == EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
        ring.next += 1;
        drop(ring);
        self.0.grown.send_replace(seq + 1);
    }

    /// The events from number `since` on, oldest first, at most [`PAGE_MAX`].
    pub fn since(&self, since: u64) -> Page {
        let ring = self.0.ring.lock();
        let first = ring.next - ring.events.len() as u64;
        let skipped = usize::try_from(since.saturating_sub(first)).unwrap_or(usize::MAX);
        let events: Vec<Event> = ring.events.iter().skip(skipped).take(PAGE_MAX).cloned().collect();
        let next = events.last().map_or(ring.next, |last| last.seq + 1);
        // A number from before a restart is greater than all, and everything since then is new to its reader.
        let lost = (since != 0 && since < first) || since > ring.next;
        Page { next, lost, events }
    }

    /// Like [`since`](Self::since), and waits up to `timeout` for there to be one.
    pub async fn wait_since(&self, since: u64, timeout: Duration) -> Page {
        let mut grown = self.0.grown.subscribe();
        // What it returns is looked at below either way.
        let _ = tokio::time::timeout(timeout, grown.wait_for(|next| *next > since || since > *next)).await;
        self.since(since)
    }

    /// The last `count` events about a region, oldest first.
    pub fn of_region(&self, region_id: u64, count: usize) -> Vec<Event> {
        let ring = self.0.ring.lock();
        let mut last: Vec<Event> =
            ring.events.iter().rev().filter(|event| event.region_id == region_id).take(count).cloned().collect();
        last.reverse();
        last
    }

    /// What a plugin on `store_id` is given to be followed; `warm_up` counts how long regions take to become warm.
    pub fn listener(&self, store_id: u64, warm_up: WarmUpTimes) -> Listener {
        let log = self.clone();
        Arc::new(move |happening| {
            if let Happening::Notice(Notice::Warm { took, .. }) = happening {
                warm_up.record(*took);
            }
            let (region_id, what) = describe(happening);
            log.push(store_id, region_id, what);
        })
    }
}

/// How long the regions of a store took to become warm. Clones share it.
#[derive(Clone)]
pub struct WarmUpTimes(Arc<Mutex<Histogram<u64>>>);

/// As the status shows it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WarmSeconds {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
}

impl Default for WarmUpTimes {
    fn default() -> Self {
        // Milliseconds up to an hour, to 1 %.
        let times = Histogram::new_with_bounds(1, 3_600_000, 2).expect("the bounds are valid");
        Self(Arc::new(Mutex::new(times)))
    }
}

impl WarmUpTimes {
    fn record(&self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.0.lock().saturating_record(millis);
    }

    /// `None` while there was none.
    pub fn summary(&self) -> Option<WarmSeconds> {
        let times = self.0.lock();
        let seconds = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        (!times.is_empty()).then(|| WarmSeconds { count: times.len(), p50: seconds(0.5), p99: seconds(0.99) })
    }
}

/// What an event says, besides where and when.
#[derive(Clone, Copy, Debug, Default)]
pub struct What {
    pub kind: &'static str,
    pub peer: Option<Address>,
    pub verdict: Option<&'static str>,
    pub reason: Option<&'static str>,
    pub elapsed: Option<Duration>,
}

impl What {
    pub fn new(kind: &'static str) -> Self {
        Self { kind, ..Self::default() }
    }

    pub fn with(self, peer: Address) -> Self {
        Self { peer: Some(peer), ..self }
    }

    pub fn verdict(self, verdict: &'static str) -> Self {
        Self { verdict: Some(verdict), ..self }
    }

    pub fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    fn after(self, elapsed: Duration) -> Self {
        Self { elapsed: Some(elapsed), ..self }
    }

    /// A final verdict by its label: those that are neither warm nor expired are the reasons of a rejection.
    fn ended(self, label: &'static str) -> Self {
        match label {
            "warm" | "expired" => self.verdict(label),
            _ => self.verdict("rejected").because(label),
        }
    }

    fn provisional(self, why: &Provisional) -> Self {
        match why {
            Provisional::Accepted => self.verdict("accepted"),
            _ => self.verdict("parked").because(why.label()),
        }
    }

    fn answered(self, kind: AnswerKind) -> Self {
        match kind {
            AnswerKind::Warm | AnswerKind::Accepted => self.verdict(kind.label()),
            _ if kind.is_final() => self.verdict("rejected").because(kind.label()),
            _ => self.verdict("parked").because(kind.label()),
        }
    }
}

/// The region that it is about, and what it says.
fn describe(happening: Happening<'_>) -> (u64, What) {
    let new = What::new;
    match happening {
        Happening::LoadStarted { region_id } => (region_id, new("load_started")),
        Happening::AnswerSent(answer) => {
            let what = new("answer_sent").with(answer.request.from);
            let what = match &answer.body {
                AnswerBody::Provisional(why) => what.provisional(why),
                AnswerBody::Final(Final::Warm) => what.verdict("warm"),
                AnswerBody::Final(Final::Expired) => what.verdict("expired"),
                AnswerBody::Final(Final::Rejected(_)) => what.ended(answer.body.label()),
            };
            (answer.request.region_id, what)
        }
        Happening::Notice(notice) => match notice {
            Notice::Forwarded { region_id, from, .. } => {
                (*region_id, new("request_received").with(*from).verdict("accepted"))
            }
            Notice::Parked { region_id, from, why, .. } => {
                (*region_id, new("request_received").with(*from).provisional(why))
            }
            Notice::Rejected { region_id, from, why, .. } => {
                (*region_id, new("request_received").with(*from).verdict("rejected").because(why.label()))
            }
            Notice::Dropped { region_id, from } => (*region_id, new("request_received").with(*from).verdict("dropped")),
            Notice::Malformed { region_id, what } => (*region_id, new("malformed").because(what.label())),
            Notice::Finished { region_id, label, waited, .. } => {
                (*region_id, new("request_finished").ended(label).after(*waited))
            }
            Notice::Warm { region_id, source, took, .. } => {
                (*region_id, new("loaded").verdict("warm").because(source.label()).after(*took))
            }
            Notice::LoadLost { region_id, .. } => (*region_id, new("load_lost")),
            Notice::SnapshotVoid { region_id, .. } => (*region_id, new("snapshot_void")),
            Notice::UninitializedDestroyed { region_id, .. } => (*region_id, new("uninitialized_destroyed")),
            Notice::MalformedMetadata(error) => (error.region_id, new("malformed").because("metadata")),
            Notice::RegionTableFull { region_id } => (*region_id, new("region_table_full")),
            Notice::Asked { region_id, to } => (*region_id, new("request_sent").with(*to)),
            Notice::AskedAgain { region_id, to } => (*region_id, new("request_sent").with(*to).because("again")),
            Notice::AnswerReceived { region_id, from, kind } | Notice::AnswerUnexpected { region_id, from, kind } => {
                (*region_id, new("answer_received").with(*from).answered(*kind))
            }
            Notice::AskExpired { region_id, to, last_answer, .. } => {
                let what = new("request_expired").with(*to).verdict("expired");
                (*region_id, last_answer.map_or(what, |kind| what.because(kind.label())))
            }
            Notice::TransferWarm { region_id, to } => (*region_id, new("transfer_warm").with(*to)),
            Notice::TransferCold { region_id, to, reason } => {
                (*region_id, new("transfer_cold").with(*to).because(reason.label()))
            }
            Notice::AckHeld { region_id, .. } => (*region_id, new("ack_held")),
            Notice::AckWarm { region_id, held, .. } => (*region_id, new("ack_warm").after(*held)),
            Notice::AckCold { region_id, reason, .. } => (*region_id, new("ack_cold").because(reason.label())),
        },
    }
}

const RFC3339_MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A time in UTC, as RFC 3339 with milliseconds.
pub fn format_time(time: &OffsetDateTime) -> String {
    // Only a year beyond 9999 has no such form.
    time.to_offset(time::UtcOffset::UTC).format(RFC3339_MILLIS).unwrap_or_default()
}

pub(crate) fn rfc3339_millis<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_time(time))
}

#[cfg(test)]
mod tests {
    use preload_observer::core::Rejection;

    use super::*;

    #[test]
    fn readers_get_pages_in_order_and_are_told_what_they_have_missed() {
        let log = EventLog::default();
        assert_eq!((log.since(0).next, log.since(0).lost), (1, false));
        for region_id in 0..EVENTS_MAX as u64 + 10 {
            log.push(1, region_id, What::new("loaded"));
        }
        let page = log.since(1);
        assert!(page.lost, "ten have made room");
        assert_eq!((page.events.len(), page.events[0].seq, page.next), (PAGE_MAX, 11, 11 + PAGE_MAX as u64));
        let mut next = page.next;
        let mut seen = page.events.len();
        loop {
            let page = log.since(next);
            assert!(!page.lost);
            if page.events.is_empty() {
                break;
            }
            assert_eq!(page.events[0].seq, next);
            (next, seen) = (page.next, seen + page.events.len());
        }
        assert_eq!((seen, next), (EVENTS_MAX, log.next_seq()));
        let restarted = log.since(next + 5);
        assert!(restarted.lost && restarted.events.is_empty() && restarted.next == next);
    }

    #[test]
    fn the_last_events_of_a_region_come_in_order() {
        let log = EventLog::default();
        (0..10).for_each(|n| log.push(1, n % 2, What::new("loaded")));
        let seqs: Vec<u64> = log.of_region(0, 3).iter().map(|event| event.seq).collect();
        assert_eq!(seqs, [5, 7, 9]);
    }

    #[test]
    fn event_of_a_request_says_who_has_asked_whatever_it_is_told() {
        let from = Address { store_id: 2, peer_id: 12 };
        let notices = [
            (Notice::Forwarded { region_id: 7, peer_id: 11, from }, "accepted"),
            (
                Notice::Parked { region_id: 7, peer_id: 11, from, why: Provisional::DataIsNotReady, first: true },
                "parked",
            ),
            (Notice::Rejected { region_id: 7, peer_id: 11, from, why: Rejection::Disabled }, "rejected"),
            (Notice::Dropped { region_id: 7, from }, "dropped"),
        ];
        for (notice, verdict) in notices {
            let (region_id, what) = describe(Happening::Notice(&notice));
            assert_eq!((region_id, what.kind, what.verdict), (7, "request_received", Some(verdict)));
            assert_eq!(what.peer, Some(from), "{verdict}");
        }
    }

    #[test]
    fn times_have_milliseconds_and_are_in_utc() {
        let time = OffsetDateTime::from_unix_timestamp_nanos(1_735_000_000_123_456_789).unwrap();
        assert_eq!(format_time(&time), "2024-12-24T00:26:40.123Z");
    }
}
