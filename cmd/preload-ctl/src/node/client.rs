//! The way to a node's status server.
//!
//! **Owns** addresses, the token, timeouts, and what an answer means.
//!
//! **How it works.** A request is sent once, over a connection that is kept. An answer is JSON; one that is not a success
//! becomes an [`Error`] with the node's own words.
//!
//! **Invariants.** No answer takes more than [`ANSWER_BYTES_MAX`] of memory. The token goes to the named address only, never
//! through a proxy.
//!
//! **Must not** repeat a request: the node may have done it.

use std::{fs, path::Path, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::{Agent, Body, http::Response};

use super::error::{Error, Result};

/// Of a scan with 10,000 rows of a few KiB.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The node is told the timeout and answers at its end; this is for the way there and back.
const GRACE: Duration = Duration::from_secs(3);
const DEFAULT_PORT: u16 = 20180;

pub(crate) struct Client {
    agent: Agent,
    address: String,
    token: Option<String>,
    timeout: Duration,
}

#[derive(Clone, Copy)]
enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Client {
    /// # Errors
    ///
    /// When the token cannot be read, or the address is none.
    pub(crate) fn new(address: &str, token_file: Option<&Path>, timeout: Duration) -> Result<Client> {
        let read = |path: &Path| {
            let token =
                fs::read_to_string(path).map_err(|source| Error::TokenFile { path: path.to_owned(), source })?;
            Ok::<_, Error>(token.trim().to_owned())
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("preload-ctl/", env!("CARGO_PKG_VERSION")));
        Ok(Client {
            agent: config.build().into(),
            address: parse_address(address)?,
            token: token_file.map(read).transpose()?,
            timeout,
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How long a command may wait for its end.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::Get, path, None)
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.send(Method::Post, path, Some(body))
    }

    pub(crate) fn put(&self, path: &str, body: Value) -> Result<Value> {
        self.send(Method::Put, path, Some(body))
    }

    pub(crate) fn delete(&self, path: &str, body: Value) -> Result<Value> {
        self.send(Method::Delete, path, Some(body))
    }

    /// What it does takes its time: the node is told how much it has.
    pub(crate) fn post_and_wait(&self, path: &str, mut body: Value) -> Result<Value> {
        body["timeout"] = json!(format!("{}ms", self.timeout.as_millis()));
        self.post(path, body)
    }

    /// Reads an answer of a node.
    pub(crate) fn parse<T: DeserializeOwned>(&self, answer: &Value) -> Result<T> {
        T::deserialize(answer).map_err(|error| self.no_node(error.to_string()))
    }

    fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("http://{}{path}", self.address);
        let waited = self.timeout + GRACE;
        let authorization = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let failed = |error| self.failed(error, waited);
        let sent = match method {
            Method::Get => {
                let request = self.agent.get(url).config().timeout_global(Some(waited)).build();
                match authorization {
                    Some(authorization) => request.header("Authorization", authorization).call(),
                    None => request.call(),
                }
            }
            Method::Post | Method::Put | Method::Delete => {
                let request = match method {
                    Method::Put => self.agent.put(url),
                    Method::Delete => self.agent.delete(url).force_send_body(),
                    Method::Get | Method::Post => self.agent.post(url),
                };
                let mut request = request.config().timeout_global(Some(waited)).build();
                if let Some(authorization) = authorization {
                    request = request.header("Authorization", authorization);
                }
                request.content_type("application/json").send(body.unwrap_or_default().to_string())
            }
        };
        let mut response = sent.map_err(failed)?;
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true).read_to_string();
        self.answer(&response, &text.map_err(failed)?)
    }

    fn answer(&self, response: &Response<Body>, text: &str) -> Result<Value> {
        let status = response.status();
        let parsed: serde_json::Result<Value> = serde_json::from_str(text);
        if status.is_success() {
            return parsed.map_err(|error| self.no_node(error.to_string()));
        }
        let body = parsed.unwrap_or_default();
        let (Some(code), Some(message)) = (body["error"]["code"].as_str(), body["error"]["message"].as_str()) else {
            return Err(self.no_node(format!("HTTP status {status}")));
        };
        Err(Error::Answer {
            address: self.address.clone(),
            status: status.as_u16(),
            code: code.to_owned(),
            message: message.to_owned(),
            operator: body["operator"].as_u64(),
        })
    }

    fn failed(&self, error: ureq::Error, waited: Duration) -> Error {
        let address = self.address.clone();
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect) => {
                Error::Unreachable { address, why: format!("no connection within {CONNECT_TIMEOUT:?}") }
            }
            ureq::Error::Timeout(_) => Error::NoAnswer { address, waited },
            ureq::Error::Protocol(error) => self.no_node(error.to_string()),
            ureq::Error::Io(error) => Error::Unreachable { address, why: error.to_string() },
            error => Error::Unreachable { address, why: error.to_string() },
        }
    }

    fn no_node(&self, what: String) -> Error {
        Error::NoNode { address: self.address.clone(), what }
    }
}

/// `host`, `host:port`, `[::1]:port`, with or without `http://`.
fn parse_address(text: &str) -> Result<String> {
    let refused = |why: &str| Err(Error::Usage(format!("--addr {text:?} {why}; expected HOST:PORT")));
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if address.starts_with("https:") {
        return refused("asks for TLS, which a node does not speak");
    }
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if address.is_empty() || !address.chars().all(is_host) {
        return refused("is no address");
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    if host.is_empty() || host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return refused("is no address");
    }
    match port.map(str::parse::<u16>) {
        None => Ok(format!("{host}:{DEFAULT_PORT}")),
        Some(Ok(port)) if port != 0 => Ok(format!("{host}:{port}")),
        Some(_) => refused("has no valid port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (text, address) in [
            ("127.0.0.1:1", Some("127.0.0.1:1")),
            ("http://localhost:20180/", Some("localhost:20180")),
            ("node-1", Some("node-1:20180")),
            ("[::1]", Some("[::1]:20180")),
            ("[::1]:7", Some("[::1]:7")),
            ("::1", None),
            ("", None),
            (":1", None),
            ("a:0", None),
            ("a:70000", None),
            ("a/b", None),
            ("user@host:1", None),
            ("https://a:1", None),
        ] {
            assert_eq!(parse_address(text).ok().as_deref(), address, "{text}");
        }
    }
}
