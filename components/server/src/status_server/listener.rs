//! Connections.
//!
//! # What it owns
//! The sockets, and the limits on what a client may take of time and memory.
//!
//! # How it works
//! A connection is accepted when there is a permit for it; until then it waits in the system's queue. Its request line and
//! headers have to arrive within `server.client-timeout`, and so has the next request on it. A client that does not
//! take in its answer for so long is cut off.
//!
//! # Invariants
//! There are at most `server.max-connections` connections, each with buffers of a fixed size.
//!
//! # What it must not do
//! Read a body: whoever needs it does, with a limit, see [`super::body`].

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tikv_util::{debug, warn};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time,
};
use tokio_io_timeout::TimeoutStream;

use crate::{config::ServerSection, metrics::METRICS};

/// What is read of a request before its end was seen: all its headers have to fit.
const BUFFER_BYTES: usize = 32 << 10;
const HEADERS_MAX: usize = 64;

/// After the system has refused to accept: too many open files pass.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Takes connections in until `stop` turns true; returns when the last one has ended.
pub(super) async fn serve(listener: TcpListener, router: Router, config: ServerSection, stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(config.max_connections));
    let mut stopped = stop.clone();
    loop {
        // It is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping(&mut stopped) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), config.client_timeout.0, stop.clone());
                tokio::spawn(async move {
                    METRICS.connections.inc();
                    connection.await;
                    METRICS.connections.dec();
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("cannot accept a connection to the status server"; "err" => %error);
                time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

/// Returns when the server is to stop, or is gone.
async fn stopping(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(stream: TcpStream, router: Router, timeout: Duration, mut stop: watch::Receiver<bool>) {
    // Answers are small, and somebody waits for each of them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(timeout));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(timeout).max_buf_size(BUFFER_BYTES).max_headers(HEADERS_MAX);
    let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopping(&mut stop) => {
            // The request that is being served gets its answer.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        debug!("connection to the status server ended"; "err" => %error);
    }
}
