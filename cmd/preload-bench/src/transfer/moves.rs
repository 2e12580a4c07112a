//! Moves of leadership.
//!
//! **Owns** who is moved where, and how long that took.
//!
//! **How it works.** As a placement driver does it: leadership is offered, and offered again while nothing comes of it.
//!
//! **Invariants.** What arrived is what [`stage`](super::stage) saw arrive, moves that nobody asked for included.
//!
//! **Must not** wait for a region to be warm anywhere.

use std::time::{Duration, Instant};

use raft::eraftpb::ConfChangeType;
use raftstore::store::new_peer;
use test_raftstore::{requests, wait};

use super::stage::{Arrival, STORES, Stage, now};

/// Every so manieth move of a round is to a replica that is being added.
pub(super) const REPLACED_EVERY: u32 = 4;

/// A move that takes longer has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Between two offers of the same leadership; an acknowledgement that is held back is not an answer to wait for.
const OFFER_AGAIN: Duration = Duration::from_millis(500);

/// The ids of replicas that are added begin here.
const FIRST_NEW_PEER: u64 = 1_000_000;

#[derive(Default)]
pub(super) struct Moves {
    pub(super) arrivals: Vec<Arrival>,
    /// Of those that were asked for and arrived.
    took: Vec<Duration>,
    pub(super) failed: usize,
}

impl Moves {
    pub(super) fn millis(&self, percentile: f64) -> f64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        let rank = (took.len() as f64 * percentile / 100.0).ceil() as usize;
        took.get(rank.saturating_sub(1)).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
    }
}

/// A move that is under way.
struct Move {
    region_id: u64,
    to_store: u64,
    began: Instant,
    offered: Option<Instant>,
}

/// Moves `count` leaders to the next store, one after the other with a pause in between; goes on where `moves` has got to.
pub(super) fn round(stage: &Stage, count: u32, pause: Duration, moves: &mut Moves) {
    let begin = u32::try_from(moves.took.len() + moves.failed).expect("there are fewer moves");
    let regions = stage.region_ids.iter().cycle().skip(begin as usize % stage.region_ids.len());
    for (number, region_id) in (begin..begin + count).zip(regions) {
        let Some(leader) = stage.view.leader(*region_id) else { continue };
        let to_store = leader.store_id % STORES + 1;
        if number % REPLACED_EVERY == REPLACED_EVERY - 1 {
            replace(stage, *region_id, to_store, FIRST_NEW_PEER + u64::from(number));
        }
        carry_out(stage, vec![(*region_id, to_store)], moves);
        stage.pause(pause);
    }
    moves.arrivals.extend(stage.view.take_arrivals());
}

/// Takes the leaders off each store in turn, restarts it, and gives them back.
pub(super) fn rolling_restart(stage: &mut Stage) -> Moves {
    let mut moves = Moves::default();
    for store_id in 1..=STORES {
        let led = stage.led_by(store_id);
        let others = (1..=STORES).filter(|other| *other != store_id).cycle();
        carry_out(stage, led.iter().copied().zip(others).collect(), &mut moves);
        stage.cluster.restart_store(store_id).expect("a store starts on its own data");
        stage.connect();
        let regions = stage.region_ids.len();
        wait::until("the restarted store to follow", || {
            let statuses = stage.statuses(store_id);
            statuses.len() == regions && statuses.iter().all(|status| status.leader_id != 0)
        });
        carry_out(stage, led.into_iter().map(|region_id| (region_id, store_id)).collect(), &mut moves);
    }
    moves.arrivals = stage.view.take_arrivals();
    moves
}

/// Replaces the region's peer on `store_id` by a new one. It is not there yet when this returns: the leader has just begun
/// to send it a snapshot.
fn replace(stage: &Stage, region_id: u64, store_id: u64, peer_id: u64) {
    let cluster = &stage.cluster;
    let Some(old) = cluster.status(store_id, region_id) else { return };
    cluster.must_change_peer(region_id, ConfChangeType::RemoveNode, new_peer(store_id, old.peer_id));
    wait::until("the old peer to be gone", || cluster.status(store_id, region_id).is_none());
    cluster.must_change_peer(region_id, ConfChangeType::AddNode, new_peer(store_id, peer_id));
}

/// Moves each region to its store, all at once.
fn carry_out(stage: &Stage, moves: Vec<(u64, u64)>, done: &mut Moves) {
    let began = now();
    let new = |(region_id, to_store)| Move { region_id, to_store, began, offered: None };
    let mut under_way: Vec<Move> = moves.into_iter().map(new).collect();
    wait::within(DEADLINE, || {
        under_way.retain_mut(|pending| match stage.view.leader(pending.region_id) {
            Some(leader) if leader.store_id == pending.to_store => {
                done.took.push(leader.at.saturating_duration_since(pending.began));
                false
            }
            Some(leader) => {
                if pending.offered.is_none_or(|at| at.elapsed() >= OFFER_AGAIN) {
                    pending.offered = Some(now());
                    offer(stage, &leader, pending.to_store);
                }
                true
            }
            None => true,
        });
        under_way.is_empty().then_some(())
    });
    done.failed += under_way.len();
}

fn offer(stage: &Stage, leader: &Arrival, to_store: u64) {
    let Some(status) = stage.cluster.status(leader.store_id, leader.region.get_id()) else { return };
    let to = status.region.get_peers().iter().find(|peer| peer.get_store_id() == to_store).cloned();
    let offer = requests::transfer_leader(&status.region, to.unwrap_or_default());
    // Whatever the answer is: the next look shows what has become of it.
    let _ = stage.cluster.store(leader.store_id).command(offer, Box::new(drop));
}
