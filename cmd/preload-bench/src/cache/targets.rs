//! What figures are to reach.
//!
//! **Owns** the list.
//!
//! **How it works.** A target belongs to a case and a side, in each shape that it makes sense for. What is compared was
//! measured in one run, so that a target says the same on each machine.
//!
//! **Invariants.** A target against RocksDB is not judged without RocksDB.
//!
//! **Must not** change a figure.

use crate::report::{Figure, Target};

use super::dataset::Shape;

#[derive(Clone, Copy, Debug)]
enum Goal {
    /// So many times faster than the side that the figure is compared with, when that is one of RocksDB.
    Faster(f64),
    /// The same, where a user key has so many versions.
    FasterWithVersions(f64, u64),
    /// At least this part of the speed of the side that the figure is compared with.
    Speed(f64),
    /// The figure itself, in its unit.
    AtMost(f64, &'static str),
    /// At most so many times another case of the same shape and side.
    AtMostTimes(f64, &'static str),
    /// Not further from another case of the same shape and side, in per cent.
    Within(f64, &'static str),
}

const TARGETS: [(&str, &str, Goal); 15] = [
    ("next", "ours", Goal::Faster(6.0)),
    ("next", "ours_after_writes", Goal::Faster(6.0)),
    ("seek", "ours", Goal::Faster(4.0)),
    ("get", "ours", Goal::Faster(5.0)),
    ("row_at_ts", "ours", Goal::FasterWithVersions(40.0, 10)),
    ("snapshot", "ours", Goal::AtMost(100.0, "ns")),
    ("load_rocksdb", "ours", Goal::Speed(0.6)),
    ("load_fjall", "ours", Goal::Speed(0.6)),
    ("memory_allocated_loaded", "ours", Goal::AtMostTimes(1.1, "memory_payload")),
    ("memory_allocated_merged", "ours", Goal::AtMostTimes(1.1, "memory_payload")),
    ("memory_accounted_loaded", "ours", Goal::Within(3.0, "memory_allocated_loaded")),
    ("memory_accounted_merged", "ours", Goal::Within(3.0, "memory_allocated_merged")),
    ("evict_call", "ours", Goal::AtMost(50.0, "µs")),
    ("evict_free", "ours", Goal::AtMost(20_000.0, "µs")),
    ("write", "ours", Goal::AtMost(1000.0, "ns")),
];

/// A row with many versions costs no more than so many times one with a single version.
const MANY_VERSIONS: (f64, u64) = (1.3, 100);

pub(crate) fn judge(figures: &mut [Figure]) {
    for index in 0..figures.len() {
        if let Some(target) = target_of(&figures[index], figures) {
            figures[index].set_target(target);
        }
    }
}

fn target_of(figure: &Figure, all: &[Figure]) -> Option<Target> {
    let (shape, name) = figure.case().split_once('/')?;
    let versions = shape.parse::<Shape>().ok()?.versions;
    if (name, figure.side(), versions) == ("row_at_ts", "ours", MANY_VERSIONS.1) {
        let single = all.iter().find(|other| {
            let case = other.case().split_once('/').map(|(shape, name)| (shape.parse(), name));
            matches!(case, Some((Ok(Shape { versions: 1, .. }), found)) if found == name) && other.side() == "ours"
        })?;
        return Some(Target::at_most(MANY_VERSIONS.0, "x a row of 1 version", figure.median() / single.median()));
    }
    let (.., goal) = TARGETS.iter().find(|(case, side, _)| (*case, *side) == (name, figure.side()))?;
    let of_shape = |name: &str| {
        let other = all
            .iter()
            .find(|other| other.side() == figure.side() && other.case().split_once('/') == Some((shape, name)))?;
        Some(figure.median() / other.median())
    };
    let faster = |bound: f64| {
        let (ratio, than) = figure.ratio().filter(|(_, than)| than.starts_with("rocksdb"))?;
        Some(Target::at_least(bound, &format!("x faster than {than}"), 1.0 / ratio))
    };
    match *goal {
        Goal::Faster(bound) => faster(bound),
        Goal::FasterWithVersions(bound, with) => faster(bound).filter(|_| versions == with),
        Goal::Speed(bound) => {
            figure.ratio().map(|(ratio, than)| Target::at_least(bound, &format!("of the speed of {than}"), 1.0 / ratio))
        }
        Goal::AtMost(bound, unit) => Some(Target::at_most(bound, unit, figure.median())),
        Goal::AtMostTimes(bound, of) => of_shape(of).map(|times| Target::at_most(bound, &format!("x {of}"), times)),
        Goal::Within(bound, of) => {
            of_shape(of).map(|times| Target::at_most(bound, &format!("% off {of}"), (times - 1.0).abs() * 100.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measure::Samples, report::Case};

    fn case(name: &str) -> Case {
        Case { bench: "cache", case: name.to_owned().into(), unit: "ns" }
    }

    fn compared(name: &str, base: &'static str, theirs: f64, ours: f64) -> Vec<Figure> {
        case(name).compare(&[Samples { side: base, nanos: vec![theirs] }, Samples { side: "ours", nanos: vec![ours] }])
    }

    /// The target of the last figure, as a line of JSON has it.
    fn judged(mut figures: Vec<Figure>) -> Option<(String, f64, bool)> {
        judge(&mut figures);
        let value = serde_json::to_value(figures.last()).unwrap();
        Some((value.get("target")?.as_str()?.into(), value["reached"].as_f64()?, value["met"].as_bool()?))
    }

    #[test]
    fn against_rocksdb_only_what_was_compared_with_it_is_judged() {
        let expected = ("≥ 6 x faster than rocksdb".to_owned(), 5.0, false);
        assert_eq!(judged(compared("100000x10/next", "rocksdb", 100.0, 20.0)), Some(expected));
        assert_eq!(judged(compared("100000x10/next", "fjall", 100.0, 20.0)), None);
    }

    #[test]
    fn rows_are_judged_by_how_many_versions_they_have() {
        let row = |shape: &str, ours| compared(&format!("{shape}/row_at_ts"), "rocksdb_next", 1000.0, ours);
        let expected = ("≥ 40 x faster than rocksdb_next".to_owned(), 50.0, true);
        assert_eq!(judged(row("100000x10", 20.0)), Some(expected));
        assert_eq!(judged(row("1000000x1", 20.0)), None);
        assert_eq!(judged(row("10000x100", 20.0)), None, "there is nothing to compare it with");
        let expected = ("≤ 1.3 x a row of 1 version".to_owned(), 1.5, false);
        assert_eq!(judged([row("1000000x1", 20.0), row("10000x100", 30.0)].concat()), Some(expected));
    }

    #[test]
    fn memory_is_judged_by_what_it_is_of() {
        let ours = |name: &str, bytes| case(&format!("100000x10/{name}")).alone("ours", vec![bytes]);
        let figures = |allocated, accounted| {
            let payload = ours("memory_payload", 100.0);
            vec![payload, ours("memory_allocated_loaded", allocated), ours("memory_accounted_loaded", accounted)]
        };
        let allocated = |bytes| judged(figures(bytes, bytes)[..2].to_vec()).unwrap();
        assert_eq!(allocated(110.0), ("≤ 1.1 x memory_payload".to_owned(), 1.1, true));
        assert!(!allocated(111.0).2);
        let accounted = |bytes| judged(figures(200.0, bytes)).unwrap();
        assert_eq!(accounted(196.0), ("≤ 3 % off memory_allocated_loaded".to_owned(), 2.0, true));
        assert!(!accounted(208.0).2 && !accounted(192.0).2);
    }
}
