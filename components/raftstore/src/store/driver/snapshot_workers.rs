//! The threads that make, send, receive and apply snapshots.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver as Inbox, Sender, tick, unbounded};
use engine_traits::KvEngine;
use fail::fail_point;
use kvproto::{
    metapb::Region,
    raft_serverpb::{RaftMessage, RaftSnapshotData, SnapshotChunk},
};
use tikv_util::{error, info, warn, worker::Runnable};

use super::{
    StoreHandle, fatal,
    metrics::{METRICS, SentMessage, Share},
};
use crate::{
    Result,
    coprocessor::CoprocessorHost,
    store::{
        core::{ApplySnapshot, Delivery, Input, PeerTag},
        data,
        snapshot::{Direction, Next, Outgoing, Receiver, SnapKey, SnapshotDir, raft_snapshot},
        transport::{ChunkAnswer, SnapshotTransport, StreamId},
    },
};

/// Writes a snapshot's files, of an engine's snapshot that was taken before.
type Generate = dyn FnOnce(&SnapshotDir, SnapKey) -> Result<RaftSnapshotData> + Send;

/// A snapshot to make.
pub(super) struct GenerateSnapshot {
    pub(super) tag: PeerTag,
    pub(super) region: Region,
    pub(super) index: u64,
    pub(super) term: u64,
    /// The engine's snapshot was taken at `index`.
    pub(super) generate: Box<Generate>,
}

pub(super) enum GeneratorTask {
    Generate(GenerateSnapshot),
    /// The same thread, so that it is done before a snapshot of the same key is made again.
    Remove(SnapKey),
}

pub(super) struct SnapshotGenerator<E: KvEngine> {
    pub(super) dir: SnapshotDir,
    pub(super) store: StoreHandle<E>,
}

impl<E: KvEngine> SnapshotGenerator<E> {
    fn generate(&self, task: GenerateSnapshot) {
        fail_point!("raftstore::generate_snapshot::hold");
        let GenerateSnapshot { tag, region, index, term, generate } = task;
        let key = SnapKey { region_id: region.get_id(), term, idx: index };
        let generated = METRICS.generate_snapshot.observe_closure_duration(|| generate(&self.dir, key));
        let snapshot = match generated {
            Ok(data) => {
                info!("snapshot generated"; "region_id" => tag.region_id, "term" => term, "index" => index,
                    "size_bytes" => data.get_file_size());
                Some(Box::new(raft_snapshot(&data, index, term)))
            }
            Err(error) => {
                error!("cannot generate snapshot"; "region_id" => tag.region_id, "err" => ?error);
                None
            }
        };
        // Fails only when the store is stopped.
        let _ = self.store.input(Input::SnapshotGenerated { tag, snapshot });
    }
}

impl<E: KvEngine> Runnable<GeneratorTask> for SnapshotGenerator<E> {
    fn run(&mut self, task: GeneratorTask) {
        match task {
            GeneratorTask::Generate(task) => self.generate(task),
            GeneratorTask::Remove(key) => {
                if let Err(error) = self.dir.remove(Direction::Generated, key) {
                    warn!("cannot remove the files of a snapshot"; "region_id" => key.region_id, "err" => ?error);
                }
            }
        }
    }
}

/// The threads that send snapshots, one each at a time.
pub(super) struct SnapshotSenders {
    queue: Sender<RaftMessage>,
    threads: Vec<JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
}

impl SnapshotSenders {
    pub(super) fn spawn<E: KvEngine, T: SnapshotTransport + 'static>(
        threads: usize,
        dir: &SnapshotDir,
        transport: &T,
        store: &StoreHandle<E>,
    ) -> io::Result<Self> {
        let (queue, messages) = unbounded();
        let (stopped, streams) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut senders = Self { queue, threads: Vec::new(), stopped };
        for i in 0..threads {
            let mut sender = SnapshotSender {
                dir: dir.clone(),
                transport: transport.clone(),
                store: store.clone(),
                stopped: senders.stopped.clone(),
                streams: streams.clone(),
            };
            let messages: Inbox<RaftMessage> = messages.clone();
            let name = format!("snap-sender-{}-{i}", store.store_id());
            let thread = std::thread::Builder::new().name(name);
            senders.threads.push(thread.spawn(move || messages.iter().for_each(|message| sender.send(message)))?);
        }
        Ok(senders)
    }

    /// Sends `message`, which carries a snapshot, with its files.
    pub(super) fn send(&self, message: RaftMessage) {
        // Fails only when all threads panicked; then the process is about to end.
        let _ = self.queue.send(message);
    }

    /// Ends after the chunks that are on their way.
    pub(super) fn stop(self) {
        self.stopped.store(true, Ordering::Release);
        drop(self.queue);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

struct SnapshotSender<E: KvEngine, T> {
    dir: SnapshotDir,
    transport: T,
    store: StoreHandle<E>,
    stopped: Arc<AtomicBool>,
    /// Streams that the store has begun.
    streams: Arc<AtomicU64>,
}

impl<E: KvEngine, T: SnapshotTransport> SnapshotSender<E, T> {
    fn send(&mut self, message: RaftMessage) {
        let (Some(key), to_peer) = (SnapKey::of_message(&message), message.get_to_peer().get_id()) else { return };
        let (_sending, sent) = (Share::one_of(&METRICS.snapshots_sending), SentMessage::of(&message));
        let (delivery, reason) = match Outgoing::new(self.dir.clone(), message) {
            Ok(outgoing) => self.transfer(outgoing),
            Err(error) => (Delivery::Broken, Some(error.to_string())),
        };
        METRICS.sent(sent, delivery == Delivery::Done);
        match reason {
            None => info!("snapshot sent"; "region_id" => key.region_id, "to_peer" => to_peer, "index" => key.idx),
            Some(reason) => warn!("snapshot not sent"; "region_id" => key.region_id, "to_peer" => to_peer,
                "index" => key.idx, "delivery" => ?delivery, "reason" => reason),
        }
        // Fails only when the store is stopped.
        let _ = self.store.input(Input::SnapshotSent { key, to_peer, delivery });
    }

    fn transfer(&mut self, mut outgoing: Outgoing) -> (Delivery, Option<String>) {
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        let stream = StreamId { from_store: self.store.store_id(), number };
        let mut chunk = outgoing.first();
        loop {
            if self.stopped.load(Ordering::Acquire) {
                return (Delivery::Interrupted, Some("the store stops".into()));
            }
            let bytes = chunk.get_data().len();
            let answer = match self.transport.exchange(outgoing.to_store(), stream, chunk) {
                Ok(answer) => answer,
                Err(error) => return (Delivery::Interrupted, Some(error.to_string())),
            };
            METRICS.snapshot_bytes_sent.inc_by(bytes as u64);
            match outgoing.on_answer(answer) {
                Next::Send(next) => chunk = *next,
                Next::End(delivery, reason) => return (delivery, reason),
            }
        }
    }
}

/// What the thread that receives snapshots is sent.
pub(super) enum ReceiverTask {
    Chunk {
        stream: StreamId,
        chunk: Box<SnapshotChunk>,
        callback: ChunkCallback,
    },
    /// The store has no use of a received snapshot any more.
    Release(SnapKey),
    Stop,
}

/// Gets the answer to a chunk, on the receiver's thread: it must be quick.
pub(super) type ChunkCallback = Box<dyn FnOnce(ChunkAnswer) + Send>;

pub(super) fn spawn_receiver<E: KvEngine>(
    mut receiver: Receiver,
    tasks: Inbox<ReceiverTask>,
    store: StoreHandle<E>,
) -> io::Result<JoinHandle<()>> {
    let ticks = tick(Duration::from_secs(1));
    std::thread::Builder::new().name(format!("snap-receiver-{}", store.store_id())).spawn(move || {
        let mut receiving = Share::of(&METRICS.snapshots_receiving);
        loop {
            receiving.show(receiver.arriving());
            crossbeam_channel::select! {
                recv(tasks) -> task => match task {
                    Ok(ReceiverTask::Chunk { stream, chunk, callback }) => {
                        METRICS.snapshot_bytes_received.inc_by(chunk.get_data().len() as u64);
                        let received = receiver.receive(stream, *chunk);
                        fail_point!("raftstore::receive_snapshot::pause");
                        if let Some(message) = received.message {
                            // Fails only when the store is stopped.
                            let _ = store.input(Input::RaftMessage(message));
                        }
                        callback(received.answer);
                    }
                    Ok(ReceiverTask::Release(key)) => receiver.release(key),
                    Ok(ReceiverTask::Stop) | Err(_) => return,
                },
                recv(ticks) -> _ => receiver.tick(),
            }
        }
    })
}

pub(super) struct SnapshotApplier<E: KvEngine> {
    pub(super) kv: E,
    pub(super) host: CoprocessorHost<E>,
    pub(super) dir: SnapshotDir,
    pub(super) store: StoreHandle<E>,
}

impl<E: KvEngine> Runnable<ApplySnapshot> for SnapshotApplier<E> {
    fn run(&mut self, task: ApplySnapshot) {
        let tag = task.tag;
        // The region is initialized by now, and its data is not there yet.
        fail_point!("raftstore::apply_snapshot::pause_before_pre_apply");
        let _applying = Share::one_of(&METRICS.snapshots_applying);
        let install = || data::install_snapshot(&self.kv, &self.host, &self.dir, &task);
        let installed = match METRICS.apply_snapshot.observe_closure_duration(install) {
            Ok(installed) => installed,
            Err(error) => fatal("cannot apply a snapshot", &error),
        };
        // Fails only when the store is stopped; a restart applies the snapshot again.
        let _ = self.store.input(Input::SnapshotApplied { tag, cancelled: !installed });
    }
}
