//! The demo as a user runs it: the binary, its output and its exit code.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const TIKV_WORDS: &str = "assertion failed: !region.get_peers().is_empty()";

fn demo(args: &[&str], data_dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preload-node"));
    command.arg("demo").args(args).arg("--data-dir").arg(data_dir).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_claim_holds_and_the_summary_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(&["--rows", "300", "--versions", "3", "--json"], &dir.path().join("data"));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "");

    let steps: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["unguarded", "load", "guarded", "released", "moved", "reads", "summary"]);
    assert!(steps.iter().all(|step| step["ok"] == true), "{stdout}");
    assert_eq!(steps[0]["exit_code"], 1);
    assert_eq!(steps[0]["thread"], "store-3");
    assert_eq!(steps[1]["records"], 900);
    assert_eq!(steps[2]["parked_requests"], 1);

    let summary = steps.last().unwrap();
    assert_eq!(summary["unguarded_fatal"], TIKV_WORDS);
    let answers = summary["answers"].as_array().unwrap();
    assert_eq!(answers.first().unwrap(), "region_not_initialized");
    assert_eq!(answers.last().unwrap(), "warm");
    assert_eq!(summary["first_read_source"], "memory");
    assert_eq!(summary["memory_read_share"], 1.0);
    for side in ["memory", "disk"] {
        let [p50, p99] = ["p50", "p99"].map(|at| summary["read_ns"][side][at].as_u64().unwrap());
        assert!(0 < p50 && p50 <= p99, "{summary}");
    }
}

#[test]
fn long_values_are_read_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--rows", "100", "--versions", "2", "--value-size", "1000"];
    let output = demo(&args, &dir.path().join("data"));
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(!stdout.contains('✗') && !stdout.contains('\x1b'), "{stdout}");
}

#[test]
fn unguarded_ends_in_tikvs_words() {
    let dir = tempfile::tempdir().unwrap();
    let output = demo(&["--rows", "50", "--versions", "2", "--unguarded"], dir.path());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let line = stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "one line: {stderr}");
    let (_, message) = line.split_once("] [FATAL] [panic_hook.rs:").expect(stderr);
    assert!(message.contains(&format!("] [\"{TIKV_WORDS}\"] [backtrace=")), "{stderr}");
    assert!(message.ends_with("[thread_name=store-3]"), "{stderr}");
}

#[test]
fn directory_with_something_in_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "").unwrap();
    let output = demo(&["--rows", "1"], dir.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is not empty"), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
}
