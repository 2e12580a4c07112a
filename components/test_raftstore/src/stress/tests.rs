use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use parking_lot::Mutex;
use tikv_util::config::ReadableSize;

use super::{Options, Sabotage, Tally, run};

/// The caches' metrics, which tell of differences, are those of the process: one run at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn options(duration: Duration) -> Options {
    Options { seed: 1, duration, cache_capacity: ReadableSize::mb(2), sabotage: None }
}

#[test]
fn a_short_stress_finds_no_difference() {
    let _alone = ONE_AT_A_TIME.lock();
    let tally = Arc::default();
    let outcome = run(&options(Duration::from_secs(5)), &tally, &Arc::default(), |_| {});
    outcome.unwrap_or_else(|failure| panic!("{failure}; {:#?}", tally.all()));
}

#[test]
fn a_write_that_the_cache_misses_is_noticed() {
    let _alone = ONE_AT_A_TIME.lock();
    let tally: Arc<Tally> = Arc::default();
    let options = Options { sabotage: Some(Sabotage::CacheMissesWrites), ..options(Duration::from_secs(120)) };
    let failure = run(&options, &tally, &Arc::new(AtomicBool::new(false)), |_| {}).unwrap_err();
    // A reader may be the first to come upon the lock that nobody has written, or the cache itself.
    assert!(["memory and disk", "reads", "cross-check"].contains(&failure.check), "{failure}");
}
