//! Puts: how many per second, and how long one takes.
//!
//! **Owns** the client.
//!
//! **How it works.** One thread keeps a fixed number of puts in flight: an answer is what makes it send the next one. A
//! store answers on its own thread, where the time is taken and the answer put into the client's channel. Samples follow
//! one another without a pause, after a warm-up that does not count.
//!
//! **Invariants.** A put that was refused counts for nothing and is sent again, to whoever leads then.
//!
//! **Must not** look at the cluster while a sample is taken, unless a put was refused.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use engine_traits::Cf;
use kvproto::raft_cmdpb::RaftCmdResponse;
use test_raftstore::{Cluster, requests, wait};

use super::surroundings::{Led, led_regions, populate, prefix, start};
use crate::report::{Case, Figure};

/// Puts that are not answered yet, at any time. Enough to keep a log write going while the one before is synced, and few
/// enough that none waits for many syncs.
pub(super) const IN_FLIGHT: usize = 128;

/// What a row of a small table has.
pub(super) const VALUE_BYTES: usize = 100;

/// Caches fill up, files grow to their size, leaders learn how far followers are.
const WARM_UP: Duration = Duration::from_secs(1);

/// No put takes so long, unless something is wrong.
const ANSWER: Duration = Duration::from_secs(30);

pub(super) fn figures(regions: u32, sample: Duration, runs: u32) -> Vec<Figure> {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let cluster = start(dir.path());
    let led = populate(&cluster, regions);
    let mut client = Client::new(&cluster, led);
    client.begin();
    client.sample(WARM_UP);
    let samples: Vec<Sample> = (0..runs).map(|_| client.sample(sample)).collect();
    client.end();

    let figure = |suffix, unit, value: fn(&Sample) -> f64| {
        let case = Case { bench: "raftstore", case: format!("put_{regions}_regions{suffix}").into(), unit };
        case.alone("ours", samples.iter().map(value).collect())
    };
    vec![
        figure("", "puts/s", |sample| sample.puts_per_second),
        figure("_p50", "ms", |sample| sample.p50_millis),
        figure("_p99", "ms", |sample| sample.p99_millis),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    puts_per_second: f64,
    p50_millis: f64,
    p99_millis: f64,
}

impl Sample {
    fn of(mut latencies: Vec<Duration>, spent: Duration) -> Self {
        latencies.sort_unstable();
        let percentile = |percent: usize| {
            let rank = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
            latencies.get(rank).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
        };
        let puts_per_second = latencies.len() as f64 / spent.as_secs_f64();
        Self { puts_per_second, p50_millis: percentile(50), p99_millis: percentile(99) }
    }
}

struct Answer {
    /// The number of the region.
    index: usize,
    latency: Duration,
    response: RaftCmdResponse,
}

struct Client<'a> {
    cluster: &'a Cluster,
    led: Vec<Led>,
    sent: usize,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl<'a> Client<'a> {
    fn new(cluster: &'a Cluster, led: Vec<Led>) -> Self {
        Self { cluster, led, sent: 0, answers: unbounded() }
    }

    fn begin(&mut self) {
        (0..IN_FLIGHT).for_each(|_| self.send_next());
    }

    /// Sends on for `duration`.
    fn sample(&mut self, duration: Duration) -> Sample {
        let start = now();
        let mut latencies = Vec::new();
        while start.elapsed() < duration {
            let answer = self.receive();
            if answer.response.get_header().has_error() {
                self.look_up_leaders();
                self.send(answer.index);
            } else {
                latencies.push(answer.latency);
                self.send_next();
            }
        }
        Sample::of(latencies, start.elapsed())
    }

    /// Waits for what is in flight.
    fn end(self) {
        (0..IN_FLIGHT).for_each(|_| drop(self.receive()));
    }

    fn receive(&self) -> Answer {
        self.answers.1.recv_timeout(ANSWER).expect("each put is answered")
    }

    fn send_next(&mut self) {
        self.send(self.sent % self.led.len());
    }

    fn send(&mut self, index: usize) {
        self.sent += 1;
        let Led { region, store_id } = &self.led[index];
        let number = u32::try_from(index).expect("there are fewer regions");
        let key = format!("{}{:010}", prefix(number), self.sent);
        let put = requests::put(Cf::Default, key.as_bytes(), &[0xa5; VALUE_BYTES]);
        let command = requests::write(region, vec![put]);
        let (answers, start) = (self.answers.0.clone(), now());
        let callback = move |response| {
            // Fails only when the client is gone.
            let _ = answers.send(Answer { index, latency: start.elapsed(), response });
        };
        self.cluster.store(*store_id).command(command, Box::new(callback)).expect("the store runs");
    }

    fn look_up_leaders(&mut self) {
        let count = self.led.len();
        self.led = wait::until_some("leaders", || Some(led_regions(self.cluster)).filter(|led| led.len() == count));
    }
}

#[allow(clippy::disallowed_methods)] // Measuring time is what this crate is for.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_answered() {
        let latencies = (1..=200).rev().map(Duration::from_millis).collect();
        let sample = Sample::of(latencies, Duration::from_secs(2));
        assert_eq!(sample, Sample { puts_per_second: 100.0, p50_millis: 100.0, p99_millis: 198.0 });
        assert_eq!(Sample::of(Vec::new(), Duration::from_secs(1)).p99_millis, 0.0);
    }

    #[test]
    fn puts_go_to_all_regions_and_are_counted() {
        let cases = figures(2, Duration::from_millis(50), 1);
        assert_eq!(cases.len(), 3);
    }
}
