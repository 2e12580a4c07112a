//! A node whose disk fails, by failpoints that are set through its status server: it stops, says why, and has lost nothing
//! when it is started again.

#[allow(dead_code)] // Shared with the tests of a node that is well.
#[path = "../serve/support.rs"]
mod support;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use serde_json::json;

use support::{Http, Node, hex};

/// Sets a failpoint, which may not be answered any more.
fn set(node: &Node, name: &str) {
    let _ = node.http().try_send("PUT", &format!("/fail/{name}"), Some(json!({ "actions": "return" })));
}

/// Writes until the node is gone, and keeps what was acknowledged.
fn write_until_gone(http: &Http, acknowledged: &AtomicU64) {
    loop {
        let next = acknowledged.load(Ordering::SeqCst) + 1;
        let body = json!({ "key": hex(&format!("k{next}")), "value": hex(&next.to_string()) });
        match http.try_send("POST", "/kv/put", Some(body)) {
            Ok(answer) if answer.status == 200 => acknowledged.store(next, Ordering::SeqCst),
            Ok(_) | Err(_) => return,
        }
    }
}

/// Breaks a node under load by `failpoint`; `provoke` has it do what fails then.
fn check(failpoint: &str, words: &[&str], provoke: impl FnOnce(&Node)) {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    for n in 0..20 {
        node.put(&format!("before-{n:02}"), "v");
    }
    let acknowledged = AtomicU64::new(0);
    let http = node.http();
    thread::scope(|scope| {
        scope.spawn(|| write_until_gone(&http, &acknowledged));
        test_raftstore::wait::until("acknowledgements", || acknowledged.load(Ordering::SeqCst) >= 20);
        set(&node, failpoint);
        provoke(&node);
        let status = node.end();
        assert_eq!(status.code(), Some(1), "the process stops");
    });
    let log = node.log();
    let fatal: Vec<&str> = log.lines().filter(|line| line.contains("] [FATAL] [")).collect();
    assert!(!fatal.is_empty(), "{log}");
    assert!(words.iter().all(|word| fatal[0].contains(word)), "{words:?} are not in {}", fatal[0]);

    let node = Node::start(dir.path());
    let acknowledged = acknowledged.load(Ordering::SeqCst);
    for n in 1..=acknowledged {
        assert_eq!(node.read(&format!("k{n}")), Some(n.to_string()), "of {acknowledged} acknowledged");
    }
    for n in 0..20 {
        assert_eq!(node.read(&format!("before-{n:02}")).as_deref(), Some("v"));
    }
    node.put("after", "v");
    node.stop();
}

#[test]
fn disk_that_is_full_for_the_data_stops_the_node() {
    check("engine_fjall::write::disk_full", &["cannot write applied entries", "No space left on device"], |_| {});
}

#[test]
fn disk_that_is_full_for_the_raft_log_stops_the_node() {
    check("raft_log_engine::write::error", &["cannot write the Raft log", "No space left on device"], |_| {});
}

#[test]
fn failing_fsync_of_the_data_stops_the_node() {
    check("engine_fjall::sync::error", &["cannot sync applied entries", "Input/output error"], |node| {
        // A split is durable before its new region says anything.
        let split = json!({ "key": hex("before-10") });
        let _ = node.http().try_send("POST", "/regions/1/split", Some(split));
    });
}

#[test]
fn failpoints_are_listed_set_and_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    assert_eq!(node.get("/status")["features"], json!(["failpoints"]));
    let name = "preload_observer::answer::drop";
    let send = |method: &str, body| node.http().send(method, &format!("/fail/{name}"), body);
    assert_eq!(send("PUT", Some(json!({ "actions": "retrun" }))).error(), (400, "bad_request".into()));
    assert_eq!(node.get("/fail"), json!({ "failpoints": [] }));
    assert_eq!(send("PUT", Some(json!({ "actions": "return(1)" }))).error(), (400, "bad_request".into()));
    send("PUT", Some(json!({ "actions": "return" }))).ok();
    assert_eq!(node.get("/fail"), json!({ "failpoints": [{ "name": name, "actions": "return" }] }));
    send("DELETE", None).ok();
    assert_eq!(node.get("/fail"), json!({ "failpoints": [] }));
    node.stop();
}

/// It would panic in the plugin's worker, which meets this failpoint all the time.
#[test]
fn return_where_nothing_can_be_returned_is_refused_and_the_node_lives() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for actions in ["return", "return(1)", "1*off->return"] {
        let answer =
            node.http().send("PUT", "/fail/preload_observer::worker::pause", Some(json!({ "actions": actions })));
        assert_eq!(answer.error(), (400, "bad_request".into()), "{actions}: {}", answer.body);
        assert!(answer.body.contains("cannot return"), "{}", answer.body);
    }
    let unknown = node.http().send("PUT", "/fail/preload_observer::worker::paws", Some(json!({ "actions": "pause" })));
    assert_eq!(unknown.error(), (404, "not_found".into()));
    assert_eq!(node.get("/fail"), json!({ "failpoints": [] }));
    node.put("k", "v");
    assert_eq!(node.read("k").as_deref(), Some("v"));
    node.stop();
}
