//! Who may do what, and what is shown of keys.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Node, command, hex};

#[test]
fn other_hosts_and_origins_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), &[], "[server]\nallowed-hosts = [\"Node.Example\"]\n");
    let host = |host: &str| node.http().with("Host", host).send("GET", "/status", None);
    let port = node.address.port();
    for ours in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "[::1]:8080".into(), "node.example".into()] {
        assert_eq!(host(&ours).status, 200, "{ours}");
    }
    for foreign in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xnode.example"] {
        assert_eq!(host(foreign).error(), (403, "forbidden".into()), "{foreign}");
    }
    let origin = |origin: &str| node.http().with("Origin", origin).send("GET", "/regions", None);
    assert_eq!(origin(&format!("http://{}", node.address)).status, 200);
    for foreign in ["http://evil.example", "null", "http://127.0.0.1:1", &format!("ftp://{}", node.address)] {
        assert_eq!(origin(foreign).error(), (403, "forbidden".into()), "{foreign}");
    }
    let form = node.http().with("Content-Type", "application/x-www-form-urlencoded");
    let put = json!({ "key": hex("k"), "value": hex("v") });
    assert_eq!(form.send("POST", "/kv/put", Some(put.clone())).error(), (415, "unsupported_media_type".into()));
    let foreign = node.http().with("Origin", "http://evil.example");
    assert_eq!(foreign.send("POST", "/kv/put", Some(put)).error(), (403, "forbidden".into()));
    assert_eq!(node.read("k"), None, "nothing that was refused has an effect");
    node.stop();
}

#[test]
fn token_is_needed_where_others_can_reach_the_server_and_for_what_is_not_a_get() {
    let dir = tempfile::tempdir().unwrap();
    let mut without = command(&["serve", "--status-addr", "0.0.0.0:0", "--data-dir"]);
    let without = without.arg(dir.path().join("data")).output().unwrap();
    assert_eq!(without.status.code(), Some(1));
    let stderr = String::from_utf8(without.stderr).unwrap();
    assert!(
        stderr.contains("server.status-addr = 0.0.0.0:0 can be reached by others: set server.token-file"),
        "{stderr}"
    );

    let token = "0123456789abcdef-token";
    let file = dir.path().join("token");
    let config = format!("[server]\ntoken-file = {file:?}\n");
    fs::write(&file, "short\n").unwrap();
    let start = |address: &str| {
        fs::write(dir.path().join("node.toml"), &config).unwrap();
        let mut serve = command(&["serve", "--status-addr", address, "--data-dir"]);
        serve.arg(dir.path().join("data")).arg("--config").arg(dir.path().join("node.toml")).output().unwrap()
    };
    let stderr = String::from_utf8(start("127.0.0.1:0").stderr).unwrap();
    assert!(stderr.contains("holds 5 characters, at least 16 are needed"), "{stderr}");

    fs::write(&file, format!("{token}\n")).unwrap();
    let mut node = Node::start_with(dir.path(), &["--status-addr", "0.0.0.0:0"], &config);
    node.address.set_ip([127, 0, 0, 1].into());
    assert_eq!(node.http().send("GET", "/status", None).status, 200);
    let put = || Some(json!({ "key": hex("k"), "value": hex("v") }));
    let with = |value: &str| node.http().with("Authorization", value).send("POST", "/kv/put", put());
    assert_eq!(node.http().send("POST", "/kv/put", put()).error(), (401, "unauthorized".into()));
    for wrong in [token.to_owned(), format!("Bearer {token}x"), format!("Bearer {}", &token[1..]), "Bearer ".into()] {
        assert_eq!(with(&wrong).error(), (401, "unauthorized".into()), "{wrong}");
    }
    assert_eq!(with(&format!("Bearer {token}")).status, 200);
    assert!(!node.log().contains(token));
    node.stop();
}

/// All strings in a value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn keys_are_shown_only_when_that_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let secret = hex("secret");
    let shows = |node: &Node| {
        node.put("secret", "v");
        node.post("/regions/1/split", json!({ "key": secret }));
        node.post("/pins", json!({ "start_key": secret, "end_key": hex("secreu") }));
        let paths = ["/status", "/regions", "/regions/1", "/pins", "/preloads", "/history", "/config"];
        let shown: Vec<&str> =
            paths.into_iter().filter(|path| texts(&node.get(path)).iter().any(|text| text.contains(&secret))).collect();
        (shown, node.log().to_ascii_uppercase().contains(&secret) || node.log().contains("secret"))
    };
    let node = Node::start(dir.path());
    assert_eq!(shows(&node), (vec![], false));
    let redacted = node.region(1);
    assert_eq!((&redacted["start_key"], &redacted["end_key"]), (&json!("?"), &json!("")), "{redacted}");
    let scanned = node.post("/kv/scan", json!({}));
    assert_eq!(scanned["rows"][0]["key"], secret, "who asks for keys gets them");
    node.stop();

    let open = tempfile::tempdir().unwrap();
    let node = Node::start_with(open.path(), &[], "[security]\nredact-keys = false\n");
    assert_eq!(shows(&node), (vec!["/regions", "/regions/1", "/pins"], false));
    node.stop();
}
