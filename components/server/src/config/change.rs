//! Changes of the configuration while a node runs.
//!
//! # How it works
//! Values are put over those that are in force, a section at a time, and each section is checked as a whole.
//!
//! # Invariants
//! All of a change is accepted, or nothing; a refusal names everything that is wrong with it.
//!
//! # What it must not do
//! Make a change: the node does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    NodeConfig,
    check::{Mistake, Section, assemble},
    docs::KEYS,
    is_online,
};

/// Keys that were set explicitly before the node started; all others have their defaults then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explicit {
    /// By the configuration file.
    pub file: BTreeSet<String>,
    /// By the command line, which goes before the file.
    pub command_line: BTreeSet<String>,
}

impl Explicit {
    pub fn has(&self, name: &str) -> bool {
        self.file.contains(name) || self.command_line.contains(name)
    }
}

/// All values, by `section.key`; null for what is not set.
pub fn values(config: &NodeConfig) -> BTreeMap<String, Value> {
    let values = json!(config);
    KEYS.iter().map(|known| (known.name(), values[known.section][known.key].clone())).collect()
}

/// `now` with `changes`, by `section.key`.
///
/// # Errors
/// Every mistake in the changes: keys that there are not, or that need a restart; values that are wrong alone or together.
pub fn change(now: &NodeConfig, changes: &BTreeMap<String, Value>) -> Result<NodeConfig, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut sections: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
    for (name, value) in changes {
        let message = match KEYS.iter().find(|known| known.name() == *name) {
            Some(known) if is_online(known.section, known.key) => {
                sections.entry(known.section).or_default().insert(known.key.to_owned(), value.clone());
                continue;
            }
            Some(_) => format!("{name} cannot be changed while the node runs"),
            None => format!("there is no key {name}"),
        };
        mistakes.push(Mistake { key: name.clone(), value: value.clone(), message });
    }
    let mut changed = now.clone();
    put_over(&mut changed.preload, &sections, &mut mistakes);
    put_over(&mut changed.in_memory_engine, &sections, &mut mistakes);
    put_over(&mut changed.log, &sections, &mut mistakes);
    if mistakes.is_empty() { Ok(changed) } else { Err(mistakes) }
}

fn put_over<S: Section>(
    section: &mut S,
    changes: &BTreeMap<&str, BTreeMap<String, Value>>,
    mistakes: &mut Vec<Mistake>,
) {
    let Some(values) = changes.get(S::NAME) else { return };
    match assemble(section, values) {
        Ok(changed) => *section = changed,
        Err(found) => mistakes.extend(found),
    }
}
