//! The last minutes of the stores, second by second.
//!
//! # What it owns
//! A ring of points.
//!
//! # How it works
//! The node's housekeeper adds a point a second; the page draws them.
//!
//! # Invariants
//! At most [`POINTS_MAX`] points are kept.
//!
//! # What it must not do
//! Ask a store: it is given what others know.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Serialize;
use time::OffsetDateTime;

use crate::events::rfc3339_millis;

/// 15 minutes.
pub const POINTS_MAX: usize = 900;

#[derive(Clone, Debug, Serialize)]
pub struct Point {
    #[serde(serialize_with = "rfc3339_millis")]
    pub time: OffsetDateTime,
    pub stores: Vec<StorePoint>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StorePoint {
    pub store_id: u64,
    pub cache_used_bytes: usize,
    /// Since the start.
    pub hits: u64,
    pub misses: u64,
    pub leaders: usize,
    pub regions_active: usize,
    pub warm_p50_ms: Option<u64>,
}

#[derive(Default)]
pub struct History(Mutex<VecDeque<Point>>);

impl History {
    pub fn push(&self, point: Point) {
        let mut points = self.0.lock();
        if points.len() == POINTS_MAX {
            points.pop_front();
        }
        points.push_back(point);
    }

    pub fn points(&self) -> Vec<Point> {
        self.0.lock().iter().cloned().collect()
    }
}
