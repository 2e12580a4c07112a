use super::{Sabotage, run};

/// Fixed, so that what is run by everybody is known to pass; `make sim` looks for new ones.
const SEEDS: std::ops::Range<u64> = 0..20;

#[test]
fn seeds_pass_and_a_seed_repeats_itself_to_the_last_byte() {
    for seed in SEEDS {
        let first = run(seed, None, false);
        assert!(first.result.is_ok(), "seed {seed}: {}", first.result.unwrap_err());
        let second = run(seed, None, true);
        assert_eq!(first.log_hash, second.log_hash, "seed {seed}");
        assert!(!second.log.is_empty());
    }
}

#[test]
fn seeds_differ() {
    assert_ne!(run(1, None, false).log_hash, run(2, None, false).log_hash);
}

#[test]
fn sabotage_is_known_by_its_name() {
    for sabotage in Sabotage::ALL {
        assert_eq!(Sabotage::from_name(sabotage.name()), Some(*sabotage));
    }
}

/// The cheap ones; `make sim-selftest` breaks the others as well.
#[test]
fn what_is_broken_is_noticed_by_the_check_that_stands_for_it() {
    let broken = [
        Sabotage::InitializationCheckSkipped,
        Sabotage::NotEvictedOnSnapshot,
        Sabotage::CacheMissesWrites,
        Sabotage::PieceKeepsRange,
        Sabotage::HeldSnapshotMoves,
        Sabotage::SnapshotsCollected,
        Sabotage::LocksPassedOver,
        Sabotage::AnswerDropped,
        Sabotage::AnswerDuplicated,
        Sabotage::IntentForgotten,
        Sabotage::LimitsIgnored,
        Sabotage::SplitForgotten,
        Sabotage::EntryCorrupted,
    ];
    for sabotage in broken {
        let is_caught = |seed| {
            let result = run(seed, Some(sabotage), false).result;
            result.is_err_and(|violation| sabotage.caught_by().contains(&violation.check))
        };
        assert!((0..100).any(is_caught), "{}", sabotage.name());
    }
}
