//! Memory for what is large.
//!
//! # What it owns
//! How much of bodies is taken in at a time, and how many large answers are on their way.
//!
//! # How it works
//! A request with a body waits until there is room for all of it, and gives the room back with its answer. A large answer
//! has its place until the client has taken it in, or is cut off.
//!
//! # Invariants
//! However many connections there are, bodies and large answers together take a fixed amount of memory.
//!
//! # What it must not do
//! Hold up requests that are small: they need no room.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ApiError, ApiResult};
use crate::config::ServerSection;

/// Bodies that are taken in at a time, in KiB, unless a single one may be larger. What is made of them takes a few times that.
const BODIES_KIB: u32 = 64 << 10;
/// Answers that may be large and are being made, and those that are and have not been taken in. With 4 MiB of keys and values
/// one takes some 40 MiB while it is made, and 10 MiB then.
const LARGE_ANSWERS: usize = 4;
/// Bodies up to this size need no room: as many as there are connections fit.
const SMALL_KIB: u32 = 4;
/// An answer up to this size gives its place back as soon as it is made.
const SMALL_ANSWER_BYTES: usize = 64 << 10;

pub(super) struct Room {
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    body_max_kib: u32,
    timeout: Duration,
}

/// Room that is taken until it is dropped; `None` where none is needed.
pub(super) type Place = Option<OwnedSemaphorePermit>;

impl Room {
    pub(super) fn new(config: &ServerSection) -> Self {
        // At most 64 MiB, see the configuration's check.
        let body_max_kib = u32::try_from(config.max_body_size.0.div_ceil(1024)).unwrap_or(BODIES_KIB);
        Self {
            bodies: Arc::new(Semaphore::new(BODIES_KIB.max(body_max_kib) as usize)),
            answers: Arc::new(Semaphore::new(LARGE_ANSWERS)),
            body_max_kib,
            timeout: config.client_timeout.0,
        }
    }

    /// Waits for room for a request's body.
    pub(super) async fn for_body(&self, headers: &HeaderMap) -> ApiResult<Place> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let kib = match length {
            Some(length) => u32::try_from(u64::div_ceil(length, 1024)).unwrap_or(u32::MAX),
            None if headers.contains_key(header::TRANSFER_ENCODING) => self.body_max_kib,
            None => 0,
        };
        // A body that is too large is refused without being read.
        if kib <= SMALL_KIB || kib > self.body_max_kib {
            return Ok(None);
        }
        self.wait(self.bodies.clone().acquire_many_owned(kib)).await
    }

    /// Waits for room for a large answer.
    pub(super) async fn for_answer(&self) -> ApiResult<Place> {
        self.wait(self.answers.clone().acquire_owned()).await
    }

    async fn wait(
        &self,
        place: impl Future<Output = Result<OwnedSemaphorePermit, tokio::sync::AcquireError>>,
    ) -> ApiResult<Place> {
        match tokio::time::timeout(self.timeout, place).await {
            Ok(Ok(place)) => Ok(Some(place)),
            Ok(Err(_)) | Err(_) => Err(ApiError::unavailable("too many large requests are being served")),
        }
    }
}

/// An answer in JSON. One that is large keeps its place until almost all of it was sent, or nobody wants it any more.
pub(super) fn until_sent(answer: &serde_json::Value, place: Place) -> Response {
    let text = Bytes::from(answer.to_string());
    let body =
        if text.len() <= SMALL_ANSWER_BYTES { Body::from(text) } else { Body::new(Parts { text, _place: place }) };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A body that is handed over part by part: the connection takes the next one when it has sent the one before, and would
/// otherwise take all at once, and let go of the place.
struct Parts {
    text: Bytes,
    _place: Place,
}

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let len = self.text.len().min(SMALL_ANSWER_BYTES);
        let part = self.text.split_to(len);
        Poll::Ready((!part.is_empty()).then(|| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64)
    }
}
