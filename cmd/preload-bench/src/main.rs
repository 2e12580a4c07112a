//! Side-by-side benchmarks.
//!
//! **Owns** the command line and the exit code.
//!
//! **How it works.** A subcommand is a scenario: it measures ([`measure`]) and returns figures, which are printed as a
//! table or as JSON ([`report`]).
//!
//! **Invariants.** Sides that are compared are measured in one run, in turns.
//!
//! **Must not** end with a verdict: a benchmark shows figures, and next to some of them what they are to reach. It stops
//! only when what it measured is not what it says that it measures.

mod cache;
mod measure;
mod observer;
mod report;
mod store;
mod transfer;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

/// TiKV's allocator: memory is accounted in its sizes, and it says how much it has given out.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(version, about = "Measures two sides in one run, and prints each figure with its ratio.")]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// Print one JSON object per figure and line instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// How many samples are taken of each side [default: 21 for observer, 5 for raftstore and cache, 1 for transfer].
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
}

#[derive(Subcommand)]
enum Scenario {
    /// What an inbound Raft message costs in `CoprocessorHost::on_raft_message`, without and with the plugin.
    Observer,
    /// What stores in one process do: replicated puts, a restart, idle regions, a new replica.
    ///
    /// Puts per second and their latencies, one client with 128 puts in flight, 16-byte keys and 100-byte values, each
    /// answered when it is on disk on a quorum and applied. Then, in child processes on existing data, the time from the
    /// start of a process until every region answers a linearizable read, and the processor time and memory of regions
    /// that nobody uses.
    Raftstore(store::Options),
    /// Leadership that moves under readers: who arrives warm, who reads cold, and what that costs.
    ///
    /// Three policies in one run: `none` (nobody is asked), `skip` (TiKV's fix: a request that is too early is skipped, and
    /// nothing is held back) and `park` (the plugin).
    Transfer(transfer::Options),
    /// What the region cache costs and gains, beside the disk engines with everything hot and beside plain maps.
    ///
    /// With the feature `rocksdb`, RocksDB is one of them, compacted, and figures are shown next to what they are to reach
    /// against it.
    Cache(cache::Options),
    /// The child process of `raftstore`.
    #[command(hide = true)]
    ServeCluster(store::ServeOptions),
    /// The child process of `raftstore` for the new replica.
    #[command(hide = true)]
    ServeSnapshot(store::SnapshotOptions),
}

impl Scenario {
    fn default_runs(&self) -> u32 {
        match self {
            // 21 samples of 20 ms: a median that repeats within a few per cent, in less than a minute.
            Self::Observer => 21,
            // Samples are seconds long, and each restart is one.
            Self::Raftstore(_) | Self::Cache(_) | Self::ServeCluster(_) | Self::ServeSnapshot(_) => 5,
            // A run takes minutes, and has hundreds of moves.
            Self::Transfer(_) => 1,
        }
    }
}

fn main() -> ExitCode {
    let Cli { scenario, options } = Cli::parse();
    let runs = options.runs.unwrap_or_else(|| scenario.default_runs());
    if io::stdout().is_terminal() {
        eprintln!("measuring, {runs} runs …");
    }
    let figures = match scenario {
        Scenario::Observer => observer::run(runs),
        Scenario::Raftstore(options) => store::run(&options, runs),
        Scenario::Transfer(options) => transfer::run(&options, runs),
        Scenario::Cache(options) => cache::run(&options, runs),
        Scenario::ServeCluster(options) => {
            store::serve(&options);
            return ExitCode::SUCCESS;
        }
        Scenario::ServeSnapshot(options) => {
            store::serve_snapshot(&options);
            return ExitCode::SUCCESS;
        }
    };
    let stdout = io::stdout().lock();
    let printed =
        if options.json { report::write_json(stdout, &figures) } else { report::write_table(stdout, &figures) };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("preload-bench: cannot print the figures: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_follow_the_scenario() {
        let cli = Cli::try_parse_from(["preload-bench", "observer", "--json", "--runs", "3"]).unwrap();
        assert!(cli.options.json);
        assert_eq!(cli.options.runs, Some(3));
        assert!(Cli::try_parse_from(["preload-bench", "observer", "--runs", "0"]).is_err());
        let cli = Cli::try_parse_from(["preload-bench", "raftstore", "--regions", "1,16", "--runs", "2"]).unwrap();
        assert_eq!(cli.options.runs, Some(2));
        assert!(Cli::try_parse_from(["preload-bench", "raftstore", "--regions", "0"]).is_err());
    }
}
