//! Tests that end their process: the test runs itself again as a child and looks at how that ended.

use std::{
    ffi::{OsStr, OsString},
    process::{Command, Output},
};

const CHILD: &str = "PRELOAD_OBSERVER_TEST_CHILD";

/// Whether this process is the child.
pub(crate) fn is_child() -> bool {
    argument().is_some()
}

/// What the parent has told this process, if it is a child.
pub(crate) fn argument() -> Option<OsString> {
    std::env::var_os(CHILD)
}

/// Runs the test called `name` (with its module) of this binary as a child, to its end.
pub(crate) fn run(name: &str) -> Output {
    run_with(name, OsStr::new("1"))
}

/// Like [`run`], and tells the child `argument`.
pub(crate) fn run_with(name: &str, argument: &OsStr) -> Output {
    let this = std::env::current_exe().expect("a running program has a path");
    let child = Command::new(this).args([name, "--exact", "--nocapture"]).env(CHILD, argument).output();
    child.expect("the test binary starts")
}

/// The lines of the unified log format in `output` that are FATAL.
pub(crate) fn fatal_lines(output: &Output) -> Vec<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().filter(|line| line.contains("] [FATAL] [")).map(str::to_owned).collect()
}

/// Logs to stderr, and ends the process at the first panic, as a node does.
pub(crate) fn behave_like_a_node() {
    tikv_util::logger::init(tikv_util::logger::Config {
        level: tikv_util::logger::Level::Info,
        output: tikv_util::logger::Output::Stderr,
    })
    .expect("the first initialization");
    tikv_util::logger::set_panic_hook();
}
