//! Finds out that a peer was removed while nobody could tell it.
//!
//! # How it works
//! A peer that has not heard of its leader for `raft-stale-peer-check-ticks` asks the others by `MsgCheckStalePeer`. One
//! that knows of a later membership without the asker, or that the region was merged away, answers with a tombstone message
//! ([`super::message`]). A voter is told when it campaigns as well; a learner and an uninitialized peer never do. Where the
//! region has moved on to other stores altogether, nobody is left to ask: then the placement, if there is one, sends it.
//!
//! # What it must not do
//! Conclude anything from silence: a peer that nobody answers may be one that is cut off.

use engine_traits::{KvEngine, LogStore};
use kvproto::raft_serverpb::ExtraMessageType;
use tikv_util::info;

use super::{Effect, Store};

impl<E: KvEngine, L: LogStore> Store<E, L> {
    pub(super) fn on_stale_peer_tick(&mut self) {
        let limit = self.config.raft_stale_peer_check_ticks;
        for (region_id, peer) in &mut self.peers {
            if peer.is_leader() || peer.pending_destroy.is_some() || peer.seal.is_some() {
                peer.silent_ticks = 0;
                continue;
            }
            peer.silent_ticks += 1;
            if peer.silent_ticks < limit {
                continue;
            }
            peer.silent_ticks = 0;
            info!("asking whether this peer is still a member"; "region_id" => region_id, "silent_ticks" => limit);
            for other in peer.others() {
                let mut message = peer.envelope(other);
                message.mut_extra_msg().set_type(ExtraMessageType::MsgCheckStalePeer);
                self.effects.push(Effect::Send(Box::new(message)));
            }
        }
    }
}
