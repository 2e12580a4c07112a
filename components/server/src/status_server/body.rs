//! What a request brings.
//!
//! # How it works
//! A body is taken in up to `server.max-body-size` and within `server.client-timeout`. No body counts as `{}`.

use axum::{
    extract::{FromRequest, Request},
    http::header,
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use tikv_util::config::ReadableDuration;
use txn_types::TimeStamp;

use super::{SharedApp, error::ApiError};
use crate::engine::DiskEngine;

/// A body in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<D: DiskEngine, T: DeserializeOwned> FromRequest<SharedApp<D>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &SharedApp<D>) -> Result<Self, ApiError> {
        let config = &app.node.config().server;
        let max_bytes = usize::try_from(config.max_body_size.0).unwrap_or(usize::MAX);
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > max_bytes) {
            return Err(ApiError::too_large(max_bytes));
        }
        let collected = Limited::new(request.into_body(), max_bytes).collect();
        let bytes = match tokio::time::timeout(config.client_timeout.0, collected).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(ApiError::too_large(max_bytes)),
            Ok(Err(error)) => return Err(ApiError::bad_request(format!("the body cannot be read: {error}"))),
            Err(_) => return Err(ApiError::timed_out("the body has not arrived in time", None)),
        };
        let text = if bytes.is_empty() { b"{}" as &[u8] } else { &bytes };
        let value = serde_json::from_slice(text).map_err(|error| ApiError::bad_request(format!("body: {error}")))?;
        Ok(Self(value))
    }
}

/// Bytes as hexadecimal digits, of either case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hex(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<De: Deserializer<'de>>(deserializer: De) -> Result<Self, De::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| (byte as char).to_digit(16);
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => None,
        };
        let bytes = text.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>();
        bytes.map(Hex).ok_or_else(|| {
            let shown: String = text.chars().take(32).collect();
            serde::de::Error::custom(format!("{shown:?} is not an even number of hexadecimal digits"))
        })
    }
}

/// A timestamp as a string of decimal digits, in both directions: as a number it is too large for programs that take numbers to
/// be floating-point, such as JavaScript, which would name another moment without noticing. For the same reason a number is
/// refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ts(pub(super) TimeStamp);

impl Serialize for Ts {
    fn serialize<Se: Serializer>(&self, serializer: Se) -> Result<Se::Ok, Se::Error> {
        serializer.collect_str(&self.0.into_inner())
    }
}

impl<'de> Deserialize<'de> for Ts {
    fn deserialize<De: Deserializer<'de>>(deserializer: De) -> Result<Self, De::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let is_digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let ts = value.as_str().filter(is_digits).and_then(|text| text.parse().ok());
        ts.map(|ts| Self(TimeStamp::new(ts))).ok_or_else(|| {
            let shown: String = value.to_string().chars().take(32).collect();
            serde::de::Error::custom(format!(
                "{shown} is not a timestamp: those are strings of digits, as in \"450000000000000000\""
            ))
        })
    }
}

/// How long a request may wait for its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeout(pub(super) std::time::Duration);

impl Default for Timeout {
    fn default() -> Self {
        Self(std::time::Duration::from_secs(30))
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<De: Deserializer<'de>>(deserializer: De) -> Result<Self, De::Error> {
        let timeout = ReadableDuration::deserialize(deserializer)?;
        let (min, max) = (ReadableDuration::millis(1), ReadableDuration::minutes(10));
        if timeout < min || timeout > max {
            return Err(serde::de::Error::custom(format!("timeout = {timeout} must be {min} to {max}")));
        }
        Ok(Self(timeout.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pairs_of_digits() {
        let parse = |text: &str| serde_json::from_value::<Hex>(text.into()).map(|hex| hex.0);
        assert_eq!(parse("00fFA1").unwrap(), [0, 255, 0xa1]);
        assert_eq!(parse("").unwrap(), Vec::<u8>::new());
        for wrong in ["0", "0g", "é0", "00 ", "+1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn timestamps_are_strings_of_digits_in_both_directions() {
        for ts in [0, 1, (1 << 53) + 1, u64::MAX] {
            let value = serde_json::json!(Ts(TimeStamp::new(ts)));
            assert_eq!(value, serde_json::json!(ts.to_string()));
            assert_eq!(serde_json::from_value::<Ts>(value).unwrap(), Ts(TimeStamp::new(ts)));
        }
        for wrong in
            ["1", "9007199254740993", "\"\"", "\"+1\"", "\"-1\"", "\"1 \"", "\"18446744073709551616\"", "[]", "1.5"]
        {
            assert!(serde_json::from_str::<Ts>(wrong).is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<Option<Ts>>("null").unwrap().is_none());
    }
}
