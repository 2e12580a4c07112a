//! Runs seeds, and tells how they went.
//!
//! # What it owns
//! What is around a run: catching a panic, and replaying a run with its log recorded.
//!
//! # How it works
//! The panic hook of the process is replaced once by one that keeps the message of a panic for the thread it was on,
//! instead of printing it, while the thread is in a run. A run that panicked is taken apart like any other.
//!
//! # Invariants
//! Runs on several threads do not know of each other.
//!
//! # What it must not do
//! Print.

use std::{
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Once},
};

use parking_lot::Mutex;

use super::{Sabotage, Violation, checks::disabled_cache, coverage::Coverage, plan::Setup, trace::Trace, world::World};

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    /// Of all that happened.
    pub log_hash: u64,
    /// What happened, if it was to be recorded.
    pub log: Vec<String>,
    pub coverage: Coverage,
    pub result: Result<(), Violation>,
}

/// Every so many seeds are run two more times, without a cache: with the plugin and without it.
const WITHOUT_CACHE_EVERY: u64 = 16;

thread_local! {
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs one seed. A panic is a violation of its own.
pub fn run(seed: u64, sabotage: Option<Sabotage>, is_recorded: bool) -> Outcome {
    let coverage = Coverage::default();
    let trace = Arc::new(Mutex::new(Trace::new(is_recorded)));
    let mut result = run_once(seed, sabotage, Setup::Full, &trace, &coverage);
    if result.is_ok() && seed.is_multiple_of(WITHOUT_CACHE_EVERY) {
        result = disabled_cache::check(|setup, is_recorded| {
            let trace = Arc::new(Mutex::new(Trace::new(is_recorded)));
            let result = run_once(seed, sabotage, setup, &trace, &Coverage::default());
            result.map(|()| std::mem::replace(&mut *trace.lock(), Trace::new(false)))
        });
    }
    let mut trace = trace.lock();
    let log = trace.take_lines().into_iter().map(|line| line.text).collect();
    Outcome { seed, log_hash: trace.hash(), log, coverage, result }
}

fn run_once(
    seed: u64,
    sabotage: Option<Sabotage>,
    setup: Setup,
    trace: &Arc<Mutex<Trace>>,
    coverage: &Coverage,
) -> Result<(), Violation> {
    keep_panics();
    IS_RUNNING.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        World::new(seed, sabotage, setup, trace.clone(), coverage.clone())?.run()
    }));
    IS_RUNNING.set(false);
    result.unwrap_or_else(|_| {
        let what = PANIC.take().unwrap_or_else(|| "a panic without a message".to_owned());
        Err(Violation::new("no-panic (I2)", what))
    })
}

fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_RUNNING.get() {
                PANIC.set(Some(info.to_string().replace('\n', " ")));
            } else {
                before(info);
            }
        }));
    });
}
