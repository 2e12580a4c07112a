use std::{fs, io::Write as _, path::Path, process::Output};

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use crate::{ctl, run_with_input, stderr, stdout};

const INFO: &str = r#"[2024/12/23 15:00:00.000 +00:00] [INFO] [a.rs:1] [hello] [region_id=7]"#;
const STORE_LINE: &str =
    r#"[2024/12/23 14:00:00.000 +00:00] [INFO] [node.rs:1] ["put store to PD"] [store="id: 9 address: \"x:1\""]"#;
const WARN: &str =
    r#"[2024/12/23 15:05:00.000 +00:00] [WARN] [report.rs:1] ["malformed region metadata"] [region_id=7]"#;
const FATAL: &str = r#"[2024/12/23 15:03:27.079 +00:00] [FATAL] [lib.rs:480] ["assertion failed: !region.get_peers().is_empty()"] [backtrace="   0: keys::enc_start_key\n   1: <in_memory_engine::engine::RegionCacheMemoryEngine as Ext>::load_region\n"] [location=components/keys/src/lib.rs:268] [thread_name=raftstore-6-1]"#;

fn scan(args: &[&str], paths: &[&Path]) -> Output {
    ctl(["scan-logs"]).args(args).args(paths).output().unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn folder_with_rotated_and_compressed_logs_is_scanned() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("deploy")).unwrap();
    let log = format!("{STORE_LINE}\n{INFO}\n{FATAL}\n{INFO}\n");
    fs::write(dir.path().join("deploy/tikv-2024-12-23T15-03-27.log.gz"), gzip(&log)).unwrap();
    fs::write(dir.path().join("deploy/tikv-2024-12-24.log.zst"), zstd::encode_all(log.as_bytes(), 3).unwrap()).unwrap();
    fs::write(dir.path().join("deploy/tikv.log"), format!("{INFO}\n{WARN}\n")).unwrap();
    fs::write(dir.path().join("deploy/config.toml"), FATAL).unwrap();

    let output = scan(&["--json"], &[dir.path()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let objects = objects(&output);
    let summary = objects.last().unwrap();
    assert_eq!(summary["kind"], "summary");
    assert_eq!((&summary["files"], &summary["lines"]), (&3.into(), &10.into()));
    assert_eq!(summary["bytes"], log.len() * 2 + INFO.len() + WARN.len() + 2);
    assert_eq!(summary["by_signature"], serde_json::json!({ "tikv-18046-preload": 2, "plugin-trouble": 1 }));
    assert_eq!(summary["first_time"], "2024-12-23 14:00:00.000 +00:00");
    assert_eq!(summary["last_time"], "2024-12-23 15:05:00.000 +00:00");

    let crash = &objects[0];
    assert_eq!((&crash["kind"], &crash["confidence"]), (&"finding".into(), &"confirmed".into()));
    assert_eq!((&crash["store"], &crash["store_told_by"]), (&"6".into(), &"record".into()));
    assert_eq!((&crash["line"], &crash["time"]), (&3.into(), &"2024-12-23 15:03:27.079 +00:00".into()));
    assert_eq!((&crash["affected"], &crash["fixed"]), (&"8.5.0".into(), &"8.5.1".into()));
    let warning = &objects[2];
    assert_eq!((&warning["store"], &warning["store_told_by"]), (&"9".into(), &"rotated_file".into()));
}

#[test]
fn text_says_what_it_means_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tikv.log");
    fs::write(&path, format!("{FATAL}\n")).unwrap();
    let output = scan(&[], &[&path]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "", "no progress bar where there is no terminal");
    for part in [
        "tikv-18046-preload (crash, 1 times)",
        "affected   8.5.0",
        "fixed in   8.5.1",
        "Upgrade to 8.5.1",
        &format!("2024-12-23 15:03:27.079 +00:00  store 6  {}:1\n", path.display()),
        "shown by <in_memory_engine::engine::RegionCacheMemoryEngine as Ext>::load_region",
        "Found: tikv-18046-preload 1.",
    ] {
        assert!(stdout(&output).contains(part), "no {part:?} in {}", stdout(&output));
    }
}

#[test]
fn standard_input_is_read_compressed_or_not() {
    for input in [format!("{FATAL}\n").into_bytes(), gzip(FATAL)] {
        let output = run_with_input(ctl(["scan-logs", "--json", "-"]), &input);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert_eq!(objects(&output)[0]["file"], "-");
    }
    let output = run_with_input(ctl(["scan-logs", "-"]), INFO.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).ends_with("Nothing was found.\n"));
}

#[test]
fn what_cannot_be_read_is_reported_and_the_rest_scanned() {
    let dir = tempfile::tempdir().unwrap();
    let [absent, harmless, cut] = ["absent.log", "harmless.log", "cut.log.gz"].map(|name| dir.path().join(name));
    fs::write(&harmless, INFO).unwrap();
    let output = scan(&[], &[&absent, &harmless]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("absent.log"), "{}", stderr(&output));
    assert!(stdout(&output).contains("Scanned 1 input"), "{}", stdout(&output));

    // What a truncated archive has before its end counts.
    let mut archive = gzip(&format!("{FATAL}\n{}", format!("{INFO}\n").repeat(5_000)));
    archive.truncate(archive.len() - 20);
    fs::write(&cut, archive).unwrap();
    let output = scan(&["--json"], &[&cut]);
    assert_eq!(output.status.code(), Some(1));
    let objects = objects(&output);
    assert_eq!(objects[0]["kind"], "finding");
    assert_eq!(objects[1]["kind"], "unreadable");
    assert_eq!(objects[2]["unreadable"], 1);
}

#[test]
fn time_and_severity_leave_findings_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tikv.log");
    fs::write(&path, format!("{FATAL}\n{WARN}\n")).unwrap();
    for (args, count) in [
        (&["--since", "2024-12-23 15:03:27.079"][..], 2),
        (&["--since", "2024-12-23 15:04"], 1),
        (&["--until", "2024/12/23 15:03:27.079 +00:00"], 0),
        (&["--until", "2024-12-23T16:05:00+01:00"], 1),
        (&["--since", "1h"], 0),
        (&["--min-severity", "crash"], 1),
    ] {
        let output = scan(&[args, &["--json"]].concat(), &[&path]);
        let found = objects(&output).last().unwrap()["findings"].clone();
        assert_eq!((&found, output.status.code()), (&count.into(), Some(i32::from(count > 0))), "{args:?}");
    }
}

#[test]
fn command_line_that_makes_no_sense_is_refused() {
    for args in [&["scan-logs"][..], &["scan-logs", "--since", "soon", "x"], &["scan-logs", "--threads", "0", "x"]] {
        let output = ctl(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn generated_log_has_its_panics_found() {
    let log = ctl(["generate-log", "--mib", "3", "--panics", "5"]).output().unwrap().stdout;
    let output = run_with_input(ctl(["scan-logs", "--json", "-"]), &log);
    assert_eq!(objects(&output).last().unwrap()["by_signature"], serde_json::json!({ "tikv-18046-preload": 5 }));
}
