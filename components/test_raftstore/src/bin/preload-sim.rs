//! `preload-sim`: runs the deterministic simulator.
//!
//! # What it owns
//! The command line, and what is printed.
//!
//! # How it works
//! Seeds are shared out over threads; the results are printed by one. A seed that fails is run again with its log
//! recorded, of which the end is printed, and all with `--verbose`.
//!
//! # Invariants
//! The last line says how many passed and failed, or were caught and missed; the exit code agrees with it.
//!
//! # What it must not do
//! Let anything but the seed decide a run.

use std::{
    process::ExitCode,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use test_raftstore::sim::{Outcome, SEAMS, Sabotage, run};

/// Lines of the log that are printed of a seed that failed.
const TAIL: usize = 60;
/// Failures that are printed with their logs.
const SHOWN_MAX: u64 = 5;
/// Characters of a violation in the table of the self-test.
const LINE_MAX: usize = 160;
/// Seeds whose hashes are printed with `--verbose`.
const HASHES_MAX: u64 = 50;

/// Runs a cluster of the real cores under virtual time, with faults, from one number.
///
/// The last line says how many seeds passed and failed, or how many sabotages were caught and missed. Exits with 1 if any
/// failed or was missed.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Seeds to run [default: 200, or 1 with --seed], or with --self-test the most that a sabotage gets [default: 2000]
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed [default: a fresh one, which is printed]
    #[arg(long = "seed", value_name = "S")]
    first: Option<u64>,
    /// Seeds to run at a time [default: the number of cores]
    #[arg(long, value_name = "N", default_value_t = cores(), hide_default_value = true, value_parser = clap::value_parser!(u64).range(1..))]
    jobs: u64,
    /// Break something on purpose
    #[arg(long, value_name = "NAME", value_parser = parse_sabotage, conflicts_with = "is_self_test")]
    sabotage: Option<Sabotage>,
    /// Print how often rare things happened, of few seeds the hashes of their logs, and of a single seed the log
    #[arg(long = "verbose")]
    is_verbose: bool,
    /// Break things one at a time and tell which check notices
    #[arg(long = "self-test")]
    is_self_test: bool,
}

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

fn parse_sabotage(name: &str) -> Result<Sabotage, String> {
    Sabotage::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Sabotage::ALL.iter().map(|sabotage| sabotage.name()).collect();
        format!("not one of {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let is_good = if args.is_self_test { self_test(&args) } else { simulate(&args) };
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn simulate(args: &Args) -> bool {
    let first = args.first.unwrap_or_else(fresh_seed);
    let seeds = args.seeds.unwrap_or(if args.first.is_some() { 1 } else { 200 });
    println!("seeds {first}..{}, {} at a time", first.saturating_add(seeds), args.jobs);
    let (start, mut last_report) = (now(), now());
    let (mut passed, mut failed) = (0_u64, 0_u64);
    let is_recorded = args.is_verbose && seeds == 1;
    let mut met = vec![Met::default(); SEAMS.len()];
    each_seed(first, seeds, args.jobs, args.sabotage, is_recorded, |outcome| {
        met.iter_mut().zip(outcome.coverage.counts()).for_each(|(met, count)| met.add(count));
        if args.is_verbose && seeds <= HASHES_MAX {
            outcome.log.iter().for_each(|line| println!("{line}"));
            println!("seed {} log hash {:016x}", outcome.seed, outcome.log_hash);
        }
        match &outcome.result {
            Ok(()) => passed += 1,
            Err(violation) => {
                failed += 1;
                println!("seed {} failed: {violation}", outcome.seed);
                println!("  replay: {}", replay_command(outcome.seed, args.sabotage));
                if !is_recorded && failed <= SHOWN_MAX {
                    let log = run(outcome.seed, args.sabotage, true).log;
                    log.iter().skip(log.len().saturating_sub(TAIL)).for_each(|line| println!("  {line}"));
                }
            }
        }
        if last_report.elapsed() >= Duration::from_secs(5) {
            last_report = now();
            let done = passed + failed;
            println!("{done} of {seeds} seeds, {:.0} seeds/s", done as f64 / start.elapsed().as_secs_f64());
        }
        true
    });
    let seconds = start.elapsed().as_secs_f64();
    if args.is_verbose {
        print_coverage(&met, seeds);
    }
    println!("{:.1} s, {:.0} seeds/s", seconds, (passed + failed) as f64 / seconds);
    println!("{passed} passed, {failed} failed");
    failed == 0
}

/// How often a seam was met.
#[derive(Clone, Default)]
struct Met {
    seeds: u64,
    times: u64,
}

impl Met {
    fn add(&mut self, count: u32) {
        self.seeds += u64::from(count > 0);
        self.times += u64::from(count);
    }
}

fn print_coverage(met: &[Met], seeds: u64) {
    println!("per 1000 seeds: those in which it happened, and how often");
    for (seam, met) in SEAMS.iter().zip(met) {
        let per_thousand = |count: u64| count as f64 * 1_000.0 / seeds as f64;
        println!("{:>8.1} {:>10.1}  {seam}", per_thousand(met.seeds), per_thousand(met.times));
    }
}

/// Breaks one thing after the other, and sees who notices.
fn self_test(args: &Args) -> bool {
    let (first, seeds_max) = (args.first.unwrap_or(1), args.seeds.unwrap_or(2_000));
    let (mut caught, mut missed) = (0, 0);
    println!("{:<30} {:>6}  caught by", "broken", "seeds");
    for sabotage in Sabotage::ALL.iter().copied() {
        let mut found: Option<Outcome> = None;
        each_seed(first, seeds_max, args.jobs, Some(sabotage), false, |outcome| {
            // Seeds come in any order; the first in theirs is the one to name.
            let is_earlier = found.as_ref().is_none_or(|found| outcome.seed < found.seed);
            let is_caught = outcome.result.as_ref().is_err_and(|error| sabotage.caught_by().contains(&error.check));
            // A seed that fails anyway says nothing about what was broken.
            if is_caught && is_earlier && run(outcome.seed, None, false).result.is_ok() {
                found = Some(outcome);
            }
            found.is_none()
        });
        match found.as_ref().and_then(|outcome| outcome.result.as_ref().err().map(|error| (outcome.seed, error))) {
            Some((seed, violation)) => {
                caught += 1;
                let what: String = violation.to_string().chars().take(LINE_MAX).collect();
                println!("{:<30} {:>6}  {what}", sabotage.name(), seed - first + 1);
            }
            None => {
                missed += 1;
                println!("{:<30} {seeds_max:>6}  not by {}", sabotage.name(), sabotage.caught_by().join(" or "));
            }
        }
    }
    println!("{caught} caught, {missed} missed");
    missed == 0
}

/// Runs seeds on `jobs` threads and shows each outcome, until `show` says that it has seen enough.
fn each_seed(
    first: u64,
    seeds: u64,
    jobs: u64,
    sabotage: Option<Sabotage>,
    is_recorded: bool,
    mut show: impl FnMut(Outcome) -> bool,
) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(jobs as usize);
        for _ in 0..jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    // Sending fails when enough was seen.
                    if at >= seeds || sender.send(run(first.wrapping_add(at), sabotage, is_recorded)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut is_enough = false;
        for outcome in receiver {
            // What is under way when it is enough is still looked at: it may be of an earlier seed.
            if !show(outcome) && !is_enough {
                is_enough = true;
                next.store(seeds, Ordering::Relaxed);
            }
        }
    });
}

fn replay_command(seed: u64, sabotage: Option<Sabotage>) -> String {
    match sabotage {
        None => format!("make sim SEED={seed} VERBOSE=1"),
        Some(sabotage) => format!("make sim SEED={seed} VERBOSE=1 SABOTAGE={}", sabotage.name()),
    }
}

/// Another one each time; it is printed.
#[allow(clippy::disallowed_methods)] // What is drawn here is an input of the simulation, not part of it.
fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64 % 1_000_000_000)
}

#[allow(clippy::disallowed_methods)] // To tell how fast it is.
fn now() -> Instant {
    Instant::now()
}
