//! Starting and stopping.

use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use test_raftstore::wait;

use crate::support::{Node, command, hex, read_answer};

#[test]
fn what_was_written_is_there_after_an_orderly_stop_and_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    let cluster_id = node.get("/status")["cluster_id"].clone();
    let first = node.put("k", "1");
    node.put("long", &"x".repeat(1000));
    node.post("/kv/delete", json!({ "key": hex("gone") }));
    let split = node.post("/regions/1/split", json!({ "key": hex("l") }));
    let second = node.put("k", "2");
    assert_eq!(second["region_id"], split["new_regions"][0]);
    node.signal(SIGTERM);
    let output = node.rest_of_output();
    assert!(output.iter().any(|line| line.starts_with("stopping: new requests are refused")), "{output:?}");
    assert_eq!(output.last().unwrap(), "stopped");
    assert!(node.end().success());

    let node = Node::start(dir.path());
    assert_eq!(node.get("/status")["cluster_id"], cluster_id);
    assert_eq!(node.read("k").as_deref(), Some("2"));
    assert_eq!(node.read("long"), Some("x".repeat(1000)));
    assert_eq!(node.read("gone"), None);
    let old = node.post("/kv/get", json!({ "key": hex("k"), "ts": first["commit_ts"] }));
    assert_eq!(old["value"], hex("1"), "versions are kept");
    assert_eq!(node.get("/regions")["regions"].as_array().unwrap().len(), 2);
    let third = node.put("k", "3");
    let commit_ts = |version: &Value| version["commit_ts"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(commit_ts(&third) > commit_ts(&second), "timestamps go on");
    // Ids that are handed out go on as well.
    let again = node.post("/regions/1/split", json!({ "key": hex("m") }));
    assert!(again["new_regions"][0].as_u64() > split["new_regions"][0].as_u64());
    node.stop();
}

#[test]
fn second_process_on_the_same_directory_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let data = dir.path().join("data");
    let mut second = command(&["serve", "--status-addr", "127.0.0.1:0", "--data-dir"]);
    let second = second.arg(&data).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let stderr = String::from_utf8(second.stderr).unwrap();
    let expected = format!("data directory {} is in use by process {}", data.display(), node.process.id());
    assert!(stderr.contains(&expected), "{stderr}");
    node.put("k", "v");
    node.stop();
}

#[test]
fn address_that_is_taken_is_refused_and_the_node_is_stopped_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut second = command(&["serve", "--status-addr", &address, "--data-dir"]);
    let second = second.arg(dir.path().join("data")).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert!(stderr.contains(&format!("cannot listen on {address} (server.status-addr)")), "{stderr}");
    Node::start(dir.path()).stop();
}

#[test]
fn second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // A request that does not end holds the orderly stop up.
    let config = "[node]\nshutdown-timeout = \"10m\"\n[server]\nclient-timeout = \"10m\"\n";
    let mut node = Node::start_with(dir.path(), &[], config);
    let mut stuck = node.http().connect();
    let request =
        b"POST /kv/get HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    std::io::Write::write_all(&mut stuck, request).unwrap();
    // It is being served when another one that came later has been.
    node.get("/status");
    node.signal(SIGINT);
    node.wait_for("stopping: new requests are refused");
    assert!(node.process.try_wait().unwrap().is_none());
    node.signal(SIGTERM);
    assert_eq!(node.end().code(), Some(130));
    let output = node.rest_of_output();
    assert!(!output.iter().any(|line| line == "stopped"), "{output:?}");
}

#[test]
fn requests_on_their_way_get_their_answer_and_those_that_only_wait_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start_with(dir.path(), &[], "[node]\nshutdown-timeout = \"10m\"\n");
    let next = node.get("/preloads")["next"].clone();
    let mut waiting = node.http().begin("GET", &format!("/preloads?since={next}&wait_ms=30000"), None).unwrap();
    // Connections are taken in order: it is being served when others that came later have been.
    (0..10).for_each(|_| drop(node.get("/status")));
    node.signal(SIGTERM);
    let page = read_answer(&mut waiting).unwrap().ok();
    assert_eq!(page["events"], json!([]));
    assert!(node.end().success());
}

#[test]
fn stores_may_be_added_and_never_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), &["--stores", "1"], "");
    node.put("k", "v");
    node.stop();
    let node = Node::start_with(dir.path(), &["--stores", "3"], "");
    assert_eq!(node.get("/status")["stores"].as_array().unwrap().len(), 3);
    node.post("/regions/1/add-peer", json!({ "store": 2 }));
    node.post("/regions/1/add-peer", json!({ "store": 3 }));
    node.post("/regions/1/transfer-leader", json!({ "store": 3 }));
    assert_eq!(node.leader(1), 3);
    assert_eq!(node.read("k").as_deref(), Some("v"));
    node.stop();
    let mut fewer = command(&["serve", "--stores", "2", "--data-dir"]);
    let fewer = fewer.arg(dir.path().join("data")).output().unwrap();
    assert_eq!(fewer.status.code(), Some(1));
    let stderr = String::from_utf8(fewer.stderr).unwrap();
    assert!(stderr.contains("has 3 stores; node.stores = 2 would leave some of them out"), "{stderr}");
}

#[test]
fn pinned_range_of_the_configuration_is_warm_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let pinned = "[[preload.pinned]]\nstart-key = \"\"\nend-key = \"\"\n";
    for _ in 0..2 {
        let node = Node::start_with(dir.path(), &[], pinned);
        node.put("k", "v");
        wait::until("a warm region", || node.cache_state(1, node.leader(1)) == "active");
        let got = node.post("/kv/get", json!({ "key": hex("k") }));
        assert_eq!((&got["value"], &got["source"]), (&json!(hex("v")), &json!("memory")));
        node.stop();
    }
}
