//! Sizes and durations with units, as TiKV's configuration files spell them.
//!
//! **Owns** the syntax of [`ReadableSize`] (`"64MiB"`, `"1.5GiB"`, `"512"`) and [`ReadableDuration`] (`"10s"`,
//! `"1m30s"`).
//!
//! **How it works.** A number has an optional fraction. It is scaled to bytes or nanoseconds in integer arithmetic;
//! what is left below one unit is dropped. Exponents (`"1e3KB"`), which TiKV reads because it goes through `f64`, are
//! not accepted.
//!
//! **Invariants.** What `Display` prints parses back to the same value.
//!
//! **Must not** panic on any text, nor wrap around or saturate while parsing: a value that does not fit is refused.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;
const PIB: u64 = 1024 * TIB;

/// Bytes per unit, largest first; the first name is the one that is printed. As in TiKV, `KB` means `KiB`.
const SIZE_UNITS: [(u64, &[&str]); 6] = [
    (PIB, &["PiB", "PB", "P"]),
    (TIB, &["TiB", "TB", "T"]),
    (GIB, &["GiB", "GB", "G"]),
    (MIB, &["MiB", "MB", "M"]),
    (KIB, &["KiB", "KB", "K"]),
    (1, &["B", ""]),
];

const NANOS_PER_SEC: u128 = 1_000_000_000;

/// Nanoseconds per unit, largest first.
const DURATION_UNITS: [(u128, &str); 7] = [
    (86_400 * NANOS_PER_SEC, "d"),
    (3_600 * NANOS_PER_SEC, "h"),
    (60 * NANOS_PER_SEC, "m"),
    (NANOS_PER_SEC, "s"),
    (1_000_000, "ms"),
    (1_000, "us"),
    (1, "ns"),
];

/// Digits after the point that count; 18 resolve a PiB to less than a byte and a day to less than a nanosecond.
const FRACTION_DIGITS_MAX: usize = 18;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error(
        "invalid size {0:?}, expected a number with an optional unit (B, KiB, MiB, GiB, TiB, PiB), such as \"64MiB\""
    )]
    Size(String),
    #[error("size {0:?} is too large, expected less than 16384PiB")]
    SizeTooLarge(String),
    #[error(
        "invalid duration {0:?}, expected numbers with units (d, h, m, s, ms, us, ns), largest unit first, such as \
         \"1m30s\""
    )]
    Duration(String),
    #[error("duration {0:?} is too long, expected less than 2^64s")]
    DurationTooLong(String),
}

/// A number of bytes.
///
/// ```
/// use tikv_util::config::ReadableSize;
///
/// assert_eq!("1.5KiB".parse(), Ok(ReadableSize(1536)));
/// assert_eq!(ReadableSize::mb(64).to_string(), "64MiB");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadableSize(pub u64);

impl ReadableSize {
    /// KiB; more than fit are cut down to `u64::MAX` bytes.
    pub const fn kb(count: u64) -> Self {
        ReadableSize(count.saturating_mul(KIB))
    }

    /// MiB; more than fit are cut down to `u64::MAX` bytes.
    pub const fn mb(count: u64) -> Self {
        ReadableSize(count.saturating_mul(MIB))
    }

    /// GiB; more than fit are cut down to `u64::MAX` bytes.
    pub const fn gb(count: u64) -> Self {
        ReadableSize(count.saturating_mul(GIB))
    }
}

/// The largest unit in which the size is a whole number.
impl fmt::Display for ReadableSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, names) in SIZE_UNITS {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return write!(f, "{}{}", self.0 / unit, names[0]);
            }
        }
        f.write_str("0B")
    }
}

impl FromStr for ReadableSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let invalid = || ParseError::Size(text.to_owned());
        let (number, unit_name) = split_number(text.trim());
        let unit_name = unit_name.trim_start();
        let (unit, _) = SIZE_UNITS.into_iter().find(|(_, names)| names.contains(&unit_name)).ok_or_else(invalid)?;
        let too_large = || ParseError::SizeTooLarge(text.to_owned());
        let bytes = Decimal::parse(number).ok_or_else(invalid)?.scale(unit.into()).ok_or_else(too_large)?;
        u64::try_from(bytes).map(ReadableSize).map_err(|_| too_large())
    }
}

impl Serialize for ReadableSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A string as [`FromStr`] reads it, or an integer: bytes.
impl<'de> Deserialize<'de> for ReadableSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ReadableSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64MiB\", or a number of bytes")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ReadableSize, E> {
                Ok(ReadableSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ReadableSize, E> {
                u64::try_from(bytes)
                    .map(ReadableSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ReadableSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// A duration.
///
/// ```
/// use tikv_util::config::ReadableDuration;
///
/// assert_eq!("1m30s".parse(), Ok(ReadableDuration::secs(90)));
/// assert_eq!(ReadableDuration::millis(1500).to_string(), "1s500ms");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadableDuration(pub Duration);

impl ReadableDuration {
    pub const fn millis(count: u64) -> Self {
        ReadableDuration(Duration::from_millis(count))
    }

    pub const fn secs(count: u64) -> Self {
        ReadableDuration(Duration::from_secs(count))
    }

    /// More minutes than fit are cut down to `u64::MAX` seconds.
    pub const fn minutes(count: u64) -> Self {
        Self::secs(count.saturating_mul(60))
    }

    /// More hours than fit are cut down to `u64::MAX` seconds.
    pub const fn hours(count: u64) -> Self {
        Self::secs(count.saturating_mul(3600))
    }
}

impl From<ReadableDuration> for Duration {
    fn from(duration: ReadableDuration) -> Duration {
        duration.0
    }
}

/// As many of each unit as fit, largest first: `1d2h3m4s5ms`.
impl fmt::Display for ReadableDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, name) in DURATION_UNITS {
            if nanos >= unit {
                write!(f, "{}{name}", nanos / unit)?;
                nanos %= unit;
            }
        }
        Ok(())
    }
}

impl FromStr for ReadableDuration {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let invalid = || ParseError::Duration(text.to_owned());
        let too_long = || ParseError::DurationTooLong(text.to_owned());
        let mut nanos: u128 = 0;
        let mut rest = text.trim();
        // The units that may still follow.
        let mut units = DURATION_UNITS.into_iter();
        loop {
            let (number, unit_and_rest) = split_number(rest);
            let unit_len = unit_and_rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit_and_rest.len());
            let (unit_name, next) = unit_and_rest.split_at(unit_len);
            let (unit, _) = units.find(|(_, name)| *name == unit_name).ok_or_else(invalid)?;
            nanos = Decimal::parse(number)
                .ok_or_else(invalid)?
                .scale(unit)
                .and_then(|part| nanos.checked_add(part))
                .ok_or_else(too_long)?;
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        let secs = u64::try_from(nanos / NANOS_PER_SEC).map_err(|_| too_long())?;
        // The remainder of a division by 10^9 fits 32 bits.
        let subsec_nanos = (nanos % NANOS_PER_SEC) as u32;
        Ok(ReadableDuration(Duration::new(secs, subsec_nanos)))
    }
}

impl Serialize for ReadableDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A string as [`FromStr`] reads it. A bare number is refused, because nobody can tell its unit.
impl<'de> Deserialize<'de> for ReadableDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ReadableDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"1m30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ReadableDuration, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// Splits off the longest prefix that can belong to a number.
fn split_number(text: &str) -> (&str, &str) {
    let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(number_len)
}

/// A decimal number without sign: `integer + fraction / 10^fraction_digits`.
struct Decimal {
    integer: u128,
    fraction: u128,
    fraction_digits: u32,
}

impl Decimal {
    /// `None` unless `text` is digits with at most one point, and has a digit before the point.
    fn parse(text: &str) -> Option<Self> {
        let (integer, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if integer.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let fraction = fraction.get(..FRACTION_DIGITS_MAX).unwrap_or(fraction);
        Some(Decimal {
            // Too many digits for 128 bits are too many for any unit: let `scale` refuse them.
            integer: parse_digits(integer)?,
            fraction: if fraction.is_empty() { 0 } else { fraction.parse().ok()? },
            fraction_digits: fraction.len() as u32,
        })
    }

    /// The number times `unit`, rounded down; `None` if that does not fit.
    fn scale(&self, unit: u128) -> Option<u128> {
        // At most 10^18 * 2^50, which is less than 2^128.
        let fraction = self.fraction * unit / 10_u128.pow(self.fraction_digits);
        self.integer.checked_mul(unit)?.checked_add(fraction)
    }
}

/// `u128::MAX` stands for all larger numbers.
fn parse_digits(digits: &str) -> Option<u128> {
    digits.bytes().try_fold(0_u128, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u128::from(byte - b'0'))?;
        Some(value.saturating_mul(10).saturating_add(digit))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Table {
        size: ReadableSize,
        duration: ReadableDuration,
    }

    #[test]
    fn sizes_parse_in_every_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("2K", 2048),
            ("2KB", 2048),
            ("2KiB", 2048),
            ("64MiB", 64 << 20),
            (" 64 MB ", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("1.GB", 1 << 30),
            ("0.1KiB", 102),
            ("2T", 2 << 40),
            ("1PB", 1 << 50),
            ("0.000000000000001PiB", 1),
            ("1.50000000000000000000000000000000000000000KiB", 1536),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ReadableSize(bytes)), "{text}");
        }
    }

    #[test]
    fn malformed_and_too_large_sizes_are_refused() {
        for text in ["", " ", "MiB", "-1MiB", "+1", "1.2.3MiB", ".5MiB", "1mib", "1MiB2KiB", "1 2", "１MiB", "1e3"] {
            let err = text.parse::<ReadableSize>().unwrap_err();
            assert_eq!(err, ParseError::Size(text.to_owned()));
        }
        for text in [
            "18446744073709551616",
            "16384PiB",
            // 2^78 PiB and 2^128 bytes are zero in 128 bits that wrap around.
            "302231454903657293676544PiB",
            "340282366920938463463374607431768211456",
        ] {
            let err = text.parse::<ReadableSize>().unwrap_err();
            assert_eq!(err, ParseError::SizeTooLarge(text.to_owned()));
        }
        let err = "64XB".parse::<ReadableSize>().unwrap_err().to_string();
        assert!(err.contains("\"64XB\"") && err.contains("MiB"), "{err}");
    }

    #[test]
    fn durations_parse_in_every_unit() {
        for (text, millis) in [
            ("0s", 0),
            ("10s", 10_000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("1.5h", 5_400_000),
            ("0.5s", 500),
            ("1d2h3m4s5ms", 93_784_005),
            (" 7000us ", 7),
            ("3000000ns", 3),
        ] {
            assert_eq!(text.parse(), Ok(ReadableDuration::millis(millis)), "{text}");
        }
    }

    #[test]
    fn malformed_and_too_long_durations_are_refused() {
        for text in ["", "10", "s", "1s1m", "1s1s", "-1s", "1m 30s", "1m30", "1.2.3s", "1M", "10 s"] {
            let err = text.parse::<ReadableDuration>().unwrap_err();
            assert_eq!(err, ParseError::Duration(text.to_owned()));
        }
        let huge = format!("{}d", "9".repeat(60));
        for text in ["18446744073709551616s", &huge] {
            let err = text.parse::<ReadableDuration>().unwrap_err();
            assert_eq!(err, ParseError::DurationTooLong(text.to_owned()));
        }
        let err = "5x".parse::<ReadableDuration>().unwrap_err().to_string();
        assert!(err.contains("\"5x\"") && err.contains("ms"), "{err}");
    }

    #[test]
    fn constructors_saturate_instead_of_overflowing() {
        assert_eq!(ReadableSize::gb(u64::MAX), ReadableSize(u64::MAX));
        assert_eq!(ReadableDuration::hours(u64::MAX), ReadableDuration::secs(u64::MAX));
    }

    #[test]
    fn display_uses_the_largest_unit_that_is_exact() {
        assert_eq!(ReadableSize(0).to_string(), "0B");
        assert_eq!(ReadableSize::kb(1536).to_string(), "1536KiB");
        assert_eq!(ReadableSize::gb(2048).to_string(), "2TiB");
        assert_eq!(ReadableSize(1025).to_string(), "1025B");
        assert_eq!(ReadableDuration::secs(0).to_string(), "0s");
        assert_eq!(ReadableDuration::millis(93_784_005).to_string(), "1d2h3m4s5ms");
    }

    #[test]
    fn toml_round_trips_and_its_errors_name_the_value() {
        let table: Table = toml::from_str("size = '64MiB'\nduration = '1m30s'").unwrap();
        let expected = Table { size: ReadableSize::mb(64), duration: ReadableDuration::secs(90) };
        assert_eq!(table, expected);
        assert_eq!(toml::to_string(&table).unwrap(), "size = \"64MiB\"\nduration = \"1m30s\"\n");

        let table: Table = toml::from_str("size = 512\nduration = '0s'").unwrap();
        assert_eq!(table.size, ReadableSize(512));
        let err = |text| toml::from_str::<Table>(text).unwrap_err().to_string();
        assert!(err("size = -1\nduration = '1s'").contains("-1"));
        assert!(err("size = '1XB'\nduration = '1s'").contains("1XB"));
        assert!(err("size = '1'\nduration = 10").contains("10"));
    }

    proptest! {
        #[test]
        fn every_size_parses_back(bytes: u64, shift in 0..64) {
            // Zeros at the low end, so that units other than bytes are printed.
            let size = ReadableSize(bytes >> shift << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn every_duration_parses_back(secs: u64, nanos in 0..1_000_000_000_u32, shift in 0..64) {
            let duration = ReadableDuration(Duration::new(secs >> shift, nanos));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*|[0-9.]{0,50}[a-zA-Z]{0,3}|([0-9.]{1,40}(d|h|m|s|ms)){0,4}") {
            let _ = text.parse::<ReadableSize>();
            let _ = text.parse::<ReadableDuration>();
        }
    }
}
