//! Keeps logs short.
//!
//! # How it works
//! Every `raft-log-gc-ticks` ticks a leader proposes to drop the entries that all peers have. A peer that is far behind
//! holds that up until the log has `raft-log-gc-count-limit` entries; then it is left behind, and brought up to date by a
//! snapshot. From the index of a snapshot on its way on, entries stay.
//!
//! # Invariants
//! An entry leaves the log only when its effects are durable in the data engine: the applier syncs before it reports a
//! compaction.

use engine_traits::{KvEngine, LogBatch, LogOp, LogStore};
use kvproto::raft_cmdpb::{AdminCmdType, RaftCmdRequest};
use raft::Storage;
use tikv_util::debug;

use super::{Effect, LogWrite, Store, peer::Peer};
use crate::store::{Config, apply::encoded};

impl<E: KvEngine, L: LogStore> Store<E, L> {
    pub(super) fn on_log_gc_tick(&mut self) {
        self.ticks_to_log_gc = match self.ticks_to_log_gc.checked_sub(1) {
            Some(left) => left,
            None => self.config.raft_log_gc_ticks.saturating_sub(1),
        };
        if self.ticks_to_log_gc != 0 {
            return;
        }
        for (region_id, peer) in &mut self.peers {
            // A leader's buffers for `raft-max-inflight-msgs` numbers per follower, which raft-rs allocates with the first
            // append and keeps: 4 KiB per region that was written to once.
            peer.node.raft.maybe_free_inflight_buffers();
            let Some(request) = compaction(peer, &self.config) else {
                continue;
            };
            match peer.node.propose(Vec::new(), encoded(&request)) {
                Ok(()) => drop(self.dirty.insert(*region_id)),
                Err(error) => debug!("compaction not proposed"; "region_id" => region_id, "err" => %error),
            }
        }
    }

    /// What the log has up to `index` is durable in the data engine.
    pub(super) fn on_log_compacted(&mut self, region_id: u64, index: u64) {
        let batch = LogBatch { ops: vec![LogOp::Compact { region_id, index: index + 1 }] };
        self.effects.push(Effect::WriteLog(LogWrite { batch, sync: false, answer: None }));
    }
}

/// The compaction that is worth proposing, if this peer leads.
fn compaction<L: LogStore>(peer: &Peer<L>, config: &Config) -> Option<RaftCmdRequest> {
    if !peer.is_leader() || peer.accepted_snapshot.is_some() {
        return None;
    }
    if peer.merge.is_some() || peer.seal.is_some() {
        return None; // It would be refused, or come after the last entry that counts.
    }
    let storage = peer.storage();
    let (applied, first) = (storage.applied_index(), storage.first_index().ok()?);
    let slowest = peer.node.raft.prs().iter().map(|(_, progress)| progress.matched).min()?;
    // A snapshot that is on its way to a peer would be of no use if the log did not go on from it. It is for as long as the
    // transfer takes: whatever its end is, raft-rs is told.
    let sent =
        peer.node.raft.prs().iter().map(|(_, progress)| progress.pending_snapshot).filter(|index| *index > 0).min();
    let too_long = applied.saturating_sub(first) >= config.raft_log_gc_count_limit;
    // One entry stays: a log that is empty says nothing about its term.
    let needed = if too_long { sent.unwrap_or(applied) } else { slowest };
    let index = applied.min(needed).checked_sub(1)?;
    if index < first || index - first + 1 < config.raft_log_gc_threshold {
        return None;
    }
    let mut request = RaftCmdRequest::default();
    let header = request.mut_header();
    header.set_region_id(peer.region().get_id());
    header.set_region_epoch(peer.region().get_region_epoch().clone());
    let admin = request.mut_admin_request();
    admin.set_cmd_type(AdminCmdType::CompactLog);
    admin.mut_compact_log().set_compact_index(index);
    admin.mut_compact_log().set_compact_term(storage.term(index).ok()?);
    Some(request)
}
