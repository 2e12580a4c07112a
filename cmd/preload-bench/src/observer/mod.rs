//! What an inbound Raft message costs in `CoprocessorHost::on_raft_message`.
//!
//! **Owns** the cases and their sides.
//!
//! **How it works.** Messages are handed to a host with no observer (side `none`), and to one with the plugin (`ours`).
//! All figures include the loop around the calls, which is the same code on all sides.
//!
//! - `ordinary_message`: heartbeats, appends and their answers, without extra message. They are decoded and in the
//!   processor's cache, as when the store has just received them. Side `noop` is an observer that does nothing: what a
//!   plugin costs by being called at all.
//! - `ordinary_message_added`: ours minus none.
//! - `preload_request_initialized`: the first request for an initialized region that no snapshot is about to replace.
//!   It is forwarded: a new intent, no answer yet.
//! - `preload_request_unknown`: the first request for a region that the store does not know. It is parked: a new entry in
//!   the table of regions, a new intent, and an answer (`region_not_initialized`) in the queue.
//!
//! - `known_region`: the process's resident memory with a plugin that knows the regions, less that before, for each; their
//!   metadata (two peers, keys of nine bytes) included. Followed, and led: the latter are on the agenda all the time.
//! - `reconcile`: what the worker spends on looking all led regions up, for each; once in `reconcile-interval`.
//!
//! The plugin knows [`KNOWN_REGIONS`] regions. Requests come in bursts of [`BURST`], each for another region, and these
//! are spread over the table. Between bursts, which is not measured, the plugin is stepped until no request waits: they
//! turned warm or expired. So neither `max-parked-requests` nor a congested queue is ever near; the benchmark stops when
//! a burst took another path than the one above.
//!
//! **Invariants.** No thread interferes: the plugin is a stepped one. Hence the figures for preload requests are without
//! contention for the lock, and without waking a worker that sleeps (at most a system call per request).
//!
//! **Must not** mix what the worker does into what a message costs.

mod surroundings;

use std::hint::black_box;

use engine_test::MemEngine;
use kvproto::raft_serverpb::RaftMessage;
use raft::StateRole;
use raftstore::coprocessor::CoprocessorHost;

use self::surroundings::{Plugin, StrideIds, address, noop_host, ordinary_messages, preload_request};
use crate::{
    measure::{Samples, Side, in_turns, resident_bytes, timed},
    report::{Case, Figure},
};

type Host = CoprocessorHost<MemEngine>;

/// A large store.
const KNOWN_REGIONS: u64 = 100_000;

/// How often the plugin looks all regions up, for `reconcile`: each takes a good part of a second.
const RECONCILES: u32 = 5;

/// Messages at a time: as many requests as a store gets at once when another one gives its leaders away, and few enough
/// to lie in the processor's cache, as messages that were just decoded do.
const BURST: usize = 64;

/// How often a batch without state hands its messages over, so that reading the clock around it does not count.
const PASSES: usize = 1024;

/// Which regions requests are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Initialized,
    Unknown,
}

/// All figures of the scenario.
pub(crate) fn run(runs: u32) -> Vec<Figure> {
    let case = |case: &'static str| Case { bench: "observer", case: case.into(), unit: "ns/message" };
    let memory = Case { bench: "observer", case: "known_region".into(), unit: "bytes/region" };
    let (led, led_bytes) = build(StateRole::Leader);
    let reconcile = Case { bench: "observer", case: "reconcile".into(), unit: "ns/region" };
    let reconciled = reconcile.alone("ours", (0..RECONCILES).map(|_| led.reconcile(KNOWN_REGIONS)).collect());
    let (plugin, followed_bytes) = build(StateRole::Follower);

    let samples = ordinary(&plugin, runs);
    let mut figures = case("ordinary_message").compare(&samples);
    if let [none, .., ours] = &samples[..] {
        figures.push(case("ordinary_message_added").added(ours, none));
    }
    figures.extend(case("preload_request_initialized").compare(&requests(&plugin, Target::Initialized, runs)));
    figures.extend(case("preload_request_unknown").compare(&requests(&plugin, Target::Unknown, runs)));
    figures.extend([memory.alone("followed", vec![followed_bytes]), memory.alone("led", vec![led_bytes]), reconciled]);
    figures
}

/// A plugin that knows [`KNOWN_REGIONS`] regions, and how much more memory each of them takes.
fn build(role: StateRole) -> (Plugin, f64) {
    let before = resident_bytes(std::process::id());
    let plugin = Plugin::new(KNOWN_REGIONS, role);
    let after = resident_bytes(std::process::id());
    (plugin, (after - before) / KNOWN_REGIONS as f64)
}

fn ordinary(plugin: &Plugin, runs: u32) -> Vec<Samples> {
    let (none, noop) = (Host::default(), noop_host());
    let messages = ordinary_messages(BURST);
    let side = |name, host| passing_side(name, host, &messages);
    in_turns(vec![side("none", &none), side("noop", &noop), side("ours", &plugin.host)], runs)
}

fn requests(plugin: &Plugin, target: Target, runs: u32) -> Vec<Samples> {
    let none = Host::default();
    let mut ids = StrideIds::new(KNOWN_REGIONS);
    let mut messages: Vec<RaftMessage> = ids.by_ref().take(BURST).map(preload_request).collect();
    let unread = messages.clone();
    let burst = move || {
        for (message, id) in messages.iter_mut().zip(ids.by_ref()) {
            address(
                message,
                match target {
                    Target::Initialized => surroundings::known_id(id),
                    Target::Unknown => surroundings::unknown_id(id),
                },
            );
        }
        let (kept, spent) = timed(|| deliver(&plugin.host, &messages, 1));
        assert_eq!(kept, 0, "a request went past the plugin");
        let answered_at_once = match target {
            Target::Initialized => 0,
            Target::Unknown => BURST,
        };
        let status = plugin.observer.status();
        assert_eq!(
            (status.parked_requests, status.queued_messages),
            (BURST, answered_at_once),
            "{target:?}: {status:?}"
        );
        plugin.settle();
        spent
    };
    let ours = Side { name: "ours", items_per_batch: BURST, batch: Box::new(burst) };
    in_turns(vec![passing_side("none", &none, &unread), ours], runs)
}

/// Hands over messages that leave no trace.
fn passing_side<'a>(name: &'static str, host: &'a Host, messages: &'a [RaftMessage]) -> Side<'a> {
    let items_per_batch = messages.len() * PASSES;
    let batch = move || {
        let (kept, spent) = timed(|| deliver(host, messages, PASSES));
        assert_eq!(kept, items_per_batch, "{name}: a message was dropped");
        spent
    };
    Side { name, items_per_batch, batch: Box::new(batch) }
}

/// Hands each message over `passes` times; how often the store would go on with one. Never inlined, so that all sides
/// run the same instructions at the same address.
#[inline(never)]
fn deliver(host: &Host, messages: &[RaftMessage], passes: usize) -> usize {
    let mut kept = 0;
    for _ in 0..passes {
        for message in messages {
            kept += usize::from(black_box(host).on_raft_message(black_box(message)));
        }
    }
    kept
}
