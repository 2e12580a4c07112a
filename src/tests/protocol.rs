//! The wire protocol as `docs/protocol.md` has it: what the two sides tell each other over a network that loses,
//! duplicates and reorders.

use std::time::Duration;

use kvproto::raft_serverpb::{ExtraMessageType, RaftMessage};

use crate::{Config, message::AnswerKind, test_support::*};

fn is_request(message: &RaftMessage) -> bool {
    message.get_extra_msg().get_type() == ExtraMessageType::MsgPreLoadRegionRequest
}

#[test]
fn request_that_is_forwarded_is_accepted_at_once_and_then_answered_finally() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.receive(&request(7));
    assert_eq!(bench.all_answers(), [AnswerKind::Accepted]);
    bench.millis(100);
    bench.receive(&request(7));
    assert_eq!(bench.all_answers(), [AnswerKind::Accepted], "it is told again");
    bench.cache.finish_loads();
    bench.millis(20);
    assert_eq!(bench.all_answers(), [AnswerKind::Warm]);
}

#[test]
fn request_for_a_cached_region_has_one_answer() {
    let bench = Bench::new();
    bench.cache.load_at_once();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(20);
    assert_eq!(bench.all_answers(), [AnswerKind::Accepted, AnswerKind::Warm]);
    bench.receive(&request(7));
    assert_eq!(bench.all_answers(), [AnswerKind::Warm]);
}

#[test]
fn request_that_is_parked_before_it_was_looked_at_is_told_so() {
    let bench = Bench::new();
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.announce_snapshot(7);
    assert_eq!(bench.all_answers(), [AnswerKind::DataIsNotReady]);
}

/// A load that backs off must not keep the first answer back as well.
#[test]
fn request_during_a_backoff_is_accepted_at_once() {
    let bench = Bench::new();
    bench.cache.refuse(true);
    bench.create(&region(7));
    bench.receive(&request(7));
    bench.millis(300);
    bench.all_answers();
    let mut other = request(7);
    other.mut_from_peer().set_id(73);
    bench.receive(&other);
    assert_eq!(bench.all_answers(), [AnswerKind::Accepted]);
}

#[test]
fn each_answer_repeats_the_number_that_came_last() {
    let bench = Bench::new();
    let numbered = |number| {
        let mut message = request(7);
        message.mut_extra_msg().set_index(number);
        message
    };
    for number in [5, 9] {
        bench.receive(&numbered(number));
    }
    bench.cache.load_at_once();
    bench.create(&region(7));
    bench.millis(20);
    let numbers: Vec<_> = bench.transport.take().iter().map(|m| (m.get_extra_msg().get_index(), kind_of(m))).collect();
    let parked = AnswerKind::RegionNotInitialized;
    assert_eq!(numbers, [(5, parked), (9, parked), (9, AnswerKind::Warm)], "one final answer");
}

/// The table of DESIGN §4, on the wire.
#[test]
fn final_answers_are_told_from_others() {
    use AnswerKind::*;
    let all = [Warm, Accepted, RegionNotInitialized, DataIsNotReady, EpochNotMatch, StoreNotMatch, MismatchPeerId];
    let others = [RegionNotFound, ServerIsBusy, Other];
    let open: Vec<_> = all.into_iter().chain(others).filter(|kind| !kind.is_final()).collect();
    assert_eq!(open, [Accepted, RegionNotInitialized, DataIsNotReady, EpochNotMatch]);
}

/// A waiting request outlives the preparation of a merge, and ends with its region when the merge is committed; what waits
/// for the target goes on.
#[test]
fn committed_merge_supersedes_what_waits_for_the_source_only() {
    use raftstore::coprocessor::RegionChangeReason;

    let bench = Bench::new();
    for region_id in [7, 8] {
        bench.create(&region(region_id));
        bench.receive(&request(region_id));
    }
    bench.millis(10);
    let mut source = region(7);
    source.mut_region_epoch().set_version(3);
    bench.update(&source, RegionChangeReason::PrepareMerge);
    bench.millis(500);
    assert_eq!(bench.answers(), []);
    let mut target = region(8);
    target.set_start_key(source.get_start_key().to_vec());
    target.mut_region_epoch().set_version(4);
    // The cache evicts both.
    bench.cache.evict(7);
    bench.cache.evict(8);
    bench.update(&target, RegionChangeReason::CommitMerge);
    bench.destroy(&source);
    bench.observer.step();
    let answers = bench.transport.take();
    let error = error_of(&answers[0]).unwrap();
    assert_eq!((answers.len(), error.get_region_not_found().get_region_id()), (1, 7));
    assert_eq!(error.get_message(), "region is merged into another one, which supersedes it");
    bench.millis(100);
    bench.cache.finish_loads();
    bench.millis(20);
    assert_eq!((bench.cache.loads(), bench.answers()), (vec![7, 8, 8], vec![AnswerKind::Warm]));
    bench.millis(60_000);
    assert_eq!(bench.observer.status().parked_requests, 0);
}

#[cfg(feature = "transfer-leader")]
mod asking {
    use kvproto::raft_cmdpb::TransferLeaderRequest;
    use proptest::prelude::*;
    use raft::StateRole;
    use raftstore::coprocessor::{ObserverContext, TransferLeaderObserver};

    use super::*;
    use crate::core::{ColdReason, Notice};

    /// A store that leads region 7, whose cache holds it.
    fn leader(config: &Config, seed: u64) -> Bench {
        let bench = Bench::on_store(STORE, config, seed);
        bench.cache.load_at_once();
        bench.create(&region(7));
        bench.lead(&region(7));
        bench.receive(&request(7));
        bench.millis(20);
        bench.transport.take();
        bench
    }

    fn offer_to_other_store(bench: &Bench) {
        let mut request = TransferLeaderRequest::default();
        request.set_peer(peer(7, OTHER_STORE));
        bench.observer.pre_transfer_leader(&mut ObserverContext::new(&region(7)), &request).unwrap();
    }

    /// What the other store says to `asked`.
    fn answer_to(asked: &RaftMessage, kind: AnswerKind) -> RaftMessage {
        use protobuf::Message;

        let mut message = RaftMessage::default();
        message.set_region_id(asked.get_region_id());
        message.set_from_peer(asked.get_to_peer().clone());
        message.set_to_peer(asked.get_from_peer().clone());
        message.mut_extra_msg().set_type(ExtraMessageType::MsgPreLoadRegionResponse);
        message.mut_extra_msg().set_index(asked.get_extra_msg().get_index());
        let mut error = kvproto::errorpb::Error::default();
        match kind {
            AnswerKind::Warm => return message,
            AnswerKind::DataIsNotReady => error.mut_data_is_not_ready().set_region_id(7),
            AnswerKind::ServerIsBusy => error.mut_server_is_busy().set_reason("full".into()),
            _ => unreachable!("not needed"),
        }
        message.set_extra_ctx(error.write_to_bytes().unwrap());
        message
    }

    /// What the core wants told since it was last asked; taken before a step would report it.
    fn notices(bench: &Bench) -> Vec<Notice> {
        bench.observer.take_notices()
    }

    fn transfer_ends(bench: &Bench) -> Vec<Notice> {
        notices(bench); // What is older does not count.
        bench.role(&region(7), StateRole::Follower, &peer(7, OTHER_STORE));
        notices(bench)
    }

    #[test]
    fn request_is_sent_again_until_the_final_answer() {
        let bench = leader(&Config::default(), 1);
        offer_to_other_store(&bench);
        bench.millis(0);
        let first = bench.transport.take();
        bench.millis(500);
        assert_eq!(bench.transport.take(), first, "the same request, with the same number");
        bench.receive(&answer_to(&first[0], AnswerKind::DataIsNotReady));
        bench.millis(1000);
        assert_eq!(bench.transport.take(), first, "the target may restart and forget it");
        bench.receive(&answer_to(&first[0], AnswerKind::Warm));
        bench.millis(5000);
        assert!(bench.transport.take().is_empty());
        assert!(matches!(transfer_ends(&bench)[..], [Notice::TransferWarm { .. }, ..]));
    }

    #[test]
    fn waits_between_sends_double_and_are_spread() {
        let bench = leader(&Config::default(), 1);
        offer_to_other_store(&bench);
        let begin = bench.now();
        let mut sent_at = Vec::new();
        while bench.now() < begin + Duration::from_secs(10) {
            bench.millis(1);
            sent_at.extend(bench.transport.take().iter().map(|_| bench.now() - begin));
        }
        let waits: Vec<_> = sent_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((3..=6).contains(&waits.len()), "{waits:?}");
        for (n, wait) in waits.iter().enumerate() {
            let full = Duration::from_millis(500 << n) + Duration::from_millis(1);
            assert!(*wait <= full && *wait + Duration::from_millis(2) >= full / 2, "{n}: {wait:?} of {full:?}");
        }
    }

    /// A store without the plugin does not answer, and the transfer does not wait for it.
    #[test]
    fn target_that_never_answers_is_given_up_at_the_deadline() {
        let bench = leader(&Config::default(), 1);
        offer_to_other_store(&bench);
        bench.millis(9990);
        assert_eq!(bench.observer.status().in_flight_requests, 1);
        assert!(bench.transport.take().len() >= 4);
        bench.millis(10);
        assert_eq!(bench.observer.status().in_flight_requests, 0);
        bench.millis(60_000);
        assert!(bench.transport.take().is_empty());
    }

    #[test]
    fn leader_that_leads_no_more_asks_no_more() {
        let bench = leader(&Config::default(), 1);
        offer_to_other_store(&bench);
        bench.millis(0);
        bench.transport.take();
        let ends = transfer_ends(&bench);
        assert!(matches!(ends[..], [Notice::TransferCold { reason: ColdReason::NoAnswer, .. }, ..]), "{ends:?}");
        assert_eq!(bench.observer.status().in_flight_requests, 0);
        bench.millis(20_000);
        assert!(bench.transport.take().is_empty());
    }

    #[test]
    fn final_answer_stays_the_last_word() {
        let bench = leader(&Config::default(), 1);
        offer_to_other_store(&bench);
        bench.millis(0);
        let asked = bench.transport.take().remove(0);
        for kind in [AnswerKind::ServerIsBusy, AnswerKind::Warm, AnswerKind::DataIsNotReady] {
            bench.receive(&answer_to(&asked, kind));
        }
        let ends = transfer_ends(&bench);
        let expected = ColdReason::Answered(AnswerKind::ServerIsBusy);
        assert!(matches!(ends[..], [Notice::TransferCold { reason, .. }, ..] if reason == expected), "{ends:?}");
    }

    #[test]
    fn answer_to_an_earlier_request_is_not_one_to_this() {
        let bench = leader(&Config::default(), 1);
        offer_to_other_store(&bench);
        bench.millis(0);
        let earlier = bench.transport.take().remove(0);
        bench.receive(&answer_to(&earlier, AnswerKind::ServerIsBusy));
        offer_to_other_store(&bench);
        bench.millis(0);
        let asked = bench.transport.take().remove(0);
        assert_ne!(asked.get_extra_msg().get_index(), earlier.get_extra_msg().get_index());
        // It was held up in the network.
        bench.receive(&answer_to(&earlier, AnswerKind::Warm));
        let ends = transfer_ends(&bench);
        assert!(matches!(ends[..], [Notice::TransferCold { reason: ColdReason::NoAnswer, .. }, ..]), "{ends:?}");
    }

    #[test]
    fn asking_store_that_restarted_ignores_what_it_asked_before() {
        let before = leader(&Config::default(), 1);
        offer_to_other_store(&before);
        before.millis(0);
        let earlier = before.transport.take().remove(0);
        let after = leader(&Config::default(), 2);
        after.receive(&answer_to(&earlier, AnswerKind::Warm));
        offer_to_other_store(&after);
        after.millis(0);
        assert_ne!(after.transport.take()[0].get_extra_msg().get_index(), earlier.get_extra_msg().get_index());
        after.receive(&answer_to(&earlier, AnswerKind::Warm));
        assert!(matches!(transfer_ends(&after)[..], [Notice::TransferCold { reason: ColdReason::NoAnswer, .. }, ..]));
    }

    #[test]
    fn target_that_restarts_is_asked_again_and_warms_up() {
        let asking = leader(&Config::default(), 1);
        offer_to_other_store(&asking);
        asking.millis(0);
        // The request reaches the target, which parks it and goes down without a word.
        asking.transport.take();
        let target = Bench::on_store(OTHER_STORE, &Config::default(), 3);
        target.cache.load_at_once();
        target.create(&region(7));
        asking.millis(500);
        for message in asking.transport.take() {
            target.receive(&message);
        }
        target.millis(20);
        for message in target.transport.take() {
            asking.receive(&message);
        }
        assert!(matches!(transfer_ends(&asking)[..], [Notice::TransferWarm { .. }, ..]));
    }

    /// What a bad network does with the next message, and what else happens.
    #[derive(Clone, Copy, Debug)]
    enum Luck {
        Deliver,
        Lose,
        Duplicate,
        Hold,
        TargetRestarts,
    }

    fn luck() -> impl Strategy<Value = Luck> {
        prop_oneof![
            4 => Just(Luck::Deliver),
            3 => Just(Luck::Lose),
            2 => Just(Luck::Duplicate),
            2 => Just(Luck::Hold),
            1 => Just(Luck::TargetRestarts),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        /// As long as the network is bad, anything may be lost. Once it is sound, one of the requests that are sent again
        /// gets through, and both sides come to the same end before the deadline.
        #[test]
        fn both_sides_agree_over_a_network_that_loses_duplicates_and_reorders(
            // A request is sent five times at least; a bad network loses all of them with five strokes of bad luck.
            lucks in prop::collection::vec(luck(), 0..5),
            rand_seed in any::<u64>(),
        ) {
            let asking = leader(&Config::default(), rand_seed);
            let restart = |seed| {
                let target = Bench::on_store(OTHER_STORE, &Config::default(), seed);
                target.cache.load_at_once();
                target.create(&region(7));
                target
            };
            let mut target = restart(3);
            let mut restarts = 0;
            offer_to_other_store(&asking);
            let mut lucks = lucks.into_iter();
            let mut held: Vec<RaftMessage> = Vec::new();
            for step in 0..90_u64 {
                asking.millis(100);
                target.millis(100);
                let sent: Vec<_> = asking.transport.take().into_iter().chain(target.transport.take()).collect();
                for message in sent {
                    let copies = match lucks.next().unwrap_or(Luck::Deliver) {
                        Luck::Deliver => 1,
                        Luck::Lose => 0,
                        Luck::Duplicate => 2,
                        Luck::Hold => {
                            held.push(message.clone());
                            0
                        }
                        Luck::TargetRestarts => {
                            target = restart(step + 10);
                            restarts += 1;
                            1
                        }
                    };
                    for _ in 0..copies {
                        let to = if is_request(&message) { &target } else { &asking };
                        assert!(!to.receive(&message));
                    }
                    // What was held is delivered later, in the reverse order.
                    if let Some(late) = held.pop().filter(|_| step % 3 == 2) {
                        let to = if is_request(&late) { &target } else { &asking };
                        assert!(!to.receive(&late));
                    }
                }
            }
            let ends = transfer_ends(&asking);
            prop_assert!(matches!(ends[..], [Notice::TransferWarm { .. }, ..]), "{:?}", ends);
            prop_assert_eq!(target.observer.status().parked_requests, 0);
            // A target that restarts after it has answered is cold, and its leader does not know.
            prop_assert!(target.cache.holds(7) || restarts > 0);
        }
    }
}
