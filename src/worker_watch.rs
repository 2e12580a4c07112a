//! Tells from outside whether a worker stands still.
//!
//! **Owns** the gauge of how long the workers of this process have been at what they do.
//!
//! **How it works.** All other metrics are shown by the worker after its work, so they stand still with it. This one is
//! taken when metrics are collected, by the thread that collects them.
//!
//! **Invariants.** Holds no plugin back from being dropped.
//!
//! **Must not** hold a plugin's lock for longer than to read a number.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus::{
    Gauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{metrics::WORKER_BUSY_SECONDS, worker::Shared};

/// The workers of this process.
#[derive(Clone, Default)]
struct Workers(Arc<Mutex<Vec<Weak<Shared>>>>);

impl Workers {
    fn add(&self, shared: &Arc<Shared>) {
        let mut workers = self.0.lock();
        workers.retain(|worker| worker.strong_count() > 0);
        workers.push(Arc::downgrade(shared));
    }

    /// Of the one that has been at it for longest.
    fn busy_for(&self) -> Duration {
        let workers = self.0.lock();
        workers.iter().filter_map(Weak::upgrade).map(|shared| shared.busy_for()).max().unwrap_or_default()
    }
}

struct BusyCollector {
    workers: Workers,
    gauge: Gauge,
}

impl Collector for BusyCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.workers.busy_for().as_secs_f64());
        self.gauge.collect()
    }
}

/// Shows the worker of `shared` from now on. Without effect when the registry refuses the metric: the plugin works without.
pub(crate) fn watch(shared: &Arc<Shared>) {
    static WORKERS: OnceLock<Option<Workers>> = OnceLock::new();
    let register = || {
        let workers = Workers::default();
        let help = "For how long a worker of this process has been doing what it does now, the longest of them; 0 while all sleep";
        let collector = BusyCollector { workers: workers.clone(), gauge: Gauge::new(WORKER_BUSY_SECONDS, help).ok()? };
        prometheus::register(Box::new(collector)).ok()?;
        Some(workers)
    };
    if let Some(workers) = WORKERS.get_or_init(register) {
        workers.add(shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, core::Core, test_support::FakeCache, worker::Clock};

    #[test]
    fn worker_that_stands_still_is_seen_from_outside() {
        let now = Arc::new(Mutex::new(Duration::from_secs(100)));
        let clock: Clock = Arc::new({
            let now = now.clone();
            move || *now.lock()
        });
        let config = Config::default().check().unwrap();
        let shared = Arc::new(Shared::new(Core::new(1, config.clone(), 1), clock, Arc::new(FakeCache::default())));
        let workers = Workers::default();
        workers.add(&shared);
        assert_eq!(workers.busy_for(), Duration::ZERO);

        shared.notify(|core, _| core.set_config(config));
        *now.lock() += Duration::from_secs(5);
        assert_eq!(workers.busy_for(), Duration::ZERO, "it has not begun");
        assert!(shared.wait_for_work());
        *now.lock() += Duration::from_secs(7);
        assert_eq!(workers.busy_for(), Duration::from_secs(7));

        shared.stop();
        assert!(!shared.wait_for_work());
        assert_eq!(workers.busy_for(), Duration::ZERO);
        drop(shared);
        assert_eq!(workers.busy_for(), Duration::ZERO);
    }
}
