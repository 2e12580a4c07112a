//! The threads that write the log and keep its files few.

use std::{io, thread::JoinHandle, time::Duration};

use crossbeam_channel::Receiver;
use engine_traits::{KvEngine, LogBatch, LogStore};

use tikv_util::worker::{self, Runnable, Worker};

use super::{StoreHandle, fatal, metrics::METRICS};
use crate::store::core::LogWrite;

/// Time between two purges. A log file of some ten megabytes takes about as long to fill on a busy store.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);

/// Frees the space of logs that were shortened, on a thread of its own: it may have to rewrite files.
struct Purger<L>(L);

impl<L: LogStore> Runnable<()> for Purger<L> {
    fn run(&mut self, (): ()) {}

    fn on_timeout(&mut self) {
        if let Err(error) = self.0.purge() {
            fatal("cannot purge the Raft log", &error);
        }
    }
}

pub(super) fn spawn_purger<L: LogStore>(log: L, store_id: u64) -> io::Result<Worker<()>> {
    worker::Builder::new(format!("log-purger-{store_id}")).tick_interval(PURGE_INTERVAL).start(Purger(log))
}

/// Writes that are merged into one. One sync serves them all.
const MERGE_MAX: usize = 1024;

pub(super) fn spawn<E: KvEngine, L: LogStore>(
    log: L,
    writes: Receiver<LogWrite>,
    store: StoreHandle<E>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("log-writer-{}", store.store_id())).spawn(move || {
        while let Ok(first) = writes.recv() {
            let mut batch = LogBatch::default();
            let mut sync = false;
            let mut answers = Vec::new();
            for write in std::iter::once(first).chain(writes.try_iter().take(MERGE_MAX)) {
                batch.append(write.batch);
                sync |= write.sync;
                answers.extend(write.answer);
            }
            let written = METRICS.append_log.observe_closure_duration(|| log.write(batch, sync));
            if let Err(error) = written {
                fatal("cannot write the Raft log", &error);
            }
            if store.inputs(answers).is_err() {
                return; // The store is stopped.
            }
        }
    })
}
