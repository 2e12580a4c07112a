//! What documents, alerts and the dashboard say about metrics is what a running node exports.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use test_raftstore::wait;

use crate::support::Node;

const OPERATIONS: &str = include_str!("../../../../docs/operations.md");
const ALERTS: &str = include_str!("../../../../docs/monitoring/alerts.yml");
const DASHBOARD: &str = include_str!("../../../../docs/monitoring/dashboard.json");

/// By metric, the values of each of its labels.
type Exported = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What a node exports on which everything has happened once that needs to happen for a series to be there.
fn exported() -> Exported {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.put("k", "v");
    let leader = node.leader(1);
    let target = if leader == 1 { 2 } else { 1 };
    node.post("/regions/1/preload", json!({ "store": target }));
    wait::until("a warm region", || node.cache_state(1, target) == "active");
    let text = node.http().send("GET", "/metrics", None);
    assert_eq!(text.status, 200);
    node.stop();

    let mut exported = Exported::new();
    for line in text.body.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            exported.entry(rest.split(' ').next().unwrap().to_owned()).or_default();
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let metric = base_name(&exported, name).unwrap_or_else(|| panic!("{line}"));
            let values = exported.get_mut(&metric).unwrap();
            for (label, _, value) in matchers(labels.trim_end_matches('}')) {
                values.entry(label).or_default().insert(value);
            }
        }
    }
    exported
}

/// The value of a series in Prometheus' text format, 0 while it is not there.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[test]
fn metrics_of_raftstore_follow_what_the_stores_do() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let metrics = || node.http().send("GET", "/metrics", None).body;
    let now = |series: &str| value(&metrics(), series);
    for n in 0..10 {
        node.put(&format!("k{n}"), "v");
    }
    let leader = node.leader(1);
    let follower = leader % 3 + 1;
    wait::until("one region, of which three peers are here", || {
        let region_count = |kind: &str| now(&format!("tikv_raftstore_region_count{{type=\"{kind}\"}}"));
        (region_count("region"), region_count("leader"), now("tikv_raftstore_leader_missing")) == (3.0, 1.0, 0.0)
    });
    for store in 1..=3 {
        assert_eq!(now(&format!("tikv_server_store_up{{store=\"{store}\"}}")), 1.0);
    }
    let proposals = |kind: &str| now(&format!("tikv_raftstore_proposal_total{{type=\"{kind}\"}}"));
    assert!(proposals("normal") >= 10.0, "{}", metrics());
    let conf_changes = proposals("conf_change");
    let transport = |way: &str| now(&format!("tikv_snapshot_limit_transport_bytes{{type=\"{way}\"}}"));
    assert_eq!((transport("send"), transport("recv")), (0.0, 0.0));

    // A peer that comes anew gets a snapshot.
    node.post("/regions/1/remove-peer", json!({ "store": follower }));
    wait::until("two peers", || now("tikv_raftstore_region_count{type=\"region\"}") == 2.0);
    assert_eq!(now("tikv_preload_malformed_total{kind=\"metadata\"}"), 0.0, "{}", node.log());
    node.post("/regions/1/add-peer", json!({ "store": follower }));
    let snapshots = |kind: &str| now(&format!("tikv_raftstore_snapshot_duration_seconds_count{{type=\"{kind}\"}}"));
    wait::until("a snapshot that is applied", || snapshots("apply") >= 1.0);
    wait::until("no snapshot under way", || {
        let traffic = |kind: &str| now(&format!("tikv_raftstore_snapshot_traffic_total{{type=\"{kind}\"}}"));
        ["sending", "receiving", "applying"].iter().all(|kind| traffic(kind) == 0.0)
    });
    assert!(snapshots("generate") >= 1.0);
    assert!(transport("recv") > 0.0 && transport("send") >= transport("recv"), "{}", metrics());
    assert!(proposals("conf_change") >= conf_changes + 2.0);
    node.post("/regions/1/transfer-leader", json!({ "store": follower }));
    assert!(proposals("transfer_leader") >= 1.0);
    node.read("k1");
    assert!(proposals("read_index") >= 1.0);
    let kinds = ["normal", "conf_change", "transfer_leader", "read_index"];
    let text = metrics();
    let of = |kind: &str| value(&text, &format!("tikv_raftstore_proposal_total{{type=\"{kind}\"}}"));
    assert_eq!(of("all"), kinds.map(of).iter().sum::<f64>());
    for kind in ["append", "append_resp", "snapshot", "timeout_now", "vote"] {
        let sent =
            value(&text, &format!("tikv_raftstore_raft_sent_message_total{{status=\"accept\",type=\"{kind}\"}}"));
        assert!(sent >= 1.0, "{kind}: {text}");
    }
    for log in ["append_log", "apply_log"] {
        assert!(value(&text, &format!("tikv_raftstore_{log}_duration_seconds_count")) >= 10.0, "{log}: {text}");
    }
    node.stop();
}

/// The metric that a series belongs to: those of a histogram have names of their own.
fn base_name(exported: &Exported, name: &str) -> Option<String> {
    let suffixes = ["", "_bucket", "_sum", "_count"];
    suffixes
        .iter()
        .filter_map(|suffix| name.strip_suffix(suffix))
        .find(|name| exported.contains_key(*name))
        .map(str::to_owned)
}

/// Label, operator and value of each part of `a="b", c=~"d"`.
fn matchers(text: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once('"') {
        let (value, tail) = tail.split_once('"').unwrap();
        let head = head.trim_start_matches([',', ' ']);
        let label = head.trim_end_matches(['=', '~', '!']);
        found.push((label.to_owned(), head[label.len()..].to_owned(), value.to_owned()));
        rest = tail;
    }
    found
}

/// The metrics of this project in a query, each with what stands in its braces.
fn selectors(query: &str) -> Vec<(String, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = query.match_indices("tikv_").map(|(at, _)| at);
    starts
        .filter(|at| !query[..*at].ends_with(is_name))
        .map(|at| {
            let name: String = query[at..].chars().take_while(|c| is_name(*c)).collect();
            let rest = &query[at + name.len()..];
            let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
            (name, inside)
        })
        .collect()
}

fn check(exported: &Exported, place: &str, query: &str) -> usize {
    let selectors = selectors(query);
    for (name, inside) in &selectors {
        let metric = base_name(exported, name).unwrap_or_else(|| panic!("{place}: {name} is not exported"));
        for (label, operator, value) in matchers(inside) {
            // Those that Prometheus adds, with what the dashboard's variables hold.
            if ["job", "instance"].contains(&label.as_str()) {
                continue;
            }
            let values = exported[&metric].get(&label).unwrap_or_else(|| panic!("{place}: {name} has no {label}"));
            // What is excluded, or only happens when something is wrong, need not have happened.
            if !operator.starts_with('!') {
                for value in value.split('|') {
                    assert!(values.contains(value), "{place}: {name} has no {label}={value:?}, but {values:?}");
                }
            }
        }
    }
    selectors.len()
}

#[test]
fn alerts_dashboard_and_documents_are_about_what_a_node_exports() {
    let exported = exported();
    let own: BTreeSet<&str> = exported.keys().map(String::as_str).filter(|name| name.starts_with("tikv_")).collect();
    assert!(own.len() > 25, "{own:?}");

    let rows = OPERATIONS.lines().filter(|line| line.starts_with("| `tikv_"));
    let named = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    let documented: BTreeSet<&str> = named.collect();
    assert_eq!(own, documented, "what a node exports, and what docs/operations.md explains");

    let queries = ALERTS.split("expr: ").skip(1).filter_map(|rest| rest.split("labels:").next());
    let in_alerts: usize = queries.map(|query| check(&exported, "alerts.yml", query)).sum();
    assert!(in_alerts > 20, "{in_alerts}");

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut in_dashboard = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let found = check(&exported, title, target["expr"].as_str().unwrap());
            assert!(found > 0, "{title}: a query without a metric of a node");
            in_dashboard += found;
        }
    }
    assert!(in_dashboard > 30, "{in_dashboard}");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"]["query"].as_str().unwrap_or_default();
        check(&exported, "a variable of the dashboard", query);
    }
}

#[test]
fn every_panel_of_the_dashboard_has_an_id_and_a_place_of_its_own() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has the id of another panel");
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        for cell in (y..y + height).flat_map(|row| (x..x + width).map(move |column| (row, column))) {
            assert!(cells.insert(cell), "{title} lies on another panel");
        }
    }
}
