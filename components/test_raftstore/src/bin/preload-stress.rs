//! `preload-stress`: runs the stress of the region cache.
//!
//! # What it owns
//! The command line, signals, and what is printed.
//!
//! # How it works
//! Progress goes to standard error every ten seconds; at the end, standard output gets how often each thing has happened.
//!
//! # Invariants
//! The exit code is 0 when nothing was wrong, also after Ctrl-C, and 1 otherwise. A panic of any thread is something wrong.
//!
//! # What it must not do
//! Decide what is wrong: that is `test_raftstore::stress`'s.

use std::{
    panic,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use test_raftstore::stress::{Failure, Options, Sabotage, Tally, run};
use tikv_util::config::ReadableSize;

const PROGRESS: Duration = Duration::from_secs(10);

/// Runs a cluster with small caches on real threads and disks, with everything going on at once, and compares.
///
/// Exits with 1 at the first difference, and says what differed. Ctrl-C ends a run early, and the summary is printed.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,
    /// What threads draw their wishes from [default: a fresh one, which is printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// What the cache of each store may hold
    #[arg(long, value_name = "SIZE", default_value = "2MiB")]
    cache_capacity: ReadableSize,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// Have now and then a write miss the cache, to see that it is noticed
    #[arg(long)]
    sabotage: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(duration) = Duration::try_from_secs_f64(args.minutes * 60.0).ok() else {
        eprintln!("preload-stress: --minutes {} is no time", args.minutes);
        return ExitCode::FAILURE;
    };
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let (stop, panicked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        // The second one finds the flag set by the first, and ends the process at once.
        let registered = flag::register_conditional_shutdown(signal, 130, stop.clone())
            .and_then(|_| flag::register(signal, stop.clone()));
        if let Err(error) = registered {
            eprintln!("preload-stress: cannot handle Ctrl-C: {error}");
            return ExitCode::FAILURE;
        }
    }
    let print_panic = panic::take_hook();
    let (on_panic, stop_on_panic) = (panicked.clone(), stop.clone());
    panic::set_hook(Box::new(move |info| {
        on_panic.store(true, Ordering::Relaxed);
        stop_on_panic.store(true, Ordering::Relaxed);
        print_panic(info);
    }));

    eprintln!("preload-stress: seed {seed}, {} minutes, cache capacity {}", args.minutes, args.cache_capacity);
    let options = Options {
        seed,
        duration,
        cache_capacity: args.cache_capacity,
        sabotage: args.sabotage.then_some(Sabotage::CacheMissesWrites),
    };
    let tally = Arc::new(Tally::default());
    let (start, mut reported) = (now(), now());
    let outcome = run(&options, &tally, &stop, |tally| {
        if reported.elapsed() >= PROGRESS {
            reported = now();
            report_progress(start.elapsed(), tally);
        }
    });
    let panics = |outcome: Result<(), Failure>| match outcome {
        Ok(()) if panicked.load(Ordering::Relaxed) => Err("no panic: a thread has panicked, see above".to_owned()),
        outcome => outcome.map_err(|failure| failure.to_string()),
    };
    let outcome = panics(outcome);
    if outcome.is_ok() && start.elapsed() < duration {
        eprintln!("preload-stress: ended early by a signal");
    }
    print_summary(args.json, seed, start.elapsed(), &tally, &outcome);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report_progress(elapsed: Duration, tally: &Tally) {
    let get = |what| tally.get(what);
    eprintln!(
        "{:>6.0} s: {} writes, {} reads from memory, {} rows compared, {} comparisons with the disk, {} splits, {} merges",
        elapsed.as_secs_f64(),
        get("writes acknowledged"),
        get("reads from memory"),
        get("rows compared"),
        get("comparisons with the disk"),
        get("splits"),
        get("merges"),
    );
}

fn print_summary(json: bool, seed: u64, elapsed: Duration, tally: &Tally, outcome: &Result<(), String>) {
    let counts = tally.all();
    let seconds = elapsed.as_secs();
    if json {
        let counts: serde_json::Map<_, _> = counts.into_iter().map(|(name, count)| (name, count.into())).collect();
        let summary = serde_json::json!({
            "seed": seed, "seconds": seconds, "ok": outcome.is_ok(), "failure": outcome.as_ref().err(), "counts": counts,
        });
        println!("{summary}");
        return;
    }
    for (name, count) in &counts {
        println!("{count:>12}  {name}");
    }
    match outcome {
        Ok(()) => println!("passed: seed {seed}, {seconds} s, no difference"),
        Err(failure) => println!("failed: seed {seed}, after {seconds} s: {failure}"),
    }
}

/// Another one each time; it is printed.
#[allow(clippy::disallowed_methods)] // What is drawn here is an input of the run.
fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64 % 1_000_000_000)
}

#[allow(clippy::disallowed_methods)] // To tell how long it has run.
fn now() -> Instant {
    Instant::now()
}
