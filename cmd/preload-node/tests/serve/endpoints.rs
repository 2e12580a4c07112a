//! Every endpoint, as docs/http-api.md describes it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use server::status_server::ENDPOINTS;
use test_raftstore::wait;

use crate::support::{Node, hex};

const CONTRACT: &str = include_str!("../../../../docs/http-api.md");

#[test]
fn documented_endpoints_are_those_that_there_are() {
    let documented: BTreeSet<(&str, &str)> =
        CONTRACT.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')?.split_once(' ')).collect();
    assert_eq!(documented, BTreeSet::from(ENDPOINTS));

    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for (method, path) in ENDPOINTS {
        let path = path.replace("{id}", "999").replace("{name}", "none");
        let answer = node.http().send(method, &path, (method != "GET").then(|| json!({ "no_such_field": 1 })));
        let code = if answer.status == 200 { String::new() } else { answer.error().1 };
        // Failpoints are not compiled in.
        let expected: &[&str] = if path.starts_with("/fail") {
            &["not_found", "bad_request"]
        } else {
            &["", "bad_request", "region_not_found", "store_not_found"]
        };
        assert!(expected.contains(&code.as_str()), "{method} {path}: {answer:?}");
    }
    assert_eq!(node.http().send("GET", "/no-such-path", None).error(), (404, "not_found".into()));
    assert_eq!(node.http().send("DELETE", "/status", None).error(), (405, "method_not_allowed".into()));
    node.stop();
}

/// The names of fields that the contract shows, in backticks.
fn is_documented(field: &str) -> bool {
    CONTRACT.contains(&format!("`{field}`")) || CONTRACT.contains(&format!("\"{field}\""))
}

fn check_fields(what: &str, value: &Value) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            assert!(is_documented(name), "{what}: {name} is not in docs/http-api.md");
            check_fields(what, value);
        }),
        Value::Array(values) => values.iter().for_each(|value| check_fields(what, value)),
        _ => {}
    }
}

#[test]
fn what_is_shown_has_only_fields_that_are_documented() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.put("k", "v");
    node.post("/pins", json!({ "region": 1 }));
    wait::until("a warm region", || node.cache_state(1, node.leader(1)) == "active");
    for path in ["/status", "/regions", "/regions/1", "/preloads", "/history", "/pins"] {
        check_fields(path, &node.get(path));
    }
    check_fields("get", &node.post("/kv/get", json!({ "key": hex("k") })));
    check_fields("scan", &node.post("/kv/scan", json!({})));
    let config = node.get("/config");
    check_fields("config", &json!({ "entries": [config["entries"][0]] }));
    node.stop();
}

/// The largest number in an answer.
fn largest(value: &Value) -> f64 {
    match value {
        Value::Object(fields) => fields.values().map(largest).fold(0.0, f64::max),
        Value::Array(values) => values.iter().map(largest).fold(0.0, f64::max),
        _ => value.as_f64().unwrap_or(0.0),
    }
}

#[test]
fn numbers_are_exact_in_javascript_and_timestamps_are_strings() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let written = node.put("k", "v");
    let scanned = node.post("/kv/scan", json!({}));
    for ts in [&written["commit_ts"], &scanned["ts"], &scanned["rows"][0]["commit_ts"]] {
        assert!(ts.as_str().is_some_and(|ts| ts.parse::<u64>().unwrap() > 1 << 53), "{ts}");
    }
    let got = node.post("/kv/get", json!({ "key": hex("k"), "ts": written["commit_ts"] }));
    assert_eq!((&got["commit_ts"], &got["ts"]), (&written["commit_ts"], &written["commit_ts"]));
    for path in ["/status", "/regions", "/regions/1", "/preloads", "/history", "/config", "/pins"] {
        assert!(largest(&node.get(path)) < (1_u64 << 53) as f64, "{path}");
    }
    assert!(largest(&scanned) < (1_u64 << 53) as f64);
    node.stop();
}

#[test]
fn health_metrics_and_the_page_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let health = node.http().send("GET", "/healthz", None);
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let metrics = node.http().send("GET", "/metrics", None);
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain"), "{metrics:?}");
    for name in
        ["tikv_preload_requests_total", "tikv_in_memory_engine_memory_usage_bytes", "tikv_server_http_requests_total"]
    {
        assert!(metrics.body.contains(&format!("# TYPE {name} ")), "{name} is missing");
    }
    let page = node.http().send("GET", "/", None);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    node.stop();
}

#[test]
fn status_shows_stores_and_regions_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let status = node.get("/status");
    assert_eq!(
        (&status["engine"], &status["regions"], &status["log_level"]),
        (&json!("fjall"), &json!(1), &json!("info"))
    );
    assert_eq!(status["pid"], node.process.id());
    assert_eq!(status["status_addr"], node.address.to_string());
    let stores = status["stores"].as_array().unwrap();
    let leaders: u64 = stores.iter().map(|store| store["leaders"].as_u64().unwrap()).sum();
    assert_eq!((stores.len(), leaders), (3, 1));
    assert!(stores.iter().all(|store| store["state"] == "up" && store["cache"]["enabled"] == true));

    node.put("k", "v");
    node.read("k");
    node.post("/pins", json!({ "region": 1 }));
    let leader = node.leader(1);
    wait::until("a warm region", || node.cache_state(1, leader) == "active");
    node.read("k");
    let region = node.region(1);
    assert_eq!((&region["pinned"], &region["leader"]["store_id"]), (&json!(true), &json!(leader)));
    let peers = region["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 3);
    assert!(peers.iter().all(|peer| peer["role"] == "voter" && peer["lifecycle"] == "initialized"), "{region}");
    let led = peers.iter().find(|peer| peer["store_id"] == leader).unwrap();
    assert_eq!((&led["raft_role"], &led["preload"]["wanted"]), (&json!("leader"), &json!("pinned")));
    assert!(led["cache"]["hits"].as_u64() >= Some(1) && led["cache"]["misses"].as_u64() >= Some(1), "{led}");
    wait::until("an event of that", || {
        let region = node.region(1);
        region["answers"].as_array().unwrap().iter().any(|event| event["kind"] == "loaded")
    });
    let warm = &node.get("/status")["stores"][leader as usize - 1]["preload"]["warm_seconds"];
    assert!(warm["count"].as_u64() >= Some(1), "{warm}");

    assert_eq!(node.get("/regions?store=2")["regions"].as_array().unwrap().len(), 1);
    let error = |path: &str| node.http().send("GET", path, None).error();
    assert_eq!(error("/regions?store=9"), (404, "store_not_found".into()));
    assert_eq!(error("/regions?sotre=1"), (400, "bad_request".into()));
    assert_eq!(error("/regions/77"), (404, "region_not_found".into()));
    assert_eq!(error("/regions/0"), (400, "bad_request".into()));
    wait::until("a point with the leader and the warm region", || {
        let history = node.get("/history");
        let last = history["points"].as_array().unwrap().last().cloned().unwrap();
        let stores = last["stores"].as_array().unwrap();
        stores.iter().any(|store| store["leaders"] == 1 && store["regions_active"] == 1)
    });
    node.stop();
}

#[test]
fn operators_change_regions_and_say_no_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let refused = |path: &str, body: Value| node.http().send("POST", path, Some(body)).error();
    assert_eq!(refused("/regions/1/split", json!({})), (409, "refused".into()), "nothing to split");
    for n in 0..10 {
        node.put(&format!("k{n}"), &"v".repeat(if n == 0 { 5000 } else { 500 }));
    }
    let split = node.post("/regions/1/split", json!({}));
    let left = split["new_regions"][0].as_u64().unwrap();
    let rows = node.post("/kv/scan", json!({}));
    assert_eq!(rows["rows"].as_array().unwrap().len(), 10);
    assert_eq!(rows["sources"].as_array().unwrap().len(), 2);
    // More than half of the bytes are in the first key.
    assert_eq!(node.put("k0", "v")["region_id"], left);
    assert_eq!(node.put("k1", "v")["region_id"], 1);

    let leader = node.leader(1);
    let (other, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    node.post("/regions/1/transfer-leader", json!({ "store": other, "timeout": "20s" }));
    assert_eq!(node.leader(1), other);
    node.post("/regions/1/remove-peer", json!({ "store": third }));
    assert_eq!(node.region(1)["peers"].as_array().unwrap().iter().filter(|peer| peer["role"] == "voter").count(), 2);
    let (status, code) = refused("/regions/1/remove-peer", json!({ "store": leader }));
    assert_eq!((status, code.as_str()), (409, "refused"), "two voters are kept");
    node.post("/regions/1/add-peer", json!({ "store": third }));
    assert_eq!(refused("/regions/1/add-peer", json!({ "store": third })), (409, "refused".into()));
    assert_eq!(refused("/regions/1/add-peer", json!({ "store": 9 })), (404, "store_not_found".into()));
    assert_eq!(refused("/regions/77/transfer-leader", json!({ "store": 1 })), (404, "region_not_found".into()));
    assert_eq!(
        refused("/regions/1/transfer-leader", json!({ "store": 1, "timeout": "1h" })),
        (400, "bad_request".into())
    );
    assert_eq!(refused("/regions/1/transfer-leader", json!({ "store": "1" })), (400, "bad_request".into()));

    node.post(&format!("/stores/{other}/evict-leaders"), json!({}));
    assert!(node.leader(1) != other && node.leader(left) != other);
    node.http().send("DELETE", &format!("/stores/{other}/evict-leaders"), None).ok();
    node.post("/regions/1/transfer-leader", json!({ "store": other }));
    node.post(&format!("/regions/{left}/merge"), json!({ "target": 1 }));
    assert_eq!(node.http().send("GET", &format!("/regions/{left}"), None).error().0, 404);
    assert_eq!(node.post("/kv/scan", json!({}))["rows"].as_array().unwrap().len(), 10);
    node.stop();
}

#[test]
fn preload_requests_can_be_watched_from_beginning_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.put("k", "v");
    let leader = node.leader(1);
    let target = leader % 3 + 1;
    let mut next = node.post("/regions/1/preload", json!({ "store": target }))["seq"].as_u64().unwrap();
    let mut events: Vec<Value> = Vec::new();
    wait::until("the final answer", || {
        let page = node.get(&format!("/preloads?since={next}&wait_ms=2000"));
        assert_eq!(page["lost"], false);
        next = page["next"].as_u64().unwrap();
        events.extend(page["events"].as_array().unwrap().iter().cloned());
        events.iter().any(|event| event["kind"] == "answer_received" && event["verdict"] == "warm")
    });
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{seqs:?}");
    let of = |kind: &str| {
        events.iter().find(|event| event["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {events:?}"))
    };
    assert_eq!(
        (&of("request_sent")["store_id"], &of("request_sent")["peer_store_id"]),
        (&json!(leader), &json!(target))
    );
    let received = of("request_received");
    assert_eq!((&received["store_id"], &received["verdict"]), (&json!(target), &json!("accepted")));
    assert_eq!(received["peer_store_id"], json!(leader), "who has asked");
    assert!(received["peer_id"].is_u64(), "{received}");
    assert!(of("request_finished")["elapsed_ms"].is_u64());
    assert_eq!(node.cache_state(1, target), "active");
    assert_eq!(node.post("/regions/1/evict", json!({ "store": target })), json!({ "evicted": true }));
    wait::until("the region to be gone", || node.cache_state(1, target) == "absent");
    wait::until("an event of that", || {
        let page = node.get(&format!("/preloads?since={next}"));
        page["events"].as_array().unwrap().iter().any(|event| event["kind"] == "evicted" && event["store_id"] == target)
    });
    let refused = |store: u64| node.http().send("POST", "/regions/1/preload", Some(json!({ "store": store }))).error();
    assert_eq!(refused(leader), (409, "refused".into()));
    assert_eq!(refused(9), (404, "store_not_found".into()));
    let error = node.http().send("GET", "/preloads?wait_ms=30001", None).error();
    assert_eq!(error, (400, "bad_request".into()));
    // Nothing comes: the answer is an empty page after the time that was asked for.
    let quiet = node.get(&format!("/preloads?since={}&wait_ms=1", u64::from(u32::MAX)));
    assert_eq!((&quiet["lost"], quiet["events"].as_array().map(Vec::len)), (&json!(true), Some(0)));
    node.stop();
}

#[test]
fn pins_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[[preload.pinned]]\nstart-key = \"x\"\nend-key = \"y\"\n";
    let node = Node::start_with(dir.path(), &[], config);
    let pins = || node.get("/pins")["pins"].as_array().unwrap().clone();
    assert_eq!(pins(), [json!({ "start_key": "?", "end_key": "?", "source": "config", "regions": [1] })]);
    let range = json!({ "start_key": hex("a"), "end_key": hex("b") });
    assert_eq!(node.post("/pins", range.clone()), json!({ "pinned": true }));
    assert_eq!(node.post("/pins", range.clone()), json!({ "pinned": false }));
    assert_eq!(pins().len(), 2);
    node.http().send("DELETE", "/pins", Some(range.clone())).ok();
    assert_eq!(node.http().send("DELETE", "/pins", Some(range)).error(), (404, "not_found".into()));
    assert_eq!(pins().len(), 1);
    let error = |body: Value| node.http().send("POST", "/pins", Some(body)).error();
    assert_eq!(error(json!({ "start_key": hex("b"), "end_key": hex("a") })), (400, "bad_request".into()));
    assert_eq!(error(json!({ "start_key": "0G", "end_key": "" })), (400, "bad_request".into()));
    assert_eq!(error(json!({ "region": 1, "start_key": "", "end_key": "" })), (400, "bad_request".into()));
    assert_eq!(error(json!({})), (400, "bad_request".into()));
    node.stop();
}

#[test]
fn reads_are_of_one_moment_forwards_and_backwards_across_regions() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for n in 0..30 {
        node.put(&format!("k{n:02}"), &format!("{n}"));
    }
    node.post("/regions/1/split", json!({ "key": hex("k10") }));
    node.post("/regions/1/split", json!({ "key": hex("k20") }));
    let ts = node.post("/kv/scan", json!({}))["ts"].clone();
    node.put("k15", "changed");
    node.post("/kv/delete", json!({ "key": hex("k25") }));
    let keys = |answer: &Value| -> Vec<String> {
        answer["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
    };
    let all: Vec<String> = (0..30).map(|n| hex(&format!("k{n:02}"))).collect();
    let before = node.post("/kv/scan", json!({ "ts": ts }));
    assert_eq!(keys(&before), all);
    assert_eq!(before["rows"][15]["value"], hex("15"));
    let backwards = node.post("/kv/scan", json!({ "ts": ts, "reverse": true }));
    assert_eq!(keys(&backwards), all.iter().rev().cloned().collect::<Vec<_>>());
    let now = node.post("/kv/scan", json!({}));
    assert_eq!(keys(&now).len(), 29);
    // Page by page, over the regions' borders.
    let (mut start, mut paged) = (String::new(), Vec::new());
    loop {
        let page = node.post("/kv/scan", json!({ "start_key": start, "end_key": hex("k28"), "limit": 7, "ts": ts }));
        paged.extend(keys(&page));
        if page["more"] == false {
            break;
        }
        start = format!("{}00", paged.last().unwrap());
    }
    assert_eq!(paged, all[..28]);
    let error = |body: Value| node.http().send("POST", "/kv/scan", Some(body)).error();
    assert_eq!(error(json!({ "limit": 10001 })), (400, "bad_request".into()));
    assert_eq!(error(json!({ "ts": u64::MAX.to_string() })), (400, "bad_request".into()), "the future");
    let number: u64 = ts.as_str().unwrap().parse().unwrap();
    assert_eq!(error(json!({ "ts": number })), (400, "bad_request".into()), "it may have lost digits");
    let get = node.http().send("POST", "/kv/get", Some(json!({ "key": "" })));
    assert_eq!(get.error(), (400, "bad_request".into()));
    node.stop();
}
