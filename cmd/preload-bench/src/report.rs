//! Figures, and how they are printed.
//!
//! **Owns** the summary of samples, and the two formats that all scenarios share.
//!
//! **How it works.** A [`Figure`] is what was measured of one side in one case. Sides that were measured in turns are
//! paired run by run: the ratio, like a difference, is the median over the runs, not that of two medians, so that what
//! disturbed both sides of a run cancels out.
//!
//! A figure that is to reach something says so, and how far it came, in terms of the [`Target`].
//!
//! **Invariants.** A line of JSON has the keys `bench`, `case`, `side`, `unit`, `min`, `median`, `max`, `runs`, either both
//! or neither of `ratio` and `ratio_to`, and either all or none of `target`, `reached` and `met`. Scripts read these; keys
//! are added, never renamed.
//!
//! **Must not** measure.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::Serialize;

use crate::measure::Samples;

/// What was measured of one side in one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    bench: &'static str,
    case: Cow<'static, str>,
    side: &'static str,
    unit: &'static str,
    #[serde(flatten)]
    summary: Summary,
    #[serde(flatten)]
    ratio: Option<Ratio>,
    #[serde(flatten)]
    target: Option<Target>,
}

/// What a figure is to reach, and what it has reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Target {
    target: String,
    reached: f64,
    met: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Summary {
    min: f64,
    median: f64,
    max: f64,
    runs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Ratio {
    ratio: f64,
    /// The side that is 1.
    ratio_to: &'static str,
}

/// What figures have in common.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) bench: &'static str,
    pub(crate) case: Cow<'static, str>,
    pub(crate) unit: &'static str,
}

impl Case {
    /// What was measured of the sides, and how the later ones compare with the first.
    pub(crate) fn compare(&self, sides: &[Samples]) -> Vec<Figure> {
        let Some((base, others)) = sides.split_first() else { return Vec::new() };
        let ratio = |side: &Samples| {
            let ratios = paired(side, base, |ours, theirs| ours / theirs);
            Ratio { ratio: Summary::of(ratios).median, ratio_to: base.side }
        };
        let first = self.figure(base.side, base.nanos.clone(), None);
        let others = others.iter().map(|side| self.figure(side.side, side.nanos.clone(), Some(ratio(side))));
        std::iter::once(first).chain(others).collect()
    }

    /// What was measured of a side that is not compared with any.
    pub(crate) fn alone(&self, side: &'static str, samples: Vec<f64>) -> Figure {
        self.figure(side, samples, None)
    }

    /// What `side` takes more than `base`.
    pub(crate) fn added(&self, side: &Samples, base: &Samples) -> Figure {
        self.figure(side.side, paired(side, base, |ours, theirs| ours - theirs), None)
    }

    fn figure(&self, side: &'static str, samples: Vec<f64>, ratio: Option<Ratio>) -> Figure {
        let Self { bench, case, unit } = self.clone();
        Figure { bench, case, side, unit, summary: Summary::of(samples), ratio, target: None }
    }
}

impl Figure {
    pub(crate) fn case(&self) -> &str {
        &self.case
    }

    pub(crate) fn side(&self) -> &'static str {
        self.side
    }

    pub(crate) fn median(&self) -> f64 {
        self.summary.median
    }

    /// How many times the figure of the other side it is, and which side that is.
    pub(crate) fn ratio(&self) -> Option<(f64, &'static str)> {
        self.ratio.map(|ratio| (ratio.ratio, ratio.ratio_to))
    }

    pub(crate) fn set_target(&mut self, target: Target) {
        self.target = Some(target);
    }
}

impl Target {
    /// `of_what` says what of: "x payload", for example.
    pub(crate) fn at_most(bound: f64, of_what: &str, reached: f64) -> Self {
        Self { target: format!("≤ {bound} {of_what}"), reached: rounded(reached), met: reached <= bound }
    }

    pub(crate) fn at_least(bound: f64, of_what: &str, reached: f64) -> Self {
        Self { target: format!("≥ {bound} {of_what}"), reached: rounded(reached), met: reached >= bound }
    }
}

impl Summary {
    /// Zeros when there are no samples.
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |index: usize| samples.get(index).copied().unwrap_or_default();
        let runs = samples.len();
        let median = if runs.is_multiple_of(2) {
            f64::midpoint(at((runs / 2).saturating_sub(1)), at(runs / 2))
        } else {
            at(runs / 2)
        };
        let max = at(runs.saturating_sub(1));
        Self { min: rounded(at(0)), median: rounded(median), max: rounded(max), runs }
    }
}

fn paired(side: &Samples, base: &Samples, pair: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    side.nanos.iter().zip(&base.nanos).map(|(ours, theirs)| pair(*ours, *theirs)).collect()
}

/// To thousandths: digits beyond are noise in whatever is measured here.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// One JSON object per figure and line.
///
/// # Errors
/// When `output` cannot be written to.
pub(crate) fn write_json(mut output: impl Write, figures: &[Figure]) -> io::Result<()> {
    for figure in figures {
        serde_json::to_writer(&mut output, figure)?;
        writeln!(output)?;
    }
    output.flush()
}

/// An aligned table: names to the left, numbers to the right. Targets have columns when there are any.
///
/// # Errors
/// When `output` cannot be written to.
pub(crate) fn write_table(mut output: impl Write, figures: &[Figure]) -> io::Result<()> {
    const COLUMNS: usize = 12;
    const NAMES: usize = 4;
    let mut header =
        ["bench", "case", "side", "unit", "min", "median", "max", "runs", "ratio", "reached", "target", ""];
    if figures.iter().all(|figure| figure.target.is_none()) {
        header[9..].fill("");
    }
    let rows = figures.iter().map(|figure| {
        let Figure { bench, case, side, unit, summary: Summary { min, median, max, runs }, ratio, target } = figure;
        let ratio = ratio.map(|Ratio { ratio, ratio_to }| format!("{ratio:.2} x {ratio_to}"));
        let [bench, case, side, unit] = [*bench, case.as_ref(), *side, *unit].map(String::from);
        let [min, median, max] = [min, median, max].map(|value| format!("{value:.2}"));
        let [reached, target, met] = target.as_ref().map_or_else(Default::default, |target| {
            let met = if target.met { "met" } else { "MISSED" };
            [format!("{:.2}", target.reached), target.target.clone(), met.into()]
        });
        let runs = runs.to_string();
        [bench, case, side, unit, min, median, max, runs, ratio.unwrap_or_default(), reached, target, met]
    });
    let rows: Vec<[String; COLUMNS]> = std::iter::once(header.map(String::from)).chain(rows).collect();

    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column < NAMES { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(output, "{}", line.trim_end())?;
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case { bench: "observer", case: Cow::Borrowed("ordinary"), unit: "ns" };

    fn samples(side: &'static str, nanos: &[f64]) -> Samples {
        Samples { side, nanos: nanos.to_vec() }
    }

    fn summary(samples: &[f64]) -> (f64, f64, f64, usize) {
        let Summary { min, median, max, runs } = Summary::of(samples.to_vec());
        (min, median, max, runs)
    }

    fn printed(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut output = Vec::new();
        write(&mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(summary(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0, 3));
        assert_eq!(summary(&[4.0, 1.0, 2.0, 3.0]), (1.0, 2.5, 4.0, 4));
        assert_eq!(summary(&[7.0]), (7.0, 7.0, 7.0, 1));
        assert_eq!(summary(&[]), (0.0, 0.0, 0.0, 0));
    }

    #[test]
    fn values_are_rounded_to_thousandths() {
        assert_eq!(summary(&[1.23449, 1.2346, -0.0004]), (-0.0, 1.234, 1.235, 3));
    }

    #[test]
    fn sides_are_paired_run_by_run() {
        // The second run was disturbed: the medians of the sides would say 20 / 10.
        let (base, ours) = (samples("none", &[10.0, 20.0, 10.0]), samples("ours", &[30.0, 20.0, 20.0]));
        let figures = CASE.compare(&[base.clone(), ours.clone()]);
        assert_eq!(figures[0].ratio, None);
        assert_eq!(figures[1].ratio, Some(Ratio { ratio: 2.0, ratio_to: "none" }));
        let added = CASE.added(&ours, &base);
        assert_eq!((added.side, added.summary.min, added.summary.median, added.summary.max), ("ours", 0.0, 10.0, 20.0));
        assert_eq!(CASE.compare(&[]), []);
    }

    #[test]
    fn json_has_one_object_per_line_with_the_keys_that_scripts_read() {
        let figures = CASE.compare(&[samples("none", &[1.5]), samples("ours", &[3.0])]);
        let expected = r#"{"bench":"observer","case":"ordinary","side":"none","unit":"ns","min":1.5,"median":1.5,"max":1.5,"runs":1}
{"bench":"observer","case":"ordinary","side":"ours","unit":"ns","min":3.0,"median":3.0,"max":3.0,"runs":1,"ratio":2.0,"ratio_to":"none"}
"#;
        assert_eq!(printed(|output| write_json(output, &figures)), expected);
    }

    #[test]
    fn table_is_aligned() {
        let figures = CASE.compare(&[samples("none", &[1.5]), samples("ours", &[123.456])]);
        let expected = "\
bench     case      side  unit     min  median     max  runs         ratio
observer  ordinary  none  ns      1.50    1.50    1.50     1
observer  ordinary  ours  ns    123.46  123.46  123.46     1  82.30 x none
";
        assert_eq!(printed(|output| write_table(output, &figures)), expected);
    }

    #[test]
    fn targets_are_shown_when_there_are_any() {
        let mut figures = CASE.compare(&[samples("none", &[6.0]), samples("ours", &[1.5])]);
        figures[1].set_target(Target::at_least(6.0, "x faster than none", 4.0));
        let line = printed(|output| write_json(output, &figures[1..]));
        assert!(line.contains(r#""target":"≥ 6 x faster than none","reached":4.0,"met":false"#), "{line}");
        let expected = "\
bench     case      side  unit   min  median   max  runs        ratio  reached                  target
observer  ordinary  none  ns    6.00    6.00  6.00     1
observer  ordinary  ours  ns    1.50    1.50  1.50     1  0.25 x none     4.00  ≥ 6 x faster than none  MISSED
";
        assert_eq!(printed(|output| write_table(output, &figures)), expected);
    }

    #[test]
    fn a_bound_that_is_hit_is_met() {
        assert!(Target::at_most(1.1, "x", 1.1).met && Target::at_least(6.0, "x", 6.0).met);
        assert!(!Target::at_most(1.1, "x", 1.2).met && !Target::at_least(6.0, "x", 5.9).met);
    }
}
