//! What the user sees: a timeline for people, or JSON for programs.
//!
//! **Owns** stdout, and whether all claims have held so far.
//!
//! **How it works.** A step [checks](Report::check) claims and returns what it measured. For people, each check is a
//! line with ✓ or ✗, in colour on a terminal unless `NO_COLOR` is set. With `--json`, a step is one object with its
//! name, whether all of its claims held, and the values; the other methods print nothing.
//!
//! **Invariants.** A claim that did not hold makes its step, the summary and the exit code say so.
//!
//! **Must not** fail: when stdout is closed, nobody is there to read the rest.

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tikv_util::time::{Clock as _, MonotonicClock};

use crate::error::{Error, Result};

/// What a detail is indented by: as wide as time and mark of the line before.
const INDENT: &str = "             ";

pub(super) struct Report {
    json: bool,
    is_terminal: bool,
    has_colour: bool,
    clock: MonotonicClock,
    claims: usize,
    /// All claims that did not hold.
    failed: Vec<String>,
}

/// A line of `--json`.
#[derive(Serialize)]
struct Line<'a, V> {
    step: &'a str,
    ok: bool,
    #[serde(flatten)]
    values: V,
    /// The claims that did not hold.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    failed: &'a [String],
}

#[derive(Serialize)]
struct Failure {
    error: String,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            is_terminal,
            has_colour: is_terminal && !no_colour,
            clock: MonotonicClock::new(),
            claims: 0,
            failed: Vec::new(),
        }
    }

    pub(super) fn title(&self, text: &str) {
        self.print(&self.styled(Style::Bold, text));
    }

    pub(super) fn heading(&self, text: &str) {
        self.print("");
        self.print(&self.styled(Style::Bold, text));
    }

    /// Something that happened.
    pub(super) fn note(&self, text: &str) {
        self.timed(" ", text);
    }

    /// A claim, and whether it held; returns that.
    pub(super) fn check(&mut self, holds: bool, claim: &str) -> bool {
        self.claims += 1;
        if holds {
            self.timed(&self.styled(Style::Green, "✓"), claim);
        } else {
            self.timed(&self.styled(Style::Red, "✗"), claim);
            self.failed.push(claim.to_owned());
        }
        holds
    }

    /// A claim that was waited for: had it not come true, the wait would have failed.
    pub(super) fn reached(&mut self, claim: &str) {
        self.check(true, claim);
    }

    /// The claim that `what` is `expected`; returns whether it is.
    pub(super) fn expect<T: Display + PartialEq>(&mut self, what: &str, measured: T, expected: T) -> bool {
        if measured == expected {
            self.check(true, &format!("{what}: {measured}"))
        } else {
            self.check(false, &format!("{what}: {measured}, expected: {expected}"))
        }
    }

    /// More about the line before.
    pub(super) fn detail(&self, text: &str) {
        self.print(&self.styled(Style::Dim, &format!("{INDENT}{text}")));
    }

    pub(super) fn table(&self, lines: &[String]) {
        lines.iter().for_each(|line| self.print(&format!("{INDENT}{line}")));
    }

    /// Shown on a terminal only.
    pub(super) fn progress(&self, len: u64) -> ProgressBar {
        if self.json || !self.is_terminal {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(&format!("{INDENT}{{bar:40}} {{human_pos}} of {{human_len}}"));
        ProgressBar::new(len).with_style(style.expect("the template is valid"))
    }

    /// Runs a step of the demo and prints what it measured.
    ///
    /// # Errors
    /// The step's; it is printed as well.
    pub(super) fn step<V: Serialize>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> Result<V>) -> Result<V> {
        let failed_before = self.failed.len();
        let outcome = run(self);
        match &outcome {
            Ok(values) => self.print_json(name, values, failed_before),
            Err(Error::Interrupted) => {}
            Err(error) => {
                let error = error.with_causes();
                self.check(false, &format!("step {name:?}: {error}"));
                self.print_json(name, Failure { error }, failed_before);
            }
        }
        outcome
    }

    /// Prints the summary; whether all claims held.
    pub(super) fn finish(&self, summary: impl Serialize) -> bool {
        self.print("");
        if self.failed.is_empty() {
            self.print(&self.styled(Style::Green, &format!("All {} claims were measured and hold.", self.claims)));
        } else {
            let text = format!("{} of {} claims did not hold:", self.failed.len(), self.claims);
            self.print(&self.styled(Style::Red, &text));
            self.failed.iter().for_each(|claim| self.detail(claim));
        }
        self.print_json("summary", summary, 0);
        self.failed.is_empty()
    }

    fn print_json(&self, step: &str, values: impl Serialize, failed_before: usize) {
        if self.json {
            write_line(&self.json_line(step, values, failed_before));
        }
    }

    fn json_line(&self, step: &str, values: impl Serialize, failed_before: usize) -> String {
        let failed = self.failed.get(failed_before..).unwrap_or_default();
        let line = Line { step, ok: failed.is_empty(), values, failed };
        serde_json::to_string(&line).expect("the values of a step are a struct, which is a JSON object")
    }

    fn timed(&self, mark: &str, text: &str) {
        let time = self.styled(Style::Dim, &format!("{:>8.2} s", self.clock.now().as_secs_f64()));
        self.print(&format!("{time} {mark} {text}"));
    }

    fn print(&self, text: &str) {
        if !self.json {
            write_line(text);
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.has_colour { format!("\x1b[{}m{text}\x1b[0m", style as u8) } else { text.to_owned() }
    }
}

/// Codes of ECMA-48's "select graphic rendition".
#[derive(Clone, Copy)]
enum Style {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
}

fn write_line(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// A number with its thousands set apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in milliseconds, to the microsecond.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1_000, 160_000, 1_234_567].map(grouped), ["0", "999", "1,000", "160,000", "1,234,567"]);
    }

    #[test]
    fn step_is_not_ok_when_a_claim_does_not_hold_or_the_step_fails() {
        #[derive(Serialize)]
        struct Values {
            reads: u64,
        }
        let mut report = Report::new(false);
        report.step("fine", |report| Ok(report.check(true, "holds"))).unwrap();
        assert_eq!(report.json_line("fine", Values { reads: 2 }, 0), r#"{"step":"fine","ok":true,"reads":2}"#);
        assert!(report.finish(()));

        report.step("wrong", |report| Ok(report.expect("wrong reads", 2, 0))).unwrap();
        let line = report.json_line("wrong", Values { reads: 2 }, 0);
        assert_eq!(line, r#"{"step":"wrong","ok":false,"reads":2,"failed":["wrong reads: 2, expected: 0"]}"#);
        assert!(report.json_line("later", Values { reads: 2 }, 1).contains(r#""ok":true"#));
        assert!(!report.finish(()));

        let mut report = Report::new(false);
        assert!(report.step("broken", |_| Err::<(), _>(Error::DataDirNotEmpty("dir".into()))).is_err());
        assert!(!report.finish(()));
    }
}
