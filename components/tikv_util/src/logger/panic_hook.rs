//! One FATAL line per panic, then the end of the process.
//!
//! A store whose thread died answers no one and still holds its leases, so half a store is worse than none: as in
//! TiKV, any panic on any thread ends the process with exit code 1. Other threads are not unwound; whatever they had
//! not synced is lost, as in a crash, and recovery must cope with that anyway.

use std::{backtrace::Backtrace, panic, process, thread};

use super::GLOBAL;

/// Makes every later panic log its message at level FATAL, with the fields `backtrace`, `location` and `thread_name`,
/// and end the process with exit code 1.
///
/// Before [`init`](super::init) the message goes to the hook that was set before this one, by default to stderr.
///
/// Not for processes that expect panics, such as test harnesses: `catch_unwind` never sees one again.
pub fn set_panic_hook() {
    let previous_hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if GLOBAL.get().is_none() {
            previous_hook(panic);
            process::exit(1);
        }
        let message = panic.payload_as_str().unwrap_or("panic with a payload that is not a string");
        let location = panic.location().map(ToString::to_string);
        crate::crit!("{message}";
            "backtrace" => %Backtrace::force_capture(),
            "location" => location.as_deref().unwrap_or("<unknown>"),
            "thread_name" => thread::current().name().unwrap_or("<unnamed>"),
        );
        process::exit(1);
    }));
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        process::{Command, Output},
        thread,
    };

    use super::*;
    use crate::logger;

    const ROLE: &str = "TIKV_UTIL_PANIC_HOOK_TEST";

    /// Runs the test of this name again in a process of its own, where it takes the role `role`.
    fn run_as(role: &str, test: &str) -> Output {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .output()
            .unwrap()
    }

    fn panic_on_store_thread() {
        set_panic_hook();
        let peers: Vec<u64> = Vec::new();
        let store =
            thread::Builder::new().name("store-1".to_owned()).spawn(move || assert!(!peers.is_empty())).unwrap();
        // Ends with the process: a hook that returns fails the test by another exit code.
        let _ = store.join();
    }

    #[test]
    fn a_panic_logs_one_fatal_line_and_exits_with_code_1() {
        if env::var_os(ROLE).is_some() {
            logger::init(logger::Config::default()).unwrap();
            return panic_on_store_thread();
        }
        let output = run_as("logged", "logger::panic_hook::tests::a_panic_logs_one_fatal_line_and_exits_with_code_1");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let (head, rest) = stderr.split_once("] [FATAL] [panic_hook.rs:").unwrap();
        assert!(head.starts_with('['), "{stderr}");
        let (_, rest) = rest
            .split_once(r#"] ["assertion failed: !peers.is_empty()"] [backtrace=""#)
            .unwrap_or_else(|| panic!("{stderr}"));
        let (backtrace, rest) = rest.split_once("\"] [location=").unwrap();
        assert!(backtrace.contains("panic_on_store_thread"), "{backtrace}");
        assert!(rest.contains("panic_hook.rs:"), "{rest}");
        assert!(rest.ends_with("] [thread_name=store-1]\n"), "{rest}");
    }

    #[test]
    fn a_panic_before_init_reaches_stderr_and_exits_with_code_1() {
        if env::var_os(ROLE).is_some() {
            return panic_on_store_thread();
        }
        let output =
            run_as("not_logged", "logger::panic_hook::tests::a_panic_before_init_reaches_stderr_and_exits_with_code_1");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("assertion failed: !peers.is_empty()"), "{stderr}");
    }
}
