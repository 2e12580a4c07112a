//! The documents that operators read say what the code does.

use std::collections::BTreeSet;

use crate::Config;

const OPERATIONS: &str = include_str!("../../docs/operations.md");
const README: &str = include_str!("../../README.md");

/// The string literals of `source` that begin with `start`, which contains the opening quote.
fn literals<'a>(source: &'a str, start: &str) -> BTreeSet<&'a str> {
    let rest = source.split(start).skip(1);
    rest.filter_map(|rest| rest.split('"').next()).collect()
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[test]
fn every_metric_is_described_and_every_description_is_of_a_metric() {
    let registered = literals(include_str!("../metrics.rs"), "\"tikv_preload_");
    let rows = OPERATIONS.lines().filter_map(|line| line.strip_prefix("| `tikv_preload_"));
    let described: BTreeSet<_> =
        rows.filter_map(|row| Some(row.split_once("` |")?.0)).filter(|name| is_name(name)).collect();
    assert!(registered.len() > 15, "{registered:?}");
    assert_eq!(registered, described);
}

#[test]
fn every_line_that_is_logged_above_debug_is_explained() {
    let sources = [include_str!("../report.rs"), include_str!("../observer.rs")];
    let logged: BTreeSet<_> = sources
        .iter()
        .flat_map(|source| ["info!(\"", "warn!(\"", "error!(\""].map(|start| literals(source, start)))
        .flatten()
        .collect();
    assert!(logged.len() > 8, "{logged:?}");
    for line in logged {
        assert!(OPERATIONS.contains(&format!("`{line}`")), "{line:?} is not in docs/operations.md");
    }
}

/// Several peers of a region may log into one file, one after another or in one process.
#[test]
fn every_line_about_a_peer_names_region_and_peer() {
    let source = include_str!("../report.rs");
    let lines = ["info!(\"", "debug!(\""].iter().flat_map(|start| source.split(start).skip(1));
    let of_notices = lines.filter_map(|rest| rest.split(')').next()).filter(|line| line.contains("\"region_id\""));
    // Where there is no peer to name: the message was thrown away, could not be read, or could not be sent.
    let without_peer = ["dropped", "malformed preload message", "not tracked", "message not sent"];
    let of_peers: Vec<_> =
        of_notices.filter(|line| without_peer.iter().all(|without| !line.contains(without))).collect();
    assert!(of_peers.len() > 15, "{of_peers:?}");
    for line in of_peers {
        assert!(line.contains("peer_id\" =>"), "{line}");
    }
}

#[test]
fn readme_lists_every_key_with_its_default() {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    for (key, value) in &defaults {
        let value = if key == "pinned" { "none".to_owned() } else { format!("`{value}`") };
        let row = format!("| `{key}` | {value} |");
        assert!(README.contains(&row), "{row} is not in README.md");
    }
    let rows = README.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 5);
    assert_eq!(rows.count(), defaults.len(), "README.md has a key that is none");
}
