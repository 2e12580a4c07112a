//! The driver of the core: does what is to be done, outside of the lock that the hooks take.
//!
//! **Owns** the way between the hooks and the worker ([`Shared`]), and the work itself ([`Driver`]).
//!
//! **How it works.**
//! 1. A hook takes the lock, lets the core know, and wakes the worker if that is due earlier than it wanted to wake up.
//! 2. The worker tells the regions of a new configuration, if there is one. Then it takes one action at a time from the
//!    core and executes it without the lock: it loads, probes, sends.
//! 3. When there is none left it logs and counts the notices, and sleeps until the next action is due.
//!
//! Without a thread, [`Driver::step`] does 2 and 3 for a simulator, which moves the clock itself.
//!
//! **Invariants.** Until the store stops, the lock is held for an event or for taking an action, never while the cache engine, the transport or
//! the logger is called. A load is decided on right before it is made; a snapshot that comes in between is the reason
//! why the core forgets what it knew, and loads again, when the snapshot is applied: applying it evicts the region (I5).
//!
//! **Must not** be called by a hook.

use std::{sync::Arc, time::Duration};

use engine_traits::RegionCacheEngineExt;
use fail::fail_point;
use kvproto::raft_serverpb::RaftMessage;
use parking_lot::{Condvar, Mutex};
use raftstore::store::Transport;

use crate::{
    core::{Action, Answer, CacheState, Core, Notice, Ticket},
    initialized_region::InitializedRegion,
    message::{answer_message, ask_message},
    report::{self, Reporter},
};

/// The time since an arbitrary start; never goes back. Called by hooks, so it must not block.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// A cache engine, as `raftstore` and TiKV's server hand it around.
pub type CacheEngine = Arc<dyn RegionCacheEngineExt + Send + Sync>;

/// What the worker lets a [`Listener`] know.
#[derive(Clone, Copy, Debug)]
pub enum Happening<'a> {
    /// Something that is logged or counted as well.
    Notice(&'a Notice),
    /// An answer to a request of another store is about to be sent.
    AnswerSent(&'a Answer),
    /// The cache engine was asked for a load.
    LoadStarted { region_id: u64 },
}

/// Follows what the plugin does, for an operator to look at. Called by the worker, never by a hook, with no lock of the
/// plugin held; the worker does nothing else meanwhile, so it must be quick and keep no more than it has room for.
pub type Listener = Arc<dyn Fn(Happening<'_>) + Send + Sync>;

/// What hooks and worker share.
pub(crate) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    clock: Clock,
    cache: CacheEngine,
}

struct State {
    core: Core,
    /// Until when the worker sleeps; `None` without end. Earlier work has to wake it.
    sleeps_until: Option<Duration>,
    /// When the worker began with what it does now; `None` while it sleeps.
    busy_since: Option<Duration>,
    is_stopped: bool,
}

impl Shared {
    pub(crate) fn new(core: Core, clock: Clock, cache: CacheEngine) -> Self {
        let state = State { core, sleeps_until: Some(Duration::ZERO), busy_since: None, is_stopped: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), clock, cache }
    }

    /// Lets the core know of something.
    pub(crate) fn notify<R>(&self, event: impl FnOnce(&mut Core, Duration) -> R) -> R {
        let now = (self.clock)();
        let mut state = self.state.lock();
        let result = event(&mut state.core, now);
        let is_earlier = match (state.core.next_due(), state.sleeps_until) {
            (Some(due), Some(sleeps_until)) => due < sleeps_until,
            (Some(_), None) => true,
            (None, _) => false,
        };
        drop(state);
        if is_earlier {
            self.wake.notify_one();
        }
        result
    }

    /// Looks at the core without changing it.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.state.lock().core)
    }

    /// For how long the worker has been doing what it does now, a round of its work at most; zero while it sleeps.
    pub(crate) fn busy_for(&self) -> Duration {
        let now = (self.clock)();
        self.state.lock().busy_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Ends all requests, and the worker once it has said so.
    pub(crate) fn stop(&self) {
        let now = (self.clock)();
        let mut state = self.state.lock();
        state.is_stopped = true;
        state.core.stop(now);
        drop(state);
        self.wake.notify_one();
    }

    /// Sleeps until there is something to do; false when there is nothing ever again.
    pub(crate) fn wait_for_work(&self) -> bool {
        let mut state = self.state.lock();
        state.busy_since = None;
        loop {
            if state.is_stopped {
                return false;
            }
            let (now, due) = ((self.clock)(), state.core.next_due());
            match due {
                Some(due) if due <= now => {
                    state.sleeps_until = Some(Duration::ZERO);
                    state.busy_since = Some(now);
                    return true;
                }
                Some(due) => {
                    state.sleeps_until = Some(due);
                    self.wake.wait_for(&mut state, due.saturating_sub(now));
                }
                None => {
                    state.sleeps_until = None;
                    self.wake.wait(&mut state);
                }
            }
        }
    }

    /// TiKV's handler before its fix: whatever is known of the region goes to the cache engine, on the store's thread.
    #[cfg(feature = "failpoints")]
    pub(crate) fn load_unchecked(&self, region_id: u64) {
        use crate::core::PeerState;

        let known = self.inspect(|core| match core.region_status(region_id)?.peer {
            PeerState::Initialized(local) | PeerState::Merging(local) => Some(local.region),
            PeerState::Unknown | PeerState::Uninitialized { .. } | PeerState::Malformed(_) => None,
        });
        match known {
            Some(region) => self.cache.load_region(region.as_region()),
            None => {
                let mut region = kvproto::metapb::Region::default();
                region.set_id(region_id);
                self.cache.load_region(&region);
            }
        }
    }
}

/// Sends a message, whatever type the transport has.
type SendMessage = Box<dyn FnMut(RaftMessage) -> raftstore::Result<()> + Send>;

/// Executes the core's actions.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    send: SendMessage,
    reporter: Reporter,
    listener: Option<Listener>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, mut transport: impl Transport + 'static) -> Self {
        let send = Box::new(move |message| transport.send(message));
        Self { shared, send, reporter: Reporter::default(), listener: None }
    }

    pub(crate) fn set_listener(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    fn tell(&self, happening: Happening<'_>) {
        if let Some(listener) = &self.listener {
            listener(happening);
        }
    }

    /// Does all that is due now; returns when there is something to do again.
    pub(crate) fn step(&mut self) -> Option<Duration> {
        fail_point!("preload_observer::worker::pause");
        while self.tell_config() {}
        while let Some(action) = self.next_action() {
            match action {
                Action::Load(region) => self.load(&region),
                Action::Probe(ticket) => self.probe(&ticket),
                Action::Answer(answer) => self.answer(&answer),
                Action::Ask(ask) => self.send(ask_message(&ask)),
            }
        }
        let mut state = self.shared.state.lock();
        let (notices, notices_lost) = state.core.take_notices();
        let (status, due) = (state.core.status(), state.core.next_due());
        drop(state);
        let now = (self.shared.clock)();
        self.reporter.report(&notices, notices_lost, status, now);
        notices.iter().for_each(|notice| self.tell(Happening::Notice(notice)));
        due
    }

    /// Takes the lock for a part of the regions only.
    fn tell_config(&self) -> bool {
        let now = (self.shared.clock)();
        self.shared.state.lock().core.tell_config(now)
    }

    fn next_action(&self) -> Option<Action> {
        let now = (self.shared.clock)();
        self.shared.state.lock().core.next_action(now)
    }

    /// The one place that hands a region to the cache engine to be loaded.
    fn load(&self, region: &InitializedRegion) {
        fail_point!("preload_observer::load::pause");
        self.shared.cache.load_region(region.as_region());
        report::load_started();
        self.tell(Happening::LoadStarted { region_id: region.id() });
    }

    /// The one place that looks a region up in the cache engine; without `active_only`, one that is loading counts. In
    /// TiKV v8.4.0 to v8.5.1 `region_cached` takes the region alone: porting the plugin there changes this line.
    fn is_cached(&self, region: &InitializedRegion, active_only: bool) -> bool {
        self.shared.cache.region_cached(region.as_region(), active_only)
    }

    fn probe(&self, ticket: &Ticket) {
        let state = if self.is_cached(&ticket.region, true) {
            CacheState::Active
        } else if self.is_cached(&ticket.region, false) {
            CacheState::Loading
        } else {
            CacheState::Absent
        };
        fail_point!("preload_observer::probe::before_observed");
        let now = (self.shared.clock)();
        self.shared.state.lock().core.observed(ticket, state, now);
    }

    fn answer(&mut self, answer: &Answer) {
        fail_point!("preload_observer::answer::drop", |_| ());
        report::answer_sent(answer);
        self.tell(Happening::AnswerSent(answer));
        self.send(answer_message(answer));
    }

    fn send(&mut self, message: RaftMessage) {
        let region_id = message.get_region_id();
        if let Err(error) = (self.send)(message) {
            report::send_failed(region_id, &error);
        }
    }
}
