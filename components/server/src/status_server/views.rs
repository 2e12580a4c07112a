//! Views of the node, shared by the requests that want one.
//!
//! # How it works
//! One request at a time collects a view. Those that came before it began get the same one; so a view is never older than
//! the request that it answers. Between two collections there is a pause of many times what one takes.
//!
//! # Invariants
//! However many requests there are, the stores are asked by one of them at a time, for a small part of their time.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, task, time, time::Instant};

use super::{
    SharedApp,
    error::{ApiError, ApiResult},
};
use crate::{engine::DiskEngine, view::View};

/// So many times what a collection takes passes until the next one begins: 5 % of a store's time at most.
const PAUSE: u32 = 20;
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Views(Mutex<Option<Collected>>);

struct Collected {
    began: Instant,
    /// No other one begins before.
    next: Instant,
    view: Arc<View>,
}

impl Views {
    /// A view that was collected after this was called.
    pub(super) async fn get<D: DiskEngine>(&self, app: &SharedApp<D>) -> ApiResult<Arc<View>> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(collected) = last.as_ref() {
            if collected.began >= asked {
                return Ok(collected.view.clone());
            }
            time::sleep_until(collected.next).await;
        }
        let began = Instant::now();
        let node = app.node.clone();
        let view = task::spawn_blocking(move || View::collect(&node)).await;
        let view = Arc::new(view.map_err(|_| ApiError::unavailable("the node is stopping"))?);
        let pause = (began.elapsed() * PAUSE).min(PAUSE_MAX);
        *last = Some(Collected { began, next: Instant::now() + pause, view: view.clone() });
        Ok(view)
    }
}
