//! The node binary.
//!
//! **Owns** the command line and the exit code.
//!
//! **How it works.** A subcommand runs to its end and returns an exit code, or an [`Error`] that is printed with its
//! causes. Ctrl-C asks it to stop, see [`interrupt`].
//!
//! **Invariants.** Exit code 0 means that all that the subcommand claims was measured and held.
//!
//! **Must not** know what the subcommands do.

mod cli;
mod configuration;
mod data_dir;
mod demo;
mod error;
mod interrupt;
mod logging;
mod page;
mod serve;
mod waiting;
mod write_load;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    cli::{Cli, Command},
    error::Error,
};

/// As in TiKV: it gives memory back that the system's allocator keeps after a burst, and stays fast with many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As shells report a process that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Config(args) => configuration::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::WriteLoad(args) => write_load::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("preload-node: {}", error.with_causes());
            if matches!(error, Error::Interrupted) { EXIT_INTERRUPTED.into() } else { ExitCode::FAILURE }
        }
    }
}
