//! `scan-logs`: do these logs show a known fault of the in-memory engine?
//!
//! **Owns** the run over all inputs: which thread scans what, what is kept, and the exit code.
//!
//! **How it works.** 1. [`files`] collects what to scan. 2. A few threads take one input after the other; [`stream`] finds
//! records, [`signatures`] says what they are. 3. The first findings of each signature are kept, in the order of the inputs;
//! the others are counted. 4. When all is read, findings that do not name their store get it from other lines of the same
//! file, or of files that were rotated away from it. 5. [`report`] prints.
//!
//! **Invariants.** Memory is bounded by the options, not by the logs: a buffer per thread, `max_findings` per signature, and
//! the names of the files. The report depends on the inputs alone, not on which thread was faster.
//!
//! **Must not** stop because one input cannot be read.

mod backtrace;
mod files;
mod input;
mod record;
mod report;
mod signatures;
mod stream;
mod when;

use std::{
    cmp::Ordering as Is,
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;

use self::{
    files::Unreadable,
    input::Source,
    signatures::{Found, Signatures},
    stream::{Bounds, Event, Totals},
};
pub(crate) use self::{
    signatures::Severity,
    when::{When, parse_when},
};
use crate::exit::Exit;

/// More stores than this in one log are no help in telling which one wrote a line.
const STORES_PER_FILE_MAX: usize = 8;
const PROGRESS: &str = "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
const PROGRESS_UNKNOWN_TOTAL: &str = "{spinner} {bytes}  {bytes_per_sec}  {msg}";

/// What is asked for.
pub(crate) struct Options {
    pub(crate) paths: Vec<PathBuf>,
    /// Findings before it are left out; those without a time are not.
    pub(crate) since: Option<When>,
    /// Findings at or after it are left out.
    pub(crate) until: Option<When>,
    pub(crate) min_severity: Severity,
    /// Kept and printed, of each signature; all are counted.
    pub(crate) max_findings: usize,
    pub(crate) threads: usize,
    pub(crate) json: bool,
}

/// A record that a signature fits, and where it is.
struct Finding {
    found: Box<Found>,
    input: usize,
    offset: u64,
    line: u64,
    store: Option<Store>,
}

struct Store {
    name: String,
    told_by: ToldBy,
}

#[derive(Clone, Copy, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum ToldBy {
    Record,
    SameFile,
    RotatedFile,
}

/// What is known when everything is read.
struct Outcome {
    sources: Vec<Source>,
    totals: Totals,
    findings: BTreeMap<usize, Vec<Finding>>,
    counts: BTreeMap<usize, u64>,
    unreadable: Vec<Unreadable>,
}

/// Scans, prints to `out`, and says what the exit code is.
///
/// # Errors
///
/// When `out` cannot be written to.
pub(crate) fn run(options: &Options, out: &mut dyn Write) -> io::Result<Exit> {
    let signatures = Signatures::embedded();
    let outcome = scan_all(options, &signatures);
    for unreadable in &outcome.unreadable {
        eprintln!("preload-ctl: cannot read {}: {}", unreadable.name, unreadable.error);
    }
    report::print(&outcome, &signatures, options.json, out)?;
    Ok(match () {
        () if !outcome.counts.is_empty() => Exit::Finding,
        () if !outcome.unreadable.is_empty() => Exit::Usage,
        () => Exit::Ok,
    })
}

fn scan_all(options: &Options, signatures: &Signatures) -> Outcome {
    let files::Found { sources, bytes, unreadable } = files::collect(&options.paths);
    let bar = progress_bar(bytes, sources.contains(&Source::Stdin));
    let run = Run {
        options,
        signatures,
        sources: &sources,
        bar: &bar,
        next: AtomicUsize::new(0),
        kept: Mutex::new(Kept { unreadable, ..Kept::default() }),
    };
    thread::scope(|scope| {
        for number in 1..options.threads.clamp(1, sources.len().max(1)) {
            let spawned =
                thread::Builder::new().name(format!("scan-{number}")).spawn_scoped(scope, || run.take_inputs());
            if spawned.is_err() {
                // The operating system refuses a thread: those that there are do the work.
                break;
            }
        }
        run.take_inputs();
    });
    let kept = run.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
    bar.finish_and_clear();
    kept.into_outcome(sources)
}

/// On a terminal only, and on standard error.
fn progress_bar(bytes: u64, is_open_ended: bool) -> ProgressBar {
    let (bar, template) = if is_open_ended {
        (ProgressBar::new_spinner(), PROGRESS_UNKNOWN_TOTAL)
    } else {
        (ProgressBar::new(bytes), PROGRESS)
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the templates are constants, a test builds them"))
}

struct Run<'a> {
    options: &'a Options,
    signatures: &'a Signatures,
    sources: &'a [Source],
    bar: &'a ProgressBar,
    next: AtomicUsize,
    kept: Mutex<Kept>,
}

impl Run<'_> {
    fn take_inputs(&self) {
        loop {
            let input = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = self.sources.get(input) else { return };
            self.scan(input, source);
        }
    }

    fn scan(&self, input: usize, source: &Source) {
        let mut sink = |event| match event {
            Event::Finding { found, offset, line } => {
                if self.is_wanted(&found) {
                    self.bar.set_message("something was found");
                    let finding = Finding { found, input, offset, line, store: None };
                    self.kept().keep(finding, self.options.max_findings);
                }
            }
            Event::Store(store) => {
                let mut kept = self.kept();
                let stores = kept.stores.entry(input).or_default();
                if stores.len() < STORES_PER_FILE_MAX {
                    stores.insert(store);
                }
            }
        };
        let (totals, result) = match source.open(self.bar) {
            Ok(mut log) => stream::scan(&mut log, self.signatures, Bounds::default(), &mut sink),
            Err(error) => (Totals::default(), Err(error)),
        };
        let mut kept = self.kept();
        kept.add(totals);
        if let Err(error) = result {
            kept.failures.insert(input, error.to_string());
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self, found: &Found) -> bool {
        let is_within = |time: OffsetDateTime| {
            self.options.since.is_none_or(|since| since.compare(time) != Is::Greater)
                && self.options.until.is_none_or(|until| until.compare(time) == Is::Greater)
        };
        self.signatures.list[found.signature].severity >= self.options.min_severity && found.time.is_none_or(is_within)
    }
}

/// What the threads put together.
#[derive(Default)]
struct Kept {
    totals: Totals,
    /// By signature, then by place.
    findings: BTreeMap<usize, BTreeMap<(usize, u64), Finding>>,
    counts: BTreeMap<usize, u64>,
    stores: HashMap<usize, BTreeSet<String>>,
    unreadable: Vec<Unreadable>,
    failures: BTreeMap<usize, String>,
}

impl Kept {
    /// Counts the finding, and keeps it if it is among the first ones.
    fn keep(&mut self, finding: Finding, max: usize) {
        let signature = finding.found.signature;
        *self.counts.entry(signature).or_default() += 1;
        let kept = self.findings.entry(signature).or_default();
        kept.insert((finding.input, finding.offset), finding);
        if kept.len() > max {
            kept.pop_last();
        }
    }

    fn add(&mut self, totals: Totals) {
        self.totals.bytes += totals.bytes;
        self.totals.lines += totals.lines;
        self.totals.include(totals.first_time, totals.last_time);
    }

    fn into_outcome(mut self, sources: Vec<Source>) -> Outcome {
        let mut of_family: HashMap<_, BTreeSet<&String>> = HashMap::new();
        for (input, stores) in &self.stores {
            if let Some(family) = files::family(&sources[*input]) {
                of_family.entry(family).or_default().extend(stores);
            }
        }
        let store_of = |finding: &Finding| {
            let store = |name: &String, told_by| Store { name: name.clone(), told_by };
            let only = |stores: &BTreeSet<String>| stores.first().filter(|_| stores.len() == 1).cloned();
            if let Some(name) = &finding.found.store {
                return Some(store(name, ToldBy::Record));
            }
            if let Some(name) = self.stores.get(&finding.input).and_then(only) {
                return Some(store(&name, ToldBy::SameFile));
            }
            let family = files::family(&sources[finding.input])?;
            let stores = of_family.get(&family).filter(|stores| stores.len() == 1)?;
            stores.first().map(|name| store(name, ToldBy::RotatedFile))
        };
        let mut findings: BTreeMap<usize, Vec<Finding>> = BTreeMap::new();
        for (signature, kept) in std::mem::take(&mut self.findings) {
            let with_store = |mut finding: Finding| {
                finding.store = store_of(&finding);
                finding
            };
            findings.insert(signature, kept.into_values().map(with_store).collect());
        }
        let failed = |(input, error): (usize, String)| Unreadable { name: sources[input].name(), error };
        self.unreadable.extend(std::mem::take(&mut self.failures).into_iter().map(failed));
        Outcome { totals: self.totals, findings, counts: self.counts, unreadable: self.unreadable, sources }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const COLD: &str =
        r#"[2026/11/25 04:21:15.397 +00:00] [INFO] [report.rs:10] ["leader transferred cold"] [region_id=7]"#;

    fn options(paths: Vec<PathBuf>) -> Options {
        Options {
            paths,
            since: None,
            until: None,
            min_severity: Severity::Notice,
            max_findings: 3,
            threads: 2,
            json: true,
        }
    }

    #[test]
    fn templates_are_well_formed() {
        progress_bar(1, false);
        progress_bar(1, true);
    }

    #[test]
    fn first_findings_are_kept_all_are_counted_whatever_the_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..20 {
            fs::write(dir.path().join(format!("tikv-{number:02}.log")), format!("{COLD}\n{COLD}\n")).unwrap();
        }
        for threads in [1, 2, 4] {
            let options = Options { threads, ..options(vec![dir.path().to_owned()]) };
            let outcome = scan_all(&options, &Signatures::embedded());
            let (signature, kept) = outcome.findings.first_key_value().unwrap();
            let places: Vec<_> = kept.iter().map(|finding| (finding.input, finding.line)).collect();
            assert_eq!(places, [(0, 1), (0, 2), (1, 1)]);
            assert_eq!(outcome.counts[signature], 40);
            assert_eq!(outcome.totals.lines, 40);
        }
    }

    #[test]
    fn store_is_told_by_the_file_or_its_rotated_siblings_unless_they_differ() {
        let dir = tempfile::tempdir().unwrap();
        let start =
            |id| COLD.replace("leader transferred cold\"] [region_id=7", &format!("store started\"] [store_id={id}"));
        let write = |name: &str, lines: &[&str]| fs::write(dir.path().join(name), lines.join("\n")).unwrap();
        write("own.log", &[COLD, &start(4)]);
        write("sibling-2024.log", &[COLD]);
        write("sibling.log", &[&start(5)]);
        write("two.log", &[COLD, &start(1), &start(2)]);
        let outcome = scan_all(&options(vec![dir.path().to_owned()]), &Signatures::embedded());
        let stores: Vec<_> = outcome.findings.values().flatten().map(|finding| &finding.store).collect();
        let names: Vec<_> = stores.iter().map(|store| store.as_ref().map(|store| store.name.as_str())).collect();
        assert_eq!(names, [Some("4"), Some("5"), None]);
        assert!(matches!(stores[1], Some(Store { told_by: ToldBy::RotatedFile, .. })));
    }
}
