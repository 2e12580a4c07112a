//! Who may do what.
//!
//! # What it owns
//! The token, and the names by which the server may be called.
//!
//! # How it works
//! 1. The host that a request names must be an IP address, `localhost`, or one of `server.allowed-hosts`: a web page that
//!    has its own name resolve to this machine (DNS rebinding) is refused.
//! 2. A request with an `Origin` must come from a page of this very server: a page of another one (CSRF) is refused.
//! 3. A request that is not a GET says that it brings JSON, which a form of a page cannot; and it carries the token, if
//!    there is one.
//!
//! # Invariants
//! How long it takes to refuse a token does not depend on how much of it is right.
//!
//! # What it must not do
//! Tell why a token is wrong, or log one.

use std::{net::IpAddr, path::Path, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{SharedApp, StartError, error::ApiError};
use crate::{config::ServerSection, engine::DiskEngine, metrics::METRICS};

/// Shorter tokens can be guessed.
const TOKEN_LEN_MIN: usize = 16;

pub(super) struct Access {
    token: Option<String>,
    /// In lower case.
    allowed_hosts: Vec<String>,
}

impl Access {
    pub(super) fn new(config: &ServerSection) -> Result<Self, StartError> {
        let token = config.token_file.as_deref().map(read_token).transpose()?;
        if token.is_none() && !config.status_addr.ip().is_loopback() {
            return Err(StartError::NoToken(config.status_addr));
        }
        let allowed_hosts = config.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Ok(Self { token, allowed_hosts })
    }

    fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let host = text(header::HOST).unwrap_or_default();
        if !self.is_ours(host) {
            return Err(ApiError::forbidden(format!(
                "Host: {host:?} is neither an address nor one of server.allowed-hosts"
            )));
        }
        if let Some(origin) = text(header::ORIGIN) {
            let same = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if !same.is_some_and(|from| from.eq_ignore_ascii_case(host)) {
                return Err(ApiError::forbidden(format!("Origin: {origin:?} is not this server")));
            }
        }
        if method == Method::GET || method == Method::HEAD {
            return Ok(());
        }
        if let Some(token) = &self.token {
            let given = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
            if !given.is_some_and(|given| is_equal(given.trim().as_bytes(), token.as_bytes())) {
                return Err(ApiError::unauthorized());
            }
        }
        let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case("application/json") {
            Ok(())
        } else {
            Err(ApiError::unsupported_media_type())
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        let name = name.to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok() || name == "localhost" || self.allowed_hosts.contains(&name)
    }
}

fn read_token(path: &Path) -> Result<String, StartError> {
    let text = std::fs::read_to_string(path).map_err(|source| StartError::Token { path: path.to_owned(), source })?;
    let token = text.trim().to_owned();
    if token.len() < TOKEN_LEN_MIN {
        let (found, least) = (token.len(), TOKEN_LEN_MIN);
        return Err(StartError::ShortToken { path: path.to_owned(), found, least });
    }
    Ok(token)
}

/// Takes the same time for all that are equally long.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// Lets a request through, or answers it; counts the answer.
pub(super) async fn guard<D: DiskEngine>(
    State(app): State<Arc<super::App<D>>>,
    request: Request,
    next: Next,
) -> Response {
    let app: SharedApp<D> = app;
    let answer = match app.access.check(request.method(), request.headers()) {
        Ok(()) => match app.room.for_body(request.headers()).await {
            Ok(_place) => next.run(request).await,
            Err(full) => full.into_response(),
        },
        Err(refused) => refused.into_response(),
    };
    METRICS.requests.with_label_values(&[answer.status().as_str()]).inc();
    answer
}
