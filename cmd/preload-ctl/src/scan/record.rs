//! One record of a log: what belongs to it, and what it says.
//!
//! **Owns** the unified log format as it is read: the header `[time] [LEVEL] [file:line]`, the message, the fields, the
//! lines that follow without a header of their own, and the text that Rust's own panic hook prints.
//!
//! **How it works.** A record begins at a header, wherever on a line that is (a line that was cut off runs into the next
//! header), or at a line `thread '…' panicked at …`; it ends where the next one begins. [`locate`] finds the record
//! around a position, [`Record::parse`] reads it.
//!
//! **Invariants.** Whatever the bytes are, nothing here panics, and what is returned depends on the given slice alone.
//! No work is more than linear in the slice.
//!
//! **Must not** refuse a record because a part of it is broken: what can be read of it counts.

use std::ops::Range;

use memchr::{memchr_iter, memmem, memrchr, memrchr_iter};
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

/// `[2024/12/23 15:03:27.079 +00:00] [`
const HEADER_TIME_BYTES: usize = 34;
/// The longest header that matters: the time, a level of up to five letters, its brackets.
pub(super) const HEADER_MAX_BYTES: usize = HEADER_TIME_BYTES + 9;
/// Records of TiKV have fewer; a broken one may have any number.
const FIELDS_MAX: usize = 64;
/// The group after the header's `[file:line]`.
const MESSAGE_GROUP: usize = 1;
const RUST_PANIC: &[u8] = b"thread '";
/// The name of a thread is within it.
const RUST_PANIC_LINE_BYTES: usize = 512;
const RUST_PANIC_VERB: &[u8] = b" panicked at ";

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) time: OffsetDateTime,
    pub(super) level: Level,
    len: usize,
}

/// The header at the very beginning of `bytes`.
pub(super) fn parse_header(bytes: &[u8]) -> Option<Header> {
    let head = bytes.get(..HEADER_TIME_BYTES)?;
    let shape = |at: usize, text: &[u8]| head[at..].starts_with(text);
    if !(shape(0, b"[")
        && shape(5, b"/")
        && shape(8, b"/")
        && shape(11, b" ")
        && shape(14, b":")
        && shape(17, b":")
        && shape(20, b".")
        && shape(24, b" ")
        && shape(28, b":")
        && shape(31, b"] ["))
    {
        return None;
    }
    let number = |range: Range<usize>| {
        head[range].iter().try_fold(0_u16, |sum, byte| {
            byte.is_ascii_digit().then(|| sum.wrapping_mul(10).wrapping_add(u16::from(byte - b'0')))
        })
    };
    let small = |at: usize| number(at..at + 2).and_then(|value| u8::try_from(value).ok());
    let month = Month::try_from(small(6)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(1..5)?), month, small(9)?).ok()?;
    let time = Time::from_hms_milli(small(12)?, small(15)?, small(18)?, number(21..24)?).ok()?;
    let sign = match head[25] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let [hours, minutes] = [small(26)?, small(29)?].map(|part| i8::try_from(part).ok());
    let offset = UtcOffset::from_hms(hours? * sign, minutes? * sign, 0).ok()?;
    let (name, level) = [
        (&b"TRACE"[..], Level::Trace),
        (b"DEBUG", Level::Debug),
        (b"INFO", Level::Info),
        (b"WARN", Level::Warn),
        (b"ERROR", Level::Error),
        (b"FATAL", Level::Fatal),
    ]
    .into_iter()
    .find(|(name, _)| {
        bytes[HEADER_TIME_BYTES..].starts_with(name) && bytes.get(HEADER_TIME_BYTES + name.len()) == Some(&b']')
    })?;
    let time = PrimitiveDateTime::new(date, time).assume_offset(offset);
    Some(Header { time, level, len: HEADER_TIME_BYTES + name.len() + 1 })
}

/// The first header in `bytes`, wherever on a line it is.
pub(super) fn first_header(bytes: &[u8]) -> Option<Header> {
    memchr_iter(b'[', bytes).find_map(|at| parse_header(&bytes[at..]))
}

/// The last header in `bytes`, wherever on a line it is.
pub(super) fn last_header(bytes: &[u8]) -> Option<Header> {
    memrchr_iter(b'[', bytes).find_map(|at| parse_header(&bytes[at..]))
}

/// Whether the text of Rust's own panic hook begins at `window[at]`, which must begin a line.
fn is_rust_panic(window: &[u8], at: usize) -> bool {
    let line = &window[at..];
    let line = &line[..line.len().min(RUST_PANIC_LINE_BYTES)];
    let line = &line[..memchr::memchr(b'\n', line).unwrap_or(line.len())];
    let begins_line = at == 0 || window[at - 1] == b'\n';
    begins_line && line.starts_with(RUST_PANIC) && memmem::find(line, RUST_PANIC_VERB).is_some()
}

fn line_start(window: &[u8], at: usize) -> usize {
    memrchr(b'\n', &window[..at]).map_or(0, |line_break| line_break + 1)
}

/// The record around `window[anchor..]`, which its text must hold at that place.
///
/// Text that was found on a line without a header, below a record that is no panic, is a record of its own: its
/// header was cut off.
pub(super) fn locate(window: &[u8], anchor: usize) -> Range<usize> {
    let header = memrchr_iter(b'[', &window[..=anchor.min(window.len() - 1)])
        .find_map(|at| parse_header(&window[at..]).map(|header| (at, header)));
    let own_line = line_start(window, anchor);
    let rust_panic = {
        let floor = header.map_or(0, |(at, _)| at);
        memmem::rfind_iter(&window[floor..(anchor + RUST_PANIC.len()).min(window.len())], RUST_PANIC)
            .map(|at| floor + at)
            .find(|at| is_rust_panic(window, *at))
    };
    let start = match (rust_panic, header) {
        (Some(at), _) => at,
        (None, Some((at, header))) if at >= own_line || header.level == Level::Fatal => at,
        (None, _) => own_line,
    };
    start..end_of_record(window, start, anchor)
}

fn end_of_record(window: &[u8], start: usize, anchor: usize) -> usize {
    let from = anchor.max(start + 1);
    let next_header =
        memchr_iter(b'[', &window[from..]).map(|at| from + at).find(|at| parse_header(&window[*at..]).is_some());
    let limit = next_header.unwrap_or(window.len());
    memmem::find_iter(&window[from..limit], RUST_PANIC)
        .map(|at| from + at)
        .find(|at| is_rust_panic(window, *at))
        .unwrap_or(limit)
}

/// The last header before `at`, which tells about when a record without one was written.
pub(super) fn time_before(window: &[u8], at: usize) -> Option<OffsetDateTime> {
    memrchr_iter(b'[', &window[..at]).find_map(|at| parse_header(&window[at..])).map(|header| header.time)
}

/// What a record says.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) header: Option<Header>,
    /// Lossy where the bytes are no UTF-8.
    pub(super) message: String,
    fields: Vec<(String, String)>,
    /// The whole record, one level of escapes taken off if it was wrapped in JSON.
    pub(super) text: String,
}

impl Record {
    pub(super) fn parse(bytes: &[u8]) -> Record {
        let header = parse_header(bytes);
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        // Container runtimes wrap each line in a JSON string: quotes are escaped once more.
        if header.is_some() && text.contains("] [\\\"") {
            text = unescape(&text);
        }
        let mut record = Record { header, message: String::new(), fields: Vec::new(), text };
        match header {
            Some(header) => record.parse_groups(header.len, 0),
            None => {
                record.message = headless_message(&record.text);
                if let Some(at) = record.text.find(" [backtrace=") {
                    record.parse_groups(at, MESSAGE_GROUP + 1);
                }
            }
        }
        record
    }

    pub(super) fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_panic(&self) -> bool {
        self.header.map_or_else(|| true, |header| header.level == Level::Fatal)
    }

    /// The name of the thread that panicked, as TiKV or as Rust tells it.
    pub(super) fn thread(&self) -> Option<&str> {
        self.field("thread_name").or_else(|| {
            let rest = self.text.strip_prefix("thread '")?;
            rest.split_once('\'').map(|(name, _)| name)
        })
    }

    /// `[file:line] ["message"] [key=value]…` from group number `first` on, as far as it is whole.
    fn parse_groups(&mut self, mut at: usize, first: usize) {
        let text = std::mem::take(&mut self.text);
        for index in first..FIELDS_MAX {
            let Some(group) = text.get(at..).and_then(|rest| rest.strip_prefix(" [")) else { break };
            let (parsed, used) = parse_group(group);
            at += 2 + used;
            match index {
                0 => {}
                MESSAGE_GROUP => self.message = parsed.into_text(),
                _ => {
                    if let Group::Field(key, value) = parsed {
                        self.fields.push((key, value));
                    }
                }
            }
        }
        self.text = text;
    }
}

enum Group {
    Text(String),
    Field(String, String),
}

impl Group {
    fn into_text(self) -> String {
        match self {
            Group::Text(text) => text,
            Group::Field(key, value) => format!("{key}={value}"),
        }
    }
}

/// Reads a group behind its opening bracket, and tells how many bytes it takes, the closing bracket included. One that is
/// cut off ends with the text.
fn parse_group(text: &str) -> (Group, usize) {
    let (first, mut used) = parse_part(text);
    let group = if text[used..].starts_with('=') {
        let (value, more) = parse_part(&text[used + 1..]);
        used += 1 + more;
        Group::Field(first, value)
    } else {
        Group::Text(first)
    };
    if text[used..].starts_with(']') {
        used += 1;
    }
    (group, used)
}

/// A JSON string, or bare text up to `=`, `]` or a line break.
fn parse_part(text: &str) -> (String, usize) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['=', ']', '\n']).unwrap_or(text.len());
        return (text[..end].to_owned(), end);
    };
    let mut escaped = false;
    for (at, byte) in quoted.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return (unescape(&quoted[..at]), at + 2),
            _ => {}
        }
    }
    (unescape(quoted), text.len())
}

/// Takes one level of JSON's escapes off; what is no escape stays.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('u') => {
                let code = chars.as_str().get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                match code.and_then(char::from_u32) {
                    Some(c) => {
                        plain.push(c);
                        chars = chars.as_str()[4..].chars();
                    }
                    None => plain.push_str("\\u"),
                }
            }
            Some(c) => plain.push(c),
            None => plain.push('\\'),
        }
    }
    plain
}

/// Rust's panic text has the message on the second line (before 1.73: quoted on the first); anything else has its first line.
fn headless_message(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let message = match first.split_once(" panicked at ") {
        Some((thread, rest)) if thread.starts_with("thread '") => match rest.strip_prefix('\'') {
            Some(old_style) => old_style.rsplit_once('\'').map_or(old_style, |(message, _)| message),
            None => lines.next().unwrap_or_default(),
        },
        _ => first,
    };
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const FATAL: &str = r#"[2024/12/23 15:03:27.079 +08:00] [FATAL] [lib.rs:480] ["no \"peers\""] [backtrace="   0: f\n   1: g"] [location=a/b.rs:1] [thread_name=raftstore-6-1]"#;
    const INFO: &str = r#"[2024/12/23 15:03:26.000 +08:00] [INFO] [a.rs:1] [hello] [region_id=7]"#;

    fn located<'a>(log: &'a str, anchor: &str) -> &'a str {
        &log[locate(log.as_bytes(), log.find(anchor).unwrap())]
    }

    #[test]
    fn header_message_and_fields_are_read() {
        let record = Record::parse(FATAL.as_bytes());
        let header = record.header.unwrap();
        assert_eq!(header.time, datetime!(2024-12-23 15:03:27.079 +8));
        assert_eq!(header.level, Level::Fatal);
        assert_eq!(record.message, "no \"peers\"");
        assert_eq!(record.field("backtrace"), Some("   0: f\n   1: g"));
        assert_eq!(record.thread(), Some("raftstore-6-1"));
        assert_eq!(Record::parse(INFO.as_bytes()).message, "hello");
    }

    #[test]
    fn what_is_not_quite_a_header_is_none() {
        for broken in [
            "[2024/13/23 15:03:27.079 +08:00] [FATAL]",
            "[2024/12/23 25:03:27.079 +08:00] [FATAL]",
            "[2024/12/23 15:03:27.079 +08:00] [LOUD]",
            "[2024/12/23 15:03:27.079 ?08:00] [FATAL]",
            "[2024-12-23 15:03:27.079 +08:00] [FATAL]",
            "[2024/12/23 15:03:27.079 +08:00] [",
            "[2024/12/23 15:03:27.079 +99:99] [FATAL]",
        ] {
            assert_eq!(parse_header(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn record_goes_from_its_header_to_the_next_one() {
        let log = format!("{INFO}\n{FATAL}\n{INFO}\n");
        assert_eq!(located(&log, "no \\\"peers"), format!("{FATAL}\n"));
        assert_eq!(located(&log, "1: g"), format!("{FATAL}\n"));
    }

    #[test]
    fn header_in_the_middle_of_a_line_begins_a_record() {
        let log = format!("{}{FATAL}{INFO}", &INFO[..50]);
        assert_eq!(located(&log, "no \\\"peers"), FATAL);
    }

    #[test]
    fn text_below_a_harmless_record_is_a_record_of_its_own() {
        let log = format!("{INFO}\nhalf a line: no peers\n  more\n{INFO}");
        assert_eq!(located(&log, "no peers"), "half a line: no peers\n  more\n");
        let log = format!("{FATAL}\nno peers\n{INFO}");
        assert_eq!(located(&log, "no peers"), format!("{FATAL}\nno peers\n"));
    }

    #[test]
    fn text_of_rusts_panic_hook_is_a_record() {
        let new =
            "thread 'raftstore-6-1' panicked at components/keys/src/lib.rs:1:2:\nno peers\nstack backtrace:\n   0: f\n";
        let log = format!("{INFO}\n{new}{INFO}\n");
        assert_eq!(located(&log, "no peers"), new);
        let record = Record::parse(new.as_bytes());
        assert_eq!((record.message.as_str(), record.thread()), ("no peers", Some("raftstore-6-1")));
        let old = Record::parse(b"thread 'x' panicked at 'no 'peers'', a/b.rs:1:2\n");
        assert_eq!((old.message.as_str(), old.thread()), ("no 'peers'", Some("x")));
        // Two in a row are two.
        let log = format!("{new}{}", new.replace("no peers", "others"));
        assert_eq!(located(&log, "no peers"), new);
    }

    #[test]
    fn line_that_a_container_runtime_wrapped_is_unwrapped() {
        let wrapped = format!("{{\"log\":{}}}\n", serde_json::to_string(&format!("{FATAL}\n")).unwrap());
        let at = locate(wrapped.as_bytes(), wrapped.find("peers").unwrap());
        let record = Record::parse(&wrapped.as_bytes()[at]);
        assert_eq!(record.message, "no \"peers\"");
        assert_eq!(record.field("backtrace"), Some("   0: f\n   1: g"));
    }

    #[test]
    fn cut_records_are_read_as_far_as_they_go() {
        for end in 0..FATAL.len() {
            let record = Record::parse(&FATAL.as_bytes()[..end]);
            if end > FATAL.find("] [location").unwrap() {
                assert_eq!(record.field("backtrace"), Some("   0: f\n   1: g"));
            }
        }
    }
}
