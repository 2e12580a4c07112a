//! A node that is killed under load, again and again, loses nothing and shows nothing that is old.
//!
//! Writers count up values of keys of their own; readers look over their shoulders. After a random number of
//! acknowledgements the process is killed. The next start has to come up by itself, with every acknowledged version in its
//! place, and the pinned range has to become warm again.
//!
//! `PRELOAD_KILLS` says how often, `PRELOAD_KILL_SEED` repeats the moments: `make kill-test` sets the first to 50.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use test_raftstore::wait;
use tikv_util::time::{Clock as _, MonotonicClock};

use crate::support::{Http, Node, hex, unhex};

const KILLS: u64 = 5;
const WRITERS: usize = 3;
const READERS: usize = 1;
const KEYS: usize = 8;
/// A kill comes after so many acknowledgements at most.
const ACKS_MAX: u64 = 150;
/// Acknowledged versions that are read again after each start.
const OLD_VERSIONS: usize = 40;

/// Everything is kept warm.
const PINNED: &str = "[[preload.pinned]]\nstart-key = \"\"\nend-key = \"\"\n";

/// What is known of a key. One writer writes it.
struct Key {
    name: String,
    /// The greatest value that was acknowledged or read.
    seen: AtomicU64,
    /// The greatest value that was tried.
    tried: AtomicU64,
}

/// A version that was acknowledged.
#[derive(Clone)]
struct Version {
    key: usize,
    value: u64,
    /// As the node writes it.
    commit_ts: String,
}

struct Load {
    keys: Vec<Key>,
    acknowledged: Mutex<Vec<Version>>,
    acks: AtomicU64,
    reads: AtomicU64,
    /// What must never be.
    faults: Mutex<Vec<String>>,
}

impl Load {
    fn new() -> Self {
        let key = |n| Key { name: format!("key-{n:02}"), seen: AtomicU64::new(0), tried: AtomicU64::new(0) };
        Self {
            keys: (0..WRITERS * KEYS).map(key).collect(),
            acknowledged: Mutex::default(),
            acks: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            faults: Mutex::default(),
        }
    }

    /// Writes until the node is gone.
    fn write(&self, http: &Http, writer: usize, random: &mut StdRng, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let at = writer * KEYS + random.random_range(0..KEYS);
            let key = &self.keys[at];
            let value = key.tried.fetch_add(1, Ordering::SeqCst) + 1;
            let body = json!({ "key": hex(&key.name), "value": hex(&value.to_string()) });
            let Ok(answer) = http.try_send("POST", "/kv/put", Some(body)) else { return };
            if answer.status == 200 {
                let commit_ts = answer.json()["commit_ts"].as_str().unwrap().to_owned();
                key.seen.fetch_max(value, Ordering::SeqCst);
                self.acknowledged.lock().push(Version { key: at, value, commit_ts });
                self.acks.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn read(&self, http: &Http, random: &mut StdRng, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let at = random.random_range(0..self.keys.len());
            if self.check_newest(http, at).is_none() {
                return;
            }
        }
    }

    /// Reads a key and compares; `None` when the node is gone.
    fn check_newest(&self, http: &Http, at: usize) -> Option<()> {
        let key = &self.keys[at];
        let least = key.seen.load(Ordering::SeqCst);
        let answer = http.try_send("POST", "/kv/get", Some(json!({ "key": hex(&key.name) }))).ok()?;
        let most = key.tried.load(Ordering::SeqCst);
        if answer.status == 200 {
            let found = value_of(&answer.json());
            if !(least..=most).contains(&found) {
                self.faults.lock().push(format!("stale: {} is {found}, not {least} to {most}", key.name));
            }
            // What was read once must not go away.
            key.seen.fetch_max(found, Ordering::SeqCst);
            self.reads.fetch_add(1, Ordering::SeqCst);
        }
        Some(())
    }

    /// Looks for acknowledged versions where they were.
    fn check_old(&self, node: &Node, random: &mut StdRng) {
        let acknowledged = self.acknowledged.lock().clone();
        let newest = acknowledged.iter().rev().take(OLD_VERSIONS / 2);
        let any =
            (0..OLD_VERSIONS / 2).filter_map(|_| acknowledged.get(random.random_range(0..acknowledged.len().max(1))));
        for Version { key, value, commit_ts } in newest.chain(any) {
            let name = &self.keys[*key].name;
            let got = node.post("/kv/get", json!({ "key": hex(name), "ts": commit_ts }));
            if value_of(&got) != *value || got["commit_ts"] != *commit_ts {
                self.faults.lock().push(format!("lost: {name} = {value} of {commit_ts} is {got}"));
            }
        }
    }
}

/// 0 when there is none.
fn value_of(got: &serde_json::Value) -> u64 {
    got["value"].as_str().map_or(0, |value| unhex(value).parse().unwrap())
}

/// Runs the load until `acks` more are acknowledged, and kills the node.
fn kill_under_load(node: Node, load: &Arc<Load>, acks: u64, random: &mut StdRng) {
    let stop = Arc::new(AtomicBool::new(false));
    let enough = load.acks.load(Ordering::SeqCst) + acks;
    let spawn = |n: usize, seed: u64| {
        let (load, stop, http) = (load.clone(), stop.clone(), node.http());
        let mut random = StdRng::seed_from_u64(seed);
        let work = move || match n {
            n if n < WRITERS => load.write(&http, n, &mut random, &stop),
            _ => load.read(&http, &mut random, &stop),
        };
        thread::Builder::new().name(format!("load-{n}")).spawn(work).unwrap()
    };
    let threads: Vec<_> = (0..WRITERS + READERS).map(|n| spawn(n, random.next_u64())).collect();
    wait::until("acknowledgements", || load.acks.load(Ordering::SeqCst) >= enough);
    node.kill();
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Waits until all regions are warm on the stores that lead them, and a read of each comes from memory.
fn wait_for_warm(node: &Node) {
    wait::until("warm regions", || {
        let regions = node.get("/regions");
        regions["regions"].as_array().unwrap().iter().all(|region| {
            let peers = region["peers"].as_array().unwrap();
            let leader = peers.iter().find(|peer| peer["store_id"] == region["leader"]["store_id"]);
            leader.is_some_and(|peer| peer["cache"]["state"] == "active")
        })
    });
    wait::until("reads from memory", || {
        let scanned = node.post("/kv/scan", json!({ "limit": 10000 }));
        scanned["sources"].as_array().unwrap().iter().all(|source| source["source"] == "memory")
    });
}

/// What keeps regions from being where they were: sometimes a split, sometimes leadership moves.
fn change_something(node: &Node, round: u64, random: &mut StdRng) {
    let regions = node.get("/regions");
    let regions = regions["regions"].as_array().unwrap();
    let id = regions[random.random_range(0..regions.len())]["id"].as_u64().unwrap();
    let (path, body) = match round % 3 {
        0 if regions.len() < 6 => ("split", json!({})),
        1 => ("transfer-leader", json!({ "store": random.random_range(1..4) })),
        _ => return,
    };
    // A region of a single key is not split, and that is fine.
    let answer = node.http().send("POST", &format!("/regions/{id}/{path}"), Some(body));
    assert!(answer.status == 200 || answer.status == 409, "{answer:?}");
}

#[test]
fn killed_node_loses_no_acknowledged_write_and_is_warm_again() {
    let kills = std::env::var("PRELOAD_KILLS").map_or(KILLS, |kills| kills.parse().expect("PRELOAD_KILLS is a number"));
    let seed =
        std::env::var("PRELOAD_KILL_SEED").map_or_else(|_| std::process::id().into(), |seed| seed.parse().unwrap());
    println!("{kills} kills, PRELOAD_KILL_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let load = Arc::new(Load::new());
    let clock = MonotonicClock::new();
    let (mut starts, mut warm_ups): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
    for round in 0..=kills {
        if round % 5 == 4 {
            // In the middle of a start.
            Node::spawn(dir.path(), &[], PINNED).kill();
        }
        let began = clock.now();
        let node = Node::start_with(dir.path(), &[], PINNED);
        starts.push(clock.now() - began);
        (0..load.keys.len()).for_each(|at| load.check_newest(&node.http(), at).expect("the node runs"));
        load.check_old(&node, &mut random);
        wait_for_warm(&node);
        warm_ups.push(clock.now() - began);
        // Once more, from memory.
        (0..load.keys.len()).for_each(|at| load.check_newest(&node.http(), at).expect("the node runs"));
        let faults = load.faults.lock();
        assert!(faults.is_empty(), "round {round}, PRELOAD_KILL_SEED={seed}: {faults:#?}");
        drop(faults);
        if round == kills {
            node.stop();
            break;
        }
        change_something(&node, round, &mut random);
        kill_under_load(node, &load, random.random_range(1..=ACKS_MAX), &mut random);
    }
    let fatal = std::fs::read_to_string(dir.path().join("node.log")).unwrap();
    assert!(!fatal.contains("[FATAL]"), "{fatal}");
    let (acks, reads) = (load.acks.load(Ordering::SeqCst), load.reads.load(Ordering::SeqCst));
    let slowest = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    println!(
        "{kills} kills: {acks} writes acknowledged, 0 lost; {reads} reads, 0 stale; start to ready {:.2?} (median) to \
         {:.2?}, start to warm {:.2?} to {:.2?}",
        median(&mut starts),
        slowest(&starts),
        median(&mut warm_ups),
        slowest(&warm_ups),
    );
}
