//! The process-wide logger.
//!
//! **Owns** the one [`slog::Logger`] that the macros of this crate write to, and its level.
//!
//! **How it works.** [`init`] sets the logger once; until then lines are discarded, so a library may log without
//! knowing whether its host does. The calling thread formats a line and writes it itself: a line is in the file before
//! the next statement runs, also when that statement panics.
//!
//! **Invariants.** The logger never changes after [`init`]; the level may, at any time, from any thread.
//!
//! **Must not** panic or block on anything but the output. A line that cannot be written is lost: there is nowhere
//! left to report it. Files are appended to and not rotated; that is the job of logrotate (with `copytruncate`).

mod format;
mod panic_hook;

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::time::{OffsetDateTime, UtcOffset};
use slog::{Discard, Drain, Logger, Never, OwnedKVList, Record, o};

pub use slog::Level;

pub use self::{format::UnifiedFormat, panic_hook::set_panic_hook};

static GLOBAL: OnceLock<Logger> = OnceLock::new();
static DISCARD: LazyLock<Logger> = LazyLock::new(|| Logger::root(Discard, o!()));
/// [`Level::as_usize`], or 0, which is no level, before it was set.
static LEVEL: AtomicUsize = AtomicUsize::new(0);

/// What TiKV logs by default: changes of state, no per-request lines.
const DEFAULT_LEVEL: Level = Level::Info;

/// Where lines go and which of them.
pub struct Config {
    /// The least severe level that is written. Can be changed later with [`set_level`].
    pub level: Level,
    pub output: Output,
}

impl Default for Config {
    fn default() -> Self {
        Config { level: DEFAULT_LEVEL, output: Output::Stderr }
    }
}

/// Where lines go. Each line is one `write_all` followed by one `flush`.
pub enum Output {
    Stderr,
    /// Created if missing, appended to otherwise.
    File(PathBuf),
    Writer(Box<dyn Write + Send>),
}

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("the logger is initialized already")]
    AlreadyInitialized,
    #[error("cannot open log file {path:?}")]
    OpenFile { path: PathBuf, source: io::Error },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid log level {0:?}, expected one of trace, debug, info, warn, error, fatal")]
pub struct ParseLevelError(String);

/// Sets the process-wide logger.
///
/// Call it early in `main`: the offset of the local time zone is read here, and on Unix that is refused (lines are
/// then stamped in UTC) once the process has a second thread.
///
/// # Errors
///
/// When the file cannot be opened, or a logger was set before; that one then stays in place with its level.
pub fn init(config: Config) -> Result<(), InitError> {
    if GLOBAL.get().is_some() {
        return Err(InitError::AlreadyInitialized);
    }
    let output: Box<dyn Write + Send> = match config.output {
        Output::Stderr => Box::new(io::stderr()),
        Output::File(path) => match OpenOptions::new().create(true).append(true).open(&path) {
            Ok(file) => Box::new(file),
            Err(source) => return Err(InitError::OpenFile { path, source }),
        },
        Output::Writer(writer) => writer,
    };
    let offset = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
    let format = UnifiedFormat::new(output, move || OffsetDateTime::now_utc().to_offset(offset));
    let logger = Logger::root(LevelFilter(format.ignore_res()), o!());
    GLOBAL.set(logger).map_err(|_| InitError::AlreadyInitialized)?;
    set_level(config.level);
    Ok(())
}

/// Sends lines to the output that the test harness captures, if the environment variable `TEST_LOG` (or else
/// `RUST_LOG`) is set; its value is the level, `debug` if it names none.
///
/// Every test may call it: all calls but the first do nothing.
pub fn init_for_test() {
    let Ok(wanted) = env::var("TEST_LOG").or_else(|_| env::var("RUST_LOG")) else {
        return;
    };
    let config =
        Config { level: parse_level(&wanted).unwrap_or(Level::Debug), output: Output::Writer(Box::new(TestCapture)) };
    // Another test of this process was first: its logger is as good as ours.
    let _ = init(config);
}

/// The process-wide logger; one that discards everything before [`init`].
pub fn global() -> &'static Logger {
    GLOBAL.get().unwrap_or_else(|| &DISCARD)
}

/// The least severe level that is written.
pub fn level() -> Level {
    Level::from_usize(LEVEL.load(Ordering::Relaxed)).unwrap_or(DEFAULT_LEVEL)
}

/// Changes the level for all threads. FATAL lines are always written.
pub fn set_level(level: Level) {
    LEVEL.store(level.as_usize(), Ordering::Relaxed);
}

/// Parses the name of a level as configuration spells it, in any case.
///
/// # Errors
///
/// When the name is none of `trace`, `debug`, `info`, `warn`, `warning`, `error`, `critical`, `fatal`.
pub fn parse_level(name: &str) -> Result<Level, ParseLevelError> {
    match name.to_ascii_lowercase().as_str() {
        "trace" => Ok(Level::Trace),
        "debug" => Ok(Level::Debug),
        "info" => Ok(Level::Info),
        "warn" | "warning" => Ok(Level::Warning),
        "error" => Ok(Level::Error),
        "critical" | "fatal" => Ok(Level::Critical),
        _ => Err(ParseLevelError(name.to_owned())),
    }
}

/// Drops the records that [`LEVEL`] excludes before they are formatted.
struct LevelFilter<D>(D);

impl<D: Drain<Ok = (), Err = Never>> Drain for LevelFilter<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if self.is_enabled(record.level()) { self.0.log(record, values) } else { Ok(()) }
    }

    fn is_enabled(&self, level: Level) -> bool {
        level.is_at_least(self::level())
    }
}

/// Writes through `eprint!`, the only way to stderr that the test harness captures.
struct TestCapture;

impl Write for TestCapture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        eprint!("{}", String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// One test, because the logger is one per process and `cargo test` runs tests as threads of one process.
    #[test]
    fn the_global_logger_discards_until_init_then_appends_and_follows_the_level() {
        crate::info!("before init");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tikv.log");
        fs::write(&path, "old\n").unwrap();
        let config = |path| Config { level: Level::Warning, output: Output::File(path) };

        let missing_dir = dir.path().join("missing").join("tikv.log");
        let err = init(config(missing_dir)).unwrap_err();
        assert!(matches!(err, InitError::OpenFile { .. }), "{err:?}");
        init(config(path.clone())).unwrap();
        let err = init(Config::default()).unwrap_err();
        assert!(matches!(err, InitError::AlreadyInitialized), "{err:?}");
        assert_eq!(level(), Level::Warning);

        let region_id = 7;
        crate::info!("too chatty");
        crate::warn!("peer {region_id} {}", "lost"; "region_id" => region_id, "err" => ?Some("x"));
        set_level(Level::Debug);
        crate::trace!("too chatty");
        crate::debug!("now wanted");
        set_level(Level::Critical);
        crate::error!("too chatty");
        crate::crit!("always");

        let log = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.len(), 4, "{log}");
        assert_eq!(lines[0], "old");
        assert!(lines[1].contains("] [WARN] [mod.rs:"), "{log}");
        assert!(lines[1].ends_with(r#"] ["peer 7 lost"] [region_id=7] [err="Some(\"x\")"]"#), "{log}");
        assert!(lines[2].ends_with(r#"] ["now wanted"]"#), "{log}");
        assert!(lines[3].contains("[FATAL]"), "{log}");
    }

    #[test]
    fn level_names_parse_in_any_case_and_errors_name_the_value() {
        assert_eq!(parse_level("WARN"), Ok(Level::Warning));
        assert_eq!(parse_level("fatal"), Ok(Level::Critical));
        let err = parse_level("loud").unwrap_err().to_string();
        assert!(err.contains("\"loud\"") && err.contains("trace, debug"), "{err}");
    }
}
