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
mod node;
mod scan;
mod text;

use std::{
    error::Error as _,
    io::{self, BufWriter, ErrorKind, Write},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};

use crate::{
    cli::{Cli, Command},
    exit::Exit,
    node::Error,
};

fn main() -> ExitCode {
    let mut out = BufWriter::new(io::stdout());
    let result = run(Cli::parse(), &mut out).and_then(|exit| Ok(out.flush().map(|()| exit)?));
    match result {
        Ok(exit) => exit.into(),
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let hint = error.hint().map(|hint| format!("\n  {hint}")).unwrap_or_default();
            eprintln!("preload-ctl: {error}{cause}{hint}");
            error.exit().into()
        }
    }
}

fn run(cli: Cli, out: &mut dyn Write) -> Result<Exit, Error> {
    match cli.command {
        Command::Node(command) => node::run(&cli.node, command, cli.json, out),
        Command::ScanLogs(args) => Ok(scan::run(&args.into_options(cli.json), out)?),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "preload-ctl", out);
            Ok(Exit::Ok)
        }
        Command::GenerateLog(args) => {
            generate::run(&args, out)?;
            Ok(Exit::Ok)
        }
    }
}
