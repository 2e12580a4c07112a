use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tikv_util::config::ReadableSize;

use super::{Options, Sabotage, Tally, run};

fn options(duration: Duration) -> Options {
    Options { seed: 1, duration, cache_capacity: ReadableSize::mb(2), sabotage: None }
}

#[test]
fn a_short_stress_finds_no_difference() {
    let tally = Arc::default();
    let outcome = run(&options(Duration::from_secs(5)), &tally, &Arc::default(), |_| {});
    outcome.unwrap_or_else(|failure| panic!("{failure}; {:#?}", tally.all()));
}

#[test]
fn a_write_that_the_cache_misses_is_noticed() {
    let tally: Arc<Tally> = Arc::default();
    let options = Options { sabotage: Some(Sabotage::CacheMissesWrites), ..options(Duration::from_secs(120)) };
    let failure = run(&options, &tally, &Arc::new(AtomicBool::new(false)), |_| {}).unwrap_err();
    // A reader may be the first to come upon the lock that nobody has written.
    assert!(["memory and disk", "reads"].contains(&failure.check), "{failure}");
}
