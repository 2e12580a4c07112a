//! The command line.
//!
//! **Owns** what can be asked, with units, defaults, help and examples.
//!
//! **How it works.** clap parses it and refuses values out of range.
//!
//! **Invariants.** A parsed value is in its range.
//!
//! **Must not** act.

use std::{ops::RangeInclusive, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    node::{NodeArgs, NodeCommand},
    scan::{Options, Severity, When},
};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  something was found, or the answer is no: no such key, region, store or range; not warm; nothing evicted
  2  the command line or a value in it is wrong
  3  the node refuses, and says why
  4  there is no node at the address, or it cannot serve now
  5  not finished in time; it may go on

Examples:
  preload-ctl regions
  preload-ctl preload 2 3 && preload-ctl transfer-leader 2 3
  PRELOAD_ADDR=10.0.0.7:20180 preload-ctl --token-file token --json stores | jq '.[].cache.used_bytes'
  preload-ctl scan-logs /var/log/tikv";
const MAX_FINDINGS: RangeInclusive<u64> = 1..=1_000_000;
const THREADS: RangeInclusive<u64> = 1..=64;

/// Look at a preload node and change it; search TiKV's logs for known faults of its in-memory engine
#[derive(Parser)]
#[command(version, propagate_version = true, after_long_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    /// Print JSON instead of text: one line, or one object per line where there are several
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) node: NodeArgs,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Node(NodeCommand),
    ScanLogs(ScanLogs),
    /// Print a script that completes commands and options in a shell
    #[command(after_long_help = "Examples:
  preload-ctl completions bash > /etc/bash_completion.d/preload-ctl
  preload-ctl completions fish > ~/.config/fish/completions/preload-ctl.fish")]
    Completions {
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    #[command(hide = true)]
    GenerateLog(GenerateLog),
}

/// Search TiKV's logs for known panics of the in-memory engine
///
/// Reads files, folders and their subfolders (names with .log in them, rotated and compressed ones too) and standard input
/// (-), plain or compressed with gzip or zstd. Finds the assertion of tikv/tikv#18046 and tikv/tikv#17767 and tells by the
/// backtrace which of the two it was, or that it came from elsewhere; other panics inside the in-memory engine; and the lines
/// by which fixed versions and the preload observer say that they were in the same situation and lived.
///
/// Exit code: 1 if something was found, 0 if nothing was, 2 if nothing was found and something could not be read.
#[derive(Args)]
#[command(after_long_help = "Examples:
  preload-ctl scan-logs /var/log/tikv
  preload-ctl scan-logs --since '2024-12-23 15:00' --min-severity crash tikv.log tikv-*.log.gz
  journalctl -u tikv-20160 -o cat | preload-ctl scan-logs --json - | jq -r 'select(.kind == \"finding\") | .store'")]
pub(crate) struct ScanLogs {
    /// Files and folders; - for standard input
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    /// Leave out what was logged before this time
    ///
    /// A time as TiKV logs it, as RFC 3339, or like "2024-12-23 15:03" or "2024-12-23"; or how long ago, like 30m, 2h or 7d.
    /// Without an offset, it is compared with the time as the line shows it. Findings whose time is not known stay.
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    pub(crate) since: Option<When>,

    /// Leave out what was logged at this time or later
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    pub(crate) until: Option<When>,

    /// Leave out what is less severe
    #[arg(long, value_name = "SEVERITY", default_value = "notice")]
    pub(crate) min_severity: Severity,

    /// How many findings of each kind are printed; all are counted
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(MAX_FINDINGS))]
    pub(crate) max_findings: u64,

    /// Inputs that are read at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(THREADS))]
    pub(crate) threads: u64,
}

impl ScanLogs {
    pub(crate) fn into_options(self, json: bool) -> Options {
        Options {
            paths: self.paths,
            since: self.since,
            until: self.until,
            min_severity: self.min_severity,
            max_findings: usize::try_from(self.max_findings).unwrap_or(usize::MAX),
            threads: usize::try_from(self.threads).unwrap_or(usize::MAX),
            json,
        }
    }
}

/// Write a log of a TiKV store that never was, for measurements
#[derive(Args)]
pub(crate) struct GenerateLog {
    /// How long it becomes, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    pub(crate) mib: u64,

    /// How many panics are in it, evenly spread
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) panics: u64,

    /// Two logs of the same seed are the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

fn parse_when(text: &str) -> Result<When, String> {
    crate::scan::parse_when(text, time::OffsetDateTime::now_utc()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }
}
