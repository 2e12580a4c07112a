//! Golden bytes, written by hand from the field numbers, and hostile bytes.

use protobuf::Message;
use raft_proto::eraftpb::MessageType;

use crate::{
    DecodeError, decode, errorpb,
    metapb::{Peer, PeerRole, Region},
    raft_cmdpb::{AdminCmdType, CmdType, RaftCmdRequest},
    raft_serverpb::{ExtraMessageType, RaftLocalState, RaftMessage, RegionLocalState},
    wire::NESTING_MAX,
};

/// Encodes `message`, compares with `golden`, and decodes it back.
fn assert_golden<M: Message + PartialEq>(message: &M, golden: &[u8]) {
    assert_eq!(message.write_to_bytes().unwrap(), golden);
    assert_eq!(&decode::<M>(golden).unwrap(), message);
}

#[test]
fn region_has_the_field_numbers_of_tikv() {
    let mut region = Region::default();
    region.set_id(7);
    region.set_start_key(b"a".to_vec());
    region.set_end_key(b"b".to_vec());
    region.mut_region_epoch().set_conf_ver(1);
    region.mut_region_epoch().set_version(2);
    let mut peer = Peer::default();
    peer.set_id(8);
    peer.set_store_id(9);
    peer.set_role(PeerRole::Learner);
    region.mut_peers().push(peer);
    assert_golden(
        &region,
        &[0x08, 7, 0x12, 1, b'a', 0x1a, 1, b'b', 0x22, 4, 0x08, 1, 0x10, 2, 0x2a, 6, 0x08, 8, 0x10, 9, 0x18, 1],
    );
}

#[test]
fn preload_messages_have_the_field_numbers_of_tikv() {
    let mut message = RaftMessage::default();
    message.set_region_id(1);
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionRequest);
    assert_golden(&message, &[0x08, 1, 0x52, 2, 0x08, 17]);

    let mut error = errorpb::Error::default();
    error.mut_region_not_initialized().set_region_id(1);
    message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse);
    message.set_extra_ctx(error.write_to_bytes().unwrap());
    assert_golden(&message, &[0x08, 1, 0x52, 2, 0x08, 18, 0x5a, 4, 0x72, 2, 0x08, 1]);
}

#[test]
fn errors_have_the_field_numbers_of_tikv() {
    let mut error = errorpb::Error::default();
    error.mut_mismatch_peer_id().set_request_peer_id(3);
    assert_golden(&error, &[0xa2, 0x01, 2, 0x08, 3]);
    let mut error = errorpb::Error::default();
    error.mut_server_is_busy().set_reason("x".into());
    assert_golden(&error, &[0x32, 3, 0x0a, 1, b'x']);
}

#[test]
fn commands_and_states_have_the_field_numbers_of_tikv() {
    let mut command = RaftCmdRequest::default();
    command.mut_header().set_region_id(5);
    let mut put = crate::raft_cmdpb::Request::default();
    put.set_cmd_type(CmdType::Put);
    put.mut_put().set_key(b"k".to_vec());
    command.mut_requests().push(put);
    command.mut_admin_request().set_cmd_type(AdminCmdType::BatchSplit);
    assert_golden(&command, &[0x0a, 2, 0x08, 5, 0x12, 7, 0x08, 3, 0x22, 3, 0x12, 1, b'k', 0x1a, 2, 0x08, 10]);

    let mut state = RaftLocalState::default();
    state.mut_hard_state().set_term(6);
    state.set_last_index(300);
    assert_golden(&state, &[0x0a, 2, 0x08, 6, 0x10, 0xac, 0x02]);

    let mut state = RegionLocalState::default();
    state.mut_merge_state().set_commit(4);
    assert_golden(&state, &[0x1a, 2, 0x18, 4]);
}

#[test]
fn fields_of_a_newer_schema_are_kept() {
    // Field 12 (disk_usage) and field 200 are unknown here.
    let bytes = [0x08, 1, 0x60, 2, 0xc2, 0x0c, 1, b'?'];
    let message: RaftMessage = decode(&bytes).unwrap();
    assert_eq!(message.get_region_id(), 1);
    assert_eq!(message.write_to_bytes().unwrap(), bytes);
}

#[test]
fn unknown_enum_value_is_not_an_error() {
    let message: RaftMessage = decode(&[0x52, 2, 0x08, 99]).unwrap();
    assert!(message.has_extra_msg());
}

#[test]
fn nested_groups_are_refused_without_recursion() {
    let error = decode::<RaftMessage>(&vec![0x0b; 8 << 20]).unwrap_err();
    assert!(matches!(error, DecodeError::Group { offset: 0, .. }), "{error}");
    // The same inside the Raft message of a Raft message, whose schema is another crate's.
    let mut bytes = vec![0x22, 0x80, 0x01];
    bytes.extend([0x7b; 128]);
    let error = decode::<RaftMessage>(&bytes).unwrap_err();
    assert!(matches!(error, DecodeError::Group { offset: 3, .. }), "{error}");
}

#[test]
fn bytes_that_look_like_groups_are_fine_where_they_are_data() {
    let mut message = RaftMessage::default();
    message.set_extra_ctx(vec![0x0b; 1000]);
    message.mut_message().set_msg_type(MessageType::MsgAppend);
    message.mut_message().set_context(vec![0x0b; 1000].into());
    assert_eq!(decode::<RaftMessage>(&message.write_to_bytes().unwrap()).unwrap(), message);
}

#[test]
fn truncated_and_malformed_bytes_are_errors() {
    let mut region = Region::default();
    region.set_start_key(vec![1; 200]);
    region.mut_region_epoch().set_version(u64::MAX);
    let bytes = region.write_to_bytes().unwrap();
    for len in 0..bytes.len() {
        // Some prefixes end between two fields and are messages; none may panic.
        let _ = decode::<Region>(&bytes[..len]);
    }
    for bad in
        [&[0x08][..], &[0x12, 5, 1], &[0x0f], &[0xff; 11], &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]]
    {
        assert!(matches!(decode::<Region>(bad), Err(DecodeError::Malformed { .. })), "{bad:?}");
    }
    // A length that is right in the message but not in the one around it.
    assert!(matches!(decode::<Region>(&[0x22, 2, 0x08, 0x80, 0x01]), Err(DecodeError::Malformed { .. })));
}

#[test]
fn invalid_utf8_in_a_string_is_an_error() {
    assert!(matches!(decode::<errorpb::Error>(&[0x0a, 1, 0xff]), Err(DecodeError::Protobuf { .. })));
}

#[test]
fn no_message_of_this_schema_nests_without_bound() {
    // No type contains itself, so the limit cannot be met by a message of the schema: it guards future ones.
    let depth = crate::wire::nesting_of("raft_serverpb.RaftMessage");
    assert!(depth < NESTING_MAX, "{depth}");
}
