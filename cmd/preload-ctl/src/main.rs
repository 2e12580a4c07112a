//! The operator's command line.
//!
//! **Owns** the entry point and the exit code.
//!
//! **How it works.** A subcommand prints to standard output and returns an [`Exit`]; what goes wrong goes to standard
//! error.
//!
//! **Invariants.** The exit code says what `--help` says about it. A reader that goes away (`| head`) is no error.
//!
//! **Must not** know what the subcommands do.

mod cli;
mod exit;
mod generate;
mod scan;
mod text;

use std::{
    io::{self, BufWriter, ErrorKind, Write},
    process::ExitCode,
};

use clap::Parser as _;

use crate::{
    cli::{Cli, Command},
    exit::Exit,
};

fn main() -> ExitCode {
    let mut out = BufWriter::new(io::stdout());
    let result = run(Cli::parse(), &mut out).and_then(|exit| out.flush().map(|()| exit));
    match result {
        Ok(exit) => exit.into(),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error) => {
            eprintln!("preload-ctl: cannot write the output: {error}");
            Exit::Usage.into()
        }
    }
}

fn run(cli: Cli, out: &mut dyn Write) -> io::Result<Exit> {
    match cli.command {
        Command::ScanLogs(args) => scan::run(&args.into_options(cli.json), out),
        Command::GenerateLog(args) => generate::run(&args, out).map(|()| Exit::Ok),
    }
}
