//! What is looked for, and whether a record is it.
//!
//! **Owns** the data file `signatures.toml` and the meaning of its keys.
//!
//! **How it works.** [`Signatures::embedded`] reads the file that is compiled in and makes one searcher of all literals in
//! it, the prefilter. [`Signatures::examine`] looks at the record around a place where one of them was found.
//!
//! **Invariants.** At most one signature fits a record: they are tried in order. A record that no signature fits does
//! not fit when a part of it is looked at either, so it may be skipped as a whole.
//!
//! **Must not** know TiKV: what is known about it stands in the data file.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    backtrace::{Backtrace, Frame},
    record::{Level, Record, locate, time_before},
};

const DATA: &str = include_str!("signatures.toml");
/// Of the record's first line, for a report. A line of a log may have any length.
const MESSAGE_MAX_CHARS: usize = 300;
const CALLERS_SHOWN: usize = 6;
/// Longer names of stores are no names of stores.
const STORE_MAX_CHARS: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataFile {
    signature: Vec<Signature>,
    store: Vec<StoreLine>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Signature {
    pub(super) id: String,
    pub(super) title: String,
    kind: Kind,
    pub(super) severity: Severity,
    pub(super) confidence: Confidence,
    anchors: Vec<String>,
    #[serde(default)]
    levels: Vec<Level>,
    text: Vec<Vec<String>>,
    #[serde(default)]
    frames: Vec<FramePattern>,
    backtrace: Option<BacktraceRule>,
    pub(super) meaning: String,
    pub(super) affected: String,
    pub(super) fixed: String,
    pub(super) action: String,
    pub(super) reference: String,
    /// Records that it fits, for the test that runs them.
    #[serde(default)]
    #[cfg_attr(not(test), allow(dead_code, reason = "documentation in the data file, and a test's input"))]
    example: Vec<Example>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Panic,
    Line,
}

/// How bad it is that a signature is found.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Worth knowing.
    Notice,
    /// The situation of a crash arose and was handled.
    Guarded,
    /// The store went down.
    Crash,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Confidence {
    Confirmed,
    Possible,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum BacktraceRule {
    Callers,
    Nothing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FramePattern {
    function: Option<String>,
    place: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(test), allow(dead_code, reason = "see Signature::example"))]
struct Example {
    text: String,
    store: Option<String>,
}

/// A line that says which store writes the log.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreLine {
    message: String,
    field: String,
    #[serde(default)]
    after: String,
}

/// A record that a signature fits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// Index into [`Signatures::list`].
    pub(super) signature: usize,
    pub(super) confidence: Confidence,
    pub(super) time: Option<OffsetDateTime>,
    /// The record has no time of its own; this is that of a line before it.
    pub(super) is_time_of_earlier_line: bool,
    pub(super) level: Option<Level>,
    pub(super) message: String,
    pub(super) thread: Option<String>,
    pub(super) location: Option<String>,
    /// Told by the record itself.
    pub(super) store: Option<String>,
    /// What the conclusion rests on: the frame that fitted, or the first frames that name callers.
    pub(super) shown_by: Vec<String>,
}

/// What is at a place where a literal occurs.
#[derive(Debug, PartialEq)]
pub(super) enum Examined {
    Finding(Box<Found>),
    Store(String),
    Nothing,
}

pub(super) struct Signatures {
    pub(super) list: Vec<Signature>,
    stores: Vec<StoreLine>,
    prefilter: AhoCorasick,
}

impl Signatures {
    /// # Panics
    ///
    /// If the embedded file is broken, which a test rules out.
    pub(super) fn embedded() -> Signatures {
        let data: DataFile = toml::from_str(DATA).expect("the embedded signatures are well-formed, a test reads them");
        let literals = data
            .signature
            .iter()
            .flat_map(|signature| &signature.anchors)
            .chain(data.store.iter().map(|line| &line.message));
        let prefilter = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostFirst)
            .build(literals)
            .expect("a few short literals make a searcher");
        Signatures { list: data.signature, stores: data.store, prefilter }
    }

    pub(super) fn prefilter(&self) -> &AhoCorasick {
        &self.prefilter
    }

    /// Looks at the record around `window[anchor]`, and tells where in the window the next one worth a look may begin.
    pub(super) fn examine(&self, window: &[u8], anchor: Range<usize>) -> (Range<usize>, Examined) {
        let place = locate(window, anchor.start);
        let record = Record::parse(&window[place.clone()]);
        if let Some(found) = self.fitting(&record) {
            let mut found = self.describe(found, &record);
            if found.time.is_none() {
                found.time = time_before(window, place.start);
                found.is_time_of_earlier_line = found.time.is_some();
            }
            return (place, Examined::Finding(Box::new(found)));
        }
        // Below a record of a level that is no panic's, text without a header is looked at by itself.
        let line_end = memchr::memchr(b'\n', &window[anchor.end..]).map_or(window.len(), |at| anchor.end + at);
        let end = if record.is_panic() { place.end } else { line_end.min(place.end) };
        let place = place.start..end.max(anchor.end);
        match self.store_of(&record) {
            Some(store) => (place, Examined::Store(store)),
            None => (place, Examined::Nothing),
        }
    }

    fn fitting(&self, record: &Record) -> Option<Fit> {
        let mut backtrace = None;
        self.list.iter().enumerate().find_map(|(index, signature)| {
            let says_it = |group: &Vec<String>, text: &str| group.iter().any(|literal| text.contains(literal.as_str()));
            match signature.kind {
                Kind::Panic => {
                    if !record.is_panic() || !signature.text.iter().all(|group| says_it(group, &record.text)) {
                        return None;
                    }
                    let backtrace = backtrace.get_or_insert_with(|| Backtrace::of(record));
                    signature.shown_by(backtrace).map(|shown_by| Fit { signature: index, shown_by })
                }
                Kind::Line => {
                    let is_level = record.header.is_none_or(|header| signature.levels.contains(&header.level));
                    let fits = is_level && signature.text.iter().all(|group| says_it(group, &record.message));
                    fits.then(|| Fit { signature: index, shown_by: Vec::new() })
                }
            }
        })
    }

    fn describe(&self, fit: Fit, record: &Record) -> Found {
        let signature = &self.list[fit.signature];
        let is_sure = signature.kind == Kind::Panic || record.header.is_some();
        let store =
            ["store_id", "local_store_id"].iter().find_map(|key| record.field(key)).filter(|id| is_store_name(id));
        Found {
            signature: fit.signature,
            confidence: if is_sure { signature.confidence } else { Confidence::Possible },
            time: record.header.map(|header| header.time),
            is_time_of_earlier_line: false,
            level: record.header.map(|header| header.level),
            message: shortened(&record.message),
            thread: record.thread().map(shortened),
            location: record.field("location").map(shortened),
            store: record.thread().and_then(store_of_thread).or(store).map(str::to_owned),
            shown_by: fit.shown_by,
        }
    }

    fn store_of(&self, record: &Record) -> Option<String> {
        record.header?;
        let line = self.stores.iter().find(|line| line.message == record.message)?;
        let field = record.field(&line.field)?;
        let at = field.find(&line.after)? + line.after.len();
        let name = &field[at..];
        let end = name.find(|c: char| !is_store_char(c)).unwrap_or(name.len());
        Some(name[..end].to_owned()).filter(|name| is_store_name(name))
    }
}

/// A signature that fits, by its index, and why.
struct Fit {
    signature: usize,
    shown_by: Vec<String>,
}

impl Signature {
    /// What in the backtrace speaks for this signature; `None` if something speaks against it.
    fn shown_by(&self, backtrace: &Backtrace) -> Option<Vec<String>> {
        if !self.frames.is_empty() {
            let fits = |frame: &&Frame| self.frames.iter().any(|pattern| pattern.fits(frame));
            return backtrace.frames.iter().find(fits).map(|frame| vec![shortened(frame.name())]);
        }
        match self.backtrace {
            Some(BacktraceRule::Callers) => backtrace
                .is_usable()
                .then(|| backtrace.callers().take(CALLERS_SHOWN).map(|frame| shortened(frame.name())).collect()),
            Some(BacktraceRule::Nothing) => (!backtrace.is_usable()).then(Vec::new),
            None => Some(Vec::new()),
        }
    }
}

impl FramePattern {
    fn fits(&self, frame: &Frame) -> bool {
        self.function.as_ref().is_none_or(|name| frame.is_function(name))
            && self.place.as_ref().is_none_or(|place| frame.mentions(place))
    }
}

/// TiKV's store threads are `raftstore-STORE-N`, those of this repository's host `store-STORE`.
fn store_of_thread(thread: &str) -> Option<&str> {
    let rest = thread.strip_prefix("raftstore-").or_else(|| thread.strip_prefix("store-"))?;
    let id = rest.split('-').next()?;
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())).then_some(id)
}

fn is_store_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-')
}

fn is_store_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= STORE_MAX_CHARS && name.chars().all(is_store_char)
}

/// Bounded, and without what would move a terminal's cursor.
fn shortened(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.trim_end().chars().take(MESSAGE_MAX_CHARS).map(plain).collect();
    if text.trim_end().chars().nth(MESSAGE_MAX_CHARS).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn findings(signatures: &Signatures, log: &str) -> Vec<Found> {
        let mut found = Vec::new();
        let mut next = 0;
        for hit in signatures.prefilter().find_iter(log) {
            if hit.start() >= next {
                let (place, examined) = signatures.examine(log.as_bytes(), hit.range());
                next = place.end;
                if let Examined::Finding(finding) = examined {
                    found.push(*finding);
                }
            }
        }
        found
    }

    #[test]
    fn each_example_fits_its_signature_and_no_other() {
        let signatures = Signatures::embedded();
        for (index, signature) in signatures.list.iter().enumerate() {
            assert!(!signature.example.is_empty(), "{} has no example", signature.id);
            for example in &signature.example {
                let context = "[2024/12/23 15:00:00.000 +00:00] [INFO] [a.rs:1] [hello]\n";
                let found = findings(&signatures, &format!("{context}{}\n{context}", example.text));
                let ids: Vec<_> = found.iter().map(|found| &signatures.list[found.signature].id).collect();
                assert_eq!(ids, [&signature.id], "{}", example.text);
                assert_eq!(found[0].signature, index);
                assert_eq!(found[0].store, example.store, "{}", example.text);
                assert_eq!(found[0].confidence, signature.confidence);
                assert!(found[0].time.is_some());
            }
        }
    }

    #[test]
    fn signatures_are_told_apart_by_id_and_reachable_by_their_anchors() {
        let signatures = Signatures::embedded();
        let ids: HashSet<_> = signatures.list.iter().map(|signature| &signature.id).collect();
        assert_eq!(ids.len(), signatures.list.len());
        for signature in &signatures.list {
            assert!(signature.anchors.iter().all(|anchor| anchor.len() >= 8), "{}", signature.id);
            assert_eq!(signature.kind == Kind::Line, !signature.levels.is_empty(), "{}", signature.id);
        }
    }

    /// The texts are the plugin's own, as its source and its documentation have them.
    #[test]
    fn lines_of_the_plugin_are_those_that_it_prints() {
        let source = concat!(include_str!("../../../../src/report.rs"), include_str!("../../../../src/observer.rs"));
        let manual = include_str!("../../../../docs/operations.md");
        let signatures = Signatures::embedded();
        let of_plugin = signatures.list.iter().filter(|signature| signature.id.starts_with("plugin-"));
        let texts: Vec<_> = of_plugin.flat_map(|signature| &signature.anchors).collect();
        assert!(texts.len() >= 8);
        for text in texts {
            assert!(source.contains(&format!("\"{text}\"")), "the plugin does not print {text:?}");
            assert!(manual.contains(&format!("`{text}`")), "docs/operations.md lacks {text:?}");
        }
    }

    #[test]
    fn mention_of_the_assertion_in_a_harmless_line_is_no_finding() {
        let log = r#"[2024/12/23 15:00:00.000 +00:00] [INFO] [a.rs:1] ["slow query"] [sql="select 'assertion failed: !region.get_peers().is_empty()'"]"#;
        assert_eq!(findings(&Signatures::embedded(), log), []);
    }

    #[test]
    fn store_lines_tell_the_store() {
        let signatures = Signatures::embedded();
        for (line, store) in [
            (r#"["put store to PD"] [store="id: 5 address: \"127.0.0.1:20160\""]"#, Some("5")),
            (r#"["store started"] [store_id=2]"#, Some("2")),
            (
                r#"["using config"] [config="{\"server\":{\"advertise-addr\":\"10.0.0.1:20160\"}}"]"#,
                Some("10.0.0.1:20160"),
            ),
            (r#"["using config"] [config="{}"]"#, None),
            (r#"["store started"] [store_id="\u001b[31m"]"#, None),
            (r#"["say: store started"] [store_id=2]"#, None),
        ] {
            let log = format!("[2024/12/23 15:00:00.000 +00:00] [INFO] [a.rs:1] {line}\n");
            let hit = signatures.prefilter().find(&log).unwrap();
            let (_, examined) = signatures.examine(log.as_bytes(), hit.range());
            assert_eq!(examined, store.map_or(Examined::Nothing, |store| Examined::Store(store.to_owned())), "{line}");
        }
    }

    #[test]
    fn plugin_line_without_its_header_is_possible_only() {
        let log = "half [INFO] [report.rs:1] [\"leader transferred cold\"] [region_id=7]";
        let found = findings(&Signatures::embedded(), log);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].confidence, Confidence::Possible);
    }

    #[test]
    fn control_characters_do_not_reach_a_report() {
        let log = "[2024/12/23 15:00:00.000 +00:00] [FATAL] [a.rs:1] [\"assertion failed: !region.get_peers().is_empty()\\u001b[2J\"] [thread_name=\"\\u0007\"]";
        let found = findings(&Signatures::embedded(), log);
        assert!(!format!("{}{:?}", found[0].message, found[0].thread).contains(char::is_control));
    }
}
