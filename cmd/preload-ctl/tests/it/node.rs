//! Against a real node.
//!
//! The binary `preload-node` lies next to `preload-ctl` when the workspace was built; `PRELOAD_NODE_BIN` names another one.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{ctl, stderr, stdout};

struct Node {
    child: Child,
    address: String,
    _dir: TempDir,
}

impl Node {
    /// Starts three stores, and returns when their regions have leaders.
    fn start(config: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let config_file = dir.path().join("node.toml");
        fs::write(&config_file, config).unwrap();
        let mut child = Command::new(node_binary())
            .args(["serve", "--status-addr", "127.0.0.1:0", "--config"])
            .arg(config_file)
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines
            .find_map(|line| Some(line.strip_prefix("status page: http://")?.trim_end_matches('/').to_owned()))
            .expect("the node says where its page is");
        lines.find(|line| line.starts_with("ready: ")).expect("the node gets ready");
        Node { child, address, _dir: dir }
    }

    fn run(&self, args: &[&str]) -> Output {
        ctl(args).env("PRELOAD_ADDR", &self.address).output().unwrap()
    }

    /// What is printed, if the exit code is `code`.
    fn expect(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}{}", stdout(&output), stderr(&output));
        stdout(&output).to_owned()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.expect(0, &[&["--json"], args].concat())).unwrap()
    }

    fn region(&self, id: u64) -> Value {
        self.json(&["region", &id.to_string()])
    }

    fn leader(&self, id: u64) -> u64 {
        self.region(id)["leader"]["store_id"].as_u64().unwrap()
    }

    /// A store that has a peer of the region and does not lead it.
    fn follower(&self, id: u64) -> u64 {
        let leader = self.leader(id);
        (1..=3).find(|store| *store != leader).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn node_binary() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_preload-ctl")).with_file_name("preload-node");
    let path = std::env::var_os("PRELOAD_NODE_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.exists(), "{} is missing: cargo build --bin preload-node", path.display());
    path
}

#[test]
fn rows_are_written_and_read_at_any_time() {
    let node = Node::start("");
    let first = node.json(&["put", "row\\x00", "one"])["commit_ts"].as_str().unwrap().to_owned();
    assert!(node.expect(0, &["put", "hex:726f7700", "two"]).starts_with("written at "));
    assert_eq!(node.expect(0, &["get", "row\\x00"]), "two\n");
    assert_eq!(node.expect(0, &["get", "row\\x00", "--ts", &first]), "one\n");
    node.expect(0, &["put", "s", "\\x01\\xff"]);
    let rows = node.expect(0, &["scan", "r", "t"]);
    let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["KEY", "VALUE", "COMMIT_TS"]);
    assert_eq!((rows[1][0], rows[1][1], rows[2][0], rows[2][1]), ("row\\x00", "two", "s", "hex:01FF"));
    let scanned = node.json(&["scan", "--limit", "1", "--reverse"]);
    assert_eq!((&scanned["rows"][0]["key"], &scanned["more"]), (&"73".into(), &true.into()));

    node.expect(0, &["delete", "s"]);
    assert_eq!(node.expect(1, &["get", "s"]), "", "no value");
    node.expect(2, &["get", ""]);
}

#[test]
fn regions_are_split_moved_and_merged() {
    let node = Node::start("[security]\nredact-keys = false\n");
    let [region] = node.json(&["regions"]).as_array().unwrap().clone().try_into().unwrap();
    let id = region["id"].as_u64().unwrap();
    let ids = |region: u64| region.to_string();
    let new = node.json(&["split", &ids(id), "m"])["new_regions"][0].as_u64().unwrap();
    let table = node.expect(0, &["regions"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.lines().nth(1).unwrap().contains("-∞") && table.lines().nth(2).unwrap().contains("+∞"), "{table}");

    let to = node.follower(new).to_string();
    assert_eq!(node.expect(0, &["transfer-leader", &ids(new), &to]), format!("store {to} leads region {new}\n"));
    assert_eq!(node.leader(new).to_string(), to);
    let other = node.follower(new).to_string();
    node.expect(0, &["remove-peer", &ids(new), &other]);
    assert_eq!(node.region(new)["peers"].as_array().unwrap().len(), 2);
    assert_eq!(node.json(&["regions", "--store", &other]).as_array().unwrap().len(), 1);
    node.expect(3, &["transfer-leader", &ids(new), &other]);
    node.expect(0, &["add-peer", &ids(new), &other]);
    assert_eq!(node.region(new)["peers"].as_array().unwrap().len(), 3);

    node.expect(0, &["evict-leaders", &to]);
    let stores = node.json(&["stores"]);
    let evicted =
        stores.as_array().unwrap().iter().find(|store| store["store_id"] == to.parse::<u64>().unwrap()).unwrap();
    assert_eq!(evicted["leaders"], 0);
    node.expect(0, &["evict-leaders", &to, "--end"]);

    node.expect(0, &["merge", &ids(new), &ids(id)]);
    assert_eq!(node.json(&["regions"]).as_array().unwrap().len(), 1);
    node.expect(1, &["region", &ids(new)]);
    node.expect(1, &["transfer-leader", &ids(new), &to]);
    node.expect(1, &["transfer-leader", &ids(id), "99"]);
    assert!(node.expect(0, &["status"]).contains("3 stores, 1 regions"));
}

#[test]
fn preloading_is_followed_to_its_final_answer() {
    let node = Node::start("");
    node.expect(0, &["put", "a", "1"]);
    let id = node.json(&["regions"])[0]["id"].to_string();
    let store = node.follower(id.parse().unwrap()).to_string();
    let events = node.expect(0, &["preload", &id, &store]);
    let last = events.lines().last().unwrap();
    assert!(last.contains(&format!("answer_received from store {store}: warm")), "{events}");
    let caches = node.json(&["cache"]);
    let cache =
        caches.as_array().unwrap().iter().find(|cache| cache["store_id"] == store.parse::<u64>().unwrap()).unwrap();
    assert_eq!(cache["cache"]["regions_active"], 1);

    let history = node.expect(0, &["--json", "watch", "--history", "--region", &id, "--events", "3"]);
    let kinds: Vec<Value> =
        history.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].take()).collect();
    assert_eq!(kinds[0], "request_sent");
    assert_eq!(kinds.len(), 3);

    node.expect(0, &["cache", "evict", &id, &store]);
    node.expect(1, &["cache", "evict", &id, &store]);
    let leader = node.leader(id.parse().unwrap()).to_string();
    node.expect(3, &["preload", &id, &leader]);
    // A cache that may not be used is a final answer, too.
    node.expect(0, &["config", "set", "preload.enabled=false"]);
    let events = node.expect(1, &["preload", &id, &store]);
    assert!(events.lines().last().unwrap().contains(": rejected ("), "{events}");
}

#[test]
fn ranges_are_pinned_and_settings_changed() {
    let node = Node::start("[security]\nredact-keys = false\n[preload]\nreconcile-interval = \"7s\"\n");
    assert_eq!(node.expect(0, &["pin", "a", "m"]), "pinned, until it is unpinned\n");
    assert_eq!(node.expect(0, &["pin", "a", "m"]), "it was pinned already\n");
    let pins = node.expect(0, &["pins"]);
    assert!(pins.lines().nth(1).unwrap().starts_with("a      m    manual  "), "{pins}");
    node.expect(0, &["unpin", "a", "m"]);
    node.expect(1, &["unpin", "a", "m"]);
    node.expect(2, &["pin", "m", "a"]);

    node.expect(0, &["config", "set", "preload.warmup-timeout=7s"]);
    let entry = node.expect(0, &["config", "get", "preload.warmup-timeout"]);
    assert!(entry.starts_with("preload.warmup-timeout = 7s, changed while the node runs\ndefault 3s, can"), "{entry}");
    let entries = node.expect(0, &["config", "get"]);
    assert!(entries.lines().count() > 20 && entries.lines().next().unwrap().contains("SOURCE"), "{entries}");
    let changed = node.expect(0, &["config", "set", "preload.probe-interval=30ms", "preload.reconcile-interval=1s"]);
    assert_eq!(
        changed,
        "changed: preload.probe-interval, preload.reconcile-interval\n\
         until the node stops, since its configuration file sets them: preload.reconcile-interval\n"
    );
    node.expect(1, &["config", "get", "nothing.like.it"]);
    let refused = node.run(&["config", "set", "preload.warmup-timeout=99h", "nope=1"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("nope") && stderr(&refused).contains("preload.warmup-timeout"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(node.json(&["config", "get", "preload.warmup-timeout"])[0]["value"], "7s", "all or nothing");

    assert_eq!(node.expect(0, &["log-level", "warn"]), "warn\n");
    assert_eq!(node.expect(0, &["log-level"]), "warn\n");
    node.expect(2, &["log-level", "loud"]);
    // Builds with failpoints list them, others say that they have none.
    let listed = node.run(&["fail", "list"]);
    match listed.status.code() {
        Some(0) => assert!(stdout(&listed).starts_with("NAME"), "{}", stdout(&listed)),
        code => {
            assert_eq!(code, Some(1));
            assert!(stderr(&listed).contains("failpoints"), "{}", stderr(&listed));
        }
    }
}

#[test]
fn token_is_asked_for_and_given() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "a token of sixteen\n").unwrap();
    let node = Node::start(&format!("[server]\ntoken-file = {token:?}\n"));
    let refused = node.run(&["put", "a", "1"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(stderr(&refused).contains("--token-file"), "{}", stderr(&refused));
    let path = token.to_str().unwrap();
    node.expect(0, &["put", "a", "1", "--token-file", path]);
    node.expect(0, &["--token-file", path, "pin", "a", "b"]);
    node.expect(0, &["--token-file", path, "unpin", "a", "b"]);
    fs::write(&token, "another token of sixteen").unwrap();
    node.expect(3, &["put", "a", "1", "--token-file", path]);
}
