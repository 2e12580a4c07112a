//! TiKV's unified log format.
//!
//! **Owns** the shape of a line and the lock around the output:
//!
//! ```text
//! [2024/12/23 15:03:27.079 +00:00] [WARN] [file.rs:12] ["no leader"] [region_id=7] [err="…"]
//! ```
//!
//! **How it works.** Message, field names and values are written bare, or as a JSON string if a bare one could be
//! misread: it holds a blank, a control character, `"`, `=`, `[` or `]`. Fields come in the order in which they were
//! written: those of the record, then those of its logger, outermost first.
//!
//! **Invariants.** A line has no line break inside and reaches the output in one `write_all`, so lines of two threads
//! never mix.
//!
//! **Must not** hold the lock while it formats: formatting runs foreign `Display` code, which may log.

use std::{
    cell::RefCell,
    fmt,
    io::{self, Write},
    panic::{RefUnwindSafe, UnwindSafe},
    path::Path,
};

use ::time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use parking_lot::ReentrantMutex;
use slog::{Drain, KV, Key, Level, OwnedKVList, Record, Serializer};

const TIMESTAMP: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]/[month]/[day] [hour]:[minute]:[second].[subsecond digits:3] [offset_hour sign:mandatory]:[offset_minute]"
);

/// Most lines are shorter, so that most lines need one allocation for the text.
const LINE_CAPACITY_BYTES: usize = 256;

/// A [`Drain`] that writes records to `W` in the unified log format, stamped with the time that `F` tells.
pub struct UnifiedFormat<W, F> {
    /// Reentrant, so that a writer that panics or logs in the middle of a line gets an error instead of a deadlock
    /// when the panic hook of the same thread writes its last line.
    output: ReentrantMutex<RefCell<W>>,
    now: F,
}

// A panic of the writer leaves at most half a line behind, which no later line depends on.
impl<W, F> UnwindSafe for UnifiedFormat<W, F> {}
impl<W, F> RefUnwindSafe for UnifiedFormat<W, F> {}

impl<W: Write, F: Fn() -> OffsetDateTime> UnifiedFormat<W, F> {
    pub fn new(output: W, now: F) -> Self {
        UnifiedFormat { output: ReentrantMutex::new(RefCell::new(output)), now }
    }

    fn format(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<Vec<u8>> {
        let mut line = Vec::with_capacity(LINE_CAPACITY_BYTES);
        line.push(b'[');
        (self.now)().format_into(&mut line, TIMESTAMP).map_err(io::Error::other)?;
        let file = Path::new(record.file()).file_name().unwrap_or_default();
        write!(line, "] [{}] [{}:{}] [", level_name(record.level()), file.display(), record.line())?;
        write_text(&mut line, &record.msg().to_string())?;
        line.push(b']');

        let mut fields = Fields::default();
        record.kv().serialize(record, &mut fields)?;
        fields.write_to(&mut line)?;
        let mut fields = Fields::default();
        values.serialize(record, &mut fields)?;
        fields.write_to(&mut line)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl<W: Write, F: Fn() -> OffsetDateTime> Drain for UnifiedFormat<W, F> {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        let line = self.format(record, values)?;
        let output = self.output.lock();
        let mut output = output.try_borrow_mut().map_err(io::Error::other)?;
        output.write_all(&line)?;
        output.flush()
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Critical => "FATAL",
        Level::Error => "ERROR",
        Level::Warning => "WARN",
        Level::Info => "INFO",
        Level::Debug => "DEBUG",
        Level::Trace => "TRACE",
    }
}

fn write_text(line: &mut Vec<u8>, text: &str) -> io::Result<()> {
    if text.contains(needs_quotes) {
        serde_json::to_writer(line, text)?;
    } else {
        line.extend_from_slice(text.as_bytes());
    }
    Ok(())
}

fn needs_quotes(c: char) -> bool {
    matches!(c, '"' | '=' | '[' | ']') || c.is_whitespace() || c.is_control()
}

/// Collects fields, because slog hands them out last first.
#[derive(Default)]
struct Fields(Vec<(Key, String)>);

impl Fields {
    fn write_to(self, line: &mut Vec<u8>) -> io::Result<()> {
        for (key, value) in self.0.into_iter().rev() {
            line.extend_from_slice(b" [");
            write_text(line, key)?;
            line.push(b'=');
            write_text(line, &value)?;
            line.push(b']');
        }
        Ok(())
    }
}

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push((key, value.to_string()));
        Ok(())
    }

    /// slog's default is an empty value, which reads like an empty string.
    fn emit_none(&mut self, key: Key) -> slog::Result {
        self.emit_arguments(key, &format_args!("None"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use ::time::macros::datetime;
    use slog::{Logger, o};

    use super::*;

    /// Remembers each `write` on its own.
    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<String>>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            self.0.lock().unwrap().push(text);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Runs `log` and returns what each `write` wrote.
    fn written(log: impl FnOnce(&Logger)) -> Vec<String> {
        let writes = Writes::default();
        let format = UnifiedFormat::new(writes.clone(), || datetime!(2024-12-23 15:03:27.079 +1:30));
        log(&Logger::root(format.ignore_res(), o!()));
        let lines = writes.0.lock().unwrap();
        lines.clone()
    }

    /// Like [`written`], without what comes before the message: it holds this file's line numbers.
    fn logged(log: impl FnOnce(&Logger)) -> Vec<String> {
        written(log).iter().map(|line| line.splitn(6, ' ').nth(5).unwrap().to_owned()).collect()
    }

    #[test]
    fn a_line_has_time_level_place_message_and_fields_in_one_write() {
        let err = "region 7 [a, b)";
        let line = line!() + 1;
        let lines = written(|l| slog::warn!(l, "no leader"; "region_id" => 7, "err" => ?err));
        let expected = format!(
            "[2024/12/23 15:03:27.079 +01:30] [WARN] [format.rs:{line}] [\"no leader\"] \
             [region_id=7] [err=\"\\\"region 7 [a, b)\\\"\"]\n"
        );
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn text_is_quoted_only_if_it_could_be_misread() {
        for (text, written) in [
            ("started", "started"),
            ("", ""),
            ("a/b:c,d{e}'f", "a/b:c,d{e}'f"),
            ("größe-区域", "größe-区域"),
            ("back\\slash", "back\\slash"),
            ("region created", "\"region created\""),
            ("a=b", "\"a=b\""),
            ("[a", "\"[a\""),
            ("b]", "\"b]\""),
            ("say \"hi\"", "\"say \\\"hi\\\"\""),
            ("two\nlines", "\"two\\nlines\""),
            ("nul\0", "\"nul\\u0000\""),
            ("ideographic\u{3000}space", "\"ideographic\u{3000}space\""),
        ] {
            let lines = logged(|l| slog::info!(l, "{}", text; "k" => text));
            assert_eq!(lines, [format!("[{written}] [k={written}]\n")]);
        }
    }

    #[test]
    fn fields_keep_their_order_record_first_then_logger() {
        let lines = logged(|l| {
            let store = l.new(o!("store" => 1, "cluster" => 2));
            let peer = store.new(o!("peer id" => 3));
            slog::info!(peer, "x"; "a" => 1, "b" => 2, "c" => None::<u64>);
        });
        assert_eq!(lines, ["[x] [a=1] [b=2] [c=None] [store=1] [cluster=2] [\"peer id\"=3]\n"]);
    }

    #[test]
    fn a_value_that_logs_while_it_is_formatted_gets_a_line_of_its_own() {
        struct Chatty<'a>(&'a Logger);
        impl fmt::Display for Chatty<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                slog::info!(self.0, "inner");
                f.write_str("value")
            }
        }
        let lines = logged(|l| slog::info!(l, "outer"; "k" => %Chatty(l)));
        assert_eq!(lines, ["[inner]\n", "[outer] [k=value]\n"]);
    }

    #[test]
    fn a_writer_that_logs_gets_an_error_and_no_deadlock() {
        type Format = UnifiedFormat<Recursive, fn() -> OffsetDateTime>;
        #[derive(Default)]
        struct Recursive {
            format: Option<Arc<Format>>,
            inner: Arc<Mutex<Option<io::Result<()>>>>,
        }
        fn log_x(format: &Format) -> io::Result<()> {
            format.log(&slog::record!(Level::Info, "", &format_args!("x"), slog::b!()), &o!().into())
        }
        impl Write for Recursive {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let result = self.format.as_ref().map(|format| log_x(format));
                *self.inner.lock().unwrap() = result;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writer = Recursive::default();
        let inner = writer.inner.clone();
        let format: Arc<Format> = Arc::new(UnifiedFormat::new(writer, || datetime!(2024-12-23 0:00 UTC)));
        format.output.lock().borrow_mut().format = Some(format.clone());
        log_x(&format).unwrap();
        assert!(matches!(*inner.lock().unwrap(), Some(Err(_))));
        // Break the cycle of references, so that leak checkers stay quiet.
        format.output.lock().borrow_mut().format = None;
    }
}
