//! What `PreloadAnswer::decode` makes of any bytes: never a panic, never a deep recursion, and "warm" only of an empty
//! context.
#![no_main]

use kvproto::{metapb::Peer, raft_serverpb::RaftMessage};
use libfuzzer_sys::fuzz_target;
use preload_observer::message::{ANSWER_BYTES_MAX, AnswerKind, PreloadAnswer};

fuzz_target!(|bytes: &[u8]| {
    let mut peer = Peer::default();
    peer.set_id(72);
    peer.set_store_id(2);
    let mut message = RaftMessage::default();
    message.set_region_id(7);
    message.set_from_peer(peer);
    message.set_extra_ctx(bytes.to_vec());
    let answer = PreloadAnswer::decode(&message);
    assert_eq!(answer.is_ok_and(|answer| answer.kind == AnswerKind::Warm), bytes.is_empty());
    if bytes.len() > ANSWER_BYTES_MAX {
        assert!(answer.is_err());
    }
});
