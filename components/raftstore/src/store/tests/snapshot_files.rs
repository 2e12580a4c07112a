//! Snapshots on their way: chunks that are lost and changed, stores that are killed at every step, files that are there as
//! long as somebody needs them and no longer.

use std::collections::BTreeSet;

use engine_traits::{Cf, FileStore, KvEngine};
use kvproto::raft_serverpb::SnapshotChunk;
use raft::eraftpb::{ConfChangeType, MessageType};

use super::harness::{ChunkFate, Harness, change_peer, put, transfer_leader};
use crate::store::{core::Delivery, core::Input, data, new_peer};

/// Blocks that the data of [`with_blocks`] makes; one more holds a small value.
const BLOCKS: usize = 4;

/// Store 1 leads alone, with data in some blocks and two column families.
fn with_blocks() -> Harness {
    let mut harness = Harness::new(&[1]);
    harness.elect(1);
    for i in 0..BLOCKS as u8 {
        harness.must_put(1, &[b'b', i], &vec![i; 300 << 10]);
    }
    let mut lock = put(b"k", b"lock");
    lock.mut_requests()[0].mut_put().set_cf("lock".into());
    harness.must(1, lock);
    harness.must_put(1, b"k", b"v");
    harness
}

fn add_peer(harness: &mut Harness) {
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 1003));
}

fn has_all(harness: &mut Harness, store_id: u64) -> bool {
    harness.status(store_id).is_some_and(|status| !status.applying_snapshot)
        && (0..BLOCKS as u8).all(|i| harness.get(store_id, &[b'b', i]) == Some(vec![i; 300 << 10]))
        && harness.get(store_id, b"k").as_deref() == Some(b"v")
}

fn install_all(harness: &mut Harness, store_id: u64) {
    while !harness.node(store_id).snapshots.is_empty() {
        harness.install_snapshot(store_id);
    }
}

/// Ticks until store 3 has all that store 1 has, and says so.
#[track_caller]
fn catch_up(harness: &mut Harness) {
    harness.tick_until("store 3 to have everything", |harness| {
        install_all(harness, 3);
        has_all(harness, 3)
    });
}

fn files(harness: &mut Harness, store_id: u64) -> Vec<String> {
    harness.node(store_id).files.list().unwrap()
}

#[track_caller]
fn assert_no_files(harness: &mut Harness) {
    for store_id in 1..=3 {
        assert_eq!(files(harness, store_id), [""; 0], "store {store_id}");
    }
}

/// Where an end of the transfer did not hear how it ended, it removes its files when nobody has asked for long.
#[track_caller]
fn wait_for_no_files(harness: &mut Harness) {
    harness.tick_until("no files to be left", |harness| {
        for store_id in 1..=3 {
            harness.node(store_id).receiver.tick();
        }
        (1..=3).all(|store_id| files(harness, store_id).is_empty())
    });
}

/// The `n`th chunk from now on, the first being 0, meets `fate`.
fn at_chunk(harness: &mut Harness, n: usize, fate: ChunkFate) {
    let mut seen = 0;
    harness.on_chunk = Box::new(move |_| {
        seen += 1;
        if seen == n + 1 { fate } else { ChunkFate::Arrives }
    });
}

fn corrupt_from(harness: &mut Harness, n: usize, until: usize) {
    let mut seen = 0;
    harness.on_chunk = Box::new(move |chunk: &mut SnapshotChunk| {
        seen += 1;
        if (n..until).contains(&seen)
            && let Some(byte) = chunk.mut_data().last_mut()
        {
            *byte ^= 1;
        }
        ChunkFate::Arrives
    });
}

#[test]
fn snapshot_travels_in_blocks_and_leaves_no_files_behind() {
    let mut harness = with_blocks();
    add_peer(&mut harness);
    harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
    // A message, four large blocks, one with the small value, and one of the other family.
    assert_eq!((harness.chunks, &harness.deliveries[..]), (1 + BLOCKS + 1 + 1, &[Delivery::Done][..]));
    let names = files(&mut harness, 3);
    assert!(names.len() == 2 && names[0].starts_with("rev_1_") && names[0].ends_with("_default"), "{names:?}");
    assert!(names[1].ends_with("_lock"), "{names:?}");
    assert_eq!(files(&mut harness, 1), [""; 0], "the sender has done with it");
    catch_up(&mut harness);
    assert_no_files(&mut harness);
    let lock = harness.node(3).kv.get_value(Cf::Lock, b"zk").unwrap();
    assert_eq!(lock.unwrap(), b"lock");
}

#[test]
fn transfer_resumes_where_it_was_interrupted_wherever_that_was() {
    let whole = 1 + BLOCKS + 2;
    for lost in 0..whole {
        for fate in [ChunkFate::Lost, ChunkFate::AnswerLost] {
            let mut harness = with_blocks();
            at_chunk(&mut harness, lost, fate);
            add_peer(&mut harness);
            catch_up(&mut harness);
            wait_for_no_files(&mut harness);
            assert_eq!(harness.deliveries[0], Delivery::Interrupted);
            if fate == ChunkFate::Lost {
                // The same chunks, each once, and a second message.
                assert_eq!(harness.chunks, whole + usize::from(lost > 0), "chunk {lost} was lost");
                assert_eq!(harness.deliveries, [Delivery::Interrupted, Delivery::Done]);
            }
        }
    }
}

#[test]
fn changed_chunk_is_refused_with_all_that_has_arrived_and_a_new_snapshot_is_sent() {
    for changed in 1..=BLOCKS + 2 {
        let mut harness = with_blocks();
        corrupt_from(&mut harness, changed + 1, changed + 2);
        harness.lost_types = vec![MessageType::MsgHeartbeat];
        add_peer(&mut harness);
        harness.lost_types.clear();
        harness.tick_until("a refused snapshot", |harness| !harness.deliveries.is_empty());
        assert_eq!(harness.deliveries, [Delivery::Broken], "chunk {changed}");
        assert!(files(&mut harness, 3).is_empty() && harness.status(3).is_none_or(|status| !status.is_initialized()));
        catch_up(&mut harness);
        assert_eq!(harness.deliveries, [Delivery::Broken, Delivery::Done]);
        assert_no_files(&mut harness);
    }
}

#[test]
fn sender_that_cannot_read_its_own_files_makes_new_ones() {
    let mut harness = with_blocks();
    at_chunk(&mut harness, 1, ChunkFate::Lost);
    add_peer(&mut harness);
    harness.tick_until("an interrupted transfer", |harness| !harness.deliveries.is_empty());
    let names = files(&mut harness, 1);
    assert!(names.iter().all(|name| name.starts_with("gen_1_")) && names.len() == 2, "{names:?}");
    harness.node(1).files.remove(&names[0]).unwrap();
    catch_up(&mut harness);
    assert_eq!(harness.deliveries, [Delivery::Interrupted, Delivery::Broken, Delivery::Done]);
    assert_no_files(&mut harness);
}

#[test]
fn receiver_that_is_killed_while_it_receives_begins_anew() {
    for killed in 0..BLOCKS + 3 {
        let mut harness = with_blocks();
        // The last one: the files have their names, and the store has not heard of the message.
        at_chunk(&mut harness, killed, ChunkFate::ReceiverKilled);
        add_peer(&mut harness);
        harness.tick_until("an interrupted transfer", |harness| !harness.deliveries.is_empty());
        assert_eq!(files(&mut harness, 3), [""; 0], "a restart removes what no pending snapshot needs");
        catch_up(&mut harness);
        assert_eq!(harness.deliveries, [Delivery::Interrupted, Delivery::Done]);
        assert_no_files(&mut harness);
    }
}

#[test]
fn power_failure_and_killed_sender_at_each_chunk_leave_no_files_and_lose_nothing() {
    for n in 0..BLOCKS + 3 {
        for fate in [ChunkFate::PowerFails, ChunkFate::SenderKilled] {
            let mut harness = with_blocks();
            harness.node(1).kv.sync().unwrap();
            at_chunk(&mut harness, n, fate);
            // Nobody is left to be answered.
            harness.command(1, change_peer(ConfChangeType::AddLearnerNode, new_peer(3, 1003)));
            harness.tick_until("a restart", |harness| harness.chunks > n);
            harness.on_chunk = Box::new(|_| ChunkFate::Arrives);
            harness.elect(1);
            catch_up(&mut harness);
            // What the killed sender has left on the receiver has made way for the snapshot of the restarted one.
            wait_for_no_files(&mut harness);
        }
    }
}

#[test]
fn power_failure_at_each_change_of_the_receivers_files_loses_nothing() {
    let mut seen = BTreeSet::new();
    for n in 0.. {
        for survives in [0, usize::MAX] {
            let mut harness = with_blocks();
            harness.node(3).files.fail_after(n);
            add_peer(&mut harness);
            harness.tick_until("a transfer's end", |harness| !harness.deliveries.is_empty());
            let has_failed = harness.node(3).files.has_failed();
            seen.insert(has_failed);
            harness.nodes.clear();
            harness.network.clear();
            harness.disk.crash_with(|path, unsynced| match path.to_str() {
                Some("snap-3") => unsynced.min(survives),
                _ => unsynced,
            });
            (1..=3).for_each(|store_id| harness.start(store_id));
            harness.elect(1);
            catch_up(&mut harness);
            wait_for_no_files(&mut harness);
            if !has_failed && survives == usize::MAX {
                assert_eq!(seen.len(), 2, "it failed at first, and then there was nothing left to fail");
                return;
            }
        }
    }
}

#[test]
fn accepted_snapshot_is_applied_again_after_a_power_failure_at_each_write_of_applying_it() {
    let mut failed = 0;
    for n in 0.. {
        let mut has_ended = false;
        for survives in [0, 1, 2, usize::MAX] {
            let mut harness = with_blocks();
            add_peer(&mut harness);
            harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
            let node = harness.node(3);
            node.kv.fail_write_after(n);
            let task = node.snapshots.pop_front().unwrap();
            has_ended = data::install_snapshot(&node.kv, &node.host, &node.dir, &task).is_ok();
            failed += usize::from(!has_ended);
            harness.nodes.clear();
            harness.network.clear();
            harness.disk.crash_with(|path, unsynced| match path.to_str() {
                Some("kv-3") => unsynced.min(survives),
                Some(path) if path.starts_with("kv") => unsynced,
                _ => 0,
            });
            (1..=3).for_each(|store_id| harness.start(store_id));
            let status = harness.status(3).unwrap();
            assert!(status.is_initialized());
            assert_eq!(status.applying_snapshot, !has_ended, "nothing is read from what is half there");
            assert_eq!(files(&mut harness, 3).len(), if has_ended { 0 } else { 2 }, "as long as they are needed");
            harness.elect(1);
            catch_up(&mut harness);
            assert_no_files(&mut harness);
        }
        if has_ended {
            break;
        }
    }
    assert_eq!(failed, 4 * 4, "three column families, and the region's state");
}

#[test]
fn pending_snapshot_without_its_files_stops_the_store_by_their_name() {
    let mut harness = with_blocks();
    add_peer(&mut harness);
    harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
    let name = files(&mut harness, 3).remove(0);
    let size_bytes = harness.node(3).files.size_bytes(&name).unwrap().unwrap();
    let dir = harness.node(3).dir.clone();
    let recover = |harness: &mut Harness| {
        let error = dir.recover(harness.core(3).pending_snapshots()).unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    };

    harness.node(3).files.corrupt(&name, 5000);
    let node = harness.node(3);
    let task = node.snapshots.pop_front().unwrap();
    let error = data::install_snapshot(&node.kv, &node.host, &node.dir, &task).unwrap_err();
    let error = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.contains(&format!("snap-3/{name}")) && error.contains("checksum"), "{error}");

    harness.node(3).files.append(&name, b"x").unwrap();
    let error = recover(&mut harness);
    assert!(error.contains(&format!("snap-3/{name}")) && error.contains(&(size_bytes + 1).to_string()), "{error}");
    harness.node(3).files.remove(&name).unwrap();
    let error = recover(&mut harness);
    assert!(error.contains(&format!("snap-3/{name}")) && error.contains("missing"), "{error}");
}

#[test]
fn snapshot_that_the_store_refuses_leaves_no_files_and_does_not_keep_the_next_one_out() {
    let mut harness = with_blocks();
    harness.lost_types = vec![MessageType::MsgSnapshot];
    add_peer(&mut harness);
    harness.tick_until("a peer", |harness| harness.status(3).is_some());
    // It lists another peer on this store.
    let mut foreign = harness.snapshot_message(1, 3, b"ahead");
    foreign.mut_to_peer().set_id(1002);
    harness.input(3, Input::RaftMessage(Box::new(foreign)));
    assert_eq!(files(&mut harness, 3), [""; 0]);
    harness.lost_types.clear();
    catch_up(&mut harness);
    assert_no_files(&mut harness);
}

#[test]
fn snapshot_waits_at_the_sender_until_the_receivers_store_has_done_with_the_last_one() {
    let mut harness = with_blocks();
    at_chunk(&mut harness, BLOCKS + 2, ChunkFate::AnswerLost);
    add_peer(&mut harness);
    harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
    for _ in 0..20 {
        harness.tick();
    }
    assert!(harness.deliveries.iter().all(|delivery| *delivery == Delivery::Interrupted), "{:?}", harness.deliveries);
    assert_eq!(harness.node(3).snapshots.len(), 1);
    catch_up(&mut harness);
    wait_for_no_files(&mut harness);
}

#[test]
fn files_go_with_the_peer_that_they_are_for_or_from() {
    // The receiving peer is removed while its snapshot waits, and while it is written down that it was applied.
    for applied in [false, true] {
        let mut harness = with_blocks();
        add_peer(&mut harness);
        harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
        if applied {
            harness.node(3).hold_log = true;
            harness.install_snapshot(3);
            assert!(!files(&mut harness, 3).is_empty(), "the log still says that the snapshot is pending");
        }
        harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 1003));
        harness.tick();
        install_all(&mut harness, 3);
        harness.release_log(3);
        assert!(harness.status(3).is_none() && harness.get(3, b"k").is_none());
        assert_no_files(&mut harness);
        harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 2003));
        catch_up(&mut harness);
        assert_no_files(&mut harness);
    }
    // The sender is no longer asked when it has a snapshot to offer.
    let mut harness = Harness::new(&[1, 2]);
    harness.elect(1);
    harness.must_put(1, b"k", b"v");
    at_chunk(&mut harness, 1, ChunkFate::Lost);
    add_peer(&mut harness);
    harness.tick_until("an interrupted transfer", |harness| !harness.deliveries.is_empty());
    assert!(!files(&mut harness, 1).is_empty());
    harness.must(1, transfer_leader(new_peer(2, 102)));
    harness.tick_until("another leader", |harness| harness.status(2).is_some_and(|status| status.is_leader()));
    harness.tick();
    assert_eq!(files(&mut harness, 1), [""; 0]);
}

#[test]
fn two_new_peers_are_sent_the_same_snapshot() {
    let mut harness = with_blocks();
    harness.lost_types = vec![MessageType::MsgHeartbeat, MessageType::MsgAppend, MessageType::MsgSnapshot];
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(2, 1002));
    harness.must_change_peer(1, ConfChangeType::AddLearnerNode, new_peer(3, 1003));
    let mut keys = BTreeSet::new();
    harness.lost_types.clear();
    harness.tick_until("both to have everything", |harness| {
        keys.extend(files(harness, 1).into_iter().filter(|name| name.ends_with("_default")));
        (2..=3).for_each(|store_id| install_all(harness, store_id));
        (2..=3).all(|store_id| has_all(harness, store_id))
    });
    assert_eq!(harness.deliveries, [Delivery::Done; 2]);
    wait_for_no_files(&mut harness);
}

#[test]
fn files_that_cannot_be_written_fail_the_snapshot_and_not_the_store() {
    let mut harness = with_blocks();
    harness.node(1).files.fail_after(2);
    add_peer(&mut harness);
    for _ in 0..10 {
        harness.tick();
    }
    assert!(harness.node(1).files.has_failed() && harness.deliveries.is_empty());
    harness.must_put(1, b"and", b"on");
    harness.restart(1);
    harness.elect(1);
    catch_up(&mut harness);
    assert_no_files(&mut harness);
}

#[test]
fn peer_whose_snapshot_is_cancelled_half_way_is_destroyed_with_what_is_there() {
    let mut harness = with_blocks();
    add_peer(&mut harness);
    harness.tick_until("an accepted snapshot", |harness| !harness.node(3).snapshots.is_empty());
    let node = harness.node(3);
    node.recorder.take();
    // What an earlier attempt has put in place, before the store was killed.
    let records = [Ok((b"zk".to_vec(), b"v".to_vec()))];
    node.kv.replace_range(Cf::Default, b"z", b"{", records.into_iter()).unwrap();
    // The core does this when the peer is removed; here the worker hears of it before the test removes the peer.
    *node.recorder.cancel_at_pre_apply.lock().unwrap() = Some(node.snapshots[0].cancel.clone());
    let (task, cancelled) = harness.install_data(3);
    assert!(cancelled);
    assert_eq!(harness.node(3).recorder.take(), ["pre_apply_snapshot peers=2", "cancel_apply_snapshot"]);
    harness.must_change_peer(1, ConfChangeType::RemoveNode, new_peer(3, 1003));
    harness.tick();
    assert!(harness.status(3).is_some() && harness.get(3, b"k").is_some(), "the core has not heard of it");
    harness.input(3, Input::SnapshotApplied { tag: task.tag, cancelled });
    assert!(harness.status(3).is_none() && harness.get(3, b"k").is_none());
    assert_no_files(&mut harness);
}

/// What the leader asks of a peer is answered before it hears that its snapshot was sent: it then probes a peer that has
/// everything, and there is nothing to probe it with until the next write.
#[test]
fn peer_that_has_everything_is_not_pending() {
    let mut harness = with_blocks();
    harness.reports_come_last = true;
    add_peer(&mut harness);
    catch_up(&mut harness);
    harness.tick();
    assert_eq!(harness.status(1).unwrap().pending_peers, [0; 0]);
    harness.cut_off = vec![3];
    harness.must_put(1, b"k2", b"v");
    assert_eq!(harness.status(1).unwrap().pending_peers, [1003]);
}
