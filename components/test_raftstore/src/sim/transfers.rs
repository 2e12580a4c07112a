//! Snapshots on their way between simulated stores.
//!
//! # What it owns
//! The transfers that have begun and not ended.
//!
//! # How it works
//! A transfer is a conversation: a chunk goes to the receiver, its answer to the sender, and each is an event with a delay of
//! its own. A chunk or an answer that is lost breaks the stream, which the sender notices later. A chunk that is changed on
//! its way arrives.
//!
//! # Invariants
//! - A transfer belongs to one life of its sender. Its receiver may be another life at each chunk.
//! - The sender hears of each transfer's end once, unless it crashes.
//!
//! # What it must not do
//! Deliver chunks of one stream twice or out of order: no stream does.

use std::time::Duration;

use kvproto::raft_serverpb::{RaftMessage, SnapshotChunk};
use raftstore::store::{
    ChunkAnswer, StreamId,
    core::{Delivery, Input},
    snapshot::{Next, Outgoing},
};

use super::{
    checks::Checked,
    coverage::Seam,
    messages::Line,
    plan::TICK,
    world::{Event, World, trace},
};

/// A snapshot on its way.
pub(super) struct Transfer {
    outgoing: Outgoing,
    /// The sender's.
    life: u64,
    is_answered: bool,
}

pub(super) enum TransferStep {
    /// A chunk arrives at the receiver.
    Chunk(Box<SnapshotChunk>),
    /// An answer arrives at the sender.
    Answer(ChunkAnswer),
    /// The sender gives up waiting.
    Broken,
}

impl World {
    pub(super) fn begin_transfer(&mut self, from: u64, message: RaftMessage) -> Checked {
        trace!(self, "transfer {}", Line(&message));
        let number = self.next_id();
        let Some(store) = self.stores.get(&from) else { return Ok(()) };
        let (life, Some(run)) = (store.life, &store.run) else { return Ok(()) };
        let stream = StreamId { from_store: from, number };
        let mut outgoing =
            Outgoing::new(run.snapshot_dir.clone(), message).expect("the core sends what was generated here");
        let chunk = outgoing.first();
        self.transfers.insert(stream, Transfer { outgoing, life, is_answered: false });
        self.send_chunk(stream, chunk);
        Ok(())
    }

    pub(super) fn on_transfer(&mut self, stream: StreamId, step: TransferStep) -> Checked {
        let Some(transfer) = self.transfers.get(&stream) else { return Ok(()) };
        let (to, life) = (transfer.outgoing.to_store(), transfer.life);
        if !self.is_alive(stream.from_store, life) {
            self.transfers.remove(&stream);
            return Ok(());
        }
        match step {
            TransferStep::Chunk(chunk) => self.receive_chunk(to, stream, *chunk),
            TransferStep::Answer(answer) => {
                let Some(transfer) = self.transfers.get_mut(&stream) else { return Ok(()) };
                let is_first = !std::mem::replace(&mut transfer.is_answered, true);
                if is_first && matches!(answer, ChunkAnswer::Want { position } if position > 0) {
                    self.coverage.hit(Seam::SnapshotContinued);
                }
                match transfer.outgoing.on_answer(answer) {
                    Next::Send(chunk) => {
                        self.send_chunk(stream, *chunk);
                        Ok(())
                    }
                    Next::End(delivery, reason) => self.end_transfer(stream, delivery, reason.as_deref()),
                }
            }
            TransferStep::Broken => self.end_transfer(stream, Delivery::Interrupted, Some("no answer")),
        }
    }

    fn receive_chunk(&mut self, to: u64, stream: StreamId, chunk: SnapshotChunk) -> Checked {
        let Some(run) = self.running(to) else {
            self.break_stream(stream);
            return Ok(());
        };
        let received = run.snapshot_receiver.receive(stream, chunk);
        // The process may end between two of these.
        if self.rng.permyriad(self.plan.crash_at_effect * 10) {
            let is_power_failure = self.rng.percent(70);
            self.crash(to, is_power_failure);
            self.break_stream(stream);
            return Ok(());
        }
        if let Some(message) = received.message {
            self.deliver(to, message)?;
        }
        if self.is_lost(to, stream.from_store) {
            self.break_stream(stream);
        } else {
            let delay = self.rng.up_to(self.plan.network.latency);
            self.schedule(delay, Event::Transfer { stream, step: TransferStep::Answer(received.answer) });
        }
        Ok(())
    }

    fn send_chunk(&mut self, stream: StreamId, mut chunk: SnapshotChunk) {
        let Some(to) = self.transfers.get(&stream).map(|transfer| transfer.outgoing.to_store()) else { return };
        if self.is_lost(stream.from_store, to) {
            return self.break_stream(stream);
        }
        if !chunk.get_data().is_empty() && self.rng.permyriad(self.plan.network.chunks_corrupted) {
            let at = self.rng.index(chunk.get_data().len());
            chunk.mut_data()[at] ^= 1;
        }
        let mut delay = self.rng.up_to(self.plan.network.latency);
        if chunk.has_message() && self.rng.permyriad(self.plan.network.snapshots_held) {
            delay += self.rng.up_to(self.plan.network.lateness);
        }
        self.schedule(delay, Event::Transfer { stream, step: TransferStep::Chunk(Box::new(chunk)) });
    }

    fn is_lost(&mut self, from: u64, to: u64) -> bool {
        let is_cut = self.partitions.values().flatten().any(|link| *link == (from, to));
        is_cut || self.rng.permyriad(self.plan.network.chunks_lost)
    }

    /// The sender notices after a while.
    fn break_stream(&mut self, stream: StreamId) {
        let patience = self.rng.up_to(TICK * 5) + Duration::from_millis(1);
        self.schedule(patience, Event::Transfer { stream, step: TransferStep::Broken });
    }

    fn end_transfer(&mut self, stream: StreamId, delivery: Delivery, reason: Option<&str>) -> Checked {
        let Some(transfer) = self.transfers.remove(&stream) else { return Ok(()) };
        let (key, to_peer) = (transfer.outgoing.key(), transfer.outgoing.to_peer());
        trace!(self, "transfer of {key:?} to peer {to_peer} ends: {delivery:?} {}", reason.unwrap_or_default());
        match delivery {
            Delivery::Done => {}
            Delivery::Interrupted => self.coverage.hit(Seam::SnapshotBrokenOff),
            Delivery::Broken => self.coverage.hit(Seam::SnapshotBroken),
        }
        self.input(stream.from_store, Input::SnapshotSent { key, to_peer, delivery })
    }
}
