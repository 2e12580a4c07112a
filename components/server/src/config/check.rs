//! Finds all that is wrong with a configuration.
//!
//! # What it owns
//! [`assemble`], which puts values over a section, and [`read`], which does so for a file.
//!
//! # How it works
//! 1. Each value is tried alone: a key that does not exist, or a value that is not of the key's type, is a mistake.
//! 2. The section is made of the values that are left. It names the first rule that they break ([`Section::problem`]); the
//!    value is set aside, and the section asked again until no rule is broken.
//!
//! # Invariants
//! - Every key that has a mistake is named, with its line in a file.
//! - A rule that is broken only because another value was set aside is not reported.
//!
//! # What it must not do
//! Act on a configuration.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tikv_util::config::{ReadableDuration, ReadableSize};
use toml::{Spanned, de::DeTable};

use crate::engine::check_name;

use super::{
    EngineConfig, LogSection, NodeConfig, NodeSection, PlacementSection, SecuritySection, ServerSection, docs::KEYS,
};

/// A rule that a section breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The keys that it is about, the one to change first.
    pub keys: Vec<String>,
    pub message: String,
}

/// A section whose values were parsed.
pub trait Section: Serialize + DeserializeOwned {
    const NAME: &'static str;

    /// The first rule that the values break.
    fn problem(&self) -> Option<Problem>;
}

/// A key that cannot have its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// `section.key`.
    pub key: String,
    pub value: Value,
    pub message: String,
}

/// `base` with `values`, by key, in place of its own; or all mistakes.
///
/// # Errors
/// All that is wrong with the values, alone and together.
pub fn assemble<S: Section>(base: &S, values: &BTreeMap<String, Value>) -> Result<S, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mistake = |key: &String, message: String| {
        let value = values.get(key).cloned().unwrap_or_default();
        Mistake { key: format!("{}.{key}", S::NAME), value, message }
    };
    let mut accepted: BTreeMap<&str, &Value> = BTreeMap::new();
    for (key, value) in values {
        if !KEYS.iter().any(|known| known.section == S::NAME && known.key == key) {
            mistakes.push(mistake(key, format!("there is no key {}.{key}{}", S::NAME, suggestion(S::NAME, key))));
            continue;
        }
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        match serde_json::from_value::<S>(alone) {
            Ok(_) => drop(accepted.insert(key.as_str(), value)),
            Err(error) => mistakes.push(mistake(key, format!("{}.{key}: {error}", S::NAME))),
        }
    }
    let Ok(Value::Object(base)) = serde_json::to_value(base) else { unreachable!("a section is a table of its keys") };
    loop {
        let mut object = base.clone();
        object.extend(accepted.iter().map(|(key, value)| ((*key).to_owned(), (*value).clone())));
        // Every value was accepted alone.
        let section: S = serde_json::from_value(Value::Object(object)).expect("the keys of a section are independent");
        let Some(Problem { keys, message }) = section.problem() else {
            return if mistakes.is_empty() { Ok(section) } else { Err(mistakes) };
        };
        let culprit = keys.iter().find(|key| accepted.remove(key.as_str()).is_some());
        match culprit {
            Some(key) => mistakes.push(mistake(key, message)),
            // Values that were set aside have left one without what it goes with.
            None if !mistakes.is_empty() => return Err(mistakes),
            None => {
                let key = keys.first().cloned().unwrap_or_default();
                return Err(vec![mistake(&key, message)]);
            }
        }
    }
}

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMistake {
    /// Counted from 1.
    pub line: usize,
    /// `section.key`, the section, or empty for what is not TOML.
    pub key: String,
    /// As the file has it; empty if there is none.
    pub value: String,
    pub message: String,
}

impl std::fmt::Display for FileMistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.value.is_empty() {
            write!(f, "{} = {}: ", self.key, self.value)?;
        }
        f.write_str(&self.message)
    }
}

/// The configuration that `text`, in TOML, says; or all mistakes, in the order of their lines.
///
/// # Errors
/// All that is wrong with the text.
pub fn read(text: &str) -> Result<NodeConfig, Vec<FileMistake>> {
    let lines = Lines::new(text);
    let not_toml = |error: toml::de::Error| {
        let line = lines.of(error.span().map_or(0, |span| span.start));
        vec![FileMistake { line, key: String::new(), value: String::new(), message: error.message().to_owned() }]
    };
    let spans = DeTable::parse(text).map_err(not_toml)?;
    let values: toml::Table = toml::from_str(text).map_err(not_toml)?;

    let mut reader = Reader { text, lines: &lines, spans: &spans, values, mistakes: Vec::new() };
    let config = NodeConfig {
        node: reader.section(),
        server: reader.section(),
        security: reader.section(),
        log: reader.section(),
        raftstore: reader.section(),
        preload: reader.section(),
        in_memory_engine: reader.section(),
        placement: reader.section(),
        engine: reader.section(),
    };
    reader.rest();
    let mut mistakes = reader.mistakes;
    mistakes.sort_by(|left, right| (left.line, &left.key).cmp(&(right.line, &right.key)));
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

/// The keys that `text`, in TOML, sets, as `section.key`.
pub fn keys_of(text: &str) -> BTreeSet<String> {
    let sections: toml::Table = toml::from_str(text).unwrap_or_default();
    let keys = |(section, values): (&String, &toml::Value)| {
        let names = values.as_table().into_iter().flat_map(toml::Table::keys);
        names.map(|key| format!("{section}.{key}")).collect::<Vec<_>>()
    };
    sections.iter().flat_map(keys).collect()
}

struct Reader<'a> {
    text: &'a str,
    lines: &'a Lines,
    spans: &'a Spanned<DeTable<'a>>,
    /// What no section has taken yet.
    values: toml::Table,
    mistakes: Vec<FileMistake>,
}

impl Reader<'_> {
    fn section<S: Section + Default>(&mut self) -> S {
        let values = match self.values.remove(S::NAME) {
            None => return S::default(),
            Some(toml::Value::Table(values)) => values,
            Some(_) => {
                self.mistake(S::NAME, None, format!("{} is a section: [{}]", S::NAME, S::NAME));
                return S::default();
            }
        };
        let values = values.into_iter().map(|(key, value)| (key, to_json(value))).collect();
        assemble(&S::default(), &values).unwrap_or_else(|mistakes| {
            for Mistake { key, message, .. } in mistakes {
                let key = key.split_once('.').map_or(key.as_str(), |(_, key)| key);
                self.mistake(S::NAME, Some(key), message);
            }
            S::default()
        })
    }

    /// What is left is in no section.
    fn rest(&mut self) {
        let known: BTreeSet<&str> = KEYS.iter().map(|known| known.section).collect();
        let names: Vec<String> = self.values.keys().cloned().collect();
        for name in names {
            let sections: Vec<&str> = known.iter().copied().collect();
            self.mistake(&name, None, format!("there is no section [{name}]; there are {}", sections.join(", ")));
        }
    }

    fn mistake(&mut self, section: &str, key: Option<&str>, message: String) {
        let find = |table: &Spanned<DeTable<'_>>, name: &str| {
            let found = table.get_ref().iter().find(|(key, _)| key.get_ref() == name);
            found.map(|(key, value)| (key.span(), value.span()))
        };
        let of_section = find(self.spans, section);
        let of_key = key.and_then(|key| {
            let (_, value) = self.spans.get_ref().iter().find(|(name, _)| name.get_ref() == section)?;
            let found = value.get_ref().as_table()?.iter().find(|(name, _)| name.get_ref() == key);
            found.map(|(key, value)| (key.span(), value.span()))
        });
        let (at, value) = match (&of_key, &of_section) {
            (Some((key, value)), _) => (key.start, self.text.get(value.clone()).unwrap_or_default()),
            (None, Some((section, _))) => (section.start, ""),
            (None, None) => (0, ""),
        };
        let key = key.map_or(section.to_owned(), |key| format!("{section}.{key}"));
        let mut value = value.lines().next().unwrap_or_default().trim_end();
        if value.starts_with("[[") {
            // An array of tables is not to be shown in part.
            value = "";
        }
        self.mistakes.push(FileMistake { line: self.lines.of(at), key, value: value.to_owned(), message });
    }
}

fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(values) => values.into_iter().map(to_json).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, to_json(value))).collect())
        }
    }
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect())
    }

    /// The line of a byte, counted from 1.
    fn of(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset) + 1
    }
}

/// The key of the section that is most like `key`, if one is.
fn suggestion(section: &str, key: &str) -> String {
    let known = KEYS.iter().filter(|known| known.section == section);
    let nearest = known.map(|known| (distance(known.key, key), known.key)).min();
    match nearest {
        Some((distance, nearest)) if distance <= key.len() / 3 => format!("; did you mean {section}.{nearest}?"),
        _ => String::new(),
    }
}

/// How many characters have to be changed, added or removed.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let next = (diagonal + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[right.len()]
}

/// What is said of a value that is out of its range.
fn out_of_range(section: &str, key: &str, value: impl std::fmt::Display, range: &str) -> Problem {
    Problem { keys: vec![key.to_owned()], message: format!("{section}.{key} = {value} must be {range}") }
}

fn duration(
    section: &str,
    key: &str,
    value: ReadableDuration,
    min: ReadableDuration,
    max: ReadableDuration,
) -> Option<Problem> {
    (value < min || value > max).then(|| out_of_range(section, key, value, &format!("{min} to {max}")))
}

fn size(section: &str, key: &str, value: ReadableSize, min: ReadableSize, max: ReadableSize) -> Option<Problem> {
    (value < min || value > max).then(|| out_of_range(section, key, value, &format!("{min} to {max}")))
}

fn count(section: &str, key: &str, value: u64, min: u64, max: u64) -> Option<Problem> {
    (value < min || value > max).then(|| out_of_range(section, key, value, &format!("{min} to {max}")))
}

impl Section for NodeSection {
    const NAME: &'static str = "node";

    fn problem(&self) -> Option<Problem> {
        let forever = ReadableDuration::hours(24 * 365);
        let (none, long) = (ReadableDuration::secs(0), ReadableDuration::minutes(10));
        count(Self::NAME, "stores", self.stores, 1, 16)
            .or_else(|| duration(Self::NAME, "gc-life-time", self.gc_life_time, ReadableDuration::secs(1), forever))
            .or_else(|| duration(Self::NAME, "shutdown-timeout", self.shutdown_timeout, none, long))
    }
}

impl Section for ServerSection {
    const NAME: &'static str = "server";

    fn problem(&self) -> Option<Problem> {
        if !self.status_addr.ip().is_loopback() && self.token_file.is_none() {
            let message = format!(
                "server.status-addr = {} can be reached by others: set server.token-file, or choose a loopback address",
                self.status_addr
            );
            return Some(Problem { keys: vec!["status-addr".into(), "token-file".into()], message });
        }
        let (short, long) = (ReadableDuration::millis(100), ReadableDuration::minutes(10));
        count(Self::NAME, "max-connections", self.max_connections as u64, 1, 65_536)
            .or_else(|| {
                size(Self::NAME, "max-body-size", self.max_body_size, ReadableSize::kb(1), ReadableSize::mb(64))
            })
            .or_else(|| duration(Self::NAME, "client-timeout", self.client_timeout, short, long))
    }
}

impl Section for SecuritySection {
    const NAME: &'static str = "security";

    fn problem(&self) -> Option<Problem> {
        None
    }
}

impl Section for LogSection {
    const NAME: &'static str = "log";

    fn problem(&self) -> Option<Problem> {
        None
    }
}

impl Section for PlacementSection {
    const NAME: &'static str = "placement";

    fn problem(&self) -> Option<Problem> {
        let (second, hour) = (ReadableDuration::secs(1), ReadableDuration::hours(1));
        let (short, minute) = (ReadableDuration::millis(10), ReadableDuration::minutes(1));
        duration(Self::NAME, "operator-timeout", self.operator_timeout, second, hour)
            .or_else(|| duration(Self::NAME, "retry-after", self.retry_after, short, minute))
            .or_else(|| duration(Self::NAME, "store-down-after", self.store_down_after, second, hour))
            .or_else(|| count(Self::NAME, "replicas", self.replicas as u64, 0, 7))
    }
}

impl Section for EngineConfig {
    const NAME: &'static str = "engine";

    fn problem(&self) -> Option<Problem> {
        if let Err(why) = check_name(&self.name) {
            let message = format!("{}.name = \"{}\": {why}", Self::NAME, self.name);
            return Some(Problem { keys: vec!["name".into()], message });
        }
        let (write_min, write_max) = (ReadableSize::mb(1), ReadableSize::gb(1));
        let (purge_min, purge_max) = (ReadableSize::mb(64), ReadableSize::gb(64));
        size(Self::NAME, "write-buffer-size", self.write_buffer_size, write_min, write_max).or_else(|| {
            size(Self::NAME, "raft-log-purge-threshold", self.raft_log_purge_threshold, purge_min, purge_max)
        })
    }
}

impl Section for raftstore::store::Config {
    const NAME: &'static str = "raftstore";

    fn problem(&self) -> Option<Problem> {
        let error = self.validate().err()?;
        Some(Problem { keys: vec![error.key().to_owned()], message: error.to_string() })
    }
}

impl Section for preload_observer::Config {
    const NAME: &'static str = "preload";

    fn problem(&self) -> Option<Problem> {
        let error = self.check().err()?;
        let keys = error.keys().iter().map(|key| (*key).to_owned()).collect();
        Some(Problem { keys, message: format!("preload.{error}") })
    }
}

impl Section for in_memory_engine::RegionCacheEngineConfig {
    const NAME: &'static str = "in-memory-engine";

    fn problem(&self) -> Option<Problem> {
        let error = self.validate().err()?;
        let keys = error.keys().into_iter().map(str::to_owned).collect();
        Some(Problem { keys, message: error.to_string() })
    }
}
