//! Every order of events on a small scope, against what has to hold after each of them.
//!
//! **Owns** a model of a store around the core (its regions, its cache, its worker, the requests that it was sent), and the
//! search through what can happen to it.
//!
//! **How it works.** Breadth first: each state that was reached is cloned for each event that may come next. States that are
//! the same, by a hash of all that the core and the model know, are visited once. From each new state, time alone must
//! lead to an end of all that is wanted. The worker is two events: it takes an action, and it completes it, so that
//! everything may happen in between.
//!
//! What is checked, and by whom:
//! - I1: what is probed or loaded is the region as the store reported it last, initialized, not merging, not replaced.
//! - I2: nothing panics; the worker never spins.
//! - I3: an answer belongs to a request that is open; there is one final answer; before time passes, everybody was told.
//! - I4: without further events all that waits ends, and nothing stays wanted but what is pinned.
//! - I5: "warm" is said only of data that is the one that was seen in the cache.
//! - I6: what is held stays within the limits.
//! - A leader transfer is held back for `warmup-timeout` at most.
//!
//! **Invariants.** Times are nanoseconds, far too short for jitter, so that the core is deterministic.
//!
//! **Must not** know why the core does what it does.
//!
//! `PRELOAD_MODEL_DEPTH=n` adds `n` events to the depth of each scope.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use kvproto::metapb::Region;

use super::*;
use crate::{
    config::Config,
    message::{Address, AnswerKind, Epoch},
    pinned::PinnedRange,
    test_support::{OTHER_STORE, STORE, peer, region, uninitialized},
};

const REGIONS: [u64; 2] = [7, 8];

/// What may happen next. A number is that of a region or of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Request(usize),
    Uninitialized(usize),
    Announce(usize),
    Create(usize),
    Update(usize),
    PrepareMerge(usize),
    Malformed(usize),
    /// The region goes on without the peer here.
    Removed(usize),
    PreApply(usize),
    PostApply(usize),
    Commit(usize),
    Cancel(usize),
    Destroy(usize),
    Lead(usize),
    Follow(usize),
    /// Leadership is offered; whether the offer says that the region is warm on the leader.
    Offer(usize, bool),
    Transfer(usize),
    Answer(usize, AnswerKind),
    /// The cache evicts without a word: for lack of memory, or because a load failed.
    Evict(usize),
    Loaded(usize),
    Pin,
    Enable,
    Restart,
    /// The worker takes an action, or completes the one that it has taken.
    Work,
    /// Time passes until the core has something to do.
    Pass,
}

/// What is explored.
struct Scope {
    name: &'static str,
    regions: usize,
    /// Region, sender's store, and the version of the region that it is for: 2 as of `Create`, or 3 as of `Update`.
    requests: &'static [(usize, u64, u64)],
    parked_max: usize,
    depth: usize,
    /// Leaves the rarer events out, to get deeper.
    is_narrow: bool,
}

impl Scope {
    fn events(&self) -> Vec<Event> {
        use Event::*;
        if self.is_narrow {
            let snapshot = [Announce(0), Create(0), PreApply(0), PostApply(0), Commit(0)];
            let others = [Request(0), Destroy(0), Evict(0), Loaded(0), Offer(0, true), Work, Pass];
            return snapshot.into_iter().chain(others).collect();
        }
        let mut events = vec![Work, Pass, Restart, Pin, Enable];
        events.extend((0..self.requests.len()).map(Request));
        for r in 0..self.regions {
            events.extend([Uninitialized(r), Announce(r), Create(r), Update(r), PrepareMerge(r), Malformed(r)]);
            events.extend([
                Removed(r),
                PreApply(r),
                PostApply(r),
                Commit(r),
                Cancel(r),
                Destroy(r),
                Lead(r),
                Follow(r),
            ]);
            events.extend([Offer(r, true), Offer(r, false), Transfer(r), Evict(r), Loaded(r)]);
            events.extend([Answer(r, AnswerKind::Warm), Answer(r, AnswerKind::Accepted)]);
        }
        events
    }

    fn config(&self) -> CheckedConfig {
        let nanos = Duration::from_nanos;
        CheckedConfig {
            warmup_timeout: nanos(3),
            request_timeout: nanos(8),
            request_resend_interval: nanos(2),
            reconcile_interval: nanos(6),
            probe_interval: nanos(1),
            load_retry_backoff_min: nanos(1),
            load_retry_backoff_max: nanos(2),
            load_attempts_max: 3,
            max_parked_requests: self.parked_max,
            max_in_flight_requests: 1,
            snapshot_announce_timeout: nanos(3),
            ..Config::default().check().unwrap()
        }
    }
}

/// What the cache holds of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Cached {
    version: u64,
    is_active: bool,
}

/// An action that the worker has taken and not completed.
#[derive(Clone, Debug)]
enum Taken {
    Load { r: usize, version: u64 },
    Probe { r: usize, ticket: Ticket, saw: CacheState, serial: u32 },
}

/// What the store and its cache are like, apart from the core.
#[derive(Clone, Debug, Default, Hash)]
struct Outside {
    /// Version of the metadata that was reported last, if it was complete.
    version: Option<u64>,
    is_merging: bool,
    is_applying: bool,
    is_leader: bool,
    cached: Option<Cached>,
    /// Counts changes of the region's data.
    serial: u32,
    held_since: Option<Duration>,
    /// The number of the last request that this store sent.
    asked: Option<u64>,
}

#[derive(Clone)]
struct World {
    core: Core,
    now: Duration,
    outside: [Outside; REGIONS.len()],
    taken: Option<Taken>,
    /// Per request: how often it was delivered, whether it has no final answer, whether it was told something since.
    requests: Vec<(u8, bool, bool)>,
    is_restarted: bool,
    trail: Vec<Event>,
}

/// Says what led to a panic.
struct Trail<'a>(&'a [Event], Event);

impl Drop for Trail<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}, then {:?}", self.0, self.1);
        }
    }
}

fn metadata(r: usize, version: u64) -> Region {
    let mut region = region(REGIONS[r]);
    region.mut_region_epoch().set_version(version);
    region
}

fn request(scope: &Scope, index: usize) -> PreloadRequest {
    let (r, store_id, version) = scope.requests[index];
    let region_id = REGIONS[r];
    PreloadRequest {
        region_id,
        from: Address::of(&peer(region_id, store_id)),
        to: Address::of(&peer(region_id, STORE)),
        epoch: Epoch { conf_ver: 2, version },
        number: 0,
    }
}

impl World {
    fn new(scope: &Scope) -> Self {
        Self {
            core: Core::new(STORE, scope.config(), 0),
            now: Duration::from_nanos(100),
            outside: Default::default(),
            taken: None,
            requests: vec![(0, false, false); scope.requests.len()],
            is_restarted: false,
            trail: Vec::new(),
        }
    }

    /// All that tells this state from another.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let core = &self.core;
        (&core.regions, &core.faint, &core.graves, &core.agenda, &core.requests, core.parked).hash(&mut hasher);
        (core.untold_from, core.config.enabled, core.pins.list().len(), core.outbox.messages_len()).hash(&mut hasher);
        (self.now, &self.outside, &self.requests, self.is_restarted).hash(&mut hasher);
        match &self.taken {
            None => 0_u8.hash(&mut hasher),
            Some(Taken::Load { r, version }) => (1_u8, r, version).hash(&mut hasher),
            Some(Taken::Probe { r, ticket, saw, serial }) => {
                let is_current = self.core.regions.get(&REGIONS[*r]).map(|e| e.warming.generation == ticket.generation);
                (2_u8, r, saw, serial, is_current).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Whether `event` may happen now and can make a difference.
    fn allows(&self, event: Event) -> bool {
        match event {
            Event::Request(index) => self.requests[index].0 < 2,
            Event::Evict(r) => self.outside[r].cached.is_some(),
            Event::Loaded(r) => self.outside[r].cached.is_some_and(|cached| !cached.is_active),
            Event::Answer(r, _) => self.outside[r].asked.is_some(),
            Event::Restart => !self.is_restarted,
            Event::Work => self.taken.is_some() || self.core.next_due().is_some_and(|due| due <= self.now),
            Event::Pass => self.core.next_due().is_some_and(|due| due > self.now),
            _ => true,
        }
    }

    fn apply(&mut self, scope: &Scope, event: Event) {
        let _trail = Trail(&self.trail.clone(), event);
        self.trail.push(event);
        self.happen(scope, event);
        self.check(scope);
    }

    fn happen(&mut self, scope: &Scope, event: Event) {
        let (now, core) = (self.now, &mut self.core);
        match event {
            Event::Request(index) => {
                let (deliveries, is_open, is_told) = &mut self.requests[index];
                (*deliveries, *is_open, *is_told) = (*deliveries + 1, true, false);
                core.request(request(scope, index), now);
                self.drain(scope);
            }
            Event::Uninitialized(r) => {
                let peer_id = peer(REGIONS[r], STORE).get_id();
                let role = Role { peer_id, is_initialized: false, is_leader: false, leader_peer_id: 0 };
                core.role_changed(&uninitialized(REGIONS[r]), role, now);
                // It knows of no leader.
                (self.outside[r].is_leader, self.outside[r].held_since) = (false, None);
            }
            Event::Announce(r) => core.snapshot_announced(REGIONS[r], Address::of(&peer(REGIONS[r], STORE)), now),
            Event::Create(r) => self.report(r, 2, MetadataChange::Create),
            Event::Update(r) => self.report(r, 3, MetadataChange::Update),
            Event::PrepareMerge(r) => self.report(r, 3, MetadataChange::PrepareMerge),
            Event::Malformed(r) => {
                let mut malformed = metadata(r, 2);
                malformed.mut_region_epoch().set_conf_ver(0);
                core.region_changed(&malformed, MetadataChange::Update, false, now);
                self.forget(r);
            }
            Event::Removed(r) => {
                let mut elsewhere = metadata(r, 2);
                elsewhere.mut_peers().remove(0);
                core.region_changed(&elsewhere, MetadataChange::Update, false, now);
                self.forget(r);
            }
            Event::PreApply(r) => self.snapshot(r, SnapshotStep::Applying),
            Event::PostApply(r) => self.snapshot(r, SnapshotStep::Applied),
            Event::Commit(r) => self.snapshot(r, SnapshotStep::Committed),
            Event::Cancel(r) => self.snapshot(r, SnapshotStep::Cancelled),
            Event::Destroy(r) => {
                core.peer_destroyed(&uninitialized(REGIONS[r]), now);
                core.region_gone(&uninitialized(REGIONS[r]), now);
                self.forget(r);
            }
            Event::Lead(r) | Event::Follow(r) => self.role(r, matches!(event, Event::Lead(_))),
            Event::Offer(r, is_preloaded) => self.offer(scope, r, is_preloaded),
            Event::Transfer(r) => {
                let targets = [Address::of(&peer(REGIONS[r], OTHER_STORE))];
                core.transfer_requested(REGIONS[r], &targets, now);
                self.drain(scope);
            }
            Event::Answer(r, kind) => {
                let (from, number) = (Address::of(&peer(REGIONS[r], OTHER_STORE)), self.outside[r].asked);
                core.answer(PreloadAnswer { region_id: REGIONS[r], from, kind, number: number.unwrap_or(0) });
            }
            Event::Evict(r) => self.outside[r].cached = None,
            Event::Loaded(r) => {
                let cached = self.outside[r].cached;
                self.outside[r].cached = cached.map(|cached| Cached { is_active: true, ..cached });
            }
            Event::Pin => {
                let all = KeyRange::parse(&PinnedRange { start_key: String::new(), end_key: String::new() }).unwrap();
                if !core.unpin(&all) {
                    core.pin(all).unwrap();
                }
            }
            Event::Enable => {
                let enabled = !core.config.enabled;
                core.set_config(CheckedConfig { enabled, ..core.config.clone() });
            }
            Event::Restart => {
                // Without a word: a crash.
                let trail = std::mem::take(&mut self.trail);
                let requests = self.requests.iter().map(|(deliveries, ..)| (*deliveries, false, false)).collect();
                *self = Self { now, trail, requests, is_restarted: true, ..Self::new(scope) };
            }
            Event::Work => self.work(scope),
            Event::Pass => {
                let is_idle = self.taken.is_none();
                let is_told = |&(_, is_open, is_told): &(u8, bool, bool)| !is_open || is_told;
                assert!(!is_idle || self.requests.iter().all(is_told), "I3: time passes and somebody was told nothing");
                self.now = self.core.next_due().unwrap_or(now).max(now);
            }
        }
    }

    /// The store reports complete metadata; the cache, of a region whose version changed, keeps the old incarnation.
    fn report(&mut self, r: usize, version: u64, change: MetadataChange) {
        let is_leader = self.outside[r].is_leader;
        self.core.region_changed(&metadata(r, version), change, is_leader, self.now);
        let outside = &mut self.outside[r];
        let is_merging = change == MetadataChange::PrepareMerge;
        if (outside.version, outside.is_merging) != (Some(version), is_merging) {
            outside.serial += 1;
            (outside.version, outside.is_merging) = (Some(version), is_merging);
            outside.cached = outside.cached.filter(|_| !is_merging);
        }
    }

    fn forget(&mut self, r: usize) {
        let Outside { serial, asked, .. } = self.outside[r];
        self.outside[r] = Outside { serial: serial + 1, asked, ..Outside::default() };
    }

    fn snapshot(&mut self, r: usize, step: SnapshotStep) {
        self.core.snapshot_step(REGIONS[r], step, self.now);
        let outside = &mut self.outside[r];
        outside.is_applying = step == SnapshotStep::Applying && self.core.regions.contains_key(&REGIONS[r]);
        if matches!(step, SnapshotStep::Applying | SnapshotStep::Applied) {
            outside.serial += 1;
            outside.cached = None;
        }
    }

    fn role(&mut self, r: usize, is_leader: bool) {
        let here = Address::of(&peer(REGIONS[r], STORE)).peer_id;
        let leader_peer_id = if is_leader { here } else { peer(REGIONS[r], OTHER_STORE).get_id() };
        let version = self.outside[r].version;
        let role = Role { peer_id: here, is_initialized: version.is_some(), is_leader, leader_peer_id };
        let known = version.map_or_else(|| uninitialized(REGIONS[r]), |version| metadata(r, version));
        self.core.role_changed(&known, role, self.now);
        let outside = &mut self.outside[r];
        (outside.is_leader, outside.held_since) = (is_leader, None);
    }

    fn offer(&mut self, scope: &Scope, r: usize, is_preloaded: bool) {
        let leader_peer_id = peer(REGIONS[r], OTHER_STORE).get_id();
        let ack = self.core.ack(REGIONS[r], Offer { leader_peer_id, term: 6, is_preloaded }, self.now);
        let outside = &mut self.outside[r];
        match ack {
            Ack::Go => outside.held_since = None,
            Ack::NotYet => {
                assert!(outside.version.is_some() && !outside.is_merging, "held back although it cannot be warmed up");
                let since = *outside.held_since.get_or_insert(self.now);
                let timeout = scope.config().warmup_timeout;
                // A hold that is not asked about for twice its time is forgotten, and another one begins.
                let held = self.now - since;
                assert!(held < timeout || held >= timeout * 2, "held back for {held:?}");
                if held >= timeout * 2 {
                    outside.held_since = Some(self.now);
                }
                let status = self.core.region_status(REGIONS[r]).expect("a region that is held back for is known");
                let is_loadable = status.snapshot == SnapshotPhase::Idle;
                assert!(
                    !is_preloaded || !is_loadable || status.wanted.is_some(),
                    "held back for a load that nobody wants"
                );
            }
        }
        self.drain(scope);
    }

    fn work(&mut self, scope: &Scope) {
        match self.taken.take() {
            Some(Taken::Load { r, version }) => {
                self.outside[r].cached.get_or_insert(Cached { version, is_active: false });
            }
            Some(Taken::Probe { r, ticket, saw, serial }) => {
                self.core.observed(&ticket, saw, self.now);
                // Answers that this leads to are about what was seen.
                let is_current = serial == self.outside[r].serial && !self.outside[r].is_applying;
                while let Some(message) = self.core.outbox.next_message() {
                    let is_warm =
                        matches!(&message, Action::Answer(a) if matches!(a.body, AnswerBody::Final(Final::Warm)));
                    assert!(!is_warm || (is_current && saw == CacheState::Active), "I5: warm, of data that is gone");
                    self.send(scope, message);
                }
            }
            None => {
                while self.core.tell_config(self.now) {}
                self.drain(scope);
                if let Some(action) = self.core.next_action(self.now) {
                    self.take(scope, action);
                }
            }
        }
    }

    fn take(&mut self, scope: &Scope, action: Action) {
        let (region, ticket) = match action {
            Action::Load(region) => (region, None),
            Action::Probe(ticket) => (ticket.region.clone(), Some(ticket)),
            message @ (Action::Answer(_) | Action::Ask(_)) => return self.send(scope, message),
        };
        let r = REGIONS.iter().position(|id| *id == region.id()).unwrap();
        let outside = &self.outside[r];
        let version = region.epoch().version;
        assert_eq!(outside.version, Some(version), "I1: not as the store has it");
        assert!(!outside.is_merging && !outside.is_applying, "I1, I5: merging or being replaced");
        let saw = match outside.cached {
            Some(cached) if cached.version != version => CacheState::Absent,
            Some(Cached { is_active: true, .. }) => CacheState::Active,
            Some(Cached { is_active: false, .. }) => CacheState::Loading,
            None => CacheState::Absent,
        };
        self.taken = Some(match ticket {
            None => Taken::Load { r, version },
            Some(ticket) => Taken::Probe { r, ticket, saw, serial: outside.serial },
        });
    }

    /// Sends what is ready to be sent: nothing is decided by when exactly that is.
    fn drain(&mut self, scope: &Scope) {
        while let Some(message) = self.core.outbox.next_message() {
            self.send(scope, message);
        }
    }

    fn send(&mut self, scope: &Scope, message: Action) {
        match message {
            Action::Ask(ask) => {
                let r = REGIONS.iter().position(|id| *id == ask.region.id()).unwrap();
                self.outside[r].asked = Some(ask.number);
            }
            Action::Answer(answer) => {
                let index = (0..self.requests.len()).find(|index| request(scope, *index) == answer.request);
                let (_, is_open, is_told) = &mut self.requests[index.expect("I3: an answer to nobody")];
                assert!(*is_open, "I3: answered again: {:?}", answer.body);
                *is_told = true;
                *is_open = matches!(answer.body, AnswerBody::Provisional(_));
            }
            Action::Load(_) | Action::Probe(_) => unreachable!("not a message"),
        }
    }

    fn check(&mut self, scope: &Scope) {
        self.drain(scope);
        self.core.take_notices();
        let status = self.core.status();
        let open = self.requests.iter().filter(|(_, is_open, _)| *is_open).count();
        assert_eq!(status.parked_requests, open, "I3: what is open waits");
        assert!(status.parked_requests <= scope.parked_max && status.in_flight_requests <= 1, "I6: {status:?}");
        assert!(status.faint_regions <= scope.parked_max.max(1), "I6: {status:?}");
        let counted: usize = RegionState::ALL.iter().map(|state| status.census.regions(*state)).sum();
        assert_eq!(counted, self.core.regions.len(), "each region is counted once");
    }

    /// Nothing happens any more, but the cache goes on loading.
    fn finish(mut self, scope: &Scope) {
        let end = self.now + Duration::from_nanos(60);
        for _ in 0..600 {
            let loading: Vec<_> = (0..scope.regions).filter(|r| self.allows(Event::Loaded(*r))).collect();
            let next = [Event::Work, Event::Pass].into_iter().find(|event| self.allows(*event));
            match (loading.first(), next) {
                (Some(r), _) => self.apply(scope, Event::Loaded(*r)),
                (None, Some(event)) if self.now < end => self.apply(scope, event),
                _ => break,
            }
        }
        let _trail = Trail(&self.trail, Event::Pass);
        let is_quiet = self.core.next_due().is_none_or(|due| due > end) || self.now >= end;
        assert!(is_quiet, "I2: the worker spins");
        assert!(self.requests.iter().all(|(_, is_open, _)| !is_open), "I3: never answered");
        let is_pinned = !self.core.pinned().is_empty();
        for region_id in REGIONS {
            let wanted = self.core.region_status(region_id).and_then(|status| status.wanted);
            assert!(wanted.is_none() || is_pinned, "I4: region {region_id} is wanted for ever: {wanted:?}");
        }
        assert_eq!(self.core.status().in_flight_requests, 0, "I4: asked for ever");
    }
}

/// Returns how many states were visited, and how many steps led to them.
fn explore(scope: &Scope) -> (usize, usize) {
    let more = std::env::var("PRELOAD_MODEL_DEPTH").ok().and_then(|depth| depth.parse::<usize>().ok()).unwrap_or(0);
    let events = scope.events();
    let mut visited = HashSet::new();
    let mut frontier = vec![World::new(scope)];
    let mut steps = 0;
    for depth in 1..=scope.depth + more {
        let mut next = Vec::new();
        for world in &frontier {
            for event in events.iter().copied().filter(|event| world.allows(*event)) {
                let mut world = world.clone();
                world.apply(scope, event);
                steps += 1;
                if visited.insert(world.fingerprint()) {
                    world.clone().finish(scope);
                    if depth < scope.depth + more {
                        next.push(world);
                    }
                }
            }
        }
        frontier = next;
    }
    println!(
        "{}: depth {}, {} events: {} states, {steps} steps",
        scope.name,
        scope.depth + more,
        events.len(),
        visited.len()
    );
    (visited.len(), steps)
}

#[track_caller]
fn assert_holds(scope: Scope, states_min: usize) {
    let (states, _) = explore(&scope);
    assert!(states >= states_min, "{states} states: the search does not get far");
}

#[test]
fn invariants_hold_in_every_order_of_events_of_two_regions() {
    let requests = &[(0, 2, 2), (1, 2, 3)];
    let scope = Scope { name: "two regions", regions: 2, requests, parked_max: 2, depth: 5, is_narrow: false };
    assert_holds(scope, 100_000);
}

#[test]
fn invariants_hold_in_every_order_of_events_of_one_region_with_two_requests() {
    let requests = &[(0, 2, 3), (0, 3, 2)];
    let scope = Scope { name: "one region", regions: 1, requests, parked_max: 1, depth: 7, is_narrow: false };
    assert_holds(scope, 100_000);
}

/// Deep enough for a request to be parked, its region to go through a snapshot, and to be warm.
#[test]
fn invariants_hold_in_every_order_of_events_around_a_snapshot() {
    let scope = Scope {
        name: "one region, snapshot",
        regions: 1,
        requests: &[(0, 2, 2)],
        parked_max: 1,
        depth: 12,
        is_narrow: true,
    };
    assert_holds(scope, 100_000);
}
