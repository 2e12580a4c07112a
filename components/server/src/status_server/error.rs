//! Errors as clients see them.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use preload_observer::PinError;

use crate::{
    config::check::Mistake,
    kv::KvError,
    node::{ChangeError, RequestError},
};

/// An HTTP status, a code that scripts can tell apart, and a message for people.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// An operator that goes on.
    operator: Option<u64>,
    /// Each mistake of a request that has several.
    errors: Vec<Mistake>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), operator: None, errors: Vec::new() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn mistakes(errors: Vec<Mistake>) -> Self {
        let text: Vec<&str> = errors.iter().map(|mistake| mistake.message.as_str()).collect();
        Self { errors: errors.clone(), ..Self::bad_request(text.join("; ")) }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the token is missing or wrong: Authorization: Bearer TOKEN",
        )
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn region_not_found(region_id: u64) -> Self {
        RequestError::RegionNotFound(region_id).into()
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the method does not fit to the path")
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "refused", message)
    }

    pub(crate) fn too_large(max_bytes: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body is larger than {max_bytes} bytes"))
    }

    pub(crate) fn unsupported_media_type() -> Self {
        let message = "a request that changes something needs Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(crate) fn timed_out(message: impl Into<String>, operator: Option<u64>) -> Self {
        Self { operator, ..Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message) }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::StoreNotFound(_) => Self::new(StatusCode::NOT_FOUND, "store_not_found", message),
            RequestError::RegionNotFound(_) => Self::new(StatusCode::NOT_FOUND, "region_not_found", message),
            RequestError::Refused(_) => Self::refused(message),
            RequestError::Stopping => Self::unavailable(message),
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Mistakes(mistakes) => Self::mistakes(mistakes),
            ChangeError::Pin(PinError::Key { .. } | PinError::EmptyRange { .. }) => {
                Self::bad_request("start_key must be smaller than end_key")
            }
            ChangeError::Pin(PinError::TooMany { .. }) => Self::refused(error.to_string()),
            ChangeError::NotKept(_) => Self::unavailable(with_causes(&error)),
        }
    }
}

impl From<placement::Error> for ApiError {
    fn from(error: placement::Error) -> Self {
        use placement::Error;
        match error {
            Error::RegionNotFound { region_id } => Self::region_not_found(region_id),
            Error::StillRunning { operator, .. } => Self::timed_out(error.to_string(), Some(operator.0)),
            Error::TimedOut { .. } => Self::timed_out(error.to_string(), None),
            Error::Stopped | Error::Ids(_) => Self::unavailable(with_causes(&error)),
            Error::RegionIsBusy { .. }
            | Error::EpochChanged { .. }
            | Error::RegionGone { .. }
            | Error::RolledBack { .. }
            | Error::Cancelled(_)
            | Error::Refused(_) => Self::refused(error.to_string()),
        }
    }
}

impl From<KvError> for ApiError {
    fn from(error: KvError) -> Self {
        match &error {
            KvError::Refused(_) => Self::bad_request(error.to_string()),
            KvError::Unavailable(_) | KvError::Timestamp(_) => Self::unavailable(with_causes(&error)),
            KvError::Unknown(_) => Self::timed_out(error.to_string(), None),
            KvError::Corrupt(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "corrupt", with_causes(&error)),
        }
    }
}

/// The whole chain in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = serde_json::json!({ "error": { "code": self.code, "message": self.message } });
        if let Some(operator) = self.operator {
            body["operator"] = operator.into();
        }
        if !self.errors.is_empty() {
            body["errors"] = serde_json::json!(self.errors);
        }
        (self.status, Json(body)).into_response()
    }
}
