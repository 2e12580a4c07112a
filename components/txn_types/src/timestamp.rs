//! Timestamps of the placement driver's oracle.

use std::fmt;

/// Bits of the logical part.
const LOGICAL_BITS: u32 = 18;

/// A point in the global order of transactions: milliseconds since the Unix epoch (46 bits), then a counter within the
/// millisecond (18 bits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TimeStamp(u64);

impl TimeStamp {
    pub const fn new(ts: u64) -> Self {
        TimeStamp(ts)
    }

    /// Before every transaction; often stands for "none".
    pub const fn zero() -> Self {
        TimeStamp(0)
    }

    /// After every transaction; reading at it reads the latest version.
    pub const fn max() -> Self {
        TimeStamp(u64::MAX)
    }

    /// The timestamp `logical` ticks into the millisecond `physical`. Bits that do not fit their part are cut off.
    pub const fn compose(physical: u64, logical: u64) -> Self {
        TimeStamp((physical << LOGICAL_BITS) | (logical & ((1 << LOGICAL_BITS) - 1)))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn physical(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// The counter within the millisecond.
    pub const fn logical(self) -> u64 {
        self.0 & ((1 << LOGICAL_BITS) - 1)
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub const fn into_inner(self) -> u64 {
        self.0
    }
}

impl From<u64> for TimeStamp {
    fn from(ts: u64) -> Self {
        TimeStamp(ts)
    }
}

impl fmt::Display for TimeStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_timestamp_are_milliseconds_and_a_counter() {
        // 1_588_157_079_314 * 2^18 + 98_305
        let ts = TimeStamp::new(416_325_849_399_787_521);
        assert_eq!((ts.physical(), ts.logical()), (1_588_157_079_314, 98_305));
        assert_eq!(TimeStamp::compose(1_588_157_079_314, 98_305), ts);
        assert_eq!(TimeStamp::compose(1, 0).into_inner(), 262_144);
        assert_eq!(TimeStamp::compose(1, 1 << 18), TimeStamp::compose(1, 0));
    }

    #[test]
    fn timestamps_order_and_print_like_their_number() {
        assert!(TimeStamp::zero() < 1.into());
        assert!(TimeStamp::from(1) < TimeStamp::max());
        assert_eq!(TimeStamp::new(42).to_string(), "42");
        assert_eq!(format!("{:>4}", TimeStamp::new(42)), "  42");
    }
}
