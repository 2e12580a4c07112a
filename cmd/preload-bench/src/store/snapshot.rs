//! What it takes to bring a new replica up, of a region that holds much.
//!
//! **Owns** the child process that does it, and what it measures of itself.
//!
//! **How it works.**
//! 1. A cluster whose region is on the first store alone is filled with values of 1 MiB that cannot be compressed, and closed.
//! 2. For each sample the program starts itself with the hidden command `serve-snapshot`. The child opens the cluster, looks
//!    at its memory, adds a learner on the second store, and waits until that has applied its snapshot. Then it says how long
//!    that took and how much memory it had at most (`VmHWM` in `/proc/self/status`, reset before by `/proc/self/clear_refs`).
//! 3. It removes the learner again, for the next sample.
//!
//! **Invariants.** A sample is a process of its own: nothing that an earlier snapshot has left in memory counts.
//!
//! **Must not** count what the cluster had before.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use engine_traits::Cf;
use raft::eraftpb::ConfChangeType;
use raftstore::store::new_peer;
use test_raftstore::{Cluster, ClusterConfig, REGION_ID, requests, wait};

use super::SnapshotOptions;
use crate::report::{Case, Figure};

const MIB: usize = 1 << 20;

pub(super) fn figures(mib: u32, runs: u32) -> Vec<Figure> {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    fill(&start(dir.path()), mib);
    let measured: Vec<_> = (0..runs).map(|run| measure(dir.path(), run)).collect();
    let figure = |what: &str, unit, value: fn(&(f64, f64)) -> f64| {
        let case = Case { bench: "raftstore", case: format!("snapshot_{mib}_mib_{what}").into(), unit };
        case.alone("new replica", measured.iter().map(value).collect())
    };
    vec![figure("time", "ms", |(millis, _)| *millis), figure("memory_added", "MiB", |(_, mib)| *mib)]
}

fn start(dir: &Path) -> Cluster {
    let config = ClusterConfig {
        stores: 2,
        first_region_on: vec![1],
        raftstore: raftstore::store::Config::default(),
        data_dir: Some(dir.to_owned()),
        ..ClusterConfig::default()
    };
    Cluster::start(config).unwrap_or_else(|error| panic!("cannot start a cluster in {}: {error}", dir.display()))
}

fn fill(cluster: &Cluster, mib: u32) {
    let mut state = 1u64;
    for i in 0..mib {
        let random = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        let value: Vec<u8> = random.take(MIB).collect();
        cluster.must_write(REGION_ID, vec![requests::put(Cf::Default, format!("k{i:06}").as_bytes(), &value)]);
    }
}

/// Milliseconds and MiB of one child.
fn measure(dir: &Path, run: u32) -> (f64, f64) {
    let program = std::env::current_exe().expect("this program knows where it is");
    let mut command = Command::new(program);
    command.arg("serve-snapshot").arg("--dir").arg(dir).args(["--peer-id", &(1000 + run).to_string()]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("this program can be started again");
    let mut said = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut said).expect("the child prints text");
    let status = child.wait().expect("it is a child");
    let mut numbers = said.split_ascii_whitespace().map(str::parse::<f64>);
    match (status.success(), numbers.next(), numbers.next()) {
        (true, Some(Ok(millis)), Some(Ok(mib))) => (millis, mib),
        _ => panic!("the child ended with {status} and said {said:?}"),
    }
}

/// The child.
pub(crate) fn serve(options: &SnapshotOptions) {
    let cluster = start(&options.dir);
    cluster.wait_for_leader(REGION_ID);
    let before = resident_mib("VmRSS:");
    fs::write("/proc/self/clear_refs", "5").expect("proc(5) has it");
    let begin = now();
    let learner = new_peer(2, options.peer_id);
    cluster.must_change_peer(REGION_ID, ConfChangeType::AddLearnerNode, learner.clone());
    until("the snapshot to be applied", || {
        cluster.status(2, REGION_ID).is_some_and(|status| status.is_initialized() && !status.applying_snapshot)
    });
    let millis = begin.elapsed().as_secs_f64() * 1000.0;
    println!("{millis} {}", resident_mib("VmHWM:") - before);
    cluster.must_change_peer(REGION_ID, ConfChangeType::RemoveNode, learner);
    until("the learner to be gone", || cluster.status(2, REGION_ID).is_none());
}

/// Longer than a test would wait.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let happened = wait::within(Duration::from_secs(300), || condition().then_some(()));
    assert!(happened.is_some(), "timed out waiting for {what}");
}

fn resident_mib(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc(5) has it");
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or_else(|| panic!("no {field} in {status}")) / 1024.0
}

#[allow(clippy::disallowed_methods)] // Measuring time is what this crate is for.
fn now() -> Instant {
    Instant::now()
}
