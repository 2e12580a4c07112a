//! The thread that writes the log.

use std::{io, thread::JoinHandle};

use crossbeam_channel::Receiver;
use engine_traits::{KvEngine, LogBatch, LogStore};

use super::{StoreHandle, fatal};
use crate::store::core::LogWrite;

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
            if let Err(error) = log.write(batch, sync) {
                fatal("cannot write the Raft log", &error);
            }
            for answer in answers {
                if store.input(answer).is_err() {
                    return; // The store is stopped.
                }
            }
        }
    })
}
