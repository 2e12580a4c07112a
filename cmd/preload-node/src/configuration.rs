//! `preload-node config`, and the configuration file of `serve`.
//!
//! **Owns** how a file is read and its mistakes are printed.
//!
//! **How it works.** See [`server::config`].
//!
//! **Invariants.** What `--default` prints is what a node without a file runs with.
//!
//! **Must not** stop at the first mistake.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use server::config::{NodeConfig, check, render};

use crate::{
    cli::ConfigArgs,
    error::{Error, Result},
};

pub(crate) fn run(args: &ConfigArgs) -> Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    let printed = match &args.check {
        Some(path) => {
            read(path)?;
            writeln!(stdout, "{}: no mistakes", path.display())
        }
        None => write!(stdout, "{}", render::default_file()),
    };
    printed.map_err(Error::io("print"))?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration in a file, and the keys that it sets.
///
/// # Errors
/// [`Error::Config`] with every mistake, or when the file cannot be read.
pub(crate) fn read(path: &Path) -> Result<(NodeConfig, BTreeSet<String>)> {
    let text = fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())))?;
    let config = check::read(&text).map_err(|mistakes| {
        Error::Config(mistakes.iter().map(|mistake| format!("{}: {mistake}", path.display())).collect())
    })?;
    Ok((config, check::keys_of(&text)))
}
