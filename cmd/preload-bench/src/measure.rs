//! How long something takes, for several sides in turns.
//!
//! **Owns** the samples: how long one is, in what order they are taken, what is thrown away.
//!
//! **How it works.**
//! 1. A [`Side`] does its work in batches, and says how long the part of a batch that counts took.
//! 2. A sample is as many batches as add up to [`SAMPLE_MIN`], and at least [`BATCHES_MIN`]. It is the median of these
//!    batches, in nanoseconds per item: a batch is far shorter than a time slice, so a thread that is preempted now and
//!    then, as on a busy machine, loses few of them. Their mean was off by a factor of two with five processes to a core.
//! 3. One sample of each side is thrown away: it warms up caches, branch predictors and the processor's clock.
//! 4. Then the sides take turns, A B A B …, so that whatever slows the machine down for a while slows down all of them.
//!
//! **Invariants.** All sides have equally many samples, and the n-th ones were taken one right after the other.
//!
//! **Must not** know what is measured.

use std::time::{Duration, Instant};

/// The least that the counted parts of a sample add up to: a hundred batches or more, and several time slices.
const SAMPLE_MIN: Duration = Duration::from_millis(20);

/// Fewer batches have no median to speak of: one that was preempted for long could be all that there is.
const BATCHES_MIN: usize = 31;

/// One of the things that are compared.
pub(crate) struct Side<'a> {
    pub(crate) name: &'static str,
    pub(crate) items_per_batch: usize,
    /// Does one batch, of the same work each time; returns how long the part of it that counts took. That should be
    /// between 10 µs and 1 ms: long against reading the clock, short against a time slice.
    pub(crate) batch: Box<dyn FnMut() -> Duration + 'a>,
}

/// What was measured of a side, in the order of the runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Samples {
    pub(crate) side: &'static str,
    /// Nanoseconds per item.
    pub(crate) nanos: Vec<f64>,
}

impl Side<'_> {
    fn sample(&mut self) -> f64 {
        let (mut batches, mut spent) = (Vec::new(), Duration::ZERO);
        while spent < SAMPLE_MIN || batches.len() < BATCHES_MIN {
            // A batch that is too short for the clock must not make this go on for ever.
            let batch = (self.batch)().max(Duration::from_nanos(1));
            spent += batch;
            batches.push(batch);
        }
        let middle = batches.len() / 2;
        let (_, median, _) = batches.select_nth_unstable(middle);
        median.as_nanos() as f64 / self.items_per_batch as f64
    }
}

/// Takes `runs` samples of each side; the result is in the order of `sides`.
pub(crate) fn in_turns(mut sides: Vec<Side<'_>>, runs: u32) -> Vec<Samples> {
    for side in &mut sides {
        side.sample();
    }
    let mut samples: Vec<_> = sides.iter().map(|side| Samples { side: side.name, nanos: Vec::new() }).collect();
    for _ in 0..runs {
        for (side, samples) in sides.iter_mut().zip(&mut samples) {
            samples.nanos.push(side.sample());
        }
    }
    samples
}

/// Does `work`; its result, and how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    // Measuring time is what this crate is for.
    #[allow(clippy::disallowed_methods)]
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// What the process `process_id` has in memory (`VmRSS`).
pub(crate) fn resident_bytes(process_id: u32) -> f64 {
    let path = format!("/proc/{process_id}/status");
    let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    let kib = resident_kib(&status).unwrap_or_else(|| panic!("{path} is not as proc(5) has it: {status}"));
    kib as f64 * 1024.0
}

fn resident_kib(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn side<'a>(name: &'static str, batch: impl FnMut() -> Duration + 'a) -> Side<'a> {
        Side { name, items_per_batch: 1000, batch: Box::new(batch) }
    }

    #[test]
    fn sides_take_turns_after_a_warm_up() {
        let order = RefCell::new(Vec::new());
        let taking = |name, batch: Duration| {
            let order = &order;
            side(name, move || {
                order.borrow_mut().push(name);
                batch
            })
        };
        let samples = in_turns(vec![taking("a", SAMPLE_MIN / 100), taking("b", SAMPLE_MIN / 50)], 2);
        let mut turns = order.into_inner();
        turns.dedup();
        assert_eq!(turns, ["a", "b", "a", "b", "a", "b"]);
        let expected =
            [Samples { side: "a", nanos: vec![200.0, 200.0] }, Samples { side: "b", nanos: vec![400.0, 400.0] }];
        assert_eq!(samples, expected);
    }

    #[test]
    fn a_preempted_batch_does_not_change_a_sample() {
        let batches = [50, 1, 1].map(Duration::from_millis);
        let mut next = batches.iter().cycle();
        let samples = in_turns(vec![side("a", || *next.next().unwrap())], 1);
        assert_eq!(samples[0].nanos, [1000.0]);
    }

    #[test]
    fn resident_memory_is_in_kib() {
        assert_eq!(resident_kib("Name:\ta\nVmRSS:\t  1234 kB\nRssAnon:\t 1 kB\n"), Some(1234));
        assert_eq!(resident_kib("Name:\ta\n"), None);
    }

    #[test]
    fn timed_hands_the_result_on() {
        assert_eq!(timed(|| 7).0, 7);
    }
}
