//! Points in time as people type them.
//!
//! **Owns** the forms that `--since` and `--until` take.
//!
//! **How it works.** With an offset a time is an instant. Without one it is what the clock showed where the log was written:
//! it is compared with the time as the line has it. `2h` is two hours before now.
//!
//! **Must not** guess: a text that has none of the forms is refused.

use std::cmp::Ordering;

use time::{
    Date, Duration, OffsetDateTime, PrimitiveDateTime, Time, format_description::well_known::Rfc3339,
    macros::format_description,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum When {
    Instant(OffsetDateTime),
    WallClock(PrimitiveDateTime),
}

#[derive(Debug, thiserror::Error)]
#[error(
    "expected a time like \"2024-12-23 15:03\", \"2024/12/23 15:03:27.079 +00:00\", \"2024-12-23T15:03:27Z\", \
     \"2024-12-23\", or how long ago, like \"2h\""
)]
pub(crate) struct ParseWhenError;

impl When {
    /// How this compares with the time of a line.
    pub(super) fn compare(self, line: OffsetDateTime) -> Ordering {
        match self {
            When::Instant(instant) => instant.cmp(&line),
            When::WallClock(wall) => wall.cmp(&PrimitiveDateTime::new(line.date(), line.time())),
        }
    }
}

/// Parses a time relative to `now`.
///
/// # Errors
///
/// When the text has none of the forms.
pub(crate) fn parse_when(text: &str, now: OffsetDateTime) -> Result<When, ParseWhenError> {
    let text = text.trim().trim_start_matches('[').trim_end_matches(']');
    if let Some(ago) = parse_ago(text) {
        return now.checked_sub(ago).map(When::Instant).ok_or(ParseWhenError);
    }
    if let Ok(instant) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(When::Instant(instant));
    }
    let text = text.replace('/', "-").replacen('T', " ", 1);
    let with_offset = format_description!(
        version = 2,
        "[year]-[month]-[day] [hour]:[minute]:[second][optional [.[subsecond]]] [offset_hour sign:mandatory]:[offset_minute]"
    );
    if let Ok(instant) = OffsetDateTime::parse(&text, with_offset) {
        return Ok(When::Instant(instant));
    }
    let without = format_description!(
        version = 2,
        "[year]-[month]-[day] [hour]:[minute][optional [:[second][optional [.[subsecond]]]]]"
    );
    if let Ok(wall) = PrimitiveDateTime::parse(&text, without) {
        return Ok(When::WallClock(wall));
    }
    Date::parse(&text, format_description!("[year]-[month]-[day]"))
        .map(|date| When::WallClock(PrimitiveDateTime::new(date, Time::MIDNIGHT)))
        .map_err(|_| ParseWhenError)
}

fn parse_ago(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let number: i64 = text.strip_suffix(unit)?.parse().ok().filter(|number| *number >= 0)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::seconds)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn each_form_is_understood() {
        let now = datetime!(2024-12-24 0:00 UTC);
        let instant = When::Instant(datetime!(2024-12-23 15:03:27.079 +8));
        for text in [
            "2024/12/23 15:03:27.079 +08:00",
            "[2024/12/23 15:03:27.079 +08:00]",
            "2024-12-23T15:03:27.079+08:00",
            "2024-12-23 15:03:27.079 +08:00",
        ] {
            assert_eq!(parse_when(text, now).unwrap(), instant, "{text}");
        }
        for (text, wall) in [
            ("2024-12-23 15:03:27", datetime!(2024-12-23 15:03:27)),
            ("2024/12/23T15:03", datetime!(2024-12-23 15:03)),
            ("2024-12-23", datetime!(2024-12-23 0:00)),
        ] {
            assert_eq!(parse_when(text, now).unwrap(), When::WallClock(wall), "{text}");
        }
        assert_eq!(parse_when("36h", now).unwrap(), When::Instant(datetime!(2024-12-22 12:00 UTC)));
        for bad in ["", "yesterday", "-1h", "12", "2024-13-01", "99999999999999999h", "9999999999d"] {
            assert!(parse_when(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn time_without_offset_is_what_the_line_shows() {
        let line = datetime!(2024-12-23 23:30 +8);
        assert_eq!(When::WallClock(datetime!(2024-12-23 23:30)).compare(line), Ordering::Equal);
        assert_eq!(When::Instant(datetime!(2024-12-23 23:30 UTC)).compare(line), Ordering::Greater);
    }
}
