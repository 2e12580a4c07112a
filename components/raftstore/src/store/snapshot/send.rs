//! The sender's side of a transfer.
//!
//! # What it owns
//! One snapshot on its way to one peer.
//!
//! # How it works
//! The receiver leads. The first chunk carries the message and nothing else; each answer says from which byte of the
//! files, put one after another, the receiver goes on. So a transfer that was interrupted resumes where the receiver says,
//! and the sender remembers nothing. A chunk is a block of a file.
//!
//! # Invariants
//! It ends: with the receiver's word, with a file here that cannot be read, or with the driver's word that no answer comes.
//!
//! # What it must not do
//! Know how chunks travel. A driver calls it and carries them.

use kvproto::raft_serverpb::{RaftMessage, SnapshotChunk};

use super::{
    SnapKey, Snapshot, SnapshotDir,
    dir::{Direction, file_name},
};
use crate::{
    Result,
    store::{core::Delivery, transport::ChunkAnswer},
};

/// A snapshot that is being sent.
pub struct Outgoing {
    dir: SnapshotDir,
    snapshot: Snapshot,
    to_peer: u64,
    to_store: u64,
    /// Taken by the first chunk.
    message: Option<RaftMessage>,
}

/// What a sender does next.
#[derive(Debug, PartialEq)]
pub enum Next {
    Send(Box<SnapshotChunk>),
    /// The transfer has ended; when it has failed, with the reason.
    End(Delivery, Option<String>),
}

impl Outgoing {
    /// # Errors
    /// When `message` carries no snapshot that was generated here.
    pub fn new(dir: SnapshotDir, message: RaftMessage) -> Result<Self> {
        let snapshot = Snapshot::parse(message.get_region_id(), message.get_message().get_snapshot())?;
        let (to_peer, to_store) = (message.get_to_peer().get_id(), message.get_to_peer().get_store_id());
        Ok(Self { dir, snapshot, to_peer, to_store, message: Some(message) })
    }

    pub fn key(&self) -> SnapKey {
        self.snapshot.key()
    }

    pub fn to_peer(&self) -> u64 {
        self.to_peer
    }

    pub fn to_store(&self) -> u64 {
        self.to_store
    }

    pub fn size_bytes(&self) -> u64 {
        self.snapshot.size_bytes()
    }

    /// The chunk that a transfer begins with. To be called once.
    pub fn first(&mut self) -> SnapshotChunk {
        let mut chunk = SnapshotChunk::default();
        chunk.set_message(self.message.take().unwrap_or_default());
        chunk
    }

    pub fn on_answer(&mut self, answer: ChunkAnswer) -> Next {
        match answer {
            ChunkAnswer::Want { position } => match self.block_at(position) {
                Ok(block) => {
                    let mut chunk = SnapshotChunk::default();
                    chunk.set_data(block);
                    Next::Send(Box::new(chunk))
                }
                Err(reason) => Next::End(Delivery::Broken, Some(reason)),
            },
            ChunkAnswer::Done => Next::End(Delivery::Done, None),
            ChunkAnswer::Busy(reason) => Next::End(Delivery::Interrupted, Some(reason)),
            ChunkAnswer::Broken(reason) => Next::End(Delivery::Broken, Some(reason)),
        }
    }

    fn block_at(&self, position: u64) -> std::result::Result<Vec<u8>, String> {
        let mut offset = position;
        for file in self.snapshot.files() {
            if offset < file.size_bytes {
                let name = file_name(Direction::Generated, self.snapshot.key(), file.cf);
                return self.dir.read_block(&name, file.size_bytes, offset).map_err(|error| error.to_string());
            }
            offset -= file.size_bytes;
        }
        Err(format!("position {position} is behind the snapshot's end"))
    }
}
