//! The demo: a preload request for an uninitialized peer, without the plugin and with it.
//!
//! **Owns** the order of the steps, and the summary.
//!
//! **How it works.**
//! 1. *Unguarded*: a child process runs the [schedule] with an observer that forwards each request to the cache engine.
//!    It ends in TiKV's panic, see [`child`] and [`unguarded`].
//! 2. *Guarded*: the same schedule in this process, with the plugin on every store. The request is answered and parked.
//! 3. *Released*: the snapshot arrives; the request becomes a load, and is answered again. See [`guarded`] for both.
//! 4. *Moved*: leadership moves to the warm store, and [`reads`] compares memory and disk.
//!
//! **Invariants.** Every claim is a [`Report::check`](report::Report::check) of something that was measured in this run.
//!
//! **Must not** print anything but through the report.

mod answers;
mod child;
mod dataset;
mod guarded;
mod load_spy;
mod reads;
mod report;
mod schedule;
mod unguarded;

use std::{path::Path, process::ExitCode};

use engine_fjall::FjallEngine;
use serde::Serialize;
use server::DiskEngine;
use tikv_util::logger::Level;

use self::{
    dataset::Dataset,
    guarded::Guarded,
    reads::ReadNs,
    report::{Report, grouped},
};
use crate::{
    cli::DemoArgs,
    data_dir::DataDir,
    error::{Error, Result},
    interrupt, logging,
};

pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    match args.engine.as_str() {
        #[cfg(feature = "rocksdb")]
        engine_rocks::RocksEngine::NAME => run_on::<engine_rocks::RocksEngine>(args),
        // The command line has refused every other name.
        _ => run_on::<FjallEngine>(args),
    }
}

fn run_on<D: DiskEngine>(args: &DemoArgs) -> Result<ExitCode> {
    interrupt::install()?;
    let dataset = Dataset::new(args.rows, args.versions, args.value_size)?;
    let mut dir = DataDir::open(args.data_dir.as_deref())?;
    let mut report = Report::new(args.json);
    if args.unguarded {
        logging::to_stderr(args.log_level.unwrap_or(Level::Critical))?;
        return unguarded::run::<D>(&dataset, &mut dir, &mut report);
    }
    let log = logging::to_dir(dir.path(), args.log_level.unwrap_or(Level::Info))?;
    report.title(&format!(
        "preload-node demo: 3 stores on {} in one process, a region of {} rows x {} versions, values of {} B",
        D::NAME,
        grouped(dataset.rows()),
        dataset.versions(),
        args.value_size
    ));

    let mut summary = Summary::default();
    let outcome = run_steps::<D>(&dataset, dir.path(), &mut report, &mut summary);
    if matches!(outcome, Err(Error::Interrupted)) {
        return Err(Error::Interrupted);
    }
    // Any other error has been reported as the step that failed.
    let all_held = report.finish(&summary);
    if !all_held {
        dir.keep();
        eprintln!("preload-node: the stores' log is {}", log.display());
    }
    Ok(if all_held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_steps<D: DiskEngine>(dataset: &Dataset, dir: &Path, report: &mut Report, summary: &mut Summary) -> Result<()> {
    report.heading("1. Unguarded: an observer forwards each preload request, as TiKV v8.5.0 does (child process)");
    let died = report.step("unguarded", |report| child::run(D::NAME, dataset, &dir.join("unguarded"), report))?;
    summary.unguarded_fatal = died.fatal;

    report.heading("2. Guarded: the same schedule, with the plugin on every store");
    let guarded = Guarded::<D>::start(dir, *dataset)?;
    let outcome = run_guarded_steps(&guarded, report, summary);
    summary.answers = guarded.answers();
    outcome
}

fn run_guarded_steps<D: DiskEngine>(guarded: &Guarded<D>, report: &mut Report, summary: &mut Summary) -> Result<()> {
    report.step("load", |report| guarded.schedule().load(report))?;
    report.step("guarded", |report| guarded.ask_uninitialized_peer(report))?;

    report.heading("3. Released: the snapshot arrives at store 3");
    report.step("released", |report| guarded.release_snapshot(report))?;

    report.heading("4. Moved: store 3 becomes the leader");
    let moved = report.step("moved", |report| reads::move_leader_and_read(guarded.schedule(), report))?;
    summary.first_read_source = Some(moved.first_read_source);
    summary.memory_read_share = Some(moved.memory_read_share);
    let timed = report.step("reads", |report| reads::compare_memory_and_disk(guarded.schedule(), report))?;
    summary.read_ns = Some(timed.read_ns);
    Ok(())
}

/// What the demo has shown; what was not reached is `null`.
#[derive(Default, Serialize)]
struct Summary {
    unguarded_fatal: Option<String>,
    answers: Vec<&'static str>,
    memory_read_share: Option<f64>,
    first_read_source: Option<String>,
    read_ns: Option<ReadNs>,
}
