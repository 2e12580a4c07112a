//! The command line.
//!
//! **Owns** what can be asked of the binary, with units and defaults.
//!
//! **How it works.** clap parses it, refuses values out of range, and prints the doc comments as help.
//!
//! **Invariants.** A parsed value is in its range.
//!
//! **Must not** act.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, value_parser};
use tikv_util::logger::{Level, parse_level};

/// A node of the preload observer's embedded multi-raft host.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a node: its stores, kept across restarts, and the status server with its page
    ///
    /// Ctrl-C or SIGTERM stops it in order; a second one ends it at once. Exits with 0 after an orderly stop.
    Serve(ServeArgs),
    /// Print the configuration with all its keys, or check a file
    Config(ConfigArgs),
    /// Show the panic that a preload request causes on an uninitialized peer, and the plugin surviving it
    ///
    /// Runs three stores in this process on a temporary directory. Exits with 0 if everything it claims was measured
    /// and held, with 1 if not, with 130 after Ctrl-C.
    Demo(DemoArgs),
    /// Write through Raft and print each write that was acknowledged, until killed (for tests)
    #[command(hide = true)]
    WriteLoad(WriteLoadArgs),
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Configuration in TOML; `preload-node config --default` prints one with all keys
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Where all data is, instead of node.data-dir
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Number of stores, instead of node.stores
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=16))]
    pub(crate) stores: Option<u64>,

    /// Where the status server listens, instead of server.status-addr; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) status_addr: Option<SocketAddr>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ConfigArgs {
    /// Print every key with its default and what it means, in TOML
    #[arg(long)]
    pub(crate) default: bool,

    /// Report every mistake in a file, with its line; exits with 1 if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) check: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// User keys to write
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rows: u64,

    /// MVCC versions of each user key
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u64).range(1..=1_000))]
    pub(crate) versions: u64,

    /// Size of a value in bytes; up to 255 it is kept in the write record, as TiKV does with short values
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = value_parser!(u32).range(1..=65_536))]
    pub(crate) value_size: u32,

    /// The stores' disk engine: fjall, or rocksdb in a build with the feature of that name
    #[arg(long, value_name = "NAME", default_value = "fjall", value_parser = parse_engine)]
    pub(crate) engine: String,

    /// Directory for data and logs, which stay there; must be empty or absent [default: a temporary one, removed when
    /// all is well]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Print one JSON object per step on stdout, the last one a summary, instead of the timeline
    #[arg(long)]
    pub(crate) json: bool,

    /// Run only the panic, in this process: it ends in a FATAL line on stderr and exit code 1 (3 if there is no panic)
    #[arg(long)]
    pub(crate) unguarded: bool,

    /// Least severe level that the stores log: trace, debug, info, warn, error or fatal [default: info, to
    /// preload-node.log in the data directory; with --unguarded: fatal, to stderr]
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    pub(crate) log_level: Option<Level>,
}

#[derive(Args)]
pub(crate) struct WriteLoadArgs {
    /// Directory for data; what is there already is taken over
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,

    /// The first key to write; the following ones count up from there
    #[arg(long, value_name = "KEY", default_value_t = 0)]
    pub(crate) first: u64,
}

fn parse_engine(name: &str) -> Result<String, String> {
    server::check_engine_name(name).map(|()| name.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_demo_runs_on_an_engine_that_is_compiled_in() {
        let demo = |engine: &str| Cli::try_parse_from(["preload-node", "demo", "--engine", engine]);
        assert!(demo("fjall").is_ok());
        assert_eq!(demo("rocksdb").is_ok(), cfg!(feature = "rocksdb"));
        let Err(refused) = demo("sled") else { panic!("there is no such engine") };
        assert!(refused.to_string().contains("--engine <NAME>"), "{refused}");
    }
}
