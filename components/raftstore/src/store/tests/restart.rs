//! What a store finds when it starts.

use engine_traits::{Cf, KvEngine, WriteBatch};

use super::harness::{Harness, REGION_ID, put};

/// A killed process leaves writes that were never synced. Its successor counts the entries among them as its own: it
/// acknowledges them, and campaigns with them. A power failure after that must not take them away.
#[test]
fn entries_that_a_start_finds_survive_a_power_failure() {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    harness.must_put(1, b"a", b"1");
    let durable = harness.status(1).unwrap().last_index;
    harness.node(1).hold_log = true;
    harness.command(1, put(b"b", b"2"));
    harness.write_unsynced(1);
    harness.restart(1);
    assert_eq!(harness.status(1).unwrap().last_index, durable + 1);
    harness.power_failure();
    assert_eq!(harness.status(1).unwrap().last_index, durable + 1);
}

/// The same for a vote.
#[test]
fn vote_that_a_start_finds_survives_a_power_failure() {
    let mut harness = Harness::new(&[1]);
    harness.node(1).hold_log = true;
    harness.tick_until("a vote that is being written", |harness| harness.held_writes(1) > 0);
    harness.write_unsynced(1);
    let vote = |harness: &mut Harness| {
        let state = engine_traits::LogStore::raft_state(&harness.node(1).log, REGION_ID).unwrap().unwrap();
        (state.get_hard_state().get_term(), state.get_hard_state().get_vote())
    };
    harness.restart(1);
    let found = vote(&mut harness);
    assert_ne!(found.1, 0);
    harness.power_failure();
    assert_eq!(vote(&mut harness), found);
}

/// The same for the data engine: a region that was just split off is known from there only, and its peer votes.
#[test]
fn data_that_a_start_finds_survives_a_power_failure() {
    let mut harness = Harness::new(&[1]);
    let mut batch = WriteBatch::new();
    batch.put(Cf::Default, &keys::data_key(b"a"), b"1");
    harness.node(1).kv.write(&batch).unwrap();
    harness.restart(1);
    harness.power_failure();
    assert_eq!(harness.get(1, b"a").as_deref(), Some(&b"1"[..]));
}
