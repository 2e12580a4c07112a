//! Threads that run the core on real engines.
//!
//! | thread | what it does |
//! |---|---|
//! | `store-N` | owns the core: feeds it inputs in batches, carries out or passes on its effects |
//! | `log-writer-N` | writes the log; merges what is waiting into one write and one sync (group commit across regions) |
//! | `log-purger-N` | frees the space of logs that were shortened |
//! | `apply-N-i` | owns the appliers of its share of the regions; merges their changes into one write |
//! | `snap-generator-N`, `snap-applier-N` | write a region's data into the files of a snapshot; replace a region's data by one |
//! | `snap-sender-N-i`, `snap-receiver-N` | send a snapshot's files with its message; take them in, and hand the message to the store |
//!
//! # Invariants
//! - Effects for one region reach one thread in the order in which the core emitted them.
//! - A thread that cannot write panics: what is durable is unknown, and a store that goes on would lie. The node's
//!   panic hook turns that into the end of the process.

mod apply_worker;
mod log_writer;
mod metrics;
mod snapshot_workers;
mod store_thread;

use std::{io, time::Duration};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use engine_traits::{KvEngine, LogStore};
use kvproto::{
    metapb::Region,
    raft_cmdpb::{RaftCmdRequest, RaftCmdResponse, RaftRequestHeader},
    raft_serverpb::{RaftMessage, SnapshotChunk},
};
use tikv_util::worker::Worker;

use self::{
    apply_worker::ApplyWorkers,
    snapshot_workers::{ReceiverTask, SnapshotApplier, SnapshotGenerator, SnapshotSenders},
    store_thread::StoreThread,
};
use super::{
    ChunkAnswer, Config, PeerStatus, SnapshotDir, SnapshotTransport, StreamId, Transport,
    core::{ApplySnapshot, Input, LogWrite, Store},
    snapshot::Receiver as SnapshotReceiver,
};
use crate::{Error, Result, coprocessor::CoprocessorHost};

/// Gets the answer to a command, on the store's thread: it must be quick.
pub type WriteCallback = Box<dyn FnOnce(RaftCmdResponse) + Send>;
/// Gets the answer to a read, on the store's thread: it must be quick.
pub type ReadCallback<E> = Box<dyn FnOnce(Result<RegionSnapshot<<E as KvEngine>::Snapshot>>) + Send>;

/// A region's data at one moment, and what the region was then.
#[derive(Clone, Debug)]
pub struct RegionSnapshot<S> {
    pub snapshot: S,
    pub region: Region,
    /// The snapshot holds at least what was applied up to this index.
    pub applied_index: u64,
    pub term: u64,
}

/// What the store's thread is sent.
enum StoreMessage<E: KvEngine> {
    Input(Input),
    /// What one write has led to. Together, so that it is one batch for the store's thread too, which would else wake up
    /// for the first of them.
    Inputs(Vec<Input>),
    Command {
        request: Box<RaftCmdRequest>,
        callback: WriteCallback,
    },
    Read {
        header: Box<RaftRequestHeader>,
        read_ts: u64,
        callback: ReadCallback<E>,
    },
    Inspect(Box<dyn FnOnce(Vec<PeerStatus>) + Send>),
    Stop,
}

/// Talks to a running store. Clones talk to the same one; every method may be called on any thread but the store's own.
pub struct StoreHandle<E: KvEngine> {
    store_id: u64,
    sender: Sender<StoreMessage<E>>,
    receiver: Sender<ReceiverTask>,
}

impl<E: KvEngine> Clone for StoreHandle<E> {
    fn clone(&self) -> Self {
        Self { store_id: self.store_id, sender: self.sender.clone(), receiver: self.receiver.clone() }
    }
}

impl<E: KvEngine> StoreHandle<E> {
    pub fn store_id(&self) -> u64 {
        self.store_id
    }

    /// Delivers a message from another store.
    ///
    /// # Errors
    /// When the store is stopped.
    pub fn deliver(&self, message: RaftMessage) -> Result<()> {
        self.input(Input::RaftMessage(Box::new(message)))
    }

    /// Takes in a chunk of a snapshot from another store, and waits for what to answer.
    ///
    /// # Errors
    /// [`Error::Stopped`] or [`Error::Timeout`].
    pub fn receive_chunk(&self, stream: StreamId, chunk: SnapshotChunk, timeout: Duration) -> Result<ChunkAnswer> {
        self.ask(timeout, |answer| {
            let callback = Box::new(move |received| drop(answer.send(received)));
            let task = ReceiverTask::Chunk { stream, chunk: Box::new(chunk), callback };
            self.receiver.send(task).map_err(|_| Error::Stopped)
        })
    }

    /// Starts a command. When the store stops before it is done, `callback` is dropped uncalled.
    ///
    /// # Errors
    /// When the store is stopped.
    pub fn command(&self, request: RaftCmdRequest, callback: WriteCallback) -> Result<()> {
        self.send(StoreMessage::Command { request: Box::new(request), callback })
    }

    /// Starts a linearizable read at `read_ts` of the region that `header` names (id and epoch).
    ///
    /// # Errors
    /// When the store is stopped.
    pub fn read(&self, header: RaftRequestHeader, read_ts: u64, callback: ReadCallback<E>) -> Result<()> {
        self.send(StoreMessage::Read { header: Box::new(header), read_ts, callback })
    }

    /// Like [`command`](Self::command), and waits for the answer.
    ///
    /// # Errors
    /// [`Error::Stopped`], or [`Error::Timeout`]: then it is unknown whether the command takes effect.
    pub fn execute(&self, request: RaftCmdRequest, timeout: Duration) -> Result<RaftCmdResponse> {
        self.ask(timeout, |answer| self.command(request, Box::new(move |response| drop(answer.send(response)))))
    }

    /// Like [`read`](Self::read), and waits for the answer.
    ///
    /// # Errors
    /// The read's own, [`Error::Stopped`] or [`Error::Timeout`].
    pub fn snapshot(
        &self,
        header: RaftRequestHeader,
        read_ts: u64,
        timeout: Duration,
    ) -> Result<RegionSnapshot<E::Snapshot>> {
        self.ask(timeout, |answer| self.read(header, read_ts, Box::new(move |result| drop(answer.send(result)))))?
    }

    /// All peers of the store, in the order of their regions' ids.
    ///
    /// # Errors
    /// [`Error::Stopped`] or [`Error::Timeout`].
    pub fn statuses(&self, timeout: Duration) -> Result<Vec<PeerStatus>> {
        self.ask(timeout, |answer| {
            self.send(StoreMessage::Inspect(Box::new(move |statuses| drop(answer.send(statuses)))))
        })
    }

    fn ask<T>(&self, timeout: Duration, start: impl FnOnce(Sender<T>) -> Result<()>) -> Result<T> {
        let (sender, receiver) = bounded(1);
        start(sender)?;
        receiver.recv_timeout(timeout).map_err(|error| match error {
            crossbeam_channel::RecvTimeoutError::Timeout => Error::Timeout(timeout),
            crossbeam_channel::RecvTimeoutError::Disconnected => Error::Stopped,
        })
    }

    fn input(&self, input: Input) -> Result<()> {
        self.send(StoreMessage::Input(input))
    }

    fn inputs(&self, inputs: Vec<Input>) -> Result<()> {
        if inputs.is_empty() { Ok(()) } else { self.send(StoreMessage::Inputs(inputs)) }
    }

    fn send(&self, message: StoreMessage<E>) -> Result<()> {
        self.sender.send(message).map_err(|_| Error::Stopped)
    }
}

/// A store that runs. Dropping it stops it.
pub struct StoreThreads<E: KvEngine> {
    handle: StoreHandle<E>,
    store: Option<std::thread::JoinHandle<()>>,
}

/// Where the store's thread passes effects on to.
struct Outlets {
    log: Sender<LogWrite>,
    log_writer: std::thread::JoinHandle<()>,
    log_purger: Worker<()>,
    appliers: ApplyWorkers,
    snapshot_applier: Worker<ApplySnapshot>,
    snapshot_senders: SnapshotSenders,
    snapshot_receiver: std::thread::JoinHandle<()>,
}

/// Threads that share the regions' appliers. Two keep one region's slow write from holding up all others, and the
/// machines that this host is made for have two cores.
const APPLY_THREADS: usize = 2;

impl<E: KvEngine> StoreThreads<E> {
    /// Starts a store on engines that [`bootstrap_store`](super::bootstrap_store) has seen. The sender's side of the
    /// store exists before the store does, so `transport` gets its [`StoreHandle`] from the caller. `snapshots` is where the
    /// store keeps the files of its snapshots, and nothing else does anything.
    ///
    /// # Errors
    /// When the engines cannot be read or a thread cannot be started.
    pub fn start<L: LogStore, T: Transport + SnapshotTransport + 'static>(
        inbox: StoreInbox<E>,
        config: Config,
        kv: E,
        log: L,
        snapshots: SnapshotDir,
        transport: T,
        host: CoprocessorHost<E>,
    ) -> Result<Self> {
        host.start();
        Self::start_threads(inbox, &config, kv, log, &snapshots, transport, &host).inspect_err(|_| host.shutdown())
    }

    fn start_threads<L: LogStore, T: Transport + SnapshotTransport + 'static>(
        inbox: StoreInbox<E>,
        config: &Config,
        kv: E,
        log: L,
        dir: &SnapshotDir,
        transport: T,
        host: &CoprocessorHost<E>,
    ) -> Result<Self> {
        let StoreInbox { handle, receiver, chunks } = inbox;
        let store_id = handle.store_id;
        let core = Store::load(store_id, config.clone(), host.clone(), &kv, log.clone())?;
        dir.recover(core.pending_snapshots())?;
        let pending = core.pending_snapshots().map(|snapshot| snapshot.key());
        let snapshots = SnapshotReceiver::new(dir.clone(), config.concurrent_recv_snap_limit, pending);
        let (log_sender, log_receiver) = unbounded();
        let generator = tikv_util::worker::Builder::new(format!("snap-generator-{store_id}"))
            .start(SnapshotGenerator { dir: dir.clone(), store: handle.clone() })
            .map_err(thread_error)?;
        let snapshot_applier = tikv_util::worker::Builder::new(format!("snap-applier-{store_id}"))
            .start(SnapshotApplier { kv: kv.clone(), host: host.clone(), dir: dir.clone(), store: handle.clone() })
            .map_err(thread_error)?;
        let outlets = Outlets {
            log: log_sender,
            log_purger: log_writer::spawn_purger(log.clone(), store_id).map_err(thread_error)?,
            log_writer: log_writer::spawn(log, log_receiver, handle.clone()).map_err(thread_error)?,
            appliers: ApplyWorkers::spawn(APPLY_THREADS, &kv, host, &handle, generator).map_err(thread_error)?,
            snapshot_applier,
            snapshot_senders: SnapshotSenders::spawn(config.concurrent_send_snap_limit, dir, &transport, &handle)
                .map_err(thread_error)?,
            snapshot_receiver: snapshot_workers::spawn_receiver(snapshots, chunks, handle.clone())
                .map_err(thread_error)?,
        };
        let thread = StoreThread::new(core, config, kv, transport, host.clone(), outlets, handle.clone());
        let store = std::thread::Builder::new()
            .name(format!("store-{store_id}"))
            .spawn(move || thread.run(&receiver))
            .map_err(thread_error)?;
        Ok(Self { handle, store: Some(store) })
    }

    pub fn handle(&self) -> &StoreHandle<E> {
        &self.handle
    }

    /// Stops the store after what was sent before, and waits for its threads. What was acknowledged stays durable;
    /// what waits is dropped.
    ///
    /// # Panics
    /// When one of the store's threads has panicked.
    pub fn stop(mut self) {
        if let Some(store) = self.shutdown() {
            store.expect("the store's threads do not panic");
        }
    }

    fn shutdown(&mut self) -> Option<std::thread::Result<()>> {
        let store = self.store.take()?;
        // Fails only when the thread is gone already.
        let _ = self.handle.send(StoreMessage::Stop);
        Some(store.join())
    }
}

impl<E: KvEngine> Drop for StoreThreads<E> {
    fn drop(&mut self) {
        // A panic of the store's thread was reported where it happened.
        let _ = self.shutdown();
    }
}

/// The receiving end of a store that is not running yet. Messages are kept until it does.
pub struct StoreInbox<E: KvEngine> {
    handle: StoreHandle<E>,
    receiver: Receiver<StoreMessage<E>>,
    chunks: Receiver<ReceiverTask>,
}

impl<E: KvEngine> StoreInbox<E> {
    pub fn new(store_id: u64) -> Self {
        let (sender, receiver) = unbounded();
        let (chunk_sender, chunks) = unbounded();
        Self { handle: StoreHandle { store_id, sender, receiver: chunk_sender }, receiver, chunks }
    }

    pub fn handle(&self) -> &StoreHandle<E> {
        &self.handle
    }
}

fn thread_error(error: io::Error) -> Error {
    Error::ServerIsBusy(format!("cannot start a thread: {error}"))
}

/// The end of a store that cannot go on.
#[track_caller]
fn fatal(doing: &str, error: &dyn std::error::Error) -> ! {
    let mut message = format!("{doing}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        message.push_str(&format!(": {error}"));
        source = error.source();
    }
    panic!("{message}");
}
