//! What a multi-raft host of three stores in one process does per second, and what it costs when nothing happens.
//!
//! **Owns** the cases, and the order in which they are measured.
//!
//! **How it works.** A cluster is three stores with real threads, engines and log files in a temporary directory, and a
//! network of channels between them. It runs with the default configuration (a tick of 100 ms) and without the plugin.
//! Each region has a peer on each store.
//!
//! - `put_N_regions`, `put_N_regions_p50`, `put_N_regions_p99`: one client keeps [`put::IN_FLIGHT`] puts in flight, to N
//!   regions in turn, whose leaders are spread evenly over the stores. A put carries one new key of 16 bytes with a value
//!   of [`put::VALUE_BYTES`] bytes, and is answered when a quorum has it on disk and the leader has applied it. A latency
//!   is the time from handing the command to the leader's store to its answer. With so many in flight it is mostly the
//!   time that a put waits for the ones before it: in flight = puts/s × mean latency.
//! - `restart_open`, `restart_serve`: from spawning a process to the moment at which it has opened all three stores, and
//!   at which each region has answered a linearizable read. The process is a child, started on directories that an
//!   earlier one has closed properly. Election timeouts of 1–2 s are part of the latter.
//! - `idle_cpu`: the processor time, in per cent of one core, of that child while no client asks for anything.
//! - `idle_memory`: its resident memory then, and `idle_memory_added`: how much of it one peer takes, which is the
//!   difference between the sides divided by the peers that one has more than the other.
//!
//! - `snapshot_N_mib_time`, `snapshot_N_mib_memory_added`: from adding a learner to a region of so much data until the
//!   learner has applied its snapshot, and how much more memory than before the process had meanwhile at most. Sender and
//!   receiver are in one process, so it is what both take together.
//!
//! The idle cases have a side with the first region alone, which is what a process costs without many regions.
//!
//! **Invariants.** Numbers of regions for `put` are cases, not sides: each has the machine for itself, one after the other.
//!
//! **Must not** change settings in favour of a figure.

mod idle;
mod put;
mod snapshot;
mod surroundings;

use std::{path::PathBuf, time::Duration};

use clap::Args;

pub(crate) use self::{idle::serve, snapshot::serve as serve_snapshot};
use crate::report::Figure;

/// What can be set about the scenario.
#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of regions that the puts go to, one case each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,16,256",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    regions: Vec<u32>,
    /// How long a sample of puts, and one of idleness, is.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How many regions are idle, and are restarted; 0 leaves these cases out.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    idle_regions: u32,
    /// MiB in the region that a new replica is made of; 0 leaves these cases out.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    snapshot_mib: u32,
}

/// What the child process is told.
#[derive(Args)]
pub(crate) struct ServeOptions {
    /// Where the stores' data is.
    #[arg(long)]
    dir: PathBuf,
}

/// What the child process that adds a replica is told.
#[derive(Args)]
pub(crate) struct SnapshotOptions {
    /// Where the stores' data is.
    #[arg(long)]
    dir: PathBuf,
    /// Of the learner.
    #[arg(long)]
    peer_id: u64,
}

/// All figures of the scenario.
pub(crate) fn run(options: &Options, runs: u32) -> Vec<Figure> {
    let sample = Duration::from_secs(options.seconds.into());
    let mut figures = Vec::new();
    for regions in &options.regions {
        figures.extend(put::figures(*regions, sample, runs));
    }
    if options.idle_regions > 0 {
        figures.extend(idle::figures(options.idle_regions, sample, runs));
    }
    if options.snapshot_mib > 0 {
        figures.extend(snapshot::figures(options.snapshot_mib, runs));
    }
    figures
}
