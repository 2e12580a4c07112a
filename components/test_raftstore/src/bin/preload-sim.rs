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

use test_raftstore::sim::{Outcome, Sabotage, run};

const USAGE: &str = "usage: preload-sim [--seeds N] [--seed FIRST] [--jobs N] [--sabotage NAME] [--verbose]
       preload-sim --self-test [--seeds MAX] [--seed FIRST] [--jobs N]";

/// Lines of the log that are printed of a seed that failed.
const TAIL: usize = 60;
/// Failures that are printed with their logs.
const SHOWN_MAX: u64 = 5;

struct Args {
    seeds: Option<u64>,
    first: Option<u64>,
    jobs: u64,
    sabotage: Option<Sabotage>,
    is_verbose: bool,
    is_self_test: bool,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let is_good = if args.is_self_test { self_test(&args) } else { simulate(&args) };
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut parsed = Args { seeds: None, first: None, jobs, sabotage: None, is_verbose: false, is_self_test: false };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{arg} {text}: not a number"));
        match arg.as_str() {
            "--seeds" => parsed.seeds = Some(number(value()?)?),
            "--seed" => parsed.first = Some(number(value()?)?),
            "--jobs" => parsed.jobs = number(value()?)?.max(1),
            "--sabotage" => {
                let name = value()?;
                parsed.sabotage = Some(Sabotage::from_name(&name).ok_or_else(|| {
                    let names: Vec<_> = Sabotage::ALL.iter().map(|sabotage| sabotage.name()).collect();
                    format!("--sabotage {name}: not one of {}", names.join(", "))
                })?);
            }
            "--verbose" => parsed.is_verbose = true,
            "--self-test" => parsed.is_self_test = true,
            _ => return Err(format!("{arg}: not known")),
        }
    }
    Ok(parsed)
}

fn simulate(args: &Args) -> bool {
    let first = args.first.unwrap_or_else(fresh_seed);
    let seeds = args.seeds.unwrap_or(if args.first.is_some() { 1 } else { 200 });
    println!("seeds {first}..{}, {} at a time", first.saturating_add(seeds), args.jobs);
    let (start, mut last_report) = (now(), now());
    let (mut passed, mut failed) = (0_u64, 0_u64);
    let is_recorded = args.is_verbose && seeds == 1;
    each_seed(first, seeds, args.jobs, args.sabotage, is_recorded, |outcome| {
        if args.is_verbose {
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
    println!("{:.1} s, {:.0} seeds/s", seconds, (passed + failed) as f64 / seconds);
    println!("{passed} passed, {failed} failed");
    failed == 0
}

/// Breaks one thing after the other, and sees who notices.
fn self_test(args: &Args) -> bool {
    let (first, seeds_max) = (args.first.unwrap_or(1), args.seeds.unwrap_or(2_000));
    let (mut caught, mut missed) = (0, 0);
    println!("{:<30} {:>6}  caught by", "broken", "seeds");
    for sabotage in Sabotage::ALL {
        let mut found: Option<Outcome> = None;
        each_seed(first, seeds_max, args.jobs, Some(sabotage), false, |outcome| {
            // Seeds come in any order; the first in theirs is the one to name.
            let is_earlier = found.as_ref().is_none_or(|found| outcome.seed < found.seed);
            // A seed that fails anyway says nothing about what was broken.
            if outcome.result.is_err() && is_earlier && run(outcome.seed, None, false).result.is_ok() {
                found = Some(outcome);
            }
            found.is_none()
        });
        match found.as_ref().and_then(|outcome| outcome.result.as_ref().err().map(|error| (outcome.seed, error))) {
            Some((seed, violation)) => {
                caught += 1;
                println!("{:<30} {:>6}  {violation}", sabotage.name(), seed - first + 1);
            }
            None => {
                missed += 1;
                println!("{:<30} {seeds_max:>6}  nobody", sabotage.name());
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
