//! Regression tests that need a failpoint: races of real threads, on real disks.
//!
//! Each test has a process of its own (the registry of failpoints is process-wide); see README.md beside this file.

mod child;
mod loads;
mod panic_path;
mod snapshots;
mod storage;
#[path = "../tests/support.rs"]
mod support;
mod worker;

/// Sets a failpoint until it is dropped.
#[must_use]
fn set(name: &str, actions: &str) -> fail::FailGuard {
    fail::FailGuard::new(name, actions).unwrap_or_else(|error| panic!("failpoint {name}: {error}"))
}
