//! The unguarded half, run in a process of its own and looked at from outside.
//!
//! **Owns** the child process, and what its stderr says.
//!
//! **How it works.** Starts this binary again with `demo --unguarded`, reads its stderr to the end, waits for its exit
//! code, and finds the FATAL line.
//!
//! **Invariants.** The child never outlives this step: it is killed when it takes too long, or on Ctrl-C.
//!
//! **Must not** take the child's word: text and exit code are compared here.

use std::{
    env,
    io::Read as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use serde::Serialize;

use super::{dataset::Dataset, report::Report};
use crate::{
    error::{Error, Result},
    waiting,
};

/// What TiKV says when it stops, word for word (tikv/tikv#18046).
const TIKV_WORDS: &str = "assertion failed: !region.get_peers().is_empty()";
/// What TiKV's panic hook exits with.
const TIKV_EXIT_CODE: i32 = 1;

/// How a child ended.
#[derive(Serialize)]
pub(super) struct Died {
    /// The message of the FATAL line.
    pub(super) fatal: Option<String>,
    thread: Option<String>,
    /// `None` when a signal ended it.
    exit_code: Option<i32>,
}

pub(super) fn run(engine: &str, dataset: &Dataset, dir: &Path, report: &mut Report) -> Result<Died> {
    let mut child = Running(spawn(engine, dataset, dir)?);
    let mut pipe = child.0.stderr.take().expect("stderr is piped");
    let reader = thread::Builder::new().name("child-stderr".into()).spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is looked at all the same.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let reader = reader.map_err(Error::io("start a thread"))?;
    let status = child.wait()?;
    let stderr = reader.join().unwrap_or_default();

    let exit_code = status.code();
    let fatal = stderr.lines().find_map(FatalLine::parse);
    let said = fatal.as_ref().map(|fatal| fatal.message.as_str());
    let says_it = report.expect("the child's FATAL line says", said.unwrap_or("nothing"), TIKV_WORDS);
    match &fatal {
        Some(fatal) => report.detail(&fatal.shown),
        None => report.detail("there is no FATAL line on its stderr, which ends with:"),
    }
    let is_dead =
        report.check(exit_code == Some(TIKV_EXIT_CODE), &format!("the process of its three stores is gone: {status}"));
    if !says_it || !is_dead {
        stderr.lines().rev().take(10).collect::<Vec<_>>().iter().rev().for_each(|line| report.detail(line));
    }
    let (fatal, thread) = fatal.map(|fatal| (fatal.message, fatal.thread)).unzip();
    Ok(Died { fatal, thread: thread.flatten(), exit_code })
}

fn spawn(engine: &str, dataset: &Dataset, dir: &Path) -> Result<Child> {
    let binary = env::current_exe().map_err(Error::io("find this binary"))?;
    Command::new(binary)
        .args(["demo", "--unguarded", "--engine", engine])
        .args(["--rows", &dataset.rows().to_string()])
        .args(["--versions", &dataset.versions().to_string()])
        .args(["--value-size", &dataset.value_bytes().to_string()])
        .arg("--data-dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("start the child process"))
}

/// Killed when it is dropped.
struct Running(Child);

impl Running {
    fn wait(&mut self) -> Result<ExitStatus> {
        let status = waiting::until_some("the child process to end", || self.0.try_wait().transpose())?;
        status.map_err(Error::io("wait for the child process"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A FATAL line of the unified log format.
struct FatalLine {
    message: String,
    thread: Option<String>,
    /// The line without its backtrace.
    shown: String,
}

impl FatalLine {
    /// `None` when `line` is not one.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("] [FATAL] [")?;
        let (_, rest) = rest.split_once("] [")?;
        let message = text(rest)?;
        let field = |name: &str| text(line.split_once(&format!(" [{name}="))?.1);
        let shown = match line.split_once(" [backtrace=").zip(line.rsplit_once(" [location=")) {
            Some(((head, _), (_, tail))) => format!("{head} [backtrace=…] [location={tail}"),
            None => line.to_owned(),
        };
        Some(Self { message, thread: field("thread_name"), shown })
    }
}

/// The text that `rest` begins with: a JSON string, or what there is up to the bracket.
fn text(rest: &str) -> Option<String> {
    if rest.starts_with('"') {
        serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok()
    } else {
        Some(rest.split_once(']')?.0.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[2024/12/23 15:03:27.079 +00:00] [FATAL] [panic_hook.rs:35]";

    #[test]
    fn fatal_line_is_taken_apart() {
        let line = format!(
            "{HEAD} [\"assertion failed: !region.get_peers().is_empty()\"] [backtrace=\"   0: a\\n  1: [b=\\\"]\"] \
             [location=components/keys/src/lib.rs:57:5] [thread_name=store-3]"
        );
        let fatal = FatalLine::parse(&line).unwrap();
        assert_eq!(fatal.message, TIKV_WORDS);
        assert_eq!(fatal.thread.as_deref(), Some("store-3"));
        assert_eq!(
            fatal.shown,
            format!(
                "{HEAD} [\"{TIKV_WORDS}\"] [backtrace=…] [location=components/keys/src/lib.rs:57:5] [thread_name=store-3]"
            )
        );
    }

    #[test]
    fn other_lines_are_not_taken_for_one() {
        for line in ["", "[FATAL]", &HEAD.replace("FATAL", "ERROR"), HEAD, &format!("{HEAD} [\"no end")] {
            assert!(FatalLine::parse(line).is_none(), "{line}");
        }
        assert_eq!(FatalLine::parse(&format!("{HEAD} [bare]")).unwrap().message, "bare");
    }
}
