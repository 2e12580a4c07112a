use proptest::{collection::vec, prelude::*};

use super::*;

fn region(id: u64, epoch_version: u64, start: u8, end: u8) -> CacheRegion {
    CacheRegion::new(id, epoch_version, [b'z', start], [b'z', end])
}

fn queue(table: &mut RegionTable, region: CacheRegion) -> (Incarnation, LoadAttempt) {
    match table.request_load(region) {
        LoadDecision::Queued { incarnation, attempt, replaced } => {
            assert_eq!(replaced, []);
            (incarnation, attempt)
        }
        other => panic!("{other:?}"),
    }
}

fn state(table: &RegionTable, id: u64) -> Option<RegionState> {
    Some(table.live[&table.by_id(id)?].state)
}

#[test]
fn a_region_goes_from_pending_to_gone() {
    let mut table = RegionTable::default();
    let (incarnation, attempt) = queue(&mut table, region(1, 1, b'a', b'c'));
    assert_eq!(state(&table, 1), Some(RegionState::Pending));
    assert!(!table.finish_load(incarnation));
    assert!(table.begin_load(attempt));
    assert_eq!(state(&table, 1), Some(RegionState::Loading));
    assert!(table.finish_load(incarnation));
    assert_eq!(state(&table, 1), Some(RegionState::Active));
    assert!(!table.begin_load(attempt) && !table.finish_load(incarnation));
    assert!(table.evict(incarnation) && !table.evict(incarnation));
    assert_eq!((state(&table, 1), table.evicting().count()), (None, 1));
    table.gone(incarnation);
    assert_eq!(table.evicting().count(), 0);
}

#[test]
fn one_attempt_per_region_and_epoch() {
    let mut table = RegionTable::default();
    let (_, attempt) = queue(&mut table, region(1, 1, b'a', b'c'));
    assert_eq!(table.request_load(region(1, 1, b'a', b'c')), LoadDecision::AlreadyCached(RegionState::Pending));
    table.begin_load(attempt);
    assert_eq!(table.request_load(region(1, 1, b'a', b'c')), LoadDecision::AlreadyCached(RegionState::Loading));
    assert_eq!(table.request_load(region(2, 1, b'x', b'x')), LoadDecision::EmptyRange);
}

/// tikv/tikv#16777, #16679.
#[test]
fn parent_is_refused_while_its_pieces_are_loaded() {
    let mut table = RegionTable::default();
    queue(&mut table, region(1, 2, b'a', b'c'));
    queue(&mut table, region(2, 2, b'c', b'e'));
    let other = region(1, 2, b'a', b'c');
    assert_eq!(table.request_load(region(1, 1, b'a', b'e')), LoadDecision::Conflict { other: other.clone() });
    assert_eq!(table.request_load(region(3, 2, b'b', b'd')), LoadDecision::Conflict { other });
    assert_eq!(table.live().count(), 2);
}

/// tikv/tikv#17487, #17548.
#[test]
fn older_incarnations_neither_block_nor_confuse_a_load() {
    let mut table = RegionTable::default();
    let (old, old_attempt) = queue(&mut table, region(1, 1, b'a', b'c'));
    table.begin_load(old_attempt);
    table.evict(old);
    // The old one is still evicting.
    let (new, new_attempt) = queue(&mut table, region(1, 1, b'a', b'c'));
    assert_ne!(old, new);
    assert!(!table.finish_load(old) && !table.evict(old) && !table.begin_load(old_attempt));
    assert!(table.begin_load(new_attempt) && table.finish_load(new));
    table.gone(old);
    assert_eq!(state(&table, 1), Some(RegionState::Active));
    // The old one is still active, and outdated.
    let newer = table.request_load(region(1, 2, b'a', b'b'));
    assert!(matches!(newer, LoadDecision::Queued { replaced, .. } if replaced == [new]));
    assert_eq!(state(&table, 1), Some(RegionState::Pending));
}

/// tikv/tikv#17403.
#[test]
fn a_split_is_followed_in_every_state() {
    for steps in 0..3 {
        let mut table = RegionTable::default();
        let (source, attempt) = queue(&mut table, region(1, 1, b'a', b'e'));
        let mut expected = RegionState::Pending;
        if steps > 0 {
            table.begin_load(attempt);
            expected = RegionState::Loading;
        }
        if steps > 1 {
            table.finish_load(source);
            expected = RegionState::Active;
        }
        let pieces = [region(2, 2, b'a', b'c'), region(1, 2, b'c', b'e')];
        let decision = table.split(&region(1, 1, b'a', b'e'), &pieces);
        assert!(matches!(decision, SplitDecision::Followed { source: from, .. } if from == source));
        assert_eq!((state(&table, 1), state(&table, 2)), (Some(expected), Some(expected)));
        assert!(!table.finish_load(source));
        // Told twice.
        assert_eq!(table.split(&region(1, 1, b'a', b'e'), &pieces), SplitDecision::Ignored);

        if expected != RegionState::Active {
            table.begin_load(attempt);
            assert_eq!(table.next_range(attempt, b""), Some((b"za".to_vec(), b"zc".to_vec())));
            assert_eq!(table.next_range(attempt, b"zb"), Some((b"zb".to_vec(), b"zc".to_vec())));
            assert_eq!(table.next_range(attempt, b"zc"), Some((b"zc".to_vec(), b"ze".to_vec())));
            assert_eq!(table.next_range(attempt, b"ze"), None);
            table.evict(table.by_id(2).unwrap());
            assert_eq!(table.next_range(attempt, b""), Some((b"zc".to_vec(), b"ze".to_vec())));
            assert!(table.finish_load(table.by_id(1).unwrap()));
            assert_eq!(table.members(attempt).count(), 0);
        }
    }
}

#[test]
fn a_split_that_contradicts_what_is_cached_evicts_it() {
    let source = region(1, 3, b'a', b'e');
    let bad_pieces = [
        vec![],
        vec![region(2, 4, b'a', b'c'), region(1, 4, b'b', b'e')],
        vec![region(1, 4, b'a', b'c'), region(1, 4, b'c', b'e')],
        vec![region(2, 4, b'a', b'c'), region(1, 4, b'c', b'f')],
        vec![region(2, 3, b'a', b'c'), region(1, 3, b'c', b'e')],
        vec![region(2, 4, b'c', b'c'), region(1, 4, b'c', b'e')],
    ];
    for pieces in bad_pieces {
        let mut table = RegionTable::default();
        let (incarnation, _) = queue(&mut table, source.clone());
        assert_eq!(table.split(&source, &pieces), SplitDecision::Contradicted(incarnation));
        assert_eq!(table.live().count(), 0);
    }
    let good_pieces = [region(2, 6, b'a', b'c'), region(1, 6, b'c', b'e')];
    let mut table = RegionTable::default();
    let (incarnation, _) = queue(&mut table, source);
    // An epoch was missed.
    assert_eq!(table.split(&region(1, 5, b'a', b'e'), &good_pieces), SplitDecision::Contradicted(incarnation));
    assert_eq!(table.split(&region(9, 5, b'a', b'e'), &good_pieces), SplitDecision::Ignored);
}

#[derive(Clone, Debug)]
enum Op {
    Load(CacheRegion),
    Begin(usize),
    Finish(usize),
    Split { source: usize, at: u8, new_id: u64 },
    SplitAnything(CacheRegion, Vec<CacheRegion>),
    Evict(usize),
    Gone(usize),
}

fn any_region() -> impl Strategy<Value = CacheRegion> {
    (1..6u64, 0..4u64, b'a'..b'h', b'a'..b'h').prop_map(|(id, version, start, end)| region(id, version, start, end))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any_region().prop_map(Op::Load),
        2 => any::<usize>().prop_map(Op::Begin),
        2 => any::<usize>().prop_map(Op::Finish),
        2 => (any::<usize>(), b'a'..b'h', 1..6u64)
            .prop_map(|(source, at, new_id)| Op::Split { source, at, new_id }),
        1 => (any_region(), vec(any_region(), 0..4)).prop_map(|(source, pieces)| Op::SplitAnything(source, pieces)),
        1 => any::<usize>().prop_map(Op::Evict),
        1 => any::<usize>().prop_map(Op::Gone),
    ]
}

fn check_invariants(table: &RegionTable) {
    let mut live: Vec<_> = table.live.iter().collect();
    live.sort_by(|left, right| left.1.region.start.cmp(&right.1.region.start));
    for (incarnation, cached) in &live {
        assert!(cached.region.start < cached.region.end);
        assert_ne!(cached.state, RegionState::Evicting);
        assert_eq!(table.by_id[&cached.region.id], **incarnation);
        assert_eq!(table.by_start[&cached.region.start], **incarnation);
        assert!(!table.evicting.contains_key(*incarnation));
    }
    assert!(live.is_sorted_by(|left, right| left.1.region.end <= right.1.region.start));
    assert_eq!((table.by_id.len(), table.by_start.len()), (live.len(), live.len()));
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_the_invariants(ops in vec(op(), 1..80)) {
        let mut table = RegionTable::default();
        let nth = |table: &RegionTable, n: usize| {
            table.live.iter().nth(n % table.live.len().max(1)).map(|(i, live)| (*i, live.clone()))
        };
        let mut seen = BTreeSet::new();
        for op in ops {
            match op {
                Op::Load(region) => {
                    if let LoadDecision::Queued { incarnation, .. } = table.request_load(region) {
                        assert!(seen.insert(incarnation), "an incarnation is never reused");
                    }
                }
                Op::Begin(n) => {
                    if let Some((_, live)) = nth(&table, n) {
                        table.begin_load(live.attempt);
                    }
                }
                Op::Finish(n) => {
                    if let Some((incarnation, live)) = nth(&table, n) {
                        assert_eq!(table.finish_load(incarnation), live.state == RegionState::Loading);
                    }
                }
                Op::Split { source, at, new_id } => {
                    if let Some((_, live)) = nth(&table, source) {
                        let source = live.region;
                        let version = source.epoch_version + 1;
                        let left = CacheRegion::new(new_id, version, source.start.clone(), [b'z', at]);
                        let right = CacheRegion::new(source.id, version, [b'z', at], source.end.clone());
                        let count = table.live.len();
                        if let SplitDecision::Followed { replaced, .. } = table.split(&source, &[left, right]) {
                            assert_eq!(table.live.len(), count + 1 - replaced.len());
                        }
                    }
                }
                Op::SplitAnything(source, pieces) => {
                    table.split(&source, &pieces);
                }
                Op::Evict(n) => {
                    if let Some((incarnation, _)) = nth(&table, n) {
                        assert!(table.evict(incarnation));
                    }
                }
                Op::Gone(n) => {
                    if let Some(incarnation) = table.evicting.keys().nth(n % table.evicting.len().max(1)) {
                        table.gone(*incarnation);
                    }
                }
            }
            check_invariants(&table);
            for start in b'a'..b'h' {
                let range = region(0, 0, start, start + 2);
                let mut expected: Vec<_> = table.live.iter().filter(|(_, live)| live.region.overlaps(&range)).collect();
                expected.sort_by(|left, right| left.1.region.start.cmp(&right.1.region.start));
                let expected: Vec<_> = expected.into_iter().map(|(incarnation, _)| *incarnation).collect();
                assert_eq!(table.overlapping(&range.start, &range.end), expected);
            }
        }
    }
}
