//! Side-by-side benchmarks.
//!
//! **Owns** the command line and the exit code.
//!
//! **How it works.** A subcommand is a scenario: it measures ([`measure`]) and returns figures, which are printed as a
//! table or as JSON ([`report`]).
//!
//! **Invariants.** Sides that are compared are measured in one run, in turns.
//!
//! **Must not** judge: a benchmark shows figures and passes no verdict on them. It stops only when what it measured is
//! not what it says that it measures.

mod measure;
mod observer;
mod report;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

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
    /// How many samples are taken of each side.
    // 21 samples of 20 ms: a median that repeats within a few per cent, in less than a minute.
    #[arg(long, global = true, value_name = "N", default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
}

#[derive(Subcommand)]
enum Scenario {
    /// What an inbound Raft message costs in `CoprocessorHost::on_raft_message`, without and with the plugin.
    Observer,
}

fn main() -> ExitCode {
    let Cli { scenario, options } = Cli::parse();
    if io::stdout().is_terminal() {
        eprintln!("measuring, {} runs …", options.runs);
    }
    let figures = match scenario {
        Scenario::Observer => observer::run(options.runs),
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
        assert_eq!(cli.options.runs, 3);
        assert!(Cli::try_parse_from(["preload-bench", "observer", "--runs", "0"]).is_err());
    }
}
