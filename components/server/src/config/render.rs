//! Prints a configuration.
//!
//! # How it works
//! Section by section in the order of the table of keys, each key with its documentation as a comment. A key without a
//! default is printed as a comment.
//!
//! # Invariants
//! What is printed reads back as the default.

use std::fmt::Write as _;

use super::{NodeConfig, docs::KEYS};

const HEADER: &str = "\
# Configuration of preload-node: every key, with its default. What is left out of a file has its default.
# `preload-node config --check FILE` reports every mistake in a file.
# Keys that can be changed while the node runs (`POST /config`, `preload-ctl config set`) say \"Online\".
";

/// A file with every key.
///
/// # Panics
/// Never: the default can be written in TOML, see the tests.
pub fn default_file() -> String {
    let values = toml::Table::try_from(NodeConfig::default()).expect("the default can be written in TOML");
    let mut file = HEADER.to_owned();
    let mut section = "";
    for known in KEYS {
        if known.section != section {
            section = known.section;
            let _ = write!(file, "\n[{section}]\n");
        } else {
            file.push('\n');
        }
        for line in known.doc.lines() {
            let _ = writeln!(file, "{}", format!("# {line}").trim_end());
        }
        match values.get(section).and_then(|values| values.get(known.key)) {
            Some(value) => _ = writeln!(file, "{} = {value}", known.key),
            None => _ = writeln!(file, "# {} =", known.key),
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{check, is_online};

    #[test]
    fn what_is_printed_reads_back_as_the_default() {
        let file = default_file();
        assert_eq!(check::read(&file).unwrap(), NodeConfig::default());
        for known in KEYS {
            let lines = [format!("{} = ", known.key), format!("# {} =", known.key)];
            assert!(file.lines().any(|line| lines.iter().any(|start| line.starts_with(start))), "{}", known.name());
        }
    }

    /// Both ways: a key that is documented can be set, and a key that can be set is documented.
    #[test]
    fn the_table_has_exactly_the_keys_of_the_structs() {
        let documented: BTreeSet<String> = KEYS.iter().map(|known| known.name()).collect();
        assert_eq!(documented.len(), KEYS.len(), "a key is listed twice");
        // serde names all keys that it knows when it meets one that it does not.
        let mut accepted = BTreeSet::new();
        for section in toml::Table::try_from(NodeConfig::default()).unwrap().keys() {
            let error = toml::from_str::<NodeConfig>(&format!("[{section}]\nno-such-key = 1")).unwrap_err();
            let (_, expected) = error
                .message()
                .split_once("expected one of ")
                .or_else(|| error.message().split_once("expected "))
                .unwrap();
            accepted.extend(expected.split('`').skip(1).step_by(2).map(|key| format!("{section}.{key}")));
        }
        assert_eq!(documented, accepted);
    }

    #[test]
    fn documentation_says_which_keys_can_be_changed_online() {
        for known in KEYS {
            let says_so = known.doc.contains("Online");
            assert_eq!(says_so, is_online(known.section, known.key), "{}", known.name());
        }
    }
}
