//! The plugin's two messages, as they travel and as the core sees them.
//!
//! **Owns** the translation between `RaftMessage` and [`PreloadRequest`] / [`PreloadAnswer`], in both directions.
//!
//! **How it works.** `docs/protocol.md` has the fields. Only ids, epochs and a verdict are taken out of a message; whatever else it holds, known or
//! unknown fields, is left behind, so that what the core keeps per request has a constant size.
//!
//! **Invariants.** A [`PreloadRequest`] names a region, a sender and a target, none of them zero. An answer that is
//! built here can be decoded here: it fits [`ANSWER_BYTES_MAX`].
//!
//! **Must not** trust a length or a key that came from outside. In particular, protobuf 2 skips an *unknown group* by
//! calling itself once per level (RUSTSEC-2024-0437); a level takes at least one byte, so the length that
//! [`PreloadAnswer::decode`] accepts bounds the depth to what any thread's stack holds.

use kvproto::{
    errorpb,
    metapb::{Peer, RegionEpoch},
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use protobuf::Message;

use crate::{
    core::{Answer, Ask},
    initialized_region::is_empty_range,
};

/// The longest `errorpb::Error` in an answer. 4096 nested groups need well under 1 MiB of stack; an honest answer is
/// below 200 bytes unless the region's keys are long (see [`answer_message`]).
pub const ANSWER_BYTES_MAX: usize = 4096;

/// A peer and the store that it lives on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub peer_id: u64,
    pub store_id: u64,
}

impl Address {
    pub fn of(peer: &Peer) -> Self {
        Self { peer_id: peer.get_id(), store_id: peer.get_store_id() }
    }

    /// Both ids are there. Zero is protobuf's "not set" and never an id.
    pub fn is_complete(self) -> bool {
        self.peer_id != 0 && self.store_id != 0
    }

    fn to_peer(self) -> Peer {
        let mut peer = Peer::default();
        peer.set_id(self.peer_id);
        peer.set_store_id(self.store_id);
        peer
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch {
    pub conf_ver: u64,
    pub version: u64,
}

impl Epoch {
    pub fn of(epoch: &RegionEpoch) -> Self {
        Self { conf_ver: epoch.get_conf_ver(), version: epoch.get_version() }
    }

    /// In either of its parts.
    pub fn is_older_than(self, other: Self) -> bool {
        self.version < other.version || self.conf_ver < other.conf_ver
    }

    /// The newest of both in each part.
    pub fn max(self, other: Self) -> Self {
        Self { conf_ver: self.conf_ver.max(other.conf_ver), version: self.version.max(other.version) }
    }
}

/// A well-formed `MsgPreLoadRegionRequest`: `from` asks that `to` warms the region up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct PreloadRequest {
    pub region_id: u64,
    pub from: Address,
    pub to: Address,
    /// The region's epoch as `from` knows it; zero when it did not say.
    pub epoch: Epoch,
    /// What `from` tells its requests apart by; repeated in each answer. Zero when it did not say, as TiKV does not.
    pub number: u64,
}

/// What is wrong with a message that is addressed to the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    #[error("region id is zero")]
    ZeroRegionId,
    #[error("sender is missing")]
    NoSender,
    #[error("target peer is missing")]
    NoTarget,
    #[error("key range is inverted")]
    InvertedRange,
    #[error("answer is too long")]
    AnswerTooLong,
    #[error("answer cannot be decoded")]
    AnswerUndecodable,
}

impl PreloadRequest {
    /// # Errors
    /// What is wrong. The request comes along when its sender is known, so that it can be told.
    pub fn decode(message: &RaftMessage) -> Result<Self, (Malformed, Option<Self>)> {
        let request = Self {
            region_id: message.get_region_id(),
            from: Address::of(message.get_from_peer()),
            to: Address::of(message.get_to_peer()),
            epoch: Epoch::of(message.get_region_epoch()),
            number: message.get_extra_msg().get_index(),
        };
        let malformed = if !request.from.is_complete() {
            return Err((Malformed::NoSender, None));
        } else if request.region_id == 0 {
            Malformed::ZeroRegionId
        } else if !request.to.is_complete() {
            Malformed::NoTarget
        } else if is_empty_range(message.get_start_key(), message.get_end_key()) {
            Malformed::InvertedRange
        } else {
            return Ok(request);
        };
        Err((malformed, Some(request)))
    }
}

/// What an answer says, as far as the asking side needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerKind {
    Warm,
    Accepted,
    RegionNotInitialized,
    DataIsNotReady,
    EpochNotMatch,
    StoreNotMatch,
    MismatchPeerId,
    RegionNotFound,
    ServerIsBusy,
    /// An error that this version does not know.
    Other,
}

impl AnswerKind {
    /// Whether no other answer follows.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Accepted | Self::RegionNotInitialized | Self::DataIsNotReady | Self::EpochNotMatch)
    }

    pub fn of(error: &errorpb::Error) -> Self {
        if error.has_read_index_not_ready() {
            Self::Accepted
        } else if error.has_region_not_initialized() {
            Self::RegionNotInitialized
        } else if error.has_data_is_not_ready() {
            Self::DataIsNotReady
        } else if error.has_epoch_not_match() {
            Self::EpochNotMatch
        } else if error.has_store_not_match() {
            Self::StoreNotMatch
        } else if error.has_mismatch_peer_id() {
            Self::MismatchPeerId
        } else if error.has_region_not_found() {
            Self::RegionNotFound
        } else if error.has_server_is_busy() {
            Self::ServerIsBusy
        } else {
            Self::Other
        }
    }
}

/// A well-formed `MsgPreLoadRegionResponse`: what `from` says to a request that was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreloadAnswer {
    pub region_id: u64,
    pub from: Address,
    pub kind: AnswerKind,
    /// The request's.
    pub number: u64,
}

impl PreloadAnswer {
    /// # Errors
    /// What is wrong; an answer is not answered.
    pub fn decode(message: &RaftMessage) -> Result<Self, Malformed> {
        let (region_id, from) = (message.get_region_id(), Address::of(message.get_from_peer()));
        let number = message.get_extra_msg().get_index();
        if region_id == 0 {
            return Err(Malformed::ZeroRegionId);
        }
        if !from.is_complete() {
            return Err(Malformed::NoSender);
        }
        let bytes = message.get_extra_ctx();
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(Malformed::AnswerTooLong);
        }
        if bytes.is_empty() {
            return Ok(Self { region_id, from, kind: AnswerKind::Warm, number });
        }
        let mut error = errorpb::Error::default();
        error.merge_from_bytes(bytes).map_err(|_| Malformed::AnswerUndecodable)?;
        Ok(Self { region_id, from, kind: AnswerKind::of(&error), number })
    }
}

/// The message that carries `answer` back to who asked.
///
/// The current region of an `epoch_not_match` is left out when its keys are so long that the answer would not be
/// accepted: the asking side can look the region up, and must not be made to guess how long an answer may be.
pub fn answer_message(answer: &Answer) -> RaftMessage {
    let mut message = RaftMessage::default();
    message.set_region_id(answer.request.region_id);
    message.set_from_peer(answer.request.to.to_peer());
    message.set_to_peer(answer.request.from.to_peer());
    set_epoch(&mut message, answer.epoch);
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse);
    message.mut_extra_msg().set_index(answer.request.number);
    if let Some(mut error) = answer.body.to_error(&answer.request) {
        let mut bytes = encode(&error);
        if bytes.len() > ANSWER_BYTES_MAX {
            error.mut_epoch_not_match().mut_current_regions().clear();
            bytes = encode(&error);
        }
        message.set_extra_ctx(bytes);
    }
    message
}

/// Encoding fails on uninitialized proto2 fields only, and these are proto3; an error without details still is not taken
/// for "warm".
fn encode(error: &errorpb::Error) -> Vec<u8> {
    error.write_to_bytes().unwrap_or_else(|_| UNSPECIFIED_ERROR.to_vec())
}

/// An `errorpb::Error` whose `message` (field 1, length-delimited) is `?`.
const UNSPECIFIED_ERROR: [u8; 3] = [0x0a, 1, b'?'];

/// The message that asks a peer to warm a region up.
pub fn ask_message(ask: &Ask) -> RaftMessage {
    let mut message = RaftMessage::default();
    message.set_region_id(ask.region.id());
    message.set_from_peer(ask.from.to_peer());
    message.set_to_peer(ask.to.to_peer());
    set_epoch(&mut message, ask.region.epoch());
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
    message.mut_extra_msg().set_index(ask.number);
    message
}

fn set_epoch(message: &mut RaftMessage, epoch: Epoch) {
    message.mut_region_epoch().set_conf_ver(epoch.conf_ver);
    message.mut_region_epoch().set_version(epoch.version);
}
