//! Failpoints, in a build that has them.
//!
//! # What it owns
//! The catalogue of the failpoints of a node, with what each of them takes. fail_points/README.md explains them; a test
//! compares it, the catalogue and the code.
//!
//! # How it works
//! Actions are looked at before they are set: a failpoint that is told to return where its code returns nothing panics, in
//! the thread that meets it, and takes the node down.
//!
//! # Invariants
//! What is set has the effect that was asked for: a failpoint that there is not is refused, and so is a value that nobody
//! would look at.
//!
//! # What it must not do
//! Exist in a build without failpoints, where all of it answers 404.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    SharedApp, body,
    error::{ApiError, ApiResult},
};
use crate::engine::DiskEngine;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Actions {
    actions: String,
}

/// What a failpoint can be told, besides to pause, to wait, to print and to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// Something is held up here; there is nothing to return.
    Nothing,
    /// `return`, without a value: what happens then is the failpoint's own.
    Return,
}

/// The failpoints of a node.
const CATALOGUE: [(&str, Takes); 16] = [
    ("preload_observer::classify::skip_initialization_check", Takes::Return),
    ("preload_observer::worker::pause", Takes::Nothing),
    ("preload_observer::load::pause", Takes::Nothing),
    ("preload_observer::probe::before_observed", Takes::Nothing),
    ("preload_observer::answer::drop", Takes::Return),
    ("raftstore::generate_snapshot::hold", Takes::Nothing),
    ("raftstore::apply_snapshot::pause_before_pre_apply", Takes::Nothing),
    ("raftstore::apply_snapshot::delay", Takes::Nothing),
    ("raftstore::apply_snapshot::pause_between_families", Takes::Nothing),
    ("raftstore::receive_snapshot::pause", Takes::Nothing),
    ("in_memory_engine::load::pause_before_scan", Takes::Nothing),
    ("in_memory_engine::load::fail", Takes::Return),
    ("in_memory_engine::load::pause_before_active", Takes::Nothing),
    ("raft_log_engine::write::error", Takes::Return),
    ("engine_fjall::write::disk_full", Takes::Return),
    ("engine_fjall::sync::error", Takes::Return),
];

/// Whether a failpoint can do what `actions` say. Whether they are well-formed is for the registry to say.
fn check_actions(name: &str, actions: &str) -> ApiResult<()> {
    let known = CATALOGUE.iter().find(|(known, _)| *known == name);
    let (_, takes) = known.ok_or_else(|| {
        ApiError::not_found(format!("there is no failpoint {name:?}; fail_points/README.md lists them"))
    })?;
    for action in actions.split("->") {
        let (head, value) = action.split_once('(').map_or((action, None), |(head, value)| (head, Some(value)));
        // How often may stand before it, as in `50%3*return`.
        let task = head.rsplit(['%', '*']).next().unwrap_or(head).trim();
        let why = match (task, takes, value) {
            ("return", Takes::Nothing, _) => "it cannot return; `pause`, `sleep(ms)` and `delay(ms)` hold it up",
            ("return", Takes::Return, Some(_)) => "it takes no value; say `return`",
            _ => continue,
        };
        return Err(ApiError::bad_request(format!("actions = {actions:?}: {name} is not set, {why}")));
    }
    Ok(())
}

fn check_compiled_in() -> ApiResult<()> {
    if fail::has_failpoints() {
        Ok(())
    } else {
        Err(ApiError::not_found("this build has no failpoints; they need the cargo feature `failpoints`"))
    }
}

pub(super) async fn list() -> ApiResult<Json<Value>> {
    check_compiled_in()?;
    let set = fail::list().into_iter().map(|(name, actions)| json!({ "name": name, "actions": actions }));
    Ok(Json(json!({ "failpoints": set.collect::<Vec<_>>() })))
}

pub(super) async fn set<D: DiskEngine>(
    State(_): State<SharedApp<D>>,
    Path(name): Path<String>,
    body::Json(Actions { actions }): body::Json<Actions>,
) -> ApiResult<Json<Value>> {
    check_compiled_in()?;
    check_actions(&name, &actions)?;
    fail::cfg(&name, &actions).map_err(|error| ApiError::bad_request(format!("actions = {actions:?}: {error}")))?;
    Ok(Json(json!({ "name": name, "actions": actions })))
}

pub(super) async fn clear(Path(name): Path<String>) -> ApiResult<Json<Value>> {
    check_compiled_in()?;
    fail::remove(&name);
    Ok(Json(json!({ "name": name })))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn catalogue_code_and_documentation_name_the_same_failpoints() {
        let catalogue: BTreeMap<String, Takes> = CATALOGUE.map(|(name, takes)| (name.to_owned(), takes)).into();
        assert_eq!(catalogue.len(), CATALOGUE.len(), "one is listed twice");

        let mut files = Vec::new();
        ["src", "components", "cmd"].iter().for_each(|dir| sources(&root().join(dir), &mut files));
        let mut in_code = BTreeMap::new();
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for call in text.split("\n").filter_map(|line| line.trim_start().strip_prefix("fail_point!(\"")) {
                let (name, rest) = call.split_once('"').unwrap();
                // What stands behind the name is called with the value of a `return`.
                let takes = if rest.starts_with(')') { Takes::Nothing } else { Takes::Return };
                assert!(in_code.insert(name.to_owned(), takes).is_none(), "{name} is at two places");
                assert!(takes == Takes::Nothing || rest.starts_with(", |_|"), "{name} looks at a value");
            }
        }
        assert_eq!(catalogue, in_code);

        let readme = fs::read_to_string(root().join("fail_points/README.md")).unwrap();
        let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| row.split_once("` | "));
        let documented: BTreeMap<String, Takes> = rows
            .map(|(name, rest)| {
                let takes = if rest.starts_with("`return` | ") { Takes::Return } else { Takes::Nothing };
                assert!(takes == Takes::Return || rest.starts_with("`pause` | "), "{name}: {rest}");
                (name.to_owned(), takes)
            })
            .collect();
        assert_eq!(catalogue, documented);
    }

    #[test]
    fn what_a_failpoint_cannot_do_is_refused_wherever_in_the_actions_it_stands() {
        let (holds, returns) = ("preload_observer::load::pause", "preload_observer::answer::drop");
        for actions in
            ["return", "return(1)", " 1*return", "50%return", "50%2*return()", "1*pause->return", "off-> return "]
        {
            assert!(check_actions(holds, actions).is_err(), "{actions}");
        }
        for actions in ["pause", "1*pause->off", "print(return)", "sleep(5)", "panic"] {
            assert!(check_actions(holds, actions).is_ok(), "{actions}");
        }
        for actions in ["return", "1*return->off", "50%return", "pause"] {
            assert!(check_actions(returns, actions).is_ok(), "{actions}");
        }
        for actions in ["return(1)", "1*return()->off"] {
            assert!(check_actions(returns, actions).is_err(), "{actions}");
        }
        assert!(check_actions("preload_observer::load::paus", "pause").is_err());
    }
}
