//! The thread that owns the core.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use engine_traits::{KvEngine, LogStore, RegionRead, Snapshot as _};
use kvproto::metapb::Region;
use tikv_util::{info, warn};

use super::{
    Outlets, ReadCallback, RegionSnapshot, StoreHandle, StoreMessage, WriteCallback,
    metrics::{CensusShares, METRICS, SentMessage},
    snapshot_workers::{GeneratorTask, ReceiverTask},
};
use crate::{
    coprocessor::CoprocessorHost,
    store::{
        Config, Transport,
        core::{Effect, Input, RequestId, Store},
        snapshot::{Direction, SnapKey},
    },
};

/// Inputs that are taken in before their effects are carried out. Large enough for group commit, small enough that the
/// first of them does not wait noticeably.
const BATCH_MAX: usize = 512;

/// Between two times that observers are asked whether they still hold leadership back. What they wait for is the load of a
/// region, some tens of milliseconds; asking takes a microsecond.
const ASK_OBSERVERS: Duration = Duration::from_millis(5);

/// Between two times that peers are counted for the metrics.
const CENSUS_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct StoreThread<E: KvEngine, L: LogStore, T> {
    core: Store<E, L>,
    kv: E,
    transport: T,
    host: CoprocessorHost<E>,
    outlets: Outlets,
    own: StoreHandle<E>,
    tick_interval: Duration,
    next_tick: Instant,
    /// Meaningful while there are offers.
    next_ask: Instant,
    next_census: Instant,
    census: CensusShares,
    last_id: u64,
    commands: HashMap<RequestId, WriteCallback>,
    reads: HashMap<RequestId, (u64, ReadCallback<E>)>,
    /// Empty, but keeps its memory from batch to batch.
    effects: Vec<Effect>,
}

impl<E: KvEngine, L: LogStore, T: Transport> StoreThread<E, L, T> {
    pub(super) fn new(
        core: Store<E, L>,
        config: &Config,
        kv: E,
        transport: T,
        host: CoprocessorHost<E>,
        outlets: Outlets,
        own: StoreHandle<E>,
    ) -> Self {
        let tick_interval = config.raft_base_tick_interval.0;
        Self {
            core,
            kv,
            transport,
            host,
            outlets,
            own,
            tick_interval,
            next_tick: now() + tick_interval,
            next_ask: now(),
            next_census: now(),
            census: CensusShares::new(),
            last_id: 0,
            commands: HashMap::new(),
            reads: HashMap::new(),
            effects: Vec::new(),
        }
    }

    pub(super) fn run(mut self, receiver: &Receiver<StoreMessage<E>>) {
        info!("store started"; "store_id" => self.core.store_id());
        self.carry_out();
        loop {
            let message = match receiver.recv_timeout(self.next_deadline().saturating_duration_since(now())) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let more = receiver.try_iter().take(BATCH_MAX);
            let mut stop = false;
            for message in message.into_iter().chain(more) {
                stop |= matches!(message, StoreMessage::Stop);
                self.take_in(message);
            }
            if now() >= self.next_tick {
                // After a pause of the process one tick passes, not all that were missed: peers were paused, not dead.
                self.next_tick = now() + self.tick_interval;
                self.core.handle(Input::Tick);
            }
            if self.core.has_offers() && now() >= self.next_ask {
                self.next_ask = now() + ASK_OBSERVERS;
                self.core.handle(Input::AskObservers);
            }
            self.carry_out();
            if now() >= self.next_census {
                self.next_census = now() + CENSUS_INTERVAL;
                self.census.show(self.core.census());
            }
            if stop {
                break;
            }
        }
        self.stop();
    }

    fn next_deadline(&self) -> Instant {
        if self.core.has_offers() { self.next_tick.min(self.next_ask) } else { self.next_tick }
    }

    fn take_in(&mut self, message: StoreMessage<E>) {
        match message {
            StoreMessage::Input(input) => self.core.handle(input),
            StoreMessage::Inputs(inputs) => inputs.into_iter().for_each(|input| self.core.handle(input)),
            StoreMessage::Command { request, callback } => {
                METRICS.command(&request);
                let id = self.next_id();
                self.commands.insert(id, callback);
                self.core.handle(Input::Command { id, request });
            }
            StoreMessage::Read { header, read_ts, callback } => {
                METRICS.read();
                let id = self.next_id();
                self.reads.insert(id, (read_ts, callback));
                self.core.handle(Input::Read { id, header });
            }
            StoreMessage::Inspect(callback) => callback(self.core.statuses()),
            StoreMessage::Stop => {}
        }
    }

    fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        RequestId(self.last_id)
    }

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.core.finish_into(&mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(message) => self.send(*message),
                Effect::RemoveSnapshot { direction, key } => self.remove_snapshot(direction, key),
                Effect::WriteLog(write) => drop(self.outlets.log.send(write)),
                Effect::Applier(effect) => self.outlets.appliers.send(effect),
                Effect::ApplySnapshot(snapshot) => {
                    // Fails only when the worker panicked; then the process is about to end.
                    let _ = self.outlets.snapshot_applier.scheduler().schedule(snapshot);
                }
                Effect::Respond { id, response } => {
                    if let Some(callback) = self.commands.remove(&id) {
                        callback(*response);
                    }
                }
                Effect::ServeRead { ids, region, applied_index, term } => {
                    self.serve_reads(ids, &region, applied_index, term);
                }
                Effect::FailRead { id, error } => {
                    if let Some((_, callback)) = self.reads.remove(&id) {
                        callback(Err(error));
                    }
                }
            }
        }
        self.effects = effects;
    }

    fn send(&mut self, message: kvproto::raft_serverpb::RaftMessage) {
        if SnapKey::of_message(&message).is_some() {
            return self.outlets.snapshot_senders.send(message);
        }
        let (region_id, to_peer) = (message.get_region_id(), message.get_to_peer().get_id());
        let sent = SentMessage::of(&message);
        let is_taken = self.transport.send(message).is_ok();
        METRICS.sent(sent, is_taken);
        if !is_taken {
            self.core.handle(Input::Unreachable { region_id, to_peer });
        }
    }

    fn remove_snapshot(&self, direction: Direction, key: SnapKey) {
        // These fail only when a worker panicked; then the process is about to end.
        match direction {
            Direction::Generated => {
                let _ = self.outlets.appliers.generator().scheduler().schedule(GeneratorTask::Remove(key));
            }
            Direction::Received => drop(self.own.receiver.send(ReceiverTask::Release(key))),
        }
    }

    fn serve_reads(&mut self, ids: Vec<RequestId>, region: &Region, applied_index: u64, term: u64) {
        for (read_ts, callback) in ids.iter().filter_map(|id| self.reads.remove(id)) {
            let snapshot = self.kv.region_snapshot(&RegionRead { region, read_ts });
            self.host.on_snapshot(region, read_ts, snapshot.source());
            callback(Ok(RegionSnapshot { snapshot, region: region.clone(), applied_index, term }));
        }
    }

    /// Ends the other threads, in the order in which work flows.
    fn stop(self) {
        let Self { core, host, outlets, own, .. } = self;
        let Outlets { log, log_writer, log_purger, appliers, snapshot_applier, snapshot_senders, snapshot_receiver } =
            outlets;
        snapshot_senders.stop();
        let _ = own.receiver.send(ReceiverTask::Stop);
        drop(log);
        let log_writer = log_writer.join();
        log_purger.stop();
        appliers.stop();
        snapshot_applier.stop();
        host.shutdown();
        if snapshot_receiver.join().is_err() {
            warn!("the snapshot receiver has panicked"; "store_id" => core.store_id());
        }
        if log_writer.is_err() {
            warn!("the log writer has panicked"; "store_id" => core.store_id());
        }
        info!("store stopped"; "store_id" => own.store_id);
    }
}

#[allow(clippy::disallowed_methods)] // A driver is where real time enters.
fn now() -> Instant {
    Instant::now()
}
