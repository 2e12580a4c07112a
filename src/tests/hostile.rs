//! Messages that no honest store sends (I2).

use kvproto::{
    metapb::Peer,
    raft_serverpb::{ExtraMessageType, RaftMessage},
};
use proptest::prelude::*;

use crate::{
    Config,
    message::{ANSWER_BYTES_MAX, AnswerKind, Malformed, PreloadAnswer, PreloadRequest},
    test_support::*,
};

#[test]
fn malformed_requests_are_told_so_when_somebody_can_be_told() {
    type Break = fn(&mut RaftMessage);
    let broken: [(Malformed, Break); 7] = [
        (Malformed::ZeroRegionId, |m| m.set_region_id(0)),
        (Malformed::NoSender, |m| m.clear_from_peer()),
        (Malformed::NoSender, |m| m.mut_from_peer().set_store_id(0)),
        (Malformed::NoTarget, |m| m.clear_to_peer()),
        (Malformed::NoTarget, |m| m.mut_to_peer().set_id(0)),
        (Malformed::InvertedRange, |m| {
            m.set_start_key(b"b".to_vec());
            m.set_end_key(b"a".to_vec());
        }),
        (Malformed::InvertedRange, |m| {
            m.set_start_key(b"a".to_vec());
            m.set_end_key(b"a".to_vec());
        }),
    ];
    let bench = Bench::new();
    for (what, break_it) in broken {
        let mut message = request(7);
        break_it(&mut message);
        assert_eq!(PreloadRequest::decode(&message).unwrap_err().0, what);
        assert!(!bench.receive(&message));
        let expected: &[_] = if what == Malformed::NoSender { &[] } else { &[AnswerKind::RegionNotFound] };
        assert_eq!(bench.answers(), expected, "{what}");
    }
    assert_eq!(bench.observer.status(), Default::default());
}

#[test]
fn other_messages_pass() {
    let bench = Bench::new();
    for extra in [ExtraMessageType::MsgRegionWakeUp, ExtraMessageType::MsgHibernateRequest] {
        let mut message = request(7);
        message.mut_extra_msg().set_type(extra);
        assert!(bench.receive(&message));
    }
    // A type of a newer version decodes as an extra message of type 0.
    let unknown: RaftMessage = kvproto::decode(&[0x08, 7, 0x52, 2, 0x08, 99]).unwrap();
    assert!(bench.receive(&unknown));
    assert!(bench.receive(&RaftMessage::default()));
    assert_eq!(bench.observer.status(), Default::default());
}

#[test]
fn answer_of_nested_groups_does_not_overflow_the_stack() {
    let run = || {
        let mut message = request(7);
        message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse);
        // The start of unknown group 1000, again and again, each two bytes long; and of group 15, one byte each.
        for group in [&[0xc3, 0x3e][..], &[0x7b]] {
            message.set_extra_ctx(group.repeat(ANSWER_BYTES_MAX / group.len()));
            assert_eq!(PreloadAnswer::decode(&message), Err(Malformed::AnswerUndecodable));
        }
        message.set_extra_ctx(vec![0x7b; ANSWER_BYTES_MAX + 1]);
        assert_eq!(PreloadAnswer::decode(&message), Err(Malformed::AnswerTooLong));
    };
    // Half of what Rust gives a thread.
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn answer_with_very_long_keys_can_be_decoded() {
    let bench = Bench::new();
    let mut long = region(7);
    long.set_end_key(vec![b'l'; 2 * ANSWER_BYTES_MAX]);
    bench.create(&long);
    let mut message = request(7);
    message.mut_region_epoch().set_version(9);
    bench.receive(&message);
    bench.observer.step();
    let [answer] = <[RaftMessage; 1]>::try_from(bench.transport.take()).unwrap();
    assert_eq!(PreloadAnswer::decode(&answer).unwrap().kind, AnswerKind::EpochNotMatch);
}

#[test]
fn worker_that_is_stuck_does_not_make_messages_pile_up() {
    let config = Config { max_queued_messages: 10, max_parked_requests: 20, ..Config::default() };
    let bench = Bench::with_config(&config);
    for region_id in 1..1000 {
        bench.receive(&request(region_id));
    }
    assert_eq!(bench.observer.status().queued_messages, 10);
    bench.observer.stop();
    assert_eq!(bench.transport.take().len(), 20, "what was accepted is answered");
}

fn small_peer() -> impl Strategy<Value = Peer> {
    (0..80_u64, 0..4_u64).prop_map(|(id, store_id)| {
        let mut peer = Peer::default();
        peer.set_id(id);
        peer.set_store_id(store_id);
        peer
    })
}

prop_compose! {
    fn any_message()(
        region_id in prop_oneof![0..8_u64, Just(u64::MAX)],
        from in prop::option::of(small_peer()),
        to in prop::option::of(small_peer()),
        epoch in (0..4_u64, prop_oneof![0..4_u64, Just(u64::MAX)]),
        extra in prop::option::of(0..20_i32),
        msg_type in 0..19_i32,
        start in prop::collection::vec(any::<u8>(), 0..3),
        end in prop::collection::vec(any::<u8>(), 0..3),
        context in prop::collection::vec(any::<u8>(), 0..40),
        is_tombstone: bool,
    ) -> RaftMessage {
        use protobuf::ProtobufEnum;
        use raft::eraftpb::MessageType;

        let mut message = RaftMessage::default();
        message.set_region_id(region_id);
        from.into_iter().for_each(|peer| message.set_from_peer(peer));
        to.into_iter().for_each(|peer| message.set_to_peer(peer));
        message.mut_region_epoch().set_conf_ver(epoch.0);
        message.mut_region_epoch().set_version(epoch.1);
        if let Some(extra) = extra {
            // 17 and 18 are the plugin's; 19 is none.
            let extra = ExtraMessageType::from_i32(extra).unwrap_or(ExtraMessageType::MsgPreLoadRegionRequest);
            message.mut_extra_msg().set_type(extra);
        }
        message.mut_message().set_msg_type(MessageType::from_i32(msg_type).unwrap_or(MessageType::MsgSnapshot));
        message.set_start_key(start);
        message.set_end_key(end);
        message.set_extra_ctx(context);
        message.set_is_tombstone(is_tombstone);
        message
    }
}

proptest! {
    #[test]
    fn no_message_makes_a_hook_panic(messages in prop::collection::vec(any_message(), 1..60)) {
        let bench = Bench::new();
        bench.create(&region(7));
        for message in &messages {
            let is_ours = matches!(
                message.get_extra_msg().get_type(),
                ExtraMessageType::MsgPreLoadRegionRequest | ExtraMessageType::MsgPreLoadRegionResponse
            );
            prop_assert_eq!(bench.receive(message), !(message.has_extra_msg() && is_ours));
            bench.millis(100);
        }
        bench.millis(60_000);
        let status = bench.observer.status();
        prop_assert_eq!((status.parked_requests, status.faint_regions, status.queued_messages), (0, 0, 0));
    }
}
