//! The configuration: printed, checked, and changed while the node runs.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use crate::support::{Node, command};

fn check(text: &str) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    fs::write(&file, text).unwrap();
    let mut check = command(&["config", "--check"]);
    let output = check.arg(&file).output().unwrap();
    let name = format!("{}: ", file.display());
    let text = |bytes| String::from_utf8(bytes).unwrap().replace(&name, "");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn default_file() -> String {
    let output = command(&["config", "--default"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn default_configuration_has_no_mistakes_and_every_key_of_the_node() {
    let file = default_file();
    assert_eq!(check(&file), (Some(0), "no mistakes\n".into(), String::new()));
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let entries = node.get("/config");
    let entries = entries["entries"].as_array().unwrap();
    assert!(entries.len() > 50, "{}", entries.len());
    let mut section = "";
    let mut printed = BTreeSet::new();
    for line in file.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, _)) = line.strip_prefix("# ").unwrap_or(line).split_once(" =")
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        {
            printed.insert(format!("{section}.{key}"));
        }
    }
    let listed: BTreeSet<String> = entries.iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect();
    assert_eq!(printed, listed);
    assert!(entries.iter().all(|entry| !entry["doc"].as_str().unwrap().is_empty()));
    node.stop();
}

#[test]
fn every_mistake_is_reported_with_its_line_key_and_value() {
    let text = "\
[node]
stores = 17
data-dri = \"x\"

[server]
status-addr = \"0.0.0.0:1\"
client-timeout = 5

[raftstore]
raft-election-timeout-ticks = 1
raft-log-gc-ticks = \"often\"

[preload]
probe-interval = \"1h\"
load-retry-backoff-min = \"9s\"
request-timeout = \"10\"

[[preload.pinned]]
start-key = \"b\"
end-key = \"a\"

[in-memory-engine]
capacity = \"1MiB\"
evict-threshold = \"2MiB\"
load-threads = 0

[cache]
size = 1

[log]
level = \"loud\"
";
    let (code, stdout, stderr) = check(text);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let found: Vec<&str> = stderr.trim_end().trim_start_matches("preload-node: ").lines().collect();
    let expected = [
        ("line 2: node.stores = 17: ", "must be 1 to 16"),
        ("line 3: node.data-dri = \"x\": ", "there is no key node.data-dri; did you mean node.data-dir?"),
        ("line 6: server.status-addr = \"0.0.0.0:1\": ", "set server.token-file"),
        ("line 7: server.client-timeout = 5: ", "expected a duration"),
        ("line 10: raftstore.raft-election-timeout-ticks = 1: ", "must be more than raft-heartbeat-ticks = 2"),
        ("line 11: raftstore.raft-log-gc-ticks = \"often\": ", "invalid type"),
        ("line 14: preload.probe-interval = \"1h\": ", "out of range, expected \"1ms\" to \"10s\""),
        ("line 15: preload.load-retry-backoff-min = \"9s\": ", "greater than load-retry-backoff-max = \"5s\""),
        ("line 16: preload.request-timeout = \"10\": ", "invalid duration"),
        ("line 18: ", "pinned[0]: start-key = \"b\" is not smaller than end-key = \"a\""),
        ("line 24: in-memory-engine.evict-threshold = \"2MiB\": ", "greater than in-memory-engine.capacity = 1MiB"),
        ("line 25: in-memory-engine.load-threads = 0: ", "not within 1..=64"),
        ("line 27: ", "there is no section [cache]"),
        ("line 31: log.level = \"loud\": ", "invalid log level"),
    ];
    assert_eq!(found.len(), expected.len(), "{stderr}");
    for (found, (start, part)) in found.iter().zip(expected) {
        assert!(found.starts_with(start) && found.contains(part), "{found:?} is not {start:?} … {part:?}");
    }
}

#[test]
fn what_is_not_toml_is_reported_with_its_line() {
    let (code, _, stderr) = check("[node]\nstores = 3\nstores = 4\n");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("line 3: duplicate key"), "{stderr}");
    let mut absent = command(&["config", "--check", "absent.toml"]);
    let absent = absent.output().unwrap();
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8(absent.stderr).unwrap().contains("cannot read absent.toml"));
    // The same file stops `serve`, before it touches any data.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    fs::write(&file, "[node]\nstores = 0\nfoo = 1\n").unwrap();
    let mut serve = command(&["serve", "--config"]);
    let serve = serve.arg(&file).arg("--data-dir").arg(dir.path().join("data")).output().unwrap();
    let stderr = String::from_utf8(serve.stderr).unwrap();
    assert!(stderr.contains("line 2: node.stores = 0") && stderr.contains("line 3: node.foo = 1"), "{stderr}");
    assert!(!dir.path().join("data").exists());
}

fn entry(node: &Node, key: &str) -> Value {
    let entries = node.get("/config");
    entries["entries"].as_array().unwrap().iter().find(|entry| entry["key"] == key).unwrap().clone()
}

fn value(node: &Node, key: &str) -> Value {
    entry(node, key)["value"].clone()
}

/// Where the values of these keys come from.
fn sources<const N: usize>(node: &Node, keys: [&str; N]) -> [String; N] {
    keys.map(|key| entry(node, key)["source"].as_str().unwrap().to_owned())
}

#[test]
fn what_is_changed_online_and_pinned_by_hand_is_there_after_a_restart() {
    const KEYS: [&str; 5] = [
        "preload.warmup-timeout",
        "preload.reconcile-interval",
        "log.level",
        "node.data-dir",
        "preload.probe-interval",
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = "[preload]\nreconcile-interval = \"7s\"\n";
    let node = Node::start_with(dir.path(), &[], file);
    assert_eq!(sources(&node, KEYS), ["default", "file", "default", "command_line", "default"]);
    let changes =
        json!({ "preload.warmup-timeout": "5000ms", "preload.reconcile-interval": "1s", "log.level": "warn" });
    let changed = node.post("/config", changes);
    assert_eq!(changed["until_restart"], json!(["preload.reconcile-interval"]), "the file sets it: {changed}");
    assert_eq!(sources(&node, KEYS), ["online", "online", "online", "command_line", "default"]);
    assert_eq!(node.post("/pins", json!({ "region": 1 })), json!({ "pinned": true }));
    node.kill();

    let node = Node::start_with(dir.path(), &[], file);
    assert_eq!(KEYS.map(|key| value(&node, key))[..3], [json!("5s"), json!("7s"), json!("warn")]);
    assert_eq!(node.get("/log-level"), json!({ "level": "warn" }));
    assert_eq!(sources(&node, KEYS), ["online", "file", "online", "command_line", "default"]);
    assert_eq!(node.get("/pins")["pins"][0]["source"], "manual");
    test_raftstore::wait::until("the pinned region to be warm", || node.cache_state(1, node.leader(1)) == "active");
    // Two that are not kept: one for the moment, one that is as the node was started with.
    node.http().send("PUT", "/log-level", Some(json!({ "level": "debug" }))).ok();
    node.post("/config", json!({ "preload.warmup-timeout": entry(&node, KEYS[0])["default"] }));
    assert_eq!(sources(&node, KEYS)[0], "default");
    assert_eq!(node.http().send("DELETE", "/pins", Some(json!({ "region": 1 }))).ok(), json!({ "unpinned": true }));
    node.stop();

    // The file goes first, and what it has overruled does not come back.
    for (file, level, source) in [("[log]\nlevel = \"error\"\n", "error", "file"), ("", "info", "default")] {
        let node = Node::start_with(dir.path(), &[], file);
        assert_eq!((value(&node, "log.level"), sources(&node, ["log.level"])), (json!(level), [source.to_owned()]));
        assert_eq!(sources(&node, KEYS)[0], "default");
        assert_eq!(node.get("/pins"), json!({ "pins": [] }));
        node.stop();
    }
}

#[test]
fn what_was_kept_and_cannot_be_honoured_stops_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("data/online.json");
    fs::create_dir(dir.path().join("data")).unwrap();
    for (text, words) in [
        ("{", "online.json cannot be understood"),
        ("{\"config\": {\"preload.probe-interval\": \"1h\"}}", "probe-interval = \"1h\""),
        ("{\"config\": {\"preload.no-such\": 1}}", "there is no key preload.no-such"),
        ("{\"pinned\": [{\"start-key\": \"b\", \"end-key\": \"a\"}]}", "start-key = \"b\""),
    ] {
        fs::write(&kept, text).unwrap();
        let mut serve = command(&["serve", "--status-addr", "127.0.0.1:0", "--data-dir"]);
        let serve = serve.arg(dir.path().join("data")).output().unwrap();
        let stderr = String::from_utf8(serve.stderr).unwrap();
        assert_eq!(serve.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("online.json"), "{text}: {stderr}");
        assert_eq!(fs::read_to_string(&kept).unwrap(), text, "it is left as it is");
    }
}

#[test]
fn online_keys_are_changed_all_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), &[], "[preload]\nreconcile-interval = \"7s\"\n");
    assert_eq!(value(&node, "preload.reconcile-interval"), "7s");
    let refused = node.http().send(
        "POST",
        "/config",
        Some(json!({
            "preload.reconcile-interval": "50ms", "preload.probe-interval": "1h", "log.level": "loud",
            "node.stores": 4, "preload.no-such": 1,
        })),
    );
    assert_eq!(refused.error(), (400, "bad_request".into()));
    let refused = refused.json();
    let mut keys: Vec<&str> =
        refused["errors"].as_array().unwrap().iter().map(|error| error["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["log.level", "node.stores", "preload.no-such", "preload.probe-interval"]);
    assert_eq!(value(&node, "preload.reconcile-interval"), "7s", "nothing was changed");

    // Every key that is called online can be set to what it is.
    let entries = node.get("/config");
    let online: serde_json::Map<String, Value> = entries["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["online"] == true)
        .map(|entry| (entry["key"].as_str().unwrap().to_owned(), entry["value"].clone()))
        .collect();
    assert!(online.len() >= 16, "{online:?}");
    node.post("/config", Value::Object(online));

    // It takes effect: requests are answered, and nothing is loaded.
    node.post("/config", json!({ "preload.enabled": false, "preload.reconcile-interval": "50ms" }));
    assert_eq!(
        (value(&node, "preload.enabled"), value(&node, "preload.reconcile-interval")),
        (json!(false), json!("50ms"))
    );
    let follower = if node.leader(1) == 1 { 2 } else { 1 };
    let seq = node.post("/regions/1/preload", json!({ "store": follower }))["seq"].as_u64().unwrap();
    let answer = test_raftstore::wait::until_some("an answer", || {
        let page = node.get(&format!("/preloads?since={seq}&wait_ms=1000"));
        let events = page["events"].as_array().unwrap();
        events.iter().find(|event| event["kind"] == "answer_sent").cloned()
    });
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("rejected"), &json!("disabled")), "{answer}");

    assert_eq!(node.get("/log-level"), json!({ "level": "info" }));
    assert!(!node.log().contains("[DEBUG]"));
    node.http().send("PUT", "/log-level", Some(json!({ "level": "debug" }))).ok();
    assert_eq!((node.get("/log-level"), value(&node, "log.level")), (json!({ "level": "debug" }), json!("debug")));
    test_raftstore::wait::until("debug lines", || {
        node.post("/regions/1/preload", json!({ "store": follower }));
        node.log().contains("[DEBUG]")
    });
    let refused = node.http().send("PUT", "/log-level", Some(json!({ "level": "loud" })));
    assert_eq!(refused.error(), (400, "bad_request".into()));
    node.stop();
}

#[test]
fn log_goes_to_the_file_that_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.log");
    let node = Node::start_with(dir.path(), &[], &format!("[log]\nfile = {file:?}\nlevel = \"warn\"\n"));
    node.http().send("PUT", "/log-level", Some(json!({ "level": "info" }))).ok();
    node.post("/config", json!({ "preload.probe-interval": "30ms" }));
    let log = fs::read_to_string(&file).unwrap();
    assert!(log.contains("[INFO]") && log.contains("configuration is changed"), "{log}");
    assert!(!log.contains("store started"), "{log}");
    assert_eq!(node.log(), "");
    node.stop();
}

/// What the documents call a key is one.
#[test]
fn keys_that_the_documents_name_exist() {
    let documents = [
        include_str!("../../../../README.md"),
        include_str!("../../../../ARCHITECTURE.md"),
        include_str!("../../../../docs/http-api.md"),
        include_str!("../../../../docs/operations.md"),
        include_str!("../../../../docs/preload-ctl.md"),
    ];
    let sections: BTreeSet<&str> = server::config::docs::KEYS.iter().map(|known| known.section).collect();
    let mut named = BTreeSet::new();
    for quoted in documents.iter().flat_map(|document| document.split('`').skip(1).step_by(2)) {
        let name = quoted.split([' ', '=']).next().unwrap_or_default();
        let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'.'));
        if let Some((section, key)) = name.split_once('.')
            && is_name
            && sections.contains(section)
            && !matches!(key, "rs" | "toml")
        {
            named.insert(name.to_owned());
        }
    }
    assert!(named.len() >= 5, "{named:?}");
    let known: BTreeSet<String> = server::config::docs::KEYS.iter().map(|known| known.name()).collect();
    let unknown: Vec<&String> = named.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_cache_gets_other_limits_while_the_node_runs_and_has_them_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    // Of three stores together.
    let capacity_mib = |node: &Node| {
        let metrics = node.http().send("GET", "/metrics", None).body;
        let series = "tikv_in_memory_engine_limit_bytes{limit=\"capacity\"} ";
        let bytes: u64 = metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse().unwrap();
        bytes >> 20
    };
    let node = Node::start(dir.path());
    assert_eq!(capacity_mib(&node), 3 * 512);
    node.post("/config", json!({ "in-memory-engine.capacity": "64MiB", "in-memory-engine.evict-threshold": "60MiB" }));
    assert_eq!(capacity_mib(&node), 3 * 64);
    let refused = |key: &str, value: Value| {
        let refused = node.http().send("POST", "/config", Some(json!({ key: value }))).json();
        refused["errors"][0]["message"].as_str().unwrap().to_owned()
    };
    let message = refused("in-memory-engine.capacity", json!("59MiB"));
    assert!(message.contains("evict-threshold = 60MiB is greater than in-memory-engine.capacity = 59MiB"), "{message}");
    let message = refused("in-memory-engine.load-threads", json!(3));
    assert!(message.contains("cannot be changed while the node runs"), "{message}");
    assert_eq!(capacity_mib(&node), 3 * 64);
    node.kill();
    let node = Node::start(dir.path());
    assert_eq!(capacity_mib(&node), 3 * 64);
    node.stop();
}
