//! What readers notice of leadership that moves, for three ways to warm the next leader up.
//!
//! **Owns** the cases, and the order in which they are measured.
//!
//! **How it works.** For each policy ([`policy`]) a cluster of three stores with real threads, engines and log files is
//! filled, and every region is in its leader's cache before anything is measured. Readers ([`readers`]) read all the time;
//! what they see is sorted by when a read began:
//!
//! 1. *steady*: for a while nothing moves, nor did for a while before;
//! 2. *round*: in turns with that, leaders are moved round and round the stores, one after the other, and none again
//!    within [`stage::AFTER`]; every [`moves::REPLACED_EVERY`]-th move is to a replica that is being added just then, so that
//!    the target's peer is not initialized when it is asked;
//! 3. *rolling_restart*: for each store in turn, all its leaders are moved away at once, it is restarted, and they are moved
//!    back.
//!
//! - `…_warm`: leaderships that arrived with the region active in the new leader's cache, in per cent;
//! - `…_moves`: how many arrived; `…_moves_failed`: how many did not within [`moves::DEADLINE`];
//! - `…_cold_reads`: reads that were served by the disk within [`stage::AFTER`] of an arrival; `…_reads`: all reads then;
//! - `steady_p50`, `…_after_p50` and so on: how long a read took, in steady state and within that time; `…_wait_p999` and
//!   `…_scan_p999`: how long it took until there was a snapshot, and how long from there on;
//! - `…_after_p999_ratio`: the latter over the former;
//! - `…_during_reads`, `…_during_p50`, `…_during_max`: reads that were under way when leadership changed: they wait for an
//!   election; `…_refused_reads`: those of both kinds that had to be sent again;
//! - `…_move_p50`, `…_move_max`: from the moment at which somebody wants a leader moved to that at which it has.
//!
//! A read is a linearizable snapshot from the leader, and [`readers::SCAN_KEYS`] keys read from it. It includes a round of
//! heartbeats, and everything runs on one machine: it competes with the loads, the snapshots and the other stores for the
//! processor.
//!
//! **Invariants.** The policies are given the same data, the same moves and the same settings.
//!
//! **Must not** change settings in favour of a figure.

mod moves;
mod policy;
mod readers;
mod stage;

use std::time::Duration;

use clap::Args;

use self::{policy::Policy, readers::Moved, stage::Stage};
use crate::{
    measure::Samples,
    report::{Case, Figure},
};

/// What can be set about the scenario.
#[derive(Args)]
pub(crate) struct Options {
    /// How many regions there are.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(3..=1000))]
    regions: u32,
    /// Rows of 200 bytes in each region.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    rows: u32,
    /// How many moves the round has.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    moves: u32,
    /// Time between two moves of the round [default: so long that no region is moved again within 2 s].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pause: Option<u32>,
    /// In how many turns the steady state and the round are measured, so that what else the machine does is in both.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    turns: u32,
    /// How long the steady state is looked at, all turns together.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

impl Options {
    fn pause(&self) -> Duration {
        self.pause.map_or(stage::AFTER / self.regions, |millis| Duration::from_millis(millis.into()))
    }
}

/// One measured quantity.
struct Value {
    case: String,
    unit: &'static str,
    value: f64,
}

/// All figures of the scenario; each policy is measured `runs` times, in turns.
pub(crate) fn run(options: &Options, runs: u32) -> Vec<Figure> {
    let mut measured: Vec<Vec<Vec<Value>>> = Policy::ALL.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        for (policy, values) in Policy::ALL.into_iter().zip(&mut measured) {
            values.push(measure(policy, options));
        }
    }
    let [first, ..] = &measured[..] else { return Vec::new() };
    let cases = first.first().map_or(0, Vec::len);
    let figures = (0..cases).flat_map(|at| {
        let Value { case, unit, .. } = &first[0][at];
        let case = Case { bench: "transfer", case: case.clone().into(), unit };
        let sides = Policy::ALL.into_iter().zip(&measured);
        let samples = sides.map(|(policy, runs)| Samples {
            side: policy.name(),
            nanos: runs.iter().map(|values| values[at].value).collect(),
        });
        samples.map(|side| case.alone(side.side, side.nanos)).collect::<Vec<_>>()
    });
    figures.collect()
}

fn measure(policy: Policy, options: &Options) -> Vec<Value> {
    let mut stage = Stage::build(policy, options.regions, options.rows);
    stage.rest();
    let readers = readers::start(&stage);
    let mut round = moves::Moves::default();
    for turn in 0..options.turns {
        stage.watch(stage::Phase::Steady);
        stage.pause(Duration::from_secs(options.seconds.into()) / options.turns);
        stage.watch(stage::Phase::Round);
        let moves = options.moves * (turn + 1) / options.turns - options.moves * turn / options.turns;
        moves::round(&stage, moves, options.pause(), &mut round);
        stage.rest();
    }
    stage.watch(stage::Phase::RollingRestart);
    let restart = moves::rolling_restart(&mut stage);
    stage.rest();
    stage.watch(stage::Phase::Idle);
    let reads = readers.stop();

    let steady = &reads.steady;
    let mut values = Vec::new();
    let mut add = |case: String, unit, value| values.push(Value { case, unit, value });
    add("steady_reads".into(), "reads", steady.total as f64);
    add("steady_cold_reads".into(), "reads", steady.cold as f64);
    let p999_steady = steady.whole.millis(99.9);
    for (name, percentile) in [("p50", 50.0), ("p99", 99.0), ("p999", 99.9)] {
        add(format!("steady_{name}"), "ms", steady.whole.millis(percentile));
    }
    add("steady_wait_p999".into(), "ms", steady.wait.millis(99.9));
    add("steady_scan_p999".into(), "ms", steady.scan.millis(99.9));
    let cases = [("round", &round, &reads.round), ("rolling_restart", &restart, &reads.rolling_restart)];
    for (case, moves, Moved { after: reads, during }) in cases {
        let arrived = moves.arrivals.len();
        let warm = moves.arrivals.iter().filter(|arrival| arrival.is_warm).count();
        add(format!("{case}_moves"), "moves", arrived as f64);
        add(format!("{case}_moves_failed"), "moves", moves.failed as f64);
        add(format!("{case}_warm"), "%", 100.0 * warm as f64 / arrived.max(1) as f64);
        add(format!("{case}_reads"), "reads", reads.total as f64);
        add(format!("{case}_cold_reads"), "reads", (reads.cold + during.cold) as f64);
        for (name, percentile) in [("p50", 50.0), ("p99", 99.0), ("p999", 99.9)] {
            add(format!("{case}_after_{name}"), "ms", reads.whole.millis(percentile));
        }
        add(format!("{case}_refused_reads"), "reads", (reads.refused + during.refused) as f64);
        add(format!("{case}_during_reads"), "reads", during.total as f64);
        add(format!("{case}_during_p50"), "ms", during.whole.millis(50.0));
        add(format!("{case}_during_max"), "ms", during.whole.millis(100.0));
        add(format!("{case}_after_wait_p999"), "ms", reads.wait.millis(99.9));
        add(format!("{case}_after_scan_p999"), "ms", reads.scan.millis(99.9));
        add(
            format!("{case}_after_p999_ratio"),
            "x steady",
            reads.whole.millis(99.9) / p999_steady.max(f64::MIN_POSITIVE),
        );
        add(format!("{case}_move_p50"), "ms", moves.millis(50.0));
        add(format!("{case}_move_max"), "ms", moves.millis(100.0));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With what is measured as it is, `park` loses no warm-up: each leadership arrives warm, and nobody reads cold.
    #[test]
    fn small_run_measures_every_case_for_every_policy() {
        let options = Options { regions: 3, rows: 100, moves: 8, pause: Some(20), turns: 1, seconds: 1 };
        let figures = run(&options, 1);
        let text = {
            let mut output = Vec::new();
            crate::report::write_json(&mut output, &figures).unwrap();
            String::from_utf8(output).unwrap()
        };
        for side in Policy::ALL.map(Policy::name) {
            for case in ["steady_p999", "round_warm", "rolling_restart_warm", "round_after_p999_ratio"] {
                let wanted = format!("\"case\":\"{case}\",\"side\":\"{side}\"");
                assert!(text.contains(&wanted), "{wanted} in {text}");
            }
        }
    }
}
