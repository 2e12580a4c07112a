//! The receiver of snapshots.
//!
//! # What it owns
//! The snapshots that are arriving at a store, and the names of those that have arrived and that the store may still need.
//!
//! # How it works
//! 1. The first chunk of a stream carries the message. Is the region's last snapshot still in the store's hands, or are too
//!    many on their way, the sender is told to try later.
//! 2. Each further chunk is the next block of the files: it is checked and added to a file. The answer names the position
//!    behind it.
//! 3. Behind the last block the files are synced and renamed, and the message is handed out, for the store. Until the store
//!    [releases](Receiver::release) it, no other snapshot of the region is received.
//! 4. The stream breaks off: what has arrived stays. A stream that brings the same snapshot again, which means the same key,
//!    region, sizes and checksums, goes on where it ended. Another snapshot of the region takes its place.
//! 5. A block is not what it must be: all that has arrived of the snapshot is removed, since what was sent before may be
//!    just as wrong.
//!
//! # Invariants
//! - A message is handed out after all files are durable under their names.
//! - Of a region there is at most one received snapshot, counted from its first chunk until the store has no use of it. So
//!   the files that the store reads, or removes, are those of the message that it has accepted, or refused.
//! - Memory is bounded by the block of the call; the number of transfers is limited.
//!
//! # What it must not do
//! Judge whether the store wants the snapshot: that is for the core, and would be known too late anyway.

use std::collections::BTreeMap;

use kvproto::raft_serverpb::{RaftMessage, SnapshotChunk};
use tikv_util::{error, info, warn};

use super::{
    SnapKey, Snapshot, SnapshotDir,
    dir::{Direction, file_name, temporary},
    file::FileCheck,
};
use crate::{
    Result,
    store::transport::{ChunkAnswer, StreamId},
};

/// Ticks, of a second each, after which a snapshot that nobody goes on sending is removed. A sender that was interrupted
/// tries again with a leader's next heartbeats; after so long, there is another leader or another snapshot.
const IDLE_TICKS_MAX: u32 = 30;

pub struct Receiver {
    dir: SnapshotDir,
    transfers_max: usize,
    /// By region.
    arriving: BTreeMap<u64, Arriving>,
    /// Snapshots in the hands of the store, by region.
    handed_out: BTreeMap<u64, SnapKey>,
}

/// A snapshot of which some has arrived.
struct Arriving {
    stream: StreamId,
    message: RaftMessage,
    snapshot: Snapshot,
    /// Files that are complete.
    done: usize,
    /// The file behind these; `None` when there is none.
    check: Option<FileCheck>,
    idle_ticks: u32,
}

/// What has become of a chunk.
#[derive(Debug)]
pub struct Received {
    pub answer: ChunkAnswer,
    /// The store is to get this, before the answer is sent.
    pub message: Option<Box<RaftMessage>>,
}

impl From<ChunkAnswer> for Received {
    fn from(answer: ChunkAnswer) -> Self {
        Self { answer, message: None }
    }
}

impl Receiver {
    /// `pending` are the snapshots that the store has accepted and not applied yet; at most `transfers_max` others arrive
    /// at a time.
    pub fn new(dir: SnapshotDir, transfers_max: usize, pending: impl IntoIterator<Item = SnapKey>) -> Self {
        let handed_out = pending.into_iter().map(|key| (key.region_id, key)).collect();
        Self { dir, transfers_max, arriving: BTreeMap::new(), handed_out }
    }

    /// Snapshots of which some has arrived, and not all.
    pub fn arriving(&self) -> usize {
        self.arriving.len()
    }

    /// Takes a chunk in.
    pub fn receive(&mut self, stream: StreamId, mut chunk: SnapshotChunk) -> Received {
        if chunk.has_message() {
            return self.begin(stream, chunk.take_message());
        }
        let Some(region_id) = self.arriving.iter().find(|(_, a)| a.stream == stream).map(|(id, _)| *id) else {
            return ChunkAnswer::Busy("another stream has taken over, or the store was restarted".into()).into();
        };
        self.add(region_id, chunk.get_data())
    }

    /// The store has no use of a snapshot that it was handed: its files are removed.
    pub fn release(&mut self, key: SnapKey) {
        if self.handed_out.get(&key.region_id) == Some(&key) {
            self.handed_out.remove(&key.region_id);
        }
        remove(&self.dir, key);
    }

    /// A second has passed.
    pub fn tick(&mut self) {
        let mut idle = Vec::new();
        for (region_id, arriving) in &mut self.arriving {
            arriving.idle_ticks += 1;
            if arriving.idle_ticks > IDLE_TICKS_MAX {
                idle.push(*region_id);
            }
        }
        for region_id in idle {
            info!("snapshot that nobody goes on sending removed"; "region_id" => region_id);
            self.discard(region_id);
        }
    }

    fn begin(&mut self, stream: StreamId, message: RaftMessage) -> Received {
        let region_id = message.get_region_id();
        let snapshot = match Snapshot::parse(region_id, message.get_message().get_snapshot()) {
            Ok(snapshot) => snapshot,
            Err(error) => return refuse(region_id, error.to_string()),
        };
        if self.handed_out.contains_key(&region_id) {
            return ChunkAnswer::Busy("the store has not done with the region's last snapshot".into()).into();
        }
        if let Some(arriving) = self.arriving.get_mut(&region_id) {
            if arriving.snapshot == snapshot {
                // The message is another one: its sender may be of a later term.
                (arriving.stream, arriving.message, arriving.idle_ticks) = (stream, message, 0);
                let position = arriving.position();
                info!("snapshot resumed"; "region_id" => region_id, "index" => snapshot.key().idx,
                    "at_bytes" => position, "of_bytes" => snapshot.size_bytes());
                return ChunkAnswer::Want { position }.into();
            }
            self.discard(region_id);
        }
        if self.arriving.len() >= self.transfers_max {
            return ChunkAnswer::Busy("too many snapshots are arriving".into()).into();
        }
        // Of an earlier attempt that could not be removed; appending to it would not do.
        if let Err(error) = self.dir.remove(Direction::Received, snapshot.key()) {
            return cannot_keep(region_id, &error);
        }
        let mut arriving = Arriving { stream, message, snapshot, done: 0, check: None, idle_ticks: 0 };
        arriving.next_file();
        let is_empty = arriving.check.is_none();
        self.arriving.insert(region_id, arriving);
        if is_empty { self.complete(region_id) } else { ChunkAnswer::Want { position: 0 }.into() }
    }

    fn add(&mut self, region_id: u64, block: &[u8]) -> Received {
        let Some(arriving) = self.arriving.get_mut(&region_id) else {
            return refuse(region_id, "no such transfer".into());
        };
        arriving.idle_ticks = 0;
        let (Some(check), Some(file)) = (&mut arriving.check, arriving.snapshot.files().get(arriving.done)) else {
            return refuse(region_id, "data behind the last file".into());
        };
        let is_last = match check.admit(block) {
            Ok(is_last) => is_last,
            Err(reason) => {
                let reason = format!("column family {}: {reason}", file.cf);
                self.discard(region_id);
                return refuse(region_id, reason);
            }
        };
        let name = temporary(&file_name(Direction::Received, arriving.snapshot.key(), file.cf));
        let files = self.dir.files();
        let kept = files.append(&name, block).and_then(|()| if is_last { files.sync(&name) } else { Ok(()) });
        if let Err(error) = kept {
            self.discard(region_id);
            return cannot_keep(region_id, &error.into());
        }
        if is_last {
            arriving.done += 1;
            arriving.next_file();
        }
        match arriving.check {
            Some(_) => ChunkAnswer::Want { position: arriving.position() }.into(),
            None => self.complete(region_id),
        }
    }

    /// Everything has arrived: the files get their names, and the store gets the message.
    fn complete(&mut self, region_id: u64) -> Received {
        let Some(arriving) = self.arriving.remove(&region_id) else {
            return refuse(region_id, "no such transfer".into());
        };
        let (snapshot, files) = (&arriving.snapshot, self.dir.files());
        let name = || -> Result<()> {
            for file in snapshot.files() {
                let name = file_name(Direction::Received, snapshot.key(), file.cf);
                files.rename(&temporary(&name), &name)?;
            }
            if !snapshot.files().is_empty() {
                files.sync_names()?;
            }
            Ok(())
        };
        if let Err(error) = name() {
            remove(&self.dir, snapshot.key());
            return cannot_keep(region_id, &error);
        }
        info!("snapshot received"; "region_id" => region_id, "term" => snapshot.key().term,
            "index" => snapshot.key().idx, "size_bytes" => snapshot.size_bytes());
        self.handed_out.insert(region_id, snapshot.key());
        Received { answer: ChunkAnswer::Done, message: Some(Box::new(arriving.message)) }
    }

    fn discard(&mut self, region_id: u64) {
        if let Some(arriving) = self.arriving.remove(&region_id) {
            remove(&self.dir, arriving.snapshot.key());
        }
    }
}

impl Arriving {
    fn next_file(&mut self) {
        let file = self.snapshot.files().get(self.done).cloned();
        self.check = file.map(|file| FileCheck::new(file, self.snapshot.region()));
    }

    fn position(&self) -> u64 {
        let done: u64 = self.snapshot.files().iter().take(self.done).map(|file| file.size_bytes).sum();
        done + self.check.as_ref().map_or(0, FileCheck::size_bytes)
    }
}

fn remove(dir: &SnapshotDir, key: SnapKey) {
    if let Err(error) = dir.remove(Direction::Received, key) {
        // They are removed at the next start, or before the same snapshot is received again.
        warn!("cannot remove the files of a snapshot"; "region_id" => key.region_id, "err" => %error);
    }
}

/// The sender is at fault.
fn refuse(region_id: u64, reason: String) -> Received {
    warn!("snapshot that is being received refused"; "region_id" => region_id, "reason" => &reason);
    ChunkAnswer::Broken(reason).into()
}

/// This store is at fault. The files are removed rather than synced again: after a failed sync nobody knows what they hold.
fn cannot_keep(region_id: u64, failure: &crate::Error) -> Received {
    error!("cannot keep a snapshot that is being received"; "region_id" => region_id, "err" => ?failure);
    ChunkAnswer::Busy(format!("the receiver cannot keep it: {failure}")).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine_test::{MemDisk, MemFiles};
    use engine_traits::{Cf, FileStore, KvEngine, WriteBatch};

    use super::{
        super::{Next, Outgoing, raft_snapshot, tests::local},
        *,
    };
    use crate::store::core::Delivery;

    /// A sender with some snapshots, and a receiver of two transfers at a time.
    struct Pair {
        disk: MemDisk,
        sender: SnapshotDir,
        files: MemFiles,
        receiver: Receiver,
        streams: u64,
    }

    impl Pair {
        fn new() -> Self {
            let disk = MemDisk::new();
            let sender = SnapshotDir::new(Arc::new(disk.open_files("sender")));
            let files = disk.open_files("receiver");
            let receiver = Receiver::new(SnapshotDir::new(Arc::new(files.clone())), 2, []);
            Self { disk, sender, files, receiver, streams: 0 }
        }

        /// A snapshot of region `region_id` with `blocks` blocks of data.
        fn message(&self, region_id: u64, idx: u64, blocks: u8) -> RaftMessage {
            let engine = self.disk.open("kv");
            let mut batch = WriteBatch::new();
            batch.delete_range(Cf::Default, b"z", b"{");
            (0..blocks).for_each(|i| batch.put(Cf::Default, &[b'z', b'b', i], &vec![idx as u8; 300 << 10]));
            engine.write(&batch).unwrap();
            let mut local = local();
            local.mut_region().set_id(region_id);
            let key = SnapKey { region_id, term: 6, idx };
            let data = self.sender.generate(&engine.snapshot(), &local, key, Direction::Generated).unwrap();
            let mut message = RaftMessage::default();
            message.set_region_id(region_id);
            message.mut_message().set_snapshot(raft_snapshot(&data, idx, 6));
            message
        }

        fn begin(&mut self, message: &RaftMessage) -> (Outgoing, StreamId, Received) {
            self.streams += 1;
            let stream = StreamId { from_store: 1, number: self.streams };
            let mut outgoing = Outgoing::new(self.sender.clone(), message.clone()).unwrap();
            let received = self.receiver.receive(stream, outgoing.first());
            (outgoing, stream, received)
        }

        /// Goes on for `chunks` chunks, or until the end; the last answer.
        fn go_on(
            &mut self,
            (outgoing, stream, mut received): (Outgoing, StreamId, Received),
            chunks: usize,
        ) -> Received {
            let mut outgoing = outgoing;
            for _ in 0..chunks {
                match outgoing.on_answer(received.answer.clone()) {
                    Next::Send(chunk) => received = self.receiver.receive(stream, *chunk),
                    Next::End(..) => break,
                }
            }
            received
        }

        fn send(&mut self, message: &RaftMessage, chunks: usize) -> Received {
            let begun = self.begin(message);
            self.go_on(begun, chunks)
        }

        fn names(&self) -> String {
            self.files.list().unwrap().join(" ")
        }
    }

    fn position(received: &Received) -> u64 {
        match received.answer {
            ChunkAnswer::Want { position } => position,
            ref answer => panic!("{answer:?}"),
        }
    }

    #[track_caller]
    fn assert_busy(received: &Received) {
        assert!(matches!(received.answer, ChunkAnswer::Busy(_)) && received.message.is_none(), "{received:?}");
    }

    #[test]
    fn message_is_handed_out_once_when_all_files_are_durable() {
        let mut pair = Pair::new();
        let message = pair.message(7, 9, 2);
        let received = pair.send(&message, 1);
        assert!(received.message.is_none() && position(&received) > 300 << 10);
        assert_eq!(pair.names(), "rev_7_6_9_default.tmp");
        let received = pair.send(&message, 9);
        assert_eq!((&received.answer, received.message.as_deref()), (&ChunkAnswer::Done, Some(&message)));
        pair.disk.crash();
        assert_eq!(pair.disk.open_files("receiver").list().unwrap(), ["rev_7_6_9_default"]);
    }

    #[test]
    fn snapshot_without_data_is_complete_with_its_message() {
        let mut pair = Pair::new();
        let message = pair.message(7, 9, 0);
        let received = pair.send(&message, 0);
        assert_eq!((&received.answer, received.message.as_deref()), (&ChunkAnswer::Done, Some(&message)));
        assert_eq!(pair.names(), "");
    }

    #[test]
    fn region_has_one_snapshot_at_a_time_until_the_store_releases_it() {
        let mut pair = Pair::new();
        let (old, new) = (pair.message(7, 9, 1), pair.message(7, 10, 1));
        pair.send(&old, 9);
        for message in [&old, &new] {
            assert_busy(&pair.send(message, 9));
        }
        pair.receiver.release(SnapKey { region_id: 7, term: 6, idx: 10 });
        assert_eq!(pair.names(), "rev_7_6_9_default", "of the other nothing was there");
        assert_busy(&pair.send(&new, 9));
        pair.receiver.release(SnapKey { region_id: 7, term: 6, idx: 9 });
        assert_eq!(pair.names(), "");
        assert_eq!(pair.send(&new, 9).answer, ChunkAnswer::Done);
        // After a restart the store still has it.
        pair.receiver = Receiver::new(pair.receiver.dir.clone(), 2, [SnapKey { region_id: 7, term: 6, idx: 10 }]);
        assert_busy(&pair.send(&new, 9));
    }

    #[test]
    fn transfers_beyond_the_limit_are_told_to_come_later() {
        let mut pair = Pair::new();
        let messages = [7, 8, 9].map(|region_id| pair.message(region_id, 9, 2));
        pair.send(&messages[0], 1);
        pair.send(&messages[1], 1);
        assert_busy(&pair.send(&messages[2], 9));
        assert!(position(&pair.send(&messages[0], 0)) > 0, "one that has begun goes on");
        pair.send(&messages[0], 9);
        assert_eq!(pair.send(&messages[2], 9).answer, ChunkAnswer::Done);
    }

    #[test]
    fn another_snapshot_takes_the_place_of_one_that_has_not_arrived() {
        let mut pair = Pair::new();
        let (old, new) = (pair.message(7, 9, 3), pair.message(7, 10, 2));
        let begun = pair.begin(&old);
        let mut late = pair.begin(&old);
        assert_busy(&pair.go_on(begun, 9));
        pair.send(&new, 1);
        assert_eq!(pair.names(), "rev_7_6_10_default.tmp");
        late.2 = ChunkAnswer::Want { position: 0 }.into();
        assert_busy(&pair.go_on(late, 9));
        // The same key, and other data.
        let other = pair.message(7, 10, 3);
        assert_eq!(position(&pair.send(&other, 0)), 0);
        assert_eq!(pair.send(&other, 9).answer, ChunkAnswer::Done);
    }

    #[test]
    fn snapshot_that_nobody_goes_on_sending_is_removed() {
        let mut pair = Pair::new();
        let message = pair.message(7, 9, 2);
        pair.send(&message, 1);
        (0..IDLE_TICKS_MAX).for_each(|_| pair.receiver.tick());
        assert!(position(&pair.send(&message, 0)) > 0);
        (0..=IDLE_TICKS_MAX).for_each(|_| pair.receiver.tick());
        assert_eq!(pair.names(), "");
        assert_eq!(position(&pair.send(&message, 0)), 0);
    }

    #[test]
    fn what_is_not_the_next_block_is_refused_and_all_of_it_removed() {
        type Break = fn(&mut SnapshotChunk);
        let broken: [Break; 4] = [
            |chunk| chunk.clear_data(),
            |chunk| chunk.mut_data().truncate(100),
            |chunk| chunk.mut_data()[1000] ^= 1,
            |chunk| {
                let twice = chunk.get_data().repeat(2);
                chunk.set_data(twice);
            },
        ];
        for break_it in broken {
            let mut pair = Pair::new();
            let message = pair.message(7, 9, 3);
            let (mut outgoing, stream, begun) = pair.begin(&message);
            let Next::Send(first) = outgoing.on_answer(begun.answer) else { panic!() };
            let received = pair.receiver.receive(stream, *first);
            let Next::Send(mut second) = outgoing.on_answer(received.answer) else { panic!() };
            break_it(&mut second);
            let received = pair.receiver.receive(stream, *second);
            assert!(matches!(received.answer, ChunkAnswer::Broken(_)), "{received:?}");
            assert!(matches!(outgoing.on_answer(received.answer), Next::End(Delivery::Broken, Some(_))));
            assert_eq!(pair.names(), "");
            assert_busy(&pair.receiver.receive(stream, SnapshotChunk::default()));
            assert_eq!(pair.send(&message, 9).answer, ChunkAnswer::Done);
        }
        let mut nonsense = SnapshotChunk::default();
        nonsense.set_message(RaftMessage::default());
        let received = Pair::new().receiver.receive(StreamId { from_store: 1, number: 1 }, nonsense);
        assert!(matches!(received.answer, ChunkAnswer::Broken(_)));
    }

    #[test]
    fn files_that_cannot_be_written_are_removed_and_received_again() {
        for n in 0..5 {
            let mut pair = Pair::new();
            let message = pair.message(7, 9, 2);
            pair.files.fail_after(n);
            assert_busy(&pair.send(&message, 9));
            assert!(pair.files.has_failed());
            pair.files = pair.disk.open_files("receiver");
            pair.receiver = Receiver::new(SnapshotDir::new(Arc::new(pair.files.clone())), 2, []);
            // Without a restart's removal of everything: what is left is in nobody's way.
            assert_eq!(pair.send(&message, 9).answer, ChunkAnswer::Done);
            assert_eq!(pair.names(), "rev_7_6_9_default");
        }
    }
}
