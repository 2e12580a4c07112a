//! Getting one region into the cache, and keeping an eye on it.
//!
//! **Owns** what was last seen of the region in the cache, and what is to be done about it next.
//!
//! **How it works.** Probe, and act on what is seen:
//!
//! 1. *Active*: done. Probe again after `reconcile-interval`, for as long as anyone cares.
//! 2. *Loading*: probe again after `probe-interval`.
//! 3. *Absent*, and no load was tried: load now, then probe after `probe-interval`.
//! 4. *Absent* after a load: the load is lost. It was refused, it failed, or the region was evicted before it was seen
//!    active. Load again after a backoff that doubles until the region is seen active.
//!
//! **Invariants.** What was seen belongs to one generation of the region's data. A snapshot, a split or any other change
//! of the data starts a new one, and what a probe of an older one sees is thrown away (I5). After a step, the next one
//! lies in the future.
//!
//! **Must not** load: it says when, the driver does.

use std::time::Duration;

use super::action::{CacheState, Source};
use crate::config::CheckedConfig;

/// What the region's cache is looked at for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) enum Goal {
    #[default]
    Nothing,
    /// Somebody wants to know whether the region is cached.
    Know,
    Warm(Source),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) enum Step {
    #[default]
    Probe,
    Load,
}

/// Which of the configuration's intervals a step waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
enum Wait {
    #[default]
    Probe,
    Reconcile,
    Backoff,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Warming {
    pub(super) generation: u64,
    goal: Goal,
    seen: Option<(CacheState, Duration)>,
    next: Step,
    next_at: Duration,
    /// What `next_at` was derived from, if it lies in the future.
    wait: Wait,
    /// Loads since the region was seen active, the goal was set or the data changed.
    loads: u32,
    /// Loads in a row that were lost; `loads_lost <= loads`.
    loads_lost: u32,
    /// Since when the region is to be warm, and its data is what it is.
    wanted_since: Duration,
}

/// All but the generation, which only has to differ from that of a probe that is out.
#[cfg(test)]
impl std::hash::Hash for Warming {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.goal, self.seen, self.next, self.next_at, self.wait).hash(state);
        (self.loads, self.loads_lost, self.wanted_since).hash(state);
    }
}

impl Warming {
    /// The region's data is another now.
    pub(super) fn restart(&mut self, generation: u64, now: Duration) {
        *self = Self { generation, goal: self.goal, next_at: now, wanted_since: now, ..Self::default() };
    }

    pub(super) fn set_goal(&mut self, goal: Goal, now: Duration) {
        let (was_warm, is_warm) = (matches!(self.goal, Goal::Warm(_)), matches!(goal, Goal::Warm(_)));
        if was_warm != is_warm {
            self.next = Step::Probe;
            (self.loads, self.loads_lost) = (0, 0);
            self.wanted_since = now;
        }
        if is_warm && !was_warm || goal != Goal::Nothing && self.goal == Goal::Nothing {
            self.next_at = now;
        }
        self.goal = goal;
    }

    /// Somebody wants to know now: does not wait for the next probe. A load that is backing off goes on doing so.
    pub(super) fn probe_soon(&mut self, now: Duration) {
        if self.next == Step::Probe {
            self.next_at = self.next_at.min(now);
        }
    }

    /// Whether the region was not in the cache, or not completely, when it was last looked for. When not, and somebody
    /// waits, a probe is due.
    pub(super) fn is_known_cold(&self) -> bool {
        matches!(self.seen(), Some(CacheState::Absent | CacheState::Loading))
    }

    pub(super) fn wanted_since(&self) -> Duration {
        self.wanted_since
    }

    pub(super) fn seen(&self) -> Option<CacheState> {
        self.seen.map(|(state, _)| state)
    }

    /// Whether the region was found active, not longer than `age` ago.
    pub(super) fn was_active_within(&self, age: Duration, now: Duration) -> bool {
        self.seen.is_some_and(|(state, at)| state == CacheState::Active && now.saturating_sub(at) <= age)
    }

    pub(super) fn loads_lost(&self) -> u32 {
        self.loads_lost
    }

    pub(super) fn loads(&self) -> u32 {
        self.loads
    }

    pub(super) fn due(&self) -> Option<Duration> {
        (self.goal != Goal::Nothing).then_some(self.next_at)
    }

    /// What is to be done now.
    pub(super) fn take_step(&mut self, now: Duration, config: &CheckedConfig) -> Option<Step> {
        if self.due()? > now {
            return None;
        }
        let step = std::mem::take(&mut self.next);
        if step == Step::Load {
            self.loads = self.loads.saturating_add(1);
        }
        self.wait = Wait::Probe;
        self.next_at = now.saturating_add(config.probe_interval);
        Some(step)
    }

    /// The intervals may be shorter now: none that was begun with a longer one lasts longer than a new one would.
    pub(super) fn shorten_wait(&mut self, now: Duration, config: &CheckedConfig, jitter: &mut Jitter) {
        let interval = self.interval(config);
        if self.next_at > now.saturating_add(interval) {
            // All regions get here at the same time; without jitter they would be in step from now on.
            self.next_at = now.saturating_add(jitter.shorten(interval));
        }
    }

    /// A probe of this generation saw `state`.
    pub(super) fn observed(&mut self, state: CacheState, now: Duration, config: &CheckedConfig, jitter: &mut Jitter) {
        self.seen = Some((state, now));
        self.wait = match (state, self.goal) {
            (CacheState::Active, _) => {
                (self.loads, self.loads_lost) = (0, 0);
                Wait::Reconcile
            }
            // Nothing is won yet: a region that is too large gets this far each time.
            (CacheState::Loading, _) => Wait::Probe,
            (CacheState::Absent, Goal::Nothing | Goal::Know) => Wait::Reconcile,
            (CacheState::Absent, Goal::Warm(_)) if self.loads == 0 => {
                (self.next, self.next_at) = (Step::Load, now);
                return;
            }
            (CacheState::Absent, Goal::Warm(_)) => {
                self.next = Step::Load;
                self.loads_lost = self.loads_lost.saturating_add(1);
                Wait::Backoff
            }
        };
        let interval = self.interval(config);
        let interval = if self.wait == Wait::Backoff { jitter.shorten(interval) } else { interval };
        self.next_at = now.saturating_add(interval);
    }

    fn interval(&self, config: &CheckedConfig) -> Duration {
        match self.wait {
            Wait::Probe => config.probe_interval,
            Wait::Reconcile => config.reconcile_interval,
            Wait::Backoff => {
                let factor = 1_u32.checked_shl(self.loads_lost.saturating_sub(1)).unwrap_or(u32::MAX);
                config.load_retry_backoff_min.saturating_mul(factor).min(config.load_retry_backoff_max)
            }
        }
    }
}

/// Spreads what would otherwise happen at the same time. Seeded, so that a run can be replayed.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Takes up to half of `duration` away.
    pub(super) fn shorten(&mut self, duration: Duration) -> Duration {
        // A step of splitmix64: quality does not matter here, having no state to lock and no dependency does.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let thousandth = u32::try_from((mixed ^ (mixed >> 27)) % 501).unwrap_or(0);
        duration.saturating_sub(duration / 1000 * thousandth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn backoff_doubles_up_to_its_maximum_and_is_spread() {
        let config = Config::default().check().unwrap();
        let mut jitter = Jitter::new(1);
        let mut warming = Warming::default();
        let mut now = Duration::from_secs(1);
        warming.set_goal(Goal::Warm(Source::Pinned), now);
        assert_eq!(warming.take_step(now, &config), Some(Step::Probe));
        warming.observed(CacheState::Absent, now, &config, &mut jitter);
        assert_eq!(warming.due(), Some(now), "the first load does not wait");
        let mut waits = Vec::new();
        for _ in 0..40 {
            assert_eq!(warming.take_step(now, &config), Some(Step::Load));
            warming.observed(CacheState::Absent, now, &config, &mut jitter);
            waits.push(warming.due().unwrap() - now);
            now = warming.due().unwrap();
        }
        for (n, wait) in waits.iter().enumerate() {
            let full = config.load_retry_backoff_min.saturating_mul(1 << n.min(20)).min(config.load_retry_backoff_max);
            assert!(*wait <= full && *wait >= full / 2, "{n}: {wait:?} of {full:?}");
        }
        assert_ne!(waits[20], waits[21]);
    }

    #[test]
    fn what_an_older_goal_left_behind_does_not_delay_a_new_one() {
        let config = Config::default().check().unwrap();
        let now = Duration::from_secs(1);
        let mut warming = Warming::default();
        warming.set_goal(Goal::Warm(Source::Request), now);
        for _ in 0..9 {
            warming.take_step(now, &config);
            warming.loads = 1;
            warming.observed(CacheState::Absent, now, &config, &mut Jitter::new(1));
        }
        assert!(warming.due() > Some(now));
        warming.set_goal(Goal::Nothing, now);
        assert_eq!(warming.due(), None);
        warming.set_goal(Goal::Warm(Source::Request), now);
        assert_eq!((warming.due(), warming.loads_lost()), (Some(now), 0));
    }
}
