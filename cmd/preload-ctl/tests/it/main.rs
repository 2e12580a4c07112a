//! The program as a user runs it: its output and its exit codes.

mod documentation;
mod node;
mod scan_logs;
mod unreachable;

use std::{
    ffi::OsStr,
    io::Write as _,
    process::{Command, Output, Stdio},
};

fn ctl<I: AsRef<OsStr>>(args: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preload-ctl"));
    command.args(args).env_remove("PRELOAD_ADDR").env_remove("PRELOAD_TOKEN_FILE").stdin(Stdio::null());
    command
}

fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}
