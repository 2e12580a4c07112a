//! The HTTP interface of a node; docs/http-api.md is its contract.
//!
//! # What it owns
//! The listener and its connections, a runtime of its own, and the endpoints.
//!
//! # How it works
//! 1. [`listener`] takes connections in, a bounded number at a time, and gives each so much time.
//! 2. [`access`] decides whether a request may be served: by host, origin, token and content type.
//! 3. A handler asks the node. Views of the whole node are collected at most by one request at a time ([`views`]).
//!
//! # Invariants
//! - Whatever clients do, memory is bounded: by the number of connections, and the size of their requests and answers.
//! - The runtime has two threads, and a few more for what blocks; none of the stores' threads waits for a client.
//!
//! # What it must not do
//! Be needed: a node whose status server is stuck goes on.

mod access;
mod body;
mod configuration;
mod endpoints;
mod error;
mod failpoints;
mod keys;
mod listener;
mod operators;
mod pins;
mod room;
mod status;
mod views;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

pub use self::endpoints::ENDPOINTS;
use self::{access::Access, room::Room, views::Views};
use crate::{engine::DiskEngine, node::Node};

/// Threads that serve requests.
const THREADS: usize = 2;
/// Threads that read engines and ask stores on behalf of requests; more requests than that wait.
const BLOCKING_THREADS: usize = 8;

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// `/` or `/name`.
    pub path: &'static str,
    pub content_type: &'static str,
    pub content: &'static str,
}

/// Why the status server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address} (server.status-addr)")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot read {} (server.token-file)", .path.display())]
    Token { path: std::path::PathBuf, source: io::Error },
    #[error("{} (server.token-file) holds {found} characters, at least {least} are needed", .path.display())]
    ShortToken { path: std::path::PathBuf, found: usize, least: usize },
    #[error("server.status-addr = {0} can be reached by others: set server.token-file, or choose a loopback address")]
    NoToken(SocketAddr),
    #[error("cannot start the status server's threads")]
    Runtime(#[source] io::Error),
}

/// What handlers share.
pub(crate) struct App<D: DiskEngine> {
    node: Arc<Node<D>>,
    address: SocketAddr,
    access: Access,
    views: Views,
    room: Room,
    assets: &'static [Asset],
}

type SharedApp<D> = Arc<App<D>>;

/// A status server that runs. Dropping it ends its connections.
pub struct StatusServer {
    address: SocketAddr,
    /// `None` once stopped.
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
}

impl StatusServer {
    /// Starts to serve `node`, with the page in `assets`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start<D: DiskEngine>(node: Arc<Node<D>>, assets: &'static [Asset]) -> Result<Self, StartError> {
        let config = node.config().server.clone();
        let access = Access::new(&config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("status-server")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let listen = |source| StartError::Listen { address: config.status_addr, source };
        let listener = runtime.block_on(TcpListener::bind(config.status_addr)).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let room = Room::new(&config);
        let app = Arc::new(App { node, address, access, views: Views::default(), room, assets });
        let (stop, stopped) = watch::channel(false);
        runtime.spawn(listener::serve(listener, endpoints::router(app), config, stopped));
        Ok(Self { address, runtime: Some(runtime), stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new connections, and waits for the requests that are being served, at most for `timeout`.
    pub fn stop(mut self, timeout: Duration) {
        let Some(runtime) = self.runtime.take() else { return };
        // Fails only when the listener has ended by itself.
        let _ = self.stop.send(true);
        // The listener holds a receiver until the last connection has ended.
        let _ = runtime.block_on(async { tokio::time::timeout(timeout, self.stop.closed()).await });
        runtime.shutdown_timeout(Duration::from_millis(100));
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
