//! Where the stores' log goes.
//!
//! **Owns** the choice of the log's output, and the panic hook.
//!
//! **How it works.** The log goes [to a file](to_file), so that stdout and stderr stay readable; a FATAL line also goes
//! to stderr, because the process ends with it. Where the FATAL line is the point of the run, all goes
//! [to stderr](to_stderr).
//!
//! **Invariants.** A panic on any thread ends the process, and the user sees why.
//!
//! **Must not** write to stdout.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tikv_util::logger::{self, Config, Level, Output};

use crate::error::{Error, Result};

/// What marks a line of the unified log format as the last one of its process.
const FATAL: &[u8] = b"] [FATAL] [";

/// Logs to `preload-node.log` in `dir`, and returns its path.
pub(crate) fn to_dir(dir: &Path, level: Level) -> Result<PathBuf> {
    let path = dir.join("preload-node.log");
    to_file(&path, level)?;
    Ok(path)
}

pub(crate) fn to_file(path: &Path, level: Level) -> Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(Error::io(format!("open log file {}", path.display())))?;
    init(level, Output::Writer(Box::new(LogFile { file, path: path.to_owned() })))
}

pub(crate) fn to_stderr(level: Level) -> Result<()> {
    init(level, Output::Stderr)
}

fn init(level: Level, output: Output) -> Result<()> {
    logger::init(Config { level, output })?;
    logger::set_panic_hook();
    Ok(())
}

/// A log file that says so on stderr when the process is about to end.
struct LogFile {
    file: File,
    path: PathBuf,
}

impl Write for LogFile {
    /// Gets whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.windows(FATAL.len()).any(|part| part == FATAL) {
            let mut stderr = io::stderr().lock();
            stderr.write_all(line)?;
            writeln!(stderr, "preload-node: a thread panicked; what led there is in {}", self.path.display())?;
        }
        self.file.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
