//! Stores that are killed under load lose nothing that they acknowledged.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, unbounded};
use engine_traits::{Cf, Snapshot as _};
use test_raftstore::{Cluster, ClusterConfig, REGION_ID};

const ROUNDS: u64 = 3;
const ACKS_BEFORE_KILL: usize = 200;
/// Between two acknowledgements; the first one waits for an election.
const ACK_DEADLINE: Duration = Duration::from_secs(60);

/// Kills the process when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the load until enough was acknowledged, kills it, and returns all keys that it has acknowledged.
fn acknowledged_until_killed(data_dir: &Path, first: u64) -> BTreeSet<u64> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_preload-node"));
    command.arg("write-load").arg("--data-dir").arg(data_dir).args(["--first", &first.to_string()]);
    let mut load = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let acks = read_acks(&mut load.0);
    let mut acknowledged: BTreeSet<u64> =
        (0..ACKS_BEFORE_KILL).map(|_| acks.recv_timeout(ACK_DEADLINE).expect("an acknowledgement")).collect();
    load.0.kill().unwrap();
    // What is in the pipe was acknowledged as well; it ends, as its writer is dead.
    acknowledged.extend(acks);
    acknowledged
}

fn read_acks(load: &mut Child) -> Receiver<u64> {
    let (sender, receiver) = unbounded();
    let mut stdout = BufReader::new(load.stdout.take().unwrap());
    let read = move || {
        let mut line = String::new();
        // A line that was cut off has no end, and is no acknowledgement.
        while stdout.read_line(&mut line).is_ok() && line.ends_with('\n') {
            let key = line.trim_end().strip_prefix("ack ").and_then(|key| key.parse().ok());
            sender.send(key.unwrap_or_else(|| panic!("not an acknowledgement: {line:?}"))).unwrap();
            line.clear();
        }
    };
    thread::Builder::new().name("acks".into()).spawn(read).unwrap();
    receiver
}

#[test]
fn killed_stores_lose_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let first = acknowledged.last().map_or(0, |key| key + 1);
        acknowledged.extend(acknowledged_until_killed(dir.path(), first));

        let config = ClusterConfig { data_dir: Some(dir.path().to_owned()), ..ClusterConfig::default() };
        let cluster = Cluster::start(config).unwrap();
        let snapshot = cluster.must_snapshot(REGION_ID, u64::MAX).snapshot;
        let is_lost = |key: &&u64| {
            let bytes = key.to_be_bytes();
            snapshot.get_value(Cf::Default, &keys::data_key(&bytes)).unwrap().as_deref() != Some(&bytes[..])
        };
        let lost: Vec<_> = acknowledged.iter().filter(is_lost).collect();
        assert!(lost.is_empty(), "round {round}: {} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
    }
}
