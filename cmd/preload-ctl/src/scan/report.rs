//! What a scan has found, for people and for scripts.
//!
//! **Owns** the text and the JSON of the report.
//!
//! **How it works.** The text has a part per signature: what it means, which versions have it, what to do, then its
//! findings. The JSON has an object per line: each finding with all of that, each input that could not be read, and the
//! summary last.
//!
//! **Invariants.** What comes from a log is printed without control characters, see [`super::signatures`].
//!
//! **Must not** decide what is a finding.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::{
    Finding, Outcome, ToldBy,
    record::Level,
    signatures::{Confidence, Severity, Signature, Signatures},
};
use crate::text::{amount, wrapped};

const TIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3] [offset_hour sign:mandatory]:[offset_minute]"
);
const WIDTH: usize = 100;

pub(super) fn print(outcome: &Outcome, signatures: &Signatures, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json { print_json(outcome, signatures, out) } else { print_text(outcome, signatures, out) }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<'a> {
    Finding {
        signature: &'a str,
        title: &'a str,
        severity: Severity,
        confidence: Confidence,
        time: Option<String>,
        /// The record has none of its own.
        is_time_of_earlier_line: bool,
        store: Option<&'a str>,
        store_told_by: Option<ToldBy>,
        file: String,
        line: u64,
        offset: u64,
        level: Option<Level>,
        message: &'a str,
        thread: Option<&'a str>,
        location: Option<&'a str>,
        shown_by: &'a [String],
        meaning: &'a str,
        affected: &'a str,
        fixed: &'a str,
        action: &'a str,
        reference: &'a str,
    },
    Unreadable {
        file: &'a str,
        error: &'a str,
    },
    Summary {
        files: usize,
        unreadable: usize,
        bytes: u64,
        lines: u64,
        first_time: Option<String>,
        last_time: Option<String>,
        findings: u64,
        /// All that were found; at most `--max-findings` of each were printed.
        by_signature: BTreeMap<&'a str, u64>,
    },
}

fn print_json(outcome: &Outcome, signatures: &Signatures, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |line: Line<'_>| {
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    };
    for (signature, findings) in &outcome.findings {
        for finding in findings {
            line(json_finding(finding, &signatures.list[*signature], outcome))?;
        }
    }
    for unreadable in &outcome.unreadable {
        line(Line::Unreadable { file: &unreadable.name, error: &unreadable.error })?;
    }
    line(Line::Summary {
        files: outcome.sources.len(),
        unreadable: outcome.unreadable.len(),
        bytes: outcome.totals.bytes,
        lines: outcome.totals.lines,
        first_time: outcome.totals.first_time.map(shown),
        last_time: outcome.totals.last_time.map(shown),
        findings: outcome.counts.values().sum(),
        by_signature: outcome.counts.iter().map(|(at, count)| (signatures.list[*at].id.as_str(), *count)).collect(),
    })
}

fn json_finding<'a>(finding: &'a Finding, signature: &'a Signature, outcome: &Outcome) -> Line<'a> {
    let found = &finding.found;
    Line::Finding {
        signature: &signature.id,
        title: &signature.title,
        severity: signature.severity,
        confidence: found.confidence,
        time: found.time.map(shown),
        is_time_of_earlier_line: found.is_time_of_earlier_line,
        store: finding.store.as_ref().map(|store| store.name.as_str()),
        store_told_by: finding.store.as_ref().map(|store| store.told_by),
        file: outcome.sources[finding.input].name(),
        line: finding.line,
        offset: finding.offset,
        level: found.level,
        message: &found.message,
        thread: found.thread.as_deref(),
        location: found.location.as_deref(),
        shown_by: &found.shown_by,
        meaning: &signature.meaning,
        affected: &signature.affected,
        fixed: &signature.fixed,
        action: &signature.action,
        reference: &signature.reference,
    }
}

fn print_text(outcome: &Outcome, signatures: &Signatures, out: &mut dyn Write) -> io::Result<()> {
    for (at, findings) in &outcome.findings {
        let (signature, count) = (&signatures.list[*at], outcome.counts[at]);
        writeln!(out, "{} ({}, {} times)", signature.id, label(signature.severity), count)?;
        writeln!(out, "  {}", signature.title)?;
        for (name, text) in [
            ("meaning", &signature.meaning),
            ("affected", &signature.affected),
            ("fixed in", &signature.fixed),
            ("to do", &signature.action),
            ("see", &signature.reference),
        ] {
            let mut label = name;
            for line in wrapped(text, WIDTH - 13) {
                writeln!(out, "  {label:<9}  {line}")?;
                label = "";
            }
        }
        writeln!(out)?;
        for finding in findings {
            print_finding(finding, outcome, out)?;
        }
        let left_out = count - findings.len() as u64;
        if left_out > 0 {
            writeln!(out, "  … and {left_out} more (--max-findings)")?;
        }
        writeln!(out)?;
    }
    print_summary(outcome, signatures, out)
}

fn print_finding(finding: &Finding, outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    let found = &finding.found;
    let time = match found.time {
        Some(time) if found.is_time_of_earlier_line => format!("after {}", shown(time)),
        Some(time) => shown(time),
        None => "at an unknown time".to_owned(),
    };
    let store = match &finding.store {
        Some(store) => format!("store {}", store.name),
        None => "store unknown".to_owned(),
    };
    let possible = if found.confidence == Confidence::Possible { "  (possible)" } else { "" };
    let name = outcome.sources[finding.input].name();
    let place = if name == "-" { "standard input, line ".to_owned() } else { format!("{name}:") };
    writeln!(out, "  {time}  {store}  {place}{}{possible}", finding.line)?;
    let mut details: Vec<&str> = vec![&found.message];
    details.extend(found.thread.as_deref().filter(|thread| !found.message.contains(thread)));
    details.extend(found.location.as_deref());
    writeln!(out, "    {}", details.join(", "))?;
    if !found.shown_by.is_empty() {
        writeln!(out, "    shown by {}", found.shown_by.join(" < "))?;
    }
    Ok(())
}

fn print_summary(outcome: &Outcome, signatures: &Signatures, out: &mut dyn Write) -> io::Result<()> {
    let totals = &outcome.totals;
    let span = match (totals.first_time, totals.last_time) {
        (Some(first), Some(last)) => format!(", from {} to {}", shown(first), shown(last)),
        _ => ", none with a time of TiKV's format".to_owned(),
    };
    let files = outcome.sources.len();
    let inputs = if files == 1 { "1 input".to_owned() } else { format!("{files} inputs") };
    writeln!(out, "Scanned {inputs}, {}, {} lines{span}.", amount(totals.bytes), totals.lines)?;
    if !outcome.unreadable.is_empty() {
        writeln!(out, "Not readable, or not to the end: {}.", outcome.unreadable.len())?;
    }
    if outcome.counts.is_empty() {
        return writeln!(out, "Nothing was found.");
    }
    let counts: Vec<_> =
        outcome.counts.iter().map(|(at, count)| format!("{} {count}", signatures.list[*at].id)).collect();
    writeln!(out, "Found: {}.", counts.join(", "))
}

fn label(severity: Severity) -> &'static str {
    match severity {
        Severity::Crash => "crash",
        Severity::Guarded => "guarded",
        Severity::Notice => "notice",
    }
}

fn shown(time: OffsetDateTime) -> String {
    time.format(TIME).expect("a date and a time of a log have all parts of the format")
}
